//! A lab with a real guest: it boots, answers and is seen; what a controller started for it is removed with it.
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

mod support;

use droveway_fleet::{document, fleet::FleetSpec};
use droveway_host::{Netns, qemu};
use droveway_lab::{LabOptions, status, up};
use std::{path::Path, time::Duration};
use support::{Root, laboratory, scenario, skip};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_vm_boots_and_goes_with_its_lab() {
    let Some(_turn) = laboratory("a_vm_boots_and_goes_with_its_lab") else { return };
    let target = std::env::var("CARGO_TARGET_DIR")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../target").to_owned());
    let image = Path::new(&target).join("guest-image");
    if !image.join("initrd.gz").is_file() {
        return skip("a_vm_boots_and_goes_with_its_lab", "no guest image: cargo xtask guest-image");
    }
    let root = Root::new();
    let options = LabOptions { image, ..root.options() };
    let mut scenario = root.named(&scenario("vm", "rate: 1Gbit/s"));
    let vm = "{ name: one, host: alpha, memory: 128MiB, \
              memoryLoad: { workingSet: 16MiB, writeRate: 1MiB/s } }";
    let text = scenario.to_yaml().unwrap().replace("vms: []", &format!("vms: [ {vm} ]"));
    scenario = document::parse(&text, "scenario").unwrap();
    let lab = up(&scenario, &options, &mut |line| println!("{line}")).unwrap();
    // The stand-ins of the traffic's runners end at once, but when is theirs: only QEMU stays.
    let deadline = std::time::Instant::now() + SOON;
    let mut seen = status(&lab).unwrap();
    while seen.processes > 1 && std::time::Instant::now() < deadline {
        seen = status(&lab).unwrap();
    }
    println!("{}", serde_json::to_string(&seen).unwrap());
    assert_eq!(seen.vms[0].state, "running");
    assert_eq!(seen.vms[0].host.as_deref(), Some("alpha"));
    assert_eq!(seen.processes, 1);

    // As a controller does for a migration's target.
    let text = std::fs::read_to_string(&lab.fleet_file).unwrap();
    let fleet = document::parse::<FleetSpec>(&text, "fleet.yaml").unwrap().spec;
    let netns = Netns::of(fleet.host("beta").unwrap().netns.as_deref()).unwrap();
    let launch = fleet.vms[0].instances["beta"].launch.clone().unwrap();
    let socket = qemu::qmp_socket(&launch.argv).unwrap();
    let pid = qemu::start(&netns, &launch, qemu::INCOMING_DEFER).unwrap();
    let deadline = std::time::Instant::now() + SOON;
    while !socket.exists() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(qemu::find_by_qmp_socket(&socket), Some(pid));
    let seen = status(&lab).unwrap();
    assert_eq!(seen.vms[0].host.as_deref(), Some("alpha"), "it still runs where it did");
    assert_eq!(seen.processes, 2);

    root.down("vm");
    assert_eq!(qemu::find_by_qmp_socket(&socket), None);
    root.assert_nothing_left();
}

#[test]
fn a_vm_that_cannot_start_is_an_error_and_leaves_nothing() {
    let Some(_turn) = laboratory("a_vm_that_cannot_start_is_an_error_and_leaves_nothing") else {
        return;
    };
    if !Path::new("/usr/bin/qemu-system-x86_64").exists() {
        return skip(
            "a_vm_that_cannot_start_is_an_error_and_leaves_nothing",
            "qemu-system-x86_64 is not installed",
        );
    }
    let root = Root::new();
    let image = root.path().join("image");
    std::fs::create_dir_all(&image).unwrap();
    for name in ["vmlinuz", "initrd.gz"] {
        std::fs::write(image.join(name), "no kernel").unwrap();
    }
    let mut scenario = root.named(&scenario("bad", "rate: 1Gbit/s"));
    let vm = "{ name: one, host: alpha, memory: 128MiB }";
    let text = scenario.to_yaml().unwrap().replace("vms: []", &format!("vms: [ {vm} ]"));
    scenario = document::parse(&text, "scenario").unwrap();
    let error = up(&scenario, &root.options(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().starts_with("VM 'one' ended while it booted"), "{error}");
    assert!(error.to_string().contains("kernel"), "QEMU's own words: {error}");
    root.assert_nothing_left();
}
