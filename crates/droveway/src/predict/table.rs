//! A prediction for people.

use super::{Cost, GangCost, MIB, Prediction};
use comfy_table::{Table, presets};
use droveway_fleet::report::Quantiles;
use droveway_model::forecast::{Ends, MoveForecast};
use std::fmt::Write as _;

/// A missing figure.
const NONE: &str = "-";

pub(super) fn render(prediction: &Prediction) -> String {
    let mut text = format!(
        "{} -> {}; snapshot of {}; learned from {} runs; p50 (p10-p90)\n{}\n",
        prediction.source,
        prediction.target,
        prediction.snapshot_taken_at,
        prediction.learned_from,
        alone(&prediction.vms)
    );
    for cost in &prediction.vms {
        if let Some(reason) = &cost.reason {
            let _ = writeln!(text, "{}, {}: {reason}", cost.vm, technique(cost));
        }
        if let Some(share) = cost.throttle_ratio.filter(|share| *share > 0.0) {
            let _ = writeln!(
                text,
                "{}, {}: the guest lacks {:.0} % of its CPU time in the end",
                cost.vm,
                technique(cost),
                share * 100.0
            );
        }
    }
    if !prediction.gang.is_empty() {
        let _ = write!(text, "\n{}\n", together(&prediction.gang));
        for cost in &prediction.gang {
            if let Some(reason) = &cost.reason {
                let _ = writeln!(text, "{}: {reason}", cost.policy);
            }
        }
    }
    for remark in &prediction.remarks {
        let _ = writeln!(text, "note: {remark}");
    }
    text
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table
}

fn technique(cost: &Cost) -> String {
    let throttled = if cost.throttled { ", throttled" } else { "" };
    format!("{}{throttled}", cost.technique)
}

fn alone(costs: &[Cost]) -> Table {
    let mut table = table(&[
        "VM",
        "technique",
        "duration",
        "downtime",
        "outage",
        "migrated",
        "exposed",
        "applications lose",
    ]);
    for cost in costs {
        let stays = cost.forecast.as_ref().is_some_and(|f| f.ends == Ends::NotAtAll);
        let cell = |of: fn(&MoveForecast) -> String| {
            cost.forecast.as_ref().map_or_else(|| NONE.to_owned(), of)
        };
        // A VM that stays was never stopped; what was sent for it and what applications lost until then is known.
        let of_end = |text: String| if stays { NONE.to_owned() } else { text };
        let duration = cell(|f| seconds(f.duration_seconds));
        table.add_row([
            cost.vm.to_string(),
            technique(cost),
            match &cost.forecast {
                None => "not allowed".to_owned(),
                Some(_) if stays => format!("gives up: {duration}"),
                Some(_) => duration,
            },
            of_end(cell(|f| milliseconds(f.downtime_seconds))),
            of_end(cell(|f| milliseconds(f.outage_seconds))),
            cell(|f| mebibytes(f.bytes)),
            cell(|f| exposed(f.exposure_seconds)),
            cost.lost_bytes.map_or_else(|| NONE.to_owned(), mebibytes),
        ]);
    }
    table
}

fn together(costs: &[GangCost]) -> Table {
    let mut table = table(&[
        "all together",
        "total time",
        "longest downtime",
        "longest outage",
        "migrated",
        "exposed",
        "applications lose",
    ]);
    for cost in costs {
        let longest = |value: Option<f64>| {
            value.map_or_else(|| NONE.to_owned(), |value| format!("{:.0} ms", value * 1e3))
        };
        let range = |value: Option<Quantiles>, of: fn(Quantiles) -> String| {
            value.map_or_else(|| NONE.to_owned(), of)
        };
        table.add_row([
            cost.policy.to_owned(),
            range(cost.total_seconds, seconds),
            longest(cost.longest_downtime_seconds),
            longest(cost.longest_outage_seconds),
            range(cost.bytes, mebibytes),
            range(cost.exposure_seconds, exposed),
            range(cost.lost_bytes, mebibytes),
        ]);
    }
    table
}

fn seconds(range: Quantiles) -> String {
    format!("{:.2} s ({:.2}-{:.2})", range.p50, range.p10, range.p90)
}

fn exposed(range: Quantiles) -> String {
    if range.p90 <= 0.0 { "never".to_owned() } else { seconds(range) }
}

fn milliseconds(range: Quantiles) -> String {
    format!("{:.0} ms ({:.0}-{:.0})", range.p50 * 1e3, range.p10 * 1e3, range.p90 * 1e3)
}

fn mebibytes(range: Quantiles) -> String {
    // Below a mebibyte there is nothing to weigh.
    if range.p90 < 0.5 * MIB {
        return "none".to_owned();
    }
    format!("{:.0} MiB ({:.0}-{:.0})", range.p50 / MIB, range.p10 / MIB, range.p90 / MIB)
}
