//! `time-window-broker` (Tsakalozos 2017; the rule is ours): each VM gets the rate that its deadline needs, as long as there
//! is some, the most important first.

use std::cmp::Ordering;

/// What is asked for a VM.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// What remains to be sent, bytes.
    pub remaining: f64,
    /// Until its deadline, seconds.
    pub time_left: f64,
    /// How much it matters; the larger, the more.
    pub priority: f64,
    /// What each second after the deadline costs, in any unit.
    pub penalty_per_second: f64,
}

/// Who comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precedence {
    /// The highest priority.
    Priority,
    /// The highest penalty per second.
    Penalty,
}

/// What a VM gets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grant {
    /// What its deadline needs, bytes per second; infinite after the deadline.
    pub need: f64,
    /// What it gets, bytes per second; zero: postponed.
    pub rate: f64,
    /// False: it will be late.
    pub in_time: bool,
}

/// By VM, what each gets of `rate`, which is what the network may spend on migration. What nobody needs goes to the first
/// that is not through.
#[must_use]
pub fn grants(requests: &[Request], precedence: Precedence, rate: f64) -> Vec<Grant> {
    let mut left = rate.max(0.0);
    let order = order(requests, precedence);
    let mut grants: Vec<Grant> = requests.iter().map(|request| ungranted(*request)).collect();
    for vm in &order {
        let grant = &mut grants[*vm];
        grant.rate = grant.need.min(left);
        grant.in_time = grant.rate >= grant.need;
        left -= grant.rate;
    }
    if let Some(first) = order.iter().find(|vm| requests[**vm].remaining > 0.0) {
        grants[*first].rate += left;
    }
    grants
}

/// By descending precedence; ties: what has less to send, then the earlier.
#[must_use]
pub fn order(requests: &[Request], precedence: Precedence) -> Vec<usize> {
    let key = |request: &Request| match precedence {
        Precedence::Priority => request.priority,
        Precedence::Penalty => request.penalty_per_second,
    };
    let before = |a: &Request, b: &Request| -> Ordering {
        key(b).total_cmp(&key(a)).then_with(|| a.remaining.total_cmp(&b.remaining))
    };
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by(|&a, &b| before(&requests[a], &requests[b]));
    order
}

fn ungranted(request: Request) -> Grant {
    let need = if request.remaining <= 0.0 {
        0.0
    } else if request.time_left > 0.0 {
        request.remaining / request.time_left
    } else {
        f64::INFINITY
    };
    Grant { need, rate: 0.0, in_time: false }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, goldens};
    use super::*;

    fn request(remaining: f64, time_left: f64, priority: f64, penalty: f64) -> Request {
        Request { remaining, time_left, priority, penalty_per_second: penalty }
    }

    fn requests() -> [Request; 3] {
        [
            request(3000.0, 60.0, 3.0, 5.0),
            request(2000.0, 25.0, 2.0, 9.0),
            request(1000.0, 100.0, 1.0, 1.0),
        ]
    }

    fn rates(grants: &[Grant]) -> Vec<f64> {
        grants.iter().map(|grant| grant.rate).collect()
    }

    #[test]
    fn the_most_important_get_what_they_need() {
        let got = grants(&requests(), Precedence::Priority, 100.0);
        let needs: Vec<f64> = got.iter().map(|grant| grant.need).collect();
        goldens(&needs, &[50.0, 80.0, 10.0], 1.0);
        goldens(&rates(&got), &[50.0, 50.0, 0.0], 1.0);
        assert_eq!([got[0], got[1], got[2]].map(|grant| grant.in_time), [true, false, false]);
        golden(requests()[1].remaining / got[1].rate, 40.0, 1.0);

        let got = grants(&requests(), Precedence::Penalty, 100.0);
        goldens(&rates(&got), &[20.0, 80.0, 0.0], 1.0);
    }

    #[test]
    fn what_is_left_over_goes_to_the_first() {
        let got = grants(&requests(), Precedence::Priority, 200.0);
        goldens(&rates(&got), &[110.0, 80.0, 10.0], 1.0);
        assert!(got.iter().all(|grant| grant.in_time));
        // To the first that has anything to send.
        let mut through = requests();
        through[0].remaining = 0.0;
        goldens(&rates(&grants(&through, Precedence::Priority, 200.0)), &[0.0, 190.0, 10.0], 1.0);
    }

    #[test]
    fn who_is_late_takes_everything() {
        let late = [request(10.0, 0.0, 1.0, 1.0), request(10.0, 10.0, 0.0, 0.0)];
        let got = grants(&late, Precedence::Priority, 100.0);
        goldens(&rates(&got), &[100.0, 0.0], 1.0);
        assert!(!got[0].in_time && got[0].need.is_infinite());
    }

    #[test]
    fn nobody_or_nothing() {
        assert_eq!(grants(&[], Precedence::Penalty, 100.0), []);
        let none = grants(&requests(), Precedence::Priority, 0.0);
        assert!(none.iter().all(|grant| grant.rate <= 0.0 && !grant.in_time));
        let equal = [request(20.0, 10.0, 1.0, 1.0), request(10.0, 10.0, 1.0, 1.0)];
        goldens(&rates(&grants(&equal, Precedence::Priority, 2.0)), &[1.0, 1.0], 0.1);
    }
}
