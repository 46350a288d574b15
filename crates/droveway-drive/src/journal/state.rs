//! A run's state, as its journal tells: a fold over the entries. The same fold keeps the live state of a running controller,
//! so what is replayed is what was.

use super::entry::{Ended, Entry, NetworkChange, RunHeader, Stamped};
use crate::{
    Action, ActionId, Decision, Inherited, MigrationSample, MigrationStatus, Outcome, Phase,
    QemuEvent, RecordKind, Reply, RunState as Vcpus, Seen, Settings, Side, Told,
};
use droveway_fleet::{HostId, Timestamp, VmId, report::Reservation};
use droveway_plan::Plan;
use std::collections::{BTreeMap, VecDeque};

/// Decisions that are held for a view; all of them are in the journal.
const DECISIONS_HELD: usize = 64;
/// Remarks that are held; the same.
const REMARKS_HELD: usize = 64;

/// Where a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct RunState {
    /// What was known when it began.
    pub header: RunHeader,
    /// The plan in force.
    pub plan: Option<Plan>,
    /// Every plan that was in force, the latest last: id and generation.
    pub generations: Vec<(String, u32)>,
    /// Its VMs.
    pub vms: BTreeMap<VmId, VmState>,
    /// What the ports hold.
    pub reservations: Vec<Reservation>,
    /// The ports were changed and have not been put back.
    pub network_changed: bool,
    /// The latest decisions about the gang as a whole, the last one last.
    pub decisions: VecDeque<Decision>,
    /// The latest remarks.
    pub remarks: VecDeque<String>,
    /// The first VM could start.
    pub began_at: Option<Timestamp>,
    /// An operator interrupted it.
    pub cancelled: bool,
    /// Controllers that took it over.
    pub adopted: u32,
    /// Entries that are missing.
    pub missing: u64,
    /// How it ended.
    pub ended: Option<Ended>,
    /// When the last thing happened.
    pub last_at: Timestamp,
}

/// Where one VM's attempt is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VmState {
    /// Whether its vCPUs ran before.
    pub was_running: bool,
    /// Whether its target was started for the run.
    pub launched: bool,
    /// Where a target was, or was about to be, started for the run.
    pub launching: Option<Launching>,
    /// What its source's QEMU was set to before the attempt.
    pub before: Option<Box<Settings>>,
    /// The phase.
    pub phase: Option<Phase>,
    /// When it was entered.
    pub phase_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Why.
    pub reason: Option<String>,
    /// The pass that is under way.
    pub pass: u32,
    /// The first pass began.
    pub started_at: Option<Timestamp>,
    /// The vCPUs stopped at the source.
    pub stopped_at: Option<Timestamp>,
    /// They run at the target.
    pub resumed_at: Option<Timestamp>,
    /// The attempt is over.
    pub ended_at: Option<Timestamp>,
    /// Where the target listens.
    pub uri: Option<String>,
    /// The source was, or was about to be, told to migrate.
    pub migrate_asked: bool,
    /// The source was, or was about to be, told to switch to post-copy.
    pub postcopy_asked: bool,
    /// The source said that post-copy is active.
    pub postcopied: bool,
    /// The target was, or was about to be, ended: the attempt is being undone.
    pub target_ending: bool,
    /// The source was, or was about to be, ended: the VM runs at the target.
    pub source_ending: bool,
    /// Both QEMUs were prepared for post-copy.
    pub postcopy_prepared: bool,
    /// What was asked and not answered yet.
    pub open: BTreeMap<ActionId, OpenAction>,
    /// The source's last figures.
    pub sample: Option<MigrationSample>,
}

/// Where a target was, or was about to be, started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launching {
    /// The host.
    pub host: HostId,
    /// The QMP socket that its process has.
    pub socket: String,
}

/// An action without a reply yet.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenAction {
    /// When it was about to be performed.
    pub at: Timestamp,
    /// It.
    pub action: Action,
}

impl RunState {
    /// A run in which nothing has happened yet.
    #[must_use]
    pub fn new(header: RunHeader) -> Self {
        RunState {
            last_at: header.asked_at,
            header,
            plan: None,
            generations: Vec::new(),
            vms: BTreeMap::new(),
            reservations: Vec::new(),
            network_changed: false,
            decisions: VecDeque::new(),
            remarks: VecDeque::new(),
            began_at: None,
            cancelled: false,
            adopted: 0,
            missing: 0,
            ended: None,
        }
    }

    /// The state after these entries.
    #[must_use]
    pub fn replayed<'a>(header: RunHeader, entries: impl IntoIterator<Item = &'a Stamped>) -> Self {
        let mut state = RunState::new(header);
        for stamped in entries {
            state.apply(stamped);
        }
        state
    }

    /// True if its controller was killed: VMs may be moving and nobody drives them. The caller knows that no controller lives.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.ended.is_none()
    }

    /// Whether a VM may have begun to move, as far as the journal tells. Until then all that the run did can be undone; what
    /// did not come on file the QEMUs tell.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.began_at.is_some() || self.vms.values().any(|vm| vm.migrate_asked || vm.postcopied)
    }

    /// Takes one entry in.
    pub fn apply(&mut self, stamped: &Stamped) {
        let at = stamped.at;
        self.last_at = self.last_at.max(at);
        match &stamped.entry {
            Entry::Plan { plan } => {
                self.generations.push((plan.id.clone(), plan.generation));
                for step in &plan.moves {
                    self.vms.entry(step.vm.clone()).or_default();
                }
                self.plan = Some((**plan).clone());
            }
            Entry::Launching { vm, host, socket } => {
                let launching = Launching { host: host.clone(), socket: socket.clone() };
                self.vm(vm).launching = Some(launching);
            }
            Entry::Attempt { vm, was_running, launched, before } => {
                // What was meant and seen of an attempt before, which was never begun, is none of this one.
                let vm = self.vm(vm);
                *vm = VmState {
                    was_running: *was_running,
                    launched: *launched,
                    launching: vm.launching.take(),
                    before: before.clone(),
                    ..VmState::default()
                };
            }
            Entry::Action { vm, id, action } => self.vm(vm).intend(at, *id, action),
            Entry::Reply { vm, id, result } => {
                let vm = self.vm(vm);
                vm.open.remove(id);
                if let Ok(Reply::Listening(uri)) = result {
                    vm.uri = Some(uri.clone());
                }
            }
            Entry::Event { vm, side, event } => self.vm(vm).see(*side, event),
            Entry::Record { vm, record } => self.vm(vm).record(at, record),
            Entry::Sample { vm, side, sample } => {
                if *side == Side::Source {
                    self.vm(vm).sample = Some((**sample).clone());
                }
            }
            Entry::Decision { decision } => {
                push_bounded(&mut self.decisions, decision.clone(), DECISIONS_HELD);
            }
            Entry::Network { change } => match change {
                NetworkChange::Holds(reservations) => {
                    self.reservations.clone_from(reservations);
                    self.network_changed = true;
                }
                NetworkChange::PutBack => {
                    self.reservations.clear();
                    self.network_changed = false;
                }
                NetworkChange::NotPutBack(_) => {}
            },
            Entry::Operator { .. } => {}
            Entry::Remark { text } => push_bounded(&mut self.remarks, text.clone(), REMARKS_HELD),
            Entry::Began => self.began_at = self.began_at.or(Some(at)),
            Entry::Cancelled => self.cancelled = true,
            Entry::Adopted { pid } => {
                self.adopted += 1;
                self.header.pid = *pid;
                // What the dead controller waited for nobody will answer any more.
                for vm in self.vms.values_mut() {
                    vm.open.clear();
                }
            }
            Entry::Missing { entries } => self.missing += entries,
            Entry::Ended { end } => self.ended = Some(end.clone()),
        }
    }

    fn vm(&mut self, vm: &VmId) -> &mut VmState {
        self.vms.entry(vm.clone()).or_default()
    }
}

impl VmState {
    fn intend(&mut self, at: Timestamp, id: ActionId, action: &Action) {
        match action {
            Action::Configure { postcopy, .. } => self.postcopy_prepared = *postcopy,
            Action::Migrate { .. } => self.migrate_asked = true,
            Action::StartPostcopy => self.postcopy_asked = true,
            Action::DestroyTarget => self.target_ending = true,
            Action::DestroySource => self.source_ending = true,
            _ => {}
        }
        self.open.insert(id, OpenAction { at, action: action.clone() });
    }

    fn see(&mut self, side: Side, event: &QemuEvent) {
        if side == Side::Source
            && matches!(event, QemuEvent::Status(MigrationStatus::PostcopyActive))
        {
            self.postcopied = true;
        }
    }

    fn record(&mut self, at: Timestamp, record: &RecordKind) {
        match record {
            RecordKind::Entered(phase) => {
                self.phase = Some(*phase);
                self.phase_at = Some(at);
                match phase {
                    Phase::PreCopy => self.started_at = self.started_at.or(Some(at)),
                    Phase::PostCopy => self.postcopied = true,
                    _ => {}
                }
            }
            RecordKind::Pass(pass) => self.pass = self.pass.max(*pass),
            RecordKind::Stopped => self.stopped_at = self.stopped_at.or(Some(at)),
            RecordKind::Resumed => self.resumed_at = self.resumed_at.or(Some(at)),
            RecordKind::Ended { outcome, reason } => {
                self.phase = Some(Phase::Ended);
                self.phase_at = Some(at);
                self.outcome = Some(*outcome);
                self.reason.clone_from(reason);
                self.ended_at = Some(at);
                // The driver waits for nothing any more.
                self.open.clear();
            }
            _ => {}
        }
    }

    /// What whoever takes the attempt over goes by: this, beside what both QEMUs say now.
    #[must_use]
    pub fn inherited(&self, source: Seen, target: Seen) -> Inherited {
        let is_open = self.open.values().any(|open| matches!(open.action, Action::Migrate { .. }));
        let migrate = match (self.migrate_asked, is_open) {
            (false, _) => Told::Never,
            (true, true) => Told::Perhaps,
            (true, false) => Told::Surely,
        };
        Inherited {
            source,
            target,
            migrate,
            postcopy_prepared: self.postcopy_prepared,
            postcopy_asked: self.postcopy_asked,
            postcopied: self.postcopied,
            undoing: self.target_ending,
            releasing: self.source_ending,
            pass: self.pass,
            stopped_at: self.stopped_at,
            resumed_at: self.resumed_at,
            before: self.before.as_deref().cloned(),
        }
    }

    /// Whether the VM's vCPUs were seen to run at the target.
    #[must_use]
    pub const fn runs_at_target(&self) -> bool {
        self.resumed_at.is_some()
    }

    /// Whether the source's vCPUs were last seen to run.
    #[must_use]
    pub fn runs_at_source(&self) -> bool {
        self.sample.as_ref().is_some_and(|sample| sample.run_state == Vcpus::Running)
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, value: T, most: usize) {
    if queue.len() == most {
        queue.pop_front();
    }
    queue.push_back(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MigrationStatus as Status;

    fn stamped(entry: Entry) -> Stamped {
        Stamped { at: Timestamp::ZERO, entry }
    }

    /// Killed between writing down `migrate` and doing it, and taken over by one that is killed before it comes so far: the
    /// third one must not take the VM for moving.
    #[test]
    fn an_attempt_that_was_never_begun_begins_from_nothing() {
        let vm: VmId = "one".parse().unwrap();
        let attempt = || {
            stamped(Entry::Attempt {
                vm: vm.clone(),
                was_running: true,
                launched: true,
                before: None,
            })
        };
        let action = Action::Migrate { uri: "tcp:1".to_owned() };
        let migrate = stamped(Entry::Action { vm: vm.clone(), id: ActionId(3), action });
        let adopted = || stamped(Entry::Adopted { pid: 2 });
        let header = RunHeader {
            id: "run".to_owned(),
            fleet: "fleet".to_owned(),
            verb: "drain".to_owned(),
            source: "alpha".parse().unwrap(),
            target: "beta".parse().unwrap(),
            policy: "pre-copy-serial".to_owned(),
            started_at: String::new(),
            asked_at: Timestamp::ZERO,
            boot_id: String::new(),
            pid: 1,
        };
        let entries = [attempt(), migrate, adopted(), attempt(), adopted()];
        let state = RunState::replayed(header, &entries);
        let there = |status, run_state| {
            Seen::There(Box::new(MigrationSample::without_figures(status, run_state)))
        };
        let source = there(Status::None, Vcpus::Running);
        let target = there(Status::None, Vcpus::InMigrate);
        assert!(state.vms[&vm].inherited(source, target).is_unstarted());
    }
}
