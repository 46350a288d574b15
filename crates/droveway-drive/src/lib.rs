//! The drivers: [`VmDriver`] makes every decision of one attempt to move one VM, [`GangDriver`] those of one plan.
//!
//! Sans-IO: events, replies, samples and the time go in; actions, time-outs and records come out. Nothing here reads a
//! clock, opens a socket or waits. The shell is one loop: perform the polled actions, wait for an input or for
//! [`GangDriver::poll_timeout`], hand it in. The same drivers run against real QEMUs and in simulated worlds.
//!
//! The contract of inputs and outputs:
//! - `handle_*` takes what happened; it never blocks and never fails because of the world. `now` never goes backwards.
//! - `request` (one VM) and `operate` (the run) take what an operator wants; it is decided at once, from state alone.
//! - `poll_action` and `poll_record` are drained until `None`; `poll_timeout` says when to call `handle_timeout`.
//! - What post-copy's path is watched by (`handle_connection`, `handle_beat`) may be given or not: what is there is used.
//! - A gang also gives `poll_gang_action` and `poll_decision`; one that adapts takes `handle_traffic`, `handle_path` and
//!   `handle_answer`, one that yields `handle_ports`.
//! - [`Shadow`] watches a gang that another tool moves: looks and rates go in, questions to a planner, records and decisions come
//!   out, and no actions.
//! - Each action has an id; the shell answers each exactly once, in any order, or never: every wait has a bound.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod action;
mod adapt;
mod gang;
mod input;
pub mod journal;
mod operator;
mod record;
mod shadow;
#[cfg(test)]
mod testing;
mod vm;

pub use action::{
    Action, ActionError, ActionId, FailureClass, Limits, Reply, Settings, SwitchoverRate,
};
pub use adapt::{ANSWER_LIMIT, ASK_EVERY, Adaptation, CHANGES_PER_MINUTE, PathSample};
pub use gang::{GangAction, GangDriver, OPERATOR, PortsSeen};
pub use input::{MigrationSample, MigrationStatus, QemuEvent, RunState, Side};
pub use operator::{Accepted, OperatorRequest, Refusal};
pub use record::{Decision, Outcome, Phase, Progress, Record, RecordKind};
pub use shadow::{Look, Shadow};
pub use vm::{
    Beat, ConnectionSample, Inherited, PATIENCE, Request, RequestDenied, Seen, TRANSITIONS, Told,
    VmDriver,
};
