//! The agent on TCP port 7008: one request line per connection, answered by lines until the connection
//! closes. A client that closes (also only its sending half) ends what it asked for, so nothing is left
//! running for a client that is gone.
//!
//! | request | answer |
//! |---|---|
//! | `iperf3 ARGS...` | iperf3's output, line by line, until it ends |
//! | `load N` | every N ms `<CLOCK_MONOTONIC ns> <bytes written so far>` |
//! | `write W R` | `ok`, once W bytes more are filled and written at R bytes per second from then on, for good |
//! | `follow SERVICE` | what the service prints from now on |
//! | `facts` | `key=value` lines |
//! | anything else | `error: ...` |

use std::io::{PipeReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::poll::PollTimeout;
use nix::time::{ClockId, clock_gettime};

use crate::config::Load;
use crate::memory_load::{self, LoadCounter};
use crate::net::{self, Woken};
use crate::services::Services;
use crate::{boot, console};

const PORT: u16 = 7008;

/// Clients served at once: far more than a scenario has traffic, far fewer than would hurt the guest.
const CLIENTS_MAX: usize = 64;

/// Time a client has to send its line.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);

/// Longest request line: an iperf3 command line with room to spare.
const REQUEST_BYTES_MAX: usize = 4096;

/// What a client may ask for.
#[derive(Debug, Clone, PartialEq)]
enum Request {
    Iperf(Vec<String>),
    Load { interval: Duration },
    Write(Load),
    Follow(String),
    Facts,
}

/// What a connection needs to answer.
#[derive(Debug)]
struct Agent {
    name: String,
    counter: LoadCounter,
    services: Services,
    clients: AtomicUsize,
}

pub(crate) fn start(name: String, counter: LoadCounter, services: Services) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))
        .map_err(|error| format!("cannot bind the agent to port {PORT}: {error}"))?;
    let agent = Arc::new(Agent { name, counter, services, clients: AtomicUsize::new(0) });
    std::thread::Builder::new()
        .name("agent".to_owned())
        .spawn(move || accept_for_ever(&listener, &agent))
        .map_err(|error| format!("cannot start the agent: {error}"))?;
    Ok(())
}

fn accept_for_ever(listener: &TcpListener, agent: &Arc<Agent>) {
    loop {
        let mut client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) => {
                console::say(&format!("agent: cannot accept a client: {error}"));
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if agent.clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS_MAX {
            agent.clients.fetch_sub(1, Ordering::Relaxed);
            let _ = writeln!(client, "error: more than {CLIENTS_MAX} clients");
            continue;
        }
        let of_client = Arc::clone(agent);
        let spawned = std::thread::Builder::new().name("client".to_owned()).spawn(move || {
            // An error here means that the client is gone; there is nobody to tell.
            let _ = of_client.serve(&mut client);
            of_client.clients.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = spawned {
            agent.clients.fetch_sub(1, Ordering::Relaxed);
            console::say(&format!("agent: cannot start a thread: {error}"));
        }
    }
}

impl Agent {
    fn serve(&self, client: &mut TcpStream) -> std::io::Result<()> {
        net::prepare(client)?;
        match self.answer(client) {
            Ok(()) => Ok(()),
            Err(Failure::Refused(message)) => writeln!(client, "error: {message}"),
            Err(Failure::ClientGone(error)) => Err(error),
        }
    }

    fn answer(&self, client: &mut TcpStream) -> Result<(), Failure> {
        match parse_request(&read_line(client)?)? {
            Request::Iperf(arguments) => run_iperf(client, &arguments),
            Request::Load { interval } => stream_load(client, interval, &self.counter),
            Request::Write(load) => {
                memory_load::start(load, &self.name, self.counter.clone())?;
                Ok(writeln!(client, "ok")?)
            }
            Request::Follow(service) => self.follow(client, &service),
            Request::Facts => Ok(client.write_all(self.facts()?.as_bytes())?),
        }
    }

    fn follow(&self, client: &mut TcpStream, service: &str) -> Result<(), Failure> {
        let Some(output) = self.services.follow(service) else {
            let known = self.services.names().join(", ");
            return Err(format!("no service `{service}` here; there is: {known}").into());
        };
        let output = output.map_err(|error| format!("cannot follow {service}: {error}"))?;
        relay(client, output)
    }

    fn facts(&self) -> Result<String, String> {
        let uptime = std::fs::read_to_string("/proc/uptime")
            .map_err(|error| format!("cannot read /proc/uptime: {error}"))?;
        let uptime_s = uptime.split_whitespace().next().unwrap_or("unknown");
        Ok(format!(
            "name={}\nuptime={uptime_s}\nmemTotal={}\nmemAvailable={}\nloadBytes={}\n",
            self.name,
            boot::memory_bytes("MemTotal")?,
            boot::memory_bytes("MemAvailable")?,
            self.counter.bytes(),
        ))
    }
}

/// Why a request was not answered to its end.
#[derive(Debug)]
enum Failure {
    /// The client is told.
    Refused(String),
    /// There is nobody to tell.
    ClientGone(std::io::Error),
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Refused(message)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::ClientGone(error)
    }
}

fn read_line(client: &mut TcpStream) -> Result<String, Failure> {
    let until = Instant::now() + REQUEST_WAIT_MAX;
    let mut line = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("no request line came".to_owned().into());
        }
        client.set_read_timeout(Some(left))?;
        let mut chunk = [0; REQUEST_BYTES_MAX];
        let length = match client.read(&mut chunk) {
            Ok(0) => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        line.extend_from_slice(&chunk[..length]);
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            line.truncate(end);
            let line =
                String::from_utf8(line).map_err(|_| "the request is not UTF-8".to_owned())?;
            return Ok(line);
        }
        if line.len() > REQUEST_BYTES_MAX {
            return Err(format!("the request is longer than {REQUEST_BYTES_MAX} bytes").into());
        }
    }
}

fn parse_request(line: &str) -> Result<Request, String> {
    let mut words = line.split_whitespace();
    let verb = words.next().unwrap_or_default();
    let arguments: Vec<String> = words.map(str::to_owned).collect();
    match (verb, arguments.as_slice()) {
        ("iperf3", [_, ..]) => Ok(Request::Iperf(arguments)),
        ("load", [interval_ms]) => match interval_ms.parse() {
            Ok(interval_ms @ 1..=3_600_000) => {
                Ok(Request::Load { interval: Duration::from_millis(interval_ms) })
            }
            _ => {
                Err(format!("load: `{interval_ms}` is not a number of milliseconds up to an hour"))
            }
        },
        ("write", [bytes, rate]) => match (bytes.parse(), rate.parse()) {
            (
                Ok(working_set_bytes @ memory_load::PAGE_BYTES..),
                Ok(write_rate_bytes_per_s @ 1..),
            ) => Ok(Request::Write(Load { working_set_bytes, write_rate_bytes_per_s, hot: None })),
            _ => Err(format!(
                "write: `{bytes} {rate}` is not a number of bytes, a page at least, and one of bytes per second"
            )),
        },
        ("follow", [service]) => Ok(Request::Follow(service.clone())),
        ("facts", []) => Ok(Request::Facts),
        _ => Err(format!(
            "cannot do `{line}`; there is: iperf3 ARGS..., load MILLISECONDS, write BYTES RATE, follow SERVICE, facts"
        )),
    }
}

/// A child that does not outlive its connection, however that ends.
#[derive(Debug)]
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        // Fails only if it has ended, and then it still has to be waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run_iperf(client: &mut TcpStream, arguments: &[String]) -> Result<(), Failure> {
    let (output, _child) = spawn_iperf(arguments)
        .map_err(|error| Failure::Refused(format!("cannot run iperf3: {error}")))?;
    relay(client, output)
}

fn spawn_iperf(arguments: &[String]) -> std::io::Result<(PipeReader, KilledOnDrop)> {
    let (reader, writer) = std::io::pipe()?;
    // `command`, and with it our copy of the pipe's writing end, is gone when this returns: only then does
    // the end of iperf3 end its output.
    let mut command = Command::new("iperf3");
    command.args(arguments).arg("--forceflush").env("PATH", boot::PROGRAM_PATH);
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    Ok((reader, KilledOnDrop(command.spawn()?)))
}

/// Hands output on until it ends or the client goes.
fn relay(client: &mut TcpStream, mut output: PipeReader) -> Result<(), Failure> {
    let mut chunk = [0; 16 * 1024];
    loop {
        match net::wait(client, Some(&output), PollTimeout::NONE)? {
            Woken::ClientGone => return Ok(()),
            Woken::TimeOut => {}
            Woken::Output => match output.read(&mut chunk)? {
                0 => return Ok(()),
                length => client.write_all(&chunk[..length])?,
            },
        }
    }
}

fn stream_load(
    client: &mut TcpStream,
    interval: Duration,
    counter: &LoadCounter,
) -> Result<(), Failure> {
    let mut due = Instant::now();
    loop {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(std::io::Error::from)?;
        let now_ns = Duration::from(now).as_nanos();
        writeln!(client, "{now_ns} {}", counter.bytes())?;
        // After a pause of the guest the grid starts anew, instead of making up for missed lines at once.
        due = (due + interval).max(Instant::now());
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Rounded up: a wait of 0 ms would spin through the last millisecond.
            let left_ms = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
            let time_out = PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::MAX);
            if net::wait(client, None::<&PipeReader>, time_out)? == Woken::ClientGone {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Result<Request, &str>) {
        match (parse_request(line), expected) {
            (Ok(request), Ok(expected)) => assert_eq!(request, expected, "`{line}`"),
            (Err(message), Err(part)) => assert!(message.contains(part), "`{line}`: `{message}`"),
            (got, expected) => panic!("`{line}` gave {got:?}, not {expected:?}"),
        }
    }

    #[test]
    fn requests_are_understood_or_refused() {
        let iperf = ["-c", "10.0.0.1", "-t", "0"].map(str::to_owned).to_vec();
        check("iperf3 -c 10.0.0.1 -t 0\r", Ok(Request::Iperf(iperf)));
        check("load 100", Ok(Request::Load { interval: Duration::from_millis(100) }));
        check("follow memcached", Ok(Request::Follow("memcached".to_owned())));
        check(" facts ", Ok(Request::Facts));
        check("", Err("there is: iperf3"));
        check("iperf3", Err("there is: iperf3"));
        check("load", Err("there is: iperf3"));
        check("load 0", Err("not a number of milliseconds"));
        check("load x", Err("not a number of milliseconds"));
        let load = |working_set_bytes, write_rate_bytes_per_s| {
            Ok(Request::Write(Load { working_set_bytes, write_rate_bytes_per_s, hot: None }))
        };
        check("write 4096 1", load(4096, 1));
        check("write 4095 1", Err("a page at least"));
        check("write 4096 0", Err("a page at least"));
        check("write 4096", Err("there is: iperf3"));
        check("follow", Err("there is: iperf3"));
        check("facts please", Err("there is: iperf3"));
        check("reboot", Err("cannot do `reboot`"));
    }

    fn connect() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        (client, listener.accept().expect("accept").0)
    }

    fn idle_agent() -> Agent {
        Agent {
            name: "t".to_owned(),
            counter: LoadCounter::default(),
            services: Services::default(),
            clients: AtomicUsize::new(0),
        }
    }

    #[track_caller]
    fn check_answer(request: &str, expected: &str) {
        let (mut client, mut server) = connect();
        client.write_all(request.as_bytes()).expect("request");
        idle_agent().serve(&mut server).expect("served");
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("answer");
        assert!(answer.starts_with(expected), "`{request}` gave `{answer}`");
    }

    #[test]
    fn every_request_ends_in_an_answer_and_a_closed_connection() {
        check_answer("facts\n", "name=t\nuptime=");
        check_answer("follow nothing\n", "error: no service `nothing` here");
        check_answer("reboot\n", "error: cannot do `reboot`");
    }

    #[test]
    fn a_client_that_leaves_ends_its_stream() {
        let (mut client, mut server) = connect();
        client.write_all(b"load 3600000\n").expect("request");
        let served = std::thread::spawn(move || idle_agent().serve(&mut server));
        let mut first = [0; 1];
        client.read_exact(&mut first).expect("the first line comes at once");
        drop(client);
        // Were the departure not noticed, this would wait for an hour.
        let _ = served.join().expect("no panic");
    }
}
