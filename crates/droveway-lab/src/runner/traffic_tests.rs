use super::*;
use droveway_fleet::{Scenario, document};

fn scenario(traffic: &str) -> ScenarioSpec {
    let text = format!(
        "apiVersion: droveway/v1\nkind: Scenario\nmetadata: {{ name: demo }}\nspec:\n  \
         link: {{ rate: 1Gbit/s }}\n  hosts: [ {{ name: alpha }}, {{ name: beta }} ]\n  \
         clients: [ {{ name: client }}, {{ name: second }} ]\n  vms:\n    \
         - {{ name: one, host: alpha, memory: 256MiB, services: [ memcached, sysbench-cpu ],\n        \
         memoryLoad: {{ workingSet: 64MiB, writeRate: 1MiB/s }} }}\n    \
         - {{ name: two, host: alpha, memory: 256MiB }}\n  traffic: [ {traffic} ]\n"
    );
    let scenario: Scenario = document::parse(&text, "test").expect("a good scenario");
    scenario.spec
}

fn planned(traffic: &str) -> TrafficPlan {
    let scenario = scenario(traffic);
    plan(&scenario, &Addresses::of_scenario(&scenario), Path::new("/run/lab"))
}

/// One stream: where its client runs, that client's arguments, the VM's ports, the machines' servers.
#[track_caller]
fn check(
    stream: &str,
    machine: &Machine,
    agent: Option<&str>,
    starts: &str,
    ends: &str,
) -> TrafficPlan {
    let plan = planned(&format!("{{ name: s, {stream} }}"));
    let job = &plan.jobs[0];
    assert_eq!(&job.machine, machine, "{stream}");
    let JobSpec::Iperf { place, arguments, log, .. } = &job.spec else { panic!("{job:?}") };
    let expected = agent.map_or(Place::Here, |agent| Place::Agent(agent.parse().unwrap()));
    assert_eq!(*place, expected, "{stream}");
    let arguments = arguments.join(" ");
    assert!(
        arguments.starts_with(&format!("{starts} -t 0 -i 0.2 -f k --forceflush")),
        "{arguments}"
    );
    assert!(arguments.ends_with(ends), "{arguments}");
    assert_eq!(log, Path::new("/run/lab/traffic/s.jsonl"));
    plan
}

fn named(machine: &str) -> Machine {
    Machine::Named(machine.to_owned())
}

fn vm_ports(vm: &str) -> BTreeMap<VmId, Vec<u16>> {
    BTreeMap::from([(vm.parse().unwrap(), vec![5201])])
}

#[test]
fn figures_come_from_the_receiver_where_that_is_outside() {
    let plan = check(
        "from: client, to: one, kind: tcp, rate: unlimited",
        &named("client"),
        None,
        "-c 10.77.1.1 -p 5201",
        "--connect-timeout 3000",
    );
    assert_eq!((plan.vm_iperf_ports, plan.servers), (vm_ports("one"), vec![]));

    let plan = check(
        "from: one, to: client, kind: tcp, rate: 300Mbit/s, flows: 3",
        &named("client"),
        None,
        "-c 10.77.1.1 -p 5201",
        "-R --rcv-timeout 90000 -P 3 -b 100000000 -l 125000",
    );
    assert_eq!((plan.vm_iperf_ports, plan.servers), (vm_ports("one"), vec![]));

    let plan = check(
        "from: client, to: beta, kind: tcp, rate: 200Mbit/s",
        &named("beta"),
        None,
        "-c 10.77.0.101 -p 5201",
        "-R --rcv-timeout 90000 -b 200000000",
    );
    assert_eq!(plan.vm_iperf_ports, BTreeMap::new());
    assert_eq!(plan.servers, [iperf_server("client", 5201)]);
}

#[test]
fn between_vms_and_for_udp_the_receiving_guest_reports() {
    let plan = check(
        "from: one, to: two, kind: tcp, rate: 1Mbit/s",
        &Machine::Switch,
        Some("10.77.1.2:7008"),
        "-c 10.77.1.1 -p 5201",
        "-R --rcv-timeout 90000 -b 1000000 -l 1250",
    );
    assert_eq!((plan.vm_iperf_ports, plan.servers), (vm_ports("one"), vec![]));

    let plan = check(
        "from: client, to: two, kind: udp, rate: 10Mbit/s",
        &Machine::Switch,
        Some("10.77.1.2:7008"),
        "-c 10.77.0.101 -p 5201",
        "-R --rcv-timeout 90000 -u -b 10000000",
    );
    assert_eq!(plan.vm_iperf_ports, BTreeMap::new());
    assert_eq!(plan.servers, [iperf_server("client", 5201)]);
}

#[test]
fn every_stream_has_a_server_of_its_own() {
    let plan = planned(
        "{ name: a, from: one, to: client, kind: tcp, rate: unlimited }, \
         { name: m, from: client, to: one, kind: memcached, requests: 2000/s }, \
         { name: b, from: client, to: one, kind: tcp, rate: unlimited }",
    );
    let one: VmId = "one".parse().unwrap();
    assert_eq!(plan.vm_iperf_ports, BTreeMap::from([(one, vec![5201, 5203])]));
    let job = &plan.jobs[1];
    assert_eq!(job.machine, named("client"));
    assert_eq!(
        job.spec,
        JobSpec::Memcached {
            log: "/run/lab/traffic/m.jsonl".into(),
            server: "10.77.1.1:11211".parse().unwrap(),
            requests_per_second: 2000,
            connections: 1,
        }
    );
    assert_eq!(job.application.as_ref().unwrap().unit, ApplicationUnit::Requests);
}

#[test]
fn what_runs_in_a_vm_and_its_probe_have_jobs() {
    let plan =
        planned("{ name: one.memory-load, from: one, to: client, kind: tcp, rate: unlimited }");
    let names: Vec<&str> = plan.jobs.iter().map(|job| job.name.as_str()).collect();
    let expected =
        ["one.memory-load", "one.sysbench-cpu", "one.memory-load-2", "probe_one", "probe_two"];
    assert_eq!(names, expected);

    let application = plan.jobs[2].application.as_ref().unwrap();
    assert_eq!((application.kind.as_str(), application.from.as_str()), ("memory-load", "one"));
    assert_eq!((application.unit, application.to.as_str()), (ApplicationUnit::Bytes, "one"));
    assert_eq!(plan.jobs[1].application.as_ref().unwrap().unit, ApplicationUnit::Operations);
    assert_eq!(plan.jobs[1].machine, Machine::Switch);

    let job = &plan.jobs[4];
    assert_eq!(job.machine, named("client"));
    assert_eq!(job.probe.as_ref().unwrap().log, "/run/lab/probe/two.jsonl");
    let JobSpec::Probe { target, .. } = &job.spec else { panic!("{job:?}") };
    assert_eq!(target.to_string(), "10.77.1.2:7007");
}

#[test]
fn without_clients_or_with_the_probe_off_nobody_is_asked() {
    let mut scenario = scenario("");
    let probes = |scenario: &ScenarioSpec| {
        let plan = plan(scenario, &Addresses::of_scenario(scenario), Path::new("/x"));
        plan.jobs.iter().filter(|job| job.probe.is_some()).count()
    };
    assert_eq!(probes(&scenario), 2);
    scenario.probe.enabled = false;
    assert_eq!(probes(&scenario), 0);
    scenario.probe.enabled = true;
    scenario.clients.clear();
    assert_eq!(probes(&scenario), 0);
}

#[test]
fn long_names_are_shortened() {
    let mut scenario = scenario("");
    scenario.vms[0].name = "v".repeat(NAME_LEN_MAX).parse().unwrap();
    let plan = plan(&scenario, &Addresses::of_scenario(&scenario), Path::new("/x"));
    let application = plan.jobs[1].application.as_ref().unwrap();
    assert_eq!(application.name.as_str().len(), NAME_LEN_MAX);
    assert!(application.name.as_str().ends_with("v.memory-load"));
}
