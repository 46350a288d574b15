//! What was asked for, as an intent and as facts about VMs; and what there is to say of the answer before anything starts.

use crate::{
    cli::{self, IntentArgs},
    exit::{Exit, Failure},
    explain,
};
use droveway_fleet::{Fleet, FleetVm, HostId, Intent, Technique, TimeSpan, VmId, report::Decision};
use droveway_model::forecast::Forecast;
use droveway_plan::{
    EXPOSURE_MAX, GangFacts, Move, Note, Plan, Reasoning, VmFacts,
    adaptive::Verdict,
    check::{Violation, check},
    policy,
    replan::Wishes,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The named ones first, in the order named; the rest behind, as they were.
pub(crate) fn ordered(names: Vec<VmId>, order: &[String]) -> Result<Vec<VmId>, Failure> {
    let mut first = Vec::new();
    for name in order {
        let vm = cli::known(name, "VM to move", names.iter(), cli::vm_text)?.clone();
        if first.contains(&vm) {
            return Err(Failure::usage(format!("--order names VM '{vm}' twice")));
        }
        first.push(vm);
    }
    let rest: Vec<_> = names.into_iter().filter(|name| !first.contains(name)).collect();
    first.extend(rest);
    Ok(first)
}

pub(super) fn intent(
    fleet: &Fleet,
    verb: &str,
    source: &HostId,
    target: &HostId,
    moving: &[VmId],
    args: &IntentArgs,
) -> Result<Intent, Failure> {
    let mut techniques = BTreeMap::new();
    for (name, technique) in &args.technique {
        let all = fleet.spec.vms.iter().map(|vm| &vm.name);
        let vm = cli::known(name, "VM", all, cli::vm_text)?;
        if !moving.contains(vm) {
            return Err(Failure::usage(format!("--technique {name}: that VM is not moved")));
        }
        if techniques.insert(vm.clone(), *technique).is_some() {
            return Err(Failure::usage(format!("--technique names VM '{name}' twice")));
        }
    }
    Ok(Intent {
        verb: verb.to_owned(),
        source: source.clone(),
        target: target.clone(),
        vms: moving.to_vec(),
        policy: String::new(),
        techniques,
        max_parallel: args.max_parallel,
        max_downtime: args.max_downtime.unwrap_or_else(|| TimeSpan::from(policy::DOWNTIME_DEFAULT)),
        bandwidth: args.bandwidth,
        allow_postcopy: args.allow_postcopy.into(),
        max_passes: args.max_passes,
        urgency: args.urgency,
        deadline: args.deadline,
        max_exposed: args.max_exposed,
        floor: args.floor,
        reserve: args.reserve,
        shaping: false,
        tuning: false,
    })
}

/// VMs of the same groups as these, without these.
pub(super) fn of_their_groups<'a>(fleet: &'a Fleet, vms: &[VmId]) -> Vec<&'a FleetVm> {
    let is_named = |vm: &FleetVm| vms.contains(&vm.name);
    let all = || fleet.spec.vms.iter();
    let groups: BTreeSet<_> =
        all().filter(|vm| is_named(vm)).filter_map(|vm| vm.group.as_ref()).collect();
    let belongs = |vm: &&FleetVm| vm.group.as_ref().is_some_and(|group| groups.contains(group));
    all().filter(belongs).filter(|vm| !is_named(vm)).collect()
}

/// What is odd about a plan that moves named VMs, but no reason to refuse it: the operator may want just these. `left` stay
/// at the source.
pub(super) fn warnings(plan: &Plan, facts: &GangFacts, left: &[VmFacts]) -> Vec<String> {
    let mut all = facts.clone();
    for fact in left {
        if !all.vms.iter().any(|known| known.vm == fact.vm) {
            all.vms.push(fact.clone());
        }
    }
    let warning = |violation: Violation| {
        let Violation::GroupSplit { stay, .. } = &violation else { return None };
        let moved = plan.moves.iter().map(|step| &step.vm).chain(stay).map(VmId::as_str);
        let remedy = violation.remedy().unwrap_or_default();
        Some(format!(
            "{violation}; {remedy}: `droveway migrate {} --to {}`",
            moved.collect::<Vec<_>>().join(" "),
            plan.target
        ))
    };
    check(plan, &all).into_iter().filter_map(warning).collect()
}

/// Whose memory is expected to be split between two hosts for longer than drivers let it be; without a forecast, whose would be in all
/// of the port.
pub(super) fn long_exposures(
    plan: &Plan,
    facts: &GangFacts,
    forecast: Option<&Forecast>,
) -> Vec<String> {
    let most = EXPOSURE_MAX.duration();
    let lasts = |index: usize, step: &Move| {
        if let Some(forecast) = forecast {
            let seconds = forecast.moves.get(index)?.exposure_seconds.p50;
            return Duration::try_from_secs_f64(seconds).ok();
        }
        let fact = facts.vms.iter().find(|fact| fact.vm == step.vm)?;
        let at_once = step.technique == Technique::PostCopy;
        at_once.then(|| fact.memory / facts.port_rate.tcp_payload())
    };
    let minutes = |time: Duration| time.as_secs().div_ceil(60);
    let warning = |(index, step): (usize, &Move)| {
        let lasts = lasts(index, step).filter(|lasts| *lasts > most)?;
        let what = match step.technique {
            Technique::PostCopy => {
                "nothing holds a VM back that begins with post-copy; hybrid splits less"
            }
            _ => {
                "its switch waits until what is left arrives in time, and it stays where it is if that does not come"
            }
        };
        Some(format!(
            "{}: its memory would be split between two hosts for {} min, longer than {} min: {what}",
            step.vm,
            minutes(lasts),
            minutes(most)
        ))
    };
    plan.moves.iter().enumerate().filter_map(warning).collect()
}

pub(crate) fn vm_facts(vm: &FleetVm) -> VmFacts {
    VmFacts {
        vm: vm.name.clone(),
        memory: vm.memory,
        allow_postcopy: vm.allow_postcopy,
        max_downtime: vm.max_downtime.map(TimeSpan::duration),
        deadline: vm.deadline.map(TimeSpan::duration),
        group: vm.group.clone(),
    }
}

/// The refusal, where a planner found that no schedule keeps the deadlines.
pub(super) fn infeasible(reasoning: Option<&Reasoning>, hint: &str) -> Option<Failure> {
    let deadlines = reasoning?.deadlines.as_ref()?;
    let refused = matches!(deadlines.verdict, Verdict::Infeasible | Verdict::Impossible);
    refused.then(|| Failure::says(Exit::Infeasible, explain::deadlines(deadlines)).hint(hint))
}

/// What the planner decided, for the report.
pub(crate) fn decisions(notes: &[Note], reasoning: Option<&Reasoning>) -> Vec<Decision> {
    let noted = notes.iter().map(|note| Decision {
        at_seconds: 0.0,
        vm: Some(note.vm.clone()),
        reason: note.reason.clone(),
        inputs: format!("the policy says {}", note.instead_of),
        choice: note.choice.to_string(),
        runner_up: Some(note.instead_of.to_string()),
        margin: None,
    });
    let reasoned = reasoning.into_iter().flat_map(|reasoning| {
        reasoning.why.iter().map(|why| Decision {
            at_seconds: 0.0,
            vm: Some(why.vm.clone()),
            reason: why.reason.clone(),
            inputs: format!(
                "urgency {}, {} schedules played, chosen: {}",
                reasoning.urgency, reasoning.plays, reasoning.chosen
            ),
            choice: why.technique.to_string(),
            runner_up: why.runner_up.map(|other| other.technique.to_string()),
            margin: why.runner_up.map(|other| other.costs_more),
        })
    });
    noted.chain(reasoned).collect()
}

/// What was asked for in the end: a run is judged by what operators asked for while it was under way.
pub(super) fn amended(intent: &Intent, fleet: &Fleet, wishes: &Wishes) -> (Intent, Fleet) {
    let (mut intent, mut fleet) = (intent.clone(), fleet.clone());
    wishes.amend_intent(&mut intent);
    for vm in &mut fleet.spec.vms {
        if let Some(deadline) = wishes.deadline_of(&vm.name) {
            vm.deadline = deadline.map(TimeSpan::from);
        }
        if let Some(limit) = wishes.downtime.get(&Some(vm.name.clone())) {
            vm.max_downtime = Some(TimeSpan::from(*limit));
        }
    }
    (intent, fleet)
}
