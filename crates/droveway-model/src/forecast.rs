//! Forecasts with intervals: what a set of moves will take, as p10, p50 and p90.
//!
//! The centre is one play of the fluid model, corrected by the median error of the past. The width has two sources, added
//! as variances of logarithms: what the model gets wrong (the spread of its past errors, see [`crate::calibration`]) and
//! what is not known of the VMs (the play repeated with dirty curves and sizes one standard error up and down).

use crate::{
    calibration::{Calibration, Quantity, Said, SaidOfMove, effective_technique},
    fluid::{Course, Fluid, Gang, MoveCourse, MoveEnd, MoveModel},
    world::{Uncertainty, World},
};
use droveway_fleet::report::Quantiles;
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
    let central = fluid.play(&gang);
    let above = fluid.play(&shifted(&gang, &world.uncertain, 1.0));
    let below = fluid.play(&shifted(&gang, &world.uncertain, -1.0));
    let unknown = |of: fn(&Course) -> f64| half_log_width(of(&below), of(&above));
    let (bias, spread) = calibration.error(Quantity::Total, None);
    let total_spread = spread.hypot(unknown(|course| course.total_seconds));
    let total = around(central.total_seconds * bias.exp(), total_spread);
    let loss_spread = total_spread.hypot(unknown(|course| course.lost_bytes));
    let moves = (0..moves.len())
        .map(|index| {
            let of = |course: &Course| course.moves[index];
            let all = [of(&below), of(&central), of(&above)];
            move_forecast(&moves[index], &all, calibration)
        })
        .collect();
    Forecast {
        total_seconds: total,
        lost_bytes: around(central.lost_bytes, loss_spread),
        moves,
        flow_lost_bytes: central.flows.iter().map(|flow| flow.lost_bytes).collect(),
    }
}

fn move_forecast(
    step: &MoveModel,
    [below, central, above]: &[MoveCourse; 3],
    calibration: &Calibration,
) -> MoveForecast {
    let technique = effective_technique(step.technique, central);
    let quantiles = |quantity, of: fn(&MoveCourse) -> f64| {
        let (bias, spread) = calibration.error(quantity, Some(technique));
        let unknown = half_log_width(of(below), of(above));
        around(of(central) * bias.exp(), spread.hypot(unknown))
    };
    let ends = match (central.end, central.fell_back) {
        (MoveEnd::Completed, false) => Ends::AsPlanned,
        (MoveEnd::Completed, true) => Ends::ByFallback,
        _ => Ends::NotAtAll,
    };
    let duration = quantiles(Quantity::Duration, MoveCourse::duration_seconds);
    // Bytes are the best known of all: what a first pass sends, and what is dirtied meanwhile.
    let bytes_spread = BYTES_SPREAD.hypot(half_log_width(below.bytes, above.bytes));
    let exposure = quantiles(Quantity::Duration, |course| course.exposure_seconds);
    MoveForecast {
        ends,
        start_seconds: central.start_seconds,
        duration_seconds: duration,
        downtime_seconds: quantiles(Quantity::Downtime, |course| course.downtime_seconds),
        outage_seconds: quantiles(Quantity::Outage, |course| course.outage_seconds),
        bytes: around(central.bytes, bytes_spread),
        exposure_seconds: exposure,
        passes: central.passes,
    }
}

/// How far a stream's bytes are off when everything else is known: headers of pages, retransmitted control messages.
const BYTES_SPREAD: f64 = 0.02;

/// Half the distance of two results as logarithms: one standard deviation, since they are one standard error either way.
fn half_log_width(below: f64, above: f64) -> f64 {
    const LEAST: f64 = 1e-3;
    ((above.max(LEAST)).ln() - (below.max(LEAST)).ln()).abs() / 2.0
}

/// The gang with every curve and size so many standard errors off.
fn shifted(gang: &Gang, uncertain: &[Uncertainty], errors: f64) -> Gang {
    let mut gang = gang.clone();
    for (vm, uncertain) in gang.vms.iter_mut().zip(uncertain) {
        vm.curve = vm.curve.sped_up((errors * uncertain.curve.min(CURVE_ERROR_MAX)).exp());
        let sent = vm.send_bytes * (errors * uncertain.send).exp();
        vm.zero_bytes = (vm.zero_bytes + vm.send_bytes - sent).max(0.0);
        vm.send_bytes = sent;
    }
    gang
}

/// A curve that is less certain than this is unknown: a factor of e either way.
const CURVE_ERROR_MAX: f64 = 1.0;

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
