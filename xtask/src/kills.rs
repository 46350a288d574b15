//! `cargo xtask kills`: the controller of real drains is killed (`kill -9`) at random instants, and another one takes over.
//!
//! Each round drains four VMs to the other host, kills the controller at an instant drawn from the seed, calls
//! `droveway adopt`, and then asks the QEMUs themselves: every VM runs at one host and at one only, nothing waits at the other,
//! and the ports' queues are as before. In every third round the one that takes over is killed, too.

use crate::{
    guest_image,
    lab::{self, fleet},
    prerequisites, run, target_dir, workspace_root,
};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

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
/// A drain takes some ten seconds, its preparation included: instants lie between nothing and this.
const INSTANT_MAX: f64 = 12.0;
/// Who takes over has done most of it by then.
const SECOND_INSTANT_MAX: f64 = 4.0;
/// Applications run undisturbed for so long before the first drain.
const SETTLE: Duration = Duration::from_secs(3);
/// A QEMU that says nothing for so long is none.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Exit codes with which a take-over is right: done, the rest safe at the source, a limit missed, nothing was touched yet.
const RIGHT: [i32; 4] = [0, 5, 6, 130];

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct KillsArgs {
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// How often a controller is killed
    #[arg(long, value_name = "N", default_value_t = 30)]
    rounds: u32,
    /// Where the instants come from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Try this program instead of building one
    #[arg(long, value_name = "FILE")]
    droveway: Option<PathBuf>,
}

pub(crate) fn run_it(args: &KillsArgs) -> Result<()> {
    let root = workspace_root();
    prerequisites::ensure(args.yes)?;
    if args.droveway.is_none() {
        let build = ["build", "--release", "--locked", "--package", "droveway"];
        run(Command::new(env!("CARGO")).current_dir(&root).args(build))?;
    }
    let image = guest_image(&root)?;
    let work = target_dir(&root).join("kills");
    lab::empty(&work)?;
    let droveway = args.droveway.clone();
    let trial = Trial {
        droveway: droveway.unwrap_or_else(|| target_dir(&root).join("release/droveway")),
        image,
        work,
    };
    let mut chance = args.seed;
    let scenario = root.join("scenarios").join(format!("{NAME}.yaml"));
    lab::with(
        &scenario,
        |words| trial.droveway(words),
        SETTLE,
        || {
            let queues = trial.queues()?;
            let mut rows =
                String::from("round,policy,instant_s,second_instant_s,adopt_exit,adopt_s,moved\n");
            for round in 0..args.rounds {
                let policy = POLICIES[round as usize % POLICIES.len()];
                let instant = INSTANT_MAX * unit(&mut chance);
                let second = (round % 3 == 2).then(|| SECOND_INSTANT_MAX * unit(&mut chance));
                let row = trial.round(policy, instant, second, &queues).with_context(|| {
                    format!("round {round}, {policy}, killed after {instant:.3} s")
                })?;
                let second = second.map_or_else(String::new, |second| format!("{second:.3}"));
                let line = format!("{round},{policy},{instant:.3},{second},{row}\n");
                print!("{line}");
                rows.push_str(&line);
                fs::write(trial.work.join("kills.csv"), &rows)?;
            }
            println!("{} controllers were killed, all were taken over", args.rounds);
            Ok(())
        },
    )
}

/// Uniform in `[0, 1)` (SplitMix64).
#[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
fn unit(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

struct Trial {
    droveway: PathBuf,
    image: PathBuf,
    work: PathBuf,
}

impl Trial {
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
        let mut drain =
            self.spawn(&["--fleet", &fleet, "drain", here, "--to", there, "--policy", policy])?;
        kill_after(&mut drain, instant)?;
        if let Some(second) = second {
            kill_after(&mut self.spawn(&["--fleet", &fleet, "adopt"])?, second)?;
        }
        let began = Instant::now();
        let report = self.work.join("adopted").display().to_string();
        let adopt = ["--fleet", &fleet, "adopt", "--report", &report];
        let output = self.command(&adopt).output().context("starting droveway")?;
        let code = output.status.code().unwrap_or(-1);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(RIGHT.contains(&code), "adopt ended with {code}:\n{said}");
        let took = began.elapsed().as_secs_f64();
        let mut moved = 0;
        for vm in VMS {
            let states = HOSTS.map(|host| self.state(host, vm));
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
        }
        ensure!(self.queues()? == queues, "the ports' queues are not as before:\n{said}");
        // What stayed moves after all, so that the next round finds all of them at one host.
        if moved > 0 && moved < 4 {
            self.droveway(&["--fleet", &fleet, "drain", here, "--to", there])?;
        }
        Ok(format!("{code},{took:.2},{moved}"))
    }

    /// The host that has the VMs.
    fn occupied(&self) -> Result<&'static str> {
        for host in HOSTS {
            if self.state(host, VMS[0])?.is_some_and(|state| state == "running") {
                return Ok(host);
            }
        }
        bail!("{} runs nowhere", VMS[0])
    }

    /// What a QEMU says of its vCPUs; `None`: there is none.
    fn state(&self, host: &str, vm: &str) -> Result<Option<String>> {
        let socket = format!("/run/droveway/labs/{NAME}/{host}/{vm}.qmp");
        let stream = match UnixStream::connect(&socket) {
            Ok(stream) => stream,
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| format!("connecting to {socket}")),
        };
        stream.set_read_timeout(Some(ANSWER_TIME))?;
        let mut writer = stream.try_clone()?;
        let mut lines = BufReader::new(stream).lines();
        lines.next().context("no greeting")??;
        let mut answer = Value::Null;
        for command in ["qmp_capabilities", "query-status"] {
            writeln!(writer, "{}", json!({ "execute": command }))?;
            answer = loop {
                let line = lines.next().with_context(|| format!("{socket}: no answer"))??;
                let message: Value = serde_json::from_str(&line)?;
                if message.get("event").is_none() {
                    break message;
                }
            };
        }
        let state = answer["return"]["status"].as_str();
        Ok(Some(state.with_context(|| format!("{socket}: {answer}"))?.to_owned()))
    }

    /// What queues both ports have.
    fn queues(&self) -> Result<Vec<String>> {
        let of = |host: &str| {
            let namespace = format!("dw-{NAME}_{host}");
            let show = ["-n", &namespace, "qdisc", "show"];
            let output = Command::new("tc").args(show).output().context("starting tc")?;
            ensure!(output.status.success(), "tc: {}", String::from_utf8_lossy(&output.stderr));
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        HOSTS.into_iter().map(of).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.droveway);
        command
            .args(arguments)
            .env("DROVEWAY_GUEST_IMAGE", &self.image)
            .env("DROVEWAY_STATE", self.work.join("state"))
            .env_remove("DROVEWAY_FLEET")
            .stdin(Stdio::null());
        command
    }

    fn spawn(&self, arguments: &[&str]) -> Result<Child> {
        let log = fs::File::create(self.work.join("killed.log"))?;
        let mut command = self.command(arguments);
        command.stdout(Stdio::null()).stderr(log);
        command.spawn().with_context(|| format!("starting {}", self.droveway.display()))
    }

    fn droveway(&self, arguments: &[&str]) -> Result<()> {
        println!("> droveway {}", arguments.join(" "));
        let status = self.command(arguments).status();
        let status = status.with_context(|| format!("starting {}", self.droveway.display()))?;
        ensure!(status.success(), "droveway {} ended with {status}", arguments.join(" "));
        Ok(())
    }
}

/// Kills a program so long after now, unless it has ended by itself.
fn kill_after(child: &mut Child, seconds: f64) -> Result<()> {
    // The instant is the point here: nothing is waited for.
    std::thread::sleep(Duration::from_secs_f64(seconds));
    if child.try_wait()?.is_none() {
        child.kill().context("killing the controller")?;
    }
    child.wait().context("waiting for the controller's end")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_those_of_the_seed_and_lie_in_the_drain() {
        let draw = |seed: u64| {
            let mut state = seed;
            (0..100).map(|_| unit(&mut state)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(3).iter().all(|it| (0.0..1.0).contains(it)));
    }
}
