//! The simulated world: the scenario's hosts, ports, VMs and traffic in miniature, in which the real drivers move VMs.
//!
//! What is simulated is what the driver cannot tell from the real thing: QEMUs that answer its actions with QEMU's replies,
//! events and delays (`qemu`), memory whose pages are dirtied and sent ([`Memory`]), ports that streams and applications
//! share as the model says ([`droveway_model::share`]), and faults. The drivers themselves run unchanged, and so does the
//! planner that a run asks when it leaves its forecast.
//!
//! [`FaultSchedule`] makes such a run from one number: a gang, how it is to move, and what goes wrong meanwhile; every law is
//! checked after every event ([`simulate_closely`]).
//!
//! Time jumps from event to event; between two events every rate is constant. Everything that is random comes from the
//! seed, so a run is its scenario, its plan and its seed.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod chance;
mod memory;
mod qemu;
mod schedule;
mod snapshot;
mod world;

pub use memory::Memory;
pub use schedule::{FaultSchedule, Ran, Timed};
pub use snapshot::snapshot;
pub use world::{
    Adapting, ApplicationLog, Broken, Fault, Left, Outcome, PortSample, SimError, Simulation,
    changes, simulate, simulate_closely,
};

use droveway_model::fluid::Constants;
use serde::{Deserialize, Serialize};

/// What the simulated hosts, guests and QEMUs are like.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Physics {
    /// What the model knows too; a calibration can be put in.
    pub constants: Constants,
    /// What an idle guest sends in a first pass: its kernel, its programs, their data.
    pub guest_bytes: f64,
    /// Memory that the guest's start used and gave back, unerased: a load's working set lies on some of it. Of five guests
    /// of 256 to 512 MiB with loads of 20 to 80 MiB, the share of the load that added nothing to what was sent was this over
    /// the guest's memory, within a fifth.
    pub reused_bytes: f64,
    /// Content at the very end of RAM.
    pub tail_bytes: f64,
    /// Pages of zeroes before it, in a guest without a load.
    pub hole_bytes: f64,
    /// Memory that an idle guest writes to again and again, and how often a second.
    pub idle_bytes: f64,
    /// Writes a second of each of those pages.
    pub idle_writes: f64,
    /// The state of a guest's devices.
    pub state_bytes: f64,
    /// How long QEMU takes to answer, at least and at most.
    pub answer_seconds: [f64; 2],
    /// How much of a stream's rate, a switch's time and a pass's dirtying is chance: relative standard deviation.
    pub noise: f64,
    /// Payload of a request's answer, bytes.
    pub request_bytes: f64,
    /// Wire bytes that a port counts for a byte of payload.
    pub wire_ratio: f64,
    /// The hosts' kernels can be asked for what their connections deliver.
    pub kernel_counts: bool,
    /// Heartbeats pass between the hosts; a firewall may hold them back.
    pub heartbeats: bool,
}

impl Default for Physics {
    /// The laboratory's guests on QEMU 10.0.2, measured: an idle one sends 116 MB whatever its size.
    fn default() -> Self {
        Physics {
            constants: Constants::PRIOR,
            guest_bytes: 116e6,
            reused_bytes: 160e6,
            tail_bytes: 17e6,
            hole_bytes: 48e6,
            idle_bytes: 1.5e6,
            idle_writes: 1.0,
            state_bytes: 2e5,
            answer_seconds: [0.000_5, 0.006],
            noise: 0.02,
            request_bytes: 1_100.0,
            wire_ratio: 1514.0 / 1448.0,
            kernel_counts: true,
            heartbeats: true,
        }
    }
}
