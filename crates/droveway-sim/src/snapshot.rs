//! What a measurement without any error would find in the simulated world, before anything moves: so that a policy that
//! decides from measurements can plan what is then simulated.

use crate::{Memory, Physics};
use droveway_fleet::{
    Bandwidth, Scenario, Snapshot, TimeSpan,
    document::API_VERSION,
    ids::EndpointId,
    report::Quantiles,
    scenario::{Traffic, TrafficKind},
    snapshot::{
        FlowEnd, FlowSnapshot, HostSnapshot, KIND, MemorySnapshot, PortSnapshot, RateSummary,
        TailPoint, VmSnapshot,
    },
};

/// The snapshot of a scenario's hosts, VMs, memory and traffic.
#[must_use]
pub fn snapshot(scenario: &Scenario, physics: &Physics) -> Snapshot {
    let spec = &scenario.spec;
    let port = PortSnapshot {
        interface: "nic".to_owned(),
        rate_bits_per_second: spec.link.rate.bits_per_second(),
        rate_from: "fleet".to_owned(),
        tx: RateSummary::default(),
        rx: RateSummary::default(),
    };
    let host = |host: &droveway_fleet::scenario::ScenarioHost| HostSnapshot {
        name: host.name.clone(),
        port: port.clone(),
        cpus: 1,
        cpu_busy_ratio: 0.0,
        memory_bytes: 0,
        memory_available_bytes: 0,
    };
    let vm = |vm: &droveway_fleet::scenario::ScenarioVm| VmSnapshot {
        name: vm.name.clone(),
        host: vm.host.clone(),
        state: "running".to_owned(),
        accelerator: "simulated".to_owned(),
        vcpus: vm.vcpus,
        allow_postcopy: vm.allow_postcopy,
        max_downtime_seconds: vm.max_downtime.map(|time| TimeSpan::duration(time).as_secs_f64()),
        taps: Vec::new(),
        tx: RateSummary::default(),
        rx: RateSummary::default(),
        tx_local_ratio: 0.0,
        rx_local_ratio: 0.0,
        series: None,
        memory: Some(memory(&Memory::of(vm, physics))),
        memory_bytes: vm.memory.get(),
    };
    Snapshot {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        taken_at: "simulated".to_owned(),
        window_seconds: 0.0,
        hosts: spec.hosts.iter().map(host).collect(),
        vms: spec.vms.iter().map(vm).collect(),
        flows: spec.traffic.iter().filter_map(|traffic| flow(scenario, traffic, physics)).collect(),
        paths: Vec::new(),
        remarks: Vec::new(),
    }
}

fn memory(memory: &Memory) -> MemorySnapshot {
    let bytes = memory.guest_bytes();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a VM's memory")]
    let resident_bytes = bytes as u64;
    MemorySnapshot {
        resident_bytes,
        zero_ratio: 0.0,
        tail: tail(memory),
        send_bytes: Quantiles { p10: bytes, p50: bytes, p90: bytes },
        compressed_ratio: None,
        method: "simulated".to_owned(),
        samples: Vec::new(),
        curve: memory.curve(),
        curve_error_ratio: 0.0,
    }
}

/// The end of RAM as `measure` looks at it.
fn tail(memory: &Memory) -> Vec<TailPoint> {
    let ram = memory.guest_bytes() + memory.zero_bytes;
    let distances = (2..10_u32).map(|power| f64::from(1 << power) * 1_048_576.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a VM's memory")]
    let point = |bytes: f64| TailPoint {
        ram_bytes: bytes as u64,
        content_bytes: memory.tail().content(bytes) as u64,
    };
    distances.filter(|distance| *distance < ram).map(point).collect()
}

fn flow(scenario: &Scenario, traffic: &Traffic, physics: &Physics) -> Option<FlowSnapshot> {
    let bytes = |rate: Bandwidth| Physics::bytes(rate.bytes_per_second());
    let limited = traffic.rate.as_ref().and_then(|rate| rate.bandwidth());
    let (rate, elastic) = match (limited, &traffic.rate, &traffic.requests) {
        (Some(rate), ..) => (bytes(rate), false),
        (None, Some(_), _) => (bytes(scenario.spec.link.rate.tcp_payload()), true),
        (None, None, Some(requests)) => (f64::from(requests.get()) * physics.request_bytes, false),
        (None, None, None) => return None,
    };
    let end = |name: &EndpointId| -> FlowEnd {
        let spec = &scenario.spec;
        let vm = spec.vms.iter().find(|vm| vm.name.as_str() == name.as_str());
        let host = spec.hosts.iter().find(|host| host.name.as_str() == name.as_str());
        match (vm, host) {
            (Some(vm), _) => FlowEnd::Vm(vm.name.clone()),
            (None, Some(host)) => FlowEnd::Host(host.name.clone()),
            (None, None) => FlowEnd::Outside(name.clone()),
        }
    };
    let (from, to) = (end(&traffic.from), end(&traffic.to));
    // Answers are what weighs, and they go the other way.
    let answers = traffic.kind == TrafficKind::Memcached;
    let (from, to) = if answers { (to, from) } else { (from, to) };
    let connections = traffic.flows.max(1);
    Some(FlowSnapshot { from, to, bytes_per_second: rate, connections, elastic })
}

#[cfg(test)]
mod tests {
    use super::*;
    use droveway_fleet::document;

    #[test]
    fn the_demonstration_is_seen_as_it_is() {
        let text = include_str!("../../../scenarios/demo.yaml");
        let scenario: Scenario = document::parse(text, "demo.yaml").unwrap();
        let seen = snapshot(&scenario, &Physics::default());
        assert_eq!(seen.problems(), Vec::new());
        assert_eq!(seen.vms.len(), scenario.spec.vms.len());
        assert_eq!(seen.flows.len(), scenario.spec.traffic.len());
        for (seen, vm) in seen.vms.iter().zip(&scenario.spec.vms) {
            let memory = seen.memory.as_ref().unwrap();
            let written = memory.curve.unique_bytes(1_000.0);
            let load = vm.memory_load.as_ref().map_or(0.0, |load| load.working_set.as_f64());
            assert!(written >= load * 0.99, "{}: {written} of {load}", vm.name);
            assert!(memory.send_bytes.p50 <= vm.memory.as_f64());
        }
    }
}
