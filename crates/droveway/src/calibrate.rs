//! `calibrate`: a handful of real moves between two hosts, from which the model learns what these hosts are like.
//!
//! Every technique there and back again, one VM after the other and all at once, so that each VM ends where it began. The
//! moves are ordinary runs: planned, checked, driven and reported like any other; only their purpose is different.

use crate::{
    cli::{self, CalibrateArgs, IntentArgs, Output, Tuned},
    drain,
    exit::{Exit, Failure},
    fleet, measure, state,
};
use droveway_fleet::{Fleet, Ratio, Reserve, VmId};
use std::path::Path;

/// There and back again: an even number of moves. With ports and sockets as they are, and with bandwidth held and sockets
/// tuned (where hosts allow it), since a guest that waits for its pages waits for other things then.
const ROUND: [(&str, Ports); 12] = [
    ("pre-copy-serial", Ports::AsTheyAre),
    ("post-copy-serial", Ports::AsTheyAre),
    ("hybrid-serial", Ports::AsTheyAre),
    ("stop-and-copy", Ports::AsTheyAre),
    ("pre-copy-parallel", Ports::AsTheyAre),
    ("post-copy-parallel", Ports::AsTheyAre),
    ("hybrid-parallel", Ports::AsTheyAre),
    ("pre-copy-serial", Ports::AsTheyAre),
    ("post-copy-serial", Ports::Held),
    ("hybrid-serial", Ports::Held),
    ("pre-copy-parallel", Ports::Held),
    ("post-copy-parallel", Ports::Held),
];

/// What is done to ports and sockets while VMs move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    AsTheyAre,
    Held,
}

/// What is held of the ports then: neither so much that applications are starved nor so little that they are not met.
const HELD_PERCENT: f64 = 75.0;

pub(crate) fn run(
    args: &CalibrateArgs,
    fleet: Option<&Path>,
    calibration: Option<&Path>,
    output: Output,
) -> Result<Exit, Failure> {
    let fleet = fleet::load(fleet)?;
    let hosts = fleet.spec.hosts.iter().map(|host| &host.name);
    let first = cli::known(&args.from, "host", hosts.clone(), cli::host_text)?.clone();
    let second = cli::known(&args.to, "host", hosts, cli::host_text)?.clone();
    if first == second {
        return Err(Failure::usage(format!("'{first}' is both ends: name two hosts")));
    }
    let vms = vms(&fleet, args)?;
    let mut worst = Exit::Done;
    for round in 0..args.rounds {
        let source = measure::Source { measure: Some(args.measure), ..measure::Source::default() };
        let Some(snapshot) = measure::snapshot_for(&fleet, &source)? else {
            return Ok(Exit::Interrupted);
        };
        for (index, (policy, ports)) in ROUND.iter().enumerate() {
            let target = if index % 2 == 0 { &second } else { &first };
            let (reserve, tuning, how) = match ports {
                Ports::AsTheyAre => (Reserve::Off, Tuned::Off, ""),
                Ports::Held => {
                    let share = Ratio::new(HELD_PERCENT / 100.0).unwrap_or(Ratio::ONE);
                    (Reserve::Share(share), Tuned::On, ", bandwidth held")
                }
            };
            eprintln!(
                "round {} of {}, run {} of {}: {policy} to {target}{how}",
                round + 1,
                args.rounds,
                index + 1,
                ROUND.len()
            );
            let intent = IntentArgs {
                reserve,
                tuning,
                to: Some(target.to_string()),
                policy: Some((*policy).to_owned()),
                report: args.report.as_ref().map(|folder| {
                    folder.join(format!("{:02}-{policy}", round as usize * ROUND.len() + index + 1))
                }),
                ..IntentArgs::default()
            };
            let request = drain::Request {
                args: &intent,
                calibration,
                output: Output::Table,
                quiet: true,
                snapshot: Some(snapshot.clone()),
            };
            let exit = drain::move_named(&fleet, vms.clone(), &request)?;
            match exit {
                Exit::Done | Exit::LimitMissed => {}
                // Whatever went wrong, more of it teaches nothing.
                other => {
                    eprintln!(
                        "the last run ended with exit {}: calibration stops here",
                        other.code()
                    );
                    worst = other;
                    break;
                }
            }
        }
        if worst != Exit::Done {
            break;
        }
    }
    let path = state::calibration_path(&fleet, calibration);
    let known = state::calibration(&path)?;
    if output == Output::Table {
        eprintln!("learned from {} runs: {}", known.records.len(), path.display());
    } else {
        cli::print_data(&known.constants, output)?;
    }
    Ok(worst)
}

/// The VMs that are named, or all that the first host can run.
fn vms(fleet: &Fleet, args: &CalibrateArgs) -> Result<Vec<VmId>, Failure> {
    let all = fleet.spec.vms.iter().map(|vm| &vm.name);
    if args.vm.is_empty() {
        return Ok(all.cloned().collect());
    }
    args.vm.iter().map(|name| cli::known(name, "VM", all.clone(), cli::vm_text).cloned()).collect()
}
