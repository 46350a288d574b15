//! Planning again while VMs move: the same search, begun in the middle.
//!
//! ```text
//! Situation (what the driver saw) + what was known before -> the world now -> Task -> search -> stay, or a child of the plan
//! ```
//!
//! 1. What was known is brought up to date. Who has moved is at the target; a pass that ended tells how a guest
//!    dirties; rates of ports and VMs tell what applications want and what the path carries.
//! 2. The plan in force and everything else that is still possible are played from here on: a VM in pre-copy goes on as it
//!    does, or switches (now, or after this pass); one that is post-copied is held back or let go; those that wait can still go
//!    any way that their QEMUs were prepared for; the window and what the ports hold can change.
//! 3. **Never worse.** Where nothing differs from what the plan was made for, nothing is changed: a search that is begun anew
//!    would find something else, but no reason (another tool's plan was not made by this search). A change has to gain more than the share of the model's error that two forecasts do not have in common,
//!    and more than [`GAIN_LEAST`]; both sides are judged in seven worlds that are a little off, as in [`crate::adaptive`]. Where little
//!    but time counts (critical, high) a change that costs no time that the model could tell may gain as much by medium's weights.
//! 4. **Deadlines by steps.** If the plan does not keep one surely, the gentlest [`Rung`] that does is taken; if none does surely,
//!    the gentlest that does as far as the forecast says.
//!
//! A plan is immutable: a change is a child of a higher generation, with those VMs whose moves have not ended, and it passes
//! the plan check or is not proposed.

mod path;
mod present;
mod situation;
pub mod traffic;
mod wishes;

pub use path::Degraded;
pub use situation::{
    Answer, Change, Dirtied, Expected, Passing, Prospects, Rung, Situation, Standing, Verdict,
    VmStanding,
};
pub use wishes::Wishes;

use crate::{
    adaptive::{
        Effort, Known,
        choice::{Doubt, ERROR_SHARE, TIE, decides_ties},
        moved, safety,
    },
    check::check,
    plan::{Move, Plan, StartRule},
    policy::GangFacts,
    reserve::{LOW_MOST, SHARES, promised, reservations},
    search::{Cost, EQUALLY_GOOD, Judge, Mover, Schedule, Task, Weights, moves, search_near},
};
use droveway_fleet::{Intent, RateLimit, Technique, Urgency};
use droveway_model::{
    calibration::Quantity,
    fluid::{Begun, BegunAt, Fluid, MoveEnd, Stage, Start},
    urgency::gains_enough,
    world::payload,
};
use present::Present;
use std::{collections::BTreeMap, time::Duration};

/// What a change gains at least, seconds of the urgency's cost: it costs commands to QEMUs, and an answer is that old.
pub const GAIN_LEAST: f64 = 0.3;

/// Plays of one search, times the VMs that are left: an answer is wanted in some hundredths of a second.
const VM_PLAYS: usize = 6_000;
/// A large gang needs more,
const PLAYS_LEAST: usize = 200;
/// a small one no more than this.
const PLAYS_MOST: usize = 1_500;

/// What was known before the run, and what was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// What was asked for.
    pub intent: &'a Intent,
    /// The VMs, as the plan check wants to know them.
    pub facts: &'a GangFacts,
    /// The world as it was measured, and what earlier runs taught.
    pub known: Known<'a>,
    /// How hard to search.
    pub effort: Effort,
}

/// Whether a plan can be followed by another: one with rules of its own (waits of one VM for another, turns, a product's
/// ladder) is carried out as it is.
#[must_use]
pub fn may_follow(plan: &Plan) -> bool {
    let simple = |step: &Move| step.start == StartRule::InWindow && step.ladder.is_none();
    plan.turns.is_none() && plan.moves.iter().all(simple)
}

/// What is to be expected of the plan in force.
#[must_use]
pub fn prospects(base: &Base<'_>, situation: &Situation) -> Prospects {
    let (intent, facts) = amended(base, situation);
    let base = &Base { intent: &intent, facts: &facts, ..*base };
    let Some(present) = Present::of(base, situation) else { return Prospects::default() };
    present.prospects(&present.task(present.share), &present.stay)
}

/// Whether to go on as planned, or how else; `None` if nothing is left to decide.
#[must_use]
pub fn replan(base: &Base<'_>, situation: &Situation) -> Option<Answer> {
    let (intent, facts) = amended(base, situation);
    let base = &Base { intent: &intent, facts: &facts, ..*base };
    let present = Present::of(base, situation)?;
    let staying =
        Candidate { share: present.share, rung: Rung::Calm, schedule: present.stay.clone() };
    let mut weighed = Weighed::new(base, &present, situation);
    let mut kept = weighed.score(&staying)?;
    let at_risk = kept.misses;
    let mut best = if at_risk { weighed.climb()? } else { weighed.calm()? };
    if best.rung == Rung::Infeasible {
        // Not surely: then as the forecast says.
        weighed.hurry = 1.0;
        kept = weighed.score(&staying)?;
        let uncertain = || Candidate { rung: Rung::Uncertain, ..staying.clone() };
        best = if kept.misses { weighed.climb()? } else { uncertain() };
    }
    let price = weighed.score(&best)?;
    let (_, spread) = base.known.calibration.error(Quantity::Total, None);
    let error =
        |cost: f64, seconds: f64| (ERROR_SHARE * spread * cost.min(seconds)).max(GAIN_LEAST);
    let differs = |best: &Candidate| {
        best.share != staying.share
            || best.schedule != staying.schedule
            || best.rung == Rung::Throttle
            || present.lifts(best, base.intent)
    };
    let founded = at_risk || present.is_news || situation.is_foreign;
    let mut offer = Offer {
        seconds: price.seconds,
        kept: kept.value,
        costs: price.value,
        least: error(price.value, price.seconds),
        terms: "",
    };
    let mut clever = differs(&best) && founded && offer.gains_enough();
    if !clever
        && founded
        && !at_risk
        && let Some((other, score)) = weighed.gentler(&kept, offer.least)
    {
        let gentler = Offer {
            seconds: score.seconds,
            kept: kept.gentle,
            costs: score.gentle,
            least: error(score.gentle, score.seconds),
            terms: ", by what medium urgency pays",
        };
        if differs(&other) && gentler.gains_enough() {
            (best, offer, clever) = (other, gentler, true);
        }
    }
    let same = !differs(&best);
    let task = present.task(present.share);
    let prospects = present.prospects(&task, &present.stay);
    let margin = offer.kept - offer.costs;
    let seen = if present.seen.is_empty() { "nothing differs" } else { &present.seen };
    let as_it_is = if situation.is_foreign { "as it goes" } else { "as planned" };
    let inputs = format!(
        "{seen}; {as_it_is} {:.1} s more at a cost of {:.1}, the best other {:.1} s at {:.1}{}; a change has to gain {:.1}",
        kept.seconds, offer.kept, offer.seconds, offer.costs, offer.terms, offer.least
    );
    let rung = if at_risk { best.rung } else { Rung::Calm };
    let reason = match rung {
        Rung::Calm => situation.trigger.clone(),
        _ => format!("{}: {}", situation.trigger, rung.name()),
    };
    let other = (!same).then(|| present.describe(&best, base.intent));
    let stay = |runner_up| Answer {
        question: situation.question,
        verdict: Verdict::Stay,
        reason: reason.clone(),
        inputs: inputs.clone(),
        choice: "go on as planned".to_owned(),
        runner_up,
        margin: -margin,
        rung,
        prospects: prospects.clone(),
    };
    if !clever {
        return Some(stay(other));
    }
    let plan = present.child(base, situation, &best);
    let facts = GangFacts {
        vms: base
            .facts
            .vms
            .iter()
            .filter(|f| plan.step(f.vm.as_str()).is_some())
            .cloned()
            .collect(),
        ..base.facts.clone()
    };
    if !check(&plan, &facts).is_empty() {
        return Some(stay(other));
    }
    let mut then = present.task(best.share);
    if present.lifts(&best, base.intent) {
        present.let_go(&mut then);
    }
    let expected = present.prospects(&then, &best.schedule);
    Some(Answer {
        choice: present.describe(&best, base.intent),
        runner_up: Some("go on as planned".to_owned()),
        margin,
        verdict: Verdict::Change(Box::new(Change { plan, prospects: expected })),
        ..stay(None)
    })
}

/// What is asked for now.
fn amended(base: &Base<'_>, situation: &Situation) -> (Intent, GangFacts) {
    let (mut intent, mut facts) = (base.intent.clone(), base.facts.clone());
    situation.wishes.amend(&mut intent, &mut facts);
    (intent, facts)
}

/// Something that could be done.
#[derive(Debug, Clone, PartialEq)]
struct Candidate {
    share: Option<f64>,
    rung: Rung,
    schedule: Schedule,
}

/// What something costs, in the middle and where it goes badly.
#[derive(Debug, Clone, Copy)]
struct Score {
    value: f64,
    /// By the weights that decide ties, as forecast; the urgency's own where there are none.
    gentle: f64,
    seconds: f64,
    /// A deadline is not kept surely.
    misses: bool,
}

/// What a change would gain, by whose weights.
struct Offer {
    /// What it takes from here on.
    seconds: f64,
    /// What going on as planned costs.
    kept: f64,
    costs: f64,
    /// What it has to gain.
    least: f64,
    /// In words, if they are not the urgency's own.
    terms: &'static str,
}

impl Offer {
    fn gains_enough(&self) -> bool {
        gains_enough(self.kept, self.costs, self.least)
    }
}

/// Weighs what could be done.
struct Weighed<'a> {
    base: &'a Base<'a>,
    present: &'a Present,
    plays: usize,
    in_window: bool,
    /// So many times less time there is for deadlines: what the forecast may be off.
    hurry: f64,
}

impl<'a> Weighed<'a> {
    fn new(base: &'a Base<'a>, present: &'a Present, situation: &Situation) -> Self {
        let count = present.movers.len().max(1);
        let plays = base.effort.plays.unwrap_or(VM_PLAYS / count);
        let plays = plays.clamp(PLAYS_LEAST, PLAYS_MOST);
        let in_window = situation.plan.moves.len() > 1;
        Weighed { base, present, plays, in_window, hurry: safety(base.known) }
    }

    /// What is searched with that share of the ports held, with less time if there are deadlines.
    fn task(&self, share: Option<f64>, rung: Rung) -> Task {
        let mut task = self.present.task(share);
        if rung.lifts_ceilings() && self.base.intent.bandwidth == RateLimit::Unlimited {
            self.present.let_go(&mut task);
        }
        let throttled = rung == Rung::Throttle;
        if throttled {
            for mover in task.movers.iter_mut().filter(|it| it.ways.len() == 1) {
                mover.step.throttle |= matches!(mover.step.start, Start::InWindow(_));
            }
        }
        if task.due().is_finite() { task.hurried(self.hurry) } else { task }
    }

    fn score(&mut self, candidate: &Candidate) -> Option<Score> {
        let task = self.task(candidate.share, candidate.rung);
        let uncertain = &self.present.world.uncertain;
        let mut doubt = Doubt { uncertain, fluid: Fluid::default() };
        let value = doubt.score(&task, &candidate.schedule);
        let cost = Judge::new(&task).cost(&candidate.schedule);
        let misses = task.due().is_finite() && cost.parts.missed >= 0.5;
        let gentle = decides_ties(self.base.intent.urgency)
            .map_or(cost.value, |weights| cost.parts.weighted(&weights.objective(task.capacity)));
        let seconds = cost.parts.total_seconds;
        value.is_finite().then_some(Score { value, gentle, seconds, misses })
    }

    /// Where little but time counts: what costs no time that the model could tell, and applications least.
    fn gentler(&mut self, kept: &Score, error: f64) -> Option<(Candidate, Score)> {
        let gentle = decides_ties(self.base.intent.urgency)?;
        let near = self.present.shares_near(self.base.intent);
        // Going back has to gain `error`: with less than that given away nobody goes to and fro.
        let most = kept.value + (EQUALLY_GOOD * kept.value.min(kept.seconds)).min(error);
        let found = near.iter().filter_map(|share| {
            let candidate = self.gentlest(*share, gentle)?;
            let score = self.score(&candidate)?;
            (score.value <= most && !score.misses).then_some((candidate, score))
        });
        found.min_by(|a, b| a.1.gentle.total_cmp(&b.1.gentle))
    }

    /// The gentlest near what is done, with that share, of what costs hardly more than the best.
    fn gentlest(&self, share: Option<f64>, gentle: Weights) -> Option<Candidate> {
        let task = self.task(share, Rung::Calm);
        let own = self.present.stay.clone();
        let found = search_near(&task, &[own], &[gentle], self.plays)?;
        let most = found.cost.hardly_more();
        let under = gentle.objective(task.capacity);
        let value = |cost: &Cost| cost.parts.weighted(&under);
        let equal = found.nearby.into_iter().filter(|(cost, _)| cost.value <= most);
        let (_, mut schedule) = equal.min_by(|a, b| value(&a.0).total_cmp(&value(&b.0)))?;
        if !self.in_window {
            schedule.window = 1;
        }
        let (own, task) = (task.objective(), Task { weights: gentle, ..task });
        let (cost, plainest) = self.plainest(&mut Judge::new(&task), schedule.clone());
        // What is plainer may take longer.
        let schedule = if cost.parts.weighted(&own) <= most { plainest } else { schedule };
        Some(Candidate { share, rung: Rung::Calm, schedule })
    }

    /// The best near what is done, with that share.
    fn best(&self, share: Option<f64>, rung: Rung) -> Option<(Cost, Candidate)> {
        let mut task = self.task(share, rung);
        let as_they_go = matches!(rung, Rung::Pace | Rung::Reservation);
        if as_they_go {
            // Nobody goes another way yet.
            for (mover, way) in task.movers.iter_mut().zip(&self.present.stay.ways) {
                mover.ways = vec![mover.ways[*way]];
            }
        }
        let mut start = self.present.stay.clone();
        if as_they_go {
            start.ways.fill(0);
        }
        let found = search_near(&task, &[start], &[], self.plays)?;
        let mut schedule = found.schedule;
        if as_they_go {
            schedule.ways.clone_from(&self.present.stay.ways);
        }
        if !self.in_window {
            schedule.window = 1;
        }
        let task = self.task(share, rung);
        let mut judge = Judge::new(&task);
        let (cost, schedule) = self.plainest(&mut judge, schedule);
        Some((cost, Candidate { share, rung, schedule }))
    }

    /// The same with every change taken back that gains nothing: of what is as good the one with fewer changes.
    fn plainest(&self, judge: &mut Judge<'_>, schedule: Schedule) -> (Cost, Schedule) {
        let stay = &self.present.stay;
        let mut best = (judge.cost(&schedule), schedule);
        let most = best.0.value + TIE * best.0.seconds();
        let mut try_back = |best: &mut (Cost, Schedule), other: Schedule| {
            if other == best.1 {
                return;
            }
            let cost = judge.cost(&other);
            if cost.value <= most {
                *best = (cost, other);
            }
        };
        for index in 0..stay.ways.len() {
            let mut other = best.1.clone();
            other.ways[index] = stay.ways[index];
            try_back(&mut best, other);
        }
        let other = Schedule { order: stay.order.clone(), ..best.1.clone() };
        try_back(&mut best, other);
        let other = Schedule { window: stay.window, ..best.1.clone() };
        try_back(&mut best, other);
        best
    }

    /// The best with any share that may be tried.
    fn best_of(&self, shares: &[Option<f64>], rung: Rung) -> Option<(Cost, Candidate)> {
        let all = shares.iter().filter_map(|share| self.best(*share, rung));
        all.min_by(|a, b| a.0.value.total_cmp(&b.0.value))
    }

    /// No deadline is at risk: whatever is best.
    fn calm(&self) -> Option<Candidate> {
        let near = self.present.shares_near(self.base.intent);
        let calm = self.best_of(&near, Rung::Calm);
        // Streams are held back for the applications' sake where the move is of low urgency only.
        let hasty = self.base.intent.urgency > Urgency::Low && self.present.holds_back();
        let hasty = hasty.then(|| self.best_of(&near, Rung::PostCopy)).flatten();
        let best = calm.into_iter().chain(hasty).min_by(|a, b| a.0.value.total_cmp(&b.0.value));
        best.map(|(_, candidate)| candidate)
    }

    /// The gentlest step that keeps the deadlines; the best of all if none does.
    fn climb(&self) -> Option<Candidate> {
        let up = self.present.shares_up();
        let own = [self.present.share];
        let mut best: Option<(Cost, Candidate)> = None;
        for rung in [Rung::Pace, Rung::Reservation, Rung::PostCopy, Rung::Throttle] {
            let shares = if rung == Rung::Pace { &own[..] } else { &up[..] };
            let Some((cost, candidate)) = self.best_of(shares, rung) else { continue };
            if cost.parts.missed < 0.5 {
                return Some(candidate);
            }
            // Guests are not slowed down for a deadline that is missed all the same.
            let throttled = rung == Rung::Throttle;
            if !throttled && best.as_ref().is_none_or(|(held, _)| cost.value < held.value) {
                best = Some((cost, candidate));
            }
        }
        best.map(|(_, candidate)| Candidate { rung: Rung::Infeasible, ..candidate })
    }
}

impl Present {
    /// What is searched, with that share of the ports held.
    fn task(&self, share: Option<f64>) -> Task {
        let task = Task {
            gang: self.world.gang.clone(),
            movers: self.movers.clone(),
            ..self.frame.clone()
        };
        match share {
            Some(share) => promised(&task, share),
            None => task,
        }
    }

    /// Shares to try where nothing presses: the one in force and its neighbours. Ports that are shared as they are stay so.
    fn shares_near(&self, intent: &Intent) -> Vec<Option<f64>> {
        let Some(own) = self.share else { return vec![None] };
        if intent.reserve != droveway_fleet::Reserve::Auto {
            return vec![Some(own)];
        }
        let below = SHARES.iter().rev().find(|share| **share < own - 0.01);
        let above = SHARES.iter().find(|share| **share > own + 0.01);
        let above = above.filter(|share| intent.urgency != Urgency::Low || **share <= LOW_MOST);
        [Some(&own), below, above].into_iter().flatten().map(|share| Some(*share)).collect()
    }

    /// Shares to try where a deadline presses: the one in force and everything above it.
    fn shares_up(&self) -> Vec<Option<f64>> {
        let Some(own) = self.share else { return vec![None] };
        let above = SHARES.iter().filter(|share| **share > own + 0.01);
        std::iter::once(own).chain(above.copied()).map(Some).collect()
    }

    fn prospects(&self, task: &Task, schedule: &Schedule) -> Prospects {
        let mut gang = task.gang.clone();
        gang.moves = moves(task, schedule).collect();
        gang.windows = vec![schedule.window.max(1)];
        let (course, trace) = Fluid::default().trace(&gang);
        let at = |time: f64| self.elapsed + Duration::from_secs_f64(time.clamp(0.0, 1e9));
        let mut all = BTreeMap::new();
        for ((place, index), traced) in schedule.order.iter().enumerate().zip(&trace.moves) {
            let Some(vm) = self.names.get(*index) else { continue };
            let step = &course.moves[place];
            let (first, since) = match gang.moves[place].start {
                Start::Begun {
                    so_far: Begun { at: BegunAt::Pass { passes, seconds }, .. },
                    ..
                } => (passes + 1, seconds),
                _ => (1, 0.0),
            };
            let passes = traced.phases.iter().filter(|phase| phase.stage == Stage::Pass);
            let pass_ends = (first..).zip(passes.map(|phase| at(phase.to_seconds))).collect();
            let inflation = gang.constants.dirty_inflation;
            let curve = gang.vms[gang.moves[place].vm].curve.sped_up(inflation);
            let (start, end) = (at(step.start_seconds), at(step.end_seconds));
            let start = start.saturating_sub(Duration::from_secs_f64(since.clamp(0.0, 1e9)));
            all.insert(vm.clone(), Expected { start, first_pass: first, pass_ends, end, curve });
        }
        let ended = |step: &&droveway_model::fluid::MoveCourse| step.end != MoveEnd::Unfinished;
        let last = course.moves.iter().filter(ended).map(|step| step.end_seconds);
        Prospects {
            moves: all,
            end: at(last.fold(0.0, f64::max)),
            demands: self.demands.clone(),
            capacity: self.capacity,
            stream_ratio: self.stream_ratio,
            weighed: self.weighed.clone(),
        }
    }

    /// Whether it lets streams go that are held back, and the operator did not ask for that.
    fn lifts(&self, best: &Candidate, intent: &Intent) -> bool {
        best.rung.lifts_ceilings() && intent.bandwidth == RateLimit::Unlimited && self.holds_back()
    }

    /// Whether a stream is held back that no operator has set a ceiling for.
    fn holds_back(&self) -> bool {
        let own = |(mover, set): (&Mover, &bool)| mover.step.bandwidth.is_finite() && !set;
        self.movers.iter().zip(&self.set).any(own)
    }

    /// Streams take what the ports give them.
    fn let_go(&self, task: &mut Task) {
        for (mover, _) in task.movers.iter_mut().zip(&self.set).filter(|(_, set)| !**set) {
            mover.step.bandwidth = f64::INFINITY;
        }
    }

    /// The child of the plan in force that does this.
    fn child(&self, base: &Base<'_>, situation: &Situation, best: &Candidate) -> Plan {
        let parent = &situation.plan;
        let task = self.task(best.share);
        let concurrency = u32::try_from(best.schedule.window.max(1)).unwrap_or(u32::MAX);
        let switchover = base.facts.port_rate.tcp_payload().divided(concurrency);
        let throttle = best.rung == Rung::Throttle;
        let step = |index: &usize| {
            let vm = &self.names[*index];
            let before = parent.moves.iter().find(|step| step.vm == *vm)?;
            let way = best.schedule.ways[*index];
            let mut step = before.clone();
            if way != self.stay.ways[*index] {
                step = moved(before, &task.movers[*index], task.movers[*index].ways[way]);
                if step.technique == Technique::Hybrid {
                    // After the pass that is under way.
                    step.switch.after_pass = before.switch.after_pass.max(self.passes[*index] + 1);
                }
            }
            step.switchover_bandwidth = switchover;
            if self.lifts(best, base.intent) && !self.set[*index] {
                step.bandwidth = RateLimit::Unlimited;
            }
            let waits = matches!(task.movers[*index].step.start, Start::InWindow(_));
            step.throttle |= throttle && waits && task.movers[*index].ways.len() == 1;
            Some(step)
        };
        // What is under way stands before what waits, whatever the search made of it.
        let begun = |index: &&usize| !matches!(task.movers[**index].step.start, Start::InWindow(_));
        let order = &best.schedule.order;
        let first = order.iter().filter(begun);
        let rest = order.iter().filter(|index| !begun(index));
        let mut plan = parent.child();
        plan.moves = first.chain(rest).filter_map(step).collect();
        plan.concurrency = concurrency;
        plan.start_after = None;
        if let Some(share) = best.share.filter(|_| best.share != self.share) {
            plan.reservations = reservations(base.intent, base.facts.port_rate.scaled(share));
        }
        plan
    }

    /// What would be done otherwise than planned, in words.
    fn describe(&self, best: &Candidate, intent: &Intent) -> String {
        let mut all = Vec::new();
        if best.schedule.window != self.stay.window {
            all.push(format!("{} at once, not {}", best.schedule.window, self.stay.window));
        }
        let way_name = |index: usize, way: usize| {
            let way = self.movers[index].ways[way];
            let held = if way.postcopy_bandwidth.is_some() { ", held back" } else { "" };
            format!("{}{held}", way.technique)
        };
        for (index, vm) in self.names.iter().enumerate() {
            let (now, before) = (best.schedule.ways[index], self.stay.ways[index]);
            if now != before {
                all.push(format!("{vm} {}, not {}", way_name(index, now), way_name(index, before)));
            }
        }
        let waiting = |schedule: &Schedule| -> Vec<usize> {
            let waits = |i: &usize| matches!(self.movers[*i].step.start, Start::InWindow(_));
            schedule.order.iter().copied().filter(waits).collect()
        };
        let order = waiting(&best.schedule);
        if order != waiting(&self.stay) {
            let names: Vec<_> = order.iter().map(|index| self.names[*index].as_str()).collect();
            all.push(format!("order {}", names.join(", ")));
        }
        if best.share != self.share {
            let held = |share: Option<f64>| 100.0 * share.unwrap_or(0.0);
            let (now, before) = (held(best.share), held(self.share));
            all.push(format!("{now:.0} % of the ports held, not {before:.0} %"));
        }
        if self.lifts(best, intent) {
            all.push("streams are not held back any more".to_owned());
        }
        if best.rung == Rung::Throttle {
            all.push("guests that wait and may not go post-copy are slowed down".to_owned());
        }
        if all.is_empty() { "go on as planned".to_owned() } else { all.join("; ") }
    }
}

/// The share of the ports that a plan holds for its moves.
fn share_of(plan: &Plan, base: &Base<'_>) -> Option<f64> {
    let held = plan.reservations.first()?;
    Some(payload(held.rate) / payload(base.facts.port_rate).max(1.0))
}

#[cfg(test)]
mod tests;
