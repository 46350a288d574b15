use super::*;

/// The two sides of a port, with what each can carry.
fn sides(port: &PortModel, load: PortLoad) -> [(f64, Load); 2] {
    [(port.tx, load.tx), (port.rx, load.rx)]
}

fn bytes(trace: &PortTrace, of: impl Fn(&PortLoad) -> f64) -> f64 {
    let area = |segment: &Segment| (segment.to_seconds - segment.from_seconds) * of(&segment.load);
    trace.segments.iter().map(area).sum()
}

fn close(got: f64, expected: f64) -> bool {
    (got - expected).abs() <= 1e-6 * expected.abs().max(1.0)
}

/// What holds for every trace.
#[track_caller]
fn check(gang: &Gang) -> (Course, Trace) {
    let (course, trace) = Fluid::default().trace(gang);
    assert_eq!(course, Fluid::default().play(gang), "watching changes nothing");
    for (port, model) in trace.ports.iter().zip(&gang.ports) {
        let gaps = port.segments.windows(2).all(|pair| {
            let [first, second] = pair else { return false };
            first.to_seconds.total_cmp(&second.from_seconds).is_eq() && first.load != second.load
        });
        assert!(gaps, "{port:?}");
        assert!(port.segments.first().is_none_or(|first| first.from_seconds == 0.0));
        let loads = port.segments.iter().map(|segment| {
            assert!(segment.to_seconds > segment.from_seconds, "{segment:?}");
            segment.load
        });
        for load in loads.chain([port.before, port.after]) {
            for (capacity, side) in sides(model, load) {
                let carried = side.migration + side.applications;
                assert!(carried <= capacity * (1.0 + 1e-9), "{side:?} of {capacity}");
                assert!(side.migration >= 0.0 && side.applications >= 0.0);
                assert!(side.wanted.is_finite() && side.wanted >= side.applications);
            }
        }
    }
    for ((moved, end), step) in trace.moves.iter().zip(&course.moves).zip(&gang.moves) {
        let (first, last) = (moved.phases.first().unwrap(), moved.phases.last().unwrap());
        assert!(close(first.from_seconds, end.start_seconds));
        assert!(close(last.to_seconds, end.end_seconds));
        let seconds = |of: fn(Stage) -> bool| -> f64 {
            let own = moved.phases.iter().filter(|phase| of(phase.stage));
            own.map(|phase| phase.to_seconds - phase.from_seconds).sum()
        };
        assert!(close(seconds(Stage::is_stopped), end.downtime_seconds), "{step:?}: {moved:?}");
        assert!(moved.phases.windows(2).all(|pair| {
            pair[0].to_seconds.total_cmp(&pair[1].from_seconds).is_eq()
                && pair[0].to_seconds > pair[0].from_seconds
        }));
    }
    (course, trace)
}

#[test]
fn every_stage_has_its_time() {
    let mut gang =
        gang(vec![vm(0, 20.0)], vec![], vec![step(0, Technique::Hybrid, Start::At(2.0))]);
    gang.constants = Constants { finish_seconds: 0.5, socket_bytes: 1.0, ..gang.constants };
    gang.constants.setup_seconds = 0.25;
    gang.constants.postcopy_switch_seconds = 0.125;
    let (course, trace) = check(&gang);
    let stages: Vec<_> = trace.moves[0].phases.iter().map(|phase| phase.stage).collect();
    let expected =
        [Stage::Setup, Stage::Pass, Stage::PostcopySwitch, Stage::PostCopy, Stage::Finish];
    assert_eq!(stages, expected);
    let length = |index: usize| {
        let phase = trace.moves[0].phases[index];
        phase.to_seconds - phase.from_seconds
    };
    near(length(0), 0.25, 1e-9);
    near(length(2), 0.125 + 1.0 / R, 1e-9);
    near(length(3) + length(4), course.moves[0].exposure_seconds, 1e-9);
    near(length(4), 0.5, 1e-9);
}

#[test]
fn passes_are_told_apart() {
    let gang = gang(vec![vm(0, 40.0)], vec![], vec![step(0, Technique::PreCopy, Start::At(0.0))]);
    let (course, trace) = check(&gang);
    let passes = trace.moves[0].phases.iter().filter(|phase| phase.stage == Stage::Pass).count();
    assert!(passes > 1);
    assert_eq!(passes, course.moves[0].passes as usize);
}

#[test]
fn a_vm_takes_its_traffic_from_one_port_to_the_other() {
    let mut gang = gang(
        vec![vm(0, 0.0), vm(1, 0.0)],
        vec![outgoing(0, 50.0), incoming(1, f64::INFINITY)],
        vec![step(0, Technique::PreCopy, Start::At(1.0))],
    );
    gang.flows.push(FlowModel { from: End::Vm(0), to: End::Vm(1), demand: 10.0, weight: 1.0 });
    let (_, trace) = check(&gang);
    let [source, target] = trace.ports.as_slice() else { panic!() };
    near(source.before.tx.applications, 60.0, 1e-9);
    near(source.before.tx.wanted, 60.0, 1e-9);
    near(target.before.rx.applications, R, 1e-9);
    assert_eq!(source.after, PortLoad::default());
    // What the two say to each other stays on their host now.
    near(target.after.tx.applications, 50.0, 1e-9);
    near(target.after.rx.applications, R, 1e-9);
    // The stream and the elastic flow share what the third leaves of the target's port.
    let during = |of: fn(&PortLoad) -> f64, port: &PortTrace| of(&port.segments[1].load);
    near(during(|load| load.tx.migration, source), 51.0, 1e-9);
    near(during(|load| load.tx.applications, source), 60.0, 1e-9);
    near(during(|load| load.rx.migration, target), 51.0, 1e-9);
    near(during(|load| load.rx.applications, target), 61.0, 1e-9);
    near(during(|load| load.rx.wanted, target), R, 1e-9);
}

#[test]
fn hosts_that_have_nothing_to_do_with_each_other_keep_their_own_time() {
    let mut gang = gang(
        vec![vm(0, 0.0), vm(2, 0.0)],
        vec![],
        vec![
            step(0, Technique::PostCopy, Start::At(0.0)),
            step(1, Technique::PostCopy, Start::At(5.0)),
        ],
    );
    gang.ports = vec![PortModel::shared(R); 4];
    gang.moves[1].target = 3;
    let (course, trace) = check(&gang);
    let end = |port: usize| trace.ports[port].segments.last().unwrap().to_seconds;
    near(end(0), course.moves[0].end_seconds, 1e-9);
    near(end(3), course.moves[1].end_seconds, 1e-9);
}

#[test]
fn what_never_ends_is_traced_as_far_as_it_was_played() {
    let mut gang = gang(
        vec![vm(0, 0.0), vm(0, 0.0)],
        vec![],
        vec![
            step(0, Technique::PreCopy, Start::At(0.0)),
            step(1, Technique::PreCopy, Start::AfterEnd { step: 0, delay: 0.0 }),
        ],
    );
    gang.ports[0].tx = 0.0;
    let (course, trace) = Fluid::default().trace(&gang);
    assert!(course.moves.iter().all(|m| m.end == MoveEnd::Unfinished));
    assert_eq!(trace.moves[1], MoveTrace::default());
    assert_eq!(trace.ports[0].after, PortLoad::default());
}

proptest! {
    #[test]
    fn the_area_under_the_load_is_what_the_course_says(gang in any_gang()) {
        let (course, trace) = check(&gang);
        let sent = course.sent_bytes;
        let source = bytes(&trace.ports[0], |load| load.tx.migration);
        let target = bytes(&trace.ports[1], |load| load.rx.migration);
        let near = |got: f64| (got - sent).abs() <= 1e-9 * sent + 1e-6;
        prop_assert!(near(source) && near(target), "{source}, {target}, not {sent}");
        // Each of these flows has one end at a port.
        let lacking = |load: &PortLoad| {
            load.tx.wanted - load.tx.applications + load.rx.wanted - load.rx.applications
        };
        let lost: f64 = trace.ports.iter().map(|port| bytes(port, lacking)).sum();
        prop_assert!((lost - course.lost_bytes).abs() <= 1e-9 * course.lost_bytes + 1e-6,
            "{lost}, not {}", course.lost_bytes);
    }
}
