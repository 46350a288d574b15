//! A plan's moves as a table that is read at 100 columns.

use super::rows::Row;
use comfy_table::{
    Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets::NOTHING,
};
use droveway_fleet::{Bandwidth, report::Quantiles};
use droveway_model::forecast::Ends;

/// What is not known.
const NONE: &str = "-";
/// Where nobody says how wide the screen is.
const USUAL_WIDTH: u16 = 100;
/// Narrower than this there is no room for reasons.
const WIDTH_MIN: u16 = 100;
/// Wider lines are lost by the eye.
const WIDTH_MAX: u16 = 160;
/// With less than this the technique stands below the VM's name.
const ROOMY: u16 = 116;
/// Space between two columns.
const GAP: u16 = 2;
/// Reasons narrower than this are a word a line.
const WHY_MIN: u16 = 13;
/// Longer names are cut, on a screen that is not roomy: the plan has them whole.
const NAME_MAX: usize = 13;

/// As wide as the screen, if there is one.
pub(crate) fn width() -> u16 {
    Table::new().width().unwrap_or(USUAL_WIDTH).clamp(WIDTH_MIN, WIDTH_MAX)
}

/// The table, without an end of line.
pub(crate) fn table(rows: &[Row], width: u16) -> String {
    let roomy = width >= ROOMY;
    let mut header = vec!["#", if roomy { "VM" } else { "VM, technique" }];
    if roomy {
        header.push("technique");
    }
    header.extend(["start", "rate", "takes", "downtime", "outage", "loses", "why"]);
    let last = header.len() - 1;
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width)
        .set_header(header);
    for row in rows {
        let mut cells = vec![row.number.to_string()];
        if roomy {
            cells.extend([row.vm.to_string(), row.technique.to_string()]);
        } else {
            cells.push(format!("{}\n{}", cut(row.vm.as_str()), row.technique));
        }
        cells.extend([start(row), rate(row)]);
        cells.extend(match row.ends {
            Some(Ends::NotAtAll) => ["stays at\nsource", NONE, NONE].map(str::to_owned),
            ends => {
                let takes = said(row.duration_seconds, seconds);
                let fell = if ends == Some(Ends::ByFallback) { "\nby fallback" } else { "" };
                let times = [row.downtime_seconds, row.outage_seconds];
                let [downtime, outage] = times.map(|of| said(of, seconds));
                [takes + fell, downtime, outage]
            }
        });
        // A figure and its unit stay together.
        let why = row.why.join("\n").replace(" %", "\u{a0}%").replace(" s\n", "\u{a0}s\n");
        let why = why.strip_suffix(" s").map_or(why.clone(), |rest| format!("{rest}\u{a0}s"));
        cells.extend([said(row.lost_bytes, amount), why]);
        table.add_row(cells.into_iter().map(Cell::new));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { GAP }));
        column.set_cell_alignment(CellAlignment::Left);
        // Reasons are broken; figures and names are not.
        column.set_constraint(if index == last {
            ColumnConstraint::LowerBoundary(Width::Fixed(WHY_MIN))
        } else {
            ColumnConstraint::ContentWidth
        });
    }
    table.trim_fmt()
}

/// What is below the table, for whoever reads one for the first time.
pub(crate) const LEGEND: &str = "\
each figure: the middle of the forecast, below it p10-p90. rate: the ceiling of the VM's stream (of
post-copy: of its background stream, of a hybrid: / of that). loses: what traffic from and to the
VM does not get. why: what the VM sends and receives of the port; then the technique that comes
next, and what it would cost more";

fn cut(name: &str) -> String {
    if name.chars().count() <= NAME_MAX {
        return name.to_owned();
    }
    name.chars().take(NAME_MAX - 1).chain(['…']).collect()
}

fn start(row: &Row) -> String {
    let rule = match (row.after, row.starts.as_str()) {
        (Some(row), _) => format!("after #{}", row + 1),
        (None, "after the wait") => "after wait".to_owned(),
        (None, "as one ends") => "as 1 ends".to_owned(),
        (None, other) => other.to_owned(),
    };
    match row.start_seconds {
        Some(at) => format!("{} s\n{rule}", short(at)),
        None => rule,
    }
}

fn rate(row: &Row) -> String {
    let human = |bits: Option<u64>| {
        bits.map_or_else(
            || "unlimited".to_owned(),
            |bits| Bandwidth::from_bits_per_second(bits).human(),
        )
    };
    let own = human(row.rate_bits_per_second);
    match row.background_bits_per_second {
        Some(then) if row.rate_bits_per_second != Some(then) => {
            format!("{own} /\n{}", human(Some(then)))
        }
        _ => own,
    }
}

fn said(range: Option<Quantiles>, words: fn(Quantiles) -> String) -> String {
    range.map_or_else(|| NONE.to_owned(), words)
}

/// The middle, below it the interval, both in the same unit.
fn seconds(range: Quantiles) -> String {
    let Quantiles { p10, p50, p90 } = range;
    if p50 < 0.9995 {
        format!("{:.0} ms\n{:.0}-{:.0}", 1e3 * p50, 1e3 * p10, 1e3 * p90)
    } else {
        format!("{} s\n{}-{}", short(p50), short(p10), short(p90))
    }
}

/// Below this nobody weighs a loss, bytes.
const LOST_MIN: f64 = 5e4;

fn amount(range: Quantiles) -> String {
    let Quantiles { p10, p50, p90 } = range;
    if p90 < LOST_MIN {
        return "none".to_owned();
    }
    let (unit, name) = unit(p50);
    format!("{} {name}\n{}-{}", short(p50 / unit), short(p10 / unit), short(p90 / unit))
}

/// The unit in which an amount has few digits.
fn unit(bytes: f64) -> (f64, &'static str) {
    if bytes < 0.9995e9 { (1e6, "MB") } else { (1e9, "GB") }
}

/// Bytes that are lost, with their interval, in a line.
pub(crate) fn lost(range: Quantiles) -> String {
    let Quantiles { p10, p50, p90 } = range;
    if p90 < LOST_MIN {
        return "nothing".to_owned();
    }
    let (unit, name) = unit(p50);
    let [p10, p50, p90] = [p10, p50, p90].map(|of| short(of / unit));
    format!("{p50} {name} ({p10} to {p90} {name})")
}

/// Three digits are enough.
fn short(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{:.2}", v.max(0.0)),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests;
