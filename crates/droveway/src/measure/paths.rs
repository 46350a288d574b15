//! The path between each pair of hosts, both ways, before anything is watched: the probes' own bytes are in no figure.

use droveway_fleet::{Host, snapshot::PathSnapshot};
use droveway_host::{
    netns::Netns,
    path::{self, PathReading},
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// The most time for one probe (it usually takes some milliseconds).
const PROBE_TIME: Duration = Duration::from_secs(2);
/// The most time for all: pairs grow with the square of the hosts, and one host that does not answer costs each of its
/// pairs the full time.
const ALL_TIME: Duration = Duration::from_secs(30);

/// Probes every pair, one after the other: probes at the same time would measure each other.
pub(super) fn probe(hosts: &[Host], stop: &AtomicBool) -> Vec<PathSnapshot> {
    let began = Instant::now();
    let pairs = hosts
        .iter()
        .flat_map(|from| hosts.iter().map(move |to| (from, to)))
        .filter(|(from, to)| from.name != to.name);
    let one = |(from, to): (&Host, &Host)| {
        let read = if stop.load(Ordering::Relaxed) || began.elapsed() > ALL_TIME {
            Err(anyhow::anyhow!("not probed: the pairs before it took {ALL_TIME:?}"))
        } else {
            probe_one(from, to)
        };
        let reading = read.as_ref().ok();
        PathSnapshot {
            from: from.name.clone(),
            to: to.name.clone(),
            rtt_seconds: reading.map(|r| r.rtt.as_secs_f64()),
            rtt_min_seconds: reading.map(|r| r.rtt_min.as_secs_f64()),
            retransmit_ratio: reading.map(|r| r.retransmit_ratio),
            loss_ratio: reading.map(|r| r.loss_ratio),
            delivery_bytes_per_second: reading.map(|r| r.delivery_bytes_per_second),
            reason: read.as_ref().err().map(|error| format!("{error:#}")),
        }
    };
    pairs.map(one).collect()
}

fn probe_one(from: &Host, to: &Host) -> anyhow::Result<PathReading> {
    let (source, target) = (Netns::of(from.netns.as_deref())?, Netns::of(to.netns.as_deref())?);
    Ok(path::path_probe(&source, &target, to.migration_address, PROBE_TIME)?)
}
