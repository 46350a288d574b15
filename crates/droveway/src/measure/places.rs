//! Where each VM runs, asked of the QEMUs, and what its QEMU process uses.

use super::dirty;
use crate::qemu::{self, Probed};
use droveway_fleet::{FleetVm, HostId};
use droveway_host::{
    qemu as process,
    taps::{self, Tap},
};
use droveway_qmp::{MachineFacts, MigrationStatus, QmpError, RunState};

/// One VM at the host where it runs.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) vm: &'a FleetVm,
    pub(super) host: HostId,
    pub(super) state: RunState,
    pub(super) facts: MachineFacts,
    /// A migration that is under way.
    pub(super) migration: Option<MigrationStatus>,
    pub(super) pid: Option<u32>,
    pub(super) taps: Vec<Tap>,
}

/// Finds a VM; `Err` says why there is nothing to measure.
pub(super) async fn find<'a>(
    vm: &'a FleetVm,
    remarks: &mut Vec<String>,
) -> Result<Place<'a>, String> {
    let mut found = Vec::new();
    for (host, instance) in &vm.instances {
        // One monitor at a time: whoever waits for one must not hold another that a run may be waiting for.
        let client = match qemu::probe(instance).await {
            Probed::Absent => continue,
            Probed::Silent => {
                return Err(format!(
                    "the QEMU of VM '{}' on host '{host}' does not answer",
                    vm.name
                ));
            }
            Probed::There(qemu) => qemu.client,
        };
        let asked = async {
            let state = client.status().await?.state;
            let migration = client.migration().await?.status;
            Ok::<_, QmpError>((state, migration, client.machine_facts().await?))
        };
        match asked.await {
            Ok((state, ..)) if !qemu::holds_vm(&state) => {}
            Ok((state, migration, facts)) => {
                let migration = (!dirty::is_idle(&migration)).then_some(migration);
                found.push((host, instance, state, migration, facts));
            }
            Err(error) => {
                return Err(format!(
                    "the QEMU of VM '{}' on host '{host}' does not answer: {error}",
                    vm.name
                ));
            }
        }
    }
    let count = found.len();
    let Some((host, instance, state, migration, facts)) = found.pop() else {
        return Err(format!("VM '{}' runs nowhere", vm.name));
    };
    if count > 1 {
        return Err(format!("VM '{}' seems to run on several hosts at once", vm.name));
    }
    let pid = process::find_by_qmp_socket(qemu::socket(instance));
    let taps = pid.map_or_else(Vec::new, |pid| match taps::of_qemu(pid) {
        Ok(taps) => taps,
        Err(error) => {
            remarks.push(format!("the network devices of VM '{}' are not known: {error}", vm.name));
            Vec::new()
        }
    });
    if pid.is_none() {
        remarks.push(format!("the process of VM '{}' was not found at '{host}'", vm.name));
    }
    Ok(Place { vm, host: host.clone(), state, facts, migration, pid, taps })
}
