//! What no schedule can beat: each part of the cost by itself, as if the others did not exist.
//!
//! - Time: what has to be sent, each byte once, over what the source can send and the target can receive while traffic
//!   that never moves takes its due; and no VM alone is quicker than at the full rate of both ports.
//! - Outage, exposure: each VM's least over its ways, alone, with the ports to itself.
//!
//! Applications' losses are bounded by nothing: a port may have room.

use super::{Task, Way};
use droveway_fleet::Technique;
use droveway_model::fluid::{End, Fluid, Gang};

/// A lower bound of the cost of every schedule of `task`, seconds.
#[must_use]
pub fn lower_bound(task: &Task) -> f64 {
    Bounds::of(task).all(task)
}

/// A lower bound of the total time of every schedule of `task`, seconds.
#[must_use]
pub fn least_seconds(task: &Task) -> f64 {
    let bounds = Bounds::of(task);
    let least = |ways: &Vec<Least>| ways.iter().map(|of| of.seconds).fold(f64::INFINITY, f64::min);
    bounds.alone.iter().map(least).fold(bounds.wire_seconds, f64::max)
}

/// What the parts of the cost are at least.
pub(super) struct Bounds {
    wire_seconds: f64,
    /// By mover, by way.
    alone: Vec<Vec<Least>>,
}

/// A VM's least by one way, in ports without any traffic.
#[derive(Clone, Copy)]
struct Least {
    seconds: f64,
    outage: f64,
    exposure: f64,
}

impl Bounds {
    pub(super) fn of(task: &Task) -> Self {
        let mut gang = Gang { flows: Vec::new(), windows: vec![1], ..task.gang.clone() };
        let mut fluid = Fluid::default();
        let mut play = |index: usize, way: Way| {
            gang.moves = vec![task.movers[index].moved(way)];
            let course = fluid.play(&gang);
            let seconds = course.moves[0].end_seconds;
            let parts = task.cost(&course, &[index]).parts;
            Least { seconds, outage: parts.outage_seconds, exposure: parts.exposure_seconds }
        };
        let mut alone = Vec::new();
        for (index, mover) in task.movers.iter().enumerate() {
            let plain = |technique| Way { technique, postcopy_bandwidth: None };
            let pre_copy = play(index, plain(Technique::PreCopy));
            let of_way = |way: &Way| {
                let own = play(index, *way);
                match way.technique {
                    // Beside others it may end as a pre-copy does.
                    Technique::Hybrid => own.least(pre_copy),
                    _ => own,
                }
            };
            alone.push(mover.ways.iter().map(of_way).collect());
        }
        Bounds { wire_seconds: wire_seconds(task), alone }
    }

    /// Of every schedule.
    pub(super) fn all(&self, task: &Task) -> f64 {
        let objective = task.objective();
        let least = |ways: &Vec<Least>, of: fn(&Least) -> f64| {
            ways.iter().map(of).fold(f64::INFINITY, f64::min)
        };
        let sum =
            |of: fn(&Least) -> f64| self.alone.iter().map(|ways| least(ways, of)).sum::<f64>();
        let single = self.alone.iter().map(|ways| least(ways, |of| of.seconds)).fold(0.0, f64::max);
        objective.total_seconds * single.max(self.wire_seconds)
            + objective.outage_seconds * sum(|of| of.outage)
            + objective.exposure_seconds * sum(|of| of.exposure)
    }

    /// Of every schedule with these ways.
    pub(super) fn of_ways(&self, task: &Task, ways: &[usize]) -> f64 {
        let objective = task.objective();
        let (mut seconds, mut outage, mut exposure) = (self.wire_seconds, 0.0, 0.0);
        for (mover, way) in self.alone.iter().zip(ways) {
            let least = mover[*way];
            seconds = least.seconds.max(seconds);
            outage += least.outage;
            exposure += least.exposure;
        }
        objective.total_seconds * seconds
            + objective.outage_seconds * outage
            + objective.exposure_seconds * exposure
    }
}

impl Least {
    fn least(self, other: Least) -> Least {
        Least {
            seconds: self.seconds.min(other.seconds),
            outage: self.outage.min(other.outage),
            exposure: self.exposure.min(other.exposure),
        }
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
