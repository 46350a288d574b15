//! How techniques fare by the direction of traffic and the end that it is at: the four panels of the field's preliminary
//! studies. Needs scenarios with the labels `traffic` and `end`; one picture for each value of the label `load`.

use super::{
    Failed, Figure,
    panel::{
        Anchor, Area, INK, PALE, Panel, SERIES, Scale, bar, count, legend, line, picture, pixel,
        pixels, text,
    },
};
use crate::{
    compare::{Analysis, Arm, Bench},
    result::RunRow,
    stats,
};
use plotters::style::{Color as _, RGBColor};
use std::collections::BTreeSet;

const PANEL: (i32, i32) = (440, 220);
const STEP: (i32, i32) = (540, 340);
/// Traffic in the order in which the field shows it.
const DIRECTIONS: [&str; 4] = ["none", "outgoing", "incoming", "both"];

type Measure = fn(&RunRow) -> Option<f64>;

pub(super) fn all(bench: &Bench, analysis: &Analysis) -> Result<Vec<Figure>, Failed> {
    let mut loads = BTreeSet::new();
    for scenario in &bench.resolved.suite.spec.scenarios {
        if scenario.labels.contains_key("traffic") && scenario.labels.contains_key("end") {
            loads.insert(scenario.labels.get("load").map_or("", String::as_str));
        }
    }
    let mut figures = Vec::new();
    for load in loads {
        figures.extend(figure(bench, analysis, load)?);
    }
    Ok(figures)
}

fn figure(bench: &Bench, analysis: &Analysis, load: &str) -> Result<Option<Figure>, Failed> {
    let arms: Vec<&Arm> = analysis.arms.iter().take(SERIES.len()).collect();
    let scenarios = |end: &str, traffic: &str| -> Vec<&str> {
        let all = bench.resolved.suite.spec.scenarios.iter();
        let of = |labels: &std::collections::BTreeMap<String, String>, name: &str, wanted: &str| {
            labels.get(name).map_or("", String::as_str) == wanted
        };
        // Without traffic there is no end that it is at.
        all.filter(|it| of(&it.labels, "traffic", traffic) && of(&it.labels, "load", load))
            .filter(|it| traffic == "none" || of(&it.labels, "end", end))
            .map(|it| it.name.as_str())
            .collect()
    };
    let values = |arm: &Arm, end: &str, traffic: &str, of: Measure| -> Vec<f64> {
        let wanted = scenarios(end, traffic);
        let results = bench
            .results
            .iter()
            .filter(|it| it.cell.arm() == arm.name && wanted.contains(&it.cell.scenario.as_str()));
        results.filter_map(|it| it.moved()).filter_map(of).collect()
    };
    let directions: Vec<&str> = DIRECTIONS
        .into_iter()
        .filter(|traffic| {
            ["source", "target"].iter().any(|end| !scenarios(end, traffic).is_empty())
        })
        .collect();
    let measures: [(&str, &str, Measure); 2] = [
        ("total time", "seconds", |run| Some(run.total_seconds)),
        ("downtime", "milliseconds", |run| Some(1000.0 * run.worst_downtime_seconds?)),
    ];
    let any = arms.iter().any(|arm| {
        directions.iter().any(|traffic| !values(arm, "source", traffic, measures[0].2).is_empty())
    });
    if !any {
        return Ok(None);
    }
    let (width, height) = (2 * STEP.0, 60 + 2 * STEP.1);
    let svg = picture(width, height, |area| {
        let entries: Vec<(String, RGBColor, Option<_>)> =
            arms.iter().zip(SERIES).map(|(arm, color)| (arm.name.clone(), color, None)).collect();
        let top = 20 + legend(area, (14, 20), width - 28, &entries)?;
        for (down, (name, unit, of)) in measures.iter().enumerate() {
            let all: Vec<f64> = arms
                .iter()
                .flat_map(|arm| ["source", "target"].map(|end| (arm, end)))
                .flat_map(|(arm, end)| {
                    directions.iter().flat_map(move |traffic| values(arm, end, traffic, *of))
                })
                .collect();
            for (across, end) in ["source", "target"].into_iter().enumerate() {
                let panel = Panel {
                    left: 70 + pixels(across) * STEP.0,
                    top: top + 50 + pixels(down) * STEP.1,
                    width: PANEL.0,
                    height: PANEL.1,
                    x: Scale::linear(0.0, count(directions.len())),
                    // Both ends have one scale: they are to be compared.
                    y: if down == 0 {
                        Scale::from_zero(all.iter().copied())
                    } else {
                        decades(&all)
                    },
                };
                panel.title(area, &format!("{name}, traffic at the {end}"))?;
                panel.y_axis(area, unit)?;
                panel.frame(area)?;
                if directions.iter().all(|traffic| scenarios(end, traffic).is_empty()) {
                    let middle = (panel.left + PANEL.0 / 2, panel.top + PANEL.1 / 2);
                    text(area, middle, (13, PALE), Anchor::Middle, "not part of this suite")?;
                }
                for (place, traffic) in directions.iter().enumerate() {
                    let middle = panel.across(count(place) + 0.5);
                    text(area, (middle, panel.bottom() + 13), (13, INK), Anchor::Middle, traffic)?;
                    let groups: Vec<Vec<f64>> =
                        arms.iter().map(|arm| values(arm, end, traffic, *of)).collect();
                    group(area, &panel, place, &groups)?;
                }
                let name = (panel.left + PANEL.0 / 2, panel.bottom() + 32);
                text(area, name, (12, PALE), Anchor::Middle, "traffic")?;
            }
        }
        Ok(())
    })?;
    let (name, title) = if load.is_empty() {
        ("techniques".to_owned(), "Techniques by traffic and end".to_owned())
    } else {
        (format!("techniques-{load}"), format!("Techniques by traffic and end, load {load}"))
    };
    Ok(Some(Figure {
        name,
        title,
        caption: "Bars are medians, thin lines span all runs. Traffic at the source is the moving VM's own; at the target it \
                  is a resident's there. Downtime stands on a scale by decades. The stream uses what the source sends and the target receives."
            .to_owned(),
        svg,
    }))
}

/// A scale for downtimes, which differ a thousandfold between techniques; it begins below the least, so that every bar is seen.
fn decades(values: &[f64]) -> Scale {
    let least = values.iter().copied().filter(|value| *value > 0.0).reduce(f64::min);
    Scale::decades(values.iter().copied().chain(least.map(|least| least / 2.0)))
}

/// Bars side by side around the middle of a place.
fn group(area: &Area<'_>, panel: &Panel, place: usize, groups: &[Vec<f64>]) -> Result<(), Failed> {
    let slot = 0.8 / count(groups.len().max(1));
    for (index, (values, color)) in groups.iter().zip(SERIES).enumerate() {
        let Some(middle) = stats::median(values) else { continue };
        let start = count(place) + 0.1 + count(index) * slot;
        let (left, right) = (panel.across(start) + 1, panel.across(start + slot) - 1);
        bar(area, [(left, panel.up(middle)), (right, panel.bottom())], color.filled())?;
        let ends = [stats::quantile(values, 0.0), stats::quantile(values, 1.0)];
        if let [Some(least), Some(most)] = ends {
            let x = pixel(f64::from(left + right) / 2.0);
            line(area, vec![(x, panel.up(least)), (x, panel.up(most))], INK.stroke_width(1))?;
        }
    }
    Ok(())
}
