//! The choice among what the searches found: on ports as they are, on ports that promise something, with streams that are paced.
//!
//! All are played with what is not known for sure a little off, and judged by the middle and the worse end of what comes out. The
//! plain policies are judged the same way, on the ports as they would be for them.
//!
//! What the model cannot tell apart is a tie. Where little but time counts (critical, high) a tie is broken by what medium
//! urgency would pay: nobody gains from a tenth of a second in forty that costs applications ten seconds of the port.

use super::{Known, weights};
use crate::search::{Cost, EQUALLY_GOOD, Found, Schedule, Task, Weights, moves};
use droveway_fleet::Urgency;
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

/// What the deadlines of a search are, and how worlds that are off are judged by them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Due {
    /// What was asked for, or none.
    Asked,
    /// So many times less time than was asked for, so that deadlines are kept even if the forecast is off. Worlds that are off are judged
    /// by what was asked for: with both at once a second would be worth eighteen, just where a deadline is still kept surely.
    Hurried(f64),
    /// The gang's is a bound that nobody asked for. The forecast keeps it; worlds that are off may take longer, for nobody waits: judged by
    /// it, a plan that is gentle and near it cost more than to move all at once, whatever applications lose (eight times as much).
    Bound,
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

/// The best of what was found, or (`never_worse`) the best plain schedule where that is not worse by more than the model's error.
///
/// `due`: what the searches' deadlines are. `yielding`: so many times what is played do ports cost that are left as they are, where they need not be.
pub(crate) fn choose(
    known: Known<'_>,
    urgency: Urgency,
    due: Due,
    yielding: f64,
    pools: &[Pool],
    plain: &Plain<'_>,
    never_worse: bool,
) -> Option<Choice> {
    let (_, spread) = known.calibration.error(Quantity::Total, None);
    let ties = Ties::of(urgency);
    let asked = |task: &Task| match due {
        Due::Asked => task.clone(),
        Due::Hurried(safety) => task.hurried(1.0 / safety),
        Due::Bound => Task { deadline: f64::INFINITY, ..task.clone() },
    };
    let mut doubt = Doubt { uncertain: &known.world.uncertain, fluid: Fluid::default() };
    // `asked`: the task with the deadlines that were asked for. What is not surely in time with less stays as much worse.
    let mut judge = |task: &Task, asked: &Task, (cost, schedule): &(Cost, Schedule)| {
        let apart = due != Due::Asked;
        let late = if apart { task.weights.missed * cost.parts.missed } else { 0.0 };
        (doubt.score(asked, schedule) + late, ties.decider(task, cost))
    };
    // Where streams may have a class of their own, those that have none pay for it.
    let may_hold = pools.iter().any(|pool| pool.share.is_some());
    let left_alone = |share: Option<f64>| match share {
        None if may_hold => yielding,
        _ => 1.0,
    };
    let mut found = Vec::new();
    for (index, pool) in pools.iter().enumerate() {
        let promises = pool.share.is_some() && pool.share != plain.share;
        let handicap = if promises { 1.0 + GAIN_LEAST } else { 1.0 };
        let task = asked(&pool.task);
        let left_alone = left_alone(pool.share);
        for held in &pool.found.nearby {
            let (score, decider) = judge(&pool.task, &task, held);
            let score = left_alone * score;
            let weighed = handicap * score;
            found.push(Judged { score, weighed, decider, pool: Some(index), held });
        }
    }
    let found = ties.best(&found)?;
    let held: Vec<(Cost, Schedule)> =
        plain.schedules.iter().map(|(_, cost, schedule)| (*cost, schedule.clone())).collect();
    let mut simple = Vec::new();
    let task = asked(plain.task);
    let left_alone = left_alone(plain.share);
    for held in &held {
        let (score, decider) = judge(plain.task, &task, held);
        let score = left_alone * score;
        simple.push(Judged { score, weighed: score, decider, pool: None, held });
    }
    let simple = ties.best(&simple)?;
    // The error is one of predictions; both sides share most of it, so what a gain must exceed is a part.
    let share = |cost: f64, of: &Judged<'_>| {
        // A deadline that is missed outweighs everything, but forecasts are off by a share of the time.
        ERROR_SHARE * spread * cost.min(of.held.0.parts.total_seconds)
    };
    let error = share(found.score, &found);
    let clever = gains_enough(simple.score, found.score, error)
        || ties.by.is_some()
            && found.score <= simple.score + ties.within * simple.held.0.seconds()
            && gains_enough(simple.decider, found.decider, share(found.decider, &found));
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
    /// What decides a tie: the less, the better.
    decider: f64,
    pool: Option<usize>,
    held: &'a (Cost, Schedule),
}

/// Where little but time counts: by whose weights a tie is decided.
pub(crate) fn decides_ties(urgency: Urgency) -> Option<Weights> {
    match urgency {
        Urgency::Critical | Urgency::High => Some(weights(Urgency::Medium)),
        Urgency::Medium | Urgency::Low => None,
    }
}

/// What a tie is, and what decides it.
struct Ties {
    within: f64,
    /// `None`: less exposure.
    by: Option<Weights>,
}

impl Ties {
    fn of(urgency: Urgency) -> Self {
        let by = decides_ties(urgency);
        Ties { within: if by.is_some() { EQUALLY_GOOD } else { TIE }, by }
    }

    fn decider(&self, task: &Task, cost: &Cost) -> f64 {
        match self.by {
            Some(weights) => cost.parts.weighted(&weights.objective(task.capacity)),
            None => cost.parts.exposure_seconds,
        }
    }

    /// The best of these; of ties the one with the least decider, then the one named first.
    fn best<'a>(&self, judged: &[Judged<'a>]) -> Option<Judged<'a>> {
        let least = judged.iter().min_by(|a, b| a.weighed.total_cmp(&b.weighed))?;
        let most = least.weighed + self.within * least.held.0.seconds();
        let tie = judged.iter().filter(|of| of.weighed <= most);
        tie.min_by(|a, b| a.decider.total_cmp(&b.decider)).copied()
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::tests::task;
    use droveway_model::urgency::Objective;

    /// 10 s of the port of that task are 1 GB.
    fn parts(total_seconds: f64, lost_bytes: f64, exposure_seconds: f64) -> Objective {
        Objective { total_seconds, lost_bytes, exposure_seconds, ..Objective::default() }
    }

    /// The place of the best under that urgency.
    fn best(urgency: Urgency, all: &[Objective]) -> usize {
        let task = crate::search::Task { weights: weights(urgency), ..task(&[]) };
        let ties = Ties::of(urgency);
        let schedule = Schedule { order: Vec::new(), ways: Vec::new(), window: 1 };
        let held: Vec<(Cost, Schedule)> = all
            .iter()
            .map(|parts| Cost { parts: *parts, value: parts.weighted(&task.objective()) })
            .map(|cost| (cost, schedule.clone()))
            .collect();
        let judged: Vec<Judged<'_>> = held
            .iter()
            .map(|held| {
                let (score, decider) = (held.0.value, ties.decider(&task, &held.0));
                Judged { score, weighed: score, decider, pool: None, held }
            })
            .collect();
        let best = ties.best(&judged).unwrap();
        held.iter().position(|it| std::ptr::eq(it, best.held)).unwrap()
    }

    #[test]
    fn haste_costs_applications_no_more_than_it_gains() {
        // A tenth of a second in forty, against six seconds of the port.
        let near = [parts(39.8, 1.3e9, 0.0), parts(39.9, 0.7e9, 0.0), parts(45.0, 0.0, 0.0)];
        assert_eq!([Urgency::Critical, Urgency::High].map(|it| best(it, &near)), [1, 1]);
        // Two seconds are one.
        let apart = [parts(39.8, 1.3e9, 0.0), parts(41.8, 0.7e9, 0.0)];
        assert_eq!([Urgency::Critical, Urgency::High].map(|it| best(it, &apart)), [0, 0]);
        // What is weighed anyway needs no second view: there less exposure decides.
        let close = [parts(40.0, 1e8, 9.0), parts(40.1, 1e8, 1.0), parts(40.1, 1e8, 2.0)];
        assert_eq!(best(Urgency::Medium, &close), 1);
    }

    /// A deadline that everybody misses makes no second small.
    #[test]
    fn a_deadline_that_is_missed_widens_no_tie() {
        let missed = |parts: Objective| Objective { missed: 1.1, ..parts };
        let all = [missed(parts(40.0, 1e9, 0.0)), missed(parts(44.0, 0.0, 0.0))];
        assert_eq!(best(Urgency::Critical, &all), 0);
    }
}
