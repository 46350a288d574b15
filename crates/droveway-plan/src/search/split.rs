//! Gangs over many ports: what shares no port can be planned by itself.
//!
//! Moves that share a port, and VMs of one group, belong together; so do ports between which traffic flows that a move
//! changes. Each such part is searched with its share of the plays; time passes for all of them at once.

use super::{Found, Task, search};
use droveway_model::fluid::End;

/// One part of a task: which of its movers, and what was found for them.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Indexes of the task's movers.
    pub movers: Vec<usize>,
    /// The best schedule of these; its indexes are places in `movers`.
    pub found: Found,
}

/// Searches each part of `task` that shares no port with the others. The whole costs the sum of the parts' costs, except
/// that it takes only as long as the longest of them.
#[must_use]
pub fn search_ports(task: &Task, plays: usize, seed: u64) -> Vec<Part> {
    let parts = parts(task);
    let count = task.movers.len().max(1);
    let one = |movers: Vec<usize>| {
        let mut part = Task {
            movers: movers.iter().map(|index| task.movers[*index].clone()).collect(),
            ..task.clone()
        };
        part.shrink();
        let share = (plays / count).saturating_mul(movers.len()).max(1);
        search(&part, share, seed).map(|found| Part { movers, found })
    };
    parts.into_iter().filter_map(one).collect()
}

impl Task {
    /// Drops flows that touch none of the movers' ports: a play is the quicker for it.
    fn shrink(&mut self) {
        let ports: Vec<usize> = self
            .movers
            .iter()
            .flat_map(|mover| [self.gang.vms[mover.step.vm].host, mover.step.target])
            .collect();
        let vms = &self.gang.vms;
        let touches = |end: End| match end {
            End::Vm(vm) => ports.contains(&vms[vm].host),
            End::Host(host) => ports.contains(&host),
            End::Outside => false,
        };
        self.gang.flows.retain(|flow| touches(flow.from) || touches(flow.to));
    }
}

/// Movers by the ports that they share, directly or through others.
fn parts(task: &Task) -> Vec<Vec<usize>> {
    let mut leader: Vec<usize> = (0..task.gang.ports.len()).collect();
    fn find(leader: &mut [usize], mut port: usize) -> usize {
        while leader[port] != port {
            leader[port] = leader[leader[port]];
            port = leader[port];
        }
        port
    }
    let mut join = |a: usize, b: usize| {
        let (a, b) = (find(&mut leader, a), find(&mut leader, b));
        leader[a.max(b)] = a.min(b);
    };
    let home = |vm: usize| task.gang.vms[vm].host;
    let mut of_group: Vec<(usize, usize)> = Vec::new();
    for mover in &task.movers {
        join(home(mover.step.vm), mover.step.target);
        if let Some(group) = mover.group {
            match of_group.iter().find(|(other, _)| *other == group) {
                Some((_, port)) => join(*port, home(mover.step.vm)),
                None => of_group.push((group, home(mover.step.vm))),
            }
        }
    }
    let place = |end: End| match end {
        End::Vm(vm) => Some(home(vm)),
        End::Host(host) => Some(host),
        End::Outside => None,
    };
    for flow in &task.gang.flows {
        if let (Some(from), Some(to)) = (place(flow.from), place(flow.to)) {
            join(from, to);
        }
    }
    let mut parts: Vec<(usize, Vec<usize>)> = Vec::new();
    for (index, mover) in task.movers.iter().enumerate() {
        let root = find(&mut leader, home(mover.step.vm));
        match parts.iter_mut().find(|(port, _)| *port == root) {
            Some((_, movers)) => movers.push(index),
            None => parts.push((root, vec![index])),
        }
    }
    parts.into_iter().map(|(_, movers)| movers).collect()
}
