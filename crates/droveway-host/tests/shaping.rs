//! Promises on a real port between two namespaces: needs root.
#![allow(clippy::print_stdout, reason = "a skipped test says so, others what they measured")]

use droveway_fleet::Bandwidth;
use droveway_host::{
    features,
    netns::Netns,
    shaping::{Floor, Passed, Promise, STREAM, Shaper, ShapingError, URGENT, Way, restore},
    sockets::{SocketFinder, Tuning},
    tcp_info::TcpDiag,
};
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    io::{Read as _, Write},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// The most time for something that is due at once.
const SOON: Duration = Duration::from_secs(10);
const RATE: &str = "200Mbit/s";
/// What a target listens on.
const LISTENER: u16 = 49160;

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

/// Two hosts with a cable between them: `nic` of 10.8.0.1 and of 10.8.0.2. All goes when it is dropped.
struct Cable {
    names: [String; 2],
}

impl Cable {
    fn new(tag: &str) -> Self {
        let names = ["a", "b"].map(|end| format!("dws-{tag}-{}-{end}", std::process::id()));
        let cable = Cable { names };
        for name in &cable.names {
            ip(&["netns", "add", name]);
        }
        let [a, b] = &cable.names;
        ip(&["-n", a, "link", "add", "nic", "type", "veth", "peer", "name", "nic", "netns", b]);
        for (name, last) in [(a, 1), (b, 2)] {
            ip(&["-n", name, "addr", "add", &format!("10.8.0.{last}/24"), "dev", "nic"]);
            ip(&["-n", name, "link", "set", "nic", "up"]);
        }
        cable
    }

    fn end(&self, number: usize) -> Netns {
        Netns::named(&self.names[number]).unwrap()
    }

    /// A connection from the first end to this port of the second, both its sides.
    fn connect(&self, port: u16) -> (TcpStream, TcpStream) {
        let at = (address(2), port);
        let listener = self.end(1).run(|| TcpListener::bind(at).unwrap()).unwrap();
        let near = self.end(0).run(|| TcpStream::connect(at).unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// A shaper of one end's port, taken; a migration goes to the second end.
    fn taken(&self, number: usize, tx: &Promise, rx: &Promise) -> Shaper {
        let mut shaper = self.shaper(number).unwrap();
        shaper.install(tx, rx).unwrap();
        shaper.add_listener(LISTENER).unwrap();
        shaper
    }

    /// A shaper of one end's port; migrations go to the second.
    fn shaper(&self, number: usize) -> Result<Shaper, ShapingError> {
        Shaper::look(&self.end(number), "nic", RATE.parse().unwrap(), address(2))
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 8, 0, last])
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

/// Everything that `tc` and `ip` tell of the port, but no counters.
fn state(netns: &Netns) -> String {
    let tc = |what: &[&str]| run(netns, "tc", what);
    let qdiscs = tc(&["qdisc", "show"]);
    // HTB tells of a counter among its options.
    let without = |line: &str| line.split(" direct_packets_stat ").next().unwrap().to_owned();
    [
        qdiscs.lines().map(without).collect(),
        tc(&["class", "show", "dev", "nic"]),
        tc(&["filter", "show", "dev", "nic"]),
        run(netns, "ip", &["-o", "link"]).replace("qlen 1000", ""),
    ]
    .concat()
}

fn promise(share: f64) -> Promise {
    let rate: Bandwidth = RATE.parse().unwrap();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rate"
    )]
    let migration = Bandwidth::from_bits_per_second((rate.bits_per_second() as f64 * share) as u64);
    Promise { migration, ceiling: rate, yields: false, floors: Vec::new() }
}

/// Elastic flows until they are told to stop: from one end to a port of the other.
fn flow(stop: &AtomicBool, from: &Netns, to: &Netns, at: (IpAddr, u16)) {
    let listener = to.run(|| TcpListener::bind(at).unwrap()).unwrap();
    let mut near = from.run(|| TcpStream::connect(at).unwrap()).unwrap();
    let mut far = listener.accept().unwrap().0;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while far.read(&mut buffer).is_ok_and(|read| read > 0) {}
        });
        let block = vec![0x5a; 1 << 16];
        while !stop.load(Ordering::Relaxed) && near.write_all(&block).is_ok() {}
        drop(near);
    });
}

/// Shares of the stream and the applications in one second, once they have begun.
fn shares(shaper: &mut Shaper, way: Way) -> (f64, f64) {
    let before = shaper.passed(way).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let after = shaper.passed(way).unwrap();
    #[expect(clippy::cast_precision_loss, reason = "bytes of a second")]
    let of = |get: fn(&Passed) -> u64| (get(&after) - get(&before)) as f64;
    let (stream, applications) = (of(|it| it.stream), of(|it| it.applications));
    (stream / (stream + applications), (stream + applications) / 25e6)
}

/// The least of them, up to the first that is within the bound: nobody waits for more.
fn least_until(readings: impl IntoIterator<Item = f64>, within: f64) -> f64 {
    let mut least = f64::INFINITY;
    for reading in readings {
        least = least.min(reading);
        if least < within {
            break;
        }
    }
    least
}

/// Whether the promise is kept within 5 %, in both directions at once, from one second after a change.
#[test]
fn what_is_promised_is_had() {
    /// Of what was promised.
    const WITHIN: f64 = 0.05;
    if !features::is_privileged() {
        return skip("what_is_promised_is_had", "not root");
    }
    let cable = Cable::new("had");
    let [a, b] = [cable.end(0), cable.end(1)];
    let mut source = cable.taken(0, &promise(0.25), &promise(0.05));
    let mut target = cable.taken(1, &promise(0.05), &promise(0.25));
    let stop = AtomicBool::new(false);
    let mut worst = 0.0_f64;
    std::thread::scope(|scope| {
        // Migration and three flows of applications beside it; and three the other way.
        scope.spawn(|| flow(&stop, &a, &b, (address(2), LISTENER)));
        for port in 7000..7003 {
            let (a, b, stop) = (&a, &b, &stop);
            scope.spawn(move || flow(stop, a, b, (address(2), port)));
            scope.spawn(move || flow(stop, b, a, (address(1), port)));
        }
        for share in [0.25, 0.55, 0.75, 0.95] {
            source.promise(Way::Tx, &promise(share)).unwrap();
            target.promise(Way::Rx, &promise(share)).unwrap();
            std::thread::sleep(Duration::from_secs(1));
            // What is promised is a share of the port; what is given out is a little less than the port.
            let wanted = share / 0.97;
            // A second in which a flow waits for its first packet's repetition, or for the processor, leaves its part to
            // the others, as it should: it says nothing of the promise, and not each second is one.
            let off = (0..3).map(|_| {
                let (got, used) = shares(&mut source, Way::Tx);
                println!(
                    "promised {share}: {got:.3} of what was sent, {used:.3} of the port was used"
                );
                (got / wanted - 1.0).abs()
            });
            worst = worst.max(least_until(off, WITHIN));
        }
        stop.store(true, Ordering::Relaxed);
    });
    restore(source.before()).unwrap();
    restore(target.before()).unwrap();
    assert!(worst < WITHIN, "off by {worst:.3}");
}

/// What changes while packets are under way loses none of them: datagrams of an application, numbered by being counted, beside a
/// stream that fills what it is promised.
#[test]
fn a_change_loses_no_packet() {
    const CHANGES: u32 = 40;
    /// Between two datagrams: with 1,200 bytes each 9.6 Mbit/s, less than what is left to applications at the least.
    const EVERY: Duration = Duration::from_millis(1);
    const DATAGRAM: [u8; 1_200] = [0x5a; 1_200];
    if !features::is_privileged() {
        return skip("a_change_loses_no_packet", "not root");
    }
    let cable = Cable::new("lossless");
    let [a, b] = [cable.end(0), cable.end(1)];
    let mut source = cable.taken(0, &promise(0.25), &promise(0.05));
    let mut target = cable.taken(1, &promise(0.05), &promise(0.25));
    let near = a.run(|| UdpSocket::bind((address(1), 0)).unwrap()).unwrap();
    let far = b.run(|| UdpSocket::bind((address(2), 7000)).unwrap()).unwrap();
    // Room for all that a receiver which waits for a busy machine's processor may miss.
    setsockopt(&far, sockopt::RcvBufForce, &(1 << 24)).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let stop = AtomicBool::new(false);
    let (sent, had) = std::thread::scope(|scope| {
        scope.spawn(|| flow(&stop, &a, &b, (address(2), LISTENER)));
        let receiver = scope.spawn(|| {
            let mut buffer = [0; 2_048];
            std::iter::from_fn(|| far.recv(&mut buffer).ok()).count()
        });
        let sender = scope.spawn(|| {
            let mut sent = 0_usize;
            while !stop.load(Ordering::Relaxed) {
                sent += usize::from(near.send_to(&DATAGRAM, (address(2), 7000)).is_ok());
                std::thread::sleep(EVERY);
            }
            sent
        });
        for change in 0..CHANGES {
            let share = if change % 2 == 0 { 0.9 } else { 0.25 };
            source.promise(Way::Tx, &promise(share)).unwrap();
            target.promise(Way::Rx, &promise(share)).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
        (sender.join().unwrap(), receiver.join().unwrap())
    });
    restore(source.before()).unwrap();
    restore(target.before()).unwrap();
    println!("{CHANGES} changes at both ends, {sent} datagrams sent, {} lost", sent - had);
    assert!(sent > 500, "nothing was under way: {sent}");
    assert_eq!(had, sent);
}

/// A migration's acknowledgements go back past everything that VMs which have moved already send from the target's port.
#[test]
fn the_reverse_path_costs_a_stream_nothing() {
    if !features::is_privileged() {
        return skip("the_reverse_path_costs_a_stream_nothing", "not root");
    }
    /// What moved VMs send with: as many flows as made an unprotected stream half as fast.
    const FLOWS: u16 = 8;
    /// Of the port, for the stream.
    const SHARE: f64 = 0.9;
    let cable = Cable::new("back-path");
    let [a, b] = [cable.end(0), cable.end(1)];
    let mut source = cable.taken(0, &promise(SHARE), &promise(0.05));
    let mut target = cable.taken(1, &promise(0.05), &promise(SHARE));
    let stop = AtomicBool::new(false);
    let mut best = 0.0_f64;
    let mut beside = 0.0_f64;
    std::thread::scope(|scope| {
        for port in 7000..7000 + FLOWS {
            let (a, b, stop) = (&a, &b, &stop);
            scope.spawn(move || flow(stop, b, a, (address(1), port)));
        }
        scope.spawn(|| flow(&stop, &a, &b, (address(2), LISTENER)));
        std::thread::sleep(Duration::from_secs(1));
        // A busy machine may spoil a second, not each of them.
        for _ in 0..3 {
            let (share, used) = shares(&mut source, Way::Tx);
            best = best.max(share * used / SHARE);
            beside = beside.max(shares(&mut target, Way::Tx).1);
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!(
        "the stream had {best:.3} of its promise, what moved VMs send {beside:.3} of the port"
    );
    restore(source.before()).unwrap();
    restore(target.before()).unwrap();
    assert!(beside > 0.7, "the way back was not full: {beside:.3}");
    assert!(best > 0.9, "{best:.3} of its promise");
}

/// What a host receives does not starve where little is left to applications of what it sends: their acknowledgements pass what others
/// send there.
#[test]
fn acknowledgements_of_applications_pass_what_others_send() {
    if !features::is_privileged() {
        return skip("acknowledgements_of_applications_pass_what_others_send", "not root");
    }
    /// Of the port, for the stream.
    const SHARE: f64 = 0.95;
    let cable = Cable::new("answers");
    let [a, b] = [cable.end(0), cable.end(1)];
    let mut source = cable.taken(0, &promise(SHARE), &promise(0.05));
    let stop = AtomicBool::new(false);
    let mut best = 0.0_f64;
    let mut sent = 0.0_f64;
    std::thread::scope(|scope| {
        scope.spawn(|| flow(&stop, &a, &b, (address(2), LISTENER)));
        for port in 7000..7003 {
            let (a, b, stop) = (&a, &b, &stop);
            scope.spawn(move || flow(stop, a, b, (address(2), port)));
        }
        scope.spawn(|| flow(&stop, &b, &a, (address(1), 7100)));
        std::thread::sleep(Duration::from_secs(1));
        // A busy machine may spoil a second, not each of them.
        for _ in 0..3 {
            best = best.max(shares(&mut source, Way::Rx).1);
            sent = sent.max(shares(&mut source, Way::Tx).1);
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("received {best:.3} of the port, while {sent:.3} of it was sent");
    restore(source.before()).unwrap();
    assert!(sent > 0.8, "nothing was in the way: {sent:.3}");
    assert!(best > 0.8, "{best:.3} of the port");
}

/// One that yields has what is left, and nothing is lost when a promise changes.
#[test]
fn who_yields_has_what_is_left() {
    if !features::is_privileged() {
        return skip("who_yields_has_what_is_left", "not root");
    }
    let cable = Cable::new("yield");
    let [a, b] = [cable.end(0), cable.end(1)];
    let yields = Promise { yields: true, ..promise(0.02) };
    let mut source = cable.taken(0, &yields, &promise(0.05));
    let (one, other) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| flow(&one, &a, &b, (address(2), LISTENER)));
        scope.spawn(|| flow(&other, &a, &b, (address(2), 7000)));
        let deadline = Instant::now() + SOON;
        loop {
            let (share, used) = shares(&mut source, Way::Tx);
            println!("yielding: {share:.3}, {used:.3} of the port was used");
            if share < 0.1 && used > 0.8 {
                break;
            }
            assert!(Instant::now() < deadline);
        }
        other.store(true, Ordering::Relaxed);
        loop {
            let (share, used) = shares(&mut source, Way::Tx);
            println!("alone: {share:.3}, {used:.3} of the port was used");
            if share > 0.9 && used > 0.8 {
                break;
            }
            assert!(Instant::now() < deadline + SOON);
        }
        one.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_port_is_put_back_as_it_was() {
    if !features::is_privileged() {
        return skip("a_port_is_put_back_as_it_was", "not root");
    }
    let cable = Cable::new("back");
    let host = cable.end(0);
    for chosen in ["", "pfifo limit 77", "bfifo limit 123456"] {
        if !chosen.is_empty() {
            let mut all = vec!["qdisc", "add", "dev", "nic", "root", "handle", "8001:"];
            all.extend(chosen.split(' '));
            run(&host, "tc", &all);
        }
        let before = state(&host);
        let mut shaper = cable.shaper(0).unwrap();
        assert_eq!(state(&host), before, "looking changes nothing");
        shaper.install(&promise(0.5), &promise(0.5)).unwrap();
        shaper.add_listener(LISTENER).unwrap();
        assert!(shaper.shapes_inbound());
        assert_ne!(state(&host), before);
        // As after a crash: from what was kept alone; and once more.
        let kept = serde_json::to_string(shaper.before()).unwrap();
        drop(shaper);
        let kept = serde_json::from_str(&kept).unwrap();
        restore(&kept).unwrap();
        assert_eq!(state(&host), before, "{chosen}");
        restore(&kept).unwrap();
        assert_eq!(state(&host), before, "{chosen}");
        if !chosen.is_empty() {
            run(&host, "tc", &["qdisc", "del", "dev", "nic", "root"]);
        }
    }
    let shaper = cable.shaper(0).unwrap();
    let kept = shaper.before().clone();
    drop(cable);
    restore(&kept).unwrap();
}

#[test]
fn what_could_not_be_put_back_is_left_alone() {
    if !features::is_privileged() {
        return skip("what_could_not_be_put_back_is_left_alone", "not root");
    }
    let cable = Cable::new("alone");
    let host = cable.end(0);
    run(
        &host,
        "tc",
        &["qdisc", "add", "dev", "nic", "root", "handle", "1:", "htb", "default", "1"],
    );
    let before = state(&host);
    let refused = cable.shaper(0).unwrap_err();
    assert!(matches!(refused, ShapingError::Occupied { .. }), "{refused}");
    assert!(refused.to_string().contains("htb"), "{refused}");
    assert_eq!(state(&host), before);
    run(&host, "tc", &["qdisc", "del", "dev", "nic", "root"]);

    // Somebody else looks at what arrives: that stays, and what is sent is shaped all the same.
    run(&host, "tc", &["qdisc", "add", "dev", "nic", "ingress"]);
    let before = state(&host);
    let mut shaper = cable.shaper(0).unwrap();
    assert!(!shaper.shapes_inbound());
    shaper.install(&promise(0.5), &promise(0.5)).unwrap();
    assert_eq!(shaper.passed(Way::Rx).unwrap(), Passed::default());
    restore(shaper.before()).unwrap();
    assert_eq!(state(&host), before);

    let missing = Shaper::look(&host, "nix", RATE.parse().unwrap(), address(2)).unwrap_err();
    assert!(matches!(missing, ShapingError::Missing { .. }), "{missing}");
}

/// What a VM's card sends and what it receives goes to the class of its floor, and nothing else does.
#[test]
fn a_floor_is_of_one_card() {
    if !features::is_privileged() {
        return skip("a_floor_is_of_one_card", "not root");
    }
    let cable = Cable::new("floor");
    let a = cable.end(0);
    let text = run(&a, "ip", &["-o", "link", "show", "dev", "nic"]);
    let card = text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let bytes: Vec<u8> =
        card.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let floor = |mac| Floor { mac, rate: "20Mbit/s".parse().unwrap() };
    let floors = vec![floor([2, 0, 0, 0, 0, 1]), floor(bytes.try_into().unwrap())];
    let promise = Promise { floors, ..promise(0.5) };
    let shaper = cable.taken(0, &promise, &promise);
    for port in [7000, LISTENER] {
        let (mut near, mut far) = cable.connect(port);
        near.write_all(&vec![1; 200_000]).unwrap();
        far.read_exact(&mut vec![0; 200_000]).unwrap();
        far.write_all(&vec![1; 400_000]).unwrap();
        near.read_exact(&mut vec![0; 400_000]).unwrap();
    }
    // The second port's bytes are migration's, whoever sends them.
    let device = shaper.before().inbound_device.clone().unwrap();
    for (device, least, most) in [("nic", 200_000, 300_000), (&device, 400_000, 500_000)] {
        let text = run(&a, "tc", &["-s", "class", "show", "dev", device]);
        let sent = |class: &str| -> u64 {
            let after = text.split(&format!("class htb {class} ")).nth(1).unwrap();
            let sent = after.split(" Sent ").nth(1).unwrap();
            sent.split(' ').next().unwrap().parse().unwrap()
        };
        assert_eq!(sent("1:100"), 0, "{text}");
        assert!((least..most).contains(&sent("1:101")), "{text}");
    }
    restore(shaper.before()).unwrap();
}

/// A socket's priority is its class, whatever its ports; and a connection that is hastened is urgent.
#[test]
fn sockets_go_to_their_class() {
    if !features::is_privileged() {
        return skip("sockets_go_to_their_class", "not root");
    }
    let cable = Cable::new("class");
    let a = cable.end(0);
    let mut source = cable.taken(0, &promise(0.5), &promise(0.5));
    let send = |near: &mut TcpStream, far: &mut TcpStream| {
        near.write_all(&vec![1; 200_000]).unwrap();
        far.read_exact(&mut vec![0; 200_000]).unwrap();
    };
    let tune = |of: &TcpStream, priority| {
        let local = of.local_addr().unwrap();
        let diag = TcpDiag::open(&a).unwrap();
        let mut finder = SocketFinder::open(std::process::id(), diag).unwrap().unwrap();
        let found = finder.find(Some(local.port()), None, |_| true).unwrap();
        let (number, connection) = found.unwrap();
        let socket = finder.take(number, &connection).unwrap();
        socket.tune(&Tuning { priority, ..Tuning::STOCK }).unwrap();
    };
    // What arrived counts: acknowledgements of other tests' ends do not.
    let mut gained = |near: &mut TcpStream, far: &mut TcpStream| {
        let before = source.passed(Way::Tx).unwrap();
        send(near, far);
        let after = source.passed(Way::Tx).unwrap();
        let least = 190_000;
        [
            after.urgent - before.urgent > least,
            after.stream - before.stream > least,
            after.applications - before.applications > least,
        ]
    };
    let (mut near, mut far) = cable.connect(7000);
    assert_eq!(gained(&mut near, &mut far), [false, false, true]);
    tune(&near, STREAM);
    assert_eq!(gained(&mut near, &mut far), [false, true, false]);
    tune(&near, URGENT);
    assert_eq!(gained(&mut near, &mut far), [true, false, false]);
    let (mut near, mut far) = cable.connect(LISTENER);
    assert_eq!(gained(&mut near, &mut far), [false, true, false]);
    let mut shaper = source;
    shaper.hasten(near.local_addr().unwrap().port()).unwrap();
    let before = shaper.passed(Way::Tx).unwrap();
    send(&mut near, &mut far);
    assert!(shaper.passed(Way::Tx).unwrap().urgent - before.urgent > 190_000);
}

/// A port is a migration's from when its target listens there until it is closed. The next one may be the end of a connection that
/// the target's host began itself, which would fill the class of what guests wait for.
#[test]
fn a_port_is_migrations_while_its_target_listens() {
    if !features::is_privileged() {
        return skip("a_port_is_migrations_while_its_target_listens", "not root");
    }
    const NEXT: u16 = LISTENER + 1;
    let cable = Cable::new("listens");
    let mut source = cable.taken(0, &promise(0.5), &promise(0.5));
    // Who received it at the source, of what was sent to it from this port of the target's.
    let received = |source: &mut Shaper, port: u16| {
        let before = source.passed(Way::Rx).unwrap();
        let (mut near, mut far) = cable.connect(port);
        far.write_all(&vec![1; 200_000]).unwrap();
        near.read_exact(&mut vec![0; 200_000]).unwrap();
        let after = source.passed(Way::Rx).unwrap();
        [after.urgent - before.urgent, after.applications - before.applications]
            .map(|bytes| bytes > 190_000)
    };
    let (migration, application) = ([true, false], [false, true]);
    assert_eq!(received(&mut source, LISTENER), migration);
    assert_eq!(received(&mut source, NEXT), application);
    source.add_listener(NEXT).unwrap();
    // Said twice, it is as said once.
    source.add_listener(NEXT).unwrap();
    source.remove_listener(LISTENER).unwrap();
    assert_eq!(received(&mut source, LISTENER), application);
    assert_eq!(received(&mut source, NEXT), migration);
    for _ in 0..2 {
        source.remove_listener(NEXT).unwrap();
        assert_eq!(received(&mut source, NEXT), application);
    }
    source.add_listener(LISTENER).unwrap();
    assert_eq!(received(&mut source, LISTENER), migration);
    restore(source.before()).unwrap();
}
