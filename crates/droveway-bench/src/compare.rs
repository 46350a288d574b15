//! What the results say: each arm (a policy with an intent) summed up, ours against each other arm pair by pair, what a
//! lever is worth, and where ours loses.

use crate::{
    faults::{self, FaultCost},
    influence::{self, Influence},
    result::{CellResult, NO_CHANGE, RunRow},
    stats::{self, Paired, Summary, Verdict},
    suite::{Resolved, SuitePolicy, Switch},
    targets::{self, Target},
};
use droveway_fleet::Reserve;
use droveway_plan::policy::DEFAULT_POLICY;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A suite and what came of it so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Bench {
    /// The suite.
    pub resolved: Resolved,
    /// Its results, in the order in which they were made.
    pub results: Vec<CellResult>,
}

/// Everything that is said of a bench.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    /// How much was run.
    pub counts: Counts,
    /// Each arm, in the suite's order.
    pub arms: Vec<Arm>,
    /// Ours against each other arm.
    pub comparisons: Vec<Comparison>,
    /// Ours less one lever against ours.
    pub ablations: Vec<Comparison>,
    /// Where another arm was faster, lost less and was silent for less, all at once.
    pub dominated: Vec<Dominated>,
    /// How good forecasts were.
    pub forecasts: Option<Forecasts>,
    /// What ours was to reach, against what came.
    pub targets: Vec<Target>,
    /// What tells how a migration will go.
    pub influences: Vec<Influence>,
    /// What came of runs whose world changed under way, against their control's.
    pub faults: Vec<FaultCost>,
}

/// How much was run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Cells of the suite.
    pub cells: usize,
    /// Cells with a run that counts.
    pub counted: usize,
    /// Cells whose every attempt was invalid.
    pub given_up: usize,
    /// Runs, those that do not count included.
    pub runs: usize,
    /// Why runs did not count, and how many.
    pub invalid: BTreeMap<String, usize>,
    /// VMs that were to move, in runs that count.
    pub moves: usize,
    /// Of them, moved.
    pub completed: usize,
    /// Of them, lost or in need of recovery.
    pub lost: usize,
    /// The share of CPU time that was idle, over runs that count: the middle and the least.
    pub cpu_idle: Option<[f64; 2]>,
}

/// A policy with an intent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arm {
    /// `policy@intent`.
    pub name: String,
    /// The policy's name in the suite.
    pub policy: String,
    /// The intent's.
    pub intent: String,
    /// What it is.
    pub family: Family,
    /// Where the policy comes from.
    pub source: String,
    /// Runs that count.
    pub runs: usize,
    /// VMs that were to move.
    pub moves: usize,
    /// Of them, moved.
    pub completed: usize,
    /// Total time over line rate, of runs that moved all.
    pub over_line_rate: Option<Summary>,
    /// Total time, seconds.
    pub total_seconds: Option<Summary>,
    /// What traffic lost, seconds of the port.
    pub lost_port_seconds: Option<Summary>,
    /// The longest silence of a VM in a run, seconds.
    pub worst_outage_seconds: Option<Summary>,
    /// Downtime by VM, seconds.
    pub downtime_seconds: Option<Summary>,
    /// Silence by VM, seconds.
    pub outage_seconds: Option<Summary>,
}

/// What a policy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// `adaptive` as it comes.
    Ours,
    /// `adaptive` less something.
    Ablation,
    /// One technique for all.
    Plain,
    /// As somebody published it.
    Published,
    /// As a product does it.
    Product,
}

impl Family {
    /// Of a policy of a suite.
    #[must_use]
    pub fn of(policy: &SuitePolicy) -> Self {
        let as_it_comes = policy.policy == DEFAULT_POLICY
            && policy.tuning != Switch::Off
            && policy.replan != Switch::Off
            && policy.shaping
            && policy.reserve == Reserve::Auto;
        match (policy.is_ours(), policy.source()) {
            (true, _) if as_it_comes => Family::Ours,
            (true, _) => Family::Ablation,
            (false, "plain") => Family::Plain,
            (false, "habit") => Family::Product,
            _ => Family::Published,
        }
    }

    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Family::Ours => "ours",
            Family::Ablation => "ours, a lever off",
            Family::Plain => "plain",
            Family::Published => "published",
            Family::Product => "product",
        }
    }
}

/// An arm against another, over the runs of the same scenario and repeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// The first.
    pub one: String,
    /// The second.
    pub other: String,
    /// Total time, the first over the second.
    pub time: Option<Paired>,
    /// Lost seconds of the port, the first less the second.
    pub lost: Option<Paired>,
    /// The longest silence, the first over the second.
    pub outage: Option<Paired>,
}

impl Comparison {
    /// Each measure with its name.
    pub fn measures(&self) -> impl Iterator<Item = (&'static str, &Paired)> {
        let all = [
            ("total time", &self.time),
            ("lost bytes", &self.lost),
            ("worst outage", &self.outage),
        ];
        all.into_iter().filter_map(|(name, paired)| Some((name, paired.as_ref()?)))
    }
}

/// An arm of ours that another beat in everything, in one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dominated {
    /// The scenario.
    pub scenario: String,
    /// Ours.
    pub ours: String,
    /// The other.
    pub by: String,
    /// Medians of ours: total seconds, lost seconds of the port, worst outage.
    pub own: [f64; 3],
    /// The other's.
    pub others: [f64; 3],
}

/// How good forecasts of the total time were.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forecasts {
    /// Runs with a forecast.
    pub runs: usize,
    /// The median of the absolute error, as a share of what came.
    pub median_error: f64,
    /// The share of runs between the forecast's first and ninth decile.
    pub within: f64,
}

/// Less than this is no difference between medians: what a run's clocks and chance make.
const MARGIN: f64 = 0.02;
/// Nor is less than this between silences: two questions of the probe and the time that a guest takes to answer, seconds.
const OUTAGE_MARGIN: f64 = 0.01;

/// Says what the results say.
#[must_use]
pub fn analyse(bench: &Bench) -> Analysis {
    let arms = arms(bench);
    let of = |family: Family| arms.iter().filter(move |arm| arm.family == family);
    let others =
        || arms.iter().filter(|arm| !matches!(arm.family, Family::Ours | Family::Ablation));
    let mut comparisons = Vec::new();
    for ours in of(Family::Ours) {
        comparisons.extend(others().map(|other| compare(bench, &ours.name, &other.name)));
    }
    let mut ablations = Vec::new();
    for less in of(Family::Ablation) {
        let full = of(Family::Ours).find(|arm| arm.intent == less.intent);
        ablations.extend(full.map(|full| compare(bench, &less.name, &full.name)));
    }
    comparisons.retain(|it| it.time.is_some() || it.lost.is_some());
    ablations.retain(|it| it.time.is_some() || it.lost.is_some());
    let mut analysis = Analysis {
        counts: counts(bench),
        comparisons,
        ablations,
        dominated: dominated(bench, &arms),
        forecasts: forecasts(bench),
        faults: faults::costs(bench, &arms),
        arms,
        targets: Vec::new(),
        influences: influence::influences(bench),
    };
    analysis.targets = targets::targets(bench, &analysis);
    analysis
}

impl Analysis {
    /// Comparisons in which ours is worse, with the measure.
    #[must_use]
    pub fn lost(&self) -> Vec<(&Comparison, &'static str, &Paired)> {
        let worse = |it: &'_ Comparison| {
            it.measures()
                .filter(|(_, paired)| paired.verdict == Verdict::More)
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        let mut lost = Vec::new();
        for comparison in &self.comparisons {
            for name in worse(comparison) {
                let paired = comparison.measures().find(|(own, _)| *own == name);
                lost.extend(paired.map(|(_, paired)| (comparison, name, paired)));
            }
        }
        lost
    }
}

fn counts(bench: &Bench) -> Counts {
    let mut counts = Counts { cells: crate::order(&bench.resolved).len(), ..Counts::default() };
    let mut idle = Vec::new();
    for result in &bench.results {
        counts.runs += result.attempts.len();
        for reason in result.attempts.iter().flat_map(|attempt| &attempt.invalid) {
            *counts.invalid.entry(kind_of(reason).to_owned()).or_default() += 1;
        }
        let Some(run) = result.run() else {
            counts.given_up += 1;
            continue;
        };
        counts.counted += 1;
        counts.moves += run.vms;
        counts.completed += run.completed;
        counts.lost += run.lost_vms;
        idle.extend(run.cpu_busy_ratio.map(|busy| 1.0 - busy));
    }
    counts.cpu_idle = stats::median(&idle)
        .zip(stats::quantile(&idle, 0.0))
        .map(|(middle, least)| [middle, least]);
    counts
}

/// Reasons name what they are about; they are counted by what they say of it.
fn kind_of(reason: &str) -> &'static str {
    if reason.starts_with(NO_CHANGE) {
        "changes not made"
    } else if reason.contains("CPUs") {
        "CPUs saturated"
    } else if reason.contains("probe") {
        "probe lost"
    } else if reason.contains("died") || reason.contains("before") {
        "application dead"
    } else {
        "no report"
    }
}

/// Names in the suite's order, those without results left out.
fn arms(bench: &Bench) -> Vec<Arm> {
    let mut arms = Vec::new();
    let mut seed = bench.resolved.suite.spec.seed;
    for policy in &bench.resolved.suite.spec.policies {
        for intent in bench.resolved.suite.spec.intents() {
            let of_arm = |it: &&CellResult| {
                it.cell.policy == policy.name() && it.cell.intent == intent.name.as_str()
            };
            let results: Vec<&CellResult> = bench.results.iter().filter(of_arm).collect();
            if results.is_empty() {
                continue;
            }
            seed = seed.wrapping_add(1);
            arms.push(arm(policy, intent.name.as_str(), &results, seed));
        }
    }
    arms
}

fn arm(policy: &SuitePolicy, intent: &str, results: &[&CellResult], seed: u64) -> Arm {
    let runs: Vec<&RunRow> = results.iter().filter_map(|it| it.run()).collect();
    let moved: Vec<&RunRow> = results.iter().filter_map(|it| it.moved()).collect();
    let of = |value: &dyn Fn(&RunRow) -> Option<f64>| {
        let values: Vec<f64> = moved.iter().filter_map(|run| value(run)).collect();
        stats::summary(&values, seed)
    };
    let vms = || {
        let counted = results.iter().filter_map(|it| it.counted());
        counted.flat_map(|attempt| &attempt.vms).filter(|vm| vm.result == "completed")
    };
    let downtimes: Vec<f64> = vms().filter_map(|vm| vm.downtime_seconds).collect();
    let outages: Vec<f64> = vms().filter_map(|vm| vm.outage_seconds).collect();
    Arm {
        name: format!("{}@{intent}", policy.name()),
        policy: policy.name().to_owned(),
        intent: intent.to_owned(),
        family: Family::of(policy),
        source: policy.source().to_owned(),
        runs: runs.len(),
        moves: runs.iter().map(|run| run.vms).sum(),
        completed: runs.iter().map(|run| run.completed).sum(),
        over_line_rate: of(&over_line_rate),
        total_seconds: of(&|run| Some(run.total_seconds)),
        lost_port_seconds: of(&|run| Some(run.lost_port_seconds)),
        worst_outage_seconds: of(&|run| run.worst_outage_seconds),
        downtime_seconds: stats::summary(&downtimes, seed),
        outage_seconds: stats::summary(&outages, seed),
    }
}

/// Total time over line rate.
#[must_use]
pub fn over_line_rate(run: &RunRow) -> Option<f64> {
    (run.line_rate_seconds > 0.0).then(|| run.total_seconds / run.line_rate_seconds)
}

/// The runs of both arms that moved everything, by scenario and repeat.
fn compare(bench: &Bench, one: &str, other: &str) -> Comparison {
    let of = |arm: &str| -> BTreeMap<(&str, u32), &RunRow> {
        let of_arm = bench.results.iter().filter(|it| it.cell.arm() == arm);
        of_arm
            .filter_map(|it| Some(((it.cell.scenario.as_str(), it.cell.repeat), it.moved()?)))
            .collect()
    };
    let (first, second) = (of(one), of(other));
    let pairs = |value: &dyn Fn(&RunRow) -> Option<f64>| -> Vec<(f64, f64)> {
        let both = first.iter().filter_map(|(key, run)| Some((*run, *second.get(key)?)));
        both.filter_map(|(own, others)| Some((value(own)?, value(others)?))).collect()
    };
    let seed = bench.resolved.suite.spec.seed;
    Comparison {
        one: one.to_owned(),
        other: other.to_owned(),
        time: stats::ratios(&pairs(&|run| Some(run.total_seconds)), seed),
        lost: stats::differences(&pairs(&|run| Some(run.lost_port_seconds)), seed),
        outage: stats::ratios(&pairs(&|run| run.worst_outage_seconds), seed),
    }
}

/// Medians of an arm in a scenario: total seconds, lost seconds of the port, worst outage (zero where nobody listened).
#[must_use]
pub fn medians(bench: &Bench, scenario: &str, arm: &str) -> Option<[f64; 3]> {
    let middle = |value: &dyn Fn(&RunRow) -> Option<f64>| median_of(bench, scenario, arm, value);
    Some([
        middle(&|run| Some(run.total_seconds))?,
        middle(&|run| Some(run.lost_port_seconds))?,
        middle(&|run| Some(run.worst_outage_seconds.unwrap_or(0.0)))?,
    ])
}

/// The median of a value over the runs of an arm in a scenario that moved every VM.
#[must_use]
pub fn median_of(
    bench: &Bench,
    scenario: &str,
    arm: &str,
    value: impl Fn(&RunRow) -> Option<f64>,
) -> Option<f64> {
    let of = bench.results.iter().filter(|it| it.cell.scenario == scenario && it.cell.arm() == arm);
    let values: Vec<f64> = of.filter_map(CellResult::moved).filter_map(value).collect();
    stats::median(&values)
}

fn dominated(bench: &Bench, arms: &[Arm]) -> Vec<Dominated> {
    let scenarios: BTreeSet<&str> =
        bench.results.iter().map(|it| it.cell.scenario.as_str()).collect();
    let mut found = Vec::new();
    for scenario in scenarios {
        for ours in arms.iter().filter(|arm| arm.family == Family::Ours) {
            let Some(own) = medians(bench, scenario, &ours.name) else { continue };
            for other in
                arms.iter().filter(|arm| !matches!(arm.family, Family::Ours | Family::Ablation))
            {
                let Some(others) = medians(bench, scenario, &other.name) else { continue };
                if dominates(others, own) {
                    found.push(Dominated {
                        scenario: scenario.to_owned(),
                        ours: ours.name.clone(),
                        by: other.name.clone(),
                        own,
                        others,
                    });
                }
            }
        }
    }
    found
}

/// Whether the first is nowhere worse than the second and somewhere better, by more than the margin. Lost seconds of the port
/// count beside the total time: a tenth of a second of a port in a move of a minute is nothing.
fn dominates(one: [f64; 3], other: [f64; 3]) -> bool {
    let least = [0.0, MARGIN * other[0], OUTAGE_MARGIN];
    let margin = |index: usize| (MARGIN * other[index]).max(least[index]);
    let no_worse = (0..3).all(|index| one[index] <= other[index] + margin(index));
    no_worse && (0..3).any(|index| one[index] < other[index] - margin(index))
}

fn forecasts(bench: &Bench) -> Option<Forecasts> {
    let mut errors = Vec::new();
    let mut within = 0_usize;
    for run in bench.results.iter().filter_map(CellResult::moved) {
        let Some(predicted) = run.predicted_seconds_p50.filter(|_| run.total_seconds > 0.0) else {
            continue;
        };
        errors.push((predicted - run.total_seconds).abs() / run.total_seconds);
        let (low, high) = (run.predicted_seconds_p10, run.predicted_seconds_p90);
        if low.zip(high).is_some_and(|(low, high)| (low..=high).contains(&run.total_seconds)) {
            within += 1;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a few thousand runs")]
    let share = within as f64 / errors.len().max(1) as f64;
    Some(Forecasts { runs: errors.len(), median_error: stats::median(&errors)?, within: share })
}

#[cfg(test)]
pub(crate) mod tests;
