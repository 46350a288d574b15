//! A row for each arm: medians with their intervals, and distributions by VM.

use super::{
    Failed, Figure,
    panel::{
        Anchor, Area, INK, Mark, PALE, Panel, Scale, bar, color_of, dashed, families, legend, line,
        mark, picture, pixels, text, width_of,
    },
};
use crate::{
    compare::{Analysis, Arm, Bench},
    result::VmRow,
    stats::{self, Summary},
};
use plotters::style::Color as _;

const ROW: i32 = 22;
const TOP: i32 = 92;
const BOTTOM: i32 = 46;
const GAP: i32 = 40;
const PANEL: i32 = 270;

/// What the names at the left take.
fn left_of(arms: &[&Arm]) -> i32 {
    let widest = arms.iter().map(|arm| width_of(&arm.name, 13)).max().unwrap_or(0);
    widest + 40
}

/// A name and a mark at the left of each row.
fn names(area: &Area<'_>, arms: &[&Arm]) -> Result<(), Failed> {
    for (index, arm) in arms.iter().enumerate() {
        let y = row(index);
        mark(area, (14, y), 5, Mark::of(arm.family), color_of(arm.family))?;
        text(area, (28, y), (13, INK), Anchor::Left, &arm.name)?;
    }
    Ok(())
}

fn row(index: usize) -> i32 {
    TOP + pixels(index) * ROW + ROW / 2
}

fn height(arms: &[&Arm]) -> i32 {
    TOP + pixels(arms.len()) * ROW + BOTTOM
}

fn panel(arms: &[&Arm], left: i32, place: usize, x: Scale) -> Panel {
    Panel {
        left: left + pixels(place) * (PANEL + GAP),
        top: TOP,
        width: PANEL,
        height: pixels(arms.len()) * ROW,
        x,
        y: Scale::linear(0.0, 1.0),
    }
}

/// The measure of a VM.
type OfVm = fn(&VmRow) -> Option<f64>;
/// The measure of an arm.
type Measure = fn(&Arm) -> Option<&Summary>;

/// Time, loss and silence by arm.
pub(super) fn arms(analysis: &Analysis) -> Result<Option<Figure>, Failed> {
    let arms: Vec<&Arm> = analysis.arms.iter().filter(|arm| arm.over_line_rate.is_some()).collect();
    if arms.is_empty() {
        return Ok(None);
    }
    let measures: [(&str, &str, Measure); 3] = [
        ("total time", "times line rate", |arm| arm.over_line_rate.as_ref()),
        ("lost by applications", "seconds of the port", |arm| arm.lost_port_seconds.as_ref()),
        ("longest silence of a VM", "seconds", |arm| arm.worst_outage_seconds.as_ref()),
    ];
    let left = left_of(&arms);
    let width = left + 3 * (PANEL + GAP);
    let svg = picture(width, height(&arms), |area| {
        legend(area, (14, 20), width - 28, &families(&analysis.arms))?;
        names(area, &arms)?;
        for (place, (title, unit, of)) in measures.iter().enumerate() {
            let all = arms.iter().filter_map(|arm| of(arm));
            let highs = all.map(|it| it.interval.map_or(it.median, |interval| interval.high));
            let panel = panel(&arms, left, place, Scale::from_zero(highs));
            panel.title(area, title)?;
            panel.x_axis(area, unit)?;
            panel.frame(area)?;
            if place == 0 {
                upright(area, &panel, 1.0)?;
            }
            for (index, arm) in arms.iter().enumerate() {
                let Some(summary) = of(arm) else { continue };
                let (y, color) = (row(index), color_of(arm.family));
                if let Some(interval) = summary.interval {
                    let ends = [interval.low, interval.high].map(|value| (panel.across(value), y));
                    line(area, ends.to_vec(), color.stroke_width(2))?;
                }
                mark(area, (panel.across(summary.median), y), 4, Mark::of(arm.family), color)?;
            }
        }
        Ok(())
    })?;
    Ok(Some(Figure {
        name: "arms".to_owned(),
        title: "Time, loss and silence".to_owned(),
        caption: "Medians over all runs that moved every VM; lines are 95 % bootstrap intervals of the median. Left is \
                  better in all three. Line rate (the dashed line) is what had to be sent, each page once, over what the port carries; \
                  lost bytes are told in seconds of the port."
            .to_owned(),
        svg,
    }))
}

/// Downtime and outage by VM.
pub(super) fn distributions(bench: &Bench, analysis: &Analysis) -> Result<Option<Figure>, Failed> {
    let arms: Vec<&Arm> =
        analysis.arms.iter().filter(|arm| arm.downtime_seconds.is_some()).collect();
    if arms.is_empty() {
        return Ok(None);
    }
    let of = |arm: &Arm, value: fn(&VmRow) -> Option<f64>| -> Vec<f64> {
        let results = bench.results.iter().filter(|it| it.cell.arm() == arm.name);
        let vms = results.filter_map(|it| it.counted()).flat_map(|attempt| &attempt.vms);
        let moved = vms.filter(|vm| vm.result == "completed");
        moved.filter_map(value).map(|seconds| 1000.0 * seconds).collect()
    };
    let limit = bench.resolved.suite.spec.limits.max_downtime.duration().as_secs_f64();
    let measures: [(&str, OfVm); 2] = [
        ("downtime: no vCPU runs", |vm| vm.downtime_seconds),
        ("outage: a client's longest silence", |vm| vm.outage_seconds),
    ];
    let left = left_of(&arms);
    let width = left + 2 * (PANEL + GAP);
    let svg = picture(width, height(&arms), |area| {
        legend(area, (14, 20), width - 28, &families(&analysis.arms))?;
        names(area, &arms)?;
        for (place, (title, value)) in measures.iter().enumerate() {
            let all = arms.iter().flat_map(|arm| of(arm, *value));
            // The limit of downtimes is shown, also where nobody comes near it.
            let shown = (place == 0).then_some(1000.0 * limit);
            let panel = panel(&arms, left, place, Scale::decades(all.chain(shown)));
            panel.title(area, title)?;
            panel.x_axis(area, "milliseconds, by VM")?;
            panel.frame(area)?;
            if place == 0 {
                upright(area, &panel, 1000.0 * limit)?;
            }
            for (index, arm) in arms.iter().enumerate() {
                spread(area, &panel, row(index), arm, &of(arm, *value))?;
            }
        }
        Ok(())
    })?;
    Ok(Some(Figure {
        name: "downtime-outage".to_owned(),
        title: "Downtime and outage".to_owned(),
        caption: "By VM, over all runs: the line spans least to most, the box half of the VMs, the dark tick is the median, \
                  the light one the 99th percentile. Downtime is what the hypervisors see, outage what a client outside sees. The \
                  dashed line is the downtime that every policy was to aim at."
            .to_owned(),
        svg,
    }))
}

/// A dashed line from top to bottom.
fn upright(area: &Area<'_>, panel: &Panel, value: f64) -> Result<(), Failed> {
    let x = panel.across(value);
    dashed(area, [(x, panel.top), (x, panel.bottom())], PALE)
}

fn spread(area: &Area<'_>, panel: &Panel, y: i32, arm: &Arm, values: &[f64]) -> Result<(), Failed> {
    let at = |share: f64| stats::quantile(values, share).map(|value| panel.across(value));
    let (Some(least), Some(low), Some(middle), Some(high), Some(far), Some(most)) =
        (at(0.0), at(0.25), at(0.5), at(0.75), at(0.99), at(1.0))
    else {
        return Ok(());
    };
    let color = color_of(arm.family);
    line(area, vec![(least, y), (most, y)], color.stroke_width(1))?;
    bar(area, [(low, y - 6), (high.max(low + 1), y + 6)], color.mix(0.45).filled())?;
    line(area, vec![(far, y - 5), (far, y + 5)], PALE.stroke_width(2))?;
    line(area, vec![(middle, y - 8), (middle, y + 8)], INK.stroke_width(3))
}
