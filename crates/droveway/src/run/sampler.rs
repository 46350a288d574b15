//! The ports' counters during a run.

use droveway_fleet::{Bytes, Host, HostId, Timestamp};
use droveway_host::{
    counters::{Counters, PortCounters},
    netns::Netns,
};
use droveway_plan::Plan;

/// The ports of the hosts that a run concerns. One that cannot be read is left out, and said so once.
#[derive(Debug)]
pub(crate) struct Ports {
    ports: Vec<(HostId, PortCounters)>,
    pub(crate) capacity: Vec<(HostId, u64)>,
}

/// What the ports had carried at one instant.
#[derive(Debug, Clone)]
pub(crate) struct PortReading {
    pub(crate) at: Timestamp,
    pub(crate) counters: Vec<(HostId, Counters)>,
}

impl PortReading {
    /// What the source's port had sent and the target's received; `None` if one of them was not read.
    pub(super) fn seen(&self, plan: &Plan) -> Option<[Bytes; 2]> {
        let of = |host: &HostId| self.counters.iter().find(|(of, _)| of == host).map(|(_, it)| it);
        let (source, target) = (of(&plan.source)?, of(&plan.target)?);
        Some([Bytes::new(source.tx_bytes), Bytes::new(target.rx_bytes)])
    }
}

impl Ports {
    pub(crate) fn open(hosts: &[&Host]) -> Self {
        let mut ports = Vec::new();
        let mut capacity = Vec::new();
        for host in hosts {
            let opened = Netns::of(host.netns.as_deref())
                .map_err(anyhow::Error::from)
                .and_then(|netns| Ok(PortCounters::open(&netns, &host.port.interface)?));
            match opened {
                Ok(port) => {
                    ports.push((host.name.clone(), port));
                    capacity.push((host.name.clone(), host.port.rate.bits_per_second()));
                }
                Err(error) => {
                    tracing::warn!(
                        "the port of host '{}' cannot be read: {error:#}; the report will lack it",
                        host.name
                    );
                }
            }
        }
        Ports { ports, capacity }
    }

    pub(crate) fn read(&mut self, at: Timestamp) -> PortReading {
        let counters = self
            .ports
            .iter_mut()
            .filter_map(|(host, port)| Some((host.clone(), port.read().ok()?)))
            .collect();
        PortReading { at, counters }
    }
}
