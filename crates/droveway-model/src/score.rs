//! How good forecasts were: errors, and how often the outcome lay within the interval.

use crate::calibration::Quantity;
use droveway_fleet::report::Quantiles;
use serde::Serialize;

/// A forecast and its outcome, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// What was said.
    pub said: Quantiles,
    /// What came.
    pub outcome: f64,
}

/// How good the forecasts of one quantity were.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Score {
    /// Of what.
    pub quantity: Quantity,
    /// How many.
    pub count: usize,
    /// Median of |forecast - outcome| / outcome.
    pub median_error: f64,
    /// 90th percentile of the same.
    pub p90_error: f64,
    /// Share within a factor of 1.5 of the outcome.
    pub within_1_5: f64,
    /// Share within a factor of 2.
    pub within_2: f64,
    /// Share of outcomes between p10 and p90; 0.8 is right.
    pub covered: f64,
}

/// Scores forecasts; nothing of none.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a number of forecasts")]
pub fn score(quantity: Quantity, pairs: &[Pair]) -> Option<Score> {
    if pairs.is_empty() {
        return None;
    }
    let mut errors: Vec<f64> = pairs
        .iter()
        .map(|pair| (pair.said.p50 - pair.outcome).abs() / pair.outcome.max(1e-9))
        .collect();
    errors.sort_by(f64::total_cmp);
    let share = |holds: &dyn Fn(&Pair) -> bool| {
        pairs.iter().filter(|pair| holds(pair)).count() as f64 / pairs.len() as f64
    };
    let within = |factor: f64| {
        share(&|pair: &Pair| {
            let ratio = pair.said.p50 / pair.outcome.max(1e-9);
            ratio <= factor && ratio >= 1.0 / factor
        })
    };
    Some(Score {
        quantity,
        count: pairs.len(),
        median_error: quantile(&errors, 0.5),
        p90_error: quantile(&errors, 0.9),
        within_1_5: within(1.5),
        within_2: within(2.0),
        covered: share(&|pair: &Pair| {
            pair.said.p10 <= pair.outcome && pair.outcome <= pair.said.p90
        }),
    })
}

/// A quantile of sorted values, between the two nearest.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index of a short list"
)]
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = share * last as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    sorted[below] + (sorted[above.min(last)] - sorted[below]) * (at - at.floor())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_coverage_are_counted() {
        let pair = |p50: f64, outcome| Pair {
            said: Quantiles { p10: p50 / 1.2, p50, p90: p50 * 1.2 },
            outcome,
        };
        let pairs =
            [pair(1.0, 1.0), pair(1.1, 1.0), pair(1.6, 1.0), pair(0.4, 1.0), pair(1.0, 1.1)];
        let got = score(Quantity::Total, &pairs).unwrap();
        assert_eq!(got.count, 5);
        assert!((got.median_error - 0.1).abs() < 1e-9);
        assert!((got.p90_error - 0.6).abs() < 1e-9);
        assert!((got.within_1_5 - 0.6).abs() < 1e-9);
        assert!((got.within_2 - 0.8).abs() < 1e-9);
        assert!((got.covered - 0.6).abs() < 1e-9);
        assert_eq!(score(Quantity::Total, &[]), None);
    }
}
