//! Breaking a lab on purpose, one thing at a time: [`set_loss`] on a path, [`kill`], [`freeze`] and [`thaw`] of a QEMU, and
//! [`stall_monitor`]. A port without a cable is [`set_link`](crate::set_link); what a scenario calls a change is
//! [`change`](crate::change()).
//!
//! | what | how |
//! | --- | --- |
//! | packets are lost | nftables at the switch's bridge, where what a machine sends and receives comes by |
//! | a QEMU dies | SIGKILL |
//! | a QEMU is frozen | SIGSTOP, and SIGCONT |
//! | a monitor is silent | the thread that reads QEMU's monitor is held by `ptrace`; the guest, its stream and QEMU's main loop go on |
//!
//! QEMU itself is not asked which of two is a move's source and which its target: its monitor serves one client, and that is
//! the controller. Of a VM's two QEMUs the younger one is the target.

use crate::{
    LabError, LabInfo, change::Player, interrupt::Interrupts, layout::machines, tool::NFT,
};
use droveway_host::{
    Netns,
    process::{self, Process},
    qemu,
};
use nix::{
    errno::Errno,
    sys::{
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    fmt, fs, io, thread,
    time::{Duration, Instant},
};

/// The kernel frees a killed QEMU's memory within this, on a loaded machine too.
const KILL_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two looks whether a held thread still lives, and whether somebody interrupts us.
const LOOK: Duration = Duration::from_millis(10);
/// QEMU's thread that reads monitors, as it calls itself with `debug-threads=on`.
const MONITOR_THREAD: &str = "mon_iothread";
/// A thread that is found at work, perhaps with a lock that QEMU's main loop wants, is let go and held again so often.
const HOLD_TRIES: u32 = 200;
/// Shares of packets are drawn from so many.
const SHARES: u32 = 100_000;

/// Which of the two QEMUs of a VM that moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where it comes from: the elder one, and the only one of a VM that does not move.
    Source,
    /// Where it goes.
    Target,
}

/// A QEMU of a VM that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meant {
    /// The VM.
    pub vm: String,
    /// Which of its two.
    pub side: Side,
    /// Only if it is at this host: a VM that has moved meanwhile has another one, which is left alone.
    pub at: Option<String>,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Side::Source => "source",
            Side::Target => "target",
        })
    }
}

/// Loses a share (0 to 1) of the packets that a host sends and receives, each by itself, from now on; `None`: no more. A host
/// that the lab lacks has no path: nothing happens.
///
/// # Errors
/// [`LabError`].
pub fn set_loss(info: &LabInfo, host: &str, share: Option<f64>) -> Result<(), LabError> {
    let player = Player::of(info)?;
    let Some(index) = machines(&player.scenario.spec).position(|machine| machine == host) else {
        return Ok(());
    };
    let switch = Netns::named(&player.layout.switch_netns())?;
    NFT.read(&player.layout, &switch, &loss_rules(index, share))
}

/// The rules of one machine's path, in the place of those that it had.
fn loss_rules(machine: usize, share: Option<f64>) -> String {
    let table = format!("table bridge loss_{machine}");
    // What is not there cannot be deleted: it is made first.
    let mut rules = format!("{table}\ndelete {table}\n");
    if let Some(share) = share {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share in 0..=1 of a small number"
        )]
        let lost = (share.clamp(0.0, 1.0) * f64::from(SHARES)).round() as u32;
        let port = format!("\"p{machine}\"");
        rules += &format!(
            "{table} {{\n  chain loss {{\n    type filter hook forward priority 0; policy accept;\n    \
             iifname {port} numgen random mod {SHARES} < {lost} counter drop\n    \
             oifname {port} numgen random mod {SHARES} < {lost} counter drop\n  }}\n}}\n"
        );
    }
    rules
}

/// Kills a QEMU, and returns when its process is gone. Gives its host.
///
/// # Errors
/// [`LabError`].
pub fn kill(info: &LabInfo, meant: &Meant) -> Result<String, LabError> {
    let found = find(info, meant)?;
    match found.process.kill_and_wait(KILL_WAIT_MAX) {
        Ok(true) => Ok(found.host),
        Ok(false) => Err(LabError::Survivor { name: info.name.clone(), pid: found.process.pid() }),
        Err(error) => Err(found.failed("kill", &error)),
    }
}

/// Freezes a QEMU, guest and all: it answers nothing, sends nothing, reads nothing. Gives its host.
///
/// # Errors
/// [`LabError`].
pub fn freeze(info: &LabInfo, meant: &Meant) -> Result<String, LabError> {
    let found = find(info, meant)?;
    found.signal("freeze", Signal::SIGSTOP)?;
    Ok(found.host)
}

/// Lets a frozen QEMU go on. Gives its host.
///
/// # Errors
/// [`LabError`].
pub fn thaw(info: &LabInfo, meant: &Meant) -> Result<String, LabError> {
    let found = find(info, meant)?;
    found.signal("thaw", Signal::SIGCONT)?;
    Ok(found.host)
}

/// Keeps a QEMU's monitor from reading anything, out-of-band commands included, for so long or until an interrupt or the
/// QEMU's end; `begun` is told its host once it is silent. Then what was asked meanwhile is answered. What QEMU tells by
/// itself still comes through.
///
/// # Errors
/// [`LabError`].
pub fn stall_monitor(
    info: &LabInfo,
    meant: &Meant,
    time: Duration,
    begun: &mut dyn FnMut(&str),
) -> Result<(), LabError> {
    let found = find(info, meant)?;
    let failed = |error: &io::Error| found.failed("hold the monitor's thread of", error);
    let thread = monitor_thread(found.process.pid()).map_err(|error| failed(&error))?;
    let interrupts = Interrupts::watch();
    let mut held = Held::waiting(thread).map_err(|error| failed(&error))?;
    begun(&found.host);
    let since = Instant::now();
    while since.elapsed() < time && held.lives() && interrupts.check().is_ok() {
        thread::sleep(LOOK.min(time.saturating_sub(since.elapsed())));
    }
    Ok(())
}

/// A QEMU of the lab.
struct Found {
    vm: String,
    host: String,
    process: Process,
}

impl Found {
    fn signal(&self, action: &str, signal: Signal) -> Result<(), LabError> {
        self.process.signal(signal).map_err(|error| self.failed(action, &error))
    }

    fn failed(&self, action: &str, error: &io::Error) -> LabError {
        LabError::Tool {
            action: format!("{action} the QEMU of VM '{}' on host '{}'", self.vm, self.host),
            said: error.to_string(),
        }
    }
}

fn find(info: &LabInfo, meant: &Meant) -> Result<Found, LabError> {
    let Meant { vm, side, at } = meant;
    let player = Player::of(info)?;
    let mut all = Vec::new();
    for host in &player.scenario.spec.hosts {
        let host = host.name.to_string();
        let Some(pid) = qemu::find_by_qmp_socket(&player.layout.qmp(&host, vm)) else { continue };
        let opened = Process::open(pid).map_err(|error| LabError::Tool {
            action: format!("hold the QEMU of VM '{vm}' on host '{host}'"),
            said: error.to_string(),
        })?;
        // One that ended meanwhile is none.
        if let (Some(process), Some(age)) = (opened, process::started(pid)) {
            all.push((age, Found { vm: vm.clone(), host, process }));
        }
    }
    let hosts: Vec<String> = all.iter().map(|(_, found)| found.host.clone()).collect();
    let found = pick(all, *side).filter(|found| at.as_ref().is_none_or(|at| found.host == *at));
    found.ok_or_else(|| LabError::NoQemu {
        vm: vm.clone(),
        side: at.as_ref().map_or_else(|| side.to_string(), |at| format!("{side} at host '{at}'")),
        there: match hosts.as_slice() {
            [] => "it runs on no host of the lab".to_owned(),
            [host] => format!("its only QEMU is on host '{host}'"),
            [source, target, ..] => {
                format!("its QEMUs are on host '{source}' and on host '{target}'")
            }
        },
    })
}

/// The younger of two is the target.
fn pick<T>(mut all: Vec<(u64, T)>, side: Side) -> Option<T> {
    all.sort_by_key(|(started, _)| *started);
    let index = match side {
        Side::Source => 0,
        Side::Target => 1,
    };
    (index < all.len()).then(|| all.swap_remove(index).1)
}

/// The thread of a QEMU that reads its monitors.
fn monitor_thread(pid: u32) -> io::Result<Pid> {
    for entry in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (true, Some(number)) = (name.contains(MONITOR_THREAD), number) {
            return Ok(Pid::from_raw(number));
        }
    }
    let text = format!("no thread of process {pid} is called '{MONITOR_THREAD}'");
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

/// A thread of another process that stands still while this lives. Only the thread that made it may let it go; should this
/// process die, the kernel does.
struct Held {
    thread: Pid,
    gone: bool,
}

impl Held {
    /// Holds a thread that waits for something to read, so that it has no lock that others want.
    fn waiting(thread: Pid) -> io::Result<Self> {
        for _ in 0..HOLD_TRIES {
            let held = Held::hold(thread)?;
            if polls(thread) {
                return Ok(held);
            }
            drop(held);
            thread::sleep(LOOK);
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "it is never at rest"))
    }

    fn hold(thread: Pid) -> io::Result<Self> {
        trace(libc::PTRACE_SEIZE, thread)?;
        trace(libc::PTRACE_INTERRUPT, thread)?;
        let mut held = Held { thread, gone: false };
        match waitpid(thread, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => held.gone = true,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(held)
    }

    /// False once its process has ended. A thread that was held goes only when whoever held it has taken note, and its process
    /// with it.
    fn lives(&mut self) -> bool {
        if !self.gone {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
            self.gone = matches!(
                waitpid(self.thread, Some(flags)),
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD)
            );
        }
        !self.gone
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.gone {
            // What has ended meanwhile cannot be let go, and need not.
            let _ = trace(libc::PTRACE_DETACH, self.thread);
        }
    }
}

/// One request of `ptrace` without address and data.
fn trace(request: libc::c_uint, thread: Pid) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: none of the requests that are made here reads or writes memory of ours.
    let result = unsafe { libc::ptrace(request, thread.as_raw(), nothing, nothing) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Whether a held thread waits in a poll.
fn polls(thread: Pid) -> bool {
    const POLLS: &[libc::c_long] = &[
        libc::SYS_ppoll,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
    ];
    let text = fs::read_to_string(format!("/proc/{thread}/syscall")).unwrap_or_default();
    let number = text.split_whitespace().next().and_then(|number| number.parse().ok());
    number.is_some_and(|number: libc::c_long| POLLS.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read as _, Write as _},
        process::{Command, Stdio},
    };

    #[test]
    fn the_younger_of_two_is_the_target() {
        let two = || vec![(9, "beta"), (4, "alpha")];
        assert_eq!(pick(two(), Side::Source), Some("alpha"));
        assert_eq!(pick(two(), Side::Target), Some("beta"));
        assert_eq!(pick(vec![(4, "alpha")], Side::Source), Some("alpha"));
        assert_eq!(pick(vec![(4, "alpha")], Side::Target), None);
        assert_eq!(pick(Vec::<(u64, &str)>::new(), Side::Source), None);
    }

    #[test]
    fn loss_takes_the_place_of_what_was_and_goes_without_a_trace() {
        let rules = loss_rules(2, Some(0.025));
        assert!(rules.starts_with("table bridge loss_2\ndelete table bridge loss_2\n"), "{rules}");
        assert_eq!(rules.matches("mod 100000 < 2500 counter drop").count(), 2, "{rules}");
        assert!(rules.contains("iifname \"p2\"") && rules.contains("oifname \"p2\""), "{rules}");
        assert_eq!(loss_rules(0, None), "table bridge loss_0\ndelete table bridge loss_0\n");
    }

    /// Answers come only after it was let go, and all of them.
    #[test]
    fn a_held_thread_reads_nothing_until_it_is_let_go() {
        let mut child = Command::new("sh")
            .args(["-c", "while read -r word; do echo $word; done"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let thread = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let mut held = Held::hold(thread).unwrap();
        let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        to.write_all(b"hello\n").unwrap();
        drop(to);
        let state = fs::read_to_string(format!("/proc/{thread}/stat")).unwrap();
        assert!(state.contains(") t "), "{state}");
        assert!(held.lives());
        drop(held);
        let mut said = String::new();
        from.read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello\n");
        assert!(child.wait().unwrap().success());
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "whoever holds it reaps it")]
    fn the_end_of_a_held_process_is_noticed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let mut held = Held::hold(Pid::from_raw(i32::try_from(child.id()).unwrap())).unwrap();
        child.kill().unwrap();
        let deadline = Instant::now() + KILL_WAIT_MAX;
        while held.lives() {
            assert!(Instant::now() < deadline, "its end was not noticed");
            thread::sleep(LOOK);
        }
    }
}
