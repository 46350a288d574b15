//! `query-migrate`: how a migration goes, in our units.

use super::wire::{Count, mbit_per_second};
use crate::{MigrationUri, open_enum::open_enum};
use droveway_fleet::{Bandwidth, Bytes, Ratio};
use serde::Deserialize;
use std::time::Duration;

open_enum! {
    /// Where a migration stands. Source and target each have their own.
    MigrationStatus {
        Idle = "none",
        Setup = "setup",
        Cancelling = "cancelling",
        Cancelled = "cancelled",
        Active = "active",
        PostcopyDevice = "postcopy-device",
        PostcopyActive = "postcopy-active",
        PostcopyPaused = "postcopy-paused",
        PostcopyRecoverSetup = "postcopy-recover-setup",
        PostcopyRecover = "postcopy-recover",
        Completed = "completed",
        Failing = "failing",
        Failed = "failed",
        Colo = "colo",
        PreSwitchover = "pre-switchover",
        Device = "device",
        WaitUnplug = "wait-unplug",
    }
}

/// The reply to `query-migrate`. Members QEMU left out are `None`.
///
/// `downtime` and `expected_downtime` are QEMU's own: the former misses the target's part, and says about 1 ms after
/// post-copy; the latter repeats the limit during the first pass.
#[derive(Debug, Clone, PartialEq)]
pub struct MigrationInfo {
    /// Where it stands; [`MigrationStatus::Idle`] if there was none yet.
    pub status: MigrationStatus,
    /// Memory.
    pub ram: Option<RamInfo>,
    /// Since it started, or from start to end.
    pub total_time: Option<Duration>,
    /// From the vCPUs' stop to the end of the source's part.
    pub downtime: Option<Duration>,
    /// What QEMU expects the downtime to be.
    pub expected_downtime: Option<Duration>,
    /// Before the first page was sent.
    pub setup_time: Option<Duration>,
    /// How far auto-converge holds the vCPUs back.
    pub cpu_throttle: Option<Ratio>,
    /// Why it failed or paused.
    pub error: Option<String>,
    /// What forbids a migration.
    pub blocked_reasons: Vec<String>,
    /// Post-copy, target: how long all vCPUs stood still together waiting for pages (capability `postcopy-blocktime`).
    pub postcopy_blocktime: Option<Duration>,
    /// The same for each vCPU.
    pub postcopy_vcpu_blocktime: Vec<Duration>,
    /// Where an incoming migration is waited for.
    pub listening: Vec<MigrationUri>,
}

/// Memory in a migration.
#[derive(Debug, Clone, PartialEq)]
pub struct RamInfo {
    /// Sent so far, headers included.
    pub transferred: Bytes,
    /// Still to send, as of the last synchronisation.
    pub remaining: Bytes,
    /// The guest's memory.
    pub total: Bytes,
    /// Zero pages met.
    pub zero: Bytes,
    /// Payload of ordinary pages sent.
    pub normal: Bytes,
    /// Number of ordinary pages sent.
    pub normal_pages: u64,
    /// Size of a page.
    pub page_size: Bytes,
    /// How fast the guest changed memory in the last interval; 0 until the second pass.
    pub dirty_rate: Bandwidth,
    /// How fast memory was sent in the last interval.
    pub rate: Bandwidth,
    /// Pages handled in the last interval, as memory covered per time: zero pages count in full.
    pub page_rate: Bandwidth,
    /// Passes over memory so far.
    pub passes: u64,
    /// Pages the target asked for.
    pub postcopy_requests: u64,
    /// Sent by extra channels.
    pub multifd: Bytes,
    /// Sent before switchover.
    pub precopy: Option<Bytes>,
    /// Sent while vCPUs stood still.
    pub during_downtime: Option<Bytes>,
    /// Sent after switchover.
    pub postcopy: Option<Bytes>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct WireMigrationInfo {
    status: Option<MigrationStatus>,
    ram: Option<WireRam>,
    total_time: Option<Count>,
    expected_downtime: Option<Count>,
    downtime: Option<Count>,
    setup_time: Option<Count>,
    cpu_throttle_percentage: Option<Count>,
    error_desc: Option<String>,
    #[serde(default)]
    blocked_reasons: Vec<String>,
    postcopy_blocktime: Option<Count>,
    #[serde(default)]
    postcopy_vcpu_blocktime: Vec<Count>,
    #[serde(default)]
    socket_address: Vec<WireSocket>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[derive(Default)]
struct WireRam {
    transferred: Count,
    remaining: Count,
    total: Count,
    duplicate: Count,
    normal: Count,
    normal_bytes: Count,
    dirty_pages_rate: Count,
    mbps: f64,
    dirty_sync_count: Count,
    postcopy_requests: Count,
    page_size: Count,
    multifd_bytes: Count,
    pages_per_second: Count,
    precopy_bytes: Option<Count>,
    downtime_bytes: Option<Count>,
    postcopy_bytes: Option<Count>,
}

#[derive(Debug, Deserialize)]
struct WireSocket {
    #[serde(rename = "type")]
    kind: String,
    host: Option<String>,
    port: Option<String>,
    path: Option<String>,
}

impl WireSocket {
    /// Kinds this crate doesn't speak (vsock, fd) are left out.
    fn uri(self) -> Option<MigrationUri> {
        match self.kind.as_str() {
            "inet" => Some(MigrationUri::tcp(self.host?, self.port?.parse().ok()?)),
            "unix" => Some(MigrationUri::unix(self.path?)),
            _ => None,
        }
    }
}

impl From<WireRam> for RamInfo {
    fn from(wire: WireRam) -> Self {
        let page = wire.page_size;
        RamInfo {
            transferred: wire.transferred.bytes(),
            remaining: wire.remaining.bytes(),
            total: wire.total.bytes(),
            zero: wire.duplicate.pages(page).bytes(),
            normal: wire.normal_bytes.bytes(),
            normal_pages: wire.normal.0,
            page_size: page.bytes(),
            dirty_rate: wire.dirty_pages_rate.pages(page).bytes_per_second(),
            rate: mbit_per_second(wire.mbps),
            page_rate: wire.pages_per_second.pages(page).bytes_per_second(),
            passes: wire.dirty_sync_count.0,
            postcopy_requests: wire.postcopy_requests.0,
            multifd: wire.multifd_bytes.bytes(),
            precopy: wire.precopy_bytes.map(Count::bytes),
            during_downtime: wire.downtime_bytes.map(Count::bytes),
            postcopy: wire.postcopy_bytes.map(Count::bytes),
        }
    }
}

impl From<WireMigrationInfo> for MigrationInfo {
    fn from(wire: WireMigrationInfo) -> Self {
        MigrationInfo {
            status: wire.status.unwrap_or(MigrationStatus::Idle),
            ram: wire.ram.map(RamInfo::from),
            total_time: wire.total_time.map(Count::millis),
            downtime: wire.downtime.map(Count::millis),
            expected_downtime: wire.expected_downtime.map(Count::millis),
            setup_time: wire.setup_time.map(Count::millis),
            cpu_throttle: wire.cpu_throttle_percentage.and_then(super::wire::percent),
            error: wire.error_desc,
            blocked_reasons: wire.blocked_reasons,
            postcopy_blocktime: wire.postcopy_blocktime.map(Count::millis),
            postcopy_vcpu_blocktime: wire
                .postcopy_vcpu_blocktime
                .into_iter()
                .map(Count::millis)
                .collect(),
            listening: wire.socket_address.into_iter().filter_map(WireSocket::uri).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> MigrationInfo {
        serde_json::from_str::<WireMigrationInfo>(text).unwrap().into()
    }

    #[test]
    fn no_migration_is_idle() {
        let info = read("{}");
        assert_eq!(info.status, MigrationStatus::Idle);
        assert_eq!(info.ram, None);
    }

    #[test]
    fn units_and_the_unknown_are_read() {
        let info = read(
            r#"{"status": "quantum", "total-time": 1200, "downtime": 7, "cpu-throttle-percentage": 20,
            "postcopy-vcpu-blocktime": [3, 4], "socket-address": [
                {"type": "inet", "host": "::1", "port": "5100"}, {"type": "unix", "path": "/a"}, {"type": "fd", "str": "7"}],
            "ram": {"transferred": 9, "remaining": -1, "total": 4096, "duplicate": 2, "normal": 1, "normal-bytes": 4096,
                "dirty-pages-rate": 256, "mbps": 8.5, "page-size": 4096, "precopy-bytes": 5, "dirty-sync-count": 2}}"#,
        );
        assert_eq!(info.status, MigrationStatus::Unknown("quantum".into()));
        assert_eq!(info.total_time, Some(Duration::from_millis(1200)));
        assert_eq!(info.cpu_throttle.map(|throttle| throttle.to_string()).as_deref(), Some("0.2"));
        assert_eq!(info.postcopy_vcpu_blocktime.len(), 2);
        assert_eq!(info.listening, [MigrationUri::tcp("::1", 5100), MigrationUri::unix("/a")]);
        let ram = info.ram.unwrap();
        assert_eq!(ram.remaining, Bytes::ZERO);
        assert_eq!(ram.zero, Bytes::new(8192));
        assert_eq!(ram.dirty_rate.to_string(), "1MiB/s");
        assert_eq!(ram.rate.bits_per_second(), 8_500_000);
        assert_eq!((ram.precopy, ram.postcopy), (Some(Bytes::new(5)), None));
    }
}
