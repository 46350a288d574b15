use super::*;
use crate::{
    GangFacts,
    adaptive::Reasoning,
    policy::{Made, find, tests as gang},
};
use droveway_fleet::{DirtyCurve, Ratio, TimeSpan};
use droveway_model::{calibration::Calibration, world::World};
use std::time::Duration;

type Vm = (f64, f64, f64, f64, f64);

/// Quiet: some 2.4 s at the rate of the tests' ports.
const QUIET: Vm = (120.0, 2.0, 0.5, 0.0, 0.0);
/// It rewrites all of its memory faster than any port.
const WRITER: Vm = (120.0, 110.0, 200.0, 0.0, 0.0);

fn planned(vms: &[Vm], change: impl FnOnce(&mut World, &mut Intent, &mut GangFacts)) -> Made {
    let (mut world, calibration) = (gang::world(vms), Calibration::default());
    let mut intent = gang::intent("adaptive");
    let mut facts = gang::facts(&vec![true; vms.len()]);
    change(&mut world, &mut intent, &mut facts);
    let known = Known { world: &world, calibration: &calibration };
    find("adaptive").unwrap().plan("p", &intent, &facts, Some(known)).unwrap()
}

fn reasoning(
    vms: &[Vm],
    change: impl FnOnce(&mut World, &mut Intent, &mut GangFacts),
) -> Reasoning {
    planned(vms, change).reasoning.unwrap()
}

fn asked(vms: &[Vm], change: impl FnOnce(&mut World, &mut Intent, &mut GangFacts)) -> Deadlines {
    reasoning(vms, change).deadlines.unwrap()
}

fn seconds(text: &str) -> Option<TimeSpan> {
    Some(text.parse().unwrap())
}

fn named(vm: usize) -> VmId {
    format!("vm{vm}").parse().unwrap()
}

#[track_caller]
fn offers(said: &Deadlines, text: &str) -> usize {
    let place = said.remedies.iter().position(|remedy| remedy.contains(text));
    place.unwrap_or_else(|| panic!("no '{text}' in {said:?}"))
}

#[test]
fn without_a_deadline_nothing_is_said() {
    assert_eq!(reasoning(&[QUIET; 2], |_, _, _| ()).deadlines, None);
}

#[test]
fn what_is_kept_surely_needs_nothing() {
    let said = asked(&[QUIET; 2], |_, intent, _| intent.deadline = seconds("60s"));
    assert_eq!(said.verdict, Verdict::Feasible);
    assert!(said.binding.is_empty() && said.remedies.is_empty() && said.fastest_seconds < 10.0);
}

#[test]
fn what_is_kept_only_by_luck_is_at_risk() {
    let free = reasoning(&[QUIET; 2], |_, _, _| ()).cost.parts.total_seconds;
    let said = asked(&[QUIET; 2], |_, intent, _| {
        intent.deadline = Some(Duration::from_secs_f64(1.02 * free).into());
    });
    assert_eq!(said.verdict, Verdict::AtRisk);
    assert_eq!(said.binding, [Limit::GangDeadline]);
    offers(&said, " s more");
}

/// The largest change is offered last, whatever its kind.
#[test]
fn what_takes_longer_than_there_is_time_is_impossible() {
    let said = asked(&[QUIET; 4], |_, intent, _| intent.deadline = seconds("3.5s"));
    assert_eq!(said.verdict, Verdict::Impossible);
    assert_eq!(said.binding, [Limit::GangDeadline]);
    let (more, fewer) = (offers(&said, " s more"), offers(&said, "leave vm"));
    // Three of four VMs stay, or it takes four times the time: the smaller is first.
    assert!(fewer < more, "{said:?}");
}

/// One VM that is due before its memory could be sent, and two that are due before those of both could.
#[test]
fn a_vm_s_own_deadline_is_proved_impossible() {
    let one = asked(&[QUIET; 3], |_, _, facts| {
        facts.vms[1].deadline = Some(Duration::from_millis(1_500));
    });
    assert_eq!((one.verdict, &one.binding[0]), (Verdict::Impossible, &Limit::VmDeadline(named(1))));
    let two = asked(&[QUIET; 3], |_, _, facts| {
        facts.vms[0].deadline = Some(Duration::from_millis(3_000));
        facts.vms[2].deadline = Some(Duration::from_millis(3_500));
    });
    assert_eq!((two.verdict, &two.binding[0]), (Verdict::Impossible, &Limit::VmDeadline(named(2))));
}

/// What is missing is missing to the VM that is late, not to the whole gang.
#[test]
fn a_late_vm_is_offered_its_own_seconds() {
    let said = asked(&[QUIET; 4], |_, _, facts| {
        facts.vms[3].deadline = Some(Duration::from_millis(2_000));
    });
    assert!(said.binding.contains(&Limit::VmDeadline(named(3))), "{said:?}");
    let remedy = &said.remedies[offers(&said, "s more for vm3")];
    let more: f64 = remedy.split(' ').next().unwrap().parse().unwrap();
    assert!((1.0..=3.0).contains(&more), "alone it takes some 2.5 s: {remedy}");
}

#[test]
fn post_copy_is_offered_to_whom_it_helps_also_against_the_operator_s_never() {
    let forbid = |facts: &mut GangFacts| {
        facts.vms[0].allow_postcopy = false;
        facts.vms[0].deadline = Some(Duration::from_secs(6));
    };
    let own = asked(&[WRITER, QUIET], |_, _, facts| forbid(facts));
    assert!(own.binding.contains(&Limit::Downtime(named(0))), "{own:?}");
    assert!(own.binding.contains(&Limit::PostCopy(named(0))), "{own:?}");
    assert_eq!(own.remedies[offers(&own, "allow post-copy for vm0")], "allow post-copy for vm0");
    let never = asked(&[WRITER, QUIET], |_, intent, facts| {
        intent.allow_postcopy = AllowPostcopy::Never;
        facts.vms[0].deadline = Some(Duration::from_secs(6));
    });
    offers(&never, "allow post-copy for vm0 (now --allow-postcopy never)");
}

#[test]
fn a_limit_of_exposure_that_binds_is_named() {
    // None converges, so each has to be exposed; together they hide each other's fixed times.
    let ask = |limit: fn(&mut Intent)| {
        let calibrated = Calibration {
            constants: droveway_model::fluid::Constants {
                setup_seconds: 2.0,
                ..Calibration::default().constants
            },
            ..Calibration::default()
        };
        let world = gang::world(&[WRITER; 3]);
        let mut intent = gang::intent("adaptive");
        intent.deadline = seconds("13s");
        limit(&mut intent);
        let known = Known { world: &world, calibration: &calibrated };
        let facts = gang::facts(&[true; 3]);
        let policy = find("adaptive").unwrap();
        let made = policy.plan("p", &intent, &facts, Some(known)).unwrap();
        made.reasoning.unwrap().deadlines.unwrap()
    };
    assert_eq!(ask(|_| ()).verdict, Verdict::Feasible);
    let exposed = ask(|intent| intent.max_exposed = Some(1));
    assert!(exposed.binding.contains(&Limit::Exposed), "{exposed:?}");
    offers(&exposed, "VMs be exposed at once instead of 1");
    let parallel = ask(|intent| intent.max_parallel = Some(1));
    assert!(parallel.binding.contains(&Limit::Parallel), "{parallel:?}");
    offers(&parallel, "VMs move at once instead of 1");
}

/// A floor that can be kept, but not in time, is what binds; one that never can be is no matter of deadlines.
#[test]
fn a_floor_binds_only_where_time_would_help() {
    let loaded: Vm = (120.0, 2.0, 0.5, 0.6, 0.0);
    let ask = |vm: Vm, floor: f64, deadline: &str| {
        reasoning(&[vm; 1], |_, intent, _| {
            intent.floor = Some(Ratio::new(floor).unwrap());
            intent.deadline = seconds(deadline);
            intent.bandwidth = droveway_fleet::RateLimit::Unlimited;
        })
    };
    // The stream takes half of a port of which six tenths are used, whatever the time.
    let unkeepable = ask(loaded, 0.99, "60s");
    let said = unkeepable.deadlines.unwrap();
    assert_eq!((said.verdict, said.binding), (Verdict::Feasible, Vec::new()));
    assert!(unkeepable.remarks.iter().any(|remark| remark.contains("below the floor")));
}

/// Where a little is held of the ports the applications keep nearly all, but then there is little left for the moves.
#[test]
fn a_lower_floor_is_offered_in_points() {
    let ask = |floor: f64, deadline: &str| {
        asked(&[(120.0, 2.0, 0.5, 0.7, 0.0)], |_, intent, facts| {
            (intent.shaping, intent.urgency) = (true, droveway_fleet::Urgency::High);
            intent.floor = Some(Ratio::new(floor).unwrap());
            intent.deadline = seconds(deadline);
            facts.vms[0].allow_postcopy = false;
        })
    };
    assert_eq!(ask(0.9, "60s").verdict, Verdict::Feasible, "there is time enough for it");
    let said = ask(0.9, "6s");
    assert_ne!(said.verdict, Verdict::Feasible);
    assert!(said.binding.contains(&Limit::Floor), "{said:?}");
    offers(&said, " % instead of 90 %");
    offers(&said, " s more");
    assert_eq!(ask(0.1, "6s").verdict, Verdict::Feasible);
}

#[test]
fn more_of_the_ports_is_measured_against_what_is_held() {
    let loaded: Vm = (200.0, 10.0, 1.0, 0.8, 0.8);
    let ask = |reserve: &str| {
        let reserve = reserve.parse().unwrap();
        asked(&[loaded; 2], |world, intent, _| {
            for flow in &mut world.gang.flows {
                (flow.demand, flow.weight) = (f64::INFINITY, 4.0);
            }
            (intent.shaping, intent.reserve) = (true, reserve);
            intent.deadline = seconds("16s");
        })
    };
    let held = ask("25%");
    assert!(held.binding.contains(&Limit::Reservation), "{held:?}");
    offers(&held, "% of both ports instead of 25 %");
    assert_eq!(ask("auto").verdict, Verdict::Feasible, "the planner takes it where it may");
}

#[test]
fn remedies_come_by_size() {
    // A second is missing.
    let said = asked(&[QUIET; 4], |_, intent, _| intent.deadline = seconds("11.5s"));
    assert_ne!(said.verdict, Verdict::Feasible);
    let (more, fewer) = (offers(&said, " s more"), offers(&said, "leave vm"));
    assert!(more < fewer, "a few per cent of the time against a quarter of the gang: {said:?}");
}

#[test]
fn a_curve_that_never_converges_is_told_from_a_deadline() {
    let said = asked(&[(80.0, 70.0, 200.0, 0.0, 0.0)], |world, intent, facts| {
        facts.vms[0].allow_postcopy = false;
        intent.deadline = seconds("600s");
        intent.allow_postcopy = AllowPostcopy::Never;
        world.gang.vms[0].curve =
            DirtyCurve::Bounded { dirty_bytes_per_second: 2e8, working_set_bytes: 4e7 };
    });
    assert_eq!(said.verdict, Verdict::Infeasible);
    assert_eq!(said.binding[0], Limit::Downtime(named(0)), "{said:?}");
    offers(&said, "ms instead of 300 ms for vm0");
}
