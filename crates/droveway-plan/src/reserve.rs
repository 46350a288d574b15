//! How much of the two ports is held for the moves.
//!
//! A promise changes who waits: without one streams and applications share a port by flow, so that a port with many flows
//! leaves a stream little; with one each class has its part, and what it leaves is the other's. It also takes the queue into the
//! host, where page requests and acknowledgements go first. So it is searched like the rest: each share is tried with a part of
//! the plays, and the best one is searched in earnest. Where nothing is gained nothing is promised.

use crate::{
    plan::{Direction, Plan, Reservation},
    search::{Task, search},
};
use droveway_fleet::{Bandwidth, HostId, Intent, Reserve, Urgency};
use droveway_model::{
    fluid::PortModel,
    world::{World, payload},
};

/// Shares of the ports that are tried, from what leaves applications most.
pub(crate) const SHARES: [f64; 6] = [0.05, 0.25, 0.5, 0.75, 0.9, 0.95];
/// At low urgency migration takes what applications leave: no more than this is promised to it.
pub(crate) const LOW_MOST: f64 = 0.25;
/// Of the plays of a search, what one share is tried with.
const TRIED_WITH: usize = 8;
/// A promise changes the hosts' ports: it has to gain this much at least.
const GAIN_LEAST: f64 = 0.02;

/// The share that the moves of this task are best promised; `None`: none.
pub(crate) fn best_share(intent: &Intent, task: &Task, plays: usize, seed: u64) -> Option<f64> {
    if !intent.shaping || intent.reserve != Reserve::Auto {
        return None;
    }
    let plays = (plays / TRIED_WITH).max(1);
    let cost = |task: &Task| search(task, plays, seed).map_or(f64::INFINITY, |f| f.cost.value);
    let without = cost(task);
    let shares =
        SHARES.into_iter().filter(|share| intent.urgency != Urgency::Low || *share <= LOW_MOST);
    let tried = shares.map(|share| (cost(&promised(task, share, intent.tuning)), share));
    let best = tried.min_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 < without * (1.0 - GAIN_LEAST)).then_some(best.1)
}

/// The task with that share of its movers' ports promised to them.
pub(crate) fn promised(task: &Task, share: f64, tuned: bool) -> Task {
    let mut task = task.clone();
    let ends: Vec<_> =
        task.movers.iter().map(|it| (task.gang.vms[it.step.vm].host, it.step.target)).collect();
    let ports: Vec<PortModel> = task.gang.ports.clone();
    for (source, target) in ends {
        let [from, to] = [ports[source], ports[target]];
        task.gang.ports[source] = PortModel { tuned, ..from.promised(share * from.tx, 0.0) };
        task.gang.ports[target] = PortModel { tuned, ..to.promised(0.0, share * to.rx) };
    }
    task
}

/// The reservations of a plan that promises so much of both ports to its moves.
#[must_use]
pub fn reservations(intent: &Intent, rate: Bandwidth) -> Vec<Reservation> {
    let held = |port: &HostId, direction| Reservation { port: port.clone(), direction, rate };
    vec![held(&intent.source, Direction::Tx), held(&intent.target, Direction::Rx)]
}

/// Makes the ports of `world` as a plan leaves them while it is carried out.
pub fn shape(world: &mut World, plan: &Plan) {
    let hosts = [&plan.source, &plan.target].map(|host| world.host(host));
    if plan.tuning {
        for port in hosts.into_iter().flatten() {
            world.gang.ports[port].tuned = true;
        }
    }
    if plan.reservations.is_empty() {
        return;
    }
    let of = |host: &HostId, direction| -> f64 {
        let held = |it: &&Reservation| it.port == *host && it.direction == direction;
        plan.reservations.iter().filter(held).map(|it| payload(it.rate)).sum()
    };
    for (host, port) in [&plan.source, &plan.target].into_iter().zip(hosts) {
        if let Some(port) = port {
            let (tx, rx) = (of(host, Direction::Tx), of(host, Direction::Rx));
            world.gang.ports[port] = world.gang.ports[port].promised(tx, rx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::tests::task;
    use droveway_fleet::Technique;

    fn intent(urgency: Urgency) -> Intent {
        let [source, target] = ["alpha", "beta"].map(|host| host.parse().unwrap());
        let mut intent = Intent::drain(source, target, Vec::new(), "adaptive");
        intent.urgency = urgency;
        intent.shaping = true;
        intent
    }

    /// A gang that can only go against its own traffic: several flows in the stream's way, in both directions.
    fn contended() -> Task {
        let mut task = task(&[(200.0, 10.0, 1.0, 0.6, 0.6); 3]);
        for flow in &mut task.gang.flows {
            flow.demand = f64::INFINITY;
            flow.weight = 4.0;
        }
        task
    }

    #[test]
    fn haste_is_promised_much_and_patience_little() {
        let share = |urgency| best_share(&intent(urgency), &contended(), 200, 1);
        assert!(share(Urgency::Critical).unwrap() >= 0.9);
        assert!(share(Urgency::Low).is_none_or(|share| share <= LOW_MOST));
        let mut off = intent(Urgency::Critical);
        off.reserve = Reserve::Off;
        assert_eq!(best_share(&off, &contended(), 200, 1), None);
        off.reserve = Reserve::Auto;
        off.shaping = false;
        assert_eq!(best_share(&off, &contended(), 200, 1), None);
    }

    #[test]
    fn nothing_is_promised_where_nobody_competes() {
        let idle = task(&[(200.0, 10.0, 1.0, 0.0, 0.0); 3]);
        let plain = Task {
            movers: idle
                .movers
                .iter()
                .cloned()
                .map(|mut mover| {
                    mover.ways.retain(|way| way.technique == Technique::PreCopy);
                    mover
                })
                .collect(),
            ..idle
        };
        assert_eq!(best_share(&intent(Urgency::Critical), &plain, 200, 1), None);
    }

    #[test]
    fn a_promise_is_one_of_the_streams_way() {
        let task = promised(&contended(), 0.5, true);
        let [from, to] = [task.gang.ports[0], task.gang.ports[1]];
        assert!(from.tx_reserved > 0.0 && to.rx_reserved > 0.0);
        assert!(from.rx_reserved == 0.0 && to.tx_reserved == 0.0);
        assert!(from.shaped && to.shaped && from.tuned && to.tuned);
    }
}
