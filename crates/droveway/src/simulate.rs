//! `simulate`: a scenario's hosts, VMs and traffic in miniature, the real planner and drivers, and the report that a run in the
//! laboratory gives. Changes nothing, needs no rights.

use crate::{
    cli::{self, Output, SimulateArgs},
    drain,
    exit::{Exit, Failure},
    explain,
    preflight::Checked,
    render, report,
    run::{Ledger, PortReading},
    show::Wait,
    state,
};
use anyhow::Context as _;
use droveway_drive::RecordKind;
use droveway_fleet::{
    Fleet, HostId, Intent, RunReport, Scenario, TimeSpan, VmId, document,
    fleet::{Application, ApplicationUnit, FleetSpec, FleetVm, Host, OutageProbe, Port, PortRange},
    log::{ApplicationSample, ProbeSample},
    report::Decision,
    scenario::ScenarioSpec,
};
use droveway_host::Counters;
use droveway_model::{calibration::Calibration, world::World};
use droveway_plan::{
    GangFacts, Known, Made, Plan, VmFacts, adaptive::Effort, check::check, policy, replan::Base,
};
use droveway_sim::{Adapting, Outcome, Physics, Simulation};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

pub(crate) fn run(
    args: &SimulateArgs,
    calibration: Option<&Path>,
    output: Output,
) -> Result<Exit, Failure> {
    let origin = args.scenario.display().to_string();
    let text = fs::read_to_string(&args.scenario)
        .map_err(|error| Failure::usage(format!("{origin}: {error}")))?;
    let scenario: Scenario = document::parse::<ScenarioSpec>(&text, &origin)
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    let (source, target) = ends(&scenario, args)?;
    let intent = intent(&scenario, args, &source, &target)?;
    if intent.vms.is_empty() {
        eprintln!("host '{source}' has no VM: nothing to do");
        return Ok(Exit::Done);
    }
    let mut physics = Physics::default();
    if let Some(path) = calibration {
        physics.constants = state::calibration(path)?.constants;
    }
    let wish = Wish {
        scenario: &scenario,
        intent: &intent,
        physics,
        seed: args.seed,
        limit_asked: args.max_downtime.is_some(),
        replans: args.replan.applies(is_ours(&args.policy)),
    };
    let report = wish.simulated(&mut |line| eprintln!("{line}"))?;
    if let Some(folder) = &args.report {
        report::write(&report, Some(folder))?;
    }
    if output == Output::Table {
        print(&report, args.report.as_deref());
    } else {
        cli::print_data(&report, output)?;
    }
    Ok(report::exit_of(&report))
}

#[expect(clippy::print_stdout, reason = "the command's data")]
fn print(report: &RunReport, folder: Option<&Path>) {
    println!("{}", render::terminal(report, report::color()));
    if let Some(folder) = folder {
        println!("report: {}", folder.display());
    }
}

/// What is to be simulated.
pub(crate) struct Wish<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) intent: &'a Intent,
    pub(crate) physics: Physics,
    pub(crate) seed: u64,
    /// Somebody asked for the limit of downtime, so that missing it is a failure.
    pub(crate) limit_asked: bool,
    /// It is planned again when the run leaves its forecast.
    pub(crate) replans: bool,
}

/// How long an answer takes, seconds: what one about eight VMs takes beside QEMUs on a busy machine.
const ANSWER_SECONDS: f64 = 0.05;

impl Wish<'_> {
    /// Plans, moves in miniature, and reports; `say` hears what there is to say before.
    pub(crate) fn simulated(&self, say: &mut dyn FnMut(&str)) -> Result<RunReport, Failure> {
        let (scenario, intent, physics) = (self.scenario, self.intent, self.physics);
        let measured = Measured::of(scenario, intent, &physics);
        let (plan, decided) = measured.planned(intent, say)?;
        let base = || {
            // What an ablation took from the first plan, no other plan has.
            let levers = policy::find(&intent.policy).map(|chosen| chosen.effort().levers);
            let effort = Effort { levers: levers.unwrap_or_default(), ..Effort::default() };
            Base { intent, facts: &measured.facts, known: measured.known(), effort }
        };
        let adapting = || Adapting { base: base(), latency: ANSWER_SECONDS };
        let simulation = Simulation {
            scenario,
            plan: plan.clone(),
            physics,
            seed: self.seed,
            faults: droveway_sim::changes(self.scenario),
            adapting: self.replans.then(adapting),
        };
        let outcome = droveway_sim::simulate(&simulation)
            .map_err(|error| Failure::new(Exit::Usage, error))?;
        if !outcome.violations.is_empty() {
            return Err(Failure::says(
                Exit::Internal,
                format!("the simulated world broke a law: {}", outcome.violations.join("; ")),
            ));
        }
        let case = Case { wish: self, plan: &plan, decided: &decided };
        case.report(&outcome)
    }
}

/// The first host that has VMs, and the next; or what was named.
fn ends(scenario: &Scenario, args: &SimulateArgs) -> Result<(HostId, HostId), Failure> {
    let hosts = || scenario.spec.hosts.iter().map(|host| &host.name);
    let named = |name: &str| cli::known(name, "host", hosts(), cli::host_text).cloned();
    let occupied = || hosts().find(|host| scenario.spec.vms.iter().any(|vm| vm.host == **host));
    let source = match &args.from {
        Some(name) => named(name)?,
        None => occupied().or_else(|| hosts().next()).cloned().ok_or_else(no_hosts)?,
    };
    let target = match &args.to {
        Some(name) => named(name)?,
        None => hosts().find(|host| **host != source).cloned().ok_or_else(no_hosts)?,
    };
    if source == target {
        return Err(Failure::usage(format!("'{source}' is both source and target")));
    }
    Ok((source, target))
}

fn is_ours(policy: &str) -> bool {
    policy.split(':').next() == Some(policy::DEFAULT_POLICY)
}

fn no_hosts() -> Failure {
    Failure::usage("the scenario needs two hosts: one to leave and one to go to")
}

fn intent(
    scenario: &Scenario,
    args: &SimulateArgs,
    source: &HostId,
    target: &HostId,
) -> Result<Intent, Failure> {
    let here = scenario.spec.vms.iter().filter(|vm| vm.host == *source);
    let names: Vec<VmId> = here.map(|vm| vm.name.clone()).collect();
    let names = drain::ordered(names, &args.order)?;
    let mut techniques = BTreeMap::new();
    for (name, technique) in &args.technique {
        let vm = cli::known(name, "VM to move", names.iter(), cli::vm_text)?;
        if techniques.insert(vm.clone(), *technique).is_some() {
            return Err(Failure::usage(format!("--technique names VM '{name}' twice")));
        }
    }
    let mut intent = Intent::drain(source.clone(), target.clone(), names, &args.policy);
    "simulate".clone_into(&mut intent.verb);
    intent.techniques = techniques;
    intent.max_parallel = args.max_parallel;
    intent.bandwidth = args.bandwidth;
    intent.urgency = args.urgency;
    intent.deadline = args.deadline;
    intent.reserve = args.reserve;
    // Simulated ports can always be shaped, and simulated sockets tuned.
    (intent.shaping, intent.tuning) = (true, args.tuning.applies(is_ours(&args.policy)));
    if let Some(limit) = args.max_downtime {
        intent.max_downtime = limit;
    }
    Ok(intent)
}

/// A perfect measurement of a scenario, and what is known of its VMs.
struct Measured {
    facts: GangFacts,
    world: World,
    calibration: Calibration,
}

impl Measured {
    fn of(scenario: &Scenario, intent: &Intent, physics: &Physics) -> Self {
        let facts = |name: &VmId| {
            scenario.spec.vm(name.as_str()).map(|vm| VmFacts {
                vm: vm.name.clone(),
                memory: vm.memory,
                allow_postcopy: vm.allow_postcopy,
                max_downtime: vm.max_downtime.map(TimeSpan::duration),
                deadline: vm.deadline.map(TimeSpan::duration),
                group: vm.group.clone(),
            })
        };
        Measured {
            facts: GangFacts {
                port_rate: scenario.spec.link.rate,
                vms: intent.vms.iter().filter_map(facts).collect(),
            },
            world: World::of(&droveway_sim::snapshot(scenario, physics), physics.constants),
            calibration: Calibration { constants: physics.constants, ..Calibration::default() },
        }
    }

    fn known(&self) -> Known<'_> {
        Known { world: &self.world, calibration: &self.calibration }
    }

    fn planned(
        &self,
        intent: &Intent,
        say: &mut dyn FnMut(&str),
    ) -> Result<(Plan, Vec<Decision>), Failure> {
        let usage = |error| Failure::new(Exit::Usage, error);
        let Made { plan, notes, reasoning } = policy::find(&intent.policy)
            .and_then(|policy| policy.plan("simulated", intent, &self.facts, Some(self.known())))
            .map_err(usage)?;
        if let Some(deadlines) = reasoning.as_ref().and_then(|made| made.deadlines.as_ref()) {
            say(&explain::deadlines(deadlines));
        }
        let violations = check(&plan, &self.facts);
        for note in &notes {
            say(&format!(
                "note: {}: {} instead of {}: {}",
                note.vm, note.choice, note.instead_of, note.reason
            ));
        }
        if violations.is_empty() {
            let mut decided = drain::decisions(&notes, reasoning.as_ref());
            if let Some(wait) = Wait::of(&plan) {
                say(&wait.text());
                decided.push(wait.decision());
            }
            return Ok((plan, decided));
        }
        let text: Vec<_> = violations.iter().map(ToString::to_string).collect();
        Err(Failure::says(Exit::Blocked, text.join("; ")))
    }
}

/// Everything that a report needs beside the outcome.
struct Case<'a> {
    wish: &'a Wish<'a>,
    plan: &'a Plan,
    decided: &'a [Decision],
}

impl Case<'_> {
    /// The report, made by what makes that of a real run: from a ledger, and from logs as applications write them.
    fn report(&self, outcome: &Outcome) -> Result<RunReport, Failure> {
        let logs = Logs::write(outcome)?;
        let fleet = self.fleet(outcome, &logs)?;
        let ledger = ledger(self.plan, outcome);
        let checked = self.plan.moves.iter().map(|step| {
            let checked = Checked {
                was_running: true,
                accelerator: "simulated",
                qemu_version: "simulated".to_owned(),
                before: None,
            };
            (step.vm.clone(), checked)
        });
        let checked = checked.collect();
        let rate = self.wish.scenario.spec.link.rate.bits_per_second();
        let hosts = [&self.plan.source, &self.plan.target];
        let run_id = format!("simulated-{}", self.wish.seed);
        let context = report::Context {
            fleet: &fleet,
            plan: self.plan,
            intent: self.wish.intent,
            decided: self.decided,
            checked: &checked,
            run_id: &run_id,
            started_at: "simulated".to_owned(),
            asked_at: outcome.began_at,
            ended_at: outcome.until,
            downtime_limit_asked: self.wish.limit_asked,
            capacity: hosts.map(|host| (host.clone(), rate)).to_vec(),
        };
        Ok(report::build(&context, &ledger))
    }

    /// The fleet that the laboratory would write, as far as a report reads it.
    fn fleet(&self, outcome: &Outcome, logs: &Logs) -> Result<Fleet, Failure> {
        let spec = &self.wish.scenario.spec;
        let host = |host: &droveway_fleet::scenario::ScenarioHost| Host {
            name: host.name.clone(),
            port: Port { interface: "nic".to_owned(), rate: spec.link.rate },
            netns: None,
            migration_address: std::net::IpAddr::from([127, 0, 0, 1]),
            migration_ports: PortRange::default(),
        };
        let vm = |vm: &droveway_fleet::scenario::ScenarioVm| FleetVm {
            name: vm.name.clone(),
            memory: vm.memory,
            vcpus: vm.vcpus,
            group: vm.group.clone(),
            allow_postcopy: vm.allow_postcopy,
            deadline: vm.deadline,
            max_downtime: vm.max_downtime,
            instances: BTreeMap::new(),
        };
        let application = |(index, log): (usize, &droveway_sim::ApplicationLog)| Application {
            name: log.name.clone(),
            kind: log.kind.clone(),
            from: log.from.clone(),
            to: log.to.clone(),
            unit: if log.requests { ApplicationUnit::Requests } else { ApplicationUnit::Bytes },
            log: logs.application(index).display().to_string(),
        };
        let probe = |vm: &VmId| OutageProbe {
            vm: vm.clone(),
            interval: spec.probe.interval,
            log: logs.probe(vm).display().to_string(),
        };
        let probes: Vec<_> = if spec.probe.enabled {
            outcome.silences.keys().map(probe).collect()
        } else {
            Vec::new()
        };
        let fleet = FleetSpec {
            hosts: spec.hosts.iter().map(host).collect(),
            vms: spec.vms.iter().map(vm).collect(),
            applications: outcome.applications.iter().enumerate().map(application).collect(),
            calibration: None,
            probes,
        };
        Ok(Fleet::new(self.wish.scenario.metadata.name.clone(), fleet))
    }
}

fn ledger(plan: &Plan, outcome: &Outcome) -> Ledger {
    let mut ledger = Ledger::new(plan);
    ledger.decisions.clone_from(&outcome.decisions);
    ledger.began_at = Some(outcome.began_at);
    ledger.ended_at = Some(outcome.ended_at);
    for (vm, record) in &outcome.records {
        let Some(entry) = ledger.vms.get_mut(vm) else { continue };
        if let RecordKind::Ended { outcome, reason } = &record.kind {
            entry.outcome = Some(*outcome);
            entry.reason.clone_from(reason);
        }
        entry.records.push(record.clone());
    }
    for (vm, progress) in &outcome.progress {
        if let Some(entry) = ledger.vms.get_mut(vm) {
            entry.progress = *progress;
        }
    }
    // What lies within the run, as a real one would have sampled.
    let within = |at| at >= outcome.began_at && at <= outcome.ended_at;
    for sample in outcome.ports.iter().filter(|sample| within(sample.at)) {
        let counters = sample.counters.iter().map(|(host, tx, rx)| {
            let counters = Counters { tx_bytes: *tx, rx_bytes: *rx, ..Counters::default() };
            (host.clone(), counters)
        });
        ledger.ports.push(PortReading { at: sample.at, counters: counters.collect() });
    }
    ledger
}

/// The logs of a simulation, as files: they go with this value.
struct Logs(PathBuf);

impl Logs {
    fn write(outcome: &Outcome) -> Result<Self, Failure> {
        let folder =
            std::env::temp_dir().join(format!("droveway-simulated-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let logs = Logs(folder);
        for (index, log) in outcome.applications.iter().enumerate() {
            lines::<ApplicationSample>(&logs.application(index), &log.samples)?;
        }
        for (vm, silences) in &outcome.silences {
            let whole = ProbeSample {
                start: droveway_fleet::Timestamp::ZERO,
                end: outcome.until,
                sent: 1,
                heard: 1,
                silences: silences.clone(),
            };
            lines(&logs.probe(vm), &[whole])?;
        }
        Ok(logs)
    }

    fn application(&self, index: usize) -> PathBuf {
        self.0.join(format!("application-{index}.log"))
    }

    fn probe(&self, vm: &VmId) -> PathBuf {
        self.0.join(format!("probe-{vm}.log"))
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        // Left files are small and the next start of this number replaces them.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn lines<T: serde::Serialize>(path: &Path, samples: &[T]) -> Result<(), Failure> {
    let mut text = String::new();
    for sample in samples {
        text.push_str(&serde_json::to_string(sample).map_err(anyhow::Error::from)?);
        text.push('\n');
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENARIO: &str = "apiVersion: droveway/v1\nkind: Scenario\nmetadata: { name: s }\nspec:\n  \
         link: { rate: 1Gbit/s }\n  hosts: [ { name: alpha }, { name: beta } ]\n  clients: [ { name: client } ]\n  \
         vms:\n    - { name: web, host: alpha, memory: 512MiB }\n  \
         traffic:\n    - { name: pages, from: web, to: client, kind: tcp, rate: 100Mbit/s }\n";

    /// The report of a run that waits for so long.
    fn reported(wait: Option<&str>, deadline: &str) -> RunReport {
        let args = SimulateArgs {
            scenario: PathBuf::new(),
            from: None,
            to: None,
            policy: "pre-copy-serial".to_owned(),
            technique: Vec::new(),
            order: Vec::new(),
            max_parallel: None,
            max_downtime: None,
            bandwidth: droveway_fleet::RateLimit::Unlimited,
            urgency: droveway_fleet::Urgency::Medium,
            deadline: Some(deadline.parse().unwrap()),
            reserve: droveway_fleet::Reserve::Auto,
            tuning: cli::Tuned::Auto,
            replan: cli::Replans::Auto,
            seed: 1,
            report: None,
        };
        let scenario: Scenario = document::parse::<ScenarioSpec>(SCENARIO, "s").unwrap();
        let (source, target) = ends(&scenario, &args).unwrap();
        let intent = intent(&scenario, &args, &source, &target).unwrap();
        let physics = Physics::default();
        let measured = Measured::of(&scenario, &intent, &physics);
        let (mut plan, decided) = measured.planned(&intent, &mut |_| {}).unwrap();
        plan.start_after = wait.map(|wait| wait.parse().unwrap());
        let (plan_of_it, faults) = (plan.clone(), Vec::new());
        let simulation = Simulation {
            scenario: &scenario,
            plan: plan_of_it,
            physics,
            seed: 1,
            faults,
            adapting: None,
        };
        let outcome = droveway_sim::simulate(&simulation).unwrap();
        let (scenario, intent) = (&scenario, &intent);
        let replans = false;
        let wish = Wish { scenario, intent, physics, seed: 1, limit_asked: false, replans };
        let case = Case { wish: &wish, plan: &plan, decided: &decided };
        case.report(&outcome).unwrap()
    }

    #[test]
    fn a_deadline_counts_from_the_run_s_start_also_for_a_run_that_waited() {
        let at_once = reported(None, "11s");
        assert_eq!(at_once.exit_code, Exit::Done.code(), "{:?}", at_once.vms);
        let late = reported(Some("10s"), "11s");
        let takes = late.total_migration_time_seconds;
        assert!(takes < 11.0 && takes > 1.0, "{takes}: the move itself is as quick");
        let [start, end] = [late.vms[0].start_seconds, late.vms[0].end_seconds].map(Option::unwrap);
        assert!(start >= 10.0 && end > 11.0, "{start} to {end}");
        assert_eq!(late.exit_code, Exit::LimitMissed.code());
        // What it lost is counted while it moved, not while it waited.
        let lost = |report: &RunReport| report.lost_network_bytes();
        assert!(lost(&late) < 2 * lost(&at_once) + 5_000_000, "{} {}", lost(&late), lost(&at_once));
    }
}
