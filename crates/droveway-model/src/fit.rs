//! Dirty curves from measured windows: one class of pages (saturating), or two (hot and cold), whichever the data bear.
//!
//! `u(t) = sum S (1 - exp(-w t))` is linear in the sizes `S` once the write rates `w` are fixed, so rates are searched on a
//! grid of logarithms and refined, and sizes follow by least squares, weighted by each point's standard error and never
//! below zero (variable projection). A second class has to earn its two parameters: the points' errors are known, so what it
//! takes off the weighted error is chi-squared distributed if it is not there (likelihood ratio, Wilks).
//!
//! Every curve of this form rises and bends, whatever the points do: a longer window that shows fewer bytes is averaged away.
//!
//! A short measurement has no window as long as a move, and hardly tells a curve that ends soon from one that goes on: the best of them
//! ended at 22 MiB where 36 were dirty later. [`averaged`] weighs all of them (Bayesian model averaging, Hoeting et al. 1999).

use droveway_fleet::{DirtyCurve, curve::PageClass};

/// One window, and what was dirtied in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The window.
    pub seconds: f64,
    /// Unique bytes dirtied.
    pub bytes: f64,
    /// Their standard error.
    pub standard_error_bytes: f64,
}

/// A fitted curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The curve.
    pub curve: DirtyCurve,
    /// Its relative standard error, over the windows that were measured.
    pub standard_error_ratio: f64,
    /// `idle`, `uniform`, `saturating`, `hot-cold`, `averaged`.
    pub form_name: &'static str,
}

/// Write rates that are looked for, per second: from once in a quarter of an hour to a thousand times a second.
const RATE_MIN: f64 = 1e-3;
const RATE_MAX: f64 = 1e3;
/// Steps of the grid, and how often the neighbourhood of the best is searched again, ten times finer.
const GRID: u32 = 60;
const REFINEMENTS: u32 = 3;
/// A point is never believed to better than this, and never to better than so many bytes (a page).
const ERROR_RATIO_MIN: f64 = 0.01;
const ERROR_BYTES_MIN: f64 = 4096.0;
/// A second class must take so much off the weighted squared error: noise does so once in a thousand fits (chi-squared,
/// two degrees of freedom).
const SECOND_CLASS_GAIN: f64 = 13.8;
/// So many to one that one class is enough, before anything was seen.
const SECOND_CLASS_ODDS: f64 = 10.0;
/// Curves of less weight than this against the best are left out of the mean.
const NEXT_TO_NONE: f64 = 1e-5;
/// Where no more curves than this share the weight the readings have one curve in mind.
const PINNED_DOWN: f64 = 3.0;
/// Moves are longer than the longest window.
const EXTRAPOLATED: f64 = 2.0;
/// Rates that differ by less than this factor are one class of a mean.
const NEAR_RATES: f64 = 4.0;
/// Two classes have four parameters and meet four points whatever they are; the fifth can contradict.
const SECOND_CLASS_POINTS_MIN: usize = 5;
/// Windows that differ by less than this part count as one: they say a rate, and nothing of how it saturates.
const SAME_WINDOW_RATIO: f64 = 0.01;

/// Fits a curve through measured windows of a VM with so much memory. Windows that are not above zero or not finite are
/// passed over; without dirty bytes the curve is idle, and a single length of window gives a uniform one.
#[must_use]
pub fn fit(points: &[Measured], memory_bytes: f64) -> Fit {
    let usable = |p: &Measured| p.seconds > 0.0 && p.seconds.is_finite() && p.bytes.is_finite();
    let mut points: Vec<Measured> = points.iter().copied().filter(usable).collect();
    points.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    if points.iter().all(|point| point.bytes <= 0.0) {
        return Fit { curve: DirtyCurve::idle(), standard_error_ratio: 0.0, form_name: "idle" };
    }
    let problem = Problem::new(&points);
    let (first, last) = (points[0].seconds, points[points.len() - 1].seconds);
    if last <= first * (1.0 + SAME_WINDOW_RATIO) {
        let curve = DirtyCurve::Uniform { dirty_bytes_per_second: problem.slope(), memory_bytes };
        // One window says nothing of the others.
        return Fit { curve, standard_error_ratio: 1.0, form_name: "uniform" };
    }
    let one = problem.one_class();
    let enough = points.len() >= SECOND_CLASS_POINTS_MIN;
    let (best, form_name) = match enough.then(|| problem.two_classes()).flatten() {
        Some(two) if two.cost + SECOND_CLASS_GAIN < one.cost => (two, "hot-cold"),
        _ => (one, "saturating"),
    };
    let standard_error_ratio = problem.relative_error(&best);
    let classes = within(best.classes, memory_bytes);
    let curve = match classes.as_slice() {
        [only] => DirtyCurve::Saturating {
            dirty_bytes_per_second: only.bytes * only.writes_per_second,
            working_set_bytes: only.bytes,
        },
        [] => DirtyCurve::idle(),
        _ => DirtyCurve::Classes { classes },
    };
    Fit { curve, standard_error_ratio, form_name }
}

/// The mean of all curves of one class and of two that fit in the memory, each weighted by its likelihood as `log_likelihood` says it,
/// rates as likely by their logarithm; sizes by least squares through `points`. `None` where the readings pin one curve down, which
/// [`fit`] then finds more finely, or say nothing but a rate. The standard error is that at twice the longest window: what it is asked
/// for is longer than what was measured.
#[must_use]
pub fn averaged(
    points: &[Measured],
    memory_bytes: f64,
    log_likelihood: impl Fn(&DirtyCurve) -> f64,
) -> Option<Fit> {
    let usable = |p: &&Measured| p.seconds > 0.0 && p.seconds.is_finite() && p.bytes.is_finite();
    let points: Vec<Measured> = points.iter().filter(usable).copied().collect();
    let seconds = || points.iter().map(|point| point.seconds);
    let (first, last) = (seconds().fold(f64::INFINITY, f64::min), seconds().fold(0.0, f64::max));
    let seen = points.iter().any(|point| point.bytes > 0.0);
    if !seen || last <= first * (1.0 + SAME_WINDOW_RATIO) {
        return None;
    }
    let weighed = weighed(&Problem::new(&points), memory_bytes, log_likelihood);
    let effective = 1.0 / weighed.iter().map(|(weight, _)| weight * weight).sum::<f64>();
    if weighed.is_empty() || effective < PINNED_DOWN {
        return None;
    }
    let reach = EXTRAPOLATED * last;
    let mean: f64 = weighed.iter().map(|(weight, curve)| weight * curve.unique_bytes(reach)).sum();
    let off = |curve: &DirtyCurve| (curve.unique_bytes(reach) / mean - 1.0).powi(2);
    let variance: f64 = weighed.iter().map(|(weight, curve)| weight * off(curve)).sum();
    let all = weighed.iter().flat_map(|(weight, curve)| {
        let classes = match curve {
            DirtyCurve::Classes { classes } => classes.as_slice(),
            _ => &[],
        };
        let part = move |of: &PageClass| PageClass { bytes: weight * of.bytes, ..*of };
        classes.iter().map(part)
    });
    let classes = within(gathered(all.collect()), memory_bytes);
    Some(Fit {
        curve: DirtyCurve::Classes { classes },
        standard_error_ratio: variance.sqrt(),
        form_name: "averaged",
    })
}

/// Every curve that is considered with its weight; the weights add up to one, without those that are next to none.
fn weighed(
    problem: &Problem,
    memory_bytes: f64,
    log_likelihood: impl Fn(&DirtyCurve) -> f64,
) -> Vec<(f64, DirtyCurve)> {
    let rates: Vec<f64> = grid().collect();
    let fits = |found: &Candidate| {
        let bytes: f64 = found.classes.iter().map(|class| class.bytes).sum();
        bytes > 0.0 && bytes <= memory_bytes
    };
    let one: Vec<Candidate> = rates.iter().map(|rate| problem.single(*rate)).filter(fits).collect();
    let slower = |(index, hot): (usize, &f64)| {
        let hot = *hot;
        rates[..index].iter().filter_map(move |cold| problem.pair(hot, *cold))
    };
    let two: Vec<Candidate> = rates.iter().enumerate().flat_map(slower).filter(fits).collect();
    let mut all = Vec::new();
    for (family, odds) in [(one, 1.0), (two, 1.0 / SECOND_CLASS_ODDS)] {
        #[expect(clippy::cast_precision_loss, reason = "some thousand")]
        let prior = (odds / family.len().max(1) as f64).ln();
        for found in family {
            let curve = DirtyCurve::Classes { classes: found.classes };
            all.push((prior + log_likelihood(&curve), curve));
        }
    }
    let best = all.iter().map(|(log, _)| *log).fold(f64::NEG_INFINITY, f64::max);
    all.retain(|(log, _)| log - best > NEXT_TO_NONE.ln());
    let sum: f64 = all.iter().map(|(log, _)| (log - best).exp()).sum();
    all.into_iter().map(|(log, curve)| ((log - best).exp() / sum, curve)).collect()
}

/// Classes whose rates are near each other as one, with their bytes and their dirty rate.
fn gathered(mut classes: Vec<PageClass>) -> Vec<PageClass> {
    classes.sort_by(|a, b| b.writes_per_second.total_cmp(&a.writes_per_second));
    let mut all: Vec<(f64, PageClass)> = Vec::new();
    for class in classes {
        match all.last_mut() {
            Some((fastest, sum)) if class.writes_per_second * NEAR_RATES > *fastest => {
                let bytes = sum.bytes + class.bytes;
                let writes =
                    sum.bytes * sum.writes_per_second + class.bytes * class.writes_per_second;
                *sum = PageClass { bytes, writes_per_second: writes / bytes };
            }
            _ => all.push((class.writes_per_second, class)),
        }
    }
    all.into_iter().map(|(_, class)| class).collect()
}

/// A class that is seldom written may come out larger than the memory, since only its dirty rate shows in the windows: it
/// gets what the others leave, and keeps its rate.
fn within(mut classes: Vec<PageClass>, memory_bytes: f64) -> Vec<PageClass> {
    classes.sort_by(|a, b| b.writes_per_second.total_cmp(&a.writes_per_second));
    let mut left = memory_bytes;
    for class in &mut classes {
        let size = class.bytes.min(left).max(f64::MIN_POSITIVE);
        class.writes_per_second *= class.bytes / size;
        class.bytes = size;
        left = (left - size).max(0.0);
    }
    classes.retain(|class| class.bytes >= ERROR_BYTES_MIN);
    classes
}

/// Sizes and rates with their weighted squared error.
#[derive(Debug, Clone)]
struct Candidate {
    classes: Vec<PageClass>,
    cost: f64,
}

/// The points, each divided by its standard error.
struct Problem {
    seconds: Vec<f64>,
    scaled: Vec<f64>,
    errors: Vec<f64>,
}

impl Problem {
    fn new(points: &[Measured]) -> Self {
        let error = |point: &Measured| {
            point.standard_error_bytes.max(ERROR_RATIO_MIN * point.bytes).max(ERROR_BYTES_MIN)
        };
        Problem {
            seconds: points.iter().map(|point| point.seconds).collect(),
            scaled: points.iter().map(|point| point.bytes.max(0.0) / error(point)).collect(),
            errors: points.iter().map(error).collect(),
        }
    }

    /// The rate of a straight line through the origin.
    fn slope(&self) -> f64 {
        let basis: Vec<f64> =
            self.seconds.iter().zip(&self.errors).map(|(t, error)| t / error).collect();
        (dot(&basis, &self.scaled) / dot(&basis, &basis).max(f64::MIN_POSITIVE)).max(0.0)
    }

    /// What a byte of pages written at `rate` contributes to each point.
    fn basis(&self, rate: f64) -> Vec<f64> {
        self.seconds
            .iter()
            .zip(&self.errors)
            .map(|(t, error)| -(-rate * t).exp_m1() / error)
            .collect()
    }

    fn cost(&self, terms: &[(&[f64], f64)]) -> f64 {
        let one = |(index, wanted): (usize, &f64)| {
            let got: f64 = terms.iter().map(|(basis, size)| basis[index] * size).sum();
            (wanted - got).powi(2)
        };
        self.scaled.iter().enumerate().map(one).sum()
    }

    fn single(&self, rate: f64) -> Candidate {
        let basis = self.basis(rate);
        let size =
            (dot(&basis, &self.scaled) / dot(&basis, &basis).max(f64::MIN_POSITIVE)).max(0.0);
        let cost = self.cost(&[(&basis, size)]);
        Candidate { classes: vec![PageClass { bytes: size, writes_per_second: rate }], cost }
    }

    fn pair(&self, hot: f64, cold: f64) -> Option<Candidate> {
        let (a, b) = (self.basis(hot), self.basis(cold));
        let (aa, bb, ab) = (dot(&a, &a), dot(&b, &b), dot(&a, &b));
        let (ay, by) = (dot(&a, &self.scaled), dot(&b, &self.scaled));
        let determinant = aa * bb - ab * ab;
        if determinant <= 1e-9 * aa * bb {
            return None;
        }
        let (first, second) =
            ((ay * bb - by * ab) / determinant, (by * aa - ay * ab) / determinant);
        if first <= 0.0 || second <= 0.0 {
            return None;
        }
        let cost = self.cost(&[(&a, first), (&b, second)]);
        let classes = vec![
            PageClass { bytes: first, writes_per_second: hot },
            PageClass { bytes: second, writes_per_second: cold },
        ];
        Some(Candidate { classes, cost })
    }

    fn one_class(&self) -> Candidate {
        let mut best = self.single(RATE_MAX);
        for rate in grid() {
            best = better(best, Some(self.single(rate)));
        }
        let mut step = grid_step();
        for _ in 0..REFINEMENTS {
            let around = best.classes[0].writes_per_second;
            for offset in -10..=10 {
                let rate = around * step.powf(f64::from(offset) / 10.0);
                best = better(best, Some(self.single(rate)));
            }
            step = step.powf(0.1);
        }
        best
    }

    fn two_classes(&self) -> Option<Candidate> {
        let rates: Vec<f64> = grid().collect();
        let mut best: Option<Candidate> = None;
        let mut keep = |found: Option<Candidate>| {
            if let Some(found) = found
                && best.as_ref().is_none_or(|best| found.cost < best.cost)
            {
                best = Some(found);
            }
        };
        for (index, cold) in rates.iter().enumerate() {
            for hot in &rates[index + 1..] {
                keep(self.pair(*hot, *cold));
            }
        }
        let mut best = best?;
        let mut step = grid_step();
        for _ in 0..REFINEMENTS {
            let (hot, cold) =
                (best.classes[0].writes_per_second, best.classes[1].writes_per_second);
            for first in -5..=5 {
                for second in -5..=5 {
                    let shifted =
                        |rate: f64, offset: i32| rate * step.powf(f64::from(offset) / 5.0);
                    best = better(best, self.pair(shifted(hot, first), shifted(cold, second)));
                }
            }
            step = step.powf(0.2);
        }
        Some(best)
    }

    /// What the curve is off the truth at the points, in parts of it: from the points' own errors, or the misfit if it is
    /// larger. Least squares with `p` parameters leave `p / n` of a point's variance in the curve (mean leverage).
    #[expect(clippy::cast_precision_loss, reason = "some windows")]
    fn relative_error(&self, best: &Candidate) -> f64 {
        let n = self.scaled.len() as f64;
        let parameters = 2.0 * best.classes.len() as f64;
        let misfit = (best.cost / (n - parameters).max(1.0)).sqrt().max(1.0);
        let curve = DirtyCurve::Classes { classes: best.classes.clone() };
        let relative: f64 = self
            .seconds
            .iter()
            .zip(&self.errors)
            .map(|(t, error)| (error / curve.unique_bytes(*t).max(ERROR_BYTES_MIN)).powi(2))
            .map(|squared| 1.0 / squared)
            .sum();
        // Independent points: the weights add up.
        misfit / relative.sqrt().max(1.0) * parameters.sqrt()
    }
}

fn grid_step() -> f64 {
    (RATE_MAX / RATE_MIN).powf(1.0 / f64::from(GRID))
}

fn grid() -> impl Iterator<Item = f64> {
    (0..=GRID).map(|number| RATE_MIN * grid_step().powf(f64::from(number)))
}

fn better(best: Candidate, found: Option<Candidate>) -> Candidate {
    match found {
        Some(found) if found.cost < best.cost => found,
        _ => best,
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The saturating curve through two windows `t1 < t2`: `(1 - exp(-x t2)) / (1 - exp(-x t1)) = u2 / u1`, by bisection.
#[must_use]
pub fn saturating_through(first: (f64, f64), second: (f64, f64), memory_bytes: f64) -> DirtyCurve {
    let ((t1, u1), (t2, u2)) = (first, second);
    if u1 <= 0.0 || t1 <= 0.0 {
        return DirtyCurve::idle();
    }
    if u2 / u1 >= t2 / t1 {
        return DirtyCurve::Uniform { dirty_bytes_per_second: u1 / t1, memory_bytes };
    }
    if u2 <= u1 {
        return DirtyCurve::Bounded { dirty_bytes_per_second: u1 / t1, working_set_bytes: u1 };
    }
    let ratio = |x: f64| (-x * t2).exp_m1() / (-x * t1).exp_m1();
    // The ratio falls from t2/t1 to 1 as x grows.
    let (mut low, mut high) = (1e-9_f64, 50.0_f64);
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if ratio(middle) > u2 / u1 {
            low = middle;
        } else {
            high = middle;
        }
    }
    let x = f64::midpoint(low, high);
    let working_set = u1 / -(-x * t1).exp_m1();
    DirtyCurve::Saturating {
        dirty_bytes_per_second: x * working_set,
        working_set_bytes: working_set,
    }
}

/// The curve of a load that writes random pages of a working set at a rate, a share of them (`hot`: share of the set,
/// share of the writes) more often: what a fit should find.
#[must_use]
pub fn truth(working_set_bytes: f64, write_rate: f64, hot: Option<(f64, f64)>) -> DirtyCurve {
    let class = |bytes: f64, rate: f64| PageClass {
        bytes,
        writes_per_second: if bytes > 0.0 { rate / bytes } else { 0.0 },
    };
    let classes = match hot {
        None => vec![class(working_set_bytes, write_rate)],
        Some((share, weight)) => vec![
            class(share * working_set_bytes, weight * write_rate),
            class((1.0 - share) * working_set_bytes, (1.0 - weight) * write_rate),
        ],
    };
    DirtyCurve::Classes { classes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: f64 = 1_048_576.0;

    #[test]
    fn two_windows_give_the_published_curve() {
        let curve = saturating_through((1.0, 100.0), (10.0, 400.0), 1e9);
        let DirtyCurve::Saturating { dirty_bytes_per_second, working_set_bytes } = curve else {
            panic!("{curve:?}")
        };
        assert!((working_set_bytes - 430.66).abs() < 0.4);
        assert!((dirty_bytes_per_second - 113.79).abs() < 0.1);
        assert!((dirty_bytes_per_second / working_set_bytes - 0.26423).abs() < 0.0003);
        assert!((curve.unique_bytes(4.0) - 280.99).abs() < 0.3);
        let linear = saturating_through((1.0, 100.0), (10.0, 1000.0), 1e9);
        assert!(matches!(linear, DirtyCurve::Uniform { .. }));
        let flat = saturating_through((1.0, 100.0), (10.0, 90.0), 1e9);
        assert!((flat.limit() - 100.0).abs() < 1e-9);
    }

    /// Points of a known curve, each off by up to its standard error and a half; `seed` says how.
    fn points(truth: &DirtyCurve, windows: &[f64], noise: f64, seed: u32) -> Vec<Measured> {
        let point = |(number, seconds): (u32, &f64)| {
            let bytes = truth.unique_bytes(*seconds);
            let error = noise * bytes;
            let off = 1.5 * (f64::from(number) * 2.399 + f64::from(seed) * 1.7 + 0.7).sin();
            Measured { seconds: *seconds, bytes: bytes + off * error, standard_error_bytes: error }
        };
        (0..).zip(windows).map(point).collect()
    }

    const FEW: [f64; 5] = [0.1, 0.3, 1.0, 3.0, 10.0];
    const MANY: [f64; 9] = [0.1, 0.2, 0.3, 0.6, 1.0, 2.0, 3.0, 6.0, 10.0];

    #[track_caller]
    fn check(working_set: f64, rate: f64, hot: Option<(f64, f64)>, form: &str) {
        let truth = truth(working_set * MIB, rate * MIB, hot);
        for (windows, noise, seed) in
            [(FEW.as_slice(), 0.0), (&MANY, 0.0), (&FEW, 0.03), (&MANY, 0.03)]
                .into_iter()
                .flat_map(|(windows, noise)| (0..8).map(move |seed| (windows, noise, seed)))
        {
            let fit = fit(&points(&truth, windows, noise, seed), 512.0 * MIB);
            for seconds in [0.1, 0.5, 1.0, 3.0, 10.0] {
                let (got, expected) =
                    (fit.curve.unique_bytes(seconds), truth.unique_bytes(seconds));
                assert!(
                    (got / expected - 1.0).abs() < 0.1,
                    "{form} at {seconds} s, {} windows, noise {noise}, seed {seed}: {} MiB, not {}: {fit:?}",
                    windows.len(),
                    got / MIB,
                    expected / MIB
                );
            }
            assert_eq!(
                fit.form_name,
                form,
                "{} windows, noise {noise}, seed {seed}",
                windows.len()
            );
            assert!(fit.standard_error_ratio < 0.1, "{fit:?}");
        }
    }

    #[test]
    fn known_loads_are_recovered() {
        check(20.0, 5.0, None, "saturating");
        check(60.0, 30.0, None, "saturating");
        check(100.0, 30.0, None, "saturating");
        check(300.0, 200.0, None, "saturating");
        check(100.0, 30.0, Some((0.1, 0.9)), "hot-cold");
        check(300.0, 100.0, Some((0.1, 0.9)), "hot-cold");
    }

    /// Independent and nearly normal (the sum of twelve uniform numbers of `SplitMix64`): the sines of [`points`] cancel one
    /// another, as errors of measurement do not.
    fn normal(state: &mut u64) -> f64 {
        let mut uniform = || {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            f64::from(u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap()) / f64::from(u32::MAX)
        };
        (0..12).map(|_| uniform()).sum::<f64>() - 6.0
    }

    /// Over many sets of points, the curve is off by its standard error, root mean square.
    #[test]
    fn the_standard_error_says_how_far_off_the_curve_is() {
        for hot in [None, Some((0.1, 0.9))] {
            let truth = truth(100.0 * MIB, 30.0 * MIB, hot);
            let (mut off, mut said, mut state) = (0.0, 0.0, 1);
            for _ in 0..100 {
                let mut points = points(&truth, &MANY, 0.05, 0);
                for point in &mut points {
                    let exact = truth.unique_bytes(point.seconds);
                    point.bytes = exact + normal(&mut state) * point.standard_error_bytes;
                }
                let fit = fit(&points, 512.0 * MIB);
                for seconds in MANY {
                    let ratio = fit.curve.unique_bytes(seconds) / truth.unique_bytes(seconds);
                    off += (ratio - 1.0).powi(2);
                    said += fit.standard_error_ratio.powi(2);
                }
            }
            let ratio = (off / said).sqrt();
            assert!((0.75..1.1).contains(&ratio), "{hot:?}: {ratio}");
        }
    }

    #[test]
    fn little_data_gives_modest_answers() {
        let point = |seconds, bytes| Measured { seconds, bytes, standard_error_bytes: 1.0 };
        assert_eq!(fit(&[], 1e9).form_name, "idle");
        assert_eq!(fit(&[point(1.0, 0.0), point(3.0, 0.0)], 1e9).form_name, "idle");
        let one = fit(&[point(2.0, 2e6)], 1e9);
        assert_eq!((one.form_name, one.standard_error_ratio), ("uniform", 1.0));
        // Five times the same window: a rate, and nothing else.
        let same = fit(&[1.9e6, 2e6, 2.1e6, 2e6, 2e6].map(|bytes| point(1.0, bytes)), 1e9);
        assert_eq!(same.form_name, "uniform");
        assert!((same.curve.unique_bytes(1.0) / 2e6 - 1.0).abs() < 0.01, "{same:?}");
        // Noise: a longer window that shows less.
        let noisy = fit(&[point(1.0, 2e7), point(3.0, 1.8e7)], 1e9);
        assert!(noisy.curve.unique_bytes(1.0) <= noisy.curve.unique_bytes(3.0));
    }

    #[test]
    fn what_the_readings_leave_open_is_averaged() {
        let points =
            |windows: &[f64], noise| points(&truth(64.0 * MIB, 5.0 * MIB, None), windows, noise, 3);
        let average = |points: &[Measured]| {
            let likelihood = |curve: &DirtyCurve| {
                let off = |of: &Measured| {
                    (curve.unique_bytes(of.seconds) - of.bytes) / of.standard_error_bytes
                };
                points.iter().map(|of| -0.5 * off(of).powi(2)).sum()
            };
            averaged(points, 192.0 * MIB, likelihood)
        };
        let short = average(&points(&[0.1, 0.3, 1.0, 2.6], 0.1)).expect("much is open");
        assert_eq!(short.form_name, "averaged");
        // All that fits is between a curve that has ended and a straight line.
        let ratio = short.curve.unique_bytes(10.0) / short.curve.unique_bytes(2.6);
        assert!((1.5..10.0 / 2.6).contains(&ratio), "{short:?}");
        assert!((0.05..0.5).contains(&short.standard_error_ratio), "{short:?}");
        let DirtyCurve::Classes { classes } = &short.curve else { panic!("{short:?}") };
        assert!((1..=6).contains(&classes.len()), "{classes:?}");
        // A single length of window says a rate; nothing dirtied says nothing.
        assert_eq!(average(&points(&[1.0, 1.0], 0.1)), None);
        assert_eq!(average(&[]), None);
    }

    proptest! {
        #[test]
        fn every_fit_is_a_curve_within_the_memory(
            raw in prop::collection::vec((0.01..20.0_f64, 0.0..1e9_f64, 0.0..1e7_f64), 0..12),
        ) {
            let points: Vec<_> = raw
                .into_iter()
                .map(|(seconds, bytes, error)| Measured { seconds, bytes, standard_error_bytes: error })
                .collect();
            let fit = fit(&points, 1e9);
            prop_assert!(fit.curve.limit() <= 1e9 * (1.0 + 1e-9));
            prop_assert!(fit.standard_error_ratio.is_finite());
            let values = [0.1, 1.0, 10.0, 100.0].map(|t| fit.curve.unique_bytes(t));
            prop_assert!(values.windows(2).all(|pair| pair[0] <= pair[1] + 1e-6));
        }
    }
}
