//! Noticing SIGINT and SIGTERM while a lab is built, so that what was built can be removed.

use crate::error::LabError;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

const SIGNALS: [Signal; 2] = [Signal::SIGINT, Signal::SIGTERM];

extern "C" fn note(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// While it lives, SIGINT and SIGTERM are noted instead of ending the process.
#[derive(Debug)]
pub(crate) struct Interrupts {
    before: Vec<(Signal, SigAction)>,
}

impl Interrupts {
    pub(crate) fn watch() -> Self {
        INTERRUPTED.store(false, Ordering::SeqCst);
        let action =
            SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
        let before = SIGNALS.into_iter().filter_map(|signal| {
            // SAFETY: the handler stores to an atomic, which is safe in a signal handler, and does nothing else.
            Some((signal, unsafe { sigaction(signal, &action) }.ok()?))
        });
        Interrupts { before: before.collect() }
    }

    /// An error once a signal came.
    pub(crate) fn check(&self) -> Result<(), LabError> {
        if INTERRUPTED.load(Ordering::SeqCst) { Err(LabError::Interrupted) } else { Ok(()) }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        for (signal, action) in &self.before {
            // SAFETY: this puts back the action that was there before.
            let _ = unsafe { sigaction(*signal, action) };
        }
    }
}
