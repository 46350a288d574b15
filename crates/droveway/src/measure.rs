//! `measure`: what runs where, how much it sends to whom, how fast it dirties its memory, and how good the paths are.
//!
//! Nothing is changed but the traffic matrices' tables, which are removed however it ends, and nothing is measured while a
//! run moves VMs: it would measure the run.

mod curve;
mod dirty;
mod flows;
mod memory;
mod network;
mod paths;
mod phases;
mod places;
mod source;
mod table;
mod traffic;

pub(crate) use network::cards;
pub(crate) use source::{Sought, Source, seek, snapshot_for};

use crate::{
    cli::{self, MeasureArgs, Output},
    exit::{Exit, Failure},
    fleet,
    run::Interrupts,
    state,
};
use droveway_fleet::{
    Bandwidth, Fleet, Host, HostId, Snapshot, TimeSpan, VmId,
    document::API_VERSION,
    snapshot::{self, FlowEnd, FlowSnapshot, HostSnapshot, PortSnapshot, VmSnapshot},
};
use droveway_host::{features, netns::Netns, resources};
use memory::MemorySeen;
use places::Place;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use traffic::{HostPlan, Seen, VmPlan};

/// A watch shorter than this has too few readings for a rate.
const WINDOW_MIN: TimeSpan = TimeSpan::from_secs(1);

pub(crate) fn run(
    args: &MeasureArgs,
    fleet: Option<&Path>,
    output: Output,
) -> Result<Exit, Failure> {
    let fleet = fleet::load(fleet)?;
    let Some(snapshot) = take(&fleet, args)? else {
        return Ok(Exit::Interrupted);
    };
    if let Some(path) = &args.save {
        state::write(&snapshot, path)?;
        eprintln!("saved to {}", path.display());
    }
    print(&snapshot, output)?;
    Ok(Exit::Done)
}

/// What `measure --for WINDOW` would ask for; a shorter window than that command has becomes its shortest.
pub(crate) fn brief(window: TimeSpan) -> MeasureArgs {
    let window = window.max(WINDOW_MIN);
    MeasureArgs { window, vm: Vec::new(), no_memory: false, save: None }
}

/// Measures, and keeps what concerns the whole fleet as its last snapshot; `None` if the operator interrupted.
pub(crate) fn take(fleet: &Fleet, args: &MeasureArgs) -> Result<Option<Snapshot>, Failure> {
    let names = fleet.spec.vms.iter().map(|vm| &vm.name);
    let wanted = args
        .vm
        .iter()
        .map(|name| cli::known(name, "VM", names.clone(), cli::vm_text).cloned())
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(run) = fleet::active_run(fleet) {
        return Err(Failure::says(
            Exit::Blocked,
            format!("{} moves VMs of fleet '{}'", run.run_id, fleet.metadata.name),
        )
        .hint("what it moves would be measured with the rest; wait for its end"));
    }
    // One thread drives the monitors, a blocking one watches the counters.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let stop = Arc::new(AtomicBool::new(false));
    let measured = runtime.block_on(async {
        let mut interrupts = Interrupts::new();
        let job = Job { fleet, args, wanted: &wanted, stop: Arc::clone(&stop) };
        tokio::select! {
            snapshot = job.measure() => Some(snapshot),
            () = interrupts.next() => None,
        }
    });
    stop.store(true, Ordering::Relaxed);
    // Waits for the watching thread, and so for the removal of its tables.
    drop(runtime);
    let Some(snapshot) = measured.transpose()? else {
        eprintln!("interrupted: nothing was kept");
        return Ok(None);
    };
    if wanted.is_empty()
        && !args.no_memory
        && let Err(failure) = state::keep_snapshot(fleet, &snapshot)
    {
        // It was asked for now, and is there now.
        tracing::warn!("the snapshot is not kept for later commands: {:#}", failure.error);
    }
    Ok(Some(snapshot))
}

#[expect(clippy::print_stdout, reason = "the command's data")]
fn print(snapshot: &Snapshot, output: Output) -> Result<(), Failure> {
    if output == Output::Table {
        print!("{}", table::render(snapshot));
        return Ok(());
    }
    cli::print_data(snapshot, output)
}

/// One measurement.
struct Job<'a> {
    fleet: &'a Fleet,
    args: &'a MeasureArgs,
    /// The VMs that were named; all if none was.
    wanted: &'a [VmId],
    stop: Arc<AtomicBool>,
}

impl Job<'_> {
    async fn measure(&self) -> Result<Snapshot, Failure> {
        let window = self.args.window.duration();
        let mut remarks = Vec::new();
        let places = self.places(&mut remarks).await;
        let paths = self.paths().await?;
        let plans = self.plans(&places, &mut remarks);
        eprintln!(
            "watching {} hosts and {} VMs for {:.0} s",
            plans.len(),
            places.len(),
            window.as_secs_f64()
        );
        let stop = Arc::clone(&self.stop);
        let for_watch = plans.clone();
        let watching =
            tokio::task::spawn_blocking(move || traffic::watch(&for_watch, window, &stop));
        let memories = async {
            if self.args.no_memory {
                return BTreeMap::new();
            }
            let wanted = places.iter().filter(|place| self.wants(&place.vm.name)).collect();
            memory::measure(self.fleet, wanted, window, &mut remarks).await
        };
        let (mut memories, seen) = tokio::join!(memories, watching);
        let seen = seen.map_err(anyhow::Error::from)?;
        remarks.extend(seen.remarks.iter().cloned());
        let views: Vec<_> = seen.hosts.iter().map(|host| host.view.clone()).collect();
        let (flows, more) = flows::flows(&views);
        remarks.extend(more);
        if places.iter().any(|place| !place.facts.accelerator.kvm_enabled) {
            remarks.push("guests without KVM send and write more slowly than with it".to_owned());
        }
        let hosts = plans.iter().map(|plan| host(plan, &seen)).collect::<Result<_, _>>()?;
        let vms = places.iter().filter(|place| self.wants(&place.vm.name));
        Ok(Snapshot {
            api_version: API_VERSION.to_owned(),
            kind: snapshot::KIND.to_owned(),
            taken_at: jiff::Timestamp::now().to_string(),
            window_seconds: seen.window_seconds,
            hosts,
            vms: vms
                .map(|place| vm(place, &seen, &flows, memories.remove(&place.vm.name)))
                .collect(),
            flows: flows.into_iter().filter(|flow| self.concerns(flow)).collect(),
            paths,
            remarks,
        })
    }

    fn wants(&self, vm: &VmId) -> bool {
        self.wanted.is_empty() || self.wanted.contains(vm)
    }

    fn concerns(&self, flow: &FlowSnapshot) -> bool {
        self.wanted.is_empty()
            || [&flow.from, &flow.to]
                .into_iter()
                .any(|end| matches!(end, FlowEnd::Vm(vm) if self.wanted.contains(vm)))
    }

    /// All VMs, also those that were not named: the flows' ends are known by them.
    async fn places(&self, remarks: &mut Vec<String>) -> Vec<Place<'_>> {
        let mut places = Vec::new();
        for vm in &self.fleet.spec.vms {
            match places::find(vm, remarks).await {
                Ok(place) => {
                    if let Some(status) = &place.migration {
                        remarks.push(format!("VM '{}' migrates (status '{status}')", vm.name));
                    }
                    places.push(place);
                }
                Err(reason) => remarks.push(reason),
            }
        }
        places
    }

    async fn paths(&self) -> Result<Vec<snapshot::PathSnapshot>, Failure> {
        let (hosts, stop) = (self.fleet.spec.hosts.clone(), Arc::clone(&self.stop));
        let probing = tokio::task::spawn_blocking(move || paths::probe(&hosts, &stop));
        Ok(probing.await.map_err(anyhow::Error::from)?)
    }

    fn plans(&self, places: &[Place<'_>], remarks: &mut Vec<String>) -> Vec<HostPlan> {
        let plan = |host: &Host| HostPlan {
            rate: rate(host, remarks),
            vms: places
                .iter()
                .filter(|place| place.host == host.name)
                .map(|place| VmPlan { name: place.vm.name.clone(), taps: place.taps.clone() })
                .collect(),
            host: host.clone(),
        };
        self.fleet.spec.hosts.iter().map(plan).collect()
    }
}

/// The fleet's word, unless the card says that it is slower.
fn rate(host: &Host, remarks: &mut Vec<String>) -> Bandwidth {
    let said = host.port.rate;
    let speed = Netns::of(host.netns.as_deref())
        .ok()
        .and_then(|netns| resources::link_speed(&netns, &host.port.interface));
    match speed {
        Some(speed) if speed < said => {
            remarks.push(format!(
                "the port of host '{}' has {speed}, not {said} as the fleet says",
                host.name
            ));
            speed
        }
        _ => said,
    }
}

/// What a host's port carries: the fleet's word, unless it was measured to be slower.
pub(crate) fn port_rate(host: &Host, snapshot: Option<&Snapshot>) -> Bandwidth {
    let said = host.port.rate;
    snapshot
        .and_then(|snapshot| snapshot.host(host.name.as_str()))
        .map(|seen| Bandwidth::from_bits_per_second(seen.port.rate_bits_per_second))
        .map_or(said, |measured| measured.min(said))
}

fn host(plan: &HostPlan, seen: &Seen) -> Result<HostSnapshot, Failure> {
    let memory = resources::memory().map_err(anyhow::Error::from)?;
    let (tx, rx) = traffic::of(seen, &plan.host.name).map(|seen| seen.port).unwrap_or_default();
    let from_card = plan.rate != plan.host.port.rate;
    Ok(HostSnapshot {
        name: plan.host.name.clone(),
        port: PortSnapshot {
            interface: plan.host.port.interface.clone(),
            rate_bits_per_second: plan.rate.bits_per_second(),
            rate_from: if from_card { "ethtool" } else { "fleet" }.to_owned(),
            tx,
            rx,
        },
        cpus: features::cpus(),
        cpu_busy_ratio: seen.cpu_busy_ratio,
        memory_bytes: memory.total.get(),
        memory_available_bytes: memory.available.get(),
    })
}

fn vm(
    place: &Place<'_>,
    seen: &Seen,
    flows: &[FlowSnapshot],
    memory: Option<MemorySeen>,
) -> VmSnapshot {
    let vm = place.vm;
    let host = traffic::of(seen, &place.host);
    let mut series = host.and_then(|host| host.series.get(&vm.name).cloned());
    if let (Some(host), Some(series), Some(seen)) = (host, &mut series, &memory) {
        let (step, steps) = (series.step_seconds, series.tx.len());
        series.dirty = phases::series(&seen.windows, &seen.memory.curve, step, steps, host.until);
    }
    let (tx, rx) = traffic::of(seen, &place.host)
        .and_then(|host| host.vms.get(&vm.name).copied())
        .unwrap_or_default();
    let is_here = |other: &VmId| {
        traffic::of(seen, &place.host).is_some_and(|host| host.vms.contains_key(other))
    };
    let (tx_local_ratio, rx_local_ratio) = local_ratios(&vm.name, &place.host, is_here, flows);
    VmSnapshot {
        name: vm.name.clone(),
        host: place.host.clone(),
        state: place.state.to_string(),
        accelerator: if place.facts.accelerator.kvm_enabled { "kvm" } else { "tcg" }.to_owned(),
        vcpus: u32::try_from(place.facts.vcpus).unwrap_or(u32::MAX),
        allow_postcopy: vm.allow_postcopy,
        max_downtime_seconds: vm.max_downtime.map(|span| span.duration().as_secs_f64()),
        taps: place.taps.iter().map(|tap| tap.interface.clone()).collect(),
        tx,
        rx,
        tx_local_ratio,
        rx_local_ratio,
        series,
        memory: memory.map(|seen| seen.memory),
        memory_bytes: place.facts.memory.get(),
    }
}

/// The shares of what a VM sends, and of what it receives, whose other end is on its host: the host itself, or a VM that
/// `is_here`.
fn local_ratios(
    vm: &VmId,
    host: &HostId,
    is_here: impl Fn(&VmId) -> bool,
    flows: &[FlowSnapshot],
) -> (f64, f64) {
    let stays = |other: &FlowEnd| match other {
        FlowEnd::Host(other) => other == host,
        FlowEnd::Vm(other) => is_here(other),
        FlowEnd::Outside(_) => false,
    };
    let own = FlowEnd::Vm(vm.clone());
    let sends = flows.iter().filter(|flow| flow.from == own).map(|flow| (&flow.to, flow));
    let receives = flows.iter().filter(|flow| flow.to == own).map(|flow| (&flow.from, flow));
    (local_ratio(sends, stays), local_ratio(receives, stays))
}

/// The share of these flows' bytes whose other end is on the same host.
fn local_ratio<'a>(
    flows: impl Iterator<Item = (&'a FlowEnd, &'a FlowSnapshot)>,
    stays: impl Fn(&FlowEnd) -> bool,
) -> f64 {
    let (mut local, mut all) = (0.0, 0.0);
    for (other, flow) in flows {
        all += flow.bytes_per_second;
        if stays(other) {
            local += flow.bytes_per_second;
        }
    }
    if all > 0.0 { (local / all).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(from: FlowEnd, to: FlowEnd, bytes_per_second: f64) -> FlowSnapshot {
        FlowSnapshot { from, to, bytes_per_second, connections: 1, elastic: false }
    }

    /// Of what `one` sends 30 of 40 stay, of what it receives 5 of 50: directions are not mixed up.
    #[test]
    fn what_stays_on_the_host_is_told_by_direction() {
        let vm = |name: &str| FlowEnd::Vm(name.parse().unwrap());
        let outside = || FlowEnd::Outside("client".parse().unwrap());
        let host = || FlowEnd::Host("alpha".parse().unwrap());
        let flows = [
            flow(vm("one"), vm("two"), 20.0),
            flow(vm("one"), host(), 10.0),
            flow(vm("one"), vm("far"), 10.0),
            flow(vm("two"), vm("one"), 5.0),
            flow(outside(), vm("one"), 45.0),
            flow(vm("two"), outside(), 1_000.0),
        ];
        let alpha: HostId = "alpha".parse().unwrap();
        let is_here = |vm: &VmId| ["one", "two"].contains(&vm.as_str());
        let check = |name: &str, tx: f64, rx: f64| {
            let found = local_ratios(&name.parse().unwrap(), &alpha, is_here, &flows);
            assert!((found.0 - tx).abs() + (found.1 - rx).abs() < 1e-9, "{name}: {found:?}");
        };
        check("one", 0.75, 0.1);
        check("two", 5.0 / 1_005.0, 1.0);
        check("silent", 0.0, 0.0);
    }

    #[test]
    fn a_port_is_no_faster_than_it_was_measured() {
        let gigabits = |rate: u64| Bandwidth::from_bits_per_second(rate * 1_000_000_000);
        let host: Host = serde_json::from_value(serde_json::json!({
            "name": "alpha", "port": {"interface": "nic", "rate": "10Gbit/s"},
            "migrationAddress": "10.0.0.1",
        }))
        .unwrap();
        let seen = |rate: u64| Snapshot {
            api_version: API_VERSION.to_owned(),
            kind: snapshot::KIND.to_owned(),
            taken_at: String::new(),
            window_seconds: 1.0,
            hosts: vec![HostSnapshot {
                name: host.name.clone(),
                port: PortSnapshot {
                    interface: "nic".to_owned(),
                    rate_bits_per_second: gigabits(rate).bits_per_second(),
                    rate_from: "ethtool".to_owned(),
                    tx: snapshot::RateSummary::default(),
                    rx: snapshot::RateSummary::default(),
                },
                cpus: 1,
                cpu_busy_ratio: 0.0,
                memory_bytes: 0,
                memory_available_bytes: 0,
            }],
            vms: Vec::new(),
            flows: Vec::new(),
            paths: Vec::new(),
            remarks: Vec::new(),
        };
        assert_eq!(port_rate(&host, None), gigabits(10));
        assert_eq!(port_rate(&host, Some(&seen(1))), gigabits(1));
        assert_eq!(port_rate(&host, Some(&seen(40))), gigabits(10));
    }
}
