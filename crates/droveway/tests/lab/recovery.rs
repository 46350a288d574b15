//! Promise: a post-copy whose path breaks is paused, and goes on soon after the path's return, by the run itself or by `recover`;
//! nothing is ended and no byte is lost. A QEMU that dies meanwhile takes its VM along, which is said at once.

use crate::{
    harness::{Lab, TestVm, droveway, said, wait},
    memcached::Cache,
};
use droveway_fleet::report::MoveResult;
use std::{
    process::Command,
    time::{Duration, Instant},
};

const GANG: [TestVm; 2] =
    [TestVm { name: "cache", more: "services: [ memcached ]" }, TestVm { name: "idle", more: "" }];
const VALUES: usize = 4 * 1024;
/// Post-copy goes on within this after the path's return.
const SOON: Duration = Duration::from_secs(3);

/// Every queueing discipline of the hosts and of the wires between them.
fn disciplines(lab: &Lab) -> String {
    let machines = ["alpha", "beta", "_switch"].map(|machine| {
        let said =
            Command::new("tc").args(["-n", &lab.namespace(machine), "qdisc", "show"]).output();
        let text = String::from_utf8_lossy(&said.expect("tc").stdout).into_owned();
        assert!(text.contains("qdisc"), "{machine}: {text}");
        // A VM's tap comes and goes with its QEMU.
        let lines = text.lines().filter(|line| !line.contains(" dev tap"));
        lines.collect::<Vec<_>>().join("\n")
    });
    machines.join("\n")
}

fn states(lab: &Lab) -> Vec<String> {
    GANG.iter().map(|vm| lab.place(vm.name).1).collect()
}

fn are(lab: &Lab, wanted: &[&str]) {
    wait(&format!("both {wanted:?}"), || {
        states(lab).iter().all(|state| wanted.contains(&state.as_str()))
    });
}

fn link(lab: &Lab, what: &str, host: &str) {
    let done = droveway(&["lab", "fault", what, host, "--lab", &lab.name]);
    assert!(done.status.success(), "{}", said(&done));
}

fn recover(lab: &Lab, vm: &str, code: i32, part: &str) {
    let report = lab.path("recovered").display().to_string();
    let output = droveway(&lab.arguments(&["recover", vm, "--report", &report]));
    assert_eq!(output.status.code(), Some(code), "recover {vm}: {}", said(&output));
    assert!(said(&output).contains(part), "recover {vm} lacks '{part}': {}", said(&output));
}

fn kill(lab: &Lab, vm: &str, side: &str) {
    let done = droveway(&["lab", "fault", "kill", vm, "--side", side, "--lab", &lab.name]);
    assert!(done.status.success(), "{}", said(&done));
}

#[test]
fn a_broken_post_copy_goes_on_when_the_path_is_back_and_a_dead_qemu_is_told_at_once() {
    let Some(lab) = Lab::up("t-recover", "300Mbit/s", &GANG) else { return };
    let mut cache = Cache::connect(&lab, "cache");
    cache.fill(VALUES);
    let before = disciplines(&lab);
    let drain = |from, to| {
        let how = ["--policy", "post-copy-parallel", "--tuning", "on", "--reserve", "60%"];
        lab.begins(&[&["drain", from, "--to", to][..], &how].concat())
    };

    // By the run itself.
    let mut run = drain("alpha", "beta");
    are(&lab, &["post-copy"]);
    link(&lab, "link-down", "beta");
    let cut = Instant::now();
    are(&lab, &["post-copy-paused", "recovering"]);
    eprintln!("noticed within {:.1} s", cut.elapsed().as_secs_f64());
    recover(&lab, "cache", 0, "is tried at once");
    assert!(cut.elapsed() < Duration::from_secs(10), "{:?}", cut.elapsed());
    link(&lab, "link-up", "beta");
    let back = Instant::now();
    are(&lab, &["post-copy", "settling", "completed", "running"]);
    let took = back.elapsed();
    eprintln!("post-copy of both goes on within {:.2} s of the link's return", took.as_secs_f64());
    assert!(took < SOON, "{took:?}");
    assert_eq!(run.code(), 0);
    for vm in lab.report().vms {
        assert_eq!(vm.result, MoveResult::Completed);
        let paused = vm.phases.iter().any(|span| span.phase == "post-copy-paused");
        assert!(paused, "{} was not paused: {:?}", vm.name, vm.phases);
    }
    cache.verify(VALUES);
    assert_eq!(disciplines(&lab), before);
    recover(&lab, "cache", 4, "needs no recovery: it runs on host 'beta'");

    // By nobody's run: its controller is dead, and so is its journal.
    let mut run = drain("beta", "alpha");
    are(&lab, &["post-copy"]);
    link(&lab, "link-down", "alpha");
    are(&lab, &["post-copy-paused", "recovering"]);
    run.kill();
    forget(&lab);
    link(&lab, "link-up", "alpha");
    for vm in ["cache", "idle"] {
        recover(&lab, vm, 0, "memory is split between hosts 'beta' and 'alpha'");
        assert_eq!(lab.place(vm), ("alpha".to_owned(), "running".to_owned()));
        assert_eq!(lab.qemu(vm, "beta"), None);
    }
    cache.verify(VALUES);

    // One loses its source, the other its target.
    let mut run = drain("alpha", "beta");
    are(&lab, &["post-copy"]);
    kill(&lab, "cache", "source");
    kill(&lab, "idle", "target");
    let died = Instant::now();
    assert_eq!(run.code(), 7);
    assert!(died.elapsed() < Duration::from_secs(6), "{:?}", died.elapsed());
    for vm in lab.report().vms {
        assert_eq!(vm.result, MoveResult::Lost, "{}: {:?}", vm.name, vm.reason);
        assert!(vm.reason.is_some_and(|reason| reason.contains("QEMU died")));
    }
    recover(&lab, "cache", 7, "its source's QEMU is gone");
    recover(&lab, "idle", 7, "its target's QEMU is gone");
}

/// Removes the journal of the lab's runs.
fn forget(lab: &Lab) {
    let root = std::env::var_os("DROVEWAY_STATE")
        .map_or_else(|| "/var/lib/droveway".into(), std::path::PathBuf::from);
    for end in ["db", "db-wal", "db-shm"] {
        let path = root.join("journal").join(format!("{}.{end}", lab.name));
        assert!(std::fs::remove_file(&path).is_ok() || !path.exists(), "{}", path.display());
    }
}
