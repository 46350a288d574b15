//! `serial-or-parallel` (Callegati and Cerroni 2013): a correlated group moves at once, as long as it does not dirty nearly
//! as fast as the channel takes; anything else one by one, the shortest first.

use super::{Subject, ascending};

/// What the paper does not publish; ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// Parallel below this ratio of dirtying to rate; the paper's model needs below 1. The margin is not published; ours.
    pub dirty_ratio_max: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters { dirty_ratio_max: 0.8 }
    }
}

/// How the gang moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// All at once.
    Parallel,
    /// One after the other, in this order.
    Serial(Vec<usize>),
}

/// What the whole gang dirties, over the channel's rate (`M r` of equal VMs); infinite without a channel.
#[must_use]
pub fn dirty_ratio(subjects: &[Subject], rate: f64) -> f64 {
    let dirtied: f64 = subjects.iter().map(|subject| subject.curve.initial_rate()).sum();
    if rate > 0.0 { dirtied / rate } else { f64::INFINITY }
}

/// Decides; `correlated` VMs are a service that runs only when all of them do.
#[must_use]
pub fn schedule(
    subjects: &[Subject],
    rate: f64,
    correlated: bool,
    parameters: &Parameters,
) -> Schedule {
    if correlated && dirty_ratio(subjects, rate) < parameters.dirty_ratio_max {
        Schedule::Parallel
    } else {
        Schedule::Serial(ascending(subjects, |vm| subjects[vm].pre_copy_time(rate)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, subject};
    use super::*;

    fn decide(subjects: &[Subject], correlated: bool) -> Schedule {
        schedule(subjects, 112.0, correlated, &Parameters::default())
    }

    #[test]
    fn a_gang_that_dirties_slowly_moves_at_once() {
        for (vms, dirty, ratio, parallel) in [
            (2, 20.0, 0.357, true),
            (4, 20.0, 0.714, true),
            (4, 5.0, 0.179, true),
            (4, 40.0, 1.43, false),
        ] {
            let gang = vec![subject(2048.0, dirty, 0.0, 0.0); vms];
            golden(dirty_ratio(&gang, 112.0), ratio, if parallel { 0.001 } else { 0.01 });
            assert_eq!(decide(&gang, true) == Schedule::Parallel, parallel);
        }
    }

    #[test]
    fn others_move_shortest_first() {
        let gang = [
            subject(4096.0, 5.0, 0.0, 0.0),
            subject(1024.0, 5.0, 0.0, 0.0),
            subject(2048.0, 5.0, 0.0, 0.0),
        ];
        assert_eq!(decide(&gang, false), Schedule::Serial(vec![1, 2, 0]));
        assert_eq!(decide(&gang, true), Schedule::Parallel);
        assert_eq!(decide(&gang[..1], false), Schedule::Serial(vec![0]));
        assert_eq!(decide(&[], false), Schedule::Serial(vec![]));
        let blocked = schedule(&gang, 0.0, true, &Parameters::default());
        assert!(matches!(blocked, Schedule::Serial(_)));
    }
}
