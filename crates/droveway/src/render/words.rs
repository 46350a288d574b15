//! Figures and sentences that several renderings share.

use droveway_fleet::{
    Bandwidth, Bytes, RunReport,
    report::{ApplicationReport, MoveResult, Reservation, VmReport},
};

/// A missing figure.
pub(super) const NONE: &str = "-";

pub(super) fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| format!("{value:.2} s"))
}

pub(super) fn milliseconds(value: Option<f64>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| format!("{:.0} ms", value * 1000.0))
}

pub(super) fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| format!("{:.0} %", value * 100.0))
}

pub(super) fn latency(value: Option<f64>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| format!("{value:.1} ms"))
}

pub(super) fn bytes(value: u64) -> String {
    Bytes::new(value).human()
}

/// A rate in its own unit, with three significant digits.
pub(super) fn rate(value: Option<f64>) -> String {
    value.map_or_else(
        || NONE.to_owned(),
        |value| match value {
            v if v >= 100.0 => format!("{v:.0}"),
            v if v >= 10.0 => format!("{v:.1}"),
            v => format!("{v:.2}"),
        },
    )
}

/// What an application did not get done.
pub(super) fn lost(app: &ApplicationReport) -> String {
    match (app.lost_bytes, app.lost_requests) {
        (Some(amount), _) if app.is_traffic() => bytes(amount),
        // Bytes of another kind, not to be added to those above and below.
        (Some(amount), _) => format!("{} not written", bytes(amount)),
        (None, Some(amount)) => format!("{amount} {}", app.unit.trim_end_matches("/s")),
        (None, None) => NONE.to_owned(),
    }
}

/// The technique, and the fallback if one was taken.
pub(super) fn technique(vm: &VmReport) -> String {
    match vm.fallback_taken {
        Some(fallback) => format!("{} -> {fallback}", vm.technique),
        None => vm.technique.to_string(),
    }
}

pub(super) fn duration(vm: &VmReport) -> Option<f64> {
    Some(vm.end_seconds? - vm.start_seconds?)
}

/// The run's time over the time that its bytes need at line rate.
pub(super) fn line_rate_ratio(report: &RunReport) -> Option<f64> {
    (report.line_rate_seconds > 0.0)
        .then(|| report.total_migration_time_seconds / report.line_rate_seconds)
}

/// What the ports promised to the moves, in the direction of their streams; `None` if nothing.
pub(super) fn held(report: &RunReport) -> Option<String> {
    let forward = |of: &&Reservation| {
        (of.host == report.intent.source && of.direction == "tx")
            || (of.host == report.intent.target && of.direction == "rx")
    };
    let text: Vec<String> = report
        .reservations
        .iter()
        .filter(forward)
        .map(|of| {
            let rate = Bandwidth::from_bits_per_second(of.bits_per_second).human();
            format!("{rate} of {} {}", of.host, of.direction)
        })
        .collect();
    (!text.is_empty()).then(|| text.join(", "))
}

/// The policy, and what the operator chose over it.
pub(super) fn policy(report: &RunReport) -> String {
    let own = report.intent.techniques.iter().map(|(vm, own)| format!(", {vm}={own}"));
    report.policy.clone() + &own.collect::<String>()
}

/// When the first VM started, seconds from the run's start.
pub(super) fn first_start(report: &RunReport) -> f64 {
    let starts = report.vms.iter().filter_map(|vm| vm.start_seconds);
    starts.filter(|at| at.is_finite()).min_by(f64::total_cmp).unwrap_or(0.0)
}

/// A start within so much of the run's own is no wait: no plan waits for less, and commands to QEMU take their time.
const WAIT_MIN: f64 = 0.9;

/// How long the run waited for a better time, seconds; `None`: it began at once.
pub(super) fn waited(report: &RunReport) -> Option<f64> {
    Some(first_start(report)).filter(|wait| *wait >= WAIT_MIN)
}

fn worst(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    values.flatten().max_by(f64::total_cmp)
}

pub(super) fn worst_downtime(report: &RunReport) -> Option<f64> {
    worst(report.vms.iter().map(|vm| vm.downtime_seconds))
}

pub(super) fn worst_outage(report: &RunReport) -> Option<f64> {
    worst(report.vms.iter().map(|vm| vm.outage_seconds))
}

pub(super) fn moved(report: &RunReport) -> usize {
    report.vms.iter().filter(|vm| vm.result == MoveResult::Completed).count()
}

/// What the exit code says.
pub(super) const fn exit_words(code: u8) -> &'static str {
    match code {
        0 => "done within limits",
        4 => "blocked by a pre-flight check; nothing was started",
        5 => "partly done; the rest is safe at the source",
        6 => "done, but a downtime limit or deadline was missed",
        7 => "a VM needs recovery or is lost",
        130 => "interrupted; every VM is safe",
        _ => "an internal error",
    }
}

/// The run in a sentence or two.
pub(super) fn verdict(report: &RunReport) -> String {
    let (moved, all) = (moved(report), report.vms.len());
    let intent = &report.intent;
    let mut text =
        format!("{moved} of {all} VMs moved from {} to {}", intent.source, intent.target);
    if moved > 0 {
        text.push_str(&format!(" in {:.2} s", report.total_migration_time_seconds));
        if let Some(wait) = waited(report) {
            text.push_str(&format!(", after a wait of {wait:.0} s"));
        }
        if let Some(ratio) = line_rate_ratio(report) {
            text.push_str(&format!(
                " ({ratio:.2} times the {:.2} s that their memory needs at line rate)",
                report.line_rate_seconds
            ));
        }
    }
    text.push('.');
    if let Some(downtime) = worst_downtime(report) {
        text.push_str(&format!(" Longest downtime {:.0} ms", downtime * 1000.0));
        if let Some(outage) = worst_outage(report) {
            text.push_str(&format!(", longest outage seen by clients {:.0} ms", outage * 1000.0));
        }
        text.push('.');
    }
    text.push_str(&format!(" Exit {}: {}.", report.exit_code, exit_words(report.exit_code)));
    text
}
