//! What there is to say about the chosen schedule: what it is compared with, which applications keep too little, why each VM
//! goes its way.

use super::{Alternative, RunnerUp, Why};
use crate::{
    policy::GangFacts,
    search::{Cost, Judge, Schedule, Task, Way},
};
use droveway_model::fluid::{Course, End, FlowCourse, FlowModel};

/// The chosen schedule and what it is compared in.
pub(super) struct Context<'a> {
    pub(super) facts: &'a GangFacts,
    /// What was asked for, on the ports as they are.
    pub(super) bare: &'a Task,
    /// What the schedule is for.
    pub(super) task: &'a Task,
    pub(super) schedule: &'a Schedule,
    pub(super) cost: Cost,
    pub(super) course: &'a Course,
}

impl Context<'_> {
    /// Another schedule, on ports of which `share` is promised to its moves, beside the chosen one.
    pub(super) fn alternative(
        &self,
        name: &str,
        task: &Task,
        share: Option<f64>,
        schedule: &Schedule,
    ) -> Alternative {
        let course = Judge::new(task).course(schedule);
        let cost = task.cost(&course, &schedule.order);
        let worst = course.moves.iter().map(|step| step.outage_seconds).fold(0.0, f64::max);
        Alternative {
            name: name.to_owned(),
            cost,
            margin: (cost.value - self.cost.value) / self.cost.value.max(1e-9),
            worst_outage_seconds: worst,
            share,
        }
    }

    /// Which applications keep less than is promised, in this schedule.
    pub(super) fn below_floor(&self) -> Vec<String> {
        let floor = self.bare.floor;
        let name = |end: End| match end {
            End::Vm(vm) => {
                let mover = self.task.movers.iter().position(|mover| mover.step.vm == vm);
                mover.map_or("another VM".to_owned(), |index| self.facts.vms[index].vm.to_string())
            }
            End::Host(_) => "a host".to_owned(),
            End::Outside => "outside".to_owned(),
        };
        let flows = self.task.gang.flows.iter().zip(&self.course.flows);
        let kept = |of: &FlowCourse| of.carried_bytes / (of.carried_bytes + of.lost_bytes).max(1.0);
        flows
            .filter(|(_, of)| of.lost_bytes > 1.0 && kept(of) < floor)
            .map(|(flow, of)| {
                format!(
                    "the traffic from {} to {} keeps {:.0} % of its rate while VMs move, below the floor of {:.0} %: no \
                     schedule that was found keeps it",
                    name(flow.from),
                    name(flow.to),
                    100.0 * kept(of),
                    100.0 * floor
                )
            })
            .collect()
    }

    pub(super) fn why(&self, judge: &mut Judge<'_>) -> Vec<Why> {
        let one = |(place, index): (usize, &usize)| {
            let mover = &self.task.movers[*index];
            let own = mover.ways[self.schedule.ways[*index]];
            let mut runner_up: Option<RunnerUp> = None;
            for (way, of) in mover.ways.iter().enumerate() {
                if of.technique == own.technique {
                    continue;
                }
                let mut other = self.schedule.clone();
                other.ways[*index] = way;
                let cost = judge.cost(&other);
                let candidate = RunnerUp {
                    technique: of.technique,
                    costs_more: cost.value - self.cost.value,
                    seconds: cost.parts.total_seconds - self.cost.parts.total_seconds,
                    outage_seconds: cost.parts.outage_seconds - self.cost.parts.outage_seconds,
                    lost_bytes: cost.parts.lost_bytes - self.cost.parts.lost_bytes,
                };
                if runner_up.is_none_or(|held| candidate.costs_more < held.costs_more) {
                    runner_up = Some(candidate);
                }
            }
            let vm = self.facts.vms[*index].vm.clone();
            let reason = self.reason(place, *index, own, runner_up);
            Why { vm, technique: own.technique, runner_up, reason }
        };
        self.schedule.order.iter().enumerate().map(one).collect()
    }

    fn reason(&self, place: usize, index: usize, own: Way, runner_up: Option<RunnerUp>) -> String {
        let vm = self.task.movers[index].step.vm;
        let flows = &self.task.gang.flows;
        let rate = |of: &dyn Fn(&FlowModel) -> bool| -> f64 {
            let flows = flows.iter().filter(|flow| of(flow));
            // The sum of nothing is minus zero, which nobody wants to read.
            flows.map(|flow| flow.demand.min(self.task.capacity)).sum::<f64>().max(0.0)
        };
        let this = End::Vm(vm);
        let share = |rate: f64| 100.0 * rate / self.task.capacity.max(1.0);
        let (tx, rx) = (share(rate(&|f| f.from == this)), share(rate(&|f| f.to == this)));
        let step = &self.course.moves[place];
        let mut text = format!(
            "sends {tx:.0} % and receives {rx:.0} % of the port; {}: {:.1} s, silent for {:.2} s",
            own.technique,
            step.duration_seconds(),
            step.outage_seconds
        );
        match runner_up {
            None => text.push_str("; nothing else is allowed"),
            Some(other) => text.push_str(&format!(
                "; {} instead: {:+.1} s in all, {:+.2} s of silence, {:+.1} MB lost",
                other.technique,
                other.seconds,
                other.outage_seconds,
                other.lost_bytes / 1e6
            )),
        }
        text
    }
}
