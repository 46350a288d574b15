//! The counters of all links of a namespace at once: ports and taps, 64 bits, in one question.
//!
//! `RTM_GETSTATS` answers with counters alone (some 250 bytes a link), where a dump of links carries everything that the
//! kernel knows of each (2 KiB and more); sampling 50 taps five times a second costs well under a hundredth of a core.
//!
//! Counters are the host's: what a tap *receives* is what the VM *sends*. [`vm_view`] turns them round.

use crate::{
    counters::{Counters, CountersError},
    netns::Netns,
};
use droveway_fleet::Timestamp;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{socket::setsockopt, time::TimeVal};
use std::io;

/// `RTM_NEWSTATS` and `RTM_GETSTATS` of linux/rtnetlink.h.
const RTM_NEWSTATS: u16 = 92;
const RTM_GETSTATS: u16 = 94;
/// `IFLA_STATS_LINK_64` of linux/if_link.h: attribute and filter bit.
const IFLA_STATS_LINK_64: u16 = 1;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x1 | 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// struct nlmsghdr.
const HEADER: usize = 16;
/// struct if_stats_msg: family, padding, index, filter.
const STATS_MESSAGE: usize = 12;

/// The kernel fills at most so much a datagram of a dump.
const ANSWER_LEN: usize = 64 << 10;
/// The kernel answers at once; a longer silence is a bug and must not hang a sampling loop.
const ANSWER_SECONDS_MAX: i64 = 1;

/// An open view of the counters of all links of a namespace.
#[derive(Debug)]
pub struct LinkCounters {
    socket: Socket,
    sequence: u32,
    answer: Vec<u8>,
}

impl LinkCounters {
    /// Opens the view in `netns` and reads once, so that a kernel that cannot is an error here.
    ///
    /// # Errors
    /// [`CountersError`].
    pub fn open(netns: &Netns) -> Result<Self, CountersError> {
        let socket = netns
            .run(|| {
                let mut socket = Socket::new(NETLINK_ROUTE)?;
                socket.bind_auto()?;
                socket.connect(&SocketAddr::new(0, 0))?;
                let timeout = TimeVal::new(ANSWER_SECONDS_MAX, 0);
                setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &timeout)?;
                Ok(socket)
            })?
            .map_err(|source| failed("open a netlink socket", source))?;
        let mut counters =
            LinkCounters { socket, sequence: 0, answer: Vec::with_capacity(ANSWER_LEN) };
        counters.read(&mut Vec::new())?;
        Ok(counters)
    }

    /// Appends the counters of every link, with its index, and says when they were read: the middle of the reading, so
    /// that a slow reading does not make rates drift.
    ///
    /// # Errors
    /// [`CountersError`].
    pub fn read(&mut self, out: &mut Vec<(u32, Counters)>) -> Result<Timestamp, CountersError> {
        let began = crate::features::monotonic_now();
        self.sequence = self.sequence.wrapping_add(1);
        self.socket
            .send(&request(self.sequence), 0)
            .map_err(|source| failed("ask by netlink", source))?;
        loop {
            self.answer.clear();
            self.socket
                .recv(&mut self.answer, 0)
                .map_err(|source| failed("hear from netlink", source))?;
            if self.take(out)? {
                break;
            }
        }
        Ok(began + crate::features::monotonic_now().since(began) / 2)
    }

    /// Takes one datagram's messages; true at the end of the dump.
    fn take(&self, out: &mut Vec<(u32, Counters)>) -> Result<bool, CountersError> {
        let mut rest = self.answer.as_slice();
        while rest.len() >= HEADER {
            let length = number(rest, 0) as usize;
            if length < HEADER || length > rest.len() {
                return Err(malformed("a message is longer than its datagram"));
            }
            let (message, others) = rest.split_at(length);
            rest = others.get(aligned(length) - length..).unwrap_or_default();
            // An answer to an earlier question that timed out.
            if number(message, 8) != self.sequence {
                continue;
            }
            match short(message, 4) {
                NLMSG_DONE => return Ok(true),
                NLMSG_ERROR => {
                    let code = i32::from_ne_bytes(bytes(message, HEADER));
                    let source = io::Error::from_raw_os_error(-code);
                    return Err(failed("read the counters of all links", source));
                }
                RTM_NEWSTATS => out.extend(link(&message[HEADER..])),
                _ => {}
            }
        }
        Ok(false)
    }
}

/// The question: a dump of the 64-bit counters of all links.
fn request(sequence: u32) -> [u8; HEADER + STATS_MESSAGE] {
    let mut request = [0; HEADER + STATS_MESSAGE];
    let length = u32::try_from(request.len()).unwrap_or(0);
    request[0..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&RTM_GETSTATS.to_ne_bytes());
    request[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    request[8..12].copy_from_slice(&sequence.to_ne_bytes());
    let filter = 1_u32 << (IFLA_STATS_LINK_64 - 1);
    request[HEADER + 8..].copy_from_slice(&filter.to_ne_bytes());
    request
}

/// A link's index and counters of one message.
fn link(message: &[u8]) -> Option<(u32, Counters)> {
    let index = number(message.get(..STATS_MESSAGE)?, 4);
    let mut rest = &message[STATS_MESSAGE..];
    while rest.len() >= 4 {
        let length = usize::from(short(rest, 0));
        let attribute = rest.get(4..length)?;
        if short(rest, 2) == IFLA_STATS_LINK_64 {
            // struct rtnl_link_stats64: rx_packets, tx_packets, rx_bytes, tx_bytes, ...
            let field = |at: usize| {
                attribute.get(8 * at..8 * at + 8).map(|_| u64::from_ne_bytes(bytes(attribute, 8 * at)))
            };
            let counters = Counters {
                rx_packets: field(0)?,
                tx_packets: field(1)?,
                rx_bytes: field(2)?,
                tx_bytes: field(3)?,
            };
            return Some((index, counters));
        }
        rest = rest.get(aligned(length)..)?;
    }
    None
}

/// A tap's counters as its VM sees them: what the host received is what the VM sent.
#[must_use]
pub const fn vm_view(tap: Counters) -> Counters {
    Counters {
        tx_bytes: tap.rx_bytes,
        rx_bytes: tap.tx_bytes,
        tx_packets: tap.rx_packets,
        rx_packets: tap.tx_packets,
    }
}

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    let mut all = [0; N];
    if let Some(found) = from.get(at..at + N) {
        all.copy_from_slice(found);
    }
    all
}

fn number(from: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes(from, at))
}

fn short(from: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes(from, at))
}

fn failed(action: &'static str, source: io::Error) -> CountersError {
    CountersError::Socket { action, interface: "all links".to_owned(), source }
}

fn malformed(reason: &str) -> CountersError {
    CountersError::Malformed { interface: "all links".to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PortCounters;

    #[test]
    fn all_links_are_read_as_one_by_one() {
        let netns = Netns::own();
        let mut all = Vec::new();
        let before = crate::features::monotonic_now();
        let at = LinkCounters::open(&netns).unwrap().read(&mut all).unwrap();
        assert!(at >= before && at <= crate::features::monotonic_now());
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        let (_, counters) = all.iter().find(|(index, _)| *index == lo).unwrap();
        let alone = PortCounters::open(&netns, "lo").unwrap().read().unwrap();
        assert!(counters.tx_bytes <= alone.tx_bytes && counters.rx_packets <= alone.rx_packets);
    }

    #[test]
    fn what_a_tap_receives_its_vm_sends() {
        let tap = Counters { tx_bytes: 1, rx_bytes: 2, tx_packets: 3, rx_packets: 4 };
        let vm = vm_view(tap);
        assert_eq!((vm.tx_bytes, vm.rx_bytes, vm.tx_packets, vm.rx_packets), (2, 1, 4, 3));
    }

    #[test]
    fn damaged_answers_are_no_panic() {
        for length in 0..64 {
            let _ = link(&vec![0xff; length]);
        }
    }
}
