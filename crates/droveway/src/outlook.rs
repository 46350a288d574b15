//! What a plan is forecast to take, from a snapshot and what was learned; and, after the run, what is learned from it.

use crate::{exit::Failure, state};
use droveway_fleet::{
    Fleet, HostId, RunReport, Snapshot, VmId,
    report::{GangPrediction, MoveResult, VmPrediction},
};
use droveway_model::{
    calibration::{Calibration, MoveOutcome, RunRecord},
    fluid::{Course, Fluid, Gang, Trace},
    forecast::{Forecast, forecast},
    world::World,
};
use droveway_plan::{Known, Plan, play, reserve};
use std::path::{Path, PathBuf};

/// What is known before a plan is made: the world of a snapshot, and what earlier runs taught.
#[derive(Debug, Clone)]
pub(crate) struct Knowledge {
    calibration: Calibration,
    path: PathBuf,
    world: World,
}

impl Knowledge {
    /// What is known of these VMs, which are on `source` now.
    pub(crate) fn of<'a>(
        vms: impl Iterator<Item = &'a VmId>,
        source: &HostId,
        snapshot: &Snapshot,
        fleet: &Fleet,
        calibration: Option<&Path>,
        reserved: Option<f64>,
    ) -> Result<Self, Failure> {
        let path = state::calibration_path(fleet, calibration);
        let calibration = state::calibration(&path)?;
        let snapshot = relocated(snapshot, vms, source);
        let mut world = World::of(&snapshot, calibration.constants);
        if let Some(share) = reserved {
            hold(&mut world, share);
        }
        Ok(Knowledge { calibration, path, world })
    }

    /// For a planner.
    pub(crate) fn known(&self) -> Known<'_> {
        Known { world: &self.world, calibration: &self.calibration }
    }

    /// The forecast of `plan`; an error says why there can be none.
    pub(crate) fn outlook(self, plan: &Plan) -> Result<Outlook, Failure> {
        let Knowledge { calibration, path, mut world } = self;
        reserve::shape(&mut world, plan);
        let (moves, windows) = play::moves(plan, &world).map_err(|error| {
            Failure::usage(error.to_string()).hint("measure again: `droveway measure`")
        })?;
        let forecast = forecast(&world, &moves, &windows, &calibration, &mut Fluid::default());
        let mut gang = world.gang;
        gang.moves = moves;
        gang.windows = windows;
        Ok(Outlook { calibration, path, gang, forecast })
    }
}

/// A plan's forecast, and what it was made from.
#[derive(Debug)]
pub(crate) struct Outlook {
    calibration: Calibration,
    path: PathBuf,
    /// What the model was given.
    gang: Gang,
    pub(crate) forecast: Forecast,
}

impl Outlook {
    /// What the model was given.
    pub(crate) const fn gang(&self) -> &Gang {
        &self.gang
    }

    /// One play of the plan, with the figures as they were measured, and what it looks like over time.
    pub(crate) fn trace(&self) -> (Course, Trace) {
        Fluid::default().trace(&self.gang)
    }

    /// Puts the forecast beside the outcome.
    pub(crate) fn tell(&self, report: &mut RunReport) {
        report.predicted = Some(GangPrediction {
            total_migration_time_seconds: self.forecast.total_seconds,
            lost_bytes: self.forecast.lost_bytes,
        });
        for (vm, said) in report.vms.iter_mut().zip(&self.forecast.moves) {
            vm.predicted = Some(VmPrediction {
                duration_seconds: said.duration_seconds,
                downtime_seconds: said.downtime_seconds,
                outage_seconds: said.outage_seconds,
                blocked_seconds: (said.blocked_seconds.p50 > 0.0).then_some(said.blocked_seconds),
                migrated_bytes: said.bytes,
            });
        }
    }

    /// Learns from the outcome, and keeps what was learned.
    pub(crate) fn learn(mut self, report: &RunReport, held_out: bool) -> Result<(), Failure> {
        let outcome = |vm: &droveway_fleet::report::VmReport| MoveOutcome {
            completed: vm.result == MoveResult::Completed,
            duration_seconds: vm
                .start_seconds
                .zip(vm.end_seconds)
                .map_or(0.0, |(start, end)| end - start),
            downtime_seconds: vm.downtime_seconds,
            outage_seconds: vm.outage_seconds,
            blocked_seconds: vm.blocked_seconds,
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            bytes: vm.migrated_bytes as f64,
            passes: vm.passes,
            exposure_seconds: Some(vm.exposure_seconds),
        };
        self.calibration.learn(RunRecord {
            run_id: report.run_id.clone(),
            label: label(report),
            vms: report.vms.iter().map(|vm| vm.name.clone()).collect(),
            outcomes: report.vms.iter().map(outcome).collect(),
            total_seconds: report.total_migration_time_seconds,
            forecast: Some(self.forecast.said()),
            cpu_busy_ratio: report.cpu_busy_ratio,
            held_out,
            gang: self.gang,
        });
        state::keep_calibration(&self.calibration, &self.path)
    }
}

/// What a run was, in words.
fn label(report: &RunReport) -> String {
    let own = report.intent.techniques.iter().map(|(vm, own)| format!(" {vm}={own}"));
    format!("{}{} x{}", report.policy, own.collect::<String>(), report.vms.len())
}

/// The snapshot with these VMs where they are now: VMs may have moved since it was taken, and take their traffic and their
/// memory along.
pub(crate) fn relocated<'a>(
    snapshot: &Snapshot,
    vms: impl Iterator<Item = &'a VmId>,
    host: &HostId,
) -> Snapshot {
    let mut snapshot = snapshot.clone();
    for name in vms {
        if let Some(vm) = snapshot.vms.iter_mut().find(|vm| vm.name == *name) {
            vm.host = host.clone();
        }
    }
    snapshot
}

/// Reserves a share of every port, both directions, for migration.
pub(crate) fn hold(world: &mut World, share: f64) {
    for port in &mut world.gang.ports {
        port.tx_reserved = port.tx * share;
        port.rx_reserved = port.rx * share;
    }
}
