//! How far plans of seeded random gangs may be from the best: cost, lower bound and their parts, by urgency, with and
//! without bandwidth held for the moves.
//!
//! `cargo run --release -p droveway-plan --example gaps -- [VMS] [GANGS] [held] [each]`
#![expect(clippy::print_stdout, reason = "a program for people")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small counts"
)]

use droveway_fleet::{Bandwidth, Bytes, DirtyCurve, Intent, Urgency, VmId};
use droveway_model::{
    calibration::Calibration,
    fluid::{Constants, End, FlowModel, Gang, PortModel, Tail, VmModel},
    world::{World, payload},
};
use droveway_plan::{GangFacts, Known, VmFacts, policy::find};
use std::{env, error::Error};

const MIB: f64 = 1_048_576.0;

/// Numbers from a seed (Steele, Lea, Flood 2014).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / u64::MAX as f64
    }
}

/// Sizes, loads and directions as in the planner's benchmark, at random: VMs of 60 to 300 MiB to send, half of them with a
/// load that writes up to 30 MiB/s, and traffic that fills up to 80 % of the port in each direction.
fn gang(vms: usize, seed: u64) -> Gang {
    let mut chance = Chance(seed);
    let rate = payload(Bandwidth::from_bits_per_second(1_000_000_000));
    let mut gang = Gang {
        ports: vec![PortModel::shared(rate); 2],
        constants: Constants::PRIOR,
        horizon: 1e5,
        ..Gang::default()
    };
    let busy = 0.2 + 0.6 * chance.next();
    for index in 0..vms {
        let writes = if chance.next() < 0.5 { 30.0 * chance.next() } else { 0.1 };
        gang.vms.push(VmModel {
            host: 0,
            send_bytes: (60.0 + 240.0 * chance.next()) * MIB,
            zero_bytes: 300.0 * MIB,
            tail: Tail::default(),
            curve: DirtyCurve::Saturating {
                dirty_bytes_per_second: writes * MIB,
                working_set_bytes: (5.0 + 75.0 * chance.next()) * MIB,
            },
            state_bytes: 0.2 * MIB,
        });
        let share = 2.0 * busy * rate / vms as f64;
        let flow = |from, to, demand| FlowModel { from, to, demand, weight: 1.0 };
        gang.flows.push(flow(End::Vm(index), End::Outside, share * chance.next()));
        gang.flows.push(flow(End::Outside, End::Vm(index), share * chance.next()));
    }
    gang
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let vms: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let gangs: u64 = arguments.next().map_or(Ok(30), |text| text.parse())?;
    let words: Vec<String> = arguments.collect();
    let said = |wanted: &str| words.iter().any(|word| word == wanted);
    for urgency in Urgency::ALL {
        let mut gaps = Vec::new();
        let (mut proved, mut serial) = (0, Vec::new());
        for seed in 1..=gangs {
            let names = (0..vms).map(|vm| format!("vm{vm:02}").parse());
            let names: Vec<VmId> = names.collect::<Result<_, _>>()?;
            let (alpha, beta) = ("alpha".parse()?, "beta".parse()?);
            let mut intent = Intent::drain(alpha, beta, names.clone(), "adaptive");
            intent.urgency = urgency;
            (intent.shaping, intent.tuning) = (said("held"), said("held"));
            let fact = |vm: &VmId| VmFacts {
                vm: vm.clone(),
                memory: Bytes::from_mib(512),
                allow_postcopy: true,
                max_downtime: None,
                deadline: None,
                group: None,
            };
            let facts = GangFacts {
                port_rate: Bandwidth::from_bits_per_second(1_000_000_000),
                vms: names.iter().map(fact).collect(),
            };
            let hosts = vec![intent.source.clone(), intent.target.clone()];
            let world = World::named(gang(vms, seed), hosts, names);
            let calibration = Calibration::default();
            let known = Known { world: &world, calibration: &calibration };
            let made = find("adaptive")?.plan("gaps", &intent, &facts, Some(known))?;
            let Some(why) = made.reasoning else { continue };
            proved += u64::from(why.gap <= 0.0);
            gaps.push(why.gap);
            serial.extend(why.serial_gap);
            if said("each") {
                let weights = droveway_plan::adaptive::weights(urgency);
                let parts = why.cost.parts;
                let mut ways: Vec<(String, usize)> = Vec::new();
                for step in &made.plan.moves {
                    let name = step.technique.to_string();
                    match ways.iter_mut().find(|way| way.0 == name) {
                        Some(way) => way.1 += 1,
                        None => ways.push((name, 1)),
                    }
                }
                println!(
                    "{urgency:?} {seed:>3}: cost {:7.2} bound {:7.2} gap {:4.1} %  time {:6.2} outage {:6.2} lost {:6.2} exposure {:5.2}  window {} held {:?} {ways:?} {}",
                    why.cost.value,
                    why.bound,
                    100.0 * why.gap,
                    weights.time * parts.total_seconds,
                    weights.outage * parts.outage_seconds,
                    weights.loss * parts.lost_bytes / payload(facts.port_rate),
                    weights.exposure * parts.exposure_seconds,
                    made.plan.concurrency,
                    made.plan.reservations.first().map(|held| held.rate.to_string()),
                    why.chosen,
                );
            }
        }
        gaps.sort_by(f64::total_cmp);
        let at = |part: f64| 100.0 * gaps[(part * (gaps.len() - 1) as f64).round() as usize];
        println!(
            "{urgency:?}: {vms} VMs, {gangs} gangs: gap median {:.1} %, p95 {:.1} %, worst {:.1} %; {proved} proved best; against one VM at a time {} known, {} best to 0.1 %, worst {:.2} %",
            at(0.5),
            at(0.95),
            at(1.0),
            serial.len(),
            serial.iter().filter(|gap: &&f64| **gap <= 1e-3).count(),
            100.0 * serial.iter().copied().fold(0.0, f64::max)
        );
    }
    Ok(())
}
