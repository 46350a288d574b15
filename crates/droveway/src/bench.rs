//! `bench run`, `bench report`: every run that a suite asks for, one after the other, and what they say together.
//!
//! What is decided without touching anything (cells, order, statistics, figures, pages) is in `droveway-bench`; here are
//! files, laboratories and processes.

mod changes;
mod labs;
mod png;
mod progress;
mod simulated;
mod steady;
mod store;

use crate::{
    cli::{self, Output},
    exit::{Exit, Failure},
    state,
};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use droveway_bench::{
    Cell, CellResult, Resolved,
    compare::{Bench, analyse},
    figures, page,
    suite::{self, Stage, SuiteSpec},
    tables,
};
use droveway_fleet::{
    AllowPostcopy, Intent, RunReport,
    document::{self, Spec as _},
    scenario::{Scenario, ScenarioSpec},
};
use progress::Progress;
use std::{
    fs,
    path::{Path, PathBuf},
};
use store::Store;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Make every run of a suite that is not there yet, and report. Exit code 5 if cells have no run that counts
    Run(BenchRunArgs),
    /// Report on what is there: tables, figures, an HTML page and Markdown
    Report {
        /// The results' folder
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BenchRunArgs {
    /// The suite
    pub(crate) suite: PathBuf,
    /// The results' folder: suite, cells with all their reports, tables, figures, report
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Run it there, whatever the suite says: its simulated runs on the lab, or the other way round
    #[arg(long, value_parser = ["lab", "simulator"])]
    pub(crate) stage: Option<String>,
    /// Go on where an earlier run of the same suite into that folder ended
    #[arg(long)]
    pub(crate) resume: bool,
}

pub(crate) fn run(
    command: BenchCommand,
    calibration: Option<&Path>,
    output: Output,
) -> Result<Exit, Failure> {
    match command {
        BenchCommand::Run(args) => run_suite(&args, calibration, output),
        BenchCommand::Report { dir } => {
            let store = Store::open(&dir)?;
            report(&store, output)
        }
    }
}

fn run_suite(
    args: &BenchRunArgs,
    calibration: Option<&Path>,
    output: Output,
) -> Result<Exit, Failure> {
    let stage = args.stage.as_deref().map(|name| match name {
        "simulator" => Stage::Simulator,
        _ => Stage::Lab,
    });
    let resolved = resolved(&args.suite, stage)?;
    let store = Store::begin(&args.out, resolved, args.resume, calibration)?;
    let cells = store.left()?;
    let mut progress = Progress::new(&store, &cells)?;
    let done = match store.resolved.suite.spec.stage {
        Stage::Lab => labs::run(&store, &cells, &mut progress)?,
        Stage::Simulator => simulated::run(&store, &cells, &mut progress)?,
    };
    progress.end();
    if done == Exit::Interrupted {
        eprintln!("interrupted: what was run is kept; `--resume` goes on from there");
        return Ok(done);
    }
    report(&store, output)
}

/// The suite in a file, with its scenarios; on another stage than it says, if one is named.
fn resolved(path: &Path, stage: Option<Stage>) -> Result<Resolved, Failure> {
    let origin = path.display().to_string();
    let text =
        fs::read_to_string(path).map_err(|error| Failure::usage(format!("{origin}: {error}")))?;
    let mut suite = document::parse::<SuiteSpec>(&text, &origin)
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    if let Some(stage) = stage {
        suite.spec.stage = stage;
        // What has no meaning on that stage is refused, as if it stood in the file.
        if let Some(problem) = suite.spec.problems().into_iter().next() {
            let text = format!("{origin}: {}: {}", problem.path, problem.message);
            return Err(Failure::usage(text));
        }
    }
    let read = |file: &str| -> Result<Scenario, String> {
        let path = path.with_file_name(file);
        let origin = path.display().to_string();
        let text = fs::read_to_string(&path).map_err(|error| format!("{origin}: {error}"))?;
        document::parse::<ScenarioSpec>(&text, &origin).map_err(|error| error.to_string())
    };
    suite::resolve(suite, &origin, read).map_err(|error| Failure::new(Exit::Usage, error))
}

/// The scenario of that name in a resolved suite, as a document.
fn scenario(resolved: &Resolved, name: &str) -> Result<Scenario, Failure> {
    let found = resolved.suite.spec.scenarios.iter().find(|it| it.name.as_str() == name);
    found
        .and_then(|it| Some(Scenario::new(it.name.clone(), it.spec.clone()?)))
        .ok_or_else(|| Failure::says(Exit::Internal, format!("there is no scenario '{name}'")))
}

/// The hosts that a run leaves and goes to: the first that has VMs, and the first other one.
fn ends(spec: &ScenarioSpec) -> Option<[&droveway_fleet::HostId; 2]> {
    let hosts = || spec.hosts.iter().map(|host| &host.name);
    let source = hosts().find(|host| spec.vms.iter().any(|vm| vm.host == **host))?;
    Some([source, hosts().find(|host| *host != source)?])
}

/// What a cell asks for, in full: every limit is said, so that no policy has another's default.
fn intent(resolved: &Resolved, cell: &Cell, spec: &ScenarioSpec) -> Option<Intent> {
    let (policy, asked) = (resolved.policy(cell)?, resolved.intent(cell)?);
    let [source, target] = ends(spec)?;
    let here = spec.vms.iter().filter(|vm| vm.host == *source);
    let names = here.map(|vm| vm.name.clone()).collect();
    let limits = &resolved.suite.spec.limits;
    let mut intent = Intent::drain(source.clone(), target.clone(), names, &policy.policy);
    intent.max_downtime = limits.max_downtime;
    intent.bandwidth = limits.bandwidth;
    intent.max_passes = limits.max_passes;
    if !limits.allow_postcopy {
        intent.allow_postcopy = AllowPostcopy::Never;
    }
    intent.urgency = asked.urgency;
    intent.deadline = asked.deadline;
    intent.floor = asked.floor;
    intent.reserve = policy.reserve;
    intent.shaping = policy.shaping;
    Some(intent)
}

/// Whether each VM of a scenario has a probe.
fn is_probed(spec: &ScenarioSpec) -> bool {
    spec.probe.enabled && !spec.clients.is_empty()
}

/// Tables, figures and pages of what is there.
fn report(store: &Store, output: Output) -> Result<Exit, Failure> {
    let bench = Bench { resolved: store.resolved.clone(), results: store.results()? };
    let analysis = analyse(&bench);
    let reports: Vec<(Cell, RunReport)> = figures::wanted(&bench)
        .into_iter()
        .filter_map(|cell| Some((store.report(&bench, &cell)?, cell)))
        .map(|(report, cell)| (cell, report))
        .collect();
    let figures = figures::all(&bench, &analysis, &reports)
        .map_err(|error| anyhow::anyhow!("drawing: {error}"))?;
    let write = |name: &str, text: &str| state::write_text(text, &store.dir.join(name));
    write("runs.csv", &tables::runs(&bench))?;
    write("vms.csv", &tables::vms(&bench))?;
    write("applications.csv", &tables::applications(&bench))?;
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Everything<'a> {
        suite: &'a Resolved,
        analysis: &'a droveway_bench::compare::Analysis,
        results: &'a [CellResult],
    }
    let everything =
        Everything { suite: &bench.resolved, analysis: &analysis, results: &bench.results };
    state::write(&everything, &store.dir.join("results.json"))?;
    let painter = png::Painter::new();
    if painter.is_none() && !figures.is_empty() {
        eprintln!("this machine has no font: figures are SVG only");
        eprintln!(
            "hint: install one (fonts-dejavu-core) and run `droveway bench report` again for PNGs"
        );
    }
    for figure in &figures {
        write(&format!("figures/{}.svg", figure.name), &figure.svg)?;
        if let Some(painter) = &painter {
            let png = painter.paint(&figure.svg)?;
            state::write_bytes(&png, &store.dir.join(format!("figures/{}.png", figure.name)))?;
        }
    }
    write("report.html", &page::html(&bench, &analysis, &figures))?;
    write("report.md", &page::markdown(&bench, &analysis, &figures))?;
    tell(store, &analysis, output)?;
    let complete = analysis.counts.counted == analysis.counts.cells;
    Ok(if complete { Exit::Done } else { Exit::Partly })
}

#[expect(clippy::print_stdout, reason = "the command's data")]
fn tell(
    store: &Store,
    analysis: &droveway_bench::compare::Analysis,
    output: Output,
) -> Result<(), Failure> {
    if output != Output::Table {
        return cli::print_data(analysis, output);
    }
    let counts = &analysis.counts;
    println!(
        "{} of {} cells have a run that counts; {} of {} VMs moved, {} were lost",
        counts.counted, counts.cells, counts.completed, counts.moves, counts.lost
    );
    println!("report: {}", store.dir.join("report.html").display());
    Ok(())
}

/// Reads a run's report, if there is one.
fn read_report(path: &Path) -> Result<Option<RunReport>, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::usage(format!("{}: {error}", path.display()))),
    };
    let report = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(Some(report))
}
