//! Drawing a schedule. A new kind of fault at the end of the list changes what seeds mean, as any change here does: a seed is
//! of the commit that printed it.

use super::{FaultSchedule, Timed};
use crate::{Fault, chance::Chance};
use droveway_drive::Side;
use droveway_fleet::{
    Bandwidth, Bytes, EndpointId, HostId, Scenario, Urgency, VmId, document, scenario::ScenarioSpec,
};
use std::fmt::Write as _;

/// Ports, Mbit/s.
const RATES: [u32; 4] = [100, 200, 400, 1000];
/// Memory, MiB.
const MEMORIES: [u32; 3] = [256, 384, 512];
/// At most so many VMs.
const VMS_MAX: usize = 4;
/// What an idle VM sends, bits: how long a gang takes about.
const VM_BITS: f64 = 1e9;
/// Policies whose attempts end by themselves, whatever a guest writes.
const PLAIN: [&str; 7] = [
    "pre-copy-serial",
    "pre-copy-parallel",
    "post-copy-serial",
    "post-copy-parallel",
    "hybrid-serial",
    "hybrid-parallel",
    "stop-and-copy",
];

pub(super) fn schedule(seed: u64) -> FaultSchedule {
    let mut chance = Chance::new(seed ^ 0xfa17_0000);
    let rate = RATES[chance.below(RATES.len())];
    let count = 1 + chance.below(VMS_MAX);
    let (scenario, applications) = scenario(&mut chance, rate, count);
    let adaptive = chance.below(8) == 0;
    let policy = if adaptive { "adaptive" } else { PLAIN[chance.below(PLAIN.len())] };
    let urgency = Urgency::ALL[chance.below(Urgency::ALL.len())];
    let max_parallel = (chance.below(4) == 0).then_some(2);
    let deadline_ratio = (adaptive && chance.below(2) == 0).then(|| chance.between(1.0, 2.0));
    let reserve =
        (chance.below(3) == 0).then(|| megabits(chance.between(0.3, 0.8) * f64::from(rate)));
    let (tuning, replans) = (chance.below(2) == 0, chance.below(4) == 0);
    let about = f64::from(u32::try_from(count).unwrap_or(1)) * VM_BITS / (f64::from(rate) * 1e6);
    let mut faults = Vec::new();
    let mut before = None;
    for _ in 0..chance.below(5) {
        // Often right behind another: what two faults do together nobody thinks of.
        let at_seconds = match before.filter(|_| chance.below(3) == 0) {
            Some(at) => at + chance.between(0.0, 0.6),
            None => chance.between(0.0, 1.3 * about + 1.0),
        };
        before = Some(at_seconds);
        let fault = fault(&mut chance, rate, count, &applications);
        if let Fault::KillController { seconds, between: true } = fault
            && chance.below(3) == 0
        {
            // Who takes over is killed in turn.
            let again = Fault::KillController { seconds, between: false };
            let first = at_seconds;
            let at_seconds = first + seconds + chance.between(0.0, 0.3);
            faults.push(Timed { at_seconds: first, fault });
            faults.push(Timed { at_seconds, fault: again });
            continue;
        }
        faults.push(Timed { at_seconds, fault });
    }
    // Here and there a witness of the path is missing.
    let (kernel_counts, heartbeats) = (chance.below(8) > 0, chance.below(4) > 0);
    FaultSchedule {
        seed,
        scenario,
        policy: policy.to_owned(),
        urgency,
        max_parallel,
        deadline_ratio,
        reserve,
        tuning,
        replans,
        kernel_counts,
        heartbeats,
        faults,
    }
}

fn megabits(rate: f64) -> Bandwidth {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a port's rate")]
    Bandwidth::from_bits_per_second(rate.max(1.0) as u64 * 1_000_000)
}

fn scenario(chance: &mut Chance, rate: u32, count: usize) -> (Scenario, Vec<EndpointId>) {
    let (mut vms, mut traffic) = (String::new(), String::new());
    let mut applications = Vec::new();
    for vm in 0..count {
        let memory = MEMORIES[chance.below(MEMORIES.len())];
        let postcopy = chance.below(5) > 0;
        let _ = write!(
            vms,
            "{{ name: vm{vm}, host: alpha, memory: {memory}MiB, allowPostcopy: {postcopy}"
        );
        if chance.below(2) == 0 {
            let (set, writes) = (10 + chance.below(80), 1 + chance.below(30));
            let _ =
                write!(vms, ", memoryLoad: {{ workingSet: {set}MiB, writeRate: {writes}MiB/s }}");
        }
        vms.push_str(" }, ");
        if chance.below(2) == 0 {
            let outward = chance.below(2) == 0;
            let (from, to) =
                if outward { (format!("vm{vm}"), "client") } else { ("client".to_owned(), "") };
            let to = if outward { to.to_owned() } else { format!("vm{vm}") };
            let limit = match chance.below(3) {
                0 => "unlimited".to_owned(),
                part => format!("{}Mbit/s", (rate as usize * part / 5).max(1)),
            };
            let _ = write!(
                traffic,
                "{{ name: app{vm}, from: {from}, to: {to}, kind: tcp, rate: {limit} }}, "
            );
            applications.extend(format!("app{vm}").parse::<EndpointId>());
        }
    }
    let discipline = if chance.below(4) == 0 { "fifo" } else { "fair" };
    let text = format!(
        "apiVersion: droveway/v1\nkind: Scenario\nmetadata: {{ name: faults }}\nspec:\n  \
         link: {{ rate: {rate}Mbit/s, discipline: {discipline} }}\n  \
         hosts: [ {{ name: alpha }}, {{ name: beta }} ]\n  clients: [ {{ name: client }} ]\n  \
         vms: [ {vms} ]\n  traffic: [ {traffic} ]\n"
    );
    let scenario = document::parse::<ScenarioSpec>(&text, "a drawn scenario");
    (scenario.unwrap_or_else(|error| panic!("{error}: {text}")), applications)
}

fn fault(chance: &mut Chance, rate: u32, count: usize, applications: &[EndpointId]) -> Fault {
    let vm: VmId = format!("vm{}", chance.below(count)).parse().unwrap_or_else(|_| unreachable!());
    let side = if chance.below(2) == 0 { Side::Source } else { Side::Target };
    let host: HostId = if chance.below(2) == 0 { "alpha" } else { "beta" }
        .parse()
        .unwrap_or_else(|_| unreachable!());
    // Short ones and long ones alike.
    let seconds = 0.05 * chance.between(0.0, 1000.0_f64.ln()).exp();
    let part = chance.between(0.1, 1.0);
    match chance.below(14) {
        0 => Fault::PortDown { host, seconds },
        1 => Fault::PortRate { host, rate: megabits(part * f64::from(rate)) },
        2 => Fault::Loss {
            round_trip: 0.04 * part,
            share: 0.0005 * (1.0 + 40.0 * chance.between(0.0, 1.0)),
            seconds,
        },
        3 => Fault::KillQemu { vm, side },
        4 => Fault::FreezeQemu { vm, side, seconds },
        5 => Fault::StallMonitor { vm, side, seconds, loses: false },
        6 => Fault::StallMonitor { vm, side, seconds, loses: true },
        7 => Fault::KillController { seconds, between: false },
        8 => Fault::KillController { seconds, between: true },
        9 => Fault::JournalFull { seconds },
        10 => Fault::ClockStep { seconds: (part - 0.5) * 100_000.0 },
        // All of its memory, as fast as the port carries it.
        11 => Fault::Writes {
            vm,
            working_set: Bytes::from_mib(100 + chance.below(100) as u64),
            rate: megabits(f64::from(rate)),
        },
        12 if !applications.is_empty() => {
            let application = applications[chance.below(applications.len())].clone();
            Fault::Reverse { application }
        }
        12 => Fault::PortDown { host, seconds },
        _ => Fault::Cancel,
    }
}
