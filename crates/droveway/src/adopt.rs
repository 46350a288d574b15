//! Taking over what a killed controller left: `droveway adopt`, and before the next run of the fleet.
//!
//! A run that was killed before any VM had begun to move is undone: the targets that it started are ended, the sources set to what
//! they were set to, the ports put back, and the run has ended. A target is ended only if its process says that this run started it
//! and its QEMU that nothing has come in.
//!
//! QEMU goes on by itself. Both QEMUs of every VM whose move has not ended are read, the target first; what they say is put
//! beside what the journal says was meant, and drivers are made that go on from there. Nothing that moves is begun anew. A VM
//! whose own migration was not begun in a run that had gets a fresh target and moves as planned, but only where somebody asks
//! for just that (`droveway adopt`) and the machine was not booted since: whoever begins another run says himself which VMs
//! shall move.

use crate::{
    clock, control,
    drain::{decisions, vm_facts},
    exit::{Exit, Failure},
    fleet::{self, RunLock},
    network,
    preflight::{self, Checked, Obstacle},
    qemu::{self, Probed, Qemu, Released},
    render, report,
    run::{
        self, Display, Expectations, Finished, Journal, Pair, Ports, Run, journal::Shelf, settings,
    },
};
use droveway_drive::{GangDriver, MigrationSample, Record, RunState as Vcpus, Seen, VmDriver};
use droveway_fleet::{Fleet, FleetVm, Host, HostId, Instance, Intent, VmId};
use droveway_plan::{Move, Plan};
use droveway_qmp::{Client, QmpAddress};
use droveway_store::{Entry, JournalledRun, NetworkChange, RunState, Stamped, VmState};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

/// A QEMU whose main loop is inside the stream answers once its switchover is over; one that is silent for longer is stuck.
const ANSWER_TRIES: u32 = 4;
const ANSWER_PAUSE: Duration = Duration::from_secs(1);

/// `adopt`.
pub(crate) fn run(fleet: Option<&Path>, folder: Option<&Path>) -> Result<Exit, Failure> {
    let fleet = fleet::load(fleet)?;
    let lock = RunLock::acquire(&fleet)?;
    let shelf = Shelf::open(&fleet)?;
    let Some(left) = shelf.unfinished()? else {
        if network::put_back_left(&fleet)? {
            eprintln!("the ports that an earlier run left changed are as they were");
        }
        eprintln!("no run of fleet '{}' was left unfinished", fleet.metadata.name);
        return Ok(Exit::Done);
    };
    let rest = if left.header.boot_id == droveway_host::features::boot_id() {
        Rest::Moves
    } else {
        Rest::Stays
    };
    let (state, journal) = resumed(&fleet, shelf, &left)?;
    let left = Left { state, entries: left.entries, journal, why: Why::Killed };
    let taken = take_over(&fleet, lock, left, rest, folder);
    runtime()?.block_on(taken).map(|(exit, _)| exit)
}

/// The state of a run that a killed controller left, and its journal, which goes on.
pub(crate) fn resumed(
    fleet: &Fleet,
    shelf: Shelf,
    left: &JournalledRun,
) -> Result<(RunState, Journal), Failure> {
    let state = left.state();
    let id = &state.header.id;
    eprintln!("note: the controller of {id} was killed; it is taken over");
    let put_back = network::put_back_left(fleet)?;
    if put_back {
        eprintln!("note: the ports that it left changed are as they were");
    }
    let mut journal = shelf.resume(state.clone())?;
    journal.push(clock::now(), Entry::Adopted { pid: std::process::id() });
    if put_back {
        let change = NetworkChange::PutBack;
        journal.push(clock::now(), Entry::Network { change });
    }
    journal.commit();
    Ok((state, journal))
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    Ok(runtime)
}

/// Before another run of the fleet begins: what a killed controller left comes to its end first.
pub(crate) async fn before_a_run(
    fleet: &Fleet,
    lock: RunLock,
    shelf: Shelf,
) -> Result<(RunLock, Shelf), Failure> {
    let Some(left) = shelf.unfinished()? else { return Ok((lock, shelf)) };
    let id = left.header.id.clone();
    let (state, journal) = resumed(fleet, shelf, &left)?;
    let left = Left { state, entries: left.entries, journal, why: Why::Killed };
    let (exit, lock) = take_over(fleet, lock, left, Rest::Stays, None).await?;
    if exit == Exit::NeedsRecovery {
        return Err(Failure::says(
            Exit::NeedsRecovery,
            format!("a VM of {id}, which was taken over first, needs recovery"),
        )
        .hint("`droveway status` and its report tell which; nothing else was started"));
    }
    Ok((lock, Shelf::open(fleet)?))
}

/// Attempts that nobody drives.
#[derive(Debug)]
pub(crate) struct Left {
    /// What is known of them.
    pub(crate) state: RunState,
    /// What happened before.
    pub(crate) entries: Vec<Stamped>,
    /// Where it is written down how they go on.
    pub(crate) journal: Journal,
    /// Why nobody does.
    pub(crate) why: Why,
}

/// Why attempts have nobody who drives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Their controller was killed.
    Killed,
    /// It gave up on a broken post-copy, and an operator wants it to go on.
    GaveUp,
}

/// What becomes of VMs whose migration was never begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    Moves,
    Stays,
}

/// What came of looking at one VM.
enum Found {
    /// Its attempt had ended.
    Over,
    /// An attempt that goes on.
    Goes(Box<VmDriver>, Pair, Checked),
    /// It was not begun: it starts as planned.
    Fresh(Pair, Checked),
}

/// Goes on with the run. Returns how it ended, and the fleet's lock.
pub(crate) async fn take_over(
    fleet: &Fleet,
    mut lock: RunLock,
    left: Left,
    rest: Rest,
    folder: Option<&Path>,
) -> Result<(Exit, RunLock), Failure> {
    let Left { state, entries, mut journal, why } = left;
    let id = state.header.id.clone();
    lock.publish(&fleet::ActiveRun::preparing(&id));
    let Some(plan) = state.plan.clone() else {
        // It died before it had a plan: nothing was touched.
        journal.end(clock::now(), Exit::Interrupted, None);
        return Ok((Exit::Interrupted, lock));
    };
    let hosts = [&plan.source, &plan.target].map(|name| host(fleet, name));
    let [source, target] = hosts;
    let (source, target) = (source?, target?);
    // Behind those that the dead controller gave out: a QEMU whose port is in use cannot be told another one.
    let port_of = |vm: &VmState| vm.uri.as_ref()?.rsplit(':').next()?.parse::<u16>().ok();
    let used = state.vms.values().filter_map(port_of).max();
    let first = target.migration_ports.first;
    let next = used.map_or(0, |port| u32::from(port.saturating_sub(first)) + 1);
    // Who was killed before anything moved is undone: nobody waits for its plan any more.
    let undoes = why == Why::Killed && !state.has_begun();
    let look = Look {
        fleet,
        run: &id,
        source,
        target,
        next_port: Arc::new(AtomicU32::new(next)),
        rest: if undoes { Rest::Stays } else { rest },
        undoes,
    };
    let mut adopted = Vec::new();
    let mut over = Vec::new();
    let mut pairs = BTreeMap::new();
    let mut checked = BTreeMap::new();
    for step in &plan.moves {
        let known = state.vms.get(&step.vm).cloned().unwrap_or_default();
        match look.at(step, &known, &mut journal).await? {
            Found::Over => over.push(step.vm.clone()),
            Found::Goes(driver, pair, facts) => {
                adopted.push(*driver);
                pairs.insert(step.vm.clone(), pair);
                checked.insert(step.vm.clone(), facts);
            }
            Found::Fresh(pair, facts) => {
                let (was_running, launched) = (facts.was_running, pair.target.launched);
                let vm = step.vm.clone();
                let before = facts.before.clone().map(Box::new);
                let entry = Entry::Attempt { vm, was_running, launched, before };
                journal.push(clock::now(), entry);
                pairs.insert(step.vm.clone(), pair);
                checked.insert(step.vm.clone(), facts);
            }
        }
    }
    journal.commit();
    if undoes && pairs.is_empty() {
        eprintln!("{id} had moved nothing yet: what it had prepared is undone");
        journal.end(clock::now(), Exit::Interrupted, None);
        return Ok((Exit::Interrupted, lock));
    }
    let read = |(vm, it): (&VmId, &Checked)| Some((vm.clone(), it.before.clone()?));
    let before = checked.iter().filter_map(read).collect();
    let was_running = checked.iter().map(|(vm, it)| (vm.clone(), it.was_running)).collect();
    let gang = GangDriver::new(plan.clone(), &was_running).map_err(|found| {
        let text: Vec<_> = found.iter().map(ToString::to_string).collect();
        Failure::says(Exit::Blocked, text.join("; "))
    })?;
    let gang = gang.restoring(&before).taking_over(clock::now(), adopted, &over);
    let (operators, requests) = run::requests();
    let (view, seen) = tokio::sync::watch::channel(None);
    let _control = control::Server::start(fleet, operators, seen).inspect_err(|error| {
        eprintln!("warning: this run cannot be watched or steered from elsewhere: {error}");
    });
    let facts: Vec<_> = fleet.spec.vms.iter().map(vm_facts).collect();
    let expected = Expectations::of(&plan, None, &facts);
    let ports = Ports::open(&[source, target]);
    let capacity = ports.capacity.clone();
    let asked_at = clock::now();
    // What was before belongs to the same attempts: times are of one clock as long as the machine was not booted anew.
    let same_boot = state.header.boot_id == droveway_host::features::boot_id();
    let earlier = if same_boot { records_of(&entries) } else { Vec::new() };
    let run = Run {
        gang,
        replanner: None,
        watch: None,
        pairs,
        ports,
        payload: source.port.rate.min(target.port.rate).tcp_payload(),
        lock,
        run_id: id.clone(),
        network: None,
        journal,
        earlier,
        requests,
        fleet: Arc::new(fleet.clone()),
        expected,
        view,
    };
    let order: Vec<VmId> = plan.moves.iter().map(|step| step.vm.clone()).collect();
    let mut display = Display::new(&order);
    let Finished { mut ledger, journal, lock } = run::carry_out(run, &mut display).await;
    ledger.remarks.push(match why {
        Why::Killed => format!(
            "The controller was killed {} and the run taken over: what happened meanwhile is not in the figures.",
            if state.adopted == 0 { "once".to_owned() } else { format!("{} times", state.adopted + 1) }
        ),
        Why::GaveUp => "A broken post-copy was recovered: what happened before is not in the figures.".to_owned(),
    });
    let plan = whole(&entries, plan);
    let intent = intent(&state, &plan);
    let context = report::Context {
        fleet,
        plan: &plan,
        intent: &intent,
        decided: &decisions(&[], None),
        checked: &checked,
        run_id: &id,
        started_at: state.header.started_at.clone(),
        asked_at,
        ended_at: clock::now(),
        downtime_limit_asked: plan.max_downtime.is_some(),
        capacity,
    };
    let report = report::build(&context, &ledger);
    let folder = report::write(&report, folder)?;
    let exit = report::exit_of(&report);
    journal.end(clock::now(), exit, Some(&folder));
    eprintln!("{}", render::terminal(&report, false));
    eprintln!("report: {}", folder.display());
    Ok((exit, lock))
}

fn host<'a>(fleet: &'a Fleet, name: &HostId) -> Result<&'a Host, Failure> {
    fleet.spec.host(name.as_str()).ok_or_else(|| {
        Failure::usage(format!(
            "the run that was left concerns host '{name}', which the fleet lacks"
        ))
        .hint("use the fleet file that it was started with")
    })
}

/// What the drivers of before told, by VM.
fn records_of(entries: &[Stamped]) -> Vec<(VmId, Record)> {
    let record = |stamped: &Stamped| match &stamped.entry {
        Entry::Record { vm, record } => {
            Some((vm.clone(), Record { at: stamped.at, kind: record.clone() }))
        }
        _ => None,
    };
    entries.iter().filter_map(record).collect()
}

/// The plan in force, with the moves of its forerunners that had ended before it was made.
fn whole(entries: &[Stamped], mut plan: Plan) -> Plan {
    for stamped in entries {
        let Entry::Plan { plan: earlier } = &stamped.entry else { continue };
        for step in &earlier.moves {
            if plan.step(step.vm.as_str()).is_none() {
                plan.moves.push(step.clone());
            }
        }
    }
    plan
}

/// What was asked for, as far as the plan and the journal tell.
fn intent(state: &RunState, plan: &Plan) -> Intent {
    let header = &state.header;
    let vms = plan.moves.iter().map(|step| step.vm.clone()).collect();
    let mut intent =
        Intent::drain(header.source.clone(), header.target.clone(), vms, &header.policy);
    intent.verb.clone_from(&header.verb);
    (intent.urgency, intent.deadline) = (plan.urgency, plan.deadline);
    intent.max_exposed = plan.max_exposed;
    if let Some(limit) = plan.max_downtime {
        intent.max_downtime = limit;
    }
    intent
}

/// Looking at what a killed controller left.
struct Look<'a> {
    fleet: &'a Fleet,
    run: &'a str,
    source: &'a Host,
    target: &'a Host,
    next_port: Arc<AtomicU32>,
    rest: Rest,
    /// No VM of the run had begun to move.
    undoes: bool,
}

impl Look<'_> {
    /// Looks at one VM's two QEMUs.
    async fn at(
        &self,
        step: &Move,
        known: &VmState,
        journal: &mut Journal,
    ) -> Result<Found, Failure> {
        if known.outcome.is_some() {
            return Ok(Found::Over);
        }
        let vm = self.fleet.spec.vm(step.vm.as_str()).ok_or_else(|| {
            Failure::usage(format!("VM '{}', which the run moved, is not in the fleet", step.vm))
                .hint("use the fleet file that it was started with")
        })?;
        // The target first: see `Inherited`.
        let (target_qemu, at_target) = seen(vm, self.target).await?;
        let (source_qemu, at_source) = seen(vm, self.source).await?;
        let runs = |seen: &Seen| matches!(seen, Seen::There(it) if it.run_state == Vcpus::Running);
        if self.undoes && at_source == Seen::Gone && !runs(&at_target) {
            // The machine was booted since, or somebody ended it: not by a move.
            drop(target_qemu);
            return self.stays(vm, known, None).await;
        }
        let inherited = known.inherited(at_source, at_target);
        if inherited.is_unstarted() {
            // Its connection ends here: a target that waits is ended, and perhaps started anew.
            drop(target_qemu);
            return match self.rest {
                Rest::Stays => self.stays(vm, known, Some(&source_qemu)).await,
                Rest::Moves => self.afresh(step, vm, known, source_qemu, journal).await,
            };
        }
        let accelerator = accelerator(&source_qemu, &target_qemu).await;
        let facts = Checked {
            was_running: known.was_running,
            accelerator,
            qemu_version: target_qemu.client.version().to_string(),
            before: known.before.as_deref().cloned(),
        };
        let driver = VmDriver::adopt(step.clone(), known.was_running, &inherited, clock::now());
        Ok(Found::Goes(Box::new(driver), self.pair(source_qemu, target_qemu), facts))
    }

    fn pair(&self, source: Qemu, target: Qemu) -> Pair {
        Pair {
            source,
            target,
            address: self.target.migration_address,
            ports: self.target.migration_ports,
            netns: [self.source.netns.clone(), self.target.netns.clone()],
            next_port: Arc::clone(&self.next_port),
        }
    }

    /// A VM whose move was not begun stays: what was done for it is undone.
    async fn stays(
        &self,
        vm: &FleetVm,
        known: &VmState,
        source: Option<&Qemu>,
    ) -> Result<Found, Failure> {
        let (name, host) = (&vm.name, &self.source.name);
        eprintln!("note: {name}: its move had not begun, it stays on host '{host}'");
        if source.is_none() {
            eprintln!("warning: {name}: its QEMU on host '{host}' is gone");
        }
        if let Some(launching) = &known.launching {
            let released = qemu::release(Path::new(&launching.socket), self.run).await?;
            if let Released::Foreign(reason) | Released::Kept(reason) = released {
                let host = &launching.host;
                eprintln!("warning: {name}: its QEMU on host '{host}' was left there: {reason}");
            }
        }
        if let Some(source) = source {
            put_back(vm, known, source).await;
        }
        Ok(Found::Over)
    }

    /// A VM whose move was not begun moves as planned, to a fresh target.
    async fn afresh(
        &self,
        step: &Move,
        vm: &FleetVm,
        known: &VmState,
        source: Qemu,
        journal: &mut Journal,
    ) -> Result<Found, Failure> {
        journal.launches(clock::now(), vm, self.target);
        journal.commit();
        let fresh = qemu::waiting_target(vm, self.target, self.run).await?;
        let mut checked = preflight::check(step, &source, &fresh).await?;
        // The others' targets have their ports already.
        if let Some(text) = preflight::missing_port(self.target, 1).filter(|_| step.may_postcopy())
        {
            let obstacle = Obstacle { vm: step.vm.clone(), text };
            checked = Err(checked.err().into_iter().flatten().chain([obstacle]).collect());
        }
        match checked {
            Ok(mut facts) => {
                // The dead controller may have changed what is there now.
                facts.before = known.before.as_deref().cloned().or(facts.before);
                Ok(Found::Fresh(self.pair(source, fresh), facts))
            }
            Err(obstacles) => {
                for obstacle in obstacles {
                    eprintln!("warning: {}: stays at the source: {}", step.vm, obstacle.text);
                }
                if fresh.launched {
                    qemu::end(&fresh).await?;
                }
                put_back(vm, known, &source).await;
                Ok(Found::Over)
            }
        }
    }
}

/// A VM's source is set to what it was set to before the run.
async fn put_back(vm: &FleetVm, known: &VmState, source: &Qemu) {
    let Some(before) = &known.before else { return };
    if let Err(error) = settings::put_back(&source.client, before).await {
        let name = &vm.name;
        eprintln!("warning: {name}: what its QEMU was set to for the move stays: {error}");
    }
}

/// What the run's QEMUs ran on, of whichever answers.
async fn accelerator(source: &Qemu, target: &Qemu) -> &'static str {
    for qemu in [target, source] {
        if let Ok(facts) = qemu.client.machine_facts().await {
            return if facts.accelerator.kvm_enabled { "kvm" } else { "tcg" };
        }
    }
    "unknown"
}

/// The QEMU of a VM on a host, and what it says.
pub(crate) async fn seen(vm: &FleetVm, host: &Host) -> Result<(Qemu, Seen), Failure> {
    let instance = vm.instances.get(&host.name).ok_or_else(|| {
        Failure::usage(format!("VM '{}' has no instance on host '{}'", vm.name, host.name))
            .hint("use the fleet file that the run was started with")
    })?;
    for attempt in 0..ANSWER_TRIES {
        if attempt > 0 {
            tokio::time::sleep(ANSWER_PAUSE).await;
        }
        match qemu::probe_started(qemu::socket(instance)).await {
            Probed::Absent => return Ok((gone(instance), Seen::Gone)),
            Probed::Silent => {}
            Probed::There(qemu) => {
                let seen = match figures(&qemu).await {
                    Some(sample) => Seen::There(Box::new(sample)),
                    None => Seen::Silent,
                };
                return Ok((qemu, seen));
            }
        }
    }
    Err(Failure::says(
        Exit::Blocked,
        format!("the QEMU of VM '{}' on host '{}' does not answer", vm.name, host.name),
    )
    .hint("its monitor may be in use by another program; nothing was touched: try `droveway adopt` again"))
}

async fn figures(qemu: &Qemu) -> Option<MigrationSample> {
    let (info, state) = tokio::join!(qemu.client.migration(), qemu.client.status());
    Some(run::sample(&info.ok()?, &state.ok()?.state))
}

/// In place of a QEMU that is not there.
fn gone(instance: &Instance) -> Qemu {
    let socket = qemu::socket(instance).to_owned();
    let client = Client::of_the_gone(&QmpAddress::unix(&socket));
    Qemu { client, socket, launched: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use droveway_drive::{Action, ActionId, MigrationStatus, Told};
    use droveway_store::OpenAction;

    fn there(status: MigrationStatus, run_state: Vcpus) -> Seen {
        Seen::There(Box::new(MigrationSample::without_figures(status, run_state)))
    }

    /// A source that came by a migration says "completed" of that one.
    #[test]
    fn what_a_source_says_of_an_earlier_migration_is_none_of_this_attempt() {
        let idle = || there(MigrationStatus::Completed, Vcpus::Running);
        let waits = || there(MigrationStatus::None, Vcpus::InMigrate);
        let mut known = VmState { was_running: true, ..VmState::default() };
        assert!(known.inherited(idle(), waits()).is_unstarted());
        known.migrate_asked = true;
        let action = Action::Migrate { uri: "tcp:1".to_owned() };
        let at = clock::now();
        known.open.insert(ActionId(4), OpenAction { at, action });
        let asked = known.inherited(idle(), waits());
        assert_eq!(asked.migrate, Told::Perhaps);
        assert!(asked.is_unstarted(), "it was about to be told, and was not");
        assert!(
            !known
                .inherited(there(MigrationStatus::Active, Vcpus::Running), waits())
                .is_unstarted()
        );
        known.open.clear();
        assert!(!known.inherited(idle(), waits()).is_unstarted());
    }
}
