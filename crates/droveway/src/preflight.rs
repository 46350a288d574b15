//! What must be true before anything starts. A check that fails says what to do; nothing has been touched then.

mod recovery;

pub(crate) use recovery::{is_taken, missing_port};

use crate::{
    exit::{Exit, Failure},
    qemu::Qemu,
    run::settings,
};
use droveway_drive::Settings;
use droveway_fleet::VmId;
use droveway_plan::Move;
use droveway_qmp::{Capability, MachineFacts, MigrationStatus, RunState};

/// What the check found out on the way, for the report and the driver.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) was_running: bool,
    pub(crate) accelerator: &'static str,
    pub(crate) qemu_version: String,
    /// What the source's QEMU was set to before the run, as far as that is known.
    pub(crate) before: Option<Settings>,
}

/// One reason not to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Obstacle {
    pub(crate) vm: VmId,
    pub(crate) text: String,
}

/// A migration that an earlier run, or somebody else, began must end first.
pub(crate) async fn check_idle(vm: &VmId, source: &Qemu) -> Result<(), Failure> {
    let migration =
        source.client.migration().await.map_err(|error| Failure::new(Exit::Blocked, error))?;
    let idle = matches!(
        migration.status,
        MigrationStatus::Idle
            | MigrationStatus::Completed
            | MigrationStatus::Failed
            | MigrationStatus::Cancelled
    );
    if idle {
        return Ok(());
    }
    Err(Failure::says(
        Exit::Blocked,
        format!("VM '{vm}' is already being migrated (status '{}')", migration.status),
    )
    .hint("wait for its end; `droveway status` shows it"))
}

/// Checks one VM's two QEMUs against its part of the plan.
pub(crate) async fn check(
    step: &Move,
    source: &Qemu,
    target: &Qemu,
) -> Result<Result<Checked, Vec<Obstacle>>, Failure> {
    let mut obstacles = Vec::new();
    let mut obstacle = |text: String| {
        obstacles.push(Obstacle { vm: step.vm.clone(), text });
    };
    let asked = async {
        Ok::<_, droveway_qmp::QmpError>((
            source.client.machine_facts().await?,
            target.client.machine_facts().await?,
            source.client.status().await?.state,
            target.client.status().await?.state,
            source.client.migration().await?,
            settings::read(&source.client).await?,
        ))
    };
    let (at_source, at_target, source_state, target_state, migration, before) =
        asked.await.map_err(|error| Failure::new(Exit::Blocked, error))?;

    for difference in differences(&at_source, &at_target) {
        obstacle(difference);
    }
    if !matches!(source_state, RunState::Running | RunState::Paused) {
        obstacle(format!("the source is in state '{source_state}', not running"));
    }
    if target_state != RunState::InMigrate {
        obstacle(format!("the target is in state '{target_state}', not waiting for a migration"));
    }
    for reason in &migration.blocked_reasons {
        obstacle(format!("QEMU forbids the migration: {reason}"));
    }
    let postcopy = step.may_postcopy();
    for (side, qemu) in [("source", source), ("target", target)] {
        match missing_capabilities(qemu, postcopy).await {
            Ok(missing) => {
                for capability in missing {
                    obstacle(format!("the {side}'s QEMU has no capability '{capability}'"));
                }
            }
            Err(error) => obstacle(format!("the {side}'s QEMU does not answer: {error}")),
        }
    }
    if postcopy {
        for missing in recovery::missing(source, target).await {
            obstacle(missing);
        }
        // The target's QEMU tries userfaultfd itself when the capability is switched on.
        if let Err(error) = try_postcopy(target).await {
            obstacle(format!(
                "post-copy is impossible at the target: {error}; allow userfaultfd there \
                 (sysctl vm.unprivileged_userfaultfd=1, or run QEMU as root), or forbid post-copy \
                 with --allow-postcopy never"
            ));
        }
    }
    if !obstacles.is_empty() {
        return Ok(Err(obstacles));
    }
    Ok(Ok(Checked {
        was_running: source_state == RunState::Running,
        accelerator: if at_source.accelerator.kvm_enabled { "kvm" } else { "tcg" },
        qemu_version: source.client.version().to_string(),
        before: Some(before),
    }))
}

/// Switches post-copy on for an instant: one that an operator has waiting is left as it was until the run begins.
async fn try_postcopy(target: &Qemu) -> Result<(), droveway_qmp::QmpError> {
    let switch = |on| [(Capability::PostcopyRam, on)];
    let was_on = target.client.capabilities().await?.is_on(&Capability::PostcopyRam);
    target.client.set_capabilities(&switch(true)).await?;
    if !was_on {
        target.client.set_capabilities(&switch(false)).await?;
    }
    Ok(())
}

fn differences(source: &MachineFacts, target: &MachineFacts) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, source: String, target: String| {
        if source != target {
            found.push(format!("source and target differ in {what}: {source} and {target}"));
        }
    };
    compare("machine type", source.machine_type.clone(), target.machine_type.clone());
    compare("memory", source.memory.to_string(), target.memory.to_string());
    compare("vCPUs", source.vcpus.to_string(), target.vcpus.to_string());
    found
}

async fn missing_capabilities(
    qemu: &Qemu,
    postcopy: bool,
) -> Result<Vec<Capability>, droveway_qmp::QmpError> {
    let schema = qemu.client.probe().await?;
    let mut needed = vec![Capability::Events, Capability::ReturnPath];
    if postcopy {
        needed.extend([Capability::PostcopyRam, Capability::PostcopyPreempt]);
    }
    Ok(needed.into_iter().filter(|capability| !schema.has_capability(capability)).collect())
}

#[cfg(test)]
mod tests;
