//! What a move will cost, before it starts. Physics and arithmetic, no I/O: dirty curves are fitted to what was measured
//! ([`fit`]), a technique's course follows from curve and bandwidth ([`technique`]), bandwidth follows from who else uses
//! which direction of which port ([`share`]), and any gang of moves is played forward through its events ([`fluid`]).
//!
//! Inside the formulas are `f64`s in bytes, bytes per second and seconds, as in the literature; typed units end at the
//! crate's boundary.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod calibration;
pub mod ensemble;
pub mod estimate;
pub mod fit;
pub mod fluid;
pub mod forecast;
pub mod gangs;
pub mod score;
pub mod share;
pub mod technique;
pub mod urgency;
pub mod world;
