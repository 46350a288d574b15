//! Several plays instead of one: what is forecast must not hang on a hair.
//!
//! When a pre-copy stops depends on where in a slice QEMU looks, whether a hybrid switches on a few hundred pages. One play
//! with the figures as measured would take one side of such a coin for certain. So the gang is played with dirtying, sizes
//! and rates a little off, each as often up as down, and the median is the forecast.

use crate::{
    fluid::{Course, Fluid, Gang},
    world::Uncertainty,
};

/// Plays in an ensemble.
pub const PLAYS: usize = 7;

/// The middle of each seventh of a normal distribution.
const DEVIATES: [f64; PLAYS] = [-1.465, -0.792, -0.366, 0.0, 0.366, 0.792, 1.465];
const MIDDLE: usize = PLAYS / 2;

/// Dirtying is never known better than this: what a guest does in the next seconds is not what it did in the last.
const CURVE_LEAST: f64 = 0.1;
/// Nor what a first pass sends,
const SEND_LEAST: f64 = 0.01;
/// nor the rate that a stream gets,
const RATE_LEAST: f64 = 0.03;
/// nor that streams which share a port get the same (of six equal ones at once the first ended a third before the last).
const SHARE_LEAST: f64 = 0.1;
/// A curve that is less certain than this is unknown: a factor of e either way.
const CURVE_MOST: f64 = 1.0;

/// The gang as it may really be: [`PLAYS`] of it, the one in the middle with the figures as they are. VMs that `uncertain`
/// does not name are known as well as any.
#[must_use]
pub fn gangs(gang: &Gang, uncertain: &[Uncertainty]) -> Vec<Gang> {
    (0..PLAYS).map(|index| deviating(gang, uncertain, index)).collect()
}

/// The gang's courses; the one in the middle is that of the figures as they are. VMs that `uncertain` does not name are
/// known as well as any.
pub(crate) fn courses(gang: &Gang, uncertain: &[Uncertainty], fluid: &mut Fluid) -> Vec<Course> {
    (0..PLAYS).map(|index| fluid.play(&deviating(gang, uncertain, index))).collect()
}

fn deviating(gang: &Gang, uncertain: &[Uncertainty], index: usize) -> Gang {
    // Multiples modulo a prime: every deviate once in each figure, and the three of them in no step with each other.
    let deviate = |stride: usize| DEVIATES[(MIDDLE + stride * (index + PLAYS - MIDDLE)) % PLAYS];
    let mut gang = gang.clone();
    if index == MIDDLE {
        return gang;
    }
    let (dirtying, size, rate) = (deviate(1), deviate(3), deviate(5));
    gang.constants.efficiency *= (rate * RATE_LEAST).exp();
    // Nor where in its slices QEMU looks at what is left; each VM's by itself.
    gang.slices_from = index + 1;
    for (place, step) in gang.moves.iter_mut().enumerate() {
        step.weight *= (DEVIATES[(index + 2 * place) % PLAYS] * SHARE_LEAST).exp();
    }
    for (index, vm) in gang.vms.iter_mut().enumerate() {
        let known = uncertain.get(index).copied().unwrap_or_default();
        let curve = known.curve.clamp(CURVE_LEAST, CURVE_MOST);
        vm.curve = vm.curve.sped_up((dirtying * curve).exp());
        let sent = vm.send_bytes * (size * known.send.max(SEND_LEAST)).exp();
        vm.zero_bytes = (vm.zero_bytes + vm.send_bytes - sent).max(0.0);
        vm.send_bytes = sent;
    }
    gang
}

/// The median of what each course says, and the standard deviation of its logarithm.
pub(crate) fn centre(courses: &[Course], of: impl Fn(&Course) -> f64) -> (f64, f64) {
    let mut values: Vec<f64> = courses.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let Some(median) = values.get(values.len() / 2) else { return (0.0, 0.0) };
    #[expect(clippy::cast_precision_loss, reason = "some plays")]
    let count = values.len() as f64;
    let log = |value: &f64| value.max(LEAST).ln();
    let mean = values.iter().map(log).sum::<f64>() / count;
    let variance = values.iter().map(|value| (log(value) - mean).powi(2)).sum::<f64>() / count;
    (*median, variance.sqrt())
}

/// Seconds and bytes below this are none.
const LEAST: f64 = 1e-3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_deviate_is_played_once_in_each_figure() {
        for stride in [1, 3, 5] {
            let mut seen: Vec<usize> = (0..PLAYS)
                .map(|index| (MIDDLE + stride * (index + PLAYS - MIDDLE)) % PLAYS)
                .collect();
            assert_eq!(seen[MIDDLE], MIDDLE);
            seen.sort_unstable();
            assert_eq!(seen, (0..PLAYS).collect::<Vec<_>>());
        }
        let variance = DEVIATES.iter().map(|z| z * z).sum::<f64>() / 7.0;
        assert!((0.7..1.0).contains(&variance), "{variance}");
    }
}
