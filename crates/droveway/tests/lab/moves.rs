//! Gangs move, in every order, and the report says so.

use crate::harness::{Lab, TestVm, droveway, said};
use droveway_fleet::{RunReport, Technique, report::MoveResult};

const THREE: [TestVm; 3] = [
    TestVm { name: "vm-1", more: "" },
    TestVm { name: "vm-2", more: "allowPostcopy: false" },
    TestVm { name: "vm-3", more: "memoryLoad: { workingSet: 20MiB, writeRate: 2MiB/s }" },
];

/// Spans of the VMs in which their streams used the port.
fn spans(report: &RunReport) -> Vec<(f64, f64)> {
    let span = |vm: &droveway_fleet::report::VmReport| {
        (vm.start_seconds.expect("started"), vm.end_seconds.expect("ended"))
    };
    report.vms.iter().map(span).collect()
}

#[test]
fn a_gang_is_drained_serially_in_parallel_and_with_a_window() {
    let Some(lab) = Lab::up("t-gang", "1Gbit/s", &THREE) else { return };

    let (code, serial) = lab.moves(&["drain", "alpha", "--to", "beta", "--order", "vm-3"]);
    assert_eq!(code, 0, "{:?}", serial.vms);
    assert_eq!(serial.vms[0].name.as_str(), "vm-3", "the order named is the order taken");
    let times = spans(&serial);
    for pair in times.windows(2) {
        assert!(pair[1].0 >= pair[0].1, "serial moves overlap: {times:?}");
        assert!(pair[1].0 - pair[0].1 < 0.5, "serial moves leave the port idle: {times:?}");
    }

    let back = ["drain", "beta", "--to", "alpha", "--policy", "post-copy-parallel"];
    let (code, parallel) = lab.moves(&back);
    assert_eq!(code, 0, "{:?}", parallel.vms);
    let times = spans(&parallel);
    let last_start = times.iter().map(|t| t.0).fold(0.0, f64::max);
    let first_end = times.iter().map(|t| t.1).fold(f64::MAX, f64::min);
    assert!(last_start < first_end, "parallel moves do not overlap: {times:?}");
    for vm in &parallel.vms {
        let expected =
            if vm.name.as_str() == "vm-2" { Technique::PreCopy } else { Technique::PostCopy };
        assert_eq!(vm.technique, expected, "{}", vm.name);
        assert_eq!(vm.exposure_seconds > 0.0, expected == Technique::PostCopy, "{}", vm.name);
        assert!(vm.downtime_seconds.is_some_and(|d| d > 0.0), "{}", vm.name);
    }
    assert!(parallel.decisions.iter().any(|d| d.reason.contains("forbids post-copy")));

    let window =
        ["drain", "alpha", "--to", "beta", "--policy", "pre-copy-parallel", "--max-parallel", "2"];
    let (code, window) = lab.moves(&window);
    assert_eq!(code, 0, "{:?}", window.vms);
    let mut edges: Vec<(f64, i32)> =
        spans(&window).iter().flat_map(|t| [(t.0, 1), (t.1, -1)]).collect();
    edges.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut at_once = 0;
    for (_, change) in edges {
        at_once += change;
        assert!(at_once <= 2, "the window was exceeded: {:?}", spans(&window));
    }

    // Every byte that had to move was counted, by QEMU and on the wire.
    for report in [&serial, &parallel, &window] {
        assert!(report.line_rate_seconds > 0.0);
        let wire = report.wire_bytes.expect("port counters");
        assert!(wire >= report.migrated_bytes, "{wire} on the wire, {}", report.migrated_bytes);
        assert_eq!(report.accelerator == "tcg", !report.remarks.is_empty());
        assert!(report.vms.iter().all(|vm| vm.result == MoveResult::Completed));
    }
}

#[test]
fn a_vm_that_cannot_converge_takes_its_fallback() {
    let vm =
        TestVm { name: "writer", more: "memoryLoad: { workingSet: 60MiB, writeRate: 40MiB/s }" };
    let Some(lab) = Lab::up("t-converge", "200Mbit/s", &[vm]) else { return };
    let limits = ["--max-passes", "3", "--max-downtime", "50ms"];

    let by = ["migrate", "writer", "--to", "beta", "--policy", "pre-copy-serial"];
    let never = ["--allow-postcopy", "never"];
    let (code, report) = lab.moves(&[&by[..], &never[..], &limits[..]].concat());
    assert_eq!(code, 5, "{:?}", report.vms);
    assert_eq!(report.vms[0].result, MoveResult::RolledBack);
    let reason = report.vms[0].reason.clone().expect("a reason");
    assert!(reason.contains("did not converge in 3 passes"), "{reason}");
    assert_eq!(lab.place("writer"), ("alpha".to_owned(), "running".to_owned()));
    assert_eq!(lab.qemu("writer", "beta"), None, "the target is cleaned");

    let (_, report) = lab.moves(&[&by[..], &limits[..]].concat());
    assert_eq!(report.vms[0].result, MoveResult::Completed, "{:?}", report.vms);
    assert_eq!(report.vms[0].fallback_taken, Some(Technique::PostCopy));
    assert!(report.decisions.iter().any(|d| d.choice == "switch to post-copy"));
    assert_eq!(lab.place("writer"), ("beta".to_owned(), "running".to_owned()));
}

#[test]
fn what_cannot_be_done_is_said_before_anything_starts() {
    let Some(lab) = Lab::up("t-check", "1Gbit/s", &THREE[..2]) else { return };
    let check = |arguments: &[&str], code: i32, part: &str| {
        let output = droveway(&lab.arguments(arguments));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(part), "{arguments:?}: '{text}' lacks '{part}'");
        assert_eq!(lab.place("vm-1"), ("alpha".to_owned(), "running".to_owned()));
        assert_eq!(lab.qemu("vm-1", "beta"), None, "{arguments:?} left a target");
    };
    check(&["migrate", "vm-1", "--to", "alpha"], 4, "already on host 'alpha'");
    check(&["migrate", "vm-9", "--to", "beta"], 2, "did you mean 'vm-1'?");
    check(&["drain", "alpah", "--to", "beta"], 2, "did you mean 'alpha'?");
    check(&["drain", "alpha", "--to", "beta", "--policy", "precopy-serial"], 2, "did you mean");
    let forbidden = ["migrate", "vm-2", "--to", "beta", "--technique", "vm-2=post-copy"];
    check(&forbidden, 2, "forbids post-copy");
    check(&["drain", "alpha", "--to", "beta", "--bandwidth", "0"], 2, "write 'unlimited'");

    let dry = ["drain", "alpha", "--to", "beta", "--dry-run", "-o", "json"];
    let output = droveway(&lab.arguments(&dry));
    assert!(output.status.success(), "{}", said(&output));
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a plan");
    assert_eq!(plan["plan"]["moves"].as_array().map(Vec::len), Some(2));
    assert_eq!(plan["plan"]["policy"], "adaptive", "it measures by itself");
    assert_eq!(lab.qemu("vm-1", "beta"), None, "a dry run starts nothing");

    let empty = droveway(&lab.arguments(&["drain", "beta", "--to", "alpha"]));
    assert!(empty.status.success(), "{}", said(&empty));
}
