mod begun;
mod goldens;
mod laws;
mod legs;
mod trace;

use super::*;
use crate::technique::waiting;
use droveway_fleet::{DirtyCurve, Technique, curve::PageClass};
use proptest::prelude::*;

const MB: f64 = 1.0;
const R: f64 = 112.0;

fn vm(host: usize, dirty: f64) -> VmModel {
    let curve = DirtyCurve::Uniform { dirty_bytes_per_second: dirty, memory_bytes: 2048.0 * MB };
    VmModel {
        host,
        send_bytes: 2048.0,
        zero_bytes: 0.0,
        tail: Tail::default(),
        curve,
        state_bytes: 0.0,
    }
}

fn step(vm: usize, technique: Technique, start: Start) -> MoveModel {
    MoveModel {
        vm,
        target: 1,
        technique,
        start,
        bandwidth: f64::INFINITY,
        postcopy_bandwidth: f64::INFINITY,
        switchover_bandwidth: R,
        downtime_limit: 0.3,
        max_passes: 100,
        fallback_postcopy: true,
        switch_after_pass: 1,
        stalled_ratio: f64::INFINITY,
        weight: 1.0,
        throttle: false,
    }
}

fn gang(vms: Vec<VmModel>, flows: Vec<FlowModel>, moves: Vec<MoveModel>) -> Gang {
    Gang {
        ports: vec![PortModel::shared(R), PortModel::shared(R)],
        vms,
        flows,
        moves,
        windows: vec![1],
        // QEMU looks once a slice whether the rest fits the downtime.
        constants: Constants { slice_seconds: 0.047, ..Constants::IDEAL },
        horizon: 1e6,
        slices_from: 0,
    }
}

fn alone(technique: Technique, dirty: f64) -> MoveCourse {
    let gang = gang(vec![vm(0, dirty)], vec![], vec![step(0, technique, Start::At(0.0))]);
    Fluid::default().play(&gang).moves[0]
}

#[track_caller]
fn near(got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance * expected.abs(), "{got}, not {expected}");
}

/// QEMU ends a pass when the rest fits the downtime, not when it is empty: the time agrees with the closed form within a
/// few parts in a thousand, the downtime is near its limit.
#[test]
fn one_vm_alone_takes_what_the_closed_forms_say() {
    for (dirty, total) in [(5.0, 19.127), (20.0, 22.197), (40.0, 28.290), (80.0, 63.271)] {
        let course = alone(Technique::PreCopy, dirty);
        near(course.duration_seconds(), total, 0.005);
        assert!(course.converged && course.downtime_seconds <= 0.3 + 1e-9);
        assert!(course.downtime_seconds > 0.2, "{}", course.downtime_seconds);
        near(course.bytes, course.duration_seconds() * R, 1e-6);
    }
    let post = alone(Technique::PostCopy, 20.0);
    near(post.duration_seconds(), 2048.0 / R, 1e-9);
    near(post.exposure_seconds, 2048.0 / R, 1e-9);
    near(post.bytes, 2048.0, 1e-9);
    for (dirty, total, exposure) in [(20.0, 21.55, 3.27), (80.0, 31.35, 13.06)] {
        let hybrid = alone(Technique::Hybrid, dirty);
        near(hybrid.duration_seconds(), total, 0.01);
        near(hybrid.exposure_seconds, exposure, 0.08);
    }
    let stop = alone(Technique::StopAndCopy, 20.0);
    near(stop.downtime_seconds, 2048.0 / R, 1e-9);
}

/// The goldens of `dynamic-hybrid`: passes as long as they shrink by half.
#[test]
fn a_hybrid_switches_as_soon_as_a_pass_has_stalled() {
    let patient = |dirty| {
        let mut step = step(0, Technique::Hybrid, Start::At(0.0));
        (step.switch_after_pass, step.stalled_ratio) = (100, 0.5);
        let gang = gang(vec![vm(0, dirty)], vec![], vec![step]);
        Fluid::default().play(&gang).moves[0]
    };
    let stalled = patient(80.0);
    assert_eq!(stalled.passes, 1, "pass 1 left 1463 of 2048");
    near(stalled.exposure_seconds, 1462.9 / R, 0.03);
    let shrinks = patient(20.0);
    assert!(shrinks.converged && shrinks.exposure_seconds <= 0.0, "{shrinks:?}");
}

/// A gang that waits starts late as a whole, and is as quick from then on.
#[test]
fn nobody_starts_before_the_time() {
    let moves = |start: fn(usize) -> Start| {
        (0..3).map(|vm| step(vm, Technique::PreCopy, start(vm))).collect::<Vec<_>>()
    };
    let play = |moves| Fluid::default().play(&gang(vec![vm(0, 5.0); 3], vec![], moves));
    let at_once = play(moves(|_| Start::InWindow(0)));
    let late = play(moves(|_| Start::InWindowFrom { window: 0, from: 40.0 }));
    for (at_once, late) in at_once.moves.iter().zip(&late.moves) {
        near(late.start_seconds, at_once.start_seconds + 40.0, 1e-9);
        near(late.end_seconds, at_once.end_seconds + 40.0, 1e-9);
    }
    near(late.total_seconds, at_once.total_seconds, 1e-9);
}

#[test]
fn a_vm_that_never_converges_takes_its_fallback() {
    let mut gang =
        gang(vec![vm(0, 200.0)], vec![], vec![step(0, Technique::PreCopy, Start::At(0.0))]);
    gang.moves[0].max_passes = 3;
    let post = Fluid::default().play(&gang).moves[0];
    assert!(post.fell_back && !post.converged && post.end == MoveEnd::Completed);
    near(post.bytes, 4.0 * 2048.0, 0.02);
    gang.moves[0].fallback_postcopy = false;
    let stays = Fluid::default().play(&gang);
    assert_eq!(stays.moves[0].end, MoveEnd::StaysAtSource);
    assert!(!stays.completed);
}

#[test]
fn throttling_makes_it_converge() {
    let mut gang =
        gang(vec![vm(0, 120.0)], vec![], vec![step(0, Technique::PreCopy, Start::At(0.0))]);
    gang.moves[0].throttle = true;
    let course = Fluid::default().play(&gang).moves[0];
    assert!(course.converged);
    near(course.throttle, 0.6, 1e-9);
    // 125 s when each pass is sent to its last byte; QEMU ends a pass earlier.
    near(course.duration_seconds(), 118.0, 0.07);
}

fn outgoing(vm: usize, demand: f64) -> FlowModel {
    FlowModel { from: End::Vm(vm), to: End::Outside, demand, weight: 1.0 }
}

fn incoming(vm: usize, demand: f64) -> FlowModel {
    FlowModel { from: End::Outside, to: End::Vm(vm), demand, weight: 1.0 }
}

/// The four cases of direction: outgoing traffic fights pre-copy at the source, incoming traffic fights post-copy at the
/// target, and the other two meet only acknowledgements.
#[test]
fn direction_decides_which_technique_suffers() {
    let time = |technique, flow| {
        let gang = gang(vec![vm(0, 0.0)], vec![flow], vec![step(0, technique, Start::At(0.0))]);
        Fluid::default().play(&gang).moves[0].duration_seconds()
    };
    let idle = 2048.0 / R;
    near(time(Technique::PreCopy, outgoing(0, f64::INFINITY)), 2.0 * idle, 0.02);
    near(time(Technique::PostCopy, outgoing(0, f64::INFINITY)), idle, 0.02);
    near(time(Technique::PreCopy, incoming(0, f64::INFINITY)), idle, 0.02);
    near(time(Technique::PostCopy, incoming(0, f64::INFINITY)), 2.0 * idle, 0.02);
    let host =
        |host, demand| FlowModel { from: End::Host(host), to: End::Outside, demand, weight: 1.0 };
    near(time(Technique::PreCopy, host(0, 56.0)), 2.0 * idle, 0.02);
    near(time(Technique::PreCopy, host(1, f64::INFINITY)), idle, 0.02);
}

/// Two chatty VMs: once they are apart, what they say to each other uses the ports.
#[test]
fn a_pair_that_is_split_loads_the_ports() {
    let pair = |first: usize| {
        let flow = |from, to, demand| FlowModel {
            from: End::Vm(from),
            to: End::Vm(to),
            demand,
            weight: 1.0,
        };
        let order = [first, 1 - first];
        let moves = order.map(|v| step(v, Technique::PreCopy, Start::InWindow(0))).to_vec();
        let flows = vec![flow(0, 1, 30.0), flow(1, 0, 10.0)];
        let mut gang = gang(vec![vm(0, 0.0), vm(0, 0.0)], flows, moves);
        for step in &mut gang.moves {
            step.downtime_limit = 0.001;
        }
        Fluid::default().play(&gang).total_seconds
    };
    // Moving the bigger sender first is better: the pair's traffic then leaves the target, not the source.
    near(pair(0), 2048.0 / R + 2048.0 / (R - 10.0), 0.002);
    near(pair(1), 2048.0 / R + 2048.0 / (R - 30.0), 0.002);
}

#[test]
fn starts_follow_their_rules() {
    let mut gang = gang(
        vec![vm(0, 0.0), vm(0, 0.0), vm(0, 0.0)],
        vec![],
        vec![
            step(0, Technique::PostCopy, Start::At(1.0)),
            step(1, Technique::PreCopy, Start::AfterSwitch { step: 0, delay: 0.5 }),
            step(2, Technique::PreCopy, Start::AfterEnd { step: 1, delay: 2.0 }),
        ],
    );
    gang.constants.postcopy_switch_seconds = 0.25;
    let course = Fluid::default().play(&gang);
    let starts: Vec<_> = course.moves.iter().map(|m| m.start_seconds).collect();
    near(starts[0], 1.0, 1e-9);
    near(starts[1], 1.75, 1e-9);
    near(starts[2], course.moves[1].end_seconds + 2.0, 1e-9);
    assert!(course.completed);
}

#[test]
fn windows_slide() {
    let moves = (0..4).map(|v| step(v, Technique::PreCopy, Start::InWindow(0))).collect();
    let mut gang = gang((0..4).map(|_| vm(0, 0.0)).collect(), vec![], moves);
    let serial = Fluid::default().play(&gang);
    near(serial.total_seconds, 4.0 * 2048.0 / R, 1e-6);
    assert!(
        serial.moves.windows(2).all(|pair| pair[1].start_seconds >= pair[0].end_seconds - 1e-6)
    );
    gang.windows = vec![4];
    let parallel = Fluid::default().play(&gang);
    near(parallel.total_seconds, 4.0 * 2048.0 / R, 1e-6);
    near(parallel.moves[0].duration_seconds(), parallel.total_seconds, 1e-6);
}

#[test]
fn a_reservation_speeds_the_stream_and_the_loss_says_what_it_costs() {
    let mut gang = gang(
        vec![vm(0, 0.0)],
        vec![outgoing(0, f64::INFINITY)],
        vec![step(0, Technique::PreCopy, Start::At(0.0))],
    );
    let fair = Fluid::default().play(&gang);
    // Against a flow that fills the port, each migrated byte displaces one.
    near(fair.flows[0].lost_bytes, 2048.0, 0.02);
    gang.ports[0].tx_reserved = 0.75 * R;
    let reserved = Fluid::default().play(&gang);
    near(reserved.total_seconds, 2048.0 / (0.75 * R), 0.02);
    near(reserved.flows[0].lost_bytes, 2048.0, 0.02);
    near(reserved.flows[0].worst_loss, R, 1e-9);
}

/// At 100 Mbit/s: measured were 0.5 to 0.7 ms a page with tuned sockets and classes, 5.9 to 8.1 ms with stock ones.
#[test]
fn a_page_takes_its_own_bytes_and_what_stands_before_it() {
    let constants = Constants::PRIOR;
    let free = constants.page_seconds(12.5e6, f64::INFINITY, true, 1.0);
    near(free, 0.000_494, 1e-6);
    near(constants.page_seconds(12.5e6, 5e6, false, 1.0), free, 1e-12);
    let queued = constants.page_seconds(12.5e6, f64::INFINITY, false, 1.0);
    near(queued - free, 0.008, 1e-9);
    // Two at once: measured were 0.61 to 0.71 ms. Stock sockets: 10.9 to 12.7 of three at once, 12.5 to 14.5 of four.
    near(constants.page_seconds(12.5e6, f64::INFINITY, true, 2.0), 2.0 * free, 1e-12);
    near(constants.page_seconds(12.5e6, f64::INFINITY, false, 3.0) - 3.0 * free, 0.012, 1e-9);
}

#[test]
fn guests_that_fetch_at_once_wait_for_each_other() {
    let moved = |starts: [Start; 2]| {
        let step = |vm, start| step(vm, Technique::PostCopy, start);
        let mut gang = gang(
            vec![vm(0, 0.0), vm(0, 0.0)],
            vec![],
            vec![step(0, starts[0]), step(1, starts[1])],
        );
        gang.constants.fault_seconds = 0.0005;
        gang.constants.essential_pages = 800.0;
        let course = Fluid::default().play(&gang);
        course.moves.iter().map(|course| course.outage_seconds).collect::<Vec<f64>>()
    };
    let serial = moved([Start::At(0.0), Start::AfterEnd { step: 0, delay: 0.0 }]);
    near(serial[0], serial[1], 1e-6);
    for silent in moved([Start::At(0.0), Start::At(0.0)]) {
        near(silent / serial[0], 2.0, 0.05);
    }
    // Who comes when the other has its pages waits for nobody.
    for silent in moved([Start::At(0.0), Start::At(4.0)]) {
        near(silent / serial[0], 1.0, 0.05);
    }
}

#[test]
fn a_post_copied_guest_is_silent_until_its_pages_are_there() {
    let mut gang = gang(
        vec![vm(0, 0.0)],
        vec![outgoing(0, 10.0)],
        vec![step(0, Technique::PostCopy, Start::At(0.0))],
    );
    gang.constants.essential_pages = 800.0;
    gang.constants.fault_queue_bytes = 0.25;
    gang.constants.postcopy_switch_seconds = 0.04;
    let uncapped = Fluid::default().play(&gang);
    let fault = 0.25 / R;
    let transfer = 2048.0 / R;
    near(
        uncapped.moves[0].outage_seconds,
        0.04 + transfer * -(-800.0 * fault / transfer).exp_m1(),
        1e-6,
    );
    near(uncapped.flows[0].lost_bytes, 10.0 * uncapped.moves[0].outage_seconds, 1e-6);
    gang.moves[0].postcopy_bandwidth = 0.2 * R;
    let capped = Fluid::default().play(&gang);
    near(capped.moves[0].outage_seconds, 0.04, 1e-6);
    // Who touches nothing waits for nothing more, however long its memory is split.
    near(capped.moves[0].brownout_seconds, 0.0, 1e-9);
    near(capped.moves[0].exposure_seconds, 5.0 * transfer, 1e-6);
    // Who touches 500 pages a second waits for those that have not arrived.
    gang.moves[0].postcopy_bandwidth = f64::INFINITY;
    gang.constants.touch_ratio = 2.0;
    let curve =
        DirtyCurve::Uniform { dirty_bytes_per_second: 250.0 * 4096.0, memory_bytes: f64::INFINITY };
    let still = std::mem::replace(&mut gang.vms[0].curve, curve);
    let slow = Fluid::default().play(&gang).moves[0];
    near(slow.outage_seconds, uncapped.moves[0].outage_seconds, 1e-6);
    let silent = slow.outage_seconds - 0.04;
    let later = waiting(transfer - silent, 500.0, fault, 1.0 - silent / transfer);
    assert!(later > 0.1 * transfer, "{later}");
    near(slow.brownout_seconds, later, 1e-6);
    near(slow.blocked_seconds, silent + later, 1e-6);
    gang.vms[0].curve = still;
    // A class alone does nothing (measured), as requests are held back; a tuned stream keeps aside with or without one.
    let mut silent = |shaped, tuned| {
        gang.ports[0].shaped = shaped;
        gang.ports[0].tuned = tuned;
        Fluid::default().play(&gang).moves[0].outage_seconds
    };
    near(silent(true, false), uncapped.moves[0].outage_seconds, 1e-6);
    near(silent(false, true), 0.04, 1e-6);
    near(silent(true, true), 0.04, 1e-6);
}

#[test]
fn a_shaped_port_promises_no_more_than_it_has_and_lets_answers_pass() {
    let shaped = PortModel::shared(R).promised(2.0 * R, 0.1 * R);
    assert!(shaped.tx < R && (shaped.tx - shaped.tx_reserved).abs() < 1e-9);
    near(shaped.rx_reserved, 0.1 * R, 1e-9);
    // A resident of the target sends at full speed: its queue holds back what the target answers.
    let resident =
        FlowModel { from: End::Host(1), to: End::Outside, demand: f64::INFINITY, weight: 1.0 };
    let mut gang =
        gang(vec![vm(0, 0.0)], vec![resident], vec![step(0, Technique::PreCopy, Start::At(0.0))]);
    gang.constants.reverse_loss = 0.4;
    let behind = Fluid::default().play(&gang).total_seconds;
    near(behind, 2048.0 / (0.6 * R), 0.02);
    gang.ports[1] = gang.ports[1].promised(0.0, 0.0);
    let before = Fluid::default().play(&gang).total_seconds;
    near(before, 2048.0 / (0.97 * R), 0.02);
}

/// Beside a flow that fills the port: what is held, and nearly all while the VM stands still, if the queue is the host's.
#[test]
fn who_stands_still_goes_before_what_applications_are_promised() {
    let flow =
        FlowModel { from: End::Host(0), to: End::Outside, demand: f64::INFINITY, weight: 1.0 };
    let mut gang =
        gang(vec![vm(0, 0.0)], vec![flow], vec![step(0, Technique::PostCopy, Start::At(0.0))]);
    gang.vms[0].state_bytes = 0.1 * R;
    let held = PortModel { tx_reserved: 0.25 * R, ..PortModel::shared(R) };
    gang.ports[0] = held;
    near(Fluid::default().play(&gang).moves[0].downtime_seconds, 0.4, 1e-6);
    gang.ports[0] = PortModel { shaped: true, ..held };
    let course = Fluid::default().play(&gang);
    near(course.moves[0].downtime_seconds, 0.1 / HURRIED_RATIO, 1e-6);
    near(course.moves[0].exposure_seconds, 2048.0 / (0.25 * R), 1e-6);
}

#[test]
fn what_cannot_end_is_said_to_be_unfinished() {
    let mut gang =
        gang(vec![vm(0, 0.0)], vec![], vec![step(0, Technique::PreCopy, Start::At(0.0))]);
    gang.ports[0].tx = 0.0;
    assert_eq!(Fluid::default().play(&gang).moves[0].end, MoveEnd::Unfinished);
}

fn technique() -> impl Strategy<Value = Technique> {
    prop::sample::select(Technique::ALL.to_vec())
}

prop_compose! {
    fn any_gang()(
        vms in prop::collection::vec((1.0..4096.0_f64, 0.0..400.0_f64, 0.0..3.0_f64, technique(), 0.01..1.0_f64), 1..7),
        flows in prop::collection::vec((0..7_usize, any::<bool>(), prop_oneof![Just(f64::INFINITY), 0.1..200.0_f64], 1.0..4.0_f64), 0..6),
        window in 1..4_usize,
        ports in prop::collection::vec(10.0..200.0_f64, 2),
        reserved in prop_oneof![Just(0.0), 0.1..0.9_f64],
        prior in any::<bool>(),
    ) -> Gang {
        let mut gang = Gang {
            ports: ports.iter().map(|rate| PortModel { tx_reserved: reserved * rate, ..PortModel::shared(*rate) }).collect(),
            windows: vec![window],
            constants: if prior { Constants::PRIOR } else { Constants::IDEAL },
            horizon: 1e5,
            ..Gang::default()
        };
        for (bytes, working_set, writes, technique, limit) in vms {
            let classes = vec![PageClass { bytes: working_set.min(bytes), writes_per_second: writes }];
            gang.vms.push(VmModel { host: 0, send_bytes: bytes, zero_bytes: 1.0, tail: Tail::default(), curve: DirtyCurve::Classes { classes }, state_bytes: 0.1 });
            let mut step = step(gang.vms.len() - 1, technique, Start::InWindow(0));
            step.downtime_limit = limit;
            step.max_passes = 30;
            gang.moves.push(step);
        }
        for (vm, out, demand, weight) in flows {
            let end = End::Vm(vm % gang.vms.len());
            let (from, to) = if out { (end, End::Outside) } else { (End::Outside, end) };
            gang.flows.push(FlowModel { from, to, demand, weight });
        }
        gang
    }
}

proptest! {
    #[test]
    fn every_gang_ends_and_keeps_the_laws(gang in any_gang()) {
        let mut fluid = Fluid::default();
        let course = fluid.play(&gang);
        prop_assert_eq!(&fluid.play(&gang), &course, "scratch memory must not matter");
        prop_assert!(course.moves.iter().all(|m| m.end == MoveEnd::Completed), "{:?}", course);
        for (step, end) in gang.moves.iter().zip(&course.moves) {
            let vm = &gang.vms[step.vm];
            prop_assert!(end.bytes >= vm.send_bytes * (1.0 - 1e-3));
            prop_assert!(end.downtime_seconds >= 0.0 && end.outage_seconds >= end.downtime_seconds);
            prop_assert!(end.duration_seconds() >= end.downtime_seconds - 1e-9);
            prop_assert!(end.exposure_seconds <= end.duration_seconds() + 1e-9);
            // Nothing is faster than the port.
            let port = gang.ports[0].tx.min(gang.ports[1].rx);
            prop_assert!(end.duration_seconds() * port >= vm.send_bytes * (1.0 - 1e-3));
        }
        // What the moves sent is not more than the port can (with the flows beside them: `laws`).
        let port = gang.ports[0].tx.min(gang.ports[1].rx);
        prop_assert!(course.sent_bytes <= course.total_seconds * port * (1.0 + 1e-6));
        for flow in &course.flows {
            // A guest may be silent a little longer than its move lasts.
            let end = course.moves.iter().map(|m| m.end_seconds).fold(0.0, f64::max) + 0.1;
            prop_assert!(flow.lost_bytes >= 0.0 && flow.lost_bytes <= flow.baseline * end);
        }
    }

    #[test]
    fn a_faster_port_never_slows_a_lone_stream_that_only_sends(bytes in 1.0..1e4_f64, rate in 1.0..1e3_f64, more in 1.0..4.0_f64) {
        for technique in [Technique::PostCopy, Technique::StopAndCopy] {
            let time = |rate: f64| {
                let mut gang = gang(vec![vm(0, 0.0)], vec![], vec![step(0, technique, Start::At(0.0))]);
                gang.vms[0].send_bytes = bytes;
                gang.ports = vec![PortModel::shared(rate); 2];
                Fluid::default().play(&gang).total_seconds
            };
            prop_assert!(time(rate * more) <= time(rate) * (1.0 + 1e-9));
        }
    }

    #[test]
    fn more_dirtying_never_takes_less(dirty in 0.0..90.0_f64, more in 1.0..1.2_f64) {
        let time = |dirty| alone(Technique::PreCopy, dirty).bytes;
        // The end of a pass depends on the threshold, so a few bytes may go the other way.
        prop_assert!(time(dirty * more) >= time(dirty) * 0.97);
    }
}

#[test]
fn the_end_of_ram_is_as_full_as_it_was_measured() {
    let mib = f64::from(1 << 20);
    assert!((Tail::default().content(7.0 * mib) - 7.0 * mib).abs() < 1.0);
    // Full for 16 MiB, then nothing for 48: as a guest that has just booted.
    let points: Vec<_> = [(4.0, 4.0), (8.0, 8.0), (16.0, 16.0), (32.0, 16.0), (64.0, 16.0)]
        .map(|(a, b)| (a * mib, b * mib))
        .into();
    let tail = Tail::of(&points, 116.0 * mib, 256.0 * mib);
    for (ram, content) in [(2.0, 2.0), (12.0, 12.0), (24.0, 16.0), (64.0, 16.0), (256.0, 116.0)] {
        let found = tail.content(ram * mib);
        assert!((found - content * mib).abs() < 1.0, "{ram}: {} MiB", found / mib);
    }
}

#[test]
fn zeroes_at_the_end_of_ram_shorten_the_downtime() {
    let downtime = |points: &[(f64, f64)]| {
        let vm = VmModel {
            host: 0,
            send_bytes: 120e6,
            zero_bytes: 400e6,
            tail: Tail::of(points, 120e6, 520e6),
            curve: DirtyCurve::idle(),
            state_bytes: 2e5,
        };
        let mut gang =
            gang(vec![vm], vec![], vec![step(0, Technique::PreCopy, Start::InWindow(0))]);
        gang.constants = Constants::PRIOR;
        gang.ports.iter_mut().for_each(|port| (port.tx, port.rx) = (117e6, 117e6));
        gang.moves[0].switchover_bandwidth = 117e6;
        Fluid::default().play(&gang).moves[0].downtime_seconds
    };
    let (full, empty) = (downtime(&[]), downtime(&[(16e6, 16e6), (64e6, 16e6)]));
    assert!((0.25..0.4).contains(&full), "{full}");
    assert!((0.4..0.7).contains(&(empty / full)), "{empty} of {full}");
}
