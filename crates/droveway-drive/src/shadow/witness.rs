//! One VM that somebody else moves, as it looks from outside.
//!
//! ```text
//! ready -> pre-copy -> switchover -> ended
//!             |  \---> post-copy <-> post-copy-paused, recovering -> ended
//!             \------> ended (it stays)
//! ```
//!
//! Looks are some time apart and say how things stand, not what happened: a phase that was passed between two of them is not told.
//! So a witness has no transitions to keep; it takes the phase that the figures mean.

use crate::{
    adapt::Course,
    input::{MigrationSample, MigrationStatus, RunState},
    record::{Outcome, Phase, Progress, Record, RecordKind},
    vm::Seen,
};
use droveway_fleet::{Bytes, Timestamp, VmId};
use droveway_plan::replan::{Dirtied, Passing, Standing};
use std::{collections::VecDeque, time::Duration};

/// Neither QEMU is there: what a switchover looks like between two looks is over by then.
const VANISHED: Duration = Duration::from_secs(5);

/// A QEMU that has not answered for so long is told of: in a switchover its main loop may be inside the stream for a while.
const SILENT: Duration = Duration::from_secs(10);

/// What a look at both QEMUs of a VM says.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// The QEMU that the VM leaves.
    pub source: Seen,
    /// The QEMU that it goes to. It may not have been started yet.
    pub target: Seen,
    /// Passes that the source has begun.
    pub passes: u32,
    /// The source is prepared for post-copy.
    pub may_postcopy: bool,
}

/// What is known of one VM.
#[derive(Debug)]
pub(super) struct Witness {
    vm: VmId,
    phase: Phase,
    outcome: Option<Outcome>,
    progress: Progress,
    pass_began: Timestamp,
    last_pass_time: Duration,
    dirtied: Option<Dirtied>,
    stopped: bool,
    resumed: bool,
    may_postcopy: bool,
    /// Its vCPUs ran before it was begun.
    ran: bool,
    /// Passes that had begun when the VM's memory was split.
    split_in: Option<u32>,
    /// Since when neither QEMU has been there.
    vanished: Option<Timestamp>,
    /// Since when the source has not answered, and whether that was told.
    silent: Option<(Timestamp, bool)>,
    /// Since when the target of a VM that was sent has not answered.
    unheard: Option<Timestamp>,
    records: VecDeque<Record>,
}

/// The VM's memory is on both sides.
fn splits(status: &MigrationStatus) -> bool {
    use MigrationStatus as Status;
    matches!(status, Status::PostcopyActive | Status::PostcopyPaused | Status::PostcopyRecover)
}

fn sample(side: &Seen) -> Option<&MigrationSample> {
    match side {
        Seen::There(sample) => Some(sample),
        Seen::Gone | Seen::Silent => None,
    }
}

impl Witness {
    pub(super) fn new(vm: VmId) -> Self {
        Witness {
            vm,
            phase: Phase::Ready,
            outcome: None,
            progress: Progress::default(),
            pass_began: Timestamp::ZERO,
            last_pass_time: Duration::ZERO,
            dirtied: None,
            stopped: false,
            resumed: false,
            may_postcopy: false,
            ran: true,
            split_in: None,
            vanished: None,
            silent: None,
            unheard: None,
            records: VecDeque::new(),
        }
    }

    /// Takes a look. Nothing is news after the end.
    pub(super) fn take(&mut self, now: Timestamp, look: &Look) {
        if self.outcome.is_some() {
            return;
        }
        self.look_for_silence(now, &look.source);
        let (source, target) = (sample(&look.source), sample(&look.target));
        let is_over = source.is_none_or(|it| it.status.is_over());
        let runs = |side: Option<&MigrationSample>| {
            side.is_some_and(|it| it.run_state == RunState::Running)
        };
        // Two that run are no move, but a mistake that is not ours to name.
        let runs_there = runs(target) && !runs(source);
        if self.phase == Phase::Ready {
            if let (Some(source), true) = (source, is_over) {
                self.ran = source.run_state != RunState::Paused;
            }
            // An end that is seen before a beginning is of an earlier attempt, unless the VM is at the target.
            if is_over && !runs_there {
                return;
            }
            self.may_postcopy = look.may_postcopy;
            self.pass_began = now;
            self.enter(now, Phase::PreCopy);
        }
        if let Some(source) = source {
            self.take_figures(now, source, look.passes);
            self.take_status(now, source);
        }
        if runs_there && !self.resumed {
            self.note_stopped(now);
            self.resumed = true;
            self.record(now, RecordKind::Resumed);
        }
        self.look_for_end(now, look);
    }

    fn look_for_silence(&mut self, now: Timestamp, source: &Seen) {
        if *source != Seen::Silent {
            self.silent = None;
            return;
        }
        let (since, told) = *self.silent.get_or_insert((now, false));
        if !told && since + SILENT <= now {
            self.silent = Some((since, true));
            let text = "its monitor at the source does not answer, so nothing is seen of it: another program may hold it";
            self.record(now, RecordKind::Warning(text.to_owned()));
        }
    }

    fn take_figures(&mut self, now: Timestamp, source: &MigrationSample, passes: u32) {
        // One that gave up, or another process in its place, has no figures.
        if source.total == Bytes::ZERO {
            return;
        }
        let before = self.progress;
        let progress = &mut self.progress;
        progress.transferred = progress.transferred.max(source.transferred);
        progress.remaining = source.remaining;
        progress.total = source.total;
        progress.rate = source.rate;
        progress.dirty_rate = source.dirty_rate;
        progress.postcopy_requests = progress.postcopy_requests.max(source.postcopy_requests);
        progress.qemu_downtime = source.downtime.or(progress.qemu_downtime);
        if passes <= 1 {
            progress.needed = progress.transferred;
        }
        // A switch to post-copy counts as one more, and is none.
        if passes <= before.pass || splits(&source.status) || self.split_in.is_some() {
            return;
        }
        progress.pass = passes;
        let (transferred, remaining) = (progress.transferred, progress.remaining);
        if passes >= 2 {
            self.last_pass_time = now.since(self.pass_began);
            self.pass_began = now;
            // The pass began somewhere between the two looks; half of what was sent meanwhile counts as its own.
            let sent = transferred.saturating_sub(before.transferred);
            let bytes = Bytes::new(remaining.get() + sent.get() / 2);
            self.dirtied = Some(Dirtied { time: self.last_pass_time, bytes });
        }
        self.record(now, RecordKind::Pass(passes));
        if passes >= 2 {
            self.record(now, RecordKind::Boundary { pass: passes, transferred, remaining });
        }
    }

    fn take_status(&mut self, now: Timestamp, source: &MigrationSample) {
        use MigrationStatus as Status;
        let phase = match source.status {
            Status::PostcopyActive => Phase::PostCopy,
            Status::PostcopyPaused => Phase::PostCopyPaused,
            Status::PostcopyRecover => Phase::Recovering,
            Status::Device => Phase::Switchover,
            Status::Active if source.run_state == RunState::FinishMigrate => Phase::Switchover,
            _ => self.phase,
        };
        let splits = splits(&source.status);
        if splits || phase == Phase::Switchover {
            self.note_stopped(now);
        }
        if splits && self.split_in.is_none() {
            self.split_in = Some(self.progress.pass);
            self.may_postcopy = true;
        }
        if phase != self.phase {
            self.enter(now, phase);
        }
    }

    fn look_for_end(&mut self, now: Timestamp, look: &Look) {
        use MigrationStatus as Status;
        let (source, target) = (sample(&look.source), sample(&look.target));
        let sent = source.is_some_and(|it| it.status == Status::Completed);
        let gave_up = source
            .filter(|it| matches!(it.status, Status::Failed | Status::Cancelled | Status::None));
        // A VM that was paused before is paused afterwards; a target that still receives says so.
        let last = if self.ran { RunState::Running } else { RunState::Paused };
        let arrived = target.is_some_and(|it| {
            matches!(it.status, Status::Completed | Status::None) && it.run_state == last
        });
        let stays = source.is_some_and(|it| it.run_state == RunState::Running);
        let both_gone = look.source == Seen::Gone && look.target == Seen::Gone;
        self.vanished = if both_gone { self.vanished.or(Some(now)) } else { None };
        self.unheard =
            if sent && look.target == Seen::Silent { self.unheard.or(Some(now)) } else { None };
        if self.unheard.is_some_and(|since| since + SILENT <= now) {
            let text = "its monitor at the target does not answer: that it has arrived is the source's word";
            self.record(now, RecordKind::Warning(text.to_owned()));
            self.end(now, Outcome::Completed, None);
        } else if arrived && !stays && (sent || look.source == Seen::Gone || self.resumed) {
            self.end(now, Outcome::Completed, None);
        } else if let Some(source) = gave_up.filter(|it| it.run_state == RunState::Running) {
            let reason = match (&source.error, &source.status) {
                (Some(error), _) => error.clone(),
                (None, Status::Cancelled) => "cancelled".to_owned(),
                (None, _) => "its migration was given up".to_owned(),
            };
            self.end(now, Outcome::RolledBack, Some(reason));
        } else if self.vanished.is_some_and(|since| since + VANISHED <= now) {
            let reason = "neither of its QEMUs is there any more".to_owned();
            self.end(now, Outcome::NeedsRecovery, Some(reason));
        }
    }

    fn note_stopped(&mut self, now: Timestamp) {
        if !self.stopped {
            self.stopped = true;
            self.record(now, RecordKind::Stopped);
        }
    }

    fn enter(&mut self, now: Timestamp, phase: Phase) {
        self.phase = phase;
        self.record(now, RecordKind::Entered(phase));
    }

    fn end(&mut self, now: Timestamp, outcome: Outcome, reason: Option<String>) {
        self.phase = Phase::Ended;
        self.outcome = Some(outcome);
        self.record(now, RecordKind::Ended { outcome, reason });
    }

    /// It is watched no longer.
    pub(super) fn give_up(&mut self, now: Timestamp) {
        if self.outcome.is_none() {
            let reason = match self.phase {
                Phase::Ready => "nobody moved it while it was watched",
                _ => "its move had not ended when the watching did",
            };
            self.end(now, Outcome::NotStarted, Some(reason.to_owned()));
        }
    }

    fn record(&mut self, at: Timestamp, kind: RecordKind) {
        self.records.push_back(Record { at, kind });
    }

    pub(super) fn poll_record(&mut self) -> Option<Record> {
        self.records.pop_front()
    }

    pub(super) const fn progress(&self) -> Progress {
        self.progress
    }

    pub(super) const fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) const fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    pub(super) const fn may_postcopy(&self) -> bool {
        self.may_postcopy
    }

    /// Passes that had begun when the VM's memory was split, if it was.
    pub(super) const fn split_in(&self) -> Option<u32> {
        self.split_in
    }

    fn standing(&self, now: Timestamp) -> Standing {
        let Progress { pass, transferred, remaining, .. } = self.progress;
        let passes = pass.saturating_sub(1);
        match self.phase {
            Phase::PreCopy => Standing::PreCopy(Passing {
                passes,
                pass_time: now.since(self.pass_began),
                transferred,
                remaining,
                dirtied: self.dirtied,
            }),
            Phase::Switchover => Standing::Stopped { remaining },
            Phase::PostCopy | Phase::PostCopyPaused | Phase::Recovering => {
                Standing::PostCopy { passes, transferred, remaining }
            }
            Phase::Ended if self.outcome == Some(Outcome::Completed) => Standing::Moved,
            Phase::Ended => Standing::Stays,
            _ => Standing::Waiting,
        }
    }

    pub(super) fn course(&self, now: Timestamp) -> Course<'_> {
        let passes = self.progress.pass.saturating_sub(1);
        Course {
            vm: &self.vm,
            phase: self.phase,
            standing: self.standing(now),
            last_pass: (passes > 0).then_some((passes, self.last_pass_time)),
            is_measured: true,
            runs_at_target: self.resumed,
            has_ended: self.outcome.is_some(),
            may_change: matches!(self.phase, Phase::Ready | Phase::PreCopy | Phase::PostCopy),
            // Who has not been begun can still be prepared.
            may_postcopy: self.phase == Phase::Ready || self.may_postcopy,
            takes_what_it_gets: matches!(self.phase, Phase::PreCopy | Phase::PostCopy)
                && self.progress.pass > 0,
            transferred: self.progress.transferred,
        }
    }
}
