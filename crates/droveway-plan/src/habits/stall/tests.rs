use super::{
    super::{
        Ladder,
        testing::{limit, poll, steps},
    },
    *,
};

/// The passes of the published example: when each ended, in seconds, and what it left.
const PASSES: [(f64, f64); 9] = [
    (20.0, 900.0),
    (30.0, 400.0),
    (40.0, 200.0),
    (50.0, 150.0),
    (60.0, 160.0),
    (70.0, 155.0),
    (80.0, 152.0),
    (90.0, 158.0),
    (100.0, 153.0),
];

fn rule(max_downtime_ms: u32, then: LastResort) -> KubevirtStall {
    KubevirtStall { max_downtime_ms, ..KubevirtStall::new(Bytes::from_mib(8 << 10), then) }
}

/// The end of a pass, at a bandwidth of 100.
fn boundary((elapsed_seconds, remaining_bytes): (f64, f64)) -> Sample {
    Sample {
        elapsed_seconds,
        remaining_bytes,
        at_pass_boundary: true,
        rate_bytes_per_second: 100.0,
        ..poll(0.0)
    }
}

fn run(rule: KubevirtStall, passes: &[(f64, f64)]) -> Vec<(f64, Step)> {
    steps(&Ladder::KubevirtStall(rule), passes.iter().copied().map(boundary))
}

#[test]
fn beyond_the_longest_downtime_it_aborts() {
    assert_eq!(run(rule(900, LastResort::Abort), &PASSES), [(100.0, Step::Abort)]);
}

#[test]
fn with_permission_it_switches_to_post_copy() {
    assert_eq!(run(rule(900, LastResort::PostCopy), &PASSES), [(100.0, Step::PostCopy)]);
}

#[test]
fn with_permission_to_pause_it_forces_the_stop() {
    let expected = [(100.0, limit(2_000_000))];
    assert_eq!(run(rule(900, LastResort::ForceStop), &PASSES), expected);
}

#[test]
fn within_the_longest_downtime_it_sets_the_limit() {
    assert_eq!(run(rule(2000, LastResort::Abort), &PASSES), [(100.0, limit(2000))]);
    // 1.53 s are 1.5 times 1020 ms.
    assert_eq!(run(rule(1020, LastResort::Abort), &PASSES), [(100.0, limit(1020))]);
    assert_eq!(run(rule(1019, LastResort::Abort), &PASSES), [(100.0, Step::Abort)]);
}

#[test]
fn a_stall_is_found_at_90_with_its_best() {
    let mut state = StallState::default();
    let rule = rule(900, LastResort::Abort);
    for pass in &PASSES[..7] {
        assert_eq!(state.observe(&rule, &boundary(*pass)), None);
    }
    assert!(state.stall.is_none());
    assert_eq!(state.observe(&rule, &boundary(PASSES[7])), None);
    let stall = state.stall.unwrap();
    assert_eq!([stall.best_bytes, stall.relax_at].as_slice(), [150.0, 130.0]);
}

#[test]
fn it_relaxes_when_the_best_does_not_come_back() {
    let later = [(100.0, 200.0), (110.0, 190.0), (120.0, 195.0), (130.0, 192.0)];
    let passes = [&PASSES[..8], &later].concat();
    assert_eq!(run(rule(2000, LastResort::Abort), &passes), [(130.0, limit(2000))]);
    // At 130 the best becomes 190; the next relaxation comes 20 s later.
    let later = [(130.0, 300.0), (140.0, 310.0), (149.0, 310.0), (150.0, 310.0)];
    let passes = [&passes[..11], &later].concat();
    assert_eq!(run(rule(9000, LastResort::Abort), &passes), []);
    let passes = [passes.as_slice(), &[(151.0, 202.0)]].concat();
    assert_eq!(run(rule(9000, LastResort::Abort), &passes), [(151.0, limit(9000))]);
}

#[test]
fn without_the_search_it_acts_when_it_finds_the_stall() {
    let rule = KubevirtStall { search_minimum: false, ..rule(2000, LastResort::Abort) };
    assert_eq!(run(rule, &PASSES), [(90.0, limit(2000))]);
}

#[test]
fn no_progress_at_all_is_a_stall_after_the_window() {
    let passes: Vec<_> = (0..20u32).map(|i| (f64::from(i * 10), 100.0)).collect();
    assert_eq!(run(rule(900, LastResort::PostCopy), &passes), [(40.0, Step::PostCopy)]);
    let wide = KubevirtStall { window_s: 60.0, ..rule(900, LastResort::PostCopy) };
    assert_eq!(run(wide, &passes), [(60.0, Step::PostCopy)]);
}

#[test]
fn steady_progress_is_no_stall() {
    let passes: Vec<_> =
        (0..40u32).map(|i| (f64::from(i * 10), 1e6 * 0.9f64.powf(f64::from(i)))).collect();
    assert_eq!(run(rule(900, LastResort::PostCopy), &passes), []);
}

#[test]
fn bandwidth_is_a_weighted_mean() {
    let mut state = StallState::default();
    for rate in [0.0, 100.0, 60.0, 110.0, 90.0] {
        state.note_bandwidth(rate);
    }
    assert!((state.bandwidth.unwrap() - 92.64).abs() < 0.005);
}

#[test]
fn bandwidth_comes_from_polls_and_only_first_from_a_pass() {
    let mut state = StallState::default();
    let rule = rule(900, LastResort::Abort);
    let at = |at_pass_boundary, rate_bytes_per_second| Sample {
        at_pass_boundary,
        rate_bytes_per_second,
        ..poll(1.0)
    };
    for sample in [at(true, 100.0), at(true, 900.0), at(false, 60.0)] {
        state.observe(&rule, &sample);
    }
    assert!((state.bandwidth.unwrap() - 84.0).abs() < 1e-9);
}

#[test]
fn a_switchover_that_does_not_begin_is_given_up() {
    let ladder = Ladder::KubevirtStall(rule(2000, LastResort::Abort));
    let polls = [160.0, 160.5, 161.0].map(poll);
    let samples = PASSES.into_iter().map(boundary).chain(polls);
    assert_eq!(steps(&ladder, samples), [(100.0, limit(2000)), (160.5, Step::Abort)]);
}

#[test]
fn a_network_that_is_down_is_waited_for() {
    // The time for 1 GiB is 150 s; with 0.5 bytes per second the rest needs more than the double.
    let rule = KubevirtStall { size_gib: 1.0, ..rule(2000, LastResort::PostCopy) };
    let slow = |pass| Sample { rate_bytes_per_second: 0.5, ..boundary(pass) };
    let late = [(150.0, 149.0), (151.0, 149.0)].map(slow);
    let samples = PASSES.into_iter().map(slow).chain(late);
    assert_eq!(steps(&Ladder::KubevirtStall(rule), samples), [(151.0, Step::Abort)]);
}

#[test]
fn completion_timeout_without_a_stall() {
    let late = |then, max_ms| {
        let ladder = Ladder::KubevirtStall(rule(max_ms, then));
        let at = |seconds| Sample { remaining_bytes: 1e9, ..poll(seconds) };
        steps(&ladder, [at(1200.0), at(1200.4), at(1260.4), at(1260.8)])
    };
    // Here the longest downtime is not tried.
    assert_eq!(late(LastResort::Abort, 90_000), [(1200.4, Step::Abort)]);
    assert_eq!(late(LastResort::PostCopy, 900), [(1200.4, Step::PostCopy)]);
    let expected = [(1200.4, limit(2_000_000)), (1260.8, Step::Abort)];
    assert_eq!(late(LastResort::ForceStop, 900), expected);
}

#[test]
fn a_late_first_sample() {
    let first = |seconds| run(rule(900, LastResort::PostCopy), &[(seconds, 900.0)]);
    assert_eq!(first(1000.0), []);
    assert_eq!(first(1300.0), [(1300.0, Step::PostCopy)]);
    // So late that nothing ends in time.
    assert_eq!(first(2400.0), [(2400.0, Step::Abort)]);
}

#[test]
fn without_bandwidth_there_is_no_stall_only_a_timeout() {
    let still = |pass| Sample { rate_bytes_per_second: 0.0, ..boundary(pass) };
    let passes = PASSES.into_iter().chain([(1201.0, 150.0)]).map(still);
    let ladder = Ladder::KubevirtStall(rule(2000, LastResort::PostCopy));
    assert_eq!(steps(&ladder, passes), [(1201.0, Step::Abort)]);
}

#[test]
fn a_vm_without_size_has_neither_timeout_nor_time() {
    let rule = KubevirtStall { size_gib: 0.0, ..rule(2000, LastResort::PostCopy) };
    assert_eq!(run(rule, &PASSES), []);
    assert_eq!(run(rule, &[(1e6, 1.0), (2e6, 1.0)]), []);
}

#[test]
fn memory_is_bounded_and_keeps_the_least() {
    let mut state = StallState::default();
    for i in 0..5000u32 {
        let pass = Remainder { at: f64::from(i) * 1e-3, bytes: f64::from(6000 - i) };
        state.note_candidate(WINDOW_S, pass);
    }
    assert_eq!(state.candidates.len(), CANDIDATES_MAX);
    assert!((state.candidates.back().unwrap().bytes - 1001.0).abs() < 1e-9);

    let mut stall = Stall::new(1.0, 1e9, 0.0);
    for i in 0..5000u32 {
        stall.relax(Remainder { at: f64::from(i), bytes: f64::from(i * 7919 % 5000) });
    }
    assert_eq!(stall.history.len(), HISTORY_MAX);
    stall.relax(Remainder { at: 1e9, bytes: 9e9 });
    assert!(stall.best_bytes.abs() < 1e-9);
}
