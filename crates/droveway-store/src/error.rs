//! What can go wrong with the journal, and what to do about it.

use std::path::PathBuf;
use thiserror::Error;

/// The journal cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file is none of Droveway's journals.
    #[error("{} is no journal of Droveway's", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A later release wrote it.
    #[error(
        "{} was written by a later release (schema {found}; this one knows up to {known})",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The latest that this release knows.
        known: u32,
    },
    /// Its content does not hold together.
    #[error("{} is damaged: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// No room on the disk.
    #[error("{}: the disk is full", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The file may not be read or written.
    #[error("{}: permission denied", path.display())]
    Denied {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else writes it.
    #[error("{} is being written by another process", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// A run of that name is in the journal already.
    #[error("run '{run}' is already in {}", path.display())]
    Known {
        /// The file.
        path: PathBuf,
        /// The run.
        run: String,
    },
    /// Reading or writing failed otherwise.
    #[error("{}: {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        what: String,
    },
}

impl StoreError {
    /// What an operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            StoreError::Foreign { path } => {
                format!("move it away, or name another folder in $DROVEWAY_STATE: {}", path.display())
            }
            StoreError::Newer { .. } => {
                "use the later release, or move the file away; it is the history of runs, and no VM \
                 depends on it once none is moving"
                    .to_owned()
            }
            StoreError::Corrupt { path, .. } => format!(
                "look whether a VM is moving (`droveway status`), then move the file away: \
                 mv {0} {0}.damaged",
                path.display()
            ),
            StoreError::Full { .. } => "make room on the disk".to_owned(),
            StoreError::Denied { .. } => {
                "run as root, or name a folder of your own in $DROVEWAY_STATE".to_owned()
            }
            StoreError::Busy { .. } => "wait for its end: `droveway status` shows a run".to_owned(),
            StoreError::Known { .. } => "try again in a second".to_owned(),
            StoreError::Io { path, .. } => format!("look at the disk of {}", path.display()),
        }
    }

    /// Whether a run may begin without a journal: only for want of room or of a working disk. What could be read wrongly has
    /// to be looked at first.
    #[must_use]
    pub const fn is_about_room(&self) -> bool {
        matches!(self, StoreError::Full { .. } | StoreError::Io { .. })
    }
}
