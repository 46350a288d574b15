//! Switchovers that would coincide.

use super::*;

/// Parallel hybrids whose first passes end in the same instant, and a QEMU that takes its time to switch.
fn switching(count: usize) -> (GangDriver, Vec<VmId>) {
    let mut gang =
        GangDriver::new(exposing(count, Technique::Hybrid, 9), &BTreeMap::new()).unwrap();
    gang.prepare(Timestamp::ZERO);
    answered(&mut gang, Timestamp::ZERO);
    gang.start(Timestamp::ZERO);
    answered(&mut gang, Timestamp::ZERO);
    let order: Vec<VmId> = gang.plan().moves.iter().map(|step| step.vm.clone()).collect();
    (gang, order)
}

/// Performs everything and tells whose switch was asked for.
fn answered(gang: &mut GangDriver, now: Timestamp) -> Vec<VmId> {
    let mut asked = Vec::new();
    while let Some((vm, id, action)) = gang.poll_action() {
        let reply = match &action {
            Action::Listen => Ok(Reply::Listening("tcp:1".to_owned())),
            // Figures come late here.
            Action::Sample(_) => continue,
            _ => Ok(Reply::Done),
        };
        if action == Action::StartPostcopy {
            asked.push(vm.clone());
        }
        gang.handle_reply(now, &vm, id, reply);
    }
    asked
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn ways(gang: &mut GangDriver) -> Vec<Option<VmId>> {
    let mut all = Vec::new();
    while let Some(action) = gang.poll_gang_action() {
        if let GangAction::GiveWay { to } = action {
            all.push(to);
        }
    }
    all
}

#[test]
fn switches_that_fall_due_together_happen_one_after_the_other() {
    let (mut gang, order) = switching(3);
    for vm in &order {
        gang.handle_event(at(1_000), vm, Side::Source, QemuEvent::Pass(2));
    }
    assert_eq!(answered(&mut gang, at(1_000)), order[..1]);
    // QEMU obeys only once it has sent what it is about to send.
    assert_eq!(ways(&mut gang), [Some(order[0].clone())]);
    gang.handle_event(at(1_040), &order[0], Side::Source, QemuEvent::Stopped);
    assert_eq!(answered(&mut gang, at(1_040)), []);
    let active = QemuEvent::Status(MigrationStatus::PostcopyActive);
    gang.handle_event(at(1_050), &order[0], Side::Source, active);
    assert_eq!(answered(&mut gang, at(1_050)), [], "its state is still on its way");
    gang.handle_event(at(1_070), &order[0], Side::Target, QemuEvent::Resumed);
    assert_eq!(answered(&mut gang, at(1_070)), order[1..2]);
    assert_eq!(ways(&mut gang), [Some(order[1].clone())]);
}

#[test]
fn nobody_waits_for_long_and_nobody_gives_way_for_long() {
    let (mut gang, order) = switching(2);
    for vm in &order {
        gang.handle_event(at(1_000), vm, Side::Source, QemuEvent::Pass(2));
    }
    assert_eq!(answered(&mut gang, at(1_000)), order[..1]);
    gang.handle_event(at(1_040), &order[0], Side::Source, QemuEvent::Stopped);
    assert_eq!(ways(&mut gang), [Some(order[0].clone())]);
    // It never runs at the target.
    let due = gang.poll_timeout().unwrap();
    assert!(due <= at(1_500), "{due:?}");
    gang.handle_timeout(at(1_499));
    assert_eq!(answered(&mut gang, at(1_499)), []);
    gang.handle_timeout(at(1_500));
    assert_eq!(answered(&mut gang, at(1_500)), order[1..]);
    assert!(gang.poll_timeout().unwrap() <= at(2_040));
    gang.handle_timeout(at(2_040));
    assert_eq!(ways(&mut gang), [Some(order[1].clone())]);
    assert!(gang.poll_timeout().unwrap() <= at(2_500));
    gang.handle_timeout(at(2_500));
    assert_eq!(ways(&mut gang), [None], "it has not even stopped");
    gang.handle_event(at(2_600), &order[1], Side::Source, QemuEvent::Stopped);
    assert_eq!(ways(&mut gang), [Some(order[1].clone())], "now it does");
}

/// A pre-copy that stops by itself is in the way of a switch, too, and its stream goes first.
#[test]
fn a_switch_waits_for_a_pre_copy_that_stands_still() {
    let (mut gang, order) = switching(2);
    gang.handle_event(at(900), &order[0], Side::Source, QemuEvent::Stopped);
    assert_eq!(ways(&mut gang), [Some(order[0].clone())]);
    gang.handle_event(at(1_000), &order[1], Side::Source, QemuEvent::Pass(2));
    assert_eq!(answered(&mut gang, at(1_000)), []);
    gang.handle_event(at(1_100), &order[0], Side::Target, QemuEvent::Resumed);
    assert_eq!(answered(&mut gang, at(1_100)), order[1..]);
}

#[test]
fn a_vm_that_is_alone_needs_no_way() {
    let (mut gang, order) = switching(1);
    gang.handle_event(at(900), &order[0], Side::Source, QemuEvent::Stopped);
    assert_eq!(ways(&mut gang), []);
}

/// On ports that are held, applications give way to it.
#[test]
fn a_vm_that_is_alone_on_held_ports_goes_before_applications() {
    let mut plan = exposing(1, Technique::Hybrid, 9);
    plan.reservations = vec![droveway_plan::Reservation {
        port: plan.source.clone(),
        direction: droveway_plan::Direction::Tx,
        rate: droveway_fleet::Bandwidth::from_bits_per_second(1_000_000),
    }];
    let mut gang = GangDriver::new(plan, &BTreeMap::new()).unwrap();
    gang.prepare(Timestamp::ZERO);
    answered(&mut gang, Timestamp::ZERO);
    gang.start(Timestamp::ZERO);
    answered(&mut gang, Timestamp::ZERO);
    let vm = gang.plan().moves[0].vm.clone();
    gang.handle_event(at(900), &vm, Side::Source, QemuEvent::Stopped);
    assert_eq!(ways(&mut gang), [Some(vm.clone())]);
    gang.handle_event(at(950), &vm, Side::Target, QemuEvent::Resumed);
    assert_eq!(ways(&mut gang), [None]);
}

proptest! {
    /// Whenever passes end and QEMUs switch: no two switches are asked for within the bound unless the first is through, and
    /// each is asked for in the end.
    #[test]
    fn switches_never_coincide_within_the_bound(
        ends in proptest::collection::vec((0_u64..2_000, 20_u64..400), 2..6),
    ) {
        let (mut gang, order) = switching(ends.len());
        let mut asked: BTreeMap<VmId, u64> = BTreeMap::new();
        let mut through: BTreeMap<VmId, u64> = BTreeMap::new();
        for ms in (0..8_000).step_by(10) {
            for (vm, (end, _)) in order.iter().zip(&ends) {
                if ms == end / 10 * 10 {
                    gang.handle_event(at(ms), vm, Side::Source, QemuEvent::Pass(2));
                }
            }
            let due: Vec<VmId> = asked
                .iter()
                .filter(|(vm, since)| {
                    let place = order.iter().position(|other| other == *vm).unwrap();
                    !through.contains_key(*vm) && **since + ends[place].1 <= ms
                })
                .map(|(vm, _)| vm.clone())
                .collect();
            for vm in due {
                gang.handle_event(at(ms), &vm, Side::Source, QemuEvent::Stopped);
                let active = QemuEvent::Status(MigrationStatus::PostcopyActive);
                gang.handle_event(at(ms), &vm, Side::Source, active);
                gang.handle_event(at(ms), &vm, Side::Target, QemuEvent::Resumed);
                through.insert(vm, ms);
            }
            if gang.poll_timeout().is_some_and(|due| due <= at(ms)) {
                gang.handle_timeout(at(ms));
            }
            for vm in answered(&mut gang, at(ms)) {
                for (other, since) in &asked {
                    let over = through.contains_key(other) || ms >= since + 500;
                    prop_assert!(over, "{vm} at {ms} ms while {other} has been switching since {since}");
                }
                asked.insert(vm, ms);
            }
        }
        prop_assert_eq!(asked.len(), ends.len());
    }
}
