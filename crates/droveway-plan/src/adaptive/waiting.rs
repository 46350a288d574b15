//! Start windows: whether a quieter phase of the traffic or of the dirtying is worth waiting for.

use super::{Known, context::Context, safety};
use crate::{
    search::{Judge, Task},
    window::{Of, Quiet, quiet},
};
use droveway_fleet::{Intent, Urgency};
use droveway_model::fluid::End;

/// At low urgency without a deadline so many times what the moves take may be waited.
const WAIT_TIMES: f64 = 10.0;
/// A second of waiting, in which nothing suffers, against one of moving.
const WAIT_WEIGHT: f64 = 0.1;
/// Traffic or dirtying of nothing at all is taken to be so much of its mean.
const SHARE_LEAST: f64 = 0.01;

impl Context<'_> {
    /// How long to wait for a quieter phase, and why; `None`: it starts at once. Only where there is slack: up to the latest
    /// safe start before a deadline; at low urgency without one, ten times what the moves take. Nobody waits at high or critical
    /// urgency, or at medium without a deadline.
    pub(super) fn worth_waiting(&self, intent: &Intent, known: Known<'_>) -> Option<(f64, String)> {
        let takes = self.cost.parts.total_seconds;
        let latest = self.latest_start(safety(known));
        let most = match intent.urgency {
            Urgency::Low if latest.is_infinite() => WAIT_TIMES * takes,
            Urgency::Low | Urgency::Medium if latest.is_finite() => latest,
            _ => return None,
        };
        let vms: Vec<usize> = self.task.movers.iter().map(|mover| mover.step.vm).collect();
        let worth = |of: Of| {
            let found = quiet(known.world, &vms, takes, most, of)?;
            self.gain(of, found, &vms)
        };
        let gains = [Of::Traffic, Of::Dirtying].into_iter().filter_map(worth);
        let (_, wait, text) = gains.max_by(|a, b| a.0.total_cmp(&b.0))?;
        Some((wait, text))
    }

    /// How late the first VM may start so that every deadline is kept even if the forecast is off, seconds; infinite without a
    /// deadline.
    fn latest_start(&self, safety: f64) -> f64 {
        let moves = self.schedule.order.iter().zip(&self.course.moves);
        let own = |(index, step): (&usize, &droveway_model::fluid::MoveCourse)| {
            self.bare.movers[*index].deadline.min(self.bare.deadline) - safety * step.end_seconds
        };
        moves.map(own).fold(f64::INFINITY, f64::min)
    }

    /// What waiting gains more than it costs, the wait, and both in words.
    fn gain(&self, of: Of, found: Quiet, vms: &[usize]) -> Option<(f64, f64, String)> {
        let cost = |share: f64| {
            let task = self.with(of, share.max(SHARE_LEAST), vms);
            Judge::new(&task).cost(self.schedule)
        };
        let (now, then) = (cost(found.now), cost(found.then));
        let price = WAIT_WEIGHT * self.task.weights.time * found.wait;
        let gain = now.value - then.value - price;
        let gained = match of {
            Of::Traffic => format!(
                "of the traffic: {:.1} MB are lost then, {:.1} MB now",
                then.parts.lost_bytes / 1e6,
                now.parts.lost_bytes / 1e6
            ),
            Of::Dirtying => format!(
                "of what the VMs write: it takes {:.1} s then, {:.1} s now",
                then.parts.total_seconds, now.parts.total_seconds
            ),
        };
        let text = format!("it waits {:.0} s for a quieter phase {gained}", found.wait.floor());
        (gain > 0.0).then_some((gain, found.wait, text))
    }

    /// The task in a phase in which so much is sent and received, or written, of what is on average.
    fn with(&self, of: Of, share: f64, vms: &[usize]) -> Task {
        let mut task = self.task.clone();
        match of {
            Of::Traffic => {
                let theirs = |end: End| matches!(end, End::Vm(vm) if vms.contains(&vm));
                for flow in &mut task.gang.flows {
                    if theirs(flow.from) || theirs(flow.to) {
                        flow.demand *= share;
                    }
                }
            }
            Of::Dirtying => {
                for vm in vms {
                    let curve = &mut task.gang.vms[*vm].curve;
                    *curve = curve.sped_up(share);
                }
            }
        }
        task
    }
}
