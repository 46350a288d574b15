//! What the drivers want done. Data: a shell performs it on real QEMUs, a simulated world in miniature.

use crate::input::{MigrationSample, Side};
use droveway_fleet::{Bandwidth, RateLimit};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, time::Duration};

/// Names one action of one driver, so that a late reply is recognised rather than believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ActionId(pub u64);

/// One thing to do to one of the two QEMUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Set capabilities and parameters.
    Configure {
        /// Where.
        side: Side,
        /// Whether post-copy must be possible.
        postcopy: bool,
        /// Whether QEMU may hold the vCPUs back when a pre-copy does not converge (`auto-converge`).
        throttle: bool,
        /// The parameters.
        limits: Limits,
    },
    /// The target listens for the migration. Answered by [`Reply::Listening`].
    Listen,
    /// The source connects and begins.
    Migrate {
        /// Where the target listens.
        uri: String,
    },
    /// The source switches to post-copy as soon as it can.
    StartPostcopy,
    /// Tell the source what rate a switchover will get.
    SetSwitchoverBandwidth(Bandwidth),
    /// Tell the source how long the VM may stand still.
    SetDowntimeLimit(Duration),
    /// Tell the source how fast the pre-copy stream may be.
    SetBandwidth(RateLimit),
    /// Tell the source how fast post-copy's background stream may be.
    SetPostcopyBandwidth(RateLimit),
    /// Read the migration's figures. Answered by [`Reply::Sample`].
    Sample(Side),
    /// The source gives up the migration (`migrate_cancel`).
    Cancel,
    /// The source's migration connection is broken out of band, for when its main loop is stuck in the stream.
    BreakChannel,
    /// The target's process ends; answered only once it is certain that it is gone.
    DestroyTarget,
    /// The source's process ends: the VM has moved.
    DestroySource,
    /// The vCPUs run again.
    Resume(Side),
    /// No vCPU runs any more.
    Stop(Side),
    /// Post-copy's connection counts as broken (`migrate-pause`, out of band).
    PauseChannel(Side),
    /// The target listens anew, for a broken post-copy. Answered by [`Reply::Listening`].
    ListenAgain,
    /// The source connects anew and post-copy goes on.
    ResumeMigration {
        /// Where the target listens now.
        uri: String,
    },
    /// The source is set to what it was set to before the attempt: the VM stays there.
    Restore(Settings),
}

/// QEMU's migration parameters, all set explicitly in every run: defaults differ between versions and between "0" and
/// "unlimited".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `max-bandwidth`.
    pub bandwidth: RateLimit,
    /// `max-postcopy-bandwidth`.
    pub postcopy_bandwidth: RateLimit,
    /// `avail-switchover-bandwidth`.
    pub switchover_bandwidth: Bandwidth,
    /// `downtime-limit`.
    pub downtime: Duration,
}

/// What a QEMU is set to, of all that an attempt changes: read before the first change, and put back if the VM stays. Absent: this
/// QEMU does not have it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// `max-bandwidth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<RateLimit>,
    /// `max-postcopy-bandwidth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postcopy_bandwidth: Option<RateLimit>,
    /// `avail-switchover-bandwidth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switchover_bandwidth: Option<SwitchoverRate>,
    /// `downtime-limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Duration>,
    /// Capabilities by QEMU's names for them, on or off.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capabilities: BTreeMap<String, bool>,
}

/// What a QEMU takes a switchover to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SwitchoverRate {
    /// What it measures itself.
    Measured,
    /// So much.
    Assumed(Bandwidth),
}

/// What an action led to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// The target listens here.
    Listening(String),
    /// The figures.
    Sample(Box<MigrationSample>),
}

/// How an action failed: what the driver may conclude.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureClass {
    /// No answer in time: it may or may not have been done.
    Timeout,
    /// The QEMU refused: it was not done.
    Refused,
    /// The QEMU is gone.
    Gone,
}

/// An action that failed. Drivers branch on the class, never on the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionError {
    /// What may be concluded.
    pub class: FailureClass,
    /// What happened, for people.
    pub message: String,
}

impl fmt::Display for ActionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
