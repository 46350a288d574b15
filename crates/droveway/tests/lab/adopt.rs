//! Promise: a controller may be killed at any instant; another takes over, nothing is begun twice, no VM is lost. And a run can
//! be looked at and steered from another terminal.

use crate::{
    harness::{Lab, TestVm, command, droveway, said, wait},
    memcached::Cache,
    network::ports,
};
use droveway_fleet::{Technique, report::MoveResult};
use std::{
    os::unix::process::CommandExt as _,
    time::{Duration, Instant},
};

const GANG: [TestVm; 3] = [
    TestVm { name: "cache", more: "services: [ memcached ]" },
    TestVm { name: "idle", more: "" },
    TestVm { name: "writer", more: "memoryLoad: { workingSet: 20MiB, writeRate: 4MiB/s }" },
];
const VALUES: usize = 2 * 1024;

fn other(host: &str) -> &'static str {
    if host == "alpha" { "beta" } else { "alpha" }
}

#[test]
fn a_drain_whose_controller_is_killed_at_any_instant_is_adopted() {
    let Some(lab) = Lab::up("t-adopt", "400Mbit/s", &GANG) else { return };
    let mut cache = Cache::connect(&lab, "cache");
    cache.fill(VALUES);
    killed_before_anything_moves(&lab);
    let mut here = "alpha";
    // Serially, so that an instant meets VMs that have moved, that move, and that wait; post-copies when the first of them has just
    // been split, while its stream is held back for its first pages and those of the others for its switch.
    for (policy, millis) in [
        ("pre-copy-serial", Some(300_u64)),
        ("hybrid-serial", Some(1_500)),
        ("post-copy-parallel", None),
        ("pre-copy-parallel", Some(2_500)),
    ] {
        let there = other(here);
        let drain = ["drain", here, "--to", there, "--policy", policy, "--tuning", "on"];
        let mut run = lab.begins(&drain);
        if let Some(millis) = millis {
            wait("the first start", || lab.status()["run"]["elapsedSeconds"].is_number());
            std::thread::sleep(Duration::from_millis(millis));
        } else {
            wait("the first split", || GANG.iter().any(|vm| lab.place(vm.name).1 == "post-copy"));
        }
        let status = lab.status();
        run.kill();
        let runs_there = |vm: &TestVm| Lab::place_in(&status, vm.name).0 == there;
        let moved: Vec<_> = GANG.iter().filter(|vm| runs_there(vm)).collect();
        let mut adopts = lab.begins(&["adopt"]);
        wait("the end of what was adopted", || {
            let status = lab.status();
            for vm in &moved {
                let (host, state) = Lab::place_in(&status, vm.name);
                assert!(host == there || state == "no-answer", "{policy}: {status:#}");
            }
            status["activeRun"].is_null() && status["unfinishedRun"].is_null()
        });
        assert_eq!(adopts.code(), 0, "{policy}");
        for vm in ["cache", "idle", "writer"] {
            let place = lab.place(vm);
            assert_eq!(place, (there.to_owned(), "running".to_owned()), "{policy}: {vm}");
            assert_eq!(lab.qemu(vm, here), None, "{policy}: {vm} left its source's QEMU");
        }
        assert!(lab.status()["unfinishedRun"].is_null());
        cache.verify(VALUES);
        // Nobody is left at the pace that the dead controller held it at for a moment: that is a hundredth of the port.
        let report = lab.report();
        let (took, line_rate) = (report.total_migration_time_seconds, report.line_rate_seconds);
        assert!(took < 8.0 * line_rate, "{policy}: {took} s, {line_rate} s at line rate");
        here = there;
    }
}

/// Killed while its targets are being started, with the ports taken: whoever takes over leaves no trace of it. Twice, because the
/// second one takes over what the first one, killed in the same way, left.
fn killed_before_anything_moves(lab: &Lab) {
    let settings = || GANG.map(|vm| lab.settings(vm.name, "alpha"));
    let before = (ports(lab), settings());
    let drain = ["drain", "alpha", "--to", "beta", "--policy", "pre-copy-parallel"];
    let mut of_another = None;
    for _ in 0..2 {
        let mut run = lab.begins(&[&drain[..], &["--reserve", "50%"]].concat());
        let patience = Instant::now() + Duration::from_secs(60);
        let started = loop {
            assert!(Instant::now() < patience, "no target was started");
            match lab.qemu("writer", "beta") {
                Some(pid) if Some(pid) != of_another => break pid,
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        run.kill();
        of_another = Some(started);
        assert_ne!(ports(lab), before.0, "the ports were taken");
        assert!(!lab.status()["unfinishedRun"].is_null());
    }
    let adopted = droveway(&lab.arguments(&["adopt"]));
    assert_eq!(adopted.status.code(), Some(130), "{}", said(&adopted));
    assert!(said(&adopted).contains("moved nothing yet"), "{}", said(&adopted));
    for vm in GANG {
        assert_eq!(lab.place(vm.name), ("alpha".to_owned(), "running".to_owned()));
        assert_eq!(lab.qemu(vm.name, "beta"), None, "{}: its target was left", vm.name);
    }
    assert_eq!((ports(lab), settings()), before);
    assert!(lab.status()["unfinishedRun"].is_null());
}

/// What a command prints for programs.
fn printed(lab: &Lab, arguments: &[&str]) -> serde_json::Value {
    let output = droveway(&lab.arguments(&[arguments, &["-o", "json"]].concat()));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", said(&output)))
}

/// It is what the schema of its kind says, as `droveway schema KIND` prints it.
#[track_caller]
fn valid(kind: &str, value: &serde_json::Value) {
    let schema = droveway_fleet::schema::of(kind).expect("a schema");
    let schema: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let wrong: Vec<_> = validator.iter_errors(value).map(|it| it.to_string()).collect();
    assert!(wrong.is_empty(), "{kind}: {wrong:?}: {value}");
}

#[test]
fn a_run_is_watched_and_steered_from_another_terminal() {
    let Some(lab) = Lab::up("t-control", "200Mbit/s", &GANG[..2]) else { return };
    let ask = |arguments: &[&str], code: i32, part: &str| {
        let output = droveway(&lab.arguments(arguments));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(part), "{arguments:?} lacks '{part}': {}", said(&output));
    };
    valid("status", &lab.status());
    valid("runs", &printed(&lab, &["runs"]));
    let before = lab.settings("idle", "alpha");
    ask(&["set", "--all", "bandwidth", "50Mbit/s"], 4, "no run moves VMs");

    let drain = ["drain", "alpha", "--to", "beta", "--policy", "pre-copy-serial"];
    let mut run = lab.begins(&[&drain[..], &["--bandwidth", "60Mbit/s"]].concat());
    lab.wait_for("cache", "alpha", "pre-copy");
    wait("figures", || lab.status()["vms"][0]["remainingBytes"].is_u64());
    let status = lab.status();
    valid("status", &status);
    assert_eq!(status["run"]["source"], "alpha", "{status}");
    let listed = printed(&lab, &["runs"]);
    valid("runs", &listed);
    assert_eq!(listed[0]["state"], "active", "{listed}");
    // It has not ended: its journal tells.
    let told = printed(&lab, &["report", "last"]);
    valid("report", &told);
    assert!(told["events"].as_array().is_some_and(|all| !all.is_empty()), "{told}");
    assert_eq!(status["run"]["ports"].as_array().map(Vec::len), Some(4), "{status}");
    ask(&["set", "cache", "bandwidth", "40Mbit/s"], 0, "streams at 5MB/s at most");
    ask(&["set", "cache", "bandwidth", "fast"], 2, "");
    ask(&["set", "cache", "urgency", "high"], 2, "--all");
    ask(&["set", "cahe", "bandwidth", "40Mbit/s"], 2, "did you mean 'cache'?");
    ask(&["switch", "idle"], 4, "does not move yet");
    ask(&["cancel", "idle"], 0, "stays at the source");
    // Nobody but the run's own user and root.
    let mut stranger = command(&lab.arguments(&["switch", "cache"]));
    let refused = stranger.uid(65_534).gid(65_534).output().expect("droveway starts");
    assert_eq!(refused.status.code(), Some(8), "{}", said(&refused));
    let lines = command(&lab.arguments(&["watch"]))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("droveway starts");
    ask(&["switch", "cache"], 0, "switches to post-copy");
    wait("the switch", || {
        let status = lab.status();
        valid("status", &status);
        ["post-copy", "settling", "running"].iter().any(|it| status["vms"][0]["state"] == *it)
    });
    assert_eq!(run.code(), 5, "one VM was told to stay");
    // What was set there for the move is as it was.
    assert_eq!(lab.settings("idle", "alpha"), before);
    let lines = lines.wait_with_output().expect("watch ends with the run");
    assert!(lines.status.success());
    let text = String::from_utf8_lossy(&lines.stdout).into_owned();
    assert!(text.contains("cache") && text.contains("no run is active"), "{text}");
    let report = lab.report();
    assert_eq!(report.vms[0].result, MoveResult::Completed);
    assert_eq!(report.vms[0].fallback_taken, Some(Technique::PostCopy));
    valid("status", &lab.status());
    let listed = printed(&lab, &["runs"]);
    valid("runs", &listed);
    assert_eq!(listed[0]["exitCode"], 5, "{listed}");
    let told = printed(&lab, &["report", "last"]);
    valid("report", &told);
    assert_eq!(told["kind"], "RunReport", "{told}");
    ask(&["runs"], 0, "partly done");
    ask(&["report", "last"], 0, "cache");
}
