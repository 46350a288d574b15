//! When a VM dirties more and when less: its windows in the order of time, each against what the curve of all of them says of
//! a window so long.

use super::dirty::Reading;
use droveway_fleet::{DirtyCurve, Timestamp};

/// A window, and when it began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Timed {
    pub(super) began: Timestamp,
    pub(super) reading: Reading,
}

/// Unique bytes dirtied per second in each of `steps` steps of `step_seconds`, the last of which ends at `end`. A step that
/// several windows saw is told by the short ones first of all; one that none saw is as the one before. Empty for a guest
/// that dirties nothing, which has no phases.
pub(super) fn series(
    windows: &[Timed],
    curve: &DirtyCurve,
    step_seconds: f64,
    steps: usize,
    end: Timestamp,
) -> Vec<f64> {
    let usual = curve.unique_bytes(step_seconds) / step_seconds;
    if windows.is_empty() || usual.is_nan() || usual <= 0.0 {
        return Vec::new();
    }
    let mut before = 1.0;
    let intensity = |step: usize| {
        #[expect(clippy::cast_precision_loss, reason = "some hundred steps")]
        let until = -((steps - 1 - step) as f64) * step_seconds;
        let (mut sum, mut weights) = (0.0, 0.0);
        for Timed { began, reading } in windows {
            let from = -end.seconds_from(*began);
            let overlap = until.min(from + reading.seconds) - (until - step_seconds).max(from);
            let expected = curve.unique_bytes(reading.seconds);
            if overlap > 0.0 && expected > 0.0 {
                let weight = overlap / reading.seconds;
                sum += weight * reading.middle_bytes() / expected;
                weights += weight;
            }
        }
        if weights > 0.0 {
            before = sum / weights;
        }
        before * usual
    };
    (0..steps).map(intensity).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use droveway_fleet::curve::PageClass;

    const MIB: f64 = 1_048_576.0;

    fn at(seconds: f64) -> Timestamp {
        Timestamp::ZERO + std::time::Duration::from_secs_f64(seconds)
    }

    fn window(began: f64, seconds: f64, bytes: f64) -> Timed {
        let reading =
            Reading { seconds, lower_bytes: bytes, upper_bytes: bytes, sample_bytes: MIB };
        Timed { began: at(began), reading }
    }

    /// So large a working set that its unique bytes are all that is written.
    fn curve(rate: f64) -> DirtyCurve {
        let bytes = 1e15;
        DirtyCurve::Classes { classes: vec![PageClass { bytes, writes_per_second: rate / bytes }] }
    }

    #[test]
    fn a_guest_that_rests_every_other_five_seconds_shows_it() {
        // 10 MiB/s, then nothing; windows of one second that follow each other.
        let busy = |second: u32| second % 10 < 5;
        let windows: Vec<Timed> = (0..60)
            .map(|second| {
                window(f64::from(second), 1.0, if busy(second) { 10.0 * MIB } else { 0.0 })
            })
            .collect();
        let series = series(&windows, &curve(5.0 * MIB), 1.0, 60, at(60.0));
        for (second, rate) in (0..).zip(&series) {
            let expected = if busy(second) { 10.0 * MIB } else { 0.0 };
            assert!((rate - expected).abs() < 1e-3 * MIB, "{second}: {rate}");
        }
    }

    #[test]
    fn what_no_window_saw_is_as_before_and_long_windows_say_less() {
        let windows = [
            window(0.0, 1.0, 2.0 * MIB),
            window(3.0, 1.0, 8.0 * MIB),
            window(0.0, 8.0, 32.0 * MIB),
        ];
        let near =
            |got: f64, expected: f64| assert!((got - expected * MIB).abs() < 0.01 * MIB, "{got}");
        let told = series(&windows[..2], &curve(4.0 * MIB), 1.0, 5, at(5.0));
        for (got, expected) in told.iter().zip([2.0, 2.0, 2.0, 8.0, 8.0]) {
            near(*got, expected);
        }
        let told = series(&windows, &curve(4.0 * MIB), 1.0, 4, at(4.0));
        // One ninth of the first second's word is the long window's.
        near(told[0], (2.0 * 8.0 + 4.0) / 9.0);
        near(told[1], 4.0);
        near(told[3], (8.0 * 8.0 + 4.0) / 9.0);
        assert!(series(&windows, &DirtyCurve::idle(), 1.0, 4, at(4.0)).is_empty());
        assert!(series(&[], &curve(1.0), 1.0, 4, at(4.0)).is_empty());
    }
}
