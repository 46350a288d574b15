//! Requests of operators, at any time.

use super::*;
use crate::operator::{OperatorRequest, Refusal};
use droveway_fleet::Urgency;
use droveway_plan::replan::Prospects;

fn vm(name: &str) -> VmId {
    name.parse().unwrap()
}

fn rate(text: &str) -> RateLimit {
    text.parse().unwrap()
}

/// A world whose first VMs move.
fn moving(plan: Plan, steps: &[u32]) -> Answers {
    let mut world = Answers::new(plan, steps);
    world.drain();
    world.gang.start(world.now);
    world.drain();
    world
}

/// Performs what is to be done and tells which limits were set.
fn set(world: &mut Answers) -> Vec<(VmId, Action)> {
    let mut all = Vec::new();
    while let Some((vm, id, action)) = world.gang.poll_action() {
        let reply = match &action {
            Action::Sample(side) => Reply::Sample(Box::new(world.sample(&vm, *side))),
            Action::Listen => Reply::Listening("tcp:1".to_owned()),
            _ => Reply::Done,
        };
        if !matches!(action, Action::Sample(_)) {
            all.push((vm.clone(), action));
        }
        world.gang.handle_reply(world.now, &vm, id, Ok(reply));
    }
    all
}

#[test]
fn a_ceiling_goes_to_those_that_move_and_to_those_that_wait() {
    let mut world = moving(plan(2, 1), &[5, 5]);
    let limit = rate("50Mbit/s");
    let request = OperatorRequest::SetBandwidth { vm: None, limit };
    let accepted = world.gang.operate(world.now, &request).unwrap();
    assert_eq!(accepted.vms, [vm("vm0"), vm("vm1")]);
    assert!(!accepted.replans, "nobody plans again");
    let done = set(&mut world);
    assert!(done.contains(&(vm("vm1"), Action::SetBandwidth(limit))), "{done:?}");
    assert!(done.contains(&(vm("vm1"), Action::SetPostcopyBandwidth(limit))), "{done:?}");
    let configured = done.iter().any(|(name, action)| {
        let set = matches!(action, Action::Configure { limits, side: Side::Source, .. } if limits.bandwidth == limit);
        set && *name == vm("vm0")
    });
    assert!(configured, "{done:?}");
    assert_eq!((world.gang.plan().generation, world.gang.plan().id.as_str()), (1, "p.g1"));
    assert_eq!(world.gang.plan().parent.as_deref(), Some("p"));
    let decision = world.gang.poll_decision().unwrap();
    assert_eq!((decision.reason.as_str(), decision.adopted), ("operator", true));
    assert!(decision.inputs.contains("bandwidth 50Mbit/s"), "{decision:?}");
}

#[test]
fn a_lifted_ceiling_leaves_what_the_plan_holds_back_after_a_switch() {
    let mut held = exposing(1, Technique::Hybrid, 1);
    held.moves[0].postcopy_bandwidth = rate("80Mbit/s");
    let mut world = moving(held, &[9]);
    for (limit, after_switch) in
        [("50Mbit/s", "50Mbit/s"), ("90Mbit/s", "80Mbit/s"), ("unlimited", "80Mbit/s")]
    {
        let request = OperatorRequest::SetBandwidth { vm: Some(vm("vm0")), limit: rate(limit) };
        world.gang.operate(world.now, &request).unwrap();
        let plan = &world.gang.driver(&vm("vm0")).unwrap().plan().clone();
        assert_eq!((plan.bandwidth, plan.postcopy_bandwidth), (rate(limit), rate(after_switch)));
    }
}

#[test]
fn a_downtime_is_set_and_stricter_ones_of_vms_stay() {
    let mut world = moving(plan(2, 2), &[5, 5]);
    let bears = [(vm("vm0"), Duration::from_millis(100))].into();
    world.gang =
        std::mem::replace(&mut world.gang, GangDriver::new(plan(1, 1), &BTreeMap::new()).unwrap())
            .bearing(bears);
    let limit = Duration::from_millis(500);
    world.gang.operate(world.now, &OperatorRequest::SetMaxDowntime { vm: None, limit }).unwrap();
    let done = set(&mut world);
    let of = |name: &str| {
        done.iter().find_map(|(vm, action)| match action {
            Action::SetDowntimeLimit(limit) if vm.as_str() == name => Some(*limit),
            _ => None,
        })
    };
    assert_eq!(of("vm1"), Some(limit));
    assert_eq!(of("vm0"), Some(Duration::from_millis(100)));
    // Named, it bears what the operator says.
    let request = OperatorRequest::SetMaxDowntime { vm: Some(vm("vm0")), limit };
    world.gang.operate(world.now, &request).unwrap();
    assert_eq!(set(&mut world), [(vm("vm0"), Action::SetDowntimeLimit(limit))]);
}

#[test]
fn what_cannot_be_done_is_refused_with_its_reason_and_recorded() {
    let mut hybrids = exposing(4, Technique::Hybrid, 4);
    hybrids.concurrency = 2;
    for step in &mut hybrids.moves {
        step.technique =
            if step.vm.as_str() == "vm3" { Technique::Hybrid } else { Technique::PreCopy };
    }
    let mut world = moving(hybrids, &[9; 4]);
    let seconds = |s| Some(Duration::from_secs(s));
    let zero = RateLimit::At(Bandwidth::ZERO);
    world.now = world.now + Duration::from_secs(5);
    let refused = |world: &mut Answers, request: OperatorRequest| {
        world.gang.operate(world.now, &request).unwrap_err()
    };
    let switch = |name: &str| OperatorRequest::Switch { vm: vm(name) };
    let cancel = |name: &str| OperatorRequest::Cancel { vm: Some(vm(name)) };
    for (request, refusal) in [
        (cancel("nobody"), Refusal::NotInRun(vm("nobody"))),
        (switch("nobody"), Refusal::NotInRun(vm("nobody"))),
        (switch("vm2"), Refusal::PostcopyForbidden(vm("vm2"))),
        (switch("vm0"), Refusal::NotMigrating(vm("vm0"))),
        (OperatorRequest::SetBandwidth { vm: None, limit: zero }, Refusal::NoBandwidth),
        (OperatorRequest::SetMaxDowntime { vm: None, limit: Duration::ZERO }, Refusal::NoDowntime),
        (
            OperatorRequest::SetDeadline { vm: None, deadline: seconds(4) },
            Refusal::DeadlinePassed {
                deadline: Duration::from_secs(4),
                elapsed: Duration::from_secs(5),
            },
        ),
    ] {
        assert_eq!(refused(&mut world, request), refusal);
    }
    assert_eq!(world.gang.plan().generation, 0, "a refused request changes nothing");
    // Switched, there is no way back and nothing to switch.
    world.gang.operate(world.now, &switch("vm3")).unwrap();
    world.drain();
    assert_eq!(world.split, [vm("vm3")]);
    assert_eq!(refused(&mut world, switch("vm3")), Refusal::AlreadySwitched(vm("vm3")));
    assert_eq!(refused(&mut world, cancel("vm3")), Refusal::PastReturn(vec![vm("vm3")]));
    let downtime = Duration::from_millis(50);
    let limited = OperatorRequest::SetMaxDowntime { vm: Some(vm("vm3")), limit: downtime };
    assert_eq!(refused(&mut world, limited), Refusal::DowntimeDecided(vm("vm3")));
    world.arrive(&vm("vm3"));
    world.drain();
    assert_eq!(refused(&mut world, cancel("vm3")), Refusal::Over(vm("vm3")));
    let told: Vec<_> = std::iter::from_fn(|| world.gang.poll_decision()).collect();
    assert_eq!(told.len(), 12);
    assert!(told.iter().all(|decision| decision.reason == OPERATOR));
    assert_eq!(told.iter().filter(|decision| decision.adopted).count(), 1);
    assert!(told[0].choice.starts_with("refused: VM 'nobody' is not moved"), "{:?}", told[0]);
}

#[test]
fn a_cancelled_vm_stays_and_the_next_one_starts() {
    let mut world = moving(plan(2, 1), &[9, 2]);
    let request = OperatorRequest::Cancel { vm: Some(vm("vm1")) };
    world.gang.operate(world.now, &request).unwrap();
    world.settle(&vm("vm1"));
    assert_eq!(world.gang.driver(&vm("vm1")).unwrap().outcome(), Some(Outcome::RolledBack));
    assert_eq!(world.started, [vm("vm1"), vm("vm0")]);
}

#[test]
fn cancelling_all_says_who_completes_all_the_same() {
    let mut world = moving(exposing(2, Technique::Hybrid, 2), &[9, 9]);
    world.gang.operate(world.now, &OperatorRequest::Switch { vm: vm("vm1") }).unwrap();
    world.drain();
    let all = OperatorRequest::Cancel { vm: None };
    let accepted = world.gang.operate(world.now, &all).unwrap();
    assert_eq!(accepted.past_return, [vm("vm1")]);
    world.settle(&vm("vm0"));
    assert_eq!(
        world.gang.operate(world.now, &all),
        Err(Refusal::PastReturn(vec![vm("vm1")])),
        "nobody is left who could stay"
    );
    world.arrive(&vm("vm1"));
    world.drain();
    assert!(world.gang.is_over());
    assert_eq!(world.gang.operate(world.now, &all), Err(Refusal::RunOver));
}

/// A question about the plan before is void, and another is asked.
#[test]
fn urgency_and_deadline_are_planned_with() {
    let mut world = Answers::new(plan(3, 1), &[9; 3]);
    world.gang =
        std::mem::replace(&mut world.gang, GangDriver::new(plan(1, 1), &BTreeMap::new()).unwrap())
            .adapting(Adaptation { prospects: Prospects::default(), ..Adaptation::default() });
    world.drain();
    world.gang.start(world.now);
    world.drain();
    let accepted =
        world.gang.operate(world.now, &OperatorRequest::SetUrgency(Urgency::Critical)).unwrap();
    assert!(accepted.replans);
    let deadline = Some(Duration::from_secs(60));
    let own = OperatorRequest::SetDeadline { vm: Some(vm("vm0")), deadline };
    world.gang.operate(world.now, &own).unwrap();
    assert_eq!(world.gang.plan().urgency, Urgency::Critical);
    world.now = world.now + Duration::from_secs(1);
    world.gang.handle_timeout(world.now);
    world.drain();
    let action = world.gang.poll_gang_action();
    let Some(GangAction::Replan(situation)) = action else { panic!("{action:?}") };
    assert_eq!(situation.wishes.urgency, Some(Urgency::Critical));
    assert_eq!(situation.wishes.deadline_of(&vm("vm0")), Some(deadline));
    assert_eq!(situation.plan.generation, 2);
    assert!(situation.trigger.contains("deadline of vm0 60 s"), "{}", situation.trigger);
    // Another request: the answer to the question before is about a plan that is not in force any more.
    let request = OperatorRequest::SetDeadline { vm: None, deadline };
    world.gang.operate(world.now, &request).unwrap();
    let child = situation.plan.child();
    let late = super::adapt::answer(situation.question, child);
    world.gang.handle_answer(world.now, situation.question, Some(late));
    assert_eq!(world.gang.plan().generation, 3, "the operator's, not the answer's");
    assert!(world.gang.plan().deadline.is_some());
}

/// What a planner says later stays below what the operator asked for.
#[test]
fn a_later_plan_keeps_to_the_operator_s_ceiling() {
    let mut world = Answers::new(plan(2, 1), &[9; 2]);
    world.gang =
        std::mem::replace(&mut world.gang, GangDriver::new(plan(1, 1), &BTreeMap::new()).unwrap())
            .adapting(Adaptation::default());
    world.drain();
    world.gang.start(world.now);
    let limit = rate("50Mbit/s");
    world.gang.operate(world.now, &OperatorRequest::SetBandwidth { vm: None, limit }).unwrap();
    world.drain();
    world.now = world.now + Duration::from_secs(1);
    world.gang.handle_timeout(world.now);
    world.drain();
    let Some(GangAction::Replan(situation)) = world.gang.poll_gang_action() else { panic!() };
    let mut child = situation.plan.child();
    for step in &mut child.moves {
        step.bandwidth = RateLimit::Unlimited;
    }
    let question = situation.question;
    world.gang.handle_answer(world.now, question, Some(super::adapt::answer(question, child)));
    assert_eq!(world.gang.plan().generation, 2);
    assert!(world.gang.plan().moves.iter().all(|step| step.bandwidth == limit));
}

#[test]
fn who_waits_for_a_quieter_phase_begins_in_time_for_a_new_deadline() {
    let mut waiting = plan(1, 1);
    waiting.start_after = Some("100s".parse().unwrap());
    let prospects = Prospects { end: Duration::from_secs(8), ..Prospects::default() };
    let mut gang = GangDriver::new(waiting, &BTreeMap::new())
        .unwrap()
        .adapting(Adaptation { prospects, ..Adaptation::default() });
    let at = |s: u64| Timestamp::from_millis(s * 1000);
    gang.start(at(0));
    assert_eq!(gang.poll_timeout(), Some(at(100)));
    let deadline = Some(Duration::from_secs(30));
    gang.operate(at(1), &OperatorRequest::SetDeadline { vm: None, deadline }).unwrap();
    // Eight seconds, and a quarter more.
    assert_eq!(gang.poll_timeout(), Some(at(20)));
    gang.operate(at(2), &OperatorRequest::SetUrgency(Urgency::Critical)).unwrap();
    gang.handle_timeout(at(2));
    assert!(gang.poll_timeout().is_none_or(|due| due != at(20)));
}

fn any_request(count: usize) -> impl Strategy<Value = OperatorRequest> {
    let name = move || (0..=count).prop_map(|index| vm(&format!("vm{index}")));
    let whose = move || proptest::option::of(name());
    prop_oneof![
        (whose(), 1_u64..900).prop_map(|(vm, mbit)| {
            let limit = RateLimit::At(Bandwidth::from_bits_per_second(mbit * 1_000_000));
            OperatorRequest::SetBandwidth { vm, limit }
        }),
        whose().prop_map(|vm| OperatorRequest::SetBandwidth { vm, limit: RateLimit::Unlimited }),
        (whose(), 0_u64..900).prop_map(|(vm, ms)| {
            OperatorRequest::SetMaxDowntime { vm, limit: Duration::from_millis(ms) }
        }),
        (whose(), proptest::option::of(0_u64..40)).prop_map(|(vm, seconds)| {
            OperatorRequest::SetDeadline { vm, deadline: seconds.map(Duration::from_secs) }
        }),
        proptest::sample::select(Urgency::ALL.to_vec()).prop_map(OperatorRequest::SetUrgency),
        whose().prop_map(|vm| OperatorRequest::Cancel { vm }),
        name().prop_map(|vm| OperatorRequest::Switch { vm }),
    ]
}

proptest! {
    /// Whatever is asked for, and whenever: every attempt ends once, windows and exposure hold, and ceilings are kept.
    #[test]
    fn no_request_breaks_what_always_holds(
        steps in proptest::collection::vec((1_u32..6, 0_usize..3), 1..6),
        concurrency in 1_u32..4,
        most in 1_u32..3,
        adapts in any::<bool>(),
        requests in proptest::collection::vec((0_u64..14, any_request(6)), 0..12),
    ) {
        let mut plan = exposing(steps.len(), Technique::PreCopy, most);
        plan.concurrency = concurrency;
        for (step, (_, technique)) in plan.moves.iter_mut().zip(&steps) {
            step.technique = Technique::ALL[*technique];
        }
        let lasts: Vec<u32> = steps.iter().map(|(steps, _)| *steps).collect();
        let mut world = Answers::new(plan, &lasts);
        if adapts {
            world.gang = std::mem::replace(
                &mut world.gang,
                GangDriver::new(super::plan(1, 1), &BTreeMap::new()).unwrap(),
            ).adapting(Adaptation::default());
        }
        let mut asked = requests.clone();
        // Some come before anything is prepared.
        world.ask(&mut asked, 0);
        world.drain();
        world.gang.start(world.now);
        for _ in 0..400 {
            world.drain();
            while world.gang.poll_gang_action().is_some() {}
            if world.gang.is_over() {
                break;
            }
            let second = world.now.nanos() / 1_000_000_000 + 1;
            world.ask(&mut asked, second);
            world.drain();
            world.step();
        }
        prop_assert!(world.gang.is_over());
        prop_assert!(world.most_at_once <= concurrency as usize);
        prop_assert!(world.most_exposed <= most as usize);
        let mut ended = 0;
        while let Some((_, record)) = world.gang.poll_record() {
            ended += usize::from(matches!(record.kind, RecordKind::Ended { .. }));
        }
        prop_assert_eq!(ended, steps.len(), "every attempt ends exactly once");
        let decisions = std::iter::from_fn(|| world.gang.poll_decision())
            .filter(|decision| decision.reason == OPERATOR)
            .count();
        prop_assert_eq!(decisions, requests.len() - asked.len(), "each is told once");
        let wishes = world.gang.wishes();
        for step in &world.gang.plan().moves {
            let driver = world.gang.driver(&step.vm).unwrap();
            let open = driver.outcome().is_none();
            if let Some(limit) = wishes.bandwidth_of(&step.vm).filter(|_| open) {
                prop_assert_eq!(step.bandwidth.at_most(limit), step.bandwidth);
            }
        }
    }
}
