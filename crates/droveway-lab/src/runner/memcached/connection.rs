//! One connection to a memcached: made, filled with values, asked in a pipeline, made anew when it breaks.
//!
//! ```text
//! Waiting ──> Connecting ──> Up
//!    ^            │           │
//!    └── failed ──┴── broken ─┘
//! ```

use super::{
    super::{SILENCE_MAX, agent::CONNECT_MAX, event, now, pace::Backoff},
    Tally,
    protocol::{Answer, KEYS, Kind, Values},
};
use droveway_fleet::units::Timestamp;
use nix::{
    poll::{PollFd, PollFlags},
    sys::socket::{setsockopt, sockopt},
};
use rand::{RngExt, rngs::StdRng};
use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    sync::mpsc::{self, TryRecvError},
    thread,
};

/// The most requests that wait for answers: two seconds at 2000 a second. Further ones fail at once, as in a client whose
/// queue is full; without a bound, all that a silence of a minute held back would be in the way when it ends.
const OUTSTANDING_MAX: usize = 4096;

/// What one read takes: some sixty answers. No part of an answer fills it.
const READ_BYTES: usize = 64 << 10;

/// The most reads before the pace is looked at again.
const READS_MAX: usize = 16;

/// A request that waits for its answer. Filling is due at no time and counts for nothing.
#[derive(Debug)]
struct Asked {
    kind: Kind,
    due: Option<Timestamp>,
}

#[derive(Debug)]
struct Up {
    stream: TcpStream,
    unsent: Vec<u8>,
    /// What was read; of it, so many bytes are answers, or parts of one.
    buffer: Vec<u8>,
    unread: usize,
    asked: VecDeque<Asked>,
    filling: usize,
}

#[derive(Debug)]
enum Link {
    Waiting { until: Timestamp },
    Connecting(mpsc::Receiver<io::Result<TcpStream>>),
    Up(Box<Up>),
}

/// A connection and the keys that it alone uses: what it asks for is stored before, in order.
#[derive(Debug)]
pub(super) struct Connection {
    server: SocketAddr,
    index: u32,
    count: u32,
    link: Link,
    backoff: Backoff,
}

impl Connection {
    pub(super) fn new(server: SocketAddr, index: u32, count: u32) -> Self {
        let link = Link::Waiting { until: now() };
        Connection { server, index, count, link, backoff: Backoff::new() }
    }

    pub(super) fn key(&self, choice: &mut StdRng) -> u32 {
        let own = (KEYS - self.index).div_ceil(self.count);
        self.index + choice.random_range(0..own) * self.count
    }

    pub(super) const fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    pub(super) fn is_filled(&self) -> bool {
        matches!(&self.link, Link::Up(up) if up.filling == 0)
    }

    pub(super) fn polled(&self) -> Option<PollFd<'_>> {
        let Link::Up(up) = &self.link else { return None };
        let mut flags = PollFlags::POLLIN;
        flags.set(PollFlags::POLLOUT, !up.unsent.is_empty());
        Some(PollFd::new(up.stream.as_fd(), flags))
    }

    /// Takes what has come: a connection, a failure, answers.
    pub(super) fn advance(&mut self, values: &Values, tally: &mut Tally) {
        match &mut self.link {
            Link::Waiting { until } => {
                if now() >= *until {
                    self.link = Link::Connecting(connect(self.server));
                }
            }
            Link::Connecting(result) => match result.try_recv() {
                Ok(Ok(stream)) => self.begin(stream, values),
                Ok(Err(error)) => self.fail(&error.to_string(), tally),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.fail("no thread to connect", tally),
            },
            Link::Up(up) => {
                let filling = up.filling > 0;
                match up.receive(values, tally) {
                    Ok(()) if filling && up.filling == 0 => self.backoff.reset(),
                    Ok(()) => {}
                    Err(what) => self.fail(&what, tally),
                }
            }
        }
    }

    /// Puts a request into the pipeline, or counts it as failed.
    pub(super) fn ask(&mut self, kind: Kind, due: Timestamp, values: &Values, tally: &mut Tally) {
        match &mut self.link {
            Link::Up(up) if up.asked.len() < OUTSTANDING_MAX => up.ask(kind, Some(due), values),
            _ => tally.failed(1),
        }
    }

    /// Sends as much as the connection takes.
    pub(super) fn send(&mut self, tally: &mut Tally) {
        if let Link::Up(up) = &mut self.link
            && let Err(error) = up.send()
        {
            self.fail(&error.to_string(), tally);
        }
    }

    fn begin(&mut self, stream: TcpStream, values: &Values) {
        let (unsent, buffer, asked) = (Vec::new(), vec![0; READ_BYTES], VecDeque::new());
        let mut up = Up { stream, unsent, buffer, unread: 0, asked, filling: 0 };
        for key in (self.index..KEYS).step_by(self.count as usize) {
            up.ask(Kind::Set(key), None, values);
            up.filling += 1;
        }
        event(&format!("memcached {}: connected", self.server));
        self.link = Link::Up(Box::new(up));
    }

    fn fail(&mut self, what: &str, tally: &mut Tally) {
        if let Link::Up(up) = &self.link {
            tally.failed(up.asked.iter().filter(|asked| asked.due.is_some()).count() as u64);
        }
        let wait = self.backoff.next();
        event(&format!("memcached {}: {what}; trying again in {wait:?}", self.server));
        self.link = Link::Waiting { until: now() + wait };
    }
}

/// Connects on a thread of its own: a server that is away must not stop the others' pace.
fn connect(server: SocketAddr) -> mpsc::Receiver<io::Result<TcpStream>> {
    let (sender, receiver) = mpsc::channel();
    let connect = move || {
        let connected = TcpStream::connect_timeout(&server, CONNECT_MAX).and_then(prepared);
        let _ = sender.send(connected);
    };
    // Without a thread the sender is gone, which the receiver notices.
    let _ = thread::Builder::new().name("connect".to_owned()).spawn(connect);
    receiver
}

fn prepared(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let silence_ms = u32::try_from(SILENCE_MAX.as_millis()).unwrap_or(u32::MAX);
    setsockopt(&stream, sockopt::TcpUserTimeout, &silence_ms)?;
    Ok(stream)
}

impl Up {
    fn ask(&mut self, kind: Kind, due: Option<Timestamp>, values: &Values) {
        values.request(kind, &mut self.unsent);
        self.asked.push_back(Asked { kind, due });
    }

    fn send(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match self.stream.write(&self.unsent[sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unsent.drain(..sent);
        Ok(())
    }

    fn receive(&mut self, values: &Values, tally: &mut Tally) -> Result<(), String> {
        for _ in 0..READS_MAX {
            match self.stream.read(&mut self.buffer[self.unread..]) {
                Ok(0) => return Err("the server closed the connection".to_owned()),
                Ok(length) => {
                    self.unread += length;
                    let filled = self.unread == self.buffer.len();
                    self.take_answers(values, tally)?;
                    if !filled {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    fn take_answers(&mut self, values: &Values, tally: &mut Tally) -> Result<(), String> {
        let at = now();
        let mut taken = 0;
        while taken < self.unread {
            let rest = &self.buffer[taken..self.unread];
            let Some(asked) = self.asked.front() else {
                return Err("an answer came to nothing that was asked".to_owned());
            };
            let answer = values.answer(asked.kind, rest).map_err(|out| out.0)?;
            let Some((answer, length)) = answer else { break };
            match (asked.due, answer) {
                (None, Answer::Right) => self.filling -= 1,
                (None, answer) => return Err(format!("a value could not be stored: {answer:?}")),
                (Some(due), Answer::Right) => tally.answered(due, at),
                (Some(_), Answer::Corrupt) => tally.corrupt(),
                (Some(_), Answer::Refused(words)) => tally.refused(words),
            }
            self.asked.pop_front();
            taken += length;
        }
        self.buffer.copy_within(taken..self.unread, 0);
        self.unread -= taken;
        Ok(())
    }
}
