//! From a bare kernel to a guest with file systems, modules and a network.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::unistd::sethostname;

use crate::config::Address;

/// Where programs of the image are.
pub(crate) const PROGRAM_PATH: &str = "/bin:/usr/bin:/sbin:/usr/sbin";

/// The first (and only) virtio card: without udev the kernel's own name stays.
const CARD: &str = "eth0";

/// How long the card may take to appear after its driver was loaded; normally it is there at once.
const CARD_WAIT_MAX: Duration = Duration::from_secs(10);

pub(crate) fn mount_file_systems() -> Result<(), String> {
    for (kind, target) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
    ] {
        fs::create_dir_all(target).map_err(|error| format!("cannot create {target}: {error}"))?;
        mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
            .map_err(|error| format!("cannot mount {kind} on {target}: {error}"))?;
    }
    Ok(())
}

/// Loads what `/modules/order` lists, in that order; an image for a kernel that has all of it built in has
/// an empty list.
pub(crate) fn load_modules() -> Result<(), String> {
    let order = fs::read_to_string("/modules/order")
        .map_err(|error| format!("cannot read /modules/order: {error}"))?;
    for file_name in order.lines().filter(|line| !line.is_empty()) {
        let path = Path::new("/modules").join(file_name);
        let module = fs::File::open(&path)
            .map_err(|error| format!("cannot open module {}: {error}", path.display()))?;
        finit_module(module, c"", ModuleInitFlags::empty())
            .map_err(|error| format!("cannot load module {}: {error}", path.display()))?;
    }
    Ok(())
}

pub(crate) fn set_hostname(name: &str) -> Result<(), String> {
    sethostname(name).map_err(|error| format!("cannot set the host name to {name}: {error}"))
}

pub(crate) fn bring_up_network(address: Address) -> Result<(), String> {
    // Without IPv6 the guest sends nothing on its own accord (router and neighbour solicitations).
    let _ = fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    wait_for_card()?;
    ip(&["link", "set", "lo", "up"])?;
    ip(&["address", "add", &address.to_string(), "dev", CARD])?;
    ip(&["link", "set", CARD, "up"])
}

fn wait_for_card() -> Result<(), String> {
    let since = Instant::now();
    while !Path::new("/sys/class/net").join(CARD).exists() {
        if since.elapsed() > CARD_WAIT_MAX {
            return Err(format!("no network card {CARD}: has the guest a virtio-net-pci device?"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let status = Command::new("/bin/ip")
        .args(arguments)
        .status()
        .map_err(|error| format!("cannot run ip {}: {error}", arguments.join(" ")))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {status}", arguments.join(" ")))
}

/// One line of `/proc/meminfo`, in bytes.
pub(crate) fn memory_bytes(key: &str) -> Result<u64, String> {
    let text = fs::read_to_string("/proc/meminfo")
        .map_err(|error| format!("cannot read /proc/meminfo: {error}"))?;
    parse_memory_bytes(&text, key).ok_or_else(|| format!("/proc/meminfo has no {key}"))
}

fn parse_memory_bytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text =
            "MemTotal:         481112 kB\nMemFree:          400000 kB\nHugePages_Total:   0\n";
        assert_eq!(parse_memory_bytes(text, "MemTotal"), Some(481_112 * 1024));
        assert_eq!(parse_memory_bytes(text, "Mem"), None);
        assert_eq!(parse_memory_bytes(text, "MemAvailable"), None);
        assert_eq!(parse_memory_bytes(text, "HugePages_Total"), None);
    }
}
