//! What a scenario's traffic means in processes: which iperf3 server listens where, which job runs beside which machine, and
//! which log says how each application fares. Pure.
//!
//! | from | to | server | client | figures |
//! | --- | --- | --- | --- | --- |
//! | machine | VM, TCP | in the VM | at the sender | bytes written into the socket |
//! | machine | VM, UDP | at the sender | in the VM, through its agent | bytes that arrived |
//! | VM | machine | in the VM | at the receiver | bytes that arrived |
//! | VM | VM | in the sender | in the receiver, through its agent | bytes that arrived |
//! | machine | machine | at the sender | at the receiver | bytes that arrived |
//!
//! Machines are hosts and clients. An agent's lines reach the switch, which no shaped port stands before, but they do leave
//! through the port of the VM's host: some hundred bytes per interval.

use crate::{
    address::Addresses,
    runner::{AGENT_PORT, ECHO_PORT, JobSpec, MEMCACHED_PORT, Place, SAMPLE_INTERVAL},
};
use droveway_fleet::{
    EndpointId, VmId,
    fleet::{Application, ApplicationUnit, OutageProbe},
    ids::NAME_LEN_MAX,
    scenario::{ScenarioSpec, ScenarioVm, Service, Traffic, TrafficKind},
    units::RateLimit,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// The port of the first iperf3 server, iperf3's own default. One server serves one test: each stream has its own.
const IPERF_PORT_FIRST: u16 = 5201;

/// How long an iperf3 client waits for its server: a first SYN, its repetition after 1 s, and the answer.
const CONNECT_MAX_MS: &str = "3000";

/// How long a receiver waits for data before it begins anew; longer than the silence of any VM that comes back.
const SILENCE_MAX_MS: &str = "90000";

/// iperf3's own block, the largest that is written at once.
const BLOCK_BYTES_MAX: u64 = 128 << 10;

/// Smaller blocks would cost CPU time for nothing.
const BLOCK_BYTES_MIN: u64 = 1 << 10;

/// At a slow rate a block must be short, or whole intervals would pass without one.
const BLOCKS_PER_INTERVAL: u64 = 20;

/// The processes that make a scenario's traffic.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrafficPlan {
    /// The ports on which each VM runs an iperf3 server.
    pub vm_iperf_ports: BTreeMap<VmId, Vec<u16>>,
    /// The servers on machines, to be started before the jobs.
    pub servers: Vec<Server>,
    /// The runners.
    pub jobs: Vec<Job>,
}

/// A server on a host or client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The host or client.
    pub machine: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
}

/// The network namespace that a job runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Machine {
    /// The vantage point outside every port.
    Switch,
    /// A host or client.
    Named(String),
}

/// A process of [`crate::runner`].
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// A name for its files, unique among jobs.
    pub name: String,
    /// Where it runs.
    pub machine: Machine,
    /// What it does.
    pub spec: JobSpec,
    /// The application whose log it writes.
    pub application: Option<Application>,
    /// The probe whose log it writes.
    pub probe: Option<OutageProbe>,
}

/// The traffic of a scenario that was checked (`droveway_fleet::document::parse`); its logs go below `dir`.
#[must_use]
pub fn plan(scenario: &ScenarioSpec, addresses: &Addresses, dir: &Path) -> TrafficPlan {
    let names = scenario.traffic.iter().map(|traffic| traffic.name.to_string()).collect();
    let mut planner = Planner { scenario, addresses, dir, names, plan: TrafficPlan::default() };
    for (port, traffic) in (IPERF_PORT_FIRST..).zip(&scenario.traffic) {
        planner.add_traffic(traffic, port);
    }
    for vm in &scenario.vms {
        planner.add_vm(vm);
    }
    planner.plan
}

struct Planner<'a> {
    scenario: &'a ScenarioSpec,
    addresses: &'a Addresses,
    dir: &'a Path,
    /// Of applications.
    names: BTreeSet<String>,
    plan: TrafficPlan,
}

impl Planner<'_> {
    fn add_traffic(&mut self, traffic: &Traffic, port: u16) {
        let kind = match traffic.kind {
            TrafficKind::Tcp => "tcp",
            TrafficKind::Udp => "udp",
            TrafficKind::Memcached => "memcached",
        };
        let memcached = traffic.kind == TrafficKind::Memcached;
        let application = Application {
            name: traffic.name.clone(),
            kind: kind.to_owned(),
            from: traffic.from.clone(),
            to: traffic.to.clone(),
            unit: if memcached { ApplicationUnit::Requests } else { ApplicationUnit::Bytes },
            log: text(&self.log(traffic.name.as_str())),
        };
        let job = if memcached { self.memcached(traffic) } else { self.iperf(traffic, port) };
        // A checked scenario names nobody without an address.
        let Some((machine, spec)) = job else { return };
        let name = traffic.name.to_string();
        let application = Some(application);
        self.plan.jobs.push(Job { name, machine, spec, application, probe: None });
    }

    fn memcached(&self, traffic: &Traffic) -> Option<(Machine, JobSpec)> {
        let spec = JobSpec::Memcached {
            log: self.log(traffic.name.as_str()),
            server: self.address(traffic.to.as_str(), MEMCACHED_PORT)?,
            requests_per_second: traffic.requests?.get(),
            connections: traffic.flows,
        };
        Some((Machine::Named(traffic.from.to_string()), spec))
    }

    fn iperf(&mut self, traffic: &Traffic, port: u16) -> Option<(Machine, JobSpec)> {
        let (from, to) = (traffic.from.as_str(), traffic.to.as_str());
        let vm = |name: &str| self.scenario.vm(name).map(|vm| vm.name.clone());
        let (sender_vm, receiver_vm) = (vm(from), vm(to));
        // The receiver's figures are those that count, except where they would have to come out of a VM through the
        // network that the migration fills, while the sender has the same ones outside.
        let reverse =
            sender_vm.is_some() || receiver_vm.is_none() || traffic.kind == TrafficKind::Udp;
        let (serving, serving_vm) =
            if reverse { (from, sender_vm) } else { (to, receiver_vm.clone()) };
        let server = self.addresses.get(serving)?;
        let (machine, place) = match (&receiver_vm, reverse) {
            (Some(_), true) => (Machine::Switch, Place::Agent(self.address(to, AGENT_PORT)?)),
            (None, true) => (Machine::Named(to.to_owned()), Place::Here),
            (_, false) => (Machine::Named(from.to_owned()), Place::Here),
        };
        match serving_vm {
            Some(vm) => self.plan.vm_iperf_ports.entry(vm).or_default().push(port),
            None => self.plan.servers.push(iperf_server(serving, port)),
        }
        let arguments = iperf_arguments(traffic, server, port, reverse);
        let log = self.log(traffic.name.as_str());
        Some((machine, JobSpec::Iperf { log, place, arguments, flows: traffic.flows }))
    }

    fn add_vm(&mut self, vm: &ScenarioVm) {
        // A memcached says nothing: its clients do.
        for service in &vm.services {
            if *service != Service::Memcached {
                self.add_service(vm, *service);
            }
        }
        if vm.memory_load.is_some() {
            self.add_inside(vm, "memory-load", ApplicationUnit::Bytes, |log, agent| {
                JobSpec::Load { log, agent }
            });
        }
        if self.scenario.probe.enabled
            && let Some(client) = self.scenario.clients.first()
        {
            self.add_probe(vm, client.name.to_string());
        }
    }

    fn add_service(&mut self, vm: &ScenarioVm, service: Service) {
        self.add_inside(vm, service.name(), ApplicationUnit::Operations, |log, agent| {
            JobSpec::Service { log, agent, service }
        });
    }

    /// An application inside the VM, whose figures the agent gives.
    fn add_inside(
        &mut self,
        vm: &ScenarioVm,
        kind: &str,
        unit: ApplicationUnit,
        spec: impl FnOnce(PathBuf, SocketAddr) -> JobSpec,
    ) {
        let Some(agent) = self.address(vm.name.as_str(), AGENT_PORT) else { return };
        let Some(name) = self.free_name(vm.name.as_str(), kind) else { return };
        let log = self.log(name.as_str());
        let application = Application {
            name: name.clone(),
            kind: kind.to_owned(),
            from: EndpointId::from(&vm.name),
            to: EndpointId::from(&vm.name),
            unit,
            log: text(&log),
        };
        self.plan.jobs.push(Job {
            name: name.to_string(),
            machine: Machine::Switch,
            spec: spec(log, agent),
            application: Some(application),
            probe: None,
        });
    }

    fn add_probe(&mut self, vm: &ScenarioVm, client: String) {
        let Some(target) = self.address(vm.name.as_str(), ECHO_PORT) else { return };
        let interval = self.scenario.probe.interval;
        let log = self.dir.join("probe").join(format!("{}.jsonl", vm.name));
        let probe = OutageProbe { vm: vm.name.clone(), interval, log: text(&log) };
        self.plan.jobs.push(Job {
            // No application's name holds this character.
            name: format!("probe_{}", vm.name),
            machine: Machine::Named(client),
            spec: JobSpec::Probe { log, target, interval },
            application: None,
            probe: Some(probe),
        });
    }

    /// `VM.KIND`, shortened and numbered until it is a name that no application has.
    fn free_name(&mut self, vm: &str, kind: &str) -> Option<EndpointId> {
        let ends = std::iter::once(format!(".{kind}")).chain((2..).map(|n| format!(".{kind}-{n}")));
        let mut names = ends.map(|end| {
            let length = vm.len().min(NAME_LEN_MAX.saturating_sub(end.len()));
            // Names are ASCII: every length is a boundary.
            format!("{}{end}", &vm[..length])
        });
        let name = names.find(|name| !self.names.contains(name))?;
        self.names.insert(name.clone());
        name.parse().ok()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join("traffic").join(format!("{name}.jsonl"))
    }

    fn address(&self, name: &str, port: u16) -> Option<SocketAddr> {
        self.addresses.get(name).map(|address| SocketAddr::from((address, port)))
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn iperf_server(machine: &str, port: u16) -> Server {
    let argv = ["iperf3", "-s", "-p", &port.to_string(), "--forceflush"].map(str::to_owned);
    Server { machine: machine.to_owned(), argv: argv.to_vec() }
}

/// The arguments of a client that runs for ever (`-t 0`) and reports once per sample.
fn iperf_arguments(traffic: &Traffic, server: Ipv4Addr, port: u16, reverse: bool) -> Vec<String> {
    let mut arguments =
        vec!["-c".to_owned(), server.to_string(), "-p".to_owned(), port.to_string()];
    let interval = SAMPLE_INTERVAL.as_secs_f64().to_string();
    arguments.extend(["-t", "0", "-i", &interval, "-f", "k", "--forceflush"].map(str::to_owned));
    arguments.extend(["--connect-timeout", CONNECT_MAX_MS].map(str::to_owned));
    if reverse {
        arguments.extend(receiving());
    }
    if traffic.flows > 1 {
        arguments.extend(["-P".to_owned(), traffic.flows.to_string()]);
    }
    if traffic.kind == TrafficKind::Udp {
        arguments.push("-u".to_owned());
    }
    arguments.extend(pace(traffic));
    arguments
}

/// The arguments of a client that receives.
pub(crate) fn receiving() -> [String; 3] {
    ["-R", "--rcv-timeout", SILENCE_MAX_MS].map(str::to_owned)
}

/// The arguments of a stream's rate; none where it takes what it gets.
pub(crate) fn pace(traffic: &Traffic) -> Vec<String> {
    let mut arguments = Vec::new();
    let udp = traffic.kind == TrafficKind::Udp;
    if let Some(rate) = traffic.rate.and_then(RateLimit::bandwidth) {
        // iperf3 gives every flow the rate that it is told.
        let of_flow = rate.divided(traffic.flows);
        arguments.extend(["-b".to_owned(), of_flow.bits_per_second().to_string()]);
        let block = (of_flow * (SAMPLE_INTERVAL)).get() / BLOCKS_PER_INTERVAL;
        // A block of UDP is a packet, which iperf3 fits to the path.
        if !udp && block < BLOCK_BYTES_MAX {
            arguments.extend(["-l".to_owned(), block.max(BLOCK_BYTES_MIN).to_string()]);
        }
    }
    arguments
}

#[cfg(test)]
#[path = "runner/traffic_tests.rs"]
mod tests;
