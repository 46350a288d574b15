//! iperf3 clients: started here or in a guest, their interval lines read as bytes, started again when they end.
//!
//! iperf3 3.12 prints figures of the end that it runs at. At the receiver (`-R`) they are bytes that arrived. At a sender
//! of TCP they are bytes written into the socket: what arrived plus changes of the send buffer, which is full whenever the
//! network is the bottleneck, so over 200 ms and more the two agree; after a sudden silence they differ once by at most the
//! buffer (a few MB). At a sender of UDP they would be no news at all, so UDP is always read at its receiver.
//!
//! A rate (`-b`) is iperf3's mean since its start: after a silence it sends faster until it has caught up, as a producer with
//! a backlog does. Figures of bytes have three digits.

use super::{
    Place, SAMPLE_INTERVAL,
    agent::{ask, relay},
    lines::Lines,
    meter::Meter,
    now,
    pace::{Backoff, Stop},
};
use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal},
    },
    unistd::{Pid, getpid, getppid},
};
use std::{
    io::{self, PipeReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Runs an iperf3 client until it is told to stop.
pub(crate) fn run(
    log: &Path,
    place: Place,
    arguments: &[String],
    flows: u32,
    stop: &Stop,
) -> io::Result<()> {
    let mut meter = Meter::open(log, SAMPLE_INTERVAL)?;
    let mut backoff = Backoff::new();
    while !stop.is_asked() {
        let mut intervals = Intervals::new(flows);
        let take = |line: &str, meter: &mut Meter| {
            if let Some(bytes) = intervals.bytes(line) {
                meter.record(now(), bytes);
                // Connecting alone is no success: only data shows that the server is not busy.
                if bytes > 0 {
                    backoff.reset();
                }
            }
        };
        let end = match place {
            Place::Here => match start(arguments) {
                Ok((output, _child)) => relay(&mut Lines::new(output), &mut meter, stop, take),
                Err(error) => format!("could not be started: {error}"),
            },
            Place::Agent(agent) => match ask(agent, &format!("iperf3 {}", arguments.join(" "))) {
                Ok(mut lines) => relay(&mut lines, &mut meter, stop, take),
                Err(error) => format!("agent {agent}: {error}"),
            },
        };
        meter.pause(&format!("iperf3 {}: {end}", arguments.join(" ")), backoff.next(), stop);
    }
    Ok(())
}

/// A child that does not outlive us, however we end.
#[derive(Debug)]
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // Fails only if it has ended, and then it still has to be waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(arguments: &[String]) -> io::Result<(PipeReader, Owned)> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new("iperf3");
    command.args(arguments).stdin(Stdio::null());
    command.stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let runner = getpid();
    // SAFETY: between fork and exec the closure makes three system calls; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            // What the runner blocks for itself would be blocked in its child too.
            SigSet::empty().thread_set_mask()?;
            die_with(runner)
        });
    }
    // `command` holds our copies of the pipe's writing end: it is gone when this returns, so that the output can end.
    Ok((reader, Owned(command.spawn()?)))
}

fn die_with(runner: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // It may have died before the call above.
    if getppid() == runner { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

/// Reads the interval lines of one iperf3 client.
#[derive(Debug)]
struct Intervals {
    sums: bool,
    end: f64,
}

impl Intervals {
    const fn new(flows: u32) -> Self {
        Intervals { sums: flows > 1, end: 0.0 }
    }

    /// The bytes of an interval line; `None` for any other: headings, single flows beside their sum, omitted intervals, the
    /// summary at the end, and the last interval once more, which an iperf3 that loses its server prints twice.
    fn bytes(&mut self, line: &str) -> Option<u64> {
        let (id, rest) = line.trim_start().strip_prefix('[')?.split_once(']')?;
        let ours = if self.sums { id == "SUM" } else { id.trim().parse::<u32>().is_ok() };
        let mut words = rest.split_whitespace();
        let (_, end) = words.next()?.split_once('-')?;
        let end: f64 = end.parse().ok()?;
        let (seconds, amount, unit) = (words.next()?, words.next()?, words.next()?);
        let summary = words.any(|word| matches!(word, "sender" | "receiver" | "(omitted)"));
        if !ours || seconds != "sec" || summary || end <= self.end {
            return None;
        }
        let bytes = amount.parse::<f64>().ok()? * scale(unit)?;
        self.end = end;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast of a float saturates"
        )]
        Some(bytes.round() as u64)
    }
}

fn scale(unit: &str) -> Option<f64> {
    let exponent = match unit {
        "Bytes" => 0,
        "KBytes" => 1,
        "MBytes" => 2,
        "GBytes" => 3,
        "TBytes" => 4,
        _ => return None,
    };
    Some(1024_f64.powi(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(flows: u32, output: &str, expected: &[u64]) {
        let mut intervals = Intervals::new(flows);
        let bytes: Vec<u64> = output.lines().filter_map(|line| intervals.bytes(line)).collect();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn output_of_a_sender_is_read() {
        check(1, include_str!("testdata/tcp.txt"), &[262_144, 1_310_720, 0, 131_072]);
    }

    #[test]
    fn output_of_a_receiver_that_lost_its_server_is_read() {
        check(1, include_str!("testdata/reverse.txt"), &[131_072, 0, 655_360, 131_072]);
    }

    #[test]
    fn of_several_flows_the_sum_is_read() {
        check(2, include_str!("testdata/sum.txt"), &[262_144, 524_288]);
    }

    #[test]
    fn output_of_udp_is_read() {
        check(1, include_str!("testdata/udp.txt"), &[131_072, 130_048]);
    }

    #[test]
    fn omitted_intervals_and_complaints_are_not() {
        check(
            1,
            "[  5]   0.00-0.20   sec   221 MBytes  9275399 Kbits/sec    0    895 KBytes       (omitted)",
            &[],
        );
        check(1, "iperf3: error - the server is busy running a test. try again later", &[]);
        check(1, "[  5] local 127.0.0.1 port 48236 connected to 127.0.0.1 port 5391", &[]);
        check(1, "[  5]   0.00-x.20   sec   221 MBytes", &[]);
        check(1, "[", &[]);
    }
}
