//! Taking over an attempt whose controller died.
//!
//! QEMU goes on by itself, so nothing is begun anew: what both QEMUs say now is put beside what the dead controller meant to
//! do, which stands in its journal, and a driver is made that goes on from there. Afterwards it is a driver like any other:
//! it looks at both sides again at once, since the two were read one after the other.
//!
//! | seen | becomes |
//! | --- | --- |
//! | a source that gave up post-copy after the guest had run at the target | halting: it must not run its old copy |
//! | vCPUs run at both sides | ended, needs recovery: nothing is touched |
//! | the source's end was meant | settling, confirmed: the target had been seen to run |
//! | a broken post-copy at the source | post-copy-paused, tried soon |
//! | a split memory | post-copy, or recovering |
//! | vCPUs run at the target only | settling |
//! | the target's end was meant | rolling back |
//! | the source stands still, has sent everything, or is silent or gone | switchover: a bounded wait for the target's word |
//! | the source's migration is under way | pre-copy |
//! | it is over and the VM runs at the source | rolling back, or not begun at all |
//!
//! A target whose vCPUs run is never destroyed by an adoption: it is the only copy.

use super::{
    Action, MigrationSample, MigrationStatus, Move, Outcome, Phase, RecordKind, RunState, Settings,
    Side, State, Technique, Timestamp, Undo, VmDriver,
};

/// One of the two QEMUs, as it was found.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// It is not there.
    Gone,
    /// It is there and does not answer: its main loop may be inside the stream.
    Silent,
    /// It answered.
    There(Box<MigrationSample>),
}

/// Whether the source was told to migrate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// No.
    Never,
    /// It was about to be told; nobody knows whether it was.
    Perhaps,
    /// It was, and took it.
    Surely,
}

/// What is known of an attempt whose controller died. The target has to be read before the source: a source that was read first
/// may still have run then, and the target's vCPUs run by the time that it is asked, which looks like two copies.
#[derive(Debug, Clone, PartialEq)]
pub struct Inherited {
    /// The source's QEMU.
    pub source: Seen,
    /// The target's QEMU.
    pub target: Seen,
    /// Whether the source was told to migrate.
    pub migrate: Told,
    /// Both QEMUs were prepared for post-copy.
    pub postcopy_prepared: bool,
    /// The source was told to switch to post-copy, or was about to be.
    pub postcopy_asked: bool,
    /// The VM's memory was seen to be split.
    pub postcopied: bool,
    /// The target's end was meant: the attempt was being undone.
    pub undoing: bool,
    /// The source's end was meant: the target had been seen to run.
    pub releasing: bool,
    /// The pass that was under way.
    pub pass: u32,
    /// When the vCPUs were seen to stop at the source.
    pub stopped_at: Option<Timestamp>,
    /// When they were seen to run at the target.
    pub resumed_at: Option<Timestamp>,
    /// What the source was set to before the attempt, if anybody read it.
    pub before: Option<Settings>,
}

impl Inherited {
    fn status(side: &Seen) -> Option<&MigrationStatus> {
        match side {
            Seen::There(sample) => Some(&sample.status),
            Seen::Gone | Seen::Silent => None,
        }
    }

    fn runs(side: &Seen) -> bool {
        matches!(side, Seen::There(sample) if sample.run_state == RunState::Running)
    }

    /// Whether a side says that its migration is neither over nor unknown to it.
    fn migrates(side: &Seen) -> bool {
        Self::status(side).is_some_and(|status| !status.is_over())
    }

    /// True if the VM is at its source and no migration of it was begun, as far as anybody can know: the attempt can be made
    /// from its beginning, with a fresh target.
    #[must_use]
    pub fn is_unstarted(&self) -> bool {
        let Seen::There(source) = &self.source else { return false };
        // What it says of a migration that is over is of an earlier one.
        let stays = !Self::migrates(&self.source)
            && matches!(source.run_state, RunState::Running | RunState::Paused);
        let nothing_meant = !self.undoing && !self.releasing && !self.postcopied;
        stays
            && nothing_meant
            && self.migrate != Told::Surely
            && !Self::runs(&self.target)
            && !matches!(self.target, Seen::Silent)
    }

    fn is_split(&self) -> bool {
        let says = |side: &Seen| {
            matches!(
                Self::status(side),
                Some(
                    MigrationStatus::PostcopyActive
                        | MigrationStatus::PostcopyPaused
                        | MigrationStatus::PostcopyRecover
                )
            )
        };
        says(&self.source) || says(&self.target)
    }
}

impl VmDriver {
    /// A driver that goes on with an attempt whose controller died. Not for one that [`Inherited::is_unstarted`].
    #[must_use]
    pub fn adopt(plan: Move, was_running: bool, inherited: &Inherited, now: Timestamp) -> Self {
        let mut driver = VmDriver::new(plan, was_running);
        driver.started = true;
        driver.entered_at = now;
        driver.postcopy_prepared = inherited.postcopy_prepared;
        driver.postcopy_asked = inherited.postcopy_asked;
        driver.stopped_at = inherited.stopped_at;
        driver.before.clone_from(&inherited.before);
        driver.progress.pass = inherited.pass;
        driver.pass_began = now;
        driver.last_growth.1 = now;
        driver.liveness.begin(now);
        for (side, seen) in [(Side::Source, &inherited.source), (Side::Target, &inherited.target)] {
            let facts = driver.facts(side);
            match seen {
                Seen::Gone => facts.gone = true,
                Seen::Silent => {}
                Seen::There(sample) => {
                    facts.status = Some(sample.status.clone());
                    facts.run_state = Some(sample.run_state.clone());
                    facts.error.clone_from(&sample.error);
                }
            }
        }
        if let Seen::There(sample) = &inherited.source {
            driver.take_figures(sample, now);
        }
        if let Some(at) = inherited.resumed_at {
            driver.resumed_at = Some(at);
        } else if Inherited::runs(&inherited.target) {
            driver.note_resumed(now);
        }
        driver.place(now, inherited);
        if driver.outcome().is_none() {
            driver.record(now, RecordKind::Entered(driver.phase()));
            driver.look_again(now);
            driver.evaluate(now);
        }
        driver
    }

    fn take_figures(&mut self, sample: &MigrationSample, now: Timestamp) {
        let progress = &mut self.progress;
        progress.transferred = sample.transferred;
        progress.remaining = sample.remaining;
        progress.total = sample.total;
        progress.rate = sample.rate;
        progress.dirty_rate = sample.dirty_rate;
        progress.postcopy_requests = sample.postcopy_requests;
        progress.qemu_downtime = sample.downtime;
        // What had to move is known only to whoever saw the first pass end.
        progress.needed = sample.transferred;
        self.last_growth = (sample.transferred, now);
        self.sampled_at = Some(now);
    }

    /// The state that the attempt is in, by the table above.
    fn place(&mut self, now: Timestamp, inherited: &Inherited) {
        use MigrationStatus as Status;
        let (source, target) = (&inherited.source, &inherited.target);
        let source_status = Inherited::status(source).cloned();
        let (at_source, at_target) = (Inherited::runs(source), Inherited::runs(target));
        // One that knows of no migration is another process: somebody has started the VM anew, and it is nobody's old copy.
        let left = inherited.postcopied && self.source.gave_up() && !inherited.undoing;
        if left && self.ran_at_target() {
            self.postcopied = true;
            let reason = self.failure("QEMU gave up post-copy after the VM ran at the target");
            self.state = State::Halting { reason, over_since: None, ran: false };
        } else if at_source && at_target {
            let text = "the vCPUs run at both hosts: nothing was touched; find out which copy is right \
                        and end the other";
            self.state = State::Ended { outcome: Outcome::NeedsRecovery };
            let (outcome, reason) = (Outcome::NeedsRecovery, Some(text.to_owned()));
            self.record(now, RecordKind::Ended { outcome, reason });
        } else if inherited.releasing {
            self.postcopied = inherited.postcopied;
            self.state = State::Settling { confirmed: true };
            if *source != Seen::Gone {
                self.act(Action::DestroySource);
            }
        } else if inherited.is_split() {
            self.postcopied = true;
            if self.stopped_at.is_none() {
                self.stopped_at = Some(now);
            }
            self.state = match source_status {
                Some(Status::PostcopyRecover) => State::Recovering { attempts: 0 },
                Some(Status::PostcopyPaused) => self.broken_when_found(now),
                _ => State::PostCopy,
            };
            if self.state.phase() != Phase::PostCopy {
                self.broke_at = Some(now);
            }
        } else if at_target && inherited.postcopied && Inherited::migrates(target) {
            self.postcopied = true;
            self.state = State::PostCopy;
        } else if at_target {
            self.postcopied = inherited.postcopied;
            self.state = State::Settling { confirmed: false };
        } else if inherited.undoing {
            self.undo(now, "the attempt was being undone when its controller died");
        } else if *source == Seen::Gone || *source == Seen::Silent {
            self.state = State::Switchover;
        } else if Inherited::migrates(source) {
            let stands = matches!(
                self.source.run_state,
                Some(RunState::FinishMigrate | RunState::PostMigrate)
            );
            if stands || source_status == Some(Status::Device) {
                self.stopped_at = self.stopped_at.or(Some(now));
                self.state = State::Switchover;
            } else if source_status == Some(Status::Cancelling) {
                self.undo(now, "its migration was being cancelled when its controller died");
            } else {
                self.state = State::PreCopy;
                self.resume_asking();
            }
        } else if source_status == Some(Status::Completed) && !at_source {
            self.stopped_at = self.stopped_at.or(Some(now));
            self.state = State::Switchover;
        } else {
            let text = self.failure("its migration had ended when it was taken over");
            self.undo(now, &text);
        }
    }

    fn undo(&mut self, now: Timestamp, reason: &str) {
        // What was read may be old by now: whoever takes over looks at many QEMUs.
        let step = if self.target.gone { Undo::Target } else { self.ask() };
        self.state = State::RollingBack { reason: reason.to_owned(), step };
        self.entered_at = now;
    }

    /// A switch that was asked for may never have reached QEMU, and one that came due while nobody drove was asked by no one.
    fn resume_asking(&mut self) {
        let passes_done = self.progress.pass.saturating_sub(1);
        let due = match self.plan.technique {
            Technique::PostCopy => true,
            Technique::Hybrid => passes_done >= self.plan.switch.after_pass,
            Technique::PreCopy | Technique::StopAndCopy => false,
        };
        if self.postcopy_asked {
            // QEMU takes it twice.
            self.act(Action::StartPostcopy);
        } else if due && self.postcopy_prepared {
            // Whoever owns the gang says when there is room.
            self.postcopy_held = true;
            self.postcopy_due = true;
        }
    }

    /// The two sides were read one after the other, and events were missed.
    fn look_again(&mut self, now: Timestamp) {
        for side in [Side::Source, Side::Target] {
            if !self.facts(side).gone {
                self.sample(side);
            }
        }
        let waits = matches!(self.phase(), Phase::PostCopyPaused | Phase::Recovering);
        self.next_sample = (!waits).then_some(now);
    }
}
