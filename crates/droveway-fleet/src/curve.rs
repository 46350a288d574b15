//! Dirty curves: how many *unique* bytes of memory a VM dirties within a window.
//!
//! A dirty "rate" depends on the window it was measured over, because a page counts once however often it is written. The
//! curve says it for every window, so that a pass of any length can be predicted (`u(t)` in the literature).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Unique bytes dirtied as a function of the window: concave, not decreasing, zero at zero. Bytes, seconds, bytes per
/// second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "form", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum DirtyCurve {
    /// `min(D t, V)`: what one sample allows; pessimistic for long windows.
    Uniform {
        /// D, the dirty rate.
        dirty_bytes_per_second: f64,
        /// V, the memory.
        memory_bytes: f64,
    },
    /// `min(D t, W)`: sweeps over a working set.
    Bounded {
        /// D, the dirty rate.
        dirty_bytes_per_second: f64,
        /// W, the working set.
        working_set_bytes: f64,
    },
    /// `W (1 - exp(-D t / W))`: random writes into a working set.
    Saturating {
        /// D, the dirty rate of a short window.
        dirty_bytes_per_second: f64,
        /// W, the working set.
        working_set_bytes: f64,
    },
    /// `min(H, H t / h) + c max(0, t - h)`: hot bytes that are all dirtied every `h` seconds, beside a cold rate (mVM).
    HotCold {
        /// H.
        hot_bytes: f64,
        /// h.
        hot_seconds: f64,
        /// c.
        cold_bytes_per_second: f64,
        /// V, the memory: the limit.
        memory_bytes: f64,
    },
    /// `sum S (1 - exp(-w t))`: classes of pages, each with its write rate. Two classes are the hot/cold mixture.
    Classes {
        /// The classes.
        classes: Vec<PageClass>,
    },
    /// Straight lines between measured windows, from the origin; level after the last.
    Table {
        /// Windows and what was dirtied in them, ascending.
        points: Vec<CurvePoint>,
    },
}

/// Pages that are written equally often.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PageClass {
    /// How much memory they are.
    pub bytes: f64,
    /// How often each is written.
    pub writes_per_second: f64,
}

/// A window and the unique bytes dirtied in it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CurvePoint {
    /// The window.
    pub seconds: f64,
    /// Unique bytes.
    pub bytes: f64,
}

impl DirtyCurve {
    /// A memory that nothing writes.
    #[must_use]
    pub const fn idle() -> Self {
        DirtyCurve::Classes { classes: Vec::new() }
    }

    /// Unique bytes dirtied in a window of `seconds`; zero for a window below zero.
    #[must_use]
    pub fn unique_bytes(&self, seconds: f64) -> f64 {
        let t = seconds.max(0.0);
        match self {
            DirtyCurve::Uniform { dirty_bytes_per_second, memory_bytes } => {
                (dirty_bytes_per_second * t).min(*memory_bytes)
            }
            DirtyCurve::Bounded { dirty_bytes_per_second, working_set_bytes } => {
                (dirty_bytes_per_second * t).min(*working_set_bytes)
            }
            DirtyCurve::Saturating { dirty_bytes_per_second, working_set_bytes } => {
                saturating(*working_set_bytes, *dirty_bytes_per_second, t)
            }
            DirtyCurve::HotCold { hot_bytes, hot_seconds, cold_bytes_per_second, memory_bytes } => {
                let hot = if *hot_seconds > 0.0 {
                    hot_bytes.min(hot_bytes * t / hot_seconds)
                } else {
                    *hot_bytes
                };
                (hot + cold_bytes_per_second * (t - hot_seconds).max(0.0)).min(*memory_bytes)
            }
            DirtyCurve::Classes { classes } => {
                classes.iter().map(|c| -c.bytes * (-c.writes_per_second * t).exp_m1()).sum()
            }
            DirtyCurve::Table { points } => interpolated(points, t),
        }
    }

    /// The dirty rate of a very short window (`D`).
    #[must_use]
    pub fn initial_rate(&self) -> f64 {
        match self {
            DirtyCurve::Uniform { dirty_bytes_per_second, .. }
            | DirtyCurve::Bounded { dirty_bytes_per_second, .. }
            | DirtyCurve::Saturating { dirty_bytes_per_second, .. } => *dirty_bytes_per_second,
            DirtyCurve::HotCold { hot_bytes, hot_seconds, cold_bytes_per_second, .. } => {
                if *hot_seconds > 0.0 {
                    hot_bytes / hot_seconds
                } else {
                    *cold_bytes_per_second
                }
            }
            DirtyCurve::Classes { classes } => {
                classes.iter().map(|c| c.bytes * c.writes_per_second).sum()
            }
            DirtyCurve::Table { points } => points
                .iter()
                .find(|point| point.seconds > 0.0)
                .map_or(0.0, |first| first.bytes / first.seconds),
        }
    }

    /// What an endless window dirties (`W`).
    #[must_use]
    pub fn limit(&self) -> f64 {
        match self {
            DirtyCurve::Uniform { dirty_bytes_per_second: rate, memory_bytes: limit }
            | DirtyCurve::Bounded { dirty_bytes_per_second: rate, working_set_bytes: limit }
            | DirtyCurve::Saturating { dirty_bytes_per_second: rate, working_set_bytes: limit } => {
                if *rate > 0.0 {
                    *limit
                } else {
                    0.0
                }
            }
            DirtyCurve::HotCold { hot_bytes, cold_bytes_per_second, memory_bytes, .. } => {
                if *cold_bytes_per_second > 0.0 {
                    *memory_bytes
                } else {
                    *hot_bytes
                }
            }
            DirtyCurve::Classes { classes } => {
                classes.iter().filter(|c| c.writes_per_second > 0.0).map(|c| c.bytes).sum()
            }
            DirtyCurve::Table { points } => points.last().map_or(0.0, |last| last.bytes),
        }
    }

    /// The curve of a guest that writes `factor` times as fast over the same memory: `u(factor t)`.
    #[must_use]
    pub fn sped_up(&self, factor: f64) -> Self {
        let mut curve = self.clone();
        match &mut curve {
            DirtyCurve::Uniform { dirty_bytes_per_second, .. }
            | DirtyCurve::Bounded { dirty_bytes_per_second, .. }
            | DirtyCurve::Saturating { dirty_bytes_per_second, .. } => {
                *dirty_bytes_per_second *= factor;
            }
            DirtyCurve::HotCold { hot_seconds, cold_bytes_per_second, .. } => {
                *hot_seconds /= factor;
                *cold_bytes_per_second *= factor;
            }
            DirtyCurve::Classes { classes } => {
                for class in classes {
                    class.writes_per_second *= factor;
                }
            }
            DirtyCurve::Table { points } => {
                for point in points {
                    point.seconds /= factor;
                }
            }
        }
        curve
    }
}

/// `W (1 - exp(-D t / W))`, and its limit for an empty working set.
fn saturating(working_set: f64, rate: f64, t: f64) -> f64 {
    if working_set > 0.0 { -working_set * (-rate * t / working_set).exp_m1() } else { 0.0 }
}

fn interpolated(points: &[CurvePoint], t: f64) -> f64 {
    let mut before = CurvePoint { seconds: 0.0, bytes: 0.0 };
    for point in points {
        if t <= point.seconds {
            let width = point.seconds - before.seconds;
            if width <= 0.0 {
                return point.bytes;
            }
            return before.bytes + (point.bytes - before.bytes) * (t - before.seconds) / width;
        }
        before = *point;
    }
    before.bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn curves() -> impl Strategy<Value = DirtyCurve> {
        let rate = 0.0..1e9_f64;
        let size = 1.0..1e10_f64;
        prop_oneof![
            (rate.clone(), size.clone()).prop_map(|(d, v)| DirtyCurve::Uniform {
                dirty_bytes_per_second: d,
                memory_bytes: v
            }),
            (rate.clone(), size.clone()).prop_map(|(d, w)| DirtyCurve::Saturating {
                dirty_bytes_per_second: d,
                working_set_bytes: w
            }),
            prop::collection::vec((size, 0.0..100.0_f64), 0..4).prop_map(|classes| {
                let class = |(bytes, writes_per_second)| PageClass { bytes, writes_per_second };
                DirtyCurve::Classes { classes: classes.into_iter().map(class).collect() }
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_longer_window_never_dirties_less_nor_more_than_in_proportion(
            curve in curves(), t in 0.001..100.0_f64, factor in 1.0..10.0_f64,
        ) {
            let (short, long) = (curve.unique_bytes(t), curve.unique_bytes(t * factor));
            let slack = 1e-9 * long + 1e-6;
            prop_assert!(short <= long + slack);
            prop_assert!(long <= short * factor + slack);
            prop_assert!(long <= curve.limit() + slack);
            prop_assert!((curve.sped_up(factor).unique_bytes(t) - long).abs() <= slack);
        }
    }

    #[test]
    fn a_table_goes_straight_between_its_points_and_stays_level_after_them() {
        let point = |seconds, bytes| CurvePoint { seconds, bytes };
        let table = DirtyCurve::Table { points: vec![point(1.0, 100.0), point(3.0, 200.0)] };
        let got = [0.0, 0.5, 1.0, 2.0, 3.0, 9.0].map(|t| table.unique_bytes(t));
        let expected = [0.0, 50.0, 100.0, 150.0, 200.0, 200.0];
        assert!(got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-9));
    }
}
