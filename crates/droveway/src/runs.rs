//! `runs` and `report RUN`: what the journal remembers of a fleet's runs.

use crate::{
    cli::{self, Output},
    exit::{Exit, Failure},
    fleet, render, report,
    run::journal::failure,
    state,
};
use droveway_drive::RecordKind;
use droveway_fleet::{
    Fleet, RunReport, Timestamp,
    ids::nearest,
    runs::{JournalEvent, JournalReport, JournalVm, ListedRun},
};
use droveway_store::{Entry, JournalledRun, RUNS_MAX, RunSummary, Store};
use std::{fmt::Write as _, fs, path::Path};

fn store(fleet: &Fleet) -> Result<Option<Store>, Failure> {
    Store::open_existing(&state::journal_path(fleet)).map_err(failure)
}

fn row(run: &RunSummary, active: Option<&str>) -> ListedRun {
    let header = &run.header;
    let exit = run.ended.as_ref().map(|end| end.exit_code);
    let state = match exit {
        Some(code) => Exit::of(code).map_or("ended", Exit::words),
        None if active == Some(header.id.as_str()) => "active",
        None => "its controller was killed",
    };
    ListedRun {
        id: header.id.clone(),
        started_at: header.started_at.clone(),
        verb: header.verb.clone(),
        source: header.source.to_string(),
        target: header.target.to_string(),
        policy: header.policy.clone(),
        state: state.to_owned(),
        exit_code: exit,
        report: run.ended.as_ref().and_then(|end| end.report.clone()),
    }
}

/// The run of a fleet whose controller was killed, if there is one.
pub(crate) fn unfinished(fleet: &Fleet) -> Option<String> {
    let last = store(fleet).ok()??.runs(1).ok()?.pop()?;
    last.ended.is_none().then_some(last.header.id)
}

/// `runs`.
#[expect(clippy::print_stdout, reason = "the command's data")]
pub(crate) fn list(fleet: Option<&Path>, output: Output) -> Result<Exit, Failure> {
    let fleet = fleet::load(fleet)?;
    let active = fleet::active_run(&fleet).map(|run| run.run_id);
    let runs = match store(&fleet)? {
        Some(store) => store.runs(RUNS_MAX).map_err(failure)?,
        None => Vec::new(),
    };
    let rows: Vec<ListedRun> = runs.iter().map(|run| row(run, active.as_deref())).collect();
    if output != Output::Table {
        cli::print_data(&rows, output)?;
        return Ok(Exit::Done);
    }
    if rows.is_empty() {
        eprintln!("no run of fleet '{}' is remembered", fleet.metadata.name);
        return Ok(Exit::Done);
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "run",
        "started",
        "what",
        "policy",
        "how it ended",
    ]);
    for row in rows {
        let what = format!("{} {} to {}", row.verb, row.source, row.target);
        table.add_row([row.id, local(&row.started_at), what, row.policy, row.state]);
    }
    println!("{table}");
    Ok(Exit::Done)
}

/// A time as people of this place read it.
fn local(text: &str) -> String {
    let zone = jiff::tz::TimeZone::system();
    let parsed = text.parse::<jiff::Timestamp>();
    parsed.map_or_else(
        |_| text.to_owned(),
        |at| at.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// `report RUN`.
#[expect(clippy::print_stdout, reason = "the command's data")]
pub(crate) fn report(id: &str, fleet: Option<&Path>, output: Output) -> Result<Exit, Failure> {
    let fleet = fleet::load(fleet)?;
    let run = find(&fleet, id)?;
    let summary = RunSummary { header: run.header.clone(), ended: run.state().ended };
    if let Some(report) = summary.ended.as_ref().and_then(|end| written(end.report.as_deref()?)) {
        if output == Output::Table {
            println!("{}", render::terminal(&report, report::color()));
        } else {
            cli::print_data(&report, output)?;
        }
        return Ok(Exit::Done);
    }
    let active = fleet::active_run(&fleet).map(|run| run.run_id);
    let told = told(&run, row(&summary, active.as_deref()));
    if output == Output::Table {
        print!("{}", text(&told));
    } else {
        cli::print_data(&told, output)?;
    }
    Ok(Exit::Done)
}

fn find(fleet: &Fleet, id: &str) -> Result<JournalledRun, Failure> {
    let name = &fleet.metadata.name;
    let none = || {
        Failure::usage(format!("no run of fleet '{name}' is remembered"))
            .hint("`droveway drain` and `droveway migrate` make one")
    };
    let store = store(fleet)?.ok_or_else(none)?;
    let runs = store.runs(RUNS_MAX).map_err(failure)?;
    let ids: Vec<&str> = runs.iter().map(|run| run.header.id.as_str()).collect();
    let wanted = if id == "last" { *ids.first().ok_or_else(none)? } else { id };
    store.run(wanted).map_err(failure)?.ok_or_else(|| {
        let failure = Failure::usage(format!("there is no run '{id}' of fleet '{name}'"));
        match nearest(id, ids.iter().copied()) {
            Some(meant) => failure.hint(format!("did you mean '{meant}'?")),
            None => failure.hint("`droveway runs` lists them"),
        }
    })
}

/// The report that the run left, if it is still there.
fn written(folder: &str) -> Option<RunReport> {
    let text = fs::read_to_string(Path::new(folder).join("report.json")).ok()?;
    serde_json::from_str(&text).ok()
}

fn told(run: &JournalledRun, row: ListedRun) -> JournalReport {
    let state = run.state();
    let origin = state.began_at.unwrap_or(run.header.asked_at);
    let vms = state.vms.iter().map(|(name, vm)| JournalVm {
        name: name.to_string(),
        phase: vm.phase.map(|phase| phase.name().to_owned()),
        reason: vm.reason.clone(),
    });
    let event = |at: Timestamp, vm: Option<String>, text: String| JournalEvent {
        at_seconds: at.seconds_from(origin),
        vm,
        text,
    };
    let events = run.entries.iter().filter_map(|stamped| {
        let vm = stamped.entry.vm().map(ToString::to_string);
        Some(event(stamped.at, vm, words(&stamped.entry)?))
    });
    JournalReport { run: row, vms: vms.collect(), events: events.collect() }
}

/// What an entry tells people; figures, replies and what QEMUs said is for programs.
fn words(entry: &Entry) -> Option<String> {
    Some(match entry {
        Entry::Plan { plan } if plan.generation == 0 => format!("plan {}", plan.id),
        Entry::Plan { plan } => format!("plan {} (generation {})", plan.id, plan.generation),
        Entry::Record { record, .. } => match record {
            RecordKind::Entered(phase) => phase.name().to_owned(),
            RecordKind::Pass(pass) => format!("pass {pass} begins"),
            RecordKind::Boundary { .. } => return None,
            RecordKind::Stopped => "stopped at the source".to_owned(),
            RecordKind::Resumed => "runs at the target".to_owned(),
            RecordKind::Decided { reason, choice, .. } => {
                format!("decided: {choice}, because {reason}")
            }
            RecordKind::Warning(text) => format!("warning: {text}"),
            RecordKind::Ended { outcome, reason } => match reason {
                Some(reason) => format!("{outcome:?}: {reason}"),
                None => format!("{outcome:?}"),
            },
        },
        Entry::Decision { decision } => {
            format!("decided: {}, because {}", decision.choice, decision.reason)
        }
        Entry::Network { change } => format!("ports: {change:?}"),
        Entry::Operator { request, answer, .. } => format!("operator: {request}: {answer}"),
        Entry::Remark { text } => text.clone(),
        Entry::Began => "began".to_owned(),
        Entry::Cancelled => "interrupted by the operator".to_owned(),
        Entry::Adopted { pid } => format!("adopted by process {pid}"),
        Entry::Missing { entries } => format!("{entries} entries are missing"),
        Entry::Ended { end } => format!("ended with exit code {}", end.exit_code),
        Entry::Launching { host, .. } => format!("its target is started on host '{host}'"),
        Entry::Attempt { .. }
        | Entry::Action { .. }
        | Entry::Reply { .. }
        | Entry::Event { .. }
        | Entry::Sample { .. } => return None,
    })
}

fn text(told: &JournalReport) -> String {
    let row = &told.run;
    let mut text = format!(
        "{}: {} {} to {}, policy {}, {}\n",
        row.id, row.verb, row.source, row.target, row.policy, row.state
    );
    for vm in &told.vms {
        let phase = vm.phase.as_deref().unwrap_or("not begun");
        let reason = vm.reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
        let _ = writeln!(text, "  {}: {phase}{reason}", vm.name);
    }
    for event in &told.events {
        let vm = event.vm.as_deref().unwrap_or("the run");
        let _ = writeln!(text, "{:9.3} s  {vm:<16} {}", event.at_seconds, event.text);
    }
    text
}
