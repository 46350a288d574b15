//! Laboratories that long trials build, each for a while.

use anyhow::{Context as _, Result};
use std::{fs, io::ErrorKind, path::Path, time::Duration};

/// The fleet file of a laboratory; others may be up on the same machine.
pub(crate) fn fleet(name: &str) -> String {
    format!("/run/droveway/labs/{name}/fleet.yaml")
}

/// Builds the laboratory of a scenario file that has its name, does something in it after a while, and removes it whatever
/// happened.
pub(crate) fn with(
    scenario: &Path,
    droveway: impl Fn(&[&str]) -> Result<()>,
    settle: Duration,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let name = scenario.file_stem().unwrap_or_default().to_string_lossy();
    droveway(&["lab", "down", &name])?;
    droveway(&["lab", "up", &scenario.display().to_string()])?;
    std::thread::sleep(settle);
    let outcome = work();
    droveway(&["lab", "down", &name])?;
    outcome
}

/// A folder without what an earlier trial left.
pub(crate) fn empty(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("removing {}", folder.display())),
    }
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}
