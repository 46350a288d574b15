//! Holding a switch to post-copy back while too many other VMs have their memory split, the path is bad, or what is left would take
//! longer than [`EXPOSURE_MAX`]. Meanwhile pre-copy goes on, and may end by itself.
//!
//! How long it would take is what is left over what the stream gets. What the guest has written since the pass began is found only
//! at the switch, so it counts. A move that begins with post-copy is not held back at its start: nothing was measured then, and
//! its plan says what to expect.

use super::{Action, Duration, Outcome, State, Technique, Timestamp, VmDriver};
use crate::gang::PROGRESS;
use droveway_fleet::{Bandwidth, Bytes};
use droveway_plan::EXPOSURE_MAX;

/// A VM whose memory would be split for too long copies for so many passes more than its plan allows, or than it had done when that
/// was found: what guests write changes within a pass or two, or not soon.
const PASSES_MORE: u32 = 3;
/// A stream that gets this share of its ceiling is held back by that, not by the port.
const PACED_RATIO: f64 = 0.8;

impl VmDriver {
    /// Holds the switch back, or lets it happen; one that has become due meanwhile happens at once.
    pub(crate) fn hold_postcopy(&mut self, now: Timestamp, hold: bool) {
        self.postcopy_held = hold;
        self.catch_up_switch(now, "there is room for another VM whose memory is split, and a path");
    }

    /// The same while another VM is being switched.
    pub(crate) fn hold_switch(&mut self, now: Timestamp, hold: bool) {
        self.switch_held = hold;
        self.catch_up_switch(now, "another VM is through its switchover, or has had its time");
    }

    /// A switch that is due and not held back any more happens.
    pub(super) fn catch_up_switch(&mut self, now: Timestamp, why: &str) {
        let held = self.postcopy_held || self.switch_held;
        if !held && self.waits_to_split() && self.would_last_too_long(now) {
            self.give_up_waiting(now);
            return;
        }
        if !held && std::mem::take(&mut self.postcopy_due) && self.may_still_split() {
            let short = format!("what is left arrives within {}", minutes(EXPOSURE_MAX.duration()));
            let why = self.long_since.take().map_or_else(|| why.to_owned(), |_| short);
            self.decide(
                now,
                why,
                "the switch has been due".to_owned(),
                "switch to post-copy",
                None,
            );
            self.ask_postcopy(now);
        }
    }

    /// Whether its memory would be split for too long if it were switched now. The first time that is said.
    pub(super) fn would_last_too_long(&mut self, now: Timestamp) -> bool {
        if !self.may_still_split() {
            return false;
        }
        let rate = self.postcopy_rate();
        // Until a pass has been measured all of its memory may be left, but nobody says so yet.
        let Some(left) = self.left_at_a_switch(now) else {
            return self.progress.total / rate > EXPOSURE_MAX.duration();
        };
        let lasts = left / rate;
        if lasts <= EXPOSURE_MAX.duration() {
            return false;
        }
        if self.long_since.is_none() {
            self.long_since = Some(self.progress.pass);
            let most = minutes(EXPOSURE_MAX.duration());
            self.decide(
                now,
                format!("its memory would be split for {}, longer than {most}", minutes(lasts)),
                format!("{} left at {}", left.human(), rate.human()),
                "go on copying until less is left",
                Some("switch to post-copy"),
            );
            // Without its switch a hybrid is a pre-copy, and may stand still for as long as one.
            let limit = self.plan.downtime_limit;
            let limit = self.asked_downtime.map_or(limit, |most| limit.min(most));
            if self.plan.technique == Technique::Hybrid && self.told_downtime < limit {
                self.act(Action::SetDowntimeLimit(limit));
            }
        }
        true
    }

    /// What would be left if it were switched now; `None`: the figures of the pass that has begun are not there yet.
    fn left_at_a_switch(&self, now: Timestamp) -> Option<Bytes> {
        // An answer that was under way when the pass began is of the one before.
        self.figures_of_pass.filter(|of| *of == self.progress.pass)?;
        if self.progress.pass <= 1 {
            // What the guest writes is measured when a pass ends.
            return Some(self.progress.total);
        }
        let written = self.progress.dirty_rate * now.since(self.pass_began);
        Some((self.progress.remaining + written).min(self.progress.total))
    }

    /// What post-copy's stream is expected to get: what this one gets, or was planned with where only its own ceiling holds it back,
    /// and no more than post-copy's ceiling.
    fn postcopy_rate(&self) -> Bandwidth {
        let planned = self.plan.switchover_bandwidth;
        let seen = self.measured.map_or(planned, |(_, _, rate)| rate);
        let is_paced = |ceiling: Bandwidth| seen >= ceiling.scaled(PACED_RATIO);
        let paced = self.ceiling.bandwidth().is_some_and(is_paced);
        let rate = if paced { seen.max(planned) } else { seen };
        self.plan.postcopy_bandwidth.bandwidth().map_or(rate, |most| rate.min(most))
    }

    /// It stays at the source once its passes are used up and what they leave is still too much.
    fn give_up_waiting(&mut self, now: Timestamp) {
        let (Some(since), Some(left)) = (self.long_since, self.left_at_a_switch(now)) else {
            return;
        };
        // A rule's plan has no number of passes of its own.
        let planned = self.plan.max_passes.saturating_add(1);
        let planned = if self.plan.ladder.is_some() { 0 } else { planned };
        let last = planned.max(since.saturating_add(PASSES_MORE));
        if self.progress.pass < last {
            return;
        }
        let passes = self.progress.pass.saturating_sub(1);
        let rate = self.postcopy_rate();
        let reason = format!(
            "pre-copy did not converge in {passes} passes, and by post-copy its memory would be split for {}",
            minutes(left / rate)
        );
        let inputs = format!("{} left at {}", left.human(), rate.human());
        let choice = "abort, stay at the source";
        self.decide(now, reason.clone(), inputs, choice, Some("switch to post-copy"));
        self.give_up(now, &reason);
    }

    /// Whether its switch is due and would split its memory for too long.
    pub(crate) fn waits_for_less(&self) -> bool {
        self.long_since.is_some() && self.waits_to_split()
    }

    /// Whether its stream was under way and has sent nothing for a while: at that rate post-copy would never end.
    pub(crate) fn stands_still(&self, now: Timestamp) -> bool {
        let (sent, at) = self.last_growth;
        self.may_still_split() && sent > Bytes::ZERO && at + PROGRESS <= now
    }

    /// Whether its memory is split between two hosts, or will be as soon as QEMU has obeyed.
    pub(crate) fn is_exposed(&self) -> bool {
        match self.outcome() {
            // Nobody knows when an operator will put it together.
            Some(outcome) => outcome == Outcome::NeedsRecovery && self.postcopied,
            None => {
                let at_once = self.started && self.plan.technique == Technique::PostCopy;
                let undone = self.is_undone();
                self.postcopied || !undone && (self.postcopy_asked || at_once)
            }
        }
    }

    /// Whether its switch is due and held back.
    pub(crate) fn waits_to_split(&self) -> bool {
        self.postcopy_due && self.may_still_split()
    }

    /// Whether its switch is due and only another VM's is in its way.
    pub(crate) fn waits_for_another(&self) -> bool {
        self.switch_held && !self.postcopy_held && self.waits_to_split()
    }

    /// Since when it is being switched, or stands still; `None`: it is not, or runs at the target.
    pub(crate) fn switching_since(&self) -> Option<Timestamp> {
        let moves = matches!(self.state, State::PreCopy | State::Switchover | State::PostCopy);
        let since = self.postcopy_asked_at.or(self.stopped_at);
        since.filter(|_| moves && self.resumed_at.is_none())
    }

    /// Since when its memory has been split, as far as is known.
    pub(crate) fn split_since(&self) -> Option<Timestamp> {
        self.stopped_at.filter(|_| self.postcopied)
    }

    /// Since when it stands still for its switchover.
    pub(crate) fn stands_still_since(&self) -> Option<Timestamp> {
        let moves = matches!(self.state, State::PreCopy | State::Switchover | State::PostCopy);
        self.stopped_at.filter(|_| moves && self.resumed_at.is_none())
    }

    /// Whether nothing more is to be decided about its switch.
    pub(super) fn has_decided_to_split(&self) -> bool {
        self.postcopy_asked || self.postcopy_due
    }

    /// It stays at the source, where it runs.
    pub(crate) fn give_up(&mut self, now: Timestamp, reason: &str) {
        if matches!(self.state, State::Ready { .. }) || self.may_still_split() {
            self.roll_back(now, reason.to_owned());
            self.evaluate(now);
        }
    }

    fn may_still_split(&self) -> bool {
        self.state == State::PreCopy && self.stopped_at.is_none()
    }
}

/// A time that matters in minutes, in words.
fn minutes(time: Duration) -> String {
    const DAY_MINUTES: u64 = 24 * 60;
    match time.as_secs().div_ceil(60) {
        minutes if minutes > DAY_MINUTES => "more than a day".to_owned(),
        minutes => format!("{minutes} min"),
    }
}
