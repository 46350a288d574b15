//! KubeVirt without stall detection: two timeouts, and on top of them, if asked for, downtime tuning (VEP 291).

use super::{LastResort, Sample, Step, millis};
use droveway_fleet::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// KubeVirt looks every 400 ms.
pub(super) const POLL_SECONDS: f64 = 0.4;

/// KubeVirt's `completionTimeoutPerGiB`, in seconds.
pub(super) const COMPLETION_PER_GIB_S: u32 = 150;

/// The same of newer releases.
const COMPLETION_PER_GIB_NEWER_S: u32 = 20;

/// KubeVirt's `progressTimeout`, in seconds.
const PROGRESS_S: u32 = 150;

/// VEP 291: the downtime limit at the start, in milliseconds.
const RAMP_INITIAL_MS: u32 = 150;

/// VEP 291: rises from the first limit to the last.
const RAMP_STEPS: u32 = 7;

/// VEP 291: the first pass in which the limit may rise.
const RAMP_FROM_PASS: u32 = 3;

/// VEP 291: seconds between two changes of the limit.
const RAMP_COOLDOWN_S: u32 = 10;

/// What KubeVirt takes for progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Progress {
    /// Less is left than ever before.
    NewMinimum,
    /// Less is left than at the poll before, as in newer releases: a stream that sends at all then makes progress.
    SincePoll,
}

/// KubeVirt's timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubevirtTimeouts {
    /// The VM's memory in GiB.
    pub size_gib: f64,
    /// Seconds until [`KubevirtTimeouts::then`], per GiB; 0 is never.
    pub completion_per_gib_s: u32,
    /// Seconds without progress until an abort; 0 is never.
    pub progress_s: u32,
    /// What progress is.
    pub progress: Progress,
    /// What happens when time is up: with `allowWorkloadDisruption` post-copy if that is allowed, else a pause that gives
    /// as much time again; without it an abort.
    pub then: LastResort,
}

impl KubevirtTimeouts {
    /// KubeVirt's defaults for a VM of that memory. It counts whole GiB, and rounds up.
    #[must_use]
    pub fn new(memory: Bytes, then: LastResort) -> Self {
        KubevirtTimeouts {
            size_gib: whole_gib(memory),
            completion_per_gib_s: COMPLETION_PER_GIB_S,
            progress_s: PROGRESS_S,
            progress: Progress::NewMinimum,
            then,
        }
    }

    /// With the defaults of newer releases.
    #[must_use]
    pub const fn newer(self) -> Self {
        KubevirtTimeouts {
            completion_per_gib_s: COMPLETION_PER_GIB_NEWER_S,
            progress: Progress::SincePoll,
            ..self
        }
    }
}

/// Memory in GiB, rounded up.
pub(super) fn whole_gib(memory: Bytes) -> f64 {
    (memory.as_f64() / f64::from(1 << 30)).ceil()
}

/// What the timeouts remember.
#[derive(Debug, Clone, Default)]
pub(super) struct TimeoutState {
    /// What is left has to fall below this to be progress, in bytes.
    mark_bytes: Option<f64>,
    /// When it last did, in seconds.
    progress_at: f64,
    /// The guest was paused to end the migration.
    paused: bool,
}

impl TimeoutState {
    pub(super) fn observe(&mut self, rule: &KubevirtTimeouts, sample: &Sample) -> Option<Step> {
        let elapsed = sample.elapsed_seconds;
        self.note_progress(rule.progress, sample);
        let patience = rule.size_gib * f64::from(rule.completion_per_gib_s);
        let patience = if self.paused { 2.0 * patience } else { patience };
        let is_late = patience > 0.0 && elapsed > patience;
        if is_late && !self.paused && rule.then != LastResort::Abort {
            self.paused = true;
            return Some(rule.then.step());
        }
        let is_stuck =
            rule.progress_s > 0 && elapsed - self.progress_at > f64::from(rule.progress_s);
        (is_stuck || is_late).then_some(Step::Abort)
    }

    fn note_progress(&mut self, progress: Progress, sample: &Sample) {
        let left = sample.remaining_bytes;
        // A mark of nothing left is none: it could never be undercut.
        let mark = self.mark_bytes.filter(|mark| *mark > 0.0);
        if mark.is_none_or(|mark| left < mark) {
            self.progress_at = sample.elapsed_seconds;
        }
        self.mark_bytes = Some(match progress {
            Progress::NewMinimum => mark.map_or(left, |mark| mark.min(left)),
            Progress::SincePoll => left,
        });
    }
}

/// KubeVirt's downtime tuning (VEP 291), beside the timeouts. It excludes stall detection.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubevirtRamp {
    /// The longest downtime limit, in milliseconds.
    pub max_ms: u32,
    /// The first downtime limit, in milliseconds; at most the longest.
    pub initial_ms: u32,
    /// Rises from the first to the last; 0 counts as 1.
    pub steps: u32,
    /// The first pass in which the limit may rise.
    pub from_pass: u32,
    /// Seconds between two changes of the limit.
    pub cooldown_s: u32,
    /// The timeouts, which end the migration.
    pub timeouts: KubevirtTimeouts,
}

impl KubevirtRamp {
    /// The defaults of VEP 291, up to a limit of `max_ms` milliseconds.
    #[must_use]
    pub const fn new(max_ms: u32, timeouts: KubevirtTimeouts) -> Self {
        KubevirtRamp {
            max_ms,
            initial_ms: RAMP_INITIAL_MS,
            steps: RAMP_STEPS,
            from_pass: RAMP_FROM_PASS,
            cooldown_s: RAMP_COOLDOWN_S,
            timeouts,
        }
    }

    pub(super) fn initial_limit(&self) -> Duration {
        millis(self.first_ms())
    }

    fn first_ms(&self) -> u32 {
        self.initial_ms.min(self.max_ms)
    }

    /// One rise, in whole milliseconds; at least one, so that the ramp gets to its end.
    fn rise_ms(&self) -> u32 {
        ((self.max_ms - self.first_ms()) / self.steps.max(1)).max(1)
    }
}

/// What the ramp remembers.
#[derive(Debug, Clone)]
pub(super) struct RampState {
    timeouts: TimeoutState,
    limit_ms: u32,
    /// When the limit last changed, in seconds; it was set at the start.
    changed_at: f64,
}

impl RampState {
    pub(super) fn new(rule: &KubevirtRamp) -> Self {
        RampState { timeouts: TimeoutState::default(), limit_ms: rule.first_ms(), changed_at: 0.0 }
    }

    pub(super) fn observe(&mut self, rule: &KubevirtRamp, sample: &Sample) -> Option<Step> {
        self.timeouts.observe(&rule.timeouts, sample).or_else(|| self.rise(rule, sample))
    }

    fn rise(&mut self, rule: &KubevirtRamp, sample: &Sample) -> Option<Step> {
        let waited = sample.elapsed_seconds - self.changed_at;
        let is_due = sample.passes >= rule.from_pass && waited >= f64::from(rule.cooldown_s);
        let risen = self.limit_ms.saturating_add(rule.rise_ms()).min(rule.max_ms);
        if !is_due || risen <= self.limit_ms {
            return None;
        }
        self.limit_ms = risen;
        self.changed_at = sample.elapsed_seconds;
        Some(Step::DowntimeLimit(millis(risen)))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Ladder,
            testing::{limit, poll, steps},
        },
        *,
    };

    fn timeouts(gib: u64, then: LastResort) -> KubevirtTimeouts {
        KubevirtTimeouts::new(Bytes::from_mib(gib << 10), then)
    }

    /// Polls every second whose remainder is `remaining(second)`.
    fn run(ladder: &Ladder, seconds: u32, remaining: impl Fn(u32) -> f64) -> Vec<(f64, Step)> {
        let samples = (0..=seconds).map(|second| Sample {
            passes: 5,
            remaining_bytes: remaining(second),
            ..poll(f64::from(second))
        });
        steps(ladder, samples)
    }

    fn falling(second: u32) -> f64 {
        1e6 - f64::from(second)
    }

    #[test]
    fn time_is_up_per_gib() {
        let check = |then, expected: &[(f64, Step)]| {
            let ladder = Ladder::KubevirtLike(timeouts(2, then));
            assert_eq!(run(&ladder, 1000, falling), expected);
        };
        check(LastResort::Abort, &[(301.0, Step::Abort)]);
        check(LastResort::PostCopy, &[(301.0, Step::PostCopy)]);
        // The pause doubles the time.
        check(LastResort::ForceStop, &[(301.0, Step::ForceStop), (601.0, Step::Abort)]);
    }

    #[test]
    fn no_progress_ends_in_an_abort_even_where_disruption_is_allowed() {
        for then in [LastResort::Abort, LastResort::PostCopy, LastResort::ForceStop] {
            let ladder = Ladder::KubevirtLike(timeouts(8, then));
            assert_eq!(run(&ladder, 400, |_| 5e5), [(151.0, Step::Abort)]);
            // Late, but before the timeout: the first sample is progress, whenever it comes.
            assert_eq!(steps(&ladder, [poll(200.0), poll(350.0)]), []);
        }
    }

    /// A remainder that goes up and down without end.
    #[test]
    fn what_counts_as_progress_differs_by_release() {
        let saw = |second: u32| f64::from(second % 10 + 1);
        let old = timeouts(8, LastResort::Abort);
        let new = KubevirtTimeouts { progress: Progress::SincePoll, ..old };
        assert_eq!(run(&Ladder::KubevirtLike(old), 1300, saw), [(151.0, Step::Abort)]);
        assert_eq!(run(&Ladder::KubevirtLike(new), 1300, saw), [(1201.0, Step::Abort)]);
    }

    #[test]
    fn zero_switches_a_timeout_off() {
        let off = KubevirtTimeouts { progress_s: 0, ..timeouts(0, LastResort::PostCopy) };
        assert_eq!(run(&Ladder::KubevirtLike(off), 5000, |_| 5e5), []);
        // Nothing left is no mark to undercut.
        let ladder = Ladder::KubevirtLike(timeouts(8, LastResort::Abort));
        assert_eq!(run(&ladder, 1000, |_| 0.0), []);
    }

    #[test]
    fn a_late_first_sample_is_late() {
        let ladder = Ladder::KubevirtLike(timeouts(1, LastResort::PostCopy));
        assert_eq!(steps(&ladder, [poll(5000.0)]), [(5000.0, Step::PostCopy)]);
    }

    #[test]
    fn sizes_are_whole_gib_rounded_up() {
        let sizes = [0, 1, 512, 1024, 1025].map(|mib| whole_gib(Bytes::from_mib(mib)));
        assert_eq!(sizes.as_slice(), [0.0, 1.0, 1.0, 1.0, 2.0]);
    }

    #[test]
    fn ramp_to_1050() {
        let rule = KubevirtRamp::new(1050, timeouts(8, LastResort::Abort));
        assert_eq!(rule.initial_limit(), Duration::from_millis(150));
        let expected: Vec<_> = [278, 406, 534, 662, 790, 918, 1046, 1050]
            .into_iter()
            .zip(1u32..)
            .map(|(ms, tens)| (f64::from(tens * 10), limit(ms)))
            .collect();
        assert_eq!(run(&Ladder::KubevirtRamp(rule), 140, falling), expected);
    }

    #[test]
    fn ramp_waits_for_the_third_pass() {
        let ladder = Ladder::KubevirtRamp(KubevirtRamp::new(1050, timeouts(8, LastResort::Abort)));
        let at = |seconds, passes| Sample { passes, ..poll(seconds) };
        let samples = [at(20.0, 1), at(40.0, 2), at(41.0, 3), at(42.0, 4), at(51.0, 5)];
        assert_eq!(steps(&ladder, samples), [(41.0, limit(278)), (51.0, limit(406))]);
    }

    #[test]
    fn ramp_keeps_the_timeouts() {
        let rule = KubevirtRamp::new(160, timeouts(1, LastResort::PostCopy));
        let taken = run(&Ladder::KubevirtRamp(rule), 300, falling);
        assert_eq!(taken.len(), 11);
        assert_eq!(taken[0], (10.0, limit(151)));
        assert_eq!(taken[10], (151.0, Step::PostCopy));
    }

    #[test]
    fn ramp_without_room_stays() {
        let rule = KubevirtRamp::new(100, timeouts(8, LastResort::Abort));
        assert_eq!(rule.initial_limit(), Duration::from_millis(100));
        assert_eq!(run(&Ladder::KubevirtRamp(rule), 140, falling), []);
        let single = KubevirtRamp { steps: 0, ..KubevirtRamp::new(400, rule.timeouts) };
        assert_eq!(run(&Ladder::KubevirtRamp(single), 140, falling), [(10.0, limit(400))]);
    }
}
