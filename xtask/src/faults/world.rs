//! The laboratory of the trials: built anew where a fault leaves something broken, and looked at from outside.

use super::{
    cache::{Cache, disciplines},
    case::{HOSTS, VMS},
};
use crate::lab::{self, Trial};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Output,
    thread,
    time::{Duration, Instant},
};

/// The laboratory, and its scenario's name.
pub(super) const LAB: &str = "faults";
/// How long a QEMU that is being ended may still be there: the kernel frees its memory.
const GOING_MAX: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);

/// The laboratory, up.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) trial: &'a Trial,
    /// The fleet file that drains are given.
    pub(super) fleet: String,
    caches: Vec<Cache>,
    disciplines: Vec<String>,
    files: BTreeSet<String>,
}

/// Where a VM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Its vCPUs run at this host, and there is no QEMU of it at the other.
    At(&'static str),
    /// Anything else: what its QEMUs say at both hosts.
    Torn([Option<String>; 2]),
}

impl<'a> World<'a> {
    /// Builds the laboratory, and has the guests keep their values.
    pub(super) fn up(trial: &'a Trial, scenario: &Path) -> Result<Self> {
        said(trial, &["lab", "down", LAB])?;
        said(trial, &["lab", "up", &scenario.display().to_string()])?;
        // A report would wait 3 s for what applications do afterwards. They run all the same, and nobody reads of them here.
        let whole = fs::read_to_string(lab::fleet(LAB)).context("reading the lab's fleet")?;
        let fleet = trial.work.join("fleet.yaml");
        fs::write(&fleet, without(&whole, &["applications", "probes"]))?;
        let caches = thread::scope(|scope| {
            let filling: Vec<_> =
                (0..VMS.len()).map(|index| scope.spawn(move || Cache::fill(LAB, index))).collect();
            let filled = filling.into_iter().map(|it| it.join().expect("no panic"));
            filled.collect::<Result<Vec<_>>>()
        })?;
        Ok(World {
            trial,
            fleet: fleet.display().to_string(),
            caches,
            disciplines: disciplines(LAB)?,
            files: files()?,
        })
    }

    /// The host that the VMs are at.
    pub(super) fn occupied(&self) -> Result<&'static str> {
        let places = VMS.iter().map(|vm| place(vm)).collect::<Result<Vec<_>>>()?;
        match places.as_slice() {
            [Place::At(one), Place::At(other)] if one == other => Ok(one),
            places => bail!("the VMs are not together at one host: {places:?}"),
        }
    }

    /// Whether everything but the VMs is as it was: queues, and files beside them.
    pub(super) fn check_traces(&self) -> Result<()> {
        let now = disciplines(LAB)?;
        ensure!(
            now == self.disciplines,
            "the queueing disciplines are not as before:\n{}\nbefore:\n{}",
            now.join("\n"),
            self.disciplines.join("\n")
        );
        let (now, before) = (files()?, &self.files);
        let left: Vec<_> = now.symmetric_difference(before).collect();
        ensure!(left.is_empty(), "files of the lab are not those of before: {left:?}");
        Ok(())
    }

    /// Whether these VMs keep every byte.
    pub(super) fn check_memory(&mut self, of: &[bool]) -> Result<()> {
        thread::scope(|scope| {
            let caches = self.caches.iter_mut().zip(VMS).zip(of);
            let checking: Vec<_> = caches
                .filter(|(_, wanted)| **wanted)
                .map(|((cache, vm), _)| {
                    scope.spawn(move || cache.verify().with_context(|| format!("memory of {vm}")))
                })
                .collect();
            checking.into_iter().try_for_each(|it| it.join().expect("no panic"))
        })
    }

    /// Brings what stayed behind after the others, so that the next trial finds all of them together.
    pub(super) fn gather(&self, from: &str, to: &str) -> Result<()> {
        let report = self.trial.work.join("gathered").display().to_string();
        let words = ["--fleet", &self.fleet, "drain", from, "--to", to];
        let how = ["--policy", "pre-copy-parallel", "--report", &report];
        said(self.trial, &[&words[..], &how[..]].concat())
    }
}

/// Runs the program to its end; what it said is told only if it fails.
pub(super) fn said(trial: &Trial, arguments: &[&str]) -> Result<()> {
    let output = trial.command(arguments).output().context("starting droveway")?;
    ensure!(
        output.status.success(),
        "droveway {} ended with {}:\n{}",
        arguments.join(" "),
        output.status,
        text(&output)
    );
    Ok(())
}

/// Both that a program said.
pub(super) fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
    format!("{out}{err}")
}

/// Where a VM is, once what is being ended has had its time to go.
pub(super) fn place(vm: &str) -> Result<Place> {
    let began = Instant::now();
    loop {
        let [alpha, beta] = HOSTS.map(|host| lab::state(LAB, host, vm));
        let place = match [alpha?, beta?] {
            [Some(state), None] if state == "running" => Place::At(HOSTS[0]),
            [None, Some(state)] if state == "running" => Place::At(HOSTS[1]),
            states => Place::Torn(states),
        };
        if matches!(place, Place::At(_)) || began.elapsed() > GOING_MAX {
            return Ok(place);
        }
        thread::sleep(LOOK);
    }
}

/// What every QEMU of the lab says of itself, for who looks for a failure's cause.
pub(super) fn qemus() -> String {
    let mut text = String::new();
    for host in HOSTS {
        for vm in VMS {
            for command in ["query-status", "query-migrate"] {
                let said = match lab::ask(LAB, host, vm, command) {
                    Ok(None) => "there is none".to_owned(),
                    Ok(Some(answer)) => answer.to_string(),
                    Err(error) => format!("{error:#}"),
                };
                text += &format!("{vm} at {host}: {command}: {said}\n");
            }
        }
    }
    text
}

/// What a run that is under way says of each VM: name and state. Empty where there is no run, or none that has come so far.
pub(super) fn published() -> Vec<(String, String)> {
    let file = folder().join("run.json");
    let Ok(text) = fs::read_to_string(file) else { return Vec::new() };
    // It is written in place: a reader may meet that instant.
    let Ok(run) = serde_json::from_str::<Value>(&text) else { return Vec::new() };
    let of = |vm: &Value| Some((vm["name"].as_str()?.to_owned(), vm["state"].as_str()?.to_owned()));
    run["vms"].as_array().map(|vms| vms.iter().filter_map(of).collect()).unwrap_or_default()
}

fn folder() -> PathBuf {
    Path::new("/run/droveway/labs").join(LAB)
}

/// What stands in the lab's own folder, beside the folders of its hosts.
fn files() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder()).context("looking into the lab's folder")? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// A fleet file without some lists of its spec.
fn without(fleet: &str, lists: &[&str]) -> String {
    let mut skips = false;
    let mut kept = String::new();
    for line in fleet.lines() {
        let depth = line.len() - line.trim_start().len();
        let is_item = line.trim_start().starts_with('-');
        if !line.trim().is_empty() && (depth < 2 || depth == 2 && !is_item) {
            let name = line.trim_start().split(':').next().unwrap_or_default();
            skips = depth == 2 && lists.contains(&name);
        }
        if !skips {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_left_out_and_nothing_else() {
        for indent in ["  ", "    "] {
            let fleet = format!(
                "kind: Fleet\nspec:\n  hosts:\n{indent}- name: alpha\n  applications:\n{indent}- name: feed\n{indent}  \
                 kind: tcp\n  vms:\n{indent}- name: applications\n  probes: []\n"
            );
            let wanted = format!(
                "kind: Fleet\nspec:\n  hosts:\n{indent}- name: alpha\n  vms:\n{indent}- name: applications\n"
            );
            assert_eq!(without(&fleet, &["applications", "probes"]), wanted);
        }
        assert_eq!(without("a:\n  b: 1\n", &["c"]), "a:\n  b: 1\n");
    }
}
