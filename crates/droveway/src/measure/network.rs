//! Who is behind which hardware address at one host: asked of iproute2, which every host with a bridge has.

use super::flows::Mac;
use anyhow::Context as _;
use droveway_host::netns::Netns;
use serde::Deserialize;
use std::net::IpAddr;

/// What a host knows about addresses.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Its own IP addresses.
    pub(super) own: Vec<IpAddr>,
    /// Its own interfaces' hardware addresses, by name.
    pub(super) own_macs: Vec<(String, Mac)>,
    /// Those that it talked to.
    pub(super) neighbours: Vec<(IpAddr, Mac)>,
    /// Those that its bridges learned, by the port behind which they are.
    pub(super) forwarding: Vec<(String, Mac)>,
}

/// Asks a host.
pub(super) fn addresses(netns: &Netns) -> anyhow::Result<Addresses> {
    #[derive(Deserialize)]
    struct Link {
        ifname: String,
        address: Option<String>,
        #[serde(default)]
        addr_info: Vec<Address>,
    }
    #[derive(Deserialize)]
    struct Address {
        local: Option<IpAddr>,
    }
    #[derive(Deserialize)]
    struct Neighbour {
        dst: Option<IpAddr>,
        lladdr: Option<String>,
    }
    #[derive(Deserialize)]
    struct Forwarding {
        mac: String,
        ifname: String,
        #[serde(default)]
        state: String,
    }
    let links: Vec<Link> = ask(netns, "ip", &["-j", "addr", "show"])?;
    let neighbours: Vec<Neighbour> = ask(netns, "ip", &["-j", "neigh", "show"])?;
    let forwarding: Vec<Forwarding> = ask(netns, "bridge", &["-j", "fdb", "show"])?;
    Ok(Addresses {
        own: links.iter().flat_map(|link| &link.addr_info).filter_map(|a| a.local).collect(),
        own_macs: links
            .iter()
            .filter_map(|link| Some((link.ifname.clone(), mac(link.address.as_deref()?)?)))
            .collect(),
        neighbours: neighbours
            .iter()
            .filter_map(|n| Some((n.dst?, mac(n.lladdr.as_deref()?)?)))
            .collect(),
        // A permanent entry is a port's own address, not of anybody behind it.
        forwarding: forwarding
            .iter()
            .filter(|entry| entry.state != "permanent")
            .filter_map(|entry| Some((entry.ifname.clone(), mac(&entry.mac)?)))
            .collect(),
    })
}

/// The cards of others that a host's bridges have learned, by the port behind which they are.
pub(crate) fn cards(netns: &Netns) -> anyhow::Result<Vec<(String, Mac)>> {
    Ok(addresses(netns)?.forwarding)
}

fn ask<T: serde::de::DeserializeOwned>(
    netns: &Netns,
    program: &str,
    arguments: &[&str],
) -> anyhow::Result<Vec<T>> {
    let words = || format!("{program} {}", arguments.join(" "));
    let output = netns.command(program).args(arguments).output().with_context(words)?;
    anyhow::ensure!(
        output.status.success(),
        "{}: {}",
        words(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    // An empty list is printed as nothing by some versions.
    if output.stdout.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_slice(&output.stdout).with_context(words)
}

/// The index of an interface.
pub(super) fn index_of(netns: &Netns, interface: &str) -> anyhow::Result<u32> {
    let found = netns.run(|| nix::net::if_::if_nametoindex(interface))?;
    found.with_context(|| format!("looking for interface '{interface}'"))
}

/// `52:54:00:77:00:01` as bytes.
fn mac(text: &str) -> Option<Mac> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read() {
        assert_eq!(mac("52:54:00:77:00:0a"), Some([0x52, 0x54, 0, 0x77, 0, 10]));
        assert_eq!(mac("52:54:00:77:00"), None);
        assert_eq!(mac("52:54:00:77:00:0a:0b"), None);
        assert_eq!(mac("none"), None);
    }
}
