//! The table of what tells how a migration will go: properties by outcomes, the strongest first.

use super::blocks::{Block, Table};
use crate::{compare::Analysis, influence::Influence};

pub(super) const HOW: &str = "Spearman's correlation between a property and an outcome, values ranked among the runs of one arm and arms pooled, with its \
     interval; from -1 (the more, the less) to 1. In brackets: the interval includes none. The strongest, over all outcomes, \
     stands first. A property marked with * was measured while VMs moved and has part of the outcome in it; the others \
     are known before. It ranks properties as they vary over this suite's scenarios: one that does not vary is not here.";

pub(super) fn table<'a>(analysis: &Analysis) -> Block<'a> {
    let all = &analysis.influences;
    let mut outcomes: Vec<&str> = Vec::new();
    let mut properties: Vec<(&str, bool, f64)> = Vec::new();
    for it in all {
        if !outcomes.contains(&it.outcome.as_str()) {
            outcomes.push(&it.outcome);
        }
        let strength = if it.is_sure() { it.correlation.abs() } else { 0.0 };
        match properties.iter_mut().find(|(name, _, _)| *name == it.property) {
            Some((_, _, most)) => *most = most.max(strength),
            None => properties.push((&it.property, it.beforehand, strength)),
        }
    }
    properties.sort_by(|one, other| other.2.total_cmp(&one.2));
    let header = ["property".to_owned()].into_iter();
    let header = header.chain(outcomes.iter().map(|name| (*name).to_owned())).collect();
    let mut table = Table { header, rows: Vec::new(), words: 1 };
    for (property, beforehand, _) in properties {
        let mark = if beforehand { "" } else { " *" };
        let mut row = vec![format!("{property}{mark}")];
        row.extend(outcomes.iter().map(|outcome| {
            let it = all.iter().find(|it| it.property == property && it.outcome == **outcome);
            it.map_or_else(|| "-".to_owned(), told)
        }));
        table.rows.push(row);
    }
    Block::Table(table)
}

fn told(it: &Influence) -> String {
    let text = it.interval.map_or_else(
        || format!("{:.2}", it.correlation),
        |of| format!("{:.2} [{:.2}, {:.2}]", it.correlation, of.low, of.high),
    );
    if it.is_sure() { text } else { format!("({text})") }
}
