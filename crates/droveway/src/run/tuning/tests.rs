use super::*;
use droveway_fleet::Bandwidth;

fn mbit(rate: u64) -> RateLimit {
    RateLimit::At(Bandwidth::from_bits_per_second(rate * 1_000_000))
}

#[test]
fn each_stage_has_its_ceiling() {
    let ceilings = Ceilings { stream: mbit(40), background: mbit(60), unsent_max: 0 };
    assert_eq!(ceilings.at(Stage::Passes), mbit(40));
    assert_eq!(ceilings.at(Stage::Stopped), RateLimit::Unlimited);
    assert_eq!(ceilings.at(Stage::Background), mbit(60));
}

/// A tuner of one VM, whose move was begun.
fn tuner() -> (Tuner, VmId) {
    let vm: VmId = "vm-1".parse().unwrap();
    let (inbox, _) = mpsc::channel(1);
    let ceilings = Ceilings { stream: mbit(40), background: mbit(60), unsent_max: 0 };
    let mut tuner = Tuner {
        classes: false,
        inbox,
        ceilings: BTreeMap::from([(vm.clone(), ceilings)]),
        migrations: BTreeMap::new(),
    };
    tuner.begin(&vm, "tcp:10.8.0.2:49152", false);
    (tuner, vm)
}

fn stage(tuner: &Tuner, vm: &VmId) -> Stage {
    tuner.migrations[vm].stage
}

#[test]
fn stages_only_go_on_whatever_the_order_of_events() {
    let switched = QemuEvent::Status(MigrationStatus::PostcopyActive);
    let (mut tuner, vm) = tuner();
    assert_eq!(tuner.migrations[&vm].port, 49152);
    assert_eq!(stage(&tuner, &vm), Stage::Passes);
    // The source says so before the VM's state is sent: that is not to be held back.
    tuner.note_event(&vm, Side::Source, &switched);
    assert_eq!(stage(&tuner, &vm), Stage::Passes);
    tuner.note_event(&vm, Side::Target, &switched);
    tuner.note_event(&vm, Side::Source, &QemuEvent::Stopped);
    assert_eq!(stage(&tuner, &vm), Stage::Background);
    tuner.begin(&vm, "tcp:10.8.0.2:49153", false);
    tuner.note_event(&vm, Side::Source, &QemuEvent::Stopped);
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
