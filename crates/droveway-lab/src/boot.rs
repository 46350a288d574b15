//! Waiting for VMs: each has booted when it answers a datagram, seen from the switch, behind no port.

use crate::{address::Addresses, error::LabError, interrupt::Interrupts, layout::Layout};
use droveway_host::{Netns, features::Accelerator, process::Process};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The UDP port on which every guest sends back what it hears.
pub(crate) const ECHO_PORT: u16 = 7007;

/// The time between two questions to all VMs that have not answered.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// How long one VM may take to boot alone: 3 to 4 s are usual under TCG, ten times that on a busy machine.
const BOOT_MAX: Duration = Duration::from_secs(60);

/// What each VM adds under TCG, where all boot at once on the CPUs that there are.
const BOOT_MAX_EACH_TCG: Duration = Duration::from_secs(30);

/// How much of a log an error shows.
const TAIL_LEN_MAX: usize = 300;

/// A VM that was started.
#[derive(Debug)]
pub(crate) struct Booting {
    pub(crate) vm: String,
    pub(crate) host: String,
    pub(crate) pid: u32,
}

/// How long so many VMs may take.
pub(crate) fn patience(vms: usize, cpus: u32, accelerator: Accelerator) -> Duration {
    let turns = u32::try_from(vms).unwrap_or(u32::MAX).div_ceil(cpus.max(1));
    match accelerator {
        Accelerator::Kvm => BOOT_MAX,
        Accelerator::Tcg => BOOT_MAX + BOOT_MAX_EACH_TCG * turns,
    }
}

/// Waits until every VM has answered; one that ended or never answers is an error with its log's last words.
pub(crate) fn wait(
    layout: &Layout,
    booting: Vec<Booting>,
    addresses: &Addresses,
    patience: Duration,
    interrupts: &Interrupts,
    progress: &mut dyn FnMut(&str),
) -> Result<(), LabError> {
    let socket = Netns::named(&layout.switch_netns())?.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(ASK_INTERVAL))?;
        Ok(socket)
    })?;
    let failed = |error: io::Error| LabError::Tool {
        action: "ask the VMs for an echo".to_owned(),
        said: error.to_string(),
    };
    let socket = socket.map_err(failed)?;
    let mut waiting: BTreeMap<IpAddr, Booting> = booting
        .into_iter()
        .filter_map(|booting| Some((addresses.get(&booting.vm)?.into(), booting)))
        .collect();
    let start = Instant::now();
    while !waiting.is_empty() {
        for address in waiting.keys() {
            // The bridge may have no way there yet: the next question may find one.
            let _ = socket.send_to(b"droveway", (*address, ECHO_PORT));
        }
        let asked = Instant::now();
        while asked.elapsed() < ASK_INTERVAL && !waiting.is_empty() {
            let mut buffer = [0; 64];
            let heard = match socket.recv_from(&mut buffer) {
                Ok((_, from)) => from.ip(),
                Err(_) => continue,
            };
            if let Some(booted) = waiting.remove(&heard) {
                let time = start.elapsed().as_secs_f64();
                progress(&format!("VM '{}' answers after {time:.1} s", booted.vm));
            }
        }
        interrupts.check()?;
        for booting in waiting.values() {
            check_alive(layout, booting)?;
        }
        if start.elapsed() > patience
            && let Some(late) = waiting.values().next()
        {
            let what = format!("does not answer after {} s", patience.as_secs());
            let log = layout.serial(&late.host, &late.vm);
            return Err(boot_error(late, what, log));
        }
    }
    Ok(())
}

fn check_alive(layout: &Layout, booting: &Booting) -> Result<(), LabError> {
    let gone = match Process::open(booting.pid) {
        Ok(Some(process)) => process.wait_gone(Duration::ZERO).unwrap_or(false),
        Ok(None) => true,
        // Whether it lives cannot be told: the echo will.
        Err(_) => false,
    };
    if gone {
        let log = layout.log(&booting.host, &booting.vm);
        return Err(boot_error(booting, "ended while it booted".to_owned(), log));
    }
    Ok(())
}

fn boot_error(booting: &Booting, what: String, log: PathBuf) -> LabError {
    LabError::Boot { vm: booting.vm.clone(), what, tail: tail(&log), log }
}

/// The last words of a log, on one line.
fn tail(log: &Path) -> String {
    let content = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&content);
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    if text.is_empty() {
        return "(empty)".to_owned();
    }
    let start = text.len().saturating_sub(TAIL_LEN_MAX);
    let start = (start..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_vms_may_take_longer_where_they_share_cpus() {
        assert_eq!(patience(1, 2, Accelerator::Tcg), Duration::from_secs(90));
        assert_eq!(patience(6, 2, Accelerator::Tcg), Duration::from_secs(150));
        assert_eq!(patience(6, 2, Accelerator::Kvm), Duration::from_secs(60));
    }

    #[test]
    fn a_log_ends_on_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(tail(&log), "(empty)");
        std::fs::write(&log, format!("{}\nqemu: no such\n  device\n", "ä".repeat(200))).unwrap();
        let tail = tail(&log);
        assert!(tail.ends_with("ä qemu: no such device") && tail.len() <= TAIL_LEN_MAX, "{tail}");
    }
}
