//! `sync-finish` (after COMMA; the rule is ours): all VMs of a group at once, at rates by which they end together.

use super::Subject;

/// Rates by which a group ends together.
#[derive(Debug, Clone, PartialEq)]
pub struct Together {
    /// By VM, bytes per second.
    pub rates: Vec<f64>,
    /// When all end, seconds from now.
    pub end: f64,
}

/// `R_k = D_k + (R - sum D) V_k / sum V`, with what remains of each VM as its [`Subject::send_bytes`]: to be solved again at
/// every pass boundary. `None` where the group dirties as fast as the channel takes.
#[must_use]
pub fn rates(subjects: &[Subject], rate: f64) -> Option<Together> {
    let dirtied: f64 = subjects.iter().map(|subject| subject.curve.initial_rate()).sum();
    let remaining: f64 = subjects.iter().map(|subject| subject.send_bytes).sum();
    let net = rate - dirtied;
    if net <= 0.0 {
        return None;
    }
    let end = remaining / net;
    // With nothing left to share out, a VM gets what it dirties.
    let share = |subject: &Subject| if end > 0.0 { subject.send_bytes / end } else { 0.0 };
    let rate_of = |subject: &Subject| subject.curve.initial_rate() + share(subject);
    Some(Together { rates: subjects.iter().map(rate_of).collect(), end })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, goldens, subject};
    use super::*;

    #[test]
    fn a_group_ends_together() {
        let gang = [
            subject(1024.0, 5.0, 0.0, 0.0),
            subject(2048.0, 20.0, 0.0, 0.0),
            subject(4096.0, 10.0, 0.0, 0.0),
        ];
        let got = rates(&gang, 112.0).unwrap();
        goldens(&got.rates, &[16.0, 42.0, 54.0], 1.0);
        golden(got.end, 93.09, 0.01);
        for (vm, rate) in gang.iter().zip(&got.rates) {
            golden(vm.send_bytes / (rate - vm.curve.initial_rate()), 93.09, 0.01);
        }
        assert_eq!(rates(&gang, 35.0), None);
        golden(rates(&gang[..1], 112.0).unwrap().rates[0], 112.0, 0.1);
    }

    #[test]
    fn nothing_left_ends_at_once() {
        assert_eq!(rates(&[], 112.0), Some(Together { rates: vec![], end: 0.0 }));
        assert_eq!(rates(&[], 0.0), None);
        let through = rates(&[subject(0.0, 0.0, 0.0, 0.0)], 112.0);
        assert_eq!(through, Some(Together { rates: vec![0.0], end: 0.0 }));
    }
}
