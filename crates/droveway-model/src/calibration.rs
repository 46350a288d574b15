//! What runs have taught: the constants of these hosts, and how far forecasts were off.
//!
//! Each run leaves a [`RunRecord`]: what the model was given, and what came. A calibration is fitted by playing the records
//! again with other constants until the plays meet the outcomes (coordinate descent on robust log errors; a weak pull to
//! the priors keeps a constant that no record speaks of where it was). What is left over is the model's error, by quantity
//! and technique: its median corrects forecasts, its spread makes their intervals. With few records both lean on priors.

mod likeness;

use crate::{
    ensemble,
    fluid::{Constants, Course, Fluid, Gang, MoveCourse},
    world::P10_TO_P90,
};
use droveway_fleet::{Technique, VmId, report::Quantiles};
pub use likeness::{Case, Sample};
use serde::{Deserialize, Serialize};

/// The `kind` of a calibration file.
pub const KIND: &str = "Calibration";

/// Records that are kept: the last ones. Enough for every technique, few enough to be played again in a moment.
pub const RECORDS_MAX: usize = 200;

/// What a run was thought to be, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRecord {
    /// The run's id.
    pub run_id: String,
    /// What the run was, in words; for tables.
    pub label: String,
    /// What the model was given, moves included.
    pub gang: Gang,
    /// Whose moves they are, in the gang's order.
    pub vms: Vec<VmId>,
    /// What came, in the gang's order.
    pub outcomes: Vec<MoveOutcome>,
    /// First start to last end.
    pub total_seconds: f64,
    /// What was said before.
    pub forecast: Option<Said>,
    /// Share of the machine's CPU time that was busy.
    pub cpu_busy_ratio: Option<f64>,
    /// Kept to check forecasts by, not to learn from.
    #[serde(default)]
    pub held_out: bool,
}

/// How one move went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MoveOutcome {
    /// Whether it completed; nothing is learned from one that did not.
    pub completed: bool,
    /// Start to end.
    pub duration_seconds: f64,
    /// STOP to RESUME.
    pub downtime_seconds: Option<f64>,
    /// The longest silence that a client saw, where one listened.
    pub outage_seconds: Option<f64>,
    /// vCPU time in which it waited for pages, where QEMU counted.
    #[serde(default)]
    pub blocked_seconds: Option<f64>,
    /// Sent.
    pub bytes: f64,
    /// Passes.
    pub passes: u32,
    /// Its memory was split between two hosts, if that is known.
    #[serde(default)]
    pub exposure_seconds: Option<f64>,
}

impl MoveOutcome {
    /// Whether a play ended as the move did: by pre-copy or by post-copy. If not, its silences say nothing about the
    /// model's.
    fn ended_like(&self, course: &MoveCourse) -> bool {
        self.exposure_seconds.is_none_or(|seen| (seen > 0.0) == (course.exposure_seconds > 0.0))
    }
}

/// What was forecast for a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// First start to last end.
    pub total_seconds: Quantiles,
    /// By move.
    pub moves: Vec<SaidOfMove>,
}

/// What was forecast for a move.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SaidOfMove {
    /// Start to end.
    pub duration_seconds: Quantiles,
    /// STOP to RESUME.
    pub downtime_seconds: Quantiles,
    /// A client's longest silence.
    pub outage_seconds: Quantiles,
    /// vCPU time in which it waits for pages after a switch to post-copy.
    #[serde(default)]
    pub blocked_seconds: Option<Quantiles>,
}

/// What is forecast and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// The gang's first start to last end.
    Total,
    /// A move's start to end.
    Duration,
    /// STOP to RESUME.
    Downtime,
    /// A client's longest silence.
    Outage,
    /// vCPU time in which a post-copied guest waits for pages.
    Blocked,
}

/// How far forecasts of one kind were off: natural logarithms of outcome over forecast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Residual {
    /// Of what.
    pub quantity: Quantity,
    /// Of which technique; `None`: of a gang.
    pub technique: Option<Technique>,
    /// How many outcomes speak.
    pub count: u32,
    /// Median of the logarithm: what a forecast is corrected by, after shrinking.
    pub bias: f64,
    /// Standard deviation of the logarithm, from the median absolute deviation, before shrinking.
    pub spread: f64,
    /// The outcomes one by one.
    #[serde(default)]
    pub samples: Vec<Sample>,
}

/// What is known of these hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Calibration {
    /// Always `droveway/v1`.
    pub api_version: String,
    /// Always `Calibration`.
    pub kind: String,
    /// The constants.
    pub constants: Constants,
    /// How many moves speak for each constant, by its name.
    pub counts: std::collections::BTreeMap<String, u32>,
    /// The model's errors.
    pub residuals: Vec<Residual>,
    /// The runs that all this is from, the oldest first.
    pub records: Vec<RunRecord>,
}

impl Default for Calibration {
    fn default() -> Self {
        Calibration {
            api_version: droveway_fleet::document::API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            constants: Constants::PRIOR,
            counts: std::collections::BTreeMap::new(),
            residuals: Vec::new(),
            records: Vec::new(),
        }
    }
}

/// Before anything was learned: how far forecasts are off, as a standard deviation of the logarithm. Total time is
/// arithmetic on bytes; silences depend on what the guest does.
const fn prior_spread(quantity: Quantity) -> f64 {
    match quantity {
        Quantity::Total => 0.15,
        Quantity::Duration => 0.2,
        Quantity::Downtime => 0.4,
        Quantity::Outage | Quantity::Blocked => 0.6,
    }
}

/// A prior counts as so many outcomes.
const PRIOR_COUNT: f64 = 4.0;

/// What all moves of a technique taught counts as so many outcomes beside those that were alike.
const OTHERS_COUNT: f64 = 2.0;

/// Median absolute deviation to standard deviation, for a normal distribution.
const MAD_TO_SD: f64 = 1.4826;

/// Beyond so many standard deviations an error no longer pulls harder: a run on which something else happened must not
/// bend the constants.
const HUBER: f64 = 1.5;

/// Errors are weighed as parts of these standard deviations while fitting.
const FIT_SD: [f64; 3] = [0.05, 0.3, 0.4];

/// What it costs that a play ended by post-copy where the move did not, or the other way round: its silences cannot be
/// compared, and that must be no way out.
const OTHER_END: f64 = 4.0;

/// A constant of the prior moves by a factor of e at the cost of this many standard deviations.
const PRIOR_SD: f64 = 1.0;

/// Rounds of coordinate descent; constants act on different outcomes, so few are needed.
const ROUNDS: usize = 6;

/// So many records are fitted anew with each run; more are improved upon.
const REFITTED_MAX: usize = 60;

/// The first step of a search, as a logarithm, and how often it is halved.
const FIRST_STEP: f64 = 0.7;
const HALVINGS: usize = 6;

/// One constant that is learned.
struct Knob {
    name: &'static str,
    of: fn(&mut Constants) -> &mut f64,
    /// How far it may go from its prior, as a factor either way.
    reach: f64,
    /// Whether a move says anything about it.
    speaks: fn(&Gang, usize, &MoveOutcome) -> bool,
}

fn technique(gang: &Gang, index: usize) -> Technique {
    gang.moves[index].technique
}

fn is_precopy(gang: &Gang, index: usize) -> bool {
    matches!(technique(gang, index), Technique::PreCopy | Technique::StopAndCopy)
}

/// Whether elastic traffic shares a direction of the ports with the move.
fn meets_elastic(gang: &Gang) -> bool {
    gang.flows.iter().any(|flow| flow.demand.is_infinite())
}

const KNOBS: &[Knob] = &[
    Knob { name: "efficiency", of: |c| &mut c.efficiency, reach: 1.6, speaks: |_, _, _| true },
    Knob {
        name: "setupSeconds",
        of: |c| &mut c.setup_seconds,
        reach: 10.0,
        speaks: |_, _, _| true,
    },
    Knob {
        name: "streamWeight",
        of: |c| &mut c.stream_weight,
        reach: 20.0,
        speaks: |gang, _, _| meets_elastic(gang),
    },
    Knob {
        name: "reverseLoss",
        of: |c| &mut c.reverse_loss,
        reach: 4.0,
        speaks: |gang, _, _| meets_elastic(gang),
    },
    Knob {
        name: "dirtyInflation",
        of: |c| &mut c.dirty_inflation,
        reach: 3.0,
        speaks: |gang, index, outcome| {
            is_precopy(gang, index)
                && outcome.passes > 1
                && gang.vms[gang.moves[index].vm].curve.limit() > 0.0
        },
    },
    Knob {
        name: "switchSeconds",
        of: |c| &mut c.switch_seconds,
        reach: 10.0,
        speaks: |gang, index, _| is_precopy(gang, index),
    },
    Knob {
        name: "postcopySwitchSeconds",
        of: |c| &mut c.postcopy_switch_seconds,
        reach: 10.0,
        speaks: |gang, index, _| technique(gang, index).exposes(),
    },
    Knob {
        name: "announceSeconds",
        of: |c| &mut c.announce_seconds,
        reach: 10.0,
        speaks: |gang, index, outcome| is_precopy(gang, index) && outcome.outage_seconds.is_some(),
    },
    Knob {
        name: "essentialPages",
        of: |c| &mut c.essential_pages,
        reach: 20.0,
        speaks: |gang, index, outcome| {
            technique(gang, index) == Technique::PostCopy && outcome.outage_seconds.is_some()
        },
    },
    Knob {
        name: "essentialPagesHybrid",
        of: |c| &mut c.essential_pages_hybrid,
        reach: 50.0,
        speaks: |gang, index, outcome| {
            technique(gang, index) == Technique::Hybrid && outcome.outage_seconds.is_some()
        },
    },
    Knob {
        name: "faultQueueBytes",
        of: |c| &mut c.fault_queue_bytes,
        reach: 20.0,
        speaks: |gang, index, outcome| {
            technique(gang, index).exposes() && outcome.outage_seconds.is_some()
        },
    },
    Knob {
        name: "touchRatio",
        of: |c| &mut c.touch_ratio,
        reach: 20.0,
        speaks: |_, _, outcome| outcome.blocked_seconds.is_some(),
    },
    Knob {
        name: "faultSeconds",
        of: |c| &mut c.fault_seconds,
        reach: 10.0,
        // Where nothing stands in a queue before it, it is all that a page costs.
        speaks: |gang, index, outcome| {
            let source = gang.vms[gang.moves[index].vm].host;
            technique(gang, index).exposes()
                && gang.ports[source].tuned
                && outcome.outage_seconds.is_some()
        },
    },
    Knob {
        name: "zeroScanSecondsPerByte",
        of: |c| &mut c.zero_scan_seconds_per_byte,
        // It is the same on every host of these years; what else slows a pre-copy must not be taken for it.
        reach: 1.5,
        speaks: |gang, index, _| is_precopy(gang, index),
    },
    Knob {
        name: "postcopyZeroScanSecondsPerByte",
        of: |c| &mut c.postcopy_zero_scan_seconds_per_byte,
        reach: 10.0,
        speaks: |gang, index, _| technique(gang, index) == Technique::PostCopy,
    },
];

impl Calibration {
    /// Adds a run, forgets the oldest beyond [`RECORDS_MAX`], and fits again.
    pub fn learn(&mut self, record: RunRecord) {
        self.records.push(record);
        let surplus = self.records.len().saturating_sub(RECORDS_MAX);
        self.records.drain(..surplus);
        if self.records.last().is_some_and(|last| last.held_out) {
            return;
        }
        let records = std::mem::take(&mut self.records);
        // While a whole fit takes a moment only, the result does not depend on the order of the runs.
        *self = if records.len() <= REFITTED_MAX {
            Calibration::fitted(records)
        } else {
            Calibration::fitted_from(self.constants, records, 1)
        };
    }

    /// The calibration that `records` teach.
    #[must_use]
    pub fn fitted(records: Vec<RunRecord>) -> Self {
        Calibration::fitted_from(Constants::PRIOR, records, ROUNDS)
    }

    fn fitted_from(mut constants: Constants, records: Vec<RunRecord>, rounds: usize) -> Self {
        let mut plays = Plays::new(&records);
        let mut counts = std::collections::BTreeMap::new();
        let mut live = Vec::new();
        for knob in KNOBS {
            let count = plays.count(knob);
            counts.insert(knob.name.to_owned(), count);
            if count > 0 {
                live.push(knob);
            }
        }
        let mut best = plays.cost(&constants);
        for _ in 0..rounds {
            for knob in &live {
                best = plays.descend(knob, &mut constants, best);
            }
        }
        let residuals = plays.residuals(&constants);
        Calibration { constants, counts, residuals, records, ..Calibration::default() }
    }

    /// What a forecast of this kind is corrected by, and the standard deviation that it has then; logarithms. Few outcomes
    /// count little.
    #[must_use]
    pub fn error(&self, quantity: Quantity, technique: Option<Technique>) -> (f64, f64) {
        let prior = prior_spread(quantity);
        let known =
            self.residuals.iter().find(|r| r.quantity == quantity && r.technique == technique);
        let Some(known) = known else { return (0.0, prior) };
        let count = f64::from(known.count);
        let weight = count / (count + PRIOR_COUNT);
        let variance = weight * known.spread.powi(2) + (1.0 - weight) * prior.powi(2);
        // The median of few outcomes is uncertain itself.
        let of_bias = variance / (count + PRIOR_COUNT);
        (known.bias * weight, (variance + of_bias).sqrt())
    }

    /// The same for a forecast like `case`: what moves that were like it taught counts most, and where there are few of them
    /// what all others taught.
    #[must_use]
    pub fn error_like(
        &self,
        quantity: Quantity,
        technique: Option<Technique>,
        case: &Case,
    ) -> (f64, f64) {
        let (bias, spread) = self.error(quantity, technique);
        let known =
            self.residuals.iter().find(|r| r.quantity == quantity && r.technique == technique);
        let Some(heard) = known.and_then(|known| likeness::listen(&known.samples, case)) else {
            return (bias, spread);
        };
        let weight = heard.count / (heard.count + OTHERS_COUNT);
        let variance = weight * heard.spread.powi(2) + (1.0 - weight) * spread.powi(2);
        let of_bias = variance / (heard.count + OTHERS_COUNT);
        (weight * heard.bias + (1.0 - weight) * bias, (variance + of_bias).sqrt())
    }
}

/// The records, ready to be played with other constants.
struct Plays<'a> {
    records: Vec<&'a RunRecord>,
    gangs: Vec<Gang>,
    fluid: Fluid,
}

impl<'a> Plays<'a> {
    fn new(records: &'a [RunRecord]) -> Self {
        // A run with a move that failed says little of how long moves take.
        let usable = |record: &&RunRecord| {
            !record.held_out
                && record.outcomes.len() == record.gang.moves.len()
                && record.outcomes.iter().all(|outcome| outcome.completed)
        };
        let records: Vec<_> = records.iter().filter(usable).collect();
        let gangs = records.iter().map(|record| record.gang.clone()).collect();
        Plays { records, gangs, fluid: Fluid::default() }
    }

    fn count(&self, knob: &Knob) -> u32 {
        let all = self.records.iter().flat_map(|record| {
            record
                .outcomes
                .iter()
                .enumerate()
                .map(|(index, outcome)| (&record.gang, index, outcome))
        });
        let count =
            all.filter(|(gang, index, outcome)| (knob.speaks)(gang, *index, outcome)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn play(&mut self, index: usize, constants: &Constants) -> Course {
        self.gangs[index].constants = *constants;
        self.fluid.play(&self.gangs[index])
    }

    /// How badly the plays meet the outcomes, plus how far the constants are from their priors.
    fn cost(&mut self, constants: &Constants) -> f64 {
        let mut cost = 0.0;
        for index in 0..self.records.len() {
            let course = self.play(index, constants);
            let record = self.records[index];
            let [time, downtime, outage] = FIT_SD;
            cost += huber(log_ratio(record.total_seconds, course.total_seconds) / time);
            for (outcome, course) in record.outcomes.iter().zip(&course.moves) {
                let duration = log_ratio(outcome.duration_seconds, course.duration_seconds());
                cost += huber(duration / time);
                if !outcome.ended_like(course) {
                    cost += OTHER_END;
                    continue;
                }
                if let Some(seen) = outcome.downtime_seconds {
                    cost += huber(log_ratio(seen, course.downtime_seconds) / downtime);
                }
                if let Some(seen) = outcome.outage_seconds {
                    cost += huber(log_ratio(seen, course.outage_seconds) / outage);
                }
                if let Some(seen) = outcome.blocked_seconds {
                    cost += huber(log_ratio(seen, course.blocked_seconds) / outage);
                }
            }
        }
        let (mut now, mut prior) = (*constants, Constants::PRIOR);
        for knob in KNOBS {
            let moved = (*(knob.of)(&mut now) / *(knob.of)(&mut prior)).ln();
            cost += (moved / PRIOR_SD).powi(2);
        }
        cost
    }

    /// Moves one constant to where the cost is least, by ever smaller steps.
    fn descend(&mut self, knob: &Knob, constants: &mut Constants, mut best: f64) -> f64 {
        let mut prior = Constants::PRIOR;
        let prior = *(knob.of)(&mut prior);
        let (low, high) = (prior / knob.reach, prior * knob.reach);
        let mut step = FIRST_STEP.min(knob.reach.ln());
        for _ in 0..HALVINGS {
            for factor in [step.exp(), (-step).exp()] {
                let mut tried = *constants;
                let value = (knob.of)(&mut tried);
                *value = (*value * factor).clamp(low, high);
                let cost = self.cost(&tried);
                if cost < best {
                    best = cost;
                    *constants = tried;
                    break;
                }
            }
            step /= 2.0;
        }
        best
    }

    fn residuals(&mut self, constants: &Constants) -> Vec<Residual> {
        let mut all: std::collections::BTreeMap<(Quantity, Option<Technique>), Vec<Sample>> =
            std::collections::BTreeMap::new();
        for index in 0..self.records.len() {
            self.gangs[index].constants = *constants;
            let courses = ensemble::courses(&self.gangs[index], &[], &mut self.fluid);
            let record = self.records[index];
            let mut note = |quantity, technique, case, seen: Option<f64>, played| {
                if let Some(seen) = seen {
                    let log = log_ratio(seen, played);
                    all.entry((quantity, technique)).or_default().push(Sample { case, log });
                }
            };
            if let Some(case) = Case::of_gang(&record.gang) {
                let (total, _) = ensemble::centre(&courses, |course| course.total_seconds);
                note(Quantity::Total, None, case, Some(record.total_seconds), total);
            }
            for (step, outcome) in record.outcomes.iter().enumerate() {
                let planned = &record.gang.moves[step];
                let case = Case::of(&record.gang, planned);
                let alike: Vec<Course> = courses
                    .iter()
                    .filter(|course| outcome.ended_like(&course.moves[step]))
                    .cloned()
                    .collect();
                let Some(first) = alike.first() else { continue };
                let technique = Some(effective_technique(planned.technique, &first.moves[step]));
                let centre = |of: fn(&MoveCourse) -> f64| {
                    ensemble::centre(&alike, |course| of(&course.moves[step])).0
                };
                let mut note =
                    |quantity, seen, of| note(quantity, technique, case, seen, centre(of));
                let duration = Some(outcome.duration_seconds);
                note(Quantity::Duration, duration, MoveCourse::duration_seconds);
                note(Quantity::Downtime, outcome.downtime_seconds, |c| c.downtime_seconds);
                note(Quantity::Outage, outcome.outage_seconds, |c| c.outage_seconds);
                note(Quantity::Blocked, outcome.blocked_seconds, |c| c.blocked_seconds);
            }
        }
        let residual =
            |((quantity, technique), samples): ((Quantity, Option<Technique>), Vec<Sample>)| {
                let mut logs: Vec<f64> = samples.iter().map(|sample| sample.log).collect();
                let bias = median(&mut logs);
                let width = sorted_quantile(&logs, 0.9) - sorted_quantile(&logs, 0.1);
                let mut away: Vec<f64> = logs.iter().map(|log| (log - bias).abs()).collect();
                Residual {
                    quantity,
                    technique,
                    count: u32::try_from(logs.len()).unwrap_or(u32::MAX),
                    bias,
                    // Errors have tails: what one in ten exceeds is what an interval is about.
                    spread: (MAD_TO_SD * median(&mut away)).max(width / P10_TO_P90),
                    samples,
                }
            };
        all.into_iter().map(residual).collect()
    }
}

/// A hybrid that converges before it switches is a pre-copy, and errs like one.
#[must_use]
pub fn effective_technique(planned: Technique, course: &MoveCourse) -> Technique {
    match planned {
        Technique::Hybrid if course.converged => Technique::PreCopy,
        Technique::PreCopy if course.fell_back && course.exposure_seconds > 0.0 => {
            Technique::Hybrid
        }
        other => other,
    }
}

/// Shorter times than this are one: clocks and probes are not finer.
pub const SHORTEST_SECONDS: f64 = 0.005;

fn log_ratio(seen: f64, played: f64) -> f64 {
    (seen.max(SHORTEST_SECONDS) / played.max(SHORTEST_SECONDS)).ln()
}

fn huber(error: f64) -> f64 {
    let size = error.abs();
    if size <= HUBER { size * size } else { 2.0 * HUBER * size - HUBER * HUBER }
}

/// A quantile of sorted values; zero of nothing.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index of a short list"
)]
fn sorted_quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((share * last).round() as usize).copied().unwrap_or(0.0)
}

/// The median; zero of nothing.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n.is_multiple_of(2) => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests;
