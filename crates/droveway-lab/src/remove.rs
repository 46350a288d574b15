//! Removing a lab, whole or half-built: every process, every namespace, every file.
//!
//! Processes are found by what cannot be forgotten: the lab's variable in their environment and the namespace that they
//! are in. So a QEMU that a controller started later is found too, and so is what a killed `up` left.

use crate::{
    error::{LabError, file},
    layout::{LAB_VARIABLE, Layout},
    manifest::Manifest,
    tool::IP,
};
use droveway_host::{
    Netns,
    netns::NETNS_DIR,
    process::{self, Process},
};
use nix::sys::signal::Signal;
use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// Time for programs to end by themselves when asked: a runner writes its last line, a QEMU closes its files.
const TERM_WAIT_MAX: Duration = Duration::from_secs(2);

/// Time for the kernel to free a killed QEMU's memory on a loaded machine.
const KILL_WAIT_MAX: Duration = Duration::from_secs(20);

/// Rounds of killing: what a process started while we looked is found in the next.
const ROUNDS_MAX: usize = 8;

/// Time from a fork to its exec on a loaded machine.
const FORK_WAIT: Duration = Duration::from_millis(30);

/// What was removed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) processes: usize,
    pub(crate) namespaces: usize,
    pub(crate) files: bool,
}

impl Removed {
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Removed::default()
    }
}

/// Whether the lock, with the lab's directory around it, goes too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeepLock {
    Yes,
    No,
}

/// Removes all that a lab has. The caller holds its lock.
pub(crate) fn remove(layout: &Layout, lock: KeepLock) -> Result<Removed, LabError> {
    let processes = end_processes(layout)?;
    // Only now: among those processes may have been one that still made namespaces.
    let namespaces = namespaces(layout);
    for name in &namespaces {
        IP.run(layout, &Netns::own(), &["netns", "del", name])?;
    }
    let files = remove_files(&layout.dir, lock)?;
    Ok(Removed { processes, namespaces: namespaces.len(), files })
}

/// The lab's namespaces that exist: what the manifest lists and whatever has the lab's prefix.
pub(crate) fn namespaces(layout: &Layout) -> BTreeSet<String> {
    let prefix = layout.netns_prefix();
    let named = fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    let mut names: BTreeSet<String> = named
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    let manifest = Manifest::read(layout).map(|manifest| manifest.namespaces).unwrap_or_default();
    names.extend(manifest.into_iter().filter(|name| Netns::path(name).exists()));
    names
}

/// How a lab's processes are told from others.
#[derive(Debug)]
pub(crate) struct Membership {
    variable: String,
    namespaces: BTreeSet<(u64, u64)>,
}

impl Membership {
    pub(crate) fn new(layout: &Layout) -> Self {
        let identity = |name: &String| Netns::named(name).ok()?.identity().ok();
        Membership {
            variable: format!("{LAB_VARIABLE}={}", layout.name),
            namespaces: namespaces(layout).iter().filter_map(identity).collect(),
        }
    }

    /// Whether the process that has this number now belongs to the lab; this process never does.
    fn holds(&self, pid: u32) -> bool {
        pid != std::process::id()
            && (process::environment(pid).contains(&self.variable)
                || process::network_namespace(pid).is_some_and(|id| self.namespaces.contains(&id)))
    }

    /// Every process of the lab.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let all = process::all().unwrap_or_default();
        all.into_iter().filter(|pid| self.holds(*pid)).collect()
    }
}

fn end_processes(layout: &Layout) -> Result<usize, LabError> {
    let mut ended = 0;
    let failed = |error: io::Error, pid| LabError::Tool {
        action: format!("end process {pid} of lab '{}'", layout.name),
        said: error.to_string(),
    };
    let mut seen_none = false;
    for _ in 0..ROUNDS_MAX {
        let membership = Membership::new(layout);
        let mut held = Vec::new();
        for pid in membership.processes() {
            // A number that was given to another process between the look and the hold is looked at again.
            if let Some(process) = Process::open(pid).map_err(|e| failed(e, pid))?
                && membership.holds(pid)
            {
                held.push(process);
            }
        }
        if held.is_empty() {
            if seen_none {
                return Ok(ended);
            }
            // One more look: a process between its fork and its exec still has its parent's environment.
            seen_none = true;
            std::thread::sleep(FORK_WAIT);
            continue;
        }
        seen_none = false;
        for process in &held {
            process.signal(Signal::SIGTERM).map_err(|e| failed(e, process.pid()))?;
        }
        let deadline = Instant::now() + TERM_WAIT_MAX;
        for process in &held {
            let left = deadline.saturating_duration_since(Instant::now());
            if !process.wait_gone(left).map_err(|e| failed(e, process.pid()))? {
                process.signal(Signal::SIGKILL).map_err(|e| failed(e, process.pid()))?;
            }
        }
        for process in &held {
            if !process.wait_gone(KILL_WAIT_MAX).map_err(|e| failed(e, process.pid()))? {
                return Err(LabError::Survivor { name: layout.name.clone(), pid: process.pid() });
            }
        }
        ended += held.len();
    }
    match Membership::new(layout).processes().first() {
        Some(pid) => Err(LabError::Survivor { name: layout.name.clone(), pid: *pid }),
        None => Ok(ended),
    }
}

/// Removes the lab's directory; what it cannot remove is an error, what is not there is none.
fn remove_files(dir: &Path, lock: KeepLock) -> Result<bool, LabError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(file("read", dir))?,
    };
    let mut any = false;
    for entry in entries.flatten() {
        let path = entry.path();
        // The lock goes last, so that nobody builds while we remove.
        if entry.file_name() == "lock" {
            continue;
        }
        any = true;
        let removed = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(file("remove", &path))?;
    }
    if lock == KeepLock::No {
        fs::remove_dir_all(dir).map_err(file("remove", dir))?;
    }
    Ok(any)
}
