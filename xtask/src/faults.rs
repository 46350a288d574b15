//! `cargo xtask faults`: real drains of real VMs, and something that goes wrong in the middle of each.
//!
//! Every fault meets every technique at some instants, each drawn from the seed in a part of the run of its own. Afterwards
//! the world is asked, not the program: every VM runs at one host and at one only, or is called lost where the fault took it;
//! what it kept in its memory is there, byte by byte, over the connection of before; the ports' queues are as before; nothing
//! is left; and the exit code says what is so.

mod cache;
mod case;
mod judge;
mod meet;
mod strike;
mod table;
mod world;

use crate::{
    lab::{Trial, TrialArgs},
    prerequisites, target_dir, workspace_root,
};
use anyhow::{Context as _, Result, bail, ensure};
use case::{Case, Fault, Technique};
use clap::ValueEnum as _;
use nix::mount::{MntFlags, umount2};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};
pub(crate) use strike::clock_library;
use table::{HEADER, Matrix, Row};
use world::{LAB, World, said};

/// The folder in the target directory, and the file of the rows.
const NAME: &str = "faults";
const ROWS: &str = "faults.csv";
/// An instant that came too late is drawn nearer, so often.
const EARLIER_TRIES: u32 = 4;
const EARLIER: f64 = 0.85;
/// The last part of an undisturbed run is over in a run that is a little quicker.
const LATEST: f64 = 0.97;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FaultsArgs {
    #[command(flatten)]
    trial: TrialArgs,
    /// At how many instants each fault meets each technique
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    instants: u32,
    /// Where instants, VMs, durations and strengths come from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Only these (repeatable)
    #[arg(long, value_name = "NAME", value_enum)]
    fault: Vec<Fault>,
    /// Only these (repeatable)
    #[arg(long, value_name = "NAME", value_enum)]
    technique: Vec<Technique>,
    /// Only this of the instants, counted from 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    instant: Option<u32>,
    /// So many seconds from the drain's start, instead of at the instant that was drawn
    #[arg(long, value_name = "SECONDS")]
    at: Option<f64>,
    /// Go on with what an earlier one of the same seed left; trials that failed are made again
    #[arg(long)]
    resume: bool,
    /// Leave the rows in docs/data and the table in docs/faults.md
    #[arg(long)]
    docs: bool,
}

pub(crate) fn run_it(args: &FaultsArgs) -> Result<()> {
    let root = workspace_root();
    let folder = target_dir(&root).join(NAME);
    // What a trial that was killed left mounted is in the way of emptying the folder.
    let _ = umount2(&folder.join("disk"), MntFlags::MNT_DETACH);
    let earlier = if args.resume {
        fs::read_to_string(folder.join(ROWS)).unwrap_or_default()
    } else {
        String::new()
    };
    let cases = cases(args);
    ensure!(!cases.is_empty(), "no instant is left: --instant {:?}", args.instant);
    prerequisites::ensure(args.trial.yes)?;
    if cases.iter().any(|case| case.fault == Fault::ClockStep) {
        prerequisites::ensure_clock(args.trial.yes)?;
    }
    let trial = Trial::prepare(NAME, &args.trial)?;
    let scenario = root.join("scenarios").join(format!("{LAB}.yaml"));
    let mut matrix = Trials {
        trial: &trial,
        scenario: &scenario,
        world: None,
        undisturbed: BTreeMap::new(),
        rows: kept(&earlier),
        args,
    };
    let began = Instant::now();
    let done = table::done(&matrix.rows);
    let key = |case: &Case| (case.fault.name(), case.technique.name(), case.number.to_string());
    let outcome = cases
        .iter()
        .filter(|case| !done.contains(&key(case)))
        .try_for_each(|case| matrix.trial(case));
    matrix.world = None;
    said(&trial, &["lab", "down", LAB])?;
    outcome?;
    let found = Matrix::read(&matrix.rows)?;
    println!("\n{}\nIt took {:.0} s.", found.table(), began.elapsed().as_secs_f64());
    if args.docs {
        fs::write(root.join("docs/data").join(ROWS), &matrix.rows)?;
        let page = root.join("docs/faults.md");
        let text = table::with_table(&fs::read_to_string(&page)?, &found.table())?;
        fs::write(&page, text)?;
    }
    match found.failed() {
        0 => Ok(()),
        failed => {
            bail!("{failed} trials failed; what was seen is in {}", failures(&trial).display())
        }
    }
}

/// The rows of an earlier matrix that need not be made again.
fn kept(earlier: &str) -> String {
    let mut rows = format!("{HEADER}\n");
    for line in earlier.lines().skip(1).filter(|line| table::kept_promises(line)) {
        rows.push_str(line);
        rows.push('\n');
    }
    rows
}

fn cases(args: &FaultsArgs) -> Vec<Case> {
    let wanted = |fault: &Fault| args.fault.is_empty() || args.fault.contains(fault);
    let used = |it: &Technique| args.technique.is_empty() || args.technique.contains(it);
    let numbers = || (1..=args.instants).filter(|n| args.instant.is_none_or(|only| only == *n));
    let mut cases = Vec::new();
    for fault in Fault::value_variants().iter().filter(|fault| wanted(fault)) {
        for technique in Technique::value_variants().iter().filter(|it| used(it)) {
            let of = |number| Case::draw(args.seed, *fault, *technique, number, args.instants);
            cases.extend(numbers().map(of));
        }
    }
    // Whoever interrupts it has seen every fault as often as every other.
    cases.sort_by_key(|case| case.number);
    cases
}

fn failures(trial: &Trial) -> PathBuf {
    trial.work.join("failed")
}

/// The matrix while it grows.
struct Trials<'a> {
    trial: &'a Trial,
    scenario: &'a Path,
    /// The laboratory, if it is up and whole.
    world: Option<World<'a>>,
    /// How long an undisturbed drain takes.
    undisturbed: BTreeMap<Technique, f64>,
    rows: String,
    args: &'a FaultsArgs,
}

impl<'a> Trials<'a> {
    fn trial(&mut self, case: &Case) -> Result<()> {
        let mut row = Row::default();
        let met = self.met(case, &mut row);
        let failed = met.is_err();
        println!("{}", row.line(case, failed));
        if let Err(error) = met {
            self.keep(case, &row, &error)?;
        }
        // A laboratory in which something did not hold proves nothing in the next trial.
        let spoilt =
            failed || case.fault.spoils_the_lab() || row.end.is_none_or(judge::End::took_a_vm);
        if spoilt {
            self.world = None;
        }
        self.rows.push_str(&row.csv(case, failed));
        self.rows.push('\n');
        // What was found so far survives an interruption.
        fs::write(self.trial.work.join(ROWS), &self.rows).context("writing the rows")
    }

    fn met(&mut self, case: &Case, row: &mut Row) -> Result<()> {
        let mut at = match self.args.at {
            Some(at) => at,
            None => case.share * LATEST * self.undisturbed(case.technique)?,
        };
        let mut case = *case;
        if self.args.at.is_some() {
            case.split_after = None;
        }
        for _ in 0..EARLIER_TRIES {
            if meet::meet(self.world()?, &case, at, row)? {
                return Ok(());
            }
            // A hybrid that little is left of is a pre-copy, and one split too shortly is not met.
            if case.split_after.take().is_none() {
                at *= EARLIER;
            }
        }
        bail!("the run was over before the fault, {EARLIER_TRIES} times")
    }

    fn world(&mut self) -> Result<&mut World<'a>> {
        let world = match self.world.take() {
            Some(world) => world,
            None => World::up(self.trial, self.scenario)?,
        };
        Ok(self.world.insert(world))
    }

    fn undisturbed(&mut self, technique: Technique) -> Result<f64> {
        if let Some(seconds) = self.undisturbed.get(&technique) {
            return Ok(*seconds);
        }
        let seconds = meet::undisturbed(self.world()?, technique)
            .with_context(|| format!("an undisturbed drain by {}", technique.name()))?;
        println!("{:<16} {:<13} takes {seconds:.1} s", "(nothing)", technique.name());
        self.undisturbed.insert(technique, seconds);
        Ok(seconds)
    }

    /// Tells what did not hold, and how to see it again.
    fn keep(&self, case: &Case, row: &Row, error: &anyhow::Error) -> Result<()> {
        println!("  {error:#}");
        let mut again = format!(
            "cargo xtask faults --seed {} --instants {} --fault {} --technique {} --instant {}",
            self.args.seed,
            self.args.instants,
            case.fault.name(),
            case.technique.name(),
            case.number
        );
        if row.at > 0.0 {
            // Where an undisturbed run takes longer or shorter, the same share of it is another instant.
            again += &format!(" --at {:.3}", row.at);
        }
        println!("  again: {again}");
        let folder = failures(self.trial).join(case.name());
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("what.txt"), format!("{error:#}\n{again}\n"))?;
        fs::write(folder.join("qemus.txt"), world::qemus())?;
        let report = self.trial.work.join("report/report.json");
        for file in [meet::log_file(self.trial), self.trial.work.join("fault.log"), report] {
            if let (true, Some(name)) = (file.exists(), file.file_name()) {
                fs::copy(&file, folder.join(name))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        faults: FaultsArgs,
    }

    fn args(words: &str) -> FaultsArgs {
        Line::parse_from(std::iter::once("xtask").chain(words.split_whitespace())).faults
    }

    #[test]
    fn all_faults_meet_all_techniques_or_those_that_are_named() {
        assert_eq!(cases(&args("")).len(), 12 * 4 * 5);
        assert_eq!(cases(&args("--instants 1")).len(), 12 * 4);
        let named = "--fault freeze --fault loss --technique hybrid --instant 3";
        let found = cases(&args(named));
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|case| case.number == 3 && case.technique == Technique::Hybrid));
        // The one command that repeats a trial draws the same.
        assert!(found.iter().all(|case| cases(&args("")).contains(case)));
        assert!(cases(&args("--instants 2 --instant 3")).is_empty());
    }

    #[test]
    fn what_failed_is_made_again() {
        let rows = format!("{HEADER}\na,b,1,,,,,,,,,moved\na,b,2,,,,,,,,,FAILED\n");
        assert_eq!(kept(&rows), format!("{HEADER}\na,b,1,,,,,,,,,moved\n"));
        assert_eq!(kept(""), format!("{HEADER}\n"));
    }
}
