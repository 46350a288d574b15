//! What VMs keep of the ports while others move: a share (`--floor`) of what they sent and received when they were measured.

use crate::measure;
use droveway_fleet::{
    Bandwidth, Host, HostId, Ratio, Snapshot, VmId,
    snapshot::{RateSummary, VmSnapshot},
};
use droveway_host::{netns::Netns, shaping::Floor};
use std::cmp::Reverse;

/// Floors of one port: every packet is compared with each, so those of the largest rates have to do.
const FLOORS_MAX: usize = 64;

/// A full frame on the wire and the payload in it: the inverse of [`Bandwidth::tcp_payload`].
const WIRE_PER_PAYLOAD: f64 = 1538.0 / 1448.0;

/// What a VM sends and receives through its host's port, and by which cards.
#[derive(Debug)]
pub(super) struct Traffic {
    vm: VmId,
    host: HostId,
    cards: Vec<[u8; 6]>,
    /// Sent and received, of the port.
    ways: [Bandwidth; 2],
}

/// Who was measured at these hosts, with the cards that their bridges have learned.
pub(super) fn traffic(snapshot: &Snapshot, hosts: [&Host; 2]) -> Vec<Traffic> {
    let mut all = Vec::new();
    for host in hosts {
        let known = Netns::of(host.netns.as_deref())
            .map_err(anyhow::Error::from)
            .and_then(|netns| measure::cards(&netns));
        let known = known.unwrap_or_else(|error| {
            tracing::warn!("host '{}': whose cards are whose is not known: {error:#}", host.name);
            Vec::new()
        });
        for vm in snapshot.vms.iter().filter(|vm| vm.host == host.name) {
            let behind = |(tap, card): &(String, [u8; 6])| vm.taps.contains(tap).then_some(*card);
            let cards = known.iter().filter_map(behind).collect();
            all.push(Traffic { vm: vm.name.clone(), host: host.name.clone(), cards, ways: of(vm) });
        }
    }
    all
}

fn of(vm: &VmSnapshot) -> [Bandwidth; 2] {
    [(vm.tx, vm.tx_local_ratio), (vm.rx, vm.rx_local_ratio)]
        .map(|(rate, local)| through(rate, local))
}

/// What of a VM's traffic crosses the port.
fn through(rate: RateSummary, local_ratio: f64) -> Bandwidth {
    let payload = rate.mean_bytes_per_second * (1.0 - local_ratio);
    Bandwidth::from_bytes_per_second(1).scaled(payload.max(0.0) * WIRE_PER_PAYLOAD)
}

/// The floors of one port in one direction (0: what it sends): of who is there, and of who will be.
pub(super) fn floors(
    all: &[Traffic],
    share: Ratio,
    host: &HostId,
    way: usize,
    arrives: impl Fn(&VmId) -> bool,
) -> Vec<Floor> {
    let here = all.iter().filter(|it| it.host == *host || arrives(&it.vm));
    let mut floors: Vec<Floor> = here
        .flat_map(|it| {
            // Which of its cards carries how much is not known.
            let cards = u32::try_from(it.cards.len()).unwrap_or(u32::MAX).max(1);
            let each = share.get() / f64::from(cards);
            it.cards.iter().map(move |mac| Floor { mac: *mac, rate: it.ways[way].scaled(each) })
        })
        .filter(|floor| !floor.rate.is_zero())
        .collect();
    floors.sort_by_key(|floor| Reverse(floor.rate));
    floors.truncate(FLOORS_MAX);
    floors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str, host: &str, card: u8, mbit: [u64; 2]) -> Traffic {
        Traffic {
            vm: name.parse().unwrap(),
            host: host.parse().unwrap(),
            cards: vec![[2, 0, 0, 0, 0, card]],
            ways: mbit.map(|rate| Bandwidth::from_bits_per_second(rate * 1_000_000)),
        }
    }

    #[test]
    fn who_is_there_and_who_arrives_keeps_its_share() {
        let all = [
            vm("mover", "alpha", 1, [100, 0]),
            vm("stays", "alpha", 2, [10, 20]),
            vm("resident", "beta", 3, [0, 40]),
        ];
        let rates = |host: &str, way| -> Vec<(u8, u64)> {
            let share = Ratio::new(0.5).unwrap();
            let arrives = |vm: &VmId| vm.as_str() == "mover" && host == "beta";
            let all = floors(&all, share, &host.parse().unwrap(), way, arrives);
            all.iter().map(|it| (it.mac[5], it.rate.bits_per_second() / 1_000_000)).collect()
        };
        assert_eq!(rates("alpha", 0), [(1, 50), (2, 5)]);
        assert_eq!(rates("alpha", 1), [(2, 10)], "nothing received, nothing to keep");
        assert_eq!(rates("beta", 0), [(1, 50)]);
        assert_eq!(rates("beta", 1), [(3, 20)]);
    }

    #[test]
    fn the_largest_are_kept_and_cards_share() {
        let many: Vec<_> = (0..=u8::MAX).map(|n| vm("vm", "alpha", n, [u64::from(n), 0])).collect();
        let one = Ratio::new(1.0).unwrap();
        let kept = floors(&many, one, &"alpha".parse().unwrap(), 0, |_| false);
        assert_eq!((kept.len(), kept[0].mac[5]), (FLOORS_MAX, u8::MAX));
        let mut two = vm("vm", "alpha", 1, [30, 0]);
        two.cards.push([2; 6]);
        let kept = floors(&[two], one, &"alpha".parse().unwrap(), 0, |_| false);
        assert_eq!(kept.iter().map(|it| it.rate.bits_per_second()).sum::<u64>(), 30_000_000);
    }

    #[test]
    fn what_stays_on_the_host_is_not_the_ports() {
        let rate = RateSummary { mean_bytes_per_second: 1_448e3, ..RateSummary::default() };
        assert_eq!(through(rate, 0.0).bits_per_second() / 1000, 1538 * 8);
        assert_eq!(through(rate, 0.5).bits_per_second() / 1000, 1538 * 4);
        assert!(through(rate, 1.0).is_zero());
    }
}
