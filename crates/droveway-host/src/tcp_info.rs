//! What the kernel knows of TCP connections: round trips, retransmissions, what was delivered and what waits.
//!
//! By sock_diag netlink, over one socket that is opened inside the namespace and kept. Kernels differ in how much of
//! `struct tcp_info` they have: what an older one lacks reads as zero.

use crate::netns::{Netns, NetnsError};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use nix::sys::{socket::setsockopt, time::TimeVal};
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
    /// The smallest round trip of late.
    pub rtt_min: Duration,
    /// Segments sent.
    pub segments_sent: u64,
    /// Segments that were sent again.
    pub segments_retransmitted: u64,
    /// Segments that count as lost now.
    pub lost: u64,
    /// Segments on their way.
    pub unacknowledged: u64,
    /// The congestion window, segments.
    pub congestion_window: u64,
    /// Payload that the other side acknowledged.
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
    /// The socket's inode: `/proc/PID/fd` links to it.
    pub inode: u32,
    /// What the kernel knows.
    pub info: TcpInfo,
}

/// An open view of a namespace's TCP connections.
#[derive(Debug)]
pub struct TcpDiag {
    socket: Socket,
    sequence: u32,
    answer: Vec<u8>,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x1 | 0x300;
const INET_DIAG_INFO: u16 = 2;
/// `TCP_ESTABLISHED` as a bit: others carry nothing.
const ESTABLISHED: u32 = 1 << 1;
/// struct nlmsghdr.
const HEADER: usize = 16;
/// struct inet_diag_req_v2 and struct inet_diag_msg.
const REQUEST: usize = 56;
const MESSAGE: usize = 72;
/// The kernel fills at most so much a datagram of a dump.
const ANSWER_LEN: usize = 64 << 10;
/// The kernel answers at once; a longer silence is a bug.
const ANSWER_SECONDS_MAX: i64 = 1;

impl TcpDiag {
    /// Opens the view in `netns`.
    ///
    /// # Errors
    /// [`TcpInfoError`].
    pub fn open(netns: &Netns) -> Result<Self, TcpInfoError> {
        let socket = netns
            .run(|| {
                let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
                socket.bind_auto()?;
                socket.connect(&NetlinkAddress::new(0, 0))?;
                let timeout = TimeVal::new(ANSWER_SECONDS_MAX, 0);
                setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &timeout)?;
                Ok(socket)
            })?
            .map_err(failed("open a netlink socket"))?;
        Ok(TcpDiag { socket, sequence: 0, answer: Vec::with_capacity(ANSWER_LEN) })
    }

    /// Every established connection.
    ///
    /// # Errors
    /// [`TcpInfoError`].
    pub fn connections(&mut self) -> Result<Vec<Connection>, TcpInfoError> {
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            self.dump(u8::try_from(family).unwrap_or(0), &mut all)?;
        }
        Ok(all)
    }

    fn dump(&mut self, family: u8, all: &mut Vec<Connection>) -> Result<(), TcpInfoError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = [0; HEADER + REQUEST];
        let length = u32::try_from(request.len()).unwrap_or(0);
        request[0..4].copy_from_slice(&length.to_ne_bytes());
        request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        request[6..8].copy_from_slice(&DUMP.to_ne_bytes());
        request[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        // struct inet_diag_req_v2: family, protocol, wanted extensions, padding, states, socket id.
        request[HEADER] = family;
        request[HEADER + 1] = u8::try_from(libc::IPPROTO_TCP).unwrap_or(6);
        request[HEADER + 2] = 1 << (INET_DIAG_INFO - 1);
        request[HEADER + 4..HEADER + 8].copy_from_slice(&ESTABLISHED.to_ne_bytes());
        self.socket.send(&request, 0).map_err(failed("ask by netlink"))?;
        loop {
            self.answer.clear();
            self.socket.recv(&mut self.answer, 0).map_err(failed("hear from netlink"))?;
            let mut rest = self.answer.as_slice();
            while rest.len() >= HEADER {
                let length = (number(rest, 0) as usize).clamp(HEADER, rest.len());
                let message = &rest[..length];
                rest = rest.get((length + 3) & !3..).unwrap_or_default();
                if number(message, 8) != self.sequence {
                    continue;
                }
                match short(message, 4) {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = i32::from_ne_bytes(array(message, HEADER));
                        return Err(failed("list")(io::Error::from_raw_os_error(-code)));
                    }
                    SOCK_DIAG_BY_FAMILY => all.extend(connection(&message[HEADER..])),
                    _ => {}
                }
            }
        }
    }
}

/// One connection of a `struct inet_diag_msg` with its attributes.
fn connection(message: &[u8]) -> Option<Connection> {
    let fixed = message.get(..MESSAGE)?;
    // Family, state, timer, retransmissions; then ports and addresses in network order, interface and cookie.
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
    let mut info = TcpInfo::default();
    let mut rest = &message[MESSAGE..];
    while rest.len() >= 4 {
        let length = usize::from(short(rest, 0));
        let attribute = rest.get(4..length)?;
        if short(rest, 2) == INET_DIAG_INFO {
            info = tcp_info(attribute);
        }
        rest = rest.get((length + 3) & !3..).unwrap_or_default();
    }
    let inode = number(fixed, MESSAGE - 4);
    Some(Connection { local: end(4, 8), remote: end(6, 24), inode, info })
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
        rtt_min: micros(148),
        delivery_bytes_per_second: long(160),
        bytes_retransmitted: long(208),
    }
}

fn array<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    let mut all = [0; N];
    if let Some(found) = from.get(at..at + N) {
        all.copy_from_slice(found);
    }
    all
}

fn number(from: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(array(from, at))
}

fn short(from: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(array(from, at))
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> TcpInfoError {
    move |source| TcpInfoError::Socket { action, source }
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
        let mut diag = TcpDiag::open(&Netns::own()).unwrap();
        let all = diag.connections().unwrap();
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
    fn damaged_answers_are_no_panic() {
        for length in 0..300 {
            let _ = connection(&vec![0xff; length]);
            let _ = tcp_info(&vec![0xff; length]);
        }
    }
}
