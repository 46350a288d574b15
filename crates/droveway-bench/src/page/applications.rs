//! What applications kept, by arm: those that talk over the network and those that compute inside the VMs.

use super::blocks::{Block, Table};
use crate::{
    compare::{Analysis, Bench},
    result::ApplicationRow,
    stats,
};
use droveway_fleet::report::MEMORY_LOAD;
use std::collections::BTreeSet;

pub(super) const HOW: &str = "The median over runs of what an application of each kind had while VMs moved, in percent of what it had before (100: nothing was \
     lost); for requests also the 99th percentile of latency, before and during. sysbench computes inside the VMs: what its VM \
     lost by pauses, by waiting for pages and by being slowed down.";

/// The kinds of applications that are there, in the order in which they are told.
fn kinds(bench: &Bench) -> Vec<String> {
    const FIRST: [&str; 4] = ["tcp", "udp", "memcached", MEMORY_LOAD];
    let all: BTreeSet<&str> = rows(bench, None).map(|row| row.kind.as_str()).collect();
    let known = FIRST.into_iter().filter(|kind| all.contains(kind));
    let others = all.iter().copied().filter(|kind| !FIRST.contains(kind));
    known.chain(others).map(str::to_owned).collect()
}

/// The applications of runs that count; of one arm, if it is named.
fn rows<'a>(bench: &'a Bench, arm: Option<&str>) -> impl Iterator<Item = &'a ApplicationRow> {
    let of_arm = bench.results.iter().filter(move |it| arm.is_none_or(|arm| it.cell.arm() == arm));
    of_arm.filter_map(|it| it.counted()).flat_map(|attempt| &attempt.applications)
}

/// A row an arm; `None` where no application was watched.
pub(super) fn table<'a>(bench: &Bench, analysis: &Analysis) -> Option<Block<'a>> {
    let kinds = kinds(bench);
    if kinds.is_empty() {
        return None;
    }
    let has_latency =
        |kind: &str| rows(bench, None).any(|row| row.kind == kind && row.p99_during_ms.is_some());
    let mut header = vec!["arm".to_owned()];
    for kind in &kinds {
        header.push(format!("{kind} %"));
        if has_latency(kind) {
            header.extend(["p99 before ms".to_owned(), "p99 during ms".to_owned()]);
        }
    }
    let mut table = Table { header, rows: Vec::new(), words: 1 };
    for arm in &analysis.arms {
        let median = |kind: &str, value: fn(&ApplicationRow) -> Option<f64>| {
            let own = rows(bench, Some(&arm.name)).filter(|row| row.kind == kind);
            stats::median(&own.filter_map(value).collect::<Vec<_>>())
        };
        let told = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let mut row = vec![arm.name.clone()];
        for kind in &kinds {
            row.push(told(median(kind, |row| Some(100.0 * (1.0 - row.loss_ratio?))), 0));
            if has_latency(kind) {
                row.push(told(median(kind, |row| row.p99_before_ms), 1));
                row.push(told(median(kind, |row| row.p99_during_ms), 1));
            }
        }
        table.rows.push(row);
    }
    Some(Block::Table(table))
}
