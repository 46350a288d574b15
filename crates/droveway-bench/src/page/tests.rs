use crate::{
    compare::{
        analyse,
        tests::{bench, with_ours},
    },
    faults::tests::faulty,
    targets::Aim,
};

#[test]
fn the_summary_stands_first_and_says_where_ours_loses() {
    let mut bench = with_ours(bench(|arm, repeat| {
        let scale = f64::from(repeat);
        if arm.starts_with("ours") { (10.0 + scale, 50_000_000) } else { (6.0 + scale, 0) }
    }));
    // Targets are about urgency alone.
    let soon = &mut bench.resolved.suite.spec.intents[1];
    (soon.deadline, soon.floor) = (None, None);
    let analysis = analyse(&bench);
    let figures = crate::figures::all(&bench, &analysis, &[]).unwrap();
    let (html, markdown) =
        (super::html(&bench, &analysis, &figures), super::markdown(&bench, &analysis, &figures));
    for page in [&html, &markdown] {
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("'{text}' is missing"));
        assert!(at("Summary") < at("Where ours loses"));
        assert!(at("Where ours loses") < at("Figures"));
        assert!(page.contains("is worse than solive@medium in total time"), "{page}");
        assert!(page.contains("is behind pre-copy-serial@medium in time, loss and silence"));
        assert!(page.contains("adaptive@soon"));
        assert!(
            at("Missed: total time / fastest other policy, adaptive@soon") < at("Where ours loses")
        );
        assert!(at("Where ours loses") < at("Against the targets"));
        assert!(page.contains("tcp %"));
    }
    assert!(html.contains("<svg") && !html.contains("<script") && !html.contains("src="));
    assert!(markdown.contains("](figures/arms.svg)"));
}

#[test]
fn names_end_no_element() {
    let mut bench = bench(|_, _| (5.0, 0));
    bench.resolved.suite.spec.question = Some("a < b & <script>".to_owned());
    let html = super::html(&bench, &analyse(&bench), &[]);
    assert!(html.contains("a &lt; b &amp; &lt;script&gt;") && !html.contains("<script>"));
}

#[test]
fn few_pairs_are_called_few() {
    let mut bench = with_ours(bench(|_, _| (5.0, 0)));
    bench.results.retain(|it| it.cell.repeat == 1 && it.cell.scenario == "a");
    let markdown = super::markdown(&bench, &analyse(&bench), &[]);
    assert!(markdown.contains("too few to call anything better or worse"), "{markdown}");
    assert!(markdown.contains("too few pairs to call it better or worse"), "{markdown}");
}

#[test]
fn arms_that_lack_scenarios_are_named() {
    let mut bench = with_ours(bench(|_, _| (5.0, 0)));
    assert!(!super::markdown(&bench, &analyse(&bench), &[]).contains("Not every arm"));
    bench.results.retain(|it| it.cell.scenario != "a" || it.cell.policy != "solive");
    let markdown = super::markdown(&bench, &analyse(&bench), &[]);
    assert!(
        markdown.contains("solive@medium has none in a; solive@soon has none in a"),
        "{markdown}"
    );
}

#[test]
fn what_faults_cost_is_told_beside_their_control() {
    let mut bench = with_ours(faulty(|scenario, repeat| {
        let scale = f64::from(repeat);
        if scenario == "b" { (13.0 + scale, 50_000_000) } else { (10.0 + scale, 50_000_000) }
    }));
    let own = bench.results.iter_mut().find(|it| it.cell.scenario == "b").unwrap();
    "rolled-back".clone_into(&mut own.attempts[0].vms[0].result);
    let analysis = analyse(&bench);
    let markdown = super::markdown(&bench, &analysis, &[]);
    assert!(markdown.contains("20 of 21 VMs moved, 1 rolled back, 0 need recovery"), "{markdown}");
    let rows: Vec<&str> =
        markdown.lines().filter(|line| line.contains("| adaptive@soon |")).collect();
    let control = "| a | nothing | adaptive@soon | 3 | 0 | 3 | 0 | 0 | 0 | 0 | 12.0 | - | - | - |";
    assert_eq!(rows[0], control);
    let fault = "| b | 4s alpha's port is down for 2s | adaptive@soon | 3 | 0 | 3 | 0 | 0 | 0 | 0 | 15.0 | +3.0 [+3.0, +3.0] | \
                 +0.00 [+0.00, +0.00] | +0.00 [+0.00, +0.00] |";
    assert_eq!(rows[1], fault);
    // Targets are about worlds that stay as they are: two scenarios of three.
    let soon = &mut bench.resolved.suite.spec.intents[1];
    (soon.deadline, soon.floor) = (None, None);
    let of = |bench: &_| {
        let targets = analyse(bench).targets;
        targets.iter().find(|it| it.aim == Aim::TimeOverLineRate).unwrap().of
    };
    let mut calm = bench.clone();
    calm.resolved.suite.spec.scenarios[1].spec.as_mut().unwrap().changes.clear();
    assert_eq!([of(&bench), of(&calm)], [2 * 3, 3 * 3]);
    assert!(!super::markdown(&calm, &analyse(&calm), &[]).contains("What faults cost"));
}
