//! `slamig` (He 2021): the VM first that is quick to move and whose departure helps the others. Scores as in the published
//! code, where the weight of deadlines is 0 and they cancel out of the impact, so there are none here.
//!
//! Between two hosts every move conflicts with every other: the code's concurrent groups hold one VM each, and what is left
//! of it is a serial order.

use super::{Ports, Room, Subject, and_moved, ascending};

/// The weights of the published code.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// Of a VM's own time.
    pub time: f64,
    /// Of its impact on others.
    pub impact: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters { time: 0.5, impact: 0.1 }
    }
}

/// What a change of another's time counts in the impact, as in the published code.
const CHANGE_COUNTS: f64 = 2.0;
/// The links of a move: the source's TX and the target's RX.
const LINKS: f64 = 2.0;

/// A VM's score and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Its pre-copy now, seconds.
    pub time: f64,
    /// What is left to others once it has moved, bytes per second.
    pub rate_after: f64,
    /// What moving it first costs the others, seconds.
    pub impact: f64,
    /// The weighted sum; the least moves first.
    pub score: f64,
}

/// Scores every VM, all of them still at the source. `peers[a][b]` is what VM `a` sends to `b`.
#[must_use]
pub fn scores(
    subjects: &[Subject],
    ports: Ports,
    peers: &[Vec<f64>],
    parameters: &Parameters,
) -> Vec<Score> {
    let nobody = vec![false; subjects.len()];
    let now = ports.room(subjects, peers, &nobody);
    let times: Vec<f64> = subjects.iter().map(|vm| vm.pre_copy_time(now.rate())).collect();
    let score = |vm: usize| {
        let after = ports.room(subjects, peers, &and_moved(&nobody, vm));
        let others = (0..subjects.len()).filter(|other| *other != vm);
        let impact = others
            .map(|other| times[vm] + change(&subjects[other], times[other], now, after))
            .sum::<f64>();
        let (time, rate_after) = (times[vm], after.rate());
        let score = parameters.time * time + parameters.impact * impact;
        Score { time, rate_after, impact, score }
    };
    (0..subjects.len()).map(score).collect()
}

/// The serial order: ascending score.
#[must_use]
pub fn order(
    subjects: &[Subject],
    ports: Ports,
    peers: &[Vec<f64>],
    parameters: &Parameters,
) -> Vec<usize> {
    let scores = scores(subjects, ports, peers, parameters);
    ascending(subjects, |vm| scores[vm].score)
}

/// How another VM's time, `time` now, changes with the room that a departure leaves; where its links only gain, once more
/// for the least gain, by the share of links that gain.
fn change(other: &Subject, time: f64, now: Room, after: Room) -> f64 {
    let change = CHANGE_COUNTS * (other.pre_copy_time(after.rate()) - time);
    let gains = [after.source_tx - now.source_tx, after.target_rx - now.target_rx];
    if gains.iter().any(|gain| *gain < 0.0) {
        return change;
    }
    let gained = gains.iter().filter(|gain| **gain > 0.0);
    let Some(least) = gained.clone().copied().min_by(f64::total_cmp) else { return change };
    #[expect(clippy::cast_precision_loss, reason = "two at most")]
    let share = gained.count() as f64 / LINKS;
    change + share * (other.pre_copy_time(now.rate() + least) - time)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ends, golden, goldens, ports, subject, three};
    use super::*;

    fn scores_of(subjects: &[Subject], peers: &[Vec<f64>]) -> Vec<Score> {
        scores(subjects, ports(112.0), peers, &Parameters::default())
    }

    fn order_of(subjects: &[Subject]) -> Vec<usize> {
        order(subjects, ports(112.0), &[], &Parameters::default())
    }

    const ORDERS: [[usize; 3]; 6] =
        [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

    #[test]
    fn scores_are_those_of_the_published_code() {
        let got = scores_of(&three(), &[]);
        let all = |of: fn(&Score) -> f64| got.iter().map(of).collect::<Vec<_>>();
        golden(ports(112.0).room(&three(), &[], &[false; 3]).rate(), 86.0, 1.0);
        goldens(&all(|score| score.time), &[25.279, 13.453, 62.018], 0.001);
        goldens(&all(|score| score.rate_after), &[106.0, 91.0, 87.0], 1.0);
        goldens(&all(|score| score.impact), &[16.067, 15.251, 123.073], 0.001);
        goldens(&all(|score| score.score), &[14.246, 8.251, 43.316], 0.001);
        assert_eq!(order_of(&three()), [1, 0, 2]);
    }

    #[test]
    fn its_order_ends_soonest_on_average() {
        let played = |order: &[usize]| ends(&three(), ports(112.0), &[], order);
        let sum = |order: &[usize]| played(order).iter().sum::<f64>();
        let makespan = |order: &[usize]| played(order)[2];
        golden(makespan(&[1, 0, 2]), 85.39, 0.01);
        golden(sum(&[1, 0, 2]), 136.10, 0.01);
        golden(makespan(&[0, 1, 2]), 84.06, 0.01);
        for order in ORDERS {
            assert!(sum(&order) >= sum(&[1, 0, 2]));
            assert!(makespan(&order) >= makespan(&[0, 1, 2]));
        }
    }

    #[test]
    fn links_that_only_gain_count_once_more() {
        // The first only sends: its departure frees 20 on the source's TX and takes nothing.
        let gang = [subject(1024.0, 0.0, 20.0, 0.0), subject(1024.0, 0.0, 0.0, 0.0)];
        let (now, after) = (1024.0 / 92.0, 1024.0 / 112.0);
        let expected = now + 2.0 * (after - now) + 0.5 * (after - now);
        golden(scores_of(&gang, &[])[0].impact, expected, 0.001);
        // The second's departure changes nothing.
        golden(scores_of(&gang, &[])[1].impact, now, 0.001);
        // Sent to the second instead, it crosses the ports once they are split.
        let pair = [subject(1024.0, 0.0, 0.0, 0.0), subject(1024.0, 0.0, 0.0, 0.0)];
        let got = scores_of(&pair, &[vec![0.0, 20.0]]);
        goldens(&[got[0].rate_after, got[1].rate_after], &[112.0, 92.0], 1.0);
        assert!(got[0].score < got[1].score);
    }

    #[test]
    fn small_gangs() {
        assert!(order_of(&[]).is_empty());
        let alone = scores_of(&three()[..1], &[]);
        golden(alone[0].score, 0.5 * alone[0].time, 0.001);
        golden(alone[0].impact, 0.0, 1e-9);
        // No room at all: still numbers.
        let full = scores(&three(), ports(0.0), &[], &Parameters::default());
        assert!(full.iter().all(|score| score.score.is_finite()));
    }
}
