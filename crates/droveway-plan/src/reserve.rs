//! How much of the two ports is held for the moves.
//!
//! A promise changes who waits: without one streams and applications share a port by flow, so that a port with many flows
//! leaves a stream little; with one each class has its part, and what it leaves is the other's. It also takes the queue into the
//! host, where page requests and acknowledgements go first. So it is searched like the rest: each share is tried with a part of
//! the plays, and the best two are searched in earnest beside none; what they find is judged together. Where nothing is gained
//! nothing is promised.

use crate::{
    adaptive::choice::Pool,
    plan::{Direction, Plan, Reservation},
    search::{Task, Weights, search_roughly},
};
use droveway_fleet::{Bandwidth, HostId, Intent, Reserve, Urgency};
use droveway_model::{
    fluid::PortModel,
    world::{World, payload},
};

/// Shares of the ports that are tried, from what leaves applications most.
pub(crate) const SHARES: [f64; 6] = [GENTLEST, 0.25, 0.5, 0.75, 0.9, 0.95];
/// What leaves applications most.
pub(crate) const GENTLEST: f64 = 0.05;
/// At low urgency migration takes what applications leave: no more than this is promised to it.
pub(crate) const LOW_MOST: f64 = 0.25;
/// Streams that yield on ports that were left as they are fill them up to here beside applications, so that the queue is not theirs. Where
/// the kernel keeps classes apart they yield by theirs, and fill all that is left.
pub const YIELDING_RATIO: f64 = 0.85;
/// Less than this share of a port beside the streams is nobody: acknowledgements, name lookups.
pub const NOBODY_RATIO: f64 = 0.04;
/// Of the plays of a search, what one share is tried with.
const TRIED_WITH: usize = 8;
/// So many shares are searched in earnest, beside none.
const FINALISTS: usize = 2;

/// What a short search finds for each share that may be promised, nothing first; all of them, because the frontier is of every
/// urgency. Empty where the ports cannot or must not be changed, unless `always`: then at least with nothing promised.
pub(crate) fn tried(
    intent: &Intent,
    task: &Task,
    always: bool,
    rivals: &[Weights],
    plays: usize,
    seed: u64,
) -> Vec<Pool> {
    let open = intent.shaping && intent.reserve == Reserve::Auto;
    let plays = (plays / TRIED_WITH).max(1);
    let shares = SHARES.into_iter().filter(|_| open).map(Some);
    let nothing = (open || always).then_some(None);
    let one = |share: Option<f64>| {
        let task = share.map_or_else(|| task.clone(), |share| promised(task, share));
        let found = search_roughly(&task, rivals, plays, seed)?;
        Some(Pool { share, task, found })
    };
    nothing.into_iter().chain(shares).filter_map(one).collect()
}

/// The shares that are searched in earnest, nothing first, and the most promising of them. `yielding`: so many times what the model plays
/// ports cost that are left as they are.
pub(crate) fn finalists(
    intent: &Intent,
    tried: &[Pool],
    yielding: f64,
) -> (Vec<Option<f64>>, Option<f64>) {
    let cost = |pool: &Pool| pool.found.cost.value;
    let Some(nothing) = tried.iter().find(|pool| pool.share.is_none()).map(cost) else {
        return (vec![None], None);
    };
    let allowed = |share: f64| intent.urgency != Urgency::Low || share <= LOW_MOST;
    let better = |pool: &&Pool| pool.share.is_some_and(allowed) && cost(pool) < yielding * nothing;
    let mut held: Vec<&Pool> = tried.iter().filter(better).collect();
    held.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    held.truncate(FINALISTS);
    let best = held.first().and_then(|pool| pool.share);
    (std::iter::once(None).chain(held.iter().map(|pool| pool.share)).collect(), best)
}

/// The task with that share of its movers' ports promised to them.
pub(crate) fn promised(task: &Task, share: f64) -> Task {
    let mut task = task.clone();
    let ends: Vec<_> =
        task.movers.iter().map(|it| (task.gang.vms[it.step.vm].host, it.step.target)).collect();
    let ports: Vec<PortModel> = task.gang.ports.clone();
    for (source, target) in ends {
        let [from, to] = [ports[source], ports[target]];
        task.gang.ports[source] = from.promised(share * from.tx, 0.0);
        task.gang.ports[target] = to.promised(0.0, share * to.rx);
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
    use crate::{adaptive::weights, search::tests::task};
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
        let of = |urgency| {
            let task = Task { weights: weights(urgency), ..contended() };
            let tried = tried(&intent(urgency), &task, false, &[], 1_600, 1);
            assert_eq!(tried.len(), 1 + SHARES.len());
            finalists(&intent(urgency), &tried, 1.0)
        };
        let (shares, best) = of(Urgency::Critical);
        assert!(best.unwrap() >= 0.9 && shares.len() == 1 + FINALISTS && shares[0].is_none());
        let (shares, _) = of(Urgency::Low);
        assert!(shares.iter().all(|share| share.is_none_or(|share| share <= LOW_MOST)));
        let mut off = intent(Urgency::Critical);
        off.reserve = Reserve::Off;
        assert_eq!(tried(&off, &contended(), false, &[], 200, 1), []);
        off.reserve = Reserve::Auto;
        off.shaping = false;
        assert_eq!(tried(&off, &contended(), false, &[], 200, 1), []);
        assert_eq!(tried(&off, &contended(), true, &[], 200, 1).len(), 1);
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
        let critical = intent(Urgency::Critical);
        let tried = tried(&critical, &plain, false, &[], 1_600, 1);
        assert_eq!(finalists(&critical, &tried, 1.0), (vec![None], None));
    }

    #[test]
    fn a_promise_is_one_of_the_streams_way() {
        let task = promised(&contended(), 0.5);
        let [from, to] = [task.gang.ports[0], task.gang.ports[1]];
        assert!(from.tx_reserved > 0.0 && to.rx_reserved > 0.0);
        assert!(from.rx_reserved == 0.0 && to.tx_reserved == 0.0);
        assert!(from.shaped && to.shaped);
    }
}
