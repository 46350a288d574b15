//! The search for the best schedule of a gang: technique by VM, order and how many at once, judged by the fluid model.
//!
//! A *schedule* is an order, a *way* (technique, ceiling of the background stream) for each VM, and a window: so many move
//! at once, the next starts as one leaves the port. Every schedule that is considered is played; nothing is decided by a
//! formula alone. The search begins from the best serial schedule (dynamic programme over who has moved already), the
//! plain policies and the split by direction, and improves them step by step. Where the schedules that could still be better (see
//! [`lower_bound`]) are few enough for the plays that are left, all of them are played, so that the best is known to be the
//! best; otherwise the best one is shaken and improved until the plays are used up, and the bound says how much better
//! another could be. The same task, budget and seed give the same answer.
//!
//! Costs are seconds: see [`Weights`].

mod bound;
mod exact;
mod near;
mod serial;
mod split;

pub use bound::{least_seconds, lower_bound};
pub use split::search_ports;

use near::{SplitMix, neighbours, shake};

use crate::plan::HYBRID_DOWNTIME;
use droveway_fleet::Technique;
use droveway_model::{
    fluid::{Course, End, FlowCourse, Fluid, Gang, MoveCourse, MoveEnd, MoveModel, Start},
    urgency::Objective,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Gangs up to this size begin from the best serial schedule: 2^8 sets of moved VMs, some thousand plays of one move each.
pub const SERIAL_MAX: usize = 8;

/// What a second of each part of a schedule's cost weighs. Lost bytes count as the seconds in which the port would have
/// carried them, so that all parts are seconds and a weight of one means "as bad as a second of migration".
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Weights {
    /// Total migration time.
    pub time: f64,
    /// Silence of a VM (and a part of its brownout), summed over VMs by their priority.
    pub outage: f64,
    /// What applications lose.
    pub loss: f64,
    /// Memory split between two hosts, VM-seconds.
    pub exposure: f64,
    /// A deadline that is missed, or a VM that does not arrive: once, and up to once more by how late it is.
    pub missed: f64,
}

impl Weights {
    /// Per unit of each part, with a port of that capacity, bytes per second.
    pub(crate) fn objective(&self, capacity: f64) -> Objective {
        Objective {
            total_seconds: self.time,
            outage_seconds: self.outage,
            lost_bytes: self.loss / capacity.max(1.0),
            exposure_seconds: self.exposure,
            split_seconds: (SPLIT_RATIO * self.outage).max(SPLIT_WEIGHT_LEAST),
            missed: self.missed,
        }
    }
}

/// A second in which a guest waits for pages but answers between them, against one of silence: work is lost alike, but nobody is cut off.
const BROWNOUT_WEIGHT: f64 = 0.5;
/// VMs that are useful only together work over the port while they are on two hosts: each is as good as silent for so much of it.
const SPLIT_RATIO: f64 = 0.25;
/// A drain is not over sooner for whoever uses them by tearing them apart, so urgency does not make that cheaper than at medium: two seconds more are
/// worth eight seconds in which one pair is together.
const SPLIT_WEIGHT_LEAST: f64 = 0.125;

/// One way of moving a VM.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// The technique.
    pub technique: Technique,
    /// Ceiling of post-copy's background stream, bytes per second; `None`: none.
    pub postcopy_bandwidth: Option<f64>,
}

/// A VM to move.
#[derive(Debug, Clone, PartialEq)]
pub struct Mover {
    /// Everything about its move that is not searched; its switchover has the port to itself.
    pub step: MoveModel,
    /// How it may move; at least one.
    pub ways: Vec<Way>,
    /// When it has to have arrived, seconds; infinite: whenever.
    pub deadline: f64,
    /// What its silence weighs against others'.
    pub priority: f64,
    /// VMs of one group work only together.
    pub group: Option<usize>,
}

/// What is searched.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Ports, VMs and flows; no moves.
    pub gang: Gang,
    /// The VMs to move.
    pub movers: Vec<Mover>,
    /// What counts.
    pub weights: Weights,
    /// At most so many move at once.
    pub parallel_max: usize,
    /// At most so many have their memory split at once.
    pub exposed_max: usize,
    /// When the last VM has to have arrived, seconds; infinite: whenever.
    pub deadline: f64,
    /// Bytes a second that a lost byte is counted against: the slower port's.
    pub capacity: f64,
    /// The share of its traffic that every application keeps; 0: none is promised.
    pub floor: f64,
    /// Movers start in their own order: only ways and window are searched.
    pub order_given: bool,
}

/// One answer of the search.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Schedule {
    /// Indexes of movers, in the order in which they start.
    pub order: Vec<usize>,
    /// By mover, the index of its way.
    pub ways: Vec<usize>,
    /// So many at once.
    pub window: usize,
}

impl Schedule {
    /// The same schedule in its plainest form: all at once there is no order.
    fn plainest(&self) -> Schedule {
        let mut plainest = self.clone();
        if self.window >= self.order.len() {
            plainest.order.sort_unstable();
        }
        plainest
    }
}

/// What a schedule costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Its parts: seconds, bytes, counts.
    pub parts: Objective,
    /// Their weighted sum, seconds.
    pub value: f64,
}

impl Cost {
    /// What a share of the cost is a share of: a deadline that is missed outweighs everything, but makes no other difference small.
    pub(crate) fn seconds(&self) -> f64 {
        self.value.abs().min(self.parts.total_seconds)
    }

    /// What costs no more than this is equally good: see [`EQUALLY_GOOD`].
    pub(crate) fn hardly_more(&self) -> f64 {
        self.value + EQUALLY_GOOD * self.seconds()
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The best schedule.
    pub schedule: Schedule,
    /// What it costs.
    pub cost: Cost,
    /// No schedule costs less than this.
    pub bound: f64,
    /// True if every schedule was considered.
    pub exact: bool,
    /// No schedule that moves one VM at a time costs less than this; `None`: that was not proved.
    pub serial: Option<f64>,
    /// Schedules that were played.
    pub plays: usize,
    /// The best few, this one first; then, of what costs hardly more (1 %), the best under each of the other weights
    /// that were asked for.
    pub nearby: Vec<(Cost, Schedule)>,
    /// The best under each of the other weights that were asked for, with what it costs under them.
    pub rivals: Vec<(Cost, Schedule)>,
}

impl Found {
    /// How much better a schedule might be at most, as a share of this one's cost.
    #[must_use]
    pub fn gap(&self) -> f64 {
        if self.exact || self.cost.value <= 0.0 {
            return 0.0;
        }
        ((self.cost.value - self.bound) / self.cost.value).clamp(0.0, 1.0)
    }
}

/// Plays schedules of one task; counts them.
#[derive(Debug)]
pub struct Judge<'a> {
    task: &'a Task,
    gang: Gang,
    fluid: Fluid,
    /// Schedules that were played.
    pub plays: usize,
}

impl<'a> Judge<'a> {
    /// A judge of `task`'s schedules.
    #[must_use]
    pub fn new(task: &'a Task) -> Self {
        Judge { task, gang: task.gang.clone(), fluid: Fluid::default(), plays: 0 }
    }

    /// How a schedule goes.
    pub fn course(&mut self, schedule: &Schedule) -> Course {
        self.plays += 1;
        self.gang.windows.clear();
        self.gang.windows.push(schedule.window.max(1));
        self.gang.moves.clear();
        self.gang.moves.extend(moves(self.task, schedule));
        self.fluid.play(&self.gang)
    }

    /// What a schedule costs.
    pub fn cost(&mut self, schedule: &Schedule) -> Cost {
        let course = self.course(schedule);
        self.task.cost(&course, &schedule.order)
    }
}

/// A schedule as the fluid model plays it, in the schedule's order.
pub fn moves<'a>(
    task: &'a Task,
    schedule: &'a Schedule,
) -> impl Iterator<Item = MoveModel> + use<'a> {
    #[expect(clippy::cast_precision_loss, reason = "some VMs")]
    let share = 1.0 / schedule.window.clamp(1, task.movers.len().max(1)) as f64;
    schedule.order.iter().map(move |index| {
        let mover = &task.movers[*index];
        let mut step = mover.moved(mover.ways[schedule.ways[*index]]);
        // What each may count on at its switchover while so many share the port.
        step.switchover_bandwidth *= share;
        step
    })
}

impl Mover {
    /// Its move, one way.
    fn moved(&self, way: Way) -> MoveModel {
        let ceiling = way.postcopy_bandwidth.unwrap_or(self.step.postcopy_bandwidth);
        let limit = match way.technique {
            Technique::Hybrid => self.step.downtime_limit.min(HYBRID_DOWNTIME.as_secs_f64()),
            _ => self.step.downtime_limit,
        };
        // What is under way goes on wherever the order has it.
        let begun = matches!(self.step.start, Start::Begun { .. });
        MoveModel {
            technique: way.technique,
            postcopy_bandwidth: ceiling,
            downtime_limit: limit,
            start: if begun { self.step.start } else { Start::InWindow(0) },
            ..self.step.clone()
        }
    }
}

impl Task {
    /// What a course costs; `order` says whose its moves are.
    #[must_use]
    pub fn cost(&self, course: &Course, order: &[usize]) -> Cost {
        let mut outage = 0.0;
        let mut exposure = 0.0;
        let mut missed = 0.0;
        let mut last = 0.0_f64;
        for (step, index) in course.moves.iter().zip(order) {
            let mover = &self.movers[*index];
            outage +=
                mover.priority * (step.outage_seconds + BROWNOUT_WEIGHT * step.brownout_seconds);
            exposure += step.exposure_seconds;
            last = last.max(step.end_seconds);
            missed += missed_by(step, mover.deadline);
        }
        missed += late(last, self.deadline);
        missed += f64::from(self.below_floor(course));
        // A schedule that exposes more than is allowed is no better than one that does not arrive.
        if most_exposed(&course.moves) > self.exposed_max {
            missed += 1.0;
        }
        let parts = Objective {
            total_seconds: last,
            outage_seconds: outage,
            lost_bytes: course.lost_bytes,
            exposure_seconds: exposure,
            split_seconds: self.split_seconds(course, order),
            missed,
        };
        Cost { parts, value: parts.weighted(&self.objective()) }
    }

    /// Applications that keep less than is promised.
    pub(crate) fn below_floor(&self, course: &Course) -> u32 {
        if self.floor <= 0.0 {
            return 0;
        }
        let below = |flow: &&FlowCourse| {
            let wanted = flow.carried_bytes + flow.lost_bytes;
            flow.lost_bytes > (1.0 - self.floor) * wanted + 1.0
        };
        u32::try_from(course.flows.iter().filter(below).count()).unwrap_or(u32::MAX)
    }

    /// How long groups are split between two hosts, VM-seconds: from the first switchover in a group to its last.
    fn split_seconds(&self, course: &Course, order: &[usize]) -> f64 {
        let switched = |step: &MoveCourse| step.end_seconds - step.exposure_seconds;
        let mut seconds = 0.0;
        for (place, index) in order.iter().enumerate() {
            let Some(group) = self.movers[*index].group else { continue };
            let members = || {
                let of_group = order.iter().zip(&course.moves);
                of_group.filter(|(other, _)| self.movers[**other].group == Some(group))
            };
            // Counted once a group, at the first of its VMs in the order.
            if order[..place].iter().any(|other| self.movers[*other].group == Some(group)) {
                continue;
            }
            let (mut first, mut last, mut count) = (f64::INFINITY, 0.0_f64, 0.0);
            for (_, step) in members() {
                (first, last) = (first.min(switched(step)), last.max(switched(step)));
                count += 1.0;
            }
            seconds += count * (last - first).max(0.0);
        }
        seconds
    }

    /// The weights, per unit of each part.
    #[must_use]
    pub fn objective(&self) -> Objective {
        self.weights.objective(self.capacity)
    }

    fn window_max(&self) -> usize {
        self.movers.len().min(self.parallel_max).max(1)
    }

    /// Every VM by the first of its ways that has this technique, else by its first way.
    #[must_use]
    pub fn plain(&self, technique: Technique, window: usize) -> Schedule {
        let way = |mover: &Mover| {
            mover.ways.iter().position(|way| way.technique == technique).unwrap_or(0)
        };
        Schedule {
            order: (0..self.movers.len()).collect(),
            ways: self.movers.iter().map(way).collect(),
            window,
        }
    }
}

/// Windows that schedules by direction are begun with, and all at once: the more streams, the more of a port that is shared by
/// flow is theirs.
const DIRECTION_WINDOWS: [usize; 5] = [1, 2, 4, 16, 32];

impl Task {
    /// Those that send more than they receive first, by one of the ways that expose; the others last, by their first way.
    fn by_direction(&self) -> Vec<Schedule> {
        let net = |mover: &Mover| -> f64 {
            let this = End::Vm(mover.step.vm);
            let rate = |demand: f64| demand.min(self.capacity);
            let flows = self.gang.flows.iter();
            flows
                .map(|flow| match (flow.from == this, flow.to == this) {
                    (true, false) => rate(flow.demand),
                    (false, true) => -rate(flow.demand),
                    _ => 0.0,
                })
                .sum()
        };
        let nets: Vec<f64> = self.movers.iter().map(net).collect();
        // By what a byte sent gains: a small VM that sends as much goes first.
        let gains: Vec<f64> = nets
            .iter()
            .zip(&self.movers)
            .map(|(net, mover)| net / self.gang.vms[mover.step.vm].send_bytes.max(1.0))
            .collect();
        let mut order: Vec<usize> = (0..nets.len()).collect();
        order.sort_by(|a, b| gains[*b].total_cmp(&gains[*a]));
        let most = self.movers.iter().map(|mover| mover.ways.len()).max().unwrap_or(1);
        let mut schedules = Vec::new();
        for exposing in 0..most {
            let ways: Vec<usize> = self
                .movers
                .iter()
                .zip(&nets)
                .map(|(mover, net)| if *net > 0.0 { exposing.min(mover.ways.len() - 1) } else { 0 })
                .collect();
            let few = DIRECTION_WINDOWS.into_iter().filter(|window| *window < self.window_max());
            for window in few.chain([self.window_max()]) {
                schedules.push(Schedule { order: order.clone(), ways: ways.clone(), window });
                // All the same way, only the order by direction.
                let all = self.movers.iter().map(|mover| exposing.min(mover.ways.len() - 1));
                schedules.push(Schedule { order: order.clone(), ways: all.collect(), window });
            }
        }
        schedules
    }
}

/// How much a deadline is missed: not at all, or once and the more of a second time the later. Fewer missed ones come first, and of
/// as many the less late: where nothing keeps a deadline, what is nearly in time is better than what is gentle.
fn late(seconds: f64, deadline: f64) -> f64 {
    let late = seconds - deadline;
    // One that has passed already has no length that a delay could be a part of.
    if late > 0.0 { 1.0 + late / (late + deadline.max(1.0)) } else { 0.0 }
}

/// The same of one VM; who does not arrive is later than anybody who does.
fn missed_by(step: &MoveCourse, deadline: f64) -> f64 {
    if step.end == MoveEnd::Completed { late(step.end_seconds, deadline) } else { 2.0 }
}

/// How many VMs have their memory split at once, at most. A VM is exposed until it ends.
fn most_exposed(moves: &[MoveCourse]) -> usize {
    let exposed = |step: &&MoveCourse| step.exposure_seconds > 0.0;
    let begins = |step: &MoveCourse| step.end_seconds - step.exposure_seconds;
    let at_begin_of = |one: &MoveCourse| {
        let began = begins(one);
        let split = |other: &&MoveCourse| begins(other) <= began && began < other.end_seconds;
        moves.iter().filter(exposed).filter(split).count()
    };
    moves.iter().filter(exposed).map(at_begin_of).max().unwrap_or(0)
}

/// The best schedule of `task` that at most `plays` plays find; of those that cost the same, the first in the order of
/// [`Schedule`]. `None` for no VM.
#[must_use]
pub fn search(task: &Task, plays: usize, seed: u64) -> Option<Found> {
    search_for(task, &[], plays, seed)
}

/// The same, and on the way the best under other weights: a frontier costs little more than a point.
#[must_use]
pub fn search_for(task: &Task, rivals: &[Weights], plays: usize, seed: u64) -> Option<Found> {
    if task.movers.is_empty() {
        return None;
    }
    let mut search = Search::new(task, rivals, plays);
    let bounds = bound::Bounds::of(task);
    search.improve_known(&bounds.schedules());
    for rival in 1..search.objectives.len() {
        search.improve_rival(rival);
    }
    let exact = search.enumerate(&bounds);
    let mut serial = None;
    if !exact {
        search.shaken(seed);
        serial = search.serial();
    }
    search.found(bounds.all(task, serial), exact, serial)
}

/// The same where nobody asks how much better another could be: nothing is proved, and the bound is zero.
pub(crate) fn search_roughly(
    task: &Task,
    rivals: &[Weights],
    plays: usize,
    seed: u64,
) -> Option<Found> {
    if task.movers.is_empty() {
        return None;
    }
    let mut search = Search::new(task, rivals, plays);
    search.improve_known(&[]);
    for rival in 1..search.objectives.len() {
        search.improve_rival(rival);
    }
    search.shaken(seed);
    search.found(0.0, false, None)
}

/// What is found near `starts` and the plain schedules, by at most `plays` plays: for a question that is nearly one that
/// was answered, at a fraction of its price. `None` for no VM.
#[must_use]
pub fn search_near(
    task: &Task,
    starts: &[Schedule],
    rivals: &[Weights],
    plays: usize,
) -> Option<Found> {
    if task.movers.is_empty() {
        return None;
    }
    let mut search = Search::new(task, rivals, plays);
    for start in starts {
        search.offer(start);
    }
    for technique in Technique::ALL {
        for window in [1, task.window_max()] {
            search.offer(&task.plain(technique, window));
        }
    }
    if let Some(Some((cost, schedule))) = search.best.first().cloned() {
        let own = if rivals.is_empty() { plays } else { plays - plays / EQUALS_PART };
        search.improve(schedule, cost.value, 0, own);
    }
    search.improve_equals();
    search.found(lower_bound(task), false, None)
}

struct Search<'a> {
    judge: Judge<'a>,
    /// What was played, in the form in which schedules that are the same are equal: nothing is played twice.
    played: BTreeMap<Schedule, Cost>,
    task: &'a Task,
    /// What counts: for the task, and for each rival.
    objectives: Vec<Objective>,
    /// The best under each objective.
    best: Vec<Option<(Cost, Schedule)>>,
    /// The best few under the first.
    nearby: Vec<(Cost, Schedule)>,
    plays: usize,
    /// What serial moves cost, of few VMs.
    alone: Option<serial::Alone<'a>>,
}

/// Costs that differ by less are the same: rounding of the plays.
const SAME: f64 = 1e-9;
/// How many of the best schedules are kept: they are judged again with what is not known for sure.
const NEARBY: usize = 6;
/// Schedules whose costs differ by less, as a share, are equally good where another view may decide: forecasts of total times were 0.9 %
/// (of `adaptive`) to 3.4 % (of all) off in the laboratory's gangs, in the median (`docs/evaluation.md`). With 1 % `high` post-copied a VM
/// that receives three elastic flows, which took 55.3 s instead of 56.9 and cost applications 114 MB instead of 24 (measured).
pub(crate) const EQUALLY_GOOD: f64 = 0.02;
/// A search near another keeps such a part of its plays for what is equally good.
const EQUALS_PART: usize = 4;
/// A rival gets such a part of the plays.
const RIVAL_PART: usize = 10;

impl<'a> Search<'a> {
    fn new(task: &'a Task, rivals: &[Weights], plays: usize) -> Self {
        let others = rivals.iter().map(|weights| weights.objective(task.capacity));
        let objectives: Vec<Objective> = std::iter::once(task.objective()).chain(others).collect();
        let best = vec![None; objectives.len()];
        Search {
            judge: Judge::new(task),
            played: BTreeMap::new(),
            task,
            objectives,
            best,
            nearby: Vec::new(),
            plays,
            alone: None,
        }
    }

    /// Keeps the schedule wherever it is the best so far. Returns its parts.
    fn offer(&mut self, schedule: &Schedule) -> Objective {
        let mut schedule = schedule.plainest();
        if self.task.order_given {
            schedule.order.sort_unstable();
        }
        let schedule = &schedule;
        if let Some(cost) = self.played.get(schedule) {
            return cost.parts;
        }
        let cost = self.judge.cost(schedule);
        self.played.insert(schedule.clone(), cost);
        for (objective, held) in self.objectives.iter().zip(&mut self.best) {
            let value = cost.parts.weighted(objective);
            let better = held.as_ref().is_none_or(|(best, held)| {
                let margin = SAME * best.value.abs().max(1.0);
                value < best.value - margin || (value <= best.value + margin && schedule < held)
            });
            if better {
                *held = Some((Cost { value, ..cost }, schedule.clone()));
            }
        }
        self.note(cost, schedule);
        cost.parts
    }

    fn note(&mut self, cost: Cost, schedule: &Schedule) {
        let worst = self.nearby.last().map_or(f64::INFINITY, |(worst, _)| worst.value);
        let full = self.nearby.len() >= NEARBY;
        if full && cost.value >= worst || self.nearby.iter().any(|(_, held)| held == schedule) {
            return;
        }
        self.nearby.push((cost, schedule.clone()));
        self.nearby.sort_by(|a, b| a.0.value.total_cmp(&b.0.value).then_with(|| a.1.cmp(&b.1)));
        self.nearby.truncate(NEARBY);
    }

    /// What no serial schedule is below, if that can be said; offers one that is better than what was found.
    fn serial(&mut self) -> Option<f64> {
        let best = self.best.first().and_then(Option::as_ref)?.0.value;
        let mut alone = self.alone.take()?;
        let sure = serial::surely(self.task, &mut alone, best)?;
        if let Some(schedule) = sure.better {
            self.offer(&schedule);
        }
        Some(sure.bound)
    }

    fn found(self, bound: f64, exact: bool, serial: Option<f64>) -> Option<Found> {
        let equals = self.equals();
        let (plays, mut nearby) = (self.judge.plays, self.nearby);
        for equal in equals {
            if nearby.iter().all(|(_, held)| *held != equal.1) {
                nearby.push(equal);
            }
        }
        let mut best = self.best.into_iter();
        let (cost, schedule) = best.next().flatten()?;
        let rivals = best.flatten().collect();
        let bound = if exact { cost.value } else { bound };
        Some(Found { schedule, cost, bound, exact, serial, plays, nearby, rivals })
    }

    /// What costs hardly more than the best.
    fn hardly_more(&self) -> f64 {
        let best = self.best.first().and_then(Option::as_ref);
        best.map_or(f64::INFINITY, |(best, _)| best.hardly_more())
    }

    /// Of that, the best under each of the other weights.
    fn equals(&self) -> Vec<(Cost, Schedule)> {
        let most = self.hardly_more();
        let least = |objective: &Objective| {
            let equal = self.played.iter().filter(|(_, cost)| cost.value <= most);
            let value = |cost: &Cost| cost.parts.weighted(objective);
            equal.min_by(|(_, a), (_, b)| value(a).total_cmp(&value(b)))
        };
        let found = self.objectives.iter().skip(1).filter_map(least);
        found.map(|(schedule, cost)| (*cost, schedule.clone())).collect()
    }

    /// Improves those, each under its weights, without leaving them.
    fn improve_equals(&mut self) {
        let most = self.hardly_more();
        for (rival, (cost, schedule)) in (1..).zip(self.equals()) {
            let cost = self.value(&cost.parts, rival);
            self.improve_within(most, schedule, cost, rival, self.plays);
        }
    }

    fn value(&self, parts: &Objective, objective: usize) -> f64 {
        parts.weighted(&self.objectives[objective])
    }

    fn is_spent(&self) -> bool {
        self.judge.plays >= self.plays
    }

    /// Improves the plain schedules, those by direction, `others` and, where that is feasible, the best serial one.
    fn improve_known(&mut self, others: &[Schedule]) {
        let windows = [1, 2, self.task.window_max()];
        let mut starts = Vec::new();
        if self.task.movers.len() <= SERIAL_MAX {
            let alone = serial::Alone::of(self.task);
            for objective in 0..self.objectives.len() {
                let schedule = serial::best(self.task, &alone, &self.objectives[objective]);
                let parts = self.offer(&schedule);
                if objective == 0 {
                    starts.push((self.value(&parts, 0), schedule));
                }
            }
            self.alone = Some(alone);
        }
        for technique in Technique::ALL {
            for window in windows.into_iter().filter(|w| *w <= self.task.window_max()) {
                let schedule = self.task.plain(technique, window);
                let parts = self.offer(&schedule);
                starts.push((self.value(&parts, 0), schedule));
            }
        }
        for schedule in self.task.by_direction().into_iter().chain(others.iter().cloned()) {
            let parts = self.offer(&schedule);
            starts.push((self.value(&parts, 0), schedule));
        }
        starts.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        starts.dedup_by(|a, b| a.1 == b.1);
        // The best few; the others lead there too, later.
        for (cost, schedule) in starts.into_iter().take(STARTS) {
            self.improve(schedule, cost, 0, self.plays);
        }
    }

    fn improve_rival(&mut self, rival: usize) {
        let Some((cost, schedule)) = self.best[rival].clone() else { return };
        let until = self.judge.plays + self.plays / RIVAL_PART;
        self.improve(schedule, cost.value, rival, until.min(self.plays));
    }

    /// Single changes, the first that helps, until none does or so many plays were made. After one that helped it goes on with
    /// the next, not with the first again: what was just tried in vain rarely helps now, and of a large gang the plays would be
    /// used up before its last VMs were ever looked at.
    fn improve(&mut self, schedule: Schedule, cost: f64, objective: usize, plays: usize) {
        self.improve_within(f64::INFINITY, schedule, cost, objective, plays);
    }

    /// The same among schedules that cost no more than `most` for the task.
    fn improve_within(
        &mut self,
        most: f64,
        mut schedule: Schedule,
        mut cost: f64,
        objective: usize,
        plays: usize,
    ) {
        let mut place = 0;
        'again: loop {
            let from = schedule.clone();
            let rest = neighbours(self.task, &from).enumerate().skip(place);
            let around = rest.chain(neighbours(self.task, &from).enumerate().take(place));
            for (at, neighbour) in around {
                if self.judge.plays >= plays {
                    return;
                }
                let parts = self.offer(&neighbour);
                let other = self.value(&parts, objective);
                if self.value(&parts, 0) <= most && other < cost - SAME * cost.abs().max(1.0) {
                    (schedule, cost, place) = (neighbour, other, at + 1);
                    continue 'again;
                }
            }
            return;
        }
    }

    /// Shakes one of the best schedules and improves it again, until the plays are used up. Not always the very best: what is
    /// near it was looked at when it was found, and the next best may stand in a wider valley.
    fn shaken(&mut self, seed: u64) {
        let mut random = SplitMix(seed);
        for _ in 0..SHAKES_MAX {
            if self.is_spent() || self.nearby.is_empty() {
                return;
            }
            let among = self.nearby.len().min(SHAKEN);
            // The best half of the time, the others evenly.
            let from = random.below(2) * random.below(among);
            let mut schedule = self.nearby[from].1.clone();
            for _ in 0..1 + random.below(SHAKE_CHANGES) {
                shake(self.task, &mut schedule, &mut random);
            }
            let parts = self.offer(&schedule);
            self.improve(schedule, self.value(&parts, 0), 0, self.plays);
        }
    }
}

/// Starts that are improved.
const STARTS: usize = 3;
/// Shakes at most, should plays be free.
const SHAKES_MAX: usize = 1_000;
/// Changes of a shake at most: enough to leave a valley, few enough to stay near.
const SHAKE_CHANGES: usize = 4;
/// How many of the best are shaken.
const SHAKEN: usize = 4;
#[cfg(test)]
pub(crate) mod tests;
