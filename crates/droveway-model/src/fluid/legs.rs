//! One move after the other, leg by leg.
//!
//! Where one VM moves at a time, what its move costs depends on which VMs have moved before and on whether the last of them
//! still is silent when it begins, not on the order in which they came. So a serial schedule is a chain of *legs*, and the best
//! one a dynamic programme over sets of moved VMs. A leg goes exactly as [`Fluid`](super::Fluid) would play it; what the ports
//! give is the same in many legs and is remembered.
//!
//! Only drains from one host to one other, of at most 16 VMs of which none is under way.

use super::{
    End, Gang, MoveCourse, MoveModel, Start, flow_claim, hurry,
    runner::{Grant, Runner},
    take_way_back,
};
use crate::share::{Claim, Class, Crosses, Resource, Sharer};
use std::collections::BTreeMap;

/// VMs at most: sets of them are numbers of so many bits.
const LEGS_MAX: usize = 16;

/// Events of a leg at most.
const EVENTS_MAX: usize = super::EVENTS_PER_MOVE_MAX;

/// What a leg begins with.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Before {
    /// Who has moved: a bit for each VM, by its place among those that move.
    pub moved: u32,
    /// Who of them is silent still, and for how many seconds.
    pub silent: Option<(usize, f64)>,
}

/// How one leg goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leg {
    /// The move, from the leg's start.
    pub course: MoveCourse,
    /// What all applications lose from its start to its end, bytes.
    pub lost_bytes: f64,
    /// The VM is silent for so long after the end, seconds.
    pub silent_seconds: f64,
}

/// Plays legs of one gang.
#[derive(Debug)]
pub struct Legs<'a> {
    gang: &'a Gang,
    /// Those that move.
    vms: Vec<usize>,
    source: usize,
    target: usize,
    /// By flow, what it gets undisturbed.
    baseline: Vec<f64>,
    local: Vec<usize>,
    resources: Vec<Resource>,
    sharer: Sharer,
    places: Vec<usize>,
    alive: Vec<bool>,
    claims: Vec<Claim>,
    rates: Vec<f64>,
    known: BTreeMap<Scene, Given>,
}

/// Who is where, who is silent, and who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Scene {
    at_target: u32,
    silent: u32,
    sender: Option<Sender>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Sender {
    /// Bits of its stream's weight and ceiling.
    weight: u64,
    ceiling: u64,
    asks: bool,
    stopped: bool,
}

/// What the ports give then.
#[derive(Debug, Clone, Copy)]
struct Given {
    rate: f64,
    /// Elastic traffic fills the stream's way back.
    crowded: bool,
    /// Bytes a second that applications lose.
    lost: f64,
}

impl<'a> Legs<'a> {
    /// Of moves of `gang`'s VMs, `(VM, target)` each. `None` if they are not between the same two hosts, or too many.
    #[must_use]
    pub fn of(gang: &'a Gang, moves: &[(usize, usize)]) -> Option<Self> {
        let (first, target) = *moves.first()?;
        let source = gang.vms[first].host;
        let same = |(vm, to): &(usize, usize)| gang.vms[*vm].host == source && *to == target;
        if moves.len() > LEGS_MAX || source == target || !moves.iter().all(same) {
            return None;
        }
        // Each move's passes end elsewhere then, and its place in the order matters.
        if gang.slices_from != 0 {
            return None;
        }
        let mut hosts = vec![source, target];
        for end in gang.flows.iter().flat_map(|flow| [flow.from, flow.to]) {
            let host = match end {
                End::Vm(vm) => gang.vms[vm].host,
                End::Host(host) => host,
                End::Outside => continue,
            };
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        let mut local = vec![0; gang.ports.len()];
        let mut resources = Vec::with_capacity(2 * hosts.len());
        for (number, host) in hosts.iter().enumerate() {
            local[*host] = number;
            let port = &gang.ports[*host];
            resources.extend([port.tx_resource(), port.rx_resource()]);
        }
        let mut legs = Legs {
            gang,
            vms: moves.iter().map(|(vm, _)| *vm).collect(),
            source,
            target,
            baseline: Vec::new(),
            local,
            resources,
            sharer: Sharer::default(),
            places: gang.vms.iter().map(|vm| vm.host).collect(),
            alive: vec![true; gang.vms.len()],
            claims: Vec::with_capacity(gang.flows.len() + 1),
            rates: Vec::new(),
            known: BTreeMap::new(),
        };
        legs.share(Scene { at_target: 0, silent: 0, sender: None }, false);
        legs.baseline = legs.rates.clone();
        Some(legs)
    }

    /// The leg of the VM at place `at`, which has not moved before. `None` if it does not come to an end, or before another
    /// VM that was silent answers.
    pub fn play(&mut self, before: Before, at: usize, step: &MoveModel) -> Option<Leg> {
        let gang = self.gang;
        if matches!(step.start, Start::Begun { .. }) {
            return None;
        }
        let mut runner = Runner::of(gang.vms[step.vm].send_bytes, 0);
        runner.start(step, gang, 0.0);
        let (mut now, mut shared_at, mut lost) = (0.0_f64, 0.0, 0.0);
        let mut other = before.silent.filter(|(_, seconds)| *seconds > 0.0);
        let silent = |other: Option<(usize, f64)>| other.map_or(0, |(place, _)| 1_u32 << place);
        let nobody = |other| Scene { at_target: before.moved, silent: silent(other), sender: None };
        let mut given = self.given(nobody(other));
        for _ in 0..EVENTS_MAX {
            let answers = other.map_or(f64::INFINITY, |(_, answers)| answers);
            let next = runner.next_event(step, gang, now).min(answers);
            if !next.is_finite() || next > gang.horizon {
                return None;
            }
            runner.send((next - now).max(0.0));
            now = next;
            let mut stale = runner.step(step, gang, now);
            if answers <= now {
                (other, stale) = (None, true);
            }
            if let Some(ended) = runner.ended {
                lost += given.lost * (ended - shared_at);
                let silent_seconds = runner.silent_for(ended);
                let course = runner.course(gang);
                return other.is_none().then_some(Leg { course, lost_bytes: lost, silent_seconds });
            }
            if !stale {
                continue;
            }
            lost += given.lost * (now - shared_at);
            shared_at = now;
            let own = 1_u32 << at;
            let sender = runner.sends().then(|| Sender {
                weight: step.weight.to_bits(),
                ceiling: runner.ceiling(step).to_bits(),
                asks: runner.asks(),
                stopped: runner.stage.is_stopped(),
            });
            given = self.given(Scene {
                at_target: before.moved | if runner.is_at_target() { own } else { 0 },
                silent: silent(other) | if runner.answers(now) { 0 } else { own },
                sender,
            });
            runner.rate = 0.0;
            if sender.is_some() {
                let grant = Grant { rate: given.rate, crowded: given.crowded, fetching: 1.0 };
                runner.granted(grant, step, gang, now);
            }
        }
        None
    }

    /// What is lost after the last leg, while the last VM is silent, bytes.
    pub fn lost_after(&mut self, moved: u32, silent: Option<(usize, f64)>) -> f64 {
        let Some((place, seconds)) = silent else { return 0.0 };
        seconds * self.given(Scene { at_target: moved, silent: 1 << place, sender: None }).lost
    }

    fn given(&mut self, scene: Scene) -> Given {
        if let Some(given) = self.known.get(&scene) {
            return *given;
        }
        let given = self.share(scene, true);
        self.known.insert(scene, given);
        given
    }

    fn share(&mut self, scene: Scene, against_baseline: bool) -> Given {
        let gang = self.gang;
        for (place, vm) in self.vms.iter().enumerate() {
            let bit = 1_u32 << place;
            self.places[*vm] = if scene.at_target & bit != 0 { self.target } else { self.source };
            self.alive[*vm] = scene.silent & bit == 0;
        }
        self.claims.clear();
        for flow in &gang.flows {
            self.claims.push(flow_claim(flow, &self.places, &self.alive, &self.local));
        }
        let (from, to) = (&gang.ports[self.source], &gang.ports[self.target]);
        let (tx, rx) = (2 * self.local[self.source], 2 * self.local[self.target] + 1);
        self.resources[tx + 1].capacity = from.rx;
        self.resources[rx - 1].capacity = to.tx;
        self.resources[tx].migration_guarantee = from.tx_reserved;
        self.resources[rx].migration_guarantee = to.rx_reserved;
        let mut crowded = false;
        if let Some(sender) = scene.sender {
            if sender.stopped {
                hurry(&mut self.resources, [(tx, from), (rx, to)]);
            }
            take_way_back(
                &mut self.resources,
                (tx + 1, rx - 1),
                (from, to),
                &gang.constants,
                sender.asks,
            );
            let back = [(rx - 1, to), (tx + 1, from)];
            let elastic = self.claims.iter().filter(|claim| claim.demand.is_infinite());
            crowded = elastic.flat_map(|claim| claim.crosses.iter()).any(|crossed| {
                back.iter().any(|(resource, port)| *resource == crossed && !port.shaped)
            });
            self.claims.push(Claim {
                weight: f64::from_bits(sender.weight) * gang.constants.stream_weight,
                demand: f64::from_bits(sender.ceiling),
                class: Class::Migration,
                crosses: Crosses::of(&[tx, rx]),
            });
        }
        self.sharer.share(&self.resources, &self.claims, &mut self.rates);
        let rate = scene.sender.and_then(|_| self.rates.last().copied()).unwrap_or(0.0);
        let mut lost = 0.0;
        if against_baseline {
            for (usual, rate) in self.baseline.iter().zip(&self.rates) {
                // Elastic traffic within a host has no rate of its own to lose.
                if usual.is_finite() && rate.is_finite() {
                    lost += (usual - rate).max(0.0);
                }
            }
        }
        Given { rate, crowded, lost }
    }
}
