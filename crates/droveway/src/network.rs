//! What a run does to the ports of its two hosts: promises to migration, kept by the hosts' own queues, and put back.
//!
//! How the ports were is written down before anything is changed and thrown away once they are as before. A run that was
//! killed in between leaves that journal behind; the next run of the fleet, or `droveway restore-network`, puts the ports back.

mod floors;

use crate::{
    cli::{Allowed, IntentArgs},
    exit::{Exit, Failure},
    fleet::{self, RunLock},
    state,
};
use droveway_fleet::{
    Bandwidth, Fleet, Host, HostId, Intent, Reserve, Snapshot, Urgency, VmId,
    document::API_VERSION, report,
};
use droveway_host::{
    features,
    netns::Netns,
    shaping::{self, Before, Passed, Promise, Shaper, ShapingError, Way},
};
use droveway_model::fluid::HURRIED_RATIO;
use droveway_plan::{Direction, Plan};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// What the other way of each port promises to migration: acknowledgements are 3.1 % of the bytes that they acknowledge
/// (measured), page requests are less.
const ANSWERS_RATIO: f64 = 0.05;

/// How the ports were, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Journal {
    api_version: String,
    kind: String,
    ports: Vec<Before>,
}

const KIND: &str = "NetworkJournal";

/// Migration's class, as reports name it.
const MIGRATION: &str = "migration";

/// Both ports of a run, looked at.
#[derive(Debug)]
pub(crate) struct Looked {
    ports: Vec<(HostId, Bandwidth, Shaper)>,
}

/// What may be done to ports and sockets.
#[derive(Debug)]
pub(crate) struct Plumbing {
    /// The migrations' sockets are tuned.
    pub(crate) tuning: bool,
    /// The ports, looked at, if they may be shaped.
    pub(crate) looked: Option<Looked>,
}

/// What may be done in this run, as it was asked for and as the hosts allow. `ours`: the policy is one of ours, and not one that
/// stands for what others do; `held`: there is a plan already, and it holds bandwidth.
pub(crate) fn plumbing(
    args: &IntentArgs,
    ours: bool,
    held: bool,
    [source, target]: [&Host; 2],
) -> Result<Plumbing, Failure> {
    let tuning = args.tuning.applies(ours);
    let asked = !matches!(args.reserve, Reserve::Auto | Reserve::Off);
    if asked && args.shaping == Allowed::Off {
        return Err(Failure::usage(format!(
            "--reserve {} needs queues of our own at the ports: leave --shaping off out",
            args.reserve
        )));
    }
    let wanted = asked || held || (ours && args.reserve == Reserve::Auto);
    if !wanted || args.shaping == Allowed::Off {
        return Ok(Plumbing { tuning, looked: None });
    }
    let looked = match look(source, target) {
        Ok(looked) => Some(looked),
        Err(text) if held => {
            let text = format!("the plan holds bandwidth that cannot be held: {text}");
            return Err(
                Failure::says(Exit::Blocked, text).hint("--shaping off carries it out without")
            );
        }
        Err(text) => {
            eprintln!(
                "note: no bandwidth is held for the moves, the ports stay as they are: {text}"
            );
            None
        }
    };
    Ok(Plumbing { tuning, looked })
}

/// Looks whether both ports can be shaped and put back. Nothing is changed.
fn look(source: &Host, target: &Host) -> Result<Looked, String> {
    let arrives = target.migration_address;
    let mut ports = Vec::new();
    if !features::is_privileged() {
        return Err("that needs root".to_owned());
    }
    shaping::try_out().map_err(|error| chain(&error))?;
    for host in [source, target] {
        let looked = Netns::of(host.netns.as_deref())
            .map_err(ShapingError::from)
            .and_then(|netns| Shaper::look(&netns, &host.port.interface, host.port.rate, arrives));
        let shaper = looked.map_err(|error| format!("host '{}': {}", host.name, chain(&error)))?;
        ports.push((host.name.clone(), host.port.rate, shaper));
    }
    Ok(Looked { ports })
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Both ports of a run, keeping what its plan promises. Dropped, they are put back.
#[derive(Debug)]
pub(crate) struct Network {
    ports: Vec<Port>,
    /// Where the targets of VMs that are under way listen.
    listeners: BTreeMap<VmId, u16>,
    journal: PathBuf,
    is_back: bool,
}

#[derive(Debug)]
struct Port {
    host: HostId,
    rate: Bandwidth,
    shaper: Shaper,
    /// What each direction promises, and how it fares.
    ways: [Held; 2],
}

#[derive(Debug)]
struct Held {
    way: Way,
    promise: Promise,
    watch: Watch,
    /// Streams cross the port this way; the other way go acknowledgements and requests.
    carries: bool,
}

impl Held {
    /// What is promised while a VM is switched or stands still: all but what other VMs' floors are, and [`HURRIED_RATIO`] at most.
    fn hurried(&self, rate: Bandwidth) -> Promise {
        let floors = self.promise.floors.iter().fold(Bandwidth::ZERO, |sum, one| sum + one.rate);
        let most = rate.scaled(HURRIED_RATIO).min(rate - floors);
        let migration = self.promise.migration.max(most);
        Promise { migration, yields: false, ..self.promise.clone() }
    }
}

impl Network {
    /// Takes both ports as the plan says; `None` if it promises nothing.
    pub(crate) fn take(
        fleet: &Fleet,
        looked: Looked,
        plan: &Plan,
        intent: &Intent,
        snapshot: Option<&Snapshot>,
    ) -> Result<Option<Self>, Failure> {
        if plan.reservations.is_empty() {
            return Ok(None);
        }
        let hosts = [&plan.source, &plan.target].map(|host| fleet.spec.host(host.as_str()));
        let traffic = match (intent.floor, snapshot, hosts) {
            (Some(_), Some(snapshot), [Some(source), Some(target)]) => {
                floors::traffic(snapshot, [source, target])
            }
            _ => Vec::new(),
        };
        let keeps = |host: &HostId, way| {
            let arrives =
                |vm: &VmId| *host == plan.target && plan.moves.iter().any(|step| step.vm == *vm);
            let share = intent.floor?;
            Some(floors::floors(&traffic, share, host, way, arrives))
        };
        let journal = fleet::network_path(fleet);
        let ports = looked.ports.into_iter().map(|(host, rate, shaper)| {
            let yields = plan.urgency == Urgency::Low;
            let of = |index, way| {
                let migration = promised(plan, &host, rate, way);
                let floors = keeps(&host, index).unwrap_or_default();
                let promise = Promise { migration, ceiling: rate, yields, floors };
                let ends = [(&plan.source, Way::Tx), (&plan.target, Way::Rx)];
                let carries = ends.contains(&(&host, way));
                Held { way, promise, watch: Watch::default(), carries }
            };
            let ways = [of(0, Way::Tx), of(1, Way::Rx)];
            Port { host: host.clone(), rate, shaper, ways }
        });
        let (ports, listeners) = (ports.collect(), BTreeMap::new());
        let mut network = Network { ports, listeners, journal, is_back: false };
        network.write_down()?;
        for port in &mut network.ports {
            let [tx, rx] = &port.ways;
            if let Err(error) = port.shaper.install(&tx.promise, &rx.promise) {
                let text = format!("host '{}': {}", port.host, chain(&error));
                // What was taken goes back with `network`.
                return Err(
                    Failure::says(Exit::Blocked, text).hint("--shaping off leaves the ports alone")
                );
            }
        }
        Ok(Some(network))
    }

    fn write_down(&self) -> Result<(), Failure> {
        let ports = self.ports.iter().map(|port| port.shaper.before().clone()).collect();
        let journal = Journal { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), ports };
        state::write(&journal, &self.journal)
    }

    /// What is promised, for the report.
    pub(crate) fn reservations(&self) -> Vec<report::Reservation> {
        let mut all = Vec::new();
        for port in &self.ports {
            for held in &port.ways {
                if held.way == Way::Rx && !port.shaper.shapes_inbound() {
                    continue;
                }
                all.push(report::Reservation {
                    host: port.host.clone(),
                    direction: name(held.way).to_owned(),
                    class: MIGRATION.to_owned(),
                    bits_per_second: held.promise.migration.bits_per_second(),
                });
            }
        }
        all
    }

    /// Promises what this plan says instead, without losing a packet; says what could not be changed, which stays as it was.
    pub(crate) fn change(&mut self, plan: &Plan) -> Vec<String> {
        let mut failed = Vec::new();
        for port in &mut self.ports {
            for held in &mut port.ways {
                let migration = promised(plan, &port.host, port.rate, held.way);
                let yields = plan.urgency == Urgency::Low;
                if (migration, yields) == (held.promise.migration, held.promise.yields) {
                    continue;
                }
                let promise = Promise { migration, yields, ..held.promise.clone() };
                match port.shaper.promise(held.way, &promise) {
                    Ok(()) => (held.promise, held.watch) = (promise, Watch::default()),
                    Err(error) => failed.push(format!(
                        "port of host '{}', {}: still {} for migration: {}",
                        port.host,
                        name(held.way),
                        held.promise.migration.human(),
                        chain(&error)
                    )),
                }
            }
        }
        failed
    }

    /// A VM is switched or stands still, so that what is left of its state goes before what applications are promised; or none is any
    /// more.
    pub(crate) fn hurry(&mut self, on: bool) {
        for port in &mut self.ports {
            for held in port.ways.iter().filter(|held| held.carries) {
                let hurried = held.hurried(port.rate);
                if hurried == held.promise {
                    continue;
                }
                let promise = if on { hurried } else { held.promise.clone() };
                // What could not be changed stays as promised.
                if let Err(error) = port.shaper.promise(held.way, &promise) {
                    tracing::debug!("{} of {} is not hurried: {error}", name(held.way), port.host);
                }
            }
        }
    }

    /// The target of this VM listens here: what goes there, and what comes from there, is migration's at both hosts.
    pub(crate) fn add_listener(&mut self, vm: &VmId, at: u16) -> Result<(), String> {
        // Where it listened before a path broke it listens no more.
        if let Some(before) = self.listeners.insert(vm.clone(), at) {
            self.close(before);
        }
        for port in &mut self.ports {
            let done = port.shaper.add_listener(at);
            done.map_err(|error| format!("host '{}': {}", port.host, chain(&error)))?;
        }
        Ok(())
    }

    /// Nothing more comes from, or goes to, the targets of VMs that are not under way: whoever gets their ports is an application.
    pub(crate) fn keep_listeners(&mut self, is_under_way: impl Fn(&VmId) -> bool) {
        let over = self.listeners.keys().filter(|vm| !is_under_way(vm)).cloned();
        for vm in over.collect::<Vec<_>>() {
            if let Some(at) = self.listeners.remove(&vm) {
                self.close(at);
            }
        }
    }

    fn close(&mut self, at: u16) {
        for port in &mut self.ports {
            if let Err(error) = port.shaper.remove_listener(at) {
                tracing::debug!("{at} of {} stays migration's: {error}", port.host);
            }
        }
    }

    /// This connection, from that port of the source, goes first at both hosts.
    pub(crate) fn hasten(&mut self, source_port: u16) -> Result<(), String> {
        for port in &mut self.ports {
            let done = port.shaper.hasten(source_port);
            done.map_err(|error| format!("host '{}': {}", port.host, chain(&error)))?;
        }
        Ok(())
    }

    /// Compares what was promised with what was had, at `seconds`; says where a promise was not kept.
    pub(crate) fn verify(&mut self, seconds: f64) -> Vec<report::Divergence> {
        let mut broken = Vec::new();
        for port in &mut self.ports {
            for held in &mut port.ways {
                let Ok(passed) = port.shaper.passed(held.way) else { continue };
                let usable = port.shaper.usable();
                let look = held.watch.look(seconds, passed, &held.promise, usable);
                if let Some([had, others]) = look {
                    broken.push(report::Divergence {
                        at_seconds: seconds,
                        host: port.host.clone(),
                        direction: name(held.way).to_owned(),
                        class: MIGRATION.to_owned(),
                        promised_bits_per_second: held.promise.migration.bits_per_second(),
                        had_bits_per_second: had.bits_per_second(),
                        others_bits_per_second: others.bits_per_second(),
                    });
                }
            }
        }
        broken
    }

    /// What the classes of one direction of a host's port had at the last look, and what migration is promised of it; `None`:
    /// that direction is not shaped, or was not looked at yet.
    pub(crate) fn classes(&self, host: &HostId, direction: &str) -> Option<(Rates, Bandwidth)> {
        let port = self.ports.iter().find(|port| port.host == *host)?;
        let held = port.ways.iter().find(|held| name(held.way) == direction)?;
        Some((held.watch.rates?, held.promise.migration))
    }

    /// Puts both ports back; what could not be is said, and the journal stays.
    pub(crate) fn put_back(mut self) -> Vec<String> {
        self.try_put_back()
    }

    fn try_put_back(&mut self) -> Vec<String> {
        self.is_back = true;
        let mut failed = Vec::new();
        for port in &self.ports {
            if let Err(error) = shaping::restore(port.shaper.before()) {
                failed.push(format!("host '{}': {}", port.host, chain(&error)));
            }
        }
        if failed.is_empty() {
            forget(&self.journal);
        }
        failed
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if !self.is_back {
            for text in self.try_put_back() {
                eprintln!("warning: {text}; try `droveway restore-network`");
            }
        }
    }
}

/// What a plan promises to migration of one direction of a host's port.
fn promised(plan: &Plan, host: &HostId, rate: Bandwidth, way: Way) -> Bandwidth {
    let direction = match way {
        Way::Tx => Direction::Tx,
        Way::Rx => Direction::Rx,
    };
    let held = |it: &&droveway_plan::Reservation| it.port == *host && it.direction == direction;
    let mut named = plan.reservations.iter().filter(held).map(|it| it.rate).peekable();
    match named.peek() {
        Some(_) => named.fold(Bandwidth::ZERO, |sum, rate| sum + rate),
        None => rate.scaled(ANSWERS_RATIO),
    }
}

fn forget(journal: &Path) {
    if let Err(error) = std::fs::remove_file(journal) {
        tracing::warn!("{}: {error}", journal.display());
    }
}

const fn name(way: Way) -> &'static str {
    match way {
        Way::Tx => "tx",
        Way::Rx => "rx",
    }
}

/// How one direction fares against its promise.
#[derive(Debug, Default)]
struct Watch {
    last: Option<(f64, Passed)>,
    /// What the classes had at the last look.
    rates: Option<Rates>,
    /// So many looks in a row found it broken.
    broken: u32,
}

/// What the classes of one direction had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) urgent: Bandwidth,
    pub(crate) stream: Bandwidth,
    pub(crate) applications: Bandwidth,
}

/// Between two looks: HTB's own bursts and TCP's beginnings are shorter.
const LOOK_SECONDS: f64 = 1.0;
/// Off by more is broken.
const TOLERANCE: f64 = 0.1;
/// One look may meet a beginning or an end of a stream.
const BROKEN_LOOKS: u32 = 2;

impl Watch {
    /// The rates that migration and applications had, the first time that a promise turns out broken: applications had more
    /// than what is left of the port, and migration less than its part although it had something to send.
    fn look(
        &mut self,
        seconds: f64,
        passed: Passed,
        promise: &Promise,
        usable: Bandwidth,
    ) -> Option<[Bandwidth; 2]> {
        let Some((since, before)) = self.last else {
            self.last = Some((seconds, passed));
            return None;
        };
        let time = seconds - since;
        if time < LOOK_SECONDS {
            return None;
        }
        self.last = Some((seconds, passed));
        let rate = |now: u64, then: u64| {
            let bytes = droveway_fleet::Bytes::new(now.saturating_sub(then));
            Bandwidth::of(bytes, Duration::from_secs_f64(time))
        };
        let rates = Rates {
            urgent: rate(passed.urgent, before.urgent),
            stream: rate(passed.stream, before.stream),
            applications: rate(passed.applications, before.applications),
        };
        self.rates = Some(rates);
        let (migration, applications) = (rates.urgent + rates.stream, rates.applications);
        let rest = usable - promise.migration;
        let is_broken = !migration.is_zero()
            && migration < promise.migration.scaled(1.0 - TOLERANCE)
            && applications > rest.scaled(1.0 + TOLERANCE)
            && applications + migration > usable.scaled(1.0 - TOLERANCE);
        self.broken = if is_broken { self.broken + 1 } else { 0 };
        (self.broken == BROKEN_LOOKS).then_some([migration, applications])
    }
}

/// Puts back what a run that was killed left; says so. The caller holds the fleet's lock.
pub(crate) fn put_back_left(fleet: &Fleet) -> Result<bool, Failure> {
    let path = fleet::network_path(fleet);
    let Some(journal) = state::read_if_there::<Journal>(&path, KIND)? else { return Ok(false) };
    for before in &journal.ports {
        shaping::restore(before).map_err(|error| {
            Failure::says(Exit::Blocked, chain(&error)).hint(format!(
                "an earlier run was killed and left the port of interface '{}' changed; {} tells how it was",
                before.interface,
                path.display()
            ))
        })?;
    }
    forget(&path);
    Ok(true)
}

/// `restore-network`.
pub(crate) fn restore(fleet: Option<&Path>) -> Result<Exit, Failure> {
    let fleet = fleet::load(fleet)?;
    let _lock = RunLock::acquire(&fleet)?;
    if put_back_left(&fleet)? {
        eprintln!("the ports are as they were before the run that left them");
    } else {
        eprintln!("no run has left a port changed");
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mbit(rate: u64) -> Bandwidth {
        Bandwidth::from_bits_per_second(rate * 1_000_000)
    }

    #[test]
    fn who_stands_still_has_all_but_floors() {
        let hurried = |migration, floors: &[u64]| {
            let floor = |rate: &u64| shaping::Floor { mac: [2; 6], rate: mbit(*rate) };
            let floors = floors.iter().map(floor).collect();
            let promise =
                Promise { migration: mbit(migration), ceiling: mbit(100), yields: true, floors };
            let held = Held { way: Way::Tx, promise, watch: Watch::default(), carries: true };
            held.hurried(mbit(100))
        };
        let promise = hurried(5, &[]);
        assert_eq!((promise.migration, promise.yields), (mbit(95), false));
        assert_eq!(hurried(5, &[20, 30]).migration, mbit(50));
        assert_eq!(hurried(70, &[40]).migration, mbit(70), "no less than is promised");
        assert_eq!(hurried(98, &[]).migration, mbit(98));
    }

    /// Looks once a second at rates in Mbit/s: of the stream and of applications.
    fn looks(rates: &[(u64, u64)]) -> Vec<bool> {
        let promise =
            Promise { migration: mbit(60), ceiling: mbit(100), yields: false, floors: vec![] };
        let mut watch = Watch::default();
        let mut passed = Passed::default();
        watch.look(0.0, passed, &promise, mbit(97));
        let mut at = 0.0;
        let mut look = |(stream, applications): &(u64, u64)| {
            at += 1.0;
            passed.stream += stream * 125_000;
            passed.applications += applications * 125_000;
            watch.look(at, passed, &promise, mbit(97)).is_some()
        };
        rates.iter().map(&mut look).collect()
    }

    #[test]
    fn a_broken_promise_is_told_once() {
        assert_eq!(looks(&[(30, 65); 4]), [false, true, false, false]);
        assert_eq!(looks(&[(30, 65), (60, 37), (30, 65)]), [false; 3], "one look is none");
    }

    #[test]
    fn who_wants_less_than_promised_has_no_complaint() {
        assert_eq!(looks(&[(0, 97), (0, 97), (0, 97)]), [false; 3], "nothing to send");
        assert_eq!(looks(&[(20, 30); 3]), [false; 3], "the port is not full");
        assert_eq!(looks(&[(60, 37); 3]), [false; 3], "kept");
    }
}
