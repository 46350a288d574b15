//! What the drivers tell: the record of a run, from which progress, reports and journals are folded.

use droveway_fleet::{Bandwidth, Bytes, Timestamp, VmId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Waiting for its turn.
    Pending,
    /// Both QEMUs are being configured; the target begins to listen.
    Preparing,
    /// Could start now.
    Ready,
    /// Passes over memory; the VM runs at the source.
    PreCopy,
    /// The VM is stopped.
    Switchover,
    /// The VM runs at the target; its memory follows.
    PostCopy,
    /// Post-copy, and the path broke.
    PostCopyPaused,
    /// Post-copy's path is being renewed.
    Recovering,
    /// The VM runs at the target; that is confirmed and the source cleaned.
    Settling,
    /// The target is destroyed, the migration ended, the VM confirmed at the source.
    RollingBack,
    /// The VM is lost; its source is kept from running the old copy that it has.
    Halting,
    /// Over.
    Ended,
}

impl Phase {
    /// The name as written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Pending => "pending",
            Phase::Preparing => "preparing",
            Phase::Ready => "ready",
            Phase::PreCopy => "pre-copy",
            Phase::Switchover => "switchover",
            Phase::PostCopy => "post-copy",
            Phase::PostCopyPaused => "post-copy-paused",
            Phase::Recovering => "recovering",
            Phase::Settling => "settling",
            Phase::RollingBack => "rolling-back",
            Phase::Halting => "halting",
            Phase::Ended => "ended",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The VM is at the target.
    Completed,
    /// The VM is at the source, as before.
    RolledBack,
    /// The state is kept on both sides, but an operator must say how to go on.
    NeedsRecovery,
    /// No copy of the VM can run.
    Lost,
    /// The VM was never touched.
    NotStarted,
}

/// Something that happened to one VM's attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: RecordKind,
}

/// The kinds of records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RecordKind {
    /// The attempt changed its phase.
    Entered(Phase),
    /// A pass begins, counted from 1.
    Pass(u32),
    /// Figures at the beginning of a pass: what the passes before sent, and what they left.
    Boundary {
        /// The pass that begins.
        pass: u32,
        /// Bytes sent so far.
        transferred: Bytes,
        /// Bytes left.
        remaining: Bytes,
    },
    /// The vCPUs stopped at the source.
    Stopped,
    /// The vCPUs run at the target.
    Resumed,
    /// The driver chose, on its own, among what the plan allows.
    Decided {
        /// Why.
        reason: String,
        /// What it saw.
        inputs: String,
        /// What it chose.
        choice: String,
        /// What it chose against.
        runner_up: Option<String>,
    },
    /// Something went otherwise than hoped, without ending the attempt.
    Warning(String),
    /// The attempt is over.
    Ended {
        /// How.
        outcome: Outcome,
        /// Why, unless it completed.
        reason: Option<String>,
    },
}

/// A choice about the gang as a whole, with what it was based on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// When.
    pub at: Timestamp,
    /// About which VM, if it is about one.
    pub vm: Option<VmId>,
    /// Why.
    pub reason: String,
    /// What it was based on.
    pub inputs: String,
    /// What was chosen.
    pub choice: String,
    /// What was second best.
    pub runner_up: Option<String>,
    /// By how much, seconds of the urgency's cost.
    pub margin: Option<f64>,
    /// The plan was changed by it.
    pub adopted: bool,
}

/// What an attempt has achieved so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The pass that is under way, from 1; 0 before the first.
    pub pass: u32,
    /// Bytes sent.
    pub transferred: Bytes,
    /// Bytes that had to move, each page once: what the first pass sent, or all if there was no second.
    pub needed: Bytes,
    /// Bytes left.
    pub remaining: Bytes,
    /// Memory in all.
    pub total: Bytes,
    /// The stream's rate.
    pub rate: Bandwidth,
    /// The dirty rate.
    pub dirty_rate: Bandwidth,
    /// Pages that the guest waited for.
    pub postcopy_requests: u64,
    /// What QEMU calls downtime.
    pub qemu_downtime: Option<std::time::Duration>,
}
