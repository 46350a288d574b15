//! From what QEMU's windows said to a dirty curve.
//!
//! Each reading is a range ([`Reading`]). The middle of every range starts the fit; then each reading becomes the mean of a
//! normal distribution around the fitted curve, cut to its range, and the fit is repeated (expectation maximisation for
//! interval-censored data). Against simulated readings this halves the error at 10 s of a guest that dirties 2 MiB/s.
//!
//! Where the ranges do not pin one curve down, all that could be are averaged, each by the probability of the ranges
//! ([`fit::averaged`]). Against simulated readings of twelve loads this takes the error (root mean square of the logarithm) of a
//! measurement of 3 s from 0.27 to 0.21 at 5 s, from 0.48 to 0.33 at 10 s and from 0.72 to 0.49 at 20 s.

use super::dirty::Reading;
use droveway_fleet::DirtyCurve;
use droveway_model::fit::{self, Fit, Measured};

/// Repetitions of the fit; the third changes nothing that can be seen any more (simulated).
const ROUNDS: u32 = 3;
/// Points of the integral over a range.
const STEPS: u32 = 64;
/// No load is as even as a curve: one is never off by less than this.
const CURVE_ERROR_RATIO: f64 = 0.01;
/// A normal distribution beyond so many standard deviations has no weight that counts.
const REACH: f64 = 6.0;

/// The readings as points, as the curve saw them last, and the curve.
#[derive(Debug)]
pub(super) struct Fitted {
    pub(super) points: Vec<Measured>,
    pub(super) fit: Fit,
}

/// Fits a curve; without readings there is none.
pub(super) fn fitted(readings: &[Reading], memory_bytes: f64) -> Option<Fitted> {
    if readings.is_empty() {
        return None;
    }
    let mut points: Vec<_> = readings.iter().map(|reading| start(reading, memory_bytes)).collect();
    points.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let mut ordered = readings.to_vec();
    ordered.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let likelihood = |curve: &DirtyCurve| log_likelihood(&ordered, curve, memory_bytes);
    let averaged = fit::averaged(&points, memory_bytes, likelihood);
    let mut fit = fit::fit(&points, memory_bytes);
    for _ in 0..ROUNDS {
        points =
            ordered.iter().map(|reading| expected(reading, &fit.curve, memory_bytes)).collect();
        fit = fit::fit(&points, memory_bytes);
    }
    Some(Fitted { points, fit: averaged.unwrap_or(fit) })
}

/// The middle of the range, with the error of sampling and of the range.
fn start(reading: &Reading, memory_bytes: f64) -> Measured {
    let bytes = reading.middle_bytes();
    let width = reading.upper_bytes - reading.lower_bytes;
    let sampling = sampling_error(bytes, reading.sample_bytes, memory_bytes);
    // Anywhere in the range is as likely: a twelfth of the width squared.
    let error = (sampling * sampling + width * width / 12.0).sqrt();
    Measured { seconds: reading.seconds, bytes, standard_error_bytes: error }
}

/// What the range says, given the curve so far.
fn expected(reading: &Reading, curve: &DirtyCurve, memory_bytes: f64) -> Measured {
    let mean = curve.unique_bytes(reading.seconds);
    let error = sampling_error(mean, reading.sample_bytes, memory_bytes);
    // A range of whole samples reaches half a sample further on both sides.
    let half = reading.sample_bytes / 2.0;
    let (lower, upper) = ((reading.lower_bytes - half).max(0.0), reading.upper_bytes + half);
    let bytes = mean_within(mean, error, lower, upper);
    Measured { seconds: reading.seconds, bytes, standard_error_bytes: error }
}

/// The logarithm of the probability that the readings are what they are, given the curve.
fn log_likelihood(readings: &[Reading], curve: &DirtyCurve, memory_bytes: f64) -> f64 {
    let one = |reading: &Reading| {
        let mean = curve.unique_bytes(reading.seconds);
        let error = sampling_error(mean, reading.sample_bytes, memory_bytes);
        let error = error.max(CURVE_ERROR_RATIO * mean);
        let half = reading.sample_bytes / 2.0;
        let below = |bytes: f64| {
            0.5 * (1.0 + libm::erf((bytes - mean) / (error * std::f64::consts::SQRT_2)))
        };
        let lower =
            if reading.lower_bytes > half { below(reading.lower_bytes - half) } else { 0.0 };
        (below(reading.upper_bytes + half) - lower).max(f64::MIN_POSITIVE).ln()
    };
    readings.iter().map(one).sum()
}

/// The standard error of an amount that was estimated from a sample of the memory's pages: binomial. At least that of one
/// page, because none seen does not mean none.
fn sampling_error(bytes: f64, sample_bytes: f64, memory_bytes: f64) -> f64 {
    let clean = (1.0 - bytes / memory_bytes.max(1.0)).max(0.0);
    (bytes.max(sample_bytes) * sample_bytes * clean).sqrt().max(sample_bytes / 2.0)
}

/// The mean of the normal distribution's part between `lower` and `upper`.
fn mean_within(mean: f64, error: f64, lower: f64, upper: f64) -> f64 {
    if mean + REACH * error <= lower {
        return lower;
    }
    if mean - REACH * error >= upper {
        return upper;
    }
    // Only where there is weight: a narrow peak in a wide range would fall between the points.
    let (from, to) = (lower.max(mean - REACH * error), upper.min(mean + REACH * error));
    let step = (to - from) / f64::from(STEPS);
    let (mut weights, mut sum) = (0.0, 0.0);
    for index in 0..STEPS {
        let x = from + (f64::from(index) + 0.5) * step;
        let weight = (-0.5 * ((x - mean) / error).powi(2)).exp();
        weights += weight;
        sum += weight * x;
    }
    if weights > 0.0 { sum / weights } else { mean.clamp(lower, upper) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1_048_576.0;

    #[track_caller]
    fn check(mean: f64, error: f64, range: (f64, f64), expected: f64) {
        let got = mean_within(mean, error, range.0, range.1);
        assert!((got - expected).abs() < 0.01, "{mean} +- {error} in {range:?}: {got}");
    }

    #[test]
    fn a_range_pulls_the_mean_inside() {
        check(5.0, 1.0, (0.0, 10.0), 5.0);
        check(5.0, 1.0, (0.0, 1e9), 5.0);
        // The mean of a half normal distribution: sqrt(2 / pi).
        check(0.0, 1.0, (0.0, 100.0), 0.7979);
        check(50.0, 1.0, (0.0, 10.0), 10.0);
        check(-50.0, 1.0, (0.0, 10.0), 0.0);
    }

    /// Readings as QEMU would give them of a curve, without sampling noise.
    fn readings(curve: &DirtyCurve, windows: &[f64]) -> Vec<Reading> {
        let of = |seconds: &f64| {
            let rate = (curve.unique_bytes(*seconds) / seconds / MIB).floor();
            Reading {
                seconds: *seconds,
                lower_bytes: rate * seconds * MIB,
                upper_bytes: (rate + 1.0) * seconds * MIB,
                sample_bytes: MIB / 16.0,
            }
        };
        windows.iter().map(of).collect()
    }

    #[track_caller]
    fn check_curve(working_set_mib: f64, rate_mib: f64, tolerance: f64) {
        let truth = DirtyCurve::Saturating {
            dirty_bytes_per_second: rate_mib * MIB,
            working_set_bytes: working_set_mib * MIB,
        };
        let windows = [0.09, 0.1, 0.11, 0.28, 0.32, 0.9, 1.1, 2.6, 3.4, 6.0, 9.0];
        let fitted = fitted(&readings(&truth, &windows), 256.0 * MIB).expect("readings");
        for t in [0.5, 1.0, 3.0, 10.0] {
            let ratio = fitted.fit.curve.unique_bytes(t) / truth.unique_bytes(t);
            assert!((ratio - 1.0).abs() < tolerance, "{t} s: {ratio}: {:?}", fitted.fit.curve);
        }
    }

    #[test]
    fn rounding_down_does_not_bias_the_curve() {
        // At 2 MiB/s rounding hides half of it: no closer than the goal for what is measured.
        check_curve(20.0, 5.0, 0.15);
        check_curve(60.0, 30.0, 0.06);
        check_curve(100.0, 30.0, 0.06);
    }

    /// The windows of a measurement of 3 s: none is nearly as long as a move.
    #[test]
    fn a_short_measurement_does_not_end_a_curve_too_early() {
        let windows = [0.09, 0.11, 0.3, 2.2];
        let loads = [
            (64.0, 5.0, None),
            (48.0, 8.0, None),
            (128.0, 2.0, None),
            (20.0, 5.0, None),
            (60.0, 20.0, None),
            (48.0, 7.0, Some((0.1, 0.9))),
            (100.0, 30.0, Some((0.1, 0.9))),
        ];
        let mut worst = 0.0_f64;
        for (working_set, rate, hot) in loads {
            let truth = fit::truth(working_set * MIB, rate * MIB, hot);
            let fitted = fitted(&readings(&truth, &windows), 192.0 * MIB).expect("readings");
            let off = |t: f64| (fitted.fit.curve.unique_bytes(t) / truth.unique_bytes(t)).ln();
            // Where a window is less than QEMU's MiB/s, that is what is known.
            assert!(off(2.0).abs() < 0.35, "{working_set} MiB, {rate} MiB/s: {:?}", fitted.fit);
            worst = worst.max(off(10.0).abs());
        }
        // Of the best single curves the last ends at half of what is dirtied in 10 s (0.73).
        assert!(worst < 0.6, "{worst}");
    }

    #[test]
    fn without_readings_there_is_no_curve() {
        assert!(fitted(&[], MIB).is_none());
    }
}
