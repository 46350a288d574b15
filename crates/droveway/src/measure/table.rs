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
        "local TX",
        "to send",
        "dirtied in 1 s",
        "working set",
        "form",
    ]);
    for vm in &snapshot.vms {
        let [to_send, dirtied, working_set, form] = memory(vm);
        table.add_row([
            vm.name.to_string(),
            vm.host.to_string(),
            vm.state.clone(),
            mbit(vm.tx.mean_bytes_per_second),
            mbit(vm.rx.mean_bytes_per_second),
            percent(vm.tx_local_ratio),
            to_send,
            dirtied,
            working_set,
            form,
        ]);
    }
    table
}

fn memory(vm: &VmSnapshot) -> [String; 4] {
    let Some(memory) = &vm.memory else { return [NONE; 4].map(str::to_owned) };
    let curve = &memory.curve;
    [
        float_bytes(memory.send_bytes.p50),
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
    let mut table = table(&["path", "round trip", "least", "sent again", "delivered"]);
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
