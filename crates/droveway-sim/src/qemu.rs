//! One VM's two QEMUs: QEMU 10.0.2's migration as the driver sees it.
//!
//! The course of a migration is that of the fluid model's runner; here it also speaks: replies, events and their order are
//! those that QEMU gives. A main loop that sits in the stream while the VM is stopped answers nothing but what is out of
//! band; a cancelled or failed migration lets the VM run on at the source.

mod answers;

pub(crate) use answers::side_of;

use crate::{Memory, Physics};
use droveway_drive::{Limits, MigrationStatus, QemuEvent, Settings, Side, SwitchoverRate};
use droveway_fleet::{Bandwidth, RateLimit};
use droveway_model::technique::outage_after_switch;
use std::time::Duration;

/// One QEMU process.
#[derive(Debug, Clone)]
pub(crate) struct Qemu {
    pub(crate) alive: bool,
    pub(crate) running: bool,
    pub(crate) status: MigrationStatus,
}

/// What a source is set to before anybody comes: QEMU's own beginnings.
pub(crate) fn before() -> Settings {
    const MIB_PER_SECOND: u64 = 1 << 20;
    Settings {
        bandwidth: Some(RateLimit::At(Bandwidth::from_bytes_per_second(128 * MIB_PER_SECOND))),
        postcopy_bandwidth: Some(RateLimit::Unlimited),
        switchover_bandwidth: Some(SwitchoverRate::Measured),
        downtime: Some(Duration::from_millis(300)),
        capabilities: [("postcopy-ram".to_owned(), false)].into(),
    }
}

/// Where a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// None is under way.
    Idle,
    /// Connecting.
    Setup,
    /// The VM runs at the source, memory is sent.
    Pass,
    /// The VM is stopped, the rest is sent.
    Rest,
    /// The VM is stopped, the last bytes are between the two sockets.
    Load,
    /// The target has everything and loads it.
    Starting,
    /// The VM runs at the target; the source waits for its word.
    Word,
    /// The VM is stopped and will run at the target before its memory is there.
    Switch,
    /// It runs at the target, memory follows.
    PostCopy,
    /// The same, and the source has handed everything to its kernel: it waits for the target's last word.
    Tail,
}

impl Stage {
    /// The memory is on two hosts, and the guest runs at the target.
    const fn is_split(self) -> bool {
        matches!(self, Stage::PostCopy | Stage::Tail)
    }
}

/// What a pair tells the world.
pub(crate) type Emitted = Vec<(Side, QemuEvent)>;

/// The two QEMUs of one VM.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) source: Qemu,
    pub(crate) target: Qemu,
    pub(crate) stage: Stage,
    memory: Memory,
    limits: Option<Limits>,
    /// The source is set to something else than before.
    pub(crate) is_set: bool,
    postcopy_allowed: bool,
    postcopy_asked: bool,
    /// The stream's rate now, payload.
    pub(crate) rate: f64,
    pub(crate) sent: f64,
    /// Connections that were made so far.
    pub(crate) connections: u32,
    pass: u32,
    pass_began: f64,
    /// The end of a stage that lasts a fixed time.
    until: f64,
    stopped_at: Option<f64>,
    /// Nobody gets an answer of the guest until then.
    silent_until: Option<f64>,
    /// The longest silence so far.
    pub(crate) silences: Vec<(f64, f64)>,
    scan_per_byte: f64,
    listening: bool,
    faults: u64,
    throttle: Option<Throttle>,
    /// Chance of this attempt: on its rate, its times, its dirtying.
    chance: [f64; 3],
    /// And on where in a slice its passes end: 0 to 1.
    phase: f64,
    /// The stream keeps aside while the guest fetches its first pages.
    aside: bool,
    /// What the port carries, what the stream had of it when its VM stopped, and how long its state takes so.
    port: f64,
    share_at_switch: f64,
    state_seconds: f64,
    /// What each requested page takes longer on a path that has become worse, seconds.
    path_seconds: f64,
    /// Both hosts' ports carry something.
    up: bool,
    /// The path is back, but the connection waits for its next try until then.
    backs_off_until: f64,
    /// Each process is stopped (`SIGSTOP`) until then.
    frozen_until: [f64; 2],
    /// Nothing of what is under way goes on: kept by [`Self::refresh`].
    still: bool,
    /// The source gave up after the target had everything.
    abandoned: bool,
    /// The VM is at the target, the source's copy stale.
    moved: bool,
    /// A broken post-copy was connected anew, and goes on once both sides do.
    recovering: bool,
}

/// Multiples of it fall as evenly as can be.
const GOLDEN: f64 = 0.618_034;

/// Below so many bytes nothing is left: rounding.
const NOTHING: f64 = 0.5;

/// QEMU's `auto-converge`: the second period of at least a second in which more than half of what was sent was dirtied
/// holds the vCPUs back, first by a fifth, then by a tenth more each time.
#[derive(Debug, Clone, Copy, Default)]
struct Throttle {
    share: f64,
    bad: u32,
    dirtied: f64,
    sent: f64,
    since: f64,
}

impl Throttle {
    fn judge(&mut self, dirtied: f64, sent: f64, now: f64) {
        self.dirtied += dirtied;
        if now - self.since < 1.0 {
            return;
        }
        if self.dirtied > 0.5 * (sent - self.sent) {
            self.bad += 1;
            if self.bad >= 2 {
                self.bad = 0;
                self.share = if self.share > 0.0 { (self.share + 0.1).min(0.99) } else { 0.2 };
            }
        }
        (self.dirtied, self.sent, self.since) = (0.0, sent, now);
    }
}

impl Pair {
    /// `aside`: the stream keeps aside while the guest fetches its first pages.
    pub(crate) fn new(memory: Memory, chance: [f64; 3], phase: f64, aside: bool) -> Self {
        let qemu = |running| Qemu { alive: true, running, status: MigrationStatus::None };
        Pair {
            source: qemu(true),
            target: qemu(false),
            stage: Stage::Idle,
            memory,
            limits: None,
            is_set: false,
            postcopy_allowed: false,
            postcopy_asked: false,
            rate: 0.0,
            sent: 0.0,
            connections: 0,
            pass: 0,
            pass_began: 0.0,
            until: 0.0,
            stopped_at: None,
            silent_until: None,
            silences: Vec::new(),
            scan_per_byte: 0.0,
            listening: false,
            faults: 0,
            throttle: None,
            chance,
            phase,
            aside,
            port: 0.0,
            share_at_switch: 0.0,
            state_seconds: 0.0,
            path_seconds: 0.0,
            up: true,
            backs_off_until: 0.0,
            frozen_until: [0.0; 2],
            still: false,
            abandoned: false,
            moved: false,
            recovering: false,
        }
    }

    pub(crate) fn qemu(&mut self, side: Side) -> &mut Qemu {
        if side == Side::Source { &mut self.source } else { &mut self.target }
    }

    /// The guest writes to more of its memory from now on.
    pub(crate) fn write_more(&mut self, working_set: f64, rate: f64) {
        self.memory.write_more(working_set, rate);
    }

    /// The other streams give way to this one: what it has to send while the VM stands still comes at the port's rate.
    pub(crate) fn go_first(&mut self, first: bool, now: f64) {
        let share = self.share_at_switch;
        if first && self.stage == Stage::Switch && self.port > share && self.until > now {
            let left = self.state_seconds.min(self.until - now);
            self.until -= left * (1.0 - share / self.port);
        }
    }

    /// Each requested page takes so much longer from now on, seconds.
    pub(crate) fn set_path(&mut self, seconds: f64) {
        self.path_seconds = seconds;
    }

    /// Whether bytes of memory are on their way.
    pub(crate) fn sends(&self) -> bool {
        let stage = matches!(self.stage, Stage::Pass | Stage::Rest) || self.stage.is_split();
        stage && !self.still
    }

    /// Whether the guest runs at the target and asks for the pages that it lacks.
    pub(crate) fn is_split(&self) -> bool {
        self.stage.is_split() && self.sends()
    }

    pub(crate) fn is_at_target(&self) -> bool {
        self.target.running
    }

    /// Whether the guest's traffic flows.
    pub(crate) fn answers(&self, now: f64) -> bool {
        (self.source.running || self.target.running)
            && self.silent_until.is_none_or(|until| now >= until)
    }

    /// The ceiling of the stream now.
    pub(crate) fn ceiling(&self) -> f64 {
        let Some(limits) = &self.limits else { return f64::INFINITY };
        let limit = match self.stage {
            Stage::Rest => return f64::INFINITY,
            Stage::PostCopy | Stage::Tail => limits.postcopy_bandwidth,
            _ => limits.bandwidth,
        };
        limit.bandwidth().map_or(f64::INFINITY, |rate| Physics::bytes(rate.bytes_per_second()))
    }

    /// Whether the guest fetches all the pages without which it answers nobody, or is about to: after a pass only few are missing.
    pub(crate) fn fetches(&self) -> bool {
        let split = self.stage.is_split() && self.silent_until.is_some();
        self.pass <= 1 && (self.stage == Stage::Switch || split)
    }

    /// The port of that capacity grants a rate; so many guests fetch their first pages through it.
    pub(crate) fn granted(
        &mut self,
        (rate, port, fetching): (f64, f64, f64),
        physics: &Physics,
        now: f64,
    ) {
        let wire = rate * physics.constants.efficiency * self.chance[0];
        self.rate = if wire > 0.0 { 1.0 / (1.0 / wire + self.scan_per_byte) } else { 0.0 };
        self.port = port;
        if self.stage.is_split() && self.silent_until.is_some_and(f64::is_infinite) {
            // A hybrid has few to fetch, and waits for nobody's.
            let fetching = if self.fetches() { fetching } else { 1.0 };
            let silence = self.silence(port, fetching, physics);
            self.be_silent_until(now + silence, now);
        }
    }

    fn be_silent_until(&mut self, until: f64, now: f64) {
        self.silent_until = Some(until);
        self.silences.push((self.stopped_at.unwrap_or(now), until));
    }

    fn silence(&mut self, port: f64, fetching: f64, physics: &Physics) -> f64 {
        let constants = &physics.constants;
        let first = self.pass <= 1;
        let pages =
            if first { constants.essential_pages } else { constants.essential_pages_hybrid };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "some hundred pages"
        )]
        {
            self.faults += (pages * self.chance[1]) as u64;
        }
        let transfer = self.memory.pending() / self.rate.max(1.0);
        let page = constants.page_seconds(port, self.ceiling(), self.aside, fetching);
        let fault = page + self.path_seconds;
        outage_after_switch(transfer, pages, fault, 1.0) * self.chance[1]
            + constants.announce_seconds
    }

    fn threshold(&self) -> f64 {
        self.limits.map_or(0.0, |limits| {
            Physics::bytes(limits.switchover_bandwidth.bytes_per_second())
                * limits.downtime.as_secs_f64()
        })
    }

    fn leaves(&self, physics: &Physics) -> f64 {
        let constants = &physics.constants;
        let slice = self.rate * constants.slice_seconds;
        // Each pass ends elsewhere in its last slice.
        let part = (self.phase + GOLDEN * f64::from(self.pass)).fract();
        (self.content(self.threshold()) - slice * part).max(0.0)
    }

    /// How much content so many bytes hold of what QEMU counts as left: in the first pass that is RAM as it lies, with its pages
    /// of zeroes, which the wire does not see.
    fn content(&self, left: f64) -> f64 {
        if self.pass <= 1 { self.memory.tail().content(left).min(left) } else { left }
    }

    /// When something happens next if nothing else does.
    pub(crate) fn next_event(&self, physics: &Physics, now: f64) -> f64 {
        let time = |bytes: f64| {
            if bytes <= NOTHING {
                0.0
            } else if self.rate > 0.0 && self.sends() {
                bytes / self.rate
            } else {
                f64::INFINITY
            }
        };
        let still = self.still;
        let wakes = self.silent_until.filter(|until| *until > now && !still);
        let [source, target] = self.frozen_until;
        let later = [source, target, self.backs_off_until].into_iter().filter(|at| *at > now);
        let wakes = later.chain(wakes).fold(f64::INFINITY, f64::min);
        // Where nothing goes on, what was due is due later, or never.
        if still {
            return wakes;
        }
        let own = match self.stage {
            Stage::Idle => f64::INFINITY,
            Stage::Setup | Stage::Load | Stage::Starting | Stage::Switch => self.until,
            Stage::Word => now,
            Stage::PostCopy if self.recovering => now,
            Stage::PostCopy => now + time(self.memory.pending() - physics.constants.socket_bytes),
            Stage::Pass if self.postcopy_asked && self.rate > 0.0 => now,
            Stage::Pass => now + time(self.memory.pending() - self.leaves(physics)),
            Stage::Rest | Stage::Tail => now + time(self.memory.pending()),
        };
        own.max(now).min(wakes)
    }

    /// Time passes: what is under way goes on, or is due so much later.
    pub(crate) fn pass_time(&mut self, elapsed: f64, now: f64) {
        if !self.still {
            return;
        }
        self.until += elapsed;
        if self.stage == Stage::Pass && self.is_frozen(Side::Source, now) {
            // Its guest writes nothing meanwhile.
            self.pass_began += elapsed;
        }
        if self.stage.is_split()
            && let Some(until) = &mut self.silent_until
        {
            // Its pages do not come.
            *until += elapsed;
        }
    }

    pub(crate) fn send(&mut self, elapsed: f64) {
        if self.sends() {
            let bytes = (self.rate * elapsed).min(self.memory.pending());
            self.memory.send(bytes);
            self.sent += bytes;
        }
    }

    /// Takes the step that is due, if one is. True if who sends, or where, changed.
    pub(crate) fn step(&mut self, physics: &Physics, now: f64, out: &mut Emitted) -> bool {
        let constants = &physics.constants;
        let woke = self.silent_until.is_some_and(|until| now >= until);
        if woke {
            self.silent_until = None;
        }
        if self.still {
            return woke;
        }
        let rounding = NOTHING.max(self.rate * 1e-6);
        let changed = match self.stage {
            Stage::Setup if now >= self.until => {
                self.stage = Stage::Pass;
                self.pass = 1;
                self.pass_began = now;
                self.scan_per_byte = constants.zero_scan_seconds_per_byte * self.memory.zero_bytes
                    / self.memory.pending().max(1.0);
                self.set(Side::Source, MigrationStatus::Active, out);
                self.set(Side::Target, MigrationStatus::Active, out);
                out.push((Side::Source, QemuEvent::Pass(1)));
                if self.threshold() > self.memory.pending() + self.memory.zero_bytes {
                    self.stop(physics, out, now);
                }
                true
            }
            // A stream that has just been woken has its rate an instant later.
            Stage::Pass if self.postcopy_asked && self.rate > 0.0 => {
                self.scan_per_byte = constants.postcopy_zero_scan_seconds_per_byte
                    * if self.pass <= 1 { self.memory.zero_bytes } else { 0.0 }
                    / self.memory.pending().max(1.0);
                self.sync(now);
                self.stop_vcpus(out, now);
                self.set(Side::Source, MigrationStatus::PostcopyActive, out);
                self.stage = Stage::Switch;
                // The state comes behind what the sockets still hold.
                let first = physics.state_bytes + constants.socket_bytes;
                self.share_at_switch = self.rate.max(1.0);
                self.state_seconds = first / self.share_at_switch;
                self.until =
                    now + constants.postcopy_switch_seconds * self.chance[1] + self.state_seconds;
                true
            }
            Stage::Pass if self.memory.pending() <= self.leaves(physics) + rounding => {
                self.end_pass(physics, now, out)
            }
            Stage::Rest if self.memory.pending() <= rounding && self.rate > 0.0 => {
                self.stage = Stage::Load;
                self.until = now + constants.socket_bytes / self.rate.max(1.0);
                true
            }
            Stage::Load if now >= self.until => {
                self.stage = Stage::Starting;
                self.until += constants.switch_seconds * self.chance[1];
                true
            }
            Stage::Starting if now >= self.until => {
                self.run_at_target(out);
                self.be_silent_until(now + constants.announce_seconds * self.chance[1], now);
                self.set(Side::Target, MigrationStatus::Completed, out);
                self.stage = if self.abandoned { Stage::Idle } else { Stage::Word };
                self.refresh(now, out);
                if self.stage == Stage::Word && !self.still {
                    self.finish(out);
                }
                true
            }
            Stage::Word => {
                self.finish(out);
                true
            }
            Stage::PostCopy if self.recovering => {
                self.recovering = false;
                self.set(Side::Source, MigrationStatus::PostcopyActive, out);
                self.set(Side::Target, MigrationStatus::PostcopyActive, out);
                true
            }
            Stage::Switch if now >= self.until => {
                self.set(Side::Target, MigrationStatus::PostcopyActive, out);
                self.run_at_target(out);
                self.silent_until = Some(f64::INFINITY);
                self.stage = Stage::PostCopy;
                true
            }
            Stage::PostCopy
                if self.sends() && self.memory.pending() <= constants.socket_bytes + rounding =>
            {
                self.stage = Stage::Tail;
                true
            }
            Stage::Tail if self.sends() && self.memory.pending() <= rounding => {
                let latest = now + constants.announce_seconds;
                if self.silent_until.is_some_and(|until| until > latest) {
                    self.silences.pop();
                    self.be_silent_until(latest, now);
                }
                self.set(Side::Target, MigrationStatus::Completed, out);
                self.finish(out);
                true
            }
            _ => false,
        };
        changed || woke
    }

    /// Takes over what was dirtied since the pass began.
    fn sync(&mut self, now: f64) {
        let share = self.throttle.map_or(0.0, |throttle| throttle.share);
        let dirtied = self.memory.sync((now - self.pass_began) * (1.0 - share), self.chance[2]);
        if let Some(throttle) = &mut self.throttle {
            throttle.judge(dirtied, self.sent, now);
        }
        self.pass_began = now;
    }

    fn end_pass(&mut self, physics: &Physics, now: f64, out: &mut Emitted) -> bool {
        self.sync(now);
        self.scan_per_byte = 0.0;
        // The zeroes that are still to come when the first pass ends count for QEMU, too.
        let zeroes = self.threshold() - self.content(self.threshold());
        self.pass += 1;
        out.push((Side::Source, QemuEvent::Pass(self.pass)));
        let pending = self.memory.pending();
        if pending + zeroes < self.threshold() || pending <= NOTHING {
            self.stop(physics, out, now);
            return true;
        }
        false
    }

    fn stop_vcpus(&mut self, out: &mut Emitted, now: f64) {
        self.source.running = false;
        self.stopped_at = Some(now);
        out.push((Side::Source, QemuEvent::Stopped));
        self.set(Side::Source, MigrationStatus::Device, out);
    }

    fn stop(&mut self, physics: &Physics, out: &mut Emitted, now: f64) {
        self.stop_vcpus(out, now);
        // The devices' state goes the same way.
        self.sent += physics.state_bytes;
        self.stage = Stage::Rest;
    }

    fn run_at_target(&mut self, out: &mut Emitted) {
        self.target.running = true;
        out.push((Side::Target, QemuEvent::Resumed));
    }

    fn finish(&mut self, out: &mut Emitted) {
        self.stage = Stage::Idle;
        self.moved = true;
        self.set(Side::Source, MigrationStatus::Completed, out);
    }

    fn set(&mut self, side: Side, status: MigrationStatus, out: &mut Emitted) {
        self.qemu(side).status = status.clone();
        out.push((side, QemuEvent::Status(status)));
    }

    /// QEMU gives up and lets the VM run on at the source.
    fn give_up(&mut self, status: MigrationStatus, out: &mut Emitted, now: f64) {
        self.set(Side::Source, status, out);
        if !self.source.running {
            self.source.running = true;
            out.push((Side::Source, QemuEvent::Resumed));
            self.silences.push((self.stopped_at.unwrap_or(now), now));
        }
        let arrived = matches!(self.stage, Stage::Load | Stage::Starting | Stage::Word);
        if arrived && self.target.alive {
            // Whatever the source does now, the target has everything and will run.
            self.abandoned = true;
            if self.stage == Stage::Word {
                self.stage = Stage::Idle;
            }
        } else {
            // A target whose stream ends early exits.
            if self.target.alive && self.is_wired(now) && !self.is_frozen(Side::Target, now) {
                self.exit(Side::Target, out);
            }
            self.stage = Stage::Idle;
        }
        self.refresh(now, out);
    }

    /// A source that has sent everything takes the end of its channel for the end of the migration: it fails, and runs the copy
    /// that it stopped when the memory was split (QEMU 10.0.2). The VM is where that has gone on since, or nowhere.
    pub(crate) fn run_old_copy(&mut self, out: &mut Emitted) {
        self.set(Side::Source, MigrationStatus::Failed, out);
        (self.source.running, self.moved) = (true, true);
        out.push((Side::Source, QemuEvent::Resumed));
        self.stage = Stage::Idle;
    }

    fn exit(&mut self, side: Side, out: &mut Emitted) {
        let qemu = self.qemu(side);
        (qemu.alive, qemu.running) = (false, false);
        out.push((side, QemuEvent::Gone));
    }

    /// A process ends, from one moment to the next.
    pub(crate) fn kill(&mut self, side: Side, out: &mut Emitted, now: f64) {
        if self.qemu(side).alive {
            self.exit(side, out);
            self.refresh(now, out);
        }
    }

    /// A process is stopped, and goes on by itself then.
    pub(crate) fn freeze(&mut self, side: Side, until: f64, out: &mut Emitted, now: f64) {
        let frozen = &mut self.frozen_until[usize::from(side == Side::Target)];
        *frozen = frozen.max(until);
        self.refresh(now, out);
    }

    /// The ports carry something from now on, or nothing. A connection that has waited tries again only after some time, which
    /// doubles while it waits: `again` says when it will.
    pub(crate) fn set_link(&mut self, up: bool, again: f64, out: &mut Emitted, now: f64) {
        if up && !self.up && !matches!(self.stage, Stage::Idle) {
            self.backs_off_until = again;
        }
        self.up = up;
        self.refresh(now, out);
    }

    /// When its processes and its connection go on by themselves.
    pub(crate) fn calm_at(&self) -> f64 {
        self.stands_until().max(self.backs_off_until)
    }

    /// Until when one of its processes is stopped, if one was.
    pub(crate) fn stands_until(&self) -> f64 {
        let [source, target] = self.frozen_until;
        source.max(target)
    }

    pub(crate) fn is_frozen(&self, side: Side, now: f64) -> bool {
        now < self.frozen_until[usize::from(side == Side::Target)]
    }

    /// Whether what either side's kernel sends arrives.
    pub(crate) fn is_wired(&self, now: f64) -> bool {
        self.up && now >= self.backs_off_until
    }

    /// Whether the source's kernel has a connection of this migration.
    pub(crate) fn is_connected(&self) -> bool {
        let closed = self.source.status == MigrationStatus::PostcopyPaused;
        self.source.alive && !closed && self.stage != Stage::Idle
    }

    /// Whether the source hands its kernel something to send, and the target's has room for it.
    pub(crate) fn writes(&self, now: f64) -> bool {
        let stage = matches!(self.stage, Stage::Pass | Stage::Rest | Stage::Switch)
            || self.stage.is_split();
        stage && !self.is_frozen(Side::Source, now) && !self.is_frozen(Side::Target, now)
    }

    /// Whether its memory is split between two QEMUs that both take their connection for sound.
    pub(crate) fn is_joined(&self) -> bool {
        let active = |qemu: &Qemu| qemu.alive && qemu.status == MigrationStatus::PostcopyActive;
        self.stage == Stage::PostCopy && active(&self.source) && active(&self.target)
    }

    /// Whether what is under way goes on; and what each side notices of the other's end. True if that is otherwise than before.
    pub(crate) fn refresh(&mut self, now: f64, out: &mut Emitted) -> bool {
        let before = (self.still, self.stage);
        self.notice_ends(now, out);
        let goes = |qemu: &Qemu, side| qemu.alive && !self.is_frozen(side, now);
        let source = goes(&self.source, Side::Source);
        let target = goes(&self.target, Side::Target);
        let paused = |qemu: &Qemu| qemu.status == MigrationStatus::PostcopyPaused;
        let broken = self.stage.is_split() && !self.recovering;
        let broken = broken && (paused(&self.source) || paused(&self.target));
        self.still = match self.stage {
            Stage::Idle => false,
            Stage::Starting => !target,
            Stage::Tail if broken => true,
            // What a source has handed to its kernel arrives without it.
            Stage::Load | Stage::Tail => !(target && self.is_wired(now)),
            _ => !(source && target && self.is_wired(now)) || broken,
        };
        before != (self.still, self.stage)
    }

    /// A process that ends closes its connection; over a path that is up the other side hears of it.
    fn notice_ends(&mut self, now: f64, out: &mut Emitted) {
        if !self.is_wired(now) {
            return;
        }
        let hears = |pair: &Pair, side| !pair.is_frozen(side, now);
        if !self.target.alive && self.source.alive && hears(self, Side::Source) {
            match self.stage {
                Stage::Idle => {}
                _ if self.abandoned => self.stage = Stage::Idle,
                Stage::Tail => self.run_old_copy(out),
                Stage::Switch | Stage::PostCopy => {
                    if self.source.status != MigrationStatus::PostcopyPaused {
                        self.recovering = false;
                        self.set(Side::Source, MigrationStatus::PostcopyPaused, out);
                    }
                }
                _ => self.give_up(MigrationStatus::Failed, out, now),
            }
        }
        if !self.source.alive && self.target.alive && hears(self, Side::Target) {
            match self.stage {
                Stage::Setup | Stage::Pass | Stage::Rest | Stage::Switch => {
                    self.exit(Side::Target, out);
                }
                Stage::PostCopy if self.target.status != MigrationStatus::PostcopyPaused => {
                    self.recovering = false;
                    self.set(Side::Target, MigrationStatus::PostcopyPaused, out);
                }
                _ => {}
            }
        }
    }

    /// Whether the VM's state is still somewhere, as a whole or split between two that live.
    pub(crate) fn is_intact(&self) -> bool {
        // A target that was cut off from what is under way does not get it any more.
        let cut_off = self.target.status == MigrationStatus::PostcopyPaused;
        let has_rest = self.target.alive && !cut_off;
        match self.stage {
            Stage::Switch | Stage::PostCopy => self.source.alive && self.target.alive,
            Stage::Tail => has_rest,
            Stage::Load | Stage::Starting | Stage::Word => self.source.alive || self.target.alive,
            Stage::Idle if self.moved => has_rest,
            Stage::Idle | Stage::Setup | Stage::Pass | Stage::Rest => self.source.alive,
        }
    }

    /// Whether the VM runs at the target and needs nothing from the source any more.
    pub(crate) fn runs_whole(&self) -> bool {
        self.target.running && !self.stage.is_split()
    }

    /// The target's process is ended and another waits in its place; nobody is told.
    pub(crate) fn renew_target(&mut self) {
        self.target = Qemu { alive: true, running: false, status: MigrationStatus::None };
        self.source.status = MigrationStatus::None;
        self.frozen_until[1] = 0.0;
        (self.stage, self.postcopy_asked) = (Stage::Idle, false);
        (self.sent, self.pass, self.abandoned, self.stopped_at) = (0.0, 0, false, None);
    }
}
