//! What no schedule can beat.
//!
//! - Outage, exposure: each VM's least over its ways, alone, with the ports to itself.
//! - Time: what has to be sent, each byte once, over what the source can send and the target can receive while traffic
//!   that never moves takes its due; and no VM alone is quicker than at the full rate of both ports.
//! - Time and loss together: at every instant each VM is at one of the two hosts. Where it is, what it sends takes source
//!   TX, or what it receives takes target RX, from the streams or they from it. So a byte that the streams send costs at
//!   least the time that it takes and what is then lost, at the best rate and with the VMs divided between the hosts as
//!   well as can be (fractions of VMs allowed); whoever is silent loses more than by contention.

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
    /// Time and loss of sending everything, weighted.
    sending: f64,
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
        Bounds { wire_seconds: wire_seconds(task), sending: sending(task), alone }
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
        (objective.total_seconds * single.max(self.wire_seconds)).max(self.sending)
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
        (objective.total_seconds * seconds).max(self.sending)
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

/// Steps towards the best rate: each takes a third off what is left.
const RATE_STEPS: u32 = 48;

/// What time and loss cost at least until every byte has been sent once.
fn sending(task: &Task) -> f64 {
    let Some(first) = task.movers.first() else { return 0.0 };
    let (source, target) = (task.gang.vms[first.step.vm].host, first.step.target);
    let (from, to) = (task.gang.ports[source].tx, task.gang.ports[target].rx);
    let divided = Divided::of(task, source, target);
    let objective = task.objective();
    let cost_per_byte = |rate: f64| {
        let lost = divided.least_overload(from - rate, to - rate);
        (objective.total_seconds + objective.lost_bytes * lost) / rate
    };
    // A convex function over a linear one has one valley.
    let (mut low, mut high) = (1e-3 * from.min(to), from.min(to));
    for _ in 0..RATE_STEPS {
        let (a, b) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        if cost_per_byte(a) < cost_per_byte(b) {
            high = b;
        } else {
            low = a;
        }
    }
    let least = cost_per_byte(0.5 * (low + high)).min(cost_per_byte(from.min(to)));
    let constants = &task.gang.constants;
    let bytes: f64 = task.movers.iter().map(|mover| task.gang.vms[mover.step.vm].send_bytes).sum();
    let fixed = constants.setup_seconds + constants.finish_seconds;
    least * bytes / constants.efficiency.max(1.0) + objective.total_seconds * fixed
}

/// What traffic takes of source TX and target RX as the VMs are divided between the two hosts: a convex curve from all at
/// the target to all at the source.
struct Divided {
    /// Source TX and target RX, bytes per second, source TX rising.
    points: Vec<(f64, f64)>,
}

impl Divided {
    fn of(task: &Task, source: usize, target: usize) -> Self {
        let gang = Gang { moves: Vec::new(), ..task.gang.clone() };
        let course = Fluid::default().play(&gang);
        let mover = |end: End| match end {
            End::Vm(vm) => task.movers.iter().position(|mover| mover.step.vm == vm),
            _ => None,
        };
        let stays = |end: End, host: usize| match end {
            End::Vm(vm) => mover(end).is_none() && task.gang.vms[vm].host == host,
            End::Host(at) => at == host,
            End::Outside => false,
        };
        // Only what goes to or comes from outside: the rest may be within a host at times.
        let (mut tx, mut rx) = (0.0, 0.0);
        let mut of_vm = vec![(0.0, 0.0); task.movers.len()];
        for (flow, fares) in task.gang.flows.iter().zip(&course.flows) {
            let rate = if fares.baseline.is_finite() { fares.baseline } else { 0.0 };
            match (mover(flow.from), mover(flow.to)) {
                (Some(vm), None) if flow.to == End::Outside => of_vm[vm].0 += rate,
                (None, Some(vm)) if flow.from == End::Outside => of_vm[vm].1 += rate,
                (None, None) if flow.to == End::Outside && stays(flow.from, source) => tx += rate,
                (None, None) if flow.from == End::Outside && stays(flow.to, target) => rx += rate,
                _ => {}
            }
        }
        rx += of_vm.iter().map(|(_, rx)| rx).sum::<f64>();
        // Those that cost least source TX for what they spare at target RX stay longest. By one number each: products of
        // pairs are no order where a VM has no traffic at all.
        let sent =
            |(sends, receives): &(f64, f64)| sends / (sends + receives).max(f64::MIN_POSITIVE);
        of_vm.sort_by(|a, b| sent(a).total_cmp(&sent(b)));
        let mut points = vec![(tx, rx)];
        for (sends, receives) in of_vm {
            tx += sends;
            rx -= receives;
            points.push((tx, rx));
        }
        Divided { points }
    }

    /// What does not fit if the streams leave so much of source TX and target RX, bytes per second.
    fn least_overload(&self, tx_room: f64, rx_room: f64) -> f64 {
        let overload = |(tx, rx): (f64, f64)| (tx - tx_room).max(0.0) + (rx - rx_room).max(0.0);
        let mut least =
            self.points.iter().map(|point| overload(*point)).fold(f64::INFINITY, f64::min);
        // Between two points it bends only where one of the two just fits.
        for pair in self.points.windows(2) {
            let [(tx0, rx0), (tx1, rx1)] = [pair[0], pair[1]];
            for part in [(tx_room - tx0) / (tx1 - tx0), (rx_room - rx0) / (rx1 - rx0)] {
                if part > 0.0 && part < 1.0 {
                    let point = (tx0 + part * (tx1 - tx0), rx0 + part * (rx1 - rx0));
                    least = least.min(overload(point));
                }
            }
        }
        least
    }
}
