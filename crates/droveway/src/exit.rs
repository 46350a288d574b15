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

    /// The one with that code.
    pub(crate) fn of(code: u8) -> Option<Self> {
        Exit::ALL.into_iter().find(|exit| exit.code() == code)
    }

    const ALL: [Exit; 10] = [
        Exit::Done,
        Exit::Internal,
        Exit::Usage,
        Exit::Infeasible,
        Exit::Blocked,
        Exit::Partly,
        Exit::LimitMissed,
        Exit::NeedsRecovery,
        Exit::Permission,
        Exit::Interrupted,
    ];

    /// How a run ended, in words.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Internal => "failed",
            Exit::Usage => "not understood",
            Exit::Infeasible => "infeasible, nothing was started",
            Exit::Blocked => "blocked, nothing was started",
            Exit::Partly => "partly done, the rest is at the source",
            Exit::LimitMissed => "done, a limit was missed",
            Exit::NeedsRecovery => "a VM needs recovery or is lost",
            Exit::Permission => "a right was missing",
            Exit::Interrupted => "interrupted, every VM is safe",
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
