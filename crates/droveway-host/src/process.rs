//! Processes by number, without mistaking one for another: a pidfd names a process for good, a number does not.

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{signal::Signal, wait::WaitPidFlag},
};
use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

/// One process, held by a pidfd.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    fd: OwnedFd,
}

impl Process {
    /// The process that has this number now; `None` if there is none.
    ///
    /// # Errors
    /// What the system said, other than that there is no such process.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        // SAFETY: the call takes two numbers and returns a new descriptor or -1; it touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match i32::try_from(fd) {
            // SAFETY: the kernel just gave us this descriptor; nobody else has it.
            Ok(fd @ 0..) => Ok(Some(Process { pid, fd: unsafe { OwnedFd::from_raw_fd(fd) } })),
            _ => match Errno::last() {
                Errno::ESRCH => Ok(None),
                // The number belongs to a thread, not to a process.
                Errno::EINVAL | Errno::ENOENT => Ok(None),
                errno => Err(errno.into()),
            },
        }
    }

    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// A descriptor of what the process has open under `number`: the same socket, not a copy of it. Needs the right to
    /// trace the process.
    ///
    /// # Errors
    /// What the system said.
    pub fn descriptor(&self, number: i32) -> io::Result<OwnedFd> {
        let fd = self.fd.as_raw_fd();
        // SAFETY: the call takes numbers and returns a new descriptor or -1; it touches no memory of ours.
        let got = unsafe { libc::syscall(libc::SYS_pidfd_getfd, fd, number, 0) };
        match i32::try_from(got) {
            // SAFETY: the kernel just gave us this descriptor; nobody else has it.
            Ok(got @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(got) }),
            _ => Err(Errno::last().into()),
        }
    }

    /// Sends a signal. A process that is gone already is no error.
    ///
    /// # Errors
    /// What the system said.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let fd = self.fd.as_raw_fd();
        // SAFETY: the descriptor is open while `self` lives; without a siginfo the call reads no memory of ours.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                fd,
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match Errno::result(result) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until the process has ended, at most so long; `true` if it has. A child of ours is reaped.
    ///
    /// # Errors
    /// What the system said.
    pub fn wait_gone(&self, timeout: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut polled = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, left) {
                Ok(0) if Instant::now() >= deadline => return Ok(false),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => {
                    self.reap();
                    return Ok(true);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// A child that nobody waits for stays a zombie; for a process that is no child of ours this does nothing.
    fn reap(&self) {
        let id = nix::sys::wait::Id::PIDFd(self.fd.as_fd());
        let _ = nix::sys::wait::waitid(id, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
    }

    /// Kills the process (SIGKILL) and waits until it is gone; `true` if it is.
    ///
    /// # Errors
    /// What the system said.
    pub fn kill_and_wait(&self, timeout: Duration) -> io::Result<bool> {
        self.signal(Signal::SIGKILL)?;
        self.wait_gone(timeout)
    }
}

/// The number of every process there is.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn all() -> io::Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
}

/// The arguments of a process; empty if it is gone, a kernel thread or a zombie.
#[must_use]
pub fn arguments(pid: u32) -> Vec<String> {
    strings(&format!("/proc/{pid}/cmdline"))
}

/// The environment that a process was started with, as `NAME=value`; empty if it cannot be read.
#[must_use]
pub fn environment(pid: u32) -> Vec<String> {
    strings(&format!("/proc/{pid}/environ"))
}

/// When a process was started, in the kernel's ticks since boot: of two, the younger has the greater number. `None` if it is
/// gone.
#[must_use]
pub fn started(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; fields are counted from behind it, where the third one stands.
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

fn strings(path: &str) -> Vec<String> {
    let content = fs::read(path).unwrap_or_default();
    let content = content.strip_suffix(b"\0").unwrap_or(&content);
    if content.is_empty() {
        return Vec::new();
    }
    content.split(|byte| *byte == 0).map(|s| String::from_utf8_lossy(s).into_owned()).collect()
}

/// The network namespace that a process is in, as [`crate::Netns::identity`] gives it.
#[must_use]
pub fn network_namespace(pid: u32) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    #[expect(clippy::zombie_processes, reason = "that it is reaped is what this test shows")]
    fn a_child_is_seen_killed_and_reaped() {
        let child = Command::new("sleep").arg("60").env("DROVEWAY_TEST", "x y").spawn().unwrap();
        let process = Process::open(child.id()).unwrap().unwrap();
        assert!(!process.wait_gone(Duration::ZERO).unwrap());
        assert!(all().unwrap().contains(&child.id()));
        assert!(process.kill_and_wait(SOON).unwrap());
        process.signal(Signal::SIGTERM).unwrap();
        assert!(Process::open(child.id()).unwrap().is_none());
        assert!(arguments(child.id()).is_empty());
    }

    #[test]
    fn arguments_and_environment_are_split() {
        let own = std::process::id();
        assert!(!arguments(own).is_empty());
        assert!(environment(own).iter().any(|variable| variable.starts_with("PATH=")));
        assert!(network_namespace(own).is_some());
    }

    #[test]
    fn a_child_is_no_older_than_its_parent() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (own, younger) = (started(std::process::id()).unwrap(), started(child.id()).unwrap());
        assert!(own > 0 && younger >= own, "{own} {younger}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(started(child.id()), None);
    }
}
