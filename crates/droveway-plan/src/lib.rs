//! Plans: per VM a technique, limits and a fallback; for the gang an order and how many move at once. A policy turns what
//! is known and what was asked for into an immutable [`Plan`]; [`check`] says which invariants one breaks.
//!
//! The plan leaves the driver nothing to choose beyond the contingencies that it names: the [`Fallback`] of a VM whose
//! pre-copy does not converge, and the [`SwitchRule`] of a hybrid.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod adaptive;
pub mod check;
pub mod document;
pub mod explain;
pub mod habits;
mod plan;
pub mod play;
pub mod policy;
pub mod published;
pub mod replan;
pub mod reserve;
mod rules;
pub mod schema;
pub mod search;
mod window;

pub use adaptive::{Known, Reasoning};
pub use check::Violation;
pub use plan::{
    Direction, EXPOSURE_MAX, Fallback, HYBRID_DOWNTIME, Move, Plan, Reservation, SNAPSHOT_MAX_AGE,
    StartRule, SwitchRule, Turns,
};
pub use policy::{Chosen, GangFacts, Made, Note, PolicyError, VmFacts};
