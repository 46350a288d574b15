//! Cells in the laboratory: one lab a scenario, and in it all its runs. After each the VMs go back to where they were, over
//! opened wires and stopped, which takes seconds where a drain takes tens; nothing of that is measured. Where a run left a VM
//! behind, or anything did not come back, the lab is built anew. So it is after every run of a suite in which the world changes
//! (`changes`), also of scenarios in which it does not, which the others are compared with: a guest that began to write goes on.
//!
//! Every run is a process of its own, `droveway drain` as anybody would call it: what it says is kept beside its report. It
//! learns nothing from the runs before it: each gets the calibration that the bench began with.

use super::{
    changes::Beside, ends, intent, is_probed, progress::Progress, read_report, scenario, steady,
    store::Store,
};
use crate::{
    exit::{Exit, Failure},
    lab,
    run::Interrupts,
};
use anyhow::Context as _;
use droveway_bench::{Attempt, Cell, CellResult};
use droveway_fleet::{AllowPostcopy, Scenario};
use droveway_lab::LabInfo;
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{process::Command, runtime::Runtime};

/// A run of hours is no run of a bench: whatever hangs is ended.
const RUN_MAX: Duration = Duration::from_secs(30 * 60);
/// How long a run that is told to end may take until every VM is safe.
const END_MAX: Duration = Duration::from_secs(120);
/// How long applications may take to be as they usually are.
const STEADY_MAX: Duration = Duration::from_secs(30);
const STEADY_PERIOD: Duration = Duration::from_millis(500);
/// A bench's labs are told apart from others by their names.
const NAME_PREFIX: &str = "bench-";

pub(super) fn run(
    store: &Store,
    cells: &[(usize, Cell)],
    progress: &mut Progress,
) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?;
    let interrupts = {
        let _inside = runtime.enter();
        Interrupts::new()
    };
    let mut labs = Labs {
        store,
        runtime,
        interrupts,
        interrupted: false,
        current: None,
        executable: std::env::current_exe().map_err(anyhow::Error::from)?,
    };
    let outcome = labs.run(cells, progress);
    // Whatever happened, no lab stays.
    labs.down()?;
    outcome
}

/// A laboratory that is up.
struct Current {
    scenario: Scenario,
    info: LabInfo,
}

struct Labs<'a> {
    store: &'a Store,
    runtime: Runtime,
    interrupts: Interrupts,
    interrupted: bool,
    current: Option<Current>,
    executable: PathBuf,
}

impl Labs<'_> {
    fn run(&mut self, cells: &[(usize, Cell)], progress: &mut Progress) -> Result<Exit, Failure> {
        for (place, cell) in cells {
            let is_up = self.current.as_ref().is_some_and(|it| scenario_of(it) == cell.scenario);
            if !is_up && !self.up(&cell.scenario, progress)? {
                return Ok(Exit::Interrupted);
            }
            progress.begin(cell);
            let Some(attempts) = self.attempts(cell, progress)? else {
                return Ok(Exit::Interrupted);
            };
            let result = CellResult { cell: cell.clone(), place: *place, attempts };
            self.store.keep(&result)?;
            progress.done(&result);
        }
        Ok(Exit::Done)
    }

    /// Builds the lab of a scenario and warms it up; false if that was interrupted.
    fn up(&mut self, name: &str, progress: &Progress) -> Result<bool, Failure> {
        self.down()?;
        let mut document = scenario(&self.store.resolved, name)?;
        let lab = format!("{NAME_PREFIX}{name}");
        document.metadata.name =
            lab.parse().map_err(|error| Failure::new(Exit::Usage, anyhow::Error::new(error)))?;
        let folder = self.store.dir.join("scenarios");
        let path = folder.join(format!("{name}.yaml"));
        crate::state::write_text(&document.to_yaml().map_err(anyhow::Error::msg)?, &path)?;
        let log = folder.join(format!("{name}.log"));
        progress.say(&format!("lab for scenario {name}"));
        // What a bench that was killed left.
        self.droveway(&["lab", "down", &lab], &log)?;
        let built = self.droveway(&["lab", "up", &path.display().to_string()], &log)?;
        if self.interrupted {
            return Ok(false);
        }
        if !built.is_some_and(|status| status.success()) {
            let code = built.and_then(|status| status.code());
            let exit = match code {
                Some(2) => Exit::Usage,
                Some(4) => Exit::Blocked,
                Some(8) => Exit::Permission,
                _ => Exit::Internal,
            };
            let text =
                format!("the lab of scenario '{name}' could not be built: {}", last_line(&log));
            return Err(Failure::says(exit, text).hint(format!("see {}", log.display())));
        }
        let mut labs = droveway_lab::running(&lab::state_root()).into_iter();
        let info = labs.find(|it| it.name == lab).context("the lab that was built is gone")?;
        self.current = Some(Current { scenario: document, info });
        for _ in 0..self.store.resolved.suite.spec.warm_up {
            if !self.settle(progress)? || !self.warm_up(&log)? || !self.back(&log)? {
                break;
            }
        }
        Ok(!self.interrupted)
    }

    /// One run that does not count, so that guests, caches and sockets are what they are in all others.
    fn warm_up(&mut self, log: &Path) -> Result<bool, Failure> {
        let Some(current) = &self.current else { return Ok(false) };
        let Some([source, target]) = ends(&current.scenario.spec) else { return Ok(false) };
        let folder = log.with_file_name("unmeasured");
        let (source, target) = (source.to_string(), target.to_string());
        let report = folder.display().to_string();
        let fixed = ["drain", &source, "--to", &target, "--policy", "pre-copy-serial"];
        let arguments = [&fixed[..], &PLAINLY, &["--report", &report]].concat();
        let status = self.on_fleet(&arguments, log)?;
        Ok(status.is_some_and(|status| status.success()))
    }

    /// Tries a cell until a run counts, as often as the suite allows; `None` if that was interrupted.
    fn attempts(
        &mut self,
        cell: &Cell,
        progress: &Progress,
    ) -> Result<Option<Vec<Attempt>>, Failure> {
        let mut attempts = Vec::new();
        for number in 1..=self.store.resolved.suite.spec.retries + 1 {
            if self.current.is_none() && !self.up(&cell.scenario, progress)? {
                return Ok(None);
            }
            if !self.settle(progress)? {
                return Ok(None);
            }
            let folder = self.store.attempt(cell, number)?;
            let attempt = self.attempt(cell, &folder)?;
            if self.interrupted {
                return Ok(None);
            }
            let valid = attempt.invalid.is_empty();
            let moved = attempt.run.as_ref().is_some_and(|run| run.completed == run.vms);
            if !valid {
                progress.say(&format!("  does not count: {}", attempt.invalid.join("; ")));
            }
            attempts.push(attempt);
            // A run that did not start has moved nobody; whoever is in doubt builds anew.
            let stays = moved && !self.store.resolved.has_changes();
            if !stays || !self.back(&folder.join("back.txt"))? {
                self.down()?;
            }
            if self.interrupted {
                return Ok(None);
            }
            if valid {
                break;
            }
        }
        Ok(Some(attempts))
    }

    /// One run.
    fn attempt(&mut self, cell: &Cell, folder: &Path) -> Result<Attempt, Failure> {
        let arguments = self.arguments(cell, folder)?;
        let log = folder.join("log.txt");
        let beside = self.beside(&log)?;
        let status = self.on_fleet(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), &log);
        // Also where the run could not be made: nobody is left behind.
        let changed = beside.map_or(Ok(()), Beside::end);
        let status = status?;
        let code = status.and_then(|status| status.code());
        let probed = self.current.as_ref().is_some_and(|it| is_probed(&it.scenario.spec));
        let mut attempt = match read_report(&folder.join("report.json"))? {
            Some(report) => Attempt::of(&report, code, probed),
            None if status.is_none() => {
                let text = format!(
                    "the run took longer than {} min and was ended",
                    RUN_MAX.as_secs() / 60
                );
                Attempt::without_report(None, &text)
            }
            None => {
                let text = format!("the run left no report: {}", last_line(&log));
                Attempt::without_report(code, &text)
            }
        };
        if let Err(why) = changed {
            attempt.lacks_a_change(&why);
        }
        Ok(attempt)
    }

    /// Who makes the changes of the lab's scenario while a run is under way that writes to this log; `None` without changes.
    fn beside(&self, log: &Path) -> Result<Option<Beside>, Failure> {
        let changing = self.current.as_ref().filter(|it| !it.scenario.spec.changes.is_empty());
        let Some(current) = changing else { return Ok(None) };
        let mut play = std::process::Command::new(&self.executable);
        play.args(["lab", "play", &current.info.name])
            .env("DROVEWAY_STATE", self.store.dir.join("state"));
        Ok(Some(Beside::begin(play, log)?))
    }

    /// The command of a cell: every limit is said.
    fn arguments(&self, cell: &Cell, folder: &Path) -> Result<Vec<String>, Failure> {
        let resolved = &self.store.resolved;
        let current = self.current.as_ref();
        let asked = current.and_then(|it| intent(resolved, cell, &it.scenario.spec));
        let Some((asked, policy)) = asked.zip(resolved.policy(cell)) else {
            return Err(Failure::says(Exit::Internal, format!("no cell of the suite: {cell:?}")));
        };
        // A copy for each run: what a run learns no other knows.
        let calibration = folder.join("calibration.json");
        if let Some(known) = &self.store.calibration {
            std::fs::copy(known, &calibration)
                .with_context(|| format!("copying {}", known.display()))?;
        }
        let postcopy = match asked.allow_postcopy {
            AllowPostcopy::Never => "never",
            AllowPostcopy::Fallback => "fallback",
        };
        let mut arguments: Vec<String> = Vec::new();
        let mut say = |name: &str, value: String| {
            arguments.extend([name.to_owned(), value]);
        };
        say("--calibration-file", calibration.display().to_string());
        say("drain", asked.source.to_string());
        say("--to", asked.target.to_string());
        say("--policy", asked.policy.clone());
        say("--urgency", asked.urgency.name().to_owned());
        if let Some(deadline) = asked.deadline {
            say("--deadline", deadline.to_string());
        }
        if let Some(floor) = asked.floor {
            say("--floor", floor.to_string());
        }
        say("--max-downtime", asked.max_downtime.to_string());
        say("--bandwidth", asked.bandwidth.to_string());
        say("--max-passes", asked.max_passes.to_string());
        say("--allow-postcopy", postcopy.to_owned());
        say("--reserve", asked.reserve.to_string());
        say("--shaping", if policy.shaping { "auto" } else { "off" }.to_owned());
        say("--tuning", policy.tuning.name().to_owned());
        say("--replan", policy.replan.name().to_owned());
        say("--measure", resolved.suite.spec.measure.to_string());
        say("--report", folder.display().to_string());
        arguments.push("--hold-out".to_owned());
        Ok(arguments)
    }

    /// Brings every VM back to where the scenario has it; false if that did not work, and the lab is to be built anew.
    fn back(&mut self, log: &Path) -> Result<bool, Failure> {
        let Some(current) = &self.current else { return Ok(false) };
        let spec = &current.scenario.spec;
        let Some([source, _]) = ends(spec) else { return Ok(false) };
        let source = source.to_string();
        let info = current.info.clone();
        let here = spec.vms.iter().filter(|vm| vm.host.as_str() == source);
        let names: Vec<String> = here.map(|vm| vm.name.to_string()).collect();
        let all = names.len().to_string();
        let report = log.with_file_name("unmeasured").display().to_string();
        let mut arguments = vec!["migrate"];
        arguments.extend(names.iter().map(String::as_str));
        let how = ["--to", &source, "--policy", "stop-and-copy", "--max-parallel", &all];
        arguments.extend(how);
        arguments.extend(PLAINLY);
        arguments.extend(["--report", &report]);
        if droveway_lab::open_wires(&info).is_err() {
            return Ok(false);
        }
        let status = self.on_fleet(&arguments, log)?;
        // Its report is nobody's.
        let _ = std::fs::remove_dir_all(&report);
        let shaped = droveway_lab::shape_wires(&info).is_ok();
        Ok(shaped && status.is_some_and(|status| status.success()))
    }

    /// Lets applications run undisturbed until they are as usual; false if interrupted.
    fn settle(&mut self, progress: &Progress) -> Result<bool, Failure> {
        self.sleep(self.store.resolved.suite.spec.settle.duration());
        let mut waited = Duration::ZERO;
        while let Some(name) = self.behind()?
            && !self.interrupted
        {
            if waited >= STEADY_MAX {
                progress.say(&format!("  {name} still sends more than is asked for"));
                break;
            }
            self.sleep(STEADY_PERIOD);
            waited += STEADY_PERIOD;
        }
        Ok(!self.interrupted)
    }

    /// Who still makes up for what it missed.
    fn behind(&self) -> Result<Option<String>, Failure> {
        let Some(current) = &self.current else { return Ok(None) };
        let fleet = crate::fleet::load(Some(&current.info.fleet_file))?;
        Ok(steady::behind(&fleet.spec.applications, &current.scenario.spec))
    }

    fn sleep(&mut self, time: Duration) {
        let interrupts = &mut self.interrupts;
        self.interrupted |= self.runtime.block_on(async {
            tokio::select! {
                () = tokio::time::sleep(time) => false,
                () = interrupts.next() => true,
            }
        });
    }

    /// Removes the lab that is up.
    fn down(&mut self) -> Result<(), Failure> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let log = self.store.dir.join("scenarios").join(format!("{}.log", scenario_of(&current)));
        let status = self.droveway(&["lab", "down", &current.info.name], &log)?;
        if status.is_some_and(|status| status.success()) {
            return Ok(());
        }
        let text = format!("lab '{}' could not be removed: {}", current.info.name, last_line(&log));
        Err(Failure::says(Exit::Internal, text).hint("`droveway lab down` may finish it"))
    }

    /// A command on the fleet of the lab that is up.
    fn on_fleet(&mut self, arguments: &[&str], log: &Path) -> Result<Option<ExitStatus>, Failure> {
        let Some(current) = &self.current else { return Ok(None) };
        let fleet = current.info.fleet_file.display().to_string();
        let all = [&["--fleet", fleet.as_str()], arguments].concat();
        self.droveway(&all, log)
    }

    /// Runs this program with other arguments; what it says goes to a log. `None`: it took too long and was ended.
    fn droveway(&mut self, arguments: &[&str], log: &Path) -> Result<Option<ExitStatus>, Failure> {
        if let Some(folder) = log.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("creating {}", folder.display()))?;
        }
        let said = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let mut command = Command::new(&self.executable);
        command
            .args(arguments)
            .env("DROVEWAY_STATE", self.store.dir.join("state"))
            .env_remove("DROVEWAY_FLEET")
            .env_remove("DROVEWAY_CALIBRATION")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        let interrupts = &mut self.interrupts;
        let (status, interrupted) = self
            .runtime
            .block_on(async {
                let mut child = command.spawn()?;
                tokio::select! {
                    status = child.wait() => return Ok((Some(status?), false)),
                    () = interrupts.next() => {}
                    () = tokio::time::sleep(RUN_MAX) => {
                        ask_to_end(&child);
                        let ended = tokio::time::timeout(END_MAX, child.wait()).await;
                        if ended.is_err() {
                            child.kill().await?;
                        }
                        return Ok((None, false));
                    }
                }
                // A run that is interrupted brings every VM into safety first.
                ask_to_end(&child);
                let ended = tokio::time::timeout(END_MAX, child.wait()).await;
                Ok::<_, std::io::Error>((ended.ok().and_then(Result::ok), true))
            })
            .with_context(|| format!("running {}", self.executable.display()))?;
        self.interrupted |= interrupted;
        Ok(status)
    }
}

/// A move in which nothing of ours takes part and from which nobody learns.
const PLAINLY: [&str; 9] =
    ["--shaping", "off", "--tuning", "off", "--replan", "off", "--reserve", "off", "--hold-out"];

fn scenario_of(current: &Current) -> &str {
    let name = current.scenario.metadata.name.as_str();
    name.strip_prefix(NAME_PREFIX).unwrap_or(name)
}

fn ask_to_end(child: &tokio::process::Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let pid = nix::unistd::Pid::from_raw(pid);
        // It may have ended meanwhile.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
    }
}

/// The last line that says something.
pub(super) fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines = text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    // A hint is not what went wrong.
    let told = lines.clone().find(|line| !line.starts_with("hint:"));
    told.unwrap_or("it said nothing").to_owned()
}
