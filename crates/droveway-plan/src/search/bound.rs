//! What no schedule can beat: each part of the cost by itself, as if the others did not exist.
//!
//! - Time: what has to be sent, each byte once, over what the source can send and the target can receive while traffic
//!   that never moves takes its due; and no VM alone is quicker than at the full rate of both ports.
//! - Outage, exposure: each VM's least over its ways, alone, with the ports to itself.
//!
//! Applications' losses are bounded by nothing: a port may have room.

use super::{Task, Way};
use droveway_model::fluid::{End, Fluid, Gang};

/// A lower bound of the cost of every schedule of `task`, seconds.
#[must_use]
pub fn lower_bound(task: &Task) -> f64 {
    let alone: Vec<Alone> = (0..task.movers.len()).map(|index| Alone::of(task, index)).collect();
    let outage: f64 = alone.iter().map(|of| of.outage).sum();
    let exposure: f64 = alone.iter().map(|of| of.exposure).sum();
    let single = alone.iter().map(|of| of.seconds).fold(0.0, f64::max);
    let objective = task.objective();
    let time = single.max(wire_seconds(task));
    objective.total_seconds * time
        + objective.outage_seconds * outage
        + objective.exposure_seconds * exposure
}

/// A lower bound of the total time of every schedule of `task`, seconds.
#[must_use]
pub fn least_seconds(task: &Task) -> f64 {
    let alone = (0..task.movers.len()).map(|index| Alone::of(task, index).seconds);
    alone.fold(wire_seconds(task), f64::max)
}

/// A VM's least, in ports without any traffic.
struct Alone {
    seconds: f64,
    outage: f64,
    exposure: f64,
}

impl Alone {
    fn of(task: &Task, index: usize) -> Self {
        let mover = &task.movers[index];
        let mut gang = Gang { flows: Vec::new(), windows: vec![1], ..task.gang.clone() };
        let mut fluid = Fluid::default();
        let mut least =
            Alone { seconds: f64::INFINITY, outage: f64::INFINITY, exposure: f64::INFINITY };
        for way in &mover.ways {
            // Without a ceiling a move is never slower, with one its guest never waits longer.
            for postcopy_bandwidth in [way.postcopy_bandwidth, None] {
                gang.moves = vec![mover.moved(Way { postcopy_bandwidth, ..*way })];
                let course = fluid.play(&gang);
                let step = &course.moves[0];
                least.seconds = least.seconds.min(step.end_seconds);
                let parts = task.cost(&course, &[index]).parts;
                least.outage = least.outage.min(parts.outage_seconds);
                least.exposure = least.exposure.min(parts.exposure_seconds);
            }
        }
        least
    }
}

/// The physical bound: bytes over what traffic that never moves leaves of both ports. It is left what sharing by flow
/// leaves it at worst: beside everything else that could ever be there.
fn wire_seconds(task: &Task) -> f64 {
    let Some(first) = task.movers.first() else { return 0.0 };
    let (source, target) = (task.gang.vms[first.step.vm].host, first.step.target);
    let constants = &task.gang.constants;
    let streams: f64 =
        task.movers.iter().map(|mover| mover.step.weight * constants.stream_weight).sum();
    let weights = streams + task.gang.flows.iter().map(|flow| flow.weight).sum::<f64>();
    let moves = |vm: usize| task.movers.iter().any(|mover| mover.step.vm == vm);
    let stays = |end: End, host: usize| match end {
        End::Vm(vm) => !moves(vm) && task.gang.vms[vm].host == host,
        End::Host(at) => at == host,
        End::Outside => false,
    };
    // Traffic between two hosts may be limited at its other end: only what goes outside surely takes its share here.
    let taken = |capacity: f64, reserved: f64, crosses: &dyn Fn(End, End) -> bool| -> f64 {
        let left = (capacity - reserved).max(0.0);
        let flows = task.gang.flows.iter().filter(|flow| crosses(flow.from, flow.to));
        flows.map(|flow| flow.demand.min(left * flow.weight / weights.max(1e-9))).sum()
    };
    let (from, to) = (&task.gang.ports[source], &task.gang.ports[target]);
    let sent = taken(from.tx, from.tx_reserved, &|a, b| stays(a, source) && b == End::Outside);
    let received = taken(to.rx, to.rx_reserved, &|a, b| a == End::Outside && stays(b, target));
    let rate = (from.tx - sent).min(to.rx - received) * constants.efficiency.max(1.0);
    let bytes: f64 = task.movers.iter().map(|mover| task.gang.vms[mover.step.vm].send_bytes).sum();
    bytes / rate.max(1.0)
}
