//! `status`: where every VM is. The truth is what the QEMUs say; while a run holds their monitors, what the run says.

use crate::{
    cli::{self, Output},
    control,
    exit::{Exit, Failure},
    fleet,
    qemu::{self, Probed},
    runs,
};
use droveway_fleet::{
    Bandwidth, Bytes, Fleet, FleetVm,
    document::API_VERSION,
    status::{InstanceStatus, KIND, RunStatus, Status, VmStatus},
};
use droveway_qmp::{MigrationStatus, RunState};
use std::path::Path;

pub(crate) fn run(fleet: Option<&Path>, output: Output) -> Result<Exit, Failure> {
    let fleet = fleet::load(fleet)?;
    let status = status(&fleet)?;
    if output == Output::Table {
        print_table(&status);
    } else {
        cli::print_data(&status, output)?;
    }
    if let Some(run) = &status.unfinished_run {
        eprintln!(
            "hint: the controller of {run} was killed; `droveway adopt` takes over what it left"
        );
    }
    if status.active_run.is_none() {
        for vm in status.vms.iter().filter(|vm| vm.state == "needs-recovery") {
            eprintln!("hint: `droveway recover {}` goes on with its post-copy", vm.name);
        }
    }
    let lost = status.vms.iter().any(|vm| vm.state == "needs-recovery" || vm.state == "two-copies");
    Ok(if lost { Exit::NeedsRecovery } else { Exit::Done })
}

/// A fleet's state, as far as it can be learned.
pub(crate) fn status(fleet: &Fleet) -> Result<Status, Failure> {
    let mut run = fleet::active_run(fleet);
    let mut vms_now = vms(fleet, run.as_ref())?;
    if run.is_none() {
        // A run that began while we asked holds the monitors since: its word is newer than our "no answer".
        run = fleet::active_run(fleet);
        if run.is_some() {
            vms_now = vms(fleet, run.as_ref())?;
        }
    }
    let view = run.as_ref().and_then(|_| control::view(fleet));
    let mut told: Option<RunStatus> = None;
    if let Some(view) = view {
        for vm in view.vms {
            if let Some(known) = vms_now.iter_mut().find(|known| known.name == vm.name) {
                *known = vm;
            }
        }
        told = Some(view.run);
    }
    Ok(Status {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        fleet: fleet.metadata.name.to_string(),
        unfinished_run: if run.is_none() { runs::unfinished(fleet) } else { None },
        active_run: run.map(|run| run.run_id),
        run: told,
        vms: vms_now,
    })
}

/// The VMs of an active run as the run tells, whose monitors it holds; the others as their QEMUs say.
fn vms(fleet: &Fleet, run: Option<&fleet::ActiveRun>) -> Result<Vec<VmStatus>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let one = async |vm: &FleetVm| {
        let told = run.and_then(|run| run.vms.iter().find(|told| told.name == vm.name.as_str()));
        match told {
            Some(told) => VmStatus {
                name: told.name.clone(),
                host: Some(told.host.clone()),
                state: told.state.clone(),
                ..VmStatus::default()
            },
            None => ask(vm).await,
        }
    };
    Ok(runtime.block_on(futures::future::join_all(fleet.spec.vms.iter().map(one))))
}

/// One QEMU's word.
#[derive(Debug)]
struct Word {
    host: String,
    state: RunState,
    migration: MigrationStatus,
}

/// The QEMUs are asked one after the other, and a VM may switch over in between: an answer that only such an instant
/// explains is asked for again.
async fn ask(vm: &FleetVm) -> VmStatus {
    const TRIES: u32 = 4;
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(250);
    let mut status = ask_once(vm).await;
    for _ in 1..TRIES {
        let odd = ["two-copies", "stopped-after-migration", "waiting-for-migration"];
        if !odd.contains(&status.state.as_str()) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        status = ask_once(vm).await;
    }
    status
}

async fn ask_once(vm: &FleetVm) -> VmStatus {
    let mut words = Vec::new();
    for (host, instance) in &vm.instances {
        // One monitor at a time: whoever waits for one must not hold another that a run may be waiting for.
        let answer = match qemu::probe(instance).await {
            Probed::Absent => continue,
            Probed::Silent => None,
            Probed::There(qemu) => match qemu.client.status().await {
                Err(_) => None,
                Ok(status) => {
                    let migration = qemu.client.migration().await.map_or_else(
                        |error| MigrationStatus::Unknown(format!("no answer ({error})")),
                        |info| info.status,
                    );
                    Some(Word { host: host.to_string(), state: status.state, migration })
                }
            },
        };
        let Some(word) = answer else {
            // What the silent one would say could change the answer.
            return VmStatus {
                name: vm.name.to_string(),
                state: "no-answer".to_owned(),
                ..VmStatus::default()
            };
        };
        words.push(word);
    }
    let (host, state) = judge(&words);
    VmStatus {
        name: vm.name.to_string(),
        host,
        state: state.to_owned(),
        instances: words
            .iter()
            .map(|word| InstanceStatus {
                host: word.host.clone(),
                run_state: word.state.to_string(),
                migration: word.migration.to_string(),
            })
            .collect(),
        ..VmStatus::default()
    }
}

/// Where the VM is and in what state, from what its QEMUs say.
fn judge(words: &[Word]) -> (Option<String>, &'static str) {
    let at = |word: &Word| Some(word.host.clone());
    let broken = |word: &&Word| word.migration == MigrationStatus::PostcopyPaused;
    let split = |word: &&Word| {
        matches!(
            word.migration,
            MigrationStatus::PostcopyActive
                | MigrationStatus::PostcopyRecover
                | MigrationStatus::PostcopyRecoverSetup
        )
    };
    let runs = |word: &&Word| word.state == RunState::Running;
    let running: Vec<_> = words.iter().filter(runs).collect();
    match running.as_slice() {
        [_, _, ..] => return (at(running[0]), "two-copies"),
        [one] => {
            let state = if words.iter().any(|word| broken(&word)) {
                "needs-recovery"
            } else if words.iter().any(|word| split(&word)) {
                "post-copy"
            } else if matches!(
                one.migration,
                MigrationStatus::Active | MigrationStatus::Setup | MigrationStatus::Device
            ) {
                "pre-copy"
            } else {
                "running"
            };
            return (at(one), state);
        }
        [] => {}
    }
    if let Some(word) = words.iter().find(broken) {
        return (at(word), "needs-recovery");
    }
    if let Some(word) = words.iter().find(|word| word.state == RunState::Paused) {
        return (at(word), "paused");
    }
    if let Some(word) = words.iter().find(|word| word.state == RunState::FinishMigrate) {
        return (at(word), "switchover");
    }
    if let Some(word) = words.iter().find(|word| word.state == RunState::PostMigrate) {
        return (at(word), "stopped-after-migration");
    }
    (None, if words.is_empty() { "down" } else { "waiting-for-migration" })
}

#[expect(clippy::print_stdout, reason = "the command's data")]
fn print_table(status: &Status) {
    match &status.active_run {
        Some(run) => println!("fleet {}: {run} is active", status.fleet),
        None => println!("fleet {}: no run is active", status.fleet),
    }
    if let Some(run) = &status.run {
        println!("{}", run_line(run));
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "VM",
        "host",
        "state",
        if status.run.is_some() { "how its move stands" } else { "what its QEMUs say" },
    ]);
    for vm in &status.vms {
        let words: Vec<_> = vm
            .instances
            .iter()
            .map(|i| match i.migration.as_str() {
                "none" => format!("{}: {}", i.host, i.run_state),
                migration => format!("{}: {} ({migration})", i.host, i.run_state),
            })
            .collect();
        let last = if vm.phase.is_some() { move_line(vm) } else { words.join(", ") };
        table.add_row([
            vm.name.as_str(),
            vm.host.as_deref().unwrap_or("-"),
            vm.state.as_str(),
            &last,
        ]);
    }
    println!("{table}");
}

/// A run, in a line.
fn run_line(run: &RunStatus) -> String {
    let mut parts = vec![format!("{} {} to {}", run.verb, run.source, run.target)];
    parts.push(format!("policy {}", run.policy));
    match run.elapsed_seconds {
        Some(elapsed) => parts.push(format!("{elapsed:.1} s")),
        None => parts.push("preparing".to_owned()),
    }
    parts.extend(run.forecast_end_seconds.map(|end| format!("forecast {end:.1} s")));
    parts.extend(run.deadline_slack_seconds.map(|slack| format!("slack {slack:+.1} s")));
    if run.cancelled {
        parts.push("interrupted".to_owned());
    }
    parts.extend(run.journal_trouble.clone());
    parts.join(", ")
}

/// How a VM's move stands, in a line.
fn move_line(vm: &VmStatus) -> String {
    let rate = |bits| Bandwidth::from_bits_per_second(bits).human();
    let mut parts = Vec::new();
    parts.extend(vm.technique.clone());
    parts.extend(vm.pass.map(|pass| format!("pass {pass}")));
    parts.extend(vm.remaining_bytes.map(|left| format!("{} left", Bytes::new(left).human())));
    parts.extend(vm.rate_bits_per_second.filter(|bits| *bits > 0).map(rate));
    parts.extend(vm.forecast_end_seconds.map(|end| format!("ends at {end:.1} s")));
    parts.extend(vm.deadline_slack_seconds.map(|slack| format!("slack {slack:+.1} s")));
    parts.extend(vm.reason.clone());
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(host: &str, state: RunState, migration: MigrationStatus) -> Word {
        Word { host: host.to_owned(), state, migration }
    }

    #[track_caller]
    fn check(words: &[Word], host: Option<&str>, state: &str) {
        assert_eq!(judge(words), (host.map(str::to_owned), state), "{words:?}");
    }

    #[test]
    fn the_truth_is_judged_from_all_words() {
        use MigrationStatus as M;
        use RunState as R;
        check(&[], None, "down");
        check(&[word("a", R::Running, M::Idle)], Some("a"), "running");
        let waiting = || word("b", R::InMigrate, M::Idle);
        check(&[word("a", R::Running, M::Active), waiting()], Some("a"), "pre-copy");
        check(&[word("a", R::Running, M::Cancelled), waiting()], Some("a"), "running");
        check(&[waiting()], None, "waiting-for-migration");
        let after = || word("a", R::PostMigrate, M::Completed);
        check(&[after(), word("b", R::Running, M::Completed)], Some("b"), "running");
        check(&[after()], Some("a"), "stopped-after-migration");
        let split = word("a", R::FinishMigrate, M::PostcopyActive);
        check(&[split, word("b", R::Running, M::PostcopyActive)], Some("b"), "post-copy");
        let broken = word("a", R::FinishMigrate, M::PostcopyPaused);
        check(&[broken, word("b", R::Running, M::PostcopyPaused)], Some("b"), "needs-recovery");
        let (one, two) = (word("a", R::Running, M::Failed), word("b", R::Running, M::Completed));
        check(&[one, two], Some("a"), "two-copies");
        check(&[word("a", R::Paused, M::Idle)], Some("a"), "paused");
    }

    fn busy() -> Status {
        use droveway_fleet::status::{ClassStatus, DecisionStatus, PortStatus};
        let run = RunStatus {
            id: "run-1".to_owned(),
            pid: 7,
            verb: "drain".to_owned(),
            source: "alpha".to_owned(),
            target: "beta".to_owned(),
            policy: "adaptive".to_owned(),
            elapsed_seconds: Some(2.5),
            forecast_end_seconds: Some(9.0),
            deadline_seconds: Some(8.0),
            deadline_slack_seconds: Some(-1.0),
            journal_trouble: Some("the disk is full".to_owned()),
            ports: vec![PortStatus {
                host: "alpha".to_owned(),
                direction: "tx".to_owned(),
                capacity_bits_per_second: 1_000_000_000,
                bits_per_second: 940_000_000,
                classes: vec![ClassStatus {
                    class: "migration".to_owned(),
                    bits_per_second: 600_000_000,
                    promised_bits_per_second: Some(600_000_000),
                }],
            }],
            decisions: vec![DecisionStatus {
                at_seconds: 1.0,
                vm: Some("web".to_owned()),
                text: "switch to post-copy".to_owned(),
            }],
            ..RunStatus::default()
        };
        let vm = VmStatus {
            name: "web".to_owned(),
            host: Some("alpha".to_owned()),
            state: "pre-copy".to_owned(),
            phase: Some("pre-copy".to_owned()),
            technique: Some("hybrid".to_owned()),
            pass: Some(2),
            total_bytes: Some(1 << 29),
            remaining_bytes: Some(1 << 20),
            rate_bits_per_second: Some(600_000_000),
            deadline_slack_seconds: Some(0.5),
            ..VmStatus::default()
        };
        Status {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            fleet: "f".to_owned(),
            active_run: Some("run-1".to_owned()),
            unfinished_run: None,
            run: Some(run),
            vms: vec![vm],
        }
    }

    #[test]
    fn a_status_is_what_its_schema_says_and_reads_back() {
        let schema = droveway_fleet::schema::of("status").unwrap();
        let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let idle = Status { active_run: None, run: None, ..busy() };
        for status in [busy(), idle] {
            let value = serde_json::to_value(&status).unwrap();
            let wrong: Vec<_> = validator.iter_errors(&value).map(|it| it.to_string()).collect();
            assert!(wrong.is_empty(), "{wrong:?}");
            assert_eq!(serde_json::from_value::<Status>(value).unwrap(), status);
        }
        let mut broken = serde_json::to_value(busy()).unwrap();
        broken["vms"][0]["pass"] = "two".into();
        assert!(!validator.is_valid(&broken), "it would accept anything");
    }

    #[test]
    fn a_run_and_its_moves_are_told_in_a_line_each() {
        let status = busy();
        let line = run_line(status.run.as_ref().unwrap());
        assert_eq!(
            line,
            "drain alpha to beta, policy adaptive, 2.5 s, forecast 9.0 s, slack -1.0 s, the disk is full"
        );
        let line = move_line(&status.vms[0]);
        assert_eq!(line, "hybrid, pass 2, 1.00 MiB left, 600 Mbit/s, slack +0.5 s");
    }
}
