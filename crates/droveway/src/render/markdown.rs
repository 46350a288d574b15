//! `report.md`.

use super::words::{
    NONE, bytes, duration, first_start, held, latency, lost, milliseconds, percent, policy, rate,
    seconds, technique, verdict,
};
use droveway_fleet::{
    Bandwidth, RunReport,
    report::{ANOTHER_TOOL, PortSeries, Quantiles},
};
use std::fmt::Write as _;

pub(crate) fn markdown(report: &RunReport) -> String {
    let mut text = format!("# Run {}: {}\n\n{}\n", report.run_id, policy(report), verdict(report));
    for remark in &report.remarks {
        let _ = write!(text, "\n> **Note:** {remark}\n");
    }
    section(&mut text, "VMs", &vms(report));
    text.push_str(&reasons(report));
    if report.applications.is_empty() {
        text.push_str("\n## Applications\n\nNone was logged.\n");
    } else {
        section(&mut text, "Applications", &applications(report));
    }
    section(&mut text, "Ports, first start to last completion", &ports(report));
    if report.vms.iter().any(|vm| vm.path.is_some()) {
        section(&mut text, "Paths, as the kernel saw the migrations' connections", &paths(report));
    }
    if let Some(held) = held(report) {
        let _ = write!(text, "\nHeld for the moves while they ran: {held}.\n");
    }
    text.push_str("\n## Predicted\n\n");
    match &report.predicted {
        None if report.policy == ANOTHER_TOOL => text.push_str(
            "What another tool would take nobody forecast; what Droveway would have done is in the notes above.\n",
        ),
        None => text.push_str(
            "No forecast was made for this run: `--measure 5s`, or `droveway measure` before it, makes one.\n",
        ),
        Some(_) => text.push_str(&predicted(report)),
    }
    if !report.decisions.is_empty() {
        text.push_str("\n## Decisions\n\n");
        for decision in &report.decisions {
            let vm = decision.vm.as_ref().map_or(NONE, droveway_fleet::VmId::as_str);
            let _ = writeln!(
                text,
                "- {:.3} s, {vm}: **{}**, because {} ({})",
                decision.at_seconds, decision.choice, decision.reason, decision.inputs
            );
        }
    }
    text.push_str(&footer(report));
    text
}

/// What was said before the run, and what came.
fn predicted(report: &RunReport) -> String {
    let said =
        |range: Quantiles| format!("{:.2} ({:.2} to {:.2})", range.p50, range.p10, range.p90);
    let hit = |range: Quantiles, outcome: f64| {
        if outcome < range.p10 {
            "below"
        } else if outcome > range.p90 {
            "above"
        } else {
            "within"
        }
    };
    let mut rows = Vec::new();
    let mut row = |what: String, range: Quantiles, outcome: Option<f64>| {
        rows.push(vec![
            what,
            said(range),
            outcome.map_or_else(|| NONE.to_owned(), |outcome| format!("{outcome:.2}")),
            outcome.map_or(NONE, |outcome| hit(range, outcome)).to_owned(),
        ]);
    };
    if let Some(gang) = &report.predicted {
        const MIB: f64 = 1_048_576.0;
        let mib = |range: Quantiles| Quantiles {
            p10: range.p10 / MIB,
            p50: range.p50 / MIB,
            p90: range.p90 / MIB,
        };
        let time = report.total_migration_time_seconds;
        row("total migration time, s".to_owned(), gang.total_migration_time_seconds, Some(time));
        // What a guest writes to its own memory is no traffic, and the forecast is of traffic.
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let lost = report.lost_network_bytes() as f64;
        row("lost by applications, MiB".to_owned(), mib(gang.lost_bytes), Some(lost / MIB));
    }
    for vm in &report.vms {
        let Some(predicted) = &vm.predicted else { continue };
        row(format!("{}: took, s", vm.name), predicted.duration_seconds, duration(vm));
        row(format!("{}: downtime, s", vm.name), predicted.downtime_seconds, vm.downtime_seconds);
        row(format!("{}: outage, s", vm.name), predicted.outage_seconds, vm.outage_seconds);
        if let Some(blocked) = predicted.blocked_seconds {
            row(format!("{}: waits for pages, s", vm.name), blocked, vm.blocked_seconds);
        }
    }
    table(&["what", "forecast: p50 (p10 to p90)", "outcome", "against p10 to p90"], &rows)
}

/// A table whose columns are aligned also in the source.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain([header[column].chars().count(), 3])
            .max()
            .unwrap_or(3)
    };
    let widths: Vec<_> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<_> =
            cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("| {} |\n", padded.join(" | "))
    };
    let mut text = line(&mut header.iter().copied());
    let dashes: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
    text.push_str(&line(&mut dashes.iter().map(String::as_str)));
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

fn section(text: &mut String, title: &str, table: &str) {
    let _ = write!(text, "\n## {title}\n\n{table}");
}

fn vms(report: &RunReport) -> String {
    let row = |vm: &droveway_fleet::report::VmReport| {
        vec![
            vm.name.to_string(),
            technique(vm),
            vm.result.name().to_owned(),
            seconds(vm.start_seconds),
            seconds(duration(vm)),
            milliseconds(vm.downtime_seconds),
            milliseconds(vm.qemu_downtime_seconds),
            milliseconds(vm.outage_seconds),
            milliseconds(vm.blocked_seconds),
            bytes(vm.migrated_bytes),
            vm.passes.to_string(),
            seconds(Some(vm.exposure_seconds)),
        ]
    };
    let rows: Vec<_> = report.vms.iter().map(row).collect();
    let header = [
        "VM",
        "technique",
        "result",
        "start",
        "took",
        "downtime",
        "QEMU's downtime",
        "outage",
        "blocked",
        "migrated",
        "passes",
        "exposed",
    ];
    table(&header, &rows)
}

fn reasons(report: &RunReport) -> String {
    let with_reason = report.vms.iter().filter_map(|vm| Some((vm, vm.reason.as_ref()?)));
    let lines: Vec<_> = with_reason.map(|(vm, why)| format!("- {}: {why}\n", vm.name)).collect();
    if lines.is_empty() { String::new() } else { format!("\n{}", lines.concat()) }
}

fn applications(report: &RunReport) -> String {
    let row = |app: &droveway_fleet::report::ApplicationReport| {
        vec![
            app.name.to_string(),
            app.kind.clone(),
            format!("{} -> {}", app.from, app.to),
            app.unit.clone(),
            rate(app.before),
            rate(app.during),
            rate(app.after),
            lost(app),
            percent(app.loss_ratio),
            latency(app.p99_before_ms),
            latency(app.p99_during_ms),
        ]
    };
    let rows: Vec<_> = report.applications.iter().map(row).collect();
    let header = [
        "application",
        "kind",
        "path",
        "unit",
        "before",
        "during",
        "after",
        "lost",
        "loss",
        "p99 before",
        "p99 during",
    ];
    table(&header, &rows)
}

fn ports(report: &RunReport) -> String {
    let start = first_start(report);
    let end = start + report.total_migration_time_seconds;
    let row = |port: &PortSeries| {
        let during: Vec<_> =
            port.samples.iter().filter(|s| s.at_seconds > start && s.at_seconds <= end).collect();
        let figures = |pick: fn(&droveway_fleet::report::PortPoint) -> f64| {
            if during.is_empty() {
                return NONE.to_owned();
            }
            #[expect(clippy::cast_precision_loss, reason = "a number of samples")]
            let count = during.len() as f64;
            let mean = during.iter().map(|s| pick(s)).sum::<f64>() / count;
            let peak = during.iter().map(|s| pick(s)).fold(0.0, f64::max);
            format!("{:.0} / {:.0} Mbit/s", mean / 1e6, peak / 1e6)
        };
        vec![
            port.host.to_string(),
            Bandwidth::from_bits_per_second(port.capacity_bits_per_second).human(),
            figures(|s| s.tx_bits_per_second),
            figures(|s| s.rx_bits_per_second),
        ]
    };
    let rows: Vec<_> = report.ports.iter().map(row).collect();
    table(&["host", "port", "TX mean / peak", "RX mean / peak"], &rows)
}

fn paths(report: &RunReport) -> String {
    let row = |vm: &droveway_fleet::report::VmReport| {
        let path = vm.path.as_ref()?;
        Some(vec![
            vm.name.to_string(),
            latency(Some(path.rtt_ms.p50)),
            latency(Some(path.rtt_ms.max)),
            path.retransmits.to_string(),
            path.lost_segments_max.to_string(),
            path.delivery_bits_per_second
                .map_or_else(|| NONE.to_owned(), |bits| format!("{:.0} Mbit/s", bits / 1e6)),
        ])
    };
    let rows: Vec<_> = report.vms.iter().filter_map(row).collect();
    let header =
        ["VM", "round trip", "largest", "segments sent again", "lost at one time", "acknowledged"];
    table(&header, &rows)
}

fn footer(report: &RunReport) -> String {
    let intent = &report.intent;
    let wire = report.wire_bytes.map_or_else(|| NONE.to_owned(), bytes);
    let cpu = percent(report.cpu_busy_ratio);
    format!(
        "\n## About this run\n\n\
         - asked: {} {} to {}, policy {}, downtime aimed at {}, bandwidth {} per VM, started {}\n\
         - migrated by QEMU {}; transmitted by the source's port {wire}, applications included; \
         source free of VM memory after {}\n\
         - accelerator {}, QEMU {}, kernel {}, machine's CPUs {cpu} busy\n\
         - controller: {:.1} % of a core, {} of memory\n\n\
         How figures are measured. *Downtime*: no vCPU runs, from STOP at the source to RESUME at the target, on the \
         controller's clock; it leaves out what a client still waits for afterwards. *QEMU's downtime* is QEMU's own field; \
         for post-copy it leaves out most of the pause. *Outage*: the longest silence that a UDP probe outside heard during \
         the move and up to 2 s after it, known to about 10 ms; shorter silences than 30 ms count as none. *Blocked*: how long all vCPUs waited for pages after a switch to \
         post-copy, as the target's QEMU counts. *Exposed*: time in \
         which the VM's memory was split between both hosts. *Line rate*: bytes that had to move, each once, over what the \
         port can carry of TCP payload. *Before* is the mean over 5 s before the command began, *during* from the first \
         start to the last completion; a loss is what is missing against before.\n",
        intent.verb,
        intent.source,
        intent.target,
        policy(report),
        intent.max_downtime,
        intent.bandwidth,
        report.started_at,
        bytes(report.migrated_bytes),
        seconds(report.eviction_time_seconds),
        report.accelerator,
        report.qemu_version,
        report.kernel_version,
        report.controller.cpu_core_ratio * 100.0,
        bytes(report.controller.memory_bytes_max),
    )
}
