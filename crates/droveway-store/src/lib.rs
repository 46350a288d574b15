//! The journal of runs: what was planned, asked, done, answered, decided and seen, in SQLite.
//!
//! ```text
//! run loop --Entry--> Writer (a thread) --> Store (SQL) --entries--> RunState (a fold) --> status, report, adopt
//!          \--Entry--> RunState (live: the same fold)
//! ```
//!
//! **Write-ahead.** The intent of every action is on file before the action is performed, and its reply after: who is killed
//! in between leaves a journal that names it. The files survive the death of the process at any instant; after a power cut
//! the last instants may be missing, but never the file's soundness (WAL, `synchronous=NORMAL`). That is enough: the journal
//! says what was meant, the QEMUs say what is.
//!
//! **Never in the way.** A VM is not lost for want of a journal: where the disk is full or slow, [`Writer`] keeps what could
//! not be written in memory, within a bound, tries again, and says so; the run goes on.
//!
//! **Bounded.** Samples are kept up to [`SAMPLES_MAX`] of a run, runs up to [`RUNS_MAX`] and [`BYTES_MAX`].
//!
//! SQL stays inside this crate.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod error;
mod schema;
mod store;
mod writer;

pub use droveway_drive::journal::{
    Ended, Entry, Launching, NetworkChange, OpenAction, RunHeader, RunState, Stamped, VmState,
};
pub use error::StoreError;
pub use schema::SCHEMA_VERSION;
pub use store::{BYTES_MAX, JournalledRun, RUNS_MAX, RunKey, RunSummary, SAMPLES_MAX, Store};
pub use writer::{BACKLOG_MAX, Health, PATIENCE, QUEUE_MAX, RETRY_EVERY, Writer};

#[cfg(test)]
mod tests;
