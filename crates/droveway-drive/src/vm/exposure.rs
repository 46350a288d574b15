//! Holding a switch to post-copy back while too many other VMs have their memory split. Meanwhile pre-copy goes on, and may end
//! by itself.

use super::{Outcome, Phase, State, Technique, Timestamp, VmDriver};

impl VmDriver {
    /// Holds the switch back, or lets it happen; one that has become due meanwhile happens at once.
    pub(crate) fn hold_postcopy(&mut self, now: Timestamp, hold: bool) {
        self.postcopy_held = hold;
        if !hold && std::mem::take(&mut self.postcopy_due) && self.may_still_split() {
            self.decide(
                now,
                "there is room for another VM whose memory is split".to_owned(),
                "the switch has been due".to_owned(),
                "switch to post-copy",
                None,
            );
            self.ask_postcopy();
        }
    }

    /// Whether its memory is split between two hosts, or will be as soon as QEMU has obeyed.
    pub(crate) fn is_exposed(&self) -> bool {
        match self.outcome() {
            // Nobody knows when an operator will put it together.
            Some(outcome) => outcome == Outcome::NeedsRecovery && self.postcopied,
            None => {
                let at_once = self.started && self.plan.technique == Technique::PostCopy;
                let undone = self.phase() == Phase::RollingBack;
                self.postcopied || !undone && (self.postcopy_asked || at_once)
            }
        }
    }

    /// Whether its switch is due and held back.
    pub(crate) fn waits_to_split(&self) -> bool {
        self.postcopy_due && self.may_still_split()
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
