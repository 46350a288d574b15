//! A serial play is a chain of legs.

use super::*;

fn any_gang() -> impl Strategy<Value = Gang> {
    let technique = prop_oneof![
        Just(Technique::PreCopy),
        Just(Technique::Hybrid),
        Just(Technique::PostCopy),
        Just(Technique::StopAndCopy),
    ];
    let ceiling = prop_oneof![Just(f64::INFINITY), Just(0.2 * R)];
    let demand = prop_oneof![0.0..0.5 * R, Just(f64::INFINITY)];
    let of = (20.0..400.0, 0.1..60.0, technique, ceiling, demand, 0.0..0.5 * R);
    let held = prop_oneof![Just(0.0), Just(0.6)];
    (prop::collection::vec(of, 1..6), held, any::<bool>()).prop_map(|(of, held, chatty)| {
        let mut flows = Vec::new();
        let (mut vms, mut moves) = (Vec::new(), Vec::new());
        for (index, (size, dirty, technique, ceiling, sends, receives)) in of.iter().enumerate() {
            let mut one = vm(0, *dirty);
            one.send_bytes = *size;
            one.curve = DirtyCurve::Saturating {
                dirty_bytes_per_second: *dirty,
                working_set_bytes: 0.3 * size,
            };
            (one.zero_bytes, one.state_bytes) = (300.0, 0.2);
            vms.push(one);
            let mut step = step(index, *technique, Start::InWindow(0));
            step.postcopy_bandwidth = *ceiling;
            moves.push(step);
            let flow = |from, to, demand| FlowModel { from, to, demand, weight: 1.0 };
            flows.push(flow(End::Vm(index), End::Outside, *sends));
            flows.push(flow(End::Outside, End::Vm(index), *receives));
        }
        if chatty && vms.len() > 1 {
            let demand = 0.3 * R;
            flows.push(FlowModel { from: End::Vm(0), to: End::Vm(1), demand, weight: 2.0 });
            flows.push(FlowModel { from: End::Host(1), to: End::Vm(1), demand, weight: 1.0 });
        }
        let mut gang = gang(vms, flows, moves);
        // Bytes are counted in millions here.
        gang.constants = Constants {
            socket_bytes: 0.4,
            fault_bytes: 0.004_3,
            fault_queue_bytes: 0.25,
            ..Constants::PRIOR
        };
        if held > 0.0 {
            gang.ports = gang.ports.iter().map(|port| port.promised(held * R, held * R)).collect();
        }
        gang
    })
}

proptest! {
    #[test]
    fn a_serial_play_is_a_chain_of_legs(gang in any_gang()) {
        let whole = Fluid::default().play(&gang);
        let places: Vec<(usize, usize)> = (0..gang.moves.len()).map(|vm| (vm, 1)).collect();
        let mut legs = Legs::of(&gang, &places).unwrap();
        let (mut before, mut seconds, mut lost) = (Before::default(), 0.0, 0.0);
        for (place, step) in gang.moves.iter().enumerate() {
            let leg = legs.play(before, place, step).unwrap();
            let of = whole.moves[place];
            seconds += leg.course.end_seconds;
            lost += leg.lost_bytes;
            prop_assert!((seconds - of.end_seconds).abs() < 1e-6, "{leg:?} {of:?}");
            prop_assert!((leg.course.outage_seconds - of.outage_seconds).abs() < 1e-6);
            prop_assert!((leg.course.exposure_seconds - of.exposure_seconds).abs() < 1e-6);
            let silent = (leg.silent_seconds > 0.0).then_some((place, leg.silent_seconds));
            before = Before { moved: before.moved | 1 << place, silent };
        }
        lost += legs.lost_after(before.moved, before.silent);
        prop_assert!((lost - whole.lost_bytes).abs() <= 1e-6 * lost.max(1.0), "{lost} {whole:?}");
    }
}

#[test]
fn what_is_no_drain_of_one_host_has_no_legs() {
    let steps = [step(0, Technique::PreCopy, Start::InWindow(0)); 1].to_vec();
    let one = gang(vec![vm(0, 1.0), vm(1, 1.0)], vec![], steps);
    assert!(Legs::of(&one, &[(0, 1)]).is_some());
    assert!(Legs::of(&one, &[]).is_none());
    assert!(Legs::of(&one, &[(0, 1), (1, 0)]).is_none());
    let mut other = one.clone();
    other.slices_from = 1;
    assert!(Legs::of(&other, &[(0, 1)]).is_none());
}
