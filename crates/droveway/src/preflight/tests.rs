//! The check of one VM, against monitors that answer as QEMU 10.0.2 does.

use super::*;
use droveway_fleet::{AllowPostcopy, Intent, Technique};
use droveway_plan::{
    Fallback, GangFacts, VmFacts,
    habits::{Ladder, Ovirt},
    policy,
};
use droveway_qmp::{Client, QmpAddress};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

const SCHEMA: &str = include_str!("../../../droveway-qmp/tests/fixtures/schema-10.0.2.json");

/// A QEMU in a state, whose monitor takes commands out of band or does not.
async fn qemu(state: &'static str, out_of_band: bool) -> Qemu {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(answer(theirs, state, out_of_band));
    let within = Duration::from_secs(10);
    let client = Client::connect_over(ours, &QmpAddress::unix("/run/vm.qmp"), within).await;
    Qemu { client: client.unwrap(), socket: "/run/vm.qmp".into(), launched: false }
}

async fn answer(stream: DuplexStream, state: &'static str, out_of_band: bool) {
    let mut stream = BufReader::new(stream);
    let version = json!({"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": ""});
    let capabilities = if out_of_band { vec!["oob"] } else { Vec::new() };
    let mut reply = json!({"QMP": {"version": version, "capabilities": capabilities}});
    let mut line = String::new();
    loop {
        let text = format!("{reply}\r\n");
        line.clear();
        if stream.get_mut().write_all(text.as_bytes()).await.is_err()
            || stream.read_line(&mut line).await.unwrap_or(0) == 0
        {
            return;
        }
        let asked: Value = serde_json::from_str(&line).unwrap();
        let said = match asked["execute"].as_str().unwrap() {
            "qom-get" => json!("pc-q35-10.0-machine"),
            "query-memory-size-summary" => json!({"base-memory": 1 << 29, "plugged-memory": 0}),
            "query-cpus-fast" => json!([{}]),
            "query-kvm" => json!({"enabled": false, "present": true}),
            "query-status" => json!({"status": state, "running": state == "running"}),
            "query-migrate-capabilities" => json!([]),
            "query-qmp-schema" => serde_json::from_str(SCHEMA).unwrap(),
            _ => json!({}),
        };
        reply = json!({"return": said, "id": asked["id"]});
    }
}

fn step(technique: Technique, fallback: Fallback) -> Move {
    let vm: VmId = "web".parse().unwrap();
    let [source, target] = ["alpha", "beta"].map(|host| host.parse().unwrap());
    let mut intent = Intent::drain(source, target, vec![vm.clone()], "pre-copy-serial");
    intent.allow_postcopy = AllowPostcopy::Never;
    let fact = VmFacts {
        vm,
        memory: "512MiB".parse().unwrap(),
        allow_postcopy: true,
        max_downtime: None,
        deadline: None,
        group: None,
    };
    let facts = GangFacts { port_rate: "1Gbit/s".parse().unwrap(), vms: vec![fact] };
    let policy = policy::find("pre-copy-serial").unwrap();
    let plan = policy.plan("p", &intent, &facts, None).unwrap().plan;
    Move { technique, fallback, ..plan.moves[0].clone() }
}

/// What the check finds, where the source's and the target's monitor take commands out of band or do not.
async fn found(step: &Move, out_of_band: [bool; 2]) -> Vec<String> {
    let [source, target] = out_of_band;
    let (source, target) = (qemu("running", source).await, qemu("inmigrate", target).await);
    let Err(obstacles) = check(step, &source, &target).await.unwrap() else { return Vec::new() };
    assert!(obstacles.iter().all(|obstacle| obstacle.vm == step.vm));
    obstacles.into_iter().map(|obstacle| obstacle.text).collect()
}

#[tokio::test]
async fn nobody_is_exposed_who_could_not_be_recovered() {
    let mut by_rule = step(Technique::PreCopy, Fallback::Abort);
    by_rule.ladder = Some(Ladder::Ovirt(Ovirt::post_copy()));
    let exposed = [
        step(Technique::PostCopy, Fallback::Abort),
        step(Technique::Hybrid, Fallback::Abort),
        step(Technique::PreCopy, Fallback::PostCopy),
        by_rule,
    ];
    for step in exposed {
        assert!(step.may_postcopy());
        assert_eq!(found(&step, [true; 2]).await, [""; 0], "{step:?}");
        for (out_of_band, sides) in [
            ([false, true], vec!["source"]),
            ([true, false], vec!["target"]),
            ([false; 2], vec!["source", "target"]),
        ] {
            let found = found(&step, out_of_band).await;
            assert_eq!(found.len(), sides.len(), "{found:?}");
            for (text, side) in found.iter().zip(sides) {
                assert!(text.starts_with("post-copy could not be recovered"), "{text}");
                assert!(text.contains(&format!("the {side}'s QEMU")), "{text}");
            }
        }
    }
    let never = step(Technique::PreCopy, Fallback::Abort);
    assert!(!never.may_postcopy());
    assert_eq!(found(&never, [false; 2]).await, [""; 0]);
}
