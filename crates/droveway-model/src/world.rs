//! From a snapshot to what the fluid model plays: ports, VMs and flows by index.

use crate::fluid::{Constants, End, FlowModel, Gang, PortModel, Tail, VmModel};
use droveway_fleet::{
    Bandwidth, DirtyCurve, HostId, Snapshot, VmId,
    snapshot::{FlowEnd, RateSeries, VmSnapshot},
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
            demand: if flow.elastic { f64::INFINITY } else { flow.bytes_per_second },
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
