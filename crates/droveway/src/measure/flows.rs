//! Who sends how much to whom: from what each host's bridge forwarded and what its own sockets carried to flows between
//! named ends. Pure.
//!
//! A bridge sees only what it forwards, so traffic of the host itself is not in its matrix; the host's TCP sockets tell
//! that part. What two hosts see both is taken once: where the sender's VM runs, else where the receiver's does.
//!
//! Bytes become payload by taking one header off each counted packet: a super-packet that offload splits later counts once
//! and holds one header. So a stream of acknowledgements (52 bytes each, all header) is nothing, and no direction appears
//! twice.
//!
//! Pairs carry hardware addresses, connections carry IP addresses. Which belongs to which is learned: from the hosts' own
//! neighbours first, then from the amounts, because both count the same packets.

use droveway_fleet::{
    HostId, VmId,
    ids::EndpointId,
    snapshot::{FlowEnd, FlowSnapshot},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// IPv4 and TCP with time stamps, as Linux sends it.
pub(super) const TCP_HEADER_BYTES: u64 = 52;
/// IPv4 and UDP.
const UDP_HEADER_BYTES: u64 = 28;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Less is chatter (address resolution, name services, probes): bytes per second.
const FLOW_MIN: f64 = 10_000.0;
/// A direction that carries less than this share of the opposite one is acknowledgements with options.
const ECHO_RATIO: f64 = 0.002;
/// A connection counts from this share of its flow's bytes on.
const CONNECTION_SHARE: f64 = 0.05;
/// A flow below this share of a full port did not fill it.
const ELASTIC_SHARE: f64 = 0.05;
/// A port is full from this share of its payload capacity on (design: measured means of full ports lie at 94 to 99 %).
const FULL_RATIO: f64 = 0.92;
/// A port's frames exceed the payload of its flows by headers (6 % where each packet has its own), agents and chatter; more
/// than this share, and this many bytes per second, is traffic that no flow tells of.
const UNTOLD_RATIO: f64 = 0.1;
const UNTOLD_MIN: f64 = 250_000.0;
/// The sets of pairs and of connections are read some milliseconds apart.
const READ_SKEW_RATIO: f64 = 0.98;

/// What went from one hardware address to another within the window; bytes from the IP header on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PairTraffic {
    pub(super) from: Mac,
    pub(super) to: Mac,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// The same of one connection, one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ConnectionTraffic {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) protocol: u8,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl ConnectionTraffic {
    fn header_bytes(&self) -> u64 {
        self.packets * if self.protocol == UDP { UDP_HEADER_BYTES } else { TCP_HEADER_BYTES }
    }

    fn payload_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.header_bytes())
    }
}

/// What one of a host's own TCP sockets carried within the window; payload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct OwnTraffic {
    pub(super) remote: IpAddr,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
}

/// All that one host saw.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct HostView {
    pub(super) host: HostId,
    /// The time between the two readings.
    pub(super) seconds: f64,
    pub(super) pairs: Vec<PairTraffic>,
    pub(super) connections: Vec<ConnectionTraffic>,
    pub(super) own: Vec<OwnTraffic>,
    pub(super) neighbours: Vec<(IpAddr, Mac)>,
    pub(super) own_macs: Vec<Mac>,
    pub(super) own_addresses: Vec<IpAddr>,
    /// The VMs behind the bridge's ports.
    pub(super) vms: Vec<(VmId, Vec<Mac>)>,
    pub(super) port: PortUse,
}

/// What a port carries, and what it could.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct PortUse {
    /// TCP payload, bytes per second.
    pub(super) capacity: f64,
    /// Mean, bytes per second.
    pub(super) tx: f64,
    pub(super) rx: f64,
}

/// The flows, and what must be said about them.
pub(super) fn flows(views: &[HostView]) -> (Vec<FlowSnapshot>, Vec<String>) {
    let directory = Directory::of(views);
    let mut remarks = Vec::new();
    let mut found: BTreeMap<(FlowEnd, FlowEnd), Amount> = BTreeMap::new();
    for view in views {
        let index = directory.connections_by_pair(view);
        for pair in &view.pairs {
            let (from, to) = (directory.end(pair.from), directory.end(pair.to));
            let (Some(from), Some(to)) = (from, to) else { continue };
            if directory.teller(&from, &to) != Some(&view.host) {
                continue;
            }
            let connections = index.get(&(pair.from, pair.to)).map_or(&[][..], Vec::as_slice);
            let amount = Amount::of_pair(pair, connections, view.seconds);
            found.entry((from, to)).or_default().add(amount);
        }
        for (ends, amount) in directory.own_flows(view) {
            found.entry(ends).or_default().add(amount);
        }
    }
    let opposite: BTreeMap<_, _> =
        found.iter().map(|((from, to), a)| ((to.clone(), from.clone()), a.rate)).collect();
    let mut flows = Vec::new();
    for (ends, amount) in &found {
        let echo = opposite.get(ends).is_some_and(|other| amount.rate < other * ECHO_RATIO);
        if amount.rate < FLOW_MIN || echo {
            continue;
        }
        flows.push(FlowSnapshot {
            from: ends.0.clone(),
            to: ends.1.clone(),
            bytes_per_second: amount.rate,
            connections: amount.connections(),
            elastic: amount.mostly_tcp() && directory.fills_a_port(ends, amount.rate, views),
        });
    }
    flows.sort_by(|a, b| b.bytes_per_second.total_cmp(&a.bytes_per_second));
    for view in views {
        remarks.extend(directory.untold(view, &flows));
    }
    (flows, remarks)
}

/// How much of a VM's packets is header, beyond the frame's own: bytes a packet, `(sent, received)`.
pub(super) fn header_bytes(view: &HostView, vm: &VmId) -> (f64, f64) {
    let directory = Directory::of(std::slice::from_ref(view));
    let index = directory.connections_by_pair(view);
    let end = FlowEnd::Vm(vm.clone());
    let mut sums = [(0_u64, 0_u64); 2];
    for pair in &view.pairs {
        let connections = index.get(&(pair.from, pair.to)).map_or(&[][..], Vec::as_slice);
        for (sum, mac) in sums.iter_mut().zip([pair.from, pair.to]) {
            if directory.end(mac).as_ref() == Some(&end) {
                sum.0 += pair_header_bytes(pair, connections);
                sum.1 += pair.packets;
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "bytes of a window, far below 2^53")]
    let mean = |(bytes, packets): (u64, u64)| {
        if packets == 0 { TCP_HEADER_BYTES as f64 } else { bytes as f64 / packets as f64 }
    };
    (mean(sums[0]), mean(sums[1]))
}

/// The headers of a pair's packets: by protocol where the connection is known.
fn pair_header_bytes(pair: &PairTraffic, connections: &[ConnectionTraffic]) -> u64 {
    let known: u64 = connections.iter().map(|c| c.packets).sum();
    let headers: u64 = connections.iter().map(ConnectionTraffic::header_bytes).sum();
    headers + pair.packets.saturating_sub(known) * TCP_HEADER_BYTES
}

/// What a flow is made of.
#[derive(Debug, Default)]
struct Amount {
    /// Payload, bytes per second.
    rate: f64,
    udp_rate: f64,
    /// Payload of each connection, bytes per second.
    of_connections: Vec<f64>,
}

impl Amount {
    fn of_pair(pair: &PairTraffic, connections: &[ConnectionTraffic], seconds: f64) -> Self {
        let per_second = |bytes: u64| rate(bytes, seconds);
        let payload = pair.bytes.saturating_sub(pair_header_bytes(pair, connections));
        let udp = connections.iter().filter(|c| c.protocol == UDP);
        Amount {
            rate: per_second(payload),
            udp_rate: per_second(udp.map(ConnectionTraffic::payload_bytes).sum()),
            of_connections: connections.iter().map(|c| per_second(c.payload_bytes())).collect(),
        }
    }

    fn add(&mut self, other: Amount) {
        self.rate += other.rate;
        self.udp_rate += other.udp_rate;
        self.of_connections.extend(other.of_connections);
    }

    /// A sender of datagrams keeps its own pace; TCP takes what it gets.
    fn mostly_tcp(&self) -> bool {
        self.udp_rate * 2.0 < self.rate
    }

    /// At least one: something carried it.
    fn connections(&self) -> u32 {
        let large = self.of_connections.iter().filter(|r| **r >= CONNECTION_SHARE * self.rate);
        u32::try_from(large.count()).unwrap_or(u32::MAX).max(1)
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a window, far below 2^53")]
fn rate(bytes: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { bytes as f64 / seconds } else { 0.0 }
}

/// Who has which address.
#[derive(Debug, Default)]
struct Directory {
    ends: BTreeMap<Mac, FlowEnd>,
    macs: BTreeMap<IpAddr, Mac>,
    host_of_vm: BTreeMap<VmId, HostId>,
    host_addresses: BTreeMap<IpAddr, HostId>,
}

impl Directory {
    fn of(views: &[HostView]) -> Self {
        let mut directory = Directory::default();
        for view in views {
            for mac in &view.own_macs {
                directory.ends.insert(*mac, FlowEnd::Host(view.host.clone()));
            }
            for address in &view.own_addresses {
                directory.host_addresses.insert(*address, view.host.clone());
            }
        }
        for view in views {
            for (vm, macs) in &view.vms {
                directory.host_of_vm.insert(vm.clone(), view.host.clone());
                for mac in macs {
                    directory.ends.insert(*mac, FlowEnd::Vm(vm.clone()));
                }
            }
            directory.macs.extend(view.neighbours.iter().copied());
        }
        for view in views {
            directory.learn(view);
        }
        directory.name_the_others(views);
        directory
    }

    /// Finds the hardware address behind each IP address by the amounts: the largest connections first, each to the pair
    /// that it fills best among those that agree with what is known.
    fn learn(&mut self, view: &HostView) {
        let mut by_address: BTreeMap<(IpAddr, IpAddr), u64> = BTreeMap::new();
        for connection in &view.connections {
            *by_address.entry((connection.from, connection.to)).or_default() += connection.bytes;
        }
        let mut left: BTreeMap<(Mac, Mac), u64> = BTreeMap::new();
        for pair in &view.pairs {
            *left.entry((pair.from, pair.to)).or_default() += pair.bytes;
        }
        let mut by_amount: Vec<_> = by_address.into_iter().collect();
        by_amount.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        for ((from, to), bytes) in by_amount {
            let agrees = |mac: Mac, address: IpAddr| match self.macs.get(&address) {
                Some(known) => *known == mac,
                None => true,
            };
            #[expect(clippy::cast_precision_loss, reason = "bytes of a window, far below 2^53")]
            let fits = |free: u64| free as f64 >= bytes as f64 * READ_SKEW_RATIO;
            let best = left
                .iter()
                .filter(|((a, b), free)| agrees(*a, from) && agrees(*b, to) && fits(**free))
                .min_by_key(|(_, free)| free.abs_diff(bytes))
                .map(|(pair, _)| *pair);
            let Some(pair) = best else { continue };
            self.macs.insert(from, pair.0);
            self.macs.insert(to, pair.1);
            if let Some(free) = left.get_mut(&pair) {
                *free = free.saturating_sub(bytes);
            }
        }
    }

    /// Whoever is neither a VM nor a host is called by its IP address, or by its hardware address if it has several (a
    /// router) or none.
    fn name_the_others(&mut self, views: &[HostView]) {
        let all = views.iter().flat_map(|view| &view.pairs).flat_map(|pair| [pair.from, pair.to]);
        let macs: BTreeSet<Mac> = all.filter(|mac| !is_group(mac)).collect();
        for mac in macs {
            if self.ends.contains_key(&mac) {
                continue;
            }
            let mut addresses = self.macs.iter().filter(|(_, its)| **its == mac);
            let name = match (addresses.next(), addresses.next()) {
                (Some((address, _)), None) => outside(*address),
                _ => mac.map(|byte| format!("{byte:02x}")).join("-").parse().ok(),
            };
            if let Some(name) = name {
                self.ends.insert(mac, FlowEnd::Outside(name));
            }
        }
    }

    fn end(&self, mac: Mac) -> Option<FlowEnd> {
        self.ends.get(&mac).cloned()
    }

    fn end_of_address(&self, address: IpAddr) -> Option<FlowEnd> {
        if let Some(host) = self.host_addresses.get(&address) {
            return Some(FlowEnd::Host(host.clone()));
        }
        match self.macs.get(&address).and_then(|mac| self.ends.get(mac)) {
            // Several addresses behind one machine are a router's: the address says more.
            Some(FlowEnd::Outside(_)) | None => outside(address).map(FlowEnd::Outside),
            Some(end) => Some(end.clone()),
        }
    }

    /// The host whose bridge tells about this flow; `None` if it concerns no VM.
    fn teller(&self, from: &FlowEnd, to: &FlowEnd) -> Option<&HostId> {
        [from, to].into_iter().find_map(|end| match end {
            FlowEnd::Vm(vm) => self.host_of_vm.get(vm),
            FlowEnd::Host(_) | FlowEnd::Outside(_) => None,
        })
    }

    fn connections_by_pair(&self, view: &HostView) -> BTreeMap<(Mac, Mac), Vec<ConnectionTraffic>> {
        let mut index: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for connection in &view.connections {
            let macs = (self.macs.get(&connection.from), self.macs.get(&connection.to));
            if let (Some(from), Some(to)) = macs {
                index.entry((*from, *to)).or_default().push(*connection);
            }
        }
        index
    }

    /// What a host's own sockets carried, without what another host's bridge or sockets tell.
    fn own_flows(&self, view: &HostView) -> Vec<((FlowEnd, FlowEnd), Amount)> {
        let host = FlowEnd::Host(view.host.clone());
        let mut flows = Vec::new();
        for own in &view.own {
            let Some(remote) = self.end_of_address(own.remote) else { continue };
            let (sent, received) = match &remote {
                // Its bridge forwards it, unless it is ours.
                FlowEnd::Vm(vm) if self.host_of_vm.get(vm) != Some(&view.host) => continue,
                FlowEnd::Host(other) if *other == view.host => continue,
                // It tells itself what it sends.
                FlowEnd::Host(_) => (own.sent_bytes, 0),
                FlowEnd::Vm(_) | FlowEnd::Outside(_) => (own.sent_bytes, own.received_bytes),
            };
            for (ends, bytes) in
                [((host.clone(), remote.clone()), sent), ((remote.clone(), host.clone()), received)]
            {
                let rate = rate(bytes, view.seconds);
                let amount = Amount { rate, udp_rate: 0.0, of_connections: vec![rate] };
                flows.push((ends, amount));
            }
        }
        flows
    }

    /// The host that an end is at, if it is at one of ours.
    fn host_of(&self, end: &FlowEnd) -> Option<&HostId> {
        match end {
            FlowEnd::Vm(vm) => self.host_of_vm.get(vm),
            FlowEnd::Host(host) => self.host_addresses.values().find(|known| *known == host),
            FlowEnd::Outside(_) => None,
        }
    }

    /// What a port carried beyond the flows.
    fn untold(&self, view: &HostView, flows: &[FlowSnapshot]) -> Vec<String> {
        let (mut sent, mut received) = (0.0, 0.0);
        for flow in flows {
            let from_here = self.host_of(&flow.from) == Some(&view.host);
            let to_here = self.host_of(&flow.to) == Some(&view.host);
            match (from_here, to_here) {
                (true, false) => sent += flow.bytes_per_second,
                (false, true) => received += flow.bytes_per_second,
                _ => {}
            }
        }
        let of_direction = |(used, told, word): (f64, f64, &str)| {
            let untold = used - told;
            (untold > (UNTOLD_RATIO * used).max(UNTOLD_MIN)).then(|| {
                format!(
                    "host '{}' {word} {:.1} Mbit/s that no flow tells of: UDP of the host itself, or \
                     what is not forwarded by its bridge",
                    view.host,
                    untold * 8.0 / 1e6
                )
            })
        };
        [(view.port.tx, sent, "sends"), (view.port.rx, received, "receives")]
            .into_iter()
            .filter_map(of_direction)
            .collect()
    }

    /// Whether a port that the flow crosses is full, and the flow is no small part of it.
    fn fills_a_port(&self, ends: &(FlowEnd, FlowEnd), rate: f64, views: &[HostView]) -> bool {
        let (source, target) = (self.host_of(&ends.0), self.host_of(&ends.1));
        if source == target {
            return false;
        }
        let port = |host: Option<&HostId>| {
            views.iter().find(|view| Some(&view.host) == host).map(|view| view.port)
        };
        let full = |used: f64, capacity: f64| {
            capacity > 0.0 && used >= FULL_RATIO * capacity && rate >= ELASTIC_SHARE * capacity
        };
        port(source).is_some_and(|port| full(port.tx, port.capacity))
            || port(target).is_some_and(|port| full(port.rx, port.capacity))
    }
}

/// Broadcast and multicast.
const fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 == 1
}

/// A name that an address can have.
fn outside(address: IpAddr) -> Option<EndpointId> {
    let text = address.to_string().replace(':', "-");
    // `::1` would begin with a separator.
    text.trim_matches('-').parse().ok()
}

/// Whether a protocol's payload is understood.
pub(super) const fn is_known(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP)
}

#[cfg(test)]
#[path = "flows_tests.rs"]
mod tests;
