//! A memcached client that keeps its pace whatever the server does: requests are due at times that a schedule sets, nine of
//! ten are gets whose values are checked, and latencies count from those times, so that a request that had to wait for
//! others counts its wait too.
//!
//! One thread serves all connections. A connection outlives every silence that a moved VM comes back from; requests that
//! find too many others waiting, or no connection, have failed.

mod connection;
mod protocol;

use super::{
    SAMPLE_INTERVAL, event,
    log::SampleLog,
    now,
    pace::{Stop, go_first},
};
use connection::Connection;
use droveway_fleet::{log::ApplicationSample, units::Timestamp};
use nix::{
    errno::Errno,
    poll::{PollFd, ppoll},
    sys::time::TimeSpec,
};
use protocol::{KEYS, Kind, Values};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{collections::BTreeMap, io, net::SocketAddr, path::Path, time::Duration};

/// The TCP port of the guests' memcached.
pub(crate) const MEMCACHED_PORT: u16 = 11211;

/// Requests are due on this grid, several at once: waking for each would cost more than asking, and the CPUs belong to the
/// guests.
const PACE: Duration = Duration::from_millis(2);

/// One request of so many is a set.
const SET_EVERY: u32 = 10;

/// How often a connection that is being made is looked at.
const CONNECTING_LOOK: Duration = Duration::from_millis(20);

/// What was achieved in the sample that is going on.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    answered: u64,
    failed: u64,
    corrupt: u64,
    refused: Option<String>,
    latencies_us: BTreeMap<u64, u64>,
}

impl Tally {
    pub(crate) fn answered(&mut self, due: Timestamp, at: Timestamp) {
        self.answered += 1;
        let latency_us = u64::try_from(at.since(due).as_micros()).unwrap_or(u64::MAX);
        *self.latencies_us.entry(two_digits(latency_us)).or_default() += 1;
    }

    pub(crate) fn corrupt(&mut self) {
        self.corrupt += 1;
        self.failed += 1;
    }

    pub(crate) fn refused(&mut self, words: String) {
        self.failed += 1;
        self.refused = Some(words);
    }

    pub(crate) fn failed(&mut self, requests: u64) {
        self.failed += requests;
    }

    /// Ends the sample, and says what was wrong in it.
    fn sample(&mut self, start: Timestamp, end: Timestamp) -> ApplicationSample {
        let tally = std::mem::take(self);
        if tally.corrupt > 0 {
            event(&format!("memcached: {} values are corrupt", tally.corrupt));
        }
        if let Some(words) = tally.refused {
            event(&format!("memcached: {} requests failed, the last with '{words}'", tally.failed));
        }
        ApplicationSample {
            start,
            end,
            amount: tally.answered,
            failed: tally.failed,
            latencies_us: tally.latencies_us.into_iter().collect(),
        }
    }
}

/// Rounds to two significant digits.
fn two_digits(number: u64) -> u64 {
    let digits = number.max(1).ilog10() + 1;
    let unit = 10_u64.pow(digits.saturating_sub(2));
    number.saturating_add(unit / 2) / unit * unit
}

/// When requests are due: evenly, rounded up to the grid.
#[derive(Debug)]
struct Schedule {
    start: Timestamp,
    per_second: u64,
    next: u64,
}

impl Schedule {
    fn due(&self) -> Timestamp {
        let grid = Duration::from_secs(1).as_nanos() / PACE.as_nanos();
        let tick = (u128::from(self.next) * grid).div_ceil(u128::from(self.per_second));
        let after = tick.saturating_mul(PACE.as_nanos());
        self.start + Duration::from_nanos(u64::try_from(after).unwrap_or(u64::MAX))
    }
}

/// Asks until it is told to stop.
pub(crate) fn run(
    log: &Path,
    server: SocketAddr,
    requests_per_second: u32,
    connections: u32,
    stop: &Stop,
) -> io::Result<()> {
    go_first();
    let mut log = SampleLog::open(log)?;
    let values = Values::new();
    // More connections than keys would leave some without any.
    let count = connections.clamp(1, KEYS);
    let mut connections: Vec<Connection> =
        (0..count).map(|index| Connection::new(server, index, count)).collect();
    let mut choice = StdRng::seed_from_u64(0);
    let mut tally = Tally::default();
    let mut schedule: Option<Schedule> = None;
    let mut sample_start = now();
    loop {
        let at = now();
        let sample_end = sample_start + SAMPLE_INTERVAL;
        let stopping = stop.is_asked();
        if stopping || at >= sample_end {
            log.write(&tally.sample(sample_start, at));
            sample_start = at;
        }
        if stopping {
            return Ok(());
        }
        for connection in &mut connections {
            connection.advance(&values, &mut tally);
        }
        // The pace begins when all values are stored for the first time: filling is no request.
        if schedule.is_none() && connections.iter().all(Connection::is_filled) {
            let per_second = requests_per_second.max(1).into();
            schedule = Some(Schedule { start: at, per_second, next: 0 });
        }
        let mut wake = sample_start + SAMPLE_INTERVAL;
        if let Some(schedule) = &mut schedule {
            while schedule.due() <= at {
                let index = schedule.next % connections.len() as u64;
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "below the number of connections"
                )]
                let connection = &mut connections[index as usize];
                let key = connection.key(&mut choice);
                let set = choice.random_ratio(1, SET_EVERY);
                let kind = if set { Kind::Set(key) } else { Kind::Get(key) };
                connection.ask(kind, schedule.due(), &values, &mut tally);
                schedule.next += 1;
            }
            wake = wake.min(schedule.due());
        }
        for connection in &mut connections {
            connection.send(&mut tally);
        }
        if !connections.iter().all(Connection::is_up) {
            wake = wake.min(at + CONNECTING_LOOK);
        }
        wait(&connections, wake.since(now()))?;
    }
}

/// Waits until a connection has something to do, at most so long.
fn wait(connections: &[Connection], patience: Duration) -> io::Result<()> {
    let mut polled: Vec<PollFd> = connections.iter().filter_map(Connection::polled).collect();
    match ppoll(&mut polled, Some(TimeSpec::from_duration(patience)), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_keep_two_digits() {
        for (number, expected) in [
            (0, 0),
            (7, 7),
            (99, 99),
            (100, 100),
            (104, 100),
            (105, 110),
            (996, 1000),
            (12_345, 12_000),
            (4_224_000, 4_200_000),
        ] {
            assert_eq!(two_digits(number), expected, "{number}");
        }
        assert!(two_digits(u64::MAX) > 1 << 63);
    }

    #[test]
    fn requests_are_due_evenly() {
        let due_ms = |per_second, next| {
            Schedule { start: Timestamp::ZERO, per_second, next }.due().nanos() / 1_000_000
        };
        assert_eq!([0, 1, 2, 3, 4].map(|next| due_ms(2000, next)), [0, 2, 2, 2, 2]);
        assert_eq!([0, 1, 2, 3].map(|next| due_ms(300, next)), [0, 4, 8, 10]);
        assert_eq!(due_ms(2000, 2000 * 3600), 3_600_000);
    }
}
