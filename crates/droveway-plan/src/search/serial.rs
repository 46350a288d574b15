//! The best serial schedule: a dynamic programme over which VMs have moved already.
//!
//! What a VM's move costs when it moves alone depends on who is at the target already, since their traffic is there too, not on
//! the order in which they came. So 2^n sets times the VMs that are left times their ways are enough, where orders would be n
//! factorial. [`best`] neglects that the VM before is silent for some 50 ms more; the schedule that is found is played as a whole
//! like any other. [`surely`] does not: its states are who has moved, who was last and how long that one is silent still, so that
//! the chain of moves costs what the play of the whole costs, and no serial schedule costs less than the least of them.

use super::{BROWNOUT_WEIGHT, Schedule, Task, late, missed_by};
use droveway_model::{
    fluid::{Before, Fluid, Leg, Legs, MoveEnd, Start},
    urgency::Objective,
};

/// What each move costs alone: by the set of those that have moved, by VM, by way.
pub(super) struct Alone<'a> {
    parts: Vec<Objective>,
    ways: usize,
    /// Where all moves are between the same two hosts and none is under way.
    legs: Option<Legs<'a>>,
}

impl<'a> Alone<'a> {
    /// For at most [`super::SERIAL_MAX`] VMs.
    pub(super) fn of(task: &'a Task) -> Self {
        let count = task.movers.len();
        let ways = task.movers.iter().map(|mover| mover.ways.len()).max().unwrap_or(0);
        let parts = vec![Objective::default(); (1 << count) * count * ways];
        let moves: Vec<(usize, usize)> =
            task.movers.iter().map(|mover| (mover.step.vm, mover.step.target)).collect();
        let begun = task.movers.iter().any(|it| matches!(it.step.start, Start::Begun { .. }));
        let legs = Legs::of(&task.gang, &moves).filter(|_| !begun);
        let mut alone = Alone { parts, ways, legs };
        if !alone.by_legs(task) {
            alone.legs = None;
            alone.by_plays(task);
        }
        alone
    }

    fn at(&self, moved: usize, index: usize, way: usize, count: usize) -> usize {
        (moved * count + index) * self.ways + way
    }

    /// False if a leg cannot be played by itself.
    fn by_legs(&mut self, task: &Task) -> bool {
        let Some(mut legs) = self.legs.take() else { return false };
        let count = task.movers.len();
        for (index, mover) in task.movers.iter().enumerate() {
            for (way, of) in mover.ways.iter().enumerate() {
                let step = mover.moved(*of);
                for moved in (0..1_usize << count).filter(|moved| moved >> index & 1 == 0) {
                    let Some(leg) = legs.play(before(moved, None), index, &step) else {
                        return false;
                    };
                    let silent = silent(&leg, index);
                    let after = legs.lost_after(bits(moved | 1 << index), silent);
                    let mut parts = task.leg(&leg, index);
                    parts.lost_bytes += after;
                    let at = self.at(moved, index, way, count);
                    self.parts[at] = parts;
                }
            }
        }
        self.legs = Some(legs);
        true
    }

    fn by_plays(&mut self, task: &Task) {
        let count = task.movers.len();
        let mut fluid = Fluid::default();
        let mut gang = task.gang.clone();
        gang.windows = vec![1];
        for moved in 0..(1_usize << count) - 1 {
            for (index, mover) in task.movers.iter().enumerate() {
                let at_target = moved >> index & 1 == 1;
                let home = task.gang.vms[mover.step.vm].host;
                gang.vms[mover.step.vm].host = if at_target { mover.step.target } else { home };
            }
            for (index, mover) in
                task.movers.iter().enumerate().filter(|(i, _)| moved >> i & 1 == 0)
            {
                for (way, of) in mover.ways.iter().enumerate() {
                    gang.moves.clear();
                    gang.moves.push(mover.moved(*of));
                    let course = fluid.play(&gang);
                    let at = self.at(moved, index, way, count);
                    self.parts[at] = task.cost(&course, &[index]).parts;
                }
            }
        }
    }
}

/// Sets of at most eight VMs fit any number.
fn bits(moved: usize) -> u32 {
    u32::try_from(moved).unwrap_or(u32::MAX)
}

fn before(moved: usize, silent: Option<(usize, f64)>) -> Before {
    Before { moved: bits(moved), silent }
}

fn silent(leg: &Leg, index: usize) -> Option<(usize, f64)> {
    (leg.silent_seconds > 0.0).then_some((index, leg.silent_seconds))
}

impl Task {
    /// What a leg costs; without deadlines, groups and floors, which are not its alone.
    fn leg(&self, leg: &Leg, index: usize) -> Objective {
        let course = &leg.course;
        let silence = course.outage_seconds + BROWNOUT_WEIGHT * course.brownout_seconds;
        Objective {
            total_seconds: course.end_seconds,
            outage_seconds: self.movers[index].priority * silence,
            lost_bytes: leg.lost_bytes,
            exposure_seconds: course.exposure_seconds,
            split_seconds: 0.0,
            missed: missed_by(course, self.movers[index].deadline),
        }
    }
}

/// How the best way to have moved a set of VMs ended.
#[derive(Clone, Copy)]
struct Reached {
    cost: f64,
    seconds: f64,
    /// The last mover, and its way.
    last: usize,
    way: usize,
}

/// The best order and ways for what counts, one VM after the other.
pub(super) fn best(task: &Task, alone: &Alone<'_>, objective: &Objective) -> Schedule {
    let count = task.movers.len();
    let full = (1_usize << count) - 1;
    let mut reached: Vec<Option<Reached>> = vec![None; full + 1];
    reached[0] = Some(Reached { cost: 0.0, seconds: 0.0, last: 0, way: 0 });
    for moved in 0..full {
        let Some(before) = reached[moved] else { continue };
        for (index, mover) in task.movers.iter().enumerate() {
            let with = moved | 1 << index;
            if with == moved {
                continue;
            }
            for way in 0..mover.ways.len() {
                let mut parts = alone.parts[alone.at(moved, index, way, count)];
                let seconds = before.seconds + parts.total_seconds;
                // Deadlines count from the gang's start.
                parts.missed = parts.missed.max(late(seconds, mover.deadline));
                let cost = before.cost + parts.weighted(objective);
                if reached[with].is_none_or(|held| cost < held.cost) {
                    reached[with] = Some(Reached { cost, seconds, last: index, way });
                }
            }
        }
    }
    let mut ways = vec![0; count];
    let mut order = Vec::with_capacity(count);
    let mut moved = full;
    while moved != 0 {
        let Some(step) = reached[moved] else { break };
        order.push(step.last);
        ways[step.last] = step.way;
        moved &= !(1 << step.last);
    }
    order.reverse();
    Schedule { order, ways, window: 1 }
}

/// What is sure of all schedules that move one VM at a time.
#[derive(Debug)]
pub(super) struct Serial {
    /// None costs less, seconds.
    pub(super) bound: f64,
    /// One that costs less than was asked for, if there is any.
    pub(super) better: Option<Schedule>,
}

/// Chains that end with the same VM and silences that differ by less are continued as one, seconds: the next VM's stream has a
/// little more of the port for that much longer.
const SAME_SILENCE: f64 = 0.002;
/// What that may be worth at most over a whole schedule, as a share of its cost. Chains that were left out for it cost no less
/// than this below those that were kept.
pub(super) const SURE: f64 = 5e-4;
/// Chains that are followed at most; then nothing is said.
const CHAINS_MAX: usize = 20_000;

/// A chain of moves.
#[derive(Clone, Copy)]
struct Chain {
    /// What it costs so far, without the silence that goes on.
    cost: f64,
    silent: Option<(usize, f64)>,
    last: usize,
    way: usize,
    /// Which of the chains of those that moved before it goes on from.
    from: usize,
}

/// Whether any serial schedule costs less than `best`, and how little serial schedules cost. `None` if that cannot be said: moves
/// that are under way or between several hosts, or too many chains that are as good.
pub(super) fn surely(task: &Task, alone: &mut Alone<'_>, best: f64) -> Option<Serial> {
    let objective = task.objective();
    let count = task.movers.len();
    let full = (1_usize << count) - 1;
    // What is still to come costs at least what it costs alone, less what the silence before each gives to the stream.
    let mut ahead = vec![f64::INFINITY; full + 1];
    ahead[full] = 0.0;
    for moved in (0..full).rev() {
        for index in (0..count).filter(|index| moved >> index & 1 == 0) {
            for way in 0..task.movers[index].ways.len() {
                let parts = alone.parts[alone.at(moved, index, way, count)];
                let cost = parts.weighted(&objective) + ahead[moved | 1 << index];
                ahead[moved] = ahead[moved].min(cost);
            }
        }
    }
    let spared = spared(task);
    let legs = alone.legs.as_mut()?;
    let steps: Vec<Vec<_>> = task
        .movers
        .iter()
        .map(|mover| mover.ways.iter().map(|way| mover.moved(*way)).collect())
        .collect();
    let mut chains: Vec<Vec<Chain>> = vec![Vec::new(); full + 1];
    chains[0].push(Chain { cost: 0.0, silent: None, last: 0, way: 0, from: 0 });
    let mut followed = 0;
    let mut stays = f64::INFINITY;
    for moved in 0..full {
        for from in 0..chains[moved].len() {
            let chain = chains[moved][from];
            for index in (0..count).filter(|index| moved >> index & 1 == 0) {
                let with = moved | 1 << index;
                let left = f64::from(bits(count) - bits(with).count_ones());
                for (way, step) in steps[index].iter().enumerate() {
                    let parts = alone.parts[(moved * count + index) * alone.ways + way];
                    let likely = chain.cost + parts.weighted(&objective) + ahead[with];
                    if likely - (left + 1.0) * spared > best {
                        continue;
                    }
                    followed += 1;
                    if followed > CHAINS_MAX {
                        return None;
                    }
                    let leg = legs.play(before(moved, chain.silent), index, step)?;
                    if leg.course.end != MoveEnd::Completed {
                        // It is not where the others would find it; to stay costs more than anything.
                        stays = stays.min(task.weights.missed);
                        continue;
                    }
                    let parts = Objective { missed: 0.0, ..task.leg(&leg, index) };
                    let silent = silent(&leg, index);
                    let cost = chain.cost + parts.weighted(&objective);
                    keep(&mut chains[with], Chain { cost, silent, last: index, way, from });
                }
            }
        }
    }
    let mut least = best.min(stays);
    let mut better = None;
    for (place, chain) in chains[full].iter().enumerate() {
        let after = objective.lost_bytes * legs.lost_after(bits(full), chain.silent);
        if chain.cost + after < least {
            (least, better) = (chain.cost + after, Some(place));
        }
    }
    let better = better.map(|place| schedule(&chains, place, count));
    Some(Serial { bound: least * (1.0 - SURE), better })
}

/// What a VM that is silent at the beginning of a leg gives it at most, seconds of cost: its part of the ports for that long, in
/// time and in what others lose.
fn spared(task: &Task) -> f64 {
    let constants = &task.gang.constants;
    let objective = task.objective();
    let asks = task.gang.flows.iter().map(|flow| flow.demand.min(task.capacity));
    let most = asks.fold(0.0, f64::max) / task.capacity.max(1.0);
    constants.announce_seconds
        * (0.2 + most)
        * (objective.total_seconds + objective.lost_bytes * task.capacity)
}

/// Keeps a chain unless one like it costs no more.
fn keep(chains: &mut Vec<Chain>, chain: Chain) {
    let like = |other: &Chain| match (other.silent, chain.silent) {
        (None, None) => true,
        (Some((a, one)), Some((b, other))) => a == b && (one - other).abs() < SAME_SILENCE,
        _ => false,
    };
    match chains.iter_mut().find(|other| like(other)) {
        Some(other) if other.cost <= chain.cost => {}
        Some(other) => *other = chain,
        None => chains.push(chain),
    }
}

fn schedule(chains: &[Vec<Chain>], mut place: usize, count: usize) -> Schedule {
    let mut ways = vec![0; count];
    let mut order = Vec::with_capacity(count);
    let mut moved = (1_usize << count) - 1;
    while moved != 0 {
        let chain = chains[moved][place];
        order.push(chain.last);
        ways[chain.last] = chain.way;
        moved &= !(1 << chain.last);
        place = chain.from;
    }
    order.reverse();
    Schedule { order, ways, window: 1 }
}
