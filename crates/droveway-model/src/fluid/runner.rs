//! One move in the fluid model: QEMU's course and the driver's rules, without their events.

use super::{
    course::{MoveCourse, MoveEnd},
    problem::{Begun, BegunAt, Gang, MoveModel, PAGE_BYTES, Start},
};
use crate::technique::{outage_after_switch, waiting};
use droveway_fleet::Technique;

/// Where a move is in its course.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Not started.
    Waiting,
    /// Connecting.
    Setup,
    /// A pass while the VM runs at the source.
    Pass,
    /// The VM is stopped and the rest is sent.
    Rest,
    /// The VM is stopped and the target loads.
    Switch,
    /// The VM is stopped and will run at the target before its memory is there.
    PostcopySwitch,
    /// It runs at the target, its memory follows.
    PostCopy,
    /// The last byte was sent.
    Finish,
    /// Ended.
    Ended,
}

impl Stage {
    /// True while no vCPU runs.
    #[must_use]
    pub const fn is_stopped(self) -> bool {
        matches!(self, Stage::Rest | Stage::Switch | Stage::PostcopySwitch)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Runner {
    pub(super) stage: Stage,
    pub(super) rate: f64,
    pub(super) ended: Option<f64>,
    pub(super) resumed: Option<f64>,
    /// The end of a stage that lasts a fixed time.
    until: f64,
    /// What the current stage still has to send.
    left: f64,
    sent: f64,
    passes: u32,
    pass_began: f64,
    started: f64,
    stopped: Option<f64>,
    split: Option<f64>,
    /// A guest that has just moved answers nobody until then; infinite until the first rate of a post-copy is known.
    silent_until: Option<f64>,
    outage: f64,
    waits: Waits,
    fell_back: bool,
    converged: bool,
    stays: bool,
    throttle: Throttle,
    /// Seconds that a byte of this pass costs beside the wire.
    scan_per_byte: f64,
    /// What goes before the state when it switches to post-copy.
    queued: f64,
    /// Where in [`IN_SLICE`] it begins.
    slices_from: usize,
    /// What the last pass left; before the first, all there is to send.
    left_before: f64,
    /// The stage and the passes that it began with.
    first: (Stage, u32),
}

/// What the port grants a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant {
    /// Bytes per second.
    pub(super) rate: f64,
    /// Elastic traffic fills the way back.
    pub(super) crowded: bool,
    /// Guests that fetch their first pages through its ports, its own among them if it does.
    pub(super) fetching: f64,
}

/// What a guest waits for its pages, seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Waits {
    /// Until it answers.
    silent: f64,
    /// After that.
    later: f64,
}

/// QEMU's `auto-converge`.
#[derive(Debug, Clone, Copy, Default)]
struct Throttle {
    share: f64,
    bad_syncs: u32,
    sent_before: f64,
    synced: f64,
}

/// QEMU throttles at most by so much.
const THROTTLE_MAX: f64 = 0.99;
/// What it begins with, and what it adds.
const THROTTLE_STEPS: [f64; 2] = [0.2, 0.1];
/// It judges at most once a second.
const THROTTLE_PERIOD: f64 = 1.0;

/// Where in its last slice each pass ends: multiples of the golden ratio from the middle on, as even as can be.
const IN_SLICE: [f64; 8] = [0.5, 0.118, 0.736, 0.354, 0.972, 0.590, 0.208, 0.826];

impl Runner {
    /// Of the move at that place.
    pub(super) fn new(gang: &Gang, place: usize) -> Self {
        Runner::of(gang.vms[gang.moves[place].vm].send_bytes, gang.slices_from * (1 + place))
    }

    /// Of a VM of that size; `slices_from`: where in its slices its passes end.
    pub(super) fn of(send_bytes: f64, slices_from: usize) -> Self {
        Runner {
            slices_from,
            stage: Stage::Waiting,
            rate: 0.0,
            ended: None,
            resumed: None,
            until: 0.0,
            left: send_bytes,
            sent: 0.0,
            passes: 0,
            pass_began: 0.0,
            started: 0.0,
            stopped: None,
            split: None,
            silent_until: None,
            outage: 0.0,
            waits: Waits::default(),
            fell_back: false,
            converged: false,
            stays: false,
            throttle: Throttle::default(),
            scan_per_byte: 0.0,
            queued: 0.0,
            left_before: send_bytes,
            first: (Stage::Setup, 0),
        }
    }

    pub(super) fn start(&mut self, step: &MoveModel, gang: &Gang, now: f64) {
        self.started = now;
        if let Start::Begun { so_far, .. } = step.start {
            self.go_on(so_far, step, gang, now);
            self.first = (self.stage, self.passes);
            return;
        }
        self.stage = Stage::Setup;
        self.until = now + gang.constants.setup_seconds;
    }

    /// Takes a move up where it is. Silences and exposure of the past are nobody's choice any more and are not counted.
    fn go_on(&mut self, so_far: Begun, step: &MoveModel, gang: &Gang, now: f64) {
        let vm = &gang.vms[step.vm];
        (self.left, self.sent) = (so_far.left, so_far.sent);
        match so_far.at {
            BegunAt::Pass { passes, seconds } => {
                (self.passes, self.pass_began) = (passes, now - seconds);
                (self.throttle.synced, self.throttle.sent_before) = (now, self.sent);
                let scan = |per_byte: f64| {
                    if passes == 0 {
                        per_byte * vm.zero_bytes / vm.send_bytes.max(1.0)
                    } else {
                        0.0
                    }
                };
                if step.technique == Technique::PostCopy {
                    // QEMU looks once more at what was dirtied, then switches.
                    let dirtied = vm.curve.unique_bytes(seconds * gang.constants.dirty_inflation);
                    self.left = (self.left + dirtied).min(vm.send_bytes.max(self.left));
                    self.switch_to_postcopy(gang, now, scan(1.0));
                } else {
                    self.scan_per_byte = scan(gang.constants.zero_scan_seconds_per_byte);
                    self.stage = Stage::Pass;
                }
            }
            BegunAt::Stopped => {
                self.stopped = Some(now);
                self.stage = Stage::Rest;
            }
            BegunAt::PostCopy => {
                (self.stopped, self.resumed, self.split) = (Some(now), Some(now), Some(now));
                self.stage = Stage::PostCopy;
            }
        }
    }

    /// The stage and the passes that it began with.
    pub(super) const fn first(&self) -> (Stage, u32) {
        self.first
    }

    pub(super) fn uses_port(&self) -> bool {
        !matches!(self.stage, Stage::Waiting | Stage::Ended)
    }

    pub(super) fn sends(&self) -> bool {
        matches!(self.stage, Stage::Pass | Stage::Rest | Stage::PostcopySwitch | Stage::PostCopy)
    }

    /// Whether its guest asks for one page after the other. Once it answers it asks for few: 1,300 in all while it was split for 57 s
    /// (measured).
    pub(super) fn asks(&self) -> bool {
        self.stage == Stage::PostCopy && self.silent_until.is_some()
    }

    /// Whether its guest fetches all the pages without which it answers nobody, or is about to. After a pass only few are
    /// missing: at 60 Mbit/s two hybrids that switched at once waited for 0.2 to 0.3 s, five for 0.1 to 0.6.
    pub(super) fn fetches(&self) -> bool {
        self.passes == 0
            && match self.stage {
                Stage::PostcopySwitch => true,
                Stage::PostCopy => self.silent_until.is_some(),
                _ => false,
            }
    }

    /// Whether others that wait for it have something new to look at.
    pub(super) fn has_switched_or_ended(&self) -> (bool, bool) {
        (self.resumed.is_some(), self.ended.is_some())
    }

    /// True once nothing more happens to it.
    pub(super) fn is_quiet(&self) -> bool {
        self.stage == Stage::Ended && self.silent_until.is_none()
    }

    pub(super) fn is_at_target(&self) -> bool {
        self.resumed.is_some()
    }

    /// Whether the guest's traffic flows.
    pub(super) fn answers(&self, now: f64) -> bool {
        !self.stage.is_stopped() && self.silent_until.is_none_or(|until| now >= until)
    }

    /// For how long after `now` it is silent, seconds; infinite until that is known.
    pub(super) fn silent_for(&self, now: f64) -> f64 {
        self.silent_until.map_or(0.0, |until| (until - now).max(0.0))
    }

    /// When it started; zero if it has not.
    pub(super) fn started(&self) -> f64 {
        self.started
    }

    /// The passes that have ended.
    pub(super) fn passes(&self) -> u32 {
        self.passes
    }

    /// How fast what it has sent grows, bytes per second. What the sockets hold at a switch to post-copy counts as sent when the
    /// switch begins and leaves during it: here it is spread over the switch.
    pub(super) fn carries(&self) -> f64 {
        match self.stage {
            Stage::Pass | Stage::Rest | Stage::PostCopy => self.rate,
            Stage::PostcopySwitch => {
                let lasts = self.until - self.stopped.unwrap_or(self.until);
                if lasts > 0.0 { self.queued / lasts } else { 0.0 }
            }
            Stage::Waiting | Stage::Setup | Stage::Switch | Stage::Finish | Stage::Ended => 0.0,
        }
    }

    /// The ceiling of its stream now.
    pub(super) fn ceiling(&self, step: &MoveModel) -> f64 {
        match self.stage {
            // Stopped, QEMU sends as fast as it can, whatever the cap says.
            Stage::Rest => f64::INFINITY,
            Stage::PostCopy => step.postcopy_bandwidth,
            _ => step.bandwidth,
        }
    }

    /// What the port grants becomes what the stream moves: a byte also costs its share of looking at pages of zeroes.
    pub(super) fn granted(
        &mut self,
        Grant { rate, crowded, fetching }: Grant,
        step: &MoveModel,
        gang: &Gang,
        now: f64,
    ) {
        let kept = if crowded { 1.0 - gang.constants.reverse_loss } else { 1.0 };
        let wire = rate * kept * gang.constants.efficiency;
        self.rate = if wire > 0.0 { 1.0 / (1.0 / wire + self.scan_per_byte) } else { 0.0 };
        if self.stage == Stage::PostcopySwitch && self.until.is_infinite() && self.rate > 0.0 {
            let first = self.queued + gang.vms[step.vm].state_bytes;
            self.until = now + gang.constants.postcopy_switch_seconds + first / self.rate;
        }
        if self.stage == Stage::PostCopy && self.silent_until.is_some_and(f64::is_infinite) {
            // Only now is it known at what rate the pages come.
            let waits = self.waits(fetching, step, gang);
            self.waits = waits;
            self.be_silent_until(now + waits.silent + gang.constants.announce_seconds, now);
        }
    }

    fn be_silent_until(&mut self, until: f64, now: f64) {
        self.silent_until = Some(until);
        self.outage = until - self.stopped.unwrap_or(now);
    }

    /// What a pass leaves unsent because the rest fits the downtime. QEMU looks once a slice, so anything up to a slice's
    /// bytes below the threshold; each pass ends elsewhere in its last slice, or one that always ended in the middle would
    /// go on for ever where a real one is through after some. In the first pass what is left is RAM as it lies, with its
    /// pages of zeroes: QEMU counts them, the wire does not.
    fn leaves(&self, step: &MoveModel, gang: &Gang) -> f64 {
        let slice = self.slice(gang);
        let part = IN_SLICE[(self.passes as usize + self.slices_from) % IN_SLICE.len()];
        let fits = self.threshold(step, gang);
        let content = if self.passes == 0 { gang.vms[step.vm].tail.content(fits) } else { fits };
        (content - slice * part).max(0.0) + gang.constants.socket_bytes
    }

    /// What QEMU sends between two looks at what is left.
    fn slice(&self, gang: &Gang) -> f64 {
        self.rate * gang.constants.slice_seconds
    }

    /// What fits the downtime: the driver tells QEMU the rate that the stream gets, but not more than planned.
    fn threshold(&self, step: &MoveModel, gang: &Gang) -> f64 {
        let paced = step.bandwidth.is_finite();
        let rate = if paced {
            step.switchover_bandwidth
        } else {
            step.switchover_bandwidth.min(self.rate)
        };
        gang.constants.threshold_ratio * rate * step.downtime_limit
    }

    pub(super) fn next_event(&self, step: &MoveModel, gang: &Gang, now: f64) -> f64 {
        let answers = self.silent_until.unwrap_or(f64::INFINITY);
        let own = match self.stage {
            Stage::Waiting | Stage::Ended => f64::INFINITY,
            Stage::Setup | Stage::Switch | Stage::PostcopySwitch | Stage::Finish => self.until,
            Stage::Pass => now + self.time_for(self.left - self.leaves(step, gang)),
            Stage::Rest | Stage::PostCopy => now + self.time_for(self.left),
        };
        own.min(answers).max(now)
    }

    fn time_for(&self, bytes: f64) -> f64 {
        if bytes <= 0.0 {
            0.0
        } else if self.rate > 0.0 {
            bytes / self.rate
        } else {
            f64::INFINITY
        }
    }

    pub(super) fn send(&mut self, elapsed: f64) {
        // The state of CPU and devices is not part of what is left of memory.
        if self.sends() && self.stage != Stage::PostcopySwitch {
            let sent = (self.rate * elapsed).min(self.left);
            self.left -= sent;
            self.sent += sent;
        }
    }

    /// Takes the step that is due, if one is. True if who sends, or where, changed.
    pub(super) fn step(&mut self, step: &MoveModel, gang: &Gang, now: f64) -> bool {
        // A millionth of a second's bytes is rounding, not a remainder.
        let rounding = (self.rate * 1e-6).max(1e-6);
        let constants = &gang.constants;
        let woke = self.silent_until.is_some_and(|until| now >= until);
        if woke {
            self.silent_until = None;
        }
        let changed = match self.stage {
            Stage::Setup if now >= self.until => {
                self.begin(step, gang, now);
                true
            }
            Stage::Pass if self.left <= self.leaves(step, gang) + rounding => {
                self.end_pass(step, gang, now)
            }
            Stage::Rest if self.left <= rounding => {
                self.stage = Stage::Switch;
                self.until = now + constants.switch_seconds;
                true
            }
            Stage::Switch if now >= self.until => {
                self.resumed = Some(now);
                // Nobody sends until it answers, so nothing changes for the ports yet.
                self.be_silent_until(now + constants.announce_seconds, now);
                self.stage = Stage::Finish;
                self.until = now + constants.finish_seconds;
                false
            }
            Stage::PostcopySwitch if now >= self.until => {
                self.resumed = Some(now);
                self.split = Some(now);
                self.silent_until = Some(f64::INFINITY);
                self.stage = Stage::PostCopy;
                true
            }
            Stage::PostCopy if self.left <= rounding => {
                // With the last page there is nothing left to wait for.
                let latest = now + constants.announce_seconds;
                if self.silent_until.is_some_and(|until| until > latest) {
                    self.be_silent_until(latest, now);
                }
                self.stage = Stage::Finish;
                self.until = now + constants.finish_seconds;
                true
            }
            Stage::Finish if now >= self.until => {
                self.stage = Stage::Ended;
                self.ended = Some(now);
                false
            }
            _ => false,
        };
        changed || woke
    }

    /// Connected: the technique decides what comes first.
    fn begin(&mut self, step: &MoveModel, gang: &Gang, now: f64) {
        let vm = &gang.vms[step.vm];
        self.pass_began = now;
        self.throttle.synced = now;
        let scan = |per_byte: f64| per_byte * vm.zero_bytes / vm.send_bytes.max(1.0);
        match step.technique {
            Technique::PreCopy | Technique::Hybrid => {
                self.scan_per_byte = scan(gang.constants.zero_scan_seconds_per_byte);
                self.stage = Stage::Pass;
            }
            Technique::StopAndCopy => {
                self.scan_per_byte = scan(gang.constants.zero_scan_seconds_per_byte);
                self.stop(vm.state_bytes, now);
                self.stage = Stage::Rest;
            }
            Technique::PostCopy => self.switch_to_postcopy(gang, now, scan(1.0)),
        }
    }

    fn stop(&mut self, state_bytes: f64, now: f64) {
        self.stopped = Some(now);
        self.left += state_bytes;
    }

    fn switch_to_postcopy(&mut self, gang: &Gang, now: f64, zero_per_byte: f64) {
        self.scan_per_byte = zero_per_byte * gang.constants.postcopy_zero_scan_seconds_per_byte;
        self.stopped = Some(now);
        self.stage = Stage::PostcopySwitch;
        self.queued =
            if self.sent > 0.0 { gang.constants.socket_bytes.min(self.left) } else { 0.0 };
        self.left -= self.queued;
        self.sent += self.queued;
        // How long it takes is known with the rate that the state is sent at.
        self.until = f64::INFINITY;
    }

    fn end_pass(&mut self, step: &MoveModel, gang: &Gang, now: f64) -> bool {
        let vm = &gang.vms[step.vm];
        let constants = &gang.constants;
        let speed = constants.dirty_inflation * (1.0 - self.throttle.share);
        let dirtied = vm.curve.unique_bytes((now - self.pass_began) * speed);
        let fits = self.threshold(step, gang);
        // The zeroes that are still to come when the first pass ends count for QEMU, too.
        let zeroes = if self.passes == 0 { fits - vm.tail.content(fits) } else { 0.0 };
        self.passes += 1;
        self.judge_convergence(step, dirtied, now);
        self.left = (self.left + dirtied).min(vm.send_bytes.max(dirtied));
        self.pass_began = now;
        self.scan_per_byte = 0.0;
        let unsent = self.left - constants.socket_bytes;
        if unsent + zeroes < fits || self.left <= 0.0 {
            self.converged = true;
            self.stop(vm.state_bytes, now);
            self.stage = Stage::Rest;
            return true;
        }
        let before = std::mem::replace(&mut self.left_before, self.left);
        let stalled = self.left >= step.stalled_ratio * before;
        if step.technique == Technique::Hybrid && (self.passes >= step.switch_after_pass || stalled)
        {
            // The request to switch comes after the pass's end and is obeyed after one more slice, or comes too late.
            if self.passes <= step.switch_after_pass && unsent <= self.slice(gang) {
                return false;
            }
            self.switch_to_postcopy(gang, now, 0.0);
            return true;
        }
        if self.passes >= step.max_passes {
            self.fell_back = true;
            if step.fallback_postcopy {
                self.switch_to_postcopy(gang, now, 0.0);
            } else {
                self.stays = true;
                self.stage = Stage::Ended;
                self.ended = Some(now);
            }
            return true;
        }
        false
    }

    /// `auto-converge`: the second bad period in all raises the throttle.
    fn judge_convergence(&mut self, step: &MoveModel, dirtied: f64, now: f64) {
        let throttle = &mut self.throttle;
        if !step.throttle || now - throttle.synced < THROTTLE_PERIOD {
            return;
        }
        if dirtied > 0.5 * (self.sent - throttle.sent_before) {
            throttle.bad_syncs += 1;
            if throttle.bad_syncs >= 2 {
                throttle.bad_syncs = 0;
                let [first, more] = THROTTLE_STEPS;
                throttle.share = if throttle.share > 0.0 {
                    (throttle.share + more).min(THROTTLE_MAX)
                } else {
                    first
                };
            }
        }
        throttle.sent_before = self.sent;
        throttle.synced = now;
    }

    /// How long a guest that has just switched waits for its pages: first for those without which it answers nobody, then for
    /// others that it touches before the stream has brought them.
    fn waits(&self, fetching: f64, step: &MoveModel, gang: &Gang) -> Waits {
        let constants = &gang.constants;
        let source = &gang.ports[gang.vms[step.vm].host];
        let capacity = source.tx.min(gang.ports[step.target].rx).max(1.0);
        let behind = step.postcopy_bandwidth;
        let first = constants.page_seconds(capacity, behind, source.tuned, fetching);
        let other = constants.page_seconds(capacity, behind, source.overtakes(), 1.0);
        let pages = if self.passes == 0 {
            constants.essential_pages
        } else {
            constants.essential_pages_hybrid
        };
        let transfer = self.left / self.rate.max(1.0);
        let silent = outage_after_switch(transfer, pages, first, 1.0);
        let touched = constants.touch_ratio * gang.vms[step.vm].curve.unique_bytes(transfer)
            / PAGE_BYTES
            / transfer.max(1e-3);
        let missing = 1.0 - silent / transfer.max(1e-9);
        let later = waiting(transfer - silent, touched, other, missing);
        Waits { silent, later }
    }

    pub(super) fn course(&self, gang: &Gang) -> MoveCourse {
        let end = match (self.ended, self.stays) {
            (Some(_), false) => MoveEnd::Completed,
            (Some(_), true) => MoveEnd::StaysAtSource,
            (None, _) => MoveEnd::Unfinished,
        };
        let ended = self.ended.unwrap_or(gang.horizon);
        let downtime = self.stopped.map_or(0.0, |at| self.resumed.unwrap_or(ended) - at);
        let exposure = self.split.map_or(0.0, |at| ended - at);
        let outage = self.outage.max(downtime);
        MoveCourse {
            end,
            start_seconds: self.started,
            end_seconds: ended,
            downtime_seconds: downtime,
            outage_seconds: outage,
            blocked_seconds: (self.waits.silent + self.waits.later).min(exposure),
            brownout_seconds: self.waits.later.min(exposure),
            bytes: self.sent,
            passes: self.passes,
            exposure_seconds: exposure,
            converged: self.converged,
            fell_back: self.fell_back,
            throttle: self.throttle.share,
        }
    }
}
