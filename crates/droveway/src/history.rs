//! `report --calibration`: how good forecasts were, over everything that is remembered. A table, a figure, raw data.

use crate::{
    cli::{self, Output, ReportArgs},
    exit::{Exit, Failure},
    fleet, state,
};
use anyhow::Context as _;
use droveway_fleet::report::Quantiles;
use droveway_model::{
    calibration::{Quantity, RunRecord, SHORTEST_SECONDS},
    score::{Pair, Score, score},
};
use plotters::prelude::*;
use serde::Serialize;
use std::{fmt::Write as _, fs, path::Path};

/// One forecast and its outcome, of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    run_id: String,
    label: String,
    vm: String,
    technique: String,
    quantity: Quantity,
    p10: f64,
    p50: f64,
    p90: f64,
    outcome: f64,
    held_out: bool,
    cpu_busy_ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct History {
    constants: droveway_model::fluid::Constants,
    counts: std::collections::BTreeMap<String, u32>,
    scores: Vec<Score>,
    held_out_scores: Vec<Score>,
    runs: usize,
    held_out_runs: usize,
}

pub(crate) fn run(
    args: &ReportArgs,
    fleet: Option<&Path>,
    calibration: Option<&Path>,
    output: Output,
) -> Result<Exit, Failure> {
    let path = match calibration {
        Some(path) => path.to_owned(),
        None => state::calibration_path(&fleet::load(fleet)?, None),
    };
    let calibration = state::calibration(&path)?;
    let rows: Vec<Row> = calibration.records.iter().flat_map(rows).collect();
    if rows.is_empty() {
        return Err(Failure::says(
            Exit::Blocked,
            format!("{}: no run with a forecast is remembered", path.display()),
        )
        .hint("`droveway drain ... --measure 3s` makes one, `droveway calibrate` several"));
    }
    let held_out = calibration.records.iter().filter(|record| record.held_out).count();
    let history = History {
        constants: calibration.constants,
        counts: calibration.counts.clone(),
        scores: scores(&rows, false),
        held_out_scores: scores(&rows, true),
        runs: calibration.records.len() - held_out,
        held_out_runs: held_out,
    };
    if let Some(path) = &args.csv {
        fs::write(path, csv(&rows)).with_context(|| format!("writing {}", path.display()))?;
        eprintln!("forecasts and outcomes: {}", path.display());
    }
    if let Some(path) = &args.figure {
        let svg = figure(&rows).map_err(|error| anyhow::anyhow!("drawing: {error}"))?;
        fs::write(path, svg).with_context(|| format!("writing {}", path.display()))?;
        eprintln!("figure: {}", path.display());
    }
    if output == Output::Table {
        print(&history, &path);
        return Ok(Exit::Done);
    }
    cli::print_data(&history, output)?;
    Ok(Exit::Done)
}

fn rows(record: &RunRecord) -> Vec<Row> {
    let Some(said) = &record.forecast else { return Vec::new() };
    if !record.outcomes.iter().all(|outcome| outcome.completed) {
        return Vec::new();
    }
    let row = |vm: &str, technique: &str, quantity, range: Quantiles, outcome: f64| Row {
        run_id: record.run_id.clone(),
        label: record.label.clone(),
        vm: vm.to_owned(),
        technique: technique.to_owned(),
        quantity,
        p10: range.p10,
        p50: range.p50,
        p90: range.p90,
        outcome,
        held_out: record.held_out,
        cpu_busy_ratio: record.cpu_busy_ratio,
    };
    let mut rows = vec![row("", "", Quantity::Total, said.total_seconds, record.total_seconds)];
    let moves = record.vms.iter().zip(&record.outcomes).zip(&record.gang.moves).zip(&said.moves);
    for (((vm, outcome), step), said) in moves {
        let (vm, technique) = (vm.as_str(), step.technique.name());
        let mut add = |quantity, range, outcome: Option<f64>| {
            rows.extend(outcome.map(|outcome| row(vm, technique, quantity, range, outcome)));
        };
        add(Quantity::Duration, said.duration_seconds, Some(outcome.duration_seconds));
        add(Quantity::Downtime, said.downtime_seconds, outcome.downtime_seconds);
        add(Quantity::Outage, said.outage_seconds, outcome.outage_seconds);
        if let Some(blocked) = said.blocked_seconds {
            let seen = outcome.blocked_seconds.map(|seen| seen.max(SHORTEST_SECONDS));
            add(Quantity::Blocked, blocked, seen);
        }
    }
    rows
}

const QUANTITIES: [Quantity; 5] =
    [Quantity::Total, Quantity::Duration, Quantity::Downtime, Quantity::Outage, Quantity::Blocked];

const fn words(quantity: Quantity) -> &'static str {
    match quantity {
        Quantity::Total => "total migration time",
        Quantity::Duration => "a VM's time",
        Quantity::Downtime => "downtime",
        Quantity::Outage => "outage",
        Quantity::Blocked => "waiting for pages",
    }
}

fn scores(rows: &[Row], held_out: bool) -> Vec<Score> {
    QUANTITIES
        .into_iter()
        .filter_map(|quantity| {
            let pairs: Vec<Pair> = rows
                .iter()
                .filter(|row| row.quantity == quantity && row.held_out == held_out)
                .map(|row| Pair {
                    said: Quantiles { p10: row.p10, p50: row.p50, p90: row.p90 },
                    outcome: row.outcome,
                })
                .collect();
            score(quantity, &pairs)
        })
        .collect()
}

#[expect(clippy::print_stdout, reason = "the command's data")]
fn print(history: &History, path: &Path) {
    println!("{}", path.display());
    let kinds = [
        ("learned from", history.runs, &history.scores),
        ("held out", history.held_out_runs, &history.held_out_scores),
    ];
    for (what, runs, scores) in kinds {
        if runs == 0 {
            continue;
        }
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header([
            format!("{what}: {runs} runs").as_str(),
            "forecasts",
            "error, median",
            "p90",
            "within 1.5x",
            "within 2x",
            "in p10-p90",
        ]);
        for score in scores {
            let percent = |share: f64| format!("{:.0} %", share * 100.0);
            table.add_row([
                words(score.quantity).to_owned(),
                score.count.to_string(),
                format!("{:.1} %", score.median_error * 100.0),
                format!("{:.1} %", score.p90_error * 100.0),
                percent(score.within_1_5),
                percent(score.within_2),
                percent(score.covered),
            ]);
        }
        println!("\n{table}");
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(["constant", "value", "moves"]);
    let constants = serde_json::to_value(history.constants).unwrap_or_default();
    for (name, count) in &history.counts {
        let value = constants.get(name).map_or_else(String::new, |value| {
            format!("{:.4e}", value.as_f64().unwrap_or_default())
        });
        table.add_row([name.clone(), value, count.to_string()]);
    }
    println!("\n{table}");
}

fn csv(rows: &[Row]) -> String {
    let mut text = String::from(
        "run,label,vm,technique,quantity,p10_s,p50_s,p90_s,outcome_s,held_out,cpu_busy\n",
    );
    for row in rows {
        let quantity = serde_json::to_value(row.quantity).unwrap_or_default();
        let _ = writeln!(
            text,
            "{},{},{},{},{},{:.4},{:.4},{:.4},{:.4},{},{}",
            row.run_id,
            row.label,
            row.vm,
            row.technique,
            quantity.as_str().unwrap_or_default(),
            row.p10,
            row.p50,
            row.p90,
            row.outcome,
            row.held_out,
            row.cpu_busy_ratio.map_or_else(String::new, |busy| format!("{busy:.2}")),
        );
    }
    text
}

/// Colours that the colour-blind can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// Outcome against forecast, both logarithmic, with each forecast's p10 to p90 as a bar: what is on the line was right.
fn figure(rows: &[Row]) -> Result<String, Box<dyn std::error::Error>> {
    const SIZE: (u32, u32) = (900, 760);
    let positive = |value: f64| value.max(0.01);
    let all = || rows.iter().flat_map(|row| [row.p10, row.p90, row.outcome]).map(positive);
    let low = all().fold(f64::INFINITY, f64::min) / 1.3;
    let high = all().fold(0.0, f64::max) * 1.3;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption("Forecast and outcome", ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d((low..high).log_scale(), (low..high).log_scale())?;
        let label = |value: &f64| {
            if *value < 1.0 { format!("{value:.2}") } else { format!("{value:.0}") }
        };
        chart
            .configure_mesh()
            .light_line_style(RGBColor(235, 235, 235))
            .bold_line_style(RGBColor(215, 215, 215))
            .x_desc("forecast, seconds (bar: p10 to p90)")
            .y_desc("outcome, seconds")
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .label_style(("sans-serif", 15))
            .draw()?;
        let diagonal = [(low, low), (high, high)];
        chart.draw_series(LineSeries::new(diagonal, RGBColor(120, 120, 120)))?;
        for (quantity, colour) in QUANTITIES.into_iter().zip(COLOURS) {
            let own: Vec<_> = rows.iter().filter(|row| row.quantity == quantity).collect();
            let bars = own.iter().map(|row| {
                let at = positive(row.outcome);
                let ends = vec![(positive(row.p10), at), (positive(row.p90), at)];
                PathElement::new(ends, colour.mix(0.25))
            });
            chart.draw_series(bars)?;
            let points = own.iter().map(|row| {
                Circle::new((positive(row.p50), positive(row.outcome)), 3, colour.filled())
            });
            chart
                .draw_series(points)?
                .label(words(quantity))
                .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.9))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 15))
            .draw()?;
        root.present()?;
    }
    Ok(svg)
}
