//! The policy `adaptive`: technique, order, concurrency and what is held of the ports, chosen together for what was measured and
//! how urgent it is.
//!
//! 1. The [`search`](crate::search) finds the schedules with the least cost under the urgency's [`weights`]: on the ports as
//!    they are, with the two most promising shares of them held for the moves, and at low urgency also with streams that are
//!    paced at what applications leave.
//! 2. The best few of each are played again with what is not known for sure (dirtying, sizes, rates) a little off, and judged
//!    together by the middle and by the worse end of what comes out (`choice`).
//! 3. The plain policies are judged the same way, on the ports as they would be for them. If the best of them is not worse by
//!    more than the model's own error, it is chosen: cleverness that gains less than it is sure of is none. What is as good as
//!    the best is a tie: less exposure wins, and where little but time counts what medium urgency would choose.
//! 4. The same searches keep the best under the weights of every urgency and of what lies between: the frontier, what could be
//!    had instead.
//! 5. For every VM every other way is played with all else unchanged: why it goes this way, and by what margin.
//! 6. Deadlines are a question of their own: `deadlines`.

pub(crate) mod choice;
mod context;
pub(crate) mod deadlines;
mod frontier;
mod waiting;

pub use deadlines::{Deadlines, Limit, Verdict};

use crate::{
    plan::{Fallback, Move},
    policy::{GangFacts, VmFacts, limit},
    reserve::{NOBODY_RATIO, YIELDING_RATIO, finalists, promised, tried},
    search::{Cost, Judge, Mover, Schedule, Task, Way, Weights, lower_bound},
};
use choice::{Choice, Due, Plain, Pool, choose};
use context::Context;
use deadlines::{Planned, Question, Terms, questions};
use droveway_fleet::{AllowPostcopy, Intent, RateLimit, Ratio, Technique, Urgency, VmId};
use droveway_model::{
    calibration::{Calibration, Quantity},
    fluid::{End, FlowModel, MoveModel},
    urgency::gentle_rate,
    world::{World, payload},
};
use frontier::{HASTY, frontier, rivals};
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
/// - critical: time alone; the rest only decides between equals, which is what the model cannot tell apart;
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

/// How hard the search tries, and how long a gentle plan may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// Schedules that are played; `None`: as many as suit the gang's size.
    pub plays: Option<usize>,
    /// Chance: the same question and the same seed have the same answer.
    pub seed: u64,
    /// At low urgency without a deadline the last VM arrives within so many times what the fastest schedule takes.
    pub finish_times: f64,
    /// What may be chosen.
    pub levers: Levers,
}

/// What may be chosen: all of it, unless an ablation asks what a lever is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levers {
    /// Every VM that permits it goes this way; `None`: each as is best.
    pub technique: Option<Technique>,
    /// VMs start in the order in which they were named.
    pub order_given: bool,
    /// A plain policy is preferred to what gains less than the model's error.
    pub never_worse: bool,
}

impl Default for Levers {
    fn default() -> Self {
        Levers { technique: None, order_given: false, never_worse: true }
    }
}

impl Levers {
    /// Takes from a task what may not be chosen. A VM that does not permit the technique keeps its ways.
    pub(crate) fn limit(self, task: &mut Task) {
        task.order_given |= self.order_given;
        let Some(technique) = self.technique else { return };
        for mover in &mut task.movers {
            let one = |way: &Way| way.technique == technique;
            if mover.ways.iter().any(one) {
                mover.ways.retain(one);
            }
        }
    }
}

impl Default for Effort {
    fn default() -> Self {
        Effort { plays: None, seed: SEED, finish_times: FINISH_TIMES, levers: Levers::default() }
    }
}

impl Effort {
    fn plays_for(self, vms: usize) -> usize {
        self.plays.unwrap_or((VM_PLAYS / vms.max(1)).max(PLAYS_LEAST))
    }
}

/// Plays that a plan may cost, times its VMs: a play takes some two microseconds a VM, so this is some hundredths of a second.
pub(crate) const VM_PLAYS: usize = 8_000;
/// A large gang needs more: about half a second for 64 VMs.
pub(crate) const PLAYS_LEAST: usize = 600;
/// Applications come first at low urgency, but a drain that nobody waits for any more is none: moves that leave applications all
/// their traffic take two to three times what the fastest take, as long as a quarter of the port is free.
pub(crate) const FINISH_TIMES: f64 = 4.0;
/// What is not the most promising is searched with such a part of the plays.
const OTHERS_PART: usize = 3;
/// Of the port, beside what applications take, a paced stream leaves this much.
const PACE_HEADROOM: f64 = 0.05;

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
    /// What a better schedule could gain at most, as a share of the cost; 0 if all were considered. Of ties it is the cheapest's gap.
    pub gap: f64,
    /// What a better schedule could gain at most that moves one VM at a time, as a share of the cost: of up to eight VMs all of
    /// those are considered. `None`: not known beyond `gap`.
    pub serial_gap: Option<f64>,
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
    /// What could be had for another urgency and between two, fastest first, each with the share of the ports that suits it
    /// best; none is worse than another in everything.
    pub frontier: Vec<Alternative>,
    /// Why each VM goes the way it goes, in the plan's order.
    pub why: Vec<Why>,
    /// Whether the deadlines can be kept, if there are any.
    pub deadlines: Option<Deadlines>,
    /// What else there is to say: an application that does not keep what was promised.
    pub remarks: Vec<String>,
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
    /// The share of both ports that it holds for the moves.
    pub share: Option<f64>,
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
    let mut bare = task(intent, facts, known, models.clone());
    effort.levers.limit(&mut bare);
    let (plays, seed) = (effort.plays_for(facts.vms.len()), effort.seed);
    let port = facts.port_rate;
    let rate = intent.reserve.of(port).filter(|_| intent.shaping);
    let asked = rate.map(|rate| payload(rate) / payload(port).max(1.0));
    let rivals: Vec<Weights> = rivals().into_iter().map(|(_, weights)| weights).collect();
    let gently = intent.urgency == Urgency::Low && bare.due().is_infinite();
    let hurried = bare.hurried(safety(known));
    let yielding = yielding_cost(intent.urgency, &bare);
    let tried = tried(intent, &hurried, gently, &rivals, plays, seed);
    let question = Question {
        intent,
        facts,
        known,
        bare: &bare,
        rivals: &rivals,
        hasty: HASTY,
        plays,
        seed,
        left: questions(facts.vms.len()),
        finish_bound: if gently { effort.finish_times * fastest(&tried) } else { f64::INFINITY },
    };
    let Planned { pools, plain: simple, deadlines } =
        question.planned(terms(intent, &bare, asked, &tried, yielding, plays))?;
    let surely = deadlines.as_ref().is_none_or(|found| found.verdict == Verdict::Feasible);
    let due = match &deadlines {
        Some(_) if surely => Due::Hurried(safety(known)),
        None if gently => Due::Bound,
        _ => Due::Asked,
    };
    if !surely && intent.urgency != Urgency::Critical && bare.floor <= 0.0 {
        // What else the urgency asks for is worth less than the deadline: a schedule that misses it anyway would be late for that. A
        // floor is the operator's word as well, and stays.
        let hurried = Intent { urgency: Urgency::Critical, ..intent.clone() };
        let mut proposal = propose(&hurried, facts, known, steps, models, effort)?;
        proposal.reasoning.remarks.push(format!(
            "no schedule was found that surely keeps the deadlines and is what urgency {} asks for: planned for time alone",
            intent.urgency
        ));
        return Some(proposal);
    }
    let never_worse = effort.levers.never_worse;
    let schedules = plain(&simple, &mut Judge::new(&simple));
    let simply = Plain { task: &simple, share: asked, schedules: &schedules };
    let Choice { chosen, pool, mut schedule, cost, searched, error } =
        choose(known, intent.urgency, due, yielding, &pools, &simply, never_worse)?;
    if schedule.window >= schedule.order.len() {
        // All at once there is no order but the one in which the VMs were named.
        schedule.order.sort_unstable();
    }
    let (task, share) =
        pool.map_or((&simple, asked), |index| (&pools[index].task, pools[index].share));
    // A plain policy's ports were searched, too, unless its limits were others.
    let searched_on = pool.or_else(|| pools.iter().position(|pool| pool.task == simple));
    let found = searched_on.map(|index| &pools[index].found);
    let bound = found.map_or_else(|| lower_bound(&simple), |found| found.bound);
    let serial = found.and_then(|found| found.serial.or(found.exact.then_some(found.bound)));
    // What decides a tie is not what the bound is of.
    let cheapest = found
        .map(|found| found.cost)
        .filter(|least| chosen == "search" && least.value < cost.value);
    let cheapest = cheapest.unwrap_or(cost);
    let mut judge = Judge::new(task);
    let course = judge.course(&schedule);
    let context = Context { facts, bare: &bare, task, schedule: &schedule, cost, course: &course };
    let mut alternatives: Vec<Alternative> = schedules
        .iter()
        .filter(|(name, ..)| *name != chosen)
        .map(|(name, _, schedule)| context.alternative(name, &simple, asked, schedule))
        .collect();
    alternatives.sort_by(|a, b| a.cost.value.total_cmp(&b.cost.value));
    let all: Vec<&Pool> = pools.iter().chain(&tried).collect();
    let frontier = frontier(&context, &all);
    let mut remarks = context.below_floor();
    let waiting = context.worth_waiting(intent, known);
    let wait = waiting.as_ref().map(|(seconds, _)| *seconds);
    remarks.extend(waiting.map(|(_, text)| text));
    let why = context.why(&mut judge);
    let reasoning = Reasoning {
        urgency: intent.urgency,
        cost,
        bound,
        gap: gap(cheapest, bound),
        serial_gap: serial.map(|bound| gap(cheapest, bound)),
        plays: all.iter().map(|pool| pool.found.plays).sum::<usize>() + judge.plays,
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
        let mover = &task.movers[*index];
        moved(&steps[*index], mover, mover.ways[schedule.ways[*index]])
    });
    let concurrency = u32::try_from(schedule.window).unwrap_or(u32::MAX);
    Some(Proposal { moves: moves.collect(), concurrency, wait, share, reasoning })
}

/// What the fastest schedule takes that was tried, seconds.
fn fastest(tried: &[Pool]) -> f64 {
    let seconds = |pool: &Pool| pool.found.rivals[HASTY].0.parts.total_seconds;
    tried.iter().map(seconds).fold(f64::INFINITY, f64::min)
}

/// What is searched in earnest: first the ports as any policy would have them.
fn terms(
    intent: &Intent,
    bare: &Task,
    asked: Option<f64>,
    tried: &[Pool],
    yielding: f64,
    plays: usize,
) -> Vec<Terms> {
    let (shares, best) = match asked {
        Some(share) => (vec![Some(share)], Some(share)),
        None => finalists(intent, tried, yielding),
    };
    let mut terms: Vec<Terms> = shares
        .into_iter()
        .map(|share| Terms {
            share,
            task: share.map_or_else(|| bare.clone(), |share| promised(bare, share)),
            plays: if share == best { plays } else { plays / OTHERS_PART },
        })
        .collect();
    if intent.urgency == Urgency::Low
        && intent.bandwidth == RateLimit::Unlimited
        && let Some(Terms { share, task, .. }) = terms.first()
        && let Some(task) = paced(task)
    {
        let plays = plays / OTHERS_PART;
        terms.push(Terms { share: *share, task, plays });
    }
    terms
}

/// The task with streams that take what applications leave of the ports, one at a time; `None` where that is not enough for
/// anybody.
fn paced(task: &Task) -> Option<Task> {
    let others = others(task);
    let mut paced = Task { parallel_max: 1, ..task.clone() };
    let mut any = false;
    for mover in &mut paced.movers {
        let dirtied = task.gang.vms[mover.step.vm].curve.initial_rate();
        let rate = gentle_rate(task.capacity, others, dirtied, PACE_HEADROOM);
        if let Some(rate) = rate {
            mover.step.bandwidth = rate;
            // Nor does its switchover count on more: what is left then is sent beside the applications.
            mover.step.switchover_bandwidth = rate;
            any = true;
        }
    }
    any.then_some(paced)
}

/// What applications take of the streams' way at most: before the first VM has moved of what the source sends, after the last of what
/// the target receives.
fn others(task: &Task) -> f64 {
    let Some(step) = task.movers.first().map(|mover| &mover.step) else { return 0.0 };
    let (source, target) = (task.gang.vms[step.vm].host, step.target);
    let moves =
        |end: End| matches!(end, End::Vm(vm) if task.movers.iter().any(|it| it.step.vm == vm));
    let is_at = |end: End, host: usize| match end {
        End::Vm(vm) => task.gang.vms[vm].host == host,
        End::Host(at) => at == host,
        End::Outside => false,
    };
    let sum = |of: &dyn Fn(&FlowModel) -> bool| -> f64 {
        let flows = task.gang.flows.iter().filter(|flow| of(flow));
        flows.map(|flow| flow.demand.min(task.capacity)).sum()
    };
    let sent = sum(&|flow| is_at(flow.from, source));
    let received = sum(&|flow| moves(flow.to) || is_at(flow.to, target));
    sent.max(received)
}

/// So many times what the model plays do streams of low urgency cost on ports that were left as they are: beside others they are paced
/// at less than what is left, where a class of their own would give them all of it. A deadline is not yielded to.
fn yielding_cost(urgency: Urgency, task: &Task) -> f64 {
    let yields = urgency == Urgency::Low
        && task.due().is_infinite()
        && others(task) > NOBODY_RATIO * task.capacity;
    if yields { 1.0 / YIELDING_RATIO } else { 1.0 }
}

/// One forecast in twenty is beyond so many standard deviations.
const P95: f64 = 1.645;

/// So many times less time is planned with, so that deadlines are kept even if the forecast is off.
pub(crate) fn safety(known: Known<'_>) -> f64 {
    let (_, spread) = known.calibration.error(Quantity::Total, None);
    (P95 * spread).exp()
}

impl Task {
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

fn gap(cost: Cost, bound: f64) -> f64 {
    if cost.value <= 0.0 { 0.0 } else { ((cost.value - bound) / cost.value).clamp(0.0, 1.0) }
}

/// The step, one way.
pub(crate) fn moved(step: &Move, mover: &Mover, way: Way) -> Move {
    let mut step = step.clone();
    step.technique = way.technique;
    if step.bandwidth == RateLimit::Unlimited && mover.step.bandwidth.is_finite() {
        step.bandwidth = limit(mover.step.bandwidth);
    }
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
    for port in [source, target] {
        gang.ports[port].tuned = intent.tuning;
    }
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
        order_given: false,
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
fn exposing(capacity: f64) -> [Way; 4] {
    let way = |technique, postcopy_bandwidth| Way { technique, postcopy_bandwidth };
    let gentle = Some(GENTLE_SHARE * capacity);
    [
        way(Technique::Hybrid, None),
        way(Technique::PostCopy, None),
        way(Technique::PostCopy, gentle),
        way(Technique::Hybrid, gentle),
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

#[cfg(test)]
mod tests;
