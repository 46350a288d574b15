//! What outlives a run: the calibration that a fleet has learned, and its last snapshot.
//!
//! In `$DROVEWAY_STATE`, else `/var/lib/droveway`: `calibration/NAME.json`, where the name is the fleet's own unless its
//! file says that it learns together with others, `snapshots/FLEET.json`, `plans/FLEET.json`: which plans have been
//! replaced, and `journal/FLEET.db`: the runs.

use crate::exit::{Exit, Failure};
use droveway_fleet::{Fleet, Snapshot, document::API_VERSION, snapshot};
use droveway_model::calibration::{self, Calibration};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Where state is kept, if not in the usual place.
const STATE_VARIABLE: &str = "DROVEWAY_STATE";
const SYSTEM_STATE: &str = "/var/lib/droveway";

/// A snapshot that is older says little of traffic: operators' peaks last minutes.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(15 * 60);

/// Writing a document takes milliseconds; what lies half written for longer than this nobody writes any more.
const WRITING_TIME_MAX: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    std::env::var_os(STATE_VARIABLE).map_or_else(|| PathBuf::from(SYSTEM_STATE), PathBuf::from)
}

/// Where the calibration of a fleet is kept, unless a file is named.
pub(crate) fn calibration_path(fleet: &Fleet, named: Option<&Path>) -> PathBuf {
    let name = fleet.spec.calibration.as_ref().unwrap_or(&fleet.metadata.name);
    named.map_or_else(|| root().join("calibration").join(format!("{name}.json")), Path::to_owned)
}

fn snapshot_path(fleet: &Fleet) -> PathBuf {
    root().join("snapshots").join(format!("{}.json", fleet.metadata.name))
}

/// Where it is kept which plans of a fleet have been replaced.
pub(crate) fn plan_lines_path(fleet: &Fleet) -> PathBuf {
    root().join("plans").join(format!("{}.json", fleet.metadata.name))
}

/// The journal of a fleet's runs.
pub(crate) fn journal_path(fleet: &Fleet) -> PathBuf {
    root().join("journal").join(format!("{}.db", fleet.metadata.name))
}

/// The document in a file, if there is that file.
pub(crate) fn read_if_there<T: DeserializeOwned>(
    path: &Path,
    kind: &str,
) -> Result<Option<T>, Failure> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::usage(format!("{}: {error}", path.display()))),
        Ok(text) => parsed(&text, path, kind).map(Some),
    }
}

/// The calibration in a file; the priors if there is none yet.
pub(crate) fn calibration(path: &Path) -> Result<Calibration, Failure> {
    Ok(read_if_there(path, calibration::KIND)?.unwrap_or_default())
}

/// Keeps a calibration.
pub(crate) fn keep_calibration(calibration: &Calibration, path: &Path) -> Result<(), Failure> {
    write(calibration, path)
}

/// The snapshot in a file.
pub(crate) fn snapshot(path: &Path) -> Result<Snapshot, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    parsed(&text, path, snapshot::KIND)
}

/// The last snapshot of a fleet, if it is fresh.
pub(crate) fn last_snapshot(fleet: &Fleet) -> Option<Snapshot> {
    let path = snapshot_path(fleet);
    let written = fs::metadata(&path).and_then(|file| file.modified()).ok()?;
    let age = SystemTime::now().duration_since(written).unwrap_or_default();
    // A file that does not read is as good as none: the next measurement replaces it.
    (age <= SNAPSHOT_AGE_MAX).then(|| snapshot(&path).ok())?
}

/// Keeps a snapshot as the last of its fleet.
pub(crate) fn keep_snapshot(fleet: &Fleet, snapshot: &Snapshot) -> Result<(), Failure> {
    write(snapshot, &snapshot_path(fleet))
}

/// Parses a document that programs write: its kind and version first, so that the wrong file is called that.
fn parsed<T: DeserializeOwned>(text: &str, path: &Path, kind: &str) -> Result<T, Failure> {
    let said = |what: String| Failure::usage(format!("{}: {what}", path.display()));
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| said(format!("is not JSON: {error}")))?;
    for (field, wanted) in [("kind", kind), ("apiVersion", API_VERSION)] {
        let got = value.get(field).and_then(serde_json::Value::as_str).unwrap_or("missing");
        if got != wanted {
            return Err(said(format!("{field} is '{got}', expected '{wanted}'")));
        }
    }
    serde_json::from_value(value).map_err(|error| said(format!("not a valid {kind}: {error}")))
}

/// Writes a document beside its place, then puts it there: whole or not at all.
pub(crate) fn write<T: Serialize>(value: &T, path: &Path) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)? + "\n";
    write_text(&text, path)
}

/// The same for a text.
pub(crate) fn write_text(text: &str, path: &Path) -> Result<(), Failure> {
    write_bytes(text.as_bytes(), path)
}

/// The same for anything.
pub(crate) fn write_bytes(bytes: &[u8], path: &Path) -> Result<(), Failure> {
    let Some(name) = path.file_name() else {
        return Err(Failure::usage(format!("'{}' is not a file's name", path.display())));
    };
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = (|| {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let mut file = fs::File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    sweep(path);
    written.map_err(|error: std::io::Error| {
        let _ = fs::remove_file(&beside);
        let denied = error.kind() == ErrorKind::PermissionDenied;
        let exit = if denied { Exit::Permission } else { Exit::Internal };
        Failure::says(exit, format!("writing {}: {error}", path.display()))
    })
}

/// Removes what writers that were killed left beside a file: they put their numbers into the names. A young one may be of a writer
/// whose number means nothing here.
fn sweep(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
    let prefix = format!(".{}.", name.to_string_lossy());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let number = file.to_str().and_then(|file| file.strip_prefix(&prefix)?.parse::<u32>().ok());
        let is_dead = |pid: u32| !Path::new("/proc").join(pid.to_string()).exists();
        let written = entry.metadata().and_then(|file| file.modified());
        let age = written.ok().and_then(|written| written.elapsed().ok()).unwrap_or_default();
        if age > WRITING_TIME_MAX && number.is_some_and(is_dead) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_writers_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        // No process has that number: it is above the kernel's highest.
        let own = format!(".a.json.{}", std::process::id());
        let left = [".a.json.4194305", ".a.json.4194306", ".a.json.old", ".b.json.4194305", &own];
        for name in left {
            let file = fs::File::create(place(name)).unwrap();
            let age = if name.ends_with('6') { Duration::ZERO } else { 2 * WRITING_TIME_MAX };
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        write_text("whole", &place("a.json")).unwrap();
        assert_eq!(fs::read_to_string(place("a.json")).unwrap(), "whole");
        assert!(!place(".a.json.4194305").exists());
        assert!(place(".a.json.4194306").exists(), "it is young");
        assert!(place(".a.json.old").exists() && place(".b.json.4194305").exists());
        assert!(!place(&own).exists(), "it is the writer's own, and was renamed");
    }
}
