//! Schedules of faults by the thousand, each from its seed, with every law checked after every event.
//!
//! `cargo run --release -p droveway-sim --example faults -- [--seed N] [--count N] [--broken RULE]`
//!
//! `--seed N` alone runs that one and prints what it is and what happened; with `--count` it is the first of so many. A seed
//! that breaks a law is printed with the smallest schedule that still does, and with the command that repeats it.
#![expect(clippy::print_stdout, reason = "a program for people")]
#![expect(clippy::disallowed_methods, reason = "it measures time and uses all processors")]

use droveway_drive::{Outcome as Ended, RecordKind};
use droveway_sim::{Broken, FaultSchedule, Ran, Timed};
use std::{
    collections::BTreeMap, env, error::Error, process::ExitCode, sync::mpsc, thread, time::Instant,
};

/// Seeds that broke a law and are shown.
const SHOWN_MAX: usize = 10;

#[derive(Debug, Clone, Copy)]
struct Asked {
    seed: u64,
    count: Option<u64>,
    broken: Option<Broken>,
}

fn asked() -> Result<Asked, Box<dyn Error>> {
    let mut asked = Asked { seed: 0, count: None, broken: None };
    let mut seeded = false;
    let mut arguments = env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--seed" => (asked.seed, seeded) = (value.parse()?, true),
            "--count" => asked.count = Some(value.parse()?),
            "--broken" => asked.broken = Some(serde_json::from_value(value.into())?),
            _ => return Err(format!("{name}: --seed, --count and --broken are known").into()),
        }
    }
    if !seeded && asked.count.is_none() {
        asked.count = Some(1_000);
    }
    Ok(asked)
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let asked = asked()?;
    match asked.count {
        None => one(asked),
        Some(count) => many(asked, count),
    }
}

fn one(asked: Asked) -> Result<ExitCode, Box<dyn Error>> {
    let schedule = FaultSchedule::of(asked.seed);
    println!("{}", serde_json::to_string_pretty(&schedule)?);
    let ran = schedule.run(asked.broken)?;
    let began = ran.outcome.began_at;
    for (vm, record) in &ran.outcome.records {
        println!("{:9.3} s  {vm}: {:?}", record.at.seconds_from(began), record.kind);
    }
    println!("{} controllers took over; deadline: {:?}", ran.left.adopted, ran.deadline);
    if ran.violations.is_empty() {
        println!("every law held");
        return Ok(ExitCode::SUCCESS);
    }
    println!("broken: {}", ran.violations.join("; "));
    let smallest = schedule.smallest(asked.broken);
    println!("as few faults do: {}", serde_json::to_string(&smallest.faults)?);
    Ok(ExitCode::FAILURE)
}

fn many(asked: Asked, count: u64) -> Result<ExitCode, Box<dyn Error>> {
    let began = Instant::now();
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (sender, runs) = mpsc::channel();
    for worker in 0..workers {
        let sender = sender.clone();
        thread::spawn(move || {
            let seeds = (asked.seed..asked.seed + count).skip(worker);
            for seed in seeds.step_by(workers) {
                let ran = FaultSchedule::of(seed).run(asked.broken).map_err(|it| it.to_string());
                if sender.send((seed, ran)).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut tally = Tally::default();
    let mut broken = Vec::new();
    for (seed, ran) in runs {
        let ran = ran?;
        tally.add(seed, &ran);
        if !ran.violations.is_empty() {
            broken.push((seed, ran.violations));
        }
    }
    broken.sort();
    for (seed, violations) in broken.iter().take(SHOWN_MAX) {
        let smallest = FaultSchedule::of(*seed).smallest(asked.broken);
        println!("seed {seed} breaks a law: {}", violations.join("; "));
        println!("  {} with {}", smallest.policy, serde_json::to_string(&smallest.faults)?);
        println!("  cargo run --release -p droveway-sim --example faults -- --seed {seed}");
    }
    tally.print();
    println!(
        "{count} schedules in {:.1} s of real time: {} broke a law",
        began.elapsed().as_secs_f64(),
        broken.len()
    );
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What became of all of them.
#[derive(Debug, Default)]
struct Tally {
    faults: BTreeMap<String, u64>,
    ends: BTreeMap<String, u64>,
    adopted: u64,
    /// Dead paths of post-copies that were noticed without QEMU's word, and paths that were renewed.
    noticed: u64,
    renewed: u64,
    simulated: f64,
    checks: u64,
    longest: (f64, u64),
    /// Undisturbed and disturbed, missed and kept.
    feasible: [[u64; 2]; 2],
}

impl Tally {
    fn add(&mut self, seed: u64, ran: &Ran) {
        for timed in FaultSchedule::of(seed).faults {
            let kind = serde_json::to_string(&timed.fault).unwrap_or_default();
            let kind = kind.split('"').nth(1).unwrap_or_default().to_owned();
            *self.faults.entry(kind).or_default() += 1;
        }
        for (_, end) in ran.ends() {
            let name = match end {
                Ended::Completed => "completed",
                Ended::RolledBack => "rolled back",
                Ended::NeedsRecovery => "needs recovery",
                Ended::Lost => "lost",
                Ended::NotStarted => "not started",
            };
            *self.ends.entry(name.to_owned()).or_default() += 1;
        }
        self.adopted += u64::from(ran.left.adopted);
        for (_, record) in &ran.outcome.records {
            match &record.kind {
                RecordKind::Decided { reason, .. } if reason == "post-copy's path is dead" => {
                    self.noticed += 1;
                }
                RecordKind::Warning(text) if text.starts_with("post-copy's path was renewed") => {
                    self.renewed += 1;
                }
                _ => {}
            }
        }
        self.checks += ran.left.checks;
        self.simulated += ran.outcome.until.seconds();
        let took = ran.outcome.ended_at.seconds_from(ran.outcome.began_at);
        if took > self.longest.0 {
            self.longest = (took, seed);
        }
        if let Some((droveway_plan::adaptive::Verdict::Feasible, ratio)) = ran.deadline {
            let harmless = |timed: &Timed| timed.fault.is_harmless();
            let disturbed = !FaultSchedule::of(seed).faults.iter().all(harmless);
            self.feasible[usize::from(disturbed)][usize::from(ratio <= 1.0)] += 1;
        }
    }

    fn print(&self) {
        println!("faults: {:?}", self.faults);
        println!("attempts: {:?}; {} times a controller took over", self.ends, self.adopted);
        println!(
            "{:.0} s simulated, the laws looked at {} times; the longest run took {:.1} s (seed {})",
            self.simulated, self.checks, self.longest.0, self.longest.1
        );
        println!(
            "{} dead paths of post-copies noticed without QEMU's word, {} paths renewed",
            self.noticed, self.renewed
        );
        let [[missed, kept], [missed_disturbed, kept_disturbed]] = self.feasible;
        println!(
            "deadlines called feasible: undisturbed {kept} kept, {missed} missed; disturbed {kept_disturbed} kept, \
             {missed_disturbed} missed"
        );
    }
}
