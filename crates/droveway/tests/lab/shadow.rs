//! Promise: `--observe-only` says what Droveway would do while another tool moves VMs, and changes nothing.

use crate::{
    harness::{Lab, TestVm, droveway, said, wait},
    network::ports,
};
use droveway_fleet::{Host, report::MoveResult};
use droveway_host::{netns::Netns, qemu};
use droveway_qmp::{
    Capability, Client, MigrationStatus, MigrationUri, QmpAddress, QmpError, RunState,
};
use nix::sys::signal::Signal;
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

const GANG: [TestVm; 2] = [
    TestVm { name: "idle", more: "" },
    TestVm { name: "writer", more: "memoryLoad: { workingSet: 24MiB, writeRate: 40MiB/s }" },
];
const PATIENCE: Duration = Duration::from_secs(20);

fn socket(lab: &Lab, vm: &str, host: &str) -> QmpAddress {
    let fleet = lab.fleet();
    let instance = &fleet.spec.vm(vm).expect("the VM").instances[host];
    QmpAddress::unix(PathBuf::from(instance.qmp.trim_start_matches("unix:")))
}

/// Asks one monitor one thing, as a tool that keeps no connection does: there is one client at a time.
async fn ask<T>(address: &QmpAddress, what: impl AsyncFnOnce(&Client) -> Result<T, QmpError>) -> T {
    let client = Client::connect(address, PATIENCE).await.expect("its turn at the monitor");
    what(&client).await.expect("an answer")
}

/// Another tool: starts a target, sends the VM, and waits until it runs there. One that could split the VM's memory does so when it is
/// told to.
async fn another_tool_moves(
    lab: &Lab,
    vm: &str,
    port: u16,
    splits_when: Option<&dyn Fn() -> bool>,
) {
    let fleet = lab.fleet();
    let beta: &Host = fleet.spec.host("beta").expect("the host");
    let launch = fleet.spec.vm(vm).expect("the VM").instances["beta"].launch.clone();
    let netns = Netns::named(&lab.namespace("beta")).expect("a namespace");
    qemu::start_target(&netns, &launch.expect("a recipe"), "another-tool").expect("it starts");
    let (source, target) = (socket(lab, vm, "alpha"), socket(lab, vm, "beta"));
    if splits_when.is_some() {
        for side in [&source, &target] {
            let on = [(Capability::PostcopyRam, true)];
            ask(side, async |client| client.set_capabilities(&on).await).await;
        }
    }
    let uri = MigrationUri::tcp(beta.migration_address.to_string(), port);
    ask(&target, async |client| client.migrate_incoming(&uri).await).await;
    ask(&source, async |client| client.migrate(&uri).await).await;
    if let Some(is_time) = splits_when {
        wait("a word from who watches", is_time);
        ask(&source, async |client| client.migrate_start_postcopy().await).await;
    }
    let patience = Instant::now() + 3 * PATIENCE;
    loop {
        let status = ask(&source, async |client| client.migration().await).await.status;
        let state = ask(&target, async |client| client.status().await).await.state;
        if status == MigrationStatus::Completed && state == RunState::Running {
            return;
        }
        assert!(Instant::now() < patience, "{vm}: {status}, {state}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[test]
fn what_another_tool_moves_is_watched_and_left_alone() {
    let Some(lab) = Lab::up("t-shadow", "250Mbit/s", &GANG) else { return };
    let settings = || GANG.map(|vm| lab.settings(vm.name, "alpha"));
    let before = (ports(&lab), settings());
    let said_so_far = || fs::read_to_string(lab.path("stderr")).unwrap_or_default();
    let observe = ["drain", "alpha", "--to", "beta", "--observe-only", "--urgency", "high"];
    let begins = || {
        let run = lab.begins(&observe);
        wait("somebody who watches", || said_so_far().contains("observing only"));
        run
    };

    // Nobody moves anything: whoever has seen enough is told so.
    let mut run = begins();
    assert!(lab.status()["run"].is_null(), "who only watches is no run");
    run.signal(Signal::SIGINT);
    assert_eq!(run.code(), 130);
    let report = lab.report();
    assert!(report.vms.iter().all(|vm| vm.result == MoveResult::NotStarted), "{:?}", report.vms);

    let mut run = begins();
    // With a thread that lets go of monitors while this one does other things.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    // It writes more than the port carries: pre-copy alone would never end, and whoever watches says what would.
    let would_split = || said_so_far().contains("writer post-copy, not pre-copy");
    runtime.block_on(another_tool_moves(&lab, "writer", 49200, Some(&would_split)));
    assert_eq!(ports(&lab), before.0, "a port was changed");
    runtime.block_on(another_tool_moves(&lab, "idle", 49201, None));
    let (code, report) = (run.code(), lab.report());
    assert_eq!(code, 0, "{:?}", report.vms);
    let after = settings();
    assert_eq!((ports(&lab), &after[0]), (before.0, &before.1[0]), "something was changed");
    let [(_, mut asked), (_, is)] = [&before.1[1], &after[1]].map(|it| it.clone());
    asked.0.insert(Capability::PostcopyRam, true);
    assert_eq!(is, asked, "more than the other tool asked for was changed");
    for vm in ["idle", "writer"] {
        assert_eq!(lab.place(vm), ("beta".to_owned(), "running".to_owned()));
        assert!(lab.qemu(vm, "alpha").is_some(), "{vm}: its source is the other tool's to end");
    }

    assert_eq!(report.policy, "another-tool");
    let time = |name: &str| {
        let vm = report.vms.iter().find(|vm| vm.name.as_str() == name).expect("the VM");
        assert_eq!(vm.result, MoveResult::Completed, "{vm:?}");
        assert!(vm.migrated_bytes > 4 << 20 && vm.passes >= 1, "{vm:?}");
        assert!(vm.qemu_downtime_seconds.is_some() && vm.downtime_seconds.is_none(), "{vm:?}");
        (vm.start_seconds.expect("a start"), vm.end_seconds.expect("an end"))
    };
    let ((first, left), (second, end)) = (time("writer"), time("idle"));
    assert!(first < left && left <= second && second < end, "{first} {left} {second} {end}");
    let writer = report.vms.iter().find(|vm| vm.name.as_str() == "writer").expect("the VM");
    assert!(writer.technique.exposes() && writer.exposure_seconds > 0.0, "{writer:?}");
    let told = |part: &str| report.decisions.iter().any(|it| it.reason.contains(part));
    assert!(told("writer was begun") && told("writer was switched"), "{:?}", report.decisions);
    let would = report.remarks.iter().find(|text| text.contains("Droveway would have moved"));
    assert!(would.is_some_and(|text| text.contains("its forecast")), "{:?}", report.remarks);

    // They are at beta now: to be drained as ever, by who does not only watch.
    let output = droveway(&lab.arguments(&["drain", "beta", "--to", "alpha", "--dry-run"]));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}
