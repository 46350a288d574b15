//! The driver against a small world of two QEMUs that does what QEMU does, including what is dangerous: a cancelled source
//! resumes whatever the target does, a target that has everything resumes by itself, a source in switchover answers nothing
//! but out-of-band commands.

mod exposure;
mod world;

use super::*;
use crate::testing;
use droveway_fleet::RateLimit;
use droveway_plan::{
    Fallback,
    habits::{Clark, Ladder, Ovirt, Proxmox},
};
use proptest::prelude::*;
use world::{Fault, World};

fn step(technique: Technique, fallback: Fallback) -> Move {
    testing::step(testing::name(0), technique, fallback)
}

fn run(technique: Technique, fallback: Fallback, dirty: f64, faults: Vec<(u64, Fault)>) -> World {
    let mut world = World::new(step(technique, fallback), 7, dirty, faults);
    world.run();
    world
}

#[test]
fn the_picture_shows_the_transition_table() {
    let doc = include_str!("../vm.rs");
    let mut pictured: Vec<(String, Vec<String>)> = doc
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
        .filter_map(|line| line.split_once(" -> "))
        .map(|(from, to)| (from.to_owned(), to.split(" | ").map(str::to_owned).collect()))
        .collect();
    pictured.push(("ended".to_owned(), Vec::new()));
    let table: Vec<(String, Vec<String>)> = TRANSITIONS
        .iter()
        .map(|(from, to)| {
            (from.name().to_owned(), to.iter().map(|p| p.name().to_owned()).collect())
        })
        .collect();
    assert_eq!(pictured, table);
}

#[test]
fn every_technique_moves_an_idle_vm() {
    for technique in Technique::ALL {
        let world = run(technique, Fallback::Abort, 0.0, vec![]);
        assert_eq!(world.outcome(), Some(Outcome::Completed), "{technique}");
        assert!(world.target.running && !world.source.alive, "{technique}");
        assert!(world.has(|kind| *kind == RecordKind::Resumed));
        // Nothing is dirtied, so a hybrid's first pass is enough and QEMU ends it as a pre-copy, as the real one does.
        let split = world.has(|kind| *kind == RecordKind::Entered(Phase::PostCopy));
        assert_eq!(split, technique == Technique::PostCopy, "{technique}");
    }
}

#[test]
fn a_hybrid_switches_after_its_pass() {
    let world = run(Technique::Hybrid, Fallback::Abort, 0.8, vec![]);
    assert_eq!(world.outcome(), Some(Outcome::Completed));
    assert!(world.has(|kind| *kind == RecordKind::Pass(2)));
    assert!(world.has(|kind| *kind == RecordKind::Entered(Phase::PostCopy)));
    assert!(!world.has(|kind| *kind == RecordKind::Pass(4)));
}

/// `dynamic-hybrid`: the first pass has to leave less than half of what it sent, or the next would be wasted too.
#[test]
fn a_patient_hybrid_switches_as_soon_as_a_pass_has_stalled() {
    let patient = |dirty| {
        let mut plan = step(Technique::Hybrid, Fallback::Abort);
        plan.switch.after_pass = 20;
        let mut world = World::new(plan, 7, dirty, vec![]);
        world.run();
        world.check_end().unwrap();
        assert_eq!(world.outcome(), Some(Outcome::Completed));
        world
    };
    let split = |world: &World| world.has(|kind| *kind == RecordKind::Entered(Phase::PostCopy));
    let stalled = patient(0.8);
    assert!(split(&stalled) && !stalled.has(|kind| *kind == RecordKind::Pass(3)));
    assert!(!split(&patient(0.2)), "its passes shrink");
}

#[test]
fn a_vm_that_does_not_converge_falls_back_or_stays() {
    let moved = run(Technique::PreCopy, Fallback::PostCopy, 1.5, vec![]);
    assert_eq!(moved.outcome(), Some(Outcome::Completed));
    assert!(moved.has(|kind| *kind == RecordKind::Entered(Phase::PostCopy)));
    assert!(moved.has(
        |kind| matches!(kind, RecordKind::Decided { choice, .. } if choice == "switch to post-copy")
    ));

    let stayed = run(Technique::PreCopy, Fallback::Abort, 1.5, vec![]);
    assert_eq!(stayed.outcome(), Some(Outcome::RolledBack));
    assert!(stayed.source.running && !stayed.target.alive);
}

fn climbing(ladder: Ladder, dirty: f64) -> World {
    let mut plan = step(Technique::PreCopy, Fallback::Abort);
    if let Ladder::Clark(rule) = &ladder {
        plan.bandwidth = RateLimit::At(rule.rate_min);
    }
    plan.ladder = Some(ladder);
    plan.max_passes = u32::MAX;
    let mut world = World::new(plan, 7, dirty, vec![]);
    world.run();
    world.check_end().unwrap();
    world
}

fn chose(world: &World, wanted: &str) -> bool {
    world.has(|kind| matches!(kind, RecordKind::Decided { choice, .. } if choice == wanted))
}

#[test]
fn a_products_ladder_raises_the_limit_and_ends_as_the_product_does() {
    // Dirtied as fast as it is sent: nothing converges.
    let gave_up = climbing(Ladder::Ovirt(Ovirt::minimal_downtime()), 1.0);
    assert_eq!(gave_up.outcome(), Some(Outcome::RolledBack));
    assert!(gave_up.source.running);
    for limit in [150, 200, 300, 400, 500] {
        assert!(chose(&gave_up, &format!("downtime limit {limit} ms")), "{limit}");
    }
    let switched = climbing(Ladder::Ovirt(Ovirt::post_copy()), 1.0);
    assert_eq!(switched.outcome(), Some(Outcome::Completed));
    assert!(switched.has(|kind| *kind == RecordKind::Entered(Phase::PostCopy)));
    // 120 MB dirtied again and again fit a limit of 1600 ms.
    let doubled = climbing(Ladder::Proxmox(Proxmox::default()), 1.0);
    assert_eq!(doubled.outcome(), Some(Outcome::Completed));
    assert!(chose(&doubled, "downtime limit 800 ms"));
    assert!(!doubled.has(|kind| *kind == RecordKind::Entered(Phase::PostCopy)));
}

#[test]
fn clarks_rates_rise_with_the_passes_until_the_vm_is_stopped() {
    let world = climbing(Ladder::Clark(Clark::on("941Mbit/s".parse().unwrap())), 1.2);
    assert_eq!(world.outcome(), Some(Outcome::Completed));
    let faster = |kind: &RecordKind| matches!(kind, RecordKind::Decided { choice, .. } if choice.starts_with("stream at"));
    assert!(world.has(faster));
    assert!(chose(&world, "stop the VM and send the rest"));
}

#[test]
fn a_dead_target_in_pre_copy_rolls_back() {
    let world = run(Technique::PreCopy, Fallback::Abort, 0.1, vec![(500, Fault::KillTarget)]);
    assert_eq!(world.outcome(), Some(Outcome::RolledBack));
    assert!(world.source.running);
}

#[test]
fn a_dead_link_in_pre_copy_rolls_back_in_bounded_time() {
    let world =
        run(Technique::PreCopy, Fallback::Abort, 0.1, vec![(500, Fault::LinkDown(600_000))]);
    assert_eq!(world.outcome(), Some(Outcome::RolledBack));
    assert!(world.source.running && !world.target.alive);
    assert!(world.now < Timestamp::from_millis(20_000), "{:?}", world.now);
    // Its rate fell to nothing meanwhile, which QEMU would take for "no limit".
    world.check_end().unwrap();
}

#[test]
fn a_cancel_rolls_back_before_post_copy_and_is_refused_after() {
    let world = run(Technique::PreCopy, Fallback::Abort, 0.1, vec![(400, Fault::Cancel)]);
    assert_eq!(world.outcome(), Some(Outcome::RolledBack));
    let world = run(Technique::PostCopy, Fallback::Abort, 0.1, vec![(600, Fault::Cancel)]);
    assert_eq!(world.outcome(), Some(Outcome::Completed));
}

/// Promise: what was set at a source whose VM stays there is as it was before.
#[test]
fn what_was_set_at_the_source_is_put_back_if_the_vm_stays() {
    let faults = [
        vec![(0, Fault::Cancel)],
        vec![(400, Fault::Cancel)],
        vec![(500, Fault::KillTarget)],
        vec![(500, Fault::SetLimits(60, 40)), (700, Fault::Cancel)],
        vec![(300, Fault::KillController(200)), (700, Fault::Cancel)],
    ];
    let put_back = |faults: &[(u64, Fault)]| {
        let world = run(Technique::Hybrid, Fallback::Abort, 0.1, faults.to_vec());
        world.check_end().unwrap();
        let told = |kind: &RecordKind| matches!(kind, RecordKind::Warning(text) if text.contains("put back"));
        assert!(!world.has(told), "{faults:?}");
        world.outcome() == Some(Outcome::RolledBack)
    };
    for faults in faults {
        assert!(put_back(&faults), "{faults:?}");
    }
    // Killed while it is being undone: one that is killed before it has begun to forgets the wish.
    let killed = |at| vec![(400, Fault::Cancel), (at, Fault::KillController(200))];
    assert!((400..600).step_by(10).filter(|at| put_back(&killed(*at))).count() > 5);
}

/// Where QEMU refuses, it is tried again; then the VM is at the source all the same, and that is told.
#[test]
fn a_source_that_takes_nothing_back_is_told_of_in_bounded_time() {
    let at = Timestamp::from_millis;
    let mut driver = VmDriver::new(step(Technique::PreCopy, Fallback::Abort), true);
    driver.set_before(world::before());
    driver.prepare(at(0));
    driver.request(at(1), Request::Cancel).unwrap();
    let mut now = 1;
    let mut tries = 0;
    while driver.outcome().is_none() {
        assert!(now < 60_000, "{driver:?}");
        for (id, action) in asked(&mut driver) {
            let reply = match action {
                Action::Sample(_) => says(MigrationStatus::None, RunState::Running),
                Action::Restore(_) => {
                    tries += 1;
                    let message = "not now".to_owned();
                    Err(ActionError { class: FailureClass::Refused, message })
                }
                _ => Ok(Reply::Done),
            };
            driver.handle_reply(at(now), id, reply);
        }
        now += 10;
        driver.handle_timeout(at(now));
    }
    assert_eq!(driver.outcome(), Some(Outcome::RolledBack));
    assert!(tries > 3 && now < 20_000, "{tries} tries, {now} ms");
    let told = std::iter::from_fn(|| driver.poll_record())
        .any(|record| matches!(record.kind, RecordKind::Warning(_)));
    assert!(told);
}

/// A rule that raises the limit by itself stays below what the operator asked for, and so does its rate.
#[test]
fn rules_keep_to_what_an_operator_asked_for() {
    let mut plan = step(Technique::PreCopy, Fallback::Abort);
    plan.ladder = Some(Ladder::Clark(Clark::on("941Mbit/s".parse().unwrap())));
    let mut world = World::new(plan, 7, 1.2, vec![(300, Fault::SetLimits(60, 40))]);
    world.run();
    world.check_end().unwrap();
    let rates = |kind: &RecordKind| {
        matches!(kind, RecordKind::Decided { choice, .. }
            if choice.starts_with("stream at") && choice != "stream at 60Mbit/s")
    };
    assert!(!world.has_since(Timestamp::from_millis(300), rates));
    assert!(world.has(
        |kind| matches!(kind, RecordKind::Decided { choice, .. } if choice == "stream at 60Mbit/s")
    ));
}

#[test]
fn a_broken_post_copy_recovers_when_the_link_returns() {
    let world =
        run(Technique::PostCopy, Fallback::Abort, 0.1, vec![(600, Fault::LinkDown(14_000))]);
    assert_eq!(world.outcome(), Some(Outcome::Completed));
    assert!(world.has(|kind| *kind == RecordKind::Entered(Phase::PostCopyPaused)));

    let world =
        run(Technique::PostCopy, Fallback::Abort, 0.1, vec![(600, Fault::LinkDown(600_000))]);
    assert_eq!(world.outcome(), Some(Outcome::NeedsRecovery));
    assert!(world.source.alive && world.target.alive, "both sides are kept");
    assert!(world.has(|kind| matches!(
        kind,
        RecordKind::Ended { reason: Some(text), .. } if text.contains("droveway recover vm0")
    )));
}

/// Promise: a path that stays away is waited for for as long as it is said, whoever noticed it; then an operator is told exactly
/// what to do, both sides wait as they are, and nothing was ended.
#[test]
fn patience_ends_with_exact_instructions_and_both_sides_wait() {
    let wanted = "the path between the hosts did not come back within 180 s. The VM waits at the target, the rest of its memory is \
                  at the source; both QEMUs are kept, and each of them is needed: end neither, and reboot neither host. Restore the \
                  path, then run `droveway recover vm0`";
    assert_eq!(PATIENCE, Duration::from_secs(180));
    let cut = Timestamp::from_millis(600);
    // Seeds differ in the witnesses that are there: both, either, none.
    for (seed, noticed) in [(7, 2), (5, 5), (6, 11), (4, 11)] {
        let faults = vec![(600, Fault::LinkDown(10_000_000))];
        let mut world = World::new(step(Technique::PostCopy, Fallback::Abort), seed, 0.1, faults);
        world.run();
        world.check_end().unwrap();
        let (at, outcome, reason) = world.end().unwrap();
        assert_eq!((outcome, reason), (Outcome::NeedsRecovery, Some(wanted)), "seed {seed}");
        let most = PATIENCE + Duration::from_secs(noticed + 5);
        assert!(at >= cut + PATIENCE && at <= cut + most, "seed {seed}: {at:?}");
        assert!(!world.was_ending(), "seed {seed}: a side was told to end");
        for (side, qemu) in [(Side::Source, &world.source), (Side::Target, &world.target)] {
            assert!(qemu.alive, "seed {seed}: {side:?}");
            assert_eq!(qemu.status, MigrationStatus::PostcopyPaused, "seed {seed}: {side:?}");
        }
        assert!(!world.source.running, "seed {seed}");
    }
}

/// Promise: post-copy goes on within 3 s of the link's return, whenever and for how long it was away.
#[test]
fn post_copy_goes_on_soon_after_the_links_return() {
    for away in (200..40_000).step_by(370) {
        let world =
            run(Technique::PostCopy, Fallback::Abort, 0.1, vec![(600, Fault::LinkDown(away))]);
        assert_eq!(world.outcome(), Some(Outcome::Completed), "away for {away} ms");
        // All that is left takes a second at most, and its confirmation some tenths.
        let back = Timestamp::from_millis(600 + away);
        assert!(world.now < back + Duration::from_millis(4_300), "{away} ms: {:?}", world.now);
    }
}

/// Neither while it has something to send nor while the last of it is under way: then a pause would end it.
#[test]
fn a_post_copy_survives_a_cut_at_every_instant_of_its_end() {
    let mut awaited = 0;
    for at in (900..1_400).step_by(10) {
        let faults = vec![(at, Fault::LinkDown(6_000))];
        let world = run(Technique::PostCopy, Fallback::Abort, 0.1, faults);
        assert_eq!(world.outcome(), Some(Outcome::Completed), "cut at {at} ms");
        awaited += u32::from(world.has(|kind| {
            matches!(kind, RecordKind::Decided { choice, .. } if choice.starts_with("wait until"))
        }));
    }
    assert!(awaited > 0, "no cut met the last bytes");
    let faults = |at| vec![(at, Fault::LinkDown(600_000))];
    let stuck = (1_000..1_300)
        .step_by(10)
        .map(|at| run(Technique::PostCopy, Fallback::Abort, 0.1, faults(at)))
        .find(|world| world.has(|kind| matches!(kind, RecordKind::Ended { reason: Some(reason), .. } if reason.contains("Everything is sent, or"))));
    assert_eq!(stuck.and_then(|world| world.outcome()), Some(Outcome::NeedsRecovery));
}

#[test]
fn a_death_in_post_copy_is_reported_as_lost_at_once() {
    for fault in [Fault::KillSource, Fault::KillTarget] {
        let world = run(Technique::PostCopy, Fallback::Abort, 0.1, vec![(600, fault)]);
        assert_eq!(world.outcome(), Some(Outcome::Lost));
        assert!(world.now < Timestamp::from_millis(1_800), "{fault:?}: {:?}", world.now);
        // Also while the path is away, and it is being waited for.
        let faults = vec![(500, Fault::LinkDown(60_000)), (5_000, fault)];
        let world = run(Technique::PostCopy, Fallback::Abort, 0.1, faults);
        assert_eq!(world.outcome(), Some(Outcome::Lost));
        assert!(world.now < Timestamp::from_millis(6_200), "{fault:?}: {:?}", world.now);
    }
}

/// A source that has sent everything runs its old copy when its target dies: that is stopped, and told.
#[test]
fn the_old_copy_of_a_lost_vm_is_stopped() {
    let mut ran = 0;
    for cut in [false, true] {
        for at in (1_000..1_300).step_by(10) {
            let mut faults = vec![(at, Fault::KillTarget)];
            if cut {
                // The source does not learn of it by itself.
                faults.insert(0, (at - 50, Fault::LinkDown(60_000)));
            }
            let world = run(Technique::PostCopy, Fallback::Abort, 0.1, faults);
            world.check_end().unwrap();
            let Some((ended_at, Outcome::Lost, reason)) = world.end() else { continue };
            assert!(ended_at < Timestamp::from_millis(at + 1_500), "{at}: {ended_at:?}");
            ran +=
                u32::from(reason.is_some_and(|it| it.contains("an old copy of it for a moment")));
        }
    }
    assert!(ran > 4, "{ran}");
}

/// The same where the controller was killed before, and nobody saw the target's end.
#[test]
fn who_takes_over_stops_the_old_copy_of_a_lost_vm() {
    let mut ran = 0;
    for at in (1_000..1_300).step_by(10) {
        let faults = vec![(at - 20, Fault::KillController(700)), (at, Fault::KillTarget)];
        let world = run(Technique::PostCopy, Fallback::Abort, 0.1, faults);
        world.check_end().unwrap();
        ran += u32::from(world.end().is_some_and(|(_, outcome, reason)| {
            outcome == Outcome::Lost && reason.is_some_and(|it| it.contains("for a moment"))
        }));
    }
    assert!(ran > 0);
}

/// A VM that somebody has started anew at the source, by another process, is not stopped, whatever an old journal says of it.
#[test]
fn who_takes_over_does_not_stop_a_vm_that_was_started_anew() {
    let sample = |status, run_state| {
        Seen::There(Box::new(MigrationSample::without_figures(status, run_state)))
    };
    let inherited = |status| Inherited {
        source: sample(status, RunState::Running),
        target: Seen::Gone,
        migrate: Told::Surely,
        postcopy_prepared: true,
        postcopy_asked: true,
        postcopied: true,
        undoing: false,
        releasing: false,
        pass: 1,
        stopped_at: Some(Timestamp::ZERO),
        resumed_at: Some(Timestamp::ZERO),
        before: None,
    };
    let stops = |status| {
        let plan = step(Technique::PostCopy, Fallback::Abort);
        let mut driver = VmDriver::adopt(plan, true, &inherited(status), Timestamp::ZERO);
        std::iter::from_fn(|| driver.poll_action())
            .any(|(_, action)| action == Action::Stop(Side::Source))
    };
    assert!(!stops(MigrationStatus::None));
    assert!(stops(MigrationStatus::Failed), "that one is an old copy");
}

/// A path that is back in the very moment in which it is called dead lets a source send what is left at once, and wait for the
/// target's last word: it is not paused for what was left before.
#[test]
fn a_path_that_is_back_when_it_is_called_dead_costs_nothing() {
    for seed in 0..3_000_u64 {
        let fault = (800 + seed * 7 % 1_500, Fault::LinkDown(200 + seed * 13 % 20_000));
        let plan = step(Technique::Hybrid, Fallback::PostCopy);
        let seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut world = World::new(plan, seed, 0.7, vec![fault]);
        world.run();
        world.check_end().unwrap_or_else(|error| panic!("{fault:?}: {error}"));
    }
}

/// Killed every tenth of a second of an undisturbed move, each technique: every one of them arrives.
#[test]
fn whatever_instant_the_controller_is_killed_in_the_vm_arrives() {
    for technique in Technique::ALL {
        for at in (0..3_000).step_by(20) {
            let faults = vec![(at, Fault::KillController(500))];
            let world = run(technique, Fallback::Abort, 0.3, faults);
            world.check_end().unwrap();
            assert_eq!(world.outcome(), Some(Outcome::Completed), "{technique} killed at {at} ms");
            assert!(world.target.running && !world.source.alive, "{technique} at {at} ms");
        }
    }
}

#[test]
fn where_vcpus_run_at_both_sides_nothing_is_touched() {
    let sample = |status, run_state| {
        Seen::There(Box::new(MigrationSample::without_figures(status, run_state)))
    };
    let inherited = Inherited {
        source: sample(MigrationStatus::Failed, RunState::Running),
        target: sample(MigrationStatus::Completed, RunState::Running),
        migrate: Told::Surely,
        postcopy_prepared: false,
        postcopy_asked: false,
        postcopied: false,
        undoing: true,
        releasing: false,
        pass: 1,
        stopped_at: None,
        resumed_at: None,
        before: None,
    };
    assert!(!inherited.is_unstarted());
    let plan = step(Technique::PreCopy, Fallback::Abort);
    let mut driver = VmDriver::adopt(plan, true, &inherited, Timestamp::from_millis(5));
    assert_eq!(driver.outcome(), Some(Outcome::NeedsRecovery));
    assert!(driver.poll_action().is_none(), "nothing is touched");
}

/// A driver whose VM stands still for its switchover, as the events tell.
fn in_switchover() -> VmDriver {
    let mut driver = VmDriver::new(step(Technique::PreCopy, Fallback::Abort), true);
    let at = Timestamp::from_millis;
    driver.prepare(at(0));
    while let Some((id, action)) = driver.poll_action() {
        let reply = match action {
            Action::Listen => Reply::Listening("tcp:1".to_owned()),
            _ => Reply::Done,
        };
        driver.handle_reply(at(1), id, Ok(reply));
    }
    driver.start(at(2));
    let (id, _) = driver.poll_action().unwrap();
    driver.handle_reply(at(3), id, Ok(Reply::Done));
    driver.handle_event(at(1_000), Side::Source, QemuEvent::Stopped);
    assert_eq!(driver.phase(), Phase::Switchover);
    driver
}

fn asked(driver: &mut VmDriver) -> Vec<(ActionId, Action)> {
    std::iter::from_fn(|| driver.poll_action()).collect()
}

fn says(status: MigrationStatus, run_state: RunState) -> Result<Reply, ActionError> {
    Ok(Reply::Sample(Box::new(MigrationSample::without_figures(status, run_state))))
}

#[test]
fn a_source_that_has_the_target_s_word_is_never_undone() {
    let mut driver = in_switchover();
    let completed = QemuEvent::Status(MigrationStatus::Completed);
    driver.handle_event(Timestamp::from_millis(1_100), Side::Source, completed);
    // The target's monitor passes nothing on.
    driver.handle_timeout(Timestamp::from_millis(17_000));
    assert_eq!(driver.phase(), Phase::Settling);
    driver.handle_timeout(Timestamp::from_millis(28_000));
    assert_eq!(driver.outcome(), Some(Outcome::NeedsRecovery));
    let destroys = |(_, action): &(ActionId, Action)| *action == Action::DestroyTarget;
    assert!(!asked(&mut driver).iter().any(destroys));
}

#[test]
fn both_sides_are_asked_before_a_target_is_destroyed() {
    let at = Timestamp::from_millis;
    let of = |actions: &[(ActionId, Action)], side: Side| {
        actions.iter().rev().find(|(_, action)| *action == Action::Sample(side)).unwrap().0
    };
    let undoing = || {
        let mut driver = in_switchover();
        asked(&mut driver);
        driver.handle_timeout(at(16_500));
        assert_eq!(driver.phase(), Phase::RollingBack);
        let actions = asked(&mut driver);
        assert!(!actions.iter().any(|(_, action)| *action == Action::DestroyTarget));
        (driver, of(&actions, Side::Target), of(&actions, Side::Source))
    };
    let silent = || {
        let message = "no answer".to_owned();
        Err(ActionError { class: FailureClass::Timeout, message })
    };
    let destroys = |driver: &mut VmDriver| {
        asked(driver).iter().any(|(_, action)| *action == Action::DestroyTarget)
    };
    // It waits for its memory.
    let (mut driver, target, _) = undoing();
    driver.handle_reply(at(16_501), target, says(MigrationStatus::Active, RunState::InMigrate));
    assert!(destroys(&mut driver));
    // It runs: it is the VM.
    let (mut driver, target, _) = undoing();
    driver.handle_reply(at(16_501), target, says(MigrationStatus::Completed, RunState::Running));
    assert_eq!(driver.phase(), Phase::Settling);
    assert!(!destroys(&mut driver));
    // It is silent, and the source has the VM.
    let (mut driver, target, source) = undoing();
    driver.handle_reply(at(19_500), target, silent());
    assert!(!destroys(&mut driver));
    driver.handle_reply(at(19_501), source, says(MigrationStatus::Failed, RunState::Running));
    assert!(destroys(&mut driver));
    // Nobody says who has it: both are kept.
    let (mut driver, target, source) = undoing();
    driver.handle_reply(at(19_500), target, silent());
    driver.handle_reply(at(19_500), source, silent());
    driver.handle_timeout(at(47_000));
    assert_eq!(driver.outcome(), Some(Outcome::NeedsRecovery));
    assert!(!destroys(&mut driver));
}

#[test]
fn a_source_s_death_gives_the_target_s_last_word_its_time() {
    let at = Timestamp::from_millis;
    let mut driver = VmDriver::new(step(Technique::PostCopy, Fallback::Abort), true);
    driver.prepare(at(0));
    for (id, action) in asked(&mut driver) {
        driver.handle_reply(at(1), id, Ok(Reply::Done));
        assert!(matches!(action, Action::Configure { .. }));
    }
    let (id, _) = driver.poll_action().unwrap();
    driver.handle_reply(at(1), id, Ok(Reply::Listening("tcp:1".to_owned())));
    driver.start(at(2));
    let active = || QemuEvent::Status(MigrationStatus::PostcopyActive);
    driver.handle_event(at(100), Side::Source, active());
    driver.handle_event(at(120), Side::Target, active());
    driver.handle_event(at(120), Side::Target, QemuEvent::Resumed);
    // Long after the switch: all was sent, the word is under way.
    driver.handle_event(at(5_000), Side::Source, QemuEvent::Gone);
    assert_eq!(driver.outcome(), None);
    driver.handle_event(at(5_002), Side::Target, QemuEvent::Status(MigrationStatus::Completed));
    assert_eq!(driver.phase(), Phase::Settling);
}

#[test]
fn replies_that_were_not_asked_for_are_dropped() {
    let mut driver = VmDriver::new(step(Technique::PreCopy, Fallback::Abort), true);
    driver.handle_reply(Timestamp::ZERO, ActionId(99), Ok(Reply::Done));
    assert_eq!(driver.phase(), Phase::Pending);
    assert!(driver.poll_action().is_none() && driver.poll_record().is_none());
}

/// Any input, whether it makes sense or not.
fn nonsense(driver: &mut VmDriver, now: Timestamp, kind: u8, number: u64, source: bool) {
    let side = if source { Side::Source } else { Side::Target };
    let status = |status| QemuEvent::Status(status);
    let event = match kind {
        0 => return driver.prepare(now),
        1 => return driver.start(now),
        2 => return driver.handle_timeout(now),
        3 => {
            let _ = driver.request(now, Request::Cancel);
            return;
        }
        4 => {
            let _ = driver.request(now, Request::SwitchToPostcopy);
            return;
        }
        5 | 6 => return driver.handle_reply(now, ActionId(number), Ok(Reply::Done)),
        7 | 8 => {
            let listening = Reply::Listening("tcp:9".to_owned());
            return driver.handle_reply(now, ActionId(number), Ok(listening));
        }
        9 => {
            let error = ActionError { class: FailureClass::Refused, message: String::new() };
            return driver.handle_reply(now, ActionId(number), Err(error));
        }
        10 => QemuEvent::Stopped,
        11 => QemuEvent::Resumed,
        12 => QemuEvent::Gone,
        13 => status(MigrationStatus::Active),
        14 => status(MigrationStatus::Device),
        15 => status(MigrationStatus::PostcopyActive),
        16 => status(MigrationStatus::PostcopyPaused),
        17 => status(MigrationStatus::Completed),
        18 => status(MigrationStatus::Failed),
        19 => status(MigrationStatus::Unknown("later".to_owned())),
        _ => QemuEvent::Pass(u32::try_from(number).unwrap_or(1)),
    };
    driver.handle_event(now, side, event);
}

fn any_fault() -> impl Strategy<Value = (u64, Fault)> {
    let fault = prop_oneof![
        Just(Fault::KillTarget),
        Just(Fault::KillSource),
        (1_u64..40_000).prop_map(Fault::LinkDown),
        Just(Fault::LinkDown(10_000_000)),
        Just(Fault::Cancel),
        Just(Fault::SwitchToPostcopy),
        (20_u64..900, 1_u64..900).prop_map(|(mbit, ms)| Fault::SetLimits(mbit, ms)),
        (1_u64..30_000).prop_map(Fault::MuteReplies),
    ];
    (0_u64..4_000, fault)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// Promise: never two running copies, every attempt ends, nothing is lost unless a QEMU died.
    #[test]
    fn never_two_running_copies_and_every_attempt_ends(
        technique in proptest::sample::select(Technique::ALL.to_vec()),
        fall_back in any::<bool>(),
        dirty in prop_oneof![Just(0.0), 0.0..0.6, 0.9..2.0],
        seed in any::<u64>(),
        faults in proptest::collection::vec(any_fault(), 0..4),
    ) {
        let fallback = if fall_back { Fallback::PostCopy } else { Fallback::Abort };
        let mut world = World::new(step(technique, fallback), seed, dirty, faults.clone());
        world.run();
        world.check_end().map_err(TestCaseError::fail)?;
    }

    /// Promise: whenever its controller is killed, and however often, an attempt is taken over and ends; never two running
    /// copies, nothing left, nothing lost.
    #[test]
    fn an_attempt_whose_controller_is_killed_is_taken_over_and_ends(
        technique in proptest::sample::select(Technique::ALL.to_vec()),
        fall_back in any::<bool>(),
        dirty in prop_oneof![Just(0.0), 0.0..0.6, 0.9..2.0],
        seed in any::<u64>(),
        kills in proptest::collection::vec((0_u64..4_000, 0_u64..3_000), 1..4),
        faults in proptest::collection::vec(any_fault(), 0..3),
    ) {
        let fallback = if fall_back { Fallback::PostCopy } else { Fallback::Abort };
        let kills = kills.into_iter().map(|(at, dead)| (at, Fault::KillController(dead)));
        let disturbed = !faults.is_empty();
        let all: Vec<_> = kills.chain(faults).collect();
        let mut world = World::new(step(technique, fallback), seed, dirty, all);
        world.run();
        world.check_end().map_err(TestCaseError::fail)?;
        if !disturbed {
            // Nothing but the controller failed: the VM is at one of the two hosts, and runs.
            let outcome = world.outcome();
            prop_assert!(
                matches!(outcome, Some(Outcome::Completed | Outcome::RolledBack)),
                "{outcome:?}"
            );
            prop_assert!(world.source.running != world.target.running);
        }
    }

    /// Any input at any time: no panic, no transition outside the table, an end for ever.
    #[test]
    fn nonsense_never_breaks_the_driver(
        inputs in proptest::collection::vec((0_u8..22, 0_u64..30, any::<bool>()), 0..200),
    ) {
        let mut driver = VmDriver::new(step(Technique::Hybrid, Fallback::PostCopy), true);
        let mut now = Timestamp::ZERO;
        let mut outcome = None;
        for (kind, number, source) in inputs {
            now = now + Duration::from_millis(number * 50);
            nonsense(&mut driver, now, kind, number, source);
            while driver.poll_action().is_some() {}
            while driver.poll_record().is_some() {}
            if outcome.is_some() {
                prop_assert_eq!(driver.outcome(), outcome);
            }
            outcome = driver.outcome();
        }
    }
}
