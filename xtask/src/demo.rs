//! `cargo xtask demo`: three real VMs under traffic leave a host, by habit and by Droveway's own plan, and both reports side by side.

use crate::{guest_image, prerequisites, run, target_dir, workspace_root};
use anyhow::{Context as _, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Applications run undisturbed for so long first, so that there is a "before" to compare with.
const SETTLE: Duration = Duration::from_secs(6);

pub(crate) fn run_it(yes: bool) -> Result<()> {
    let root = workspace_root();
    prerequisites::ensure(yes)?;
    println!("Building droveway (release) and the guest image ..");
    run(Command::new(env!("CARGO")).current_dir(&root).args([
        "build",
        "--release",
        "--locked",
        "--package",
        "droveway",
    ]))?;
    let image = guest_image(&root)?;
    let started = Instant::now();
    let demo = Demo {
        droveway: target_dir(&root).join("release/droveway"),
        image,
        scenario: root.join("scenarios/demo.yaml"),
        reports: target_dir(&root).join("demo"),
    };
    let outcome = demo.show();
    println!("\n> droveway lab down demo");
    demo.droveway(&["lab", "down", "demo"]).context("cleaning up")?;
    outcome?;
    println!("The demonstration took {:.0} s.", started.elapsed().as_secs_f64());
    Ok(())
}

struct Demo {
    droveway: PathBuf,
    image: PathBuf,
    scenario: PathBuf,
    reports: PathBuf,
}

impl Demo {
    fn show(&self) -> Result<()> {
        // What an interrupted demonstration left.
        self.droveway(&["lab", "down", "demo"])?;
        let scenario = self.scenario.display().to_string();
        self.say(&["lab", "up", &scenario])?;
        self.say(&["lab", "status"])?;
        println!("\nThe applications run undisturbed for {} s ..", SETTLE.as_secs());
        std::thread::sleep(SETTLE);

        println!("\n1. The habit: every VM by pre-copy, all at once.");
        let habit = self.reports.join("1-habit");
        self.drain(&habit, &["--policy", "pre-copy-parallel"])?;

        println!("\nThe VMs go back, one after the other.");
        let back = self.reports.join("back").display().to_string();
        let vms = ["sender", "receiver", "writer"];
        let options = ["--to", "alpha", "--policy", "pre-copy-serial", "--report", &back];
        self.droveway(&[&["migrate"], &vms[..], &options[..]].concat())?;
        std::thread::sleep(SETTLE);

        println!("\n2. Droveway: measure, say what is best and what it will cost, and do that.");
        let ours = self.reports.join("2-adaptive");
        self.say(&["plan", "drain", "alpha", "--to", "beta"])?;
        self.drain(&ours, &[])?;

        println!("\nSide by side:");
        let (habit, ours) = (habit.display().to_string(), ours.display().to_string());
        self.say(&["compare", &habit, &ours])?;
        println!("Reports and pictures (report.md, report.json, timeline.svg):");
        println!("  {habit}\n  {ours}");
        Ok(())
    }

    fn drain(&self, report: &Path, options: &[&str]) -> Result<()> {
        let report = report.display().to_string();
        let fixed = ["drain", "alpha", "--to", "beta", "--report", &report];
        self.say(&[&fixed[..], options].concat())
    }

    fn say(&self, arguments: &[&str]) -> Result<()> {
        println!("\n> droveway {}", arguments.join(" "));
        self.droveway(arguments)
    }

    fn droveway(&self, arguments: &[&str]) -> Result<()> {
        let status = Command::new(&self.droveway)
            .args(arguments)
            .env("DROVEWAY_GUEST_IMAGE", &self.image)
            .env_remove("DROVEWAY_FLEET")
            .status()
            .with_context(|| format!("starting {}", self.droveway.display()))?;
        if !status.success() {
            bail!("droveway {} ended with {status}", arguments.join(" "));
        }
        Ok(())
    }
}
