//! Live progress: on a terminal a bar and a state per VM and a line for the ports; elsewhere one line per event. On stderr.

use super::ledger::Ledger;
use droveway_drive::{Decision, GangDriver, Outcome, Phase, Record, RecordKind, VmDriver};
use droveway_fleet::{Bandwidth, Bytes, Timestamp, VmId};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{collections::BTreeMap, io::IsTerminal as _, time::Duration};

/// Terminals that are repainted faster than this flicker; slower ones lag.
const REPAINTS_PER_SECOND: u8 = 10;

/// Passes that follow each other faster are not told one by one: a pre-copy that does not converge makes ten a second, for minutes.
const PASSES_APART: Duration = Duration::from_secs(1);

/// Where a run shows how it goes.
#[derive(Debug)]
pub(crate) struct Display {
    bars: Option<Bars>,
    /// When a pass of each VM was told last.
    passes: BTreeMap<VmId, Timestamp>,
}

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    vms: BTreeMap<VmId, ProgressBar>,
    ports: ProgressBar,
}

impl Display {
    /// Bars if stderr is a terminal that can draw them, lines otherwise.
    pub(crate) fn new(order: &[VmId]) -> Self {
        let drawable = std::io::stderr().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let bars = drawable.then(|| Bars::new(order));
        Display { bars, passes: BTreeMap::new() }
    }

    /// Lines, on terminals, too.
    pub(crate) const fn lines() -> Self {
        Display { bars: None, passes: BTreeMap::new() }
    }

    pub(crate) fn record(&mut self, vm: &VmId, record: &Record, ledger: &Ledger) {
        let quiet = self.is_one_of_many(vm, record)
            || matches!(record.kind, RecordKind::Boundary { .. })
            || (self.bars.is_some()
                && matches!(record.kind, RecordKind::Entered(_) | RecordKind::Pass(_)));
        if quiet {
            return;
        }
        let origin = ledger.began_at.unwrap_or(record.at);
        let time = record.at.seconds_from(origin);
        self.say(&format!("{time:8.3} s  {vm:<16} {}", describe(record, ledger, vm)));
    }

    /// Whether a pass of the VM was told a moment ago.
    fn is_one_of_many(&mut self, vm: &VmId, record: &Record) -> bool {
        if !matches!(record.kind, RecordKind::Pass(_)) {
            return false;
        }
        let before = self.passes.get(vm).copied();
        if before.is_some_and(|before| record.at < before + PASSES_APART) {
            return true;
        }
        self.passes.insert(vm.clone(), record.at);
        false
    }

    pub(crate) fn warn(&self, text: &str) {
        self.say(&format!("warning: {text}"));
    }

    /// A decision about the gang as a whole: changes are told, what stays as it is goes to the log.
    pub(crate) fn decided(&self, decision: &Decision, ledger: &Ledger) {
        let Decision { at, reason, inputs, choice, .. } = decision;
        let time = at.seconds_from(ledger.began_at.unwrap_or(*at));
        let text = format!("decided: {choice}, because {reason} ({inputs})");
        if decision.adopted {
            self.say(&format!("{time:8.3} s  {:<16} {text}", "the gang"));
        } else {
            tracing::info!("{time:.3} s: {text}");
        }
    }

    /// What would have been decided about moves that another tool makes.
    pub(crate) fn would(&self, decision: &Decision, ledger: &Ledger) {
        let Decision { at, reason, inputs, choice, .. } = decision;
        let time = at.seconds_from(ledger.began_at.unwrap_or(*at));
        self.say(&format!(
            "{time:8.3} s  {:<16} {choice}, because {reason} ({inputs})",
            "droveway"
        ));
    }

    pub(crate) fn cancelled(&self, past_return: &[VmId]) {
        if past_return.is_empty() {
            self.say("interrupted: every VM stays at the source");
        } else {
            let names: Vec<_> = past_return.iter().map(VmId::as_str).collect();
            self.say(&format!(
                "interrupted: {} already moves past the point of return and will complete; every \
                 other VM stays at the source",
                names.join(", ")
            ));
        }
    }

    pub(crate) fn paint(&self, gang: &GangDriver, ledger: &Ledger, now: Timestamp) {
        let Some(bars) = &self.bars else { return };
        for (vm, driver) in gang.drivers() {
            if let Some(bar) = bars.vms.get(vm) {
                paint_vm(bar, driver);
            }
        }
        let time = ledger.began_at.map_or(Duration::ZERO, |began| now.since(began));
        bars.ports.set_message(format!("{:6.1} s  {}", time.as_secs_f64(), port_rates(ledger)));
    }

    pub(crate) fn finish(&self) {
        if let Some(bars) = &self.bars {
            for bar in bars.vms.values() {
                bar.finish_and_clear();
            }
            bars.ports.finish_and_clear();
        }
    }

    pub(crate) fn say(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.all.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

impl Bars {
    fn new(order: &[VmId]) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(
            REPAINTS_PER_SECOND,
        ));
        let plain =
            ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = ProgressStyle::with_template("{prefix:<14} {bar:24.cyan/white.dim} {msg}")
            .unwrap_or_else(|_| plain.clone());
        let vms = order
            .iter()
            .map(|vm| {
                let bar = all.add(ProgressBar::new(1));
                bar.set_style(style.clone());
                bar.set_prefix(vm.to_string());
                (vm.clone(), bar)
            })
            .collect();
        let ports = all.add(ProgressBar::new(1));
        ports.set_style(plain);
        Bars { all, vms, ports }
    }
}

fn paint_vm(bar: &ProgressBar, driver: &VmDriver) {
    let progress = driver.progress();
    if progress.total > Bytes::ZERO {
        bar.set_length(progress.total.get());
        bar.set_position(progress.total.saturating_sub(progress.remaining).get());
    }
    let figures = match driver.phase() {
        Phase::PreCopy | Phase::Switchover | Phase::PostCopy => format!(
            "pass {}  {} left  {}  dirty {}",
            progress.pass.max(1),
            progress.remaining.human(),
            progress.rate.human(),
            progress.dirty_rate.human()
        ),
        Phase::Ended => match driver.outcome() {
            Some(Outcome::Completed) => {
                bar.set_position(bar.length().unwrap_or(1));
                "at the target".to_owned()
            }
            Some(Outcome::RolledBack | Outcome::NotStarted) => "at the source".to_owned(),
            Some(Outcome::NeedsRecovery) => "NEEDS RECOVERY".to_owned(),
            Some(Outcome::Lost) => "LOST".to_owned(),
            None => String::new(),
        },
        _ => String::new(),
    };
    bar.set_message(format!("{:<16} {figures}", driver.phase().name()));
}

/// The rates of the last interval, per port.
fn port_rates(ledger: &Ledger) -> String {
    let [.., before, last] = ledger.ports.as_slice() else { return String::new() };
    let time = last.at.since(before.at);
    let rates: Vec<_> = last
        .counters
        .iter()
        .zip(&before.counters)
        .map(|((host, new), (_, old))| {
            let rate = |new: u64, old: u64| {
                Bandwidth::of(Bytes::new(new.saturating_sub(old)), time).human()
            };
            let (tx, rx) = (rate(new.tx_bytes, old.tx_bytes), rate(new.rx_bytes, old.rx_bytes));
            format!("{host}: TX {tx}, RX {rx}")
        })
        .collect();
    rates.join("   ")
}

/// What a driver decided or has to tell, in words, if it is that.
pub(super) fn decision(kind: &RecordKind) -> Option<String> {
    match kind {
        RecordKind::Decided { reason, choice, inputs, .. } => {
            Some(format!("{choice}, because {reason} ({inputs})"))
        }
        RecordKind::Warning(text) => Some(format!("warning: {text}")),
        RecordKind::Ended { outcome, reason: Some(reason) } => {
            Some(format!("{}: {reason}", outcome_words(*outcome)))
        }
        _ => None,
    }
}

/// Whether a line, as [`Display::record`] writes it, tells that a VM's stream began.
pub(crate) fn tells_of_a_stream(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let time = words.next().is_some_and(|word| word.parse::<f64>().is_ok());
    let unit = words.next() == Some("s");
    let vm = words.next().is_some();
    time && unit && vm && words.eq([Phase::PreCopy.name()])
}

const fn outcome_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::RolledBack => "stays at the source",
        Outcome::NeedsRecovery => "NEEDS RECOVERY",
        Outcome::Lost => "LOST",
        Outcome::NotStarted => "not started",
    }
}

fn describe(record: &Record, ledger: &Ledger, vm: &VmId) -> String {
    match &record.kind {
        RecordKind::Entered(phase) => phase.name().to_owned(),
        RecordKind::Pass(pass) => format!("pass {pass} begins"),
        RecordKind::Boundary { pass, remaining, .. } => {
            format!("pass {pass}: {} left", remaining.human())
        }
        RecordKind::Stopped => "stopped at the source".to_owned(),
        RecordKind::Resumed => {
            let stopped = ledger.vms.get(vm).and_then(super::VmLedger::stopped_at);
            // Who only looks now and then sees both at once.
            let pause = stopped.map(|stopped| record.at.since(stopped)).filter(|it| !it.is_zero());
            let pause = pause.map_or_else(String::new, |pause| {
                format!(" after {:.0} ms", pause.as_secs_f64() * 1000.0)
            });
            format!("runs at the target{pause}")
        }
        RecordKind::Decided { reason, choice, inputs, .. } => {
            format!("decided: {choice}, because {reason} ({inputs})")
        }
        RecordKind::Warning(text) => format!("warning: {text}"),
        RecordKind::Ended { outcome, reason } => {
            let outcome = outcome_words(*outcome);
            match reason {
                Some(reason) => format!("{outcome}: {reason}"),
                None => outcome.to_owned(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_s_begin_is_told_in_a_line_that_is_recognised() {
        let text = "warning: the stream is in pre-copy";
        for (line, expected) in [
            ("   0.012 s  web-1            pre-copy", true),
            ("   0.012 s  web-1            post-copy", false),
            ("   0.012 s  web-1            pass 2 begins", false),
            ("   0.012 s  web-1            decided: pre-copy", false),
            ("web-1  pre-copy  128 MiB", false),
            (text, false),
            ("", false),
        ] {
            assert_eq!(tells_of_a_stream(line), expected, "{line}");
        }
    }

    #[test]
    fn passes_that_follow_each_other_at_once_are_not_told_one_by_one() {
        let mut display = Display::lines();
        let [one, other]: [VmId; 2] = ["one", "other"].map(|name| name.parse().unwrap());
        let mut told = |vm: &VmId, millis: u64, kind| {
            let at = Timestamp::ZERO + Duration::from_millis(millis);
            !display.is_one_of_many(vm, &Record { at, kind })
        };
        assert!(told(&one, 0, RecordKind::Pass(1)));
        assert!(!told(&one, 900, RecordKind::Pass(2)));
        assert!(told(&other, 900, RecordKind::Pass(1)), "each VM has its own");
        assert!(told(&one, 950, RecordKind::Stopped), "everything else is told");
        assert!(told(&one, 1_000, RecordKind::Pass(3)));
        assert!(!told(&one, 1_900, RecordKind::Pass(4)));
    }
}
