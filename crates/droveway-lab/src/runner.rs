//! What runs beside a lab: one process per stream of traffic, service or probe, in the network namespace of the machine that
//! it speaks for. It writes how its application fares, one JSON value a line (`droveway_fleet::log`).
//!
//! ```text
//! run ── SIGTERM ──> Stop
//!  └── job thread: iperf | memcached | probe | load | service
//!        source of figures ──> Meter (intervals without gaps) ──> SampleLog (bounded file)
//! ```
//!
//! Networks break here on purpose, so no job ends by itself: it says on stderr what happened, waits a little (`pace`) and
//! begins again. Intervals in which nothing was heard are written with the amount 0: a dead application is a figure, not a
//! hole. Blocking sockets and one thread a job: the machine's CPUs belong to the emulated guests.

mod agent;
mod iperf;
mod lines;
mod log;
mod memcached;
mod meter;
mod pace;
mod probe;

pub(crate) use agent::{AGENT_PORT, ask_once};
pub use log::read_log;
pub(crate) use memcached::MEMCACHED_PORT;
pub(crate) use probe::ECHO_PORT;

use anyhow::Context;
use droveway_fleet::{
    scenario::Service,
    units::{TimeSpan, Timestamp},
};
use nix::{
    sys::signal::{SigSet, Signal},
    time::{ClockId, clock_gettime},
};
use pace::Stop;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

/// The time that one sample covers: short against a migration of seconds, long against a packet's round trip.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);

/// How long a connection may be silent before it counts as dead. A moved VM that comes back at all does so within a minute.
const SILENCE_MAX: Duration = Duration::from_secs(90);

/// How long a job may take to write its last line once it was told to stop: it looks at least every sample interval.
const STOPPING_MAX: Duration = Duration::from_secs(1);

/// What a runner does, and the log that it writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum JobSpec {
    /// Runs an iperf3 client for ever and logs bytes.
    Iperf {
        /// The log.
        log: PathBuf,
        /// Where the client runs.
        place: Place,
        /// Its arguments.
        arguments: Vec<String>,
        /// Its connections: of several, only their sum counts.
        flows: u32,
    },
    /// Asks a memcached at a steady pace and logs requests and latencies.
    Memcached {
        /// The log.
        log: PathBuf,
        /// Who is asked.
        server: SocketAddr,
        /// The pace.
        requests_per_second: u32,
        /// The connections that share the requests.
        connections: u32,
    },
    /// Asks a VM's echo and logs silences.
    Probe {
        /// The log.
        log: PathBuf,
        /// The echo.
        target: SocketAddr,
        /// The time between two questions.
        interval: TimeSpan,
    },
    /// Logs how many bytes a VM's memory load wrote.
    Load {
        /// The log.
        log: PathBuf,
        /// The VM's agent.
        agent: SocketAddr,
    },
    /// Logs what a VM's service says that it did.
    Service {
        /// The log.
        log: PathBuf,
        /// The VM's agent.
        agent: SocketAddr,
        /// The service.
        service: Service,
    },
}

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Here, as a child.
    Here,
    /// In the VM whose agent has this address.
    Agent(SocketAddr),
}

/// Runs the job that a file describes until SIGTERM or SIGINT. After SIGHUP it is ended and begun anew as the file says then.
///
/// # Errors
/// When the file is no job's, or its log cannot be opened. Trouble with the network is no error.
pub fn run(spec_file: &Path) -> anyhow::Result<()> {
    // Blocked before the first thread starts, so that every thread leaves them to the one that waits for them.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block().context("could not block signals")?;
    let (ended, end) = mpsc::channel();
    let told = ended.clone();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while let Ok(signal) = signals.wait() {
                if told.send(End::Told(signal)).is_err() {
                    return;
                }
            }
        })
        .context("could not start the signals' thread")?;
    loop {
        let text = fs::read_to_string(spec_file)
            .with_context(|| format!("could not read {}", spec_file.display()))?;
        let job: JobSpec = serde_json::from_str(&text)
            .with_context(|| format!("{} describes no job", spec_file.display()))?;
        let stop = Stop::default();
        let of_job = (stop.clone(), ended.clone());
        thread::Builder::new()
            .name("job".to_owned())
            .spawn(move || {
                let (stop, ended) = of_job;
                // A job that panics drops its sender without a word, and then `run` must not wait for ever.
                let result = std::panic::catch_unwind(|| job.run(&stop));
                let _ = ended.send(End::Job(result));
            })
            .context("could not start the job's thread")?;
        let mut outcome = end.recv().context("both threads are gone")?;
        let again = matches!(outcome, End::Told(Signal::SIGHUP));
        if let End::Told(_) = outcome {
            stop.stop();
            match end.recv_timeout(STOPPING_MAX) {
                Ok(later) => outcome = later,
                // Two that write one log would spoil it.
                Err(_) if again => anyhow::bail!("the job did not end to begin anew"),
                Err(_) => return Ok(()),
            }
        }
        match outcome {
            End::Job(Ok(Ok(()))) if again => {}
            End::Job(Ok(result)) => return result.map_err(Into::into),
            End::Job(Err(_)) => anyhow::bail!("the job panicked"),
            End::Told(_) => return Ok(()),
        }
    }
}

/// What a runner waits for.
enum End {
    /// The job ended.
    Job(thread::Result<std::io::Result<()>>),
    /// A signal.
    Told(Signal),
}

impl JobSpec {
    /// Runs until it is told to stop.
    fn run(&self, stop: &Stop) -> std::io::Result<()> {
        match self {
            JobSpec::Iperf { log, place, arguments, flows } => {
                iperf::run(log, *place, arguments, *flows, stop)
            }
            JobSpec::Memcached { log, server, requests_per_second, connections } => {
                memcached::run(log, *server, *requests_per_second, *connections, stop)
            }
            JobSpec::Probe { log, target, interval } => {
                probe::run(log, *target, interval.duration(), stop)
            }
            JobSpec::Load { log, agent } => agent::run_load(log, *agent, stop),
            JobSpec::Service { log, agent, service } => {
                agent::run_service(log, *agent, *service, stop)
            }
        }
    }
}

/// The time on the clock that every log uses, `CLOCK_MONOTONIC`.
fn now() -> Timestamp {
    // This clock is always there: the call cannot fail.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    Timestamp::ZERO + now
}

/// Says on stderr what happened and when, on the logs' clock.
fn event(what: &str) {
    tracing::warn!(at_seconds = now().seconds(), "{what}");
}

#[cfg(test)]
mod tests;
