//! `predict`: what each technique would cost each VM alone, and the gang together. Moves nothing.

use crate::{
    cli::{self, Output, PredictArgs},
    exit::{Exit, Failure},
    fleet, measure, outlook, state,
};
use droveway_fleet::{
    Bandwidth, Fleet, HostId, RateLimit, Snapshot, Technique, VmId, report::Quantiles,
};
use droveway_model::{
    calibration::Calibration,
    fluid::{Fluid, MoveModel, Start},
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
    /// Why it cannot be, or will not end by itself.
    reason: Option<String>,
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
    lost_bytes: Option<Quantiles>,
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
    let rate = |name: &HostId| fleet.spec.host(name.as_str()).map(|host| host.port.rate);
    let source = source.ok_or_else(|| Failure::usage("no VM was named"))?;
    let rate = rate(&source).into_iter().chain(rate(target)).min().unwrap_or(Bandwidth::ZERO);
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
            costs.push(case.alone(vm, *index, *technique));
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
        remarks: snapshot.remarks.clone(),
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

    fn alone(&mut self, vm: &VmId, index: usize, technique: Technique) -> Cost {
        if let Some(reason) = self.forbidden(vm, technique) {
            let reason = Some(reason);
            return Cost { vm: vm.clone(), technique, reason, forecast: None, lost_bytes: None };
        }
        let step = self.step(index, technique, Start::At(0.0), 1);
        let made = self.play(std::slice::from_ref(&step), 1);
        let forecast = made.moves.into_iter().next();
        let stays = forecast.as_ref().is_some_and(|forecast| forecast.ends == Ends::NotAtAll);
        Cost {
            vm: vm.clone(),
            technique,
            reason: stays.then(|| self.why_not(index, &step)),
            lost_bytes: Some(made.lost_bytes),
            forecast,
        }
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
            if forbidden.is_some() {
                costs.push(GangCost {
                    policy: one.name,
                    reason: forbidden,
                    total_seconds: None,
                    longest_downtime_seconds: None,
                    longest_outage_seconds: None,
                    lost_bytes: None,
                });
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
                lost_bytes: Some(made.lost_bytes),
            });
        }
        costs
    }
}

const MIB: f64 = 1_048_576.0;

fn seconds(range: Quantiles) -> String {
    format!("{:.2} s ({:.2}-{:.2})", range.p50, range.p10, range.p90)
}

fn milliseconds(range: Quantiles) -> String {
    format!("{:.0} ms ({:.0}-{:.0})", range.p50 * 1e3, range.p10 * 1e3, range.p90 * 1e3)
}

fn mebibytes(range: Quantiles) -> String {
    // Below a mebibyte there is nothing to weigh.
    if range.p90 < 0.5 * MIB {
        return "none".to_owned();
    }
    format!("{:.0} MiB ({:.0}-{:.0})", range.p50 / MIB, range.p10 / MIB, range.p90 / MIB)
}

#[expect(clippy::print_stdout, reason = "the command's data")]
fn print(prediction: &Prediction) {
    println!(
        "{} -> {}; snapshot of {}; learned from {} runs; p50 (p10-p90)",
        prediction.source, prediction.target, prediction.snapshot_taken_at, prediction.learned_from
    );
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "VM",
        "technique",
        "duration",
        "downtime",
        "outage",
        "migrated",
        "exposed",
        "applications lose",
    ]);
    for cost in &prediction.vms {
        let cell = |of: fn(&MoveForecast) -> String| {
            cost.forecast.as_ref().map_or_else(|| "-".to_owned(), of)
        };
        let lost = cost.lost_bytes.map_or_else(|| "-".to_owned(), mebibytes);
        let ends = cost.forecast.as_ref().is_some_and(|f| f.ends != Ends::NotAtAll);
        let or_dash = |text: String| if ends { text } else { "-".to_owned() };
        table.add_row([
            cost.vm.to_string(),
            cost.technique.to_string(),
            or_dash(cell(|f| seconds(f.duration_seconds))),
            or_dash(cell(|f| milliseconds(f.downtime_seconds))),
            or_dash(cell(|f| milliseconds(f.outage_seconds))),
            or_dash(cell(|f| mebibytes(f.bytes))),
            or_dash(cell(|f| format!("{:.2} s", f.exposure_seconds.p50))),
            or_dash(lost),
        ]);
    }
    println!("{table}");
    for cost in &prediction.vms {
        if let Some(reason) = &cost.reason {
            println!("{}, {}: {reason}", cost.vm, cost.technique);
        }
    }
    if prediction.gang.is_empty() {
        return;
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "all together",
        "total time",
        "longest downtime",
        "longest outage",
        "applications lose",
    ]);
    for cost in &prediction.gang {
        let longest = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{:.0} ms", value * 1e3))
        };
        table.add_row([
            cost.policy.to_owned(),
            cost.total_seconds.map_or_else(|| "-".to_owned(), seconds),
            longest(cost.longest_downtime_seconds),
            longest(cost.longest_outage_seconds),
            cost.lost_bytes.map_or_else(|| "-".to_owned(), mebibytes),
        ]);
    }
    println!("\n{table}");
    for cost in &prediction.gang {
        if let Some(reason) = &cost.reason {
            println!("{}: {reason}", cost.policy);
        }
    }
}
