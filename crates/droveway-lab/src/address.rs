//! Who has which address in a lab. One lab's addresses repeat in the next: each lab is a network of its own.
//!
//! | who | address |
//! | --- | --- |
//! | host `i` | `10.77.0.(1+i)` |
//! | client `i` | `10.77.0.(101+i)` |
//! | VM `i` | `10.77.1.(1+i)` |
//! | the switch, a vantage point outside every port | `10.77.255.254` |

use droveway_fleet::{
    EndpointId,
    scenario::{MACHINES_MAX, ScenarioSpec},
};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// The length of the lab network's prefix, `10.77.0.0/16`.
pub const PREFIX_LEN: u8 = 16;

/// The switch's own address.
pub const SWITCH: Ipv4Addr = Ipv4Addr::new(10, 77, 255, 254);

// Hosts, clients and VMs must fit the last byte of their ranges.
const _: () = assert!(100 + MACHINES_MAX < 255);

/// The addresses of every machine and VM of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Of hosts, clients and VMs, by name.
    pub of: BTreeMap<EndpointId, Ipv4Addr>,
    /// Of the switch.
    pub switch: Ipv4Addr,
}

impl Addresses {
    /// The addresses of a scenario that was checked (`droveway_fleet::document::parse`).
    #[must_use]
    pub fn of_scenario(spec: &ScenarioSpec) -> Self {
        let hosts = spec.hosts.iter().map(|host| host.name.as_str());
        let clients = spec.clients.iter().map(|client| client.name.as_str());
        let vms = spec.vms.iter().map(|vm| vm.name.as_str());
        let numbered = |third: u8, first: u8| {
            (first..=u8::MAX).map(move |last| Ipv4Addr::new(10, 77, third, last))
        };
        let all = hosts
            .zip(numbered(0, 1))
            .chain(clients.zip(numbered(0, 101)))
            .chain(vms.zip(numbered(1, 1)));
        // A host's or VM's id has the same alphabet as an endpoint's: parsing it cannot fail.
        let of = all.filter_map(|(name, address)| Some((name.parse().ok()?, address))).collect();
        Addresses { of, switch: SWITCH }
    }

    /// The address of a host, client or VM.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Ipv4Addr> {
        self.of.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_scenario::scenario;

    #[test]
    fn everybody_has_an_address() {
        let scenario = scenario(
            "{ name: one, host: alpha, memory: 128MiB }, { name: two, host: beta, memory: 128MiB }",
        );
        let addresses = Addresses::of_scenario(&scenario.spec);
        for (name, address) in [
            ("alpha", "10.77.0.1"),
            ("beta", "10.77.0.2"),
            ("client", "10.77.0.101"),
            ("one", "10.77.1.1"),
            ("two", "10.77.1.2"),
        ] {
            assert_eq!(addresses.get(name).unwrap().to_string(), address);
        }
        assert_eq!(addresses.get("nobody"), None);
        assert_eq!(addresses.of.len(), 5);
    }
}
