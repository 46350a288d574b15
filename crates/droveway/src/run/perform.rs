//! Performing the driver's actions on the two QEMUs of a VM.

use super::{
    Input,
    settings::{self, CAPABILITIES},
    translate,
};
use crate::{
    preflight,
    qemu::{self, Qemu},
};
use droveway_drive::{Action, ActionError, ActionId, FailureClass, Limits, Reply, Side};
use droveway_fleet::{VmId, fleet::PortRange};
use droveway_host::{
    netns::Netns,
    qemu as process,
    sockets::break_connecting,
    tcp_info::{Connection, TcpDiag},
};
use droveway_qmp::{
    Capability, MigrationParameters, MigrationUri, QmpError, SwitchoverBandwidth, YankInstance,
};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::sync::mpsc;

/// One VM's two QEMUs, and where its target may listen.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) source: Qemu,
    pub(crate) target: Qemu,
    pub(crate) address: IpAddr,
    pub(crate) ports: PortRange,
    /// The namespaces of the source's and the target's QEMU.
    pub(crate) netns: [Option<String>; 2],
    /// Shared by all VMs of a run: each takes the next port of the range, so that none tries what another holds.
    pub(crate) next_port: Arc<AtomicU32>,
}

impl Pair {
    pub(crate) fn qemu(&self, side: Side) -> &Qemu {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }
}

pub(super) fn spawn(
    pairs: &BTreeMap<VmId, Pair>,
    vm: VmId,
    id: ActionId,
    action: Action,
    inbox: mpsc::Sender<Input>,
) {
    let Some(pair) = pairs.get(&vm).cloned() else { return };
    tokio::spawn(async move {
        let reply = perform(&vm, &pair, &action, &inbox).await;
        tracing::debug!(%vm, ?action, ok = reply.is_ok(), "performed");
        let _ = inbox.send(Input::Reply { vm, id, reply }).await;
    });
}

async fn perform(
    vm: &VmId,
    pair: &Pair,
    action: &Action,
    inbox: &mpsc::Sender<Input>,
) -> Result<Reply, ActionError> {
    let failed = |error: QmpError| translate::error(&error);
    let (source, target) = (&pair.source.client, &pair.target.client);
    match action {
        Action::Configure { side, postcopy, throttle, limits } => {
            let client = &pair.qemu(*side).client;
            client.set_capabilities(&capabilities(*postcopy, *throttle)).await.map_err(failed)?;
            client.set_parameters(&parameters(limits)).await.map_err(failed)?;
        }
        Action::Listen => return listen(pair, false).await.map(Reply::Listening),
        Action::ListenAgain => return listen(pair, true).await.map(Reply::Listening),
        Action::Migrate { uri } => source.migrate(&parsed(uri)?).await.map_err(failed)?,
        Action::ResumeMigration { uri } => {
            source.migrate_resume(&parsed(uri)?).await.map_err(failed)?;
        }
        Action::StartPostcopy => source.migrate_start_postcopy().await.map_err(failed)?,
        Action::SetSwitchoverBandwidth(rate) => {
            let wanted = MigrationParameters {
                avail_switchover_bandwidth: Some(SwitchoverBandwidth::Assumed(*rate)),
                ..MigrationParameters::default()
            };
            source.set_parameters(&wanted).await.map_err(failed)?;
        }
        Action::SetDowntimeLimit(limit) => {
            let wanted = MigrationParameters {
                downtime_limit: Some(*limit),
                ..MigrationParameters::default()
            };
            source.set_parameters(&wanted).await.map_err(failed)?;
        }
        Action::SetBandwidth(limit) => {
            let wanted = MigrationParameters {
                max_bandwidth: Some(*limit),
                ..MigrationParameters::default()
            };
            source.set_parameters(&wanted).await.map_err(failed)?;
        }
        Action::SetPostcopyBandwidth(limit) => {
            let wanted = MigrationParameters {
                max_postcopy_bandwidth: Some(*limit),
                ..MigrationParameters::default()
            };
            source.set_parameters(&wanted).await.map_err(failed)?;
        }
        Action::Sample(side) => {
            let client = &pair.qemu(*side).client;
            let (info, state) = tokio::join!(client.migration(), client.status());
            let (info, state) = (info.map_err(failed)?, state.map_err(failed)?);
            if let (Side::Target, Some(blocked)) = (side, translate::blocked(&info)) {
                // The loop may be over: nobody wants to know then.
                let _ = inbox.send(Input::Blocked { vm: vm.clone(), blocked }).await;
            }
            return Ok(Reply::Sample(Box::new(translate::sample(&info, &state.state))));
        }
        Action::Restore(before) => settings::put_back(source, before).await.map_err(failed)?,
        Action::Cancel => source.migrate_cancel().await.map_err(failed)?,
        Action::BreakChannel => {
            source.yank(&[YankInstance::Migration]).await.map_err(failed)?;
        }
        Action::DestroyTarget => ended(qemu::end_at_once(&pair.target).await)?,
        Action::DestroySource => ended(qemu::end(&pair.source).await)?,
        Action::Resume(side) => pair.qemu(*side).client.cont().await.map_err(failed)?,
        Action::Stop(side) => pair.qemu(*side).client.stop().await.map_err(failed)?,
        Action::PauseChannel(side) => {
            let paused = pair.qemu(*side).client.migrate_pause().await.map_err(failed);
            // While it connects anew QEMU knows no pause, and would wait for its kernel to give up.
            if *side == Side::Target || paused.is_ok() || !stop_connecting(vm, pair).await {
                paused?;
            }
        }
    }
    let _ = target;
    Ok(Reply::Done)
}

/// Ends the attempt of a VM's source to connect to its target, if there is one: it fails at once, and QEMU is paused again.
async fn stop_connecting(vm: &VmId, pair: &Pair) -> bool {
    let (socket, netns) = (pair.source.socket.clone(), pair.netns[0].clone());
    let (address, ports) = (pair.address, pair.ports);
    let stopped = tokio::task::spawn_blocking(move || -> anyhow::Result<usize> {
        let Some(process) = process::find_by_qmp_socket(&socket) else { return Ok(0) };
        let mut diag = TcpDiag::open(&Netns::of(netns.as_deref())?)?;
        let to_target = |one: &Connection| {
            one.remote.ip().to_canonical() == address
                && (ports.first..=ports.last).contains(&one.remote.port())
        };
        Ok(break_connecting(process, &mut diag, to_target)?)
    });
    match stopped.await {
        Ok(Ok(stopped)) => stopped > 0,
        Ok(Err(error)) => {
            tracing::debug!(%vm, "what its source is connecting to stays: {error:#}");
            false
        }
        Err(_) => false,
    }
}

fn ended(result: anyhow::Result<()>) -> Result<(), ActionError> {
    result.map_err(|error| ActionError {
        class: FailureClass::Timeout,
        message: format!("{error:#}"),
    })
}

fn parsed(uri: &str) -> Result<MigrationUri, ActionError> {
    uri.parse().map_err(|error: droveway_qmp::AddressError| ActionError {
        class: FailureClass::Refused,
        message: error.to_string(),
    })
}

/// The target listens on the next free port of its host's range. Ports are tried here first: QEMU (10.0) whose first port is taken
/// takes no other.
async fn listen(pair: &Pair, again: bool) -> Result<String, ActionError> {
    let size = u32::from(pair.ports.last - pair.ports.first) + 1;
    let mut last = None;
    for _ in 0..size {
        let offset = pair.next_port.fetch_add(1, Ordering::Relaxed) % size;
        let port = pair.ports.first + u16::try_from(offset).unwrap_or(0);
        if is_taken(pair, port).await {
            continue;
        }
        let uri = MigrationUri::tcp(pair.address.to_string(), port);
        let client = &pair.target.client;
        let answer = if again {
            client.migrate_recover(&uri).await
        } else {
            client.migrate_incoming(&uri).await
        };
        match answer {
            Ok(()) => return Ok(uri.to_string()),
            // Only a port that somebody else holds is worth another try, and only to who has listened before.
            Err(error) if again && error.to_string().contains("Address already in use") => {
                last = Some(translate::error(&error));
            }
            Err(error) => return Err(translate::error(&error)),
        }
    }
    Err(last.unwrap_or_else(|| ActionError {
        class: FailureClass::Refused,
        message: "no port for incoming migrations is free at the target's host".to_owned(),
    }))
}

/// Whether somebody holds that port of the target's host; where that cannot be told QEMU will.
async fn is_taken(pair: &Pair, port: u16) -> bool {
    let (address, netns) = (pair.address, pair.netns[1].clone());
    let tried = tokio::task::spawn_blocking(move || {
        Netns::of(netns.as_deref())?.run(|| preflight::is_taken(address, port))
    });
    match tried.await {
        Ok(Ok(taken)) => taken,
        Ok(Err(error)) => {
            tracing::debug!("port {port} could not be tried: {error}");
            false
        }
        Err(_) => false,
    }
}

/// `return-path` in every technique: without it a source takes "sent" for "arrived", and a target that dies while it loads
/// takes the VM along. `postcopy-blocktime` is older than `postcopy-preempt`: who has the one has the other.
fn capabilities(postcopy: bool, throttle: bool) -> [(Capability, bool); 6] {
    CAPABILITIES.map(|capability| {
        let on = match capability {
            Capability::AutoConverge => throttle,
            Capability::PostcopyRam
            | Capability::PostcopyPreempt
            | Capability::PostcopyBlocktime => postcopy,
            _ => true,
        };
        (capability, on)
    })
}

fn parameters(limits: &Limits) -> MigrationParameters {
    MigrationParameters {
        max_bandwidth: Some(limits.bandwidth),
        max_postcopy_bandwidth: Some(limits.postcopy_bandwidth),
        avail_switchover_bandwidth: Some(SwitchoverBandwidth::Assumed(limits.switchover_bandwidth)),
        downtime_limit: Some(limits.downtime),
        ..MigrationParameters::default()
    }
}
