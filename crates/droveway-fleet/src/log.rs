//! What applications and probes write while they run, one JSON value a line, and what a run report reads. Times are
//! nanoseconds of the machine's monotonic clock (`CLOCK_MONOTONIC`), which every process of one machine shares and which
//! nobody sets.

use crate::units::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What an application achieved in one interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationSample {
    /// The interval's start.
    pub start: Timestamp,
    /// The interval's end.
    pub end: Timestamp,
    /// Bytes, requests or operations done in it.
    pub amount: u64,
    /// Requests that failed or were never answered.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed: u64,
    /// Latencies, as pairs of microseconds and how many requests took that long (two significant digits).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latencies_us: Vec<(u64, u64)>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// What an outage probe heard in one interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeSample {
    /// The interval's start.
    pub start: Timestamp,
    /// The interval's end.
    pub end: Timestamp,
    /// Questions sent.
    pub sent: u64,
    /// Answers heard.
    pub heard: u64,
    /// Silences that ended in this interval, or still last at its end (then reported again, longer, by the next): from
    /// the answer before to the answer after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silences: Vec<Silence>,
}

/// A time without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Silence {
    /// The last answer before it.
    pub from: Timestamp,
    /// The first answer after it, or the time of writing if there is none yet.
    pub to: Timestamp,
}

impl Silence {
    /// How long it was.
    #[must_use]
    pub const fn length(self) -> Duration {
        self.to.since(self.from)
    }
}

/// The longest silence that touches the time from `start` to `end`; `None` if the probe wrote nothing of that time.
#[must_use]
pub fn longest_silence(
    samples: &[ProbeSample],
    start: Timestamp,
    end: Timestamp,
) -> Option<Duration> {
    let mut touched = samples.iter().filter(|s| s.end > start && s.start < end).peekable();
    touched.peek()?;
    let silences = samples.iter().flat_map(|sample| &sample.silences);
    let longest = silences.filter(|s| s.to > start && s.from < end).map(|s| s.length()).max();
    Some(longest.unwrap_or(Duration::ZERO))
}

/// The amount done between `start` and `end` and the time of it that samples cover; a sample that crosses an end counts in
/// proportion.
#[must_use]
pub fn amount_between(
    samples: &[ApplicationSample],
    start: Timestamp,
    end: Timestamp,
) -> (f64, Duration) {
    let mut amount = 0.0;
    let mut covered = Duration::ZERO;
    for sample in samples {
        let overlap = sample.end.min(end).since(sample.start.max(start));
        let length = sample.end.since(sample.start);
        if overlap.is_zero() || length.is_zero() {
            continue;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "an amount of one interval is far below 2^53"
        )]
        let part = sample.amount as f64 * overlap.as_secs_f64() / length.as_secs_f64();
        amount += part;
        covered += overlap;
    }
    (amount, covered)
}

/// A latency quantile, in milliseconds, over the samples that end between `start` and `end`; `None` without requests.
#[must_use]
pub fn latency_quantile_ms(
    samples: &[ApplicationSample],
    start: Timestamp,
    end: Timestamp,
    quantile: f64,
) -> Option<f64> {
    let mut counted: Vec<(u64, u64)> = samples
        .iter()
        .filter(|s| s.end > start && s.end <= end)
        .flat_map(|s| s.latencies_us.iter().copied())
        .collect();
    counted.sort_unstable();
    let total: u64 = counted.iter().map(|(_, count)| count).sum();
    if total == 0 {
        return None;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among at most some millions of requests"
    )]
    let rank = ((total as f64 * quantile).ceil() as u64).clamp(1, total);
    let mut below = 0;
    for (latency, count) in counted {
        below += count;
        if below >= rank {
            #[expect(clippy::cast_precision_loss, reason = "microseconds below 2^53")]
            return Some(latency as f64 / 1000.0);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn sample(start: u64, end: u64, amount: u64) -> ApplicationSample {
        ApplicationSample {
            start: ms(start),
            end: ms(end),
            amount,
            failed: 0,
            latencies_us: vec![(1_000, 98), (50_000, 2)],
        }
    }

    #[test]
    fn amounts_are_split_in_proportion() {
        let samples = [sample(0, 1000, 100), sample(1000, 2000, 300)];
        let (amount, covered) = amount_between(&samples, ms(500), ms(1500));
        assert!((amount - 200.0).abs() < 1e-9);
        assert_eq!(covered, Duration::from_secs(1));
        assert_eq!(amount_between(&samples, ms(3000), ms(4000)).1, Duration::ZERO);
    }

    #[test]
    fn quantiles_are_exact_over_merged_counts() {
        let samples = [sample(0, 1000, 100), sample(1000, 2000, 100)];
        assert_eq!(latency_quantile_ms(&samples, ms(0), ms(2000), 0.5), Some(1.0));
        assert_eq!(latency_quantile_ms(&samples, ms(0), ms(2000), 0.99), Some(50.0));
        assert_eq!(latency_quantile_ms(&samples, ms(5000), ms(6000), 0.99), None);
    }

    #[test]
    fn a_silence_counts_if_it_touches_the_move() {
        let probe = |start, end, silences: &[(u64, u64)]| ProbeSample {
            start: ms(start),
            end: ms(end),
            sent: 50,
            heard: 50,
            silences: silences.iter().map(|s| Silence { from: ms(s.0), to: ms(s.1) }).collect(),
        };
        let samples = [probe(0, 200, &[(10, 30)]), probe(200, 400, &[(150, 380)])];
        assert_eq!(longest_silence(&samples, ms(190), ms(210)), Some(Duration::from_millis(230)));
        assert_eq!(longest_silence(&samples, ms(390), ms(399)), Some(Duration::ZERO));
        assert_eq!(longest_silence(&samples, ms(900), ms(999)), None);
    }
}
