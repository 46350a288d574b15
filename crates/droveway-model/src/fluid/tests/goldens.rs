//! Golden values of reservations, of what applications lose, and of acknowledgements, as the model plays them.

use super::*;
use crate::technique::{ACKNOWLEDGEMENT_RATIO, REQUEST_BYTES};

#[track_caller]
fn golden(got: f64, printed: f64, digit: f64) {
    let tolerance = (0.001 * printed.abs()).max(digit / 2.0);
    assert!((got - printed).abs() <= tolerance, "{got}, not {printed}");
}

/// Traffic of somebody who stays at the source.
fn resident(demand: f64) -> FlowModel {
    FlowModel { from: End::Host(0), to: End::Outside, demand, weight: 1.0 }
}

/// One pre-copy to its last byte, beside `flows`; `reserved` of both ports is held for it.
fn played(capacity: f64, reserved: f64, flows: Vec<FlowModel>, dirty: f64) -> Course {
    let mut only = step(0, Technique::PreCopy, Start::At(0.0));
    only.downtime_limit = 0.01;
    only.switchover_bandwidth = f64::INFINITY;
    only.fallback_postcopy = false;
    let mut gang = gang(vec![vm(0, dirty)], flows, vec![only]);
    let held = reserved * capacity;
    let port = PortModel { tx_reserved: held, rx_reserved: held, ..PortModel::shared(capacity) };
    gang.ports = vec![port; 2];
    Fluid::default().play(&gang)
}

/// What a reservation of `reserved` saves of the time beside `flows` elastic ones.
fn saved_percent(capacity: f64, reserved: f64, flows: usize, dirty: f64) -> f64 {
    let elastic = || vec![resident(f64::INFINITY); flows];
    let shared = played(capacity, 0.0, elastic(), dirty).total_seconds;
    let held = played(capacity, reserved, elastic(), dirty).total_seconds;
    100.0 * (1.0 - held / shared)
}

#[test]
fn a_reservation_saves_what_the_flows_would_have_taken() {
    for (flows, printed) in
        [(1, [47.0, 33.0, 9.0]), (2, [65.0, 56.0, 39.0]), (3, [74.0, 67.0, 55.0])]
    {
        for (reserved, printed) in [0.95, 0.75, 0.55].into_iter().zip(printed) {
            golden(saved_percent(117.0, reserved, flows, 0.0), printed, 1.0);
        }
    }
    // The more a guest writes, the more a fast pass saves.
    golden(saved_percent(117.0, 0.95, 1, 20.0), 58.0, 1.0);
    golden(saved_percent(117.0, 0.95, 1, 25.0), 61.0, 1.0);
}

/// Against a flow that fills the port each migrated byte displaces one: faster loses less in all, and more a second.
#[test]
fn against_a_full_port_what_is_lost_is_what_was_sent() {
    let mut worst = 0.0;
    for (reserved, printed) in [(0.5, 3105.0), (0.55, 2966.0), (0.75, 2649.0), (0.95, 2495.0)] {
        let course = played(117.5, reserved, vec![resident(f64::INFINITY)], 20.0);
        golden(course.flows[0].lost_bytes, printed, 1.0);
        near(course.flows[0].lost_bytes, course.sent_bytes, 1e-6);
        assert!(course.flows[0].worst_loss > worst);
        worst = course.flows[0].worst_loss;
        // A guest that writes nothing is sent once, whatever is reserved.
        let idle = played(117.5, reserved, vec![resident(f64::INFINITY)], 0.0);
        near(idle.flows[0].lost_bytes, 2048.0, 1e-6);
    }
}

/// Nobody loses anything as long as the migration takes no more than what the application leaves, which is enough only for
/// a guest that writes less than that.
#[test]
fn nothing_is_lost_as_long_as_the_rate_fits_beside_the_demand() {
    let capacity = 117.5;
    for demand in [10.0, 40.0, 70.0, 100.0] {
        let fits = (capacity - demand) / capacity;
        for (reserved, loses) in
            [(0.5 * fits, false), (fits, false), (fits * 1.02, true), (0.99, true)]
        {
            let course = played(capacity, reserved, vec![resident(demand)], 0.0);
            let lost = course.flows[0].lost_bytes;
            assert_eq!(lost > 1e-6, loses, "{demand} beside {reserved}: {lost}");
            let expected = (demand - (1.0 - reserved) * capacity).max(0.0);
            assert!((course.flows[0].worst_loss - expected).abs() < 1e-6, "{demand} {reserved}");
        }
        for (dirty, converges) in [(0.8, true), (1.05, false)] {
            let dirty = dirty * (capacity - demand);
            let course = played(capacity, fits, vec![resident(demand)], dirty);
            assert!(course.flows[0].lost_bytes < 1e-3, "{demand} {dirty}: {course:?}");
            assert_eq!(course.moves[0].converged, converges, "{demand} {dirty}");
        }
    }
}

/// A stream of 112 MB/s has 3.5 MB/s of acknowledgements, which whoever receives at the source, or sends at the target, lacks.
#[test]
fn acknowledgements_take_their_part_of_the_way_back() {
    let elastic = |from, to| FlowModel { from, to, demand: f64::INFINITY, weight: 1.0 };
    let flows = vec![elastic(End::Outside, End::Host(0)), elastic(End::Host(1), End::Outside)];
    let mut gang = gang(vec![vm(0, 0.0)], flows, vec![step(0, Technique::PreCopy, Start::At(0.0))]);
    gang.constants.acknowledgement_ratio = ACKNOWLEDGEMENT_RATIO;
    let course = Fluid::default().play(&gang);
    for flow in &course.flows {
        golden(flow.worst_loss, 3.5, 0.1);
    }
    // And that is all: these two directions cost a stream nothing.
    near(course.total_seconds, 2048.0 / R, 1e-6);
}

/// A guest that waits half a millisecond for a page asks two thousand times a second: 0.2 MB/s, in post-copy alone, until it has its first
/// pages.
#[test]
fn page_requests_take_their_part_of_the_way_back() {
    let elastic =
        FlowModel { from: End::Host(1), to: End::Outside, demand: f64::INFINITY, weight: 1.0 };
    let loses = |technique| {
        let moves = vec![step(0, technique, Start::At(0.0))];
        let mut gang = gang(vec![vm(0, 0.0)], vec![elastic], moves);
        for port in &mut gang.ports {
            (port.tx, port.rx) = (R * 1e6, R * 1e6);
        }
        gang.constants.fault_seconds = 0.000_5;
        gang.vms[0].send_bytes = 2_048e6;
        gang.constants.essential_pages = 1_000.0;
        let course = Fluid::default().play(&gang);
        (course.flows[0], course.moves[0].outage_seconds)
    };
    let (flow, silent) = loses(Technique::PostCopy);
    near(flow.worst_loss, 2_000.0 * REQUEST_BYTES, 1e-6);
    assert!(silent > 0.1, "{silent}");
    near(flow.lost_bytes, 2_000.0 * REQUEST_BYTES * silent, 1e-3);
    near(loses(Technique::PreCopy).0.worst_loss, 0.0, 1e-6);
    // No more pages are asked for than the way there can bring.
    let constants = Constants { fault_seconds: 1e-9, ..Constants::IDEAL };
    near(constants.requests(4_096.0), REQUEST_BYTES, 1e-9);
    near(Constants::IDEAL.requests(4_096.0), 0.0, 1e-9);
}
