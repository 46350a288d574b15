//! Total time against what applications lost: which arms nobody beats in both.

use super::{
    Failed, Figure,
    panel::{
        Anchor, Area, INK, Mark, PALE, Panel, Scale, color_of, count, families, legend, line, mark,
        picture, pixel, pixels, text, width_of,
    },
};
use crate::compare::{Analysis, Arm, Bench, medians};
use plotters::style::{Color as _, WHITE};

/// An arm's place.
struct Point<'a> {
    number: usize,
    arm: &'a Arm,
    time: f64,
    lost: f64,
}

const LIST_LINE: i32 = 18;
const RADIUS: i32 = 9;

/// All scenarios together: time over line rate, loss in seconds of the port.
pub(super) fn overall(analysis: &Analysis) -> Result<Option<Figure>, Failed> {
    let points: Vec<Point<'_>> = numbered(analysis)
        .filter_map(|(number, arm)| {
            let time = arm.over_line_rate.as_ref()?.median;
            Some(Point { number, arm, time, lost: arm.lost_port_seconds.as_ref()?.median })
        })
        .collect();
    if points.len() < 2 {
        return Ok(None);
    }
    let list = list_width(analysis);
    let (width, plot) = (list + 720, 480);
    let height = (plot + 150).max(80 + pixels(points.len()) * LIST_LINE);
    let svg = picture(width, height, |area| {
        legend(area, (14, 20), width - 28, &families(&analysis.arms))?;
        let panel = Panel {
            left: 70,
            top: 80,
            width: 590,
            height: plot,
            x: Scale::decades(points.iter().map(|point| point.time)),
            y: Scale::from_zero(points.iter().map(|point| point.lost)),
        };
        panel.x_axis(area, "total time, times line rate (median)")?;
        panel.y_axis(area, "lost by applications, seconds of the port (median)")?;
        draw(area, &panel, &points)?;
        names(area, (700, 80), &points)
    })?;
    Ok(Some(Figure {
        name: "pareto".to_owned(),
        title: "Total time against lost bytes".to_owned(),
        caption: "Each number is a policy with an intent; lower left is better. The stairs join those that no other beats in \
                  both. Medians over all scenarios: the figure by scenario tells where it differs. One second of the port is \
                  what the port carries in a second."
            .to_owned(),
        svg,
    }))
}

/// A panel for each scenario, seconds and megabytes.
pub(super) fn by_scenario(bench: &Bench, analysis: &Analysis) -> Result<Option<Figure>, Failed> {
    const PANEL: (i32, i32) = (380, 300);
    const STEP: (i32, i32) = (480, 410);
    /// More do not fit a page; the tables have them all.
    const PANELS_MAX: usize = 12;
    let scenarios = bench.resolved.suite.spec.scenarios.iter();
    let of = |scenario: &str| -> Vec<Point<'_>> {
        numbered(analysis)
            .filter_map(|(number, arm)| {
                let [time, lost, _] = medians(bench, scenario, &arm.name)?;
                Some(Point { number, arm, time, lost })
            })
            .collect()
    };
    let panels: Vec<(&str, Vec<Point<'_>>)> = scenarios
        .map(|scenario| (scenario.name.as_str(), of(scenario.name.as_str())))
        .filter(|(_, points)| points.len() >= 2 && points.iter().any(|point| point.lost > 0.0))
        .take(PANELS_MAX)
        .collect();
    // One scenario has the overall figure.
    if panels.len() < 2 {
        return Ok(None);
    }
    let rows = pixels(panels.len().div_ceil(2));
    let numbers: Vec<Point<'_>> = numbered(analysis)
        .map(|(number, arm)| Point { number, arm, time: 0.0, lost: 0.0 })
        .collect();
    let width = 2 * STEP.0 + list_width(analysis);
    let height = (60 + rows * STEP.1).max(80 + pixels(numbers.len()) * LIST_LINE);
    let svg = picture(width, height, |area| {
        legend(area, (14, 20), width - 28, &families(&analysis.arms))?;
        for (index, (scenario, points)) in panels.iter().enumerate() {
            let panel = Panel {
                left: 70 + pixels(index % 2) * STEP.0,
                top: 100 + pixels(index / 2) * STEP.1,
                width: PANEL.0,
                height: PANEL.1,
                x: Scale::from_zero(points.iter().map(|point| point.time)),
                y: Scale::from_zero(points.iter().map(|point| point.lost)),
            };
            panel.title(area, scenario)?;
            panel.x_axis(area, "total time, seconds (median)")?;
            panel.y_axis(area, "lost by applications, seconds of the port")?;
            draw(area, &panel, points)?;
        }
        names(area, (2 * STEP.0, 80), &numbers)
    })?;
    Ok(Some(Figure {
        name: "pareto-by-scenario".to_owned(),
        title: "Total time against lost bytes, by scenario".to_owned(),
        caption: "As above, scenario by scenario; numbers mean the same in all panels.".to_owned(),
        svg,
    }))
}

/// Arms with the numbers that they have in all pictures.
fn numbered(analysis: &Analysis) -> impl Iterator<Item = (usize, &Arm)> {
    analysis.arms.iter().enumerate().map(|(index, arm)| (index + 1, arm))
}

fn list_width(analysis: &Analysis) -> i32 {
    60 + analysis.arms.iter().map(|arm| width_of(&arm.name, 13)).max().unwrap_or(0)
}

fn names(area: &Area<'_>, (left, top): (i32, i32), points: &[Point<'_>]) -> Result<(), Failed> {
    for (index, point) in points.iter().enumerate() {
        let y = top + pixels(index) * LIST_LINE;
        let color = color_of(point.arm.family);
        text(area, (left + 22, y), (13, color), Anchor::Right, &point.number.to_string())?;
        text(area, (left + 30, y), (13, INK), Anchor::Left, &point.arm.name)?;
    }
    Ok(())
}

fn draw(area: &Area<'_>, panel: &Panel, points: &[Point<'_>]) -> Result<(), Failed> {
    panel.frame(area)?;
    let mut front: Vec<&Point<'_>> = points.iter().filter(|of| is_front(of, points)).collect();
    front.sort_by(|a, b| a.time.total_cmp(&b.time));
    let mut stairs = Vec::new();
    for two in front.windows(2) {
        stairs.extend([panel.at((two[0].time, two[0].lost)), panel.at((two[1].time, two[0].lost))]);
    }
    stairs.extend(front.last().map(|last| panel.at((last.time, last.lost))));
    line(area, stairs, PALE.stroke_width(1))?;
    let own: Vec<(i32, i32)> =
        points.iter().map(|point| panel.at((point.time, point.lost))).collect();
    let places = apart(&own, panel);
    for ((point, own), place) in points.iter().zip(&own).zip(&places) {
        let color = color_of(point.arm.family);
        if own != place {
            line(area, vec![*own, *place], color.mix(0.6).stroke_width(1))?;
            mark(area, *own, 2, Mark::Circle, color)?;
        }
    }
    for (point, place) in points.iter().zip(&places) {
        let color = color_of(point.arm.family);
        mark(area, *place, RADIUS, Mark::of(point.arm.family), color)?;
        text(area, *place, (11, WHITE_INK), Anchor::Middle, &point.number.to_string())?;
    }
    Ok(())
}

/// Numbers stand on coloured marks.
const WHITE_INK: plotters::style::RGBColor = WHITE;

fn is_front(of: &Point<'_>, all: &[Point<'_>]) -> bool {
    !all.iter().any(|other| {
        other.time <= of.time
            && other.lost <= of.lost
            && (other.time < of.time || other.lost < of.lost)
    })
}

/// Rounds in which marks that overlap push each other away.
const PUSHES: usize = 200;

/// Places near the own ones at which no mark covers another, nor an axis.
fn apart(own: &[(i32, i32)], panel: &Panel) -> Vec<(i32, i32)> {
    let least = f64::from(2 * RADIUS + 5);
    let mut places: Vec<(f64, f64)> =
        own.iter().map(|(x, y)| inside((f64::from(*x), f64::from(*y)), panel)).collect();
    for _ in 0..PUSHES {
        let mut moved = false;
        for one in 0..places.len() {
            for other in one + 1..places.len() {
                let (dx, dy) = (places[other].0 - places[one].0, places[other].1 - places[one].1);
                let distance = dx.hypot(dy);
                if distance >= least {
                    continue;
                }
                moved = true;
                // Those at one place leave it in different directions.
                let (dx, dy) = if distance < 0.5 {
                    let angle = count(other * 7 + one);
                    (angle.cos(), angle.sin())
                } else {
                    (dx / distance, dy / distance)
                };
                let push = (least - distance) / 2.0 + 0.3;
                places[one] = inside((places[one].0 - dx * push, places[one].1 - dy * push), panel);
                places[other] =
                    inside((places[other].0 + dx * push, places[other].1 + dy * push), panel);
            }
        }
        if !moved {
            break;
        }
    }
    places.into_iter().map(|(x, y)| (pixel(x), pixel(y))).collect()
}

fn inside((x, y): (f64, f64), panel: &Panel) -> (f64, f64) {
    let r = f64::from(RADIUS + 3);
    let along = (f64::from(panel.left) + r, f64::from(panel.right()) - r);
    let up = (f64::from(panel.top) + r, f64::from(panel.bottom()) - r);
    (x.clamp(along.0, along.1), y.clamp(up.0, up.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_part() {
        let scale = Scale::linear(0.0, 1.0);
        let panel = Panel { left: 0, top: 0, width: 400, height: 300, x: scale, y: scale };
        let own = vec![(100, 100); 12];
        let places = apart(&own, &panel);
        for (one, (x, y)) in places.iter().enumerate() {
            assert!((0..400).contains(x) && (0..300).contains(y));
            for (other_x, other_y) in &places[one + 1..] {
                let distance = f64::from(x - other_x).hypot(f64::from(y - other_y));
                assert!(distance >= f64::from(2 * RADIUS), "{places:?}");
            }
        }
        let far = vec![(50, 50), (200, 200)];
        assert_eq!(apart(&far, &panel), far);
    }
}
