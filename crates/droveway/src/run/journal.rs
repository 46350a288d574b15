//! Writing a run down while it happens: every intent before it is carried out, everything else soon after.
//!
//! A run without a journal (no room on the disk) goes on, and says so: what is lost is that another controller could take
//! over what this one leaves if it is killed.

use crate::{
    exit::{Exit, Failure},
    qemu, state,
};
use droveway_drive::{Action, ActionError, ActionId, Decision, Reply, Side};
use droveway_fleet::{Fleet, FleetVm, Host, Timestamp, VmId, report::Reservation};
use droveway_plan::Plan;
use droveway_store::{
    Ended, Entry, JournalledRun, NetworkChange, RunHeader, RunState, Stamped, Store, StoreError,
    Writer,
};
use std::collections::BTreeMap;

/// Names of runs are times of day in seconds: so many of one second are told apart.
const SAME_SECOND_MAX: u32 = 100;
/// A move that needs recovery is among the last ones: no run moves other VMs of the fleet for long while one does.
const MOVES_LOOKED_AT_MAX: usize = 20;

/// The journal of a fleet, before a run of it begins.
#[derive(Debug)]
pub(crate) struct Shelf {
    store: Option<Store>,
}

/// A journal's trouble, as a command's.
pub(crate) fn failure(error: StoreError) -> Failure {
    let exit = match &error {
        StoreError::Denied { .. } => Exit::Permission,
        StoreError::Busy { .. } => Exit::Blocked,
        StoreError::Full { .. } | StoreError::Io { .. } | StoreError::Known { .. } => {
            Exit::Internal
        }
        StoreError::Foreign { .. } | StoreError::Newer { .. } | StoreError::Corrupt { .. } => {
            Exit::Usage
        }
    };
    let remedy = error.remedy();
    Failure::new(exit, error).hint(remedy)
}

impl Shelf {
    /// Opens it. Where there is no room for one the run goes without; what cannot be understood has to be looked at first.
    pub(crate) fn open(fleet: &Fleet) -> Result<Self, Failure> {
        match Store::open(&state::journal_path(fleet)) {
            Ok(store) => Ok(Shelf { store: Some(store) }),
            Err(error) if error.is_about_room() => {
                eprintln!(
                    "warning: this run has no journal: {error}; if its controller is killed, nobody can \
                     take over ({})",
                    error.remedy()
                );
                Ok(Shelf { store: None })
            }
            Err(error) => Err(failure(error)),
        }
    }

    /// A run whose controller was killed, if there is one. The caller holds the fleet's lock.
    pub(crate) fn unfinished(&self) -> Result<Option<JournalledRun>, Failure> {
        self.store.as_ref().map_or(Ok(None), |store| store.unfinished().map_err(failure))
    }

    /// The latest runs that moved that VM, the latest first.
    pub(crate) fn moves_of(&self, vm: &VmId) -> Result<Vec<JournalledRun>, Failure> {
        let Some(store) = &self.store else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for summary in store.runs(MOVES_LOOKED_AT_MAX).map_err(failure)? {
            let run = store.run(&summary.header.id).map_err(failure)?;
            found.extend(run.filter(|run| run.state().vms.contains_key(vm)));
        }
        Ok(found)
    }

    /// `wanted`, or something like it that no run is called yet.
    pub(crate) fn free_id(&self, wanted: String) -> Result<String, Failure> {
        let Some(store) = &self.store else { return Ok(wanted) };
        for number in 1..=SAME_SECOND_MAX {
            let id = if number == 1 { wanted.clone() } else { format!("{wanted}-{number}") };
            if store.run(&id).map_err(failure)?.is_none() {
                return Ok(id);
            }
        }
        Ok(wanted)
    }

    /// Begins a run.
    pub(crate) fn begin(self, header: RunHeader) -> Result<Journal, Failure> {
        let begun = self.store.map(|store| Writer::begin(store, &header)).transpose();
        let writer = match begun {
            Ok(writer) => writer,
            Err(error) if error.is_about_room() => {
                eprintln!("warning: this run has no journal: {error}");
                None
            }
            Err(error) => return Err(failure(error)),
        };
        Ok(Journal::new(writer, RunState::new(header)))
    }

    /// Goes on with a run that a killed controller left.
    pub(crate) fn resume(self, state: RunState) -> Result<Journal, Failure> {
        let resumed = self.store.map(|store| Writer::resume(store, &state.header.id)).transpose();
        Ok(Journal::new(resumed.map_err(failure)?.flatten(), state))
    }
}

/// What is known of a run when it begins.
pub(crate) fn header(fleet: &Fleet, plan: &Plan, id: &str, verb: &str) -> RunHeader {
    RunHeader {
        id: id.to_owned(),
        fleet: fleet.metadata.name.to_string(),
        verb: verb.to_owned(),
        source: plan.source.clone(),
        target: plan.target.clone(),
        policy: plan.policy.clone(),
        started_at: jiff::Timestamp::now().to_string(),
        asked_at: crate::clock::now(),
        boot_id: droveway_host::features::boot_id(),
        pid: std::process::id(),
    }
}

/// One run's journal, while it runs.
#[derive(Debug)]
pub(crate) struct Journal {
    writer: Option<Writer>,
    state: RunState,
    /// Not handed over yet.
    pending: Vec<Stamped>,
    /// Figures that were asked for: of which side.
    sampling: BTreeMap<(VmId, ActionId), Side>,
    /// Trouble that was told already.
    told: bool,
    remarks: usize,
    decisions: usize,
    generation: Option<u32>,
    reservations: Option<Vec<Reservation>>,
}

impl Journal {
    fn new(writer: Option<Writer>, state: RunState) -> Self {
        Journal {
            writer,
            generation: state.plan.as_ref().map(|plan| plan.generation),
            state,
            pending: Vec::new(),
            sampling: BTreeMap::new(),
            told: false,
            remarks: 0,
            decisions: 0,
            reservations: None,
        }
    }

    /// The run's state, as the journal tells it.
    pub(crate) const fn state(&self) -> &RunState {
        &self.state
    }

    /// Something happened.
    pub(crate) fn push(&mut self, at: Timestamp, entry: Entry) {
        let stamped = Stamped { at, entry };
        self.state.apply(&stamped);
        if self.writer.is_some() {
            self.pending.push(stamped);
        }
    }

    /// A target is about to be started for a VM, if the fleet says how. To be committed before it is.
    pub(crate) fn launches(&mut self, at: Timestamp, vm: &FleetVm, host: &Host) {
        let instance = vm.instances.get(&host.name).filter(|instance| instance.launch.is_some());
        let Some(instance) = instance else { return };
        let socket = qemu::socket(instance).display().to_string();
        let (vm, host) = (vm.name.clone(), host.name.clone());
        self.push(at, Entry::Launching { vm, host, socket });
    }

    /// An action is about to be performed. Looking at figures changes nothing, so only what was seen is kept.
    pub(crate) fn intend(&mut self, at: Timestamp, vm: &VmId, id: ActionId, action: &Action) {
        if let Action::Sample(side) = action {
            self.sampling.insert((vm.clone(), id), *side);
        } else {
            self.push(at, Entry::Action { vm: vm.clone(), id, action: action.clone() });
        }
    }

    /// What came of it.
    pub(crate) fn replied(
        &mut self,
        at: Timestamp,
        vm: &VmId,
        id: ActionId,
        reply: &Result<Reply, ActionError>,
    ) {
        let vm = vm.clone();
        match (self.sampling.remove(&(vm.clone(), id)), reply) {
            (Some(side), Ok(Reply::Sample(sample))) => {
                self.push(at, Entry::Sample { vm, side, sample: sample.clone() });
            }
            (_, Ok(Reply::Sample(_))) => {}
            (_, result) => self.push(at, Entry::Reply { vm, id, result: result.clone() }),
        }
    }

    /// A plan is in force, if it was not before.
    pub(crate) fn plan(&mut self, at: Timestamp, plan: &Plan) {
        if self.generation != Some(plan.generation) {
            self.generation = Some(plan.generation);
            self.push(at, Entry::Plan { plan: Box::new(plan.clone()) });
        }
    }

    /// What was told and decided about the run as a whole since the last call.
    pub(crate) fn told(&mut self, at: Timestamp, remarks: &[String], decisions: &[Decision]) {
        for text in remarks.iter().skip(self.remarks) {
            self.push(at, Entry::Remark { text: text.clone() });
        }
        for decision in decisions.iter().skip(self.decisions) {
            self.push(at, Entry::Decision { decision: decision.clone() });
        }
        (self.remarks, self.decisions) = (remarks.len(), decisions.len());
    }

    /// What the ports hold, if that is something else than before.
    pub(crate) fn holds(&mut self, at: Timestamp, reservations: &[Reservation]) {
        if self.reservations.as_deref() != Some(reservations) {
            self.reservations = Some(reservations.to_vec());
            let change = NetworkChange::Holds(reservations.to_vec());
            self.push(at, Entry::Network { change });
        }
    }

    /// Waits until everything so far is on file, within the journal's patience: to be called before an intent is carried out.
    pub(crate) fn commit(&mut self) {
        if let Some(writer) = self.writer.as_mut().filter(|_| !self.pending.is_empty()) {
            writer.commit(std::mem::take(&mut self.pending));
        }
    }

    /// Hands everything so far over.
    pub(crate) fn flush(&mut self) {
        if let Some(writer) = self.writer.as_mut().filter(|_| !self.pending.is_empty()) {
            writer.note(std::mem::take(&mut self.pending));
        }
    }

    /// What is wrong with the journal, once each time that something goes wrong.
    pub(crate) fn trouble(&mut self) -> Option<String> {
        let trouble = self.trouble_now();
        let told = std::mem::replace(&mut self.told, trouble.is_some());
        trouble.filter(|_| !told)
    }

    /// What is wrong with the journal now.
    pub(crate) fn trouble_now(&self) -> Option<String> {
        self.writer.as_ref()?.health().trouble()
    }

    /// The run has ended; everything is on file when this returns, if the disk takes it.
    pub(crate) fn end(mut self, at: Timestamp, exit: Exit, report: Option<&std::path::Path>) {
        let report = report.map(|folder| {
            std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()).display().to_string()
        });
        let end = Ended { exit_code: exit.code(), report };
        self.push(at, Entry::Ended { end });
        self.commit();
        if let Some(text) = self.trouble_now() {
            eprintln!("warning: {text}");
        }
    }
}
