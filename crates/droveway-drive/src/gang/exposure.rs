//! At most [`Plan::max_exposed`](droveway_plan::Plan::max_exposed) VMs have their memory split at once, whatever the plan's
//! forecast was: a start by post-copy and every switch to it, also one by fallback, by a product's rule or by an operator's wish,
//! waits until there is room. It waits for the ends of other attempts, each of which is bounded; where only VMs are left that need
//! an operator to be put together again, nobody will make room, and those that wait stay at the source.

use super::GangDriver;
use crate::{record::Phase, vm::VmDriver};
use droveway_fleet::{Technique, Timestamp};

impl GangDriver {
    /// Whether another VM may be exposed now.
    pub(super) fn has_room_to_expose(&self) -> bool {
        self.plan.max_exposed.is_none_or(|most| self.exposed() < most as usize)
    }

    fn exposed(&self) -> usize {
        self.drivers.values().filter(|driver| driver.is_exposed()).count()
    }

    /// Lets due switches happen as far as there is room, in the plan's order, and holds all others back once there is none.
    pub(super) fn keep_exposure(&mut self, now: Timestamp) {
        let Some(most) = self.plan.max_exposed else { return };
        let mut room = (most as usize).saturating_sub(self.exposed());
        for step in &self.plan.moves {
            let Some(driver) = self.drivers.get_mut(&step.vm) else { continue };
            if !driver.is_exposed() {
                driver.hold_postcopy(now, room == 0);
                room -= usize::from(driver.is_exposed()).min(room);
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
