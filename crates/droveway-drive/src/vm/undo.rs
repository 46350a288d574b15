//! Undoing an attempt: both sides are asked, the target is destroyed, the migration ended, the VM confirmed at the source, and
//! what was set there for the move put back.
//!
//! What led here may be old by the time that it is acted upon: figures that were read before another VM kept the controller
//! waiting, an event that a busy monitor holds back, a switch to post-copy that was asked for and comes when the path does. So
//! nothing is destroyed before both sides were asked anew.
//!
//! | the target says | the source says | |
//! | --- | --- | --- |
//! | its vCPUs run, or it has the VM | | forward: settling, or post-copy |
//! | they do not | | the target is destroyed |
//! | nothing | the vCPUs run there, or it gave up | the target is destroyed |
//! | nothing | anything else, or nothing | both are asked again, then an operator is |

use super::{
    Action, ActionId, Asked, CANCEL_PATIENCE, CONFIRM_PERIOD, LAST_WORD_LIMIT, MigrationSample,
    MigrationStatus, Outcome, RESTORE_LIMIT, ROLLBACK_LIMIT, RunState, SAMPLE_PERIOD, Side, State,
    Timestamp, Undo, VmDriver,
};

impl VmDriver {
    pub(super) fn roll_back(&mut self, now: Timestamp, reason: String) {
        // One that was never told to migrate has nothing to send.
        let step = if self.started && !self.target.gone { self.ask() } else { Undo::Target };
        self.enter(now, State::RollingBack { reason, step });
        self.next_sample = None;
        self.boundary_wanted = None;
        if step == Undo::Target && !self.target.gone {
            self.act(Action::DestroyTarget);
        }
    }

    /// Asks both sides anew.
    pub(super) fn ask(&mut self) -> Undo {
        let target = Asked::Awaited(self.act(Action::Sample(Side::Target)));
        let source = if self.source.gone {
            Asked::Silent
        } else {
            Asked::Awaited(self.act(Action::Sample(Side::Source)))
        };
        Undo::Ask { target, source }
    }

    /// True from the moment at which the attempt cannot go on any more.
    pub(super) fn is_undone(&self) -> bool {
        matches!(&self.state, State::RollingBack { step, .. } if !matches!(step, Undo::Ask { .. }))
    }

    pub(super) fn on_asked(&mut self, id: ActionId, answered: bool) {
        let State::RollingBack { step: Undo::Ask { target, source }, .. } = &mut self.state else {
            return;
        };
        for asked in [target, source] {
            if *asked == Asked::Awaited(id) {
                *asked = if answered { Asked::Said } else { Asked::Silent };
            }
        }
    }

    pub(super) fn on_undo_due(&mut self) {
        let State::RollingBack { reason, step } = &self.state else { return };
        match step {
            Undo::Ask { .. } => {
                let reason = reason.clone();
                let step = self.ask();
                self.state = State::RollingBack { reason, step };
            }
            Undo::Target => {
                self.act(Action::DestroyTarget);
            }
            Undo::Source { .. } | Undo::Confirm => self.sample(Side::Source),
            Undo::Restore => {
                if let Some(before) = self.before.clone().filter(|_| !self.awaits_restore()) {
                    self.act(Action::Restore(before));
                }
            }
        }
    }

    fn evaluate_asked(&mut self, now: Timestamp, reason: String, target: Asked, source: Asked) {
        let runs = self.target.run_state == Some(RunState::Running);
        let arrived = !self.was_running && self.target.is(&MigrationStatus::Completed);
        if !self.target.gone {
            if self.is_postcopy_active() || self.target.is(&MigrationStatus::PostcopyActive) {
                self.warn(now, format!("not undone ({reason}): post-copy has begun"));
                self.enter_post_copy(now);
                return;
            }
            if runs || arrived || self.resumed_at.is_some() {
                self.warn(now, format!("not undone ({reason}): the VM has moved"));
                self.note_resumed(now);
                self.settle(now);
                return;
            }
        }
        if self.source.gone && !self.target.gone {
            // A target without its whole stream exits by itself; one that has it needs a moment.
            let waited = self.source.gone_at.is_none_or(|at| at + LAST_WORD_LIMIT <= now);
            if target == Asked::Said && waited {
                self.act(Action::DestroyTarget);
                let text = format!(
                    "{reason}; the source's QEMU is gone, and the target had not everything"
                );
                self.end(now, Outcome::Lost, Some(text));
            } else if !matches!(target, Asked::Awaited(_)) {
                self.next_sample = self.next_sample.or(Some(now + SAMPLE_PERIOD));
            }
            return;
        }
        let stays = self.source.gave_up() || self.source.run_state == Some(RunState::Running);
        let destroys = self.target.gone
            || match (target, source) {
                (Asked::Said, _) => true,
                (Asked::Silent, Asked::Said) => stays,
                _ => false,
            };
        if destroys {
            self.entered_at = now;
            self.next_sample = None;
            self.state = State::RollingBack { reason, step: Undo::Target };
            if self.target.gone {
                self.evaluate_rolling_back(now);
            } else {
                self.act(Action::DestroyTarget);
            }
        } else if target == Asked::Silent && !matches!(source, Asked::Awaited(_)) {
            self.next_sample = self.next_sample.or(Some(now + SAMPLE_PERIOD));
        }
    }

    pub(super) fn confirm_source(&mut self, now: Timestamp, sample: &MigrationSample) {
        let State::RollingBack { reason, .. } = &self.state else { return };
        if !sample.status.is_over() {
            return;
        }
        if sample.run_state == RunState::Running || !self.was_running {
            let reason = reason.clone();
            match self.before.clone() {
                Some(before) => {
                    self.act(Action::Restore(before));
                    (self.entered_at, self.next_sample) = (now, None);
                    self.state = State::RollingBack { reason, step: Undo::Restore };
                }
                None => self.end(now, Outcome::RolledBack, Some(reason)),
            }
        } else if !self.awaits(|action| *action == Action::Resume(Side::Source)) {
            self.act(Action::Resume(Side::Source));
        }
    }

    /// The source is set to what it was set to before.
    pub(super) fn note_restored(&mut self, now: Timestamp) {
        if let State::RollingBack { reason, step: Undo::Restore } = &self.state {
            let reason = reason.clone();
            self.end(now, Outcome::RolledBack, Some(reason));
        }
    }

    fn awaits_restore(&self) -> bool {
        self.awaits(|action| matches!(action, Action::Restore(_)))
    }

    pub(super) fn evaluate_rolling_back(&mut self, now: Timestamp) {
        let State::RollingBack { reason, step } = &self.state else { return };
        let (reason, step) = (reason.clone(), *step);
        let asks = matches!(step, Undo::Ask { .. }) && !self.target.gone;
        if self.source.gone && !asks {
            if !self.target.gone {
                self.act(Action::DestroyTarget);
            }
            let text = format!("{reason}; then the source's QEMU died");
            self.end(now, Outcome::Lost, Some(text));
            return;
        }
        if self.is_over_limit(now) && step == Undo::Restore {
            self.warn(
                now,
                format!(
                    "what QEMU was set to for the move could not be put back within {RESTORE_LIMIT:?}"
                ),
            );
            self.end(now, Outcome::RolledBack, Some(reason));
            return;
        }
        if self.is_over_limit(now) {
            let text = if asks {
                format!(
                    "{reason}; which of the two sides has the VM could not be learnt within \
                     {ROLLBACK_LIMIT:?}: both are kept"
                )
            } else {
                format!(
                    "{reason}; the source did not confirm within {ROLLBACK_LIMIT:?} that the VM \
                     runs there"
                )
            };
            self.end(now, Outcome::NeedsRecovery, Some(text));
            return;
        }
        match step {
            Undo::Ask { target, source } => self.evaluate_asked(now, reason, target, source),
            Undo::Target if self.target.gone => {
                let ended = self.source.status.as_ref().is_some_and(MigrationStatus::is_over);
                let step = if self.started && !ended {
                    self.act(if self.stopped_at.is_some() {
                        Action::BreakChannel
                    } else {
                        Action::Cancel
                    });
                    Undo::Source { since: now }
                } else {
                    self.sample(Side::Source);
                    Undo::Confirm
                };
                self.state = State::RollingBack { reason, step };
            }
            Undo::Target => {
                if !self.awaits(|action| *action == Action::DestroyTarget)
                    && self.next_sample.is_none()
                {
                    self.next_sample = Some(now + CONFIRM_PERIOD);
                }
            }
            Undo::Source { since } => {
                if self.source.status.as_ref().is_some_and(MigrationStatus::is_over) {
                    self.sample(Side::Source);
                    self.state = State::RollingBack { reason, step: Undo::Confirm };
                } else if since + CANCEL_PATIENCE <= now {
                    self.act(Action::BreakChannel);
                    self.state = State::RollingBack { reason, step: Undo::Source { since: now } };
                } else if self.next_sample.is_none() {
                    self.next_sample = Some(now + CONFIRM_PERIOD);
                }
            }
            Undo::Confirm => {
                if self.next_sample.is_none() {
                    self.next_sample = Some(now + CONFIRM_PERIOD);
                }
            }
            Undo::Restore => {
                if !self.awaits_restore() && self.next_sample.is_none() {
                    self.next_sample = Some(now + SAMPLE_PERIOD);
                }
            }
        }
    }
}
