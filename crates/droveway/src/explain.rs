//! What a planner says about its choice: its cost part by part, what else could be had, and why each VM goes its way.

use comfy_table::Table;
use droveway_plan::{
    adaptive::{Alternative, Deadlines, Reasoning, Verdict},
    search::Cost,
};

/// Everything, for a terminal.
pub(crate) fn text(reasoning: &Reasoning) -> String {
    let mut lines = vec![chosen(reasoning)];
    lines.extend(reasoning.deadlines.as_ref().map(deadlines));
    lines.extend(reasoning.remarks.iter().cloned());
    lines.push(String::new());
    lines.push(
        "what could be had instead (by urgency; none is worse than another in everything):"
            .to_owned(),
    );
    lines.push(table(&reasoning.frontier, false));
    lines.push(String::new());
    lines.push("the plain policies, under the same weights:".to_owned());
    lines.push(table(&reasoning.alternatives, true));
    lines.push(String::new());
    for why in &reasoning.why {
        lines.push(format!("{}: {}", why.vm, why.reason));
    }
    lines.join("\n")
}

/// Whether deadlines can be kept, in a sentence.
pub(crate) fn deadlines(deadlines: &Deadlines) -> String {
    let fastest = deadlines.fastest_seconds;
    let mut text = match deadlines.verdict {
        Verdict::Feasible => {
            format!(
                "deadlines: kept, even if the forecast is off (the fastest takes {fastest:.1} s)"
            )
        }
        Verdict::AtRisk => format!(
            "deadlines: kept if the forecast holds, but it may be off (the fastest surely takes {fastest:.1} s)"
        ),
        Verdict::Infeasible => {
            format!("deadlines: no schedule keeps them (the fastest takes {fastest:.1} s)")
        }
        Verdict::Impossible => format!(
            "deadlines: impossible, what has to be sent takes longer (the fastest takes {fastest:.1} s)"
        ),
    };
    if !deadlines.binding.is_empty() {
        let binding: Vec<String> = deadlines.binding.iter().map(ToString::to_string).collect();
        text.push_str(&format!("; what stands in the way: {}", binding.join(", ")));
    }
    if !deadlines.remedies.is_empty() {
        text.push_str(&format!("; what would help: {}", deadlines.remedies.join(", or ")));
    }
    text
}

fn chosen(reasoning: &Reasoning) -> String {
    let searched = if reasoning.gap > 0.0 {
        let one_at_a_time = reasoning.serial_gap.filter(|gap| *gap < reasoning.gap).map(|gap| {
            format!(", nothing that moves one VM at a time more than {:.2} %", 100.0 * gap)
        });
        format!(
            "{} schedules played; nothing can be more than {:.0} % better{}",
            reasoning.plays,
            100.0 * reasoning.gap,
            one_at_a_time.unwrap_or_default()
        )
    } else {
        format!("every schedule considered, {} played", reasoning.plays)
    };
    let mut text = format!("urgency {}: {}; {searched}", reasoning.urgency, parts(&reasoning.cost));
    if let Some(other) = &reasoning.preferred_to {
        text.push_str(&format!(
            "\n{} it is: the best that the search found ({}) gains less than the forecast may be off ({:.2} s)",
            reasoning.chosen,
            parts(other),
            reasoning.error
        ));
    }
    text
}

fn parts(cost: &Cost) -> String {
    format!(
        "cost {:.2} s = {:.2} s in all, {:.2} s of silence, {:.1} MB lost, {:.1} s exposed",
        cost.value,
        cost.parts.total_seconds,
        cost.parts.outage_seconds,
        cost.parts.lost_bytes / 1e6,
        cost.parts.exposure_seconds
    )
}

fn table(alternatives: &[Alternative], margins: bool) -> String {
    let mut table = Table::new();
    let mut header =
        vec!["", "total time", "applications lose", "longest silence", "exposed", "cost"];
    if margins {
        header.push("worse by");
    }
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    for other in alternatives {
        let parts = &other.cost.parts;
        let mut row = vec![
            other.name.clone(),
            format!("{:.2} s", parts.total_seconds),
            format!("{:.1} MB", parts.lost_bytes / 1e6),
            format!("{:.2} s", other.worst_outage_seconds),
            format!("{:.1} s", parts.exposure_seconds),
            format!("{:.2}", other.cost.value),
        ];
        if margins {
            row.push(format!("{:.0} %", 100.0 * other.margin));
        }
        table.add_row(row);
    }
    table.to_string()
}
