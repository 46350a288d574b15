//! Which way of measuring dirty memory is chosen, against a monitor that plays accelerators that have it and that lack it.

mod support;

use droveway_qmp::{DirtyRateMode, DirtySampling};
use serde_json::{Value, json};
use std::time::Duration;
use support::{Monitor, Peer};

/// The next command, which must be `calc-dirty-rate` in that mode.
async fn asked(peer: &mut Peer, mode: &str) -> u64 {
    let message = peer.next().await.unwrap();
    assert_eq!(message["execute"], "calc-dirty-rate", "{message}");
    assert_eq!(message["arguments"]["mode"], mode, "{message}");
    // QEMU refuses the number of pages where none are sampled.
    let has_pages = message["arguments"].get("sample-pages").is_some();
    assert_eq!(has_pages, mode == "page-sampling", "{message}");
    message["id"].as_u64().unwrap()
}

async fn refuses(peer: &mut Peer, mode: &str) {
    let id = asked(peer, mode).await;
    let text = format!("mode {mode} is not enabled, use other method instead.");
    peer.send(json!({"error": {"class": "GenericError", "desc": text}, "id": id})).await;
}

fn answer(mode: &str, rate: Option<u64>) -> Value {
    let mut answer = json!({
        "status": "measuring", "sample-pages": 0, "mode": mode, "calc-time": 100,
        "calc-time-unit": "millisecond", "start-time": 1,
    });
    if let Some(rate) = rate {
        answer["status"] = json!("measured");
        answer["dirty-rate"] = json!(rate);
    }
    answer
}

/// The mode is taken; the first look comes too early, the second has `rate`.
async fn measures(peer: &mut Peer, mode: &str, rate: u64) {
    let id = asked(peer, mode).await;
    peer.reply(id, json!({})).await;
    for rate in [None, Some(rate)] {
        let id = peer.expect("query-dirty-rate").await;
        peer.reply(id, answer(mode, rate)).await;
    }
}

#[tokio::test]
async fn under_emulation_nothing_is_tried() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&[]).await;
    assert_eq!(client.dirty_mode(false).await.unwrap(), DirtyRateMode::PageSampling);
    drop(client);
    assert_eq!(peer.next().await, None, "no command was sent");
}

#[tokio::test]
async fn a_dirty_ring_that_counts_is_used() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&[]).await;
    let (mode, ()) = tokio::join!(client.dirty_mode(true), measures(&mut peer, "dirty-ring", 30));
    assert_eq!(mode.unwrap(), DirtyRateMode::DirtyRing);
}

#[tokio::test]
async fn without_a_ring_the_bitmap_is_used() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&[]).await;
    let script = async {
        refuses(&mut peer, "dirty-ring").await;
        measures(&mut peer, "dirty-bitmap", 12).await;
    };
    let (mode, ()) = tokio::join!(client.dirty_mode(true), script);
    assert_eq!(mode.unwrap(), DirtyRateMode::DirtyBitmap);
}

#[tokio::test]
async fn what_counts_nothing_or_is_refused_falls_back_to_sampling() {
    for refuses_both in [false, true] {
        let monitor = Monitor::new();
        let (client, mut peer) = monitor.pair(&[]).await;
        let script = async {
            refuses(&mut peer, "dirty-ring").await;
            if refuses_both {
                refuses(&mut peer, "dirty-bitmap").await;
            } else {
                measures(&mut peer, "dirty-bitmap", 0).await;
            }
            asked(&mut peer, "page-sampling").await
        };
        let calls = async {
            let mode = client.dirty_mode(true).await.unwrap();
            assert_eq!(mode, DirtyRateMode::PageSampling);
            let sampling = DirtySampling::precise(Duration::from_millis(100));
            // Nobody answers: that it is asked for is enough.
            let hasty = client.with_timeout(Duration::from_millis(40));
            assert!(hasty.start_dirty_sampling(&sampling).await.is_err());
        };
        tokio::join!(calls, script);
    }
}

#[tokio::test]
async fn a_monitor_that_is_gone_is_an_error_not_a_choice() {
    let monitor = Monitor::new();
    let (client, mut peer) = monitor.pair(&[]).await;
    let script = async {
        asked(&mut peer, "dirty-ring").await;
        drop(peer);
    };
    let (mode, ()) = tokio::join!(client.dirty_mode(true), script);
    assert!(mode.unwrap_err().is_disconnected());
}
