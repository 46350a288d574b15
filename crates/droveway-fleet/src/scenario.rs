//! A scenario: what the lab builds for real and the simulator in miniature. Hosts with one shared port each, clients, VMs,
//! and the traffic between them.

mod change;

pub use change::{ScenarioChange, WorldChange};

use crate::{
    document::{Document, Problem, Spec},
    ids::{EndpointId, HostId, VmId, nearest},
    units::{Bandwidth, Bytes, RateLimit, Ratio, RequestRate, TimeSpan},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A scenario document.
pub type Scenario = Document<ScenarioSpec>;

/// The content of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScenarioSpec {
    /// Every machine's port.
    pub link: Link,
    /// The hosts that run VMs.
    pub hosts: Vec<ScenarioHost>,
    /// Machines outside, that talk to the VMs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<ScenarioClient>,
    /// The VMs.
    pub vms: Vec<ScenarioVm>,
    /// The applications' traffic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<Traffic>,
    /// The outage probe; on by default where there is a client.
    #[serde(default)]
    pub probe: Probe,
    /// What changes while VMs move: in the simulator by itself, in a lab by `droveway lab play`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<ScenarioChange>,
}

/// The port of every machine, each direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// The port's rate, as on its label: `1Gbit/s`.
    pub rate: Bandwidth,
    /// What the queue in front of the port holds (of each flow if `fair`); default 3.1 ms of the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Bytes>,
    /// How the queue is shared.
    #[serde(default)]
    pub discipline: Discipline,
    /// Segmentation and receive offloads of the lab's ports and bridges.
    #[serde(default)]
    pub offloads: Offloads,
}

/// The least queue: some forty frames, so that a slow port still passes a TCP burst.
const QUEUE_MIN: Bytes = Bytes::new(64 << 10);

/// Up to this rate packets have the size that a wire has; above, two cores cannot make them one by one (measured: off at
/// 1 Gbit/s saturates both, on at 200 Mbit/s makes every queue lumpy).
pub const OFFLOADS_OFF_UP_TO: Bandwidth = Bandwidth::from_bits_per_second(300_000_000);

impl Link {
    /// The queue in bytes: as written, else 3.1 ms of the rate (384 KiB at 1 Gbit/s), at least 64 KiB.
    #[must_use]
    pub fn queue_bytes(&self) -> Bytes {
        self.queue
            .unwrap_or_else(|| QUEUE_MIN.max(self.rate * std::time::Duration::from_micros(3_146)))
    }

    /// Whether offloads are to be on, `auto` resolved.
    #[must_use]
    pub fn offloads_on(&self) -> bool {
        match self.offloads {
            Offloads::Auto => self.rate > OFFLOADS_OFF_UP_TO,
            Offloads::On => true,
            Offloads::Off => false,
        }
    }
}

/// How a port's queue is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Discipline {
    /// Per flow, as `fq_codel` does on most hosts.
    #[default]
    Fair,
    /// One queue for all: the worst case.
    Fifo,
}

/// Whether network offloads are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Offloads {
    /// Off up to 300 Mbit/s, on above.
    #[default]
    Auto,
    /// On.
    On,
    /// Off.
    Off,
}

/// A host of a scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScenarioHost {
    /// Its name.
    pub name: HostId,
}

/// A client of a scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScenarioClient {
    /// Its name.
    pub name: EndpointId,
}

/// A VM of a scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScenarioVm {
    /// Its name.
    pub name: VmId,
    /// The host that it starts on.
    pub host: HostId,
    /// Its memory.
    pub memory: Bytes,
    /// Its virtual CPUs.
    #[serde(default = "one")]
    pub vcpus: u32,
    /// VMs that are useful only together carry the same group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// False: never post-copy, whatever a policy says.
    #[serde(default = "yes")]
    pub allow_postcopy: bool,
    /// By when it must have moved, from the start of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<TimeSpan>,
    /// The longest downtime that it bears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_downtime: Option<TimeSpan>,
    /// What writes its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_load: Option<MemoryLoad>,
    /// Services that run in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// The share of a virtual CPU that each of its sysbench services takes at most, so that guests which compute all the
    /// time leave a small machine idle enough for the network to be the bottleneck. All of it by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_share: Option<Ratio>,
}

/// A smaller share would compute for less than a millisecond at a time, which the guest's scheduler does not grant.
const COMPUTE_SHARE_MIN: f64 = 0.01;

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// A load that writes memory, page by page at random.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemoryLoad {
    /// The memory that it writes to.
    pub working_set: Bytes,
    /// Pages dirtied per second, as bytes.
    pub write_rate: Bandwidth,
    /// The share of the working set that is hot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot_share: Option<Ratio>,
    /// The share of the writes that go to the hot part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot_weight: Option<Ratio>,
}

/// A program that runs in a VM.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// A key-value store.
    Memcached,
    /// Writes memory at random as fast as the CPU allows.
    SysbenchMemory,
    /// Computes primes.
    SysbenchCpu,
}

impl Service {
    /// The name as written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Service::Memcached => "memcached",
            Service::SysbenchMemory => "sysbench-memory",
            Service::SysbenchCpu => "sysbench-cpu",
        }
    }
}

/// A stream of application traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Traffic {
    /// Its name.
    pub name: EndpointId,
    /// Where the data comes from (for `memcached`: who asks).
    pub from: EndpointId,
    /// Where the data goes (for `memcached`: who answers).
    pub to: EndpointId,
    /// What it is.
    pub kind: TrafficKind,
    /// `unlimited` with `tcp` is elastic: it takes what TCP gives it. A rate is inelastic up to that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateLimit>,
    /// Parallel connections.
    #[serde(default = "one")]
    pub flows: u32,
    /// Requests per second, for `memcached`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestRate>,
}

/// What a stream of traffic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TrafficKind {
    /// A bulk stream over TCP.
    Tcp,
    /// A constant stream over UDP.
    Udp,
    /// Requests to a memcached.
    Memcached,
}

/// The outage probe: a client that asks every VM for an echo and notes the silences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// The time between two questions.
    #[serde(default = "probe_interval")]
    pub interval: TimeSpan,
    /// False: no probe.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn probe_interval() -> TimeSpan {
    TimeSpan::from_millis(2)
}

impl Default for Probe {
    fn default() -> Self {
        Probe { interval: probe_interval(), enabled: true }
    }
}

/// The most machines (hosts and clients), and the most VMs of one lab: its network has 8 bits for each.
pub const MACHINES_MAX: usize = 100;

/// The most VMs of a scenario, and the most streams of traffic: more are not planned in reasonable time. The simulator takes
/// them all, a lab no more than [`MACHINES_MAX`].
pub const VMS_MAX: usize = 1_000;
/// Two for each VM.
const TRAFFIC_MAX: usize = 2 * VMS_MAX;

/// The least memory in which the guest's kernel and services start.
const VM_MEMORY_MIN: Bytes = Bytes::from_mib(128);

impl Spec for ScenarioSpec {
    const KIND: &'static str = "Scenario";

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check_names(&mut problems);
        if self.link.rate < Bandwidth::from_bits_per_second(1_000_000) {
            problems.push(Problem::new("spec.link.rate", "a port has at least 1Mbit/s"));
        }
        if self.hosts.is_empty() {
            problems.push(Problem::new("spec.hosts", "at least one host is needed"));
        }
        for (count, most, path) in [
            (self.hosts.len() + self.clients.len(), MACHINES_MAX, "spec.hosts"),
            (self.vms.len(), VMS_MAX, "spec.vms"),
            (self.traffic.len(), TRAFFIC_MAX, "spec.traffic"),
            (self.changes.len(), MACHINES_MAX, "spec.changes"),
        ] {
            if count > most {
                problems.push(Problem::new(path, format!("at most {most} are possible")));
            }
        }
        for (index, vm) in self.vms.iter().enumerate() {
            self.check_vm(vm, &format!("spec.vms[{index}]"), &mut problems);
        }
        for (index, traffic) in self.traffic.iter().enumerate() {
            self.check_traffic(traffic, &format!("spec.traffic[{index}]"), &mut problems);
        }
        for (index, one) in self.changes.iter().enumerate() {
            change::check(self, one, &format!("spec.changes[{index}]"), &mut problems);
        }
        if self.probe.enabled && self.probe.interval < TimeSpan::from_millis(1) {
            problems.push(Problem::new("spec.probe.interval", "the shortest interval is 1ms"));
        }
        problems
    }
}

impl ScenarioSpec {
    /// The names of hosts, clients and VMs: everything that traffic can start or end at.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> + Clone {
        let hosts = self.hosts.iter().map(|h| h.name.as_str());
        let clients = self.clients.iter().map(|c| c.name.as_str());
        let vms = self.vms.iter().map(|v| v.name.as_str());
        hosts.chain(clients).chain(vms)
    }

    /// The VM of that name.
    #[must_use]
    pub fn vm(&self, name: &str) -> Option<&ScenarioVm> {
        self.vms.iter().find(|vm| vm.name.as_str() == name)
    }

    fn check_names(&self, problems: &mut Vec<Problem>) {
        let mut seen = BTreeSet::new();
        for name in self.endpoints() {
            if !seen.insert(name) {
                problems.push(Problem::new(
                    "spec",
                    format!("the name '{name}' is used twice among hosts, clients and VMs"),
                ));
            }
        }
        let mut seen = BTreeSet::new();
        for (index, traffic) in self.traffic.iter().enumerate() {
            if !seen.insert(&traffic.name) {
                let message = format!("the name '{}' is used twice", traffic.name);
                problems.push(Problem::new(format!("spec.traffic[{index}].name"), message));
            }
        }
    }

    fn check_vm(&self, vm: &ScenarioVm, path: &str, problems: &mut Vec<Problem>) {
        let hosts = || self.hosts.iter().map(|h| h.name.as_str());
        if !hosts().any(|h| h == vm.host.as_str()) {
            problems.push(dangling(format!("{path}.host"), "host", vm.host.as_str(), hosts()));
        }
        if vm.memory < VM_MEMORY_MIN {
            let message = format!("the guest needs at least {VM_MEMORY_MIN}");
            problems.push(Problem::new(format!("{path}.memory"), message));
        }
        if !vm.memory.get().is_multiple_of(1 << 20) {
            problems.push(Problem::new(format!("{path}.memory"), "must be a multiple of 1MiB"));
        }
        if vm.vcpus == 0 {
            problems.push(Problem::new(format!("{path}.vcpus"), "at least 1 is needed"));
        }
        if let Some(share) = vm.compute_share {
            let computes = [Service::SysbenchCpu, Service::SysbenchMemory];
            let problem = if share.get() < COMPUTE_SHARE_MIN {
                Some("at least 0.01 is needed")
            } else if !vm.services.iter().any(|service| computes.contains(service)) {
                Some("belongs to a VM with 'sysbench-cpu' or 'sysbench-memory' among its services")
            } else {
                None
            };
            let path = || format!("{path}.computeShare");
            problems.extend(problem.map(|message| Problem::new(path(), message)));
        }
        if let Some(load) = &vm.memory_load {
            // The kernel, the services and the page cache need the rest.
            if load.working_set.get() > vm.memory.get() / 4 * 3 {
                problems.push(Problem::new(
                    format!("{path}.memoryLoad.workingSet"),
                    format!("at most three quarters of the VM's memory ({})", vm.memory),
                ));
            }
            if load.hot_share.is_some() != load.hot_weight.is_some() {
                problems.push(Problem::new(
                    format!("{path}.memoryLoad"),
                    "hotShare and hotWeight go together: give both or neither",
                ));
            }
        }
    }

    fn check_traffic(&self, traffic: &Traffic, path: &str, problems: &mut Vec<Problem>) {
        for (field, endpoint) in [("from", &traffic.from), ("to", &traffic.to)] {
            if !self.endpoints().any(|name| name == endpoint.as_str()) {
                problems.push(dangling(
                    format!("{path}.{field}"),
                    "host, client or VM",
                    endpoint.as_str(),
                    self.endpoints(),
                ));
            }
        }
        if traffic.from == traffic.to {
            problems.push(Problem::new(format!("{path}.to"), "traffic needs two different ends"));
        }
        if traffic.flows == 0 {
            problems.push(Problem::new(format!("{path}.flows"), "at least 1 is needed"));
        }
        match traffic.kind {
            TrafficKind::Tcp | TrafficKind::Udp => {
                if traffic.rate.is_none() {
                    let message = "is missing: write a rate, or 'unlimited' for tcp";
                    problems.push(Problem::new(format!("{path}.rate"), message));
                }
                if traffic.kind == TrafficKind::Udp && traffic.rate == Some(RateLimit::Unlimited) {
                    let message = "udp has no congestion control: write a rate";
                    problems.push(Problem::new(format!("{path}.rate"), message));
                }
                if traffic.requests.is_some() {
                    let message = "belongs to kind memcached: use rate";
                    problems.push(Problem::new(format!("{path}.requests"), message));
                }
            }
            TrafficKind::Memcached => {
                if traffic.requests.is_none() {
                    let message = "is missing: write it like 2000/s";
                    problems.push(Problem::new(format!("{path}.requests"), message));
                }
                if traffic.rate.is_some() {
                    let message = "does not apply to memcached: use requests";
                    problems.push(Problem::new(format!("{path}.rate"), message));
                }
                let serves = self
                    .vm(traffic.to.as_str())
                    .is_some_and(|vm| vm.services.contains(&Service::Memcached));
                if !serves {
                    let message = "must be a VM with 'memcached' among its services";
                    problems.push(Problem::new(format!("{path}.to"), message));
                }
                if self.vm(traffic.from.as_str()).is_some() {
                    let message = "must be a client or host: requests are measured from outside";
                    problems.push(Problem::new(format!("{path}.from"), message));
                }
            }
        }
    }
}

/// The problem of a name that nothing has.
pub(crate) fn dangling<'a>(
    path: String,
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Problem {
    let meant = nearest(name, known.clone())
        .map_or_else(String::new, |meant| format!(", did you mean '{meant}'?"));
    let known = known.collect::<Vec<_>>().join(", ");
    Problem::new(path, format!("there is no {what} '{name}'{meant} (known: {known})"))
}

#[cfg(test)]
mod tests;
