use super::*;
use crate::{
    compare::{analyse, tests::bench},
    suite::{self, Switch},
};
use droveway_fleet::{
    document,
    scenario::{ScenarioChange, WorldChange},
};

/// The test suite, in which scenario `a` is the control of `b`, whose port is down after 4 s; seconds and lost bytes by scenario
/// and repeat.
pub(crate) fn faulty(of: impl Fn(&str, u32) -> (f64, u64)) -> Bench {
    let mut bench = bench(|_, _| (5.0, 0));
    let calm = bench.resolved.suite.spec.scenarios[0].spec.clone().unwrap();
    let down =
        WorldChange::LinkDown { host: "alpha".parse().unwrap(), duration: "2s".parse().unwrap() };
    let change = ScenarioChange::of("4s".parse().unwrap(), down);
    bench.resolved.suite.spec.scenarios[1].spec =
        Some(ScenarioSpec { changes: vec![change], ..calm });
    for result in &mut bench.results {
        let (seconds, lost) = of(&result.cell.scenario, result.cell.repeat);
        let report = crate::result::tests::report(seconds, lost);
        result.attempts = vec![Attempt::of(&report, Some(0), true)];
    }
    bench
}

#[test]
fn a_fault_costs_what_its_runs_take_more_than_the_control_s() {
    // Repeats differ more than the fault costs.
    let bench = faulty(|scenario, repeat| {
        let scale = 10.0 * f64::from(repeat);
        if scenario == "b" { (scale + 3.0, 50_000_000) } else { (scale, 25_000_000) }
    });
    let costs = analyse(&bench).faults;
    // Two scenarios, and the third is neither; five arms.
    assert_eq!(costs.len(), 2 * 5);
    assert!(costs[..5].iter().all(|it| it.scenario == "a" && it.control.is_none()));
    assert!(costs[..5].iter().all(|it| it.time.is_none() && it.runs == 3 && it.unmet == 0));
    for cost in &costs[5..] {
        assert_eq!((cost.scenario.as_str(), cost.control.as_deref()), ("b", Some("a")));
        let (time, lost) = (cost.time.as_ref().unwrap(), cost.lost.as_ref().unwrap());
        assert!((time.estimate - 3.0).abs() < 1e-9 && time.pairs == 3, "{cost:?}");
        // 25 MB of a port of 200 Mbit/s.
        assert!((lost.estimate - 1.0).abs() < 1e-9, "{cost:?}");
        assert_eq!(cost.ends, Ends { completed: 3, ..Ends::default() });
        assert_eq!(cost.total_seconds, Some(23.0));
    }
}

#[test]
fn how_vms_ended_is_told_apart_and_a_run_that_moved_not_all_has_no_cost() {
    let mut bench = faulty(|scenario, _| (if scenario == "b" { 8.0 } else { 5.0 }, 0));
    let results = [MoveResult::RolledBack, MoveResult::NeedsRecovery, MoveResult::Lost];
    let arm = bench.results[0].cell.arm();
    let own = bench.results.iter_mut().filter(|it| it.cell.scenario == "b" && it.cell.arm() == arm);
    for (result, end) in own.zip(results) {
        let attempt = &mut result.attempts[0];
        end.name().clone_into(&mut attempt.vms[0].result);
        attempt.run.as_mut().unwrap().completed = 0;
    }
    let costs = analyse(&bench).faults;
    let cost = costs.iter().find(|it| it.scenario == "b" && it.arm == arm).unwrap();
    let expected = Ends { rolled_back: 1, needs_recovery: 1, lost: 1, ..Ends::default() };
    assert_eq!((cost.ends, cost.ends.all(), cost.runs), (expected, 3, 3));
    assert!(cost.time.is_none() && cost.total_seconds.is_none(), "{cost:?}");
}

#[test]
fn runs_that_were_over_before_the_fault_are_counted() {
    let bench = faulty(|_, repeat| (if repeat == 2 { 3.5 } else { 5.0 }, 0));
    let costs = analyse(&bench).faults;
    assert!(costs.iter().filter(|it| it.scenario == "b").all(|it| it.unmet == 1 && it.runs == 3));
    assert!(costs.iter().filter(|it| it.scenario == "a").all(|it| it.unmet == 0));
}

#[test]
fn a_suite_in_which_nothing_changes_has_no_faults() {
    let bench = bench(|_, _| (5.0, 0));
    assert!(!bench.resolved.has_changes() && analyse(&bench).faults.is_empty());
    assert!(faulty(|_, _| (5.0, 0)).resolved.has_changes());
}

/// Each scenario of `faults.yaml` but the control is that with one change more, and every kind of change is there.
#[test]
fn the_suite_of_faults_is_one_gang_with_one_fault_each() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../suites/faults.yaml");
    let suite = document::parse(&std::fs::read_to_string(path).unwrap(), path).unwrap();
    let resolved = suite::resolve(suite, path, |file| Err(file.to_owned())).unwrap();
    let mut kinds = Vec::new();
    for scenario in &resolved.suite.spec.scenarios {
        let spec = scenario.spec.as_ref().unwrap();
        if spec.changes.is_empty() {
            assert_eq!(scenario.name.as_str(), "control");
            continue;
        }
        let control = resolved.control(spec).map(|it| it.name.as_str());
        assert_eq!((control, spec.changes.len()), (Some("control"), 1), "{}", scenario.name);
        kinds.push(std::mem::discriminant(&spec.changes[0].what().unwrap()));
    }
    kinds.dedup();
    assert_eq!(kinds.len(), 4, "a port down, a slower one, a stream that turns, a VM that writes");
    let replan = |wanted: Switch| {
        resolved.suite.spec.policies.iter().any(|it| it.is_ours() && it.replan == wanted)
    };
    assert!(replan(Switch::Auto) && replan(Switch::Off), "what planning again is worth");
}
