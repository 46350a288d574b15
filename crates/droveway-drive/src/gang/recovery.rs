//! Several VMs whose post-copy is broken share one path, so they are renewed one after the other: who goes first has the path's
//! first milliseconds for the pages that its guest waits for. First comes whose deadline is the nearest, then whose downtime is
//! to be the shortest, then who has been split for longest, then the plan's order. Nobody waits for another longer than
//! [`TURN_LIMIT`].

use super::GangDriver;
use crate::{
    operator::{Accepted, Refusal},
    record::Outcome,
    vm::{Beat, ConnectionSample, Request, VmDriver},
};
use droveway_fleet::{TimeSpan, Timestamp, VmId};
use std::time::Duration;

/// A renewal takes some milliseconds where the path is there. One that takes longer has met something else, which need not be in
/// the others' way.
const TURN_LIMIT: Duration = Duration::from_millis(300);

impl GangDriver {
    /// Takes what the kernels at both ends say of the connections of a VM's migration. To be called some times a second.
    pub fn handle_connection(&mut self, now: Timestamp, vm: &VmId, sample: ConnectionSample) {
        if let Some(driver) = self.drivers.get_mut(vm) {
            driver.handle_connection(now, sample);
        }
        self.admit(now);
    }

    /// Takes a heartbeat between the plan's two hosts, or its answer.
    pub fn handle_beat(&mut self, now: Timestamp, beat: Beat) {
        for driver in self.drivers.values_mut() {
            driver.handle_beat(now, beat);
        }
        self.admit(now);
    }

    /// Whether any VM's memory is split, so that heartbeats between the hosts are of use.
    #[must_use]
    pub fn depends_on_path(&self) -> bool {
        self.drivers.values().any(VmDriver::depends_on_path)
    }

    /// Begins the renewals that are due, in order.
    pub(super) fn renew_in_order(&mut self, now: Timestamp) {
        while self.turn_ends(now).is_none_or(|end| end <= now) {
            let due = |(vm, driver): (&VmId, &VmDriver)| {
                driver.renewal_due().filter(|due| *due <= now).map(|_| self.rank(vm, driver))
            };
            let Some((.., vm)) = self.drivers.iter().filter_map(due).min() else { return };
            if let Some(driver) = self.drivers.get_mut(&vm) {
                driver.begin_renewal(now);
            }
        }
    }

    /// When the next one may begin: those that are being renewed have had their turns then.
    fn turn_ends(&self, now: Timestamp) -> Option<Timestamp> {
        let turns = self.drivers.values().filter_map(VmDriver::renewing_since);
        turns.map(|since| since + TURN_LIMIT).filter(|end| *end > now).max()
    }

    /// When a renewal is due.
    pub(super) fn renewal_due(&self) -> Option<Timestamp> {
        let due = self.drivers.values().filter_map(VmDriver::renewal_due).min()?;
        let turns = self.drivers.values().filter_map(VmDriver::renewing_since);
        Some(turns.map(|since| since + TURN_LIMIT).fold(due, Timestamp::max))
    }

    /// The smallest goes first.
    fn rank(&self, vm: &VmId, driver: &VmDriver) -> (Duration, Duration, Timestamp, usize, VmId) {
        let known = self.adapter.as_ref().and_then(|adapter| adapter.own_deadline(vm));
        let own = self.wishes.deadline_of(vm).unwrap_or(known);
        let common = self.plan.deadline.map(TimeSpan::duration);
        let deadline = [own, common].into_iter().flatten().min().unwrap_or(Duration::MAX);
        let bears = self.bears.get(vm).copied().unwrap_or(Duration::MAX);
        let split = driver.split_since().or(driver.broken_since()).unwrap_or_default();
        let place = self.plan.moves.iter().position(|step| step.vm == *vm).unwrap_or(usize::MAX);
        (deadline, bears, split, place, vm.clone())
    }

    /// An operator wants a broken post-copy to be tried at once.
    pub(super) fn recover(&mut self, now: Timestamp, vm: &VmId) -> Result<Accepted, Refusal> {
        let driver = self.drivers.get(vm).ok_or_else(|| Refusal::NotInRun(vm.clone()))?;
        match driver.outcome() {
            Some(Outcome::NeedsRecovery) => return Err(Refusal::GivenUp(vm.clone())),
            Some(_) => return Err(Refusal::Over(vm.clone())),
            None => {}
        }
        self.ask_vm(now, vm, Request::Recover)?;
        Ok(Accepted {
            choice: format!("{vm} is tried at once"),
            vms: vec![vm.clone()],
            past_return: Vec::new(),
            replans: false,
        })
    }
}
