//! A plan as the fluid model plays it.

use crate::plan::{Fallback, Move, Plan, StartRule};
use droveway_fleet::{Bandwidth, HostId, RateLimit, VmId};
use droveway_model::{
    fluid::{MoveModel, Start},
    world::World,
};
use thiserror::Error;

/// Why a plan cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlayError {
    /// The snapshot does not know a VM of the plan.
    #[error("the snapshot does not know VM '{0}'")]
    UnknownVm(VmId),
    /// The snapshot does not know the target.
    #[error("the snapshot does not know host '{0}'")]
    UnknownHost(HostId),
    /// The snapshot saw a VM elsewhere.
    #[error("the snapshot saw VM '{vm}' elsewhere than on host '{source_host}'")]
    Elsewhere {
        /// The VM.
        vm: VmId,
        /// Where the plan takes it to be.
        source_host: HostId,
    },
}

/// The plan's moves in `world`, in the plan's order, and the room of their window.
///
/// # Errors
/// [`PlayError`] when plan and world are about different things.
pub fn moves(plan: &Plan, world: &World) -> Result<(Vec<MoveModel>, Vec<usize>), PlayError> {
    let host = |name: &HostId| world.host(name).ok_or_else(|| PlayError::UnknownHost(name.clone()));
    let (source, target) = (host(&plan.source)?, host(&plan.target)?);
    let mut moves = Vec::new();
    for step in &plan.moves {
        let vm = world.vm(&step.vm).ok_or_else(|| PlayError::UnknownVm(step.vm.clone()))?;
        if world.gang.vms[vm].host != source {
            return Err(PlayError::Elsewhere {
                vm: step.vm.clone(),
                source_host: plan.source.clone(),
            });
        }
        moves.push(MoveModel {
            vm,
            target,
            technique: step.technique,
            start: start(plan, step)?,
            bandwidth: ceiling(step.bandwidth),
            postcopy_bandwidth: ceiling(step.postcopy_bandwidth),
            switchover_bandwidth: bytes(step.switchover_bandwidth),
            // A rule may raise it later, of which the forecast knows nothing.
            downtime_limit: step.first_downtime_limit().as_secs_f64(),
            max_passes: step.max_passes.min(PASSES_PLAYED),
            fallback_postcopy: step.fallback == Fallback::PostCopy,
            switch_after_pass: step.switch.after_pass,
            stalled_ratio: step.switch.stalled_ratio,
            weight: 1.0,
            throttle: step.throttle,
        });
    }
    Ok((moves, vec![plan.concurrency as usize]))
}

/// The check sees to it that nobody waits for a VM that is not moved; a play of such a plan would never start it.
fn start(plan: &Plan, step: &Move) -> Result<Start, PlayError> {
    match &step.start {
        // Nobody starts before the gang does.
        StartRule::InWindow => Ok(plan.start_after.map_or(Start::InWindow(0), |after| {
            Start::InWindowFrom { window: 0, from: after.duration().as_secs_f64() }
        })),
        StartRule::AfterEnd(vm) => {
            let index = plan.moves.iter().position(|other| other.vm == *vm);
            let index = index.ok_or_else(|| PlayError::UnknownVm(vm.clone()))?;
            Ok(Start::AfterEnd { step: index, delay: 0.0 })
        }
    }
}

/// A rule that ends a pre-copy is not part of the model: one that has not converged after so many passes will not.
const PASSES_PLAYED: u32 = 100;

fn ceiling(limit: RateLimit) -> f64 {
    limit.bandwidth().map_or(f64::INFINITY, bytes)
}

#[expect(clippy::cast_precision_loss, reason = "a rate far below 2^53")]
fn bytes(rate: Bandwidth) -> f64 {
    rate.bytes_per_second() as f64
}
