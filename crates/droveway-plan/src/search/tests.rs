use super::*;
use droveway_fleet::DirtyCurve;
use droveway_model::fluid::{Constants, End, FlowModel, PortModel, Tail, VmModel};
use proptest::prelude::*;

const MIB: f64 = 1_048_576.0;
const RATE: f64 = 50.0 * MIB;

fn weights() -> Weights {
    Weights { time: 1.0, outage: 0.5, loss: 1.0, exposure: 0.02, missed: 1_000.0 }
}

/// A gang between two ports: of each VM its MiB, working set, dirty rate, and traffic out and in as shares of the port.
pub(crate) fn task(vms: &[(f64, f64, f64, f64, f64)]) -> Task {
    let model = |(size, set, dirty, ..): &(f64, f64, f64, f64, f64)| VmModel {
        host: 0,
        send_bytes: size * MIB,
        zero_bytes: 100.0 * MIB,
        tail: Tail::default(),
        curve: DirtyCurve::Saturating {
            dirty_bytes_per_second: dirty * MIB,
            working_set_bytes: set.min(*size) * MIB,
        },
        state_bytes: 2e5,
    };
    let flow = |from, to, share: f64| FlowModel { from, to, demand: share * RATE, weight: 1.0 };
    let flows = vms.iter().enumerate().flat_map(|(index, vm)| {
        [flow(End::Vm(index), End::Outside, vm.3), flow(End::Outside, End::Vm(index), vm.4)]
    });
    let gang = Gang {
        ports: vec![PortModel::shared(RATE); 2],
        vms: vms.iter().map(model).collect(),
        flows: flows.filter(|flow| flow.demand > 0.0).collect(),
        moves: Vec::new(),
        windows: Vec::new(),
        constants: Constants::PRIOR,
        horizon: 10_000.0,
        slices_from: 0,
    };
    let way = |technique, postcopy_bandwidth| Way { technique, postcopy_bandwidth };
    let movers = (0..vms.len()).map(|vm| Mover {
        step: MoveModel {
            vm,
            target: 1,
            technique: Technique::PreCopy,
            start: Start::InWindow(0),
            bandwidth: f64::INFINITY,
            postcopy_bandwidth: f64::INFINITY,
            switchover_bandwidth: RATE,
            downtime_limit: 0.3,
            max_passes: 20,
            fallback_postcopy: true,
            switch_after_pass: 1,
            stalled_ratio: f64::INFINITY,
            weight: 1.0,
            throttle: false,
        },
        ways: vec![way(Technique::PreCopy, None), way(Technique::PostCopy, None)],
        deadline: f64::INFINITY,
        priority: 1.0,
        group: None,
    });
    Task {
        gang,
        movers: movers.collect(),
        weights: weights(),
        parallel_max: vms.len(),
        exposed_max: vms.len(),
        deadline: f64::INFINITY,
        capacity: RATE,
        floor: 0.0,
        order_given: false,
    }
}

pub(crate) fn any_vm() -> impl Strategy<Value = (f64, f64, f64, f64, f64)> {
    (60.0..300.0, 2.0..80.0, 0.1..40.0, 0.0..0.4, 0.0..0.4)
}

#[test]
fn every_order_is_counted_once() {
    let mut order = vec![0, 1, 2, 3];
    let mut seen = vec![order.clone()];
    while exact::next_permutation(&mut order) {
        seen.push(order.clone());
    }
    assert_eq!(seen.len(), 24);
    assert!(seen.is_sorted());
    assert!(!exact::next_permutation(&mut []));
}

#[test]
fn senders_go_first_by_post_copy_and_receivers_last_by_pre_copy() {
    let mut task = task(&[(120.0, 2.0, 0.5, 0.0, 0.6), (120.0, 2.0, 0.5, 0.6, 0.0)]);
    // Time alone, and no hiding of fixed times in each other: by their outage guests would rather be pre-copied.
    task.parallel_max = 1;
    task.weights = Weights { time: 1.0, outage: 0.0, loss: 0.0, exposure: 0.0, missed: 1_000.0 };
    let found = search(&task, usize::MAX, 1).unwrap();
    assert!(found.exact);
    assert_eq!(found.schedule.ways, [0, 1], "{found:?}");
    assert_eq!(found.schedule.order[0], 1, "{found:?}");
}

#[test]
fn nobody_is_exposed_beyond_the_limit() {
    let vms = [(150.0, 60.0, 60.0, 0.3, 0.0); 3];
    let mut task = task(&vms);
    task.weights = Weights { time: 1.0, outage: 0.0, loss: 0.0, exposure: 0.0, missed: 1_000.0 };
    for mover in &mut task.movers {
        mover.ways = vec![Way { technique: Technique::PostCopy, postcopy_bandwidth: None }];
    }
    task.exposed_max = 1;
    let found = search(&task, usize::MAX, 1).unwrap();
    assert_eq!(found.schedule.window, 1);
    assert!(found.cost.parts.missed < 0.5);
    let at_once = task.plain(Technique::PostCopy, 3);
    assert!(Judge::new(&task).cost(&at_once).parts.missed > 0.5);
}

#[test]
fn a_deadline_makes_its_vm_go_first() {
    let mut task = task(&[(200.0, 2.0, 0.5, 0.0, 0.0); 3]);
    task.movers[2].deadline = 6.0;
    let found = search(&task, usize::MAX, 1).unwrap();
    assert!(found.cost.parts.missed < 0.5, "{found:?}");
    task.movers[2].deadline = 1.0;
    let found = search(&task, usize::MAX, 1).unwrap();
    assert!(found.cost.parts.missed > 0.5, "{found:?}");
}

/// Where no schedule keeps the deadline the one that is least late is found, whatever else counts.
#[test]
fn what_cannot_be_in_time_is_as_little_late_as_can_be() {
    let mut task = task(&[(150.0, 20.0, 1.0, 0.5, 0.3); 3]);
    let found = |task: &Task| search(task, usize::MAX, 1).unwrap().cost.parts;
    let missed = 1_000.0;
    let hasty = Weights { time: 1.0, outage: 0.0, loss: 0.0, exposure: 0.0, missed };
    let fastest = found(&Task { weights: hasty, ..task.clone() }).total_seconds;
    task.weights = Weights { time: 0.1, outage: 1.0, loss: 2.0, exposure: 0.02, missed };
    let calm = found(&task).total_seconds;
    assert!(calm > 1.02 * fastest, "there is something to choose: {calm}, {fastest}");
    task.deadline = 0.8 * fastest;
    let late = found(&task);
    assert!(late.total_seconds < 1.01 * fastest, "{late:?}, {fastest} is possible");
    assert!((1.0..2.0).contains(&late.missed), "{late:?}");
}

#[test]
fn a_deadline_is_missed_once_and_more_the_later() {
    assert!(late(10.0, 10.0) == 0.0 && late(1e9, f64::INFINITY) == 0.0);
    let by = [10.1, 11.0, 20.0, 1e6].map(|seconds| late(seconds, 10.0));
    assert!(by.is_sorted() && by[0] > 1.0 && by[3] < 2.0, "{by:?}");
    // One that has passed already.
    assert!((1.0..2.0).contains(&late(0.5, -3.0)) && late(0.5, -3.0) < late(1.0, -3.0));
}

/// Of four VMs two are one group: it is not torn apart for long if that costs nothing else.
#[test]
fn a_group_switches_over_close_together() {
    let vms = [(150.0, 2.0, 0.5, 0.0, 0.0); 4];
    let split = |group: bool| {
        let mut task = task(&vms);
        task.parallel_max = 1;
        task.movers[0].group = Some(0);
        task.movers[3].group = Some(0);
        let apart = |found: &Found| {
            let at = |vm| found.schedule.order.iter().position(|other| *other == vm).unwrap();
            at(0).abs_diff(at(3))
        };
        if !group {
            task.movers.iter_mut().for_each(|mover| mover.group = None);
        }
        apart(&search(&task, usize::MAX, 1).unwrap())
    };
    assert_eq!(split(true), 1);
    assert_eq!(split(false), 3, "without a group the order given is as good as any");
}

/// Two VMs that talk to each other: split, their traffic needs the port.
#[test]
fn a_chatty_pair_goes_adjacently_or_together() {
    let mut task = task(&[(150.0, 2.0, 0.5, 0.0, 0.0); 4]);
    let peers = FlowModel { from: End::Vm(0), to: End::Vm(3), demand: 0.5 * RATE, weight: 1.0 };
    task.gang.flows.push(peers);
    task.parallel_max = 2;
    let found = search(&task, usize::MAX, 1).unwrap();
    let at = |vm| found.schedule.order.iter().position(|other| *other == vm).unwrap();
    assert_eq!(at(0).abs_diff(at(3)), 1, "{found:?}");
}

/// A floor is kept where a schedule keeps it, even at the price of time.
#[test]
fn applications_keep_their_floor() {
    let mut task = task(&[(150.0, 2.0, 0.5, 0.6, 0.0), (150.0, 2.0, 0.5, 0.0, 0.6)]);
    task.weights = Weights { time: 1.0, outage: 0.0, loss: 0.0, exposure: 0.0, missed: 1_000.0 };
    for mover in &mut task.movers {
        let way = |technique, postcopy_bandwidth| Way { technique, postcopy_bandwidth };
        mover.ways = vec![
            way(Technique::PostCopy, None),
            way(Technique::PreCopy, None),
            way(Technique::PostCopy, Some(0.2 * RATE)),
        ];
    }
    let fast = search(&task, usize::MAX, 1).unwrap();
    task.floor = 0.75;
    let kept = search(&task, usize::MAX, 1).unwrap();
    let share = |found: &Found| {
        let course = Judge::new(&task).course(&found.schedule);
        let kept = |of: &FlowCourse| of.carried_bytes / (of.carried_bytes + of.lost_bytes);
        course.flows.iter().map(kept).fold(1.0, f64::min)
    };
    assert!(share(&fast) < 0.75, "{}", share(&fast));
    assert!(share(&kept) >= 0.75 - 1e-9, "{} {kept:?}", share(&kept));
    assert!(kept.cost.parts.total_seconds > fast.cost.parts.total_seconds);
}

/// Two pairs of hosts that share nothing are planned as if each were alone.
#[test]
fn what_shares_no_port_is_planned_by_itself() {
    let one = task(&[(120.0, 2.0, 0.5, 0.0, 0.6), (120.0, 2.0, 0.5, 0.6, 0.0)]);
    let mut both = one.clone();
    both.gang.ports.extend(one.gang.ports.clone());
    let moved = |end: End| match end {
        End::Vm(vm) => End::Vm(vm + 2),
        End::Host(host) => End::Host(host + 2),
        End::Outside => End::Outside,
    };
    for vm in &one.gang.vms {
        both.gang.vms.push(VmModel { host: 2, ..vm.clone() });
    }
    for flow in &one.gang.flows {
        let (from, to) = (moved(flow.from), moved(flow.to));
        both.gang.flows.push(FlowModel { from, to, ..*flow });
    }
    for mover in &one.movers {
        let mut mover = mover.clone();
        (mover.step.vm, mover.step.target) = (mover.step.vm + 2, 3);
        both.movers.push(mover);
    }
    let alone = search(&one, 4_000, 1).unwrap();
    let parts = search_ports(&both, 8_000, 1);
    assert_eq!(parts.iter().map(|part| part.movers.clone()).collect::<Vec<_>>(), [[0, 1], [2, 3]]);
    for part in parts {
        assert_eq!(part.found.schedule, alone.schedule);
    }
    // A group across both makes them one.
    both.movers[0].group = Some(1);
    both.movers[3].group = Some(1);
    assert_eq!(search_ports(&both, 1_000, 1).len(), 1);
}

#[test]
fn nothing_to_move_is_no_schedule() {
    assert!(search(&task(&[]), 10, 1).is_none());
}

#[test]
fn larger_gangs_are_searched_within_their_plays_and_the_same_way_twice() {
    let vms: Vec<_> = (0..12)
        .map(|i| {
            let i = f64::from(i);
            (80.0 + 10.0 * i, 4.0 * i, 3.0 * i, 0.05 * (i % 3.0), 0.04 * (i % 4.0))
        })
        .collect();
    let task = task(&vms);
    let found = search(&task, 2_000, 7).unwrap();
    assert!(!found.exact && found.plays <= 2_000 + 20, "{}", found.plays);
    assert!(found.bound <= found.cost.value);
    assert_eq!(found, search(&task, 2_000, 7).unwrap());
    for technique in [Technique::PreCopy, Technique::PostCopy] {
        for window in [1, 12] {
            let plain = Judge::new(&task).cost(&task.plain(technique, window)).value;
            assert!(found.cost.value <= plain);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_found_is_between_the_bound_and_every_other_schedule(
        vms in prop::collection::vec(any_vm(), 1..4),
        ways in prop::collection::vec(0..2_usize, 4),
        shift in 0..4_usize,
        window in 1..4_usize,
    ) {
        let task = task(&vms);
        let found = search(&task, usize::MAX, 1).unwrap();
        prop_assert!(found.bound <= found.cost.value * (1.0 + 1e-9), "{found:?}");
        let count = vms.len();
        let other = Schedule {
            order: (0..count).map(|i| (i + shift) % count).collect(),
            ways: ways[..count].to_vec(),
            window: window.min(count),
        };
        let cost = Judge::new(&task).cost(&other).value;
        prop_assert!(found.cost.value <= cost * (1.0 + 1e-9), "{found:?} {other:?} {cost}");
    }

    /// More room on both ports, judged in the same seconds.
    #[test]
    fn more_capacity_never_costs_more(vms in prop::collection::vec(any_vm(), 1..4), more in 1.05..3.0) {
        let task = task(&vms);
        let mut roomier = task.clone();
        for port in &mut roomier.gang.ports {
            (port.tx, port.rx) = (port.tx * more, port.rx * more);
        }
        for mover in &mut roomier.movers {
            mover.step.switchover_bandwidth *= more;
        }
        let before = search(&task, usize::MAX, 1).unwrap().cost.value;
        let after = search(&roomier, usize::MAX, 1).unwrap().cost.value;
        // Where in QEMU's slice a pass ends is worth some milliseconds either way.
        let slices = 0.05 * vms.len() as f64;
        prop_assert!(after <= before + slices, "{after} {before}");
    }

    #[test]
    fn the_exact_search_is_brute_force(vms in prop::collection::vec(any_vm(), 1..6)) {
        let mut task = task(&vms);
        // Five VMs in two ways are 15,000 schedules.
        for mover in &mut task.movers {
            mover.ways.truncate(2);
        }
        let found = search(&task, usize::MAX, 1).unwrap();
        prop_assert!(found.exact);
        let mut judge = Judge::new(&task);
        let count = vms.len();
        let mut least = f64::INFINITY;
        for choice in 0..1_usize << count {
            let ways: Vec<usize> = (0..count).map(|vm| choice >> vm & 1).collect();
            for window in 1..=count {
                let mut order: Vec<usize> = (0..count).collect();
                loop {
                    let schedule = Schedule { order: order.clone(), ways: ways.clone(), window };
                    least = least.min(judge.cost(&schedule).value);
                    if window == count || !exact::next_permutation(&mut order) {
                        break;
                    }
                }
            }
        }
        prop_assert!((found.cost.value - least).abs() <= 1e-6 * least, "{} {least}", found.cost.value);
    }

    #[test]
    fn names_do_not_matter(vms in prop::collection::vec(any_vm(), 2..4)) {
        let forth = search(&task(&vms), usize::MAX, 1).unwrap().cost.value;
        let turned: Vec<_> = vms.iter().rev().copied().collect();
        let back = search(&task(&turned), usize::MAX, 1).unwrap().cost.value;
        prop_assert!((forth - back).abs() <= 1e-6 * forth, "{forth} {back}");
    }
}

/// What a search with few plays finds against the best there is, as a share of it.
fn excess(vms: &[(f64, f64, f64, f64, f64)], plays: usize, seed: u64) -> f64 {
    let task = task(vms);
    let best = search(&task, usize::MAX, 1).unwrap();
    assert!(best.exact);
    let mut search = Search::new(&task, &[], plays);
    search.improve_known(&[]);
    search.shaken(seed);
    let (cost, _) = search.best[0].clone().unwrap();
    cost.value / best.cost.value - 1.0
}

/// Four VMs of which the search once came no nearer than 7 %: it shook only the best schedule, which stands in a narrow valley,
/// and played the same schedules over and over.
#[test]
fn the_search_leaves_a_narrow_valley() {
    let vms = [
        (
            112.083_163_404_208_01,
            37.231_260_276_433_86,
            11.475_009_124_469_713,
            0.128_113_525_033_846_74,
            0.368_766_122_990_810_74,
        ),
        (
            169.336_558_970_753_86,
            14.444_024_329_050_633,
            10.050_251_532_175_354,
            0.231_163_120_491_364_03,
            0.157_553_611_249_971_52,
        ),
        (
            112.561_086_232_744_02,
            62.130_181_975_568_99,
            5.424_098_234_844_488,
            0.342_244_900_623_183_25,
            0.337_357_078_318_214_04,
        ),
        (
            102.646_660_019_804_06,
            67.889_532_914_364_34,
            16.332_359_447_836_573,
            0.150_884_254_477_710_9,
            0.326_825_956_245_162_64,
        ),
    ];
    for seed in 1..=5 {
        let excess = excess(&vms, 400, seed);
        assert!(excess < 0.01, "{seed}: {excess}");
    }
}

/// A gang like any of [`any_vm`], the same for the same seed.
fn seeded_vms(count: usize, seed: u64) -> Vec<(f64, f64, f64, f64, f64)> {
    let mut random = SplitMix(seed);
    let mut part = move || {
        let steps = 1_000_000;
        f64::from(u32::try_from(random.below(steps)).unwrap()) / steps as f64
    };
    let mut vm = || {
        let mut within = |low: f64, high: f64| low + (high - low) * part();
        let (size, set) = (within(60.0, 300.0), within(2.0, 80.0));
        (size, set, within(0.1, 40.0), within(0.0, 0.4), within(0.0, 0.4))
    };
    (0..count).map(|_| vm()).collect()
}

/// How near the search comes is a heuristic's quality, no law: so it is asked of fixed gangs, where the best is known, and
/// answered by how it is in the middle, nearly always and at worst. The bounds are twice what it was and more.
#[test]
fn the_search_of_large_gangs_is_near_the_best() {
    let mut all: Vec<f64> =
        (1..=200).map(|seed| excess(&seeded_vms(4, seed), 400, 3).max(0.0)).collect();
    all.sort_by(f64::total_cmp);
    let (median, p95, worst) = (all[100], all[190], all[199]);
    assert!(median < 0.001, "median {median}");
    assert!(p95 < 0.01, "p95 {p95}");
    assert!(worst < 0.03, "worst {worst}");
}

/// Another view decides among what costs hardly more, so the best for it is kept, wherever it was found.
#[test]
fn what_costs_hardly_more_is_kept_for_other_views() {
    let gentle = crate::adaptive::weights(droveway_fleet::Urgency::Medium);
    let mut gentler = 0;
    for seed in 0..60 {
        let (mut task, _) = any_task(4, seed);
        task.weights = crate::adaptive::weights(droveway_fleet::Urgency::Critical);
        let found = search_for(&task, &[gentle], 600, 1).unwrap();
        let under = |cost: &Cost| cost.parts.weighted(&gentle.objective(task.capacity));
        let most = found.cost.hardly_more();
        let least = found.nearby.iter().filter(|(cost, _)| cost.value <= most);
        let least = least.map(|(cost, _)| under(cost)).fold(f64::INFINITY, f64::min);
        let (rival, _) = &found.rivals[0];
        assert!(rival.parts.weighted(&task.objective()) > most || least <= rival.value, "{seed}");
        gentler += u32::from(least < 0.9 * under(&found.cost));
    }
    assert!(gentler >= 6, "{gentler}: of 60 gangs one in ten gains by it");
}

/// A gang with everything that there is: residents, traffic between VMs, groups, elastic traffic, ports that hold a part, all
/// ways, any weights.
fn any_task(count: usize, seed: u64) -> (Task, SplitMix) {
    let mut random = SplitMix(seed);
    let mut vms = seeded_vms(count, seed ^ 0x5eed);
    for vm in &mut vms {
        // A larger gang's VMs have less of the port each.
        let share = 4.0 / count.max(4) as f64;
        (vm.3, vm.4) = (vm.3 * share, vm.4 * share);
        if random.below(4) == 0 {
            vm.2 = 0.01;
        }
    }
    let mut task = task(&vms);
    let way = |technique, postcopy_bandwidth| Way { technique, postcopy_bandwidth };
    let all = [
        way(Technique::PreCopy, None),
        way(Technique::Hybrid, None),
        way(Technique::PostCopy, None),
        way(Technique::PostCopy, Some(0.2 * RATE)),
    ];
    for mover in &mut task.movers {
        mover.ways = match random.below(4) {
            0 => all[..1].to_vec(),
            _ => all.to_vec(),
        };
        mover.group = (random.below(5) == 0).then_some(0);
        mover.step.downtime_limit = [0.05, 0.3, 1.0][random.below(3)];
    }
    task.weights = crate::adaptive::weights(droveway_fleet::Urgency::ALL[random.below(4)]);
    for host in 0..2 {
        if random.below(3) == 0 {
            let size = task.gang.vms[0].clone();
            task.gang.vms.push(VmModel { host, ..size });
            let vm = End::Vm(task.gang.vms.len() - 1);
            let demand = [0.1 * RATE, f64::INFINITY][random.below(2)];
            let (from, to) = [(vm, End::Outside), (End::Outside, vm)][random.below(2)];
            task.gang.flows.push(FlowModel { from, to, demand, weight: 1.0 });
        }
    }
    if random.below(3) == 0 && count > 1 {
        let demand = 0.3 * RATE;
        task.gang.flows.push(FlowModel { from: End::Vm(0), to: End::Vm(1), demand, weight: 2.0 });
    }
    if random.below(4) == 0 {
        for flow in &mut task.gang.flows {
            flow.weight = (1 + random.below(3)) as f64;
            if random.below(6) == 0 {
                flow.demand = f64::INFINITY;
            }
        }
    }
    if random.below(2) == 0 {
        let share = [0.05, 0.25, 0.5, 0.75, 0.95][random.below(5)];
        task = crate::reserve::promised(&task, share);
    }
    if random.below(2) == 0 {
        task.gang.ports.iter_mut().for_each(|port| port.tuned = true);
    }
    (task, random)
}

/// The bound is one: of any gang, no schedule of those that were ever tried costs less, whatever the search makes of it.
#[test]
fn no_schedule_costs_less_than_the_bound() {
    let mut below: Vec<String> = Vec::new();
    // The last five, of 4,000, were below once: all at once, where what was sent again was priced as if the gang were where it had been
    // when it was sent first.
    for seed in (1..=160_u32).chain([636, 936, 955, 1225, 1249]) {
        let more = if seed % 40 == 0 { 20 } else { 0 };
        let count = usize::try_from(1 + seed % 10 + more).unwrap();
        let seed = u64::from(seed);
        let (task, mut random) = any_task(count, seed);
        let bounds = bound::Bounds::of(&task);
        let all = bounds.all(&task, None);
        assert!(all.is_finite() && all > 0.0, "seed {seed}: {all}");
        let found = search(&task, 300, seed).unwrap();
        let mut judge = Judge::new(&task);
        let mut check = |schedule: &Schedule| {
            let cost = judge.cost(schedule).value;
            let own = bounds.of_ways(&task, &schedule.ways, schedule.window);
            let kept = all <= cost * (1.0 + 1e-9) && own <= cost * (1.0 + 1e-9);
            if !kept {
                let urgency = task.weights.outage;
                below.push(format!(
                    "seed {seed}: {cost} below {all} or {own}: {schedule:?} outage weight {urgency} ports {:?}",
                    task.gang.ports[0]
                ));
            }
        };
        check(&found.schedule);
        for window in 1..=count {
            let mut schedule = task.plain(Technique::ALL[random.below(4)], window);
            check(&schedule);
            for _ in 0..6 {
                shake(&task, &mut schedule, &mut random);
            }
            schedule.window = window;
            check(&schedule);
        }
    }
    assert!(below.is_empty(), "{} below: {}", below.len(), below.join("\n"));
}

/// The least of every schedule with windows up to `widest`, of a few VMs in all their ways and orders.
fn cheapest(task: &Task, widest: usize) -> f64 {
    let count = task.movers.len();
    let mut judge = Judge::new(task);
    let mut least = f64::INFINITY;
    let mut ways = vec![0; count];
    loop {
        let mut order: Vec<usize> = (0..count).collect();
        loop {
            for window in 1..=widest {
                let schedule = Schedule { order: order.clone(), ways: ways.clone(), window };
                least = least.min(judge.cost(&schedule).value);
            }
            if !exact::next_permutation(&mut order) {
                break;
            }
        }
        let next = (0..count).find(|index| ways[*index] + 1 < task.movers[*index].ways.len());
        let Some(next) = next else { return least };
        ways[next] += 1;
        ways[..next].fill(0);
    }
}

/// Small gangs of all kinds: the bound of each is no more than its best schedule, found by trying all.
#[test]
fn the_bound_is_below_brute_force() {
    let mut above: Vec<String> = Vec::new();
    for seed in 1..=SMALL_GANGS {
        let count = usize::try_from(1 + seed % 3).unwrap();
        let (task, _) = any_task(count, u64::from(seed) << 8);
        let (bound, least) = (lower_bound(&task), cheapest(&task, count));
        if bound > least * (1.0 + 1e-9) {
            above.push(format!("seed {seed}, {count} VMs: {bound} above {least}"));
        }
    }
    assert!(above.is_empty(), "{} above: {}", above.len(), above.join("\n"));
}

/// Of three thousand none was otherwise.
const SMALL_GANGS: u32 = 300;

/// What is said to be sure of serial schedules is what trying all of them says, whatever the best known one costs: nothing
/// better is missed, and nothing is said to be better that is not.
#[test]
fn what_is_sure_of_serial_schedules_is_brute_force() {
    let mut asked = 0;
    for seed in 1..=48_u32 {
        let count = usize::try_from(2 + seed % 3).unwrap();
        let (mut task, _) = any_task(count, u64::from(seed));
        for mover in &mut task.movers {
            mover.group = None;
        }
        let least = cheapest(&task, 1);
        let mut alone = serial::Alone::of(&task);
        let close = |value: f64, to: f64| value <= to * (1.0 + 1e-9) && value >= to * 0.999;
        // From whatever was found before: nothing, something dear, the best, something better that is not serial.
        for known in [f64::INFINITY, 1.5 * least, least, 0.97 * least] {
            let Some(sure) = serial::surely(&task, &mut alone, known) else { continue };
            asked += 1;
            let expected = least.min(known);
            assert!(close(sure.bound, expected), "seed {seed}: {sure:?}, not {expected}");
            if let Some(better) = sure.better {
                let cost = Judge::new(&task).cost(&better).value;
                assert!(close(least, cost) || close(cost, least), "seed {seed}: {cost} {least}");
            }
        }
    }
    // A VM that answers only after the next has moved is not asked about.
    assert!(asked >= 180, "{asked}");
}

/// Gangs of eight: whatever is found, no schedule of one VM at a time is left out that is better.
#[test]
fn of_eight_vms_all_serial_schedules_are_known() {
    for seed in 1..=6 {
        let (mut task, mut random) = any_task(8, seed);
        for mover in &mut task.movers {
            mover.group = None;
        }
        let found = search(&task, 400, seed).unwrap();
        let sure = found.serial.unwrap();
        assert!(found.bound <= found.cost.value && sure <= found.cost.value);
        // Nothing serial is better than what was found by more than the neglected.
        assert!(sure >= found.cost.value * (1.0 - 2.0 * serial::SURE), "{found:?}");
        let mut judge = Judge::new(&task);
        let mut schedule = Schedule { window: 1, ..found.schedule.clone() };
        for _ in 0..400 {
            shake(&task, &mut schedule, &mut random);
            schedule.window = 1;
            let cost = judge.cost(&schedule).value;
            assert!(cost >= sure, "seed {seed}: {cost} below {sure}: {schedule:?}");
        }
    }
}

#[test]
fn a_large_gang_with_idle_vms_has_a_bound() {
    // Traffic of every direction and of none, in an order that no sort expects.
    let part = |index: u32, step: f64| (f64::from(index) * 0.618_034 * step).fract();
    let share = |part: f64| if part < 0.3 { 0.0 } else { part / 1000.0 };
    let vm = |index| (100.0, 10.0, 2.0, share(part(index, 3.0)), share(part(index, 5.0)));
    for count in [30, 300, 1000] {
        let vms: Vec<_> = (0..count).map(vm).collect();
        let bound = lower_bound(&task(&vms));
        // Every byte once, at the port's rate.
        assert!(bound > f64::from(count) * 100.0 * MIB / RATE, "{count}: {bound}");
    }
}
