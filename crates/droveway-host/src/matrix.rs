//! Who talks to whom at a host: a table of our own in nftables' bridge family counts every forwarded frame by the pair of
//! hardware addresses, and every IPv4 frame by connection.
//!
//! Only frames that the bridge *forwards* are seen: the host's own traffic, migration among it, is not in the matrix; nor is
//! a frame that a filter dropped before. Other tables are untouched; a table that a crashed process left is replaced, and
//! so is that of another process which still counts: the last one counts alone, and the first is told at its next reading.
//! `nft` does the work, as it does in products: a reading is a process (measured with 200 entries: 22 ms, of which CPU 12), so
//! read at the ends of a window, not in a sampling loop.
//!
//! What is counted: the network layer's length, and a packet that segmentation offload splits later counts once. Each
//! counted packet carries one set of headers, so [`payload_bytes`] needs to know nothing of offloads.

use crate::netns::{Netns, NetnsError};
use serde::Deserialize;
use std::{
    io::{self, Write as _},
    net::IpAddr,
    process::Stdio,
};
use thiserror::Error;

/// The table, in the bridge family.
const TABLE: &str = "droveway";
/// Pairs that are counted at most: 64 VMs that all talk to each other. The kernel counts no more, but goes on with those that
/// it has.
pub const PAIRS_MAX: u32 = 4096;
/// Directions of connections that are counted at most: measured, 11 MB of kernel memory and 2.4 s of `nft`'s CPU time to read
/// them. The kernel counts no more, but goes on with those that it has.
pub const CONNECTIONS_MAX: u32 = 65_535;
/// A table that is forgotten after a crash empties itself.
const FORGET: &str = "1h";
/// IPv4 and TCP headers with timestamps.
const TCP_HEADERS: u64 = 52;

/// Why the matrix could not be had.
#[derive(Debug, Error)]
pub enum MatrixError {
    /// The host's namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// `nft` did not run.
    #[error("could not run nft: is nftables installed?")]
    Run(#[source] io::Error),
    /// `nft` refused.
    #[error("nft could not {action}: {said}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// What it said.
        said: String,
    },
    /// Another process has installed a table in place of ours.
    #[error("another process counts in place of this one")]
    Replaced,
    /// `nft` answered something else.
    #[error("nft's answer makes no sense")]
    Malformed(#[source] serde_json::Error),
}

/// Frames from one hardware address to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairCount {
    /// The sender.
    pub from: [u8; 6],
    /// The receiver.
    pub to: [u8; 6],
    /// Packets, before segmentation.
    pub packets: u64,
    /// Bytes of the network layer.
    pub bytes: u64,
}

/// Packets of one direction of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionCount {
    /// The sender's address.
    pub from_ip: IpAddr,
    /// The sender's port.
    pub from_port: u16,
    /// The receiver's address.
    pub to_ip: IpAddr,
    /// The receiver's port.
    pub to_port: u16,
    /// 6 is TCP, 17 UDP.
    pub protocol: u8,
    /// Packets, before segmentation.
    pub packets: u64,
    /// Bytes of the network layer.
    pub bytes: u64,
}

/// Everything counted so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MatrixReading {
    /// By pair of hardware addresses.
    pub pairs: Vec<PairCount>,
    /// By connection.
    pub connections: Vec<ConnectionCount>,
}

impl MatrixReading {
    /// Whether the kernel had no room for more: what came later was not counted. Its bound is not exact to the entry,
    /// because entries are counted per processor.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let full = |entries: usize, most: u32| entries * 100 >= most as usize * 99;
        full(self.pairs.len(), PAIRS_MAX) || full(self.connections.len(), CONNECTIONS_MAX)
    }
}

/// What TCP over IPv4 with timestamps carried, of what was counted: each packet has one set of headers, an acknowledgement
/// has nothing else. What was sent again counts again.
///
/// Measured with 24 MB one way and 6 MB the other: within 100 bytes of what was sent, with segmentation offload and without;
/// up to 0.5 % more on a busy machine, by selective acknowledgements (12 bytes and more each) and by what was sent again.
#[must_use]
pub const fn payload_bytes(bytes: u64, packets: u64) -> u64 {
    bytes.saturating_sub(packets.saturating_mul(TCP_HEADERS))
}

/// The installed table. It goes with this value.
#[derive(Debug)]
pub struct TrafficMatrix {
    netns: Netns,
    /// The kernel's number for our table, which no later one will have; `None` once it was removed.
    handle: Option<u64>,
}

impl TrafficMatrix {
    /// Installs the table in `netns`, in place of one that was left.
    ///
    /// # Errors
    /// [`MatrixError`]; nothing is changed then.
    pub fn install(netns: &Netns) -> Result<Self, MatrixError> {
        // One transaction: adding it first makes the deletion valid whether or not one was left.
        let rules = format!(
            "add table bridge {TABLE}\ndelete table bridge {TABLE}\n\
             table bridge {TABLE} {{\n\
             set pairs {{ typeof ether saddr . ether daddr; size {PAIRS_MAX}; flags dynamic,timeout; \
             timeout {FORGET}; counter; }}\n\
             set connections {{ typeof ip saddr . ip daddr . ip protocol . th sport . th dport; \
             size {CONNECTIONS_MAX}; flags dynamic,timeout; timeout {FORGET}; counter; }}\n\
             chain traffic {{ type filter hook forward priority 0; policy accept;\n\
             update @pairs {{ ether saddr . ether daddr }}\n\
             ether type ip ip protocol {{ tcp, udp }} update @connections \
             {{ ip saddr . ip daddr . ip protocol . th sport . th dport }}\n}}\n}}\n"
        );
        nft(netns, "install the traffic matrix", &["-f", "-"], &rules)?;
        // Read back, so that an `nft` whose answers we cannot read is an error here, and leaves nothing.
        match list(netns) {
            Ok((handle, _)) => Ok(TrafficMatrix { netns: netns.clone(), handle: Some(handle) }),
            Err(error) => {
                let arguments = ["delete", "table", "bridge", TABLE];
                let _ = nft(netns, "remove the traffic matrix", &arguments, "");
                Err(error)
            }
        }
    }

    /// Reads what was counted since the installation.
    ///
    /// # Errors
    /// [`MatrixError`].
    pub fn read(&mut self) -> Result<MatrixReading, MatrixError> {
        let (handle, reading) = list(&self.netns)?;
        if self.handle == Some(handle) { Ok(reading) } else { Err(MatrixError::Replaced) }
    }

    /// Removes the table.
    ///
    /// # Errors
    /// [`MatrixError`].
    pub fn remove(mut self) -> Result<(), MatrixError> {
        self.delete()
    }

    /// By its number: a table that another process installed since stays.
    fn delete(&mut self) -> Result<(), MatrixError> {
        let Some(handle) = self.handle.take() else { return Ok(()) };
        let arguments = ["delete", "table", "bridge", "handle", &handle.to_string()];
        nft(&self.netns, "remove the traffic matrix", &arguments, "").map(drop)
    }
}

impl Drop for TrafficMatrix {
    fn drop(&mut self) {
        // Nobody is left to tell; the next installation replaces it and its entries expire.
        let _ = self.delete();
    }
}

/// The installed table's number and content.
fn list(netns: &Netns) -> Result<(u64, MatrixReading), MatrixError> {
    let arguments = ["-j", "-n", "list", "table", "bridge", TABLE];
    let text = nft(netns, "read the traffic matrix", &arguments, "")?;
    reading(&text).map_err(MatrixError::Malformed)
}

fn nft(
    netns: &Netns,
    action: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<Vec<u8>, MatrixError> {
    let mut command = netns.command("nft");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(MatrixError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input has ended, and says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(MatrixError::Run)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("").to_owned();
    Err(MatrixError::Refused { action, said })
}

/// What `nft -j` prints, as far as it concerns us.
#[derive(Debug, Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Debug, Deserialize)]
struct Object {
    table: Option<Table>,
    set: Option<Set>,
}

#[derive(Debug, Deserialize)]
struct Table {
    handle: u64,
}

#[derive(Debug, Deserialize)]
struct Set {
    name: String,
    /// Absent while empty.
    #[serde(default)]
    elem: Vec<Wrapped>,
}

#[derive(Debug, Deserialize)]
struct Wrapped {
    elem: Element,
}

#[derive(Debug, Deserialize)]
struct Element {
    val: Concatenation,
    counter: Counter,
}

#[derive(Debug, Deserialize)]
struct Concatenation {
    concat: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Counter {
    packets: u64,
    bytes: u64,
}

/// The table's number and content.
fn reading(text: &[u8]) -> Result<(u64, MatrixReading), serde_json::Error> {
    let Listing { nftables } = serde_json::from_slice(text)?;
    let mut tables = nftables.iter().filter_map(|object| object.table.as_ref());
    let handle = tables.next().map(|table| table.handle);
    let handle = handle.ok_or_else(|| serde::de::Error::missing_field("table"))?;
    let mut reading = MatrixReading::default();
    for set in nftables.into_iter().filter_map(|object| object.set) {
        for Wrapped { elem } in set.elem {
            // An element that does not read is of a kind that we did not ask for.
            match set.name.as_str() {
                "pairs" => reading.pairs.extend(pair(&elem)),
                "connections" => reading.connections.extend(connection(&elem)),
                _ => {}
            }
        }
    }
    Ok((handle, reading))
}

fn pair(element: &Element) -> Option<PairCount> {
    let [from, to] = element.val.concat.as_slice() else { return None };
    let Counter { packets, bytes } = element.counter;
    Some(PairCount { from: mac(from)?, to: mac(to)?, packets, bytes })
}

fn connection(element: &Element) -> Option<ConnectionCount> {
    let [from_ip, to_ip, protocol, from_port, to_port] = element.val.concat.as_slice() else {
        return None;
    };
    let ip = |value: &serde_json::Value| value.as_str()?.parse().ok();
    let Counter { packets, bytes } = element.counter;
    Some(ConnectionCount {
        from_ip: ip(from_ip)?,
        from_port: number(from_port)?.try_into().ok()?,
        to_ip: ip(to_ip)?,
        to_port: number(to_port)?.try_into().ok()?,
        protocol: number(protocol)?.try_into().ok()?,
        packets,
        bytes,
    })
}

/// A number; protocols may be written by name although numbers were asked for.
fn number(value: &serde_json::Value) -> Option<u64> {
    match value.as_str() {
        Some("tcp") => Some(6),
        Some("udp") => Some(17),
        Some(text) => text.parse().ok(),
        None => value.as_u64(),
    }
}

fn mac(value: &serde_json::Value) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = value.as_str()?.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read() {
        let text = br#"{"nftables":[{"metainfo":{"version":"1.0.6"}},{"table":{"family":"bridge","name":"droveway","handle":7}},
            {"set":{"name":"pairs","elem":[{"elem":{"val":{"concat":["52:54:00:00:00:0a","8e:e8:00:00:00:01"]},"expires":3599,"counter":{"packets":2,"bytes":1604}}}]}},
            {"set":{"name":"connections","elem":[{"elem":{"val":{"concat":["10.0.0.1","10.0.0.2",6,40000,"5201"]},"counter":{"packets":2,"bytes":1604}}}]}},
            {"set":{"name":"empty"}},{"rule":{"expr":[]}}]}"#;
        let (handle, mut read) = reading(text).unwrap();
        assert!(!read.is_full());
        assert_eq!((handle, read.pairs.len(), read.connections.len()), (7, 1, 1));
        let pair = read.pairs[0];
        assert_eq!((pair.from[5], pair.to[0], pair.bytes), (10, 0x8e, 1604));
        assert_eq!(payload_bytes(pair.bytes, pair.packets), 1500);
        let connection = read.connections[0];
        assert_eq!((connection.protocol, connection.to_port), (6, 5201));
        assert!(reading(b"nonsense").is_err());
        assert!(reading(br#"{"nftables":[]}"#).is_err());
        read.pairs = vec![pair; PAIRS_MAX as usize - 1];
        assert!(read.is_full());
    }

    #[test]
    fn acknowledgements_carry_nothing() {
        assert_eq!(payload_bytes(52 * 1000, 1000), 0);
        assert_eq!(payload_bytes(40, 1), 0);
    }
}
