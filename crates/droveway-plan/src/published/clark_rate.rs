//! `clark-rate` (Clark 2005): the first round slowly, each further one a little faster than the last was dirtied, until that
//! would be too fast or hardly anything is left; then the blackout, as fast as allowed.

use super::{Subject, ascending};

/// The rates of a move, bytes per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// The first round's, and never below: the administrator's choice in the paper. A minimum for later rounds is not
    /// published; ours.
    pub rate_min: f64,
    /// Never above; also the blackout's. The administrator's choice in the paper.
    pub rate_max: f64,
    /// Added to the rate at which the last round was dirtied.
    pub step: f64,
    /// With less left, bytes, the rounds end.
    pub left_min: f64,
}

impl Default for Parameters {
    /// The paper's increment and remainder, 50 Mbit/s and 256 KB. The limits, 100 and 500 Mbit/s, are ours.
    fn default() -> Self {
        Parameters { rate_min: 12.5e6, rate_max: 62.5e6, step: 6.25e6, left_min: 262_144.0 }
    }
}

/// The rounds of one move.
#[derive(Debug, Clone, PartialEq)]
pub struct Rounds {
    /// Each round's rate, bytes per second.
    pub rates: Vec<f64>,
    /// How long all of them take, seconds.
    pub live: f64,
    /// What is left to the blackout, bytes.
    pub left: f64,
    /// The blackout without its fixed part, seconds.
    pub blackout: f64,
}

/// Rounds at most. Each is shorter than the one before, as it is faster than dirtying; what shrinks too slowly is stopped.
const ROUNDS_MAX: usize = 1_000;

/// The rate of the round after one of `seconds` in which `dirtied` bytes were dirtied.
#[must_use]
pub fn next_rate(dirtied: f64, seconds: f64, parameters: &Parameters) -> f64 {
    let dirty_rate = if dirtied > 0.0 { dirtied / seconds } else { 0.0 };
    (dirty_rate + parameters.step).max(parameters.rate_min)
}

/// Plays the rounds. Without a rate there are none, and everything is left to the blackout.
#[must_use]
pub fn rounds(subject: &Subject, parameters: &Parameters) -> Rounds {
    let (mut rates, mut live, mut left) = (Vec::new(), 0.0, subject.send_bytes);
    let mut rate = parameters.rate_min;
    while rate > 0.0
        && rate <= parameters.rate_max
        && left > parameters.left_min
        && rates.len() < ROUNDS_MAX
    {
        let seconds = left / rate;
        rates.push(rate);
        live += seconds;
        left = subject.curve.unique_bytes(seconds);
        rate = next_rate(left, seconds, parameters);
    }
    let blackout = if left > 0.0 { left / parameters.rate_max.max(0.0) } else { 0.0 };
    Rounds { rates, live, left, blackout }
}

/// The serial order: ascending working set.
#[must_use]
pub fn order(subjects: &[Subject]) -> Vec<usize> {
    ascending(subjects, |vm| subjects[vm].curve.limit())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, goldens, subject};
    use super::*;
    use droveway_fleet::DirtyCurve;

    const SLOW: Parameters =
        Parameters { rate_min: 12.5, rate_max: 65.0, step: 6.25, left_min: 0.25 };

    fn bounded(dirty_bytes_per_second: f64, working_set_bytes: f64) -> Subject {
        let curve = DirtyCurve::Bounded { dirty_bytes_per_second, working_set_bytes };
        Subject { curve, ..subject(2048.0, 0.0, 0.0, 0.0) }
    }

    #[test]
    fn rounds_get_faster_than_dirtying() {
        let got = rounds(&bounded(80.0, 60.0), &SLOW);
        goldens(&got.rates[..5], &[12.5, 12.5, 18.75, 25.0, 31.25], 0.01);
        assert_eq!(got.rates.len(), 10);
        let last = got.rates[9];
        golden(next_rate(got.left, 60.0 / last, &SLOW), 68.75, 0.01);
        golden(got.left, 60.0, 1.0);
        golden(got.live, 182.36, 0.01);
        golden(got.blackout, 0.923, 0.001);
    }

    #[test]
    fn slow_dirtying_stays_at_the_minimum() {
        let got = rounds(&bounded(4.0, 40.0), &SLOW);
        goldens(&got.rates, &[12.5; 6], 0.1);
        golden(got.left, 0.134, 0.001);
        golden(got.live, 168.53, 0.01);
    }

    #[test]
    fn what_is_small_or_idle_or_has_no_rate() {
        let idle = rounds(&bounded(0.0, 0.0), &SLOW);
        assert_eq!((idle.rates.len(), idle.left, idle.blackout), (1, 0.0, 0.0));
        let small = Subject { send_bytes: 0.2, ..bounded(80.0, 60.0) };
        assert!(rounds(&small, &SLOW).rates.is_empty());
        let starved = Parameters { rate_min: 0.0, ..SLOW };
        assert!(rounds(&bounded(80.0, 60.0), &starved).rates.is_empty());
        // Dirtying that never lets go ends too.
        let endless = Parameters { left_min: 0.0, ..SLOW };
        assert!(rounds(&bounded(4.0, 40.0), &endless).live.is_finite());
    }

    #[test]
    fn small_working_sets_first() {
        assert_eq!(
            order(&[bounded(9.0, 60.0), bounded(99.0, 20.0), bounded(1.0, 40.0)]),
            [1, 2, 0]
        );
        assert!(order(&[]).is_empty());
    }
}
