//! `cargo xtask validate`: forecasts against real runs.
//!
//! Learns from some laboratories, then makes runs in others that are held out: forecast, moved, compared, not learned from.
//! Leaves the score as a table, the raw data as CSV and a figure. Takes about half an hour of a quiet machine.

use crate::{guest_image, prerequisites, run, simulator, target_dir, workspace_root};
use anyhow::{Context as _, Result, bail};
use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

/// Laboratories that are learned from, each by `droveway calibrate`.
const LEARN: [&str; 2] = ["learn-idle", "learn-busy"];

/// Laboratories that are held out, and the runs in each: there, back, there, back. `Some(share)`: that much of the source's
/// port is reserved for migration, by classes that this program makes.
const HELD_OUT: [(&str, Option<f64>, &[&str]); 8] = [
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
        Some(0.6),
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

/// Applications run undisturbed for so long before the first measurement.
const SETTLE: Duration = Duration::from_secs(4);
/// How long is measured before each held-out run.
const MEASURE: &str = "4s";

pub(crate) fn run_it(yes: bool, docs: bool, built: Option<PathBuf>) -> Result<()> {
    let root = workspace_root();
    prerequisites::ensure(yes)?;
    if built.is_none() {
        run(Command::new(env!("CARGO")).current_dir(&root).args([
            "build",
            "--release",
            "--locked",
            "--package",
            "droveway",
        ]))?;
    }
    let image = guest_image(&root)?;
    let work = target_dir(&root).join("validate");
    match std::fs::remove_dir_all(&work) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("removing {}", work.display())),
    }
    std::fs::create_dir_all(&work)?;
    let validation = Validation {
        droveway: built.unwrap_or_else(|| target_dir(&root).join("release/droveway")),
        image,
        scenarios: root.join("scenarios/validate"),
        work,
    };
    let began = Instant::now();
    for name in LEARN {
        validation.in_lab(name, || {
            let reports = validation.work.join("reports").join(name).display().to_string();
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
                "2",
            ];
            validation.droveway(&[&fixed[..], &["--report", &reports]].concat())
        })?;
    }
    for (number, (name, reserved, policies)) in HELD_OUT.iter().enumerate() {
        validation.in_lab(name, || validation.held_out(number, name, *reserved, policies))?;
    }
    let data = if docs { root.join("docs/data") } else { validation.work.clone() };
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
    droveway: PathBuf,
    image: PathBuf,
    scenarios: PathBuf,
    work: PathBuf,
}

impl Validation {
    /// Does something in a laboratory of its own, and removes it whatever happened.
    fn in_lab(&self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.droveway(&["lab", "down", name])?;
        let scenario = self.scenarios.join(format!("{name}.yaml")).display().to_string();
        self.droveway(&["lab", "up", &scenario])?;
        std::thread::sleep(SETTLE);
        let outcome = work();
        self.droveway(&["lab", "down", name])?;
        outcome
    }

    fn held_out(
        &self,
        number: usize,
        name: &str,
        reserved: Option<f64>,
        policies: &[&str],
    ) -> Result<()> {
        if let Some(share) = reserved {
            for host in ["alpha", "beta"] {
                reserve(&format!("dw-{name}_{host}"), share)?;
            }
        }
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
            let share = reserved.map(|share| share.to_string());
            if let Some(share) = &share {
                arguments.extend(["--reserved", share]);
            }
            self.droveway(&arguments)?;
        }
        Ok(())
    }

    /// Every held-out run without classes on the ports, which the simulator does not have, beside its simulation.
    fn simulated(&self) -> Result<Vec<simulator::Pair>> {
        let mut pairs = Vec::new();
        for (number, (name, reserved, policies)) in HELD_OUT.iter().enumerate() {
            for (index, policy) in policies.iter().enumerate().filter(|_| reserved.is_none()) {
                let scenario = self.scenarios.join(format!("{name}.yaml"));
                let report = self.report(number, name, index, policy);
                let calibration = self.work.join("calibration.json");
                pairs.push(simulator::pair(
                    &self.droveway,
                    &calibration,
                    &scenario,
                    policy,
                    &report,
                )?);
            }
        }
        Ok(pairs)
    }

    fn report(&self, number: usize, name: &str, index: usize, policy: &str) -> PathBuf {
        self.work.join("reports").join(format!("{number}-{name}-{index}-{policy}"))
    }

    fn droveway(&self, arguments: &[&str]) -> Result<()> {
        println!("> droveway {}", arguments.join(" "));
        let status = Command::new(&self.droveway)
            .args(arguments)
            .env("DROVEWAY_GUEST_IMAGE", &self.image)
            .env("DROVEWAY_STATE", self.work.join("state"))
            .env("DROVEWAY_CALIBRATION", self.work.join("calibration.json"))
            .env_remove("DROVEWAY_FLEET")
            .status()
            .with_context(|| format!("starting {}", self.droveway.display()))?;
        // 6: a VM took longer than it was asked to, which is a result too.
        if !status.success() && status.code() != Some(6) {
            bail!("droveway {} ended with {status}", arguments.join(" "));
        }
        Ok(())
    }
}

/// The fleet file of a laboratory; others may be up on the same machine.
fn fleet(name: &str) -> String {
    format!("/run/droveway/labs/{name}/fleet.yaml")
}

/// The laboratories with traffic have ports of 400 Mbit/s; a little less makes the queue ours.
const CLASSES_MBIT: f64 = 392.0;
/// Where incoming migrations listen: 49152 to 49215, as a value and a mask.
const PORTS: [&str; 2] = ["49152", "0xffc0"];

/// Two classes on a host's port: so much for migration, the rest for applications, each may borrow.
fn reserve(netns: &str, share: f64) -> Result<()> {
    let rate = |share: f64| format!("{:.0}kbit", share * CLASSES_MBIT * 1000.0);
    let (all, migration, rest) = (rate(1.0), rate(share), rate(1.0 - share));
    let class = |id: &str, own: &str| {
        format!("class add dev nic parent 1: classid {id} htb rate {own} ceil {all} quantum 6000")
    };
    let commands = [
        "qdisc add dev nic root handle 1: htb default 20".to_owned(),
        format!("class add dev nic parent 1: classid 1:1 htb rate {all} ceil {all}"),
        class("1:10", &migration).replace("parent 1:", "parent 1:1"),
        class("1:20", &rest).replace("parent 1:", "parent 1:1"),
        format!(
            "filter add dev nic parent 1: protocol ip prio 1 u32 match ip dport {} {} flowid 1:10",
            PORTS[0], PORTS[1]
        ),
    ];
    for command in commands {
        let mut tc = Command::new("ip");
        tc.args(["netns", "exec", netns, "tc"]).args(command.split(' '));
        run(&mut tc)?;
    }
    Ok(())
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
