//! What changes in a scenario's world while VMs move. Written flat, one field naming what changes:
//!
//! ```yaml
//! changes:
//!   - { at: 2s, reverse: pages }                                   # its data flows the other way
//!   - { at: 2s, traffic: pages, rate: 100Mbit/s }                  # it wants another rate
//!   - { at: 2s, vm: web-1, workingSet: 60MiB, writeRate: 30MiB/s } # it writes to so much more of its memory
//!   - { at: 2s, linkRate: 100Mbit/s, host: alpha }                 # of one port; without a host: of all
//!   - { at: 2s, linkDown: 3s, host: alpha }                        # its port carries nothing for so long
//! ```

use super::{ScenarioSpec, TrafficKind, dangling};
use crate::{
    document::Problem,
    ids::{EndpointId, HostId, VmId},
    units::{Bandwidth, Bytes, RateLimit, TimeSpan},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something that changes, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScenarioChange {
    /// When, from the start of the first move.
    pub at: TimeSpan,
    /// The traffic whose data flows the other way from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse: Option<EndpointId>,
    /// The traffic that wants another `rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<EndpointId>,
    /// Its rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateLimit>,
    /// The VM that writes to more of its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmId>,
    /// To how much more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_set: Option<Bytes>,
    /// Pages dirtied per second, as bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_rate: Option<Bandwidth>,
    /// The host whose port changes; absent: every machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// The port's rate from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_rate: Option<Bandwidth>,
    /// For how long the port carries nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_down: Option<TimeSpan>,
}

/// What changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorldChange {
    /// An application's data flows the other way.
    Reverse(EndpointId),
    /// An application wants another rate.
    Demand {
        /// Its name.
        application: EndpointId,
        /// The rate.
        rate: RateLimit,
    },
    /// A VM writes to more of its memory.
    Writes {
        /// The VM.
        vm: VmId,
        /// So much more.
        working_set: Bytes,
        /// At this rate.
        rate: Bandwidth,
    },
    /// A port gets another rate.
    LinkRate {
        /// Whose; `None`: every machine's.
        host: Option<HostId>,
        /// The rate.
        rate: Bandwidth,
    },
    /// A port carries nothing for a while.
    LinkDown {
        /// Whose.
        host: HostId,
        /// For so long.
        duration: TimeSpan,
    },
}

impl ScenarioChange {
    /// What changes; `None` if it is not exactly one thing, told whole (which a checked scenario never is).
    #[must_use]
    pub fn what(&self) -> Option<WorldChange> {
        let change = self.clone();
        let found = match change {
            ScenarioChange { reverse: Some(application), .. } => WorldChange::Reverse(application),
            ScenarioChange { traffic: Some(application), rate: Some(rate), .. } => {
                WorldChange::Demand { application, rate }
            }
            ScenarioChange {
                vm: Some(vm),
                working_set: Some(more),
                write_rate: Some(rate),
                ..
            } => WorldChange::Writes { vm, working_set: more, rate },
            ScenarioChange { link_rate: Some(rate), host, .. } => {
                WorldChange::LinkRate { host, rate }
            }
            ScenarioChange { link_down: Some(duration), host: Some(host), .. } => {
                WorldChange::LinkDown { host, duration }
            }
            _ => return None,
        };
        (ScenarioChange::of(self.at, found.clone()) == *self).then_some(found)
    }

    /// How a change is written.
    #[must_use]
    pub fn of(at: TimeSpan, what: WorldChange) -> Self {
        let mut change = ScenarioChange {
            at,
            reverse: None,
            traffic: None,
            rate: None,
            vm: None,
            working_set: None,
            write_rate: None,
            host: None,
            link_rate: None,
            link_down: None,
        };
        match what {
            WorldChange::Reverse(application) => change.reverse = Some(application),
            WorldChange::Demand { application, rate } => {
                (change.traffic, change.rate) = (Some(application), Some(rate));
            }
            WorldChange::Writes { vm, working_set, rate } => {
                (change.vm, change.working_set) = (Some(vm), Some(working_set));
                change.write_rate = Some(rate);
            }
            WorldChange::LinkRate { host, rate } => {
                (change.host, change.link_rate) = (host, Some(rate));
            }
            WorldChange::LinkDown { host, duration } => {
                (change.host, change.link_down) = (Some(host), Some(duration));
            }
        }
        change
    }
}

/// The problems of one change.
pub(super) fn check(
    spec: &ScenarioSpec,
    change: &ScenarioChange,
    path: &str,
    problems: &mut Vec<Problem>,
) {
    let Some(what) = change.what() else {
        problems.push(Problem::new(
            path,
            "tells one change and no more: 'reverse', or 'traffic' with 'rate', or 'vm' with 'workingSet' and 'writeRate', or \
             'linkRate' (with 'host' or for all), or 'linkDown' with 'host'",
        ));
        return;
    };
    let mut application = |field: &str, name: &EndpointId, kinds: &[TrafficKind]| {
        let path = format!("{path}.{field}");
        match spec.traffic.iter().find(|traffic| traffic.name == *name) {
            None => {
                let known = spec.traffic.iter().map(|traffic| traffic.name.as_str());
                problems.push(dangling(path, "traffic", name.as_str(), known));
            }
            Some(traffic) if !kinds.contains(&traffic.kind) => {
                problems.push(Problem::new(
                    path,
                    format!("traffic '{name}' is of a kind that cannot change so"),
                ));
            }
            Some(_) => {}
        }
    };
    match &what {
        WorldChange::Reverse(name) => application("reverse", name, &[TrafficKind::Tcp]),
        WorldChange::Demand { application: name, .. } => {
            application("traffic", name, &[TrafficKind::Tcp, TrafficKind::Udp]);
        }
        WorldChange::Writes { vm, working_set, .. } => match spec.vm(vm.as_str()) {
            None => {
                let known = spec.vms.iter().map(|vm| vm.name.as_str());
                problems.push(dangling(format!("{path}.vm"), "VM", vm.as_str(), known));
            }
            Some(of) => {
                let before = of.memory_load.as_ref().map_or(0, |load| load.working_set.get());
                if before + working_set.get() > of.memory.get() / 4 * 3 {
                    problems.push(Problem::new(
                        format!("{path}.workingSet"),
                        format!("with what it writes before at most three quarters of the VM's memory ({})", of.memory),
                    ));
                }
            }
        },
        WorldChange::LinkRate { .. } | WorldChange::LinkDown { .. } => {}
    }
    if let Some(host) = &change.host {
        let hosts = || spec.hosts.iter().map(|of| of.name.as_str());
        if !hosts().any(|name| name == host.as_str()) {
            problems.push(dangling(format!("{path}.host"), "host", host.as_str(), hosts()));
        }
    }
    if let Some(rate) = change.link_rate
        && rate < Bandwidth::from_bits_per_second(1_000_000)
    {
        problems.push(Problem::new(format!("{path}.linkRate"), "a port has at least 1Mbit/s"));
    }
}
