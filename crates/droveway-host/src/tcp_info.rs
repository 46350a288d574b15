//! What the kernel knows of TCP connections: round trips, retransmissions, what was delivered and what waits.
//!
//! By sock_diag netlink, over one socket that is opened inside the namespace and kept. Kernels differ in how much of
//! `struct tcp_info` they have: what an older one lacks reads as zero.

use crate::{
    dump::{DumpError, DumpSocket, array, attributes, number},
    netns::{Netns, NetnsError},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use thiserror::Error;

/// Why connections could not be listed.
#[derive(Debug, Error)]
pub enum TcpInfoError {
    /// The namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The netlink socket failed.
    #[error("could not {action} for the TCP connections")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// `struct tcp_info` of linux/tcp.h, the fields that say something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpInfo {
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Its mean deviation.
    pub rtt_variation: Duration,
    /// The smallest round trip of late; zero while there was none.
    pub rtt_min: Duration,
    /// Segments sent, also those without payload and those sent again.
    pub segments_sent: u64,
    /// Segments sent that have payload, also those sent again.
    pub data_segments_sent: u64,
    /// Segments that were sent again.
    pub segments_retransmitted: u64,
    /// Segments that count as lost now.
    pub lost: u64,
    /// Segments on their way.
    pub unacknowledged: u64,
    /// The congestion window, segments.
    pub congestion_window: u64,
    /// Payload that the other side acknowledged; the side that opened the connection counts one byte more (its SYN).
    pub bytes_acked: u64,
    /// Payload received.
    pub bytes_received: u64,
    /// Payload sent again.
    pub bytes_retransmitted: u64,
    /// Payload that waits in the send buffer.
    pub bytes_unsent: u64,
    /// The last delivery rate that the kernel measured; noisy.
    pub delivery_bytes_per_second: u64,
}

/// A connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The user that owns the socket.
    pub uid: u32,
    /// The socket's inode: `/proc/PID/fd` links to it.
    pub inode: u32,
    /// What the kernel knows.
    pub info: TcpInfo,
}

/// An open view of a namespace's TCP connections.
#[derive(Debug)]
pub struct TcpDiag {
    socket: DumpSocket,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_INFO: u16 = 2;
/// `TCP_ESTABLISHED` as a bit: others carry nothing.
const ESTABLISHED: u32 = 1 << 1;
/// `TCP_SYN_SENT` as a bit: the other side has not answered yet.
const CONNECTING: u32 = 1 << 2;
/// struct inet_diag_req_v2 and struct inet_diag_msg.
const REQUEST: usize = 56;
const MESSAGE: usize = 72;

impl TcpDiag {
    /// Opens the view in `netns`.
    ///
    /// # Errors
    /// [`TcpInfoError`].
    pub fn open(netns: &Netns) -> Result<Self, TcpInfoError> {
        let socket = DumpSocket::open(netns, NETLINK_SOCK_DIAG)?.map_err(failed)?;
        Ok(TcpDiag { socket })
    }

    /// Every established connection.
    ///
    /// # Errors
    /// [`TcpInfoError`].
    pub fn connections(&mut self) -> Result<Vec<Connection>, TcpInfoError> {
        self.between(None, None)
    }

    /// Every established connection from a port of this side to a port of the other; `None`: any. The kernel picks them out,
    /// so that a host with many connections answers as fast as one with few.
    ///
    /// # Errors
    /// [`TcpInfoError`].
    pub fn between(
        &mut self,
        local: Option<u16>,
        remote: Option<u16>,
    ) -> Result<Vec<Connection>, TcpInfoError> {
        self.of(ESTABLISHED, local, remote)
    }

    /// Every connection that is being made and that the other side has not answered yet. The kernel asks again and again, more
    /// and more rarely, for some two minutes.
    ///
    /// # Errors
    /// [`TcpInfoError`].
    pub fn connecting(&mut self) -> Result<Vec<Connection>, TcpInfoError> {
        self.of(CONNECTING, None, None)
    }

    fn of(
        &mut self,
        states: u32,
        local: Option<u16>,
        remote: Option<u16>,
    ) -> Result<Vec<Connection>, TcpInfoError> {
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let family = u8::try_from(family).unwrap_or(0);
            let question = question(family, states, local, remote);
            self.socket
                .ask(SOCK_DIAG_BY_FAMILY, &question, |kind, message| {
                    if kind == SOCK_DIAG_BY_FAMILY {
                        all.extend(connection(message));
                    }
                })
                .map_err(failed)?;
        }
        Ok(all)
    }
}

/// struct inet_diag_req_v2: family, protocol, wanted extensions, padding, states (4 bytes), socket id, which begins with both
/// ports in network order; 0: any.
fn question(family: u8, states: u32, local: Option<u16>, remote: Option<u16>) -> [u8; REQUEST] {
    let mut question = [0; REQUEST];
    question[0] = family;
    question[1] = u8::try_from(libc::IPPROTO_TCP).unwrap_or(6);
    question[2] = 1 << (INET_DIAG_INFO - 1);
    question[4..8].copy_from_slice(&states.to_ne_bytes());
    question[8..10].copy_from_slice(&local.unwrap_or(0).to_be_bytes());
    question[10..12].copy_from_slice(&remote.unwrap_or(0).to_be_bytes());
    question
}

/// Every established connection of a namespace, asked once.
///
/// # Errors
/// [`TcpInfoError`].
pub fn connections(netns: &Netns) -> Result<Vec<Connection>, TcpInfoError> {
    TcpDiag::open(netns)?.connections()
}

/// One connection of a `struct inet_diag_msg` with its attributes.
fn connection(message: &[u8]) -> Option<Connection> {
    let fixed = message.get(..MESSAGE)?;
    // Family, state, timer, retransmissions (a byte each); then ports and addresses in network order, interface and cookie;
    // expiry, queues, user and inode.
    let family = i32::from(fixed[0]);
    let end = |port_at: usize, address_at: usize| {
        let port = u16::from_be_bytes(array(fixed, port_at));
        let ip = if family == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::from(array::<4>(fixed, address_at)))
        } else {
            let six = Ipv6Addr::from(array::<16>(fixed, address_at));
            // A dual-stack socket's IPv4 peer.
            six.to_ipv4_mapped().map_or(IpAddr::V6(six), IpAddr::V4)
        };
        SocketAddr::new(ip, port)
    };
    let info = attributes(&message[MESSAGE..])
        .find(|(kind, _)| *kind == INET_DIAG_INFO)
        .map(|(_, raw)| tcp_info(raw))
        .unwrap_or_default();
    let (uid, inode) = (number(fixed, MESSAGE - 8), number(fixed, MESSAGE - 4));
    Some(Connection { local: end(4, 8), remote: end(6, 24), uid, inode, info })
}

/// `struct tcp_info`; offsets are part of the kernel's ABI.
pub(crate) fn tcp_info(raw: &[u8]) -> TcpInfo {
    let micros = |at| Duration::from_micros(u64::from(number(raw, at)));
    let word = |at| u64::from(number(raw, at));
    let long = |at| u64::from_ne_bytes(array(raw, at));
    TcpInfo {
        unacknowledged: word(24),
        lost: word(32),
        rtt: micros(68),
        rtt_variation: micros(72),
        congestion_window: word(80),
        segments_retransmitted: word(100),
        bytes_acked: long(120),
        bytes_received: long(128),
        segments_sent: word(136),
        bytes_unsent: word(144),
        // The kernel's "none yet" is the largest number.
        rtt_min: if number(raw, 148) == u32::MAX { Duration::ZERO } else { micros(148) },
        data_segments_sent: word(156),
        delivery_bytes_per_second: long(160),
        bytes_retransmitted: long(208),
    }
}

fn failed(error: DumpError) -> TcpInfoError {
    TcpInfoError::Socket { action: error.action, source: error.source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn a_connection_is_found_with_what_it_carried() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let payload = vec![7; 300_000];
        let sending = std::thread::spawn(move || {
            client.write_all(&payload).unwrap();
            client
        });
        server.read_exact(&mut vec![0; 300_000]).unwrap();
        let client = sending.join().unwrap();
        let local = client.local_addr().unwrap();
        let all = connections(&Netns::own()).unwrap();
        let of_client = all.iter().find(|c| c.local == local).unwrap();
        let of_server = all.iter().find(|c| c.remote == local).unwrap();
        assert_eq!(of_client.remote, server.local_addr().unwrap());
        assert_eq!(of_server.info.bytes_received, 300_000);
        // The last acknowledgement may be on its way; the handshake counts one byte.
        assert!((299_000..=300_001).contains(&of_client.info.bytes_acked), "{of_client:?}");
        assert!(of_client.info.rtt > Duration::ZERO && of_client.info.segments_sent > 0);
        assert!(of_client.inode > 0);
    }

    #[test]
    fn an_older_kernels_answer_is_shorter_and_the_rest_zero() {
        for length in 0..300 {
            assert_eq!(connection(&vec![0xff; length]).is_some(), length >= MESSAGE);
        }
        let raw = [1; 216];
        let (whole, older) = (tcp_info(&raw), tcp_info(&raw[..104]));
        assert_eq!(older.rtt, whole.rtt);
        assert_eq!(older.segments_retransmitted, whole.segments_retransmitted);
        assert!(whole.bytes_acked > 0 && whole.bytes_retransmitted > 0);
        assert_eq!((older.bytes_acked, older.bytes_retransmitted), (0, 0));
        assert_eq!(tcp_info(&[0xff; 216]).rtt_min, Duration::ZERO, "none yet");
    }
}
