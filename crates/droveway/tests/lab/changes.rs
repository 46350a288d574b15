//! What a scenario says will change in its world does change in the lab.

use crate::{
    harness::{Lab, droveway, said, wait},
    observe::{logged_rate, measure, measured_rate},
};
use droveway_fleet::log::ApplicationSample;
use std::fs;

const MIB: f64 = 1_048_576.0;

#[test]
fn a_lab_s_world_changes_as_its_scenario_says() {
    let vms = "    - { name: one, host: alpha, memory: 192MiB, memoryLoad: { workingSet: 8MiB, writeRate: 1MiB/s } }\n  \
               traffic:\n    \
               - { name: pages, from: one, to: client, kind: tcp, rate: 20Mbit/s }\n    \
               - { name: feed, from: client, to: one, kind: tcp, rate: 5Mbit/s }\n    \
               - { name: bulk, from: alpha, to: beta, kind: tcp, rate: unlimited }\n  \
               changes:\n    \
               - { at: 300ms, reverse: pages }\n    \
               - { at: 300ms, traffic: feed, rate: 10Mbit/s }\n    \
               - { at: 200ms, vm: one, workingSet: 16MiB, writeRate: 8MiB/s }\n    \
               - { at: 100ms, host: beta, linkRate: 60Mbit/s }\n    \
               - { at: 400ms, host: beta, linkDown: 300ms }\n";
    let Some(lab) = Lab::up_with("t-changes", "200Mbit/s", vms) else { return };
    let mbit = |rate: f64| rate * 8.0 / 1e6;
    let look = || {
        let snapshot = measure(&lab, &["--no-memory", "--for", "4s"]);
        let rate = |from, to| mbit(measured_rate(&snapshot, from, to));
        let flows = [("one", "client"), ("client", "one"), ("alpha", "beta")];
        let written = logged_rate(&lab, "one.memory-load", &snapshot) / MIB;
        (flows.map(|(from, to)| rate(from, to)), written)
    };
    let near = |got: f64, expected: f64| (got - expected).abs() < 0.15 * expected;

    let ([out, back, bulk], written) = look();
    assert!(near(out, 20.0) && near(back, 5.0), "{out} and {back} Mbit/s");
    assert!(bulk > 150.0 && near(written, 1.0), "{bulk} Mbit/s, {written} MiB/s");

    let output = droveway(&["lab", "play", &lab.name]);
    assert!(output.status.success(), "{}", said(&output));
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let at = |part: &str| lines.find(part).unwrap_or_else(|| panic!("no '{part}' in {lines}"));
    assert!(at("the port of beta carries 60Mbit/s") < at("pages flows the other way"), "{lines}");
    assert!(at("pages flows the other way") < at("the port of beta is down"), "{lines}");
    assert!(at("the port of beta is down") < at("the port of beta is up"), "{lines}");

    // Streams begin anew, and TCP finds out that the port is back.
    wait("the changed streams", || {
        let ([out, back, bulk], _) = look();
        out < 1.0 && near(back, 30.0) && bulk > 30.0
    });
    let ([out, back, bulk], written) = look();
    assert!(out < 1.0 && near(back, 30.0), "{out} and {back} Mbit/s");
    assert!(bulk > 30.0 && bulk < 60.0 && near(written, 9.0), "{bulk} Mbit/s, {written} MiB/s");

    // A lab that has no such scenario, or none at all, is an error of the user's.
    let output = droveway(&["lab", "play", "t-changes-no"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

/// What an application did in the last second that it wrote down, Mbit/s.
fn last_second(lab: &Lab, name: &str) -> f64 {
    let fleet = lab.fleet();
    let of = fleet.spec.applications.iter().find(|it| it.name.as_str() == name);
    let text = fs::read_to_string(&of.expect("the application").log).expect("a log");
    let samples: Vec<ApplicationSample> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let Some(last) = samples.last().map(|sample| sample.end.seconds()) else { return 0.0 };
    let recent = samples.iter().filter(|sample| sample.start.seconds() >= last - 1.0);
    let (mut amount, mut from) = (0, last);
    for sample in recent {
        amount += sample.amount;
        from = from.min(sample.start.seconds());
    }
    amount as f64 * 8.0 / 1e6 / (last - from)
}

#[test]
fn streams_of_low_urgency_yield_on_ports_that_were_left_as_they_are() {
    let vms = "    - { name: one, host: alpha, memory: 128MiB }\n  \
               traffic:\n    \
               - { name: bulk, from: alpha, to: beta, kind: tcp, rate: 1Mbit/s }\n  \
               changes:\n    \
               - { at: 10ms, traffic: bulk, rate: unlimited }\n";
    let Some(lab) = Lab::up_with("t-yields", "60Mbit/s", vms) else { return };
    let drain = ["drain", "alpha", "--to", "beta", "--urgency", "low", "--shaping", "off"];
    let mut run = lab.begins(&drain);
    let said_so = |part: &str| {
        let text = fs::read_to_string(lab.path("stderr")).expect("a log");
        text.lines().any(|line| line.contains(part))
    };
    wait("the stream", || lab.place("one").1 == "pre-copy");
    let output = droveway(&["lab", "play", &lab.name]);
    assert!(output.status.success(), "{}", said(&output));
    wait("that the stream yields", || said_so("streams yield"));
    // As equals both would have half.
    wait("two thirds of the port for who came", || last_second(&lab, "bulk") > 0.66 * 57.0);
    let set = droveway(&lab.arguments(&["set", "--all", "urgency", "critical"]));
    assert!(set.status.success(), "{}", said(&set));
    wait("that the stream is let go", || said_so("streams take what they get again"));
    assert_eq!(run.code(), 0);
    let report = lab.report();
    let yielded = report.decisions.iter().filter(|it| it.choice.starts_with("streams yield"));
    assert_eq!(yielded.count(), 1, "{:?}", report.decisions);
}
