//! What products do with a migration while it runs: wait, raise the downtime limit, switch to post-copy, stop the guest,
//! give up. A [`Ladder`] is such a rule as plain data; [`LadderState`] is its memory of one attempt. A driver asks the rule
//! at every [`LadderState::poll_every`] and at the end of every pass, and does what [`LadderState::observe`] answers. How
//! many VMs a product moves at once, and with which ceiling per stream, is in [`Product`].
//!
//! The rules were read from the products' sources and design documents (algorithms reference, section 5.6). They are the
//! baselines of comparisons: where a habit looks odd, it is the product's.
//!
//! Not here: auto-converge and compression, which QEMU does by itself once switched on, and what happens after post-copy
//! has begun. From then on a ladder is silent, because the only way is forward.

mod admission;
mod clark;
mod kubevirt;
mod nova;
mod ovirt;
mod policy;
mod proxmox;
mod stall;

pub use admission::{
    KUBEVIRT_PER_CLUSTER, KUBEVIRT_PER_SOURCE, KUBEVIRT_PER_SOURCE_OPERATOR, KubevirtRank,
    OVIRT_HOST_CAP, PROXMOX_HA_WORKERS, PROXMOX_WORKERS, Product, kubevirt_order,
};
pub use clark::Clark;
pub use kubevirt::{KubevirtRamp, KubevirtTimeouts, Progress};
pub use nova::Nova;
pub use ovirt::{Ovirt, OvirtAction};
pub use policy::{Habit, OvirtPolicy, ProductSettings};
pub use proxmox::Proxmox;
pub use stall::KubevirtStall;

use clark::ClarkState;
use droveway_fleet::Bandwidth;
use kubevirt::{RampState, TimeoutState};
use nova::NovaState;
use ovirt::OvirtState;
use proxmox::ProxmoxState;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stall::StallState;
use std::time::Duration;

/// QEMU's downtime limit when nobody sets one, in milliseconds.
const QEMU_DOWNTIME_DEFAULT_MS: u32 = 300;

/// The longest downtime limit that QEMU takes, in milliseconds: 2000 s. Any remainder meets it, so it forces the stop.
const QEMU_DOWNTIME_MAX_MS: u32 = 2_000_000;

/// Seconds between polls of a rule that never acts. Not published; ours: finite, so that it can be a timer's period.
const FIXED_POLL_SECONDS: f64 = 1.0;

/// A sample that comes after less than this share of the poll's period is no poll. Not published; ours: it lets timers be
/// a little early, and keeps the ends of passes from counting as polls.
const POLL_EARLIEST: f64 = 0.8;

/// What a product does with a running pre-copy migration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "rule", rename_all = "camelCase")]
pub enum Ladder {
    /// Nothing changes: virsh, vSphere.
    Fixed,
    /// OpenStack Nova: the limit rises with time.
    Nova(Nova),
    /// oVirt: the limit rises with passes.
    Ovirt(Ovirt),
    /// Proxmox VE: the limit doubles when the remainder keeps rising.
    Proxmox(Proxmox),
    /// KubeVirt: timeouts only.
    KubevirtLike(KubevirtTimeouts),
    /// KubeVirt with stall detection (VEP 248).
    KubevirtStall(KubevirtStall),
    /// KubeVirt with downtime tuning (VEP 291).
    KubevirtRamp(KubevirtRamp),
    /// Clark's rates: each pass a little faster than the last was dirtied.
    Clark(Clark),
}

/// What a product does when it has lost its patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LastResort {
    /// Gives up; the VM stays at the source.
    Abort,
    /// Switches to post-copy.
    PostCopy,
    /// Stops the guest until the rest has been copied.
    ForceStop,
}

/// What is seen of a migration at one moment of its pre-copy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Seconds since the migration began.
    pub elapsed_seconds: f64,
    /// Passes so far, the running one included (QEMU's `dirty-sync-count`).
    pub passes: u32,
    /// True when the sample was taken because a pass ended (QEMU's `MIGRATION_PASS`); false for a poll.
    pub at_pass_boundary: bool,
    /// Bytes known to be left.
    pub remaining_bytes: f64,
    /// Bytes sent so far.
    pub transferred_bytes: f64,
    /// Bytes per second that the stream sends now.
    pub rate_bytes_per_second: f64,
}

/// What a ladder asks the driver to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Set the downtime limit.
    DowntimeLimit(Duration),
    /// Set the ceiling of the stream.
    Bandwidth(Bandwidth),
    /// Switch to post-copy.
    PostCopy,
    /// Pause the guest and finish.
    ForceStop,
    /// Give up; the VM stays at the source.
    Abort,
}

/// What a ladder remembers of one attempt. Its memory is bounded.
#[derive(Debug, Clone)]
pub struct LadderState {
    /// Post-copy has begun or the attempt was given up: nothing is left to decide.
    settled: bool,
    memory: Memory,
}

/// The memory of each rule.
#[derive(Debug, Clone)]
enum Memory {
    Fixed,
    Nova(NovaState),
    Ovirt(OvirtState),
    Proxmox(ProxmoxState),
    KubevirtLike(TimeoutState),
    KubevirtStall(StallState),
    KubevirtRamp(RampState),
    Clark(ClarkState),
}

impl Ladder {
    /// The downtime limit to start with; `None` when the product leaves what the plan says. [`LadderState::observe`] tells
    /// only of changes.
    #[must_use]
    pub fn initial_limit(&self) -> Option<Duration> {
        match self {
            Ladder::Fixed => None,
            Ladder::Nova(rule) => Some(rule.initial_limit()),
            Ladder::Ovirt(rule) => Some(millis(rule.initial_ms)),
            Ladder::Proxmox(rule) => Some(millis(rule.initial_ms)),
            Ladder::KubevirtLike(_) => Some(millis(QEMU_DOWNTIME_DEFAULT_MS)),
            Ladder::KubevirtStall(rule) => Some(rule.initial_limit()),
            Ladder::KubevirtRamp(rule) => Some(rule.initial_limit()),
            Ladder::Clark(rule) => Some(rule.initial_limit()),
        }
    }

    /// Whether it may switch to post-copy.
    #[must_use]
    pub fn may_postcopy(&self) -> bool {
        let last = match self {
            Ladder::Fixed | Ladder::Proxmox(_) | Ladder::Clark(_) => LastResort::Abort,
            Ladder::Nova(rule) => rule.then,
            Ladder::Ovirt(rule) => return rule.switches(),
            Ladder::KubevirtLike(rule) => rule.then,
            Ladder::KubevirtStall(rule) => rule.then,
            Ladder::KubevirtRamp(rule) => rule.timeouts.then,
        };
        last == LastResort::PostCopy
    }
}

impl LastResort {
    const fn step(self) -> Step {
        match self {
            LastResort::Abort => Step::Abort,
            LastResort::PostCopy => Step::PostCopy,
            LastResort::ForceStop => Step::ForceStop,
        }
    }
}

impl LadderState {
    /// The state at the start of an attempt, when [`Ladder::initial_limit`] has been set.
    #[must_use]
    pub fn new(ladder: &Ladder) -> Self {
        let memory = match ladder {
            Ladder::Fixed => Memory::Fixed,
            Ladder::Nova(rule) => Memory::Nova(NovaState::new(rule)),
            Ladder::Ovirt(_) => Memory::Ovirt(OvirtState::default()),
            Ladder::Proxmox(rule) => Memory::Proxmox(ProxmoxState::new(rule)),
            Ladder::KubevirtLike(_) => Memory::KubevirtLike(TimeoutState::default()),
            Ladder::KubevirtStall(_) => Memory::KubevirtStall(StallState::default()),
            Ladder::KubevirtRamp(rule) => Memory::KubevirtRamp(RampState::new(rule)),
            Ladder::Clark(_) => Memory::Clark(ClarkState::default()),
        };
        LadderState { settled: false, memory }
    }

    /// Seconds until the product looks again. It can change with every sample.
    #[must_use]
    pub const fn poll_every(&self) -> f64 {
        match &self.memory {
            Memory::Fixed | Memory::Clark(_) => FIXED_POLL_SECONDS,
            Memory::Nova(_) => nova::POLL_SECONDS,
            Memory::Ovirt(_) => ovirt::POLL_SECONDS,
            Memory::Proxmox(state) => state.poll_seconds(),
            Memory::KubevirtLike(_) | Memory::KubevirtStall(_) | Memory::KubevirtRamp(_) => {
                kubevirt::POLL_SECONDS
            }
        }
    }

    /// What the product does when it sees `sample`: at most one step, the gravest that is due. Samples come in the order of
    /// their times, and only while pre-copy runs at the source. `ladder` is the one that the state was made for; any other
    /// gets no answer.
    pub fn observe(&mut self, ladder: &Ladder, sample: &Sample) -> Option<Step> {
        if self.settled {
            return None;
        }
        let step = self.memory.observe(ladder, sample);
        self.settled = matches!(step, Some(Step::PostCopy | Step::Abort));
        step
    }
}

impl Memory {
    fn observe(&mut self, ladder: &Ladder, sample: &Sample) -> Option<Step> {
        match (ladder, self) {
            (Ladder::Nova(rule), Memory::Nova(state)) => state.observe(rule, sample),
            (Ladder::Ovirt(rule), Memory::Ovirt(state)) => state.observe(rule, sample),
            (Ladder::Proxmox(rule), Memory::Proxmox(state)) => state.observe(rule, sample),
            (Ladder::KubevirtLike(rule), Memory::KubevirtLike(state)) => {
                state.observe(rule, sample)
            }
            (Ladder::KubevirtStall(rule), Memory::KubevirtStall(state)) => {
                state.observe(rule, sample)
            }
            (Ladder::KubevirtRamp(rule), Memory::KubevirtRamp(state)) => {
                state.observe(rule, sample)
            }
            (Ladder::Clark(rule), Memory::Clark(state)) => state.observe(rule, sample),
            // Every ladder by name, so that a new one is not forgotten above.
            (
                Ladder::Fixed
                | Ladder::Nova(_)
                | Ladder::Ovirt(_)
                | Ladder::Proxmox(_)
                | Ladder::KubevirtLike(_)
                | Ladder::KubevirtStall(_)
                | Ladder::KubevirtRamp(_)
                | Ladder::Clark(_),
                _,
            ) => None,
        }
    }
}

/// Which samples are polls, for the rules that count polls.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    last_seconds: Option<f64>,
}

impl Pace {
    /// Whether a sample at `elapsed` is the next poll of a rule that looks every `period`, both in seconds.
    fn is_poll(&mut self, period: f64, elapsed: f64) -> bool {
        if self.last_seconds.is_some_and(|last| elapsed - last < period * POLL_EARLIEST) {
            return false;
        }
        self.last_seconds = Some(elapsed);
        true
    }
}

const fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms as u64)
}

/// What the tests of all rules need.
#[cfg(test)]
mod testing {
    use super::*;

    /// A poll that finds nothing special.
    pub(super) fn poll(elapsed_seconds: f64) -> Sample {
        Sample {
            elapsed_seconds,
            passes: 1,
            at_pass_boundary: false,
            remaining_bytes: 1e9,
            transferred_bytes: 1e9,
            rate_bytes_per_second: 1e8,
        }
    }

    /// The steps that the ladder takes on the samples, each with its time in seconds.
    pub(super) fn steps(
        ladder: &Ladder,
        samples: impl IntoIterator<Item = Sample>,
    ) -> Vec<(f64, Step)> {
        let mut state = LadderState::new(ladder);
        let mut taken = Vec::new();
        for sample in samples {
            if let Some(step) = state.observe(ladder, &sample) {
                taken.push((sample.elapsed_seconds, step));
            }
        }
        taken
    }

    /// A downtime limit in milliseconds.
    pub(super) const fn limit(ms: u32) -> Step {
        Step::DowntimeLimit(millis(ms))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        testing::{poll, steps},
        *,
    };
    use droveway_fleet::Bytes;

    const MEMORY: Bytes = Bytes::from_mib(8 << 10);

    fn every_ladder(then: LastResort) -> Vec<Ladder> {
        let timeouts = KubevirtTimeouts::new(MEMORY, then);
        vec![
            Ladder::Fixed,
            Ladder::Nova(Nova::new(MEMORY, then)),
            Ladder::Ovirt(Ovirt::minimal_downtime()),
            Ladder::Ovirt(Ovirt::suspend()),
            Ladder::Ovirt(Ovirt::post_copy()),
            Ladder::Ovirt(Ovirt::very_large()),
            Ladder::Proxmox(Proxmox::default()),
            Ladder::KubevirtLike(timeouts),
            Ladder::KubevirtStall(KubevirtStall::new(MEMORY, then)),
            Ladder::KubevirtRamp(KubevirtRamp::new(1050, timeouts)),
        ]
    }

    #[test]
    fn initial_limits_are_the_products() {
        let initial: Vec<_> = every_ladder(LastResort::Abort)
            .iter()
            .map(|ladder| ladder.initial_limit().map(|limit| limit.as_millis()))
            .collect();
        let ms = [50, 100, 100, 100, 300, 100, 300, 300, 150];
        assert_eq!(initial[0], None);
        assert_eq!(initial[1..], ms.map(Some));
    }

    #[test]
    fn polls_have_the_products_periods() {
        let periods: Vec<_> = every_ladder(LastResort::Abort)
            .iter()
            .map(|ladder| LadderState::new(ladder).poll_every())
            .collect();
        assert_eq!(periods, [1.0, 0.5, 10.0, 10.0, 10.0, 10.0, 1.0, 0.4, 0.4, 0.4]);
    }

    #[test]
    fn fixed_never_acts() {
        assert_eq!(steps(&Ladder::Fixed, (0..100).map(|i| poll(f64::from(i) * 1e4))), []);
    }

    /// After post-copy has begun an abort would lose the VM.
    #[test]
    fn nothing_follows_post_copy_or_abort() {
        for then in [LastResort::Abort, LastResort::PostCopy, LastResort::ForceStop] {
            for ladder in every_ladder(then) {
                let samples = (0..20_000u32).map(|i| Sample {
                    passes: i,
                    at_pass_boundary: i % 3 == 0,
                    ..poll(f64::from(i) * 4.0)
                });
                let taken = steps(&ladder, samples);
                let last = taken.len().saturating_sub(1);
                let end = |step| matches!(step, Step::PostCopy | Step::Abort);
                assert!(taken.iter().take(last).all(|(_, step)| !end(*step)), "{ladder:?}");
            }
        }
    }

    /// No guest moves when nothing is sent, nothing is left, or the counters are not numbers; no rule may panic on it.
    #[test]
    fn odd_numbers_are_survived() {
        for then in [LastResort::Abort, LastResort::PostCopy, LastResort::ForceStop] {
            for ladder in every_ladder(then) {
                let mut state = LadderState::new(&ladder);
                for (i, odd) in [0.0, -1.0, f64::NAN, f64::INFINITY].repeat(8).iter().enumerate() {
                    let sample = Sample {
                        elapsed_seconds: *odd,
                        passes: u32::MAX,
                        at_pass_boundary: i % 2 == 0,
                        remaining_bytes: *odd,
                        transferred_bytes: *odd,
                        rate_bytes_per_second: *odd,
                    };
                    state.observe(&ladder, &sample);
                    assert!(state.poll_every() > 0.0, "{ladder:?}");
                }
            }
        }
    }

    #[test]
    fn a_state_answers_only_to_its_own_ladder() {
        let (nova, other) = (
            Ladder::Nova(Nova::new(MEMORY, LastResort::Abort)),
            Ladder::Proxmox(Proxmox::default()),
        );
        let mut state = LadderState::new(&nova);
        assert_eq!(state.observe(&other, &poll(1e9)), None);
        assert_eq!(state.observe(&nova, &poll(1e9)), Some(Step::Abort));
    }

    #[test]
    fn a_poll_may_be_a_little_early_but_not_doubled() {
        let mut pace = Pace::default();
        let polls = [0.0, 0.5, 0.79, 0.9, 1.5, 2.0, 9.0].map(|at| pace.is_poll(1.0, at));
        assert_eq!(polls, [true, false, false, true, false, true, true]);
    }
}
