//! One VM alone at a constant bandwidth: what each technique takes, in closed recursions.
//!
//! The fluid model ([`crate::fluid`]) plays gangs whose bandwidth changes; here are the formulas of the literature, in their
//! bounded form, for one VM and one rate. They are the yardstick of the fluid model's tests, and quick answers.
//!
//! Bytes, seconds, bytes per second throughout. Nothing here loops without a bound, and finite inputs give finite results.

mod postcopy;
mod precopy;
mod reverse;

/// Rates below this count as this, so that even a starved stream has an end: bytes (or any other unit) per second.
const RATE_MIN: f64 = 1e-3;

pub use postcopy::{
    Brownout, HybridCourse, HybridInput, PostCopyCourse, PostCopyInput, Touch, brownout, hybrid,
    outage_after_switch, passes_before_switch, post_copy, waiting,
};
pub use precopy::{
    AutoConverge, PreCopyCourse, PreCopyInput, StopRule, pre_copy, standstill, stop_and_copy,
};
pub use reverse::{ACKNOWLEDGEMENT_RATIO, BUSY_RATIO, FaultService, REQUEST_BYTES, ReverseQueue};
