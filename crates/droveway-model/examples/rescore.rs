//! What this model would have forecast for runs that were made with another: learns from a calibration file's runs, forecasts
//! those that were held out, and scores them. For whoever changes the model, before real runs are made again.
//!
//! `cargo run --release -p droveway-model --example rescore -- CALIBRATION.json`
#![expect(clippy::print_stdout, reason = "a program for people")]

use droveway_model::{
    calibration::{Calibration, Quantity, SHORTEST_SECONDS},
    fluid::Fluid,
    forecast::forecast,
    score::{Pair, score},
    world::World,
};
use std::{collections::BTreeMap, env, error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args().nth(1).ok_or("name a calibration file")?;
    let kept: Calibration = serde_json::from_str(&fs::read_to_string(path)?)?;
    let (held_out, learned): (Vec<_>, Vec<_>) =
        kept.records.into_iter().partition(|record| record.held_out);
    let calibration = Calibration::fitted(learned);
    println!("{:#?}", calibration.constants);
    let mut pairs: BTreeMap<(Quantity, String), Vec<Pair>> = BTreeMap::new();
    let mut fluid = Fluid::default();
    for record in &held_out {
        let moves = record.gang.moves.clone();
        let windows = record.gang.windows.clone();
        let world = World::named(record.gang.clone(), Vec::new(), Vec::new());
        let made = forecast(&world, &moves, &windows, &calibration, &mut fluid);
        let mut note = |quantity, technique: &str, said, outcome| {
            for technique in [technique, "all"] {
                let pair = Pair { said, outcome };
                pairs.entry((quantity, technique.to_owned())).or_default().push(pair);
            }
        };
        note(Quantity::Total, "gang", made.total_seconds, record.total_seconds);
        for ((step, said), outcome) in moves.iter().zip(&made.moves).zip(&record.outcomes) {
            let name = step.technique.name();
            note(Quantity::Duration, name, said.duration_seconds, outcome.duration_seconds);
            if let Some(seen) = outcome.downtime_seconds {
                if env::var_os("V").is_some() {
                    println!(
                        "{} {name} d {:.2}->{:.2} down {:.3}->{seen:.3} exp {:.2}->{:?} out {:.2}->{:.2}",
                        record.label,
                        said.duration_seconds.p50,
                        outcome.duration_seconds,
                        said.downtime_seconds.p50,
                        said.exposure_seconds.p50,
                        outcome.exposure_seconds,
                        said.outage_seconds.p50,
                        outcome.outage_seconds.unwrap_or(0.0)
                    );
                }
                note(Quantity::Downtime, name, said.downtime_seconds, seen);
            }
            if let Some(seen) = outcome.blocked_seconds {
                note(Quantity::Blocked, name, said.blocked_seconds, seen.max(SHORTEST_SECONDS));
            }
            if let Some(seen) = outcome.outage_seconds {
                note(Quantity::Outage, name, said.outage_seconds, seen);
            }
        }
    }
    for ((quantity, technique), pairs) in &pairs {
        let Some(score) = score(*quantity, pairs) else { continue };
        println!(
            "{:<9} {technique:<14} n={:<4} median {:5.1} %  p90 {:5.1} %  <1.5x {:3.0} %  <2x {:3.0} %  held {:3.0} %",
            format!("{quantity:?}"),
            score.count,
            100.0 * score.median_error,
            100.0 * score.p90_error,
            100.0 * score.within_1_5,
            100.0 * score.within_2,
            100.0 * score.covered
        );
    }
    Ok(())
}
