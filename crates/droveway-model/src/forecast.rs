//! Forecasts with intervals: what a set of moves will take, as p10, p50 and p90.
//!
//! The centre is the median of an ensemble of plays of the fluid model, corrected by the median error of
//! the past. The width is what the model got wrong before (the spread of its past errors, see [`crate::calibration`]), or
//! what the ensemble's plays differ by where that is more: then little is known of these VMs.

use crate::{
    calibration::{Calibration, Case, Quantity, Said, SaidOfMove, effective_technique},
    ensemble,
    fluid::{Course, Fluid, Gang, MoveCourse, MoveEnd, MoveModel},
    world::World,
};
use droveway_fleet::{Technique, report::Quantiles};
use serde::{Deserialize, Serialize};

/// What a gang's moves will take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    /// First start to last end.
    pub total_seconds: Quantiles,
    /// Bytes that applications do not get.
    pub lost_bytes: Quantiles,
    /// By move, in their order.
    pub moves: Vec<MoveForecast>,
    /// By flow of the world: bytes that it does not get.
    pub flow_lost_bytes: Vec<f64>,
}

/// What one move will take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MoveForecast {
    /// How it will end.
    pub ends: Ends,
    /// When it will start.
    pub start_seconds: f64,
    /// Start to end.
    pub duration_seconds: Quantiles,
    /// STOP to RESUME.
    pub downtime_seconds: Quantiles,
    /// A client's longest silence.
    pub outage_seconds: Quantiles,
    /// Sent.
    pub bytes: Quantiles,
    /// Its memory is split between two hosts.
    pub exposure_seconds: Quantiles,
    /// Passes.
    pub passes: u32,
}

/// How a move will end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ends {
    /// As its technique does.
    AsPlanned,
    /// Pre-copy does not converge; post-copy ends it.
    ByFallback,
    /// Pre-copy does not converge, and post-copy is not allowed: the VM stays.
    NotAtAll,
}

/// One in ten of a normal distribution is below minus so many standard deviations.
const P10: f64 = 1.281_6;

/// Loss and bytes err as the time does in which they happen.
fn around(centre: f64, spread: f64) -> Quantiles {
    let factor = (P10 * spread).exp();
    Quantiles { p10: centre / factor, p50: centre, p90: centre * factor }
}

/// Forecasts `moves` in `world`.
#[must_use]
pub fn forecast(
    world: &World,
    moves: &[MoveModel],
    windows: &[usize],
    calibration: &Calibration,
    fluid: &mut Fluid,
) -> Forecast {
    let mut gang = world.gang.clone();
    gang.moves = moves.to_vec();
    gang.windows = windows.to_vec();
    gang.constants = calibration.constants;
    let courses = ensemble::courses(&gang, &world.uncertain, fluid);
    let central = &courses[courses.len() / 2];
    let (bias, spread) = match Case::of_gang(&gang) {
        Some(case) => calibration.error_like(Quantity::Total, None, &case),
        None => calibration.error(Quantity::Total, None),
    };
    let (total, differs) = ensemble::centre(&courses, |course| course.total_seconds);
    let total = around(total * bias.exp(), spread.hypot(differs));
    let (lost, differs) = ensemble::centre(&courses, |course| course.lost_bytes);
    let flows = 0..central.flows.len();
    Forecast {
        total_seconds: total,
        lost_bytes: around(lost, spread.hypot(differs)),
        moves: (0..moves.len())
            .map(|index| move_forecast(&gang, index, &courses, calibration))
            .collect(),
        flow_lost_bytes: flows
            .map(|flow| ensemble::centre(&courses, |course| course.flows[flow].lost_bytes).0)
            .collect(),
    }
}

fn move_forecast(
    gang: &Gang,
    index: usize,
    courses: &[Course],
    calibration: &Calibration,
) -> MoveForecast {
    let step = &gang.moves[index];
    let case = Case::of(gang, step);
    let central = &courses[courses.len() / 2].moves[index];
    let technique = likely_technique(step, index, courses);
    let centre = |of: fn(&MoveCourse) -> f64| ensemble::centre(courses, |c| of(&c.moves[index]));
    let quantiles = |quantity, of: fn(&MoveCourse) -> f64| {
        let (bias, spread) = calibration.error_like(quantity, Some(technique), &case);
        let (middle, differs) = centre(of);
        around(middle * bias.exp(), spread.hypot(differs))
    };
    let ends = match (central.end, central.fell_back) {
        (MoveEnd::Completed, false) => Ends::AsPlanned,
        (MoveEnd::Completed, true) => Ends::ByFallback,
        _ => Ends::NotAtAll,
    };
    // Bytes are the best known of all: what a first pass sends, and what is dirtied meanwhile.
    let (bytes, differs) = centre(|course| course.bytes);
    MoveForecast {
        ends,
        start_seconds: central.start_seconds,
        duration_seconds: quantiles(Quantity::Duration, MoveCourse::duration_seconds),
        downtime_seconds: quantiles(Quantity::Downtime, |course| course.downtime_seconds),
        outage_seconds: quantiles(Quantity::Outage, |course| course.outage_seconds),
        bytes: around(bytes, BYTES_SPREAD.hypot(differs)),
        exposure_seconds: quantiles(Quantity::Duration, |course| course.exposure_seconds),
        passes: central.passes,
    }
}

/// What the move turns out to be in most plays: a hybrid that converges is a pre-copy.
fn likely_technique(step: &MoveModel, index: usize, courses: &[Course]) -> Technique {
    let of = |course: &Course| effective_technique(step.technique, &course.moves[index]);
    let same = |technique: Technique| courses.iter().filter(|c| of(c) == technique).count();
    Technique::ALL.into_iter().max_by_key(|technique| same(*technique)).unwrap_or(step.technique)
}

/// How far a stream's bytes are off when everything else is known: headers of pages, retransmitted control messages.
const BYTES_SPREAD: f64 = 0.02;

impl Forecast {
    /// What is kept of it beside the outcome.
    #[must_use]
    pub fn said(&self) -> Said {
        let of_move = |forecast: &MoveForecast| SaidOfMove {
            duration_seconds: forecast.duration_seconds,
            downtime_seconds: forecast.downtime_seconds,
            outage_seconds: forecast.outage_seconds,
        };
        Said { total_seconds: self.total_seconds, moves: self.moves.iter().map(of_move).collect() }
    }
}
