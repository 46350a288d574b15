//! Our own QMP client: framing, ids, out-of-band execution, time-outs, events, and the typed subset a migration needs.
//!
//! ```text
//!  Client (Clone) --call--> lane permit --> outbox --> one task --> socket --> QEMU
//!     ^                                                  |
//!     +-------- reply, matched by id <-- FrameDecoder <--+--> Notice --> Subscription (bounded, counts what it lost)
//! ```
//!
//! Whom it serves: the shell that turns a driver's actions into QMP commands, and the lab.
//!
//! - [`Client`] connects, negotiates (`oob` whenever it is offered) and runs commands; [`Subscription`] receives [`Notice`]s.
//! - [`Schema`] says what this QEMU can do. Distributions backport, so a version number is kept for reports only.
//! - QEMU's units (bytes/s, ms, Mbit/s, MiB/s, pages) end here: what leaves is [`Bytes`](droveway_fleet::Bytes),
//!   [`Bandwidth`](droveway_fleet::Bandwidth), [`RateLimit`](droveway_fleet::RateLimit) and [`Duration`](std::time::Duration).
//! - The unknown is carried, never fatal: unfamiliar events, statuses, capabilities and error classes keep their text.
//! - Every queue, retry, wait and size has a named bound in [`bounds`].
//!
//! What it deliberately does not do: it doesn't reconnect (a new connection may meet another QEMU; the owner decides), doesn't
//! retry commands, doesn't start QEMU, doesn't interpret a migration (that is the driver's work), and doesn't cover the
//! whole schema: [`Client::execute`] takes any command with any serde type.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod address;
pub mod bounds;
mod client;
mod codec;
mod error;
mod event;
mod open_enum;
mod schema;
mod types;
mod wire;

pub use address::{AddressError, MigrationUri, QmpAddress};
pub use client::{Client, Subscription};
pub use codec::{Frame, FrameDecoder, FrameError};
pub use error::{Closed, Denial, ErrorClass, GreetingError, QmpError};
pub use event::{Event, EventRecord, Notice, ShutdownCause};
pub use schema::{Schema, SchemaError};
pub use types::{
    Accelerator, BlockDevice, BlockMedium, Capabilities, Capability, DirtyRate, DirtyRateMode,
    DirtyRateStatus, DirtySampling, MachineFacts, MigrationInfo, MigrationParameters,
    MigrationStatus, RamInfo, RunState, Status, SwitchoverBandwidth, YankInstance,
};
pub use wire::{ErrorBody, Greeting, Incoming, QemuVersion};
