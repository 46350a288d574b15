//! The report of a run: what happened beside what was predicted. Numbers carry their unit in the name.

use crate::{
    ids::{EndpointId, HostId, VmId},
    intent::{Intent, Technique},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `kind` of a run report.
pub const KIND: &str = "RunReport";

/// What a run did. Times are seconds from the run's start unless a name says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    /// Always `droveway/v1`.
    pub api_version: String,
    /// Always `RunReport`.
    pub kind: String,
    /// The run's id.
    pub run_id: String,
    /// The wall clock at the run's start, RFC 3339.
    pub started_at: String,
    /// The policy by name; `another-tool` where moves of another tool were only watched.
    pub policy: String,
    /// What was asked for.
    pub intent: Intent,
    /// `kvm` or `tcg`, as QEMU said.
    pub accelerator: String,
    /// QEMU's version, as it said.
    pub qemu_version: String,
    /// The machine's kernel.
    pub kernel_version: String,
    /// First start to last completion of the gang.
    pub total_migration_time_seconds: f64,
    /// From the first start until the source holds no VM memory; `None` if it still does.
    pub eviction_time_seconds: Option<f64>,
    /// Bytes that QEMU sent for all VMs.
    pub migrated_bytes: u64,
    /// Bytes that the source's port transmitted during the run, applications included; `None` without counters.
    pub wire_bytes: Option<u64>,
    /// The bytes that had to move, each once, over what the port can carry of TCP payload (94 % of its rate).
    pub line_rate_seconds: f64,
    /// The command's exit code.
    pub exit_code: u8,
    /// One entry a VM, in the plan's order.
    pub vms: Vec<VmReport>,
    /// What was predicted for the gang; `None` as long as no model made a forecast.
    pub predicted: Option<GangPrediction>,
    /// What applications kept.
    pub applications: Vec<ApplicationReport>,
    /// Bandwidth that was reserved.
    pub reservations: Vec<Reservation>,
    /// Where what was reserved was not had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub divergences: Vec<Divergence>,
    /// Choices made, with their reasons.
    pub decisions: Vec<Decision>,
    /// Share of the whole machine's CPU time that was busy; above [`CPU_SATURATED`] the run measured the CPU.
    pub cpu_busy_ratio: Option<f64>,
    /// The controller's own cost.
    pub controller: ControllerCost,
    /// What each port carried, sampled.
    pub ports: Vec<PortSeries>,
    /// What the reader must know before believing a figure.
    pub remarks: Vec<String>,
}

impl RunReport {
    /// Bytes that traffic over the network did not get. What applications inside a VM did not write to its memory is no
    /// part of it: those bytes are of another kind.
    #[must_use]
    pub fn lost_network_bytes(&self) -> u64 {
        let traffic = self.applications.iter().filter(|app| app.is_traffic());
        traffic.filter_map(|app| app.lost_bytes).sum()
    }
}

/// What [`RunReport::policy`] says of moves that another tool made, and Droveway only watched.
pub const ANOTHER_TOOL: &str = "another-tool";

/// A lab run above this share of CPU measured the CPU, not the network.
pub const CPU_SATURATED: f64 = 0.9;

/// How one VM's attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MoveResult {
    /// It runs at the target.
    Completed,
    /// It runs at the source, as before.
    RolledBack,
    /// Its memory is split between both hosts and the path between them broke: `droveway recover`.
    NeedsRecovery,
    /// No copy of it can run.
    Lost,
    /// It never started to move.
    NotStarted,
}

impl MoveResult {
    /// The name as written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            MoveResult::Completed => "completed",
            MoveResult::RolledBack => "rolled-back",
            MoveResult::NeedsRecovery => "needs-recovery",
            MoveResult::Lost => "lost",
            MoveResult::NotStarted => "not-started",
        }
    }
}

/// One VM's part of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmReport {
    /// The VM.
    pub name: VmId,
    /// The technique that the plan gave it.
    pub technique: Technique,
    /// The technique that moved it in the end, if a fallback was taken.
    pub fallback_taken: Option<Technique>,
    /// How it ended.
    pub result: MoveResult,
    /// Why, when it did not complete.
    pub reason: Option<String>,
    /// When it started.
    pub start_seconds: Option<f64>,
    /// When it ended.
    pub end_seconds: Option<f64>,
    /// No vCPU runs: STOP at the source to RESUME at the target, on the controller's clock. Excludes what a client still
    /// waits for afterwards.
    pub downtime_seconds: Option<f64>,
    /// What QEMU itself calls downtime: for post-copy it leaves out most of the pause.
    pub qemu_downtime_seconds: Option<f64>,
    /// The longest silence that a client outside saw during the move.
    pub outage_seconds: Option<f64>,
    /// Bytes that QEMU sent for it.
    pub migrated_bytes: u64,
    /// Bytes that had to move, each page once.
    pub needed_bytes: u64,
    /// Sweeps over its memory while it ran at the source.
    pub passes: u32,
    /// Time in which its memory was split between both hosts.
    pub exposure_seconds: f64,
    /// Pages that it had to wait for.
    pub postcopy_requests: u64,
    /// How long its vCPUs all waited for pages, as the target's QEMU counted; `None` if it was not post-copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_seconds: Option<f64>,
    /// How long each of its vCPUs waited for pages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vcpu_blocked_seconds: Vec<f64>,
    /// The phases that it went through.
    pub phases: Vec<PhaseSpan>,
    /// What the kernel at the source saw of its connections; `None` if it saw none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathReport>,
    /// What was predicted; `None` as long as no model made a forecast.
    pub predicted: Option<VmPrediction>,
}

/// The path from source to target, as the kernel saw it of the migration's own connections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathReport {
    /// Round trips of the stream, the queue that it makes itself included, milliseconds.
    pub rtt_ms: RttReport,
    /// Segments that were sent again.
    pub retransmits: u64,
    /// The most segments that counted as lost at one time.
    pub lost_segments_max: u64,
    /// How fast the target acknowledged, payload; `None` if the move was over too soon to tell.
    pub delivery_bits_per_second: Option<f64>,
}

/// Smoothed round trips of a connection over its life, sampled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RttReport {
    /// Half of the samples are below.
    pub p50: f64,
    /// The largest.
    pub max: f64,
}

/// One phase of one VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseSpan {
    /// The driver's state.
    pub phase: String,
    /// Its start.
    pub start_seconds: f64,
    /// Its end.
    pub end_seconds: f64,
}

/// Quantiles of a forecast.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quantiles {
    /// One in ten is below.
    pub p10: f64,
    /// Half are below.
    pub p50: f64,
    /// Nine in ten are below.
    pub p90: f64,
}

/// A forecast of one VM's move.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmPrediction {
    /// Start to completion.
    pub duration_seconds: Quantiles,
    /// STOP to RESUME.
    pub downtime_seconds: Quantiles,
    /// The longest silence that a client sees.
    pub outage_seconds: Quantiles,
    /// vCPU time in which it waits for pages; `None` if it is not post-copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_seconds: Option<Quantiles>,
    /// Sent by QEMU.
    pub migrated_bytes: Quantiles,
}

/// A forecast of the gang's move.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GangPrediction {
    /// First start to last completion.
    pub total_migration_time_seconds: Quantiles,
    /// Bytes that applications do not get.
    pub lost_bytes: Quantiles,
}

/// What one application kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationReport {
    /// Its name.
    pub name: EndpointId,
    /// What it is.
    pub kind: String,
    /// Where its data comes from.
    pub from: EndpointId,
    /// Where its data goes.
    pub to: EndpointId,
    /// The unit of the three rates.
    pub unit: String,
    /// Mean rate before the run.
    pub before: Option<f64>,
    /// Mean rate from the first start to the last completion.
    pub during: Option<f64>,
    /// Mean rate after the run.
    pub after: Option<f64>,
    /// Payload that did not arrive, against the rate before; for byte streams. Of a [`MEMORY_LOAD`] what was not written to
    /// memory, which is not to be added to the others' ([`ApplicationReport::is_traffic`]).
    pub lost_bytes: Option<u64>,
    /// Requests or operations that were not done, against the rate before.
    pub lost_requests: Option<u64>,
    /// (before - during) / before, not below zero.
    pub loss_ratio: Option<f64>,
    /// Half of the latencies before are below, for requests.
    #[serde(default)]
    pub p50_before_ms: Option<f64>,
    /// The same during.
    #[serde(default)]
    pub p50_during_ms: Option<f64>,
    /// 99th percentile of latency before, for requests.
    pub p99_before_ms: Option<f64>,
    /// 99th percentile of latency during, for requests.
    pub p99_during_ms: Option<f64>,
    /// 99.9th percentile of latency before, for requests.
    #[serde(default)]
    pub p999_before_ms: Option<f64>,
    /// The same during.
    #[serde(default)]
    pub p999_during_ms: Option<f64>,
    /// The rate over time, for the picture.
    pub series: Vec<SeriesPoint>,
}

/// The kind of an application that writes to the memory of its VM: its bytes cross no network.
pub const MEMORY_LOAD: &str = "memory-load";

impl ApplicationReport {
    /// Whether its bytes cross the network, and do not stay in one VM.
    #[must_use]
    pub fn is_traffic(&self) -> bool {
        self.kind != MEMORY_LOAD && self.from != self.to
    }
}

/// A rate over an interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeriesPoint {
    /// The interval's end.
    pub at_seconds: f64,
    /// The mean rate in it.
    pub rate: f64,
}

/// Bandwidth reserved on a port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// The host.
    pub host: HostId,
    /// `tx` or `rx`.
    pub direction: String,
    /// For whom.
    pub class: String,
    /// How much.
    pub bits_per_second: u64,
}

/// A reservation that the port's counters contradict, told once as it begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Divergence {
    /// When it was seen.
    pub at_seconds: f64,
    /// The host.
    pub host: HostId,
    /// `tx` or `rx`.
    pub direction: String,
    /// For whom the bandwidth was reserved.
    pub class: String,
    /// What was promised.
    pub promised_bits_per_second: u64,
    /// What it had in the second before, although it had something to send.
    pub had_bits_per_second: u64,
    /// What all others had.
    pub others_bits_per_second: u64,
}

/// A choice with its reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// When.
    pub at_seconds: f64,
    /// About which VM.
    pub vm: Option<VmId>,
    /// Why.
    pub reason: String,
    /// What it was based on.
    pub inputs: String,
    /// What was chosen.
    pub choice: String,
    /// What was second best.
    pub runner_up: Option<String>,
    /// By how much the choice was better.
    pub margin: Option<f64>,
}

/// What Droveway itself used.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControllerCost {
    /// Share of one core, mean over the run.
    pub cpu_core_ratio: f64,
    /// Largest resident memory.
    pub memory_bytes_max: u64,
}

/// What a host's port carried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortSeries {
    /// The host.
    pub host: HostId,
    /// The port's rate.
    pub capacity_bits_per_second: u64,
    /// The samples.
    pub samples: Vec<PortPoint>,
}

/// One sample of a port.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortPoint {
    /// The interval's end.
    pub at_seconds: f64,
    /// Transmitted.
    pub tx_bits_per_second: f64,
    /// Received.
    pub rx_bits_per_second: f64,
}
