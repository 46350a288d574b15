//! Building a lab: checks, network, VMs, traffic, in this order; whatever fails or is interrupted is removed again.

use crate::{
    LabInfo, LabOptions,
    address::Addresses,
    boot::{self, Booting},
    error::{LabError, file},
    interrupt::Interrupts,
    layout::{LAB_VARIABLE, Layout},
    manifest::{Lock, Manifest, write_atomically},
    network,
    remove::{self, KeepLock},
    tool::{ETHTOOL, IP, IPERF3, QEMU, TC},
    traffic::{self, Machine, TrafficPlan},
    vm::{self, Machines},
};
use droveway_fleet::{
    Scenario,
    scenario::{ScenarioSpec, TrafficKind},
};
use droveway_host::{Netns, features, qemu};
use std::{fs, io, path::PathBuf};

/// Builds the lab that a scenario describes and waits until its VMs answer and its traffic runs. A lab of the same name
/// whose building was killed is removed first.
///
/// # Errors
/// [`LabError`]; then nothing of the lab is left.
pub fn up(
    scenario: &Scenario,
    options: &LabOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<LabInfo, LabError> {
    let options = &absolute(options)?;
    let name = scenario.metadata.name.to_string();
    let layout = Layout::new(&options.state_root, &name);
    preflight(&scenario.spec, options)?;
    layout.check(&scenario.spec)?;

    let interrupts = Interrupts::watch();
    let _lock = Lock::take(&layout, false)?;
    clear_the_ground(&layout, progress)?;
    match build(scenario, options, &layout, &interrupts, progress) {
        Ok(manifest) => Ok(manifest.info(&layout)),
        Err(error) => {
            progress("removing what was built");
            if let Err(second) = remove::remove(&layout, KeepLock::No) {
                tracing::warn!(%second, lab = name, "not everything could be removed: try 'lab down'");
            }
            // Whatever else failed then, failed because of the signal, which our tools get too.
            interrupts.check()?;
            Err(error)
        }
    }
}

/// The fleet file is read from anywhere.
fn absolute(options: &LabOptions) -> Result<LabOptions, LabError> {
    let absolute = |path: &PathBuf| -> Result<PathBuf, LabError> {
        let resolved: io::Result<PathBuf> = std::path::absolute(path);
        resolved.map_err(file("resolve", path))
    };
    Ok(LabOptions {
        state_root: absolute(&options.state_root)?,
        image: absolute(&options.image)?,
        runner: absolute(&options.runner)?,
    })
}

/// What can be known before anything is touched.
fn preflight(spec: &ScenarioSpec, options: &LabOptions) -> Result<(), LabError> {
    if !features::is_privileged() {
        return Err(LabError::NotRoot);
    }
    let mut tools = vec![IP, TC];
    if !spec.link.offloads_on() {
        tools.push(ETHTOOL);
    }
    if spec.traffic.iter().any(|t| matches!(t.kind, TrafficKind::Tcp | TrafficKind::Udp)) {
        tools.push(IPERF3);
    }
    if !spec.vms.is_empty() {
        tools.push(QEMU);
    }
    for tool in tools {
        tool.check()?;
    }
    if !spec.vms.is_empty() {
        for path in [vm::kernel(&options.image), vm::initrd(&options.image)] {
            if !path.is_file() {
                return Err(LabError::MissingImage { path });
            }
        }
    }
    Ok(())
}

/// A complete lab is in the way; what a killed build left is removed. The lock is ours, so nobody is building it.
fn clear_the_ground(layout: &Layout, progress: &mut dyn FnMut(&str)) -> Result<(), LabError> {
    match Manifest::read(layout) {
        Some(manifest) if manifest.complete => {
            return Err(LabError::AlreadyRunning { name: layout.name.clone() });
        }
        Some(_) => {}
        None => {
            if let Some(netns) = remove::namespaces(layout).into_iter().next() {
                // The directory that the lock made is not a lab's.
                let _ = fs::remove_dir_all(&layout.dir);
                return Err(LabError::ForeignNetns { netns, name: layout.name.clone() });
            }
        }
    }
    if !remove::remove(layout, KeepLock::Yes)?.is_nothing() {
        progress(&format!("removed what an interrupted build of lab '{}' left", layout.name));
    }
    Ok(())
}

fn build(
    scenario: &Scenario,
    options: &LabOptions,
    layout: &Layout,
    interrupts: &Interrupts,
    progress: &mut dyn FnMut(&str),
) -> Result<Manifest, LabError> {
    let spec = &scenario.spec;
    let mut manifest = Manifest {
        name: layout.name.clone(),
        started: jiff::Timestamp::now().to_string(),
        complete: false,
        namespaces: layout.namespaces(spec),
    };
    manifest.write(layout)?;
    for dir in layout.directories(spec) {
        fs::create_dir_all(&dir).map_err(file("make directory", &dir))?;
    }

    let addresses = Addresses::of_scenario(spec);
    let traffic = traffic::plan(spec, &addresses, &layout.dir);
    write_documents(scenario, options, layout, &addresses, &traffic)?;

    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    progress(&format!(
        "network: {} and {} at {}",
        count(spec.hosts.len(), "host"),
        count(spec.clients.len(), "client"),
        spec.link.rate.human()
    ));
    network::add_namespaces(layout, spec)?;
    interrupts.check()?;
    network::probe(layout, &spec.link)?;
    network::build(layout, spec, &addresses, progress)?;
    interrupts.check()?;

    if !spec.vms.is_empty() {
        let accelerator = features::accelerator();
        progress(&format!("VMs: booting {} with {accelerator}", count(spec.vms.len(), "VM")));
        let booting = start_vms(spec, options, layout, &addresses, &traffic)?;
        let patience = boot::patience(booting.len(), features::cpus(), accelerator);
        boot::wait(layout, booting, &addresses, patience, interrupts, progress)?;
    }
    start_traffic(options, layout, &traffic, progress)?;
    interrupts.check()?;

    manifest.complete = true;
    manifest.write(layout)?;
    Ok(manifest)
}

fn write_documents(
    scenario: &Scenario,
    options: &LabOptions,
    layout: &Layout,
    addresses: &Addresses,
    traffic: &TrafficPlan,
) -> Result<(), LabError> {
    let applications = traffic.jobs.iter().filter_map(|job| job.application.clone()).collect();
    let probes = traffic.jobs.iter().filter_map(|job| job.probe.clone()).collect();
    let fleet = machines_of(options, layout, addresses, traffic)
        .fleet(scenario, applications, probes)?
        .to_yaml();
    for (path, text) in [(layout.scenario(), scenario.to_yaml()), (layout.fleet(), fleet)] {
        let text =
            text.map_err(|said| LabError::Document { action: "write", path: path.clone(), said })?;
        write_atomically(&path, &text)?;
    }
    Ok(())
}

fn machines_of<'a>(
    options: &'a LabOptions,
    layout: &'a Layout,
    addresses: &'a Addresses,
    traffic: &'a TrafficPlan,
) -> Machines<'a> {
    Machines {
        layout,
        image: &options.image,
        accelerator: features::accelerator(),
        addresses,
        iperf_ports: &traffic.vm_iperf_ports,
    }
}

fn start_vms(
    spec: &ScenarioSpec,
    options: &LabOptions,
    layout: &Layout,
    addresses: &Addresses,
    traffic: &TrafficPlan,
) -> Result<Vec<Booting>, LabError> {
    let machines = machines_of(options, layout, addresses, traffic);
    let mut booting = Vec::new();
    for (index, vm) in spec.vms.iter().enumerate() {
        let host = vm.host.as_str();
        let netns = Netns::named(&layout.netns(host))?;
        let pid = qemu::start(&netns, &machines.launch(index, vm, host), &[])?;
        booting.push(Booting { vm: vm.name.to_string(), host: host.to_owned(), pid });
    }
    Ok(booting)
}

/// Starts the servers on hosts and clients, then what talks to them and to the VMs.
fn start_traffic(
    options: &LabOptions,
    layout: &Layout,
    traffic: &TrafficPlan,
    progress: &mut dyn FnMut(&str),
) -> Result<(), LabError> {
    let dir = layout.dir.join("traffic");
    for (index, server) in traffic.servers.iter().enumerate() {
        let Some((program, arguments)) = server.argv.split_first() else { continue };
        let netns = Netns::named(&layout.netns(&server.machine))?;
        let mut command = netns.command(program);
        command.args(arguments).env(LAB_VARIABLE, &layout.name);
        qemu::start_detached(command, &dir.join(format!("server-{index}.log")))?;
    }
    for job in &traffic.jobs {
        let path = layout.job(&job.name);
        let text = serde_json::to_string_pretty(&job.spec).map_err(|error| LabError::Document {
            action: "write",
            path: path.clone(),
            said: error.to_string(),
        })?;
        write_atomically(&path, &text)?;
        let netns = match &job.machine {
            Machine::Switch => layout.switch_netns(),
            Machine::Named(machine) => layout.netns(machine),
        };
        let runner = options.runner.display().to_string();
        let mut command = Netns::named(&netns)?.command(&runner);
        command.arg("lab-runner").arg(&path).env(LAB_VARIABLE, &layout.name);
        qemu::start_detached(command, &dir.join(format!("{}.log", job.name)))?;
    }
    if !traffic.jobs.is_empty() {
        progress(&format!("traffic: {} jobs", traffic.jobs.len()));
    }
    Ok(())
}
