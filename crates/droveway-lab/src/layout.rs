//! Where a lab's things are: names of namespaces, paths of files. Pure.
//!
//! ```text
//! STATE_ROOT/LAB/lab.json         the manifest, written before anything else exists
//!                lock             held by whoever builds or removes the lab
//!                scenario.yaml, fleet.yaml
//!                HOST/VM.qmp, HOST/VM.log, HOST/VM.serial
//!                traffic/NAME.jsonl, probe/VM.jsonl
//! ```

use crate::error::LabError;
use droveway_fleet::scenario::{MACHINES_MAX, ScenarioSpec};
use std::path::{Path, PathBuf};

/// The environment variable that every process of a lab carries, with the lab's name.
pub const LAB_VARIABLE: &str = "DROVEWAY_LAB";

/// Separates lab and machine in a namespace's name. No name holds it, so that no lab's namespaces look like another's.
const SEPARATOR: char = '_';

/// The longest path of a unix socket: `sun_path` of 108 bytes, less its final zero.
const SOCKET_PATH_LEN_MAX: usize = 107;

/// The names and paths of one lab.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(state_root: &Path, name: &str) -> Self {
        Layout { name: name.to_owned(), dir: state_root.join(name) }
    }

    /// The namespace of a host or client.
    pub(crate) fn netns(&self, machine: &str) -> String {
        format!("{}{machine}", self.netns_prefix())
    }

    /// The namespace of the switch. No machine's name starts with a separator.
    pub(crate) fn switch_netns(&self) -> String {
        format!("{}{SEPARATOR}switch", self.netns_prefix())
    }

    /// What the names of all namespaces of this lab, and no other, start with.
    pub(crate) fn netns_prefix(&self) -> String {
        format!("dw-{}{SEPARATOR}", self.name)
    }

    /// Every namespace that the lab has: the switch and the machines.
    pub(crate) fn namespaces(&self, spec: &ScenarioSpec) -> Vec<String> {
        let machines = machines(spec).map(|machine| self.netns(machine));
        std::iter::once(self.switch_netns()).chain(machines).collect()
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.dir.join("lab.json")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// The file that describes a job to its runner.
    pub(crate) fn job(&self, name: &str) -> PathBuf {
        self.dir.join("traffic").join(format!("{name}.spec.json"))
    }

    pub(crate) fn scenario(&self) -> PathBuf {
        self.dir.join("scenario.yaml")
    }

    pub(crate) fn fleet(&self) -> PathBuf {
        self.dir.join("fleet.yaml")
    }

    pub(crate) fn qmp(&self, host: &str, vm: &str) -> PathBuf {
        self.dir.join(host).join(format!("{vm}.qmp"))
    }

    pub(crate) fn log(&self, host: &str, vm: &str) -> PathBuf {
        self.dir.join(host).join(format!("{vm}.log"))
    }

    pub(crate) fn serial(&self, host: &str, vm: &str) -> PathBuf {
        self.dir.join(host).join(format!("{vm}.serial"))
    }

    /// The directories to make: one for each host, one for traffic, one for probes.
    pub(crate) fn directories(&self, spec: &ScenarioSpec) -> Vec<PathBuf> {
        let hosts = spec.hosts.iter().map(|host| host.name.as_str());
        hosts.chain(["traffic", "probe"]).map(|name| self.dir.join(name)).collect()
    }

    /// Whether every name fits where the system puts it.
    pub(crate) fn check(&self, spec: &ScenarioSpec) -> Result<(), LabError> {
        for (count, what) in [(spec.vms.len(), "VMs"), (spec.traffic.len(), "streams of traffic")] {
            if count > MACHINES_MAX {
                let message = format!("{count} {what}: at most {MACHINES_MAX} fit one lab");
                return Err(LabError::Scenario(message));
            }
        }
        // These directories stand beside those of the hosts.
        for host in &spec.hosts {
            if ["traffic", "probe", "lock"].contains(&host.name.as_str()) {
                let message = format!("a host of a lab cannot be called '{}'", host.name);
                return Err(LabError::Scenario(message));
            }
        }
        let hosts = || spec.hosts.iter().map(|host| host.name.as_str());
        let sockets = spec
            .vms
            .iter()
            .flat_map(|vm| hosts().map(move |host| self.qmp(host, vm.name.as_str())));
        match sockets.map(|path| path.display().to_string()).max_by_key(String::len) {
            Some(path) if path.len() > SOCKET_PATH_LEN_MAX => Err(LabError::Scenario(format!(
                "the QMP socket's path has {} bytes, at most {SOCKET_PATH_LEN_MAX} are possible: \
                 shorten the names of lab, host and VM ({path})",
                path.len()
            ))),
            _ => Ok(()),
        }
    }
}

/// Hosts, then clients: the machines that have a port, in the order that numbers them.
pub(crate) fn machines(spec: &ScenarioSpec) -> impl Iterator<Item = &str> {
    let hosts = spec.hosts.iter().map(|host| host.name.as_str());
    hosts.chain(spec.clients.iter().map(|client| client.name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_scenario::scenario;

    #[test]
    fn no_lab_has_anothers_namespaces() {
        let lab = |name| Layout::new(Path::new("/run/x"), name);
        assert_eq!(lab("demo").netns("alpha"), "dw-demo_alpha");
        assert_eq!(lab("demo").switch_netns(), "dw-demo__switch");
        assert_ne!(lab("a").netns("switch"), lab("a").switch_netns());
        assert_ne!(lab("a-b").netns("c"), lab("a").netns("b-c"));
        assert!(!lab("a-b").netns("c").starts_with(&lab("a").netns_prefix()));
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let scenario = scenario("{ name: v, host: alpha, memory: 128MiB }");
        assert!(Layout::new(Path::new("/run/x"), "demo").check(&scenario.spec).is_ok());
        let deep = "/run".to_owned() + &"/long".repeat(20);
        let error = Layout::new(Path::new(&deep), "demo").check(&scenario.spec).unwrap_err();
        assert!(error.to_string().starts_with("the QMP socket's path has "), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
