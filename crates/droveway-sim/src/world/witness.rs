//! What a controller is told of the path between the hosts, five times a second as the shell does it: the kernels' counts of each
//! stream's connection, and heartbeats. And the laws of what has to follow: a cut is noticed, a living path is never called
//! dead, and a broken post-copy goes on soon after the path's return.
//!
//! A kernel knows what was delivered, what is under way, and what it sent again. Over a dead path what was under way stays so
//! and is sent again after 0.2, 0.6, 1.4, .. s. A process that is stopped writes nothing, and one that reads nothing has a full
//! buffer before long: in both cases nothing is under way. Under loss some tail of a flight is waited for now and then.
//! A controller knows the connections that it made, and those whose port its predecessor's journal tells.

use super::{Broken, World, adapt::SEGMENT_BYTES, timestamp};
use crate::{chance::Chance, qemu::Pair};
use droveway_drive::{Action, Beat, ConnectionSample, Phase, Record, RecordKind, VmDriver};
use droveway_fleet::VmId;

/// TCP sends again after this, and then after twice the time each, up to a bound (Linux), seconds.
const AGAIN_FIRST: f64 = 0.2;

// The laws' bounds, seconds. What the drivers promise (`docs/recovery.md`), and two looks.
/// Both witnesses say so.
const NOTICED: f64 = 1.5 + 0.5;
/// Only the kernels do.
const NOTICED_BY_KERNELS: f64 = 4.0 + 0.5;
/// Nothing is under way, heartbeats alone say so.
const NOTICED_BY_BEATS: f64 = 5.0 + 0.5;
/// A controller that took over during the cut, and has heard of no heartbeat; or nobody but QEMU says so.
const NOTICED_LATE: f64 = 10.0 + 2.0;
/// A dead path was one within this; longer if it has to be concluded from QEMU's word.
const DEAD_WITHIN: f64 = 1.0;
const DEAD_WITHIN_LATE: f64 = 12.0;
/// Post-copy goes on so long after the path's return; several VMs take turns.
const GOES_ON: f64 = 3.0;
const TURN: f64 = 0.3;
/// The same where monitors or processes stood still before: an answer is waited for.
const GOES_ON_LATE: f64 = 12.0;

/// What is known of one VM's connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched {
    /// The controller knows its port, and has seen it.
    known: bool,
    found: bool,
    /// Which of its migration's connections it is.
    connection: u32,
    /// The stream's count when it was made, and what was counted since.
    begun: f64,
    counted: f64,
    delivered: f64,
    sent_again: f64,
    under_way: u64,
    /// Nothing arrived when it was looked last.
    unwired: bool,
    /// What is under way has not arrived since.
    silent_since: Option<f64>,
    /// The last instant at which nothing that was sent arrived.
    unwired_at: Option<f64>,
    /// A heartbeat was answered since post-copy began, or went on.
    heard: bool,
    /// For the laws: since when its path is cut, and since when it is well again, while the driver should do something.
    cut_since: Option<f64>,
    well_since: Option<f64>,
    /// What a witness that lies tells.
    lies: u64,
}

impl Watched {
    /// Something is about to be done that makes a connection.
    pub(super) fn note_action(&mut self, action: &Action) {
        if matches!(action, Action::Migrate { .. } | Action::ResumeMigration { .. }) {
            self.know();
        }
    }

    /// Where its target listens is known.
    pub(super) fn know(&mut self) {
        (self.known, self.found) = (true, false);
    }
}

/// The heartbeats of one controller.
#[derive(Debug)]
pub(super) struct Witness {
    /// Of what is seen: a run that is looked at is the same run.
    chance: Chance,
    /// Datagrams on their way, by when they arrive.
    asked: Vec<f64>,
    answered: Vec<f64>,
    /// Since when this controller drives.
    drives_since: f64,
}

impl Witness {
    pub(super) fn new(seed: u64) -> Self {
        let chance = Chance::new(seed.rotate_left(41) ^ 0xbea7);
        Witness { chance, asked: Vec::new(), answered: Vec::new(), drives_since: 0.0 }
    }

    /// Another controller drives.
    pub(super) fn began(&mut self, now: f64) {
        self.drives_since = now;
    }
}

/// How often a segment that nobody acknowledges is sent again within so many seconds, if it is tried at least every `longest`.
fn sent_again_within(seconds: f64, longest: f64) -> u32 {
    let (mut times, mut wait) = (0, AGAIN_FIRST);
    let mut at = wait;
    while at <= seconds {
        times += 1;
        wait = (2.0 * wait).min(longest);
        at += wait;
    }
    times
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts, not negative and far below 2^53"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

impl World<'_> {
    /// One look at the kernels, and one heartbeat.
    pub(super) fn tell_of_path(&mut self) {
        let now = timestamp(self.now);
        for index in 0..self.vms.len() {
            let Some(sample) = self.counts_of(index) else { continue };
            if self.physics.kernel_counts {
                let sample = self.as_told(index, sample);
                let vm = self.vms[index].name.clone();
                self.gang.handle_connection(now, &vm, sample);
            }
        }
        if self.physics.heartbeats && self.gang.depends_on_path() {
            let answered = match self.broken {
                Some(Broken::CutsAreHidden) => true,
                Some(Broken::CutsAreInvented) => false,
                _ => self.beat(),
            };
            if answered {
                for vm in &mut self.vms {
                    vm.watched.heard = true;
                }
                self.gang.handle_beat(now, Beat::Answered);
            }
            self.gang.handle_beat(now, Beat::Sent);
        }
        self.drain();
    }

    /// The controller is dead: nobody knows any more what it knew.
    pub(super) fn forget_path(&mut self) {
        self.witness.asked.clear();
        self.witness.answered.clear();
        for vm in &mut self.vms {
            (vm.watched.known, vm.watched.heard) = (false, false);
        }
    }

    /// As the shell does it: what has arrived is answered, answers are taken, another one is sent. True if one was answered.
    fn beat(&mut self) -> bool {
        let (now, trip, up) = (self.now, self.path.trip(), self.path_is_up());
        let lost = self.path.lost();
        let Witness { chance, asked, answered, .. } = &mut self.witness;
        let mut passes = || up && chance.between(0.0, 1.0) >= lost;
        let arrived = asked.iter().filter(|at| **at <= now).count();
        asked.retain(|at| *at > now);
        for _ in 0..arrived {
            if passes() {
                answered.push(now + trip / 2.0);
            }
        }
        let heard = answered.iter().any(|at| *at <= now);
        answered.retain(|at| *at > now);
        if passes() {
            asked.push(now + trip / 2.0);
        }
        heard
    }

    /// What both kernels count of a VM's connection; `None`: there is none, or nobody knows of it.
    fn counts_of(&mut self, index: usize) -> Option<ConnectionSample> {
        let (now, trip, lost) = (self.now, self.path.trip(), self.path.lost());
        let down_since = (!self.was_up).then_some(self.down_since);
        let longest = self.retry_max();
        let chance = &mut self.witness.chance;
        let vm = &mut self.vms[index];
        let (pair, watched) = (vm.pair.as_ref()?, &mut vm.watched);
        if !pair.is_connected() {
            // Not there yet, or over.
            watched.known &= !watched.found;
            return None;
        }
        if !watched.known {
            return None;
        }
        watched.found = true;
        if watched.connection != pair.connections {
            watched.connection = pair.connections;
            (watched.begun, watched.counted, watched.delivered) = (pair.sent, 0.0, 0.0);
            (watched.sent_again, watched.under_way, watched.silent_since) = (0.0, 0, None);
            watched.unwired = false;
        }
        let silence = |since: Option<f64>| {
            since.map_or(0.0, |since| f64::from(sent_again_within(now - since, longest)))
        };
        if pair.is_wired(now) {
            watched.unwired = false;
            watched.sent_again += silence(watched.silent_since.take());
            let count = (pair.sent - watched.begun).max(0.0);
            watched.sent_again += (count - watched.counted).max(0.0) / SEGMENT_BYTES * lost;
            watched.counted = count;
            let sends = pair.sends();
            let flight = if sends { pair.rate * trip / SEGMENT_BYTES } else { 0.0 };
            watched.under_way = whole(flight + chance.between(0.0, 1.0));
            // The end of a flight was lost, and nothing behind it tells: it is waited for.
            if sends && chance.between(0.0, 1.0) < lost {
                watched.sent_again += 1.0;
                watched.under_way = watched.under_way.max(1);
            } else {
                watched.delivered = count;
            }
        } else {
            if pair.writes(now) {
                watched.under_way = watched.under_way.max(1);
            }
            // What was under way when the path went; or what was written since the last look, by a process that went on.
            let since = down_since.filter(|_| !watched.unwired).unwrap_or(now);
            watched.unwired = true;
            if watched.under_way > 0 {
                watched.silent_since.get_or_insert(since);
            }
        }
        Some(ConnectionSample {
            delivered: whole(watched.delivered),
            sent_again: whole(watched.sent_again + silence(watched.silent_since)),
            under_way: watched.under_way,
        })
    }

    /// What is said of it, in a world whose witnesses lie.
    fn as_told(&mut self, index: usize, sample: ConnectionSample) -> ConnectionSample {
        let watched = &mut self.vms[index].watched;
        watched.lies += 1;
        match self.broken {
            Some(Broken::CutsAreHidden) => {
                ConnectionSample { delivered: watched.lies, sent_again: 0, under_way: 0 }
            }
            Some(Broken::CutsAreInvented) => {
                ConnectionSample { delivered: 0, sent_again: watched.lies, under_way: 9 }
            }
            _ => sample,
        }
    }

    /// The law of alarms: a path that is called dead was one, a moment ago.
    pub(super) fn check_alarm(&mut self, vm: &VmId, record: &Record) {
        let RecordKind::Decided { reason, inputs, .. } = &record.kind else { return };
        if reason != "post-copy's path is dead" {
            return;
        }
        let Some(index) = self.vms.iter().position(|of| of.name == *vm) else { return };
        let vm = &self.vms[index];
        let known = self.physics.kernel_counts && vm.watched.known;
        // QEMU's word alone does not tell a target that is stopped from a dead path.
        if !known && self.stands_still(index) != Stands::Never {
            return;
        }
        let within = if known { DEAD_WITHIN } else { DEAD_WITHIN_LATE };
        let was_dead = vm.watched.unwired_at.is_some_and(|at| self.now - at <= within);
        let joined = vm.pair.as_ref().is_some_and(Pair::is_joined);
        if joined && !was_dead {
            let text = format!(
                "VM '{}': a living path was called dead at {:.3} s: {inputs}",
                vm.name, self.now
            );
            self.outcome.violations.push(text);
        }
    }

    /// The laws of cuts, which are looked at after every event.
    pub(super) fn check_path(&mut self, over: bool, found: &mut Vec<String>) {
        let (now, up) = (self.now, self.path_is_up());
        let drives = self.drives() && self.controller.started && !over;
        let drives_since = self.witness.drives_since;
        let kernels = self.physics.kernel_counts;
        #[expect(clippy::cast_precision_loss, reason = "VMs of a gang")]
        let turns = TURN * self.vms.len() as f64;
        for index in 0..self.vms.len() {
            let stands = self.stands_still(index);
            let vm = &mut self.vms[index];
            let Some(pair) = &vm.pair else { continue };
            let watched = &mut vm.watched;
            if !pair.is_wired(now) {
                watched.unwired_at = Some(now);
            }
            let driver = self.gang.driver(&vm.name);
            let phase = driver.filter(|_| drives).map(VmDriver::phase);
            if phase != Some(Phase::PostCopy) {
                watched.heard = false;
            }
            // What its target said by itself has been heard.
            let told = vm.last_event[1] <= now;
            // One that may have sent everything is not to be paused: its driver waits (`docs/recovery.md`).
            let waits = driver.is_some_and(|it| it.may_have_sent_everything(timestamp(now)));
            let cut = !up && phase == Some(Phase::PostCopy) && pair.is_joined() && told && !waits;
            let broken = matches!(phase, Some(Phase::PostCopyPaused | Phase::Recovering));
            let alive = pair.source.alive && pair.target.alive;
            let well = up && broken && alive && stands != Stands::Now;
            if !cut {
                watched.cut_since = None;
            }
            if !well {
                watched.well_since = None;
            }
            if cut {
                let since = *watched.cut_since.get_or_insert(now);
                let silent = watched.silent_since.filter(|_| kernels && watched.known);
                let saw_it_live = drives_since + 1.0 < since;
                let bound = match silent {
                    Some(_) if watched.heard => Some(NOTICED),
                    Some(_) if saw_it_live => Some(NOTICED_BY_KERNELS),
                    Some(_) => Some(NOTICED_LATE),
                    None if kernels && watched.known => watched.heard.then_some(NOTICED_BY_BEATS),
                    None => (stands == Stands::Never).then_some(NOTICED_LATE),
                };
                let waits = now - silent.map_or(since, |silent| silent.max(since));
                if bound.is_some_and(|bound| waits > bound) {
                    found.push(format!(
                        "VM '{}': the path of its post-copy has been dead for {waits:.1} s and nobody noticed: {watched:?}",
                        vm.name
                    ));
                }
            }
            if well {
                let waits = now - *watched.well_since.get_or_insert(now);
                let bound = match stands {
                    Stands::Never => GOES_ON + turns,
                    Stands::Before | Stands::Now => GOES_ON_LATE,
                };
                if waits > bound {
                    found.push(format!(
                        "VM '{}': its post-copy did not go on within {waits:.1} s of the path's return",
                        vm.name
                    ));
                }
            }
        }
    }

    /// Whether a VM's processes and their monitors stand still.
    fn stands_still(&self, index: usize) -> Stands {
        let stalled = self.stalled.iter().filter(|it| it.vm == index).map(|it| it.until);
        let frozen = self.vms[index].pair.iter().map(Pair::stands_until);
        let until = stalled.chain(frozen).fold(0.0, f64::max);
        if until > self.now {
            Stands::Now
        } else if until > 0.0 {
            Stands::Before
        } else {
            Stands::Never
        }
    }
}

/// When a VM's processes or monitors stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Never,
    Before,
    Now,
}

#[cfg(test)]
mod tests {
    use super::{super::faults::RETRY_MAX, *};

    #[test]
    fn what_nobody_acknowledges_is_sent_again_more_and_more_rarely() {
        for (seconds, times) in
            [(0.1, 0), (0.2, 1), (0.7, 2), (1.5, 3), (3.1, 4), (6.3, 5), (600.0, 13)]
        {
            assert_eq!(sent_again_within(seconds, RETRY_MAX), times, "{seconds}");
        }
        for (seconds, times) in [(0.2, 1), (1.5, 3), (2.5, 4), (3.5, 5), (10.5, 12)] {
            assert_eq!(sent_again_within(seconds, 1.0), times, "{seconds}");
        }
    }
}
