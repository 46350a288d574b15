//! What has to be there before a VM's memory may be split: else a post-copy whose path breaks could not be put together again.
//!
//! Each side has to be told that its channel is broken (`migrate-pause`), the target to listen anew (`migrate-recover`) and the source
//! to go on there (`migrate` with `resume`). The first two are told out of band: QEMU's main loop may be inside the dead stream.
//! And the target's host needs a port that nobody listens on.

use crate::qemu::Qemu;
use droveway_fleet::Host;
use droveway_host::netns::Netns;
use droveway_qmp::Schema;
use std::{
    io,
    net::{IpAddr, TcpListener},
};

/// What else can be done about it.
const OTHERWISE: &str = "or forbid post-copy with --allow-postcopy never";

/// What the two QEMUs of a VM lack.
pub(super) async fn missing(source: &Qemu, target: &Qemu) -> Vec<String> {
    let mut missing = Vec::new();
    for (side, qemu) in [("source", source), ("target", target)] {
        // One that does not answer was told of with its capabilities.
        let Ok(schema) = qemu.client.probe().await else { continue };
        missing.extend(missing_at(side, qemu.client.has_out_of_band(), &schema));
    }
    missing
}

fn missing_at(side: &str, out_of_band: bool, schema: &Schema) -> Option<String> {
    let what = "post-copy could not be recovered if the path broke";
    let recovers = match side {
        "source" => schema.has_argument("migrate", "resume"),
        _ => schema.allows_oob("migrate-recover"),
    };
    if !recovers || !schema.allows_oob("migrate-pause") {
        return Some(format!(
            "{what}: the {side}'s QEMU cannot pause and resume a broken migration (migrate-pause, \
             migrate-recover); use a newer QEMU there, {OTHERWISE}"
        ));
    }
    (!out_of_band).then(|| {
        format!(
            "{what}: the monitor of the {side}'s QEMU takes no commands out of band; give it a socket \
             of its own, without a multiplexer (-qmp unix:PATH,server=on,wait=off), {OTHERWISE}"
        )
    })
}

/// Why a target's host could not listen for a stream that is renewed while so many VMs' targets each have a port. Ports that cannot be
/// tried from here count as free: the targets will say.
pub(crate) fn missing_port(host: &Host, vms: usize) -> Option<String> {
    let wanted = vms + 1;
    let free = Netns::of(host.netns.as_deref())
        .and_then(|netns| netns.run(|| free_ports(host, wanted)))
        .unwrap_or_else(|error| {
            tracing::debug!("the ports of host '{}' could not be tried: {error}", host.name);
            (host.migration_ports.first..=host.migration_ports.last).take(wanted).count()
        });
    let (first, last) = (host.migration_ports.first, host.migration_ports.last);
    (free < wanted).then(|| {
        format!(
            "post-copy could not be recovered if the path broke: of the ports {first} to {last} of host \
             '{}' only {free} are free, and {wanted} are needed, one for each VM and one to listen on \
             again; widen its migrationPorts in the fleet, {OTHERWISE}",
            host.name
        )
    })
}

/// Whether a port cannot be listened at, in the namespace that this runs in: somebody does, or has a connection from it or had one
/// within the last minute.
pub(crate) fn is_taken(address: IpAddr, port: u16) -> bool {
    let bound = TcpListener::bind((address, port));
    bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// How many of a host's ports for incoming migrations nobody listens on, of as many as are wanted. In the host's namespace.
fn free_ports(host: &Host, wanted: usize) -> usize {
    let is_taken = |port: u16| is_taken(host.migration_address, port);
    let ports = host.migration_ports.first..=host.migration_ports.last;
    ports.filter(|port| !is_taken(*port)).take(wanted).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use droveway_fleet::{Port, fleet::PortRange};

    fn schema(text: &str) -> Schema {
        Schema::from_json(text).unwrap()
    }

    #[test]
    fn a_qemu_that_can_be_recovered_lacks_nothing() {
        let qemu = schema(include_str!("../../../droveway-qmp/tests/fixtures/schema-10.0.2.json"));
        assert_eq!(missing_at("source", true, &qemu), None);
        assert_eq!(missing_at("target", true, &qemu), None);
        for side in ["source", "target"] {
            let missing = missing_at(side, false, &qemu).unwrap();
            assert!(missing.contains(&format!("the {side}'s QEMU takes no commands out of band")));
            assert!(missing.contains("--allow-postcopy never"), "{missing}");
        }
    }

    /// Commands that are there, but not out of band, are of no use.
    #[test]
    fn commands_that_are_missing_are_named() {
        let command = |name: &str, oob: bool| {
            format!(
                r#"{{"name":"{name}","meta-type":"command","arg-type":"0","ret-type":"0","allow-oob":{oob}}}"#
            )
        };
        let of = |commands: &[String]| schema(&format!("[{}]", commands.join(",")));
        let both = of(&[command("migrate-pause", true), command("migrate-recover", true)]);
        assert_eq!(missing_at("target", true, &both), None);
        // `migrate` has no `resume` there.
        assert!(missing_at("source", true, &both).unwrap().contains("newer QEMU"));
        let in_band = [command("migrate-pause", false), command("migrate-recover", true)];
        assert!(missing_at("target", true, &of(&in_band)).unwrap().contains("migrate-pause"));
        assert!(missing_at("target", true, &of(&in_band[1..])).is_some());
        let no_renewal = [command("migrate-pause", true)];
        assert!(missing_at("target", true, &of(&no_renewal)).unwrap().contains("newer QEMU"));
    }

    #[test]
    fn a_port_is_left_to_listen_on_again() {
        let host = |first, last| Host {
            name: "beta".parse().unwrap(),
            port: Port { interface: "nic".to_owned(), rate: "1Gbit/s".parse().unwrap() },
            migration_address: "127.83.41.7".parse().unwrap(),
            migration_ports: PortRange { first, last },
            netns: None,
        };
        let three = host(20_011, 20_013);
        assert_eq!(missing_port(&three, 2), None);
        let missing = missing_port(&three, 3).unwrap();
        assert!(missing.contains("only 3 are free, and 4 are needed"), "{missing}");
        let held = TcpListener::bind((three.migration_address, 20_012)).unwrap();
        let missing = missing_port(&three, 2).unwrap();
        assert!(missing.contains("host 'beta' only 2 are free, and 3 are needed"), "{missing}");
        assert!(missing.contains("migrationPorts"), "{missing}");
        assert_eq!(missing_port(&three, 1), None);
        drop(held);
        assert_eq!(missing_port(&three, 2), None);
    }
}
