//! How good the path between two hosts is: a short TCP connection of our own, and what the kernel saw of it.
//!
//! Small questions first, for the round trip of an idle path; then some data at once, for losses and what is delivered. At
//! most [`DATA`] bytes and the time given: it measures the path, it does not load it.

use crate::{
    netns::{Netns, NetnsError},
    tcp_info::{TcpInfo, tcp_info},
};
use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};
use thiserror::Error;

/// Bytes that a probe sends: 2 ms of a 1 Gbit/s port, enough for a congestion window to open.
pub const DATA: usize = 256 << 10;
/// Questions for the round trip, an odd number: enough for a median that one or two slow ones do not move.
const QUESTIONS: usize = 11;
/// What is read and written at once.
const CHUNK: usize = 16 << 10;
/// Between two looks at what counts as lost, while the answer is waited for: a kernel waits longer before it sends again.
const LOOK: Duration = Duration::from_millis(5);

/// Why a path could not be probed.
#[derive(Debug, Error)]
pub enum PathError {
    /// A namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The connection failed.
    #[error("could not {action} {address}")]
    Connection {
        /// What was tried.
        action: &'static str,
        /// The target's address.
        address: IpAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What a probe saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathReading {
    /// Round trip of small questions on the idle connection, the median. Not the kernel's smoothed one: that begins with the
    /// handshake, which may have waited a second for the neighbour's address, and takes dozens of round trips to forget.
    pub rtt: Duration,
    /// The smallest round trip that the kernel saw, without the programs at both ends.
    pub rtt_min: Duration,
    /// Segments sent again over segments sent, those with payload; 0 to 1.
    pub retransmit_ratio: f64,
    /// The most segments that the kernel took for lost at one time over segments sent, those with payload; 0 to 1. Less than
    /// what was sent again where that turned out to be needless.
    pub loss_ratio: f64,
    /// The last delivery rate that the kernel saw: a hint only. It is noisy, and so few bytes may pass a shaped port as one
    /// burst, faster than its rate.
    pub delivery_bytes_per_second: f64,
}

/// Probes the path from `source` to `address`, which is one of `target`'s, within `time`.
///
/// # Errors
/// [`PathError`]: the path is down, or a firewall is in between.
pub fn path_probe(
    source: &Netns,
    target: &Netns,
    address: IpAddr,
    time: Duration,
) -> Result<PathReading, PathError> {
    let failed = |action| move |error| PathError::Connection { action, address, source: error };
    let listener = target
        .run(|| TcpListener::bind(SocketAddr::new(address, 0)))?
        .map_err(failed("listen on"))?;
    let at = listener.local_addr().map_err(failed("listen on"))?;
    let deadline = Instant::now() + time;
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| answer(&listener, deadline));
        // A socket belongs to the namespace in which it was made.
        let asked = source
            .run(|| TcpStream::connect_timeout(&at, time))?
            .and_then(|stream| ask(stream, deadline))
            .map_err(failed("probe the path to"));
        // Whatever happened to the asking side, the answering side ends with its connection or its deadline.
        let _ = answering.join();
        asked
    })
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn ask(mut stream: TcpStream, deadline: Instant) -> io::Result<PathReading> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    let mut trips = [Duration::ZERO; QUESTIONS];
    for trip in &mut trips {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        let asked = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        *trip = asked.elapsed();
    }
    trips.sort_unstable();
    let rtt = trips[QUESTIONS / 2];
    let mut sent = QUESTIONS;
    let chunk = [0x5a; CHUNK];
    // What is lost is known only while it is missing.
    let mut lost = 0;
    while sent < QUESTIONS + DATA {
        stream.set_write_timeout(Some(remaining(deadline)?))?;
        stream.write_all(&chunk)?;
        sent += chunk.len();
        lost = info(&stream)?.lost.max(lost);
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // The other side closes when it has read everything.
    loop {
        stream.set_read_timeout(Some(remaining(deadline)?.min(LOOK)))?;
        match stream.read(&mut byte) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                lost = info(&stream)?.lost.max(lost);
            }
            Err(error) => return Err(error),
        }
    }
    let loaded = info(&stream)?;
    #[expect(clippy::cast_precision_loss, reason = "a few hundred segments")]
    let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    #[expect(clippy::cast_precision_loss, reason = "a rate far below 2^53")]
    let delivery = loaded.delivery_bytes_per_second as f64;
    Ok(PathReading {
        rtt,
        // Kernels before 4.6 know no minimum.
        rtt_min: if loaded.rtt_min.is_zero() { rtt } else { loaded.rtt_min.min(rtt) },
        retransmit_ratio: share(loaded.segments_retransmitted, loaded.data_segments_sent).min(1.0),
        loss_ratio: share(lost, loaded.data_segments_sent).min(1.0),
        delivery_bytes_per_second: delivery,
    })
}

/// Answers the questions, then swallows the data.
fn answer(listener: &TcpListener, deadline: Instant) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut ready = [nix::poll::PollFd::new(
                    std::os::fd::AsFd::as_fd(listener),
                    nix::poll::PollFlags::POLLIN,
                )];
                let left = u16::try_from(remaining(deadline)?.as_millis()).unwrap_or(u16::MAX);
                nix::poll::poll(&mut ready, left.saturating_add(1))?;
            }
            Err(error) => return Err(error),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let mut byte = [0];
    for _ in 0..QUESTIONS {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
    }
    let mut chunk = [0; CHUNK];
    loop {
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        if stream.read(&mut chunk)? == 0 {
            return Ok(());
        }
    }
}

/// The kernel's view of a connection of our own.
fn info(stream: &TcpStream) -> io::Result<TcpInfo> {
    let mut raw = [0_u8; 512];
    let mut length = libc::socklen_t::try_from(raw.len()).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes into a buffer of that size, and says how many.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            raw.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(tcp_info(&raw[..length as usize]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_a_good_path() {
        let own = Netns::own();
        let local = IpAddr::from([127, 0, 0, 1]);
        let read = path_probe(&own, &own, local, Duration::from_secs(5)).unwrap();
        assert!(read.rtt > Duration::ZERO && read.rtt < Duration::from_secs(1), "{read:?}");
        assert!(read.rtt_min <= read.rtt && read.retransmit_ratio <= 1.0);
        assert!((0.0..=1.0).contains(&read.loss_ratio), "{read:?}");
        assert!(read.delivery_bytes_per_second > 1e6, "{read:?}");
    }

    #[test]
    fn an_address_of_nobody_is_an_error_in_time() {
        let own = Netns::own();
        let began = Instant::now();
        let nobody = IpAddr::from([192, 0, 2, 1]);
        assert!(path_probe(&own, &own, nobody, Duration::from_millis(500)).is_err());
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
