//! What comes unasked from a scripted monitor: events known and unknown, garbage, floods, lines without end.

mod support;

use droveway_qmp::{Closed, Event, MigrationStatus, Notice, QmpError, bounds};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::{Monitor, PATIENCE};
use tokio::time::timeout;

#[tokio::test]
async fn events_carry_both_clocks_and_the_unknown() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&["oob"]).await;
    let (mut subscription, mut other) = (client.subscribe(), client.subscribe());
    let before = Instant::now();
    peer.event("MIGRATION", json!({"status": "active"})).await;
    peer.event("MIGRATION", json!({"status": "postcopy-quantum"})).await;
    peer.event("COSMIC_RAY", json!({"bit": 7})).await;
    let mut events = Vec::new();
    for _ in 0..3 {
        let record = timeout(PATIENCE, subscription.next_event()).await.unwrap().unwrap();
        assert_eq!(record.time, Some(Duration::from_micros(1_700_000_000_250_000)));
        assert!(before <= record.received && record.received <= Instant::now());
        events.push(record.event);
    }
    let status = MigrationStatus::Unknown("postcopy-quantum".into());
    let expected = [
        Event::Migration { status: MigrationStatus::Active },
        Event::Migration { status },
        Event::Unknown { name: "COSMIC_RAY".into(), data: r#"{"bit":7}"#.into() },
    ];
    assert_eq!(events, expected);
    let first = timeout(PATIENCE, other.recv()).await.unwrap().unwrap();
    assert_eq!(first.event(), Some(&expected[0]));
    assert!(client.closed().now_or_never_is_none());
}

#[tokio::test]
async fn garbage_is_reported_and_the_connection_goes_on() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&[]).await;
    let mut subscription = client.subscribe();
    let answer = async {
        let id = peer.expect("query-name").await;
        peer.send_raw(b"\x00\xff{{{ garbage\n").await;
        peer.send(json!({"error": {"class": "GenericError", "desc": "JSON parse error"}})).await;
        peer.reply(4_000_000, json!({})).await;
        peer.reply(id, json!({"name": "vm1"})).await;
    };
    let (name, ()) = tokio::join!(client.name(), answer);
    assert_eq!(name.unwrap().as_deref(), Some("vm1"));
    for part in ["expected value", "reply without an id", "4000000, which is not in flight"] {
        match subscription.try_recv() {
            Some(Notice::Malformed { reason, .. }) => assert!(reason.contains(part), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn nothing_but_garbage_ends_the_connection() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&[]).await;
    for _ in 0..bounds::MALFORMED_IN_A_ROW_MAX {
        peer.send_raw(b"garbage\n").await;
    }
    let reason = timeout(PATIENCE, client.closed()).await.unwrap();
    assert_eq!(reason.to_string(), "16 malformed lines in a row, the last 'garbage'");
}

#[tokio::test]
async fn a_line_without_end_is_refused_with_its_bound() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&[]).await;
    let flood = async {
        peer.expect("query-name").await;
        let chunk = vec![b'x'; 1 << 20];
        // The client hangs up as soon as the line is too long.
        while peer.try_send_raw(&chunk).await.is_ok() {}
    };
    let (name, ()) = tokio::join!(client.name(), flood);
    let error = name.unwrap_err();
    assert!(matches!(error, QmpError::TooLong { bound: bounds::LINE_BYTES_MAX, .. }), "{error}");
    assert!(error.to_string().ends_with("line longer than 16777216 bytes"), "{error}");
    assert!(error.is_disconnected());
    assert!(matches!(client.closed().await, Closed::TooLong { .. }));
}

#[tokio::test]
async fn a_command_longer_than_a_line_is_denied_and_costs_nothing() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&[]).await;
    let text = "x".repeat(bounds::LINE_BYTES_MAX);
    let error = client.execute::<()>("x-long", json!({"text": text})).await.unwrap_err();
    assert!(matches!(error, QmpError::Denied { .. }), "{error}");
    let answer = async {
        let id = peer.expect("stop").await;
        peer.reply(id, json!({})).await;
    };
    let (stop, ()) = tokio::join!(client.stop(), answer);
    stop.unwrap();
}

#[tokio::test]
async fn a_slow_subscriber_learns_what_it_lost_and_blocks_nobody() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&["oob"]).await;
    let mut subscription = client.subscribe();
    let sent = bounds::EVENT_BUFFER as u64 + 500;
    let flood = async {
        for pass in 1..=sent {
            peer.event("MIGRATION_PASS", json!({"pass": pass})).await;
        }
        let id = peer.expect("query-name").await;
        peer.reply(id, json!({})).await;
    };
    // The reply comes after the flood: the reader has passed all of it although nobody took an event.
    let (name, ()) = tokio::join!(client.name(), flood);
    name.unwrap();
    assert_eq!(subscription.recv().await, Some(Notice::Lagged(500)));
    for pass in 501..=sent {
        let notice = subscription.recv().await.unwrap();
        assert_eq!(notice.event(), Some(&Event::MigrationPass { pass }));
    }
    assert_eq!(subscription.try_recv(), None);
}

#[tokio::test]
async fn the_client_crosses_threads() {
    fn check<T: Clone + Send + Sync + 'static>(_: &T) {}
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&[]).await;
    check(&client);
    let answer = async {
        while let Some(message) = peer.next().await {
            peer.reply(message["id"].as_u64().unwrap(), json!({})).await;
        }
    };
    let calls = async {
        let spawn = |_| {
            let client = client.clone();
            tokio::spawn(async move { client.execute::<Value>("any", ()).await })
        };
        for call in (0..32).map(spawn).collect::<Vec<_>>() {
            call.await.unwrap().unwrap();
        }
        drop(client);
    };
    tokio::join!(answer, calls);
}

trait Unresolved: Future + Sized {
    /// True if the future isn't ready when asked once.
    fn now_or_never_is_none(self) -> bool {
        futures::FutureExt::now_or_never(self).is_none()
    }
}
impl<F: Future> Unresolved for F {}
