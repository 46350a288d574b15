//! Start windows: with slack, a quieter phase of the moving VMs' traffic or dirtying is worth waiting for.
//!
//! What was watched for long enough, summed over the VMs, is searched for a period as `alma` does it for dirtying (the
//! largest line of the spectrum, if it holds 30 % of what alternates). The next period is taken to be like the last. Noise has
//! a largest line, too, and among few lines a large one: nobody waits for a period that was not seen twice, or whose line noise
//! would have as often as once in twenty (Fisher, Tests of significance in harmonic analysis, 1929).

use crate::published::alma::{self, Parameters};
use droveway_fleet::snapshot::RateSeries;
use droveway_model::world::World;

/// Nobody waits longer, seconds.
pub(crate) const WAIT_MAX: f64 = 600.0;

/// Shorter waits are none, seconds: a phase is not known to the second.
const WAIT_MIN: f64 = 1.0;

/// Noise that shows a period is taken for one as seldom as this.
const FALSE_PERIODS: f64 = 0.05;

/// What has phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// What the VMs send and receive.
    Traffic,
    /// What they write into their memory.
    Dirtying,
}

impl Of {
    /// The rates of one VM, step by step; empty where they were not watched.
    fn rates(self, series: &RateSeries) -> Vec<f64> {
        match self {
            Of::Traffic => series.tx.iter().zip(&series.rx).map(|(tx, rx)| tx + rx).collect(),
            Of::Dirtying => series.dirty.clone(),
        }
    }
}

/// A phase to wait for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quiet {
    /// From now, seconds.
    pub(crate) wait: f64,
    /// What there is from now on, as a share of its mean.
    pub(crate) now: f64,
    /// What there is after the wait, as a share of its mean.
    pub(crate) then: f64,
}

/// The quietest start of moves of these VMs (by their index in `world`) that take `duration` seconds, at most `wait_max`
/// seconds from now; `None` if there is no period, or now is as good as any time.
pub(crate) fn quiet(
    world: &World,
    vms: &[usize],
    duration: f64,
    wait_max: f64,
    of: Of,
) -> Option<Quiet> {
    let series: Vec<_> = vms.iter().filter_map(|vm| world.series.get(*vm)?.as_ref()).collect();
    let step = series.first()?.step_seconds;
    // All are of one measurement; what is not cannot be added.
    if step <= 0.0 || series.iter().any(|of| (of.step_seconds - step).abs() > 1e-6) {
        return None;
    }
    let rates = series.iter().map(|series| of.rates(series));
    let rates: Vec<Vec<f64>> = rates.filter(|rates| !rates.is_empty()).collect();
    let length = rates.iter().map(Vec::len).min()?;
    let at = |back: usize| rates.iter().map(|rates| rates[rates.len() - back]).sum();
    let sum: Vec<f64> = (1..=length).rev().map(at).collect();
    let parameters = Parameters::default();
    let found = alma::strongest_period(&sum, &parameters)?;
    let lines = length.min(parameters.samples_max) / 2;
    if found.bin < 2 || found.share < share_of_noise(lines) {
        return None;
    }
    let steps = whole(duration / step).max(1);
    let most = whole(wait_max.clamp(0.0, WAIT_MAX) / step);
    let waited = alma::wait(&sum, steps, most, &parameters)?;
    #[expect(clippy::cast_precision_loss, reason = "some hundred steps")]
    let wait = waited as f64 * step;
    let period = whole(found.samples.round());
    let cycle = &sum[length.saturating_sub(period)..];
    let mean = |from: usize, count: usize| -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "some hundred steps")]
        let count_f = count.max(1) as f64;
        cycle.iter().cycle().skip(from).take(count).sum::<f64>() / count_f
    };
    let all = mean(0, cycle.len());
    let found = Quiet { wait, now: mean(0, steps) / all, then: mean(waited, steps) / all };
    (wait >= WAIT_MIN && found.then < found.now).then_some(found)
}

/// The share of all that alternates which the largest of so many lines of white noise exceeds once in twenty times, by the first
/// term of Fisher's sum: `lines (1 - share)^(lines - 1)`.
fn share_of_noise(lines: usize) -> f64 {
    if lines < 2 {
        return 1.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "some hundred lines")]
    let lines = lines as f64;
    1.0 - (FALSE_PERIODS / lines).powf(1.0 / (lines - 1.0))
}

fn whole(value: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "seconds of a measurement, not below zero"
    )]
    let whole = value.clamp(0.0, 1e6) as usize;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use droveway_model::fluid::Gang;
    use proptest::prelude::*;

    /// One VM of which something is low for `low` seconds of each `period`, now in `phase` of it.
    fn world(of: Of, period: usize, low: usize, phase: usize) -> World {
        let at = |second: usize| if second % period < low { 10.0 } else { 80.0 };
        let length = 4 * period;
        // The step that ends now is the one before `phase`.
        let wave: Vec<f64> = (0..length).map(|index| at(index + phase)).collect();
        let level = vec![1.0; length];
        let mut world = World::named(Gang::default(), Vec::new(), Vec::new());
        let (tx, rx, dirty) = match of {
            Of::Traffic => (wave, vec![0.0; length], Vec::new()),
            Of::Dirtying => (level.clone(), level, wave),
        };
        world.series = vec![Some(RateSeries { step_seconds: 1.0, tx, rx, dirty })];
        world
    }

    #[test]
    fn the_next_quiet_phase_is_waited_for() {
        for of in [Of::Traffic, Of::Dirtying] {
            let quiet = |world: &World, vms: &[usize], most| quiet(world, vms, 19.0, most, of);
            // 36 s low, then 24 s high; now 40 s into the period: low again in 20 s.
            let found = quiet(&world(of, 60, 36, 40), &[0], 600.0).unwrap();
            assert!((found.wait - 20.0).abs() < 1e-9, "{found:?}");
            assert!(found.then < 0.5 * found.now, "{found:?}");
            // Low already, for long enough.
            assert_eq!(quiet(&world(of, 60, 36, 2), &[0], 600.0), None);
            // Not allowed to wait so long, or nothing known.
            assert_eq!(quiet(&world(of, 60, 36, 40), &[0], 0.5), None);
            assert_eq!(quiet(&world(of, 60, 36, 40), &[], 600.0), None);
            assert_eq!(quiet(&world(of, 60, 60, 40), &[0], 600.0), None, "always the same");
        }
        let other = quiet(&world(Of::Dirtying, 60, 36, 40), &[0], 19.0, 600.0, Of::Traffic);
        assert_eq!(other, None, "each has its own phases");
    }

    /// Fisher's table: with 5, 10 and 25 lines.
    #[test]
    fn few_lines_need_a_larger_one() {
        for (lines, share) in [(5, 0.684), (10, 0.445), (25, 0.228)] {
            assert!((share_of_noise(lines) - share).abs() < 0.002, "{lines}");
        }
    }

    #[test]
    fn noise_is_seldom_waited_for() {
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            f64::from(u32::try_from(state >> 33).unwrap_or(0)) / f64::from(1_u32 << 31)
        };
        for steps in [10, 60] {
            let waits = (0..400).filter(|_| {
                let dirty: Vec<f64> = (0..steps).map(|_| 50.0 + 10.0 * noise()).collect();
                let level = vec![1.0; steps];
                let mut world = World::named(Gang::default(), Vec::new(), Vec::new());
                let (tx, rx) = (level.clone(), level);
                world.series = vec![Some(RateSeries { step_seconds: 1.0, tx, rx, dirty })];
                quiet(&world, &[0], 3.0, 600.0, Of::Dirtying).is_some()
            });
            let waits = waits.count();
            assert!(waits < 32, "{waits} of 400 with {steps} steps");
        }
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_allowed(
            phase in 0..60_usize, low in 5..55_usize, duration in 1.0..100.0, most in 0.0..100.0,
        ) {
            let world = world(Of::Traffic, 60, low, phase);
            if let Some(found) = quiet(&world, &[0], duration, most, Of::Traffic) {
                prop_assert!(found.wait <= most && found.then < found.now);
            }
        }
    }
}
