//! The VMs' memory: how much of it must be sent, and how fast it changes.

use super::{
    curve,
    dirty::{self, Sampled, Subject, Windows},
    phases::Timed,
    places::Place,
};
use crate::fleet;
use droveway_fleet::{
    DirtyCurve, Fleet, HostId, VmId,
    curve::CurvePoint,
    report::Quantiles,
    snapshot::{MemorySnapshot, TailPoint},
};
use droveway_host::guest_memory::{self, GuestMemory};
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::Semaphore;

/// Pages looked at for their content: a share is known to one in a hundred.
const PAGES: u32 = 16_384;
/// Any number: the same pages of the same memory each time.
const SEED: u64 = 0x5eed_0fd2_0ea7;
/// A tenth of a normal distribution lies beyond so many standard errors.
const TENTH: f64 = 1.2816;

/// What was found out about a VM's memory.
#[derive(Debug)]
pub(super) struct MemorySeen {
    pub(super) memory: MemorySnapshot,
    /// The windows in which its dirtying was watched.
    pub(super) windows: Vec<Timed>,
}

/// Measures these VMs within about the window; what could not be measured is said in `remarks`.
pub(super) async fn measure(
    fleet: &Fleet,
    places: Vec<&Place<'_>>,
    window: Duration,
    remarks: &mut Vec<String>,
) -> BTreeMap<VmId, MemorySeen> {
    let mut of_host: BTreeMap<&HostId, usize> = BTreeMap::new();
    for place in &places {
        *of_host.entry(&place.host).or_default() += 1;
    }
    let turns: BTreeMap<&HostId, Semaphore> =
        of_host.keys().map(|host| (*host, Semaphore::new(1))).collect();
    let one = async |place: &Place<'_>| {
        let (Some(instance), Some(turn)) =
            (place.vm.instances.get(&place.host), turns.get(&place.host))
        else {
            return Sampled::default();
        };
        let memory_bytes = place.facts.memory.get();
        let count = of_host.get(&place.host).copied().unwrap_or(1);
        let windows = Windows::within(window.as_secs_f64(), count);
        let run_began =
            || fleet::active_run(fleet).map(|run| format!("{} began to move VMs", run.run_id));
        let kvm = place.facts.accelerator.kvm_enabled;
        dirty::sample(Subject { instance, kvm, memory_bytes }, windows, turn, run_began).await
    };
    let sampled = futures::future::join_all(places.iter().map(|place| one(place))).await;
    let mut memories = BTreeMap::new();
    for (place, sampled) in places.into_iter().zip(sampled) {
        let name = &place.vm.name;
        if let Some(remark) = &sampled.remark {
            let so_far = sampled.readings.len();
            remarks.push(format!(
                "the dirtying of VM '{name}' was measured in {so_far} windows only: {remark}"
            ));
        }
        let Some(pid) = place.pid else { continue };
        let memory_bytes = place.facts.memory.get();
        let looked = tokio::task::spawn_blocking(move || {
            guest_memory::measure(pid, memory_bytes, PAGES, SEED)
        });
        match looked.await {
            Ok(Ok(resident)) => {
                if let Some(memory) = snapshot(&resident, &sampled, memory_bytes) {
                    let windows = sampled.readings;
                    memories.insert(name.clone(), MemorySeen { memory, windows });
                }
            }
            Ok(Err(error)) => {
                remarks.push(format!("the memory of VM '{name}' could not be read: {error}"));
            }
            Err(error) => {
                remarks.push(format!("the memory of VM '{name}' was not read: {error}"));
            }
        }
    }
    memories
}

/// `None` without a single window: a curve that was not measured is none.
#[expect(clippy::cast_precision_loss, reason = "a VM's memory, far below 2^53")]
fn snapshot(
    resident: &GuestMemory,
    sampled: &Sampled,
    memory_bytes: u64,
) -> Option<MemorySnapshot> {
    let readings: Vec<_> = sampled.readings.iter().map(|timed| timed.reading).collect();
    let fitted = curve::fitted(&readings, memory_bytes as f64)?;
    let bytes = resident.resident_bytes as f64;
    let send = |zero_ratio: f64| bytes * (1.0 - zero_ratio.clamp(0.0, 1.0));
    let spread = TENTH * resident.zero_ratio_error;
    Some(MemorySnapshot {
        resident_bytes: resident.resident_bytes,
        zero_ratio: resident.zero_ratio,
        send_bytes: Quantiles {
            p10: send(resident.zero_ratio + spread),
            p50: send(resident.zero_ratio),
            p90: send(resident.zero_ratio - spread),
        },
        tail: resident
            .tail
            .iter()
            .map(|(ram_bytes, content_bytes)| TailPoint {
                ram_bytes: *ram_bytes,
                content_bytes: *content_bytes,
            })
            .collect(),
        compressed_ratio: resident.compressed_ratio,
        method: sampled.method.clone(),
        samples: fitted
            .points
            .iter()
            .map(|point| CurvePoint { seconds: point.seconds, bytes: point.bytes })
            .collect(),
        curve: finite(fitted.fit.curve),
        // What cannot be told from the readings may be as large as the curve itself; JSON knows no infinity.
        curve_error_ratio: Some(fitted.fit.standard_error_ratio)
            .filter(|ratio| ratio.is_finite())
            .unwrap_or(1.0),
    })
}

/// A fit of nothing but zeroes is an idle memory, whatever form it was given.
fn finite(curve: DirtyCurve) -> DirtyCurve {
    if curve.initial_rate() > 0.0 { curve } else { DirtyCurve::idle() }
}
