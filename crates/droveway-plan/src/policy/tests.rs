use super::*;
use crate::{Violation, check::check};
use proptest::prelude::*;

fn intent(policy: &str) -> Intent {
    Intent::drain("alpha".parse().unwrap(), "beta".parse().unwrap(), Vec::new(), policy)
}

fn facts(permissions: &[bool]) -> GangFacts {
    let vm = |(index, allow): (usize, &bool)| VmFacts {
        vm: format!("vm{index}").parse().unwrap(),
        memory: Bytes::from_mib(512),
        allow_postcopy: *allow,
        max_downtime: None,
        deadline: None,
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
    for policy in POLICIES.into_iter().filter(|policy| policy.plainly().is_some()) {
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

proptest! {
    #[test]
    fn every_plain_plan_passes_the_check(
        policy in prop::sample::select(POLICIES.into_iter().filter(|p| p.plainly().is_some()).collect::<Vec<_>>()),
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
