//! `alma` (2016): a VM whose dirty rate comes in waves starts in a trough. The period is the largest line of the spectrum.

use std::f64::consts::TAU;

/// What the paper does not publish; ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// How many samples are looked at, the latest.
    pub samples_max: usize,
    /// The share of the alternating power that one line must hold for a period to be believed. Not published; ours.
    pub share_min: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters { samples_max: 256, share_min: 0.3 }
    }
}

/// The strongest line of a spectrum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Period {
    /// How many periods the samples span.
    pub bin: usize,
    /// Its length, in samples.
    pub samples: f64,
    /// The share of the alternating power that it holds, 0 to 1.
    pub share: f64,
}

/// The strongest period among the latest samples, strong enough or not; `None` for samples that do not alternate.
#[must_use]
pub fn strongest_period(samples: &[f64], parameters: &Parameters) -> Option<Period> {
    let samples = latest(samples, parameters.samples_max);
    let powers: Vec<f64> = (1..=samples.len() / 2).map(|bin| power(samples, bin)).collect();
    let total: f64 = powers.iter().sum();
    // The earlier of equals: the longer period.
    let strongest = (0..powers.len()).rev().max_by(|a, b| powers[*a].total_cmp(&powers[*b]))?;
    let share = powers[strongest] / total;
    let bin = strongest + 1;
    #[expect(clippy::cast_precision_loss, reason = "some hundred samples")]
    let length = samples.len() as f64 / bin as f64;
    // Rounding alternates too, below any power that is one.
    let rounding = 1e-12 * samples.iter().map(|sample| sample * sample).sum::<f64>();
    (total > rounding).then_some(Period { bin, samples: length, share })
}

/// How many samples to wait for the quietest start of a move that takes `duration` samples, within the coming period and
/// `max_wait`. `None`: there is no period to wait for.
#[must_use]
pub fn wait(
    samples: &[f64],
    duration: usize,
    max_wait: usize,
    parameters: &Parameters,
) -> Option<usize> {
    let period = strongest_period(samples, parameters)?;
    if period.share < parameters.share_min {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most the number of samples"
    )]
    let length = period.samples.round() as usize;
    Some(quietest_start(latest(samples, length), duration, max_wait))
}

/// The start, at most `max_wait` samples from now, from which `duration` samples are least on average, the earliest of
/// equals; `cycle` is the last period, which comes again.
#[must_use]
pub fn quietest_start(cycle: &[f64], duration: usize, max_wait: usize) -> usize {
    if cycle.is_empty() {
        return 0;
    }
    // Whole periods are equal from every start: only the rest of the duration decides.
    let rest = duration % cycle.len();
    let load = |start: usize| cycle.iter().cycle().skip(start).take(rest).sum::<f64>();
    let loads: Vec<f64> = (0..cycle.len().min(max_wait.saturating_add(1))).map(load).collect();
    (0..loads.len()).min_by(|a, b| loads[*a].total_cmp(&loads[*b])).unwrap_or(0)
}

fn latest(samples: &[f64], count: usize) -> &[f64] {
    &samples[samples.len().saturating_sub(count)..]
}

/// The power of one line of the spectrum of what alternates (a plain Fourier sum: there are few samples), from both of its
/// halves.
#[expect(clippy::cast_precision_loss, reason = "some hundred samples")]
fn power(samples: &[f64], bin: usize) -> f64 {
    let count = samples.len();
    let mean = samples.iter().sum::<f64>() / count as f64;
    let (mut real, mut imaginary) = (0.0, 0.0);
    for (index, sample) in samples.iter().enumerate() {
        // The remainder keeps the angle small, and so exact.
        let angle = TAU * (bin * index % count) as f64 / count as f64;
        real += (sample - mean) * angle.cos();
        imaginary += (sample - mean) * angle.sin();
    }
    let halves = if 2 * bin == count { 1.0 } else { 2.0 };
    halves * (real * real + imaginary * imaginary)
}

#[cfg(test)]
mod tests {
    use super::super::tests::golden;
    use super::*;

    /// So many samples of a wave that is at 10 for `low` samples and at 80 for the rest of its `period`, from `phase` on.
    fn wave(count: usize, period: usize, low: usize, phase: usize) -> Vec<f64> {
        (0..count).map(|at| if (phase + at) % period < low { 10.0 } else { 80.0 }).collect()
    }

    #[test]
    fn a_square_wave_has_a_period() {
        let parameters = Parameters::default();
        let got = strongest_period(&wave(256, 64, 38, 0), &parameters).unwrap();
        assert_eq!(got.bin, 4);
        golden(got.samples, 64.0, 1.0);
        golden(got.share, 0.770, 0.001);
        // Only the latest samples count.
        let changed = [wave(100, 7, 3, 0), wave(256, 64, 38, 0)].concat();
        assert_eq!(strongest_period(&changed, &parameters), Some(got));
    }

    #[test]
    fn a_move_waits_for_the_trough() {
        assert_eq!(quietest_start(&wave(60, 60, 36, 40), 19, 60), 20);
        // All of the period from samples: four times 60, now at phase 40.
        assert_eq!(wait(&wave(240, 60, 36, 40), 19, 60, &Parameters::default()), Some(20));
        // A move of a period more is no different, and one that may not wait does not.
        assert_eq!(quietest_start(&wave(60, 60, 36, 40), 79, 60), 20);
        assert_eq!(quietest_start(&wave(60, 60, 36, 40), 19, 0), 0);
        // Any start within the trough that leaves room is as good: the earliest.
        assert_eq!(quietest_start(&wave(60, 60, 36, 5), 19, 60), 0);
    }

    /// The spectrum has lines at whole parts of the samples only: 60 is seen as 64.
    #[test]
    fn a_period_between_two_lines_is_still_good_for_a_trough() {
        let (phase, low) = (40, 36);
        let samples = wave(256, 60, low, 24);
        let period = strongest_period(&samples, &Parameters::default()).unwrap();
        golden(period.samples, 64.0, 1.0);
        let start = (phase + wait(&samples, 19, 64, &Parameters::default()).unwrap()) % 60;
        assert!(start + 19 <= low, "{start}");
    }

    #[test]
    fn what_does_not_alternate_has_no_period() {
        let parameters = Parameters::default();
        for samples in [vec![], vec![5.0], vec![0.0; 256], vec![0.1; 255]] {
            assert_eq!(strongest_period(&samples, &parameters), None);
            assert_eq!(wait(&samples, 19, 60, &parameters), None);
        }
        // One burst is no wave: its power is in every line.
        let mut burst = vec![10.0; 256];
        burst[100] = 80.0;
        assert!(strongest_period(&burst, &parameters).unwrap().share < 0.1);
        assert_eq!(wait(&burst, 19, 60, &parameters), None);
        assert_eq!(quietest_start(&[], 19, 60), 0);
    }
}
