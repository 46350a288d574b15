use super::*;
use crate::{
    plan::Reservation,
    policy::{VmFacts, find},
};
use droveway_fleet::{Bytes, Intent};

/// So many VMs, the last of which forbids post-copy.
pub(crate) fn facts(count: usize) -> GangFacts {
    let vm = |index: usize| VmFacts {
        vm: format!("vm{index}").parse().unwrap(),
        memory: Bytes::from_mib(512),
        allow_postcopy: index + 1 < count,
        max_downtime: None,
        deadline: None,
        group: None,
    };
    GangFacts { port_rate: "1Gbit/s".parse().unwrap(), vms: (0..count).map(vm).collect() }
}

/// Everything serially.
pub(crate) fn sound(facts: &GangFacts) -> Plan {
    let (source, target) = ("alpha".parse().unwrap(), "beta".parse().unwrap());
    let intent = Intent::drain(source, target, Vec::new(), "pre-copy-serial");
    find("pre-copy-serial").unwrap().plan("p1", &intent, facts, None).unwrap().plan
}

fn vm(name: &str) -> VmId {
    name.parse().unwrap()
}

/// What a change of plan, of facts and of the time leads to.
#[track_caller]
fn found(change: impl FnOnce(&mut Plan, &mut GangFacts, &mut Now), expected: &[Violation]) {
    let mut facts = facts(3);
    let mut plan = sound(&facts);
    let mut now = Now::default();
    assert_eq!(check_at(&plan, &facts, &now), []);
    change(&mut plan, &mut facts, &mut now);
    assert_eq!(check_at(&plan, &facts, &now), expected);
    for violation in expected {
        assert!(!violation.field(&plan).is_empty() && !violation.to_string().is_empty());
    }
}

#[test]
fn what_the_plan_alone_shows() {
    found(|p, _, _| p.target = p.source.clone(), &[Violation::SameHost]);
    found(|p, _, _| p.moves.clear(), &[Violation::Empty]);
    found(|p, _, _| p.concurrency = 0, &[Violation::NoConcurrency]);
    let twice = [Violation::MovedTwice(vm("vm0"))];
    found(|p, _, _| p.moves.push(p.moves[0].clone()), &twice);
    let nobody = [Violation::WaitsForNobody(vm("vm0"))];
    found(|p, _, _| p.moves[0].start = StartRule::AfterEnd(vm("vm1")), &nobody);
    found(|p, _, _| p.moves[0].start = StartRule::AfterEnd(vm("vm0")), &nobody);
    let zero = |what| [Violation::ZeroBound(vm("vm0"), what)];
    found(|p, _, _| p.moves[0].max_passes = 0, &zero("the number of passes"));
    found(|p, _, _| p.moves[0].downtime_limit = Duration::ZERO, &zero("the downtime limit"));
    let bandwidth = zero("the switchover bandwidth");
    found(|p, _, _| p.moves[0].switchover_bandwidth = Bandwidth::ZERO, &bandwidth);
    found(|p, _, _| p.moves[0].switchover_limit = Duration::ZERO, &zero("the time for switchover"));
    let gamma: HostId = "gamma".parse().unwrap();
    let elsewhere = [Violation::ReservedElsewhere(gamma.clone())];
    found(|p, _, _| p.reservations.push(reserved(gamma, "1Mbit/s")), &elsewhere);
}

fn reserved(port: HostId, rate: &str) -> Reservation {
    Reservation { port, direction: Direction::Tx, rate: rate.parse().unwrap() }
}

#[test]
fn what_vms_and_ports_do_not_allow() {
    let forbidden = [Violation::PostcopyForbidden(vm("vm2"))];
    found(|p, _, _| p.moves[2].technique = Technique::Hybrid, &forbidden);
    found(|p, _, _| p.moves[2].fallback = Fallback::PostCopy, &forbidden);
    found(|_, f, _| f.vms[0].allow_postcopy = false, &[Violation::PostcopyForbidden(vm("vm0"))]);
    let limit = Some(Duration::from_millis(1));
    let above = [Violation::DowntimeAboveLimit(vm("vm0"))];
    found(|_, f, _| f.vms[0].max_downtime = limit, &above);
    // The port has become slower.
    let all = ["vm0", "vm1", "vm2"].map(|name| Violation::SwitchoverAbovePort(vm(name)));
    found(|_, f, _| f.port_rate = "500Mbit/s".parse().unwrap(), &all);
    let split = Violation::GroupSplit { group: "shop".to_owned(), stay: vec![vm("vm2")] };
    let grouped = |p: &mut Plan, f: &mut GangFacts| {
        f.vms[1].group = Some("shop".to_owned());
        f.vms[2].group = Some("shop".to_owned());
        p.moves.pop();
    };
    found(|p, f, _| grouped(p, f), &[split]);
    // All of a group stay, or all move.
    let left = |p: &mut Plan, f: &mut GangFacts| {
        grouped(p, f);
        p.moves.pop();
    };
    found(|p, f, _| left(p, f), &[]);
    found(|_, f, _| f.vms.iter_mut().for_each(|vm| vm.group = Some("shop".to_owned())), &[]);
}

#[test]
fn an_over_reserved_port_is_found_by_direction() {
    let alpha: HostId = "alpha".parse().unwrap();
    let over = Violation::OverReservedPort {
        port: alpha.clone(),
        direction: Direction::Tx,
        reserved: "1200Mbit/s".parse().unwrap(),
        capacity: "1Gbit/s".parse().unwrap(),
    };
    let two = [reserved(alpha.clone(), "600Mbit/s"), reserved(alpha, "600Mbit/s")];
    found(|p, _, _| p.reservations = two.to_vec(), &[over]);
    let mut apart = two;
    apart[1].direction = Direction::Rx;
    found(|p, _, _| p.reservations = apart.to_vec(), &[]);
}

#[test]
fn a_deadline_that_is_over_before_the_start_is_found() {
    let late = [Violation::DeadlineBeforeStart(vm("vm1"))];
    found(|_, f, _| f.vms[1].deadline = Some(Duration::ZERO), &late);
    found(|_, f, _| f.vms[1].deadline = Some(Duration::from_secs(1)), &[]);
    let all = ["vm0", "vm1", "vm2"].map(|name| Violation::DeadlineBeforeStart(vm(name)));
    found(|p, _, _| p.deadline = Some(TimeSpan::from_millis(0)), &all);
}

#[test]
fn post_copies_that_start_at_once_are_counted() {
    let split = |p: &mut Plan, window: u32, limit: u32| {
        p.concurrency = window;
        p.max_exposed = Some(limit);
        p.moves.truncate(2);
        p.moves.iter_mut().for_each(|step| step.technique = Technique::PostCopy);
    };
    let above = [Violation::ExposureAboveLimit { at_once: 2, limit: 1 }];
    found(|p, _, _| split(p, 2, 1), &above);
    found(|p, _, _| split(p, 2, 2), &[]);
    // One after the other.
    found(|p, _, _| split(p, 1, 1), &[]);
    // A hybrid may have arrived before it switches.
    let hybrid = |p: &mut Plan| {
        split(p, 2, 1);
        p.moves[1].technique = Technique::Hybrid;
    };
    found(|p, _, _| hybrid(p), &[]);
    // Both wait for the same one.
    let waiting = |p: &mut Plan, f: &mut GangFacts| {
        f.vms[2].allow_postcopy = true;
        p.max_exposed = Some(1);
        for step in &mut p.moves[1..] {
            step.technique = Technique::PostCopy;
            step.start = StartRule::AfterEnd(vm("vm0"));
        }
    };
    found(|p, f, _| waiting(p, f), &above);
}

#[test]
fn a_plan_that_was_overtaken_is_found() {
    let seen = |generation| Violation::StaleGeneration { generation, seen: 2 };
    found(|_, _, now| now.generation = Some(2), &[seen(0)]);
    let newest = |p: &mut Plan, now: &mut Now| {
        p.generation = 2;
        now.generation = Some(2);
    };
    found(|p, _, now| newest(p, now), &[]);
    let (age, max) = (TimeSpan::from_secs(601), SNAPSHOT_MAX_AGE);
    let stale = [Violation::StaleSnapshot { age, max }];
    found(|_, _, now| now.snapshot_age = Some(age.duration()), &stale);
    found(|_, _, now| now.snapshot_age = Some(max.duration()), &[]);
    let aged = |p: &mut Plan, now: &mut Now| {
        p.snapshot_max_age = Some(TimeSpan::from_secs(5));
        now.snapshot_age = Some(Duration::from_secs(6));
    };
    let own = Violation::StaleSnapshot { age: TimeSpan::from_secs(6), max: TimeSpan::from_secs(5) };
    found(|p, _, now| aged(p, now), &[own]);
    // Whoever executes it may bear more.
    let patient = |p: &mut Plan, now: &mut Now| {
        aged(p, now);
        now.snapshot_max_age = Some(TimeSpan::from_secs(7));
    };
    found(|p, _, now| patient(p, now), &[]);
}

#[test]
fn a_world_that_has_moved_on_is_found() {
    let gone = |f: &mut GangFacts, now: &mut Now, host: Option<&str>| {
        f.vms.remove(1);
        now.elsewhere.extend(host.map(|host| (vm("vm1"), host.parse().unwrap())));
    };
    found(|_, f, now| gone(f, now, None), &[Violation::UnknownVm(vm("vm1"))]);
    let there = [Violation::AlreadyThere(vm("vm1"))];
    found(|_, f, now| gone(f, now, Some("beta")), &there);
    let elsewhere = [Violation::Elsewhere(vm("vm1"), "gamma".parse().unwrap())];
    found(|_, f, now| gone(f, now, Some("gamma")), &elsewhere);
    let paused = |when| [Violation::PausedDifferently(vm("vm1"), when)];
    found(|_, _, now| now.paused.extend([vm("vm1")]), &paused(Paused::Now));
    found(|p, _, _| p.paused.push(vm("vm1")), &paused(Paused::Then));
    let both = |p: &mut Plan, now: &mut Now| {
        p.paused.push(vm("vm1"));
        now.paused.insert(vm("vm1"));
    };
    found(|p, _, now| both(p, now), &[]);
}
