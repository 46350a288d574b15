//! The targets that `adaptive` was given, against what came. Most are ratios of runs of the same scenario and repeat; told
//! is their median with its interval by bootstrap, over contended scenarios, and apart for ports that share fairly and for
//! ports with one queue.
//!
//! Fixed costs (starting, switching over, announcing) are not taken off the total time: that makes a target a little harder,
//! and needs no estimate of ours.

use crate::{
    compare::{Analysis, Arm, Bench, Family, medians, over_line_rate},
    result::RunRow,
    stats::{self, Interval, PAIRS_LEAST},
};
use droveway_fleet::{
    RateLimit, Urgency,
    scenario::{Discipline, ScenarioSpec, TrafficKind},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A target and what came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// What is asked for.
    pub aim: Aim,
    /// The arm of ours; `None`: all of them together.
    pub arm: Option<String>,
    /// Which scenarios.
    pub ports: Ports,
    /// At most so much is wanted.
    pub limit: f64,
    /// What came: the median, a percentile or a count, as the aim says.
    pub found: f64,
    /// Its interval by bootstrap; `None` for counts and single values.
    pub interval: Option<Interval>,
    /// Pairs, VMs or scenarios that it was found from.
    pub of: usize,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aim {
    /// Total time over line rate.
    TimeOverLineRate,
    /// Total time over that of the other policy that is fastest in the scenario.
    TimeOverFastest,
    /// Total time over that of `pre-copy-parallel`, where three elastic flows or more go one way, or memory is written fast.
    TimeOverParallelWhereHard,
    /// Lost bytes over those of `solive` at the same urgency.
    LossOverSolive,
    /// Total time at medium urgency over that at high urgency.
    TimeOverHigh,
    /// Lost bytes over those of `solive` at high urgency.
    LossOverSoliveAtHigh,
    /// Scenarios in which another policy is no worse in time, loss and outage, and better in one.
    Dominated,
    /// Median downtime, seconds.
    Downtime,
    /// 99th percentile of downtime, seconds.
    DowntimeFar,
    /// Median outage of the VMs over the least of the policies that take at most [`NEAR`] times as long.
    OutageOverBest,
    /// VMs that did not move.
    NotMoved,
}

impl Aim {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Aim::TimeOverLineRate => "total time / line rate",
            Aim::TimeOverFastest => "total time / fastest other policy",
            Aim::TimeOverParallelWhereHard => "total time / pre-copy-parallel, hard scenarios",
            Aim::LossOverSolive => "lost bytes / solive at the same urgency",
            Aim::TimeOverHigh => "total time / ours at high",
            Aim::LossOverSoliveAtHigh => "lost bytes / solive at high",
            Aim::Dominated => "scenarios in which another dominates",
            Aim::Downtime => "downtime, median, ms",
            Aim::DowntimeFar => "downtime, 99th percentile, ms",
            Aim::OutageOverBest => "median outage / best of those as fast",
            Aim::NotMoved => "VMs that did not move",
        }
    }

    /// Whether it is told in milliseconds, whether as a whole number, or as a ratio.
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Aim::Downtime | Aim::DowntimeFar => Unit::Milliseconds,
            Aim::Dominated | Aim::NotMoved => Unit::Count,
            _ => Unit::Ratio,
        }
    }
}

/// How a target's number is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Two digits.
    Ratio,
    /// Seconds, told in milliseconds.
    Milliseconds,
    /// A whole number.
    Count,
}

/// Which scenarios a target is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ports {
    /// Contended ones whose ports share per flow: here the target counts.
    Fair,
    /// Contended ones whose ports have one queue: reported beside.
    Fifo,
    /// All.
    All,
}

impl Ports {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Ports::Fair => "fair",
            Ports::Fifo => "fifo",
            Ports::All => "all",
        }
    }

    fn has(self, spec: &ScenarioSpec) -> bool {
        match self {
            Ports::All => true,
            Ports::Fair => is_contended(spec) && spec.link.discipline == Discipline::Fair,
            Ports::Fifo => is_contended(spec) && spec.link.discipline == Discipline::Fifo,
        }
    }
}

/// How a target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Within the limit, the interval too.
    Met,
    /// Within the limit, but the interval is not.
    Perhaps,
    /// Beyond the limit, but the interval begins within.
    PerhapsNot,
    /// Beyond the limit, the interval too.
    Missed,
}

impl Standing {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Standing::Met => "met",
            Standing::Perhaps => "met, not surely",
            Standing::PerhapsNot => "missed, not surely",
            Standing::Missed => "missed",
        }
    }
}

impl Target {
    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let Interval { low, high } =
            self.interval.unwrap_or(Interval { low: self.found, high: self.found });
        match (self.found <= self.limit, low <= self.limit, high <= self.limit) {
            (true, _, true) => Standing::Met,
            (true, _, false) => Standing::Perhaps,
            (false, true, _) => Standing::PerhapsNot,
            (false, false, _) => Standing::Missed,
        }
    }

    /// Whether it was judged from too little to be sure: fewer pairs than a verdict needs, or moves than were asked for.
    /// Scenarios are as many as the suite has.
    #[must_use]
    pub fn is_from_few(&self) -> bool {
        match self.aim {
            Aim::NotMoved => self.of < MOVES_WANTED,
            Aim::Dominated | Aim::OutageOverBest => false,
            _ => self.of < PAIRS_LEAST,
        }
    }

    /// Whether it was missed where it counts.
    #[must_use]
    pub fn is_missed(&self) -> bool {
        self.ports != Ports::Fifo && self.found > self.limit
    }
}

/// Moves without loss that are asked for.
pub const MOVES_WANTED: usize = 300;
/// Another policy is as fast if it takes at most so many times as long.
pub const NEAR: f64 = 1.25;
/// Loss below this, in seconds of the port, is what measuring itself makes: added to both sides of a ratio of losses.
pub const LOSS_LEAST: f64 = 0.01;
/// Elastic flows in one direction that make a scenario hard.
pub const HARD_FLOWS: u32 = 3;
/// Memory written per second, over what the port carries, that makes a scenario hard.
pub const HARD_WRITES: f64 = 0.25;

/// Whether applications and moves want the same: traffic, or memory that is written. Where the world changes under way its cost
/// would be counted: that is told apart ([`crate::faults`]).
fn is_contended(spec: &ScenarioSpec) -> bool {
    let is_busy = !spec.traffic.is_empty() || spec.vms.iter().any(|vm| vm.memory_load.is_some());
    is_busy && spec.changes.is_empty()
}

/// Whether many elastic flows go one way, or memory is written fast.
fn is_hard(spec: &ScenarioSpec) -> bool {
    let is_client = |name: &str| spec.clients.iter().any(|client| client.name.as_str() == name);
    let elastic = |outbound: bool| -> u32 {
        let of = spec.traffic.iter().filter(|traffic| {
            let is_elastic = traffic.kind == TrafficKind::Tcp
                && matches!(traffic.rate, None | Some(RateLimit::Unlimited));
            let end = if outbound { &traffic.to } else { &traffic.from };
            is_elastic && is_client(end.as_str())
        });
        of.map(|traffic| traffic.flows).sum()
    };
    let loads = spec.vms.iter().filter_map(|vm| vm.memory_load.as_ref());
    #[expect(clippy::cast_precision_loss, reason = "rates of memory and ports are below 2^53")]
    let written: f64 = loads.map(|load| load.write_rate.bits_per_second() as f64).sum();
    #[expect(clippy::cast_precision_loss, reason = "as above")]
    let port = spec.link.rate.bits_per_second() as f64;
    elastic(true).max(elastic(false)) >= HARD_FLOWS || written >= HARD_WRITES * port
}

/// Every target of which there are data, those that count first.
#[must_use]
pub fn targets(bench: &Bench, analysis: &Analysis) -> Vec<Target> {
    let view = View { bench, arms: &analysis.arms };
    let mut targets = Vec::new();
    for ports in [Ports::Fair, Ports::Fifo] {
        for arm in view.ours() {
            targets.extend(of_arm(&view, analysis, arm, ports));
        }
    }
    targets.extend(of_all(&view));
    // What counts first, then by what is asked for.
    targets.sort_by_key(|target| (target.ports == Ports::Fifo, target.aim, target.arm.clone()));
    targets
}

fn of_arm(view: &View<'_>, analysis: &Analysis, arm: &Arm, ports: Ports) -> Vec<Target> {
    let Some(urgency) = view.urgency(arm) else { return Vec::new() };
    let seconds = |run: &RunRow| run.total_seconds;
    let lost = |run: &RunRow| run.lost_port_seconds + LOSS_LEAST;
    let solive = |urgency| view.arm("solive", urgency).map(|it| it.name.clone());
    let mut found: Vec<(Aim, f64, Vec<f64>)> = Vec::new();
    let is_urgent = urgency >= Urgency::High;
    if is_urgent {
        let line_rate = view.runs(&arm.name, ports).filter_map(over_line_rate).collect();
        found.push((Aim::TimeOverLineRate, 1.15, line_rate));
        let fastest = view.ratios(&arm.name, ports, &seconds, |scenario, _| view.fastest(scenario));
        found.push((Aim::TimeOverFastest, 1.0, fastest));
        let parallel = view.arm("pre-copy-parallel", urgency).map(|it| it.name.clone());
        let hard = |_: &str, spec: &ScenarioSpec| parallel.clone().filter(|_| is_hard(spec));
        let ratios = view.ratios(&arm.name, ports, &seconds, hard);
        found.push((Aim::TimeOverParallelWhereHard, 0.45, ratios));
        // `solive` at another urgency would be another comparison: that is the next one's.
        let same = view.arm_at("solive", urgency).map(|it| it.name.clone());
        let ratios = view.ratios(&arm.name, ports, &lost, |_, _| same.clone());
        found.push((Aim::LossOverSolive, 0.7, ratios));
    }
    if urgency == Urgency::Medium {
        let high = view.ours().find(|it| view.urgency(it) == Some(Urgency::High));
        let ratios = view.ratios(&arm.name, ports, &seconds, |_, _| high.map(|it| it.name.clone()));
        found.push((Aim::TimeOverHigh, 1.3, ratios));
        let ratios = view.ratios(&arm.name, ports, &lost, |_, _| solive(Urgency::High));
        found.push((Aim::LossOverSoliveAtHigh, 0.5, ratios));
    }
    if !is_urgent {
        found.push((Aim::OutageOverBest, 1.0, view.outages_over_best(&arm.name, ports)));
    }
    let seed = view.bench.resolved.suite.spec.seed;
    let mut targets: Vec<Target> = found
        .into_iter()
        .filter_map(|(aim, limit, values)| {
            Some(Target {
                aim,
                arm: Some(arm.name.clone()),
                ports,
                limit,
                found: stats::median(&values)?,
                interval: stats::bootstrap(&values, stats::median, seed),
                of: values.len(),
            })
        })
        .collect();
    if urgency == Urgency::Low {
        targets.extend(never_dominated(view, analysis, arm, ports));
    }
    targets
}

fn never_dominated(
    view: &View<'_>,
    analysis: &Analysis,
    arm: &Arm,
    ports: Ports,
) -> Option<Target> {
    let compared: Vec<&str> = view
        .scenarios(ports)
        .map(|(scenario, _)| scenario)
        .filter(|scenario| {
            let has = |arm: &Arm| medians(view.bench, scenario, &arm.name).is_some();
            has(arm) && view.others().any(has)
        })
        .collect();
    let own = analysis.dominated.iter().filter(|it| it.ours == arm.name);
    let dominated: BTreeSet<&str> =
        own.map(|it| it.scenario.as_str()).filter(|scenario| compared.contains(scenario)).collect();
    #[expect(clippy::cast_precision_loss, reason = "some dozen scenarios")]
    let found = dominated.len() as f64;
    (!compared.is_empty()).then(|| Target {
        aim: Aim::Dominated,
        arm: Some(arm.name.clone()),
        ports,
        limit: 0.0,
        found,
        interval: None,
        of: compared.len(),
    })
}

/// What is asked of all runs of ours together.
fn of_all(view: &View<'_>) -> Vec<Target> {
    let names: BTreeSet<&str> = view.ours().map(|arm| arm.name.as_str()).collect();
    let counted = || {
        let results = view.bench.results.iter();
        results.filter(|it| names.contains(it.cell.arm().as_str())).filter_map(|it| it.counted())
    };
    let downtimes: Vec<f64> = counted()
        .flat_map(|attempt| &attempt.vms)
        .filter(|vm| vm.result == "completed")
        .filter_map(|vm| vm.downtime_seconds)
        .collect();
    let seed = view.bench.resolved.suite.spec.seed;
    let far = |values: &[f64]| stats::quantile(values, 0.99);
    let all = |aim, limit, found, interval, of| Target {
        aim,
        arm: None,
        ports: Ports::All,
        limit,
        found,
        interval,
        of,
    };
    let mut targets = Vec::new();
    if let (Some(middle), Some(most)) = (stats::median(&downtimes), far(&downtimes)) {
        let of = downtimes.len();
        let interval = stats::bootstrap(&downtimes, stats::median, seed);
        targets.push(all(Aim::Downtime, 0.06, middle, interval, of));
        let interval = stats::bootstrap(&downtimes, far, seed);
        targets.push(all(Aim::DowntimeFar, 0.3, most, interval, of));
    }
    let runs = || counted().filter_map(|attempt| attempt.run.as_ref());
    let moves: usize = runs().map(|run| run.vms).sum();
    let moved: usize = runs().map(|run| run.completed).sum();
    if moves > 0 {
        #[expect(clippy::cast_precision_loss, reason = "some thousand VMs")]
        targets.push(all(Aim::NotMoved, 0.0, (moves - moved) as f64, None, moves));
    }
    targets
}

/// The bench by arms and scenarios.
struct View<'a> {
    bench: &'a Bench,
    arms: &'a [Arm],
}

impl<'a> View<'a> {
    fn ours(&self) -> impl Iterator<Item = &'a Arm> {
        self.arms.iter().filter(|arm| arm.family == Family::Ours)
    }

    fn others(&self) -> impl Iterator<Item = &'a Arm> {
        self.arms.iter().filter(|arm| !matches!(arm.family, Family::Ours | Family::Ablation))
    }

    /// The urgency of an arm that is asked for nothing else: deadlines and floors aim at something of their own.
    fn urgency(&self, arm: &Arm) -> Option<Urgency> {
        let intents = self.bench.resolved.suite.spec.intents();
        let own = intents.into_iter().find(|it| it.name.as_str() == arm.intent)?;
        (own.deadline.is_none() && own.floor.is_none()).then_some(own.urgency)
    }

    /// The arm of a policy as it comes at an urgency.
    fn arm_at(&self, policy: &str, urgency: Urgency) -> Option<&'a Arm> {
        self.others().find(|arm| arm.policy == policy && self.urgency(arm) == Some(urgency))
    }

    /// The same, or that at another urgency: most policies know none.
    fn arm(&self, policy: &str, urgency: Urgency) -> Option<&'a Arm> {
        let any = || self.others().find(|arm| arm.policy == policy);
        self.arm_at(policy, urgency).or_else(any)
    }

    fn scenarios(&self, ports: Ports) -> impl Iterator<Item = (&'a str, &'a ScenarioSpec)> {
        let all = self.bench.resolved.suite.spec.scenarios.iter();
        all.filter_map(|it| Some((it.name.as_str(), it.spec.as_ref()?)))
            .filter(move |(_, spec)| ports.has(spec))
    }

    /// The runs of an arm in a scenario that moved everything, by repeat.
    fn repeats(&self, scenario: &str, arm: &str) -> BTreeMap<u32, &'a RunRow> {
        let results = self.bench.results.iter();
        results
            .filter(|it| it.cell.scenario == scenario && it.cell.arm() == arm)
            .filter_map(|it| Some((it.cell.repeat, it.moved()?)))
            .collect()
    }

    fn runs(&self, arm: &str, ports: Ports) -> impl Iterator<Item = &'a RunRow> {
        self.scenarios(ports).flat_map(|(scenario, _)| self.repeats(scenario, arm).into_values())
    }

    /// A value of an arm over that of another one, which may differ by scenario, run by run.
    fn ratios(
        &self,
        arm: &str,
        ports: Ports,
        value: &dyn Fn(&RunRow) -> f64,
        other: impl Fn(&str, &ScenarioSpec) -> Option<String>,
    ) -> Vec<f64> {
        let mut ratios = Vec::new();
        for (scenario, spec) in self.scenarios(ports) {
            let Some(other) = other(scenario, spec) else { continue };
            let others = self.repeats(scenario, &other);
            for (repeat, own) in self.repeats(scenario, arm) {
                let Some(theirs) = others.get(&repeat).map(|run| value(run)) else { continue };
                if theirs > 0.0 {
                    ratios.push(value(own) / theirs);
                }
            }
        }
        ratios
    }

    /// The other arm with the least median time in a scenario.
    fn fastest(&self, scenario: &str) -> Option<String> {
        let times = self.others().filter_map(|arm| {
            Some((medians(self.bench, scenario, &arm.name)?[0], arm.name.as_str()))
        });
        times.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name.to_owned())
    }

    /// The median outage of the VMs of an arm in a scenario.
    fn outage(&self, scenario: &str, arm: &str) -> Option<f64> {
        let results = self.bench.results.iter();
        let own = results
            .filter(|it| it.cell.scenario == scenario && it.cell.arm() == arm)
            .filter_map(|it| it.counted());
        let vms = own.flat_map(|attempt| &attempt.vms).filter(|vm| vm.result == "completed");
        stats::median(&vms.filter_map(|vm| vm.outage_seconds).collect::<Vec<_>>())
    }

    /// One ratio a scenario: where nobody else is as fast there is nothing to compare.
    fn outages_over_best(&self, arm: &str, ports: Ports) -> Vec<f64> {
        let mut ratios = Vec::new();
        for (scenario, _) in self.scenarios(ports) {
            let (Some(own), Some([time, ..])) =
                (self.outage(scenario, arm), medians(self.bench, scenario, arm))
            else {
                continue;
            };
            let near = self.others().filter(|other| {
                medians(self.bench, scenario, &other.name).is_some_and(|it| it[0] <= NEAR * time)
            });
            let best =
                near.filter_map(|other| self.outage(scenario, &other.name)).min_by(f64::total_cmp);
            ratios.extend(best.filter(|best| *best > 0.0).map(|best| own / best));
        }
        ratios
    }
}

#[cfg(test)]
mod tests;
