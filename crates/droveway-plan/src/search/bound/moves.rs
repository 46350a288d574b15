//! What one VM's move costs at least, beside the bytes that everybody's time is divided by: what it sends again, how long it
//! is silent, how long its memory is split.

use super::super::{Task, Way};
use crate::plan::HYBRID_DOWNTIME;
use droveway_fleet::Technique;
use droveway_model::{
    fluid::{Constants, MoveModel, VmModel},
    technique::outage_after_switch,
    urgency::Objective,
};

/// Of a slice of QEMU's, the most that a pass ends before its end.
const SLICE_MOST: f64 = 0.972;
/// Passes that are followed: what later ones send again is little.
const PASSES: usize = 4;

/// One VM, one way, under the task's weights.
pub(super) struct Moved<'a> {
    pub(super) vm: &'a VmModel,
    step: &'a MoveModel,
    constants: &'a Constants,
    way: Way,
    priority: f64,
    objective: Objective,
    /// Of the source port and the target port, the slower.
    capacity: f64,
    /// The stream keeps aside while a guest fetches its first pages.
    aside: bool,
    /// What it sends and receives: in a silence it loses both, of which contention explains one.
    usual: [f64; 2],
}

/// The streams beside it.
#[derive(Clone, Copy)]
pub(super) struct Beside {
    /// What all streams have, on the wire.
    pub(super) rate: f64,
    /// What its own has.
    pub(super) own: f64,
    /// Most that move at once.
    pub(super) window: f64,
    /// What a silence of this VM, and of another, gives the streams.
    pub(super) freed: f64,
}

impl<'a> Moved<'a> {
    pub(super) fn of(
        task: &'a Task,
        index: usize,
        way: Way,
        capacity: f64,
        usual: [f64; 2],
    ) -> Self {
        let mover = &task.movers[index];
        let vm = &task.gang.vms[mover.step.vm];
        Moved {
            vm,
            step: &mover.step,
            constants: &task.gang.constants,
            way,
            priority: mover.priority,
            objective: task.objective(),
            capacity,
            aside: task.gang.ports[vm.host].tuned,
            usual,
        }
    }

    /// The ceiling of its stream while it matters for exposure.
    pub(super) fn behind(&self) -> f64 {
        self.way.postcopy_bandwidth.unwrap_or(self.step.postcopy_bandwidth)
    }

    /// Whether its first bytes go without a ceiling: of a hybrid only the rest has one.
    pub(super) fn is_free(&self) -> bool {
        match self.way.technique {
            Technique::PreCopy | Technique::Hybrid => self.step.bandwidth.is_infinite(),
            Technique::PostCopy => self.behind().is_infinite(),
            Technique::StopAndCopy => true,
        }
    }

    /// Whether what it sends again has a ceiling that its first bytes do not have.
    pub(super) fn trails(&self) -> bool {
        self.way.technique == Technique::Hybrid && self.behind().is_finite()
    }

    /// What it aims at when it stops: a hybrid at no more than its switch takes.
    fn downtime_limit(&self) -> f64 {
        match self.way.technique {
            Technique::Hybrid => self.step.downtime_limit.min(HYBRID_DOWNTIME.as_secs_f64()),
            _ => self.step.downtime_limit,
        }
    }

    /// Every byte of it goes while its memory is split.
    pub(super) fn is_split(&self) -> bool {
        self.way.technique == Technique::PostCopy
    }

    /// A second of split memory. What its guest waits for pages meanwhile may be nothing.
    pub(super) fn split_second(&self) -> f64 {
        self.objective.exposure_seconds
    }

    /// Looking at zeroes, seconds for each byte that it sends.
    pub(super) fn scan(&self) -> f64 {
        let per_byte = match self.way.technique {
            Technique::PostCopy => self.constants.postcopy_zero_scan_seconds_per_byte,
            _ => self.constants.zero_scan_seconds_per_byte,
        };
        per_byte * self.vm.zero_bytes / self.vm.send_bytes.max(1.0)
    }

    /// Seconds of its slot in which it sends nothing.
    pub(super) fn unsent_seconds(&self) -> f64 {
        let switch = match self.way.technique {
            Technique::PostCopy => self.constants.postcopy_switch_seconds,
            // It may end either way.
            Technique::Hybrid => {
                self.constants.switch_seconds.min(self.constants.postcopy_switch_seconds)
            }
            _ => self.constants.switch_seconds,
        };
        self.constants.setup_seconds + self.constants.finish_seconds + switch
    }

    pub(super) fn efficiency(&self) -> f64 {
        self.constants.efficiency.max(f64::MIN_POSITIVE)
    }

    fn rate(&self, own: f64) -> f64 {
        (self.constants.efficiency * own).max(1.0)
    }

    fn dirtied(&self, seconds: f64) -> f64 {
        self.vm.curve.unique_bytes(seconds * self.constants.dirty_inflation)
    }

    /// Bytes a second that it dirties at most.
    pub(super) fn dirties(&self) -> f64 {
        match self.way.technique {
            Technique::PreCopy | Technique::Hybrid => self.dirtied(INSTANT) / INSTANT,
            _ => 0.0,
        }
    }

    /// What the first pass leaves dirty at least.
    fn left_dirty(&self, own: f64) -> f64 {
        // Throttled, a guest dirties as little as QEMU likes.
        if self.step.throttle {
            return 0.0;
        }
        let rate = self.rate(own);
        let limit = self.constants.threshold_ratio * self.downtime_limit();
        let first = (self.vm.send_bytes - limit * rate - self.constants.socket_bytes).max(0.0);
        let seconds = first / rate + self.constants.zero_scan_seconds_per_byte * self.vm.zero_bytes;
        if first > 0.0 { self.dirtied(seconds).min(first) } else { 0.0 }
    }

    /// What is sent again at least, as a share of what a first pass sends, at `own` on average; `then`: the most that its stream may
    /// have once others have ended.
    pub(super) fn again(&self, own: f64, then: f64) -> f64 {
        let mut dirty = match self.way.technique {
            Technique::PreCopy | Technique::Hybrid => self.left_dirty(own),
            _ => return 0.0,
        };
        let mut again = dirty;
        let rate = self.rate(own.max(then));
        let slice = self.constants.slice_seconds * rate;
        if self.way.technique == Technique::PreCopy {
            for _ in 1..PASSES {
                if dirty <= slice {
                    break;
                }
                dirty = self.dirtied((dirty - slice) / rate).min(dirty);
                again += dirty;
            }
        }
        again / self.vm.send_bytes.max(1.0)
    }

    /// Whether a first pass surely leaves more than fits the downtime.
    fn passes_twice(&self, own: f64) -> bool {
        self.left_dirty(own) > self.constants.slice_seconds * self.rate(own)
    }

    /// What of its bytes may be missing when it switches, as bytes of progress: all of a post-copy's, the rest of a hybrid's.
    pub(super) fn missing(&self, rate: f64, own: f64) -> [f64; 2] {
        let bytes = self.vm.send_bytes;
        match self.way.technique {
            Technique::PostCopy => [bytes, 0.0],
            Technique::Hybrid => {
                let limit = self.constants.threshold_ratio * self.downtime_limit();
                let kept = limit * self.rate(rate) + self.constants.socket_bytes;
                [0.0, (kept + self.again(own, own) * bytes).min(bytes)]
            }
            _ => [0.0, 0.0],
        }
    }

    /// What is left when the passes end, at least; what fits beside it.
    fn rest(&self, beside: Beside) -> f64 {
        let constants = self.constants;
        let certain = constants.socket_bytes.min(self.vm.send_bytes);
        if self.step.bandwidth.is_finite() {
            return certain;
        }
        let twice = self.passes_twice(beside.own);
        let scan = if twice { 0.0 } else { self.scan() };
        let rate = 1.0 / (1.0 / self.rate(beside.own) + scan);
        let told = self.step.switchover_bandwidth / beside.window;
        let fits = constants.threshold_ratio * told.min(rate) * self.downtime_limit();
        let content = if twice { fits } else { fits.min(self.vm.tail.content(fits)) };
        let unsent = (content - SLICE_MOST * constants.slice_seconds * rate).max(0.0);
        (unsent + constants.socket_bytes).min(self.vm.send_bytes)
    }

    /// What its own stream has at most once the VM is silent.
    fn after_stop(&self, beside: Beside) -> f64 {
        self.rate(beside.own * (1.0 + beside.freed / beside.rate.max(1.0)))
    }

    /// Silence, and what is surely lost by it.
    fn silent(&self, seconds: f64) -> f64 {
        let lost = self.objective.lost_bytes * self.usual[0].min(self.usual[1]);
        (self.priority * self.objective.outage_seconds + lost) * seconds
    }

    /// Stop, the rest, the switch, until clients hear it.
    fn stopped(&self, rest: f64, rate: f64) -> f64 {
        let fixed = self.constants.switch_seconds + self.constants.announce_seconds;
        self.silent(fixed + (rest + self.vm.state_bytes) / rate)
    }

    /// What a missing one of the first pages costs.
    fn fault(&self) -> f64 {
        self.constants.page_seconds(self.capacity, self.behind(), self.aside, 1.0)
    }

    /// How long it is silent at most, as far as silence is short: a longer one costs more than it gives.
    pub(super) fn silent_most(&self) -> f64 {
        let constants = self.constants;
        let fixed = 2.0 * (constants.switch_seconds.max(constants.postcopy_switch_seconds))
            + 2.0 * constants.announce_seconds;
        let limit = constants.threshold_ratio * self.downtime_limit();
        match self.way.technique {
            Technique::PreCopy => fixed + 2.0 * limit,
            Technique::Hybrid => {
                fixed + (2.0 * limit).max(constants.essential_pages_hybrid * self.fault())
            }
            Technique::PostCopy => fixed + constants.essential_pages * self.fault(),
            Technique::StopAndCopy => SILENT_MOST,
        }
    }

    /// A switch to post-copy with so many seconds of memory missing.
    fn switched(&self, transfer: f64, pages: f64) -> f64 {
        let constants = self.constants;
        let fault = self.fault();
        let down =
            constants.postcopy_switch_seconds + self.vm.state_bytes / self.rate(self.capacity);
        let waits = outage_after_switch(transfer, pages, fault, 1.0);
        self.silent(down + waits + constants.announce_seconds)
    }

    /// What ends with a stop, seconds of cost. `certain`: whatever the others do meanwhile.
    fn ended_by_stop(&self, beside: Beside, certain: bool) -> f64 {
        let stopped = if certain {
            self.stopped(LAST_REST * self.rest(beside), self.after_stop(beside))
        } else {
            self.stopped(self.rest(beside), self.after_stop(beside))
        };
        if !self.step.fallback_postcopy {
            return stopped;
        }
        // Passes that do not come to an end, and then a switch with more left than fits.
        let limit = self.constants.threshold_ratio * self.downtime_limit();
        let share = if certain { 0.0 } else { beside.own / beside.rate.max(1.0) };
        let passes = f64::from(self.step.max_passes.saturating_sub(2)).min(PASSES_COUNTED);
        let spent = share * passes * self.constants.slice_seconds * self.objective.total_seconds;
        let transfer = if certain { 0.0 } else { limit };
        let exposed = self.split_second() * (transfer + self.constants.finish_seconds);
        stopped
            .min(self.switched(transfer, self.constants.essential_pages_hybrid) + spent + exposed)
    }

    /// Silence and exposure that are not counted by bytes, seconds of cost.
    pub(super) fn fixed(&self, beside: Beside, certain: bool) -> f64 {
        let finish = self.split_second() * self.constants.finish_seconds;
        match self.way.technique {
            Technique::PreCopy => self.ended_by_stop(beside, certain),
            Technique::StopAndCopy => self.stopped(self.vm.send_bytes, self.rate(beside.rate)),
            Technique::PostCopy => {
                let own = self.behind().min(beside.rate + beside.freed);
                let transfer = self.vm.send_bytes * (1.0 / self.rate(own) + self.scan());
                self.switched(transfer, self.constants.essential_pages) + finish
            }
            Technique::Hybrid => {
                // What it waits for is decided by its rate at the switch: twice its part, should half of the others be between
                // two moves just then.
                let dirty = self.left_dirty(beside.own);
                let most = (SWITCH_PART * beside.own).min(beside.rate);
                let most = most * (1.0 + beside.freed / beside.rate.max(1.0));
                let rate = self.rate(most.min(self.behind()));
                let swift = self.rate(most);
                let limit = self.constants.threshold_ratio * self.downtime_limit();
                let slice = self.constants.slice_seconds;
                let share = self.rate(beside.own) / rate;
                let kept = if self.vm.tail == Default::default() { share } else { 0.0 };
                let transfer = dirty / rate + kept * (limit - slice).max(0.0);
                let split = self.switched(transfer, self.constants.essential_pages_hybrid)
                    + self.split_second() * transfer
                    + finish;
                // More than fits the downtime, and than a slice takes before the request to switch is heard.
                let too_much = dirty > slice.max(limit) * swift;
                let surely = (too_much || self.passes_twice(beside.own) && limit > slice)
                    && self.step.switch_after_pass <= 1;
                if surely { split } else { split.min(self.ended_by_stop(beside, certain)) }
            }
        }
    }
}

/// Among the last few, others leave while a VM is stopped, and its rest goes the faster: each of them leaves once, so this part
/// of it is not spared.
const LAST_REST: f64 = 0.5;
/// What a stream may have at a switch against its part of a full window.
const SWITCH_PART: f64 = 2.0;
/// A VM that is stopped first is silent for all of its move, seconds: so long that its bound is that of time alone.
const SILENT_MOST: f64 = 1e6;
/// Short enough for a dirty curve to be straight.
const INSTANT: f64 = 1e-3;
/// Of the passes before a fallback, so many are counted.
const PASSES_COUNTED: f64 = 20.0;
