//! What one Linux host can be asked: the counters of its port, its network namespace, its QEMU processes, its features.
//!
//! A shell crate: it turns questions into system calls and answers into data, and decides nothing. It takes no part in
//! planning and speaks no QMP (`droveway-qmp` does).
#![warn(missing_docs)]

pub mod counters;
pub mod features;
pub mod netns;
pub mod process;
pub mod qemu;

pub use counters::{Counters, PortCounters};
pub use netns::{Netns, NetnsError};
