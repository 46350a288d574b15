//! `fpta` (Wang 2017, read as maximal net rate): the VMs that dirty least get the link, each as much as it can take. The
//! paper's programme over many links needs no search on one.

use super::{Subject, ascending};

/// By VM, what it is granted of `rate`, at most `cap`, bytes per second; zero for those that are not admitted because they
/// would dirty as much as they got. To be asked again at every completion.
#[must_use]
pub fn grants(subjects: &[Subject], rate: f64, cap: f64) -> Vec<f64> {
    let mut grants = vec![0.0; subjects.len()];
    let mut left = rate;
    for vm in ascending(subjects, |vm| subjects[vm].curve.initial_rate()) {
        let granted = cap.min(left);
        if granted > subjects[vm].curve.initial_rate() {
            grants[vm] = granted;
            left -= granted;
        }
    }
    grants
}

/// What asking again at every completion comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Rounds {
    /// The order in which they are admitted.
    pub order: Vec<usize>,
    /// By VM, what it is granted when it is admitted, bytes per second; infinite for one that would never be: it goes last, on
    /// what there is.
    pub grants: Vec<f64>,
    /// So many are admitted at first.
    pub at_once: usize,
}

/// The grants of all VMs: those that are not admitted are asked about again, without those that have been.
#[must_use]
pub fn rounds(subjects: &[Subject], rate: f64, cap: f64) -> Rounds {
    let mut rounds =
        Rounds { order: Vec::new(), grants: vec![f64::INFINITY; subjects.len()], at_once: 1 };
    let mut left: Vec<usize> = ascending(subjects, |vm| subjects[vm].curve.initial_rate());
    while !left.is_empty() {
        let waiting: Vec<Subject> = left.iter().map(|vm| subjects[*vm].clone()).collect();
        let granted = grants(&waiting, rate, cap);
        let admitted = granted.iter().filter(|rate| **rate > 0.0).count();
        if admitted == 0 {
            rounds.order.append(&mut left);
            break;
        }
        if rounds.order.is_empty() {
            rounds.at_once = admitted;
        }
        for (vm, rate) in left.iter().zip(&granted).filter(|(_, rate)| **rate > 0.0) {
            rounds.grants[*vm] = *rate;
            rounds.order.push(*vm);
        }
        left.retain(|vm| !rounds.order.contains(vm));
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, goldens, subject};
    use super::*;

    fn check(cap: f64, expected: &[f64], net: f64) {
        let gang = [10.0, 30.0, 60.0].map(|dirty| subject(2048.0, dirty, 0.0, 0.0));
        let got = grants(&gang, 100.0, cap);
        goldens(&got, expected, 1.0);
        let admitted = gang.iter().zip(&got).filter(|(_, rate)| **rate > 0.0);
        golden(admitted.map(|(vm, rate)| rate - vm.curve.initial_rate()).sum(), net, 1.0);
    }

    #[test]
    fn the_least_dirtying_get_the_link() {
        check(60.0, &[60.0, 40.0, 0.0], 60.0);
        check(100.0, &[100.0, 0.0, 0.0], 90.0);
        check(f64::INFINITY, &[100.0, 0.0, 0.0], 90.0);
    }

    #[test]
    fn who_waits_is_asked_about_again() {
        let gang = [60.0, 10.0, 30.0, 200.0].map(|dirty| subject(2048.0, dirty, 0.0, 0.0));
        let got = rounds(&gang, 100.0, 60.0);
        assert_eq!((got.order, got.at_once), (vec![1, 2, 0, 3], 2));
        // The third dirties as much as its cap; nothing would ever do for the fourth.
        assert_eq!(got.grants, [f64::INFINITY, 60.0, 40.0, f64::INFINITY]);
        let got = rounds(&gang, 100.0, 100.0);
        assert_eq!((got.order, got.at_once), (vec![1, 2, 0, 3], 1));
        assert_eq!(got.grants, [100.0, 100.0, 100.0, f64::INFINITY]);
        assert!(rounds(&[], 100.0, 60.0).order.is_empty());
    }

    #[test]
    fn nobody_is_admitted_for_nothing() {
        assert!(grants(&[], 100.0, 60.0).is_empty());
        assert_eq!(grants(&[subject(2048.0, 0.0, 0.0, 0.0)], 0.0, 60.0), [0.0]);
        assert_eq!(grants(&[subject(2048.0, 60.0, 0.0, 0.0)], 100.0, 60.0), [0.0]);
        goldens(&grants(&[subject(2048.0, 0.0, 0.0, 0.0)], 100.0, 60.0), &[60.0], 1.0);
    }
}
