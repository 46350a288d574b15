//! From a snapshot to what the fluid model plays: ports, VMs and flows by index.

use crate::fluid::{Constants, End, FlowModel, Gang, PortModel, Tail, VmModel};
use droveway_fleet::{
    Bandwidth, DirtyCurve, HostId, Snapshot, VmId,
    snapshot::{FlowEnd, FlowSnapshot, RateSeries, RateSummary, VmSnapshot},
};

/// CPU and device state of a QEMU guest; measured: 60 to 300 KB for the usual devices.
const STATE_BYTES: f64 = 200_000.0;

/// A VM whose memory was not looked at is taken to be full.
const UNKNOWN_FULL_RATIO: f64 = 1.0;

/// A play ends here at the latest: a day, beyond which no drain is one.
const HORIZON_SECONDS: f64 = 86_400.0;

/// What a snapshot knows, by index.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    hosts: Vec<HostId>,
    vms: Vec<VmId>,
    /// Ports, VMs, flows; no moves.
    pub gang: Gang,
    /// Of each VM: relative standard error of its dirty curve, and of what a first pass sends.
    pub uncertain: Vec<Uncertainty>,
    /// Of each VM: its traffic over time, where that was watched for long.
    pub series: Vec<Option<RateSeries>>,
    /// How long traffic was watched, seconds; `None` where its rates hold for any time.
    pub window_seconds: Option<f64>,
}

/// How well a VM's memory is known, relative standard errors.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Uncertainty {
    /// Of its dirty curve.
    pub curve: f64,
    /// Of what a first pass sends.
    pub send: f64,
}

/// Standard deviations between p10 and p90 of a normal distribution.
pub(crate) const P10_TO_P90: f64 = 2.563;

impl World {
    /// The world of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot, constants: Constants) -> Self {
        let hosts: Vec<HostId> = snapshot.hosts.iter().map(|host| host.name.clone()).collect();
        let vms: Vec<VmId> = snapshot.vms.iter().map(|vm| vm.name.clone()).collect();
        let host = |name: &HostId| hosts.iter().position(|other| other == name);
        let end = |end: &FlowEnd| match end {
            FlowEnd::Vm(name) => vms.iter().position(|vm| vm == name).map_or(End::Outside, End::Vm),
            FlowEnd::Host(name) => host(name).map_or(End::Outside, End::Host),
            FlowEnd::Outside(_) => End::Outside,
        };
        let ports = snapshot.hosts.iter().map(|host| {
            let rate = Bandwidth::from_bits_per_second(host.port.rate_bits_per_second);
            PortModel::shared(payload(rate))
        });
        let models = snapshot.vms.iter().map(|vm| vm_model(vm, host(&vm.host).unwrap_or(0)));
        let flows = snapshot.flows.iter().map(|flow| FlowModel {
            from: end(&flow.from),
            to: end(&flow.to),
            demand: demand(snapshot, flow),
            weight: f64::from(flow.connections.max(1)),
        });
        let gang = Gang {
            ports: ports.collect(),
            vms: models.collect(),
            // Traffic between two ends that nobody here owns crosses no port.
            flows: flows.filter(|f| (f.from, f.to) != (End::Outside, End::Outside)).collect(),
            moves: Vec::new(),
            windows: Vec::new(),
            constants,
            horizon: HORIZON_SECONDS,
            slices_from: 0,
        };
        let uncertain = snapshot.vms.iter().map(uncertainty).collect();
        let window_seconds = Some(snapshot.window_seconds).filter(|seconds| *seconds > 0.0);
        let series = snapshot.vms.iter().map(|vm| vm.series.clone()).collect();
        World { hosts, vms, gang, uncertain, series, window_seconds }
    }

    /// A gang whose ports and VMs have these names, in its order, all of it known exactly. Names may be missing where nobody
    /// asks for them.
    #[must_use]
    pub fn named(gang: Gang, hosts: Vec<HostId>, vms: Vec<VmId>) -> Self {
        let (uncertain, series) = (Vec::new(), Vec::new());
        World { hosts, vms, uncertain, series, gang, window_seconds: None }
    }

    /// The index of a host.
    #[must_use]
    pub fn host(&self, name: &HostId) -> Option<usize> {
        self.hosts.iter().position(|host| host == name)
    }

    /// The VMs' names, with their indexes.
    pub fn names(&self) -> impl Iterator<Item = (usize, &VmId)> {
        self.vms.iter().enumerate()
    }

    /// The index of a VM.
    #[must_use]
    pub fn vm(&self, name: &VmId) -> Option<usize> {
        self.vms.iter().position(|vm| vm == name)
    }
}

/// Elastic traffic of which less than this is left since it changed has ended: it does not take what it gets any more.
const CEASED_RATIO: f64 = 0.1;

/// What a flow takes at most. Who talks to whom is counted over the whole window; where a VM's traffic changed within it, its
/// flows have changed with it, all alike.
fn demand(snapshot: &Snapshot, flow: &FlowSnapshot) -> f64 {
    let vm = |end: &FlowEnd| match end {
        FlowEnd::Vm(name) => snapshot.vm(name.as_str()),
        FlowEnd::Host(_) | FlowEnd::Outside(_) => None,
    };
    let change = |rate: &RateSummary| {
        let mean = rate.mean_bytes_per_second;
        let changed = rate.changed_at_seconds.is_some() && !rate.is_bursty() && mean > 0.0;
        changed.then(|| rate.expected_bytes_per_second() / mean)
    };
    // The sender knows best; what it sends elsewhere may hide what the receiver sees.
    let sender = vm(&flow.from).and_then(|vm| change(&vm.tx));
    let ratio = sender.or_else(|| vm(&flow.to).and_then(|vm| change(&vm.rx))).unwrap_or(1.0);
    if flow.elastic && ratio >= CEASED_RATIO {
        return f64::INFINITY;
    }
    flow.bytes_per_second * ratio
}

/// What a port of that rate carries of TCP payload, bytes per second.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a rate far below 2^53")]
pub fn payload(rate: Bandwidth) -> f64 {
    rate.tcp_payload().bytes_per_second() as f64
}

/// A guest's page on every architecture that is in scope.
const PAGE_BYTES: f64 = 4_096.0;
/// Before each page QEMU 10.0 writes its offset and flags.
const PAGE_HEADER_BYTES: f64 = 8.0;
/// A page of zeroes is a header and one byte.
const ZERO_PAGE_BYTES: f64 = 9.0;

/// What a first pass puts into the stream for so many bytes of content and of zeroes. Measured: QEMU's count of what it
/// sent was 1.0 to 1.9 % above the content, most of it zero pages of guests that are nearly empty.
#[must_use]
pub fn stream_bytes(content: f64, zero_bytes: f64) -> f64 {
    content * (1.0 + PAGE_HEADER_BYTES / PAGE_BYTES) + zero_bytes / PAGE_BYTES * ZERO_PAGE_BYTES
}

#[expect(clippy::cast_precision_loss, reason = "memory sizes far below 2^53")]
fn vm_model(vm: &VmSnapshot, host: usize) -> VmModel {
    let memory = vm.memory_bytes as f64;
    let (content, curve) = match &vm.memory {
        Some(known) => (known.send_bytes.p50, known.curve.clone()),
        None => (memory * UNKNOWN_FULL_RATIO, DirtyCurve::idle()),
    };
    let zero_bytes = (memory - content).max(0.0);
    let send_bytes = stream_bytes(content, zero_bytes);
    let points: Vec<(f64, f64)> = vm
        .memory
        .iter()
        .flat_map(|known| &known.tail)
        .map(|point| (point.ram_bytes as f64, point.content_bytes as f64))
        .collect();
    let tail = Tail::of(&points, content, memory);
    VmModel { host, send_bytes, zero_bytes, tail, curve, state_bytes: STATE_BYTES }
}

fn uncertainty(vm: &VmSnapshot) -> Uncertainty {
    let Some(memory) = &vm.memory else {
        // Anything between nothing and everything.
        return Uncertainty { curve: 1.0, send: 0.5 };
    };
    let width = (memory.send_bytes.p90 - memory.send_bytes.p10) / P10_TO_P90;
    Uncertainty { curve: memory.curve_error_ratio, send: width / memory.send_bytes.p50.max(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// What a VM sends or receives: the mean, and since when it is what.
    fn rate(mean: f64, shifts: u32, since: Option<(f64, f64)>) -> RateSummary {
        RateSummary {
            mean_bytes_per_second: mean,
            shifts,
            changed_at_seconds: since.map(|(at, _)| at),
            changed_to_bytes_per_second: since.map(|(_, level)| level),
            ..RateSummary::default()
        }
    }

    fn snapshot(tx: RateSummary, rx: RateSummary, flows: &Value) -> Snapshot {
        let host = json!({
            "name": "alpha", "cpus": 1, "cpuBusyRatio": 0.0, "memoryBytes": 0, "memoryAvailableBytes": 0,
            "port": {
                "interface": "nic", "rateBitsPerSecond": 1_000_000_000, "rateFrom": "fleet",
                "tx": RateSummary::default(), "rx": RateSummary::default(),
            },
        });
        let vm = json!({
            "name": "one", "host": "alpha", "state": "running", "accelerator": "kvm", "vcpus": 1,
            "allowPostcopy": true, "maxDowntimeSeconds": null, "taps": [], "tx": tx, "rx": rx,
            "txLocalRatio": 0.0, "rxLocalRatio": 0.0, "memory": null, "memoryBytes": 0,
        });
        serde_json::from_value(json!({
            "apiVersion": "droveway/v1", "kind": "Snapshot", "takenAt": "", "windowSeconds": 10.0,
            "hosts": [host], "vms": [vm], "flows": flows, "paths": [], "remarks": [],
        }))
        .unwrap()
    }

    fn flow(out: bool, bytes: f64, elastic: bool) -> Value {
        let (vm, other) =
            (json!({"kind": "vm", "name": "one"}), json!({"kind": "outside", "name": "client"}));
        let (from, to) = if out { (vm, other) } else { (other, vm) };
        json!({"from": from, "to": to, "bytesPerSecond": bytes, "connections": 1, "elastic": elastic})
    }

    #[track_caller]
    fn check(tx: RateSummary, rx: RateSummary, flow: &Value, demand: f64) {
        let world = World::of(&snapshot(tx, rx, &json!([flow])), Constants::PRIOR);
        let found = world.gang.flows[0].demand;
        let both_elastic = found.is_infinite() && demand.is_infinite();
        assert!(both_elastic || (found - demand).abs() < 1e-6, "{found}, not {demand}");
    }

    #[test]
    fn after_a_change_flows_are_what_they_became() {
        let still = rate(20.0, 0, None);
        let doubled = rate(20.0, 1, Some((8.0, 40.0)));
        check(still, still, &flow(true, 10.0, false), 10.0);
        check(doubled, still, &flow(true, 10.0, false), 20.0);
        // What is received changed, what is sent did not.
        check(still, doubled, &flow(true, 10.0, false), 10.0);
        check(still, doubled, &flow(false, 10.0, false), 20.0);
        let bursty = rate(20.0, 6, Some((8.0, 40.0)));
        check(bursty, still, &flow(true, 10.0, false), 10.0);
    }

    #[test]
    fn elastic_traffic_takes_what_it_gets_unless_it_has_ceased() {
        let still = rate(20.0, 0, None);
        check(rate(20.0, 1, Some((8.0, 5.0))), still, &flow(true, 10.0, true), f64::INFINITY);
        check(rate(20.0, 1, Some((8.0, 0.2))), still, &flow(true, 10.0, true), 0.1);
    }
}
