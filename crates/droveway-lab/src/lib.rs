//! A laboratory of real hosts on one machine: a network namespace for each host, ports with the rate and queue of a real
//! wire, QEMU guests, real applications between them, and probes that note how long each VM is silent.
//!
//! [`up()`] builds what a scenario describes and writes the fleet file that all other commands work on; [`down()`] removes
//! every trace; [`status()`] looks. A lab outlives the process that built it. It knows nothing of migrations.
#![warn(missing_docs)]

pub mod address;
mod boot;
mod change;
mod error;
pub mod fault;
mod interrupt;
mod layout;
mod manifest;
mod network;
mod remove;
mod reset;
pub mod runner;
mod status;
mod tool;
pub mod traffic;
mod up;
mod vm;
mod wire;

#[cfg(test)]
mod test_scenario;

pub use change::{change, play, set_link};
pub use error::LabError;
pub use layout::LAB_VARIABLE;
pub use reset::{open_wires, shape_wires};
pub use status::{HostStatus, LabStatus, TrafficStatus, VmStatus, status};
pub use up::up;

use droveway_fleet::ids::DocumentName;
use layout::Layout;
use manifest::{Lock, Manifest};
use remove::KeepLock;
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where labs keep their state unless told otherwise: it must not outlive the machine's boot.
pub const STATE_ROOT: &str = "/run/droveway/labs";

/// Where a lab finds what it needs and keeps what it has.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// The directory of all labs' state, [`STATE_ROOT`] by default.
    pub state_root: PathBuf,
    /// The guest image's directory: `vmlinuz` and `initrd.gz`.
    pub image: PathBuf,
    /// The executable that understands `lab-runner SPEC.json`.
    pub runner: PathBuf,
}

/// A lab that exists, perhaps only in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabInfo {
    /// Its name.
    pub name: String,
    /// Its state.
    pub dir: PathBuf,
    /// The fleet that commands work on.
    pub fleet_file: PathBuf,
    /// When building began, as RFC 3339.
    pub started: String,
    /// False while it is built, and for good if building was killed.
    pub complete: bool,
}

/// Every lab that exists, by name.
#[must_use]
pub fn running(state_root: &Path) -> Vec<LabInfo> {
    let entries = fs::read_dir(state_root).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter(|name| name.parse::<DocumentName>().is_ok()).collect();
    names.sort_unstable();
    let info = |name: String| {
        let layout = Layout::new(state_root, &name);
        // A directory without a manifest: building was killed before it began, or removal before it ended.
        let unknown =
            Manifest { name, started: String::new(), complete: false, namespaces: Vec::new() };
        Manifest::read(&layout).unwrap_or(unknown).info(&layout)
    };
    names.into_iter().map(info).collect()
}

/// Removes a lab, or every lab: processes, namespaces, files; also what a killed [`up()`] left. Gives what was removed, one
/// line a lab; that there was nothing is no error.
///
/// # Errors
/// [`LabError`], after which a second call finishes what the first could not.
pub fn down(
    name: Option<&str>,
    options: &LabOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<String>, LabError> {
    if !droveway_host::features::is_privileged() {
        return Err(LabError::NotRoot);
    }
    let names: Vec<String> = match name {
        Some(name) => vec![name.parse::<DocumentName>()?.to_string()],
        None => running(&options.state_root).into_iter().map(|lab| lab.name).collect(),
    };
    let mut lines = Vec::new();
    for name in names {
        let layout = Layout::new(&options.state_root, &name);
        // Without a directory there may still be namespaces: somebody removed the directory by hand.
        if !layout.dir.exists() && remove::namespaces(&layout).is_empty() {
            continue;
        }
        progress(&format!("removing lab '{name}'"));
        let lock = Lock::take(&layout, true)?;
        let removed = remove::remove(&layout, KeepLock::No)?;
        drop(lock);
        lines.push(format!(
            "lab '{name}': {} processes, {} network namespaces, {}",
            removed.processes,
            removed.namespaces,
            layout.dir.display()
        ));
    }
    if lines.is_empty() {
        progress(&nothing_to_do(name, options));
    }
    Ok(lines)
}

fn nothing_to_do(name: Option<&str>, options: &LabOptions) -> String {
    let labs = running(&options.state_root);
    let Some(name) = name else { return "nothing to do: no lab is running".to_owned() };
    let meant = droveway_fleet::ids::nearest(name, labs.iter().map(|lab| lab.name.as_str()))
        .map_or_else(String::new, |meant| format!(", did you mean '{meant}'?"));
    format!("nothing to do: there is no lab '{name}'{meant}")
}
