use super::*;
use crate::technique::{PreCopyInput, StopRule, pre_copy};
use proptest::prelude::*;

/// The larger of 0.1 % and half a unit of the last printed digit.
#[track_caller]
fn golden(got: f64, printed: f64, digit: f64) {
    let tolerance = (0.001 * printed.abs()).max(digit / 2.0);
    assert!((got - printed).abs() <= tolerance, "{got}, not {printed}");
}

fn equal(dirty_rate: f64, vms: u32) -> Equal {
    Equal {
        vms,
        send_bytes: 2048.0,
        dirty_rate,
        rate: 112.0,
        threshold: 16.0,
        max_passes: 8,
        resume_time: 0.1,
        back_share: 0.7,
    }
}

#[test]
fn serial_parallel_and_mixed_gangs() {
    type Row = (f64, u32, [(f64, f64); 4]);
    let rows: [Row; 6] = [
        (5.0, 2, [(38.277, 19.275), (40.154, 0.126), (31.938, 12.936), (40.154, 0.126)]),
        (5.0, 4, [(76.554, 57.552), (88.953, 0.516), (57.538, 38.536), (65.754, 25.726)]),
        (20.0, 2, [(44.476, 22.442), (56.771, 0.312), (35.038, 13.004), (56.771, 0.312)]),
        (20.0, 4, [(88.953, 66.919), (243.61, 5.056), (60.638, 38.604), (82.371, 25.912)]),
        (40.0, 2, [(56.771, 28.592), (121.805, 2.578), (41.185, 13.006), (121.805, 2.578)]),
        (40.0, 4, [(113.542, 85.363), (4058.6, 1268.9), (66.785, 38.606), (147.405, 28.178)]),
    ];
    for (dirty, vms, printed) in rows {
        let gang = equal(dirty, vms);
        let got = [gang.serial(), gang.parallel(), gang.mixed(1), gang.mixed(2)];
        for (got, (total, downtime)) in got.into_iter().zip(printed) {
            golden(got.total, total, 0.001);
            golden(got.service_downtime, downtime, 0.001);
        }
    }
    let sweep = [(60.638, 38.604), (82.371, 25.912), (130.524, 13.272), (243.61, 5.056)];
    for (m, (total, downtime)) in (1..).zip(sweep) {
        let got = equal(20.0, 4).mixed(m);
        golden(got.total, total, 0.001);
        golden(got.service_downtime, downtime, 0.001);
    }
}

#[test]
fn rounds() {
    for (vms, dirty, total, downtime) in [
        (4, 5.0, 83.06, 0.080),
        (4, 20.0, 185.29, 0.857),
        (2, 20.0, 51.78, 0.056),
        (2, 40.0, 102.89, 0.902),
    ] {
        let curve = DirtyCurve::Uniform { dirty_bytes_per_second: dirty, memory_bytes: 2048.0 };
        let got = round_robin(&vec![2048.0; vms], &vec![curve; vms], 112.0, 16.0, 8);
        golden(got.total, total, 0.01);
        golden(got.service_downtime, downtime, 0.001);
    }
}

/// What rounds are compared with: all at once until what is left of all of them together is as small.
#[test]
fn parallel_moves_that_stop_together() {
    for (vms, dirty, total, downtime) in [
        (4, 5.0, 89.03, 0.074),
        (4, 20.0, 243.61, 4.956),
        (2, 20.0, 56.85, 0.076),
        (2, 40.0, 121.81, 2.478),
    ] {
        let threshold = 16.0 / f64::from(vms);
        let got = Equal { threshold, resume_time: 0.0, ..equal(dirty, vms) }.parallel();
        golden(got.total, total, 0.01);
        golden(got.service_downtime, downtime, 0.001);
    }
}

#[test]
fn orders_of_unequal_vms() {
    let vms = [(1024.0, 5.0), (2048.0, 20.0), (4096.0, 10.0)];
    let alone = |(send_bytes, rate): (f64, f64)| {
        let curve = DirtyCurve::Uniform { dirty_bytes_per_second: rate, memory_bytes: send_bytes };
        pre_copy(&PreCopyInput {
            send_bytes,
            zero_bytes: 0.0,
            rate: 112.0,
            switchover_rate: 112.0,
            downtime_limit: 0.3,
            state_bytes: 0.0,
            setup: 0.0,
            switch_time: 0.0,
            resume_time: 0.0,
            zero_scan: 0.0,
            curve,
            max_passes: 100,
            rule: StopRule::PassBoundary,
            throttle: None,
        })
        .duration
    };
    let times = vms.map(alone);
    for (got, printed) in times.into_iter().zip([9.569, 22.238, 40.128]) {
        golden(got, printed, 0.001);
    }
    let weights = [1.0, 4.0, 2.0];
    let sum = |order: &[usize], weights: [f64; 3]| -> f64 {
        completions(&times, order).iter().zip(weights).map(|(end, weight)| end * weight).sum()
    };
    let shortest = shortest_first(&times, &[1.0; 3]);
    assert_eq!(shortest, [0, 1, 2]);
    golden(sum(&shortest, [1.0; 3]), 113.312, 0.001);
    golden(sum(&[2, 1, 0], [1.0; 3]), 174.431, 0.001);
    let weighted = shortest_first(&times, &weights);
    assert_eq!(weighted, [1, 0, 2]);
    golden(sum(&weighted, weights), 264.632, 0.001);
    for order in orders(3) {
        golden(completions(&times, &order).into_iter().fold(0.0, f64::max), 71.936, 0.001);
        assert!(sum(&order, [1.0; 3]) >= sum(&shortest, [1.0; 3]) - 1e-9);
        assert!(sum(&order, weights) >= sum(&weighted, weights) - 1e-9);
    }
    assert_eq!(earliest_deadline_first(&[60.0, 30.0, 100.0]), [1, 0, 2]);

    let fluid =
        vms.map(|(send_bytes, dirty_rate)| Loaded { send_bytes, dirty_rate, ..loaded(0.0, 0.0) });
    let ends = gang(&fluid).ends(&[false; 3], None);
    for (got, printed) in ends.into_iter().zip([31.67, 73.31, 86.20]) {
        golden(got, printed, 0.01);
    }
}

#[test]
fn fixed_times_favour_groups_and_pipelines() {
    let vms = equal(5.0, 4);
    for (fixed, [serial, parallel, pairs, pipelined]) in
        [(0.0, [76.56, 89.04, 80.31, 76.56]), (3.0, [88.56, 92.04, 86.31, 79.56])]
    {
        golden(vms.in_groups(1, fixed).unwrap(), serial, 0.01);
        golden(vms.in_groups(4, fixed).unwrap(), parallel, 0.01);
        golden(vms.in_groups(2, fixed).unwrap(), pairs, 0.01);
        golden(vms.pipelined(fixed).unwrap(), pipelined, 0.01);
    }
    // Three and then one.
    golden(vms.in_groups(3, 0.0).unwrap(), 6144.0 / 97.0 + 2048.0 / 107.0, 0.01);
    assert_eq!(equal(40.0, 4).in_groups(4, 0.0), None);
}

fn loaded(tx: f64, rx: f64) -> Loaded {
    Loaded { send_bytes: 2048.0, dirty_rate: 2.0, tx, rx, allow_postcopy: true }
}

fn gang(vms: &[Loaded]) -> Reference<'_> {
    Reference { vms, peers: &[], capacity: 112.0, residents: Residents::default() }
}

/// Every order of so many VMs.
fn orders(vms: usize) -> Vec<Vec<usize>> {
    (0..vms).fold(vec![Vec::new()], |orders, _| {
        orders
            .iter()
            .flat_map(|order| {
                let others = (0..vms).filter(|vm| !order.contains(vm));
                others.map(|vm| [order.as_slice(), &[vm]].concat()).collect::<Vec<_>>()
            })
            .collect()
    })
}

fn best_serial_mix(vms: &[Loaded]) -> f64 {
    let orders = orders(vms.len());
    let mixes = (0..1_u32 << vms.len())
        .map(|mask| (0..vms.len()).map(|vm| mask >> vm & 1 == 1).collect::<Vec<_>>());
    mixes
        .flat_map(|mix| orders.iter().map(move |order| gang(vms).total(&mix, Some(order))))
        .fold(f64::INFINITY, f64::min)
}

#[test]
fn the_bigger_sender_of_a_pair_goes_first() {
    let vms = [Loaded { dirty_rate: 0.0, ..loaded(0.0, 0.0) }; 2];
    let peers = [Peers { from: 0, to: 1, rate: 30.0 }, Peers { from: 1, to: 0, rate: 10.0 }];
    let pair = Reference { peers: &peers, ..gang(&vms) };
    golden(pair.total(&[false; 2], Some(&[0, 1])), 38.364, 0.001);
    golden(pair.total(&[false; 2], Some(&[1, 0])), 43.261, 0.001);
    golden(pair.total(&[true; 2], None), 36.571, 0.001);
}

#[test]
fn direction_decides_gangs() {
    type Row = ([(f64, f64); 4], [f64; 7]);
    let rows: [Row; 6] = [
        ([(20.0, 1.0); 4], [341.3, 75.9, 75.9, 75.9, 161.2, 109.1, 109.1]),
        ([(1.0, 20.0); 4], [81.9, 256.0, 81.9, 81.9, 112.3, 154.1, 112.3]),
        (
            [(20.0, 1.0), (20.0, 1.0), (1.0, 20.0), (1.0, 20.0)],
            [132.1, 117.0, 77.3, 77.3, 95.6, 93.4, 83.6],
        ),
        ([(10.0, 10.0); 4], [128.0, 113.8, 128.0, 93.1, 103.2, 100.7, 95.6]),
        ([(15.0, 12.0); 4], [186.2, 128.0, 128.0, 105.0, 125.7, 114.5, 108.8]),
        ([(12.0, 15.0); 4], [146.3, 157.5, 146.3, 105.0, 117.8, 121.9, 109.0]),
    ];
    for (traffic, [all_pre, all_post, by_rule, joint, serial_pre, serial_post, mix]) in rows {
        let vms: Vec<Loaded> = traffic.map(|(tx, rx)| loaded(tx, rx)).to_vec();
        let none = Residents::default();
        let parallel = |postcopy: &[bool]| gang(&vms).total(postcopy, None);
        let given: Vec<usize> = (0..vms.len()).collect();
        let serial = |post: bool| gang(&vms).total(&[post; 4], Some(&given));
        golden(parallel(&[false; 4]), all_pre, 0.1);
        golden(parallel(&[true; 4]), all_post, 0.1);
        golden(parallel(&greedy(&vms)), by_rule, 0.1);
        golden(parallel(&joint_split(&vms, none).postcopy), joint, 0.1);
        golden(serial(false), serial_pre, 0.1);
        golden(serial(true), serial_post, 0.1);
        golden(best_serial_mix(&vms), mix, 0.1);
    }
}

/// Traffic of random gangs: a sequence that is the same everywhere (an LCG of Knuth's MMIX).
fn random_gangs(seed: u64, gangs: usize, vms: usize, most: f64) -> Vec<Vec<Loaded>> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64 * most
    };
    (0..gangs).map(|_| (0..vms).map(|_| loaded(next(), next())).collect()).collect()
}

/// The read-out of direction: 300 random gangs of six. Printed: the joint choice beats the rule per VM by 3.8 % on average (90th
/// percentile 8.7 %, at most 16.9 %), and that rule beats the better uniform technique by 12.4 %. Which gangs is not said; with
/// traffic of up to 11 each way, direction and order of size are the same: half to twice the printed figure, and none worse.
#[test]
fn the_joint_choice_gains_a_little_over_the_rule_and_the_rule_much_over_habit() {
    let (mut joint, mut rule) = (Vec::new(), Vec::new());
    for vms in random_gangs(1, 300, 6, 11.0) {
        let total = |postcopy: &[bool]| gang(&vms).total(postcopy, None);
        let by_rule = total(&greedy(&vms));
        let splits = joint_splits(&vms, Residents::default());
        let best = splits.iter().map(|split| total(&split.postcopy)).fold(f64::INFINITY, f64::min);
        let uniform = total(&[false; 6]).min(total(&[true; 6]));
        joint.push(100.0 * (1.0 - best / by_rule));
        rule.push(100.0 * (1.0 - by_rule / uniform));
    }
    joint.sort_by(f64::total_cmp);
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    for (got, printed) in
        [(mean(&joint), 3.8), (joint[270], 8.7), (joint[299], 16.9), (mean(&rule), 12.4)]
    {
        assert!((0.5 * printed..2.0 * printed).contains(&got), "{got}, not near {printed}");
    }
    assert!(joint[0] > -1e-9, "the rule's choice is among those that are scored");
}

#[test]
fn techniques_are_chosen_together() {
    let vms = [loaded(30.0, 4.0), loaded(5.0, 25.0), loaded(12.0, 10.0), loaded(8.0, 9.0)];
    let none = Residents::default();
    let split = joint_split(&vms, none);
    assert_eq!(split.postcopy, [true, false, true, false]);
    golden(split.load, 14.0, 1.0);
    golden(split_bound(&vms, none), 13.545, 0.001);
    golden(gang(&vms).total(&split.postcopy, None), 87.15, 0.01);
    assert_eq!(greedy(&vms), split.postcopy);
    let busy = Residents { target_rx: 20.0, ..none };
    let split = joint_split(&vms, busy);
    assert_eq!(split.postcopy, [true, false, false, false]);
    golden(split.load, 25.0, 1.0);
    for (postcopy, time) in [
        (split.postcopy, 101.14),
        (greedy(&vms), 110.70),
        (vec![false; 4], 167.18),
        (vec![true; 4], 186.18),
    ] {
        golden(Reference { residents: busy, ..gang(&vms) }.total(&postcopy, None), time, 0.01);
    }
}

#[test]
fn equal_loads_expose_fewer_then_later_vms() {
    let none = Residents::default();
    let pair = joint_split(&[loaded(10.0, 10.0); 2], none);
    assert_eq!((pair.postcopy, pair.load), (vec![false, true], 10.0));
    // Nothing is gained: nobody is exposed.
    assert_eq!(joint_split(&[loaded(0.0, 0.0); 3], none).postcopy, [false; 3]);
    assert!(joint_split(&[], none).postcopy.is_empty());
    let bound = Loaded { allow_postcopy: false, ..loaded(50.0, 1.0) };
    assert_eq!(joint_split(&[bound; 20], none).postcopy, [false; 20]);
}

fn some_vm() -> impl Strategy<Value = Loaded> {
    (0.0..50.0_f64, 0.0..50.0_f64, any::<bool>())
        .prop_map(|(tx, rx, allow_postcopy)| Loaded { allow_postcopy, ..loaded(tx, rx) })
}

fn some_vms(most: usize) -> impl Strategy<Value = Vec<Loaded>> {
    prop::collection::vec(some_vm(), 1..=most)
}

proptest! {
    #[test]
    fn no_split_is_better_than_the_bound_or_worse_than_the_plain_ones(
        vms in some_vms(10), source_tx in 0.0..30.0_f64, target_rx in 0.0..30.0_f64,
    ) {
        let residents = Residents { source_tx, target_rx };
        let splits = joint_splits(&vms, residents);
        prop_assert_eq!(&splits[0], &joint_split(&vms, residents));
        prop_assert!(splits.len() <= SPLITS_KEPT);
        prop_assert!(splits.windows(2).all(|pair| best_first(&pair[0], &pair[1]).is_lt()));
        for split in &splits {
            prop_assert!(vms.iter().zip(&split.postcopy).all(|(vm, post)| vm.allow_postcopy || !post));
        }
        // Single precision of what is compared.
        let same = 1.0 + 1e-6;
        let load = splits[0].load;
        prop_assert!(load * same >= split_bound(&vms, residents));
        prop_assert!(load <= larger_load(&vms, residents, &vec![false; vms.len()]) * same);
        prop_assert!(load <= larger_load(&vms, residents, &greedy(&vms)) * same);
        let coarse = &splits_by_steps(&vms, residents)[0];
        prop_assert!(coarse.load * same >= load);
        prop_assert!(vms.iter().zip(&coarse.postcopy).all(|(vm, post)| vm.allow_postcopy || !post));
        // Steps round each VM's load to a part of the total.
        let slack = vms.iter().map(|vm| vm.tx).sum::<f64>() * vms.len() as f64 / SPLIT_STEPS as f64;
        prop_assert!(coarse.load <= load * same + slack);
    }

    #[test]
    fn large_gangs_are_split_near_their_bound(vms in prop::collection::vec(some_vm(), 17..60)) {
        let split = joint_split(&vms, Residents::default());
        let bound = split_bound(&vms, Residents::default());
        let largest = vms.iter().map(|vm| vm.tx + vm.rx).fold(0.0, f64::max);
        // The bound has one VM in part; rounding to steps does the rest.
        let total: f64 = vms.iter().map(|vm| vm.tx).sum();
        let slack = largest + total * vms.len() as f64 / SPLIT_STEPS as f64;
        prop_assert!(split.load >= bound * (1.0 - 1e-6) && split.load <= bound + slack, "{} {bound}", split.load);
    }

    #[test]
    fn every_reference_ends(
        vms in some_vms(8), capacity in 0.0..200.0_f64, source_tx in 0.0..200.0_f64,
        postcopy in prop::collection::vec(any::<bool>(), 8), serial in any::<bool>(),
    ) {
        let residents = Residents { source_tx, target_rx: 0.0 };
        let given: Vec<usize> = (0..vms.len()).collect();
        let world = Reference { vms: &vms, peers: &[], capacity, residents };
        let ends = world.ends(&postcopy, serial.then_some(given.as_slice()));
        prop_assert!(ends.iter().all(|end| end.is_finite() && *end > 0.0));
        prop_assert!(!serial || ends.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
