//! The suite that CI runs, and one whose world changes: from a suite to a report, on real VMs.

use crate::harness::{droveway, in_turn, said};
use std::{fs, path::Path};

#[test]
fn the_smoke_suite_is_run_reported_and_not_run_twice() {
    let Some(_turn) = in_turn() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out").display().to_string();
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../suites/smoke.yaml");
    let suite = suite.display().to_string();
    let run = droveway(&["bench", "run", &suite, "--out", &out]);
    // 5: on a busy machine runs do not count, which is told and no failure of the bench.
    assert!([Some(0), Some(5)].contains(&run.status.code()), "{}", said(&run));
    let read = |name: &str| {
        fs::read_to_string(Path::new(&out).join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let runs = read("runs.csv");
    for policy in ["pre-copy-serial", "post-copy-serial", "adaptive"] {
        assert!(runs.contains(&format!(",{policy},")), "{runs}");
    }
    assert!(
        read("report.html").contains("Where ours loses")
            && read("report.md").contains("## Summary")
    );
    let results: serde_json::Value = serde_json::from_str(&read("results.json")).expect("JSON");
    for result in results["results"].as_array().expect("results") {
        for attempt in result["attempts"].as_array().expect("attempts") {
            // The way back worked: every run found its VM at the source and moved it.
            assert_eq!(attempt["run"]["completed"], 1, "{attempt}");
        }
    }

    let again = droveway(&["bench", "run", &suite, "--out", &out]);
    assert_eq!(again.status.code(), Some(2), "{}", said(&again));
    let resumed = droveway(&["bench", "run", &suite, "--out", &out, "--resume"]);
    assert_eq!(resumed.status.code(), run.status.code(), "{}", said(&resumed));
    assert_eq!(read("runs.csv"), runs, "nothing was left to run");
    assert!(droveway(&["lab", "down", "bench-smoke-1"]).status.success());
}

/// The same VM with its ports as they are, and at a quarter of their rate after half a second.
const CHANGING: &str = "apiVersion: droveway/v1\nkind: Suite\nmetadata: { name: changing }\nspec:\n  \
     stage: lab\n  repeats: 1\n  warmUp: 0\n  retries: 0\n  settle: 1s\n  measure: 1s\n  policies: [ { policy: pre-copy-serial } ]\n  \
     scenarios:\n    \
     - name: t-calm\n      spec:\n        link: { rate: 200Mbit/s }\n        \
     hosts: [ { name: alpha }, { name: beta } ]\n        clients: [ { name: client } ]\n        \
     vms: [ { name: one, host: alpha, memory: 128MiB } ]\n    \
     - name: t-slower\n      spec:\n        link: { rate: 200Mbit/s }\n        \
     hosts: [ { name: alpha }, { name: beta } ]\n        clients: [ { name: client } ]\n        \
     vms: [ { name: one, host: alpha, memory: 128MiB } ]\n        changes: [ { at: 500ms, linkRate: 50Mbit/s } ]\n";

#[test]
fn a_suite_s_changes_are_made_from_the_first_move_on() {
    let Some(_turn) = in_turn() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (suite, out) = (folder.path().join("changing.yaml"), folder.path().join("out"));
    fs::write(&suite, CHANGING).expect("a suite");
    let (suite, out) = (suite.display().to_string(), out.display().to_string());
    let run = droveway(&["bench", "run", &suite, "--out", &out]);
    assert!([Some(0), Some(5)].contains(&run.status.code()), "{}", said(&run));
    let attempt = |scenario: &str, file: &str| {
        let folder = Path::new(&out).join("cells").join(scenario);
        let path = folder.join("pre-copy-serial@medium/1/1").join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let seconds = |scenario: &str| {
        let report: serde_json::Value =
            serde_json::from_str(&attempt(scenario, "report.json")).expect("JSON");
        report["totalMigrationTimeSeconds"].as_f64().expect("a time")
    };
    let said = attempt("t-slower", "changes.txt");
    assert!(said.contains("every port carries 50Mbit/s"), "{said}");
    let (calm, slower) = (seconds("t-calm"), seconds("t-slower"));
    assert!(slower > 2.0 * calm, "{calm} s, and at a quarter of the rate {slower} s");
    for lab in ["bench-t-calm", "bench-t-slower"] {
        let down = droveway(&["lab", "down", lab]);
        assert!(
            String::from_utf8_lossy(&down.stdout).contains("nothing to remove"),
            "{lab} stayed"
        );
    }
}
