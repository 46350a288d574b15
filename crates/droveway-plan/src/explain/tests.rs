use super::*;
use crate::policy::{find, tests as gang};
use droveway_model::{calibration::Calibration, fluid::Fluid, forecast::forecast};

type Vm = (f64, f64, f64, f64, f64);

/// What is said of the first VM of a gang.
fn explained(
    policy: &str,
    vms: &[Vm],
    change: impl FnOnce(&mut Intent, &mut GangFacts),
) -> Explanation {
    let (world, calibration) = (gang::world(vms), Calibration::default());
    let known = Known { world: &world, calibration: &calibration };
    let mut intent = gang::intent(policy);
    let mut facts = gang::facts(&vec![true; vms.len()]);
    change(&mut intent, &mut facts);
    let policy = find(policy).unwrap();
    let made = policy.plan("p", &intent, &facts, Some(known)).unwrap();
    let (moves, windows) = crate::play::moves(&made.plan, &world).unwrap();
    let forecast = forecast(&world, &moves, &windows, &calibration, &mut Fluid::default());
    let question = Question {
        policy: &policy,
        intent: &intent,
        facts: &facts,
        known: Some(known),
        made: &made,
        forecast: Some(&forecast),
    };
    assert_eq!(explain(&question, &"ghost".parse().unwrap()), None);
    explain(&question, &"vm0".parse().unwrap()).unwrap()
}

#[track_caller]
fn says(explanation: &Explanation, parts: &[&str]) {
    for part in parts {
        assert!(explanation.text.contains(part), "no '{part}' in: {}", explanation.text);
    }
}

#[test]
fn a_published_rule_is_named_and_what_would_change_it_found() {
    // It sends more than it receives.
    let sender = [(120.0, 2.0, 0.5, 0.4, 0.3), gang::RECEIVER];
    let why = explained("direction-greedy", &sender, |_, _| {});
    assert_eq!(why.technique, Technique::PostCopy);
    says(&why, &["vm0 goes by post-copy", "as number 1 of 2, up to 2 at once", "Forecast: "]);
    says(&why, &["Deshpande", "ith half of what it sends it would go by pre-copy"]);
    let expected = ["with half of what it sends", "with twice what it receives"];
    for condition in expected {
        let change = why.changes.iter().find(|change| change.condition == condition);
        assert_eq!(change.map(|change| change.technique), Some(Technique::PreCopy), "{why:?}");
    }
}

#[test]
fn what_depends_on_nothing_says_so() {
    let why = explained("pre-copy-serial", &[gang::SENDER, gang::WRITER], |_, _| {});
    says(
        &why,
        &["gives every VM the same technique", "Nothing that can be measured changes that."],
    );
    assert!(why.changes.is_empty());
    let named = |intent: &mut Intent, _: &mut GangFacts| {
        intent.techniques.insert("vm0".parse().unwrap(), Technique::StopAndCopy);
    };
    let why = explained("adaptive", &[gang::SENDER, gang::WRITER], named);
    says(&why, &["The operator named its technique", "Nothing that can be measured"]);
}

#[test]
fn a_note_says_what_would_have_been() {
    let forbid = |_: &mut Intent, facts: &mut GangFacts| facts.vms[0].allow_postcopy = false;
    let why = explained("post-copy-serial", &[gang::SENDER, gang::RECEIVER], forbid);
    says(&why, &["It would be post-copy, but the VM forbids post-copy"]);
}

#[test]
fn a_search_names_its_runner_up_and_margin() {
    let vms = [gang::SENDER, gang::RECEIVER, gang::WRITER];
    let critical = |intent: &mut Intent, _: &mut GangFacts| intent.urgency = Urgency::Critical;
    let why = explained("adaptive", &vms, critical);
    says(&why, &["urgency critical", "it sends 50 % and receives 0 % of the port"]);
    says(&why, &["Next comes ", "by a margin of ", "of silence"]);
    // The same question has the same answer.
    assert_eq!(why, explained("adaptive", &vms, critical));
    for change in &why.changes {
        assert_ne!(change.technique, why.technique);
        says(&why, &[&change.condition[1..]]);
    }
}

#[test]
fn permission_and_urgency_are_tried_too() {
    let strict = |intent: &mut Intent, facts: &mut GangFacts| {
        intent.urgency = Urgency::Critical;
        facts.vms[0].allow_postcopy = false;
    };
    // It writes so fast that pre-copy takes long, and time alone counts.
    let writer = (200.0, 150.0, 45.0, 0.0, 0.0);
    let why = explained("adaptive", &[writer], strict);
    assert_eq!(why.technique, Technique::PreCopy);
    says(&why, &["f it allowed post-copy it would go by", "at once"]);
}

#[test]
fn questions_are_asked_about_the_ports_as_the_plan_leaves_them() {
    let vms = [gang::SENDER, gang::RECEIVER, gang::WRITER];
    let (world, calibration) = (gang::world(&vms), Calibration::default());
    let known = Known { world: &world, calibration: &calibration };
    let facts = gang::facts(&[true; 3]);
    let mut intent = gang::intent("adaptive");
    (intent.shaping, intent.tuning) = (true, true);
    intent.reserve = "60%".parse().unwrap();
    let policy = find("adaptive").unwrap();
    let made = policy.plan("p", &intent, &facts, Some(known)).unwrap();
    let asked = |made: &Made| {
        let question = Question {
            policy: &policy,
            intent: &intent,
            facts: &facts,
            known: Some(known),
            made,
            forecast: None,
        };
        let vm = "vm0".parse().unwrap();
        let technique = Technique::PreCopy;
        let lab = Lab { question: &question, known, vm: &vm, technique, fact: 0, index: 0 };
        lab.unchanged().world.gang.ports
    };
    let ports = asked(&made);
    assert!(
        ports[0].tx_reserved > 0.0
            && ports[1].rx_reserved > 0.0
            && ports.iter().all(|port| port.shaped && port.tuned)
    );

    // Where nothing is held, the ports are as they are.
    let mut bare = made;
    bare.plan.reservations.clear();
    bare.plan.tuning = false;
    assert_eq!(asked(&bare), world.gang.ports);
}
