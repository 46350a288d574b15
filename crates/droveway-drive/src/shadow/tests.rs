use super::*;
use crate::{
    input::{MigrationSample, MigrationStatus as Status, RunState},
    record::RecordKind,
    testing::{name, step},
    vm::Seen,
};
use droveway_fleet::{Bandwidth, Bytes, DirtyCurve};
use droveway_plan::{
    Direction, Reservation,
    replan::{Change, Expected, Prospects, Rung, Standing},
};
use proptest::prelude::*;
use std::time::Duration;

fn plan(count: usize) -> Plan {
    let step = |index| step(name(index), Technique::Hybrid, Fallback::PostCopy);
    let ends = ("alpha".parse().unwrap(), "beta".parse().unwrap());
    let mut plan = Plan::new("p", "adaptive", ends, 1, (0..count).map(step).collect());
    plan.tuning = true;
    plan.reservations = vec![Reservation {
        port: "alpha".parse().unwrap(),
        direction: Direction::Tx,
        rate: "500Mbit/s".parse().unwrap(),
    }];
    plan
}

fn at(milliseconds: u64) -> Timestamp {
    Timestamp::ZERO + Duration::from_millis(milliseconds)
}

fn there(status: Status, state: RunState, sent: u64, left: u64) -> Seen {
    let mut sample = MigrationSample::without_figures(status, state);
    (sample.transferred, sample.remaining) = (Bytes::from_mib(sent), Bytes::from_mib(left));
    sample.total = Bytes::from_mib(if sent + left > 0 { 128 } else { 0 });
    Seen::There(Box::new(sample))
}

fn look(source: Seen, target: Seen, passes: u32) -> Look {
    Look { source, target, passes, may_postcopy: false }
}

fn idle() -> Look {
    look(there(Status::None, RunState::Running, 0, 0), Seen::Gone, 0)
}

fn sending(sent: u64, left: u64, passes: u32) -> Look {
    let waits = there(Status::Active, RunState::InMigrate, 0, 0);
    look(there(Status::Active, RunState::Running, sent, left), waits, passes)
}

fn moved() -> Look {
    let left = there(Status::Completed, RunState::PostMigrate, 120, 0);
    look(left, there(Status::Completed, RunState::Running, 0, 0), 2)
}

fn told(shadow: &mut Shadow) -> Vec<(VmId, RecordKind)> {
    std::iter::from_fn(|| shadow.poll_record()).map(|(vm, record, _)| (vm, record.kind)).collect()
}

fn standing(shadow: &Shadow, now: u64, vm: &VmId) -> Standing {
    let situation = shadow.situation(at(now));
    situation.vms.iter().find(|it| it.vm == *vm).unwrap().standing
}

#[test]
fn a_move_of_another_tool_is_told_phase_by_phase() {
    let (mut shadow, vm) = (Shadow::new(plan(1)), name(0));
    shadow.handle_look(at(0), &vm, &idle());
    assert!(told(&mut shadow).is_empty() && shadow.began_at().is_none());
    shadow.handle_look(at(100), &vm, &sending(1, 127, 1));
    assert_eq!(shadow.began_at(), Some(at(100)));
    shadow.handle_look(at(5_000), &vm, &sending(90, 38, 1));
    // The second pass began between the two looks: half of the MiB that were sent since count as its own.
    shadow.handle_look(at(6_100), &vm, &sending(110, 20, 2));
    let Standing::PreCopy(passing) = standing(&shadow, 6_200, &vm) else { panic!("pre-copy") };
    assert_eq!((passing.passes, passing.pass_time), (1, Duration::from_millis(100)));
    let dirtied = passing.dirtied.unwrap();
    assert_eq!((dirtied.bytes, dirtied.time), (Bytes::from_mib(30), Duration::from_secs(6)));
    shadow.handle_look(at(6_500), &vm, &moved());
    assert_eq!(standing(&shadow, 6_500, &vm), Standing::Moved);
    assert!(shadow.is_over());
    let kinds: Vec<_> = told(&mut shadow).into_iter().map(|(_, kind)| kind).collect();
    let (transferred, remaining) = (Bytes::from_mib(110), Bytes::from_mib(20));
    assert_eq!(
        kinds,
        [
            RecordKind::Entered(Phase::PreCopy),
            RecordKind::Pass(1),
            RecordKind::Pass(2),
            RecordKind::Boundary { pass: 2, transferred, remaining },
            RecordKind::Stopped,
            RecordKind::Resumed,
            RecordKind::Ended { outcome: Outcome::Completed, reason: None },
        ]
    );
    // It went by pre-copy, whatever Droveway's own plan says.
    assert_eq!(shadow.plan().moves[0].technique, Technique::PreCopy);
}

#[test]
fn a_split_memory_and_a_broken_path_are_told() {
    let (mut shadow, vm) = (Shadow::new(plan(1)), name(0));
    let split = |status, left| {
        let source = there(status, RunState::PostMigrate, 60, left);
        // The switch counts as a pass.
        look(source, there(Status::PostcopyActive, RunState::Running, 0, 0), 2)
    };
    shadow.handle_look(at(0), &vm, &Look { may_postcopy: true, ..sending(1, 127, 1) });
    shadow.handle_look(at(300), &vm, &split(Status::PostcopyActive, 60));
    assert!(matches!(standing(&shadow, 300, &vm), Standing::PostCopy { passes: 0, .. }));
    shadow.handle_look(at(400), &vm, &split(Status::PostcopyPaused, 40));
    shadow.handle_look(at(900), &vm, &split(Status::PostcopyActive, 30));
    assert!(!shadow.is_over());
    shadow.handle_look(at(1_500), &vm, &moved());
    let entered = |(_, kind): &(VmId, RecordKind)| match kind {
        RecordKind::Entered(phase) => Some(*phase),
        _ => None,
    };
    let phases: Vec<_> = told(&mut shadow).iter().filter_map(entered).collect();
    let expected = [Phase::PreCopy, Phase::PostCopy, Phase::PostCopyPaused, Phase::PostCopy];
    assert_eq!(phases, expected);
    assert_eq!(shadow.plan().moves[0].technique, Technique::PostCopy);
    assert_eq!(shadow.outcomes().collect::<Vec<_>>(), [(&vm, Some(Outcome::Completed))]);
}

/// What an earlier attempt left is none; one that is given up leaves the VM at the source, for QEMU's reason.
#[test]
fn attempts_that_come_to_nothing() {
    let (mut shadow, vm) = (Shadow::new(plan(2)), name(0));
    let gave_up = |error: Option<&str>| {
        let mut sample = MigrationSample::without_figures(Status::Failed, RunState::Running);
        sample.error = error.map(str::to_owned);
        look(Seen::There(Box::new(sample)), Seen::Gone, 1)
    };
    shadow.handle_look(at(0), &vm, &gave_up(Some("an old error")));
    assert!(shadow.began_at().is_none());
    shadow.handle_look(at(100), &vm, &sending(1, 127, 1));
    shadow.handle_look(at(200), &vm, &gave_up(Some("Unable to write to socket")));
    let last = told(&mut shadow).pop().unwrap().1;
    let reason = Some("Unable to write to socket".to_owned());
    assert_eq!(last, RecordKind::Ended { outcome: Outcome::RolledBack, reason });
    // The other one was never begun; whoever has seen enough is told so.
    shadow.stop_waiting(at(300));
    assert!(shadow.is_over());
    let (vm, last) = told(&mut shadow).pop().unwrap();
    assert_eq!(vm, name(1));
    assert!(matches!(last, RecordKind::Ended { outcome: Outcome::NotStarted, reason: Some(_) }));
}

/// A QEMU that does not answer, or has just been left, is no end; two that are gone are one after a while.
#[test]
fn silence_is_no_end() {
    let (mut shadow, vm) = (Shadow::new(plan(1)), name(0));
    shadow.handle_look(at(0), &vm, &sending(1, 127, 1));
    for (now, source, target) in [
        (100, Seen::Silent, Seen::Silent),
        (200, Seen::Silent, there(Status::Active, RunState::InMigrate, 0, 0)),
        (300, there(Status::Completed, RunState::PostMigrate, 120, 0), Seen::Silent),
        // A target that has everything and does not run yet.
        (350, Seen::Gone, there(Status::Completed, RunState::Paused, 0, 0)),
        (400, Seen::Gone, Seen::Gone),
        (4_000, Seen::Gone, Seen::Gone),
    ] {
        shadow.handle_look(at(now), &vm, &look(source, target, 1));
        assert!(!shadow.is_over(), "{now}");
    }
    shadow.handle_look(at(5_500), &vm, &look(Seen::Gone, Seen::Gone, 0));
    assert_eq!(shadow.outcomes().next().unwrap().1, Some(Outcome::NeedsRecovery));
}

/// Where the target's monitor is held for good the source's word counts, and is said to be no more than that.
#[test]
fn an_end_that_only_the_source_tells_of_is_one_after_a_while() {
    let (mut shadow, vm) = (Shadow::new(plan(1)), name(0));
    shadow.handle_look(at(0), &vm, &sending(1, 127, 1));
    let sent = || look(there(Status::Completed, RunState::PostMigrate, 120, 0), Seen::Silent, 1);
    for now in [5_000, 9_000, 14_900] {
        shadow.handle_look(at(now), &vm, &sent());
        assert!(!shadow.is_over(), "{now}");
    }
    shadow.handle_look(at(15_100), &vm, &sent());
    assert_eq!(shadow.outcomes().next().unwrap().1, Some(Outcome::Completed));
    let is_warning = |(_, kind): &(VmId, RecordKind)| matches!(kind, RecordKind::Warning(_));
    assert_eq!(told(&mut shadow).iter().filter(|it| is_warning(it)).count(), 1);
}

/// A monitor that somebody holds is told of, once for each time.
#[test]
fn a_monitor_that_does_not_answer_is_told_of() {
    let (mut shadow, vm) = (Shadow::new(plan(1)), name(0));
    let silent = || look(Seen::Silent, Seen::Gone, 0);
    let mut warnings = Vec::new();
    for second in 0..60_u64 {
        let seen = if second == 30 { idle() } else { silent() };
        shadow.handle_look(at(1_000 * second), &vm, &seen);
        warnings.extend(told(&mut shadow).into_iter().map(|(_, kind)| (second, kind)));
    }
    let seconds: Vec<_> = warnings.iter().map(|(second, _)| *second).collect();
    assert_eq!(seconds, [10, 41], "{warnings:?}");
    assert!(warnings.iter().all(|(_, kind)| matches!(kind, RecordKind::Warning(_))));
}

fn prospects(vm: &VmId) -> Prospects {
    let expected = Expected {
        start: Duration::ZERO,
        first_pass: 1,
        pass_ends: BTreeMap::from([(1, Duration::from_secs(2))]),
        end: Duration::from_secs(3),
        curve: DirtyCurve::Uniform { dirty_bytes_per_second: 0.0, memory_bytes: 1e8 },
    };
    let moves = BTreeMap::from([(vm.clone(), expected)]);
    Prospects {
        moves,
        end: Duration::from_secs(3),
        capacity: Bandwidth::from_bytes_per_second(100_000_000),
        ..Prospects::default()
    }
}

/// A planner is asked when a VM is begun, is told that the plan is another tool's, and what it says changes nothing.
#[test]
fn a_planner_is_asked_and_nothing_is_changed() {
    let vm = name(0);
    let adaptation = Adaptation { prospects: prospects(&vm), deadlines: BTreeMap::new() };
    let mut shadow = Shadow::new(plan(2)).adapting(adaptation);
    assert!(shadow.plan().reservations.is_empty() && !shadow.plan().tuning);
    shadow.handle_look(at(0), &vm, &idle());
    assert!(shadow.poll_question().is_none());
    shadow.handle_look(at(1_000), &vm, &Look { may_postcopy: true, ..sending(1, 127, 1) });
    shadow.handle_tick(at(1_100));
    assert!(shadow.poll_question().is_none(), "what happens together is waited for");
    shadow.handle_look(at(1_300), &vm, &sending(3, 125, 1));
    shadow.handle_tick(at(1_300));
    let question = shadow.poll_question().expect("a question");
    assert!(question.is_foreign && question.trigger.contains("vm0 was begun"), "{question:?}");
    assert_eq!(question.elapsed, Duration::from_millis(300));
    assert!(question.vms.iter().all(|it| it.may_postcopy));
    let before = shadow.plan().clone();
    let mut child = before.clone();
    (child.generation, child.parent) = (before.generation + 1, Some(before.id.clone()));
    child.moves[0].technique = Technique::PostCopy;
    let answer = Answer {
        question: question.question,
        verdict: Verdict::Change(Box::new(Change { plan: child, prospects: prospects(&vm) })),
        reason: "vm0 was begun".to_owned(),
        inputs: "as planned 9.0 s".to_owned(),
        choice: "vm0 post-copy, not pre-copy".to_owned(),
        runner_up: None,
        margin: 3.5,
        rung: Rung::Calm,
        prospects: prospects(&vm),
    };
    shadow.handle_answer(at(1_400), question.question + 1, Some(answer.clone()));
    assert!(shadow.poll_decision().is_none(), "it was not asked for");
    shadow.handle_answer(at(1_400), question.question, Some(answer));
    let decision = shadow.poll_decision().expect("a decision");
    assert_eq!(decision.choice, "rather vm0 post-copy, not pre-copy");
    assert_eq!((decision.margin, decision.adopted), (Some(3.5), false));
    assert_eq!(*shadow.plan(), before);
    // A pass that lasts much longer than forecast is a reason to ask again.
    shadow.handle_look(at(6_000), &vm, &sending(60, 68, 1));
    shadow.handle_tick(at(6_000));
    shadow.handle_look(at(6_300), &vm, &sending(62, 66, 1));
    shadow.handle_tick(at(6_300));
    assert!(shadow.poll_question().expect("a question").trigger.contains("pass 1 of vm0"));
}

fn any_seen() -> impl Strategy<Value = Seen> {
    let statuses = prop::sample::select(vec![
        Status::None,
        Status::Setup,
        Status::Active,
        Status::Device,
        Status::PostcopyActive,
        Status::PostcopyPaused,
        Status::PostcopyRecover,
        Status::Completed,
        Status::Failed,
        Status::Cancelling,
        Status::Cancelled,
        Status::Unknown("colo".to_owned()),
    ]);
    let states = prop::sample::select(vec![
        RunState::Running,
        RunState::Paused,
        RunState::InMigrate,
        RunState::FinishMigrate,
        RunState::PostMigrate,
        RunState::Other("guest-panicked".to_owned()),
    ]);
    prop_oneof![
        Just(Seen::Gone),
        Just(Seen::Silent),
        (statuses, states, 0..200_u64, 0..200_u64)
            .prop_map(|(status, state, sent, left)| there(status, state, sent, left)),
    ]
}

proptest! {
    /// Whatever looks say, and in whatever order: a VM ends at most once, nothing is told of it afterwards, one that ended well was
    /// seen at the target or its source says so of a silent one, and what was sent never becomes less.
    #[test]
    fn any_looks_make_sense(
        looks in prop::collection::vec((any_seen(), any_seen(), 0..5_u32, 0..3_000_u64, 0..2_usize), 0..60)
    ) {
        let adaptation = Adaptation { prospects: prospects(&name(0)), deadlines: BTreeMap::new() };
        let mut shadow = Shadow::new(plan(2)).adapting(adaptation);
        let mut now = 0;
        let mut ended: BTreeMap<VmId, Outcome> = BTreeMap::new();
        let mut sent: BTreeMap<VmId, Bytes> = BTreeMap::new();
        let mut asked = Vec::new();
        for (source, target, passes, later, index) in looks {
            now += later;
            let vm = name(index);
            let runs = |side: &Seen| matches!(side, Seen::There(it) if it.run_state == RunState::Running);
            let rests = matches!(&target, Seen::There(it) if it.run_state == RunState::Paused);
            let has_arrived = (runs(&target) || rests) && !runs(&source);
            let is_sent =
                matches!(&source, Seen::There(it) if it.status == Status::Completed);
            let may_have_arrived = has_arrived || target == Seen::Silent && is_sent;
            shadow.handle_look(at(now), &vm, &look(source, target, passes));
            shadow.handle_tick(at(now));
            while let Some((vm, record, progress)) = shadow.poll_record() {
                prop_assert!(!ended.contains_key(&vm), "{vm}: {record:?} after its end");
                let before = sent.insert(vm.clone(), progress.transferred);
                prop_assert!(before.is_none_or(|before| before <= progress.transferred));
                if let RecordKind::Ended { outcome, .. } = record.kind {
                    prop_assert!(outcome != Outcome::Completed || may_have_arrived, "{vm}");
                    ended.insert(vm, outcome);
                }
            }
            asked.extend(std::iter::from_fn(|| shadow.poll_question()).map(|_| now));
        }
        shadow.stop(at(now));
        prop_assert!(shadow.is_over());
        for pair in asked.windows(2) {
            let [before, after] = pair else { continue };
            prop_assert!(u128::from(after - before) >= adapt::ASK_EVERY.as_millis());
        }
    }
}
