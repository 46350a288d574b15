use super::*;
use droveway_fleet::document;

const GOOD: &str = "
apiVersion: droveway/v1
kind: Suite
metadata: { name: small }
spec:
  stage: lab
  seed: 3
  repeats: 3
  limits: { maxDowntime: 200ms, maxPasses: 10 }
  scenarios:
    - name: a
      labels: { traffic: outgoing, end: source }
      spec:
        link: { rate: 200Mbit/s }
        hosts: [ { name: alpha }, { name: beta } ]
        clients: [ { name: client } ]
        vms: [ { name: one, host: alpha, memory: 128MiB } ]
        traffic: [ { name: out, from: one, to: client, kind: tcp, rate: 20Mbit/s } ]
    - name: b
      file: other.yaml
    - name: c
      gang: { link: { rate: 10Gbit/s }, vms: 120, memory: 512MiB,
              sending: { share: 0.5, rate: 20Mbit/s }, writing: { share: 25%, workingSet: 64MiB, writeRate: 5MiB/s } }
  policies:
    - { policy: pre-copy-serial, intents: [ medium ] }
    - { policy: solive, tuning: on }
    - { name: ours, policy: 'adaptive:seed=2', reserve: off }
  intents:
    - { name: medium }
    - { name: soon, urgency: high, deadline: 30s, floor: 0.5 }
";

fn suite() -> Suite {
    document::parse(GOOD, "small.yaml").unwrap()
}

/// The suite of these tests, its file read.
pub(crate) fn resolved() -> Resolved {
    let spec = suite().spec.scenarios[0].spec.clone().unwrap();
    let name: DocumentName = "other".parse().unwrap();
    resolve(suite(), "small.yaml", |file| {
        assert_eq!(file, "other.yaml");
        Ok(Document::new(name.clone(), spec.clone()))
    })
    .unwrap()
}

/// `GOOD` with one replacement; the error must say each of `parts`.
#[track_caller]
fn refused(from: &str, to: &str, parts: &[&str]) {
    assert!(GOOD.contains(from), "the test's text lacks '{from}'");
    let text = GOOD.replacen(from, to, 1);
    let error = document::parse::<SuiteSpec>(&text, "small.yaml").unwrap_err().to_string();
    for part in ["small.yaml: "].iter().chain(parts) {
        assert!(error.contains(part), "'{error}' lacks '{part}'");
    }
}

#[test]
fn a_suite_is_read_resolved_and_reads_back() {
    let resolved = resolved();
    let spec = &resolved.suite.spec;
    assert!(spec.scenarios.iter().all(|it| it.spec.is_some() && it.file.is_none()));
    let gang = spec.scenarios[2].spec.as_ref().unwrap();
    assert_eq!((gang.vms.len(), gang.traffic.len()), (120, 60));
    assert_eq!(gang.vms.iter().filter(|vm| vm.memory_load.is_some()).count(), 30);
    // Five arms (one, two, two) of three scenarios, thrice.
    assert_eq!(spec.runs(), 3 * 5 * 3);
    let yaml = resolved.suite.to_yaml().unwrap();
    let again = document::parse::<SuiteSpec>(&yaml, "again").unwrap();
    assert_eq!(Resolved { suite: again }, resolved, "what is written reads back:\n{yaml}");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    refused("repeats: 3", "repeets: 3", &["spec", "did you mean 'repeats'?"]);
    refused("repeats: 3", "repeats: 0", &["spec.repeats", "from 1"]);
    refused("stage: lab", "stage: lbb", &["spec.stage", "did you mean 'lab'?"]);
    refused("policy: solive", "policy: solvie", &["spec.policies[1]", "did you mean 'solive'?"]);
    refused("name: ours, ", "", &["spec.policies[2]", "a name of its own"]);
    refused("name: ours", "name: solive", &["spec.policies[2].name", "used twice"]);
    refused("[ medium ]", "[ medum ]", &["spec.policies[0].intents", "did you mean 'medium'?"]);
    refused("urgency: high", "urgency: hihg", &["spec.intents[1].urgency", "critical"]);
    refused("file: other.yaml", "labels: {}", &["spec.scenarios[1]", "write one of: file"]);
    refused("vms: 120", "vms: 5000", &["spec.scenarios[2].gang.vms", "from 1 to 1000"]);
    refused("stage: lab", "stage: simulator", &["spec.intents[1].floor", "no effect"]);
    refused(
        "host: alpha, memory",
        "host: alhpa, memory",
        &["spec.scenarios[0].spec.vms[0].host", "did you mean 'alpha'?"],
    );
    refused("maxDowntime: 200ms", "maxDowtime: 200ms", &["did you mean 'maxDowntime'?"]);
}

#[test]
fn a_file_that_does_not_read_is_named() {
    let error = resolve(suite(), "small.yaml", |_| Err("gone".to_owned())).unwrap_err();
    assert_eq!(error.to_string(), "small.yaml: spec.scenarios[1].file: gone");
}

#[test]
fn a_changed_suite_is_told_by_what_changed() {
    let one = resolved();
    assert_eq!(one.differs(&one.clone()), None);
    let changed = |change: &dyn Fn(&mut SuiteSpec)| {
        let mut other = one.clone();
        change(&mut other.suite.spec);
        one.differs(&other).unwrap()
    };
    assert_eq!(changed(&|spec| spec.repeats = 9), "repeats or seed");
    assert_eq!(changed(&|spec| spec.policies[1].tuning = Switch::Off), "its policies");
    assert_eq!(changed(&|spec| spec.warm_up = 9), "its settings");
    assert_eq!(changed(&|spec| drop(spec.scenarios.pop())), "which scenarios it has");
    assert_eq!(
        changed(&|spec| spec.scenarios[0].spec.as_mut().unwrap().vms[0].vcpus = 2),
        "a scenario"
    );
}

/// `UPDATE_SCHEMAS=1 cargo test -p droveway-bench` writes it anew.
#[test]
fn the_committed_schema_is_current() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/suite.schema.json");
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        std::fs::write(&path, schema()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == schema(), "suite.schema.json is stale: run with UPDATE_SCHEMAS=1");
}

/// Suites that ship can be run.
#[test]
fn suites_that_ship_are_sound() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../suites");
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        let suite: Suite =
            document::parse(&text, &origin).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Some(suite.metadata.name.as_str()), path.file_stem().and_then(|it| it.to_str()));
        let read = |file: &str| -> Result<Scenario, String> {
            let path = path.with_file_name(file);
            let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
            document::parse(&text, file).map_err(|error| error.to_string())
        };
        let resolved = resolve(suite, &origin, read).unwrap_or_else(|error| panic!("{error}"));
        assert!(resolved.suite.spec.question.is_some(), "{origin} says what it is to find out");
        seen.push(resolved.suite.metadata.name.to_string());
    }
    for name in ["preliminary", "gang", "urgency", "hybrid", "faults", "scale", "smoke"] {
        assert!(seen.iter().any(|it| it == name), "{name} is not among {seen:?}");
    }
}

/// `field.yaml` is what its question says: every policy of the registry.
#[test]
fn the_field_is_every_policy() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../suites/field.yaml");
    let suite: Suite = document::parse(&std::fs::read_to_string(path).unwrap(), path).unwrap();
    let there = |name: &str| suite.spec.policies.iter().any(|it| it.policy == name);
    let missing: Vec<&str> =
        POLICIES.iter().map(|it| it.name).filter(|name| !there(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
