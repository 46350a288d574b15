//! From QEMU's words to the drivers'. What a driver does not act upon stays with the client's log.

use super::ledger::Blocked;
use droveway_drive::{
    ActionError, FailureClass, MigrationSample, MigrationStatus, QemuEvent, RunState,
};
use droveway_fleet::{Bandwidth, Bytes};
use droveway_qmp as qmp;

pub(super) fn event(event: &qmp::Event) -> Option<QemuEvent> {
    Some(match event {
        qmp::Event::Stop => QemuEvent::Stopped,
        qmp::Event::Resume => QemuEvent::Resumed,
        qmp::Event::Migration { status: known } => QemuEvent::Status(status(known)),
        qmp::Event::MigrationPass { pass } => {
            QemuEvent::Pass(u32::try_from(*pass).unwrap_or(u32::MAX))
        }
        _ => return None,
    })
}

pub(super) fn status(status: &qmp::MigrationStatus) -> MigrationStatus {
    match status {
        qmp::MigrationStatus::Idle => MigrationStatus::None,
        qmp::MigrationStatus::Setup | qmp::MigrationStatus::WaitUnplug => MigrationStatus::Setup,
        qmp::MigrationStatus::Active => MigrationStatus::Active,
        qmp::MigrationStatus::Device | qmp::MigrationStatus::PreSwitchover => {
            MigrationStatus::Device
        }
        qmp::MigrationStatus::PostcopyActive => MigrationStatus::PostcopyActive,
        qmp::MigrationStatus::PostcopyPaused => MigrationStatus::PostcopyPaused,
        qmp::MigrationStatus::PostcopyRecover | qmp::MigrationStatus::PostcopyRecoverSetup => {
            MigrationStatus::PostcopyRecover
        }
        qmp::MigrationStatus::Completed => MigrationStatus::Completed,
        qmp::MigrationStatus::Failed => MigrationStatus::Failed,
        qmp::MigrationStatus::Cancelling => MigrationStatus::Cancelling,
        qmp::MigrationStatus::Cancelled => MigrationStatus::Cancelled,
        other => MigrationStatus::Unknown(other.to_string()),
    }
}

pub(crate) fn sample(info: &qmp::MigrationInfo, state: &qmp::RunState) -> MigrationSample {
    let ram = info.ram.as_ref();
    let bytes = |pick: fn(&qmp::RamInfo) -> Bytes| ram.map_or(Bytes::ZERO, pick);
    let rate = |pick: fn(&qmp::RamInfo) -> Bandwidth| ram.map_or(Bandwidth::ZERO, pick);
    MigrationSample {
        status: status(&info.status),
        run_state: match state {
            qmp::RunState::Running => RunState::Running,
            qmp::RunState::Paused | qmp::RunState::Prelaunch => RunState::Paused,
            qmp::RunState::InMigrate => RunState::InMigrate,
            qmp::RunState::FinishMigrate => RunState::FinishMigrate,
            qmp::RunState::PostMigrate => RunState::PostMigrate,
            other => RunState::Other(other.to_string()),
        },
        transferred: bytes(|ram| ram.transferred),
        remaining: bytes(|ram| ram.remaining),
        total: bytes(|ram| ram.total),
        rate: rate(|ram| ram.rate),
        dirty_rate: rate(|ram| ram.dirty_rate),
        postcopy_requests: ram.map_or(0, |ram| ram.postcopy_requests),
        downtime: info.downtime,
        error: info.error.clone(),
    }
}

/// How long a post-copied VM's vCPUs waited for pages, as its target counts.
pub(super) fn blocked(info: &qmp::MigrationInfo) -> Option<Blocked> {
    let together = info.postcopy_blocktime?;
    Some(Blocked { together, vcpus: info.postcopy_vcpu_blocktime.clone() })
}

pub(super) fn error(error: &qmp::QmpError) -> ActionError {
    let class = if error.is_disconnected() {
        FailureClass::Gone
    } else if error.had_no_effect() {
        FailureClass::Refused
    } else {
        FailureClass::Timeout
    };
    ActionError { class, message: chain(error) }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
