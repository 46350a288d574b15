//! Whether the path between the hosts has become worse: round trips and what has to be sent again, of the streams' connections.
//!
//! All moves of a plan go the same way, so what any of their connections shows counts for all. Round trips are compared with those
//! of the run's own first seconds: a stream fills its queue, so an idle path's say nothing. A path counts as degraded once it was
//! worse for [`PERSISTS`], and as well again once it was nearly as before for [`RECOVERS`]; between the two thresholds nothing
//! changes, so that it does not oscillate.

use droveway_fleet::{Timestamp, VmId};
use droveway_plan::replan::Degraded;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// What the kernel says of a stream's connection at its source. Counts are of the whole connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathSample {
    /// The smoothed round trip.
    pub round_trip: Duration,
    /// Segments with payload, also those sent again.
    pub segments: u64,
    /// Those sent again.
    pub sent_again: u64,
}

/// What is looked at together: TCP's smoothing takes some round trips, and losses come in bursts.
const WINDOW: Duration = Duration::from_secs(2);
/// Samples that a window holds at most: ten looks a second of 32 streams; more streams are looked at as well by the latest.
const SAMPLES_MAX: usize = 640;
/// So many samples are no chance.
const SAMPLES_LEAST: usize = 4;
/// The run's own first seconds tell what is usual.
const USUAL: Duration = Duration::from_secs(2);
/// A path was worse for so long: a burst of cross traffic lasts less.
const PERSISTS: Duration = Duration::from_secs(2);
/// A path was nearly as before for so long.
const RECOVERS: Duration = Duration::from_secs(4);
/// Round trips that are so many times the usual ones, and longer by `LONGER`, are worse. Under its own load a stream's vary
/// by half (3 to 5 ms, measured); behind another's queue they are ten to a hundred times as long (50 to 300 ms, measured).
const WORSE_TIMES: u32 = 4;
const LONGER: Duration = Duration::from_millis(20);
/// Those that are at most so many times the usual ones, or longer by no more than half of `LONGER`, are as before.
const WELL_TIMES: u32 = 2;
/// A path that loses such a share of segments is worse: 0.1 % costs nothing to speak of, 1 % shows (measured).
const LOSSY: f64 = 0.02;
/// One that loses less than this is well.
const LOSSLESS: f64 = 0.005;
/// A share of fewer segments says nothing.
const SEGMENTS_LEAST: u64 = 200;

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Timestamp,
    round_trip: Duration,
    segments: u64,
    sent_again: u64,
}

/// What is known of the path.
#[derive(Debug, Default)]
pub(super) struct PathWatch {
    /// What each connection said last.
    last: BTreeMap<VmId, PathSample>,
    window: VecDeque<Seen>,
    began: Option<Timestamp>,
    usual: Option<Duration>,
    /// Since when it has looked other than it counts.
    since: Option<Timestamp>,
    degraded: Option<Degraded>,
}

impl PathWatch {
    /// What counts now.
    pub(super) const fn degraded(&self) -> Option<Degraded> {
        self.degraded
    }

    /// Takes a sample; says what is news, in words.
    pub(super) fn observe(
        &mut self,
        at: Timestamp,
        vm: &VmId,
        sample: PathSample,
    ) -> Option<String> {
        let before = self.last.insert(vm.clone(), sample);
        // A new connection counts from nothing.
        let since = |now: u64, of: fn(&PathSample) -> u64| {
            before.as_ref().and_then(|before| now.checked_sub(of(before))).unwrap_or(0)
        };
        let seen = Seen {
            at,
            round_trip: sample.round_trip,
            segments: since(sample.segments, |it| it.segments),
            sent_again: since(sample.sent_again, |it| it.sent_again),
        };
        self.window.push_back(seen);
        while self.window.front().is_some_and(|old| old.at + WINDOW < at)
            || self.window.len() > SAMPLES_MAX
        {
            self.window.pop_front();
        }
        let began = *self.began.get_or_insert(at);
        if self.window.len() < SAMPLES_LEAST {
            return None;
        }
        let round_trip = self.median();
        if at < began + USUAL || self.usual.is_none() {
            // Before a stream has filled its queue round trips are shorter than they will be.
            self.usual = Some(self.usual.map_or(round_trip, |usual| usual.max(round_trip)));
            return None;
        }
        self.judge(at, round_trip)
    }

    fn judge(&mut self, at: Timestamp, round_trip: Duration) -> Option<String> {
        let usual = self.usual?;
        let longer = round_trip.saturating_sub(usual);
        let lost = self.sent_again();
        let is_long = round_trip > usual * WORSE_TIMES && longer > LONGER;
        let is_lossy = lost > LOSSY;
        let is_short = round_trip < usual * WELL_TIMES || longer < LONGER / 2;
        let other = match self.degraded {
            None => is_long || is_lossy,
            Some(_) => is_short && lost < LOSSLESS,
        };
        if !other {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert(at);
        let persists = if self.degraded.is_none() { PERSISTS } else { RECOVERS };
        if at < since + persists {
            return None;
        }
        self.since = None;
        if self.degraded.take().is_some() {
            return Some("round trips and losses are as before".to_owned());
        }
        let degraded = Degraded { round_trip: longer, sent_again: lost };
        self.degraded = Some(degraded);
        Some(degraded.to_string())
    }

    fn median(&self) -> Duration {
        let mut all: Vec<Duration> = self.window.iter().map(|seen| seen.round_trip).collect();
        let middle = all.len() / 2;
        *all.select_nth_unstable(middle).1
    }

    /// The share of segments that were sent again.
    fn sent_again(&self) -> f64 {
        let segments: u64 = self.window.iter().map(|seen| seen.segments).sum();
        let again: u64 = self.window.iter().map(|seen| seen.sent_again).sum();
        #[expect(clippy::cast_precision_loss, reason = "segments of two seconds")]
        if segments < SEGMENTS_LEAST { 0.0 } else { again as f64 / segments as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds samples every 200 ms; by second: the round trip in ms, and of a thousand segments those sent again.
    fn watched(seconds: &[(u64, u64)]) -> Vec<(f64, String)> {
        let mut watch = PathWatch::default();
        let vm: VmId = "vm".parse().unwrap();
        let (mut segments, mut sent_again, mut news) = (0, 0, Vec::new());
        for (second, (round_trip, lost)) in seconds.iter().enumerate() {
            for fifth in 0..5 {
                segments += 1_000;
                sent_again += lost;
                let at = Timestamp::from_millis(second as u64 * 1_000 + fifth * 200);
                let round_trip = Duration::from_millis(*round_trip);
                let sample = PathSample { round_trip, segments, sent_again };
                news.extend(watch.observe(at, &vm, sample).map(|text| (at.seconds(), text)));
            }
        }
        news
    }

    #[test]
    fn a_path_that_varies_as_paths_do_is_no_news() {
        let varies = [(3, 0), (5, 1), (4, 2), (8, 0), (3, 5), (12, 1), (4, 0), (30, 0), (4, 0)];
        assert_eq!(watched(&varies.repeat(5)), []);
    }

    #[test]
    fn longer_round_trips_and_losses_are_told_once_and_their_end_too() {
        let mut seconds = vec![(4, 0); 6];
        seconds.extend([(60, 0); 10]);
        seconds.extend([(5, 0); 10]);
        let news = watched(&seconds);
        assert_eq!(news.len(), 2, "{news:?}");
        assert!((8.0..11.0).contains(&news[0].0) && news[0].1.contains("56 ms longer"), "{news:?}");
        assert!((20.0..24.0).contains(&news[1].0) && news[1].1.ends_with("as before"), "{news:?}");
        let mut lossy = vec![(4, 0); 6];
        lossy.extend([(4, 40); 10]);
        let news = watched(&lossy);
        assert_eq!(news.len(), 1, "{news:?}");
        assert!(news[0].1.contains("% of segments sent again"), "{news:?}");
    }

    #[test]
    fn what_lies_between_the_thresholds_changes_nothing() {
        let mut seconds = vec![(10, 0); 6];
        seconds.extend([(80, 0); 8]);
        // Better, but not as before: it stays degraded, and does not flap.
        seconds.extend([(35, 0), (80, 0), (30, 0), (45, 0)].repeat(5));
        assert_eq!(watched(&seconds).len(), 1);
    }

    #[test]
    fn a_new_connection_s_counters_are_no_losses() {
        let mut watch = PathWatch::default();
        let vm: VmId = "vm".parse().unwrap();
        let sample = |segments, sent_again| PathSample {
            round_trip: Duration::from_millis(4),
            segments,
            sent_again,
        };
        for step in 0_u64..40 {
            let at = Timestamp::from_millis(step * 200);
            // Every five looks the connection is another, whose counts begin anew.
            let news = watch.observe(at, &vm, sample((step % 5 + 1) * 500, step % 5));
            assert_eq!(news, None);
        }
        assert!(watch.window.len() <= 11);
    }

    proptest! {
        /// Whatever a path does, it is told at most once in two seconds, degraded and well by turns.
        #[test]
        fn news_are_bounded(
            seconds in proptest::collection::vec((1_u64..300, 0_u64..60), 1..60),
        ) {
            let news = watched(&seconds);
            for pair in news.windows(2) {
                prop_assert!(pair[1].0 - pair[0].0 >= 2.0, "{news:?}");
                let well = |text: &str| text.ends_with("as before");
                prop_assert!(well(&pair[0].1) != well(&pair[1].1), "{news:?}");
            }
        }
    }
}
