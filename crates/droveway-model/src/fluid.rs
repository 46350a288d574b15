//! The fluid gang model: any set of moves, with start rules, limits and the traffic beside them, played forward.
//!
//! Between two events every rate is constant: [`crate::share`] gives it from who sends what across which port. An event is
//! the start of a move, the end of a pass, a stop, a resume, the end of a stream, or a guest answering again. A pass lasts
//! as long as its bytes need at the rates of its time, and leaves what the dirty curve says of that time; so contention,
//! dirtying, order and concurrency act on each other as on real hosts. A VM's traffic moves with it, at the switch.
//!
//! A play may begin in the middle of a run: moves that are under way ([`Begun`]) are taken up where they are, beside those that
//! have not started; a VM that has moved already is one of the target.
//!
//! Everything is bounded: a gang that cannot end is reported as such at the horizon or after [`EVENTS_PER_MOVE_MAX`].

mod course;
mod legs;
mod problem;
mod runner;
mod trace;

pub use course::{Course, FlowCourse, MoveCourse, MoveEnd};
pub use legs::{Before, Leg, Legs};
pub use problem::{
    Begun, BegunAt, Constants, End, FlowModel, Gang, HURRIED_RATIO, MoveModel, PortModel, Start,
    Tail, VmModel,
};
pub use runner::Stage;
pub use trace::{Load, MoveTrace, Phase, PortLoad, PortTrace, Segment, Trace};

use crate::share::{Claim, Class, Crosses, Resource, Sharer};
use runner::{Grant, Runner};
use trace::{Observer, Scene, Tracer};

/// Events that a gang may take for each of its moves: twice the passes that a plan may ask for (1,000), with its fixed
/// steps. Beyond it the play ends, and says so.
pub const EVENTS_PER_MOVE_MAX: usize = 2_048;

/// Plays gangs; keeps its scratch memory, so that a play allocates only its answer.
#[derive(Debug, Clone, Default)]
pub struct Fluid {
    sharer: Sharer,
    resources: Vec<Resource>,
    claims: Vec<Claim>,
    rates: Vec<f64>,
    /// The moves whose streams are claims, behind those of the flows.
    senders: Vec<usize>,
    runners: Vec<Runner>,
    /// The host on which each VM's traffic ends now.
    places: Vec<usize>,
    /// Whether each VM sends and receives now.
    alive: Vec<bool>,
    component: Vec<usize>,
    local: Vec<usize>,
    /// VMs that moved or fell silent since the last sharing.
    changed: Vec<usize>,
    /// Claim and flow, by VM; where each VM's begin.
    flow_slots: Vec<(usize, usize)>,
    flow_starts: Vec<usize>,
    waiting: Vec<usize>,
    active: Vec<usize>,
    /// Which resources elastic traffic crosses.
    crowded: Vec<bool>,
    /// Moves of each window that use the port.
    used: Vec<usize>,
    start_due: f64,
}

impl Fluid {
    /// Plays `gang` from its start until every move has ended, or nothing more can happen.
    pub fn play(&mut self, gang: &Gang) -> Course {
        self.watched(gang, &mut ())
    }

    /// Plays `gang` and writes down what it looks like over time. The course is that of [`Fluid::play`].
    pub fn trace(&mut self, gang: &Gang) -> (Course, Trace) {
        let mut tracer = Tracer::new(gang);
        let course = self.watched(gang, &mut tracer);
        (course, tracer.finish())
    }

    fn watched(&mut self, gang: &Gang, observer: &mut impl Observer) -> Course {
        let mut course = Course::new(gang);
        self.runners.clear();
        self.runners.extend((0..gang.moves.len()).map(|place| Runner::new(gang, place)));
        self.places.clear();
        self.places.extend(gang.vms.iter().map(|vm| vm.host));
        for step in &gang.moves {
            let at = BegunAt::PostCopy;
            if matches!(step.start, Start::Begun { so_far, .. } if so_far.at == at) {
                self.places[step.vm] = step.target;
            }
        }
        self.alive.clear();
        self.alive.resize(gang.vms.len(), true);
        self.find_components(gang);
        let count = self.component.iter().copied().max().map_or(0, |last| last + 1);
        let mut moves: Vec<Vec<usize>> = vec![Vec::new(); count];
        let mut flows: Vec<Vec<usize>> = vec![Vec::new(); count];
        for (index, step) in gang.moves.iter().enumerate() {
            moves[self.component[step.target]].push(index);
        }
        let mut positions = vec![0; gang.flows.len()];
        for (index, flow) in gang.flows.iter().enumerate() {
            if let Some(host) = [flow.from, flow.to].into_iter().find_map(|end| self.place(end)) {
                let flows = &mut flows[self.component[host]];
                positions[index] = flows.len();
                flows.push(index);
            }
        }
        self.index_flows(gang, &positions);
        self.local.clear();
        self.local.resize(gang.ports.len(), 0);
        for (component, (moves, flows)) in moves.iter().zip(&flows).enumerate() {
            if !moves.is_empty() || !flows.is_empty() {
                let scene = Scene { gang, component, moves, flows };
                self.play_component(scene, &mut course, observer);
            }
        }
        course.finish();
        course
    }

    /// Hosts that share a move, a flow or a window of starts must be played together; others need not.
    fn find_components(&mut self, gang: &Gang) {
        let mut parent: Vec<usize> = (0..gang.ports.len()).collect();
        fn root(parent: &mut [usize], mut of: usize) -> usize {
            while parent[of] != of {
                parent[of] = parent[parent[of]];
                of = parent[of];
            }
            of
        }
        let mut join = |a: usize, b: usize| {
            let (a, b) = (root(&mut parent, a), root(&mut parent, b));
            parent[a.max(b)] = a.min(b);
        };
        let mut window_hosts: Vec<Option<usize>> = vec![None; gang.windows.len()];
        let mut ends: Vec<Option<usize>> = vec![None; gang.vms.len()];
        for step in &gang.moves {
            let source = gang.vms[step.vm].host;
            join(source, step.target);
            ends[step.vm] = Some(step.target);
            match step.start {
                Start::InWindow(window)
                | Start::InWindowFrom { window, .. }
                | Start::Begun { window, .. } => {
                    if let Some(other) = window_hosts[window].replace(source) {
                        join(source, other);
                    }
                }
                Start::AfterEnd { step: other, .. } | Start::AfterSwitch { step: other, .. } => {
                    join(source, gang.moves[other].target);
                }
                Start::At(_) => {}
            }
        }
        for flow in &gang.flows {
            let host = |end| match end {
                End::Vm(vm) => Some(gang.vms[vm].host),
                End::Host(host) => Some(host),
                End::Outside => None,
            };
            if let (Some(from), Some(to)) = (host(flow.from), host(flow.to)) {
                join(from, to);
            }
        }
        let mut number = vec![usize::MAX; gang.ports.len()];
        let mut next = 0;
        self.component.clear();
        for host in 0..gang.ports.len() {
            let root = root(&mut parent, host);
            if number[root] == usize::MAX {
                number[root] = next;
                next += 1;
            }
            self.component.push(number[root]);
        }
    }

    fn place(&self, end: End) -> Option<usize> {
        match end {
            End::Vm(vm) => Some(self.places[vm]),
            End::Host(host) => Some(host),
            End::Outside => None,
        }
    }

    fn play_component(
        &mut self,
        scene: Scene<'_>,
        course: &mut Course,
        observer: &mut impl Observer,
    ) {
        let Scene { gang, component, moves, flows } = scene;
        self.resources.clear();
        for (host, port) in gang.ports.iter().enumerate() {
            if self.component[host] == component {
                self.local[host] = self.resources.len() / 2;
                self.resources.extend([port.tx_resource(), port.rx_resource()]);
            }
        }
        self.claims.clear();
        for index in flows {
            let claim = self.flow_claim(&gang.flows[*index]);
            self.claims.push(claim);
        }
        self.changed.clear();
        // Before the first move: what every flow gets undisturbed is what it is measured against.
        self.share(gang, &[], flows, 0.0);
        for (flow, rate) in flows.iter().zip(&self.rates) {
            course.flows[*flow].baseline = *rate;
        }
        observer.began(self, scene);
        let mut now = 0.0_f64;
        let mut shared_at = 0.0_f64;
        let mut events = EVENTS_PER_MOVE_MAX.saturating_mul(moves.len());
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut active = std::mem::take(&mut self.active);
        waiting.clear();
        waiting.extend_from_slice(moves);
        active.clear();
        let mut stale = false;
        let mut ended = true;
        loop {
            if ended || self.start_due <= now {
                // What is under way sends from the first instant on.
                stale |= self.admit(gang, &mut waiting, &mut active, now);
                ended = false;
            }
            if stale {
                settle(course, &self.rates, flows, now - shared_at);
                shared_at = now;
                self.share(gang, &active, flows, now);
                observer.shared(self, scene, now);
                stale = false;
            }
            let mut next = self.start_due;
            for index in &active {
                next = next.min(self.runners[*index].next_event(&gang.moves[*index], gang, now));
            }
            if !next.is_finite() || next > gang.horizon || events == 0 {
                break;
            }
            events -= 1;
            let elapsed = (next - now).max(0.0);
            now = next;
            active.retain(|index| {
                let step = &gang.moves[*index];
                let runner = &mut self.runners[*index];
                let had_ended = runner.has_switched_or_ended();
                runner.send(elapsed);
                stale |= runner.step(step, gang, now);
                observer.stepped(*index, runner, now);
                ended |= runner.has_switched_or_ended() != had_ended;
                let place =
                    if runner.is_at_target() { step.target } else { gang.vms[step.vm].host };
                let answers = runner.answers(now);
                if self.places[step.vm] != place || self.alive[step.vm] != answers {
                    self.places[step.vm] = place;
                    self.alive[step.vm] = answers;
                    self.changed.push(step.vm);
                }
                !runner.is_quiet()
            });
        }
        self.waiting = waiting;
        self.active = active;
        settle(course, &self.rates, flows, now - shared_at);
        observer.ended(self, scene, now);
        for index in moves {
            course.moves[*index] = self.runners[*index].course(gang);
        }
    }

    /// Starts whatever may start, and notes when the next start is due that waits for time alone. True if one was taken up
    /// that is under way.
    fn admit(
        &mut self,
        gang: &Gang,
        waiting: &mut Vec<usize>,
        active: &mut Vec<usize>,
        now: f64,
    ) -> bool {
        self.start_due = f64::INFINITY;
        self.used.clear();
        self.used.resize(gang.windows.len(), 0);
        for index in active.iter() {
            if let Some(window) = gang.moves[*index].start.window()
                && self.runners[*index].uses_port()
            {
                self.used[window] += 1;
            }
        }
        // Whoever is under way has its place before anybody starts.
        let mut any_begun = false;
        for index in waiting.iter() {
            if let Start::Begun { window, .. } = gang.moves[*index].start {
                self.used[window] += 1;
                any_begun = true;
            }
        }
        waiting.retain(|index| {
            let due = match gang.moves[*index].start {
                Start::At(at) => at,
                Start::Begun { .. } => now,
                Start::InWindowFrom { from, .. } if now < from => from,
                Start::InWindow(window) | Start::InWindowFrom { window, .. }
                    if self.used[window] < gang.windows[window].max(1) =>
                {
                    self.used[window] += 1;
                    now
                }
                Start::InWindow(_) | Start::InWindowFrom { .. } => f64::INFINITY,
                Start::AfterEnd { step, delay } => {
                    self.runners[step].ended.map_or(f64::INFINITY, |end| end + delay)
                }
                Start::AfterSwitch { step, delay } => {
                    let runner = &self.runners[step];
                    runner.resumed.or(runner.ended).map_or(f64::INFINITY, |at| at + delay)
                }
            };
            if due <= now {
                self.runners[*index].start(&gang.moves[*index], gang, now);
                active.push(*index);
                return false;
            }
            self.start_due = self.start_due.min(due);
            true
        });
        any_begun
    }

    /// The claim of a flow as its ends are now.
    fn flow_claim(&self, flow: &FlowModel) -> Claim {
        flow_claim(flow, &self.places, &self.alive, &self.local)
    }

    /// Gives every flow and every active stream its rate. The first claims are the flows', in their order, and are renewed
    /// only for VMs that moved or fell silent.
    fn share(&mut self, gang: &Gang, active: &[usize], flows: &[usize], now: f64) {
        while let Some(vm) = self.changed.pop() {
            for slot in self.flow_starts[vm]..self.flow_starts[vm + 1] {
                let (claim, flow) = self.flow_slots[slot];
                self.claims[claim] = self.flow_claim(&gang.flows[flow]);
            }
        }
        self.claims.truncate(flows.len());
        // Acknowledgements need a little of the other direction; queues serve their short packets first.
        for index in active {
            let step = &gang.moves[*index];
            let source = gang.vms[step.vm].host;
            self.resources[2 * self.local[source] + 1].capacity = gang.ports[source].rx;
            self.resources[2 * self.local[step.target]].capacity = gang.ports[step.target].tx;
            self.resources[2 * self.local[source]].migration_guarantee =
                gang.ports[source].tx_reserved;
            self.resources[2 * self.local[step.target] + 1].migration_guarantee =
                gang.ports[step.target].rx_reserved;
        }
        self.senders.clear();
        for index in active {
            let step = &gang.moves[*index];
            let runner = &mut self.runners[*index];
            runner.rate = 0.0;
            if !runner.sends() {
                continue;
            }
            let source = gang.vms[step.vm].host;
            let (from, to) = (&gang.ports[source], &gang.ports[step.target]);
            let (tx, rx) = (2 * self.local[source], 2 * self.local[step.target] + 1);
            take_way_back(
                &mut self.resources,
                (tx + 1, rx - 1),
                (from, to),
                &gang.constants,
                runner.asks(),
            );
            let weight = step.weight * gang.constants.stream_weight;
            let demand = runner.ceiling(step);
            if runner.stage.is_stopped() {
                hurry(&mut self.resources, [(tx, from), (rx, to)]);
            }
            let crosses = Crosses::of(&[tx, rx]);
            self.claims.push(Claim { weight, demand, class: Class::Migration, crosses });
            self.senders.push(*index);
        }
        self.sharer.share(&self.resources, &self.claims, &mut self.rates);
        if self.senders.is_empty() {
            return;
        }
        self.crowded.clear();
        self.crowded.resize(self.resources.len(), false);
        for claim in self.claims[..flows.len()].iter().filter(|claim| claim.demand.is_infinite()) {
            for resource in claim.crosses.iter() {
                self.crowded[resource] = true;
            }
        }
        for (index, rate) in self.senders.iter().zip(&self.rates[flows.len()..]) {
            let step = &gang.moves[*index];
            let source = gang.vms[step.vm].host;
            let back = [2 * self.local[step.target], 2 * self.local[source] + 1];
            // A shaped port has a class for what goes back.
            let first = [step.target, source].map(|host| gang.ports[host].shaped);
            let crowded =
                back.into_iter().zip(first).any(|(back, first)| self.crowded[back] && !first);
            let fetching = self.fetching(gang, *index, now);
            let grant = Grant { rate: *rate, crowded, fetching };
            self.runners[*index].granted(grant, step, gang, now);
        }
    }

    /// How many guests fetch their first pages through one of the ports that this move's guest fetches through; one where it
    /// does not, or where how long it is silent is known.
    fn fetching(&self, gang: &Gang, index: usize, now: f64) -> f64 {
        let runner = &self.runners[index];
        if !runner.fetches() || runner.silent_for(now).is_finite() {
            return 1.0;
        }
        let ports = |index: usize| {
            let step = &gang.moves[index];
            (gang.vms[step.vm].host, step.target)
        };
        let (source, target) = ports(index);
        let fetches = |other: &&usize| {
            let (from, to) = ports(**other);
            self.runners[**other].fetches() && (from == source || to == target)
        };
        self.senders.iter().filter(fetches).map(|_| 1.0).sum()
    }

    /// Which claims the flows of each VM are: by VM, its claims and flows.
    fn index_flows(&mut self, gang: &Gang, positions: &[usize]) {
        self.flow_starts.clear();
        self.flow_starts.resize(gang.vms.len() + 1, 0);
        let vms = |flow: &FlowModel| {
            [flow.from, flow.to].into_iter().filter_map(|end| match end {
                End::Vm(vm) => Some(vm),
                _ => None,
            })
        };
        for flow in &gang.flows {
            for vm in vms(flow) {
                self.flow_starts[vm + 1] += 1;
            }
        }
        for vm in 0..gang.vms.len() {
            self.flow_starts[vm + 1] += self.flow_starts[vm];
        }
        let mut next = self.flow_starts.clone();
        self.flow_slots.clear();
        self.flow_slots.resize(self.flow_starts[gang.vms.len()], (0, 0));
        for (index, flow) in gang.flows.iter().enumerate() {
            for vm in vms(flow) {
                self.flow_slots[next[vm]] = (positions[index], index);
                next[vm] += 1;
            }
        }
    }
}

/// The claim of a flow whose ends are there; one that is silent wants nothing. `local`: by host, the number of its port among
/// the resources.
fn flow_claim(flow: &FlowModel, places: &[usize], alive: &[bool], local: &[usize]) -> Claim {
    let silent = |end| matches!(end, End::Vm(vm) if !alive[vm]);
    let place = |end| match end {
        End::Vm(vm) => Some(places[vm]),
        End::Host(host) => Some(host),
        End::Outside => None,
    };
    let crosses = match (place(flow.from), place(flow.to)) {
        // It stays on its host and costs no port anything.
        (Some(from), Some(to)) if from == to => Crosses::default(),
        (Some(from), Some(to)) => Crosses::of(&[2 * local[from], 2 * local[to] + 1]),
        (Some(from), None) => Crosses::of(&[2 * local[from]]),
        (None, Some(to)) => Crosses::of(&[2 * local[to] + 1]),
        (None, None) => Crosses::default(),
    };
    let demand = if silent(flow.from) || silent(flow.to) { 0.0 } else { flow.demand };
    Claim { weight: flow.weight, demand, class: Class::Application, crosses }
}

/// What is held of ports is held for whom stands still.
fn hurry(resources: &mut [Resource], ends: [(usize, &PortModel); 2]) {
    for (index, port) in ends {
        let Resource { capacity, migration_guarantee, .. } = &mut resources[index];
        *migration_guarantee = port.hurried(*capacity, *migration_guarantee);
    }
}

/// Takes what acknowledgements and page requests of a stream need from the way back, `(source RX, target TX)` as resources.
/// One stream or many, what they carry together is what the port carries; each guest that waits for its first pages
/// asks for itself.
fn take_way_back(
    resources: &mut [Resource],
    back: (usize, usize),
    ports: (&PortModel, &PortModel),
    constants: &Constants,
    asks: bool,
) {
    let (from, to) = ports;
    let forward = from.tx.min(to.rx);
    let acknowledged = constants.acknowledgement_ratio * forward;
    for (resource, port) in [(back.0, from.rx), (back.1, to.tx)] {
        let left = &mut resources[resource].capacity;
        *left = left.min((port - acknowledged).max(0.0));
        if asks {
            *left = (*left - constants.requests(forward)).max(0.0);
        }
    }
}

/// What the flows lost at the rates that held for `elapsed`.
fn settle(course: &mut Course, rates: &[f64], flows: &[usize], elapsed: f64) {
    if elapsed <= 0.0 {
        return;
    }
    for (index, rate) in flows.iter().zip(rates) {
        let flow = &mut course.flows[*index];
        // Elastic traffic within a host has no rate of its own to lose.
        if flow.baseline.is_finite() && rate.is_finite() {
            let short = (flow.baseline - rate).max(0.0);
            flow.lost_bytes += short * elapsed;
            flow.worst_loss = flow.worst_loss.max(short);
            flow.carried_bytes += rate * elapsed;
        }
    }
}

#[cfg(test)]
mod tests;
