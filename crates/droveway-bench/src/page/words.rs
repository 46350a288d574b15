//! What a report says, in sentences and tables.

use super::{
    blocks::{Block, Table},
    faults,
};
use crate::{
    compare::{Analysis, Arm, Bench, Comparison, Family, median_of, medians, over_line_rate},
    result::RunRow,
    stats::{LEVEL, PAIRS_LEAST, Paired, Summary, Verdict},
    suite::{Stage, Switch},
    targets::{MOVES_WANTED, Ports, Target, Unit},
};
use droveway_fleet::report::CPU_SATURATED;
use std::collections::BTreeSet;

pub(super) const HOW_COMPARED: &str = "Over the runs of the same scenario and repeat in which both moved every VM. Time and outage are ratios, ours over the \
     other's, so below 1 is better; loss is a difference in seconds of the port, so below 0 is better. In brackets the 95 % \
     interval of the Hodges-Lehmann estimate by bootstrap over pairs; + better, - worse, = the interval includes no \
     difference, ? too few pairs. Cliff's delta tells how much more often the first is above the second than below, from -1 to 1.";

pub(super) const HOW_ABLATED: &str = "The policy less one lever over the policy as it comes, at the same intent. A ratio above 1 (a difference above 0) is \
     what the lever gains.";

pub(super) const HOW_AIMED: &str = "Ratios are medians over runs of the same scenario and repeat in which both moved every VM, over scenarios with traffic or \
     writing whose world does not change, with 95 % intervals by bootstrap; the target counts where ports share fairly, and ports with one queue (fifo) are \
     told beside. Line rate leaves out the fixed costs of starting and switching over. Hard scenarios have three elastic flows or more in \
     one direction, or write a quarter of what the port carries. The outage is a ratio a scenario, over the least median outage \
     of the other policies that take at most 1.25 times as long.";

/// More would not be read; the tables have them all.
const TOLD_MAX: usize = 12;

pub(super) fn summary(bench: &Bench, analysis: &Analysis) -> Vec<String> {
    let mut said = Vec::new();
    let counts = &analysis.counts;
    let stage = match bench.resolved.suite.spec.stage {
        Stage::Lab => "on the laboratory (real QEMU VMs)",
        Stage::Simulator => "in the simulator",
    };
    said.push(format!(
        "{} of {} cells have a run that counts, {stage}; {} of {} VMs moved, {} were lost.",
        counts.counted, counts.cells, counts.completed, counts.moves, counts.lost
    ));
    if !counts.invalid.is_empty() {
        let reasons: Vec<String> =
            counts.invalid.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
        said.push(format!(
            "{} runs were made; of those that do not count: {}. {} cells were given up.",
            counts.runs,
            reasons.join(", "),
            counts.given_up
        ));
    }
    if let Some([middle, least]) = counts.cpu_idle {
        said.push(format!(
            "CPU time that was idle: {:.0} % in the middle, {:.0} % at the least; runs with less than {:.0} % do not count.",
            100.0 * middle,
            100.0 * least,
            100.0 * (1.0 - CPU_SATURATED)
        ));
    }
    for arm in analysis.arms.iter().filter(|arm| arm.family == Family::Ours) {
        said.extend(of_ours(arm, analysis));
    }
    said.extend(faults::summary(analysis));
    said.extend(aims(&analysis.targets));
    if let Some(of) = &analysis.forecasts {
        said.push(format!(
            "Forecasts of the total time: median error {:.1} %, {:.0} % of {} runs within the forecast's first and ninth decile.",
            100.0 * of.median_error,
            100.0 * of.within,
            of.runs
        ));
    }
    said
}

/// How many targets are met, and each that is not.
fn aims(targets: &[Target]) -> Vec<String> {
    let counting: Vec<&Target> = targets.iter().filter(|it| it.ports != Ports::Fifo).collect();
    if counting.is_empty() {
        return Vec::new();
    }
    let missed = || counting.iter().filter(|it| it.is_missed());
    let count = missed().count();
    let few = counting.iter().filter(|it| it.is_from_few()).count();
    let mut said = vec![format!(
        "Of {} targets of which there are data {} are met{}{}",
        counting.len(),
        counting.len() - count,
        if few > 0 {
            format!(
                "; {few} are judged from too little to be sure (fewer than {PAIRS_LEAST} pairs, or {MOVES_WANTED} moves)"
            )
        } else {
            String::new()
        },
        if count == 0 { "." } else { "; those that are missed follow." }
    )];
    said.extend(missed().map(|target| {
        let arm = target.arm.as_deref().unwrap_or("all arms of ours");
        let (found, limit) = (found(target), told_of(target, target.limit));
        format!(
            "Missed: {}, {arm}: {found} (of {}), wanted at most {limit} ({}).",
            target.aim.name(),
            target.of,
            target.standing().name()
        )
    }));
    said
}

fn told_of(target: &Target, value: f64) -> String {
    match target.aim.unit() {
        Unit::Ratio => format!("{value:.2}"),
        Unit::Milliseconds => format!("{:.0}", 1000.0 * value),
        Unit::Count => format!("{value:.0}"),
    }
}

/// What came, with its interval.
fn found(target: &Target) -> String {
    let middle = told_of(target, target.found);
    target.interval.map_or(middle.clone(), |interval| {
        format!("{middle} [{}, {}]", told_of(target, interval.low), told_of(target, interval.high))
    })
}

pub(super) fn targets<'a>(analysis: &Analysis) -> Block<'a> {
    let header = ["target", "arm", "ports", "verdict", "at most", "found", "of"];
    let mut table = Table::new(&header, 4);
    for target in &analysis.targets {
        table.rows.push(vec![
            target.aim.name().to_owned(),
            target.arm.clone().unwrap_or_else(|| "all of ours".to_owned()),
            target.ports.name().to_owned(),
            if target.is_from_few() {
                format!("{}, from few", target.standing().name())
            } else {
                target.standing().name().to_owned()
            },
            told_of(target, target.limit),
            found(target),
            target.of.to_string(),
        ]);
    }
    Block::Table(table)
}

/// Arms that lack runs in some scenarios: their medians over all are of other scenarios than the others'.
pub(super) fn uneven(bench: &Bench, analysis: &Analysis) -> Option<String> {
    let scenarios = || bench.resolved.suite.spec.scenarios.iter().map(|it| it.name.as_str());
    let has = |arm: &Arm, scenario: &str| medians(bench, scenario, &arm.name).is_some();
    let shown: Vec<&str> =
        scenarios().filter(|scenario| analysis.arms.iter().any(|arm| has(arm, scenario))).collect();
    let lacking: Vec<String> = analysis
        .arms
        .iter()
        .filter_map(|arm| {
            let missing: Vec<&str> =
                shown.iter().copied().filter(|scenario| !has(arm, scenario)).collect();
            (!missing.is_empty())
                .then(|| format!("{} has none in {}", arm.name, missing.join(", ")))
        })
        .collect();
    (!lacking.is_empty()).then(|| {
        format!(
            "Not every arm has a run that counts and moved every VM in every scenario, so medians over all of them do not \
             compare the same work: {}. Pairs and the tables by scenario do.",
            lacking.join("; ")
        )
    })
}

/// One arm of ours in a sentence.
fn of_ours(arm: &Arm, analysis: &Analysis) -> Option<String> {
    let time = arm.over_line_rate.as_ref()?;
    let against = |verdict: Verdict, of: fn(&Comparison) -> &Option<Paired>| {
        let own = analysis.comparisons.iter().filter(|it| it.one == arm.name);
        own.filter_map(|it| of(it).as_ref()).filter(|paired| paired.verdict == verdict).count()
    };
    let others = analysis.comparisons.iter().filter(|it| it.one == arm.name).count();
    let enough = analysis.comparisons.iter().filter(|it| {
        it.one == arm.name && it.measures().any(|(_, paired)| paired.verdict != Verdict::TooFew)
    });
    let enough = enough.count();
    let mut text = format!("{}: {:.2} times line rate", arm.name, time.median);
    if let Some(lost) = &arm.lost_port_seconds {
        text += &format!(", {:.2} s of the port lost", lost.median);
    }
    if let Some(downtime) = &arm.downtime_seconds {
        text += &format!(
            ", downtime {:.0} ms (99th percentile {:.0} ms)",
            1000.0 * downtime.median,
            1000.0 * downtime.p99
        );
    }
    if let Some(outage) = &arm.outage_seconds {
        text += &format!(", outage {:.0} ms", 1000.0 * outage.median);
    }
    if others > 0 && enough == 0 {
        text += "; too few pairs to call it better or worse than others";
    } else if others > 0 {
        let time: fn(&Comparison) -> &Option<Paired> = |it| &it.time;
        let lost: fn(&Comparison) -> &Option<Paired> = |it| &it.lost;
        text += &format!(
            "; of {enough} other arms it is faster than {} and slower than {}, loses less than {} and more than {}",
            against(Verdict::Less, time),
            against(Verdict::More, time),
            against(Verdict::Less, lost),
            against(Verdict::More, lost)
        );
    }
    Some(text + ".")
}

pub(super) fn losses(analysis: &Analysis) -> Vec<String> {
    let mut said = Vec::new();
    let mut compared = analysis.comparisons.iter().flat_map(Comparison::measures);
    let too_few = compared.all(|(_, paired)| paired.verdict == Verdict::TooFew);
    let lost = analysis.lost();
    for (comparison, name, paired) in lost.iter().take(TOLD_MAX) {
        let worse = if *name == "lost bytes" {
            format!("{:+.2} seconds of the port", paired.estimate)
        } else {
            format!("{:.2} times", paired.estimate)
        };
        said.push(format!(
            "{} is worse than {} in {name}: {worse} ({} pairs).",
            comparison.one, comparison.other, paired.pairs
        ));
    }
    if lost.len() > TOLD_MAX {
        said.push(format!("And {} more: see the comparisons below.", lost.len() - TOLD_MAX));
    }
    for of in analysis.dominated.iter().take(TOLD_MAX) {
        said.push(format!(
            "In {}, {} is behind {} in time, loss and silence at once: {:.1} s, {:.2} s of the port, {:.2} s against {:.1} s, \
             {:.2} s, {:.2} s (medians).",
            of.scenario, of.ours, of.by, of.own[0], of.own[1], of.own[2], of.others[0], of.others[1], of.others[2]
        ));
    }
    if analysis.dominated.len() > TOLD_MAX {
        let more = analysis.dominated.len() - TOLD_MAX;
        said.push(format!("And {more} more such cells: see `dominated` in results.json."));
    }
    if said.is_empty() {
        said.push(if analysis.comparisons.is_empty() {
            "Nothing is compared: the suite has no policy of ours beside others.".to_owned()
        } else if too_few {
            format!("There are fewer than {PAIRS_LEAST} pairs: too few to call anything better or worse.")
        } else {
            "In no measure is the interval of a difference wholly on the other's side, and in no scenario is an arm of ours \
             behind another in everything at once."
                .to_owned()
        });
    }
    said
}

fn number(summary: Option<&Summary>, scale: f64, digits: usize) -> String {
    let Some(of) = summary else { return "-".to_owned() };
    let told = |value: f64| format!("{:.digits$}", scale * value);
    match of.interval {
        Some(interval) => {
            format!("{} [{}, {}]", told(of.median), told(interval.low), told(interval.high))
        }
        None => told(of.median),
    }
}

pub(super) fn arms<'a>(analysis: &Analysis) -> Block<'a> {
    let header = [
        "arm",
        "what",
        "runs",
        "moved",
        "x line rate",
        "total s",
        "lost, port s",
        "worst outage s",
        "downtime ms",
        "its p99",
        "outage ms",
        "its p99",
    ];
    let mut table = Table::new(&header, 2);
    let far = |of: Option<&Summary>| {
        of.map_or_else(|| "-".to_owned(), |of| format!("{:.0}", 1000.0 * of.p99))
    };
    for arm in &analysis.arms {
        table.rows.push(vec![
            arm.name.clone(),
            arm.family.name().to_owned(),
            arm.runs.to_string(),
            format!("{}/{}", arm.completed, arm.moves),
            number(arm.over_line_rate.as_ref(), 1.0, 2),
            number(arm.total_seconds.as_ref(), 1.0, 1),
            number(arm.lost_port_seconds.as_ref(), 1.0, 2),
            number(arm.worst_outage_seconds.as_ref(), 1.0, 2),
            number(arm.downtime_seconds.as_ref(), 1000.0, 0),
            far(arm.downtime_seconds.as_ref()),
            number(arm.outage_seconds.as_ref(), 1000.0, 0),
            far(arm.outage_seconds.as_ref()),
        ]);
    }
    Block::Table(table)
}

pub(super) fn comparisons<'a>(comparisons: &[Comparison]) -> Block<'a> {
    let header = [
        "one",
        "other",
        "pairs",
        "time ratio",
        "Cliff",
        "lost, port s",
        "Cliff",
        "outage ratio",
        "Cliff",
    ];
    let mut table = Table::new(&header, 2);
    for of in comparisons {
        let pairs = of.measures().map(|(_, paired)| paired.pairs).max().unwrap_or(0);
        let mut row = vec![of.one.clone(), of.other.clone(), pairs.to_string()];
        for paired in [&of.time, &of.lost, &of.outage] {
            row.extend(paired.as_ref().map_or_else(
                || ["-".to_owned(), "-".to_owned()],
                |paired| [told(paired), format!("{:+.2}", paired.delta)],
            ));
        }
        table.rows.push(row);
    }
    Block::Table(table)
}

fn told(paired: &Paired) -> String {
    let sign = match paired.verdict {
        Verdict::Less => "+",
        Verdict::More => "-",
        Verdict::Same => "=",
        Verdict::TooFew => "?",
    };
    match paired.interval {
        Some(interval) => {
            format!("{sign} {:.2} [{:.2}, {:.2}]", paired.estimate, interval.low, interval.high)
        }
        None => format!("{sign} {:.2}", paired.estimate),
    }
}

/// Medians by scenario: total time, loss and worst outage in one cell each.
pub(super) fn scenarios<'a>(bench: &Bench, analysis: &Analysis) -> Block<'a> {
    let header = [
        "scenario",
        "arm",
        "total s",
        "x line rate",
        "lost, port s",
        "worst outage s",
        "CPU busy %",
    ];
    let mut table = Table::new(&header, 2);
    for scenario in &bench.resolved.suite.spec.scenarios {
        for arm in &analysis.arms {
            let Some([time, lost, outage]) = medians(bench, scenario.name.as_str(), &arm.name)
            else {
                continue;
            };
            let of = |value: fn(&RunRow) -> Option<f64>, scale: f64, digits: usize| {
                let middle = median_of(bench, scenario.name.as_str(), &arm.name, value);
                middle.map_or_else(|| "-".to_owned(), |it| format!("{:.digits$}", scale * it))
            };
            table.rows.push(vec![
                scenario.name.to_string(),
                arm.name.clone(),
                format!("{time:.2}"),
                of(over_line_rate, 1.0, 2),
                format!("{lost:.2}"),
                format!("{outage:.3}"),
                of(|run| run.cpu_busy_ratio, 100.0, 0),
            ]);
        }
    }
    Block::Table(table)
}

pub(super) fn environment(bench: &Bench, analysis: &Analysis) -> Vec<String> {
    let spec = &bench.resolved.suite.spec;
    let mut said = vec![format!(
        "Suite {}: {} scenarios, {} repeats, seed {}; {} runs made, {} count.",
        bench.resolved.suite.metadata.name,
        spec.scenarios.len(),
        spec.repeats,
        spec.seed,
        analysis.counts.runs,
        analysis.counts.counted
    )];
    let limits = &spec.limits;
    said.push(format!(
        "Every policy got these limits explicitly: downtime {}, bandwidth of a stream {}, {} passes, post-copy {}.",
        limits.max_downtime,
        limits.bandwidth,
        limits.max_passes,
        if limits.allow_postcopy { "allowed" } else { "not allowed" }
    ));
    let runs = || bench.results.iter().filter_map(|it| it.run());
    let machines: BTreeSet<String> = runs()
        .map(|run| {
            let (what, qemu) = (&run.accelerator, &run.qemu_version);
            format!("accelerator {what}, QEMU {qemu}, kernel {}", run.kernel_version)
        })
        .collect();
    said.extend(machines);
    let starts = runs().map(|run| run.started_at.as_str());
    if let (Some(first), Some(last)) = (starts.clone().min(), starts.max())
        && first != last
    {
        said.push(format!("First run {first}, last {last}."));
    }
    said.push(format!("Intervals are {:.0} % intervals by seeded bootstrap.", 100.0 * LEVEL));
    said
}

pub(super) fn policies<'a>(bench: &Bench) -> Block<'a> {
    let header =
        ["policy", "as asked for", "source", "tuning", "planned again", "shaping", "reserve"];
    let mut table = Table::new(&header, header.len());
    let ours = |switch: Switch, of: bool| match (switch, of) {
        (Switch::Auto, true) | (Switch::On, _) => "on".to_owned(),
        (Switch::Auto, false) | (Switch::Off, _) => "off".to_owned(),
    };
    let is_simulated = bench.resolved.suite.spec.stage == Stage::Simulator;
    for of in &bench.resolved.suite.spec.policies {
        table.rows.push(vec![
            of.name().to_owned(),
            of.policy.clone(),
            of.source().to_owned(),
            ours(of.tuning, of.is_ours()),
            match (of.replan, of.is_ours() && is_simulated) {
                // Where nothing changes there is nothing to plan again for.
                (Switch::Auto, true) if bench.resolved.has_changes() => {
                    "where the world changes".to_owned()
                }
                (Switch::Auto, true) => "off".to_owned(),
                _ => ours(of.replan, of.is_ours()),
            },
            if of.shaping { "allowed" } else { "off" }.to_owned(),
            of.reserve.to_string(),
        ]);
    }
    Block::Table(table)
}
