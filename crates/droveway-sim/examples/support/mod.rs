//! Seeded random gangs, planned from a perfect measurement and moved in the simulator with noise that no planner knows of.
#![allow(dead_code, reason = "each study uses a part")]

use droveway_drive::RecordKind;
use droveway_fleet::{Intent, Scenario, TimeSpan, document, scenario::ScenarioSpec};
use droveway_model::{calibration::Calibration, world::World};
use droveway_plan::{GangFacts, Known, Made, Plan, VmFacts};
use droveway_sim::{Outcome, Physics, Simulation, simulate, snapshot};
use std::{error::Error, fmt::Write as _};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What a plan came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Came {
    pub(crate) seconds: f64,
    pub(crate) lost_bytes: f64,
    pub(crate) worst_outage: f64,
    /// Silences of all VMs, seconds.
    pub(crate) outages: f64,
    pub(crate) arrived: bool,
}

impl Came {
    /// What it cost under the weights of urgency medium, seconds; exposure and brownouts aside.
    pub(crate) fn cost(&self) -> f64 {
        let weights = droveway_plan::adaptive::weights(droveway_fleet::Urgency::Medium);
        // The payload of the studies' ports of 400 Mbit/s, bytes per second.
        let port = 47e6;
        weights.time * self.seconds
            + weights.outage * self.outages
            + weights.loss * self.lost_bytes / port
    }

    pub(crate) fn mean(runs: &[Came]) -> Came {
        let count = runs.len().max(1) as f64;
        let mean = |part: fn(&Came) -> f64| runs.iter().map(part).sum::<f64>() / count;
        Came {
            seconds: mean(|run| run.seconds),
            lost_bytes: mean(|run| run.lost_bytes),
            worst_outage: mean(|run| run.worst_outage),
            outages: mean(|run| run.outages),
            arrived: runs.iter().all(|run| run.arrived),
        }
    }
}

/// A gang, and what is known of it.
pub(crate) struct Gang {
    scenario: Scenario,
    facts: GangFacts,
    world: World,
    calibration: Calibration,
    physics: Physics,
    /// `adaptive` may hold bandwidth and tune sockets.
    pub(crate) plumbing: bool,
}

impl Gang {
    pub(crate) fn of(scenario: Scenario) -> Result<Gang> {
        let physics = Physics::default();
        let vms = scenario.spec.vms.iter().filter(|vm| vm.host.as_str() == "alpha");
        let facts = GangFacts {
            port_rate: scenario.spec.link.rate,
            vms: vms
                .map(|vm| VmFacts {
                    vm: vm.name.clone(),
                    memory: vm.memory,
                    allow_postcopy: vm.allow_postcopy,
                    max_downtime: None,
                    deadline: None,
                    group: None,
                })
                .collect(),
        };
        let world = World::of(&snapshot(&scenario, &physics), physics.constants);
        let calibration = Calibration { constants: physics.constants, ..Calibration::default() };
        Ok(Gang { scenario, facts, world, calibration, physics, plumbing: false })
    }

    pub(crate) fn planned(&self, policy: &str, deadline: Option<TimeSpan>) -> Result<Made> {
        let names = self.facts.vms.iter().map(|vm| vm.vm.clone()).collect();
        let mut intent = Intent::drain("alpha".parse()?, "beta".parse()?, names, policy);
        intent.deadline = deadline;
        // Others run on ports and sockets as they are in the field.
        let ours = policy == droveway_plan::policy::DEFAULT_POLICY;
        (intent.shaping, intent.tuning) = (ours && self.plumbing, ours && self.plumbing);
        let known = Known { world: &self.world, calibration: &self.calibration };
        Ok(droveway_plan::policy::find(policy)?.plan("study", &intent, &self.facts, Some(known))?)
    }

    pub(crate) fn runs(&self, plan: &Plan, seed: u64, runs: u64) -> Result<Vec<Came>> {
        let one = |index: u64| {
            let simulation = Simulation {
                scenario: &self.scenario,
                plan: plan.clone(),
                physics: self.physics,
                seed: seed.wrapping_mul(1_000).wrapping_add(index),
                faults: Vec::new(),
                adapting: None,
            };
            let outcome = simulate(&simulation)?;
            if !outcome.violations.is_empty() {
                return Err(format!(
                    "{}, seed {seed}: {}",
                    plan.policy,
                    outcome.violations.join("; ")
                )
                .into());
            }
            Ok(measured(&outcome))
        };
        (0..runs).map(one).collect()
    }
}

/// What a run came to.
fn measured(outcome: &Outcome) -> Came {
    let began = outcome.began_at.seconds();
    let ended = outcome
        .records
        .iter()
        .filter(|(_, record)| matches!(record.kind, RecordKind::Ended { .. }))
        .map(|(_, record)| record.at.seconds())
        .fold(began, f64::max);
    let mut lost_bytes = 0.0;
    for application in outcome.applications.iter().filter(|a| a.kind == "tcp") {
        let amount = |from: f64, to: f64| -> f64 {
            application
                .samples
                .iter()
                .map(|sample| {
                    let (start, end) = (sample.start.seconds(), sample.end.seconds());
                    let share = (end.min(to) - start.max(from)).max(0.0) / (end - start);
                    sample.amount as f64 * share
                })
                .sum()
        };
        let before = amount(1.0, began) / (began - 1.0);
        // What it loses after the last VM arrived, while pages are missing, counts too.
        let until = outcome.until.seconds();
        lost_bytes += (before * (until - began) - amount(began, until)).max(0.0);
    }
    let silences = || outcome.silences.values().flatten().map(|s| s.length().as_secs_f64());
    let (worst_outage, outages) = (silences().fold(0.0, f64::max), silences().sum());
    let arrived = outcome.records.iter().all(|(_, record)| {
        !matches!(&record.kind, RecordKind::Ended { outcome, .. } if *outcome != droveway_drive::Outcome::Completed)
    });
    Came { seconds: ended - began, lost_bytes, worst_outage, outages, arrived }
}

/// Two to eight VMs at alpha with traffic in both directions and memory loads, and residents.
pub(crate) fn scenario(seed: u64, balanced: bool) -> Result<Scenario> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / u64::MAX as f64
    };
    let count = 2 + (next() * 7.0) as usize;
    let (mut vms, mut traffic) = (String::new(), String::new());
    for vm in 0..count {
        let memory = [256, 384, 512, 1024][(next() * 4.0) as usize % 4];
        let mut load = String::new();
        if next() < 0.5 {
            let (set, rate) = (10.0 + next() * 80.0, 1.0 + next() * 25.0);
            let _ = write!(
                load,
                ", memoryLoad: {{ workingSet: {set:.0}MiB, writeRate: {rate:.0}MiB/s }}"
            );
        }
        writeln!(vms, "    - {{ name: vm{vm}, host: alpha, memory: {memory}MiB{load} }}")?;
        let share = 0.9 * 400.0 / count as f64;
        let (out, inward) = (1.0 + next() * share, 1.0 + next() * share);
        let inward = if balanced { out } else { inward };
        let (from, to) = (format!("vm{vm}"), "client".to_owned());
        if next() < 0.7 || balanced {
            writeln!(
                traffic,
                "    - {{ name: out{vm}, from: {from}, to: {to}, kind: tcp, rate: {out:.0}Mbit/s }}"
            )?;
        }
        if next() < 0.7 || balanced {
            writeln!(
                traffic,
                "    - {{ name: in{vm}, from: {to}, to: {from}, kind: tcp, rate: {inward:.0}Mbit/s }}"
            )?;
        }
    }
    if next() < 0.4 {
        let rate = 20.0 + next() * 100.0;
        writeln!(vms, "    - {{ name: resident, host: beta, memory: 256MiB }}")?;
        writeln!(
            traffic,
            "    - {{ name: resident-in, from: client, to: resident, kind: tcp, rate: {rate:.0}Mbit/s }}"
        )?;
    }
    let traffic = if traffic.is_empty() { "    []\n".to_owned() } else { traffic };
    let text = format!(
        "apiVersion: droveway/v1\nkind: Scenario\nmetadata: {{ name: gang }}\nspec:\n  link: {{ rate: 400Mbit/s }}\n  \
         hosts: [ {{ name: alpha }}, {{ name: beta }} ]\n  clients: [ {{ name: client }} ]\n  vms:\n{vms}  traffic:\n{traffic}"
    );
    Ok(document::parse::<ScenarioSpec>(&text, "quality")?)
}
