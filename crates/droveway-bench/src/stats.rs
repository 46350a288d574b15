//! Statistics of a few runs: medians, intervals by bootstrap, paired differences, effect sizes, and when one arm may be
//! called better.
//!
//! Runs are few and their spread has no known shape, so nothing here assumes one. The bootstrap is the percentile kind, its
//! chance a seed: the same data and seed give the same interval.

use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// Draws of a bootstrap: the ends of a 95 % interval then stand on 50 draws each.
pub const RESAMPLES: usize = 2_000;
/// The share that an interval covers.
pub const LEVEL: f64 = 0.95;
/// With fewer pairs no interval is worth a verdict: six that all point one way are chance one time in thirty-two.
pub const PAIRS_LEAST: usize = 6;

/// From one value to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The quantile of values in any order, between two neighbours in proportion; `None` without values.
#[must_use]
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    of_sorted(&sorted, share)
}

fn of_sorted(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand values")]
    let place = share.clamp(0.0, 1.0) * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from zero to the last place"
    )]
    let below = place.floor() as usize;
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    Some(low + (high - low) * (place - place.floor()))
}

/// The middle; `None` without values.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The interval of a statistic of `values` by bootstrap: values are drawn with repetition, the statistic taken, the middle
/// [`LEVEL`] of the results kept. `None` for fewer than two values.
#[must_use]
pub fn bootstrap(
    values: &[f64],
    statistic: impl Fn(&[f64]) -> Option<f64>,
    seed: u64,
) -> Option<Interval> {
    bootstrap_of(values, statistic, seed)
}

/// The same of values of any kind, pairs for example.
#[must_use]
pub fn bootstrap_of<T: Copy>(
    values: &[T],
    statistic: impl Fn(&[T]) -> Option<f64>,
    seed: u64,
) -> Option<Interval> {
    if values.len() < 2 {
        return None;
    }
    let mut random = StdRng::seed_from_u64(seed);
    let mut drawn = values.to_vec();
    let mut results = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        for value in &mut drawn {
            *value = values[random.random_range(0..values.len())];
        }
        results.extend(statistic(&drawn));
    }
    results.sort_by(f64::total_cmp);
    let outside = (1.0 - LEVEL) / 2.0;
    let low = of_sorted(&results, outside)?;
    Some(Interval { low, high: of_sorted(&results, 1.0 - outside)? })
}

/// The Hodges-Lehmann estimate of where values lie: the middle of the means of all pairs, each value with itself included.
/// As sure as a mean, as robust as a median nearly.
#[must_use]
pub fn hodges_lehmann(values: &[f64]) -> Option<f64> {
    let mut means = Vec::with_capacity(values.len() * (values.len() + 1) / 2);
    for (index, one) in values.iter().enumerate() {
        means.extend(values[index..].iter().map(|other| f64::midpoint(*one, *other)));
    }
    median(&means)
}

/// Cliff's delta: how much more often a value of `one` is above one of `other` than below, from -1 to 1; `None` without
/// values.
#[must_use]
pub fn cliffs_delta(one: &[f64], other: &[f64]) -> Option<f64> {
    if one.is_empty() || other.is_empty() {
        return None;
    }
    let mut above = 0.0;
    for a in one {
        for b in other {
            above += match a.total_cmp(b) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Less => -1.0,
                std::cmp::Ordering::Equal => 0.0,
            };
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a few thousand values")]
    let pairs = (one.len() * other.len()) as f64;
    Some(above / pairs)
}

/// What may be said of two arms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Less than the other, and the interval excludes no difference.
    Less,
    /// More than the other, and the interval excludes no difference.
    More,
    /// The interval includes no difference.
    Same,
    /// Too few pairs to say.
    TooFew,
}

/// Two arms compared run by run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Paired {
    /// Runs of the same scenario and repeat, both valid.
    pub pairs: usize,
    /// The first less the second, or over it: the Hodges-Lehmann estimate over pairs.
    pub estimate: f64,
    /// Its interval by bootstrap over pairs.
    pub interval: Option<Interval>,
    /// Cliff's delta of the first against the second.
    pub delta: f64,
    /// What may be said.
    pub verdict: Verdict,
}

/// Compares by differences: for what can be zero. `None` without pairs.
#[must_use]
pub fn differences(pairs: &[(f64, f64)], seed: u64) -> Option<Paired> {
    let values: Vec<f64> = pairs.iter().map(|(one, other)| one - other).collect();
    paired(pairs, &values, |value| value, seed)
}

/// Compares by ratios: for times of scenarios of different size. Pairs in which either is not above zero are left out;
/// `None` if none is left.
#[must_use]
pub fn ratios(pairs: &[(f64, f64)], seed: u64) -> Option<Paired> {
    let pairs: Vec<(f64, f64)> =
        pairs.iter().copied().filter(|(one, other)| *one > 0.0 && *other > 0.0).collect();
    let values: Vec<f64> = pairs.iter().map(|(one, other)| (one / other).ln()).collect();
    paired(&pairs, &values, f64::exp, seed)
}

/// `values`: zero where both are the same; `told` makes of them what is told.
fn paired(
    pairs: &[(f64, f64)],
    values: &[f64],
    told: impl Fn(f64) -> f64,
    seed: u64,
) -> Option<Paired> {
    let estimate = hodges_lehmann(values)?;
    let interval = bootstrap(values, hodges_lehmann, seed);
    let (first, second): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let verdict = match interval {
        Some(interval) if pairs.len() >= PAIRS_LEAST => {
            if interval.high < 0.0 {
                Verdict::Less
            } else if interval.low > 0.0 {
                Verdict::More
            } else {
                Verdict::Same
            }
        }
        _ => Verdict::TooFew,
    };
    Some(Paired {
        pairs: pairs.len(),
        estimate: told(estimate),
        interval: interval.map(|of| Interval { low: told(of.low), high: told(of.high) }),
        delta: cliffs_delta(&first, &second)?,
        verdict,
    })
}

/// Values in one line: how many, the middle, its interval, the far end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// The middle.
    pub median: f64,
    /// Its interval by bootstrap; `None` for a single value.
    pub interval: Option<Interval>,
    /// The 99th percentile.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

/// Sums values up; `None` without values.
#[must_use]
pub fn summary(values: &[f64], seed: u64) -> Option<Summary> {
    Some(Summary {
        count: values.len(),
        median: median(values)?,
        interval: bootstrap(values, median, seed),
        p99: quantile(values, 0.99)?,
        max: quantile(values, 1.0)?,
    })
}

#[cfg(test)]
mod tests;
