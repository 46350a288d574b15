use super::ScenarioSpec;
use crate::document;

const GOOD: &str = "
apiVersion: droveway/v1
kind: Scenario
metadata: { name: mixed-2 }
spec:
  link: { rate: 1Gbit/s, queue: 384KiB, discipline: fair }
  hosts: [ { name: alpha }, { name: beta } ]
  clients: [ { name: client } ]
  vms:
    - { name: web-1, host: alpha, memory: 512MiB, vcpus: 1, group: shop, allowPostcopy: true,
        memoryLoad: { workingSet: 100MiB, writeRate: 30MiB/s, hotShare: 0.1, hotWeight: 0.9 },
        services: [ memcached, sysbench-memory ] }
    - { name: db-1, host: alpha, memory: 512MiB, deadline: 60s, maxDowntime: 300ms }
  traffic:
    - { name: pages,  from: web-1,  to: client, kind: tcp, rate: unlimited, flows: 1 }
    - { name: ingest, from: client, to: db-1,   kind: tcp, rate: 300Mbit/s }
    - { name: rpc,    from: web-1,  to: db-1,   kind: tcp, rate: 50Mbit/s }
    - { name: cache,  from: client, to: web-1,  kind: memcached, requests: 2000/s }
    - { name: backup, from: client, to: beta,   kind: tcp, rate: 200Mbit/s }   # a resident of the target
";

/// `GOOD` with one replacement; the error must say each of `parts`.
#[track_caller]
fn check(from: &str, to: &str, parts: &[&str]) {
    assert!(GOOD.contains(from), "the test's text lacks '{from}'");
    let text = GOOD.replacen(from, to, 1);
    let error = document::parse::<ScenarioSpec>(&text, "mixed.yaml").unwrap_err().to_string();
    for part in ["mixed.yaml: "].iter().chain(parts) {
        assert!(error.contains(part), "'{error}' lacks '{part}'");
    }
}

#[test]
fn the_design_s_example_is_a_scenario() {
    let scenario = document::parse::<ScenarioSpec>(GOOD, "mixed.yaml").unwrap();
    assert_eq!(scenario.spec.vms.len(), 2);
    assert!(scenario.spec.vms[1].allow_postcopy);
    let yaml = scenario.to_yaml().unwrap();
    let again = document::parse::<ScenarioSpec>(&yaml, "again").unwrap();
    assert_eq!(again, scenario, "what is written reads back:\n{yaml}");
}

#[test]
fn an_unknown_field_is_refused_with_path_and_suggestion() {
    check(
        "memory: 512MiB, vcpus",
        "memroy: 512MiB, vcpus",
        &["spec.vms[0]", "line 10", "unknown field 'memroy', did you mean 'memory'?"],
    );
    check("discipline: fair", "disciplin: fair", &["spec.link", "did you mean 'discipline'?"]);
}

#[test]
fn bad_values_name_their_field() {
    check(
        "discipline: fair",
        "discipline: fiar",
        &["spec.link.discipline", "did you mean 'fair'?"],
    );
    check("rate: 1Gbit/s", "rate: 1000", &["spec.link.rate", "no unit"]);
    check("rate: 1Gbit/s", "rate: 1Gbps", &["spec.link.rate", "unknown unit 'Gbps'"]);
    check("name: web-1, host", "name: Web, host", &["spec.vms[0].name", "'Web' is not a name"]);
    check("apiVersion: droveway/v1", "apiVersion: droveway/v9", &["apiVersion", "droveway/v9"]);
    check("kind: Scenario", "kind: Fleet", &["this is a Fleet, expected a Scenario"]);
    check(
        "hotShare: 0.1",
        "hotShare: 1.5",
        &["spec.vms[0].memoryLoad.hotShare", "between 0 and 1"],
    );
    check(
        "host: alpha, memory: 512MiB, deadline",
        "memory: 512MiB, deadline",
        &["'host' is missing"],
    );
}

#[test]
fn names_must_fit_together() {
    check(
        "name: db-1, host: alpha",
        "name: db-1, host: alpah",
        &["spec.vms[1].host: there is no host 'alpah', did you mean 'alpha'?"],
    );
    check(
        "to: client, kind",
        "to: cleint, kind",
        &["spec.traffic[0].to", "did you mean 'client'?"],
    );
    check("name: beta", "name: alpha", &["the name 'alpha' is used twice"]);
    check(", requests: 2000/s", "", &["spec.traffic[3].requests: is missing"]);
    check("rate: 300Mbit/s", "rate: 300Mbit/s, requests: 5/s", &["spec.traffic[1].requests"]);
    check("memcached, sysbench-memory", "sysbench-memory", &["spec.traffic[3].to", "memcached"]);
    let share = "deadline: 60s, computeShare: 0.1";
    check("deadline: 60s", share, &["spec.vms[1].computeShare", "sysbench-cpu"]);
    let share = "[ memcached, sysbench-memory ], computeShare: 0.001";
    check("[ memcached, sysbench-memory ]", share, &["spec.vms[0].computeShare", "at least"]);
    check("workingSet: 100MiB", "workingSet: 500MiB", &["three quarters"]);
    check("memory: 512MiB, deadline", "memory: 16MiB, deadline", &["at least 128MiB"]);
}

/// `GOOD` with this change; the error must say each of `parts`.
#[track_caller]
fn check_change(change: &str, parts: &[&str]) {
    let text = format!("{GOOD}  changes: [ {{ at: 2s, {change} }} ]\n");
    match document::parse::<ScenarioSpec>(&text, "mixed.yaml") {
        Ok(scenario) => {
            assert!(parts.is_empty(), "'{change}' is no error");
            let what = scenario.spec.changes[0].what().expect("a checked change");
            let again = super::ScenarioChange::of(scenario.spec.changes[0].at, what);
            assert_eq!(again, scenario.spec.changes[0]);
            let yaml = scenario.to_yaml().unwrap();
            assert_eq!(document::parse::<ScenarioSpec>(&yaml, "again").unwrap(), scenario);
        }
        Err(error) => {
            let error = error.to_string();
            assert!(!parts.is_empty(), "'{change}': {error}");
            for part in ["spec.changes[0]"].iter().chain(parts) {
                assert!(error.contains(part), "'{error}' lacks '{part}'");
            }
        }
    }
}

#[test]
fn a_change_tells_one_thing_and_whole() {
    check_change("reverse: pages", &[]);
    check_change("traffic: ingest, rate: 10Mbit/s", &[]);
    check_change("vm: db-1, workingSet: 60MiB, writeRate: 30MiB/s", &[]);
    check_change("linkRate: 100Mbit/s", &[]);
    check_change("linkRate: 100Mbit/s, host: beta", &[]);
    check_change("linkDown: 3s, host: alpha", &[]);

    check_change("host: alpha", &["one change"]);
    check_change("linkDown: 3s", &["one change"]);
    check_change("traffic: ingest", &["one change"]);
    check_change("reverse: pages, linkRate: 100Mbit/s", &["one change"]);
    check_change("reverse: page", &[".reverse", "did you mean 'pages'?"]);
    check_change("reverse: cache", &["cannot change so"]);
    check_change("vm: db-2, workingSet: 1MiB, writeRate: 1MiB/s", &[".vm", "'db-1'"]);
    check_change("vm: web-1, workingSet: 300MiB, writeRate: 1MiB/s", &["three quarters"]);
    check_change("linkRate: 100kbit/s", &[".linkRate", "1Mbit/s"]);
    check_change("linkRate: 100Mbit/s, host: gamma", &[".host", "no host 'gamma'"]);
}
