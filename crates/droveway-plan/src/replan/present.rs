//! The world as it is in the middle of a run: what was known before, brought up to date by what the driver saw.

use super::{Base, Degraded, Passing, Situation, Standing, VmStanding, Wishes, share_of, traffic};
use crate::{
    adaptive::{self, GENTLE_SHARE},
    plan::{Direction, Fallback, Move, Plan},
    play,
    search::{Mover, Schedule, Task, Way},
};
use droveway_fleet::{Bandwidth, Bytes, DirtyCurve, HostId, Technique, VmId};
use droveway_model::{
    fluid::{Begun, BegunAt, End, FlowModel, Fluid, Start},
    world::World,
};
use std::{collections::BTreeMap, time::Duration};
use traffic::{Demand, Shift, Traffic, Wanted};

/// The present, and what can still be done.
#[derive(Debug)]
pub(super) struct Present {
    /// Ports, VMs and flows as they are now.
    pub(super) world: World,
    /// Those whose moves have not ended: under way first, then in the plan's order.
    pub(super) movers: Vec<Mover>,
    /// Their names.
    pub(super) names: Vec<VmId>,
    /// An operator has set the ceiling of its stream.
    pub(super) set: Vec<bool>,
    /// How many passes of each have ended.
    pub(super) passes: Vec<u32>,
    /// What the plan in force does with them.
    pub(super) stay: Schedule,
    /// Everything else of the task.
    pub(super) frame: Task,
    /// The share of the ports that is held.
    pub(super) share: Option<f64>,
    pub(super) elapsed: Duration,
    pub(super) demands: BTreeMap<VmId, Demand>,
    /// What both ports carry towards the target.
    pub(super) capacity: Bandwidth,
    /// What streams have against what the model would say of what was known before.
    pub(super) stream_ratio: f64,
    /// What is worse about the path, and what operators have asked for.
    pub(super) weighed: (Option<Degraded>, Wishes),
    /// Something differs from what the plan in force was weighed with.
    pub(super) is_news: bool,
    /// What differs from what was known before the run, in words; empty: nothing.
    pub(super) seen: String,
}

/// Dirtying that differs by less from the curve is chance: what a pass leaves unsent is known within that.
const DIRTYING_NOISE: [f64; 2] = [0.6, 1.6];
/// A guest that dirties less than this differently is none to plan anew for, bytes.
const DIRTYING_LEAST: f64 = 8e6;
/// No guest writes so many times more, or less, over the same memory.
const SPEED_RANGE: [f64; 2] = [0.02, 50.0];
/// A stream that has less or more than the model says by more than this tells that something else holds it back.
const STREAM_NOISE: [f64; 2] = [0.75, 1.25];
/// Streams are never taken for slower than this share of what a port gives them.
const EFFICIENCY_LEAST: f64 = 0.1;

impl Present {
    /// `None` if nothing is left to decide, or plan and world are about different things.
    pub(super) fn of(base: &Base<'_>, situation: &Situation) -> Option<Present> {
        let plan = &situation.plan;
        let mut world = base.known.world.clone();
        world.gang.constants = base.known.calibration.constants;
        let (source, target) = (world.host(&plan.source)?, world.host(&plan.target)?);
        let mut said = Vec::new();
        // First what can be told from before, then what the ports say beside it.
        let nominal = base.facts.port_rate.tcp_payload();
        let known = bandwidth(world.gang.ports[source].tx.min(world.gang.ports[target].rx));
        let known = known.min(nominal);
        let mut capacity = situation.capacity.unwrap_or(known).min(known);
        let mut news = false;
        if let Some(seen) = &situation.traffic
            && let Some(carried) = traffic::capacity(seen, [&plan.source, &plan.target], capacity)
        {
            capacity = carried.min(known);
            news = true;
        }
        if capacity < known {
            said.push(format!("the ports carry {}", capacity.human()));
            let narrow = bytes(capacity);
            for port in [source, target] {
                let port = &mut world.gang.ports[port];
                (port.tx, port.rx) = (port.tx.min(narrow), port.rx.min(narrow));
            }
        }
        world.gang.constants.fault_seconds +=
            situation.path.as_ref().map_or(0.0, Degraded::fault_seconds);
        let mut wanted = demands(&world, capacity);
        for (vm, demand) in &situation.demands {
            let Some(before) = wanted.get(vm).copied() else { continue };
            let both =
                [(Direction::Tx, before.tx, demand.tx), (Direction::Rx, before.rx, demand.rx)];
            for (direction, before, now) in both {
                let same =
                    before.elastic == now.elastic && (now.elastic || before.rate == now.rate);
                if !same {
                    take_shift(&mut world, &Shift { vm: vm.clone(), direction, before, now });
                }
            }
            wanted.insert(vm.clone(), *demand);
        }
        let before = wanted.clone();
        let stands = |vm: &VmId| situation.vms.iter().find(|it| it.vm == *vm);
        if let Some(seen) = &situation.traffic {
            let place = |vm: &VmId| place(&world, plan, vm, stands(vm));
            for shift in traffic::shifts(&before, seen, capacity, place) {
                said.push(shift.to_string());
                news = true;
                take_shift(&mut world, &shift);
                let demand = wanted.entry(shift.vm.clone()).or_default();
                match shift.direction {
                    Direction::Tx => demand.tx = shift.now,
                    Direction::Rx => demand.rx = shift.now,
                }
            }
        }
        for it in &situation.vms {
            let Some(vm) = world.vm(&it.vm) else { continue };
            match it.standing {
                Standing::Moved => world.gang.vms[vm].host = target,
                Standing::Stays => said.push(format!("{} stays", it.vm)),
                Standing::PreCopy(passing) => said.extend(take_dirtying(&mut world, vm, &passing)),
                _ => {}
            }
        }
        let rest = rest(plan, &situation.vms);
        let (models, _) = play::moves(&rest, &world).ok()?;
        let facts: Vec<_> = rest
            .moves
            .iter()
            .filter_map(|step| base.facts.vms.iter().find(|fact| fact.vm == step.vm).cloned())
            .collect();
        if facts.is_empty() || facts.len() != rest.moves.len() {
            return None;
        }
        let facts = crate::policy::GangFacts { port_rate: base.facts.port_rate, vms: facts };
        let known = adaptive::Known { world: &world, calibration: base.known.calibration };
        let mut task = adaptive::task(base.intent, &facts, known, models);
        base.effort.levers.limit(&mut task);
        let elapsed = situation.elapsed.as_secs_f64();
        task.deadline -= elapsed;
        let payload = bytes(nominal.min(capacity));
        let mut stay = Schedule {
            order: (0..rest.moves.len()).collect(),
            ways: vec![0; rest.moves.len()],
            window: plan.concurrency as usize,
        };
        stay.window = stay.window.max(1);
        let mut passes = Vec::new();
        for (mover, step) in task.movers.iter_mut().zip(&rest.moves) {
            mover.deadline -= elapsed;
            mover.step.switchover_bandwidth = payload;
            if step.ladder.is_none() {
                // Of a hybrid the play has what it begins with; what else it could be aims at the whole.
                mover.step.downtime_limit = step.downtime_limit.as_secs_f64();
            }
            let standing = stands(&step.vm);
            mover.ways = ways(&mover.ways, step, standing, payload);
            let vm = &world.gang.vms[mover.step.vm];
            if let Some(begun) = standing.and_then(|it| begun(it, vm.send_bytes, vm)) {
                mover.step.start = Start::Begun { window: 0, so_far: begun };
            }
            passes.push(match standing.map(|it| it.standing) {
                Some(Standing::PreCopy(passing)) => passing.passes,
                _ => 0,
            });
        }
        let names = rest.moves.iter().map(|step| step.vm.clone()).collect();
        let set = rest.moves.iter().map(|step| situation.wishes.bandwidth_of(&step.vm).is_some());
        let mut gang = std::mem::take(&mut task.gang);
        gang.constants = world.gang.constants;
        for port in [source, target] {
            // By the plan in force, whatever the intent allows.
            gang.ports[port].tuned = plan.tuning;
        }
        world.gang = gang;
        let movers = std::mem::take(&mut task.movers);
        let mut present = Present {
            world,
            movers,
            names,
            set: set.collect(),
            passes,
            stay,
            frame: task,
            share: share_of(plan, base),
            elapsed: situation.elapsed,
            demands: wanted,
            capacity,
            stream_ratio: 1.0,
            weighed: (situation.path, situation.wishes.clone()),
            is_news: false,
            seen: String::new(),
        };
        present.slow_streams(situation.stream_ratio);
        // Where something else explains it already, or has only just changed, the stream's rate says nothing.
        if let Some(seen) = situation.traffic.as_ref().filter(|_| !news) {
            present.take_stream(seen, source);
        }
        if (present.stream_ratio - 1.0).abs() > 0.01 {
            let percent = 100.0 * present.stream_ratio;
            said.push(format!("streams have {percent:.0} % of what was expected"));
        }
        // What the plan in force was weighed with already is no reason to weigh it again.
        let weighed = situation.weighed == present.weighed;
        present.is_news = !said.is_empty() || !weighed;
        said.extend(present.weighed.0.map(|path| path.to_string()));
        said.extend(present.weighed.1.text());
        present.seen = said.join(", ");
        Some(present)
    }

    /// A stream that is held back by something that nobody knows (CPUs, disks, the way between the ports) is taken as slow as
    /// it is.
    fn take_stream(&mut self, seen: &Traffic, source: usize) {
        if !seen.is_full || seen.streams.is_zero() {
            return;
        }
        let task = self.task(self.share);
        let mut gang = task.gang.clone();
        gang.moves = crate::search::moves(&task, &self.stay).collect();
        gang.windows = vec![self.stay.window];
        let (_, trace) = Fluid::default().trace(&gang);
        let first = trace.ports.get(source).and_then(|port| port.segments.first());
        let ratio = bytes(seen.streams) / first.map_or(0.0, |piece| piece.load.tx.migration);
        if ratio.is_finite() && !(STREAM_NOISE[0]..=STREAM_NOISE[1]).contains(&ratio) {
            self.slow_streams(ratio);
        }
    }

    /// Streams have so many times what the model says.
    fn slow_streams(&mut self, ratio: f64) {
        if ratio > 0.0 {
            let efficiency = &mut self.world.gang.constants.efficiency;
            let before = *efficiency;
            *efficiency = (before * ratio).clamp(EFFICIENCY_LEAST, 1.0_f64.max(before));
            self.stream_ratio *= *efficiency / before;
        }
    }
}

/// The plan with those VMs alone whose moves have not ended: under way first.
fn rest(plan: &Plan, vms: &[VmStanding]) -> Plan {
    let standing = |step: &&Move| vms.iter().find(|it| it.vm == step.vm).map(|it| it.standing);
    let waits = |step: &&Move| matches!(standing(step), None | Some(Standing::Waiting));
    let goes = |step: &&Move| {
        matches!(
            standing(step),
            Some(Standing::PreCopy(_) | Standing::Stopped { .. } | Standing::PostCopy { .. })
        )
    };
    let mut rest = plan.clone();
    let under_way = plan.moves.iter().filter(goes);
    rest.moves = under_way.chain(plan.moves.iter().filter(waits)).cloned().collect();
    rest
}

/// How far a move has come; `None`: it has not started.
fn begun(it: &VmStanding, send_bytes: f64, vm: &droveway_model::fluid::VmModel) -> Option<Begun> {
    let amount = |bytes: Bytes| bytes.as_f64();
    // Until all of memory was sent once QEMU counts pages of zeroes, too: what it counts is the most that can be left.
    let left = |passes: u32, remaining: f64, sent: f64| match passes {
        0 if sent <= 0.0 => send_bytes,
        0 => vm.tail.content(remaining).min(remaining).min((send_bytes - sent).max(0.0)),
        _ => remaining,
    };
    match it.standing {
        Standing::PreCopy(passing) => {
            let (remaining, sent) = (amount(passing.remaining), amount(passing.transferred));
            let left = left(passing.passes, remaining, sent);
            let seconds = passing.pass_time.as_secs_f64();
            Some(Begun { at: BegunAt::Pass { passes: passing.passes, seconds }, left, sent })
        }
        Standing::Stopped { remaining } => {
            Some(Begun { at: BegunAt::Stopped, left: amount(remaining), sent: 0.0 })
        }
        Standing::PostCopy { passes, transferred, remaining } => {
            let (remaining, sent) = (amount(remaining), amount(transferred));
            let left = left(passes, remaining, sent);
            Some(Begun { at: BegunAt::PostCopy, left, sent })
        }
        Standing::Waiting | Standing::Moved | Standing::Stays => None,
    }
}

/// What can still be done with a VM: first what the plan says.
fn ways(allowed: &[Way], step: &Move, it: Option<&VmStanding>, capacity: f64) -> Vec<Way> {
    let ceiling = step.postcopy_bandwidth.bandwidth().map(bytes);
    let own = Way { technique: step.technique, postcopy_bandwidth: ceiling };
    let mut ways = vec![own];
    let prepared = it.is_none_or(|it| it.may_postcopy);
    let splits = step.technique.exposes() || step.fallback == Fallback::PostCopy;
    let may_split = prepared && splits && allowed.iter().any(|way| way.technique.exposes());
    let mut add = |technique, postcopy_bandwidth| {
        let way = Way { technique, postcopy_bandwidth };
        if !ways.contains(&way) {
            ways.push(way);
        }
    };
    let gentle = Some(GENTLE_SHARE * capacity);
    match it.map_or(Standing::Waiting, |it| it.standing) {
        Standing::Waiting => {
            for way in allowed.iter().filter(|way| may_split || !way.technique.exposes()) {
                add(way.technique, way.postcopy_bandwidth);
            }
        }
        // Told to switch, it switches.
        Standing::PreCopy(_) if step.technique == Technique::PostCopy => {}
        Standing::PreCopy(_) if may_split => {
            add(Technique::PostCopy, None);
            add(Technique::PostCopy, gentle);
            add(Technique::Hybrid, ceiling);
            if step.technique == Technique::Hybrid {
                add(Technique::PreCopy, ceiling);
            }
        }
        // With its page requests before the stream there is nothing to hold back; without, it is what the guest waits for.
        Standing::PostCopy { .. } => add(step.technique, None),
        Standing::PreCopy(_) | Standing::Stopped { .. } | Standing::Moved | Standing::Stays => {}
    }
    ways
}

/// Where a VM's traffic is to be looked at.
fn place(world: &World, plan: &Plan, vm: &VmId, it: Option<&VmStanding>) -> Option<HostId> {
    match it.map(|it| it.standing) {
        Some(Standing::Stopped { .. }) => None,
        Some(Standing::PostCopy { .. } | Standing::Moved) => Some(plan.target.clone()),
        Some(Standing::Waiting | Standing::PreCopy(_) | Standing::Stays) => {
            Some(plan.source.clone())
        }
        None => {
            let host = world.gang.vms.get(world.vm(vm)?)?.host;
            [&plan.source, &plan.target]
                .into_iter()
                .find(|name| world.host(name) == Some(host))
                .cloned()
        }
    }
}

/// What each VM wants to send and receive.
pub(super) fn demands(world: &World, capacity: Bandwidth) -> BTreeMap<VmId, Demand> {
    let mut all: BTreeMap<VmId, Demand> = BTreeMap::new();
    for (index, name) in world.names() {
        let of = |this: fn(&FlowModel) -> End| {
            let mut wanted = Wanted::default();
            for flow in world.gang.flows.iter().filter(|flow| this(flow) == End::Vm(index)) {
                if flow.demand.is_infinite() {
                    wanted.elastic = true;
                } else {
                    wanted.rate = wanted.rate + bandwidth(flow.demand);
                }
            }
            if wanted.elastic {
                wanted.rate = capacity;
            }
            wanted
        };
        all.insert(name.clone(), Demand { tx: of(|flow| flow.from), rx: of(|flow| flow.to) });
    }
    all
}

/// Puts what a VM wants now into its flows, in proportion to what they were.
fn take_shift(world: &mut World, shift: &Shift) {
    let Some(vm) = world.vm(&shift.vm) else { return };
    let this = |flow: &FlowModel| match shift.direction {
        Direction::Tx => flow.from == End::Vm(vm),
        Direction::Rx => flow.to == End::Vm(vm),
    };
    let wanted = if shift.now.elastic { f64::INFINITY } else { bytes(shift.now.rate) };
    let own: Vec<usize> =
        (0..world.gang.flows.len()).filter(|i| this(&world.gang.flows[*i])).collect();
    let Some(first) = own.first() else {
        let (from, to) = match shift.direction {
            Direction::Tx => (End::Vm(vm), End::Outside),
            Direction::Rx => (End::Outside, End::Vm(vm)),
        };
        world.gang.flows.push(FlowModel { from, to, demand: wanted, weight: 1.0 });
        return;
    };
    let flows = &mut world.gang.flows;
    let sum: f64 = own.iter().map(|i| flows[*i].demand).sum();
    if wanted.is_finite() && sum.is_finite() && sum > 0.0 {
        for index in own {
            flows[index].demand *= wanted / sum;
        }
    } else {
        // Which of several flows it is nobody sees: one takes all.
        for index in &own {
            flows[*index].demand = 0.0;
        }
        flows[*first].demand = wanted;
    }
}

/// Puts what a pass found dirtied into the guest's curve: as fast as it wrote, over the same memory or, where that is too
/// small, over more of it.
fn take_dirtying(world: &mut World, vm: usize, passing: &Passing) -> Option<String> {
    let found = passing.dirtied?;
    let (time, dirtied) = (found.time.as_secs_f64(), found.bytes.as_f64());
    let model = &mut world.gang.vms[vm];
    let inflation = world.gang.constants.dirty_inflation;
    let expected = model.curve.unique_bytes(time * inflation);
    let ratio = dirtied / expected.max(1.0);
    let [low, high] = DIRTYING_NOISE;
    if time <= 0.0 || (low..=high).contains(&ratio) || (dirtied - expected).abs() < DIRTYING_LEAST {
        return None;
    }
    model.curve = refitted(&model.curve, time * inflation, dirtied, model.send_bytes);
    Some(format!("{:.0} MB dirtied in {time:.1} s, not {:.0} MB", dirtied / 1e6, expected / 1e6))
}

/// The curve of a guest that dirtied so much in that time.
fn refitted(curve: &DirtyCurve, time: f64, dirtied: f64, send_bytes: f64) -> DirtyCurve {
    let sped = |factor: f64| curve.unique_bytes(time * factor);
    let [mut low, mut high] = SPEED_RANGE;
    if sped(high) < dirtied {
        // It writes to more than it did. Half of what it writes to was seen: no more is known.
        let working_set_bytes = (2.0 * dirtied).min(send_bytes.max(dirtied));
        let part = (1.0 - dirtied / working_set_bytes).max(0.05);
        let dirty_bytes_per_second = -part.ln() * working_set_bytes / time;
        return DirtyCurve::Saturating { dirty_bytes_per_second, working_set_bytes };
    }
    // Halvings of the range: to three digits.
    for _ in 0..20 {
        let middle = (low * high).sqrt();
        if sped(middle) < dirtied { low = middle } else { high = middle }
    }
    curve.sped_up(high)
}

#[expect(clippy::cast_precision_loss, reason = "a rate far below 2^53")]
pub(super) fn bytes(rate: Bandwidth) -> f64 {
    rate.bytes_per_second() as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate, not negative and far below 2^53"
)]
pub(super) fn bandwidth(rate: f64) -> Bandwidth {
    Bandwidth::from_bytes_per_second(rate.clamp(0.0, 1e15) as u64)
}
