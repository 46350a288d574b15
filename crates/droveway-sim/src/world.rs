//! The event loop: pairs of QEMUs, ports, applications and faults on one side, the gang's driver on the other.

mod adapt;
mod faults;
mod parts;

pub use adapt::Adapting;
pub use faults::{Fault, changes};

use crate::{
    Memory, Physics,
    chance::Chance,
    qemu::{Emitted, Pair},
};
use adapt::{Looked, Path, adapted};
use droveway_drive::{
    Action, ActionError, Decision, FailureClass, GangDriver, Progress, Record, Side,
};
use droveway_fleet::{
    EndpointId, HostId, Scenario, Timestamp, VmId,
    log::{ApplicationSample, Silence},
    scenario::{Discipline, TrafficKind},
};
use droveway_model::{
    share::{Claim, Class, Crosses, Resource, Sharer},
    world::payload,
};
use droveway_plan::{Plan, Violation};
use parts::{End, Flow, Held, Input, Load, Port, Vm, promised};
use std::collections::BTreeMap;
use thiserror::Error;

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
        let overtakes = plan.tuning && !plan.reservations.is_empty();
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
                        Pair::new(memory, chances, phase, overtakes)
                    }),
                    last_event: [0.0; 2],
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

    fn end(&self, name: &str) -> Option<End> {
        let vm = self.vms.iter().position(|vm| vm.name.as_str() == name).map(End::Vm);
        vm.or_else(|| {
            self.machines.iter().position(|other| other.as_str() == name).map(End::Machine)
        })
    }

    fn add_traffic(&mut self, scenario: &Scenario) {
        for traffic in &scenario.spec.traffic {
            let ends = self.end(traffic.from.as_str()).zip(self.end(traffic.to.as_str()));
            // A scenario that was read has no traffic of nobody.
            let Some((from, to)) = ends else { continue };
            let memcached = traffic.kind == TrafficKind::Memcached;
            let demand = match (&traffic.rate, &traffic.requests) {
                (Some(rate), _) => rate
                    .bandwidth()
                    .map_or(f64::INFINITY, |rate| Physics::bytes(rate.bytes_per_second())),
                (None, Some(requests)) => f64::from(requests.get()) * self.physics.request_bytes,
                (None, None) => continue,
            };
            let kind = match traffic.kind {
                TrafficKind::Tcp => "tcp",
                TrafficKind::Udp => "udp",
                TrafficKind::Memcached => "memcached",
            };
            // Answers are what weighs, and they go the other way.
            let (from, to) = if memcached { (to, from) } else { (from, to) };
            self.flows.push(Flow {
                from,
                to,
                demand,
                weight: f64::from(traffic.flows.max(1)),
                unit: if memcached { self.physics.request_bytes } else { 1.0 },
                log: self.outcome.applications.len(),
                carried: 0.0,
                looked: 0.0,
            });
            self.outcome.applications.push(ApplicationLog {
                name: traffic.name.clone(),
                kind: kind.to_owned(),
                from: traffic.from.clone(),
                to: traffic.to.clone(),
                requests: memcached,
                samples: Vec::new(),
            });
        }
        for (index, vm) in scenario.spec.vms.iter().enumerate() {
            let Some(load) = &vm.memory_load else { continue };
            let own = || vm.name.as_str().parse::<EndpointId>().ok();
            let name = format!("{}.memory-load", vm.name).parse().ok();
            let (Some(name), Some(from), Some(to)) = (name, own(), own()) else { continue };
            self.loads.push(Load {
                vm: index,
                rate: Physics::bytes(load.write_rate.bytes_per_second()),
                log: self.outcome.applications.len(),
                done: 0.0,
            });
            let kind = "memory-load".to_owned();
            let (requests, samples) = (false, Vec::new());
            self.outcome.applications.push(ApplicationLog {
                name,
                kind,
                from,
                to,
                requests,
                samples,
            });
        }
    }

    fn run(&mut self) {
        let mut next_tick = 0.0;
        let mut started = false;
        let mut over_at: Option<f64> = None;
        let mut turns = 0;
        self.share();
        while self.now < TIME_MAX && self.outcome.violations.is_empty() {
            self.drain();
            if self.now >= BEFORE && !started {
                if self.outcome.records.is_empty() {
                    self.gang.prepare(timestamp(self.now));
                    self.drain();
                }
                if self.gang.is_prepared() {
                    started = true;
                    self.outcome.began_at = timestamp(self.now);
                    self.gang.start(timestamp(self.now));
                    for (at, _) in &mut self.faults {
                        *at += self.now;
                    }
                    continue;
                }
            }
            if started && over_at.is_none() && self.gang.is_over() {
                over_at = Some(self.now);
                self.outcome.ended_at = timestamp(self.now);
            }
            if over_at.is_some_and(|at| self.now >= at + AFTER) {
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
            stale |= self.step_pairs();
            self.release();
            stale |= self.deliver();
            let due = self.gang.poll_timeout();
            if over_at.is_none() && due.is_some_and(|due| due <= timestamp(self.now)) {
                self.gang.handle_timeout(timestamp(self.now));
            }
            if self.now >= next_tick {
                next_tick = self.now + TICK;
                self.log();
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
        for (vm, driver) in self.gang.drivers() {
            self.outcome.progress.insert(vm.clone(), driver.progress());
        }
    }

    /// Whether anybody looks at rates.
    fn looks(&self, started: bool, over_at: Option<f64>) -> bool {
        self.adapting.is_some() && started && over_at.is_none()
    }

    fn next_time(&self, next_tick: f64, started: bool, over_at: Option<f64>) -> f64 {
        let mut next = next_tick;
        if self.looks(started, over_at) {
            next = next.min(self.looked.due);
        }
        if !started && self.now < BEFORE {
            next = next.min(BEFORE);
        }
        if let Some((&(nanos, _), _)) = self.inbox.first_key_value() {
            next = next.min(Timestamp::from_nanos(nanos).seconds());
        }
        if over_at.is_none()
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
            next = next.min(held.until);
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

    /// What applications and ports did since the last time.
    fn log(&mut self) {
        let (start, end) = (timestamp(self.logged_at), timestamp(self.now));
        if end > start {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "amounts are not negative and far below 2^53"
            )]
            let mut note = |log: usize, amount: &mut f64| {
                let whole = amount.floor();
                *amount -= whole;
                self.outcome.applications[log].samples.push(ApplicationSample {
                    start,
                    end,
                    amount: whole as u64,
                    failed: 0,
                    latencies_us: Vec::new(),
                });
            };
            for flow in &mut self.flows {
                let mut units = flow.carried / flow.unit;
                note(flow.log, &mut units);
                flow.carried = units * flow.unit;
            }
            for load in &mut self.loads {
                note(load.log, &mut load.done);
            }
            self.logged_at = self.now;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counters are not negative and far below 2^53"
        )]
        let counters = self.machines[..self.hosts]
            .iter()
            .zip(&self.ports)
            .map(|(name, port)| (name.clone(), port.tx as u64, port.rx as u64))
            .collect();
        self.outcome.ports.push(PortSample { at: end, counters });
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
            stale |= pair.step(self.physics, self.now, &mut out);
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
            let last = &mut self.vms[vm].last_event[usize::from(side == Side::Target)];
            *last = last.max(self.now + delay);
            let at = *last;
            let vm = self.vms[vm].name.clone();
            self.push(at, Input::Event { vm, side, event });
        }
    }

    fn push(&mut self, at: f64, input: Input) {
        self.sequence += 1;
        self.inbox.insert((timestamp(at).nanos(), self.sequence), input);
    }

    fn drain(&mut self) {
        while let Some((vm, id, action)) = self.gang.poll_action() {
            let path = self.path_is_up();
            let Some(index) = self.vms.iter().position(|other| other.name == vm) else { continue };
            let mut out = Emitted::new();
            let reply = self.vms[index]
                .pair
                .as_mut()
                .and_then(|pair| pair.perform(&action, path, self.physics, self.now, &mut out));
            let ends = matches!(action, Action::DestroySource | Action::DestroyTarget);
            let takes = if ends { PROCESS_END_SECONDS } else { 0.0 };
            self.emit_after(takes, index, out);
            let [least, most] = self.physics.answer_seconds;
            let (delay, reply) = match reply {
                Some(reply) => (takes + self.random.between(least, most), reply),
                // A main loop that sits in the stream reads it when it comes out; the shell gives up on it earlier or later.
                None => {
                    self.held.push(Held { until: self.now + ANSWER_LIMIT, vm: index, id, action });
                    continue;
                }
            };
            self.push(self.now + delay, Input::Reply { vm, id, reply });
        }
        while let Some(record) = self.gang.poll_record() {
            self.outcome.records.push(record);
        }
        self.drain_gang();
    }

    /// Performs what had to wait, or gives it up.
    fn release(&mut self) {
        for held in std::mem::take(&mut self.held) {
            let path = self.path_is_up();
            let mut out = Emitted::new();
            let pair = self.vms[held.vm].pair.as_mut();
            let reply = pair.and_then(|pair| {
                pair.perform(&held.action, path, self.physics, self.now, &mut out)
            });
            self.emit(held.vm, out);
            let vm = self.vms[held.vm].name.clone();
            if let Some(reply) = reply {
                self.push(self.now, Input::Reply { vm, id: held.id, reply });
            } else if self.now >= held.until {
                let message = "no answer".to_owned();
                let reply = Err(ActionError { class: FailureClass::Timeout, message });
                self.push(self.now, Input::Reply { vm, id: held.id, reply });
            } else {
                self.held.push(held);
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
            match entry.remove() {
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
            self.resources.extend(port.resources(port.down_until <= now, moving, reverse));
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
                demand: pair.ceiling(),
                class: Class::Migration,
                crosses: Crosses::of(&[2 * self.source, 2 * self.target + 1]),
            });
        }
        self.sharer.share(&self.resources, &self.claims, &mut self.rates);
        for (sender, rate) in self.senders.iter().zip(&self.rates[self.flows.len()..]) {
            if let Some(pair) = &mut self.vms[*sender].pair {
                pair.granted(*rate, forward, self.physics, now);
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
