//! Every schedule that could be the best, where they are few enough.
//!
//! A choice of ways for all VMs costs at least what each way costs its VM alone and what the wire needs (see
//! [`super::bound`]). Choices that cannot beat the best schedule so far are left out with all their orders and windows; the
//! others are played, the most promising first.

use super::{SAME, Schedule, Search, bound::Bounds};

/// Choices of ways that are looked at, at most: eight VMs in four ways.
const CHOICES_MAX: usize = 65_536;

impl Search<'_> {
    /// Plays every schedule that could beat the best one. False, and nothing played, if there are more than plays left.
    pub(super) fn enumerate(&mut self, bounds: &Bounds) -> bool {
        let Some(mut choices) = self.choices(bounds) else { return false };
        choices.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        let left = self.plays.saturating_sub(self.judge.plays);
        if choices.len().saturating_mul(self.schedules()) > left {
            return false;
        }
        let count = self.task.movers.len();
        for (bound, ways) in choices {
            if !self.may_win(bound) {
                break;
            }
            for window in 1..=self.task.window_max() {
                let mut order: Vec<usize> = (0..count).collect();
                loop {
                    self.offer(&Schedule { order: order.clone(), ways: ways.clone(), window });
                    // All at once there is no order.
                    if window >= count || !next_permutation(&mut order) {
                        break;
                    }
                }
            }
        }
        true
    }

    fn may_win(&self, bound: f64) -> bool {
        let best = self.best.first().and_then(Option::as_ref);
        best.is_none_or(|(cost, _)| bound < cost.value * (1.0 - SAME))
    }

    /// Orders and windows of one choice of ways.
    fn schedules(&self) -> usize {
        let count = self.task.movers.len();
        let orders = (1..=count).fold(1_usize, usize::saturating_mul);
        let windows = self.task.window_max();
        if windows >= count {
            orders.saturating_mul(windows - 1).saturating_add(1)
        } else {
            orders.saturating_mul(windows)
        }
    }

    /// The choices of ways that could be part of the best schedule, with what they cost at least; `None` if there are too
    /// many to look at.
    fn choices(&self, bounds: &Bounds) -> Option<Vec<(f64, Vec<usize>)>> {
        let movers = &self.task.movers;
        let all = movers.iter().map(|m| m.ways.len()).try_fold(1_usize, usize::checked_mul)?;
        if all > CHOICES_MAX {
            return None;
        }
        let mut ways = vec![0; movers.len()];
        let mut kept = Vec::new();
        loop {
            let bound = bounds.of_ways(self.task, &ways);
            if self.may_win(bound) {
                kept.push((bound, ways.clone()));
            }
            if !self.next_ways(&mut ways) {
                return Some(kept);
            }
        }
    }

    /// Counts up; false once all were seen.
    fn next_ways(&self, ways: &mut [usize]) -> bool {
        for (way, mover) in ways.iter_mut().zip(&self.task.movers) {
            *way += 1;
            if *way < mover.ways.len() {
                return true;
            }
            *way = 0;
        }
        false
    }
}

/// The next order in lexicographic order; false after the last.
pub(super) fn next_permutation(order: &mut [usize]) -> bool {
    let Some(pivot) = (1..order.len()).rev().find(|i| order[i - 1] < order[*i]) else {
        return false;
    };
    let Some(swap) = (pivot..order.len()).rev().find(|i| order[*i] > order[pivot - 1]) else {
        return false;
    };
    order.swap(pivot - 1, swap);
    order[pivot..].reverse();
    true
}
