//! What one Linux host can be asked: the counters of its links, who talks to whom, its TCP connections and paths, its network
//! namespace, its QEMU processes with their taps and memory, its features.
//!
//! A shell crate: it turns questions into system calls and answers into data, and decides nothing. It takes no part in
//! planning and speaks no QMP (`droveway-qmp` does).
#![warn(missing_docs)]

pub mod counters;
mod dump;
pub mod features;
pub mod guest_memory;
pub mod heartbeat;
pub mod links;
pub mod matrix;
pub mod netns;
pub mod path;
pub mod process;
pub mod qemu;
pub mod resources;
pub mod shaping;
pub mod sockets;
pub mod taps;
mod tc;
pub mod tcp_info;

pub use counters::{Counters, PortCounters};
pub use netns::{Netns, NetnsError};
