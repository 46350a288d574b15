//! What the simulated world is made of.

use super::witness::Watched;
use crate::qemu::{Pair, before};
use droveway_drive::{Action, ActionError, ActionId, QemuEvent, Reply, Settings, Side};
use droveway_fleet::{HostId, VmId};
use droveway_model::{fluid::PortModel, share::Resource, world::payload};
use droveway_plan::{Direction, Plan, replan::Answer};
use std::collections::BTreeMap;

/// What the moving VMs' sources are set to before the run.
pub(super) fn settings(plan: &Plan) -> BTreeMap<VmId, Settings> {
    plan.moves.iter().map(|step| (step.vm.clone(), before())).collect()
}

#[derive(Debug, Clone)]
pub(super) enum Input {
    Event { vm: VmId, side: Side, event: QemuEvent },
    Reply { vm: VmId, id: ActionId, reply: Result<Reply, ActionError> },
    Answer { question: u64, answer: Option<Box<Answer>> },
}

/// An end of traffic.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Vm(usize),
    Machine(usize),
}

pub(super) struct Flow {
    pub(super) from: End,
    pub(super) to: End,
    pub(super) demand: f64,
    pub(super) weight: f64,
    /// Bytes of one unit of the log: a request's answer, or one.
    pub(super) unit: f64,
    pub(super) log: usize,
    pub(super) carried: f64,
    /// Bytes since the driver was told last.
    pub(super) looked: f64,
}

/// A load inside a VM.
pub(super) struct Load {
    pub(super) vm: usize,
    pub(super) rate: f64,
    pub(super) log: usize,
    pub(super) done: f64,
}

pub(super) struct Vm {
    pub(super) name: VmId,
    pub(super) host: usize,
    /// Only of VMs that move.
    pub(super) pair: Option<Pair>,
    pub(super) last_event: [f64; 2],
    /// A fault took what there was of its state.
    pub(super) destroyed_at: Option<f64>,
    /// What is known of its stream's connection.
    pub(super) watched: Watched,
}

/// An action that its QEMU has not taken yet.
pub(super) struct Held {
    /// It reaches its QEMU then at the earliest.
    pub(super) from: f64,
    /// And is given up by whoever waits for its answer then.
    pub(super) until: f64,
    /// Nobody waits for its answer any more.
    pub(super) late: bool,
    pub(super) vm: usize,
    pub(super) id: ActionId,
    pub(super) action: Action,
}

/// A monitor that passes nothing on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stalled {
    pub(super) vm: usize,
    pub(super) side: Side,
    pub(super) until: f64,
    /// Commands arrive, and only what is answered is lost.
    pub(super) loses: bool,
}

pub(super) struct Port {
    pub(super) rate: f64,
    pub(super) down_until: f64,
    pub(super) tx: f64,
    pub(super) rx: f64,
    /// What each direction promises to migration while VMs move; `None`: the port is shared by flow.
    pub(super) promised: Option<[f64; 2]>,
}

impl Port {
    /// What both directions carry now, and who has what of it. `hurried`: a VM stands still; `reverse`: what the streams'
    /// acknowledgements take of each.
    pub(super) fn resources(
        &self,
        up: bool,
        moving: bool,
        hurried: bool,
        reverse: [f64; 2],
    ) -> [Resource; 2] {
        let rate = if up { self.rate } else { 0.0 };
        let whole = PortModel::shared(rate);
        let port = match self.promised.filter(|_| moving) {
            Some([tx, rx]) => whole.promised(tx, rx),
            None => whole,
        };
        let of = |capacity: f64, reverse: f64, guarantee| Resource {
            capacity: (capacity - reverse).max(0.0),
            migration_guarantee: if hurried {
                port.hurried(capacity, guarantee)
            } else {
                guarantee
            },
            strict: false,
        };
        [of(port.tx, reverse[0], port.tx_reserved), of(port.rx, reverse[1], port.rx_reserved)]
    }
}

/// What a plan promises to migration of a host's port, bytes per second; `None` if it leaves the ports alone.
pub(super) fn promised(plan: &Plan, host: &HostId) -> Option<[f64; 2]> {
    let is_end = [&plan.source, &plan.target].contains(&host);
    if plan.reservations.is_empty() || !is_end {
        return None;
    }
    let of = |direction| {
        let held =
            plan.reservations.iter().filter(|it| it.port == *host && it.direction == direction);
        held.map(|it| payload(it.rate)).sum()
    };
    Some([of(Direction::Tx), of(Direction::Rx)])
}
