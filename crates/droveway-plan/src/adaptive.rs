//! The policy `adaptive`: technique, order and concurrency chosen together for what was measured and how urgent it is.
//!
//! 1. The [`search`](crate::search) finds the schedule with the least cost under the urgency's [`weights`].
//! 2. The best few are played again with what is not known for sure (dirtying, sizes, rates) a little off, and judged by
//!    the middle and by the worse end of what comes out.
//! 3. The plain policies are judged the same way. If the best of them is not worse by more than the model's own error, it
//!    is chosen: cleverness that gains less than it is sure of is none. What is as good as the best is a tie: less
//!    exposure wins.
//! 4. The same search keeps the best under the weights of every urgency: the frontier, what could be had instead.
//! 5. For every VM every other way is played with all else unchanged: why it goes this way, and by what margin.

use crate::{
    plan::{Fallback, Move},
    policy::{GangFacts, VmFacts, limit},
    reserve::{best_share, promised},
    search::{
        Cost, Found, Judge, Mover, Schedule, Task, Way, Weights, least_seconds, moves, search,
        search_for,
    },
    window::quiet,
};
use droveway_fleet::{AllowPostcopy, Intent, Ratio, Technique, Urgency, VmId};
use droveway_model::{
    calibration::{Calibration, Quantity},
    ensemble,
    fluid::{Course, End, FlowCourse, Fluid, MoveModel},
    urgency::gains_enough,
    world::{Uncertainty, World, payload},
};
use serde::Serialize;

/// What a planner that decides from measurements knows.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The hosts, VMs and their traffic.
    pub world: &'a World,
    /// What earlier runs taught.
    pub calibration: &'a Calibration,
}

/// What counts how much, by urgency. One second of total time against: a second in which one VM is silent; the bytes that
/// applications lose, as seconds of the port; a second of exposure. Missing a deadline outweighs everything.
///
/// - critical: time alone; the rest only decides between equals;
/// - high: time, but fifty seconds of silence or of a lost port are as bad as one second more;
/// - medium: a lost second of the port is as bad as a second more, a silent VM half of that;
/// - low: applications first; ten seconds more are as bad as one second of silence.
#[must_use]
pub const fn weights(urgency: Urgency) -> Weights {
    let missed = 1_000.0;
    match urgency {
        Urgency::Critical => {
            Weights { time: 1.0, outage: 0.001, loss: 0.001, exposure: 0.000_1, missed }
        }
        Urgency::High => Weights { time: 1.0, outage: 0.02, loss: 0.02, exposure: 0.002, missed },
        Urgency::Medium => Weights { time: 1.0, outage: 0.5, loss: 1.0, exposure: 0.02, missed },
        Urgency::Low => Weights { time: 0.1, outage: 1.0, loss: 2.0, exposure: 0.02, missed },
    }
}

/// How hard the search tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Schedules that are played; `None`: as many as suit the gang's size.
    pub plays: Option<usize>,
    /// Chance: the same question and the same seed have the same answer.
    pub seed: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Effort { plays: None, seed: SEED }
    }
}

impl Effort {
    fn plays_for(self, vms: usize) -> usize {
        self.plays.unwrap_or((VM_PLAYS / vms.max(1)).max(PLAYS_LEAST))
    }
}

/// Plays that a plan may cost, times its VMs: a play takes some two microseconds a VM, so this is some hundredths of a second.
const VM_PLAYS: usize = 8_000;
/// A large gang needs more: about half a second for 64 VMs.
const PLAYS_LEAST: usize = 600;

/// The background stream's ceiling as a share of the port, where a guest's page waits count: what is left lets requested
/// pages pass an empty queue (measured at 200 Mbit/s: silence of 0.7 s instead of 4.7 s).
pub(crate) const GENTLE_SHARE: f64 = 0.2;

/// What the planner found, beside the plan itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reasoning {
    /// The urgency that was planned for.
    pub urgency: Urgency,
    /// The chosen schedule's cost.
    pub cost: Cost,
    /// No schedule costs less than this, seconds.
    pub bound: f64,
    /// What a better schedule could gain at most, as a share of the cost; 0 if all were considered.
    pub gap: f64,
    /// Schedules that were played.
    pub plays: usize,
    /// `search`, or the plain policy that the never-worse rule preferred.
    pub chosen: String,
    /// The best schedule's cost, when a plain policy was preferred to it.
    pub preferred_to: Option<Cost>,
    /// The model's error that a gain has to exceed, seconds.
    pub error: f64,
    /// What was not chosen, the least cost first.
    pub alternatives: Vec<Alternative>,
    /// What could be had for another urgency, fastest first; none is worse than another in everything.
    pub frontier: Vec<Alternative>,
    /// Why each VM goes the way it goes, in the plan's order.
    pub why: Vec<Why>,
    /// Whether the deadlines can be kept, if there are any.
    pub deadlines: Option<Deadlines>,
    /// What else there is to say: an application that does not keep what was promised.
    pub remarks: Vec<String>,
}

/// Whether the deadlines can be kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Deadlines {
    /// The answer.
    pub verdict: Verdict,
    /// What the fastest schedule takes, seconds, with what the forecast may be off.
    pub fastest_seconds: f64,
    /// What would help, the smallest change first; empty if nothing is needed.
    pub remedies: Vec<String>,
}

/// Whether deadlines can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// By this plan, even if the forecast is off as far as one in twenty is.
    Feasible,
    /// By this plan if the forecast holds or errs to the good side, but not surely.
    AtRisk,
    /// By no schedule that was found, even if the forecast is off as far to the good side as one in twenty is.
    Infeasible,
    /// By none at all: what has to be sent takes longer than there is time.
    Impossible,
}

/// A schedule that was not chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alternative {
    /// What it is: a plain policy, or the best for an urgency.
    pub name: String,
    /// What it costs under the urgency that was planned for.
    pub cost: Cost,
    /// By how much it lost, as a share of the chosen one's cost.
    pub margin: f64,
    /// The longest silence of a VM, seconds.
    pub worst_outage_seconds: f64,
}

/// Why a VM goes the way it goes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// The VM.
    pub vm: VmId,
    /// How it goes.
    pub technique: Technique,
    /// The other technique that comes nearest, with all else unchanged.
    pub runner_up: Option<RunnerUp>,
    /// In a sentence.
    pub reason: String,
}

/// The way that a VM nearly went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunnerUp {
    /// How.
    pub technique: Technique,
    /// What the whole schedule would cost more, seconds.
    pub costs_more: f64,
    /// Of that: total time, seconds.
    pub seconds: f64,
    /// Silences, seconds.
    pub outage_seconds: f64,
    /// Lost bytes.
    pub lost_bytes: f64,
}

/// What was chosen: moves in their order, how many at once, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// The moves.
    pub moves: Vec<Move>,
    /// At most so many at once.
    pub concurrency: u32,
    /// So many seconds are waited first, for a quieter phase.
    pub wait: Option<f64>,
    /// The share of both ports that is promised to the moves.
    pub share: Option<f64>,
    /// Why.
    pub reasoning: Reasoning,
}

/// Chooses how `facts`' VMs move. `steps` are their moves as far as nothing is to be chosen, in the facts' order, `models`
/// the same as the fluid model plays them.
#[must_use]
pub fn propose(
    intent: &Intent,
    facts: &GangFacts,
    known: Known<'_>,
    steps: &[Move],
    models: Vec<MoveModel>,
    effort: Effort,
) -> Option<Proposal> {
    let mut task = task(intent, facts, known, models);
    let plays = effort.plays_for(facts.vms.len());
    let port = facts.port_rate;
    let asked = intent.reserve.of(port).filter(|_| intent.shaping);
    let share = match asked {
        Some(rate) => Some(payload(rate) / payload(port).max(1.0)),
        None => best_share(intent, &task.hurried(safety(known)), plays, effort.seed),
    };
    if let Some(share) = share {
        task = promised(&task, share, intent.tuning);
    }
    let (task, found, deadlines) = planned(task, facts, known, plays, effort.seed)?;
    let mut judge = Judge::new(&task);
    let plain = plain(&task, &mut judge);
    let Preferred { chosen, schedule, cost, searched, error } =
        preferred(&task, known, &found, &plain)?;
    let course = judge.course(&schedule);
    let context = Context { facts, task: &task, schedule: &schedule, cost, course: &course };
    let mut alternatives: Vec<Alternative> = plain
        .iter()
        .filter(|(name, ..)| *name != chosen)
        .map(|(name, _, schedule)| context.alternative(name, schedule, &mut judge))
        .collect();
    alternatives.sort_by(|a, b| a.cost.value.total_cmp(&b.cost.value));
    let frontier = frontier(&context, &found, &mut judge);
    let mut remarks = context.below_floor();
    let waiting = context.worth_waiting(intent, known);
    let wait = waiting.as_ref().map(|(seconds, _)| *seconds);
    remarks.extend(waiting.map(|(_, text)| text));
    let why = context.why(&mut judge);
    let reasoning = Reasoning {
        urgency: intent.urgency,
        cost,
        bound: found.bound,
        gap: if found.exact && cost == found.cost { 0.0 } else { gap(cost, &found) },
        plays: found.plays + judge.plays,
        preferred_to: (chosen != "search").then_some(searched),
        chosen,
        error,
        alternatives,
        frontier,
        why,
        deadlines,
        remarks,
    };
    let moves = schedule.order.iter().map(|index| {
        let way = task.movers[*index].ways[schedule.ways[*index]];
        moved(&steps[*index], way)
    });
    let concurrency = u32::try_from(schedule.window).unwrap_or(u32::MAX);
    Some(Proposal { moves: moves.collect(), concurrency, wait, share, reasoning })
}

/// What is to be done, and how it compares.
pub(crate) struct Preferred {
    /// `search`, or the plain policy.
    pub(crate) chosen: String,
    pub(crate) schedule: Schedule,
    pub(crate) cost: Cost,
    /// What the best that the search found costs.
    searched: Cost,
    /// The error that a gain has to exceed, seconds.
    error: f64,
}

/// The best of what was found, or the best plain schedule where that is not worse by more than the model's error.
pub(crate) fn preferred(
    task: &Task,
    known: Known<'_>,
    found: &Found,
    plain: &[(String, Cost, Schedule)],
) -> Option<Preferred> {
    let (_, spread) = known.calibration.error(Quantity::Total, None);
    let uncertain = &known.world.uncertain;
    let mut doubt = Doubt { task, uncertain, fluid: Fluid::default() };
    let (found_score, (found_cost, found_schedule)) = doubt.best(&found.nearby)?;
    let plain_schedules: Vec<(Cost, Schedule)> =
        plain.iter().map(|(_, cost, schedule)| (*cost, schedule.clone())).collect();
    let (plain_score, (plain_cost, plain_schedule)) = doubt.best(&plain_schedules)?;
    // The error is one of predictions; both sides share most of it, so what a gain must exceed is a part.
    let error = ERROR_SHARE * spread * found_score;
    let clever = gains_enough(plain_score, found_score, error);
    let plain_name = plain.iter().find(|(_, _, schedule)| schedule == plain_schedule);
    let (chosen, schedule, cost) = match plain_name {
        Some((name, ..)) if !clever && found_schedule != plain_schedule => {
            (name.clone(), plain_schedule.clone(), *plain_cost)
        }
        _ => ("search".to_owned(), found_schedule.clone(), *found_cost),
    };
    Some(Preferred { chosen, schedule, cost, searched: *found_cost, error })
}

/// One forecast in twenty is beyond so many standard deviations.
const P95: f64 = 1.645;

/// Searches for a schedule that keeps the deadlines even if the forecast is off; if there is none, for one that keeps them
/// if it is not.
fn planned(
    task: Task,
    facts: &GangFacts,
    known: Known<'_>,
    plays: usize,
    seed: u64,
) -> Option<(Task, Found, Option<Deadlines>)> {
    let due = task.due();
    let others = Urgency::ALL.map(weights);
    if due.is_infinite() {
        let found = search_for(&task, &others, plays, seed)?;
        return Some((task, found, None));
    }
    let safety = safety(known);
    let safe = task.hurried(safety);
    let found = search_for(&safe, &others, plays, seed)?;
    let fastest = |task: &Task| {
        let calm = Task { weights: weights(Urgency::Critical), ..task.hurried(0.0) };
        search(&calm, plays, seed).map_or(f64::INFINITY, |f| f.cost.parts.total_seconds * safety)
    };
    if keeps(&found) {
        let fastest_seconds = fastest(&task);
        let (verdict, remedies) = (Verdict::Feasible, Vec::new());
        return Some((safe, found, Some(Deadlines { verdict, fastest_seconds, remedies })));
    }
    let fastest_seconds = fastest(&task);
    let mut remedies = Vec::new();
    let missing = fastest_seconds - due;
    if missing > 0.0 {
        remedies.push((missing, format!("{:.0} s more", missing.ceil())));
    }
    for (index, fact) in facts.vms.iter().enumerate().filter(|(_, fact)| !fact.allow_postcopy) {
        let mut freer = task.clone();
        freer.movers[index].ways.extend(exposing(task.capacity));
        if search(&freer.hurried(safety), plays, seed).is_some_and(|found| keeps(&found)) {
            remedies.push((0.0, format!("allow post-copy for {}", fact.vm)));
        }
    }
    if task.parallel_max < task.movers.len() {
        let freer = Task { parallel_max: task.movers.len(), ..task.clone() };
        if search(&freer.hurried(safety), plays, seed).is_some_and(|found| keeps(&found)) {
            remedies.push((0.0, "let more VMs move at once (--max-parallel)".to_owned()));
        }
    }
    for percent in RESERVED {
        let mut freer = task.clone();
        if freer.reserve(f64::from(percent) / 100.0)
            && search(&freer.hurried(safety), plays, seed).is_some_and(|found| keeps(&found))
        {
            let text = format!("reserve {percent} % of both ports for migration");
            remedies.push((0.0, text));
            break;
        }
    }
    remedies.sort_by(|a, b| a.0.total_cmp(&b.0));
    let raw = search_for(&task, &others, plays, seed)?;
    let hopeful =
        || search(&task.hurried(1.0 / safety), plays, seed).is_some_and(|found| keeps(&found));
    let verdict = if keeps(&raw) || hopeful() {
        Verdict::AtRisk
    } else if least_seconds(&task) > task.deadline {
        Verdict::Impossible
    } else {
        Verdict::Infeasible
    };
    let remedies = remedies.into_iter().map(|(_, text)| text).collect();
    Some((task, raw, Some(Deadlines { verdict, fastest_seconds, remedies })))
}

/// Whether it misses nothing.
pub(crate) fn keeps(found: &Found) -> bool {
    found.cost.parts.missed < 0.5
}

/// So many times less time is planned with, so that deadlines are kept even if the forecast is off.
pub(crate) fn safety(known: Known<'_>) -> f64 {
    let (_, spread) = known.calibration.error(Quantity::Total, None);
    (P95 * spread).exp()
}

/// Reservations that are tried as a remedy, percent of a port.
const RESERVED: [u32; 4] = [60, 70, 80, 95];

impl Task {
    /// Reserves that share of the movers' ports for migration; false if more is reserved already.
    fn reserve(&mut self, share: f64) -> bool {
        let mut gained = false;
        for mover in &self.movers {
            let (from, to) = (self.gang.vms[mover.step.vm].host, mover.step.target);
            let tx = share * self.gang.ports[from].tx;
            let rx = share * self.gang.ports[to].rx;
            gained |=
                tx > self.gang.ports[from].tx_reserved || rx > self.gang.ports[to].rx_reserved;
            self.gang.ports[from].tx_reserved = tx.max(self.gang.ports[from].tx_reserved);
            self.gang.ports[to].rx_reserved = rx.max(self.gang.ports[to].rx_reserved);
        }
        gained
    }

    /// The first deadline of any, seconds.
    pub(crate) fn due(&self) -> f64 {
        self.movers.iter().map(|mover| mover.deadline).fold(self.deadline, f64::min)
    }

    /// The same with so many times less time; zero: all the time in the world.
    pub(crate) fn hurried(&self, times: f64) -> Task {
        let hurry = |deadline: f64| if times > 0.0 { deadline / times } else { f64::INFINITY };
        let mut task = self.clone();
        task.deadline = hurry(task.deadline);
        for mover in &mut task.movers {
            mover.deadline = hurry(mover.deadline);
        }
        task
    }
}

/// The same question has the same answer.
const SEED: u64 = 1;
/// Two forecasts of the same gang by the same model err in the same direction: half of the error is about their difference.
pub(crate) const ERROR_SHARE: f64 = 0.5;

fn gap(cost: Cost, found: &Found) -> f64 {
    if cost.value <= 0.0 { 0.0 } else { ((cost.value - found.bound) / cost.value).clamp(0.0, 1.0) }
}

/// The step, one way.
pub(crate) fn moved(step: &Move, way: Way) -> Move {
    let mut step = step.clone();
    step.technique = way.technique;
    if way.technique == Technique::StopAndCopy {
        step.fallback = Fallback::Abort;
    }
    if let Some(rate) = way.postcopy_bandwidth {
        step.postcopy_bandwidth = limit(rate);
    }
    step
}

pub(crate) fn task(
    intent: &Intent,
    facts: &GangFacts,
    known: Known<'_>,
    models: Vec<MoveModel>,
) -> Task {
    let mut gang = known.world.gang.clone();
    gang.constants = known.calibration.constants;
    let (source, target) =
        models.first().map_or((0, 0), |step| (known.world.gang.vms[step.vm].host, step.target));
    let capacity = gang.ports[source].tx.min(gang.ports[target].rx);
    let seconds =
        |time: Option<std::time::Duration>| time.map_or(f64::INFINITY, |time| time.as_secs_f64());
    let groups: Vec<&String> = facts.vms.iter().filter_map(|fact| fact.group.as_ref()).collect();
    // Critical is time alone.
    let floor = if intent.urgency == Urgency::Critical { None } else { intent.floor };
    let mover = |(fact, step): (&VmFacts, MoveModel)| Mover {
        ways: ways(intent, fact, capacity),
        deadline: seconds(fact.deadline),
        priority: 1.0,
        group: fact.group.as_ref().and_then(|name| groups.iter().position(|group| *group == name)),
        step,
    };
    let count = facts.vms.len().max(1);
    Task {
        movers: facts.vms.iter().zip(models).map(mover).collect(),
        weights: weights(intent.urgency),
        parallel_max: intent.max_parallel.map_or(count, |most| most as usize).min(count),
        exposed_max: intent.max_exposed.map_or(count, |most| most as usize),
        deadline: seconds(intent.deadline.map(droveway_fleet::TimeSpan::duration)),
        gang,
        capacity,
        floor: floor.map_or(0.0, Ratio::get),
    }
}

/// How a VM may move: what the operator named, or everything that is allowed and not beyond what it bears.
fn ways(intent: &Intent, fact: &VmFacts, capacity: f64) -> Vec<Way> {
    let way = |technique| Way { technique, postcopy_bandwidth: None };
    if let Some(technique) = intent.techniques.get(&fact.vm) {
        return vec![way(*technique)];
    }
    let mut ways = vec![way(Technique::PreCopy)];
    if fact.allow_postcopy && intent.allow_postcopy != AllowPostcopy::Never {
        ways.extend(exposing(capacity));
    }
    ways
}

/// The ways that split a VM's memory between two hosts for a while.
fn exposing(capacity: f64) -> [Way; 3] {
    let way = |technique, postcopy_bandwidth| Way { technique, postcopy_bandwidth };
    [
        way(Technique::Hybrid, None),
        way(Technique::PostCopy, None),
        way(Technique::PostCopy, Some(GENTLE_SHARE * capacity)),
    ]
}

/// The plain policies' schedules, under the task's limits.
pub(crate) fn plain(task: &Task, judge: &mut Judge<'_>) -> Vec<(String, Cost, Schedule)> {
    let mut plain = Vec::new();
    let most = task.movers.len().min(task.parallel_max).max(1);
    for technique in [Technique::PreCopy, Technique::PostCopy, Technique::Hybrid] {
        for (window, order) in [(1, "serial"), (most, "parallel")] {
            // A single VM has no order.
            if order == "parallel" && most == 1 {
                continue;
            }
            let schedule = task.plain(technique, window);
            plain.push((format!("{technique}-{order}"), judge.cost(&schedule), schedule));
        }
    }
    plain
}

/// Judges schedules with what is not known for sure a little off.
pub(crate) struct Doubt<'a> {
    pub(crate) task: &'a Task,
    /// How well each VM's memory is known.
    pub(crate) uncertain: &'a [Uncertainty],
    pub(crate) fluid: Fluid,
}

/// Scores that differ by less are a tie.
pub(crate) const TIE: f64 = 0.005;

impl Doubt<'_> {
    /// Half of what a schedule costs in the middle and half of what it costs where it goes badly: one time in ten or less.
    pub(crate) fn score(&mut self, schedule: &Schedule) -> f64 {
        let mut gang = self.task.gang.clone();
        gang.moves = moves(self.task, schedule).collect();
        gang.windows = vec![schedule.window.max(1)];
        let mut values: Vec<f64> = ensemble::gangs(&gang, self.uncertain)
            .iter()
            .map(|gang| self.task.cost(&self.fluid.play(gang), &schedule.order).value)
            .collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::INFINITY);
        0.5 * (at(values.len() / 2) + at(values.len().saturating_sub(1)))
    }

    /// The best of these, and its score. Of ties the one with less exposure, then the one named first.
    fn best<'s>(
        &mut self,
        schedules: &'s [(Cost, Schedule)],
    ) -> Option<(f64, &'s (Cost, Schedule))> {
        let scored: Vec<(f64, &(Cost, Schedule))> =
            schedules.iter().map(|held| (self.score(&held.1), held)).collect();
        let least = scored.iter().map(|(score, _)| *score).fold(f64::INFINITY, f64::min);
        let tie = scored.into_iter().filter(|(score, _)| *score <= least + TIE * least.abs());
        tie.min_by(|(_, a), (_, b)| {
            a.0.parts.exposure_seconds.total_cmp(&b.0.parts.exposure_seconds)
        })
    }
}

/// The best schedules for every urgency; of those none that is worse than another in time, loss and silence.
fn frontier(context: &Context<'_>, found: &Found, judge: &mut Judge<'_>) -> Vec<Alternative> {
    let rivals = Urgency::ALL.iter().zip(&found.rivals);
    let points: Vec<Alternative> = rivals
        .map(|(urgency, (_, schedule))| context.alternative(urgency.name(), schedule, judge))
        .collect();
    let worse = |a: &Alternative, b: &Alternative| {
        let parts = |of: &Alternative| {
            [of.cost.parts.total_seconds, of.cost.parts.lost_bytes, of.worst_outage_seconds]
        };
        let pairs: Vec<_> = parts(a).into_iter().zip(parts(b)).collect();
        pairs.iter().all(|(a, b)| a >= b) && pairs.iter().any(|(a, b)| a > b)
    };
    let kept = |point: &&Alternative| !points.iter().any(|other| worse(point, other));
    let mut frontier: Vec<Alternative> = points.iter().filter(kept).cloned().collect();
    frontier.sort_by(|a, b| a.cost.parts.total_seconds.total_cmp(&b.cost.parts.total_seconds));
    frontier.dedup_by(|later, first| {
        let same = first.cost == later.cost;
        if same {
            first.name = format!("{}, {}", first.name, later.name);
        }
        same
    });
    frontier
}

/// At low urgency without a deadline so many times what the moves take may be waited.
const WAIT_TIMES: f64 = 10.0;
/// A second of waiting, in which nothing suffers, against one of moving.
const WAIT_WEIGHT: f64 = 0.1;

/// The chosen schedule and what it is compared in.
struct Context<'a> {
    facts: &'a GangFacts,
    task: &'a Task,
    schedule: &'a Schedule,
    cost: Cost,
    course: &'a Course,
}

impl Context<'_> {
    fn alternative(&self, name: &str, schedule: &Schedule, judge: &mut Judge<'_>) -> Alternative {
        let course = judge.course(schedule);
        let cost = self.task.cost(&course, &schedule.order);
        let worst = course.moves.iter().map(|step| step.outage_seconds).fold(0.0, f64::max);
        Alternative {
            name: name.to_owned(),
            cost,
            margin: (cost.value - self.cost.value) / self.cost.value.max(1e-9),
            worst_outage_seconds: worst,
        }
    }

    /// How long to wait for a quieter phase, and why; `None`: it starts at once. Only where there is slack: up to the latest
    /// safe start before a deadline; at low urgency without one, ten times what the moves take.
    fn worth_waiting(&self, intent: &Intent, known: Known<'_>) -> Option<(f64, String)> {
        let takes = self.cost.parts.total_seconds;
        let surely = takes * safety(known);
        let due = self.task.due();
        let most = match intent.urgency {
            Urgency::Low if due.is_infinite() => WAIT_TIMES * takes,
            Urgency::Low | Urgency::Medium if due.is_finite() => due - surely,
            _ => return None,
        };
        let vms: Vec<usize> = self.task.movers.iter().map(|mover| mover.step.vm).collect();
        let found = quiet(known.world, &vms, takes, most)?;
        let cost = |share: f64| {
            let mut task = self.task.clone();
            for flow in &mut task.gang.flows {
                let of = |end: End| matches!(end, End::Vm(vm) if vms.contains(&vm));
                if of(flow.from) || of(flow.to) {
                    flow.demand *= share;
                }
            }
            Judge::new(&task).cost(self.schedule)
        };
        let (now, then) = (cost(found.now), cost(found.then));
        let price = WAIT_WEIGHT * self.task.weights.time * found.wait;
        if now.value - then.value <= price {
            return None;
        }
        let text = format!(
            "it waits {:.0} s for a quieter phase of the traffic: {:.1} MB are lost then, {:.1} MB now",
            found.wait,
            then.parts.lost_bytes / 1e6,
            now.parts.lost_bytes / 1e6
        );
        Some((found.wait, text))
    }

    /// Which applications keep less than is promised, in this schedule.
    fn below_floor(&self) -> Vec<String> {
        let floor = self.task.floor;
        let name = |end: End| match end {
            End::Vm(vm) => {
                let mover = self.task.movers.iter().position(|mover| mover.step.vm == vm);
                mover.map_or("another VM".to_owned(), |index| self.facts.vms[index].vm.to_string())
            }
            End::Host(_) => "a host".to_owned(),
            End::Outside => "outside".to_owned(),
        };
        let flows = self.task.gang.flows.iter().zip(&self.course.flows);
        let kept = |of: &FlowCourse| of.carried_bytes / (of.carried_bytes + of.lost_bytes).max(1.0);
        flows
            .filter(|(_, of)| of.lost_bytes > 1.0 && kept(of) < floor)
            .map(|(flow, of)| {
                format!(
                    "the traffic from {} to {} keeps {:.0} % of its rate while VMs move, below the floor of {:.0} %: no \
                     schedule that was found keeps it",
                    name(flow.from),
                    name(flow.to),
                    100.0 * kept(of),
                    100.0 * floor
                )
            })
            .collect()
    }

    fn why(&self, judge: &mut Judge<'_>) -> Vec<Why> {
        let one = |(place, index): (usize, &usize)| {
            let mover = &self.task.movers[*index];
            let own = mover.ways[self.schedule.ways[*index]];
            let mut runner_up: Option<RunnerUp> = None;
            for (way, of) in mover.ways.iter().enumerate() {
                if of.technique == own.technique {
                    continue;
                }
                let mut other = self.schedule.clone();
                other.ways[*index] = way;
                let cost = judge.cost(&other);
                let candidate = RunnerUp {
                    technique: of.technique,
                    costs_more: cost.value - self.cost.value,
                    seconds: cost.parts.total_seconds - self.cost.parts.total_seconds,
                    outage_seconds: cost.parts.outage_seconds - self.cost.parts.outage_seconds,
                    lost_bytes: cost.parts.lost_bytes - self.cost.parts.lost_bytes,
                };
                if runner_up.is_none_or(|held| candidate.costs_more < held.costs_more) {
                    runner_up = Some(candidate);
                }
            }
            let vm = self.facts.vms[*index].vm.clone();
            let reason = self.reason(place, *index, own, runner_up);
            Why { vm, technique: own.technique, runner_up, reason }
        };
        self.schedule.order.iter().enumerate().map(one).collect()
    }

    fn reason(&self, place: usize, index: usize, own: Way, runner_up: Option<RunnerUp>) -> String {
        let vm = self.task.movers[index].step.vm;
        let flows = &self.task.gang.flows;
        let rate = |of: &dyn Fn(&droveway_model::fluid::FlowModel) -> bool| -> f64 {
            let flows = flows.iter().filter(|flow| of(flow));
            // The sum of nothing is minus zero, which nobody wants to read.
            flows.map(|flow| flow.demand.min(self.task.capacity)).sum::<f64>().max(0.0)
        };
        let this = droveway_model::fluid::End::Vm(vm);
        let share = |rate: f64| 100.0 * rate / self.task.capacity.max(1.0);
        let (tx, rx) = (share(rate(&|f| f.from == this)), share(rate(&|f| f.to == this)));
        let step = &self.course.moves[place];
        let mut text = format!(
            "sends {tx:.0} % and receives {rx:.0} % of the port; {}: {:.1} s, silent for {:.2} s",
            own.technique,
            step.duration_seconds(),
            step.outage_seconds
        );
        match runner_up {
            None => text.push_str("; nothing else is allowed"),
            Some(other) => text.push_str(&format!(
                "; {} instead: {:+.1} s in all, {:+.2} s of silence, {:+.1} MB lost",
                other.technique,
                other.seconds,
                other.outage_seconds,
                other.lost_bytes / 1e6
            )),
        }
        text
    }
}
