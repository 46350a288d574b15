//! What can go wrong with a lab, in one line each: what is missing or wrong, and how to get it right.

use droveway_host::{NetnsError, counters::CountersError, qemu::QemuError};
use std::{io, path::PathBuf};
use thiserror::Error;

/// Why a lab could not be built, asked or removed.
#[derive(Debug, Error)]
pub enum LabError {
    /// Networks and namespaces need root.
    #[error("a lab needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN): run this with sudo")]
    NotRoot,
    /// A program that the lab runs is not installed.
    #[error("{program} not found: apt-get install {package}")]
    MissingProgram {
        /// The program.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The guest image is not there.
    #[error("guest image not found: {} is missing; build it with: cargo xtask guest-image", path.display())]
    MissingImage {
        /// The missing file.
        path: PathBuf,
    },
    /// The kernel lacks something that the lab is made of.
    #[error("the kernel has no {feature} ({said}): {remedy}")]
    MissingFeature {
        /// What is missing.
        feature: String,
        /// How to get it.
        remedy: String,
        /// What the kernel or the tool said.
        said: String,
    },
    /// The scenario is well-formed, but this machine cannot build it.
    #[error("{0}")]
    Scenario(String),
    /// Not a lab's name.
    #[error(transparent)]
    Name(#[from] droveway_fleet::ids::NameError),
    /// A lab of that name is up.
    #[error("lab '{name}' is running already; remove it first: droveway lab down {name}")]
    AlreadyRunning {
        /// The lab.
        name: String,
    },
    /// Another process is building or removing this lab.
    #[error(
        "lab '{name}' is being built or removed by another process; wait for it or interrupt it"
    )]
    Busy {
        /// The lab.
        name: String,
    },
    /// Namespaces of that name exist, but no lab of this state directory made them.
    #[error(
        "network namespace '{netns}' exists, but lab '{name}' is not known here; remove it first: droveway lab down {name}"
    )]
    ForeignNetns {
        /// The namespace.
        netns: String,
        /// The lab.
        name: String,
    },
    /// SIGINT or SIGTERM: what had been built is removed.
    #[error("interrupted; everything that was built is removed")]
    Interrupted,
    /// SIGINT or SIGTERM while changes were made.
    #[error("interrupted; the changes that were made stay")]
    PlayInterrupted,
    /// A VM has no such QEMU.
    #[error("VM '{vm}' has no QEMU that is a move's {side}: {there}")]
    NoQemu {
        /// The VM.
        vm: String,
        /// The side.
        side: String,
        /// What there is.
        there: String,
    },
    /// A guest did not do what it was asked to.
    #[error("VM '{vm}' could not be told to write more: {said}")]
    Guest {
        /// The VM.
        vm: String,
        /// What it said.
        said: String,
    },
    /// A program of the lab's failed.
    #[error("could not {action}: {said}")]
    Tool {
        /// What was tried.
        action: String,
        /// What the program said.
        said: String,
    },
    /// A VM ended or did not answer.
    #[error("VM '{vm}' {what}; the end of {}: {tail}", log.display())]
    Boot {
        /// The VM.
        vm: String,
        /// What happened.
        what: String,
        /// The log that may say why.
        log: PathBuf,
        /// Its last words.
        tail: String,
    },
    /// Processes of the lab survived being killed.
    #[error("could not end process {pid} of lab '{name}'")]
    Survivor {
        /// The lab.
        name: String,
        /// A surviving process.
        pid: u32,
    },
    /// A file or directory of the lab's.
    #[error("could not {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A document that the lab wrote cannot be written or read.
    #[error("could not {action} {}: {said}", path.display())]
    Document {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        said: String,
    },
    /// A namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A process could not be started or ended.
    #[error(transparent)]
    Process(#[from] QemuError),
    /// A port's counters could not be read.
    #[error(transparent)]
    Counters(#[from] CountersError),
}

impl LabError {
    /// The exit code that a command line gives: 2 usage, 4 something is missing, 8 permission, 130 interrupted, else 1.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            LabError::NotRoot => 8,
            LabError::MissingProgram { .. }
            | LabError::MissingImage { .. }
            | LabError::MissingFeature { .. }
            | LabError::NoQemu { .. } => 4,
            LabError::Scenario(_)
            | LabError::Name(_)
            | LabError::AlreadyRunning { .. }
            | LabError::Busy { .. }
            | LabError::ForeignNetns { .. } => 2,
            LabError::Interrupted | LabError::PlayInterrupted => 130,
            LabError::Guest { .. }
            | LabError::Tool { .. }
            | LabError::Boot { .. }
            | LabError::Survivor { .. }
            | LabError::File { .. }
            | LabError::Document { .. }
            | LabError::Netns(_)
            | LabError::Process(_)
            | LabError::Counters(_) => 1,
        }
    }
}

/// For `map_err`: a failure of `action` on `path`.
pub(crate) fn file<P: Into<PathBuf>>(
    action: &'static str,
    path: P,
) -> impl FnOnce(io::Error) -> LabError {
    let path = path.into();
    move |source| LabError::File { action, path, source }
}
