//! OpenStack Nova: the downtime limit climbs in equal steps, each after a time that grows with the VM.

use super::{LastResort, Sample, Step};
use droveway_fleet::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Nova looks every half second.
pub(super) const POLL_SECONDS: f64 = 0.5;

/// Nova's `live_migration_downtime`, in milliseconds: where the ladder ends.
const LIMIT_MS: u32 = 500;

/// Nova's `live_migration_downtime_steps`.
const STEPS: u32 = 10;

/// Nova's `live_migration_downtime_delay`: seconds between two steps, per GB.
const DELAY_PER_GB_S: u32 = 75;

/// Nova's `live_migration_completion_timeout`: seconds until it acts, per GB.
const TIMEOUT_PER_GB_S: u32 = 800;

/// Nova counts no VM as smaller than this many GB.
const SIZE_GB_MIN: f64 = 2.0;

/// Nova's rule. Its "GB" are 2^30 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Nova {
    /// The VM's memory in GB; counts as at least 2.
    pub size_gb: f64,
    /// The last downtime limit, in milliseconds.
    pub limit_ms: u32,
    /// Steps from the first limit to the last; 0 counts as 1.
    pub steps: u32,
    /// Seconds between two steps, per GB.
    pub delay_per_gb_s: u32,
    /// Seconds until [`Nova::then`], per GB; 0 is never.
    pub timeout_per_gb_s: u32,
    /// What happens then: Nova's `live_migration_timeout_action`, abort or force-complete, which is post-copy where that is
    /// permitted and else a pause.
    pub then: LastResort,
}

impl Nova {
    /// Nova's defaults for a VM of that memory.
    #[must_use]
    pub fn new(memory: Bytes, then: LastResort) -> Self {
        Nova {
            size_gb: memory.as_f64() / f64::from(1 << 30),
            limit_ms: LIMIT_MS,
            steps: STEPS,
            delay_per_gb_s: DELAY_PER_GB_S,
            timeout_per_gb_s: TIMEOUT_PER_GB_S,
            then,
        }
    }

    pub(super) fn initial_limit(&self) -> Duration {
        self.limit_after(0)
    }

    /// Whole seconds that so many seconds per GB are for this VM.
    fn seconds(&self, per_gb: u32) -> f64 {
        (f64::from(per_gb) * self.size_gb.max(SIZE_GB_MIN)).floor()
    }

    /// Steps taken after so many seconds.
    #[expect(clippy::cast_possible_truncation, reason = "at most `steps`; below 0 it saturates")]
    fn steps_by(&self, elapsed: f64) -> u32 {
        let delay = self.seconds(self.delay_per_gb_s);
        // Without a delay this divides by zero: all steps are due, as they should be.
        (elapsed / delay).min(f64::from(self.steps)) as u32
    }

    /// `floor(base + offset * step)` with `base = limit / steps` and `offset = (limit - base) / steps`, in whole numbers.
    fn limit_after(&self, step: u32) -> Duration {
        let (limit, steps) = (u128::from(self.limit_ms), u128::from(self.steps.max(1)));
        let ms = limit * (steps + (steps - 1) * u128::from(step)) / (steps * steps);
        Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
    }
}

/// What Nova's rule remembers.
#[derive(Debug, Clone)]
pub(super) struct NovaState {
    limit: Duration,
    timed_out: bool,
}

impl NovaState {
    pub(super) fn new(rule: &Nova) -> Self {
        NovaState { limit: rule.initial_limit(), timed_out: false }
    }

    pub(super) fn observe(&mut self, rule: &Nova, sample: &Sample) -> Option<Step> {
        if self.timed_out {
            return None;
        }
        let timeout = rule.seconds(rule.timeout_per_gb_s);
        if timeout > 0.0 && sample.elapsed_seconds >= timeout {
            self.timed_out = true;
            return Some(rule.then.step());
        }
        let limit = rule.limit_after(rule.steps_by(sample.elapsed_seconds));
        if limit == self.limit {
            return None;
        }
        self.limit = limit;
        Some(Step::DowntimeLimit(limit))
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

    fn nova(gib: u64, then: LastResort) -> Nova {
        Nova::new(Bytes::from_mib(gib << 10), then)
    }

    fn run(rule: Nova, until: u32) -> Vec<(f64, Step)> {
        steps(&Ladder::Nova(rule), (0..=until * 2).map(|i| poll(f64::from(i) * POLL_SECONDS)))
    }

    #[test]
    fn ladder_of_8_gb() {
        let rule = nova(8, LastResort::Abort);
        assert_eq!(rule.initial_limit(), Duration::from_millis(50));
        let expected = [
            (600.0, limit(95)),
            (1200.0, limit(140)),
            (1800.0, limit(185)),
            (2400.0, limit(230)),
            (3000.0, limit(275)),
            (3600.0, limit(320)),
            (4200.0, limit(365)),
            (4800.0, limit(410)),
            (5400.0, limit(455)),
            (6000.0, limit(500)),
            (6400.0, Step::Abort),
        ];
        assert_eq!(run(rule, 7000), expected);
    }

    /// The example in Nova's own documentation: 3 GB, 400 ms, 30 s per GB.
    #[test]
    fn ladder_of_novas_documentation() {
        let rule = Nova { limit_ms: 400, delay_per_gb_s: 30, ..nova(3, LastResort::Abort) };
        assert_eq!(rule.initial_limit(), Duration::from_millis(40));
        let rises = [76, 112, 148, 184, 220, 256, 292, 328, 364, 400];
        let taken: Vec<_> = run(rule, 1000).into_iter().map(|(_, step)| step).collect();
        assert_eq!(taken, rises.map(limit));
    }

    #[test]
    fn force_complete_comes_once() {
        for (then, step) in
            [(LastResort::PostCopy, Step::PostCopy), (LastResort::ForceStop, Step::ForceStop)]
        {
            let taken = run(nova(2, then), 3000);
            assert_eq!(taken.last(), Some(&(1600.0, step)));
            assert_eq!(taken.len(), 11);
        }
    }

    #[test]
    fn a_late_first_sample_skips_steps() {
        let ladder = Ladder::Nova(nova(8, LastResort::Abort));
        assert_eq!(steps(&ladder, [poll(2500.0)]), [(2500.0, limit(230))]);
        assert_eq!(steps(&ladder, [poll(9000.0), poll(9001.0)]), [(9000.0, Step::Abort)]);
    }

    #[test]
    fn zeros_are_harmless() {
        // A VM without memory counts as 2 GB.
        assert_eq!(run(nova(0, LastResort::Abort), 2000).last(), Some(&(1600.0, Step::Abort)));
        let bare =
            Nova { steps: 0, delay_per_gb_s: 0, timeout_per_gb_s: 0, ..nova(2, LastResort::Abort) };
        assert_eq!(bare.initial_limit(), Duration::from_millis(500));
        assert_eq!(run(bare, 2000), []);
        // Without a delay all steps are due at once.
        let hasty = Nova { delay_per_gb_s: 0, ..nova(2, LastResort::Abort) };
        assert_eq!(run(hasty, 10), [(0.0, limit(500))]);
    }
}
