//! Noticing that moves leave their forecast, and what a planner is asked then.
//!
//! ```text
//! pass ends, ended VMs, traffic, deadlines -> Trigger -> Situation -> (planner) -> Answer
//! ```
//!
//! What is noticed here is only a reason to ask. A question costs a search, so one is asked at a time, every [`ASK_EVERY`] at
//! most; one that is not answered within [`ANSWER_LIMIT`] is forgotten, and what comes later is not believed.
//!
//! Rates are looked at only over times in which no VM changed its phase, and of VMs that neither stand still nor have just
//! begun to run elsewhere: what a move does to its own VM's traffic is no news. Estimates of memory come from ends of passes.
//!
//! It sees each move as a [`Course`], so it serves who moves VMs ([`crate::GangDriver`]) and who only watches somebody else move
//! them ([`crate::Shadow`]).

mod path;

pub use path::PathSample;

use crate::{
    operator::OperatorRequest,
    record::{Decision, Phase},
};
use droveway_fleet::{Bandwidth, Bytes, Timestamp, VmId};
use droveway_plan::{
    Plan,
    replan::{
        Answer, Prospects, Situation, Standing, VmStanding, Wishes,
        traffic::{self, Traffic},
    },
};
use path::PathWatch;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// Between two questions at least: passes last longer, and the answer to the last one has to show first.
pub const ASK_EVERY: Duration = Duration::from_secs(1);
/// So long is waited for what happens together: passes of VMs that move at once end at once.
const GATHER: Duration = Duration::from_millis(250);
/// An answer that takes longer is about a world that has passed.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Changes that are taken up within a minute at most: more would be oscillation, however well each one is founded.
pub const CHANGES_PER_MINUTE: usize = 6;
const MINUTE: Duration = Duration::from_secs(60);
/// A pass that lasts this share longer or shorter than forecast is away from its forecast: forecasts of a duration err by a
/// fifth before anything was learned.
const PASS_AWAY: f64 = 0.3;
/// Shorter differences gain nothing.
const PASS_AWAY_LEAST: Duration = Duration::from_millis(500);
/// A pass is overdue when it has lasted so many times what was forecast, and a second.
const OVERDUE_TIMES: f64 = 1.5;
/// Dirtying that is so many times the forecast, or that part of it, is news.
const DIRTYING_AWAY: f64 = 1.6;
/// And differs by this at least: less is what a pass leaves unsent.
const DIRTYING_LEAST: f64 = 8e6;
/// So many looks in a row have to show the same shift: one may meet a burst.
const TRAFFIC_LOOKS: u32 = 2;
/// A look says nothing if it covers less.
const LOOK_LEAST: Duration = Duration::from_millis(150);
/// The traffic of a VM says nothing for so long after it began to run elsewhere: its connections recover meanwhile.
const RECOVERS: Duration = Duration::from_secs(3);
/// Between two questions about the same deadline.
const DEADLINE_EVERY: Duration = Duration::from_secs(5);

/// Why a planner is asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Trigger {
    /// An attempt ended.
    Ended(VmId),
    /// A pass lasted longer or shorter than forecast.
    PassAway { vm: VmId, pass: u32, lasted: Duration, forecast: Duration },
    /// A pass lasts much longer than forecast.
    Overdue { vm: VmId, pass: u32 },
    /// A pass found more or less dirtied than forecast.
    Dirtying { vm: VmId, pass: u32, found: Bytes, forecast: Bytes },
    /// Applications want something else, or the path carries something else.
    Traffic(String),
    /// Round trips are longer or more has to be sent again, or no longer.
    Path(String),
    /// Another tool has begun to move a VM, or has switched it to post-copy.
    Elsewhere { vm: VmId, splits: bool },
    /// A deadline will be missed as things stand.
    Deadline { end: Duration, deadline: Duration },
    /// An operator asked for something.
    Operator(String),
}

impl Trigger {
    fn text(&self) -> String {
        let seconds = |time: &Duration| format!("{:.1} s", time.as_secs_f64());
        match self {
            Trigger::Ended(vm) => format!("{vm} has ended"),
            Trigger::PassAway { vm, pass, lasted, forecast } => format!(
                "pass {pass} of {vm} lasted {}, not {} as forecast",
                seconds(lasted),
                seconds(forecast)
            ),
            Trigger::Overdue { vm, pass } => {
                format!("pass {pass} of {vm} lasts much longer than forecast")
            }
            Trigger::Dirtying { vm, pass, found, forecast } => format!(
                "pass {pass} of {vm} found {} dirtied, not {} as forecast",
                found.human(),
                forecast.human()
            ),
            Trigger::Traffic(text) => format!("traffic has changed: {text}"),
            Trigger::Path(text) => format!("the path has changed: {text}"),
            Trigger::Elsewhere { vm, splits: false } => format!("{vm} was begun"),
            Trigger::Elsewhere { vm, splits: true } => format!("{vm} was switched to post-copy"),
            Trigger::Operator(text) => format!("the operator asked for {text}"),
            Trigger::Deadline { end, deadline } => format!(
                "the end is expected after {}, the deadline is {}",
                seconds(end),
                seconds(deadline)
            ),
        }
    }
}

/// How one VM's move stands, for whoever compares it with its forecast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Course<'a> {
    pub(crate) vm: &'a VmId,
    pub(crate) phase: Phase,
    pub(crate) standing: Standing,
    /// The last pass that ended and how long it lasted, once its figures are there.
    pub(crate) last_pass: Option<(u32, Duration)>,
    /// False while the figures of a pass that has just ended are awaited.
    pub(crate) is_measured: bool,
    pub(crate) runs_at_target: bool,
    pub(crate) has_ended: bool,
    /// There is something about it that could be done otherwise.
    pub(crate) may_change: bool,
    /// Its QEMUs were prepared for post-copy.
    pub(crate) may_postcopy: bool,
    /// Its stream takes what the port gives it.
    pub(crate) takes_what_it_gets: bool,
    /// Sent so far.
    pub(crate) transferred: Bytes,
}

/// What moves are compared with.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Adaptation {
    /// What is to be expected of its plan.
    pub prospects: Prospects,
    /// When VMs have to have arrived, from the start of the run; the plan's own deadline beside them.
    pub deadlines: BTreeMap<VmId, Duration>,
}

/// What a gang remembers to notice changes by.
#[derive(Debug)]
pub(crate) struct Adapter {
    adaptation: Adaptation,
    /// The plan in force is another tool's.
    is_foreign: bool,
    /// What the ports carried before the run.
    measured: Bandwidth,
    began: Timestamp,
    pending: Option<(Trigger, Timestamp)>,
    asked: Option<(u64, Timestamp)>,
    last_asked: Option<Timestamp>,
    next_question: u64,
    adopted: VecDeque<Timestamp>,
    /// The last question was an operator's: its answer is no oscillation.
    by_operator: bool,
    /// Those whose end was noticed.
    ended: BTreeSet<VmId>,
    /// Passes that were compared, and those that were found overdue.
    compared: BTreeSet<(VmId, u32)>,
    overdue: BTreeSet<(VmId, u32)>,
    phases: BTreeMap<VmId, Phase>,
    /// When VMs began to run at the target.
    resumed: BTreeMap<VmId, Timestamp>,
    /// A VM changed its phase since the last look at rates.
    disturbed: bool,
    looked: Option<(Timestamp, Bytes)>,
    traffic: Option<Traffic>,
    odd_looks: u32,
    deadline_asked: Option<Timestamp>,
    path: PathWatch,
}

impl Adapter {
    /// When a VM has to have arrived, whatever operators have said since.
    pub(crate) fn own_deadline(&self, vm: &VmId) -> Option<Duration> {
        self.adaptation.deadlines.get(vm).copied()
    }

    pub(crate) fn new(adaptation: Adaptation) -> Self {
        Adapter {
            measured: adaptation.prospects.capacity,
            adaptation,
            is_foreign: false,
            began: Timestamp::ZERO,
            pending: None,
            asked: None,
            last_asked: None,
            next_question: 0,
            adopted: VecDeque::new(),
            by_operator: false,
            ended: BTreeSet::new(),
            compared: BTreeSet::new(),
            overdue: BTreeSet::new(),
            phases: BTreeMap::new(),
            resumed: BTreeMap::new(),
            disturbed: false,
            looked: None,
            traffic: None,
            odd_looks: 0,
            deadline_asked: None,
            path: PathWatch::default(),
        }
    }

    /// For moves that another tool makes.
    pub(crate) fn of_somebody_else(adaptation: Adaptation) -> Self {
        Adapter { is_foreign: true, ..Adapter::new(adaptation) }
    }

    pub(crate) const fn deadlines(&self) -> &BTreeMap<VmId, Duration> {
        &self.adaptation.deadlines
    }

    pub(crate) fn begin(&mut self, now: Timestamp) {
        self.began = now;
    }

    /// When there is something to look at although nothing happened.
    pub(crate) fn due(&self, is_measured: bool) -> Option<Timestamp> {
        match (&self.asked, &self.pending) {
            (Some((_, at)), _) => Some(*at + ANSWER_LIMIT),
            (None, Some((_, at))) if is_measured => {
                let next = self.last_asked.map_or(Timestamp::ZERO, |at| at + ASK_EVERY);
                Some(next.max(*at + GATHER))
            }
            // The figures that it waits for arrive as a reply.
            (None, _) => None,
        }
    }

    pub(crate) fn notice(&mut self, now: Timestamp, trigger: Trigger) {
        // The first reason is the one that is told; the planner looks at everything anyway.
        self.pending.get_or_insert((trigger, now));
    }

    /// The plan in force was changed, not at an operator's wish.
    pub(crate) fn note_change(&mut self, now: Timestamp) {
        if !self.by_operator {
            self.adopted.push_back(now);
        }
    }

    /// True if no further change may be taken up for now.
    pub(crate) fn has_changed_enough(&mut self, now: Timestamp) -> bool {
        while self.adopted.front().is_some_and(|at| *at + MINUTE <= now) {
            self.adopted.pop_front();
        }
        !self.by_operator && self.adopted.len() >= CHANGES_PER_MINUTE
    }

    /// What is to be expected of the plan in force.
    pub(crate) const fn prospects(&self) -> &Prospects {
        &self.adaptation.prospects
    }

    /// Another plan is in force, of which this is to be expected.
    pub(crate) fn expect(&mut self, prospects: Prospects) {
        self.adaptation.prospects = prospects;
    }

    /// Takes an answer, unless it was not asked for or comes late.
    pub(crate) fn take_answer(&mut self, question: u64, answer: Option<Answer>) -> Option<Answer> {
        if self.asked.is_none_or(|(asked, _)| asked != question) {
            return None;
        }
        self.asked = None;
        let answer = answer.filter(|answer| answer.question == question)?;
        self.adaptation.prospects = answer.prospects.clone();
        Some(answer)
    }

    /// An operator has changed the plan in force: what is asked about the one before is void.
    pub(crate) fn notice_operator(&mut self, now: Timestamp, request: &OperatorRequest) {
        self.asked = None;
        self.deadline_asked = None;
        self.pending = Some((Trigger::Operator(request.to_string()), now));
    }

    /// What the kernel says of a stream's connection. True if it is news.
    pub(crate) fn take_path(&mut self, now: Timestamp, vm: &VmId, sample: PathSample) -> bool {
        let news = self.path.observe(now, vm, sample);
        let is_news = news.is_some();
        if let Some(text) = news {
            self.notice(now, Trigger::Path(text));
        }
        is_news
    }

    /// What ports and VMs carried since the last time. Streams that are held back say nothing about what the path carries.
    pub(crate) fn take_traffic(
        &mut self,
        now: Timestamp,
        mut seen: Traffic,
        plan: &Plan,
        courses: &[Course<'_>],
        are_held_back: bool,
    ) {
        let sent: Bytes = courses.iter().map(|course| course.transferred).sum();
        let (before, disturbed) = (self.looked, std::mem::take(&mut self.disturbed));
        if before.is_some_and(|(at, _)| now.since(at) < LOOK_LEAST) {
            self.disturbed |= disturbed;
            return;
        }
        self.looked = Some((now, sent));
        let Some((at, sent_before)) = before.filter(|_| !disturbed) else { return };
        seen.streams = Bandwidth::of(sent.saturating_sub(sent_before), now.since(at));
        let takes = |course: &&Course<'_>| !are_held_back && course.takes_what_it_gets;
        let streams = courses.iter().filter(takes).count();
        seen.is_full = streams > 0;
        let by_flow = plan.reservations.is_empty() && streams > 0;
        let count = u32::try_from(streams).unwrap_or(u32::MAX).max(1);
        seen.level = by_flow.then(|| seen.streams.divided(count));
        let known = &self.adaptation.prospects;
        // A guest that waits for its pages has less than it wants.
        for waits in courses.iter().filter(|course| course.phase == Phase::PostCopy) {
            let (Some(rates), Some(demand)) =
                (seen.vms.get_mut(waits.vm), known.demands.get(waits.vm))
            else {
                continue;
            };
            rates.tx = rates.tx.max(demand.tx.rate);
            rates.rx = rates.rx.max(demand.rx.rate);
        }
        let silent = |vm: &VmId| {
            let resumed = self.resumed.get(vm);
            self.phases.get(vm) == Some(&Phase::Switchover)
                || resumed.is_some_and(|at| *at + RECOVERS > now)
        };
        seen.vms.retain(|vm, _| !silent(vm));
        let ends = [&plan.source, &plan.target];
        let mut news: Vec<String> = Vec::new();
        // More than was measured before the run is chance.
        let carried = traffic::capacity(&seen, ends, known.capacity)
            .map(|rate| rate.min(self.measured))
            .filter(|rate| *rate != known.capacity);
        news.extend(carried.map(|rate| format!("the ports carry {}", rate.human())));
        let place = |vm: &VmId| {
            let moved = self.resumed.contains_key(vm);
            let moves = courses.iter().any(|course| course.vm == vm);
            let host = if moved { &plan.target } else { &plan.source };
            // A VM that stays is at the target, if what it has is looked at there.
            Some(if moves { host.clone() } else { plan.target.clone() })
        };
        let capacity = carried.unwrap_or(known.capacity);
        let shifts = traffic::shifts(&known.demands, &seen, capacity, place);
        news.extend(shifts.iter().map(ToString::to_string));
        self.odd_looks = if news.is_empty() { 0 } else { self.odd_looks + 1 };
        self.traffic = Some(seen);
        if self.odd_looks >= TRAFFIC_LOOKS {
            self.odd_looks = 0;
            self.notice(now, Trigger::Traffic(news.join(", ")));
        }
    }

    /// Who has ended, who runs where, who changed its phase.
    pub(crate) fn look_at_phases(&mut self, now: Timestamp, courses: &[Course<'_>]) {
        for course in courses {
            let Course { vm, phase, .. } = *course;
            if self.phases.insert(vm.clone(), phase) != Some(phase) {
                self.disturbed = true;
                // Whose streams they were that had those rates is over.
                self.traffic = None;
            }
            if course.runs_at_target {
                self.resumed.entry(vm.clone()).or_insert(now);
            }
            if course.has_ended && self.ended.insert(vm.clone()) {
                self.notice(now, Trigger::Ended(vm.clone()));
            }
        }
    }

    /// Passes that lasted otherwise than forecast, or found other dirtying.
    pub(crate) fn look_at_passes(&mut self, now: Timestamp, courses: &[Course<'_>]) {
        let began = self.began;
        let mut found = Vec::new();
        for course in courses {
            let vm = course.vm;
            let Some(expected) = self.adaptation.prospects.moves.get(vm) else { continue };
            let Standing::PreCopy(passing) = course.standing else { continue };
            let start_of = |pass: u32| {
                if pass == expected.first_pass {
                    return Some(expected.start);
                }
                expected.pass_ends.get(&pass.checked_sub(1)?).copied()
            };
            let forecast_of =
                |pass: u32| Some(expected.pass_ends.get(&pass)?.saturating_sub(start_of(pass)?));
            if let Some((pass, lasted)) = course.last_pass
                && !self.compared.contains(&(vm.clone(), pass))
            {
                self.compared.insert((vm.clone(), pass));
                if let Some(forecast) = forecast_of(pass) {
                    let away = lasted.abs_diff(forecast);
                    if away > PASS_AWAY_LEAST.max(forecast.mul_f64(PASS_AWAY)) {
                        found.push(Trigger::PassAway { vm: vm.clone(), pass, lasted, forecast });
                    }
                }
                if let Some(dirtied) = passing.dirtied {
                    let found_bytes = dirtied.bytes.as_f64();
                    let forecast = expected.curve.unique_bytes(dirtied.time.as_secs_f64());
                    let ratio = found_bytes / forecast.max(1.0);
                    let far = !(1.0 / DIRTYING_AWAY..=DIRTYING_AWAY).contains(&ratio);
                    if far && (found_bytes - forecast).abs() > DIRTYING_LEAST {
                        let forecast = Bytes::from_f64(forecast);
                        let (vm, found_bytes) = (vm.clone(), dirtied.bytes);
                        found.push(Trigger::Dirtying { vm, pass, found: found_bytes, forecast });
                    }
                }
            }
            let pass = passing.passes + 1;
            if let Some(forecast) = forecast_of(pass) {
                let late = began + expected.pass_ends.get(&pass).copied().unwrap_or_default();
                let long =
                    passing.pass_time > forecast.mul_f64(OVERDUE_TIMES) + Duration::from_secs(1);
                if long && now > late && self.overdue.insert((vm.clone(), pass)) {
                    found.push(Trigger::Overdue { vm: vm.clone(), pass });
                }
            }
        }
        for trigger in found {
            self.notice(now, trigger);
        }
    }

    /// Whether a deadline will be missed as things stand: everybody's is `common`, beside their own.
    pub(crate) fn look_at_deadlines(
        &mut self,
        now: Timestamp,
        common: Option<Duration>,
        wishes: &Wishes,
    ) {
        let elapsed = now.since(self.began);
        let mut worst: Option<(Duration, Duration)> = None;
        for (vm, expected) in &self.adaptation.prospects.moves {
            if self.ended.contains(vm) {
                continue;
            }
            let own = self.own_deadline(vm);
            let own = wishes.deadline_of(vm).unwrap_or(own);
            let Some(deadline) = [own, common].into_iter().flatten().min() else { continue };
            let end = expected.end.max(elapsed);
            let late = end.saturating_sub(deadline);
            if !late.is_zero() && worst.is_none_or(|(end, due)| late > end.saturating_sub(due)) {
                worst = Some((end, deadline));
            }
        }
        let Some((end, deadline)) = worst else { return };
        if self.deadline_asked.is_none_or(|at| at + DEADLINE_EVERY <= now) {
            self.deadline_asked = Some(now);
            self.notice(now, Trigger::Deadline { end, deadline });
        }
    }

    /// A question, if there is reason for one and it is its time.
    pub(crate) fn ask(
        &mut self,
        now: Timestamp,
        plan: &Plan,
        wishes: &Wishes,
        courses: &[Course<'_>],
    ) -> Option<Box<Situation>> {
        if self.asked.is_some_and(|(_, at)| at + ANSWER_LIMIT <= now) {
            self.asked = None;
        }
        if !courses.iter().any(|course| course.may_change) {
            self.pending = None;
        }
        let too_early = self.last_asked.is_some_and(|at| at + ASK_EVERY > now)
            || self.pending.as_ref().is_some_and(|(_, at)| *at + GATHER > now);
        let is_measured = courses.iter().all(|course| course.is_measured);
        if self.pending.is_none() || self.asked.is_some() || too_early || !is_measured {
            return None;
        }
        self.next_question += 1;
        (self.asked, self.last_asked) = (Some((self.next_question, now)), Some(now));
        let situation = situation(Some(self), now, plan, wishes, courses);
        let asked = self.pending.take();
        self.by_operator = matches!(asked, Some((Trigger::Operator(_), _)));
        Some(Box::new(situation))
    }
}

/// What a planner would be told now.
pub(crate) fn situation(
    adapter: Option<&Adapter>,
    now: Timestamp,
    plan: &Plan,
    wishes: &Wishes,
    courses: &[Course<'_>],
) -> Situation {
    let standing = |course: &Course<'_>| VmStanding {
        vm: course.vm.clone(),
        standing: course.standing,
        may_postcopy: course.may_postcopy,
    };
    let known = adapter.map(|adapter| &adapter.adaptation.prospects);
    Situation {
        question: adapter.map_or(0, |adapter| adapter.next_question),
        plan: plan.clone(),
        is_foreign: adapter.is_some_and(|adapter| adapter.is_foreign),
        elapsed: adapter.map_or(Duration::ZERO, |adapter| now.since(adapter.began)),
        trigger: adapter
            .and_then(|adapter| adapter.pending.as_ref())
            .map_or_else(String::new, |(trigger, _)| trigger.text()),
        vms: courses.iter().map(standing).collect(),
        traffic: adapter.and_then(|adapter| adapter.traffic.clone()),
        demands: known.map(|known| known.demands.clone()).unwrap_or_default(),
        capacity: known.map(|known| known.capacity).filter(|capacity| !capacity.is_zero()),
        stream_ratio: known.map_or(0.0, |known| known.stream_ratio),
        path: adapter.and_then(|adapter| adapter.path.degraded()),
        wishes: wishes.clone(),
        weighed: known.map(|known| known.weighed.clone()).unwrap_or_default(),
    }
}

/// An answer, and what became of it.
pub(crate) fn decision(now: Timestamp, answer: &Answer, choice: String, adopted: bool) -> Decision {
    Decision {
        at: now,
        vm: None,
        reason: answer.reason.clone(),
        inputs: answer.inputs.clone(),
        choice,
        runner_up: answer.runner_up.clone(),
        margin: Some(answer.margin),
        adopted,
    }
}
