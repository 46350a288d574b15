//! What commands take and give, in our units.

mod capability;
mod dirty;
mod machine;
mod migration;
mod parameters;
mod wire;

pub use capability::{Capabilities, Capability};
pub use dirty::{DirtyRate, DirtyRateMode, DirtyRateStatus, DirtySampling};
pub use machine::{
    Accelerator, BlockDevice, BlockMedium, MachineFacts, RunState, Status, YankInstance,
};
pub use migration::{MigrationInfo, MigrationStatus, RamInfo};
pub use parameters::{MigrationParameters, SwitchoverBandwidth};

pub(crate) use dirty::WireDirtyRate;
pub(crate) use machine::{WireBlockDevice, WireMemory, WireYank};
pub(crate) use migration::WireMigrationInfo;
pub(crate) use parameters::WireParameters;
