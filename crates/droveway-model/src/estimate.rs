//! Rates from counters, as they come: means, quantiles, and whether the level has suddenly changed.
//!
//! Time is an argument everywhere: seconds on any clock that does not go back.

use droveway_fleet::snapshot::{RateSeries, RateSummary};
use std::collections::VecDeque;

/// An exponentially weighted mean that knows time: a sample that covers `dt` weighs `1 - exp(-dt / tau)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ewma {
    tau: f64,
    value: Option<f64>,
}

impl Ewma {
    /// A mean that forgets a change to a third in `tau` seconds.
    #[must_use]
    pub const fn new(tau: f64) -> Self {
        Ewma { tau, value: None }
    }

    /// Takes a sample that held for `dt` seconds. The first is taken as it is; what is not finite is passed over.
    pub fn observe(&mut self, dt: f64, value: f64) {
        if !value.is_finite() {
            return;
        }
        let weight = 1.0 - (-dt.max(0.0) / self.tau.max(f64::MIN_POSITIVE)).exp();
        self.value = Some(match self.value {
            None => value,
            Some(old) => old + weight * (value - old),
        });
    }

    /// The mean; `None` before the first sample.
    #[must_use]
    pub const fn value(&self) -> Option<f64> {
        self.value
    }
}

/// The last samples, for quantiles.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    samples: VecDeque<f64>,
    capacity: usize,
}

impl Window {
    /// A window of at most so many samples.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Window { samples: VecDeque::new(), capacity: capacity.max(1) }
    }

    /// Takes a sample; the oldest goes when the window is full. What is not finite is passed over.
    pub fn observe(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        if self.samples.len() == self.capacity {
            self.samples.pop_front();
        }
        self.samples.push_back(value);
    }

    /// A quantile, between the two nearest samples; `None` without samples.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a bounded window"
    )]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let mut sorted: Vec<f64> = self.samples.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = share.clamp(0.0, 1.0) * last as f64;
        let below = at.floor() as usize;
        let above = (below + 1).min(last);
        Some(sorted[below] + (sorted[above] - sorted[below]) * at.fract())
    }
}

/// Notices sudden changes of a level (Page's CUSUM, two-sided, on the deviation in parts of the level).
///
/// Constants: deviations below [`SLACK`] of the level count as noise; what exceeds it is summed until [`ALARM`]. A doubling
/// is noticed after one sample, a fall to half after three, a rise by half after four; changes to 0.6
/// or 1.4 of the level are followed silently. Independent normal noise alarms, at a standard deviation of 10 % of the level, never in five million simulated
/// samples; of 15 %, once in a million; of 20 %, once in 2400; of 25 %, once in 130. So alarms about traffic that varies by a
/// quarter from sample to sample mean little.
///
/// What is not finite is passed over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShiftDetector {
    level: Option<f64>,
    up: f64,
    down: f64,
    /// Below this a level is nothing, and changes between nothing and nothing are none.
    floor: f64,
}

/// Deviations up to this part of the level are noise.
pub const SLACK: f64 = 0.25;
/// The sum of deviations beyond the slack that is a change.
pub const ALARM: f64 = 0.6;
/// How fast the level follows what is no change.
const FOLLOW: f64 = 0.1;

impl ShiftDetector {
    /// A detector for values of which those below `floor` count as nothing.
    #[must_use]
    pub const fn new(floor: f64) -> Self {
        ShiftDetector { level: None, up: 0.0, down: 0.0, floor }
    }

    /// Takes a sample; true if the level has changed, and is this sample's from now on.
    pub fn observe(&mut self, value: f64) -> bool {
        if !value.is_finite() {
            return false;
        }
        let Some(level) = self.level else {
            self.level = Some(value);
            return false;
        };
        let deviation = (value - level) / level.abs().max(self.floor);
        self.up = (self.up + deviation - SLACK).max(0.0);
        self.down = (self.down - deviation - SLACK).max(0.0);
        if self.up > ALARM || self.down > ALARM {
            *self = ShiftDetector { level: Some(value), ..ShiftDetector::new(self.floor) };
            return true;
        }
        self.level = Some(level + FOLLOW * (value - level));
        false
    }
}

/// Samples that quantiles are taken over: five minutes at 5 Hz.
const WINDOW: usize = 1500;
/// Time constant of the mean: three seconds, the time in which an operator looks twice.
const TAU: f64 = 3.0;
/// Rates below 64 kbit/s are nothing: name service, neighbour discovery.
const NOTHING: f64 = 8_000.0;

/// Turns a cumulative counter into rates.
///
/// Each rate is a difference of counts over the difference of their times, so nothing drifts; a reading at the same time
/// as the last says nothing; a counter that went back was reset, and the reading after it starts anew.
#[derive(Debug, Clone, PartialEq)]
pub struct RateEstimator {
    last: Option<(f64, u64)>,
    /// Seconds and counts that are covered.
    covered: f64,
    counted: f64,
    ewma: Ewma,
    window: Window,
    detector: ShiftDetector,
    shifts: u32,
    /// The first reading's time.
    first: Option<f64>,
    since: Option<Since>,
}

/// What was seen since the level last changed.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Since {
    /// When, on the readings' clock.
    at: f64,
    covered: f64,
    counted: f64,
}

/// A level is known once it has held for so long, seconds; until then the mean that forgets tells more.
const HELD_MIN: f64 = 1.0;

impl Default for RateEstimator {
    fn default() -> Self {
        RateEstimator::new()
    }
}

impl RateEstimator {
    /// An estimator that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        RateEstimator {
            last: None,
            covered: 0.0,
            counted: 0.0,
            ewma: Ewma::new(TAU),
            window: Window::new(WINDOW),
            detector: ShiftDetector::new(NOTHING),
            shifts: 0,
            first: None,
            since: None,
        }
    }

    /// Takes a reading: the count `total` at `seconds`. Returns the rate since the last one, if there is one. A time that is
    /// not finite is passed over.
    pub fn observe(&mut self, seconds: f64, total: u64) -> Option<f64> {
        if !seconds.is_finite() {
            return None;
        }
        self.first.get_or_insert(seconds);
        let Some((before, count)) = self.last else {
            self.last = Some((seconds, total));
            return None;
        };
        let time = seconds - before;
        if time <= 0.0 {
            return None;
        }
        self.last = Some((seconds, total));
        let difference = total.checked_sub(count)?;
        #[expect(clippy::cast_precision_loss, reason = "a difference far below 2^53")]
        let difference = difference as f64;
        let rate = difference / time;
        self.covered += time;
        self.counted += difference;
        self.ewma.observe(time, rate);
        self.window.observe(rate);
        if self.detector.observe(rate) {
            self.shifts += 1;
            self.since = Some(Since { at: before, covered: 0.0, counted: 0.0 });
        }
        if let Some(since) = &mut self.since {
            since.covered += time;
            since.counted += difference;
        }
        Some(rate)
    }

    /// What was seen.
    #[must_use]
    pub fn summary(&self) -> RateSummary {
        let mean = if self.covered > 0.0 { self.counted / self.covered } else { 0.0 };
        let quantile = |share| self.window.quantile(share).unwrap_or(0.0);
        let ewma = self.ewma.value().unwrap_or(0.0);
        let level = |since: Since| {
            if since.covered >= HELD_MIN { since.counted / since.covered } else { ewma }
        };
        RateSummary {
            mean_bytes_per_second: mean,
            ewma_bytes_per_second: ewma,
            p10_bytes_per_second: quantile(0.1),
            p50_bytes_per_second: quantile(0.5),
            p90_bytes_per_second: quantile(0.9),
            shifts: self.shifts,
            changed_at_seconds: self.since.zip(self.first).map(|(since, first)| since.at - first),
            changed_to_bytes_per_second: self.since.map(level),
        }
    }
}

/// Steps of a series at most: what is longer is told in longer steps.
pub const SERIES_STEPS: u32 = 600;
/// The shortest step, seconds: bursts within it are nobody's phase.
const SERIES_STEP_MIN: f64 = 1.0;
/// Fewer steps tell nothing of phases.
const SERIES_STEPS_MIN: u32 = 8;

/// Rates in equal steps from cumulative counts: (seconds, sent, received), by rising time. `None` for a measurement of a few
/// seconds.
#[must_use]
pub fn series(points: &[(f64, u64, u64)]) -> Option<RateSeries> {
    let (first, last) = (points.first()?.0, points.last()?.0);
    let step_seconds = ((last - first) / f64::from(SERIES_STEPS)).max(SERIES_STEP_MIN);
    let steps = ((last - first) / step_seconds + 1e-9).floor();
    if steps.is_nan() || steps < f64::from(SERIES_STEPS_MIN) {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    let total = |at: f64, of: fn(&(f64, u64, u64)) -> u64| -> f64 {
        let after = points.partition_point(|point| point.0 < at).min(points.len() - 1);
        let (b, a) = (&points[after], &points[after.saturating_sub(1)]);
        let part = if b.0 > a.0 { ((at - a.0) / (b.0 - a.0)).clamp(0.0, 1.0) } else { 1.0 };
        of(a) as f64 + part * (of(b) as f64 - of(a) as f64)
    };
    // The last step ends with the measurement.
    let begin = last - steps * step_seconds;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most SERIES_STEPS"
    )]
    let count = steps as u32;
    let rates = |of: fn(&(f64, u64, u64)) -> u64| {
        let rate = |index: u32| {
            let from = begin + f64::from(index) * step_seconds;
            // A counter that begins anew sent nothing.
            ((total(from + step_seconds, of) - total(from, of)) / step_seconds).max(0.0)
        };
        (0..count).map(rate).collect()
    };
    Some(RateSeries { step_seconds, tx: rates(|p| p.1), rx: rates(|p| p.2), dirty: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mean_forgets_by_time_not_by_samples() {
        let after = |steps: u32| {
            let mut mean = Ewma::new(2.0);
            mean.observe(1.0, 100.0);
            for _ in 0..steps {
                mean.observe(2.0 / f64::from(steps), 0.0);
            }
            mean.value().unwrap()
        };
        assert!((after(1) - 100.0 / std::f64::consts::E).abs() < 1e-9);
        assert!((after(1) - after(50)).abs() < 1e-9);
    }

    #[test]
    fn counters_become_rates() {
        let mut rate = RateEstimator::new();
        assert_eq!(rate.observe(1.0, 1000), None);
        assert_eq!(rate.observe(1.0, 2000), None, "no time has passed");
        assert_eq!(rate.observe(3.0, 5000), Some(2000.0));
        // The counter was reset: nothing is known of this interval.
        assert_eq!(rate.observe(4.0, 10), None);
        assert_eq!(rate.observe(4.5, 1010), Some(2000.0));
        let summary = rate.summary();
        assert!((summary.mean_bytes_per_second - 2000.0).abs() < 1e-9);
        assert!((summary.p90_bytes_per_second - 2000.0).abs() < 1e-9);
        assert_eq!(RateEstimator::new().summary(), RateSummary::default());
    }

    #[test]
    fn a_change_of_level_is_noticed_and_noise_is_not() {
        let noise = |number: u32| 1.0 + 0.15 * (f64::from(number) * 2.399).sin();
        let mut detector = ShiftDetector::new(1000.0);
        let steady = (0..500).filter(|n| detector.observe(1e6 * noise(*n))).count();
        assert_eq!(steady, 0);
        let first = (500..510).position(|n| detector.observe(2e6 * noise(n)));
        assert!(first.is_some_and(|samples| samples < 3), "{first:?}");
        let back = (510..520).position(|n| detector.observe(1e6 * noise(n)));
        assert!(back.is_some_and(|samples| samples < 4), "{back:?}");
        let mut silence = ShiftDetector::new(1000.0);
        assert!((0..100).all(|n| !silence.observe(f64::from(n % 3) * 100.0)));
    }

    #[test]
    fn a_change_is_noticed_after_as_many_samples_as_are_said() {
        for (factor, samples) in
            [(2.0, Some(1)), (0.5, Some(3)), (1.5, Some(4)), (0.6, None), (1.4, None)]
        {
            let mut detector = ShiftDetector::new(1.0);
            assert!(!detector.observe(1000.0));
            let found = (1..=1000).find(|_| detector.observe(1000.0 * factor));
            assert_eq!(found, samples, "{factor}");
        }
    }

    /// What a rate of `before` that becomes `after` after so many seconds comes to, watched at 5 Hz.
    fn changing(before: u64, seconds: u32, after: u64, held: u32) -> RateSummary {
        let mut rate = RateEstimator::new();
        let mut total = 0;
        rate.observe(100.0, 0);
        for sample in 1..=5 * (seconds + held) {
            total += if sample <= 5 * seconds { before / 5 } else { after / 5 };
            rate.observe(100.0 + 0.2 * f64::from(sample), total);
        }
        rate.summary()
    }

    #[test]
    fn after_a_change_what_was_seen_since_is_expected() {
        let doubled = changing(1_000_000, 8, 4_000_000, 2);
        assert_eq!(doubled.shifts, 1);
        assert!((doubled.changed_at_seconds.unwrap() - 8.0).abs() < 0.01, "{doubled:?}");
        assert!((doubled.mean_bytes_per_second - 1.6e6).abs() < 10.0);
        assert!((doubled.expected_bytes_per_second() - 4e6).abs() < 10.0, "{doubled:?}");
        // A fall is noticed after some samples; what went before them does not count.
        let ceased = changing(4_000_000, 8, 0, 2);
        assert!((8.0..9.0).contains(&ceased.changed_at_seconds.unwrap()), "{ceased:?}");
        assert!(ceased.expected_bytes_per_second() < 1e3, "{ceased:?}");
    }

    #[test]
    fn a_level_that_has_just_begun_is_not_taken_for_certain() {
        let mut rate = RateEstimator::new();
        rate.observe(0.0, 0);
        for sample in 1..=20_u64 {
            rate.observe(0.2 * sample as f64, 200_000 * sample);
        }
        rate.observe(4.2, 4_000_000 + 2_000_000);
        let found = rate.summary();
        assert_eq!(found.shifts, 1);
        let expected = found.expected_bytes_per_second();
        assert!((expected - found.ewma_bytes_per_second).abs() < 1.0);
        assert!((1.2e6..2e6).contains(&expected), "{expected}: between 1 and 10 MB/s");
    }

    #[test]
    fn steady_traffic_and_bursts_are_expected_to_be_their_mean() {
        let steady = changing(1_000_000, 5, 1_000_000, 5);
        assert_eq!((steady.shifts, steady.changed_at_seconds), (0, None));
        assert!((steady.expected_bytes_per_second() - 1e6).abs() < 10.0);
        let mut rate = RateEstimator::new();
        let mut total = 0_u64;
        for sample in 0..100_u64 {
            rate.observe(0.2 * sample as f64, total);
            total += if sample / 10 % 2 == 0 { 2_000_000 } else { 0 };
        }
        let bursts = rate.summary();
        assert!(bursts.is_bursty(), "{bursts:?}");
        let (expected, mean) = (bursts.expected_bytes_per_second(), bursts.mean_bytes_per_second);
        assert!((expected - mean).abs() < 1e-9 && (4e6..6e6).contains(&mean), "{bursts:?}");
    }

    #[test]
    fn what_is_not_a_number_leaves_no_trace() {
        let mut rate = RateEstimator::new();
        for (seconds, total) in [(0.0, 0), (1.0, 100), (2.0, 200)] {
            rate.observe(seconds, total);
        }
        let before = rate.clone();
        for seconds in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(rate.observe(seconds, 300), None);
        }
        assert_eq!(rate, before);
        let (mut mean, mut window, mut detector) =
            (Ewma::new(1.0), Window::new(3), ShiftDetector::new(1.0));
        for value in [5.0, f64::NAN, f64::INFINITY] {
            mean.observe(1.0, value);
            window.observe(value);
            assert!(!detector.observe(value));
        }
        assert_eq!((mean.value(), window.quantile(1.0)), (Some(5.0), Some(5.0)));
        // The level is still known.
        assert!(detector.observe(50.0));
    }

    #[test]
    fn a_window_keeps_the_last() {
        let mut window = Window::new(5);
        assert_eq!(window.quantile(0.5), None);
        for value in 0..10 {
            window.observe(f64::from(value));
        }
        assert_eq!(window.quantile(0.0), Some(5.0));
        assert_eq!(window.quantile(0.5), Some(7.0));
        assert_eq!(window.quantile(0.9), Some(8.6));
    }

    proptest! {
        #[test]
        fn a_mean_of_rates_is_what_was_counted_over_the_time(
            steps in prop::collection::vec((0.001..2.0_f64, 0..1_000_000_u64), 1..50),
        ) {
            let mut rate = RateEstimator::new();
            let (mut now, mut total) = (0.0, 0);
            rate.observe(now, total);
            for (dt, more) in steps {
                now += dt;
                total += more;
                rate.observe(now, total);
            }
            let expected = total as f64 / now;
            let summary = rate.summary();
            prop_assert!((summary.mean_bytes_per_second - expected).abs() <= 1e-6 * expected.max(1.0));
            prop_assert!(summary.p10_bytes_per_second <= summary.p90_bytes_per_second);
        }
    }

    #[test]
    fn a_series_has_the_rates_of_its_steps_and_ends_now() {
        // 10 bytes a second sent, in ten seconds' turns of none received and 100 a second.
        let received = |at: u64| (at / 20) * 1_000 + (at % 20).saturating_sub(10) * 100;
        let points: Vec<(f64, u64, u64)> =
            (0..=205_u64).map(|n| (n as f64 / 5.0 + 100.0, n * 2, received(n / 5))).collect();
        let made = series(&points).unwrap();
        assert_eq!((made.step_seconds, made.tx.len()), (1.0, 41));
        assert!(made.tx.iter().all(|rate| (rate - 10.0).abs() < 1e-6), "{:?}", made.tx);
        assert_eq!((made.rx[5], made.rx[15], made.rx[25]), (0.0, 100.0, 0.0));
        let long: Vec<_> = (0..=4_000_u64).map(|n| (n as f64, n, n)).collect();
        let long = series(&long).unwrap();
        assert!(long.tx.len() <= 600 && long.step_seconds > 6.0);
        assert_eq!(series(&points[..20]), None);
        assert_eq!(series(&[]), None);
    }
}
