//! `cargo xtask`: what a developer, CI and a newcomer run. Needs nothing but cargo, a Debian or Ubuntu, and root.
#![expect(clippy::print_stdout, reason = "a program for people")]

mod adapt;
mod demo;
mod faults;
mod guest_image;
mod kills;
mod lab;
mod picture;
mod prerequisites;
mod simulator;
mod tests_of_all;
mod tidy;
mod validate;
mod watch_pictures;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Droveway's own tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// From a fresh machine to a result: three real VMs under traffic leave a host, twice, and both reports
    Demo {
        /// Install what is missing without asking
        #[arg(long)]
        yes: bool,
    },
    /// All tests, those in the lab included
    Test {
        /// Install what is missing without asking
        #[arg(long)]
        yes: bool,
    },
    /// Build the guests' kernel and initramfs
    GuestImage {
        /// Install what is missing without asking
        #[arg(long)]
        yes: bool,
    },
    /// Forecasts against real runs: some laboratories to learn from, over 40 runs in others; about half an hour
    Validate(validate::ValidateArgs),
    /// Real runs whose world changes under way, and real runs with deadlines; about three quarters of an hour
    Adapt(adapt::AdaptArgs),
    /// Controllers of real drains killed at random instants, and taken over; some ten minutes
    Kills(kills::KillsArgs),
    /// Every fault on real VMs, with every technique; three quarters of an hour
    Faults(faults::FaultsArgs),
    /// Pictures of `droveway watch` in real terminals of 80x24 and 200x50, with colours and without; about a minute
    WatchPictures(watch_pictures::PicturesArgs),
    /// Check what no compiler checks: purity of the pure crates, sizes of files
    Tidy,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Demo { yes } => demo::run_it(yes),
        Task::Test { yes } => tests_of_all::run(yes),
        Task::GuestImage { yes } => prerequisites::ensure(yes).and_then(|()| {
            let image = guest_image(&workspace_root())?;
            println!("{}", image.display());
            Ok(())
        }),
        Task::Validate(args) => validate::run_it(&args),
        Task::Adapt(args) => adapt::run_it(&args),
        Task::Kills(args) => kills::run_it(&args),
        Task::Faults(args) => faults::run_it(&args),
        Task::WatchPictures(args) => watch_pictures::run_it(&args),
        Task::Tidy => tidy::run(&workspace_root()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // Cargo's users know 1; a missing right has a code of its own.
            let denied = error.downcast_ref::<prerequisites::NotRoot>().is_some();
            ExitCode::from(if denied { 8 } else { 1 })
        }
    }
}

/// The workspace that this program was built from.
fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Where cargo builds to.
fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// Builds the guest image if it is not current; `droveway` looks for it there.
fn guest_image(root: &Path) -> Result<PathBuf> {
    let folder = target_dir(root).join("guest-image");
    let image = guest_image::ensure(root, &folder, |line| println!("{line}"))
        .context("building the guest image")?;
    Ok(image.dir)
}

/// Runs a program to its end, its output visible.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
