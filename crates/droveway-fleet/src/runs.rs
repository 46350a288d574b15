//! What is remembered of a fleet's runs, as `runs` and `report` print it for programs.

use crate::report::RunReport;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A run, in the list that `runs` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListedRun {
    /// Its id.
    pub id: String,
    /// The wall clock at its start, RFC 3339.
    pub started_at: String,
    /// `drain`, `migrate` or `recover`.
    pub verb: String,
    /// The host that was left.
    pub source: String,
    /// The host that was gone to.
    pub target: String,
    /// The policy by name.
    pub policy: String,
    /// `active`, `done`, or how it ended, in words.
    pub state: String,
    /// The command's exit code; absent: it has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// The folder of its report; absent: it left none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<String>,
}

/// A run that left no report: what its journal tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JournalReport {
    /// The run.
    #[serde(flatten)]
    pub run: ListedRun,
    /// Its VMs.
    pub vms: Vec<JournalVm>,
    /// What happened, in order.
    pub events: Vec<JournalEvent>,
}

/// How far a VM came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JournalVm {
    /// Its name.
    pub name: String,
    /// The phase of its move; null: it had not begun.
    pub phase: Option<String>,
    /// Why it ended so, unless it completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JournalEvent {
    /// When, seconds from the run's start.
    pub at_seconds: f64,
    /// To which VM; absent: to the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// What.
    pub text: String,
}

/// What `report RUN` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ReportDocument {
    /// The report that the run left.
    Whole(Box<RunReport>),
    /// What its journal tells, where there is none.
    Journal(Box<JournalReport>),
}
