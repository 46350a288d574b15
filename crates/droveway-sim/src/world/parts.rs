//! What the simulated world is made of.

use crate::qemu::Pair;
use droveway_drive::{Action, ActionError, ActionId, QemuEvent, Reply, Side};
use droveway_fleet::VmId;

#[derive(Debug, Clone)]
pub(super) enum Input {
    Event { vm: VmId, side: Side, event: QemuEvent },
    Reply { vm: VmId, id: ActionId, reply: Result<Reply, ActionError> },
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
}

pub(super) struct Held {
    pub(super) until: f64,
    pub(super) vm: usize,
    pub(super) id: ActionId,
    pub(super) action: Action,
}

pub(super) struct Port {
    pub(super) rate: f64,
    pub(super) down_until: f64,
    pub(super) tx: f64,
    pub(super) rx: f64,
}
