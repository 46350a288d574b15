//! The controller's process: the loop around the drivers, its journal, its death, and who takes over.
//!
//! It does what the loop of a real run does, in the same order: every intent is on file before its action is performed, all
//! else soon after; a disk that is full delays nobody, and what waits in memory dies with the process. Who takes over reads
//! the target's QEMU of every VM whose attempt has not ended, then the source's, folds the journal, and makes drivers that go
//! on; ports that the dead one had changed are put back first. The fold and the drivers are the real ones.

use super::{ANSWER_LIMIT, Held, Input, PROCESS_END_SECONDS, World, parts::promised, timestamp};
use crate::{
    chance::Chance,
    qemu::{Emitted, side_of},
};
use droveway_drive::{
    Action, ActionError, ActionId, FailureClass, GangDriver, Outcome, Record, RecordKind, Reply,
    Seen, Side, VmDriver,
    journal::{Ended, Entry, NetworkChange, RunHeader, RunState, Stamped, VmState},
};
use droveway_fleet::VmId;
use droveway_plan::Plan;
use std::collections::{BTreeMap, BTreeSet};

/// A source that should end is asked first, for so long, and killed then.
const QUIT_SECONDS: f64 = 2.0;
/// Looks at a QEMU that does not answer, and the time between two: its answer's limit, and a pause.
const LOOKS: u32 = 4;
const LOOK_SECONDS: f64 = 4.0;
/// Whoever was refused for a QEMU that does not answer tries again after so long.
const ADOPT_AGAIN_SECONDS: f64 = 5.0;

/// What a simulated controller leaves.
#[derive(Debug, Clone)]
pub struct Left {
    /// The journal, as it is on file.
    pub journal: Vec<Stamped>,
    /// What was known when the run began.
    pub header: RunHeader,
    /// The state that the controller held.
    pub state: RunState,
    /// Controllers that took over.
    pub adopted: u32,
    /// How far the wall clock was set, seconds.
    pub wall_offset: f64,
    /// So often every law was looked at.
    pub checks: u64,
}

/// A controller, or what is left of one.
pub(super) struct Controller {
    /// Its drivers have prepared, and have been started.
    pub(super) prepared: bool,
    pub(super) started: bool,
    /// The wall clock minus the monotonic one.
    pub(super) wall_offset: f64,
    /// The next one begins to look then.
    dead_until: Option<f64>,
    /// It dies in the next actions, and the next one comes so much later.
    dooms: Option<f64>,
    adoption: Option<Adoption>,
    /// Nobody can take over: the journal does not say what was planned.
    pub(super) is_lost: bool,
    pub(super) adopted: u32,
    /// The ports hold what the plan promises.
    pub(super) holds: bool,
    pub(super) journal: Journal,
    chance: Chance,
}

/// A run's journal.
pub(super) struct Journal {
    /// The state that it tells, kept while it is written.
    pub(super) state: RunState,
    pub(super) written: Vec<Stamped>,
    /// What the disk did not take yet.
    pub(super) waiting: Vec<Stamped>,
    /// Entries that died with a controller.
    pub(super) lost: usize,
    full_until: f64,
    sampling: BTreeSet<(VmId, ActionId)>,
    generation: u32,
}

/// Looking at the QEMUs of what a dead controller left.
struct Adoption {
    due: f64,
    /// The VMs that have to be looked at, the next one last, with the target's word if that was read.
    open: Vec<(VmId, Option<Seen>)>,
    looks: u32,
    seen: BTreeMap<VmId, [Seen; 2]>,
}

impl Controller {
    pub(super) fn new(plan: &Plan, seed: u64) -> Self {
        let asked_at = timestamp(0.0);
        let header = RunHeader {
            id: format!("simulated-{seed}"),
            fleet: "simulated".to_owned(),
            verb: "drain".to_owned(),
            source: plan.source.clone(),
            target: plan.target.clone(),
            policy: plan.policy.clone(),
            started_at: "simulated".to_owned(),
            asked_at,
            boot_id: "simulated".to_owned(),
            pid: 0,
        };
        Controller {
            prepared: false,
            started: false,
            wall_offset: 0.0,
            dead_until: None,
            dooms: None,
            adoption: None,
            is_lost: false,
            adopted: 0,
            holds: false,
            journal: Journal {
                state: RunState::new(header),
                written: Vec::new(),
                waiting: Vec::new(),
                lost: 0,
                full_until: 0.0,
                sampling: BTreeSet::new(),
                generation: plan.generation,
            },
            chance: Chance::new(seed.rotate_left(17) ^ 0x5eed),
        }
    }

    /// When it does something by itself next.
    pub(super) fn due(&self) -> f64 {
        let adoption = self.adoption.as_ref().map(|adoption| adoption.due);
        [self.dead_until, adoption].into_iter().flatten().fold(f64::INFINITY, f64::min)
    }

    pub(super) fn fill_disk(&mut self, until: f64) {
        self.journal.full_until = self.journal.full_until.max(until);
    }
}

impl Journal {
    fn push(&mut self, at: f64, entry: Entry) {
        let stamped = Stamped { at: timestamp(at), entry };
        self.state.apply(&stamped);
        self.waiting.push(stamped);
    }

    fn commit(&mut self, now: f64) {
        if now >= self.full_until {
            self.written.append(&mut self.waiting);
        }
    }
}

impl World<'_> {
    /// From now on a journal is kept, whoever may want it.
    pub(super) fn watch(&mut self) {
        self.laws = Some(super::Laws::default());
        let plan = Box::new(self.gang.plan().clone());
        self.controller.journal.push(0.0, Entry::Plan { plan: plan.clone() });
        for step in &plan.moves {
            let (vm, was_running, launched) = (step.vm.clone(), true, true);
            let before = Some(Box::new(crate::qemu::before()));
            let entry = Entry::Attempt { vm, was_running, launched, before };
            self.controller.journal.push(0.0, entry);
        }
        self.controller.journal.commit(0.0);
    }

    /// Whether a controller lives and drives.
    pub(super) const fn drives(&self) -> bool {
        self.controller.dead_until.is_none() && self.controller.adoption.is_none()
    }

    /// Whether nothing more will be done.
    pub(super) fn is_over(&self) -> bool {
        self.controller.is_lost || self.drives() && self.controller.started && self.gang.is_over()
    }

    /// The first moves may start: the ports hold what was promised.
    pub(super) fn begin(&mut self) {
        let now = self.now;
        if self.laws.is_some() {
            self.controller.journal.push(now, Entry::Began);
        }
        let promises = self.ports.iter().any(|port| port.promised.is_some());
        if promises && self.controller.adopted == 0 {
            self.controller.holds = true;
        }
        self.gang.start(timestamp(now));
    }

    /// The ports hold what the plan in force says.
    pub(super) fn hold(&mut self) {
        let plan = self.gang.plan();
        for (host, port) in self.machines.iter().zip(&mut self.ports) {
            port.promised = promised(plan, host);
        }
        self.controller.holds = true;
        self.changed = true;
    }

    /// The ports are as they were before the run, and its end is on file.
    pub(super) fn put_back(&mut self) {
        if self.laws.is_none() || self.controller.is_lost {
            return;
        }
        self.restore_ports();
        let end = Ended { exit_code: 0, report: None };
        self.controller.journal.push(self.now, Entry::Ended { end });
        self.commit();
    }

    fn restore_ports(&mut self) {
        if self.controller.holds && self.broken != Some(super::Broken::PortsStayChanged) {
            self.controller.holds = false;
            let change = NetworkChange::PutBack;
            self.controller.journal.push(self.now, Entry::Network { change });
        }
    }

    pub(super) fn keep_progress(&mut self) {
        for (vm, driver) in self.gang.drivers() {
            self.outcome.progress.insert(vm.clone(), driver.progress());
        }
    }

    pub(super) fn note_cancelled(&mut self) {
        if self.laws.is_some() {
            self.controller.journal.push(self.now, Entry::Cancelled);
        }
    }

    /// An action is about to be performed. Looking at figures changes nothing.
    pub(super) fn intend(&mut self, vm: &VmId, id: ActionId, action: &Action) {
        if self.laws.is_none() {
            return;
        }
        let journal = &mut self.controller.journal;
        if matches!(action, Action::Sample(_)) {
            journal.sampling.insert((vm.clone(), id));
        } else {
            let entry = Entry::Action { vm: vm.clone(), id, action: action.clone() };
            journal.push(self.now, entry);
        }
    }

    pub(super) fn note(&mut self, vm: &VmId, record: &Record) {
        if self.laws.is_some() {
            let mut kind = record.kind.clone();
            if let RecordKind::Ended { outcome, .. } = &mut kind
                && self.broken == Some(super::Broken::LossIsHidden)
                && *outcome == Outcome::Lost
            {
                *outcome = Outcome::RolledBack;
            }
            let entry = Entry::Record { vm: vm.clone(), record: kind };
            let at = record.at.seconds();
            self.check_alarm(vm, record);
            if self.broken != Some(super::Broken::JournalForgets) || self.now < 8.0 {
                self.controller.journal.push(at, entry);
            }
        }
    }

    pub(super) fn hear(&mut self, input: &Input) {
        if self.laws.is_none() {
            return;
        }
        let (journal, now) = (&mut self.controller.journal, self.now);
        match input {
            Input::Event { vm, side, event } => {
                let (vm, side, event) = (vm.clone(), *side, event.clone());
                journal.push(now, Entry::Event { vm, side, event });
            }
            Input::Reply { vm, id, reply } => {
                let key = (vm.clone(), *id);
                if !journal.sampling.remove(&key) {
                    let (vm, id, result) = (vm.clone(), *id, reply.clone());
                    journal.push(now, Entry::Reply { vm, id, result });
                }
            }
            Input::Answer { .. } => {}
        }
    }

    /// Everything so far is on file, if the disk takes it.
    pub(super) fn commit(&mut self) {
        if self.laws.is_none() {
            return;
        }
        let plan = self.gang.plan();
        if plan.generation != self.controller.journal.generation {
            self.controller.journal.generation = plan.generation;
            let plan = Box::new(plan.clone());
            self.controller.journal.push(self.now, Entry::Plan { plan });
        }
        self.controller.journal.commit(self.now);
    }

    /// Hands an action to its QEMU.
    pub(super) fn perform(&mut self, index: usize, id: ActionId, action: Action) {
        let vm = self.vms[index].name.clone();
        self.vms[index].watched.note_action(&action);
        let side = side_of(&action);
        let ends = matches!(action, Action::DestroySource | Action::DestroyTarget);
        let now = self.now;
        let is_silent = |pair: &crate::qemu::Pair| pair.is_silent(side, now);
        let silent = self.vms[index].pair.as_ref().is_some_and(is_silent);
        let stalled = self.stalled_until(index, side);
        let hold = |from: f64, until: f64, action| Held {
            from,
            until,
            late: false,
            vm: index,
            id,
            action,
        };
        match (ends, stalled) {
            // A target is killed. A source is asked over its monitor first, and killed if it does not hear that.
            (true, stalled) if side == Side::Source && (stalled.is_some() || silent) => {
                self.held.push(hold(now + QUIT_SECONDS, f64::INFINITY, action));
                return;
            }
            (false, Some(until)) => {
                self.held.push(hold(until, now + ANSWER_LIMIT, action));
                return;
            }
            _ => {}
        }
        if self.broken == Some(super::Broken::TargetSurvives) && action == Action::DestroyTarget {
            self.push(now, Input::Reply { vm, id, reply: Ok(Reply::Done) });
            return;
        }
        if self.broken == Some(super::Broken::SettingsStay) && matches!(action, Action::Restore(_))
        {
            self.push(now, Input::Reply { vm, id, reply: Ok(Reply::Done) });
            return;
        }
        let mut out = Emitted::new();
        if let (Some(pair), Action::Cancel, Some(super::Broken::SourceDies)) =
            (self.vms[index].pair.as_mut(), &action, self.broken)
        {
            pair.kill(Side::Source, &mut out, now);
        }
        let pair = self.vms[index].pair.as_mut();
        let reply = pair.and_then(|pair| pair.perform(&action, self.physics, now, &mut out));
        let takes = if ends { PROCESS_END_SECONDS } else { 0.0 };
        self.emit_after(takes, index, out);
        let [least, most] = self.physics.answer_seconds;
        match reply {
            Some(_) if self.loses_answers(index, side) && !ends => {
                let message = "no answer".to_owned();
                let reply = Err(ActionError { class: FailureClass::Timeout, message });
                self.push(now + ANSWER_LIMIT, Input::Reply { vm, id, reply });
            }
            Some(reply) => {
                let delay = takes + self.random.between(least, most);
                self.push(now + delay, Input::Reply { vm, id, reply });
            }
            // A main loop that sits in the stream reads it when it comes out; the shell gives up on it earlier or later.
            None => self.held.push(hold(now, now + ANSWER_LIMIT, action)),
        }
    }

    /// The controller will be killed: now, or in the middle of what it does next.
    pub(super) fn doom(&mut self, seconds: f64, between: bool) {
        if !self.drives() || self.laws.is_none() || self.controller.is_lost {
            return;
        }
        if between {
            self.controller.dooms = Some(seconds);
        } else {
            self.die(seconds);
        }
    }

    /// Where it is doomed: some of what is on file is done, nobody hears of it.
    pub(super) fn dies_between(&mut self, actions: &[(VmId, ActionId, Action)]) -> bool {
        let means = actions.iter().any(|(.., action)| !matches!(action, Action::Sample(_)));
        let Some(seconds) = self.controller.dooms.filter(|_| means) else { return false };
        self.controller.dooms = None;
        let some = self.controller.chance.below(actions.len() + 1);
        for (vm, id, action) in &actions[..some] {
            if let Some(index) = self.vms.iter().position(|other| other.name == *vm) {
                self.perform(index, *id, action.clone());
            }
        }
        self.die(seconds);
        true
    }

    fn die(&mut self, seconds: f64) {
        if self.gang.is_over() && self.controller.started {
            return;
        }
        self.keep_progress();
        self.commit();
        self.check_replay();
        let journal = &mut self.controller.journal;
        journal.lost += journal.waiting.len();
        journal.waiting.clear();
        journal.sampling.clear();
        self.inbox.retain(|_, input| matches!(input, Input::Event { .. }));
        // What QEMUs have not read yet they may read, or drop with the connection.
        let chance = &mut self.controller.chance;
        self.held.retain_mut(|held| {
            held.late = true;
            chance.below(2) == 0
        });
        (self.controller.prepared, self.controller.started) = (false, false);
        self.controller.dead_until = Some(self.now + seconds);
        self.forget_path();
    }

    /// Another controller looks, and goes on once it has seen everything.
    pub(super) fn take_over(&mut self) {
        if self.controller.dead_until.is_some_and(|until| until <= self.now) {
            self.controller.dead_until = None;
            self.controller.adoption = self.begin_to_look();
        }
        while self.controller.adoption.as_ref().is_some_and(|it| it.due <= self.now) {
            self.look_at_one();
        }
    }

    fn begin_to_look(&mut self) -> Option<Adoption> {
        let journal = &mut self.controller.journal;
        journal.state = RunState::replayed(journal.state.header.clone(), &journal.written);
        self.restore_ports();
        for port in &mut self.ports {
            port.promised = None;
        }
        self.changed = true;
        let journal = &mut self.controller.journal;
        let Some(plan) = &journal.state.plan else {
            self.controller.is_lost = true;
            return None;
        };
        let ended = |vm: &VmId| journal.state.vms.get(vm).is_some_and(|it| it.outcome.is_some());
        let moves = plan.moves.iter().rev().map(|step| step.vm.clone());
        let open = moves.filter(|vm| !ended(vm)).map(|vm| (vm, None)).collect();
        Some(Adoption { due: self.now, open, looks: 0, seen: BTreeMap::new() })
    }

    fn look_at_one(&mut self) {
        let Some(mut adoption) = self.controller.adoption.take() else { return };
        let Some((vm, target)) = adoption.open.pop() else {
            self.go_on(&adoption.seen);
            return;
        };
        let side = if target.is_none() { Side::Target } else { Side::Source };
        let [least, most] = self.physics.answer_seconds;
        let answer = self.controller.chance.between(least, most);
        match (self.seen(&vm, side), target) {
            (None, target) => {
                adoption.open.push((vm, target));
                adoption.looks += 1;
                adoption.due = self.now + LOOK_SECONDS;
                if adoption.looks >= LOOKS {
                    // Nothing was touched; somebody tries again.
                    self.controller.dead_until = Some(self.now + ADOPT_AGAIN_SECONDS);
                    return;
                }
            }
            (Some(seen), None) => {
                adoption.open.push((vm, Some(seen)));
                (adoption.looks, adoption.due) = (0, self.now + answer);
            }
            (Some(seen), Some(target)) => {
                adoption.seen.insert(vm, [seen, target]);
                (adoption.looks, adoption.due) = (0, self.now + answer);
            }
        }
        self.controller.adoption = Some(adoption);
    }

    /// What a QEMU says; `None`: nothing.
    fn seen(&mut self, vm: &VmId, side: Side) -> Option<Seen> {
        let index = self.vms.iter().position(|other| other.name == *vm)?;
        if self.stalled_until(index, side).is_some() || self.loses_answers(index, side) {
            return None;
        }
        let pair = self.vms[index].pair.as_mut()?;
        if !pair.qemu(side).alive {
            return Some(Seen::Gone);
        }
        let mut out = Emitted::new();
        match pair.perform(&Action::Sample(side), self.physics, self.now, &mut out)? {
            Ok(Reply::Sample(sample)) => Some(Seen::There(sample)),
            _ => None,
        }
    }

    fn go_on(&mut self, seen: &BTreeMap<VmId, [Seen; 2]>) {
        let now = timestamp(self.now);
        self.controller.adopted += 1;
        self.witness.began(self.now);
        let state = self.controller.journal.state.clone();
        let Some(plan) = state.plan else { return };
        self.controller.journal.push(self.now, Entry::Adopted { pid: self.controller.adopted });
        let (mut adopted, mut over) = (Vec::new(), Vec::new());
        for step in &plan.moves {
            let known = state.vms.get(&step.vm).cloned().unwrap_or_default();
            let Some([source, target]) = seen.get(&step.vm) else {
                over.push(step.vm.clone());
                continue;
            };
            let inherited = known.inherited(source.clone(), target.clone());
            if inherited.is_unstarted() {
                if let Some(vm) = self.vms.iter_mut().find(|vm| vm.name == step.vm) {
                    vm.pair.iter_mut().for_each(crate::qemu::Pair::renew_target);
                }
                let (vm, was_running, launched) = (step.vm.clone(), true, true);
                let before = known.before.clone();
                let entry = Entry::Attempt { vm, was_running, launched, before };
                self.controller.journal.push(self.now, entry);
            } else {
                if known.uri.is_some()
                    && let Some(vm) = self.vms.iter_mut().find(|vm| vm.name == step.vm)
                {
                    vm.watched.know();
                }
                adopted.push(VmDriver::adopt(step.clone(), known.was_running, &inherited, now));
            }
        }
        // Its connections are new: what was told to the dead one nobody hears.
        self.inbox.clear();
        self.controller.journal.generation = plan.generation;
        let read = |(vm, it): (&VmId, &VmState)| Some((vm.clone(), it.before.as_deref()?.clone()));
        let before = state.vms.iter().filter_map(read).collect();
        match GangDriver::new(plan, &BTreeMap::new()) {
            Ok(gang) => self.gang = gang.restoring(&before).taking_over(now, adopted, &over),
            Err(found) => self.outcome.violations.push(format!("the journal's plan: {found:?}")),
        }
        self.changed = true;
    }
}
