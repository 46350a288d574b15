//! Watching ports, taps, matrices and sockets of every host for one window.
//!
//! One thread does it, because namespaces and netlink block. The matrices are installed by it and go with it: by their
//! `Drop`, whatever ends the thread. One that a killed process left is replaced by the next.

use super::{
    flows::{self, ConnectionTraffic, HostView, Mac, OwnTraffic, PairTraffic, PortUse},
    network,
};
use droveway_fleet::{
    Bandwidth, Host, HostId, Timestamp, VmId,
    snapshot::{RateSeries, RateSummary},
};
use droveway_host::{
    Counters,
    features::MachineCpu,
    links::LinkCounters,
    matrix::{MatrixReading, TrafficMatrix},
    netns::Netns,
    taps::Tap,
    tcp_info::TcpDiag,
};
use droveway_model::estimate::RateEstimator;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Time between two readings of the counters: short enough to see bursts of a second, long against a reading.
const INTERVAL: Duration = Duration::from_millis(200);
/// Ethernet's part of a frame, as taps count it.
const FRAME_HEADER_BYTES: f64 = 14.0;

/// A host to watch.
#[derive(Debug, Clone)]
pub(super) struct HostPlan {
    pub(super) host: Host,
    /// The port's rate, as the fleet or the card says.
    pub(super) rate: Bandwidth,
    pub(super) vms: Vec<VmPlan>,
}

/// A VM to watch.
#[derive(Debug, Clone)]
pub(super) struct VmPlan {
    pub(super) name: VmId,
    pub(super) taps: Vec<Tap>,
}

/// What was seen.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) hosts: Vec<HostSeen>,
    /// Share of the machine's CPU time that was busy.
    pub(super) cpu_busy_ratio: f64,
    pub(super) window_seconds: f64,
    pub(super) remarks: Vec<String>,
}

/// What was seen of one host.
#[derive(Debug)]
pub(super) struct HostSeen {
    pub(super) port: (RateSummary, RateSummary),
    /// Sent and received, payload.
    pub(super) vms: BTreeMap<VmId, (RateSummary, RateSummary)>,
    /// The same over time, with headers; the last step ends at `until`.
    pub(super) series: BTreeMap<VmId, RateSeries>,
    pub(super) until: Timestamp,
    pub(super) view: HostView,
}

/// Watches until the window is over or `stop` is set.
pub(super) fn watch(plans: &[HostPlan], window: Duration, stop: &AtomicBool) -> Seen {
    let mut remarks = Vec::new();
    let mut watches: Vec<_> =
        plans.iter().filter_map(|plan| HostWatch::begin(plan, &mut remarks)).collect();
    let cpu_before = MachineCpu::read().ok();
    let began = Instant::now();
    let mut due = began;
    // What is read once at each end of the window is read beside a sample of the counters, host by host: a burst between
    // the two would be in one of them alone, and a VM's rate would not be the sum of its flows.
    for watch in &mut watches {
        watch.first(&mut remarks);
        watch.sample(&mut remarks);
    }
    let end = began + window;
    loop {
        due += INTERVAL;
        std::thread::sleep(due.min(end).saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) || Instant::now() >= end {
            break;
        }
        for watch in &mut watches {
            watch.sample(&mut remarks);
        }
    }
    for watch in &mut watches {
        watch.sample(&mut remarks);
        watch.last(&mut remarks);
    }
    let window_seconds = began.elapsed().as_secs_f64();
    let busy = match (cpu_before, MachineCpu::read().ok()) {
        (Some(before), Some(after)) => after.busy_ratio_since(before),
        _ => 0.0,
    };
    let hosts = watches.into_iter().map(|watch| watch.end(&mut remarks)).collect();
    remarks.sort();
    remarks.dedup();
    Seen { hosts, cpu_busy_ratio: busy, window_seconds, remarks }
}

/// Acknowledged and received payload of each connection, by its two ends.
type Totals = BTreeMap<(SocketAddr, SocketAddr), (u64, u64)>;

/// One host, watched.
struct HostWatch<'a> {
    plan: &'a HostPlan,
    netns: Netns,
    links: LinkCounters,
    port: u32,
    samples: Vec<(Timestamp, Vec<(u32, Counters)>)>,
    matrix: Option<Counted<TrafficMatrix, MatrixReading>>,
    sockets: Option<Counted<TcpDiag, Totals>>,
}

/// Something that counts, read at both ends of the window.
struct Counted<C, R> {
    counter: C,
    first: R,
    last: R,
}

impl<'a> HostWatch<'a> {
    /// `None`, with a remark, where not even the counters can be read.
    fn begin(plan: &'a HostPlan, remarks: &mut Vec<String>) -> Option<Self> {
        let name = &plan.host.name;
        let opened = Netns::of(plan.host.netns.as_deref())
            .map_err(anyhow::Error::from)
            .and_then(|netns| Ok((LinkCounters::open(&netns)?, netns)));
        let (links, netns) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                remarks.push(format!("host '{name}' was not watched: {error:#}"));
                return None;
            }
        };
        let port = match network::index_of(&netns, &plan.host.port.interface) {
            Ok(index) => index,
            Err(error) => {
                remarks.push(format!("host '{name}' was not watched: {error:#}"));
                return None;
            }
        };
        let mut watch = HostWatch {
            plan,
            netns,
            links,
            port,
            samples: Vec::new(),
            matrix: None,
            sockets: None,
        };
        watch.install_matrix(remarks);
        watch.open_sockets(remarks);
        Some(watch)
    }

    fn install_matrix(&mut self, remarks: &mut Vec<String>) {
        match TrafficMatrix::install(&self.netns) {
            Ok(counter) => {
                let first = MatrixReading::default();
                self.matrix = Some(Counted { counter, last: first.clone(), first });
            }
            Err(error) => remarks.push(self.without_matrix(error)),
        }
    }

    fn open_sockets(&mut self, remarks: &mut Vec<String>) {
        match TcpDiag::open(&self.netns) {
            Ok(counter) => {
                self.sockets =
                    Some(Counted { counter, first: Totals::default(), last: Totals::default() });
            }
            Err(error) => remarks.push(self.without_sockets(error)),
        }
    }

    fn without_matrix(&self, error: impl Into<anyhow::Error>) -> String {
        let name = &self.plan.host.name;
        format!("who talks to whom at host '{name}' is not known: {:#}", error.into())
    }

    fn without_sockets(&self, error: impl Into<anyhow::Error>) -> String {
        let name = &self.plan.host.name;
        format!("what host '{name}' itself sends is not known: {:#}", error.into())
    }

    /// Reads what is counted apart from the links, at the window's beginning.
    fn first(&mut self, remarks: &mut Vec<String>) {
        self.count(
            remarks,
            |counted, reading| counted.first = reading,
            |of, totals| of.first = totals,
        );
    }

    /// The same at its end.
    fn last(&mut self, remarks: &mut Vec<String>) {
        self.count(
            remarks,
            |counted, reading| counted.last = reading,
            |of, totals| of.last = totals,
        );
    }

    /// What cannot be read is not known at all: one end of the window is of no use.
    fn count(
        &mut self,
        remarks: &mut Vec<String>,
        matrix: impl FnOnce(&mut Counted<TrafficMatrix, MatrixReading>, MatrixReading),
        sockets: impl FnOnce(&mut Counted<TcpDiag, Totals>, Totals),
    ) {
        if let Some(mut counted) = self.matrix.take() {
            match counted.counter.read() {
                Ok(reading) => {
                    matrix(&mut counted, reading);
                    self.matrix = Some(counted);
                }
                Err(error) => remarks.push(self.without_matrix(error)),
            }
        }
        if let Some(mut counted) = self.sockets.take() {
            match totals(&mut counted.counter) {
                Ok(reading) => {
                    sockets(&mut counted, reading);
                    self.sockets = Some(counted);
                }
                Err(error) => remarks.push(self.without_sockets(error)),
            }
        }
    }

    fn sample(&mut self, remarks: &mut Vec<String>) {
        let mut counters = Vec::new();
        match self.links.read(&mut counters) {
            Ok(at) => {
                let wanted = |index: u32| {
                    index == self.port
                        || self.plan.vms.iter().flat_map(|vm| &vm.taps).any(|t| t.ifindex == index)
                };
                counters.retain(|(index, _)| wanted(*index));
                self.samples.push((at, counters));
            }
            Err(error) => remarks.push(format!(
                "some counters of host '{}' could not be read: {:#}",
                self.plan.host.name,
                anyhow::Error::from(error)
            )),
        }
    }

    fn end(mut self, remarks: &mut Vec<String>) -> HostSeen {
        let view = self.view(remarks);
        if let Some(matrix) = self.matrix.take()
            && let Err(error) = matrix.counter.remove()
        {
            remarks.push(format!(
                "the table of host '{}' could not be removed: {:#}",
                self.plan.host.name,
                anyhow::Error::from(error)
            ));
        }
        let port = (
            self.rate(|of| of(self.port).map(|c| c.tx_bytes)),
            self.rate(|of| of(self.port).map(|c| c.rx_bytes)),
        );
        let vms = self.plan.vms.iter().map(|vm| (vm.name.clone(), self.of_vm(vm, &view))).collect();
        let series = self
            .plan
            .vms
            .iter()
            .filter_map(|vm| Some((vm.name.clone(), self.series_of(vm)?)))
            .collect();
        let mut view = view;
        view.port = PortUse {
            #[expect(clippy::cast_precision_loss, reason = "bytes a second, far below 2^53")]
            capacity: self.plan.rate.tcp_payload().bytes_per_second() as f64,
            tx: port.0.mean_bytes_per_second,
            rx: port.1.mean_bytes_per_second,
        };
        let until = self.samples.last().map_or(Timestamp::ZERO, |(at, _)| *at);
        HostSeen { port, vms, series, until, view }
    }

    /// A rate from a cumulative count, which is made of any links' counters.
    fn rate(&self, total: impl Fn(&dyn Fn(u32) -> Option<Counters>) -> Option<u64>) -> RateSummary {
        let Some((origin, _)) = self.samples.first() else { return RateSummary::default() };
        let mut estimator = RateEstimator::new();
        for (at, counters) in &self.samples {
            let of = |index: u32| counters.iter().find(|(i, _)| *i == index).map(|(_, c)| *c);
            if let Some(total) = total(&of) {
                estimator.observe(at.seconds_from(*origin), total);
            }
        }
        estimator.summary()
    }

    /// A VM's traffic over time.
    fn series_of(&self, vm: &VmPlan) -> Option<RateSeries> {
        let (origin, _) = self.samples.first()?;
        let point = |(at, counters): &(Timestamp, Vec<(u32, Counters)>)| {
            let mut sum = (0, 0);
            for tap in &vm.taps {
                let (_, of) = counters.iter().find(|(index, _)| *index == tap.ifindex)?;
                sum = (sum.0 + of.rx_bytes, sum.1 + of.tx_bytes);
            }
            Some((at.seconds_from(*origin), sum.0, sum.1))
        };
        let points: Vec<_> = self.samples.iter().filter_map(point).collect();
        droveway_model::estimate::series(&points)
    }

    /// What a VM sends (its tap receives) and receives, payload.
    fn of_vm(&self, vm: &VmPlan, view: &HostView) -> (RateSummary, RateSummary) {
        let (tx_header, rx_header) = flows::header_bytes(view, &vm.name);
        let one = |header: f64, count: fn(Counters) -> (u64, u64)| {
            let base = std::cell::Cell::new(None);
            let highest = std::cell::Cell::new(0);
            self.rate(|of| {
                let mut sum = (0, 0);
                for tap in &vm.taps {
                    let (bytes, packets) = count(of(tap.ifindex)?);
                    sum = (sum.0 + bytes, sum.1 + packets);
                }
                let first = base.get().unwrap_or(sum);
                base.set(Some(first));
                // A tap that was made anew under its old number counts from zero.
                let (bytes, packets) =
                    (sum.0.saturating_sub(first.0), sum.1.saturating_sub(first.1));
                let payload = payload_bytes(bytes, packets, header);
                // A stretch of short packets must not count backwards.
                highest.set(highest.get().max(payload));
                Some(highest.get())
            })
        };
        (
            one(tx_header, |c| (c.rx_bytes, c.rx_packets)),
            one(rx_header, |c| (c.tx_bytes, c.tx_packets)),
        )
    }

    /// The host's part of the matrix.
    fn view(&self, remarks: &mut Vec<String>) -> HostView {
        let (pairs, connections, seconds) = self.matrix_delta(remarks);
        let own = self.own_delta(remarks);
        let addresses = match network::addresses(&self.netns) {
            Ok(addresses) => addresses,
            Err(error) => {
                remarks.push(format!(
                    "whose addresses host '{}' saw is not known: {error:#}",
                    self.plan.host.name
                ));
                network::Addresses::default()
            }
        };
        let others = connections.iter().any(|c| !flows::is_known(c.protocol));
        if others {
            remarks.push("traffic that is neither TCP nor UDP counts with its headers".to_owned());
        }
        let taps = |vm: &VmPlan| -> Vec<Mac> {
            let behind = |(interface, mac): &(String, Mac)| {
                vm.taps.iter().any(|tap| tap.interface == *interface).then_some(*mac)
            };
            addresses.forwarding.iter().filter_map(behind).collect()
        };
        let is_tap = |name: &str| {
            self.plan.vms.iter().flat_map(|vm| &vm.taps).any(|tap| tap.interface == name)
        };
        HostView {
            host: self.plan.host.name.clone(),
            seconds,
            pairs,
            connections,
            own,
            own_macs: addresses
                .own_macs
                .iter()
                .filter(|(name, _)| !is_tap(name))
                .map(|(_, mac)| *mac)
                .collect(),
            own_addresses: addresses.own,
            vms: self.plan.vms.iter().map(|vm| (vm.name.clone(), taps(vm))).collect(),
            neighbours: addresses.neighbours,
            port: PortUse::default(),
        }
    }

    fn matrix_delta(
        &self,
        remarks: &mut Vec<String>,
    ) -> (Vec<PairTraffic>, Vec<ConnectionTraffic>, f64) {
        let span = self.samples.first().zip(self.samples.last());
        let seconds = span.map_or(0.0, |(first, last)| last.0.seconds_from(first.0));
        let Some(Counted { first, last, .. }) = &self.matrix else {
            return (Vec::new(), Vec::new(), seconds);
        };
        if last.is_full() {
            remarks.push(format!(
                "host '{}' has more pairs or connections than are counted apart: what each VM sends is known, to whom \
                 only in part",
                self.plan.host.name
            ));
        }
        let before: BTreeMap<_, _> =
            first.pairs.iter().map(|p| ((p.from, p.to), (p.packets, p.bytes))).collect();
        let pairs = last.pairs.iter().map(|p| {
            let (packets, bytes) = before.get(&(p.from, p.to)).copied().unwrap_or_default();
            PairTraffic {
                from: p.from,
                to: p.to,
                packets: p.packets.saturating_sub(packets),
                bytes: p.bytes.saturating_sub(bytes),
            }
        });
        let key = |c: &droveway_host::matrix::ConnectionCount| {
            (c.from_ip, c.from_port, c.to_ip, c.to_port, c.protocol)
        };
        let before: BTreeMap<_, _> =
            first.connections.iter().map(|c| (key(c), (c.packets, c.bytes))).collect();
        let connections = last.connections.iter().map(|c| {
            let (packets, bytes) = before.get(&key(c)).copied().unwrap_or_default();
            ConnectionTraffic {
                from: c.from_ip,
                to: c.to_ip,
                protocol: c.protocol,
                packets: c.packets.saturating_sub(packets),
                bytes: c.bytes.saturating_sub(bytes),
            }
        });
        (pairs.collect(), connections.collect(), seconds)
    }

    fn own_delta(&self, remarks: &mut Vec<String>) -> Vec<OwnTraffic> {
        let Some(Counted { first: before, last: after, .. }) = &self.sockets else {
            return Vec::new();
        };
        if before.keys().any(|ends| !after.contains_key(ends)) {
            remarks.push(format!(
                "connections of host '{}' itself ended while it was watched: what they carried is missing",
                self.plan.host.name
            ));
        }
        after
            .iter()
            .map(|(ends, (sent, received))| {
                let (sent_before, received_before) = before.get(ends).copied().unwrap_or_default();
                OwnTraffic {
                    remote: ends.1.ip().to_canonical(),
                    sent_bytes: sent.saturating_sub(sent_before),
                    received_bytes: received.saturating_sub(received_before),
                }
            })
            .filter(|own| own.sent_bytes + own.received_bytes > 0)
            .collect()
    }
}

/// What each connection has carried so far: acknowledged and received payload.
fn totals(diag: &mut TcpDiag) -> anyhow::Result<Totals> {
    let connections = diag.connections()?;
    let of_network = connections.iter().filter(|c| !c.remote.ip().is_loopback());
    Ok(of_network
        .map(|c| ((c.local, c.remote), (c.info.bytes_acked, c.info.bytes_received)))
        .collect())
}

/// Payload of frames whose packets have `header` bytes of their own each.
fn payload_bytes(bytes: u64, packets: u64, header: f64) -> u64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of a window, far below 2^53")]
    let payload = bytes as f64 - packets as f64 * (FRAME_HEADER_BYTES + header);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast of a float saturates"
    )]
    let whole = payload.max(0.0).round() as u64;
    whole
}

/// The name of a host's view, for whoever looks one up.
pub(super) fn of<'a>(seen: &'a Seen, host: &HostId) -> Option<&'a HostSeen> {
    seen.hosts.iter().find(|seen| seen.view.host == *host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_have_no_payload() {
        assert_eq!(payload_bytes(66_000, 1_000, 52.0), 0);
        assert_eq!(payload_bytes(60_066, 1, 52.0), 60_000);
        assert_eq!(payload_bytes(42, 1, 52.0), 0, "an address question");
        assert_eq!(payload_bytes(1_042_000, 1_000, 28.0), 1_000_000);
    }
}
