//! `cargo xtask watch-pictures`: `droveway watch` in real terminals (`xterm` on X servers without a screen), in pictures.
//!
//! A small lab is drained under traffic while four terminals watch it: 80x24 and 200x50, with colours and with `NO_COLOR`. A
//! picture of each is taken while VMs move, while the path of a post-copy is cut, and when the run is over. What a program can
//! see in them is checked (the terminal's size, that something is drawn, that nothing is coloured where nobody wants colours);
//! the rest is for a person who looks at them.

use crate::{
    lab::{self, Trial, TrialArgs, fleet},
    picture::Picture,
    prerequisites, workspace_root,
};
use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The laboratory, and its scenario's name.
const NAME: &str = "watch";
/// Columns and lines.
const SIZES: [(u32, u32); 2] = [(80, 24), (200, 50)];
/// A screen that holds the larger terminal at this size of letters (some 8 by 17 pixels each).
const SCREEN: &str = "1800x1000x24";
const LETTERS: &str = "10";
/// Another grey than the black around the window.
const BACKGROUND: &str = "#181818";
const FOREGROUND: &str = "#e8e8e8";
/// `watch` has looked anew within this, whether a run is under way or none.
const REFRESH: Duration = Duration::from_secs(4);
/// A cut is noticed within this, and pre-copies survive it.
const CUT: Duration = Duration::from_secs(6);
/// The longest that anything may take before the task says what it waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// How the lab is drained: ports that keep promises, so that all classes are there, and VMs whose memory is split.
const HOW: [&str; 8] =
    ["--policy", "hybrid-parallel", "--reserve", "60%", "--tuning", "on", "--urgency", "high"];

/// What to take.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PicturesArgs {
    #[command(flatten)]
    trial: TrialArgs,
    /// Where the pictures go; by default target/watch-pictures
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

pub(crate) fn run_it(args: &PicturesArgs) -> Result<()> {
    prerequisites::ensure_with(args.trial.yes, prerequisites::TERMINAL)?;
    let trial = Trial::prepare("watch-pictures", &args.trial)?;
    let out = args.out.clone().unwrap_or_else(|| trial.work.clone());
    fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    let studio = Studio { trial, out };
    let scenario = workspace_root().join("scenarios").join(format!("{NAME}.yaml"));
    studio.trial.in_lab(&scenario, || studio.take_all())?;
    println!("The pictures are in {}", studio.out.display());
    Ok(())
}

struct Studio {
    trial: Trial,
    out: PathBuf,
}

impl Studio {
    fn take_all(&self) -> Result<()> {
        let mut terminals = Vec::new();
        for size in SIZES {
            for color in [true, false] {
                terminals.push(self.open(size, color)?);
            }
        }
        thread::sleep(REFRESH);
        self.take(&terminals, "1-idle")?;
        let mut drain = Ended(self.spawn_drain()?);
        self.wait("figures of a move", |status| {
            let moves = |vm: &Value| vm["rateBitsPerSecond"].as_u64().is_some_and(|it| it > 0);
            status["vms"].as_array().is_some_and(|vms| vms.iter().any(moves))
                && status["run"]["ports"].as_array().is_some_and(|ports| !ports.is_empty())
        })?;
        thread::sleep(REFRESH / 2);
        self.take(&terminals, "2-moving")?;
        let is_in = |status: &Value, state: &str| {
            status["vms"].as_array().is_some_and(|vms| vms.iter().any(|vm| vm["state"] == state))
        };
        // QEMU loses a guest whose post-copy is broken off before the target runs: the path is cut a moment later.
        self.wait("a VM that runs at the target", |status| {
            let split = |vm: &Value| vm["state"] == "post-copy" && vm["host"] == "beta";
            status["vms"].as_array().is_some_and(|vms| vms.iter().any(split))
        })?;
        self.trial.droveway(&["lab", "fault", "link-down", "beta", "--lab", NAME])?;
        // Paused, unless its source may have sent everything: that one is waited for, and the decision shows it.
        let cut = Instant::now();
        while cut.elapsed() < CUT && !is_in(&self.status()?, "post-copy-paused") {
            thread::sleep(Duration::from_millis(100));
        }
        thread::sleep(REFRESH / 2);
        self.take(&terminals, "3-path-cut")?;
        self.trial.droveway(&["lab", "fault", "link-up", "beta", "--lab", NAME])?;
        let began = Instant::now();
        let ended = loop {
            if let Some(status) = drain.0.try_wait().context("waiting for the drain")? {
                break status;
            }
            ensure!(began.elapsed() < PATIENCE, "the drain does not end");
            thread::sleep(Duration::from_millis(200));
        };
        thread::sleep(REFRESH);
        self.take(&terminals, "4-over")?;
        for terminal in &mut terminals {
            terminal.close()?;
        }
        // What the cut met in pre-copy may stay at the source, and a deadline may be missed.
        ensure!(matches!(ended.code(), Some(0 | 5 | 6)), "the drain ended with {ended}");
        Ok(())
    }

    /// A terminal that watches the lab.
    fn open(&self, (columns, lines): (u32, u32), color: bool) -> Result<Terminal> {
        let name = format!("{columns}x{lines}{}", if color { "" } else { "-no-color" });
        let folder = self.trial.work.join(&name);
        lab::empty(&folder)?;
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", SCREEN, "-nolisten", "tcp"])
            .args(["-br", "-nocursor", "-fbdir"])
            .arg(&folder)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.join("xvfb.log"))?)
            .spawn()
            .map(Ended)
            .context("starting Xvfb")?;
        let told = server.0.stdout.take().context("Xvfb says nothing")?;
        let mut display = String::new();
        BufReader::new(told).read_line(&mut display).context("reading Xvfb's display")?;
        ensure!(!display.trim().is_empty(), "Xvfb does not start: see {}", folder.display());
        let size = folder.join("size");
        let mut xterm = Command::new("xterm");
        xterm
            .args(["-geometry", &format!("{columns}x{lines}+0+0"), "-fa", "DejaVu Sans Mono"])
            .args(["-fs", LETTERS, "-bg", BACKGROUND, "-fg", FOREGROUND, "+sb", "-e", "sh", "-c"])
            .arg("echo $$ > \"$1\"; stty size > \"$2\"; shift 2; exec \"$@\"")
            .arg("sh")
            .args([&folder.join("pid"), &size, &self.trial.droveway])
            .args(["--fleet", &fleet(NAME), "watch"])
            .env("DISPLAY", format!(":{}", display.trim()))
            .env("DROVEWAY_STATE", self.trial.work.join("state"))
            .env_remove("NO_COLOR")
            .stdin(Stdio::null())
            .stderr(fs::File::create(folder.join("xterm.log"))?);
        if !color {
            xterm.env("NO_COLOR", "1");
        }
        let xterm = xterm.spawn().map(Ended).context("starting xterm")?;
        let began = Instant::now();
        let wanted = format!("{lines} {columns}");
        loop {
            let found = fs::read_to_string(&size).unwrap_or_default();
            if found.trim() == wanted {
                break;
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "{name}: the terminal has '{}' lines and columns, not '{wanted}'",
                found.trim()
            );
            thread::sleep(Duration::from_millis(100));
        }
        Ok(Terminal {
            name,
            color,
            screen: folder.join("Xvfb_screen0"),
            watcher: fs::read_to_string(folder.join("pid"))?.trim().parse()?,
            xterm,
            _server: server,
        })
    }

    fn take(&self, terminals: &[Terminal], what: &str) -> Result<()> {
        for terminal in terminals {
            let picture = terminal.picture()?;
            let path = self.out.join(format!("{what}-{}.png", terminal.name));
            fs::write(&path, picture.png()?)
                .with_context(|| format!("writing {}", path.display()))?;
            println!("{} ({} by {} pixels)", path.display(), picture.width, picture.height);
            ensure!(picture.colors() > 2, "{}: nothing is drawn", path.display());
            ensure!(
                terminal.color || picture.is_grey(),
                "{}: there are colours although NO_COLOR is set",
                path.display()
            );
        }
        Ok(())
    }

    fn status(&self) -> Result<Value> {
        let output =
            self.trial.command(&["--fleet", &fleet(NAME), "status", "-o", "json"]).output();
        let output = output.context("starting droveway")?;
        serde_json::from_slice(&output.stdout).context("reading what status said")
    }

    #[track_caller]
    fn wait(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Result<()> {
        let began = Instant::now();
        loop {
            let output =
                self.trial.command(&["--fleet", &fleet(NAME), "status", "-o", "json"]).output();
            let output = output.context("starting droveway")?;
            if serde_json::from_slice(&output.stdout).is_ok_and(|status| condition(&status)) {
                return Ok(());
            }
            if began.elapsed() >= PATIENCE {
                bail!(
                    "waited {} s in vain for: {what}; the last status was\n{}",
                    PATIENCE.as_secs(),
                    String::from_utf8_lossy(&output.stdout)
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn spawn_drain(&self) -> Result<Child> {
        let report = self.trial.work.join("report").display().to_string();
        let fleet = fleet(NAME);
        let fixed = ["--fleet", &fleet, "drain", "alpha", "--to", "beta", "--report", &report];
        self.trial.spawn(&[&fixed[..], &HOW].concat(), "drain.log")
    }
}

/// A terminal on a screen of its own; both end with it, the terminal first.
struct Terminal {
    name: String,
    color: bool,
    screen: PathBuf,
    /// The process of `watch`.
    watcher: i32,
    xterm: Ended,
    _server: Ended,
}

impl Terminal {
    /// Closes the terminal: who watched in it has to end.
    fn close(&mut self) -> Result<()> {
        self.xterm.0.kill().context("ending xterm")?;
        self.xterm.0.wait().context("waiting for xterm's end")?;
        let began = Instant::now();
        let stat = format!("/proc/{}/stat", self.watcher);
        // Who takes care of orphans may take its time to bury it.
        let lives = || fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z "));
        while lives() {
            if began.elapsed() >= Duration::from_secs(5) {
                let _ = signal::kill(Pid::from_raw(self.watcher), Signal::SIGKILL);
                bail!("{}: `watch` went on although its terminal was gone", self.name);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn picture(&self) -> Result<Picture> {
        let read = |path: &Path| -> Result<Picture> { Picture::of_xwd(&fs::read(path)?) };
        let whole =
            read(&self.screen).with_context(|| format!("reading {}", self.screen.display()))?;
        Ok(whole.cropped())
    }
}

/// A process that ends with what it was started for.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
