use crate::habits::Ladder;
use droveway_fleet::{Bandwidth, HostId, RateLimit, Technique, VmId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a run will do. Immutable: a new plan is a child with a higher generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Its name, unique among the runs of one controller.
    pub id: String,
    /// The plan that it replaces.
    pub parent: Option<String>,
    /// Whoever holds a higher generation refuses a lower one.
    pub generation: u32,
    /// The policy that made it.
    pub policy: String,
    /// The host to leave.
    pub source: HostId,
    /// The host to go to.
    pub target: HostId,
    /// At most so many VMs whose start is [`StartRule::InWindow`] move at once; the next starts as soon as one ends (a
    /// sliding window, not batches).
    pub concurrency: u32,
    /// Only one stream at a time is fast; whose, changes at the ends of its passes. `None`: all are as fast as their moves
    /// say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<Turns>,
    /// The moves, in the order in which they start.
    pub moves: Vec<Move>,
}

/// Streams that take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Turns {
    /// The ceiling of the VM whose turn it is.
    pub fast: Bandwidth,
    /// The ceiling of the others.
    pub slow: Bandwidth,
}

/// One VM's part of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    /// The VM.
    pub vm: VmId,
    /// How its memory moves.
    pub technique: Technique,
    /// When it starts.
    #[serde(default)]
    pub start: StartRule,
    /// What happens when pre-copy does not converge.
    pub fallback: Fallback,
    /// When a hybrid switches to post-copy.
    pub switch: SwitchRule,
    /// Pre-copy passes before the fallback is taken.
    pub max_passes: u32,
    /// Ceiling of the pre-copy stream (QEMU's `max-bandwidth`). Does not bind at switchover.
    pub bandwidth: RateLimit,
    /// Ceiling of post-copy's background stream (`max-postcopy-bandwidth`). Pages that the guest waits for come on top.
    pub postcopy_bandwidth: RateLimit,
    /// The rate that switchover will really get (`avail-switchover-bandwidth`); with `downtime_limit` it decides what
    /// remainder is small enough to stop for.
    pub switchover_bandwidth: Bandwidth,
    /// The longest downtime aimed at (`downtime-limit`).
    pub downtime_limit: Duration,
    /// A switchover that takes longer than this has met a dead path: the VM goes back to the source.
    pub switchover_limit: Duration,
    /// QEMU may hold the vCPUs back when pre-copy does not converge (`auto-converge`).
    #[serde(default)]
    pub throttle: bool,
    /// A rule that acts while the pre-copy runs, instead of what the plan says of its downtime limit and its fallback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ladder: Option<Ladder>,
}

/// When a move starts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartRule {
    /// As soon as fewer than [`Plan::concurrency`] such moves use the port, in the plan's order.
    #[default]
    InWindow,
    /// As soon as the attempt to move this VM has ended, however it ended. Does not count in the window.
    AfterEnd(VmId),
}

/// What happens when pre-copy does not converge within [`Move::max_passes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// Switch to post-copy.
    PostCopy,
    /// Stop trying; the VM stays at the source.
    Abort,
}

/// When a hybrid switches from pre-copy to post-copy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SwitchRule {
    /// At the end of this pass at the latest.
    pub after_pass: u32,
    /// Earlier, as soon as a pass leaves at least this share of what the pass before left.
    pub stalled_ratio: f64,
}
