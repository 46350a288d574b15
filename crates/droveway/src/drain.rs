//! `drain` and `migrate`: from what was asked to a plan, its check, the run and its report.

mod asked;
mod observe;
mod ready;

use crate::{
    adopt,
    choice::{by_default, chosen, found_policy, measured_by_default},
    cli::{self, DrainArgs, IntentArgs, MigrateArgs, Output, PlanArgs, PlanCommand, Replans},
    clock, control,
    exit::{Exit, Failure},
    fleet::{self, RunLock},
    given::{self, Given},
    lineage,
    measure::{self, Sought},
    network::{self, Plumbing},
    outlook::{Knowledge, Outlook},
    qemu::{self, Qemu},
    render, report,
    run::{self, Display, Expectations, Finished, Ports, Replanner, Run, Watch, journal::Shelf},
    show::{self, Shown, Subject, Wait, rows},
};
pub(crate) use asked::vm_facts;
pub(crate) use asked::{decisions, ordered};
use asked::{infeasible, intent, long_exposures, of_their_groups, warnings};
use droveway_fleet::{Fleet, FleetVm, Host, HostId, Intent, Ratio, Snapshot, Timestamp, VmId};
use droveway_plan::{
    Chosen, GangFacts, Made, Plan, SNAPSHOT_MAX_AGE, VmFacts,
    check::{Now, check, check_at},
    explain::{Explanation, Question, explain},
    policy,
};
use ready::Ready;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

/// Applications are watched for so long after the last VM has arrived, so that the report can say how they recovered.
const AFTERMATH: std::time::Duration = std::time::Duration::from_secs(3);

/// `plan`: the same up to the plan, and why it is so; nothing starts.
pub(crate) fn plan(
    args: PlanArgs,
    fleet: Option<&Path>,
    calibration: Option<&Path>,
    output: Output,
) -> Result<Exit, Failure> {
    let only_plan = |intent: &mut IntentArgs| {
        intent.dry_run = true;
        intent.svg.clone_from(&args.svg);
        let Some(name) = &args.explain else { return Ok(()) };
        if intent.plan.is_some() {
            return Err(Failure::usage("--explain: a plan from a file has no reasons with it")
                .hint("leave --plan out"));
        }
        // Before anything is measured: a misspelt name should not take seconds.
        let fleet = fleet::load(fleet)?;
        let names = fleet.spec.vms.iter().map(|vm| &vm.name);
        intent.explain = Some(cli::known(name, "VM", names, cli::vm_text)?.clone());
        Ok(())
    };
    match args.command {
        PlanCommand::Drain(mut args) => {
            only_plan(&mut args.intent)?;
            drain(&args, fleet, calibration, output)
        }
        PlanCommand::Migrate(mut args) => {
            only_plan(&mut args.intent)?;
            migrate(&args, fleet, calibration, output)
        }
    }
}

pub(crate) fn drain(
    args: &DrainArgs,
    fleet: Option<&Path>,
    calibration: Option<&Path>,
    output: Output,
) -> Result<Exit, Failure> {
    let fleet = fleet::load(fleet)?;
    let request = Request { args: &args.intent, calibration, output, quiet: false, snapshot: None };
    if let Some(path) = &args.intent.plan {
        let given = Given::read(path, args.intent.plan_max_age)?;
        given.agrees(args.host.as_deref(), args.intent.to.as_deref(), &[])?;
        return execute(&fleet, "drain", Wish::Plan(&given), &request);
    }
    let hosts = fleet.spec.hosts.iter().map(|host| &host.name);
    let name = args.host.as_deref().unwrap_or_default();
    let source = cli::known(name, "host", hosts, cli::host_text)?.clone();
    execute(&fleet, "drain", Wish::Empty(source), &request)
}

pub(crate) fn migrate(
    args: &MigrateArgs,
    fleet: Option<&Path>,
    calibration: Option<&Path>,
    output: Output,
) -> Result<Exit, Failure> {
    let fleet = fleet::load(fleet)?;
    let request = Request { args: &args.intent, calibration, output, quiet: false, snapshot: None };
    if let Some(path) = &args.intent.plan {
        let given = Given::read(path, args.intent.plan_max_age)?;
        given.agrees(None, args.intent.to.as_deref(), &args.vms)?;
        return execute(&fleet, "migrate", Wish::Plan(&given), &request);
    }
    let names = fleet.spec.vms.iter().map(|vm| &vm.name);
    let mut vms = Vec::new();
    for name in &args.vms {
        let vm = cli::known(name, "VM", names.clone(), cli::vm_text)?.clone();
        if vms.contains(&vm) {
            return Err(Failure::usage(format!("VM '{vm}' is named twice")));
        }
        vms.push(vm);
    }
    move_named(&fleet, vms, &request)
}

/// What is to be moved.
enum Wish<'a> {
    /// Every VM of this host.
    Empty(HostId),
    /// These VMs.
    Named(Vec<VmId>),
    /// What a plan says.
    Plan(&'a Given),
}

/// How a move is asked for, beside what is moved.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) args: &'a IntentArgs,
    pub(crate) calibration: Option<&'a Path>,
    pub(crate) output: Output,
    /// Do not print the report; its folder has it.
    pub(crate) quiet: bool,
    /// What is known of the fleet, if the caller knows.
    pub(crate) snapshot: Option<Snapshot>,
}

/// Moves these VMs.
pub(crate) fn move_named(
    fleet: &Fleet,
    vms: Vec<VmId>,
    request: &Request<'_>,
) -> Result<Exit, Failure> {
    execute(fleet, "migrate", Wish::Named(vms), request)
}

/// A VM that will move, with its QEMU at the source.
struct Candidate<'a> {
    vm: &'a FleetVm,
    source: Qemu,
    runs: bool,
}

fn execute(
    fleet: &Fleet,
    verb: &str,
    wish: Wish<'_>,
    request: &Request<'_>,
) -> Result<Exit, Failure> {
    let args = request.args;
    let mut policy = match &wish {
        Wish::Plan(_) => None,
        Wish::Empty(_) | Wish::Named(_) => Some(chosen(args)?),
    };
    let snapshot = match &request.snapshot {
        Some(known) => Some(known.clone()),
        // Measured before the right to move is taken: it takes its time, and others may look meanwhile.
        None => match measure::seek(fleet, &args.source)? {
            Sought::Found(found) => Some(*found),
            Sought::Nothing if policy.is_some() && by_default(args) => {
                match measured_by_default(fleet)? {
                    Sought::Found(found) => Some(*found),
                    Sought::Interrupted => return Ok(Exit::Interrupted),
                    Sought::Nothing => {
                        policy = Some(found_policy(policy::UNMEASURED_POLICY)?);
                        None
                    }
                }
            }
            Sought::Nothing => None,
            Sought::Interrupted => return Ok(Exit::Interrupted),
        },
    };
    // The controller is one loop; a second thread only lets blocking calls not delay it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let mut run_id = format!("run-{}", jiff::Zoned::now().strftime("%Y%m%d-%H%M%S"));
    // Who only observes changes nothing, not even what an earlier run left, and is in nobody's way.
    let hold = if args.observe_only && !args.dry_run {
        None
    } else {
        let mut lock = RunLock::acquire(fleet)?;
        let mut shelf = if args.dry_run { None } else { Some(Shelf::open(fleet)?) };
        // What a killed controller left comes to its end first.
        if let Some(it) = shelf.take() {
            let (held, it) = runtime.block_on(adopt::before_a_run(fleet, lock, it))?;
            (lock, shelf) = (held, Some(it));
        }
        if network::put_back_left(fleet)? {
            eprintln!("note: the ports that an earlier run left changed are as they were");
        }
        if let Some(shelf) = &shelf {
            run_id = shelf.free_id(run_id)?;
        }
        lock.publish(&fleet::ActiveRun::preparing(&run_id));
        Some((lock, shelf))
    };
    runtime.block_on(async {
        let (source, wanted) = match wish {
            Wish::Plan(given) => {
                let (candidates, facts, now) = found_for(fleet, verb, given).await?;
                let intent = given.intent(verb);
                let left = left_behind(fleet, &given.plan.source, &intent.vms).await;
                let how = How::Given { given, now };
                let job =
                    Job { fleet, intent, candidates, facts, left, how, request, snapshot, run_id };
                return job.run(hold).await;
            }
            Wish::Empty(source) => (Some(source), None),
            Wish::Named(vms) => (None, Some(vms)),
        };
        let hosts = fleet.spec.hosts.iter().map(|host| &host.name);
        let name = args.to.as_deref().unwrap_or_default();
        let target = cli::known(name, "host", hosts, cli::host_text)?.clone();
        let (source, candidates) = candidates(fleet, source, wanted, &target, &args.order).await?;
        if candidates.is_empty() {
            eprintln!("host '{source}' has no VM: nothing to do");
            return Ok(Exit::Done);
        }
        let Some(policy) = policy else { return Ok(Exit::Done) };
        let moving: Vec<VmId> = candidates.iter().map(|it| it.vm.name.clone()).collect();
        let mut intent = intent(fleet, verb, &source, &target, &moving, args)?;
        policy.text().clone_into(&mut intent.policy);
        let facts = candidates.iter().map(|candidate| vm_facts(candidate.vm)).collect();
        let left = left_behind(fleet, &source, &intent.vms).await;
        let how = How::Policy(policy);
        let job = Job { fleet, intent, candidates, facts, left, how, request, snapshot, run_id };
        job.run(hold).await
    })
}

/// The others of the moving VMs' groups that are at the source, as far as they answer: whoever names VMs may not have
/// thought of them.
async fn left_behind(fleet: &Fleet, source: &HostId, moving: &[VmId]) -> Vec<VmFacts> {
    let mut left = Vec::new();
    for vm in of_their_groups(fleet, moving) {
        let places = qemu::find_settled(vm).await;
        let is_here = places.into_iter().any(|(host, found)| {
            host == *source && found.is_ok_and(|found| qemu::holds_vm(&found.state))
        });
        if is_here {
            left.push(vm_facts(vm));
        }
    }
    left
}

/// The VMs that a plan moves, as far as they are at its source; the facts to check it by; and how things stand now.
async fn found_for<'a>(
    fleet: &'a Fleet,
    verb: &str,
    given: &Given,
) -> Result<(Vec<Candidate<'a>>, Vec<VmFacts>, Now), Failure> {
    let plan = &given.plan;
    // A drain has all VMs of the host in view, so that no group is torn apart; who names VMs has those.
    let all = verb == "drain";
    let looked_at = |vm: &&FleetVm| all || plan.step(vm.name.as_str()).is_some();
    let mut now = given.now(lineage::highest(fleet, plan)?)?;
    let mut here = BTreeMap::new();
    for (vm, (host, candidate)) in places(fleet, looked_at).await? {
        if host == plan.source {
            here.insert(vm, candidate);
        } else {
            now.elsewhere.insert(vm, host);
        }
    }
    let facts = here.values().map(|candidate: &Candidate<'_>| vm_facts(candidate.vm)).collect();
    now.paused = paused(here.values()).into_iter().collect::<BTreeSet<_>>();
    let moving: Vec<_> = plan.moves.iter().filter_map(|step| here.remove(&step.vm)).collect();
    for vm in here.keys() {
        eprintln!("note: {vm} is on host '{}' too; the plan leaves it there", plan.source);
    }
    Ok((moving, facts, now))
}

/// Those whose vCPUs do not run.
fn paused<'a>(candidates: impl Iterator<Item = &'a Candidate<'a>>) -> Vec<VmId> {
    candidates.filter(|candidate| !candidate.runs).map(|it| it.vm.name.clone()).collect()
}

/// Where these VMs are, found by asking the QEMUs.
async fn places<'a>(
    fleet: &'a Fleet,
    looked_at: impl Fn(&&FleetVm) -> bool,
) -> Result<BTreeMap<VmId, (HostId, Candidate<'a>)>, Failure> {
    let mut at: BTreeMap<VmId, Vec<(HostId, Candidate<'a>)>> = BTreeMap::new();
    for vm in fleet.spec.vms.iter().filter(looked_at) {
        for (host, found) in qemu::find_settled(vm).await {
            let found = found.map_err(|qemu::Silent| {
                Failure::says(
                    Exit::Blocked,
                    format!("the QEMU of VM '{}' on host '{host}' does not answer", vm.name),
                )
                .hint("its monitor may be in use by another program; where the VM runs is unknown then")
            })?;
            if qemu::holds_vm(&found.state) {
                let runs = found.state == droveway_qmp::RunState::Running;
                let candidate = Candidate { vm, source: found.qemu, runs };
                at.entry(vm.name.clone()).or_default().push((host, candidate));
            }
        }
    }
    for (vm, places) in &at {
        if let [(first, _), (second, _), ..] = places.as_slice() {
            return Err(Failure::says(
                Exit::Blocked,
                format!(
                    "VM '{vm}' seems to run on both '{first}' and '{second}': nothing is moved"
                ),
            )
            .hint("find out which one is right and end the other"));
        }
    }
    Ok(at.into_iter().filter_map(|(vm, mut places)| Some((vm, places.pop()?))).collect())
}

/// The VMs that move, in order, each found at the source.
async fn candidates<'a>(
    fleet: &'a Fleet,
    source: Option<HostId>,
    wanted: Option<Vec<VmId>>,
    target: &HostId,
    order: &[String],
) -> Result<(HostId, Vec<Candidate<'a>>), Failure> {
    let named = |vm: &&FleetVm| wanted.as_ref().is_none_or(|wanted| wanted.contains(&vm.name));
    let mut flat = places(fleet, named).await?;

    let names: Vec<VmId> = match (&source, wanted) {
        (_, Some(wanted)) => {
            for vm in &wanted {
                if !flat.contains_key(vm) {
                    return Err(Failure::says(
                        Exit::Blocked,
                        format!("VM '{vm}' runs on no host of the fleet"),
                    )
                    .hint("`droveway status` shows where VMs are"));
                }
            }
            wanted
        }
        (Some(source), None) => {
            let here = |vm: &&FleetVm| flat.get(&vm.name).is_some_and(|(host, _)| host == source);
            fleet.spec.vms.iter().filter(here).map(|vm| vm.name.clone()).collect()
        }
        (None, None) => Vec::new(),
    };
    let names = ordered(names, order)?;

    let mut origin = source;
    let mut candidates = Vec::new();
    for name in names {
        let Some((host, candidate)) = flat.remove(&name) else { continue };
        if host == *target {
            return Err(Failure::says(
                Exit::Blocked,
                format!("VM '{name}' is already on host '{target}'"),
            ));
        }
        match &origin {
            Some(origin) if *origin != host => {
                return Err(Failure::usage(format!(
                    "VM '{name}' is on host '{host}', the others on '{origin}': one run moves VMs of \
                     one host"
                )));
            }
            _ => origin = Some(host),
        }
        candidates.push(candidate);
    }
    let origin = origin.unwrap_or_else(|| target.clone());
    if origin == *target {
        return Err(Failure::usage(format!("'{target}' is both source and target")));
    }
    Ok((origin, candidates))
}

/// Where the plan comes from.
enum How<'a> {
    /// A policy makes it.
    Policy(Chosen),
    /// It was made before.
    Given { given: &'a Given, now: Now },
}

/// One request, resolved.
struct Job<'a> {
    fleet: &'a Fleet,
    intent: Intent,
    candidates: Vec<Candidate<'a>>,
    /// What the plan is made from and checked by.
    facts: Vec<VmFacts>,
    /// Others of the moving VMs' groups, at the source.
    left: Vec<VmFacts>,
    how: How<'a>,
    request: &'a Request<'a>,
    snapshot: Option<Snapshot>,
    run_id: String,
}

impl<'a> Job<'a> {
    /// `hold`: the right to move, and where runs are written down; `None`: nothing is to be changed.
    async fn run(mut self, hold: Option<(RunLock, Option<Shelf>)>) -> Result<Exit, Failure> {
        let run_id = self.run_id.clone();
        let (source, target) = (self.host(&self.intent.source)?, self.host(&self.intent.target)?);
        let (ours, held) = match &self.how {
            How::Policy(policy) => (policy.name == policy::DEFAULT_POLICY, false),
            How::Given { given, .. } => (given.plan.tuning, !given.plan.reservations.is_empty()),
        };
        let Plumbing { tuning, looked } =
            network::plumbing(self.request.args, ours, held, [source, target])?;
        (self.intent.tuning, self.intent.shaping) = (tuning, looked.is_some());
        let facts = GangFacts {
            port_rate: [source, target]
                .map(|host| measure::port_rate(host, self.snapshot.as_ref()))
                .into_iter()
                .min()
                .unwrap_or_default(),
            vms: self.facts.clone(),
        };
        let knowledge = self.knowledge()?;
        let made = self.made(&facts, knowledge.as_ref())?;
        for note in &made.notes {
            eprintln!(
                "note: {}: {} instead of {}: {}",
                note.vm, note.choice, note.instead_of, note.reason
            );
        }
        let mut warnings = warnings(&made.plan, &facts, &self.left);
        let wait = Wait::of(&made.plan);
        // An explanation plans again, from what is known; so it is not given away yet.
        let known = self.request.args.explain.as_ref().and(knowledge.clone());
        let again = knowledge.clone().filter(|_| self.replans());
        if again.is_none() && self.request.args.replan == Replans::On {
            eprintln!("note: nothing was measured, so nothing is planned again");
        }
        let outlook = match knowledge.map(|knowledge| knowledge.outlook(&made.plan)).transpose() {
            // Such a plan does not come from this snapshot; without one it is done all the same.
            Err(failure) if matches!(self.how, How::Given { .. }) => {
                eprintln!("note: there is no forecast: {:#}", failure.error);
                None
            }
            outlook => outlook?,
        };
        let forecast = outlook.as_ref().map(|outlook| &outlook.forecast);
        warnings.extend(long_exposures(&made.plan, &facts, forecast));
        if self.request.args.dry_run {
            let explanation = self.explained(&made, &facts, known.as_ref(), outlook.as_ref())?;
            if let Some(path) = &self.request.args.svg {
                self.picture(&made.plan, outlook.as_ref(), path)?;
            }
            let gang = outlook.as_ref().map(Outlook::gang);
            let shown = Shown {
                plan: &made.plan,
                moves: rows(&Subject { made: &made, intent: &self.intent, forecast, gang }),
                wait,
                warnings,
                forecast,
                reasoning: made.reasoning.as_ref(),
                explanation: explanation.as_ref(),
            };
            show::print(&shown, self.request.output)?;
            given::warn_of_age(&made.plan);
            let hint = "nothing was started; what is shown is the nearest that was found";
            return infeasible(made.reasoning.as_ref(), hint).map_or(Ok(Exit::Done), Err);
        }
        let Made { mut plan, notes, reasoning } = made;
        // Also over what a plan from a file says: --tuning off is a wish about this run.
        plan.tuning = tuning;
        let hint = "nothing was started; `droveway plan` shows what could be had";
        if let Some(failure) = infeasible(reasoning.as_ref(), hint) {
            return Err(failure);
        }
        for warning in &warnings {
            eprintln!("warning: {warning}");
        }
        if let Some(wait) = &wait {
            eprintln!("{}", wait.text());
        }
        if let Some(outlook) = &outlook {
            let time = outlook.forecast.total_seconds;
            eprintln!("forecast: {:.1} s in all ({:.1} to {:.1} s)", time.p50, time.p10, time.p90);
        }
        let asked_at = clock::now();
        let mut decided = decisions(&notes, reasoning.as_ref());
        decided.extend(wait.as_ref().map(Wait::decision));
        if let How::Given { given, .. } = &self.how {
            decided.push(given.decision());
        }
        let replanner = again.map(|knowledge| {
            let intent = self.intent.clone();
            Arc::new(Replanner { intent, facts: facts.clone(), knowledge })
        });
        let Some((lock, shelf)) = hold else {
            let ours = observe::Ours { plan, outlook, decided, warnings, replanner, asked_at };
            return self.observe(ours).await;
        };
        lineage::remember(self.fleet, &plan)?;
        let Some(shelf) = shelf else { return Ok(Exit::Done) };
        // From here on the run is on file, and ends there whatever happens.
        let (journal, Ready { network, pairs, checked, mut gang }) =
            self.ready(shelf, looked, &plan, target).await?;
        let ports = Ports::open(&[source, target]);
        let capacity = ports.capacity.clone();
        if let Some(replanner) = &replanner {
            let adaptation = replanner.adaptation(&gang.situation(Timestamp::ZERO));
            gang = gang.adapting(adaptation).yielding([source.port.rate, target.port.rate]);
        }
        let watch = replanner.as_ref().and_then(|_| Watch::open([source, target], self.fleet));
        let bears = facts.vms.iter().filter_map(|it| Some((it.vm.clone(), it.max_downtime?)));
        let gang = gang.bearing(bears.collect());
        let (operators, requests) = run::requests();
        let (view, seen) = tokio::sync::watch::channel(None);
        let _control = control::Server::start(self.fleet, operators, seen).inspect_err(|error| {
            eprintln!("warning: this run cannot be watched or steered from elsewhere: {error}");
        });
        let expected = Expectations::of(&plan, forecast, &self.facts);
        let run = Run {
            gang,
            replanner,
            watch,
            pairs,
            ports,
            payload: facts.port_rate.tcp_payload(),
            lock,
            run_id: run_id.clone(),
            network,
            journal,
            earlier: Vec::new(),
            requests,
            fleet: Arc::new(self.fleet.clone()),
            expected,
            view,
        };
        let mut display = Display::new(&self.intent.vms);
        let started_at = jiff::Timestamp::now().to_string();
        let Finished { ledger, journal, lock: _lock } = run::carry_out(run, &mut display).await;
        self.see_the_aftermath().await;
        let (intent, fleet) = asked::amended(&self.intent, self.fleet, &ledger.wishes);
        let context = report::Context {
            fleet: &fleet,
            plan: &plan,
            intent: &intent,
            decided: &decided,
            checked: &checked,
            run_id: &run_id,
            started_at,
            asked_at,
            ended_at: clock::now(),
            downtime_limit_asked: plan.max_downtime.is_some()
                || ledger.wishes.downtime.contains_key(&None),
            capacity,
        };
        let mut report = report::build(&context, &ledger);
        report.remarks.extend(warnings);
        if let Some(outlook) = &outlook {
            outlook.tell(&mut report);
        }
        let folder = report::write(&report, self.request.args.report.as_deref())?;
        // What came of another plan than the one that was forecast teaches nothing of the forecast.
        let changed = ledger.decisions.iter().any(|decision| decision.adopted);
        if let Some(outlook) = outlook.filter(|_| !changed)
            && let Err(failure) = outlook.learn(&report, self.request.args.hold_out)
        {
            // The VMs have moved: that nothing was learned from it is no reason to call it failed.
            eprintln!("warning: nothing was learned from this run: {:#}", failure.error);
        }
        journal.end(clock::now(), report::exit_of(&report), Some(&folder));
        if !self.request.quiet {
            self.print(&report, &folder)?;
        }
        Ok(report::exit_of(&report))
    }

    /// Goes on watching applications, if there are any.
    async fn see_the_aftermath(&self) {
        if !self.fleet.spec.applications.is_empty() || !self.fleet.spec.probes.is_empty() {
            let mut interrupts = run::Interrupts::new();
            tokio::select! {
                () = tokio::time::sleep(AFTERMATH) => {}
                () = interrupts.next() => {}
            }
        }
    }

    /// Whether it is planned again while VMs move.
    fn replans(&self) -> bool {
        let ours =
            matches!(&self.how, How::Policy(policy) if policy.name == policy::DEFAULT_POLICY);
        self.request.args.replan.applies(ours || self.request.args.observe_only)
    }

    /// The plan, checked.
    fn made(&self, facts: &GangFacts, knowledge: Option<&Knowledge>) -> Result<Made, Failure> {
        let policy = match &self.how {
            How::Policy(policy) => policy,
            How::Given { given, now } => {
                let violations = check_at(&given.plan, facts, now);
                if !violations.is_empty() {
                    return Err(given.refused(&self.intent.verb, &violations));
                }
                return Ok(Made { plan: given.plan.clone(), notes: Vec::new(), reasoning: None });
            }
        };
        let known = knowledge.map(Knowledge::known);
        let mut made = policy
            .plan(&self.run_id, &self.intent, facts, known)
            .map_err(|error| Failure::new(Exit::Usage, error))?;
        let plan = &mut made.plan;
        plan.max_downtime = self.request.args.max_downtime;
        plan.paused = paused(self.candidates.iter());
        if let Some(snapshot) = &self.snapshot {
            plan.snapshot_taken_at = Some(snapshot.taken_at.clone());
            plan.snapshot_max_age = Some(SNAPSHOT_MAX_AGE);
        }
        let violations = check(&made.plan, facts);
        if violations.is_empty() {
            return Ok(made);
        }
        let text: Vec<_> = violations.iter().map(ToString::to_string).collect();
        Err(Failure::says(Exit::Blocked, text.join("; ")))
    }

    /// Why the VM that was asked about goes its way.
    fn explained(
        &self,
        made: &Made,
        facts: &GangFacts,
        knowledge: Option<&Knowledge>,
        outlook: Option<&Outlook>,
    ) -> Result<Option<Explanation>, Failure> {
        let (Some(vm), How::Policy(policy)) = (&self.request.args.explain, &self.how) else {
            return Ok(None);
        };
        let question = Question {
            policy,
            intent: &self.intent,
            facts,
            known: knowledge.map(Knowledge::known),
            made,
            forecast: outlook.map(|outlook| &outlook.forecast),
        };
        let explained = explain(&question, vm);
        explained.map(Some).ok_or_else(|| {
            let moved: Vec<_> = self.intent.vms.iter().map(VmId::as_str).collect();
            Failure::usage(format!("--explain {vm}: that VM is not moved"))
                .hint(format!("moved: {}", moved.join(", ")))
        })
    }

    /// What is known of the VMs, if there is a snapshot to know it from.
    fn knowledge(&self) -> Result<Option<Knowledge>, Failure> {
        let Some(snapshot) = &self.snapshot else { return Ok(None) };
        let vms = self.candidates.iter().map(|candidate| &candidate.vm.name);
        let reserved = self.request.args.reserved.map(Ratio::get);
        let (source, calibration) = (&self.intent.source, self.request.calibration);
        Knowledge::of(vms, source, snapshot, self.fleet, calibration, reserved).map(Some)
    }

    fn host(&self, name: &HostId) -> Result<&'a Host, Failure> {
        self.fleet
            .spec
            .host(name.as_str())
            .ok_or_else(|| Failure::usage(format!("there is no host '{name}' in the fleet")))
    }

    /// Draws the plan into a file.
    fn picture(&self, plan: &Plan, outlook: Option<&Outlook>, path: &Path) -> Result<(), Failure> {
        let Some(outlook) = outlook else {
            return Err(show::nothing_to_draw_from(path, self.fleet.metadata.name.as_str()));
        };
        let own = |vm: &VmId| self.fleet.spec.vm(vm.as_str()).and_then(|vm| vm.deadline);
        let deadlines: Vec<_> = plan.moves.iter().map(|step| own(&step.vm)).collect();
        show::draw(plan, &self.intent, &deadlines, outlook, path)
    }

    #[expect(clippy::print_stdout, reason = "the command's data")]
    fn print(&self, report: &droveway_fleet::RunReport, folder: &Path) -> Result<(), Failure> {
        if self.request.output == Output::Table {
            println!("{}", render::terminal(report, report::color()));
            println!("report: {}", folder.display());
            Ok(())
        } else {
            cli::print_data(report, self.request.output)
        }
    }
}

#[cfg(test)]
mod tests;
