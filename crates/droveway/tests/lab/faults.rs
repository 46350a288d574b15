//! Promise: no VM is lost by a fault in pre-copy or by the death of the controller, and `status` tells the truth after it.

use crate::{
    harness::{Lab, TestVm, wait},
    memcached::Cache,
};
use droveway_fleet::report::MoveResult;
use nix::{sys::signal::Signal, unistd::Pid};

const VALUES: usize = 4 * 1024;
/// Slow enough that every fault meets a stream under way.
const SLOW: [&str; 2] = ["--bandwidth", "100Mbit/s"];

fn lab(name: &str) -> Option<(Lab, Cache)> {
    let vm = TestVm { name: "cache", more: "services: [ memcached ]" };
    let lab = Lab::up(name, "200Mbit/s", &[vm])?;
    let mut cache = Cache::connect(&lab, "cache");
    cache.fill(VALUES);
    Some((lab, cache))
}

fn migrate<'a>(target: &'a str, policy: &'a str) -> Vec<&'a str> {
    [&["migrate", "cache", "--to", target, "--policy", policy][..], &SLOW[..]].concat()
}

#[test]
fn a_killed_target_a_dead_link_and_an_interrupt_leave_the_vm_at_the_source() {
    let Some((lab, mut cache)) = lab("t-faults") else { return };

    let mut run = lab.begins(&migrate("beta", "pre-copy-serial"));
    lab.wait_for("cache", "alpha", "pre-copy");
    assert!(lab.status()["activeRun"].is_string(), "status shows the run");
    let target = lab.qemu("cache", "beta").expect("the target's QEMU");
    nix::sys::signal::kill(Pid::from_raw(i32::try_from(target).expect("a pid")), Signal::SIGKILL)
        .expect("killed");
    assert_eq!(run.code(), 5);
    assert_eq!(lab.report().vms[0].result, MoveResult::RolledBack);
    assert_eq!(lab.place("cache"), ("alpha".to_owned(), "running".to_owned()));
    assert!(lab.status()["activeRun"].is_null());
    cache.verify(VALUES);

    let mut run = lab.begins(&migrate("beta", "pre-copy-serial"));
    lab.wait_for("cache", "alpha", "pre-copy");
    lab.set_port("beta", false);
    assert_eq!(run.code(), 5);
    lab.set_port("beta", true);
    let report = lab.report();
    let reason = report.vms[0].reason.clone().expect("a reason");
    assert!(reason.contains("the path is dead"), "{reason}");
    assert_eq!(lab.place("cache"), ("alpha".to_owned(), "running".to_owned()));
    assert_eq!(lab.qemu("cache", "beta"), None, "the target is cleaned");
    cache.verify(VALUES);

    let mut run = lab.begins(&migrate("beta", "pre-copy-serial"));
    lab.wait_for("cache", "alpha", "pre-copy");
    run.signal(Signal::SIGINT);
    assert_eq!(run.code(), 130);
    assert_eq!(lab.place("cache"), ("alpha".to_owned(), "running".to_owned()));
    cache.verify(VALUES);

    // After all of this it still moves.
    let (code, report) =
        lab.moves(&["migrate", "cache", "--to", "beta", "--policy", "pre-copy-serial"]);
    assert_eq!(code, 0, "{:?}", report.vms);
    cache.verify(VALUES);
}

#[test]
fn a_killed_controller_loses_no_vm_in_any_phase() {
    let Some((lab, mut cache)) = lab("t-kill") else { return };
    let mut here = "alpha";
    for (policy, phase) in [
        ("pre-copy-serial", "pre-copy"),
        ("post-copy-serial", "post-copy"),
        ("hybrid-serial", "pre-copy"),
        ("stop-and-copy", "switchover"),
    ] {
        let there = if here == "alpha" { "beta" } else { "alpha" };
        let mut run = lab.begins(&migrate(there, policy));
        wait(&format!("{phase} of {policy}"), || {
            let status = lab.status();
            let (host, state) = Lab::place_in(&status, "cache");
            // What the controller before left is taken over first: the VM arrived, and that is what is said of it.
            if status["run"]["policy"].as_str().is_some_and(|of| of != policy) {
                assert_eq!(host, here, "{policy}: {status:#}");
                return false;
            }
            // A switchover may be over before anybody looks.
            state == phase || (phase == "switchover" && host == there)
        });
        run.kill();
        // QEMU goes on by itself; whatever it is doing, status names one place and no run.
        assert!(lab.status()["activeRun"].is_null(), "{policy}");
        wait(&format!("{policy} ends by itself"), || {
            let (host, state) = lab.place("cache");
            assert_ne!(state, "two-copies", "{policy}");
            host == there && state == "running"
        });
        cache.verify(VALUES);
        here = there;
    }
    // What the dead controllers left does not stand in the way.
    let there = if here == "alpha" { "beta" } else { "alpha" };
    let (code, report) =
        lab.moves(&["migrate", "cache", "--to", there, "--policy", "pre-copy-serial"]);
    assert_eq!(code, 0, "{:?}", report.vms);
    cache.verify(VALUES);
}
