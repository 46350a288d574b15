//! `predict`: what each technique would cost each VM alone, and the gang together. Moves nothing.

mod table;

use crate::{
    cli::{self, Output, PredictArgs},
    exit::{Exit, Failure},
    fleet, measure, outlook, state,
};
use droveway_fleet::{Fleet, HostId, RateLimit, Snapshot, Technique, VmId, report::Quantiles};
use droveway_model::{
    calibration::Calibration,
    fluid::{Fluid, Gang, MoveModel, Start},
    forecast::{Ends, Forecast, MoveForecast, forecast},
    world::{World, payload},
};
use droveway_plan::{HYBRID_DOWNTIME, policy};
use serde::Serialize;
use std::path::Path;

/// What one technique would cost one VM alone.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    vm: VmId,
    technique: Technique,
    /// QEMU slows the guest down when it does not converge (`auto-converge`).
    throttled: bool,
    /// Why it cannot be, or will not end by itself.
    reason: Option<String>,
    /// The share of its CPU time that a throttled guest lacks in the end.
    throttle_ratio: Option<f64>,
    /// None when it is not allowed.
    forecast: Option<MoveForecast>,
    /// Bytes that applications do not get.
    lost_bytes: Option<Quantiles>,
}

/// What one way of moving all of them would cost.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct GangCost {
    policy: &'static str,
    reason: Option<String>,
    total_seconds: Option<Quantiles>,
    longest_downtime_seconds: Option<f64>,
    longest_outage_seconds: Option<f64>,
    /// Sent for all of them.
    bytes: Option<Quantiles>,
    /// Memory split between two hosts: seconds of all VMs together.
    exposure_seconds: Option<Quantiles>,
    lost_bytes: Option<Quantiles>,
}

impl GangCost {
    fn forbidden(policy: &'static str, reason: String) -> Self {
        GangCost {
            policy,
            reason: Some(reason),
            total_seconds: None,
            longest_downtime_seconds: None,
            longest_outage_seconds: None,
            bytes: None,
            exposure_seconds: None,
            lost_bytes: None,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Prediction {
    source: HostId,
    target: HostId,
    snapshot_taken_at: String,
    /// Runs that the model has learned from.
    learned_from: usize,
    vms: Vec<Cost>,
    gang: Vec<GangCost>,
    remarks: Vec<String>,
}

pub(crate) fn run(
    args: &PredictArgs,
    fleet: Option<&Path>,
    calibration: Option<&Path>,
    output: Output,
) -> Result<Exit, Failure> {
    let fleet = fleet::load(fleet)?;
    let hosts = fleet.spec.hosts.iter().map(|host| &host.name);
    let target = cli::known(&args.to, "host", hosts, cli::host_text)?.clone();
    let vms = named(&fleet, &args.vms)?;
    let Some(snapshot) = measure::snapshot_for(&fleet, &args.source)? else {
        return Ok(Exit::Interrupted);
    };
    let calibration = state::calibration(&state::calibration_path(&fleet, calibration))?;
    let prediction = predict(args, &fleet, &snapshot, &calibration, &vms, &target)?;
    if output == Output::Table {
        print(&prediction);
    } else {
        cli::print_data(&prediction, output)?;
    }
    Ok(Exit::Done)
}

#[expect(clippy::print_stdout, reason = "the command's data")]
fn print(prediction: &Prediction) {
    print!("{}", table::render(prediction));
}

/// The VMs by name; no name is named twice.
fn named(fleet: &Fleet, names: &[String]) -> Result<Vec<VmId>, Failure> {
    let all = fleet.spec.vms.iter().map(|vm| &vm.name);
    let mut vms: Vec<VmId> = Vec::new();
    for name in names {
        let vm = cli::known(name, "VM", all.clone(), cli::vm_text)?.clone();
        if vms.contains(&vm) {
            return Err(Failure::usage(format!("VM '{vm}' is named twice")));
        }
        vms.push(vm);
    }
    Ok(vms)
}

/// Everything that does not change between two techniques.
struct Case<'a> {
    args: &'a PredictArgs,
    fleet: &'a Fleet,
    world: World,
    calibration: &'a Calibration,
    target: usize,
    fluid: Fluid,
    /// What the slower port carries of payload.
    payload: f64,
}

fn predict(
    args: &PredictArgs,
    fleet: &Fleet,
    snapshot: &Snapshot,
    calibration: &Calibration,
    vms: &[VmId],
    target: &HostId,
) -> Result<Prediction, Failure> {
    let mut world = World::of(snapshot, calibration.constants);
    if let Some(share) = args.reserved {
        outlook::hold(&mut world, share.get());
    }
    let remeasure = "measure again: `droveway measure`, or --measure 5s";
    let missing = |what: String| Failure::usage(what).hint(remeasure);
    let target_index = world
        .host(target)
        .ok_or_else(|| missing(format!("the snapshot does not know host '{target}'")))?;
    let mut source = None;
    let mut indexes = Vec::new();
    for vm in vms {
        let index =
            world.vm(vm).ok_or_else(|| missing(format!("the snapshot does not know VM '{vm}'")))?;
        let host = &snapshot.vms[index].host;
        if host == target {
            return Err(Failure::says(
                Exit::Blocked,
                format!("VM '{vm}' was on host '{target}' already"),
            )
            .hint(remeasure));
        }
        match &source {
            Some(other) if other != host => {
                return Err(Failure::usage(format!(
                    "VM '{vm}' is on host '{host}', the others on '{other}': one run moves VMs of one \
                     host"
                )));
            }
            _ => source = Some(host.clone()),
        }
        indexes.push(index);
    }
    let source = source.ok_or_else(|| Failure::usage("no VM was named"))?;
    let ends = [&source, target].map(|name| fleet.spec.host(name.as_str())).into_iter().flatten();
    let rates = ends.map(|host| (host, measure::port_rate(host, Some(snapshot))));
    let mut remarks = snapshot.remarks.clone();
    let slower = rates.clone().filter(|(host, rate)| *rate < host.port.rate);
    remarks.extend(slower.map(|(host, rate)| {
        format!(
            "counted with {rate} at the port of host '{}', as measured, not with the fleet's {}",
            host.name, host.port.rate
        )
    }));
    let rate = rates.map(|(_, rate)| rate).min().unwrap_or_default();
    let mut case = Case {
        args,
        fleet,
        world,
        calibration,
        target: target_index,
        fluid: Fluid::default(),
        payload: payload(rate),
    };
    let techniques: Vec<Technique> =
        args.technique.map_or_else(|| Technique::ALL.to_vec(), |one| vec![one]);
    let mut costs = Vec::new();
    for (vm, index) in vms.iter().zip(&indexes) {
        for technique in &techniques {
            costs.push(case.alone(vm, *index, *technique, false));
            if *technique == Technique::PreCopy {
                costs.push(case.alone(vm, *index, *technique, true));
            }
        }
    }
    let gang = if vms.len() > 1 { case.together(vms, &indexes) } else { Vec::new() };
    Ok(Prediction {
        source,
        target: target.clone(),
        snapshot_taken_at: snapshot.taken_at.clone(),
        learned_from: calibration.records.iter().filter(|record| !record.held_out).count(),
        vms: costs,
        gang,
        remarks,
    })
}

impl Case<'_> {
    fn step(&self, index: usize, technique: Technique, start: Start, at_once: usize) -> MoveModel {
        let ceiling = |limit: RateLimit| {
            #[expect(clippy::cast_precision_loss, reason = "a rate far below 2^53")]
            limit.bandwidth().map_or(f64::INFINITY, |rate| rate.bytes_per_second() as f64)
        };
        #[expect(clippy::cast_precision_loss, reason = "some VMs")]
        let share = self.payload / at_once as f64;
        let own = self.fleet.spec.vms.iter().find(|vm| self.world.vm(&vm.name) == Some(index));
        let asked = self
            .args
            .max_downtime
            .map_or(policy::DOWNTIME_DEFAULT, droveway_fleet::TimeSpan::duration);
        let limit =
            own.and_then(|vm| vm.max_downtime).map_or(asked, |own| own.duration().min(asked));
        let limit = if technique == Technique::Hybrid { limit.min(HYBRID_DOWNTIME) } else { limit };
        MoveModel {
            vm: index,
            target: self.target,
            technique,
            start,
            bandwidth: ceiling(self.args.bandwidth),
            postcopy_bandwidth: ceiling(self.args.bandwidth),
            switchover_bandwidth: share,
            downtime_limit: limit.as_secs_f64(),
            max_passes: self.args.max_passes,
            // What pre-copy itself can do is the question here.
            fallback_postcopy: false,
            switch_after_pass: policy::HYBRID_RULE.after_pass,
            stalled_ratio: f64::INFINITY,
            weight: 1.0,
            throttle: false,
        }
    }

    fn forbidden(&self, vm: &VmId, technique: Technique) -> Option<String> {
        let allowed = self.fleet.spec.vm(vm.as_str()).is_none_or(|vm| vm.allow_postcopy);
        (technique.exposes() && !allowed)
            .then(|| format!("{vm} forbids post-copy (allowPostcopy: false)"))
    }

    fn play(&mut self, moves: &[MoveModel], window: usize) -> Forecast {
        forecast(&self.world, moves, &[window], self.calibration, &mut self.fluid)
    }

    fn alone(&mut self, vm: &VmId, index: usize, technique: Technique, throttled: bool) -> Cost {
        let mut cost = Cost {
            vm: vm.clone(),
            technique,
            throttled,
            reason: self.forbidden(vm, technique),
            throttle_ratio: None,
            forecast: None,
            lost_bytes: None,
        };
        if cost.reason.is_some() {
            return cost;
        }
        let mut step = self.step(index, technique, Start::At(0.0), 1);
        step.throttle = throttled;
        let made = self.play(std::slice::from_ref(&step), 1);
        cost.lost_bytes = Some(made.lost_bytes);
        cost.forecast = made.moves.into_iter().next();
        let stays = cost.forecast.as_ref().is_some_and(|forecast| forecast.ends == Ends::NotAtAll);
        cost.reason = stays.then(|| self.why_not(index, &step));
        if throttled {
            let gang = Gang {
                moves: vec![step],
                windows: vec![1],
                constants: self.calibration.constants,
                ..self.world.gang.clone()
            };
            cost.throttle_ratio = Some(self.fluid.play(&gang).moves[0].throttle);
        }
        cost
    }

    /// Why pre-copy does not end: what each pass leaves in the end, against what the downtime allows.
    fn why_not(&self, index: usize, step: &MoveModel) -> String {
        let rate = self.payload.min(step.bandwidth).max(1.0);
        let vm = &self.world.gang.vms[index];
        let left = droveway_model::technique::standstill(&vm.curve, vm.send_bytes, rate);
        format!(
            "does not converge in {} passes: at best each leaves {:.1} MiB, the downtime limit allows \
             {:.1} MiB; a limit of {:.0} ms would do",
            step.max_passes,
            left / MIB,
            step.switchover_bandwidth * step.downtime_limit / MIB,
            left / step.switchover_bandwidth * 1000.0,
        )
    }

    fn together(&mut self, vms: &[VmId], indexes: &[usize]) -> Vec<GangCost> {
        let mut costs = Vec::new();
        for one in policy::POLICIES {
            let Some((technique, parallel)) = one.plainly() else { continue };
            if self.args.technique.is_some_and(|wanted| wanted != technique) {
                continue;
            }
            let at_once = if parallel { vms.len() } else { 1 };
            let forbidden = vms.iter().find_map(|vm| self.forbidden(vm, technique));
            if let Some(reason) = forbidden {
                costs.push(GangCost::forbidden(one.name, reason));
                continue;
            }
            let moves: Vec<_> = indexes
                .iter()
                .map(|index| self.step(*index, technique, Start::InWindow(0), at_once))
                .collect();
            let made = self.play(&moves, at_once);
            let stay: Vec<_> = vms
                .iter()
                .zip(&made.moves)
                .filter(|(_, forecast)| forecast.ends == Ends::NotAtAll)
                .map(|(vm, _)| vm.as_str())
                .collect();
            let longest = |of: fn(&MoveForecast) -> Quantiles| {
                made.moves.iter().map(|forecast| of(forecast).p50).max_by(f64::total_cmp)
            };
            let reason = (!stay.is_empty())
                .then(|| format!("does not converge, stays at the source: {}", stay.join(", ")));
            costs.push(GangCost {
                policy: one.name,
                reason,
                total_seconds: Some(made.total_seconds),
                longest_downtime_seconds: longest(|forecast| forecast.downtime_seconds),
                longest_outage_seconds: longest(|forecast| forecast.outage_seconds),
                bytes: Some(sum(&made.moves, |forecast| forecast.bytes)),
                exposure_seconds: Some(sum(&made.moves, |forecast| forecast.exposure_seconds)),
                lost_bytes: Some(made.lost_bytes),
            });
        }
        costs
    }
}

/// What all moves come to. They share ports and constants, so what makes one larger makes the others larger: quantiles add up.
fn sum(moves: &[MoveForecast], of: fn(&MoveForecast) -> Quantiles) -> Quantiles {
    let zero = Quantiles { p10: 0.0, p50: 0.0, p90: 0.0 };
    moves.iter().map(of).fold(zero, |sum, one| Quantiles {
        p10: sum.p10 + one.p10,
        p50: sum.p50 + one.p50,
        p90: sum.p90 + one.p90,
    })
}

const MIB: f64 = 1_048_576.0;

#[cfg(test)]
mod tests;
