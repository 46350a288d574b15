//! Applications: what they carry, and what they write of it.

use super::{ApplicationLog, End, Flow, Load, PortSample, World, timestamp};
use crate::Physics;
use droveway_fleet::{EndpointId, Scenario, log::ApplicationSample, scenario::TrafficKind};

impl World<'_> {
    fn end(&self, name: &str) -> Option<End> {
        let vm = self.vms.iter().position(|vm| vm.name.as_str() == name).map(End::Vm);
        vm.or_else(|| {
            self.machines.iter().position(|other| other.as_str() == name).map(End::Machine)
        })
    }

    pub(super) fn add_traffic(&mut self, scenario: &Scenario) {
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

    /// What applications and ports did since the last time.
    pub(super) fn log(&mut self) {
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
}
