//! Jobs against real peers on loopback: iperf3 and memcached where they are installed, an echo and an agent of our own.

use super::*;
use droveway_fleet::log::{ApplicationSample, ProbeSample, Silence};
use nix::{sys::signal::kill, unistd::Pid};
use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, UdpSocket},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

/// The longest wait for something that must happen.
const SOON: Duration = Duration::from_secs(10);

#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A job that runs on a thread while this lives.
struct Running {
    stop: Stop,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

fn start(job: impl FnOnce(PathBuf) -> JobSpec) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.jsonl");
    let job = job(log.clone());
    // As a runner gets it: through its file.
    let job: JobSpec = serde_json::from_str(&serde_json::to_string(&job).unwrap()).unwrap();
    let stop = Stop::default();
    let of_job = stop.clone();
    let thread = Some(thread::spawn(move || job.run(&of_job)));
    Running { stop, thread, log, _dir: dir }
}

impl Running {
    fn samples<T: serde::de::DeserializeOwned>(&self) -> Vec<T> {
        read_log(&self.log).unwrap_or_default()
    }

    /// Samples follow each other without gaps.
    fn applications(&self) -> Vec<ApplicationSample> {
        let samples: Vec<ApplicationSample> = self.samples();
        for pair in samples.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
        }
        samples
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        let result = self.thread.take().unwrap().join();
        if !thread::panicking() {
            result.unwrap().unwrap();
        }
    }
}

/// A server of another program's.
struct Peer(Child);

impl Peer {
    /// Starts it on a free port; `None`, said aloud, if it is not installed.
    fn start(program: &str, arguments: impl Fn(&str) -> Vec<String>) -> Option<(Peer, SocketAddr)> {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let peer = Peer::start_at(program, &arguments(&free.port().to_string()))?;
        peer.until_listening(free.port());
        Some((peer, free))
    }

    fn start_at(program: &str, arguments: &[String]) -> Option<Peer> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => Some(Peer(child)),
            Err(error) => {
                eprintln!("skip: {program} cannot be started: {error}");
                None
            }
        }
    }

    /// It looks at the kernel's table: a test connection would occupy an iperf3 server.
    fn until_listening(&self, port: u16) {
        let wanted = format!(":{port:04X} ");
        until("the server listens", || {
            ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
                let table = fs::read_to_string(table).unwrap_or_default();
                table.lines().any(|line| line.contains(&wanted) && line.contains(" 0A "))
            })
        });
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[test]
fn an_iperf_that_loses_its_server_is_seen_and_comes_back() {
    let server = |port: &str| words(&["-s", "-p", port]);
    let Some((first, address)) = Peer::start("iperf3", server) else { return };
    let port = address.port().to_string();
    let job = start(|log| JobSpec::Iperf {
        log,
        place: Place::Here,
        arguments: words(&[
            "-c",
            "127.0.0.1",
            "-p",
            &port,
            "-t",
            "0",
            "-i",
            "0.2",
            "-f",
            "k",
            "--forceflush",
            "-R",
            "-b",
            "4M",
            "-P",
            "2",
            "-l",
            "5000",
        ]),
        flows: 2,
    });
    let busy = |sample: &&ApplicationSample| sample.amount > 0;
    until("data flows", || job.applications().iter().filter(busy).count() >= 4);
    drop(first);
    until("nothing flows", || job.applications().last().is_some_and(|sample| sample.amount == 0));
    let silent = job.applications().len();
    let _second = Peer::start_at("iperf3", &server(&port)).unwrap();
    until("data flows again", || job.applications()[silent..].iter().filter(busy).count() >= 4);

    // Two flows of 4 Mbit/s are 200 kB in 200 ms.
    let samples = job.applications();
    let last = samples.last().unwrap();
    let bytes_per_second = last.amount as f64 / last.end.since(last.start).as_secs_f64();
    assert!((500_000.0..2_000_000.0).contains(&bytes_per_second), "{last:?}");
}

#[test]
fn memcached_keeps_its_pace_and_its_connection_through_a_silence() {
    let arguments =
        |port: &str| words(&["-u", "root", "-l", "127.0.0.1", "-p", port, "-U", "0", "-t", "1"]);
    let Some((server, address)) = Peer::start("memcached", arguments) else { return };
    let job = start(|log| JobSpec::Memcached {
        log,
        server: address,
        requests_per_second: 1000,
        connections: 2,
    });
    let answered =
        |samples: &[ApplicationSample]| -> u64 { samples.iter().map(|s| s.amount).sum() };
    until("requests are answered", || answered(&job.applications()) >= 400);
    server.signal(Signal::SIGSTOP);
    until("nothing is answered", || {
        job.applications().iter().rev().take(2).all(|sample| sample.amount == 0)
    });
    let silent = job.applications();
    server.signal(Signal::SIGCONT);
    until("requests are answered again", || job.applications().len() >= silent.len() + 3);

    let samples = job.applications();
    assert_eq!(samples.iter().map(|sample| sample.failed).sum::<u64>(), 0, "{samples:?}");
    // What was due in the silence was asked then, and counts its wait from then.
    let late = |sample: &ApplicationSample| sample.latencies_us.iter().any(|pair| pair.0 > 300_000);
    assert!(samples.iter().any(late), "{samples:?}");
    let seconds = samples.last().unwrap().end.since(samples[1].start).as_secs_f64();
    let per_second = answered(&samples[1..]) as f64 / seconds;
    assert!((800.0..1200.0).contains(&per_second), "{per_second} requests per second");

    drop(server);
    until("requests fail", || job.applications().last().is_some_and(|sample| sample.failed > 0));
}

/// An echo that can be told to hold its tongue.
fn echo() -> (SocketAddr, Arc<AtomicBool>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mute = Arc::new(AtomicBool::new(false));
    let of_echo = Arc::clone(&mute);
    thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut datagram) {
            if !of_echo.load(Ordering::Relaxed) {
                let _ = socket.send_to(&datagram[..length], from);
            }
        }
    });
    (address, mute)
}

#[test]
fn the_probe_measures_one_silence() {
    let (target, mute) = echo();
    let interval = TimeSpan::from_millis(2);
    let job = start(|log| JobSpec::Probe { log, target, interval });
    let samples = || job.samples::<ProbeSample>();
    until("answers are heard", || samples().iter().any(|sample| sample.heard > 10));
    let began = now();
    mute.store(true, Ordering::Relaxed);
    // Reported while it lasts.
    until("the silence is seen", || {
        samples().last().is_some_and(|sample| sample.heard == 0 && !sample.silences.is_empty())
    });
    let ended = now();
    mute.store(false, Ordering::Relaxed);
    until("answers are heard again", || samples().last().is_some_and(|sample| sample.heard > 10));

    let longest: Silence =
        samples().iter().flat_map(|s| s.silences.clone()).max_by_key(|s| s.length()).unwrap();
    let length = ended.since(began).as_secs_f64();
    let measured = longest.length().as_secs_f64();
    assert!((measured - length).abs() < 0.1, "{measured} s instead of {length} s");
}

#[test]
fn nobody_at_the_echo_is_no_end_of_the_probe() {
    let target = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let interval = TimeSpan::from_millis(2);
    let job = start(|log| JobSpec::Probe { log, target, interval });
    let samples = || job.samples::<ProbeSample>();
    until("questions are asked", || samples().len() >= 2);
    for (before, after) in samples().iter().zip(samples().iter().skip(1)) {
        assert!(before.sent > 0 && before.heard == 0);
        assert_eq!(before.silences[0].from, after.silences[0].from);
        assert!(before.silences[0].length() < after.silences[0].length());
    }
}

/// Serves one connection at a time: reads the request, answers with the lines, closes.
fn agent(answers: Vec<&'static str>) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        let serve_one = |lines: &str| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            stream.write_all(lines.as_bytes()).unwrap();
            request.trim_end().to_owned()
        };
        answers.into_iter().map(serve_one).collect()
    };
    (address, thread::spawn(serve))
}

#[track_caller]
fn check_agent(
    answers: Vec<&'static str>,
    request: &str,
    expected: u64,
    job: impl FnOnce(PathBuf, SocketAddr) -> JobSpec,
) {
    let count = answers.len();
    let (address, served) = agent(answers);
    let job = start(|log| job(log, address));
    let amount = || job.applications().iter().map(|sample| sample.amount).sum::<u64>();
    until("every line is counted", || amount() >= expected);
    assert_eq!(amount(), expected);
    assert_eq!(served.join().unwrap(), vec![request.to_owned(); count]);
}

#[test]
fn agents_are_asked_again_when_they_close() {
    // The counter goes on while nobody listens, and starts anew with its VM.
    let load = vec!["5 1000\n7 1500\n", "9 4000\n11 x\n12 100\n"];
    check_agent(load, "load 200", 3100, |log, agent| JobSpec::Load { log, agent });

    let cpu = vec!["error: no service\n", "[ 1s ] thds: 1 eps: 711.20 lat (ms,95%): 1.42\n"];
    let service = Service::SysbenchCpu;
    check_agent(cpu, "follow sysbench-cpu", 711, |log, agent| JobSpec::Service {
        log,
        agent,
        service,
    });

    let iperf = vec!["[  5]   0.00-0.20   sec   128 KBytes  5240 Kbits/sec\n"];
    check_agent(iperf, "iperf3 -c 10.77.1.1 -R", 131_072, |log, agent| JobSpec::Iperf {
        log,
        place: Place::Agent(agent),
        arguments: words(&["-c", "10.77.1.1", "-R"]),
        flows: 1,
    });
}
