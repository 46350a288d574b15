//! The one clock of a run: `CLOCK_MONOTONIC` of this machine, the same that the lab's logs carry.

use droveway_fleet::Timestamp;
use std::time::Instant;

pub(crate) fn now() -> Timestamp {
    droveway_host::features::monotonic_now()
}

/// The time of an `Instant` that lies in the past.
pub(crate) fn at(instant: Instant) -> Timestamp {
    now() - instant.elapsed()
}
