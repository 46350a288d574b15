//! What must hold whatever goes wrong, looked at after every event and at the end.

use super::{Left, World, timestamp};
use crate::qemu::Pair;
use droveway_drive::{Outcome as Ended, Record, RecordKind, journal::RunState};
use droveway_fleet::VmId;
use serde::{Deserialize, Serialize};

/// A rule of the world that does not hold, so that the laws can be seen to notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Broken {
    /// A source runs on when its VM runs at the target.
    SourceRunsOn,
    /// A target that is to be destroyed is said to be gone, and lives on.
    TargetSurvives,
    /// A source whose move is undone loses its process.
    SourceDies,
    /// A VM that is lost is told of as rolled back.
    LossIsHidden,
    /// Nobody tells a driver what time it is.
    TimeStands,
    /// What was changed at the ports stays so.
    PortsStayChanged,
    /// What drivers tell is not written down.
    JournalForgets,
    /// Streams get a third of what the ports give them.
    SlowStreams,
    /// What was set at a source whose VM stays is said to be put back, and is not.
    SettingsStay,
    /// Kernels and heartbeats say that all is well, whatever is.
    CutsAreHidden,
    /// Kernels and heartbeats say that nothing arrives, whatever does.
    CutsAreInvented,
}

impl Broken {
    /// All of them.
    pub const ALL: [Broken; 11] = [
        Broken::SourceRunsOn,
        Broken::TargetSurvives,
        Broken::SourceDies,
        Broken::LossIsHidden,
        Broken::TimeStands,
        Broken::PortsStayChanged,
        Broken::JournalForgets,
        Broken::SlowStreams,
        Broken::SettingsStay,
        Broken::CutsAreHidden,
        Broken::CutsAreInvented,
    ];
}

/// What the laws remember.
#[derive(Debug, Default)]
pub(super) struct Laws {
    /// Events after which they were looked at.
    pub(super) looks: u64,
}

impl World<'_> {
    /// The laws of every instant.
    pub(super) fn check(&mut self, over: bool) {
        let Some(laws) = &mut self.laws else { return };
        laws.looks += 1;
        let mut found = Vec::new();
        self.check_path(over, &mut found);
        let now = self.now;
        for vm in &self.vms {
            let Some(pair) = &vm.pair else { continue };
            if pair.source.running && pair.target.running {
                found.push(format!("VM '{}' runs twice at {now:.3} s", vm.name));
            }
            if !pair.is_intact() && vm.destroyed_at.is_none() {
                found.push(format!("VM '{}' was destroyed by the run at {now:.3} s", vm.name));
            }
        }
        if self.drives() && !over && !self.controller.is_lost {
            let state = &self.controller.journal.state;
            for (vm, driver) in self.gang.drivers() {
                let told = state.vms.get(vm).and_then(|it| it.phase);
                let phase = driver.phase();
                // Before its first record a driver waits.
                let waits = phase == droveway_drive::Phase::Pending;
                if told != Some(phase) && !waits {
                    let text =
                        format!("the journal has VM '{vm}' in {told:?}, its driver in {phase}");
                    found.push(text);
                }
            }
        }
        self.outcome.violations.extend(found);
    }

    /// From when on nothing that went wrong lasts any more: what QEMUs do late is looked at, too.
    pub(super) fn calm_at(&self) -> f64 {
        if self.laws.is_none() {
            return 0.0;
        }
        let ports = self.ports.iter().map(|port| port.down_until);
        let monitors = self.stalled.iter().map(|it| it.until);
        let pairs = self.vms.iter().filter_map(|vm| vm.pair.as_ref()).map(Pair::calm_at);
        ports.chain(monitors).chain(pairs).fold(0.0, f64::max)
    }

    /// The journal tells the state that the controller holds.
    pub(super) fn check_replay(&mut self) {
        let journal = &self.controller.journal;
        let entries = journal.written.iter().chain(&journal.waiting);
        let replayed = RunState::replayed(journal.state.header.clone(), entries);
        // Who took over stands in the header of what is told, and in the entries of what is on file.
        if replayed != journal.state {
            let text = "the journal does not replay to the state that the controller held";
            self.outcome.violations.push(text.to_owned());
        }
    }

    /// The laws of the end.
    pub(super) fn check_end(&mut self) -> Left {
        let mut found = Vec::new();
        if self.outcome.violations.is_empty() && !self.controller.is_lost {
            self.check_replay();
            self.check_outcomes(&mut found);
            if self.controller.holds {
                found.push("the ports were left changed".to_owned());
            }
        }
        self.outcome.violations.extend(found);
        let journal = &self.controller.journal;
        let mut entries = journal.written.clone();
        entries.extend(journal.waiting.iter().cloned());
        let header = droveway_drive::journal::RunHeader { pid: 0, ..journal.state.header.clone() };
        Left {
            journal: entries,
            header,
            state: journal.state.clone(),
            adopted: self.controller.adopted,
            wall_offset: self.controller.wall_offset,
            checks: self.laws.as_ref().map_or(0, |laws| laws.looks),
        }
    }

    fn check_outcomes(&self, found: &mut Vec<String>) {
        let state = &self.controller.journal.state;
        for vm in &self.vms {
            let (Some(pair), name) = (&vm.pair, &vm.name) else { continue };
            let known = state.vms.get(name);
            let Some(outcome) = known.and_then(|it| it.outcome) else {
                found.push(format!("the attempt of VM '{name}' never ended"));
                continue;
            };
            let ends = self.outcome.records.iter().filter(|(of, record)| {
                of == name && matches!(record.kind, RecordKind::Ended { .. })
            });
            let ends = ends.count();
            if ends != 1 && self.controller.journal.lost == 0 {
                found.push(format!("the attempt of VM '{name}' ended {ends} times"));
            }
            let destroyed = vm.destroyed_at;
            let ended_at = known.and_then(|it| it.ended_at);
            let was_destroyed =
                destroyed.is_some_and(|at| ended_at.is_some_and(|ended| timestamp(at) <= ended));
            let (source, target) = (&pair.source, &pair.target);
            let sound = match outcome {
                Ended::Completed => (target.running || destroyed.is_some()) && !source.alive,
                Ended::RolledBack => (source.running || destroyed.is_some()) && !target.alive,
                Ended::NotStarted => source.running || destroyed.is_some(),
                // Half a guest may still run at the target, until it needs a page that is nowhere.
                Ended::Lost => was_destroyed && !source.running && !pair.runs_whole(),
                Ended::NeedsRecovery => !was_destroyed,
            };
            let told = |(of, record): &(VmId, Record)| {
                of == name
                    && matches!(&record.kind, RecordKind::Warning(text) if text.contains("could not be put back"))
            };
            let stays = outcome == Ended::RolledBack && source.alive;
            if stays && pair.is_set && !self.outcome.records.iter().any(told) {
                found.push(format!("VM '{name}' stays, and its QEMU is set as for the move"));
            }
            if !sound {
                found.push(format!(
                    "VM '{name}' ended as {outcome:?} ({:?}) at {:?}, destroyed at {destroyed:?}, with source {source:?}, target {target:?}",
                    known.and_then(|it| it.reason.as_deref()),
                    ended_at.map(|at| at.seconds()),
                ));
            }
        }
    }
}
