use super::*;
use crate::recover::unplanned;
use droveway_drive::{
    Action, ActionError, FailureClass, GangDriver, MigrationStatus, PATIENCE, QemuEvent, Reply,
    Side, VmDriver,
};
use droveway_fleet::{document, fleet::FleetSpec};

fn fleet() -> Fleet {
    let host = |name: &str| {
        format!(
            "{{ name: {name}, port: {{ interface: nic, rate: 1Gbit/s }}, migrationAddress: 127.0.0.1 }}"
        )
    };
    let text = format!(
        "apiVersion: droveway/v1\nkind: Fleet\nmetadata: {{ name: f }}\nspec:\n  hosts: [ {}, {} ]\n  \
         vms:\n    - {{ name: cache, memory: 256MiB, vcpus: 1, allowPostcopy: true, instances: {{ alpha: {{ qmp: \"unix:/a\" }}, beta: {{ qmp: \"unix:/b\" }} }} }}\n",
        host("alpha"),
        host("beta"),
    );
    document::parse::<FleetSpec>(&text, "fleet").unwrap()
}

/// Does what drivers want; a connection over the dead path is refused. What was done is kept.
fn perform(gang: &mut GangDriver, now: Timestamp, done: &mut Vec<Action>) {
    while let Some((vm, id, action)) = gang.poll_action() {
        let reply = match &action {
            Action::Listen | Action::ListenAgain => Ok(Reply::Listening("tcp:1".to_owned())),
            Action::ResumeMigration { .. } => {
                let message = "no route to host".to_owned();
                Err(ActionError { class: FailureClass::Refused, message })
            }
            _ => Ok(Reply::Done),
        };
        if !matches!(action, Action::Sample(_)) {
            gang.handle_reply(now, &vm, id, reply);
        }
        done.push(action);
    }
}

/// A post-copy whose path broke at two seconds and stayed away, from its drivers to the ledger.
fn given_up(plan: &Plan) -> (Ledger, Vec<Action>) {
    let vm = plan.moves[0].vm.clone();
    let mut gang = GangDriver::new(plan.clone(), &BTreeMap::new()).unwrap();
    let (at, mut done) = (Timestamp::from_millis, Vec::new());
    gang.prepare(at(0));
    perform(&mut gang, at(0), &mut done);
    gang.start(at(0));
    perform(&mut gang, at(0), &mut done);
    let status = QemuEvent::Status;
    for (milliseconds, side, event) in [
        (1_000, Side::Source, QemuEvent::Stopped),
        (1_001, Side::Source, status(MigrationStatus::PostcopyActive)),
        (1_020, Side::Target, QemuEvent::Resumed),
        (1_021, Side::Target, status(MigrationStatus::PostcopyActive)),
        (2_000, Side::Source, status(MigrationStatus::PostcopyPaused)),
        (2_000, Side::Target, status(MigrationStatus::PostcopyPaused)),
    ] {
        gang.handle_event(at(milliseconds), &vm, side, event);
        perform(&mut gang, at(milliseconds), &mut done);
    }
    let mut turns = 0;
    while let Some(due) = gang.poll_timeout() {
        gang.handle_timeout(due);
        perform(&mut gang, due, &mut done);
        // A try every second or so for three minutes, and some time-outs each.
        turns += 1;
        assert!(turns < 5_000, "its patience never ends: {due:?}");
    }
    assert!(gang.is_over());
    let mut ledger = Ledger::new(plan);
    ledger.began_at = Some(at(0));
    while let Some((vm, record)) = gang.poll_record() {
        let progress = gang.driver(&vm).map(VmDriver::progress);
        ledger.note(&vm, record, progress);
    }
    (ledger, done)
}

/// Promise: a path that stays away ends the command with exit code 7 after its patience, with the operator's instructions in the
/// report, and nothing was ended on either side.
#[test]
fn a_path_that_stays_away_is_exit_code_7_with_instructions() {
    let (fleet, vm) = (fleet(), "cache".parse().unwrap());
    let (source, target): (HostId, HostId) = ("alpha".parse().unwrap(), "beta".parse().unwrap());
    let hosts = (source.clone(), target.clone());
    let plan = Plan::new("run-1", "post-copy-serial", hosts, 1, vec![unplanned(&vm)]);
    let (ledger, done) = given_up(&plan);
    let ends = |action: &&Action| matches!(action, Action::DestroyTarget | Action::DestroySource);
    assert_eq!(done.iter().find(ends), None);
    let intent = Intent::drain(source, target, vec![vm.clone()], "post-copy-serial");
    let context = Context {
        fleet: &fleet,
        plan: &plan,
        intent: &intent,
        decided: &[],
        checked: &BTreeMap::new(),
        run_id: "run-1",
        started_at: "2026-01-01T00:00:00Z".to_owned(),
        asked_at: Timestamp::ZERO,
        ended_at: Timestamp::from_millis(200_000),
        downtime_limit_asked: false,
        capacity: Vec::new(),
    };
    let report = build(&context, &ledger);
    assert_eq!((report.exit_code, exit_of(&report)), (7, Exit::NeedsRecovery));
    let told = &report.vms[0];
    assert_eq!(told.result, MoveResult::NeedsRecovery);
    let waited = ledger.vms[&vm].closed_at().unwrap().since(Timestamp::from_millis(2_000));
    assert!(waited >= PATIENCE && waited < PATIENCE + Duration::from_secs(5), "{waited:?}");
    let text = render::markdown(&report);
    let terminal = render::terminal(&report, false);
    for words in [
        "did not come back within 180 s",
        "both QEMUs are kept",
        "end neither, and reboot neither host",
        "Restore the path, then run `droveway recover cache`",
    ] {
        assert!(told.reason.as_ref().is_some_and(|reason| reason.contains(words)), "{told:?}");
        assert!(text.contains(words), "report.md lacks '{words}':\n{text}");
        assert!(terminal.contains(words), "the terminal lacks '{words}':\n{terminal}");
    }
}
