//! A run that adapts: what it sees of ports and VMs, the planner that answers it, and what it changes at the ports.

use super::{End, Input, World, promised, timestamp};
use droveway_drive::{Adaptation, GangAction, GangDriver};
use droveway_fleet::{Bandwidth, VmId};
use droveway_plan::replan::{
    Base, prospects, replan,
    traffic::{Rates, Traffic},
};
use std::collections::BTreeMap;

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
    /// Everything is decided and nothing changed.
    pub observe_only: bool,
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
        observe_only: adapting.observe_only,
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
        self.gang.handle_traffic(timestamp(self.now), seen);
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
                    let plan = self.gang.plan();
                    for (host, port) in self.machines.iter().zip(&mut self.ports) {
                        port.promised = promised(plan, host);
                    }
                    self.changed = true;
                }
            }
        }
        while let Some(decision) = self.gang.poll_decision() {
            self.outcome.decisions.push(decision);
        }
    }
}
