//! Clark's rates as a rule: the policy `clark-rate`, pass by pass.

use super::{Sample, Step};
use crate::published::clark_rate::{Parameters, next_rate};
use droveway_fleet::Bandwidth;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Clark's rule (Clark 2005): the first pass at the least rate, each further one a step faster than the last was dirtied;
/// when that would be too fast, or hardly anything is left, the VM is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Clark {
    /// The first pass's rate, and never below.
    pub rate_min: Bandwidth,
    /// Never above.
    pub rate_max: Bandwidth,
    /// Added to the rate at which the last pass was dirtied.
    pub step: Bandwidth,
    /// With less left, bytes, the VM is stopped.
    pub left_min_bytes: u64,
}

impl Clark {
    /// The paper's step and remainder; the least and the highest rate are a tenth and all of what the port carries.
    #[must_use]
    pub fn on(port: Bandwidth) -> Self {
        let paper = Parameters::default();
        Clark {
            rate_min: port.divided(10),
            rate_max: port,
            step: rate(paper.step),
            left_min_bytes: 256 << 10,
        }
    }

    /// What the highest rate carries of the remainder that the VM is stopped for, so that QEMU itself stops there.
    pub(super) fn initial_limit(&self) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "some kilobytes and a port's rate")]
        let seconds = self.left_min_bytes as f64 / self.rate_max.bytes_per_second().max(1) as f64;
        Duration::from_secs_f64(seconds.min(LIMIT_MOST)).max(Duration::from_millis(1))
    }

    fn parameters(&self) -> Parameters {
        #[expect(clippy::cast_precision_loss, reason = "a port's rate, far below 2^53")]
        let bytes = |rate: Bandwidth| rate.bytes_per_second() as f64;
        #[expect(clippy::cast_precision_loss, reason = "some kilobytes")]
        let left_min = self.left_min_bytes as f64;
        Parameters {
            rate_min: bytes(self.rate_min),
            rate_max: bytes(self.rate_max),
            step: bytes(self.step),
            left_min,
        }
    }
}

/// Passes at most, as in Xen, where the rule comes from: on a busy port the rate that is asked for is not always had.
const ROUNDS_MAX: u32 = 30;

/// A port so slow that the remainder takes longer has no use for the rule.
const LIMIT_MOST: f64 = 10.0;

/// A rate from bytes per second.
fn rate(bytes_per_second: f64) -> Bandwidth {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate, not below zero"
    )]
    let whole = bytes_per_second.max(1.0) as u64;
    Bandwidth::from_bytes_per_second(whole)
}

/// When the last pass ended, seconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ClarkState {
    last_end: f64,
    stopped: bool,
}

impl ClarkState {
    pub(super) fn observe(&mut self, rule: &Clark, sample: &Sample) -> Option<Step> {
        if !sample.at_pass_boundary || self.stopped || sample.passes < 2 {
            return None;
        }
        let seconds = sample.elapsed_seconds - self.last_end;
        self.last_end = sample.elapsed_seconds;
        let parameters = rule.parameters();
        // What is left at a pass's end is what was dirtied in it.
        let dirtied = sample.remaining_bytes;
        let next = next_rate(dirtied, seconds.max(f64::MIN_POSITIVE), &parameters);
        let goes_on = sample.passes <= ROUNDS_MAX;
        if goes_on && next <= parameters.rate_max && dirtied > parameters.left_min {
            return Some(Step::Bandwidth(rate(next)));
        }
        self.stopped = true;
        Some(Step::ForceStop)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Ladder,
            testing::{poll, steps},
        },
        *,
    };

    const MB: u64 = 1_000_000;

    fn slow() -> Clark {
        Clark {
            rate_min: Bandwidth::from_bytes_per_second(12_500_000),
            rate_max: Bandwidth::from_bytes_per_second(65 * MB),
            step: Bandwidth::from_bytes_per_second(6_250_000),
            left_min_bytes: 250_000,
        }
    }

    fn pass(number: u32, elapsed: f64, left: f64) -> Sample {
        Sample { passes: number, at_pass_boundary: true, remaining_bytes: left, ..poll(elapsed) }
    }

    /// The rates of the reference's golden example, from what its passes leave.
    #[test]
    fn the_published_rates_come_out() {
        // 2048 MB dirtied at 80 MB/s in a working set of 60 MB: every pass leaves 60 MB.
        let mut at = 2048.0 / 12.5;
        let mut samples = vec![pass(1, 0.0, 2048e6), pass(2, at, 60e6)];
        let mut rates = vec![12.5];
        for number in 3..12 {
            let rate = rates.last().copied().unwrap();
            at += 60.0 / rate;
            rates.push(60.0 / (60.0 / rate) + 6.25);
            samples.push(pass(number, at, 60e6));
        }
        let taken = steps(&Ladder::Clark(slow()), samples);
        let got: Vec<f64> = taken
            .iter()
            .filter_map(|(_, step)| match step {
                Step::Bandwidth(rate) => Some(rate.bytes_per_second() as f64 / 1e6),
                _ => None,
            })
            .collect();
        for (got, wanted) in
            got.iter().zip([12.5, 18.75, 25.0, 31.25, 37.5, 43.75, 50.0, 56.25, 62.5])
        {
            assert!((got - wanted).abs() < 0.01, "{got}, not {wanted}");
        }
        assert_eq!(got.len(), 9, "with the first pass ten");
        assert_eq!(taken.last().map(|(_, step)| *step), Some(Step::ForceStop), "68.75 is too fast");
    }

    #[test]
    fn passes_that_do_not_shrink_end_too() {
        let samples = (1..200).map(|number| pass(number, f64::from(number), 30e6));
        let taken = steps(&Ladder::Clark(slow()), samples);
        assert_eq!(taken.last(), Some(&(31.0, Step::ForceStop)));
    }

    #[test]
    fn hardly_anything_left_stops_the_vm_and_says_so_once() {
        let samples = [pass(1, 0.0, 1e9), pass(2, 80.0, 1e5), pass(3, 81.0, 1e5)];
        let taken = steps(&Ladder::Clark(slow()), samples);
        assert_eq!(taken, [(80.0, Step::ForceStop)]);
    }
}
