//! Why a VM goes the way it goes, in a paragraph, and what would have to be different for it to go another way.
//!
//! The latter is found by planning again, for a world in which one thing is changed: what the VM sends, receives or
//! writes, its deadline, its permission, the urgency. Each thing is changed as far as it is tried at all first; only where
//! that changes the technique, the smallest change that does is looked for. A search is not repeated for that but
//! continued from the plan, with some hundred schedules at most, so that an explanation costs no more than some plans.

use crate::{
    adaptive::{
        self, Known, Reasoning, RunnerUp,
        choice::{Due, Plain, Pool, choose, decides_ties},
        deadlines::keeps,
        safety,
    },
    plan::{Plan, StartRule},
    policy::{Chosen, GangFacts, Made, limit},
    reserve,
    search::{Judge, Schedule, Task, search_near},
};
use droveway_fleet::{DirtyCurve, Intent, RateLimit, Technique, TimeSpan, Urgency, VmId};
use droveway_model::{
    fluid::{End, FlowModel},
    forecast::{Ends, Forecast, MoveForecast},
    world::World,
};
use serde::Serialize;
use std::time::Duration;

/// Schedules that a question may play: those near the plan, which are what a small change leads to.
const PLAYS: usize = 400;
/// By so much less is tried; the last first.
const LESS: [f64; 3] = [0.5, 0.25, 0.0];
/// By so much more.
const MORE: [f64; 3] = [2.0, 4.0, 10.0];
/// A VM without traffic has nothing to multiply: shares of the port instead.
const SHARES: [f64; 3] = [0.25, 0.5, 1.0];
/// Traffic below this share of the port is none.
const NO_TRAFFIC: f64 = 0.001;

/// A plan and what it was made from.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The policy.
    pub policy: &'a Chosen,
    /// What was asked for.
    pub intent: &'a Intent,
    /// The VMs.
    pub facts: &'a GangFacts,
    /// What was measured, if anything was.
    pub known: Option<Known<'a>>,
    /// What the policy made of it.
    pub made: &'a Made,
    /// What that is forecast to take.
    pub forecast: Option<&'a Forecast>,
}

/// Why a VM goes the way it goes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The VM.
    pub vm: VmId,
    /// How it goes.
    pub technique: Technique,
    /// The smallest changes of those tried that would lead to another technique.
    pub changes: Vec<Change>,
    /// All of it in a paragraph.
    pub text: String,
}

/// What would change the choice.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// What would be different, like `with 4 times its dirtying`.
    pub condition: String,
    /// How the VM would go then.
    pub technique: Technique,
}

/// Explains the way of one VM; `None` if the plan does not move it.
#[must_use]
pub fn explain(question: &Question<'_>, vm: &VmId) -> Option<Explanation> {
    let plan = &question.made.plan;
    let index = plan.moves.iter().position(|step| step.vm == *vm)?;
    let technique = plan.moves[index].technique;
    let forecast = question.forecast.and_then(|forecast| forecast.moves.get(index));
    let sought = sought(question, vm, technique, forecast);
    let mut text = vec![course(plan, index)];
    text.extend(forecast.map(expected));
    text.push(reason(question, vm));
    text.push(sensitivity(&sought));
    let changes = match sought {
        Sought::Found(changes) => changes,
        Sought::Fixed | Sought::TooClose => Vec::new(),
    };
    Some(Explanation { vm: vm.clone(), technique, changes, text: text.join(" ") })
}

/// How and when it goes.
fn course(plan: &Plan, index: usize) -> String {
    let step = &plan.moves[index];
    let start = match &step.start {
        StartRule::AfterEnd(first) => format!("as soon as {first} has ended"),
        StartRule::InWindow if plan.moves.len() == 1 => "at once".to_owned(),
        StartRule::InWindow => {
            let at_once = match plan.concurrency {
                1 => "one at a time".to_owned(),
                most => format!("up to {most} at once"),
            };
            format!("as number {} of {}, {at_once}", index + 1, plan.moves.len())
        }
    };
    let rate = |limit: RateLimit| match limit {
        RateLimit::Unlimited => "as fast as the port lets it".to_owned(),
        RateLimit::At(rate) => format!("at {} at most", rate.human()),
    };
    let own = if step.technique == Technique::PostCopy {
        rate(step.postcopy_bandwidth)
    } else {
        rate(step.bandwidth)
    };
    format!("{} goes by {}, {start}, {own}.", step.vm, step.technique)
}

/// What that is forecast to take.
fn expected(forecast: &MoveForecast) -> String {
    let range = |of: droveway_fleet::report::Quantiles| {
        format!("{:.2} s ({:.2} to {:.2})", of.p50, of.p10, of.p90)
    };
    let ends = match forecast.ends {
        Ends::AsPlanned => "",
        Ends::ByFallback => "; it does not converge, and its fallback ends it",
        Ends::NotAtAll => "; it does not converge, and stays at the source",
    };
    format!(
        "Forecast: it starts after {:.2} s and takes {}, is down for {} and silent for {}{ends}.",
        forecast.start_seconds,
        range(forecast.duration_seconds),
        range(forecast.downtime_seconds),
        range(forecast.outage_seconds)
    )
}

/// Who decided, and what came next.
fn reason(question: &Question<'_>, vm: &VmId) -> String {
    let Question { policy, intent, made, .. } = question;
    let mut text = if intent.techniques.contains_key(vm) {
        "The operator named its technique (--technique), which no policy overrules.".to_owned()
    } else if let Some(reasoning) = &made.reasoning {
        searched(reasoning, vm)
    } else if policy.plainly().is_some() {
        format!("Policy {} gives every VM the same technique: {}.", policy.name, policy.summary)
    } else {
        format!("Policy {} ({}) decides: {}.", policy.name, policy.source, policy.summary)
    };
    for note in made.notes.iter().filter(|note| note.vm == *vm) {
        text.push_str(&format!(" It would be {}, but {}.", note.instead_of, note.reason));
    }
    text
}

fn searched(reasoning: &Reasoning, vm: &VmId) -> String {
    let urgency = reasoning.urgency;
    let mut text = if reasoning.chosen == "search" {
        let tied = decides_ties(urgency).map_or("", |_| ", of what takes as long the gentlest");
        format!("The search chose it for urgency {urgency}{tied}")
    } else {
        format!(
            "{} it is for urgency {urgency}, since the best that the search found gains less than the \
             forecast may be off",
            reasoning.chosen
        )
    };
    let Some(why) = reasoning.why.iter().find(|why| why.vm == *vm) else { return text + "." };
    // The traffic is what a reason begins with; the rest of it is said here in other words.
    text.push_str(&format!(": it {}.", why.reason.split("; ").next().unwrap_or_default()));
    match &why.runner_up {
        None => text.push_str(" Nothing else is allowed."),
        Some(other) => text.push_str(&runner_up(other, reasoning.cost.value)),
    }
    text
}

fn runner_up(other: &RunnerUp, cost: f64) -> String {
    let margin = 100.0 * other.costs_more / cost.max(1e-9);
    let by = if other.costs_more < 0.0 {
        format!("which would cost {:.2} s less, too little to tell", -other.costs_more)
    } else {
        format!("by a margin of {:.2} s ({margin:.0} % of the cost)", other.costs_more)
    };
    format!(
        " Next comes {}, {by}: {:+.2} s in all, {:+.2} s of silence, {:+.1} MB lost.",
        other.technique,
        other.seconds,
        other.outage_seconds,
        other.lost_bytes / 1e6
    )
}

/// What became of looking for what would change it.
enum Sought {
    /// It does not depend on anything that is measured.
    Fixed,
    /// The search near the plan comes to another technique even if nothing is changed: it cannot say anything of changes.
    TooClose,
    /// The smallest changes of those tried.
    Found(Vec<Change>),
}

/// What would change it, in words.
fn sensitivity(sought: &Sought) -> String {
    match sought {
        Sought::Fixed => "Nothing that can be measured changes that.".to_owned(),
        Sought::TooClose => "The choice is too close for saying what would change it.".to_owned(),
        Sought::Found(changes) if changes.is_empty() => {
            "Nothing that was tried changes that: not its traffic or its dirtying from \
                     nothing to ten times as much, nor a deadline."
                .to_owned()
        }
        Sought::Found(changes) => {
            let one = |change: &Change| {
                format!("{} it would go by {}", change.condition, change.technique)
            };
            let text = changes.iter().map(one).collect::<Vec<_>>().join("; ");
            let first = text.chars().next().map(|c| c.to_ascii_uppercase());
            first.into_iter().chain(text.chars().skip(1)).collect::<String>() + "."
        }
    }
}

/// Looks for the smallest changes that lead to another technique.
fn sought(
    question: &Question<'_>,
    vm: &VmId,
    technique: Technique,
    forecast: Option<&MoveForecast>,
) -> Sought {
    if question.intent.techniques.contains_key(vm) || question.policy.plainly().is_some() {
        return Sought::Fixed;
    }
    let facts = &question.facts.vms;
    let (Some(known), Some(fact)) = (question.known, facts.iter().position(|f| f.vm == *vm)) else {
        return Sought::Fixed;
    };
    let Some(index) = known.world.vm(vm) else { return Sought::Fixed };
    let lab = Lab { question, known, vm, technique, fact, index };
    if lab.decide(&lab.unchanged()) != Some(technique) {
        return Sought::TooClose;
    }
    let traffic = [(Way::Sends, "sends", "sent"), (Way::Receives, "receives", "received")];
    let mut found = Vec::new();
    for (way, does, did) in traffic {
        found.extend(lab.traffic(way, does, did));
    }
    found.extend(lab.dirtying());
    found.extend(lab.deadline(forecast));
    found.extend(lab.asked());
    Sought::Found(found)
}

/// A direction of a VM's traffic.
#[derive(Debug, Clone, Copy)]
enum Way {
    Sends,
    Receives,
}

/// The world, the VMs and the wishes that are changed.
#[derive(Debug, Clone)]
struct Case {
    world: World,
    facts: GangFacts,
    intent: Intent,
}

/// Where it is tried what would change the way of one VM.
struct Lab<'a> {
    question: &'a Question<'a>,
    known: Known<'a>,
    vm: &'a VmId,
    technique: Technique,
    /// Its index among the facts.
    fact: usize,
    /// Its index in the world.
    index: usize,
}

impl Lab<'_> {
    /// The world with the ports as the plan leaves them: what is held of them is not asked again.
    fn unchanged(&self) -> Case {
        let mut world = self.known.world.clone();
        reserve::shape(&mut world, &self.question.made.plan);
        Case { world, facts: self.question.facts.clone(), intent: self.question.intent.clone() }
    }

    /// How the VM goes in that case; `None` if there is no plan that keeps the deadlines, or none at all.
    fn decide(&self, case: &Case) -> Option<Technique> {
        let known = Known { world: &case.world, calibration: self.known.calibration };
        let policy = self.question.policy;
        if !policy.searches() {
            let made = policy.plan("what-if", &case.intent, &case.facts, Some(known)).ok()?;
            return made.plan.step(self.vm.as_str()).map(|step| step.technique);
        }
        let (_, models) = policy.alone("what-if", &case.intent, &case.facts, known).ok()?;
        let task = adaptive::task(&case.intent, &case.facts, known, models);
        let starts = self.starts(&task);
        let hurried = task.due().is_finite().then(|| task.hurried(safety(known)));
        let ties = decides_ties(case.intent.urgency);
        let sure = Due::Hurried(safety(known));
        for (task, due) in hurried.iter().map(|it| (it, sure)).chain([(&task, Due::Asked)]) {
            // Ties are decided as they were in the plan.
            let found = search_near(task, &starts, ties.as_slice(), PLAYS)?;
            if task.due().is_finite() && !keeps(&found) {
                continue;
            }
            let schedules = adaptive::plain(task, &mut Judge::new(task));
            let plain = Plain { task, share: None, schedules: &schedules };
            let pool = Pool { share: None, task: task.clone(), found };
            let schedule =
                choose(known, case.intent.urgency, due, 1.0, &[pool], &plain, true)?.schedule;
            return Some(task.movers[self.fact].ways[schedule.ways[self.fact]].technique);
        }
        None
    }

    /// The plan as a schedule of `task`, and the same with every other way of this VM.
    fn starts(&self, task: &Task) -> Vec<Schedule> {
        let plan = &self.question.made.plan;
        let facts = &self.question.facts.vms;
        let index = |vm: &VmId| facts.iter().position(|fact| fact.vm == *vm);
        let way = |(fact, mover): (&crate::VmFacts, &crate::search::Mover)| {
            let step = plan.step(fact.vm.as_str())?;
            let ceiling = |rate: Option<f64>| rate.map_or(self.question.intent.bandwidth, limit);
            let same = |way: &crate::search::Way| {
                way.technique == step.technique
                    && ceiling(way.postcopy_bandwidth) == step.postcopy_bandwidth
            };
            mover.ways.iter().position(same)
        };
        let planned = Schedule {
            order: plan.moves.iter().filter_map(|step| index(&step.vm)).collect(),
            ways: facts.iter().zip(&task.movers).map(|pair| way(pair).unwrap_or(0)).collect(),
            window: plan.concurrency as usize,
        };
        let other = |way: usize| {
            let mut schedule = planned.clone();
            schedule.ways[self.fact] = way;
            schedule
        };
        (0..task.movers[self.fact].ways.len()).map(other).chain([planned.clone()]).collect()
    }

    /// The first of `steps`, which go from near to far, that leads to another technique, if the last does.
    fn smallest(
        &self,
        steps: &[f64],
        change: impl Fn(&mut Case, f64),
        words: impl Fn(f64) -> String,
    ) -> Option<Change> {
        let try_out = |step: f64| {
            let mut case = self.unchanged();
            change(&mut case, step);
            self.decide(&case).filter(|technique| *technique != self.technique)
        };
        let (last, nearer) = steps.split_last()?;
        let at_last = try_out(*last)?;
        let first = nearer.iter().find_map(|step| Some((*step, try_out(*step)?)));
        let (step, technique) = first.unwrap_or((*last, at_last));
        Some(Change { condition: words(step), technique })
    }

    fn capacity(&self) -> f64 {
        let gang = &self.known.world.gang;
        gang.ports.iter().map(|port| port.tx.min(port.rx)).fold(f64::INFINITY, f64::min)
    }

    fn traffic(&self, way: Way, does: &str, did: &str) -> Vec<Change> {
        let (own, port) = (End::Vm(self.index), self.capacity());
        let is_its = |flow: &FlowModel| match way {
            Way::Sends => flow.from == own,
            Way::Receives => flow.to == own,
        };
        let flows = self.known.world.gang.flows.iter().filter(|flow| is_its(flow));
        let rate: f64 = flows.clone().map(|flow| flow.demand.min(port)).sum();
        if rate < NO_TRAFFIC * port {
            let more = |case: &mut Case, share: f64| {
                let (from, to) = match way {
                    Way::Sends => (own, End::Outside),
                    Way::Receives => (End::Outside, own),
                };
                case.world.gang.flows.push(FlowModel {
                    from,
                    to,
                    demand: share * port,
                    weight: 1.0,
                });
            };
            let words =
                |share: f64| format!("if it {did} {} of what the port carries", part(share));
            return self.smallest(&SHARES, more, words).into_iter().collect();
        }
        let scale = |case: &mut Case, factor: f64| {
            for flow in case.world.gang.flows.iter_mut().filter(|flow| is_its(flow)) {
                // What takes all that it gets takes less only if it is held back.
                if flow.demand.is_finite() || factor < 1.0 {
                    flow.demand = flow.demand.min(port) * factor;
                }
            }
        };
        let words = |factor: f64| match factor {
            f if f > 0.0 => format!("with {} what it {does}", times(f)),
            _ => format!("if it {did} nothing"),
        };
        let less = self.smallest(&LESS, scale, words);
        let elastic = flows.clone().all(|flow| flow.demand.is_infinite());
        let more = (!elastic).then(|| self.smallest(&MORE, scale, words)).flatten();
        less.into_iter().chain(more).collect()
    }

    fn dirtying(&self) -> Vec<Change> {
        let scale = |case: &mut Case, factor: f64| {
            let curve = &mut case.world.gang.vms[self.index].curve;
            *curve = if factor > 0.0 { curve.sped_up(factor) } else { DirtyCurve::idle() };
        };
        let words = |factor: f64| match factor {
            f if f > 0.0 => format!("with {} its dirtying", times(f)),
            _ => "if it wrote nothing".to_owned(),
        };
        [&LESS, &MORE].into_iter().filter_map(|steps| self.smallest(steps, scale, words)).collect()
    }

    /// Its own deadline, or one that its forecast would just keep.
    fn deadline(&self, forecast: Option<&MoveForecast>) -> Vec<Change> {
        let own = self.question.facts.vms[self.fact].deadline.map(|own| own.as_secs_f64());
        let ends = forecast.map(|made| made.start_seconds + made.duration_seconds.p50);
        let Some(base) = own.or(ends).filter(|base| base.is_finite() && *base > 0.0) else {
            return Vec::new();
        };
        let seconds = |factor: f64| Duration::from_millis(rounded(base * factor * 1e3));
        let set = |case: &mut Case, factor: f64| {
            case.facts.vms[self.fact].deadline = Some(seconds(factor));
        };
        let words = |factor: f64| format!("with a deadline of {}", TimeSpan::from(seconds(factor)));
        let sooner = self.first_that_can_be_kept(&[1.0, 0.5, 0.25], set, words);
        let later = own.and_then(|_| self.smallest(&MORE, set, words));
        sooner.into_iter().chain(later).collect()
    }

    /// Of ever sooner deadlines the soonest cannot be kept, so the extreme says nothing.
    fn first_that_can_be_kept(
        &self,
        factors: &[f64],
        set: impl Fn(&mut Case, f64) + Copy,
        words: impl Fn(f64) -> String + Copy,
    ) -> Option<Change> {
        factors.iter().find_map(|factor| self.smallest(&[*factor], set, words))
    }

    /// What is not measured but said: urgency and permission.
    fn asked(&self) -> Vec<Change> {
        let mut found = Vec::new();
        let forbids = !self.question.facts.vms[self.fact].allow_postcopy;
        if forbids {
            let allow = |case: &mut Case, _: f64| case.facts.vms[self.fact].allow_postcopy = true;
            found.extend(self.smallest(&[1.0], allow, |_| "if it allowed post-copy".to_owned()));
        }
        let now = self.question.intent.urgency;
        if self.question.policy.searches() {
            for urgency in Urgency::ALL.into_iter().filter(|urgency| *urgency != now) {
                let set = |case: &mut Case, _: f64| case.intent.urgency = urgency;
                let words = |_: f64| format!("at urgency {urgency}");
                found.extend(self.smallest(&[1.0], set, words));
            }
        }
        found
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "milliseconds of a move"
)]
fn rounded(value: f64) -> u64 {
    value.max(1.0).ceil() as u64
}

fn part(share: f64) -> &'static str {
    match share {
        s if s < 0.3 => "a quarter",
        s if s < 0.6 => "half",
        _ => "all",
    }
}

fn times(factor: f64) -> String {
    match factor {
        f if f < 0.3 => "a quarter of".to_owned(),
        f if f < 0.6 => "half of".to_owned(),
        f if f < 3.0 => "twice".to_owned(),
        f => format!("{f:.0} times"),
    }
}

#[cfg(test)]
mod tests;
