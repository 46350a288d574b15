//! A lab of one test: brought up by the command that users type, and taken down whatever happens.

use droveway_fleet::{Fleet, RunReport, document, fleet::FleetSpec};
use droveway_host::netns::Netns;
use droveway_qmp::{Capabilities, Client, MigrationParameters, QmpAddress, QmpError};
use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The longest that anything here may take before the test says what it waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the lab is impossible here, if it is.
fn obstacle() -> Option<String> {
    if !droveway_host::features::is_privileged() {
        return Some("not root: network namespaces are impossible".to_owned());
    }
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        return Some("qemu-system-x86_64 is not installed".to_owned());
    }
    if std::env::var_os("DROVEWAY_GUEST_IMAGE").is_none() {
        return Some("no guest image: run `cargo xtask test`".to_owned());
    }
    None
}

/// Says why a test does not run, where `cargo xtask test` counts it.
fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let line = format!("skip: {test}: {reason}");
    assert!(std::env::var_os("DROVEWAY_REQUIRE_LAB").is_none(), "{line}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("DROVEWAY_SKIP_LOG") {
        let file = fs::File::options().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}

/// The turn of a test that builds its labs itself; `None` where labs are impossible.
pub(crate) fn in_turn() -> Option<MutexGuard<'static, ()>> {
    if let Some(reason) = obstacle() {
        skip(&reason);
        return None;
    }
    Some(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs `droveway` with a clean environment of its own.
pub(crate) fn droveway(arguments: &[&str]) -> Output {
    command(arguments).output().expect("droveway starts")
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_droveway"));
    command.args(arguments).env_remove("DROVEWAY_FLEET").stdin(Stdio::null());
    command
}

/// All that a command said, for a failure's text.
pub(crate) fn said(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

pub(crate) struct Lab {
    pub(crate) name: String,
    pub(crate) fleet_file: PathBuf,
    folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// A VM of a test's lab.
pub(crate) struct TestVm {
    pub(crate) name: &'static str,
    /// More of the VM's description, in the scenario's words.
    pub(crate) more: &'static str,
}

impl Lab {
    /// A lab of two hosts and a client with these VMs on host `alpha`; `None` where that is impossible.
    pub(crate) fn up(name: &str, rate: &str, vms: &[TestVm]) -> Option<Lab> {
        let mut text = String::new();
        for vm in vms {
            let more = if vm.more.is_empty() { String::new() } else { format!(", {}", vm.more) };
            writeln!(text, "    - {{ name: {}, host: alpha, memory: 192MiB{more} }}", vm.name)
                .expect("text");
        }
        Lab::up_with(name, rate, &text)
    }

    /// The same with VMs, and whatever may follow them, in the scenario's words.
    pub(crate) fn up_with(name: &str, rate: &str, vms: &str) -> Option<Lab> {
        Lab::up_on(name, &format!("{{ rate: {rate} }}"), false, vms)
    }

    /// The same on a link in the scenario's words, with a client that hears how long each VM is silent or without.
    pub(crate) fn up_on(name: &str, link: &str, probe: bool, vms: &str) -> Option<Lab> {
        if let Some(reason) = obstacle() {
            skip(&reason);
            return None;
        }
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = format!(
            "apiVersion: droveway/v1\nkind: Scenario\nmetadata: {{ name: {name} }}\nspec:\n  \
             link: {link}\n  hosts: [ {{ name: alpha }}, {{ name: beta }} ]\n  \
             clients: [ {{ name: client }} ]\n  probe: {{ enabled: {probe} }}\n  vms:\n{vms}"
        );
        let scenario = folder.path().join("scenario.yaml");
        fs::write(&scenario, text).expect("the scenario is written");
        // What a test that was killed left.
        droveway(&["lab", "down", name]);
        let up = droveway(&["lab", "up", &scenario.display().to_string()]);
        assert!(up.status.success(), "lab up: {}", said(&up));
        let line = String::from_utf8_lossy(&up.stdout).into_owned();
        let fleet_file = line.rsplit("fleet file: ").next().expect("a path").trim();
        let fleet_file = PathBuf::from(fleet_file);
        Some(Lab { name: name.to_owned(), fleet_file, folder, _turn: turn })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn fleet(&self) -> Fleet {
        let text = fs::read_to_string(&self.fleet_file).expect("the fleet file");
        document::parse::<FleetSpec>(&text, "fleet").expect("a sound fleet file")
    }

    pub(crate) fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let fleet = self.fleet_file.to_str().expect("a path in UTF-8");
        [&["--fleet", fleet], arguments].concat()
    }

    /// Runs a move to its end and returns its exit code and report.
    pub(crate) fn moves(&self, arguments: &[&str]) -> (i32, RunReport) {
        let folder = self.path("report");
        let _ = fs::remove_dir_all(&folder);
        let report = folder.display().to_string();
        let all = [arguments, &["--report", report.as_str()]].concat();
        let output = droveway(&self.arguments(&all));
        let code = output.status.code().expect("an exit code");
        let text = fs::read_to_string(folder.join("report.json"))
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", said(&output)));
        (code, serde_json::from_str(&text).expect("a report"))
    }

    /// Starts a move and does not wait for it.
    pub(crate) fn begins(&self, arguments: &[&str]) -> Running {
        let report = self.path("report").display().to_string();
        let all = [arguments, &["--report", report.as_str()]].concat();
        let child = command(&self.arguments(&all))
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.path("stderr")).expect("a log"))
            .spawn()
            .expect("droveway starts");
        Running(child, self.path("stderr"))
    }

    pub(crate) fn report(&self) -> RunReport {
        let text = fs::read_to_string(self.path("report").join("report.json")).expect("a report");
        serde_json::from_str(&text).expect("a report")
    }

    /// What `status` says, as JSON.
    pub(crate) fn status(&self) -> serde_json::Value {
        let output = droveway(&self.arguments(&["status", "-o", "json"]));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("status: {error}: {}", said(&output)))
    }

    /// Host and state of a VM.
    pub(crate) fn place(&self, vm: &str) -> (String, String) {
        Self::place_in(&self.status(), vm)
    }

    /// Host and state of a VM, as a status says.
    pub(crate) fn place_in(status: &serde_json::Value, vm: &str) -> (String, String) {
        let all = status["vms"].as_array().expect("vms").clone();
        let found = all.iter().find(|entry| entry["name"] == vm).expect("the VM");
        let text = |field: &str| found[field].as_str().unwrap_or("-").to_owned();
        (text("host"), text("state"))
    }

    /// Waits until a VM is at a host in a state.
    #[track_caller]
    pub(crate) fn wait_for(&self, vm: &str, host: &str, state: &str) {
        wait(&format!("{vm} {state} at {host}"), || {
            self.place(vm) == (host.to_owned(), state.to_owned())
        });
    }

    pub(crate) fn client(&self) -> Netns {
        Netns::named(&self.namespace("client")).expect("the client's namespace")
    }

    pub(crate) fn namespace(&self, machine: &str) -> String {
        format!("dw-{}_{machine}", self.name)
    }

    /// The process of a VM's QEMU on a host.
    pub(crate) fn qemu(&self, vm: &str, host: &str) -> Option<u32> {
        let fleet = self.fleet();
        let instance = &fleet.spec.vm(vm).expect("the VM").instances[host];
        let socket = instance.qmp.trim_start_matches("unix:");
        droveway_host::qemu::find_by_qmp_socket(Path::new(socket))
    }

    /// What a VM's QEMU on a host is set to for migrations. No run may be under way: a monitor serves one client at a time.
    pub(crate) fn settings(&self, vm: &str, host: &str) -> (MigrationParameters, Capabilities) {
        let fleet = self.fleet();
        let instance = &fleet.spec.vm(vm).expect("the VM").instances[host];
        let socket = QmpAddress::unix(instance.qmp.trim_start_matches("unix:"));
        let asked = async {
            let client = Client::connect(&socket, PATIENCE).await?;
            Ok::<_, QmpError>((client.parameters().await?, client.capabilities().await?))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(asked).expect("QEMU answers")
    }

    pub(crate) fn set_port(&self, host: &str, up: bool) {
        let state = if up { "up" } else { "down" };
        let done = Command::new("ip")
            .args(["-n", &self.namespace(host), "link", "set", "nic", state])
            .status();
        assert!(done.expect("ip").success());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let down = droveway(&["lab", "down", &self.name]);
        if !down.status.success() {
            eprintln!("lab down: {}", said(&down));
        }
    }
}

/// A move under way; killed if the test ends first.
pub(crate) struct Running(Child, PathBuf);

impl Running {
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("the signal is sent");
    }

    pub(crate) fn code(&mut self) -> i32 {
        let mut code = None;
        wait("the end of the run", || {
            code = self.0.try_wait().expect("a child").map(|status| status.code().unwrap_or(-1));
            code.is_some()
        });
        code.expect("waited for")
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("the child is killed");
        self.0.wait().expect("the child is gone");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the run said:\n{}", fs::read_to_string(&self.1).unwrap_or_default());
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a condition, with a bound.
#[track_caller]
pub(crate) fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
