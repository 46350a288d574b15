use super::*;
use crate::{
    Violation,
    adaptive::{Alternative, Known},
    check::check,
    habits::{Ladder, LastResort, Ovirt},
};
use droveway_model::{calibration::Calibration, world::World};
use proptest::prelude::*;

pub(crate) fn intent(policy: &str) -> Intent {
    Intent::drain("alpha".parse().unwrap(), "beta".parse().unwrap(), Vec::new(), policy)
}

pub(crate) fn facts(permissions: &[bool]) -> GangFacts {
    let vm = |(index, allow): (usize, &bool)| VmFacts {
        vm: format!("vm{index}").parse().unwrap(),
        memory: Bytes::from_mib(512),
        allow_postcopy: *allow,
        max_downtime: None,
        deadline: None,
        group: None,
    };
    GangFacts {
        port_rate: "1Gbit/s".parse().unwrap(),
        vms: permissions.iter().enumerate().map(vm).collect(),
    }
}

#[track_caller]
fn plan(intent: &Intent, facts: &GangFacts) -> (Plan, Vec<Note>) {
    let made = find(&intent.policy).unwrap().plan("p1", intent, facts, None).unwrap();
    (made.plan, made.notes)
}

#[test]
fn names_say_what_they_do() {
    for policy in POLICIES.iter().filter(|policy| policy.source == "plain") {
        let (made, notes) = plan(&intent(policy.name), &facts(&[true; 3]));
        let parallel = policy.name.ends_with("-parallel");
        assert_eq!(made.concurrency, if parallel { 3 } else { 1 }, "{}", policy.name);
        for step in &made.moves {
            assert!(policy.name.starts_with(step.technique.name()), "{}", policy.name);
        }
        assert!(notes.is_empty());
    }
    let error = find("pre-copy-paralel").unwrap_err().to_string();
    assert!(error.contains("did you mean 'pre-copy-parallel'?"), "{error}");
}

#[test]
fn products_move_as_many_at_once_as_they_do_and_obey_permissions() {
    for (name, at_once) in [
        ("nova-like", 1),
        ("kubevirt-like", 2),
        ("kubevirt-stall", 2),
        ("kubevirt-ramp", 2),
        ("ovirt-ladder", 2),
        ("proxmox-like", 1),
        ("vsphere-like", 3),
    ] {
        let gang = facts(&[true, false, true, true]);
        let (made, _) = plan(&intent(name), &gang);
        assert_eq!(made.concurrency, at_once, "{name}");
        assert_eq!(check(&made, &gang), [], "{name}");
        assert!(made.moves.iter().all(|step| step.technique == Technique::PreCopy), "{name}");
        let ladders = made.moves.iter().map(|step| step.ladder.as_ref().map(Ladder::may_postcopy));
        let ladders: Vec<_> = ladders.collect();
        match name {
            "vsphere-like" => assert_eq!(ladders, [None; 4]),
            // Whoever wants post-copy asks for it.
            _ => assert_eq!(ladders, [Some(false); 4], "{name}"),
        }
    }
    for name in [
        "nova-like:then=post-copy",
        "kubevirt-like:then=post-copy",
        "kubevirt-stall:then=post-copy",
        "kubevirt-ramp:then=post-copy",
        "ovirt-ladder:policy=post-copy",
    ] {
        let gang = facts(&[true, false]);
        let (made, _) = plan(&intent(name), &gang);
        let ladders = made.moves.iter().map(|step| step.ladder.as_ref().map(Ladder::may_postcopy));
        assert_eq!(ladders.collect::<Vec<_>>(), [Some(true), Some(false)], "{name}");
        assert_eq!(check(&made, &gang), [], "{name}");
    }
    let (ovirt, _) = plan(&intent("ovirt-ladder"), &facts(&[true, true]));
    assert_eq!(ovirt.moves[0].bandwidth, limit(62.0 * 1_048_576.0));
    assert!(ovirt.moves[0].throttle);
}

/// Variants of products differ in what their parameters say.
#[test]
fn products_have_variants() {
    let of = |name: &str| plan(&intent(name), &facts(&[true; 6])).0;
    for (name, at_once) in [
        ("proxmox-like:ha=4", 4),
        ("kubevirt-like:defaults=new", 1),
        ("ovirt-ladder:policy=suspend", 1),
        ("ovirt-ladder:policy=very-large", 1),
        ("ovirt-ladder:policy=post-copy", 2),
    ] {
        assert_eq!(of(name).concurrency, at_once, "{name}");
    }
    let ladder = |name: &str| of(name).moves[0].ladder.clone().unwrap();
    assert_eq!(ladder("ovirt-ladder"), Ladder::Ovirt(Ovirt::minimal_downtime()));
    assert_eq!(ladder("ovirt-ladder:policy=suspend"), Ladder::Ovirt(Ovirt::suspend()));
    let Ladder::KubevirtLike(newer) = ladder("kubevirt-like:defaults=new,then=pause") else {
        panic!("another rule")
    };
    assert_eq!((newer.completion_per_gib_s, newer.then), (20, LastResort::ForceStop));
    let forbids = plan(&intent("nova-like:then=post-copy"), &facts(&[false])).0;
    let Some(Ladder::Nova(nova)) = &forbids.moves[0].ladder else { panic!("another rule") };
    assert_eq!(nova.then, LastResort::ForceStop, "Nova pauses a VM that it may not post-copy");
}

/// Nobody exposes more than is allowed at the start already.
#[test]
fn who_post_copies_all_at_once_does_it_within_the_limit() {
    for (most, at_once) in [(1, 1), (2, 2), (9, 4)] {
        let mut asked = intent("post-copy-parallel");
        asked.max_exposed = Some(most);
        let (made, _) = plan(&asked, &facts(&[true; 4]));
        assert_eq!(made.concurrency, at_once);
        assert_eq!(check(&made, &facts(&[true; 4])), []);
    }
    let mut asked = intent("hybrid-parallel");
    asked.max_exposed = Some(1);
    let (made, _) = plan(&asked, &facts(&[true; 4]));
    assert_eq!(made.concurrency, 4, "when they switch is the driver's to see to");
    assert_eq!(check(&made, &facts(&[true; 4])), []);
}

#[test]
fn stages_are_those_that_a_policy_fills() {
    for policy in POLICIES {
        let has = |stage: &str| policy.stages.split(", ").any(|own| own == stage);
        let capped = match policy.kind {
            Kind::Habit(habit) => {
                matches!(habit, Habit::Ovirt | Habit::Vsphere)
            }
            Kind::Published(rule) => {
                use crate::rules::Rule::{
                    ClarkRate, Fpta, Pacer, Pava, RoundRobin, Solive, SyncFinish, TimeWindowBroker,
                };
                matches!(
                    rule,
                    ClarkRate
                        | Fpta
                        | Pacer
                        | Pava
                        | RoundRobin
                        | Solive
                        | SyncFinish
                        | TimeWindowBroker
                )
            }
            Kind::Adaptive => true,
            Kind::Plain(..) => false,
        };
        assert_eq!(has("bandwidth"), capped, "{}", policy.name);
    }
    for stage in ["start", "transport"] {
        assert!(find("adaptive").unwrap().stages.contains(stage));
    }
}

#[test]
fn bandwidth_is_promised_where_the_paper_reserves_it() {
    let promised = |policy: &str, urgency, shaping| {
        let (world, calibration) = (world(&[SENDER, RECEIVER]), Calibration::default());
        let known = Known { world: &world, calibration: &calibration };
        let mut asked = intent(policy);
        (asked.urgency, asked.shaping) = (urgency, shaping);
        let plan = find(policy).unwrap().plan("p", &asked, &facts(&[true; 2]), Some(known));
        let plan = plan.unwrap().plan;
        let rate = |held: &crate::plan::Reservation| held.rate.bits_per_second() / 10_000_000;
        plan.reservations.iter().map(rate).collect::<Vec<_>>()
    };
    use droveway_fleet::Urgency::{Critical, High, Low, Medium};
    for (urgency, percent) in [(Critical, 95), (High, 95), (Medium, 75), (Low, 55)] {
        assert_eq!(promised("solive", urgency, true), [percent; 2], "{urgency}");
    }
    assert!(promised("solive", High, false).is_empty(), "the ports cannot be made to keep it");
    // Half of the port is used: others keep their floor of 5 %, or all of it.
    assert_eq!(promised("pava", High, true), [95; 2]);
    assert_eq!(promised("pava", Low, true), [50; 2]);
    // But not where that half is critical.
    assert_eq!(promised("pava:critical=vm0", High, true), [50; 2]);
}

#[test]
fn who_is_named_comes_first() {
    let order = |policy: &str| {
        let made = made(policy, &[WRITER, SENDER, RECEIVER]);
        let names = made.plan.moves.iter().map(|step| step.vm.to_string());
        names.collect::<Vec<_>>()
    };
    let first = |policy: &str| order(policy)[0].clone();
    assert_eq!(first("time-window-broker:deadline=9s,priority=vm2:5+vm0"), "vm2");
    assert_eq!(first("time-window-broker:deadline=9s,priority=vm2:5,penalty=vm1:3"), "vm1");
    let (world, calibration) = (world(&[SENDER]), Calibration::default());
    let known = Known { world: &world, calibration: &calibration };
    let asked = find("time-window-broker:priority=ghost").unwrap();
    let error = asked.plan("p", &intent("x"), &facts(&[true]), Some(known)).unwrap_err();
    assert!(error.to_string().contains("priority names VM 'ghost'"), "{error}");
}

#[test]
fn a_grant_is_a_ceiling() {
    let rates = |policy: &str| {
        let made = made(policy, &[WRITER, SENDER]);
        let rate = |step: &Move| step.bandwidth.bandwidth().map(|it| it.bytes_per_second() >> 20);
        (made.plan.concurrency, made.plan.moves.iter().map(rate).collect::<Vec<_>>())
    };
    // A port of 50 MiB/s, given to one at a time, or six tenths to the one that writes least.
    assert_eq!(rates("fpta"), (1, vec![Some(50), Some(50)]));
    assert_eq!(rates("fpta:cap=60%"), (1, vec![Some(30), None]));
}

#[test]
fn pava_gives_urgent_moves_the_port_and_others_the_rest() {
    let gang = facts(&[true; 2]);
    let names: Vec<VmId> = gang.vms.iter().map(|vm| vm.vm.clone()).collect();
    let payload = 117e6;
    let flow = droveway_model::fluid::FlowModel {
        from: droveway_model::fluid::End::Vm(0),
        to: droveway_model::fluid::End::Outside,
        demand: 0.5 * payload,
        weight: 1.0,
    };
    let vm = || droveway_model::fluid::VmModel {
        host: 0,
        send_bytes: 120e6,
        zero_bytes: 0.0,
        tail: droveway_model::fluid::Tail::default(),
        curve: droveway_fleet::DirtyCurve::idle(),
        state_bytes: 0.0,
    };
    let model = droveway_model::fluid::Gang {
        ports: vec![droveway_model::fluid::PortModel::shared(payload); 2],
        vms: vec![vm(), vm()],
        flows: vec![flow],
        ..droveway_model::fluid::Gang::default()
    };
    let hosts = vec!["alpha".parse().unwrap(), "beta".parse().unwrap()];
    let world = World::named(model, hosts, names);
    let calibration = Calibration::default();
    let ceiling = |urgency| {
        let mut asked = intent("pava");
        asked.urgency = urgency;
        let known = Known { world: &world, calibration: &calibration };
        let made = find("pava").unwrap().plan("p", &asked, &gang, Some(known)).unwrap();
        assert_eq!(made.plan.concurrency, 1);
        made.plan.moves[1].bandwidth.bandwidth().unwrap().bytes_per_second() as f64 / payload
    };
    // Applications keep their floor of 5 %, or everything.
    assert!((ceiling(droveway_fleet::Urgency::High) - 0.95).abs() < 0.01);
    assert!((ceiling(droveway_fleet::Urgency::Low) - 0.5).abs() < 0.01);
}

#[test]
fn a_vm_that_forbids_post_copy_gets_pre_copy_and_says_so() {
    let (made, notes) = plan(&intent("post-copy-parallel"), &facts(&[true, false]));
    assert_eq!(made.moves[0].technique, Technique::PostCopy);
    assert_eq!(made.moves[1].technique, Technique::PreCopy);
    assert_eq!(made.moves[1].fallback, Fallback::Abort);
    assert_eq!(notes.len(), 1);
    assert!(notes[0].reason.contains("forbids post-copy"));

    let mut never = intent("hybrid-serial");
    never.allow_postcopy = AllowPostcopy::Never;
    let (made, notes) = plan(&never, &facts(&[true]));
    assert_eq!(made.moves[0].technique, Technique::PreCopy);
    assert_eq!(made.moves[0].fallback, Fallback::Abort);
    assert!(notes[0].reason.contains("--allow-postcopy never"));
}

#[test]
fn the_operator_s_technique_wins_unless_forbidden() {
    let mut asked = intent("pre-copy-parallel");
    asked.techniques.insert("vm0".parse().unwrap(), Technique::PostCopy);
    let (made, _) = plan(&asked, &facts(&[true, true]));
    assert_eq!(made.moves[0].technique, Technique::PostCopy);
    assert_eq!(made.moves[1].technique, Technique::PreCopy);

    let error =
        find("pre-copy-parallel").unwrap().plan("p", &asked, &facts(&[false]), None).unwrap_err();
    assert!(error.to_string().contains("--technique vm0=post-copy"), "{error}");
}

#[test]
fn the_tighter_downtime_limit_counts_and_the_port_is_shared() {
    let mut gang = facts(&[true, true]);
    gang.vms[0].max_downtime = Some(Duration::from_millis(100));
    let (made, _) = plan(&intent("pre-copy-parallel"), &gang);
    assert_eq!(made.moves[0].downtime_limit, Duration::from_millis(100));
    assert_eq!(made.moves[1].downtime_limit, DOWNTIME_DEFAULT);
    // Half of 1 Gbit/s, less headers.
    let rate = made.moves[0].switchover_bandwidth.bits_per_second();
    assert!((470_000_000..471_000_000).contains(&rate), "{rate}");
}

#[test]
fn the_check_finds_each_violation() {
    let gang = facts(&[true, false]);
    let (sound, _) = plan(&intent("pre-copy-serial"), &gang);
    assert_eq!(check(&sound, &gang), []);
    let broken = |change: fn(&mut Plan)| {
        let mut plan = sound.clone();
        change(&mut plan);
        check(&plan, &gang)
    };
    let vm = |name: &str| name.parse::<VmId>().unwrap();
    assert_eq!(broken(|p| p.target = p.source.clone()), [Violation::SameHost]);
    assert_eq!(broken(|p| p.moves.clear()), [Violation::Empty]);
    assert_eq!(broken(|p| p.concurrency = 0), [Violation::NoConcurrency]);
    assert_eq!(
        broken(|p| p.moves[0].vm = "ghost".parse().unwrap()),
        [Violation::UnknownVm(vm("ghost"))]
    );
    assert_eq!(broken(|p| p.moves.push(p.moves[0].clone())), [Violation::MovedTwice(vm("vm0"))]);
    let forbidden = [Violation::PostcopyForbidden(vm("vm1"))];
    assert_eq!(broken(|p| p.moves[1].technique = Technique::Hybrid), forbidden);
    assert_eq!(broken(|p| p.moves[1].fallback = Fallback::PostCopy), forbidden);
    assert_eq!(
        broken(|p| p.moves[0].max_passes = 0),
        [Violation::ZeroBound(vm("vm0"), "the number of passes")]
    );
    let mut strict = gang.clone();
    strict.vms[0].max_downtime = Some(Duration::from_millis(1));
    assert_eq!(check(&sound, &strict), [Violation::DowntimeAboveLimit(vm("vm0"))]);
}

/// A world of VMs at `alpha`: of each its MiB, working set, dirty rate, and traffic out and in as shares of the port.
pub(crate) fn world(vms: &[(f64, f64, f64, f64, f64)]) -> World {
    let gang = crate::search::tests::task(vms).gang;
    let hosts = ["alpha", "beta"].map(|name| name.parse().unwrap()).to_vec();
    let names = (0..vms.len()).map(|index| format!("vm{index}").parse().unwrap()).collect();
    World::named(gang, hosts, names)
}

fn made(policy: &str, vms: &[(f64, f64, f64, f64, f64)]) -> Made {
    let (world, calibration) = (world(vms), Calibration::default());
    let known = Known { world: &world, calibration: &calibration };
    let facts = facts(&vec![true; vms.len()]);
    find(policy).unwrap().plan("p", &intent(policy), &facts, Some(known)).unwrap()
}

fn techniques(made: &Made) -> Vec<(&str, Technique)> {
    made.plan.moves.iter().map(|step| (step.vm.as_str(), step.technique)).collect()
}

pub(crate) const SENDER: (f64, f64, f64, f64, f64) = (120.0, 2.0, 0.5, 0.5, 0.0);
pub(crate) const RECEIVER: (f64, f64, f64, f64, f64) = (120.0, 2.0, 0.5, 0.0, 0.5);
pub(crate) const WRITER: (f64, f64, f64, f64, f64) = (200.0, 80.0, 30.0, 0.0, 0.0);

#[test]
fn who_decides_from_measurements_says_that_there_are_none() {
    let error = find("slamig").unwrap().plan("p", &intent("slamig"), &facts(&[true]), None);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("'slamig' decides from measurements"), "{error}");
    assert!(error.contains("--measure"), "{error}");
}

#[test]
fn published_policies_do_what_they_are_known_for() {
    use Technique::{Hybrid, PostCopy, PreCopy};
    let gang = [RECEIVER, SENDER];
    for policy in ["direction-greedy", "direction-joint"] {
        let made = made(policy, &gang);
        assert_eq!(techniques(&made), [("vm0", PreCopy), ("vm1", PostCopy)], "{policy}");
        assert_eq!(made.plan.concurrency, 2);
    }
    let hybrid = made("dynamic-hybrid", &[WRITER]);
    assert_eq!(techniques(&hybrid), [("vm0", Hybrid)]);
    assert_eq!(hybrid.plan.moves[0].switch.after_pass, MAX_PASSES_DEFAULT);
    // It writes as fast as the port carries: the first pass has stalled, and the forecast knows it.
    let writer = world(&[WRITER]);
    let (moves, windows) = crate::play::moves(&hybrid.plan, &writer).unwrap();
    let gang = droveway_model::fluid::Gang { moves, windows, ..writer.gang.clone() };
    let course = droveway_model::fluid::Fluid::default().play(&gang);
    assert!(course.moves[0].exposure_seconds > 0.0 || course.moves[0].converged, "{course:?}");
    assert_eq!(made("ws-hybrid", &[WRITER]).plan.moves[0].switch.after_pass, 1);
    // Who writes much goes last.
    for policy in ["solive", "fpta"] {
        let made = made(policy, &[WRITER, SENDER]);
        assert_eq!(techniques(&made)[1].0, "vm0", "{policy}");
    }
    let improved = made("improved-serial", &[WRITER, SENDER, RECEIVER]);
    assert_eq!(techniques(&improved)[0].1, PreCopy);
    assert_eq!(improved.plan.moves[0].start, StartRule::InWindow);
    assert!(improved.plan.moves[1..].iter().all(|step| {
        step.technique == PostCopy && matches!(step.start, StartRule::AfterEnd(_))
    }));
    let together = made("sync-finish", &[SENDER, RECEIVER]);
    assert!(together.plan.moves.iter().all(|step| step.bandwidth.bandwidth().is_some()));
}

#[test]
fn parameters_do_what_they_say() {
    use Technique::PostCopy;
    let three = [WRITER, SENDER, RECEIVER];
    for (policy, window) in [("m-mixed:m=1", 1), ("m-mixed:m=2", 2)] {
        let made = made(policy, &three);
        assert_eq!(made.plan.policy, policy, "the plan keeps the text");
        assert_eq!(made.plan.concurrency, window);
        let post = made.plan.moves.iter().filter(|step| step.technique == PostCopy).count();
        assert_eq!(post, 3 - window as usize);
    }
    let switch = |policy: &str| made(policy, &[WRITER]).plan.moves[0].switch;
    assert!((switch("dynamic-hybrid:ratio=0.9").stalled_ratio - 0.9).abs() < 1e-9);
    assert_eq!(switch("ws-hybrid:passes=3").after_pass, 3);
    // Without a deadline nothing is paced.
    let paced = |policy: &str| made(policy, &[SENDER]).plan.moves[0].bandwidth.bandwidth();
    assert_eq!(paced("pacer"), None);
    let slow = paced("pacer:deadline=60s").unwrap();
    assert!(paced("pacer:deadline=60s,headroom=1").unwrap() > slow);
    // Who weighs only the impact on others may choose another order, and whoever asks twice gets the same.
    assert_eq!(made("slamig:time=0,impact=1", &three), made("slamig:time=0,impact=1", &three));
    assert_eq!(made("adaptive:plays=100,seed=7", &three).plan.policy, "adaptive:plays=100,seed=7");
}

#[test]
fn a_window_that_was_not_measured_is_refused() {
    let (mut world, calibration) = (world(&[SENDER]), Calibration::default());
    let asked = intent("direction-greedy:window=30s");
    let plan = |world: &World| {
        let known = Known { world, calibration: &calibration };
        find(&asked.policy).unwrap().plan("p", &asked, &facts(&[true]), Some(known))
    };
    assert!(plan(&world).is_ok(), "what is known exactly holds for any window");
    world.window_seconds = Some(31.0);
    assert!(plan(&world).is_ok());
    world.window_seconds = Some(5.0);
    let error = plan(&world).unwrap_err().to_string();
    assert!(error.contains("window=30s") && error.contains("over 5 s"), "{error}");
}

#[test]
fn adaptive_gives_its_reasons() {
    let made = made("adaptive", &[RECEIVER, SENDER, WRITER]);
    let reasoning = made.reasoning.unwrap();
    assert_eq!(reasoning.why.len(), 3);
    for (why, step) in reasoning.why.iter().zip(&made.plan.moves) {
        assert_eq!((&why.vm, why.technique), (&step.vm, step.technique));
        assert!(why.runner_up.is_some() && why.reason.contains("instead"), "{}", why.reason);
    }
    assert!(reasoning.bound <= reasoning.cost.value);
    assert!(!reasoning.frontier.is_empty() && !reasoning.alternatives.is_empty());
    for pair in reasoning.frontier.windows(2) {
        let seconds = |of: &Alternative| of.cost.parts.total_seconds;
        assert!(seconds(&pair[0]) <= seconds(&pair[1]));
    }
    // Never worse than the best plain one by more than the model's error.
    let best = reasoning.alternatives.iter().map(|of| of.cost.value).fold(f64::INFINITY, f64::min);
    assert!(reasoning.cost.value <= best + 1e-9);
}

#[test]
fn adaptive_keeps_what_was_asked_for() {
    let gang = [SENDER, WRITER];
    let (world, calibration) = (world(&gang), Calibration::default());
    let known = Known { world: &world, calibration: &calibration };
    let mut asked = intent("adaptive");
    asked.max_parallel = Some(1);
    asked.techniques.insert("vm0".parse().unwrap(), Technique::StopAndCopy);
    let plan = |facts: &GangFacts, asked: &Intent| {
        find("adaptive").unwrap().plan("p", asked, facts, Some(known)).unwrap().plan
    };
    let made = plan(&facts(&[true, false]), &asked);
    assert_eq!(made.concurrency, 1);
    for step in &made.moves {
        let expected =
            if step.vm.as_str() == "vm0" { Technique::StopAndCopy } else { Technique::PreCopy };
        assert_eq!(step.technique, expected);
    }
    asked.allow_postcopy = AllowPostcopy::Never;
    asked.techniques.clear();
    let made = plan(&facts(&[true, true]), &asked);
    assert!(made.moves.iter().all(|step| step.technique == Technique::PreCopy));
}

proptest! {
    #[test]
    fn every_plain_plan_passes_the_check(
        policy in prop::sample::select(POLICIES.iter().copied().filter(|p| p.plainly().is_some()).collect::<Vec<_>>()),
        permissions in proptest::collection::vec(any::<bool>(), 1..9),
        max_parallel in proptest::option::of(1_u32..20),
        never in any::<bool>(),
    ) {
        let mut asked = intent(policy.name);
        asked.max_parallel = max_parallel;
        if never {
            asked.allow_postcopy = AllowPostcopy::Never;
        }
        let gang = facts(&permissions);
        let (made, _) = plan(&asked, &gang);
        prop_assert_eq!(check(&made, &gang), []);
        prop_assert!(made.concurrency as usize <= permissions.len());
        prop_assert!(!never || made.moves.iter().all(|m| !m.technique.exposes()));
    }
}
