//! `watch`: a run, live. On a terminal a view of the whole screen; elsewhere a line for each thing that happens.
//!
//! It asks the run over its control socket, twice a second, and changes nothing: leaving it leaves the run alone.

mod screen;

use crate::{
    control::{Client, Command},
    exit::{Exit, Failure},
    fleet, status,
};
use droveway_fleet::{Fleet, status::Status};
use nix::sys::signal::{self, SigHandler, Signal};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Between two looks at a run: quick enough to see a switchover, slow enough to read.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks at a fleet without a run: each asks every QEMU, whose monitor serves one at a time.
const IDLE_LOOK: Duration = Duration::from_secs(3);
/// Keys are looked for at least so often.
const KEYS: Duration = Duration::from_millis(100);

/// Somebody asked this process to end: the terminal is put back first.
static ENDED: AtomicBool = AtomicBool::new(false);

extern "C" fn end(_: i32) {
    ENDED.store(true, Ordering::Relaxed);
}

/// `watch`.
pub(crate) fn run(fleet: Option<&Path>) -> Result<Exit, Failure> {
    let fleet = fleet::load(fleet)?;
    let mut source = Source { fleet, client: None };
    if std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|it| it != "dumb") {
        on_screen(&mut source)
    } else {
        in_lines(&mut source)
    }
}

/// Where what is shown comes from.
#[derive(Debug)]
struct Source {
    fleet: Fleet,
    /// A connection to the run, for as long as it lasts.
    client: Option<Client>,
}

impl Source {
    /// How the fleet stands now.
    fn look(&mut self, before: Option<&Status>) -> Result<Status, Failure> {
        // A run that is connected and answers is all there is to ask: its VMs' monitors are its own.
        if let (Some(client), Some(before)) = (&mut self.client, before)
            && let Ok(Some(answer)) = client.ask(Command::Status)
            && let Some(view) = answer.view
            && before.active_run.as_ref() == Some(&view.run.id)
        {
            let mut now = before.clone();
            for vm in view.vms {
                if let Some(known) = now.vms.iter_mut().find(|known| known.name == vm.name) {
                    *known = vm;
                }
            }
            now.run = Some(view.run);
            return Ok(now);
        }
        let now = status::status(&self.fleet)?;
        self.client = if now.run.is_some() { Client::connect(&self.fleet)? } else { None };
        Ok(now)
    }
}

/// A terminal that is put back whatever happens.
struct Screen(ratatui::DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn on_screen(source: &mut Source) -> Result<Exit, Failure> {
    let answers = [
        (Signal::SIGTERM, SigHandler::Handler(end)),
        // The terminal is gone: there is nothing to put back, and whoever reads keys from it would read its end for ever.
        (Signal::SIGHUP, SigHandler::SigDfl),
    ];
    for (signal, handler) in answers {
        // SAFETY: the handler only stores to an atomic.
        let _ = unsafe { signal::signal(signal, handler) };
    }
    // Before the screen is taken, so that an error is read.
    let mut status = source.look(None)?;
    let color = std::env::var_os("NO_COLOR").is_none();
    let terminal = ratatui::try_init().map_err(anyhow::Error::from)?;
    let mut screen = Screen(terminal);
    let mut looked = Instant::now();
    // The run that was watched, once it is over: what it did is not on the screen any more.
    let mut watched = None;
    loop {
        if status.active_run.is_some() {
            watched.clone_from(&status.active_run);
        }
        let over = watched.as_deref().filter(|_| status.active_run.is_none());
        let drawn = screen.0.draw(|frame| screen::draw(frame, &status, over, color));
        drawn.map_err(anyhow::Error::from)?;
        let pause = if status.run.is_some() { LOOK } else { IDLE_LOOK };
        while looked.elapsed() < pause {
            if ENDED.load(Ordering::Relaxed) {
                return Ok(Exit::Done);
            }
            let left = pause.saturating_sub(looked.elapsed()).min(KEYS);
            if event::poll(left).map_err(anyhow::Error::from)? {
                match event::read().map_err(anyhow::Error::from)? {
                    Event::Key(key) if ends(key) => return Ok(Exit::Done),
                    Event::Resize(..) => break,
                    _ => {}
                }
            }
        }
        if looked.elapsed() >= pause {
            looked = Instant::now();
            status = source.look(Some(&status))?;
        }
    }
}

fn ends(key: KeyEvent) -> bool {
    let interrupts =
        key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    key.kind == KeyEventKind::Press
        && (interrupts || matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc))
}

/// A line for each thing that happens, until the run is over.
#[expect(clippy::print_stdout, reason = "the command's data")]
fn in_lines(source: &mut Source) -> Result<Exit, Failure> {
    let mut status = source.look(None)?;
    let mut told = Told::default();
    loop {
        for line in told.news(&status) {
            println!("{line}");
        }
        if status.active_run.is_none() {
            return Ok(Exit::Done);
        }
        std::thread::sleep(LOOK);
        status = source.look(Some(&status))?;
    }
}

/// What has been told.
#[derive(Debug, Default)]
struct Told {
    run: Option<String>,
    vms: BTreeMap<String, (Option<String>, String)>,
    /// The time of the last decision, and what was told of that instant.
    last: (f64, Vec<String>),
}

impl Told {
    /// What was not told yet.
    fn news(&mut self, status: &Status) -> Vec<String> {
        let mut lines = Vec::new();
        let time = status
            .run
            .as_ref()
            .and_then(|run| run.elapsed_seconds)
            .map_or_else(|| " ".repeat(10), |at| format!("{at:8.1} s"));
        if self.run != status.active_run {
            lines.push(match &status.active_run {
                Some(run) => format!("{time}  {run} is active"),
                None => format!("{time}  no run is active"),
            });
            self.run.clone_from(&status.active_run);
        }
        for vm in &status.vms {
            let now = (vm.host.clone(), vm.state.clone());
            if self.vms.get(&vm.name) != Some(&now) {
                let host = vm.host.as_deref().unwrap_or("-");
                lines.push(format!("{time}  {:<16} {} at {host}", vm.name, vm.state));
                self.vms.insert(vm.name.clone(), now);
            }
        }
        let all = status.run.iter().flat_map(|run| &run.decisions);
        for decision in all {
            let vm = decision.vm.as_deref().unwrap_or("the run");
            let line = format!("{:8.1} s  {vm:<16} {}", decision.at_seconds, decision.text);
            let (last, said) = &mut self.last;
            if decision.at_seconds > *last || (said.is_empty() && decision.at_seconds >= *last) {
                (*last, *said) = (decision.at_seconds, vec![line.clone()]);
                lines.push(line);
            } else if decision.at_seconds >= *last && !said.contains(&line) {
                said.push(line.clone());
                lines.push(line);
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests;
