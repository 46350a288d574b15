//! A snapshot: what was measured of hosts, VMs, their traffic and memory, and of the paths between hosts. Plain data: it can
//! be saved, looked at, planned from and simulated later. Numbers carry their unit in the name.
//!
//! Directions of a VM's traffic are the VM's: `tx` is what it sends. All rates of traffic are TCP payload or, for UDP,
//! datagram payload, as far as it can be told; counters of links count headers too, so what was counted and what it means
//! are both kept.

use crate::{
    curve::{CurvePoint, DirtyCurve},
    document::{API_VERSION, DocumentError, Problem},
    ids::{EndpointId, HostId, VmId},
    report::Quantiles,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `kind` of a snapshot.
pub const KIND: &str = "Snapshot";

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Always `droveway/v1`.
    pub api_version: String,
    /// Always `Snapshot`.
    pub kind: String,
    /// The wall clock at the end of the measurement, RFC 3339.
    pub taken_at: String,
    /// How long traffic was watched.
    pub window_seconds: f64,
    /// The hosts.
    pub hosts: Vec<HostSnapshot>,
    /// The VMs that run.
    pub vms: Vec<VmSnapshot>,
    /// The traffic matrix: who sends how much to whom.
    pub flows: Vec<FlowSnapshot>,
    /// The paths between pairs of hosts.
    pub paths: Vec<PathSnapshot>,
    /// What the reader must know before believing a figure: what could not be measured, and why.
    pub remarks: Vec<String>,
}

/// A rate over the window.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateSummary {
    /// The mean.
    pub mean_bytes_per_second: f64,
    /// The exponentially weighted mean at the end.
    pub ewma_bytes_per_second: f64,
    /// A tenth of the samples is below.
    pub p10_bytes_per_second: f64,
    /// Half of the samples are below.
    pub p50_bytes_per_second: f64,
    /// Nine tenths of the samples are below.
    pub p90_bytes_per_second: f64,
    /// Sudden changes of level within the window.
    pub shifts: u32,
    /// When the last of them was, seconds after the window's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at_seconds: Option<f64>,
    /// The mean since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_to_bytes_per_second: Option<f64>,
}

impl RateSummary {
    /// Changes of level from which on a rate is bursty: what comes and goes has no level that it has changed to.
    pub const BURSTY_SHIFTS: u32 = 3;

    /// Whether it comes and goes.
    #[must_use]
    pub const fn is_bursty(&self) -> bool {
        self.shifts >= Self::BURSTY_SHIFTS
    }

    /// What it is now and, as far as can be told, for the next while: the mean of the window; after a change of level only
    /// what was seen since. Of bursts the mean over all of them tells the most.
    #[must_use]
    pub fn expected_bytes_per_second(&self) -> f64 {
        match self.changed_to_bytes_per_second {
            Some(level) if !self.is_bursty() => level,
            _ => self.mean_bytes_per_second,
        }
    }
}

/// One host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostSnapshot {
    /// Its name.
    pub name: HostId,
    /// Its port.
    pub port: PortSnapshot,
    /// CPUs that are online.
    pub cpus: u32,
    /// Share of the host's CPU time that was busy.
    pub cpu_busy_ratio: f64,
    /// Memory.
    pub memory_bytes: u64,
    /// Memory that a new VM could get.
    pub memory_available_bytes: u64,
}

/// A host's port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortSnapshot {
    /// The interface.
    pub interface: String,
    /// Its rate, each direction.
    pub rate_bits_per_second: u64,
    /// Where that comes from: `fleet` (the file says so) or `ethtool` (the card does).
    pub rate_from: String,
    /// What it sends, frames as its counters count them.
    pub tx: RateSummary,
    /// What it receives.
    pub rx: RateSummary,
}

/// One VM, at the host where it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmSnapshot {
    /// Its name.
    pub name: VmId,
    /// Where it runs.
    pub host: HostId,
    /// `running`, `paused`, ..., as QEMU says.
    pub state: String,
    /// `kvm`, `tcg`.
    pub accelerator: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Whether its memory may be split between two hosts for a while.
    pub allow_postcopy: bool,
    /// The longest downtime that it bears.
    pub max_downtime_seconds: Option<f64>,
    /// Its network devices at the host.
    pub taps: Vec<String>,
    /// What the VM sends.
    pub tx: RateSummary,
    /// What the VM receives.
    pub rx: RateSummary,
    /// Share of what it sends that stays on the host: it would cross the port once the pair is split.
    pub tx_local_ratio: f64,
    /// The same for what it receives.
    pub rx_local_ratio: f64,
    /// Its traffic over time; absent when it was watched for a few seconds only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<RateSeries>,
    /// Its memory; `None` when that was not asked for, or could not be measured.
    pub memory: Option<MemorySnapshot>,
    /// Its configured memory.
    pub memory_bytes: u64,
}

/// What a VM sent and received over time, on its taps, and what it wrote into its memory, in equal steps up to the end of the
/// measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateSeries {
    /// How long a step is.
    pub step_seconds: f64,
    /// Sent, bytes per second.
    pub tx: Vec<f64>,
    /// Received, bytes per second.
    pub rx: Vec<f64>,
    /// Unique bytes dirtied in each step, per second; absent where dirtying was not watched over time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dirty: Vec<f64>,
}

/// A VM's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemorySnapshot {
    /// What QEMU holds of it in the host's memory.
    pub resident_bytes: u64,
    /// Resident memory that is all zeroes: costs a look, no bytes.
    pub zero_ratio: f64,
    /// What a first pass will send.
    pub send_bytes: Quantiles,
    /// How full the end of its RAM is, from the nearest distance on; empty when that was not looked at. A first pass ends
    /// as soon as the RAM that is left fits the downtime, and what of it is zeroes costs no time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tail: Vec<TailPoint>,
    /// What zstd would make of a byte; `None` when it was not estimated.
    pub compressed_ratio: Option<f64>,
    /// How dirtying was measured: `page-sampling`, `dirty-bitmap`, `dirty-ring`.
    pub method: String,
    /// What was measured: windows and unique bytes dirtied in them.
    pub samples: Vec<CurvePoint>,
    /// The curve through them.
    pub curve: DirtyCurve,
    /// Standard error of the curve, relative.
    pub curve_error_ratio: f64,
}

/// How much of the last bytes of a VM's RAM is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TailPoint {
    /// So much at the end of RAM
    pub ram_bytes: u64,
    /// has so much content.
    pub content_bytes: u64,
}

/// Who an end of traffic is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", content = "name", rename_all = "kebab-case")]
pub enum FlowEnd {
    /// A VM of the fleet.
    Vm(VmId),
    /// A host of the fleet itself.
    Host(HostId),
    /// Anybody else.
    Outside(EndpointId),
}

/// Traffic from one end to another, one direction: payload goes `from` -> `to`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowSnapshot {
    /// Who sends.
    pub from: FlowEnd,
    /// Who receives.
    pub to: FlowEnd,
    /// How much, payload.
    pub bytes_per_second: f64,
    /// Connections that carry at least a twentieth of it: the weight when a port is shared per flow.
    pub connections: u32,
    /// Whether it takes what it gets (it filled a port) or has a demand of its own, which the rate is then.
    pub elastic: bool,
}

/// The path from one host to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathSnapshot {
    /// From here.
    pub from: HostId,
    /// To there.
    pub to: HostId,
    /// Round trip without load of our own.
    pub rtt_seconds: Option<f64>,
    /// Smallest round trip seen.
    pub rtt_min_seconds: Option<f64>,
    /// Share of segments that had to be sent again.
    pub retransmit_ratio: Option<f64>,
    /// Share of segments that counted as lost at one time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_ratio: Option<f64>,
    /// What the kernel saw delivered for the probe, at most.
    pub delivery_bytes_per_second: Option<f64>,
    /// Why there are no figures, when there are none.
    pub reason: Option<String>,
}

impl Snapshot {
    /// Reads a saved snapshot.
    ///
    /// # Errors
    /// [`DocumentError`] when the text is another kind or version of document, when a field is missing or malformed, and
    /// when its figures contradict each other.
    pub fn read(text: &str, origin: &str) -> Result<Self, DocumentError> {
        let syntax = |place: String, message: String| DocumentError::Syntax {
            origin: origin.to_owned(),
            place,
            message,
        };
        // The wrong kind should be said before the missing field.
        let envelope: serde_json::Value = serde_json::from_str(text)
            .map_err(|error| syntax(String::new(), format!("not JSON: {error}")))?;
        let said = |field: &str| envelope.get(field).and_then(serde_json::Value::as_str);
        if let Some(found) = said("apiVersion").filter(|found| *found != API_VERSION) {
            return Err(DocumentError::Version {
                origin: origin.to_owned(),
                found: found.to_owned(),
            });
        }
        if let Some(found) = said("kind").filter(|found| *found != KIND) {
            return Err(DocumentError::Kind {
                origin: origin.to_owned(),
                found: found.to_owned(),
                expected: KIND,
            });
        }
        let snapshot: Snapshot = serde_path_to_error::deserialize(envelope)
            .map_err(|error| syntax(format!("{}: ", error.path()), error.inner().to_string()))?;
        let problems = snapshot.problems();
        if problems.is_empty() {
            Ok(snapshot)
        } else {
            Err(DocumentError::Invalid { origin: origin.to_owned(), problems })
        }
    }

    /// The host of that name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&HostSnapshot> {
        self.hosts.iter().find(|host| host.name.as_str() == name)
    }

    /// The VM of that name.
    #[must_use]
    pub fn vm(&self, name: &str) -> Option<&VmSnapshot> {
        self.vms.iter().find(|vm| vm.name.as_str() == name)
    }

    /// What is wrong with it: names that dangle, shares beyond a whole, amounts below nothing.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut share = |path: String, value: f64| {
            if !(0.0..=1.0).contains(&value) {
                problems.push(Problem::new(path, format!("{value} is not a share (0 to 1)")));
            }
        };
        for (index, host) in self.hosts.iter().enumerate() {
            share(format!("hosts[{index}].cpuBusyRatio"), host.cpu_busy_ratio);
        }
        for (index, vm) in self.vms.iter().enumerate() {
            share(format!("vms[{index}].txLocalRatio"), vm.tx_local_ratio);
            share(format!("vms[{index}].rxLocalRatio"), vm.rx_local_ratio);
            if let Some(memory) = &vm.memory {
                share(format!("vms[{index}].memory.zeroRatio"), memory.zero_ratio);
            }
        }
        for (index, vm) in self.vms.iter().enumerate() {
            let tail = vm.memory.as_ref().map_or(&[][..], |memory| &memory.tail);
            let over = |point: &TailPoint| point.content_bytes > point.ram_bytes;
            if tail.iter().any(over) || !tail.is_sorted_by(|a, b| a.ram_bytes < b.ram_bytes) {
                let path = format!("vms[{index}].memory.tail");
                let text = "must be by rising ramBytes, none with more contentBytes";
                problems.push(Problem::new(path, text));
            }
        }
        let mut known = |path: String, host: &HostId| {
            if self.host(host.as_str()).is_none() {
                problems.push(Problem::new(path, format!("there is no host '{host}' in it")));
            }
        };
        for (index, vm) in self.vms.iter().enumerate() {
            known(format!("vms[{index}].host"), &vm.host);
        }
        for (index, path) in self.paths.iter().enumerate() {
            known(format!("paths[{index}].from"), &path.from);
            known(format!("paths[{index}].to"), &path.to);
        }
        for (index, flow) in self.flows.iter().enumerate() {
            if flow.bytes_per_second.is_nan() || flow.bytes_per_second < 0.0 {
                let path = format!("flows[{index}].bytesPerSecond");
                problems.push(Problem::new(path, "must not be below zero"));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let name = |text: &str| text.parse().expect("a name");
        let port = PortSnapshot {
            interface: "nic".to_owned(),
            rate_bits_per_second: 1_000_000_000,
            rate_from: "fleet".to_owned(),
            tx: RateSummary::default(),
            rx: RateSummary::default(),
        };
        Snapshot {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            taken_at: "2026-01-01T00:00:00Z".to_owned(),
            window_seconds: 10.0,
            hosts: vec![HostSnapshot {
                name: "alpha".parse().expect("a name"),
                port,
                cpus: 2,
                cpu_busy_ratio: 0.5,
                memory_bytes: 1 << 30,
                memory_available_bytes: 1 << 29,
            }],
            vms: Vec::new(),
            flows: vec![FlowSnapshot {
                from: FlowEnd::Host("alpha".parse().expect("a name")),
                to: FlowEnd::Outside(name("client")),
                bytes_per_second: 1.0,
                connections: 1,
                elastic: false,
            }],
            paths: Vec::new(),
            remarks: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let text = serde_json::to_string(&snapshot()).expect("JSON");
        assert_eq!(Snapshot::read(&text, "test"), Ok(snapshot()));
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut serde_json::Value), expected: &str) {
        let mut value = serde_json::to_value(snapshot()).expect("JSON");
        change(&mut value);
        let error = Snapshot::read(&value.to_string(), "saved.json").expect_err("refused");
        let text = error.to_string();
        assert!(text.contains(expected), "'{text}' lacks '{expected}'");
    }

    #[test]
    fn anything_else_is_refused_with_its_place() {
        check(|v| v["kind"] = "Fleet".into(), "expected a Snapshot");
        check(|v| v["apiVersion"] = "droveway/v2".into(), "'droveway/v2' is not supported");
        check(|v| v["hosts"][0]["cpus"] = "two".into(), "hosts[0].cpus: invalid type");
        check(|v| v["hosts"][0]["cpuBusyRatio"] = 1.5.into(), "1.5 is not a share");
        check(|v| v["flows"][0]["bytesPerSecond"] = (-1.0).into(), "must not be below zero");
        let path = serde_json::json!([{"from": "alpha", "to": "beta"}]);
        check(|v| v["paths"] = path, "no host 'beta'");
        let error = Snapshot::read("no: json", "x").expect_err("refused");
        assert!(error.to_string().starts_with("x: not JSON"), "{error}");
    }
}
