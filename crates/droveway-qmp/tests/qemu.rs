//! Contract with a real QEMU, always under TCG. Skipped, and said so, where there is none.

mod machine;

use droveway_fleet::{Bandwidth, Bytes, RateLimit};
use droveway_qmp::{
    Capability, Denial, DirtyRateStatus, DirtySampling, ErrorClass, Event, MigrationParameters,
    MigrationStatus, QmpError, RunState, ShutdownCause, SwitchoverBandwidth, YankInstance,
};
use machine::{PATIENCE, Qemu, or_skip};
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test]
async fn greeting_schema_and_facts() {
    let Some(qemu) = or_skip() else { return };
    let guest = Qemu::start(qemu, &["-name", "vm1", "-device", "virtio-balloon"]).await;
    let client = &guest.client;
    assert!(client.has_out_of_band());
    assert_eq!(&client.query_version().await.unwrap(), client.version());

    let schema = client.probe().await.unwrap();
    assert!(schema.has_command("migrate-recover") && schema.allows_oob("migrate-recover"));
    assert!(schema.has_event("MIGRATION") && schema.has_argument("migrate", "resume"));
    assert!(schema.has_capability(&Capability::PostcopyRam));
    assert!(schema.migration_statuses().contains(&MigrationStatus::PostcopyPaused));

    let facts = client.machine_facts().await.unwrap();
    assert!(facts.machine_type.starts_with("pc-q35-"), "{}", facts.machine_type);
    assert_eq!(facts.name.as_deref(), Some("vm1"));
    assert_eq!((facts.memory, facts.vcpus), (Bytes::from_mib(64), 1));
    assert!(!facts.accelerator.kvm_enabled);
    let status = client.status().await.unwrap();
    assert_eq!((status.state, status.running), (RunState::Prelaunch, false));
    assert_eq!(client.block_devices().await.unwrap(), []);
    assert_eq!(client.balloon_size().await.unwrap(), Bytes::from_mib(64));
    client.balloon(Bytes::from_mib(32)).await.unwrap();
}

#[tokio::test]
async fn capabilities_round_trip() {
    let Some(qemu) = or_skip() else { return };
    let guest = Qemu::start(qemu, &[]).await;
    let client = &guest.client;
    let before = client.capabilities().await.unwrap();
    assert_eq!(before.on().count(), 0, "all are off at the start, events included");
    assert!(before.exists(&Capability::Multifd));
    let wanted = [(Capability::Events, true), (Capability::ReturnPath, true)];
    client.set_capabilities(&wanted).await.unwrap();
    let after = client.capabilities().await.unwrap();
    assert_eq!(after.on().collect::<Vec<_>>(), [&Capability::Events, &Capability::ReturnPath]);

    let unknown = Capability::Unknown("teleport".to_owned());
    let error = client.set_capabilities(&[(unknown, true)]).await.unwrap_err();
    assert!(error.to_string().contains("does not accept value 'teleport'"), "{error}");
}

#[tokio::test]
async fn parameters_round_trip_with_units() {
    let Some(qemu) = or_skip() else { return };
    let guest = Qemu::start(qemu, &[]).await;
    let client = &guest.client;
    let before = client.parameters().await.unwrap();
    let default = RateLimit::At(Bandwidth::from_bytes_per_second(128 << 20));
    assert_eq!(before.max_bandwidth, Some(default));
    assert_eq!(before.max_postcopy_bandwidth, Some(RateLimit::Unlimited));
    assert_eq!(before.downtime_limit, Some(Duration::from_millis(300)));

    let assumed = SwitchoverBandwidth::Assumed(Bandwidth::from_bits_per_second(1_000_000_000));
    let wanted = MigrationParameters {
        max_bandwidth: Some(RateLimit::Unlimited),
        max_postcopy_bandwidth: Some("80Mbit/s".parse().unwrap()),
        avail_switchover_bandwidth: Some(assumed),
        downtime_limit: Some(Duration::from_millis(50)),
        announce_rounds: Some(3),
        announce_step: Some(Duration::from_millis(20)),
        cpu_throttle_initial: Some(30),
        ..Default::default()
    };
    client.set_parameters(&wanted).await.unwrap();
    let after = client.parameters().await.unwrap();
    assert_eq!(after, merge(&before, &wanted));

    let rate = RateLimit::At(Bandwidth::ZERO);
    let zero = MigrationParameters { max_bandwidth: Some(rate), ..Default::default() };
    let error = client.set_parameters(&zero).await.unwrap_err();
    let QmpError::Denied { denial: Denial::RateRoundsToUnlimited { .. }, .. } = error else {
        panic!("{error}")
    };
    let endless = Some(Duration::from_secs(2001));
    let endless = MigrationParameters { downtime_limit: endless, ..Default::default() };
    assert!(matches!(client.set_parameters(&endless).await, Err(QmpError::Denied { .. })));
}

fn merge(before: &MigrationParameters, set: &MigrationParameters) -> MigrationParameters {
    MigrationParameters {
        max_bandwidth: set.max_bandwidth,
        max_postcopy_bandwidth: set.max_postcopy_bandwidth,
        avail_switchover_bandwidth: set.avail_switchover_bandwidth,
        downtime_limit: set.downtime_limit,
        announce_rounds: set.announce_rounds,
        announce_step: set.announce_step,
        cpu_throttle_initial: set.cpu_throttle_initial,
        ..before.clone()
    }
}

#[tokio::test]
async fn refusals_of_out_of_band_commands() {
    let Some(qemu) = or_skip() else { return };
    let guest = Qemu::start(qemu, &[]).await;
    let client = &guest.client;
    let nowhere = guest.migration_uri("nowhere");
    let recover = client.migrate_recover(&nowhere).await.unwrap_err();
    let pause = client.migrate_pause().await.unwrap_err();
    let status = client.execute_oob::<()>("query-status", ()).await.unwrap_err();
    for (error, part) in [
        (recover, "Migrate recover can only be run when postcopy is paused."),
        (pause, "migrate-pause is currently only supported during postcopy-active"),
        (status, "The command query-status does not support OOB"),
    ] {
        assert_eq!(error.class(), Some(&ErrorClass::GenericError));
        assert!(error.to_string().contains(part), "'{error}' lacks '{part}'");
    }
    let error = client.yank(&[YankInstance::Migration]).await.unwrap_err();
    assert_eq!(error.class(), Some(&ErrorClass::DeviceNotFound));
    let instances = client.yank_instances().await.unwrap();
    assert!(matches!(&instances[..], [YankInstance::Chardev(_)]), "{instances:?}");
    let error = client.execute::<()>("migrate-teleport", ()).await.unwrap_err();
    assert_eq!(error.class(), Some(&ErrorClass::CommandNotFound));
    let error = client.migrate_incoming(&nowhere).await.unwrap_err();
    assert!(error.to_string().contains("'-incoming' was not specified"), "{error}");
    assert_eq!(client.migration().await.unwrap().status, MigrationStatus::Idle);
}

#[tokio::test]
async fn many_commands_in_flight_and_both_lanes() {
    let Some(qemu) = or_skip() else { return };
    let guest = Qemu::start(qemu, &[]).await;
    let client = &guest.client;
    let queries = futures::future::try_join_all((0..48).map(|_| client.status()));
    let yanks = futures::future::try_join_all((0..12).map(|_| client.yank_instances()));
    let (queries, yanks) = tokio::join!(queries, yanks);
    assert_eq!((queries.unwrap().len(), yanks.unwrap().len()), (48, 12));
    assert_eq!(client.late_replies(), 0);
}

#[tokio::test]
async fn garbage_from_us_costs_nothing_but_itself() {
    let Some(qemu) = or_skip() else { return };
    let guest = Qemu::start(qemu, &[]).await;
    let error = guest.client.execute::<()>("query-status", "no object").await.unwrap_err();
    assert!(error.to_string().contains("arguments"), "{error}");
    guest.client.status().await.unwrap();
}

#[tokio::test]
async fn dirty_rate_is_sampled_in_milliseconds() {
    let Some(qemu) = or_skip() else { return };
    let guest = Qemu::start(qemu, &[]).await;
    let client = &guest.client;
    let window = Duration::from_millis(100);
    client.start_dirty_sampling(&DirtySampling::precise(window)).await.unwrap();
    let measured = async {
        loop {
            let rate = client.dirty_rate().await.unwrap();
            if rate.status == DirtyRateStatus::Measured {
                return rate;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let rate = timeout(PATIENCE, measured).await.unwrap();
    assert_eq!(rate.rate, Some(Bandwidth::ZERO), "the guest stands still");
    // QEMU reports the time it really took, a few milliseconds more.
    assert!(rate.window >= window && rate.window < window + PATIENCE, "{rate:?}");
    assert_eq!(rate.pages_per_gib, 16_384);
    let tiny = DirtySampling::precise(Duration::from_millis(1));
    assert!(matches!(client.start_dirty_sampling(&tiny).await, Err(QmpError::Denied { .. })));
}

#[tokio::test]
async fn stop_cont_and_quit_are_seen_as_events() {
    let Some(qemu) = or_skip() else { return };
    let guest = Qemu::start(qemu, &[]).await;
    let client = &guest.client;
    let mut events = client.subscribe();
    client.cont().await.unwrap();
    client.stop().await.unwrap();
    client.quit().await.unwrap();
    timeout(PATIENCE, client.closed()).await.unwrap();
    let mut seen = Vec::new();
    while let Some(record) = events.next_event().await {
        assert!(record.time.is_some_and(|time| time > Duration::from_secs(1_700_000_000)));
        seen.push(record.event);
    }
    let quit = Event::Shutdown { guest: false, reason: ShutdownCause::HostQmpQuit };
    let rest = &seen[seen.len().saturating_sub(1)..];
    assert_eq!(seen[..2], [Event::Resume, Event::Stop]);
    assert_eq!(rest, [quit]);
}
