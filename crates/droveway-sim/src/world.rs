//! The event loop: pairs of QEMUs, ports, applications and faults on one side, the gang's driver on the other.

mod adapt;
mod controller;
mod faults;
mod laws;
mod parts;
mod traffic;
mod witness;

pub use adapt::Adapting;
pub use controller::Left;
pub use faults::{Fault, changes};
pub use laws::Broken;

use crate::{
    Memory, Physics,
    chance::Chance,
    qemu::{Emitted, Pair},
};
use adapt::{Looked, Path, adapted};
use controller::Controller;
use droveway_drive::{
    ActionError, Decision, FailureClass, GangDriver, Progress, QemuEvent, Record, Side,
};
use droveway_fleet::{
    EndpointId, HostId, Scenario, Timestamp, VmId,
    log::{ApplicationSample, Silence},
    scenario::Discipline,
};
use droveway_model::{
    share::{Claim, Class, Crosses, Resource, Sharer},
    world::payload,
};
use droveway_plan::{Plan, Violation};
use laws::Laws;
use parts::{End, Flow, Held, Input, Load, Port, Stalled, Vm, promised, settings};
use std::collections::BTreeMap;
use thiserror::Error;
use witness::{Watched, Witness};

/// Applications run undisturbed for so long first, so that there is a "before".
const BEFORE: f64 = 6.0;
/// And so long after the last attempt has ended.
const AFTER: f64 = 3.0;
/// Between two looks at ports and applications.
const TICK: f64 = 0.2;
/// A run that takes longer in simulated time has gone wrong.
const TIME_MAX: f64 = 6.0 * 3600.0;
/// So many turns of the loop at one instant: the clock stands still.
const TURNS_MAX: u32 = 100_000;
/// Events that arrive from a QEMU take so long at most.
const EVENT_SECONDS_MAX: f64 = 0.002;
/// A process that is told to end has ended after so long (measured: 10 to 20 ms).
const PROCESS_END_SECONDS: f64 = 0.012;
/// An action that nobody answers is given up by the shell after so long.
const ANSWER_LIMIT: f64 = 3.0;
/// Against an elastic flow in a FIFO port's full queue a stream gets about a tenth (measured).
const FIFO_STREAM_WEIGHT: f64 = 0.12;
/// A stream that the others give way to has nearly all that they had.
const FIRST_WEIGHT: f64 = 100.0;
/// Shorter silences than this count as none, as with the laboratory's probes.
const SILENCE_MIN: f64 = 0.03;

/// Why a simulation could not begin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SimError {
    /// The plan names a VM that the scenario does not have.
    #[error("the scenario has no VM '{0}'")]
    UnknownVm(VmId),
    /// The plan names a host that the scenario does not have.
    #[error("the scenario has no host '{0}'")]
    UnknownHost(HostId),
    /// The plan contradicts itself.
    #[error("the plan contradicts itself: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Contradictory(Vec<Violation>),
}

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Simulation<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// The plan.
    pub plan: Plan,
    /// What the world is like.
    pub physics: Physics,
    /// Chance.
    pub seed: u64,
    /// What goes wrong, or changes, and when.
    pub faults: Vec<(f64, Fault)>,
    /// Who answers when the run leaves its forecast; `None`: the plan is carried out as it is.
    pub adapting: Option<Adapting<'a>>,
}

/// What a port had carried at one instant, wire bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct PortSample {
    /// When.
    pub at: Timestamp,
    /// By host: sent, received.
    pub counters: Vec<(HostId, u64, u64)>,
}

/// What an application wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct ApplicationLog {
    /// Its name.
    pub name: EndpointId,
    /// `tcp`, `udp`, `memcached`, `memory-load`.
    pub kind: String,
    /// Who sends.
    pub from: EndpointId,
    /// Who receives.
    pub to: EndpointId,
    /// Whether its amounts are requests; else bytes.
    pub requests: bool,
    /// What it did.
    pub samples: Vec<ApplicationSample>,
}

/// What happened.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The drivers' records, in order.
    pub records: Vec<(VmId, Record)>,
    /// What was decided while it ran.
    pub decisions: Vec<Decision>,
    /// How far each attempt came.
    pub progress: BTreeMap<VmId, Progress>,
    /// When the first VM could start.
    pub began_at: Timestamp,
    /// When the last attempt had ended.
    pub ended_at: Timestamp,
    /// The ports.
    pub ports: Vec<PortSample>,
    /// The applications.
    pub applications: Vec<ApplicationLog>,
    /// Silences that clients of each VM heard.
    pub silences: BTreeMap<VmId, Vec<Silence>>,
    /// The end of the simulation.
    pub until: Timestamp,
    /// Laws that were broken; empty, or there is a bug.
    pub violations: Vec<String>,
}

/// Runs a simulation to its end.
///
/// # Errors
/// [`SimError`]: plan and scenario are about different things.
pub fn simulate(simulation: &Simulation<'_>) -> Result<Outcome, SimError> {
    let mut world = World::new(simulation)?;
    world.run();
    Ok(world.outcome)
}

/// The same, with a controller that keeps a journal and may die, and with every law checked after every event. `broken`: a
/// rule of the world that does not hold, so that the laws can be seen to notice.
///
/// # Errors
/// The same.
pub fn simulate_closely(
    simulation: &Simulation<'_>,
    broken: Option<Broken>,
) -> Result<(Outcome, Left), SimError> {
    let mut world = World::new(simulation)?;
    world.broken = broken;
    world.watch();
    world.run();
    let left = world.check_end();
    Ok((world.outcome, left))
}

struct World<'a> {
    physics: &'a Physics,
    random: Chance,
    now: f64,
    gang: GangDriver,
    machines: Vec<HostId>,
    hosts: usize,
    ports: Vec<Port>,
    source: usize,
    target: usize,
    stream_weight: f64,
    vms: Vec<Vm>,
    flows: Vec<Flow>,
    loads: Vec<Load>,
    inbox: BTreeMap<(u64, u64), Input>,
    /// Actions that wait for a main loop that is busy.
    held: Vec<Held>,
    sequence: u64,
    faults: Vec<(f64, Fault)>,
    sharer: Sharer,
    resources: Vec<Resource>,
    claims: Vec<Claim>,
    senders: Vec<usize>,
    rates: Vec<f64>,
    logged_at: f64,
    adapting: Option<Adapting<'a>>,
    looked: Looked,
    /// What is worse about the path between the hosts.
    path: Path,
    /// Whose stream goes before the others, where sockets can be told so.
    first: Option<VmId>,
    /// Chance of what is seen: a run that is looked at is the same run.
    look_chance: Chance,
    /// What ports promise has changed.
    changed: bool,
    /// The path between the hosts was up when it was looked last, and since when it has not been.
    was_up: bool,
    down_since: f64,
    /// Monitors that pass nothing on.
    stalled: Vec<Stalled>,
    /// What the controller is told of the path between the hosts.
    witness: Witness,
    /// The controller's process.
    controller: Controller,
    /// What is checked after every event, if anybody wants to know.
    laws: Option<Laws>,
    broken: Option<Broken>,
    outcome: Outcome,
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "simulated time is bounded and not negative"
)]
fn timestamp(seconds: f64) -> Timestamp {
    Timestamp::from_nanos((seconds.max(0.0) * 1e9).round() as u64)
}

/// The seed of a VM's own chance, so that it does not matter who else moves.
const fn of_vm(seed: u64, number: u64) -> u64 {
    seed.rotate_left(32) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl<'a> World<'a> {
    fn new(simulation: &'a Simulation<'_>) -> Result<Self, SimError> {
        let spec = &simulation.scenario.spec;
        let physics = &simulation.physics;
        let mut random = Chance::new(simulation.seed);
        // Clients have ports of their own, like hosts.
        let clients = spec.clients.iter().filter_map(|client| client.name.as_str().parse().ok());
        let machines: Vec<HostId> =
            spec.hosts.iter().map(|host| host.name.clone()).chain(clients).collect();
        let machine = |name: &str| machines.iter().position(|other| other.as_str() == name);
        let host = |name: &HostId| {
            machine(name.as_str()).ok_or_else(|| SimError::UnknownHost(name.clone()))
        };
        let plan = &simulation.plan;
        let aside = plan.tuning;
        let vms: Vec<Vm> = spec
            .vms
            .iter()
            .zip(1_u64..)
            .map(|(vm, number)| {
                let moves = plan.moves.iter().any(|step| step.vm == vm.name);
                let noise = physics.noise;
                let mut chance = |noise: f64| (noise * random.normal()).exp();
                let chances = [chance(noise).min(1.0), chance(10.0 * noise), chance(2.0 * noise)];
                let phase = random.between(0.0, 1.0);
                Vm {
                    name: vm.name.clone(),
                    host: machine(vm.host.as_str()).unwrap_or(0),
                    pair: moves.then(|| {
                        let memory = Memory::of(vm, physics).seeded(of_vm(simulation.seed, number));
                        Pair::new(memory, chances, phase, aside)
                    }),
                    last_event: [0.0; 2],
                    destroyed_at: None,
                    watched: Watched::default(),
                }
            })
            .collect();
        for step in &plan.moves {
            if !vms.iter().any(|vm| vm.name == step.vm) {
                return Err(SimError::UnknownVm(step.vm.clone()));
            }
        }
        let (source, target) = (host(&plan.source)?, host(&plan.target)?);
        let rate = payload(spec.link.rate);
        let port = |host: &HostId| {
            let promised = promised(plan, host);
            Port { rate, down_until: 0.0, tx: 0.0, rx: 0.0, promised }
        };
        let ports = machines.iter().map(port).collect();
        // Shaped, the queue is the host's own, whatever the port's is.
        let shaped = !plan.reservations.is_empty();
        let fifo = spec.link.discipline == Discipline::Fifo && !shaped;
        let mut gang =
            GangDriver::new(plan.clone(), &BTreeMap::new()).map_err(SimError::Contradictory)?;
        if let Some(adapting) = &simulation.adapting {
            gang = adapted(gang, adapting);
        }
        let gang = gang.restoring(&settings(plan));
        let mut world = World {
            physics,
            random,
            now: 0.0,
            gang,
            hosts: spec.hosts.len(),
            ports,
            source,
            target,
            stream_weight: if fifo { FIFO_STREAM_WEIGHT } else { physics.constants.stream_weight },
            vms,
            flows: Vec::new(),
            loads: Vec::new(),
            inbox: BTreeMap::new(),
            held: Vec::new(),
            sequence: 0,
            faults: simulation.faults.clone(),
            sharer: Sharer::default(),
            resources: Vec::new(),
            claims: Vec::new(),
            senders: Vec::new(),
            rates: Vec::new(),
            logged_at: 0.0,
            adapting: simulation.adapting,
            looked: Looked::default(),
            path: Path::default(),
            first: None,
            look_chance: Chance::new(!simulation.seed),
            changed: false,
            was_up: true,
            down_since: 0.0,
            stalled: Vec::new(),
            witness: Witness::new(simulation.seed),
            controller: Controller::new(plan, simulation.seed),
            laws: None,
            broken: None,
            outcome: Outcome {
                records: Vec::new(),
                decisions: Vec::new(),
                progress: BTreeMap::new(),
                began_at: Timestamp::ZERO,
                ended_at: Timestamp::ZERO,
                ports: Vec::new(),
                applications: Vec::new(),
                silences: BTreeMap::new(),
                until: Timestamp::ZERO,
                violations: Vec::new(),
            },
            machines,
        };
        world.add_traffic(simulation.scenario);
        Ok(world)
    }

    fn run(&mut self) {
        let mut next_tick = 0.0;
        let mut started = false;
        let mut over_at: Option<f64> = None;
        let mut turns = 0;
        self.share();
        while self.now < TIME_MAX && self.outcome.violations.is_empty() {
            self.drain();
            self.check(over_at.is_some());
            if self.now >= BEFORE && !self.controller.started && self.drives() {
                if !self.controller.prepared {
                    self.controller.prepared = true;
                    self.gang.prepare(timestamp(self.now));
                    self.drain();
                }
                if self.gang.is_prepared() && self.drives() {
                    self.controller.started = true;
                    if !started {
                        started = true;
                        self.outcome.began_at = timestamp(self.now);
                        for (at, _) in &mut self.faults {
                            *at += self.now;
                        }
                    }
                    self.begin();
                    continue;
                }
            }
            if started && over_at.is_none() && self.is_over() {
                over_at = Some(self.now);
                self.outcome.ended_at = timestamp(self.now);
                self.put_back();
            }
            if over_at.is_some_and(|at| self.now >= at.max(self.calm_at()) + AFTER) {
                break;
            }
            let next = self.next_time(next_tick, started, over_at);
            turns = if next > self.now { 0 } else { turns + 1 };
            if turns > TURNS_MAX {
                let text = format!("the clock stands still at {:.9} s", self.now);
                self.outcome.violations.push(text);
            }
            self.advance(next);
            let mut stale = started && self.inject();
            stale |= self.update_link();
            stale |= self.step_pairs();
            self.release();
            stale |= self.deliver();
            self.take_over();
            let due = self.gang.poll_timeout();
            let listens =
                over_at.is_none() && self.drives() && self.broken != Some(Broken::TimeStands);
            if listens && due.is_some_and(|due| due <= timestamp(self.now)) {
                self.gang.handle_timeout(timestamp(self.now));
            }
            if self.now >= next_tick {
                next_tick = self.now + TICK;
                self.log();
                if started && over_at.is_none() && self.drives() && self.controller.started {
                    self.tell_of_path();
                }
            }
            if self.looks(started, over_at) && self.now >= self.looked.due {
                self.look();
                self.drain();
            }
            stale |= std::mem::take(&mut self.changed);
            if stale {
                self.share();
            }
        }
        self.log();
        self.outcome.until = timestamp(self.now);
        if self.now >= TIME_MAX {
            self.outcome.violations.push("the run did not end".to_owned());
        }
        for vm in &self.vms {
            let Some(pair) = &vm.pair else { continue };
            let heard = pair.silences.iter().filter(|(from, to)| to - from >= SILENCE_MIN);
            let silences =
                heard.map(|(from, to)| Silence { from: timestamp(*from), to: timestamp(*to) });
            self.outcome.silences.insert(vm.name.clone(), silences.collect());
        }
        self.keep_progress();
    }

    /// Whether anybody looks at rates.
    fn looks(&self, started: bool, over_at: Option<f64>) -> bool {
        self.adapting.is_some() && started && over_at.is_none() && self.drives()
    }

    fn next_time(&self, next_tick: f64, started: bool, over_at: Option<f64>) -> f64 {
        let mut next = next_tick;
        if self.looks(started, over_at) {
            next = next.min(self.looked.due);
        }
        if !started && self.now < BEFORE {
            next = next.min(BEFORE);
        }
        next = next.min(self.controller.due());
        if self.path.ends_at > 0.0 {
            next = next.min(self.path.ends_at);
        }
        for stalled in self.stalled.iter().filter(|it| it.until > self.now) {
            next = next.min(stalled.until);
        }
        if let Some((&(nanos, _), _)) = self.inbox.first_key_value() {
            next = next.min(Timestamp::from_nanos(nanos).seconds());
        }
        if over_at.is_none()
            && self.drives()
            && let Some(due) = self.gang.poll_timeout()
        {
            next = next.min(due.seconds());
        }
        for vm in &self.vms {
            if let Some(pair) = &vm.pair {
                next = next.min(pair.next_event(self.physics, self.now));
            }
        }
        if started {
            for (at, _) in &self.faults {
                next = next.min(*at);
            }
        }
        for held in &self.held {
            // A late one waits for its QEMU alone.
            let due = if held.from > self.now { held.from } else { f64::INFINITY };
            let given_up = if held.late { f64::INFINITY } else { held.until };
            next = next.min(due).min(given_up);
        }
        for port in &self.ports {
            if port.down_until > self.now {
                next = next.min(port.down_until);
            }
        }
        next.max(self.now)
    }

    /// Everything that flows, flows until then.
    fn advance(&mut self, next: f64) {
        let elapsed = next - self.now;
        if elapsed > 0.0 {
            for pair in self.vms.iter_mut().filter_map(|vm| vm.pair.as_mut()) {
                pair.pass_time(elapsed, self.now);
            }
            let flows = self.flows.len();
            for (index, rate) in self.rates.iter().enumerate() {
                let crosses = self.claims[index].crosses;
                let bytes = if index < flows {
                    let bytes = if rate.is_finite() { rate * elapsed } else { 0.0 };
                    self.flows[index].carried += bytes;
                    self.flows[index].looked += bytes;
                    bytes
                } else {
                    let vm = &mut self.vms[self.senders[index - flows]];
                    let Some(pair) = &mut vm.pair else { continue };
                    let bytes = pair.rate * elapsed;
                    pair.send(elapsed);
                    bytes
                };
                for resource in crosses.iter() {
                    let port = &mut self.ports[resource / 2];
                    let wire = bytes * self.physics.wire_ratio;
                    if resource % 2 == 0 { port.tx += wire } else { port.rx += wire }
                }
            }
            for load in &mut self.loads {
                let vm = &self.vms[load.vm];
                let runs =
                    vm.pair.as_ref().is_none_or(|pair| pair.source.running || pair.target.running);
                if runs {
                    load.done += load.rate * elapsed;
                }
            }
        }
        self.now = next;
    }

    fn path_is_up(&self) -> bool {
        [self.source, self.target].iter().all(|host| self.ports[*host].down_until <= self.now)
    }

    fn step_pairs(&mut self) -> bool {
        let mut stale = false;
        for index in 0..self.vms.len() {
            let mut out = Emitted::new();
            let vm = &mut self.vms[index];
            let Some(pair) = &mut vm.pair else { continue };
            stale |= pair.refresh(self.now, &mut out);
            stale |= pair.step(self.physics, self.now, &mut out);
            if self.broken == Some(Broken::SourceRunsOn) && pair.source.alive {
                pair.source.running |= pair.target.running;
            }
            if pair.source.running && pair.target.running {
                let text = format!("VM '{}' runs twice at {:.3} s", vm.name, self.now);
                self.outcome.violations.push(text);
            }
            self.emit(index, out);
        }
        stale
    }

    /// Events take a moment to arrive, and arrive in order.
    fn emit(&mut self, vm: usize, out: Emitted) {
        self.emit_after(0.0, vm, out);
    }

    fn emit_after(&mut self, least: f64, vm: usize, out: Emitted) {
        for (side, event) in out {
            let delay = least + self.random.between(0.0, EVENT_SECONDS_MAX);
            let stalled = self.stalled_until(vm, side);
            // A process that ends closes its monitor, whatever else that passes on.
            let cuts = event == QemuEvent::Gone && stalled.is_some();
            let last = &mut self.vms[vm].last_event[usize::from(side == Side::Target)];
            let in_turn = last.max(self.now + delay).max(stalled.unwrap_or(0.0));
            let at = if cuts { self.now + delay } else { in_turn };
            *last = last.max(at);
            let vm = self.vms[vm].name.clone();
            self.push(at, Input::Event { vm, side, event });
        }
    }

    fn push(&mut self, at: f64, input: Input) {
        self.sequence += 1;
        self.inbox.insert((timestamp(at).nanos(), self.sequence), input);
    }

    fn drain(&mut self) {
        if !self.drives() {
            return;
        }
        let mut actions = Vec::new();
        while let Some((vm, id, action)) = self.gang.poll_action() {
            self.intend(&vm, id, &action);
            actions.push((vm, id, action));
        }
        while let Some((vm, record)) = self.gang.poll_record() {
            self.note(&vm, &record);
            self.outcome.records.push((vm, record));
        }
        self.drain_gang();
        self.commit();
        if !actions.is_empty() && self.dies_between(&actions) {
            return;
        }
        for (vm, id, action) in actions {
            let Some(index) = self.vms.iter().position(|other| other.name == vm) else { continue };
            self.perform(index, id, action);
        }
    }

    /// Performs what had to wait, or gives it up.
    fn release(&mut self) {
        for mut held in std::mem::take(&mut self.held) {
            let vm = self.vms[held.vm].name.clone();
            if self.now >= held.until && !held.late {
                // Its QEMU has it, and does it when it can: only nobody waits any more.
                held.late = true;
                let message = "no answer".to_owned();
                let reply = Err(ActionError { class: FailureClass::Timeout, message });
                self.push(self.now, Input::Reply { vm: vm.clone(), id: held.id, reply });
            }
            if self.now < held.from {
                self.held.push(held);
                continue;
            }
            let mut out = Emitted::new();
            let pair = self.vms[held.vm].pair.as_mut();
            let reply =
                pair.and_then(|pair| pair.perform(&held.action, self.physics, self.now, &mut out));
            self.emit(held.vm, out);
            match reply {
                Some(reply) if !held.late => {
                    self.push(self.now, Input::Reply { vm, id: held.id, reply });
                }
                Some(_) => {}
                None => self.held.push(held),
            }
        }
    }

    /// Hands in what has arrived. Actions change QEMUs, so who sends may change whenever anything arrived.
    fn deliver(&mut self) -> bool {
        let now = timestamp(self.now);
        let mut any = false;
        while let Some(entry) = self.inbox.first_entry() {
            if entry.key().0 > now.nanos() {
                break;
            }
            any = true;
            let input = entry.remove();
            if !self.drives() {
                // Nobody hears it.
                continue;
            }
            self.hear(&input);
            match input {
                Input::Event { vm, side, event } => self.gang.handle_event(now, &vm, side, event),
                Input::Reply { vm, id, reply } => self.gang.handle_reply(now, &vm, id, reply),
                Input::Answer { question, answer } => {
                    self.gang.handle_answer(now, question, answer.map(|answer| *answer));
                }
            }
            self.drain();
        }
        any
    }

    fn place(&self, end: End) -> usize {
        match end {
            End::Machine(machine) => machine,
            End::Vm(vm) => {
                let at = &self.vms[vm];
                if at.pair.as_ref().is_some_and(Pair::is_at_target) { self.target } else { at.host }
            }
        }
    }

    fn share(&mut self) {
        let now = self.now;
        let count = |of: fn(&Pair) -> bool| {
            self.vms.iter().filter(|vm| vm.pair.as_ref().is_some_and(of)).count()
        };
        let any_stream = count(Pair::sends) > 0;
        let forward = self.ports[self.source].rate.min(self.ports[self.target].rate);
        let constants = &self.physics.constants;
        #[expect(clippy::cast_precision_loss, reason = "VMs of a gang")]
        let requests = count(Pair::is_split) as f64 * constants.requests(forward);
        let back = constants.acknowledgement_ratio * forward + requests;
        self.resources.clear();
        let moving = self.gang.drivers().any(|(_, driver)| driver.uses_port());
        for (index, port) in self.ports.iter().enumerate() {
            let answers = |host: usize| {
                if any_stream && index == host { back } else { 0.0 }
            };
            let reverse = [answers(self.target), answers(self.source)];
            self.resources.extend(port.resources(
                port.down_until <= now,
                moving,
                self.first.is_some(),
                reverse,
            ));
        }
        self.claims.clear();
        for flow in &self.flows {
            let answers = |end: End| match end {
                End::Machine(_) => true,
                End::Vm(vm) => self.vms[vm].pair.as_ref().is_none_or(|pair| pair.answers(now)),
            };
            let (from, to) = (self.place(flow.from), self.place(flow.to));
            let crosses =
                if from == to { Crosses::default() } else { Crosses::of(&[2 * from, 2 * to + 1]) };
            let demand = if answers(flow.from) && answers(flow.to) { flow.demand } else { 0.0 };
            let (weight, class) = (flow.weight, Class::Application);
            self.claims.push(Claim { weight, demand, class, crosses });
        }
        self.senders.clear();
        for (index, vm) in self.vms.iter_mut().enumerate() {
            let Some(pair) = &mut vm.pair else { continue };
            pair.rate = 0.0;
            if !pair.sends() {
                continue;
            }
            self.senders.push(index);
            let first = self.first.as_ref() == Some(&vm.name);
            self.claims.push(Claim {
                weight: self.stream_weight * if first { FIRST_WEIGHT } else { 1.0 },
                demand: pair.ceiling().min(self.path.carries()),
                class: Class::Migration,
                crosses: Crosses::of(&[2 * self.source, 2 * self.target + 1]),
            });
        }
        self.sharer.share(&self.resources, &self.claims, &mut self.rates);
        let pairs = self.vms.iter().filter_map(|vm| vm.pair.as_ref());
        let fetching = pairs.filter(|pair| pair.fetches()).map(|_| 1.0).sum::<f64>().max(1.0);
        for (sender, rate) in self.senders.iter().zip(&self.rates[self.flows.len()..]) {
            let slow = self.broken == Some(Broken::SlowStreams);
            let rate = if slow { rate / 3.0 } else { *rate };
            if let Some(pair) = &mut self.vms[*sender].pair {
                pair.granted((rate, forward, fetching), self.physics, now);
            }
        }
        let mut used = vec![0.0; self.resources.len()];
        for (claim, rate) in self.claims.iter().zip(&self.rates) {
            for resource in claim.crosses.iter() {
                used[resource] += rate;
            }
        }
        let over = used
            .iter()
            .zip(&self.resources)
            .any(|(used, of)| *used > of.capacity * 1.000_001 + 1.0);
        if over {
            self.outcome.violations.push(format!("a port is over its capacity at {now:.3} s"));
        }
    }
}

#[cfg(test)]
mod tests;
