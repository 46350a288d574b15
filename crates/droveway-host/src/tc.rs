//! Traffic control by netlink: queueing disciplines, classes, filters, and the device that inbound traffic is led through.
//!
//! Words of the kernel's interface (linux/pkt_sched.h, linux/pkt_cls.h) end here: handles, ticks, selectors. What is built
//! with them is [`crate::shaping`]'s matter.

use crate::{
    dump::{DumpSocket, NEW, array, attributes, number},
    netns::{Netns, NetnsError},
};
use droveway_fleet::{Bandwidth, Bytes};
use netlink_sys::protocols::NETLINK_ROUTE;
use std::io;
use thiserror::Error;

/// Why traffic control did not do what it was told.
#[derive(Debug, Error)]
pub enum TcError {
    /// The namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel refused, or the socket failed.
    #[error("could not {action}")]
    Kernel {
        /// What was tried.
        action: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl TcError {
    /// What the system said.
    #[must_use]
    pub fn io(&self) -> &io::Error {
        match self {
            TcError::Netns(error) => error.io(),
            TcError::Kernel { source, .. } => source,
        }
    }
}

/// linux/rtnetlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTCLASS: u16 = 40;
const RTM_GETTCLASS: u16 = 42;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS2: u16 = 7;
const TCA_STATS_BASIC: u16 = 1;
/// struct tcmsg: family and padding (4 bytes), interface (4), handle (4), parent (4), info (4).
const TCMSG: usize = 20;
/// struct ifinfomsg.
const IFINFOMSG: usize = 16;
const IFF_UP: u32 = 1;

/// `TC_H_ROOT` and `TC_H_INGRESS`.
pub(crate) const ROOT: u32 = 0xffff_ffff;
pub(crate) const INGRESS: u32 = 0xffff_fff1;
/// The handle that an ingress discipline always has.
const INGRESS_HANDLE: u32 = 0xffff_0000;

/// `ETH_P_IP`, `ETH_P_IPV6` and `ETH_P_ALL`.
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const ALL: u16 = 0x0003;

/// A tick of the kernel's packet scheduler, nanoseconds (`PSCHED_SHIFT`, 6, since Linux 2.6.31).
const TICK: u64 = 64;

/// A queueing discipline of a device, as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Qdisc {
    pub(crate) kind: String,
    /// 0: the kernel's own choice, that comes back by itself.
    pub(crate) handle: u32,
    pub(crate) parent: u32,
    /// As told; the kernel takes them back in the same form.
    pub(crate) options: Vec<u8>,
}

/// What an HTB class gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Htb {
    pub(crate) rate: Bandwidth,
    pub(crate) ceiling: Bandwidth,
    /// What may pass at once after a pause, within its own rate and its ceiling.
    pub(crate) burst: Bytes,
    /// Who borrows first: lower ones.
    pub(crate) priority: u32,
    /// Bytes of one turn among equals; at least its largest packet.
    pub(crate) quantum: u32,
}

/// One 32-bit word of a packet that must be as given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    /// From the start of the network header; negative: the Ethernet header before it.
    pub(crate) offset: i32,
    pub(crate) mask: u32,
    pub(crate) value: u32,
}

/// Where a filter's packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// To a class of the discipline.
    Class(u32),
    /// Out of another device.
    Redirect(u32),
}

/// Traffic control of one namespace.
#[derive(Debug)]
pub(crate) struct Tc {
    socket: DumpSocket,
}

impl Tc {
    pub(crate) fn open(netns: &Netns) -> Result<Self, TcError> {
        let socket = DumpSocket::open(netns, NETLINK_ROUTE)?.map_err(|error| TcError::Kernel {
            action: error.action.to_owned(),
            source: error.source,
        })?;
        Ok(Tc { socket })
    }

    fn order(&mut self, action: &str, kind: u16, flags: u16, body: &[u8]) -> Result<(), TcError> {
        self.socket
            .order(kind, flags, body)
            .map_err(|error| TcError::Kernel { action: action.to_owned(), source: error.source })
    }

    /// The disciplines of a device.
    pub(crate) fn qdiscs(&mut self, device: u32) -> Result<Vec<Qdisc>, TcError> {
        let mut all = Vec::new();
        self.socket
            .ask(RTM_GETQDISC, &message(device, 0, 0, 0), |kind, content| {
                if kind == RTM_NEWQDISC && number(content, 4) == device {
                    all.push(qdisc(content));
                }
            })
            .map_err(|error| TcError::Kernel {
                action: "list queueing disciplines".to_owned(),
                source: error.source,
            })?;
        Ok(all)
    }

    /// The bytes that each class of a device has passed, by class.
    pub(crate) fn classes(&mut self, device: u32) -> Result<Vec<(u32, u64)>, TcError> {
        let mut all = Vec::new();
        self.socket
            .ask(RTM_GETTCLASS, &message(device, 0, 0, 0), |kind, content| {
                if kind == RTM_NEWTCLASS {
                    all.push((number(content, 8), passed(content)));
                }
            })
            .map_err(|error| TcError::Kernel {
                action: "list classes".to_owned(),
                source: error.source,
            })?;
        Ok(all)
    }

    pub(crate) fn add_qdisc(
        &mut self,
        device: u32,
        (handle, parent): (u32, u32),
        kind: &str,
        options: &[u8],
    ) -> Result<(), TcError> {
        let mut body = message(device, handle, parent, 0);
        attribute(&mut body, TCA_KIND, &zero_ended(kind));
        if !options.is_empty() {
            attribute(&mut body, TCA_OPTIONS, options);
        }
        self.order(&format!("add a queueing discipline '{kind}'"), RTM_NEWQDISC, NEW, &body)
    }

    pub(crate) fn delete_qdisc(&mut self, device: u32, parent: u32) -> Result<(), TcError> {
        let handle = if parent == INGRESS { INGRESS_HANDLE } else { 0 };
        let body = message(device, handle, parent, 0);
        self.order("remove a queueing discipline", RTM_DELQDISC, 0, &body)
    }

    /// The ingress discipline, which queues nothing and only has filters.
    pub(crate) fn add_ingress(&mut self, device: u32) -> Result<(), TcError> {
        self.add_qdisc(device, (INGRESS_HANDLE, INGRESS), "ingress", &[])
    }

    /// HTB at the root; what no filter picks goes to class `default`.
    pub(crate) fn add_htb(&mut self, device: u32, default: u32) -> Result<(), TcError> {
        /// `HTB_VER` (3.17) without its minor half, as iproute2 sends it; and what a class's quantum would be from.
        const VERSION: u32 = 3;
        const RATE_TO_QUANTUM: u32 = 10;
        const TCA_HTB_INIT: u16 = 2;
        let mut glob = Vec::new();
        for field in [VERSION, RATE_TO_QUANTUM, default, 0, 0] {
            glob.extend(field.to_ne_bytes());
        }
        let mut options = Vec::new();
        attribute(&mut options, TCA_HTB_INIT, &glob);
        self.add_qdisc(device, (0x1_0000, ROOT), "htb", &options)
    }

    /// A class of HTB; one that exists is changed, without losing a packet.
    pub(crate) fn set_class(
        &mut self,
        device: u32,
        (class, parent): (u32, u32),
        htb: &Htb,
        new: bool,
    ) -> Result<(), TcError> {
        let mut body = message(device, class, parent, 0);
        attribute(&mut body, TCA_KIND, &zero_ended("htb"));
        attribute(&mut body, TCA_OPTIONS, &htb_options(htb));
        let flags = if new { NEW } else { 0 };
        self.order(&format!("set class {class:x} of HTB"), RTM_NEWTCLASS, flags, &body)
    }

    /// A queue of so many bytes as a class's leaf.
    pub(crate) fn add_queue(
        &mut self,
        device: u32,
        (handle, parent): (u32, u32),
        limit: Bytes,
    ) -> Result<(), TcError> {
        let limit = u32::try_from(limit.get()).unwrap_or(u32::MAX);
        self.add_qdisc(device, (handle, parent), "bfifo", &limit.to_ne_bytes())
    }

    /// A `u32` filter at a discipline; lower orders are asked first.
    pub(crate) fn add_filter(
        &mut self,
        device: u32,
        (parent, order, protocol): (u32, u16, u16),
        keys: &[Key],
        then: Then,
    ) -> Result<(), TcError> {
        let mut body = message(device, 0, parent, filter_info(order, protocol));
        attribute(&mut body, TCA_KIND, &zero_ended("u32"));
        attribute(&mut body, TCA_OPTIONS, &u32_options(keys, then));
        self.order("add a filter", RTM_NEWTFILTER, NEW, &body)
    }

    /// Removes all filters of one order.
    pub(crate) fn delete_filters(
        &mut self,
        device: u32,
        (parent, order, protocol): (u32, u16, u16),
    ) -> Result<(), TcError> {
        let body = message(device, 0, parent, filter_info(order, protocol));
        self.order("remove filters", RTM_DELTFILTER, 0, &body)
    }

    /// An intermediate functional block: a device that queues what is redirected to it and hands it back.
    pub(crate) fn add_ifb(&mut self, name: &str) -> Result<(), TcError> {
        const IFLA_IFNAME: u16 = 3;
        const IFLA_LINKINFO: u16 = 18;
        const IFLA_INFO_KIND: u16 = 1;
        let mut body = vec![0; IFINFOMSG];
        body[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
        body[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
        attribute(&mut body, IFLA_IFNAME, &zero_ended(name));
        let mut info = Vec::new();
        attribute(&mut info, IFLA_INFO_KIND, b"ifb");
        attribute(&mut body, IFLA_LINKINFO, &info);
        self.order(&format!("add device '{name}' of kind ifb"), RTM_NEWLINK, NEW, &body)
    }

    pub(crate) fn delete_link(&mut self, device: u32) -> Result<(), TcError> {
        let mut body = vec![0; IFINFOMSG];
        body[4..8].copy_from_slice(&device.to_ne_bytes());
        self.order("remove a device", RTM_DELLINK, 0, &body)
    }
}

/// A filter's `tcm_info`.
fn filter_info(order: u16, protocol: u16) -> u32 {
    u32::from(order) << 16 | u32::from(protocol.to_be())
}

/// struct tcmsg.
fn message(device: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut body = vec![0; TCMSG];
    for (at, field) in [(4, device), (8, handle), (12, parent), (16, info)] {
        body[at..at + 4].copy_from_slice(&field.to_ne_bytes());
    }
    body
}

/// Appends an attribute, padded to four bytes.
fn attribute(to: &mut Vec<u8>, kind: u16, content: &[u8]) {
    let length = u16::try_from(content.len() + 4).unwrap_or(u16::MAX);
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(content);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn zero_ended(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn qdisc(content: &[u8]) -> Qdisc {
    let mut found = Qdisc {
        kind: String::new(),
        handle: number(content, 8),
        parent: number(content, 12),
        options: Vec::new(),
    };
    for (kind, value) in attributes(content.get(TCMSG..).unwrap_or_default()) {
        match kind {
            TCA_KIND => {
                let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
                found.kind = String::from_utf8_lossy(name).into_owned();
            }
            TCA_OPTIONS => found.options = value.to_vec(),
            _ => {}
        }
    }
    found
}

/// Bytes of a class's statistics.
fn passed(content: &[u8]) -> u64 {
    attributes(content.get(TCMSG..).unwrap_or_default())
        .filter(|(kind, _)| *kind == TCA_STATS2)
        .flat_map(|(_, stats)| attributes(stats))
        .find(|(kind, _)| *kind == TCA_STATS_BASIC)
        .map_or(0, |(_, basic)| u64::from_ne_bytes(array(basic, 0)))
}

/// struct tc_htb_opt, and the rates in 64 bits: 32 bits of bytes per second end at 34 Gbit/s.
fn htb_options(htb: &Htb) -> Vec<u8> {
    const TCA_HTB_PARMS: u16 = 1;
    const TCA_HTB_RATE64: u16 = 6;
    const TCA_HTB_CEIL64: u16 = 7;
    /// `TC_LINKLAYER_ETHERNET`: the kernel computes times by itself and wants no table.
    const ETHERNET: u8 = 1;
    let bytes = |rate: Bandwidth| (rate.bits_per_second() / 8).max(1);
    let (rate, ceiling) = (bytes(htb.rate), bytes(htb.ceiling));
    let spec = |rate: u64| {
        // struct tc_ratespec: cell_log, linklayer, overhead (2), cell_align (2), mpu (2), rate (4).
        let mut spec = [0; 12];
        spec[1] = ETHERNET;
        spec[8..12].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
        spec
    };
    let ticks = |rate: u64| {
        let nanoseconds = u128::from(htb.burst.get()) * 1_000_000_000 / u128::from(rate);
        u32::try_from(nanoseconds / u128::from(TICK)).unwrap_or(u32::MAX)
    };
    let mut parameters = [spec(rate), spec(ceiling)].concat();
    for field in [ticks(rate), ticks(ceiling), htb.quantum, 0, htb.priority] {
        parameters.extend(field.to_ne_bytes());
    }
    let mut options = Vec::new();
    attribute(&mut options, TCA_HTB_PARMS, &parameters);
    attribute(&mut options, TCA_HTB_RATE64, &rate.to_ne_bytes());
    attribute(&mut options, TCA_HTB_CEIL64, &ceiling.to_ne_bytes());
    options
}

fn u32_options(keys: &[Key], then: Then) -> Vec<u8> {
    const TCA_U32_CLASSID: u16 = 1;
    const TCA_U32_SEL: u16 = 5;
    const TCA_U32_ACT: u16 = 7;
    /// `TC_U32_TERMINAL`.
    const TERMINAL: u8 = 1;
    // Without a key the kernel matches nothing: one that asks for no bit matches all.
    let all = [Key { offset: 0, mask: 0, value: 0 }];
    let keys = if keys.is_empty() { &all } else { keys };
    // struct tc_u32_sel: flags, offshift, number of keys, padding, then masks and offsets that are not used.
    let mut selector = vec![0; 16];
    selector[0] = TERMINAL;
    selector[2] = u8::try_from(keys.len()).unwrap_or(u8::MAX);
    for key in keys {
        selector.extend(key.mask.to_be_bytes());
        selector.extend((key.value & key.mask).to_be_bytes());
        selector.extend(key.offset.to_ne_bytes());
        selector.extend(0_i32.to_ne_bytes());
    }
    let mut options = Vec::new();
    attribute(&mut options, TCA_U32_SEL, &selector);
    match then {
        Then::Class(class) => attribute(&mut options, TCA_U32_CLASSID, &class.to_ne_bytes()),
        Then::Redirect(device) => attribute(&mut options, TCA_U32_ACT, &redirect(device)),
    }
    options
}

/// The action `mirred egress redirect`.
fn redirect(device: u32) -> Vec<u8> {
    const TCA_ACT_KIND: u16 = 1;
    const TCA_ACT_OPTIONS: u16 = 2;
    const TCA_MIRRED_PARMS: u16 = 2;
    /// `TC_ACT_STOLEN` and `TCA_EGRESS_REDIR`.
    const STOLEN: u32 = 4;
    const REDIRECT: u32 = 1;
    /// The place of the action in a filter's list, from 1.
    const FIRST: u16 = 1;
    // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex.
    let mut parameters = Vec::new();
    for field in [0, 0, STOLEN, 0, 0, REDIRECT, device] {
        parameters.extend(field.to_ne_bytes());
    }
    let mut mirred = Vec::new();
    attribute(&mut mirred, TCA_MIRRED_PARMS, &parameters);
    let mut action = Vec::new();
    attribute(&mut action, TCA_ACT_KIND, &zero_ended("mirred"));
    attribute(&mut action, TCA_ACT_OPTIONS, &mirred);
    let mut list = Vec::new();
    attribute(&mut list, FIRST, &action);
    list
}
