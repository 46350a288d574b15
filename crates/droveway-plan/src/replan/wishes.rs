//! What an operator has asked for while a run was under way. It holds over what was asked for before.

use crate::policy::GangFacts;
use droveway_fleet::{Intent, RateLimit, TimeSpan, Urgency, VmId};
use std::{collections::BTreeMap, time::Duration};

/// What was asked for since the run began; what is not named holds as it was. A limit of `None` is the whole gang's. At most
/// one entry a VM and kind, so it is bounded by the gang.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wishes {
    /// How much the move matters.
    pub urgency: Option<Urgency>,
    /// When the VM, or all, have to have arrived, from the start of the run; `None`: there is no such time any more.
    pub deadlines: BTreeMap<Option<VmId>, Option<Duration>>,
    /// The ceilings of streams.
    pub bandwidth: BTreeMap<Option<VmId>, RateLimit>,
    /// The longest downtimes.
    pub downtime: BTreeMap<Option<VmId>, Duration>,
}

impl Wishes {
    /// True if nothing was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Wishes::default()
    }

    /// A ceiling is asked for: the gang's replaces those of its VMs.
    pub fn set_bandwidth(&mut self, vm: Option<VmId>, limit: RateLimit) {
        if vm.is_none() {
            self.bandwidth.clear();
        }
        self.bandwidth.insert(vm, limit);
    }

    /// A downtime is asked for: the gang's replaces those of its VMs.
    pub fn set_downtime(&mut self, vm: Option<VmId>, limit: Duration) {
        if vm.is_none() {
            self.downtime.clear();
        }
        self.downtime.insert(vm, limit);
    }

    /// The ceiling that was asked for a VM's stream, if one was.
    #[must_use]
    pub fn bandwidth_of(&self, vm: &VmId) -> Option<RateLimit> {
        self.bandwidth.get(&Some(vm.clone())).or_else(|| self.bandwidth.get(&None)).copied()
    }

    /// The deadline that was asked for a VM alone, if one was.
    #[must_use]
    pub fn deadline_of(&self, vm: &VmId) -> Option<Option<Duration>> {
        self.deadlines.get(&Some(vm.clone())).copied()
    }

    /// Puts it over what was asked for before. A VM's own limit holds beside the gang's unless the VM was named.
    pub fn amend(&self, intent: &mut Intent, facts: &mut GangFacts) {
        self.amend_intent(intent);
        for fact in &mut facts.vms {
            let own = Some(fact.vm.clone());
            if let Some(deadline) = self.deadlines.get(&own) {
                fact.deadline = *deadline;
            }
            if let Some(limit) = self.downtime.get(&own) {
                fact.max_downtime = Some(*limit);
            }
        }
    }

    /// The same of what concerns the whole gang.
    pub fn amend_intent(&self, intent: &mut Intent) {
        intent.urgency = self.urgency.unwrap_or(intent.urgency);
        if let Some(deadline) = self.deadlines.get(&None) {
            intent.deadline = deadline.map(TimeSpan::from);
        }
        if let Some(limit) = self.bandwidth.get(&None) {
            intent.bandwidth = *limit;
        }
        if let Some(limit) = self.downtime.get(&None) {
            intent.max_downtime = TimeSpan::from(*limit);
        }
    }

    /// What differs from what was asked for before, in words; empty: nothing.
    pub(super) fn text(&self) -> Vec<String> {
        let of = |vm: &Option<VmId>| vm.as_ref().map_or("the gang".to_owned(), ToString::to_string);
        let mut all = Vec::new();
        all.extend(self.urgency.map(|urgency| format!("urgency {urgency} was asked for")));
        for (vm, deadline) in &self.deadlines {
            all.push(match deadline {
                Some(at) => format!("deadline {:.1} s of {}", at.as_secs_f64(), of(vm)),
                None => format!("no deadline of {}", of(vm)),
            });
        }
        all.extend(self.bandwidth.iter().map(|(vm, limit)| format!("{limit} for {}", of(vm))));
        all
    }
}
