//! The choice among what the searches found: on ports as they are, on ports that promise something, with streams that are paced.
//!
//! All are played with what is not known for sure a little off, and judged by the middle and the worse end of what comes out. The
//! plain policies are judged the same way, on the ports as they would be for them.

use super::Known;
use crate::search::{Cost, Found, Schedule, Task, moves};
use droveway_model::{
    calibration::Quantity, ensemble, fluid::Fluid, urgency::gains_enough, world::Uncertainty,
};

/// What was searched on certain ports, and what was found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pool {
    /// The share of both ports that is promised to the moves.
    pub(crate) share: Option<f64>,
    pub(crate) task: Task,
    pub(crate) found: Found,
}

/// The plain policies' schedules, on the ports as any policy has them.
pub(crate) struct Plain<'a> {
    pub(crate) task: &'a Task,
    /// What the operator has promised, whatever the policy.
    pub(crate) share: Option<f64>,
    pub(crate) schedules: &'a [(String, Cost, Schedule)],
}

/// What is to be done, and how it compares.
pub(crate) struct Choice {
    /// `search`, or the plain policy.
    pub(crate) chosen: String,
    /// Where it was found; `None`: it is a plain policy's.
    pub(crate) pool: Option<usize>,
    pub(crate) schedule: Schedule,
    pub(crate) cost: Cost,
    /// What the best that the search found costs.
    pub(super) searched: Cost,
    /// The error that a gain has to exceed, seconds.
    pub(super) error: f64,
}

/// Two forecasts of the same gang by the same model err in the same direction: half of the error is about their difference.
pub(crate) const ERROR_SHARE: f64 = 0.5;
/// A promise changes the hosts' ports: it has to gain this much at least.
const GAIN_LEAST: f64 = 0.02;
/// Scores that differ by less are a tie.
pub(crate) const TIE: f64 = 0.005;

/// The best of what was found, or (`never_worse`) the best plain schedule where that is not worse by more than the model's
/// error.
pub(crate) fn choose(
    known: Known<'_>,
    pools: &[Pool],
    plain: &Plain<'_>,
    never_worse: bool,
) -> Option<Choice> {
    let (_, spread) = known.calibration.error(Quantity::Total, None);
    let mut doubt = Doubt { uncertain: &known.world.uncertain, fluid: Fluid::default() };
    let mut found = Vec::new();
    for (index, pool) in pools.iter().enumerate() {
        let promises = pool.share.is_some() && pool.share != plain.share;
        let handicap = if promises { 1.0 + GAIN_LEAST } else { 1.0 };
        for held in &pool.found.nearby {
            let score = doubt.score(&pool.task, &held.1);
            found.push(Judged { score, weighed: handicap * score, pool: Some(index), held });
        }
    }
    let found = best(&found)?;
    let held: Vec<(Cost, Schedule)> =
        plain.schedules.iter().map(|(_, cost, schedule)| (*cost, schedule.clone())).collect();
    let mut simple = Vec::new();
    for held in &held {
        let score = doubt.score(plain.task, &held.1);
        simple.push(Judged { score, weighed: score, pool: None, held });
    }
    let simple = best(&simple)?;
    // The error is one of predictions; both sides share most of it, so what a gain must exceed is a part.
    let error = ERROR_SHARE * spread * found.score;
    let clever = gains_enough(simple.score, found.score, error);
    let (searched, index) = (found.held.0, found.pool.unwrap_or(0));
    let same = found.held.1 == simple.held.1 && pools[index].task == *plain.task;
    let name = plain.schedules.iter().find(|(_, _, schedule)| *schedule == simple.held.1);
    let (chosen, of) = match name {
        Some((name, ..)) if never_worse && !clever && !same => (name.clone(), simple),
        _ => ("search".to_owned(), found),
    };
    let (cost, schedule) = of.held.clone();
    Some(Choice { chosen, pool: of.pool, schedule, cost, searched, error })
}

/// A schedule and its score.
#[derive(Clone, Copy)]
struct Judged<'a> {
    score: f64,
    /// The score with what a change of the ports has to gain.
    weighed: f64,
    pool: Option<usize>,
    held: &'a (Cost, Schedule),
}

/// The best of these. Of ties the one with less exposure, then the one named first.
fn best<'a>(judged: &[Judged<'a>]) -> Option<Judged<'a>> {
    let least = judged.iter().map(|of| of.weighed).fold(f64::INFINITY, f64::min);
    let tie = judged.iter().filter(|of| of.weighed <= least + TIE * least.abs());
    let exposed = |of: &&Judged<'_>| of.held.0.parts.exposure_seconds;
    tie.min_by(|a, b| exposed(a).total_cmp(&exposed(b))).copied()
}

/// Judges schedules with what is not known for sure a little off.
pub(crate) struct Doubt<'a> {
    /// How well each VM's memory is known.
    pub(crate) uncertain: &'a [Uncertainty],
    pub(crate) fluid: Fluid,
}

impl Doubt<'_> {
    /// Half of what a schedule costs in the middle and half of what it costs where it goes badly: one time in ten or less.
    pub(crate) fn score(&mut self, task: &Task, schedule: &Schedule) -> f64 {
        let mut gang = task.gang.clone();
        gang.moves = moves(task, schedule).collect();
        gang.windows = vec![schedule.window.max(1)];
        let mut values: Vec<f64> = ensemble::gangs(&gang, self.uncertain)
            .iter()
            .map(|gang| task.cost(&self.fluid.play(gang), &schedule.order).value)
            .collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::INFINITY);
        0.5 * (at(values.len() / 2) + at(values.len().saturating_sub(1)))
    }
}
