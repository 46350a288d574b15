//! What has to hold after a fault, whatever it was. Pure.
//!
//! - A VM runs at exactly one host, whole, with nothing of it at the other.
//! - A VM is called lost only if the fault killed a QEMU of it that its state could not do without; then the exit code is 7.
//! - The exit code says where VMs are: 0 all at the target; 5 some at the source; 1 or 4 nothing was begun; 7 lost, or in need of
//!   a recovery, which then has to succeed.

use super::{
    case::{Fault, VMS},
    world::Place,
};
use anyhow::{Result, bail, ensure};

/// How a trial ended, all promises kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// Every VM is at the target.
    Moved,
    /// Every VM runs, some or all of them at the source.
    Stayed,
    /// Nothing was begun.
    Refused,
    /// Every VM runs, after an operator was told to recover one, and did.
    Recovered,
    /// The fault took a VM, which was said.
    Lost,
    /// The fault took a VM before the run knew of it.
    Gone,
}

impl End {
    pub(super) const ALL: [End; 6] =
        [End::Moved, End::Stayed, End::Refused, End::Recovered, End::Lost, End::Gone];

    pub(super) const fn name(self) -> &'static str {
        match self {
            End::Moved => "moved",
            End::Stayed => "stayed",
            End::Refused => "refused",
            End::Recovered => "recovered",
            End::Lost => "lost",
            End::Gone => "gone",
        }
    }

    /// Whether a VM is no more, so that the next trial needs another laboratory.
    pub(super) const fn took_a_vm(self) -> bool {
        matches!(self, End::Lost | End::Gone)
    }
}

/// What is known of a VM afterwards.
#[derive(Debug, Clone)]
pub(super) struct Vm {
    pub(super) place: Place,
    /// Its vCPUs are said to run, but a part of its memory is elsewhere.
    pub(super) half: bool,
    /// Its memory was split, by the report.
    pub(super) was_split: bool,
    /// What the report says; `None`: there is none, or it does not know the VM.
    pub(super) result: Option<String>,
}

impl Vm {
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.place, Place::At(_)) && !self.half
    }

    fn is_lost(&self) -> bool {
        self.result.as_deref() == Some("lost")
    }
}

/// What is known after a run.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) fault: Fault,
    /// Another controller took over.
    pub(super) is_adopted: bool,
    pub(super) code: i32,
    /// Where the VMs were.
    pub(super) here: &'static str,
    /// Where they were to go.
    pub(super) there: &'static str,
    pub(super) vms: [Vm; VMS.len()],
    /// Whose QEMU was hit.
    pub(super) hit: Option<usize>,
    /// The run knew where its VMs were when it was hit.
    pub(super) known: bool,
    /// `droveway recover` was called for, and succeeded.
    pub(super) recovered: bool,
    /// The source's QEMU was hit.
    pub(super) at_source: bool,
}

impl Facts {
    /// Whether the source's vCPUs run, and the target has something of it as well.
    fn runs_old_copy(&self, vm: &Vm) -> bool {
        let index = usize::from(self.here != super::case::HOSTS[0]);
        matches!(&vm.place, Place::Torn(states) if states[index].as_deref() == Some("running"))
    }
}

/// How it ended.
///
/// # Errors
/// What does not hold.
pub(super) fn judge(facts: &Facts) -> Result<End> {
    let (mut lost, mut gone) = (false, false);
    for (index, vm) in facts.vms.iter().enumerate() {
        let name = VMS[index];
        let was_hit = facts.fault.kills_a_qemu() && facts.hit == Some(index);
        if vm.is_lost() {
            ensure!(was_hit, "{name} is called lost, and no QEMU of it was killed");
            ensure!(!vm.is_whole(), "{name} is called lost, and runs: {:?}", vm.place);
            ensure!(!facts.runs_old_copy(vm), "{name} is lost, and its source runs an old copy");
            check_loss(facts, vm, name)?;
            lost = true;
        } else if !vm.is_whole() {
            let half = if vm.half { ", a part of its memory elsewhere" } else { "" };
            let said = vm.result.as_deref().unwrap_or("nothing");
            ensure!(
                was_hit && !facts.known && vm.result.is_none(),
                "{name}: {:?}{half}, and the report says {said} (exit code {})",
                vm.place,
                facts.code
            );
            gone = true;
        }
    }
    if lost {
        ensure!(facts.code == 7, "a VM is lost, and the exit code is {}", facts.code);
        return Ok(End::Lost);
    }
    if gone {
        return Ok(End::Gone);
    }
    let moved = facts.vms.iter().filter(|vm| vm.place == Place::At(facts.there)).count();
    let end = match facts.code {
        7 if facts.recovered => End::Recovered,
        0 if moved == VMS.len() => End::Moved,
        // It was killed before it wrote down what it was about to do.
        0 | 130 if facts.is_adopted && moved == 0 => End::Stayed,
        5 if moved < VMS.len() => End::Stayed,
        1 | 4 if moved == 0 && may_refuse(facts.fault) => End::Refused,
        code => bail!(
            "the exit code is {code}, and {moved} of {} VMs are at host '{}'",
            VMS.len(),
            facts.there
        ),
    };
    if facts.fault.is_harmless() {
        ensure!(end == End::Moved, "a fault that must not be noticed: {} ({end:?})", facts.code);
    }
    if facts.fault == Fault::DiskFull {
        ensure!(
            matches!(end, End::Moved | End::Refused),
            "a run with a full disk goes on, or is refused: {} ({end:?})",
            facts.code
        );
    }
    Ok(end)
}

/// A VM that was not split is whole at its source until the target's vCPUs run.
fn check_loss(facts: &Facts, vm: &Vm, name: &str) -> Result<()> {
    let index = usize::from(facts.here != super::case::HOSTS[0]);
    if let Place::Torn(states) = &vm.place
        && let Some(state) = &states[index]
    {
        ensure!(
            facts.at_source || vm.was_split,
            "{name} is called lost, and was never split: its source has it, '{state}'"
        );
    }
    Ok(())
}

/// Before anything is begun a QEMU that does not answer, or is not there, is a reason not to.
const fn may_refuse(fault: Fault) -> bool {
    fault.hits_a_qemu() || matches!(fault, Fault::DiskFull)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(place: Place, result: &str) -> Vm {
        let result = (result != "-").then(|| result.to_owned());
        Vm { place, half: false, was_split: false, result }
    }

    fn facts(fault: Fault, code: i32, vms: [Vm; 2]) -> Facts {
        Facts {
            fault,
            is_adopted: fault == Fault::KillController,
            code,
            here: "alpha",
            there: "beta",
            vms,
            hit: fault.hits_a_qemu().then_some(0),
            known: true,
            recovered: false,
            at_source: fault == Fault::KillSource,
        }
    }

    fn at(host: &'static str, result: &str) -> Vm {
        vm(Place::At(host), result)
    }

    fn torn(alpha: Option<&str>, beta: Option<&str>, result: &str) -> Vm {
        vm(Place::Torn([alpha, beta].map(|it| it.map(str::to_owned))), result)
    }

    #[track_caller]
    fn is(facts: &Facts, wanted: Result<End, &str>) {
        match (judge(facts), wanted) {
            (Ok(end), Ok(wanted)) => assert_eq!(end, wanted, "{facts:?}"),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "'{error}' lacks '{part}'");
            }
            (got, wanted) => panic!("{got:?} instead of {wanted:?}: {facts:?}"),
        }
    }

    #[test]
    fn the_exit_code_says_where_vms_are() {
        let there = || [at("beta", "completed"), at("beta", "completed")];
        let split = || [at("alpha", "rolled-back"), at("beta", "completed")];
        let here = || [at("alpha", "rolled-back"), at("alpha", "rolled-back")];
        is(&facts(Fault::Loss, 0, there()), Ok(End::Moved));
        is(&facts(Fault::Loss, 5, split()), Ok(End::Stayed));
        is(&facts(Fault::Loss, 5, there()), Err("the exit code is 5, and 2 of 2"));
        is(&facts(Fault::Loss, 0, split()), Err("the exit code is 0, and 1 of 2"));
        is(&facts(Fault::Loss, 4, here()), Err("the exit code is 4"));
        is(&facts(Fault::Loss, 7, there()), Err("the exit code is 7"));
        is(&facts(Fault::Freeze, 4, here()), Ok(End::Refused));
        is(&facts(Fault::Freeze, 4, split()), Err("the exit code is 4"));
        is(&facts(Fault::ClockStep, 5, here()), Err("must not be noticed"));
        is(&facts(Fault::DiskFull, 1, here()), Ok(End::Refused));
        is(&facts(Fault::DiskFull, 5, here()), Err("goes on, or is refused"));
        is(&facts(Fault::KillController, 130, here()), Ok(End::Stayed));
        is(&facts(Fault::Loss, 130, here()), Err("the exit code is 130"));
        let recovered = Facts { recovered: true, ..facts(Fault::LinkDown, 7, there()) };
        is(&recovered, Ok(End::Recovered));
    }

    #[test]
    fn only_a_killed_qemu_takes_a_vm_and_that_is_said() {
        let fine = || at("beta", "completed");
        let split = |vm: Vm| Vm { was_split: true, ..vm };
        let dead = || split(torn(Some("postmigrate"), None, "lost"));
        is(&facts(Fault::KillTarget, 7, [dead(), fine()]), Ok(End::Lost));
        is(&facts(Fault::KillTarget, 5, [dead(), fine()]), Err("the exit code is 5"));
        is(&facts(Fault::Freeze, 7, [dead(), fine()]), Err("no QEMU of it was killed"));
        let old = |beta| split(torn(Some("running"), beta, "lost"));
        is(&facts(Fault::KillSource, 7, [old(Some("silent")), fine()]), Err("runs an old copy"));
        let stale = split(at("alpha", "lost"));
        is(&facts(Fault::KillTarget, 7, [stale, fine()]), Err("and runs"));
        is(&facts(Fault::KillTarget, 7, [fine(), dead()]), Err("no QEMU of it was killed"));
        let unsplit = torn(Some("postmigrate"), None, "lost");
        is(&facts(Fault::KillTarget, 7, [unsplit, fine()]), Err("its source has it"));
        // Half of it waits at the target for what is nowhere.
        let half = Vm { half: true, ..split(at("beta", "lost")) };
        is(&facts(Fault::KillSource, 7, [half.clone(), fine()]), Ok(End::Lost));
        is(&facts(Fault::KillSource, 7, [at("beta", "lost"), fine()]), Err("and runs"));
        let untold = Vm { result: Some("completed".to_owned()), ..half };
        is(&facts(Fault::KillSource, 0, [untold, fine()]), Err("memory elsewhere"));
    }

    #[test]
    fn who_dies_before_the_run_knows_of_it_is_gone_and_nobody_else() {
        let nothing = || torn(None, None, "-");
        let mut early = facts(Fault::KillSource, 0, [nothing(), at("beta", "completed")]);
        is(&early, Err("the report says nothing"));
        early.known = false;
        is(&early, Ok(End::Gone));
        early.hit = Some(1);
        is(&early, Err("the report says nothing"));
    }

    #[test]
    fn two_copies_and_leftovers_are_seen() {
        let twice = torn(Some("running"), Some("running"), "completed");
        let left = torn(Some("running"), Some("inmigrate"), "rolled-back");
        for torn in [twice, left] {
            is(&facts(Fault::Loss, 5, [torn, at("alpha", "rolled-back")]), Err("exit code 5"));
        }
    }
}
