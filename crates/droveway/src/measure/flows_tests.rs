//! Flows from made-up views.

use super::*;

const MSS: u64 = 60_000;

fn mac(last: u8) -> Mac {
    [0x52, 0x54, 0, 0, 0, last]
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn view(host: &str, number: u8, vms: &[(&str, u8)]) -> HostView {
    let vm = |(name, last): &(&str, u8)| (name.parse().expect("a name"), vec![mac(*last)]);
    HostView {
        host: host.parse().expect("a name"),
        seconds: 10.0,
        pairs: Vec::new(),
        connections: Vec::new(),
        own: Vec::new(),
        neighbours: Vec::new(),
        own_macs: vec![mac(number)],
        own_addresses: vec![ip(number)],
        vms: vms.iter().map(vm).collect(),
        port: PortUse { capacity: 1e8, tx: 0.0, rx: 0.0 },
    }
}

/// A TCP stream and its acknowledgements, as a bridge counts them.
fn stream(view: &mut HostView, from: u8, to: u8, payload: u64) {
    let packets = payload / MSS;
    add(view, from, to, TCP, packets, payload + packets * TCP_HEADER_BYTES);
    add(view, to, from, TCP, packets / 2, packets / 2 * TCP_HEADER_BYTES);
}

fn add(view: &mut HostView, from: u8, to: u8, protocol: u8, packets: u64, bytes: u64) {
    let ends = (mac(from), mac(to));
    match view.pairs.iter_mut().find(|pair| (pair.from, pair.to) == ends) {
        Some(pair) => {
            pair.packets += packets;
            pair.bytes += bytes;
        }
        None => view.pairs.push(PairTraffic { from: ends.0, to: ends.1, packets, bytes }),
    }
    view.connections.push(ConnectionTraffic {
        from: ip(from),
        to: ip(to),
        protocol,
        packets,
        bytes,
    });
}

fn text(flow: &FlowSnapshot) -> String {
    let name = |end: &FlowEnd| match end {
        FlowEnd::Vm(id) => format!("vm {id}"),
        FlowEnd::Host(id) => format!("host {id}"),
        FlowEnd::Outside(id) => format!("outside {id}"),
    };
    format!(
        "{} -> {}: {:.0} x{}{}",
        name(&flow.from),
        name(&flow.to),
        flow.bytes_per_second,
        flow.connections,
        if flow.elastic { " elastic" } else { "" }
    )
}

#[track_caller]
fn check(views: &[HostView], expected: &[&str]) {
    let (flows, _) = flows(views);
    let got: Vec<_> = flows.iter().map(text).collect();
    assert_eq!(got, expected);
}

#[test]
fn a_stream_has_one_direction() {
    let mut alpha = view("alpha", 1, &[("web", 11)]);
    stream(&mut alpha, 11, 101, 600_000_000);
    check(&[alpha], &["vm web -> outside 10.0.0.101: 60000000 x1"]);
}

#[test]
fn what_two_hosts_see_counts_once() {
    let mut alpha = view("alpha", 1, &[("web", 11)]);
    let mut beta = view("beta", 2, &[("db", 12)]);
    stream(&mut alpha, 11, 12, 300_000_000);
    stream(&mut beta, 11, 12, 299_940_000);
    // A resident of beta sends to a VM of alpha: the bridge of alpha tells, and beta's socket is not counted again.
    stream(&mut alpha, 2, 11, 60_000_000);
    beta.own.push(OwnTraffic { remote: ip(11), sent_bytes: 60_000_000, received_bytes: 0 });
    let expected = ["vm web -> vm db: 30000000 x1", "host beta -> vm web: 6000000 x1"];
    check(&[alpha, beta], &expected);
}

#[test]
fn a_host_tells_of_its_own_traffic() {
    let mut alpha = view("alpha", 1, &[("web", 11)]);
    let mut beta = view("beta", 2, &[]);
    alpha.neighbours = vec![(ip(11), mac(11)), (ip(2), mac(2))];
    // To its own VM, to the other host, and from a client.
    alpha.own = vec![
        OwnTraffic { remote: ip(11), sent_bytes: 50_000_000, received_bytes: 0 },
        OwnTraffic { remote: ip(2), sent_bytes: 40_000_000, received_bytes: 10_000_000 },
        OwnTraffic { remote: ip(101), sent_bytes: 0, received_bytes: 30_000_000 },
    ];
    beta.own =
        vec![OwnTraffic { remote: ip(1), sent_bytes: 10_000_000, received_bytes: 40_000_000 }];
    let expected = [
        "host alpha -> vm web: 5000000 x1",
        "host alpha -> host beta: 4000000 x1",
        "outside 10.0.0.101 -> host alpha: 3000000 x1",
        "host beta -> host alpha: 1000000 x1",
    ];
    check(&[alpha, beta], &expected);
}

#[test]
fn connections_are_weighed() {
    let mut alpha = view("alpha", 1, &[("web", 11)]);
    for payload in [300_000_000, 250_000_000, 6_000_000] {
        stream(&mut alpha, 11, 101, payload);
    }
    check(&[alpha], &["vm web -> outside 10.0.0.101: 55600000 x2"]);
}

#[test]
fn a_flow_that_fills_a_port_is_elastic() {
    let case = |tx: f64, big: u64| {
        let mut alpha = view("alpha", 1, &[("web", 11), ("db", 12)]);
        stream(&mut alpha, 11, 101, big);
        stream(&mut alpha, 12, 101, 12_000_000);
        alpha.port.tx = tx;
        let (flows, _) = flows(&[alpha]);
        flows.iter().map(|flow| flow.elastic).collect::<Vec<_>>()
    };
    assert_eq!(case(0.95e8, 900_000_000), [true, false], "a small share is not elastic");
    assert_eq!(case(0.80e8, 780_000_000), [false, false], "the port is not full");
}

#[test]
fn datagrams_and_local_traffic_are_not_elastic() {
    let mut alpha = view("alpha", 1, &[("web", 11), ("db", 12)]);
    alpha.port.tx = 1e8;
    let payload = 500_000_000;
    let packets = payload / 1_000;
    add(&mut alpha, 11, 101, UDP, packets, payload + packets * UDP_HEADER_BYTES);
    stream(&mut alpha, 11, 12, 600_000_000);
    let headers = header_bytes(&alpha, &"web".parse().expect("a name"));
    assert!((headers.0 - 28.5).abs() < 0.5 && (headers.1 - 52.0).abs() < 1e-9, "{headers:?}");
    let expected = ["vm web -> vm db: 60000000 x1", "vm web -> outside 10.0.0.101: 50000000 x1"];
    check(&[alpha], &expected);
}

#[test]
fn many_addresses_behind_one_machine_are_a_router() {
    let mut alpha = view("alpha", 1, &[("web", 11)]);
    alpha.neighbours = vec![(ip(11), mac(11))];
    for remote in [201, 202] {
        let payload = 60_000_000 * u64::from(remote - 200);
        let (packets, ends) = (payload / MSS, (mac(99), mac(11)));
        let bytes = payload + packets * TCP_HEADER_BYTES;
        let (from, to) = (ip(remote), ip(11));
        alpha.connections.push(ConnectionTraffic { from, to, protocol: TCP, packets, bytes });
        match alpha.pairs.first_mut() {
            Some(pair) => {
                pair.packets += packets;
                pair.bytes += bytes;
            }
            None => alpha.pairs.push(PairTraffic { from: ends.0, to: ends.1, packets, bytes }),
        }
    }
    check(&[alpha], &["outside 52-54-00-00-00-63 -> vm web: 18000000 x2"]);
}

#[test]
fn chatter_is_left_out() {
    let mut alpha = view("alpha", 1, &[("web", 11)]);
    add(&mut alpha, 11, 101, TCP, 10, 5_000);
    alpha.pairs.push(PairTraffic { from: mac(11), to: [0xff; 6], packets: 10_000, bytes: 1 << 30 });
    check(&[alpha], &[]);
}

#[test]
fn what_no_flow_tells_of_is_said() {
    let case = |tx: f64| {
        let mut alpha = view("alpha", 1, &[("web", 11)]);
        stream(&mut alpha, 11, 101, 100_000_000);
        alpha.port.tx = tx;
        flows(&[alpha]).1
    };
    assert_eq!(case(10.6e6), [""; 0], "headers are not traffic");
    let remarks = case(15e6);
    assert!(remarks.len() == 1 && remarks[0].contains("sends 40.0 Mbit/s"), "{remarks:?}");
}
