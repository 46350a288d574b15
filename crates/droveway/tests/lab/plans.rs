//! What was planned from measurements is what is done.

use crate::harness::{Lab, TestVm, command, droveway, said};
use droveway_fleet::{Technique, report::MoveResult};
use serde_json::Value;
use std::{fs, io::Write as _, path::Path, process::Stdio};

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
    assert_eq!(shown["moves"].as_array().map(Vec::len), Some(3), "the table's rows");
    for row in shown["moves"].as_array().into_iter().flatten() {
        assert!(row["startSeconds"].is_number() && row["lostBytes"]["p90"].is_number(), "{row}");
    }
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
    // A plan says so as well, once it has shown what comes nearest.
    let plan = ["plan", "drain", "alpha", "--to", "beta", "--deadline", "200ms"];
    let output = droveway(&lab.arguments(&plan));
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("vm-1") && shown.contains("applications lose"), "{shown}");
    assert!(said(&output).contains("impossible"), "{}", said(&output));

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

/// Runs a drain by a plan's file and expects a refusal.
#[track_caller]
fn refused(lab: &Lab, arguments: &[&str], code: i32, parts: &[&str]) {
    let output = droveway(&lab.arguments(arguments));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
    for part in parts {
        assert!(said(&output).contains(part), "{arguments:?}: no '{part}' in {}", said(&output));
    }
}

fn edited(from: &Path, to: &Path, change: impl FnOnce(&mut Value)) -> String {
    let text = fs::read_to_string(from).expect("a plan");
    let mut shown: Value = serde_json::from_str(&text).expect("a plan");
    change(&mut shown["plan"]);
    // Bare, as somebody would keep it.
    fs::write(to, shown["plan"].to_string()).expect("written");
    to.display().to_string()
}

#[test]
fn a_plan_from_a_file_is_done_exactly_and_once() {
    let Some(lab) = Lab::up("t-planfile", "400Mbit/s", &GANG) else { return };
    let file = lab.path("plan.json");
    let text = file.display().to_string();
    let asked = ["plan", "drain", "alpha", "--to", "beta", "--measure", "3s", "-o", "json"];
    // What is planned by one policy is not what the default would do.
    let asked = [&asked[..], &["--policy", "direction-greedy:window=3s", "--max-parallel", "2"]];
    let output = droveway(&lab.arguments(&asked.concat()));
    assert!(output.status.success(), "{}", said(&output));
    fs::write(&file, &output.stdout).expect("written");
    let shown: Value = serde_json::from_slice(&output.stdout).expect("a plan");
    assert_eq!(shown["plan"]["kind"], "Plan");
    assert_eq!(shown["plan"]["snapshotMaxAge"], "10m");

    // Why, in a paragraph.
    let why = ["plan", "drain", "alpha", "--to", "beta", "--explain", "vm-1", "-o", "json"];
    let output = droveway(&lab.arguments(&why));
    assert!(output.status.success(), "{}", said(&output));
    let explained: Value = serde_json::from_slice(&output.stdout).expect("a plan");
    let paragraph = explained["explanation"]["text"].as_str().expect("a text");
    assert!(paragraph.starts_with("vm-1 goes by "), "{paragraph}");
    refused(&lab, &["plan", "drain", "alpha", "--to", "beta", "--explain", "vm-11"], 2, &["vm-1"]);

    // Nothing else may be asked for beside it, and what is in it has to hold.
    let by_plan = ["drain", "--plan", text.as_str()];
    refused(&lab, &[&by_plan[..], &["--policy", "adaptive"]].concat(), 2, &["--policy"]);
    refused(&lab, &["drain", "beta", "--plan", &text], 2, &["leaves host 'alpha'"]);
    let aged = [&by_plan[..], &["--plan-max-age", "1ms"]].concat();
    refused(&lab, &aged, 4, &["snapshot is", "plan again", "nothing was started"]);
    let other = lab.path("other.json");
    let fast = |plan: &mut Value| plan["moves"][0]["switchoverBandwidth"] = "10Gbit/s".into();
    let fast = edited(&file, &other, fast);
    refused(&lab, &["drain", "--plan", &fast], 4, &["more than the port carries"]);
    let split = |plan: &mut Value| {
        let vm_2 = |step: &&mut Value| step["vm"] == "vm-2";
        let step = plan["moves"].as_array_mut().expect("moves").iter_mut().find(vm_2);
        step.expect("vm-2")["technique"] = "post-copy".into();
    };
    let split = edited(&file, &other, split);
    refused(&lab, &["drain", "--plan", &split], 4, &["'vm-2' forbids post-copy"]);
    let paused = edited(&file, &other, |plan| plan["paused"] = vec!["vm-1"].into());
    refused(&lab, &["drain", "--plan", &paused], 4, &["'vm-1' runs, but was paused"]);
    let misspelt = edited(&file, &other, |plan| plan["maxExpose"] = 1.into());
    refused(&lab, &["drain", "--plan", &misspelt], 2, &["did you mean 'maxExposed'?"]);
    assert_eq!(lab.qemu("vm-1", "beta"), None, "a refused plan starts nothing");

    let (code, report) = lab.moves(&by_plan);
    assert_eq!(code, 0, "{:?}", report.vms);
    assert_eq!(report.policy, "direction-greedy:window=3s");
    let planned = shown["plan"]["moves"].as_array().expect("moves");
    for (vm, step) in report.vms.iter().zip(planned) {
        assert_eq!(vm.result, MoveResult::Completed);
        assert_eq!(
            (vm.name.as_str(), vm.technique.name()),
            (step["vm"].as_str().expect("a name"), step["technique"].as_str().expect("a name"),)
        );
    }
    let id = shown["plan"]["id"].as_str().expect("an id");
    assert!(report.decisions.iter().any(|decision| decision.choice.contains(id)));

    // They are not at the source any more.
    refused(&lab, &by_plan, 4, &["'vm-1' is at the target already", "plan again"]);
    assert_eq!(lab.place("vm-1"), ("beta".to_owned(), "running".to_owned()));

    // Back, by a plan from standard input; it replaces one that is refused from then on.
    let back = ["plan", "drain", "beta", "--to", "alpha", "--policy", "pre-copy-parallel"];
    let output = droveway(&lab.arguments(&[&back[..], &["-o", "json"]].concat()));
    fs::write(&file, &output.stdout).expect("written");
    let child = edited(&file, &other, |plan| {
        plan["parent"] = plan["id"].clone();
        plan["id"] = "child".into();
        plan["generation"] = 1.into();
    });
    let child = fs::read_to_string(child).expect("a plan");
    let arguments = ["drain", "beta", "--to", "alpha", "--plan", "-"];
    let mut run = command(&lab.arguments(&arguments));
    let run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = run.current_dir(lab.path("")).spawn().expect("it starts");
    run.stdin.take().expect("a pipe").write_all(child.as_bytes()).expect("written");
    let output = run.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(lab.place("vm-1"), ("alpha".to_owned(), "running".to_owned()));
    refused(&lab, &by_plan, 4, &["generation 1 has replaced it"]);
}
