//! Changing a lab's world while VMs move in it: [`play`] makes a scenario's changes, each at its time.
//!
//! | what | how |
//! | --- | --- |
//! | traffic reversed, another rate | the job's file is rewritten and its runner told to read it again |
//! | a VM writes more | its guest is told |
//! | a port's rate | the classes of its wires are changed in place: what waits in them stays |
//! | a port carries nothing | its cable's end at the switch is down, and up again afterwards |

use crate::{
    LabError, LabInfo,
    address::Addresses,
    error::file,
    interrupt::Interrupts,
    layout::{Layout, machines},
    manifest::write_atomically,
    remove::Membership,
    runner::{self, AGENT_PORT, JobSpec},
    tool::{IP, TC},
    traffic, wire,
};
use droveway_fleet::{
    Scenario, document,
    scenario::{Link, ScenarioSpec, Traffic, WorldChange},
    units::{Bandwidth, Bytes},
};
use droveway_host::netns::Netns;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

/// How long to sleep at most between two looks for an interrupt.
const LOOK: Duration = Duration::from_millis(50);

/// Makes the changes of the lab's scenario, each at its time from now or, if `at_once`, all of them now, and says each when
/// it is made. Returns when the last one is over. Of several changes of one thing the last one holds.
///
/// # Errors
/// [`LabError`]: what cannot be changed. Changes that were made stay; a port that is down is up again.
pub fn play(info: &LabInfo, at_once: bool, progress: &mut dyn FnMut(&str)) -> Result<(), LabError> {
    let mut player = Player::of(info)?;
    let interrupts = Interrupts::watch();
    let began = Instant::now();
    let mut due: Vec<(Duration, Step)> = Vec::new();
    for change in &player.scenario.spec.changes {
        let Some(what) = change.what() else { continue };
        let at = if at_once { Duration::ZERO } else { change.at.duration() };
        if let WorldChange::LinkDown { host, duration } = &what {
            due.push((at + duration.duration(), Step::Up(host.to_string())));
        }
        due.push((at, Step::Change(what)));
    }
    due.sort_by_key(|(at, _)| *at);
    let mut down: Vec<String> = Vec::new();
    let result = due.into_iter().try_for_each(|(at, step)| {
        while began.elapsed() < at {
            interrupts.check().map_err(|_| LabError::PlayInterrupted)?;
            std::thread::sleep((at.saturating_sub(began.elapsed())).min(LOOK));
        }
        match step {
            Step::Up(host) => {
                player.link(&host, true)?;
                down.retain(|other| *other != host);
                progress(&format!(
                    "{:.1} s: the port of {host} is up",
                    began.elapsed().as_secs_f64()
                ));
            }
            Step::Change(what) => {
                if let WorldChange::LinkDown { host, .. } = &what {
                    down.push(host.to_string());
                }
                let said = player.change(&what)?;
                progress(&format!("{:.1} s: {said}", began.elapsed().as_secs_f64()));
            }
        }
        Ok(())
    });
    for host in down {
        player.link(&host, true)?;
    }
    result
}

/// Pulls the cable of a host's port at the switch, or puts it back: the port itself stays up and hears nothing, as behind a switch
/// that has died. Qdiscs stay. A host that the lab lacks has no cable: nothing happens.
///
/// # Errors
/// [`LabError`].
pub fn set_link(info: &LabInfo, host: &str, up: bool) -> Result<(), LabError> {
    Player::of(info)?.link(host, up)
}

/// Makes one change now, and for good: whoever wants it otherwise changes it again. Gives what was done, for people.
///
/// # Errors
/// [`LabError`]: what cannot be changed.
pub fn change(info: &LabInfo, what: &WorldChange) -> Result<String, LabError> {
    Player::of(info)?.change(what)
}

enum Step {
    Change(WorldChange),
    Up(String),
}

/// Who changes one lab. Its scenario is the world as it is by now.
pub(crate) struct Player {
    pub(crate) layout: Layout,
    pub(crate) scenario: Scenario,
    addresses: Addresses,
}

impl Player {
    pub(crate) fn of(info: &LabInfo) -> Result<Self, LabError> {
        let layout = Layout::new(info.dir.parent().unwrap_or(Path::new("/")), &info.name);
        let path = layout.scenario();
        let text = fs::read_to_string(&path).map_err(file("read", &path))?;
        let origin = path.display().to_string();
        let scenario = document::parse::<ScenarioSpec>(&text, &origin).map_err(|error| {
            LabError::Document { action: "read", path, said: error.to_string() }
        })?;
        let addresses = Addresses::of_scenario(&scenario.spec);
        Ok(Player { layout, scenario, addresses })
    }

    /// Gives what was done, for people.
    fn change(&mut self, what: &WorldChange) -> Result<String, LabError> {
        match what {
            WorldChange::Reverse(name) => {
                self.restart(name.as_str(), |_, spec| turn_round(spec))?;
                Ok(format!("{name} flows the other way"))
            }
            WorldChange::Demand { application, rate } => {
                let now = *rate;
                self.restart(application.as_str(), |of, spec| {
                    of.rate = Some(now);
                    set_rate(of, spec);
                })?;
                Ok(format!("{application} wants {rate}"))
            }
            WorldChange::Writes { vm, working_set, rate } => {
                self.write(vm.as_str(), *working_set, *rate)?;
                Ok(format!("{vm} writes {rate} to {working_set} more"))
            }
            WorldChange::LinkRate { host, rate } => {
                self.set_rate(host.as_ref().map(|host| host.as_str()), *rate)?;
                Ok(match host {
                    Some(host) => format!("the port of {host} carries {rate}"),
                    None => format!("every port carries {rate}"),
                })
            }
            WorldChange::LinkDown { host, .. } => {
                self.link(host.as_str(), false)?;
                Ok(format!("the port of {host} is down"))
            }
        }
    }

    /// Changes a stream's job, and has its runner begin anew with it.
    fn restart(
        &mut self,
        name: &str,
        edit: impl FnOnce(&mut Traffic, &mut JobSpec),
    ) -> Result<(), LabError> {
        let path = self.layout.job(name);
        let failed =
            |said: String| LabError::Document { action: "change", path: path.clone(), said };
        let text = fs::read_to_string(&path).map_err(file("read", &path))?;
        let mut spec: JobSpec =
            serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        let traffic = self.scenario.spec.traffic.iter_mut().find(|of| of.name.as_str() == name);
        let traffic = traffic.ok_or_else(|| failed("no such traffic".to_owned()))?;
        edit(traffic, &mut spec);
        let text =
            serde_json::to_string_pretty(&spec).map_err(|error| failed(error.to_string()))?;
        write_atomically(&path, &text)?;
        let runner =
            Membership::new(&self.layout).processes().into_iter().find(|pid| runs(*pid, &path));
        let runner = runner.ok_or_else(|| failed("its runner is gone".to_owned()))?;
        let pid =
            Pid::from_raw(i32::try_from(runner).map_err(|_| failed("no process".to_owned()))?);
        kill(pid, Signal::SIGHUP).map_err(|errno| failed(errno.to_string()))
    }

    fn write(&self, vm: &str, more: Bytes, rate: Bandwidth) -> Result<(), LabError> {
        let refused = |said: String| LabError::Guest { vm: vm.to_owned(), said };
        let address = self.addresses.get(vm).ok_or_else(|| refused("no address".to_owned()))?;
        let agent = SocketAddr::from((address, AGENT_PORT));
        let switch = Netns::named(&self.layout.switch_netns())?;
        let request = format!("write {} {}", more.get(), rate.bytes_per_second());
        let answer = switch.run(|| runner::ask_once(agent, &request))?;
        match answer {
            Ok(line) if line == "ok" => Ok(()),
            Ok(line) => Err(refused(line)),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    fn set_rate(&mut self, host: Option<&str>, rate: Bandwidth) -> Result<(), LabError> {
        // Packets keep the size that they had: offloads stay as the lab was built.
        let offloads = if self.scenario.spec.link.offloads_on() {
            droveway_fleet::scenario::Offloads::On
        } else {
            droveway_fleet::scenario::Offloads::Off
        };
        let link = Link { rate, offloads, ..self.scenario.spec.link.clone() };
        let mut commands = String::new();
        for (index, machine) in machines(&self.scenario.spec).enumerate() {
            if host.is_none_or(|host| host == machine) {
                commands += &wire::reshape(&format!("x{index}"), &link);
                commands += &wire::reshape(&format!("a{index}"), &link);
            }
        }
        TC.batch(&self.layout, &Netns::named(&self.layout.switch_netns())?, &commands)
    }

    fn link(&self, host: &str, up: bool) -> Result<(), LabError> {
        let Some(index) = machines(&self.scenario.spec).position(|machine| machine == host) else {
            return Ok(());
        };
        let state = if up { "up" } else { "down" };
        let switch = Netns::named(&self.layout.switch_netns())?;
        IP.run(&self.layout, &switch, &["link", "set", &format!("a{index}"), state])
    }
}

/// Whether this process is the runner of that job.
fn runs(pid: u32, spec: &Path) -> bool {
    let command: io::Result<Vec<u8>> = fs::read(format!("/proc/{pid}/cmdline"));
    let Ok(command) = command else { return false };
    let mut words = command.split(|byte| *byte == 0);
    words.next();
    words.next() == Some(b"lab-runner") && words.next() == Some(spec.as_os_str().as_encoded_bytes())
}

/// The client that sent receives, and the other way round.
fn turn_round(spec: &mut JobSpec) {
    let JobSpec::Iperf { arguments, .. } = spec else { return };
    match arguments.iter().position(|argument| argument == "-R") {
        Some(at) => {
            // With how long it waits for data.
            arguments.drain(at..(at + 3).min(arguments.len()));
        }
        None => arguments.extend(traffic::receiving()),
    }
}

fn set_rate(traffic: &Traffic, spec: &mut JobSpec) {
    let JobSpec::Iperf { arguments, .. } = spec else { return };
    for option in ["-b", "-l"] {
        if let Some(at) = arguments.iter().position(|argument| argument == option) {
            arguments.drain(at..(at + 2).min(arguments.len()));
        }
    }
    arguments.extend(traffic::pace(traffic));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::Place;

    fn job(arguments: &[&str]) -> JobSpec {
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        JobSpec::Iperf { log: "a".into(), place: Place::Here, arguments, flows: 1 }
    }

    #[test]
    fn what_is_turned_round_twice_is_as_before() {
        let mut spec = job(&["-c", "10.77.0.1", "-b", "1000"]);
        let before = spec.clone();
        turn_round(&mut spec);
        assert_eq!(spec, job(&["-c", "10.77.0.1", "-b", "1000", "-R", "--rcv-timeout", "90000"]));
        turn_round(&mut spec);
        assert_eq!(spec, before);
    }

    #[test]
    fn another_rate_takes_the_place_of_the_one_before() {
        let text = "apiVersion: droveway/v1\nkind: Scenario\nmetadata: { name: demo }\nspec:\n  \
                    link: { rate: 1Gbit/s }\n  hosts: [ { name: alpha }, { name: beta } ]\n  vms: []\n  traffic:\n    \
                    - { name: a, from: alpha, to: beta, kind: tcp, rate: 8Mbit/s }\n    \
                    - { name: b, from: alpha, to: beta, kind: tcp, rate: unlimited }\n";
        let scenario = document::parse::<ScenarioSpec>(text, "test").expect("a scenario");
        let mut spec = job(&["-c", "10.77.0.1", "-b", "1000", "-l", "2000", "-R"]);
        set_rate(&scenario.spec.traffic[0], &mut spec);
        assert_eq!(spec, job(&["-c", "10.77.0.1", "-R", "-b", "8000000", "-l", "10000"]));
        set_rate(&scenario.spec.traffic[1], &mut spec);
        assert_eq!(spec, job(&["-c", "10.77.0.1", "-R"]));
    }
}
