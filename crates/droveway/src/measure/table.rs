//! A snapshot for people.

use comfy_table::{Table, presets};
use droveway_fleet::{
    Bandwidth, Bytes, DirtyCurve, Snapshot,
    snapshot::{FlowEnd, PortSnapshot, RateSummary, VmSnapshot},
};

/// A missing figure.
const NONE: &str = "-";
/// The window of the dirty rate that is shown: about a pass of a small VM.
const SHOWN_WINDOW_SECONDS: f64 = 1.0;

/// The whole snapshot.
pub(super) fn render(snapshot: &Snapshot) -> String {
    let mut text = format!("watched for {:.1} s\n", snapshot.window_seconds);
    for part in [hosts(snapshot), vms(snapshot), flows(snapshot), paths(snapshot)] {
        if part.row_count() > 0 {
            text.push_str(&format!("\n{part}\n"));
        }
    }
    if !snapshot.remarks.is_empty() {
        text.push('\n');
    }
    for remark in &snapshot.remarks {
        text.push_str(&format!("note: {remark}\n"));
    }
    text
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    table
}

fn hosts(snapshot: &Snapshot) -> Table {
    let mut table = table(&["host", "port", "TX", "RX", "CPU busy", "memory free"]);
    for host in &snapshot.hosts {
        table.add_row([
            host.name.to_string(),
            Bandwidth::from_bits_per_second(host.port.rate_bits_per_second).human(),
            of_port(&host.port.tx, &host.port),
            of_port(&host.port.rx, &host.port),
            percent(host.cpu_busy_ratio),
            format!("{} of {}", bytes(host.memory_available_bytes), bytes(host.memory_bytes)),
        ]);
    }
    table
}

/// A mean rate with its share of the port.
fn of_port(rate: &RateSummary, port: &PortSnapshot) -> String {
    let bits = rate.mean_bytes_per_second * 8.0;
    #[expect(clippy::cast_precision_loss, reason = "a port's rate, far below 2^53")]
    let capacity = port.rate_bits_per_second as f64;
    let share = if capacity > 0.0 { bits / capacity } else { 0.0 };
    format!("{} ({})", mbit(rate.mean_bytes_per_second), percent(share))
}

fn vms(snapshot: &Snapshot) -> Table {
    let mut table = table(&[
        "VM",
        "host",
        "state",
        "TX",
        "RX",
        "local TX / RX",
        "traffic",
        "to send",
        "zstd to",
        "dirtied in 1 s",
        "working set",
        "form",
    ]);
    for vm in &snapshot.vms {
        let [to_send, compressed, dirtied, working_set, form] = memory(vm);
        table.add_row([
            vm.name.to_string(),
            vm.host.to_string(),
            vm.state.clone(),
            mbit(vm.tx.mean_bytes_per_second),
            mbit(vm.rx.mean_bytes_per_second),
            format!("{} / {}", percent(vm.tx_local_ratio), percent(vm.rx_local_ratio)),
            changes(vm),
            to_send,
            compressed,
            dirtied,
            working_set,
            form,
        ]);
    }
    table
}

/// Whether its traffic is what it was when the watch began.
fn changes(vm: &VmSnapshot) -> String {
    let one = |name: &str, rate: &RateSummary| match rate.changed_at_seconds {
        _ if rate.is_bursty() => Some(format!("{name} bursty")),
        Some(at) => {
            let now = mbit(rate.expected_bytes_per_second());
            Some(format!("{name} changed at {at:.1} s, now {now}"))
        }
        None => None,
    };
    let both: Vec<String> = [one("TX", &vm.tx), one("RX", &vm.rx)].into_iter().flatten().collect();
    if both.is_empty() { "steady".to_owned() } else { both.join("; ") }
}

fn memory(vm: &VmSnapshot) -> [String; 5] {
    let Some(memory) = &vm.memory else { return [NONE; 5].map(str::to_owned) };
    let curve = &memory.curve;
    [
        float_bytes(memory.send_bytes.p50),
        memory.compressed_ratio.map_or_else(|| NONE.to_owned(), percent),
        float_bytes(curve.unique_bytes(SHOWN_WINDOW_SECONDS)),
        working_set(curve).map_or_else(|| NONE.to_owned(), float_bytes),
        form(curve).to_owned(),
    ]
}

/// What an endless window dirties, where the form tells that from the whole memory.
fn working_set(curve: &DirtyCurve) -> Option<f64> {
    match curve {
        DirtyCurve::Uniform { .. } => None,
        _ => Some(curve.limit()),
    }
}

fn form(curve: &DirtyCurve) -> &'static str {
    match curve {
        DirtyCurve::Uniform { .. } => "uniform",
        DirtyCurve::Bounded { .. } => "bounded",
        DirtyCurve::Saturating { .. } => "saturating",
        DirtyCurve::HotCold { .. } => "hot-cold",
        DirtyCurve::Classes { classes } if classes.is_empty() => "idle",
        DirtyCurve::Classes { .. } => "classes",
        DirtyCurve::Table { .. } => "table",
    }
}

fn flows(snapshot: &Snapshot) -> Table {
    let mut table = table(&["from", "to", "rate", "connections", "kind"]);
    for flow in &snapshot.flows {
        table.add_row([
            end(&flow.from),
            end(&flow.to),
            mbit(flow.bytes_per_second),
            flow.connections.to_string(),
            if flow.elastic { "elastic" } else { "own demand" }.to_owned(),
        ]);
    }
    table
}

fn end(end: &FlowEnd) -> String {
    match end {
        FlowEnd::Vm(vm) => vm.to_string(),
        FlowEnd::Host(host) => format!("{host} (host)"),
        FlowEnd::Outside(name) => format!("{name} (outside)"),
    }
}

fn paths(snapshot: &Snapshot) -> Table {
    let mut table = table(&["path", "round trip", "least", "sent again", "lost", "delivered"]);
    for path in &snapshot.paths {
        let name = format!("{} -> {}", path.from, path.to);
        let milliseconds = |seconds: Option<f64>| {
            seconds.map_or_else(|| NONE.to_owned(), |s| format!("{:.2} ms", s * 1000.0))
        };
        table.add_row([
            name,
            milliseconds(path.rtt_seconds),
            milliseconds(path.rtt_min_seconds),
            path.retransmit_ratio.map_or_else(|| NONE.to_owned(), percent),
            path.loss_ratio.map_or_else(|| NONE.to_owned(), percent),
            path.delivery_bytes_per_second.map_or_else(|| NONE.to_owned(), mbit),
        ]);
    }
    table
}

/// A rate as ports are labelled.
fn mbit(bytes_per_second: f64) -> String {
    format!("{:.1} Mbit/s", bytes_per_second * 8.0 / 1e6)
}

fn percent(ratio: f64) -> String {
    format!("{:.0} %", ratio * 100.0)
}

fn bytes(value: u64) -> String {
    Bytes::new(value).human()
}

fn float_bytes(value: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast of a float saturates"
    )]
    let whole = value.max(0.0).round() as u64;
    bytes(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rate(mean: f64) -> Value {
        json!({
            "meanBytesPerSecond": mean, "ewmaBytesPerSecond": mean, "p10BytesPerSecond": mean,
            "p50BytesPerSecond": mean, "p90BytesPerSecond": mean, "shifts": 0,
        })
    }

    fn vm(name: &str, tx: &Value, rx: &Value) -> Value {
        json!({
            "name": name, "host": "alpha", "state": "running", "accelerator": "kvm", "vcpus": 1,
            "allowPostcopy": true, "maxDowntimeSeconds": null, "taps": ["tap0"], "tx": tx, "rx": rx,
            "txLocalRatio": 0.4, "rxLocalRatio": 0.1, "memory": null, "memoryBytes": 268_435_456,
        })
    }

    fn snapshot(vms: &[Value]) -> Snapshot {
        let path = json!({
            "from": "alpha", "to": "alpha", "rttSeconds": 0.0005, "rttMinSeconds": 0.0002,
            "retransmitRatio": 0.05, "lossRatio": 0.03, "deliveryBytesPerSecond": 1e8, "reason": null,
        });
        let host = json!({
            "name": "alpha", "cpus": 2, "cpuBusyRatio": 0.5, "memoryBytes": 1_073_741_824,
            "memoryAvailableBytes": 536_870_912,
            "port": {
                "interface": "nic", "rateBitsPerSecond": 1_000_000_000, "rateFrom": "fleet",
                "tx": rate(12.5e6), "rx": rate(0.0),
            },
        });
        serde_json::from_value(json!({
            "apiVersion": "droveway/v1", "kind": "Snapshot", "takenAt": "", "windowSeconds": 10.0,
            "hosts": [host], "vms": vms, "flows": [], "paths": [path], "remarks": ["one thing"],
        }))
        .unwrap()
    }

    /// The cells of the line that begins with `first`.
    fn cells(text: &str, first: &str) -> Vec<String> {
        let line = text.lines().find(|line| line.trim_start().starts_with(first)).unwrap();
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn traffic_that_changed_and_bursts_are_marked() {
        let mut changed = rate(4e6);
        changed["shifts"] = json!(1);
        changed["changedAtSeconds"] = json!(6.2);
        changed["changedToBytesPerSecond"] = json!(10e6);
        let mut bursty = changed.clone();
        bursty["shifts"] = json!(7);
        let text = render(&snapshot(&[
            vm("steady", &rate(1e6), &rate(1e6)),
            vm("grown", &changed, &rate(1e6)),
            vm("bursts", &rate(1e6), &bursty),
        ]));
        assert_eq!(
            cells(&text, "steady"),
            [
                "steady",
                "alpha",
                "running",
                "8.0 Mbit/s",
                "8.0 Mbit/s",
                "40 % / 10 %",
                "steady",
                "-",
                "-",
                "-",
                "-",
                "-"
            ]
        );
        assert_eq!(cells(&text, "grown")[6], "TX changed at 6.2 s, now 80.0 Mbit/s");
        assert_eq!(cells(&text, "bursts")[6], "RX bursty");
        assert!(text.ends_with("\nnote: one thing\n"), "{text}");
    }

    #[test]
    fn what_is_known_of_memory_and_paths_is_shown() {
        let mut known = vm("known", &rate(0.0), &rate(0.0));
        known["memory"] = json!({
            "residentBytes": 200_000_000, "zeroRatio": 0.5, "compressedRatio": 0.31, "method": "page-sampling",
            "sendBytes": {"p10": 100e6, "p50": 104_857_600.0, "p90": 110e6}, "samples": [],
            "curve": {"form": "saturating", "dirtyBytesPerSecond": 10_485_760.0, "workingSetBytes": 20_971_520.0},
            "curveErrorRatio": 0.1,
        });
        let text = render(&snapshot(&[known]));
        let found = cells(&text, "known");
        assert_eq!(found[7..9], ["100 MiB", "31 %"], "{found:?}");
        assert_eq!(found[10..], ["20.0 MiB", "saturating"], "{found:?}");
        let path = cells(&text, "alpha -> alpha");
        assert_eq!(path, ["alpha -> alpha", "0.50 ms", "0.20 ms", "5 %", "3 %", "800.0 Mbit/s"]);
    }
}
