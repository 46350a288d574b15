//! Both ports over time while a gang moves, scenario by scenario: what the moves and the applications take of each other.

use super::{
    Failed, Figure,
    panel::{
        Area, BLUE, GREEN, ORANGE, PALE, PURPLE, Panel, Scale, VERMILION, bar, dashed, legend,
        line, picture, pixels,
    },
};
use crate::{
    cells::Cell,
    compare::{Bench, Family},
};
use droveway_fleet::{
    EndpointId, RunReport,
    report::{ApplicationReport, PortPoint},
};
use plotters::style::{Color as _, RGBColor};

/// Rows and columns of panels.
const SCENARIOS_MAX: usize = 6;
const ARMS_MAX: usize = 3;
const PANEL: (i32, i32) = (330, 150);
const STEP: (i32, i32) = (410, 250);
/// Shown before the first start and after the last completion, seconds.
const AROUND: f64 = 2.0;

/// The cells whose reports the figure is drawn from: the first scenarios, each with the first two arms that are not ours and
/// the first of ours (else a third).
#[must_use]
pub fn wanted(bench: &Bench) -> Vec<Cell> {
    let suite = &bench.resolved.suite.spec;
    let is_ours = |cell: &Cell| bench.resolved.policy(cell).map(Family::of) == Some(Family::Ours);
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
        let ours = of.iter().copied().find(|cell| is_ours(cell));
        let most = ARMS_MAX - usize::from(ours.is_some());
        let others = of.iter().copied().filter(|cell| Some(*cell) != ours).take(most);
        wanted.extend(others.chain(ours).cloned());
    }
    wanted
}

pub(super) fn figure(
    bench: &Bench,
    reports: &[(Cell, RunReport)],
) -> Result<Option<Figure>, Failed> {
    let mut scenarios: Vec<&str> = Vec::new();
    for (cell, report) in reports {
        if !scenarios.contains(&cell.scenario.as_str()) && !report.ports.is_empty() {
            scenarios.push(&cell.scenario);
        }
    }
    if scenarios.is_empty() {
        return Ok(None);
    }
    let columns = scenarios.iter().map(|scenario| {
        reports.iter().filter(|(cell, _)| cell.scenario == **scenario).count().min(ARMS_MAX)
    });
    let columns = columns.max().unwrap_or(1);
    let drawn: Vec<Direction> = Direction::ALL
        .into_iter()
        .filter(|direction| {
            reports.iter().any(|(cell, report)| {
                let clients = clients(bench, &cell.scenario);
                let streams = report.applications.iter().filter(|app| is_stream(app));
                streams.map(|app| Direction::of(app, &clients)).any(|of| of == *direction)
            })
        })
        .collect();
    let width = (20 + pixels(columns) * STEP.0).max(WIDTH_LEAST);
    let height = 80 + pixels(scenarios.len()) * STEP.1;
    let svg = picture(width, height, |area| {
        let mut entries = vec![
            ("source's port transmits".to_owned(), VERMILION, None),
            ("target's port receives".to_owned(), BLUE, None),
        ];
        entries.extend(drawn.iter().map(|of| (of.name().to_owned(), of.color(), None)));
        entries.push(("from first start to last completion".to_owned(), SHADE, None));
        let top = legend(area, (14, 20), width - 28, &entries)?;
        for (down, scenario) in scenarios.iter().enumerate() {
            let of = reports.iter().filter(|(cell, _)| cell.scenario == *scenario);
            for (across, (cell, report)) in of.take(ARMS_MAX).enumerate() {
                let at = (64 + pixels(across) * STEP.0, top + 80 + pixels(down) * STEP.1);
                panel(area, at, cell, report, &clients(bench, scenario))?;
            }
        }
        Ok(())
    })?;
    Ok(Some(Figure {
        name: "over-time".to_owned(),
        title: "Bandwidth over time".to_owned(),
        caption: "One run of each: what the source's port sends and the target's receives (moves and applications together), \
                  and what applications get of it by direction, seen from the VMs. A VM that was moved already uses the \
                  target's port. The dashed line is a port's capacity."
            .to_owned(),
        svg,
    }))
}

/// Narrower pictures have no room for the legend.
const WIDTH_LEAST: i32 = 620;

/// The direction of an application's bytes, seen from the VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Outgoing,
    Incoming,
    Between,
}

impl Direction {
    const ALL: [Self; 3] = [Self::Outgoing, Self::Incoming, Self::Between];

    const fn name(self) -> &'static str {
        match self {
            Self::Outgoing => "applications, outgoing",
            Self::Incoming => "applications, incoming",
            Self::Between => "applications, between VMs",
        }
    }

    const fn color(self) -> RGBColor {
        match self {
            Self::Outgoing => GREEN,
            Self::Incoming => PURPLE,
            Self::Between => ORANGE,
        }
    }

    /// Of an application of a scenario: a client is outside, all else are VMs.
    fn of(app: &ApplicationReport, clients: &[&str]) -> Self {
        let is_client = |name: &EndpointId| clients.contains(&name.as_str());
        match (is_client(&app.from), is_client(&app.to)) {
            (_, true) => Self::Outgoing,
            (true, false) => Self::Incoming,
            (false, false) => Self::Between,
        }
    }
}

/// A byte stream that was watched.
fn is_stream(app: &ApplicationReport) -> bool {
    app.is_traffic() && app.unit == "Mbit/s" && !app.series.is_empty()
}

/// The machines outside of a scenario.
fn clients<'a>(bench: &'a Bench, scenario: &str) -> Vec<&'a str> {
    let of = bench.resolved.suite.spec.scenarios.iter().find(|it| it.name.as_str() == scenario);
    let spec = of.and_then(|it| it.spec.as_ref());
    spec.into_iter().flat_map(|it| &it.clients).map(|client| client.name.as_str()).collect()
}

const SHADE: RGBColor = RGBColor(238, 238, 238);

#[expect(clippy::cast_precision_loss, reason = "rates of ports")]
fn panel(
    area: &Area<'_>,
    (left, top): (i32, i32),
    cell: &Cell,
    report: &RunReport,
    clients: &[&str],
) -> Result<(), Failed> {
    let start = report.vms.iter().filter_map(|vm| vm.start_seconds).fold(f64::INFINITY, f64::min);
    let start = if start.is_finite() { start } else { 0.0 };
    let end = start + report.total_migration_time_seconds;
    let capacity = report.ports.iter().map(|port| port.capacity_bits_per_second).min().unwrap_or(0)
        as f64
        / 1e6;
    let applications: Vec<(Direction, Vec<(f64, f64)>)> = Direction::ALL
        .into_iter()
        .map(|direction| (direction, applications(report, clients, direction)))
        .collect();
    let rates = applications.iter().flat_map(|(_, points)| points).map(|(_, rate)| *rate);
    let most = rates.fold(capacity, f64::max);
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
    let y = panel.up(capacity);
    dashed(area, [(panel.left, y), (panel.right(), y)], PALE)?;
    let of_port = |host: &droveway_fleet::HostId, rate: fn(&PortPoint) -> f64| -> Vec<(i32, i32)> {
        let port = report.ports.iter().find(|port| port.host == *host);
        let samples = port.into_iter().flat_map(|port| &port.samples);
        let visible = samples.filter(|sample| shown(sample.at_seconds));
        visible.map(|sample| panel.at((sample.at_seconds, rate(sample) / 1e6))).collect()
    };
    // The target's line is broad, since the source's often lies upon it.
    let received = of_port(&report.intent.target, |it| it.rx_bits_per_second);
    let sent = of_port(&report.intent.source, |it| it.tx_bits_per_second);
    let mut lines = vec![(received, BLUE, 4), (sent, VERMILION, 2)];
    for (direction, points) in &applications {
        let visible = points.iter().filter(|(at, _)| shown(*at)).map(|point| panel.at(*point));
        lines.push((visible.collect(), direction.color(), 2));
    }
    for (points, color, width) in lines {
        if points.len() > 1 {
            line(area, points, color.stroke_width(width))?;
        }
    }
    panel.frame(area)
}

/// The sum of what byte streams of a direction get, Mbit/s, by half seconds: their samples are not at the same instants.
fn applications(report: &RunReport, clients: &[&str], direction: Direction) -> Vec<(f64, f64)> {
    const STEP: f64 = 0.5;
    let streams: Vec<_> = report
        .applications
        .iter()
        .filter(|app| is_stream(app) && Direction::of(app, clients) == direction)
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
