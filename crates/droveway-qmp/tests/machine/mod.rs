//! Real QEMUs for the tests, killed when dropped.
#![allow(dead_code, reason = "each test binary uses a part")]

use droveway_qmp::{
    Client, Event, MigrationStatus, MigrationUri, QmpAddress, RunState, Subscription,
};
use std::{
    env,
    fs::{File, OpenOptions},
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::timeout;

/// Bound on anything a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

const BINARY: &str = "qemu-system-x86_64";

/// The binary, or a skip that is printed and counted.
#[expect(clippy::print_stdout, reason = "a skip must be seen")]
pub(crate) fn or_skip() -> Option<PathBuf> {
    let paths = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&paths).map(|dir| dir.join(BINARY)).find(|path| path.is_file());
    if found.is_none() {
        let line = format!("skip: {BINARY} not found");
        println!("{line}");
        if let Some(log) = env::var_os("DROVEWAY_SKIP_LOG") {
            let mut log = OpenOptions::new().append(true).create(true).open(log).expect("skip log");
            // One write, because tests run side by side.
            log.write_all(format!("{line}\n").as_bytes()).expect("skip log");
        }
        assert!(env::var_os("DROVEWAY_REQUIRE_LAB").is_none_or(|value| value != "1"), "{line}");
    }
    found
}

/// A guest of 64 MiB with nothing in it but its firmware: paused, unless it waits for another one to arrive.
pub(crate) struct Qemu {
    pub(crate) client: Client,
    dir: TempDir,
    child: Child,
}

impl Qemu {
    pub(crate) async fn start(binary: PathBuf, more: &[&str]) -> Qemu {
        let dir = tempfile::tempdir().expect("temporary directory");
        let socket = dir.path().join("qmp.sock");
        let monitor = format!("unix:{},server=on,wait=off", socket.display());
        let errors = File::create(dir.path().join("stderr")).expect("stderr file");
        let child = Command::new(binary)
            .args(["-machine", "q35,accel=tcg", "-m", "64", "-nodefaults"])
            .args(["-no-user-config", "-display", "none", "-qmp", &monitor])
            .args(if more.contains(&"-incoming") { &[][..] } else { &["-S"] })
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("start QEMU");
        let address = QmpAddress::unix(&socket);
        let mut guard = Guard(Some(child));
        let client = match Client::connect(&address, PATIENCE).await {
            Ok(client) => client,
            Err(error) => {
                let said = std::fs::read_to_string(dir.path().join("stderr")).unwrap_or_default();
                panic!("{error}: {said}");
            }
        };
        Qemu { client, dir, child: guard.0.take().expect("just put there") }
    }

    /// A socket for a migration into this guest.
    pub(crate) fn migration_uri(&self, name: &str) -> MigrationUri {
        MigrationUri::unix(self.dir.path().join(name))
    }
}

struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// It may have ended by itself, which is no error.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Waits for that migration status and returns those before it.
pub(crate) async fn status_reached(
    events: &mut Subscription,
    wanted: &MigrationStatus,
) -> Vec<MigrationStatus> {
    let mut seen = Vec::new();
    let reached = async {
        while let Some(record) = events.next_event().await {
            if let Event::Migration { status } = record.event {
                if status == *wanted {
                    return true;
                }
                seen.push(status);
            }
        }
        false
    };
    let result = timeout(PATIENCE, reached).await;
    assert_eq!(result, Ok(true), "no {wanted} after {seen:?}");
    seen
}

/// Waits for that event.
pub(crate) async fn event_reached(events: &mut Subscription, wanted: &Event) {
    let reached = async {
        while let Some(record) = events.next_event().await {
            if record.event == *wanted {
                return true;
            }
        }
        false
    };
    assert_eq!(timeout(PATIENCE, reached).await, Ok(true), "no {wanted:?}");
}

/// Waits for that run state.
pub(crate) async fn state_reached(client: &Client, wanted: &RunState) {
    let reached = async {
        while client.status().await.expect("query-status").state != *wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert_eq!(timeout(PATIENCE, reached).await, Ok(()), "no {wanted}");
}
