//! A scenario's changes, made beside a run in the laboratory: each at its time from the first move on, as the simulator counts them.
//! `droveway lab play` makes them, begun as soon as the run's log tells of the first stream; what it says is in `changes.txt` beside
//! that log. A run that is over before its last change is not waited for.

use super::labs::last_line;
use crate::{
    exit::{Exit, Failure},
    run,
};
use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long to sleep between two looks: as late a change may be.
const LOOK: Duration = Duration::from_millis(20);
/// How long who is told to end may take: a port that is down is up again by then.
const END_MAX: Duration = Duration::from_secs(10);

/// Who makes changes beside a run.
pub(super) struct Beside {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), String>>,
}

impl Beside {
    /// Waits, in a thread of its own, until a run's log tells of the first stream, and has `play` make the changes then.
    pub(super) fn begin(mut play: Command, log: &Path) -> Result<Self, Failure> {
        let said = log.with_file_name("changes.txt");
        let file = File::create(&said).with_context(|| format!("creating {}", said.display()))?;
        let both = file.try_clone().map_err(anyhow::Error::from)?;
        play.stdin(Stdio::null()).stdout(file).stderr(both);
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let log = log.to_owned();
        let thread = std::thread::Builder::new()
            .name("changes".to_owned())
            .spawn(move || make(play, &log, &said, &told))
            .map_err(anyhow::Error::from)?;
        Ok(Beside { over, thread })
    }

    /// The run is over: what was not changed yet stays as it is. Otherwise says why a change could not be made.
    pub(super) fn end(self) -> Result<(), String> {
        self.over.store(true, Ordering::Release);
        self.thread.join().unwrap_or_else(|_| Err("who makes the changes panicked".to_owned()))
    }
}

fn make(mut play: Command, log: &Path, said: &Path, over: &AtomicBool) -> Result<(), String> {
    let is_over = || over.load(Ordering::Acquire);
    while !has_begun(log) {
        // A run that moved nothing has no times to count from.
        if is_over() {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    let mut child = play.spawn().map_err(|error| error.to_string())?;
    while !is_over() {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return if status.success() { Ok(()) } else { Err(last_line(said)) };
        }
        std::thread::sleep(LOOK);
    }
    let status = ended(&mut child).map_err(|error| error.to_string())?;
    // Interrupted before its last change is not failed.
    let interrupted = Some(i32::from(Exit::Interrupted.code()));
    let failed = status.code().is_some() && !status.success() && status.code() != interrupted;
    if failed { Err(last_line(said)) } else { Ok(()) }
}

/// Whether a stream has begun in the run that writes to this log.
fn has_begun(log: &Path) -> bool {
    fs::read_to_string(log).is_ok_and(|text| text.lines().any(run::tells_of_a_stream))
}

/// Tells a process to end, and waits for it.
fn ended(child: &mut Child) -> std::io::Result<ExitStatus> {
    if let Ok(pid) = i32::try_from(child.id()) {
        // It may have ended meanwhile.
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
    }
    let asked = Instant::now();
    while asked.elapsed() < END_MAX {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(LOOK);
    }
    child.kill()?;
    child.wait()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGUN: &str = "measuring\n   0.010 s  web              pre-copy\n";

    /// A shell in the place of who plays; one that is started with SIGINT ignored, as in the background of a script, could not trap it.
    fn shell(script: &str) -> Command {
        let mut command = Command::new("env");
        command.args(["--default-signal=INT", "sh", "-c", script]);
        command
    }

    fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
        let since = Instant::now();
        while !is_so() {
            assert!(since.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::sleep(LOOK);
        }
    }

    #[test]
    fn changes_are_made_from_the_first_stream_on_and_end_with_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let (log, said) = (folder.path().join("log.txt"), folder.path().join("changes.txt"));
        let text = || fs::read_to_string(&said).unwrap_or_default();
        let play =
            shell("trap 'echo put back; exit 130' INT; echo begun; while :; do sleep 0.05; done");
        let beside = Beside::begin(play, &log).unwrap();
        fs::write(&log, "measuring\nplan: web by pre-copy\n").unwrap();
        std::thread::sleep(10 * LOOK);
        assert_eq!(text(), "", "nothing moves yet");
        fs::write(&log, BEGUN).unwrap();
        wait_for("the changes", || text().contains("begun"));
        beside.end().unwrap();
        assert_eq!(text(), "begun\nput back\n", "who makes them was told to end, and waited for");
    }

    #[test]
    fn a_change_that_fails_is_told_and_a_run_that_moved_nothing_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.txt");
        fs::write(&log, BEGUN).unwrap();
        let failing = || shell("echo 'error: its runner is gone' >&2; exit 1");
        let beside = Beside::begin(failing(), &log).unwrap();
        wait_for("the failure", || beside.thread.is_finished());
        assert_eq!(beside.end(), Err("error: its runner is gone".to_owned()));

        fs::write(&log, "error: nothing to move\n").unwrap();
        let beside = Beside::begin(failing(), &log).unwrap();
        assert_eq!(beside.end(), Ok(()));
        assert_eq!(fs::read_to_string(folder.path().join("changes.txt")).unwrap(), "");
    }
}
