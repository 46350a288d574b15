//! `/init` of the lab's guests: one static program that boots the guest, runs what the scenario asks of it,
//! and lets the lab look inside.
//!
//! Two processes share this binary. PID 1 does nothing but start the second and reap orphans, so that no
//! `waitpid(-1)` ever steals the exit status of a child that somebody waits for. The second, started with
//! [`WORKER_ARGUMENT`], owns everything else:
//!
//! | module | what |
//! |---|---|
//! | `boot` | file systems, kernel modules, network |
//! | `config` | the kernel command line (`dw.*`) as a checked value |
//! | `memory_load` | writes memory at a given rate, so that pages get dirty |
//! | `services` | iperf3 servers, memcached, sysbench: kept running, output offered to followers |
//! | `quota` | how much of a CPU a program may take |
//! | `echo` | UDP echo, by which clients measure outages |
//! | `agent` | TCP: run iperf3, follow a load or a service, read facts |
//!
//! Threads only, no async runtime. A fatal error is one line on the console; the guest then stays up so that
//! it can be inspected.

mod agent;
mod boot;
mod config;
mod console;
mod echo;
mod memory_load;
mod net;
mod quota;
mod services;

use std::process::Command;
use std::time::Duration;

use config::Config;
use memory_load::LoadCounter;
use nix::errno::Errno;
use nix::sys::wait::wait;
use services::Services;

/// First argument of the process that does the work.
const WORKER_ARGUMENT: &str = "--worker";

/// How long a process that has nothing left to do sleeps at a time.
const IDLE_SLEEP: Duration = Duration::from_secs(3600);

fn main() {
    if std::env::args().nth(1).as_deref() == Some(WORKER_ARGUMENT) {
        if let Err(message) = run() {
            console::say(&format!("error: {message}"));
        }
        loop {
            std::thread::sleep(IDLE_SLEEP);
        }
    }
    if std::process::id() != 1 {
        // On a developer's machine this would mount file systems and start servers.
        console::say(
            "error: this is a guest's init; it only runs as process 1 of a virtual machine",
        );
        std::process::exit(2);
    }
    reap_for_ever();
}

/// What PID 1 does: starts the worker and reaps whatever is orphaned. Never returns, because a kernel whose
/// PID 1 exits panics.
fn reap_for_ever() -> ! {
    if let Err(error) = Command::new("/init").arg(WORKER_ARGUMENT).spawn() {
        console::say(&format!("error: cannot start the worker: {error}"));
    }
    loop {
        match wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => std::thread::sleep(IDLE_SLEEP),
        }
    }
}

fn run() -> Result<(), String> {
    boot::mount_file_systems()?;
    let command_line = std::fs::read_to_string("/proc/cmdline")
        .map_err(|error| format!("cannot read /proc/cmdline: {error}"))?;
    let config = Config::parse(&command_line).map_err(|error| error.to_string())?;
    boot::load_modules()?;
    boot::set_hostname(&config.name)?;
    boot::bring_up_network(config.address)?;

    let counter = LoadCounter::default();
    if let Some(load) = config.load {
        // Returns once every page has been written: `ready` means that the memory has its final size. Before
        // the services, which would compete with it for the CPU.
        memory_load::start(load, &config.name, counter.clone())?;
    }
    let services = Services::start(&config)?;
    services::wait_for_listeners(&config)?;
    agent::start(config.name.clone(), counter, services)?;
    // Last: an echo tells the lab, which hears nothing else yet, that all of the above is there.
    echo::start()?;
    console::say("ready");
    Ok(())
}
