//! Switchovers that share a port do not coincide. A stopped VM waits for what is left of its state, and that shares the port with
//! every other stream: where hybrids move in parallel, each stood still for 30 to 130 ms instead of 25 (measured).
//!
//! - A switch to post-copy that falls due while another VM is being switched, or stands still, waits until that one runs again, but
//!   not longer than [`APART_LIMIT`]. Meanwhile its pre-copy goes on and may end by itself.
//! - When a pre-copy stops its VM is QEMU's decision. So the stream of a VM that stands still, or was asked to switch, goes before the
//!   others until it runs at the target ([`GangAction::GiveWay`]), for no longer than [`WAY_LIMIT`] before it stops and after. Where
//!   ports are held it goes before what applications are promised, too: of two post-copies that began together on ports of which
//!   little was held, the first waited 0.5 to 0.8 s for its state to arrive beside the applications of the second, who waited for
//!   the first (measured at 70 Mbit/s). And QEMU obeys only once it has sent what it is about to send: the second took 0.35 to 0.5 s
//!   to stop on what was held.

use super::{GangAction, GangDriver};
use crate::vm::VmDriver;
use droveway_fleet::{Timestamp, VmId};
use std::time::Duration;

/// No switch waits longer for another one: QEMU looks every 50 ms whether it is to switch, and a switch takes 25 to 130 ms
/// (measured); one that takes longer has met something else.
pub(super) const APART_LIMIT: Duration = Duration::from_millis(500);
/// No stream gives way for longer: a pre-copy may aim at some hundred milliseconds, and one that lasts seconds (stop-and-copy, a
/// dead path) is none for whose sake others should be slow.
pub(super) const WAY_LIMIT: Duration = Duration::from_secs(1);

impl GangDriver {
    /// Lets due switches happen one after the other.
    pub(super) fn keep_apart(&mut self, now: Timestamp) {
        let recent = |since: Timestamp| since + APART_LIMIT > now;
        let busy = |driver: &VmDriver| driver.switching_since().is_some_and(recent);
        let mut is_busy = self.drivers.values().any(busy);
        let order: Vec<VmId> = self.plan.moves.iter().map(|step| step.vm.clone()).collect();
        let rest = self.drivers.keys().filter(|vm| !order.contains(vm)).cloned();
        for vm in order.iter().cloned().chain(rest.collect::<Vec<_>>()) {
            let Some(driver) = self.drivers.get_mut(&vm) else { continue };
            if driver.switching_since().is_none() {
                driver.hold_switch(now, is_busy);
                is_busy |= busy(driver);
            }
        }
    }

    /// Says whose stream goes before the others, when that has changed.
    pub(super) fn give_way(&mut self, now: Timestamp) {
        let switching = |(vm, driver): (&VmId, &VmDriver)| {
            let (since, stopped) = (driver.switching_since()?, driver.stands_still_since());
            let recent = stopped.unwrap_or(since) + WAY_LIMIT > now;
            recent.then(|| (stopped.is_none(), stopped.unwrap_or(since), vm.clone()))
        };
        // Who stopped first is through first, and before who was only asked to. Alone on a port that nothing is held of there is
        // nobody to give way.
        let first = self.drivers.iter().filter_map(switching).min();
        let others = self.drivers.values().filter(|driver| driver.uses_port()).count() > 1;
        let held = !self.plan.reservations.is_empty();
        let first = first.filter(|_| others || held).map(|(.., vm)| vm);
        if first != self.first {
            self.first.clone_from(&first);
            self.actions.push_back(GangAction::GiveWay { to: first });
        }
    }

    /// When somebody has waited, or given way, for long enough.
    pub(super) fn apart_due(&self) -> Option<Timestamp> {
        let waits = self.drivers.values().any(VmDriver::waits_for_another);
        let switches = self.drivers.values().filter_map(VmDriver::switching_since);
        let over = switches.map(|since| since + APART_LIMIT).max().filter(|_| waits);
        let first = self.first.as_ref().and_then(|vm| self.drivers.get(vm));
        let since = |vm: &VmDriver| vm.stands_still_since().or_else(|| vm.switching_since());
        let way = first.and_then(since).map(|since| since + WAY_LIMIT);
        [over, way].into_iter().flatten().min()
    }
}
