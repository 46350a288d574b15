//! What a driver tells a planner in the middle of a run, and what it is answered: plain data, so that whoever carries it
//! (a simulated world, a task of the shell) needs to understand nothing of it.

use super::{
    path::Degraded,
    traffic::{Demand, Traffic},
    wishes::Wishes,
};
use crate::plan::Plan;
use droveway_fleet::{Bandwidth, Bytes, DirtyCurve, VmId};
use std::{collections::BTreeMap, time::Duration};

/// How a run stands when its driver asks whether to go on as planned.
#[derive(Debug, Clone, PartialEq)]
pub struct Situation {
    /// Names the question, so that a late answer is recognised.
    pub question: u64,
    /// The plan in force.
    pub plan: Plan,
    /// It is another tool's, as far as it is seen: that it can be bettered is news although nothing has changed.
    pub is_foreign: bool,
    /// Since the start of the run: deadlines count from it.
    pub elapsed: Duration,
    /// Why it is asked.
    pub trigger: String,
    /// Every VM of the run.
    pub vms: Vec<VmStanding>,
    /// What was seen of ports and VMs; `None`: nothing yet.
    pub traffic: Option<Traffic>,
    /// What VMs were taken to want when it was asked last: what was seen once may be hidden behind a stream now. Of VMs that
    /// it does not name what was measured before the run holds.
    pub demands: BTreeMap<VmId, Demand>,
    /// What both ports were taken to carry then; `None`: what was measured.
    pub capacity: Option<Bandwidth>,
    /// What streams had then, against what the model said.
    pub stream_ratio: f64,
    /// What is worse about the path than when the run began.
    pub path: Option<Degraded>,
    /// What an operator has asked for since the run began.
    pub wishes: Wishes,
    /// What of both the plan in force was weighed with already.
    pub weighed: (Option<Degraded>, Wishes),
}

/// How one VM's move stands.
#[derive(Debug, Clone, PartialEq)]
pub struct VmStanding {
    /// The VM.
    pub vm: VmId,
    /// Where its move is.
    pub standing: Standing,
    /// Its QEMUs were prepared for post-copy: that cannot be made up for once the target listens.
    pub may_postcopy: bool,
}

/// Where a move is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Standing {
    /// It has not started.
    Waiting,
    /// Memory is copied while the VM runs at the source.
    PreCopy(Passing),
    /// The VM is stopped and so much is still to be sent.
    Stopped {
        /// Bytes left.
        remaining: Bytes,
    },
    /// The VM runs at the target.
    PostCopy {
        /// Passes that had ended when it was switched.
        passes: u32,
        /// Sent.
        transferred: Bytes,
        /// Bytes left, as QEMU counts them.
        remaining: Bytes,
    },
    /// It has arrived.
    Moved,
    /// It stays at the source, or is on its way back.
    Stays,
}

/// A pre-copy under way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Passing {
    /// Passes that have ended.
    pub passes: u32,
    /// So long since the last one ended, or since the first one began.
    pub pass_time: Duration,
    /// Sent.
    pub transferred: Bytes,
    /// Bytes left of the pass, as QEMU counts them: in the first one pages of zeroes count, too.
    pub remaining: Bytes,
    /// What the last pass that ended found dirtied.
    pub dirtied: Option<Dirtied>,
}

/// What a pass found dirtied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirtied {
    /// How long it lasted.
    pub time: Duration,
    /// Bytes that were dirtied meanwhile.
    pub bytes: Bytes,
}

/// What is to be expected of a plan from now on: what a driver compares the run with.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prospects {
    /// By VM, as far as it has not ended.
    pub moves: BTreeMap<VmId, Expected>,
    /// The end of the last one, from the start of the run.
    pub end: Duration,
    /// What VMs want to send and receive, as it is planned with.
    pub demands: BTreeMap<VmId, Demand>,
    /// What both ports carry towards the target, as it is planned with.
    pub capacity: Bandwidth,
    /// What streams have against what the model would say of what was known before the run; zero: nothing is known.
    pub stream_ratio: f64,
    /// What is worse about the path, as it is planned with, and what operators have asked for.
    pub weighed: (Option<Degraded>, Wishes),
}

/// What is to be expected of one move. Times count from the start of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// Its start, or that of the pass that is under way.
    pub start: Duration,
    /// The pass that begins then.
    pub first_pass: u32,
    /// The ends of its passes, by number, the first being 1.
    pub pass_ends: BTreeMap<u32, Duration>,
    /// Its end.
    pub end: Duration,
    /// How its memory is dirtied while it moves.
    pub curve: DirtyCurve,
}

/// What a planner answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The question's.
    pub question: u64,
    /// What is to be done.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// What it is based on.
    pub inputs: String,
    /// What is to be done, in words.
    pub choice: String,
    /// What was second best.
    pub runner_up: Option<String>,
    /// By how much, seconds of the urgency's cost.
    pub margin: f64,
    /// How far it had to go to keep a deadline.
    pub rung: Rung,
    /// What is to be expected if nothing changes.
    pub prospects: Prospects,
}

/// Whether to go on.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// As planned.
    Stay,
    /// By this child of the plan.
    Change(Box<Change>),
}

/// A child of the plan in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// It; only of VMs whose moves have not ended.
    pub plan: Plan,
    /// What is to be expected of it.
    pub prospects: Prospects,
}

/// How far a planner had to go to keep a deadline: the gentlest step that keeps it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// No deadline is at risk.
    Calm,
    /// Streams that were held back for the applications' sake take what the ports give them.
    Pace,
    /// Order, concurrency, and as much of the ports as the urgency allows.
    Reservation,
    /// VMs go post-copy that would not have to.
    PostCopy,
    /// Guests that may not go post-copy are slowed down.
    Throttle,
    /// The plan in force keeps it if the forecast holds, and nothing that was found keeps it surely.
    Uncertain,
    /// Nothing that was found keeps it.
    Infeasible,
}

impl Rung {
    /// Whether streams take what the ports give them.
    pub(super) const fn lifts_ceilings(self) -> bool {
        match self {
            Rung::Calm | Rung::Uncertain => false,
            Rung::Pace | Rung::Reservation | Rung::PostCopy | Rung::Throttle | Rung::Infeasible => {
                true
            }
        }
    }

    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Rung::Calm => "no deadline at risk",
            Rung::Pace => "streams that are not held back keep the deadline",
            Rung::Reservation => "order, concurrency and reservation keep the deadline",
            Rung::PostCopy => "post-copy keeps the deadline",
            Rung::Throttle => "throttled guests keep the deadline",
            Rung::Uncertain => "the deadline is kept if the forecast holds",
            Rung::Infeasible => "nothing that was found keeps the deadline",
        }
    }
}
