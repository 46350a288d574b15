//! What no schedule can beat.
//!
//! - Every byte is sent once, and what a pass leaves dirty once more; at each moment at the best rate, with the VMs divided
//!   between the hosts as well as they can be at that moment, and with what that rate takes from applications ([`windows`]).
//! - What they ask of the ports, wherever they are: [`ports`]. What each VM's own move costs: [`moves`].
//! - The same part by part, where few move ([`alone`]).
//! - No VM alone is quicker than at the full rate of both ports, and all together not quicker than the wire.
//!
//! What is not counted: traffic between VMs, groups, floors, deadlines, and what the other directions of the ports lose.

mod alone;
mod moves;
mod ports;
mod windows;

use super::{Schedule, Task};
use alone::Parts;
use droveway_model::fluid::End;
use ports::Ports;
use windows::{Scene, Windows};

/// A lower bound of the cost of every schedule of `task`, seconds.
#[must_use]
pub fn lower_bound(task: &Task) -> f64 {
    Bounds::of(task).all(task, None)
}

/// A lower bound of the total time of every schedule of `task`, seconds.
#[must_use]
pub fn least_seconds(task: &Task) -> f64 {
    Time::of(task).all()
}

/// Plays stop within a slice of QEMU's here or there, and rates change while a VM moves: what is left out for it.
const ROUNDING: f64 = 0.002;
/// Each window up to this one is bounded by itself; wider ones together with the next few.
const WINDOWS_ALONE: usize = 2;

/// What schedules cost at least.
pub(super) struct Bounds {
    time: Time,
    /// Of each pair of hosts: its movers, and its bounds by window.
    pairs: Vec<(Vec<usize>, Vec<Windows>)>,
}

impl Bounds {
    pub(super) fn of(task: &Task) -> Self {
        let pair = |ports: Ports| {
            let scene = Scene::of(task, &ports);
            let most = task.window_max().min(ports.movers.len());
            let windows =
                groups(most).into_iter().map(|(from, to)| Windows::of(&scene, from, to)).collect();
            (ports.movers.clone(), windows)
        };
        Bounds { time: Time::of(task), pairs: Ports::of(task).into_iter().map(pair).collect() }
    }

    /// Schedules that the bounds are nearest to: where to look for good ones. None for gangs between several hosts.
    pub(super) fn schedules(&self) -> Vec<Schedule> {
        let [(movers, windows)] = self.pairs.as_slice() else { return Vec::new() };
        windows.iter().flat_map(|of| of.schedules(movers)).collect()
    }

    /// Of every schedule; `serial`: what is known of those that move one VM at a time.
    pub(super) fn all(&self, task: &Task, serial: Option<f64>) -> f64 {
        let seconds = task.objective().total_seconds * self.time.all();
        let of = |of: &Windows| {
            let progress = (1.0 - ROUNDING) * of.all(seconds);
            if of.to == 1 { progress.max(serial.unwrap_or(0.0)) } else { progress }
        };
        let pair = |(_, windows): &(Vec<usize>, Vec<Windows>)| {
            windows.iter().map(of).fold(f64::INFINITY, f64::min)
        };
        // Pairs share the time, so the dearest of them is what is sure.
        let progress = self.pairs.iter().map(pair).fold((1.0 - ROUNDING) * seconds, f64::max);
        // The parts are those of one pair of ports.
        if self.pairs.len() > 1 {
            progress
        } else {
            progress.max(self.time.parts.all(task, self.time.wire))
        }
    }

    /// Of every schedule with these ways and this window.
    pub(super) fn of_ways(&self, task: &Task, ways: &[usize], window: usize) -> f64 {
        let seconds = task.objective().total_seconds * self.time.of_ways(ways);
        let pair = |(movers, windows): &(Vec<usize>, Vec<Windows>)| {
            let window = window.min(movers.len());
            let of = windows.iter().find(|of| (of.from..=of.to).contains(&window));
            of.map_or(0.0, |of| of.of_ways(movers, ways, seconds))
        };
        let progress = (1.0 - ROUNDING) * self.pairs.iter().map(pair).fold(seconds, f64::max);
        if self.pairs.len() > 1 {
            return progress;
        }
        progress.max(self.time.parts.of_ways(task, ways, self.time.wire))
    }
}

/// Windows that are bounded together. The widest is by itself: where all begin at once, nobody comes later.
fn groups(most: usize) -> Vec<(usize, usize)> {
    let mut groups = Vec::new();
    let mut from = 1;
    while from < most {
        let width = if from <= WINDOWS_ALONE { 1 } else { from.div_ceil(2) };
        let to = (from + width - 1).min(most - 1);
        groups.push((from, to));
        from = to + 1;
    }
    groups.push((most, most));
    groups
}

/// How long it takes at least, and what its parts cost at least.
struct Time {
    wire: f64,
    parts: Parts,
}

impl Time {
    fn of(task: &Task) -> Self {
        Time { wire: wire_seconds(task), parts: Parts::of(task) }
    }

    fn all(&self) -> f64 {
        self.parts.seconds().max(self.wire)
    }

    fn of_ways(&self, ways: &[usize]) -> f64 {
        self.parts.seconds_of(ways).max(self.wire)
    }
}

/// The physical bound: bytes over what traffic that never moves leaves of both ports. It is left what sharing by flow
/// leaves it at worst: beside everything else that could ever be there.
fn wire_seconds(task: &Task) -> f64 {
    let pairs = Ports::of(task);
    pairs.iter().map(|pair| pair_seconds(task, pair)).fold(0.0, f64::max)
}

fn pair_seconds(task: &Task, pair: &Ports) -> f64 {
    let (source, target) = (pair.source, pair.target);
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
    pair.bytes() / rate.max(1.0)
}
