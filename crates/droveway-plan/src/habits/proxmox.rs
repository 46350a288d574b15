//! Proxmox VE: the downtime limit doubles each time that the remainder has risen often enough.

use super::{Pace, QEMU_DOWNTIME_MAX_MS, Sample, Step, millis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Proxmox VE looks every second,
const POLL_SECONDS: f64 = 1.0;

/// and ten times as often once a poll's worth of bytes is left.
const POLL_NEAR_END_SECONDS: f64 = 0.1;

/// Proxmox VE's `migrate_downtime`, in milliseconds.
const INITIAL_MS: u32 = 100;

/// Proxmox VE: rises of the remainder that it lets pass.
const RISES_BORNE: u32 = 5;

/// Proxmox VE's rule. There is no last resort: the limit rises until the guest stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proxmox {
    /// The downtime limit at the start, in milliseconds.
    pub initial_ms: u32,
    /// So many polls may find more left than the one before, or nothing left; the next doubles the limit.
    pub rises_borne: u32,
    /// The longest downtime limit, in milliseconds.
    pub max_ms: u32,
}

impl Default for Proxmox {
    /// Proxmox VE's defaults.
    fn default() -> Self {
        Proxmox { initial_ms: INITIAL_MS, rises_borne: RISES_BORNE, max_ms: QEMU_DOWNTIME_MAX_MS }
    }
}

/// What Proxmox VE's rule remembers.
#[derive(Debug, Clone)]
pub(super) struct ProxmoxState {
    pace: Pace,
    poll_seconds: f64,
    polls: u32,
    transferred_bytes: f64,
    remaining_bytes: Option<f64>,
    rises: u32,
    limit_ms: u32,
}

impl ProxmoxState {
    pub(super) fn new(rule: &Proxmox) -> Self {
        ProxmoxState {
            pace: Pace::default(),
            poll_seconds: POLL_SECONDS,
            polls: 0,
            transferred_bytes: 0.0,
            remaining_bytes: None,
            rises: 0,
            limit_ms: rule.initial_ms,
        }
    }

    pub(super) const fn poll_seconds(&self) -> f64 {
        self.poll_seconds
    }

    pub(super) fn observe(&mut self, rule: &Proxmox, sample: &Sample) -> Option<Step> {
        if !self.pace.is_poll(self.poll_seconds, sample.elapsed_seconds) {
            return None;
        }
        self.polls = self.polls.saturating_add(1);
        let before = self.transferred_bytes;
        self.transferred_bytes = sample.transferred_bytes;
        if sample.transferred_bytes <= before {
            return None;
        }
        if sample.remaining_bytes < before / f64::from(self.polls) {
            self.poll_seconds = POLL_NEAR_END_SECONDS;
        }
        if self.has_risen(sample.remaining_bytes) {
            self.rises += 1;
        }
        if self.rises <= rule.rises_borne { None } else { self.double(rule) }
    }

    /// Whether more is left than at the poll before, or nothing. After a poll that found nothing left, none is a rise.
    fn has_risen(&mut self, remaining: f64) -> bool {
        let before = self.remaining_bytes.replace(remaining);
        remaining <= 0.0 || before.is_some_and(|before| before > 0.0 && remaining > before)
    }

    fn double(&mut self, rule: &Proxmox) -> Option<Step> {
        self.rises = 0;
        let doubled = self.limit_ms.saturating_mul(2).min(rule.max_ms);
        if doubled <= self.limit_ms {
            return None;
        }
        self.limit_ms = doubled;
        Some(Step::DowntimeLimit(millis(doubled)))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Ladder, LadderState,
            testing::{limit, poll, steps},
        },
        *,
    };

    /// Polls at 0, 1, .. seconds that find so much left, and 100 more bytes sent each time.
    fn polls(remaining: impl IntoIterator<Item = f64>) -> impl Iterator<Item = Sample> {
        remaining.into_iter().zip(0u32..).map(|(remaining_bytes, index)| Sample {
            remaining_bytes,
            transferred_bytes: f64::from(index + 1) * 100.0,
            ..poll(f64::from(index))
        })
    }

    fn run(rule: Proxmox, remaining: impl IntoIterator<Item = f64>) -> Vec<(f64, Step)> {
        steps(&Ladder::Proxmox(rule), polls(remaining))
    }

    #[test]
    fn doubles_after_six_rises() {
        let head = [900.0, 700.0, 500.0, 300.0, 120.0];
        let remaining = head.into_iter().chain([60.0, 80.0].repeat(12));
        let expected = [(16.0, limit(200)), (28.0, limit(400))];
        assert_eq!(run(Proxmox::default(), remaining), expected);
    }

    #[test]
    fn nothing_left_counts_as_a_rise() {
        assert_eq!(run(Proxmox::default(), [0.0; 6]), [(5.0, limit(200))]);
        // What comes after nothing is none.
        let expected = [(10.0, limit(200))];
        assert_eq!(run(Proxmox::default(), [0.0, 50.0].repeat(6)), expected);
    }

    #[test]
    fn the_limit_ends_at_the_longest() {
        let rule = Proxmox { rises_borne: 0, ..Proxmox::default() };
        let taken = run(rule, [0.0; 40]);
        assert_eq!(taken.len(), 15);
        assert_eq!(taken[13], (13.0, limit(1_638_400)));
        assert_eq!(taken[14], (14.0, limit(2_000_000)));
    }

    #[test]
    fn a_falling_remainder_and_a_silent_stream_change_nothing() {
        assert_eq!(run(Proxmox::default(), (0..100).map(|i| f64::from(1000 - i))), []);
        let silent = polls([60.0, 80.0].repeat(50));
        let silent = silent.map(|sample| Sample { transferred_bytes: 100.0, ..sample });
        assert_eq!(steps(&Ladder::Proxmox(Proxmox::default()), silent), []);
    }

    #[test]
    fn looks_more_often_near_the_end() {
        let ladder = Ladder::Proxmox(Proxmox::default());
        let mut state = LadderState::new(&ladder);
        let mut periods = Vec::new();
        for sample in polls([900.0, 500.0, 100.0, 60.0, 900.0]) {
            state.observe(&ladder, &sample);
            periods.push(state.poll_every());
        }
        // The mean of the fourth poll is 300 bytes by then over four polls; the habit stays.
        assert_eq!(periods, [1.0, 1.0, 1.0, 0.1, 0.1]);
    }
}
