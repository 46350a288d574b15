//! What goes wrong, or changes, while VMs move.

use super::{Flow, World, parts::Stalled, timestamp};
use crate::{Physics, qemu::Emitted};
use droveway_drive::Side;
use droveway_fleet::{
    Bandwidth, Bytes, EndpointId, HostId, RateLimit, Scenario, VmId, scenario::WorldChange,
};
use droveway_model::world::payload;
use serde::{Deserialize, Serialize};

/// A connection that waits for a path tries again after a time that doubles while it waits, up to this (Linux), seconds; and up to
/// this where sockets are tuned.
pub(super) const RETRY_MAX: f64 = 120.0;
const RETRY_MAX_TUNED: f64 = 1.0;

/// Something that goes wrong. Seconds from the first move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Fault {
    /// A host's port carries nothing for a while.
    PortDown {
        /// The host.
        host: HostId,
        /// For so long.
        seconds: f64,
    },
    /// A host's port gets another rate, for good.
    PortRate {
        /// The host.
        host: HostId,
        /// The rate.
        rate: Bandwidth,
    },
    /// A QEMU dies.
    KillQemu {
        /// Whose.
        vm: VmId,
        /// Which.
        side: Side,
    },
    /// A QEMU's process is stopped for a while: it answers nothing, sends nothing, reads nothing, and its guest stands still.
    FreezeQemu {
        /// Whose.
        vm: VmId,
        /// Which.
        side: Side,
        /// For so long.
        seconds: f64,
    },
    /// A QEMU's monitor passes nothing on for a while; the QEMU itself goes on.
    StallMonitor {
        /// Whose.
        vm: VmId,
        /// Which.
        side: Side,
        /// For so long.
        seconds: f64,
        /// Commands and events pass, and only answers to commands are lost, for good.
        loses: bool,
    },
    /// The controller's process is killed; another one takes over after a while.
    KillController {
        /// Nobody drives for so long.
        seconds: f64,
        /// It dies between writing down what it means to do and having done all of it.
        between: bool,
    },
    /// The disk with the controller's journal takes nothing for a while.
    JournalFull {
        /// For so long.
        seconds: f64,
    },
    /// The wall clock is set.
    ClockStep {
        /// So much later; less than zero: earlier.
        seconds: f64,
    },
    /// Segments between the hosts are lost for a while.
    Loss {
        /// Round trips last so much longer, seconds.
        round_trip: f64,
        /// The share that is lost.
        share: f64,
        /// For so long.
        seconds: f64,
    },
    /// The operator interrupts.
    Cancel,
    /// An application wants another rate from now on.
    Demand {
        /// Its name.
        application: EndpointId,
        /// The rate.
        rate: RateLimit,
    },
    /// An application's data flows the other way from now on.
    Reverse {
        /// Its name.
        application: EndpointId,
    },
    /// Round trips between the hosts last so much longer, and so much has to be sent again, from now on.
    Path {
        /// Seconds.
        round_trip: f64,
        /// The share of segments.
        sent_again: f64,
    },
    /// A VM writes to more of its memory from now on.
    Writes {
        /// The VM.
        vm: VmId,
        /// So much more.
        working_set: Bytes,
        /// At this rate.
        rate: Bandwidth,
    },
}

/// What the scenario says will change, and when.
#[must_use]
pub fn changes(scenario: &Scenario) -> Vec<(f64, Fault)> {
    let spec = &scenario.spec;
    let machines = || {
        let clients = spec.clients.iter().filter_map(|client| client.name.as_str().parse().ok());
        spec.hosts.iter().map(|host| host.name.clone()).chain(clients)
    };
    let faults = |what| match what {
        WorldChange::Reverse(application) => vec![Fault::Reverse { application }],
        WorldChange::Demand { application, rate } => vec![Fault::Demand { application, rate }],
        WorldChange::Writes { vm, working_set, rate } => {
            vec![Fault::Writes { vm, working_set, rate }]
        }
        WorldChange::LinkRate { host: Some(host), rate } => vec![Fault::PortRate { host, rate }],
        WorldChange::LinkRate { host: None, rate } => {
            machines().map(|host| Fault::PortRate { host, rate }).collect()
        }
        WorldChange::LinkDown { host, duration } => {
            vec![Fault::PortDown { host, seconds: duration.duration().as_secs_f64() }]
        }
    };
    let due = spec
        .changes
        .iter()
        .filter_map(|change| Some((change.at.duration().as_secs_f64(), change.what()?)));
    due.flat_map(|(at, what)| faults(what).into_iter().map(move |fault| (at, fault))).collect()
}

impl Fault {
    /// How long it lasts, seconds; zero for what happens in an instant, or stays.
    #[must_use]
    pub const fn lasts(&self) -> f64 {
        match self {
            Fault::PortDown { seconds, .. }
            | Fault::FreezeQemu { seconds, .. }
            | Fault::StallMonitor { seconds, .. }
            | Fault::KillController { seconds, .. }
            | Fault::JournalFull { seconds }
            | Fault::Loss { seconds, .. } => *seconds,
            _ => 0.0,
        }
    }

    /// Whether a run must not notice it at all.
    #[must_use]
    pub const fn is_harmless(&self) -> bool {
        matches!(self, Fault::JournalFull { .. } | Fault::ClockStep { .. })
    }
}

impl World<'_> {
    /// Tells the connections when the path goes, and when it is back. True if it did.
    pub(super) fn update_link(&mut self) -> bool {
        let (up, now) = (self.path_is_up(), self.now);
        let mut any = false;
        if up != self.was_up {
            self.was_up = up;
            let mut waited = 0.0;
            if up {
                waited = (now - self.down_since).min(self.retry_max());
            } else {
                self.down_since = now;
            }
            for index in 0..self.vms.len() {
                let mut out = Emitted::new();
                if self.vms[index].pair.is_none() {
                    continue;
                }
                // Where between two tries it came back, nobody knows.
                let again = now + if up { self.random.between(0.0, waited) } else { 0.0 };
                if let Some(pair) = &mut self.vms[index].pair {
                    pair.set_link(up, again, &mut out, now);
                }
                self.emit(index, out);
            }
            any = true;
        }
        if self.path.ends_at <= now && self.path.ends_at > 0.0 {
            self.path.ends_at = 0.0;
            self.lose(0.0, 0.0);
            any = true;
        }
        any
    }

    /// The longest time between two tries of a connection.
    pub(super) fn retry_max(&self) -> f64 {
        if self.gang.plan().tuning { RETRY_MAX_TUNED } else { RETRY_MAX }
    }

    fn lose(&mut self, round_trip: f64, share: f64) {
        self.path.lose(round_trip, share);
        for pair in self.vms.iter_mut().filter_map(|vm| vm.pair.as_mut()) {
            pair.set_path(self.path.fault_seconds());
        }
    }

    /// Until when a monitor passes nothing on, of what its QEMU tells by itself.
    pub(super) fn stalled_until(&self, vm: usize, side: Side) -> Option<f64> {
        let is_it = |it: &&Stalled| (it.vm, it.side) == (vm, side) && it.until > self.now;
        let all = self.stalled.iter().filter(is_it).filter(|it| !it.loses);
        all.map(|it| it.until).reduce(f64::max)
    }

    /// Whether what a QEMU answers now is lost.
    pub(super) fn loses_answers(&self, vm: usize, side: Side) -> bool {
        let is_it = |it: &Stalled| (it.vm, it.side) == (vm, side) && it.until > self.now;
        self.stalled.iter().any(|it| is_it(it) && it.loses)
    }

    fn index_of(&self, vm: &VmId) -> Option<usize> {
        self.vms.iter().position(|other| other.name == *vm)
    }

    /// True if anything happened.
    pub(super) fn inject(&mut self) -> bool {
        let now = self.now;
        // A port that comes back changes what is shared.
        let mut any = self
            .ports
            .iter()
            .any(|port| port.down_until > 0.0 && (port.down_until - now).abs() < 1e-9);
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.faults).into_iter().partition(|(at, _)| *at <= now);
        self.faults = later;
        for (_, fault) in due {
            any = true;
            match fault {
                Fault::PortDown { host, seconds } => {
                    if let Some(index) = self.machines.iter().position(|other| *other == host) {
                        self.ports[index].down_until = now + seconds;
                    }
                }
                Fault::PortRate { host, rate } => {
                    if let Some(index) = self.machines.iter().position(|other| *other == host) {
                        self.ports[index].rate = payload(rate);
                    }
                }
                Fault::KillQemu { vm, side } => self.strike(&vm, |pair, now, out| {
                    pair.kill(side, out, now);
                }),
                Fault::FreezeQemu { vm, side, seconds } => self.strike(&vm, |pair, now, out| {
                    pair.freeze(side, now + seconds, out, now);
                }),
                Fault::StallMonitor { vm, side, seconds, loses } => {
                    if let Some(vm) = self.index_of(&vm) {
                        self.stalled.push(Stalled { vm, side, until: now + seconds, loses });
                    }
                }
                Fault::KillController { seconds, between } => self.doom(seconds, between),
                Fault::JournalFull { seconds } => self.controller.fill_disk(now + seconds),
                Fault::ClockStep { seconds } => self.controller.wall_offset += seconds,
                Fault::Loss { round_trip, share, seconds } => {
                    self.lose(round_trip, share);
                    self.path.ends_at = now + seconds;
                }
                Fault::Cancel if !self.drives() => {}
                Fault::Cancel => {
                    self.gang.cancel(timestamp(now));
                    self.note_cancelled();
                }
                Fault::Demand { application, rate } => {
                    let demand = rate
                        .bandwidth()
                        .map_or(f64::INFINITY, |rate| Physics::bytes(rate.bytes_per_second()));
                    if let Some(flow) = self.flow_of(&application) {
                        flow.demand = demand;
                    }
                }
                Fault::Reverse { application } => {
                    if let Some(flow) = self.flow_of(&application) {
                        (flow.from, flow.to) = (flow.to, flow.from);
                    }
                }
                Fault::Path { round_trip, sent_again } => {
                    self.path.set(round_trip, sent_again);
                    for pair in self.vms.iter_mut().filter_map(|vm| vm.pair.as_mut()) {
                        pair.set_path(self.path.fault_seconds());
                    }
                }
                Fault::Writes { vm, working_set, rate } => {
                    let pair = self.vms.iter_mut().find(|other| other.name == vm);
                    if let Some(pair) = pair.and_then(|vm| vm.pair.as_mut()) {
                        let rate = Physics::bytes(rate.bytes_per_second());
                        pair.write_more(working_set.as_f64(), rate);
                    }
                }
            }
        }
        any
    }

    /// Something happens to a VM's QEMUs that no controller wanted.
    fn strike(&mut self, vm: &VmId, what: impl FnOnce(&mut crate::qemu::Pair, f64, &mut Emitted)) {
        let Some(index) = self.index_of(vm) else { return };
        let mut out = Emitted::new();
        if let Some(pair) = &mut self.vms[index].pair {
            let before = pair.is_intact();
            what(pair, self.now, &mut out);
            if before && !pair.is_intact() {
                self.vms[index].destroyed_at = Some(self.now);
            }
        }
        self.emit(index, out);
    }

    fn flow_of(&mut self, application: &EndpointId) -> Option<&mut Flow> {
        let log = self.outcome.applications.iter().position(|of| of.name == *application)?;
        self.flows.iter_mut().find(|flow| flow.log == log)
    }
}
