//! `cargo xtask adapt`: real runs whose world changes, and real runs with deadlines.
//!
//! Each change (`scenarios/adapt`) meets the same gang three ways, in labs of their own: carried out as planned, planned again,
//! and planned by who knew the change beforehand (from a measurement of the changed world). Deadlines run from a tenth of
//! slack to three times the shortest time. Takes about three quarters of an hour of a quiet machine.

use crate::{
    lab::{self, Trial, TrialArgs, fleet},
    workspace_root,
};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

/// The changes.
const CHANGES: [&str; 4] = ["reversed", "writer", "halved", "resident"];
/// The ways to meet one.
const WAYS: [&str; 3] = ["as planned", "planned again", "who knew it"];
/// Slack of the runs with deadlines, in percent of the shortest time that is forecast.
const SLACKS: [u32; 20] =
    [10, 15, 20, 25, 30, 35, 40, 50, 60, 70, 80, 90, 100, 120, 140, 160, 180, 200, 250, 300];
/// How a decision begins that changes nothing.
const STAYS: &str = "go on as planned";
/// A run with busier CPUs measures the machine: it does not count, and is made again.
const BUSY_MOST: f64 = 0.9;
/// A run is made so often at most.
const TRIES: u32 = 3;
/// How long is measured before each run.
const MEASURE: &str = "4s";
/// Limited flows make up for a silence. A run waits until they want no more than so many times what they did at first, but looks
/// only so often: else what is usual would be taken for two or three times as much, and its loss with it.
const STEADY_RATIO: f64 = 1.15;
const STEADY_LOOKS: u32 = 10;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AdaptArgs {
    #[command(flatten)]
    trial: TrialArgs,
    /// Leave the data in docs/data instead of target/adapt
    #[arg(long)]
    docs: bool,
    /// How often each change is met each way
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: u32,
    /// Only these: changes by their scenario's name, and `deadlines`
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

pub(crate) fn run_it(args: &AdaptArgs) -> Result<()> {
    let known = || CHANGES.into_iter().chain(["deadlines"]);
    if let Some(unknown) = args.only.iter().find(|name| !known().any(|of| of == *name)) {
        bail!("--only {unknown}: there is {}", known().collect::<Vec<_>>().join(", "));
    }
    let root = workspace_root();
    let trial = Trial::prepare("adapt", &args.trial)?;
    let adapting = Adapting {
        scenarios: root.join("scenarios/adapt"),
        data: if args.docs { root.join("docs/data") } else { trial.work.clone() },
        trial,
    };
    fs::create_dir_all(&adapting.data)?;
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let began = Instant::now();
    let changes: Vec<&str> = CHANGES.into_iter().filter(|name| wanted(name)).collect();
    if !changes.is_empty() {
        adapting.changes(&changes, args.rounds)?;
    }
    if wanted("deadlines") {
        adapting.deadlines()?;
    }
    println!("It took {:.0} s.", began.elapsed().as_secs_f64());
    Ok(())
}

/// A drain with a deadline.
struct DeadlineRun {
    /// The shortest time that was forecast, seconds.
    shortest: f64,
    deadline: f64,
    /// Whether it was kept, and how it went; `None`: it was called infeasible before it began.
    outcome: Option<(bool, Figures)>,
}

impl DeadlineRun {
    fn row(&self, slack: u32) -> String {
        let asked = format!("{slack},{:.2},{:.2}", self.shortest, self.deadline);
        match self.outcome {
            None => format!("{asked},false,,,,,"),
            Some((kept, got)) => format!(
                "{asked},true,{kept},{:.2},{:.4},{},{:.3}",
                got.seconds, got.loss_ratio, got.changes, got.cpu_busy_ratio
            ),
        }
    }
}

struct Adapting {
    trial: Trial,
    scenarios: PathBuf,
    data: PathBuf,
}

/// What a run's report says of it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figures {
    seconds: f64,
    /// Of all traffic, against what it carried before.
    loss_ratio: f64,
    /// Plans that took another's place.
    changes: usize,
    /// The least margin of one, seconds of the urgency's cost.
    least_margin: f64,
    /// The most of them within a minute.
    changes_per_minute: usize,
    worst_outage_seconds: f64,
    cpu_busy_ratio: f64,
}

impl Figures {
    fn counts(&self) -> bool {
        self.cpu_busy_ratio <= BUSY_MOST
    }
}

impl Adapting {
    /// Round by round, so that a machine that becomes slower does so for all three ways.
    fn changes(&self, names: &[&str], rounds: u32) -> Result<()> {
        let mut rows = String::from(
            "change,round,way,seconds,loss_ratio,changes,least_margin_s,changes_per_minute,worst_outage_s,cpu_busy_ratio\n",
        );
        let mut all: Vec<(String, usize, Figures)> = Vec::new();
        for round in 1..=rounds {
            for name in names {
                let known = self.known(name)?;
                for (way, title) in WAYS.iter().enumerate() {
                    let got = self.changed(name, round, way, &known)?;
                    writeln!(
                        rows,
                        "{name},{round},{title},{:.2},{:.4},{},{:.2},{},{:.3},{:.3}",
                        got.seconds,
                        got.loss_ratio,
                        got.changes,
                        got.least_margin,
                        got.changes_per_minute,
                        got.worst_outage_seconds,
                        got.cpu_busy_ratio
                    )?;
                    println!("{name}, round {round}, {title}: {got:?}");
                    all.push(((*name).to_owned(), way, got));
                    // What was found so far survives an interruption.
                    fs::write(self.data.join("adapting-lab.csv"), &rows)?;
                }
            }
        }
        println!(
            "| what changes | as planned | planned again | who knew it | lost of all traffic | changes a run |"
        );
        println!("| --- | --- | --- | --- | --- | --- |");
        for name in names {
            let of = |way: usize, figure: fn(&Figures) -> f64| {
                median(
                    all.iter()
                        .filter(|(n, w, got)| n == name && *w == way && got.counts())
                        .map(|(_, _, got)| figure(got)),
                )
            };
            let seconds = [0, 1, 2].map(|way| format!("{:.1} s", of(way, |got| got.seconds)));
            let losses =
                [0, 1, 2].map(|way| format!("{:.0} %", 100.0 * of(way, |got| got.loss_ratio)));
            #[expect(clippy::cast_precision_loss, reason = "a few changes")]
            let changes = of(1, |got| got.changes as f64);
            println!("| {name} | {} | {} | {changes} |", seconds.join(" | "), losses.join(", "));
        }
        Ok(())
    }

    /// The measurement of the world as it will be.
    fn known(&self, name: &str) -> Result<String> {
        let file = self.trial.work.join(format!("{name}-known.json")).display().to_string();
        self.in_lab(name, || {
            self.trial.droveway(&["lab", "play", name, "--at-once"])?;
            lab::settle();
            let fleet = fleet(name);
            self.trial.droveway(&["--fleet", &fleet, "measure", "--for", MEASURE, "--save", &file])
        })?;
        Ok(file)
    }

    /// The first run of a few that counts; the last if none does, which its row tells.
    fn changed(&self, name: &str, round: u32, way: usize, known: &str) -> Result<Figures> {
        for _ in 1..TRIES {
            let got = self.changed_once(name, round, way, known)?;
            if got.counts() {
                return Ok(got);
            }
            println!("does not count: {got:?}");
        }
        self.changed_once(name, round, way, known)
    }

    fn changed_once(&self, name: &str, round: u32, way: usize, known: &str) -> Result<Figures> {
        let report = self.trial.work.join(format!("{name}-{round}-{way}"));
        let (folder, fleet) = (report.display().to_string(), fleet(name));
        let mut arguments = vec!["--fleet", &fleet, "drain", "alpha", "--to", "beta"];
        // Two at once, so that not everything is under way when something changes.
        arguments.extend(["--urgency", "high", "--max-parallel", "2", "--hold-out"]);
        arguments.extend(["--report", &folder]);
        arguments.extend(if way == 2 { ["--snapshot", known] } else { ["--measure", MEASURE] });
        arguments.extend(["--replan", if way == 1 { "on" } else { "off" }]);
        self.in_lab(name, || {
            let code = self.watched(&arguments, || {
                let mut play = self.trial.command(&["lab", "play", name]);
                play.stdout(Stdio::null()).spawn().context("starting lab play")
            })?;
            if !matches!(code, Some(0 | 6)) {
                bail!("droveway {} ended with {code:?}", arguments.join(" "));
            }
            Ok(())
        })?;
        figures(&report)
    }

    /// Runs a drain, and something else from its first stream on.
    fn watched(
        &self,
        arguments: &[&str],
        begin: impl FnOnce() -> Result<std::process::Child>,
    ) -> Result<Option<i32>> {
        println!("> droveway {}", arguments.join(" "));
        let mut drain =
            self.trial.command(arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let lines = BufReader::new(drain.stderr.take().context("no stderr")?).lines();
        let (mut begin, mut begun) = (Some(begin), None);
        for line in lines {
            let line = line?;
            println!("{line}");
            if line.trim_end().ends_with("pre-copy")
                && let Some(begin) = begin.take()
            {
                begun = Some(begin()?);
            }
        }
        let code = drain.wait()?.code();
        if let Some(mut begun) = begun
            && !begun.wait()?.success()
        {
            bail!("what was to happen beside the drain failed");
        }
        Ok(code)
    }

    /// There and back in one lab, with a deadline that has some slack to the shortest time.
    fn deadlines(&self) -> Result<()> {
        let mut rows = String::from(
            "slack_percent,shortest_s,deadline_s,feasible,met,seconds,loss_ratio,changes,cpu_busy_ratio\n",
        );
        let (mut feasible, mut met, mut invalid) = (0, 0, 0);
        self.in_lab("deadlines", || {
            let mut ends = ("alpha", "beta");
            let usual = self.traffic()?;
            for slack in SLACKS {
                for attempt in 1..=TRIES {
                    self.steady(usual)?;
                    let run = self.deadline(slack, ends)?;
                    ends = (ends.1, ends.0);
                    println!("{}", run.row(slack));
                    let counts = run.outcome.is_none_or(|(_, got)| got.counts());
                    if !counts && attempt < TRIES {
                        println!("does not count: the CPUs were busy");
                        continue;
                    }
                    writeln!(rows, "{}", run.row(slack))?;
                    fs::write(self.data.join("deadlines-lab.csv"), &rows)?;
                    invalid += u32::from(!counts);
                    if let Some((kept, _)) = run.outcome.filter(|_| counts) {
                        feasible += 1;
                        met += u32::from(kept);
                    }
                    break;
                }
            }
            Ok(())
        })?;
        println!(
            "Of {} deadlines {feasible} were called feasible, {met} of them met; {invalid} did not count.",
            SLACKS.len()
        );
        print!("{rows}");
        Ok(())
    }

    /// What all VMs send and receive, bytes per second.
    fn traffic(&self) -> Result<f64> {
        let measure = ["--fleet", &fleet("deadlines"), "-o", "json", "measure", "--for", "3s"];
        let output = self.trial.command(&measure).stderr(Stdio::inherit()).output()?;
        let seen: Value = serde_json::from_slice(&output.stdout).context("a measurement")?;
        let vms = seen["vms"].as_array().context("no VMs were measured")?;
        let rate = |vm: &Value| -> Option<f64> {
            let mean = |way: &str| vm[way]["meanBytesPerSecond"].as_f64();
            Some(mean("tx")? + mean("rx")?)
        };
        vms.iter().map(rate).sum::<Option<f64>>().context("a VM without rates")
    }

    fn steady(&self, usual: f64) -> Result<()> {
        for _ in 0..STEADY_LOOKS {
            if self.traffic()? <= STEADY_RATIO * usual {
                return Ok(());
            }
        }
        println!("flows still make up for what they missed");
        Ok(())
    }

    /// One drain with a deadline. Everybody is at the other end afterwards.
    fn deadline(&self, slack: u32, (from, to): (&str, &str)) -> Result<DeadlineRun> {
        let fleet = fleet("deadlines");
        let plan = ["--fleet", &fleet, "-o", "json", "plan", "drain", from, "--to", to];
        let plan = [&plan[..], &["--urgency", "critical", "--measure", MEASURE]].concat();
        let output = self.trial.command(&plan).stderr(Stdio::inherit()).output()?;
        let plan: Value = serde_json::from_slice(&output.stdout).context("a plan")?;
        let shortest = plan["forecast"]["totalSeconds"]["p50"].as_f64().context("no forecast")?;
        let deadline = shortest * (1.0 + f64::from(slack) / 100.0);
        let report = self.trial.work.join(format!("deadline-{slack}"));
        let (folder, text) = (report.display().to_string(), format!("{:.0}ms", deadline * 1e3));
        let drain = ["--fleet", &fleet, "drain", from, "--to", to, "--urgency", "low"];
        let more = ["--deadline", &text, "--hold-out", "--report", &folder];
        let drain = [&drain[..], &more[..]].concat();
        println!("> droveway {}", drain.join(" "));
        let outcome = match self.trial.command(&drain).status()?.code() {
            Some(3) => {
                // What is not begun leaves everything where it is: moved without a deadline instead.
                let back = ["--fleet", &fleet, "drain", from, "--to", to, "--hold-out"];
                self.trial.droveway(&back)?;
                None
            }
            Some(code @ (0 | 6)) => Some((code == 0, figures(&report)?)),
            code => bail!("droveway {} ended with {code:?}", drain.join(" ")),
        };
        Ok(DeadlineRun { shortest, deadline, outcome })
    }

    /// Does something in a laboratory of its own.
    fn in_lab(&self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.trial.in_lab(&self.scenarios.join(format!("{name}.yaml")), work)
    }
}

fn figures(report: &Path) -> Result<Figures> {
    let file = report.join("report.json");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    read(&serde_json::from_str(&text)?).with_context(|| format!("{}", file.display()))
}

fn read(report: &Value) -> Result<Figures> {
    let list = |name: &str| report[name].as_array().cloned().unwrap_or_default();
    let number = |of: &Value, name: &str| of[name].as_f64();
    let seconds = number(report, "totalMigrationTimeSeconds").context("no total migration time")?;
    let (mut lost, mut carried) = (0.0, 0.0);
    for of in list("applications").iter().filter(|of| of["kind"] != "memory-load") {
        let (Some(before), Some(bytes)) = (number(of, "before"), number(of, "lostBytes")) else {
            continue;
        };
        lost += bytes;
        // Rates of byte streams are in Mbit/s.
        carried += before * 1e6 / 8.0 * seconds;
    }
    // Of the whole gang, under way, and not the answer that all is well as it is.
    let is_change = |decision: &&Value| {
        let stays = decision["choice"].as_str().is_some_and(|text| text.starts_with(STAYS));
        decision["vm"].is_null() && number(decision, "margin").is_some() && !stays
    };
    let changes: Vec<(f64, f64)> = list("decisions")
        .iter()
        .filter(is_change)
        .map(|decision| {
            let margin = number(decision, "margin").unwrap_or(0.0);
            (number(decision, "atSeconds").unwrap_or(0.0), margin)
        })
        .collect();
    let within =
        |from: f64| changes.iter().filter(|(at, _)| (from..from + 60.0).contains(at)).count();
    let outages =
        list("vms").iter().filter_map(|vm| number(vm, "outageSeconds")).fold(0.0, f64::max);
    Ok(Figures {
        seconds,
        loss_ratio: if carried > 0.0 { lost / carried } else { 0.0 },
        changes: changes.len(),
        least_margin: changes.iter().map(|(_, margin)| *margin).fold(f64::INFINITY, f64::min),
        changes_per_minute: changes.iter().map(|(at, _)| within(*at)).max().unwrap_or(0),
        worst_outage_seconds: outages,
        cpu_busy_ratio: number(report, "cpuBusyRatio").unwrap_or(0.0),
    })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_has_its_scenario() {
        for name in CHANGES {
            let file = workspace_root().join(format!("scenarios/adapt/{name}.yaml"));
            assert!(
                fs::read_to_string(&file).is_ok_and(|text| text.contains("changes:")),
                "{name}"
            );
        }
    }

    #[test]
    fn a_report_is_summed_up() {
        let report = serde_json::json!({
            "totalMigrationTimeSeconds": 10.0,
            "cpuBusyRatio": 0.5,
            "applications": [
                { "kind": "tcp", "before": 8.0, "lostBytes": 500_000.0 },
                { "kind": "tcp", "before": 24.0, "lostBytes": 3_500_000.0 },
                { "kind": "memory-load", "before": 9.0, "lostBytes": 90.0 },
            ],
            "vms": [ { "outageSeconds": 0.1 }, { "outageSeconds": 0.4 }, { "outageSeconds": null } ],
            "decisions": [
                { "atSeconds": 0.0, "vm": "a", "choice": "hybrid", "margin": 1.0 },
                { "atSeconds": 1.0, "vm": null, "choice": "go on as planned", "margin": 0.0 },
                { "atSeconds": 2.0, "vm": null, "choice": "a by post-copy", "margin": 3.0 },
                { "atSeconds": 70.0, "vm": null, "choice": "two at once", "margin": 2.0 },
            ],
        });
        let got = read(&report).expect("figures");
        assert!((got.loss_ratio - 0.1).abs() < 1e-12, "{got:?}");
        assert_eq!((got.changes, got.changes_per_minute), (2, 1));
        assert!(
            (got.least_margin - 2.0).abs() < 1e-12
                && (got.worst_outage_seconds - 0.4).abs() < 1e-12
        );
    }
}
