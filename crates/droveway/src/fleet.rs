//! Which fleet a command works on, and the lock that keeps two runs apart.

use crate::exit::{Exit, Failure};
use droveway_fleet::{Fleet, document, fleet::FleetSpec};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Where operators keep their fleet.
const SYSTEM_FLEET: &str = "/etc/droveway/fleet.yaml";
/// What exists only while something runs.
pub(crate) const RUNTIME: &str = "/run/droveway";

/// A lock that is held for longer than these tries is a run's.
const LOCK_TRIES: u32 = 15;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// The fleet that `--fleet`, `$DROVEWAY_FLEET`, a running lab or the system names.
pub(crate) fn load(named: Option<&Path>) -> Result<Fleet, Failure> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => default_path()?,
    };
    let origin = path.display().to_string();
    let text = fs::read_to_string(&path).map_err(|error| {
        Failure::usage(format!("{origin}: {error}"))
            .hint("start a lab with `droveway lab up SCENARIO.yaml`, or name a file with --fleet")
    })?;
    document::parse::<FleetSpec>(&text, &origin).map_err(|error| Failure::new(Exit::Usage, error))
}

fn default_path() -> Result<PathBuf, Failure> {
    let labs = droveway_lab::running(&crate::lab::state_root());
    let complete: Vec<_> = labs.iter().filter(|lab| lab.complete).collect();
    match complete.as_slice() {
        [] => Ok(PathBuf::from(SYSTEM_FLEET)),
        [lab] => Ok(lab.fleet_file.clone()),
        several => {
            let names: Vec<_> = several.iter().map(|lab| lab.name.as_str()).collect();
            Err(Failure::usage(format!("several labs run: {}", names.join(", "))).hint(format!(
                "say which with --fleet, for example --fleet {}",
                several[0].fleet_file.display()
            )))
        }
    }
}

/// The right to move a fleet's VMs, held while this process lives: the lock goes with it, also by `kill -9`.
#[derive(Debug)]
pub(crate) struct RunLock {
    file: Flock<fs::File>,
    path: PathBuf,
}

fn lock_path(fleet: &Fleet) -> PathBuf {
    runtime_path(fleet, "run.json", "runs")
}

/// Where it is kept how the ports were before a run changed them.
pub(crate) fn network_path(fleet: &Fleet) -> PathBuf {
    runtime_path(fleet, "network.json", "network")
}

/// Where a run of the fleet listens for operators.
pub(crate) fn control_path(fleet: &Fleet) -> PathBuf {
    runtime_path(fleet, "control.json", "control").with_extension("sock")
}

/// Beside the fleet file of a lab, so that it goes with the lab; in the runtime folder otherwise.
fn runtime_path(fleet: &Fleet, of_lab: &str, folder: &str) -> PathBuf {
    let lab = crate::lab::state_root().join(fleet.metadata.name.as_str());
    if lab.join("fleet.yaml").exists() {
        return lab.join(of_lab);
    }
    Path::new(RUNTIME).join(folder).join(format!("{}.json", fleet.metadata.name))
}

impl RunLock {
    pub(crate) fn acquire(fleet: &Fleet) -> Result<Self, Failure> {
        Self::acquire_at(lock_path(fleet), fleet.metadata.name.as_str())
    }

    fn acquire_at(path: PathBuf, fleet: &str) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            let exit = if error.kind() == std::io::ErrorKind::PermissionDenied {
                Exit::Permission
            } else {
                Exit::Internal
            };
            Failure::says(exit, format!("{}: {error}", path.display()))
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        // Whoever ends a run removes its file: a lock on a file that is not there any more counts for nothing. And a
        // `status` that looks whether a run is active holds the lock for an instant.
        let mut tries_left = LOCK_TRIES;
        loop {
            let file = fs::File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
                .map_err(failed)?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => {
                    let held = file.metadata().map_err(failed)?.ino();
                    if fs::metadata(&path).is_ok_and(|there| there.ino() == held) {
                        // What a run that died told of itself must not pass for what this one says.
                        file.set_len(0).map_err(failed)?;
                        return Ok(RunLock { file, path });
                    }
                }
                Err((_, nix::errno::Errno::EWOULDBLOCK)) if tries_left > 0 => {
                    tries_left -= 1;
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                    return Err(Failure::says(
                        Exit::Blocked,
                        format!("another run moves VMs of fleet '{fleet}'"),
                    )
                    .hint("`droveway status` shows it; wait for its end"));
                }
                Err((_, errno)) => return Err(failed(errno.into())),
            }
        }
    }

    /// Tells everybody else how the run stands.
    pub(crate) fn publish(&mut self, state: &ActiveRun) {
        // Written whole in place: readers take the lock's holder, not the text, as the proof that a run is active, and
        // accept only text that parses.
        let Ok(text) = serde_json::to_vec(state) else { return };
        let _ = self.file.set_len(0);
        let _ = std::io::Seek::rewind(&mut *self.file);
        let _ = self.file.write_all(&text);
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// What a run publishes about itself.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ActiveRun {
    pub(crate) run_id: String,
    pub(crate) pid: u32,
    pub(crate) vms: Vec<ActiveVm>,
}

impl ActiveRun {
    /// A run that has not asked yet where its VMs are.
    pub(crate) fn preparing(run_id: &str) -> Self {
        ActiveRun { run_id: run_id.to_owned(), pid: std::process::id(), vms: Vec::new() }
    }
}

/// One VM of a run.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ActiveVm {
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) state: String,
}

/// The run that works on the fleet now, if one does and has said so. A file whose lock nobody holds is of a run that died.
pub(crate) fn active_run(fleet: &Fleet) -> Option<ActiveRun> {
    active_at(&lock_path(fleet))
}

fn active_at(path: &Path) -> Option<ActiveRun> {
    /// A reader may meet the instant of writing; the text is complete a moment later.
    const TRIES: u32 = 5;
    for _ in 0..TRIES {
        let file = fs::File::open(path).ok()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => return None,
            Err((file, _)) => {
                // After the lock was found held: what was there before may be of a run that died.
                let text = std::io::read_to_string(file).unwrap_or_default();
                if let Ok(run) = serde_json::from_str(&text) {
                    return Some(run);
                }
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{ActiveRun, RunLock, active_at};

    #[test]
    fn a_run_that_died_is_not_taken_for_the_one_that_holds_its_lock() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.json");
        let left = serde_json::to_vec(&ActiveRun::preparing("died")).expect("JSON");
        std::fs::write(&path, left).expect("written");
        assert_eq!(active_at(&path), None, "nobody holds it");
        let mut lock = RunLock::acquire_at(path.clone(), "fleet").expect("free");
        assert_eq!(active_at(&path), None, "it has said nothing yet");
        let lives = ActiveRun::preparing("lives");
        lock.publish(&lives);
        assert_eq!(active_at(&path), Some(lives));
        assert!(RunLock::acquire_at(path.clone(), "fleet").is_err(), "there is one run at a time");
        drop(lock);
        assert_eq!(active_at(&path), None, "it is over");
    }
}
