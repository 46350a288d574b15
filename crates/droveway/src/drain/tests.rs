use super::*;
use droveway_fleet::{document, fleet::FleetSpec, scenario::ScenarioSpec};

fn fleet() -> Fleet {
    let vm = |name: &str, group: &str| {
        let socket = "{ qmp: \"unix:/run/x\" }";
        format!(
            "    - {{ name: {name}, memory: 512MiB, vcpus: 1, allowPostcopy: true{group}, instances: \
             {{ alpha: {socket}, beta: {socket} }} }}\n"
        )
    };
    let vms = [
        vm("web", ", group: shop"),
        vm("db", ", group: shop"),
        vm("mail", ", group: post"),
        vm("lone", ""),
    ];
    let host = |name: &str| {
        format!(
            "    - {{ name: {name}, port: {{ interface: nic, rate: 1Gbit/s }}, migrationAddress: \
             127.0.0.1 }}\n"
        )
    };
    let text = format!(
        "apiVersion: droveway/v1\nkind: Fleet\nmetadata: {{ name: f }}\nspec:\n  hosts:\n{}{}  vms:\n{}",
        host("alpha"),
        host("beta"),
        vms.concat()
    );
    document::parse::<FleetSpec>(&text, "fleet").unwrap()
}

fn id(name: &str) -> VmId {
    name.parse().unwrap()
}

#[test]
fn whoever_names_a_part_of_a_group_is_told_of_the_rest() {
    let fleet = fleet();
    let of = |names: &[&str]| -> Vec<&str> {
        let named: Vec<VmId> = names.iter().map(|name| id(name)).collect();
        of_their_groups(&fleet, &named).iter().map(|vm| vm.name.as_str()).collect()
    };
    assert_eq!(of(&["web"]), ["db"]);
    assert_eq!(of(&["web", "mail"]), ["db"]);
    assert!(of(&["web", "db"]).is_empty() && of(&["lone"]).is_empty());

    let fact = |name: &str| vm_facts(fleet.spec.vm(name).unwrap());
    let facts =
        GangFacts { port_rate: "1Gbit/s".parse().unwrap(), vms: vec![fact("web"), fact("lone")] };
    let (source, target) = ("alpha".parse().unwrap(), "beta".parse().unwrap());
    let intent = Intent::drain(source, target, Vec::new(), "pre-copy-serial");
    let policy = policy::find("pre-copy-serial").unwrap();
    let plan = policy.plan("p", &intent, &facts, None).unwrap().plan;
    let told = warnings(&plan, &facts, &[fact("db")]);
    assert_eq!(
        told,
        ["group 'shop' would be split: db stays behind; move its other VMs too: `droveway \
          migrate web lone db --to beta`"]
    );
    // It stays at another host, or moves too.
    assert!(warnings(&plan, &facts, &[]).is_empty());
    assert!(warnings(&plan, &facts, &[fact("web")]).is_empty());
}

/// 512 MiB take 46 s of 100 Mbit/s, and 77 min of 1 Mbit/s.
#[test]
fn whose_memory_would_be_split_for_long_is_told_of() {
    let fact = vm_facts(fleet().spec.vm("web").unwrap());
    let told = |rate: &str, policy: &str| {
        let facts = GangFacts { port_rate: rate.parse().unwrap(), vms: vec![fact.clone()] };
        let (source, target) = ("alpha".parse().unwrap(), "beta".parse().unwrap());
        let intent = Intent::drain(source, target, vec![id("web")], policy);
        let made = policy::find(policy).unwrap().plan("p", &intent, &facts, None).unwrap();
        long_exposures(&made.plan, &facts, None)
    };
    assert_eq!(told("100Mbit/s", "post-copy-serial"), [""; 0]);
    assert_eq!(told("1Mbit/s", "pre-copy-serial"), [""; 0]);
    assert_eq!(
        told("1Mbit/s", "post-copy-serial"),
        [
            "web: its memory would be split between two hosts for 77 min, longer than 15 min: nothing holds a VM back that \
          begins with post-copy; hybrid splits less"
        ]
    );
}

/// What is forecast counts, if anything is.
#[test]
fn a_long_exposure_that_is_forecast_is_told_of() {
    let fact = vm_facts(fleet().spec.vm("web").unwrap());
    let told = |rate: &str| {
        let text = format!(
            "apiVersion: droveway/v1\nkind: Scenario\nmetadata: {{ name: s }}\nspec:\n  link: {{ rate: {rate} }}\n  \
             hosts: [ {{ name: alpha }}, {{ name: beta }} ]\n  vms:\n    - {{ name: web, host: alpha, memory: 512MiB }}\n"
        );
        let scenario = document::parse::<ScenarioSpec>(&text, "s").unwrap();
        let physics = droveway_sim::Physics::default();
        let snapshot = droveway_sim::snapshot(&scenario, &physics);
        let world = droveway_model::world::World::of(&snapshot, physics.constants);
        let facts = GangFacts { port_rate: rate.parse().unwrap(), vms: vec![fact.clone()] };
        let (source, target) = ("alpha".parse().unwrap(), "beta".parse().unwrap());
        let intent = Intent::drain(source, target, vec![id("web")], "post-copy-serial");
        let policy = policy::find("post-copy-serial").unwrap();
        let plan = policy.plan("p", &intent, &facts, None).unwrap().plan;
        let (moves, windows) = droveway_plan::play::moves(&plan, &world).unwrap();
        let mut fluid = droveway_model::fluid::Fluid::default();
        let calibration = droveway_model::calibration::Calibration::default();
        let forecast =
            droveway_model::forecast::forecast(&world, &moves, &windows, &calibration, &mut fluid);
        long_exposures(&plan, &facts, Some(&forecast)).len()
    };
    assert_eq!(told("100Mbit/s"), 0);
    // What it really has in its memory is less than all of it.
    assert_eq!(told("1Mbit/s"), 1);
}

#[test]
fn what_no_schedule_keeps_is_exit_3_with_the_reason() {
    let text = "apiVersion: droveway/v1\nkind: Scenario\nmetadata: { name: s }\nspec:\n  link: { rate: 1Gbit/s }\n  \
                hosts: [ { name: alpha }, { name: beta } ]\n  vms:\n    - { name: web, host: alpha, memory: 512MiB }\n";
    let scenario = document::parse::<ScenarioSpec>(text, "s").unwrap();
    let physics = droveway_sim::Physics::default();
    let snapshot = droveway_sim::snapshot(&scenario, &physics);
    let world = droveway_model::world::World::of(&snapshot, physics.constants);
    let calibration = droveway_model::calibration::Calibration {
        constants: physics.constants,
        ..droveway_model::calibration::Calibration::default()
    };
    let known = Some(droveway_plan::Known { world: &world, calibration: &calibration });
    let (source, target) = ("alpha".parse().unwrap(), "beta".parse().unwrap());
    let mut intent = Intent::drain(source, target, vec![id("web")], "adaptive");
    let fleet = fleet();
    let facts = GangFacts {
        port_rate: "1Gbit/s".parse().unwrap(),
        vms: vec![vm_facts(fleet.spec.vm("web").unwrap())],
    };
    let mut refused = |deadline: Option<&str>| {
        intent.deadline = deadline.map(|text| text.parse().unwrap());
        let made = policy::find("adaptive").unwrap().plan("p", &intent, &facts, known).unwrap();
        infeasible(made.reasoning.as_ref(), "nothing was started")
    };
    assert!(refused(None).is_none() && refused(Some("900s")).is_none());
    let failure = refused(Some("300ms")).expect("nothing moves half a GiB so quickly");
    assert_eq!(failure.exit, Exit::Infeasible);
    let text = failure.error.to_string();
    assert!(text.contains("what would help: "), "{text}");
    assert!(infeasible(None, "").is_none(), "a plan from a file");
}
