//! The lint of plans: every invariant that a plan can break, as data. Tests, command line and driver use the same list.

use crate::{
    habits::Ladder,
    plan::{Fallback, Plan, StartRule},
    policy::GangFacts,
};
use droveway_fleet::{Technique, VmId};
use std::{collections::BTreeSet, fmt};

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
    /// The VM would have two attempts at once.
    MovedTwice(VmId),
    /// The VM must never be split between two hosts, but its technique or fallback would do so.
    PostcopyForbidden(VmId),
    /// The downtime aimed at is longer than the VM bears.
    DowntimeAboveLimit(VmId),
    /// The VM waits for one that does not move before it.
    WaitsForNobody(VmId),
    /// A bound of zero would end the attempt before it began.
    ZeroBound(VmId, &'static str),
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
        }
    }
}

/// All invariants that the plan breaks, in a stable order; empty for a sound plan.
#[must_use]
pub fn check(plan: &Plan, facts: &GangFacts) -> Vec<Violation> {
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
        if let StartRule::AfterEnd(first) = &step.start
            && (first == vm || !seen.contains(first))
        {
            found.push(Violation::WaitsForNobody(vm.clone()));
        }
        let stops = step.technique == Technique::StopAndCopy;
        if !stops && fact.max_downtime.is_some_and(|limit| step.downtime_limit > limit) {
            found.push(Violation::DowntimeAboveLimit(vm.clone()));
        }
        for (zero, what) in [
            (step.max_passes == 0, "the number of passes"),
            (step.downtime_limit.is_zero(), "the downtime limit"),
            (step.switchover_bandwidth.is_zero(), "the switchover bandwidth"),
            (step.switchover_limit.is_zero(), "the time for switchover"),
        ] {
            if zero {
                found.push(Violation::ZeroBound(vm.clone(), what));
            }
        }
    }
    found
}
