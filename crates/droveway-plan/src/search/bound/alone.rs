//! What the parts of the cost are at least, each by itself: what every byte costs with the VMs divided as well as can be all the
//! time, and each VM's silence and exposure alone in idle ports. Coarser than by progress, but it knows each VM's own course,
//! which counts most where few move.

use super::super::{Task, Way};
use droveway_fleet::Technique;
use droveway_model::fluid::{End, FlowModel, Fluid, Gang};

/// The parts, weighted where they can be.
pub(super) struct Parts {
    sending: f64,
    /// By mover, by way.
    alone: Vec<Vec<Least>>,
}

/// A VM's least by one way, in ports without any traffic.
#[derive(Clone, Copy)]
pub(super) struct Least {
    pub(super) seconds: f64,
    silence: f64,
}

impl Parts {
    pub(super) fn of(task: &Task) -> Self {
        let mut gang = Gang { flows: Vec::new(), windows: vec![1], ..task.gang.clone() };
        let mut fluid = Fluid::default();
        let objective = task.objective();
        let mut play = |index: usize, way: Way| {
            gang.moves = vec![task.movers[index].moved(way)];
            let course = fluid.play(&gang);
            let parts = task.cost(&course, &[index]).parts;
            let mut outage = parts.outage_seconds;
            if way.technique != Technique::PostCopy {
                // Beside its own traffic it stops for less, and that traffic gives way while it is silent.
                let fixed =
                    gang.constants.switch_seconds.min(gang.constants.postcopy_switch_seconds)
                        + gang.constants.announce_seconds;
                let fixed = (task.movers[index].priority * fixed).min(outage);
                outage = fixed + (outage - fixed) * (1.0 - own_share(task, index));
            }
            let silence = objective.outage_seconds * outage
                + objective.exposure_seconds * parts.exposure_seconds;
            Least { seconds: course.moves[0].end_seconds, silence }
        };
        let mut alone = Vec::new();
        for (index, mover) in task.movers.iter().enumerate() {
            let of_way = |way: &Way| {
                let own = play(index, *way);
                match way.technique {
                    // Beside others it may end as a pre-copy does.
                    Technique::Hybrid => {
                        let technique = Technique::PreCopy;
                        let other = play(index, Way { technique, postcopy_bandwidth: None });
                        Least {
                            seconds: own.seconds.min(other.seconds),
                            silence: own.silence.min(other.silence),
                        }
                    }
                    _ => own,
                }
            };
            alone.push(mover.ways.iter().map(of_way).collect());
        }
        Parts { sending: sending(task), alone }
    }

    /// The longest of the VMs' own times, seconds, and the bound; `seconds`: it takes no less.
    pub(super) fn all(&self, task: &Task, wire: f64) -> f64 {
        let least = |ways: &Vec<Least>, of: fn(&Least) -> f64| {
            ways.iter().map(of).fold(f64::INFINITY, f64::min)
        };
        let silence: f64 = self.alone.iter().map(|ways| least(ways, |of| of.silence)).sum();
        (task.objective().total_seconds * self.seconds().max(wire)).max(self.sending) + silence
    }

    pub(super) fn of_ways(&self, task: &Task, ways: &[usize], wire: f64) -> f64 {
        let silence: f64 = self.alone.iter().zip(ways).map(|(of, way)| of[*way].silence).sum();
        let seconds = self.seconds_of(ways).max(wire);
        (task.objective().total_seconds * seconds).max(self.sending) + silence
    }

    pub(super) fn seconds(&self) -> f64 {
        let least =
            |ways: &Vec<Least>| ways.iter().map(|of| of.seconds).fold(f64::INFINITY, f64::min);
        self.alone.iter().map(least).fold(0.0, f64::max)
    }

    pub(super) fn seconds_of(&self, ways: &[usize]) -> f64 {
        self.alone.iter().zip(ways).map(|(of, way)| of[*way].seconds).fold(0.0, f64::max)
    }
}

/// The share of the ports that a VM's own traffic may take, in the direction in which that is more.
fn own_share(task: &Task, index: usize) -> f64 {
    let this = End::Vm(task.movers[index].step.vm);
    let side = |of: &dyn Fn(&FlowModel) -> bool| -> f64 {
        let flows = task.gang.flows.iter().filter(|flow| of(flow));
        flows.map(|flow| flow.demand.min(task.capacity)).sum()
    };
    let most = side(&|flow| flow.from == this).max(side(&|flow| flow.to == this));
    (most / task.capacity.max(1.0)).min(1.0)
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
