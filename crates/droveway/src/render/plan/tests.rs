use super::{layout::Ticks, ports::steps, *};
use crate::render::tests::well_formed;
use droveway_fleet::{Scenario, VmId, document, report::Quantiles, scenario::ScenarioSpec};
use droveway_model::{
    calibration::Calibration,
    fluid::{Fluid, Load, PortLoad, PortTrace, Segment, Start},
    forecast::forecast,
    world::World,
};
use droveway_plan::{GangFacts, Known, VmFacts, play, policy};
use droveway_sim::{Physics, snapshot};
use std::{fmt::Write as _, ops::Range};

/// Everything that a picture is drawn from.
#[derive(Clone)]
struct Example {
    plan: Plan,
    intent: Intent,
    deadlines: Vec<Option<TimeSpan>>,
    forecast: Forecast,
    gang: Gang,
    course: Course,
    trace: Trace,
}

impl Example {
    /// Gangs of different VMs, with traffic in both directions and residents at the target.
    fn of(vms: usize, policy: &str, at_once: u32) -> Example {
        let (mut names, mut traffic) = (String::new(), String::new());
        for n in 0..vms {
            let memory = [256, 512, 1024, 384][n % 4];
            let rate = [5, 30, 12, 0][n % 4];
            let load =
                format!("{{ workingSet: {}MiB, writeRate: {rate}MiB/s }}", 40 + 20 * (n % 3));
            let load = if rate > 0 { format!(", memoryLoad: {load}") } else { String::new() };
            writeln!(names, "    - {{ name: vm-{n:02}, host: alpha, memory: {memory}MiB{load} }}")
                .unwrap();
            let mbit = [400, 150, 60][n % 3] * 3 / (vms + 2) + 1;
            let (from, to) = if n % 2 == 0 {
                (format!("vm-{n:02}"), "client".to_owned())
            } else {
                ("client".to_owned(), format!("vm-{n:02}"))
            };
            writeln!(
                traffic,
                "    - {{ name: t{n}, from: {from}, to: {to}, kind: tcp, rate: {mbit}Mbit/s }}"
            )
            .unwrap();
        }
        let text = format!(
            "apiVersion: droveway/v1\nkind: Scenario\nmetadata: {{ name: gang }}\nspec:\n  \
             link: {{ rate: 1Gbit/s }}\n  hosts: [ {{ name: alpha }}, {{ name: beta }} ]\n  \
             clients: [ {{ name: client }} ]\n  vms:\n{names}    \
             - {{ name: resident, host: beta, memory: 256MiB }}\n  traffic:\n{traffic}    \
             - {{ name: r, from: client, to: resident, kind: tcp, rate: 90Mbit/s }}\n"
        );
        let scenario: Scenario = document::parse::<ScenarioSpec>(&text, "example").unwrap();
        let facts = GangFacts {
            port_rate: scenario.spec.link.rate,
            vms: scenario.spec.vms.iter().take(vms).map(facts).collect(),
        };
        let moving: Vec<VmId> = facts.vms.iter().map(|vm| vm.vm.clone()).collect();
        let mut intent =
            Intent::drain("alpha".parse().unwrap(), "beta".parse().unwrap(), moving, policy);
        intent.max_parallel = Some(at_once);
        let physics = Physics::default();
        let world = World::of(&snapshot(&scenario, &physics), physics.constants);
        let calibration = Calibration { constants: physics.constants, ..Calibration::default() };
        let known = Known { world: &world, calibration: &calibration };
        let made = policy::find(policy).unwrap().plan("p", &intent, &facts, Some(known)).unwrap();
        let (moves, windows) = play::moves(&made.plan, &world).unwrap();
        let mut fluid = Fluid::default();
        let forecast = forecast(&world, &moves, &windows, &calibration, &mut fluid);
        let gang = Gang { moves, windows, ..world.gang };
        let (course, trace) = fluid.trace(&gang);
        let deadlines = vec![None; made.plan.moves.len()];
        Example { plan: made.plan, intent, deadlines, forecast, gang, course, trace }
    }

    fn drawn(&self) -> String {
        let svg = plan_picture(&PlanPicture {
            plan: &self.plan,
            intent: &self.intent,
            deadlines: &self.deadlines,
            forecast: &self.forecast,
            gang: &self.gang,
            course: &self.course,
            trace: &self.trace,
        });
        assert!(well_formed(&svg), "{svg}");
        for odd in ["NaN", "inf", "http", "href"] {
            let found = svg.replace("http://www.w3.org/2000/svg", "").contains(odd);
            assert!(!found, "'{odd}' in:\n{svg}");
        }
        svg
    }
}

fn facts(vm: &droveway_fleet::scenario::ScenarioVm) -> VmFacts {
    VmFacts {
        vm: vm.name.clone(),
        memory: vm.memory,
        allow_postcopy: true,
        max_downtime: None,
        deadline: None,
        group: None,
    }
}

/// The value of an attribute in each element of a kind.
fn values(svg: &str, element: &str, attribute: &str) -> Vec<f64> {
    let attribute = format!(" {attribute}=\"");
    let own = svg.lines().filter(|line| line.starts_with(&format!("<{element} ")));
    let value = |line: &str| line.split(&attribute).nth(1)?.split('"').next()?.parse().ok();
    own.filter_map(value).collect()
}

/// Where a text is, pixels.
struct Placed<'a> {
    words: &'a str,
    x: Range<f64>,
    y: Range<f64>,
}

/// All texts, as wide as those of a wide font are.
fn texts(svg: &str) -> Vec<Placed<'_>> {
    const WIDE: f64 = 0.57;
    let place = |line| {
        let words = str::split_once(line, '>')?.1.split_once('<')?.0;
        let [x, y, size] = ["x", "y", "font-size"].map(|name| values(line, "text", name)[0]);
        let letters = words.replace("&apos;", "'").chars().count();
        let width = count(letters) * size * WIDE;
        let start = match str::split_once(line, "text-anchor=\"")?.1 {
            anchor if anchor.starts_with("start") => x,
            anchor if anchor.starts_with("middle") => x - width / 2.0,
            _ => x - width,
        };
        Some(Placed { words, x: start..start + width, y: y - 0.75 * size..y + 0.2 * size })
    };
    svg.lines().filter(|line| line.starts_with("<text ")).filter_map(place).collect()
}

#[track_caller]
fn check(example: &Example) -> String {
    let svg = example.drawn();
    for step in &example.plan.moves {
        let name = format!(">{}</text>", shortened(step.vm.as_str()));
        assert_eq!(svg.matches(&name).count(), 1, "{name}");
    }
    let height = values(&svg, "svg", "height")[0];
    let texts = texts(&svg);
    for (index, text) in texts.iter().enumerate() {
        let (x, y) = (&text.x, &text.y);
        assert!(
            x.start > 0.0 && x.end < WIDTH && y.start > 0.0 && y.end < height,
            "{}",
            text.words
        );
        for other in &texts[index + 1..] {
            let apart = |a: &Range<f64>, b: &Range<f64>| a.end <= b.start || b.end <= a.start;
            assert!(
                apart(x, &other.x) || apart(y, &other.y),
                "'{}' on '{}'",
                text.words,
                other.words
            );
        }
    }
    assert!(values(&svg, "text", "font-size").iter().all(|size| *size >= SMALL));
    let (x, width) = (values(&svg, "rect", "x"), values(&svg, "rect", "width"));
    assert!(x.iter().zip(&width).all(|(x, width)| *x >= 0.0 && x + width <= WIDTH + 0.1));
    svg
}

#[test]
fn gangs_of_every_size_are_drawn_row_by_row() {
    for (vms, policy, at_once) in [
        (1, "pre-copy-serial", 1),
        (8, "hybrid-parallel", 8),
        (8, "post-copy-serial", 1),
        (3, "stop-and-copy", 1),
        (64, "pre-copy-parallel", 4),
    ] {
        let example = Example::of(vms, policy, at_once);
        let svg = check(&example);
        let vms = if vms == 1 { "1 VM from".to_owned() } else { format!("{vms} VMs from") };
        for part in [
            vms.as_str(),
            "forecast",
            "p10 to p90",
            policy,
            "urgency medium",
            "alpha (source)",
            "beta (target)",
            "transmits (TX), Mbit/s",
            "receives (RX), Mbit/s",
            "Mbit/s",
            "capacity 9",
            " s</text>",
        ] {
            assert!(svg.contains(part), "{policy}: no '{part}'");
        }
        let exposes = example.course.moves.iter().any(|own| own.exposure_seconds > 0.0);
        assert_eq!(svg.contains("exposed, memory"), exposes, "{policy}");
        assert!(!svg.contains(">deadline"), "there is none");
    }
}

#[test]
fn deadlines_are_marked_and_late_ones_said() {
    let mut example = Example::of(3, "pre-copy-serial", 1);
    example.deadlines =
        vec![Some(TimeSpan::from_millis(200)), None, Some(TimeSpan::from_secs(900))];
    example.intent.deadline = Some(TimeSpan::from_millis(1500));
    let svg = check(&example);
    for part in [
        ">deadline</text>",
        ">deadline 1.50 s, missed</text>",
        ">late: 200 ms</text>",
        ">900 s</text>",
    ] {
        assert!(svg.contains(part), "no '{part}' in:\n{svg}");
    }
    assert!(svg.contains(", deadline 1.50 s; applications"), "{svg}");
    example.plan.reservations = vec![droveway_plan::Reservation {
        port: "alpha".parse().unwrap(),
        direction: droveway_plan::Direction::Tx,
        rate: "600Mbit/s".parse().unwrap(),
    }];
    assert!(check(&example).contains("one at a time, 600 Mbit/s held, deadline 1.50 s"), "{svg}");
}

#[test]
fn a_wait_is_said_and_the_picture_begins_at_its_end() {
    let mut example = Example::of(3, "pre-copy-serial", 1);
    let early = example.drawn();
    example.plan.start_after = Some(TimeSpan::from_secs(300));
    example.gang.moves[0].start = Start::At(300.0);
    for (index, step) in example.gang.moves.iter_mut().enumerate().skip(1) {
        step.start = Start::AfterEnd { step: index - 1, delay: 0.0 };
    }
    (example.course, example.trace) = Fluid::default().trace(&example.gang);
    example.intent.deadline = Some(TimeSpan::from_secs(301));
    let svg = check(&example);
    assert!(svg.contains(", after a wait of 300 s, deadline 301 s; applications"), "{svg}");
    assert!(svg.contains(">deadline 301 s, missed</text>"), "from the run's start: {svg}");
    // Bars are as wide as they are without the wait.
    let bars = |svg: &str| {
        let own = format!("fill=\"{}\"", hex(color(Technique::PreCopy)));
        let lines: Vec<_> = svg.lines().filter(|line| line.contains(&own)).collect();
        values(&lines.join("\n"), "rect", "width")
    };
    let pairs: Vec<_> = bars(&early).into_iter().zip(bars(&svg)).collect();
    assert!(pairs.len() > 3 && pairs.iter().all(|(a, b)| (a - b).abs() <= 1.0), "{pairs:?}");
    let middle = svg.lines().filter(|line| line.contains("text-anchor=\"middle\""));
    let seconds = middle.filter_map(|line| line.split_once('>')?.1.strip_suffix(" s</text>"));
    let axis: Vec<f64> = seconds.filter_map(|text| text.parse().ok()).collect();
    assert!(axis.iter().filter(|at| **at >= 299.0).count() > 5, "{axis:?}");
}

#[test]
fn odd_plans_are_drawn_too() {
    let mut nothing = Example::of(2, "pre-copy-serial", 1);
    nothing.plan.moves.clear();
    nothing.gang.moves.clear();
    nothing.forecast.moves.clear();
    (nothing.course, nothing.trace) = Fluid::default().trace(&nothing.gang);
    check(&nothing);

    let mut instant = Example::of(1, "post-copy-serial", 1);
    instant.trace.moves[0].phases.clear();
    instant.trace.ports.iter_mut().for_each(|port| port.segments.clear());
    instant.course.moves[0].end_seconds = 0.0;
    instant.forecast.total_seconds = Quantiles { p10: 0.0, p50: 0.0, p90: 0.0 };
    check(&instant);

    let mut endless = Example::of(2, "pre-copy-serial", 1);
    endless.course.moves[0].end = MoveEnd::StaysAtSource;
    endless.course.moves[1].end = MoveEnd::Unfinished;
    endless.course.moves[1].end_seconds = 86_400.0;
    let svg = check(&endless);
    assert!(svg.contains("stays at the source") && svg.contains("does not end"));
    let ticks = svg.lines().filter(|line| line.contains("middle") && line.contains(" s<"));
    assert!(ticks.count() > 8, "what never ends does not squeeze the rest");
    endless.trace.moves[1].phases.clear();
    assert!(check(&endless).contains("never starts"));

    let mut long = Example::of(1, "pre-copy-serial", 1);
    long.plan.moves[0].vm = "a-name-that-is-as-long-as-names-may-be-and-more".parse().unwrap();
    long.plan.source = "a-host-with-a-name-that-is-as-long-as-names-may-be".parse().unwrap();
    long.intent.deadline = Some(TimeSpan::from_millis(100));
    long.deadlines[0] = Some(TimeSpan::from_millis(100));
    let svg = check(&long);
    assert!(svg.contains("a-name-that-is-as-long-as-names-may-be-and-more, pre-copy: "));
}

#[test]
fn downtime_and_outage_can_be_seen_however_short() {
    let example = Example::of(1, "post-copy-serial", 1);
    let widths = |example: &Example, color: RGBColor| -> Vec<f64> {
        let (svg, paint) = (example.drawn(), format!("fill=\"{}\"", hex(color)));
        let own: Vec<_> = svg.lines().filter(|line| line.contains(&paint)).collect();
        values(&own.join("\n"), "rect", "width")
    };
    // In the legend, and in the row.
    let silent = widths(&example, VERMILION);
    assert!(silent.len() == 2 && silent.iter().all(|width| *width >= SEEN), "{silent:?}");
    assert!(widths(&example, INK).iter().all(|width| *width >= SEEN));
    let mut heard = example;
    heard.course.moves[0].outage_seconds = heard.course.moves[0].downtime_seconds;
    assert_eq!(widths(&heard, VERMILION).len(), 1);
}

#[test]
fn narrow_pieces_are_drawn_together_and_keep_their_area() {
    let load = |migration: f64| PortLoad {
        tx: Load { migration, applications: 1.0, wanted: 2.0 },
        rx: Load::default(),
    };
    let segment = |n: u32| Segment {
        from_seconds: f64::from(n) * 0.001,
        to_seconds: f64::from(n + 1) * 0.001,
        load: load(f64::from(n % 7)),
    };
    let trace = PortTrace {
        before: load(0.0),
        segments: (0..10_000).map(segment).collect(),
        after: load(3.0),
    };
    let layout = Layout {
        right: 980.0,
        numbers: 1184.0,
        from: -0.3,
        to: 10.4,
        row_height: 20.0,
        deadlines: false,
    };
    let steps = steps(&trace, |load| load.tx, &layout);
    assert!(steps.len() < 1500, "{}", steps.len());
    assert!(steps.windows(2).all(|pair| (pair[0].to - pair[1].from).abs() < 1e-6));
    let area: f64 = steps.iter().map(|step| (step.to - step.from) * step.load.migration).sum();
    let played: f64 = trace.segments.iter().map(|piece| piece.load.tx.migration * 0.001).sum();
    let expected = (played + 0.4 * 3.0) / layout.seconds_a_pixel();
    assert!((area - expected).abs() < 1e-6 * expected, "{area}, not {expected}");
    assert!(steps.iter().all(|step| (step.load.wanted - 2.0).abs() < 1e-9));
}

#[test]
fn ticks_are_round() {
    for (from, to, labels) in [
        (0.0, 5.2, "0.0 0.5 1.0 1.5 2.0 2.5 3.0 3.5 4.0 4.5 5.0"),
        (
            0.0,
            0.012,
            "0.000 0.001 0.002 0.003 0.004 0.005 0.006 0.007 0.008 0.009 0.010 0.011 0.012",
        ),
        (0.0, 70.0, "0 10 20 30 40 50 60 70"),
        (0.0, 23.0, "0 2 4 6 8 10 12 14 16 18 20 22"),
        (0.0, 1000.0, "0 100 200 300 400 500 600 700 800 900 1000"),
    ] {
        let ticks = Ticks::of(from, to, 12.0);
        let all: Vec<_> = ticks.values().map(|value| ticks.label(value)).collect();
        assert_eq!(all.join(" "), labels);
    }
}
