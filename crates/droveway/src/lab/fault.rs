//! `lab fault`: one thing that breaks, or is mended, now.

use super::chosen;
use crate::{
    cli::{self, host_text, vm_text},
    exit::{Exit, Failure},
    fleet,
};
use clap::{Args, Subcommand, ValueEnum};
use droveway_fleet::{
    Bandwidth, Bytes, EndpointId, Fleet, HostId, Ratio, TimeSpan, VmId, scenario::WorldChange,
};
use droveway_lab::{
    LabInfo,
    fault::{self, Meant},
};

/// Traffic that has a direction.
const STREAMS: [&str; 2] = ["tcp", "udp"];

#[derive(Debug, Subcommand)]
pub(crate) enum LabFault {
    /// A host's port carries nothing from now on, as if its cable had been pulled at the switch
    LinkDown(LabPort),
    /// It carries again
    LinkUp(LabPort),
    /// A port has another rate from now on
    Rate {
        /// The rate, like 100Mbit/s
        rate: Bandwidth,
        /// Whose port; every machine's if none is named
        host: Option<String>,
        #[command(flatten)]
        lab: LabName,
    },
    /// Packets that a host sends and receives are lost at the switch, each by itself
    Loss {
        /// The host
        host: String,
        /// How many of them, like 2%; or off
        #[arg(value_parser = loss)]
        share: Loss,
        #[command(flatten)]
        lab: LabName,
    },
    /// A QEMU dies (SIGKILL)
    Kill(LabQemu),
    /// A QEMU stands still, guest and all (SIGSTOP): it answers nothing, sends nothing, reads nothing
    Freeze(LabQemu),
    /// It goes on (SIGCONT)
    Thaw(LabQemu),
    /// A QEMU's monitor reads nothing until this command ends; the guest and its stream go on
    StallMonitor {
        #[command(flatten)]
        qemu: LabQemu,
        /// For how long
        #[arg(long = "for", value_name = "TIME")]
        time: TimeSpan,
    },
    /// A VM writes to so much more of its memory from now on
    Write {
        /// The VM
        vm: String,
        /// To how much more, like 40MiB
        #[arg(long, value_name = "BYTES")]
        working_set: Bytes,
        /// Pages written a second, like 30MiB/s
        #[arg(long, value_name = "RATE")]
        rate: Bandwidth,
        #[command(flatten)]
        lab: LabName,
    },
    /// The data of a stream flows the other way from now on
    Reverse {
        /// The stream, by its name in the scenario
        traffic: String,
        #[command(flatten)]
        lab: LabName,
    },
}

#[derive(Debug, Args)]
pub(crate) struct LabName {
    /// The lab; needed only if several run
    #[arg(long = "lab", value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LabPort {
    /// The host
    host: String,
    #[command(flatten)]
    lab: LabName,
}

#[derive(Debug, Args)]
pub(crate) struct LabQemu {
    /// The VM
    vm: String,
    /// Which of its two QEMUs while it moves: the younger one is the target. One that does not move has a source only
    #[arg(long, value_enum, default_value_t = SideArg::Source)]
    side: SideArg,
    /// Only if that QEMU is at this host: a VM that has moved meanwhile is left alone
    #[arg(long, value_name = "HOST")]
    at: Option<String>,
    #[command(flatten)]
    lab: LabName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SideArg {
    /// Where the VM comes from
    Source,
    /// Where it goes
    Target,
}

impl From<SideArg> for fault::Side {
    fn from(side: SideArg) -> Self {
        match side {
            SideArg::Source => fault::Side::Source,
            SideArg::Target => fault::Side::Target,
        }
    }
}

/// The share of packets that is lost; `None`: none is, any more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Loss(Option<f64>);

fn loss(text: &str) -> Result<Loss, String> {
    if text == "off" {
        return Ok(Loss(None));
    }
    let share = text.parse::<Ratio>().map_err(|error| format!("{error}; or off"))?;
    Ok(Loss(Some(share.get())))
}

impl LabName {
    fn open(&self) -> Result<(LabInfo, Fleet), Failure> {
        let info = chosen(self.name.as_deref())?;
        let fleet = fleet::load(Some(&info.fleet_file))?;
        Ok((info, fleet))
    }
}

fn host_of<'a>(fleet: &'a Fleet, name: &str) -> Result<&'a HostId, Failure> {
    cli::known(name, "host", fleet.spec.hosts.iter().map(|host| &host.name), host_text)
}

fn vm_of<'a>(fleet: &'a Fleet, name: &str) -> Result<&'a VmId, Failure> {
    cli::known(name, "VM", fleet.spec.vms.iter().map(|vm| &vm.name), vm_text)
}

fn stream_of<'a>(fleet: &'a Fleet, name: &str) -> Result<&'a EndpointId, Failure> {
    let streams = fleet.spec.applications.iter().filter(|of| STREAMS.contains(&of.kind.as_str()));
    cli::known(name, "stream", streams.map(|of| &of.name), EndpointId::as_str)
}

impl LabQemu {
    /// The lab, and the QEMU that is meant.
    fn open(&self) -> Result<(LabInfo, Meant), Failure> {
        let (info, fleet) = self.lab.open()?;
        let vm = vm_of(&fleet, &self.vm)?.to_string();
        let at = self.at.as_deref().map(|host| host_of(&fleet, host)).transpose()?;
        Ok((info, Meant { vm, side: self.side.into(), at: at.map(ToString::to_string) }))
    }
}

impl LabPort {
    fn set(&self, up: bool) -> Result<String, Failure> {
        let (info, fleet) = self.lab.open()?;
        let host = host_of(&fleet, &self.host)?;
        droveway_lab::set_link(&info, host.as_str(), up)?;
        Ok(format!("the port of {host} is {}", if up { "up" } else { "down" }))
    }
}

impl LabFault {
    /// Makes it happen.
    #[expect(clippy::print_stdout, reason = "the command's data")]
    pub(crate) fn happen(&self) -> Result<Exit, Failure> {
        let said = match self {
            LabFault::LinkDown(port) => port.set(false)?,
            LabFault::LinkUp(port) => port.set(true)?,
            LabFault::Rate { rate, host, lab } => {
                let (info, fleet) = lab.open()?;
                let host = host.as_deref().map(|name| host_of(&fleet, name)).transpose()?.cloned();
                droveway_lab::change(&info, &WorldChange::LinkRate { host, rate: *rate })?
            }
            LabFault::Loss { host, share: Loss(share), lab } => {
                let (info, fleet) = lab.open()?;
                let host = host_of(&fleet, host)?;
                fault::set_loss(&info, host.as_str(), *share)?;
                let lost = share.map_or_else(
                    || "nothing".to_owned(),
                    |share| format!("{:.2} %", share * 100.0),
                );
                format!("{lost} of what {host} sends and receives is lost")
            }
            LabFault::Kill(qemu) => {
                let (info, meant) = qemu.open()?;
                let host = fault::kill(&info, &meant)?;
                let Meant { vm, side, .. } = meant;
                format!("the QEMU of {vm} at {host}, its {side}, is dead")
            }
            LabFault::Freeze(qemu) => {
                let (info, meant) = qemu.open()?;
                let host = fault::freeze(&info, &meant)?;
                let Meant { vm, side, .. } = meant;
                format!("the QEMU of {vm} at {host}, its {side}, stands still")
            }
            LabFault::Thaw(qemu) => {
                let (info, meant) = qemu.open()?;
                let host = fault::thaw(&info, &meant)?;
                let Meant { vm, side, .. } = meant;
                format!("the QEMU of {vm} at {host}, its {side}, goes on")
            }
            LabFault::StallMonitor { qemu, time } => {
                let (info, meant) = qemu.open()?;
                let Meant { vm, side, .. } = &meant;
                fault::stall_monitor(&info, &meant, time.duration(), &mut |host| {
                    println!("the monitor of {vm} at {host}, its {side}, reads nothing for {time}");
                })?;
                format!("the monitor of {vm}, its {side}, reads again")
            }
            LabFault::Write { vm, working_set, rate, lab } => {
                let (info, fleet) = lab.open()?;
                let vm = vm_of(&fleet, vm)?.clone();
                let change = WorldChange::Writes { vm, working_set: *working_set, rate: *rate };
                droveway_lab::change(&info, &change)?
            }
            LabFault::Reverse { traffic, lab } => {
                let (info, fleet) = lab.open()?;
                let traffic = stream_of(&fleet, traffic)?.clone();
                droveway_lab::change(&info, &WorldChange::Reverse(traffic))?
            }
        };
        println!("{said}");
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_a_share_or_off() {
        assert_eq!(loss("2%"), Ok(Loss(Some(0.02))));
        assert_eq!(loss("off"), Ok(Loss(None)));
        assert!(loss("2").is_err_and(|text| text.ends_with("; or off")));
        assert!(loss("some").is_err());
    }
}
