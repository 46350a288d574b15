//! Tuning a migration's sockets as soon as they exist, at both ends, and keeping each stream's pace.
//!
//! The first connection is the stream. Post-copy's second one, for the pages that a guest waits for, appears some 80 ms after
//! the switch; until it is tuned each page waits behind the stream. Both are looked for often while they are due and not at all
//! otherwise; after a broken path there are new ones.
//!
//! A stream that was found is paced by the kernel, and QEMU's own ceilings, which pulse, overshoot and lag, are lifted:
//!
//! ```text
//!  passes      the plan's ceiling, or what the driver has set since
//!  stopped     none: the VM stands still
//!  background  the plan's ceiling after a switch, once the target has the VM's state
//! ```

mod search;

use super::{Input, perform::Pair};
use droveway_drive::{Action, MigrationStatus, QemuEvent, Side};
use droveway_fleet::{Bytes, RateLimit, VmId};
use droveway_host::{sockets::SocketFinder, tcp_info::Connection};
use droveway_plan::Plan;
use droveway_qmp::MigrationParameters;
use search::Search;
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::mpsc;

/// Which of a migration's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// The first.
    Stream,
    /// Post-copy's second: not the one from this port.
    Urgent {
        /// The stream's port at the source.
        beside: u16,
    },
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Tuned {
    /// Both ends of the connection.
    Both {
        /// The connection.
        which: Which,
        /// The source's end.
        source: Box<SourceEnd>,
    },
    /// Nothing, and why.
    Not(String),
}

/// The source's end of a connection that was found.
#[derive(Debug)]
pub(super) struct SourceEnd {
    finder: SocketFinder,
    number: i32,
    connection: Connection,
}

impl SourceEnd {
    pub(super) fn port(&self) -> u16 {
        self.connection.local.port()
    }

    /// True if the kernel keeps the limit from now on.
    fn pace(&self, limit: RateLimit) -> bool {
        let paced = self.finder.take(self.number, &self.connection).and_then(|it| it.pace(limit));
        if let Err(error) = &paced {
            tracing::debug!("a stream is not paced: {error}");
        }
        paced.is_ok()
    }
}

/// What of a stream may wait unsent in the source's send buffer: so much time's worth, and so much at least. A page in there
/// counts as sent, so a guest that asks for it waits for all that is before it, and a switchover for all of it; without a limit
/// that was 1 to 2 MB. At 200 Mbit/s guests were blocked for half the time with it, from 32 to 256 KiB alike; at 1 Gbit/s it
/// made no difference (docs/ports.md). Less than a busy source's wake-up is worth would leave the port idle.
const UNSENT_TIME: Duration = Duration::from_millis(5);
const UNSENT_LEAST: Bytes = Bytes::new(128 << 10);

/// How much of a VM's stream may be where: its ceilings before and after a switch to post-copy, and what may wait unsent.
#[derive(Debug, Clone, Copy)]
struct Ceilings {
    stream: RateLimit,
    background: RateLimit,
    unsent_max: u32,
}

impl Ceilings {
    fn at(self, stage: Stage) -> RateLimit {
        match stage {
            Stage::Passes => self.stream,
            Stage::Stopped => RateLimit::Unlimited,
            Stage::Background => self.background,
        }
    }
}

/// Where a migration is, as far as its stream's pace depends on it; it only goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Passes,
    Stopped,
    Background,
}

/// Tunes the sockets of a run's migrations.
#[derive(Debug)]
pub(super) struct Tuner {
    /// The ports have classes, which sockets are to name.
    classes: bool,
    inbox: mpsc::Sender<Input>,
    ceilings: BTreeMap<VmId, Ceilings>,
    migrations: BTreeMap<VmId, Migration>,
}

/// What is known of one migration's connections.
#[derive(Debug)]
struct Migration {
    /// Where the target listens.
    port: u16,
    /// The stream at the source, once it was found.
    stream: Option<Box<SourceEnd>>,
    stage: Stage,
    /// Post-copy was asked for.
    switches: bool,
}

impl Tuner {
    pub(super) fn new(plan: &Plan, classes: bool, inbox: mpsc::Sender<Input>) -> Self {
        let ceilings = plan.moves.iter().map(|step| {
            let unsent = (step.switchover_bandwidth * UNSENT_TIME).max(UNSENT_LEAST);
            let ceilings = Ceilings {
                stream: step.bandwidth,
                background: step.postcopy_bandwidth,
                unsent_max: u32::try_from(unsent.get()).unwrap_or(u32::MAX),
            };
            (step.vm.clone(), ceilings)
        });
        Tuner { classes, inbox, ceilings: ceilings.collect(), migrations: BTreeMap::new() }
    }

    /// Sets the stream's pace to what it is to be now. True if the kernel keeps it.
    fn pace(&self, vm: &VmId) -> bool {
        let (Some(migration), Some(ceilings)) = (self.migrations.get(vm), self.ceilings.get(vm))
        else {
            return false;
        };
        let limit = ceilings.at(migration.stage);
        migration.stream.as_ref().is_some_and(|stream| stream.pace(limit))
    }

    fn reach(&mut self, vm: &VmId, stage: Stage) {
        let Some(migration) = self.migrations.get_mut(vm) else { return };
        if migration.stage < stage {
            migration.stage = stage;
            self.pace(vm);
        }
    }

    /// Something has happened to a VM.
    pub(super) fn note_event(&mut self, vm: &VmId, side: Side, event: &QemuEvent) {
        match (side, event) {
            (Side::Source, QemuEvent::Stopped) => self.reach(vm, Stage::Stopped),
            // It says so once it has all of the VM's state, and only then may the rest be slow.
            (Side::Target, QemuEvent::Status(MigrationStatus::PostcopyActive)) => {
                self.reach(vm, Stage::Background);
            }
            _ => {}
        }
    }

    /// Something is about to be done: what makes a connection starts a search for it, and a new ceiling is the socket's where
    /// that can be paced. Returns what is left for QEMU to do.
    pub(super) fn note_action(&mut self, vm: &VmId, action: Action, pair: &Pair) -> Action {
        match &action {
            Action::Migrate { uri } => {
                self.begin(vm, uri, false);
                self.search(vm, Which::Stream, pair);
            }
            Action::ResumeMigration { uri } => {
                self.begin(vm, uri, true);
                self.search(vm, Which::Stream, pair);
            }
            Action::StartPostcopy => {
                if let Some(migration) = self.migrations.get_mut(vm) {
                    migration.switches = true;
                    if let Some(beside) = migration.stream.as_ref().map(|stream| stream.port()) {
                        self.search(vm, Which::Urgent { beside }, pair);
                    }
                }
            }
            Action::SetBandwidth(limit) => {
                if let Some(ceilings) = self.ceilings.get_mut(vm) {
                    ceilings.stream = *limit;
                }
                if self.pace(vm) {
                    return Action::SetBandwidth(RateLimit::Unlimited);
                }
            }
            _ => {}
        }
        action
    }

    fn begin(&mut self, vm: &VmId, uri: &str, again: bool) {
        let port = uri.rsplit(':').next().and_then(|port| port.parse().ok());
        let Some(port) = port else { return };
        let stage = if again { Stage::Background } else { Stage::Passes };
        self.migrations
            .insert(vm.clone(), Migration { port, stream: None, stage, switches: again });
    }

    /// The stream was found.
    pub(super) fn note_stream(&mut self, vm: &VmId, source: Box<SourceEnd>, pair: &Pair) {
        let Some(migration) = self.migrations.get_mut(vm) else { return };
        let beside = source.port();
        migration.stream = Some(source);
        if migration.switches {
            self.search(vm, Which::Urgent { beside }, pair);
        }
        let limited = self.ceilings.get(vm).is_some_and(|it| {
            [it.stream, it.background].iter().any(|limit| *limit != RateLimit::Unlimited)
        });
        if self.pace(vm) && limited {
            lift(vm.clone(), pair.clone());
        }
    }

    /// Looks for a connection and tunes both its ends, in the background.
    fn search(&self, vm: &VmId, which: Which, pair: &Pair) {
        let (Some(migration), Some(ceilings)) = (self.migrations.get(vm), self.ceilings.get(vm))
        else {
            return;
        };
        let search = Search {
            sockets: [pair.source.socket.clone(), pair.target.socket.clone()],
            netns: pair.netns.clone(),
            port: migration.port,
            which,
            classes: self.classes,
            unsent_max: ceilings.unsent_max,
        };
        let (vm, inbox) = (vm.clone(), self.inbox.clone());
        tokio::task::spawn_blocking(move || {
            let tuned = search.run(&inbox).unwrap_or_else(|error| Tuned::Not(format!("{error:#}")));
            // The loop may be over: nobody wants to know then.
            let _ = inbox.blocking_send(Input::Tuned { vm, tuned });
        });
    }
}

/// QEMU's own ceilings would make pulses of an even pace. Where they stay they hold as well.
fn lift(vm: VmId, pair: Pair) {
    let none = MigrationParameters {
        max_bandwidth: Some(RateLimit::Unlimited),
        max_postcopy_bandwidth: Some(RateLimit::Unlimited),
        ..MigrationParameters::default()
    };
    tokio::spawn(async move {
        if let Err(error) = pair.source.client.set_parameters(&none).await {
            tracing::debug!(%vm, "QEMU's own ceilings stay: {error}");
        }
    });
}

#[cfg(test)]
mod tests;
