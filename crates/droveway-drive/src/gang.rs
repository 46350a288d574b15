//! One plan for a gang: who prepares, who starts when, who ends. Owns the [`VmDriver`]s.
//!
//! All VMs are prepared first, so that no fixed cost falls between two moves; then a sliding window of
//! [`Plan::concurrency`] streams uses the port: the next VM in the plan's order starts in the same instant in which one
//! leaves it. A move whose start is [`StartRule::AfterEnd`] waits for that VM alone. A VM that fails or is rolled back leaves the others untouched.
//! Never are more VMs exposed at once than the plan allows: [`exposure`]. Switchovers do not coincide: [`stagger`].
//! Where ports have no classes streams of low urgency yield: [`yielding`].
//! Broken post-copies are renewed one after the other: [`recovery`].

mod adapt;
mod exposure;
mod operate;
mod recovery;
mod stagger;
mod yielding;

pub use adapt::GangAction;
pub(crate) use adapt::is_unpaced;
pub(crate) use exposure::PROGRESS;
pub use operate::OPERATOR;
pub use yielding::PortsSeen;

use crate::{
    action::{Action, ActionError, ActionId, Reply, Settings},
    adapt::{Adaptation, Adapter},
    input::{QemuEvent, Side},
    record::{Decision, Outcome, Phase, Record},
    vm::{Request, RequestDenied, VmDriver},
};
use droveway_fleet::{RateLimit, Technique, Timestamp, VmId};
use droveway_plan::{Plan, StartRule, Violation, check::contradictions, replan::Wishes};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use yielding::Yielding;

/// One plan's driver.
#[derive(Debug)]
pub struct GangDriver {
    plan: Plan,
    drivers: BTreeMap<VmId, VmDriver>,
    started: bool,
    /// It goes on with what a dead controller began.
    taken_over: bool,
    cancelled: bool,
    /// Whose turn it is, where streams take turns.
    turn: Option<VmId>,
    /// Deadlines count from it.
    started_at: Timestamp,
    /// Nobody starts before.
    begins_at: Timestamp,
    has_begun: bool,
    /// What it notices changes by, if it adapts.
    adapter: Option<Adapter>,
    /// What an operator has asked for since the run began.
    wishes: Wishes,
    /// What VMs bear of downtime, whatever is asked for the gang.
    bears: BTreeMap<VmId, Duration>,
    /// What plans say of background streams after a switch, apart from an operator's ceiling.
    background: BTreeMap<VmId, RateLimit>,
    /// Whose stream goes before the others.
    first: Option<VmId>,
    /// How streams yield to applications, where the kernel does not see to it.
    yielding: Option<Yielding>,
    /// What each stream may take for it.
    yields_to: RateLimit,
    /// Drained by the shell after each input, so as many as one input leads to.
    actions: VecDeque<GangAction>,
    decisions: VecDeque<Decision>,
}

impl GangDriver {
    /// A driver of `plan`; `was_running` says of each VM whether its vCPUs run now (a VM it does not name is taken to).
    ///
    /// # Errors
    /// What contradicts itself in the plan: such a one might never end, or move a VM twice at once.
    pub fn new(plan: Plan, was_running: &BTreeMap<VmId, bool>) -> Result<Self, Vec<Violation>> {
        let contradictions = contradictions(&plan);
        if !contradictions.is_empty() {
            return Err(contradictions);
        }
        let driver = |step: &droveway_plan::Move| {
            let runs = was_running.get(&step.vm).copied().unwrap_or(true);
            let mut driver = VmDriver::new(step.clone(), runs);
            driver.renew_in_turn();
            (step.vm.clone(), driver)
        };
        let drivers = plan.moves.iter().map(driver).collect();
        Ok(GangDriver {
            background: GangDriver::planned_background(&plan),
            plan,
            drivers,
            started: false,
            taken_over: false,
            cancelled: false,
            turn: None,
            started_at: Timestamp::ZERO,
            begins_at: Timestamp::ZERO,
            has_begun: false,
            adapter: None,
            wishes: Wishes::default(),
            bears: BTreeMap::new(),
            first: None,
            yielding: None,
            yields_to: RateLimit::Unlimited,
            actions: VecDeque::new(),
            decisions: VecDeque::new(),
        })
    }

    /// The same, with drivers that go on with attempts whose controller died, in place of fresh ones; VMs of which there is
    /// nothing to drive any more are left out. Nobody waits for a quieter phase a second time.
    #[must_use]
    pub fn taking_over(
        mut self,
        now: Timestamp,
        adopted: impl IntoIterator<Item = VmDriver>,
        over: &[VmId],
    ) -> Self {
        for mut driver in adopted {
            driver.renew_in_turn();
            self.drivers.insert(driver.plan().vm.clone(), driver);
        }
        self.drivers.retain(|vm, _| !over.contains(vm));
        self.taken_over = true;
        if self.plan.max_exposed.is_none() {
            for driver in self.drivers.values_mut() {
                driver.hold_postcopy(now, false);
            }
        }
        self.keep_exposure(now);
        self
    }

    /// The same, which asks a planner when the run leaves its forecast. Plans with rules of their own
    /// ([`droveway_plan::replan::may_follow`]) are carried out as they are.
    #[must_use]
    pub fn adapting(mut self, adaptation: Adaptation) -> Self {
        if droveway_plan::replan::may_follow(&self.plan) {
            self.adapter = Some(Adapter::new(adaptation));
        }
        self
    }

    /// The same, whose VMs' sources are set to what they were set to before if they stay there.
    #[must_use]
    pub fn restoring(mut self, before: &BTreeMap<VmId, Settings>) -> Self {
        for (vm, driver) in &mut self.drivers {
            if let Some(before) = before.get(vm) {
                driver.set_before(before.clone());
            }
        }
        self
    }

    /// Prepares every VM, without touching its memory.
    pub fn prepare(&mut self, now: Timestamp) {
        for driver in self.drivers.values_mut() {
            driver.prepare(now);
        }
    }

    /// True once no VM is preparing any more.
    #[must_use]
    pub fn is_prepared(&self) -> bool {
        self.drivers.values().all(|d| !matches!(d.phase(), Phase::Pending | Phase::Preparing))
    }

    /// Starts the plan's first moves.
    pub fn start(&mut self, now: Timestamp) {
        (self.started, self.started_at) = (true, now);
        let wait = self.plan.start_after.filter(|_| !self.taken_over);
        let wait = wait.map(droveway_fleet::TimeSpan::duration);
        self.begins_at = now + wait.unwrap_or_default();
        if let Some(adapter) = &mut self.adapter {
            adapter.begin(now);
        }
        self.admit(now);
    }

    /// An event of one VM's QEMU.
    pub fn handle_event(&mut self, now: Timestamp, vm: &VmId, side: Side, event: QemuEvent) {
        let ends_turn = matches!(event, QemuEvent::Pass(pass) if pass >= 2) && side == Side::Source;
        if let Some(driver) = self.drivers.get_mut(vm) {
            driver.handle_event(now, side, event);
        }
        self.admit(now);
        if ends_turn && self.turn.as_ref() == Some(vm) {
            self.pass_turn();
        }
        self.look(now);
    }

    /// The answer to an action of one VM.
    pub fn handle_reply(
        &mut self,
        now: Timestamp,
        vm: &VmId,
        id: ActionId,
        reply: Result<Reply, ActionError>,
    ) {
        if let Some(driver) = self.drivers.get_mut(vm) {
            driver.handle_reply(now, id, reply);
        }
        self.admit(now);
        self.look(now);
    }

    /// To be called when the time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        let vms: Vec<VmId> = self.drivers.keys().cloned().collect();
        for vm in vms {
            if let Some(driver) = self.drivers.get_mut(&vm) {
                driver.handle_timeout(now);
            }
            // One after the other: each may take the room of the next.
            self.keep_exposure(now);
            self.keep_apart(now);
        }
        self.admit(now);
        self.look(now);
    }

    /// An operator's wish about one VM.
    ///
    /// # Errors
    /// [`RequestDenied`]; [`RequestDenied::NotMigrating`] for a VM that is not in the plan.
    pub fn request(
        &mut self,
        now: Timestamp,
        vm: &VmId,
        request: Request,
    ) -> Result<(), RequestDenied> {
        let driver = self.drivers.get_mut(vm).ok_or(RequestDenied::NotMigrating)?;
        let answer = driver.request(now, request);
        self.admit(now);
        answer
    }

    /// No further VM starts, and every VM that can still stay at the source does. Returns those that cannot.
    pub fn cancel(&mut self, now: Timestamp) -> Vec<VmId> {
        self.cancelled = true;
        let mut past_return = Vec::new();
        for (vm, driver) in &mut self.drivers {
            if driver.request(now, Request::Cancel) == Err(RequestDenied::PastReturn) {
                past_return.push(vm.clone());
            }
        }
        past_return
    }

    /// The next thing to do, if any.
    pub fn poll_action(&mut self) -> Option<(VmId, ActionId, Action)> {
        self.drivers.iter_mut().find_map(|(vm, driver)| {
            driver.poll_action().map(|(id, action)| (vm.clone(), id, action))
        })
    }

    /// The next thing that the gang as a whole wants done, if any.
    pub fn poll_gang_action(&mut self) -> Option<GangAction> {
        self.actions.pop_front()
    }

    /// The next decision about the gang to tell, if any.
    pub fn poll_decision(&mut self) -> Option<Decision> {
        self.decisions.pop_front()
    }

    /// The next thing to tell, if any. In order for each VM.
    pub fn poll_record(&mut self) -> Option<(VmId, Record)> {
        self.drivers
            .iter_mut()
            .find_map(|(vm, driver)| driver.poll_record().map(|record| (vm.clone(), record)))
    }

    /// When [`Self::handle_timeout`] must be called at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let waits = self.started && !self.cancelled && !self.has_begun;
        let begin = waits.then_some(self.begins_at);
        let looks = self.adapter.as_ref().and_then(|adapter| adapter.due(self.is_measured()));
        let looks = looks.filter(|_| self.has_begun && !self.cancelled);
        let own = self.drivers.values().filter_map(VmDriver::poll_timeout);
        own.chain(begin).chain(looks).chain(self.apart_due()).chain(self.renewal_due()).min()
    }

    /// The drivers, by VM.
    pub fn drivers(&self) -> impl Iterator<Item = (&VmId, &VmDriver)> {
        self.drivers.iter()
    }

    /// The driver of one VM.
    #[must_use]
    pub fn driver(&self, vm: &VmId) -> Option<&VmDriver> {
        self.drivers.get(vm)
    }

    /// The plan in force. A child of the one that the run began with has only VMs that had not ended when it was made.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// True once every attempt has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.drivers.values().all(|driver| driver.outcome().is_some())
    }

    /// How each VM's attempt ended, as far as it has.
    pub fn outcomes(&self) -> impl Iterator<Item = (&VmId, Outcome)> {
        self.drivers.iter().filter_map(|(vm, driver)| driver.outcome().map(|o| (vm, o)))
    }

    /// The turn goes to the next VM in the plan's order whose memory is being copied while it runs.
    fn pass_turn(&mut self) {
        let Some(turns) = self.plan.turns else { return };
        let order = || self.plan.moves.iter().map(|step| &step.vm);
        let holder = order().position(|vm| Some(vm) == self.turn.as_ref());
        let start = holder.map_or(0, |index| index + 1);
        let copies = |vm: &&VmId| {
            self.drivers.get(*vm).is_some_and(|driver| driver.phase() == Phase::PreCopy)
        };
        let next = order().skip(start).chain(order().take(start)).find(copies).cloned();
        if next == self.turn {
            return;
        }
        for (vm, rate) in [(self.turn.take(), turns.slow), (next.clone(), turns.fast)] {
            if let Some(driver) = vm.and_then(|vm| self.drivers.get_mut(&vm)) {
                driver.set_bandwidth(RateLimit::At(rate));
            }
        }
        self.turn = next;
    }

    fn admit(&mut self, now: Timestamp) {
        self.keep_exposure(now);
        self.keep_apart(now);
        self.admit_due(now);
        self.keep_exposure(now);
        self.keep_apart(now);
        self.give_way(now);
        self.renew_in_order(now);
        let holds = self.turn.as_ref().and_then(|vm| self.drivers.get(vm));
        if self.plan.turns.is_some() && holds.is_none_or(|driver| driver.phase() != Phase::PreCopy)
        {
            self.pass_turn();
        }
    }

    fn admit_due(&mut self, now: Timestamp) {
        if !self.started || self.cancelled || now < self.begins_at {
            return;
        }
        self.has_begun = true;
        // Whoever uses the port counts, also one that the plan in force does not name any more; not who waited for another.
        let waited = |vm: &VmId| {
            let step = self.plan.moves.iter().find(|step| step.vm == *vm);
            step.is_some_and(|step| step.start != StartRule::InWindow)
        };
        let uses_port = |(vm, driver): &(&VmId, &VmDriver)| driver.uses_port() && !waited(vm);
        let mut used = self.drivers.iter().filter(uses_port).count();
        let mut room = self.has_room_to_expose();
        for step in &self.plan.moves {
            let exposes = step.technique == Technique::PostCopy;
            let due = match &step.start {
                StartRule::InWindow => used < self.plan.concurrency as usize,
                StartRule::AfterEnd(vm) => {
                    self.drivers.get(vm).is_none_or(|first| first.outcome().is_some())
                }
            };
            let Some(driver) = self.drivers.get_mut(&step.vm) else { continue };
            if due && driver.is_ready() && (room || !exposes) {
                driver.start(now);
                used += usize::from(step.start == StartRule::InWindow);
                if exposes {
                    room = self.has_room_to_expose();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
