//! `droveway`: moves gangs of running virtual machines over the one port that their applications share.
//!
//! `main` parses and prints; everything else is in the modules. Data goes to stdout, talk to stderr.

mod adopt;
mod bench;
mod calibrate;
mod choice;
mod cli;
mod clock;
mod control;
mod drain;
mod exit;
mod explain;
mod fleet;
mod given;
mod history;
mod lab;
mod lineage;
mod measure;
mod network;
mod outlook;
mod predict;
mod preflight;
mod qemu;
mod recover;
mod render;
mod report;
mod run;
mod runs;
mod show;
mod simulate;
mod state;
mod status;
mod watch;

use clap::Parser;
use cli::{Cli, Command};
use exit::{Exit, Failure};
use std::process::ExitCode;

fn main() -> ExitCode {
    // A closed pipe ends us quietly, as it ends every other tool.
    // SAFETY: restoring the default action of a signal before any thread exists.
    let _ = unsafe {
        nix::sys::signal::signal(
            nix::sys::signal::Signal::SIGPIPE,
            nix::sys::signal::SigHandler::SigDfl,
        )
    };
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let code = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            return ExitCode::from(code.code());
        }
    };
    let level = match cli.verbose {
        0 => "warn",
        1 => "warn,droveway=info",
        _ => "warn,droveway=debug",
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("DROVEWAY_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level)),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
    match run_command(cli) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(failure) => {
            eprintln!("error: {:#}", failure.error);
            if let Some(hint) = &failure.hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(failure.exit.code())
        }
    }
}

fn run_command(cli: Cli) -> Result<Exit, Failure> {
    let (fleet, calibration) = (cli.fleet.as_deref(), cli.calibration_file.as_deref());
    match cli.command {
        Command::Lab(command) => lab::run(command, cli.output),
        Command::LabRunner { spec } => {
            droveway_lab::runner::run(&spec)?;
            Ok(Exit::Done)
        }
        Command::Plan(command) => drain::plan(command, fleet, calibration, cli.output),
        Command::Drain(args) => drain::drain(&args, fleet, calibration, cli.output),
        Command::Migrate(args) => drain::migrate(&args, fleet, calibration, cli.output),
        Command::Predict(args) => predict::run(&args, fleet, calibration, cli.output),
        Command::Calibrate(args) => calibrate::run(&args, fleet, calibration, cli.output),
        Command::Report(args) => match &args.run {
            Some(id) => runs::report(id, fleet, cli.output),
            None if !args.calibration => {
                Err(Failure::usage("say which run: its name, or 'last'; or --calibration")
                    .hint("`droveway runs` lists the runs"))
            }
            None => history::run(&args, fleet, calibration, cli.output),
        },
        Command::Runs => runs::list(fleet, cli.output),
        Command::Set(args) => control::set(&args, fleet),
        Command::Cancel(args) => control::cancel(&args, fleet),
        Command::Switch { vm } => control::switch(&vm, fleet),
        Command::Recover { vm, report } => recover::run(&vm, fleet, report.as_deref()),
        Command::Measure(args) => measure::run(&args, fleet, cli.output),
        Command::Simulate(args) => simulate::run(&args, calibration, cli.output),
        Command::Bench(command) => bench::run(command, calibration, cli.output),
        Command::Status => status::run(fleet, cli.output),
        Command::Adopt(args) => adopt::run(fleet, args.report.as_deref()),
        Command::Watch => watch::run(fleet),
        Command::RestoreNetwork => network::restore(fleet),
        Command::Policies => {
            cli::print_policies(cli.output);
            Ok(Exit::Done)
        }
        Command::Compare { reports } => report::compare(&reports),
        Command::Schema { kind } => cli::print_schema(&kind),
    }
}
