//! What a run's journal says, and the state that it replays to. Data: `droveway-store` keeps it in a file, the simulator in
//! memory, and both are folded by the same [`RunState`], from which another controller takes over.

mod entry;
mod state;

pub use entry::{Ended, Entry, NetworkChange, RunHeader, Stamped};
pub use state::{Launching, OpenAction, RunState, VmState};
