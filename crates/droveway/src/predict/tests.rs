use super::*;
use clap::Parser as _;
use droveway_fleet::{DirtyCurve, document};
use serde_json::{Value, json};

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: PredictArgs,
}

fn arguments(more: &[&str]) -> PredictArgs {
    let line = ["predict", "writer", "idle", "--to", "beta"].iter().chain(more);
    Line::try_parse_from(line).unwrap().args
}

fn fleet() -> Fleet {
    let host = |name: &str| {
        format!(
            "  - {{ name: {name}, port: {{ interface: nic, rate: 10Gbit/s }}, migrationAddress: 10.0.0.1 }}\n"
        )
    };
    let vm = |name: &str, allow: bool| {
        format!(
            "  - {{ name: {name}, memory: 512MiB, vcpus: 1, allowPostcopy: {allow}, instances: {{ alpha: {{ qmp: 'unix:/nowhere' }} }} }}\n"
        )
    };
    let text = format!(
        "apiVersion: droveway/v1\nkind: Fleet\nmetadata: {{ name: f }}\nspec:\n hosts:\n{}{} vms:\n{}{}",
        host("alpha"),
        host("beta"),
        vm("writer", true),
        vm("idle", false)
    );
    document::parse(&text, "test").unwrap()
}

/// Ports of 1 Gbit/s, whatever the fleet says; `writer` writes `megabytes` a second all over its memory.
fn snapshot(megabytes: f64) -> Snapshot {
    let zero = json!({
        "meanBytesPerSecond": 0.0, "ewmaBytesPerSecond": 0.0, "p10BytesPerSecond": 0.0,
        "p50BytesPerSecond": 0.0, "p90BytesPerSecond": 0.0, "shifts": 0,
    });
    let host = |name: &str| {
        json!({
            "name": name, "cpus": 1, "cpuBusyRatio": 0.0, "memoryBytes": 0, "memoryAvailableBytes": 0,
            "port": {
                "interface": "nic", "rateBitsPerSecond": 1_000_000_000, "rateFrom": "ethtool",
                "tx": zero, "rx": zero,
            },
        })
    };
    let vm = |name: &str, dirty: f64| -> Value {
        let curve =
            DirtyCurve::Uniform { dirty_bytes_per_second: dirty * 1e6, memory_bytes: 400e6 };
        json!({
            "name": name, "host": "alpha", "state": "running", "accelerator": "kvm", "vcpus": 1,
            "allowPostcopy": true, "maxDowntimeSeconds": null, "taps": [], "tx": zero, "rx": zero,
            "txLocalRatio": 0.0, "rxLocalRatio": 0.0, "memoryBytes": 536_870_912,
            "memory": {
                "residentBytes": 400_000_000, "zeroRatio": 0.0, "compressedRatio": null,
                "sendBytes": {"p10": 400e6, "p50": 400e6, "p90": 400e6}, "method": "page-sampling",
                "samples": [], "curve": curve, "curveErrorRatio": 0.05,
            },
        })
    };
    serde_json::from_value(json!({
        "apiVersion": "droveway/v1", "kind": "Snapshot", "takenAt": "then", "windowSeconds": 5.0,
        "hosts": [host("alpha"), host("beta")], "vms": [vm("writer", megabytes), vm("idle", 0.0)],
        "flows": [], "paths": [], "remarks": ["what was seen"],
    }))
    .unwrap()
}

fn predicted(megabytes: f64, more: &[&str]) -> Prediction {
    let names = ["writer", "idle"].map(|name| name.parse().unwrap());
    let (args, fleet, target) = (arguments(more), fleet(), "beta".parse().unwrap());
    predict(&args, &fleet, &snapshot(megabytes), &Calibration::default(), &names, &target).unwrap()
}

fn cost<'a>(of: &'a Prediction, vm: &str, technique: Technique, throttled: bool) -> &'a Cost {
    let wanted = |cost: &&Cost| {
        cost.vm.as_str() == vm && cost.technique == technique && cost.throttled == throttled
    };
    of.vms.iter().find(wanted).unwrap()
}

#[test]
fn what_does_not_converge_says_why_and_throttling_makes_it() {
    let made = predicted(150.0, &[]);
    let plain = cost(&made, "writer", Technique::PreCopy, false);
    assert_eq!(plain.forecast.as_ref().unwrap().ends, Ends::NotAtAll);
    let reason = plain.reason.as_deref().unwrap();
    assert!(reason.starts_with("does not converge in 20 passes: at best each leaves "), "{reason}");
    assert!(
        reason.contains("the downtime limit allows") && reason.contains(" ms would do"),
        "{reason}"
    );
    let throttled = cost(&made, "writer", Technique::PreCopy, true);
    assert_eq!(throttled.forecast.as_ref().unwrap().ends, Ends::AsPlanned);
    assert!(throttled.throttle_ratio.unwrap() >= 0.2 && throttled.reason.is_none());
    // Nobody slows down who converges.
    let idle = cost(&made, "idle", Technique::PreCopy, true);
    assert_eq!((idle.throttle_ratio, &idle.reason), (Some(0.0), &None));
}

#[test]
fn what_is_forbidden_says_who_forbids_it_alone_and_together() {
    let made = predicted(1.0, &[]);
    let post = cost(&made, "idle", Technique::PostCopy, false);
    assert_eq!(post.reason.as_deref(), Some("idle forbids post-copy (allowPostcopy: false)"));
    assert!(post.forecast.is_none());
    for gang in &made.gang {
        let exposes = gang.policy.starts_with("post-copy") || gang.policy.starts_with("hybrid");
        assert_eq!(gang.reason.is_some(), exposes, "{gang:?}");
        assert_eq!(gang.bytes.is_none(), exposes, "{gang:?}");
    }
}

#[test]
fn ports_are_as_fast_as_they_were_measured_which_is_said() {
    let made = predicted(1.0, &["--technique", "post-copy"]);
    let time = cost(&made, "writer", Technique::PostCopy, false).forecast.as_ref().unwrap();
    // 400 MB at 1 Gbit/s; at the fleet's 10 they would take a third of a second.
    assert!((3.0..5.0).contains(&time.duration_seconds.p50), "{time:?}");
    let said = |host: &str| {
        format!(
            "counted with 1Gbit/s at the port of host '{host}', as measured, not with the fleet's 10Gbit/s"
        )
    };
    assert_eq!(made.remarks, ["what was seen".to_owned(), said("alpha"), said("beta")]);
    assert!(made.vms.iter().all(|cost| cost.technique == Technique::PostCopy));
}

fn range(p50: f64) -> Quantiles {
    Quantiles { p10: p50 / 2.0, p50, p90: p50 * 2.0 }
}

fn row(technique: Technique, throttled: bool, ends: Option<Ends>, reason: Option<&str>) -> Cost {
    Cost {
        vm: "web".parse().unwrap(),
        technique,
        throttled,
        reason: reason.map(str::to_owned),
        throttle_ratio: throttled.then_some(0.4),
        forecast: ends.map(|ends| MoveForecast {
            ends,
            start_seconds: 0.0,
            duration_seconds: range(4.0),
            downtime_seconds: range(0.2),
            outage_seconds: range(0.3),
            blocked_seconds: range(0.0),
            bytes: range(400.0 * MIB),
            exposure_seconds: range(if technique.exposes() { 3.0 } else { 0.0 }),
            passes: 3,
            lost_bytes: range(64.0 * MIB),
        }),
        lost_bytes: ends.map(|_| range(64.0 * MIB)),
    }
}

/// The whole table, word by word; a change of it is meant.
#[test]
fn the_table_is_as_people_read_it() {
    let gang = GangCost {
        policy: "pre-copy-serial",
        reason: None,
        total_seconds: Some(range(8.0)),
        longest_downtime_seconds: Some(0.2),
        longest_outage_seconds: Some(0.3),
        bytes: Some(range(800.0 * MIB)),
        exposure_seconds: Some(range(0.0)),
        lost_bytes: Some(range(0.1 * MIB)),
    };
    let prediction = Prediction {
        source: "alpha".parse().unwrap(),
        target: "beta".parse().unwrap(),
        snapshot_taken_at: "then".to_owned(),
        learned_from: 7,
        vms: vec![
            row(Technique::PreCopy, false, Some(Ends::NotAtAll), Some("does not converge")),
            row(Technique::PreCopy, true, Some(Ends::AsPlanned), None),
            row(Technique::Hybrid, false, Some(Ends::AsPlanned), None),
            row(Technique::PostCopy, false, None, Some("web forbids post-copy")),
        ],
        gang: vec![
            gang,
            GangCost::forbidden("post-copy-serial", "web forbids post-copy".to_owned()),
        ],
        remarks: vec!["one thing".to_owned()],
    };
    let text = table::render(&prediction);
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let cells = line.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
            cells.collect::<Vec<_>>().join(" | ")
        })
        .collect();
    let expected = [
        "alpha -> beta; snapshot of then; learned from 7 runs; p50 (p10-p90)",
        "VM | technique | duration | downtime | outage | migrated | exposed | applications lose",
        "web | pre-copy | gives up: 4.00 s (2.00-8.00) | - | - | 400 MiB (200-800) | never | 64 MiB (32-128)",
        "web | pre-copy, throttled | 4.00 s (2.00-8.00) | 200 ms (100-400) | 300 ms (150-600) | 400 MiB (200-800) \
         | never | 64 MiB (32-128)",
        "web | hybrid | 4.00 s (2.00-8.00) | 200 ms (100-400) | 300 ms (150-600) | 400 MiB (200-800) \
         | 3.00 s (1.50-6.00) | 64 MiB (32-128)",
        "web | post-copy | not allowed | - | - | - | - | -",
        "web, pre-copy: does not converge",
        "web, pre-copy, throttled: the guest lacks 40 % of its CPU time in the end",
        "web, post-copy: web forbids post-copy",
        "",
        "all together | total time | longest downtime | longest outage | migrated | exposed | applications lose",
        "pre-copy-serial | 8.00 s (4.00-16.00) | 200 ms | 300 ms | 800 MiB (400-1600) | never | none",
        "post-copy-serial | - | - | - | - | - | -",
        "post-copy-serial: web forbids post-copy",
        "note: one thing",
    ];
    assert_eq!(lines, expected, "{text}");
}
