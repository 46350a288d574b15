//! What the kernel at the source says of migrations' connections while they run: round trips, what had to be sent again, what
//! counts as lost, and how fast the target took the stream. In post-copy also what both ends know of its delivery, by which a
//! dead path is noticed.
//!
//! The rate is the slope of what was acknowledged: the kernel's own delivery rate is noisy (183 to 300 Mbit/s on a port of 200),
//! and QEMU's count runs ahead by what the send buffer holds.

use super::{Ledger, perform::Pair};
use droveway_drive::{Action, ConnectionSample, GangDriver, PathSample};
use droveway_fleet::{
    Timestamp, VmId,
    report::{PathReport, RttReport},
};
use droveway_host::{
    netns::Netns,
    tcp_info::{Connection, TcpDiag},
};
use droveway_model::estimate::Window;
use std::{collections::BTreeMap, net::SocketAddr};

/// Round trips that are kept of a move: ten minutes of the loop's ticks.
const ROUND_TRIPS_MAX: usize = 3_000;

/// Watches the connections of a run's migrations, at their source.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// An open view of each namespace; `None` where it cannot be had, which was said.
    views: BTreeMap<Option<String>, Option<TcpDiag>>,
    watched: BTreeMap<VmId, Watched>,
}

#[derive(Debug)]
struct Watched {
    /// The source's and the target's.
    netns: [Option<String>; 2],
    /// Where the target listens: the run gives each migration a port of its own.
    port: u16,
    found: bool,
}

impl Paths {
    /// Something is about to be done that makes a connection.
    pub(super) fn note_action(&mut self, vm: &VmId, action: &Action, pair: &Pair) {
        let (Action::Migrate { uri } | Action::ResumeMigration { uri }) = action else { return };
        self.watch(vm, uri, pair);
    }

    /// A stream may be there whose target was told to listen so, before this controller drove.
    pub(super) fn watch(&mut self, vm: &VmId, uri: &str, pair: &Pair) {
        let Some(port) = uri.rsplit(':').next().and_then(|port| port.parse().ok()) else { return };
        let netns = pair.netns.clone();
        for name in &netns {
            self.views.entry(name.clone()).or_insert_with_key(|name| {
                let opened = Netns::of(name.as_deref())
                    .map_err(anyhow::Error::from)
                    .and_then(|netns| Ok(TcpDiag::open(&netns)?));
                let told = |error: &_| tracing::warn!("the report will lack paths: {error:#}");
                opened.inspect_err(told).ok()
            });
        }
        self.watched.insert(vm.clone(), Watched { netns, port, found: false });
    }

    /// Looks at every connection that is there, and tells what each stream's is like. One question a migration, which the
    /// kernel answers from its tables; two where a VM's memory is split, so that a guest that waits for a page is seen too.
    pub(super) fn sample(
        &mut self,
        now: Timestamp,
        gang: &GangDriver,
        ledger: &mut Ledger,
    ) -> Vec<(VmId, PathSample, ConnectionSample)> {
        let mut seen = Vec::new();
        let views = &mut self.views;
        self.watched.retain(|vm, watched| {
            let Some(Some(view)) = views.get_mut(&watched.netns[0]) else { return false };
            let connections = match view.between(None, Some(watched.port)) {
                Ok(connections) => connections,
                Err(error) => {
                    tracing::debug!(%vm, "its connections could not be asked for: {error}");
                    return true;
                }
            };
            if connections.is_empty() {
                // Not there yet, or over.
                return !watched.found;
            }
            watched.found = true;
            if let Some(entry) = ledger.vms.get_mut(vm) {
                entry.path.observe(now, &connections);
            }
            let split = gang.driver(vm).is_some_and(droveway_drive::VmDriver::depends_on_path);
            let at_target = views.get_mut(&watched.netns[1]).and_then(Option::as_mut);
            let at_target = at_target
                .filter(|_| split)
                .and_then(|view| view.between(Some(watched.port), None).ok())
                .unwrap_or_default();
            seen.extend(stream(&connections).map(|stream| {
                let sample = PathSample {
                    round_trip: stream.info.rtt,
                    segments: stream.info.data_segments_sent,
                    sent_again: stream.info.segments_retransmitted,
                };
                (vm.clone(), sample, both_ends(&connections, &at_target))
            }));
            true
        });
        seen
    }
}

/// What both ends of a migration's connections know together.
fn both_ends(source: &[Connection], target: &[Connection]) -> ConnectionSample {
    let mut sample = ConnectionSample::default();
    for one in source.iter().chain(target) {
        sample.delivered += one.info.bytes_acked + one.info.bytes_received;
        sample.sent_again += one.info.segments_retransmitted;
        sample.under_way += one.info.unacknowledged;
    }
    sample
}

/// The stream; beside it there may be post-copy's connection for requested pages.
fn stream(connections: &[Connection]) -> Option<&Connection> {
    connections.iter().max_by_key(|one| one.info.bytes_acked)
}

/// What the samples of one move's connections come to.
#[derive(Debug, Clone)]
pub(crate) struct PathLog {
    round_trips_ms: Window,
    round_trip_ms_max: f64,
    /// Acknowledged bytes and retransmitted segments, as each connection last said.
    said: BTreeMap<(SocketAddr, SocketAddr), (u64, u64)>,
    lost_max: u64,
    /// When the first and the last byte was seen to be acknowledged, and how many were then.
    first: Option<(Timestamp, u64)>,
    last: Option<(Timestamp, u64)>,
}

impl Default for PathLog {
    fn default() -> Self {
        PathLog {
            round_trips_ms: Window::new(ROUND_TRIPS_MAX),
            round_trip_ms_max: 0.0,
            said: BTreeMap::new(),
            lost_max: 0,
            first: None,
            last: None,
        }
    }
}

impl PathLog {
    fn observe(&mut self, at: Timestamp, connections: &[Connection]) {
        if let Some(stream) = stream(connections) {
            let milliseconds = stream.info.rtt.as_secs_f64() * 1e3;
            self.round_trips_ms.observe(milliseconds);
            self.round_trip_ms_max = self.round_trip_ms_max.max(milliseconds);
        }
        self.lost_max = self.lost_max.max(connections.iter().map(|one| one.info.lost).sum());
        for one in connections {
            let said = (one.info.bytes_acked, one.info.segments_retransmitted);
            self.said.insert((one.local, one.remote), said);
        }
        let acknowledged = self.acknowledged();
        self.first.get_or_insert((at, acknowledged));
        // What lingers after its last byte does not slow the rate.
        if self.last.is_none_or(|(_, before)| acknowledged > before) {
            self.last = Some((at, acknowledged));
        }
    }

    /// Payload that the target has taken so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.said.values().map(|(bytes, _)| bytes).sum()
    }

    /// `None` if no connection was seen.
    pub(crate) fn report(&self) -> Option<PathReport> {
        let p50 = self.round_trips_ms.quantile(0.5)?;
        let slope = |(from, first): (Timestamp, u64), (to, last): (Timestamp, u64)| {
            let seconds = to.seconds_from(from);
            #[expect(clippy::cast_precision_loss, reason = "bytes of a move, far below 2^53")]
            let bits = last.saturating_sub(first) as f64 * 8.0;
            (seconds > 0.0).then(|| bits / seconds)
        };
        Some(PathReport {
            rtt_ms: RttReport { p50, max: self.round_trip_ms_max },
            retransmits: self.said.values().map(|(_, segments)| segments).sum(),
            lost_segments_max: self.lost_max,
            delivery_bits_per_second: self
                .first
                .zip(self.last)
                .and_then(|(first, last)| slope(first, last)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use droveway_host::tcp_info::TcpInfo;
    use std::time::Duration;

    fn connection(port: u16, milliseconds: u64, acked: u64, again: u64, lost: u64) -> Connection {
        Connection {
            local: SocketAddr::from(([10, 0, 0, 1], port)),
            remote: SocketAddr::from(([10, 0, 0, 2], 5_888)),
            uid: 0,
            inode: 1,
            info: TcpInfo {
                rtt: Duration::from_millis(milliseconds),
                bytes_acked: acked,
                segments_retransmitted: again,
                lost,
                ..TcpInfo::default()
            },
        }
    }

    #[test]
    fn a_move_without_a_connection_has_no_path() {
        assert_eq!(PathLog::default().report(), None);
    }

    #[test]
    fn samples_become_quantiles_totals_and_a_slope() {
        let mut log = PathLog::default();
        let at = |tenths: u64| Timestamp::from_nanos(tenths * 100_000_000);
        log.observe(at(0), &[connection(1, 2, 1_000_000, 0, 0)]);
        log.observe(at(10), &[connection(1, 9, 26_000_000, 3, 2)]);
        // Post-copy's second connection, which answers sooner, and then silence.
        let both = [connection(1, 4, 50_000_000, 3, 0), connection(2, 1, 1_000_000, 1, 0)];
        log.observe(at(20), &both);
        log.observe(at(30), &both);
        let found = log.report().unwrap();
        assert_eq!(found.rtt_ms, RttReport { p50: 4.0, max: 9.0 });
        assert_eq!((found.retransmits, found.lost_segments_max), (4, 2));
        let rate = found.delivery_bits_per_second.unwrap();
        assert!((rate - 200e6).abs() < 1.0, "{rate}: 50 MB in 2 s");
    }

    #[test]
    fn one_look_is_no_rate_and_a_new_connection_counts_beside_the_old() {
        let mut log = PathLog::default();
        log.observe(Timestamp::from_nanos(0), &[connection(1, 1, 5_000_000, 7, 0)]);
        assert_eq!(log.report().unwrap().delivery_bits_per_second, None);
        // The path broke, and post-copy went on over another connection.
        log.observe(Timestamp::from_nanos(1_000_000_000), &[connection(3, 1, 5_000_000, 1, 0)]);
        let found = log.report().unwrap();
        assert_eq!(found.retransmits, 8);
        assert!((found.delivery_bits_per_second.unwrap() - 40e6).abs() < 1.0);
    }
}
