//! One trial: a drain, the fault at its instant, and what is there afterwards.

use super::{
    case::{Case, Fault, HOSTS, Side, Technique, VMS},
    judge::{Facts, Vm, judge},
    strike::{Ground, Strike},
    table::Row,
    world::{LAB, Place, World, place, published, said},
};
use crate::lab::{self, Trial};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How a drain is made: ports are shaped and sockets tuned, so that there is something to put back. A guest that writes too
/// much is not waited for long.
const HOW: [&str; 6] = ["--tuning", "on", "--reserve", "60%", "--max-passes", "5"];
/// What is looked at while a run is under way is looked at so often.
const LOOK: Duration = Duration::from_millis(10);
/// A run that has not ended so long after its fault hangs: the longest that drivers wait for something is a minute.
const HANGS: Duration = Duration::from_secs(80);
/// Post-copy goes on within this after the link's return.
const BACK_SOON: f64 = 3.0;
/// A VM that is lost is called so within this.
const LOST_SOON: f64 = 3.0;
/// A run that goes on for so long with a full disk has had something to write.
const WRITES_WITHIN: Duration = Duration::from_millis(1_500);
/// The state of a VM whose memory is split.
const SPLIT: &str = "post-copy";
/// States of a VM whose post-copy is broken.
const BROKEN: [&str; 2] = ["post-copy-paused", "recovering"];

/// A controller under way.
struct Run {
    child: Child,
    began: Instant,
    code: Option<i32>,
}

impl Run {
    fn begin(mut command: Command, log: &Path) -> Result<Self> {
        let log = fs::File::options().create(true).append(true).open(log)?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("starting droveway")?;
        Ok(Run { child, began: Instant::now(), code: None })
    }

    fn has_ended(&mut self) -> Result<bool> {
        if self.code.is_none()
            && let Some(status) = self.child.try_wait().context("waiting for droveway")?
        {
            self.code = Some(status.code().unwrap_or(-1));
        }
        Ok(self.code.is_some())
    }

    /// True if it is still under way then.
    fn lasts_until(&mut self, at: Instant) -> Result<bool> {
        while Instant::now() < at {
            if self.has_ended()? {
                return Ok(false);
            }
            thread::sleep(LOOK.min(at.saturating_duration_since(Instant::now())));
        }
        Ok(!self.has_ended()?)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.code.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn other(host: &str) -> &'static str {
    if host == HOSTS[0] { HOSTS[1] } else { HOSTS[0] }
}

fn drain(world: &World<'_>, technique: Technique, here: &str, there: &str) -> Command {
    let report = report_folder(world.trial).display().to_string();
    let words = ["--fleet", &world.fleet, "drain", here, "--to", there];
    let policy = ["--policy", technique.policy(), "--report", &report];
    world.trial.command(&[&words[..], &policy, &HOW].concat())
}

fn report_folder(trial: &Trial) -> PathBuf {
    trial.work.join("report")
}

/// What the controllers of a trial say.
pub(super) fn log_file(trial: &Trial) -> PathBuf {
    trial.work.join("run.log")
}

/// Drains without a fault; gives how long it takes.
pub(super) fn undisturbed(world: &mut World<'_>, technique: Technique) -> Result<f64> {
    let here = world.occupied()?;
    let there = other(here);
    lab::empty(&report_folder(world.trial))?;
    let _ = fs::remove_file(log_file(world.trial));
    let mut run = Run::begin(drain(world, technique, here, there), &log_file(world.trial))?;
    let lasts = run.lasts_until(run.began + HANGS)?;
    let seconds = run.began.elapsed().as_secs_f64();
    ensure!(!lasts && run.code == Some(0), "an undisturbed run ended with {:?}", run.code);
    ensure!(world.occupied()? == there, "the VMs are not where they were to go");
    world.check_traces()?;
    world.check_memory(&[true; VMS.len()])?;
    Ok(seconds)
}

/// What was seen while a run was under way.
#[derive(Debug, Default)]
struct Watch {
    /// When each VM was first called lost.
    lost: [Option<Instant>; VMS.len()],
    /// When a post-copy was last seen to be broken.
    broken: Option<Instant>,
}

impl Watch {
    fn look(&mut self) {
        let now = Instant::now();
        for (name, state) in published() {
            if BROKEN.contains(&state.as_str()) {
                self.broken = Some(now);
            }
            if let Some(index) = VMS.iter().position(|vm| *vm == name)
                && state == "lost"
            {
                self.lost[index].get_or_insert(now);
            }
        }
    }
}

/// Which VM is hit, of those that have not ended: the one that was drawn, if none is further on; before it one whose memory is split,
/// where that is wanted. `None`: all have ended.
fn victim(case: &Case, states: &[(String, String)]) -> Option<usize> {
    let waits = ["pending", "preparing", "ready"];
    let rank = |index: usize| {
        let state = states.iter().find(|(name, _)| name == VMS[index]);
        match state.map(|(_, state)| state.as_str()) {
            Some("running" | "lost" | "needs-recovery") => None,
            Some(SPLIT) if case.split_after.is_some() => Some(0),
            Some(state) if !waits.contains(&state) => Some(1),
            _ => Some(2),
        }
    };
    let others = (0..VMS.len()).filter(|index| *index != case.vm);
    let ranked = std::iter::once(case.vm).chain(others).filter_map(|vm| Some((rank(vm)?, vm)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, vm)| vm)
}

/// Has a fault meet a drain `at` so many seconds from its start, and writes down what is seen. `Ok(false)`: the run was over
/// before; nothing was broken.
///
/// # Errors
/// What does not hold, or could not be seen.
pub(super) fn meet(world: &mut World<'_>, case: &Case, at: f64, row: &mut Row) -> Result<bool> {
    let trial = world.trial;
    let here = world.occupied()?;
    let there = other(here);
    lab::empty(&report_folder(trial))?;
    let _ = fs::remove_file(log_file(trial));
    let ground = Ground::prepare(case, trial)?;
    let mut command = drain(world, case.technique, here, there);
    ground.apply(&mut command)?;
    let mut run = Run::begin(command, &log_file(trial))?;
    let began = run.began;
    let mut is_there = match case.split_after {
        Some(after) => lasts_until_split(&mut run, after)?,
        None => run.lasts_until(began + Duration::from_secs_f64(at))?,
    };
    let mut strike = None;
    while is_there && strike.is_none() {
        let states = published();
        row.phases = VMS
            .iter()
            .map(|vm| {
                states.iter().find(|(name, _)| name == vm).map_or("-", |(_, state)| state.as_str())
            })
            .collect::<Vec<_>>()
            .join("+");
        let vm = if case.fault.hits_a_qemu() { victim(case, &states) } else { Some(case.vm) };
        if let Some(vm) = vm {
            strike = Strike::begin(trial, case, &ground, vm, [here, there])?;
        }
        row.known = !states.is_empty();
        if strike.is_none() {
            is_there = run.lasts_until(Instant::now() + LOOK)?;
        }
    }
    let Some(mut strike) = strike else {
        finish_early(world, [here, there])?;
        return Ok(false);
    };
    let struck = Instant::now();
    (row.at, row.what) = (struck.duration_since(began).as_secs_f64(), strike.what());
    if case.fault == Fault::KillController {
        // It may have ended in this very instant.
        let _ = run.child.kill();
        run.child.wait().context("waiting for the controller's end")?;
        run.code = Some(-1);
        let report = report_folder(trial).display().to_string();
        let words = ["--fleet", &world.fleet, "adopt", "--report", &report];
        run = Run::begin(trial.command(&words), &log_file(trial))?;
    }
    let (mut watch, mut back) = (Watch::default(), None);
    while !run.has_ended()? {
        watch.look();
        if strike.is_due() {
            strike.end()?;
            back = Some(Instant::now());
        }
        ensure!(
            struck.elapsed() < HANGS,
            "the run has not ended {} s after the fault",
            HANGS.as_secs()
        );
        thread::sleep(LOOK);
    }
    let (ended, code) = (Instant::now(), run.code.unwrap_or(-1));
    (row.code, row.seconds) = (code, ended.duration_since(began).as_secs_f64());
    while strike.ends_at.is_some() && !strike.is_due() {
        thread::sleep(LOOK);
    }
    strike.end()?;
    let hit = case.fault.hits_a_qemu().then(|| VMS.iter().position(|vm| *vm == strike.vm()));
    drop(strike);
    drop(ground);

    let report = read_report(&report_folder(trial))?;
    row.results = VMS
        .map(|vm| of_vm(&report, vm).map_or_else(|| "-".to_owned(), |of| text_of(of, "result")))
        .to_vec();
    if case.fault == Fault::LinkDown && watch.broken.is_some() {
        let back = back.context("a broken post-copy ended before the link was back")?;
        let broken =
            watch.broken.map_or(0.0, |at| at.saturating_duration_since(back).as_secs_f64());
        row.back_after = Some(broken);
        ensure!(
            broken <= BACK_SOON,
            "post-copy was still broken {broken:.2} s after the link's return, {BACK_SOON} s at most are promised"
        );
    }
    let needs: Vec<&str> = VMS
        .into_iter()
        .zip(&row.results)
        .filter_map(|(vm, result)| (result == "needs-recovery").then_some(vm))
        .collect();
    for vm in &needs {
        recover(world, vm)?;
    }
    let facts =
        facts(case, code, [here, there], &report, hit.flatten(), row.known, !needs.is_empty())?;
    row.end = Some(judge(&facts)?);
    for (index, result) in row.results.iter().enumerate().filter(|(_, it)| *it == "lost") {
        let said = watch.lost[index].unwrap_or(ended);
        let after = said.saturating_duration_since(struck).as_secs_f64();
        row.lost_after = Some(after);
        ensure!(
            after <= LOST_SOON,
            "{} was called lost after {after:.1} s ({result}), not at once",
            VMS[index]
        );
    }
    check_told(case, trial, &report, code, ended.duration_since(struck))?;
    world.check_traces()?;
    let alive: Vec<bool> = facts.vms.iter().map(|vm| vm.is_whole()).collect();
    world.check_memory(&alive)?;
    bring_together(world, [here, there])?;
    Ok(true)
}

/// True if it is still under way so many seconds after a VM's memory was seen to be split.
fn lasts_until_split(run: &mut Run, after: f64) -> Result<bool> {
    while !published().iter().any(|(_, state)| state == SPLIT) {
        if !run.lasts_until(Instant::now() + LOOK)? {
            return Ok(false);
        }
    }
    run.lasts_until(Instant::now() + Duration::from_secs_f64(after))
}

/// A run that was over too soon is one without a fault: it has moved everything.
fn finish_early(world: &mut World<'_>, [_, there]: [&str; 2]) -> Result<()> {
    ensure!(world.occupied()? == there, "a run without a fault moved not everything");
    world.check_traces()
}

/// What remained at the source follows, unless nothing has moved, or something is gone.
fn bring_together(world: &World<'_>, [here, there]: [&str; 2]) -> Result<()> {
    let places = VMS.iter().map(|vm| place(vm)).collect::<Result<Vec<_>>>()?;
    let at = |host: &str| {
        places.iter().filter(|place| matches!(place, Place::At(there) if *there == host)).count()
    };
    let (behind, arrived) = (at(here), at(there));
    if behind > 0 && arrived > 0 && behind + arrived == VMS.len() {
        world.gather(here, there)?;
    }
    Ok(())
}

/// An operator does what he was told to.
fn recover(world: &World<'_>, vm: &str) -> Result<()> {
    let report = world.trial.work.join("recovered").display().to_string();
    said(world.trial, &["--fleet", &world.fleet, "recover", vm, "--report", &report])
}

fn read_report(folder: &Path) -> Result<Value> {
    match fs::read_to_string(folder.join("report.json")) {
        Ok(text) => serde_json::from_str(&text).context("the report"),
        // What is refused has none.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(error).context("reading the report"),
    }
}

fn of_vm<'a>(report: &'a Value, vm: &str) -> Option<&'a Value> {
    report["vms"].as_array()?.iter().find(|of| of["name"] == vm)
}

fn text_of(of: &Value, field: &str) -> String {
    of[field].as_str().unwrap_or("-").to_owned()
}

fn facts(
    case: &Case,
    code: i32,
    [here, there]: [&'static str; 2],
    report: &Value,
    hit: Option<usize>,
    known: bool,
    recovered: bool,
) -> Result<Facts> {
    let vms = VMS.map(|vm| -> Result<Vm> {
        let place = place(vm)?;
        let half = match &place {
            // Its vCPUs may be said to run while they wait for pages that nobody has.
            Place::At(host) => lab::ask(LAB, host, vm, "query-migrate")?.is_some_and(|answer| {
                let status = answer["return"]["status"].as_str().unwrap_or_default().to_owned();
                status.starts_with("postcopy")
            }),
            Place::Torn(_) => false,
        };
        let of = of_vm(report, vm);
        let was_split = of.and_then(|of| of["phases"].as_array()).is_some_and(|phases| {
            phases.iter().any(|phase| phase["phase"].as_str().is_some_and(|it| it == "post-copy"))
        });
        let result = of.and_then(|of| of["result"].as_str()).map(str::to_owned);
        Ok(Vm { place, half, was_split, result })
    });
    let [one, two] = vms;
    Ok(Facts {
        fault: case.fault,
        is_adopted: case.fault == Fault::KillController,
        code,
        here,
        there,
        vms: [one?, two?],
        hit,
        known,
        recovered,
        at_source: case.side == Side::Source,
    })
}

/// What has to be said, besides the exit code.
fn check_told(
    case: &Case,
    trial: &Trial,
    report: &Value,
    code: i32,
    went_on: Duration,
) -> Result<()> {
    let log = fs::read_to_string(log_file(trial)).context("what the run said")?;
    match case.fault {
        Fault::DiskFull if code == 0 && went_on > WRITES_WITHIN => {
            ensure!(
                log.contains("journal"),
                "that the journal was not written is not said:\n{log}"
            );
        }
        Fault::DiskFull if code != 0 => {
            ensure!(log.contains("error:"), "the refusal is not explained:\n{log}");
        }
        Fault::ClockStep => {
            let started =
                report["startedAt"].as_str().and_then(|at| at.get(..4)?.parse::<f64>().ok());
            let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
            let now = 1970.0 + (since / 31_556_952.0).floor();
            match started {
                Some(year) if year < now => {}
                started => bail!("the controller had the machine's clock: it began in {started:?}"),
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_each_others_other() {
        assert_eq!((other(HOSTS[0]), other(HOSTS[1])), (HOSTS[1], HOSTS[0]));
    }

    #[test]
    fn who_moves_is_hit_and_who_has_arrived_is_not() {
        let case = |vm| Case { vm, ..Case::draw(1, Fault::KillSource, Technique::Hybrid, 1, 5) };
        let split = |vm| Case { split_after: Some(0.1), ..case(vm) };
        let states = |cache: &str, busy: &str| {
            vec![("cache".to_owned(), cache.to_owned()), ("busy".to_owned(), busy.to_owned())]
        };
        for vm in 0..2 {
            assert_eq!(victim(&case(vm), &[]), Some(vm), "nobody has begun");
            assert_eq!(victim(&case(vm), &states("pre-copy", "pre-copy")), Some(vm));
            assert_eq!(victim(&case(vm), &states("ready", "switchover")), Some(1));
            assert_eq!(victim(&case(vm), &states("running", "post-copy")), Some(1));
            assert_eq!(victim(&case(vm), &states("ready", "running")), Some(0));
            assert_eq!(victim(&case(vm), &states("running", "running")), None);
            assert_eq!(victim(&split(vm), &states("pre-copy", "post-copy")), Some(1));
            assert_eq!(victim(&case(vm), &states("pre-copy", "post-copy")), Some(vm));
        }
    }
}
