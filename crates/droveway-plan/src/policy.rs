//! The registry of policies. A policy has a name, the stages that it fills and a source; it turns [`GangFacts`] and an
//! [`Intent`] into a [`Plan`] and the notes of what it chose. It is addressed by name, with [`Parameter`]s where it has
//! some: `direction-greedy:window=30s`.
//!
//! The plain ones are one technique for all, serially or in parallel, in the order given. They are what tools do today, and
//! the baselines of every comparison. [`adaptive`](crate::adaptive) decides from measurements.

pub(crate) mod parameters;
mod steps;

pub use parameters::{Parameter, Unit};

use crate::{
    adaptive::{Effort, Known, Levers, Reasoning, propose},
    habits::Habit,
    plan::{Fallback, Move, Plan, StartRule, SwitchRule},
    play,
    reserve::reservations,
    rules::{Rule, draft},
};
pub use droveway_fleet::intent::{DOWNTIME_DEFAULT, MAX_PASSES_DEFAULT};
use droveway_fleet::{
    AllowPostcopy, Bandwidth, Bytes, Intent, Reserve, Technique, VmId, ids::nearest,
};
use droveway_model::fluid::MoveModel;
use parameters::Settings;
use std::{ops::Deref, time::Duration};
use steps::{after, exposed_within, plan_move, technique_of};
pub(crate) use steps::{limit, limit_of};
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
    /// VMs of one group are useful only together.
    pub group: Option<String>,
}

impl GangFacts {
    /// Whether all are one group.
    pub(crate) fn is_one_group(&self) -> bool {
        let first = self.vms.first().and_then(|fact| fact.group.as_ref());
        first.is_some() && self.vms.iter().all(|fact| fact.group.as_ref() == first)
    }
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
    /// As somebody published it.
    Published(Rule),
    /// As a product does it, with a rule that acts while a VM moves.
    Habit(Habit),
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

const fn published(
    name: &'static str,
    rule: Rule,
    stages: &'static str,
    source: &'static str,
    summary: &'static str,
) -> Policy {
    Policy { name, stages, source, summary, kind: Kind::Published(rule) }
}

const fn habit(
    name: &'static str,
    habit: Habit,
    stages: &'static str,
    summary: &'static str,
) -> Policy {
    Policy { name, stages, source: "habit", summary, kind: Kind::Habit(habit) }
}

/// Every policy, by name.
pub const POLICIES: &[Policy] = &[
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
        name: "virsh-serial",
        stages: "order",
        source: "habit",
        summary: "what a loop of `virsh migrate` does: pre-copy, one after the other",
        kind: Kind::Plain(Technique::PreCopy, Concurrency::One),
    },
    Policy {
        name: "virsh-parallel",
        stages: "order",
        source: "habit",
        summary: "what that loop does in the background: pre-copy, all at once",
        kind: Kind::Plain(Technique::PreCopy, Concurrency::All),
    },
    published(
        "direction-greedy",
        Rule::DirectionGreedy,
        "technique, order",
        "Deshpande & Keahey 2017",
        "post-copy for VMs that send more than they receive, else pre-copy; all at once",
    ),
    published(
        "direction-joint",
        Rule::DirectionJoint,
        "technique, order",
        "ours",
        "post-copy for the set that evens out source TX and target RX; all at once",
    ),
    published(
        "fuzzy-cluster",
        Rule::FuzzyCluster,
        "technique",
        "Cui & Zhu 2020",
        "post-copy for the cluster that mostly sends, pre-copy for the other",
    ),
    published(
        "dynamic-hybrid",
        Rule::DynamicHybrid,
        "technique",
        "Altahat 2020",
        "pre-copy passes while they shrink by half, then post-copy",
    ),
    published(
        "ws-hybrid",
        Rule::WsHybrid,
        "technique",
        "Sahni & Varma 2012",
        "one pass, then post-copy: as near as QEMU comes to sending the working set first",
    ),
    published(
        "serial-or-parallel",
        Rule::SerialOrParallel,
        "order",
        "Callegati & Cerroni 2013",
        "a correlated group that dirties slowly in parallel, else the quickest first",
    ),
    published(
        "improved-serial",
        Rule::ImprovedSerial,
        "technique, order",
        "Sun 2016",
        "the VM that dirties least by pre-copy, then the others by post-copy, one by one",
    ),
    published(
        "m-mixed",
        Rule::MMixed,
        "technique, order",
        "Sun 2016",
        "the m VMs that dirty least by pre-copy at once, then the others by post-copy",
    ),
    published(
        "sync-finish",
        Rule::SyncFinish,
        "order, bandwidth",
        "COMMA",
        "all at once, with ceilings that make them end together",
    ),
    published(
        "solive",
        Rule::Solive,
        "order, bandwidth",
        "Fernando 2020",
        "those that use the network first, those that write memory last; the urgency's share of the ports is held",
    ),
    published(
        "slamig",
        Rule::Slamig,
        "order",
        "He 2021",
        "quick ones first whose departure helps the others",
    ),
    published(
        "cqncr",
        Rule::Cqncr,
        "order",
        "Bari 2014",
        "next the VM whose departure leaves most room",
    ),
    published(
        "fpta",
        Rule::Fpta,
        "order, bandwidth",
        "Wang 2017",
        "most net rate: those that dirty least first",
    ),
    published(
        "mvm",
        Rule::Mvm,
        "order",
        "Kherbache 2016",
        "never two on one link; the quickest first",
    ),
    published(
        "minutil-o",
        Rule::MinutilO,
        "order",
        "Liu 2015",
        "next the VM that leaves the link least used during the one after it",
    ),
    published(
        "pacer",
        Rule::Pacer,
        "order, bandwidth",
        "Zheng 2013",
        "all at once, each as slowly as its deadline allows",
    ),
    published(
        "alma",
        Rule::Alma,
        "start",
        "ALMA 2016",
        "one after the other, from the quietest time of the dirtying's period on, or of the traffic's",
    ),
    published(
        "pava",
        Rule::Pava,
        "bandwidth",
        "Son & Buyya 2018",
        "one after the other, at what its class gets of the port: before applications if urgent, else after",
    ),
    published(
        "time-window-broker",
        Rule::TimeWindowBroker,
        "order, bandwidth",
        "Tsakalozos 2017",
        "each the rate that its deadline needs while there is one; the rest later",
    ),
    published(
        "clark-rate",
        Rule::ClarkRate,
        "order, bandwidth",
        "Clark 2005",
        "slowly first, each pass a little faster than the last was dirtied; small working sets first",
    ),
    published(
        "round-robin",
        Rule::RoundRobin,
        "order, bandwidth",
        "survey of serial, parallel and mixed",
        "all at once, one stream fast at a time; the turn goes on with each pass",
    ),
    habit(
        "nova-like",
        Habit::Nova,
        "order, fallback",
        "OpenStack Nova: one at a time, a downtime limit that climbs with time",
    ),
    habit(
        "kubevirt-like",
        Habit::Kubevirt,
        "order, fallback",
        "KubeVirt: two at a time, gives up or switches at its timeouts",
    ),
    habit(
        "kubevirt-stall",
        Habit::KubevirtStall,
        "order, fallback",
        "KubeVirt with stall detection (VEP 248)",
    ),
    habit(
        "kubevirt-ramp",
        Habit::KubevirtRamp,
        "order, fallback",
        "KubeVirt with a downtime limit that climbs with passes (VEP 291)",
    ),
    habit(
        "ovirt-ladder",
        Habit::Ovirt,
        "order, bandwidth, fallback",
        "oVirt: two at a time, capped, a downtime limit that climbs with passes",
    ),
    habit(
        "proxmox-like",
        Habit::Proxmox,
        "order, fallback",
        "Proxmox VE: one at a time, a downtime limit that doubles",
    ),
    habit(
        "vsphere-like",
        Habit::Vsphere,
        "order, bandwidth",
        "vSphere: four at a time (eight on fast ports), each its share, throttled",
    ),
    Policy {
        name: "adaptive",
        stages: "technique, order, bandwidth, start, transport",
        source: "ours",
        summary: "technique, order, how many at once and what is held of the ports, together, from measurements and urgency",
        kind: Kind::Adaptive,
    },
];

/// The policy that is used when none is named.
pub const DEFAULT_POLICY: &str = "adaptive";

/// The policy that is used instead where nothing was measured and nothing can be.
pub const UNMEASURED_POLICY: &str = "pre-copy-serial";

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
    /// The policy has no such parameter, or not with that value.
    #[error("policy '{policy}': {problem}; {known}")]
    Parameter {
        /// The policy.
        policy: &'static str,
        /// What is wrong.
        problem: String,
        /// The parameters that it has.
        known: String,
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

/// A policy with its parameters, as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    policy: Policy,
    text: String,
    settings: Settings,
}

impl Chosen {
    /// As it was asked for: its name, and the parameters that were given.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Deref for Chosen {
    type Target = Policy;
    fn deref(&self) -> &Policy {
        &self.policy
    }
}

/// The policy of that name, with the parameters that may follow it: `name:key=value,key=value`.
///
/// # Errors
/// [`PolicyError::Unknown`], with the nearest name; [`PolicyError::Parameter`], with the parameters that it has.
pub fn find(text: &str) -> Result<Chosen, PolicyError> {
    let (name, given) =
        text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
    let policy = POLICIES.iter().find(|policy| policy.name == name);
    let policy = policy.ok_or_else(|| PolicyError::Unknown {
        name: name.to_owned(),
        meant: nearest(name, POLICIES.iter().map(|p| p.name))
            .map_or_else(String::new, |meant| format!(", did you mean '{meant}'?")),
    })?;
    let settings = Settings::parse(policy, given)?;
    Ok(Chosen { policy: *policy, text: text.to_owned(), settings })
}

impl Policy {
    /// The technique that it gives every VM that allows it, and whether all move at once; `None`: it decides by VM.
    #[must_use]
    pub const fn plainly(&self) -> Option<(Technique, bool)> {
        match self.kind {
            Kind::Plain(technique, concurrency) => {
                Some((technique, matches!(concurrency, Concurrency::All)))
            }
            Kind::Published(_) | Kind::Habit(_) | Kind::Adaptive => None,
        }
    }

    /// Whether it searches, so that a choice has a runner-up and a margin.
    #[must_use]
    pub const fn searches(&self) -> bool {
        matches!(self.kind, Kind::Adaptive)
    }

    /// Plans with the default of every parameter: see [`Chosen::plan`].
    ///
    /// # Errors
    /// The same.
    pub fn plan(
        &self,
        id: &str,
        intent: &Intent,
        facts: &GangFacts,
        known: Option<Known<'_>>,
    ) -> Result<Made, PolicyError> {
        let (text, settings) = (self.name.to_owned(), Settings::default());
        Chosen { policy: *self, text, settings }.plan(id, intent, facts, known)
    }
}

impl Chosen {
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
            Kind::Published(rule) => {
                let known = known.ok_or(PolicyError::Unmeasured(self.name))?;
                self.plan_published(id, intent, facts, known, rule)
            }
            Kind::Habit(habit) => self.plan_habit(id, intent, facts, habit),
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
        let own = |fact| technique_of(intent, fact, technique, &mut notes);
        let techniques = facts.vms.iter().map(own).collect::<Result<Vec<_>, _>>()?;
        let concurrency = exposed_within(intent, concurrency, &techniques);
        let moves = facts.vms.iter().zip(techniques);
        let moves =
            moves.map(|(fact, technique)| plan_move(intent, facts, fact, technique, concurrency));
        let moves = moves.collect();
        let plan = self.plan_of(id, intent, facts, concurrency, moves);
        Ok(Made { plan, notes, reasoning: None })
    }

    /// A product's concurrency, ceilings and rule. The operator's `--max-parallel` and `--bandwidth` stay above them.
    fn plan_habit(
        &self,
        id: &str,
        intent: &Intent,
        facts: &GangFacts,
        habit: Habit,
    ) -> Result<Made, PolicyError> {
        let count = u32::try_from(facts.vms.len()).unwrap_or(u32::MAX).max(1);
        // What the product would be told of the port: what it carries of payload.
        let port = facts.port_rate.tcp_payload();
        let settings = self.settings.product();
        let product = habit.product(&settings);
        let by_policy = product.concurrency(port, count);
        let concurrency = intent.max_parallel.unwrap_or(by_policy).clamp(1, count);
        let mut notes = Vec::new();
        let own = |fact| technique_of(intent, fact, Technique::PreCopy, &mut notes);
        let techniques = facts.vms.iter().map(own).collect::<Result<Vec<_>, _>>()?;
        let concurrency = exposed_within(intent, concurrency, &techniques);
        let mut moves = Vec::new();
        for (fact, technique) in facts.vms.iter().zip(techniques) {
            let mut step = plan_move(intent, facts, fact, technique, concurrency);
            if step.bandwidth.bandwidth().is_none() {
                step.bandwidth = product.stream_cap(facts.port_rate, count);
            }
            let may_split = fact.allow_postcopy && intent.allow_postcopy != AllowPostcopy::Never;
            if technique == Technique::PreCopy {
                step.throttle = habit.throttles();
                step.ladder = habit.ladder(fact.memory, &settings, may_split);
                if step.ladder.is_some() {
                    // The rule says when it is enough.
                    step.max_passes = u32::MAX;
                    step.fallback = Fallback::Abort;
                }
            }
            moves.push(step);
        }
        let plan = self.plan_of(id, intent, facts, concurrency, moves);
        Ok(Made { plan, notes, reasoning: None })
    }

    fn plan_published(
        &self,
        id: &str,
        intent: &Intent,
        facts: &GangFacts,
        known: Known<'_>,
        rule: Rule,
    ) -> Result<Made, PolicyError> {
        let (_, models) = self.alone(id, intent, facts, known)?;
        self.settings.fit(self.name, known.world, facts)?;
        let draft = draft(rule, intent, facts, known.world, &models, &self.settings);
        let count = facts.vms.len().max(1);
        let window = intent.max_parallel.map_or(draft.window, |most| most as usize);
        let concurrency = u32::try_from(window.clamp(1, count)).unwrap_or(u32::MAX);
        let mut notes = Vec::new();
        let own =
            |vm: &usize| technique_of(intent, &facts.vms[*vm], draft.techniques[*vm], &mut notes);
        let techniques = draft.order.iter().map(own).collect::<Result<Vec<_>, _>>()?;
        let concurrency = exposed_within(intent, concurrency, &techniques);
        let mut moves = Vec::new();
        for (vm, technique) in draft.order.iter().zip(techniques) {
            let fact = &facts.vms[*vm];
            let mut step = plan_move(intent, facts, fact, technique, concurrency);
            if let Some(first) = draft.after[*vm] {
                step.start = StartRule::AfterEnd(facts.vms[first].vm.clone());
            }
            if technique == Technique::PreCopy
                && let Some(ladder) = &draft.ladder
            {
                step.ladder = Some(ladder.clone());
                step.max_passes = u32::MAX;
                step.fallback = Fallback::Abort;
            }
            if draft.patient_hybrid {
                step.switch.after_pass = intent.max_passes;
            }
            if let Some(passes) = self.settings.count("passes") {
                step.switch.after_pass = passes;
            }
            if let Some(ratio) = self.settings.number("ratio") {
                step.switch.stalled_ratio = ratio;
            }
            let ceiling = draft.ceilings[*vm];
            if ceiling.is_finite() && step.bandwidth.bandwidth().is_none() {
                step.bandwidth = limit(ceiling);
            }
            moves.push(step);
        }
        let mut plan = self.plan_of(id, intent, facts, concurrency, moves);
        plan.turns = draft.turns;
        plan.start_after = draft.wait.map(after);
        if let Some(share) = draft.reserved
            && intent.shaping
            && intent.reserve == Reserve::Auto
        {
            plan.reservations = reservations(intent, facts.port_rate.scaled(share));
        }
        Ok(Made { plan, notes, reasoning: None })
    }

    /// Every VM by pre-copy, one after the other: what a policy changes.
    pub(crate) fn alone(
        &self,
        id: &str,
        intent: &Intent,
        facts: &GangFacts,
        known: Known<'_>,
    ) -> Result<(Plan, Vec<MoveModel>), PolicyError> {
        let mut alone = Vec::new();
        for fact in &facts.vms {
            let technique = technique_of(intent, fact, Technique::PreCopy, &mut Vec::new())?;
            let mut step = plan_move(intent, facts, fact, technique, 1);
            if self.searches() {
                step.aim_below(&known.calibration.constants);
            }
            alone.push(step);
        }
        let serial = self.plan_of(id, intent, facts, 1, alone);
        let (models, _) = play::moves(&serial, known.world)?;
        Ok((serial, models))
    }

    /// How hard `adaptive` searches, and what it may choose; the defaults for any other.
    #[must_use]
    pub fn effort(&self) -> Effort {
        let default = Effort::default();
        if !self.searches() {
            return default;
        }
        // Places of words: see the parameters.
        let technique = match self.settings.count("technique") {
            Some(1) => Some(Technique::PreCopy),
            Some(2) => Some(Technique::PostCopy),
            Some(3) => Some(Technique::Hybrid),
            _ => None,
        };
        Effort {
            plays: self.settings.count("plays").map(|plays| plays as usize),
            seed: self.settings.count("seed").map_or(default.seed, u64::from),
            finish_times: self.settings.number("finish").unwrap_or(default.finish_times),
            levers: Levers {
                technique,
                order_given: self.settings.count("order") == Some(1),
                never_worse: self.settings.count("never-worse") != Some(1),
            },
        }
    }

    fn plan_adaptive(
        &self,
        id: &str,
        intent: &Intent,
        facts: &GangFacts,
        known: Known<'_>,
    ) -> Result<Made, PolicyError> {
        let (serial, models) = self.alone(id, intent, facts, known)?;
        let Some(proposal) = propose(intent, facts, known, &serial.moves, models, self.effort())
        else {
            return Ok(Made { plan: serial, notes: Vec::new(), reasoning: None });
        };
        let mut moves = proposal.moves;
        for step in &mut moves {
            let share = facts.port_rate.tcp_payload().divided(proposal.concurrency);
            // A pace of the planner's own holds for the switchover too.
            let own = step.bandwidth.bandwidth().filter(|_| intent.bandwidth.bandwidth().is_none());
            step.switchover_bandwidth = own.map_or(share, |pace| pace.min(share));
        }
        let mut plan = self.plan_of(id, intent, facts, proposal.concurrency, moves);
        plan.start_after = proposal.wait.map(after);
        if let Some(share) = proposal.share {
            plan.reservations = reservations(intent, facts.port_rate.scaled(share));
        }
        Ok(Made { plan, notes: Vec::new(), reasoning: Some(proposal.reasoning) })
    }

    fn plan_of(
        &self,
        id: &str,
        intent: &Intent,
        facts: &GangFacts,
        concurrency: u32,
        moves: Vec<Move>,
    ) -> Plan {
        let hosts = (intent.source.clone(), intent.target.clone());
        let mut plan = Plan::new(id, &self.text, hosts, concurrency, moves);
        plan.urgency = intent.urgency;
        plan.deadline = intent.deadline;
        plan.max_exposed = intent.max_exposed;
        plan.tuning = intent.tuning;
        // Whoever names a rate has it with any policy.
        if let Some(rate) = intent.reserve.of(facts.port_rate).filter(|_| intent.shaping) {
            plan.reservations = reservations(intent, rate);
        }
        plan
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod tests;
