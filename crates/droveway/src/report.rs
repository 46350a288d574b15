//! The run report: a fold over the ledger and the logs of applications and probes; and its files.

use crate::{
    exit::{Exit, Failure},
    preflight::Checked,
    render,
    run::{Ledger, VmLedger},
};
use anyhow::Context as _;
use droveway_drive::{Outcome, RecordKind};
use droveway_fleet::{
    Bytes, Fleet, HostId, Intent, RunReport, Technique, Timestamp, VmId,
    document::API_VERSION,
    fleet::{Application, ApplicationUnit},
    log::{ApplicationSample, ProbeSample, amount_between, latency_quantile_ms, longest_silence},
    report::{
        ApplicationReport, CPU_SATURATED, ControllerCost, Decision, KIND, MoveResult, PhaseSpan,
        PortPoint, PortSeries, SeriesPoint, VmReport,
    },
};
use droveway_plan::Plan;
use std::{
    collections::BTreeMap,
    fs,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// "Before" is the mean over so long before the command began.
const BEFORE: Duration = Duration::from_secs(5);
/// A silence that began during a move may end a little later than the move.
const OUTAGE_GRACE: Duration = Duration::from_secs(2);
/// Above this share of the time without samples, an application's figure is left out rather than guessed.
const COVERED_MIN: f64 = 0.5;

/// What the report needs beside the ledger.
pub(crate) struct Context<'a> {
    pub(crate) fleet: &'a Fleet,
    pub(crate) plan: &'a Plan,
    pub(crate) intent: &'a Intent,
    /// What the planner decided, and why.
    pub(crate) decided: &'a [Decision],
    pub(crate) checked: &'a BTreeMap<VmId, Checked>,
    pub(crate) run_id: &'a str,
    pub(crate) started_at: String,
    pub(crate) asked_at: Timestamp,
    /// The last instant of which applications have written.
    pub(crate) ended_at: Timestamp,
    pub(crate) downtime_limit_asked: bool,
    pub(crate) capacity: Vec<(HostId, u64)>,
}

/// The times that split what applications did.
struct Windows {
    origin: Timestamp,
    before: (Timestamp, Timestamp),
    during: (Timestamp, Timestamp),
    after: (Timestamp, Timestamp),
}

pub(crate) fn build(context: &Context<'_>, ledger: &Ledger) -> RunReport {
    let origin = ledger.began_at.unwrap_or(context.asked_at);
    let first = ledger.vms.values().filter_map(VmLedger::started_at).min();
    let last = ledger.vms.values().filter_map(VmLedger::ended_at).max();
    let (start, end) = (first.unwrap_or(origin), last.unwrap_or(origin));
    let windows = Windows {
        origin,
        before: (context.asked_at - BEFORE, context.asked_at),
        during: (start, end),
        after: (end, context.ended_at),
    };
    let vms: Vec<VmReport> = context
        .plan
        .moves
        .iter()
        .filter_map(|step| Some(vm_report(context, ledger.vms.get(&step.vm)?, step, origin)))
        .collect();
    let all_moved = vms.iter().all(|vm| vm.result == MoveResult::Completed);
    let closed = ledger.vms.values().filter_map(VmLedger::closed_at).max();
    let needed: u64 = vms.iter().map(|vm| vm.needed_bytes).sum();
    let port_rate = context
        .capacity
        .iter()
        .filter(|(host, _)| [&context.plan.source, &context.plan.target].contains(&host))
        .map(|(_, rate)| *rate)
        .min();
    let line_rate_seconds = port_rate.map_or(0.0, |rate| {
        // QEMU counts payload, so the port's rate counts as what it can carry of that.
        let rate = droveway_fleet::Bandwidth::from_bits_per_second(rate).tcp_payload();
        (Bytes::new(needed) / rate).as_secs_f64()
    });
    let applications =
        context.fleet.spec.applications.iter().map(|app| application(app, &windows)).collect();
    let any_checked = context.checked.values().next();
    let mut report = RunReport {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        run_id: context.run_id.to_owned(),
        started_at: context.started_at.clone(),
        policy: context.plan.policy.clone(),
        intent: context.intent.clone(),
        accelerator: any_checked.map_or("unknown", |c| c.accelerator).to_owned(),
        qemu_version: any_checked.map_or_else(|| "unknown".to_owned(), |c| c.qemu_version.clone()),
        kernel_version: droveway_host::features::kernel_release(),
        total_migration_time_seconds: end.since(start).as_secs_f64(),
        eviction_time_seconds: closed
            .filter(|_| all_moved)
            .map(|closed| closed.since(start).as_secs_f64()),
        migrated_bytes: vms.iter().map(|vm| vm.migrated_bytes).sum(),
        wire_bytes: wire_bytes(ledger, &context.plan.source),
        line_rate_seconds,
        exit_code: 0,
        vms,
        predicted: None,
        applications,
        reservations: ledger.reservations.clone(),
        divergences: ledger.divergences.clone(),
        decisions: decisions(context, ledger, origin),
        cpu_busy_ratio: ledger.cpu_busy_ratio,
        controller: controller_cost(ledger),
        ports: ports(context, ledger, origin),
        remarks: Vec::new(),
    };
    report.remarks = remarks(&report, ledger);
    report.exit_code = exit_code(context, &report, ledger).code();
    report
}

fn vm_report(
    context: &Context<'_>,
    ledger: &VmLedger,
    step: &droveway_plan::Move,
    origin: Timestamp,
) -> VmReport {
    let seconds = |at: Option<Timestamp>| at.map(|at| at.seconds_from(origin));
    let between = |from: Option<Timestamp>, to: Option<Timestamp>| {
        from.zip(to).map(|(from, to)| to.since(from).as_secs_f64())
    };
    let (started, ended) = (ledger.started_at(), ledger.ended_at());
    let result = match ledger.outcome {
        Some(Outcome::Completed) => MoveResult::Completed,
        Some(Outcome::RolledBack) if started.is_none() => MoveResult::NotStarted,
        Some(Outcome::RolledBack) => MoveResult::RolledBack,
        Some(Outcome::NeedsRecovery) => MoveResult::NeedsRecovery,
        Some(Outcome::Lost) => MoveResult::Lost,
        Some(Outcome::NotStarted) | None => MoveResult::NotStarted,
    };
    let fell_back = ledger.split_at().is_some() && !step.technique.exposes();
    let probe = context.fleet.spec.probes.iter().find(|probe| probe.vm == step.vm);
    let outage = probe.zip(started.zip(ended)).and_then(|(probe, (start, end))| {
        let samples: Vec<ProbeSample> =
            droveway_lab::runner::read_log(Path::new(&probe.log)).ok()?;
        longest_silence(&samples, start, end + OUTAGE_GRACE)
    });
    let progress = &ledger.progress;
    // A target that only could have been switched to says zero.
    let blocked = ledger.blocked.as_ref().filter(|_| ledger.split_at().is_some());
    VmReport {
        name: step.vm.clone(),
        technique: step.technique,
        fallback_taken: fell_back.then_some(Technique::PostCopy),
        result,
        reason: ledger.reason.clone(),
        start_seconds: seconds(started),
        end_seconds: seconds(ended),
        downtime_seconds: between(ledger.stopped_at(), ledger.resumed_at()),
        qemu_downtime_seconds: progress.qemu_downtime.map(|d| d.as_secs_f64()),
        outage_seconds: outage.map(|silence| silence.as_secs_f64()),
        migrated_bytes: progress.transferred.get(),
        needed_bytes: progress.needed.min(progress.transferred).get(),
        passes: progress.pass,
        exposure_seconds: between(ledger.split_at(), ended).unwrap_or(0.0),
        postcopy_requests: progress.postcopy_requests,
        blocked_seconds: blocked.map(|it| it.together.as_secs_f64()),
        vcpu_blocked_seconds: blocked
            .map_or_else(Vec::new, |it| it.vcpus.iter().map(Duration::as_secs_f64).collect()),
        phases: phases(ledger, origin),
        path: ledger.path.report(),
        predicted: None,
    }
}

fn phases(ledger: &VmLedger, origin: Timestamp) -> Vec<PhaseSpan> {
    let mut spans: Vec<PhaseSpan> = Vec::new();
    for record in &ledger.records {
        let at = record.at.seconds_from(origin);
        let name = match &record.kind {
            RecordKind::Entered(phase) => Some(phase.name()),
            RecordKind::Ended { .. } => None,
            _ => continue,
        };
        if let Some(open) = spans.last_mut() {
            open.end_seconds = at;
        }
        if let Some(name) = name {
            spans.push(PhaseSpan { phase: name.to_owned(), start_seconds: at, end_seconds: at });
        }
    }
    spans
}

fn application(app: &Application, windows: &Windows) -> ApplicationReport {
    let samples: Vec<ApplicationSample> =
        droveway_lab::runner::read_log(Path::new(&app.log)).unwrap_or_default();
    let (unit, scale) = match app.unit {
        ApplicationUnit::Bytes => ("Mbit/s", 8.0 / 1e6),
        ApplicationUnit::Requests => ("requests/s", 1.0),
        ApplicationUnit::Operations => ("operations/s", 1.0),
    };
    let per_second = |(from, to): (Timestamp, Timestamp)| {
        let (amount, covered) = amount_between(&samples, from, to);
        let enough = covered.as_secs_f64() >= COVERED_MIN * to.since(from).as_secs_f64().min(1.0);
        (enough && !covered.is_zero()).then(|| amount / covered.as_secs_f64())
    };
    let before = per_second(windows.before);
    let during = per_second(windows.during);
    let time = windows.during.1.since(windows.during.0).as_secs_f64();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, far below 2^53"
    )]
    let lost = before
        .zip(during)
        .map(|(before, during)| ((before - during).max(0.0) * time).round() as u64);
    let is_bytes = app.unit == ApplicationUnit::Bytes;
    let latency = |(from, to), share| latency_quantile_ms(&samples, from, to, share);
    ApplicationReport {
        name: app.name.clone(),
        kind: app.kind.clone(),
        from: app.from.clone(),
        to: app.to.clone(),
        unit: unit.to_owned(),
        before: before.map(|rate| rate * scale),
        during: during.map(|rate| rate * scale),
        after: per_second(windows.after).map(|rate| rate * scale),
        lost_bytes: lost.filter(|_| is_bytes),
        lost_requests: lost.filter(|_| !is_bytes),
        loss_ratio: before
            .zip(during)
            .filter(|(before, _)| *before > 0.0)
            .map(|(before, during)| ((before - during) / before).max(0.0)),
        p50_before_ms: latency(windows.before, 0.5),
        p50_during_ms: latency(windows.during, 0.5),
        p99_before_ms: latency(windows.before, 0.99),
        p99_during_ms: latency(windows.during, 0.99),
        p999_before_ms: latency(windows.before, 0.999),
        p999_during_ms: latency(windows.during, 0.999),
        series: series(&samples, windows, scale),
    }
}

/// The rate over time. What a guest could not tell while it was paused comes late and in one piece: samples are joined until
/// they span enough time to be a rate.
fn series(samples: &[ApplicationSample], windows: &Windows, scale: f64) -> Vec<SeriesPoint> {
    const SPAN_MIN: Duration = Duration::from_millis(150);
    let mut points = Vec::new();
    let mut amount = 0.0;
    let mut span = Duration::ZERO;
    let shown = |s: &&ApplicationSample| s.end >= windows.before.0 && s.start <= windows.after.1;
    for sample in samples.iter().filter(shown) {
        #[expect(clippy::cast_precision_loss, reason = "an interval's amount")]
        let own = sample.amount as f64;
        amount += own;
        span += sample.end.since(sample.start);
        if span >= SPAN_MIN {
            points.push(SeriesPoint {
                at_seconds: sample.end.seconds_from(windows.origin),
                rate: amount * scale / span.as_secs_f64(),
            });
            amount = 0.0;
            span = Duration::ZERO;
        }
    }
    points
}

fn wire_bytes(ledger: &Ledger, source: &HostId) -> Option<u64> {
    let sent = |reading: &crate::run::PortReading| {
        let (_, counters) = reading.counters.iter().find(|(host, _)| host == source)?;
        Some(counters.tx_bytes)
    };
    let (first, last) = (ledger.ports.first()?, ledger.ports.last()?);
    Some(sent(last)?.saturating_sub(sent(first)?))
}

fn ports(context: &Context<'_>, ledger: &Ledger, origin: Timestamp) -> Vec<PortSeries> {
    let series = |(host, capacity): &(HostId, u64)| {
        let read: Vec<_> = ledger
            .ports
            .iter()
            .filter_map(|reading| {
                let (_, counters) = reading.counters.iter().find(|(name, _)| name == host)?;
                Some((reading.at, *counters))
            })
            .collect();
        let point = |pair: &[(Timestamp, droveway_host::Counters)]| {
            let [(before, old), (at, new)] = pair else { return None };
            let time = at.since(*before);
            #[expect(clippy::cast_precision_loss, reason = "a rate, for a picture")]
            let rate = |new: u64, old: u64| {
                droveway_fleet::Bandwidth::of(Bytes::new(new.saturating_sub(old)), time)
                    .bits_per_second() as f64
            };
            // Two readings closer than this say nothing about a rate.
            (time >= Duration::from_millis(20)).then(|| PortPoint {
                at_seconds: at.seconds_from(origin),
                tx_bits_per_second: rate(new.tx_bytes, old.tx_bytes),
                rx_bits_per_second: rate(new.rx_bytes, old.rx_bytes),
            })
        };
        PortSeries {
            host: host.clone(),
            capacity_bits_per_second: *capacity,
            samples: read.windows(2).filter_map(point).collect(),
        }
    };
    context.capacity.iter().map(series).collect()
}

fn decisions(context: &Context<'_>, ledger: &Ledger, origin: Timestamp) -> Vec<Decision> {
    let mut all = context.decided.to_vec();
    for (vm, entry) in &ledger.vms {
        for record in &entry.records {
            if let RecordKind::Decided { reason, inputs, choice, runner_up } = &record.kind {
                all.push(Decision {
                    at_seconds: record.at.seconds_from(origin),
                    vm: Some(vm.clone()),
                    reason: reason.clone(),
                    inputs: inputs.clone(),
                    choice: choice.clone(),
                    runner_up: runner_up.clone(),
                    margin: None,
                });
            }
        }
    }
    all.extend(ledger.decisions.iter().map(|decision| Decision {
        at_seconds: decision.at.seconds_from(origin),
        vm: decision.vm.clone(),
        reason: decision.reason.clone(),
        inputs: decision.inputs.clone(),
        choice: decision.choice.clone(),
        runner_up: decision.runner_up.clone(),
        margin: decision.margin,
    }));
    all.sort_by(|a, b| a.at_seconds.total_cmp(&b.at_seconds));
    all
}

fn controller_cost(ledger: &Ledger) -> ControllerCost {
    let (Some(before), Some(after)) = (ledger.usage_before, ledger.usage_after) else {
        return ControllerCost::default();
    };
    let time = ledger
        .began_at
        .zip(ledger.ended_at)
        .map_or(0.0, |(began, ended)| ended.since(began).as_secs_f64());
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    ControllerCost {
        cpu_core_ratio: if time > 0.0 { cpu / time } else { 0.0 },
        memory_bytes_max: after.resident_bytes_max,
    }
}

fn remarks(report: &RunReport, ledger: &Ledger) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(busy) = report.cpu_busy_ratio.filter(|busy| *busy > CPU_SATURATED) {
        remarks.push(format!(
            "The machine's CPUs were {:.0} % busy: this run measured the CPU, not the network.",
            busy * 100.0
        ));
    }
    if report.accelerator == "tcg" {
        remarks.push(
            "The VMs ran under emulation (tcg): figures that depend on the CPU do not carry over to \
             hardware virtualisation."
                .to_owned(),
        );
    }
    if ledger.cancelled {
        remarks.push("The run was interrupted by the operator.".to_owned());
    }
    for (vm, entry) in &ledger.vms {
        for record in &entry.records {
            if let RecordKind::Warning(text) = &record.kind {
                remarks.push(format!("{vm}: {text}"));
            }
        }
    }
    remarks.extend(ledger.remarks.iter().cloned());
    if report.ports.len() < 2 {
        remarks.push("A port's counters could not be read: wire bytes are missing.".to_owned());
    }
    remarks
}

fn exit_code(context: &Context<'_>, report: &RunReport, ledger: &Ledger) -> Exit {
    let any = |wanted: MoveResult| report.vms.iter().any(|vm| vm.result == wanted);
    if any(MoveResult::Lost) || any(MoveResult::NeedsRecovery) {
        Exit::NeedsRecovery
    } else if ledger.cancelled {
        Exit::Interrupted
    } else if any(MoveResult::RolledBack) || any(MoveResult::NotStarted) {
        Exit::Partly
    } else if is_late(context, report) || report.vms.iter().any(|vm| misses_limit(context, vm)) {
        Exit::LimitMissed
    } else {
        Exit::Done
    }
}

/// A limit is missed only if somebody asked for it: the operator, or the VM.
fn misses_limit(context: &Context<'_>, vm: &VmReport) -> bool {
    let Some(known) = context.fleet.spec.vm(vm.name.as_str()) else { return false };
    let asked = context.downtime_limit_asked.then_some(context.intent.max_downtime);
    let limit = [asked, known.max_downtime].into_iter().flatten().min();
    let too_long = limit
        .zip(vm.downtime_seconds)
        .is_some_and(|(limit, downtime)| downtime > limit.duration().as_secs_f64());
    let too_late = known
        .deadline
        .zip(vm.end_seconds)
        .is_some_and(|(deadline, end)| end > deadline.duration().as_secs_f64());
    too_long || too_late
}

/// A deadline counts from the run's start, as the VMs' own do: a plan that waited first has so much less time.
fn is_late(context: &Context<'_>, report: &RunReport) -> bool {
    let deadline = context.intent.deadline.map(|time| time.duration().as_secs_f64());
    let last = report.vms.iter().filter_map(|vm| vm.end_seconds).max_by(f64::total_cmp);
    deadline.zip(last).is_some_and(|(deadline, last)| last > deadline)
}

/// The exit that a report states.
pub(crate) fn exit_of(report: &RunReport) -> Exit {
    [Exit::Done, Exit::Partly, Exit::LimitMissed, Exit::NeedsRecovery, Exit::Interrupted]
        .into_iter()
        .find(|exit| exit.code() == report.exit_code)
        .unwrap_or(Exit::Internal)
}

/// Whether stdout takes colours.
pub(crate) fn color() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Writes `report.json`, `report.md` and `timeline.svg`; returns their folder.
pub(crate) fn write(report: &RunReport, folder: Option<&Path>) -> Result<PathBuf, Failure> {
    let folder =
        folder.map_or_else(|| Path::new("droveway-report").join(&report.run_id), Path::to_path_buf);
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let json = serde_json::to_string_pretty(report).map_err(anyhow::Error::from)?;
    let timeline = render::timeline(report).map_err(|error| anyhow::anyhow!("{error}"))?;
    for (name, text) in
        [("report.json", json), ("report.md", render::markdown(report)), ("timeline.svg", timeline)]
    {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(folder)
}

/// Prints reports side by side.
#[expect(clippy::print_stdout, reason = "the command's data")]
pub(crate) fn compare(paths: &[PathBuf]) -> Result<Exit, Failure> {
    let mut reports = Vec::new();
    for path in paths {
        let file = if path.is_dir() { path.join("report.json") } else { path.clone() };
        let text = fs::read_to_string(&file)
            .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
        let report: RunReport = serde_json::from_str(&text)
            .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
        reports.push(report);
    }
    println!("{}", render::side_by_side(&reports));
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests;
