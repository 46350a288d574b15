//! `cargo xtask validate`: forecasts against real runs.
//!
//! Learns from some laboratories, then makes runs in others that are held out: forecast, moved, compared, not learned from.
//! Leaves the score as a table, the raw data as CSV and a figure. Takes about half an hour of a quiet machine.

use crate::{
    lab::{Trial, TrialArgs, fleet},
    simulator, workspace_root,
};
use anyhow::{Context as _, Result, bail};
use std::{path::PathBuf, time::Instant};

/// Laboratories that are learned from, each by `droveway calibrate`.
const LEARN: [&str; 2] = ["learn-idle", "learn-busy"];

/// Laboratories that are held out, and the runs in each: there, back, there, back. `Some(percent)`: that much of both ports is
/// held for the moves, and sockets are tuned.
const HELD_OUT: [(&str, Option<u32>, &[&str]); 8] = [
    (
        "one-idle",
        None,
        &[
            "pre-copy-serial",
            "post-copy-serial",
            "hybrid-serial",
            "stop-and-copy",
            "pre-copy-serial",
            "post-copy-serial",
        ],
    ),
    (
        "one-writer",
        None,
        &[
            "pre-copy-serial",
            "hybrid-serial",
            "post-copy-serial",
            "hybrid-serial",
            "pre-copy-serial",
            "stop-and-copy",
        ],
    ),
    (
        "two-limited",
        None,
        &[
            "pre-copy-serial",
            "pre-copy-parallel",
            "post-copy-serial",
            "hybrid-parallel",
            "post-copy-parallel",
            "hybrid-serial",
        ],
    ),
    (
        "two-elastic",
        None,
        &[
            "pre-copy-serial",
            "post-copy-serial",
            "pre-copy-parallel",
            "post-copy-parallel",
            "hybrid-serial",
            "hybrid-parallel",
        ],
    ),
    (
        "two-elastic",
        Some(60),
        &[
            "pre-copy-serial",
            "hybrid-serial",
            "pre-copy-parallel",
            "post-copy-serial",
            "pre-copy-serial",
            "hybrid-parallel",
        ],
    ),
    (
        "four-mixed",
        None,
        &[
            "pre-copy-serial",
            "pre-copy-parallel",
            "post-copy-parallel",
            "hybrid-parallel",
            "post-copy-serial",
            "hybrid-serial",
        ],
    ),
    (
        "six-idle",
        None,
        &["pre-copy-parallel", "post-copy-serial", "hybrid-parallel", "pre-copy-serial"],
    ),
    ("one-idle", None, &["hybrid-serial", "pre-copy-serial", "post-copy-serial", "stop-and-copy"]),
];

/// How long is measured before each held-out run.
const MEASURE: &str = "4s";

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ValidateArgs {
    #[command(flatten)]
    trial: TrialArgs,
    /// Leave data and figure in docs/data instead of target/validate
    #[arg(long)]
    docs: bool,
}

pub(crate) fn run_it(args: &ValidateArgs) -> Result<()> {
    let root = workspace_root();
    let trial = Trial::prepare("validate", &args.trial)?;
    let validation = Validation { trial, scenarios: root.join("scenarios/validate") };
    let began = Instant::now();
    for name in LEARN {
        validation.in_lab(name, || {
            let reports = validation.trial.work.join("reports").join(name).display().to_string();
            let fleet = fleet(name);
            let fixed = [
                "--fleet",
                &fleet,
                "calibrate",
                "alpha",
                "beta",
                "--measure",
                "5s",
                "--rounds",
                "3",
            ];
            validation.droveway(&[&fixed[..], &["--report", &reports]].concat())
        })?;
    }
    for (number, (name, held, policies)) in HELD_OUT.iter().enumerate() {
        validation.in_lab(name, || validation.held_out(number, name, *held, policies))?;
    }
    let data = if args.docs { root.join("docs/data") } else { validation.trial.work.clone() };
    std::fs::create_dir_all(&data)?;
    let (csv, figure) = (data.join("forecasts.csv"), data.join("forecasts.svg"));
    let (csv, figure) = (csv.display().to_string(), figure.display().to_string());
    validation.droveway(&["report", "--calibration", "--csv", &csv, "--figure", &figure])?;
    let pairs = validation.simulated()?;
    let file = data.join("simulator.csv");
    std::fs::write(&file, simulator::csv(&pairs))
        .with_context(|| format!("writing {}", file.display()))?;
    println!("{}", simulator::summary(&pairs));
    println!("The validation took {:.0} s.", began.elapsed().as_secs_f64());
    Ok(())
}

struct Validation {
    trial: Trial,
    scenarios: PathBuf,
}

impl Validation {
    /// Does something in a laboratory of its own.
    fn in_lab(&self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.trial.in_lab(&self.scenarios.join(format!("{name}.yaml")), work)
    }

    fn held_out(
        &self,
        number: usize,
        name: &str,
        held: Option<u32>,
        policies: &[&str],
    ) -> Result<()> {
        for (index, policy) in policies.iter().enumerate() {
            let (from, to) = if index % 2 == 0 { ("alpha", "beta") } else { ("beta", "alpha") };
            let report = self.report(number, name, index, policy).display().to_string();
            let fleet = fleet(name);
            let mut arguments = vec![
                "--fleet",
                &fleet,
                "drain",
                from,
                "--to",
                to,
                "--policy",
                policy,
                "--hold-out",
                "--measure",
                MEASURE,
                "--report",
                &report,
            ];
            let ports = ports(held);
            arguments.extend(ports.iter().map(String::as_str));
            self.droveway(&arguments)?;
        }
        Ok(())
    }

    /// Every held-out run beside its simulation.
    fn simulated(&self) -> Result<Vec<simulator::Pair>> {
        let mut pairs = Vec::new();
        for (number, (name, held, policies)) in HELD_OUT.iter().enumerate() {
            for (index, policy) in policies.iter().enumerate() {
                let scenario = self.scenarios.join(format!("{name}.yaml"));
                let report = self.report(number, name, index, policy);
                let calibration = self.trial.work.join("calibration.json");
                pairs.push(simulator::pair(
                    &self.trial.droveway,
                    &calibration,
                    &scenario,
                    policy,
                    &ports(*held),
                    &report,
                )?);
            }
        }
        Ok(pairs)
    }

    fn report(&self, number: usize, name: &str, index: usize, policy: &str) -> PathBuf {
        self.trial.work.join("reports").join(format!("{number}-{name}-{index}-{policy}"))
    }

    fn droveway(&self, arguments: &[&str]) -> Result<()> {
        println!("> droveway {}", arguments.join(" "));
        let status = self
            .trial
            .command(arguments)
            .env("DROVEWAY_CALIBRATION", self.trial.work.join("calibration.json"))
            .status()
            .with_context(|| format!("starting {}", self.trial.droveway.display()))?;
        // 6: a VM took longer than it was asked to, which is a result too.
        if !status.success() && status.code() != Some(6) {
            bail!("droveway {} ended with {status}", arguments.join(" "));
        }
        Ok(())
    }
}

/// What is said about ports and sockets: held and tuned, or both as they are.
fn ports(held: Option<u32>) -> [String; 4] {
    let (reserve, tuning) =
        held.map_or(("off".to_owned(), "off"), |percent| (format!("{percent}%"), "on"));
    ["--reserve".to_owned(), reserve, "--tuning".to_owned(), tuning.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_laboratory_has_its_file_and_there_are_enough_runs() {
        let scenarios = workspace_root().join("scenarios/validate");
        let names = LEARN.into_iter().chain(HELD_OUT.iter().map(|(name, ..)| *name));
        for name in names {
            assert!(scenarios.join(format!("{name}.yaml")).is_file(), "{name}");
        }
        let runs: usize = HELD_OUT.iter().map(|(_, _, policies)| policies.len()).sum();
        assert!(runs >= 40, "{runs}");
    }
}
