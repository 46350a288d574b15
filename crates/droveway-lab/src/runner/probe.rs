//! The outage probe: a question to a VM's echo every few milliseconds, and the silences between its answers.
//!
//! One thread asks, and now and then takes the answers that came since; when each of them came the kernel has noted, so there
//! is no need to wake for it. Questions have absolute times, so that the pace does not drift; those whose time passed while the
//! probe itself could not run are left out, because a burst of them would say nothing. The socket is unconnected: a VM that
//! is between two hosts may be answered for by errors, which such a socket does not pass on.
//!
//! While answers come, it asks only every [`RELAXED_INTERVAL`]: an emulated guest pays some 0.7 ms of CPU for each answer, and
//! three of them asked every 2 ms left nothing for the applications (measured: 36 % of a core a guest). Once answers stay away
//! for [`PATIENCE`] it asks at its full pace. So a longer silence's end is known to the interval, its beginning to the relaxed
//! one.

use super::{
    SAMPLE_INTERVAL, event,
    log::SampleLog,
    now,
    pace::{Stop, go_first},
};
use droveway_fleet::{
    log::{ProbeSample, Silence},
    units::Timestamp,
};
use nix::{
    errno::Errno,
    sys::{
        socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt},
        time::TimeSpec,
    },
    time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep},
};
use std::{
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    path::Path,
    time::Duration,
};

/// The UDP port of every guest's echo.
pub(crate) const ECHO_PORT: u16 = 7007;

/// Shorter silences are the scheduler's and an emulated guest's, not a migration's.
pub(crate) const SILENCE_MIN: Duration = Duration::from_millis(30);

/// The pace while answers come.
pub(crate) const RELAXED_INTERVAL: Duration = Duration::from_millis(10);

/// Without an answer for so long, the probe asks at its full pace. A busy machine answers this late without any outage, and
/// asking it more would make it busier.
const PATIENCE: Duration = Duration::from_millis(50);

/// How often answers are taken. Until then the socket keeps them: twenty, if questions are 1 ms apart; it has room for some
/// hundred.
const LOOK: Duration = Duration::from_millis(20);

/// A question: which run of which probe asks, its number, when it was sent.
const QUESTION_BYTES: usize = 24;

/// Asks until it is told to stop.
pub(crate) fn run(
    log: &Path,
    target: SocketAddr,
    interval: Duration,
    stop: &Stop,
) -> io::Result<()> {
    go_first();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    let mut log = SampleLog::open(log)?;
    let start = now();
    let mut asking = Asking { socket, target, run: start.nanos(), number: 0, refused: false };
    let mut control = nix::cmsg_space!(TimeSpec);
    let mut hearing = Hearing::new(start);
    let mut due = start;
    let mut look = start;
    loop {
        let at = now();
        let stopping = stop.is_asked();
        let sample_ends = stopping || at >= hearing.sample_end();
        if sample_ends || at >= look {
            asking.take_answers(&mut control, |answered| hearing.heard(answered.min(at)));
            look = at + LOOK;
        }
        if sample_ends {
            log.write(&hearing.sample(at));
        }
        if stopping {
            return Ok(());
        }
        if at >= due {
            hearing.note_lateness(at.since(due));
            asking.ask(at);
            hearing.sent += 1;
            let answered = at.since(hearing.last) < PATIENCE;
            due =
                next_due(due, at, if answered { interval.max(RELAXED_INTERVAL) } else { interval });
        }
        sleep_until(due.min(hearing.sample_end()));
    }
}

fn sleep_until(at: Timestamp) {
    let at = TimeSpec::from_duration(at.since(Timestamp::ZERO));
    // A signal that ends it early costs one more look at the clock.
    let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &at);
}

/// The first time of the grid after `at`.
fn next_due(due: Timestamp, at: Timestamp, interval: Duration) -> Timestamp {
    let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX).max(1);
    let passed = at.nanos().saturating_sub(due.nanos()) / interval;
    Timestamp::from_nanos(due.nanos().saturating_add((passed + 1).saturating_mul(interval)))
}

#[derive(Debug)]
struct Asking {
    socket: UdpSocket,
    target: SocketAddr,
    run: u64,
    number: u64,
    refused: bool,
}

impl Asking {
    /// Sends a question. That there is no way to the VM is what the probe is here to see: it is told once.
    fn ask(&mut self, at: Timestamp) {
        let mut question = [0; QUESTION_BYTES];
        for (field, value) in question.chunks_exact_mut(8).zip([self.run, self.number, at.nanos()])
        {
            field.copy_from_slice(&value.to_be_bytes());
        }
        self.number += 1;
        let result = self.socket.send_to(&question, self.target);
        let refused = result.is_err();
        if let Err(error) = result
            && !self.refused
        {
            event(&format!("could not ask {}: {error}", self.target));
        }
        self.refused = refused;
    }

    /// Takes every answer to our questions that is there, with the time when it came.
    fn take_answers(&self, control: &mut [u8], mut heard: impl FnMut(Timestamp)) {
        let mut datagram = [0; QUESTION_BYTES];
        loop {
            let mut parts = [IoSliceMut::new(&mut datagram)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let fd = self.socket.as_raw_fd();
            let came = match recvmsg::<SockaddrIn>(fd, &mut parts, Some(control), flags) {
                Ok(message) if message.bytes == QUESTION_BYTES => {
                    let from = message.address.map(|from| SocketAddr::V4(from.into()));
                    let mut stamps = message.cmsgs().into_iter().flatten();
                    let stamp = stamps.find_map(|control| match control {
                        ControlMessageOwned::ScmTimestampns(at) => Some(at),
                        _ => None,
                    });
                    (from == Some(self.target)).then(|| stamp.map_or_else(now, came_at))
                }
                Err(Errno::EAGAIN) => return,
                // Somebody else's datagram, or an error that belongs to one question.
                Ok(_) | Err(_) => None,
            };
            if let Some(came) = came
                && datagram[..8] == self.run.to_be_bytes()
            {
                heard(came);
            }
        }
    }
}

/// The kernel notes the time of day: what has passed since then is the same on either clock.
fn came_at(stamp: TimeSpec) -> Timestamp {
    let time_of_day = clock_gettime(ClockId::CLOCK_REALTIME).map_or(Duration::ZERO, Duration::from);
    now() - time_of_day.saturating_sub(Duration::from(stamp))
}

/// What was heard in the sample that is going on.
#[derive(Debug)]
struct Hearing {
    start: Timestamp,
    last: Timestamp,
    sent: u64,
    heard: u64,
    silences: Vec<Silence>,
    lateness: Duration,
}

impl Hearing {
    /// A VM that never answered is silent since the probe's start.
    const fn new(start: Timestamp) -> Self {
        let lateness = Duration::ZERO;
        Hearing { start, last: start, sent: 0, heard: 0, silences: Vec::new(), lateness }
    }

    fn sample_end(&self) -> Timestamp {
        self.start + SAMPLE_INTERVAL
    }

    fn heard(&mut self, at: Timestamp) {
        self.silences.extend(silence(self.last, at));
        self.last = self.last.max(at);
        self.heard += 1;
    }

    fn note_lateness(&mut self, lateness: Duration) {
        self.lateness = self.lateness.max(lateness);
    }

    /// Ends the sample. A silence that lasts is in it, and will be in the next, longer.
    fn sample(&mut self, end: Timestamp) -> ProbeSample {
        let mut silences = std::mem::take(&mut self.silences);
        silences.extend(silence(self.last, end));
        if self.lateness > SILENCE_MIN {
            event(&format!(
                "the probe itself was late by {:?}: a silence of that length may be its own",
                self.lateness
            ));
        }
        let sample =
            ProbeSample { start: self.start, end, sent: self.sent, heard: self.heard, silences };
        let silences = Vec::new();
        *self = Hearing { start: end, last: self.last, silences, ..Hearing::new(end) };
        sample
    }
}

fn silence(from: Timestamp, to: Timestamp) -> Option<Silence> {
    (to.since(from) > SILENCE_MIN).then_some(Silence { from, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_silence_is_reported_until_it_ends() {
        let mut hearing = Hearing::new(ms(0));
        for at in [5, 10, 41, 60] {
            hearing.heard(ms(at));
        }
        let sample = hearing.sample(ms(200));
        assert_eq!(sample.heard, 4);
        let silence = |from, to| Silence { from: ms(from), to: ms(to) };
        assert_eq!(sample.silences, [silence(10, 41), silence(60, 200)]);
        assert_eq!(hearing.sample(ms(400)).silences, [silence(60, 400)]);
        for at in [420, 420, 419, 590] {
            hearing.heard(ms(at));
        }
        let sample = hearing.sample(ms(600));
        assert_eq!((sample.start, sample.heard), (ms(400), 4));
        assert_eq!(sample.silences, [silence(60, 420), silence(420, 590)]);
    }

    #[test]
    fn questions_stay_on_their_grid_without_a_burst() {
        let next = |due, at| next_due(ms(due), ms(at), Duration::from_millis(2));
        assert_eq!(next(10, 10), ms(12));
        assert_eq!(next(10, 11), ms(12));
        assert_eq!(next(10, 12), ms(14));
        assert_eq!(next(10, 511), ms(512));
    }
}
