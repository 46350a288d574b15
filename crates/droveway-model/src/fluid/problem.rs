//! What the fluid model is given.

use crate::{share::Resource, technique::REQUEST_BYTES};
use droveway_fleet::{DirtyCurve, Technique};
use serde::{Deserialize, Serialize};

/// Guests' pages.
pub(super) const PAGE_BYTES: f64 = 4_096.0;

/// A set of moves, and the world that they happen in. Indexes name ports (a host has one), VMs, flows, moves and windows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gang {
    /// One port a host.
    pub ports: Vec<PortModel>,
    /// The VMs, those that stay included.
    pub vms: Vec<VmModel>,
    /// The traffic.
    pub flows: Vec<FlowModel>,
    /// The moves. A VM has at most one.
    pub moves: Vec<MoveModel>,
    /// How many moves of each window run at once, in the order of [`Gang::moves`].
    pub windows: Vec<usize>,
    /// What these hosts and their QEMU are like.
    pub constants: Constants,
    /// The play ends here at the latest, seconds.
    pub horizon: f64,
    /// Where in its slices each pass of each move ends: 0 takes the same for all, other numbers others for each.
    #[serde(default)]
    pub slices_from: usize,
}

/// A host's port, bytes of payload per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortModel {
    /// What it can send.
    pub tx: f64,
    /// What it can receive.
    pub rx: f64,
    /// The part of `tx` that is reserved for migration; zero: shared by flow.
    pub tx_reserved: f64,
    /// The part of `rx` that is reserved for migration.
    pub rx_reserved: f64,
    /// The host's own queue keeps what is promised: page requests, requested pages and acknowledgements go first.
    #[serde(default)]
    pub shaped: bool,
    /// Migrations' sockets send small segments at once, and a stream keeps to a part of the port while its guest fetches the pages
    /// without which it answers nobody.
    #[serde(default)]
    pub tuned: bool,
}

/// Of ports that are held, what a stream has while its VM stands still: its state goes before what applications are promised, for
/// some hundredths of a second, and only floors before it. That none of the port is left to them would stall their connections.
pub const HURRIED_RATIO: f64 = 0.95;

/// What a shaper gives out of a port (`droveway-host` leaves as much above it).
const SHAPED_RATIO: f64 = 0.97;

impl PortModel {
    /// A port that is shared by flow.
    #[must_use]
    pub const fn shared(rate: f64) -> Self {
        PortModel {
            tx: rate,
            rx: rate,
            tx_reserved: 0.0,
            rx_reserved: 0.0,
            shaped: false,
            tuned: false,
        }
    }

    /// Whether requested pages pass the streams all the time: by their class, if the sender's TCP does not hold the requests back.
    #[must_use]
    pub const fn overtakes(&self) -> bool {
        self.shaped && self.tuned
    }

    /// The same port, shaped by its host, with so much of each direction promised to migration (bytes per second). A little
    /// of the port is given up, so that the queue is the host's.
    #[must_use]
    pub fn promised(self, tx: f64, rx: f64) -> Self {
        let (all_tx, all_rx) = (SHAPED_RATIO * self.tx, SHAPED_RATIO * self.rx);
        PortModel {
            tx: all_tx,
            rx: all_rx,
            tx_reserved: tx.clamp(0.0, all_tx),
            rx_reserved: rx.clamp(0.0, all_rx),
            shaped: true,
            ..self
        }
    }

    /// Of `capacity`, of which `guarantee` is held for migration, what is held while a VM stands still.
    #[must_use]
    pub const fn hurried(&self, capacity: f64, guarantee: f64) -> f64 {
        let most = HURRIED_RATIO * capacity;
        if self.shaped && guarantee > 0.0 && guarantee < most { most } else { guarantee }
    }

    pub(super) const fn tx_resource(&self) -> Resource {
        Resource { capacity: self.tx, migration_guarantee: self.tx_reserved, strict: false }
    }

    pub(super) const fn rx_resource(&self) -> Resource {
        Resource { capacity: self.rx, migration_guarantee: self.rx_reserved, strict: false }
    }
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmModel {
    /// The host where it is at the start.
    pub host: usize,
    /// What a first pass sends.
    pub send_bytes: f64,
    /// What it only looks at: pages of zeroes.
    pub zero_bytes: f64,
    /// How full the end of its RAM is.
    #[serde(default)]
    pub tail: Tail,
    /// How it dirties its memory.
    pub curve: DirtyCurve,
    /// CPU and device state.
    pub state_bytes: f64,
}

/// Content towards the end of a VM's RAM: how much there is in the last 4 MiB, 8 MiB, ... 512 MiB, bytes. The default is a RAM
/// that is full to its end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tail([f64; Tail::POINTS]);

impl Tail {
    const POINTS: usize = 8;
    const FIRST: f64 = 4_194_304.0;

    fn distance(index: usize) -> f64 {
        // Two to the power of less than 8.
        Self::FIRST * f64::from(1_u32 << index.min(Self::POINTS))
    }

    /// From measured points (bytes of RAM, bytes of content), by rising distance; beyond the last one RAM is as full as the
    /// rest of it is on average: `sent` of `ram` in all.
    #[must_use]
    pub fn of(points: &[(f64, f64)], sent: f64, ram: f64) -> Tail {
        if points.is_empty() {
            return Tail::default();
        }
        let at = |wanted: f64| {
            let (mut before, mut content) = (0.0, 0.0);
            for (distance, filled) in points.iter().copied().chain([(ram, sent)]) {
                if distance >= wanted && distance > before {
                    return content + (filled - content) * (wanted - before) / (distance - before);
                }
                (before, content) = (distance, filled);
            }
            content
        };
        Tail(std::array::from_fn(|index| at(Self::distance(index))))
    }

    /// The content of the last so many bytes of RAM.
    #[must_use]
    pub fn content(&self, ram_bytes: f64) -> f64 {
        let (mut before, mut content) = (0.0, 0.0);
        for (index, filled) in self.0.iter().enumerate() {
            let distance = Self::distance(index);
            if ram_bytes <= distance {
                return content + (filled - content) * (ram_bytes - before) / (distance - before);
            }
            (before, content) = (distance, *filled);
        }
        content + (ram_bytes - before)
    }
}

impl Default for Tail {
    fn default() -> Self {
        Tail(std::array::from_fn(Self::distance))
    }
}

/// An end of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// A VM, wherever it is.
    Vm(usize),
    /// A host itself.
    Host(usize),
    /// Neither: whose port is nobody's concern here.
    Outside,
}

/// Traffic, one direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowModel {
    /// Who sends.
    pub from: End,
    /// Who receives.
    pub to: End,
    /// What it takes at most, bytes per second; infinite if elastic.
    #[serde(with = "unlimited")]
    pub demand: f64,
    /// Its TCP connections.
    pub weight: f64,
}

/// A pass never leaves so many times what the one before left.
const fn never() -> f64 {
    f64::INFINITY
}

/// JSON has no infinity: no limit is written as `null`.
mod unlimited {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(from)?.unwrap_or(f64::INFINITY))
    }
}

/// When a move starts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Start {
    /// At this second.
    At(f64),
    /// As soon as its window has room, in the moves' order (a sliding window, not batches).
    InWindow(usize),
    /// The same, but not before a time.
    InWindowFrom {
        /// The window.
        window: usize,
        /// Seconds.
        from: f64,
    },
    /// So long after another move's end.
    AfterEnd {
        /// The other move.
        step: usize,
        /// Seconds.
        delay: f64,
    },
    /// So long after another move's VM runs at its target.
    AfterSwitch {
        /// The other move.
        step: usize,
        /// Seconds.
        delay: f64,
    },
    /// It is under way already when the play begins. Counts in its window.
    Begun {
        /// The window.
        window: usize,
        /// How far it has come.
        so_far: Begun,
    },
}

/// How far a move has come that is under way when the play begins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begun {
    /// Where it is.
    pub at: BegunAt,
    /// What its stage still has to send: the rest of the pass, of the stopped VM's memory, or of post-copy.
    pub left: f64,
    /// Sent.
    pub sent: f64,
}

/// Where a move is that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BegunAt {
    /// In a pass; the VM runs at the source. A move whose technique is post-copy switches at once.
    Pass {
        /// Passes that have ended.
        passes: u32,
        /// So long since the last one ended: what was dirtied meanwhile is still to come.
        seconds: f64,
    },
    /// The VM is stopped and the rest is sent.
    Stopped,
    /// The VM runs at the target, its memory follows.
    PostCopy,
}

impl Start {
    /// The window in whose room it moves.
    pub(super) const fn window(self) -> Option<usize> {
        match self {
            Start::InWindow(window)
            | Start::InWindowFrom { window, .. }
            | Start::Begun { window, .. } => Some(window),
            Start::At(_) | Start::AfterEnd { .. } | Start::AfterSwitch { .. } => None,
        }
    }
}

/// One VM's move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MoveModel {
    /// The VM.
    pub vm: usize,
    /// The host to go to.
    pub target: usize,
    /// How.
    pub technique: Technique,
    /// When.
    pub start: Start,
    /// Ceiling of the pre-copy stream, bytes per second; infinite: none. Does not bind at switchover.
    #[serde(with = "unlimited")]
    pub bandwidth: f64,
    /// Ceiling of post-copy's background stream.
    #[serde(with = "unlimited")]
    pub postcopy_bandwidth: f64,
    /// The rate that the switchover is taken to get.
    pub switchover_bandwidth: f64,
    /// The downtime aimed at, seconds.
    pub downtime_limit: f64,
    /// Passes before the fallback.
    pub max_passes: u32,
    /// What happens then: post-copy, or the VM stays.
    pub fallback_postcopy: bool,
    /// A hybrid switches after so many passes.
    pub switch_after_pass: u32,
    /// Earlier, as soon as a pass leaves at least this share of what the one before left (the first: of what it sent).
    #[serde(default = "never", with = "unlimited")]
    pub stalled_ratio: f64,
    /// TCP connections of its stream.
    pub weight: f64,
    /// Whether QEMU may slow the guest down when it does not converge (`auto-converge`).
    pub throttle: bool,
}

/// What hosts, network and QEMU are like: learned from runs ([`crate::calibration`]); until then the priors below.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Constants {
    /// Share of its fair rate that a stream really sends at.
    pub efficiency: f64,
    /// Weight of a stream against one elastic flow of the same number of connections.
    pub stream_weight: f64,
    /// Start of a move until its first byte.
    pub setup_seconds: f64,
    /// Pre-copy: fixed part of the downtime, beyond sending the rest.
    pub switch_seconds: f64,
    /// Post-copy: fixed part of STOP to RESUME, beyond sending the state of CPU and devices.
    pub postcopy_switch_seconds: f64,
    /// Pre-copy: RESUME until clients hear the guest again.
    pub announce_seconds: f64,
    /// The last byte until the move counts as ended.
    pub finish_seconds: f64,
    /// Looking at a byte of zeroes in a pre-copy pass.
    pub zero_scan_seconds_per_byte: f64,
    /// The same in post-copy.
    pub postcopy_zero_scan_seconds_per_byte: f64,
    /// Dirtying during a migration against before.
    pub dirty_inflation: f64,
    /// QEMU looks at what is left after sending for so long.
    pub slice_seconds: f64,
    /// What a stream's sockets hold: QEMU has sent it, the target does not have it. It goes before the state at a switch.
    pub socket_bytes: f64,
    /// What QEMU stops for against what the stream's rate would carry in the downtime aimed at. The driver tells it a rate
    /// that is smoothed over its samples, and tells it anew only when that is off by a tenth: a little beside the stream's.
    pub threshold_ratio: f64,
    /// Reverse traffic per forward byte.
    pub acknowledgement_ratio: f64,
    /// The share of its rate that a stream loses while its acknowledgements stand behind elastic traffic.
    pub reverse_loss: f64,
    /// Pages that a post-copied guest has to fetch before it answers anybody.
    pub essential_pages: f64,
    /// The same after a hybrid's first pass.
    pub essential_pages_hybrid: f64,
    /// Pages that a guest touches for each that it dirties, in the same time.
    pub touch_ratio: f64,
    /// A fetched page's time beside its own bytes and the queue.
    pub fault_seconds: f64,
    /// A fetched page on the wire, with its headers.
    pub fault_bytes: f64,
    /// What stands in the queues before a fetched page and its request while the background stream is not held back.
    pub fault_queue_bytes: f64,
}

impl Constants {
    /// Nothing costs anything but bytes: what the literature's closed forms assume.
    pub const IDEAL: Constants = Constants {
        efficiency: 1.0,
        stream_weight: 1.0,
        setup_seconds: 0.0,
        switch_seconds: 0.0,
        postcopy_switch_seconds: 0.0,
        announce_seconds: 0.0,
        finish_seconds: 0.0,
        zero_scan_seconds_per_byte: 0.0,
        postcopy_zero_scan_seconds_per_byte: 0.0,
        dirty_inflation: 1.0,
        slice_seconds: 0.0,
        socket_bytes: 0.0,
        threshold_ratio: 1.0,
        acknowledgement_ratio: 0.0,
        reverse_loss: 0.0,
        essential_pages: 0.0,
        essential_pages_hybrid: 0.0,
        touch_ratio: 0.0,
        fault_seconds: 0.0,
        fault_bytes: 0.0,
        fault_queue_bytes: 0.0,
    };

    /// Before anything was learned. Sources: QEMU 2.8 on GbE (zero pages: 0.28 s/GiB in pre-copy, 0.12 in post-copy);
    /// QEMU 10.0.2 between two hosts of a laboratory (the other times; 750 to 1,600 requested pages of idle and of sending guests; a
    /// page's wait of 7.6 ms at 100 Mbit/s and 4.7 ms at 200 Mbit/s with stock sockets gives the queue, 0.6 ms at 100, 0.39 at 120, 0.17 at
    /// 200 and 0.15 at 1,000 Mbit/s with tuned ones and classes the rest); acknowledgements are 3.1 % of the bytes that they
    /// acknowledge; that a guest reads as much as it writes is assumed; QEMU's slice is its `MAX_WAIT`.
    pub const PRIOR: Constants = Constants {
        efficiency: 0.98,
        stream_weight: 1.0,
        setup_seconds: 0.015,
        switch_seconds: 0.03,
        postcopy_switch_seconds: 0.015,
        announce_seconds: 0.06,
        finish_seconds: 0.01,
        zero_scan_seconds_per_byte: 0.28 / 1_073_741_824.0,
        postcopy_zero_scan_seconds_per_byte: 0.12 / 1_073_741_824.0,
        dirty_inflation: 1.0,
        slice_seconds: 0.05,
        socket_bytes: 4e5,
        threshold_ratio: 1.05,
        acknowledgement_ratio: 0.031,
        reverse_loss: 0.15,
        essential_pages: 1_000.0,
        essential_pages_hybrid: 300.0,
        touch_ratio: 2.0,
        fault_seconds: 0.000_15,
        fault_bytes: 4_300.0,
        fault_queue_bytes: 100_000.0,
    };
}

/// A background stream of less than this share of the port builds no queue (measured: the cliff is between 0.2 and 0.6 of
/// the port, since requested pages come on top).
const QUEUE_FREE_SHARE: f64 = 0.5;

impl Constants {
    /// What a missing page costs at a port of `capacity` bytes per second: its way, its own bytes, and what stands before them where
    /// the background stream (at most `ceiling` bytes per second) fills the queue and requested pages do not overtake it: by
    /// their class, or because it keeps aside for a moment.
    ///
    /// `fetching`: guests that fetch their first pages there at once, this one among them. Each asks for its next page when it has
    /// the last one, so a page waits for one of everybody else's: 0.28 ms at 100 Mbit/s alone, 0.67 of two at once (measured). Of
    /// the streams' queues it waits for half: at 70 to 100 Mbit/s two guests' pages took what one's do, five guests' 2.4 times as long.
    #[must_use]
    pub fn page_seconds(&self, capacity: f64, ceiling: f64, overtakes: bool, fetching: f64) -> f64 {
        let free = overtakes || ceiling < QUEUE_FREE_SHARE * capacity;
        let queued = if free { 0.0 } else { self.fault_queue_bytes * (fetching / 2.0).max(1.0) };
        let capacity = capacity.max(1.0);
        fetching * (self.fault_seconds + self.fault_bytes / capacity) + queued / capacity
    }

    /// Bytes per second of a waiting guest's page requests at most: one vCPU asks for the next page when it has the last one,
    /// and for no more pages than the way there, `forward` bytes per second, can bring.
    #[must_use]
    pub fn requests(&self, forward: f64) -> f64 {
        if self.fault_seconds > 0.0 {
            REQUEST_BYTES * (1.0 / self.fault_seconds).min(forward / PAGE_BYTES)
        } else {
            0.0
        }
    }
}

impl Default for Constants {
    fn default() -> Self {
        Constants::PRIOR
    }
}
