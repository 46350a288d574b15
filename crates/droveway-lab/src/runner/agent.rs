//! Asking the agent in a guest: one request line, then lines until it closes. From it come a VM's memory load and the
//! reports of its services.

use super::{
    SAMPLE_INTERVAL,
    lines::{Heard, Lines},
    meter::Meter,
    now,
    pace::{Backoff, Stop},
};
use droveway_fleet::scenario::Service;
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    io::{self, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

/// The TCP port of every guest's agent.
pub(crate) const AGENT_PORT: u16 = 7008;

/// How long to wait for a connection: a first SYN, its repetition after 1 s, and the answer.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(2);

/// How often sysbench reports.
const SYSBENCH_INTERVAL: Duration = Duration::from_secs(1);

/// The guests' sysbench writes blocks of 4 KiB: so many operations make its MiB.
const MEMORY_OPERATIONS_PER_MIB: f64 = 256.0;

/// We send nothing after the request, so only keep-alives notice that the other end is gone.
const KEEPALIVE_IDLE_S: u32 = 10;
const KEEPALIVE_INTERVAL_S: u32 = 10;
// So many, and the wait before them, are `SILENCE_MAX`: a test says so.
const KEEPALIVE_PROBES: u32 = 8;

/// Sends a request; the answer is read from what is given.
pub(crate) fn ask(agent: SocketAddr, request: &str) -> io::Result<Lines<TcpStream>> {
    let mut stream = TcpStream::connect_timeout(&agent, CONNECT_MAX)?;
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(&stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    Ok(Lines::new(stream))
}

/// How long a guest may take for what it is asked once: filling a working set of some hundred MiB takes an emulated one seconds,
/// and one in post-copy answers when it has its pages.
const ANSWER_MAX: Duration = Duration::from_secs(90);

/// Sends a request and gives the first line of the answer.
pub(crate) fn ask_once(agent: SocketAddr, request: &str) -> io::Result<String> {
    match ask(agent, request)?.next(ANSWER_MAX)? {
        Heard::Line(line) => Ok(line),
        Heard::Nothing => Err(io::ErrorKind::TimedOut.into()),
        Heard::End => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Logs the bytes that a VM's memory load writes.
pub(crate) fn run_load(log: &Path, agent: SocketAddr, stop: &Stop) -> io::Result<()> {
    let meter = Meter::open(log, SAMPLE_INTERVAL)?;
    let request = format!("load {}", SAMPLE_INTERVAL.as_millis());
    let mut counter = None;
    follow(meter, agent, &request, stop, |line| {
        let bytes = parse_load(line)?;
        // A counter that fell is that of a VM started anew. The first one counts what was written before we came.
        let before = counter.replace(bytes).unwrap_or(bytes);
        Some(bytes.checked_sub(before).unwrap_or(bytes))
    });
    Ok(())
}

/// Logs the operations that a service reports.
pub(crate) fn run_service(
    log: &Path,
    agent: SocketAddr,
    service: Service,
    stop: &Stop,
) -> io::Result<()> {
    let meter = Meter::open(log, SYSBENCH_INTERVAL)?;
    follow(meter, agent, &format!("follow {}", service.name()), stop, parse_sysbench);
    Ok(())
}

fn follow(
    mut meter: Meter,
    agent: SocketAddr,
    request: &str,
    stop: &Stop,
    mut amount: impl FnMut(&str) -> Option<u64>,
) {
    let mut backoff = Backoff::new();
    while !stop.is_asked() {
        let end = match ask(agent, request) {
            Ok(mut lines) => relay(&mut lines, &mut meter, stop, |line, meter| {
                if let Some(amount) = amount(line) {
                    backoff.reset();
                    meter.record(now(), amount);
                }
            }),
            Err(error) => error.to_string(),
        };
        meter.pause(&format!("'{request}' at {agent}: {end}"), backoff.next(), stop);
    }
}

/// Hands on every line until the source ends, and says how it ended: its last complaint, if it made one.
pub(crate) fn relay<R: io::Read + std::os::fd::AsFd>(
    lines: &mut Lines<R>,
    meter: &mut Meter,
    stop: &Stop,
    mut take: impl FnMut(&str, &mut Meter),
) -> String {
    let mut complaint = None;
    while !stop.is_asked() {
        match lines.next(meter.patience()) {
            Ok(Heard::Line(line)) => {
                if line.starts_with("error:") || line.starts_with("iperf3: ") {
                    complaint = Some(line);
                } else {
                    take(&line, meter);
                }
            }
            Ok(Heard::Nothing) => {}
            Ok(Heard::End) => return complaint.unwrap_or_else(|| "it ended".to_owned()),
            Err(error) => return error.to_string(),
        }
        meter.quiet(now());
    }
    "stopped".to_owned()
}

/// `<guest's monotonic ns> <bytes written so far>`: the bytes.
fn parse_load(line: &str) -> Option<u64> {
    let (at, bytes) = line.split_once(' ')?;
    at.parse::<u64>().ok()?;
    bytes.parse().ok()
}

/// A line of sysbench: `[ 1s ] thds: 1 eps: 711.20 lat (ms,95%): 1.42` or `[ 1s ] 261.20 MiB/sec`. It reports rates, once a
/// second of the guest's clock.
fn parse_sysbench(line: &str) -> Option<u64> {
    let (_, report) = line.strip_prefix('[')?.split_once("s ]")?;
    let mut words = report.split_whitespace();
    let per_second = if let Some(rate) = report.trim().strip_suffix("MiB/sec") {
        rate.trim().parse::<f64>().ok()? * MEMORY_OPERATIONS_PER_MIB
    } else {
        words.find(|word| *word == "eps:")?;
        words.next()?.parse::<f64>().ok()?
    };
    let operations = per_second * SYSBENCH_INTERVAL.as_secs_f64();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast of a float saturates"
    )]
    (operations.is_finite() && operations >= 0.0).then(|| operations.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_sysbench_are_read() {
        for (line, expected) in [
            ("[ 1s ] thds: 1 eps: 711.20 lat (ms,95%): 1.42", Some(711)),
            ("[ 12s ] thds: 1 eps: 0.00 lat (ms,95%): 0.00", Some(0)),
            ("[ 3s ] 2333.23 MiB/sec", Some(597_307)),
            ("[ 3s ] 0.00 MiB/sec", Some(0)),
            ("Total operations: 1072635 (536077.44 per second)", None),
            ("4189.98 MiB transferred (2094.05 MiB/sec)", None),
            ("Threads started!", None),
            ("[ 3s ] nan MiB/sec", None),
            ("", None),
        ] {
            assert_eq!(parse_sysbench(line), expected, "{line}");
        }
    }

    #[test]
    fn an_agent_may_be_silent_as_long_as_any_peer() {
        let silence_s = KEEPALIVE_IDLE_S + KEEPALIVE_INTERVAL_S * KEEPALIVE_PROBES;
        assert_eq!(u64::from(silence_s), crate::runner::SILENCE_MAX.as_secs());
    }

    #[test]
    fn lines_of_the_load_are_read() {
        assert_eq!(parse_load("123456789 4096"), Some(4096));
        for bad in ["", "1", "a 1", "1 b", "1 2 3", "error: no load"] {
            assert_eq!(parse_load(bad), None, "{bad}");
        }
    }
}
