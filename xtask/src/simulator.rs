//! The simulator against the laboratory: every run of a validation is simulated from its scenario file, with the constants
//! that were learned beside it, and both total times stand side by side. QEMU's runs are as they are; the simulator's are
//! several per run, because chance is in it too.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::{fmt::Write as _, fs, path::Path, process::Command};

/// Simulated runs per real one; their median counts.
const SEEDS: u64 = 5;

/// A real run, and what the simulator makes of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pair {
    pub(crate) scenario: String,
    pub(crate) policy: String,
    pub(crate) lab_seconds: f64,
    pub(crate) simulated_seconds: f64,
}

impl Pair {
    fn error(&self) -> f64 {
        (self.simulated_seconds - self.lab_seconds).abs() / self.lab_seconds
    }
}

/// Simulates what a laboratory did.
pub(crate) fn pair(
    droveway: &Path,
    calibration: &Path,
    scenario: &Path,
    policy: &str,
    ports: &[String],
    report: &Path,
) -> Result<Pair> {
    let text = fs::read_to_string(report.join("report.json"))
        .with_context(|| format!("reading the report in {}", report.display()))?;
    let lab_seconds = total(&text).with_context(|| format!("{}", report.display()))?;
    let mut simulated = Vec::new();
    for seed in 1..=SEEDS {
        let mut command = Command::new(droveway);
        command.arg("--calibration-file").arg(calibration).args(["-o", "json", "simulate"]);
        command.arg(scenario).args(["--policy", policy, "--seed", &seed.to_string()]).args(ports);
        let output =
            command.output().with_context(|| format!("starting {}", droveway.display()))?;
        if !output.status.success() {
            bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let text = String::from_utf8(output.stdout)?;
        simulated.push(total(&text).with_context(|| format!("{command:?}"))?);
    }
    simulated.sort_by(f64::total_cmp);
    let name = scenario.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let simulated_seconds = simulated[simulated.len() / 2];
    Ok(Pair { scenario: name, policy: policy.to_owned(), lab_seconds, simulated_seconds })
}

fn total(report: &str) -> Result<f64> {
    let report: Value = serde_json::from_str(report)?;
    report["totalMigrationTimeSeconds"].as_f64().context("a report without a total migration time")
}

/// A line per run.
pub(crate) fn csv(pairs: &[Pair]) -> String {
    let mut text = "scenario,policy,labSeconds,simulatedSeconds,errorRatio\n".to_owned();
    for pair in pairs {
        let (scenario, policy, error) = (&pair.scenario, &pair.policy, pair.error());
        let (lab, simulated) = (pair.lab_seconds, pair.simulated_seconds);
        let _ = writeln!(text, "{scenario},{policy},{lab:.3},{simulated:.3},{error:.3}");
    }
    text
}

/// In one sentence.
#[expect(clippy::cast_precision_loss, reason = "some dozen runs")]
pub(crate) fn summary(pairs: &[Pair]) -> String {
    let mut errors: Vec<f64> = pairs.iter().map(Pair::error).collect();
    errors.sort_by(f64::total_cmp);
    let count = errors.len();
    let Some(median) = errors.get(count / 2) else { return "nothing was simulated".to_owned() };
    let near = errors.iter().filter(|error| **error <= 0.15).count();
    format!(
        "The simulator's total time is within 15 % of the laboratory's in {near} of {count} runs ({:.0} %); median \
         error {:.1} %.",
        100.0 * near as f64 / count as f64,
        100.0 * median
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_compared() {
        let pair = |lab_seconds, simulated_seconds| Pair {
            scenario: "one".to_owned(),
            policy: "hybrid-serial".to_owned(),
            lab_seconds,
            simulated_seconds,
        };
        let pairs = [pair(10.0, 11.0), pair(10.0, 12.0), pair(10.0, 9.0), pair(10.0, 10.0)];
        assert!(summary(&pairs).contains("3 of 4 runs (75 %); median error 10.0 %"));
        assert!(csv(&pairs).ends_with("one,hybrid-serial,10.000,10.000,0.000\n"));
        assert_eq!(summary(&[]), "nothing was simulated");
        assert!(total("{}").is_err());
    }
}
