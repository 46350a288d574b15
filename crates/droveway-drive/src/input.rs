//! What the world tells the drivers.

use droveway_fleet::{Bandwidth, Bytes};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Which of the two QEMUs of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Side {
    /// The QEMU that the VM leaves.
    Source,
    /// The QEMU that it goes to.
    Target,
}

/// What a QEMU says of its migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MigrationStatus {
    /// None was started.
    None,
    /// Being set up.
    Setup,
    /// Pre-copy passes.
    Active,
    /// The VM is stopped; the device state moves.
    Device,
    /// The VM runs at the target; its memory follows.
    PostcopyActive,
    /// Post-copy, and the path broke.
    PostcopyPaused,
    /// Post-copy goes on over a new path.
    PostcopyRecover,
    /// Done.
    Completed,
    /// Given up by QEMU.
    Failed,
    /// Being cancelled.
    Cancelling,
    /// Cancelled.
    Cancelled,
    /// A status that this release does not know. Never fatal.
    Unknown(String),
}

impl MigrationStatus {
    /// True once the migration can neither move nor split the VM any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(
            self,
            MigrationStatus::None
                | MigrationStatus::Completed
                | MigrationStatus::Failed
                | MigrationStatus::Cancelled
        )
    }
}

/// What a QEMU says of its vCPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// They run.
    Running,
    /// Stopped by an operator, or not started yet.
    Paused,
    /// Waiting for an incoming migration.
    InMigrate,
    /// Stopped while the last of an outgoing migration is sent.
    FinishMigrate,
    /// Stopped after an outgoing migration.
    PostMigrate,
    /// Anything else. Never fatal.
    Other(String),
}

/// What happened to a QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum QemuEvent {
    /// `STOP`: no vCPU runs.
    Stopped,
    /// `RESUME`: the vCPUs run.
    Resumed,
    /// The migration's status changed.
    Status(MigrationStatus),
    /// A pass over memory begins, counted from 1.
    Pass(u32),
    /// The QEMU is gone: its connection closed.
    Gone,
}

/// What a QEMU says of its migration in figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MigrationSample {
    /// The migration's status.
    pub status: MigrationStatus,
    /// The vCPUs' state.
    pub run_state: RunState,
    /// Bytes sent so far.
    pub transferred: Bytes,
    /// Bytes of memory that are still to be sent.
    pub remaining: Bytes,
    /// Bytes of memory in all.
    pub total: Bytes,
    /// The stream's rate, as QEMU measured it last.
    pub rate: Bandwidth,
    /// The rate at which memory was dirtied, as QEMU measured it at the last pass.
    pub dirty_rate: Bandwidth,
    /// Pages that the guest waited for.
    pub postcopy_requests: u64,
    /// What QEMU calls downtime; known at the end.
    pub downtime: Option<Duration>,
    /// Why the migration failed, in QEMU's words.
    pub error: Option<String>,
}

impl MigrationSample {
    /// What a QEMU says before there are figures.
    #[must_use]
    pub fn without_figures(status: MigrationStatus, run_state: RunState) -> Self {
        MigrationSample {
            status,
            run_state,
            transferred: Bytes::ZERO,
            remaining: Bytes::ZERO,
            total: Bytes::ZERO,
            rate: Bandwidth::ZERO,
            dirty_rate: Bandwidth::ZERO,
            postcopy_requests: 0,
            downtime: None,
            error: None,
        }
    }
}
