//! Answers of planners, sound and unsound.

use super::*;
use crate::CHANGES_PER_MINUTE;
use droveway_plan::replan::{Answer, Change, Prospects, Rung, Verdict};

pub(super) fn answer(question: u64, plan: Plan) -> Answer {
    let change = Change { plan, prospects: Prospects::default() };
    Answer {
        question,
        verdict: Verdict::Change(Box::new(change)),
        reason: "test".to_owned(),
        inputs: "test".to_owned(),
        choice: "test".to_owned(),
        runner_up: None,
        margin: 1.0,
        rung: Rung::Calm,
        prospects: Prospects::default(),
    }
}

/// What a planner may get wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    OldQuestion,
    LowGeneration,
    Foreign,
    UnknownVm,
    LeavesOneOut,
    Unprepared,
    NoWindow,
    Twice,
}

const FLAWS: [Flaw; 9] = [
    Flaw::None,
    Flaw::OldQuestion,
    Flaw::LowGeneration,
    Flaw::Foreign,
    Flaw::UnknownVm,
    Flaw::LeavesOneOut,
    Flaw::Unprepared,
    Flaw::NoWindow,
    Flaw::Twice,
];

/// A child of the plan in the situation: another window, the order turned, and a flaw.
fn child(situation: &droveway_plan::replan::Situation, window: u32, flaw: Flaw) -> Plan {
    let mut plan = situation.plan.clone();
    plan.parent = Some(plan.id.clone());
    plan.generation += 1;
    plan.id = format!("{}.{}", plan.id, plan.generation);
    plan.concurrency = window;
    plan.moves.reverse();
    match flaw {
        Flaw::None | Flaw::OldQuestion => {}
        Flaw::LowGeneration => plan.generation = situation.plan.generation,
        Flaw::Foreign => plan.parent = Some("another".to_owned()),
        Flaw::UnknownVm => {
            let mut step = plan.moves[0].clone();
            step.vm = "nobody".parse().unwrap();
            plan.moves.push(step);
        }
        Flaw::LeavesOneOut => plan.moves.clear(),
        Flaw::Unprepared => {
            for step in &mut plan.moves {
                step.technique = Technique::PostCopy;
            }
        }
        Flaw::NoWindow => plan.concurrency = 0,
        Flaw::Twice => plan.moves.push(plan.moves[0].clone()),
    }
    plan
}

/// Carries `plan` out, each question answered with the next of `answers`. Returns the world and the largest window ever.
fn carried_out(plan: Plan, steps: &[u32], answers: &[(u32, Flaw)]) -> (Answers, u32, usize) {
    const ROUNDS_MAX: usize = 1000;
    let mut largest = plan.concurrency;
    let mut world = Answers::new(plan, steps);
    world.gang = std::mem::replace(
        &mut world.gang,
        GangDriver::new(self::plan(1, 1), &BTreeMap::new()).unwrap(),
    )
    .adapting(Adaptation::default());
    world.drain();
    world.gang.start(world.now);
    let mut answers = answers.iter().cycle();
    let mut adopted = 0;
    for _ in 0..ROUNDS_MAX {
        world.drain();
        while let Some(action) = world.gang.poll_gang_action() {
            let GangAction::Replan(situation) = action else { continue };
            let Some((window, flaw)) = answers.next() else { continue };
            let generation = world.gang.plan().generation;
            let mut question = situation.question;
            if *flaw == Flaw::OldQuestion {
                question += 1;
            }
            let child = child(&situation, *window, *flaw);
            world.gang.handle_answer(world.now, question, Some(answer(question, child)));
            let now = world.gang.plan().generation;
            if now != generation {
                assert_eq!((*flaw, now), (Flaw::None, generation + 1));
                adopted += 1;
                largest = largest.max(*window);
            }
        }
        world.drain();
        if world.gang.is_over() {
            return (world, largest, adopted);
        }
        world.now = world.now + Duration::from_secs(1);
        let moving: Vec<VmId> = world
            .gang
            .drivers()
            .filter(|(_, driver)| driver.phase() == Phase::PreCopy)
            .map(|(vm, _)| vm.clone())
            .collect();
        for vm in moving {
            let left = world.steps_left.get_mut(&vm).unwrap();
            *left -= 1;
            if *left == 0 {
                world.arrive(&vm);
            }
        }
        world.gang.handle_timeout(world.now);
    }
    panic!("the gang never ended");
}

#[test]
fn a_serial_plan_becomes_parallel_and_the_other_way_round() {
    let (world, _, adopted) = carried_out(plan(5, 1), &[2, 3, 3, 3, 3], &[(3, Flaw::None)]);
    assert!(adopted >= 1);
    assert_eq!(world.most_at_once, 3);
    assert_eq!(world.started.len(), 5);
    // Those that run when the window shrinks run on.
    let (world, ..) = carried_out(plan(5, 3), &[2, 9, 9, 3, 3], &[(1, Flaw::None)]);
    assert_eq!(world.started.len(), 5);
    assert!(world.gang.outcomes().all(|(_, outcome)| outcome == Outcome::Completed));
}

#[test]
fn what_is_no_child_of_the_plan_in_force_is_refused_and_said_to_be() {
    for flaw in FLAWS.into_iter().filter(|flaw| *flaw != Flaw::None) {
        let (mut world, largest, adopted) = carried_out(plan(4, 1), &[2; 4], &[(4, flaw)]);
        assert_eq!((largest, adopted, world.most_at_once), (1, 0, 1), "{flaw:?}");
        let mut told = 0;
        while let Some(decision) = world.gang.poll_decision() {
            assert!(!decision.adopted);
            assert!(decision.choice.starts_with("go on as planned ("), "{decision:?}");
            told += 1;
        }
        // What was not asked for is not even looked at.
        assert_eq!(told > 0, flaw != Flaw::OldQuestion, "{flaw:?}");
    }
}

#[test]
fn changes_are_bounded_by_the_minute() {
    let count = 20;
    let (_, _, adopted) = carried_out(plan(count, 1), &[3; 20], &[(1, Flaw::None)]);
    // Twenty VMs of three seconds each: a minute.
    assert!((CHANGES_PER_MINUTE..=CHANGES_PER_MINUTE + 2).contains(&adopted), "{adopted}");
}

proptest! {
    #[test]
    fn no_answer_breaks_the_window_or_keeps_a_vm_from_its_turn(
        steps in proptest::collection::vec(0_u32..6, 1..9),
        concurrency in 1_u32..4,
        answers in proptest::collection::vec(
            (1_u32..6, proptest::sample::select(FLAWS.to_vec())), 1..6),
    ) {
        let (mut world, largest, _) = carried_out(plan(steps.len(), concurrency), &steps, &answers);
        prop_assert!(world.most_at_once <= largest as usize);
        prop_assert_eq!(world.started.len(), steps.len());
        let mut ended = 0;
        while let Some((_, record)) = world.gang.poll_record() {
            ended += usize::from(matches!(record.kind, RecordKind::Ended { .. }));
        }
        prop_assert_eq!(ended, steps.len(), "every attempt ends exactly once");
        let completed =
            world.gang.outcomes().filter(|(_, outcome)| *outcome == Outcome::Completed).count();
        prop_assert_eq!(completed, steps.iter().filter(|steps| **steps > 0).count());
    }
}
