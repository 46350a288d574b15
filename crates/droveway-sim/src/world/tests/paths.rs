//! What is known of post-copy's path, and what follows from it.

use super::*;
use droveway_drive::{Action, PATIENCE, Phase, journal::Entry};

/// One idle VM by post-copy, some five seconds long; every law is looked at.
fn post_copy(physics: Physics, fault: (f64, Fault)) -> (Outcome, Left) {
    let scenario = scenario("rate: 200Mbit/s", IDLE, "");
    let plan = plan(&scenario, "post-copy-serial");
    let faults = vec![fault];
    let simulation =
        Simulation { scenario: &scenario, plan, physics, seed: 3, faults, adapting: None };
    let (outcome, left) = simulate_closely(&simulation, None).unwrap();
    assert_eq!(outcome.violations, Vec::<String>::new());
    (outcome, left)
}

fn down(seconds: f64) -> Fault {
    Fault::PortDown { host: "beta".parse().unwrap(), seconds }
}

/// When it entered a phase, each time, seconds from the first move.
fn entered(outcome: &Outcome, phase: Phase) -> Vec<f64> {
    let wanted = RecordKind::Entered(phase);
    let all = outcome.records.iter().filter(|(_, record)| record.kind == wanted);
    all.map(|(_, record)| record.at.seconds_from(outcome.began_at)).collect()
}

#[test]
fn a_cut_is_noticed_by_whatever_witness_there_is_and_post_copy_goes_on() {
    for (kernel_counts, heartbeats, least, most) in [
        // The last delivery was seen up to a look before the cut.
        (true, true, 1.3, 2.0),
        (true, false, 3.8, 4.5),
        (false, true, 9.8, 11.0),
        (false, false, 9.8, 11.0),
    ] {
        let witnesses = format!("kernels: {kernel_counts}, heartbeats: {heartbeats}");
        let physics = Physics { kernel_counts, heartbeats, ..quiet() };
        let (outcome, _) = post_copy(physics, (2.0, down(20.0)));
        let paused = entered(&outcome, Phase::PostCopyPaused);
        let noticed = paused.first().map_or(f64::INFINITY, |at| at - 2.0);
        assert!((least..=most).contains(&noticed), "{witnesses}: noticed after {noticed} s");
        let again = *entered(&outcome, Phase::PostCopy).last().unwrap() - 22.0;
        assert!((0.0..3.0).contains(&again), "{witnesses}: goes on after {again} s");
        assert_eq!(ends(&outcome), [Ended::Completed], "{witnesses}");
    }
}

/// Promise: nothing but a dead path is one.
#[test]
fn what_is_slow_lossy_or_stopped_is_no_dead_path() {
    let freeze = |side| Fault::FreezeQemu { vm: "one".parse().unwrap(), side, seconds: 20.0 };
    let slow = Fault::PortRate { host: "beta".parse().unwrap(), rate: "5Mbit/s".parse().unwrap() };
    let stall = |side| {
        let vm = "one".parse().unwrap();
        Fault::StallMonitor { vm, side, seconds: 8.0, loses: false }
    };
    for fault in [
        Fault::Loss { round_trip: 0.1, share: 0.02, seconds: 60.0 },
        // Every third one: a stream crawls, and heartbeats are lost in rows.
        Fault::Loss { round_trip: 0.05, share: 0.3, seconds: 60.0 },
        slow,
        freeze(Side::Source),
        freeze(Side::Target),
        stall(Side::Source),
        stall(Side::Target),
    ] {
        for heartbeats in [true, false] {
            let physics = Physics { heartbeats, ..quiet() };
            let (outcome, _) = post_copy(physics, (2.0, fault.clone()));
            assert_eq!(entered(&outcome, Phase::PostCopyPaused), Vec::<f64>::new(), "{fault:?}");
            assert_eq!(ends(&outcome), [Ended::Completed], "{fault:?}");
        }
    }
}

/// Promise: a path that stays away is waited for for three minutes; then an operator is told what to do, and nothing was ended.
#[test]
fn a_path_that_stays_away_ends_in_need_of_recovery_with_both_sides_kept() {
    let (outcome, left) = post_copy(quiet(), (2.0, down(400.0)));
    assert_eq!(ends(&outcome), [Ended::NeedsRecovery]);
    let waited = took(&outcome) - 2.0 - PATIENCE.as_secs_f64();
    assert!((1.5..4.0).contains(&waited), "{waited}");
    let told = outcome.records.iter().find_map(|(_, record)| match &record.kind {
        RecordKind::Ended { reason, .. } => reason.clone(),
        _ => None,
    });
    let told = told.unwrap();
    assert!(
        told.contains("both QEMUs are kept") && told.contains("`droveway recover one`"),
        "{told}"
    );
    for stamped in &left.journal {
        let ends = matches!(
            &stamped.entry,
            Entry::Action { action: Action::DestroySource | Action::DestroyTarget, .. }
        );
        assert!(!ends, "{stamped:?}");
    }
}
