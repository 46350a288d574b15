//! The lint of plans: every invariant that a plan can break, as data. Tests, command line and driver use the same list.
//!
//! - [`contradictions`] needs the plan alone: what is wrong in any world.
//! - [`check`] adds what the VMs and ports allow.
//! - [`check_at`] adds what has changed since the plan was made.

use crate::{
    habits::Ladder,
    plan::{Direction, Fallback, Move, Plan, SNAPSHOT_MAX_AGE, StartRule},
    policy::GangFacts,
};
use droveway_fleet::{Bandwidth, HostId, Technique, TimeSpan, VmId};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// An invariant that a plan breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Source and target are the same host.
    SameHost,
    /// The plan moves nothing.
    Empty,
    /// Nothing may move at once.
    NoConcurrency,
    /// The VM is not in the fleet, or not at the source.
    UnknownVm(VmId),
    /// The VM would have two attempts at once, and so perhaps two copies.
    MovedTwice(VmId),
    /// The VM must never be split between two hosts, but its technique or fallback would do so.
    PostcopyForbidden(VmId),
    /// The downtime aimed at is longer than the VM bears.
    DowntimeAboveLimit(VmId),
    /// The VM waits for one that does not move before it.
    WaitsForNobody(VmId),
    /// A bound of zero would end the attempt before it began.
    ZeroBound(VmId, &'static str),
    /// The switchover counts on more than the port carries, so that its downtime would be longer than planned.
    SwitchoverAbovePort(VmId),
    /// As far as the plan says, the VM cannot start before it, or the last VM, has to have arrived.
    DeadlineBeforeStart(VmId),
    /// More VMs than allowed would surely have their memory split at once: so many post-copies start in the same instant.
    /// What hybrids and fallbacks come to depends on their course, so it is the driver that keeps the limit: it holds a switch
    /// back while the limit is reached, whatever plan it carries out. Here only what the plan itself says is refused.
    ExposureAboveLimit {
        /// So many post-copies start together.
        at_once: u32,
        /// So many may be exposed at once.
        limit: u32,
    },
    /// VMs that are useful only together would be on two hosts.
    GroupSplit {
        /// The group.
        group: String,
        /// Those of it that the plan leaves at the source.
        stay: Vec<VmId>,
    },
    /// Reservations exceed what the port carries in one direction.
    OverReservedPort {
        /// The host whose port it is.
        port: HostId,
        /// The direction.
        direction: Direction,
        /// The sum of its reservations.
        reserved: Bandwidth,
        /// What it carries.
        capacity: Bandwidth,
    },
    /// A reservation on a port that the moves do not use.
    ReservedElsewhere(HostId),
    /// The snapshot that the plan was made from is too old.
    StaleSnapshot {
        /// How old it is.
        age: TimeSpan,
        /// How old it may be.
        max: TimeSpan,
    },
    /// A later plan has replaced this one.
    StaleGeneration {
        /// This plan's generation.
        generation: u32,
        /// The highest that was seen.
        seen: u32,
    },
    /// The VM is at the target already: a second copy would start there.
    AlreadyThere(VmId),
    /// The VM has gone to another host.
    Elsewhere(VmId, HostId),
    /// The VM's vCPUs run although they did not, or the other way round.
    PausedDifferently(VmId, Paused),
}

/// Whether a VM's vCPUs stand still now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paused {
    /// They do; when the plan was made they ran.
    Now,
    /// They run; when the plan was made they did not.
    Then,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::SameHost => write!(f, "source and target are the same host"),
            Violation::Empty => write!(f, "there is no VM to move"),
            Violation::NoConcurrency => write!(f, "no VM may move: concurrency is 0"),
            Violation::UnknownVm(vm) => write!(f, "VM '{vm}' is not at the source"),
            Violation::MovedTwice(vm) => write!(f, "VM '{vm}' would be moved twice"),
            Violation::PostcopyForbidden(vm) => {
                write!(f, "VM '{vm}' forbids post-copy (allowPostcopy: false)")
            }
            Violation::DowntimeAboveLimit(vm) => {
                write!(f, "VM '{vm}' bears less downtime than the plan aims at")
            }
            Violation::WaitsForNobody(vm) => {
                write!(f, "VM '{vm}' would wait for one that does not move before it")
            }
            Violation::ZeroBound(vm, what) => write!(f, "VM '{vm}': {what} is 0"),
            Violation::SwitchoverAbovePort(vm) => {
                write!(f, "VM '{vm}': its switchover counts on more than the port carries")
            }
            Violation::DeadlineBeforeStart(vm) => {
                write!(f, "VM '{vm}' has to have arrived before it can start")
            }
            Violation::ExposureAboveLimit { at_once, limit } => write!(
                f,
                "{at_once} VMs would start by post-copy at once, but at most {limit} may be exposed"
            ),
            Violation::GroupSplit { group, stay } => {
                let stay: Vec<_> = stay.iter().map(VmId::as_str).collect();
                write!(f, "group '{group}' would be split: {} stays behind", stay.join(", "))
            }
            Violation::OverReservedPort { port, direction, reserved, capacity } => {
                let direction = match direction {
                    Direction::Tx => "sent",
                    Direction::Rx => "received",
                };
                write!(
                    f,
                    "{} are reserved of what host '{port}' may have {direction}, its port carries {}",
                    reserved.human(),
                    capacity.human()
                )
            }
            Violation::ReservedElsewhere(port) => {
                write!(f, "host '{port}' has a reservation, but it is neither source nor target")
            }
            Violation::StaleSnapshot { age, max } => {
                let age = age.duration().as_secs();
                write!(f, "its snapshot is {age} s old, at most {max} are allowed")
            }
            Violation::StaleGeneration { generation, seen } => {
                write!(f, "it is of generation {generation}, but generation {seen} has replaced it")
            }
            Violation::AlreadyThere(vm) => write!(f, "VM '{vm}' is at the target already"),
            Violation::Elsewhere(vm, host) => write!(f, "VM '{vm}' is on host '{host}' now"),
            Violation::PausedDifferently(vm, Paused::Now) => {
                write!(f, "VM '{vm}' is paused, but ran when the plan was made")
            }
            Violation::PausedDifferently(vm, Paused::Then) => {
                write!(f, "VM '{vm}' runs, but was paused when the plan was made")
            }
        }
    }
}

impl Violation {
    /// The field of the plan that is to blame, like `moves[1].maxPasses`.
    #[must_use]
    pub fn field(&self, plan: &Plan) -> String {
        // The last of them: of a VM that is moved twice, the second move is the mistake.
        let of = |vm: &VmId, field: &str| {
            let index = plan.moves.iter().rposition(|step| step.vm == *vm);
            index.map_or_else(|| "moves".to_owned(), |index| format!("moves[{index}].{field}"))
        };
        match self {
            Violation::SameHost => "target".to_owned(),
            Violation::Empty | Violation::GroupSplit { .. } => "moves".to_owned(),
            Violation::NoConcurrency => "concurrency".to_owned(),
            Violation::UnknownVm(vm)
            | Violation::MovedTwice(vm)
            | Violation::AlreadyThere(vm)
            | Violation::Elsewhere(vm, _) => of(vm, "vm"),
            Violation::PostcopyForbidden(vm) => of(vm, "technique"),
            Violation::DowntimeAboveLimit(vm) => of(vm, "downtimeLimit"),
            Violation::WaitsForNobody(vm) | Violation::DeadlineBeforeStart(vm) => of(vm, "start"),
            Violation::ZeroBound(vm, what) => {
                let zero = BOUNDS.iter().find(|bound| bound.what == *what);
                of(vm, zero.map_or("vm", |bound| bound.field))
            }
            Violation::SwitchoverAbovePort(vm) => of(vm, "switchoverBandwidth"),
            Violation::ExposureAboveLimit { .. } => "maxExposed".to_owned(),
            Violation::OverReservedPort { .. } | Violation::ReservedElsewhere(_) => {
                "reservations".to_owned()
            }
            Violation::StaleSnapshot { .. } => "snapshotTakenAt".to_owned(),
            Violation::StaleGeneration { .. } => "generation".to_owned(),
            Violation::PausedDifferently(..) => "paused".to_owned(),
        }
    }

    /// What to write instead, where that mends it. Of everything else the remedy is a new plan.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Violation::SameHost => Some("name another host"),
            Violation::Empty => Some("name at least one"),
            Violation::NoConcurrency | Violation::ZeroBound(..) => Some("it must be at least 1"),
            Violation::MovedTwice(_) => Some("leave one of the two moves out"),
            Violation::WaitsForNobody(_) => Some("name a VM whose move stands before it"),
            Violation::ReservedElsewhere(_) => Some("leave it out"),
            Violation::GroupSplit { .. } => Some("move its other VMs too"),
            _ => None,
        }
    }
}

/// What must not be zero.
struct Bound {
    what: &'static str,
    field: &'static str,
    is_zero: fn(&Move) -> bool,
}

const BOUNDS: [Bound; 4] = [
    Bound {
        what: "the number of passes",
        field: "maxPasses",
        is_zero: |step| step.max_passes == 0,
    },
    Bound {
        what: "the downtime limit",
        field: "downtimeLimit",
        is_zero: |step| step.downtime_limit.is_zero(),
    },
    Bound {
        what: "the switchover bandwidth",
        field: "switchoverBandwidth",
        is_zero: |step| step.switchover_bandwidth.is_zero(),
    },
    Bound {
        what: "the time for switchover",
        field: "switchoverLimit",
        is_zero: |step| step.switchover_limit.is_zero(),
    },
];

/// What the plan alone shows to be wrong, in a stable order.
#[must_use]
pub fn contradictions(plan: &Plan) -> Vec<Violation> {
    let mut found = Vec::new();
    if plan.source == plan.target {
        found.push(Violation::SameHost);
    }
    if plan.moves.is_empty() {
        found.push(Violation::Empty);
    }
    if plan.concurrency == 0 {
        found.push(Violation::NoConcurrency);
    }
    let mut seen = BTreeSet::new();
    for step in &plan.moves {
        let vm = &step.vm;
        if !seen.insert(vm) {
            found.push(Violation::MovedTwice(vm.clone()));
        }
        if let StartRule::AfterEnd(first) = &step.start
            && (first == vm || !seen.contains(first))
        {
            found.push(Violation::WaitsForNobody(vm.clone()));
        }
        for bound in BOUNDS.iter().filter(|bound| (bound.is_zero)(step)) {
            found.push(Violation::ZeroBound(vm.clone(), bound.what));
        }
    }
    let used = [&plan.source, &plan.target];
    let elsewhere = plan.reservations.iter().filter(|held| !used.contains(&&held.port));
    found.extend(elsewhere.map(|held| Violation::ReservedElsewhere(held.port.clone())));
    found
}

/// All invariants that the plan breaks, in a stable order; empty for a sound plan. A group can be seen to be split only
/// where `facts` has all VMs at the source, not just those that move.
#[must_use]
pub fn check(plan: &Plan, facts: &GangFacts) -> Vec<Violation> {
    let mut found = contradictions(plan);
    let starts = earliest_starts(plan);
    for step in &plan.moves {
        let vm = &step.vm;
        let Some(fact) = facts.vms.iter().find(|fact| fact.vm == *vm) else {
            found.push(Violation::UnknownVm(vm.clone()));
            continue;
        };
        let falls_back =
            step.fallback == Fallback::PostCopy && step.technique != Technique::StopAndCopy;
        let may_switch = step.ladder.as_ref().is_some_and(Ladder::may_postcopy);
        if !fact.allow_postcopy && (step.technique.exposes() || falls_back || may_switch) {
            found.push(Violation::PostcopyForbidden(vm.clone()));
        }
        let stops = step.technique == Technique::StopAndCopy;
        if !stops && fact.max_downtime.is_some_and(|limit| step.downtime_limit > limit) {
            found.push(Violation::DowntimeAboveLimit(vm.clone()));
        }
        if step.switchover_bandwidth > facts.port_rate {
            found.push(Violation::SwitchoverAbovePort(vm.clone()));
        }
        let due = fact.deadline.into_iter().chain(plan.deadline.map(TimeSpan::duration)).min();
        let start = starts.get(vm).copied().unwrap_or_default();
        if due.is_some_and(|due| due <= start) {
            found.push(Violation::DeadlineBeforeStart(vm.clone()));
        }
    }
    let at_once = exposed_at_once(plan);
    if let Some(limit) = plan.max_exposed.filter(|limit| at_once > *limit) {
        found.push(Violation::ExposureAboveLimit { at_once, limit });
    }
    found.extend(split_groups(plan, facts));
    found.extend(over_reserved(plan, facts.port_rate));
    found
}

/// What has to be known beside the facts to say whether a plan that was made earlier still holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Now {
    /// The age of the plan's snapshot; `None`: it was made without one.
    pub snapshot_age: Option<Duration>,
    /// How old it may be, over what the plan says.
    pub snapshot_max_age: Option<TimeSpan>,
    /// The highest generation that was seen of this plan, or of the one that it replaces.
    pub generation: Option<u32>,
    /// VMs on other hosts than the source.
    pub elsewhere: BTreeMap<VmId, HostId>,
    /// VMs whose vCPUs do not run.
    pub paused: BTreeSet<VmId>,
}

/// The same for a plan that was made earlier: it may have been overtaken by a later one, and the world may have moved on.
#[must_use]
pub fn check_at(plan: &Plan, facts: &GangFacts, now: &Now) -> Vec<Violation> {
    let mut found = Vec::new();
    if let Some(seen) = now.generation.filter(|seen| plan.generation < *seen) {
        found.push(Violation::StaleGeneration { generation: plan.generation, seen });
    }
    let max = now.snapshot_max_age.or(plan.snapshot_max_age).unwrap_or(SNAPSHOT_MAX_AGE);
    if let Some(age) = now.snapshot_age.filter(|age| *age > max.duration()) {
        found.push(Violation::StaleSnapshot { age: TimeSpan::from(age), max });
    }
    for violation in check(plan, facts) {
        let known = match &violation {
            Violation::UnknownVm(vm) => now.elsewhere.get(vm).map(|host| (vm, host)),
            _ => None,
        };
        found.push(match known {
            Some((vm, host)) if *host == plan.target => Violation::AlreadyThere(vm.clone()),
            Some((vm, host)) => Violation::Elsewhere(vm.clone(), host.clone()),
            None => violation,
        });
    }
    for step in &plan.moves {
        let vm = &step.vm;
        if !facts.vms.iter().any(|fact| fact.vm == *vm) {
            continue;
        }
        match (plan.paused.contains(vm), now.paused.contains(vm)) {
            (false, true) => found.push(Violation::PausedDifferently(vm.clone(), Paused::Now)),
            (true, false) => found.push(Violation::PausedDifferently(vm.clone(), Paused::Then)),
            (true, true) | (false, false) => {}
        }
    }
    found
}

/// When each VM starts at the earliest, as far as the plan says: it says nothing of how long a move takes.
fn earliest_starts(plan: &Plan) -> BTreeMap<&VmId, Duration> {
    let mut starts: BTreeMap<&VmId, Duration> = BTreeMap::new();
    for step in &plan.moves {
        let start = match &step.start {
            StartRule::InWindow => plan.start_after.map_or(Duration::ZERO, TimeSpan::duration),
            StartRule::AfterEnd(first) => starts.get(first).copied().unwrap_or_default(),
        };
        starts.insert(&step.vm, start);
    }
    starts
}

/// So many post-copies start in the same instant: those that fill the window at first, or those that wait for one VM.
fn exposed_at_once(plan: &Plan) -> u32 {
    let splits = |step: &&Move| step.technique == Technique::PostCopy;
    let in_window = plan.moves.iter().filter(|step| step.start == StartRule::InWindow);
    let first = in_window.take(plan.concurrency as usize).filter(splits).count();
    let waiting = |vm: &VmId| {
        let after = |step: &&Move| step.start == StartRule::AfterEnd(vm.clone());
        plan.moves.iter().filter(after).filter(splits).count()
    };
    let most = plan.moves.iter().map(|step| waiting(&step.vm)).fold(first, usize::max);
    u32::try_from(most).unwrap_or(u32::MAX)
}

fn split_groups(plan: &Plan, facts: &GangFacts) -> Vec<Violation> {
    let mut groups: BTreeMap<&str, (usize, Vec<VmId>)> = BTreeMap::new();
    for fact in &facts.vms {
        let Some(group) = &fact.group else { continue };
        let (moved, stay) = groups.entry(group).or_default();
        if plan.step(fact.vm.as_str()).is_some() {
            *moved += 1;
        } else {
            stay.push(fact.vm.clone());
        }
    }
    let split = groups.into_iter().filter(|(_, (moved, stay))| *moved > 0 && !stay.is_empty());
    split
        .map(|(group, (_, stay))| Violation::GroupSplit { group: group.to_owned(), stay })
        .collect()
}

fn over_reserved(plan: &Plan, capacity: Bandwidth) -> Vec<Violation> {
    let mut held: BTreeMap<(&HostId, Direction), Bandwidth> = BTreeMap::new();
    for one in &plan.reservations {
        let sum = held.entry((&one.port, one.direction)).or_insert(Bandwidth::ZERO);
        *sum = *sum + one.rate;
    }
    let over = held.into_iter().filter(|(_, reserved)| *reserved > capacity);
    over.map(|((port, direction), reserved)| Violation::OverReservedPort {
        port: port.clone(),
        direction,
        reserved,
        capacity,
    })
    .collect()
}

#[cfg(test)]
pub(crate) mod tests;
