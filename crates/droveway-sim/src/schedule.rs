//! Random gangs, random plans and random faults from one seed, and the laws that every such run has to keep.

mod draw;

use crate::{
    Adapting, Broken, Fault, Left, Outcome, Physics, SimError, Simulation, simulate_closely,
    snapshot,
};
use droveway_drive::{Outcome as Ended, RecordKind};
use droveway_fleet::{Bandwidth, Intent, Scenario, TimeSpan, Urgency, VmId};
use droveway_model::{calibration::Calibration, world::World};
use droveway_plan::{
    GangFacts, Known, Made, Plan, VmFacts,
    adaptive::{Effort, Verdict},
    policy,
    replan::Base,
};
use serde::{Deserialize, Serialize};

/// A fault and when it happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timed {
    /// Seconds from the first move.
    pub at_seconds: f64,
    /// What.
    pub fault: Fault,
}

/// A gang, how it is to move, and what goes wrong meanwhile: all that a run is made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultSchedule {
    /// Chance, of the schedule and of the run.
    pub seed: u64,
    /// Hosts `alpha`, which is left, and `beta`; VMs, traffic.
    pub scenario: Scenario,
    /// By name, with parameters.
    pub policy: String,
    /// How urgent the move is.
    pub urgency: Urgency,
    /// At most so many streams at once; `None`: as the policy likes.
    pub max_parallel: Option<u32>,
    /// Of what the policy needs without a deadline, how much the deadline allows; `None`: there is none.
    pub deadline_ratio: Option<f64>,
    /// What the ports hold for the moves; `None`: as the policy likes.
    pub reserve: Option<Bandwidth>,
    /// Sockets are tuned.
    pub tuning: bool,
    /// A planner answers when the run leaves its forecast.
    pub replans: bool,
    /// The hosts' kernels can be asked what their connections deliver.
    pub kernel_counts: bool,
    /// Heartbeats pass between the hosts.
    pub heartbeats: bool,
    /// What goes wrong.
    pub faults: Vec<Timed>,
}

/// How a schedule went.
#[derive(Debug, Clone)]
pub struct Ran {
    /// What happened.
    pub outcome: Outcome,
    /// What the controller left.
    pub left: Left,
    /// What was said of the deadline, if there was one, and of the time that it allowed, how much was taken.
    pub deadline: Option<(Verdict, f64)>,
    /// Laws that were broken; empty, or there is a bug.
    pub violations: Vec<String>,
}

/// Every attempt has ended so long after the last fault was over, whatever happened: twelve tries to renew a path, two
/// rollbacks, a switchover, and one more adoption.
const BOUND_SECONDS: f64 = 400.0;
/// And for each pass over memory that it may take: this is the most that the schedules' policies allow.
const PASSES: f64 = 32.0;
/// What a VM sends at most in a pass, bytes: its memory and what headers take.
const PASS_BYTES: f64 = 560e6;

/// A deadline is called feasible if the plan keeps it even when the forecast is off as far as one in twenty is: so one in twenty
/// may be late, by little.
const LATE_RATIO: f64 = 1.05;
impl FaultSchedule {
    /// The schedule of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        draw::schedule(seed)
    }

    /// Runs it, and checks every law. `broken`: a rule that does not hold in the world.
    ///
    /// # Errors
    /// [`SimError`]; what cannot be planned is a violation.
    pub fn run(&self, broken: Option<Broken>) -> Result<Ran, SimError> {
        let mut ran = self.once(broken)?;
        if ran.violations.is_empty() {
            ran.violations.extend(self.unbounded(&ran.outcome));
            ran.violations.extend(self.causeless(&ran.left, &ran.outcome));
            ran.violations.extend(self.late(&ran));
            if self.faults.iter().any(|it| matches!(it.fault, Fault::ClockStep { .. })) {
                let same = FaultSchedule { faults: self.with_a_steady_clock(), ..self.clone() };
                if same.once(broken)?.outcome.records != ran.outcome.records {
                    ran.violations.push("a step of the wall clock changed the run".to_owned());
                }
            }
        }
        Ok(ran)
    }

    /// The same with as few faults as break a law still.
    #[must_use]
    pub fn smallest(&self, broken: Option<Broken>) -> Self {
        let breaks = |schedule: &FaultSchedule| {
            schedule.run(broken).is_ok_and(|ran| !ran.violations.is_empty())
        };
        let mut smallest = self.clone();
        let mut index = 0;
        while index < smallest.faults.len() {
            let mut fewer = smallest.clone();
            fewer.faults.remove(index);
            if breaks(&fewer) { smallest = fewer } else { index += 1 }
        }
        smallest
    }

    /// The same events at the same instants, so that nothing but the wall clock differs.
    fn with_a_steady_clock(&self) -> Vec<Timed> {
        let mut faults = self.faults.clone();
        for timed in &mut faults {
            if let Fault::ClockStep { seconds } = &mut timed.fault {
                *seconds = 0.0;
            }
        }
        faults
    }

    fn once(&self, broken: Option<Broken>) -> Result<Ran, SimError> {
        let (kernel_counts, heartbeats) = (self.kernel_counts, self.heartbeats);
        let physics = Physics { kernel_counts, heartbeats, ..Physics::default() };
        let known = World::of(&snapshot(&self.scenario, &physics), physics.constants);
        let calibration = Calibration { constants: physics.constants, ..Calibration::default() };
        let knows = Known { world: &known, calibration: &calibration };
        let facts = self.facts();
        let mut intent = self.intent();
        let plan = |intent: &Intent| -> Made {
            let policy = policy::find(&self.policy);
            // The generator names policies that exist, and gangs that they can plan.
            let made =
                policy.and_then(|policy| policy.plan("simulated", intent, &facts, Some(knows)));
            made.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed))
        };
        let mut made = plan(&intent);
        let mut seconds = None;
        if let (Some(ratio), Some(reasoning)) = (self.deadline_ratio, &made.reasoning) {
            let allowed = reasoning.cost.parts.total_seconds * ratio;
            seconds = Some(allowed);
            intent.deadline = Some(TimeSpan::from(std::time::Duration::from_secs_f64(allowed)));
            made = plan(&intent);
        }
        let said =
            made.reasoning.as_ref().and_then(|it| it.deadlines.as_ref()).map(|it| it.verdict);
        let mut plan: Plan = made.plan;
        if let Some(rate) = self.reserve
            && plan.reservations.is_empty()
        {
            plan.reservations = droveway_plan::reserve::reservations(&intent, rate);
            plan.tuning = self.tuning;
        }
        let base = Base { intent: &intent, facts: &facts, known: knows, effort: Effort::default() };
        let adapting = Adapting { base, latency: 0.2 };
        let simulation = Simulation {
            scenario: &self.scenario,
            plan,
            physics,
            seed: self.seed,
            faults: self.faults.iter().map(|it| (it.at_seconds, it.fault.clone())).collect(),
            adapting: self.replans.then_some(adapting),
        };
        let (outcome, left) = simulate_closely(&simulation, broken)?;
        let took = outcome.ended_at.seconds_from(outcome.began_at);
        let deadline = said.zip(seconds).map(|(verdict, seconds)| (verdict, took / seconds));
        let violations = outcome.violations.clone();
        Ok(Ran { outcome, left, deadline, violations })
    }

    fn facts(&self) -> GangFacts {
        let spec = &self.scenario.spec;
        let vms = spec.vms.iter().map(|vm| VmFacts {
            vm: vm.name.clone(),
            memory: vm.memory,
            allow_postcopy: vm.allow_postcopy,
            max_downtime: None,
            deadline: None,
            group: None,
        });
        GangFacts { port_rate: spec.link.rate, vms: vms.collect() }
    }

    fn intent(&self) -> Intent {
        let spec = &self.scenario.spec;
        let names: Vec<VmId> = spec.vms.iter().map(|vm| vm.name.clone()).collect();
        let [alpha, beta] = [0, 1].map(|index| spec.hosts[index].name.clone());
        let mut intent = Intent::drain(alpha, beta, names, &self.policy);
        intent.urgency = self.urgency;
        intent.max_parallel = self.max_parallel;
        (intent.shaping, intent.tuning) = (self.tuning, self.tuning);
        intent
    }

    /// When the last fault is over, seconds from the first move.
    fn calm_from(&self) -> f64 {
        self.faults.iter().map(|it| it.at_seconds + it.fault.lasts()).fold(0.0, f64::max)
    }

    /// Every attempt ends.
    fn unbounded(&self, outcome: &Outcome) -> Option<String> {
        let rates = self.faults.iter().filter_map(|it| match &it.fault {
            Fault::PortRate { rate, .. } => Some(*rate),
            _ => None,
        });
        let slowest = rates.fold(self.scenario.spec.link.rate, Bandwidth::min);
        #[expect(clippy::cast_precision_loss, reason = "a rate, and VMs of a gang")]
        let pass =
            PASS_BYTES * self.scenario.spec.vms.len() as f64 / slowest.bytes_per_second() as f64;
        // Streams share the port with applications, which may take as much again each.
        let bound = self.calm_from() + BOUND_SECONDS + 4.0 * PASSES * pass;
        let took = outcome.ended_at.seconds_from(outcome.began_at);
        (took > bound).then(|| format!("the run took {took:.1} s, more than {bound:.1} s"))
    }

    /// Nobody is asked for help, and nothing is lost, unless something happened that explains it.
    fn causeless(&self, left: &Left, outcome: &Outcome) -> Option<String> {
        let any = |wanted: fn(&Fault) -> bool| self.faults.iter().any(|it| wanted(&it.fault));
        let apart = any(|fault| {
            matches!(
                fault,
                Fault::PortDown { .. } | Fault::FreezeQemu { .. } | Fault::StallMonitor { .. }
            )
        });
        let killed = any(|fault| matches!(fault, Fault::KillQemu { .. }));
        let slowed = any(|fault| {
            matches!(fault, Fault::PortRate { .. } | Fault::Loss { .. } | Fault::Reverse { .. })
        });
        let cancelled = any(|fault| *fault == Fault::Cancel);
        left.state.vms.iter().find_map(|(vm, it)| {
            let explained = match it.outcome? {
                Ended::Completed => true,
                Ended::RolledBack if Self::was_hopeless(outcome, vm) => true,
                // A VM that is stopped for all of its move is bounded by what was planned with.
                Ended::RolledBack if slowed && self.policy == "stop-and-copy" => true,
                Ended::RolledBack | Ended::NotStarted => apart || killed || cancelled,
                Ended::NeedsRecovery => apart || killed,
                Ended::Lost => killed,
            };
            let what = format!("VM '{vm}' ended as {:?} ({:?})", it.outcome, it.reason);
            (!explained).then(|| format!("{what}, which no fault explains"))
        })
    }

    /// A guest that writes faster than its stream carries stays, if it may not be split: the driver decides so.
    fn was_hopeless(outcome: &Outcome, vm: &VmId) -> bool {
        outcome.records.iter().any(|(of, record)| {
            of == vm
                && matches!(&record.kind, RecordKind::Decided { reason, .. }
                    if reason.starts_with("pre-copy did not converge"))
        })
    }

    /// A deadline that was called feasible is kept where nothing disturbs.
    fn late(&self, ran: &Ran) -> Option<String> {
        let undisturbed = self.faults.iter().all(|it| it.fault.is_harmless());
        let (verdict, ratio) = ran.deadline?;
        let late = undisturbed && verdict == Verdict::Feasible && ratio > LATE_RATIO;
        late.then(|| format!("a deadline that was called feasible was missed: {ratio:.3} of it"))
    }
}

impl Ran {
    /// How each VM's attempt ended, as the journal tells.
    pub fn ends(&self) -> impl Iterator<Item = (&VmId, Ended)> {
        self.left.state.vms.iter().filter_map(|(vm, it)| Some((vm, it.outcome?)))
    }

    /// What drivers warned of.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.outcome.records.iter().filter_map(|(_, record)| match &record.kind {
            RecordKind::Warning(text) => Some(text.as_str()),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests;
