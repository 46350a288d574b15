use super::*;
use crate::{
    Attempt, order,
    result::tests::report,
    suite::{SuiteSpec, tests::resolved},
};

/// Results of the test suite: seconds and lost bytes by arm and repeat.
pub(crate) fn bench(of: impl Fn(&str, u32) -> (f64, u64)) -> Bench {
    let resolved = resolved();
    let results = order(&resolved).into_iter().enumerate().map(|(index, cell)| {
        let (seconds, lost) = of(&cell.arm(), cell.repeat);
        let attempts = vec![Attempt::of(&report(seconds, lost), Some(0), true)];
        CellResult { cell, place: index + 1, attempts }
    });
    let results = results.collect();
    Bench { resolved, results }
}

/// The test suite with `adaptive` as it comes beside the one that holds nothing.
pub(crate) fn with_ours(bench: Bench) -> Bench {
    let mut bench = bench;
    let change = |spec: &mut SuiteSpec| {
        let mut full = spec.policies[2].clone();
        full.name = None;
        "adaptive".clone_into(&mut full.policy);
        full.reserve = Reserve::Auto;
        spec.policies.push(full);
    };
    change(&mut bench.resolved.suite.spec);
    let ours: Vec<CellResult> =
        bench.results.iter().filter(|it| it.cell.policy == "ours").cloned().collect();
    bench.results.extend(ours.into_iter().map(|mut it| {
        "adaptive".clone_into(&mut it.cell.policy);
        it
    }));
    bench
}

#[test]
fn families_are_told_apart() {
    let bench = with_ours(bench(|_, _| (5.0, 0)));
    let families: Vec<Family> = bench.resolved.suite.spec.policies.iter().map(Family::of).collect();
    assert_eq!(families, [Family::Plain, Family::Published, Family::Ablation, Family::Ours]);
}

#[test]
fn ours_is_compared_pair_by_pair() {
    // Ours takes half the time of what it is compared with, and loses 25 MB less; repeats differ more than arms do.
    let bench = with_ours(bench(|arm, repeat| {
        let scale = f64::from(repeat) * 10.0;
        if arm.starts_with("ours") { (scale, 25_000_000) } else { (2.0 * scale, 50_000_000) }
    }));
    let analysis = analyse(&bench);
    // Two intents of ours against one of pre-copy and two of solive.
    assert_eq!(analysis.comparisons.len(), 2 * 3);
    for comparison in &analysis.comparisons {
        let (time, lost) = (comparison.time.as_ref().unwrap(), comparison.lost.as_ref().unwrap());
        assert_eq!((time.pairs, time.verdict), (9, Verdict::Less), "{comparison:?}");
        assert!((time.estimate - 0.5).abs() < 1e-9 && (lost.estimate + 1.0).abs() < 1e-9);
        assert_eq!(comparison.outage.as_ref().unwrap().verdict, Verdict::Same);
    }
    assert!(analysis.lost().is_empty() && analysis.dominated.is_empty());
    // What was less one lever is the same here.
    assert_eq!(analysis.ablations.len(), 2);
    assert!(analysis.ablations.iter().all(|it| it.time.as_ref().unwrap().verdict == Verdict::Same));
    assert_eq!(analysis.counts.completed, analysis.counts.moves);
    assert_eq!(analysis.forecasts.as_ref().unwrap().runs, bench.results.len());
}

#[test]
fn where_ours_loses_is_said() {
    let bench = with_ours(bench(|arm, repeat| {
        let scale = f64::from(repeat);
        if arm.starts_with("ours") { (10.0 + scale, 50_000_000) } else { (6.0 + scale, 0) }
    }));
    let analysis = analyse(&bench);
    let measures: Vec<&str> = analysis.lost().into_iter().map(|(_, name, _)| name).collect();
    assert!(measures.contains(&"total time") && measures.contains(&"lost bytes"), "{measures:?}");
    // In each of three scenarios both intents of ours are behind each of three arms.
    assert_eq!(analysis.dominated.len(), 3 * 2 * 3);
}

#[test]
fn hardly_better_is_not_better() {
    assert!(dominates([10.0, 1.0, 0.2], [12.0, 1.0, 0.2]));
    assert!(!dominates([10.0, 1.0, 0.2], [10.1, 1.1, 0.205]), "all within the margin");
    assert!(!dominates([10.0, 3.0, 0.2], [12.0, 1.0, 0.2]), "more was lost");
    assert!(dominates([10.0, 1.0, 0.2], [10.0, 1.0, 0.3]));
}

#[test]
fn runs_that_do_not_count_are_counted() {
    let mut bench = bench(|_, _| (5.0, 0));
    bench.results[0].attempts.insert(0, Attempt::without_report(Some(1), "the run left no report"));
    bench.results[1].attempts[0].invalid.push("the CPUs were 99 % busy".to_owned());
    let counts = analyse(&bench).counts;
    assert_eq!((counts.counted, counts.given_up), (bench.results.len() - 1, 1));
    assert_eq!(counts.runs, bench.results.len() + 1);
    assert_eq!(counts.invalid["CPUs saturated"], 1);
    assert_eq!(counts.invalid["no report"], 1);
    assert_eq!(counts.cells, bench.results.len());
}
