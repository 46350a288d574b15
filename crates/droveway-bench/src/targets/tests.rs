use super::*;
use crate::compare::{
    analyse,
    tests::{bench, with_ours},
};

/// The target of an aim; the one on fair ports.
fn find(targets: &[Target], aim: Aim) -> &Target {
    let found = targets.iter().find(|it| it.aim == aim && it.ports != Ports::Fifo);
    found.unwrap_or_else(|| panic!("{aim:?} is missing: {targets:#?}"))
}

/// The test suite, its intents of nothing but an urgency: medium and high.
fn of(seconds: impl Fn(&str, u32) -> (f64, u64)) -> Bench {
    let mut bench = with_ours(bench(seconds));
    let intents = &mut bench.resolved.suite.spec.intents;
    intents[1].deadline = None;
    intents[1].floor = None;
    bench
}

#[test]
fn ratios_are_of_the_same_scenario_and_repeat() {
    // Repeats differ more than arms do: only pairs give these figures.
    let bench = of(|arm, repeat| {
        let scale = f64::from(repeat);
        match arm {
            "ours@soon" => (4.0 * scale, 5_000_000 * u64::from(repeat)),
            "ours@medium" => (5.0 * scale, 4_000_000 * u64::from(repeat)),
            _ => (8.0 * scale, 10_000_000 * u64::from(repeat)),
        }
    });
    let targets = analyse(&bench).targets;
    let time = find(&targets, Aim::TimeOverFastest);
    assert!((time.found - 0.5).abs() < 1e-9 && time.standing() == Standing::Met, "{time:?}");
    assert_eq!((time.arm.as_deref(), time.of), (Some("adaptive@soon"), 9));
    // 5 MB are a fifth of a second of this port, and a hundredth is added to both.
    let loss = find(&targets, Aim::LossOverSolive);
    assert!((0.5..0.53).contains(&loss.found) && !loss.is_missed(), "{loss:?}");
    let slower = find(&targets, Aim::TimeOverHigh);
    assert!((slower.found - 1.25).abs() < 1e-9, "{slower:?}");
    // Four seconds are line rate here: half of the runs take twice of that and more.
    let line_rate = find(&targets, Aim::TimeOverLineRate);
    assert!(line_rate.is_missed() && line_rate.standing() == Standing::PerhapsNot, "{line_rate:?}");
    // Nobody sends three elastic flows.
    assert!(targets.iter().all(|it| it.aim != Aim::TimeOverParallelWhereHard));
    // 50 ms each.
    assert_eq!(find(&targets, Aim::Downtime).standing(), Standing::Met);
    assert_eq!(find(&targets, Aim::NotMoved).of, 2 * 9);
}

#[test]
fn one_queue_is_told_apart_and_counts_for_nothing() {
    let slow = |arm: &str, _: u32| if arm.starts_with("ours") { (9.0, 0) } else { (8.0, 0) };
    let mut bench = of(slow);
    let first = bench.resolved.suite.spec.scenarios[0].spec.as_mut().unwrap();
    first.link.discipline = Discipline::Fifo;
    let targets = analyse(&bench).targets;
    let of_ports = |ports| {
        let mut all = targets.iter().filter(|it| it.aim == Aim::TimeOverFastest);
        all.find(|it| it.ports == ports).unwrap()
    };
    let (fair, fifo) = (of_ports(Ports::Fair), of_ports(Ports::Fifo));
    assert_eq!((fair.of, fifo.of), (6, 3));
    assert!(fair.is_missed() && fifo.found > fifo.limit && !fifo.is_missed());
    assert_eq!(fair.standing(), Standing::Missed);
    let first_fifo = targets.iter().position(|it| it.ports == Ports::Fifo).unwrap();
    assert!(targets[first_fifo..].iter().all(|it| it.ports == Ports::Fifo), "fifo stands last");
}

#[test]
fn hard_scenarios_are_many_elastic_flows_or_fast_writing() {
    let bench = of(|_, _| (5.0, 0));
    let scenario = bench.resolved.suite.spec.scenarios[0].spec.clone().unwrap();
    let check = |change: &dyn Fn(&mut ScenarioSpec), expected: bool| {
        let mut spec = scenario.clone();
        change(&mut spec);
        assert_eq!(is_hard(&spec), expected, "{spec:?}");
    };
    let elastic = |spec: &mut ScenarioSpec, flows: u32| {
        spec.traffic[0].rate = Some(RateLimit::Unlimited);
        spec.traffic[0].flows = flows;
    };
    check(&|_| {}, false);
    check(&|spec| elastic(spec, 2), false);
    check(&|spec| elastic(spec, 3), true);
    check(
        &|spec| {
            // Two each way are no three.
            elastic(spec, 2);
            let mut back = spec.traffic[0].clone();
            std::mem::swap(&mut back.from, &mut back.to);
            spec.traffic.push(back);
        },
        false,
    );
    for (rate, expected) in [("3MiB/s", false), ("8MiB/s", true)] {
        check(
            &|spec| {
                spec.vms[0].memory_load = Some(droveway_fleet::scenario::MemoryLoad {
                    working_set: "32MiB".parse().unwrap(),
                    write_rate: rate.parse().unwrap(),
                    hot_share: None,
                    hot_weight: None,
                });
            },
            expected,
        );
    }
}

#[test]
fn who_is_dominated_at_low_urgency_misses_the_target() {
    let mut bench = of(|arm, _| if arm.starts_with("ours") { (9.0, 50_000_000) } else { (8.0, 0) });
    bench.resolved.suite.spec.intents[0].urgency = Urgency::Low;
    let targets = analyse(&bench).targets;
    let dominated = find(&targets, Aim::Dominated);
    assert!((dominated.found - 3.0).abs() < 1e-9 && dominated.of == 3, "{dominated:?}");
    assert!(dominated.is_missed() && dominated.standing() == Standing::Missed);
    // All are silent for the same time.
    let outage = find(&targets, Aim::OutageOverBest);
    assert!((outage.found - 1.0).abs() < 1e-9 && outage.of == 3, "{outage:?}");
}
