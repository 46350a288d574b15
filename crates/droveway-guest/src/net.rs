//! What the agent needs of a TCP connection: keepalive, and waiting for output or the client's departure.

use std::io::Read;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

/// Silence after which the kernel asks whether the client is still there, the pause between two such
/// questions, and how many may stay unanswered: about 30 s in all.
const KEEPALIVE_IDLE_S: u32 = 15;
const KEEPALIVE_INTERVAL_S: u32 = 5;
const KEEPALIVE_COUNT: u32 = 3;

/// What a client does not take for this long counts as its departure.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(30);

pub(crate) fn prepare(client: &TcpStream) -> std::io::Result<()> {
    setsockopt(client, sockopt::KeepAlive, &true)?;
    setsockopt(client, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(client, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(client, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)?;
    client.set_nodelay(true)?;
    client.set_write_timeout(Some(WRITE_WAIT_MAX))
}

/// What happened first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The client closed, or its connection failed.
    ClientGone,
    /// There is output to read, or its end.
    Output,
    /// The time is over.
    TimeOut,
}

/// Waits for the client's departure, for output if there is a source of it, or for the time to be over.
/// What the client sends beyond its first line is read and ignored.
pub(crate) fn wait(
    client: &mut TcpStream,
    output: Option<&impl AsFd>,
    time_out: PollTimeout,
) -> std::io::Result<Woken> {
    let mut ready = vec![PollFd::new(client.as_fd(), PollFlags::POLLIN)];
    ready.extend(output.map(|output| PollFd::new(output.as_fd(), PollFlags::POLLIN)));
    match poll(&mut ready, time_out) {
        Ok(0) => return Ok(Woken::TimeOut),
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(Woken::TimeOut),
        Err(error) => return Err(error.into()),
    }
    let has_output = ready.get(1).is_some_and(|output| output.any() == Some(true));
    let client_spoke = ready[0].any() == Some(true);
    if client_spoke && !matches!(client.read(&mut [0; 256]), Ok(count) if count > 0) {
        return Ok(Woken::ClientGone);
    }
    Ok(if has_output { Woken::Output } else { Woken::TimeOut })
}
