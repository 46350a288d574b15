//! What a lab is doing now: rates of its ports, states of its VMs, rates of its applications.
//!
//! VMs are asked over QMP with an exchange of our own rather than `droveway-qmp`: three lines on a blocking socket, no
//! runtime. A QMP socket serves one client at a time, so a VM whose migration is being driven says nothing to us.

use crate::{
    LabInfo,
    error::{LabError, file},
    layout::Layout,
    remove::Membership,
};
use droveway_fleet::{
    Bandwidth, Bytes, Fleet, FleetVm, Timestamp, document,
    fleet::{Application, ApplicationUnit, FleetSpec},
    log::ApplicationSample,
};
use droveway_host::{Counters, Netns, PortCounters, features, qemu};
use serde::Serialize;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::Duration,
};

/// How long ports are watched for their rates.
const SAMPLE: Duration = Duration::from_millis(500);

/// A QEMU answers within milliseconds unless another client has its socket.
const QMP_WAIT_MAX: Duration = Duration::from_millis(800);

/// An application that wrote nothing for so long does not run.
const SILENT_MAX: Duration = Duration::from_secs(3);

/// The end of a log that holds its last line: a line of latencies has some 10 KiB.
const LAST_LINE_LEN_MAX: u64 = 64 << 10;

/// What a lab is doing.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabStatus {
    /// The lab.
    #[serde(flatten)]
    pub lab: LabInfo,
    /// Its hosts, in the order of the scenario.
    pub hosts: Vec<HostStatus>,
    /// Its VMs, in the order of the scenario.
    pub vms: Vec<VmStatus>,
    /// Its applications.
    pub traffic: Vec<TrafficStatus>,
    /// How many processes it has.
    pub processes: usize,
}

/// A host and what its port does.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub netns: String,
    /// Its address.
    pub address: String,
    /// Its port's rate.
    #[serde(rename = "rateBitsPerSecond", serialize_with = "bits_per_second")]
    pub rate: Bandwidth,
    /// What the port sends.
    #[serde(rename = "txBitsPerSecond", serialize_with = "bits_per_second")]
    pub tx: Bandwidth,
    /// What the port receives.
    #[serde(rename = "rxBitsPerSecond", serialize_with = "bits_per_second")]
    pub rx: Bandwidth,
}

/// Programs read this: a number, its unit in its name.
fn bits_per_second<S: serde::Serializer>(
    rate: &Bandwidth,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(rate.bits_per_second())
}

/// A VM and where it is.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VmStatus {
    /// Its name.
    pub name: String,
    /// Where it is; absent if no host has it.
    pub host: Option<String>,
    /// Its state in QEMU's words, `busy` while another client has its QMP socket, or `gone`.
    pub state: String,
}

/// An application and how it fares.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficStatus {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: String,
    /// Where its data comes from.
    pub from: String,
    /// Where its data goes.
    pub to: String,
    /// What [`TrafficStatus::per_second`] counts.
    pub unit: ApplicationUnit,
    /// Its last rate; absent before its first line.
    pub per_second: Option<f64>,
    /// Whether it wrote a line lately.
    pub running: bool,
}

/// Looks at a lab; takes half a second, in which its ports are watched.
///
/// # Errors
/// [`LabError`], for one when the lab is only half-built.
pub fn status(info: &LabInfo) -> Result<LabStatus, LabError> {
    let text = std::fs::read_to_string(&info.fleet_file);
    let text = text.map_err(file("read", &info.fleet_file))?;
    let origin = info.fleet_file.display().to_string();
    let fleet: Fleet =
        document::parse::<FleetSpec>(&text, &origin).map_err(|error| LabError::Document {
            action: "read",
            path: info.fleet_file.clone(),
            said: error.to_string(),
        })?;
    // The directory of labs is where this lab's directory is.
    let layout = Layout::new(info.dir.parent().unwrap_or(Path::new("/")), &info.name);
    let processes = Membership::new(&layout).processes().len();
    let hosts = hosts(&fleet)?;
    Ok(LabStatus {
        lab: info.clone(),
        hosts,
        vms: vms(&fleet),
        traffic: fleet.spec.applications.iter().map(traffic).collect(),
        processes,
    })
}

fn hosts(fleet: &Fleet) -> Result<Vec<HostStatus>, LabError> {
    let mut ports = Vec::new();
    for host in &fleet.spec.hosts {
        let netns = Netns::of(host.netns.as_deref())?;
        let mut port = PortCounters::open(&netns, &host.port.interface)?;
        let before = port.read_stamped()?;
        ports.push((host, netns, port, before));
    }
    thread::sleep(SAMPLE);
    let status = ports.into_iter().map(|(host, netns, mut port, before)| {
        let after = port.read_stamped()?;
        let rate = |of: fn(&Counters) -> u64| {
            let bytes = Bytes::new(of(&after.1).saturating_sub(of(&before.1)));
            Bandwidth::of(bytes, after.0.since(before.0))
        };
        Ok(HostStatus {
            name: host.name.to_string(),
            netns: netns.to_string(),
            address: host.migration_address.to_string(),
            rate: host.port.rate,
            tx: rate(|counters| counters.tx_bytes),
            rx: rate(|counters| counters.rx_bytes),
        })
    });
    status.collect()
}

/// Asks every instance at once: one that is busy takes its whole time.
fn vms(fleet: &Fleet) -> Vec<VmStatus> {
    thread::scope(|scope| {
        let asking: Vec<_> = fleet.spec.vms.iter().map(|vm| scope.spawn(|| ask_vm(vm))).collect();
        let answers = asking
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        answers.collect()
    })
}

fn ask_vm(vm: &FleetVm) -> VmStatus {
    let mut best: Option<(u8, String, String)> = None;
    for (host, instance) in &vm.instances {
        let Some(socket) = instance.qmp.strip_prefix("unix:").map(Path::new) else { continue };
        let state = match query_status(socket) {
            Ok(state) => state,
            Err(_) if qemu::find_by_qmp_socket(socket).is_some() => "busy".to_owned(),
            Err(_) => continue,
        };
        // A VM is where it runs; a target that waits for it is where it will be.
        let rank = match state.as_str() {
            "running" => 0,
            "inmigrate" => 3,
            "postmigrate" => 2,
            _ => 1,
        };
        if best.as_ref().is_none_or(|(other, _, _)| rank < *other) {
            best = Some((rank, host.to_string(), state));
        }
    }
    let name = vm.name.to_string();
    match best {
        Some((_, host, state)) => VmStatus { name, host: Some(host), state },
        None => VmStatus { name, host: None, state: "gone".to_owned() },
    }
}

/// The run state that a QEMU says it has.
fn query_status(socket: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(QMP_WAIT_MAX))?;
    stream.set_write_timeout(Some(QMP_WAIT_MAX))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    // The greeting.
    answers.read_line(&mut line)?;
    answer(&mut stream, &mut answers, "qmp_capabilities")?;
    let status = answer(&mut stream, &mut answers, "query-status")?;
    let state = status.get("status").and_then(serde_json::Value::as_str);
    state.map(str::to_owned).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn answer(
    stream: &mut UnixStream,
    answers: &mut impl BufRead,
    command: &str,
) -> io::Result<serde_json::Value> {
    /// Events that may come before an answer; a client that was just connected has none of long ago.
    const LINES_MAX: usize = 100;
    stream.write_all(format!("{{\"execute\":\"{command}\"}}\n").as_bytes())?;
    for _ in 0..LINES_MAX {
        let mut line = String::new();
        if answers.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut message: serde_json::Value = serde_json::from_str(&line)?;
        if let Some(value) = message.get_mut("return") {
            return Ok(value.take());
        }
        if message.get("error").is_some() {
            return Err(io::Error::other(line));
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn traffic(application: &Application) -> TrafficStatus {
    let last = last_line(Path::new(&application.log)).ok();
    let sample: Option<ApplicationSample> = last.and_then(|l| serde_json::from_str(&l).ok());
    let now = features::monotonic_now();
    TrafficStatus {
        name: application.name.to_string(),
        kind: application.kind.clone(),
        from: application.from.to_string(),
        to: application.to.to_string(),
        unit: application.unit,
        per_second: sample.as_ref().and_then(per_second),
        running: sample.is_some_and(|sample| is_recent(sample.end, now)),
    }
}

fn is_recent(end: Timestamp, now: Timestamp) -> bool {
    now.since(end) < SILENT_MAX
}

fn per_second(sample: &ApplicationSample) -> Option<f64> {
    let length = sample.end.since(sample.start).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "an amount of one interval is far below 2^53")]
    let amount = sample.amount as f64;
    (length > 0.0).then_some(amount / length)
}

/// The last whole line of a file that may be long and may be written to.
fn last_line(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_LINE_LEN_MAX)))?;
    let mut end = Vec::new();
    file.take(LAST_LINE_LEN_MAX).read_to_end(&mut end)?;
    let text = String::from_utf8_lossy(&end);
    let whole = text.rfind('\n').map_or("", |at| &text[..at]);
    Ok(whole.rsplit('\n').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests;
