//! A ceiling on what a program computes, by the kernel's control groups (version 2): so much of every period, and not at all for
//! the rest of it.
//!
//! A guest that computes without pause takes a whole CPU of the lab's machine. One that computes for a tenth of the time tells as
//! well how fast its virtual CPU is: its share is counted by the guest's clock, which goes on while the virtual CPU waits for a page
//! or is slowed down.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};

const ROOT: &str = "/sys/fs/cgroup";

/// Microseconds. Short beside a report's second, long beside what the scheduler takes to switch.
const PERIOD_US: f64 = 100_000.0;

/// Makes a group that may compute for this share of one CPU. Returns the file into which a member writes its process id.
pub(crate) fn of(name: &str, share: f64) -> Result<String, String> {
    let root = Path::new(ROOT);
    if !root.join("cgroup.controllers").exists() {
        mount(Some("cgroup2"), root, Some("cgroup2"), MsFlags::empty(), None::<&str>)
            .map_err(|error| format!("cannot mount control groups on {ROOT}: {error}"))?;
    }
    write(&root.join("cgroup.subtree_control"), "+cpu")?;
    let group = root.join(name);
    if !group.is_dir() {
        fs::create_dir(&group)
            .map_err(|error| format!("cannot create {}: {error}", group.display()))?;
    }
    write(&group.join("cpu.max"), &ceiling(share))?;
    Ok(group.join("cgroup.procs").display().to_string())
}

/// What `cpu.max` is told: microseconds of each period.
fn ceiling(share: f64) -> String {
    format!("{:.0} {PERIOD_US:.0}", share * PERIOD_US)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_microseconds_of_a_period() {
        assert_eq!(ceiling(0.1), "10000 100000");
        assert_eq!(ceiling(1.0), "100000 100000");
    }
}
