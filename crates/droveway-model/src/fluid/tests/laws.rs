//! Laws of any gang: nothing is carried twice or above capacity, more port is never slower, more dirtying never faster.

use super::*;

fn area(trace: &PortTrace, of: impl Fn(&PortLoad) -> f64) -> f64 {
    let one = |segment: &Segment| (segment.to_seconds - segment.from_seconds) * of(&segment.load);
    trace.segments.iter().map(one).sum()
}

fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * a.abs().max(b.abs()).max(1.0)
}

/// A gang whose members write, all at once or some at a time.
#[derive(Debug, Clone)]
struct Writers {
    /// Bytes, working set (share of them), writes per second of each page.
    vms: Vec<(f64, f64, f64)>,
    technique: Technique,
    window: usize,
    rate: f64,
    /// Elastic flows at the source's port.
    beside: usize,
}

prop_compose! {
    fn writers(techniques: Vec<Technique>)(
        vms in prop::collection::vec((50.0..2000.0_f64, 0.0..0.5_f64, 0.0..1.0_f64), 1..6),
        technique in prop::sample::select(techniques),
        serial in any::<bool>(),
        rate in 40.0..200.0_f64,
        beside in 0..3_usize,
    ) -> Writers {
        let window = if serial { 1 } else { vms.len() };
        Writers { vms, technique, window, rate, beside }
    }
}

impl Writers {
    fn play(&self, rate: f64, dirtier: f64) -> Course {
        let vms = self.vms.iter().map(|(bytes, share, writes)| {
            let page = PageClass { bytes: bytes * share, writes_per_second: writes * dirtier };
            let curve = DirtyCurve::Classes { classes: vec![page] };
            VmModel { send_bytes: *bytes, curve, ..vm(0, 0.0) }
        });
        let moves = (0..self.vms.len()).map(|vm| MoveModel {
            switchover_bandwidth: f64::INFINITY,
            ..step(vm, self.technique, Start::InWindow(0))
        });
        let flow =
            FlowModel { from: End::Host(0), to: End::Outside, demand: f64::INFINITY, weight: 1.0 };
        let mut gang = gang(vms.collect(), vec![flow; self.beside], moves.collect());
        gang.windows = vec![self.window];
        gang.ports = vec![PortModel::shared(rate); 2];
        Fluid::default().play(&gang)
    }

    /// What the end of a pass in its last slice may change: each pass of each move ends somewhere in it.
    fn slices(&self, courses: [&Course; 2]) -> f64 {
        let passes: u32 = courses.iter().flat_map(|c| &c.moves).map(|m| m.passes + 1).sum();
        0.047 * f64::from(passes)
    }
}

proptest! {
    #[test]
    fn what_the_ports_carried_is_what_moves_and_flows_had(gang in any_gang()) {
        let (course, trace) = Fluid::default().trace(&gang);
        let sum = |of: fn(&PortLoad) -> f64| -> f64 {
            trace.ports.iter().map(|port| area(port, of)).sum()
        };
        // A move's bytes leave the source and arrive at the target.
        prop_assert!(same(sum(|load| load.tx.migration), course.sent_bytes), "{course:?}");
        prop_assert!(same(sum(|load| load.rx.migration), course.sent_bytes));
        prop_assert!(same(course.moves.iter().map(|m| m.bytes).sum(), course.sent_bytes));
        // A flow between a VM and the outside crosses one direction of one port, wherever its VM is.
        let carried: f64 = course.flows.iter().map(|flow| flow.carried_bytes).sum();
        prop_assert!(same(sum(|load| load.tx.applications + load.rx.applications), carried));
        // Both together fit each direction.
        for (port, model) in trace.ports.iter().zip(&gang.ports) {
            let time: f64 = port.segments.iter().map(|s| s.to_seconds - s.from_seconds).sum();
            let sent = area(port, |load| load.tx.migration + load.tx.applications);
            let received = area(port, |load| load.rx.migration + load.rx.applications);
            prop_assert!(sent <= model.tx * time * (1.0 + 1e-6), "{sent} in {time}");
            prop_assert!(received <= model.rx * time * (1.0 + 1e-6), "{received} in {time}");
        }
        // What a flow had and what it lost is what it would have had; it may have more where it is now.
        let lasted = trace.ports.iter().flat_map(|port| &port.segments).map(|s| s.to_seconds).fold(0.0, f64::max);
        for flow in &course.flows {
            prop_assert!(flow.carried_bytes + flow.lost_bytes >= flow.baseline * lasted * (1.0 - 1e-6) - 1e-6);
        }
    }

    #[test]
    fn a_faster_port_never_slows_a_gang(writers in writers(Technique::ALL.to_vec()), more in 1.0..3.0_f64) {
        let (slow, fast) = (writers.play(writers.rate, 1.0), writers.play(writers.rate * more, 1.0));
        prop_assert!(slow.completed && fast.completed);
        let slack = writers.slices([&slow, &fast]);
        prop_assert!(
            fast.total_seconds <= slow.total_seconds + slack,
            "{} s, {} s with {more} times the port, {slack}", slow.total_seconds, fast.total_seconds
        );
    }

    #[test]
    fn more_dirtying_never_speeds_a_gang(
        writers in writers(vec![Technique::PreCopy, Technique::Hybrid]), more in 1.0..3.0_f64,
    ) {
        let (less, more) = (writers.play(writers.rate, 1.0), writers.play(writers.rate, more));
        let slack = writers.slices([&less, &more]);
        prop_assert!(
            more.total_seconds >= less.total_seconds - slack,
            "{} s, {} s with more dirtying, {slack}", less.total_seconds, more.total_seconds
        );
        prop_assert!(more.sent_bytes >= less.sent_bytes - slack * writers.rate);
    }
}
