//! Which network devices a QEMU process uses: found by its open files, never by names.
//!
//! A tap is an open `/dev/net/tun` whose `/proc/PID/fdinfo` says `iff: NAME` (also with vhost-net, whose worker holds the
//! same file). The name is one of the namespace in which the *device* lives, which is the process's own unless somebody
//! handed it a file from elsewhere.

use std::{collections::BTreeSet, fs, io};

/// A tap of a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tap {
    /// The interface.
    pub interface: String,
    /// Its index in the process's network namespace.
    pub ifindex: u32,
}

/// The taps of a process, by name.
///
/// # Errors
/// The process is gone, or may not be looked at.
pub fn of_qemu(pid: u32) -> io::Result<Vec<Tap>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // A file that was closed meanwhile is none.
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        if link != std::path::Path::new("/dev/net/tun") {
            continue;
        }
        let Some(number) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let Ok(info) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")) else { continue };
        names.extend(interface(&info));
    }
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let indexes = indexes(pid)?;
    let tap = |name: String| {
        let ifindex = indexes.iter().find(|(other, _)| *other == name)?.1;
        Some(Tap { interface: name, ifindex })
    };
    Ok(names.into_iter().filter_map(tap).collect())
}

/// The line `iff: tap0` of a fdinfo, with a tab; absent while the device is not attached.
fn interface(info: &str) -> Option<String> {
    let name = info.lines().find_map(|line| line.strip_prefix("iff:"))?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The interfaces of a process's network namespace.
fn indexes(pid: u32) -> io::Result<Vec<(String, u32)>> {
    let namespace = fs::File::open(format!("/proc/{pid}/ns/net"))?;
    // Entered on a thread of its own, which ends with it: no other thread changes its namespace.
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
            let all = nix::net::if_::if_nameindex()?;
            Ok(all
                .iter()
                .map(|one| (one.name().to_string_lossy().into_owned(), one.index()))
                .collect())
        });
        looking.join().unwrap_or_else(|_| Err(io::Error::other("the looking thread panicked")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fdinfo_names_its_interface() {
        let info = "pos:\t0\nflags:\t0104002\nmnt_id:\t24\nino:\t86\niff:\ttap-web-1\n";
        assert_eq!(interface(info).as_deref(), Some("tap-web-1"));
        assert_eq!(interface("pos:\t0\niff:\t\n"), None);
        assert_eq!(interface("pos:\t0\n"), None);
    }

    #[test]
    fn a_process_without_taps_has_none() {
        assert_eq!(of_qemu(std::process::id()).unwrap(), Vec::new());
        assert!(of_qemu(u32::MAX).is_err());
    }
}
