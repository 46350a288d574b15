//! Getting ready: the run is on file, the ports keep what was promised, every target waits, and all of it is checked.
//!
//! Nothing on a host is changed before the journal has the run and what is about to be changed: whoever finds what a killed
//! controller left knows whose it is. What fails here, or is interrupted, is undone here, and the run's end is on file, too.

use super::Job;
use crate::{
    clock,
    exit::{Exit, Failure},
    network::{Looked, Network},
    preflight::{self, Checked, Obstacle},
    qemu::{self, Qemu, Released},
    run::{
        Interrupts, Journal, Pair,
        journal::{self, Shelf},
    },
};
use droveway_drive::GangDriver;
use droveway_fleet::{Host, VmId};
use droveway_plan::Plan;
use droveway_store::Entry;
use futures::FutureExt as _;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU32},
};

/// What a run needs of the world.
pub(super) struct Ready {
    /// The ports, if they keep promises.
    pub(super) network: Option<Network>,
    pub(super) pairs: BTreeMap<VmId, Pair>,
    pub(super) checked: BTreeMap<VmId, Checked>,
    pub(super) gang: GangDriver,
}

impl Job<'_> {
    /// Begins the run and gets everything ready. If anything is amiss, what was done is undone, and nothing moves.
    pub(super) async fn ready(
        &self,
        shelf: Shelf,
        looked: Option<Looked>,
        plan: &Plan,
        target: &Host,
    ) -> Result<(Journal, Ready), Failure> {
        // Before any target is touched: one of them may be where a VM is going right now.
        for candidate in &self.candidates {
            preflight::check_idle(&candidate.vm.name, &candidate.source).await?;
        }
        let mut interrupts = Interrupts::new();
        let mut journal = self.begun(shelf, plan, target)?;
        let ready = match self.made_ready(looked, plan, target, &mut interrupts).await {
            Ok(ready) => ready,
            Err(failure) => {
                journal.end(clock::now(), failure.exit, None);
                return Err(failure);
            }
        };
        let now = clock::now();
        for (vm, pair) in &ready.pairs {
            let checked = ready.checked.get(vm);
            journal.push(
                now,
                Entry::Attempt {
                    vm: vm.clone(),
                    was_running: checked.is_none_or(|checked| checked.was_running),
                    launched: pair.target.launched,
                    before: checked.and_then(|checked| checked.before.clone()).map(Box::new),
                },
            );
        }
        journal.commit();
        Ok((journal, ready))
    }

    /// The run's journal, with what is about to be done to the hosts.
    fn begun(&self, shelf: Shelf, plan: &Plan, target: &Host) -> Result<Journal, Failure> {
        let header = journal::header(self.fleet, plan, &self.run_id, &self.intent.verb);
        let mut journal = shelf.begin(header)?;
        let now = clock::now();
        journal.plan(now, plan);
        for candidate in &self.candidates {
            journal.launches(now, candidate.vm, target);
        }
        journal.commit();
        Ok(journal)
    }

    async fn made_ready(
        &self,
        looked: Option<Looked>,
        plan: &Plan,
        target: &Host,
        interrupts: &mut Interrupts,
    ) -> Result<Ready, Failure> {
        let snapshot = self.snapshot.as_ref();
        let take = |looked| Network::take(self.fleet, looked, plan, &self.intent, snapshot);
        // Dropped, the ports are put back.
        let network = looked.map(take).transpose()?.flatten();
        let (pairs, checked) = self.prepare(plan, target).await?;
        let gang = gang(plan, &checked);
        let interrupted = interrupts.next().now_or_never().is_some();
        match gang {
            Ok(gang) if !interrupted => Ok(Ready { network, pairs, checked, gang }),
            gang => {
                let targets = pairs.into_values().map(|pair| pair.target).collect();
                self.end_targets(targets, target).await;
                let interrupted =
                    || Failure::says(Exit::Interrupted, "interrupted: nothing was moved");
                Err(gang.err().unwrap_or_else(interrupted))
            }
        }
    }

    /// Gets every target waiting and checks every pair. If anything is amiss, what was started is ended.
    async fn prepare(
        &self,
        plan: &Plan,
        target: &Host,
    ) -> Result<(BTreeMap<VmId, Pair>, BTreeMap<VmId, Checked>), Failure> {
        let start = |vm| qemu::waiting_target(vm, target, &self.run_id);
        let waiting = self.candidates.iter().map(|candidate| start(candidate.vm));
        let mut targets = Vec::new();
        let mut first_failure = None;
        for answer in futures::future::join_all(waiting).await {
            match answer {
                Ok(qemu) => targets.push(qemu),
                Err(failure) => first_failure = first_failure.or(Some(failure)),
            }
        }
        let outcome = match first_failure {
            Some(failure) => Err(failure),
            None => self.check(plan, target, &targets).await,
        };
        if outcome.is_err() {
            self.end_targets(targets, target).await;
        }
        outcome
    }

    /// Ends the targets that were started for this run, those that never answered included.
    async fn end_targets(&self, targets: Vec<Qemu>, host: &Host) {
        for qemu in targets.iter().filter(|qemu| qemu.launched) {
            if let Err(error) = qemu::end(qemu).await {
                eprintln!("warning: a target that was started stays: {error:#}");
            }
        }
        // A monitor serves one client at a time.
        drop(targets);
        for vm in self.candidates.iter().map(|candidate| candidate.vm) {
            let instance = vm.instances.get(&host.name).filter(|it| it.launch.is_some());
            let Some(instance) = instance else { continue };
            let name = &vm.name;
            match qemu::release(qemu::socket(instance), &self.run_id).await {
                Ok(Released::Absent | Released::Ended | Released::Foreign(_)) => {}
                Ok(Released::Kept(reason)) => {
                    eprintln!("warning: {name}: its target stays: {reason}");
                }
                Err(error) => eprintln!("warning: {name}: its target stays: {error:#}"),
            }
        }
    }

    async fn check(
        &self,
        plan: &Plan,
        host: &Host,
        targets: &[Qemu],
    ) -> Result<(BTreeMap<VmId, Pair>, BTreeMap<VmId, Checked>), Failure> {
        let next_port = Arc::new(AtomicU32::new(0));
        let source_netns = self.host(&self.intent.source)?.netns.clone();
        let mut pairs = BTreeMap::new();
        let mut checked = BTreeMap::new();
        let mut obstacles = Vec::new();
        let missing_port = preflight::missing_port(host, plan.moves.len());
        for (candidate, target) in self.candidates.iter().zip(targets) {
            // The plan has an order of its own.
            let Some(step) = plan.moves.iter().find(|step| step.vm == candidate.vm.name) else {
                continue;
            };
            match preflight::check(step, &candidate.source, target).await? {
                Ok(facts) => {
                    tracing::debug!(vm = %step.vm, runs = candidate.runs, "pre-flight check passed");
                    checked.insert(step.vm.clone(), facts);
                }
                Err(found) => obstacles.extend(found),
            }
            if let Some(text) = missing_port.clone().filter(|_| step.may_postcopy()) {
                obstacles.push(Obstacle { vm: step.vm.clone(), text });
            }
            let pair = Pair {
                source: candidate.source.clone(),
                target: target.clone(),
                address: host.migration_address,
                ports: host.migration_ports,
                netns: [source_netns.clone(), host.netns.clone()],
                next_port: Arc::clone(&next_port),
            };
            pairs.insert(step.vm.clone(), pair);
        }
        if obstacles.is_empty() {
            return Ok((pairs, checked));
        }
        let text: Vec<_> = obstacles.iter().map(|o| format!("{}: {}", o.vm, o.text)).collect();
        Err(Failure::says(
            Exit::Blocked,
            format!("the pre-flight check found:\n  {}", text.join("\n  ")),
        )
        .hint("nothing was started"))
    }
}

/// The plan's driver.
fn gang(plan: &Plan, checked: &BTreeMap<VmId, Checked>) -> Result<GangDriver, Failure> {
    let was_running = checked.iter().map(|(vm, it)| (vm.clone(), it.was_running)).collect();
    let read = |(vm, it): (&VmId, &Checked)| Some((vm.clone(), it.before.clone()?));
    let before = checked.iter().filter_map(read).collect();
    let gang = GangDriver::new(plan.clone(), &was_running).map_err(|found| {
        let text: Vec<_> = found.iter().map(ToString::to_string).collect();
        Failure::says(Exit::Blocked, text.join("; "))
    })?;
    Ok(gang.restoring(&before))
}
