//! What a QEMU answers, and does.

use super::{Emitted, Pair, Stage, Throttle, before};
use crate::Physics;
use droveway_drive::{
    Action, ActionError, FailureClass, MigrationSample, MigrationStatus, QemuEvent, Reply,
    RunState, Side,
};
use droveway_fleet::{Bandwidth, Bytes};
use std::time::Duration;

/// Whose QEMU an action is for.
pub(crate) const fn side_of(action: &Action) -> Side {
    match action {
        Action::Configure { side, .. }
        | Action::Sample(side)
        | Action::Resume(side)
        | Action::Stop(side)
        | Action::PauseChannel(side) => *side,
        Action::Listen | Action::DestroyTarget | Action::ListenAgain => Side::Target,
        _ => Side::Source,
    }
}

impl Pair {
    /// Whether a side's main loop answers nothing: the process is stopped, or it sits in the stream.
    pub(crate) fn is_silent(&self, side: Side, now: f64) -> bool {
        let sends = matches!(self.stage, Stage::Rest | Stage::Load | Stage::Starting | Stage::Word);
        // One that sends its last bytes over a dead path is inside the stream as well.
        let stuck = self.stage == Stage::Tail && !self.is_wired(now);
        let inside = (sends || stuck) && !self.abandoned;
        self.is_frozen(side, now) || side == Side::Source && inside
    }

    /// What an action leads to; `None`: no answer.
    pub(crate) fn perform(
        &mut self,
        action: &Action,
        physics: &Physics,
        now: f64,
        out: &mut Emitted,
    ) -> Option<Result<Reply, ActionError>> {
        let side = side_of(action);
        if !self.qemu(side).alive {
            if *action == Action::DestroyTarget {
                return Some(Ok(Reply::Done));
            }
            let message = "gone".to_owned();
            return Some(Err(ActionError { class: FailureClass::Gone, message }));
        }
        let ends = matches!(action, Action::DestroySource | Action::DestroyTarget);
        if self.is_silent(side, now) && !ends {
            let out_of_band = matches!(action, Action::BreakChannel | Action::PauseChannel(_))
                && !self.is_frozen(side, now);
            if !out_of_band {
                return None;
            }
        }
        Some(self.answer(action, side, physics, now, out))
    }

    fn answer(
        &mut self,
        action: &Action,
        side: Side,
        physics: &Physics,
        now: f64,
        out: &mut Emitted,
    ) -> Result<Reply, ActionError> {
        let refused = |message: &str| {
            Err(ActionError { class: FailureClass::Refused, message: message.to_owned() })
        };
        match action {
            Action::Configure { side, postcopy, throttle, limits } => {
                if *side == Side::Source {
                    self.is_set = true;
                    self.limits = Some(*limits);
                    self.postcopy_allowed = *postcopy;
                    self.throttle = throttle.then(Throttle::default);
                }
                Ok(Reply::Done)
            }
            Action::Restore(settings) => {
                if self.stage != Stage::Idle {
                    return refused("there is a migration process in progress");
                }
                self.is_set &= *settings != before();
                Ok(Reply::Done)
            }
            Action::SetSwitchoverBandwidth(rate) => {
                self.is_set = true;
                if let Some(limits) = &mut self.limits {
                    limits.switchover_bandwidth = *rate;
                }
                Ok(Reply::Done)
            }
            Action::SetDowntimeLimit(limit) => {
                self.is_set = true;
                if let Some(limits) = &mut self.limits {
                    limits.downtime = *limit;
                }
                Ok(Reply::Done)
            }
            Action::SetBandwidth(limit) => {
                self.is_set = true;
                if let Some(limits) = &mut self.limits {
                    limits.bandwidth = *limit;
                }
                Ok(Reply::Done)
            }
            Action::SetPostcopyBandwidth(limit) => {
                self.is_set = true;
                if let Some(limits) = &mut self.limits {
                    limits.postcopy_bandwidth = *limit;
                }
                Ok(Reply::Done)
            }
            Action::Listen => Ok(Reply::Listening("tcp:simulated:1".to_owned())),
            Action::Migrate { .. } => {
                if self.stage != Stage::Idle {
                    return refused("there is a migration process in progress");
                }
                if !self.up || !self.target.alive {
                    return refused("no route to host");
                }
                self.memory.restart();
                self.connections += 1;
                self.stage = Stage::Setup;
                self.backs_off_until = 0.0;
                self.until = now + physics.constants.setup_seconds * self.chance[1];
                self.set(Side::Source, MigrationStatus::Setup, out);
                self.refresh(now, out);
                Ok(Reply::Done)
            }
            Action::StartPostcopy if self.stage == Stage::Switch || self.stage.is_split() => {
                Ok(Reply::Done)
            }
            Action::StartPostcopy => {
                if !matches!(self.stage, Stage::Setup | Stage::Pass) || !self.postcopy_allowed {
                    return refused("no migration that could switch to post-copy is active");
                }
                self.postcopy_asked = true;
                Ok(Reply::Done)
            }
            Action::Sample(side) => Ok(Reply::Sample(Box::new(self.figures(*side)))),
            Action::Cancel | Action::BreakChannel => match self.stage {
                Stage::Idle => Ok(Reply::Done),
                Stage::Switch | Stage::PostCopy | Stage::Tail => {
                    refused("post-copy cannot be cancelled")
                }
                _ => {
                    let cancelled = *action == Action::Cancel;
                    let status = if cancelled {
                        MigrationStatus::Cancelled
                    } else {
                        MigrationStatus::Failed
                    };
                    self.give_up(status, out, now);
                    Ok(Reply::Done)
                }
            },
            Action::DestroyTarget => {
                self.kill(Side::Target, out, now);
                Ok(Reply::Done)
            }
            Action::DestroySource => {
                self.kill(Side::Source, out, now);
                Ok(Reply::Done)
            }
            Action::Resume(Side::Source) if self.stage != Stage::Idle => {
                refused("migration is not finalized yet")
            }
            // One that waits for its stream only remembers that it shall run then.
            Action::Resume(Side::Target) if self.target.status != MigrationStatus::Completed => {
                Ok(Reply::Done)
            }
            Action::Resume(_) => {
                if !self.qemu(side).running {
                    self.qemu(side).running = true;
                    out.push((side, QemuEvent::Resumed));
                }
                Ok(Reply::Done)
            }
            Action::Stop(_) => {
                if self.qemu(side).running {
                    self.qemu(side).running = false;
                    out.push((side, QemuEvent::Stopped));
                }
                Ok(Reply::Done)
            }
            Action::PauseChannel(Side::Source) if self.stage == Stage::Tail => {
                self.run_old_copy(out);
                self.refresh(now, out);
                Ok(Reply::Done)
            }
            Action::PauseChannel(_) => {
                let status = &self.qemu(side).status;
                let alive = [MigrationStatus::PostcopyActive, MigrationStatus::PostcopyRecover];
                if !alive.contains(status) {
                    return refused("not in post-copy");
                }
                self.recovering = false;
                self.set(side, MigrationStatus::PostcopyPaused, out);
                let other = if side == Side::Source { Side::Target } else { Side::Source };
                let hears = self.is_wired(now) && !self.is_frozen(other, now);
                if hears && self.qemu(other).status == MigrationStatus::PostcopyActive {
                    if self.stage == Stage::Tail {
                        self.run_old_copy(out);
                    } else {
                        self.set(other, MigrationStatus::PostcopyPaused, out);
                    }
                }
                self.refresh(now, out);
                Ok(Reply::Done)
            }
            Action::ListenAgain => {
                if self.target.status != MigrationStatus::PostcopyPaused {
                    return refused("not paused");
                }
                self.listening = true;
                Ok(Reply::Listening("tcp:simulated:2".to_owned()))
            }
            Action::ResumeMigration { .. } => {
                let paused = self.source.status == MigrationStatus::PostcopyPaused;
                if !paused || !self.listening || !self.up || !self.target.alive {
                    return refused("no path");
                }
                self.listening = false;
                self.recovering = true;
                self.connections += 1;
                self.backs_off_until = 0.0;
                self.set(Side::Source, MigrationStatus::PostcopyRecover, out);
                self.refresh(now, out);
                Ok(Reply::Done)
            }
        }
    }

    fn figures(&self, side: Side) -> MigrationSample {
        let qemu = if side == Side::Source { &self.source } else { &self.target };
        let run_state = match (qemu.running, side, &qemu.status) {
            (true, ..) => RunState::Running,
            (false, Side::Source, MigrationStatus::Completed) => RunState::PostMigrate,
            (false, Side::Source, _) => RunState::FinishMigrate,
            (false, Side::Target, _) => RunState::InMigrate,
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, far below 2^53"
        )]
        let whole = |value: f64| value.max(0.0) as u64;
        let completed = qemu.status == MigrationStatus::Completed;
        MigrationSample {
            status: qemu.status.clone(),
            run_state,
            transferred: Bytes::new(whole(self.sent)),
            remaining: Bytes::new(whole(if self.stage == Stage::Tail {
                0.0
            } else {
                self.memory.pending()
            })),
            total: Bytes::new(whole(self.memory.content() + self.memory.zero_bytes)),
            rate: Bandwidth::from_bytes_per_second(whole(self.rate)),
            dirty_rate: Bandwidth::ZERO,
            postcopy_requests: self.faults,
            downtime: completed.then_some(Duration::ZERO),
            error: None,
        }
    }
}
