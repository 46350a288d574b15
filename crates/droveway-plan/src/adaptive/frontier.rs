//! What could be had instead: the best for every urgency and for what lies between two.

use super::{Alternative, choice::Pool, context::Context, weights};
use crate::search::Weights;
use droveway_fleet::Urgency;

/// Where among the [`rivals`] time alone counts.
pub(super) const HASTY: usize = 3;

/// What else is searched for on the way, by name: every urgency, then what lies between.
pub(super) fn rivals() -> Vec<(String, Weights)> {
    let urgencies = Urgency::ALL.map(|urgency| (urgency.name().to_owned(), weights(urgency)));
    let between = [(Urgency::Low, Urgency::Medium), (Urgency::Medium, Urgency::High)]
        .map(|(a, b)| (format!("{a} to {b}"), half_way(weights(a), weights(b))));
    urgencies.into_iter().chain(between).collect()
}

/// Each weight as many times more than the one as less than the other.
fn half_way(a: Weights, b: Weights) -> Weights {
    let mean = |a: f64, b: f64| (a * b).sqrt();
    Weights {
        time: mean(a.time, b.time),
        outage: mean(a.outage, b.outage),
        loss: mean(a.loss, b.loss),
        exposure: mean(a.exposure, b.exposure),
        missed: mean(a.missed, b.missed),
    }
}

/// The best schedules for each of the [`rivals`], each on the ports that suit it best; of those none that is worse than another
/// in time, loss and silence.
pub(super) fn frontier(context: &Context<'_>, pools: &[&Pool]) -> Vec<Alternative> {
    let best = |(index, (name, _)): (usize, (String, Weights))| {
        let value = |pool: &&&Pool| pool.found.rivals[index].0.value;
        let pool = pools.iter().min_by(|a, b| value(a).total_cmp(&value(b)))?;
        let (_, schedule) = &pool.found.rivals[index];
        Some(context.alternative(&name, &pool.task, pool.share, schedule))
    };
    let points: Vec<Alternative> = rivals().into_iter().enumerate().filter_map(best).collect();
    let worse = |a: &Alternative, b: &Alternative| {
        let parts = |of: &Alternative| {
            [of.cost.parts.total_seconds, of.cost.parts.lost_bytes, of.worst_outage_seconds]
        };
        let pairs: Vec<_> = parts(a).into_iter().zip(parts(b)).collect();
        pairs.iter().all(|(a, b)| a >= b) && pairs.iter().any(|(a, b)| a > b)
    };
    let kept = |point: &&Alternative| !points.iter().any(|other| worse(point, other));
    let mut frontier: Vec<Alternative> = points.iter().filter(kept).cloned().collect();
    frontier.sort_by(|a, b| a.cost.parts.total_seconds.total_cmp(&b.cost.parts.total_seconds));
    frontier.dedup_by(|later, first| {
        let same = first.cost == later.cost;
        if same {
            first.name = format!("{}, {}", first.name, later.name);
        }
        same
    });
    frontier
}
