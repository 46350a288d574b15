//! Looking at a host, with real links, bridges, connections and a QEMU: needs root.
#![allow(clippy::print_stdout, reason = "a skipped test says so, others what they measured")]

use droveway_host::{
    Counters, features, guest_memory,
    links::{self, LinkCounters, vm_view},
    matrix::{ConnectionCount, MatrixError, MatrixReading, TrafficMatrix, payload_bytes},
    netns::Netns,
    path::{self, path_probe},
    process, resources, taps, tcp_info,
};
use std::{
    io::{Read as _, Write},
    net::{IpAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The most time for something that is due at once.
const SOON: Duration = Duration::from_secs(10);

/// Says why a test cannot run, where whoever counts them looks; where nothing may be skipped it fails instead.
fn skip(test: &str, reason: &str) {
    let line = format!("skip: {test}: {reason}");
    assert!(std::env::var("DROVEWAY_REQUIRE_LAB").as_deref() != Ok("1"), "{line}");
    println!("{line}");
    if let Ok(path) = std::env::var("DROVEWAY_SKIP_LOG") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

/// A host with a bridge `br0` (10.9.0.254) and two stand-ins for VMs (10.9.0.1 and .2), whose `eth0` ends in the host as
/// `tap0` and `tap1`. All goes when it is dropped.
struct Lab {
    names: [String; 3],
}

impl Lab {
    fn new(tag: &str) -> Self {
        let names = ["h", "v0", "v1"].map(|end| format!("dwo-{tag}-{}-{end}", std::process::id()));
        let lab = Lab { names };
        for name in &lab.names {
            ip(&["netns", "add", name]);
        }
        let [host, ..] = &lab.names;
        ip(&["-n", host, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", host, "link", "set", "br0", "up"]);
        ip(&["-n", host, "addr", "add", "10.9.0.254/24", "dev", "br0"]);
        for number in 0..2 {
            let (vm, tap) = (&lab.names[number + 1], format!("tap{number}"));
            let mac = format!("52:54:00:0d:0e:0{number}");
            ip(&[
                "-n", host, "link", "add", &tap, "type", "veth", "peer", "name", "eth0", "address",
                &mac, "netns", vm,
            ]);
            ip(&["-n", host, "link", "set", &tap, "master", "br0", "up"]);
            ip(&["-n", vm, "addr", "add", &format!("10.9.0.{}/24", number + 1), "dev", "eth0"]);
            ip(&["-n", vm, "link", "set", "eth0", "up"]);
        }
        lab
    }

    fn host(&self) -> Netns {
        Netns::named(&self.names[0]).unwrap()
    }

    fn vm(&self, number: usize) -> Netns {
        Netns::named(&self.names[number + 1]).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

const MACS: [[u8; 6]; 2] = [[0x52, 0x54, 0, 0x0d, 0x0e, 0], [0x52, 0x54, 0, 0x0d, 0x0e, 1]];

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 9, 0, last])
}

#[track_caller]
fn ip(arguments: &[&str]) {
    run(&Netns::own(), "ip", arguments);
}

#[track_caller]
fn run(netns: &Netns, program: &str, arguments: &[&str]) -> String {
    let output = netns.command(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `done` says so; fails with its last answer if that takes too long.
#[track_caller]
fn wait<T: std::fmt::Debug>(mut look: impl FnMut() -> T, done: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        let seen = look();
        if done(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "still {seen:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Both ends of a new connection.
fn connect(from: &Netns, to: &Netns, to_ip: IpAddr) -> (TcpStream, TcpStream) {
    let listener = to.run(|| TcpListener::bind((to_ip, 0)).unwrap()).unwrap();
    let at = listener.local_addr().unwrap();
    let near = from.run(|| TcpStream::connect(at).unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// Sends `bytes` over a connection and waits until they were read.
fn send(mut near: &TcpStream, mut far: &TcpStream, bytes: usize) {
    std::thread::scope(|scope| {
        scope.spawn(move || near.write_all(&vec![0x5a; bytes]).unwrap());
        far.read_exact(&mut vec![0; bytes]).unwrap();
    });
}

fn of(counters: &[(u32, Counters)], index: u32) -> Counters {
    counters.iter().find(|(other, _)| *other == index).unwrap().1
}

fn between(read: &MatrixReading, from: usize, to: usize) -> (u64, u64) {
    let mut pairs = read.pairs.iter().filter(|p| (p.from, p.to) == (MACS[from], MACS[to]));
    let pair = pairs.next().unwrap();
    assert!(pairs.next().is_none(), "a pair is counted once");
    (pair.packets, pair.bytes)
}

/// What VM 0 sends to VM 1 and back, without and with segmentation offload.
const SENT: [usize; 2] = [24_000_000, 6_000_000];

#[test]
fn no_direction_is_swapped_and_the_payload_is_counted() {
    if !features::is_privileged() {
        return skip("no_direction_is_swapped_and_the_payload_is_counted", "not root");
    }
    let lab = Lab::new("dir");
    let host = lab.host();
    let all = links::links(&host).unwrap();
    let link = |name: &str| all.iter().find(|link| link.name == name).unwrap();
    assert_eq!(link("br0").kind.as_deref(), Some("bridge"));
    assert_eq!(link("tap0").kind.as_deref(), Some("veth"));
    assert_eq!(link("tap1").master, Some(link("br0").index));
    assert_eq!(link("br0").master, None);
    let inside = links::links(&lab.vm(1)).unwrap();
    assert_eq!(inside.iter().find(|link| link.name == "eth0").unwrap().mac, Some(MACS[1]));

    for number in 0..2 {
        // Selective acknowledgements are longer than payload_bytes takes headers for.
        let off = || std::fs::write("/proc/sys/net/ipv4/tcp_sack", "0");
        lab.vm(number).run(off).unwrap().unwrap();
    }
    for offloads in ["on", "off"] {
        for number in 0..2 {
            let all = ["-K", "eth0", "tso", offloads, "gso", offloads, "gro", offloads];
            run(&lab.vm(number), "ethtool", &all);
        }
        let mut matrix = TrafficMatrix::install(&host).unwrap();
        let mut counters = LinkCounters::open(&host).unwrap();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let began = counters.read(&mut before).unwrap();
        let (near, far) = connect(&lab.vm(0), &lab.vm(1), address(2));
        send(&near, &far, SENT[0]);
        send(&far, &near, SENT[1]);
        assert!(counters.read(&mut after).unwrap() > began);
        assert_eq!(before.len(), all.len(), "each link once");
        // On a busy machine some is lost on the way, and sent again.
        let again = [0, 1].map(|number| {
            tcp_info::connections(&lab.vm(number)).unwrap()[0].info.bytes_retransmitted
        });

        for number in 0..2 {
            let index = link(&format!("tap{number}")).index;
            let (before, after) = (vm_view(of(&before, index)), vm_view(of(&after, index)));
            let (tx, rx) = (after.tx_bytes - before.tx_bytes, after.rx_bytes - before.rx_bytes);
            // Headers and acknowledgements on top: 66 bytes a frame, up to 4.6 % without offloads.
            let (sent, received) = (SENT[number] as u64, SENT[1 - number] as u64);
            let most = |bytes: u64, others: u64| {
                bytes + bytes / 20 + others / 20 + again.iter().sum::<u64>() * 21 / 20
            };
            assert!((sent..most(sent, received)).contains(&tx), "{offloads} {number} {tx}");
            assert!((received..most(received, sent)).contains(&rx), "{offloads} {number} {rx}");
        }

        let read = matrix.read().unwrap();
        for (from, to) in [(0, 1), (1, 0)] {
            let (packets, bytes) = between(&read, from, to);
            let payload = payload_bytes(bytes, packets);
            println!("offloads {offloads}: {packets} packets, {bytes} bytes, payload {payload}");
            let sent = SENT[from] as u64;
            // The handshake's packets have other headers.
            let seen = sent - 100..=sent + again[from] + 100;
            assert!(seen.contains(&payload), "{payload} is not in {seen:?}");
            if offloads == "on" {
                assert!(bytes < sent + sent / 50 + again[from], "{bytes} of {sent}");
            }
        }
        let ends = (near.local_addr().unwrap(), near.peer_addr().unwrap());
        let here = |c: &&ConnectionCount| {
            (c.from_ip, c.from_port, c.to_ip, c.to_port)
                == (ends.0.ip(), ends.0.port(), ends.1.ip(), ends.1.port())
        };
        assert_eq!(read.connections.len(), 2, "one connection, each direction: {read:?}");
        let there = read.connections.iter().find(here).unwrap();
        assert_eq!(there.protocol, 6);
        let (packets, bytes) = between(&read, 0, 1);
        assert!(there.bytes <= bytes && there.bytes > SENT[0] as u64, "{there:?} of {bytes}");
        assert!(there.packets <= packets && there.packets > packets / 2, "{there:?} of {packets}");
        matrix.remove().unwrap();
    }
}

#[test]
fn the_hosts_own_traffic_is_not_in_the_matrix() {
    if !features::is_privileged() {
        return skip("the_hosts_own_traffic_is_not_in_the_matrix", "not root");
    }
    let lab = Lab::new("own");
    let host = lab.host();
    let mut matrix = TrafficMatrix::install(&host).unwrap();
    let (near, far) = connect(&host, &lab.vm(0), address(1));
    send(&near, &far, 1_000_000);
    let (near, far) = connect(&lab.vm(1), &lab.vm(0), address(1));
    send(&near, &far, 500_000);
    let read = matrix.read().unwrap();
    let ours = read.connections.iter().filter(|c| [c.from_ip, c.to_ip].contains(&address(254)));
    assert_eq!(ours.count(), 0, "{read:?}");
    assert!(between(&read, 1, 0).1 >= 500_000);
    let total: u64 = read.pairs.iter().map(|pair| pair.bytes).sum();
    assert!(total < 700_000, "{read:?}");
}

#[test]
fn other_tables_stay_and_ours_goes() {
    if !features::is_privileged() {
        return skip("other_tables_stay_and_ours_goes", "not root");
    }
    let lab = Lab::new("tables");
    let host = lab.host();
    let foreign = "table bridge other { set s { type ether_addr; elements = { 52:54:00:00:00:01 }; }\n\
                   chain c { type filter hook forward priority 0; ether saddr @s counter drop; }; }";
    run(&host, "nft", &[foreign]);
    let list = || run(&host, "nft", &["list", "ruleset"]);
    let before = list();
    {
        let _dropped = TrafficMatrix::install(&host).unwrap();
        assert_ne!(list(), before);
    }
    assert_eq!(list(), before, "dropping removes it");

    // One that a killed process left, with a content that is not ours.
    run(&host, "nft", &["table bridge droveway { set pairs { type ether_addr; }; }"]);
    let mut matrix = TrafficMatrix::install(&host).unwrap();
    let (near, far) = connect(&lab.vm(0), &lab.vm(1), address(2));
    send(&near, &far, 1000);
    assert!(between(&matrix.read().unwrap(), 0, 1).0 > 0);

    // Whoever comes next takes over; the first is told, and its end leaves the other's table alone.
    let mut next = TrafficMatrix::install(&host).unwrap();
    assert!(matches!(matrix.read(), Err(MatrixError::Replaced)));
    drop(matrix);
    let read = next.read().unwrap();
    assert!(!read.pairs.iter().any(|pair| pair.to == MACS[1]), "it begins anew: {read:?}");
    next.remove().unwrap();
    assert_eq!(list(), before);
}

#[test]
fn a_frame_that_another_table_drops_is_not_counted() {
    if !features::is_privileged() {
        return skip("a_frame_that_another_table_drops_is_not_counted", "not root");
    }
    let lab = Lab::new("drop");
    let host = lab.host();
    let rules = "table bridge f { chain c { type filter hook forward priority filter; tcp dport 7 drop; }; }";
    run(&host, "nft", &[rules]);
    let mut matrix = TrafficMatrix::install(&host).unwrap();
    let refused = lab
        .vm(0)
        .run(|| {
            TcpStream::connect_timeout(&(address(2), 7).into(), Duration::from_millis(200)).is_err()
        })
        .unwrap();
    assert!(refused);
    assert_eq!(matrix.read().unwrap().connections, Vec::new());
}

#[test]
fn what_was_acknowledged_is_what_was_sent() {
    if !features::is_privileged() {
        return skip("what_was_acknowledged_is_what_was_sent", "not root");
    }
    let lab = Lab::new("tcp");
    let (near, far) = connect(&lab.vm(0), &lab.vm(1), address(2));
    let mut diag = tcp_info::TcpDiag::open(&lab.vm(0)).unwrap();
    let mut total = 0;
    for bytes in [1_000_000, 2_000_000] {
        send(&near, &far, bytes);
        total += bytes as u64;
        // The side that opened counts its SYN.
        let all = wait(|| diag.connections().unwrap(), |all| all[0].info.bytes_acked > total);
        let [one] = all.as_slice() else { panic!("another namespace's connections: {all:?}") };
        assert_eq!(
            (one.local, one.remote),
            (near.local_addr().unwrap(), near.peer_addr().unwrap())
        );
        assert_eq!(one.info.bytes_acked, total + 1);
        assert_eq!((one.info.bytes_received, one.info.bytes_unsent), (0, 0));
        assert!(one.info.rtt > Duration::ZERO && one.info.rtt_min <= one.info.rtt, "{one:?}");
        assert!(one.info.delivery_bytes_per_second > 1_000_000, "{one:?}");
        assert!(one.info.data_segments_sent <= one.info.segments_sent);
        assert_eq!(one.uid, 0);
    }
    let there = tcp_info::connections(&lab.vm(1)).unwrap();
    assert_eq!((there.len(), there[0].info.bytes_received), (1, total));
    assert_eq!(tcp_info::connections(&lab.host()).unwrap(), Vec::new());
}

#[test]
fn a_path_is_probed_with_few_bytes_and_its_losses_are_seen() {
    if !features::is_privileged() {
        return skip("a_path_is_probed_with_few_bytes_and_its_losses_are_seen", "not root");
    }
    let lab = Lab::new("path");
    let host = lab.host();
    let tap = links::links(&host).unwrap().iter().find(|l| l.name == "tap0").unwrap().index;
    let mut counters = LinkCounters::open(&host).unwrap();
    let mut read = || {
        let mut all = Vec::new();
        counters.read(&mut all).unwrap();
        vm_view(of(&all, tap))
    };
    let before = read();
    let good = path_probe(&lab.vm(0), &lab.vm(1), address(2), SOON).unwrap();
    let after = read();
    println!("without losses: {good:?}");
    assert!(good.rtt > Duration::ZERO && good.rtt < Duration::from_millis(200), "{good:?}");
    assert!(good.rtt_min > Duration::ZERO && good.rtt_min <= good.rtt, "{good:?}");
    assert!(good.retransmit_ratio < 0.01 && good.delivery_bytes_per_second > 1e6, "{good:?}");
    let sent = after.tx_bytes - before.tx_bytes;
    assert!(sent > path::DATA as u64 && sent < 2 * path::DATA as u64, "{sent}");

    // One long frame in ten is lost; without offloads it is one segment.
    run(&lab.vm(0), "ethtool", &["-K", "eth0", "tso", "off", "gso", "off"]);
    let rules = "table bridge loss { chain c { type filter hook forward priority 0; \
                 iifname tap0 meta length > 1000 numgen inc mod 10 == 0 counter drop; }; }";
    run(&host, "nft", &[rules]);
    let bad = path_probe(&lab.vm(0), &lab.vm(1), address(2), SOON).unwrap();
    println!("one in ten lost: {bad:?}");
    assert!((0.02..0.5).contains(&bad.retransmit_ratio), "{bad:?}");
}

#[test]
fn a_dead_path_ends_in_time() {
    if !features::is_privileged() {
        return skip("a_dead_path_ends_in_time", "not root");
    }
    let lab = Lab::new("dead");
    run(&lab.host(), "ip", &["link", "set", "tap1", "down"]);
    let began = Instant::now();
    path_probe(&lab.vm(0), &lab.vm(1), address(2), Duration::from_millis(300)).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

/// A QEMU that never runs its guest; killed when dropped.
struct Qemu(Child);

impl Qemu {
    /// Its memory is touched by QEMU beforehand, or not at all.
    fn start(netns: &Netns, mib: u32, prealloc: bool, tap: &str) -> Self {
        let prealloc = if prealloc { "on" } else { "off" };
        let memory = format!("memory-backend-ram,id=ram,size={mib}M,prealloc={prealloc}");
        let tap = format!("tap,id=n,ifname={tap},script=no,downscript=no");
        let child = netns
            .command("qemu-system-x86_64")
            .args(["-S", "-nodefaults", "-display", "none", "-accel", "tcg"])
            .args(["-m", &format!("{mib}M"), "-machine", "q35,memory-backend=ram"])
            .args(["-object", &memory, "-netdev", &tap, "-device", "virtio-net-pci,netdev=n"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Qemu(child)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_qemus_taps_and_memory_are_found() {
    let test = "a_real_qemus_taps_and_memory_are_found";
    if !features::is_privileged() {
        return skip(test, "not root");
    }
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        return skip(test, "no QEMU");
    }
    let lab = Lab::new("qemu");
    let host = lab.host();
    // Names tell nothing: the second's is the first's and more, and a third belongs to nobody.
    run(&host, "ip", &["tuntap", "add", "web", "mode", "tap"]);
    let lazy = Qemu::start(&host, 64, false, "vm1");
    let eager = Qemu::start(&host, 96, true, "vm10");
    for (qemu, name) in [(&lazy, "vm1"), (&eager, "vm10")] {
        let found = wait(|| taps::of_qemu(qemu.0.id()).unwrap_or_default(), |t| !t.is_empty());
        let link = links::links(&host).unwrap().into_iter().find(|link| link.name == name).unwrap();
        assert_eq!(link.kind.as_deref(), Some("tun"));
        assert_eq!(found, [taps::Tap { interface: name.to_owned(), ifindex: link.index }]);
        assert_eq!(process::network_namespace(qemu.0.id()), Some(host.identity().unwrap()));
        assert_eq!(resources::link_speed(&host, name), None, "a tap's speed is made up");
    }

    let look = |qemu: &Qemu, mib: u64| {
        guest_memory::measure(qemu.0.id(), mib << 20, 4096, 1).map_err(|error| error.to_string())
    };
    // Its firmware is loaded at the reset, after the devices are made; untouched memory stays so.
    let lazy = look(&lazy, 64).unwrap();
    println!("untouched: {lazy:?}");
    assert!(lazy.resident_bytes < 8 << 20, "{lazy:?}");
    let eager_full = |read: &Result<guest_memory::GuestMemory, String>| {
        read.as_ref().is_ok_and(|read| read.resident_bytes == 96 << 20)
    };
    let full = wait(|| look(&eager, 96), eager_full).unwrap();
    println!("touched: {full:?}");
    assert!(full.zero_ratio > 0.95, "{full:?}");
    assert!(look(&eager, 64).is_err(), "no mapping of that size");
}

#[test]
fn virtual_links_have_no_speed() {
    if !features::is_privileged() {
        return skip("virtual_links_have_no_speed", "not root");
    }
    let lab = Lab::new("speed");
    let host = lab.host();
    // What they say of themselves, so that this test shows something.
    assert!(run(&host, "ethtool", &["tap0"]).contains("Speed: 10000Mb/s"));
    for interface in ["lo", "br0", "tap0", "nowhere"] {
        assert_eq!(resources::link_speed(&host, interface), None, "{interface}");
    }
}
