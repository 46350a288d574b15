//! How long a plan takes: `adaptive` for 8 and 64 VMs between two hosts (with its frontier, alternatives and reasons), and
//! the search for 1,000 VMs over 100 ports. Beside the times it prints the gaps to the lower bound.
//!
//! `cargo bench -p droveway-plan`
#![allow(missing_docs, reason = "criterion's macro makes the main function")]
#![expect(clippy::print_stdout, reason = "a program for people")]

use criterion::{Criterion, criterion_group, criterion_main};
use droveway_fleet::{Bandwidth, Bytes, DirtyCurve, Intent, Technique, Urgency};
use droveway_model::{
    calibration::Calibration,
    fluid::{Constants, End, FlowModel, Gang, MoveModel, PortModel, Start, Tail, VmModel},
    world::World,
};
use droveway_plan::{
    GangFacts, Known, VmFacts,
    adaptive::weights,
    policy::find,
    search::{Mover, Task, Way, lower_bound, search_ports},
};
use std::hint::black_box;

const GBIT: f64 = 117.7e6;
const MIB: f64 = 1_048_576.0;

/// `pairs` of hosts with `vms` each, of all sizes, loads and directions.
fn gang(pairs: usize, vms: usize) -> Gang {
    let mut gang = Gang {
        ports: vec![PortModel::shared(GBIT); 2 * pairs],
        constants: Constants::PRIOR,
        horizon: 1e5,
        ..Gang::default()
    };
    for index in 0..pairs * vms {
        let number = index as f64;
        // Multiples of the golden ratio: as unlike each other as can be.
        let part = |step: f64| (number * 0.618_034 * step).fract();
        gang.vms.push(VmModel {
            host: 2 * (index / vms),
            send_bytes: (60.0 + 240.0 * part(1.0)) * MIB,
            zero_bytes: 300.0 * MIB,
            tail: Tail::default(),
            curve: DirtyCurve::Saturating {
                dirty_bytes_per_second: 30.0 * MIB * part(2.0),
                working_set_bytes: 40.0 * MIB,
            },
            state_bytes: 0.2 * MIB,
        });
        let share = 0.8 * GBIT / vms as f64;
        let flow = |from, to, demand| FlowModel { from, to, demand, weight: 1.0 };
        gang.flows.push(flow(End::Vm(index), End::Outside, share * 2.0 * part(3.0)));
        gang.flows.push(flow(End::Outside, End::Vm(index), share * 2.0 * part(5.0)));
    }
    gang
}

/// Everything that `adaptive` is told about one pair of hosts.
fn adaptive(vms: usize, urgency: Urgency) -> (Intent, GangFacts, World, Calibration) {
    let gang = gang(1, vms);
    let name = |index: usize| format!("vm{index:02}").parse().expect("a name");
    let names: Vec<_> = (0..vms).map(name).collect();
    let host = |name: &str| name.parse().expect("a name");
    let mut intent = Intent::drain(host("alpha"), host("beta"), names.clone(), "adaptive");
    intent.urgency = urgency;
    let fact = |vm: &droveway_fleet::VmId| VmFacts {
        vm: vm.clone(),
        memory: Bytes::from_mib(512),
        allow_postcopy: true,
        max_downtime: None,
        deadline: None,
        group: None,
    };
    let facts = GangFacts {
        port_rate: Bandwidth::from_bits_per_second(1_000_000_000),
        vms: names.iter().map(fact).collect(),
    };
    let world = World::named(gang, vec![host("alpha"), host("beta")], names);
    (intent, facts, world, Calibration::default())
}

fn many(pairs: usize, vms: usize) -> Task {
    let gang = gang(pairs, vms);
    let way = |technique, postcopy_bandwidth| Way { technique, postcopy_bandwidth };
    let ways = vec![
        way(Technique::PreCopy, None),
        way(Technique::Hybrid, None),
        way(Technique::PostCopy, None),
        way(Technique::PostCopy, Some(0.2 * GBIT)),
    ];
    let mover = |vm: usize| Mover {
        step: MoveModel {
            vm,
            target: 2 * (vm / vms) + 1,
            technique: Technique::PreCopy,
            start: Start::InWindow(0),
            bandwidth: f64::INFINITY,
            postcopy_bandwidth: f64::INFINITY,
            switchover_bandwidth: GBIT,
            downtime_limit: 0.3,
            max_passes: 20,
            fallback_postcopy: true,
            switch_after_pass: 1,
            stalled_ratio: f64::INFINITY,
            weight: 1.0,
            throttle: false,
        },
        ways: ways.clone(),
        deadline: f64::INFINITY,
        priority: 1.0,
        group: None,
    };
    Task {
        movers: (0..pairs * vms).map(mover).collect(),
        weights: weights(Urgency::Medium),
        parallel_max: vms,
        exposed_max: vms,
        deadline: f64::INFINITY,
        capacity: GBIT,
        floor: 0.0,
        order_given: false,
        gang,
    }
}

/// Plays of 1,000 VMs' search.
const MANY_PLAYS: usize = 60_000;

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("planner");
    group.sample_size(10);
    for vms in [8, 64] {
        let (intent, facts, world, calibration) = adaptive(vms, Urgency::Medium);
        let plan = || {
            let known = Known { world: &world, calibration: &calibration };
            find("adaptive").and_then(|policy| policy.plan("bench", &intent, &facts, Some(known)))
        };
        if let Ok(made) = plan()
            && let Some(why) = made.reasoning
        {
            println!("adaptive/{vms}: {} plays, gap {:.1} %", why.plays, 100.0 * why.gap);
        }
        group.bench_function(format!("adaptive/{vms}"), |bencher| {
            bencher.iter(|| black_box(plan()));
        });
    }
    let task = many(50, 20);
    let parts = search_ports(&task, MANY_PLAYS, 1);
    let cost: f64 = parts.iter().map(|part| part.found.cost.value).sum();
    let bound: f64 = parts.iter().map(|part| part.found.bound).sum();
    println!(
        "ports/1000: {} parts, gap {:.1} %, bound of the whole {:.1} s",
        parts.len(),
        100.0 * (cost - bound) / cost,
        lower_bound(&task)
    );
    group.bench_function("ports/1000", |bencher| {
        bencher.iter(|| black_box(search_ports(&task, MANY_PLAYS, 1)));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
