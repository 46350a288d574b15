//! The two QEMUs of one VM: finding, launching, connecting, ending them.

use crate::exit::{Exit, Failure};
use anyhow::Context as _;
use droveway_fleet::{FleetVm, Host, HostId, Instance, VmId, fleet::Launch};
use droveway_host::{netns::Netns, qemu as process};
use droveway_qmp::{Client, MigrationStatus, QmpAddress, RunState};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A monitor serves one client at a time; a `status` in another terminal has its turn in milliseconds.
const TURN_TIME: Duration = Duration::from_secs(3);
/// A QEMU that was just started opens its socket within a second, also on a busy machine within this.
const LAUNCH_TIME: Duration = Duration::from_secs(20);
/// Between two looks whether it has.
const LAUNCH_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks whether it has died instead.
const LAUNCH_LOOK: Duration = Duration::from_millis(50);
/// A command that QEMU has not answered within this is reported as such; QEMU's main loop may be inside the stream.
const COMMAND_TIME: Duration = Duration::from_secs(3);
/// A QEMU that was asked to quit and has not within this is killed.
const QUIT_TIME: Duration = Duration::from_secs(2);
/// A killed process is gone within this, unless the kernel is stuck.
const KILL_TIME: Duration = Duration::from_secs(5);

/// One QEMU, connected.
#[derive(Debug, Clone)]
pub(crate) struct Qemu {
    pub(crate) client: Client,
    pub(crate) socket: PathBuf,
    /// We started it for this run, and may end it if the run does not happen.
    pub(crate) launched: bool,
}

/// The socket's path of an instance; the fleet's check admits only unix sockets.
pub(crate) fn socket(instance: &Instance) -> &Path {
    Path::new(instance.qmp.strip_prefix("unix:").unwrap_or(&instance.qmp))
}

/// What is behind an instance's socket.
#[derive(Debug)]
pub(crate) enum Probed {
    /// No QEMU.
    Absent,
    /// A QEMU that does not talk to us: a monitor serves one client at a time, and only those who have the right.
    Silent,
    /// A QEMU that talks to us.
    There(Qemu),
}

/// Connects if a QEMU is there.
pub(crate) async fn probe(instance: &Instance) -> Probed {
    probe_at(socket(instance)).await
}

/// As [`probe`], by the socket.
pub(crate) async fn probe_at(socket: &Path) -> Probed {
    let stream = match tokio::net::UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Probed::Silent;
        }
        Err(_) => return Probed::Absent,
    };
    match Client::connect_over(stream, &QmpAddress::unix(socket), TURN_TIME).await {
        Ok(client) => Probed::There(Qemu {
            client: client.with_timeout(COMMAND_TIME),
            socket: socket.to_owned(),
            launched: false,
        }),
        Err(error) => {
            tracing::info!("no greeting at {}: {error}", socket.display());
            Probed::Silent
        }
    }
}

/// As [`probe`]; a QEMU whose process is there, but not its socket, was started a moment ago or is about to be gone, and is waited
/// for. To be asked by whoever may have to do with what a killed controller left.
pub(crate) async fn probe_started(socket: &Path) -> Probed {
    let deadline = Instant::now() + LAUNCH_TIME;
    loop {
        let probed = probe_at(socket).await;
        if !matches!(probed, Probed::Absent) {
            return probed;
        }
        if process_of(socket).await.is_none() {
            return Probed::Absent;
        }
        if Instant::now() >= deadline {
            return Probed::Silent;
        }
        tokio::time::sleep(LAUNCH_PAUSE).await;
    }
}

/// The process of the QEMU that has a socket, or will have it.
async fn process_of(socket: &Path) -> Option<u32> {
    let socket = socket.to_owned();
    let found = tokio::task::spawn_blocking(move || process::find_by_qmp_socket(&socket));
    found.await.ok().flatten()
}

/// What became of a target that a run was about to start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// There is none.
    Absent,
    /// It is ended.
    Ended,
    /// It is none of the run's, for this reason: it was not touched.
    Foreign(String),
    /// It is the run's, and more than a target that waits, for this reason: it was not touched.
    Kept(String),
}

/// Ends the target that `run` started behind a socket, if it still waits for its VM: only one whose process says that it was started
/// for this run, and whose QEMU says that nothing has come in.
pub(crate) async fn release(socket: &Path, run: &str) -> anyhow::Result<Released> {
    let kept = |text: String| Ok(Released::Kept(text));
    let Some(pid) = process_of(socket).await else { return Ok(Released::Absent) };
    if !process::is_target_of(pid, run) {
        return Ok(Released::Foreign(format!("its process {pid} was not started by {run}")));
    }
    let qemu = match probe_started(socket).await {
        Probed::Absent => return Ok(Released::Absent),
        Probed::Silent => return kept(format!("its process {pid} does not answer")),
        Probed::There(qemu) => qemu,
    };
    let (state, migration) = tokio::join!(qemu.client.status(), qemu.client.migration());
    let (state, migration) = (state?.state, migration?.status);
    if state != RunState::InMigrate || !has_received_nothing(&migration) {
        return kept(format!("it is in state '{state}', its migration in '{migration}'"));
    }
    end_at_once(&qemu).await?;
    Ok(Released::Ended)
}

/// What a target says that was not connected to: nothing, or that it listens.
fn has_received_nothing(status: &MigrationStatus) -> bool {
    matches!(status, MigrationStatus::Idle | MigrationStatus::Setup)
}

/// Where a VM is, and how it is reached there.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) qemu: Qemu,
    pub(crate) state: RunState,
}

/// The QEMUs of a VM on every host of the fleet that has one; `Err` names a host whose QEMU does not answer.
pub(crate) async fn find(vm: &FleetVm) -> Vec<(HostId, Result<Found, Silent>)> {
    let mut found = Vec::new();
    for (host, instance) in &vm.instances {
        let answer = match probe(instance).await {
            Probed::Absent => continue,
            Probed::Silent => Err(Silent),
            Probed::There(qemu) => match qemu.client.status().await {
                Ok(status) => Ok(Found { qemu, state: status.state }),
                Err(_) => Err(Silent),
            },
        };
        found.push((host.clone(), answer));
    }
    found
}

/// As [`find`], asked again while two QEMUs seem to hold the VM: it may have switched over between the two answers.
pub(crate) async fn find_settled(vm: &FleetVm) -> Vec<(HostId, Result<Found, Silent>)> {
    const TRIES: u32 = 3;
    const PAUSE: Duration = Duration::from_millis(250);
    let mut found = find(vm).await;
    for _ in 1..TRIES {
        let holds = |(_, answer): &&(HostId, Result<Found, Silent>)| {
            answer.as_ref().is_ok_and(|found| holds_vm(&found.state))
        };
        if found.iter().filter(holds).count() < 2 {
            break;
        }
        // Our connections end here, so that the monitors are free for the next try.
        drop(std::mem::take(&mut found));
        tokio::time::sleep(PAUSE).await;
        found = find(vm).await;
    }
    found
}

/// A QEMU is there but does not answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Silent;

/// True for the state of a QEMU whose vCPUs hold the VM: running, or paused by an operator.
pub(crate) fn holds_vm(state: &RunState) -> bool {
    !matches!(
        state,
        RunState::InMigrate | RunState::PostMigrate | RunState::Shutdown | RunState::FinishMigrate
    )
}

/// What is behind an instance's socket, once it is past the instant in which a source that has sent everything still says
/// `finish-migrate` (seen for some milliseconds after "completed").
async fn probe_settled(instance: &Instance) -> Probed {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(100);
    let mut probed = probe_started(socket(instance)).await;
    for _ in 1..TRIES {
        let Probed::There(qemu) = &probed else { break };
        match qemu.client.status().await {
            Ok(status) if status.state == RunState::FinishMigrate => {}
            _ => break,
        }
        drop(probed);
        tokio::time::sleep(PAUSE).await;
        probed = probe_started(socket(instance)).await;
    }
    probed
}

/// A target that waits for the VM: the one that is there, or one started from the fleet's recipe, which carries the run's name.
/// The run is on file by then, and so is that a target is about to be started.
pub(crate) async fn waiting_target(vm: &FleetVm, host: &Host, run: &str) -> Result<Qemu, Failure> {
    let blocked = |text: String| Failure::says(Exit::Blocked, text);
    let instance = vm.instances.get(&host.name).ok_or_else(|| {
        blocked(format!("VM '{}' has no instance on host '{}'", vm.name, host.name))
            .hint("add one to the VM's instances in the fleet file")
    })?;
    let probed = probe_settled(instance).await;
    if matches!(probed, Probed::Silent) {
        return Err(blocked(format!(
            "the monitor of VM '{}' on host '{}' does not answer: in use by another program, or forbidden ({})",
            vm.name, host.name, instance.qmp
        )));
    }
    if let Probed::There(qemu) = probed {
        let state = qemu.client.status().await.context("asking the target")?.state;
        match state {
            // One that we can start anew may be left from a run that was killed, and listen already.
            RunState::InMigrate if instance.launch.is_some() => end(&qemu).await?,
            RunState::InMigrate => return Ok(qemu),
            // What an earlier run left after the VM had moved away; the VM itself is confirmed elsewhere.
            RunState::PostMigrate => end(&qemu).await?,
            other => {
                return Err(blocked(format!(
                    "a QEMU of VM '{}' is already on host '{}', in state '{other}'",
                    vm.name, host.name
                )));
            }
        }
    }
    let launch = instance.launch.as_ref().ok_or_else(|| {
        blocked(format!("no QEMU waits for VM '{}' on host '{}'", vm.name, host.name)).hint(
            format!(
                "start one with `-incoming defer` and its QMP socket at {}, or give the instance a \
                 `launch` in the fleet file",
                instance.qmp
            ),
        )
    })?;
    launch_target(&vm.name, host, instance, launch, run).await
}

async fn launch_target(
    vm: &VmId,
    host: &Host,
    instance: &Instance,
    launch: &Launch,
    run: &str,
) -> Result<Qemu, Failure> {
    let socket = socket(instance).to_owned();
    let netns =
        Netns::of(host.netns.as_deref()).map_err(|error| Failure::new(Exit::Blocked, error))?;
    let (recipe, run) = (launch.clone(), run.to_owned());
    let started = tokio::task::spawn_blocking(move || process::start_target(&netns, &recipe, &run))
        .await
        .context("starting a QEMU")?;
    let pid = started.map_err(|error| {
        Failure::new(
            Exit::Blocked,
            anyhow::Error::from(error)
                .context(format!("starting the target of VM '{vm}' on host '{}'", host.name)),
        )
        .hint(format!("QEMU's own words are in {}", launch.log))
    })?;
    let address = QmpAddress::unix(&socket);
    let client = tokio::select! {
        client = Client::connect(&address, LAUNCH_TIME) => client.map_err(anyhow::Error::from),
        () = end_of(pid) => Err(anyhow::anyhow!("its process has ended")),
    };
    let client = client.map_err(|error| {
        let text = format!("the target of VM '{vm}' on host '{}' did not start", host.name);
        Failure::new(Exit::Blocked, error.context(text))
            .hint(format!("QEMU's own words are in {}", launch.log))
    })?;
    Ok(Qemu { client: client.with_timeout(COMMAND_TIME), socket, launched: true })
}

/// Returns once a process is gone: nobody needs to wait for the socket of such a one.
async fn end_of(pid: u32) {
    while !matches!(process::wait_gone(pid, Duration::ZERO), Ok(true)) {
        tokio::time::sleep(LAUNCH_LOOK).await;
    }
}

/// Ends a QEMU and returns only when its process is certainly gone.
pub(crate) async fn end(qemu: &Qemu) -> anyhow::Result<()> {
    let socket = qemu.socket.clone();
    let pid = tokio::task::spawn_blocking(move || process::find_by_qmp_socket(&socket))
        .await
        .context("looking for a QEMU")?;
    let quit = qemu.client.with_timeout(QUIT_TIME).quit().await;
    let Some(pid) = pid else {
        return match quit {
            Ok(()) => Ok(()),
            Err(error) if error.is_disconnected() => Ok(()),
            Err(error) => Err(anyhow::Error::from(error).context("its process was not found")),
        };
    };
    let gone = tokio::task::spawn_blocking(move || {
        Ok::<_, process::QemuError>(
            process::wait_gone(pid, QUIT_TIME)? || process::kill_and_wait(pid, KILL_TIME)?,
        )
    })
    .await
    .context("ending a QEMU")??;
    anyhow::ensure!(gone, "QEMU process {pid} does not end");
    Ok(())
}

/// Ends a target that is of no use any more, at once: one that is asked first and is slow to hear it may become the VM
/// meanwhile. Returns only when its process is certainly gone.
pub(crate) async fn end_at_once(qemu: &Qemu) -> anyhow::Result<()> {
    let socket = qemu.socket.clone();
    let gone = tokio::task::spawn_blocking(move || {
        let Some(pid) = process::find_by_qmp_socket(&socket) else { return Ok(None) };
        process::kill_and_wait(pid, KILL_TIME).map(Some)
    });
    match gone.await.context("ending a QEMU")?? {
        Some(true) => Ok(()),
        Some(false) => anyhow::bail!("the QEMU behind {} does not end", qemu.socket.display()),
        None => end(qemu).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use droveway_fleet::{Bandwidth, Port, fleet::PortRange};
    use std::{collections::BTreeMap, time::Instant};

    /// Not only when its socket has been waited for.
    #[tokio::test]
    async fn a_target_that_dies_at_once_is_noticed_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vm.qmp");
        let launch = Launch {
            argv: vec!["false".to_owned(), "-qmp".to_owned(), format!("unix:{}", socket.display())],
            log: folder.path().join("log").display().to_string(),
            env: BTreeMap::new(),
        };
        let qmp = format!("unix:{}", socket.display());
        let instance = Instance { qmp, launch: Some(launch.clone()) };
        let host = Host {
            name: "beta".parse().unwrap(),
            port: Port { interface: "nic".to_owned(), rate: Bandwidth::from_bytes_per_second(1) },
            netns: None,
            migration_address: [127, 0, 0, 1].into(),
            migration_ports: PortRange::default(),
        };
        let began = Instant::now();
        let vm: VmId = "web".parse().unwrap();
        let failure = launch_target(&vm, &host, &instance, &launch, "run").await.unwrap_err();
        assert!(format!("{:#}", failure.error).contains("its process has ended"), "{failure:?}");
        assert_eq!(failure.exit, Exit::Blocked);
        assert!(began.elapsed() < LAUNCH_TIME);
    }
}
