//! The best serial schedule: a dynamic programme over which VMs have moved already.
//!
//! What a VM's move costs when it moves alone depends on who is at the target already, since their traffic is there too,
//! and hardly on the order in which they came. So 2^n sets times the VMs that are left times their ways are enough, where
//! orders would be n factorial. What is neglected are moves that overlap a little: the tail of a guest's page waits, the
//! next one's start. The schedule that is found is played as a whole like any other.

use super::{Schedule, Task};
use droveway_model::{fluid::Fluid, urgency::Objective};

/// What each move costs alone: by the set of those that have moved, by VM, by way.
pub(super) struct Alone {
    parts: Vec<Objective>,
    ways: usize,
}

impl Alone {
    /// For at most [`super::SERIAL_MAX`] VMs.
    pub(super) fn of(task: &Task) -> Self {
        let count = task.movers.len();
        let ways = task.movers.iter().map(|mover| mover.ways.len()).max().unwrap_or(0);
        let mut fluid = Fluid::default();
        let mut gang = task.gang.clone();
        gang.windows = vec![1];
        let mut parts = vec![Objective::default(); (1 << count) * count * ways];
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
                    parts[(moved * count + index) * ways + way] =
                        task.cost(&course, &[index]).parts;
                }
            }
        }
        Alone { parts, ways }
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
pub(super) fn best(task: &Task, alone: &Alone, objective: &Objective) -> Schedule {
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
                let mut parts = alone.parts[(moved * count + index) * alone.ways + way];
                let seconds = before.seconds + parts.total_seconds;
                // Deadlines count from the gang's start.
                if seconds > mover.deadline && before.seconds > 0.0 {
                    parts.missed = parts.missed.max(1.0);
                }
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
