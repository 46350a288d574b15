//! Two QEMUs and a link, in steps of [`TICK`].

mod journal;

use super::super::*;
use crate::action::SwitchoverRate;
use journal::Journal;

const TICK: Duration = Duration::from_millis(10);
/// Simulated time after which an attempt that has not ended never will: six passes of a guest that dirties nearly twice what is
/// sent, at 20 Mbit/s, take some 50 minutes.
const END: Timestamp = Timestamp::from_millis(6_000_000);
const MEMORY: f64 = 120e6;
const RATE: f64 = 117e6;
const THETA: f64 = 35e6;
/// What post-copy has sent last arrives so much later.
const FLIGHT: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    KillTarget,
    KillSource,
    /// For so many milliseconds.
    LinkDown(u64),
    Cancel,
    SwitchToPostcopy,
    /// An operator sets a ceiling, Mbit/s, and a downtime, ms.
    SetLimits(u64, u64),
    /// Replies get lost for so many milliseconds.
    MuteReplies(u64),
    /// The controller is killed; so many milliseconds later another one takes over.
    KillController(u64),
}

#[derive(Debug, Clone)]
pub(super) struct Qemu {
    pub(super) alive: bool,
    pub(super) running: bool,
    pub(super) status: MigrationStatus,
}

#[derive(Debug, Clone)]
enum Input {
    Event(Side, QemuEvent),
    Reply(ActionId, Result<Reply, ActionError>),
}

/// What the source is set to before anybody comes.
pub(super) fn before() -> Settings {
    Settings {
        bandwidth: Some(RateLimit::At("128MiB/s".parse().unwrap())),
        postcopy_bandwidth: Some(RateLimit::Unlimited),
        switchover_bandwidth: Some(SwitchoverRate::Measured),
        downtime: Some(Duration::from_millis(317)),
        capabilities: BTreeMap::from([("postcopy-ram".to_owned(), false)]),
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) source: Qemu,
    pub(super) target: Qemu,
    driver: VmDriver,
    rng: u64,
    /// Dirtied bytes per byte sent.
    dirty: f64,
    faults: Vec<(u64, Fault)>,
    injected: Vec<Fault>,
    link_down_until: Timestamp,
    muted_until: Timestamp,
    remaining: f64,
    sent: f64,
    sent_in_pass: f64,
    pass: u32,
    postcopy_requested: bool,
    listening: bool,
    /// The source tries to connect anew.
    connecting: bool,
    /// Segments sent again.
    sent_again: u64,
    /// Whether the kernels can be asked, and whether heartbeats pass.
    witnesses: [bool; 2],
    /// When the target will have loaded what was sent at switchover.
    loads_at: Option<Timestamp>,
    /// When it will have got the last of post-copy, if the link is up.
    arrives_at: Option<Timestamp>,
    stop_at_once: bool,
    /// What fits the downtime limit, bytes.
    theta: f64,
    /// The ceiling of the stream, bytes per second.
    rate: f64,
    inbox: Vec<(Timestamp, u64, Input)>,
    last_delivery: [Timestamp; 2],
    sequence: u64,
    records: Vec<Record>,
    violation: Option<String>,
    plan: Move,
    /// What the source is set to.
    settings: Settings,
    journal: Journal,
    /// When another controller takes over.
    dead_until: Option<Timestamp>,
    /// So often one did.
    pub(super) adoptions: u32,
    /// What was left when the switch was asked for, with what the guest had written since the pass began.
    pub(super) left_at_switch: Option<f64>,
}

impl World {
    pub(super) fn new(plan: Move, seed: u64, dirty: f64, faults: Vec<(u64, Fault)>) -> Self {
        let stop_at_once = plan.technique == Technique::StopAndCopy;
        let mut driver = VmDriver::new(plan.clone(), true);
        driver.set_before(before());
        World {
            now: Timestamp::ZERO,
            source: Qemu { alive: true, running: true, status: MigrationStatus::None },
            target: Qemu { alive: true, running: false, status: MigrationStatus::None },
            driver,
            plan,
            settings: before(),
            journal: Journal::new(),
            dead_until: None,
            adoptions: 0,
            left_at_switch: None,
            rng: seed | 1,
            dirty,
            faults,
            injected: Vec::new(),
            link_down_until: Timestamp::ZERO,
            muted_until: Timestamp::ZERO,
            remaining: MEMORY,
            sent: 0.0,
            sent_in_pass: 0.0,
            pass: 0,
            postcopy_requested: false,
            listening: false,
            connecting: false,
            sent_again: 0,
            witnesses: [seed & 1 != 0, seed & 2 != 0],
            loads_at: None,
            arrives_at: None,
            stop_at_once,
            theta: THETA,
            rate: RATE,
            inbox: Vec::new(),
            last_delivery: [Timestamp::ZERO; 2],
            sequence: 0,
            records: Vec::new(),
            violation: None,
        }
    }

    pub(super) fn run(&mut self) {
        self.driver.prepare(self.now);
        while self.driver.outcome().is_none() && self.now < END && self.violation.is_none() {
            self.inject();
            self.advance();
            if let Some(until) = self.dead_until {
                self.inbox.clear();
                if self.source.running && self.target.running {
                    self.violation = Some(format!("two running copies at {:?}", self.now));
                }
                if until <= self.now {
                    self.dead_until = None;
                    self.take_over();
                    self.drain();
                }
                self.now = self.now + TICK;
                continue;
            }
            self.drain();
            self.deliver();
            self.witness();
            if self.driver.phase() == Phase::Ready {
                self.driver.start(self.now);
            }
            if self.driver.poll_timeout().is_some_and(|due| due <= self.now) {
                self.driver.handle_timeout(self.now);
            }
            self.drain();
            if self.source.running && self.target.running {
                self.violation = Some(format!("two running copies at {:?}", self.now));
            }
            self.now = self.now + TICK;
        }
    }

    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.driver.outcome()
    }

    pub(super) fn has(&self, wanted: impl Fn(&RecordKind) -> bool) -> bool {
        self.records.iter().any(|record| wanted(&record.kind))
    }

    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    /// How the attempt ended, when, and why.
    pub(super) fn end(&self) -> Option<(Timestamp, Outcome, Option<&str>)> {
        self.records.iter().find_map(|record| match &record.kind {
            RecordKind::Ended { outcome, reason } => Some((record.at, *outcome, reason.as_deref())),
            _ => None,
        })
    }

    /// Whether either side was told to end.
    pub(super) fn was_ending(&self) -> bool {
        self.journal.undoing || self.journal.releasing
    }

    pub(super) fn has_since(&self, at: Timestamp, wanted: impl Fn(&RecordKind) -> bool) -> bool {
        self.records.iter().any(|record| record.at > at && wanted(&record.kind))
    }

    pub(super) fn check_end(&self) -> Result<(), String> {
        if let Some(violation) = &self.violation {
            return Err(violation.clone());
        }
        let killed =
            self.injected.iter().any(|f| matches!(f, Fault::KillSource | Fault::KillTarget));
        // A source that dies while its last word is under way was confirmed all the same.
        let source_killed = self.injected.contains(&Fault::KillSource);
        let Some(outcome) = self.outcome() else {
            return Err(format!("the attempt never ended: {:?}", self.driver));
        };
        let sound = match outcome {
            Outcome::Completed => !self.source.running && (self.target.running || killed),
            Outcome::RolledBack | Outcome::NotStarted => {
                (self.source.running || source_killed) && !self.target.running
            }
            Outcome::Lost => killed && !self.source.running,
            // Unconfirmed, but the state exists: QMP was mute, or the link never came back.
            Outcome::NeedsRecovery => killed || self.source.alive || self.target.running,
        };
        // Whatever was set at a source whose VM stays is put back, or told.
        let told = |kind: &RecordKind| matches!(kind, RecordKind::Warning(text) if text.contains("could not be put back"));
        let stays = outcome == Outcome::RolledBack && self.source.alive;
        if stays && self.settings != before() && !self.has(told) {
            return Err(format!("left with {:?}, faults {:?}", self.settings, self.injected));
        }
        let one_end = self
            .records
            .iter()
            .filter(|record| matches!(record.kind, RecordKind::Ended { .. }))
            .count();
        if !sound || one_end != 1 {
            return Err(format!(
                "{outcome:?} with source {:?}, target {:?}, faults {:?}, records {:?}",
                self.source, self.target, self.injected, self.records
            ));
        }
        Ok(())
    }

    fn random(&mut self, below: u64) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng % below
    }

    fn link_up(&self) -> bool {
        self.now >= self.link_down_until
    }

    fn inject(&mut self) {
        let due: Vec<_> = self
            .faults
            .iter()
            .copied()
            .filter(|(at, _)| Timestamp::from_millis(*at) <= self.now)
            .collect();
        self.faults.retain(|(at, _)| Timestamp::from_millis(*at) > self.now);
        for (_, fault) in due {
            self.injected.push(fault);
            match fault {
                Fault::KillTarget => self.kill(Side::Target),
                Fault::KillSource => self.kill(Side::Source),
                Fault::LinkDown(ms) => {
                    self.link_down_until = self.now + Duration::from_millis(ms);
                }
                Fault::MuteReplies(ms) => self.muted_until = self.now + Duration::from_millis(ms),
                Fault::KillController(ms) => {
                    self.die();
                    self.dead_until = Some(self.now + Duration::from_millis(ms));
                }
                // Nobody listens.
                Fault::Cancel | Fault::SwitchToPostcopy if self.dead_until.is_some() => {}
                Fault::Cancel => {
                    let _ = self.driver.request(self.now, Request::Cancel);
                }
                Fault::SwitchToPostcopy => {
                    let _ = self.driver.request(self.now, Request::SwitchToPostcopy);
                }
                Fault::SetLimits(mbit, ms) => {
                    let limit = RateLimit::At(Bandwidth::from_bits_per_second(mbit * 1_000_000));
                    let downtime = Duration::from_millis(ms);
                    let step = Move {
                        bandwidth: limit,
                        postcopy_bandwidth: limit,
                        downtime_limit: downtime,
                        ..self.driver.plan().clone()
                    };
                    let asked = (Some(limit), Some(downtime));
                    self.driver.revise_within(self.now, &step, asked);
                }
            }
        }
    }

    /// The controller dies between writing down what it means to do and doing it: some of it is done, nobody hears of it.
    fn die(&mut self) {
        while let Some((id, action)) = self.driver.poll_action() {
            self.journal.intend(id, &action);
            if self.random(2) == 0 {
                let _ = self.perform(&action);
            }
        }
        while let Some(record) = self.driver.poll_record() {
            self.records.push(record);
        }
        self.inbox.clear();
    }

    fn seen(&mut self, side: Side) -> Seen {
        if !self.qemu(side).alive {
            return Seen::Gone;
        }
        match self.perform(&Action::Sample(side)) {
            Some(Ok(Reply::Sample(sample))) => Seen::There(sample),
            _ => Seen::Silent,
        }
    }

    /// As the shell does it: read the target, some time later the source, then make a driver.
    fn take_over(&mut self) {
        if self.driver.outcome().is_some() {
            return;
        }
        self.adoptions += 1;
        let target = self.seen(Side::Target);
        // The world does not stand still between the two answers.
        for _ in 0..self.random(20) {
            self.advance();
            self.now = self.now + TICK;
        }
        let source = self.seen(Side::Source);
        self.inbox.clear();
        let at = |wanted: &RecordKind| {
            self.records.iter().find(|record| record.kind == *wanted).map(|record| record.at)
        };
        let passes = self.records.iter().filter_map(|record| match record.kind {
            RecordKind::Pass(pass) => Some(pass),
            _ => None,
        });
        let inherited = Inherited {
            source,
            target,
            migrate: self.journal.migrate,
            postcopy_prepared: self.journal.postcopy_prepared,
            postcopy_asked: self.journal.postcopy_asked,
            postcopied: at(&RecordKind::Entered(Phase::PostCopy)).is_some(),
            undoing: self.journal.undoing,
            releasing: self.journal.releasing,
            pass: passes.max().unwrap_or(0),
            stopped_at: at(&RecordKind::Stopped),
            resumed_at: at(&RecordKind::Resumed),
            before: Some(before()),
        };
        if inherited.is_unstarted() {
            // A fresh target; what the old one had is of no use to anybody.
            self.target = Qemu { alive: true, running: false, status: MigrationStatus::None };
            self.source.status = MigrationStatus::None;
            self.postcopy_requested = false;
            self.journal = Journal::new();
            self.driver = VmDriver::new(self.plan.clone(), true);
            self.driver.set_before(before());
            self.driver.prepare(self.now);
        } else {
            self.driver = VmDriver::adopt(self.plan.clone(), true, &inherited, self.now);
            self.driver.hold_postcopy(self.now, false);
        }
    }

    fn kill(&mut self, side: Side) {
        let qemu = self.qemu(side);
        if !qemu.alive {
            return;
        }
        qemu.alive = false;
        qemu.running = false;
        self.emit(side, QemuEvent::Gone);
        match side {
            Side::Target => {
                self.loads_at = None;
                match self.source.status {
                    // A reset arrives only over a link that is up; without it the source just stalls.
                    MigrationStatus::Active | MigrationStatus::Device if self.link_up() => {
                        self.fail_source(MigrationStatus::Failed);
                    }
                    MigrationStatus::PostcopyActive if self.link_up() => {
                        if self.arrives_at.take().is_some() {
                            // Only the target's last word was missing: it fails, and runs what it has.
                            self.fail_source(MigrationStatus::Failed);
                        } else {
                            self.set(Side::Source, MigrationStatus::PostcopyPaused);
                        }
                    }
                    _ => {}
                }
            }
            Side::Source => {
                if self.target.status == MigrationStatus::PostcopyActive {
                    self.set(Side::Target, MigrationStatus::PostcopyPaused);
                }
            }
        }
    }

    fn qemu(&mut self, side: Side) -> &mut Qemu {
        if side == Side::Source { &mut self.source } else { &mut self.target }
    }

    fn set(&mut self, side: Side, status: MigrationStatus) {
        self.qemu(side).status = status.clone();
        self.emit(side, QemuEvent::Status(status));
    }

    /// QEMU gives up and, like QEMU, lets the VM run on at the source whatever the target does.
    fn fail_source(&mut self, status: MigrationStatus) {
        self.set(Side::Source, status);
        if self.source.alive && !self.source.running {
            self.source.running = true;
            self.emit(Side::Source, QemuEvent::Resumed);
        }
    }

    fn emit(&mut self, side: Side, event: QemuEvent) {
        let delay = Duration::from_millis(self.random(40));
        let index = usize::from(side == Side::Target);
        let at = (self.now + delay).max(self.last_delivery[index]);
        self.last_delivery[index] = at;
        self.push(at, Input::Event(side, event));
    }

    fn push(&mut self, at: Timestamp, input: Input) {
        self.sequence += 1;
        self.inbox.push((at, self.sequence, input));
    }

    fn advance(&mut self) {
        if !self.source.alive {
            return;
        }
        let moves = self.link_up() && self.target.alive;
        if self.connecting && moves && self.listening {
            (self.connecting, self.listening) = (false, false);
            self.set(Side::Source, MigrationStatus::PostcopyActive);
            self.set(Side::Target, MigrationStatus::PostcopyActive);
        }
        match self.source.status {
            MigrationStatus::Active => {
                if self.postcopy_requested {
                    self.begin_postcopy();
                } else if self.stop_at_once && self.now > Timestamp::from_millis(200) {
                    self.stop();
                } else if moves {
                    self.send();
                    if self.remaining <= self.theta {
                        self.next_pass();
                    }
                }
            }
            MigrationStatus::Device if moves => {
                self.send();
                if self.remaining > 0.0 {
                    return;
                }
                let loads_at = *self.loads_at.get_or_insert(self.now + Duration::from_millis(30));
                if loads_at <= self.now && !self.target.running {
                    self.target.running = true;
                    self.emit(Side::Target, QemuEvent::Resumed);
                    self.set(Side::Target, MigrationStatus::Completed);
                } else if self.target.running {
                    self.set(Side::Source, MigrationStatus::Completed);
                }
            }
            MigrationStatus::PostcopyActive
                if moves && self.target.status == MigrationStatus::PostcopyActive =>
            {
                self.send();
                if self.remaining > 0.0 {
                    return;
                }
                if *self.arrives_at.get_or_insert(self.now + FLIGHT) <= self.now {
                    self.set(Side::Target, MigrationStatus::Completed);
                    self.set(Side::Source, MigrationStatus::Completed);
                }
            }
            _ => {}
        }
    }

    /// What is known of the path from elsewhere than QEMU.
    fn witness(&mut self) {
        if !self.now.nanos().is_multiple_of(200_000_000) || !self.driver.depends_on_path() {
            return;
        }
        let [kernel, heartbeat] = self.witnesses;
        if heartbeat {
            self.driver.handle_beat(self.now, Beat::Sent);
            if self.link_up() {
                self.driver.handle_beat(self.now, Beat::Answered);
            }
        }
        let connected = self.source.status == MigrationStatus::PostcopyActive;
        if kernel && connected && self.source.alive && self.target.alive {
            self.sent_again += u64::from(!self.link_up());
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some MB")]
            let sample = ConnectionSample {
                delivered: self.sent as u64,
                sent_again: self.sent_again,
                under_way: 40,
            };
            self.driver.handle_connection(self.now, sample);
        }
    }

    fn send(&mut self) {
        let bytes = (self.rate * TICK.as_secs_f64()).min(self.remaining);
        self.remaining -= bytes;
        self.sent += bytes;
        self.sent_in_pass += bytes;
    }

    fn next_pass(&mut self) {
        self.remaining += self.sent_in_pass * self.dirty;
        self.sent_in_pass = 0.0;
        self.pass += 1;
        let pass = self.pass + 1;
        self.emit(Side::Source, QemuEvent::Pass(pass));
        if self.remaining <= self.theta {
            self.stop();
        }
    }

    fn stop(&mut self) {
        self.source.running = false;
        self.emit(Side::Source, QemuEvent::Stopped);
        self.set(Side::Source, MigrationStatus::Device);
    }

    fn begin_postcopy(&mut self) {
        if !(self.link_up() && self.target.alive) {
            return;
        }
        self.stop();
        self.set(Side::Source, MigrationStatus::PostcopyActive);
        self.set(Side::Target, MigrationStatus::PostcopyActive);
        self.target.running = true;
        self.emit(Side::Target, QemuEvent::Resumed);
    }

    fn drain(&mut self) {
        while let Some((id, action)) = self.driver.poll_action() {
            self.journal.intend(id, &action);
            let reply = self.perform(&action);
            let silent = reply.is_none() || self.now < self.muted_until;
            // The shell turns silence into a time-out.
            let (delay, reply) = match reply {
                Some(reply) if !silent => (self.random(30), reply),
                _ => {
                    let message = "no answer".to_owned();
                    (3_000, Err(ActionError { class: FailureClass::Timeout, message }))
                }
            };
            self.push(self.now + Duration::from_millis(delay), Input::Reply(id, reply));
        }
        while let Some(record) = self.driver.poll_record() {
            self.records.push(record);
        }
    }

    fn deliver(&mut self) {
        self.inbox.sort_by_key(|(at, sequence, _)| (*at, *sequence));
        while self.inbox.first().is_some_and(|(at, ..)| *at <= self.now) {
            let (_, _, input) = self.inbox.remove(0);
            match input {
                Input::Event(side, event) => self.driver.handle_event(self.now, side, event),
                Input::Reply(id, reply) => {
                    self.journal.reply(id, &reply);
                    self.driver.handle_reply(self.now, id, reply);
                }
            }
        }
    }

    /// `None`: no answer.
    fn perform(&mut self, action: &Action) -> Option<Result<Reply, ActionError>> {
        let side = match action {
            Action::Configure { side, .. } | Action::Sample(side) => *side,
            Action::Resume(side) | Action::Stop(side) | Action::PauseChannel(side) => *side,
            Action::Listen | Action::DestroyTarget | Action::ListenAgain => Side::Target,
            _ => Side::Source,
        };
        if !self.qemu(side).alive {
            if *action == Action::DestroyTarget {
                return Some(Ok(Reply::Done));
            }
            let message = "gone".to_owned();
            return Some(Err(ActionError { class: FailureClass::Gone, message }));
        }
        let sends_last = self.source.status == MigrationStatus::PostcopyActive
            && self.arrives_at.is_some()
            && !self.link_up();
        let stuck =
            side == Side::Source && (self.source.status == MigrationStatus::Device || sends_last);
        let out_of_band = matches!(action, Action::BreakChannel | Action::PauseChannel(_));
        if stuck && !out_of_band && *action != Action::DestroySource {
            return None;
        }
        Some(self.answer(action, side))
    }

    fn answer(&mut self, action: &Action, side: Side) -> Result<Reply, ActionError> {
        let refused = |message: &str| {
            Err(ActionError { class: FailureClass::Refused, message: message.to_owned() })
        };
        match action {
            Action::Configure { side, postcopy, limits, .. } => {
                if *side == Side::Source {
                    self.settings.bandwidth = Some(limits.bandwidth);
                    self.settings.capabilities.insert("postcopy-ram".to_owned(), *postcopy);
                    self.settings.switchover_bandwidth =
                        Some(SwitchoverRate::Assumed(limits.switchover_bandwidth));
                }
                self.theta = RATE * limits.downtime.as_secs_f64();
                let ceiling = limits.bandwidth.bandwidth();
                self.rate = ceiling.map_or(RATE, |at| at.bytes_per_second() as f64).min(RATE);
                Ok(Reply::Done)
            }
            Action::SetSwitchoverBandwidth(rate) if rate.bytes_per_second() == 0 => {
                self.violation = Some("a switchover at no byte a second".to_owned());
                refused("below 1 byte/s would mean no limit")
            }
            Action::SetSwitchoverBandwidth(rate) => {
                self.settings.switchover_bandwidth = Some(SwitchoverRate::Assumed(*rate));
                Ok(Reply::Done)
            }
            Action::SetPostcopyBandwidth(limit) => {
                self.settings.postcopy_bandwidth = Some(*limit);
                Ok(Reply::Done)
            }
            Action::Restore(settings) => {
                if !self.source.status.is_over() {
                    return refused("there is a migration process in progress");
                }
                self.settings = settings.clone();
                Ok(Reply::Done)
            }
            Action::SetDowntimeLimit(limit) => {
                self.settings.downtime = Some(*limit);
                self.theta = RATE * limit.as_secs_f64();
                Ok(Reply::Done)
            }
            Action::SetBandwidth(limit) => {
                self.settings.bandwidth = Some(*limit);
                let ceiling = limit.bandwidth().map_or(RATE, |at| at.bytes_per_second() as f64);
                self.rate = ceiling.min(RATE);
                Ok(Reply::Done)
            }
            Action::Listen => Ok(Reply::Listening("tcp:1".to_owned())),
            Action::Migrate { .. } => {
                if !self.link_up() {
                    return refused("no route");
                }
                self.set(Side::Source, MigrationStatus::Active);
                self.pass = 0;
                self.emit(Side::Source, QemuEvent::Pass(1));
                Ok(Reply::Done)
            }
            Action::StartPostcopy => {
                if self.source.status != MigrationStatus::Active {
                    return refused("not migrating");
                }
                self.postcopy_requested = true;
                let left = self.remaining + self.sent_in_pass * self.dirty;
                self.left_at_switch = Some(left.min(MEMORY));
                Ok(Reply::Done)
            }
            Action::Sample(side) => Ok(Reply::Sample(Box::new(self.figures(*side)))),
            Action::Cancel | Action::BreakChannel => {
                let status = if *action == Action::Cancel {
                    MigrationStatus::Cancelled
                } else {
                    MigrationStatus::Failed
                };
                match self.source.status {
                    MigrationStatus::Active | MigrationStatus::Device => self.fail_source(status),
                    MigrationStatus::PostcopyActive => return refused("post-copy"),
                    _ => {}
                }
                Ok(Reply::Done)
            }
            Action::DestroyTarget => {
                self.kill(Side::Target);
                Ok(Reply::Done)
            }
            Action::DestroySource => {
                self.source.alive = false;
                self.source.running = false;
                self.emit(Side::Source, QemuEvent::Gone);
                Ok(Reply::Done)
            }
            Action::Resume(_) => {
                self.qemu(side).running = true;
                self.emit(side, QemuEvent::Resumed);
                Ok(Reply::Done)
            }
            Action::Stop(_) => {
                if std::mem::take(&mut self.qemu(side).running) {
                    self.emit(side, QemuEvent::Stopped);
                }
                Ok(Reply::Done)
            }
            Action::PauseChannel(_) => {
                let connecting = side == Side::Source && std::mem::take(&mut self.connecting);
                if self.qemu(side).status != MigrationStatus::PostcopyActive && !connecting {
                    return refused("not in post-copy");
                }
                if side == Side::Source && self.arrives_at.is_some() {
                    // It waits for the target's last word only, and takes this for one.
                    self.fail_source(MigrationStatus::Failed);
                    return Ok(Reply::Done);
                }
                self.set(side, MigrationStatus::PostcopyPaused);
                Ok(Reply::Done)
            }
            Action::ListenAgain => {
                if self.target.status != MigrationStatus::PostcopyPaused {
                    return refused("not paused");
                }
                self.listening = true;
                Ok(Reply::Listening("tcp:2".to_owned()))
            }
            Action::ResumeMigration { .. } => {
                if self.source.status != MigrationStatus::PostcopyPaused {
                    return refused("not paused");
                }
                if !self.link_up() && self.random(2) == 0 {
                    // Its kernel asks again and again, for two minutes.
                    self.connecting = true;
                    self.set(Side::Source, MigrationStatus::PostcopyRecover);
                    return Ok(Reply::Done);
                }
                if !self.listening || !self.link_up() || !self.target.alive {
                    return refused("no path");
                }
                self.listening = false;
                self.set(Side::Source, MigrationStatus::PostcopyActive);
                self.set(Side::Target, MigrationStatus::PostcopyActive);
                Ok(Reply::Done)
            }
        }
    }

    fn figures(&mut self, side: Side) -> MigrationSample {
        let (sent, remaining) = (self.sent.max(0.0), self.remaining.max(0.0));
        // Measured when a pass ends.
        let dirty_rate = if self.pass == 0 { 0.0 } else { self.rate * self.dirty };
        let qemu = self.qemu(side);
        let run_state = match (qemu.running, side, &qemu.status) {
            (true, ..) => RunState::Running,
            (false, Side::Source, MigrationStatus::Completed) => RunState::PostMigrate,
            (false, Side::Source, _) => RunState::FinishMigrate,
            (false, Side::Target, _) => RunState::InMigrate,
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative")]
        MigrationSample {
            status: qemu.status.clone(),
            run_state,
            transferred: Bytes::new(sent as u64),
            remaining: Bytes::new(remaining as u64),
            total: Bytes::new(MEMORY as u64),
            rate: Bandwidth::from_bytes_per_second(RATE as u64),
            dirty_rate: Bandwidth::from_bytes_per_second(dirty_rate as u64),
            postcopy_requests: u64::from(qemu.status == MigrationStatus::PostcopyActive),
            downtime: None,
            error: None,
        }
    }
}
