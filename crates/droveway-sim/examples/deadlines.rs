//! Whether what is said of deadlines is true: random gangs with deadlines from impossible to easy, moved in the simulator
//! with noise. Of plans that were called feasible nearly all must keep theirs; a deadline that was called infeasible must be
//! kept by no policy at all.
//!
//! `cargo run --release -p droveway-sim --example deadlines -- [GANGS] [SEED]`
#![expect(clippy::print_stdout, reason = "a program for people")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small counts, and bytes far below 2^53"
)]

mod support;

use droveway_fleet::TimeSpan;
use droveway_plan::{adaptive::Verdict, policy::POLICIES};
use std::{env, error::Error, time::Duration};
use support::{Gang, scenario};

/// Deadlines as shares of what the planner takes without one: from impossible to easy.
const SHARES: [f64; 8] = [0.4, 0.6, 0.8, 0.9, 1.0, 1.15, 1.4, 2.0];
/// Runs of each plan that was called feasible.
const SEEDS: u64 = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let gangs: u64 = arguments.next().map_or(Ok(200), |text| text.parse())?;
    let first: u64 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let (mut feasible, mut kept, mut at_risk, mut kept_at_risk) = (0_u64, 0_u64, 0_u64, 0_u64);
    let (mut infeasible, mut impossible, mut kept_anyway) = (0_u64, 0_u64, 0_u64);
    for seed in first..first + gangs {
        let gang = Gang::of(scenario(seed, false)?)?;
        let free = gang.planned("adaptive", None)?;
        let usual = free.reasoning.map_or(1.0, |reasoning| reasoning.cost.parts.total_seconds);
        let seconds = usual * SHARES[(seed % SHARES.len() as u64) as usize];
        let deadline = TimeSpan::from(Duration::from_secs_f64(seconds));
        let made = gang.planned("adaptive", Some(deadline))?;
        let Some(said) = made.reasoning.and_then(|reasoning| reasoning.deadlines) else { continue };
        let keeps = |plan: &droveway_plan::Plan, runs| -> Result<u64, Box<dyn Error>> {
            let runs = gang.runs(plan, seed, runs)?;
            Ok(runs.iter().filter(|run| run.arrived && run.seconds <= seconds).count() as u64)
        };
        match said.verdict {
            Verdict::Feasible => {
                feasible += SEEDS;
                kept += keeps(&made.plan, SEEDS)?;
            }
            Verdict::AtRisk => {
                at_risk += SEEDS;
                kept_at_risk += keeps(&made.plan, SEEDS)?;
            }
            Verdict::Infeasible | Verdict::Impossible => {
                infeasible += 1;
                impossible += u64::from(said.verdict == Verdict::Impossible);
                for policy in POLICIES {
                    let plan = gang.planned(policy.name, None)?.plan;
                    if keeps(&plan, 1)? > 0 {
                        kept_anyway += 1;
                        println!("gang {seed}: {} takes less than {seconds:.2} s", policy.name);
                        break;
                    }
                }
            }
        }
    }
    println!(
        "{gangs} gangs: feasible {} (kept in {:.1} % of {feasible} runs), at risk {} (kept in {:.1} %), infeasible \
         {infeasible}, {impossible} of them proved impossible (kept by some policy after all: {kept_anyway})",
        feasible / SEEDS,
        100.0 * kept as f64 / feasible.max(1) as f64,
        at_risk / SEEDS,
        100.0 * kept_at_risk as f64 / at_risk.max(1) as f64,
    );
    Ok(())
}
