//! `lab up`, `lab status`, `lab play`, `lab fault`, `lab down`.

mod fault;

pub(crate) use fault::LabFault;

use crate::{
    cli::{self, LabCommand, Output},
    exit::{Exit, Failure},
};
use droveway_fleet::{document, fleet::ApplicationUnit, scenario::ScenarioSpec};
use droveway_lab::{LabError, LabInfo, LabOptions};
use std::path::{Path, PathBuf};

/// Where the guest image is, if not beside the executable.
const IMAGE_VARIABLE: &str = "DROVEWAY_GUEST_IMAGE";
/// Where packages put it.
const SYSTEM_IMAGE: &str = "/usr/lib/droveway/guest-image";
/// Where labs keep their state, if not in the usual place: for tests.
const STATE_VARIABLE: &str = "DROVEWAY_LAB_STATE";

pub(crate) fn state_root() -> PathBuf {
    std::env::var_os(STATE_VARIABLE)
        .map_or_else(|| Path::new(crate::fleet::RUNTIME).join("labs"), PathBuf::from)
}

/// `$DROVEWAY_GUEST_IMAGE`, else where `cargo xtask` builds it (beside the build's folder), else where packages put it.
fn image() -> PathBuf {
    if let Some(path) = std::env::var_os(IMAGE_VARIABLE) {
        return PathBuf::from(path);
    }
    let built = std::env::current_exe().ok().and_then(|exe| {
        let image = exe.parent()?.parent()?.join("guest-image");
        image.is_dir().then_some(image)
    });
    built.unwrap_or_else(|| PathBuf::from(SYSTEM_IMAGE))
}

fn options() -> Result<LabOptions, Failure> {
    Ok(LabOptions {
        state_root: state_root(),
        image: image(),
        runner: std::env::current_exe().map_err(anyhow::Error::from)?,
    })
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        let exit = match error.exit_code() {
            2 => Exit::Usage,
            4 => Exit::Blocked,
            8 => Exit::Permission,
            130 => Exit::Interrupted,
            _ => Exit::Internal,
        };
        Failure::new(exit, error)
    }
}

pub(crate) fn run(command: LabCommand, output: Output) -> Result<Exit, Failure> {
    match command {
        LabCommand::Up { scenario } => up(&scenario, output),
        LabCommand::Status { name } => status(name.as_deref(), output),
        LabCommand::Play { name, at_once } => play(name.as_deref(), at_once),
        LabCommand::Fault(fault) => fault.happen(),
        LabCommand::Down { name } => down(name.as_deref()),
    }
}

#[expect(clippy::print_stdout, reason = "the command's data")]
fn up(path: &Path, output: Output) -> Result<Exit, Failure> {
    let origin = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{origin}: {error}")))?;
    let scenario = document::parse::<ScenarioSpec>(&text, &origin)
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    let info = droveway_lab::up(&scenario, &options()?, &mut |line| eprintln!("{line}"))?;
    if output == Output::Table {
        println!("lab '{}' is up; fleet file: {}", info.name, info.fleet_file.display());
    } else {
        cli::print_data(&info, output)?;
    }
    Ok(Exit::Done)
}

fn chosen(name: Option<&str>) -> Result<LabInfo, Failure> {
    let mut labs = droveway_lab::running(&state_root());
    let names: Vec<_> = labs.iter().map(|lab| lab.name.clone()).collect();
    let index = match name {
        Some(name) => labs.iter().position(|lab| lab.name == name),
        None if labs.len() == 1 => Some(0),
        None => None,
    };
    match (index, name) {
        (Some(index), _) => Ok(labs.swap_remove(index)),
        (None, _) if names.is_empty() => {
            Err(Failure::usage("no lab runs")
                .hint("start one with `droveway lab up SCENARIO.yaml`"))
        }
        (None, Some(name)) => Err(Failure::usage(format!("there is no lab '{name}'"))
            .hint(format!("running: {}", names.join(", ")))),
        (None, None) => {
            Err(Failure::usage("several labs run")
                .hint(format!("name one of: {}", names.join(", "))))
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's data")]
fn status(name: Option<&str>, output: Output) -> Result<Exit, Failure> {
    let info = chosen(name)?;
    let status = droveway_lab::status(&info)?;
    if output == Output::Table {
        print!("{}", lab_table(&status));
    } else {
        cli::print_data(&status, output)?;
    }
    Ok(Exit::Done)
}

fn lab_table(status: &droveway_lab::LabStatus) -> String {
    let table = |header: &[&str]| {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header(header);
        table
    };
    let mut hosts = table(&["host", "namespace", "address", "port", "TX", "RX"]);
    for host in &status.hosts {
        hosts.add_row([
            host.name.clone(),
            host.netns.clone(),
            host.address.clone(),
            host.rate.to_string(),
            host.tx.human(),
            host.rx.human(),
        ]);
    }
    let mut vms = table(&["VM", "host", "state"]);
    for vm in &status.vms {
        vms.add_row([vm.name.as_str(), vm.host.as_deref().unwrap_or("-"), &vm.state]);
    }
    let mut traffic = table(&["traffic", "kind", "from", "to", "rate"]);
    for stream in &status.traffic {
        let rate = match (stream.running, stream.per_second) {
            (false, _) => "not running".to_owned(),
            (true, None) => "-".to_owned(),
            (true, Some(rate)) => match stream.unit {
                ApplicationUnit::Bytes => format!("{:.1} Mbit/s", rate * 8.0 / 1e6),
                ApplicationUnit::Requests => format!("{rate:.0} requests/s"),
                ApplicationUnit::Operations => format!("{rate:.0} operations/s"),
            },
        };
        traffic.add_row([
            stream.name.clone(),
            stream.kind.clone(),
            stream.from.clone(),
            stream.to.clone(),
            rate,
        ]);
    }
    let mut text = format!("lab {}: {} processes\n", status.lab.name, status.processes);
    for part in [hosts, vms, traffic] {
        if part.row_count() > 0 {
            text.push_str(&format!("\n{part}\n"));
        }
    }
    text
}

#[expect(clippy::print_stdout, reason = "the command's data")]
fn play(name: Option<&str>, at_once: bool) -> Result<Exit, Failure> {
    let info = chosen(name)?;
    droveway_lab::play(&info, at_once, &mut |line| println!("{line}"))?;
    Ok(Exit::Done)
}

#[expect(clippy::print_stdout, reason = "the command's data")]
fn down(name: Option<&str>) -> Result<Exit, Failure> {
    let removed = droveway_lab::down(name, &options()?, &mut |line| eprintln!("{line}"))?;
    if removed.is_empty() {
        println!("nothing to remove");
    }
    for line in removed {
        println!("removed {line}");
    }
    Ok(Exit::Done)
}
