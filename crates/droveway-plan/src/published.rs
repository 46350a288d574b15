//! The rules of published policies, as pure functions: what each chooses, given what is known of the VMs and the two ports.
//!
//! They are what plans are compared with, so each does what its paper says (or our reading of it) and nothing cleverer. A
//! constant that a paper does not give is in its policy's `Parameters`, and is ours. Bytes, seconds, bytes per second.
//! Orders are indexes into the slice of subjects; ties go to the smaller VM, then to the earlier one.

pub mod alma;
pub mod clark_rate;
pub mod cqncr;
pub mod dynamic_hybrid;
pub mod fpta;
pub mod fuzzy_cluster;
pub mod m_mixed;
pub mod minutil_o;
pub mod mvm;
pub mod pava;
pub mod serial_or_parallel;
pub mod slamig;
pub mod solive;
pub mod sync_finish;
pub mod time_window_broker;
pub mod ws_hybrid;

use crate::policy::{DOWNTIME_DEFAULT, MAX_PASSES_DEFAULT};
use droveway_fleet::DirtyCurve;
use droveway_model::technique::{PreCopyInput, StopRule, pre_copy};

/// What the rules look at of one VM.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// What its first pass sends (`V`), bytes; during a move, what remains.
    pub send_bytes: f64,
    /// How much it dirties in a window.
    pub curve: DirtyCurve,
    /// What it sends to others than the two hosts and the gang, bytes per second.
    pub tx: f64,
    /// What it receives from them, bytes per second.
    pub rx: f64,
    /// The share of its vCPUs that is busy, 0 to 1.
    pub cpu_ratio: f64,
}

/// The two ports that migration uses, bytes per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ports {
    /// What the source's TX and the target's RX can take.
    pub capacity: f64,
    /// Sent by who stays at the source.
    pub resident_source_tx: f64,
    /// Received by who is at the target.
    pub resident_target_rx: f64,
}

/// What inelastic traffic leaves of the two directions, bytes per second; below zero where it does not even fit.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Room {
    source_tx: f64,
    target_rx: f64,
}

impl Room {
    /// What a stream gets, which crosses both.
    fn rate(self) -> f64 {
        self.source_tx.min(self.target_rx).max(0.0)
    }
}

impl Subject {
    /// Duration of a pre-copy alone at `rate`, seconds, with the default downtime and passes and no fixed times: the cost
    /// by which policies compare VMs.
    #[must_use]
    pub fn pre_copy_time(&self, rate: f64) -> f64 {
        pre_copy(&PreCopyInput {
            send_bytes: self.send_bytes,
            zero_bytes: 0.0,
            rate,
            switchover_rate: rate,
            downtime_limit: DOWNTIME_DEFAULT.as_secs_f64(),
            state_bytes: 0.0,
            setup: 0.0,
            switch_time: 0.0,
            resume_time: 0.0,
            zero_scan: 0.0,
            curve: self.curve.clone(),
            max_passes: MAX_PASSES_DEFAULT,
            rule: StopRule::PassBoundary,
            throttle: None,
        })
        .duration
    }
}

impl Ports {
    /// What is left of both directions when `at_target` says who runs where. `peers[a][b]` is what VM `a` sends to `b`; it
    /// crosses the ports while only `b` is at the target. What the matrix does not name is zero.
    fn room(&self, subjects: &[Subject], peers: &[Vec<f64>], at_target: &[bool]) -> Room {
        let mut room = Room {
            source_tx: self.capacity - self.resident_source_tx,
            target_rx: self.capacity - self.resident_target_rx,
        };
        for (subject, there) in subjects.iter().zip(at_target) {
            if *there {
                room.target_rx -= subject.rx;
            } else {
                room.source_tx -= subject.tx;
            }
        }
        for (senders, sender_there) in peers.iter().zip(at_target) {
            for (rate, receiver_there) in senders.iter().zip(at_target) {
                if !sender_there && *receiver_there {
                    room.source_tx -= rate;
                    room.target_rx -= rate;
                }
            }
        }
        room
    }
}

/// All subjects by ascending `key`; ties as in every policy.
fn ascending(subjects: &[Subject], key: impl Fn(usize) -> f64) -> Vec<usize> {
    let keys: Vec<f64> = (0..subjects.len()).map(|vm| comparable(key(vm))).collect();
    let mut order: Vec<usize> = (0..subjects.len()).collect();
    order.sort_by(|&a, &b| {
        let sizes = || subjects[a].send_bytes.total_cmp(&subjects[b].send_bytes);
        keys[a].total_cmp(&keys[b]).then_with(sizes)
    });
    order
}

/// A serial order made greedily: always next the VM of the least `score`, given who is at the target by then. With each
/// VM's score when it was chosen.
fn greedily(
    subjects: &[Subject],
    score: impl Fn(usize, &[bool]) -> f64,
) -> impl Iterator<Item = (usize, f64)> {
    let mut moved = vec![false; subjects.len()];
    std::iter::from_fn(move || {
        let waiting = (0..subjects.len()).filter(|vm| !moved[*vm]);
        let scored = waiting.map(|vm| (vm, comparable(score(vm, &moved))));
        let best = scored.min_by(|a, b| {
            let sizes = || subjects[a.0].send_bytes.total_cmp(&subjects[b.0].send_bytes);
            a.1.total_cmp(&b.1).then_with(sizes)
        })?;
        moved[best.0] = true;
        Some(best)
    })
}

/// Zero for minus zero, which a sum of nothing is: a total order tells them apart, a policy should not.
fn comparable(key: f64) -> f64 {
    key + 0.0
}

/// `moved`, and `vm` as well.
fn and_moved(moved: &[bool], vm: usize) -> Vec<bool> {
    moved.iter().enumerate().map(|(other, there)| *there || other == vm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The larger of 0.1 % and half a unit of the last printed digit.
    #[track_caller]
    pub(super) fn golden(got: f64, printed: f64, digit: f64) {
        let tolerance = (0.001 * printed.abs()).max(digit / 2.0);
        assert!((got - printed).abs() <= tolerance, "{got}, not {printed}");
    }

    #[track_caller]
    pub(super) fn goldens(got: &[f64], printed: &[f64], digit: f64) {
        assert_eq!(got.len(), printed.len(), "{got:?}, not {printed:?}");
        for (got, printed) in got.iter().zip(printed) {
            golden(*got, *printed, digit);
        }
    }

    pub(super) fn uniform(send_bytes: f64, dirty_rate: f64) -> DirtyCurve {
        DirtyCurve::Uniform { dirty_bytes_per_second: dirty_rate, memory_bytes: send_bytes }
    }

    /// A VM that dirties uniformly.
    pub(super) fn subject(send_bytes: f64, dirty_rate: f64, tx: f64, rx: f64) -> Subject {
        Subject { send_bytes, curve: uniform(send_bytes, dirty_rate), tx, rx, cpu_ratio: 0.0 }
    }

    pub(super) fn ports(capacity: f64) -> Ports {
        Ports { capacity, resident_source_tx: 0.0, resident_target_rx: 0.0 }
    }

    /// The gang on which orders are compared.
    pub(super) fn three() -> [Subject; 3] {
        [
            subject(2048.0, 5.0, 20.0, 2.0),
            subject(1024.0, 10.0, 5.0, 5.0),
            subject(4096.0, 20.0, 1.0, 15.0),
        ]
    }

    /// When each move of a serial order ends, in that order.
    pub(super) fn ends(
        subjects: &[Subject],
        ports: Ports,
        peers: &[Vec<f64>],
        order: &[usize],
    ) -> Vec<f64> {
        let mut moved = vec![false; subjects.len()];
        let ends = order.iter().scan(0.0, |now, vm| {
            *now += subjects[*vm].pre_copy_time(ports.room(subjects, peers, &moved).rate());
            moved[*vm] = true;
            Some(*now)
        });
        ends.collect()
    }

    #[test]
    fn traffic_takes_room_where_it_crosses() {
        let subjects = [subject(1.0, 0.0, 20.0, 5.0), subject(1.0, 0.0, 1.0, 7.0)];
        let ports = Ports { resident_source_tx: 2.0, resident_target_rx: 3.0, ..ports(100.0) };
        // Only the first row is known: 0 sends to 1.
        let peers = [vec![0.0, 30.0]];
        let room = |at_target| ports.room(&subjects, &peers, at_target);
        assert_eq!(room(&[false, false]), Room { source_tx: 77.0, target_rx: 97.0 });
        assert_eq!(room(&[true, false]), Room { source_tx: 97.0, target_rx: 92.0 });
        assert_eq!(room(&[false, true]), Room { source_tx: 48.0, target_rx: 60.0 });
        assert_eq!(room(&[true, true]), Room { source_tx: 98.0, target_rx: 85.0 });
        golden(Room { source_tx: -1.0, target_rx: 9.0 }.rate(), 0.0, 1e-9);
    }

    #[test]
    fn ties_go_to_the_smaller_then_the_earlier() {
        let subjects = [3.0, 2.0, 2.0, 9.0].map(|size| subject(size, 0.0, 0.0, 0.0));
        assert_eq!(ascending(&subjects, |vm| if vm == 3 { 0.0 } else { 1.0 }), [3, 1, 2, 0]);
        let order: Vec<usize> = greedily(&subjects, |_, _| 0.0).map(|(vm, _)| vm).collect();
        assert_eq!(order, [1, 2, 0, 3]);
        let signs = |vm: usize| if vm == 0 { -0.0 } else { 0.0 };
        assert_eq!(ascending(&subjects, signs), [1, 2, 0, 3]);
        assert!(ascending(&[], |_| 0.0).is_empty());
        assert_eq!(greedily(&[], |_, _| 0.0).count(), 0);
    }

    #[test]
    fn a_starved_pre_copy_ends_some_day() {
        assert!(subject(1e9, 0.0, 0.0, 0.0).pre_copy_time(0.0).is_finite());
        golden(subject(0.0, 0.0, 0.0, 0.0).pre_copy_time(112.0), 0.0, 1e-9);
    }
}
