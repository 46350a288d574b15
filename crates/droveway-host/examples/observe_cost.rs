//! What observing costs: the CPU time of sampling 50 taps five times a second, and of reading a traffic matrix of 200
//! entries, in a namespace of its own. Needs root, takes half a minute.
//!
//! `cargo run --release -p droveway-host --example observe_cost`
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use droveway_host::{
    links::{self, LinkCounters},
    matrix::TrafficMatrix,
    netns::Netns,
    tcp_info::TcpDiag,
};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use std::{
    error::Error,
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const TAPS: usize = 50;
const INTERVAL: Duration = Duration::from_millis(200);
const WINDOW: Duration = Duration::from_secs(10);
/// Between two readings of the matrix.
const MATRIX_INTERVAL: Duration = Duration::from_secs(2);
/// Half pairs, half connections.
const ENTRIES: usize = 200;
/// Readings in a row, for the time of one.
const READINGS: u32 = 1000;

/// A namespace that goes with this value.
struct Place(String);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let place = Place(format!("dwo-cost-{}", std::process::id()));
    feed(Command::new("ip").args(["-batch", "-"]), &format!("netns add {}\n", place.0))?;
    let netns = Netns::named(&place.0)?;
    let mut links = "link add br0 type bridge\nlink set br0 up\n".to_owned();
    for number in 0..TAPS {
        writeln!(links, "tuntap add tap{number} mode tap\nlink set tap{number} master br0 up")?;
    }
    feed(netns.command("ip").args(["-batch", "-"]), &links)?;

    let mut counters = LinkCounters::open(&netns)?;
    let mut read = Vec::with_capacity(2 * TAPS);
    let sample = |counters: &mut LinkCounters, read: &mut Vec<_>| {
        read.clear();
        counters.read(read).map(drop)
    };
    println!("one reading of the counters of {TAPS} taps:");
    each("RTM_GETSTATS, counters alone", || Ok(sample(&mut counters, &mut read)?))?;
    each("RTM_GETLINK, everything", || Ok(links::links(&netns).map(drop)?))?;
    let mut diag = TcpDiag::open(&netns)?;
    each("sock_diag, no connections", || Ok(diag.connections().map(drop)?))?;

    let share = run(|_| Ok(sample(&mut counters, &mut read)?))?;
    println!("counters five times a second: {:.3} % of a core", 100.0 * share);

    let mut matrix = TrafficMatrix::install(&netns)?;
    feed(netns.command("nft").args(["-f", "-"]), &entries())?;
    let before = cpu()?;
    let began = Instant::now();
    for _ in 0..10 {
        let reading = matrix.read()?;
        assert_eq!(reading.pairs.len() + reading.connections.len(), ENTRIES);
    }
    println!(
        "one reading of the matrix, {ENTRIES} entries: {:.1} ms, of which CPU {:.1} ms",
        began.elapsed().as_secs_f64() * 100.0,
        (cpu()? - before).as_secs_f64() * 100.0
    );
    let mut due = Duration::ZERO;
    let share = run(|elapsed| {
        if elapsed >= due {
            due += MATRIX_INTERVAL;
            matrix.read()?;
        }
        Ok(sample(&mut counters, &mut read)?)
    })?;
    println!("and the matrix every {MATRIX_INTERVAL:?}: {:.3} % of a core", 100.0 * share);
    Ok(())
}

/// Runs `look` at the interval for the window; the share of a core that it took, children included.
fn run(
    mut look: impl FnMut(Duration) -> Result<(), Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    let (before, began) = (cpu()?, Instant::now());
    let mut due = began;
    while began.elapsed() < WINDOW {
        look(due - began)?;
        due += INTERVAL;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok((cpu()? - before).as_secs_f64() / began.elapsed().as_secs_f64())
}

/// Says how long one of many readings in a row takes.
fn each(
    name: &str,
    mut look: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let (before, began) = (cpu()?, Instant::now());
    for _ in 0..READINGS {
        look()?;
    }
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(READINGS);
    let (time, cpu) = (micros(began.elapsed()), micros(cpu()? - before));
    println!("  {name}: {time:.0} microseconds, of which CPU {cpu:.0}");
    Ok(())
}

/// CPU time so far, user and system, of this process and of the programs that it ran.
fn cpu() -> nix::Result<Duration> {
    let time = |usage: Usage| {
        let micros = [usage.user_time(), usage.system_time()]
            .map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
        Duration::from_micros(u64::try_from(micros[0] + micros[1]).unwrap_or(0))
    };
    Ok(time(getrusage(UsageWho::RUSAGE_SELF)?) + time(getrusage(UsageWho::RUSAGE_CHILDREN)?))
}

/// Entries for the matrix, as if so many had talked.
fn entries() -> String {
    let mut text = String::new();
    for number in 0..ENTRIES / 2 {
        let _ = writeln!(
            text,
            "add element bridge droveway pairs {{ 52:54:00:00:00:{number:02x} . 52:54:00:00:01:00 }}\n\
             add element bridge droveway connections {{ 10.0.0.{number} . 10.0.1.1 . tcp . 40000 . 80 }}"
        );
    }
    text
}

/// Runs a command with an input.
fn feed(command: &mut Command, input: &str) -> Result<(), Box<dyn Error>> {
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}
