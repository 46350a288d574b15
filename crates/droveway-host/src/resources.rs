//! What a host has: memory, and the speed of a port as its card says.

use crate::netns::Netns;
use droveway_fleet::{Bandwidth, Bytes};
use std::io;

/// A host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: Bytes,
    /// What new work could get without swapping, as the kernel estimates it.
    pub available: Bytes,
}

/// Reads `/proc/meminfo`.
///
/// # Errors
/// The file could not be read, or lacks a line.
pub fn memory() -> io::Result<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let field = |name: &str| {
        meminfo(&text, name).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("/proc/meminfo has no {name}"))
        })
    };
    Ok(Memory { total: field("MemTotal")?, available: field("MemAvailable")? })
}

/// A line of `/proc/meminfo`: `MemTotal:       24570304 kB`.
fn meminfo(text: &str, name: &str) -> Option<Bytes> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024).map(Bytes::new)
}

/// Drivers whose speed is a number that somebody made up: veth says 10 Gbit/s, tap 10 Mbit/s or 10 Gbit/s.
const VIRTUAL_DRIVERS: [&str; 9] =
    ["veth", "tun", "tap", "bridge", "dummy", "ifb", "vxlan", "geneve", "macvlan"];

/// The speed of an interface as its card negotiated it; `None` if it is virtual, down or does not say.
#[must_use]
pub fn link_speed(netns: &Netns, interface: &str) -> Option<Bandwidth> {
    // `ip netns exec` style namespaces see their own sysfs only if it is mounted there: `ethtool` asks the kernel.
    let output = netns.command("ethtool").args(["-i", interface]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let driver = text.lines().find_map(|line| line.strip_prefix("driver:"))?.trim().to_owned();
    if VIRTUAL_DRIVERS.contains(&driver.as_str()) {
        return None;
    }
    let output = netns.command("ethtool").arg(interface).output().ok()?;
    speed(&String::from_utf8_lossy(&output.stdout))
}

/// `Speed: 1000Mb/s` of ethtool's answer.
fn speed(text: &str) -> Option<Bandwidth> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Speed:"))?;
    let mbit: u64 = line.trim().strip_suffix("Mb/s")?.parse().ok()?;
    (mbit > 0).then(|| Bandwidth::from_bits_per_second(mbit.saturating_mul(1_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        let text = "MemTotal:       24570304 kB\nMemFree:   1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(meminfo(text, "MemAvailable"), Some(Bytes::from_mib(2)));
        assert_eq!(meminfo(text, "Mem"), None);
        let memory = memory().unwrap();
        assert!(memory.available.get() > 0 && memory.available <= memory.total);
    }

    #[test]
    fn speeds_are_read_and_unknown_is_none() {
        let gbit = Bandwidth::from_bits_per_second(1_000_000_000);
        assert_eq!(speed("Settings for eth0:\n\tSpeed: 1000Mb/s\n\tDuplex: Full\n"), Some(gbit));
        assert_eq!(speed("\tSpeed: Unknown!\n"), None);
        assert_eq!(speed(""), None);
        // The loopback interface has no card.
        assert_eq!(link_speed(&Netns::own(), "lo"), None);
    }
}
