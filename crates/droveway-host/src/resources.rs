//! What a host has: memory, and the speed of a port as its card says.

use crate::{dump::number, netns::Netns};
use droveway_fleet::{Bandwidth, Bytes};
use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd as _,
};

/// A host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: Bytes,
    /// What new work could get without swapping, as the kernel estimates it.
    pub available: Bytes,
}

/// Reads `/proc/meminfo`.
///
/// # Errors
/// The file could not be read, or lacks a line.
pub fn memory() -> io::Result<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let field = |name: &str| {
        meminfo(&text, name).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("/proc/meminfo has no {name}"))
        })
    };
    Ok(Memory { total: field("MemTotal")?, available: field("MemAvailable")? })
}

/// A line of `/proc/meminfo`: `MemTotal:       24570304 kB`.
fn meminfo(text: &str, name: &str) -> Option<Bytes> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024).map(Bytes::new)
}

/// Drivers whose speed is a number that somebody made up: veth says 10 Gbit/s, tap 10 Mbit/s or 10 Gbit/s, a bridge what its
/// fastest port says. A bond and a VLAN say what the cards below them do, so they count.
const VIRTUAL_DRIVERS: [&[u8]; 11] = [
    b"veth",
    b"tun",
    b"bridge",
    b"openvswitch",
    b"dummy",
    b"ifb",
    b"vxlan",
    b"geneve",
    b"macvlan",
    b"ipvlan",
    b"netdevsim",
];

/// `SIOCETHTOOL` of linux/sockios.h; `ETHTOOL_GDRVINFO` and `ETHTOOL_GLINKSETTINGS` of linux/ethtool.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x3;
const ETHTOOL_GLINKSETTINGS: u32 = 0x4c;
/// struct ethtool_drvinfo has 196 bytes: command (4), driver's name (32), ...
const DRIVER: std::ops::Range<usize> = 4..36;
/// struct ethtool_link_settings: command (4), Mbit/s (4), seven more bytes, words of each of three masks (1), ...
const SPEED: usize = 4;
const MASK_WORDS: usize = 15;
/// Room for the largest answer: 48 bytes and three masks of at most 127 words.
const ANSWER_WORDS: usize = 12 + 3 * 127;
/// `SPEED_UNKNOWN`, as in a card without a cable.
const UNKNOWN: u32 = u32::MAX;

/// The speed of an interface as its card negotiated it; `None` if it is virtual, down or does not say.
///
/// By `ioctl` from inside the namespace: a namespace's `/sys` is there only if somebody mounted it.
#[must_use]
pub fn link_speed(netns: &Netns, interface: &str) -> Option<Bandwidth> {
    let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).ok()?.ok()?;
    let driver = ethtool(&socket, interface, ETHTOOL_GDRVINFO, 0).ok()?;
    let driver = driver[DRIVER].split(|byte| *byte == 0).next()?;
    if VIRTUAL_DRIVERS.contains(&driver) {
        return None;
    }
    reported_speed(&socket, interface)
}

/// The speed that an interface's driver reports, whatever that means.
fn reported_speed(socket: &UdpSocket, interface: &str) -> Option<Bandwidth> {
    // The first answer says, as a negative number, how many words a mask has in this kernel; the second has the speed.
    let first = ethtool(socket, interface, ETHTOOL_GLINKSETTINGS, 0).ok()?;
    let words = first[MASK_WORDS].wrapping_neg();
    let settings = ethtool(socket, interface, ETHTOOL_GLINKSETTINGS, words).ok()?;
    speed(number(&settings, SPEED))
}

/// The speed of so many Mbit/s.
fn speed(mbit: u32) -> Option<Bandwidth> {
    let known = mbit != 0 && mbit != UNKNOWN;
    known.then(|| Bandwidth::from_bits_per_second(u64::from(mbit) * 1_000_000))
}

/// One question to an interface's driver, and the answer.
fn ethtool(
    socket: &UdpSocket,
    interface: &str,
    command: u32,
    mask_words: u8,
) -> io::Result<[u8; 4 * ANSWER_WORDS]> {
    /// Aligned as the kernel's structures are.
    #[repr(C, align(8))]
    struct Answer([u8; 4 * ANSWER_WORDS]);
    let mut answer = Answer([0; 4 * ANSWER_WORDS]);
    answer.0[..4].copy_from_slice(&command.to_ne_bytes());
    if command == ETHTOOL_GLINKSETTINGS {
        answer.0[MASK_WORDS] = mask_words;
    }
    let mut name = [0; libc::IFNAMSIZ];
    // The last byte stays zero.
    if interface.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: answer.0.as_mut_ptr().cast() },
    };
    // SAFETY: the kernel reads the name, and writes at most what the command's structure has, for which `answer` has room.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(answer.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        let text = "MemTotal:       24570304 kB\nMemFree:   1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(meminfo(text, "MemAvailable"), Some(Bytes::from_mib(2)));
        assert_eq!(meminfo(text, "Mem"), None);
        let memory = memory().unwrap();
        assert!(memory.available.get() > 0 && memory.available <= memory.total);
    }

    #[test]
    fn speeds_are_read_and_unknown_is_none() {
        assert_eq!(speed(1000), Some(Bandwidth::from_bits_per_second(1_000_000_000)));
        assert_eq!((speed(UNKNOWN), speed(0)), (None, None));
        // The loopback interface has no card.
        assert_eq!(link_speed(&Netns::own(), "lo"), None);
        assert_eq!(link_speed(&Netns::own(), "a-name-that-is-too-long"), None);
    }
    #[test]
    fn the_kernel_is_asked_rightly() {
        if !crate::features::is_privileged() {
            let required = std::env::var("DROVEWAY_REQUIRE_LAB").as_deref() == Ok("1");
            assert!(!required, "skip: the_kernel_is_asked_rightly: not root");
            return;
        }
        // A veth's speed is made up, but always the same. Its namespace goes with the thread.
        let asked = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let veth = ["link", "add", "one", "up", "type", "veth", "peer", "name", "two"];
            assert!(std::process::Command::new("ip").args(veth).status().unwrap().success());
            let up = ["link", "set", "two", "up"];
            assert!(std::process::Command::new("ip").args(up).status().unwrap().success());
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            let driver = ethtool(&socket, "one", ETHTOOL_GDRVINFO, 0).unwrap();
            assert!(driver[DRIVER].starts_with(b"veth\0"));
            (reported_speed(&socket, "one"), link_speed(&Netns::own(), "one"))
        });
        assert_eq!(asked.join().unwrap(), (speed(10_000), None));
    }
}
