use super::*;
use crate::{
    fluid::{End, FlowModel, MoveModel, PortModel, Start, Tail, VmModel},
    forecast::forecast,
    world::World,
};
use droveway_fleet::DirtyCurve;

const GBIT: f64 = 117.7e6;

fn gang(technique: Technique, vms: usize, window: usize, elastic: bool, dirty: f64) -> Gang {
    let mut gang = Gang {
        ports: vec![PortModel::shared(GBIT); 2],
        windows: vec![window],
        horizon: 1e4,
        ..Gang::default()
    };
    for vm in 0..vms {
        gang.vms.push(VmModel {
            host: 0,
            send_bytes: 120e6,
            zero_bytes: 400e6,
            tail: Tail::default(),
            curve: DirtyCurve::Saturating {
                dirty_bytes_per_second: dirty,
                working_set_bytes: 60e6,
            },
            state_bytes: 2e5,
        });
        gang.moves.push(MoveModel {
            vm,
            target: 1,
            technique,
            start: Start::InWindow(0),
            bandwidth: f64::INFINITY,
            postcopy_bandwidth: f64::INFINITY,
            switchover_bandwidth: GBIT,
            downtime_limit: 0.3,
            max_passes: 20,
            fallback_postcopy: true,
            switch_after_pass: 1,
            stalled_ratio: f64::INFINITY,
            weight: 1.0,
            throttle: false,
        });
    }
    if elastic {
        let (from, to) = (End::Vm(0), End::Outside);
        gang.flows.push(FlowModel { from, to, demand: f64::INFINITY, weight: 1.0 });
    }
    gang
}

/// What a world with these constants would have shown, each time a little off.
fn records(truth: &Constants, noise: f64) -> Vec<RunRecord> {
    let mut records = Vec::new();
    for (round, technique) in (0..3).flat_map(|r| Technique::ALL.map(|t| (r, t))) {
        for (vms, window, elastic, dirty) in
            [(1, 1, false, 0.0), (2, 2, false, 2e7), (3, 1, true, 2e7), (2, 1, true, 0.0)]
        {
            let mut gang = gang(technique, vms, window, elastic, dirty);
            gang.constants = *truth;
            let course = Fluid::default().play(&gang);
            gang.constants = Constants::PRIOR;
            let number = records.len() as f64;
            let off = 1.0 + noise * (number * 2.39996 + f64::from(round)).sin();
            let outcome = |course: &MoveCourse| MoveOutcome {
                completed: true,
                duration_seconds: course.duration_seconds() * off,
                downtime_seconds: Some(course.downtime_seconds * off),
                outage_seconds: Some(course.outage_seconds * off),
                blocked_seconds: (course.blocked_seconds > 0.0).then_some(course.blocked_seconds),
                bytes: course.bytes,
                passes: course.passes,
                exposure_seconds: Some(course.exposure_seconds),
            };
            records.push(RunRecord {
                run_id: format!("run-{}", records.len()),
                label: String::new(),
                vms: Vec::new(),
                outcomes: course.moves.iter().map(outcome).collect(),
                total_seconds: course.total_seconds * off,
                forecast: None,
                cpu_busy_ratio: None,
                held_out: false,
                gang,
            });
        }
    }
    records
}

fn truth() -> Constants {
    Constants {
        efficiency: 0.9,
        stream_weight: 0.6,
        setup_seconds: 0.06,
        switch_seconds: 0.09,
        postcopy_switch_seconds: 0.08,
        announce_seconds: 0.12,
        essential_pages: 1500.0,
        essential_pages_hybrid: 100.0,
        ..Constants::PRIOR
    }
}

/// The largest relative error of a play with the fitted constants against the world that the records came from.
fn worst(fitted: &Constants, of: fn(&MoveCourse) -> f64) -> f64 {
    let mut worst: f64 = 0.0;
    for technique in Technique::ALL {
        for (vms, window, elastic) in [(1, 1, true), (4, 2, false), (4, 4, true)] {
            let play = |constants: &Constants| {
                let mut gang = gang(technique, vms, window, elastic, 1e7);
                gang.constants = *constants;
                Fluid::default().play(&gang)
            };
            for (got, expected) in play(fitted).moves.iter().zip(&play(&truth()).moves) {
                worst = worst.max((of(got) / of(expected) - 1.0).abs());
            }
        }
    }
    worst
}

#[test]
fn constants_are_learned_from_runs_and_hold_for_others() {
    let before = worst(&Constants::PRIOR, MoveCourse::duration_seconds);
    let fitted = Calibration::fitted(records(&truth(), 0.02));
    let after = worst(&fitted.constants, MoveCourse::duration_seconds);
    assert!(after < 0.1 && after < before / 3.0, "{before} -> {after}: {:?}", fitted.constants);
    let outage = worst(&fitted.constants, |course| course.outage_seconds);
    assert!(outage < 0.3, "{outage}: {:?}", fitted.constants);
    assert!(fitted.counts["streamWeight"] > 0 && fitted.counts["essentialPages"] > 0);
}

#[test]
fn intervals_widen_with_the_noise_of_the_past_and_lean_on_priors_without_one() {
    let spread = |records| Calibration::fitted(records).error(Quantity::Total, None).1;
    let (calm, noisy) = (spread(records(&truth(), 0.01)), spread(records(&truth(), 0.2)));
    assert!(calm < 0.7 * noisy, "{calm} against {noisy}");
    assert!((spread(Vec::new()) - prior_spread(Quantity::Total)).abs() < 1e-12);
}

#[test]
fn a_failed_run_teaches_nothing_and_old_ones_are_forgotten() {
    let mut failed = records(&truth(), 0.0).remove(0);
    failed.outcomes[0].completed = false;
    let calibration = Calibration::fitted(vec![failed.clone(); 3]);
    assert_eq!(calibration.constants, Constants::PRIOR);
    assert!(calibration.residuals.is_empty());
    let mut full = Calibration { records: vec![failed.clone(); RECORDS_MAX], ..calibration };
    full.learn(failed);
    assert_eq!(full.records.len(), RECORDS_MAX);
}

#[test]
fn a_calibration_survives_being_written() {
    let calibration = Calibration::fitted(records(&truth(), 0.05));
    let text = serde_json::to_string(&calibration).unwrap();
    let read: Calibration = serde_json::from_str(&text).unwrap();
    assert_eq!(read.records.len(), calibration.records.len());
    assert_eq!(read.records[3].gang.moves, calibration.records[3].gang.moves);
    assert_eq!(read.residuals.len(), calibration.residuals.len());
}

#[test]
fn what_is_not_known_of_a_vm_widens_its_forecast() {
    let calibration = Calibration::default();
    let snapshot = |width: f64| {
        let quantiles = format!(
            r#"{{"p10":{},"p50":120000000,"p90":{}}}"#,
            120e6 * (1.0 - width),
            120e6 * (1.0 + width)
        );
        let rate = r#"{"meanBytesPerSecond":0,"ewmaBytesPerSecond":0,"p10BytesPerSecond":0,"p50BytesPerSecond":0,"p90BytesPerSecond":0,"shifts":0}"#;
        let host = |name: &str| {
            format!(
                r#"{{"name":"{name}","port":{{"interface":"nic","rateBitsPerSecond":1000000000,"rateFrom":"fleet","tx":{rate},"rx":{rate}}},"cpus":2,"cpuBusyRatio":0,"memoryBytes":1,"memoryAvailableBytes":1}}"#
            )
        };
        let text = format!(
            r#"{{"apiVersion":"droveway/v1","kind":"Snapshot","takenAt":"","windowSeconds":1,"hosts":[{},{}],"vms":[{{"name":"one","host":"alpha","state":"running","accelerator":"tcg","vcpus":1,"allowPostcopy":true,"maxDowntimeSeconds":null,"taps":[],"tx":{rate},"rx":{rate},"txLocalRatio":0,"rxLocalRatio":0,"memoryBytes":536870912,"memory":{{"residentBytes":1,"zeroRatio":0,"sendBytes":{quantiles},"compressedRatio":null,"method":"page-sampling","samples":[],"curve":{{"form":"uniform","dirtyBytesPerSecond":1000000,"memoryBytes":536870912}},"curveErrorRatio":{width}}}}}],"flows":[],"paths":[],"remarks":[]}}"#,
            host("alpha"),
            host("beta"),
        );
        serde_json::from_str::<droveway_fleet::Snapshot>(&text).unwrap()
    };
    let width = |uncertain: f64| {
        let world = World::of(&snapshot(uncertain), calibration.constants);
        let step = gang(Technique::PreCopy, 1, 1, false, 0.0).moves.remove(0);
        let made = forecast(&world, &[step], &[1], &calibration, &mut Fluid::default());
        let said = made.moves[0].duration_seconds;
        assert!(said.p10 < said.p50 && said.p50 < said.p90);
        said.p90 / said.p10
    };
    assert!(width(0.5) > 1.05 * width(0.01), "{} {}", width(0.5), width(0.01));
}
