//! `minutil-o` (Liu 2015): always next the VM whose move leaves the link least used for the migration after it.

use super::{Subject, and_moved, greedily};

/// The link between the two sites, bytes per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// What it takes.
    pub capacity: f64,
    /// What crosses it anyway.
    pub base: f64,
    /// What each migration sends.
    pub migration: f64,
}

/// One move of the order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Which VM.
    pub vm: usize,
    /// The link's utilisation during the next migration, of the capacity; the least of those that could move.
    pub score: f64,
    /// Its utilisation while this VM moves.
    pub while_moving: f64,
}

/// The serial order. `peers[a][b]` is what VM `a` sends to `b`; it crosses the link while only one of them has moved.
#[must_use]
pub fn order(subjects: &[Subject], peers: &[Vec<f64>], link: Link) -> Vec<Step> {
    let score = |vm: usize, moved: &[bool]| score(vm, moved, peers, link);
    let mut moved = vec![false; subjects.len()];
    let step = |(vm, score): (usize, f64)| {
        let while_moving = utilisation(split_traffic(peers, &moved) + link.migration, link);
        moved[vm] = true;
        Step { vm, score, while_moving }
    };
    greedily(subjects, score).map(step).collect()
}

/// The link's utilisation during the migration after that of `vm`, if there is one to come.
fn score(vm: usize, moved: &[bool], peers: &[Vec<f64>], link: Link) -> f64 {
    let moved = and_moved(moved, vm);
    let next = if moved.iter().all(|moved| *moved) { 0.0 } else { link.migration };
    utilisation(split_traffic(peers, &moved) + next, link)
}

/// What crosses the link, either way, between those that have moved and those that have not.
fn split_traffic(peers: &[Vec<f64>], moved: &[bool]) -> f64 {
    let split = |(senders, sender_moved): (&Vec<f64>, &bool)| -> f64 {
        let receivers = senders.iter().zip(moved);
        receivers.filter(|(_, moved)| *moved != sender_moved).map(|(rate, _)| rate).sum()
    };
    peers.iter().zip(moved).map(split).sum()
}

fn utilisation(beside_base: f64, link: Link) -> f64 {
    let used = link.base + beside_base;
    if used > 0.0 { used / link.capacity.max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{goldens, subject};
    use super::*;

    const LINK: Link = Link { capacity: 100.0, base: 20.0, migration: 40.0 };

    fn gang(vms: usize) -> Vec<Subject> {
        vec![subject(2048.0, 0.0, 0.0, 0.0); vms]
    }

    /// A chain: a sends 30 to b, b sends 10 to c.
    fn chain() -> Vec<Vec<f64>> {
        vec![vec![0.0, 30.0, 0.0], vec![0.0, 0.0, 10.0], vec![0.0; 3]]
    }

    #[test]
    fn the_least_used_link_wins() {
        let steps = order(&gang(3), &chain(), LINK);
        let vms: Vec<usize> = steps.iter().map(|step| step.vm).collect();
        assert_eq!(vms, [2, 1, 0]);
        let moving: Vec<f64> = steps.iter().map(|step| step.while_moving).collect();
        goldens(&moving, &[0.6, 0.7, 0.9], 0.1);
        let left: Vec<f64> = steps.iter().map(|step| step.score).collect();
        // After the last there is no migration, and nothing is split.
        goldens(&left, &[0.7, 0.9, 0.2], 0.1);
    }

    #[test]
    fn scores_of_all_that_could_move() {
        let scores = |vms: &[usize], moved: &[bool]| -> Vec<f64> {
            vms.iter().map(|vm| score(*vm, moved, &chain(), LINK)).collect()
        };
        goldens(&scores(&[0, 1, 2], &[false; 3]), &[0.9, 1.0, 0.7], 0.1);
        goldens(&scores(&[0, 1], &[false, false, true]), &[1.0, 0.9], 0.1);
    }

    #[test]
    fn without_traffic_the_order_is_that_of_size() {
        assert_eq!(order(&[], &[], LINK), []);
        let sized = [3.0, 1.0, 2.0].map(|size| subject(size, 0.0, 0.0, 0.0));
        let vms: Vec<usize> = order(&sized, &[], LINK).iter().map(|step| step.vm).collect();
        assert_eq!(vms, [1, 2, 0]);
        let idle = Link { capacity: 0.0, base: 0.0, migration: 0.0 };
        assert_eq!(order(&gang(1), &[], idle), [Step { vm: 0, score: 0.0, while_moving: 0.0 }]);
    }
}
