//! What there is to say of each move of a plan, for programs; the [`table`](super::table) is the same for people.

use droveway_fleet::{Bandwidth, Intent, RateLimit, Technique, VmId, report::Quantiles};
use droveway_model::{
    fluid::{End, FlowModel, Gang},
    forecast::{Ends, Forecast, MoveForecast},
};
use droveway_plan::{Made, Move, Plan, StartRule, adaptive::Why, policy};
use serde::Serialize;

/// Traffic below this share of the port is none.
const NO_TRAFFIC: f64 = 0.005;

/// One move.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// Its place in the plan, from 1.
    pub(crate) number: usize,
    pub(crate) vm: VmId,
    pub(crate) technique: Technique,
    /// When it is forecast to start, from the start of the run.
    pub(crate) start_seconds: Option<f64>,
    /// What it waits for, in words.
    pub(crate) starts: String,
    /// The row that it waits for.
    #[serde(skip)]
    pub(crate) after: Option<usize>,
    /// The ceiling of its stream: of post-copy's background stream, of all others' passes. None: as fast as the port lets it.
    pub(crate) rate_bits_per_second: Option<u64>,
    /// The ceiling of a hybrid's background stream, which comes after its passes.
    pub(crate) background_bits_per_second: Option<u64>,
    /// How it is forecast to end.
    pub(crate) ends: Option<Ends>,
    pub(crate) duration_seconds: Option<Quantiles>,
    pub(crate) downtime_seconds: Option<Quantiles>,
    pub(crate) outage_seconds: Option<Quantiles>,
    /// Of all traffic that has the VM at an end.
    pub(crate) lost_bytes: Option<Quantiles>,
    /// Why it goes this way, in some words.
    pub(crate) why: Vec<String>,
}

/// What rows are made from: the plan and what was said of it, and what is known of its world.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) made: &'a Made,
    /// What was asked for.
    pub(crate) intent: &'a Intent,
    pub(crate) forecast: Option<&'a Forecast>,
    /// What the forecast was made from; its moves are the plan's.
    pub(crate) gang: Option<&'a Gang>,
}

pub(crate) fn rows(subject: &Subject<'_>) -> Vec<Row> {
    let plan = &subject.made.plan;
    let row = |(index, step): (usize, &Move)| {
        let forecast = subject.forecast.and_then(|forecast| forecast.moves.get(index));
        let said = |of: fn(&MoveForecast) -> Quantiles| forecast.map(of);
        let (starts, after) = start(plan, index);
        let bits = |limit: RateLimit| limit.bandwidth().map(Bandwidth::bits_per_second);
        let (rate, background) = match step.technique {
            Technique::PostCopy => (bits(step.postcopy_bandwidth), None),
            Technique::Hybrid => (bits(step.bandwidth), bits(step.postcopy_bandwidth)),
            Technique::PreCopy => (bits(step.bandwidth), None),
            // QEMU sends a stopped VM as fast as it can, whatever the ceiling says.
            Technique::StopAndCopy => (None, None),
        };
        Row {
            number: index + 1,
            vm: step.vm.clone(),
            technique: step.technique,
            start_seconds: forecast.map(|forecast| forecast.start_seconds),
            starts,
            after,
            rate_bits_per_second: rate,
            background_bits_per_second: background,
            ends: forecast.map(|forecast| forecast.ends),
            duration_seconds: said(|forecast| forecast.duration_seconds),
            downtime_seconds: said(|forecast| forecast.downtime_seconds),
            outage_seconds: said(|forecast| forecast.outage_seconds),
            lost_bytes: said(|forecast| forecast.lost_bytes),
            why: why(subject, index, step),
        }
    };
    plan.moves.iter().enumerate().map(row).collect()
}

/// What a move waits for, and the row of the VM that it waits for.
fn start(plan: &Plan, index: usize) -> (String, Option<usize>) {
    let before = &plan.moves[..index];
    let in_window = before.iter().filter(|step| step.start == StartRule::InWindow).count();
    let after = |row: usize| (format!("after {}", plan.moves[row].vm), Some(row));
    match &plan.moves[index].start {
        StartRule::AfterEnd(vm) => match plan.moves.iter().position(|step| step.vm == *vm) {
            Some(row) => after(row),
            None => (format!("after {vm}"), None),
        },
        StartRule::InWindow if in_window < plan.concurrency as usize => {
            let text = if plan.start_after.is_some() { "after the wait" } else { "at once" };
            (text.to_owned(), None)
        }
        StartRule::InWindow if plan.concurrency == 1 => {
            let last = before.iter().rposition(|step| step.start == StartRule::InWindow);
            last.map_or_else(|| ("at once".to_owned(), None), after)
        }
        StartRule::InWindow => ("as one ends".to_owned(), None),
    }
}

/// Why a VM goes its way, in some words: its traffic, and what comes next or who decided.
fn why(subject: &Subject<'_>, index: usize, step: &Move) -> Vec<String> {
    let Made { plan, notes, reasoning } = subject.made;
    let mut words: Vec<String> =
        subject.gang.map(|gang| traffic(gang, index)).into_iter().collect();
    if let Some(note) = notes.iter().find(|note| note.vm == step.vm) {
        // What is in brackets is how to say it, for whoever reads the note.
        words.push(note.reason.split(" (").next().unwrap_or_default().to_owned());
    } else if subject.intent.techniques.contains_key(&step.vm) {
        words.push("as told".to_owned());
    } else if let Some(reasoning) = reasoning {
        let own = reasoning.why.iter().find(|why| why.vm == step.vm);
        words.extend(own.map(next));
    } else {
        words.push(match policy::find(&plan.policy) {
            Ok(policy) if policy.plainly().is_some() => "all go alike".to_owned(),
            Ok(policy) => format!("by {}", policy.name),
            Err(_) => "as planned".to_owned(),
        });
    }
    words
}

/// The technique that comes next, and what it costs more.
fn next(why: &Why) -> String {
    why.runner_up.as_ref().map_or_else(
        || "nothing else allowed".to_owned(),
        |other| format!("{} {:+.2} s", other.technique, other.costs_more),
    )
}

/// What a move's VM sends and receives, as shares of the source's port.
fn traffic(gang: &Gang, index: usize) -> String {
    let vm = gang.moves[index].vm;
    let port = gang.ports[gang.vms[vm].host];
    let share = |capacity: f64, own: &dyn Fn(&&FlowModel) -> bool| {
        let rates = gang.flows.iter().filter(own).map(|flow| flow.demand.min(capacity));
        // The sum of nothing is minus zero, which nobody wants to read.
        (rates.fold(0.0, |sum, rate| sum + rate) / capacity.max(1.0)).min(1.0)
    };
    let sends = share(port.tx, &|flow| flow.from == End::Vm(vm));
    let receives = share(port.rx, &|flow| flow.to == End::Vm(vm));
    if sends < NO_TRAFFIC && receives < NO_TRAFFIC {
        return "no traffic".to_owned();
    }
    format!("TX {:.0}, RX {:.0} %", 100.0 * sends, 100.0 * receives)
}
