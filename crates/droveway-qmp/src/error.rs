//! What can go wrong between us and a monitor. A command QEMU refuses is an error; one *we* refuse is a [`Denial`].

use crate::{QmpAddress, open_enum::open_enum};
use std::{io, sync::Arc, time::Duration};

open_enum! {
    /// QEMU's error class. Most errors are generic: don't branch on the description, it changes between versions.
    ErrorClass {
        GenericError = "GenericError",
        CommandNotFound = "CommandNotFound",
        DeviceNotActive = "DeviceNotActive",
        DeviceNotFound = "DeviceNotFound",
        KvmMissingCap = "KVMMissingCap",
    }
}

/// A failed exchange with a monitor.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// No connection came about within the deadline.
    #[error("cannot connect to {address} ({attempts} attempts)")]
    Connect {
        /// The monitor.
        address: QmpAddress,
        /// How often it was tried.
        attempts: u32,
        /// The last attempt's error.
        #[source]
        source: io::Error,
    },
    /// Connected, but the peer did not greet or negotiate as a monitor does.
    #[error("no QMP greeting from {address}")]
    Greeting {
        /// The monitor.
        address: QmpAddress,
        /// What came instead.
        #[source]
        source: GreetingError,
    },
    /// The command was sent and no reply came in time: it may still take effect. A late reply is dropped.
    #[error("{command} at {address}: no reply within {after:?}")]
    Timeout {
        /// The command.
        command: String,
        /// The monitor.
        address: QmpAddress,
        /// The time waited.
        after: Duration,
    },
    /// The command was *not* sent, because earlier ones kept every place in flight. It has no effect.
    #[error(
        "{command} at {address}: not sent, {in_flight} earlier commands had no reply within {after:?}"
    )]
    Busy {
        /// The command.
        command: String,
        /// The monitor.
        address: QmpAddress,
        /// How many commands were in flight.
        in_flight: usize,
        /// The time waited.
        after: Duration,
    },
    /// QEMU refused the command.
    #[error("{command} at {address}: {description} ({class})")]
    Command {
        /// The command.
        command: String,
        /// The monitor.
        address: QmpAddress,
        /// QEMU's class.
        class: ErrorClass,
        /// QEMU's words.
        description: String,
    },
    /// The connection ended. A command that was in flight may have taken effect.
    #[error("{command} at {address}: connection closed")]
    Disconnected {
        /// The command.
        command: String,
        /// The monitor.
        address: QmpAddress,
        /// Why it ended.
        #[source]
        source: Closed,
    },
    /// The connection was given up because a line exceeded the bound.
    #[error("{command} at {address}: line longer than {bound} bytes")]
    TooLong {
        /// The command that waited for its reply.
        command: String,
        /// The monitor.
        address: QmpAddress,
        /// [`bounds::LINE_BYTES_MAX`](crate::bounds::LINE_BYTES_MAX).
        bound: usize,
    },
    /// QEMU replied with something this crate can't read.
    #[error("{command} at {address}: unexpected reply")]
    Malformed {
        /// The command.
        command: String,
        /// The monitor.
        address: QmpAddress,
        /// What was unexpected.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// We refused to send the command; nothing happened.
    #[error("{command} at {address}: {denial}")]
    Denied {
        /// The command.
        command: String,
        /// The monitor.
        address: QmpAddress,
        /// Why.
        denial: Denial,
    },
}

impl QmpError {
    /// QEMU's error class, if QEMU refused the command.
    #[must_use]
    pub fn class(&self) -> Option<&ErrorClass> {
        match self {
            QmpError::Command { class, .. } => Some(class),
            _ => None,
        }
    }

    /// True if the connection is gone: no later command on this client can succeed.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        match self {
            QmpError::Connect { .. }
            | QmpError::Greeting { .. }
            | QmpError::Disconnected { .. }
            | QmpError::TooLong { .. } => true,
            QmpError::Timeout { .. }
            | QmpError::Busy { .. }
            | QmpError::Command { .. }
            | QmpError::Malformed { .. }
            | QmpError::Denied { .. } => false,
        }
    }

    /// True if the command cannot have taken effect: it was refused or never sent.
    #[must_use]
    pub fn had_no_effect(&self) -> bool {
        match self {
            QmpError::Connect { .. }
            | QmpError::Greeting { .. }
            | QmpError::Busy { .. }
            | QmpError::Command { .. }
            | QmpError::Denied { .. } => true,
            QmpError::Timeout { .. }
            | QmpError::Disconnected { .. }
            | QmpError::TooLong { .. }
            | QmpError::Malformed { .. } => false,
        }
    }
}

/// Why we refused to send a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// This monitor did not offer out-of-band execution.
    #[error("this monitor has no out-of-band execution")]
    OutOfBandUnavailable,
    /// Too many callers wait already.
    #[error("{waiting} callers wait for this monitor already")]
    TooManyCallers {
        /// [`bounds::CALLERS_MAX`](crate::bounds::CALLERS_MAX).
        waiting: usize,
    },
    /// The command is longer than a line may be.
    #[error("the command has {bytes} bytes, a line at most {bound}")]
    CommandTooLong {
        /// Its length.
        bytes: usize,
        /// [`bounds::LINE_BYTES_MAX`](crate::bounds::LINE_BYTES_MAX).
        bound: usize,
    },
    /// A rate that would reach QEMU as 0, which it takes for "no limit".
    #[error("{parameter} below 1 byte/s would mean no limit: choose unlimited explicitly")]
    RateRoundsToUnlimited {
        /// QEMU's name of the parameter.
        parameter: &'static str,
    },
    /// A value outside what QEMU takes.
    #[error("{parameter} must be {range}")]
    OutOfRange {
        /// QEMU's name of the parameter.
        parameter: &'static str,
        /// What it takes.
        range: &'static str,
    },
}

/// Why there was no greeting.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GreetingError {
    /// Nothing came in time. A monitor serves one client at a time, so another one may hold it.
    #[error("silent for {after:?}: another client may hold the monitor")]
    TimedOut {
        /// The time waited.
        after: Duration,
    },
    /// The peer hung up, or reading failed.
    #[error("the peer hung up")]
    Closed(#[source] Closed),
    /// Something else came.
    #[error("not a QMP monitor: it said '{excerpt}'")]
    NotQmp {
        /// The start of it.
        excerpt: String,
    },
    /// It greeted, but refused to negotiate.
    #[error("negotiation refused: {description}")]
    Refused {
        /// QEMU's words.
        description: String,
    },
}

/// Why a connection ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Closed {
    /// QEMU closed it, or died.
    #[error("end of stream from the peer")]
    ByPeer,
    /// Every [`Client`](crate::Client) was dropped.
    #[error("closed by us")]
    ByUs,
    /// Reading or writing failed.
    #[error("socket error")]
    Io(#[source] Arc<io::Error>),
    /// A line exceeded the bound.
    #[error("line longer than {bound} bytes")]
    TooLong {
        /// [`bounds::LINE_BYTES_MAX`](crate::bounds::LINE_BYTES_MAX).
        bound: usize,
    },
    /// Too many malformed lines in a row.
    #[error("{lines} malformed lines in a row, the last '{excerpt}'")]
    Gibberish {
        /// How many.
        lines: u32,
        /// The start of the last.
        excerpt: String,
    },
}
