//! What the tests of real labs share: their turn, a state directory that cleans up, iperf3, and the look for leftovers.
#![allow(dead_code, reason = "each test program uses its part")]

use droveway_fleet::{Scenario, document};
use droveway_host::{Netns, features, process};
use droveway_lab::{LabInfo, LabOptions, down, up};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// One test at a time uses a lab, in all programs of all checkouts: timing matters.
const TURN: &str = "/run/lock/droveway-lab-test.lock";

/// The turn, or `None` where there can be no lab: the test is skipped, and says so.
pub(crate) fn laboratory(test: &str) -> Option<Flock<File>> {
    let missing = ["ip", "tc", "ethtool", "iperf3"].into_iter().find(|program| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        !std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
    });
    let reason = match missing {
        _ if !features::is_privileged() => "not root".to_owned(),
        Some(program) => format!("{program} is not installed"),
        None => {
            fs::create_dir_all("/run/lock").unwrap();
            let file = File::create(TURN).unwrap();
            return Some(Flock::lock(file, FlockArg::LockExclusive).unwrap());
        }
    };
    skip(test, &reason);
    None
}

/// Says why a test cannot run, where whoever counts them looks; where nothing may be skipped it fails instead.
pub(crate) fn skip(test: &str, reason: &str) {
    let line = format!("skip: {test}: {reason}");
    assert!(std::env::var("DROVEWAY_REQUIRE_LAB").as_deref() != Ok("1"), "{line}");
    println!("{line}");
    if let Ok(path) = std::env::var("DROVEWAY_SKIP_LOG") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

/// Two hosts and a client with such a port each.
pub(crate) fn scenario(name: &str, link: &str) -> Scenario {
    let text = format!(
        "apiVersion: droveway/v1\nkind: Scenario\nmetadata: {{ name: {name} }}\nspec:\n  \
         link: {{ {link} }}\n  hosts: [ {{ name: alpha }}, {{ name: beta }} ]\n  \
         clients: [ {{ name: client }} ]\n  vms: []\n"
    );
    document::parse(&text, "test").unwrap()
}

/// The options of a lab under `root`, with neither image nor runner.
pub(crate) fn options(root: &Path) -> LabOptions {
    LabOptions {
        state_root: root.join("labs"),
        image: root.join("image"),
        runner: PathBuf::from("/bin/true"),
    }
}

/// A state directory whose labs end with it. Names get the process number, since namespaces are the machine's.
pub(crate) struct Root(tempfile::TempDir);

impl Root {
    pub(crate) fn new() -> Self {
        Root(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn options(&self) -> LabOptions {
        options(self.path())
    }

    pub(crate) fn name(&self, name: &str) -> String {
        format!("t{}-{name}", std::process::id())
    }

    pub(crate) fn netns(&self, lab: &str, machine: &str) -> String {
        format!("dw-{}_{machine}", self.name(lab))
    }

    pub(crate) fn named(&self, scenario: &Scenario) -> Scenario {
        let mut scenario = scenario.clone();
        scenario.metadata.name = self.name(scenario.metadata.name.as_str()).parse().unwrap();
        scenario
    }

    #[track_caller]
    pub(crate) fn up(&self, scenario: &Scenario) -> LabInfo {
        up(&self.named(scenario), &self.options(), &mut |line| println!("{line}")).unwrap()
    }

    #[track_caller]
    pub(crate) fn down(&self, name: &str) {
        let removed = down(Some(&self.name(name)), &self.options(), &mut |_| {}).unwrap();
        println!("{removed:?}");
        assert_eq!(removed.len(), 1);
    }

    /// The output of a program that runs on a machine.
    #[track_caller]
    pub(crate) fn inside(
        &self,
        lab: &str,
        machine: &str,
        program: &str,
        arguments: &[&str],
    ) -> String {
        let netns = Netns::named(&self.netns(lab, machine)).unwrap();
        let output = netns.command(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// No namespace, mount, process, device or file of a lab of this test program is left.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        let tag = format!("dw-{}", self.name(""));
        let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let left: Vec<_> = names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(&tag))
            .collect();
        assert_eq!(left, Vec::<String>::new(), "namespaces");
        assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&tag), "mounts");
        let variable = format!("DROVEWAY_LAB={}", self.name(""));
        let left = process::all().unwrap().into_iter().filter(|pid| {
            process::environment(*pid).iter().any(|variable_| variable_.starts_with(&variable))
        });
        assert_eq!(left.collect::<Vec<_>>(), Vec::<u32>::new(), "processes");
        let links = Command::new("ip").args(["-br", "link"]).output().unwrap().stdout;
        let links = String::from_utf8(links).unwrap();
        let ours = ["nic@", "a0@", "x0@", "p0@", "t0 "];
        assert!(!links.lines().any(|l| ours.iter().any(|o| l.starts_with(o))), "{links}");
        let labs = fs::read_dir(self.options().state_root).into_iter().flatten().flatten();
        assert_eq!(labs.count(), 0, "files");
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = down(None, &self.options(), &mut |_| {});
    }
}

/// A measurement with iperf3.
pub(crate) struct Iperf {
    pub(crate) server: &'static str,
    pub(crate) port: u16,
    pub(crate) lab: String,
    pub(crate) seconds: u32,
}

impl Iperf {
    /// Sends from a machine over so many flows; the result is the payload that arrived, in bits per second.
    pub(crate) fn from(self, machine: &'static str, flows: u32) -> JoinHandle<f64> {
        let netns = |name: &str| Netns::named(&format!("dw-{}_{name}", self.lab)).unwrap();
        let address = match self.server {
            "alpha" => "10.77.0.1",
            "beta" => "10.77.0.2",
            _ => "10.77.0.101",
        };
        let port = self.port.to_string();
        let mut server = netns(self.server)
            .command("iperf3")
            .args(["-s", "-1", "-p", &port])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut client = netns(machine).command("iperf3");
        client.args(["-c", address, "-p", &port, "-J", "-P", &flows.to_string()]);
        client.args(["-t", &self.seconds.to_string()]);
        thread::spawn(move || {
            let deadline = Instant::now() + Duration::from_secs(5);
            let rate = loop {
                // The server takes a moment to listen.
                let output = client.output().unwrap();
                let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
                match report["end"]["sum_received"]["bits_per_second"].as_f64() {
                    Some(rate) => break rate,
                    None if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
                    None => panic!("{report}"),
                }
            };
            server.wait().unwrap();
            rate
        })
    }
}
