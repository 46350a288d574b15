//! Watching a gang that another tool moves: everything is noticed, asked and recorded as in a run of our own, and nothing can be
//! changed, since there is nothing here that could be done.
//!
//! ```text
//! looks at both QEMUs of every VM, rates -> how it goes -> (planner) -> what would be done, as a Decision
//! ```
//!
//! What the other tool has in mind nobody says; it is taken from what it does. A VM that has begun goes by pre-copy until its memory
//! is split; those that have not are taken to go as Droveway's own plan has them. Ports hold nothing and sockets are as they are.
//! A planner is asked whenever a VM is begun, beside what a run of our own asks for; that nothing has changed is no reason to find
//! nothing better here, since the plan in force is somebody else's.

mod witness;

use crate::{
    adapt::{self, Adaptation, Adapter, Course, Trigger, decision},
    record::{Decision, Outcome, Phase, Progress, Record},
};
use droveway_fleet::{Technique, TimeSpan, Timestamp, VmId};
use droveway_plan::{
    Fallback, Plan, StartRule,
    replan::{Answer, Situation, Verdict, Wishes, traffic::Traffic},
};
use std::collections::{BTreeMap, VecDeque};
pub use witness::Look;
use witness::Witness;

/// Nobody knows when the other tool gives a pre-copy up: later than any that converges.
const PASSES_MAX: u32 = 1_000;

/// A gang that another tool moves.
#[derive(Debug)]
pub struct Shadow {
    /// As it goes.
    plan: Plan,
    witnesses: BTreeMap<VmId, Witness>,
    adapter: Option<Adapter>,
    began_at: Option<Timestamp>,
    /// Of an operator there are none.
    wishes: Wishes,
    questions: VecDeque<Box<Situation>>,
    decisions: VecDeque<Decision>,
}

impl Shadow {
    /// Nothing was begun yet; `plan` is what Droveway would do.
    #[must_use]
    pub fn new(mut plan: Plan) -> Self {
        plan.reservations.clear();
        (plan.tuning, plan.turns, plan.start_after) = (false, None, None);
        for step in &mut plan.moves {
            (step.start, step.ladder) = (StartRule::InWindow, None);
        }
        let witness = |vm: &VmId| (vm.clone(), Witness::new(vm.clone()));
        Shadow {
            witnesses: plan.moves.iter().map(|step| witness(&step.vm)).collect(),
            plan,
            adapter: None,
            began_at: None,
            wishes: Wishes::default(),
            questions: VecDeque::new(),
            decisions: VecDeque::new(),
        }
    }

    /// The same, which asks a planner.
    #[must_use]
    pub fn adapting(mut self, adaptation: Adaptation) -> Self {
        self.adapter = Some(Adapter::of_somebody_else(adaptation));
        self
    }

    /// What was seen of one VM's two QEMUs. To be called some times a second for each that moves.
    pub fn handle_look(&mut self, now: Timestamp, vm: &VmId, look: &Look) {
        let Some(witness) = self.witnesses.get_mut(vm) else { return };
        let (phase, split) = (witness.phase(), witness.split_in());
        witness.take(now, look);
        let began = phase == Phase::Ready && witness.phase() != Phase::Ready;
        let (may_postcopy, split_now) = (witness.may_postcopy(), witness.split_in());
        if began && self.began_at.is_none() {
            self.began_at = Some(now);
            if let Some(adapter) = &mut self.adapter {
                adapter.begin(now);
            }
        }
        let is_split = split.is_none() && split_now.is_some();
        if (began || is_split)
            && let Some(step) = self.plan.moves.iter_mut().find(|step| step.vm == *vm)
        {
            step.technique = match split_now {
                None => Technique::PreCopy,
                Some(0 | 1) => Technique::PostCopy,
                Some(_) => Technique::Hybrid,
            };
            step.fallback = if may_postcopy { Fallback::PostCopy } else { Fallback::Abort };
            step.max_passes = PASSES_MAX;
        }
        if began || is_split {
            self.plan.concurrency = self.plan.concurrency.max(self.under_way());
            if let Some(adapter) = &mut self.adapter {
                adapter.notice(now, Trigger::Elsewhere { vm: vm.clone(), splits: is_split });
            }
        }
    }

    /// What ports and VMs carried since the last time: payload. To be called about once a second.
    pub fn handle_traffic(&mut self, now: Timestamp, seen: Traffic) {
        let Some(adapter) = self.adapter.as_mut().filter(|_| self.began_at.is_some()) else {
            return;
        };
        adapter.take_traffic(now, seen, &self.plan, &courses(&self.witnesses, now), false);
    }

    /// A planner's answer; `None`: nothing is left to decide. One that was not asked for, or comes late, is dropped.
    pub fn handle_answer(&mut self, now: Timestamp, question: u64, answer: Option<Answer>) {
        const AS_IT_GOES: &str = "as the other tool does it";
        let Some(adapter) = &mut self.adapter else { return };
        let Some(mut answer) = adapter.take_answer(question, answer) else { return };
        let choice = match &answer.verdict {
            Verdict::Stay => AS_IT_GOES.to_owned(),
            Verdict::Change(_) => {
                answer.runner_up = Some(AS_IT_GOES.to_owned());
                format!("rather {}", answer.choice)
            }
        };
        self.decisions.push_back(decision(now, &answer, choice, false));
    }

    /// Ends the watching: of who has not ended nothing more is known.
    pub fn stop(&mut self, now: Timestamp) {
        for witness in self.witnesses.values_mut() {
            witness.give_up(now);
        }
    }

    /// Ends the watching of those who were not begun yet.
    pub fn stop_waiting(&mut self, now: Timestamp) {
        for witness in self.witnesses.values_mut().filter(|it| it.phase() == Phase::Ready) {
            witness.give_up(now);
        }
    }

    /// Compares all moves with what is forecast, and asks if there is reason to. To be called some times a second.
    pub fn handle_tick(&mut self, now: Timestamp) {
        let Some(adapter) = self.adapter.as_mut().filter(|_| self.began_at.is_some()) else {
            return;
        };
        let courses = courses(&self.witnesses, now);
        adapter.look_at_phases(now, &courses);
        adapter.look_at_passes(now, &courses);
        let common = self.plan.deadline.map(TimeSpan::duration);
        adapter.look_at_deadlines(now, common, &self.wishes);
        let asked = adapter.ask(now, &self.plan, &self.wishes, &courses);
        self.questions.extend(asked);
    }

    /// The next question to a planner, if any: answered by [`Shadow::handle_answer`].
    pub fn poll_question(&mut self) -> Option<Box<Situation>> {
        self.questions.pop_front()
    }

    /// The next decision to tell, if any: what would have been done.
    pub fn poll_decision(&mut self) -> Option<Decision> {
        self.decisions.pop_front()
    }

    /// The next thing to tell of a VM, if any, and what its move has achieved.
    pub fn poll_record(&mut self) -> Option<(VmId, Record, Progress)> {
        self.witnesses.iter_mut().find_map(|(vm, witness)| {
            witness.poll_record().map(|record| (vm.clone(), record, witness.progress()))
        })
    }

    /// What a planner would be told now.
    #[must_use]
    pub fn situation(&self, now: Timestamp) -> Situation {
        let courses = courses(&self.witnesses, now);
        adapt::situation(self.adapter.as_ref(), now, &self.plan, &self.wishes, &courses)
    }

    /// VMs that are on their way.
    #[must_use]
    pub fn under_way(&self) -> u32 {
        let moves = |it: &&Witness| it.phase() != Phase::Ready && it.outcome().is_none();
        u32::try_from(self.witnesses.values().filter(moves).count()).unwrap_or(u32::MAX)
    }

    /// When the first VM was begun.
    #[must_use]
    pub const fn began_at(&self) -> Option<Timestamp> {
        self.began_at
    }

    /// How each VM's move ended, as far as it has.
    pub fn outcomes(&self) -> impl Iterator<Item = (&VmId, Option<Outcome>)> {
        self.witnesses.iter().map(|(vm, witness)| (vm, witness.outcome()))
    }

    /// True once every VM's move has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.witnesses.values().all(|witness| witness.outcome().is_some())
    }

    /// As it went: the technique of each VM as it was seen.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }
}

fn courses(witnesses: &BTreeMap<VmId, Witness>, now: Timestamp) -> Vec<Course<'_>> {
    witnesses.values().map(|witness| witness.course(now)).collect()
}

#[cfg(test)]
mod tests;
