//! The products' habits as policies: which rule, which concurrency, which ceilings.

use super::{
    KUBEVIRT_PER_SOURCE, KubevirtRamp, KubevirtStall, KubevirtTimeouts, Ladder, LastResort, Nova,
    Ovirt, PROXMOX_WORKERS, Product, Proxmox,
};
use droveway_fleet::Bytes;

/// The longest downtime limit of `kubevirt-ramp`, in milliseconds: that of the design text's example.
const RAMP_MAX_MS: u32 = 1050;

/// A product whose habit is a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// OpenStack Nova.
    Nova,
    /// KubeVirt as it is by default.
    Kubevirt,
    /// KubeVirt with stall detection.
    KubevirtStall,
    /// KubeVirt with downtime tuning.
    KubevirtRamp,
    /// oVirt.
    Ovirt,
    /// Proxmox VE.
    Proxmox,
    /// vSphere.
    Vsphere,
}

impl Habit {
    /// Its concurrency and ceilings.
    #[must_use]
    pub fn product(self) -> Product {
        match self {
            Habit::Nova => Product::Nova,
            Habit::Kubevirt | Habit::KubevirtStall | Habit::KubevirtRamp => {
                Product::Kubevirt { per_source: KUBEVIRT_PER_SOURCE }
            }
            Habit::Ovirt => {
                let max_migrations = Ovirt::minimal_downtime().max_migrations;
                Product::Ovirt { max_migrations, qos: None }
            }
            Habit::Proxmox => Product::Proxmox { workers: PROXMOX_WORKERS },
            Habit::Vsphere => Product::Vsphere,
        }
    }

    /// Whether it lets QEMU hold the vCPUs back (auto-converge).
    #[must_use]
    pub const fn throttles(self) -> bool {
        matches!(self, Habit::Ovirt | Habit::Proxmox | Habit::Vsphere)
    }

    /// What it does while a VM of that memory moves; `then` is what is permitted when its patience ends. `None`: nothing.
    #[must_use]
    pub fn ladder(self, memory: Bytes, then: LastResort) -> Option<Ladder> {
        let timeouts = || KubevirtTimeouts::new(memory, then);
        Some(match self {
            Habit::Nova => Ladder::Nova(Nova::new(memory, then)),
            Habit::Kubevirt => Ladder::KubevirtLike(timeouts()),
            Habit::KubevirtStall => Ladder::KubevirtStall(KubevirtStall::new(memory, then)),
            Habit::KubevirtRamp => Ladder::KubevirtRamp(KubevirtRamp::new(RAMP_MAX_MS, timeouts())),
            Habit::Ovirt if then == LastResort::PostCopy => Ladder::Ovirt(Ovirt::post_copy()),
            Habit::Ovirt => Ladder::Ovirt(Ovirt::minimal_downtime()),
            Habit::Proxmox => Ladder::Proxmox(Proxmox::default()),
            Habit::Vsphere => return None,
        })
    }
}
