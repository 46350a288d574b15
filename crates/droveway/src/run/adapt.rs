//! Adapting a run: what ports and VMs carry, read once a second; the planner, on a thread of its own so that the loop goes on;
//! and what is remembered of a changed plan.
//!
//! A VM's devices are those of both its QEMUs: one of them is silent, so their sum is what the VM sends and receives wherever it
//! runs. Counters of frames become payload by taking a header off each packet; a packet that is split later counts once, which is
//! what it carries.

use crate::{lineage, outlook::Knowledge, qemu};
use droveway_drive::Adaptation;
use droveway_fleet::{Bandwidth, Bytes, Fleet, Host, HostId, Intent, Timestamp, VmId};
use droveway_host::{
    Counters,
    links::{LinkCounters, vm_view},
    netns::Netns,
    qemu as process, taps,
};
use droveway_plan::{
    GangFacts, Plan,
    adaptive::Effort,
    policy,
    replan::{
        Answer, Base, Situation, prospects, replan,
        traffic::{Rates, Traffic},
    },
};
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

/// Between two looks at rates: within a second TCP's bursts even out, and a change shows in two.
const LOOK: Duration = Duration::from_secs(1);
/// Ethernet, IP and TCP with time stamps: what a packet carries beside payload.
const HEADER_BYTES: u64 = 66;

/// Everything that planning again needs, for as long as the run lasts.
#[derive(Debug)]
pub(crate) struct Replanner {
    pub(crate) intent: Intent,
    pub(crate) facts: GangFacts,
    pub(crate) knowledge: Knowledge,
}

impl Replanner {
    fn base(&self) -> Base<'_> {
        let (intent, facts) = (&self.intent, &self.facts);
        // What an ablation took from the first plan, no other plan has.
        let levers = policy::find(&intent.policy).map(|chosen| chosen.effort().levers);
        let effort = Effort { levers: levers.unwrap_or_default(), ..Effort::default() };
        Base { intent, facts, known: self.knowledge.known(), effort }
    }

    /// What a run that begins so is compared with.
    pub(crate) fn adaptation(&self, situation: &Situation) -> Adaptation {
        let deadlines = self.facts.vms.iter();
        let deadlines = deadlines.filter_map(|fact| Some((fact.vm.clone(), fact.deadline?)));
        let prospects = prospects(&self.base(), situation);
        Adaptation { prospects, deadlines: deadlines.collect() }
    }

    /// Answers on a thread of its own.
    pub(super) fn ask(
        this: &Arc<Self>,
        situation: Box<Situation>,
        tell: impl FnOnce(u64, Option<Box<Answer>>) + Send + 'static,
    ) {
        let this = Arc::clone(this);
        tokio::task::spawn_blocking(move || {
            let answer = replan(&this.base(), &situation).map(Box::new);
            tell(situation.question, answer);
        });
    }
}

/// Remembers that this plan has replaced the one before. A run is not stopped for want of a memory.
pub(super) fn remember(fleet: &Arc<Fleet>, plan: &Plan) {
    let (fleet, plan) = (Arc::clone(fleet), plan.clone());
    tokio::task::spawn_blocking(move || {
        if let Err(failure) = lineage::remember(&fleet, &plan) {
            tracing::warn!("that plan {} is in force is not kept: {:#}", plan.id, failure.error);
        }
    });
}

/// The counters of one host.
#[derive(Debug)]
struct Links {
    host: HostId,
    port: u32,
    counters: LinkCounters,
}

/// Reads what ports and VMs carry.
#[derive(Debug)]
pub(crate) struct Watch {
    hosts: Vec<Links>,
    /// Each VM's devices: which of the hosts, and the link.
    taps: BTreeMap<VmId, Vec<(usize, u32)>>,
    last: Option<(Timestamp, Counted)>,
}

#[derive(Debug, Default)]
struct Counted {
    ports: BTreeMap<HostId, Counters>,
    vms: BTreeMap<VmId, Counters>,
}

impl Watch {
    /// `None`, and said, where the counters cannot be read: the run then adapts to what QEMU says alone.
    pub(crate) fn open(hosts: [&Host; 2], fleet: &Fleet) -> Option<Self> {
        let mut links = Vec::new();
        for host in hosts {
            let opened =
                Netns::of(host.netns.as_deref()).map_err(anyhow::Error::from).and_then(|netns| {
                    let port = netns
                        .run(|| nix::net::if_::if_nametoindex(host.port.interface.as_str()))??;
                    Ok((port, LinkCounters::open(&netns)?))
                });
            match opened {
                Ok((port, counters)) => {
                    links.push(Links { host: host.name.clone(), port, counters });
                }
                Err(error) => {
                    tracing::warn!("the traffic of host '{}' is not watched: {error:#}", host.name);
                    return None;
                }
            }
        }
        let mut watch = Watch { hosts: links, taps: BTreeMap::new(), last: None };
        // Those that stay have their part of the ports, too.
        for vm in &fleet.spec.vms {
            for (index, host) in hosts.iter().enumerate() {
                if let Some(instance) = vm.instances.get(&host.name) {
                    watch.add(&vm.name, index, qemu::socket(instance));
                }
            }
        }
        Some(watch)
    }

    /// The devices of a VM's QEMU at the source (0) or the target (1), if there is one.
    pub(super) fn add(&mut self, vm: &VmId, host: usize, socket: &Path) {
        let Some(pid) = process::find_by_qmp_socket(socket) else { return };
        let known = self.taps.entry(vm.clone()).or_default();
        for tap in taps::of_qemu(pid).unwrap_or_default() {
            if !known.contains(&(host, tap.ifindex)) {
                known.push((host, tap.ifindex));
            }
        }
    }

    /// What was carried since the last look, once a second.
    pub(super) fn look(&mut self, now: Timestamp) -> Option<Traffic> {
        if self.last.as_ref().is_some_and(|(at, _)| now.since(*at) < LOOK) {
            return None;
        }
        let counted = self.count()?;
        let (before, old) = self.last.replace((now, counted))?;
        let (_, new) = self.last.as_ref()?;
        let time = now.since(before);
        let traffic = Traffic {
            ports: rates(&new.ports, &old.ports, time),
            vms: rates(&new.vms, &old.vms, time),
            ..Traffic::default()
        };
        Some(traffic)
    }

    fn count(&mut self) -> Option<Counted> {
        let mut counted = Counted::default();
        let mut all = Vec::new();
        for (index, links) in self.hosts.iter_mut().enumerate() {
            all.clear();
            links.counters.read(&mut all).ok()?;
            let of = |link: u32| all.iter().find(|(index, _)| *index == link).map(|(_, of)| *of);
            counted.ports.insert(links.host.clone(), of(links.port)?);
            for (vm, taps) in &self.taps {
                for (_, link) in taps.iter().filter(|(host, _)| *host == index) {
                    // A device that is gone counts no more: the VM runs elsewhere.
                    let Some(own) = of(*link).map(vm_view) else { continue };
                    let sum = counted.vms.entry(vm.clone()).or_default();
                    sum.tx_bytes += own.tx_bytes;
                    sum.rx_bytes += own.rx_bytes;
                    sum.tx_packets += own.tx_packets;
                    sum.rx_packets += own.rx_packets;
                }
            }
        }
        Some(counted)
    }
}

/// Payload a second of each, where both readings know it and no counter went back.
fn rates<K: Ord + Clone>(
    new: &BTreeMap<K, Counters>,
    old: &BTreeMap<K, Counters>,
    time: Duration,
) -> BTreeMap<K, Rates> {
    let one = |(key, new): (&K, &Counters)| {
        let old = old.get(key)?;
        let payload = |bytes: (u64, u64), packets: (u64, u64)| {
            let bytes = bytes.0.checked_sub(bytes.1)?;
            let headers = packets.0.checked_sub(packets.1)?.saturating_mul(HEADER_BYTES);
            Some(Bandwidth::of(Bytes::new(bytes.saturating_sub(headers)), time))
        };
        let tx = payload((new.tx_bytes, old.tx_bytes), (new.tx_packets, old.tx_packets))?;
        let rx = payload((new.rx_bytes, old.rx_bytes), (new.rx_packets, old.rx_packets))?;
        Some((key.clone(), Rates { tx, rx }))
    };
    new.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_become_payload_and_one_that_went_back_says_nothing() {
        let counters =
            |tx_bytes, tx_packets| Counters { tx_bytes, tx_packets, ..Counters::default() };
        let at = |tx_bytes, tx_packets| BTreeMap::from([("a", counters(tx_bytes, tx_packets))]);
        let rate = |new, old| rates(&new, &old, Duration::from_secs(2)).get("a").map(|of| of.tx);
        // Ten packets of 1,000 bytes payload in two seconds.
        let expected = Some(Bandwidth::from_bytes_per_second(5_000));
        assert_eq!(rate(at(11_660, 11), at(1_000, 1)), expected);
        assert_eq!(rate(at(100, 1), at(1_000, 1)), None);
        assert_eq!(rate(at(1_000, 1), BTreeMap::new()), None);
        // Acknowledgements alone are no payload.
        assert_eq!(rate(at(660, 10), at(0, 0)), Some(Bandwidth::ZERO));
    }
}
