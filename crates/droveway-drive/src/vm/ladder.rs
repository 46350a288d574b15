//! Stepping a product's rule: what a [`Ladder`] of the plan says while a pre-copy runs.
//!
//! The rule is asked with the first figures that come when it is due, and with those of every pass's end. It decides about
//! the downtime limit, the stream's ceiling, the switch to post-copy, a forced stop and giving up. Everything that keeps the
//! VM safe stays with the driver: a rule is not asked any more once the VM stands still or its switch was asked for.

use super::{Action, DOWNTIME_LIMIT_MAX, Duration, MigrationSample, State, Timestamp, VmDriver};
use droveway_fleet::RateLimit;
use droveway_plan::{
    Move,
    habits::{Ladder, LadderState, Sample, Step},
};

/// A rule and what it remembers of this attempt.
#[derive(Debug)]
pub(super) struct Stepper {
    ladder: Ladder,
    state: LadderState,
    /// When it looks again.
    due: Timestamp,
}

impl Stepper {
    pub(super) fn of(plan: &Move) -> Option<Stepper> {
        let ladder = plan.ladder.clone()?;
        let state = LadderState::new(&ladder);
        Some(Stepper { ladder, state, due: Timestamp::ZERO })
    }
}

impl VmDriver {
    /// The downtime limit to begin with.
    pub(super) fn first_limit(&self, plan: &Move) -> Duration {
        if plan.technique == droveway_fleet::Technique::StopAndCopy {
            return DOWNTIME_LIMIT_MAX;
        }
        let first = plan.first_downtime_limit();
        self.asked_downtime.map_or(first, |most| first.min(most))
    }

    /// The longest time between two looks: the driver's own, or the rule's if that is shorter.
    pub(super) fn sample_period(&self, own: Duration) -> Duration {
        let rule = self.stepper.as_ref().map(|stepper| stepper.state.poll_every());
        rule.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .map_or(own, |rule| own.min(rule.max(LOOK_MIN)))
    }

    /// Asks the rule, if there is one and it is due.
    pub(super) fn climb(&mut self, now: Timestamp, sample: &MigrationSample, at_boundary: bool) {
        if self.state != State::PreCopy || self.postcopy_asked || self.stopped_at.is_some() {
            return;
        }
        let began = self.entered_at;
        let passes = self.progress.pass;
        let Some(stepper) = &mut self.stepper else { return };
        if !at_boundary && now < stepper.due {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "rates and sizes far below 2^53")]
        let seen = Sample {
            elapsed_seconds: now.since(began).as_secs_f64(),
            passes,
            at_pass_boundary: at_boundary,
            remaining_bytes: sample.remaining.as_f64(),
            transferred_bytes: sample.transferred.as_f64(),
            rate_bytes_per_second: sample.rate.bytes_per_second() as f64,
        };
        let step = stepper.state.observe(&stepper.ladder, &seen);
        if !at_boundary {
            let every = Duration::try_from_secs_f64(stepper.state.poll_every());
            stepper.due = now + every.unwrap_or(LOOK_MIN);
        }
        if let Some(step) = step {
            self.take(now, step, &seen);
        }
    }

    fn take(&mut self, now: Timestamp, step: Step, seen: &Sample) {
        let inputs = format!(
            "{:.1} s, pass {}, remaining {:.1} MB",
            seen.elapsed_seconds,
            seen.passes,
            seen.remaining_bytes / 1e6
        );
        let reason = format!("the rule of policy's ladder at {:.1} s", seen.elapsed_seconds);
        match step {
            Step::DowntimeLimit(limit) => {
                let limit = self.asked_downtime.map_or(limit, |most| limit.min(most));
                let choice = format!("downtime limit {} ms", limit.as_millis());
                self.decide(now, reason, inputs, &choice, None);
                self.act(Action::SetDowntimeLimit(limit));
            }
            Step::Bandwidth(rate) => {
                let most = self.asked_bandwidth.unwrap_or(RateLimit::Unlimited);
                let limit = RateLimit::At(rate).at_most(most);
                self.decide(now, reason, inputs, &format!("stream at {limit}"), None);
                self.act(Action::SetBandwidth(limit));
            }
            Step::ForceStop => {
                self.decide(now, reason, inputs, "stop the VM and send the rest", None);
                self.act(Action::SetDowntimeLimit(DOWNTIME_LIMIT_MAX));
            }
            Step::PostCopy if self.may_postcopy() => {
                self.decide(now, reason, inputs, "switch to post-copy", None);
                self.ask_postcopy();
            }
            Step::PostCopy => {
                self.warn(now, "the rule asked for post-copy, which the plan forbids");
            }
            Step::Abort => {
                self.decide(now, reason.clone(), inputs, "abort, stay at the source", None);
                self.roll_back(now, reason);
            }
        }
    }
}

/// A rule that wants to look more often than this is asked as often as this: figures cost QEMU a command each.
const LOOK_MIN: Duration = Duration::from_millis(100);
