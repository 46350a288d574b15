//! Forecasts of the total time against what came.

use super::{
    Failed, Figure,
    panel::{
        BLUE, GREEN, GREY, Mark, PALE, PURPLE, Panel, Scale, VERMILION, legend, line, mark, picture,
    },
};
use crate::{
    compare::{Bench, Family},
    result::RunRow,
};
use plotters::style::{Color as _, RGBColor};

pub(super) fn figure(bench: &Bench) -> Result<Option<Figure>, Failed> {
    let runs: Vec<(&RunRow, Option<Family>)> = bench
        .results
        .iter()
        .filter_map(|it| Some((it.moved()?, bench.resolved.policy(&it.cell).map(Family::of))))
        .filter(|(run, _)| run.predicted_seconds_p50.is_some())
        .collect();
    if runs.is_empty() {
        return Ok(None);
    }
    let all = || {
        let predicted = runs.iter().flat_map(|(run, _)| {
            [run.predicted_seconds_p10, run.predicted_seconds_p50, run.predicted_seconds_p90]
        });
        predicted.flatten().chain(runs.iter().map(|(run, _)| run.total_seconds))
    };
    let svg = picture(680, 680, |area| {
        let families = [Family::Ours, Family::Plain, Family::Published, Family::Product];
        let entries: Vec<(String, RGBColor, Option<Mark>)> = families
            .into_iter()
            .filter(|family| runs.iter().any(|(_, own)| *own == Some(*family)))
            .map(|family| (family.name().to_owned(), color(Some(family)), Some(Mark::of(family))))
            .collect();
        legend(area, (14, 20), 650, &entries)?;
        let scale = Scale::decades(all());
        let panel = Panel { left: 70, top: 70, width: 570, height: 540, x: scale, y: scale };
        panel.x_axis(
            area,
            "forecast of the total time, seconds (median; lines: first to ninth decile)",
        )?;
        panel.y_axis(area, "total time, seconds")?;
        panel.frame(area)?;
        let corners = vec![(panel.left, panel.bottom()), (panel.right(), panel.top)];
        line(area, corners, PALE.stroke_width(1))?;
        for (run, family) in &runs {
            let color = color(*family);
            let y = panel.up(run.total_seconds);
            if let (Some(low), Some(high)) = (run.predicted_seconds_p10, run.predicted_seconds_p90)
            {
                let ends = vec![(panel.across(low), y), (panel.across(high), y)];
                line(area, ends, color.mix(0.35).stroke_width(1))?;
            }
            let Some(middle) = run.predicted_seconds_p50 else { continue };
            let shape = family.map_or(Mark::Circle, Mark::of);
            mark(area, (panel.across(middle), y), 3, shape, color)?;
        }
        Ok(())
    })?;
    Ok(Some(Figure {
        name: "forecast".to_owned(),
        title: "Forecast against outcome".to_owned(),
        caption: "Each mark is a run. On the slanted line the forecast came true; above it the move took longer.".to_owned(),
        svg,
    }))
}

const fn color(family: Option<Family>) -> RGBColor {
    match family {
        Some(Family::Ours | Family::Ablation) => VERMILION,
        Some(Family::Plain) => BLUE,
        Some(Family::Published) => GREEN,
        Some(Family::Product) => PURPLE,
        None => GREY,
    }
}
