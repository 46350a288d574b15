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
//!  fetching    once the target has the VM's state: a part of the port, so that the guest's first pages come sooner; what passes have
//!              left goes at full rate, and before other streams, where that is over sooner
//!  background  the plan's ceiling after a switch
//! ```
//!
//! Before its switch a post-copy sends next to nothing, and that is QEMU's ceiling alone: a socket that was paced so slowly takes the pace
//! for the path's. BBR then doubled what it dared only once in a round trip, and the stopped VM waited 0.2 to 0.4 s for its state (measured).

mod search;

use super::{Input, perform::Pair};
use droveway_drive::{Action, MigrationStatus, Phase, QemuEvent, Side};
use droveway_fleet::{Bandwidth, Bytes, RateLimit, Technique, VmId};
use droveway_host::{
    shaping::{STREAM, URGENT},
    sockets::SocketFinder,
    tcp_info::Connection,
};
use droveway_model::fluid::Constants;
use droveway_plan::{Move, Plan};
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
    /// A guest has had its time to fetch what it cannot do without.
    Fetched,
    /// A post-copy has had its time to switch.
    Loud,
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

    fn prioritize(&self, class: u32) {
        let set = self.finder.take(self.number, &self.connection);
        if let Err(error) = set.and_then(|it| it.prioritize(class)) {
            tracing::debug!("a stream's class stays: {error}");
        }
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
/// counts as sent, so a guest that asks for it waits for all that is before it, and longest where the stream is paced; without
/// a limit that is 1 to 2 MB. From 32 to 256 KiB no rate was lost (docs/ports.md); less than a busy source's wake-up is worth
/// would leave the port idle.
const UNSENT_TIME: Duration = Duration::from_millis(3);
const UNSENT_LEAST: Bytes = Bytes::new(64 << 10);
/// What the stream may take of its rate while a guest fetches its first pages, and for how long: what so many bytes take at
/// full rate, 170 ms on a port of 200 Mbit/s and 35 ms at 1 Gbit/s, so that it costs a move no more than that. Measured at
/// 200 Mbit/s: blocked for 0.13 s instead of 0.23 s, for 1 % of total time (docs/ports.md). Where ports have no classes, every page
/// waits behind the stream from then on, so it lasts for as long as a guest needs for the pages without which it answers nobody: of two
/// at 70 Mbit/s beside elastic flows one had them within 0.6 s, the other went on among them and took 2.3 s.
///
/// After passes a guest needs fewer pages, and often most of what is left: of a megabyte it asks for little that is not under way already,
/// and at a quarter of the rate it waits four times as long for all of it (docs/ports.md). So a stream keeps aside only if more is left
/// than goes in the time of those pages, and for no longer.
const FETCH_RATIO: f64 = 0.25;
const FETCH_BYTES: Bytes = Bytes::new(4 << 20);

/// What a post-copy's stream may send before it switches: 16 KiB in each of QEMU's slices of 100 ms. Nobody needs those bytes
/// before the switch, and the stopped VM's state waits behind them in the socket, which takes megabytes until it is tuned.
const QUIET: RateLimit = RateLimit::At(Bandwidth::from_bytes_per_second(160 << 10));
/// One that has not switched by then waits for something else (a place among those that may be exposed), and copies meanwhile.
const QUIET_LIMIT: Duration = Duration::from_secs(1);

/// What other streams may take of their rate while a VM is switched or stands still, on ports without classes: enough that they do
/// not stall, and little beside a whole port.
const GIVES_WAY_RATIO: f64 = 0.1;

/// How much of a VM's stream may be where: its ceilings before and after a switch to post-copy, and what may wait unsent.
#[derive(Debug, Clone, Copy)]
struct Ceilings {
    stream: RateLimit,
    fetching: Bandwidth,
    /// While another VM is switched or stands still.
    giving_way: Bandwidth,
    background: RateLimit,
    unsent_max: u32,
    /// By post-copy: it switches as soon as it has begun, and its guest lacks everything then.
    postcopy: bool,
}

impl Ceilings {
    /// `payload`: what the slower of the two ports carries of streams. A guest's pages have it for themselves however many VMs move at
    /// once, while what is counted on at a switchover is a part of it.
    fn of(step: &Move, payload: Bandwidth) -> Self {
        let unsent = (step.switchover_bandwidth * UNSENT_TIME).max(UNSENT_LEAST);
        Ceilings {
            stream: step.bandwidth,
            fetching: payload.scaled(FETCH_RATIO),
            giving_way: step.switchover_bandwidth.scaled(GIVES_WAY_RATIO),
            background: step.postcopy_bandwidth,
            unsent_max: u32::try_from(unsent.get()).unwrap_or(u32::MAX),
            postcopy: step.technique == Technique::PostCopy,
        }
    }

    /// What the slower of the two ports carries of streams.
    fn payload(self) -> Bandwidth {
        self.fetching.scaled(1.0 / FETCH_RATIO)
    }

    /// How long a guest needs for the pages without which it answers nobody, if they pass the stream.
    fn first_pages(self) -> Duration {
        let constants = Constants::PRIOR;
        #[expect(clippy::cast_precision_loss, reason = "a rate far below 2^53")]
        let rate = self.payload().bytes_per_second() as f64;
        let page = constants.page_seconds(rate, 0.0, true, 1.0);
        let pages = if self.postcopy {
            constants.essential_pages
        } else {
            constants.essential_pages_hybrid
        };
        Duration::from_secs_f64(pages * page)
    }

    /// What a stream begins its post-copy with that has so much left then. A plan that does not know the rate has nothing to take a part of.
    fn begins_with(self, left: Bytes) -> Stage {
        if self.fetching.is_zero() {
            Stage::Background
        } else if self.postcopy || left / self.payload() > self.first_pages() {
            Stage::Aside
        } else {
            Stage::Rest
        }
    }

    /// How long that lasts at most.
    fn lasts(self, stage: Stage, classes: bool) -> Duration {
        let least = FETCH_BYTES / self.payload();
        match stage {
            Stage::Aside if !self.postcopy => self.first_pages(),
            Stage::Aside if !classes => least.max(self.first_pages()),
            _ => least,
        }
    }

    fn at(self, stage: Stage) -> RateLimit {
        match stage {
            Stage::Passes => self.stream,
            Stage::Stopped => RateLimit::Unlimited,
            Stage::Aside => {
                let background = self.background.bandwidth().unwrap_or(self.fetching);
                RateLimit::At(self.fetching.min(background))
            }
            Stage::Rest | Stage::Background => self.background,
        }
    }
}

/// Where a migration is, as far as its stream's pace depends on it; it only goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Passes,
    Stopped,
    /// Its guest fetches its first pages, for which its stream keeps aside.
    Aside,
    /// Its guest waits for what is left, which is little.
    Rest,
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
    /// Whose stream goes before the others.
    first: Option<VmId>,
    /// What each stream may take beside applications that want the port.
    yields_to: RateLimit,
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
    /// It is to switch at once, and sends next to nothing before.
    quiet: bool,
    /// Another controller began it, and has told QEMU nobody knows what.
    inherited: bool,
}

impl Tuner {
    /// `payload`: what the slower of the two ports carries of streams.
    pub(super) fn new(
        plan: &Plan,
        payload: Bandwidth,
        classes: bool,
        inbox: mpsc::Sender<Input>,
    ) -> Self {
        let ceilings = plan.moves.iter().map(|step| (step.vm.clone(), Ceilings::of(step, payload)));
        Tuner {
            classes,
            inbox,
            ceilings: ceilings.collect(),
            migrations: BTreeMap::new(),
            first: None,
            yields_to: RateLimit::Unlimited,
        }
    }

    /// What the stream may take now.
    fn limit(&self, vm: &VmId) -> Option<RateLimit> {
        let (migration, ceilings) = (self.migrations.get(vm)?, self.ceilings.get(vm)?);
        let limit = ceilings.at(migration.stage);
        if migration.stage == Stage::Stopped {
            return Some(limit);
        }
        // What a guest fetches is little, and it stands still for it.
        let fetches = matches!(migration.stage, Stage::Aside | Stage::Rest);
        let limit = if fetches { limit } else { limit.at_most(self.yields_to) };
        let gives_way = self.first.as_ref().is_some_and(|first| {
            // Where ports have classes the end of a pre-copy overtakes.
            first != vm && (!self.classes || self.switches(first))
        });
        let waits_for_rest = |other: &Migration| other.stage == Stage::Rest;
        // Who has switched has a guest that waits as well: of five hybrids that gave way to each other two were silent for 2.2 and 3.0 s.
        let passes = migration.stage == Stage::Passes;
        let gives_way = gives_way || passes && self.migrations.values().any(waits_for_rest);
        if gives_way && !ceilings.giving_way.is_zero() {
            return Some(limit.at_most(RateLimit::At(ceilings.giving_way)));
        }
        Some(limit)
    }

    /// Sets the stream's pace to what it is to be now. True if the kernel keeps it.
    fn pace(&self, vm: &VmId) -> bool {
        let stream = self.migrations.get(vm).and_then(|migration| migration.stream.as_ref());
        let limit = self.limit(vm);
        stream.zip(limit).is_some_and(|(stream, limit)| stream.pace(limit))
    }

    /// The stream of that VM goes before the others from now on: by its class where the ports have classes and a pre-copy ends,
    /// else by the others' paces. QEMU's own ceilings take 0.1 to 0.2 s to bind, which is longer than it lasts: streams that
    /// were not found stay as they are.
    pub(super) fn give_way(&mut self, to: Option<VmId>) {
        let before = std::mem::replace(&mut self.first, to);
        if self.classes {
            for vm in before.iter().chain(&self.first) {
                self.classify(vm);
            }
        }
        self.pace_all();
    }

    /// The class of its stream. In a switch to post-copy pages follow the state at once, and the target's loading of the state may wait
    /// for pages of its own, for which a stream in the class that goes first would be a queue. So it goes first where a pre-copy
    /// ends; beside a switch the others are slowed down.
    fn class(&self, vm: &VmId) -> u32 {
        let ends = self.first.as_ref() == Some(vm) && !self.switches(vm);
        if ends { URGENT } else { STREAM }
    }

    fn switches(&self, vm: &VmId) -> bool {
        self.migrations.get(vm).is_some_and(|migration| migration.switches)
    }

    fn classify(&self, vm: &VmId) {
        let stream = self.migrations.get(vm).and_then(|migration| migration.stream.as_ref());
        if let Some(stream) = stream.filter(|_| self.classes) {
            stream.prioritize(self.class(vm));
        }
    }

    /// No stream takes more than this from now on, but that of a VM that stands still.
    pub(super) fn yield_to(&mut self, each: RateLimit) {
        self.yields_to = each;
        self.pace_all();
    }

    fn pace_all(&self) {
        for vm in self.migrations.keys() {
            self.pace(vm);
        }
    }

    fn reach(&mut self, vm: &VmId, stage: Stage) {
        let Some(migration) = self.migrations.get_mut(vm) else { return };
        let before = migration.stage;
        if before < stage {
            migration.stage = stage;
            if [before, stage].contains(&Stage::Rest) {
                self.pace_all();
            } else {
                self.pace(vm);
            }
        }
    }

    /// Something has happened to a VM, of which so much was left to send when it was last looked at.
    pub(super) fn note_event(&mut self, vm: &VmId, side: Side, event: &QemuEvent, left: Bytes) {
        match (side, event) {
            (Side::Source, QemuEvent::Stopped) => self.reach(vm, Stage::Stopped),
            // It says so once it has all of the VM's state, and only then may the rest be slow.
            (Side::Target, QemuEvent::Status(MigrationStatus::PostcopyActive)) => {
                let Some(ceilings) = self.ceilings.get(vm) else { return };
                let stage = ceilings.begins_with(left);
                let time = ceilings.lasts(stage, self.classes);
                self.reach(vm, stage);
                if stage != Stage::Background {
                    self.tell_after(vm, time, Tuned::Fetched);
                }
            }
            _ => {}
        }
    }

    /// A guest has had its time.
    pub(super) fn note_fetched(&mut self, vm: &VmId) {
        self.reach(vm, Stage::Background);
    }

    /// A post-copy that has not switched copies from now on.
    pub(super) fn note_loud(&mut self, vm: &VmId, pair: &Pair) {
        let Some(migration) = self.migrations.get_mut(vm).filter(|it| it.quiet) else { return };
        migration.quiet = false;
        let passes = migration.stage == Stage::Passes;
        let paced = self.pace(vm);
        if let Some(ceilings) = self.ceilings.get(vm).filter(|_| passes) {
            let own = [ceilings.stream, ceilings.background];
            let none = [RateLimit::Unlimited; 2];
            set_ceilings(vm.clone(), pair.clone(), if paced { none } else { own });
        }
    }

    /// Something is about to be done: what makes a connection starts a search for it, and a new ceiling is the socket's where
    /// that can be paced. Returns what is left for QEMU to do.
    pub(super) fn note_action(&mut self, vm: &VmId, action: Action, pair: &Pair) -> Action {
        match &action {
            Action::Configure { .. } => return self.limited(vm, action),
            // What is found or due from now on is of a stream that is over, and QEMU's ceilings are no longer ours.
            Action::Restore(_) => {
                self.migrations.remove(vm);
                // Who gave way to it goes on.
                self.pace_all();
            }
            Action::Migrate { uri } => {
                self.begin(vm, uri, false);
                self.end_of_quiet(vm);
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
                        self.classify(vm);
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
            Action::SetPostcopyBandwidth(limit) => {
                if let Some(ceilings) = self.ceilings.get_mut(vm) {
                    ceilings.background = *limit;
                }
                if self.pace(vm) {
                    return Action::SetPostcopyBandwidth(RateLimit::Unlimited);
                }
            }
            _ => {}
        }
        action
    }

    /// What QEMU is told beforehand.
    fn limited(&self, vm: &VmId, mut action: Action) -> Action {
        let quietly = self.ceilings.get(vm).is_some_and(|it| it.postcopy);
        if let Action::Configure { side: Side::Source, limits, .. } = &mut action
            && quietly
        {
            limits.bandwidth = limits.bandwidth.at_most(QUIET);
        }
        action
    }

    fn begin(&mut self, vm: &VmId, uri: &str, again: bool) {
        let port = uri.rsplit(':').next().and_then(|port| port.parse().ok());
        let Some(port) = port else { return };
        let stage = if again { Stage::Background } else { Stage::Passes };
        let quiet = !again && self.ceilings.get(vm).is_some_and(|it| it.postcopy);
        let begun =
            Migration { port, stream: None, stage, switches: again, quiet, inherited: false };
        self.migrations.insert(vm.clone(), begun);
    }

    /// A stream is there that a killed controller began, and held back as it was right then: to next to nothing before a switch, to a
    /// tenth while another VM stood still. It is found, and has its due from now on.
    pub(super) fn take_over(&mut self, vm: &VmId, uri: &str, phase: Phase, pair: &Pair) {
        self.inherit(vm, uri, phase);
        self.search(vm, Which::Stream, pair);
    }

    fn inherit(&mut self, vm: &VmId, uri: &str, phase: Phase) {
        self.begin(vm, uri, phase != Phase::PreCopy && phase != Phase::Switchover);
        let Some(migration) = self.migrations.get_mut(vm) else { return };
        (migration.quiet, migration.inherited) = (false, true);
        if phase == Phase::Switchover {
            migration.stage = Stage::Stopped;
        }
    }

    fn end_of_quiet(&self, vm: &VmId) {
        if self.migrations.get(vm).is_some_and(|migration| migration.quiet) {
            self.tell_after(vm, QUIET_LIMIT, Tuned::Loud);
        }
    }

    /// The loop is told when so much time has passed.
    fn tell_after(&self, vm: &VmId, time: Duration, tuned: Tuned) {
        let (vm, inbox) = (vm.clone(), self.inbox.clone());
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            // The loop may be over: nobody wants to know then.
            let _ = inbox.send(Input::Tuned { vm, tuned }).await;
        });
    }

    /// The stream was found.
    pub(super) fn note_stream(&mut self, vm: &VmId, source: Box<SourceEnd>, pair: &Pair) {
        let Some(migration) = self.migrations.get_mut(vm) else { return };
        let beside = source.port();
        migration.stream = Some(source);
        let (quiet, inherited) = (migration.quiet, migration.inherited);
        if migration.switches {
            self.search(vm, Which::Urgent { beside }, pair);
        }
        self.classify(vm);
        let limited = self.ceilings.get(vm).is_some_and(|it| {
            [it.stream, it.background].iter().any(|limit| *limit != RateLimit::Unlimited)
        });
        if self.pace(vm) && (limited || inherited) {
            let stream = if quiet { QUIET } else { RateLimit::Unlimited };
            set_ceilings(vm.clone(), pair.clone(), [stream, RateLimit::Unlimited]);
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

/// Sets QEMU's own ceilings, before and after a switch. Beside a paced socket they are lifted: they would make pulses of an even
/// pace. Where they stay they hold as well.
fn set_ceilings(vm: VmId, pair: Pair, [stream, background]: [RateLimit; 2]) {
    let parameters = MigrationParameters {
        max_bandwidth: Some(stream),
        max_postcopy_bandwidth: Some(background),
        ..MigrationParameters::default()
    };
    tokio::spawn(async move {
        if let Err(error) = pair.source.client.set_parameters(&parameters).await {
            tracing::warn!(%vm, "QEMU's own ceilings stay: {error}");
        }
    });
}

#[cfg(test)]
mod tests;
