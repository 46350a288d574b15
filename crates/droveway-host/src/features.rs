//! What this machine has: rights, virtualisation, userfaultfd, clocks and CPU time. Each is found out by trying.

use droveway_fleet::Timestamp;
use nix::{
    errno::Errno,
    sys::resource::{UsageWho, getrusage},
    time::{ClockId, clock_gettime},
};
use std::{
    fmt, fs, io,
    os::fd::{FromRawFd, OwnedFd},
    time::Duration,
};

/// How QEMU runs a guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accelerator {
    /// On the CPU itself.
    Kvm,
    /// Translated. CPU-side figures do not carry over to KVM.
    Tcg,
}

impl Accelerator {
    /// The name as QEMU's `accel=` takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Linux capability numbers (`linux/capability.h`).
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// Whether this process may build networks and enter namespaces: `CAP_NET_ADMIN` and `CAP_SYS_ADMIN` are effective.
#[must_use]
pub fn is_privileged() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = effective_capabilities(&status).unwrap_or(0);
    let wanted = (1 << CAP_NET_ADMIN) | (1 << CAP_SYS_ADMIN);
    effective & wanted == wanted
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

/// KVM if the CPU has it and `/dev/kvm` opens, else TCG. The device alone proves nothing: it exists on kernels whose CPU
/// has no virtualisation.
#[must_use]
pub fn accelerator() -> Accelerator {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let opens = || fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if has_virtualisation(&cpuinfo) && opens() { Accelerator::Kvm } else { Accelerator::Tcg }
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm")
}

/// Whether userfaultfd, which post-copy needs at its target, is there and allowed.
///
/// # Errors
/// What the system said.
pub fn userfaultfd() -> io::Result<()> {
    // SAFETY: the call takes flags and returns a new descriptor or -1; it touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    if let Ok(fd @ 0..) = i32::try_from(fd) {
        // SAFETY: the kernel just gave us this descriptor; nobody else has it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        return Ok(());
    }
    let error = io::Error::from(Errno::last());
    // Without the right to handle kernel faults the system call is refused, but the device may be open to us.
    match fs::OpenOptions::new().read(true).write(true).open("/dev/userfaultfd") {
        Ok(_) => Ok(()),
        Err(_) => Err(error),
    }
}

/// The kernel's release, like `6.1.0-28-amd64`.
#[must_use]
pub fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map(|names| names.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Names this boot of the machine: what a monotonic clock says means nothing after the next one. Empty if the kernel does not
/// say.
#[must_use]
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// The number of CPUs online, at least 1.
#[must_use]
pub fn cpus() -> u32 {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Now, on `CLOCK_MONOTONIC`: the clock that every process of the machine shares and that nobody sets.
#[must_use]
pub fn monotonic_now() -> Timestamp {
    // The clock exists on every Linux: the call fails only for clocks that do not.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    Timestamp::ZERO + now
}

/// What the machine's CPUs did since it started, all of them added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MachineCpu {
    /// Ticks in which a CPU worked (also for a guest, or waited for the hypervisor).
    pub busy: u64,
    /// All ticks.
    pub total: u64,
}

impl MachineCpu {
    /// Reads `/proc/stat`.
    ///
    /// # Errors
    /// When `/proc` is not mounted or says something else.
    pub fn read() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        Self::parse(&stat)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/stat has no cpu line"))
    }

    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // user nice system idle iowait irq softirq steal (guest time is inside user time already).
        let ticks: Vec<u64> =
            line.split_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        let total = ticks.iter().sum();
        let idle: u64 = ticks.get(3..5)?.iter().sum();
        Some(MachineCpu { busy: total - idle, total })
    }

    /// The share of the machine's CPU time that was busy since `earlier`; 0 if no time passed.
    #[must_use]
    pub fn busy_ratio_since(self, earlier: MachineCpu) -> f64 {
        let total = self.total.saturating_sub(earlier.total);
        let busy = self.busy.saturating_sub(earlier.busy);
        if total == 0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "ticks, far below 2^53")]
        let ratio = busy as f64 / total as f64;
        ratio.clamp(0.0, 1.0)
    }
}

/// What this process cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnUsage {
    /// CPU time, user and system, all threads.
    pub cpu: Duration,
    /// The most memory that was ever resident, in bytes.
    pub resident_bytes_max: u64,
}

/// What this process cost so far.
///
/// # Errors
/// What the system said.
pub fn own_usage() -> io::Result<OwnUsage> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let duration = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    Ok(OwnUsage {
        cpu: duration(usage.user_time()) + duration(usage.system_time()),
        // The kernel counts in KiB.
        resident_bytes_max: u64::try_from(usage.max_rss()).unwrap_or(0) << 10,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_in_hexadecimal() {
        assert_eq!(
            effective_capabilities("Name:\tx\nCapEff:\t0000000000201000\n"),
            Some(0x20_1000)
        );
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn virtualisation_is_a_whole_word() {
        assert!(has_virtualisation("processor: 0\nflags\t\t: fpu vmx sse\n"));
        assert!(has_virtualisation("flags : svm\n"));
        assert!(!has_virtualisation("flags : fpu vmxe\nmodel name : vmx\n"));
    }

    #[test]
    fn idle_and_waiting_are_not_busy() {
        let cpu = MachineCpu::parse("cpu  10 0 20 60 5 1 2 2 99 99\ncpu0 1 2 3\n");
        assert_eq!(cpu, Some(MachineCpu { busy: 35, total: 100 }));
        let later = MachineCpu { busy: 85, total: 200 };
        assert!((later.busy_ratio_since(cpu.unwrap()) - 0.5).abs() < 1e-9);
        assert!(MachineCpu::default().busy_ratio_since(MachineCpu::default()).abs() < 1e-9);
    }

    #[test]
    fn the_machine_answers() {
        let before = monotonic_now();
        assert!(monotonic_now() >= before && before > Timestamp::ZERO);
        assert!(!kernel_release().is_empty());
        assert!(own_usage().unwrap().resident_bytes_max > 0);
        assert!(MachineCpu::read().unwrap().total > 0);
        assert!(cpus() >= 1);
    }
}
