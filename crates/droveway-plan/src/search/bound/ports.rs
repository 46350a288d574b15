//! What the two ports of a drain are asked for: by each VM where it is, by what never moves, by the streams.

use super::super::Task;
use droveway_fleet::Technique;
use droveway_model::fluid::{End, Fluid, Gang};

/// Movers between the same two hosts.
pub(super) struct Ports {
    /// Indexes of movers.
    pub(super) movers: Vec<usize>,
    pub(super) source: usize,
    pub(super) target: usize,
    /// What source TX and target RX carry, bytes per second.
    pub(super) room: [f64; 2],
    /// What of it is promised to the streams.
    pub(super) held: [f64; 2],
    /// By mover of these.
    pub(super) loads: Vec<Load>,
    /// What never moves: of source TX and of target RX.
    stays: [Vec<Asked>; 2],
    /// Any stream that sends gets this much at least.
    pub(super) least_rate: f64,
    /// So does one without a ceiling, which may be more.
    pub(super) least_free: f64,
}

/// What one VM asks for: of source TX while it is there, of target RX once it is there.
pub(super) struct Load {
    pub(super) bytes: f64,
    flows: [Vec<Asked>; 2],
}

/// One flow.
#[derive(Clone, Copy)]
struct Asked {
    /// What it gets undisturbed, which is what its losses are counted against.
    usual: f64,
    demand: f64,
    weight: f64,
}

impl Asked {
    /// What it surely takes where a stream of weight one gets so much.
    fn takes(self, level: f64, room: f64) -> f64 {
        self.demand.min(self.weight * level).min(room)
    }
}

impl Load {
    /// What it usually sends and receives.
    pub(super) fn usual(&self) -> [f64; 2] {
        [0, 1].map(|side| self.flows[side].iter().map(|flow| flow.usual).sum())
    }
}

impl Ports {
    /// One for each pair of hosts.
    pub(super) fn of(task: &Task) -> Vec<Ports> {
        let home = |index: usize| task.gang.vms[task.movers[index].step.vm].host;
        let mut all: Vec<Ports> = Vec::new();
        for (index, mover) in task.movers.iter().enumerate() {
            let (source, target) = (home(index), mover.step.target);
            match all.iter_mut().find(|of| of.source == source && of.target == target) {
                Some(of) => of.movers.push(index),
                None => {
                    let [from, to] = [source, target].map(|host| task.gang.ports[host]);
                    all.push(Ports {
                        movers: vec![index],
                        source,
                        target,
                        room: [from.tx, to.rx],
                        held: [from.tx_reserved, to.rx_reserved],
                        loads: Vec::new(),
                        stays: [Vec::new(), Vec::new()],
                        least_rate: 0.0,
                        least_free: 0.0,
                    });
                }
            }
        }
        let gang = Gang { moves: Vec::new(), ..task.gang.clone() };
        let usual = Fluid::default().play(&gang).flows;
        let several = all.len() > 1;
        for of in &mut all {
            of.ask(task, &usual.iter().map(|flow| flow.baseline).collect::<Vec<_>>());
            let free = if several { 0.0 } else { of.least_rate(task, &from_to(task)) };
            // Beside nothing it has the port; a bound of zero would be no rate at all.
            let most = of.most_rate();
            of.least_free = free.clamp(LEAST_RATE * most, most);
            of.least_rate = free.min(ceiling(task)).clamp(LEAST_RATE * most, most);
        }
        all
    }

    /// Only what goes to or comes from outside: the rest may be within a host at times, or wait elsewhere.
    fn ask(&mut self, task: &Task, usual: &[f64]) {
        let mut place = vec![None; task.gang.vms.len()];
        for (at, index) in self.movers.iter().enumerate() {
            place[task.movers[*index].step.vm] = Some(at);
        }
        let moves = |vm: usize| task.movers.iter().any(|mover| mover.step.vm == vm);
        let moving: Vec<bool> = (0..task.gang.vms.len()).map(moves).collect();
        let stays = |end: End, host: usize| match end {
            End::Vm(vm) => !moving[vm] && task.gang.vms[vm].host == host,
            End::Host(at) => at == host,
            End::Outside => false,
        };
        self.loads = self
            .movers
            .iter()
            .map(|index| {
                let bytes = task.gang.vms[task.movers[*index].step.vm].send_bytes;
                Load { bytes, flows: [Vec::new(), Vec::new()] }
            })
            .collect();
        for (flow, usual) in task.gang.flows.iter().zip(usual) {
            let (side, end, host) = match (flow.from, flow.to) {
                (end, End::Outside) => (0, end, self.source),
                (End::Outside, end) => (1, end, self.target),
                _ => continue,
            };
            let usual = if usual.is_finite() { *usual } else { 0.0 };
            let asked = Asked { usual, demand: flow.demand, weight: flow.weight };
            match end {
                End::Vm(vm) if moving[vm] => {
                    if let Some(at) = place[vm] {
                        self.loads[at].flows[side].push(asked);
                    }
                }
                end if stays(end, host) => self.stays[side].push(asked),
                _ => {}
            }
        }
    }

    /// The most that a VM takes of either side.
    pub(super) fn asks(&self, load: &Load) -> f64 {
        let side = |side: usize| -> f64 {
            load.flows[side].iter().map(|flow| flow.demand.min(self.room[side])).sum()
        };
        side(0).max(side(1)).min(self.room[0].max(self.room[1]))
    }

    pub(super) fn bytes(&self) -> f64 {
        self.loads.iter().map(|load| load.bytes).sum()
    }

    /// The most that the streams can have.
    pub(super) fn most_rate(&self) -> f64 {
        self.room[0].min(self.room[1])
    }

    /// What a stream without a ceiling surely has, beside everything that could ever be in its way.
    fn least_rate(&self, task: &Task, crossing: &[Vec<(f64, f64)>; 2]) -> f64 {
        let mut least = f64::INFINITY;
        let weight = task.gang.constants.stream_weight
            * task.movers.iter().map(|mover| mover.step.weight).fold(f64::INFINITY, f64::min);
        for (side, flows) in crossing.iter().enumerate() {
            let level = if self.held[side] > 0.0 {
                self.held[side]
            } else {
                weight * level(self.room[side], weight, flows)
            };
            least = least.min(level);
        }
        least
    }

    /// What is asked of each side as the VMs usually do.
    pub(super) fn usual(&self) -> Demand {
        let of = |flows: &Vec<Asked>| flows.iter().map(|flow| flow.usual).sum();
        let loads = self.loads.iter().map(Load::usual).collect();
        Demand { stays: [of(&self.stays[0]), of(&self.stays[1])], loads }
    }

    /// What is surely taken of each side where streams of this weight together get `rate`. A side that is held for the
    /// streams yields no more than that to them, unless everybody else there has what it wants.
    pub(super) fn taken(&self, rate: f64, weight: f64) -> Demand {
        let level = rate / weight.max(f64::MIN_POSITIVE);
        let takes = |flows: &Vec<Asked>, side: usize| -> f64 {
            let room = self.room[side];
            if self.held[side] <= 0.0 {
                flows.iter().map(|flow| flow.takes(level, room)).sum()
            } else if rate > self.held[side] {
                flows.iter().map(|flow| flow.demand.min(room)).sum()
            } else {
                0.0
            }
        };
        let loads = self.loads.iter().map(|load| [0, 1].map(|side| takes(&load.flows[side], side)));
        Demand { stays: [0, 1].map(|side| takes(&self.stays[side], side)), loads: loads.collect() }
    }
}

/// Of the port: below this no rate is looked at.
const LEAST_RATE: f64 = 1e-3;

/// Demand and weight of whatever leaves a host, and of whatever reaches one.
fn from_to(task: &Task) -> [Vec<(f64, f64)>; 2] {
    let flows = &task.gang.flows;
    let of = |crosses: &dyn Fn(&droveway_model::fluid::FlowModel) -> bool| {
        flows.iter().filter(|flow| crosses(flow)).map(|flow| (flow.demand, flow.weight)).collect()
    };
    [of(&|flow| flow.from != End::Outside), of(&|flow| flow.to != End::Outside)]
}

/// The level to which a stream of that weight rises among these flows.
fn level(room: f64, weight: f64, flows: &[(f64, f64)]) -> f64 {
    let mut sorted = flows.to_vec();
    sorted.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    let mut left = room;
    let mut weights = weight + sorted.iter().map(|(_, weight)| weight).sum::<f64>();
    for (demand, weight) in sorted {
        if demand / weight > left / weights {
            break;
        }
        left -= demand;
        weights -= weight;
    }
    left.max(0.0) / weights.max(f64::MIN_POSITIVE)
}

/// The least ceiling of any stream of the task, bytes per second.
pub(super) fn ceiling(task: &Task) -> f64 {
    let of_way = |mover: &super::super::Mover| {
        let ways = mover.ways.iter().map(|way| match way.technique {
            Technique::PreCopy => mover.step.bandwidth,
            Technique::StopAndCopy => f64::INFINITY,
            Technique::Hybrid | Technique::PostCopy => {
                let behind = way.postcopy_bandwidth.unwrap_or(mover.step.postcopy_bandwidth);
                let before = match way.technique {
                    Technique::Hybrid => mover.step.bandwidth,
                    _ => f64::INFINITY,
                };
                behind.min(before)
            }
        });
        let falls_back = if mover.step.fallback_postcopy {
            mover.step.postcopy_bandwidth
        } else {
            f64::INFINITY
        };
        ways.fold(falls_back, f64::min)
    };
    task.movers.iter().map(of_way).fold(f64::INFINITY, f64::min)
}

/// What is asked of source TX and of target RX as the VMs are divided between the two.
#[derive(PartialEq)]
pub(super) struct Demand {
    stays: [f64; 2],
    loads: Vec<[f64; 2]>,
}

/// Mixtures of the two sides that are looked at: each is a bound by itself, so a coarse grid is only a little weaker.
pub(super) const MIXES: usize = 17;

/// The least of a mixture of both sides' demand, by how many bytes' worth of VMs are at the target: concave gains, the VMs
/// that are worth most a byte first.
#[derive(Clone)]
pub(super) struct Mixed {
    /// Weights of source TX and target RX; the larger is one.
    pub(super) weights: [f64; 2],
    /// With everybody at the source.
    at_source: f64,
    /// Bytes at the target, and what they spare.
    points: Vec<(f64, f64)>,
    /// Bytes at which most is spared.
    best: f64,
}

impl Demand {
    pub(super) fn mixes(&self, ports: &Ports) -> Vec<Mixed> {
        (0..MIXES).map(|mix| self.mixed(mix, ports)).collect()
    }

    fn mixed(&self, mix: usize, ports: &Ports) -> Mixed {
        #[expect(clippy::cast_precision_loss, reason = "a small grid")]
        let part = mix as f64 / (MIXES - 1) as f64;
        let scale = 1.0 / part.max(1.0 - part);
        let weights = [(1.0 - part) * scale, part * scale];
        let mut at_source = weights[0] * self.stays[0] + weights[1] * self.stays[1];
        let mut gains = Vec::with_capacity(self.loads.len());
        for (of, load) in self.loads.iter().zip(&ports.loads) {
            at_source += weights[0] * of[0];
            gains.push((weights[0] * of[0] - weights[1] * of[1], load.bytes.max(1.0)));
        }
        gains.sort_by(|a, b| (b.0 / b.1).total_cmp(&(a.0 / a.1)));
        let (mut bytes, mut spared, mut best) = (0.0, 0.0, 0.0);
        let mut points = Vec::with_capacity(gains.len() + 1);
        points.push((0.0, 0.0));
        for (gain, of) in gains {
            bytes += of;
            spared += gain;
            if gain > 0.0 {
                best = bytes;
            }
            points.push((bytes, spared));
        }
        Mixed { weights, at_source, points, best }
    }
}

impl Mixed {
    /// The least with between `from` and `to` bytes at the target.
    pub(super) fn least(&self, from: f64, to: f64) -> f64 {
        let most = self.points.last().map_or(0.0, |point| point.0);
        let from = from.clamp(0.0, most);
        let bytes = self.best.clamp(from, to.clamp(from, most));
        let next = self.points.partition_point(|point| point.0 < bytes);
        let spared = match (next.checked_sub(1).map(|at| self.points[at]), self.points.get(next)) {
            (Some(before), Some(after)) => {
                let part = (bytes - before.0) / (after.0 - before.0).max(f64::MIN_POSITIVE);
                before.1 + part * (after.1 - before.1)
            }
            (_, Some(at)) => at.1,
            (Some(at), None) => at.1,
            (None, None) => 0.0,
        };
        self.at_source - spared
    }
}
