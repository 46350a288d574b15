//! What the command line says without a lab.

use crate::harness::{droveway, said};

#[track_caller]
fn check(arguments: &[&str], code: i32, parts: &[&str]) {
    let output = droveway(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
    for part in parts {
        assert!(said(&output).contains(part), "{arguments:?}: no '{part}' in {}", said(&output));
    }
}

#[test]
fn usage_errors_have_their_code_and_a_hint() {
    check(&["frobnicate"], 2, &["frobnicate"]);
    check(&["--help"], 0, &["drain", "migrate", "lab"]);
    check(&["--version"], 0, &["droveway"]);
    check(&["--fleet", "/nowhere/fleet.yaml", "status"], 2, &["/nowhere/fleet.yaml", "hint:"]);
    check(&["lab", "up", "/nowhere/scenario.yaml"], 2, &["/nowhere/scenario.yaml"]);
    check(&["schema", "nonsense"], 2, &["scenario, fleet, status, runs, report, plan, suite"]);
    check(&["schema", "scenario"], 0, &["\"$schema\"", "memoryLoad"]);
    check(&["schema", "plan"], 0, &["\"$schema\"", "switchoverLimit"]);
    check(&["policies"], 0, &["pre-copy-parallel", "stop-and-copy"]);
    check(&["policies", "-o", "json"], 0, &["\"name\": \"hybrid-serial\""]);
    check(&["drain", "alpha"], 2, &["--to"]);
    check(&["drain", "--to", "beta"], 2, &["<HOST>"]);
    check(&["policies"], 0, &[":window=", ":ratio="]);
    check(&["policies", "-o", "json"], 0, &["\"parameters\"", "\"default\": \"0.5\""]);
    for option in
        ["--policy=adaptive", "--max-parallel=1", "--deadline=1s", "--order=a", "--floor=0.9"]
    {
        let name = option.split('=').next().expect("a name");
        check(&["drain", "--plan", "p.json", option], 2, &[name, "--plan"]);
    }
    check(&["drain", "a", "--to", "b", "--plan-max-age", "1m"], 2, &["--plan"]);
    check(&["drain", "a", "--to", "b", "--max-downtime", "300"], 2, &["300ms"]);
    check(&["drain", "a", "--to", "b", "--technique", "x=fast"], 2, &["post-copy"]);
}

#[test]
fn a_bad_scenario_names_file_field_and_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bad.yaml");
    let text = "apiVersion: droveway/v1\nkind: Scenario\nmetadata: { name: bad }\nspec:\n  \
                link: { rate: 1Gbit/s }\n  hosts: [ { name: alpha } ]\n  vms:\n    \
                - { name: a, host: alpha, memroy: 512MiB }\n";
    std::fs::write(&path, text).expect("written");
    let path = path.display().to_string();
    check(&["lab", "up", &path], 2, &[&path, "spec.vms[0]", "did you mean 'memory'?"]);
}
