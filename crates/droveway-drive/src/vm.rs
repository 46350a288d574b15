//! One attempt to move one VM: every decision between start and outcome.
//!
//! ```text
//! pending -> preparing | ended
//! preparing -> ready | rolling-back
//! ready -> pre-copy | rolling-back
//! pre-copy -> switchover | post-copy | rolling-back | ended
//! switchover -> post-copy | settling | rolling-back | ended
//! post-copy -> settling | post-copy-paused | rolling-back | halting | ended
//! post-copy-paused -> recovering | post-copy | settling | halting | ended
//! recovering -> post-copy | post-copy-paused | settling | halting | ended
//! settling -> rolling-back | halting | ended
//! rolling-back -> post-copy | settling | ended
//! halting -> settling | rolling-back | ended
//! ```
//! (A test compares this picture with [`TRANSITIONS`].)
//!
//! **Every technique is one path through it.** Pre-copy: QEMU stops the VM by itself once little enough is left.
//! Post-copy: the switch is asked for as soon as the stream exists. Hybrid: asked for at a pass boundary. Stop-and-copy:
//! pre-copy whose downtime limit is so long that QEMU stops the VM at once; so QEMU itself, not the controller, stops and
//! resumes it, and a controller that dies leaves no stopped VM behind.
//!
//! **Never two running copies.** The target resumes by itself once it has everything, so an attempt is undone in one order
//! only: first the target is destroyed and certainly gone, then the source gives up and runs again. After a post-copy
//! switch nothing is undone: the way is forward, or recovery.
//!
//! **Never the last copy.** What is known may be old, so both sides are asked before a target is destroyed: one that runs is
//! the VM, and the way is forward. A silent target is destroyed only if the source says that it still has the VM.
//!
//! **Never lost.** The source is destroyed only after the target said that its vCPUs run. Whatever cannot be confirmed
//! within its bound ends as [`Outcome::NeedsRecovery`], with both sides left as they are. And one that a fault destroyed all the same
//! does not come back as the old copy that its source has.
//!
//! Decisions are level-triggered: inputs update facts, then the state looks at all facts. The two QEMUs' events come over
//! two sockets, so their order means nothing.

mod adopt;
mod exposure;
mod halt;
mod ladder;
mod liveness;
mod recovery;
mod revise;
mod states;
mod undo;

use crate::{
    action::{Action, ActionError, ActionId, FailureClass, Limits, Reply, Settings},
    input::{MigrationSample, MigrationStatus, QemuEvent, RunState, Side},
    record::{Outcome, Phase, Progress, Record, RecordKind},
};
pub use adopt::{Inherited, Seen, Told};
use droveway_fleet::{Bandwidth, Bytes, RateLimit, Technique, Timestamp};
use droveway_plan::{Move, replan::Dirtied};
use ladder::Stepper;
use liveness::Liveness;
pub use liveness::{Beat, ConnectionSample};
pub use recovery::PATIENCE;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// The phases that may follow each phase.
pub const TRANSITIONS: &[(Phase, &[Phase])] = &[
    (Phase::Pending, &[Phase::Preparing, Phase::Ended]),
    (Phase::Preparing, &[Phase::Ready, Phase::RollingBack]),
    (Phase::Ready, &[Phase::PreCopy, Phase::RollingBack]),
    (Phase::PreCopy, &[Phase::Switchover, Phase::PostCopy, Phase::RollingBack, Phase::Ended]),
    (Phase::Switchover, &[Phase::PostCopy, Phase::Settling, Phase::RollingBack, Phase::Ended]),
    (
        Phase::PostCopy,
        &[Phase::Settling, Phase::PostCopyPaused, Phase::RollingBack, Phase::Halting, Phase::Ended],
    ),
    (
        Phase::PostCopyPaused,
        &[Phase::Recovering, Phase::PostCopy, Phase::Settling, Phase::Halting, Phase::Ended],
    ),
    (
        Phase::Recovering,
        &[Phase::PostCopy, Phase::PostCopyPaused, Phase::Settling, Phase::Halting, Phase::Ended],
    ),
    (Phase::Settling, &[Phase::RollingBack, Phase::Halting, Phase::Ended]),
    (Phase::RollingBack, &[Phase::PostCopy, Phase::Settling, Phase::Ended]),
    (Phase::Halting, &[Phase::Settling, Phase::RollingBack, Phase::Ended]),
    (Phase::Ended, &[]),
];

/// Configuring two QEMUs takes milliseconds; one that needs longer than this is stuck.
const PREPARE_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at a running migration: often enough for a progress bar, cheap for QEMU.
const SAMPLE_PERIOD: Duration = Duration::from_millis(200);
/// Between two looks while an end is awaited.
const CONFIRM_PERIOD: Duration = Duration::from_millis(50);
/// A stream that sends nothing for so long has lost its path: TCP itself would take some 15 minutes to say so (measured).
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// How long a VM may take to be confirmed at the target before that is reported instead.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// How long undoing may take: destroying a process and a cancel take milliseconds (22 ms measured with the link down).
const ROLLBACK_LIMIT: Duration = Duration::from_secs(30);
/// How long a source may take to be set to what it was set to before: two commands that take milliseconds, tried again a few times
/// where its monitor is slow.
const RESTORE_LIMIT: Duration = Duration::from_secs(10);
/// A cancel that had no effect for so long is followed by breaking the channel.
const CANCEL_PATIENCE: Duration = Duration::from_secs(2);
/// After a source died in post-copy, how long the target's word that it had everything may still be under way.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(1);
/// QEMU's own upper bound of `downtime-limit`: with it every remainder is small enough, and QEMU stops the VM at once.
pub(crate) const DOWNTIME_LIMIT_MAX: Duration = Duration::from_secs(2000);
/// The switchover bandwidth follows the measured rate only when that is off by more than this share: each change is a
/// command to QEMU. With 30 % VMs stood still for up to 420 ms where 300 ms were asked for (four at once, 8.4 MB/s each
/// instead of the planned 11.8).
const SWITCHOVER_RATE_TOLERANCE: f64 = 0.1;

#[derive(Debug, Clone, PartialEq)]
enum State {
    Pending,
    Preparing { configured: u8 },
    Ready { uri: String },
    PreCopy,
    Switchover,
    PostCopy,
    PostCopyPaused { attempts: u32, retry_at: Timestamp },
    Recovering { attempts: u32 },
    Settling { confirmed: bool },
    RollingBack { reason: String, step: Undo },
    Halting { reason: String, over_since: Option<Timestamp>, ran: bool },
    Ended { outcome: Outcome },
}

/// The steps of undoing, in their only safe order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    /// Both sides are asked whether the VM has moved after all; nothing was done yet.
    Ask { target: Asked, source: Asked },
    /// The target is being destroyed.
    Target,
    /// The source is giving up the migration.
    Source { since: Timestamp },
    /// The source's vCPUs are being confirmed.
    Confirm,
    /// The VM is at the source; what was set there for the move is being put back.
    Restore,
}

/// A side that was asked for its figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Its answer is awaited: to this action, not to one that was asked earlier.
    Awaited(ActionId),
    /// It answered.
    Said,
    /// It did not.
    Silent,
}

impl State {
    fn phase(&self) -> Phase {
        match self {
            State::Pending => Phase::Pending,
            State::Preparing { .. } => Phase::Preparing,
            State::Ready { .. } => Phase::Ready,
            State::PreCopy => Phase::PreCopy,
            State::Switchover => Phase::Switchover,
            State::PostCopy => Phase::PostCopy,
            State::PostCopyPaused { .. } => Phase::PostCopyPaused,
            State::Recovering { .. } => Phase::Recovering,
            State::Settling { .. } => Phase::Settling,
            State::RollingBack { .. } => Phase::RollingBack,
            State::Halting { .. } => Phase::Halting,
            State::Ended { .. } => Phase::Ended,
        }
    }
}

/// What is known of one of the two QEMUs.
#[derive(Debug, Clone, Default)]
struct Facts {
    status: Option<MigrationStatus>,
    run_state: Option<RunState>,
    gone: bool,
    /// When that was heard.
    gone_at: Option<Timestamp>,
    error: Option<String>,
}

impl Facts {
    fn is(&self, status: &MigrationStatus) -> bool {
        self.status.as_ref() == Some(status)
    }

    fn gave_up(&self) -> bool {
        self.is(&MigrationStatus::Failed) || self.is(&MigrationStatus::Cancelled)
    }
}

/// A wish of an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The VM shall stay at the source.
    Cancel,
    /// Switch to post-copy now.
    SwitchToPostcopy,
    /// Try at once to renew post-copy's broken path, and have patience anew.
    Recover,
}

/// Why a wish was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestDenied {
    /// The VM's state is already at the target, or moving there: the only way is forward.
    PastReturn,
    /// The attempt is over.
    Over,
    /// Nothing runs that could be switched.
    NotMigrating,
    /// The plan does not permit post-copy for this VM.
    PostcopyForbidden,
    /// Post-copy is not broken.
    NotBroken,
}

/// One attempt to move one VM. Makes every decision; performs none.
#[derive(Debug)]
pub struct VmDriver {
    plan: Move,
    /// Whether the VM's vCPUs ran before; one that was paused is to be paused afterwards too.
    was_running: bool,
    state: State,
    entered_at: Timestamp,
    source: Facts,
    target: Facts,
    /// The migration was asked for, so the source may hold one.
    started: bool,
    postcopy_asked: bool,
    /// Post-copy must not begin now: too many other VMs are exposed.
    postcopy_held: bool,
    /// Nor while another VM is being switched.
    switch_held: bool,
    /// It would have begun.
    postcopy_due: bool,
    /// The pass in which it was first held back because what is left would take too long.
    long_since: Option<u32>,
    /// The ceiling that the source's stream was given last.
    ceiling: RateLimit,
    /// The pass in which the source was asked for figures last, and the one of the last that it answered.
    asked_in_pass: u32,
    figures_of_pass: Option<u32>,
    /// When the switch was asked for.
    postcopy_asked_at: Option<Timestamp>,
    /// The state was, or may have been, split: never undone from here on.
    postcopied: bool,
    stopped_at: Option<Timestamp>,
    resumed_at: Option<Timestamp>,
    progress: Progress,
    last_boundary_remaining: Option<Bytes>,
    boundary_wanted: Option<u32>,
    last_growth: (Bytes, Timestamp),
    /// When the source's QEMU last said how far it is.
    sampled_at: Option<Timestamp>,
    /// Whether post-copy's path is dead.
    liveness: Liveness,
    /// Since when post-copy has been broken, or an operator asked to go on trying.
    broke_at: Option<Timestamp>,
    /// Another try is to be made without waiting for a sign that the path is there.
    try_blindly: bool,
    /// Somebody else says whose turn it is to be renewed.
    renewed_in_turn: bool,
    measured: Option<(Timestamp, Bytes, Bandwidth)>,
    switchover_bandwidth: Bandwidth,
    stepper: Option<Stepper>,
    /// Both QEMUs were prepared for post-copy: fixed once the target listens.
    postcopy_prepared: bool,
    /// What the source was set to before; `None`: nobody read it, so nothing is put back.
    before: Option<Settings>,
    /// What an operator has asked for: whatever rules or turns say later is bounded by it.
    asked_bandwidth: Option<RateLimit>,
    asked_downtime: Option<Duration>,
    /// The downtime limit that the source was given last.
    told_downtime: Duration,
    /// Its plan was changed while it could not be told; it is as soon as it can.
    revised_early: bool,
    /// The source is being told what another plan says; it does not start before.
    revised_at: Option<Timestamp>,
    /// When the pass that is under way began, how long the last one lasted, and what it found.
    pass_began: Timestamp,
    last_pass_time: Duration,
    dirtied: Option<Dirtied>,
    next_sample: Option<Timestamp>,
    next_id: u64,
    actions: VecDeque<(ActionId, Action)>,
    pending: BTreeMap<ActionId, Action>,
    records: VecDeque<Record>,
}

impl VmDriver {
    /// A driver of one move, and whether the VM's vCPUs run now.
    #[must_use]
    pub fn new(plan: Move, was_running: bool) -> Self {
        let switchover_bandwidth = plan.switchover_bandwidth;
        let stepper = Stepper::of(&plan);
        let ceiling = plan.bandwidth;
        VmDriver {
            plan,
            was_running,
            state: State::Pending,
            entered_at: Timestamp::ZERO,
            source: Facts::default(),
            target: Facts::default(),
            started: false,
            postcopy_asked: false,
            postcopy_held: false,
            switch_held: false,
            postcopy_due: false,
            long_since: None,
            ceiling,
            asked_in_pass: 0,
            figures_of_pass: None,
            postcopy_asked_at: None,
            postcopied: false,
            stopped_at: None,
            resumed_at: None,
            progress: Progress::default(),
            last_boundary_remaining: None,
            boundary_wanted: None,
            last_growth: (Bytes::ZERO, Timestamp::ZERO),
            sampled_at: None,
            liveness: Liveness::default(),
            broke_at: None,
            try_blindly: false,
            renewed_in_turn: false,
            measured: None,
            switchover_bandwidth,
            stepper,
            postcopy_prepared: false,
            before: None,
            asked_bandwidth: None,
            asked_downtime: None,
            told_downtime: Duration::ZERO,
            revised_early: false,
            revised_at: None,
            pass_began: Timestamp::ZERO,
            last_pass_time: Duration::ZERO,
            dirtied: None,
            next_sample: None,
            next_id: 0,
            actions: VecDeque::new(),
            pending: BTreeMap::new(),
            records: VecDeque::new(),
        }
    }

    /// What the source is set to, read before anything is changed there: put back if the VM stays.
    pub fn set_before(&mut self, before: Settings) {
        self.before = Some(before);
    }

    /// Configures both sides and lets the target listen. Only from [`Phase::Pending`].
    pub fn prepare(&mut self, now: Timestamp) {
        if self.state != State::Pending {
            return;
        }
        let limits = self.limits();
        let (postcopy, throttle) = (self.may_postcopy(), self.plan.throttle);
        self.postcopy_prepared = postcopy;
        self.enter(now, State::Preparing { configured: 0 });
        for side in [Side::Target, Side::Source] {
            self.act(Action::Configure { side, postcopy, throttle, limits });
        }
    }

    /// Starts the move. Only from [`Phase::Ready`].
    pub fn start(&mut self, now: Timestamp) {
        let State::Ready { uri } = &self.state else { return };
        let uri = uri.clone();
        self.started = true;
        self.last_growth = (Bytes::ZERO, now);
        self.pass_began = now;
        self.enter(now, State::PreCopy);
        self.act(Action::Migrate { uri });
        self.next_sample = Some(now + self.sample_period(SAMPLE_PERIOD));
    }

    /// Sets the ceiling of the pre-copy stream; nothing happens unless it runs.
    pub fn set_bandwidth(&mut self, limit: RateLimit) {
        if self.state == State::PreCopy && !self.postcopy_asked {
            let most = self.asked_bandwidth.unwrap_or(RateLimit::Unlimited);
            self.act(Action::SetBandwidth(limit.at_most(most)));
        }
    }

    /// An event of one of the two QEMUs.
    pub fn handle_event(&mut self, now: Timestamp, side: Side, event: QemuEvent) {
        match event {
            QemuEvent::Gone => self.note_gone(now, side),
            QemuEvent::Status(status) => self.facts(side).status = Some(status),
            QemuEvent::Stopped => {
                self.facts(side).run_state = Some(RunState::Paused);
                if side == Side::Source && self.is_moving() && self.stopped_at.is_none() {
                    self.stopped_at = Some(now);
                    self.record(now, RecordKind::Stopped);
                }
            }
            QemuEvent::Resumed => {
                self.facts(side).run_state = Some(RunState::Running);
                if side == Side::Target {
                    self.note_resumed(now);
                }
            }
            QemuEvent::Pass(pass) => {
                if side == Side::Source && self.state == State::PreCopy {
                    self.on_pass(now, pass);
                }
            }
        }
        self.evaluate(now);
    }

    /// The answer to an action. One that was not asked for, or was answered before, is dropped.
    pub fn handle_reply(
        &mut self,
        now: Timestamp,
        id: ActionId,
        reply: Result<Reply, ActionError>,
    ) {
        let Some(action) = self.pending.remove(&id) else { return };
        let answered = reply.is_ok();
        match reply {
            Ok(Reply::Sample(sample)) => {
                if let Action::Sample(side) = action {
                    if side == Side::Source {
                        self.figures_of_pass = Some(self.asked_in_pass);
                    }
                    self.on_sample(now, side, &sample);
                }
            }
            Ok(reply) => self.on_done(now, &action, reply),
            Err(error) => self.on_error(now, &action, &error),
        }
        self.on_asked(id, answered);
        self.evaluate(now);
        self.catch_up_switch(now, "what its last pass left is known");
    }

    /// To be called when the time of [`Self::poll_timeout`] has come; harmless at any time.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.next_sample.is_some_and(|due| due <= now) {
            self.next_sample = None;
            self.on_sample_due(now);
        }
        self.evaluate(now);
    }

    /// An operator's wish: accepted or refused at once.
    ///
    /// # Errors
    /// [`RequestDenied`], by state alone.
    pub fn request(&mut self, now: Timestamp, request: Request) -> Result<(), RequestDenied> {
        match (request, &self.state) {
            (_, State::Ended { .. }) => Err(RequestDenied::Over),
            (Request::Cancel, State::Pending) => {
                self.end(now, Outcome::NotStarted, Some("cancelled".to_owned()));
                Ok(())
            }
            (Request::Cancel, State::RollingBack { .. }) => Ok(()),
            (Request::Cancel, State::Preparing { .. } | State::Ready { .. } | State::PreCopy)
                if !self.postcopy_asked && self.stopped_at.is_none() =>
            {
                self.roll_back(now, "cancelled".to_owned());
                Ok(())
            }
            (Request::Cancel, _) => Err(RequestDenied::PastReturn),
            (Request::SwitchToPostcopy, State::PreCopy) if !self.may_postcopy() => {
                Err(RequestDenied::PostcopyForbidden)
            }
            (Request::SwitchToPostcopy, State::PreCopy) => {
                self.ask_postcopy(now);
                Ok(())
            }
            (Request::SwitchToPostcopy, State::PostCopy | State::Switchover) => Ok(()),
            (Request::SwitchToPostcopy, _) => Err(RequestDenied::NotMigrating),
            (Request::Recover, State::PostCopyPaused { .. } | State::Recovering { .. }) => {
                self.try_again(now);
                Ok(())
            }
            (Request::Recover, _) => Err(RequestDenied::NotBroken),
        }
    }

    /// The next thing to do, if any.
    pub fn poll_action(&mut self) -> Option<(ActionId, Action)> {
        self.actions.pop_front()
    }

    /// The next thing to tell, if any.
    pub fn poll_record(&mut self) -> Option<Record> {
        self.records.pop_front()
    }

    /// When [`Self::handle_timeout`] must be called at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        [self.next_sample, self.limit()].into_iter().flatten().min()
    }

    /// The phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.state.phase()
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self.state {
            State::Ended { outcome } => Some(outcome),
            _ => None,
        }
    }

    /// The plan's part that this driver carries out.
    #[must_use]
    pub fn plan(&self) -> &Move {
        &self.plan
    }

    /// What was achieved so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// True from the start until the VM's stream has ended: the time in which it uses the port.
    #[must_use]
    pub fn uses_port(&self) -> bool {
        match self.phase() {
            Phase::Pending
            | Phase::Preparing
            | Phase::Ready
            | Phase::Settling
            | Phase::Halting
            | Phase::Ended => false,
            // What never began is undone without a byte.
            Phase::RollingBack => self.started,
            Phase::PreCopy
            | Phase::Switchover
            | Phase::PostCopy
            | Phase::PostCopyPaused
            | Phase::Recovering => true,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            bandwidth: self.plan.bandwidth,
            postcopy_bandwidth: self.plan.postcopy_bandwidth,
            switchover_bandwidth: self.switchover_bandwidth,
            downtime: self.first_limit(&self.plan),
        }
    }

    fn may_postcopy(&self) -> bool {
        self.plan.may_postcopy()
    }

    fn is_moving(&self) -> bool {
        matches!(self.state, State::PreCopy | State::Switchover | State::PostCopy)
    }

    fn facts(&mut self, side: Side) -> &mut Facts {
        match side {
            Side::Source => &mut self.source,
            Side::Target => &mut self.target,
        }
    }

    fn note_gone(&mut self, now: Timestamp, side: Side) {
        let facts = self.facts(side);
        facts.gone = true;
        facts.gone_at = facts.gone_at.or(Some(now));
    }

    fn act(&mut self, action: Action) -> ActionId {
        if let Action::SetDowntimeLimit(downtime)
        | Action::Configure { limits: Limits { downtime, .. }, .. } = action
        {
            self.told_downtime = downtime;
        }
        if let Action::SetBandwidth(ceiling)
        | Action::Configure { limits: Limits { bandwidth: ceiling, .. }, .. } = action
        {
            self.ceiling = ceiling;
        }
        if action == Action::Sample(Side::Source) {
            self.asked_in_pass = self.progress.pass;
        }
        let id = ActionId(self.next_id);
        self.next_id += 1;
        self.pending.insert(id, action.clone());
        self.actions.push_back((id, action));
        id
    }

    fn awaits(&self, wanted: impl Fn(&Action) -> bool) -> bool {
        self.pending.values().any(wanted)
    }

    /// Asks for figures unless they are already under way.
    fn sample(&mut self, side: Side) {
        if !self.awaits(|action| *action == Action::Sample(side)) {
            self.act(Action::Sample(side));
        }
    }

    fn record(&mut self, at: Timestamp, kind: RecordKind) {
        self.records.push_back(Record { at, kind });
    }

    fn note_resumed(&mut self, now: Timestamp) {
        if self.resumed_at.is_none() && self.started {
            self.resumed_at = Some(now);
            self.record(now, RecordKind::Resumed);
        }
    }

    fn enter(&mut self, now: Timestamp, state: State) {
        let (from, to) = (self.state.phase(), state.phase());
        let allowed = TRANSITIONS.iter().any(|(phase, next)| *phase == from && next.contains(&to));
        assert!(allowed, "no transition from {from} to {to}");
        self.state = state;
        self.entered_at = now;
        if to != Phase::Ended {
            self.record(now, RecordKind::Entered(to));
        }
    }

    fn end(&mut self, now: Timestamp, outcome: Outcome, reason: Option<String>) {
        self.enter(now, State::Ended { outcome });
        self.next_sample = None;
        self.pending.clear();
        self.record(now, RecordKind::Ended { outcome, reason });
    }

    fn warn(&mut self, now: Timestamp, text: impl Into<String>) {
        self.record(now, RecordKind::Warning(text.into()));
    }

    fn ask_postcopy(&mut self, now: Timestamp) {
        let held = self.postcopy_held || self.switch_held;
        if held || !self.postcopy_asked && self.would_last_too_long(now) {
            self.postcopy_due = true;
        } else if !self.postcopy_asked {
            self.postcopy_asked = true;
            self.postcopy_asked_at = Some(now);
            self.act(Action::StartPostcopy);
        }
    }
}

#[cfg(test)]
mod tests;
