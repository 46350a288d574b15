mod adapt;
mod operate;
mod recovery;
mod stagger;
mod yielding;

use super::*;
use crate::{
    action::FailureClass,
    input::{MigrationSample, MigrationStatus, RunState},
    record::RecordKind,
    testing::{name, step},
};
use droveway_fleet::{Bandwidth, Bytes, RateLimit, Technique};
use droveway_plan::{Fallback, StartRule};
use proptest::prelude::*;
use std::time::Duration;

fn plan(count: usize, concurrency: u32) -> Plan {
    let step = |index| step(name(index), Technique::PreCopy, Fallback::Abort);
    // The last named starts first: the order is the plan's, not the names'.
    let moves = (0..count).rev().map(step).collect();
    Plan::new("p", "test", ("alpha".parse().unwrap(), "beta".parse().unwrap()), concurrency, moves)
}

/// A world that answers at once, in which each VM's stream takes a given number of steps, or fails.
struct Answers {
    gang: GangDriver,
    now: Timestamp,
    steps_left: BTreeMap<VmId, u32>,
    gone: Vec<VmId>,
    started: Vec<VmId>,
    /// Those that were switched to post-copy.
    split: Vec<VmId>,
    /// What is left of each, if anything is.
    left: BTreeMap<VmId, Bytes>,
    most_at_once: usize,
    most_exposed: usize,
}

impl Answers {
    fn new(plan: Plan, steps: &[u32]) -> Self {
        let steps_left =
            plan.moves.iter().map(|m| m.vm.clone()).zip(steps.iter().copied()).collect();
        let mut gang = GangDriver::new(plan, &BTreeMap::new()).unwrap();
        gang.prepare(Timestamp::ZERO);
        Answers {
            gang,
            now: Timestamp::ZERO,
            steps_left,
            gone: Vec::new(),
            started: Vec::new(),
            split: Vec::new(),
            left: BTreeMap::new(),
            most_at_once: 0,
            most_exposed: 0,
        }
    }

    fn drain(&mut self) {
        while let Some((vm, id, action)) = self.gang.poll_action() {
            let reply = match &action {
                Action::Listen => Ok(Reply::Listening("tcp:1".to_owned())),
                Action::Migrate { .. } => {
                    self.started.push(vm.clone());
                    // No steps: the stream cannot even begin.
                    if self.steps_left[&vm] == 0 {
                        let message = "refused".to_owned();
                        Err(ActionError { class: FailureClass::Refused, message })
                    } else {
                        Ok(Reply::Done)
                    }
                }
                Action::Sample(side) => Ok(Reply::Sample(Box::new(self.sample(&vm, *side)))),
                _ => Ok(Reply::Done),
            };
            self.gang.handle_reply(self.now, &vm, id, reply);
            if action == Action::StartPostcopy {
                self.split(&vm);
            }
            let exposed = self.gang.drivers().filter(|(_, d)| d.is_exposed()).count();
            self.most_exposed = self.most_exposed.max(exposed);
            let at_once = self.gang.drivers().filter(|(_, d)| d.uses_port()).count();
            self.most_at_once = self.most_at_once.max(at_once);
        }
    }

    /// QEMU obeys: the VM runs at the target from now on.
    fn split(&mut self, vm: &VmId) {
        self.split.push(vm.clone());
        for (side, event) in [
            (Side::Source, QemuEvent::Stopped),
            (Side::Source, QemuEvent::Status(MigrationStatus::PostcopyActive)),
            (Side::Target, QemuEvent::Resumed),
        ] {
            self.gang.handle_event(self.now, vm, side, event);
        }
    }

    fn sample(&self, vm: &VmId, side: Side) -> MigrationSample {
        let split = self.split.contains(vm);
        let moved = split || self.gone.contains(vm);
        let run_state = match (side, moved) {
            (Side::Target, true) | (Side::Source, false) => RunState::Running,
            (Side::Target, false) => RunState::InMigrate,
            (Side::Source, true) => RunState::PostMigrate,
        };
        MigrationSample {
            status: match (split, self.gone.contains(vm)) {
                (_, true) => MigrationStatus::Completed,
                (true, false) => MigrationStatus::PostcopyActive,
                (false, false) => MigrationStatus::None,
            },
            run_state,
            transferred: Bytes::from_mib(self.now.nanos() / 1_000_000_000),
            remaining: self.left.get(vm).copied().unwrap_or(Bytes::ZERO),
            total: Bytes::from_mib(512),
            rate: Bandwidth::ZERO,
            dirty_rate: Bandwidth::ZERO,
            postcopy_requests: 0,
            downtime: None,
            error: None,
        }
    }

    fn run(&mut self) {
        const ROUNDS_MAX: usize = 1000;
        self.drain();
        assert!(self.gang.is_prepared());
        self.gang.start(self.now);
        for _ in 0..ROUNDS_MAX {
            self.drain();
            if self.gang.is_over() {
                return;
            }
            self.step();
        }
        panic!("the gang never ended");
    }

    /// A second passes.
    fn step(&mut self) {
        self.now = self.now + Duration::from_secs(1);
        let moving: Vec<VmId> = self
            .gang
            .drivers()
            .filter(|(_, driver)| matches!(driver.phase(), Phase::PreCopy | Phase::PostCopy))
            .map(|(vm, _)| vm.clone())
            .collect();
        for vm in moving {
            let left = self.steps_left.get_mut(&vm).unwrap();
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.arrive(&vm);
            } else {
                let passes = self.gang.driver(&vm).unwrap().progress().pass.max(1);
                let pass = QemuEvent::Pass(passes + 1);
                self.gang.handle_event(self.now, &vm, Side::Source, pass);
            }
        }
        self.gang.handle_timeout(self.now);
    }

    /// Time passes until that VM's attempt has ended.
    fn settle(&mut self, vm: &VmId) {
        const ROUNDS_MAX: usize = 100;
        for _ in 0..ROUNDS_MAX {
            self.drain();
            if self.gang.driver(vm).is_some_and(|driver| driver.outcome().is_some()) {
                return;
            }
            self.now = self.now + Duration::from_millis(100);
            self.gang.handle_timeout(self.now);
        }
        panic!("{vm} never ended");
    }

    /// Hands in the requests that are due in this second.
    fn ask(&mut self, requests: &mut Vec<(u64, crate::operator::OperatorRequest)>, second: u64) {
        for (_, request) in requests.extract_if(.., |(at, _)| *at <= second) {
            let _ = self.gang.operate(self.now, &request);
        }
    }

    fn arrive(&mut self, vm: &VmId) {
        self.gone.push(vm.clone());
        for (side, event) in [
            (Side::Source, QemuEvent::Stopped),
            (Side::Target, QemuEvent::Resumed),
            (Side::Source, QemuEvent::Status(MigrationStatus::Completed)),
        ] {
            self.gang.handle_event(self.now, vm, side, event);
        }
    }
}

#[test]
fn who_waits_for_another_starts_when_that_one_has_ended_however_it_ended() {
    // vm2 and vm1 at once, vm0 after vm1, which cannot even begin.
    let mut plan = plan(3, 2);
    plan.moves[2].start = StartRule::AfterEnd("vm1".parse().unwrap());
    let mut world = Answers::new(plan.clone(), &[3, 0, 2]);
    world.run();
    assert_eq!(world.started.len(), 3);
    let place = |vm: &str| world.started.iter().position(|started| started.as_str() == vm);
    assert!(place("vm1") < place("vm0"), "{:?}", world.started);
    // And it waits for a long one although the window has room.
    let mut world = Answers::new(plan, &[1, 5, 2]);
    world.run();
    assert_eq!(world.started.last().unwrap().as_str(), "vm0");
    assert!(world.gang.outcomes().all(|(_, outcome)| outcome == Outcome::Completed));
    assert!(world.now >= Timestamp::from_millis(7_000), "{:?}", world.now);
}

#[test]
fn a_serial_plan_starts_in_its_order_as_each_stream_ends() {
    let mut world = Answers::new(plan(3, 1), &[2, 2, 2]);
    world.run();
    let order: Vec<_> = world.started.iter().map(VmId::as_str).collect();
    assert_eq!(order, ["vm2", "vm1", "vm0"]);
    assert_eq!(world.most_at_once, 1);
    assert!(world.gang.outcomes().all(|(_, outcome)| outcome == Outcome::Completed));
    // Three streams of two steps, and nothing between them.
    assert!(world.now <= Timestamp::from_millis(7_000), "{:?}", world.now);
}

#[test]
fn a_vm_that_fails_leaves_the_others_untouched() {
    let mut world = Answers::new(plan(3, 1), &[2, 0, 2]);
    world.run();
    let outcomes: Vec<_> = world.gang.outcomes().map(|(_, outcome)| outcome).collect();
    assert_eq!(outcomes, [Outcome::Completed, Outcome::RolledBack, Outcome::Completed]);
}

#[test]
fn a_cancelled_gang_starts_nothing_more() {
    let mut world = Answers::new(plan(2, 1), &[5, 5]);
    world.drain();
    world.gang.start(world.now);
    world.drain();
    assert_eq!(world.gang.cancel(world.now), []);
    world.drain();
    world.gang.handle_timeout(world.now + Duration::from_secs(1));
    world.drain();
    assert_eq!(world.started.len(), 1);
    assert!(world.gang.is_over());
    let mut ended = 0;
    while let Some((_, record)) = world.gang.poll_record() {
        ended += usize::from(matches!(record.kind, RecordKind::Ended { .. }));
    }
    assert_eq!(ended, 2, "every attempt ends exactly once");
}

proptest! {
    #[test]
    fn the_window_is_never_exceeded_and_every_vm_has_its_turn(
        steps in proptest::collection::vec(0_u32..6, 1..9),
        concurrency in 1_u32..10,
    ) {
        let mut world = Answers::new(plan(steps.len(), concurrency), &steps);
        world.run();
        prop_assert!(world.most_at_once <= concurrency as usize);
        prop_assert_eq!(world.started.len(), steps.len());
        let completed =
            world.gang.outcomes().filter(|(_, outcome)| *outcome == Outcome::Completed).count();
        prop_assert_eq!(completed, steps.iter().filter(|steps| **steps > 0).count());
    }
}

#[test]
fn nobody_starts_before_the_plan_says() {
    let mut waiting = plan(2, 1);
    waiting.start_after = Some("5s".parse().unwrap());
    let mut gang = GangDriver::new(waiting, &BTreeMap::new()).unwrap();
    gang.prepare(Timestamp::ZERO);
    while let Some((vm, id, action)) = gang.poll_action() {
        let reply = match action {
            Action::Listen => Reply::Listening("tcp:1".to_owned()),
            _ => Reply::Done,
        };
        gang.handle_reply(Timestamp::ZERO, &vm, id, Ok(reply));
    }
    assert!(gang.is_prepared());
    gang.start(Timestamp::from_millis(1_000));
    assert_eq!(gang.poll_timeout(), Some(Timestamp::from_millis(6_000)));
    gang.handle_timeout(Timestamp::from_millis(5_999));
    assert_eq!(gang.poll_action(), None);
    gang.handle_timeout(Timestamp::from_millis(6_000));
    let begun = gang.poll_action().map(|(_, _, action)| action);
    assert!(matches!(begun, Some(Action::Migrate { .. })), "{begun:?}");
}

/// Of two streams that take turns one is fast, and the turn goes on when its pass ends.
#[test]
fn a_turn_goes_on_with_each_pass() {
    let mut turning = plan(2, 2);
    let rate = |text: &str| text.parse().unwrap();
    turning.turns = Some(droveway_plan::Turns { fast: rate("900Mbit/s"), slow: rate("9Mbit/s") });
    let (first, second) = (turning.moves[0].vm.clone(), turning.moves[1].vm.clone());
    let mut gang = GangDriver::new(turning, &BTreeMap::new()).unwrap();
    gang.prepare(Timestamp::ZERO);
    let mut set = Vec::new();
    let mut answer = |gang: &mut GangDriver| {
        set.clear();
        while let Some((vm, id, action)) = gang.poll_action() {
            let reply = match &action {
                Action::Listen => Reply::Listening("tcp:1".to_owned()),
                _ => Reply::Done,
            };
            if let Action::SetBandwidth(limit) = action {
                set.push((vm.clone(), limit.to_string()));
            }
            gang.handle_reply(Timestamp::ZERO, &vm, id, Ok(reply));
        }
        set.clone()
    };
    answer(&mut gang);
    gang.start(Timestamp::ZERO);
    assert_eq!(answer(&mut gang), [(first.clone(), "900Mbit/s".to_owned())]);
    let pass = |gang: &mut GangDriver, vm: &VmId, number| {
        gang.handle_event(Timestamp::ZERO, vm, Side::Source, QemuEvent::Pass(number));
    };
    pass(&mut gang, &second, 2);
    assert_eq!(answer(&mut gang), [], "it was not its turn");
    pass(&mut gang, &first, 2);
    let mut changed = answer(&mut gang);
    changed.sort();
    let mut wanted = vec![(first, "9Mbit/s".to_owned()), (second, "900Mbit/s".to_owned())];
    wanted.sort();
    assert_eq!(changed, wanted);
}

fn exposing(count: usize, technique: Technique, most: u32) -> Plan {
    let mut plan = plan(count, u32::try_from(count).unwrap());
    plan.max_exposed = Some(most);
    for step in &mut plan.moves {
        step.technique = technique;
    }
    plan
}

/// Both have had their first pass; only one may be split.
#[test]
fn a_hybrid_waits_until_another_is_together_again() {
    let mut world = Answers::new(exposing(2, Technique::Hybrid, 1), &[9, 9]);
    world.drain();
    world.gang.start(world.now);
    world.drain();
    let [first, second] = ["vm1", "vm0"].map(|name| name.parse::<VmId>().unwrap());
    for vm in [&first, &second] {
        world.gang.handle_event(world.now, vm, Side::Source, QemuEvent::Pass(2));
        world.drain();
    }
    assert_eq!(world.split, std::slice::from_ref(&first));
    assert_eq!(world.gang.driver(&second).unwrap().phase(), Phase::PreCopy);
    // It goes on with its passes, and asks no more.
    world.gang.handle_event(world.now, &second, Side::Source, QemuEvent::Pass(3));
    world.drain();
    assert_eq!(world.split, std::slice::from_ref(&first));
    world.arrive(&first);
    world.drain();
    assert_eq!(world.split, [first, second]);
}

#[test]
fn a_fallback_and_an_operator_s_wish_wait_too() {
    let mut plan = exposing(2, Technique::PreCopy, 1);
    for step in &mut plan.moves {
        step.fallback = Fallback::PostCopy;
    }
    let mut world = Answers::new(plan, &[9, 9]);
    world.drain();
    world.gang.start(world.now);
    world.drain();
    let [first, second] = ["vm1", "vm0"].map(|name| name.parse::<VmId>().unwrap());
    assert_eq!(world.gang.request(world.now, &first, Request::SwitchToPostcopy), Ok(()));
    assert_eq!(world.gang.request(world.now, &second, Request::SwitchToPostcopy), Ok(()));
    for pass in 2..9 {
        world.gang.handle_event(world.now, &second, Side::Source, QemuEvent::Pass(pass));
        world.drain();
    }
    assert_eq!(world.split, std::slice::from_ref(&first), "beyond its last pass it still waits");
    world.arrive(&first);
    world.drain();
    assert_eq!(world.split, [first, second]);
}

/// There is room for both, but the path of the first is broken: the second goes on copying until it is renewed.
#[test]
fn nobody_is_split_over_a_path_that_is_broken() {
    for technique in [Technique::Hybrid, Technique::PostCopy] {
        let mut plan = exposing(2, technique, 2);
        plan.max_exposed = None;
        if technique == Technique::PostCopy {
            plan.concurrency = 1;
        }
        let mut world = Answers::new(plan, &[9, 9]);
        world.drain();
        let [first, second] = ["vm1", "vm0"].map(|name| name.parse::<VmId>().unwrap());
        world.gang.start(world.now);
        world.drain();
        if technique == Technique::Hybrid {
            world.gang.handle_event(world.now, &first, Side::Source, QemuEvent::Pass(2));
            world.drain();
        }
        assert!(world.split.contains(&first), "{technique:?}");
        let paused = QemuEvent::Status(MigrationStatus::PostcopyPaused);
        world.gang.handle_event(world.now, &first, Side::Source, paused);
        assert!(world.gang.driver(&first).unwrap().is_cut_off(), "{technique:?}");
        if technique == Technique::Hybrid {
            world.gang.handle_event(world.now, &second, Side::Source, QemuEvent::Pass(2));
            assert_eq!(world.split, std::slice::from_ref(&first), "its path is the broken one");
            assert!(world.gang.driver(&second).unwrap().waits_to_split());
        }
        assert!(!world.gang.has_room_to_expose(), "{technique:?}");
        // It was renewed, and is through.
        world.arrive(&first);
        world.drain();
        assert!(world.gang.has_room_to_expose(), "{technique:?}");
        if technique == Technique::Hybrid {
            assert_eq!(world.split, [first, second]);
        }
    }
}

/// A stream that delivers nothing would be an exposure without an end.
#[test]
fn nobody_is_split_whose_stream_stands_still() {
    let mut world = Answers::new(exposing(1, Technique::Hybrid, 1), &[9]);
    world.drain();
    world.gang.start(world.now);
    world.drain();
    let vm: VmId = "vm0".parse().unwrap();
    let pass_time = |world: &mut Answers, time: Duration| {
        world.now = world.now + time;
        world.gang.handle_timeout(world.now);
    };
    // It sends for a while, and is seen to.
    for _ in 0..4 {
        pass_time(&mut world, Duration::from_secs(1));
        world.drain();
    }
    assert!(!world.gang.driver(&vm).unwrap().stands_still(world.now));
    // Now nobody has seen it send for as long as it takes.
    pass_time(&mut world, exposure::PROGRESS);
    world.gang.handle_event(world.now, &vm, Side::Source, QemuEvent::Pass(2));
    assert!(world.gang.driver(&vm).unwrap().waits_to_split());
    assert_eq!(world.split, []);
    // It is seen to send again.
    world.drain();
    assert_eq!(world.split, [vm]);
}

/// The first would be split for hours: it takes nobody's room, and waits for it like anybody else later.
#[test]
fn who_waits_until_less_is_left_is_in_nobody_s_way() {
    let mut plan = exposing(2, Technique::Hybrid, 1);
    plan.moves[0].postcopy_bandwidth = RateLimit::At("100kbit/s".parse().unwrap());
    let mut world = Answers::new(plan, &[9, 9]);
    let [first, second] = ["vm1", "vm0"].map(|name| name.parse::<VmId>().unwrap());
    let pass_time = |world: &mut Answers| {
        world.now = world.now + Duration::from_millis(500);
        world.gang.handle_timeout(world.now);
        world.drain();
    };
    world.left.insert(first.clone(), Bytes::from_mib(400));
    world.drain();
    world.gang.start(world.now);
    world.drain();
    pass_time(&mut world);
    for vm in [&first, &second] {
        world.gang.handle_event(world.now, vm, Side::Source, QemuEvent::Pass(2));
        pass_time(&mut world);
    }
    assert!(world.gang.driver(&first).unwrap().waits_for_less());
    assert_eq!(world.split, std::slice::from_ref(&second));
    // Little is left of it now, but the other one's memory is split.
    world.left.insert(first.clone(), Bytes::from_mib(1));
    pass_time(&mut world);
    assert_eq!(world.split, std::slice::from_ref(&second));
    world.arrive(&second);
    pass_time(&mut world);
    pass_time(&mut world);
    assert_eq!(world.split, [second, first]);
}

/// Where the only VM that is exposed needs an operator nobody will make room.
#[test]
fn nobody_waits_for_room_that_nobody_makes() {
    let mut world = Answers::new(exposing(2, Technique::PostCopy, 1), &[9, 9]);
    world.drain();
    world.gang.start(world.now);
    world.drain();
    let [first, second] = ["vm1", "vm0"].map(|name| name.parse::<VmId>().unwrap());
    assert_eq!(world.started, std::slice::from_ref(&first), "the other may not even start");
    for _ in 0..2_000 {
        world.now = world.now + Duration::from_millis(500);
        let paused = QemuEvent::Status(MigrationStatus::PostcopyPaused);
        world.gang.handle_event(world.now, &first, Side::Source, paused);
        world.gang.handle_timeout(world.now);
        world.drain();
        if world.gang.is_over() {
            break;
        }
    }
    let outcome = |vm| world.gang.driver(vm).unwrap().outcome();
    assert_eq!(outcome(&first), Some(Outcome::NeedsRecovery));
    assert_eq!(outcome(&second), Some(Outcome::RolledBack));
    assert_eq!(world.started, [first]);
}

#[test]
fn a_plan_that_contradicts_itself_is_refused() {
    let mut twice = plan(2, 1);
    twice.moves[1].vm = twice.moves[0].vm.clone();
    let vm = twice.moves[0].vm.clone();
    let refused = GangDriver::new(twice, &BTreeMap::new()).map(|_| ());
    assert_eq!(refused, Err(vec![Violation::MovedTwice(vm)]));
}

proptest! {
    #[test]
    fn never_are_more_exposed_than_the_plan_allows(
        steps in proptest::collection::vec((0_u32..6, 0_usize..3), 1..7),
        concurrency in 1_u32..8,
        most in 1_u32..4,
    ) {
        let mut plan = exposing(steps.len(), Technique::Hybrid, most);
        plan.concurrency = concurrency;
        for (step, (_, technique)) in plan.moves.iter_mut().zip(&steps) {
            step.technique = Technique::ALL[*technique];
        }
        let lasts: Vec<u32> = steps.iter().map(|(steps, _)| *steps).collect();
        let mut world = Answers::new(plan, &lasts);
        world.run();
        prop_assert!(world.most_exposed <= most as usize);
        prop_assert_eq!(world.started.len(), steps.len(), "everybody has a turn");
    }
}
