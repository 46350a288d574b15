//! Real migrations between two QEMUs on this machine, over a unix socket, under TCG.

mod machine;

use droveway_fleet::Bytes;
use droveway_qmp::{
    Capability, Event, MigrationParameters, MigrationStatus, QmpError, RunState, YankInstance,
};
use machine::{PATIENCE, Qemu, event_reached, or_skip, state_reached, status_reached};
use std::path::PathBuf;

async fn pair(qemu: PathBuf, capabilities: &[Capability]) -> (Qemu, Qemu) {
    let source = Qemu::start(qemu.clone(), &[]).await;
    let target = Qemu::start(qemu, &["-incoming", "defer"]).await;
    let wanted: Vec<_> = capabilities.iter().map(|name| (name.clone(), true)).collect();
    for guest in [&source, &target] {
        guest.client.set_capabilities(&wanted).await.unwrap();
    }
    (source, target)
}

#[tokio::test]
async fn a_paused_guest_moves_by_pre_copy() {
    let Some(qemu) = or_skip() else { return };
    let (source, target) = pair(qemu, &[Capability::Events]).await;
    let (mut events, mut arrivals) = (source.client.subscribe(), target.client.subscribe());
    let uri = target.migration_uri("migration");
    target.client.migrate_incoming(&uri).await.unwrap();
    assert_eq!(target.client.migration().await.unwrap().listening, std::slice::from_ref(&uri));
    source.client.migrate(&uri).await.unwrap();

    let before = status_reached(&mut events, &MigrationStatus::Completed).await;
    assert_eq!(before[0], MigrationStatus::Setup);
    assert!(before.contains(&MigrationStatus::Active), "{before:?}");
    status_reached(&mut arrivals, &MigrationStatus::Completed).await;

    let info = source.client.migration().await.unwrap();
    assert_eq!(info.status, MigrationStatus::Completed);
    assert!(info.total_time.is_some() && info.downtime.is_some() && info.setup_time.is_some());
    let ram = info.ram.unwrap();
    assert!(ram.total >= Bytes::from_mib(64), "{ram:?}");
    assert_eq!((ram.remaining, ram.page_size), (Bytes::ZERO, Bytes::new(4096)));
    assert_eq!(ram.normal, Bytes::new(ram.normal_pages * 4096));
    assert!(ram.zero >= Bytes::from_mib(60), "an empty guest is zeros: {ram:?}");
    assert!(ram.passes >= 1 && ram.precopy.is_some() && ram.transferred > Bytes::ZERO);
    // The event comes first, the run state a moment later: seen as `finish-migrate` in one run of three.
    state_reached(&source.client, &RunState::PostMigrate).await;
    assert!(!target.client.status().await.unwrap().running);
    source.client.quit().await.unwrap();
    target.client.cont().await.unwrap();
    state_reached(&target.client, &RunState::Running).await;
}

#[tokio::test]
async fn a_migration_is_cancelled_and_pause_before_switchover_waits() {
    let Some(qemu) = or_skip() else { return };
    let wanted = [Capability::Events, Capability::PauseBeforeSwitchover];
    let (source, target) = pair(qemu, &wanted).await;
    let client = &source.client;
    let mut events = client.subscribe();
    let uri = target.migration_uri("migration");
    target.client.migrate_incoming(&uri).await.unwrap();
    client.migrate(&uri).await.unwrap();
    status_reached(&mut events, &MigrationStatus::PreSwitchover).await;
    let error = client.migrate_continue(&MigrationStatus::Device).await.unwrap_err();
    assert!(error.to_string().contains("not in expected state: pre-switchover"), "{error}");
    client.migrate_cancel().await.unwrap();
    status_reached(&mut events, &MigrationStatus::Cancelled).await;
    assert_eq!(client.migration().await.unwrap().status, MigrationStatus::Cancelled);
    let error = client.migrate_resume(&uri).await.unwrap_err();
    assert!(matches!(error, QmpError::Command { .. }), "{error}");
}

#[tokio::test]
async fn post_copy_is_paused_and_recovered_out_of_band() {
    let Some(qemu) = or_skip() else { return };
    let wanted = [Capability::Events, Capability::PostcopyRam];
    let (source, target) = pair(qemu, &wanted).await;
    let (mut events, mut arrivals) = (source.client.subscribe(), target.client.subscribe());
    // Slow enough to break off: 16384 zero pages are some 150 kB on the wire.
    let slow = MigrationParameters {
        max_bandwidth: Some("20kB/s".parse().unwrap()),
        max_postcopy_bandwidth: Some("20kB/s".parse().unwrap()),
        ..Default::default()
    };
    source.client.set_parameters(&slow).await.unwrap();
    source.client.cont().await.unwrap();
    let uri = target.migration_uri("migration");
    target.client.migrate_incoming(&uri).await.unwrap();
    source.client.migrate(&uri).await.unwrap();
    status_reached(&mut events, &MigrationStatus::Active).await;
    source.client.migrate_start_postcopy().await.unwrap();
    status_reached(&mut events, &MigrationStatus::PostcopyActive).await;
    status_reached(&mut arrivals, &MigrationStatus::PostcopyActive).await;
    // A target that has not resumed yet still loads its devices, and a break would end it.
    event_reached(&mut arrivals, &Event::Resume).await;
    assert!(source.client.migrate_cancel().await.is_err(), "no way back from post-copy");

    source.client.migrate_pause().await.unwrap();
    status_reached(&mut events, &MigrationStatus::PostcopyPaused).await;
    status_reached(&mut arrivals, &MigrationStatus::PostcopyPaused).await;
    let info = source.client.migration().await.unwrap();
    assert_eq!(info.status, MigrationStatus::PostcopyPaused);

    let again = target.migration_uri("again");
    target.client.migrate_recover(&again).await.unwrap();
    let fast = MigrationParameters {
        max_postcopy_bandwidth: Some(droveway_fleet::RateLimit::Unlimited),
        ..Default::default()
    };
    source.client.set_parameters(&fast).await.unwrap();
    source.client.migrate_resume(&again).await.unwrap();
    let between = status_reached(&mut events, &MigrationStatus::PostcopyActive).await;
    assert!(between.contains(&MigrationStatus::PostcopyRecover), "{between:?}");
    status_reached(&mut events, &MigrationStatus::Completed).await;
    status_reached(&mut arrivals, &MigrationStatus::Completed).await;
    let ram = source.client.migration().await.unwrap().ram.unwrap();
    assert!(ram.postcopy.is_some_and(|bytes| bytes > Bytes::ZERO), "{ram:?}");
}

#[tokio::test]
async fn a_yanked_pre_copy_fails_with_a_reason() {
    let Some(qemu) = or_skip() else { return };
    let (source, target) = pair(qemu, &[Capability::Events]).await;
    let mut events = source.client.subscribe();
    let slow = MigrationParameters {
        max_bandwidth: Some("20kB/s".parse().unwrap()),
        ..Default::default()
    };
    source.client.set_parameters(&slow).await.unwrap();
    let uri = target.migration_uri("migration");
    target.client.migrate_incoming(&uri).await.unwrap();
    source.client.migrate(&uri).await.unwrap();
    status_reached(&mut events, &MigrationStatus::Active).await;
    let instances = source.client.yank_instances().await.unwrap();
    assert!(instances.contains(&YankInstance::Migration), "{instances:?}");
    source.client.yank(&[YankInstance::Migration]).await.unwrap();
    status_reached(&mut events, &MigrationStatus::Failed).await;
    let info = source.client.migration().await.unwrap();
    assert!(info.error.is_some(), "{info:?}");
    assert!(tokio::time::timeout(PATIENCE, source.client.status()).await.is_ok());
}
