//! The end of a VM whose memory was split and cannot be put together any more: its source must not run the copy that it has.
//!
//! A source that has sent everything takes the end of its channel for the end of the migration: it fails, and its QEMU runs the
//! copy that it stopped when the memory was split (seen with QEMU 10.0.2, when the target died in the last instant). That copy is
//! as old as the split, while the guest has gone on at the target, answered its clients and written to its disks: run beside or
//! after it, it does more harm than a VM that is down. So the source's channel is ended, and it is looked at until it surely stands:
//!
//! | the source | |
//! | --- | --- |
//! | its vCPUs run | stopped |
//! | paused, or has completed | it stands |
//! | failed, and was stopped by us | it stands |
//! | failed | it is about to run, or was paused before: it stands if it does not run for a while |
//! | gone | nothing can run |
//!
//! A target that lives may have had everything: if it says so, the VM has moved after all. And where the target died before the
//! guest ran there, what runs at the source is the VM, and the attempt is undone.

use super::{
    Action, CONFIRM_PERIOD, LAST_WORD_LIMIT, MigrationStatus, Outcome, RunState, Side, State,
    Timestamp, VmDriver,
};
use std::time::Duration;

/// A source answers within milliseconds; one that does not is told of.
pub(super) const HALT_LIMIT: Duration = Duration::from_secs(5);

impl VmDriver {
    /// The VM is lost, as far as can be seen.
    pub(super) fn lose(&mut self, now: Timestamp, reason: &str) {
        // A paused source goes on only when it is told to.
        if !self.postcopied || self.source.gone || self.is_broken(Side::Source) {
            self.end(now, Outcome::Lost, Some(reason.to_owned()));
            return;
        }
        self.warn(now, format!("{reason}; its source must not run the old copy that it has"));
        self.enter(now, State::Halting { reason: reason.to_owned(), over_since: None, ran: false });
        // What the source said before is of another time.
        self.pending.retain(|_, action| !matches!(action, Action::Sample(_)));
        self.source.run_state = None;
        if self.target.gone && !self.source.status.as_ref().is_some_and(MigrationStatus::is_over) {
            // Over a path that is dead nobody else tells it.
            self.act(Action::PauseChannel(Side::Source));
        }
        self.on_halt_due(now);
    }

    pub(super) fn on_halt_due(&mut self, now: Timestamp) {
        self.sample(Side::Source);
        if !self.target.gone {
            self.sample(Side::Target);
        }
        self.next_sample = Some(now + CONFIRM_PERIOD);
    }

    pub(super) fn evaluate_halting(&mut self, now: Timestamp) {
        let State::Halting { reason, over_since, ran } = &self.state else { return };
        let reason = reason.clone();
        let (mut over_since, mut ran) = (*over_since, *ran);
        if self.source.gone {
            self.end(now, Outcome::Lost, Some(reason));
            return;
        }
        let runs = self.source.run_state == Some(RunState::Running);
        if runs && self.target.gone && !self.ran_at_target() {
            self.roll_back(now, format!("{reason}; the guest had not run there yet"));
            return;
        }
        if runs && !self.awaits(|action| *action == Action::Stop(Side::Source)) {
            self.act(Action::Stop(Side::Source));
        }
        ran |= runs;
        let over = self.source.status.as_ref().is_some_and(MigrationStatus::is_over);
        over_since = over_since.or((over && self.source.run_state.is_some()).then_some(now));
        self.state = State::Halting { reason: reason.clone(), over_since, ran };
        let settled = over_since.is_some_and(|since| since + LAST_WORD_LIMIT <= now);
        let stands = !runs
            && self.source.run_state.is_some()
            && (self.is_broken(Side::Source)
                || self.source.is(&MigrationStatus::Completed)
                || over && (ran || !self.was_running || settled));
        if stands && !self.target.gone && self.target.is(&MigrationStatus::Completed) {
            self.warn(now, format!("not lost ({reason}): the target had everything"));
            self.settle(now);
            return;
        }
        // The target's word that it had everything may be under way.
        let waits = !self.target.gone && self.entered_at + LAST_WORD_LIMIT > now;
        if stands && !waits {
            let text = if ran {
                format!(
                    "{reason}; its source ran an old copy of it for a moment and was stopped: that copy lacks all that the guest did at \
                     the target, do not let it run"
                )
            } else {
                reason
            };
            self.end(now, Outcome::Lost, Some(text));
        } else if self.is_over_limit(now) {
            let text = format!(
                "{reason}; its source did not say within {HALT_LIMIT:?} that it stands: end that QEMU, or it may run an old copy of the VM"
            );
            self.end(now, Outcome::Lost, Some(text));
        } else if self.next_sample.is_none() {
            self.next_sample = Some(now + CONFIRM_PERIOD);
        }
    }

    /// Whether the guest has run at the target, as far as can be known: it said so, or it waited for pages.
    pub(super) const fn ran_at_target(&self) -> bool {
        self.resumed_at.is_some() || self.progress.postcopy_requests > 0
    }
}
