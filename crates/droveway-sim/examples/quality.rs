//! How good plans are: seeded random gangs, planned by every policy from a perfect measurement, moved in the simulator with
//! noise that no policy knows of.
//!
//! `cargo run --release -p droveway-sim --example quality -- [GANGS] [SEED] [balanced] [held]`: with `held` `adaptive` may hold
//! bandwidth and tune sockets; the others run on ports and sockets as they are.
#![expect(clippy::print_stdout, reason = "a program for people")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small counts, and bytes far below 2^53"
)]

mod support;

use droveway_plan::policy::POLICIES;
use std::{collections::BTreeMap, env, error::Error};
use support::{Came, Gang, scenario};

/// Runs of one plan; what counts is their mean.
const SEEDS: u64 = 3;
/// Two results that differ by less are the same.
const NOISE: f64 = 0.03;

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let gangs: u64 = arguments.next().map_or(Ok(100), |text| text.parse())?;
    let first: u64 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let words: Vec<String> = arguments.collect();
    let said = |wanted: &str| words.iter().any(|word| word == wanted);
    let balanced = said("balanced");
    let mut results: BTreeMap<&str, Vec<Came>> = BTreeMap::new();
    for seed in first..first + gangs {
        let mut gang = Gang::of(scenario(seed, balanced)?)?;
        gang.plumbing = said("held");
        for policy in POLICIES {
            let plan = gang.planned(policy.name, None)?.plan;
            let runs = gang.runs(&plan, seed, SEEDS)?;
            results.entry(policy.name).or_default().push(Came::mean(&runs));
        }
    }
    let adaptive = results["adaptive"].clone();
    println!(
        "{gangs} gangs; against adaptive: median ratio of total time, and how often it dominates adaptive or is dominated"
    );
    for (name, of) in &results {
        let mut ratios: Vec<f64> =
            of.iter().zip(&adaptive).map(|(other, own)| own.seconds / other.seconds).collect();
        ratios.sort_by(f64::total_cmp);
        let mut times: Vec<f64> = of.iter().map(|came| came.seconds).collect();
        times.sort_by(f64::total_cmp);
        let above = of.iter().zip(&adaptive).filter(|(a, b)| dominates(a, b)).count();
        let below = of.iter().zip(&adaptive).filter(|(a, b)| dominates(b, a)).count();
        let mean = |part: fn(&Came) -> f64| of.iter().map(part).sum::<f64>() / of.len() as f64;
        println!(
            "{name:<20} time {:6.2} s (median {:5.2})  lost {:8.1} MB  outage {:5.2} s  cost {:6.2} s  adaptive/it {:5.3}  dominates {:4.1} %  dominated {:5.1} %",
            mean(|r| r.seconds),
            times[times.len() / 2],
            mean(|r| r.lost_bytes) / 1e6,
            mean(|r| r.worst_outage),
            mean(Came::cost),
            ratios[ratios.len() / 2],
            100.0 * above as f64 / gangs as f64,
            100.0 * below as f64 / gangs as f64
        );
    }
    Ok(())
}

/// Better in everything, beyond noise.
fn dominates(a: &Came, b: &Came) -> bool {
    let better = |a: f64, b: f64| a < b * (1.0 - NOISE);
    better(a.seconds, b.seconds)
        && better(a.lost_bytes, b.lost_bytes)
        && better(a.worst_outage, b.worst_outage)
}
