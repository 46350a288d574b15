//! A fleet: the hosts and VMs that commands work on, and how each is reached. The lab writes one; operators of real hosts
//! write their own.

use crate::{
    document::{Document, Problem, Spec},
    ids::{DocumentName, EndpointId, HostId, VmId},
    scenario::dangling,
    units::{Bandwidth, Bytes, TimeSpan},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// A fleet document.
pub type Fleet = Document<FleetSpec>;

/// The content of a fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FleetSpec {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The VMs.
    pub vms: Vec<FleetVm>,
    /// Where applications write how they fare; a run report reads it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub applications: Vec<Application>,
    /// Fleets that name the same calibration learn together; absent: the fleet's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<DocumentName>,
    /// Where outage probes write what they heard; a run report reads it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<OutageProbe>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Host {
    /// Its name.
    pub name: HostId,
    /// Its port, that migration and applications share.
    pub port: Port,
    /// The network namespace that the host's port and processes live in; absent: this machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The address that incoming migrations listen on: it must be reached through the port.
    pub migration_address: IpAddr,
    /// The TCP ports for incoming migrations.
    #[serde(default)]
    pub migration_ports: PortRange,
}

/// A network port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// The network interface.
    pub interface: String,
    /// Its rate, each direction.
    pub rate: Bandwidth,
}

/// A range of TCP ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl Default for PortRange {
    /// The range that libvirt uses, so that firewalls already know it.
    fn default() -> Self {
        PortRange { first: 49152, last: 49215 }
    }
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FleetVm {
    /// Its name.
    pub name: VmId,
    /// Its memory.
    pub memory: Bytes,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// VMs that are useful only together carry the same group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// False: never post-copy, whatever a policy says.
    pub allow_postcopy: bool,
    /// By when it must have moved, from the start of a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<TimeSpan>,
    /// The longest downtime that it bears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_downtime: Option<TimeSpan>,
    /// How its QEMU is reached on each host that can run it.
    pub instances: BTreeMap<HostId, Instance>,
}

/// One VM's place on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Instance {
    /// The QMP socket: `unix:/path`.
    pub qmp: String,
    /// How to start QEMU there; absent: somebody else starts the waiting target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<Launch>,
}

/// How a QEMU is started on a host. As a migration's target it gets `-incoming defer` on top.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Launch {
    /// The program and its arguments. The QMP socket is among them.
    pub argv: Vec<String>,
    /// Where its output goes.
    pub log: String,
    /// Variables added to its environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// An application whose throughput is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Application {
    /// Its name.
    pub name: EndpointId,
    /// What it is: `tcp`, `udp`, `memcached`, `memory-load`, `sysbench-memory`, `sysbench-cpu`.
    pub kind: String,
    /// Where its data comes from.
    pub from: EndpointId,
    /// Where its data goes.
    pub to: EndpointId,
    /// What its samples count.
    pub unit: ApplicationUnit,
    /// A file of [`crate::log::ApplicationSample`], one JSON value a line.
    pub log: String,
}

/// What an application's samples count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ApplicationUnit {
    /// Bytes of payload that arrived.
    Bytes,
    /// Requests that were answered.
    Requests,
    /// Operations done inside the VM.
    Operations,
}

/// An outage probe of one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutageProbe {
    /// The VM that is asked.
    pub vm: VmId,
    /// The time between two questions.
    pub interval: TimeSpan,
    /// A file of [`crate::log::ProbeSample`], one JSON value a line.
    pub log: String,
}

impl FleetSpec {
    /// The host of that name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name.as_str() == name)
    }

    /// The VM of that name.
    #[must_use]
    pub fn vm(&self, name: &str) -> Option<&FleetVm> {
        self.vms.iter().find(|vm| vm.name.as_str() == name)
    }
}

impl Spec for FleetSpec {
    const KIND: &'static str = "Fleet";

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut seen = BTreeSet::new();
        let hosts = self.hosts.iter().map(|h| h.name.as_str());
        for name in hosts.clone().chain(self.vms.iter().map(|v| v.name.as_str())) {
            if !seen.insert(name) {
                let message = format!("the name '{name}' is used twice among hosts and VMs");
                problems.push(Problem::new("spec", message));
            }
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let path = format!("spec.hosts[{index}]");
            if host.port.rate.is_zero() {
                problems.push(Problem::new(format!("{path}.port.rate"), "must be above zero"));
            }
            if host.migration_ports.first > host.migration_ports.last
                || host.migration_ports.first == 0
            {
                let message = "first must be at least 1 and not above last";
                problems.push(Problem::new(format!("{path}.migrationPorts"), message));
            }
        }
        for (index, vm) in self.vms.iter().enumerate() {
            let path = format!("spec.vms[{index}].instances");
            if vm.instances.is_empty() {
                let message = "at least one host with its QMP socket is needed";
                problems.push(Problem::new(path.clone(), message));
            }
            for (host, instance) in &vm.instances {
                if self.host(host.as_str()).is_none() {
                    problems.push(dangling(
                        format!("{path}.{host}"),
                        "host",
                        host.as_str(),
                        hosts.clone(),
                    ));
                }
                if !instance.qmp.starts_with("unix:/") {
                    let message = "must be a unix socket, written unix:/path/to/socket";
                    problems.push(Problem::new(format!("{path}.{host}.qmp"), message));
                }
                if instance.launch.as_ref().is_some_and(|launch| launch.argv.is_empty()) {
                    let message = "must name the program";
                    problems.push(Problem::new(format!("{path}.{host}.launch.argv"), message));
                }
            }
        }
        problems
    }
}
