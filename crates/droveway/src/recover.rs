//! `recover VM`: going on with a post-copy whose path broke.
//!
//! A run that is under way does it itself and is only told to try at once. Where none is, because it gave up on the VM (exit code
//! 7) or was killed, both QEMUs are looked for, and what they say decides: a VM whose memory is split between them is taken up by
//! a driver of its own, as whoever takes over a killed controller's VM does, and driven to its end. The journal only adds what was
//! planned for it.

use crate::{
    adopt::{self, Left, Rest, Why},
    clock, control,
    exit::{Exit, Failure},
    fleet::{self, RunLock},
    network,
    run::journal::{self, Shelf},
};
use droveway_drive::{MigrationSample, MigrationStatus, Phase, RecordKind, RunState, Seen};
use droveway_fleet::{Fleet, FleetVm, HostId, RateLimit, Technique, VmId};
use droveway_plan::{Fallback, Move, Plan, StartRule, SwitchRule};
use droveway_store::{Entry, VmState};
use std::{path::Path, time::Duration};

/// `recover`.
pub(crate) fn run(
    name: &str,
    fleet: Option<&Path>,
    folder: Option<&Path>,
) -> Result<Exit, Failure> {
    let fleet = fleet::load(fleet)?;
    let vm = control::vm(&fleet, name)?;
    if let Some(exit) = control::recover(&fleet, &vm)? {
        return Ok(exit);
    }
    let mut lock = RunLock::acquire(&fleet)?;
    let runtime = adopt::runtime()?;
    let mut shelf = Shelf::open(&fleet)?;
    if let Some(left) = shelf.unfinished()? {
        let state = left.state();
        // One of which nothing had begun to move is only undone.
        let known = state.vms.get(&vm).filter(|_| state.has_begun()).cloned();
        let (state, journal) = adopt::resumed(&fleet, shelf, &left)?;
        let left = Left { state, entries: left.entries, journal, why: Why::Killed };
        let taken = adopt::take_over(&fleet, lock, left, Rest::Stays, folder);
        let (exit, held) = runtime.block_on(taken)?;
        // It was among those that were driven to their ends just now, whatever that was.
        if known.is_some_and(|known| known.outcome.is_none()) {
            return Ok(exit);
        }
        (lock, shelf) = (held, Shelf::open(&fleet)?);
    }
    if network::put_back_left(&fleet)? {
        eprintln!("note: the ports that an earlier run left changed are as they were");
    }
    let of_fleet = fleet.spec.vm(vm.as_str()).ok_or_else(|| Failure::usage("no such VM"))?;
    let split = runtime.block_on(find(&fleet, of_fleet))?;
    let left = taken_up(&fleet, shelf, &vm, &split)?;
    eprintln!(
        "{vm} is recovered: its memory is split between hosts '{}' and '{}'",
        split.source, split.target
    );
    let taken = adopt::take_over(&fleet, lock, left, Rest::Stays, folder);
    runtime.block_on(taken).map(|(exit, _)| exit)
}

/// Where the two parts of a VM's memory are.
#[derive(Debug, PartialEq, Eq)]
struct Split {
    source: HostId,
    target: HostId,
    /// Its vCPUs were running when it was moved.
    was_running: bool,
}

async fn find(fleet: &Fleet, vm: &FleetVm) -> Result<Split, Failure> {
    let mut seen = Vec::new();
    for host in fleet.spec.hosts.iter().filter(|host| vm.instances.contains_key(&host.name)) {
        // Its connection ends at once: a monitor serves one client at a time.
        seen.push((host.name.clone(), adopt::seen(vm, host).await?.1));
    }
    judged(&vm.name, &seen)
}

fn is_split(sample: &MigrationSample) -> bool {
    matches!(
        sample.status,
        MigrationStatus::PostcopyActive
            | MigrationStatus::PostcopyPaused
            | MigrationStatus::PostcopyRecover
    )
}

/// What the QEMUs' words come to.
fn judged(vm: &VmId, seen: &[(HostId, Seen)]) -> Result<Split, Failure> {
    let there = |wanted: &dyn Fn(&MigrationSample) -> bool| {
        seen.iter().find_map(|(host, seen)| match seen {
            Seen::There(sample) if wanted(sample) => Some((host.clone(), sample.run_state.clone())),
            _ => None,
        })
    };
    // A source stands still in the middle of sending; whoever runs, or could run, has received.
    let sends = |sample: &MigrationSample| {
        matches!(sample.run_state, RunState::FinishMigrate | RunState::PostMigrate)
    };
    let source = there(&|sample| is_split(sample) && sends(sample));
    let target = there(&|sample| is_split(sample) && !sends(sample));
    match (source, target) {
        (Some((source, _)), Some((target, state))) => {
            Ok(Split { source, target, was_running: state != RunState::Paused })
        }
        (None, Some((target, _))) => Err(Failure::says(
            Exit::NeedsRecovery,
            format!(
                "VM '{vm}' is lost: its source's QEMU is gone, and with it the memory that host '{target}' still lacks"
            ),
        )
        .hint("nothing was touched; what is left of it can only be ended, and the VM started anew")),
        (Some((source, _)), None) => Err(Failure::says(
            Exit::NeedsRecovery,
            format!(
                "VM '{vm}' is lost: its target's QEMU is gone, where it ran; host '{source}' has only what had not been sent"
            ),
        )
        .hint("nothing was touched; what is left of it can only be ended, and the VM started anew")),
        (None, None) => {
            let runs = there(&|sample| sample.run_state == RunState::Running);
            let place = match runs {
                Some((host, _)) => format!("it runs on host '{host}'"),
                None => "its memory is not split between two hosts".to_owned(),
            };
            Err(Failure::says(Exit::Blocked, format!("VM '{vm}' needs no recovery: {place}"))
                .hint("`droveway status` shows every VM"))
        }
    }
}

/// A run of this VM alone, from where it is.
fn taken_up(fleet: &Fleet, shelf: Shelf, vm: &VmId, split: &Split) -> Result<Left, Failure> {
    let before = shelf.moves_of(vm)?.into_iter().find_map(|run| {
        let state = run.state();
        let plan =
            state.plan.filter(|plan| plan.source == split.source && plan.target == split.target)?;
        // A run that never came to it says nothing of it.
        let known = state.vms.get(vm).filter(|known| known.phase.is_some())?.clone();
        Some((plan.step(vm.as_str())?.clone(), known, plan))
    });
    let id = format!("recover-{}", jiff::Zoned::now().strftime("%Y%m%d-%H%M%S"));
    let id = shelf.free_id(id)?;
    let hosts = (split.source.clone(), split.target.clone());
    let (plan, known) = match before {
        Some((step, known, before)) => {
            let step = Move { start: StartRule::InWindow, ..step };
            let mut plan = Plan::new(&id, &before.policy, hosts, 1, vec![step]);
            (plan.tuning, plan.urgency) = (before.tuning, before.urgency);
            (plan, known)
        }
        None => {
            let mut plan = Plan::new(&id, "post-copy-serial", hosts, 1, vec![unplanned(vm)]);
            plan.tuning = true;
            (plan, VmState { was_running: split.was_running, ..VmState::default() })
        }
    };
    let mut journal = shelf.begin(journal::header(fleet, &plan, &id, "recover"))?;
    let now = clock::now();
    journal.plan(now, &plan);
    let vm = vm.clone();
    let (was_running, before) = (known.was_running, known.before);
    let entry = Entry::Attempt { vm: vm.clone(), was_running, launched: false, before };
    journal.push(now, entry);
    let record = RecordKind::Entered(Phase::PostCopy);
    journal.push(now, Entry::Record { vm: vm.clone(), record });
    journal.commit();
    let mut state = journal.state().clone();
    if let Some(entry) = state.vms.get_mut(&vm) {
        // Behind the ports that were given out before.
        entry.uri = known.uri;
    }
    Ok(Left { state, entries: Vec::new(), journal, why: Why::GaveUp })
}

/// The move of a VM of whose plan nothing is known: post-copy, which is the only thing that can still happen.
pub(crate) fn unplanned(vm: &VmId) -> Move {
    /// Settles nothing in post-copy.
    const DOWNTIME: Duration = Duration::from_millis(300);
    Move {
        vm: vm.clone(),
        technique: Technique::PostCopy,
        start: StartRule::InWindow,
        fallback: Fallback::PostCopy,
        switch: SwitchRule { after_pass: 1, stalled_ratio: 1.0 },
        max_passes: 1,
        bandwidth: RateLimit::Unlimited,
        postcopy_bandwidth: RateLimit::Unlimited,
        switchover_bandwidth: droveway_fleet::Bandwidth::from_bits_per_second(1_000_000_000),
        downtime_limit: DOWNTIME,
        switchover_limit: Duration::from_secs(15),
        throttle: false,
        ladder: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MigrationStatus as M;
    use RunState as R;

    fn host(name: &str) -> HostId {
        name.parse().unwrap()
    }

    fn word(name: &str, status: M, state: R) -> (HostId, Seen) {
        (host(name), Seen::There(Box::new(MigrationSample::without_figures(status, state))))
    }

    fn judge(seen: &[(HostId, Seen)]) -> Result<Split, Failure> {
        judged(&"web-1".parse().unwrap(), seen)
    }

    #[test]
    fn both_parts_are_found_whoever_is_asked_first() {
        let source = word("a", M::PostcopyPaused, R::FinishMigrate);
        let target = word("b", M::PostcopyPaused, R::Running);
        let split = Split { source: host("a"), target: host("b"), was_running: true };
        assert_eq!(judge(&[source.clone(), target.clone()]).unwrap(), split);
        assert_eq!(judge(&[target.clone(), source.clone()]).unwrap(), split);
        // Paused on one side only, and a third host that has nothing of it.
        let active = word("b", M::PostcopyActive, R::Running);
        let third = (host("c"), Seen::Gone);
        assert_eq!(judge(&[third, source.clone(), active]).unwrap(), split);
        let paused = word("b", M::PostcopyPaused, R::Paused);
        assert!(!judge(&[source, paused]).unwrap().was_running);
    }

    #[track_caller]
    fn refused(seen: &[(HostId, Seen)], code: u8, part: &str) {
        let failure = judge(seen).unwrap_err();
        assert_eq!(failure.exit.code(), code);
        let text = failure.error.to_string();
        assert!(text.contains(part), "{text}");
    }

    #[test]
    fn who_needs_none_or_is_lost_is_told_so() {
        let gone = |name| (host(name), Seen::Gone);
        refused(&[word("a", M::None, R::Running), gone("b")], 4, "it runs on host 'a'");
        // Of an earlier migration.
        let came = word("b", M::Completed, R::Running);
        refused(&[gone("a"), came], 4, "needs no recovery: it runs on host 'b'");
        let moves = word("a", M::Active, R::Running);
        refused(&[moves, word("b", M::Active, R::InMigrate)], 4, "needs no recovery");
        refused(&[gone("a"), gone("b")], 4, "not split");
        refused(
            &[gone("a"), word("b", M::PostcopyPaused, R::Running)],
            7,
            "its source's QEMU is gone",
        );
        let alone = word("a", M::PostcopyPaused, R::FinishMigrate);
        refused(&[alone, gone("b")], 7, "its target's QEMU is gone");
    }
}
