//! What a running attempt tells a planner, and what of its plan can still be changed.
//!
//! QEMU fixes some things early: whether post-copy is possible, once the target listens; whether the guest may be slowed down,
//! once the stream runs. Rates, limits and the moment of the switch stay open, the switch until it was asked for.

use super::{Duration, Outcome, Phase, State, Timestamp, VmDriver};
use crate::action::{Action, Limits};
use crate::adapt::Course;
use crate::gang::is_unpaced;
use crate::input::Side;
use droveway_fleet::{Bytes, RateLimit, Technique};
use droveway_plan::{
    Fallback, Move,
    replan::{Dirtied, Passing, Standing},
};

/// Of what fits the downtime a pass leaves this much unsent on average: QEMU looks once a slice.
const LEFT_UNSENT: f64 = 0.95;

impl VmDriver {
    /// How the attempt stands, for whoever compares it with its forecast.
    pub(crate) fn course(&self, now: Timestamp) -> Course<'_> {
        Course {
            vm: &self.plan.vm,
            phase: self.phase(),
            standing: self.standing(now),
            last_pass: self.last_pass(),
            is_measured: self.is_measured(),
            runs_at_target: self.runs_at_target(),
            has_ended: self.outcome().is_some(),
            may_change: self.may_change(),
            may_postcopy: self.postcopy_prepared,
            takes_what_it_gets: self.takes_what_it_gets(),
            transferred: self.progress.transferred,
        }
    }

    /// Where the attempt is, as a planner wants to know it.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        let remaining = self.progress.remaining;
        let post_copy = Standing::PostCopy {
            passes: self.progress.pass.saturating_sub(1),
            transferred: self.progress.transferred,
            remaining,
        };
        match &self.state {
            State::Pending | State::Preparing { .. } | State::Ready { .. } => Standing::Waiting,
            State::PreCopy if self.stopped_at.is_some() => Standing::Stopped { remaining },
            State::PreCopy if self.has_decided_to_split() => post_copy,
            State::PreCopy => Standing::PreCopy(Passing {
                passes: self.progress.pass.saturating_sub(1),
                pass_time: now.since(self.pass_began),
                transferred: self.progress.transferred,
                remaining,
                dirtied: self.dirtied,
            }),
            State::Switchover => Standing::Stopped { remaining },
            State::PostCopy | State::PostCopyPaused { .. } | State::Recovering { .. } => post_copy,
            State::Settling { .. } | State::Ended { outcome: Outcome::Completed } => {
                Standing::Moved
            }
            // Nothing of a lost one comes to the target any more.
            State::RollingBack { .. } | State::Halting { .. } | State::Ended { .. } => {
                Standing::Stays
            }
        }
    }

    /// The last pass that ended and how long it lasted, once its figures are there.
    #[must_use]
    pub fn last_pass(&self) -> Option<(u32, Duration)> {
        let pass = self.progress.pass.checked_sub(1).filter(|pass| *pass > 0)?;
        self.is_measured().then_some((pass, self.last_pass_time))
    }

    /// False while the figures of a pass that has just ended are awaited.
    #[must_use]
    pub fn is_measured(&self) -> bool {
        self.state != State::PreCopy || self.boundary_wanted.is_none()
    }

    /// Both QEMUs were prepared for post-copy.
    #[must_use]
    pub const fn is_prepared_for_postcopy(&self) -> bool {
        self.postcopy_prepared
    }

    /// True once the VM was seen to run at the target.
    #[must_use]
    pub const fn runs_at_target(&self) -> bool {
        self.resumed_at.is_some()
    }

    /// True while its stream takes what the port gives it.
    #[must_use]
    pub fn takes_what_it_gets(&self) -> bool {
        match self.state {
            State::PreCopy => self.progress.pass > 0 && is_unpaced(self.plan.bandwidth),
            State::PostCopy => is_unpaced(self.plan.postcopy_bandwidth),
            _ => false,
        }
    }

    /// True while there is something of its plan that could be changed.
    #[must_use]
    pub fn may_change(&self) -> bool {
        matches!(self.state, State::Ready { .. } | State::PreCopy | State::PostCopy)
    }

    /// True if a plan that follows has to name it: its move has not ended and is not being undone.
    #[must_use]
    pub fn has_to_be_named(&self) -> bool {
        !matches!(self.phase(), Phase::Settling | Phase::RollingBack | Phase::Ended)
    }

    /// Whether its QEMUs can do what `step` says.
    #[must_use]
    pub fn accepts(&self, step: &Move) -> bool {
        let splits = step.technique.exposes() || step.fallback == Fallback::PostCopy;
        let stops = (step.technique == Technique::StopAndCopy)
            != (self.plan.technique == Technique::StopAndCopy);
        (self.postcopy_prepared || !splits) && !stops
    }

    /// Follows another plan from now on, as far as its state still allows.
    pub(crate) fn revise(&mut self, now: Timestamp, step: &Move) {
        self.revise_within(now, step, (self.asked_bandwidth, self.asked_downtime));
    }

    /// The same, with what an operator asks for: whatever rules and turns say later is bounded by it.
    pub(crate) fn revise_within(
        &mut self,
        now: Timestamp,
        step: &Move,
        asked: (Option<RateLimit>, Option<Duration>),
    ) {
        let before = self.limits();
        (self.asked_bandwidth, self.asked_downtime) = asked;
        if matches!(self.state, State::Pending | State::Preparing { .. }) {
            // Its QEMUs are configured with what it was; how it may go was fixed with that.
            let Move { technique, fallback, throttle, ladder, .. } = self.plan.clone();
            self.revised_early |= self.state != State::Pending;
            self.plan = Move { technique, fallback, throttle, ladder, ..step.clone() };
            return;
        }
        if !self.accepts(step) {
            return;
        }
        match self.state {
            State::Ready { .. } => {
                let before = (before, self.plan.throttle);
                self.plan = step.clone();
                self.switchover_bandwidth = step.switchover_bandwidth;
                let limits = self.limits();
                if before != (limits, step.throttle) {
                    self.revised_at = Some(now);
                    self.configure_source();
                }
            }
            State::PreCopy if !self.has_decided_to_split() && self.stopped_at.is_none() => {
                let switches = self.plan.technique != Technique::PostCopy;
                self.revise_running(step, before.downtime);
                if switches && step.technique == Technique::PostCopy {
                    let inputs = format!("{} left", self.progress.remaining.human());
                    let (choice, other) = ("switch to post-copy", Some("go on with pre-copy"));
                    self.decide(now, "the plan was changed".to_owned(), inputs, choice, other);
                    self.ask_postcopy(now);
                }
            }
            State::PreCopy
            | State::PostCopy
            | State::PostCopyPaused { .. }
            | State::Recovering { .. } => {
                self.set_postcopy_ceiling(step);
            }
            // The source's main loop is inside the stream and would not answer.
            State::Switchover => {
                self.revised_early |= step.postcopy_bandwidth != self.plan.postcopy_bandwidth;
                self.plan.postcopy_bandwidth = step.postcopy_bandwidth;
            }
            State::Pending
            | State::Preparing { .. }
            | State::Settling { .. }
            | State::RollingBack { .. }
            | State::Halting { .. }
            | State::Ended { .. } => {}
        }
    }

    fn revise_running(&mut self, step: &Move, downtime_before: Duration) {
        self.set_postcopy_ceiling(step);
        let before = std::mem::replace(&mut self.plan, step.clone());
        // Whether QEMU slows the guest down was fixed when the stream began.
        self.plan.throttle = before.throttle;
        if step.bandwidth != before.bandwidth {
            self.act(Action::SetBandwidth(step.bandwidth));
        }
        // A rule sets it by itself as the passes go.
        let limit = match (&step.ladder, self.asked_downtime) {
            (Some(_), asked) => asked.filter(|most| *most < self.told_downtime),
            (None, _) => Some(self.first_limit(step)).filter(|limit| *limit != downtime_before),
        };
        if let Some(limit) = limit {
            self.act(Action::SetDowntimeLimit(limit));
        }
        // A stream that is not paced has its switchover's rate follow what it gets; the plan's is only the most.
        let paced = !is_unpaced(step.bandwidth);
        if paced && step.switchover_bandwidth != self.switchover_bandwidth {
            self.switchover_bandwidth = step.switchover_bandwidth;
            self.act(Action::SetSwitchoverBandwidth(step.switchover_bandwidth));
        }
    }

    fn set_postcopy_ceiling(&mut self, step: &Move) {
        if step.postcopy_bandwidth != self.plan.postcopy_bandwidth {
            self.plan.postcopy_bandwidth = step.postcopy_bandwidth;
            self.act(Action::SetPostcopyBandwidth(step.postcopy_bandwidth));
        }
    }

    /// Tells the source what was changed when it could not be told.
    pub(super) fn catch_up(&mut self, now: Timestamp) {
        if !std::mem::take(&mut self.revised_early) {
            return;
        }
        match self.state {
            State::Ready { .. } => {
                self.revised_at = Some(now);
                self.configure_source();
            }
            State::PostCopy => {
                self.act(Action::SetPostcopyBandwidth(self.plan.postcopy_bandwidth));
            }
            _ => {}
        }
    }

    fn configure_source(&mut self) {
        let (postcopy, throttle) = (self.postcopy_prepared, self.plan.throttle);
        let (side, limits) = (Side::Source, self.limits());
        self.act(Action::Configure { side, postcopy, throttle, limits });
    }

    /// True while a limit of its downtime has a meaning.
    pub(crate) fn may_be_limited(&self) -> bool {
        let before = matches!(
            self.state,
            State::Pending | State::Preparing { .. } | State::Ready { .. } | State::PreCopy
        );
        before && self.stopped_at.is_none() && !self.postcopy_asked
    }

    /// True while a cancel would be obeyed.
    pub(crate) fn may_return(&self) -> bool {
        let before = matches!(
            self.state,
            State::Pending | State::Preparing { .. } | State::Ready { .. } | State::PreCopy
        );
        before && self.stopped_at.is_none() && !self.postcopy_asked
    }

    /// True if its switch was asked for, also one that is held back.
    pub(crate) fn is_asked_to_split(&self) -> bool {
        self.has_decided_to_split() || self.postcopied
    }

    /// True while it stands still.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state == State::Switchover || self.state == State::PreCopy && self.stopped_at.is_some()
    }

    /// True if it could start in this instant: nothing that has to be set before is still under way.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. }) && self.revised_at.is_none()
    }

    /// What the pass that has ended found dirtied.
    pub(super) fn note_dirtied(&mut self, remaining: Bytes) {
        let Limits { switchover_bandwidth, downtime, .. } = self.limits();
        let unsent = (switchover_bandwidth * downtime).as_f64() * LEFT_UNSENT;
        let bytes = Bytes::from_f64(remaining.as_f64() - unsent);
        self.dirtied = Some(Dirtied { time: self.last_pass_time, bytes });
    }
}
