//! Turns figures that arrive now and then into samples that cover time without gaps.

use super::{event, log::SampleLog, now, pace::Stop};
use droveway_fleet::{log::ApplicationSample, units::Timestamp};
use std::{io, path::Path, thread, time::Duration};

/// So many intervals without a figure are written as nothing done. One late line is no news: its amount covers the time.
const QUIET_INTERVALS: u32 = 2;

/// How often a pause looks whether it has to end.
const LOOK: Duration = Duration::from_millis(100);

/// The samples of one application. Its figures have no times of their own: a guest's clock stands while the guest does, so
/// a figure covers the time from the sample before to its arrival.
#[derive(Debug)]
pub(crate) struct Meter {
    log: SampleLog,
    interval: Duration,
    covered: Timestamp,
}

impl Meter {
    /// A meter whose figures are expected once per interval.
    pub(crate) fn open(path: &Path, interval: Duration) -> io::Result<Self> {
        Ok(Meter { log: SampleLog::open(path)?, interval, covered: now() })
    }

    /// So much was done since the sample before.
    pub(crate) fn record(&mut self, at: Timestamp, amount: u64) {
        self.log.write(&sample(self.covered, at, amount));
        self.covered = at;
    }

    /// Nothing was heard until now.
    pub(crate) fn quiet(&mut self, at: Timestamp) {
        if at.since(self.covered) > self.interval * QUIET_INTERVALS {
            self.record(at, 0);
        }
    }

    /// The longest wait for a figure after which [`Meter::quiet`] or [`Stop`] must be looked at.
    pub(crate) fn patience(&self) -> Duration {
        self.interval.min(super::SAMPLE_INTERVAL)
    }

    /// Says what went wrong, then waits without forgetting the samples.
    pub(crate) fn pause(&mut self, what: &str, wait: Duration, stop: &Stop) {
        if stop.is_asked() {
            return;
        }
        event(&format!("{what}; trying again in {wait:?}"));
        let until = now() + wait;
        while now() < until && !stop.is_asked() {
            thread::sleep(until.since(now()).min(LOOK));
            self.quiet(now());
        }
    }
}

fn sample(start: Timestamp, end: Timestamp, amount: u64) -> ApplicationSample {
    ApplicationSample { start, end, amount, failed: 0, latencies_us: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::read_log;

    #[test]
    fn silence_is_written_as_nothing_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let mut meter = Meter::open(&path, Duration::from_millis(200)).unwrap();
        let start = meter.covered;
        let after = |ms| start + Duration::from_millis(ms);
        meter.record(after(200), 7);
        meter.quiet(after(500));
        meter.quiet(after(601));
        meter.record(after(800), 9);
        let samples: Vec<ApplicationSample> = read_log(&path).unwrap();
        let expected = [
            sample(start, after(200), 7),
            sample(after(200), after(601), 0),
            sample(after(601), after(800), 9),
        ];
        assert_eq!(samples, expected);
    }
}
