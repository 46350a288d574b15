//! Calls against a monitor that misbehaves on cue: replies late, out of order, never; no out-of-band; silence.

mod support;

use droveway_qmp::{Client, Closed, Denial, ErrorClass, QmpAddress, QmpError, RunState, bounds};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::{Monitor, PATIENCE, chain};
use tokio::{net::UnixListener, time::timeout};

const SHORT: Duration = Duration::from_millis(40);

#[tokio::test]
async fn a_late_reply_is_dropped_and_the_connection_stays_usable() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&["oob"]).await;
    let hasty = client.with_timeout(SHORT);
    let (result, late) = tokio::join!(hasty.status(), peer.expect("query-status"));
    let error = result.unwrap_err();
    assert!(matches!(&error, QmpError::Timeout { after, .. } if *after == SHORT), "{error}");
    assert!(!error.had_no_effect());

    let answer = async {
        let id = peer.expect("query-status").await;
        assert_ne!(id, late);
        peer.reply(late, json!({"status": "paused", "running": false})).await;
        peer.reply(id, json!({"status": "running", "running": true})).await;
    };
    let (status, ()) = tokio::join!(client.status(), answer);
    assert_eq!(status.unwrap().state, RunState::Running);
    assert_eq!(client.late_replies(), 1);
}

#[tokio::test]
async fn a_dropped_call_leaves_the_connection_usable() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&[]).await;
    let caller = tokio::spawn({
        let client = client.clone();
        async move { client.status().await }
    });
    let id = peer.expect("query-status").await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    let answer = async {
        let next = peer.expect("query-name").await;
        peer.reply(id, json!({})).await;
        peer.reply(next, json!({"name": "vm1"})).await;
    };
    let (name, ()) = tokio::join!(client.name(), answer);
    assert_eq!(name.unwrap().as_deref(), Some("vm1"));
    assert_eq!(client.late_replies(), 1);
}

#[tokio::test]
async fn replies_are_matched_by_id_not_by_order() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&["oob"]).await;
    let answer = async {
        let first = peer.expect("query-name").await;
        let second = peer.expect("query-memory-size-summary").await;
        peer.reply(second, json!({"base-memory": 64 << 20, "plugged-memory": 1 << 20})).await;
        peer.reply(first, json!({"name": "vm1"})).await;
    };
    let (name, memory, ()) = tokio::join!(client.name(), client.memory_size(), answer);
    assert_eq!(name.unwrap().as_deref(), Some("vm1"));
    assert_eq!(memory.unwrap().to_string(), "65MiB");
}

#[tokio::test]
async fn a_refusal_carries_class_and_words() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&[]).await;
    let answer = async {
        let id = peer.expect("query-balloon").await;
        let error = json!({"class": "SomethingNew", "desc": "No balloon"});
        peer.send(json!({"error": error, "id": id})).await;
    };
    let (result, ()) = tokio::join!(client.balloon_size(), answer);
    let error = result.unwrap_err();
    assert_eq!(error.class(), Some(&ErrorClass::Unknown("SomethingNew".into())));
    let address = client.address();
    assert_eq!(error.to_string(), format!("query-balloon at {address}: No balloon (SomethingNew)"));
    assert!(error.had_no_effect());
}

#[tokio::test]
async fn an_unreadable_reply_is_an_error_and_the_connection_stays_usable() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&[]).await;
    let answer = async {
        let id = peer.expect("query-status").await;
        peer.reply(id, json!({"status": "a state of its own", "running": false})).await;
        let id = peer.expect("query-status").await;
        peer.reply(id, json!([1])).await;
    };
    let calls = async { (client.status().await, client.status().await) };
    let ((unknown, unreadable), ()) = tokio::join!(calls, answer);
    assert_eq!(unknown.unwrap().state, RunState::Unknown("a state of its own".into()));
    assert!(matches!(unreadable.unwrap_err(), QmpError::Malformed { .. }));
}

#[tokio::test]
async fn without_oob_out_of_band_commands_are_denied() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&[]).await;
    assert!(!client.has_out_of_band());
    let error = client.migrate_pause().await.unwrap_err();
    assert!(matches!(&error, QmpError::Denied { denial: Denial::OutOfBandUnavailable, .. }));
    assert!(error.to_string().ends_with("this monitor has no out-of-band execution"), "{error}");
    // Nothing was sent, and what has an ordinary lane too goes there.
    let answer = async {
        let message = peer.next().await.unwrap();
        assert_eq!(message["execute"], "query-yank");
        peer.reply(message["id"].as_u64().unwrap(), json!([{"type": "migration"}])).await;
    };
    let (yank, ()) = tokio::join!(client.yank_instances(), answer);
    assert_eq!(yank.unwrap().len(), 1);
}

#[tokio::test]
async fn a_stalled_monitor_still_takes_out_of_band_commands() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&["oob"]).await;
    let hasty = client.with_timeout(SHORT);
    let stalled = (0..=bounds::IN_BAND_MAX).map(|_| hasty.status());
    let errors = futures::future::join_all(stalled).await;
    let count = |wanted: fn(&QmpError) -> bool| {
        errors.iter().filter(|result| result.as_ref().is_err_and(wanted)).count()
    };
    assert_eq!(count(|error| matches!(error, QmpError::Timeout { .. })), bounds::IN_BAND_MAX);
    assert_eq!(count(|error| matches!(error, QmpError::Busy { .. })), 1);

    let answer = async {
        let mut stalled = Vec::new();
        for _ in 0..bounds::IN_BAND_MAX {
            stalled.push(peer.expect("query-status").await);
        }
        let message = peer.next().await.unwrap();
        assert_eq!(message["exec-oob"], "migrate-pause");
        peer.reply(message["id"].as_u64().unwrap(), json!({})).await;
        // Once a late reply frees its place, the ordinary lane works again.
        peer.reply(stalled[0], json!({})).await;
        let id = peer.expect("query-name").await;
        peer.reply(id, json!({})).await;
    };
    let calls = async { (client.migrate_pause().await, client.name().await) };
    let ((pause, name), ()) = tokio::join!(calls, answer);
    pause.unwrap();
    assert_eq!(name.unwrap(), None);
}

#[tokio::test]
async fn too_many_callers_are_denied() {
    let monitor = Monitor::new();
    let (client, _peer) = monitor.pair(&[]).await;
    let hasty = client.with_timeout(SHORT);
    let errors = futures::future::join_all((0..=bounds::CALLERS_MAX).map(|_| hasty.status())).await;
    let denied = |result: &Result<_, QmpError>| matches!(result, Err(QmpError::Denied { .. }));
    assert_eq!(errors.iter().filter(|result| denied(result)).count(), 1);
}

#[tokio::test]
async fn a_disconnection_fails_every_pending_command() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&["oob"]).await;
    let mut subscription = client.subscribe();
    let hang_up = async {
        peer.expect("query-status").await;
        peer.expect("query-name").await;
        drop(peer);
    };
    let (status, name, ()) = tokio::join!(client.status(), client.name(), hang_up);
    for error in [status.unwrap_err(), name.unwrap_err()] {
        assert!(error.is_disconnected(), "{error}");
        assert!(chain(&error).contains("connection closed: "), "{}", chain(&error));
    }
    timeout(PATIENCE, client.closed()).await.unwrap();
    assert_eq!(timeout(PATIENCE, subscription.recv()).await.unwrap(), None);
    assert_eq!(timeout(PATIENCE, client.subscribe().recv()).await.unwrap(), None);
    assert!(client.status().await.unwrap_err().is_disconnected());
}

#[tokio::test]
async fn dropping_the_last_client_closes_the_connection() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&[]).await;
    let (mut subscription, closed) = (client.subscribe(), client.closed());
    drop(client.clone());
    peer.event("STOP", Value::Null).await;
    assert!(timeout(PATIENCE, subscription.next_event()).await.unwrap().is_some());
    drop(client);
    assert_eq!(timeout(PATIENCE, peer.next()).await.unwrap(), None);
    assert!(matches!(timeout(PATIENCE, closed).await.unwrap(), Closed::ByUs));
    assert_eq!(subscription.recv().await, None);
}

#[tokio::test]
async fn quit_succeeds_with_or_without_a_reply() {
    for replies in [true, false] {
        let monitor = Monitor::new();
        let (client, mut peer) = monitor.pair(&[]).await;
        let end = async {
            let id = peer.expect("quit").await;
            if replies {
                peer.reply(id, json!({})).await;
            }
            drop(peer);
        };
        let (quit, ()) = tokio::join!(client.quit(), end);
        quit.unwrap();
    }
}

#[tokio::test]
async fn a_slow_greeting_is_waited_for_and_silence_is_not() {
    let monitor = Monitor::new();
    let slow = async {
        let mut peer = monitor.accept().await;
        tokio::time::sleep(SHORT).await;
        peer.greet(&["oob"]).await;
        let id = peer.expect("qmp_capabilities").await;
        peer.reply(id, json!({})).await;
        peer
    };
    let (client, _peer) = tokio::join!(Client::connect(&monitor.address, PATIENCE), slow);
    assert_eq!(client.unwrap().version().to_string(), "10.0.2 (test)");

    let error = Client::connect(&monitor.address, SHORT).await.unwrap_err();
    assert!(chain(&error).contains("silent for 40ms: another client may hold the monitor"));
}

#[tokio::test]
async fn something_else_than_a_monitor_is_named() {
    for (says, part) in [
        ("SSH-2.0-OpenSSH\r\n", "it said 'SSH-2.0-OpenSSH'"),
        ("{\"return\": {}}\n", "not a QMP monitor"),
        ("", "the peer hung up: end of stream from the peer"),
    ] {
        let monitor = Monitor::new();
        let serve = async { monitor.accept().await.send_raw(says.as_bytes()).await };
        let (client, ()) = tokio::join!(Client::connect(&monitor.address, PATIENCE), serve);
        let text = chain(&client.unwrap_err());
        assert!(text.contains(part), "'{text}' lacks '{part}'");
    }
}

#[tokio::test]
async fn a_socket_that_appears_later_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("late.sock");
    let address = QmpAddress::unix(&path);
    let error = Client::connect(&address, SHORT).await.unwrap_err();
    let QmpError::Connect { attempts, .. } = &error else { panic!("{error}") };
    assert!(*attempts > 1, "{error}");

    let appear = async {
        tokio::time::sleep(SHORT).await;
        let listener = UnixListener::bind(&path).unwrap();
        drop(listener.accept().await.unwrap());
    };
    let (client, ()) = tokio::join!(Client::connect(&address, PATIENCE), appear);
    assert!(matches!(client.unwrap_err(), QmpError::Greeting { .. }));
}

#[tokio::test]
async fn an_error_that_waiting_cannot_mend_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let address = QmpAddress::unix(dir.path().join("x".repeat(200)));
    let start = Instant::now();
    let error = Client::connect(&address, PATIENCE).await.unwrap_err();
    assert!(matches!(error, QmpError::Connect { attempts: 1, .. }), "{error}");
    assert!(start.elapsed() < PATIENCE / 2);
}
