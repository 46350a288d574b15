//! The state of a fleet, as `status` prints it and a run tells it: where every VM is, and how a run under way stands.
//! Numbers carry their unit in the name; whatever is not known is left out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `kind` of a status.
pub const KIND: &str = "Status";

/// A fleet's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Always `droveway/v1`.
    pub api_version: String,
    /// Always `Status`.
    pub kind: String,
    /// The fleet.
    pub fleet: String,
    /// The run that moves VMs of the fleet now; null: none does.
    pub active_run: Option<String>,
    /// A run whose controller was killed: `droveway adopt` takes over what it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished_run: Option<String>,
    /// How the active run stands, if it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunStatus>,
    /// Every VM of the fleet.
    pub vms: Vec<VmStatus>,
}

/// How a run stands. Times are seconds from its start, when the first VM could start.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunStatus {
    /// Its id.
    pub id: String,
    /// The process of its controller.
    pub pid: u32,
    /// `drain`, `migrate` or `adopt`.
    pub verb: String,
    /// The host that is left.
    pub source: String,
    /// The host that is gone to.
    pub target: String,
    /// The policy, as it was asked for.
    pub policy: String,
    /// The plan in force.
    pub plan: String,
    /// Its generation: 0 is the plan that the run began with.
    pub generation: u32,
    /// How much it matters: `critical`, `high`, `medium` or `low`.
    pub urgency: String,
    /// Since its start; absent: VMs are being prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elapsed_seconds: Option<f64>,
    /// When its last VM is expected to have arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast_end_seconds: Option<f64>,
    /// When its last VM has to have arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<f64>,
    /// The time between the two; below zero: the deadline is not kept as it looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_slack_seconds: Option<f64>,
    /// An operator interrupted it.
    pub cancelled: bool,
    /// What is wrong with its journal; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_trouble: Option<String>,
    /// The ports of its two hosts.
    pub ports: Vec<PortStatus>,
    /// The latest decisions and remarks, the last one last.
    pub decisions: Vec<DecisionStatus>,
}

/// One direction of one host's port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    /// The host.
    pub host: String,
    /// `tx` or `rx`.
    pub direction: String,
    /// What it can carry.
    pub capacity_bits_per_second: u64,
    /// What it carried of late.
    pub bits_per_second: u64,
    /// Who had how much of it.
    pub classes: Vec<ClassStatus>,
}

/// A part of what a port carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassStatus {
    /// `urgent` (what guests wait for), `migration` (the streams) or `applications` (everything else).
    pub class: String,
    /// What it had of late.
    pub bits_per_second: u64,
    /// What is held for it; absent: nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promised_bits_per_second: Option<u64>,
}

/// Something that was decided or is to be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DecisionStatus {
    /// When.
    pub at_seconds: f64,
    /// About which VM; absent: about the gang.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// What.
    pub text: String,
}

/// A VM's state.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmStatus {
    /// Its name.
    pub name: String,
    /// Where it is; null: nowhere, or unknown.
    pub host: Option<String>,
    /// In one word: `running`, a phase of its move, `needs-recovery`, `lost`, `down` and the like.
    pub state: String,
    /// What each QEMU of the VM says; empty while a run holds their monitors.
    #[serde(default)]
    pub instances: Vec<InstanceStatus>,
    /// The phase of its move, if the active run moves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// How it moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub technique: Option<String>,
    /// The pass that is under way, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass: Option<u32>,
    /// Memory in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transferred_bytes: Option<u64>,
    /// Still to be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_bytes: Option<u64>,
    /// The stream's rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bits_per_second: Option<u64>,
    /// The rate at which it writes memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_bits_per_second: Option<u64>,
    /// When its move is expected to end, seconds from the run's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast_end_seconds: Option<f64>,
    /// When it has to have arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<f64>,
    /// The time between the two; below zero: the deadline is not kept as it looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_slack_seconds: Option<f64>,
    /// How long its vCPUs stood still for the move, once they run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_seconds: Option<f64>,
    /// Why its move ended as it did, unless it completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What one QEMU says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// On which host it is.
    pub host: String,
    /// Of its vCPUs.
    pub run_state: String,
    /// Of its migration.
    pub migration: String,
}
