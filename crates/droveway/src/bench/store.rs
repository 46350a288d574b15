//! The folder of a bench: the suite as it was resolved, one folder a cell, and in it every attempt's report.
//!
//! ```text
//! DIR/suite.yaml                                   the suite, every scenario in full
//! DIR/calibration.json                             what is known of the hosts, if a file was named
//! DIR/cells/SCENARIO/POLICY@INTENT/REPEAT/
//!     1/report.json, report.md, timeline.svg       what the first attempt left
//!     1/log.txt                                    what it said
//!     1/changes.txt                                what changed in the lab meanwhile, if the scenario has changes
//!     result.json                                  written last and whole: the cell is done
//! ```

use super::read_report;
use crate::{
    exit::{Exit, Failure},
    state,
};
use droveway_bench::{Cell, CellResult, Resolved, compare::Bench, order, suite::SuiteSpec};
use droveway_fleet::{RunReport, document};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A bench's folder.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) dir: PathBuf,
    pub(super) resolved: Resolved,
    /// What is known of the hosts beforehand.
    pub(super) calibration: Option<PathBuf>,
    /// Held for as long as runs are made: two that write into one folder would spoil each other.
    _lock: Option<Flock<fs::File>>,
}

impl Store {
    /// A folder to run a suite into: a new one, or with `resume` one of the same suite.
    pub(super) fn begin(
        dir: &Path,
        resolved: Resolved,
        resume: bool,
        calibration: Option<&Path>,
    ) -> Result<Self, Failure> {
        let suite = dir.join("suite.yaml");
        let known = dir.join("calibration.json");
        if suite.exists() {
            let there = read_suite(&suite)?;
            if let Some(what) = resolved.differs(&there) {
                let text = format!("{}: the suite has changed since: {what}", dir.display());
                return Err(Failure::usage(text).hint("run it into another folder"));
            }
            if !resume {
                let text = format!("{}: this suite was run into it already", dir.display());
                return Err(Failure::usage(text)
                    .hint("--resume goes on from there; or name another folder"));
            }
            if let Some(path) = calibration
                && fs::read(path).ok() != fs::read(&known).ok()
            {
                let text = format!("{}: it was begun with another calibration", dir.display());
                return Err(Failure::usage(text).hint("leave --calibration-file out to go on"));
            }
        } else {
            let mut entries = fs::read_dir(dir).into_iter().flatten();
            if entries.next().is_some() {
                let text = format!("{}: the folder is not empty, and no bench's", dir.display());
                return Err(Failure::usage(text).hint("name a folder that does not exist"));
            }
            if let Some(path) = calibration {
                let text = fs::read_to_string(path)
                    .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
                state::write_text(&text, &known)?;
            }
            // Last: a folder with a suite has all that its runs are made from.
            let text = resolved.suite.to_yaml().map_err(anyhow::Error::msg)?;
            state::write_text(&text, &suite)?;
        }
        let lock = lock(dir)?;
        let calibration = known.exists().then_some(known);
        Ok(Store { dir: dir.to_owned(), resolved, calibration, _lock: Some(lock) })
    }

    /// A folder to look at.
    pub(super) fn open(dir: &Path) -> Result<Self, Failure> {
        let suite = dir.join("suite.yaml");
        if !suite.exists() {
            let text = format!("{}: there is no suite.yaml in it", dir.display());
            return Err(Failure::usage(text)
                .hint("`droveway bench run SUITE.yaml --out DIR` makes such a folder"));
        }
        let resolved = read_suite(&suite)?;
        Ok(Store { dir: dir.to_owned(), resolved, calibration: None, _lock: None })
    }

    fn folder(&self, cell: &Cell) -> PathBuf {
        self.dir.join(cell.folder())
    }

    /// Where an attempt leaves its report, empty.
    pub(super) fn attempt(&self, cell: &Cell, number: u32) -> Result<PathBuf, Failure> {
        let folder = self.folder(cell).join(number.to_string());
        // What an interrupted attempt left is no part of this one.
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(said(&folder, &error));
            }
            _ => {}
        }
        fs::create_dir_all(&folder).map_err(|error| said(&folder, &error))?;
        Ok(folder)
    }

    /// The cells that have no result, in their order, with their places.
    pub(super) fn left(&self) -> Result<Vec<(usize, Cell)>, Failure> {
        let mut left = Vec::new();
        for (index, cell) in order(&self.resolved).into_iter().enumerate() {
            if self.result(&cell)?.is_none() {
                left.push((index + 1, cell));
            }
        }
        Ok(left)
    }

    /// Keeps what came of a cell: from now on it is done.
    pub(super) fn keep(&self, result: &CellResult) -> Result<(), Failure> {
        state::write(result, &self.folder(&result.cell).join("result.json"))
    }

    fn result(&self, cell: &Cell) -> Result<Option<CellResult>, Failure> {
        let path = self.folder(cell).join("result.json");
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| {
                Failure::usage(format!("{}: {error}", path.display()))
                    .hint("remove that cell's folder to run it again")
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(said(&path, &error)),
        }
    }

    /// Every result, in the order of the suite.
    pub(super) fn results(&self) -> Result<Vec<CellResult>, Failure> {
        let mut results = Vec::new();
        for cell in order(&self.resolved) {
            results.extend(self.result(&cell)?);
        }
        Ok(results)
    }

    /// The report of the attempt that counts.
    pub(super) fn report(&self, bench: &Bench, cell: &Cell) -> Option<RunReport> {
        let attempts = bench.results.iter().find(|it| it.cell == *cell)?.attempts.len();
        let path = self.folder(cell).join(attempts.to_string()).join("report.json");
        read_report(&path).ok().flatten()
    }
}

fn read_suite(path: &Path) -> Result<Resolved, Failure> {
    let text = fs::read_to_string(path).map_err(|error| said(path, &error))?;
    let suite = document::parse::<SuiteSpec>(&text, &path.display().to_string())
        .map_err(|error| Failure::new(Exit::Usage, error))?;
    Ok(Resolved { suite })
}

fn lock(dir: &Path) -> Result<Flock<fs::File>, Failure> {
    let path = dir.join(".lock");
    let file = fs::File::create(&path).map_err(|error| said(&path, &error))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            Failure::says(Exit::Blocked, format!("{}: another bench runs into it", dir.display()))
        } else {
            said(&path, &errno.into())
        }
    })
}

fn said(path: &Path, error: &std::io::Error) -> Failure {
    let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
    let exit = if denied { Exit::Permission } else { Exit::Internal };
    Failure::says(exit, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use droveway_bench::{Attempt, suite};

    const SUITE: &str = "apiVersion: droveway/v1\nkind: Suite\nmetadata: { name: s }\nspec:\n  \
         stage: simulator\n  repeats: 2\n  policies: [ { policy: pre-copy-serial }, { policy: adaptive } ]\n  \
         scenarios:\n    - name: one\n      gang: { link: { rate: 1Gbit/s }, vms: 1, memory: 256MiB }\n";

    fn resolved(text: &str) -> Resolved {
        let suite = document::parse::<SuiteSpec>(text, "s").unwrap();
        suite::resolve(suite, "s", |file| Err(file.to_owned())).unwrap()
    }

    #[test]
    fn what_is_done_is_skipped_and_another_suite_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("out");
        let begin = |text: &str, resume| Store::begin(&dir, resolved(text), resume, None);
        let store = begin(SUITE, false).unwrap();
        assert_eq!(begin(SUITE, true).unwrap_err().exit, Exit::Blocked, "one at a time");
        let left = store.left().unwrap();
        assert_eq!(left.len(), 4);
        let (place, cell) = left[1].clone();
        let attempts = vec![Attempt::without_report(Some(1), "no")];
        store.keep(&CellResult { cell: cell.clone(), place, attempts }).unwrap();
        // An attempt that never ended leaves no result.
        store.attempt(&left[2].1, 1).unwrap();
        drop(store);

        let refused = begin(SUITE, false).unwrap_err();
        assert!(refused.hint.unwrap().contains("--resume"));
        let changed = SUITE.replace("repeats: 2", "repeats: 3");
        let refused = begin(&changed, true).unwrap_err();
        assert!(refused.error.to_string().contains("repeats or seed"), "{}", refused.error);
        let again = begin(SUITE, true).unwrap();
        let rest = again.left().unwrap();
        assert_eq!(rest.len(), 3);
        assert!(rest.iter().all(|(_, other)| *other != cell));
        assert_eq!(again.results().unwrap().len(), 1);
        assert_eq!(Store::open(&dir).unwrap().resolved, again.resolved);
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), "years of work").unwrap();
        let refused = Store::begin(folder.path(), resolved(SUITE), false, None).unwrap_err();
        assert!(refused.error.to_string().contains("not empty"));
        assert!(Store::open(folder.path()).unwrap_err().error.to_string().contains("suite.yaml"));
    }
}
