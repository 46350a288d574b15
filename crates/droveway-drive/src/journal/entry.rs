//! What is journalled.

use crate::{
    Action, ActionError, ActionId, Decision, MigrationSample, QemuEvent, RecordKind, Reply,
    Settings, Side,
};
use droveway_fleet::{HostId, Timestamp, VmId, report::Reservation};
use droveway_plan::Plan;
use serde::{Deserialize, Serialize};

/// What is known of a run when it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunHeader {
    /// Its name, unique in the journal.
    pub id: String,
    /// The fleet that it moves VMs of.
    pub fleet: String,
    /// `drain`, `migrate` or `adopt`.
    pub verb: String,
    /// The host that is left.
    pub source: HostId,
    /// The host that is gone to.
    pub target: HostId,
    /// The policy, as it was asked for.
    pub policy: String,
    /// When it was asked for, RFC 3339.
    pub started_at: String,
    /// The same on the controller's monotonic clock, which all entries carry.
    pub asked_at: Timestamp,
    /// Names the boot of the controller's machine: monotonic times of another one mean nothing.
    pub boot_id: String,
    /// The controller's process.
    pub pid: u32,
}

/// An entry and when it was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    /// When, on the controller's monotonic clock.
    pub at: Timestamp,
    /// What.
    pub entry: Entry,
}

/// One thing that happened in a run. Replayed in order they give the run's state: [`super::RunState`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Entry {
    /// A plan is taken up: the first, or a child of the one in force.
    Plan {
        /// It.
        plan: Box<Plan>,
    },
    /// A target is about to be started for a VM. The process carries the run's name, so that whoever finds it knows whose it is.
    Launching {
        /// The VM.
        vm: VmId,
        /// Where.
        host: HostId,
        /// The QMP socket that it will have, by which its process is found.
        socket: String,
    },
    /// An attempt to move a VM is about to be prepared.
    Attempt {
        /// The VM.
        vm: VmId,
        /// Whether its vCPUs ran.
        was_running: bool,
        /// Whether its target was started for this run.
        launched: bool,
        /// What its source's QEMU was set to, if somebody asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Box<Settings>>,
    },
    /// An action is about to be performed.
    Action {
        /// Of which VM's driver.
        vm: VmId,
        /// Names it in its reply.
        id: ActionId,
        /// It.
        action: Action,
    },
    /// What came of it. Figures are entries of their own.
    Reply {
        /// Of which VM's driver.
        vm: VmId,
        /// The action's.
        id: ActionId,
        /// How it went.
        result: Result<Reply, ActionError>,
    },
    /// A QEMU told something.
    Event {
        /// Of which VM.
        vm: VmId,
        /// Which of its QEMUs.
        side: Side,
        /// What.
        event: QemuEvent,
    },
    /// A driver told something.
    Record {
        /// Of which VM.
        vm: VmId,
        /// What.
        record: RecordKind,
    },
    /// A migration's figures. Of a run only the latest are kept.
    Sample {
        /// Of which VM.
        vm: VmId,
        /// From which of its QEMUs.
        side: Side,
        /// They.
        sample: Box<MigrationSample>,
    },
    /// Something was decided about the gang as a whole.
    Decision {
        /// It.
        decision: Decision,
    },
    /// Something was done to the hosts' ports.
    Network {
        /// What.
        change: NetworkChange,
    },
    /// An operator wanted something.
    Operator {
        /// What, in words.
        request: String,
        /// Whether it was accepted.
        accepted: bool,
        /// What was answered.
        answer: String,
    },
    /// Something worth telling about the run as a whole.
    Remark {
        /// It.
        text: String,
    },
    /// Every VM is prepared; the first may start.
    Began,
    /// The operator interrupted the run.
    Cancelled,
    /// Another controller took over what a killed one left.
    Adopted {
        /// Its process.
        pid: u32,
    },
    /// Entries that could not be written are missing here.
    Missing {
        /// So many.
        entries: u64,
    },
    /// Every attempt has ended.
    Ended {
        /// How.
        end: Ended,
    },
}

impl Entry {
    /// The kind's name, as it is written.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Entry::Plan { .. } => "plan",
            Entry::Launching { .. } => "launching",
            Entry::Attempt { .. } => "attempt",
            Entry::Action { .. } => "action",
            Entry::Reply { .. } => "reply",
            Entry::Event { .. } => "event",
            Entry::Record { .. } => "record",
            Entry::Sample { .. } => "sample",
            Entry::Decision { .. } => "decision",
            Entry::Network { .. } => "network",
            Entry::Operator { .. } => "operator",
            Entry::Remark { .. } => "remark",
            Entry::Began => "began",
            Entry::Cancelled => "cancelled",
            Entry::Adopted { .. } => "adopted",
            Entry::Missing { .. } => "missing",
            Entry::Ended { .. } => "ended",
        }
    }

    /// The VM that it is about, if it is about one.
    #[must_use]
    pub const fn vm(&self) -> Option<&VmId> {
        match self {
            Entry::Launching { vm, .. }
            | Entry::Attempt { vm, .. }
            | Entry::Action { vm, .. }
            | Entry::Reply { vm, .. }
            | Entry::Event { vm, .. }
            | Entry::Record { vm, .. }
            | Entry::Sample { vm, .. } => Some(vm),
            Entry::Decision { decision } => decision.vm.as_ref(),
            Entry::Plan { .. }
            | Entry::Network { .. }
            | Entry::Operator { .. }
            | Entry::Remark { .. }
            | Entry::Began
            | Entry::Cancelled
            | Entry::Adopted { .. }
            | Entry::Missing { .. }
            | Entry::Ended { .. } => None,
        }
    }
}

/// What was done to the hosts' ports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkChange {
    /// They hold this for the moves from now on.
    Holds(Vec<Reservation>),
    /// They are as they were before the run.
    PutBack,
    /// They could not be put back, for this reason.
    NotPutBack(String),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// The command's exit code.
    pub exit_code: u8,
    /// The folder of its report, if one was written.
    pub report: Option<String>,
}
