//! Network namespaces: running code and starting programs inside one.
//!
//! A thread that entered a namespace stays there, so code runs on a thread of its own that ends with it; a thread of an
//! asynchronous runtime never enters one. Programs enter between `fork` and `exec`. `ip netns exec` is not used: it also
//! makes a new mount namespace, whose `/sys` mounts then belong to nobody.

use nix::sched::{CloneFlags, setns};
use std::{
    fmt,
    fs::File,
    io,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};
use thiserror::Error;

/// Where `ip netns` keeps its names.
pub const NETNS_DIR: &str = "/run/netns";

/// Why a namespace could not be used.
#[derive(Debug, Error)]
pub enum NetnsError {
    /// There is no such namespace, or it may not be opened.
    #[error("could not open network namespace '{name}'")]
    Open {
        /// The namespace's name.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The namespace could not be entered: that needs root.
    #[error("could not enter network namespace '{name}'")]
    Enter {
        /// The namespace's name.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No thread could be started.
    #[error("could not start a thread for network namespace '{name}'")]
    Thread {
        /// The namespace's name.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl NetnsError {
    /// What the system said.
    #[must_use]
    pub fn io(&self) -> &io::Error {
        match self {
            NetnsError::Open { source, .. }
            | NetnsError::Enter { source, .. }
            | NetnsError::Thread { source, .. } => source,
        }
    }
}

/// A network namespace: a named one, held open, or the process's own.
#[derive(Debug, Clone)]
pub struct Netns(Option<Named>);

#[derive(Debug, Clone)]
struct Named {
    name: String,
    // Held open: it stays the same namespace even if the name is given to another.
    file: Arc<File>,
}

impl Netns {
    /// The namespace that this process is in.
    #[must_use]
    pub const fn own() -> Self {
        Netns(None)
    }

    /// The namespace `/run/netns/NAME`.
    ///
    /// # Errors
    /// [`NetnsError::Open`].
    pub fn named(name: &str) -> Result<Self, NetnsError> {
        let opened = if name.is_empty() || name.contains('/') || name.starts_with('.') {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a namespace's name"))
        } else {
            File::open(Self::path(name))
        };
        let file = opened.map_err(|source| NetnsError::Open { name: name.to_owned(), source })?;
        Ok(Netns(Some(Named { name: name.to_owned(), file: Arc::new(file) })))
    }

    /// The named namespace, or the own one without a name (as a fleet writes it).
    ///
    /// # Errors
    /// [`NetnsError::Open`].
    pub fn of(name: Option<&str>) -> Result<Self, NetnsError> {
        name.map_or_else(|| Ok(Netns::own()), Netns::named)
    }

    /// The file that stands for the namespace of that name.
    #[must_use]
    pub fn path(name: &str) -> PathBuf {
        Path::new(NETNS_DIR).join(name)
    }

    /// The name, if it is a named one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.as_ref().map(|named| named.name.as_str())
    }

    /// The namespace's identity, as in `/proc/PID/ns/net`: device and inode.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = match &self.0 {
            Some(named) => named.file.metadata()?,
            None => std::fs::metadata("/proc/self/ns/net")?,
        };
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Runs `work` inside the namespace and gives its result. It runs on a thread of its own while this one waits, so a
    /// socket that it opens belongs to the namespace for good.
    ///
    /// # Errors
    /// [`NetnsError`] if the namespace could not be entered; then `work` did not run.
    ///
    /// # Panics
    /// When `work` panics, with the same payload.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let Some(named) = &self.0 else { return Ok(work()) };
        let inside = || {
            setns(&*named.file, CloneFlags::CLONE_NEWNET).map_err(|errno| NetnsError::Enter {
                name: named.name.clone(),
                source: errno.into(),
            })?;
            Ok(work())
        };
        thread::scope(|scope| {
            let worker = thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, inside)
                .map_err(|source| NetnsError::Thread { name: named.name.clone(), source })?;
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that runs `program` inside the namespace.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if let Some(named) = &self.0 {
            let file = Arc::clone(&named.file);
            // SAFETY: between fork and exec the closure makes one system call on a descriptor that it owns; it neither
            // allocates nor takes a lock.
            unsafe {
                command.pre_exec(move || Ok(setns(&*file, CloneFlags::CLONE_NEWNET)?));
            }
        }
        command
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name().unwrap_or("(own)"))
    }
}
