//! `cargo xtask kills`: the controller of real drains is killed (`kill -9`) at random instants, and another one takes over.
//!
//! Each round drains four VMs to the other host, kills the controller at an instant drawn from the seed, calls
//! `droveway adopt`, and then asks the QEMUs themselves: every VM runs at one host and at one only, nothing waits at the other,
//! the QEMUs of those that stayed are set as before, and the ports' queues are as before. In every third round the one that takes over is killed, too.

use crate::{
    lab::{self, Chance, Trial, TrialArgs, fleet, kill_after},
    workspace_root,
};
use anyhow::{Context as _, Result, bail, ensure};
use std::{fs, time::Instant};

/// The laboratory, and its scenario's name.
const NAME: &str = "kills";
const VMS: [&str; 4] = ["idle", "writer", "busy", "web"];
const HOSTS: [&str; 2] = ["alpha", "beta"];
/// Round after round the next one.
const POLICIES: [&str; 6] = [
    "pre-copy-serial",
    "pre-copy-parallel",
    "hybrid-serial",
    "hybrid-parallel",
    "post-copy-serial",
    "post-copy-parallel",
];
/// Who takes over is killed within this share of the time in which the first one is: it has done most of it by then.
const SECOND_SHARE: f64 = 1.0 / 3.0;
/// What the one that is killed says.
const KILLED: &str = "killed.log";
/// Exit codes with which a take-over is right: done, the rest safe at the source, a limit missed, nothing was touched yet.
const RIGHT: [i32; 4] = [0, 5, 6, 130];

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct KillsArgs {
    #[command(flatten)]
    trial: TrialArgs,
    /// How often a controller is killed
    #[arg(long, value_name = "N", default_value_t = 30)]
    rounds: u32,
    /// Where the instants come from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Instants lie within so many seconds of the start. A drain takes some ten, and begins to move VMs in the second one
    #[arg(long, value_name = "SECONDS", default_value_t = 12.0)]
    within: f64,
}

pub(crate) fn run_it(args: &KillsArgs) -> Result<()> {
    let within = args.within;
    ensure!(within.is_finite() && within >= 0.0, "--within {within}: so many seconds, like 1.5");
    let kills = Kills { trial: Trial::prepare("kills", &args.trial)? };
    let mut chance = Chance::new(args.seed);
    let scenario = workspace_root().join("scenarios").join(format!("{NAME}.yaml"));
    kills.trial.in_lab(&scenario, || {
        let queues = lab::queues(NAME, &HOSTS)?;
        let mut rows =
            String::from("round,policy,instant_s,second_instant_s,adopt_exit,adopt_s,moved\n");
        for round in 0..args.rounds {
            let policy = POLICIES[round as usize % POLICIES.len()];
            let instant = args.within * chance.unit();
            let second = (round % 3 == 2).then(|| args.within * SECOND_SHARE * chance.unit());
            let row = kills
                .round(policy, instant, second, &queues)
                .with_context(|| format!("round {round}, {policy}, killed after {instant:.3} s"))?;
            let second = second.map_or_else(String::new, |second| format!("{second:.3}"));
            let line = format!("{round},{policy},{instant:.3},{second},{row}\n");
            print!("{line}");
            rows.push_str(&line);
            fs::write(kills.trial.work.join("kills.csv"), &rows)?;
        }
        println!("{} controllers were killed, all were taken over", args.rounds);
        Ok(())
    })
}

struct Kills {
    trial: Trial,
}

impl Kills {
    fn round(
        &self,
        policy: &str,
        instant: f64,
        second: Option<f64>,
        queues: &[String],
    ) -> Result<String> {
        let here = self.occupied()?;
        let there = if here == HOSTS[0] { HOSTS[1] } else { HOSTS[0] };
        let fleet = fleet(NAME);
        let settings = |vm| lab::settings(NAME, here, vm);
        let before = VMS.into_iter().map(settings).collect::<Result<Vec<_>>>()?;
        let drain = ["--fleet", &fleet, "drain", here, "--to", there, "--policy", policy];
        let mut drain = self.trial.spawn(&drain, KILLED)?;
        kill_after(&mut drain, instant)?;
        if let Some(second) = second {
            kill_after(&mut self.trial.spawn(&["--fleet", &fleet, "adopt"], KILLED)?, second)?;
        }
        let began = Instant::now();
        let report = self.trial.work.join("adopted").display().to_string();
        let adopt = ["--fleet", &fleet, "adopt", "--report", &report];
        let output = self.trial.command(&adopt).output().context("starting droveway")?;
        let code = output.status.code().unwrap_or(-1);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(RIGHT.contains(&code), "adopt ended with {code}:\n{said}");
        let took = began.elapsed().as_secs_f64();
        let mut moved = 0;
        for (vm, before) in VMS.into_iter().zip(&before) {
            let states = HOSTS.map(|host| lab::state(NAME, host, vm));
            let [alpha, beta] = states;
            let (alpha, beta) = (alpha?, beta?);
            let runs = [&alpha, &beta].map(|state| state.as_deref() == Some("running"));
            ensure!(
                runs[0] != runs[1],
                "{vm}: {alpha:?} at alpha, {beta:?} at beta after adopt ended with {code}:\n{said}"
            );
            let at = if runs[0] { HOSTS[0] } else { HOSTS[1] };
            moved += u32::from(at == there);
            let other = if runs[0] { &beta } else { &alpha };
            ensure!(
                other.is_none(),
                "{vm}: runs at {at}, and {other:?} at the other host:\n{said}"
            );
            if at == here {
                let now = lab::settings(NAME, here, vm)?;
                ensure!(now == *before, "{vm} stays: {now:?} and not {before:?}:\n{said}");
            }
        }
        ensure!(
            lab::queues(NAME, &HOSTS)? == queues,
            "the ports' queues are not as before:\n{said}"
        );
        // What stayed moves after all, so that the next round finds all of them at one host.
        if moved > 0 && moved < 4 {
            self.trial.droveway(&["--fleet", &fleet, "drain", here, "--to", there])?;
        }
        Ok(format!("{code},{took:.2},{moved}"))
    }

    /// The host that has the VMs.
    fn occupied(&self) -> Result<&'static str> {
        for host in HOSTS {
            if lab::state(NAME, host, VMS[0])?.is_some_and(|state| state == "running") {
                return Ok(host);
            }
        }
        bail!("{} runs nowhere", VMS[0])
    }
}
