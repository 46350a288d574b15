//! Forecasts with intervals: what a set of moves will take, as p10, p50 and p90.
//!
//! The centre is the median of an ensemble of plays of the fluid model, corrected by the median error of
//! the past. The width is what the model got wrong before (the spread of its past errors, see [`crate::calibration`]), or
//! what the ensemble's plays differ by where that is more: then little is known of these VMs. For the total time both are
//! counted together: errors of its moves add up in ways that few past gangs have shown (61 % of held-out outcomes were in
//! the narrower interval, 70 % are in this one).

use crate::{
    calibration::{Calibration, Case, Quantity, Said, SaidOfMove, effective_technique},
    ensemble,
    fluid::{Course, End, FlowModel, Fluid, Gang, MoveCourse, MoveEnd, MoveModel},
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
    /// vCPU time in which it waits for pages after a switch to post-copy: its brownout.
    pub blocked_seconds: Quantiles,
    /// Sent.
    pub bytes: Quantiles,
    /// Its memory is split between two hosts.
    pub exposure_seconds: Quantiles,
    /// Bytes that the VM's applications do not get: of all traffic that it sends or receives, whoever is in its way.
    /// Traffic between two VMs counts for both.
    pub lost_bytes: Quantiles,
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
    let lost = lost(&courses, spread, |course| course.lost_bytes);
    let flows = 0..central.flows.len();
    Forecast {
        total_seconds: total,
        lost_bytes: lost,
        moves: (0..moves.len())
            .map(|index| move_forecast(&gang, index, &courses, calibration, spread))
            .collect(),
        flow_lost_bytes: flows
            .map(|flow| ensemble::centre(&courses, |course| course.flows[flow].lost_bytes).0)
            .collect(),
    }
}

/// Losses below this are none, bytes: some plays have one and others do not, which makes no interval of a factor of thousands.
const LOST_LEAST: f64 = 1e5;

/// What is lost errs as the time does in which it is.
fn lost(courses: &[Course], spread: f64, of: impl Fn(&Course) -> f64) -> Quantiles {
    let (middle, _) = ensemble::centre(courses, &of);
    let (_, differs) = ensemble::centre(courses, |course| of(course).max(LOST_LEAST));
    around(middle, spread.hypot(differs))
}

/// What the flows of a VM lose.
fn lost_of(vm: usize, gang: &Gang, course: &Course) -> f64 {
    let own = |flow: &FlowModel| flow.from == End::Vm(vm) || flow.to == End::Vm(vm);
    let flows = gang.flows.iter().zip(&course.flows).filter(|(flow, _)| own(flow));
    // The sum of nothing is minus zero, which nobody wants to read.
    flows.map(|(_, flow)| flow.lost_bytes).sum::<f64>().max(0.0)
}

fn move_forecast(
    gang: &Gang,
    index: usize,
    courses: &[Course],
    calibration: &Calibration,
    gang_spread: f64,
) -> MoveForecast {
    let step = &gang.moves[index];
    let case = Case::of(gang, step);
    let central = &courses[courses.len() / 2].moves[index];
    let technique = likely_technique(step, index, courses);
    let centre = |of: fn(&MoveCourse) -> f64| ensemble::centre(courses, |c| of(&c.moves[index]));
    let quantiles = |quantity, of: fn(&MoveCourse) -> f64| {
        let (bias, spread) = calibration.error_like(quantity, Some(technique), &case);
        let (middle, differs) = centre(of);
        around(middle * bias.exp(), spread.max(differs))
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
        blocked_seconds: quantiles(Quantity::Blocked, |course| course.blocked_seconds),
        bytes: around(bytes, BYTES_SPREAD.hypot(differs)),
        exposure_seconds: quantiles(Quantity::Duration, |course| course.exposure_seconds),
        lost_bytes: lost(courses, gang_spread, |course| lost_of(step.vm, gang, course)),
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
            blocked_seconds: (forecast.blocked_seconds.p50 > 0.0)
                .then_some(forecast.blocked_seconds),
        };
        Said { total_seconds: self.total_seconds, moves: self.moves.iter().map(of_move).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fluid::{Constants, PortModel, Start, Tail, VmModel};
    use droveway_fleet::DirtyCurve;

    fn vm() -> VmModel {
        VmModel {
            host: 0,
            send_bytes: 200e6,
            zero_bytes: 0.0,
            tail: Tail::default(),
            curve: DirtyCurve::idle(),
            state_bytes: 0.0,
        }
    }

    fn step(vm: usize) -> MoveModel {
        MoveModel {
            vm,
            target: 1,
            technique: Technique::PreCopy,
            start: Start::InWindow(0),
            bandwidth: f64::INFINITY,
            postcopy_bandwidth: f64::INFINITY,
            switchover_bandwidth: 100e6,
            downtime_limit: 0.3,
            max_passes: 20,
            fallback_postcopy: false,
            switch_after_pass: 1,
            stalled_ratio: f64::INFINITY,
            weight: 1.0,
            throttle: false,
        }
    }

    /// Three VMs of one host: the first sends, the second talks with the first, the third is idle.
    fn forecast_of(demand: f64) -> Forecast {
        let flow = |from, to| FlowModel { from, to, demand, weight: 1.0 };
        let gang = Gang {
            ports: vec![PortModel::shared(100e6), PortModel::shared(100e6)],
            vms: vec![vm(), vm(), vm()],
            flows: vec![flow(End::Vm(0), End::Outside), flow(End::Vm(1), End::Vm(0))],
            constants: Constants::IDEAL,
            horizon: 1e6,
            ..Gang::default()
        };
        let world = World::named(gang, Vec::new(), Vec::new());
        let moves = [step(0), step(1), step(2)];
        forecast(&world, &moves, &[1], &Calibration::default(), &mut Fluid::default())
    }

    #[test]
    fn what_is_lost_is_said_of_each_vm() {
        let made = forecast_of(60e6);
        let of = |index: usize| made.moves[index].lost_bytes;
        let flows = &made.flow_lost_bytes;
        assert!(flows.iter().all(|lost| *lost > 1e6), "{flows:?}");
        // The median of a sum is near the sum of medians.
        assert!((of(0).p50 / (flows[0] + flows[1]) - 1.0).abs() < 0.1, "{:?} {flows:?}", of(0));
        assert!((of(1).p50 / flows[1] - 1.0).abs() < 1e-9, "what lies between two counts for both");
        assert!(of(2).p50 == 0.0 && of(2).p90 == 0.0, "it has no traffic");
        for lost in [of(0), of(1), made.lost_bytes] {
            assert!(lost.p10 < lost.p50 && lost.p50 < lost.p90, "{lost:?}");
        }
    }

    #[test]
    fn next_to_no_loss_makes_no_interval_of_thousands() {
        // So little traffic that some plays lose a few bytes of it and others none.
        let made = forecast_of(1e3);
        assert!(made.lost_bytes.p90 < 1e5, "{:?}", made.lost_bytes);
        let factor = made.lost_bytes.p90 / made.lost_bytes.p50.max(1e-9);
        assert!(made.lost_bytes.p50 == 0.0 || factor < 10.0, "{:?}", made.lost_bytes);
    }
}
