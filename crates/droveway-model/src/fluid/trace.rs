//! What a play looks like over time: each port's load, piece by piece, and each move's stages. For pictures; whoever only
//! wants to know what a gang costs plays it without.

use super::{
    Fluid,
    problem::Gang,
    runner::{Runner, Stage},
};

/// How ports and moves fare over time. Seconds since the play's start, bytes of payload per second.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Trace {
    /// One entry a port.
    pub ports: Vec<PortTrace>,
    /// One entry a move.
    pub moves: Vec<MoveTrace>,
}

/// The load of one host's port over time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PortTrace {
    /// Before anything moves.
    pub before: PortLoad,
    /// From second zero until the last event of the hosts that this one is played with, without gaps.
    pub segments: Vec<Segment>,
    /// From then on.
    pub after: PortLoad,
}

/// A time in which nothing changes for a port.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Segment {
    /// Its start, seconds.
    pub from_seconds: f64,
    /// Its end, seconds.
    pub to_seconds: f64,
    /// What the port carries meanwhile.
    pub load: PortLoad,
}

/// What a port carries, by direction.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PortLoad {
    /// Sent.
    pub tx: Load,
    /// Received.
    pub rx: Load,
}

/// What one direction of a port carries, bytes of payload per second. Acknowledgements are left out.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Of migrations. A switch to post-copy carries what its sockets hold, but not the state of CPU and devices, as
    /// [`super::MoveCourse::bytes`] counts.
    pub migration: f64,
    /// Of applications.
    pub applications: f64,
    /// What those applications would have if nothing moved: what they had before, or have now if that is more.
    pub wanted: f64,
}

/// The stages of one move, without gaps; none if it never starts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MoveTrace {
    /// In their order. Each pass is one of its own.
    pub phases: Vec<Phase>,
}

/// A time in which a move is in one stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase {
    /// Which; neither [`Stage::Waiting`] nor [`Stage::Ended`].
    pub stage: Stage,
    /// Its start, seconds.
    pub from_seconds: f64,
    /// Its end, seconds.
    pub to_seconds: f64,
}

/// The hosts of one component, while they are played.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) gang: &'a Gang,
    pub(super) component: usize,
    pub(super) moves: &'a [usize],
    pub(super) flows: &'a [usize],
}

/// Watches a play. Nothing of it does anything unless an observer says so: a play that nobody watches costs nothing more.
pub(super) trait Observer {
    /// Ports were shared out while nothing moves.
    fn began(&mut self, _fluid: &Fluid, _scene: Scene<'_>) {}
    /// Ports were shared out anew.
    fn shared(&mut self, _fluid: &Fluid, _scene: Scene<'_>, _now: f64) {}
    /// A move took the step that was due, if one was.
    fn stepped(&mut self, _index: usize, _runner: &Runner, _now: f64) {}
    /// Nothing more happens in this component.
    fn ended(&mut self, _fluid: &Fluid, _scene: Scene<'_>, _now: f64) {}
}

/// Nobody watches.
impl Observer for () {}

/// Writes down what it sees.
#[derive(Debug)]
pub(super) struct Tracer {
    trace: Trace,
    /// What each flow gets while nothing moves; infinite where it crosses no port.
    undisturbed: Vec<f64>,
    /// What each port carries now, and since when.
    loads: Vec<(f64, PortLoad)>,
    /// The stage that each move is in, its pass, and since when.
    stages: Vec<Option<(Stage, u32, f64)>>,
}

impl Tracer {
    pub(super) fn new(gang: &Gang) -> Self {
        let (ports, moves) = (gang.ports.len(), gang.moves.len());
        Tracer {
            trace: Trace {
                ports: vec![PortTrace::default(); ports],
                moves: vec![MoveTrace::default(); moves],
            },
            undisturbed: vec![0.0; gang.flows.len()],
            loads: vec![(0.0, PortLoad::default()); ports],
            stages: vec![None; moves],
        }
    }

    pub(super) fn finish(self) -> Trace {
        self.trace
    }

    /// What the ports carry at the rates that were just shared out.
    fn loads(&self, fluid: &Fluid, scene: Scene<'_>) -> Vec<PortLoad> {
        let gang = scene.gang;
        let mut loads = vec![PortLoad::default(); gang.ports.len()];
        for (index, rate) in scene.flows.iter().zip(&fluid.rates) {
            let flow = &gang.flows[*index];
            let (from, to) = (fluid.place(flow.from), fluid.place(flow.to));
            if from == to {
                // It stays on its host.
                continue;
            }
            let before = self.undisturbed[*index];
            let wanted = if before.is_finite() { before.max(*rate) } else { *rate };
            if let Some(host) = from {
                loads[host].tx.applications += rate;
                loads[host].tx.wanted += wanted;
            }
            if let Some(host) = to {
                loads[host].rx.applications += rate;
                loads[host].rx.wanted += wanted;
            }
        }
        for index in &fluid.senders {
            let step = &gang.moves[*index];
            let rate = fluid.runners[*index].carries();
            loads[gang.vms[step.vm].host].tx.migration += rate;
            loads[step.target].rx.migration += rate;
        }
        loads
    }

    /// Writes down what a port carried until now.
    fn close(&mut self, host: usize, now: f64) {
        let (since, load) = self.loads[host];
        let segments = &mut self.trace.ports[host].segments;
        if let Some(last) = segments.last_mut().filter(|last| last.load == load) {
            // It was another one for no time at all.
            last.to_seconds = now;
        } else if now > since {
            segments.push(Segment { from_seconds: since, to_seconds: now, load });
        }
    }

    /// Writes down the stage that a move was in until now.
    fn leave(&mut self, index: usize, now: f64) {
        if let Some((stage, _, since)) = self.stages[index].take()
            && stage != Stage::Ended
            && now > since
        {
            let phase = Phase { stage, from_seconds: since, to_seconds: now };
            self.trace.moves[index].phases.push(phase);
        }
    }
}

impl Observer for Tracer {
    fn began(&mut self, fluid: &Fluid, scene: Scene<'_>) {
        for (flow, rate) in scene.flows.iter().zip(&fluid.rates) {
            self.undisturbed[*flow] = *rate;
        }
        let loads = self.loads(fluid, scene);
        for host in hosts(fluid, scene) {
            self.trace.ports[host].before = loads[host];
            self.loads[host] = (0.0, loads[host]);
        }
    }

    fn shared(&mut self, fluid: &Fluid, scene: Scene<'_>, now: f64) {
        let loads = self.loads(fluid, scene);
        for host in hosts(fluid, scene) {
            if self.loads[host].1 != loads[host] {
                self.close(host, now);
                self.loads[host] = (now, loads[host]);
            }
        }
    }

    fn stepped(&mut self, index: usize, runner: &Runner, now: f64) {
        let (stage, pass) = (runner.stage, runner.passes());
        // It started where nobody looked.
        let (first, passes) = runner.first();
        let (before, pass_before, _) =
            *self.stages[index].get_or_insert((first, passes, runner.started()));
        if (before, pass_before) != (stage, pass) {
            self.leave(index, now);
            self.stages[index] = Some((stage, pass, now));
        }
    }

    fn ended(&mut self, fluid: &Fluid, scene: Scene<'_>, now: f64) {
        for host in hosts(fluid, scene) {
            self.close(host, now);
            self.trace.ports[host].after = self.loads[host].1;
        }
        for index in scene.moves {
            self.leave(*index, now);
        }
    }
}

/// The hosts that are played together.
fn hosts<'a>(fluid: &'a Fluid, scene: Scene<'_>) -> impl Iterator<Item = usize> + use<'a> {
    let own = scene.component;
    (0..fluid.component.len()).filter(move |host| fluid.component[*host] == own)
}
