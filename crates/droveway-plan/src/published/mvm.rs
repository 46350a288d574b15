//! `mvm` (Kherbache, `BtrPlace`): each migration at its path's full rate, one at a time where paths share a direction. Its
//! formula of durations is for this policy only; the model's own is [`droveway_model::technique`].

use super::{Subject, ascending};
use droveway_fleet::DirtyCurve;

/// What the formula knows of a VM's dirtying.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dirtying {
    /// Pages that are all dirtied again and again (`hds`), bytes.
    pub hot_bytes: f64,
    /// How long that takes (`hdd`), seconds.
    pub hot_seconds: f64,
    /// Beside them (`cdr`), bytes per second.
    pub cold_rate: f64,
}

impl Default for Dirtying {
    /// The published code's, for a VM of which nothing is known.
    fn default() -> Self {
        Dirtying { hot_bytes: 5e6, hot_seconds: 2.0, cold_rate: 0.0 }
    }
}

impl Dirtying {
    /// What was measured, in the formula's terms: a curve of its own form as it is; of any other what is dirtied within the
    /// published window of two seconds, and what is added to that per second until a first pass of `first` seconds ends.
    #[must_use]
    pub fn of(curve: &DirtyCurve, first: f64) -> Self {
        if let DirtyCurve::HotCold { hot_bytes, hot_seconds, cold_bytes_per_second, .. } = *curve {
            return Dirtying { hot_bytes, hot_seconds, cold_rate: cold_bytes_per_second };
        }
        let hot_seconds = Dirtying::default().hot_seconds;
        let hot_bytes = curve.unique_bytes(hot_seconds);
        let later = first - hot_seconds;
        let cold = curve.unique_bytes(first) - hot_bytes;
        let cold_rate = if later > 0.0 { cold.max(0.0) / later } else { 0.0 };
        Dirtying { hot_bytes, hot_seconds, cold_rate }
    }
}

/// The part of a link that the formula takes for its payload: a ninth of the bits, as bytes.
const PAYLOAD: f64 = 8.0 / 9.0;

/// How long a pre-copy takes on a link of `capacity` bytes per second, seconds; infinite if it dirties faster. The published
/// code rounds it: [`rounded`].
#[must_use]
pub fn duration(send_bytes: f64, dirtying: Dirtying, capacity: f64) -> f64 {
    let Dirtying { hot_bytes, hot_seconds, cold_rate } = dirtying;
    let rate = capacity * PAYLOAD;
    let hot_rate = if hot_bytes > 0.0 { hot_bytes / hot_seconds } else { 0.0 };
    if rate <= cold_rate || rate <= hot_rate {
        return f64::INFINITY;
    }
    let first = send_bytes / rate;
    // The hot pages alone, again and again, take `sent` seconds' dirtying over what the link leaves.
    let hot_again = |sent: f64| sent * hot_rate / (rate - hot_rate);
    if first > hot_seconds {
        let again = (hot_bytes + (first - hot_seconds) * cold_rate) / (rate - cold_rate);
        first + again + hot_again(hot_bytes / rate)
    } else {
        first + hot_again(first)
    }
}

/// A duration in whole seconds, at least one: what the published code plans with.
#[must_use]
pub fn rounded(duration: f64) -> f64 {
    duration.round().max(1.0)
}

/// The serial order on one link: ascending duration, which ends the sum of all soonest.
#[must_use]
pub fn order(subjects: &[Subject], capacity: f64) -> Vec<usize> {
    ascending(subjects, |vm| {
        let subject = &subjects[vm];
        let first = subject.send_bytes / (capacity * PAYLOAD).max(f64::MIN_POSITIVE);
        rounded(duration(subject.send_bytes, Dirtying::of(&subject.curve, first), capacity))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, goldens, subject};
    use super::*;

    fn hot(hot_bytes: f64, cold_rate: f64) -> Dirtying {
        Dirtying { hot_bytes, hot_seconds: 2.0, cold_rate }
    }

    #[test]
    fn durations_are_those_of_the_published_code() {
        for (memory, dirtying, megabits, seconds) in [
            (2000.0, hot(96.0, 2.0), 1000.0, 19.830),
            (3000.0, hot(96.0, 2.0), 1000.0, 28.995),
            (2000.0, hot(96.0, 2.0), 500.0, 50.040),
            (3000.0, hot(96.0, 2.0), 500.0, 68.712),
            (1000.0, hot(5.0, 0.0), 1000.0, 9.046),
            (100.0, hot(5.0, 0.0), 1000.0, 0.921),
        ] {
            golden(duration(memory, dirtying, megabits / 8.0), seconds, 0.001);
        }
        assert_eq!(Dirtying::default(), hot(5e6, 0.0));
        goldens(&[0.0, 0.921, 19.83].map(rounded), &[1.0, 1.0, 20.0], 0.1);
    }

    #[test]
    fn faster_dirtying_never_ends() {
        assert!(duration(2000.0, hot(96.0, 0.0), 50.0).is_infinite());
        assert!(duration(2000.0, hot(0.0, 50.0), 50.0).is_infinite());
        assert!(duration(2000.0, hot(0.0, 0.0), 0.0).is_infinite());
        let at_once = Dirtying { hot_seconds: 0.0, ..hot(96.0, 0.0) };
        assert!(duration(2000.0, at_once, 1000.0).is_infinite());
        golden(duration(2000.0, hot(0.0, 0.0), 112.5), 20.0, 0.1);
    }

    #[test]
    fn what_was_measured_is_put_into_the_formula_s_terms() {
        let own = DirtyCurve::HotCold {
            hot_bytes: 96.0,
            hot_seconds: 3.0,
            cold_bytes_per_second: 2.0,
            memory_bytes: 2048.0,
        };
        assert_eq!(Dirtying::of(&own, 20.0), Dirtying { hot_seconds: 3.0, ..hot(96.0, 2.0) });
        // 10 a second within two seconds, and as much later.
        let steady = DirtyCurve::Uniform { dirty_bytes_per_second: 10.0, memory_bytes: 2048.0 };
        assert_eq!(Dirtying::of(&steady, 20.0), hot(20.0, 10.0));
        assert_eq!(Dirtying::of(&steady, 1.0), hot(20.0, 0.0), "it ends within the window");
        let set = DirtyCurve::Bounded { dirty_bytes_per_second: 100.0, working_set_bytes: 60.0 };
        assert_eq!(Dirtying::of(&set, 20.0), hot(60.0, 0.0));
        assert_eq!(Dirtying::of(&DirtyCurve::idle(), 20.0), hot(0.0, 0.0));
        // So a VM that writes much comes after one of the same size that does not.
        let writer = Subject { curve: steady, ..subject(2048.0, 0.0, 0.0, 0.0) };
        let idle = Subject { curve: DirtyCurve::idle(), ..writer.clone() };
        assert_eq!(order(&[writer, idle], 50.0), [1, 0]);
    }

    #[test]
    fn shortest_first() {
        let hot_cold = |hot_bytes| DirtyCurve::HotCold {
            hot_bytes,
            hot_seconds: 2.0,
            cold_bytes_per_second: 0.0,
            memory_bytes: 1e9,
        };
        let vm = |send_bytes, hot_bytes| Subject {
            curve: hot_cold(hot_bytes),
            ..subject(send_bytes, 0.0, 0.0, 0.0)
        };
        let gang = [vm(1e9, 5e6), vm(9e8, 2e8), vm(5e8, 5e6)];
        assert_eq!(order(&gang, 125e6), [2, 0, 1]);
        // Under a second all are equal: the smaller first.
        assert_eq!(order(&[vm(2e6, 0.0), vm(1e6, 0.0)], 125e6), [1, 0]);
        assert!(order(&[], 125e6).is_empty());
    }
}
