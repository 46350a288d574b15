//! Runs whose world changes under way: carried out as planned, planned again, and planned by who knew it beforehand.
//!
//! `cargo test -p droveway-sim adapting -- --nocapture` prints the figures.
#![expect(clippy::print_stdout, reason = "figures for people")]

use super::*;
use crate::snapshot;
use droveway_drive::{CHANGES_PER_MINUTE, Decision};
use droveway_fleet::{RateLimit, TimeSpan, Urgency};
use droveway_model::{calibration::Calibration, world::World as Known};
use droveway_plan::{
    adaptive::{Effort, Known as Knows},
    replan::{Base, GAIN_LEAST},
};

/// A gang, what is known of it, and what is asked for.
pub(super) struct Study {
    pub(super) scenario: Scenario,
    intent: Intent,
    facts: GangFacts,
    known: Known,
    calibration: Calibration,
}

const SEEDS: std::ops::Range<u64> = 1..6;
/// Half of the error that forecasts are taken to have before anything was learned: what two of the same gang do not share.
const ERROR: f64 = 0.075;

impl Study {
    pub(super) fn of(scenario: Scenario, urgency: Urgency, deadline: Option<TimeSpan>) -> Self {
        let physics = Physics::default();
        let known = Known::of(&snapshot(&scenario, &physics), physics.constants);
        let vms = scenario.spec.vms.iter().filter(|vm| vm.host.as_str() == "alpha");
        let fact = |vm: &droveway_fleet::scenario::ScenarioVm| VmFacts {
            vm: vm.name.clone(),
            memory: vm.memory,
            allow_postcopy: vm.allow_postcopy,
            max_downtime: None,
            deadline: None,
            group: None,
        };
        let facts = GangFacts { port_rate: scenario.spec.link.rate, vms: vms.map(fact).collect() };
        let names = facts.vms.iter().map(|vm| vm.vm.clone()).collect();
        let mut intent =
            Intent::drain("alpha".parse().unwrap(), "beta".parse().unwrap(), names, "adaptive");
        (intent.urgency, intent.deadline) = (urgency, deadline);
        let calibration = Calibration { constants: physics.constants, ..Calibration::default() };
        Study { scenario, intent, facts, known, calibration }
    }

    /// At most two at once, so that not everything is under way when something changes.
    fn two_at_once(mut self) -> Self {
        self.intent.max_parallel = Some(2);
        self
    }

    fn knows(&self) -> Knows<'_> {
        Knows { world: &self.known, calibration: &self.calibration }
    }

    pub(super) fn base(&self) -> Base<'_> {
        let effort = Effort::default();
        Base { intent: &self.intent, facts: &self.facts, known: self.knows(), effort }
    }

    fn plan(&self) -> Plan {
        let policy = policy::find("adaptive").unwrap();
        policy.plan("sim", &self.intent, &self.facts, Some(self.knows())).unwrap().plan
    }

    /// Carries `plan` out in this study's world.
    fn run(&self, plan: &Plan, faults: &[(f64, Fault)], seed: u64, adapts: bool) -> Outcome {
        let adapting = adapts.then(|| Adapting { base: self.base(), latency: 0.05 });
        let simulation = Simulation {
            scenario: &self.scenario,
            plan: plan.clone(),
            physics: Physics::default(),
            seed,
            faults: faults.to_vec(),
            adapting,
        };
        let outcome = simulate(&simulation).unwrap();
        assert_eq!(outcome.violations, Vec::<String>::new());
        assert!(ends(&outcome).iter().all(|end| *end == Ended::Completed), "{:?}", outcome.records);
        outcome
    }
}

fn adopted(outcome: &Outcome) -> Vec<&Decision> {
    outcome.decisions.iter().filter(|decision| decision.adopted).collect()
}

/// What every run that adapts has to keep, whatever happens in it.
fn check_decisions(outcome: &Outcome) {
    let changes = adopted(outcome);
    for decision in &changes {
        let margin = decision.margin.unwrap();
        assert!(margin > GAIN_LEAST, "{decision:?}");
        assert!(decision.runner_up.is_some() && !decision.inputs.is_empty(), "{decision:?}");
        let within = |other: &&&Decision| {
            other.at >= decision.at && other.at.seconds_from(decision.at) < 60.0
        };
        assert!(changes.iter().filter(within).count() <= CHANGES_PER_MINUTE);
    }
}

fn silence(outcome: &Outcome) -> f64 {
    let all = outcome.silences.values().flatten();
    all.map(|silence| silence.length().as_secs_f64()).sum()
}

fn mean(values: &[f64]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "some runs")]
    let count = values.len() as f64;
    values.iter().sum::<f64>() / count
}

/// Compares the three ways to meet a change: as planned, planned again, and by the plan of who knew it.
fn compare(name: &str, before: &Study, after: &Study, faults: &[(f64, Fault)]) -> [f64; 3] {
    let (plan, wise) = (before.plan(), after.plan());
    let (mut times, mut silences) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
    let mut changes = 0;
    for seed in SEEDS {
        let outcomes = [
            before.run(&plan, faults, seed, false),
            before.run(&plan, faults, seed, true),
            before.run(&wise, faults, seed, false),
        ];
        check_decisions(&outcomes[1]);
        changes += adopted(&outcomes[1]).len();
        if seed == SEEDS.start {
            for decision in &outcomes[1].decisions {
                let at = decision.at.seconds_from(outcomes[1].began_at);
                println!(
                    "  {at:5.1} s {}: {} ({})",
                    decision.reason, decision.choice, decision.inputs
                );
            }
        }
        for (index, outcome) in outcomes.iter().enumerate() {
            times[index].push(took(outcome));
            silences[index].push(silence(outcome));
        }
    }
    let [off, on, knew] = times.map(|of: Vec<f64>| mean(&of));
    let [silent_off, silent_on, silent_knew] = silences.map(|of: Vec<f64>| mean(&of));
    println!(
        "{name}: {off:.1} s as planned, {on:.1} s planned again ({changes} changes in {} runs), {knew:.1} s by who knew it; \
         silences {silent_off:.2}, {silent_on:.2}, {silent_knew:.2} s",
        SEEDS.count()
    );
    assert!(on <= off * (1.0 + ERROR), "{name}: {on} s, as planned {off} s");
    assert!(on <= knew * 1.25, "{name}: {on} s, who knew it {knew} s");
    [off, on, knew]
}

/// Half of them send, half of them receive.
const SENDERS: [&str; 8] = ["a", "c", "e", "g", "b", "d", "f", "h"];

fn directed(out: bool, rate: u32, resident: &str) -> Scenario {
    let mut vms: Vec<String> =
        SENDERS.map(|name| format!("{{ name: {name}, host: alpha, memory: 512MiB }}")).to_vec();
    vms.push("{ name: resident, host: beta, memory: 256MiB }".to_owned());
    let flow = |vm: &str, outward: bool| {
        let (from, to) = if outward { (vm, "client") } else { ("client", vm) };
        format!("{{ name: {vm}-data, from: {from}, to: {to}, kind: tcp, rate: {rate}Mbit/s }}")
    };
    let mut flows: Vec<String> = SENDERS[..4].iter().map(|vm| flow(vm, out)).collect();
    flows.extend(SENDERS[4..].iter().map(|vm| flow(vm, !out)));
    flows.push(format!("{{ name: feed, from: client, to: resident, kind: tcp, {resident} }}"));
    scenario("rate: 400Mbit/s", &vms.join(", "), &flows.join(", "))
}

#[test]
fn traffic_that_turns_round_is_followed() {
    let quiet = "rate: 1Mbit/s";
    let before = Study::of(directed(true, 35, quiet), Urgency::High, None).two_at_once();
    let after = Study::of(directed(false, 35, quiet), Urgency::High, None).two_at_once();
    let reversed = |vm: &str| Fault::Reverse { application: format!("{vm}-data").parse().unwrap() };
    let faults = SENDERS.map(|vm| (1.0, reversed(vm)));
    compare("traffic turns round", &before, &after, &faults);
}

#[test]
fn a_resident_that_begins_to_receive_is_made_way_for() {
    let before = Study::of(directed(true, 70, "rate: 1Mbit/s"), Urgency::High, None);
    let after = Study::of(directed(true, 70, "rate: unlimited"), Urgency::High, None);
    let application = "feed".parse().unwrap();
    let faults = [(2.0, Fault::Demand { application, rate: RateLimit::Unlimited })];
    compare("a resident begins to receive", &before, &after, &faults);
}

fn writers(load: &str) -> Scenario {
    let names = ["a", "b", "c", "e", "f"];
    let vm =
        |name: &str, load: &str| format!("{{ name: {name}, host: alpha, memory: 512MiB{load} }}");
    let mut vms: Vec<String> = names.map(|name| vm(name, "")).to_vec();
    vms.insert(3, vm("d", load));
    scenario("rate: 400Mbit/s", &vms.join(", "), "")
}

#[test]
fn a_guest_that_begins_to_write_is_noticed() {
    let before = Study::of(writers(""), Urgency::High, None).two_at_once();
    let load = ", memoryLoad: { workingSet: 100MiB, writeRate: 60MiB/s }";
    let after = Study::of(writers(load), Urgency::High, None).two_at_once();
    let writes = |vm: &str| Fault::Writes {
        vm: vm.parse().unwrap(),
        working_set: Bytes::from_mib(100),
        rate: Bandwidth::from_bytes_per_second(60 << 20),
    };
    let faults = [(1.0, writes("d"))];
    compare("a guest begins to write", &before, &after, &faults);
}

#[test]
fn a_port_that_becomes_slower_is_noticed() {
    let before = Study::of(directed(true, 70, "rate: 1Mbit/s"), Urgency::High, None);
    let mut slow = directed(true, 70, "rate: 1Mbit/s");
    slow.spec.link.rate = "200Mbit/s".parse().unwrap();
    let after = Study::of(slow, Urgency::High, None);
    let slower = |host: &str| Fault::PortRate {
        host: host.parse().unwrap(),
        rate: "200Mbit/s".parse().unwrap(),
    };
    let faults = [(2.0, slower("alpha")), (2.0, slower("beta"))];
    compare("both ports become slower", &before, &after, &faults);
}

/// Where each page that a post-copied guest waits for takes a long round trip, those that wait go another way.
#[test]
fn a_path_that_becomes_long_is_noticed() {
    let quiet = "rate: 1Mbit/s";
    let study = Study::of(directed(true, 90, quiet), Urgency::Medium, None).two_at_once();
    let plan = study.plan();
    let faults = [(3.0, Fault::Path { round_trip: 0.03, sent_again: 0.01 })];
    let (mut silences, mut times) = ([const { Vec::new() }; 2], [const { Vec::new() }; 2]);
    for seed in SEEDS {
        let runs = [false, true].map(|adapts| study.run(&plan, &faults, seed, adapts));
        check_decisions(&runs[1]);
        let told = |decision: &&Decision| decision.reason.contains("the path has changed");
        let said: Vec<_> = runs[1].decisions.iter().filter(told).collect();
        assert_eq!(said.len(), 1, "once, and not again: {:#?}", runs[1].decisions);
        for (index, run) in runs.iter().enumerate() {
            silences[index].push(silence(run));
            times[index].push(took(run));
        }
        if seed == SEEDS.start {
            println!("  {}: {} ({})", said[0].reason, said[0].choice, said[0].inputs);
        }
    }
    let [off, on] = silences.map(|of| mean(&of));
    let [off_time, on_time] = times.map(|of| mean(&of));
    println!(
        "the path becomes long: silences {off:.1} s as planned, {on:.1} s planned again; {off_time:.1} and {on_time:.1} s in all"
    );
    assert!(on < 0.7 * off, "{on} s, as planned {off} s");
}

/// Where nothing changes nothing is changed.
#[test]
fn a_steady_world_is_left_alone() {
    for (name, scenario) in [
        ("directed", directed(true, 70, "rate: 1Mbit/s")),
        ("resident", directed(false, 70, "rate: unlimited")),
        ("writers", writers(", memoryLoad: { workingSet: 60MiB, writeRate: 20MiB/s }")),
    ] {
        for urgency in [Urgency::High, Urgency::Medium, Urgency::Low] {
            let study = Study::of(scenario.clone(), urgency, None);
            let plan = study.plan();
            for seed in SEEDS {
                let outcome = study.run(&plan, &[], seed, true);
                let changes = adopted(&outcome);
                assert!(changes.is_empty(), "{name}, {urgency}, seed {seed}: {changes:#?}");
            }
        }
    }
}

/// The deadline of the next test, seconds.
const DUE: u64 = 30;
const DUE_SECONDS: f64 = 30.0;

/// A deadline that the plan in force would miss is kept by planning again.
#[test]
fn a_deadline_that_can_be_kept_is_kept() {
    let deadline = Some(TimeSpan::from_secs(DUE));
    let quiet = "rate: 1Mbit/s";
    let study = Study::of(directed(true, 20, quiet), Urgency::Low, deadline);
    let plan = study.plan();
    let application = || "feed".parse().unwrap();
    let faults = [(1.0, Fault::Demand { application: application(), rate: RateLimit::Unlimited })];
    let mut kept = [0, 0];
    for seed in SEEDS {
        let off = study.run(&plan, &faults, seed, false);
        let on = study.run(&plan, &faults, seed, true);
        check_decisions(&on);
        for (count, outcome) in kept.iter_mut().zip([&off, &on]) {
            *count += usize::from(took(outcome) <= DUE_SECONDS);
        }
        println!(
            "deadline {DUE} s, seed {seed}: {:.1} s as planned, {:.1} s planned again",
            took(&off),
            took(&on)
        );
    }
    println!(
        "deadline of {DUE} s kept: {} of {} as planned, {} planned again",
        kept[0],
        SEEDS.count(),
        kept[1]
    );
    assert_eq!(kept[1], SEEDS.count());
}
