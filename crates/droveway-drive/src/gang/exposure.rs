//! At most [`Plan::max_exposed`](droveway_plan::Plan::max_exposed) VMs have their memory split at once, whatever the plan's
//! forecast was: a start by post-copy and every switch to it, also one by fallback, by a product's rule or by an operator's wish,
//! waits until there is room. It waits for the ends of other attempts, each of which is bounded; where only VMs are left that need
//! an operator to be put together again, nobody will make room, and those that wait stay at the source.
//!
//! Nor is another VM's memory split over a path that is known to be bad: while a VM of the run waits for the renewal of its
//! post-copy's path, or while the VM's own stream stands still ([`PROGRESS`]), which means an exposure without a bound. A switch
//! waits then until something arrives again; a stream that stands still for longer is given up as any other. Where what is left
//! would take too long at what the stream gets, the VM's own driver waits ([`droveway_plan::EXPOSURE_MAX`]).

use super::GangDriver;
use crate::{record::Phase, vm::VmDriver};
use droveway_fleet::{Technique, Timestamp, VmId};
use std::time::Duration;

/// A stream of which QEMU has sent nothing for so long stands still: it is asked every 100 to 200 ms, and neither a pass's end nor
/// a ceiling stops it for as long.
pub(crate) const PROGRESS: Duration = Duration::from_secs(1);

impl GangDriver {
    /// Whether another VM may be exposed now.
    pub(super) fn has_room_to_expose(&self) -> bool {
        let room = self.plan.max_exposed.is_none_or(|most| self.exposed() < most as usize);
        room && !self.is_path_broken()
    }

    /// Whether a VM's post-copy is broken, and so the path that the next one would need.
    fn is_path_broken(&self) -> bool {
        self.drivers.values().any(|driver| driver.outcome().is_none() && driver.is_cut_off())
    }

    fn exposed(&self) -> usize {
        self.drivers.values().filter(|driver| driver.is_exposed()).count()
    }

    /// Lets due switches happen as far as there is room, in the plan's order, and holds all others back once there is none.
    pub(super) fn keep_exposure(&mut self, now: Timestamp) {
        let most = self.plan.max_exposed.map_or(usize::MAX, |most| most as usize);
        let broken = self.is_path_broken();
        let mut room = if broken { 0 } else { most.saturating_sub(self.exposed()) };
        // The plan in force need not name everybody who is under way.
        let order: Vec<VmId> = self.plan.moves.iter().map(|step| step.vm.clone()).collect();
        let rest: Vec<VmId> =
            self.drivers.keys().filter(|vm| !order.contains(vm)).cloned().collect();
        for vm in order.iter().chain(&rest) {
            let Some(driver) = self.drivers.get_mut(vm) else { continue };
            let still = driver.stands_still(now);
            if !driver.is_exposed() {
                driver.hold_postcopy(now, room == 0 || still);
                room -= usize::from(driver.is_exposed()).min(room);
            } else if driver.waits_to_split() {
                // It has its place already: it began as a post-copy, or was made one.
                driver.hold_postcopy(now, broken || still);
            }
        }
        let moving = |driver: &&VmDriver| driver.is_exposed() && driver.outcome().is_none();
        if room > 0 || self.drivers.values().any(|driver| moving(&driver)) {
            return;
        }
        for step in &self.plan.moves {
            let Some(driver) = self.drivers.get_mut(&step.vm) else { continue };
            let waits = driver.phase() == Phase::Ready && step.technique == Technique::PostCopy;
            if waits && self.started || driver.waits_to_split() {
                driver
                    .give_up(now, "no further VM may be exposed, and none that is will be through");
            }
        }
    }
}
