//! How many VMs a product moves at once, with which ceiling for each stream, and in which order.

use droveway_fleet::{Bandwidth, RateLimit};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;

/// Nova: VMs that leave a host at once.
const NOVA_CONCURRENCY: u32 = 1;

/// KubeVirt: VMs that leave a host at once (`parallelOutboundMigrationsPerNode`).
pub const KUBEVIRT_PER_SOURCE: u32 = 2;

/// KubeVirt as its newer operator sets it up: VMs that leave a host at once.
pub const KUBEVIRT_PER_SOURCE_OPERATOR: u32 = 1;

/// KubeVirt: VMs that move in a cluster at once (`parallelMigrationsPerCluster`).
pub const KUBEVIRT_PER_CLUSTER: u32 = 5;

/// oVirt: the ceiling of a stream on a host that its engine told nothing else, 52 MiB/s.
pub const OVIRT_HOST_CAP: Bandwidth = Bandwidth::from_bytes_per_second(52 << 20);

/// Proxmox VE: workers of a bulk migration unless more are asked for. Each moves one VM at a time.
pub const PROXMOX_WORKERS: u32 = 1;

/// Proxmox VE: workers of its high-availability manager.
pub const PROXMOX_HA_WORKERS: u32 = 4;

/// Proxmox VE's ceiling of a stream: 16 GiB/s, which is none.
const PROXMOX_CAP: Bandwidth = Bandwidth::from_bytes_per_second(16 << 30);

/// vSphere: the rate of a port from which on it moves more VMs at once.
const VSPHERE_FAST_PORT: Bandwidth = Bandwidth::from_bits_per_second(10_000_000_000);

/// vSphere: VMs that a host moves at once over a port slower than [`VSPHERE_FAST_PORT`].
const VSPHERE_CONCURRENCY: u32 = 4;

/// vSphere: VMs that a host moves at once over a port of at least [`VSPHERE_FAST_PORT`].
const VSPHERE_CONCURRENCY_FAST: u32 = 8;

/// vSphere: what it plans for each stream at least.
const VSPHERE_STREAM_MIN: Bandwidth = Bandwidth::from_bits_per_second(250_000_000);

/// A product, with what an operator can set of its concurrency and ceilings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "product", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Product {
    /// A script that calls virsh for one VM after the other.
    VirshSerial,
    /// A script that calls virsh for all VMs at once.
    VirshParallel,
    /// OpenStack Nova.
    Nova,
    /// KubeVirt.
    Kubevirt {
        /// VMs that leave a host at once: [`KUBEVIRT_PER_SOURCE`] or [`KUBEVIRT_PER_SOURCE_OPERATOR`].
        per_source: u32,
    },
    /// oVirt.
    Ovirt {
        /// VMs that move at once: [`super::Ovirt::max_migrations`] of its policy.
        max_migrations: u32,
        /// The quality of service of the migration network, where that is less than the port.
        qos: Option<Bandwidth>,
    },
    /// Proxmox VE.
    Proxmox {
        /// Workers: [`PROXMOX_WORKERS`] or [`PROXMOX_HA_WORKERS`].
        workers: u32,
    },
    /// vSphere.
    Vsphere,
}

impl Product {
    /// VMs that leave a host with that port at once, out of `vms`.
    #[must_use]
    pub fn concurrency(&self, port: Bandwidth, vms: u32) -> u32 {
        let by_product = match *self {
            Product::VirshParallel => vms,
            Product::VirshSerial => 1,
            Product::Nova => NOVA_CONCURRENCY,
            // The cluster's number binds too: only one host is emptied here.
            Product::Kubevirt { per_source } => per_source.min(KUBEVIRT_PER_CLUSTER),
            Product::Ovirt { max_migrations, .. } => max_migrations,
            Product::Proxmox { workers } => workers,
            Product::Vsphere => vsphere_concurrency(port),
        };
        by_product.clamp(1, vms.max(1))
    }

    /// The ceiling of each stream when `vms` leave a host with that port.
    #[must_use]
    pub fn stream_cap(&self, port: Bandwidth, vms: u32) -> RateLimit {
        match *self {
            Product::VirshSerial
            | Product::VirshParallel
            | Product::Nova
            | Product::Kubevirt { .. } => RateLimit::Unlimited,
            Product::Ovirt { max_migrations, qos } => {
                let shared = qos.map_or(port, |qos| qos.min(port));
                at(whole_mib_per_second(shared.divided(max_migrations)))
            }
            Product::Proxmox { .. } => at(PROXMOX_CAP),
            Product::Vsphere => at(port.divided(self.concurrency(port, vms))),
        }
    }
}

/// As many streams as the port has room for.
fn vsphere_concurrency(port: Bandwidth) -> u32 {
    let most =
        if port >= VSPHERE_FAST_PORT { VSPHERE_CONCURRENCY_FAST } else { VSPHERE_CONCURRENCY };
    let room = port.bits_per_second() / VSPHERE_STREAM_MIN.bits_per_second();
    u32::try_from(room).unwrap_or(u32::MAX).min(most)
}

/// oVirt divides Mbit/s by 8 and calls the result MiB/s, in whole numbers.
fn whole_mib_per_second(rate: Bandwidth) -> Bandwidth {
    Bandwidth::from_bytes_per_second((rate.bits_per_second() / 8_000_000) << 20)
}

/// A ceiling of zero is none, as libvirt takes it.
const fn at(rate: Bandwidth) -> RateLimit {
    if rate.is_zero() { RateLimit::Unlimited } else { RateLimit::At(rate) }
}

/// How KubeVirt ranks a migration that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KubevirtRank {
    /// It runs already, and is only looked after.
    Running,
    /// The system needs it.
    SystemCritical,
    /// A user asked for it.
    User,
    /// A host is being emptied.
    Maintenance,
    /// All others.
    Rest,
}

impl KubevirtRank {
    /// KubeVirt's number for it; the highest goes first.
    #[must_use]
    pub const fn priority(self) -> u32 {
        match self {
            KubevirtRank::Running => 1000,
            KubevirtRank::SystemCritical => 100,
            KubevirtRank::User => 50,
            KubevirtRank::Maintenance => 20,
            KubevirtRank::Rest => 0,
        }
    }
}

/// The order in which KubeVirt takes up a queue, as indices into it: by rank, then first come, first served.
#[must_use]
pub fn kubevirt_order(queue: &[KubevirtRank]) -> Vec<usize> {
    let mut order: Vec<_> = (0..queue.len()).collect();
    order.sort_by_key(|&index| Reverse(queue[index].priority()));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIGABIT: Bandwidth = Bandwidth::from_bits_per_second(1_000_000_000);

    fn mib(per_second: u64) -> RateLimit {
        RateLimit::At(Bandwidth::from_bytes_per_second(per_second << 20))
    }

    fn mbit(per_second: u64) -> Bandwidth {
        Bandwidth::from_bits_per_second(per_second * 1_000_000)
    }

    #[test]
    fn concurrency_of_the_table() {
        let rows = [
            (Product::VirshSerial, 1),
            (Product::VirshParallel, 10),
            (Product::Nova, 1),
            (Product::Kubevirt { per_source: KUBEVIRT_PER_SOURCE }, 2),
            (Product::Kubevirt { per_source: KUBEVIRT_PER_SOURCE_OPERATOR }, 1),
            (Product::Kubevirt { per_source: 20 }, 5),
            (Product::Ovirt { max_migrations: 2, qos: None }, 2),
            (Product::Proxmox { workers: PROXMOX_WORKERS }, 1),
            (Product::Proxmox { workers: PROXMOX_HA_WORKERS }, 4),
            (Product::Vsphere, 4),
        ];
        for (product, expected) in rows {
            assert_eq!(product.concurrency(GIGABIT, 10), expected, "{product:?}");
            assert_eq!(product.concurrency(GIGABIT, 1), 1, "{product:?}");
            assert_eq!(product.concurrency(Bandwidth::ZERO, 0), 1, "{product:?}");
        }
    }

    #[test]
    fn ovirt_caps() {
        let cap =
            |port, max_migrations, qos| Product::Ovirt { max_migrations, qos }.stream_cap(port, 10);
        assert_eq!(cap(GIGABIT, 2, None), mib(62));
        assert_eq!(cap(GIGABIT, 1, None), mib(125));
        assert_eq!(cap(GIGABIT, 2, Some(mbit(400))), mib(25));
        assert_eq!(cap(GIGABIT, 2, Some(mbit(4000))), mib(62));
        assert_eq!(cap(GIGABIT, 0, None), mib(125));
        // Less than 1 MiB/s becomes 0, which is no ceiling at all.
        assert_eq!(cap(mbit(15), 2, None), RateLimit::Unlimited);
        assert_eq!(cap(Bandwidth::ZERO, 2, None), RateLimit::Unlimited);
    }

    #[test]
    fn vsphere_shares_the_port() {
        let share = |port, vms| {
            let n = Product::Vsphere.concurrency(port, vms);
            (n, Product::Vsphere.stream_cap(port, vms))
        };
        assert_eq!(share(GIGABIT, 10), (4, RateLimit::At(mbit(250))));
        assert_eq!(share(GIGABIT, 2), (2, RateLimit::At(mbit(500))));
        assert_eq!(share(mbit(10_000), 10), (8, RateLimit::At(mbit(1250))));
        // No stream is planned with less than 250 Mbit/s, unless it is the only one.
        assert_eq!(share(mbit(600), 10), (2, RateLimit::At(mbit(300))));
        assert_eq!(share(mbit(100), 10), (1, RateLimit::At(mbit(100))));
    }

    #[test]
    fn others_have_no_ceiling_that_binds() {
        let kubevirt = Product::Kubevirt { per_source: KUBEVIRT_PER_SOURCE };
        for product in [Product::VirshSerial, Product::VirshParallel, Product::Nova, kubevirt] {
            assert_eq!(product.stream_cap(GIGABIT, 10), RateLimit::Unlimited, "{product:?}");
        }
        let proxmox = Product::Proxmox { workers: PROXMOX_WORKERS };
        assert_eq!(proxmox.stream_cap(GIGABIT, 10), mib(16 << 10));
    }

    #[test]
    fn kubevirt_goes_by_rank_then_by_arrival() {
        use KubevirtRank::{Maintenance, Rest, Running, SystemCritical, User};
        let queue = [Rest, Maintenance, User, Maintenance, SystemCritical, User, Running, Rest];
        assert_eq!(kubevirt_order(&queue), [6, 4, 2, 5, 1, 3, 0, 7]);
        assert_eq!(kubevirt_order(&[]), [0usize; 0]);
    }
}
