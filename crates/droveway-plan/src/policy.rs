//! The registry of policies. A policy has a name, the stages that it fills and a source; it turns [`GangFacts`] and an
//! [`Intent`] into a [`Plan`] and the notes of what it chose.
//!
//! The plain ones are one technique for all, serially or in parallel, in the order given. They are what tools do today, and
//! the baselines of every comparison. [`adaptive`](crate::adaptive) decides from measurements.

use crate::{
    adaptive::{Known, Reasoning, propose},
    plan::{Fallback, Move, Plan, SwitchRule},
    play,
};
pub use droveway_fleet::intent::{DOWNTIME_DEFAULT, MAX_PASSES_DEFAULT};
use droveway_fleet::{AllowPostcopy, Bandwidth, Bytes, Intent, Technique, VmId, ids::nearest};
use std::time::Duration;
use thiserror::Error;

/// What a plain policy has to know.
#[derive(Debug, Clone, PartialEq)]
pub struct GangFacts {
    /// The slower of the source's and the target's port.
    pub port_rate: Bandwidth,
    /// The VMs at the source.
    pub vms: Vec<VmFacts>,
}

/// What a plain policy has to know of a VM.
#[derive(Debug, Clone, PartialEq)]
pub struct VmFacts {
    /// The VM.
    pub vm: VmId,
    /// Its memory.
    pub memory: Bytes,
    /// False: its memory must never be split between two hosts.
    pub allow_postcopy: bool,
    /// The longest downtime that it bears.
    pub max_downtime: Option<Duration>,
    /// When it has to have arrived, from the start of the run.
    pub deadline: Option<Duration>,
}

/// How many move at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Concurrency {
    One,
    All,
}

/// A policy of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: &'static str,
    /// The stages that it fills.
    pub stages: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    kind: Kind,
}

/// How a policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The same for every VM.
    Plain(Technique, Concurrency),
    /// By searching.
    Adaptive,
}

/// A plan, and what there is to say about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// The plan.
    pub plan: Plan,
    /// Where it differs from what the policy's name says.
    pub notes: Vec<Note>,
    /// Why it is as it is, of a policy that decides from measurements.
    pub reasoning: Option<Reasoning>,
}

const fn plain(
    name: &'static str,
    technique: Technique,
    concurrency: Concurrency,
    summary: &'static str,
) -> Policy {
    let kind = Kind::Plain(technique, concurrency);
    Policy { name, stages: "technique, order", source: "plain", summary, kind }
}

/// Every policy, by name.
pub const POLICIES: [Policy; 8] = [
    plain(
        "pre-copy-serial",
        Technique::PreCopy,
        Concurrency::One,
        "pre-copy, one VM after the other",
    ),
    plain("pre-copy-parallel", Technique::PreCopy, Concurrency::All, "pre-copy, all VMs at once"),
    plain(
        "post-copy-serial",
        Technique::PostCopy,
        Concurrency::One,
        "post-copy, one VM after the other",
    ),
    plain(
        "post-copy-parallel",
        Technique::PostCopy,
        Concurrency::All,
        "post-copy, all VMs at once",
    ),
    plain(
        "hybrid-serial",
        Technique::Hybrid,
        Concurrency::One,
        "one pre-copy pass, then post-copy, one VM after the other",
    ),
    plain(
        "hybrid-parallel",
        Technique::Hybrid,
        Concurrency::All,
        "one pre-copy pass, then post-copy, all VMs at once",
    ),
    plain(
        "stop-and-copy",
        Technique::StopAndCopy,
        Concurrency::One,
        "each VM pauses while it is copied, one after the other",
    ),
    Policy {
        name: "adaptive",
        stages: "technique, order",
        source: "ours",
        summary: "technique, order and how many at once, together, from measurements and urgency",
        kind: Kind::Adaptive,
    },
];

/// The policy that is used when none is named.
pub const DEFAULT_POLICY: &str = "pre-copy-serial";

/// A hybrid's rule: one pass moves what is not rewritten; a pass that leaves half of what the one before left has stalled
/// (Altahat 2020; the ratio is our reading).
pub const HYBRID_RULE: SwitchRule = SwitchRule { after_pass: 1, stalled_ratio: 0.5 };

/// A switchover may take so many times what its bytes need at its share of the port, before its path counts as dead.
const SWITCHOVER_PATIENCE: u32 = 10;

/// The least patience with a switchover: a lost packet's retransmission back-off takes seconds, not minutes.
const SWITCHOVER_LIMIT_MIN: Duration = Duration::from_secs(15);

/// Why a policy could not plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// No policy has that name.
    #[error("unknown policy '{name}'{meant}; `droveway policies` lists them")]
    Unknown {
        /// The name.
        name: String,
        /// `, did you mean ..?` or nothing.
        meant: String,
    },
    /// The request contradicts itself or a VM's permission.
    #[error("{0}")]
    Contradiction(String),
    /// It decides from measurements, and there are none.
    #[error("policy '{0}' decides from measurements: add `--measure 5s` or `--snapshot FILE`")]
    Unmeasured(&'static str),
    /// What was measured is about other VMs.
    #[error(transparent)]
    Play(#[from] play::PlayError),
}

/// A choice that differs from what the policy's name says, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The VM.
    pub vm: VmId,
    /// What was chosen.
    pub choice: Technique,
    /// Instead of what.
    pub instead_of: Technique,
    /// Why.
    pub reason: String,
}

/// The policy of that name.
///
/// # Errors
/// [`PolicyError::Unknown`], with the nearest name.
pub fn find(name: &str) -> Result<&'static Policy, PolicyError> {
    POLICIES.iter().find(|policy| policy.name == name).ok_or_else(|| PolicyError::Unknown {
        name: name.to_owned(),
        meant: nearest(name, POLICIES.iter().map(|p| p.name))
            .map_or_else(String::new, |meant| format!(", did you mean '{meant}'?")),
    })
}

impl Policy {
    /// The technique that it gives every VM that allows it, and whether all move at once; `None`: it decides by VM.
    #[must_use]
    pub const fn plainly(&self) -> Option<(Technique, bool)> {
        match self.kind {
            Kind::Plain(technique, concurrency) => {
                Some((technique, matches!(concurrency, Concurrency::All)))
            }
            Kind::Adaptive => None,
        }
    }

    /// Plans the gang: techniques by the policy, over it the operator's, under both each VM's permission. `known` is what
    /// was measured, if anything was.
    ///
    /// # Errors
    /// [`PolicyError::Contradiction`] when a VM is told to use post-copy although that is forbidden;
    /// [`PolicyError::Unmeasured`] when the policy needs to know more than is known.
    pub fn plan(
        &self,
        id: &str,
        intent: &Intent,
        facts: &GangFacts,
        known: Option<Known<'_>>,
    ) -> Result<Made, PolicyError> {
        match self.kind {
            Kind::Plain(technique, concurrency) => {
                self.plan_plain(id, intent, facts, technique, concurrency)
            }
            Kind::Adaptive => {
                let known = known.ok_or(PolicyError::Unmeasured(self.name))?;
                self.plan_adaptive(id, intent, facts, known)
            }
        }
    }

    fn plan_plain(
        &self,
        id: &str,
        intent: &Intent,
        facts: &GangFacts,
        technique: Technique,
        concurrency: Concurrency,
    ) -> Result<Made, PolicyError> {
        let count = u32::try_from(facts.vms.len()).unwrap_or(u32::MAX);
        let by_policy = match concurrency {
            Concurrency::One => 1,
            Concurrency::All => count.max(1),
        };
        let concurrency = intent.max_parallel.unwrap_or(by_policy).clamp(1, count.max(1));
        let mut notes = Vec::new();
        let mut moves = Vec::new();
        for fact in &facts.vms {
            let technique = technique_of(intent, fact, technique, &mut notes)?;
            moves.push(plan_move(intent, facts, fact, technique, concurrency));
        }
        let plan = self.plan_of(id, intent, concurrency, moves);
        Ok(Made { plan, notes, reasoning: None })
    }

    fn plan_adaptive(
        &self,
        id: &str,
        intent: &Intent,
        facts: &GangFacts,
        known: Known<'_>,
    ) -> Result<Made, PolicyError> {
        let mut alone = Vec::new();
        for fact in &facts.vms {
            let technique = technique_of(intent, fact, Technique::PreCopy, &mut Vec::new())?;
            alone.push(plan_move(intent, facts, fact, technique, 1));
        }
        let serial = self.plan_of(id, intent, 1, alone);
        let (models, _) = play::moves(&serial, known.world)?;
        let Some(proposal) = propose(intent, facts, known, &serial.moves, models) else {
            return Ok(Made { plan: serial, notes: Vec::new(), reasoning: None });
        };
        let mut moves = proposal.moves;
        for step in &mut moves {
            step.switchover_bandwidth = facts.port_rate.tcp_payload().divided(proposal.concurrency);
        }
        let plan = self.plan_of(id, intent, proposal.concurrency, moves);
        Ok(Made { plan, notes: Vec::new(), reasoning: Some(proposal.reasoning) })
    }

    fn plan_of(&self, id: &str, intent: &Intent, concurrency: u32, moves: Vec<Move>) -> Plan {
        Plan {
            id: id.to_owned(),
            parent: None,
            generation: 0,
            policy: self.name.to_owned(),
            source: intent.source.clone(),
            target: intent.target.clone(),
            concurrency,
            moves,
        }
    }
}

/// The operator's choice, else the policy's, if the VM permits it.
fn technique_of(
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

fn plan_move(
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
    let asked = intent.max_downtime.duration();
    let patience = (fact.memory / payload).saturating_mul(SWITCHOVER_PATIENCE);
    Move {
        vm: fact.vm.clone(),
        technique,
        fallback: if may_fall_back { Fallback::PostCopy } else { Fallback::Abort },
        switch: HYBRID_RULE,
        max_passes: intent.max_passes,
        bandwidth: intent.bandwidth,
        postcopy_bandwidth: intent.bandwidth,
        switchover_bandwidth: payload.max(Bandwidth::from_bits_per_second(1)),
        downtime_limit: fact.max_downtime.map_or(asked, |own| own.min(asked)),
        switchover_limit: patience.max(SWITCHOVER_LIMIT_MIN),
    }
}

#[cfg(test)]
mod tests;
