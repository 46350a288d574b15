use crate::habits::Ladder;
use droveway_fleet::{
    Bandwidth, HostId, RateLimit, Technique, TimeSpan, Urgency, VmId, document::API_VERSION,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The `kind` of a plan.
pub(crate) const KIND: &str = "Plan";

/// A plan says nothing of a world that was measured longer ago than this, unless it says itself what it bears: operators'
/// peaks last minutes.
pub const SNAPSHOT_MAX_AGE: TimeSpan = TimeSpan::from_secs(600);

/// What a run will do. Immutable: a new plan is a child with a higher generation. A document: [`crate::document`] reads one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Plan {
    /// Always `droveway/v1`.
    pub api_version: String,
    /// Always `Plan`.
    pub kind: String,
    /// Its name, unique among the runs of one controller.
    pub id: String,
    /// The plan that it replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Whoever holds a higher generation refuses a lower one.
    #[serde(default)]
    pub generation: u32,
    /// The policy that made it, as it was asked for: with its parameters.
    pub policy: String,
    /// The host to leave.
    pub source: HostId,
    /// The host to go to.
    pub target: HostId,
    /// When its snapshot was taken, RFC 3339; absent: it was made without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_taken_at: Option<String>,
    /// It is not executed once its snapshot is older; absent: [`SNAPSHOT_MAX_AGE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_max_age: Option<TimeSpan>,
    /// How much it matters beside the applications: a plan of low urgency gives bandwidth back that they want. Absent:
    /// medium.
    #[serde(default)]
    pub urgency: Urgency,
    /// When the last VM has to have arrived, from the start of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<TimeSpan>,
    /// The longest downtime that was asked for; absent: nobody asked, and the moves' own limits are only aimed at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_downtime: Option<TimeSpan>,
    /// At most so many VMs have their memory split between two hosts at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_exposed: Option<u32>,
    /// What the ports keep free for the moves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<Reservation>,
    /// The migrations' sockets are tuned from outside: small segments leave at once, and each has its class of the port.
    #[serde(default, skip_serializing_if = "is_false")]
    pub tuning: bool,
    /// The VMs whose vCPUs did not run when it was made; all others did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paused: Vec<VmId>,
    /// At most so many VMs whose start is [`StartRule::InWindow`] move at once; the next starts as soon as one ends (a
    /// sliding window, not batches).
    pub concurrency: u32,
    /// Only one stream at a time is fast; whose, changes at the ends of its passes. `None`: all are as fast as their moves
    /// say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns: Option<Turns>,
    /// So long after the start of the run the first VM starts: a quieter phase is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_after: Option<TimeSpan>,
    /// The moves, in the order in which they start.
    pub moves: Vec<Move>,
}

/// Between a plan's id and the generation of its child.
const GENERATION: &str = ".g";

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Streams that take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Turns {
    /// The ceiling of the VM whose turn it is.
    pub fast: Bandwidth,
    /// The ceiling of the others.
    pub slow: Bandwidth,
}

impl Plan {
    /// A plan of generation 0 that says no more than who moves how.
    #[must_use]
    pub fn new(
        id: &str,
        policy: &str,
        (source, target): (HostId, HostId),
        concurrency: u32,
        moves: Vec<Move>,
    ) -> Self {
        Plan {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            id: id.to_owned(),
            parent: None,
            generation: 0,
            policy: policy.to_owned(),
            source,
            target,
            snapshot_taken_at: None,
            snapshot_max_age: None,
            urgency: Urgency::default(),
            deadline: None,
            max_downtime: None,
            max_exposed: None,
            reservations: Vec::new(),
            tuning: false,
            paused: Vec::new(),
            concurrency,
            turns: None,
            start_after: None,
            moves,
        }
    }

    /// One that replaces it and differs in nothing yet but its id and its generation.
    #[must_use]
    pub fn child(&self) -> Plan {
        let generation = self.generation + 1;
        let root = self.id.split(GENERATION).next().unwrap_or(&self.id);
        let id = format!("{root}{GENERATION}{generation}");
        Plan { generation, parent: Some(self.id.clone()), id, ..self.clone() }
    }

    /// The move of that VM.
    #[must_use]
    pub fn step(&self, vm: &str) -> Option<&Move> {
        self.moves.iter().find(|step| step.vm.as_str() == vm)
    }
}

/// A rate that a port keeps free for the moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reservation {
    /// The host whose port it is.
    pub port: HostId,
    /// The direction.
    pub direction: Direction,
    /// The rate.
    pub rate: Bandwidth,
}

/// A direction of a port, as its host sees it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// What the host sends.
    Tx,
    /// What the host receives.
    Rx,
}

/// One VM's part of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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
    /// The longest downtime aimed at (`downtime-limit`). A hybrid begins with less: see [`Move::first_downtime_limit`].
    #[serde(with = "span")]
    #[schemars(with = "TimeSpan")]
    pub downtime_limit: Duration,
    /// A switchover that takes longer than this has met a dead path: the VM goes back to the source.
    #[serde(with = "span")]
    #[schemars(with = "TimeSpan")]
    pub switchover_limit: Duration,
    /// QEMU may hold the vCPUs back when pre-copy does not converge (`auto-converge`).
    #[serde(default)]
    pub throttle: bool,
    /// A rule that acts while the pre-copy runs, instead of what the plan says of its downtime limit and its fallback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ladder: Option<Ladder>,
}

/// A hybrid that is to switch ends by itself only if what its passes leave is sent in so short a time: as long as a switch
/// takes. With the whole downtime limit it would be a coin's toss of a few hundred pages whether its VM stands still for
/// 25 ms or for 250 (measured: half of the nearly idle guests on a busy port), and nobody could say so before.
pub const HYBRID_DOWNTIME: Duration = Duration::from_millis(10);

/// No VM's memory is let be split between two hosts if that is expected to last longer. Until it is together again the VM needs both
/// hosts and the path between them. 64 GiB take 9.7 minutes of a port of 1 Gbit/s, and a third of the port may be somebody else's.
pub const EXPOSURE_MAX: TimeSpan = TimeSpan::from_secs(900);

impl Move {
    /// Whether the VM's memory may come to be split: by its technique, its fallback or its rule.
    #[must_use]
    pub fn may_postcopy(&self) -> bool {
        self.technique.exposes()
            || self.fallback == Fallback::PostCopy
            || self.ladder.as_ref().is_some_and(Ladder::may_postcopy)
    }

    /// The downtime limit that QEMU is given at the start: a rule's own; for a hybrid with a pass to switch after
    /// [`HYBRID_DOWNTIME`] at most; else [`Move::downtime_limit`].
    #[must_use]
    pub fn first_downtime_limit(&self) -> Duration {
        if let Some(own) = self.ladder.as_ref().and_then(Ladder::initial_limit) {
            return own;
        }
        // One that may use all its passes is to converge if it can.
        let switches = self.switch.after_pass < self.max_passes;
        match self.technique {
            Technique::Hybrid if switches => self.downtime_limit.min(HYBRID_DOWNTIME),
            _ => self.downtime_limit,
        }
    }
}

/// A time as people write it: `300ms`.
mod span {
    use droveway_fleet::TimeSpan;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
        TimeSpan::from(*span).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        TimeSpan::deserialize(from).map(TimeSpan::duration)
    }
}

/// When a move starts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StartRule {
    /// As soon as fewer than [`Plan::concurrency`] such moves use the port, in the plan's order.
    #[default]
    InWindow,
    /// As soon as the attempt to move this VM has ended, however it ended. Does not count in the window.
    AfterEnd(VmId),
}

/// What happens when pre-copy does not converge within [`Move::max_passes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// Switch to post-copy.
    PostCopy,
    /// Stop trying; the VM stays at the source.
    Abort,
}

/// When a hybrid switches from pre-copy to post-copy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SwitchRule {
    /// At the end of this pass at the latest.
    pub after_pass: u32,
    /// Earlier, as soon as a pass leaves at least this share of what the pass before left (the first: of what it sent).
    pub stalled_ratio: f64,
}
