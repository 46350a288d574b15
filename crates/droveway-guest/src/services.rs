//! Programs that run as long as the guest: iperf3 servers and the services of the scenario. Each has a
//! thread that restarts it when it ends and hands its output, line by line, to whoever follows it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::config::{Config, Service};
use crate::{boot, console, quota};

/// Pause before a program that ended is started again, so that one that cannot start does not spin.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// Longest line handed on; longer ones are cut into several. A pipe takes this much at once or not at all.
const LINE_MAX: u64 = 4096;

/// Restarts that are reported on the console; a program that keeps ending must not flood it.
const REPORTED_ENDS_MAX: u32 = 5;

/// An iperf3 server whose client vanished without a word gives up after this and serves the next one, in
/// either direction of the data. Longer than any pause of a guest that migrates well.
const IPERF_SILENCE_MAX_MS: &str = "60000";

/// How long the servers may take until they listen; under emulation and with busy neighbours it takes
/// seconds.
const LISTEN_WAIT_MAX: Duration = Duration::from_secs(60);

const MEMCACHED_PORT: u16 = 11211;

/// The running services, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Services(Vec<Running>);

#[derive(Debug, Clone)]
struct Running {
    name: String,
    output: Output,
}

/// The followers of one service. Each is a pipe, whose capacity (64 KiB) is the limit of what is kept for
/// a slow one: what does not fit is lost to it, and the service never waits.
#[derive(Debug, Clone, Default)]
struct Output(Arc<Mutex<Vec<PipeWriter>>>);

impl Services {
    pub(crate) fn start(config: &Config) -> Result<Self, String> {
        let mut running = Vec::new();
        for port in &config.iperf_ports {
            running.push(keep_running(format!("iperf3-{port}"), iperf_server(*port))?);
        }
        for service in &config.services {
            let mut words = command_line(*service)?;
            if let Some(share) = config.share.filter(|_| *service != Service::Memcached) {
                words = within(quota::of(service.name(), share)?, words);
            }
            running.push(keep_running(service.name().to_owned(), words)?);
        }
        Ok(Self(running))
    }

    /// The service's output from now on, or `None` if there is no such service.
    pub(crate) fn follow(&self, name: &str) -> Option<std::io::Result<PipeReader>> {
        let service = self.0.iter().find(|service| service.name == name)?;
        Some(service.output.subscribe())
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.0.iter().map(|service| service.name.as_str()).collect()
    }
}

impl Output {
    fn subscribe(&self) -> std::io::Result<PipeReader> {
        let (reader, writer) = std::io::pipe()?;
        fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(writer);
        Ok(reader)
    }

    fn publish(&self, line: &[u8]) {
        let mut followers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        followers.retain_mut(|follower| match follower.write(line) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        });
    }
}

/// Waits until every server can be connected to. It looks at the kernel's tables: a test connection would
/// occupy an iperf3 server.
pub(crate) fn wait_for_listeners(config: &Config) -> Result<(), String> {
    let mut wanted: BTreeSet<u16> = config.iperf_ports.iter().copied().collect();
    if config.services.contains(&Service::Memcached) {
        wanted.insert(MEMCACHED_PORT);
    }
    let since = Instant::now();
    loop {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
        let listening: BTreeSet<u16> =
            tables.iter().flatten().flat_map(|table| listening_ports(table)).collect();
        let missing: Vec<u16> = wanted.difference(&listening).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        if since.elapsed() > LISTEN_WAIT_MAX {
            return Err(format!("nothing listens on the ports {missing:?}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The local ports in state LISTEN (`0A`) of a table such as `/proc/net/tcp`.
fn listening_ports(table: &str) -> impl Iterator<Item = u16> + '_ {
    table.lines().filter_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (_, port) = columns.next()?.rsplit_once(':')?;
        let state = columns.nth(1)?;
        (state == "0A").then(|| u16::from_str_radix(port, 16).ok()).flatten()
    })
}

fn iperf_server(port: u16) -> Vec<String> {
    let port = port.to_string();
    words(&[
        "iperf3",
        "-s",
        "-p",
        &port,
        "--forceflush",
        "--rcv-timeout",
        IPERF_SILENCE_MAX_MS,
        "--snd-timeout",
        IPERF_SILENCE_MAX_MS,
    ])
}

fn command_line(service: Service) -> Result<Vec<String>, String> {
    Ok(match service {
        Service::Memcached => {
            let cache_mib = cache_mib(boot::memory_bytes("MemTotal")?).to_string();
            words(&[
                "memcached",
                "-u",
                "root",
                "-p",
                &MEMCACHED_PORT.to_string(),
                "-U",
                "0",
                "-m",
                &cache_mib,
                "-t",
                "1",
            ])
        }
        Service::SysbenchMemory => words(&[
            "sysbench",
            "memory",
            "--memory-block-size=4K",
            "--memory-oper=write",
            "--memory-access-mode=rnd",
            "--memory-total-size=0",
            "--events=0",
            "--time=0",
            "--report-interval=1",
            "run",
        ]),
        Service::SysbenchCpu => {
            words(&["sysbench", "cpu", "--events=0", "--time=0", "--report-interval=1", "run"])
        }
    })
}

/// The same program as a member of a control group. It enters by itself before it becomes the program, so that none of its
/// threads is outside.
fn within(members: String, command_line: Vec<String>) -> Vec<String> {
    let script = r#"echo $$ > "$0" && exec "$@""#;
    let mut all = words(&["sh", "-c", script]);
    all.push(members);
    all.extend(command_line);
    all
}

/// A quarter of the memory, and never less than memcached's own default.
fn cache_mib(memory_bytes: u64) -> u64 {
    (memory_bytes / 4 / (1 << 20)).max(64)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn keep_running(name: String, command_line: Vec<String>) -> Result<Running, String> {
    let output = Output::default();
    let running = Running { name: name.clone(), output: output.clone() };
    std::thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            let mut ends = 0_u32;
            loop {
                let outcome = run_once(&command_line, &output);
                ends = ends.saturating_add(1);
                if ends <= REPORTED_ENDS_MAX {
                    console::say(&format!("{name}: {outcome}; restarting it"));
                }
                std::thread::sleep(RESTART_PAUSE);
            }
        })
        .map_err(|error| format!("cannot start a thread for {}: {error}", running.name))?;
    Ok(running)
}

/// Runs the program to its end and says in words how it ended.
fn run_once(command_line: &[String], output: &Output) -> String {
    let run = || -> std::io::Result<String> {
        let (reader, writer) = std::io::pipe()?;
        let mut command = Command::new(&command_line[0]);
        command.args(&command_line[1..]);
        command.env("PATH", boot::PROGRAM_PATH);
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn()?;
        // The command holds our copies of the pipe's writing end: without them gone, it would never end.
        drop(command);
        publish_lines(reader, output)?;
        Ok(child.wait()?.to_string())
    };
    run().unwrap_or_else(|error| format!("cannot run it: {error}"))
}

fn publish_lines(reader: PipeReader, output: &Output) -> std::io::Result<()> {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.by_ref().take(LINE_MAX - 1).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        output.publish(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_a_quarter_of_memory() {
        assert_eq!(cache_mib(512 << 20), 128);
        assert_eq!(cache_mib(100 << 20), 64);
    }

    #[test]
    fn listening_ports_are_read_from_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            \x20  0: 00000000:1451 00000000:0000 0A 00000000:00000000 00:00000000\n\
            \x20  1: 0F02000A:1B60 0202000A:C2F4 01 00000000:00000000 00:00000000\n\
            \x20  2: 00000000000000000000000000000000:2BCB 0000:0000 0A 00000000:00000000\n";
        assert_eq!(listening_ports(table).collect::<Vec<_>>(), [5201, 11211]);
    }

    #[test]
    fn followers_get_lines_from_now_on_and_leave_freely() {
        let output = Output::default();
        output.publish(b"too early\n");
        let first = output.subscribe().expect("pipe");
        let mut second = output.subscribe().expect("pipe");
        drop(first);
        output.publish(b"hello\n");
        let mut line = [0; 6];
        second.read_exact(&mut line).expect("a line");
        assert_eq!(&line, b"hello\n");
        assert_eq!(output.0.lock().expect("no panic").len(), 1);
    }

    #[test]
    fn a_slow_follower_loses_lines_but_never_blocks() {
        let output = Output::default();
        let mut reader = output.subscribe().expect("pipe");
        let line = [b'x'; 1024];
        for _ in 0..1000 {
            output.publish(&line);
        }
        drop(output);
        let mut kept = Vec::new();
        reader.read_to_end(&mut kept).expect("read");
        assert_eq!(kept.len(), 64 * 1024);
    }

    #[test]
    fn a_program_enters_its_group_before_it_starts() {
        let members = std::env::temp_dir().join(format!("droveway-group-{}", std::process::id()));
        let line = within(members.display().to_string(), words(&["/bin/sh", "-c", "exit $0", "7"]));
        let outcome = run_once(&line, &Output::default());
        let member: u32 = std::fs::read_to_string(&members).unwrap().trim().parse().unwrap();
        let _ = std::fs::remove_file(&members);
        assert!(outcome.contains('7') && member > 1, "{outcome}");
    }

    #[test]
    fn a_program_that_is_missing_or_fails_is_named_by_its_end() {
        let output = Output::default();
        assert!(run_once(&words(&["/does/not/exist"]), &output).contains("cannot run it"));
        assert!(run_once(&words(&["/bin/sh", "-c", "exit 3"]), &output).contains('3'));
    }
}
