//! Asking a planner while the gang moves, and taking up what it answers.
//!
//! ```text
//! Situation -> (planner) -> Answer -> the child, or as planned
//! ```
//!
//! The driver compares ([`crate::adapt`]), the planner decides. A change is taken up only if it is a child of the plan in force
//! that names everybody who has not ended, fits what the QEMUs were prepared for and contradicts nothing; and no more than
//! [`CHANGES_PER_MINUTE`] are. Each answer becomes a [`Decision`](crate::Decision), whatever becomes of it.

use super::GangDriver;
use crate::{
    adapt::{self, CHANGES_PER_MINUTE, Course, PathSample, decision},
    operator::OperatorRequest,
    vm::VmDriver,
};
use droveway_fleet::{RateLimit, Timestamp, VmId};
use droveway_plan::{
    Plan, Reservation, StartRule,
    check::contradictions,
    replan::{Answer, Change, Prospects, Situation, Verdict, traffic::Traffic},
};
use std::{collections::BTreeMap, time::Duration};

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

/// How each VM's move stands.
fn courses(drivers: &BTreeMap<VmId, VmDriver>, now: Timestamp) -> Vec<Course<'_>> {
    drivers.values().map(|driver| driver.course(now)).collect()
}

impl GangDriver {
    /// Takes what ports and VMs carried since the last time: payload; what streams had of it the driver knows itself. To be
    /// called about once a second.
    pub fn handle_traffic(&mut self, now: Timestamp, seen: Traffic) {
        let are_held_back = self.is_yielding();
        let Some(adapter) = &mut self.adapter else { return };
        adapter.take_traffic(now, seen, &self.plan, &courses(&self.drivers, now), are_held_back);
        self.look(now);
    }

    /// Takes what the kernel at the source says of a VM's stream. To be called some times a second for each.
    pub fn handle_path(&mut self, now: Timestamp, vm: &VmId, sample: PathSample) {
        let sends = self.drivers.get(vm).is_some_and(VmDriver::uses_port);
        let Some(adapter) = self.adapter.as_mut().filter(|_| sends) else { return };
        if adapter.take_path(now, vm, sample) {
            self.look(now);
        }
    }

    /// Takes a planner's answer; `None`: nothing is left to decide. One that was not asked for, or comes late, is dropped.
    pub fn handle_answer(&mut self, now: Timestamp, question: u64, answer: Option<Answer>) {
        let Some(adapter) = &mut self.adapter else { return };
        let Some(answer) = adapter.take_answer(question, answer) else { return };
        let Verdict::Change(change) = &answer.verdict else {
            self.decisions.push_back(decision(now, &answer, answer.choice.clone(), false));
            return;
        };
        let refusal = if self.cancelled {
            Some("the run was cancelled".to_owned())
        } else if adapter.has_changed_enough(now) {
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
        adapter.note_change(now);
        self.decisions.push_back(decision(now, &answer, answer.choice.clone(), true));
        self.adopt(now, change);
    }

    /// What is to be expected of the plan in force, if this gang adapts.
    #[must_use]
    pub fn prospects(&self) -> Option<&Prospects> {
        self.adapter.as_ref().map(|adapter| adapter.prospects())
    }

    /// What a planner would be told now.
    #[must_use]
    pub fn situation(&self, now: Timestamp) -> Situation {
        let courses = courses(&self.drivers, now);
        adapt::situation(self.adapter.as_ref(), now, &self.plan, &self.wishes, &courses)
    }

    /// Looks whether anything has left its forecast, and asks if it may.
    pub(super) fn look(&mut self, now: Timestamp) {
        let Some(adapter) = self.adapter.as_mut().filter(|_| self.has_begun) else { return };
        let courses = courses(&self.drivers, now);
        adapter.look_at_phases(now, &courses);
        if self.cancelled {
            return;
        }
        adapter.look_at_passes(now, &courses);
        let common = self.plan.deadline.map(droveway_fleet::TimeSpan::duration);
        adapter.look_at_deadlines(now, common, &self.wishes);
        let asked = adapter.ask(now, &self.plan, &self.wishes, &courses);
        self.actions.extend(asked.map(GangAction::Replan));
    }

    /// True if the figures of every pass that has ended are there.
    pub(super) fn is_measured(&self) -> bool {
        self.drivers.values().all(VmDriver::is_measured)
    }

    /// An operator has changed the plan in force. True if a planner will be asked.
    pub(super) fn notice_operator(&mut self, now: Timestamp, request: &OperatorRequest) -> bool {
        let Some(adapter) = self.adapter.as_mut().filter(|_| !self.cancelled) else { return false };
        adapter.notice_operator(now, request);
        true
    }

    /// What the plan in force is expected to take, from the start of the run, if that is known.
    pub(super) fn forecast_end(&self) -> Option<Duration> {
        self.prospects().map(|known| known.end).filter(|end| !end.is_zero())
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
            adapter.expect(change.prospects.clone());
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
