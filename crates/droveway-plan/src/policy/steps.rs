//! One VM's part of a plan, as far as no policy has anything to choose in it.

use super::{
    GangFacts, HYBRID_RULE, Note, PolicyError, SWITCHOVER_LIMIT_MIN, SWITCHOVER_PATIENCE, VmFacts,
};
use crate::plan::{Fallback, Move, StartRule};
use droveway_fleet::{AllowPostcopy, Bandwidth, Intent, RateLimit, Technique, TimeSpan};
use droveway_model::fluid::Constants;
use std::time::Duration;

/// The operator's choice, else the policy's, if the VM permits it.
pub(super) fn technique_of(
    intent: &Intent,
    fact: &VmFacts,
    policy: Technique,
    notes: &mut Vec<Note>,
) -> Result<Technique, PolicyError> {
    let forbidden = if !fact.allow_postcopy {
        Some("the VM forbids post-copy (allowPostcopy: false)")
    } else if intent.allow_postcopy == AllowPostcopy::Never {
        Some("post-copy is not allowed (--allow-postcopy never)")
    } else {
        None
    };
    if let Some(&asked) = intent.techniques.get(&fact.vm) {
        return match forbidden {
            Some(reason) if asked.exposes() => Err(PolicyError::Contradiction(format!(
                "--technique {}={asked}: {reason}; choose pre-copy or stop-and-copy",
                fact.vm
            ))),
            _ => Ok(asked),
        };
    }
    match forbidden {
        Some(reason) if policy.exposes() => {
            notes.push(Note {
                vm: fact.vm.clone(),
                choice: Technique::PreCopy,
                instead_of: policy,
                reason: reason.to_owned(),
            });
            Ok(Technique::PreCopy)
        }
        _ => Ok(policy),
    }
}

/// A wait, in whole seconds, which is as exact as phases are. Never longer than was asked for: it may be the latest safe start.
pub(super) fn after(seconds: f64) -> TimeSpan {
    TimeSpan::from(Duration::from_secs_f64(seconds.clamp(0.0, 1e6).floor()))
}

/// How many move at once where more would start by post-copy together than may be exposed.
pub(super) fn exposed_within(intent: &Intent, concurrency: u32, techniques: &[Technique]) -> u32 {
    let split = techniques.iter().filter(|technique| **technique == Technique::PostCopy).count();
    match intent.max_exposed {
        Some(most) if split > most as usize => concurrency.min(most.max(1)),
        _ => concurrency,
    }
}

/// A ceiling, at least a byte per second.
pub(crate) fn limit(bytes_per_second: f64) -> RateLimit {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a port's rate"
    )]
    let rate = bytes_per_second.max(1.0) as u64;
    RateLimit::At(Bandwidth::from_bytes_per_second(rate))
}

/// The longest downtime that the VM bears, or that is asked for.
pub(crate) fn limit_of(intent: &Intent, fact: &VmFacts) -> Duration {
    let asked = intent.max_downtime.duration();
    fact.max_downtime.map_or(asked, |own| own.min(asked))
}

pub(super) fn plan_move(
    intent: &Intent,
    facts: &GangFacts,
    fact: &VmFacts,
    technique: Technique,
    concurrency: u32,
) -> Move {
    let may_fall_back = fact.allow_postcopy
        && intent.allow_postcopy == AllowPostcopy::Fallback
        && technique != Technique::StopAndCopy;
    let payload = facts.port_rate.tcp_payload().divided(concurrency);
    let patience = (fact.memory / payload).saturating_mul(SWITCHOVER_PATIENCE);
    // Patience is no matter of nanoseconds, and people read the plan.
    let patience = Duration::from_secs(patience.as_secs().saturating_add(1));
    Move {
        vm: fact.vm.clone(),
        technique,
        start: StartRule::InWindow,
        fallback: if may_fall_back { Fallback::PostCopy } else { Fallback::Abort },
        switch: HYBRID_RULE,
        max_passes: intent.max_passes,
        bandwidth: intent.bandwidth,
        postcopy_bandwidth: intent.bandwidth,
        switchover_bandwidth: payload.max(Bandwidth::from_bits_per_second(1)),
        downtime_limit: limit_of(intent, fact),
        switchover_limit: patience.max(SWITCHOVER_LIMIT_MIN),
        throttle: false,
        ladder: None,
    }
}

impl Move {
    /// QEMU stops for what it can send within the limit at the rate that it was told, which is a little beside the stream's, and then
    /// there is the switch itself: that took 304 ms of 300, and 302 with the switch alone taken off. So it aims below by both, but at
    /// no less than half: a limit as short as the switch is met, if at all, by what is left to send being little.
    pub(super) fn aim_below(&mut self, constants: &Constants) {
        let limit = self.downtime_limit;
        let switch = Duration::try_from_secs_f64(constants.switch_seconds).unwrap_or_default();
        let ratio = constants.threshold_ratio.max(1.0);
        let left = limit.saturating_sub(switch).div_f64(ratio).max(limit / 2);
        // QEMU counts in milliseconds, and takes no zero.
        let whole = Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        self.downtime_limit = if whole.is_zero() { limit } else { whole };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_downtime_is_aimed_at_below_its_limit() {
        let aimed = |limit: u64| {
            let intent = crate::policy::tests::intent("adaptive");
            let facts = crate::policy::tests::facts(&[true]);
            let mut step = plan_move(&intent, &facts, &facts.vms[0], Technique::PreCopy, 1);
            step.downtime_limit = Duration::from_millis(limit);
            step.aim_below(&Constants { switch_seconds: 0.0305, ..Constants::PRIOR });
            step.downtime_limit.as_millis()
        };
        assert_eq!([300, 61, 50, 3, 1].map(aimed), [256, 30, 25, 1, 1]);
    }
}
