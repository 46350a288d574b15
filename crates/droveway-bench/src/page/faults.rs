//! What a fault costs, told: how VMs ended, and what their moves took more than without it.

use super::blocks::{Block, Table};
use crate::{
    compare::{Analysis, Bench},
    faults::{Ends, FaultCost},
    stats::Paired,
};
use droveway_fleet::scenario::{ScenarioSpec, WorldChange};

pub(super) const HOW: &str = "Scenarios whose world changes while VMs move, beside their control, which is the same without the change. VMs by how they \
     ended: at the target, at the source again, in need of `droveway recover` (memory split between both hosts), lost, or never \
     started. Costs are differences to the control, of runs of the same arm and repeat in which every VM moved: the \
     Hodges-Lehmann estimate, in brackets its 95 % interval by bootstrap over pairs. Applications lose by a fault also where nothing \
     moves (a port that is down carries nothing), so what tells is how arms differ. Runs that met no fault were over before it.";

/// A row an arm and scenario; `None` where nothing changes.
pub(super) fn table<'a>(bench: &Bench, analysis: &Analysis) -> Option<Block<'a>> {
    if analysis.faults.is_empty() {
        return None;
    }
    let header = [
        "scenario",
        "what changes",
        "arm",
        "runs",
        "met no fault",
        "completed",
        "rolled back",
        "needs recovery",
        "lost",
        "not started",
        "total s",
        "cost, s",
        "cost, lost port s",
        "cost, worst outage s",
    ];
    let mut table = Table::new(&header, 3);
    for cost in &analysis.faults {
        let Ends { completed, rolled_back, needs_recovery, lost, not_started } = cost.ends;
        let mut row = vec![cost.scenario.clone(), what_changes(bench, cost), cost.arm.clone()];
        let counts =
            [cost.runs, cost.unmet, completed, rolled_back, needs_recovery, lost, not_started];
        row.extend(counts.map(|count| count.to_string()));
        row.push(
            cost.total_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}")),
        );
        row.push(told(cost.time.as_ref(), 1));
        row.extend([&cost.lost, &cost.outage].map(|paired| told(paired.as_ref(), 2)));
        table.rows.push(row);
    }
    Some(Block::Table(table))
}

fn told(paired: Option<&Paired>, digits: usize) -> String {
    let Some(of) = paired else { return "-".to_owned() };
    // No minus before what rounds to nothing.
    let number = |value: f64| {
        let text = format!("{value:+.digits$}");
        if text.bytes().all(|byte| matches!(byte, b'-' | b'0' | b'.')) {
            text.replace('-', "+")
        } else {
            text
        }
    };
    let estimate = number(of.estimate);
    match of.interval {
        Some(interval) => {
            format!("{estimate} [{}, {}]", number(interval.low), number(interval.high))
        }
        None => estimate,
    }
}

/// A scenario's changes in words.
fn what_changes(bench: &Bench, cost: &FaultCost) -> String {
    let all = &bench.resolved.suite.spec.scenarios;
    let scenario = all.iter().find(|it| it.name.as_str() == cost.scenario);
    scenario.and_then(|it| it.spec.as_ref()).map_or_else(String::new, in_words)
}

fn in_words(spec: &ScenarioSpec) -> String {
    if spec.changes.is_empty() {
        return "nothing".to_owned();
    }
    let changes = spec.changes.iter().filter_map(|change| {
        let what = match change.what()? {
            WorldChange::Reverse(application) => format!("{application} flows the other way"),
            WorldChange::Demand { application, rate } => format!("{application} wants {rate}"),
            WorldChange::Writes { vm, working_set, rate } => {
                format!("{vm} writes {rate} to {working_set} more")
            }
            WorldChange::LinkRate { host: Some(host), rate } => {
                format!("{host}'s port carries {rate}")
            }
            WorldChange::LinkRate { host: None, rate } => format!("every port carries {rate}"),
            WorldChange::LinkDown { host, duration } => {
                format!("{host}'s port is down for {duration}")
            }
        };
        Some(format!("{} {what}", change.at))
    });
    changes.collect::<Vec<_>>().join("; ")
}

/// How VMs ended in the runs that met a fault, in a sentence.
pub(super) fn summary(analysis: &Analysis) -> Option<String> {
    let mut ends = Ends::default();
    analysis.faults.iter().filter(|it| it.changes).for_each(|it| ends += it.ends);
    (ends.all() > 0).then(|| {
        format!(
            "Where the world changed under way {} of {} VMs moved, {} rolled back, {} need recovery, {} were lost, {} never \
             started.",
            ends.completed,
            ends.all(),
            ends.rolled_back,
            ends.needs_recovery,
            ends.lost,
            ends.not_started
        )
    })
}
