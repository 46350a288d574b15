//! `m-mixed` and `improved-serial` (Sun 2016): the first `m` VMs are pre-copied at once; as they stop, the others follow by
//! post-copy, one after the other. `improved-serial` is `m = 1`. What that takes is [`Equal::mixed`].

use super::{Subject, ascending};
use droveway_model::gangs::Equal;

/// Who moves how, each in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mix {
    /// By pre-copy, at once.
    pub pre_copied: Vec<usize>,
    /// By post-copy, as the others stop, one after the other.
    pub post_copied: Vec<usize>,
}

/// The `m` with the smallest service downtime whose total time is within `total_max` seconds, the least of equals; `None`
/// where no `m` is.
#[must_use]
pub fn best_m(gang: &Equal, total_max: f64) -> Option<u32> {
    let downtime = |m: &u32| gang.mixed(*m).service_downtime;
    (1..=gang.vms)
        .filter(|m| gang.mixed(*m).total <= total_max)
        .min_by(|a, b| downtime(a).total_cmp(&downtime(b)))
}

/// Splits a gang: the `m` that dirty least are pre-copied.
#[must_use]
pub fn mix(subjects: &[Subject], m: usize) -> Mix {
    let mut pre_copied = ascending(subjects, |vm| subjects[vm].curve.initial_rate());
    let post_copied = pre_copied.split_off(m.min(subjects.len()));
    Mix { pre_copied, post_copied }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, subject};
    use super::*;

    fn equal(vms: u32, dirty_rate: f64) -> Equal {
        Equal {
            vms,
            send_bytes: 2048.0,
            dirty_rate,
            rate: 112.0,
            threshold: 16.0,
            max_passes: 8,
            resume_time: 0.1,
            back_share: 0.7,
        }
    }

    #[test]
    fn the_smallest_downtime_in_time_wins() {
        let gang = equal(4, 20.0);
        let best = best_m(&gang, 90.0).unwrap();
        assert_eq!(best, 2);
        golden(gang.mixed(best).total, 82.371, 0.001);
        golden(gang.mixed(best).service_downtime, 25.912, 0.001);
        assert_eq!(best_m(&gang, 61.0), Some(1));
        assert_eq!(best_m(&gang, 131.0), Some(3));
        assert_eq!(best_m(&gang, f64::INFINITY), Some(4));
        assert_eq!(best_m(&gang, 60.0), None);
        // All at once would dirty more than the channel takes.
        assert!(best_m(&equal(4, 40.0), f64::INFINITY).unwrap() < 4);
    }

    #[test]
    fn small_gangs_and_idle_ones() {
        assert_eq!(best_m(&equal(0, 20.0), 90.0), None);
        assert_eq!(best_m(&equal(1, 20.0), 90.0), Some(1));
        // Without dirtying all at once costs nothing.
        assert_eq!(best_m(&equal(4, 0.0), f64::INFINITY), Some(4));
    }

    #[test]
    fn those_that_dirty_least_are_pre_copied() {
        let gang = [30.0, 10.0, 20.0].map(|dirty| subject(2048.0, dirty, 0.0, 0.0));
        let split = |m| mix(&gang, m);
        assert_eq!(split(1), Mix { pre_copied: vec![1], post_copied: vec![2, 0] });
        assert_eq!(split(2), Mix { pre_copied: vec![1, 2], post_copied: vec![0] });
        assert!(split(9).post_copied.is_empty());
        assert_eq!(mix(&[], 1), Mix { pre_copied: vec![], post_copied: vec![] });
    }
}
