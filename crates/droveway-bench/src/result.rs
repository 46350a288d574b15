//! What came of a cell: from the report of a run to flat rows, and whether the run counts.
//!
//! A run that does not count (`invalid`) is one that measured something else: the machine's CPU, an application or a probe
//! that had died. It is kept, counted and made again. A run that failed to move its VMs counts: that is a result.

use crate::{cells::Cell, stats};
use droveway_fleet::{
    RunReport,
    report::{ApplicationReport, CPU_SATURATED, MoveResult, Quantiles, VmReport},
};
use serde::{Deserialize, Serialize};

/// Everything that was tried for one cell; the last attempt is the one that counts, if it is valid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CellResult {
    /// The cell.
    pub cell: Cell,
    /// Its place in the order of the suite, from 1.
    pub place: usize,
    /// What was tried, in order; at least one.
    pub attempts: Vec<Attempt>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Why it does not count; empty: it does.
    pub invalid: Vec<String>,
    /// The command's exit code.
    pub exit_code: Option<i32>,
    /// What the run as a whole was; `None` if it left no report.
    pub run: Option<RunRow>,
    /// Of each VM.
    pub vms: Vec<VmRow>,
    /// Of each application.
    pub applications: Vec<ApplicationRow>,
}

impl CellResult {
    /// The attempt that counts.
    #[must_use]
    pub fn counted(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|attempt| attempt.invalid.is_empty())
    }

    /// The run that counts.
    #[must_use]
    pub fn run(&self) -> Option<&RunRow> {
        self.counted()?.run.as_ref()
    }

    /// The run that counts, if it moved every VM: only such runs have comparable times.
    #[must_use]
    pub fn moved(&self) -> Option<&RunRow> {
        self.run().filter(|run| run.completed == run.vms)
    }
}

/// A run in one row. Times are seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRow {
    /// The wall clock at its start.
    pub started_at: String,
    /// `kvm`, `tcg` or `simulated`.
    pub accelerator: String,
    /// QEMU's version.
    pub qemu_version: String,
    /// The kernel's version.
    pub kernel_version: String,
    /// VMs that were to move.
    pub vms: usize,
    /// Of them, moved.
    pub completed: usize,
    /// Of them, lost or in need of recovery.
    pub lost_vms: usize,
    /// First start to last completion.
    pub total_seconds: f64,
    /// What had to be sent, once, over what the port carries.
    pub line_rate_seconds: f64,
    /// From the first start until the source holds nothing.
    pub eviction_seconds: Option<f64>,
    /// The rate of the slower of both ports, bits per second.
    pub port_bits_per_second: u64,
    /// Bytes that QEMU sent.
    pub migrated_bytes: u64,
    /// Bytes that had to be sent, each page once.
    pub needed_bytes: u64,
    /// Bytes on the source's wire.
    pub wire_bytes: Option<u64>,
    /// Bytes that traffic did not get.
    pub lost_bytes: u64,
    /// The same in seconds of the port: what makes rates comparable.
    pub lost_port_seconds: f64,
    /// Requests that were not answered in time.
    pub lost_requests: u64,
    /// Mean over the VMs' traffic of what was lost of each stream's rate.
    pub loss_ratio: Option<f64>,
    /// The slowdown of computing inside the VMs: mean loss of services and memory loads.
    pub slowdown_ratio: Option<f64>,
    /// The longest downtime of a VM.
    pub worst_downtime_seconds: Option<f64>,
    /// The longest silence of a VM that a client outside saw.
    pub worst_outage_seconds: Option<f64>,
    /// Sum of the VMs' silences.
    pub outage_seconds: Option<f64>,
    /// Sum of times in which memory was split between hosts.
    pub exposure_seconds: f64,
    /// Of the whole machine.
    pub cpu_busy_ratio: Option<f64>,
    /// The middle over VMs of their streams' median round trips, milliseconds; `None` where nobody looked.
    pub path_rtt_ms: Option<f64>,
    /// Segments that all streams sent again.
    pub path_retransmits: Option<u64>,
    /// Of the controller, of one core.
    pub controller_core_ratio: f64,
    /// Changes of the plan while it ran, and notes of fallbacks.
    pub decisions: usize,
    /// The forecast of the total time: one in ten is below.
    pub predicted_seconds_p10: Option<f64>,
    /// Half are below.
    pub predicted_seconds_p50: Option<f64>,
    /// Nine in ten are below.
    pub predicted_seconds_p90: Option<f64>,
    /// The forecast of lost bytes: half are below.
    pub predicted_lost_bytes_p50: Option<f64>,
}

/// A VM of a run in one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmRow {
    /// The VM.
    pub vm: String,
    /// The technique that the plan gave it.
    pub technique: String,
    /// What moved it in the end, if that was another.
    pub fallback: Option<String>,
    /// How it ended.
    pub result: String,
    /// Why, when it did not complete.
    pub reason: Option<String>,
    /// When it started.
    pub start_seconds: Option<f64>,
    /// When it ended.
    pub end_seconds: Option<f64>,
    /// STOP to RESUME.
    pub downtime_seconds: Option<f64>,
    /// What QEMU calls downtime.
    pub qemu_downtime_seconds: Option<f64>,
    /// The longest silence.
    pub outage_seconds: Option<f64>,
    /// Sent for it.
    pub migrated_bytes: u64,
    /// Had to be sent.
    pub needed_bytes: u64,
    /// Sweeps over its memory.
    pub passes: u32,
    /// Memory split between hosts.
    pub exposure_seconds: f64,
    /// Pages that it waited for.
    pub postcopy_requests: u64,
    /// How long all its vCPUs waited for pages.
    pub blocked_seconds: Option<f64>,
    /// The forecast's middle of its duration.
    pub predicted_seconds_p50: Option<f64>,
    /// The forecast's middle of its downtime.
    pub predicted_downtime_p50: Option<f64>,
    /// The forecast's middle of its outage.
    pub predicted_outage_p50: Option<f64>,
}

/// An application of a run in one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationRow {
    /// Its name.
    pub application: String,
    /// What it is.
    pub kind: String,
    /// Where its data comes from.
    pub from: String,
    /// Where its data goes.
    pub to: String,
    /// The unit of the rates.
    pub unit: String,
    /// Mean rate before.
    pub before: Option<f64>,
    /// Mean rate during.
    pub during: Option<f64>,
    /// Mean rate after.
    pub after: Option<f64>,
    /// What was lost of its rate.
    pub loss_ratio: Option<f64>,
    /// Payload that did not arrive.
    pub lost_bytes: Option<u64>,
    /// Requests or operations that were not done.
    pub lost_requests: Option<u64>,
    /// Latencies, milliseconds, for requests.
    pub p50_before_ms: Option<f64>,
    /// The same during.
    pub p50_during_ms: Option<f64>,
    /// 99th percentile before.
    pub p99_before_ms: Option<f64>,
    /// The same during.
    pub p99_during_ms: Option<f64>,
    /// 99.9th percentile before.
    pub p999_before_ms: Option<f64>,
    /// The same during.
    pub p999_during_ms: Option<f64>,
}

/// How the reason of a run begins whose world did not change as its scenario says.
pub const NO_CHANGE: &str = "a change was not made: ";

/// An application that had less than this share of its rate after the run, and none during its last part, has died.
const ALIVE_AFTER: f64 = 0.02;

impl Attempt {
    /// A run that left a report. `probed`: each VM has a probe.
    #[must_use]
    pub fn of(report: &RunReport, exit_code: Option<i32>, probed: bool) -> Self {
        Attempt {
            invalid: invalid(report, probed),
            exit_code,
            run: Some(run_row(report)),
            vms: report.vms.iter().map(vm_row).collect(),
            applications: report.applications.iter().map(application_row).collect(),
        }
    }

    /// Does not count, since its world did not change as its scenario says.
    pub fn lacks_a_change(&mut self, why: &str) {
        self.invalid.push(format!("{NO_CHANGE}{why}"));
    }

    /// A run that left none, and why.
    #[must_use]
    pub fn without_report(exit_code: Option<i32>, why: &str) -> Self {
        Attempt {
            invalid: vec![why.to_owned()],
            exit_code,
            run: None,
            vms: Vec::new(),
            applications: Vec::new(),
        }
    }
}

/// Why a run measured something else than moving.
fn invalid(report: &RunReport, probed: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(busy) = report.cpu_busy_ratio.filter(|busy| *busy > CPU_SATURATED) {
        reasons.push(format!("the CPUs were {:.0} % busy", 100.0 * busy));
    }
    for app in &report.applications {
        match (app.before, app.after) {
            (None, _) => reasons.push(format!("{} gave no figures before", app.name)),
            // An application that did nothing from the start has nothing to die of.
            (Some(before), after) if before > 0.0 => {
                if after.is_none_or(|after| after < ALIVE_AFTER * before) {
                    reasons.push(format!("{} died", app.name));
                }
            }
            _ => reasons.push(format!("{} did nothing before", app.name)),
        }
    }
    if probed {
        let moved = report.vms.iter().filter(|vm| vm.result == MoveResult::Completed);
        for vm in moved.filter(|vm| vm.outage_seconds.is_none()) {
            reasons.push(format!("the probe of {} was lost", vm.name));
        }
    }
    reasons
}

fn run_row(report: &RunReport) -> RunRow {
    let count =
        |wanted: &[MoveResult]| report.vms.iter().filter(|vm| wanted.contains(&vm.result)).count();
    let most = |of: fn(&VmReport) -> Option<f64>| report.vms.iter().filter_map(of).reduce(f64::max);
    let port = report.ports.iter().map(|port| port.capacity_bits_per_second).min().unwrap_or(0);
    let lost_bytes = report.lost_network_bytes();
    let outages: Vec<f64> = report.vms.iter().filter_map(|vm| vm.outage_seconds).collect();
    let paths = || report.vms.iter().filter_map(|vm| vm.path);
    let predicted = report.predicted.as_ref().map(|of| of.total_migration_time_seconds);
    #[expect(clippy::cast_precision_loss, reason = "bytes and rates of a run are below 2^53")]
    let lost_port_seconds = if port > 0 { lost_bytes as f64 * 8.0 / port as f64 } else { 0.0 };
    RunRow {
        started_at: report.started_at.clone(),
        accelerator: report.accelerator.clone(),
        qemu_version: report.qemu_version.clone(),
        kernel_version: report.kernel_version.clone(),
        vms: report.vms.len(),
        completed: count(&[MoveResult::Completed]),
        lost_vms: count(&[MoveResult::Lost, MoveResult::NeedsRecovery]),
        total_seconds: report.total_migration_time_seconds,
        line_rate_seconds: report.line_rate_seconds,
        eviction_seconds: report.eviction_time_seconds,
        port_bits_per_second: port,
        migrated_bytes: report.migrated_bytes,
        needed_bytes: report.vms.iter().map(|vm| vm.needed_bytes).sum(),
        wire_bytes: report.wire_bytes,
        lost_bytes,
        lost_port_seconds,
        lost_requests: report
            .applications
            .iter()
            .filter(|app| app.is_traffic())
            .filter_map(|app| app.lost_requests)
            .sum(),
        loss_ratio: mean_loss(report, ApplicationReport::is_traffic),
        slowdown_ratio: mean_loss(report, |app| !app.is_traffic()),
        worst_downtime_seconds: most(|vm| vm.downtime_seconds),
        worst_outage_seconds: most(|vm| vm.outage_seconds),
        outage_seconds: (!outages.is_empty()).then(|| outages.iter().sum()),
        exposure_seconds: report.vms.iter().map(|vm| vm.exposure_seconds).sum(),
        cpu_busy_ratio: report.cpu_busy_ratio,
        path_rtt_ms: stats::median(&paths().map(|path| path.rtt_ms.p50).collect::<Vec<_>>()),
        path_retransmits: paths().map(|path| path.retransmits).reduce(|one, other| one + other),
        controller_core_ratio: report.controller.cpu_core_ratio,
        decisions: report.decisions.len(),
        predicted_seconds_p10: predicted.map(|of| of.p10),
        predicted_seconds_p50: predicted.map(|of| of.p50),
        predicted_seconds_p90: predicted.map(|of| of.p90),
        predicted_lost_bytes_p50: report.predicted.as_ref().map(|of| of.lost_bytes.p50),
    }
}

fn mean_loss(report: &RunReport, of: impl Fn(&ApplicationReport) -> bool) -> Option<f64> {
    let losses: Vec<f64> =
        report.applications.iter().filter(|app| of(app)).filter_map(|app| app.loss_ratio).collect();
    #[expect(clippy::cast_precision_loss, reason = "some dozen applications")]
    let count = losses.len() as f64;
    (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / count)
}

fn vm_row(vm: &VmReport) -> VmRow {
    let middle = |of: fn(&droveway_fleet::report::VmPrediction) -> Quantiles| {
        vm.predicted.as_ref().map(|predicted| of(predicted).p50)
    };
    VmRow {
        vm: vm.name.to_string(),
        technique: vm.technique.name().to_owned(),
        fallback: vm.fallback_taken.map(|technique| technique.name().to_owned()),
        result: vm.result.name().to_owned(),
        reason: vm.reason.clone(),
        start_seconds: vm.start_seconds,
        end_seconds: vm.end_seconds,
        downtime_seconds: vm.downtime_seconds,
        qemu_downtime_seconds: vm.qemu_downtime_seconds,
        outage_seconds: vm.outage_seconds,
        migrated_bytes: vm.migrated_bytes,
        needed_bytes: vm.needed_bytes,
        passes: vm.passes,
        exposure_seconds: vm.exposure_seconds,
        postcopy_requests: vm.postcopy_requests,
        blocked_seconds: vm.blocked_seconds,
        predicted_seconds_p50: middle(|of| of.duration_seconds),
        predicted_downtime_p50: middle(|of| of.downtime_seconds),
        predicted_outage_p50: middle(|of| of.outage_seconds),
    }
}

fn application_row(app: &ApplicationReport) -> ApplicationRow {
    ApplicationRow {
        application: app.name.to_string(),
        kind: app.kind.clone(),
        from: app.from.to_string(),
        to: app.to.to_string(),
        unit: app.unit.clone(),
        before: app.before,
        during: app.during,
        after: app.after,
        loss_ratio: app.loss_ratio,
        lost_bytes: app.lost_bytes,
        lost_requests: app.lost_requests,
        p50_before_ms: app.p50_before_ms,
        p50_during_ms: app.p50_during_ms,
        p99_before_ms: app.p99_before_ms,
        p99_during_ms: app.p99_during_ms,
        p999_before_ms: app.p999_before_ms,
        p999_during_ms: app.p999_during_ms,
    }
}

#[cfg(test)]
pub(crate) mod tests;
