//! Schedules near another: what differs in one point, and what differs by chance.

use super::{Schedule, Task};

/// A VM changes its place with one this far behind at most: what is farther is reached in steps.
const SWAP_REACH: usize = 4;

/// Everything that differs in one point: a VM's way, the window, the places of two VMs, or one VM's place, and the way of
/// a VM that goes first or last.
pub(super) fn neighbours<'a>(
    task: &'a Task,
    schedule: &'a Schedule,
) -> impl Iterator<Item = Schedule> + use<'a> {
    let count = schedule.order.len();
    let ways = (0..count).flat_map(move |mover| {
        let own = schedule.ways[mover];
        (0..task.movers[mover].ways.len()).filter(move |way| *way != own).map(move |way| {
            let mut other = schedule.clone();
            other.ways[mover] = way;
            other
        })
    });
    let windows = [schedule.window.wrapping_sub(1), schedule.window + 1]
        .into_iter()
        .filter(move |window| (1..=task.window_max()).contains(window))
        .map(move |window| Schedule { window, ..schedule.clone() });
    let swaps = (0..count).flat_map(move |first| {
        (first + 1..count.min(first + 1 + SWAP_REACH)).map(move |second| {
            let mut other = schedule.clone();
            other.order.swap(first, second);
            other
        })
    });
    // One that goes first or last, another way: who sends much is best split early, who receives much best not at all, so that
    // place and way are worth little one without the other.
    let ends = (0..count).flat_map(move |at| {
        let mover = schedule.order[at];
        let ways =
            (0..task.movers[mover].ways.len()).filter(move |way| *way != schedule.ways[mover]);
        ways.flat_map(move |way| {
            [0, count - 1].into_iter().filter(move |to| *to != at).map(move |to| {
                let mut other = schedule.clone();
                other.ways[mover] = way;
                let moved = other.order.remove(at);
                other.order.insert(to, moved);
                other
            })
        })
    });
    let moved = (0..count).flat_map(move |from| {
        [0, count - 1].into_iter().filter(move |to| from.abs_diff(*to) > SWAP_REACH).map(
            move |to| {
                let mut other = schedule.clone();
                let moved = other.order.remove(from);
                other.order.insert(to, moved);
                other
            },
        )
    });
    // All at once there is no order.
    let ordered = schedule.window < count;
    ways.chain(windows).chain(swaps.chain(moved).chain(ends).filter(move |_| ordered))
}

/// Changes one point, whichever.
pub(super) fn shake(task: &Task, schedule: &mut Schedule, random: &mut SplitMix) {
    let count = schedule.order.len();
    let mover = random.below(count);
    match random.below(4) {
        0 => schedule.ways[mover] = random.below(task.movers[mover].ways.len()),
        1 => schedule.order.swap(mover, random.below(count)),
        2 => {
            let moved = schedule.order.remove(mover);
            schedule.order.insert(random.below(count), moved);
        }
        _ => schedule.window = 1 + random.below(task.window_max()),
    }
}

/// Numbers from a seed (Steele, Lea, Flood 2014): good enough to shake.
pub(super) struct SplitMix(pub(super) u64);

impl SplitMix {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bound = bound.max(1) as u64;
        usize::try_from((z ^ (z >> 31)) % bound).unwrap_or(0)
    }
}
