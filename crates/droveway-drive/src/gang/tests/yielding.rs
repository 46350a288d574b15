//! Streams that yield at low urgency.

use super::*;
use crate::{operator::OperatorRequest, vm::VmDriver};
use droveway_fleet::{TimeSpan, Urgency};
use droveway_plan::Reservation;

fn mbit(rate: u64) -> Bandwidth {
    Bandwidth::from_bits_per_second(rate * 1_000_000)
}

/// Two streams on ports of 100 Mbit/s, under a plan that was changed a little.
fn moving(change: impl FnOnce(&mut Plan)) -> Answers {
    let mut plan = plan(2, 2);
    plan.urgency = Urgency::Low;
    change(&mut plan);
    let mut world = Answers::new(plan, &[1_000, 1_000]);
    let gang = GangDriver::new(world.gang.plan().clone(), &BTreeMap::new()).unwrap();
    world.gang = gang.yielding([mbit(100); 2]);
    world.gang.prepare(Timestamp::ZERO);
    world.drain();
    world.gang.start(Timestamp::ZERO);
    world.drain();
    assert_eq!(world.gang.drivers().filter(|(_, driver)| driver.uses_port()).count(), 2);
    world
}

/// Looks for two seconds at full ports of which the streams have half, from `from` on; what streams were told.
fn beside_others(gang: &mut GangDriver, from: u64) -> Vec<RateLimit> {
    let mut told = Vec::new();
    for fifth in 0..10 {
        let step = from + fifth;
        // 200 ms of 100 Mbit/s are 2.5 MB.
        let carried = Bytes::new(step * 2_500_000);
        let seen = PortsSeen {
            source_tx: carried,
            target_rx: carried,
            streams: Bytes::new(step * 1_250_000),
        };
        gang.handle_ports(Timestamp::from_millis(step * 200), seen);
        while let Some(action) = gang.poll_gang_action() {
            if let GangAction::Yield { each } = action {
                told.push(each);
            }
        }
    }
    told
}

#[test]
fn at_low_urgency_all_streams_together_keep_a_quarter() {
    let mut world = moving(|_| {});
    let told = beside_others(&mut world.gang, 0);
    assert_eq!(told, [RateLimit::At(mbit(100).scaled(0.25).divided(2))]);
    let decision = world.gang.poll_decision().unwrap();
    assert!(decision.adopted && decision.choice.starts_with("streams yield"), "{decision:?}");
    assert_eq!(world.gang.poll_decision(), None, "told once");
}

#[test]
fn nobody_yields_for_more_urgent_moves_for_deadlines_or_where_the_kernel_sees_to_it() {
    let urgent = |plan: &mut Plan| plan.urgency = Urgency::Medium;
    assert_eq!(beside_others(&mut moving(urgent).gang, 0), []);
    let due = |plan: &mut Plan| plan.deadline = Some(TimeSpan::from(Duration::from_secs(90)));
    assert_eq!(beside_others(&mut moving(due).gang, 0), []);
    let shaped = |plan: &mut Plan| {
        plan.reservations = vec![Reservation {
            port: "alpha".parse().unwrap(),
            direction: droveway_plan::Direction::Tx,
            rate: mbit(20),
        }];
    };
    assert_eq!(beside_others(&mut moving(shaped).gang, 0), []);
}

#[test]
fn an_operator_s_urgency_lets_streams_go_and_holds_them_back() {
    let mut world = moving(|_| {});
    assert_eq!(beside_others(&mut world.gang, 0).len(), 1);
    let now = Timestamp::from_millis(2_000);
    world.gang.operate(now, &OperatorRequest::SetUrgency(Urgency::High)).unwrap();
    assert_eq!(beside_others(&mut world.gang, 10), [RateLimit::Unlimited]);
    let now = Timestamp::from_millis(4_000);
    world.gang.operate(now, &OperatorRequest::SetUrgency(Urgency::Low)).unwrap();
    assert_eq!(beside_others(&mut world.gang, 20).len(), 1);
}

#[test]
fn who_is_left_has_what_all_may_have() {
    let mut world = moving(|_| {});
    assert_eq!(beside_others(&mut world.gang, 0).len(), 1);
    let vm = world.gang.drivers().find(|(_, driver)| driver.uses_port()).unwrap().0.clone();
    world.gang.request(Timestamp::from_millis(2_000), &vm, Request::Cancel).unwrap();
    world.now = Timestamp::from_millis(2_000);
    world.drain();
    while world.gang.drivers().filter(|(_, driver): &(_, &VmDriver)| driver.uses_port()).count() > 1
    {
        world.gang.handle_event(
            world.now,
            &vm,
            Side::Source,
            QemuEvent::Status(MigrationStatus::Cancelled),
        );
        world.drain();
    }
    assert_eq!(beside_others(&mut world.gang, 10), [RateLimit::At(mbit(100).scaled(0.25))]);
}
