//! Everything that happened in a run, in order: what display, report and `status` are folds over.

use super::{Display, path::PathLog, sampler::PortReading};
use crate::fleet::{ActiveRun, ActiveVm};
use droveway_drive::{Decision, Outcome, Phase, Progress, Record, RecordKind};
use droveway_fleet::{
    Bandwidth, Bytes, Timestamp, VmId,
    report::{Divergence, Reservation},
};
use droveway_host::features::{MachineCpu, OwnUsage, own_usage};
use droveway_plan::{Plan, replan::Wishes};
use std::{collections::BTreeMap, time::Duration};

/// How long a VM's vCPUs waited for pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocked {
    /// All at once.
    pub(crate) together: Duration,
    /// Each.
    pub(crate) vcpus: Vec<Duration>,
}

/// What happened to one VM.
#[derive(Debug, Clone, Default)]
pub(crate) struct VmLedger {
    pub(crate) records: Vec<Record>,
    pub(crate) progress: Progress,
    pub(crate) phase: Option<Phase>,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) reason: Option<String>,
    /// The target's last word.
    pub(crate) blocked: Option<Blocked>,
    /// What the kernel said of its connections.
    pub(crate) path: PathLog,
}

impl VmLedger {
    fn take(&mut self, record: &Record) {
        match &record.kind {
            RecordKind::Entered(phase) => self.phase = Some(*phase),
            RecordKind::Ended { outcome, reason } => {
                self.phase = Some(Phase::Ended);
                self.outcome = Some(*outcome);
                self.reason.clone_from(reason);
            }
            _ => {}
        }
    }

    fn first(&self, wanted: impl Fn(&RecordKind) -> bool) -> Option<Timestamp> {
        self.records.iter().find(|record| wanted(&record.kind)).map(|record| record.at)
    }

    /// When the move began: the first pass, not the preparation.
    pub(crate) fn started_at(&self) -> Option<Timestamp> {
        self.first(|kind| *kind == RecordKind::Entered(Phase::PreCopy))
    }

    /// When the stream and the switchover were over; confirming and cleaning is not counted.
    pub(crate) fn ended_at(&self) -> Option<Timestamp> {
        self.started_at()?;
        self.first(|kind| *kind == RecordKind::Entered(Phase::Settling))
            .or_else(|| self.closed_at())
    }

    /// When the attempt was closed: the source's QEMU is gone then, if the VM moved.
    pub(crate) fn closed_at(&self) -> Option<Timestamp> {
        self.first(|kind| matches!(kind, RecordKind::Ended { .. }))
    }

    pub(crate) fn stopped_at(&self) -> Option<Timestamp> {
        self.first(|kind| *kind == RecordKind::Stopped)
    }

    pub(crate) fn resumed_at(&self) -> Option<Timestamp> {
        self.first(|kind| *kind == RecordKind::Resumed)
    }

    pub(crate) fn split_at(&self) -> Option<Timestamp> {
        self.first(|kind| *kind == RecordKind::Entered(Phase::PostCopy))
    }

    /// Whether it runs at the target, and its state in a word.
    pub(crate) fn told(&self) -> (bool, &'static str) {
        let moved = self.resumed_at().is_some() && self.outcome != Some(Outcome::RolledBack);
        let state = match self.outcome {
            None => self.phase.unwrap_or(Phase::Pending).name(),
            Some(Outcome::Lost) => "lost",
            Some(Outcome::NeedsRecovery) => "needs-recovery",
            Some(_) => "running",
        };
        (moved, state)
    }
}

/// What happened in a run.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) vms: BTreeMap<VmId, VmLedger>,
    pub(crate) ports: Vec<PortReading>,
    pub(crate) cancelled: bool,
    /// What operators asked for meanwhile.
    pub(crate) wishes: Wishes,
    /// What is to be told of the run as a whole.
    pub(crate) remarks: Vec<String>,
    /// What was decided about the gang as a whole while it ran.
    pub(crate) decisions: Vec<Decision>,
    /// What the ports promised.
    pub(crate) reservations: Vec<Reservation>,
    /// Where they did not keep it.
    pub(crate) divergences: Vec<Divergence>,
    pub(crate) began_at: Option<Timestamp>,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) cpu_busy_ratio: Option<f64>,
    pub(crate) usage_before: Option<OwnUsage>,
    pub(crate) usage_after: Option<OwnUsage>,
    cpu_before: Option<MachineCpu>,
}

impl Ledger {
    pub(crate) fn new(plan: &Plan) -> Self {
        Ledger {
            vms: plan.moves.iter().map(|step| (step.vm.clone(), VmLedger::default())).collect(),
            ports: Vec::new(),
            cancelled: false,
            wishes: Wishes::default(),
            remarks: Vec::new(),
            decisions: Vec::new(),
            reservations: Vec::new(),
            divergences: Vec::new(),
            began_at: None,
            ended_at: None,
            cpu_busy_ratio: None,
            usage_before: None,
            usage_after: None,
            cpu_before: None,
        }
    }

    /// Something worth telling, now and in the report.
    pub(crate) fn remark(&mut self, display: &Display, text: String) {
        display.warn(&text);
        self.remarks.push(text);
    }

    pub(crate) fn note_blocked(&mut self, vm: &VmId, blocked: Blocked) {
        if let Some(entry) = self.vms.get_mut(vm) {
            entry.blocked = Some(blocked);
        }
    }

    /// A promise was not kept.
    pub(crate) fn diverged(&mut self, display: &Display, mut found: Divergence) {
        let rate = |bits| Bandwidth::from_bits_per_second(bits).human();
        self.remark(
            display,
            format!(
                "port of host '{}', {}: {} are promised to {}, it had {} while all others had {}, more than the rest",
                found.host,
                found.direction,
                rate(found.promised_bits_per_second),
                found.class,
                rate(found.had_bits_per_second),
                rate(found.others_bits_per_second),
            ),
        );
        found.at_seconds -= self.began_at.map_or(0.0, Timestamp::seconds);
        self.divergences.push(found);
    }

    /// What happened before this controller took over: where VMs are follows from it, and from when times count. How an attempt
    /// ended that is driven on (`goes_on`) is no longer how it stands.
    pub(crate) fn remember(
        &mut self,
        earlier: Vec<(VmId, Record)>,
        goes_on: impl Fn(&VmId) -> bool,
    ) {
        for (vm, record) in earlier {
            let driven = goes_on(&vm);
            let entry = self.vms.entry(vm).or_default();
            if !driven {
                entry.take(&record);
            }
            entry.records.push(record);
        }
        // The run began when its first VM did.
        self.began_at = self.vms.values().filter_map(VmLedger::started_at).min();
    }

    /// The first VM is about to start.
    pub(crate) fn begin(&mut self, now: Timestamp, reading: PortReading) {
        self.began_at = self.began_at.or(Some(now));
        self.ports.push(reading);
        self.cpu_before = MachineCpu::read().ok();
        self.usage_before = own_usage().ok();
    }

    /// The last attempt has ended.
    pub(crate) fn end(&mut self, now: Timestamp, reading: PortReading) {
        self.ended_at = Some(now);
        self.ports.push(reading);
        self.usage_after = own_usage().ok();
        let cpu = MachineCpu::read().ok();
        self.cpu_busy_ratio =
            cpu.zip(self.cpu_before).map(|(after, before)| after.busy_ratio_since(before));
    }

    pub(crate) fn note_ports(&mut self, now: Timestamp, reading: PortReading) {
        if self.ports.last().is_none_or(|last| last.at < now) {
            self.ports.push(reading);
        }
    }

    /// Payload of the moves that their targets have taken, as the kernel counts it.
    pub(super) fn acknowledged(&self) -> Bytes {
        Bytes::new(self.vms.values().map(|entry| entry.path.acknowledged()).sum())
    }

    pub(crate) fn note(&mut self, vm: &VmId, record: Record, progress: Option<Progress>) {
        let Some(entry) = self.vms.get_mut(vm) else { return };
        entry.take(&record);
        entry.progress = progress.unwrap_or(entry.progress);
        entry.records.push(record);
    }

    /// The run as `status` shows it to others.
    pub(crate) fn active_run(&self, run_id: &str, plan: &Plan) -> ActiveRun {
        let vm = |(name, entry): (&VmId, &VmLedger)| {
            let (moved, state) = entry.told();
            let host = if moved { &plan.target } else { &plan.source };
            ActiveVm { name: name.to_string(), host: host.to_string(), state: state.to_owned() }
        };
        ActiveRun {
            run_id: run_id.to_owned(),
            pid: std::process::id(),
            vms: self.vms.iter().map(vm).collect(),
        }
    }
}
