//! Holding a switch to post-copy back while too many other VMs have their memory split, or the path is bad. Meanwhile pre-copy goes
//! on, and may end by itself.

use super::{Outcome, State, Technique, Timestamp, VmDriver};
use crate::gang::PROGRESS;
use droveway_fleet::Bytes;

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

    fn catch_up_switch(&mut self, now: Timestamp, why: &str) {
        let held = self.postcopy_held || self.switch_held;
        if !held && std::mem::take(&mut self.postcopy_due) && self.may_still_split() {
            self.decide(
                now,
                why.to_owned(),
                "the switch has been due".to_owned(),
                "switch to post-copy",
                None,
            );
            self.ask_postcopy(now);
        }
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
