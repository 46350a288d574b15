//! A run that adapts: what it sees of ports and VMs, the planner that answers it, and what it changes at the ports.

use super::{End, Input, World, timestamp};
use droveway_drive::{Adaptation, GangAction, GangDriver, PathSample};
use droveway_fleet::{Bandwidth, VmId};
use droveway_plan::replan::{
    Base, prospects, replan,
    traffic::{Rates, Traffic},
};
use std::{collections::BTreeMap, time::Duration};

/// Between two looks at ports and VMs, seconds.
const LOOK_SECONDS: f64 = 0.5;
/// Rates over half a second vary by so much (relative standard deviation; TCP, measured).
const LOOK_NOISE: f64 = 0.05;

/// Who answers a run that leaves its forecast.
#[derive(Debug, Clone, Copy)]
pub struct Adapting<'a> {
    /// What was known before.
    pub base: Base<'a>,
    /// How long an answer takes, seconds.
    pub latency: f64,
}

/// Round trips under a stream's own load, seconds (measured).
const ROUND_TRIP_SECONDS: f64 = 0.004;
/// What a segment carries.
pub(super) const SEGMENT_BYTES: f64 = 1_448.0;
/// What is lost at the end of what is sent is sent again after this at the earliest (Linux), seconds.
const SENT_AGAIN_SECONDS: f64 = 0.2;

/// What is worse about the path between the hosts than at the start.
#[derive(Debug, Default)]
pub(super) struct Path {
    round_trip: f64,
    sent_again: f64,
    /// What one connection carries of it, bytes per second; zero: whatever the ports give it.
    limit: f64,
    /// What is lost is lost until then; zero: for good.
    pub(super) ends_at: f64,
    /// Segments of each VM so far, and those sent again.
    counted: BTreeMap<VmId, [f64; 2]>,
}

impl Path {
    pub(super) fn set(&mut self, round_trip: f64, sent_again: f64) {
        (self.round_trip, self.sent_again) = (round_trip, sent_again);
    }

    /// Segments are lost: what a connection carries then follows from their share and the round trip (Mathis, Semke, Mahdavi
    /// and Ott 1997: at most `MSS / RTT * sqrt(3/2) / sqrt(p)`).
    pub(super) fn lose(&mut self, round_trip: f64, share: f64) {
        self.set(round_trip, share);
        let trip = self.trip();
        self.limit = if share > 0.0 { SEGMENT_BYTES / trip * (1.5 / share).sqrt() } else { 0.0 };
    }

    /// What one connection carries at most, bytes per second.
    pub(super) fn carries(&self) -> f64 {
        if self.limit > 0.0 { self.limit } else { f64::INFINITY }
    }

    /// A segment's way there and its acknowledgement's way back, seconds.
    pub(super) fn trip(&self) -> f64 {
        (ROUND_TRIP_SECONDS + self.round_trip).max(1e-6)
    }

    /// The share of segments that are lost.
    pub(super) const fn lost(&self) -> f64 {
        self.sent_again
    }

    /// What each page that a guest waits for takes longer.
    pub(super) fn fault_seconds(&self) -> f64 {
        self.round_trip + self.sent_again * SENT_AGAIN_SECONDS
    }

    /// What the kernel would say of a connection that has carried so many bytes more.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts, not negative and far below 2^53"
    )]
    fn sample(&mut self, vm: &VmId, bytes: f64, chance: f64) -> PathSample {
        let [segments, sent_again] = self.counted.entry(vm.clone()).or_default();
        let more = bytes / SEGMENT_BYTES;
        *segments += more;
        *sent_again += more * self.sent_again;
        let round_trip = (ROUND_TRIP_SECONDS + self.round_trip) * chance;
        PathSample {
            round_trip: Duration::from_secs_f64(round_trip.max(0.0)),
            segments: *segments as u64,
            sent_again: *sent_again as u64,
        }
    }
}

/// What was carried when it was looked last.
#[derive(Debug, Default)]
pub(super) struct Looked {
    at: f64,
    pub(super) due: f64,
    ports: Vec<[f64; 2]>,
}

/// The driver, with what it compares the run with.
pub(super) fn adapted(gang: GangDriver, adapting: &Adapting<'_>) -> GangDriver {
    let situation = gang.situation(timestamp(0.0));
    let deadlines = adapting.base.facts.vms.iter();
    let adaptation = Adaptation {
        prospects: prospects(&adapting.base, &situation),
        deadlines: deadlines.filter_map(|fact| Some((fact.vm.clone(), fact.deadline?))).collect(),
    };
    gang.adapting(adaptation)
}

impl World<'_> {
    /// Tells the driver what ports and VMs carried since the last look.
    pub(super) fn look(&mut self) {
        self.looked.due = self.now + LOOK_SECONDS;
        let seconds = self.now - self.looked.at;
        let counted: Vec<[f64; 2]> = self.ports.iter().map(|port| [port.tx, port.rx]).collect();
        let before = std::mem::replace(&mut self.looked.ports, counted);
        self.looked.at = self.now;
        let carried: Vec<f64> =
            self.flows.iter_mut().map(|flow| std::mem::take(&mut flow.looked)).collect();
        if before.len() != self.ports.len() || seconds <= 0.0 {
            return;
        }
        let random = &mut self.look_chance;
        let mut rate = |bytes: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rate, not negative and far below 2^53"
            )]
            let bytes = ((bytes / seconds).max(0.0) * (LOOK_NOISE * random.normal()).exp()) as u64;
            Bandwidth::from_bytes_per_second(bytes)
        };
        let ratio = self.physics.wire_ratio;
        let ports = self.machines[..self.hosts].iter().zip(self.ports.iter().zip(&before));
        let ports = ports
            .map(|(host, (port, [tx, rx]))| {
                let rates =
                    Rates { tx: rate((port.tx - tx) / ratio), rx: rate((port.rx - rx) / ratio) };
                (host.clone(), rates)
            })
            .collect();
        let mut bytes: BTreeMap<VmId, [f64; 2]> =
            self.vms.iter().map(|vm| (vm.name.clone(), [0.0; 2])).collect();
        for (flow, carried) in self.flows.iter().zip(&carried) {
            for (end, direction) in [(flow.from, 0), (flow.to, 1)] {
                if let End::Vm(vm) = end
                    && let Some(of) = bytes.get_mut(&self.vms[vm].name)
                {
                    of[direction] += carried;
                }
            }
        }
        let vms = bytes
            .into_iter()
            .map(|(vm, [tx, rx])| (vm, Rates { tx: rate(tx), rx: rate(rx) }))
            .collect();
        let seen = Traffic { ports, vms, ..Traffic::default() };
        self.look_at_path(seconds);
        self.gang.handle_traffic(timestamp(self.now), seen);
    }

    /// Tells the driver what the kernel says of the streams' connections.
    fn look_at_path(&mut self, seconds: f64) {
        for sender in self.senders.clone() {
            let vm = self.vms[sender].name.clone();
            let rate = self.vms[sender].pair.as_ref().map_or(0.0, |pair| pair.rate);
            let chance = (LOOK_NOISE * self.look_chance.normal()).exp();
            let sample = self.path.sample(&vm, rate * seconds, chance);
            self.gang.handle_path(timestamp(self.now), &vm, sample);
        }
    }

    /// Does what the gang as a whole wants done.
    pub(super) fn drain_gang(&mut self) {
        while let Some(action) = self.gang.poll_gang_action() {
            match action {
                GangAction::Replan(situation) => {
                    let Some(adapting) = &self.adapting else { continue };
                    let (question, latency) = (situation.question, adapting.latency);
                    let answer = replan(&adapting.base, &situation).map(Box::new);
                    self.push(self.now + latency, Input::Answer { question, answer });
                }
                GangAction::Reserve(_) => {
                    self.hold();
                }
                // Sockets are told; where they are not tuned nobody can be.
                GangAction::GiveWay { to } if self.gang.plan().tuning => {
                    for vm in &mut self.vms {
                        let first = to.as_ref() == Some(&vm.name);
                        if let Some(pair) = &mut vm.pair {
                            pair.go_first(first, self.now);
                        }
                    }
                    self.first = to;
                    self.changed = true;
                }
                // Simulated ports are not looked at for it, so nobody is asked to yield.
                GangAction::GiveWay { .. } | GangAction::Yield { .. } => {}
            }
        }
        while let Some(decision) = self.gang.poll_decision() {
            self.outcome.decisions.push(decision);
        }
    }
}
