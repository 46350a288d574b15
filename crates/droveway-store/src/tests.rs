use crate::{schema, *};
use droveway_drive::{
    Action, ActionError, ActionId, Decision, FailureClass, Limits, MigrationSample,
    MigrationStatus, Outcome, Phase, QemuEvent, RecordKind, Reply, RunState as Vcpus, Settings,
    Side, SwitchoverRate,
};
use droveway_fleet::{
    Bandwidth, Bytes, HostId, Intent, RateLimit, Timestamp, VmId, report::Reservation,
};
use droveway_plan::{GangFacts, Plan, VmFacts, policy};
use proptest::prelude::*;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

fn header(id: &str) -> RunHeader {
    RunHeader {
        id: id.to_owned(),
        fleet: "f".to_owned(),
        verb: "drain".to_owned(),
        source: "alpha".parse().unwrap(),
        target: "beta".parse().unwrap(),
        policy: "adaptive".to_owned(),
        started_at: "2026-01-01T00:00:00Z".to_owned(),
        asked_at: Timestamp::from_millis(5),
        boot_id: "boot".to_owned(),
        pid: 7,
    }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal").join("f.db");
    (folder, path)
}

fn at(millis: u64, entry: Entry) -> Stamped {
    Stamped { at: Timestamp::from_millis(millis), entry }
}

fn vm(index: usize) -> VmId {
    format!("vm-{index}").parse().unwrap()
}

fn sample(transferred: u64) -> MigrationSample {
    MigrationSample {
        status: MigrationStatus::Active,
        run_state: Vcpus::Running,
        transferred: Bytes::new(transferred),
        remaining: Bytes::from_mib(3),
        total: Bytes::from_mib(512),
        rate: Bandwidth::from_bits_per_second(999_999_937),
        dirty_rate: Bandwidth::ZERO,
        postcopy_requests: 4,
        downtime: Some(Duration::from_nanos(1_234_567)),
        error: None,
    }
}

fn sampled(millis: u64, of: usize, transferred: u64) -> Stamped {
    let sample = Box::new(sample(transferred));
    at(millis, Entry::Sample { vm: vm(of), side: Side::Source, sample })
}

fn plan(generation: u32) -> Plan {
    let hosts: (HostId, HostId) = ("alpha".parse().unwrap(), "beta".parse().unwrap());
    let fact = |index| VmFacts {
        vm: vm(index),
        memory: Bytes::from_mib(512),
        allow_postcopy: true,
        max_downtime: Some(Duration::from_millis(137)),
        deadline: None,
        group: None,
    };
    let facts = GangFacts {
        port_rate: Bandwidth::from_bits_per_second(999_999_999),
        vms: (0..3).map(fact).collect(),
    };
    let vms = facts.vms.iter().map(|fact| fact.vm.clone()).collect();
    let intent = Intent::drain(hosts.0, hosts.1, vms, "hybrid-serial");
    let policy = policy::find("hybrid-serial").unwrap();
    let mut plan = policy.plan(&format!("p{generation}"), &intent, &facts, None).unwrap().plan;
    plan.generation = generation;
    plan
}

fn any_side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Source), Just(Side::Target)]
}

fn any_status() -> impl Strategy<Value = MigrationStatus> {
    prop_oneof![
        Just(MigrationStatus::Active),
        Just(MigrationStatus::PostcopyActive),
        Just(MigrationStatus::PostcopyPaused),
        Just(MigrationStatus::Completed),
        Just(MigrationStatus::Failed),
        "[a-z\u{e4}\"]{0,8}".prop_map(MigrationStatus::Unknown),
    ]
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let rate = || proptest::option::of(any::<u32>());
    let bits = |bits: u32| Bandwidth::from_bits_per_second(u64::from(bits));
    let some = (rate(), rate(), proptest::option::of(1_u64..2_000_000), any::<bool>());
    some.prop_map(move |(ceiling, switchover, downtime, on)| Settings {
        bandwidth: ceiling.map(|it| RateLimit::At(bits(it.max(8)))),
        postcopy_bandwidth: Some(RateLimit::Unlimited),
        switchover_bandwidth: Some(
            switchover.map_or(SwitchoverRate::Measured, |it| SwitchoverRate::Assumed(bits(it))),
        ),
        downtime: downtime.map(Duration::from_millis),
        capabilities: [("postcopy-ram".to_owned(), on)].into(),
    })
}

fn any_action() -> impl Strategy<Value = Action> {
    let rate = any::<u32>().prop_map(|bits| Bandwidth::from_bits_per_second(u64::from(bits)));
    let limits = (rate.clone(), 1_u64..9_000_000).prop_map(|(rate, nanos)| Limits {
        bandwidth: RateLimit::Unlimited,
        postcopy_bandwidth: RateLimit::At(rate + Bandwidth::from_bits_per_second(8)),
        switchover_bandwidth: rate,
        downtime: Duration::from_nanos(nanos),
    });
    prop_oneof![
        (any_side(), any::<bool>(), any::<bool>(), limits).prop_map(
            |(side, postcopy, throttle, limits)| Action::Configure {
                side,
                postcopy,
                throttle,
                limits
            }
        ),
        Just(Action::Listen),
        "tcp:[0-9.]{1,12}:[0-9]{1,5}".prop_map(|uri| Action::Migrate { uri }),
        Just(Action::StartPostcopy),
        rate.prop_map(Action::SetSwitchoverBandwidth),
        Just(Action::SetBandwidth(RateLimit::Unlimited)),
        Just(Action::DestroyTarget),
        Just(Action::DestroySource),
        any_side().prop_map(Action::Resume),
        any_side().prop_map(Action::Stop),
        any_settings().prop_map(Action::Restore),
        Just(Action::Cancel),
    ]
}

fn any_result() -> impl Strategy<Value = Result<Reply, ActionError>> {
    prop_oneof![
        Just(Ok(Reply::Done)),
        "[a-z:0-9]{1,9}".prop_map(|uri| Ok(Reply::Listening(uri))),
        any::<String>()
            .prop_map(|message| Err(ActionError { class: FailureClass::Timeout, message })),
    ]
}

fn any_record() -> impl Strategy<Value = RecordKind> {
    let phase = prop_oneof![
        Just(Phase::Preparing),
        Just(Phase::PreCopy),
        Just(Phase::Switchover),
        Just(Phase::PostCopy),
        Just(Phase::RollingBack),
        Just(Phase::Settling),
        Just(Phase::Halting),
    ];
    let outcome = prop_oneof![
        Just(Outcome::Completed),
        Just(Outcome::RolledBack),
        Just(Outcome::NeedsRecovery),
        Just(Outcome::Lost),
    ];
    prop_oneof![
        phase.prop_map(RecordKind::Entered),
        (1_u32..40).prop_map(RecordKind::Pass),
        (2_u32..9, any::<u64>(), any::<u64>()).prop_map(|(pass, sent, left)| {
            RecordKind::Boundary {
                pass,
                transferred: Bytes::new(sent),
                remaining: Bytes::new(left),
            }
        }),
        Just(RecordKind::Stopped),
        Just(RecordKind::Resumed),
        any::<String>().prop_map(RecordKind::Warning),
        (outcome, proptest::option::of(any::<String>()))
            .prop_map(|(outcome, reason)| RecordKind::Ended { outcome, reason }),
    ]
}

fn any_change() -> impl Strategy<Value = NetworkChange> {
    let held = any::<u32>().prop_map(|bits| {
        NetworkChange::Holds(vec![Reservation {
            host: "alpha".parse().unwrap(),
            direction: "tx".to_owned(),
            class: "migration".to_owned(),
            bits_per_second: u64::from(bits),
        }])
    });
    prop_oneof![
        held,
        Just(NetworkChange::PutBack),
        Just(NetworkChange::NotPutBack("no".to_owned()))
    ]
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let of = || (0_usize..4).prop_map(vm);
    let id = || (0_u64..30).prop_map(ActionId);
    let decision = (any::<u32>(), any::<String>(), proptest::option::of(-99_i8..99)).prop_map(
        |(millis, text, halves)| Decision {
            at: Timestamp::from_millis(u64::from(millis)),
            vm: None,
            reason: text.clone(),
            inputs: text.clone(),
            choice: text,
            runner_up: None,
            // Halves: what is tested is the journal, not how floats are printed.
            margin: halves.map(|halves| f64::from(halves) / 2.0),
            adopted: true,
        },
    );
    prop_oneof![
        1 => (0_u32..5).prop_map(|g| Entry::Plan { plan: Box::new(plan(g)) }),
        1 => (of(), "[/a-z.]{1,20}").prop_map(|(vm, socket)| {
            Entry::Launching { vm, host: "beta".parse().unwrap(), socket }
        }),
        1 => (of(), any::<bool>(), any::<bool>(), proptest::option::of(any_settings())).prop_map(
            |(vm, was_running, launched, before)| Entry::Attempt {
                vm,
                was_running,
                launched,
                before: before.map(Box::new),
            }
        ),
        6 => (of(), id(), any_action()).prop_map(|(vm, id, action)| Entry::Action { vm, id, action }),
        6 => (of(), id(), any_result()).prop_map(|(vm, id, result)| Entry::Reply { vm, id, result }),
        3 => (of(), any_side(), any_status()).prop_map(|(vm, side, status)| {
            Entry::Event { vm, side, event: QemuEvent::Status(status) }
        }),
        6 => (of(), any_record()).prop_map(|(vm, record)| Entry::Record { vm, record }),
        8 => (of(), any_side(), any::<u64>()).prop_map(|(vm, side, sent)| {
            Entry::Sample { vm, side, sample: Box::new(sample(sent)) }
        }),
        1 => decision.prop_map(|decision| Entry::Decision { decision }),
        1 => any_change().prop_map(|change| Entry::Network { change }),
        1 => any::<String>().prop_map(|text| Entry::Remark { text }),
        1 => Just(Entry::Began),
        1 => Just(Entry::Cancelled),
        1 => any::<u32>().prop_map(|pid| Entry::Adopted { pid }),
        1 => (1_u64..9).prop_map(|entries| Entry::Missing { entries }),
        1 => any::<u8>().prop_map(|exit_code| Entry::Ended {
            end: Ended { exit_code, report: Some("folder".to_owned()) }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever happens in whatever order, written in whatever batches, and by several processes: the journal replays to
    /// what the controller held.
    #[test]
    fn the_journal_replays_to_the_live_state(
        entries in proptest::collection::vec((0_u64..500, any_entry()), 0..60),
        batch in 1_usize..9,
        reopened_after in 0_usize..60,
    ) {
        let (_folder, path) = place();
        let header = header("run-1");
        let mut live = RunState::new(header.clone());
        let mut store = Store::open(&path).unwrap();
        let mut key = store.begin(&header).unwrap();
        let mut now = 0;
        let stamped: Vec<Stamped> = entries
            .into_iter()
            .map(|(pause, entry)| {
                now += pause;
                at(now, entry)
            })
            .collect();
        for (index, chunk) in stamped.chunks(batch).enumerate() {
            if index * batch >= reopened_after {
                // As a process that was killed: nothing is closed properly before the next opens the file.
                let next = Store::open(&path).unwrap();
                std::mem::forget(std::mem::replace(&mut store, next));
                key = store.resume("run-1").unwrap().unwrap();
            }
            store.append(&mut key, chunk).unwrap();
            chunk.iter().for_each(|entry| live.apply(entry));
        }
        let read = Store::open_existing(&path).unwrap().unwrap().run("run-1").unwrap().unwrap();
        prop_assert_eq!(&read.entries, &stamped);
        prop_assert_eq!(read.state(), live);
    }
}

#[test]
fn plans_in_tests_move_vms() {
    assert_eq!(plan(0).moves.len(), 3);
}

/// The writer's thread, killed at its end by nobody: what was committed is there while it still runs.
#[test]
fn an_intent_is_on_file_before_its_action_is_performed() {
    let (_folder, path) = place();
    let mut writer = Writer::begin(Store::open(&path).unwrap(), &header("r")).unwrap();
    for id in 0..20 {
        let entry = Entry::Action { vm: vm(0), id: ActionId(id), action: Action::Listen };
        assert!(writer.commit(vec![at(id, entry)]));
        let run = Store::open_existing(&path).unwrap().unwrap().unfinished().unwrap().unwrap();
        let open = &run.state().vms[&vm(0)].open;
        assert!(open.contains_key(&ActionId(id)), "{open:?}");
    }
    assert_eq!(writer.health(), Health::default());
}

#[test]
fn who_ends_is_not_unfinished_and_the_list_says_how() {
    let (_folder, path) = place();
    let mut store = Store::open(&path).unwrap();
    let mut key = store.begin(&header("a")).unwrap();
    assert_eq!(store.unfinished().unwrap().map(|run| run.header.id), Some("a".to_owned()));
    let end = Ended { exit_code: 5, report: None };
    store.append(&mut key, &[at(9, Entry::Ended { end: end.clone() })]).unwrap();
    assert_eq!(store.unfinished().unwrap(), None);
    store.begin(&header("b")).unwrap();
    let runs = store.runs(9).unwrap();
    let told: Vec<_> = runs.iter().map(|run| (run.header.id.as_str(), &run.ended)).collect();
    assert_eq!(told, [("b", &None), ("a", &Some(end))]);
    let twice = store.begin(&header("b")).unwrap_err();
    assert!(matches!(twice, StoreError::Known { .. }), "{twice}");
    assert_eq!(store.run("c").unwrap(), None);
    assert!(Writer::resume(store, "c").unwrap().is_none());
}

#[test]
fn a_full_disk_stops_nobody_and_damages_nothing() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    store.limit(96 * 1024);
    let mut writer = Writer::begin(store, &header("r")).unwrap();
    let mut wrote = true;
    let mut count = 0;
    while wrote && count < 10_000 {
        count += 1;
        wrote = writer.commit(vec![sampled(count, 0, count)]);
    }
    assert!(!wrote, "the disk was never full");
    let trouble = writer.health().trouble().expect("told");
    assert!(trouble.contains("the disk is full"), "{trouble}");
    // The run goes on: nothing fails, nothing blocks for long.
    for more in 0..50 {
        writer.note(vec![sampled(count + more, 0, more)]);
    }
    writer.commit(vec![at(count + 60, Entry::Began)]);
    assert!(writer.health().waiting >= 50, "{:?}", writer.health());
    // A second connection has a limit of its own: as if room had been made.
    drop(writer);
    let read = Store::open_existing(&path).unwrap().unwrap().run("r").unwrap().unwrap();
    assert_eq!(read.entries.len() as u64, count - 1, "all or nothing of a batch, and no damage");
    let mut store = Store::open(&path).unwrap();
    let mut key = store.resume("r").unwrap().unwrap();
    store.append(&mut key, &[at(count + 70, Entry::Began)]).unwrap();
}

#[test]
fn once_there_is_room_again_what_waited_is_written() {
    let (_folder, path) = place();
    // Somebody holds the file: as good as a disk that does not take anything.
    let store = Store::open(&path).unwrap();
    let mut writer = Writer::begin(store, &header("r")).unwrap();
    let blocker = rusqlite::Connection::open(&path).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let began = std::time::Instant::now();
    assert!(!writer.commit(vec![at(1, Entry::Began)]));
    assert!(!writer.commit(vec![at(2, Entry::Cancelled)]));
    assert!(began.elapsed() < PATIENCE * 8, "waits once, not each time: {:?}", began.elapsed());
    assert!(writer.health().trouble().is_some());
    blocker.execute_batch("ROLLBACK").unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while writer.health() != Health::default() {
        assert!(std::time::Instant::now() < deadline, "{:?}", writer.health());
        writer.commit(Vec::new());
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(writer);
    let read = Store::open_existing(&path).unwrap().unwrap().run("r").unwrap().unwrap();
    assert_eq!(read.entries, [at(1, Entry::Began), at(2, Entry::Cancelled)]);
}

#[test]
fn samples_are_bounded_and_the_last_of_each_vm_stays() {
    let (_folder, path) = place();
    let mut store = Store::open(&path).unwrap();
    let mut key = store.begin(&header("r")).unwrap();
    let mut live = RunState::new(header("r"));
    let early = sampled(1, 1, 42);
    live.apply(&early);
    store.append(&mut key, &[early]).unwrap();
    for round in 0..13_u64 {
        let batch: Vec<_> =
            (0..500).map(|index| sampled(2 + round, 0, round * 500 + index)).collect();
        batch.iter().for_each(|entry| live.apply(entry));
        store.append(&mut key, &batch).unwrap();
    }
    let read = store.run("r").unwrap().unwrap();
    assert_eq!(read.entries.len(), SAMPLES_MAX + 1);
    assert_eq!(read.state(), live);
}

#[test]
fn old_runs_go_and_the_latest_stay() {
    let (_folder, path) = place();
    let mut store = Store::open(&path).unwrap();
    for index in 0..RUNS_MAX + 5 {
        let mut key = store.begin(&header(&format!("run-{index}"))).unwrap();
        store.append(&mut key, &[at(1, Entry::Began)]).unwrap();
    }
    drop(store);
    let store = Store::open(&path).unwrap();
    let runs = store.runs(usize::MAX).unwrap();
    assert_eq!(runs.len(), RUNS_MAX);
    assert_eq!(runs.last().unwrap().header.id, "run-5");
    assert_eq!(store.run("run-4").unwrap(), None);
}

#[track_caller]
fn refused(path: &Path, part: &str) -> StoreError {
    let before = fs::read(path).unwrap();
    let error = Store::open(path).map(|_| ()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(part) && text.contains(&path.display().to_string()), "{text}");
    assert!(!error.remedy().is_empty());
    assert_eq!(fs::read(path).unwrap(), before, "it was changed");
    error
}

#[test]
fn what_cannot_be_understood_is_refused_with_a_remedy_and_left_alone() {
    let (folder, path) = place();
    drop(Store::open(&path).unwrap());

    let newer = folder.path().join("newer.db");
    fs::copy(&path, &newer).unwrap();
    let connection = rusqlite::Connection::open(&newer).unwrap();
    connection.pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
    connection.query_row("PRAGMA journal_mode=DELETE", [], |_| Ok(())).unwrap();
    drop(connection);
    let error = Store::open(&newer).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("later release"), "{error}");
    assert!(!error.is_about_room());

    let text = folder.path().join("text.db");
    fs::write(&text, "this is no database, and long enough to look like one. ".repeat(200))
        .unwrap();
    let error = refused(&text, "is no journal");
    assert!(matches!(error, StoreError::Foreign { .. }));

    let other = folder.path().join("other.db");
    let connection = rusqlite::Connection::open(&other).unwrap();
    connection.execute_batch("CREATE TABLE songs (name TEXT)").unwrap();
    drop(connection);
    assert!(matches!(Store::open(&other), Err(StoreError::Foreign { .. })));
}

#[test]
fn damage_is_said_with_a_remedy() {
    let (_folder, path) = place();
    let mut store = Store::open(&path).unwrap();
    let mut key = store.begin(&header("r")).unwrap();
    let batch: Vec<_> = (0..900).map(|index| at(index, Entry::Began)).collect();
    store.append(&mut key, &batch).unwrap();
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    bytes[4096..half].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let error = Store::open(&path).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.remedy().contains("mv "), "{}", error.remedy());
}

#[test]
fn a_file_of_an_earlier_release_is_brought_up_to_date() {
    let (_folder, path) = place();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    schema::make_old(&connection, 1).unwrap();
    let text = serde_json::to_string(&header("old")).unwrap();
    connection.execute("INSERT INTO runs (id, header) VALUES ('old', ?1)", [text]).unwrap();
    drop(connection);
    let mut store = Store::open(&path).unwrap();
    let run = store.unfinished().unwrap().expect("the old run");
    assert_eq!(run.header, header("old"));
    let mut key = store.resume("old").unwrap().unwrap();
    store.append(&mut key, &[at(1, Entry::Began)]).unwrap();
    drop(store);
    assert_eq!(Store::open(&path).unwrap().run("old").unwrap().unwrap().entries.len(), 1);
}

#[test]
fn nothing_is_made_by_looking() {
    let (_folder, path) = place();
    assert!(Store::open_existing(&path).unwrap().is_none());
    assert!(!path.exists());
}
