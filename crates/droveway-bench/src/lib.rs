//! Suites: which runs to make, in what order, what their reports mean, and how that is told.
//!
//! ```text
//! Suite (YAML) -> Resolved -> cells in seeded order  -- made by the shell -->  run reports
//!                                                                                |
//!    tables, figures, page  <-- comparisons, statistics  <-- results <-----------+
//! ```
//!
//! Pure: no clock, file or process. Whoever makes the runs (the `droveway` binary) reads and writes; chance is a seed of
//! the suite.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod cells;
pub mod compare;
pub mod faults;
pub mod figures;
pub mod gang;
pub mod influence;
pub mod page;
pub mod result;
pub mod stats;
pub mod suite;
pub mod tables;
pub mod targets;

pub use cells::{Cell, order};
pub use result::{Attempt, CellResult};
pub use suite::{Resolved, Suite};
