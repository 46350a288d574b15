//! Whether deadlines can be kept, what stands in the way, and the smallest change that helps.
//!
//! Kept means by construction: a schedule was found that keeps them with the forecast as far off as one in twenty is. Impossible
//! means by proof: what has to be sent takes longer than there is time, for the gang, for a VM alone, or for those that are due
//! first together. A floor that no schedule keeps with all the time in the world is no matter of deadlines: it is left out of the
//! question.

use super::{Known, choice::Pool, exposing, safety};
use crate::{
    policy::{GangFacts, limit_of},
    reserve::{GENTLEST, promised},
    search::{Found, Judge, Task, Weights, least_seconds, search, search_for},
};
use droveway_fleet::{AllowPostcopy, Intent, Reserve, VmId};
use droveway_model::{
    fluid::{Gang, MoveEnd},
    urgency::{RateStep, Work, feasibility},
};
use serde::Serialize;
use std::{cell::Cell, fmt};

/// Whether the deadlines can be kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Deadlines {
    /// The answer.
    pub verdict: Verdict,
    /// What the fastest schedule takes, seconds, with what the forecast may be off.
    pub fastest_seconds: f64,
    /// What stands in the way: the deadlines that are missed, then each limit without which alone they would be kept. Empty if
    /// all are kept.
    pub binding: Vec<Limit>,
    /// What would help, the smallest change first (see `Remedy::size`); empty if nothing is needed.
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

/// A limit that stands in the way of the deadlines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "limit", content = "vm")]
pub enum Limit {
    /// The gang's deadline.
    GangDeadline,
    /// A VM's own deadline.
    VmDeadline(VmId),
    /// A VM does not converge within the downtime that it bears, and stays.
    Downtime(VmId),
    /// Post-copy is not allowed for a VM.
    PostCopy(VmId),
    /// Too few VMs may be exposed at once.
    Exposed,
    /// Too few VMs may move at once.
    Parallel,
    /// What applications keep.
    Floor,
    /// Too little of the ports is held for the moves.
    Reservation,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::GangDeadline => f.write_str("the gang's deadline"),
            Limit::VmDeadline(vm) => write!(f, "the deadline of {vm}"),
            Limit::Downtime(vm) => write!(f, "the downtime limit of {vm}"),
            Limit::PostCopy(vm) => write!(f, "that {vm} may not be post-copied"),
            Limit::Exposed => f.write_str("the limit of VMs exposed at once"),
            Limit::Parallel => f.write_str("the limit of VMs that move at once"),
            Limit::Floor => f.write_str("the floor of the applications"),
            Limit::Reservation => f.write_str("what is held of the ports"),
        }
    }
}

/// A task on certain ports, and what its search may cost.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) share: Option<f64>,
    pub(super) task: Task,
    pub(super) plays: usize,
}

/// What is asked.
pub(super) struct Question<'a> {
    pub(super) intent: &'a Intent,
    pub(super) facts: &'a GangFacts,
    pub(super) known: Known<'a>,
    /// The task on the ports as they are.
    pub(super) bare: &'a Task,
    pub(super) rivals: &'a [Weights],
    /// Where in `rivals` time alone counts.
    pub(super) hasty: usize,
    pub(super) plays: usize,
    pub(super) seed: u64,
    /// When it has to have ended where there is no deadline, seconds.
    pub(super) finish_bound: f64,
    /// Questions about remedies that may still be asked.
    pub(super) left: Cell<usize>,
}

/// What was found on all terms.
pub(super) struct Planned {
    pub(super) pools: Vec<Pool>,
    /// The first of the terms, as it was asked in the end: what plain policies are judged by.
    pub(super) plain: Task,
    pub(super) deadlines: Option<Deadlines>,
}

/// A question about a remedy is asked with such a part of the plays.
const REMEDY_PART: usize = 4;
/// So many questions are asked, times the VMs: each takes the longer the more they are, and an operator waits for the answer.
const VM_QUESTIONS: usize = 1_024;
/// But so many at least and at most.
const QUESTIONS: [usize; 2] = [16, 64];
/// So many VMs are looked at one by one when somebody has to give in.
const VMS_TRIED: usize = 8;
/// Halvings of a range of remedies: to 3 %.
const HALVINGS: u32 = 5;
/// No deadline is put off by more than so many times.
const LATER_MOST: f64 = 4_096.0;
/// Reservations that are tried as a remedy, percent of a port.
const RESERVED: [u32; 8] = [25, 40, 50, 60, 70, 80, 90, 95];
/// A VM may be asked to bear so many times its downtime.
const DOWNTIME_TIMES: [f64; 3] = [2.0, 4.0, 8.0];

/// Whether it misses nothing.
pub(crate) fn keeps(found: &Found) -> bool {
    found.cost.parts.missed < 0.5
}

/// How many questions about remedies a gang's deadlines are worth.
pub(super) fn questions(vms: usize) -> Cell<usize> {
    let [least, most] = QUESTIONS;
    Cell::new((VM_QUESTIONS / vms.max(1)).clamp(least, most))
}

impl Question<'_> {
    /// Searches on all `terms` (at least one): for a schedule that keeps the deadlines even if the forecast is off; if there is
    /// none, for one that keeps them if it is not.
    pub(super) fn planned(&self, mut terms: Vec<Terms>) -> Option<Planned> {
        if self.bare.due().is_infinite() {
            let bound = |task: &Task| Task { deadline: self.finish_bound, ..task.clone() };
            return self.answered(&terms, &bound);
        }
        let safety = safety(self.known);
        let safe = |task: &Task| task.hurried(safety);
        let mut pools = self.searched(&terms, &safe);
        if !pools.iter().any(|pool| keeps(&pool.found)) && self.bare.floor > 0.0 {
            // Where time is short, what leaves applications most is not among what is searched.
            let gentle = self.gentle(&terms);
            if gentle.iter().chain(&terms).any(|of| self.floor_can_be_kept(&of.task)) {
                pools.extend(self.searched(gentle.as_slice(), &safe));
                terms.extend(gentle);
            } else {
                terms.iter_mut().for_each(|of| of.task.floor = 0.0);
                pools = self.searched(&terms, &safe);
            }
        }
        let fastest = |pools: &[Pool]| {
            let seconds = |pool: &Pool| pool.found.rivals[self.hasty].0.parts.total_seconds;
            safety * pools.iter().map(seconds).fold(f64::INFINITY, f64::min)
        };
        if pools.iter().any(|pool| keeps(&pool.found)) {
            let fastest_seconds = fastest(&pools);
            pools.retain(|pool| keeps(&pool.found));
            let deadlines = Deadlines {
                verdict: Verdict::Feasible,
                fastest_seconds,
                binding: Vec::new(),
                remedies: Vec::new(),
            };
            let plain = safe(&terms.first()?.task);
            return Some(Planned { pools, plain, deadlines: Some(deadlines) });
        }
        let cheapest = |a: &&Pool, b: &&Pool| a.found.cost.value.total_cmp(&b.found.cost.value);
        let best = pools.iter().min_by(cheapest)?;
        let mut binding = self.missed(&best.task, &best.found);
        let remedies = self.remedies(&terms, &pools);
        for limit in remedies.iter().filter_map(|remedy| remedy.releases.as_ref()) {
            if !binding.contains(limit) {
                binding.push(limit.clone());
            }
        }
        let mut planned = self.answered(&terms, &Task::clone)?;
        let kept = |pools: &[Pool]| pools.iter().any(|pool| keeps(&pool.found));
        let hopeful = || kept(&self.searched(&terms, &|task| task.hurried(1.0 / safety)));
        let verdict = if kept(&planned.pools) || hopeful() {
            Verdict::AtRisk
        } else if let Some(limit) = self.proved() {
            binding.retain(|other| *other != limit);
            binding.insert(0, limit);
            Verdict::Impossible
        } else {
            Verdict::Infeasible
        };
        let fastest_seconds = fastest(&planned.pools);
        let remedies = remedies.into_iter().map(|remedy| remedy.text).collect();
        planned.deadlines = Some(Deadlines { verdict, fastest_seconds, binding, remedies });
        Some(planned)
    }

    fn answered(&self, terms: &[Terms], change: &impl Fn(&Task) -> Task) -> Option<Planned> {
        let plain = change(&terms.first()?.task);
        Some(Planned { pools: self.searched(terms, change), plain, deadlines: None })
    }

    fn searched(&self, terms: &[Terms], change: &impl Fn(&Task) -> Task) -> Vec<Pool> {
        let one = |of: &Terms| {
            let task = change(&of.task);
            let found = search_for(&task, self.rivals, of.plays, self.seed)?;
            Some(Pool { share: of.share, task, found })
        };
        terms.iter().filter_map(one).collect()
    }

    /// The least that may be promised, unless that is searched anyway or not the planner's to say.
    fn gentle(&self, terms: &[Terms]) -> Option<Terms> {
        let open = self.intent.shaping && self.intent.reserve == Reserve::Auto;
        let known = terms.iter().any(|of| of.share == Some(GENTLEST));
        (open && !known).then(|| Terms {
            share: Some(GENTLEST),
            task: promised(self.bare, GENTLEST),
            plays: self.part(),
        })
    }

    /// Whether any schedule keeps the floor, with all the time in the world.
    fn floor_can_be_kept(&self, task: &Task) -> bool {
        let calm = task.hurried(0.0);
        let found = search(&calm, self.part(), self.seed);
        found.is_some_and(|found| {
            let course = Judge::new(&calm).course(&found.schedule);
            calm.below_floor(&course) == 0
        })
    }

    fn part(&self) -> usize {
        (self.plays / REMEDY_PART).max(1)
    }

    /// Whether some schedule keeps everything, even if the forecast is off; false once all questions have been asked.
    fn keeps(&self, task: &Task) -> bool {
        let Some(left) = self.left.get().checked_sub(1) else { return false };
        self.left.set(left);
        let safe = task.hurried(safety(self.known));
        search(&safe, self.part(), self.seed).is_some_and(|found| keeps(&found))
    }

    /// What of its limits the best schedule breaks, deadlines first.
    fn missed(&self, task: &Task, found: &Found) -> Vec<Limit> {
        let course = Judge::new(task).course(&found.schedule);
        let last = course.moves.iter().map(|step| step.end_seconds).fold(0.0, f64::max);
        let mut limits = Vec::new();
        if last > task.deadline {
            limits.push(Limit::GangDeadline);
        }
        let mut stay = Vec::new();
        for (step, index) in course.moves.iter().zip(&found.schedule.order) {
            let vm = || self.facts.vms[*index].vm.clone();
            if step.end != MoveEnd::Completed {
                stay.push(Limit::Downtime(vm()));
            } else if step.end_seconds > task.movers[*index].deadline {
                limits.push(Limit::VmDeadline(vm()));
            }
        }
        limits.append(&mut stay);
        if task.below_floor(&course) > 0 {
            limits.push(Limit::Floor);
        }
        limits
    }

    /// The deadline that no schedule keeps, if that can be proved: on the ports as they are, at their full rate.
    fn proved(&self) -> Option<Limit> {
        let task = self.bare;
        if least_seconds(task) > task.deadline {
            return Some(Limit::GangDeadline);
        }
        let named = |index: usize| Limit::VmDeadline(self.facts.vms[index].vm.clone());
        let alone = |index: usize| Task {
            movers: vec![task.movers[index].clone()],
            gang: Gang { flows: Vec::new(), ..task.gang.clone() },
            ..task.clone()
        };
        let due = |index: usize| task.movers[index].deadline;
        let has_own = |index: &usize| due(*index).is_finite();
        let mut own = (0..task.movers.len()).filter(has_own);
        if let Some(index) = own.find(|index| least_seconds(&alone(*index)) > due(*index)) {
            return Some(named(index));
        }
        let work: Vec<Work> = task
            .movers
            .iter()
            .map(|mover| Work {
                bytes: task.gang.vms[mover.step.vm].send_bytes,
                deadline: mover.deadline.min(task.deadline),
            })
            .collect();
        let constants = &task.gang.constants;
        let rate = task.capacity * constants.efficiency.max(1.0);
        let late = feasibility(&work, &[RateStep { from: constants.setup_seconds, rate }])
            .into_iter()
            .find(|slack| slack.slack < 0.0)?;
        let own = due(late.index) <= task.deadline;
        Some(if own { named(late.index) } else { Limit::GangDeadline })
    }
}

/// One change, with which the deadlines are kept.
struct Remedy {
    /// How much has to be given up, as a share of what was asked for: time over the deadline, points of a port, of a floor, one
    /// VM of the gang, downtime over its limit. The smallest is offered first.
    size: f64,
    kind: Kind,
    text: String,
    /// The limit that it releases, unless that is a deadline.
    releases: Option<Limit>,
}

/// Of what kind a change is; of each only the smallest is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Time,
    /// For these VMs, by the first of them and how many.
    PostCopy(usize, usize),
    Ports,
    Exposed,
    AtOnce,
    Floor,
    Downtime,
    Fewer,
}

impl Question<'_> {
    /// The smallest change of each kind, on whichever of the terms it is smallest.
    fn remedies(&self, terms: &[Terms], pools: &[Pool]) -> Vec<Remedy> {
        let mut remedies = Vec::new();
        let cost = |of: &(&Terms, &Pool)| of.1.found.cost.value;
        let mut on: Vec<(&Terms, &Pool)> = terms.iter().zip(pools).collect();
        on.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
        for (of, pool) in on {
            let (task, missed) = (&of.task, self.missed(&pool.task, &pool.found));
            remedies.extend(self.more_time(task, &missed));
            remedies.extend(self.more_post_copy(task));
            remedies.extend(self.more_of_the_ports(of));
            remedies.extend(self.more_exposed(task));
            remedies.extend(self.more_at_once(task));
            remedies.extend(self.lower_floor(task));
            remedies.extend(self.more_downtime(task, &missed));
            remedies.extend(self.fewer(task));
        }
        remedies.sort_by(|a, b| a.size.total_cmp(&b.size));
        let mut offered: Vec<Remedy> = Vec::new();
        for remedy in remedies {
            if !offered.iter().any(|other| other.kind == remedy.kind) {
                offered.push(remedy);
            }
        }
        offered
    }

    fn vms(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "some VMs")]
        let count = self.facts.vms.len().max(1) as f64;
        count
    }

    /// The deadlines that are missed, as much later as is needed.
    fn more_time(&self, task: &Task, missed: &[Limit]) -> Option<Remedy> {
        let of_vm = |vm: &VmId| self.facts.vms.iter().position(|fact| fact.vm == *vm);
        let mut late: Vec<Option<usize>> = missed
            .iter()
            .filter_map(|limit| match limit {
                Limit::GangDeadline => Some(None),
                Limit::VmDeadline(vm) => of_vm(vm).map(Some),
                _ => None,
            })
            .collect();
        if late.is_empty() && missed.contains(&Limit::Floor) {
            // In time at the applications' cost: all deadlines press.
            late.extend(task.deadline.is_finite().then_some(None));
            let own = |index: &usize| task.movers[*index].deadline.is_finite();
            late.extend((0..task.movers.len()).filter(own).map(Some));
        }
        if late.is_empty() {
            return None;
        }
        let later = |times: f64| {
            let mut task = task.clone();
            for index in &late {
                match index {
                    Some(index) => task.movers[*index].deadline *= times,
                    None => task.deadline *= times,
                }
            }
            task
        };
        let (mut short, mut enough) = (1.0, 1.25);
        while !self.keeps(&later(enough)) {
            (short, enough) = (enough, 2.0 * enough);
            if enough > LATER_MOST {
                return None;
            }
        }
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(short, enough);
            if self.keeps(&later(middle)) {
                enough = middle;
            } else {
                short = middle;
            }
        }
        let more = |index: &Option<usize>| {
            let due = index.map_or(task.deadline, |index| task.movers[index].deadline);
            let seconds = (due * (enough - 1.0)).ceil();
            match index {
                Some(index) => format!("{seconds:.0} s more for {}", self.facts.vms[*index].vm),
                None => format!("{seconds:.0} s more"),
            }
        };
        let texts: Vec<String> = late.iter().map(more).collect();
        let (size, text) = (enough - 1.0, texts.join(" and "));
        Some(Remedy { size, kind: Kind::Time, text, releases: None })
    }

    /// Post-copy for those that may not: each alone, or as many as it takes, the largest first.
    fn more_post_copy(&self, task: &Task) -> Vec<Remedy> {
        let never = self.intent.allow_postcopy == AllowPostcopy::Never;
        let forbidden = |index: &usize| {
            let fact = &self.facts.vms[*index];
            (never || !fact.allow_postcopy) && !self.intent.techniques.contains_key(&fact.vm)
        };
        let allowed = |vms: &[usize]| {
            let mut freer = task.clone();
            for index in vms {
                freer.movers[*index].ways.extend(exposing(task.capacity));
            }
            freer
        };
        let now = if never { " (now --allow-postcopy never)" } else { "" };
        let text = |vms: &[usize]| {
            let names: Vec<&str> =
                vms.iter().map(|index| self.facts.vms[*index].vm.as_str()).collect();
            format!("allow post-copy for {}{now}", names.join(" and "))
        };
        let named = |index: usize| Limit::PostCopy(self.facts.vms[index].vm.clone());
        let vms = self.largest_first(task, forbidden);
        let alone = vms.iter().take(VMS_TRIED).filter(|index| self.keeps(&allowed(&[**index])));
        let alone: Vec<Remedy> = alone
            .map(|index| Remedy {
                size: 1.0 / self.vms(),
                kind: Kind::PostCopy(*index, 1),
                text: text(&[*index]),
                releases: Some(named(*index)),
            })
            .collect();
        if !alone.is_empty() {
            return alone;
        }
        let mut counts = 2..=vms.len().min(VMS_TRIED);
        let enough = counts.find(|count| self.keeps(&allowed(&vms[..*count])));
        let some = |count: usize| {
            let vms = &vms[..count];
            self.of_some(vms, text(vms), Kind::PostCopy(vms[0], count))
        };
        enough.map(some).into_iter().collect()
    }

    fn of_some(&self, vms: &[usize], text: String, kind: Kind) -> Remedy {
        #[expect(clippy::cast_precision_loss, reason = "some VMs")]
        let size = vms.len() as f64 / self.vms();
        Remedy { size, kind, text, releases: None }
    }

    fn largest_first(&self, task: &Task, of: impl Fn(&usize) -> bool) -> Vec<usize> {
        let size = |index: &usize| task.gang.vms[task.movers[*index].step.vm].send_bytes;
        let mut vms: Vec<usize> = (0..task.movers.len()).filter(of).collect();
        vms.sort_by(|a, b| size(b).total_cmp(&size(a)));
        vms
    }

    /// More of both ports held, on the ports as a plan would leave them.
    fn more_of_the_ports(&self, of: &Terms) -> Option<Remedy> {
        if !self.intent.shaping {
            return None;
        }
        let held = of.share.unwrap_or(0.0);
        let bare = Task { floor: of.task.floor, ..self.bare.clone() };
        let percent = RESERVED.into_iter().find(|percent| {
            let share = f64::from(*percent) / 100.0;
            share > held && self.keeps(&promised(&bare, share))
        })?;
        let instead = if held > 0.0 {
            format!("instead of {:.0} %", 100.0 * held)
        } else {
            "for migration".to_owned()
        };
        Some(Remedy {
            size: f64::from(percent) / 100.0 - held,
            kind: Kind::Ports,
            text: format!("reserve {percent} % of both ports {instead}"),
            releases: Some(Limit::Reservation),
        })
    }

    fn more_exposed(&self, task: &Task) -> Option<Remedy> {
        let now = task.exposed_max;
        let freer = |most| Task { exposed_max: most, ..task.clone() };
        let more = self.least_more(now, freer)?;
        let text = format!("let {more} VMs be exposed at once instead of {now} (--max-exposed)");
        Some(self.of_limit(now, more, text, (Kind::Exposed, Limit::Exposed)))
    }

    fn more_at_once(&self, task: &Task) -> Option<Remedy> {
        let now = task.parallel_max;
        let freer = |most| Task { parallel_max: most, ..task.clone() };
        let more = self.least_more(now, freer)?;
        let text = format!("let {more} VMs move at once instead of {now} (--max-parallel)");
        Some(self.of_limit(now, more, text, (Kind::AtOnce, Limit::Parallel)))
    }

    /// The least number above `now` that is enough.
    fn least_more(&self, now: usize, freer: impl Fn(usize) -> Task) -> Option<usize> {
        let all = self.facts.vms.len();
        if now >= all || !self.keeps(&freer(all)) {
            return None;
        }
        (now + 1..all).take(VMS_TRIED).find(|most| self.keeps(&freer(*most))).or(Some(all))
    }

    fn of_limit(
        &self,
        now: usize,
        more: usize,
        text: String,
        (kind, limit): (Kind, Limit),
    ) -> Remedy {
        #[expect(clippy::cast_precision_loss, reason = "some VMs")]
        let size = (more - now) as f64 / self.vms();
        Remedy { size, kind, text, releases: Some(limit) }
    }

    fn lower_floor(&self, task: &Task) -> Option<Remedy> {
        let lowered = |floor: f64| Task { floor, ..task.clone() };
        if task.floor <= 0.0 || !self.keeps(&lowered(0.0)) {
            return None;
        }
        let (mut kept, mut broken) = (0.0, task.floor);
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(kept, broken);
            if self.keeps(&lowered(middle)) {
                kept = middle;
            } else {
                broken = middle;
            }
        }
        let percent = (100.0 * kept).floor();
        Some(Remedy {
            size: task.floor - percent / 100.0,
            kind: Kind::Floor,
            text: format!("a floor of {percent:.0} % instead of {:.0} %", 100.0 * task.floor),
            releases: Some(Limit::Floor),
        })
    }

    /// More downtime for those that do not converge.
    fn more_downtime(&self, task: &Task, missed: &[Limit]) -> Option<Remedy> {
        let stays = |fact: &crate::VmFacts| missed.contains(&Limit::Downtime(fact.vm.clone()));
        let index = self.facts.vms.iter().position(stays)?;
        let fact = &self.facts.vms[index];
        let (vm, now) = (&fact.vm, limit_of(self.intent, fact).as_secs_f64());
        let longer = |times: f64| {
            let mut task = task.clone();
            // What is aimed at stays below by as large a part.
            task.movers[index].step.downtime_limit *= times;
            task
        };
        let times = DOWNTIME_TIMES.into_iter().find(|times| self.keeps(&longer(*times)))?;
        Some(Remedy {
            size: times - 1.0,
            kind: Kind::Downtime,
            text: format!(
                "a downtime of {:.0} ms instead of {:.0} ms for {vm}",
                1e3 * now * times,
                1e3 * now
            ),
            releases: Some(Limit::Downtime(vm.clone())),
        })
    }

    /// VMs left where they are: each alone, or as many as it takes, the largest first. Groups stay together.
    fn fewer(&self, task: &Task) -> Option<Remedy> {
        let free = |index: &usize| task.movers[*index].group.is_none();
        let vms = self.largest_first(task, free);
        let without = |left: &[usize]| {
            let mut fewer = task.clone();
            let mut index = 0;
            fewer.movers.retain(|_| {
                index += 1;
                !left.contains(&(index - 1))
            });
            fewer
        };
        let text = |vms: &[usize]| {
            let names: Vec<&str> =
                vms.iter().map(|index| self.facts.vms[*index].vm.as_str()).collect();
            let verb = if names.len() == 1 { "it is" } else { "they are" };
            format!("leave {} where {verb}", names.join(" and "))
        };
        let most = vms.len().min(VMS_TRIED).min(task.movers.len().saturating_sub(1));
        let alone = vms.iter().take(most).find(|index| self.keeps(&without(&[**index])));
        let enough = || (2..=most).find(|count| self.keeps(&without(&vms[..*count])));
        let some = |vms: &[usize]| self.of_some(vms, text(vms), Kind::Fewer);
        match alone {
            Some(index) => Some(some(&[*index])),
            None => enough().map(|count| some(&vms[..count])),
        }
    }
}

#[cfg(test)]
mod tests;
