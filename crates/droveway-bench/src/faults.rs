//! What a fault costs: runs of a scenario whose world changes under way against those of its control, the same scenario without
//! the changes; arm by arm, and repeat by repeat.

use crate::{
    compare::{Arm, Bench},
    result::{Attempt, CellResult, RunRow},
    stats::{self, Paired},
    suite::{Resolved, SuiteScenario},
};
use droveway_fleet::{report::MoveResult, scenario::ScenarioSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What came of an arm's runs in a scenario that changes, or in a control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultCost {
    /// The scenario.
    pub scenario: String,
    /// Whether its world changes; else it is a control.
    pub changes: bool,
    /// The same without changes; `None` for a control, or if the suite has none.
    pub control: Option<String>,
    /// The arm.
    pub arm: String,
    /// Runs that count.
    pub runs: usize,
    /// Of them, over before anything had changed: those met no fault.
    pub unmet: usize,
    /// How their VMs ended.
    pub ends: Ends,
    /// The median total time of those that moved every VM, seconds.
    pub total_seconds: Option<f64>,
    /// Total time, with the fault less without, seconds; of runs that moved every VM in both.
    pub time: Option<Paired>,
    /// Lost seconds of the port, with the fault less without.
    pub lost: Option<Paired>,
    /// The longest silence, with the fault less without, seconds.
    pub outage: Option<Paired>,
}

/// How VMs ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ends {
    /// At the target.
    pub completed: usize,
    /// At the source, as before.
    pub rolled_back: usize,
    /// Its memory split between both.
    pub needs_recovery: usize,
    /// Nowhere.
    pub lost: usize,
    /// At the source, never moved.
    pub not_started: usize,
}

impl Ends {
    /// Counts the VMs of a run.
    fn count(&mut self, attempt: &Attempt) {
        for vm in &attempt.vms {
            let is = |result: MoveResult| usize::from(vm.result == result.name());
            self.completed += is(MoveResult::Completed);
            self.rolled_back += is(MoveResult::RolledBack);
            self.needs_recovery += is(MoveResult::NeedsRecovery);
            self.lost += is(MoveResult::Lost);
            self.not_started += is(MoveResult::NotStarted);
        }
    }

    /// All of them.
    #[must_use]
    pub const fn all(self) -> usize {
        self.completed + self.rolled_back + self.needs_recovery + self.lost + self.not_started
    }
}

impl std::ops::AddAssign for Ends {
    fn add_assign(&mut self, other: Self) {
        self.completed += other.completed;
        self.rolled_back += other.rolled_back;
        self.needs_recovery += other.needs_recovery;
        self.lost += other.lost;
        self.not_started += other.not_started;
    }
}

impl Resolved {
    /// Whether the world of any scenario changes while VMs move.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        self.suite.spec.scenarios.iter().any(is_changing)
    }

    /// The scenario that is this one without its changes.
    fn control(&self, of: &ScenarioSpec) -> Option<&SuiteScenario> {
        let calm = ScenarioSpec { changes: Vec::new(), ..of.clone() };
        self.suite.spec.scenarios.iter().find(|other| other.spec.as_ref() == Some(&calm))
    }
}

fn is_changing(scenario: &SuiteScenario) -> bool {
    scenario.spec.as_ref().is_some_and(|spec| !spec.changes.is_empty())
}

/// Scenario by scenario, each control before those that it is one of, and within a scenario arm by arm. Empty for a suite in
/// which nothing changes.
#[must_use]
pub fn costs(bench: &Bench, arms: &[Arm]) -> Vec<FaultCost> {
    let scenarios = || bench.resolved.suite.spec.scenarios.iter();
    let control = |of: &SuiteScenario| {
        let spec = of.spec.as_ref().filter(|spec| !spec.changes.is_empty())?;
        bench.resolved.control(spec).map(|it| it.name.to_string())
    };
    let controls: Vec<String> = scenarios().filter_map(control).collect();
    let mut costs = Vec::new();
    for scenario in scenarios() {
        let is_control = controls.iter().any(|name| name == scenario.name.as_str());
        if is_control || is_changing(scenario) {
            let control = control(scenario);
            costs.extend(
                arms.iter().filter_map(|arm| cost(bench, scenario, control.as_deref(), arm)),
            );
        }
    }
    // Controls first; otherwise as the suite has them.
    costs.sort_by_key(|cost| cost.changes);
    costs
}

fn cost(
    bench: &Bench,
    scenario: &SuiteScenario,
    control: Option<&str>,
    arm: &Arm,
) -> Option<FaultCost> {
    let name = scenario.name.as_str();
    let results = || {
        let all = bench.results.iter();
        all.filter(|it| it.cell.scenario == name && it.cell.arm() == arm.name)
    };
    let changes = scenario.spec.iter().flat_map(|spec| &spec.changes);
    let first = changes.map(|change| change.at.duration().as_secs_f64()).reduce(f64::min);
    let runs: Vec<&RunRow> = results().filter_map(CellResult::run).collect();
    if runs.is_empty() {
        return None;
    }
    let unmet = |run: &&&RunRow| first.is_some_and(|first| run.total_seconds < first);
    let mut ends = Ends::default();
    results().filter_map(CellResult::counted).for_each(|attempt| ends.count(attempt));
    let (with, without) =
        (moved(bench, name, &arm.name), control.map(|it| moved(bench, it, &arm.name)));
    let cost = |value: &dyn Fn(&RunRow) -> Option<f64>| {
        let without = without.as_ref()?;
        let both = with.iter().filter_map(|(repeat, run)| Some((*run, *without.get(repeat)?)));
        let pairs: Vec<(f64, f64)> =
            both.filter_map(|(run, calm)| Some((value(run)?, value(calm)?))).collect();
        stats::differences(&pairs, bench.resolved.suite.spec.seed)
    };
    let seconds: Vec<f64> = with.values().map(|run| run.total_seconds).collect();
    Some(FaultCost {
        scenario: name.to_owned(),
        changes: first.is_some(),
        control: control.map(str::to_owned),
        arm: arm.name.clone(),
        runs: runs.len(),
        unmet: runs.iter().filter(unmet).count(),
        ends,
        total_seconds: stats::median(&seconds),
        time: cost(&|run| Some(run.total_seconds)),
        lost: cost(&|run| Some(run.lost_port_seconds)),
        outage: cost(&|run| run.worst_outage_seconds),
    })
}

/// The runs of an arm in a scenario that moved everything, by repeat.
fn moved<'a>(bench: &'a Bench, scenario: &str, arm: &str) -> BTreeMap<u32, &'a RunRow> {
    let all = bench.results.iter();
    all.filter(|it| it.cell.scenario == scenario && it.cell.arm() == arm)
        .filter_map(|it| Some((it.cell.repeat, it.moved()?)))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests;
