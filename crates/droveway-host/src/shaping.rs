//! A port whose bandwidth is promised: so much of each direction to migration, the rest to the applications, and each may
//! borrow what the other leaves.
//!
//! ```text
//!  what the port sends                          what it receives: redirected to an intermediate device, then the same
//!  1: HTB, a little under the port's rate, so that the queue is here and not in the port
//!   `- 1:1  all
//!       |- 1:3  migration       what was promised to it
//!       |   |- 1:5   urgent     page requests, pages that a guest waits for, acknowledgements: before the stream
//!       |   `- 1:10  stream     the rest of migration
//!       `- 1:2  applications    the rest
//!           |- 1:15  answers    their short packets, acknowledgements above all: before the others
//!           |- 1:20  all of them that have no floor
//!           `- 1:100 ..         one for each VM with a floor
//! ```
//!
//! A migration's packets are known by the address and the port that its target listens on, from when it listens
//! ([`Shaper::add_listener`]) until its stream has ended; sockets that carry a class in `SO_PRIORITY` go there without a filter. Not by
//! the whole range of ports that migrations may have: the kernel takes ports for connections that hosts begin from it, too, and one
//! such connection of the target would be urgent and fill what answers wait in (measured: a stream had 0.02 to 0.17 of its promise).
//! The port of a listener is given to no other connection. Inbound traffic is delayed and, when the queue is full, dropped here: TCP
//! makes room.
//!
//! What applications receive lives on the acknowledgements that they send. Where little is left of what a port sends, these would wait
//! behind what other VMs send, and a host that receives at line rate would stand still although that direction is free (measured at
//! 70 Mbit/s: 13 s of the port were lost in one drain).
//!
//! A port is taken only if it can be put back: what was there is looked at first ([`Shaper::look`]), a discipline that an
//! operator chose is tried out on a device of our own, and what would not come back as it was is left alone. What was there
//! ([`Before`]) is plain data, to be kept in a safe place before anything is changed, and enough to put it back ([`restore`]).

use crate::{
    links::links,
    netns::{Netns, NetnsError},
    tc::{self, Htb, Key, Qdisc, Tc, TcError, Then},
};
use droveway_fleet::{Bandwidth, Bytes};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, io, net::IpAddr, thread, time::Duration};
use thiserror::Error;

/// Why a port was not shaped, or not put back.
#[derive(Debug, Error)]
pub enum ShapingError {
    /// The namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Its links could not be listed.
    #[error("could not list the links of port '{interface}'")]
    Links {
        /// The interface.
        interface: String,
        /// What the system said.
        #[source]
        source: crate::counters::CountersError,
    },
    /// There is no such interface.
    #[error("there is no interface '{interface}'")]
    Missing {
        /// The interface.
        interface: String,
    },
    /// Somebody has shaped it already, in a way that could not be put back.
    #[error(
        "'{interface}' has traffic control of its own ({found}), which could not be put back as it is"
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// What is there.
        found: String,
    },
    /// The kernel refused.
    #[error("port '{interface}': {error}")]
    Tc {
        /// The interface.
        interface: String,
        /// What it said.
        #[source]
        error: TcError,
    },
    /// After putting it back, the port is not as it was.
    #[error("port '{interface}' is not as it was: {found} instead of {wanted}")]
    NotAsBefore {
        /// The interface.
        interface: String,
        /// What is there now.
        found: String,
        /// What was there.
        wanted: String,
    },
}

/// The share of a port's rate that is given out: what is above would queue in the port instead of here. Less than 2 % is lost in
/// the burst that HTB allows itself.
const ROOT_RATIO: f64 = 0.97;
/// Bytes that HTB counts of a full frame, and that it takes on the wire: with preamble (8), checksum (4) and gap (12).
const FRAME_COUNTED: f64 = 1514.0;
const FRAME_ON_WIRE: f64 = FRAME_COUNTED + 24.0;
/// What may pass at once after a pause. HTB waits by timer, and a late timer loses what the burst does not cover.
const BURST: Duration = Duration::from_micros(2_500);
/// The largest packet with segmentation offload: a turn must be worth it, or HTB shares by packets and not by bytes.
const TURN: u32 = 69_000;
/// The longest wait in the queue of the stream; the sender's own buffer holds the rest.
const STREAM_QUEUE: Duration = Duration::from_millis(20);
/// The longest wait in the queue of applications where the kernel has no `fq_codel`.
const APPLICATION_QUEUE: Duration = Duration::from_millis(50);
/// Packets shorter than this are answers, whatever their protocol: an acknowledgement has 52 to 80 bytes. A power of two.
const ANSWER_LEN: u32 = 128;
/// What answers may count on, of the whole port: acknowledgements are 3.1 % of the bytes that they acknowledge (measured).
const ANSWERS_RATIO: f64 = 0.04;
/// Of what applications are promised, answers get no more than this.
const ANSWERS_MOST: f64 = 0.5;
/// No class gets less than this share: a class without a rate would starve, and the kernel accepts none.
const LEAST_RATIO: f64 = 0.005;

const ALL: u32 = 0x1_0001;
const APPLICATIONS: u32 = 0x1_0002;
const MIGRATION: u32 = 0x1_0003;
/// The class of what a guest waits for: to be set as a socket's priority.
pub const URGENT: u32 = 0x1_0005;
/// The class of the stream: to be set as a socket's priority.
pub const STREAM: u32 = 0x1_0010;
const ANSWERS: u32 = 0x1_0015;
const OTHERS: u32 = 0x1_0020;
const FIRST_FLOOR: u32 = 0x1_0100;

/// The order in which filters are asked: connections that are hastened, each listening port, VMs' cards, and behind all others answers,
/// since what is migration's, or a floor's, stays there.
const HASTENED: u16 = 1;
const FIRST_LISTENER: u16 = 2;
const CARDS: u16 = 0xfffd;
const ANSWERED: [u16; 2] = [0xfffe, 0xffff];
/// Where filters of classes are: the discipline at the root.
const AT_ROOT: u32 = 0x1_0000;

/// What one direction of a port promises.
#[derive(Debug, Clone, PartialEq)]
pub struct Promise {
    /// To migration, as a rate of the port (on the wire).
    pub migration: Bandwidth,
    /// More than that migration takes at most; the port's rate: whatever is left.
    pub ceiling: Bandwidth,
    /// Migration takes what applications leave, and applications first take what it leaves.
    pub yields: bool,
    /// What VMs keep.
    pub floors: Vec<Floor>,
}

/// What one VM keeps of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// Its network card's address.
    pub mac: [u8; 6],
    /// The rate, of the port.
    pub rate: Bandwidth,
}

/// What the classes of one direction have passed, bytes as the kernel counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passed {
    /// What guests waited for, requests and acknowledgements.
    pub urgent: u64,
    /// The streams.
    pub stream: u64,
    /// Everything else.
    pub applications: u64,
}

/// What was on a port before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Before {
    /// The network namespace; absent: this machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The interface.
    pub interface: String,
    /// Its index: another interface of that name is not ours to touch.
    pub index: u32,
    /// The discipline that an operator chose for what it sends; absent: the kernel's own choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<SavedQdisc>,
    /// The device that inbound traffic is led through while it is shaped; absent: inbound is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound_device: Option<String>,
}

/// A queueing discipline as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedQdisc {
    /// Its kind.
    pub kind: String,
    /// Its handle.
    pub handle: u32,
    /// Its options as the kernel told them, in hexadecimal.
    pub options: String,
}

/// Disciplines without classes and filters of their own: kind, handle and options are all of them.
const PLAIN: [&str; 8] =
    ["bfifo", "cake", "codel", "fq", "fq_codel", "fq_pie", "pfifo", "pfifo_fast"];

/// One port that is, or can be, shaped.
#[derive(Debug)]
pub struct Shaper {
    tc: Tc,
    before: Before,
    /// What is given out, each direction.
    root: Bandwidth,
    /// Migrations arrive at this address.
    target: IpAddr,
    /// The ports that targets listen on, and the order of each one's filters.
    listeners: BTreeMap<u16, u16>,
    inbound: Option<u32>,
    netns: Netns,
}

/// A direction of a port, as its host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// What it sends.
    Tx,
    /// What it receives.
    Rx,
}

impl Shaper {
    /// Looks at a port; nothing of it is changed. `target`: the address that migrations arrive at.
    ///
    /// # Errors
    /// [`ShapingError`]: it could not be put back, or there is none.
    pub fn look(
        netns: &Netns,
        interface: &str,
        rate: Bandwidth,
        target: IpAddr,
    ) -> Result<Self, ShapingError> {
        let failed = |error| ShapingError::Tc { interface: interface.to_owned(), error };
        let all = links(netns)
            .map_err(|source| ShapingError::Links { interface: interface.to_owned(), source })?;
        let link = all.iter().find(|link| link.name == interface);
        let index =
            link.ok_or_else(|| ShapingError::Missing { interface: interface.to_owned() })?.index;
        let mut tc = Tc::open(netns).map_err(failed)?;
        let there = tc.qdiscs(index).map_err(failed)?;
        let occupied = |found: &str| ShapingError::Occupied {
            interface: interface.to_owned(),
            found: found.to_owned(),
        };
        let chosen = |parent| there.iter().find(|one| one.parent == parent && one.handle != 0);
        let root = match chosen(tc::ROOT) {
            None => None,
            Some(root) => {
                if !PLAIN.contains(&root.kind.as_str()) || !comes_back(root) {
                    return Err(occupied(&root.kind));
                }
                Some(saved(root))
            }
        };
        // Filters of somebody else's there: what arrives is theirs.
        let inbound_device = chosen(tc::INGRESS).is_none().then(|| format!("dw-in{index}"));
        let before = Before {
            netns: netns.name().map(str::to_owned),
            interface: interface.to_owned(),
            index,
            root,
            inbound_device,
        };
        let root = rate.scaled(ROOT_RATIO * FRAME_COUNTED / FRAME_ON_WIRE);
        let (inbound, listeners) = (None, BTreeMap::new());
        Ok(Shaper { tc, before, root, target, listeners, inbound, netns: netns.clone() })
    }

    /// What was there: to be kept in a safe place before [`Self::install`].
    #[must_use]
    pub fn before(&self) -> &Before {
        &self.before
    }

    /// What is given out of the port, on the wire.
    #[must_use]
    pub fn usable(&self) -> Bandwidth {
        self.root.scaled(FRAME_ON_WIRE / FRAME_COUNTED)
    }

    /// True if inbound traffic is, or can be, shaped too.
    #[must_use]
    pub fn shapes_inbound(&self) -> bool {
        self.before.inbound_device.is_some()
    }

    /// Takes the port. If anything fails it is put back.
    ///
    /// # Errors
    /// [`ShapingError`]; the port is as it was then, as far as that was possible.
    pub fn install(&mut self, tx: &Promise, rx: &Promise) -> Result<(), ShapingError> {
        let installed = self.try_install(tx, rx);
        if let Err(error) = installed {
            if let Err(second) = restore(&self.before) {
                tracing::warn!("{second}");
            }
            return Err(self.failed(error));
        }
        Ok(())
    }

    fn try_install(&mut self, tx: &Promise, rx: &Promise) -> Result<(), TcError> {
        let port = self.before.index;
        if self.before.root.is_some() {
            self.tc.delete_qdisc(port, tc::ROOT)?;
        }
        self.build(port, Way::Tx, tx)?;
        if let Some(name) = self.before.inbound_device.clone() {
            match self.tc.add_ifb(&name) {
                Ok(()) => {}
                // No such device in this kernel: what arrives stays as it is.
                Err(TcError::Kernel { source, .. })
                    if source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
                {
                    tracing::info!("no ifb devices here: inbound traffic is not shaped");
                    self.before.inbound_device = None;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            let device = self.find(&name)?;
            self.inbound = Some(device);
            self.build(device, Way::Rx, rx)?;
            self.tc.add_ingress(port)?;
            let all = (0xffff_0000, 1, tc::ALL);
            self.tc.add_filter(port, all, &[], Then::Redirect(device))?;
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<u32, TcError> {
        let missing = || TcError::Kernel {
            action: format!("find device '{name}'"),
            source: io::Error::from_raw_os_error(libc::ENODEV),
        };
        let all = links(&self.netns).map_err(|_| missing())?;
        all.iter().find(|link| link.name == name).map(|link| link.index).ok_or_else(missing)
    }

    /// The whole tree on one device.
    fn build(&mut self, device: u32, way: Way, promise: &Promise) -> Result<(), TcError> {
        self.tc.add_htb(device, OTHERS & 0xffff)?;
        for (class, parent, htb) in self.classes(promise) {
            self.tc.set_class(device, (class, parent), &htb, true)?;
        }
        let floors = (0..promise.floors.len()).map(floor_class);
        for class in [URGENT, STREAM, ANSWERS, OTHERS].into_iter().chain(floors) {
            let at = ((class & 0xffff) << 16, class);
            let (fair, time) = leaf(class);
            let shared = fair.is_some_and(|kind| self.tc.add_qdisc(device, at, kind, &[]).is_ok());
            if !shared {
                let limit = (self.root * time).max(Bytes::new(2 * u64::from(TURN)));
                self.tc.add_queue(device, at, limit)?;
            }
        }
        for (index, floor) in promise.floors.iter().enumerate() {
            let (keys, class) = (card(floor.mac, way), floor_class(index));
            self.tc.add_filter(device, (AT_ROOT, CARDS, tc::ALL), &keys, Then::Class(class))?;
        }
        for (order, (protocol, key)) in ANSWERED.into_iter().zip(answers()) {
            self.tc.add_filter(device, (AT_ROOT, order, protocol), &[key], Then::Class(ANSWERS))?;
        }
        Ok(())
    }

    /// Every class with its parent, parents first.
    fn classes(&self, promise: &Promise) -> Vec<(u32, u32, Htb)> {
        let root = self.root;
        let least = root.scaled(LEAST_RATIO);
        let counted = |rate: Bandwidth| rate.scaled(FRAME_COUNTED / FRAME_ON_WIRE);
        let migration = counted(promise.migration).clamp(least, root - least);
        let ceiling = counted(promise.ceiling).clamp(migration, root);
        let rest = root - migration;
        let class = |rate: Bandwidth, ceiling, priority| Htb {
            rate,
            ceiling,
            burst: rate * BURST,
            priority,
            quantum: TURN,
        };
        // Who borrows first. The stream is an application's equal unless it yields.
        let (urgent, first, applications) = (0, 1, 2);
        let stream = if promise.yields { 4 } else { applications };
        let half = migration.scaled(0.5);
        let mut all = vec![
            (ALL, 0x1_0000, class(root, root, 0)),
            (MIGRATION, ALL, class(migration, ceiling, 0)),
            (URGENT, MIGRATION, class(half, ceiling, urgent)),
            (STREAM, MIGRATION, class(migration - half, ceiling, stream)),
            (APPLICATIONS, ALL, class(rest, root, 0)),
        ];
        // Floors are promises only as far as there is room for all of them.
        let floors: u64 =
            promise.floors.iter().map(|one| counted(one.rate).bits_per_second()).sum();
        let answers = root.scaled(ANSWERS_RATIO).min(rest.scaled(ANSWERS_MOST));
        let room = (rest - answers - least).bits_per_second();
        #[expect(clippy::cast_precision_loss, reason = "rates, far below 2^53")]
        let fits = if floors > room { room as f64 / floors as f64 } else { 1.0 };
        let mut given = Bandwidth::ZERO;
        for (index, floor) in promise.floors.iter().enumerate() {
            let rate = counted(floor.rate).scaled(fits);
            given = given + rate;
            all.push((floor_class(index), APPLICATIONS, class(rate, root, applications)));
        }
        all.push((ANSWERS, APPLICATIONS, class(answers, root, first)));
        all.push((OTHERS, APPLICATIONS, class(rest - answers - given, root, applications)));
        all
    }

    /// Changes what one direction promises, without losing a packet. Floors stay those of the installation.
    ///
    /// # Errors
    /// [`ShapingError`].
    pub fn promise(&mut self, way: Way, promise: &Promise) -> Result<(), ShapingError> {
        let Some(device) = self.device(way) else { return Ok(()) };
        for (class, parent, htb) in self.classes(promise) {
            let set = self.tc.set_class(device, (class, parent), &htb, false);
            set.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// A target listens on this port: what goes there is a stream, what comes from there is urgent, in each direction that is shaped
    /// here.
    ///
    /// # Errors
    /// [`ShapingError`].
    pub fn add_listener(&mut self, port: u16) -> Result<(), ShapingError> {
        let mut free = FIRST_LISTENER..CARDS;
        let order = free.find(|order| !self.listeners.values().any(|taken| taken == order));
        let (Some(order), false) = (order, self.listeners.contains_key(&port)) else {
            return Ok(());
        };
        // What was added in part goes with the rest.
        self.listeners.insert(port, order);
        for device in self.devices() {
            for (protocol, keys, class) in filters(self.target, port) {
                let at = (AT_ROOT, order, protocol);
                let added = self.tc.add_filter(device, at, &keys, Then::Class(class));
                added.map_err(|error| self.failed(error))?;
            }
        }
        Ok(())
    }

    /// Nobody listens on this port any more, nor is a stream under way there: whoever gets it next is an application.
    ///
    /// # Errors
    /// [`ShapingError`].
    pub fn remove_listener(&mut self, port: u16) -> Result<(), ShapingError> {
        let Some(order) = self.listeners.remove(&port) else { return Ok(()) };
        let (protocol, _) = towards(self.target);
        for device in self.devices() {
            let deleted = self.tc.delete_filters(device, (AT_ROOT, order, protocol));
            deleted.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// What this connection carries is urgent, in each direction that is shaped here.
    ///
    /// # Errors
    /// [`ShapingError`].
    pub fn hasten(&mut self, source_port: u16) -> Result<(), ShapingError> {
        for device in self.devices() {
            let (protocol, mut keys) = towards(self.target);
            keys.push(tcp_ports(protocol, u32::from(source_port) << 16, 0xffff_0000));
            let at = (AT_ROOT, HASTENED, protocol);
            let added = self.tc.add_filter(device, at, &keys, Then::Class(URGENT));
            added.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Those that have our classes.
    fn devices(&self) -> Vec<u32> {
        [Some(self.before.index), self.inbound].into_iter().flatten().collect()
    }

    /// What the classes of one direction have passed; nothing if it is not shaped.
    ///
    /// # Errors
    /// [`ShapingError`].
    pub fn passed(&mut self, way: Way) -> Result<Passed, ShapingError> {
        let Some(device) = self.device(way) else { return Ok(Passed::default()) };
        let classes = self.tc.classes(device).map_err(|error| self.failed(error))?;
        let of = |wanted| classes.iter().find(|(class, _)| *class == wanted).map_or(0, |one| one.1);
        Ok(Passed { urgent: of(URGENT), stream: of(STREAM), applications: of(APPLICATIONS) })
    }

    fn device(&self, way: Way) -> Option<u32> {
        match way {
            Way::Tx => Some(self.before.index),
            Way::Rx => self.inbound,
        }
    }

    fn failed(&self, error: TcError) -> ShapingError {
        ShapingError::Tc { interface: self.before.interface.clone(), error }
    }
}

/// Puts a port back as it was. What is back already stays; a port or namespace that is gone needs nothing.
///
/// # Errors
/// [`ShapingError`].
pub fn restore(before: &Before) -> Result<(), ShapingError> {
    let failed = |error| ShapingError::Tc { interface: before.interface.clone(), error };
    let netns = match Netns::of(before.netns.as_deref()) {
        Err(NetnsError::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(());
        }
        other => other?,
    };
    let mut tc = Tc::open(&netns).map_err(failed)?;
    let all = links(&netns)
        .map_err(|source| ShapingError::Links { interface: before.interface.clone(), source })?;
    let named = |name: &str| all.iter().find(|link| link.name == name).map(|link| link.index);
    if named(&before.interface) == Some(before.index) {
        let there = tc.qdiscs(before.index).map_err(failed)?;
        // Ours: the only one that leads to our device.
        let inbound = before.inbound_device.as_deref();
        if inbound.is_some() && there.iter().any(|one| one.parent == tc::INGRESS) {
            tc.delete_qdisc(before.index, tc::INGRESS).map_err(failed)?;
        }
        if there.iter().any(|one| one.parent == tc::ROOT && one.kind == "htb") {
            tc.delete_qdisc(before.index, tc::ROOT).map_err(failed)?;
        }
        put_back(&mut tc, before)?;
    }
    if let Some(device) = before.inbound_device.as_deref().and_then(named) {
        tc.delete_link(device).map_err(failed)?;
    }
    Ok(())
}

/// The discipline at the root, and the proof that it is the one that was there.
fn put_back(tc: &mut Tc, before: &Before) -> Result<(), ShapingError> {
    let failed = |error| ShapingError::Tc { interface: before.interface.clone(), error };
    let root = |tc: &mut Tc| -> Result<Option<SavedQdisc>, TcError> {
        let all = tc.qdiscs(before.index)?;
        Ok(all.iter().find(|one| one.parent == tc::ROOT && one.handle != 0).map(saved))
    };
    let now = root(tc).map_err(failed)?;
    if now == before.root {
        return Ok(());
    }
    if let (None, Some(wanted)) = (&now, &before.root) {
        let options = from_hexadecimal(&wanted.options);
        let at = (wanted.handle, tc::ROOT);
        tc.add_qdisc(before.index, at, &wanted.kind, &options).map_err(failed)?;
    }
    let now = root(tc).map_err(failed)?;
    if now == before.root {
        return Ok(());
    }
    let name = |one: &Option<SavedQdisc>| match one {
        Some(one) => format!("{} {}", one.kind, one.options),
        None => "the kernel's own".to_owned(),
    };
    Err(ShapingError::NotAsBefore {
        interface: before.interface.clone(),
        found: name(&now),
        wanted: name(&before.root),
    })
}

/// Tries whether this kernel has the discipline that keeps promises, on a device of our own; where there can be none it is
/// taken for granted, and [`Shaper::install`] tells.
///
/// # Errors
/// [`ShapingError`]: it has not.
pub fn try_out() -> Result<(), ShapingError> {
    let failed = |error| ShapingError::Tc { interface: TRIAL_DEVICE.to_owned(), error };
    let added = on_trial(|tc, device| tc.add_htb(device, OTHERS & 0xffff));
    added.unwrap_or(Ok(())).map_err(failed)
}

/// Tries a discipline out on a device of our own: true if the kernel tells it there as it tells it here.
fn comes_back(wanted: &Qdisc) -> bool {
    let same = on_trial(|tc, device| {
        let at = (wanted.handle, tc::ROOT);
        tc.add_qdisc(device, at, &wanted.kind, &wanted.options).is_ok()
            && tc.qdiscs(device).is_ok_and(|all| {
                all.iter().any(|one| one.kind == wanted.kind && one.options == wanted.options)
            })
    });
    same.unwrap_or(false)
}

const TRIAL_DEVICE: &str = "dw-try";

/// Does something to a new device, which has the kernel's own discipline that an added one replaces. `None`: there is none. The
/// device is in a network namespace of its own, that ends with the thread: who is killed meanwhile leaves nothing on the host.
fn on_trial<T: Send>(what: impl FnOnce(&mut Tc, u32) -> T + Send) -> Option<T> {
    let tried = || {
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        let netns = Netns::own();
        let mut tc = Tc::open(&netns).ok()?;
        tc.add_ifb(TRIAL_DEVICE).ok()?;
        let all = links(&netns).ok()?;
        let device = all.iter().find(|link| link.name == TRIAL_DEVICE)?.index;
        Some(what(&mut tc, device))
    };
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("trial".to_owned()).spawn_scoped(scope, tried);
        worker.ok()?.join().ok().flatten()
    })
}

fn saved(qdisc: &Qdisc) -> SavedQdisc {
    use std::fmt::Write as _;
    let options = qdisc.options.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    SavedQdisc { kind: qdisc.kind.clone(), handle: qdisc.handle, options }
}

/// Of what [`saved`] wrote; what is damaged ends it, and the proof afterwards fails.
fn from_hexadecimal(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    digits.map_while(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn floor_class(index: usize) -> u32 {
    // More floors than classes have numbers share the last one.
    FIRST_FLOOR + u32::try_from(index).unwrap_or(u32::MAX).min(0xfe00)
}

/// What makes a migration's packets known by the port that its target listens on: its stream goes there, acknowledgements and requests
/// come from there.
fn filters(target: IpAddr, port: u16) -> [(u16, Vec<Key>, u32); 2] {
    let port = u32::from(port);
    let (protocol, mut stream) = towards(target);
    stream.push(tcp_ports(protocol, port, 0xffff));
    let (_, mut back) = out_of(target);
    back.push(tcp_ports(protocol, port << 16, 0xffff_0000));
    [(protocol, stream, STREAM), (protocol, back, URGENT)]
}

/// What makes short packets known, each protocol's: by the length in the header, of which the high bits are not set.
fn answers() -> [(u16, Key); 2] {
    let long = 0x1_0000 - ANSWER_LEN;
    // Both headers keep the length in one half of a word; that of IPv6 does not count the header itself.
    [
        (tc::IPV4, Key { offset: 0, mask: long, value: 0 }),
        (tc::IPV6, Key { offset: 4, mask: long << 16, value: 0 }),
    ]
}

/// What shares a class's queue by flow, if this kernel has it; and how long packets may wait in the plain queue where it has not.
fn leaf(class: u32) -> (Option<&'static str>, Duration) {
    match class {
        // What is urgent is little, and streams wait in their senders.
        URGENT | STREAM => (None, STREAM_QUEUE),
        // Not `fq`: it holds packets until their time has come, and HTB wants leaves that give whenever they have something.
        _ => (Some("fq_codel"), APPLICATION_QUEUE),
    }
}

/// What a network card sends, or what is sent to it: the address in the Ethernet header, 14 bytes before the next one.
fn card(mac: [u8; 6], way: Way) -> Vec<Key> {
    let [a, b, c, d, e, f] = mac;
    let key = |offset, mask, bytes| Key { offset, mask, value: u32::from_be_bytes(bytes) };
    match way {
        Way::Tx => {
            vec![key(-8, u32::MAX, [a, b, c, d]), key(-4, 0xffff_0000, [e, f, 0, 0])]
        }
        Way::Rx => {
            vec![key(-16, 0xffff, [0, 0, a, b]), key(-12, u32::MAX, [c, d, e, f])]
        }
    }
}

/// TCP to the target's address.
fn towards(target: IpAddr) -> (u16, Vec<Key>) {
    addressed(target, 16, 24)
}

/// TCP from the target's address.
fn out_of(target: IpAddr) -> (u16, Vec<Key>) {
    addressed(target, 12, 8)
}

/// TCP with this address at its place in the header of IPv4 or IPv6.
fn addressed(address: IpAddr, offset4: i32, offset6: i32) -> (u16, Vec<Key>) {
    const TCP: u32 = 6;
    let whole = |offset, value| Key { offset, mask: u32::MAX, value };
    match address {
        IpAddr::V4(address) => {
            let tcp = Key { offset: 8, mask: 0x00ff_0000, value: TCP << 16 };
            (tc::IPV4, vec![tcp, whole(offset4, u32::from(address))])
        }
        IpAddr::V6(address) => {
            let tcp = Key { offset: 4, mask: 0x0000_ff00, value: TCP << 8 };
            let words = address.octets();
            let words = words.chunks_exact(4).zip([0, 4, 8, 12]).map(|(word, at)| {
                whole(offset6 + at, word.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
            });
            (tc::IPV6, std::iter::once(tcp).chain(words).collect())
        }
    }
}

/// The word of both ports, behind a header without options.
fn tcp_ports(protocol: u16, value: u32, mask: u32) -> Key {
    Key { offset: if protocol == tc::IPV4 { 20 } else { 40 }, mask, value }
}

#[cfg(test)]
mod tests;
