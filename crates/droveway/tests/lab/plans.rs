//! What was planned from measurements is what is done.

use crate::harness::{Lab, TestVm, command, droveway, said};
use droveway_fleet::{Technique, report::MoveResult};
use serde_json::Value;

const GANG: [TestVm; 3] = [
    TestVm { name: "vm-1", more: "" },
    TestVm { name: "vm-2", more: "allowPostcopy: false" },
    TestVm { name: "vm-3", more: "memoryLoad: { workingSet: 20MiB, writeRate: 2MiB/s }" },
];

#[test]
fn a_plan_says_why_and_is_what_a_drain_does() {
    let Some(lab) = Lab::up("t-plan", "400Mbit/s", &GANG) else { return };

    // Without a measurement there is nothing to plan from.
    let blind = ["drain", "alpha", "--to", "beta", "--policy", "slamig"];
    let mut blind = command(&lab.arguments(&blind));
    let output = blind.env("DROVEWAY_STATE", lab.path("nothing")).output().expect("it starts");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("decides from measurements"), "{}", said(&output));

    let asked = ["plan", "drain", "alpha", "--to", "beta", "--measure", "2s", "-o", "json"];
    let output = droveway(&lab.arguments(&asked));
    assert!(output.status.success(), "{}", said(&output));
    let shown: Value = serde_json::from_slice(&output.stdout).expect("a plan");
    assert_eq!(shown["plan"]["policy"], "adaptive");
    let why = shown["reasoning"]["why"].as_array().expect("reasons");
    assert_eq!(why.len(), 3);
    assert!(shown["reasoning"]["gap"].as_f64().is_some_and(|gap| gap <= 1.0));
    assert!(shown["forecast"]["totalSeconds"]["p50"].as_f64().is_some_and(|time| time > 1.0));
    assert_eq!(lab.qemu("vm-1", "beta"), None, "a plan starts nothing");

    // What cannot be done in time is not begun.
    let hurried = ["--policy", "adaptive", "--deadline", "200ms"];
    let drain = ["drain", "alpha", "--to", "beta"];
    let output = droveway(&lab.arguments(&[&drain[..], &hurried[..]].concat()));
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("impossible"), "{}", said(&output));
    assert_eq!(lab.qemu("vm-1", "beta"), None, "it began nevertheless");

    // The last measurement is fresh enough to be planned from again.
    let (code, report) = lab.moves(&[&drain[..], &["--policy", "adaptive"]].concat());
    assert_eq!(code, 0, "{:?}", report.vms);
    assert!(report.vms.iter().all(|vm| vm.result == MoveResult::Completed));
    let forbidding = report.vms.iter().find(|vm| vm.name.as_str() == "vm-2").expect("vm-2");
    assert_eq!(forbidding.technique, Technique::PreCopy);
    for vm in &report.vms {
        let decision = report.decisions.iter().find(|d| d.vm.as_ref() == Some(&vm.name));
        assert_eq!(decision.map(|d| d.choice.as_str()), Some(vm.technique.name()), "{}", vm.name);
    }
    assert!(report.predicted.is_some());

    // One VM after another that it has to wait for.
    let back = ["drain", "beta", "--to", "alpha", "--policy", "improved-serial", "--measure", "1s"];
    let (code, report) = lab.moves(&back);
    assert_eq!(code, 0, "{:?}", report.vms);
    for pair in report.vms.windows(2) {
        let (first, second) = (pair[0].end_seconds, pair[1].start_seconds);
        assert!(second >= first, "{:?}", report.vms);
    }
}
