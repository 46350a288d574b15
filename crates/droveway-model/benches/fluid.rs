//! How fast gangs are played: the planner judges thousands of candidates by it.
//!
//! `cargo bench -p droveway-model` prints the time of a play; `fluid/8` and `fluid/1000` are the gang of 8 VMs between two
//! hosts and 1,000 VMs that leave 50 hosts for 50 others, all with traffic and dirty memory.
#![allow(missing_docs, reason = "criterion's macro makes the main function")]

use criterion::{Criterion, criterion_group, criterion_main};
use droveway_fleet::{DirtyCurve, Technique};
use droveway_model::fluid::{
    Constants, End, FlowModel, Fluid, Gang, MoveModel, PortModel, Start, Tail, VmModel,
};
use std::hint::black_box;

const GBIT: f64 = 117.7e6;
const MIB: f64 = 1_048_576.0;

/// `pairs` of hosts with `vms` each, a mix of techniques, loads and directions; `window` at once a pair.
fn gang(pairs: usize, vms: usize, window: usize) -> Gang {
    let mut gang = Gang {
        ports: vec![PortModel::shared(GBIT); 2 * pairs],
        constants: Constants::PRIOR,
        windows: vec![window; pairs],
        horizon: 1e5,
        ..Gang::default()
    };
    for pair in 0..pairs {
        for number in 0..vms {
            let index = gang.vms.len();
            gang.vms.push(VmModel {
                host: 2 * pair,
                send_bytes: (120.0 + 40.0 * (number % 5) as f64) * MIB,
                zero_bytes: 300.0 * MIB,
                tail: Tail::default(),
                curve: DirtyCurve::Saturating {
                    dirty_bytes_per_second: 10.0 * MIB * (number % 4) as f64,
                    working_set_bytes: 60.0 * MIB,
                },
                state_bytes: 0.2 * MIB,
            });
            gang.moves.push(MoveModel {
                vm: index,
                target: 2 * pair + 1,
                technique: [Technique::PreCopy, Technique::Hybrid, Technique::PostCopy][number % 3],
                start: Start::InWindow(pair),
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
            });
            let demand = [f64::INFINITY, 8e6, 20e6][number % 3];
            let (from, to) = if number % 2 == 0 {
                (End::Vm(index), End::Outside)
            } else {
                (End::Outside, End::Vm(index))
            };
            gang.flows.push(FlowModel { from, to, demand, weight: 1.0 });
        }
    }
    gang
}

fn bench(criterion: &mut Criterion) {
    for (name, gang) in [
        ("fluid/8", gang(1, 8, 2)),
        ("fluid/8-serial", gang(1, 8, 1)),
        ("fluid/8-parallel", gang(1, 8, 8)),
        ("fluid/1000", gang(50, 20, 2)),
    ] {
        let mut fluid = Fluid::default();
        assert!(fluid.play(&gang).completed, "{name}");
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| fluid.play(black_box(&gang)));
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
