use super::*;
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

fn loaded(tx: f64, rx: f64) -> Loaded {
    Loaded { send_bytes: 2048.0, dirty_rate: 2.0, tx, rx, allow_postcopy: true }
}

fn best_serial_mix(vms: &[Loaded]) -> f64 {
    let mut best = f64::INFINITY;
    let mut orders = vec![Vec::new()];
    for _ in 0..vms.len() {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                (0..vms.len()).filter(|vm| !order.contains(vm)).map(|vm| [order.as_slice(), &[vm]].concat()).collect::<Vec<_>>()
            })
            .collect();
    }
    for mask in 0..1_u32 << vms.len() {
        let postcopy: Vec<bool> = (0..vms.len()).map(|vm| mask >> vm & 1 == 1).collect();
        for order in &orders {
            best = best.min(reference(vms, &postcopy, 112.0, Residents::default(), Some(order)));
        }
    }
    best
}

#[test]
fn direction_decides_gangs() {
    let rows: [(&[(f64, f64)], [f64; 7]); 6] = [
        (&[(20.0, 1.0); 4], [341.3, 75.9, 75.9, 75.9, 161.2, 109.1, 109.1]),
        (&[(1.0, 20.0); 4], [81.9, 256.0, 81.9, 81.9, 112.3, 154.1, 112.3]),
        (
            &[(20.0, 1.0), (20.0, 1.0), (1.0, 20.0), (1.0, 20.0)],
            [132.1, 117.0, 77.3, 77.3, 95.6, 93.4, 83.6],
        ),
        (&[(10.0, 10.0); 4], [128.0, 113.8, 128.0, 93.1, 103.2, 100.7, 95.6]),
        (&[(15.0, 12.0); 4], [186.2, 128.0, 128.0, 105.0, 125.7, 114.5, 108.8]),
        (&[(12.0, 15.0); 4], [146.3, 157.5, 146.3, 105.0, 117.8, 121.9, 109.0]),
    ];
    for (traffic, [all_pre, all_post, by_rule, joint, serial_pre, serial_post, mix]) in rows {
        let vms: Vec<Loaded> = traffic.iter().map(|(tx, rx)| loaded(*tx, *rx)).collect();
        let none = Residents::default();
        let parallel = |postcopy: &[bool]| reference(&vms, postcopy, 112.0, none, None);
        let given: Vec<usize> = (0..vms.len()).collect();
        let serial = |post: bool| reference(&vms, &[post; 4], 112.0, none, Some(&given));
        golden(parallel(&[false; 4]), all_pre, 0.1);
        golden(parallel(&[true; 4]), all_post, 0.1);
        golden(parallel(&greedy(&vms)), by_rule, 0.1);
        golden(parallel(&joint_split(&vms, none).0), joint, 0.1);
        golden(serial(false), serial_pre, 0.1);
        golden(serial(true), serial_post, 0.1);
        golden(best_serial_mix(&vms), mix, 0.1);
    }
}

#[test]
fn techniques_are_chosen_together() {
    let vms = [loaded(30.0, 4.0), loaded(5.0, 25.0), loaded(12.0, 10.0), loaded(8.0, 9.0)];
    let none = Residents::default();
    let (split, load) = joint_split(&vms, none);
    assert_eq!(split, [true, false, true, false]);
    golden(load, 14.0, 1.0);
    golden(split_bound(&vms, none), 13.545, 0.001);
    golden(reference(&vms, &split, 112.0, none, None), 87.15, 0.01);
    let busy = Residents { target_rx: 20.0, ..none };
    let (split, load) = joint_split(&vms, busy);
    assert_eq!(split, [true, false, false, false]);
    golden(load, 25.0, 1.0);
    for (postcopy, time) in [
        (split, 101.14),
        (vec![true, false, true, false], 110.70),
        (vec![false; 4], 167.18),
        (vec![true; 4], 186.18),
    ] {
        golden(reference(&vms, &postcopy, 112.0, busy, None), time, 0.01);
    }
}

fn some_vms(most: usize) -> impl Strategy<Value = Vec<Loaded>> {
    let vm = (0.0..50.0_f64, 0.0..50.0_f64, any::<bool>())
        .prop_map(|(tx, rx, allow_postcopy)| Loaded { allow_postcopy, ..loaded(tx, rx) });
    prop::collection::vec(vm, 1..=most)
}

proptest! {
    #[test]
    fn no_split_is_better_than_the_bound_or_worse_than_the_plain_ones(
        vms in some_vms(10), source_tx in 0.0..30.0_f64, target_rx in 0.0..30.0_f64,
    ) {
        let residents = Residents { source_tx, target_rx };
        let (split, load) = joint_split(&vms, residents);
        prop_assert!(vms.iter().zip(&split).all(|(vm, post)| vm.allow_postcopy || !post));
        prop_assert!(load >= split_bound(&vms, residents) - 1e-9);
        prop_assert!(load <= larger_load(&vms, residents, &vec![false; vms.len()]) + 1e-9);
        prop_assert!(load <= larger_load(&vms, residents, &greedy(&vms)) + 1e-9);
        let (_, coarse) = split_by_steps(&vms, residents);
        // Steps round each VM's load to a part of the total.
        let slack = vms.iter().map(|vm| vm.tx).sum::<f64>() * vms.len() as f64 / SPLIT_STEPS as f64;
        prop_assert!(coarse <= load + slack + 1e-9);
    }
}
