//! Every schedule that could be the best, where they are few enough.
//!
//! A window with a choice of ways for all VMs costs at least what [`super::bound`] says. Choices that cannot beat the best
//! schedule so far are left out with all their orders; the others are played, the most promising first.

use super::{SAME, Schedule, Search, bound::Bounds};

/// Windows with choices of ways that are looked at, at most: five VMs in four ways. More of them are never so few in the end
/// that all could be played.
const CHOICES_MAX: usize = 5_120;

impl Search<'_> {
    /// Plays every schedule that could beat the best one. False, and nothing played, if there are more than plays left.
    pub(super) fn enumerate(&mut self, bounds: &Bounds) -> bool {
        let Some(mut choices) = self.choices(bounds) else { return false };
        choices.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        let left = self.plays.saturating_sub(self.judge.plays);
        let all = choices.iter().map(|(_, window, _)| self.orders(*window));
        if all.fold(0_usize, usize::saturating_add) > left {
            return false;
        }
        let count = self.task.movers.len();
        for (bound, window, ways) in choices {
            if !self.may_win(bound) {
                break;
            }
            let mut order: Vec<usize> = (0..count).collect();
            loop {
                self.offer(&Schedule { order: order.clone(), ways: ways.clone(), window });
                // All at once there is no order.
                if window >= count || !next_permutation(&mut order) {
                    break;
                }
            }
        }
        true
    }

    fn may_win(&self, bound: f64) -> bool {
        let best = self.best.first().and_then(Option::as_ref);
        best.is_none_or(|(cost, _)| bound < cost.value * (1.0 - SAME))
    }

    /// Orders that differ with this window.
    fn orders(&self, window: usize) -> usize {
        let count = self.task.movers.len();
        if window >= count { 1 } else { (1..=count).fold(1_usize, usize::saturating_mul) }
    }

    /// Windows and choices of ways that could be part of the best schedule, with what they cost at least; `None` if there
    /// are too many to look at.
    fn choices(&self, bounds: &Bounds) -> Option<Vec<(f64, usize, Vec<usize>)>> {
        let movers = &self.task.movers;
        let all = movers.iter().map(|m| m.ways.len()).try_fold(1_usize, usize::checked_mul)?;
        let windows = self.task.window_max();
        if all.checked_mul(windows)? > CHOICES_MAX {
            return None;
        }
        let mut kept = Vec::new();
        for window in 1..=windows {
            let mut ways = vec![0; movers.len()];
            loop {
                let bound = bounds.of_ways(self.task, &ways, window);
                if self.may_win(bound) {
                    kept.push((bound, window, ways.clone()));
                }
                if !self.next_ways(&mut ways) {
                    break;
                }
            }
        }
        Some(kept)
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
