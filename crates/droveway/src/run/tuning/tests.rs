use super::*;
use droveway_drive::Limits;
use droveway_fleet::Intent;
use droveway_plan::{GangFacts, VmFacts, policy};

fn mbit(rate: u64) -> RateLimit {
    RateLimit::At(rate_of(rate))
}

fn rate_of(mbit: u64) -> Bandwidth {
    Bandwidth::from_bits_per_second(mbit * 1_000_000)
}

const CEILINGS: Ceilings = Ceilings {
    stream: RateLimit::Unlimited,
    fetching: Bandwidth::from_bits_per_second(50_000_000),
    giving_way: Bandwidth::from_bits_per_second(20_000_000),
    background: RateLimit::Unlimited,
    unsent_max: 0,
    postcopy: false,
};

#[test]
fn each_stage_has_its_ceiling() {
    let ceilings = Ceilings { stream: mbit(40), background: mbit(60), ..CEILINGS };
    assert_eq!(ceilings.at(Stage::Passes), mbit(40));
    assert_eq!(ceilings.at(Stage::Stopped), RateLimit::Unlimited);
    assert_eq!(ceilings.at(Stage::Background), mbit(60));
    assert_eq!(CEILINGS.at(Stage::Background), RateLimit::Unlimited);
    assert_eq!(ceilings.at(Stage::Rest), mbit(60));
    // The plan's own ceiling is never exceeded, and without one what keeps aside has a part of the port.
    assert_eq!(ceilings.at(Stage::Aside), mbit(50));
    assert_eq!(Ceilings { background: mbit(8), ..CEILINGS }.at(Stage::Aside), mbit(8));
    assert_eq!(CEILINGS.at(Stage::Aside), mbit(50));
}

/// A stream keeps aside while a guest fetches its first pages: a thousand of what it lacks wholly, some hundred after passes, and then
/// only where they are no greater part of what is left.
#[test]
fn what_passes_have_left_keeps_aside_only_where_it_is_much() {
    let of = |mbit| Ceilings { fetching: rate_of(mbit), ..CEILINGS };
    let postcopy = |mbit| Ceilings { postcopy: true, ..of(mbit) };
    let lasts = |ceilings: Ceilings, stage, classes| ceilings.lasts(stage, classes).as_millis();
    // 200 and 1,000 Mbit/s; where ports have no classes a post-copied guest's pages are waited for.
    assert_eq!([50, 250].map(|mbit| lasts(postcopy(mbit), Stage::Aside, true)), [167, 33]);
    assert_eq!([50, 250].map(|mbit| lasts(postcopy(mbit), Stage::Aside, false)), [322, 184]);
    // After passes for as long as their pages take, and what is little for no longer than so many bytes.
    assert_eq!([25, 50].map(|mbit| lasts(of(mbit), Stage::Aside, true)), [148, 96]);
    assert_eq!([25, 50].map(|mbit| lasts(of(mbit), Stage::Rest, false)), [335, 167]);
    // A megabyte takes 84 ms at 100 Mbit/s, three take 252.
    let begins_with = |ceilings: Ceilings, mib| ceilings.begins_with(Bytes::from_mib(mib));
    assert_eq!([1, 3].map(|mib| begins_with(of(25), mib)), [Stage::Rest, Stage::Aside]);
    assert_eq!([1, 3].map(|mib| begins_with(postcopy(25), mib)), [Stage::Aside; 2]);
    // Who does not know the rate has nothing to take a part of.
    assert_eq!([of(0), postcopy(0)].map(|it| begins_with(it, 1)), [Stage::Background; 2]);
}

/// What the first VM of so many that move at once on ports of 200 Mbit/s may have.
fn of_a_gang(vms: u32) -> Ceilings {
    let fact = |number| VmFacts {
        vm: format!("vm-{number}").parse().unwrap(),
        memory: Bytes::from_mib(512),
        allow_postcopy: true,
        max_downtime: None,
        deadline: None,
        group: None,
    };
    let facts = GangFacts { port_rate: rate_of(200), vms: (0..vms).map(fact).collect() };
    let [source, target] = ["alpha", "beta"].map(|host| host.parse().unwrap());
    let intent = Intent::drain(source, target, Vec::new(), "post-copy-parallel");
    let made =
        policy::find("post-copy-parallel").unwrap().plan("p", &intent, &facts, None).unwrap();
    Ceilings::of(&made.plan.moves[0], rate_of(200))
}

/// A guest waits as long for its first pages where five move at once, each of which counts on a fifth of the port at its switchover.
#[test]
fn what_a_guest_fetches_has_a_part_of_the_whole_port() {
    let [alone, of_five] = [1, 5].map(of_a_gang);
    for ceilings in [alone, of_five] {
        assert_eq!(ceilings.at(Stage::Aside), mbit(50));
        assert_eq!(ceilings.lasts(Stage::Aside, true).as_millis(), 167);
    }
    // All others together leave most of it, however many they are.
    assert!(of_five.giving_way.scaled(4.0) < alone.giving_way);
}

/// More than a guest waits for.
const MUCH: Bytes = Bytes::new(100 << 20);

/// A tuner of one VM, whose move was begun.
fn tuner() -> (Tuner, VmId) {
    let vm: VmId = "vm-1".parse().unwrap();
    let (inbox, _) = mpsc::channel(1);
    let ceilings = Ceilings { stream: mbit(40), background: mbit(60), ..CEILINGS };
    let mut tuner = Tuner {
        classes: false,
        inbox,
        ceilings: BTreeMap::from([(vm.clone(), ceilings)]),
        migrations: BTreeMap::new(),
        first: None,
        yields_to: RateLimit::Unlimited,
    };
    tuner.begin(&vm, "tcp:10.8.0.2:49152", false);
    (tuner, vm)
}

fn stage(tuner: &Tuner, vm: &VmId) -> Stage {
    tuner.migrations[vm].stage
}

#[tokio::test]
async fn stages_only_go_on_whatever_the_order_of_events() {
    let switched = QemuEvent::Status(MigrationStatus::PostcopyActive);
    let (mut tuner, vm) = tuner();
    assert_eq!(tuner.migrations[&vm].port, 49152);
    assert_eq!(stage(&tuner, &vm), Stage::Passes);
    // The source says so before the VM's state is sent: that is not to be held back.
    tuner.note_event(&vm, Side::Source, &switched, MUCH);
    assert_eq!(stage(&tuner, &vm), Stage::Passes);
    tuner.note_event(&vm, Side::Target, &switched, MUCH);
    tuner.note_event(&vm, Side::Source, &QemuEvent::Stopped, MUCH);
    assert_eq!(stage(&tuner, &vm), Stage::Aside);
    tuner.note_fetched(&vm);
    assert_eq!(stage(&tuner, &vm), Stage::Background);
    tuner.note_event(&vm, Side::Target, &switched, MUCH);
    assert_eq!(stage(&tuner, &vm), Stage::Background);
    tuner.begin(&vm, "tcp:10.8.0.2:49153", false);
    tuner.note_event(&vm, Side::Source, &QemuEvent::Stopped, MUCH);
    assert_eq!(stage(&tuner, &vm), Stage::Stopped);
}

#[test]
fn a_post_copy_that_goes_on_is_paced_as_such() {
    let (mut tuner, vm) = tuner();
    tuner.begin(&vm, "tcp:10.8.0.2:49154", true);
    let migration = &tuner.migrations[&vm];
    assert!(migration.switches && migration.stream.is_none());
    assert_eq!((migration.stage, migration.port), (Stage::Background, 49154));
}

#[test]
fn a_stream_that_was_not_found_is_left_to_qemu() {
    let (tuner, vm) = tuner();
    assert!(!tuner.pace(&vm));
    assert!(!tuner.pace(&"other".parse().unwrap()));
}

#[test]
fn a_post_copy_begins_quietly_and_no_other_move_does() {
    let (mut tuner, vm) = tuner();
    let limits = Limits {
        bandwidth: mbit(40),
        postcopy_bandwidth: mbit(60),
        switchover_bandwidth: rate_of(100),
        downtime: Duration::from_millis(300),
    };
    let configure = |side| Action::Configure { side, postcopy: true, throttle: false, limits };
    let told = |tuner: &mut Tuner, side| {
        let action = tuner.limited(&vm, configure(side));
        let Action::Configure { limits: told, .. } = action else { panic!("{action:?}") };
        assert_eq!(Limits { bandwidth: limits.bandwidth, ..told }, limits, "nothing else changes");
        told.bandwidth
    };
    assert_eq!(told(&mut tuner, Side::Source), mbit(40));
    tuner.ceilings.get_mut(&vm).unwrap().postcopy = true;
    assert_eq!(told(&mut tuner, Side::Source), QUIET);
    assert_eq!(told(&mut tuner, Side::Target), mbit(40));
}

#[test]
fn streams_that_yield_are_held_below_their_ceilings_but_not_while_their_vm_stands_still() {
    let (mut tuner, vm) = tuner();
    tuner.yield_to(mbit(10));
    assert_eq!(tuner.limit(&vm), Some(mbit(10)));
    tuner.yield_to(mbit(50));
    assert_eq!(tuner.limit(&vm), Some(mbit(40)), "the plan's own ceiling is lower");
    tuner.note_event(&vm, Side::Source, &QemuEvent::Stopped, MUCH);
    tuner.yield_to(mbit(10));
    assert_eq!(tuner.limit(&vm), Some(RateLimit::Unlimited));
    // Nor while it waits for its first pages.
    tuner.reach(&vm, Stage::Aside);
    assert_eq!(tuner.limit(&vm), Some(mbit(50)));
    tuner.reach(&vm, Stage::Rest);
    assert_eq!(tuner.limit(&vm), Some(mbit(60)));
    tuner.note_fetched(&vm);
    assert_eq!(tuner.limit(&vm), Some(mbit(10)));
}

#[test]
fn others_give_way_to_a_vm_that_stands_still() {
    let (mut tuner, vm) = tuner();
    let other: VmId = "vm-2".parse().unwrap();
    tuner.give_way(Some(other.clone()));
    assert_eq!(tuner.limit(&vm), Some(mbit(20)));
    tuner.give_way(Some(vm.clone()));
    assert_eq!(tuner.limit(&vm), Some(mbit(40)));
    tuner.give_way(None);
    assert_eq!(tuner.limit(&vm), Some(mbit(40)));
    // Classes do it where there are some.
    tuner.classes = true;
    tuner.give_way(Some(other));
    assert_eq!(tuner.limit(&vm), Some(mbit(40)));
}

/// A guest that waits for all of what is left has the port for it, with classes or without: streams are of one.
#[tokio::test]
async fn others_give_way_to_what_is_left_of_a_hybrid() {
    let switched = QemuEvent::Status(MigrationStatus::PostcopyActive);
    let (mut tuner, vm) = tuner();
    let others = ["vm-2", "vm-3"].map(|name| name.parse::<VmId>().unwrap());
    for (other, port) in others.iter().zip(["49153", "49154"]) {
        tuner.ceilings.insert(other.clone(), tuner.ceilings[&vm]);
        tuner.begin(other, &format!("tcp:10.8.0.2:{port}"), false);
    }
    let limits = |tuner: &Tuner| [&vm, &others[0], &others[1]].map(|vm| tuner.limit(vm).unwrap());
    for classes in [false, true] {
        tuner.classes = classes;
        tuner.begin(&vm, "tcp:10.8.0.2:49152", false);
        assert_eq!(limits(&tuner), [mbit(40); 3]);
        tuner.note_event(&vm, Side::Target, &switched, Bytes::new(500 << 10));
        assert_eq!(stage(&tuner, &vm), Stage::Rest);
        assert_eq!(limits(&tuner), [mbit(60), mbit(20), mbit(20)]);
        tuner.note_fetched(&vm);
        assert_eq!(limits(&tuner), [mbit(60), mbit(40), mbit(40)]);
    }
    // Two that wait have as much of it each.
    for vm in &others {
        tuner.note_event(vm, Side::Target, &switched, Bytes::new(500 << 10));
    }
    tuner.begin(&vm, "tcp:10.8.0.2:49152", false);
    assert_eq!(limits(&tuner), [mbit(20), mbit(60), mbit(60)]);
    // Who has switched does not give way: its guest waits as well.
    tuner.begin(&vm, "tcp:10.8.0.2:49152", true);
    assert_eq!(limits(&tuner), [mbit(60); 3]);
    // Of much that is left the guest does not wait for all: nobody gives way.
    tuner.begin(&vm, "tcp:10.8.0.2:49152", false);
    for vm in &others {
        tuner.note_fetched(vm);
    }
    tuner.note_event(&vm, Side::Target, &switched, MUCH);
    assert_eq!(limits(&tuner), [mbit(50), mbit(60), mbit(60)]);
}

#[test]
fn only_the_end_of_a_pre_copy_goes_first_by_its_class() {
    let (mut tuner, vm) = tuner();
    tuner.classes = true;
    assert_eq!(tuner.class(&vm), STREAM);
    tuner.give_way(Some(vm.clone()));
    assert_eq!(tuner.class(&vm), URGENT);
    // Post-copy was asked for: its pages would stand in the way of those that are asked for.
    tuner.migrations.get_mut(&vm).unwrap().switches = true;
    assert_eq!(tuner.class(&vm), STREAM);
    // The others are slow meanwhile.
    let other: VmId = "vm-2".parse().unwrap();
    let ceilings = tuner.ceilings[&vm];
    tuner.ceilings.insert(other.clone(), ceilings);
    tuner.begin(&other, "tcp:10.8.0.2:49160", false);
    assert_eq!(tuner.limit(&other), Some(mbit(20)));
}

/// QEMU's ceiling keeps it quiet: a paced socket would take its pace for the path's when the VM stops.
#[test]
fn a_quiet_streams_socket_is_not_paced_for_it() {
    let (mut tuner, vm) = tuner();
    tuner.ceilings.get_mut(&vm).unwrap().postcopy = true;
    tuner.begin(&vm, "tcp:10.8.0.2:49154", false);
    assert_eq!(tuner.limit(&vm), Some(mbit(40)));
    tuner.reach(&vm, Stage::Stopped);
    assert_eq!(tuner.limit(&vm), Some(RateLimit::Unlimited));
    tuner.reach(&vm, Stage::Aside);
    assert_eq!(tuner.limit(&vm), Some(mbit(50)));
    // What goes on over another connection has switched already.
    tuner.begin(&vm, "tcp:10.8.0.2:49155", true);
    assert_eq!(tuner.limit(&vm), Some(mbit(60)));
}

/// What a killed controller held back for a moment has its due again: post-copy's background at once, passes at their ceiling.
#[test]
fn who_takes_a_stream_over_does_not_hold_it_back() {
    for (phase, stage, limit) in [
        (Phase::PreCopy, Stage::Passes, mbit(40)),
        (Phase::Switchover, Stage::Stopped, RateLimit::Unlimited),
        (Phase::PostCopy, Stage::Background, mbit(60)),
    ] {
        let (mut tuner, vm) = tuner();
        if let Some(ceilings) = tuner.ceilings.get_mut(&vm) {
            ceilings.postcopy = true;
        }
        tuner.begin(&vm, "tcp:10.8.0.2:49152", false);
        assert!(tuner.migrations[&vm].quiet);
        tuner.inherit(&vm, "tcp:10.8.0.2:49152", phase);
        let migration = &tuner.migrations[&vm];
        assert!(migration.inherited && migration.switches == (phase == Phase::PostCopy));
        assert!(!migration.quiet);
        assert_eq!((migration.stage, tuner.limit(&vm)), (stage, Some(limit)), "{phase}");
    }
}
