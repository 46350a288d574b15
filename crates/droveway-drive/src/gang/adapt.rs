//! Noticing that a run leaves its forecast, asking a planner, and taking up what it answers.
//!
//! ```text
//! pass ends, ended VMs, traffic, deadlines -> Trigger -> Situation -> (planner) -> Answer -> the child, or as planned
//! ```
//!
//! The driver compares, the planner decides: what is noticed here is only a reason to ask. A question costs a search, so one is
//! asked at a time, every [`ASK_EVERY`] at most; one that is not answered within [`ANSWER_LIMIT`] is forgotten, and what comes
//! later is not believed. A change is taken up only if it is a child of the plan in force that names everybody who has not
//! ended, fits what the QEMUs were prepared for and contradicts nothing; and no more than [`CHANGES_PER_MINUTE`] are. Each
//! answer becomes a [`Decision`], whatever becomes of it.
//!
//! Rates are looked at only over times in which no VM changed its phase, and of VMs that neither stand still nor have just
//! begun to run elsewhere: what a move does to its own VM's traffic is no news. Estimates of memory come from ends of passes.

use super::{
    GangDriver,
    path::{PathSample, PathWatch},
};
use crate::{
    operator::OperatorRequest,
    record::{Decision, Phase},
};
use droveway_fleet::{Bandwidth, Bytes, RateLimit, Timestamp, VmId};
use droveway_plan::{
    Plan, Reservation, StartRule,
    check::contradictions,
    replan::{
        Answer, Change, Prospects, Situation, Standing, Verdict, VmStanding,
        traffic::{self, Traffic},
    },
};
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
enum Trigger {
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
            Trigger::Operator(text) => format!("the operator asked for {text}"),
            Trigger::Deadline { end, deadline } => format!(
                "the end is expected after {}, the deadline is {}",
                seconds(end),
                seconds(deadline)
            ),
        }
    }
}

/// What the gang as a whole wants done. Data, like an action of one VM.
#[derive(Debug, Clone, PartialEq)]
pub enum GangAction {
    /// Ask a planner; answered by [`GangDriver::handle_answer`].
    Replan(Box<Situation>),
    /// Both ports hold this for the moves from now on.
    Reserve(Vec<Reservation>),
    /// The stream of that VM, which switches or stands still, goes before the others from now on, and before what applications are
    /// promised of ports that are held; `None`: all are equal again.
    GiveWay {
        /// Whose.
        to: Option<VmId>,
    },
    /// No stream takes more than this from now on, whatever its own ceiling: applications want the port.
    Yield {
        /// Of each stream.
        each: RateLimit,
    },
}

/// How a gang adapts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Adaptation {
    /// What is to be expected of its plan.
    pub prospects: Prospects,
    /// When VMs have to have arrived, from the start of the run; the plan's own deadline beside them.
    pub deadlines: BTreeMap<VmId, Duration>,
    /// Everything is noticed, asked and recorded, and nothing is changed.
    pub observe_only: bool,
}

/// What a gang remembers to notice changes by.
#[derive(Debug)]
pub(super) struct Adapter {
    adaptation: Adaptation,
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
    pub(super) fn own_deadline(&self, vm: &VmId) -> Option<Duration> {
        self.adaptation.deadlines.get(vm).copied()
    }

    pub(super) fn new(adaptation: Adaptation) -> Self {
        Adapter {
            measured: adaptation.prospects.capacity,
            adaptation,
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

    pub(super) const fn deadlines(&self) -> &BTreeMap<VmId, Duration> {
        &self.adaptation.deadlines
    }

    pub(super) fn begin(&mut self, now: Timestamp) {
        self.began = now;
    }

    /// When there is something to look at although nothing happened.
    pub(super) fn due(&self, is_measured: bool) -> Option<Timestamp> {
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

    fn notice(&mut self, now: Timestamp, trigger: Trigger) {
        // The first reason is the one that is told; the planner looks at everything anyway.
        self.pending.get_or_insert((trigger, now));
    }

    fn changes_within_a_minute(&mut self, now: Timestamp) -> usize {
        while self.adopted.front().is_some_and(|at| *at + MINUTE <= now) {
            self.adopted.pop_front();
        }
        self.adopted.len()
    }
}

fn decision(now: Timestamp, answer: &Answer, choice: String, adopted: bool) -> Decision {
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

impl GangDriver {
    /// Takes what ports and VMs carried since the last time: payload; what streams had of it the driver knows itself. To be
    /// called about once a second.
    pub fn handle_traffic(&mut self, now: Timestamp, mut seen: Traffic) {
        // Streams that are held back say nothing about what the path carries.
        let is_yielding = self.is_yielding();
        let sent: Bytes = self.drivers.values().map(|driver| driver.progress().transferred).sum();
        let Some(adapter) = &mut self.adapter else { return };
        let (before, disturbed) = (adapter.looked, std::mem::take(&mut adapter.disturbed));
        if before.is_some_and(|(at, _)| now.since(at) < LOOK_LEAST) {
            adapter.disturbed |= disturbed;
            return;
        }
        adapter.looked = Some((now, sent));
        let Some((at, sent_before)) = before.filter(|_| !disturbed) else { return };
        seen.streams = Bandwidth::of(sent.saturating_sub(sent_before), now.since(at));
        let takes = |driver: &&crate::vm::VmDriver| !is_yielding && driver.takes_what_it_gets();
        let streams = self.drivers.values().filter(takes).count();
        seen.is_full = streams > 0;
        let by_flow = self.plan.reservations.is_empty() && streams > 0;
        let count = u32::try_from(streams).unwrap_or(u32::MAX).max(1);
        seen.level = by_flow.then(|| seen.streams.divided(count));
        let known = &adapter.adaptation.prospects;
        // A guest that waits for its pages has less than it wants.
        let waits = self.drivers.iter().filter(|(_, driver)| driver.phase() == Phase::PostCopy);
        for (vm, _) in waits {
            let (Some(rates), Some(demand)) = (seen.vms.get_mut(vm), known.demands.get(vm)) else {
                continue;
            };
            rates.tx = rates.tx.max(demand.tx.rate);
            rates.rx = rates.rx.max(demand.rx.rate);
        }
        let silent = |vm: &VmId| {
            let resumed = adapter.resumed.get(vm);
            adapter.phases.get(vm) == Some(&Phase::Switchover)
                || resumed.is_some_and(|at| *at + RECOVERS > now)
        };
        seen.vms.retain(|vm, _| !silent(vm));
        let ends = [&self.plan.source, &self.plan.target];
        let mut news: Vec<String> = Vec::new();
        // More than was measured before the run is chance.
        let carried = traffic::capacity(&seen, ends, known.capacity)
            .map(|rate| rate.min(adapter.measured))
            .filter(|rate| *rate != known.capacity);
        news.extend(carried.map(|rate| format!("the ports carry {}", rate.human())));
        let place = |vm: &VmId| {
            let moved = adapter.resumed.contains_key(vm);
            let moves = self.drivers.contains_key(vm);
            let host = if moved { &self.plan.target } else { &self.plan.source };
            // A VM that stays is at the target, if what it has is looked at there.
            Some(if moves { host.clone() } else { self.plan.target.clone() })
        };
        let capacity = carried.unwrap_or(known.capacity);
        let shifts = traffic::shifts(&known.demands, &seen, capacity, place);
        news.extend(shifts.iter().map(ToString::to_string));
        adapter.odd_looks = if news.is_empty() { 0 } else { adapter.odd_looks + 1 };
        adapter.traffic = Some(seen);
        if adapter.odd_looks >= TRAFFIC_LOOKS {
            adapter.odd_looks = 0;
            adapter.notice(now, Trigger::Traffic(news.join(", ")));
        }
        self.look(now);
    }

    /// Takes what the kernel at the source says of a VM's stream. To be called some times a second for each.
    pub fn handle_path(&mut self, now: Timestamp, vm: &VmId, sample: PathSample) {
        let sends = self.drivers.get(vm).is_some_and(crate::vm::VmDriver::uses_port);
        let Some(adapter) = self.adapter.as_mut().filter(|_| sends) else { return };
        if let Some(news) = adapter.path.observe(now, vm, sample) {
            adapter.notice(now, Trigger::Path(news));
            self.look(now);
        }
    }

    /// Takes a planner's answer; `None`: nothing is left to decide. One that was not asked for, or comes late, is dropped.
    pub fn handle_answer(&mut self, now: Timestamp, question: u64, answer: Option<Answer>) {
        let Some(adapter) = &mut self.adapter else { return };
        if adapter.asked.is_none_or(|(asked, _)| asked != question) {
            return;
        }
        adapter.asked = None;
        let Some(answer) = answer.filter(|answer| answer.question == question) else { return };
        adapter.adaptation.prospects = answer.prospects.clone();
        let Verdict::Change(change) = &answer.verdict else {
            self.decisions.push_back(decision(now, &answer, answer.choice.clone(), false));
            return;
        };
        let refusal = if self.cancelled {
            Some("the run was cancelled".to_owned())
        } else if adapter.adaptation.observe_only {
            Some("observed only".to_owned())
        } else if !adapter.by_operator && adapter.changes_within_a_minute(now) >= CHANGES_PER_MINUTE
        {
            Some(format!("{CHANGES_PER_MINUTE} changes within a minute are enough"))
        } else {
            self.refusal(&change.plan)
        };
        let Some(adapter) = &mut self.adapter else { return };
        if let Some(text) = refusal {
            let choice = format!("go on as planned ({text}), not: {}", answer.choice);
            self.decisions.push_back(decision(now, &answer, choice, false));
            return;
        }
        if !adapter.by_operator {
            adapter.adopted.push_back(now);
        }
        self.decisions.push_back(decision(now, &answer, answer.choice.clone(), true));
        self.adopt(now, change);
    }

    /// What is to be expected of the plan in force, if this gang adapts.
    #[must_use]
    pub fn prospects(&self) -> Option<&Prospects> {
        self.adapter.as_ref().map(|adapter| &adapter.adaptation.prospects)
    }

    /// What a planner would be told now.
    #[must_use]
    pub fn situation(&self, now: Timestamp) -> Situation {
        let adapter = self.adapter.as_ref();
        let standing = |(vm, driver): (&VmId, &crate::vm::VmDriver)| VmStanding {
            vm: vm.clone(),
            standing: driver.standing(now),
            may_postcopy: driver.is_prepared_for_postcopy(),
        };
        let known = adapter.map(|adapter| &adapter.adaptation.prospects);
        Situation {
            question: adapter.map_or(0, |adapter| adapter.next_question),
            plan: self.plan.clone(),
            elapsed: adapter.map_or(Duration::ZERO, |adapter| now.since(adapter.began)),
            trigger: adapter
                .and_then(|adapter| adapter.pending.as_ref())
                .map_or_else(String::new, |(trigger, _)| trigger.text()),
            vms: self.drivers.iter().map(standing).collect(),
            traffic: adapter.and_then(|adapter| adapter.traffic.clone()),
            demands: known.map(|known| known.demands.clone()).unwrap_or_default(),
            capacity: known.map(|known| known.capacity).filter(|capacity| !capacity.is_zero()),
            stream_ratio: known.map_or(0.0, |known| known.stream_ratio),
            path: adapter.and_then(|adapter| adapter.path.degraded()),
            wishes: self.wishes.clone(),
            weighed: known.map(|known| known.weighed.clone()).unwrap_or_default(),
        }
    }

    /// Looks whether anything has left its forecast, and asks if it may.
    pub(super) fn look(&mut self, now: Timestamp) {
        if !self.has_begun || self.adapter.is_none() {
            return;
        }
        self.look_at_phases(now);
        if self.cancelled {
            return;
        }
        self.look_at_passes(now);
        self.look_at_deadlines(now);
        self.ask(now);
    }

    fn look_at_phases(&mut self, now: Timestamp) {
        let Some(adapter) = &mut self.adapter else { return };
        for (vm, driver) in &self.drivers {
            let phase = driver.phase();
            if adapter.phases.insert(vm.clone(), phase) != Some(phase) {
                adapter.disturbed = true;
                // Whose streams they were that had those rates is over.
                adapter.traffic = None;
            }
            if driver.runs_at_target() {
                adapter.resumed.entry(vm.clone()).or_insert(now);
            }
            if driver.outcome().is_some() && adapter.ended.insert(vm.clone()) {
                adapter.notice(now, Trigger::Ended(vm.clone()));
            }
        }
    }

    fn look_at_passes(&mut self, now: Timestamp) {
        let Some(adapter) = &mut self.adapter else { return };
        let began = adapter.began;
        let mut found = Vec::new();
        for (vm, driver) in &self.drivers {
            let Some(expected) = adapter.adaptation.prospects.moves.get(vm) else { continue };
            let Standing::PreCopy(passing) = driver.standing(now) else { continue };
            let start_of = |pass: u32| {
                if pass == expected.first_pass {
                    return Some(expected.start);
                }
                expected.pass_ends.get(&pass.checked_sub(1)?).copied()
            };
            let forecast_of =
                |pass: u32| Some(expected.pass_ends.get(&pass)?.saturating_sub(start_of(pass)?));
            if let Some((pass, lasted)) = driver.last_pass()
                && !adapter.compared.contains(&(vm.clone(), pass))
            {
                adapter.compared.insert((vm.clone(), pass));
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
                        #[expect(
                            clippy::cast_possible_truncation,
                            clippy::cast_sign_loss,
                            reason = "bytes, not negative"
                        )]
                        let forecast = Bytes::new(forecast as u64);
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
                if long && now > late && adapter.overdue.insert((vm.clone(), pass)) {
                    found.push(Trigger::Overdue { vm: vm.clone(), pass });
                }
            }
        }
        for trigger in found {
            adapter.notice(now, trigger);
        }
    }

    fn look_at_deadlines(&mut self, now: Timestamp) {
        let Some(adapter) = &mut self.adapter else { return };
        let common = self.plan.deadline.map(droveway_fleet::TimeSpan::duration);
        let elapsed = now.since(adapter.began);
        let mut worst: Option<(Duration, Duration)> = None;
        for (vm, expected) in &adapter.adaptation.prospects.moves {
            if adapter.ended.contains(vm) {
                continue;
            }
            let own = adapter.own_deadline(vm);
            let own = self.wishes.deadline_of(vm).unwrap_or(own);
            let Some(deadline) = [own, common].into_iter().flatten().min() else { continue };
            let end = expected.end.max(elapsed);
            let late = end.saturating_sub(deadline);
            if !late.is_zero() && worst.is_none_or(|(end, due)| late > end.saturating_sub(due)) {
                worst = Some((end, deadline));
            }
        }
        let Some((end, deadline)) = worst else { return };
        if adapter.deadline_asked.is_none_or(|at| at + DEADLINE_EVERY <= now) {
            adapter.deadline_asked = Some(now);
            adapter.notice(now, Trigger::Deadline { end, deadline });
        }
    }

    /// True if the figures of every pass that has ended are there.
    pub(super) fn is_measured(&self) -> bool {
        self.drivers.values().all(crate::vm::VmDriver::is_measured)
    }

    fn ask(&mut self, now: Timestamp) {
        let is_measured = self.is_measured();
        let may_change = self.drivers.values().any(crate::vm::VmDriver::may_change);
        let Some(adapter) = &mut self.adapter else { return };
        if adapter.asked.is_some_and(|(_, at)| at + ANSWER_LIMIT <= now) {
            adapter.asked = None;
        }
        if !may_change {
            adapter.pending = None;
        }
        let too_early = adapter.last_asked.is_some_and(|at| at + ASK_EVERY > now)
            || adapter.pending.as_ref().is_some_and(|(_, at)| *at + GATHER > now);
        if adapter.pending.is_none() || adapter.asked.is_some() || too_early || !is_measured {
            return;
        }
        adapter.next_question += 1;
        (adapter.asked, adapter.last_asked) = (Some((adapter.next_question, now)), Some(now));
        let situation = self.situation(now);
        let Some(adapter) = &mut self.adapter else { return };
        let asked = adapter.pending.take();
        adapter.by_operator = matches!(asked, Some((Trigger::Operator(_), _)));
        self.actions.push_back(GangAction::Replan(Box::new(situation)));
    }

    /// An operator has changed the plan in force: what is asked about the one before is void. True if a planner will be asked.
    pub(super) fn notice_operator(&mut self, now: Timestamp, request: &OperatorRequest) -> bool {
        let Some(adapter) = self.adapter.as_mut().filter(|_| !self.cancelled) else { return false };
        adapter.asked = None;
        adapter.deadline_asked = None;
        adapter.pending = Some((Trigger::Operator(request.to_string()), now));
        true
    }

    /// What the plan in force is expected to take, from the start of the run, if that is known.
    pub(super) fn forecast_end(&self) -> Option<Duration> {
        let end = self.adapter.as_ref().map(|adapter| adapter.adaptation.prospects.end);
        end.filter(|end| !end.is_zero())
    }

    /// What the ports are to do follows the plan in force, where they are shaped.
    pub(super) fn tell_ports(&mut self) {
        if !self.plan.reservations.is_empty() {
            self.actions.push_back(GangAction::Reserve(self.plan.reservations.clone()));
        }
    }

    /// Why a plan cannot follow the one in force; `None`: it can.
    fn refusal(&self, plan: &Plan) -> Option<String> {
        if plan.generation <= self.plan.generation {
            return Some(format!("generation {} is not above the present one", plan.generation));
        }
        if plan.parent.as_deref() != Some(self.plan.id.as_str()) {
            return Some("it is no child of the plan in force".to_owned());
        }
        if (&plan.source, &plan.target) != (&self.plan.source, &self.plan.target) {
            return Some("it is about other hosts".to_owned());
        }
        let simple = plan.turns.is_none()
            && plan.moves.iter().all(|s| s.start == StartRule::InWindow && s.ladder.is_none());
        if !simple || !contradictions(plan).is_empty() {
            return Some("it contradicts itself".to_owned());
        }
        for (vm, driver) in &self.drivers {
            let step = plan.step(vm.as_str());
            match step {
                None if driver.has_to_be_named() => return Some(format!("it leaves {vm} out")),
                Some(step) if !driver.accepts(step) => {
                    return Some(format!("{vm} was not prepared for what it says"));
                }
                None | Some(_) => {}
            }
        }
        let unknown = plan.moves.iter().find(|step| !self.drivers.contains_key(&step.vm));
        unknown.map(|step| format!("{} is not moved by this run", step.vm))
    }

    /// Takes a child up; it was found to fit.
    fn adopt(&mut self, now: Timestamp, change: &Change) {
        let mut plan = change.plan.clone();
        self.keep_wishes(&mut plan);
        for step in &plan.moves {
            if let Some(driver) = self.drivers.get_mut(&step.vm) {
                driver.revise(now, step);
            }
            // One after the other: each may take the room of the next.
            self.keep_exposure(now);
        }
        let reserves = plan.reservations != self.plan.reservations;
        self.plan = plan;
        if let Some(adapter) = &mut self.adapter {
            adapter.adaptation.prospects = change.prospects.clone();
        }
        if reserves {
            self.tell_ports();
        }
        self.admit(now);
    }
}

/// True if a stream with that ceiling takes what the port gives it.
pub(crate) const fn is_unpaced(limit: RateLimit) -> bool {
    limit.bandwidth().is_none()
}
