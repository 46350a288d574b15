//! Exit codes, and the error that carries one to `main`.

use std::fmt;

/// How a command ended, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done within limits.
    Done,
    /// A fault of ours.
    Internal,
    /// Usage or configuration.
    Usage,
    /// A deadline cannot be kept; nothing started.
    Infeasible,
    /// A pre-flight check stopped it; nothing started.
    Blocked,
    /// Partly done; the rest is safe at the source.
    Partly,
    /// Done, but a downtime limit or deadline was missed.
    LimitMissed,
    /// A VM needs recovery, or is lost.
    NeedsRecovery,
    /// A right is missing.
    Permission,
    /// Interrupted; every VM is safe.
    Interrupted,
}

impl Exit {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Internal => 1,
            Exit::Usage => 2,
            Exit::Infeasible => 3,
            Exit::Blocked => 4,
            Exit::Partly => 5,
            Exit::LimitMissed => 6,
            Exit::NeedsRecovery => 7,
            Exit::Permission => 8,
            Exit::Interrupted => 130,
        }
    }
}

/// An error with its exit code and, where there is one, a remedy.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) error: anyhow::Error,
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Failure { exit, error: error.into(), hint: None }
    }

    pub(crate) fn says(exit: Exit, text: impl fmt::Display) -> Self {
        Failure::new(exit, anyhow::anyhow!("{text}"))
    }

    pub(crate) fn usage(text: impl fmt::Display) -> Self {
        Failure::says(Exit::Usage, text)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Whatever was not given a code of its own is a fault of ours.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::new(Exit::Internal, error)
    }
}
