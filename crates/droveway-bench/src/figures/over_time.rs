//! Both ports over time while a gang moves, scenario by scenario: what the moves and the applications take of each other.

use super::{
    Failed, Figure,
    panel::{Area, BLUE, GREEN, PALE, Panel, Scale, VERMILION, bar, legend, line, picture, pixels},
};
use crate::{
    cells::Cell,
    compare::{Bench, Family},
};
use droveway_fleet::{RunReport, report::PortPoint};
use plotters::style::{Color as _, RGBColor};

/// Rows and columns of panels.
const SCENARIOS_MAX: usize = 6;
const ARMS_MAX: usize = 2;
const PANEL: (i32, i32) = (400, 150);
const STEP: (i32, i32) = (500, 250);
/// Shown before the first start and after the last completion, seconds.
const AROUND: f64 = 2.0;

/// The cells whose reports the figure is drawn from: the first scenarios, each with the first arm that is not ours and ours
/// (else the second).
#[must_use]
pub fn wanted(bench: &Bench) -> Vec<Cell> {
    let suite = &bench.resolved.suite.spec;
    let family = |cell: &Cell| bench.resolved.policy(cell).map(Family::of);
    let mut wanted = Vec::new();
    for scenario in suite.scenarios.iter().take(SCENARIOS_MAX) {
        let mut of: Vec<&Cell> = bench
            .results
            .iter()
            .filter(|it| it.cell.scenario == scenario.name.as_str() && it.moved().is_some())
            .map(|it| &it.cell)
            .collect();
        // In the suite's order, the first repeat first.
        let place = |cell: &Cell| suite.policies.iter().position(|it| it.name() == cell.policy);
        of.sort_by_key(|cell| (place(cell), cell.intent.clone(), cell.repeat));
        of.dedup_by_key(|cell| cell.arm());
        let Some(first) = of.first().copied() else { continue };
        let ours = of.iter().find(|cell| family(cell) == Some(Family::Ours));
        wanted.push(first.clone());
        let second = ours.copied().or_else(|| of.get(1).copied());
        wanted.extend(second.filter(|cell| *cell != first).cloned());
    }
    wanted
}

pub(super) fn figure(reports: &[(Cell, RunReport)]) -> Result<Option<Figure>, Failed> {
    let mut scenarios: Vec<&str> = Vec::new();
    for (cell, report) in reports {
        if !scenarios.contains(&cell.scenario.as_str()) && !report.ports.is_empty() {
            scenarios.push(&cell.scenario);
        }
    }
    if scenarios.is_empty() {
        return Ok(None);
    }
    let (width, height) = (pixels(ARMS_MAX) * STEP.0, 60 + pixels(scenarios.len()) * STEP.1);
    let svg = picture(width, height, |area| {
        let entries = [
            ("source transmits".to_owned(), VERMILION, None),
            ("target receives".to_owned(), BLUE, None),
            ("all applications' traffic".to_owned(), GREEN, None),
            ("from first start to last completion".to_owned(), SHADE, None),
        ];
        legend(area, (14, 20), width - 28, &entries)?;
        for (down, scenario) in scenarios.iter().enumerate() {
            let of = reports.iter().filter(|(cell, _)| cell.scenario == *scenario);
            for (across, (cell, report)) in of.take(ARMS_MAX).enumerate() {
                let at = (70 + pixels(across) * STEP.0, 100 + pixels(down) * STEP.1);
                panel(area, at, cell, report)?;
            }
        }
        Ok(())
    })?;
    Ok(Some(Figure {
        name: "over-time".to_owned(),
        title: "Bandwidth over time".to_owned(),
        caption: "One run of each: what the source's port sends, what the target's receives, and the sum of what applications \
                  get, which is traffic of all ports in both directions. The dashed line is a port's capacity."
            .to_owned(),
        svg,
    }))
}

const SHADE: RGBColor = RGBColor(238, 238, 238);

#[expect(clippy::cast_precision_loss, reason = "rates of ports")]
fn panel(
    area: &Area<'_>,
    (left, top): (i32, i32),
    cell: &Cell,
    report: &RunReport,
) -> Result<(), Failed> {
    let start = report.vms.iter().filter_map(|vm| vm.start_seconds).fold(f64::INFINITY, f64::min);
    let start = if start.is_finite() { start } else { 0.0 };
    let end = start + report.total_migration_time_seconds;
    let capacity = report.ports.iter().map(|port| port.capacity_bits_per_second).min().unwrap_or(0)
        as f64
        / 1e6;
    let applications = applications(report);
    let most = applications.iter().map(|(_, rate)| *rate).fold(capacity, f64::max);
    let panel = Panel {
        left,
        top,
        width: PANEL.0,
        height: PANEL.1,
        x: Scale::linear(start - AROUND, end + AROUND),
        y: Scale::linear(0.0, 1.1 * most.max(1.0)),
    };
    bar(area, [(panel.across(start), top), (panel.across(end), panel.bottom())], SHADE.filled())?;
    panel.title(area, &format!("{}: {}", cell.scenario, cell.arm()))?;
    panel.x_axis(area, "seconds")?;
    panel.y_axis(area, "Mbit/s")?;
    let shown = |at: f64| (start - AROUND..=end + AROUND).contains(&at);
    let dashes: Vec<i32> = (0..PANEL.0 / 10).map(|index| panel.left + 10 * index).collect();
    for x in dashes {
        let y = panel.up(capacity);
        line(area, vec![(x, y), (x + 5, y)], PALE.stroke_width(1))?;
    }
    let of_port = |host: &droveway_fleet::HostId, rate: fn(&PortPoint) -> f64| -> Vec<(i32, i32)> {
        let port = report.ports.iter().find(|port| port.host == *host);
        let samples = port.into_iter().flat_map(|port| &port.samples);
        let visible = samples.filter(|sample| shown(sample.at_seconds));
        visible.map(|sample| panel.at((sample.at_seconds, rate(sample) / 1e6))).collect()
    };
    let series = applications.iter().filter(|(at, _)| shown(*at)).map(|point| panel.at(*point));
    for (points, color) in [
        (series.collect(), GREEN),
        (of_port(&report.intent.target, |it| it.rx_bits_per_second), BLUE),
        (of_port(&report.intent.source, |it| it.tx_bits_per_second), VERMILION),
    ] {
        if points.len() > 1 {
            line(area, points, color.stroke_width(2))?;
        }
    }
    panel.frame(area)
}

/// The sum of what byte streams get, Mbit/s, by half seconds: their samples are not at the same instants.
fn applications(report: &RunReport) -> Vec<(f64, f64)> {
    const STEP: f64 = 0.5;
    let streams: Vec<_> = report
        .applications
        .iter()
        .filter(|app| app.is_traffic() && app.unit == "Mbit/s" && !app.series.is_empty())
        .collect();
    let ends = streams.iter().flat_map(|app| &app.series).map(|point| point.at_seconds);
    let (low, high) = ends
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| (low.min(at), high.max(at)));
    let mut sums = Vec::new();
    let mut at = low;
    // A run of an hour is the most that is drawn.
    while at <= high && sums.len() < 7_200 {
        let mut sum = 0.0;
        for app in &streams {
            let near = app.series.iter().filter(|point| (point.at_seconds - at).abs() <= STEP);
            let rates: Vec<f64> = near.map(|point| point.rate).collect();
            sum += rates.iter().sum::<f64>() / super::panel::count(rates.len().max(1));
        }
        sums.push((at, sum));
        at += STEP;
    }
    sums
}
