//! Netlink: dumps (one question, many messages as an answer) and orders (one message, done or refused), over a socket that
//! stays open.
//!
//! By hand rather than by a crate: dumps run in sampling loops, where nothing is allocated once the buffer is warm and only the
//! attributes that somebody wants are looked at; orders are about queueing disciplines and classes, for which no crate has
//! types. Single questions about one link are [`crate::counters`]' matter.

use crate::netns::{Netns, NetnsError};
use netlink_sys::{Socket, SocketAddr};
use nix::{
    libc,
    sys::{socket::setsockopt, time::TimeVal},
};
use std::io;

/// struct nlmsghdr: length (4 bytes), type (2), flags (2), sequence number (4), port (4).
const HEADER: usize = 16;
/// struct nlattr: length (2 bytes), type (2).
const ATTRIBUTE_HEADER: usize = 4;
/// The two upper bits of an attribute's type say how to read it, not what it is.
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x1 | 0x300;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const ORDER: u16 = 0x1 | 0x4;
/// `NLM_F_CREATE | NLM_F_EXCL`: the order makes something that is not there yet.
pub(crate) const NEW: u16 = 0x400 | 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// The kernel fills at most 32 KiB a datagram of a dump (`netlink_recvmsg`); nothing is ever cut off.
const ANSWER_LEN: usize = 64 << 10;
/// The kernel answers at once; a longer silence is a bug and must not hang a sampling loop.
const ANSWER_SECONDS_MAX: i64 = 1;
/// The longest request here: a filter with its action, some 250 bytes, or an old discipline's options, put back as they were.
const REQUEST_LEN_MAX: usize = 4096;

/// What did not work, and what the system said. Whoever asked knows for whom.
#[derive(Debug)]
pub(crate) struct DumpError {
    pub(crate) action: &'static str,
    pub(crate) source: io::Error,
}

/// A netlink socket of a namespace that asks for dumps.
#[derive(Debug)]
pub(crate) struct DumpSocket {
    socket: Socket,
    sequence: u32,
    answer: Vec<u8>,
}

impl DumpSocket {
    /// Opens the socket inside `netns`.
    pub(crate) fn open(
        netns: &Netns,
        protocol: isize,
    ) -> Result<Result<Self, DumpError>, NetnsError> {
        let opened = netns.run(|| {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            let timeout = TimeVal::new(ANSWER_SECONDS_MAX, 0);
            setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &timeout)?;
            Ok(socket)
        })?;
        Ok(opened
            .map(|socket| DumpSocket {
                socket,
                sequence: 0,
                answer: Vec::with_capacity(ANSWER_LEN),
            })
            .map_err(|source| DumpError { action: "open a netlink socket", source }))
    }

    /// Asks one question and gives each message of the answer, its type and what follows its header, to `each`.
    pub(crate) fn ask(
        &mut self,
        kind: u16,
        body: &[u8],
        each: impl FnMut(u16, &[u8]),
    ) -> Result<(), DumpError> {
        self.exchange(kind, DUMP, body, each)
    }

    /// Orders something and waits until it is done or refused. `flags` beside those of every order: [`NEW`] or 0.
    pub(crate) fn order(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<(), DumpError> {
        self.exchange(kind, ORDER | flags, body, |_, _| {})
    }

    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), DumpError> {
        let failed = |action| move |source| DumpError { action, source };
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = [0; REQUEST_LEN_MAX];
        let length = HEADER + body.len();
        let known = request.get_mut(..length).ok_or_else(|| {
            failed("ask by netlink")(io::Error::from_raw_os_error(libc::EMSGSIZE))
        })?;
        known[0..4].copy_from_slice(&u32::try_from(length).unwrap_or(0).to_ne_bytes());
        known[4..6].copy_from_slice(&kind.to_ne_bytes());
        known[6..8].copy_from_slice(&flags.to_ne_bytes());
        known[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        known[HEADER..].copy_from_slice(body);
        self.socket.send(known, 0).map_err(failed("ask by netlink"))?;
        loop {
            self.answer.clear();
            self.socket.recv(&mut self.answer, 0).map_err(failed("hear from netlink"))?;
            if take(&self.answer, self.sequence, &mut each).map_err(failed("read by netlink"))? {
                return Ok(());
            }
        }
    }
}

/// Takes one datagram's messages; true at the end of the dump.
fn take(datagram: &[u8], sequence: u32, each: &mut impl FnMut(u16, &[u8])) -> io::Result<bool> {
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let length = number(rest, 0) as usize;
        if length < HEADER || length > rest.len() {
            let text = "a netlink message is longer than its datagram";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let message = &rest[..length];
        rest = rest.get(aligned(length)..).unwrap_or_default();
        // An answer to an earlier question that timed out.
        if number(message, 8) != sequence {
            continue;
        }
        let (kind, content) = (short(message, 4), &message[HEADER..]);
        match kind {
            // Both begin with a negative error number; a dump that went well is done with 0.
            NLMSG_DONE | NLMSG_ERROR => {
                let code = i32::from_ne_bytes(array(content, 0));
                return match code {
                    0 => Ok(true),
                    code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                };
            }
            kind => each(kind, content),
        }
    }
    Ok(false)
}

/// The attributes behind a message's fixed part, by type; a damaged one ends them.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(short(rest.get(..ATTRIBUTE_HEADER)?, 0));
        let content = rest.get(ATTRIBUTE_HEADER..length)?;
        let kind = short(rest, 2) & ATTRIBUTE_TYPE_MASK;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, content))
    })
}

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

/// Bytes at an offset; zeroes where a shorter answer (an older kernel's) has none.
pub(crate) fn array<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    let mut all = [0; N];
    if let Some(found) = from.get(at..at + N) {
        all.copy_from_slice(found);
    }
    all
}

/// A `u32` of this machine's byte order.
pub(crate) fn number(from: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(array(from, at))
}

/// A `u16` of this machine's byte order.
pub(crate) fn short(from: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(array(from, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of some type with some content.
    fn message(kind: u16, sequence: u32, content: &[u8]) -> Vec<u8> {
        let mut message = vec![0; HEADER];
        message[0..4]
            .copy_from_slice(&u32::try_from(HEADER + content.len()).unwrap().to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[8..12].copy_from_slice(&sequence.to_ne_bytes());
        message.extend(content);
        message.resize(aligned(message.len()), 0);
        message
    }

    fn taken(datagram: &[u8]) -> (Vec<Vec<u8>>, Result<bool, Option<i32>>) {
        let mut all = Vec::new();
        let done = take(datagram, 7, &mut |_, content| all.push(content.to_vec()));
        (all, done.map_err(|error| error.raw_os_error()))
    }

    #[test]
    fn answers_of_other_questions_are_passed_over() {
        let datagram = [
            message(20, 6, &[1; 5]),
            message(NLMSG_ERROR, 6, &(-1_i32).to_ne_bytes()),
            message(20, 7, &[2; 5]),
            message(20, 7, &[3; 4]),
        ];
        assert_eq!(taken(&datagram.concat()), (vec![vec![2; 5], vec![3; 4]], Ok(false)));
    }

    #[test]
    fn the_end_and_errors_are_told_apart() {
        let done = |code: i32| message(NLMSG_DONE, 7, &code.to_ne_bytes());
        assert_eq!(taken(&done(0)).1, Ok(true));
        assert_eq!(taken(&done(-libc::EINTR)).1, Err(Some(libc::EINTR)));
        let error = message(NLMSG_ERROR, 7, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(taken(&error).1, Err(Some(libc::EPERM)));
    }

    #[test]
    fn damaged_answers_are_errors_or_nothing() {
        let mut longer = message(20, 7, &[1; 4]);
        longer[0] = 0xff;
        assert_eq!(taken(&longer).1, Err(None));
        for length in 0..64 {
            let damaged = vec![0xff; length];
            assert!(taken(&damaged).0.is_empty());
            assert_eq!(attributes(&damaged).count(), 0);
            // A length of 0 must not go round for ever.
            assert_eq!(attributes(&vec![0; length]).count(), 0);
        }
    }

    #[test]
    fn attributes_are_told_by_type_whatever_their_flags() {
        let nested = [6, 0, 18, 0x80, b'v', b'x', 0, 0, 5, 0, 1, 0, 9];
        let all: Vec<_> = attributes(&nested).collect();
        assert_eq!(all, [(18, b"vx".as_slice()), (1, &[9])]);
    }
}
