//! `cqncr` (Bari 2014; the rule is ours): serially, always next the VM whose departure leaves the most to migration.

use super::{Ports, Subject, and_moved, greedily};

/// The serial order. `peers[a][b]` is what VM `a` sends to `b`.
#[must_use]
pub fn order(subjects: &[Subject], ports: Ports, peers: &[Vec<f64>]) -> Vec<usize> {
    let left = |vm: usize, moved: &[bool]| {
        let room = ports.room(subjects, peers, &and_moved(moved, vm));
        room.source_tx.min(room.target_rx)
    };
    greedily(subjects, |vm, moved| -left(vm, moved)).map(|(vm, _)| vm).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ends, golden, ports, subject, three};
    use super::*;

    #[test]
    fn the_most_room_is_made_first() {
        let order = order(&three(), ports(112.0), &[]);
        assert_eq!(order, [0, 1, 2]);
        golden(ports(112.0).room(&three(), &[], &[true, false, false]).rate(), 106.0, 1.0);
        golden(ends(&three(), ports(112.0), &[], &order)[2], 84.06, 0.01);
    }

    #[test]
    fn the_bigger_sender_of_a_pair_goes_first() {
        let pair = [subject(2048.0, 0.0, 0.0, 0.0), subject(2048.0, 0.0, 0.0, 0.0)];
        let peers = [vec![0.0, 10.0], vec![30.0, 0.0]];
        assert_eq!(order(&pair, ports(112.0), &peers), [1, 0]);
        assert_eq!(order(&pair, ports(112.0), &[]), [0, 1]);
        assert_eq!(order(&pair[..1], ports(112.0), &[]), [0]);
        assert!(order(&[], ports(112.0), &[]).is_empty());
    }

    #[test]
    fn less_than_nothing_left_still_counts() {
        // Both leave less than no room on a full port; the first by less.
        let gang = [subject(2048.0, 0.0, 9.0, 0.0), subject(1024.0, 0.0, 5.0, 0.0)];
        let full = Ports { resident_source_tx: 200.0, ..ports(112.0) };
        assert_eq!(order(&gang, full, &[]), [0, 1]);
    }
}
