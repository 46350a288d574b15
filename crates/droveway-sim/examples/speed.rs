//! How much faster than real time a gang is simulated: `cargo run --release -p droveway-sim --example speed`.
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(clippy::print_stdout, reason = "it prints what it measures")]

use droveway_fleet::{Intent, Scenario, document, scenario::ScenarioSpec};
use droveway_plan::{GangFacts, VmFacts, policy};
use droveway_sim::{Physics, Simulation, simulate};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = include_str!("../../../scenarios/mixed-8.yaml");
    let scenario: Scenario = document::parse::<ScenarioSpec>(text, "mixed-8.yaml")?;
    let vms = scenario.spec.vms.iter().map(|vm| VmFacts {
        vm: vm.name.clone(),
        memory: vm.memory,
        allow_postcopy: vm.allow_postcopy,
        max_downtime: None,
        deadline: None,
        group: None,
    });
    let facts = GangFacts { port_rate: scenario.spec.link.rate, vms: vms.collect() };
    for name in ["pre-copy-serial", "pre-copy-parallel", "hybrid-serial", "post-copy-parallel"] {
        let names = facts.vms.iter().map(|vm| vm.vm.clone()).collect();
        let intent = Intent::drain("alpha".parse()?, "beta".parse()?, names, name);
        let plan = policy::find(name)?.plan("speed", &intent, &facts, None)?.plan;
        let (mut simulated, began, runs) = (0.0, Instant::now(), 200);
        for seed in 0..runs {
            let simulation = Simulation {
                scenario: &scenario,
                plan: plan.clone(),
                physics: Physics::default(),
                seed,
                faults: Vec::new(),
                adapting: None,
            };
            simulated += simulate(&simulation)?.until.seconds();
        }
        let real = began.elapsed().as_secs_f64();
        println!(
            "{name}: {runs} runs of {:.1} s simulated in {real:.2} s: {:.0} times real time",
            simulated / 200.0,
            simulated / real
        );
    }
    Ok(())
}
