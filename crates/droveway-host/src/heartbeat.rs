//! A heartbeat between two hosts: small datagrams from one to the other, each of which is answered. Whether a path is there is
//! known from it without a connection, and in the first tenths of a second after its return.
//!
//! Both ends are ours: one socket in each host's namespace. A firewall in between may hold the datagrams back; then none is ever
//! answered, and nothing can be concluded.

use crate::netns::{Netns, NetnsError};
use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};
use thiserror::Error;

/// A datagram: who sent it, and which one it is.
const BYTES: usize = 16;
/// Datagrams that are looked at in one call: what came since the last one, five a second, and some of a neighbour's that
/// mistook the port.
const LOOKS_MAX: usize = 64;

/// Why there is no heartbeat.
#[derive(Debug, Error)]
pub enum HeartbeatError {
    /// A namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A socket failed.
    #[error("could not open a socket for the heartbeat to {address}")]
    Socket {
        /// The target's address.
        address: IpAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// An open heartbeat.
#[derive(Debug)]
pub struct Heartbeat {
    asks: UdpSocket,
    answers: UdpSocket,
    at: SocketAddr,
    own: u64,
    sent: u64,
}

impl Heartbeat {
    /// Opens both ends; `address` is one of `target`'s.
    ///
    /// # Errors
    /// [`HeartbeatError`].
    pub fn open(source: &Netns, target: &Netns, address: IpAddr) -> Result<Self, HeartbeatError> {
        let failed = |source| HeartbeatError::Socket { address, source };
        // A socket belongs to the namespace in which it was made.
        let answers = target.run(|| bound(address))?.map_err(failed)?;
        let at = answers.local_addr().map_err(failed)?;
        let any = match address {
            IpAddr::V4(_) => IpAddr::from([0_u8; 4]),
            IpAddr::V6(_) => IpAddr::from([0_u8; 16]),
        };
        let asks = source.run(|| bound(any))?.map_err(failed)?;
        let own = u64::from(std::process::id()) << 32 | u64::from(at.port());
        Ok(Heartbeat { asks, answers, at, own, sent: 0 })
    }

    /// Answers what has arrived, takes the answers, and sends another one. Never blocks. True if at least one was answered since
    /// the last call.
    pub fn beat(&mut self) -> bool {
        let mut buffer = [0; BYTES];
        for _ in 0..LOOKS_MAX {
            match self.answers.recv_from(&mut buffer) {
                Ok((BYTES, from)) if self.is_own(&buffer) => {
                    // Over a dead path it is lost, which is what it is for.
                    let _ = self.answers.send_to(&buffer, from);
                }
                // What the network said of an earlier one (nobody there, no route) is no datagram.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => {}
            }
        }
        let mut answered = false;
        for _ in 0..LOOKS_MAX {
            match self.asks.recv_from(&mut buffer) {
                Ok((BYTES, from)) if from == self.at && self.is_own(&buffer) => answered = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => {}
            }
        }
        self.sent += 1;
        buffer[..8].copy_from_slice(&self.own.to_be_bytes());
        buffer[8..].copy_from_slice(&self.sent.to_be_bytes());
        let _ = self.asks.send_to(&buffer, self.at);
        answered
    }

    fn is_own(&self, datagram: &[u8; BYTES]) -> bool {
        datagram[..8] == self.own.to_be_bytes()
    }
}

fn bound(address: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(address, 0))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn loopback() -> Heartbeat {
        let own = Netns::own();
        Heartbeat::open(&own, &own, IpAddr::from([127, 0, 0, 1])).unwrap()
    }

    /// Whether one is answered before long.
    fn answers(heart: &mut Heartbeat) -> bool {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            if heart.beat() {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    #[test]
    fn a_heartbeat_is_answered_over_a_path() {
        assert!(answers(&mut loopback()));
    }

    #[test]
    fn strangers_and_absent_hosts_are_no_answer() {
        let mut heart = loopback();
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        // Something else than a heartbeat, and one of somebody else's.
        let asks = SocketAddr::from(([127, 0, 0, 1], heart.asks.local_addr().unwrap().port()));
        for text in [&b"hello"[..], &[7; BYTES]] {
            stranger.send_to(text, asks).unwrap();
            stranger.send_to(text, heart.at).unwrap();
        }
        assert!(!heart.beat(), "nothing of its own was sent before");
        assert!(answers(&mut heart));

        // Nobody answers at an address of nobody.
        heart.at = SocketAddr::from(([192, 0, 2, 1], 9));
        while heart.beat() {}
        for _ in 0..20 {
            assert!(!heart.beat());
        }
    }
}
