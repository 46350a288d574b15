//! An operator's requests: what they change in a run that is under way.
//!
//! What is asked for is remembered as [`Wishes`] and holds over every plan that follows. A limit is put into a child of the plan
//! in force at once, and from there into QEMUs and sockets, with or without a planner; where there is one it is then asked
//! whether the rest is to go another way. Each request becomes a [`Decision`] with the reason `operator`, a refused one too.

use super::GangDriver;
use crate::{
    operator::{Accepted, OperatorRequest, Refusal},
    record::{Decision, Phase},
    vm::{DOWNTIME_LIMIT_MAX, Request, RequestDenied, VmDriver},
};
use droveway_fleet::{RateLimit, Technique, TimeSpan, Timestamp, Urgency, VmId};
use droveway_plan::Plan;
use std::{collections::BTreeMap, time::Duration};

/// The reason of every decision that an operator made.
pub const OPERATOR: &str = "operator";
/// A gang that waits for a quieter phase has to begin so many times its forecast before its deadline at the latest: forecasts
/// err by a fifth before anything was learned.
const WAIT_SAFETY: f64 = 1.25;

impl GangDriver {
    /// What VMs bear at most, however long a downtime is asked for the gang. For before the run.
    #[must_use]
    pub fn bearing(mut self, downtime: BTreeMap<VmId, Duration>) -> Self {
        self.bears = downtime;
        self
    }

    /// Takes an operator's request, or refuses it and changes nothing. What it leads to is polled as ever.
    ///
    /// # Errors
    /// [`Refusal`], by state alone.
    pub fn operate(
        &mut self,
        now: Timestamp,
        request: &OperatorRequest,
    ) -> Result<Accepted, Refusal> {
        let inputs = format!("asked for: {request}; {}", self.state_in_words());
        let answer = self.take(now, request);
        let choice = match &answer {
            Ok(accepted) => accepted.choice.clone(),
            Err(refusal) => format!("refused: {refusal}"),
        };
        self.decisions.push_back(Decision {
            at: now,
            vm: request.vm().cloned(),
            reason: OPERATOR.to_owned(),
            inputs,
            choice,
            runner_up: None,
            margin: None,
            adopted: answer.is_ok(),
        });
        if answer.is_ok() {
            self.admit(now);
            self.look(now);
        }
        answer
    }

    fn take(&mut self, now: Timestamp, request: &OperatorRequest) -> Result<Accepted, Refusal> {
        let vms = match request {
            // Whoever is past all other wishes may still need this one.
            OperatorRequest::Recover { vm } => vec![vm.clone()],
            _ => self.concerned(request.vm())?,
        };
        match request {
            OperatorRequest::SetBandwidth { vm, limit } => {
                if limit.bandwidth().is_some_and(droveway_fleet::Bandwidth::is_zero) {
                    return Err(Refusal::NoBandwidth);
                }
                self.wishes.set_bandwidth(vm.clone(), *limit);
                let choice = format!("streams at {limit} at most");
                self.amend(now, &vms);
                Ok(self.asked_again(now, request, choice, vms))
            }
            OperatorRequest::SetMaxDowntime { vm, limit } => {
                let vms = self.limited(vm.as_ref(), *limit, vms)?;
                self.wishes.set_downtime(vm.clone(), *limit);
                self.amend(now, &vms);
                let choice = format!("downtimes of {} ms at most", limit.as_millis());
                Ok(self.asked_again(now, request, choice, vms))
            }
            OperatorRequest::SetDeadline { vm, deadline } => {
                let elapsed = now.since(self.started_at);
                if let Some(deadline) = deadline.filter(|at| self.started && *at <= elapsed) {
                    return Err(Refusal::DeadlinePassed { deadline, elapsed });
                }
                self.wishes.deadlines.insert(vm.clone(), *deadline);
                self.amend(now, &[]);
                let brings = self.wait_less(now, *deadline);
                let choice = deadline.map_or("no deadline".to_owned(), |at| {
                    format!("to be there after {:.1} s", at.as_secs_f64())
                });
                let choice =
                    if brings { format!("{choice}; the start waits less") } else { choice };
                Ok(self.asked_again(now, request, choice, vms))
            }
            OperatorRequest::SetUrgency(urgency) => {
                let before = self.plan.urgency;
                self.wishes.urgency = Some(*urgency);
                self.amend(now, &[]);
                if *urgency > before && self.waits_to_begin() {
                    self.begins_at = now;
                }
                let choice = format!("urgency {urgency}, not {before}");
                Ok(self.asked_again(now, request, choice, vms))
            }
            OperatorRequest::Cancel { vm: Some(vm) } => {
                self.ask_vm(now, vm, Request::Cancel)?;
                Ok(plainly(format!("{vm} stays at the source"), vms))
            }
            OperatorRequest::Cancel { vm: None } => {
                let past_return = self.past_return(&vms);
                if past_return.len() == vms.len() {
                    return Err(Refusal::PastReturn(past_return));
                }
                self.cancel(now);
                let mut choice = "every VM stays at the source".to_owned();
                if !past_return.is_empty() {
                    let names: Vec<_> = past_return.iter().map(VmId::as_str).collect();
                    choice = format!("{choice} but {}, which will complete", names.join(", "));
                }
                Ok(Accepted { past_return, ..plainly(choice, vms) })
            }
            OperatorRequest::Switch { vm } => {
                self.ask_vm(now, vm, Request::SwitchToPostcopy)?;
                let waits = |why: fn(&VmDriver) -> bool| self.drivers.get(vm).is_some_and(why);
                let when = if waits(VmDriver::waits_for_less) {
                    " once so much less is left that its memory is not split for long"
                } else if waits(VmDriver::waits_to_split) {
                    " once another VM's memory is together again"
                } else {
                    ""
                };
                Ok(plainly(format!("{vm} switches to post-copy{when}"), vms))
            }
            OperatorRequest::Recover { vm } => self.recover(now, vm),
        }
    }

    /// Those that a request is about.
    fn concerned(&self, vm: Option<&VmId>) -> Result<Vec<VmId>, Refusal> {
        let Some(vm) = vm else {
            let open = self.drivers.iter().filter(|(_, driver)| driver.has_to_be_named());
            let open: Vec<VmId> = open.map(|(vm, _)| vm.clone()).collect();
            return if open.is_empty() { Err(Refusal::RunOver) } else { Ok(open) };
        };
        let driver = self.drivers.get(vm).ok_or_else(|| Refusal::NotInRun(vm.clone()))?;
        match driver.phase() {
            Phase::Ended => Err(Refusal::Over(vm.clone())),
            Phase::Settling | Phase::RollingBack | Phase::Halting => {
                Err(Refusal::Ending(vm.clone()))
            }
            _ => Ok(vec![vm.clone()]),
        }
    }

    /// Those that a downtime limit can still be set for.
    fn limited(
        &self,
        vm: Option<&VmId>,
        limit: Duration,
        vms: Vec<VmId>,
    ) -> Result<Vec<VmId>, Refusal> {
        if limit.is_zero() {
            return Err(Refusal::NoDowntime);
        }
        if limit > DOWNTIME_LIMIT_MAX {
            return Err(Refusal::DowntimeTooLong(DOWNTIME_LIMIT_MAX));
        }
        let driver = vm.and_then(|vm| Some((vm, self.drivers.get(vm)?)));
        if let Some((vm, driver)) = driver {
            if driver.plan().technique == Technique::StopAndCopy {
                return Err(Refusal::NoDowntimeLimit(vm.clone()));
            }
            if !driver.may_be_limited() {
                return Err(Refusal::DowntimeDecided(vm.clone()));
            }
        }
        Ok(vms)
    }

    /// A VM's driver decides by its state.
    pub(super) fn ask_vm(
        &mut self,
        now: Timestamp,
        vm: &VmId,
        request: Request,
    ) -> Result<(), Refusal> {
        let unknown = || Refusal::NotInRun(vm.clone());
        let driver = self.drivers.get_mut(vm).ok_or_else(unknown)?;
        if request == Request::SwitchToPostcopy {
            if driver.is_asked_to_split() || driver.phase() == Phase::PostCopy {
                return Err(Refusal::AlreadySwitched(vm.clone()));
            }
            if driver.is_stopped() {
                return Err(Refusal::SwitchingOver(vm.clone()));
            }
        }
        driver.request(now, request).map_err(|denied| match denied {
            RequestDenied::PastReturn => Refusal::PastReturn(vec![vm.clone()]),
            RequestDenied::Over => Refusal::Over(vm.clone()),
            RequestDenied::NotMigrating => Refusal::NotMigrating(vm.clone()),
            RequestDenied::PostcopyForbidden => Refusal::PostcopyForbidden(vm.clone()),
            RequestDenied::NotBroken => {
                Refusal::NotBroken { vm: vm.clone(), phase: driver.phase() }
            }
        })
    }

    fn past_return(&self, vms: &[VmId]) -> Vec<VmId> {
        let past = |vm: &&VmId| self.drivers.get(*vm).is_some_and(|driver| !driver.may_return());
        vms.iter().filter(past).cloned().collect()
    }

    /// A child of the plan in force, with everything that was asked for, is in force from now on. `vms`: those whose limits
    /// were asked for.
    fn amend(&mut self, now: Timestamp, vms: &[VmId]) {
        let mut plan = self.plan.child();
        self.put_wishes(&mut plan, vms);
        let before = std::mem::replace(&mut self.plan, plan);
        for step in self.plan.moves.iter().filter(|step| vms.contains(&step.vm)) {
            if let Some(driver) = self.drivers.get_mut(&step.vm) {
                let limit = self.wishes.bandwidth_of(&step.vm);
                let downtime = self.wishes.downtime.contains_key(&Some(step.vm.clone()))
                    || self.wishes.downtime.contains_key(&None);
                let downtime = downtime.then_some(step.downtime_limit);
                driver.revise_within(now, step, (limit, downtime));
            }
        }
        if self.plan.urgency != before.urgency {
            self.tell_ports();
        }
    }

    /// Writes what was asked for into a plan, limits only of those VMs.
    fn put_wishes(&self, plan: &mut Plan, vms: &[VmId]) {
        let wishes = &self.wishes;
        plan.urgency = wishes.urgency.unwrap_or(plan.urgency);
        if let Some(deadline) = wishes.deadlines.get(&None) {
            plan.deadline = deadline.map(TimeSpan::from);
        }
        if let Some(limit) = wishes.downtime.get(&None) {
            plan.max_downtime = Some(TimeSpan::from(*limit));
        }
        for step in plan.moves.iter_mut().filter(|step| vms.contains(&step.vm)) {
            if let Some(limit) = wishes.bandwidth_of(&step.vm) {
                let planned = self.background.get(&step.vm).copied();
                step.bandwidth = limit;
                step.postcopy_bandwidth = planned.unwrap_or(step.postcopy_bandwidth).at_most(limit);
            }
            let own = wishes.downtime.get(&Some(step.vm.clone())).copied();
            let gang = wishes
                .downtime
                .get(&None)
                .map(|limit| self.bears.get(&step.vm).map_or(*limit, |bears| (*bears).min(*limit)));
            step.downtime_limit = own.or(gang).unwrap_or(step.downtime_limit);
        }
    }

    /// What a planner found keeps to what was asked for, whatever it says.
    pub(super) fn keep_wishes(&mut self, plan: &mut Plan) {
        for step in &mut plan.moves {
            let before = self.plan.moves.iter().find(|it| it.vm == step.vm);
            // What a planner holds back after a switch is remembered for when a ceiling is lifted again.
            if before.is_none_or(|before| before.postcopy_bandwidth != step.postcopy_bandwidth) {
                self.background.insert(step.vm.clone(), step.postcopy_bandwidth);
            }
            if let Some(limit) = self.wishes.bandwidth_of(&step.vm) {
                step.bandwidth = step.bandwidth.at_most(limit);
                step.postcopy_bandwidth = step.postcopy_bandwidth.at_most(limit);
            }
        }
    }

    fn waits_to_begin(&self) -> bool {
        self.started && !self.has_begun
    }

    /// Begins earlier where a gang that waits for a quieter phase would miss its deadline. True if it does.
    fn wait_less(&mut self, now: Timestamp, deadline: Option<Duration>) -> bool {
        let Some(deadline) = deadline.filter(|_| self.waits_to_begin()) else { return false };
        // Without a forecast nobody knows how long it takes.
        let takes = self.forecast_end().map(|end| end.mul_f64(WAIT_SAFETY));
        let latest =
            takes.map_or(now, |takes| (self.started_at + deadline.saturating_sub(takes)).max(now));
        let earlier = latest < self.begins_at;
        self.begins_at = self.begins_at.min(latest);
        earlier
    }

    fn asked_again(
        &mut self,
        now: Timestamp,
        request: &OperatorRequest,
        choice: String,
        vms: Vec<VmId>,
    ) -> Accepted {
        let replans = self.notice_operator(now, request);
        Accepted { replans, ..plainly(choice, vms) }
    }

    fn state_in_words(&self) -> String {
        let count = |wanted: fn(&VmDriver) -> bool| {
            self.drivers.values().filter(|driver| wanted(driver)).count()
        };
        let ended = count(|driver| driver.outcome().is_some());
        let moving = count(VmDriver::uses_port);
        format!("{ended} of {} VMs have ended, {moving} move", self.drivers.len())
    }

    /// What an operator has asked for since the run began.
    #[must_use]
    pub fn wishes(&self) -> &droveway_plan::replan::Wishes {
        &self.wishes
    }

    /// How much the move matters now.
    #[must_use]
    pub fn urgency(&self) -> Urgency {
        self.plan.urgency
    }

    /// What plans say of background streams, apart from operators.
    pub(super) fn planned_background(plan: &Plan) -> BTreeMap<VmId, RateLimit> {
        plan.moves.iter().map(|step| (step.vm.clone(), step.postcopy_bandwidth)).collect()
    }
}

fn plainly(choice: String, vms: Vec<VmId>) -> Accepted {
    Accepted { choice, vms, past_return: Vec::new(), replans: false }
}
