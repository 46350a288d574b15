//! Tuning a migration's sockets as soon as they exist, at both ends.
//!
//! The first connection is the stream. Post-copy's second one, for the pages that a guest waits for, appears some 80 ms after
//! the switch; until it is tuned each page waits behind the stream. Both are looked for often while they are due and not at all
//! otherwise.

use super::{Input, perform::Pair};
use anyhow::Context as _;
use droveway_drive::{Action, QemuEvent, Side};
use droveway_fleet::{RateLimit, VmId};
use droveway_host::{
    netns::Netns,
    qemu as process,
    shaping::{STREAM, URGENT},
    sockets::{SocketFinder, Tuning},
    tcp_info::{Connection, TcpDiag},
};
use droveway_plan::Plan;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};
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

/// Between two looks for a connection that is due: a page fault takes as long on a slow port.
const PERIOD: Duration = Duration::from_millis(4);
/// The stream's connection is made before `migrate` is answered.
const STREAM_LIMIT: Duration = Duration::from_secs(2);
/// A source looks whether it is to switch between two slices of its pass, each 50 ms; on a busy machine later.
const URGENT_LIMIT: Duration = Duration::from_secs(10);

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

    fn pace(&self, limit: RateLimit) {
        let paced = self.finder.take(self.number, &self.connection).and_then(|it| it.pace(limit));
        // QEMU's own limit holds as well, only not as smoothly.
        if let Err(error) = paced {
            tracing::debug!("a stream is not paced: {error}");
        }
    }
}

/// The ceilings of a VM's stream, before and after a switch to post-copy.
#[derive(Debug, Clone, Copy)]
struct Ceilings {
    stream: RateLimit,
    background: RateLimit,
}

/// QEMU's own ceiling is kept by pulses of a tenth of a second, the kernel's pace is even: a little above, so that QEMU's
/// holds on the whole.
const PACE_RATIO: f64 = 1.05;

fn paced(limit: RateLimit) -> RateLimit {
    limit.bandwidth().map_or(RateLimit::Unlimited, |rate| RateLimit::At(rate.scaled(PACE_RATIO)))
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
    /// Post-copy was asked for.
    switches: bool,
}

impl Tuner {
    pub(super) fn new(plan: &Plan, classes: bool, inbox: mpsc::Sender<Input>) -> Self {
        let ceilings = plan.moves.iter().map(|step| {
            let (stream, background) = (step.bandwidth, step.postcopy_bandwidth);
            (step.vm.clone(), Ceilings { stream, background })
        });
        Tuner { classes, inbox, ceilings: ceilings.collect(), migrations: BTreeMap::new() }
    }

    fn pace(&self, vm: &VmId, of: impl Fn(Ceilings) -> RateLimit) {
        let stream = self.migrations.get(vm).and_then(|it| it.stream.as_ref());
        if let (Some(stream), Some(ceilings)) = (stream, self.ceilings.get(vm)) {
            stream.pace(paced(of(*ceilings)));
        }
    }

    /// Something has happened to a VM: what is sent while it is stopped is never held back.
    pub(super) fn note_event(&self, vm: &VmId, side: Side, event: &QemuEvent) {
        let switches = self.migrations.get(vm).is_some_and(|it| it.switches);
        match (side, event) {
            (Side::Source, QemuEvent::Stopped) => self.pace(vm, |_| RateLimit::Unlimited),
            (Side::Target, QemuEvent::Resumed) if switches => self.pace(vm, |it| it.background),
            _ => {}
        }
    }

    /// Something is about to be done that makes a connection.
    pub(super) fn note_action(&mut self, vm: &VmId, action: &Action, pair: &Pair) {
        match action {
            Action::Migrate { uri } => {
                let port = uri.rsplit(':').next().and_then(|port| port.parse().ok());
                let Some(port) = port else { return };
                let migration = Migration { port, stream: None, switches: false };
                self.migrations.insert(vm.clone(), migration);
                self.search(vm, Which::Stream, pair);
            }
            Action::StartPostcopy => {
                let Some(migration) = self.migrations.get_mut(vm) else { return };
                migration.switches = true;
                if let Some(beside) = migration.stream.as_ref().map(|stream| stream.port()) {
                    self.search(vm, Which::Urgent { beside }, pair);
                }
            }
            Action::SetBandwidth(limit) => {
                if let Some(ceilings) = self.ceilings.get_mut(vm) {
                    ceilings.stream = *limit;
                }
                self.pace(vm, |it| it.stream);
            }
            _ => {}
        }
    }

    /// The stream was found.
    pub(super) fn note_stream(&mut self, vm: &VmId, source: Box<SourceEnd>, pair: &Pair) {
        let Some(migration) = self.migrations.get_mut(vm) else { return };
        let beside = source.port();
        migration.stream = Some(source);
        if migration.switches {
            self.search(vm, Which::Urgent { beside }, pair);
        } else {
            self.pace(vm, |it| it.stream);
        }
    }

    /// Looks for a connection and tunes both its ends, in the background.
    fn search(&self, vm: &VmId, which: Which, pair: &Pair) {
        let Some(migration) = self.migrations.get(vm) else { return };
        let search = Search {
            sockets: [pair.source.socket.clone(), pair.target.socket.clone()],
            netns: pair.netns.clone(),
            port: migration.port,
            which,
            classes: self.classes,
        };
        let (vm, inbox) = (vm.clone(), self.inbox.clone());
        tokio::task::spawn_blocking(move || {
            let tuned = search.run(&inbox).unwrap_or_else(|error| Tuned::Not(format!("{error:#}")));
            // The loop may be over: nobody wants to know then.
            let _ = inbox.blocking_send(Input::Tuned { vm, tuned });
        });
    }
}

struct Search {
    /// The monitors' sockets, by which the processes are found.
    sockets: [PathBuf; 2],
    netns: [Option<String>; 2],
    /// Where the target listens.
    port: u16,
    which: Which,
    classes: bool,
}

impl Search {
    fn run(&self, inbox: &mpsc::Sender<Input>) -> anyhow::Result<Tuned> {
        let limit = match self.which {
            Which::Stream => STREAM_LIMIT,
            Which::Urgent { .. } => URGENT_LIMIT,
        };
        let deadline = Instant::now() + limit;
        let mut source = self.finder(0)?;
        let mut target = self.finder(1)?;
        // A migration that is over has no connection any more, and the search for a second one has an end.
        while Instant::now() < deadline && !inbox.is_closed() {
            let wanted = |one: &Connection| match self.which {
                Which::Stream => true,
                Which::Urgent { beside } => one.local.port() != beside,
            };
            if let Some((number, connection)) = source.find(None, Some(self.port), wanted)? {
                let source_port = connection.local.port();
                let theirs = target.find(Some(self.port), Some(source_port), |_| true)?;
                if let Some((other_number, other)) = theirs {
                    // At the source the stream is data; at the target it only answers.
                    let of_source = if self.which == Which::Stream { STREAM } else { URGENT };
                    source.take(number, &connection)?.tune(&self.tuning(of_source))?;
                    target.take(other_number, &other)?.tune(&self.tuning(URGENT))?;
                    let source = Box::new(SourceEnd { finder: source, number, connection });
                    return Ok(Tuned::Both { which: self.which, source });
                }
            }
            std::thread::sleep(PERIOD);
        }
        let which = match self.which {
            Which::Stream => "the stream's connection",
            Which::Urgent { .. } => "the connection for requested pages",
        };
        Ok(Tuned::Not(format!("{which} was not found in {limit:?}")))
    }

    fn tuning(&self, class: u32) -> Tuning {
        Tuning {
            no_delay: true,
            priority: if self.classes { class } else { 0 },
            pacing: RateLimit::Unlimited,
            unsent_limit: None,
        }
    }

    fn finder(&self, side: usize) -> anyhow::Result<SocketFinder> {
        let name = ["source", "target"][side];
        let pid = process::find_by_qmp_socket(&self.sockets[side])
            .with_context(|| format!("the {name}'s QEMU process was not found"))?;
        let netns = Netns::of(self.netns[side].as_deref())?;
        let finder = SocketFinder::open(pid, TcpDiag::open(&netns)?)?;
        finder.with_context(|| format!("the {name}'s QEMU process {pid} is gone"))
    }
}
