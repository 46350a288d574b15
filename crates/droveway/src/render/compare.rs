//! Runs side by side: a column a run, the best value of each row marked.

use super::words::{
    NONE, bytes, exit_words, latency, line_rate_ratio, milliseconds, moved, percent, seconds,
    technique,
};
use comfy_table::{Table, presets::NOTHING};
use droveway_fleet::RunReport;

/// Values nearer than this are a tie: one run's noise is larger.
const TIE: f64 = 0.02;

/// A row: its label, and for each run the text and, where less is better, the figure.
struct Row {
    label: String,
    cells: Vec<(String, Option<f64>)>,
}

impl Row {
    fn words(label: &str, cells: impl Iterator<Item = String>) -> Self {
        Row { label: label.to_owned(), cells: cells.map(|text| (text, None)).collect() }
    }

    fn figures(
        label: String,
        values: impl Iterator<Item = Option<f64>>,
        text: fn(Option<f64>) -> String,
    ) -> Self {
        Row { label, cells: values.map(|value| (text(value), value)).collect() }
    }

    /// The cells, the best one marked if it is the only best.
    fn marked(&self) -> Vec<String> {
        let best = self.cells.iter().filter_map(|(_, value)| *value).min_by(f64::total_cmp);
        let near = |value: f64| best.is_some_and(|best| value - best <= TIE * best.abs());
        let ties = self.cells.iter().filter(|(_, value)| value.is_some_and(near)).count();
        let comparable = self.cells.iter().filter(|(_, value)| value.is_some()).count();
        self.cells
            .iter()
            .map(|(text, value)| {
                let wins = ties < comparable && value.is_some_and(near);
                format!("{text}{}", if wins { " *" } else { "" })
            })
            .collect()
    }
}

pub(crate) fn side_by_side(reports: &[RunReport]) -> String {
    let mut table = Table::new();
    let names = reports.iter().map(|report| {
        let own: Vec<_> =
            report.intent.techniques.iter().map(|(vm, own)| format!("{vm}={own}")).collect();
        if own.is_empty() {
            report.policy.clone()
        } else {
            format!("{}\n{}", report.policy, own.join("\n"))
        }
    });
    table.load_style(NOTHING).set_header([String::new()].into_iter().chain(names));
    for row in rows(reports) {
        table.add_row([row.label.clone()].into_iter().chain(row.marked()));
    }
    format!("{table}\n\n* clearly the better one (less is better)\n")
}

/// What all traffic lost; `None` where none was logged.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn lost(report: &RunReport) -> Option<f64> {
    let logged = report.applications.iter().any(|app| app.is_traffic() && app.lost_bytes.is_some());
    logged.then(|| report.lost_network_bytes() as f64)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "was a whole number")]
fn whole(amount: f64) -> u64 {
    amount as u64
}

fn rows(reports: &[RunReport]) -> Vec<Row> {
    let all = || reports.iter();
    let mut rows = vec![
        Row::words(
            "result",
            all().map(|r| {
                format!("{}/{} moved, {}", moved(r), r.vms.len(), exit_words(r.exit_code))
            }),
        ),
        Row::figures(
            "total migration time".to_owned(),
            all().map(|r| Some(r.total_migration_time_seconds)),
            seconds,
        ),
        Row::figures("times line rate".to_owned(), all().map(line_rate_ratio), |ratio| {
            ratio.map_or_else(|| NONE.to_owned(), |ratio| format!("{ratio:.2}"))
        }),
        Row::figures("traffic lost".to_owned(), all().map(lost), |amount| {
            amount.map_or_else(|| NONE.to_owned(), |amount| bytes(whole(amount)))
        }),
        Row::words("migrated", all().map(|r| bytes(r.migrated_bytes))),
        Row::words("CPUs busy", all().map(|r| percent(r.cpu_busy_ratio))),
    ];
    let mut vms: Vec<_> = all().flat_map(|r| r.vms.iter().map(|vm| &vm.name)).collect();
    vms.dedup();
    vms.sort();
    vms.dedup();
    for name in vms {
        let of = |report: &'static str| format!("{name} {report}");
        let found = || all().map(|r| r.vms.iter().find(|vm| vm.name == *name));
        rows.push(Row::words(
            &of("technique"),
            found().map(|vm| vm.map_or_else(|| NONE.to_owned(), technique)),
        ));
        rows.push(Row::figures(
            of("downtime"),
            found().map(|vm| vm.and_then(|vm| vm.downtime_seconds)),
            milliseconds,
        ));
        rows.push(Row::figures(
            of("outage"),
            found().map(|vm| vm.and_then(|vm| vm.outage_seconds)),
            milliseconds,
        ));
        let blocked = || found().map(|vm| vm.and_then(|vm| vm.blocked_seconds));
        if blocked().flatten().next().is_some() {
            rows.push(Row::figures(of("blocked"), blocked(), milliseconds));
        }
    }
    let mut apps: Vec<_> = all().flat_map(|r| r.applications.iter().map(|app| &app.name)).collect();
    apps.sort();
    apps.dedup();
    for name in apps {
        let found = || all().map(|r| r.applications.iter().find(|app| app.name == *name));
        rows.push(Row::figures(
            format!("{name} loss"),
            found().map(|app| app.and_then(|app| app.loss_ratio)),
            percent,
        ));
        if found().flatten().any(|app| app.p99_during_ms.is_some()) {
            rows.push(Row::figures(
                format!("{name} p99 during"),
                found().map(|app| app.and_then(|app| app.p99_during_ms)),
                latency,
            ));
        }
    }
    rows
}
