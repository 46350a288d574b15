//! Which of a path's and a gang's properties tell how a migration will go: Spearman's rank correlation of each with each
//! outcome, over all runs of a suite that moved every VM.
//!
//! Techniques differ in what they are sensitive to, so that values are ranked among the runs of one arm (a policy with an
//! intent) before arms are pooled: a rank is a place from 0 to 1, and no arm's level counts. Correlation over scenarios that
//! a suite happens to have ranks the properties *as they vary in it*; one that does not vary has no rank.

use crate::{
    compare::Bench,
    result::{Attempt, CellResult, RunRow},
    stats::{self, Interval},
};
use droveway_fleet::scenario::ScenarioSpec;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How much one property tells of one outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Influence {
    /// The property, with its unit.
    pub property: String,
    /// True if it is known before the first VM starts; else it was measured while VMs moved, and has part of the outcome in it.
    pub beforehand: bool,
    /// The outcome.
    pub outcome: String,
    /// Spearman's correlation of ranks within arms, from -1 to 1.
    pub correlation: f64,
    /// Its interval by bootstrap over runs.
    pub interval: Option<Interval>,
    /// Runs.
    pub runs: usize,
}

impl Influence {
    /// True if its interval excludes none.
    #[must_use]
    pub fn is_sure(&self) -> bool {
        self.interval.is_some_and(|it| it.low > 0.0 || it.high < 0.0)
    }
}

/// A correlation over fewer runs is chance.
const RUNS_LEAST: usize = 12;

struct Property {
    name: &'static str,
    beforehand: bool,
    of: fn(&Seen) -> Option<f64>,
}

/// A run with what is known of it.
struct Seen<'a> {
    run: &'a RunRow,
    attempt: &'a Attempt,
    scenario: &'a ScenarioSpec,
}

const PROPERTIES: [Property; 8] = [
    Property { name: "port's rate, bit/s", beforehand: true, of: |it| Some(it.port()) },
    Property {
        name: "memory to send, s of the port",
        beforehand: true,
        of: |it| Some(it.run.line_rate_seconds),
    },
    Property {
        name: "traffic out of the VMs, share of the port",
        beforehand: true,
        of: |it| it.traffic(true),
    },
    Property {
        name: "traffic into the VMs, share of the port",
        beforehand: true,
        of: |it| it.traffic(false),
    },
    Property {
        name: "dirtying, share of the port",
        beforehand: true,
        of: |it| Some(it.dirtying() / it.port()),
    },
    Property {
        name: "working sets, share of memory",
        beforehand: true,
        of: |it| Some(it.working_set()),
    },
    Property {
        name: "latency: the streams' median round trip, ms",
        beforehand: false,
        of: |it| it.run.path_rtt_ms,
    },
    Property {
        name: "loss: segments sent again, per MB sent",
        beforehand: false,
        of: |it| it.loss(),
    },
];

/// An outcome of a run, with its name.
type Outcome = (&'static str, fn(&RunRow) -> Option<f64>);

const OUTCOMES: [Outcome; 4] = [
    ("total time over line rate", |run| {
        (run.line_rate_seconds > 0.0).then(|| run.total_seconds / run.line_rate_seconds)
    }),
    ("worst downtime", |run| run.worst_downtime_seconds),
    ("worst outage", |run| run.worst_outage_seconds),
    ("lost, s of the port", |run| Some(run.lost_port_seconds)),
];

impl Seen<'_> {
    #[expect(clippy::cast_precision_loss, reason = "rates are below 2^53")]
    fn port(&self) -> f64 {
        self.run.port_bits_per_second.max(1) as f64
    }

    /// What the moving VMs sent to, or had from, others before the run; what two of them have with each other stays on a host.
    fn traffic(&self, out: bool) -> Option<f64> {
        let moving: BTreeSet<&str> = self.attempt.vms.iter().map(|vm| vm.vm.as_str()).collect();
        let mut sum = 0.0;
        for app in self.attempt.applications.iter().filter(|app| app.unit == "Mbit/s") {
            let (own, other) = if out { (&app.from, &app.to) } else { (&app.to, &app.from) };
            if moving.contains(own.as_str()) && !moving.contains(other.as_str()) {
                sum += app.before? * 1e6;
            }
        }
        Some(sum / self.port())
    }

    /// Bits per second that moving VMs are told to write.
    #[expect(clippy::cast_precision_loss, reason = "rates are below 2^53")]
    fn dirtying(&self) -> f64 {
        let rates = self.moving().filter_map(|vm| vm.memory_load.as_ref());
        rates.map(|load| load.write_rate.bits_per_second() as f64).sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
    fn loss(&self) -> Option<f64> {
        let again = self.run.path_retransmits? as f64;
        Some(again * 1e6 / self.run.migrated_bytes.max(1) as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "memory is below 2^53")]
    fn working_set(&self) -> f64 {
        let memory: f64 = self.moving().map(|vm| vm.memory.get() as f64).sum();
        let sets = self.moving().filter_map(|vm| vm.memory_load.as_ref());
        let set: f64 = sets.map(|load| load.working_set.get() as f64).sum();
        if memory > 0.0 { set / memory } else { 0.0 }
    }

    fn moving(&self) -> impl Iterator<Item = &droveway_fleet::scenario::ScenarioVm> {
        let is_moving = |name: &str| self.attempt.vms.iter().any(|vm| vm.vm == name);
        self.scenario.vms.iter().filter(move |vm| is_moving(vm.name.as_str()))
    }
}

/// Every property with every outcome, of each outcome the strongest first; empty for a suite with too few runs or without
/// variation.
#[must_use]
pub fn influences(bench: &Bench) -> Vec<Influence> {
    let spec = &bench.resolved.suite.spec;
    let scenarios: BTreeMap<&str, &ScenarioSpec> = spec
        .scenarios
        .iter()
        .filter_map(|of| Some((of.name.as_str(), of.spec.as_ref()?)))
        .collect();
    let seen: Vec<(String, Seen)> = bench
        .results
        .iter()
        .filter_map(|result: &CellResult| {
            let (run, attempt) = (result.moved()?, result.counted()?);
            let scenario = *scenarios.get(result.cell.scenario.as_str())?;
            // Where the world changes, it is not what it was known to be.
            if !scenario.changes.is_empty() {
                return None;
            }
            Some((result.cell.arm(), Seen { run, attempt, scenario }))
        })
        .collect();
    let mut all = Vec::new();
    for (outcome, of_run) in OUTCOMES {
        let mut own = Vec::new();
        for property in &PROPERTIES {
            let mut arms: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
            for (arm, run) in &seen {
                if let Some(pair) = (property.of)(run).zip(of_run(run.run)) {
                    arms.entry(arm).or_default().push(pair);
                }
            }
            let pairs: Vec<(f64, f64)> = arms.into_values().flat_map(|of| places(&of)).collect();
            if pairs.len() < RUNS_LEAST {
                continue;
            }
            let Some(correlation) = correlation(&pairs) else { continue };
            own.push(Influence {
                property: property.name.to_owned(),
                beforehand: property.beforehand,
                outcome: outcome.to_owned(),
                correlation,
                interval: stats::bootstrap_of(&pairs, self::correlation, spec.seed),
                runs: pairs.len(),
            });
        }
        own.sort_by(|one, other| other.correlation.abs().total_cmp(&one.correlation.abs()));
        all.extend(own);
    }
    all
}

/// Both values' places among the others of their arm.
fn places(pairs: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let (ones, others): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    ranks(&ones).into_iter().zip(ranks(&others)).collect()
}

/// The place of each value among all, from 0 to 1; equals share theirs. The middle for a single one.
#[expect(clippy::cast_precision_loss, reason = "a few thousand runs")]
fn ranks(values: &[f64]) -> Vec<f64> {
    let last = values.len().saturating_sub(1);
    let place = |value: &f64| {
        if last == 0 {
            return 0.5;
        }
        let below = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| other.total_cmp(value).is_eq()).count();
        (below as f64 + (equal - 1) as f64 / 2.0) / last as f64
    };
    values.iter().map(place).collect()
}

/// Pearson's correlation; of ranks it is Spearman's. `None` where one side does not vary.
#[expect(clippy::cast_precision_loss, reason = "a few thousand runs")]
fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let count = pairs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / count;
    let (one, other) = (mean(|it| it.0), mean(|it| it.1));
    let (mut both, mut ones, mut others) = (0.0, 0.0, 0.0);
    for (x, y) in pairs {
        both += (x - one) * (y - other);
        ones += (x - one).powi(2);
        others += (y - other).powi(2);
    }
    (ones > 1e-12 && others > 1e-12).then(|| both / (ones * others).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::bench;

    #[test]
    fn what_drives_an_outcome_is_first_and_sure() {
        let mut bench = bench(|_, repeat| (5.0 + f64::from(repeat), 0));
        for (index, result) in bench.results.iter_mut().enumerate() {
            let attempt = &mut result.attempts[0];
            #[expect(clippy::cast_precision_loss, reason = "a few runs")]
            let out = ((index * 7) % 11) as f64;
            attempt.applications[0].before = Some(10.0 + out);
            let run = attempt.run.as_mut().unwrap();
            run.total_seconds = 5.0 + out * out;
            // What has nothing to do with it varies too.
            run.path_rtt_ms = Some(f64::from(u32::try_from(index % 3).unwrap()));
        }
        let all = influences(&bench);
        let time: Vec<&Influence> =
            all.iter().filter(|it| it.outcome == "total time over line rate").collect();
        assert_eq!(time[0].property, "traffic out of the VMs, share of the port");
        assert!(time[0].correlation > 0.99 && time[0].is_sure(), "{:?}", time[0]);
        let latency = time.iter().find(|it| it.property.starts_with("latency")).unwrap();
        assert!(latency.correlation.abs() < 0.5 && !latency.beforehand, "{latency:?}");
        // The port is the same everywhere: it cannot be ranked.
        assert!(all.iter().all(|it| !it.property.starts_with("port's rate")));
    }

    #[test]
    fn levels_of_arms_do_not_count() {
        // Each arm's time falls with traffic, and the arm with more traffic is the slower one.
        let pairs = |level: f64| (0..6).map(move |x| (level + f64::from(x), level - f64::from(x)));
        let pooled: Vec<(f64, f64)> = [0.0, 100.0]
            .into_iter()
            .flat_map(|level| places(&pairs(level).collect::<Vec<_>>()))
            .collect();
        assert!((correlation(&pooled).unwrap() + 1.0).abs() < 1e-9);
        assert_eq!(correlation(&[(1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(ranks(&[3.0, 1.0, 3.0]), [0.75, 0.0, 0.75]);
        assert_eq!(ranks(&[3.0]), [0.5]);
    }
}
