//! What goes wrong, or changes, while VMs move.

use super::{Flow, World, timestamp};
use crate::{Physics, qemu::Emitted};
use droveway_drive::Side;
use droveway_fleet::{
    Bandwidth, Bytes, EndpointId, HostId, RateLimit, Scenario, VmId, scenario::WorldChange,
};
use droveway_model::world::payload;

/// Something that goes wrong. Seconds from the first move.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// A host's port carries nothing for a while.
    PortDown {
        /// The host.
        host: HostId,
        /// For so long.
        seconds: f64,
    },
    /// A host's port gets another rate, for good.
    PortRate {
        /// The host.
        host: HostId,
        /// The rate.
        rate: Bandwidth,
    },
    /// A QEMU dies.
    KillQemu {
        /// Whose.
        vm: VmId,
        /// Which.
        side: Side,
    },
    /// The operator interrupts.
    Cancel,
    /// An application wants another rate from now on.
    Demand {
        /// Its name.
        application: EndpointId,
        /// The rate.
        rate: RateLimit,
    },
    /// An application's data flows the other way from now on.
    Reverse {
        /// Its name.
        application: EndpointId,
    },
    /// Round trips between the hosts last so much longer, and so much has to be sent again, from now on.
    Path {
        /// Seconds.
        round_trip: f64,
        /// The share of segments.
        sent_again: f64,
    },
    /// A VM writes to more of its memory from now on.
    Writes {
        /// The VM.
        vm: VmId,
        /// So much more.
        working_set: Bytes,
        /// At this rate.
        rate: Bandwidth,
    },
}

/// What the scenario says will change, and when.
#[must_use]
pub fn changes(scenario: &Scenario) -> Vec<(f64, Fault)> {
    let spec = &scenario.spec;
    let machines = || {
        let clients = spec.clients.iter().filter_map(|client| client.name.as_str().parse().ok());
        spec.hosts.iter().map(|host| host.name.clone()).chain(clients)
    };
    let faults = |what| match what {
        WorldChange::Reverse(application) => vec![Fault::Reverse { application }],
        WorldChange::Demand { application, rate } => vec![Fault::Demand { application, rate }],
        WorldChange::Writes { vm, working_set, rate } => {
            vec![Fault::Writes { vm, working_set, rate }]
        }
        WorldChange::LinkRate { host: Some(host), rate } => vec![Fault::PortRate { host, rate }],
        WorldChange::LinkRate { host: None, rate } => {
            machines().map(|host| Fault::PortRate { host, rate }).collect()
        }
        WorldChange::LinkDown { host, duration } => {
            vec![Fault::PortDown { host, seconds: duration.duration().as_secs_f64() }]
        }
    };
    let due = spec
        .changes
        .iter()
        .filter_map(|change| Some((change.at.duration().as_secs_f64(), change.what()?)));
    due.flat_map(|(at, what)| faults(what).into_iter().map(move |fault| (at, fault))).collect()
}

impl World<'_> {
    /// True if anything happened.
    pub(super) fn inject(&mut self) -> bool {
        let now = self.now;
        // A port that comes back changes what is shared.
        let mut any = self
            .ports
            .iter()
            .any(|port| port.down_until > 0.0 && (port.down_until - now).abs() < 1e-9);
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.faults).into_iter().partition(|(at, _)| *at <= now);
        self.faults = later;
        for (_, fault) in due {
            any = true;
            match fault {
                Fault::PortDown { host, seconds } => {
                    if let Some(index) = self.machines.iter().position(|other| *other == host) {
                        self.ports[index].down_until = now + seconds;
                    }
                }
                Fault::PortRate { host, rate } => {
                    if let Some(index) = self.machines.iter().position(|other| *other == host) {
                        self.ports[index].rate = payload(rate);
                    }
                }
                Fault::KillQemu { vm, side } => {
                    let path = self.path_is_up();
                    if let Some(index) = self.vms.iter().position(|other| other.name == vm) {
                        let mut out = Emitted::new();
                        if let Some(pair) = &mut self.vms[index].pair {
                            pair.kill(side, path, &mut out, now);
                        }
                        self.emit(index, out);
                    }
                }
                Fault::Cancel => {
                    self.gang.cancel(timestamp(now));
                }
                Fault::Demand { application, rate } => {
                    let demand = rate
                        .bandwidth()
                        .map_or(f64::INFINITY, |rate| Physics::bytes(rate.bytes_per_second()));
                    if let Some(flow) = self.flow_of(&application) {
                        flow.demand = demand;
                    }
                }
                Fault::Reverse { application } => {
                    if let Some(flow) = self.flow_of(&application) {
                        (flow.from, flow.to) = (flow.to, flow.from);
                    }
                }
                Fault::Path { round_trip, sent_again } => {
                    self.path.set(round_trip, sent_again);
                    for pair in self.vms.iter_mut().filter_map(|vm| vm.pair.as_mut()) {
                        pair.set_path(self.path.fault_seconds());
                    }
                }
                Fault::Writes { vm, working_set, rate } => {
                    let pair = self.vms.iter_mut().find(|other| other.name == vm);
                    if let Some(pair) = pair.and_then(|vm| vm.pair.as_mut()) {
                        let rate = Physics::bytes(rate.bytes_per_second());
                        pair.write_more(working_set.as_f64(), rate);
                    }
                }
            }
        }
        any
    }

    fn flow_of(&mut self, application: &EndpointId) -> Option<&mut Flow> {
        let log = self.outcome.applications.iter().position(|of| of.name == *application)?;
        self.flows.iter_mut().find(|flow| flow.log == log)
    }
}
