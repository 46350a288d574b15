//! Namespaces and counters against the real kernel, in namespaces of the test's own.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a skipped test says so")]

use droveway_host::{
    counters::{CountersError, PortCounters},
    features,
    netns::{Netns, NetnsError},
    process,
};
use std::{io::Write, net::UdpSocket, process::Command, time::Instant};

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

/// A namespace with a veth pair between it and another; both go when it is dropped.
struct Pair {
    names: [String; 2],
}

impl Pair {
    fn new(tag: &str) -> Self {
        let names = ["a", "b"].map(|end| format!("dwt-{tag}-{}-{end}", std::process::id()));
        for name in &names {
            ip(&["netns", "add", name]);
        }
        let pair = Pair { names };
        let [a, b] = &pair.names;
        ip(&["-n", a, "link", "add", "nic", "type", "veth", "peer", "name", "nic", "netns", b]);
        for (name, address) in [(a, "10.0.0.1/24"), (b, "10.0.0.2/24")] {
            ip(&["-n", name, "addr", "add", address, "dev", "nic"]);
            ip(&["-n", name, "link", "set", "nic", "up"]);
        }
        pair
    }

    fn netns(&self, end: usize) -> Netns {
        Netns::named(&self.names[end]).unwrap()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn code_and_programs_run_inside() {
    if !features::is_privileged() {
        return skip("code_and_programs_run_inside", "not root");
    }
    let pair = Pair::new("run");
    let netns = pair.netns(0);
    let inside = netns.run(|| UdpSocket::bind("10.0.0.1:0").is_ok()).unwrap();
    assert!(inside);
    assert!(UdpSocket::bind("10.0.0.1:0").is_err(), "this thread never left its namespace");
    let output = netns.command("ip").args(["-br", "link"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("nic@"));

    let mut child = netns.command("sleep").arg("60").spawn().unwrap();
    assert_eq!(process::network_namespace(child.id()), Some(netns.identity().unwrap()));
    assert_ne!(netns.identity().unwrap(), Netns::own().identity().unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_missing_namespace_is_named() {
    let error = Netns::named("dwt-nowhere").unwrap_err();
    assert!(matches!(error, NetnsError::Open { .. }));
    assert_eq!(error.to_string(), "could not open network namespace 'dwt-nowhere'");
    assert!(Netns::named("../self").is_err());
}

#[test]
fn a_panic_inside_comes_out() {
    if !features::is_privileged() {
        return skip("a_panic_inside_comes_out", "not root");
    }
    let pair = Pair::new("panic");
    let netns = pair.netns(0);
    let result = std::panic::catch_unwind(|| {
        netns.run(|| -> u32 { std::panic::resume_unwind(Box::new("quietly")) })
    });
    assert!(result.is_err());
}

#[test]
fn counters_count_both_directions() {
    if !features::is_privileged() {
        return skip("counters_count_both_directions", "not root");
    }
    let pair = Pair::new("count");
    let mut near = PortCounters::open(&pair.netns(0), "nic").unwrap();
    let mut far = PortCounters::open(&pair.netns(1), "nic").unwrap();
    let sender = pair.netns(0).run(|| UdpSocket::bind("10.0.0.1:0").unwrap()).unwrap();
    let receiver = pair.netns(1).run(|| UdpSocket::bind("10.0.0.2:9").unwrap()).unwrap();
    let before = (near.read().unwrap(), far.read().unwrap());
    let mut buffer = [0; 2000];
    for _ in 0..10 {
        sender.send_to(&[0; 1000], "10.0.0.2:9").unwrap();
        receiver.recv_from(&mut buffer).unwrap();
    }
    let after = (near.read().unwrap(), far.read().unwrap());
    // The kernel's own packets (neighbour discovery) come on top.
    assert!(after.0.tx_bytes - before.0.tx_bytes >= 10 * 1042);
    assert!(after.0.tx_packets - before.0.tx_packets >= 10);
    assert!(after.1.rx_bytes - before.1.rx_bytes >= 10 * 1042);
    assert!(after.1.rx_packets - before.1.rx_packets >= 10);

    let start = Instant::now();
    for _ in 0..1000 {
        near.read().unwrap();
    }
    println!("one reading takes {:?}", start.elapsed() / 1000);
    let (first, _) = near.read_stamped().unwrap();
    assert!(near.read_stamped().unwrap().0 > first);
}

#[test]
fn a_missing_port_is_named() {
    let error = PortCounters::open(&Netns::own(), "dwt-nowhere").unwrap_err();
    assert!(matches!(error, CountersError::Refused { .. }), "{error:?}");
    assert_eq!(error.to_string(), "could not read the counters of port 'dwt-nowhere'");
}
