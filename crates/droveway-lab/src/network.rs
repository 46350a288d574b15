//! The lab's network: a namespace for each machine and one for the switch, virtual cables, wires, addresses.
//!
//! ```text
//!  host alpha                           switch                          client
//!  t0 t1 .. -- br0 -- nic --- a0 = x0 -- p0 -- br0 -- p2 -- x2 = a2 --- nic
//! ```
//!
//! Every device is made inside a namespace of the lab, so that nothing appears in the machine's own network and deleting
//! the namespaces removes all of it. The switch's bridge has an address too: a vantage point behind no port.

use crate::{
    address::{Addresses, PREFIX_LEN},
    error::LabError,
    layout::{Layout, machines},
    tool::{ETHTOOL, IP, TC},
    wire,
};
use droveway_fleet::scenario::{Link, ScenarioSpec};
use droveway_host::Netns;
use std::{fmt::Write, fs};

/// The congestion control of hosts in the field, whatever this kernel's default is.
const CONGESTION_CONTROL: &str = "cubic";

/// A bridge that forwards at once and runs no protocol of its own.
const BRIDGE: &str =
    "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0 ageing_time 30000\n";

/// Makes the namespaces, all of them or an error.
pub(crate) fn add_namespaces(layout: &Layout, spec: &ScenarioSpec) -> Result<(), LabError> {
    let commands: String =
        layout.namespaces(spec).iter().map(|name| format!("netns add {name}\n")).collect();
    IP.batch(layout, &Netns::own(), &commands)
        .map_err(|error| lacking(error, "network namespaces", "use a kernel with CONFIG_NET_NS"))?;
    for name in layout.namespaces(spec) {
        disable_ipv6(&Netns::named(&name)?)?;
    }
    Ok(())
}

/// Without IPv6 a namespace sends nothing that nobody asked for. A kernel without IPv6 is as good.
fn disable_ipv6(netns: &Netns) -> Result<(), LabError> {
    netns.run(|| {
        for which in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
            if let Err(error) = fs::write(&path, "1") {
                tracing::debug!(path, %error, "IPv6 stays as it is");
            }
        }
    })?;
    Ok(())
}

/// Tries in the switch's namespace, on its loopback device, what the wires are made of, so that a kernel that lacks
/// something is an error that says so.
pub(crate) fn probe(layout: &Layout, link: &Link) -> Result<(), LabError> {
    let netns = Netns::named(&layout.switch_netns())?;
    let shape = wire::shape("lo", link);
    let line = |start: &str| shape.lines().find(|line| line.starts_with(start)).unwrap_or_default();
    let steps = [
        (line("qdisc"), "HTB", "modprobe sch_htb"),
        (line("class"), "HTB classes", "modprobe sch_htb"),
        (
            "qdisc add dev lo parent 1:1 bfifo limit 10000",
            "bfifo",
            "use a kernel with CONFIG_NET_SCHED",
        ),
        (line("filter"), "BPF classifier", "modprobe cls_bpf"),
        ("qdisc add dev lo ingress", "ingress qdisc", "modprobe sch_ingress"),
        (
            "filter add dev lo parent ffff: protocol all prio 1 u32 match u32 0 0 action mirred egress redirect dev lo",
            "u32 classifier with mirred",
            "modprobe cls_u32 act_mirred",
        ),
    ];
    for (command, feature, remedy) in steps {
        let tried = TC.batch(layout, &netns, command);
        tried.map_err(|error| lacking(error, feature, remedy))?;
    }
    TC.batch(layout, &netns, "qdisc del dev lo root\nqdisc del dev lo ingress\n")
}

/// A tool's failure at a probe is a missing feature; a missing tool stays what it is.
fn lacking(error: LabError, feature: &str, remedy: &str) -> LabError {
    match error {
        LabError::Tool { said, .. } => LabError::MissingFeature {
            feature: feature.to_owned(),
            remedy: remedy.to_owned(),
            said,
        },
        other => other,
    }
}

/// Lays every cable and wire and gives every address. The namespaces exist.
pub(crate) fn build(
    layout: &Layout,
    spec: &ScenarioSpec,
    addresses: &Addresses,
    progress: &mut dyn FnMut(&str),
) -> Result<(), LabError> {
    let switch = Netns::named(&layout.switch_netns())?;
    IP.batch(layout, &switch, &switch_commands(layout, spec, addresses)).map_err(|error| {
        if error.to_string().contains("Unknown device type") {
            lacking(error, "veth and bridge devices", "modprobe veth bridge")
        } else {
            error
        }
    })?;
    TC.batch(layout, &switch, &wire_commands(spec))?;
    let cubic = IP.batch(layout, &switch, &route_command("br0", &addresses.switch.to_string()));
    if let Err(error) = &cubic {
        progress(&format!("no {CONGESTION_CONTROL} here, TCP stays as it is: {error}"));
    }
    for (machine, role) in roles(spec) {
        let netns = Netns::named(&layout.netns(machine))?;
        let address = address(addresses, machine)?;
        IP.batch(layout, &netns, &machine_commands(spec, role, &address)).map_err(|error| {
            if error.to_string().contains("tun") {
                lacking(error, "tap devices", "modprobe tun")
            } else {
                error
            }
        })?;
        if cubic.is_ok() {
            IP.batch(layout, &netns, &route_command(role.device(), &address))?;
        }
    }
    if !spec.link.offloads_on() {
        offloads_off(layout, spec)?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Host,
    Client,
}

impl Role {
    /// The device that has the machine's address.
    const fn device(self) -> &'static str {
        match self {
            Role::Host => "br0",
            Role::Client => "nic",
        }
    }
}

fn roles(spec: &ScenarioSpec) -> impl Iterator<Item = (&str, Role)> {
    let hosts = spec.hosts.len();
    machines(spec)
        .enumerate()
        .map(move |(i, name)| (name, if i < hosts { Role::Host } else { Role::Client }))
}

fn address(addresses: &Addresses, machine: &str) -> Result<String, LabError> {
    let address = addresses.get(machine).map(|address| address.to_string());
    address.ok_or_else(|| LabError::Scenario(format!("'{machine}' has no address")))
}

fn switch_commands(layout: &Layout, spec: &ScenarioSpec, addresses: &Addresses) -> String {
    let mut commands = BRIDGE.to_owned();
    for (i, machine) in machines(spec).enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(
            commands,
            "link add a{i} type veth peer name nic netns {netns}\n\
             link add x{i} type veth peer name p{i}\nlink set p{i} master br0\n\
             link set a{i} up\nlink set x{i} up\nlink set p{i} up\n",
            netns = layout.netns(machine),
        );
    }
    let address = addresses.switch;
    let _ = write!(
        commands,
        "link set lo up\nlink set br0 up\naddr add {address}/{PREFIX_LEN} dev br0\n"
    );
    commands
}

/// The devices whose sending is a machine's wire: what it receives, what it sends.
pub(crate) fn wire_ends(machine: usize) -> [String; 2] {
    [format!("a{machine}"), format!("x{machine}")]
}

fn wire_commands(spec: &ScenarioSpec) -> String {
    let mut commands = String::new();
    for (i, _) in machines(spec).enumerate() {
        let [near, far] = wire_ends(i);
        commands += &wire::shape(&far, &spec.link);
        commands += &wire::shape(&near, &spec.link);
        commands += &wire::patch(&near, &far);
    }
    commands
}

fn machine_commands(spec: &ScenarioSpec, role: Role, address: &str) -> String {
    let mut commands = "link set lo up\n".to_owned();
    if role == Role::Host {
        commands += BRIDGE;
        commands += "link set nic master br0\n";
        for i in 0..spec.vms.len() {
            let _ = write!(
                commands,
                "tuntap add mode tap t{i}\nlink set t{i} master br0\nlink set t{i} up\n"
            );
        }
        commands += "link set br0 up\n";
    }
    let device = role.device();
    let _ = write!(commands, "link set nic up\naddr add {address}/{PREFIX_LEN} dev {device}\n");
    commands
}

/// By route, since a namespace's sysctl accepts no more than what the kernel calls unrestricted.
fn route_command(device: &str, address: &str) -> String {
    format!(
        "route replace 10.77.0.0/{PREFIX_LEN} dev {device} proto kernel scope link src {address} \
         congctl {CONGESTION_CONTROL}\n"
    )
}

/// Packets get the size that a wire has.
fn offloads_off(layout: &Layout, spec: &ScenarioSpec) -> Result<(), LabError> {
    let off = |netns: &Netns, device: &str| {
        ETHTOOL.run(layout, netns, &["-K", device, "tso", "off", "gso", "off", "gro", "off"])
    };
    let switch = Netns::named(&layout.switch_netns())?;
    off(&switch, "br0")?;
    for (i, (machine, role)) in roles(spec).enumerate() {
        for end in ["a", "x", "p"] {
            off(&switch, &format!("{end}{i}"))?;
        }
        let netns = Netns::named(&layout.netns(machine))?;
        off(&netns, "nic")?;
        if role == Role::Host {
            off(&netns, "br0")?;
            for tap in 0..spec.vms.len() {
                off(&netns, &format!("t{tap}"))?;
            }
        }
    }
    Ok(())
}
