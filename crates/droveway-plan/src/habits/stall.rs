//! KubeVirt with stall detection (VEP 248, alpha). It works in two stages: first it finds that the remainder no longer
//! falls; from then on it waits for a pass that leaves nearly as little as the best one did, and ends the migration there.
//! When no such pass comes it asks for less and less.
//!
//! It looks at one VM alone. That VMs share a port is no concern of it, and its authors say so.

use super::{
    LastResort, QEMU_DOWNTIME_DEFAULT_MS, QEMU_DOWNTIME_MAX_MS, Sample, Step,
    kubevirt::{COMPLETION_PER_GIB_S, whole_gib},
    millis,
};
use droveway_fleet::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, time::Duration};

/// VEP 248: seconds in which the remainder has to fall, or it has stalled. The design text says 60.
const WINDOW_S: f64 = 40.0;

/// VEP 248: what is this much less, as a ratio, is a fall; what is at most this much more is as good.
const MARGIN: f64 = 0.04;

/// VEP 248: weight of the newest sample in the mean bandwidth.
const BANDWIDTH_WEIGHT: f64 = 0.4;

/// VEP 248: each time that it asks for less, it waits for this share of the time before.
const PATIENCE_DECAY: f64 = 0.5;

/// VEP 248: a downtime is worth a try up to so many times the longest.
const PRECOPY_POSSIBLE_FACTOR: f64 = 1.5;

/// VEP 248: the end has to be in sight within so many times the time for completion.
const COMPLETION_FACTOR: f64 = 2.0;

/// VEP 248: seconds that a switchover may take to begin.
const SWITCHOVER_TIMEOUT_S: f64 = 60.0;

/// VEP 248: the longest downtime, in milliseconds.
const MAX_DOWNTIME_MS: u32 = 900;

/// Remainders that may become the best outside the window. Not published; ours: each is less than the one before, and a
/// pass takes 100 ms or more, so that the window holds no more than this.
const CANDIDATES_MAX: usize = 512;

/// Remainders kept since the stall. Not published; ours: about as many passes as end in twice the window, after which each
/// new one takes one out.
const HISTORY_MAX: usize = 1024;

/// KubeVirt's stall detection.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubevirtStall {
    /// The VM's memory in GiB.
    pub size_gib: f64,
    /// Seconds until the last resort, stalled or not, per GiB; 0 is never, but then nothing is ever in time either.
    pub completion_per_gib_s: u32,
    /// Seconds in which the remainder has to fall.
    pub window_s: f64,
    /// The longest downtime without permission to disrupt, in milliseconds.
    pub max_downtime_ms: u32,
    /// Wait for a pass that leaves little; else act as soon as a stall is found.
    pub search_minimum: bool,
    /// What is permitted: post-copy; or a forced stop, which here is a downtime limit that any remainder meets; or neither,
    /// which leaves the longest downtime or an abort.
    pub then: LastResort,
}

impl KubevirtStall {
    /// The defaults of VEP 248 for a VM of that memory, in whole GiB, rounded up.
    #[must_use]
    pub fn new(memory: Bytes, then: LastResort) -> Self {
        KubevirtStall {
            size_gib: whole_gib(memory),
            completion_per_gib_s: COMPLETION_PER_GIB_S,
            window_s: WINDOW_S,
            max_downtime_ms: MAX_DOWNTIME_MS,
            search_minimum: true,
            then,
        }
    }

    pub(super) fn initial_limit(&self) -> Duration {
        millis(self.max_downtime_ms.min(QEMU_DOWNTIME_DEFAULT_MS))
    }

    /// Seconds until the last resort.
    fn completion_seconds(&self) -> f64 {
        self.size_gib * f64::from(self.completion_per_gib_s)
    }

    /// Whether a rest of so many seconds ends in time. It guards against a switchover while the network is down.
    fn is_in_time(&self, elapsed: f64, rest_seconds: f64) -> bool {
        rest_seconds <= COMPLETION_FACTOR * self.completion_seconds() - elapsed
    }

    /// The step at a pass that leaves so many seconds of copying.
    fn at_minimum(&self, rest_seconds: f64) -> Step {
        let longest = millis(self.max_downtime_ms);
        let is_possible = rest_seconds <= PRECOPY_POSSIBLE_FACTOR * longest.as_secs_f64();
        match self.then {
            LastResort::Abort if is_possible => Step::DowntimeLimit(longest),
            _ => self.last_resort(),
        }
    }

    fn last_resort(&self) -> Step {
        match self.then {
            LastResort::Abort => Step::Abort,
            LastResort::PostCopy => Step::PostCopy,
            LastResort::ForceStop => Step::DowntimeLimit(millis(QEMU_DOWNTIME_MAX_MS)),
        }
    }
}

/// What a pass left.
#[derive(Debug, Clone, Copy)]
struct Remainder {
    at: f64,
    bytes: f64,
}

/// What stall detection remembers.
#[derive(Debug, Clone, Default)]
pub(super) struct StallState {
    /// Mean bandwidth in bytes per second, once there is one.
    bandwidth: Option<f64>,
    /// Remainders within the window, each less than the one before.
    candidates: VecDeque<Remainder>,
    /// The least remainder that is older than the window, in bytes.
    aged_bytes: Option<f64>,
    stall: Option<Stall>,
    /// When the switchover that was asked for has to have begun, in seconds.
    switchover_by: Option<f64>,
}

impl StallState {
    pub(super) fn observe(&mut self, rule: &KubevirtStall, sample: &Sample) -> Option<Step> {
        // A pass may end before the first poll: it then gives the first bandwidth.
        if !sample.at_pass_boundary || self.bandwidth.is_none() {
            self.note_bandwidth(sample.rate_bytes_per_second);
        }
        let elapsed = sample.elapsed_seconds;
        let step = self.at_boundary(rule, sample).or_else(|| self.timeout(rule, sample))?;
        self.switchover_by.get_or_insert(elapsed + SWITCHOVER_TIMEOUT_S);
        Some(step)
    }

    /// An exponentially weighted mean; the first sample that is not zero is its seed.
    fn note_bandwidth(&mut self, rate: f64) {
        self.bandwidth = match self.bandwidth {
            Some(mean) => Some(BANDWIDTH_WEIGHT * rate + (1.0 - BANDWIDTH_WEIGHT) * mean),
            None => Some(rate).filter(|rate| *rate > 0.0),
        };
    }

    /// What the end of a pass decides.
    fn at_boundary(&mut self, rule: &KubevirtStall, sample: &Sample) -> Option<Step> {
        let bandwidth = self.bandwidth?;
        if !sample.at_pass_boundary || self.switchover_by.is_some() {
            return None;
        }
        let pass = Remainder { at: sample.elapsed_seconds, bytes: sample.remaining_bytes };
        self.note_candidate(rule.window_s, pass);
        let best = self.best_when_stalled(rule.window_s, pass)?;
        if rule.search_minimum && pass.bytes > best * (1.0 + MARGIN) {
            return None;
        }
        let rest_seconds = pass.bytes / bandwidth;
        rule.is_in_time(pass.at, rest_seconds).then(|| rule.at_minimum(rest_seconds))
    }

    /// Keeps the remainders that can become the least outside the window.
    fn note_candidate(&mut self, window: f64, pass: Remainder) {
        while let Some(oldest) = self.candidates.front().filter(|c| pass.at - c.at >= window) {
            let least = self.aged_bytes.map_or(oldest.bytes, |least| least.min(oldest.bytes));
            self.aged_bytes = Some(least);
            self.candidates.pop_front();
        }
        let is_more_than_aged = self.aged_bytes.is_some_and(|least| pass.bytes > least);
        let is_no_minimum = self.candidates.back().is_some_and(|last| pass.bytes >= last.bytes);
        if is_more_than_aged || is_no_minimum {
            return;
        }
        if self.candidates.len() >= CANDIDATES_MAX {
            // The one before is larger and nearly as new: the least survives.
            self.candidates.pop_back();
        }
        self.candidates.push_back(pass);
    }

    /// The remainder to wait for, in bytes, if the migration has stalled.
    fn best_when_stalled(&mut self, window: f64, pass: Remainder) -> Option<f64> {
        if let Some(stall) = &mut self.stall {
            stall.relax(pass);
            return Some(stall.best_bytes);
        }
        let aged = self.aged_bytes.filter(|aged| pass.bytes >= aged * (1.0 - MARGIN))?;
        let best = self.candidates.iter().map(|candidate| candidate.bytes).fold(aged, f64::min);
        self.stall = Some(Stall::new(best, window, pass.at));
        Some(best)
    }

    /// What the time decides: a switchover that has not begun, and the timeout for completion.
    fn timeout(&self, rule: &KubevirtStall, sample: &Sample) -> Option<Step> {
        let elapsed = sample.elapsed_seconds;
        let completion = rule.completion_seconds();
        let deadline = self.switchover_by.unwrap_or(completion);
        if completion <= 0.0 || elapsed <= deadline {
            return None;
        }
        let rest_seconds =
            self.bandwidth.map_or(f64::INFINITY, |rate| sample.remaining_bytes / rate);
        if self.switchover_by.is_none() && rule.is_in_time(elapsed, rest_seconds) {
            Some(rule.last_resort())
        } else {
            Some(Step::Abort)
        }
    }
}

/// A stall that was found.
#[derive(Debug, Clone)]
struct Stall {
    /// The remainder to wait for, in bytes.
    best_bytes: f64,
    /// Seconds to wait for it.
    patience: f64,
    /// When to ask for less, in seconds.
    relax_at: f64,
    /// Remainders since then in bytes, the least last.
    history: Vec<f64>,
}

impl Stall {
    fn new(best_bytes: f64, patience: f64, now: f64) -> Self {
        Stall { best_bytes, patience, relax_at: now + patience, history: Vec::new() }
    }

    /// Notes what a pass left. When the time for the best is over, the least of those that were seen since takes its place.
    fn relax(&mut self, pass: Remainder) {
        let place = self.history.partition_point(|bytes| *bytes > pass.bytes);
        self.history.insert(place, pass.bytes);
        if self.history.len() > HISTORY_MAX {
            // The largest is the last that would be wanted.
            self.history.remove(0);
        }
        if pass.at < self.relax_at {
            return;
        }
        if let Some(least) = self.history.pop() {
            self.best_bytes = least;
            self.patience *= PATIENCE_DECAY;
            self.relax_at = pass.at + self.patience;
        }
    }
}

#[cfg(test)]
mod tests;
