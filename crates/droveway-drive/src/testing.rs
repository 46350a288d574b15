//! What tests of one VM, of a gang and of another tool's moves have in common.

use droveway_fleet::{RateLimit, Technique, VmId};
use droveway_plan::{Fallback, Move, StartRule, SwitchRule};
use std::time::Duration;

/// A VM's name by number.
pub(crate) fn name(index: usize) -> VmId {
    format!("vm{index}").parse().unwrap()
}

/// A move that goes as soon as there is room, over a port of 1 Gbit/s.
pub(crate) fn step(vm: VmId, technique: Technique, fallback: Fallback) -> Move {
    Move {
        vm,
        technique,
        start: StartRule::InWindow,
        fallback,
        switch: SwitchRule { after_pass: 1, stalled_ratio: 0.5 },
        max_passes: 6,
        bandwidth: RateLimit::Unlimited,
        postcopy_bandwidth: RateLimit::Unlimited,
        switchover_bandwidth: "941Mbit/s".parse().unwrap(),
        downtime_limit: Duration::from_millis(300),
        switchover_limit: Duration::from_secs(15),
        throttle: false,
        ladder: None,
    }
}
