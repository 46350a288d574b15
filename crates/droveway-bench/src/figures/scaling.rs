//! How total time grows with what scenarios differ in. Needs the labels `axis` (what differs, with its unit) and `value` (a
//! number); scenarios of one axis are one picture.

use super::{
    Failed, Figure,
    panel::{GREY, Mark, Panel, SERIES, Scale, legend, line, mark, picture, pixels},
};
use crate::compare::{Analysis, Bench, medians};
use plotters::style::{Color as _, RGBColor};
use std::collections::BTreeMap;

/// Fewer values are no scale.
const VALUES_LEAST: usize = 3;
const PANEL: (i32, i32) = (470, 320);

pub(super) fn all(bench: &Bench, analysis: &Analysis) -> Result<Vec<Figure>, Failed> {
    let mut axes: BTreeMap<&str, Vec<(f64, &str)>> = BTreeMap::new();
    for scenario in &bench.resolved.suite.spec.scenarios {
        let label = |name: &str| scenario.labels.get(name);
        let value = label("value").and_then(|text| text.parse::<f64>().ok());
        if let (Some(axis), Some(value)) = (label("axis"), value) {
            axes.entry(axis).or_default().push((value, scenario.name.as_str()));
        }
    }
    let mut figures = Vec::new();
    for (axis, mut scenarios) in axes {
        scenarios.sort_by(|a, b| a.0.total_cmp(&b.0));
        if scenarios.len() >= VALUES_LEAST {
            figures.extend(figure(bench, analysis, axis, &scenarios)?);
        }
    }
    Ok(figures)
}

/// What a line shows.
type Points = Vec<(f64, f64)>;

fn figure(
    bench: &Bench,
    analysis: &Analysis,
    axis: &str,
    scenarios: &[(f64, &str)],
) -> Result<Option<Figure>, Failed> {
    let line_of = |arm: &str, measure: usize| -> Points {
        let of = |(value, scenario): &(f64, &str)| {
            Some((*value, medians(bench, scenario, arm)?[measure]))
        };
        scenarios.iter().filter_map(of).collect()
    };
    let over_line_rate = |arm: &str| -> Points {
        let of = |(value, scenario): &(f64, &str)| {
            let runs = bench.results.iter();
            let own = runs.filter(|it| it.cell.scenario == *scenario && it.cell.arm() == arm);
            let ratios: Vec<f64> =
                own.filter_map(|it| crate::compare::over_line_rate(it.moved()?)).collect();
            Some((*value, crate::stats::median(&ratios)?))
        };
        scenarios.iter().filter_map(of).collect()
    };
    let names: Vec<&str> = analysis.arms.iter().map(|arm| arm.name.as_str()).collect();
    let panels: [(&str, &str, Vec<Points>); 2] = [
        ("total time", "times line rate", names.iter().map(|arm| over_line_rate(arm)).collect()),
        (
            "lost by applications",
            "seconds of the port",
            names.iter().map(|arm| line_of(arm, 1)).collect(),
        ),
    ];
    if panels[0].2.iter().all(|points| points.len() < 2) {
        return Ok(None);
    }
    let (width, height) = (2 * (PANEL.0 + 100), PANEL.1 + 190);
    let svg = picture(width, height, |area| {
        let entries: Vec<(String, RGBColor, Option<Mark>)> = names
            .iter()
            .enumerate()
            .map(|(index, name)| ((*name).to_owned(), color(index), Some(shape(index))))
            .collect();
        let top = 20 + legend(area, (14, 20), width - 28, &entries)?;
        for (place, (title, unit, lines)) in panels.iter().enumerate() {
            let values = || lines.iter().flatten().map(|(_, value)| *value);
            let panel = Panel {
                left: 70 + pixels(place) * (PANEL.0 + 100),
                top: top + 50,
                width: PANEL.0,
                height: PANEL.1,
                x: Scale::decades(scenarios.iter().map(|(value, _)| *value)),
                y: if place == 0 { Scale::decades(values()) } else { Scale::from_zero(values()) },
            };
            panel.title(area, title)?;
            panel.x_axis(area, axis)?;
            panel.y_axis(area, unit)?;
            panel.frame(area)?;
            for (index, points) in lines.iter().enumerate() {
                let places: Vec<(i32, i32)> = points.iter().map(|point| panel.at(*point)).collect();
                for at in &places {
                    mark(area, *at, 4, shape(index), color(index))?;
                }
                line(area, places, color(index).stroke_width(2))?;
            }
        }
        Ok(())
    })?;
    let name: String = axis
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    Ok(Some(Figure {
        name: format!("scaling-{}", name.trim_matches('-')),
        title: format!("Scaling with {axis}"),
        caption:
            "Medians; total time over line rate, so that a flat line is a cost that does not grow."
                .to_owned(),
        svg,
    }))
}

/// Colours and marks repeat after each other, so that eight times four lines are told apart.
fn color(index: usize) -> RGBColor {
    SERIES.get(index % SERIES.len()).copied().unwrap_or(GREY)
}

fn shape(index: usize) -> Mark {
    [Mark::Circle, Mark::Square, Mark::Triangle, Mark::Diamond][index / SERIES.len() % 4]
}
