//! How good plans are: seeded random gangs, planned by every policy from a perfect measurement, moved in the simulator with
//! noise that no policy knows of.
//!
//! `cargo run --release -p droveway-sim --example quality -- [GANGS] [SEED] [balanced]`
#![expect(clippy::print_stdout, reason = "a program for people")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small counts, and bytes far below 2^53"
)]

use droveway_drive::RecordKind;
use droveway_fleet::{Intent, Scenario, document, scenario::ScenarioSpec};
use droveway_model::{calibration::Calibration, world::World};
use droveway_plan::{GangFacts, Known, VmFacts, policy::POLICIES};
use droveway_sim::{Outcome, Physics, Simulation, simulate, snapshot};
use std::{collections::BTreeMap, env, error::Error, fmt::Write as _};

/// Runs of one plan; what counts is their mean.
const SEEDS: u64 = 3;
/// Two results that differ by less are the same.
const NOISE: f64 = 0.03;

/// What a plan came to.
#[derive(Debug, Clone, Copy, Default)]
struct Came {
    seconds: f64,
    lost_bytes: f64,
    worst_outage: f64,
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let gangs: u64 = arguments.next().map_or(Ok(100), |text| text.parse())?;
    let first: u64 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let balanced = arguments.next().is_some_and(|text| text == "balanced");
    let mut results: BTreeMap<&str, Vec<Came>> = BTreeMap::new();
    for seed in first..first + gangs {
        let scenario = scenario(seed, balanced)?;
        for policy in &POLICIES {
            results.entry(policy.name).or_default().push(run(&scenario, policy.name, seed)?);
        }
    }
    let adaptive = results["adaptive"].clone();
    println!(
        "{gangs} gangs; against adaptive: median ratio of total time, and how often it dominates adaptive or is dominated"
    );
    for (name, of) in &results {
        let mut ratios: Vec<f64> =
            of.iter().zip(&adaptive).map(|(other, own)| own.seconds / other.seconds).collect();
        ratios.sort_by(f64::total_cmp);
        let above = of.iter().zip(&adaptive).filter(|(a, b)| dominates(a, b)).count();
        let below = of.iter().zip(&adaptive).filter(|(a, b)| dominates(b, a)).count();
        let mean = |part: fn(&Came) -> f64| of.iter().map(part).sum::<f64>() / of.len() as f64;
        println!(
            "{name:<20} time {:6.2} s  lost {:8.1} MB  outage {:5.2} s  adaptive/it {:5.3}  dominates {:4.1} %  dominated {:5.1} %",
            mean(|r| r.seconds),
            mean(|r| r.lost_bytes) / 1e6,
            mean(|r| r.worst_outage),
            ratios[ratios.len() / 2],
            100.0 * above as f64 / gangs as f64,
            100.0 * below as f64 / gangs as f64
        );
    }
    Ok(())
}

/// Better in everything, beyond noise.
fn dominates(a: &Came, b: &Came) -> bool {
    let better = |a: f64, b: f64| a < b * (1.0 - NOISE);
    better(a.seconds, b.seconds)
        && better(a.lost_bytes, b.lost_bytes)
        && better(a.worst_outage, b.worst_outage)
}

fn run(scenario: &Scenario, policy: &str, seed: u64) -> std::result::Result<Came, Box<dyn Error>> {
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
    let names = facts.vms.iter().map(|vm| vm.vm.clone()).collect();
    let intent = Intent::drain("alpha".parse()?, "beta".parse()?, names, policy);
    let world = World::of(&snapshot(scenario, &physics), physics.constants);
    let calibration = Calibration { constants: physics.constants, ..Calibration::default() };
    let known = Known { world: &world, calibration: &calibration };
    let made =
        droveway_plan::policy::find(policy)?.plan("quality", &intent, &facts, Some(known))?;
    let mut sum = Came::default();
    for index in 0..SEEDS {
        let simulation = Simulation {
            scenario,
            plan: made.plan.clone(),
            physics,
            seed: seed.wrapping_mul(1_000).wrapping_add(index),
            faults: Vec::new(),
        };
        let outcome = simulate(&simulation)?;
        if !outcome.violations.is_empty() {
            return Err(outcome.violations.join("; ").into());
        }
        let one = measured(&outcome);
        sum.seconds += one.seconds / SEEDS as f64;
        sum.lost_bytes += one.lost_bytes / SEEDS as f64;
        sum.worst_outage += one.worst_outage / SEEDS as f64;
    }
    Ok(sum)
}

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
    let worst = outcome.silences.values().flatten().map(|s| s.length().as_secs_f64());
    Came { seconds: ended - began, lost_bytes, worst_outage: worst.fold(0.0, f64::max) }
}

/// Two to eight VMs at alpha with traffic in both directions and memory loads, and residents.
fn scenario(seed: u64, balanced: bool) -> std::result::Result<Scenario, Box<dyn Error>> {
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
        if next() < 0.7 {
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
