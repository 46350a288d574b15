//! What a scenario says will change in its world does change in the lab.

use crate::{
    harness::{Lab, droveway, said},
    observe::{logged_rate, measure, measured_rate},
};

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
    crate::harness::wait("the changed streams", || {
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
