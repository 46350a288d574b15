//! What long trials of the real program share: their arguments, the program and where it works, laboratories built for a
//! while, the QEMUs' own words, and instants drawn from a seed.
//!
//! A trial flattens [`TrialArgs`] into its own arguments, makes a [`Trial`] of them, and does its work in [`Trial::in_lab`].
//! What holds after a run is asked of the world, not of the program: [`state`] asks a QEMU, [`queues`] asks the kernel.

use crate::{guest_image, prerequisites, run, target_dir, workspace_root};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Applications run undisturbed for so long before anything is done in a fresh laboratory.
const SETTLE: Duration = Duration::from_secs(4);
/// A QEMU that says nothing for so long is none.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// What every trial can be told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TrialArgs {
    /// Install what is missing without asking
    #[arg(long)]
    pub(crate) yes: bool,
    /// Try this program instead of building one
    #[arg(long, value_name = "FILE")]
    pub(crate) droveway: Option<PathBuf>,
}

/// The program under trial and where it works.
#[derive(Debug)]
pub(crate) struct Trial {
    /// The program.
    pub(crate) droveway: PathBuf,
    /// What guests boot.
    pub(crate) image: PathBuf,
    /// The trial's own folder, empty at first: journals, reports, results.
    pub(crate) work: PathBuf,
}

impl Trial {
    /// Installs and builds what is missing; `name` is that of its folder in the target directory.
    pub(crate) fn prepare(name: &str, args: &TrialArgs) -> Result<Self> {
        let root = workspace_root();
        prerequisites::ensure(args.yes)?;
        let droveway = match &args.droveway {
            Some(given) => given.clone(),
            None => {
                let build = ["build", "--release", "--locked", "--package", "droveway"];
                run(Command::new(env!("CARGO")).current_dir(&root).args(build))?;
                target_dir(&root).join("release/droveway")
            }
        };
        let image = guest_image(&root)?;
        let work = target_dir(&root).join(name);
        empty(&work)?;
        Ok(Trial { droveway, image, work })
    }

    /// The program, its journals and reports in the trial's own folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.droveway);
        command
            .args(arguments)
            .env("DROVEWAY_GUEST_IMAGE", &self.image)
            .env("DROVEWAY_STATE", self.work.join("state"))
            .env_remove("DROVEWAY_FLEET")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end, its output visible; anything but success is an error.
    pub(crate) fn droveway(&self, arguments: &[&str]) -> Result<()> {
        println!("> droveway {}", arguments.join(" "));
        let status = self.command(arguments).status();
        let status = status.with_context(|| format!("starting {}", self.droveway.display()))?;
        ensure!(status.success(), "droveway {} ended with {status}", arguments.join(" "));
        Ok(())
    }

    /// Starts the program; what it says goes to `log` in the trial's folder.
    pub(crate) fn spawn(&self, arguments: &[&str], log: &str) -> Result<Child> {
        let file = self.work.join(log);
        let log = fs::File::create(&file).with_context(|| format!("making {}", file.display()))?;
        let mut command = self.command(arguments);
        command.stdout(Stdio::null()).stderr(log);
        command.spawn().with_context(|| format!("starting {}", self.droveway.display()))
    }

    /// Builds the laboratory of a scenario file that has its name, lets its applications settle, does something in it, and
    /// removes it whatever happened.
    pub(crate) fn in_lab(&self, scenario: &Path, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let name = scenario.file_stem().unwrap_or_default().to_string_lossy();
        self.droveway(&["lab", "down", &name])?;
        self.droveway(&["lab", "up", &scenario.display().to_string()])?;
        settle();
        let outcome = work();
        self.droveway(&["lab", "down", &name])?;
        outcome
    }
}

/// Lets applications run undisturbed for a while.
pub(crate) fn settle() {
    std::thread::sleep(SETTLE);
}

/// The fleet file of a laboratory; others may be up on the same machine.
pub(crate) fn fleet(name: &str) -> String {
    format!("/run/droveway/labs/{name}/fleet.yaml")
}

/// What the QEMU of a VM on a host of a laboratory says of its vCPUs ("running", "inmigrate" ...), or [`SILENT`] if it is there and
/// says nothing; `None`: there is none.
pub(crate) fn state(lab: &str, host: &str, vm: &str) -> Result<Option<String>> {
    let answer = match ask(lab, host, vm, "query-status") {
        // A target whose source died while it loaded its state waits for the rest in its main loop.
        Err(error) if is_silence(&error) => return Ok(Some(SILENT.to_owned())),
        answer => answer?,
    };
    let Some(answer) = answer else { return Ok(None) };
    let state = answer["return"]["status"].as_str();
    Ok(Some(state.with_context(|| format!("{vm} at {host}: {answer}"))?.to_owned()))
}

/// Of a QEMU that does not answer.
const SILENT: &str = "silent";

fn is_silence(error: &anyhow::Error) -> bool {
    let kinds = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
    error.downcast_ref::<std::io::Error>().is_some_and(|it| kinds.contains(&it.kind()))
}

/// What the QEMU of a VM on a host of a laboratory is set to for migrations; `None`: there is none.
pub(crate) fn settings(lab: &str, host: &str, vm: &str) -> Result<Option<[Value; 2]>> {
    let asked = ["query-migrate-parameters", "query-migrate-capabilities"];
    let [parameters, capabilities] = asked.map(|command| ask(lab, host, vm, command));
    Ok(parameters?.zip(capabilities?).map(|(parameters, capabilities)| {
        [parameters["return"].clone(), capabilities["return"].clone()]
    }))
}

/// What the QEMU of a VM on a host of a laboratory answers to a command without arguments; `None`: there is none.
pub(crate) fn ask(lab: &str, host: &str, vm: &str, command: &str) -> Result<Option<Value>> {
    let socket = format!("/run/droveway/labs/{lab}/{host}/{vm}.qmp");
    let stream = match UnixStream::connect(&socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("connecting to {socket}")),
    };
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    let mut writer = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    lines.next().with_context(|| format!("{socket}: no greeting"))??;
    let mut answer = Value::Null;
    for command in ["qmp_capabilities", command] {
        writeln!(writer, "{}", json!({ "execute": command }))?;
        answer = loop {
            let line = lines.next().with_context(|| format!("{socket}: no answer"))??;
            let message: Value = serde_json::from_str(&line)?;
            if message.get("event").is_none() {
                break message;
            }
        };
    }
    Ok(Some(answer))
}

/// What queues the ports of these hosts of a laboratory have.
pub(crate) fn queues(lab: &str, hosts: &[&str]) -> Result<Vec<String>> {
    let of = |host: &&str| {
        let namespace = format!("dw-{lab}_{host}");
        let show = ["-n", &namespace, "qdisc", "show"];
        let output = Command::new("tc").args(show).output().context("starting tc")?;
        ensure!(output.status.success(), "tc: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    hosts.iter().map(of).collect()
}

/// Kills a program (SIGKILL) so long after now, unless it has ended by itself.
pub(crate) fn kill_after(child: &mut Child, seconds: f64) -> Result<()> {
    // The instant is the point here: nothing is waited for.
    std::thread::sleep(Duration::from_secs_f64(seconds));
    if child.try_wait()?.is_none() {
        child.kill().context("killing the controller")?;
    }
    child.wait().context("waiting for the controller's end")?;
    Ok(())
}

/// A folder without what an earlier trial left.
pub(crate) fn empty(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("removing {}", folder.display())),
    }
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

/// Numbers drawn from a seed (SplitMix64; Steele, Lea and Flood 2014): the same trial again with the same seed. Its own,
/// because this program is built before any crate of the workspace, and must stay quick to build.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Chance(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_that_of_the_seed() {
        let draw = |seed: u64| {
            let mut chance = Chance::new(seed);
            (0..100).map(|_| chance.unit()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(3).iter().all(|it| (0.0..1.0).contains(it)));
    }
}
