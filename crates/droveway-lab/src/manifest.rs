//! What a lab leaves about itself in its directory: the manifest and the lock.
//!
//! The manifest is written before anything else exists, so that a lab whose building was killed is found and removed.

use crate::{
    LabInfo,
    error::{LabError, file},
    layout::Layout,
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// The content of `lab.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) name: String,
    /// When building began, as RFC 3339.
    pub(crate) started: String,
    /// False until everything runs.
    pub(crate) complete: bool,
    /// Every namespace that building may have made.
    pub(crate) namespaces: Vec<String>,
}

impl Manifest {
    pub(crate) fn write(&self, layout: &Layout) -> Result<(), LabError> {
        let path = layout.manifest();
        let text = serde_json::to_string_pretty(self).map_err(|error| LabError::Document {
            action: "write",
            path: path.clone(),
            said: error.to_string(),
        })?;
        write_atomically(&path, &text)
    }

    /// The manifest, if there is one that can be read.
    pub(crate) fn read(layout: &Layout) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(layout.manifest()).ok()?).ok()
    }

    pub(crate) fn info(self, layout: &Layout) -> LabInfo {
        LabInfo {
            name: layout.name.clone(),
            dir: layout.dir.clone(),
            fleet_file: layout.fleet(),
            started: self.started,
            complete: self.complete,
        }
    }
}

/// Writes a file so that a reader sees all of it or what was there before.
pub(crate) fn write_atomically(path: &Path, text: &str) -> Result<(), LabError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".draft");
    let draft = Path::new(&draft);
    let written = File::create(draft)
        .and_then(|mut f| f.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(draft, path));
    written.map_err(file("write", path))
}

/// How long whoever holds a lab's lock may take to finish before we give up: another `down` takes a few seconds.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Held while a lab is built or removed. The kernel lets go of it when its holder dies.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl Lock {
    /// Takes the lock of a lab, making its directory if need be.
    pub(crate) fn take(layout: &Layout, wait: bool) -> Result<Self, LabError> {
        let path = layout.lock();
        let deadline = Instant::now() + if wait { LOCK_WAIT_MAX } else { Duration::ZERO };
        loop {
            fs::create_dir_all(&layout.dir).map_err(file("make directory", &layout.dir))?;
            // `down` of another process may remove the directory at any time until the lock is ours.
            let opened = match File::create(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                opened => opened.map_err(file("open", &path))?,
            };
            match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
                Ok(lock) if is_at(&lock, &path) => return Ok(Lock(lock)),
                Ok(_) | Err((_, Errno::EINTR)) => {}
                Err((_, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(50));
                }
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(LabError::Busy { name: layout.name.clone() });
                }
                Err((_, errno)) => return Err(file("lock", &path)(errno.into())),
            }
        }
    }
}

/// Whether the locked file still is the one of that path: else it was removed with its lab, and locks nothing.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(theirs)) => (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path(), "demo");
        let lock = Lock::take(&layout, false).unwrap();
        let error = Lock::take(&layout, false).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        // A removed lab's lock locks nothing.
        fs::remove_dir_all(&layout.dir).unwrap();
        let again = Lock::take(&layout, false).unwrap();
        drop((lock, again));
        assert!(Lock::take(&layout, false).is_ok());
    }

    #[test]
    fn a_manifest_is_read_back() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path(), "demo");
        assert_eq!(Manifest::read(&layout), None);
        fs::create_dir_all(&layout.dir).unwrap();
        let manifest = Manifest {
            name: "demo".to_owned(),
            started: "2026-01-01T00:00:00Z".to_owned(),
            complete: true,
            namespaces: vec!["dw-demo_alpha".to_owned()],
        };
        manifest.write(&layout).unwrap();
        assert_eq!(Manifest::read(&layout), Some(manifest));
    }
}
