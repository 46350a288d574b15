//! How far a bench is: on a terminal a bar with the remaining time, elsewhere a line a run. On stderr.

use super::store::Store;
use crate::exit::Failure;
use droveway_bench::{Cell, CellResult};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

/// Terminals that are repainted faster than this flicker.
const REPAINTS_PER_SECOND: u8 = 4;

/// Where a bench shows how it goes.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    /// Cells that were done before.
    before: usize,
    done: usize,
    since: Instant,
}

impl Progress {
    pub(super) fn new(store: &Store, left: &[(usize, Cell)]) -> Result<Self, Failure> {
        let total = droveway_bench::order(&store.resolved).len();
        let before = total - left.len();
        let drawable = std::io::stderr().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let bar = if drawable {
            let target = ProgressDrawTarget::stderr_with_hz(REPAINTS_PER_SECOND);
            let bar = ProgressBar::with_draw_target(Some(total as u64), target);
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {prefix} {wide_msg}")
                .map_err(anyhow::Error::from)?;
            bar.set_style(style);
            bar.set_position(before as u64);
            bar.enable_steady_tick(Duration::from_secs(1));
            Some(bar)
        } else {
            None
        };
        let progress = Progress { bar, total, before, done: 0, since: Instant::now() };
        if before > 0 {
            progress.say(&format!("{before} of {total} cells are done already"));
        }
        Ok(progress)
    }

    /// A line that stays.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    pub(super) fn begin(&self, cell: &Cell) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{} {} repeat {}", cell.scenario, cell.arm(), cell.repeat));
        }
    }

    pub(super) fn done(&mut self, result: &CellResult) {
        self.done += 1;
        let left = remaining(self.since.elapsed(), self.done, self.total - self.before - self.done);
        let left = format!("{} left", spoken(left));
        if let Some(bar) = &self.bar {
            bar.set_prefix(left.clone());
            bar.inc(1);
        }
        let cell = &result.cell;
        let outcome = match result.counted().and_then(|it| it.run.as_ref()) {
            Some(run) if run.completed == run.vms => format!("{:.2} s", run.total_seconds),
            Some(run) => format!("{} of {} VMs moved", run.completed, run.vms),
            None => {
                let why = result.attempts.last().map(|attempt| attempt.invalid.join("; "));
                format!("does not count: {}", why.unwrap_or_default())
            }
        };
        let again = match result.attempts.len() {
            0 | 1 => String::new(),
            attempts => format!(", attempt {attempts}"),
        };
        self.say(&format!(
            "{}/{} {} {} repeat {}: {outcome}{again} ({left})",
            self.before + self.done,
            self.total,
            cell.scenario,
            cell.arm(),
            cell.repeat
        ));
    }

    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What is left takes as long a cell as what was done.
fn remaining(elapsed: Duration, done: usize, left: usize) -> Duration {
    let (Ok(done), Ok(left)) = (u32::try_from(done), u32::try_from(left)) else {
        return Duration::MAX;
    };
    if done == 0 { Duration::MAX } else { (elapsed / done).saturating_mul(left) }
}

fn spoken(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds >= 5_400 => format!("{:.1} h", time.as_secs_f64() / 3_600.0),
        seconds if seconds >= 90 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_what_was() {
        let seconds = Duration::from_secs;
        assert_eq!(remaining(seconds(30), 3, 6), seconds(60));
        assert_eq!(remaining(seconds(30), 3, 0), seconds(0));
        for (time, expected) in [(40, "40 s"), (89, "89 s"), (91, "2 min"), (7_200, "2.0 h")] {
            assert_eq!(spoken(seconds(time)), expected);
        }
    }
}
