//! What a run does to ports and sockets: it holds, it helps, and nothing of it stays.

use crate::harness::{Lab, TestVm, droveway, said, wait};
use droveway_fleet::{RunReport, report::MoveResult};
use droveway_host::{netns::Netns, sockets::SocketFinder, tcp_info::TcpDiag};
use nix::sys::signal::Signal;
use std::net::TcpListener;

/// Everything that `tc` tells of both hosts' ports, and their links.
pub(crate) fn ports(lab: &Lab) -> String {
    let of = |host: &str| {
        let netns = Netns::named(&lab.namespace(host)).expect("a namespace");
        let ask = |program: &str, arguments: &[&str]| {
            let output = netns.command(program).args(arguments).output().expect("it starts");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let links = ask("ip", &["-o", "link", "show"]);
        let names =
            links.lines().map(|line| line.split(':').nth(1).unwrap_or("").to_owned() + "\n");
        ask("tc", &["qdisc", "show"])
            + &ask("tc", &["filter", "show", "dev", "nic"])
            + &names.collect::<String>()
    };
    of("alpha") + &of("beta")
}

/// `TCP_NODELAY` of the migration socket of a VM's QEMU on a host, once there is one.
fn no_delay(lab: &Lab, vm: &str, host: &str) -> Vec<bool> {
    let netns = Netns::named(&lab.namespace(host)).expect("a namespace");
    let Some(pid) = lab.qemu(vm, host) else { return Vec::new() };
    let diag = TcpDiag::open(&netns).expect("sockets can be listed");
    let Ok(Some(mut finder)) = SocketFinder::open(pid, diag) else { return Vec::new() };
    let found = finder.find(None, None, |_| true).ok().flatten();
    let socket = found.and_then(|(number, connection)| finder.take(number, &connection).ok());
    socket.and_then(|socket| socket.no_delay().ok()).into_iter().collect()
}

fn vm(report: &RunReport) -> &droveway_fleet::report::VmReport {
    report.vms.first().expect("a VM")
}

/// A post-copied guest answers soon when its pages pass the stream and its requests are not held back; and the port is as it was.
#[test]
fn a_post_copied_guest_is_not_starved() {
    let vms = "    - { name: vm-1, host: alpha, memory: 256MiB }\n";
    let link = "{ rate: 200Mbit/s, offloads: on }";
    let Some(lab) = Lab::up_on("t-starve", link, true, vms) else { return };
    let before = ports(&lab);
    let go = ["migrate", "vm-1", "--to", "beta", "--policy", "post-copy-serial"];
    let back = ["migrate", "vm-1", "--to", "alpha", "--policy", "pre-copy-serial"];
    let (code, stock) = lab.moves(&go);
    assert_eq!(code, 0, "{:?}", stock.vms);
    assert!(stock.reservations.is_empty());
    let (code, _) = lab.moves(&back);
    assert_eq!(code, 0);
    let cure = ["--reserve", "90%", "--tuning", "on"];
    let (code, cured) = lab.moves(&[&go[..], &cure[..]].concat());
    assert_eq!(code, 0, "{:?}", cured.vms);
    assert_eq!(vm(&cured).result, MoveResult::Completed);
    assert_eq!(cured.reservations.len(), 4, "{:?}", cured.reservations);
    assert_eq!(
        cured.remarks.iter().filter(|it| it.contains("sockets")).count(),
        0,
        "{:?}",
        cured.remarks
    );
    assert_eq!(ports(&lab), before);
    let silent =
        [&stock, &cured].map(|report| vm(report).outage_seconds.expect("the probe's word"));
    let took = [&stock, &cured].map(|report| report.total_migration_time_seconds);
    let blocked = [&stock, &cured].map(|report| vm(report).blocked_seconds.expect("QEMU's word"));
    assert_eq!(vm(&cured).vcpu_blocked_seconds.len(), 1);
    eprintln!(
        "silent for {silent:.2?} s, blocked for {blocked:.2?} s of {took:.2?} s, stock and cured"
    );
    assert!(blocked[1] < 0.5 * blocked[0], "{blocked:?}");
    assert!(silent[1] < 0.75 * silent[0], "{silent:?}");
    assert!(took[1] < 1.25 * took[0], "{took:?}");
}

/// A run that is killed leaves the ports changed, which the next command finds and puts right.
#[test]
fn what_a_killed_run_leaves_is_put_back() {
    let vms = "    - { name: vm-1, host: alpha, memory: 192MiB }\n";
    let Some(lab) = Lab::up_with("t-killed", "100Mbit/s", vms) else { return };
    let before = ports(&lab);
    let slow = [
        "migrate",
        "vm-1",
        "--to",
        "beta",
        "--policy",
        "pre-copy-serial",
        "--bandwidth",
        "4Mbit/s",
        "--reserve",
        "60%",
        "--tuning",
        "on",
    ];
    let mut run = lab.begins(&slow);
    lab.wait_for("vm-1", "alpha", "pre-copy");
    assert_ne!(ports(&lab), before);
    wait("tuned sockets at both ends", || {
        [no_delay(&lab, "vm-1", "alpha"), no_delay(&lab, "vm-1", "beta")] == [[true], [true]]
    });
    run.kill();
    assert_ne!(ports(&lab), before, "nobody was there to put it back");
    let output = droveway(&lab.arguments(&["restore-network"]));
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("as they were"), "{}", said(&output));
    assert_eq!(ports(&lab), before);
    let output = droveway(&lab.arguments(&["restore-network"]));
    assert!(said(&output).contains("no run has left"), "{}", said(&output));
}

/// An interrupted run puts the ports back itself; a port that somebody else shapes is left alone.
#[test]
fn an_interrupted_run_and_a_foreign_queue_leave_ports_alone() {
    let vms = "    - { name: vm-1, host: alpha, memory: 192MiB }\n";
    let Some(lab) = Lab::up_with("t-foreign", "100Mbit/s", vms) else { return };
    let before = ports(&lab);
    let slow = [
        "migrate",
        "vm-1",
        "--to",
        "beta",
        "--policy",
        "pre-copy-serial",
        "--bandwidth",
        "4Mbit/s",
        "--reserve",
        "40Mbit/s",
    ];
    let mut run = lab.begins(&slow);
    lab.wait_for("vm-1", "alpha", "pre-copy");
    assert_ne!(ports(&lab), before);
    assert_eq!(no_delay(&lab, "vm-1", "alpha"), [false], "nobody asked for tuning");
    run.signal(Signal::SIGINT);
    assert_eq!(run.code(), 130);
    assert_eq!(ports(&lab), before);
    let report = lab.report();
    assert!(report.reservations.iter().any(|it| it.bits_per_second == 40_000_000), "{report:?}");

    let netns = Netns::named(&lab.namespace("alpha")).expect("a namespace");
    let foreign = ["qdisc", "add", "dev", "nic", "root", "handle", "7:", "htb", "default", "1"];
    assert!(netns.command("tc").args(foreign).status().expect("tc").success());
    let before = ports(&lab);
    let off = [&slow[..], &["--shaping", "off"]].concat();
    let output = droveway(&lab.arguments(&off));
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let fast =
        ["migrate", "vm-1", "--to", "beta", "--policy", "pre-copy-serial", "--reserve", "40Mbit/s"];
    let (code, report) = lab.moves(&fast);
    assert_eq!(code, 0, "{:?}", report.vms);
    assert!(report.reservations.is_empty());
    let without_counters = |text: &str| -> Vec<String> {
        text.lines()
            .map(|line| line.split(" direct_packets").next().unwrap_or("").to_owned())
            .collect()
    };
    assert_eq!(without_counters(&ports(&lab)), without_counters(&before));
}

/// A connection from a port of the range, which kernels give out for a minute beyond its end, is as good as a listener.
#[test]
fn a_port_that_somebody_holds_is_passed_over() {
    let Some(lab) = Lab::up("t-port", "400Mbit/s", &[TestVm { name: "vm-1", more: "" }]) else {
        return;
    };
    let netns = Netns::named(&lab.namespace("beta")).expect("a namespace");
    let held = netns.run(|| TcpListener::bind("10.77.0.2:49152"));
    let _held = held.expect("its namespace").expect("the first port of the range");
    let (code, report) =
        lab.moves(&["migrate", "vm-1", "--to", "beta", "--policy", "pre-copy-serial"]);
    assert_eq!(code, 0, "{:?}", report.vms);
}
