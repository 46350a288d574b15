//! One fault while it lasts: begun through `droveway lab fault`, as anybody would, and ended whatever happens meanwhile.

use super::{
    case::{Case, Fault, PORT_MBIT, STREAM, Side, VMS},
    world::{LAB, said, text},
};
use crate::lab::Trial;
use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// What is written to: more than a guest's `memoryLoad`, and at the port's rate.
const WRITES: [&str; 4] = ["--working-set", "40MiB", "--rate", "400Mbit/s"];
/// The disk of a journal that is to be full: a run writes some hundred KiB.
const DISK: &str = "size=4m";
/// The library that gives a program another wall clock, by its package's name for the machine's architecture.
const CLOCKS: &str = "/usr/lib";
const CLOCK: &str = "faketime/libfaketimeMT.so.1";
/// The clock of a controller whose clock is to be set is wrong from the beginning: so it can be seen that it is another one.
const WRONG_SECONDS: f64 = -40_000_000.0;

/// What a fault needs before the run begins.
#[derive(Debug)]
pub(super) enum Ground {
    Usual,
    /// A disk of its own for the controller's state; unmounted when this goes.
    Disk(Disk),
    /// The file with what the controller's clock is wrong by.
    Clock(PathBuf),
}

#[derive(Debug)]
pub(super) struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(errno) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("warning: {} stays mounted: {errno}", self.0.display());
        }
    }
}

impl Ground {
    pub(super) fn prepare(case: &Case, trial: &Trial) -> Result<Self> {
        match case.fault {
            Fault::DiskFull => {
                let folder = trial.work.join("disk");
                fs::create_dir_all(&folder)?;
                mount(Some("tmpfs"), &folder, Some("tmpfs"), MsFlags::empty(), Some(DISK))
                    .with_context(|| format!("mounting a small disk at {}", folder.display()))?;
                Ok(Ground::Disk(Disk(folder)))
            }
            Fault::ClockStep => {
                let file = trial.work.join("clock");
                set_clock(&file, WRONG_SECONDS)?;
                Ok(Ground::Clock(file))
            }
            _ => Ok(Ground::Usual),
        }
    }

    /// Puts the controller onto it.
    pub(super) fn apply(&self, command: &mut Command) -> Result<()> {
        match self {
            Ground::Usual => {}
            Ground::Disk(Disk(folder)) => {
                command.env("DROVEWAY_STATE", folder.join("state"));
            }
            Ground::Clock(file) => {
                let program = Path::new(command.get_program()).file_name().unwrap_or_default();
                // Only the controller: the targets that it starts have the machine's clock. And only the wall clock: nobody can
                // set the other one.
                let only = program.to_os_string();
                command
                    .env("LD_PRELOAD", clock_library()?)
                    .env("FAKETIME_TIMESTAMP_FILE", file)
                    .env("FAKETIME_NO_CACHE", "1")
                    .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                    .env("FAKETIME_ONLY_CMDS", only)
                    .env("NO_FAKE_STAT", "1");
            }
        }
        Ok(())
    }
}

/// Written beside and put in its place: the controller reads it at any time.
fn set_clock(file: &Path, seconds: f64) -> Result<()> {
    let beside = file.with_extension("new");
    fs::write(&beside, format!("{seconds:+.0}\n"))?;
    fs::rename(&beside, file)?;
    Ok(())
}

pub(crate) fn clock_library() -> Result<PathBuf> {
    let entries = fs::read_dir(CLOCKS).with_context(|| format!("looking into {CLOCKS}"))?;
    let mut found = entries.flatten().map(|entry| entry.path().join(CLOCK));
    found
        .find(|path| path.exists())
        .with_context(|| format!("no {CLOCKS}/*/{CLOCK}: apt-get install libfaketime"))
}

/// A fault under way.
#[derive(Debug)]
pub(super) struct Strike<'a> {
    trial: &'a Trial,
    case: Case,
    vm: &'static str,
    port: &'static str,
    /// When it is to end, if it ends by itself.
    pub(super) ends_at: Option<Instant>,
    /// What has to be run to end it.
    undo: Option<Vec<String>>,
    /// A command that lasts as long as the fault, or until the guest has answered.
    beside: Option<Child>,
}

impl<'a> Strike<'a> {
    /// Begins it. `vm`: whose QEMU is hit; `here` and `there`: from where to where VMs move. `None`: what is to be hit is not
    /// there yet.
    pub(super) fn begin(
        trial: &'a Trial,
        case: &Case,
        ground: &Ground,
        vm: usize,
        [here, there]: [&'static str; 2],
    ) -> Result<Option<Self>> {
        let port = if case.side == Side::Source { here } else { there };
        let mut strike = Strike {
            trial,
            case: *case,
            vm: VMS[vm],
            port,
            ends_at: None,
            undo: None,
            beside: None,
        };
        let lasts = Duration::from_secs_f64(case.seconds);
        let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        // One that has arrived meanwhile is its VM's only one.
        let qemu = [strike.vm, "--side", case.side.name(), "--at", port];
        match case.fault {
            Fault::LinkDown => {
                strike.fault(&["link-down", port])?;
                strike.undo = words(&["link-up", port]);
                strike.ends_at = Some(Instant::now() + lasts);
            }
            Fault::Rate => {
                strike.fault(&["rate", &format!("{:.0}Mbit/s", case.rate_mbit()), port])?;
                strike.undo = words(&["rate", &format!("{PORT_MBIT:.0}Mbit/s"), port]);
            }
            Fault::Loss => {
                strike.fault(&["loss", port, &format!("{:.2}%", case.loss_percent())])?;
                strike.undo = words(&["loss", port, "off"]);
                strike.ends_at = Some(Instant::now() + lasts);
            }
            Fault::KillSource | Fault::KillTarget => {
                if !strike.hit(&[&["kill"][..], &qemu].concat())? {
                    return Ok(None);
                }
            }
            Fault::Freeze => {
                if !strike.hit(&[&["freeze"][..], &qemu].concat())? {
                    return Ok(None);
                }
                // By its process: afterwards the younger of two may be another one.
                strike.ends_at = Some(Instant::now() + lasts);
                strike.undo = words(&[&["thaw"][..], &qemu].concat());
            }
            Fault::StallMonitor => {
                let time = format!("{:.0}ms", case.seconds * 1e3);
                let Some(child) =
                    strike.holding(&[&["stall-monitor"][..], &qemu, &["--for", &time]].concat())?
                else {
                    return Ok(None);
                };
                strike.ends_at = Some(Instant::now() + lasts);
                strike.beside = Some(child);
            }
            // By the trial itself.
            Fault::KillController => {}
            Fault::DiskFull => {
                let Ground::Disk(Disk(folder)) = ground else { bail!("there is no disk to fill") };
                fill(folder)?;
            }
            Fault::ClockStep => {
                let Ground::Clock(file) = ground else { bail!("there is no clock to set") };
                set_clock(file, WRONG_SECONDS + case.step_seconds())?;
            }
            Fault::Writes => {
                // A guest in post-copy answers when it has its pages: the run is not to wait for that.
                strike.beside = Some(strike.spawn(&[&["write", strike.vm][..], &WRITES].concat())?);
            }
            Fault::Reverse => strike.fault(&["reverse", STREAM])?,
        }
        Ok(Some(strike))
    }

    /// Where and how, for the table.
    pub(super) fn what(&self) -> String {
        let Case { side, seconds, .. } = self.case;
        let qemu = || format!("{} at its {}", self.vm, side.name());
        match self.case.fault {
            Fault::LinkDown => format!("{}'s port for {seconds:.1} s", self.port),
            Fault::Rate => format!("{}'s port: {:.0} Mbit/s", self.port, self.case.rate_mbit()),
            Fault::Loss => {
                format!("{:.1} % at {} for {seconds:.1} s", self.case.loss_percent(), self.port)
            }
            Fault::KillSource | Fault::KillTarget => qemu(),
            Fault::Freeze | Fault::StallMonitor => format!("{} for {seconds:.1} s", qemu()),
            Fault::ClockStep => format!("{:+.1} h", self.case.step_seconds() / 3_600.0),
            Fault::Writes => format!("{}: 40MiB at 400 Mbit/s", self.vm),
            Fault::KillController | Fault::DiskFull | Fault::Reverse => String::new(),
        }
    }

    /// The VM whose QEMU is hit.
    pub(super) const fn vm(&self) -> &'static str {
        self.vm
    }

    pub(super) fn is_due(&self) -> bool {
        self.ends_at.is_some_and(|at| at <= Instant::now())
    }

    /// Ends it. Afterwards there is nothing left of it, except what cannot be taken back.
    pub(super) fn end(&mut self) -> Result<()> {
        self.ends_at = None;
        if let Some(words) = self.undo.take() {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let outcome = self.fault(&words);
            // What was frozen may have been ended meanwhile, which is what an undone move does to its target.
            if self.case.fault != Fault::Freeze {
                outcome?;
            } else if outcome.is_err() {
                self.thaw_whatever_is_left()?;
            }
        }
        if let Some(mut child) = self.beside.take() {
            child.wait().context("waiting for the fault's end")?;
        }
        Ok(())
    }

    /// Of two QEMUs one is left, which is nobody's target any more.
    fn thaw_whatever_is_left(&self) -> Result<()> {
        let output = self.command(&["thaw", self.vm, "--side", "source"]).output()?;
        ensure!(
            output.status.success() || text(&output).contains("no QEMU"),
            "thawing {}: {}",
            self.vm,
            text(&output)
        );
        Ok(())
    }

    fn command(&self, words: &[&str]) -> Command {
        self.trial.command(&[&["lab", "fault"][..], words, &["--lab", LAB]].concat())
    }

    fn fault(&self, words: &[&str]) -> Result<()> {
        said(self.trial, &[&["lab", "fault"][..], words, &["--lab", LAB]].concat())
    }

    fn spawn(&self, words: &[&str]) -> Result<Child> {
        let mut command = self.command(words);
        let log = fs::File::create(self.trial.work.join("fault.log"))?;
        command.stdout(log.try_clone()?).stderr(log);
        command.spawn().context("starting droveway lab fault")
    }

    /// True if it hit, false if there is no such QEMU.
    fn hit(&self, words: &[&str]) -> Result<bool> {
        let output = self.command(words).output().context("starting droveway lab fault")?;
        if output.status.code() == Some(4) {
            return Ok(false);
        }
        ensure!(output.status.success(), "droveway lab fault {words:?}: {}", text(&output));
        Ok(true)
    }

    /// A command that holds something until it ends, once it does; `None` if there is nothing to hold.
    fn holding(&self, words: &[&str]) -> Result<Option<Child>> {
        let mut command = self.command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting droveway lab fault")?;
        let mut stdout = child.stdout.take().context("no stdout")?;
        let mut line = String::new();
        BufReader::new(&mut stdout).read_line(&mut line)?;
        if !line.is_empty() {
            // It has a last word, too.
            child.stdout = Some(stdout);
            return Ok(Some(child));
        }
        let output = child.wait_with_output()?;
        if output.status.code() == Some(4) {
            return Ok(None);
        }
        bail!("droveway lab fault {words:?}: {}", text(&output));
    }
}

impl Drop for Strike<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("warning: the fault was not ended: {error:#}");
        }
    }
}

/// Writes until nothing more is taken.
fn fill(folder: &Path) -> Result<()> {
    const BLOCK: [u8; 4096] = [0x5a; 4096];
    let mut file = fs::File::create(folder.join("filler"))?;
    loop {
        match file.write_all(&BLOCK) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error).context("filling the disk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::case::HOSTS, *};

    #[test]
    fn hosts_of_the_scenario_have_ports_of_the_rate_that_is_put_back() {
        let file = crate::workspace_root().join(format!("scenarios/{LAB}.yaml"));
        let text = fs::read_to_string(file).expect("the scenario");
        assert!(text.contains(&format!("rate: {PORT_MBIT:.0}Mbit/s, discipline")), "{text}");
        assert!(text.contains(&format!("name: {STREAM}, from: client")), "{text}");
        for name in HOSTS.iter().chain(&VMS) {
            assert!(text.contains(&format!("name: {name}")), "{name}");
        }
    }
}
