//! The summary that a run prints.

use super::words::{
    duration, held, latency, lost, milliseconds, percent, rate, seconds, technique, verdict,
};
use comfy_table::{Cell, Color, Table, presets::NOTHING};
use droveway_fleet::{
    RunReport,
    report::{MoveResult, Quantiles},
};

/// A loss above this share deserves a colour.
const LOSS_NOTABLE: f64 = 0.1;

pub(crate) fn terminal(report: &RunReport, color: bool) -> String {
    let mut text = format!("\n{}\n", verdict(report));
    for remark in &report.remarks {
        text.push_str(&format!("note: {remark}\n"));
    }
    if let Some(predicted) = &report.predicted {
        let time = predicted.total_migration_time_seconds;
        text.push_str(&format!(
            "forecast: {} in all ({} to {})\n",
            seconds(Some(time.p50)),
            seconds(Some(time.p10)),
            seconds(Some(time.p90))
        ));
    }
    if let Some(held) = held(report) {
        text.push_str(&format!("held for the moves: {held}\n"));
    }
    text.push_str(&format!("\n{}\n", vms(report, color)));
    for vm in &report.vms {
        if let Some(reason) = &vm.reason {
            text.push_str(&format!("{}: {reason}\n", vm.name));
        }
    }
    if !report.applications.is_empty() {
        text.push_str(&format!("\n{}\n", applications(report, color)));
    }
    text
}

/// What came, and the middle of what was said.
fn beside(
    text: fn(Option<f64>) -> String,
    outcome: Option<f64>,
    said: Option<Quantiles>,
) -> String {
    match said {
        Some(said) => format!("{} ({})", text(outcome), text(Some(said.p50))),
        None => text(outcome),
    }
}

fn painted(text: String, color: bool, wanted: Option<Color>) -> Cell {
    match wanted.filter(|_| color) {
        Some(wanted) => Cell::new(text).fg(wanted),
        None => Cell::new(text),
    }
}

fn vms(report: &RunReport, color: bool) -> Table {
    let mut table = Table::new();
    let foretold = report.vms.iter().any(|vm| vm.predicted.is_some());
    let took = if foretold { "took (forecast)" } else { "took" };
    let downtime = if foretold { "downtime (forecast)" } else { "downtime" };
    let outage = if foretold { "outage (forecast)" } else { "outage" };
    table.load_style(NOTHING).set_header([
        "VM",
        "technique",
        "result",
        took,
        downtime,
        outage,
        "migrated",
        "exposed",
    ]);
    for vm in &report.vms {
        let shade = match vm.result {
            MoveResult::Completed => Color::Green,
            MoveResult::RolledBack | MoveResult::NotStarted => Color::Yellow,
            MoveResult::NeedsRecovery | MoveResult::Lost => Color::Red,
        };
        table.add_row([
            Cell::new(&vm.name),
            Cell::new(technique(vm)),
            painted(vm.result.name().to_owned(), color, Some(shade)),
            Cell::new(beside(seconds, duration(vm), vm.predicted.map(|p| p.duration_seconds))),
            Cell::new(beside(
                milliseconds,
                vm.downtime_seconds,
                vm.predicted.map(|p| p.downtime_seconds),
            )),
            Cell::new(beside(
                milliseconds,
                vm.outage_seconds,
                vm.predicted.map(|p| p.outage_seconds),
            )),
            Cell::new(super::words::bytes(vm.migrated_bytes)),
            Cell::new(seconds(Some(vm.exposure_seconds))),
        ]);
    }
    table
}

fn applications(report: &RunReport, color: bool) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header([
        "application",
        "unit",
        "before",
        "during",
        "after",
        "lost",
        "loss",
        "p99 before",
        "during",
    ]);
    for app in &report.applications {
        let notable = app.loss_ratio.is_some_and(|loss| loss > LOSS_NOTABLE);
        table.add_row([
            Cell::new(&app.name),
            Cell::new(&app.unit),
            Cell::new(rate(app.before)),
            Cell::new(rate(app.during)),
            Cell::new(rate(app.after)),
            Cell::new(lost(app)),
            painted(percent(app.loss_ratio), color, notable.then_some(Color::Yellow)),
            Cell::new(latency(app.p99_before_ms)),
            Cell::new(latency(app.p99_during_ms)),
        ]);
    }
    table
}
