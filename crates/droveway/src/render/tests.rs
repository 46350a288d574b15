use super::*;
use droveway_fleet::{
    Intent, RunReport, Technique,
    report::{
        ApplicationReport, ControllerCost, Decision, MoveResult, PathReport, PhaseSpan, PortPoint,
        PortSeries, RttReport, SeriesPoint, VmReport,
    },
};

fn vm(name: &str, technique: Technique, start: f64, end: f64) -> VmReport {
    let phase = |phase: &str, start_seconds, end_seconds| PhaseSpan {
        phase: phase.to_owned(),
        start_seconds,
        end_seconds,
    };
    let last = if technique.exposes() { "post-copy" } else { "switchover" };
    VmReport {
        name: name.parse().unwrap(),
        technique,
        fallback_taken: None,
        result: MoveResult::Completed,
        reason: None,
        start_seconds: Some(start),
        end_seconds: Some(end),
        downtime_seconds: Some(0.164),
        qemu_downtime_seconds: Some(0.002),
        outage_seconds: None,
        migrated_bytes: 116_000_000,
        needed_bytes: 116_000_000,
        passes: 2,
        exposure_seconds: if technique.exposes() { 1.0 } else { 0.0 },
        postcopy_requests: 0,
        blocked_seconds: technique.exposes().then_some(0.321),
        vcpu_blocked_seconds: Vec::new(),
        phases: vec![
            phase("preparing", -0.1, start),
            phase("pre-copy", start, end - 0.2),
            phase(last, end - 0.2, end),
        ],
        path: None,
        predicted: None,
    }
}

fn report() -> RunReport {
    let points = (0_u32..50).map(|n| f64::from(n) * 0.2 - 4.0);
    RunReport {
        api_version: "droveway/v1".to_owned(),
        kind: "RunReport".to_owned(),
        run_id: "run-1".to_owned(),
        started_at: "2026-01-01T00:00:00Z".to_owned(),
        policy: "pre-copy-parallel".to_owned(),
        intent: Intent::drain(
            "alpha".parse().unwrap(),
            "beta".parse().unwrap(),
            Vec::new(),
            "pre-copy-parallel",
        ),
        accelerator: "tcg".to_owned(),
        qemu_version: "10.0.2".to_owned(),
        kernel_version: "6.1".to_owned(),
        total_migration_time_seconds: 3.1,
        eviction_time_seconds: Some(3.2),
        migrated_bytes: 232_000_000,
        wire_bytes: None,
        line_rate_seconds: 2.8,
        exit_code: 0,
        vms: vec![
            vm("sender", Technique::PostCopy, 0.0, 3.0),
            vm("receiver", Technique::PreCopy, 0.1, 3.1),
        ],
        predicted: None,
        applications: vec![ApplicationReport {
            name: "pages".parse().unwrap(),
            kind: "tcp".to_owned(),
            from: "sender".parse().unwrap(),
            to: "client".parse().unwrap(),
            unit: "Mbit/s".to_owned(),
            before: Some(400.0),
            during: Some(100.0),
            after: None,
            lost_bytes: Some(116_250_000),
            lost_requests: None,
            loss_ratio: Some(0.75),
            p50_before_ms: None,
            p50_during_ms: None,
            p99_before_ms: None,
            p999_before_ms: None,
            p999_during_ms: None,
            p99_during_ms: None,
            series: points
                .clone()
                .map(|at_seconds| SeriesPoint {
                    at_seconds,
                    rate: if (0.0..3.0).contains(&at_seconds) { 100.0 } else { 400.0 },
                })
                .collect(),
        }],
        reservations: Vec::new(),
        divergences: Vec::new(),
        decisions: vec![Decision {
            at_seconds: 0.5,
            vm: Some("sender".parse().unwrap()),
            reason: "it had to".to_owned(),
            inputs: "numbers".to_owned(),
            choice: "switch to post-copy".to_owned(),
            runner_up: None,
            margin: None,
        }],
        cpu_busy_ratio: Some(0.5),
        controller: ControllerCost { cpu_core_ratio: 0.01, memory_bytes_max: 23_000_000 },
        ports: vec![PortSeries {
            host: "alpha".parse().unwrap(),
            capacity_bits_per_second: 1_000_000_000,
            samples: points
                .map(|at_seconds| PortPoint {
                    at_seconds,
                    tx_bits_per_second: 9e8,
                    rx_bits_per_second: 1e8,
                })
                .collect(),
        }],
        remarks: vec!["a remark".to_owned()],
    }
}

#[test]
fn the_markdown_tells_everything() {
    let text = markdown(&report());
    for part in [
        "2 of 2 VMs moved from alpha to beta in 3.10 s (1.11 times the 2.80 s",
        "Longest downtime 164 ms",
        "| 321 ms",
        "Exit 0: done within limits",
        "> **Note:** a remark",
        "sender",
        "receiver",
        "pages",
        "75 %",
        "900 / 900 Mbit/s",
        "No forecast was made",
        "**switch to post-copy**, because it had to",
    ] {
        assert!(text.contains(part), "no '{part}' in:\n{text}");
    }
    assert!(!text.contains("NaN"));
}

#[test]
fn the_path_of_a_migration_is_told_where_it_was_seen() {
    let mut seen = report();
    assert!(!markdown(&seen).contains("## Paths"));
    seen.vms[1].path = Some(PathReport {
        rtt_ms: RttReport { p50: 5.04, max: 52.3 },
        retransmits: 92,
        lost_segments_max: 3,
        delivery_bits_per_second: Some(184e6),
    });
    let text = markdown(&seen);
    let (_, paths) = text.split_once("## Paths").unwrap();
    let row = paths.lines().find(|line| line.contains("receiver")).unwrap();
    let cells: Vec<_> = row.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!(cells, ["receiver", "5.0 ms", "52.3 ms", "92", "3", "184 Mbit/s"]);
    let json = serde_json::to_value(&seen.vms[1]).unwrap();
    assert_eq!(
        (&json["path"]["rttMs"]["max"], &json["path"]["retransmits"]),
        (&52.3.into(), &92.into())
    );
}

#[test]
fn a_vm_that_did_not_move_says_why() {
    let mut bad = report();
    bad.exit_code = 7;
    bad.vms[0].result = MoveResult::Lost;
    bad.vms[0].reason = Some("the target died".to_owned());
    bad.vms[0].downtime_seconds = None;
    bad.vms[0].end_seconds = None;
    for text in [markdown(&bad), terminal(&bad, false)] {
        assert!(text.contains("1 of 2 VMs moved"), "{text}");
        assert!(text.contains("sender: the target died"), "{text}");
        assert!(text.contains("a VM needs recovery or is lost"), "{text}");
    }
    assert!(timeline(&bad).unwrap().contains("lost"));
}

#[test]
fn the_terminal_s_summary_is_short_and_plain_without_colour() {
    let text = terminal(&report(), false);
    assert!(text.lines().count() <= 30, "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(text.contains("pages"));
}

#[test]
fn the_better_run_is_marked() {
    let mut other = report();
    other.total_migration_time_seconds = 9.0;
    other.applications[0].loss_ratio = Some(0.2);
    let text = side_by_side(&[report(), other]);
    let row = |label: &str| text.lines().find(|line| line.contains(label)).unwrap().to_owned();
    assert!(row("total migration time").contains("3.10 s *"), "{text}");
    assert!(row("pages loss").contains("20 % *"), "{text}");
    assert!(row("sender blocked").contains("321 ms"), "{text}");
    assert!(!text.contains("receiver blocked"), "it was not post-copied: {text}");
    assert!(!row("sender downtime").contains('*'), "a tie has no winner: {text}");
}

/// The same run, after a wait for a quieter phase.
fn waited(wait: f64) -> RunReport {
    let mut late = report();
    for vm in &mut late.vms {
        for at in [&mut vm.start_seconds, &mut vm.end_seconds] {
            *at = at.map(|at| at + wait);
        }
        for phase in &mut vm.phases {
            phase.start_seconds += wait;
            phase.end_seconds += wait;
        }
    }
    for point in &mut late.ports[0].samples {
        point.at_seconds += wait;
    }
    for point in &mut late.applications[0].series {
        point.at_seconds += wait;
    }
    late
}

#[test]
fn a_run_that_waited_is_shown_from_its_first_start_on() {
    let (at_once, late) = (report(), waited(40.0));
    for text in [markdown(&late), terminal(&late, false)] {
        assert!(text.contains("in 3.10 s, after a wait of 40 s (1.11 times"), "{text}");
    }
    assert!(!markdown(&at_once).contains("after a wait"));
    assert!(markdown(&late).contains("900 / 900 Mbit/s"), "the ports, while VMs moved");
    // The same picture, with later times beneath.
    let [early, later] = [timeline(&at_once).unwrap(), timeline(&late).unwrap()];
    assert!(later.contains("after a wait of 40 s") && later.contains("40 s"), "{later}");
    let shapes = |svg: &str| {
        let own = |kind: &str| svg.lines().filter(|line| line.starts_with(kind)).count();
        ["<rect", "<polyline", "<polygon"].map(own)
    };
    assert_eq!(shapes(&early), shapes(&later));
    let bars = |svg: &str| -> Vec<String> {
        svg.lines().filter(|line| line.starts_with("<rect")).map(str::to_owned).collect()
    };
    assert_eq!(bars(&early), bars(&later), "its bars are where they would be without a wait");
}

#[test]
fn what_a_guest_writes_is_no_traffic() {
    let mut both = report();
    let mut load = both.applications[0].clone();
    load.name = "writer.memory-load".parse().unwrap();
    load.kind = "memory-load".to_owned();
    load.to = load.from.clone();
    load.lost_bytes = Some(3 << 30);
    both.applications.push(load.clone());
    // Also where somebody else's laboratory gives it two ends.
    load.to = "client".parse().unwrap();
    both.applications.push(load);
    assert_eq!(both.lost_network_bytes(), 116_250_000);
    let said = |p50: f64| droveway_fleet::report::Quantiles { p10: p50, p50, p90: p50 };
    both.predicted = Some(droveway_fleet::report::GangPrediction {
        total_migration_time_seconds: said(3.0),
        lost_bytes: said(100e6),
    });
    let text = markdown(&both);
    let row = text.lines().find(|line| line.contains("lost by applications")).unwrap();
    assert!(row.contains("110.86") && !row.contains("3183"), "{row}");
    assert_eq!(text.matches("3.00 GiB not written").count(), 2, "{text}");
    let beside = side_by_side(&[report(), both]);
    let row = beside.lines().find(|line| line.contains("traffic lost")).unwrap();
    assert_eq!(row.matches("111 MiB").count(), 2, "{row}");
}

/// Every element that is opened is closed, in order.
pub(super) fn well_formed(svg: &str) -> bool {
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1) {
        let Some((tag, _)) = tag.split_once('>') else { return false };
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name.to_owned()) {
                return false;
            }
        } else if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
            open.push(tag.split_whitespace().next().unwrap_or("").to_owned());
        }
    }
    open.is_empty()
}

#[test]
fn the_picture_has_every_lane_and_is_sound_whatever_the_data() {
    let svg = timeline(&report()).unwrap();
    for part in ["sender", "receiver", "port of alpha", "pages", "post-copy", "downtime 164 ms"] {
        assert!(svg.contains(part), "no '{part}'");
    }
    assert!(well_formed(&svg));

    let mut odd = report();
    odd.applications[0].series = vec![SeriesPoint { at_seconds: 0.5, rate: f64::NAN }];
    odd.applications[0].before = None;
    odd.ports[0].samples.clear();
    odd.total_migration_time_seconds = 0.0;
    odd.vms.truncate(1);
    odd.vms[0].phases.clear();
    odd.vms[0].name =
        "a-name-that-is-as-long-as-a-name-may-be-and-then-a-little-more".parse().unwrap();
    let svg = timeline(&odd).unwrap();
    assert!(well_formed(&svg));
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    odd.total_migration_time_seconds = 4000.0;
    assert!(well_formed(&timeline(&odd).unwrap()));
    assert!(!well_formed("<svg><g></svg>"), "the check itself works");
}
