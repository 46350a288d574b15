use super::*;
use droveway_drive::Phase;
use std::collections::BTreeSet;

/// So many in a test of everyday; `cargo run --release -p droveway-sim --example faults -- --count 10000` for more.
const SEEDS: u64 = 500;

/// Whether a seed makes a law say these words of a world in which a rule does not hold.
fn is_noticed(broken: Broken, words: &str) -> bool {
    (0..4 * SEEDS).any(|seed| {
        let ran = FaultSchedule::of(seed).run(Some(broken)).unwrap();
        ran.violations.iter().any(|text| text.contains(words))
    })
}

/// Promise: no schedule of faults runs a VM twice, loses one that a fault did not destroy, leaves anything on a host, never
/// ends, or leaves a journal that tells something else.
#[test]
fn no_schedule_of_faults_breaks_a_law() {
    for seed in 0..SEEDS {
        let schedule = FaultSchedule::of(seed);
        let ran = schedule.run(None).unwrap();
        assert!(
            ran.violations.is_empty(),
            "seed {seed}: {:?}\n{:?}\ncargo run --release -p droveway-sim --example faults -- --seed {seed}",
            ran.violations,
            schedule.smallest(None).faults,
        );
    }
}

#[test]
fn every_law_notices_a_world_that_breaks_it() {
    let mut rules = Broken::ALL.to_vec();
    for (broken, words) in [
        (Broken::SourceRunsOn, "runs twice"),
        (Broken::TargetSurvives, "ended as RolledBack"),
        (Broken::SourceDies, "was destroyed by the run"),
        (Broken::LossIsHidden, "ended as RolledBack"),
        (Broken::TimeStands, "the clock stands still"),
        (Broken::PortsStayChanged, "the ports were left changed"),
        (Broken::JournalForgets, "the journal has VM"),
        (Broken::SlowStreams, "a deadline that was called feasible was missed"),
        (Broken::SettingsStay, "its QEMU is set as for the move"),
        (Broken::CutsAreHidden, "nobody noticed"),
        (Broken::CutsAreInvented, "a living path was called dead"),
    ] {
        assert!(is_noticed(broken, words), "{broken:?}: nobody said '{words}'");
        rules.retain(|rule| *rule != broken);
    }
    assert_eq!(rules, [], "every rule is broken once");
}

#[test]
fn a_seed_is_a_schedule_and_a_run() {
    let (one, other) = (FaultSchedule::of(7), FaultSchedule::of(8));
    assert_eq!(one, FaultSchedule::of(7));
    assert_ne!(one, other);
    let text = serde_json::to_string(&one).unwrap();
    let read: FaultSchedule = serde_json::from_str(&text).unwrap();
    let [a, b] = [&one, &read].map(|it| it.run(None).unwrap().outcome.records);
    assert_eq!(a, b, "what was printed is what ran");
}

#[test]
fn every_kind_of_fault_is_drawn() {
    let name = |fault: &Fault| {
        let text = serde_json::to_string(fault).unwrap();
        text.split('"').nth(1).unwrap().to_owned()
    };
    let drawn: BTreeSet<String> = (0..SEEDS)
        .flat_map(|seed| FaultSchedule::of(seed).faults)
        .map(|timed| name(&timed.fault))
        .collect();
    for kind in [
        "port-down",
        "port-rate",
        "loss",
        "kill-qemu",
        "freeze-qemu",
        "stall-monitor",
        "kill-controller",
        "journal-full",
        "clock-step",
        "writes",
        "reverse",
        "cancel",
    ] {
        assert!(drawn.contains(kind), "{kind} is not among {drawn:?}");
    }
}

/// A post-copy, undisturbed, and when the source's word that it is through was heard, seconds from its beginning.
fn undisturbed_post_copy() -> (FaultSchedule, VmId, f64) {
    for seed in 0..SEEDS {
        let mut schedule = FaultSchedule::of(seed);
        schedule.faults.clear();
        (schedule.policy, schedule.tuning) = ("post-copy-serial".to_owned(), true);
        (schedule.kernel_counts, schedule.heartbeats) = (true, true);
        let ran = schedule.run(None).unwrap();
        let first = |phase| {
            ran.outcome.records.iter().find_map(|(vm, record)| {
                let entered = record.kind == RecordKind::Entered(phase);
                entered.then(|| (vm.clone(), record.at.seconds()))
            })
        };
        if let (Some((_, began)), Some(_), Some((vm, end))) =
            (first(Phase::PreCopy), first(Phase::PostCopy), first(Phase::Settling))
        {
            return (schedule, vm, end - began);
        }
    }
    panic!("no seed moves a VM by post-copy");
}

/// Whatever instant of its end a post-copy's target dies in, or its path, no law is broken; the old copy that a source runs then
/// is stopped, and what was under way arrives.
#[test]
fn the_last_bytes_of_a_post_copy_are_nobody_s_end_but_a_fault_s() {
    let (schedule, vm, end) = undisturbed_post_copy();
    let (mut stopped, mut waited) = (0, 0);
    for step in 0..60 {
        let at_seconds = end - 0.05 + 0.001 * f64::from(step);
        let with =
            |fault| FaultSchedule { faults: vec![Timed { at_seconds, fault }], ..schedule.clone() };
        let side = droveway_drive::Side::Target;
        let ran = with(Fault::KillQemu { vm: vm.clone(), side }).run(None).unwrap();
        assert_eq!(ran.violations, Vec::<String>::new(), "killed at {at_seconds}");
        stopped += ran.left.state.vms[&vm]
            .reason
            .as_deref()
            .map_or(0, |it| u32::from(it.contains("an old copy of it for a moment")));
        let host = "beta".parse().unwrap();
        let ran = with(Fault::PortDown { host, seconds: 5.0 }).run(None).unwrap();
        assert_eq!(ran.violations, Vec::<String>::new(), "cut at {at_seconds}");
        assert_eq!(ran.left.state.vms[&vm].outcome, Some(Ended::Completed), "cut at {at_seconds}");
        waited += u32::from(ran.outcome.records.iter().any(|(_, record)| {
            matches!(&record.kind, RecordKind::Decided { choice, .. } if choice.starts_with("wait until"))
        }));
    }
    assert!(stopped > 0 && waited > 0, "{stopped} stopped, {waited} waited for");
}
