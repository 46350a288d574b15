//! What an operator may ask of a run that is under way, and what is answered. Decided at once, from state alone, by
//! [`GangDriver::operate`](crate::GangDriver::operate).

use crate::record::Phase;
use droveway_fleet::{RateLimit, Urgency, VmId};
use std::{fmt, time::Duration};
use thiserror::Error;

/// A request. Without a VM it is about every VM of the run whose move has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorRequest {
    /// Streams are no faster than this: in pre-copy, and post-copy's background stream. What the plan itself holds back after
    /// a switch stays held back.
    SetBandwidth {
        /// Whose.
        vm: Option<VmId>,
        /// The ceiling.
        limit: RateLimit,
    },
    /// VMs stand still for no longer than this. The gang's limit leaves stricter ones that VMs have of their own.
    SetMaxDowntime {
        /// Whose.
        vm: Option<VmId>,
        /// The limit.
        limit: Duration,
    },
    /// The last VM, or that one, has to have arrived by then.
    SetDeadline {
        /// Whose.
        vm: Option<VmId>,
        /// From the start of the run; `None`: there is none any more.
        deadline: Option<Duration>,
    },
    /// How much the move matters beside the applications.
    SetUrgency(Urgency),
    /// It stays at the source, with what else can still stay there.
    Cancel {
        /// Who.
        vm: Option<VmId>,
    },
    /// It switches to post-copy now.
    Switch {
        /// Who.
        vm: VmId,
    },
    /// The broken path of its post-copy is tried at once, and waited for as long as if it had just broken.
    Recover {
        /// Who.
        vm: VmId,
    },
}

impl OperatorRequest {
    /// The VM that it is about; `None`: all.
    #[must_use]
    pub const fn vm(&self) -> Option<&VmId> {
        match self {
            OperatorRequest::SetBandwidth { vm, .. }
            | OperatorRequest::SetMaxDowntime { vm, .. }
            | OperatorRequest::SetDeadline { vm, .. }
            | OperatorRequest::Cancel { vm } => vm.as_ref(),
            OperatorRequest::Switch { vm } | OperatorRequest::Recover { vm } => Some(vm),
            OperatorRequest::SetUrgency(_) => None,
        }
    }
}

impl fmt::Display for OperatorRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = |vm: &Option<VmId>| vm.as_ref().map_or(String::new(), |vm| format!(" of {vm}"));
        match self {
            OperatorRequest::SetBandwidth { vm, limit } => {
                write!(f, "bandwidth{} {limit}", whose(vm))
            }
            OperatorRequest::SetMaxDowntime { vm, limit } => {
                write!(f, "max-downtime{} {} ms", whose(vm), limit.as_millis())
            }
            OperatorRequest::SetDeadline { vm, deadline: Some(at) } => {
                write!(f, "deadline{} {} s", whose(vm), at.as_secs_f64())
            }
            OperatorRequest::SetDeadline { vm, deadline: None } => {
                write!(f, "no deadline{}", whose(vm))
            }
            OperatorRequest::SetUrgency(urgency) => write!(f, "urgency {urgency}"),
            OperatorRequest::Cancel { vm: Some(vm) } => write!(f, "cancel {vm}"),
            OperatorRequest::Cancel { vm: None } => f.write_str("cancel all"),
            OperatorRequest::Switch { vm } => write!(f, "switch {vm} to post-copy"),
            OperatorRequest::Recover { vm } => write!(f, "recover {vm}"),
        }
    }
}

/// A request that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// What was done, in words.
    pub choice: String,
    /// The VMs that it concerns.
    pub vms: Vec<VmId>,
    /// VMs that a cancel came too late for: they will complete.
    pub past_return: Vec<VmId>,
    /// A planner will be asked whether the rest is to go another way now.
    pub replans: bool,
}

/// Why a request was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The run does not move that VM.
    #[error("VM '{0}' is not moved by this run")]
    NotInRun(VmId),
    /// Every move has ended, or is being undone.
    #[error("nothing is left to change: every move of this run has ended or is ending")]
    RunOver,
    /// That VM's move has ended.
    #[error("the move of VM '{0}' has ended already")]
    Over(VmId),
    /// That VM's move is being undone, or only confirmed.
    #[error("the move of VM '{0}' is ending: there is nothing left to change")]
    Ending(VmId),
    /// Its state is at the target, or going there.
    #[error("{} past the point of return: the only way is forward", list(.0))]
    PastReturn(Vec<VmId>),
    /// The plan does not permit post-copy, so that its QEMUs were not prepared for it.
    #[error(
        "VM '{0}' was not set up for post-copy: its plan forbids it, and it cannot be made up for while the VM moves"
    )]
    PostcopyForbidden(VmId),
    /// It does not move yet.
    #[error("VM '{0}' does not move yet: there is nothing to switch")]
    NotMigrating(VmId),
    /// It was told to, or runs at the target.
    #[error("VM '{0}' was switched to post-copy already")]
    AlreadySwitched(VmId),
    /// Its memory is not split, or its path is there.
    #[error("VM '{vm}' needs no recovery: its move is in {phase}")]
    NotBroken {
        /// Who.
        vm: VmId,
        /// Where it is.
        phase: Phase,
    },
    /// Its recovery was given up.
    #[error(
        "VM '{0}' was given up by this run: when the run has ended, `droveway recover {0}` goes on with it"
    )]
    GivenUp(VmId),
    /// It stands still for its switchover.
    #[error("VM '{0}' is being handed over to the target already")]
    SwitchingOver(VmId),
    /// A rate of nothing would never end.
    #[error("a stream of no bandwidth never ends: cancel the move instead")]
    NoBandwidth,
    /// No VM moves without standing still.
    #[error("a downtime of nothing cannot be kept: use post-copy for the shortest one")]
    NoDowntime,
    /// More than QEMU takes.
    #[error("a downtime of more than {} s cannot be set", .0.as_secs())]
    DowntimeTooLong(Duration),
    /// It stands still while all of its memory moves.
    #[error("VM '{0}' moves by stop-and-copy, whose downtime has no limit")]
    NoDowntimeLimit(VmId),
    /// Its switchover has begun.
    #[error("VM '{0}' stands still or runs at the target already: its downtime is decided")]
    DowntimeDecided(VmId),
    /// That time has passed.
    #[error("a deadline of {deadline:.1?} has passed: the run began {elapsed:.1?} ago")]
    DeadlinePassed {
        /// What was asked for, from the start of the run.
        deadline: Duration,
        /// How long ago it started.
        elapsed: Duration,
    },
}

fn list(vms: &[VmId]) -> String {
    let names: Vec<_> = vms.iter().map(|vm| format!("'{vm}'")).collect();
    let (noun, verb) = if vms.len() == 1 { ("VM", "is") } else { ("VMs", "are") };
    format!("{noun} {} {verb}", names.join(", "))
}
