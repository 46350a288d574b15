//! A post-copy whose path broke: how that is noticed, and how it goes on.
//!
//! It is noticed by QEMU's own word on either side, or by [`Liveness`](super::liveness). Then each side is told that its channel
//! is broken (`migrate-pause`, out of band; one side's does not reach the other over a dead path). Once both are paused:
//!
//! ```text
//! a heartbeat is answered, or it is time for a blind try  ->  the target listens anew  ->  the source connects  ->  post-copy
//!                                   ^------------------- back-off, 1 s at most ----------------------'
//! ```
//!
//! The heartbeat costs nothing, so it is looked for five times a second; a real try while the network is away costs QEMU a
//! connection attempt, so it is made now and then only, in case that heartbeats are held back somewhere. Nothing is ever ended
//! here: after [`PATIENCE`] an operator is told what to do, and both sides keep what they have.

use super::{
    Action, Beat, Bytes, ConnectionSample, MigrationStatus, Outcome, Phase, RecordKind,
    SAMPLE_PERIOD, Side, State, Timestamp, VmDriver, liveness::STALL,
};
use std::time::Duration;

/// A side answers `migrate-pause` within milliseconds (1 ms measured); one that has not said so by then is not waited for.
const PAUSE_LIMIT: Duration = Duration::from_secs(1);
/// A source connects within milliseconds once the path is there. One that has not has met a dead path, and its kernel would look
/// again more and more rarely: it is made to begin anew.
const CONNECT_LIMIT: Duration = Duration::from_millis(1_500);
/// Once connected the two sides exchange which pages are there: 2 to 3 ms for 256 MiB (measured), a second for a terabyte.
const RECOVERY_LIMIT: Duration = Duration::from_secs(5);
/// The first wait between two tries; doubled up to `BACKOFF_MAX`.
const BACKOFF: Duration = Duration::from_millis(250);
/// The longest wait between two tries: post-copy goes on within 3 s of the network's return, also at the worst instant.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Between two tries while heartbeats, which were answered before, are not: they may be held back where a stream is not.
const BLIND_EVERY: Duration = Duration::from_secs(5);
/// What the source's QEMU said longer ago is no word of now: it is asked five times a second.
const FRESH: Duration = Duration::from_secs(1);
/// From what a source has said to what it is told then: the path may come back in between, and what fits is sent.
const A_MOMENT: Duration = Duration::from_millis(50);
/// How long a broken path is waited for before an operator is asked: longer than a switch takes to start anew, or a cable to be
/// put back.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// How long a post-copy whose target does not run yet may stand still before an operator is asked.
const UNSTARTED_LIMIT: Duration = Duration::from_secs(60);

impl VmDriver {
    /// Takes what the kernels at both ends say of the migration's connections. To be called some times a second.
    pub fn handle_connection(&mut self, now: Timestamp, sample: ConnectionSample) {
        self.liveness.note_connection(now, sample);
        self.evaluate(now);
    }

    /// Takes a heartbeat between the two hosts, or its answer.
    pub fn handle_beat(&mut self, now: Timestamp, beat: Beat) {
        self.liveness.note_beat(now, beat);
        self.evaluate(now);
    }

    /// Whether its memory is, or may be, on two hosts that have to reach each other: heartbeats between them are of use.
    #[must_use]
    pub fn depends_on_path(&self) -> bool {
        matches!(self.phase(), Phase::PostCopy | Phase::PostCopyPaused | Phase::Recovering)
    }

    /// Whether post-copy's path is broken.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        matches!(self.phase(), Phase::PostCopyPaused | Phase::Recovering)
    }

    /// In post-copy: whether the path broke.
    pub(super) fn look_for_a_break(&mut self, now: Timestamp) {
        for (side, name) in [(Side::Source, "source"), (Side::Target, "target")] {
            if self.is_broken(side) {
                let what = format!("the {name}'s QEMU says that post-copy's path broke");
                let text = self.failure(&what);
                if side == Side::Target && self.may_have_sent_everything(now) {
                    // The source hears of it as well, and says how it takes it.
                    self.await_last_word(now, text);
                } else {
                    self.warn(now, text);
                    self.break_off(now);
                }
                return;
            }
        }
        // A source that sends its last bytes over a dead path answers nothing (its main loop is inside the stream: seen with QEMU
        // 10.0.2), and without other witnesses nobody else tells of it.
        let said_at = self.sampled_at.unwrap_or(self.entered_at).max(self.entered_at);
        let silent = now.since(said_at);
        let mute = || format!("the source has not answered for {:.1} s", silent.as_secs_f64());
        let seen = self.liveness.verdict(now).or_else(|| (silent >= STALL).then(mute));
        let Some(seen) = seen else {
            self.broke_at = None;
            return;
        };
        if self.may_have_sent_everything(now) {
            self.await_last_word(now, seen);
            return;
        }
        // What was left a fifth of a second ago may be sent by now, if the path has just come back: it is asked first.
        if self.sampled_at != Some(now) {
            self.sample(Side::Source);
            return;
        }
        // Breaking post-copy before the target runs destroys the guest (measured, QEMU 10.0.2: the target exits with "loadvm
        // failed", the source says "not finalized yet"): until then only patience helps.
        if self.resumed_at.is_some() || !self.was_running {
            self.decide(
                now,
                "post-copy's path is dead".to_owned(),
                seen,
                "pause post-copy on both sides, and renew its path",
                Some("wait for TCP, which takes some 15 minutes"),
            );
            self.break_off(now);
        } else if self.entered_at + UNSTARTED_LIMIT <= now {
            let text = format!(
                "the path broke while post-copy began ({seen}); both sides are kept, and QEMU goes on by itself if the path \
                 returns: end neither, restore the path, then run `droveway recover {}`",
                self.plan.vm
            );
            self.end(now, Outcome::NeedsRecovery, Some(text));
        }
    }

    /// Whether the source has handed everything to its kernel, and only waits for the target's last word, or would by the time that it
    /// is told something. A source that has not said lately what is left may have.
    #[must_use]
    pub fn may_have_sent_everything(&self, now: Timestamp) -> bool {
        let known = self.sampled_at.is_some_and(|at| now.since(at) < FRESH);
        let in_a_moment = self.plan.switchover_bandwidth * A_MOMENT;
        !known || self.progress.total > Bytes::ZERO && self.progress.remaining <= in_a_moment
    }

    /// A source that waits for the target's last word takes a pause for the end of the migration: it fails, and runs its own, old
    /// copy beside the target's (seen with QEMU 10.0.2). What is under way is the kernels', who send it again until the path is
    /// back: so only patience helps.
    fn await_last_word(&mut self, now: Timestamp, seen: String) {
        match self.broke_at {
            None => {
                self.broke_at = Some(now);
                self.decide(
                    now,
                    "post-copy's path is dead, and everything may be sent".to_owned(),
                    seen,
                    "wait until the path is back and what is under way arrives",
                    Some("pause post-copy on both sides, and renew its path"),
                );
            }
            Some(since) if since + PATIENCE <= now => {
                let text = format!(
                    "the path between the hosts did not come back within {} s. Everything is sent, or its source does not answer; what is under way arrives by itself \
                     once the path is back: end neither QEMU, and reboot neither host. Restore the path, then run `droveway recover {}`",
                    PATIENCE.as_secs(),
                    self.plan.vm
                );
                self.end(now, Outcome::NeedsRecovery, Some(text));
            }
            Some(_) => {}
        }
    }

    fn break_off(&mut self, now: Timestamp) {
        self.broke_at = Some(now);
        self.enter_paused(now, 0);
    }

    pub(super) fn is_broken(&self, side: Side) -> bool {
        let facts = if side == Side::Source { &self.source } else { &self.target };
        facts.is(&MigrationStatus::PostcopyPaused)
    }

    fn enter_paused(&mut self, now: Timestamp, attempts: u32) {
        // Late answers of a try that was given up are not those of the next one.
        self.pending.retain(|_, action| {
            !matches!(
                action,
                Action::Sample(_) | Action::ListenAgain | Action::ResumeMigration { .. }
            )
        });
        for side in [Side::Source, Side::Target] {
            if !self.is_broken(side) {
                // What it said was of the connection that broke.
                self.facts(side).status = None;
                self.act(Action::PauseChannel(side));
            }
        }
        self.next_sample = None;
        let retry_at = now + BACKOFF.saturating_mul(1 << attempts.min(8)).min(BACKOFF_MAX);
        self.enter(now, State::PostCopyPaused { attempts, retry_at });
    }

    /// Broken already when it was taken over.
    pub(super) fn broken_when_found(&mut self, now: Timestamp) -> State {
        if !self.is_broken(Side::Target) {
            self.target.status = None;
            self.act(Action::PauseChannel(Side::Target));
        }
        State::PostCopyPaused { attempts: 0, retry_at: now + BACKOFF }
    }

    pub(super) fn evaluate_broken(&mut self, now: Timestamp) {
        if self.target.gone || self.source.gone {
            let side = if self.target.gone { "target" } else { "source" };
            self.lose(now, &format!("the {side}'s QEMU died while the VM's memory was split"));
            return;
        }
        if self.source.is(&MigrationStatus::Completed)
            || self.target.is(&MigrationStatus::Completed)
        {
            self.settle(now);
            return;
        }
        if self.source.gave_up() {
            // There is nothing left that could be renewed.
            let text = self.failure("QEMU gave up post-copy when its path broke");
            self.lose(now, &text);
            return;
        }
        let is_active = |facts: &super::Facts| facts.is(&MigrationStatus::PostcopyActive);
        match self.state {
            State::Recovering { attempts } => {
                if is_active(&self.source) {
                    self.on_renewed(now, attempts + 1);
                } else if self.is_broken(Side::Source) {
                    let text = self.failure("the source could not connect");
                    self.on_renewal_failed(now, &text);
                } else if self.patience_ends() + STALL <= now {
                    // Its source has not even said whether it still connects.
                    self.give_up_renewing(now);
                } else {
                    self.bound_renewal(now);
                }
            }
            State::PostCopyPaused { attempts, .. } => {
                if is_active(&self.source) && is_active(&self.target) {
                    // A try that was given up has succeeded after all.
                    self.on_renewed(now, attempts);
                } else if self.patience_ends() <= now {
                    self.give_up_renewing(now);
                } else if !self.renewed_in_turn && self.renewal_due().is_some_and(|due| due <= now)
                {
                    self.begin_renewal(now);
                }
            }
            _ => {}
        }
    }

    /// A source that has connected in the last moment may have sent everything by now, and is not to be paused then: it is asked
    /// whether it still connects.
    fn bound_renewal(&mut self, now: Timestamp) {
        let limit = self.renewal_limit();
        if limit > now {
            return;
        }
        if self.sampled_at == Some(now) {
            self.on_renewal_failed(now, "the source did not connect in time");
        } else {
            self.sample(Side::Source);
        }
    }

    fn renewal_limit(&self) -> Timestamp {
        let connected = self.target.is(&MigrationStatus::PostcopyRecover);
        self.entered_at + if connected { RECOVERY_LIMIT } else { CONNECT_LIMIT }
    }

    fn patience_ends(&self) -> Timestamp {
        self.broke_at.unwrap_or(self.entered_at) + PATIENCE
    }

    /// The bound of the present state, one of the two of a broken post-copy.
    pub(super) fn broken_limit(&self) -> Option<Timestamp> {
        if matches!(self.state, State::Recovering { .. }) {
            let asked = self.awaits(|action| *action == Action::Sample(Side::Source));
            let limit = (!asked).then(|| self.renewal_limit());
            return limit.into_iter().chain([self.patience_ends() + STALL]).min();
        }
        let own = self.renewal_due().filter(|_| !self.renewed_in_turn);
        own.into_iter().chain([self.patience_ends()]).min()
    }

    /// Whose turn it is to be renewed is said from outside from now on, by [`Self::begin_renewal`].
    pub(crate) fn renew_in_turn(&mut self) {
        self.renewed_in_turn = true;
    }

    /// When its path may be tried to be renewed, as things stand; `None`: it is not broken, or is being renewed.
    pub(crate) fn renewal_due(&self) -> Option<Timestamp> {
        let State::PostCopyPaused { retry_at, .. } = self.state else { return None };
        let both = self.is_broken(Side::Source) && self.is_broken(Side::Target);
        let paused = if both { self.entered_at } else { self.entered_at + PAUSE_LIMIT };
        let ready = retry_at.max(paused);
        let waits = self.liveness.has_heartbeat()
            && !self.liveness.was_answered_since(self.entered_at)
            && !self.try_blindly;
        Some(if waits { ready.max(self.entered_at + BLIND_EVERY) } else { ready })
    }

    /// Since when its path is being renewed.
    pub(crate) fn renewing_since(&self) -> Option<Timestamp> {
        matches!(self.state, State::Recovering { .. }).then_some(self.entered_at)
    }

    /// Since when it has been broken, or is to be tried anew.
    pub(crate) const fn broken_since(&self) -> Option<Timestamp> {
        self.broke_at
    }

    /// Tries to renew its path. Only when [`Self::renewal_due`].
    pub(crate) fn begin_renewal(&mut self, now: Timestamp) {
        let State::PostCopyPaused { attempts, .. } = self.state else { return };
        // What was known of the statuses is of the broken connection.
        self.source.status = None;
        self.target.status = None;
        self.enter(now, State::Recovering { attempts });
        self.act(Action::ListenAgain);
    }

    pub(super) fn on_renewal_failed(&mut self, now: Timestamp, why: &str) {
        let State::Recovering { attempts } = self.state else { return };
        if attempts == 0 {
            // Once is enough: they go on until the path is back.
            let text = format!("post-copy's path was not renewed yet: {why}; it is tried again");
            self.warn(now, text);
        }
        self.try_blindly = false;
        self.enter_paused(now, attempts + 1);
    }

    fn on_renewed(&mut self, now: Timestamp, tries: u32) {
        let broke_at = self.broke_at.take().unwrap_or(now);
        let tries = if tries == 1 { "the first try".to_owned() } else { format!("try {tries}") };
        let seconds = now.since(broke_at).as_secs_f64();
        let text =
            format!("post-copy's path was renewed by {tries}, {seconds:.1} s after the break");
        self.warn(now, text);
        if !self.liveness.was_answered_since(broke_at) {
            // It went on without: heartbeats say nothing of this path.
            self.liveness.forget_heartbeat();
        }
        self.try_blindly = false;
        self.liveness.begin(now);
        self.enter(now, State::PostCopy);
        self.next_sample = Some(now + SAMPLE_PERIOD);
    }

    fn give_up_renewing(&mut self, now: Timestamp) {
        let vm = &self.plan.vm;
        let text = format!(
            "the path between the hosts did not come back within {} s. The VM waits at the target, the rest of its memory is at \
             the source; both QEMUs are kept, and each of them is needed: end neither, and reboot neither host. Restore the \
             path, then run `droveway recover {vm}`",
            PATIENCE.as_secs()
        );
        self.end(now, Outcome::NeedsRecovery, Some(text));
    }

    /// An operator wants it to be tried at once.
    pub(super) fn try_again(&mut self, now: Timestamp) {
        self.broke_at = Some(now);
        if let State::PostCopyPaused { attempts, .. } = self.state {
            self.try_blindly = true;
            self.state = State::PostCopyPaused { attempts, retry_at: now };
        }
        self.record(
            now,
            RecordKind::Decided {
                reason: "an operator asked for it".to_owned(),
                inputs: "post-copy is broken".to_owned(),
                choice: format!("try at once, and for {} s again", PATIENCE.as_secs()),
                runner_up: None,
            },
        );
        self.evaluate(now);
    }
}
