//! QEMU processes: starting one on a host, finding it by its QMP socket, making sure that it is gone.
//!
//! A QEMU is started detached: in a session of its own and with its output in a file, so that it survives whoever started
//! it and never holds a pipe open.

use crate::{
    netns::{Netns, NetnsError},
    process::{self, Process},
};
use droveway_fleet::fleet::Launch;
use std::{
    fs, io,
    os::unix::{fs::FileTypeExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use thiserror::Error;

/// Why a QEMU could not be started or ended.
#[derive(Debug, Error)]
pub enum QemuError {
    /// The host's namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A launch without a program.
    #[error("the launch names no program")]
    NoProgram,
    /// The log could not be opened.
    #[error("could not open the log '{log}'")]
    Log {
        /// The log.
        log: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A process has the QMP socket already: starting another would put two on one VM's name.
    #[error("process {pid} has the QMP socket '{}' already", socket.display())]
    AlreadyRunning {
        /// The process.
        pid: u32,
        /// The socket.
        socket: PathBuf,
    },
    /// A stale QMP socket could not be removed.
    #[error("could not remove the stale QMP socket '{}'", socket.display())]
    StaleSocket {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program could not be started.
    #[error("could not start '{program}'")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The process could not be signalled or waited for.
    #[error("could not {action} process {pid}")]
    Process {
        /// What was tried.
        action: &'static str,
        /// The process.
        pid: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The arguments that make a started QEMU a migration's target, waiting to be told where to listen.
pub const INCOMING_DEFER: &[&str] = &["-incoming", "defer"];

/// Starts the QEMU of `launch` with some more arguments in `netns`, detached, and gives its process number. Its output is
/// appended to the launch's log. A stale QMP socket is removed first, but only if no process has it.
///
/// # Errors
/// [`QemuError`]. That QEMU itself refuses its arguments is seen later: in the log and by the process being gone.
pub fn start(netns: &Netns, launch: &Launch, extra: &[&str]) -> Result<u32, QemuError> {
    let (program, arguments) = launch.argv.split_first().ok_or(QemuError::NoProgram)?;
    if let Some(socket) = qmp_socket(&launch.argv) {
        remove_stale_socket(&socket)?;
    }
    let mut command = netns.command(program);
    command.args(arguments).args(extra).envs(&launch.env);
    start_detached(command, Path::new(&launch.log))
}

/// The environment variable by which a target names the run that it was started for. The process itself carries the proof of whose
/// it is from its first instant on: whoever started it may be killed before anything could be written down about it.
pub const RUN_VARIABLE: &str = "DROVEWAY_RUN";

/// Starts the QEMU of `launch` as a migration's target of the run that is called so: see [`start`].
///
/// # Errors
/// [`QemuError`].
pub fn start_target(netns: &Netns, launch: &Launch, run: &str) -> Result<u32, QemuError> {
    let mut launch = launch.clone();
    launch.env.insert(RUN_VARIABLE.to_owned(), run.to_owned());
    start(netns, &launch, INCOMING_DEFER)
}

/// Whether a process was started as a target of the run that is called so. What it has become since then only QEMU can tell.
#[must_use]
pub fn is_target_of(pid: u32, run: &str) -> bool {
    let waits = process::arguments(pid).windows(2).any(|pair| pair == INCOMING_DEFER);
    let mark = format!("{RUN_VARIABLE}={run}");
    waits && process::environment(pid).contains(&mark)
}

/// Starts a command in a session of its own, its output appended to `log`, and gives its process number.
///
/// # Errors
/// [`QemuError::Log`] and [`QemuError::Start`].
pub fn start_detached(mut command: Command, log: &Path) -> Result<u32, QemuError> {
    let opened = fs::OpenOptions::new().create(true).append(true).open(log);
    let (out, err) = opened
        .and_then(|file| Ok((file.try_clone()?, file)))
        .map_err(|source| QemuError::Log { log: log.display().to_string(), source })?;
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    // SAFETY: between fork and exec the closure makes one system call; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            Ok(())
        });
    }
    let started = command.spawn();
    let child = started.map_err(|source| QemuError::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })?;
    Ok(child.id())
}

/// The QMP socket among QEMU's arguments: `-qmp unix:PATH,...`.
#[must_use]
pub fn qmp_socket(argv: &[String]) -> Option<PathBuf> {
    let value = argv.windows(2).find(|pair| pair[0] == "-qmp").map(|pair| pair[1].as_str())?;
    let path = value.strip_prefix("unix:")?;
    Some(PathBuf::from(path.split(',').next().unwrap_or(path)))
}

/// The process that was told to have this QMP socket.
#[must_use]
pub fn find_by_qmp_socket(socket: &Path) -> Option<u32> {
    let own = std::process::id();
    process::all()
        .ok()?
        .into_iter()
        .filter(|pid| *pid != own)
        .find(|pid| qmp_socket(&process::arguments(*pid)).is_some_and(|theirs| theirs == socket))
}

/// Removes the QMP socket of a QEMU that is gone. A socket that is not there is no error.
///
/// # Errors
/// [`QemuError::AlreadyRunning`] if a process has it, [`QemuError::StaleSocket`].
pub fn remove_stale_socket(socket: &Path) -> Result<(), QemuError> {
    if let Some(pid) = find_by_qmp_socket(socket) {
        return Err(QemuError::AlreadyRunning { pid, socket: socket.to_owned() });
    }
    let failed = |source| QemuError::StaleSocket { socket: socket.to_owned(), source };
    match fs::symlink_metadata(socket) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(socket).map_err(failed),
        Ok(_) => Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "not a socket"))),
    }
}

/// Kills a process (SIGKILL) and waits until it is gone; `true` if it is. One that is gone already is `true`.
///
/// # Errors
/// [`QemuError::Process`].
pub fn kill_and_wait(pid: u32, timeout: Duration) -> Result<bool, QemuError> {
    let failed = |source| QemuError::Process { action: "kill", pid, source };
    match Process::open(pid).map_err(failed)? {
        Some(process) => process.kill_and_wait(timeout).map_err(failed),
        None => Ok(true),
    }
}

/// Waits until a process is gone, at most so long; `true` if it is.
///
/// # Errors
/// [`QemuError::Process`].
pub fn wait_gone(pid: u32, timeout: Duration) -> Result<bool, QemuError> {
    let failed = |source| QemuError::Process { action: "wait for", pid, source };
    match Process::open(pid).map_err(failed)? {
        Some(process) => process.wait_gone(timeout).map_err(failed),
        None => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, os::unix::net::UnixListener, thread, time::Instant};

    const SOON: Duration = Duration::from_secs(10);

    fn launch(dir: &Path, script: &str) -> Launch {
        let qmp = format!("unix:{},server=on,wait=off", dir.join("qmp").display());
        let argv = ["/bin/sh", "-c", script, "-qmp", &qmp];
        Launch {
            argv: argv.map(str::to_owned).to_vec(),
            log: dir.join("log").display().to_string(),
            env: BTreeMap::from([("DROVEWAY_TEST".to_owned(), "value".to_owned())]),
        }
    }

    #[test]
    fn the_socket_is_found_among_the_arguments() {
        let argv = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let socket = qmp_socket(&argv("qemu -m 1 -qmp unix:/a/b.qmp,server=on,wait=off -smp 1"));
        assert_eq!(socket.as_deref(), Some(Path::new("/a/b.qmp")));
        assert_eq!(qmp_socket(&argv("qemu -qmp tcp:localhost:1")), None);
        assert_eq!(qmp_socket(&argv("qemu -qmp")), None);
    }

    #[test]
    fn a_launch_is_detached_found_and_killed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp");
        drop(UnixListener::bind(&socket).unwrap());
        // It stops itself: a waiting child of its own would survive it.
        let launch = launch(dir.path(), "echo $DROVEWAY_TEST $2; kill -STOP $$");
        let pid = start(&Netns::own(), &launch, INCOMING_DEFER).unwrap();
        assert!(!socket.exists(), "the stale socket is removed");
        assert_eq!(find_by_qmp_socket(&socket), Some(pid));
        let again = start(&Netns::own(), &launch, &[]);
        assert!(matches!(again, Err(QemuError::AlreadyRunning { pid: other, .. }) if other == pid));
        let deadline = Instant::now() + SOON;
        while fs::read_to_string(&launch.log).unwrap().is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(fs::read_to_string(&launch.log).unwrap(), "value -incoming\n");
        let session =
            nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap())));
        assert_eq!(session.unwrap().as_raw(), i32::try_from(pid).unwrap());
        assert!(!wait_gone(pid, Duration::ZERO).unwrap());
        assert!(kill_and_wait(pid, SOON).unwrap());
        assert!(wait_gone(pid, SOON).unwrap());
        assert_eq!(find_by_qmp_socket(&socket), None);
    }

    #[test]
    fn a_target_says_whose_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let launch = launch(dir.path(), "kill -STOP $$");
        let pid = start_target(&Netns::own(), &launch, "run-1").unwrap();
        assert_eq!(find_by_qmp_socket(&dir.path().join("qmp")), Some(pid));
        assert!(is_target_of(pid, "run-1"));
        assert!(!is_target_of(pid, "run-10") && !is_target_of(pid, "run"));
        assert!(!is_target_of(std::process::id(), "run-1"));
        assert!(kill_and_wait(pid, SOON).unwrap());
        assert!(!is_target_of(pid, "run-1"));
    }

    #[test]
    fn only_a_socket_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("qmp");
        remove_stale_socket(&file).unwrap();
        fs::write(&file, "precious").unwrap();
        assert!(matches!(remove_stale_socket(&file), Err(QemuError::StaleSocket { .. })));
        assert!(file.exists());
    }

    #[test]
    fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let launch = Launch {
            argv: vec!["/nowhere/qemu".to_owned()],
            log: dir.path().join("log").display().to_string(),
            env: BTreeMap::new(),
        };
        let error = start(&Netns::own(), &launch, &[]).unwrap_err();
        assert_eq!(error.to_string(), "could not start '/nowhere/qemu'");
    }
}
