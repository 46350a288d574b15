use super::*;
use droveway_fleet::{
    Intent, Technique,
    report::{ControllerCost, GangPrediction, PortSeries},
};

/// A report of one VM that moved in so many seconds beside one stream that lost so much.
pub(crate) fn report(seconds: f64, lost_bytes: u64) -> RunReport {
    let (source, target) = ("alpha".parse().unwrap(), "beta".parse().unwrap());
    let vm: droveway_fleet::VmId = "one".parse().unwrap();
    let port = PortSeries {
        host: "alpha".parse().unwrap(),
        capacity_bits_per_second: 200_000_000,
        samples: Vec::new(),
    };
    RunReport {
        api_version: "droveway/v1".to_owned(),
        kind: "RunReport".to_owned(),
        run_id: "r".to_owned(),
        started_at: "now".to_owned(),
        policy: "p".to_owned(),
        intent: Intent::drain(source, target, vec![vm.clone()], "p"),
        accelerator: "tcg".to_owned(),
        qemu_version: "10".to_owned(),
        kernel_version: "6".to_owned(),
        total_migration_time_seconds: seconds,
        eviction_time_seconds: Some(seconds),
        migrated_bytes: 100,
        wire_bytes: Some(110),
        line_rate_seconds: 4.0,
        exit_code: 0,
        vms: vec![VmReport {
            name: vm,
            technique: Technique::PreCopy,
            fallback_taken: None,
            result: MoveResult::Completed,
            reason: None,
            start_seconds: Some(0.0),
            end_seconds: Some(seconds),
            downtime_seconds: Some(0.05),
            qemu_downtime_seconds: None,
            outage_seconds: Some(0.2),
            migrated_bytes: 100,
            needed_bytes: 90,
            passes: 2,
            exposure_seconds: 0.0,
            postcopy_requests: 0,
            blocked_seconds: None,
            vcpu_blocked_seconds: Vec::new(),
            phases: Vec::new(),
            path: None,
            predicted: None,
        }],
        predicted: Some(GangPrediction {
            total_migration_time_seconds: Quantiles { p10: 4.0, p50: 5.0, p90: 6.0 },
            lost_bytes: Quantiles { p10: 0.0, p50: 1.0, p90: 2.0 },
        }),
        applications: vec![ApplicationReport {
            name: "pages".parse().unwrap(),
            kind: "tcp".to_owned(),
            from: "one".parse().unwrap(),
            to: "client".parse().unwrap(),
            unit: "Mbit/s".to_owned(),
            before: Some(100.0),
            during: Some(40.0),
            after: Some(100.0),
            lost_bytes: Some(lost_bytes),
            lost_requests: None,
            loss_ratio: Some(0.6),
            p50_before_ms: None,
            p50_during_ms: None,
            p99_before_ms: None,
            p99_during_ms: None,
            p999_before_ms: None,
            p999_during_ms: None,
            series: Vec::new(),
        }],
        reservations: Vec::new(),
        divergences: Vec::new(),
        decisions: Vec::new(),
        cpu_busy_ratio: Some(0.4),
        controller: ControllerCost::default(),
        ports: vec![port],
        remarks: Vec::new(),
    }
}

#[test]
fn a_report_becomes_a_row() {
    let attempt = Attempt::of(&report(5.0, 25_000_000), Some(0), true);
    assert_eq!(attempt.invalid, Vec::<String>::new());
    let run = attempt.run.unwrap();
    // 25 MB are one second of 200 Mbit/s.
    assert!((run.lost_port_seconds - 1.0).abs() < 1e-9);
    assert_eq!((run.vms, run.completed, run.lost_vms), (1, 1, 0));
    assert_eq!(run.predicted_seconds_p50, Some(5.0));
    assert_eq!(attempt.vms[0].technique, "pre-copy");
    assert_eq!(attempt.applications[0].lost_bytes, Some(25_000_000));
}

#[test]
fn what_measured_something_else_does_not_count() {
    let check = |change: &dyn Fn(&mut RunReport), probed: bool, part: &str| {
        let mut report = report(5.0, 0);
        change(&mut report);
        let invalid = Attempt::of(&report, Some(0), probed).invalid;
        assert!(invalid.iter().any(|reason| reason.contains(part)), "{invalid:?} lacks '{part}'");
    };
    check(&|it| it.cpu_busy_ratio = Some(0.97), true, "97 % busy");
    check(&|it| it.applications[0].after = Some(0.5), true, "pages died");
    check(&|it| it.applications[0].after = None, true, "pages died");
    check(&|it| it.applications[0].before = None, true, "no figures before");
    check(&|it| it.applications[0].before = Some(0.0), true, "did nothing before");
    check(&|it| it.vms[0].outage_seconds = None, true, "the probe of one was lost");
    let mut silent = report(5.0, 0);
    silent.vms[0].outage_seconds = None;
    assert!(Attempt::of(&silent, Some(0), false).invalid.is_empty(), "nobody probes here");
}

#[test]
fn a_failed_move_counts_but_has_no_time() {
    let mut failed = report(5.0, 0);
    failed.vms[0].result = MoveResult::RolledBack;
    failed.vms[0].outage_seconds = None;
    let cell = Cell {
        scenario: "s".to_owned(),
        policy: "p".to_owned(),
        intent: "medium".to_owned(),
        repeat: 1,
    };
    let attempts =
        vec![Attempt::without_report(Some(1), "no report"), Attempt::of(&failed, Some(5), true)];
    let mut result = CellResult { cell, place: 1, attempts };
    assert!(result.run().is_some() && result.moved().is_none());
    result.attempts.pop();
    assert!(result.counted().is_none(), "an attempt without report does not count");
}
