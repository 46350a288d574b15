//! What each state makes of the facts.

use super::{
    Action, ActionError, Bandwidth, CONFIRM_PERIOD, FailureClass, LAST_WORD_LIMIT, MigrationSample,
    MigrationStatus, Outcome, PREPARE_LIMIT, RESTORE_LIMIT, ROLLBACK_LIMIT, RecordKind, Reply,
    RunState, SAMPLE_PERIOD, SETTLE_LIMIT, STALL_LIMIT, SWITCHOVER_RATE_TOLERANCE, Side, State,
    Technique, Timestamp, Undo, VmDriver, halt::HALT_LIMIT,
};
use crate::gang::PROGRESS;
use droveway_plan::Fallback;

impl VmDriver {
    /// Follows the facts until they lead no further. Each step is a transition of the table, which has no cycle without
    /// new input; the bound only guards against a mistake here.
    pub(super) fn evaluate(&mut self, now: Timestamp) {
        const STEPS_MAX: usize = 8;
        for _ in 0..STEPS_MAX {
            let before = self.state.phase();
            match &self.state {
                State::Pending | State::Ended { .. } => {}
                State::Preparing { .. } | State::Ready { .. } => self.evaluate_before(now),
                State::PreCopy => self.evaluate_pre_copy(now),
                State::Switchover => self.evaluate_switchover(now),
                State::PostCopy => self.evaluate_post_copy(now),
                State::PostCopyPaused { .. } | State::Recovering { .. } => {
                    self.evaluate_broken(now);
                }
                State::Settling { .. } => self.evaluate_settling(now),
                State::RollingBack { .. } => self.evaluate_rolling_back(now),
                State::Halting { .. } => self.evaluate_halting(now),
            }
            if self.state.phase() == before {
                return;
            }
        }
    }

    /// The bound of the present state.
    pub(super) fn limit(&self) -> Option<Timestamp> {
        let limit = match &self.state {
            State::Pending | State::Ended { .. } => return None,
            State::Ready { .. } => return self.revised_at.map(|at| at + PREPARE_LIMIT),
            State::Preparing { .. } => PREPARE_LIMIT,
            State::PreCopy => return Some(self.last_growth.1 + STALL_LIMIT),
            State::PostCopy | State::Switchover if self.source.gone => {
                let gone_at = self.source.gone_at.unwrap_or(self.entered_at);
                return Some(gone_at.max(self.entered_at) + LAST_WORD_LIMIT);
            }
            // Looked at with every sample.
            State::PostCopy => return None,
            State::Switchover => self.plan.switchover_limit,
            State::PostCopyPaused { .. } | State::Recovering { .. } => return self.broken_limit(),
            State::Settling { .. } => SETTLE_LIMIT,
            State::RollingBack { step: Undo::Restore, .. } => RESTORE_LIMIT,
            State::RollingBack { .. } => ROLLBACK_LIMIT,
            State::Halting { .. } => HALT_LIMIT,
        };
        Some(self.entered_at + limit)
    }

    pub(super) fn is_over_limit(&self, now: Timestamp) -> bool {
        self.limit().is_some_and(|limit| limit <= now)
    }

    fn evaluate_before(&mut self, now: Timestamp) {
        if self.source.gone {
            self.roll_back(now, "the source's QEMU is gone".to_owned());
        } else if self.target.gone {
            self.roll_back(now, "the target's QEMU is gone".to_owned());
        } else if self.is_over_limit(now) {
            self.roll_back(now, format!("not ready within {PREPARE_LIMIT:?}"));
        }
    }

    fn evaluate_pre_copy(&mut self, now: Timestamp) {
        if self.source.gave_up() {
            self.roll_back(now, self.failure("QEMU gave up the migration"));
        } else if self.is_postcopy_active() {
            self.enter_post_copy(now);
        } else if self.stopped_at.is_some()
            || self.source.is(&MigrationStatus::Device)
            || self.source.is(&MigrationStatus::Completed)
            || self.resumed_at.is_some()
        {
            self.enter(now, State::Switchover);
        } else if self.source.gone {
            // The VM ran at the source until now, so its death took it along.
            self.lose(now, "the source's QEMU died while the VM ran there");
        } else if self.target.gone {
            self.roll_back(now, "the target's QEMU died".to_owned());
        } else if self.is_over_limit(now) {
            self.roll_back(now, format!("nothing was sent for {STALL_LIMIT:?}: the path is dead"));
        }
    }

    fn evaluate_switchover(&mut self, now: Timestamp) {
        let arrived = self.resumed_at.is_some()
            || (!self.was_running && self.target.is(&MigrationStatus::Completed));
        if self.source.gave_up() {
            self.roll_back(now, self.failure("the switchover failed"));
        } else if self.is_postcopy_active() {
            self.enter_post_copy(now);
        } else if arrived && (self.source.is(&MigrationStatus::Completed) || self.source.gone) {
            self.settle(now);
        } else if self.target.gone {
            self.roll_back(now, "the target's QEMU died during the switchover".to_owned());
        } else if self.is_over_limit(now) {
            if arrived || self.source.is(&MigrationStatus::Completed) {
                // The target runs, or the source has its word that it does: forward.
                self.settle(now);
            } else if self.source.gone {
                self.roll_back(now, "the source's QEMU died in the switchover".to_owned());
            } else {
                let limit = self.plan.switchover_limit;
                self.roll_back(now, format!("the switchover took longer than {limit:?}"));
            }
        } else if self.source.is(&MigrationStatus::Completed) && self.next_sample.is_none() {
            // The target's RESUME is under way, or was missed.
            self.next_sample = Some(now + CONFIRM_PERIOD);
        }
    }

    fn evaluate_post_copy(&mut self, now: Timestamp) {
        if self.source.is(&MigrationStatus::Completed)
            || self.target.is(&MigrationStatus::Completed)
        {
            self.settle(now);
        } else if self.target.gone {
            self.lose(now, "the target's QEMU died while the VM's memory was split");
        } else if self.source.gone {
            if self.is_over_limit(now) {
                self.lose(now, "the source's QEMU died while it still held the VM's memory");
            } else if self.next_sample.is_none_or(|due| due > now + CONFIRM_PERIOD) {
                // The target's word that it had everything may be under way.
                self.next_sample = Some(now + CONFIRM_PERIOD);
            }
        } else if self.source.gave_up() {
            if self.ran_at_target() {
                self.lose(now, "QEMU gave up post-copy after the VM ran at the target");
            } else {
                self.roll_back(now, self.failure("post-copy could not begin"));
            }
        } else {
            self.look_for_a_break(now);
        }
    }

    fn evaluate_settling(&mut self, now: Timestamp) {
        let State::Settling { confirmed } = self.state else { return };
        if confirmed {
            let cleaned = !self.awaits(|action| *action == Action::DestroySource);
            if cleaned || self.source.gone || self.is_over_limit(now) {
                if !cleaned && !self.source.gone {
                    self.warn(now, "the source's QEMU did not end; the VM runs at the target");
                }
                self.end(now, Outcome::Completed, None);
            }
        } else if self.target.gone {
            if self.postcopied || self.source.gone {
                self.lose(now, "the target's QEMU died before the source was released");
            } else {
                self.roll_back(now, "the target's QEMU died right after the switchover".to_owned());
            }
        } else if self.is_over_limit(now) {
            let text = "the target did not confirm that the VM runs; the source is kept, stopped";
            self.end(now, Outcome::NeedsRecovery, Some(text.to_owned()));
        } else if self.next_sample.is_none() {
            self.next_sample = Some(now + CONFIRM_PERIOD);
        }
    }

    pub(super) fn on_sample_due(&mut self, now: Timestamp) {
        match self.state {
            State::PostCopy if self.source.gone => self.sample(Side::Target),
            State::PreCopy | State::PostCopy => {
                self.sample(Side::Source);
                self.next_sample = Some(now + self.sample_period(SAMPLE_PERIOD));
            }
            // The source's main loop is inside the stream now and would not answer.
            State::Switchover | State::Settling { .. } => self.sample(Side::Target),
            State::RollingBack { .. } => self.on_undo_due(),
            State::Halting { .. } => self.on_halt_due(now),
            _ => {}
        }
    }

    pub(super) fn on_pass(&mut self, now: Timestamp, pass: u32) {
        if pass > self.progress.pass && pass >= 2 {
            self.last_pass_time = now.since(self.pass_began);
            self.pass_began = now;
        }
        self.progress.pass = self.progress.pass.max(pass);
        self.record(now, RecordKind::Pass(pass));
        let passes_done = pass.saturating_sub(1);
        let hybrid_due = self.plan.technique == Technique::Hybrid
            && passes_done >= self.plan.switch.after_pass
            && !self.has_decided_to_split();
        if hybrid_due {
            self.decide(
                now,
                format!("pass {passes_done} of the hybrid is done"),
                format!("switch rule: after pass {}", self.plan.switch.after_pass),
                "switch to post-copy",
                Some("another pass"),
            );
            self.ask_postcopy(now);
        } else if passes_done >= self.plan.max_passes && !self.has_decided_to_split() {
            self.give_up_converging(now, passes_done);
            return;
        }
        self.boundary_wanted = Some(pass);
        self.sample(Side::Source);
    }

    fn give_up_converging(&mut self, now: Timestamp, passes: u32) {
        let reason = format!("pre-copy did not converge in {passes} passes");
        let inputs = format!(
            "remaining {}, dirty rate {}",
            self.progress.remaining.human(),
            self.progress.dirty_rate.human()
        );
        match self.plan.fallback {
            Fallback::PostCopy => {
                self.decide(now, reason, inputs, "switch to post-copy", Some("abort"));
                self.ask_postcopy(now);
            }
            Fallback::Abort => {
                self.decide(now, reason.clone(), inputs, "abort, stay at the source", None);
                self.roll_back(now, reason);
            }
        }
    }

    pub(super) fn on_sample(&mut self, now: Timestamp, side: Side, sample: &MigrationSample) {
        let facts = self.facts(side);
        // An event is newer than figures that were asked for before it; never step back from an end.
        let over = facts.status.as_ref().is_some_and(MigrationStatus::is_over);
        if !over || sample.status.is_over() {
            facts.status = Some(sample.status.clone());
        }
        facts.run_state = Some(sample.run_state.clone());
        facts.error.clone_from(&sample.error);
        match side {
            Side::Source => self.on_source_sample(now, sample),
            Side::Target => self.on_target_sample(now, sample),
        }
    }

    fn on_source_sample(&mut self, now: Timestamp, sample: &MigrationSample) {
        self.sampled_at = Some(now);
        if sample.transferred > self.last_growth.0 {
            self.last_growth = (sample.transferred, now);
        }
        self.liveness.note_written(now, sample.transferred);
        let progress = &mut self.progress;
        progress.transferred = progress.transferred.max(sample.transferred);
        progress.remaining = sample.remaining;
        progress.total = sample.total;
        // QEMU measures a rate from pass to pass, and has none of a stream that stands still.
        let still = self.last_growth.1 + PROGRESS <= now;
        progress.rate = if still { Bandwidth::ZERO } else { sample.rate };
        progress.dirty_rate = sample.dirty_rate;
        // One that gave up has no figures any more.
        progress.postcopy_requests = progress.postcopy_requests.max(sample.postcopy_requests);
        progress.qemu_downtime = sample.downtime.or(progress.qemu_downtime);
        if progress.pass <= 1 && self.boundary_wanted.is_none_or(|pass| pass <= 2) {
            progress.needed = progress.needed.max(sample.transferred);
        }
        let boundary = self.boundary_wanted.take();
        if let Some(pass) = boundary {
            self.on_boundary(now, pass, sample);
        }
        self.climb(now, sample, boundary.is_some());
        match &self.state {
            State::PreCopy => self.follow_rate(now, sample),
            State::RollingBack { step: Undo::Confirm, .. } => self.confirm_source(now, sample),
            _ => {}
        }
    }

    fn on_boundary(&mut self, now: Timestamp, pass: u32, sample: &MigrationSample) {
        if pass == 2 {
            // QEMU ends a pass with up to a switchover's worth unsent; what is left and was not dirtied meanwhile is that.
            let dirtied = sample.dirty_rate * now.since(self.entered_at);
            let unsent = sample.remaining.saturating_sub(dirtied);
            self.progress.needed = sample.transferred + unsent;
        }
        if pass >= 2 {
            self.note_dirtied(sample.remaining);
        }
        self.record(
            now,
            RecordKind::Boundary {
                pass,
                transferred: sample.transferred,
                remaining: sample.remaining,
            },
        );
        // What the pass before left; the first pass sends all there is.
        let before = self.last_boundary_remaining.replace(sample.remaining);
        let before = before.or((pass == 2).then_some(self.progress.needed));
        let (Some(before), true) = (before, self.state == State::PreCopy) else { return };
        let stalled = sample.remaining.as_f64() >= self.plan.switch.stalled_ratio * before.as_f64();
        if self.plan.technique == Technique::Hybrid && stalled && !self.has_decided_to_split() {
            self.decide(
                now,
                format!("pass {} stopped shrinking", pass - 1),
                format!("left {} after {}", sample.remaining.human(), before.human()),
                "switch to post-copy",
                Some("another pass"),
            );
            self.ask_postcopy(now);
        }
    }

    /// Keeps QEMU's idea of the switchover's rate near what the stream really gets: on a contended port the planned share
    /// would let QEMU stop the VM for far longer than its downtime limit.
    fn follow_rate(&mut self, now: Timestamp, sample: &MigrationSample) {
        let Some((since, bytes, smoothed)) = self.measured else {
            self.measured = Some((now, sample.transferred, self.plan.switchover_bandwidth));
            return;
        };
        let time = now.since(since);
        if time < SAMPLE_PERIOD.mul_f64(0.75) {
            return;
        }
        let sent = sample.transferred.saturating_sub(bytes);
        let rate = Bandwidth::of(sent, time);
        let smoothed = Bandwidth::from_bits_per_second(
            smoothed.bits_per_second() / 2 + rate.bits_per_second() / 2,
        );
        self.measured = Some((now, sample.transferred, smoothed));
        let paced = self.plan.bandwidth.bandwidth().is_some_and(|cap| {
            // Held back by its own cap, not by the port: the switchover will be faster.
            rate.bits_per_second() >= cap.bits_per_second() / 10 * 8
        });
        // A stream that stands still halves it again and again; QEMU takes whole bytes, and none of them for "no limit".
        let is_nothing = smoothed.bytes_per_second() == 0;
        if paced || self.plan.technique == Technique::StopAndCopy || is_nothing {
            return;
        }
        let wanted = smoothed.min(self.plan.switchover_bandwidth);
        #[expect(clippy::cast_precision_loss, reason = "a rate far below 2^53 bit/s")]
        let change = (wanted.bits_per_second() as f64
            / self.switchover_bandwidth.bits_per_second() as f64
            - 1.0)
            .abs();
        if change > SWITCHOVER_RATE_TOLERANCE {
            self.switchover_bandwidth = wanted;
            self.act(Action::SetSwitchoverBandwidth(wanted));
        }
    }

    fn on_target_sample(&mut self, now: Timestamp, sample: &MigrationSample) {
        let runs = sample.run_state == RunState::Running;
        if runs && self.is_moving() {
            self.note_resumed(now);
        }
        match self.state {
            State::Settling { confirmed: false } => {
                if runs || !self.was_running {
                    self.state = State::Settling { confirmed: true };
                    self.entered_at = now;
                    if !self.source.gone {
                        self.act(Action::DestroySource);
                    }
                } else if sample.run_state == RunState::Paused {
                    self.act(Action::Resume(Side::Target));
                }
            }
            State::Switchover
                if sample.run_state == RunState::Paused
                    && self.was_running
                    && self.source.is(&MigrationStatus::Completed) =>
            {
                self.act(Action::Resume(Side::Target));
            }
            _ => {}
        }
    }

    pub(super) fn on_done(&mut self, now: Timestamp, action: &Action, reply: Reply) {
        match (action, reply) {
            (Action::Configure { .. }, _) => {
                if let State::Preparing { configured } = &mut self.state {
                    *configured += 1;
                    if *configured == 2 {
                        self.act(Action::Listen);
                    }
                }
                self.revised_at = None;
            }
            (Action::Listen, Reply::Listening(uri)) => {
                if matches!(self.state, State::Preparing { .. }) {
                    self.enter(now, State::Ready { uri });
                    self.catch_up(now);
                }
            }
            (Action::Migrate { .. }, _)
                if self.plan.technique == Technique::PostCopy && self.state == State::PreCopy =>
            {
                self.ask_postcopy(now);
            }
            (Action::Restore(_), _) => self.note_restored(now),
            (Action::DestroyTarget, _) => self.note_gone(now, Side::Target),
            (Action::DestroySource, _) => self.note_gone(now, Side::Source),
            (Action::Resume(Side::Source), _) => {
                self.source.run_state = Some(RunState::Running);
                self.sample(Side::Source);
            }
            (Action::Resume(Side::Target), _) => self.sample(Side::Target),
            (Action::Stop(Side::Source), _) => {
                self.source.run_state = Some(RunState::Paused);
                self.sample(Side::Source);
            }
            (Action::ListenAgain, Reply::Listening(uri)) => {
                if matches!(self.state, State::Recovering { .. }) {
                    self.act(Action::ResumeMigration { uri });
                }
            }
            _ => {}
        }
    }

    pub(super) fn on_error(&mut self, now: Timestamp, action: &Action, error: &ActionError) {
        if error.class == FailureClass::Gone {
            match action {
                Action::DestroyTarget => self.note_gone(now, Side::Target),
                Action::Sample(side) | Action::Resume(side) | Action::Stop(side) => {
                    self.note_gone(now, *side);
                }
                Action::Restore(_) => self.note_gone(now, Side::Source),
                _ => {}
            }
        }
        match action {
            Action::Configure { .. } | Action::Listen => {
                if matches!(self.state, State::Preparing { .. }) {
                    self.roll_back(now, format!("could not prepare: {error}"));
                } else if self.revised_at.take().is_some() {
                    // What it was prepared with holds, and is as safe.
                    self.warn(now, format!("the changed plan was not taken: {error}"));
                }
            }
            Action::Migrate { .. } => {
                if self.state == State::PreCopy {
                    self.roll_back(now, format!("could not start: {error}"));
                }
            }
            Action::StartPostcopy => {
                (self.postcopy_asked, self.postcopy_asked_at) = (false, None);
                if self.state == State::PreCopy {
                    let text = format!("the switch to post-copy was refused: {error}");
                    self.warn(now, text);
                    // Without its switch a hybrid is a pre-copy, and may stand still for as long as one.
                    if self.plan.first_downtime_limit() < self.plan.downtime_limit {
                        self.act(Action::SetDowntimeLimit(self.plan.downtime_limit));
                    }
                    if self.progress.pass > self.plan.max_passes {
                        self.roll_back(now, "post-copy, the fallback, was refused".to_owned());
                    }
                }
            }
            // It may have been done: what became of it is asked.
            Action::ResumeMigration { .. } if error.class == FailureClass::Timeout => {}
            Action::ListenAgain | Action::ResumeMigration { .. } => {
                self.on_renewal_failed(now, &error.to_string());
            }
            Action::SetSwitchoverBandwidth(_)
            | Action::SetDowntimeLimit(_)
            | Action::SetBandwidth(_)
            | Action::SetPostcopyBandwidth(_)
            | Action::DestroySource => {
                self.warn(now, error.to_string());
            }
            // It was paused already, or goes on: which of the two is worth knowing before it is tried again.
            Action::PauseChannel(side) => {
                if error.class == FailureClass::Refused
                    && matches!(self.state, State::PostCopyPaused { .. })
                {
                    self.sample(*side);
                }
            }
            // These are asked again, or their effect is looked for in samples.
            Action::Sample(_)
            | Action::Cancel
            | Action::BreakChannel
            | Action::DestroyTarget
            | Action::Restore(_)
            | Action::Resume(_)
            | Action::Stop(_) => {}
        }
    }

    pub(super) fn is_postcopy_active(&self) -> bool {
        // Only the source's word: the target's event may arrive first, but the source decides whether there is a return.
        self.source.is(&MigrationStatus::PostcopyActive)
            || (self.source.gone && self.target.is(&MigrationStatus::PostcopyActive))
    }

    pub(super) fn enter_post_copy(&mut self, now: Timestamp) {
        self.postcopied = true;
        self.liveness.begin(now);
        if matches!(self.state, State::PreCopy | State::RollingBack { .. })
            && self.stopped_at.is_none()
        {
            // Its STOP is under way on the same socket or was missed; the status implies it.
            self.stopped_at = Some(now);
            self.record(now, RecordKind::Stopped);
        }
        self.enter(now, State::PostCopy);
        self.catch_up(now);
        self.next_sample = Some(now + SAMPLE_PERIOD);
    }

    pub(super) fn settle(&mut self, now: Timestamp) {
        self.enter(now, State::Settling { confirmed: false });
        self.next_sample = Some(now + CONFIRM_PERIOD);
        self.sample(Side::Target);
        if !self.source.gone {
            // The final figures, while the source still has them.
            self.sample(Side::Source);
        }
    }

    pub(super) fn failure(&self, what: &str) -> String {
        let said = self.source.error.as_ref().or(self.target.error.as_ref());
        said.map_or_else(|| what.to_owned(), |error| format!("{what}: {error}"))
    }

    pub(super) fn decide(
        &mut self,
        now: Timestamp,
        reason: String,
        inputs: String,
        choice: &str,
        runner_up: Option<&str>,
    ) {
        self.record(
            now,
            RecordKind::Decided {
                reason,
                inputs,
                choice: choice.to_owned(),
                runner_up: runner_up.map(str::to_owned),
            },
        );
    }
}
