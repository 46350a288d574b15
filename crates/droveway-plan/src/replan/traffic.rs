//! What VMs send and receive while others move, and whether that is what they were taken to want.
//!
//! What a VM *has* while streams share its port is not what it *wants*. Two signs are safe: who has more than it was taken to
//! want wants more; who has less although nobody holds it back wants less. Nobody does where the port has room, or where a
//! stream that shares the port with it by flow has more. The port is full if it carries nearly what it can;
//! and as a stream without a ceiling fills every port, what ports carry beside one tells what they can.

use crate::plan::Direction;
use droveway_fleet::{Bandwidth, HostId, VmId};
use std::collections::BTreeMap;

/// Rates over the last moments, payload.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Traffic {
    /// What each host's port carried, streams included.
    pub ports: BTreeMap<HostId, Rates>,
    /// What each VM had, as itself sees it.
    pub vms: BTreeMap<VmId, Rates>,
    /// What the migrations' streams had together.
    pub streams: Bandwidth,
    /// What each of them had, where they share the ports with applications by flow; `None` where they have a class of their
    /// own, or there are none.
    pub level: Option<Bandwidth>,
    /// A stream without a ceiling was sending all the time, so that the ports carried what they can.
    pub is_full: bool,
}

/// Both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Sent.
    pub tx: Bandwidth,
    /// Received.
    pub rx: Bandwidth,
}

impl Rates {
    /// One direction.
    #[must_use]
    pub const fn of(&self, direction: Direction) -> Bandwidth {
        match direction {
            Direction::Tx => self.tx,
            Direction::Rx => self.rx,
        }
    }
}

/// What a VM wants in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// The rate, or what it had when it was seen if it takes what it gets.
    pub rate: Bandwidth,
    /// It takes what it gets.
    pub elastic: bool,
}

/// What a VM wants in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// To send.
    pub tx: Wanted,
    /// To receive.
    pub rx: Wanted,
}

/// A VM wants something else than it was taken to want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    /// The VM.
    pub vm: VmId,
    /// The direction.
    pub direction: Direction,
    /// What it was taken to want.
    pub before: Wanted,
    /// What it seems to want.
    pub now: Wanted,
}

impl std::fmt::Display for Shift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = match self.direction {
            Direction::Tx => "sends",
            Direction::Rx => "receives",
        };
        let all = |of: Wanted| if of.elastic { "all it gets".to_owned() } else { of.rate.human() };
        write!(f, "{} {verb} {}, not {}", self.vm, all(self.now), all(self.before))
    }
}

/// A port that carries this share of what it can is full.
const FULL: f64 = 0.9;
/// Who has so many times what it was taken to want wants more: rates over a second vary by less (20 %, measured).
const MORE: f64 = 1.3;
/// Who has less than this share of it beside a port with room wants less.
const LESS: f64 = 0.6;
/// Who shares a full port by flow and has less than this part of what one stream has is held back by nothing but itself.
const LEVEL: f64 = 0.6;
/// Changes below this share of a port are nobody's concern: they move a plan by less than the model errs.
const NOTHING: f64 = 0.03;
/// Ports that carry less than this share beside a stream that takes what it gets have become slower.
const SLOWER: f64 = 0.75;
/// Ports that carry so many times what was planned with can do more.
const FASTER: f64 = 1.1;

/// What the ports carry towards the target, if that is not what is planned with.
#[must_use]
pub fn capacity(
    seen: &Traffic,
    [source, target]: [&HostId; 2],
    known: Bandwidth,
) -> Option<Bandwidth> {
    let carried = |host, direction| seen.ports.get(host).map(|rates| rates.of(direction));
    let most = carried(source, Direction::Tx)?.max(carried(target, Direction::Rx)?);
    let slower = seen.is_full && most < known.scaled(SLOWER);
    let faster = most > known.scaled(FASTER);
    ((slower || faster) && !most.is_zero()).then_some(most)
}

/// Who wants something else than it was taken to want. `place` says on which host a VM's traffic is looked at; `None`: its
/// traffic says nothing now (it is stopped, or has just been). A port carries `capacity` in each direction.
pub fn shifts(
    known: &BTreeMap<VmId, Demand>,
    seen: &Traffic,
    capacity: Bandwidth,
    place: impl Fn(&VmId) -> Option<HostId>,
) -> Vec<Shift> {
    let mut found = Vec::new();
    for (vm, demand) in known {
        let Some(rates) = seen.vms.get(vm) else { continue };
        let Some(port) = place(vm).and_then(|host| seen.ports.get(&host)) else { continue };
        for (direction, before) in [(Direction::Tx, demand.tx), (Direction::Rx, demand.rx)] {
            let (has, carries) = (rates.of(direction), port.of(direction));
            let free = seen.level.is_some_and(|level| has < level.scaled(LEVEL));
            let full = !free && carries >= capacity.scaled(FULL);
            let room = capacity - carries.min(capacity);
            if let Some(now) = wants(before, has, Port { full, room, capacity }) {
                found.push(Shift { vm: vm.clone(), direction, before, now });
            }
        }
    }
    found
}

/// One direction of a port, as somebody finds it.
#[derive(Debug, Clone, Copy)]
struct Port {
    /// Others hold back who wants more.
    full: bool,
    room: Bandwidth,
    capacity: Bandwidth,
}

/// What somebody wants who has so much of a port, if it is something else than before.
fn wants(before: Wanted, has: Bandwidth, port: Port) -> Option<Wanted> {
    let Port { full, room, capacity } = port;
    let nothing = capacity.scaled(NOTHING);
    if before.elastic {
        // It would fill the port, and does not.
        let less = !full && has + nothing < (has + room).scaled(LESS);
        return less.then_some(Wanted { rate: has, elastic: false });
    }
    if has > before.rate.scaled(MORE) + nothing {
        return Some(Wanted { rate: has, elastic: full });
    }
    let less = !full && has + nothing < before.rate.scaled(LESS);
    less.then_some(Wanted { rate: has, elastic: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mbit(rate: u64) -> Bandwidth {
        Bandwidth::from_bits_per_second(rate * 1_000_000)
    }

    #[test]
    fn who_has_more_wants_more_and_who_has_less_only_if_there_is_room() {
        let steady = |rate| Wanted { rate: mbit(rate), elastic: false };
        let elastic = Wanted { rate: mbit(300), elastic: true };
        for (before, has, carries, now) in [
            (steady(100), 110, 400, None),
            (steady(100), 90, 300, None),
            (steady(100), 200, 300, Some(steady(200))),
            (steady(100), 200, 390, Some(Wanted { rate: mbit(200), elastic: true })),
            // A stream takes the rest: that says nothing of what it wants.
            (steady(100), 30, 390, None),
            (steady(100), 30, 200, Some(steady(30))),
            (steady(0), 5, 100, None),
            (elastic, 150, 390, None),
            (elastic, 20, 100, Some(steady(20))),
        ] {
            let capacity = mbit(400);
            let port = Port { full: carries >= 360, room: capacity - mbit(carries), capacity };
            assert_eq!(wants(before, mbit(has), port), now, "{before:?} {has}");
        }
    }

    #[test]
    fn ports_that_carry_less_beside_a_stream_are_slower() {
        let hosts: [HostId; 2] = ["alpha", "beta"].map(|name| name.parse().unwrap());
        let seen = |tx, rx, is_full| {
            let of = |tx, rx| Rates { tx: mbit(tx), rx: mbit(rx) };
            let ports = [(hosts[0].clone(), of(tx, 0)), (hosts[1].clone(), of(0, rx))].into();
            Traffic { ports, is_full, ..Traffic::default() }
        };
        let found = |seen: &Traffic| capacity(seen, [&hosts[0], &hosts[1]], mbit(400));
        assert_eq!(found(&seen(390, 380, true)), None);
        assert_eq!(found(&seen(100, 90, true)), Some(mbit(100)));
        assert_eq!(found(&seen(100, 90, false)), None, "nobody wanted more");
        assert_eq!(found(&seen(100, 380, true)), None, "the target's other senders fill it");
        assert_eq!(found(&seen(900, 900, true)), Some(mbit(900)));
    }
}
