//! Where a command gets its snapshot from: a file, a measurement of its own, or the fleet's last one.

use crate::{cli::above_zero, exit::Failure, state};
use droveway_fleet::{Fleet, Snapshot, TimeSpan};
use std::path::PathBuf;

/// Where the snapshot comes from.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Source {
    /// A snapshot that `droveway measure --save` wrote [default: the last one, if it is not older than 15 minutes]
    #[arg(long, value_name = "FILE", conflicts_with = "measure")]
    pub(crate) snapshot: Option<PathBuf>,
    /// Measure first, for so long
    #[arg(long, value_name = "TIME", value_parser = above_zero)]
    pub(crate) measure: Option<TimeSpan>,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Sought {
    /// A snapshot.
    Found(Box<Snapshot>),
    /// None was asked for and none is fresh.
    Nothing,
    /// The operator interrupted the measurement.
    Interrupted,
}

/// Looks for a snapshot where `source` says.
pub(crate) fn seek(fleet: &Fleet, source: &Source) -> Result<Sought, Failure> {
    if let Some(path) = &source.snapshot {
        return state::snapshot(path).map(|found| Sought::Found(Box::new(found)));
    }
    if let Some(window) = source.measure {
        let taken = super::take(fleet, &super::brief(window))?;
        return Ok(taken.map_or(Sought::Interrupted, |taken| Sought::Found(Box::new(taken))));
    }
    let last = state::last_snapshot(fleet);
    Ok(last.map_or(Sought::Nothing, |last| Sought::Found(Box::new(last))))
}

/// A snapshot from where `source` says; none if the operator interrupted.
pub(crate) fn snapshot_for(fleet: &Fleet, source: &Source) -> Result<Option<Snapshot>, Failure> {
    match seek(fleet, source)? {
        Sought::Found(found) => Ok(Some(*found)),
        Sought::Interrupted => Ok(None),
        Sought::Nothing => Err(Failure::usage(format!(
            "there is no fresh snapshot of fleet '{}'",
            fleet.metadata.name
        ))
        .hint(
            "measure first: `droveway measure`, or add --measure 5s, or name one with --snapshot",
        )),
    }
}
