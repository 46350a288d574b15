//! Real QEMU VMs move between real network namespaces. One test at a time: they share the machine's two cores, and what
//! they check includes time-outs.
//!
//! `cargo xtask test` gives them the guest image (`DROVEWAY_GUEST_IMAGE`). Where namespaces or QEMU are impossible they say
//! `skip` with the reason; with `DROVEWAY_REQUIRE_LAB=1` that is a failure.

mod adopt;
mod bench;
mod changes;
mod command_line;
mod faults;
mod forecasts;
mod harness;
mod memcached;
mod memory;
mod moves;
mod network;
mod observe;
mod plans;
mod recovery;
mod shadow;
