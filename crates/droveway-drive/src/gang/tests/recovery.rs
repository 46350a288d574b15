//! Several broken post-copies: who is renewed when.

use super::*;
use crate::{Beat, OperatorRequest, PATIENCE, Refusal};

/// Three VMs in post-copy whose paths break and return together.
struct Broken {
    gang: GangDriver,
    now: Timestamp,
    /// What the source does when it is told to go on: becomes active, or says nothing.
    goes_on: bool,
    /// Who was told to listen anew, and when.
    listened: Vec<(VmId, Timestamp)>,
}

fn vm(index: usize) -> VmId {
    format!("vm{index}").parse().unwrap()
}

impl Broken {
    fn new(prepare: impl FnOnce(&mut GangDriver)) -> Self {
        let mut plan = plan(3, 3);
        for step in &mut plan.moves {
            step.technique = Technique::PostCopy;
        }
        let gang = GangDriver::new(plan, &BTreeMap::new()).unwrap();
        let now = Timestamp::ZERO;
        let mut broken = Broken { gang, now, goes_on: true, listened: Vec::new() };
        broken.gang.prepare(now);
        broken.drain();
        broken.gang.start(now);
        broken.drain();
        prepare(&mut broken.gang);
        // In the order of their names, a second after each other, and not in the plan's.
        for index in 0..3 {
            broken.now = broken.now + Duration::from_secs(1);
            for (side, event) in [
                (Side::Source, QemuEvent::Stopped),
                (Side::Source, QemuEvent::Status(MigrationStatus::PostcopyActive)),
                (Side::Target, QemuEvent::Resumed),
                (Side::Target, QemuEvent::Status(MigrationStatus::PostcopyActive)),
            ] {
                broken.gang.handle_event(broken.now, &vm(index), side, event);
            }
            broken.drain();
        }
        for beat in [Beat::Sent, Beat::Answered] {
            broken.gang.handle_beat(broken.now, beat);
        }
        broken
    }

    /// QEMU says so on both sides of all of them.
    fn breaks(&mut self) {
        self.now = self.now + Duration::from_millis(10);
        for index in 0..3 {
            for side in [Side::Source, Side::Target] {
                let event = QemuEvent::Status(MigrationStatus::PostcopyPaused);
                self.gang.handle_event(self.now, &vm(index), side, event);
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some((vm, id, action)) = self.gang.poll_action() {
            let mut events = Vec::new();
            let reply = match action {
                Action::Listen => Reply::Listening("tcp:1".to_owned()),
                Action::ListenAgain => {
                    self.listened.push((vm.clone(), self.now));
                    Reply::Listening("tcp:2".to_owned())
                }
                Action::ResumeMigration { .. } if self.goes_on => {
                    events = vec![Side::Source, Side::Target];
                    Reply::Done
                }
                // One that is asked whether it still connects does.
                Action::Sample(Side::Source)
                    if self.gang.driver(&vm).unwrap().phase() == Phase::Recovering =>
                {
                    let status = MigrationStatus::PostcopyRecover;
                    let sample = MigrationSample::without_figures(status, RunState::FinishMigrate);
                    Reply::Sample(Box::new(sample))
                }
                Action::Sample(_) => continue,
                _ => Reply::Done,
            };
            self.gang.handle_reply(self.now, &vm, id, Ok(reply));
            for side in events {
                let event = QemuEvent::Status(MigrationStatus::PostcopyActive);
                self.gang.handle_event(self.now, &vm, side, event);
            }
        }
        while self.gang.poll_record().is_some() {}
    }

    /// Time passes; with a heartbeat every 200 ms, which is answered or not.
    fn pass(&mut self, milliseconds: u64, answered: bool) {
        for step in 0..milliseconds / 10 {
            self.now = self.now + Duration::from_millis(10);
            if step % 20 == 0 {
                self.gang.handle_beat(self.now, Beat::Sent);
                if answered {
                    self.gang.handle_beat(self.now, Beat::Answered);
                }
            }
            if self.gang.poll_timeout().is_some_and(|due| due <= self.now) {
                self.gang.handle_timeout(self.now);
            }
            let due = self.gang.poll_timeout();
            assert!(due.is_none_or(|due| due > self.now), "a time-out that is not taken: {due:?}");
            self.drain();
        }
    }

    fn order(&self) -> Vec<String> {
        self.listened.iter().map(|(vm, _)| vm.to_string()).collect()
    }

    fn phases(&self) -> Vec<Phase> {
        self.gang.drivers().map(|(_, driver)| driver.phase()).collect()
    }
}

#[test]
fn whose_memory_has_been_split_for_longest_is_renewed_first() {
    let mut broken = Broken::new(|_| {});
    broken.breaks();
    assert_eq!(broken.phases(), [Phase::PostCopyPaused; 3]);
    broken.pass(1_000, false);
    assert!(broken.listened.is_empty(), "nothing says that the path is there");
    broken.pass(400, true);
    assert_eq!(broken.order(), ["vm0", "vm1", "vm2"]);
    assert_eq!(broken.phases(), [Phase::PostCopy; 3]);
}

#[test]
fn a_deadline_goes_before_it() {
    let mut broken = Broken::new(|gang| {
        let deadline = Some(Duration::from_secs(60));
        let request = OperatorRequest::SetDeadline { vm: Some(vm(2)), deadline };
        gang.operate(Timestamp::ZERO, &request).unwrap();
    });
    broken.breaks();
    broken.pass(400, true);
    assert_eq!(broken.order(), ["vm2", "vm0", "vm1"]);
}

/// A renewal that hangs is in the others' way for a bounded time.
#[test]
fn nobody_waits_for_one_that_hangs() {
    let mut broken = Broken::new(|_| {});
    broken.goes_on = false;
    broken.breaks();
    broken.pass(1_100, true);
    let first: Vec<_> = broken.listened.iter().take(3).collect();
    assert_eq!(first.iter().map(|(vm, _)| vm.as_str()).collect::<Vec<_>>(), ["vm0", "vm1", "vm2"]);
    for pair in first.windows(2) {
        let apart = pair[1].1.since(pair[0].1);
        assert!((300..350).contains(&apart.as_millis()), "{apart:?}");
    }
    broken.goes_on = true;
    broken.pass(3_000, true);
    assert_eq!(broken.phases(), [Phase::PostCopy; 3]);
}

/// With heartbeats it goes on as soon as one is answered; where they are held back somewhere, by a blind try.
#[test]
fn silent_heartbeats_only_delay_it() {
    let mut broken = Broken::new(|_| {});
    broken.breaks();
    broken.pass(7_000, false);
    assert_eq!(broken.phases(), [Phase::PostCopy; 3], "{:?}", broken.listened);
}

#[test]
fn patience_ends_and_an_operator_renews_it() {
    let mut broken = Broken::new(|_| {});
    broken.goes_on = false;
    let refused = broken.gang.operate(broken.now, &OperatorRequest::Recover { vm: vm(1) });
    assert!(matches!(refused, Err(Refusal::NotBroken { .. })), "{refused:?}");
    broken.breaks();
    let half = u64::try_from(PATIENCE.as_millis() / 2).unwrap();
    broken.pass(half, false);
    let tries = broken.listened.len();
    broken.gang.operate(broken.now, &OperatorRequest::Recover { vm: vm(1) }).unwrap();
    broken.drain();
    assert!(broken.listened.len() <= tries + 1);
    broken.pass(half + 1_000, false);
    let ended: Vec<_> = broken.gang.outcomes().map(|(vm, outcome)| (vm.clone(), outcome)).collect();
    assert_eq!(ended, [(vm(0), Outcome::NeedsRecovery), (vm(2), Outcome::NeedsRecovery)]);
    let given_up = broken.gang.operate(broken.now, &OperatorRequest::Recover { vm: vm(0) });
    assert_eq!(given_up, Err(Refusal::GivenUp(vm(0))));
    broken.pass(half, false);
    assert!(broken.gang.is_over());
    assert!(broken.gang.outcomes().all(|(_, outcome)| outcome == Outcome::NeedsRecovery));
}

#[test]
fn the_death_of_either_qemu_is_told_at_once() {
    for side in [Side::Source, Side::Target] {
        let mut broken = Broken::new(|_| {});
        broken.breaks();
        broken.gang.handle_event(broken.now, &vm(0), side, QemuEvent::Gone);
        assert_eq!(broken.gang.driver(&vm(0)).unwrap().outcome(), Some(Outcome::Lost), "{side:?}");
        assert_eq!(broken.gang.driver(&vm(1)).unwrap().outcome(), None);
    }
}
