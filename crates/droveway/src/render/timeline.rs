//! `timeline.svg`: per VM the phases over time; beneath, on the same axis, what the ports carried and what every application
//! got, so that contention is seen at a glance.
//!
//! All panels have the same margins, hence the same x axis. Two light lines through all of them mark the first start and the
//! last completion.

use droveway_fleet::{
    RunReport,
    report::{ApplicationReport, PortSeries, VmReport},
};
use plotters::{
    chart::{ChartBuilder, ChartContext},
    coord::{Shift, types::RangedCoordf64},
    prelude::{
        Cartesian2d, DashedLineSeries, DrawingArea, IntoDrawingArea as _, IntoFont as _,
        LineSeries, PathElement, Polygon, RGBColor, Rectangle, SVGBackend, Text,
    },
    style::{Color as _, TextStyle, WHITE},
};
use std::ops::Range;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Failed = Box<dyn std::error::Error>;

const WIDTH: u32 = 1200;
const TITLE_HEIGHT: u32 = 74;
const LANE_HEIGHT: u32 = 30;
const PORT_HEIGHT: u32 = 132;
const APPLICATION_HEIGHT: u32 = 86;
const AXIS_HEIGHT: u32 = 34;
const LEFT: u32 = 236;
const RIGHT: u32 = 24;
/// Longer names are cut: the full ones are in the report.
const NAME_LEN_MAX: usize = 20;
/// What is shown before the first start and after the last completion.
const BEFORE_SECONDS: f64 = 3.0;
const AFTER_SECONDS: f64 = 3.4;
const FONT: &str = "sans-serif";

pub(super) const INK: RGBColor = RGBColor(40, 40, 40);
pub(super) const PALE: RGBColor = RGBColor(120, 120, 120);
pub(super) const GRID: RGBColor = RGBColor(225, 225, 225);
/// Okabe and Ito's palette, told apart with every kind of colour vision.
pub(super) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(super) const SKY: RGBColor = RGBColor(86, 180, 233);
pub(super) const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub(super) const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub(super) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(super) const PURPLE: RGBColor = RGBColor(204, 121, 167);
pub(super) const YELLOW: RGBColor = RGBColor(240, 228, 66);
pub(super) const GREY: RGBColor = RGBColor(205, 205, 205);

/// The phases that are drawn, in the order of the legend.
const PHASES: &[(&str, RGBColor)] = &[
    ("preparing", GREY),
    ("pre-copy", SKY),
    ("switchover", VERMILION),
    ("post-copy", ORANGE),
    ("post-copy-paused", PURPLE),
    ("recovering", YELLOW),
    ("rolling-back", RGBColor(90, 90, 90)),
    ("settling", GREEN),
    ("halting", RGBColor(0, 0, 0)),
];

pub(crate) fn timeline(report: &RunReport) -> Result<String, Failed> {
    let lanes = u32::try_from(report.vms.len().max(1))? * LANE_HEIGHT + AXIS_HEIGHT / 2;
    let ports = u32::try_from(report.ports.len())? * PORT_HEIGHT;
    let applications = u32::try_from(report.applications.len())? * APPLICATION_HEIGHT;
    let height = TITLE_HEIGHT + lanes + ports + applications + AXIS_HEIGHT;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let (title, rest) = root.split_vertically(TITLE_HEIGHT);
        draw_title(&title, report)?;
        let [start, end] = ends(report);
        let time = start - BEFORE_SECONDS..end + AFTER_SECONDS;
        let (gantt, mut rest) = rest.split_vertically(lanes);
        draw_lanes(&gantt, report, &time)?;
        for port in &report.ports {
            let (panel, below) = rest.split_vertically(PORT_HEIGHT);
            draw_port(&panel, port, &time, [start, end])?;
            rest = below;
        }
        for app in &report.applications {
            let (panel, below) = rest.split_vertically(APPLICATION_HEIGHT);
            draw_application(&panel, app, &time, [start, end])?;
            rest = below;
        }
        draw_axis(&rest, &time)?;
        root.present()?;
    }
    Ok(svg)
}

/// The first start and the last completion, seconds: a run that waited begins late.
fn ends(report: &RunReport) -> [f64; 2] {
    let start = super::words::first_start(report);
    [start, start + report.total_migration_time_seconds.max(0.1)]
}

fn font(size: u32, color: RGBColor) -> TextStyle<'static> {
    (FONT, size).into_font().color(&color)
}

pub(super) fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_LEN_MAX {
        return name.to_owned();
    }
    name.chars().take(NAME_LEN_MAX - 1).chain(['…']).collect()
}

fn draw_title(area: &Area<'_>, report: &RunReport) -> Result<(), Failed> {
    let wait = super::words::waited(report)
        .map_or_else(String::new, |wait| format!(", after a wait of {wait:.0} s"));
    let title = format!(
        "{} from {} to {}: {:.2} s, line rate {:.2} s{wait}",
        super::words::policy(report),
        report.intent.source,
        report.intent.target,
        report.total_migration_time_seconds,
        report.line_rate_seconds
    );
    area.draw(&Text::new(title, (16, 14), font(21, INK)))?;
    let used: Vec<_> = PHASES
        .iter()
        .filter(|(name, _)| {
            report.vms.iter().any(|vm| vm.phases.iter().any(|phase| phase.phase == *name))
        })
        .collect();
    let mut x = i32::try_from(LEFT)?;
    for (name, color) in used {
        area.draw(&Rectangle::new([(x, 48), (x + 16, 62)], color.filled()))?;
        area.draw(&Text::new((*name).to_owned(), (x + 22, 48), font(14, INK)))?;
        x += 22 + 8 * i32::try_from(name.len())? + 24;
    }
    Ok(())
}

/// A panel's chart with the margins that all share, its grid and the two marks.
fn chart<'a, 'b>(
    area: &'a Area<'b>,
    time: &Range<f64>,
    values: Range<f64>,
    ends: [f64; 2],
) -> Result<Chart<'a, 'b>, Failed> {
    let (top, bottom) = (values.start, values.end);
    let mut chart = ChartBuilder::on(area)
        .margin_top(8)
        .margin_bottom(6)
        .margin_left(LEFT)
        .margin_right(RIGHT)
        .build_cartesian_2d(time.clone(), values)?;
    chart.draw_series(
        ticks(time)
            .into_iter()
            .map(|x| PathElement::new(vec![(x, top), (x, bottom)], GRID.stroke_width(1))),
    )?;
    chart
        .draw_series(ends.into_iter().map(|x| {
            PathElement::new(vec![(x, top), (x, bottom)], PALE.mix(0.6).stroke_width(1))
        }))?;
    Ok(chart)
}

/// Whole steps of 1, 2 or 5 that leave room for their labels.
fn ticks(time: &Range<f64>) -> Vec<f64> {
    const TICKS_MAX: f64 = 14.0;
    let length = time.end - time.start;
    let mut step = 1.0;
    for (index, _) in (0..30).enumerate() {
        if length / step <= TICKS_MAX {
            break;
        }
        step *= if index % 3 == 1 { 2.5 } else { 2.0 };
    }
    let first = (time.start / step).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 14")]
    let count = ((time.end / step).floor() - first).max(0.0) as u32;
    (0..=count).map(|n| (first + f64::from(n)) * step).collect()
}

fn draw_lanes(area: &Area<'_>, report: &RunReport, time: &Range<f64>) -> Result<(), Failed> {
    let count = f64::from(u32::try_from(report.vms.len().max(1))?);
    let mut chart = chart(area, time, count..0.0, ends(report))?;
    for (index, vm) in report.vms.iter().enumerate() {
        let top = f64::from(u32::try_from(index)?);
        chart.draw_series(bars(vm, top, time))?;
        let (_, y) = chart.backend_coord(&(0.0, top + 0.5));
        let y = y - area.get_base_pixel().1 - 8;
        area.draw(&Text::new(shortened(vm.name.as_str()), (16, y), font(15, INK)))?;
        if let Some(note) = note(vm) {
            let after = vm.phases.last().map_or(0.0, |phase| phase.end_seconds);
            let (x, _) = chart.backend_coord(&(after.clamp(time.start, time.end), 0.0));
            let x = (x - area.get_base_pixel().0 + 8).min(i32::try_from(WIDTH - RIGHT)? - 200);
            area.draw(&Text::new(note, (x, y), font(13, PALE)))?;
        }
    }
    Ok(())
}

fn bars(vm: &VmReport, top: f64, time: &Range<f64>) -> Vec<Rectangle<(f64, f64)>> {
    let bar = |phase: &droveway_fleet::report::PhaseSpan| {
        let (_, color) = PHASES.iter().find(|(name, _)| *name == phase.phase)?;
        let clamp = |x: f64| x.clamp(time.start, time.end);
        let corners =
            [(clamp(phase.start_seconds), top + 0.18), (clamp(phase.end_seconds), top + 0.82)];
        Some(Rectangle::new(corners, color.filled()))
    };
    vm.phases.iter().filter_map(bar).collect()
}

fn note(vm: &VmReport) -> Option<String> {
    use droveway_fleet::report::MoveResult;
    if vm.result != MoveResult::Completed {
        return Some(vm.result.name().to_owned());
    }
    let downtime = format!("downtime {:.0} ms", vm.downtime_seconds? * 1000.0);
    Some(match vm.outage_seconds {
        Some(outage) => format!("{downtime}, outage {:.0} ms", outage * 1000.0),
        None => downtime,
    })
}

/// The label of a panel: two or three short lines at the left.
fn label(area: &Area<'_>, lines: &[(String, RGBColor)]) -> Result<(), Failed> {
    let mut y = 12;
    for (index, (line, color)) in lines.iter().enumerate() {
        let size = if index == 0 { 15 } else { 13 };
        area.draw(&Text::new(shortened(line), (16, y), font(size, *color)))?;
        y += 19;
    }
    Ok(())
}

/// The value of the panel's top, written at its upper left corner.
fn scale(area: &Area<'_>, text: String) -> Result<(), Failed> {
    let style = font(12, PALE).pos(plotters::style::text_anchor::Pos::new(
        plotters::style::text_anchor::HPos::Right,
        plotters::style::text_anchor::VPos::Top,
    ));
    area.draw(&Text::new(text, (i32::try_from(LEFT)? - 6, 6), style))?;
    Ok(())
}

fn draw_port(
    area: &Area<'_>,
    port: &PortSeries,
    time: &Range<f64>,
    ends: [f64; 2],
) -> Result<(), Failed> {
    #[expect(clippy::cast_precision_loss, reason = "a port's rate")]
    let capacity = (port.capacity_bits_per_second as f64 / 1e6).max(1.0);
    let mut chart = chart(area, time, 0.0..capacity * 1.12, ends)?;
    chart.draw_series(DashedLineSeries::new(
        [(time.start, capacity), (time.end, capacity)],
        6,
        4,
        PALE.stroke_width(1),
    ))?;
    let points = |pick: fn(&droveway_fleet::report::PortPoint) -> f64| {
        let point = move |s: &droveway_fleet::report::PortPoint| (s.at_seconds, pick(s) / 1e6);
        visible(port.samples.iter().map(point), time, capacity * 1.12)
    };
    chart.draw_series(LineSeries::new(
        points(|s| s.tx_bits_per_second),
        VERMILION.stroke_width(2),
    ))?;
    chart.draw_series(LineSeries::new(points(|s| s.rx_bits_per_second), BLUE.stroke_width(2)))?;
    label(
        area,
        &[
            (format!("port of {}", port.host), INK),
            ("transmitted (TX)".to_owned(), VERMILION),
            ("received (RX)".to_owned(), BLUE),
            ("- - capacity".to_owned(), PALE),
        ],
    )?;
    scale(area, format!("{:.0} Mbit/s", capacity * 1.12))
}

fn draw_application(
    area: &Area<'_>,
    app: &ApplicationReport,
    time: &Range<f64>,
    ends: [f64; 2],
) -> Result<(), Failed> {
    let all = app.series.iter().filter(|p| time.contains(&p.at_seconds)).map(|p| p.rate);
    let peak = all.chain(app.before).filter(|rate| rate.is_finite()).fold(0.0, f64::max);
    let top = if peak > 0.0 { peak * 1.15 } else { 1.0 };
    let mut chart = chart(area, time, 0.0..top, ends)?;
    let points = visible(app.series.iter().map(|p| (p.at_seconds, p.rate)), time, top);
    if let Some(before) = app.before {
        // What is missing against before, from start to completion.
        let inside: Vec<_> =
            points.iter().copied().filter(|(x, _)| (ends[0]..=ends[1]).contains(x)).collect();
        if let (Some(first), Some(last)) = (inside.first(), inside.last()) {
            let mut outline = vec![(first.0, before)];
            outline.extend(inside.iter().map(|(x, y)| (*x, y.min(before))));
            outline.push((last.0, before));
            chart.draw_series([Polygon::new(outline, VERMILION.mix(0.22))])?;
        }
        chart.draw_series(DashedLineSeries::new(
            [(time.start, before), (time.end, before)],
            6,
            4,
            PALE.stroke_width(1),
        ))?;
    }
    chart.draw_series(LineSeries::new(points, GREEN.stroke_width(2)))?;
    let loss = app
        .loss_ratio
        .map_or_else(String::new, |loss| format!("lost {:.0} % (shaded)", loss * 100.0));
    label(
        area,
        &[
            (app.name.to_string(), INK),
            (format!("{} -> {}", app.from, app.to), PALE),
            (loss, VERMILION),
        ],
    )?;
    scale(area, format!("{top:.0} {}", app.unit))
}

/// The points inside the picture; what is not a number is left out.
fn visible(
    points: impl Iterator<Item = (f64, f64)>,
    time: &Range<f64>,
    top: f64,
) -> Vec<(f64, f64)> {
    points
        .filter(|(x, y)| time.contains(x) && y.is_finite())
        .map(|(x, y)| (x, y.clamp(0.0, top)))
        .collect()
}

fn draw_axis(area: &Area<'_>, time: &Range<f64>) -> Result<(), Failed> {
    let chart = ChartBuilder::on(area)
        .margin_left(LEFT)
        .margin_right(RIGHT)
        .build_cartesian_2d(time.clone(), 0.0..1.0)?;
    let style = font(13, INK).pos(plotters::style::text_anchor::Pos::new(
        plotters::style::text_anchor::HPos::Center,
        plotters::style::text_anchor::VPos::Top,
    ));
    for tick in ticks(time) {
        let (x, _) = chart.backend_coord(&(tick, 0.0));
        let x = x - area.get_base_pixel().0;
        area.draw(&Text::new(format!("{tick:.0} s"), (x, 6), style.clone()))?;
    }
    area.draw(&Text::new("since the run's start".to_owned(), (16, 6), font(13, PALE)))?;
    Ok(())
}
