//! The suite that CI runs: from a suite to a report, on real VMs.

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
