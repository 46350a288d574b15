use super::{
    traffic::{Rates, Traffic},
    *,
};
use crate::{
    policy,
    search::tests::{any_vm, task},
};
use droveway_fleet::{Bandwidth, Bytes, HostId, VmId};
use droveway_model::{calibration::Calibration, world::World};
use proptest::prelude::*;

/// A gang between two hosts, with the plan that `adaptive` makes of it.
struct Case {
    world: World,
    calibration: Calibration,
    intent: Intent,
    facts: GangFacts,
    plan: Plan,
}

impl Case {
    fn of(vms: &[(f64, f64, f64, f64, f64)]) -> Case {
        let names: Vec<VmId> =
            (0..vms.len()).map(|index| format!("vm{index}").parse().unwrap()).collect();
        let hosts: [HostId; 2] = ["alpha", "beta"].map(|name| name.parse().unwrap());
        let world = World::named(task(vms).gang, hosts.to_vec(), names.clone());
        let fact = |vm: &VmId| policy::VmFacts {
            vm: vm.clone(),
            memory: Bytes::from_mib(512),
            allow_postcopy: true,
            max_downtime: None,
            deadline: None,
            group: None,
        };
        // Its payload is what the task's ports carry.
        let port_rate = Bandwidth::from_bits_per_second(446_000_000);
        let facts = GangFacts { port_rate, vms: names.iter().map(fact).collect() };
        let [source, target] = hosts;
        let mut intent = Intent::drain(source, target, names, "adaptive");
        intent.urgency = Urgency::High;
        intent.max_parallel = Some(2);
        let calibration = Calibration::default();
        let known = Known { world: &world, calibration: &calibration };
        let policy = policy::find("adaptive").unwrap();
        let plan = policy.plan("p", &intent, &facts, Some(known)).unwrap().plan;
        Case { world, calibration, intent, facts, plan }
    }

    fn base(&self) -> Base<'_> {
        let known = Known { world: &self.world, calibration: &self.calibration };
        Base { intent: &self.intent, facts: &self.facts, known, effort: Effort::default() }
    }

    /// The first VM is in its first pass, the others wait.
    fn situation(&self) -> Situation {
        let vms = self.plan.moves.iter().enumerate().map(|(place, step)| VmStanding {
            vm: step.vm.clone(),
            standing: if place == 0 {
                Standing::PreCopy(Passing {
                    passes: 0,
                    pass_time: Duration::from_secs(1),
                    transferred: Bytes::from_mib(30),
                    remaining: Bytes::from_mib(480),
                    dirtied: None,
                })
            } else {
                Standing::Waiting
            },
            may_postcopy: true,
        });
        Situation {
            question: 7,
            plan: self.plan.clone(),
            is_foreign: false,
            elapsed: Duration::from_secs(1),
            trigger: "test".to_owned(),
            vms: vms.collect(),
            traffic: None,
            demands: BTreeMap::new(),
            capacity: None,
            stream_ratio: 0.0,
            path: None,
            wishes: Wishes::default(),
            weighed: (None, Wishes::default()),
        }
    }

    fn check(&self, plan: &Plan) {
        let facts = &self.facts.vms;
        let vms = facts.iter().filter(|fact| plan.step(fact.vm.as_str()).is_some()).cloned();
        let facts = GangFacts { vms: vms.collect(), ..self.facts.clone() };
        assert_eq!(check(plan, &facts), []);
        assert_eq!(plan.generation, self.plan.generation + 1);
        assert_eq!(plan.parent.as_ref(), Some(&self.plan.id));
    }
}

const SENDERS: [(f64, f64, f64, f64, f64); 4] = [(200.0, 10.0, 1.0, 0.3, 0.0); 4];

#[test]
fn where_nothing_differs_nothing_is_changed() {
    let case = Case::of(&SENDERS);
    let answer = replan(&case.base(), &case.situation()).unwrap();
    assert_eq!((answer.verdict, answer.question), (Verdict::Stay, 7));
    assert_eq!(answer.prospects.moves.len(), 4);
    let ends: Vec<_> = answer.prospects.moves.values().map(|it| it.end).collect();
    assert!(ends.iter().all(|end| *end > Duration::from_secs(1) && *end <= answer.prospects.end));
}

/// Everybody's traffic has turned round: who waits would send against nobody and receive against the stream at the target.
fn turned(case: &Case) -> Situation {
    let mut situation = case.situation();
    let full = Bandwidth::from_bytes_per_second(50 << 20);
    let turned = Rates { tx: Bandwidth::ZERO, rx: full.scaled(0.3) };
    situation.traffic = Some(Traffic {
        ports: [
            ("alpha".parse().unwrap(), Rates { tx: full, rx: full.scaled(0.9) }),
            ("beta".parse().unwrap(), Rates { tx: Bandwidth::ZERO, rx: full }),
        ]
        .into(),
        vms: (0..4).map(|index| (format!("vm{index}").parse().unwrap(), turned)).collect(),
        streams: full,
        level: Some(full),
        is_full: true,
    });
    situation
}

#[test]
fn a_change_is_a_child_that_passes_the_check_and_says_what_it_gains() {
    let case = Case::of(&SENDERS);
    let situation = turned(&case);
    let answer = replan(&case.base(), &situation).unwrap();
    let Verdict::Change(change) = &answer.verdict else { panic!("{answer:?}") };
    case.check(&change.plan);
    assert!(answer.margin > GAIN_LEAST, "{answer:?}");
    assert!(answer.inputs.contains("vm0 sends 0 bit/s"), "{}", answer.inputs);
    let split = |plan: &Plan| plan.moves.iter().filter(|s| s.technique.exposes()).count();
    assert!(split(&change.plan) < split(&case.plan), "{:?}", change.plan.moves);
    // And from its own point of view the child is as it should be.
    let mut after = situation.clone();
    after.plan = change.plan.clone();
    after.demands = change.prospects.demands.clone();
    let again = replan(&case.base(), &after).unwrap();
    assert_eq!(again.verdict, Verdict::Stay, "{again:?}");
}

/// On ports that are held for the moves any way takes as long where little is dirtied. What applications lose by those that were
/// planned is reason enough.
#[test]
fn haste_changes_what_costs_it_no_time() {
    let senders = [(200.0, 2.0, 1.0, 0.3, 0.0); 4];
    let planned = |urgency| {
        let (mut case, policy) = (Case::of(&senders), policy::find("adaptive").unwrap());
        (case.intent.urgency, case.intent.max_parallel) = (urgency, Some(1));
        (case.intent.shaping, case.intent.tuning) = (true, true);
        let known = Known { world: &case.world, calibration: &case.calibration };
        case.plan = policy.plan("p", &case.intent, &case.facts, Some(known)).unwrap().plan;
        case
    };
    for urgency in [Urgency::High, Urgency::Critical] {
        let case = planned(urgency);
        assert!(!case.plan.reservations.is_empty(), "{:?}", case.plan);
        let answer = replan(&case.base(), &turned(&case)).unwrap();
        let Verdict::Change(change) = &answer.verdict else { panic!("{answer:?}") };
        case.check(&change.plan);
        assert!(answer.inputs.contains("by what medium urgency pays"), "{}", answer.inputs);
        let [before, after] = [&case.plan, &change.plan].map(|plan| {
            plan.moves.iter().filter(|step| step.technique == Technique::PostCopy).count()
        });
        assert!(after < before && answer.margin > GAIN_LEAST, "{answer:?}");
        let mut again = turned(&case);
        again.plan = change.plan.clone();
        again.demands = change.prospects.demands.clone();
        let again = replan(&case.base(), &again).unwrap();
        assert_eq!(again.verdict, Verdict::Stay, "{again:?}");
    }
}

#[test]
fn who_was_not_prepared_for_post_copy_is_never_given_it() {
    let case = Case::of(&[(200.0, 150.0, 60.0, 0.0, 0.0); 3]);
    let mut situation = case.situation();
    for it in &mut situation.vms {
        it.may_postcopy = false;
        if let Standing::PreCopy(passing) = &mut it.standing {
            passing.passes = 1;
            let (time, bytes) = (Duration::from_secs(4), Bytes::from_mib(190));
            passing.dirtied = Some(Dirtied { time, bytes });
        }
    }
    for step in &mut situation.plan.moves {
        step.technique = Technique::PreCopy;
    }
    let answer = replan(&case.base(), &situation).unwrap();
    if let Verdict::Change(change) = answer.verdict {
        assert!(change.plan.moves.iter().all(|step| !step.technique.exposes()));
    }
}

#[test]
fn a_deadline_at_risk_is_climbed_for_by_the_gentlest_step() {
    let case = Case::of(&[(200.0, 150.0, 45.0, 0.0, 0.0); 3]);
    let mut situation = case.situation();
    for step in &mut situation.plan.moves {
        step.technique = Technique::PreCopy;
    }
    situation.plan.max_exposed = None;
    let mut intent = case.intent.clone();
    let asked = |intent: &Intent| {
        let base = Base { intent, ..case.base() };
        replan(&base, &situation).unwrap()
    };
    intent.deadline = Some(droveway_fleet::TimeSpan::from_secs(600));
    assert_eq!(asked(&intent).rung, Rung::Calm);
    intent.deadline = Some(droveway_fleet::TimeSpan::from_secs(25));
    let answer = asked(&intent);
    assert_eq!(answer.rung, Rung::PostCopy, "{answer:?}");
    assert!(answer.reason.contains("post-copy keeps the deadline"));
    intent.deadline = Some(droveway_fleet::TimeSpan::from_secs(3));
    assert_eq!(asked(&intent).rung, Rung::Infeasible);
}

/// Streams that are held back for the applications' sake are let go where an operator makes the move urgent, but not one whose
/// ceiling the operator has set.
#[test]
fn an_operator_s_urgency_lets_streams_go_and_an_operator_s_ceiling_stays() {
    let mut case = Case::of(&SENDERS);
    case.intent.urgency = Urgency::Low;
    let slow = RateLimit::At(Bandwidth::from_bits_per_second(60_000_000));
    case.plan.urgency = Urgency::Low;
    for step in &mut case.plan.moves {
        (step.technique, step.bandwidth) = (Technique::PreCopy, slow);
    }
    let names: Vec<_> = case.facts.vms.iter().map(|fact| fact.vm.clone()).collect();
    case.intent.techniques = names.into_iter().map(|vm| (vm, Technique::PreCopy)).collect();
    let calm = replan(&case.base(), &case.situation()).unwrap();
    assert_eq!(calm.verdict, Verdict::Stay, "{calm:?}");
    let mut urgent = case.situation();
    urgent.wishes.urgency = Some(Urgency::Critical);
    let held = case.plan.moves[1].vm.clone();
    urgent.wishes.set_bandwidth(Some(held.clone()), slow);
    let answer = replan(&case.base(), &urgent).unwrap();
    let Verdict::Change(change) = &answer.verdict else { panic!("{answer:?}") };
    case.check(&change.plan);
    for step in &change.plan.moves {
        let expected = if step.vm == held { slow } else { RateLimit::Unlimited };
        assert_eq!(step.bandwidth, expected, "{}", step.vm);
    }
    assert!(answer.inputs.contains("urgency critical was asked for"), "{}", answer.inputs);
}

#[test]
fn plans_with_rules_of_their_own_are_followed_by_none() {
    let case = Case::of(&SENDERS);
    assert!(may_follow(&case.plan));
    let mut waits = case.plan.clone();
    waits.moves[1].start = StartRule::AfterEnd(waits.moves[0].vm.clone());
    assert!(!may_follow(&waits));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Whatever a driver says of a run, what comes back fits it.
    #[test]
    fn every_child_names_who_has_not_ended_and_passes_the_check(
        vms in prop::collection::vec(any_vm(), 1..6),
        stands in prop::collection::vec((0..6_u8, 0..500_u64, 0..200_u64), 6),
        elapsed in 0.0..30.0_f64,
        ratio in 0.1..1.5_f64,
    ) {
        let case = Case::of(&vms);
        let mut situation = case.situation();
        situation.elapsed = Duration::from_secs_f64(elapsed);
        situation.stream_ratio = ratio;
        for (it, (kind, mib, dirtied)) in situation.vms.iter_mut().zip(stands) {
            let remaining = Bytes::from_mib(mib);
            it.standing = match kind {
                0 => Standing::Moved,
                1 => Standing::Stays,
                2 => Standing::Stopped { remaining },
                3 => Standing::PostCopy {
                    passes: 0,
                    transferred: Bytes::from_mib(20),
                    remaining,
                },
                4 => Standing::PreCopy(Passing {
                    passes: 2,
                    pass_time: Duration::from_millis(mib),
                    transferred: Bytes::from_mib(300),
                    remaining,
                    dirtied: Some(Dirtied {
                        time: Duration::from_secs(3),
                        bytes: Bytes::from_mib(dirtied),
                    }),
                }),
                _ => Standing::Waiting,
            };
        }
        let rest: Vec<_> = situation
            .vms
            .iter()
            .filter(|it| !matches!(it.standing, Standing::Moved | Standing::Stays))
            .map(|it| it.vm.clone())
            .collect();
        let Some(answer) = replan(&case.base(), &situation) else {
            prop_assert!(rest.is_empty());
            return Ok(());
        };
        prop_assert!(answer.margin.is_finite());
        if let Verdict::Change(change) = answer.verdict {
            case.check(&change.plan);
            prop_assert!(answer.margin > GAIN_LEAST);
            let mut named: Vec<_> = change.plan.moves.iter().map(|s| s.vm.clone()).collect();
            let mut rest = rest;
            named.sort();
            rest.sort();
            prop_assert_eq!(named, rest);
        }
    }
}
