//! How a run stands, for whoever looks from outside: a fold over the drivers, the ledger and the journal's state.

use super::{Ledger, Run};
use droveway_drive::{Outcome, Phase, VmDriver};
use droveway_fleet::{
    Bandwidth, Bytes, HostId, Timestamp, VmId,
    status::{ClassStatus, DecisionStatus, PortStatus, RunStatus, VmStatus},
};
use droveway_model::forecast::{Forecast, MoveForecast};
use droveway_plan::{Plan, VmFacts};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// Decisions that are shown: a screen of them.
const DECISIONS_MAX: usize = 50;

/// A run and its VMs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct View {
    pub(crate) run: RunStatus,
    pub(crate) vms: Vec<VmStatus>,
}

/// What is known beforehand of a run that does not adapt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expectations {
    /// When moves are expected to end, from the start of the run.
    pub(crate) ends: BTreeMap<VmId, Duration>,
    /// When VMs have to have arrived, from the start of the run.
    pub(crate) deadlines: BTreeMap<VmId, Duration>,
}

impl Expectations {
    /// From what was forecast, if anything was, and what is known of the VMs.
    pub(crate) fn of(plan: &Plan, forecast: Option<&Forecast>, facts: &[VmFacts]) -> Self {
        let end = |it: &MoveForecast| {
            Duration::from_secs_f64((it.start_seconds + it.duration_seconds.p50).max(0.0))
        };
        let ends = forecast.into_iter().flat_map(|forecast| forecast.moves.iter().map(end));
        let vms = plan.moves.iter().map(|step| step.vm.clone());
        let deadlines = facts.iter().filter_map(|it| Some((it.vm.clone(), it.deadline?)));
        Expectations { ends: vms.zip(ends).collect(), deadlines: deadlines.collect() }
    }
}

impl Run {
    /// How it stands.
    pub(super) fn view_now(&self, ledger: &Ledger, now: Timestamp) -> View {
        let plan = self.gang.plan();
        let elapsed = ledger.began_at.map(|began| now.since(began).as_secs_f64());
        let wishes = self.gang.wishes();
        let deadline_of = |vm: &VmId| match wishes.deadline_of(vm) {
            Some(asked) => asked,
            None => self.expected.deadlines.get(vm).copied(),
        };
        let vms: Vec<VmStatus> = self
            .gang
            .drivers()
            .map(|(vm, driver)| {
                let mut status = self.vm(vm, driver, ledger);
                status.forecast_end_seconds = self.ends(vm, driver, ledger, now);
                status.deadline_seconds = deadline_of(vm).map(|it| it.as_secs_f64());
                status.deadline_slack_seconds =
                    slack(status.deadline_seconds, status.forecast_end_seconds);
                status
            })
            .collect();
        let header = &self.journal.state().header;
        let forecast_end = vms
            .iter()
            .map(|vm| vm.forecast_end_seconds)
            .try_fold(0.0_f64, |latest, end| end.map(|end| latest.max(end)));
        let deadline = plan.deadline.map(|deadline| deadline.duration().as_secs_f64());
        let run = RunStatus {
            id: self.run_id.clone(),
            pid: std::process::id(),
            verb: header.verb.clone(),
            source: plan.source.to_string(),
            target: plan.target.to_string(),
            policy: plan.policy.clone(),
            plan: plan.id.clone(),
            generation: plan.generation,
            urgency: plan.urgency.to_string(),
            elapsed_seconds: elapsed,
            forecast_end_seconds: forecast_end.filter(|_| !vms.is_empty()),
            deadline_seconds: deadline,
            deadline_slack_seconds: slack(deadline, forecast_end),
            cancelled: ledger.cancelled,
            journal_trouble: self.journal.trouble_now(),
            ports: self.ports_now(ledger),
            decisions: decisions(ledger),
        };
        View { run, vms }
    }

    fn vm(&self, vm: &VmId, driver: &VmDriver, ledger: &Ledger) -> VmStatus {
        let plan = self.gang.plan();
        let entry = ledger.vms.get(vm);
        let told = entry.map(|entry| entry.told());
        let progress = driver.progress();
        let phase = driver.phase();
        let moves = progress.total > Bytes::ZERO;
        let (runs_at_target, state) = told.unwrap_or((false, phase.name()));
        let host = if runs_at_target { &plan.target } else { &plan.source };
        let downtime = entry
            .and_then(|entry| Some(entry.resumed_at()?.since(entry.stopped_at()?).as_secs_f64()));
        let streams = matches!(phase, Phase::PreCopy | Phase::Switchover | Phase::PostCopy);
        VmStatus {
            name: vm.to_string(),
            host: Some(host.to_string()),
            state: state.to_owned(),
            instances: Vec::new(),
            phase: Some(phase.name().to_owned()),
            technique: Some(driver.plan().technique.to_string()),
            pass: Some(progress.pass).filter(|pass| *pass > 0),
            total_bytes: moves.then_some(progress.total.get()),
            transferred_bytes: moves.then_some(progress.transferred.get()),
            remaining_bytes: moves.then_some(match driver.outcome() {
                Some(Outcome::Completed) => 0,
                _ => progress.remaining.get(),
            }),
            rate_bits_per_second: moves.then_some(if streams {
                progress.rate.bits_per_second()
            } else {
                0
            }),
            // QEMU knows it once a pass has ended; in post-copy nobody asks.
            dirty_bits_per_second: (phase == Phase::PreCopy && progress.pass > 1)
                .then_some(progress.dirty_rate.bits_per_second()),
            downtime_seconds: downtime,
            reason: entry.and_then(|entry| entry.reason.clone()),
            ..VmStatus::default()
        }
    }

    /// When a VM's move is expected to end, from the start of the run: what the planner expects, else what was forecast, else
    /// what is left at the rate of now.
    fn ends(&self, vm: &VmId, driver: &VmDriver, ledger: &Ledger, now: Timestamp) -> Option<f64> {
        let began = ledger.began_at?;
        if let Some(ended) = ledger.vms.get(vm).and_then(super::VmLedger::ended_at) {
            return Some(ended.since(began).as_secs_f64());
        }
        let elapsed = now.since(began).as_secs_f64();
        let planned = self.gang.prospects().and_then(|it| it.moves.get(vm)).map(|it| it.end);
        let expected = planned.or_else(|| self.expected.ends.get(vm).copied());
        let by_rate = || {
            let progress = driver.progress();
            let rate = progress.rate;
            (driver.uses_port() && !rate.is_zero())
                .then(|| elapsed + (progress.remaining / rate).as_secs_f64())
        };
        // What should be over and is not will take a little longer than now at least.
        let expected = expected.map(|end| end.as_secs_f64()).filter(|end| *end > elapsed);
        expected.or_else(by_rate)
    }

    /// What both ports carried in the last interval, and who had it.
    fn ports_now(&self, ledger: &Ledger) -> Vec<PortStatus> {
        let [.., before, last] = ledger.ports.as_slice() else { return Vec::new() };
        let time = last.at.since(before.at);
        let rate = |new: u64, old: u64| Bandwidth::of(Bytes::new(new.saturating_sub(old)), time);
        let plan = self.gang.plan();
        let streams: Bandwidth = self
            .gang
            .drivers()
            .filter(|(_, driver)| driver.uses_port())
            .map(|(_, driver)| driver.progress().rate)
            .fold(Bandwidth::ZERO, |sum, rate| sum + rate);
        let mut ports = Vec::new();
        for (host, new) in &last.counters {
            let Some((_, old)) = before.counters.iter().find(|(name, _)| name == host) else {
                continue;
            };
            let capacity = self.ports.capacity.iter().find(|(name, _)| name == host);
            let both = [
                ("tx", rate(new.tx_bytes, old.tx_bytes), *host == plan.source),
                ("rx", rate(new.rx_bytes, old.rx_bytes), *host == plan.target),
            ];
            for (direction, carried, streams_use_it) in both {
                let streams = if streams_use_it { streams } else { Bandwidth::ZERO };
                ports.push(PortStatus {
                    host: host.to_string(),
                    direction: direction.to_owned(),
                    capacity_bits_per_second: capacity.map_or(0, |(_, rate)| *rate),
                    bits_per_second: carried.bits_per_second(),
                    classes: self.classes(host, direction, carried, streams),
                });
            }
        }
        ports
    }

    /// From the port's own classes if it has some; else what QEMU says of the streams, and the rest.
    fn classes(
        &self,
        host: &HostId,
        direction: &str,
        carried: Bandwidth,
        streams: Bandwidth,
    ) -> Vec<ClassStatus> {
        let class = |class: &str, rate: Bandwidth, promised: Option<Bandwidth>| ClassStatus {
            class: class.to_owned(),
            bits_per_second: rate.bits_per_second(),
            promised_bits_per_second: promised.map(Bandwidth::bits_per_second),
        };
        match self.network.as_ref().and_then(|network| network.classes(host, direction)) {
            Some((rates, promised)) => vec![
                class("urgent", rates.urgent, None),
                class("migration", rates.stream, Some(promised)),
                class("applications", rates.applications, None),
            ],
            None => {
                let streams = streams.min(carried);
                vec![
                    class("migration", streams, None),
                    class("applications", carried - streams, None),
                ]
            }
        }
    }
}

fn slack(deadline: Option<f64>, end: Option<f64>) -> Option<f64> {
    deadline.zip(end).map(|(deadline, end)| deadline - end)
}

/// What drivers and planner decided and what is to be told, in order.
fn decisions(ledger: &Ledger) -> Vec<DecisionStatus> {
    let Some(began) = ledger.began_at else { return Vec::new() };
    let of_vms = ledger.vms.iter().flat_map(|(vm, entry)| {
        entry.records.iter().filter_map(move |record| {
            let text = super::display::decision(&record.kind)?;
            Some((record.at, Some(vm.to_string()), text))
        })
    });
    let of_gang = ledger.decisions.iter().map(|it| {
        let text = format!("{}, because {} ({})", it.choice, it.reason, it.inputs);
        (it.at, it.vm.as_ref().map(ToString::to_string), text)
    });
    let mut all: Vec<_> = of_vms.chain(of_gang).collect();
    all.sort_by_key(|(at, ..)| *at);
    all.drain(..all.len().saturating_sub(DECISIONS_MAX));
    all.into_iter()
        .map(|(at, vm, text)| DecisionStatus { at_seconds: at.seconds_from(began), vm, text })
        .collect()
}
