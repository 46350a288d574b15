use super::*;
use proptest::prelude::*;

fn near(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-9
}

#[test]
fn quantiles_of_known_values() {
    let values = [4.0, 1.0, 3.0, 2.0];
    for (share, expected) in [(0.0, 1.0), (0.5, 2.5), (1.0, 4.0), (0.25, 1.75), (7.0, 4.0)] {
        assert!(near(quantile(&values, share).unwrap(), expected), "{share}");
    }
    assert!(near(median(&[5.0]).unwrap(), 5.0));
    assert_eq!(median(&[]), None);
}

#[test]
fn hodges_lehmann_of_known_values() {
    // Means of pairs: 1, 2, 3.5, 3, 4.5, 6; the middle of them is (3 + 3.5) / 2.
    assert!(near(hodges_lehmann(&[1.0, 3.0, 6.0]).unwrap(), 3.25));
    // One value far away moves it by less than the mean.
    let moved = hodges_lehmann(&[1.0, 2.0, 3.0, 4.0, 1000.0]).unwrap();
    assert!(moved < 4.0, "{moved}");
}

#[test]
fn cliffs_delta_of_known_values() {
    assert!(near(cliffs_delta(&[3.0, 4.0], &[1.0, 2.0]).unwrap(), 1.0));
    assert!(near(cliffs_delta(&[1.0, 2.0], &[1.0, 2.0]).unwrap(), 0.0));
    // Of nine pairs six are above and one is below.
    assert!(near(cliffs_delta(&[1.0, 2.0, 3.0], &[0.0, 1.0, 2.0]).unwrap(), 5.0 / 9.0));
    assert_eq!(cliffs_delta(&[], &[1.0]), None);
}

/// The median's interval of 1..=n by ranks is known: of 25 values the binomial 95 % interval is from the 8th to the 18th.
#[test]
fn the_bootstrap_is_where_ranks_say() {
    let values: Vec<f64> = (1..=25).map(f64::from).collect();
    let interval = bootstrap(&values, median, 7).unwrap();
    assert!((7.0..=9.0).contains(&interval.low), "{interval:?}");
    assert!((17.0..=19.0).contains(&interval.high), "{interval:?}");
    assert_eq!(bootstrap(&values, median, 7), Some(interval), "the seed is the chance");
    assert_eq!(bootstrap(&[1.0], median, 7), None);
}

#[test]
fn better_is_said_only_of_what_excludes_zero() {
    let scaled = |count: u32, factor: f64| -> Vec<(f64, f64)> {
        (1..=count).map(|n| (factor * f64::from(n), f64::from(n))).collect()
    };
    let half = ratios(&scaled(10, 0.5), 1).unwrap();
    assert!(near(half.estimate, 0.5) && half.verdict == Verdict::Less, "{half:?}");
    assert_eq!(ratios(&scaled(10, 2.0), 1).unwrap().verdict, Verdict::More);
    assert_eq!(ratios(&scaled(10, 1.0), 1).unwrap().verdict, Verdict::Same);
    // However clear, five pairs are too few.
    assert_eq!(ratios(&scaled(5, 0.5), 1).unwrap().verdict, Verdict::TooFew);
    let mixed: Vec<(f64, f64)> =
        (0..12).map(|n| if n % 2 == 0 { (2.0, 1.0) } else { (1.0, 2.0) }).collect();
    let mixed = differences(&mixed, 1).unwrap();
    assert!(mixed.verdict == Verdict::Same && near(mixed.estimate, 0.0), "{mixed:?}");
    // What is zero has no ratio, but a difference.
    assert_eq!(ratios(&[(0.0, 1.0)], 1), None);
    assert_eq!(differences(&[(0.0, 1.0); 6], 1).unwrap().verdict, Verdict::Less);
}

proptest! {
    #[test]
    fn estimates_lie_among_the_values(values in prop::collection::vec(-1e6..1e6_f64, 1..30), seed: u64) {
        let (least, most) = (quantile(&values, 0.0).unwrap(), quantile(&values, 1.0).unwrap());
        let inside = |value: f64| value >= least - 1e-6 && value <= most + 1e-6;
        prop_assert!(inside(median(&values).unwrap()));
        prop_assert!(inside(hodges_lehmann(&values).unwrap()));
        if let Some(interval) = bootstrap(&values, median, seed) {
            prop_assert!(interval.low <= interval.high);
            prop_assert!(inside(interval.low) && inside(interval.high));
        }
    }

    #[test]
    fn a_comparison_turned_round_is_its_mirror(
        pairs in prop::collection::vec((0.1..1e3_f64, 0.1..1e3_f64), 1..20),
        seed: u64,
    ) {
        let turned: Vec<(f64, f64)> = pairs.iter().map(|(one, other)| (*other, *one)).collect();
        let (one, other) = (ratios(&pairs, seed).unwrap(), ratios(&turned, seed).unwrap());
        prop_assert!((one.estimate * other.estimate - 1.0).abs() < 1e-6);
        prop_assert!((one.delta + other.delta).abs() < 1e-9);
        let (one, other) = (differences(&pairs, seed).unwrap(), differences(&turned, seed).unwrap());
        prop_assert!((one.estimate + other.estimate).abs() < 1e-6);
        let mirrored = match one.verdict {
            Verdict::Less => Verdict::More,
            Verdict::More => Verdict::Less,
            same => same,
        };
        prop_assert_eq!(mirrored, other.verdict);
    }

    #[test]
    fn a_shift_shifts_the_estimate(values in prop::collection::vec(-1e3..1e3_f64, 1..20), by in -1e3..1e3_f64) {
        let shifted: Vec<f64> = values.iter().map(|value| value + by).collect();
        let (one, other) = (hodges_lehmann(&values).unwrap(), hodges_lehmann(&shifted).unwrap());
        prop_assert!((other - one - by).abs() < 1e-6);
    }
}
