//! The counters of a network port, both directions, by netlink.
//!
//! One socket is opened inside the port's namespace and kept, so that a reading is one question and one answer without
//! entering the namespace again (some 20 microseconds; `/sys/class/net` would need a mount of its own there).
//!
//! What they count: bytes of frames without preamble, checksum and gap; a packet that segmentation offload splits later
//! counts once, without the headers that its parts will have (up to 4.5 % less than on the wire, measured).

use crate::netns::{Netns, NetnsError};
use droveway_fleet::Timestamp;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, Stats64},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{socket::setsockopt, time::TimeVal};
use std::io;
use thiserror::Error;

/// Why a port's counters could not be read.
#[derive(Debug, Error)]
pub enum CountersError {
    /// The port's namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The netlink socket failed.
    #[error("could not {action} for port '{interface}'")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// The interface.
        interface: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused: usually there is no such interface.
    #[error("could not read the counters of port '{interface}'")]
    Refused {
        /// The interface.
        interface: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The answer was not one.
    #[error("the kernel's answer about port '{interface}' makes no sense: {reason}")]
    Malformed {
        /// The interface.
        interface: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a port has sent and received since it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets received.
    pub rx_packets: u64,
}

/// An open view of one port's counters.
#[derive(Debug)]
pub struct PortCounters {
    socket: Socket,
    interface: String,
    request: Vec<u8>,
    answer: Vec<u8>,
    sequence: u32,
}

/// An answer about one link fits; measured: below 2 KiB without virtual functions, which are not asked for.
const ANSWER_LEN: usize = 32 << 10;

/// The kernel answers at once; a longer silence is a bug and must not hang a sampling loop.
const ANSWER_SECONDS_MAX: i64 = 1;

impl PortCounters {
    /// Opens the counters of `interface` in `netns` and reads them once, so that a wrong name is an error here.
    ///
    /// # Errors
    /// [`CountersError`].
    pub fn open(netns: &Netns, interface: &str) -> Result<Self, CountersError> {
        let failed = |action| {
            move |source| CountersError::Socket { action, interface: interface.to_owned(), source }
        };
        let socket = netns
            .run(|| {
                let mut socket = Socket::new(NETLINK_ROUTE)?;
                socket.bind_auto()?;
                socket.connect(&SocketAddr::new(0, 0))?;
                let timeout = TimeVal::new(ANSWER_SECONDS_MAX, 0);
                setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &timeout)?;
                Ok(socket)
            })?
            .map_err(failed("open a netlink socket"))?;
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(interface.to_owned()));
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
        message.header.flags = NLM_F_REQUEST;
        message.finalize();
        let mut request = vec![0; message.buffer_len()];
        message.serialize(&mut request);
        let mut counters = PortCounters {
            socket,
            interface: interface.to_owned(),
            request,
            answer: Vec::with_capacity(ANSWER_LEN),
            sequence: 0,
        };
        counters.read()?;
        Ok(counters)
    }

    /// The interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// [`CountersError`].
    pub fn read(&mut self) -> Result<Counters, CountersError> {
        self.sequence = self.sequence.wrapping_add(1);
        // struct nlmsghdr: length (4 bytes), type (2), flags (2), sequence number (4), port (4).
        self.request[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        let sent = self.socket.send(&self.request, 0);
        sent.map_err(|source| self.failed("ask by netlink", source))?;
        loop {
            self.answer.clear();
            let received = self.socket.recv(&mut self.answer, 0);
            received.map_err(|source| self.failed("hear from netlink", source))?;
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&self.answer);
            let message = message.map_err(|error| self.malformed(error.to_string()))?;
            // An answer to an earlier question that timed out.
            if message.header.sequence_number != self.sequence {
                continue;
            }
            return match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => link
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        LinkAttribute::Stats64(stats) => Some(Counters::from(stats)),
                        _ => None,
                    })
                    .ok_or_else(|| self.malformed("it has no IFLA_STATS64".to_owned())),
                NetlinkPayload::Error(error) => Err(CountersError::Refused {
                    interface: self.interface.clone(),
                    source: error.to_io(),
                }),
                other => Err(self.malformed(format!("unexpected message {other:?}"))),
            };
        }
    }

    /// Reads the counters and says when, on the monotonic clock.
    ///
    /// # Errors
    /// [`CountersError`].
    pub fn read_stamped(&mut self) -> Result<(Timestamp, Counters), CountersError> {
        let counters = self.read()?;
        Ok((crate::features::monotonic_now(), counters))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> CountersError {
        CountersError::Socket { action, interface: self.interface.clone(), source }
    }

    fn malformed(&self, reason: String) -> CountersError {
        CountersError::Malformed { interface: self.interface.clone(), reason }
    }
}

impl From<&Stats64> for Counters {
    fn from(stats: &Stats64) -> Self {
        Counters {
            tx_bytes: stats.tx_bytes,
            rx_bytes: stats.rx_bytes,
            tx_packets: stats.tx_packets,
            rx_packets: stats.rx_packets,
        }
    }
}
