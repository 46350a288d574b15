//! The products' habits as policies: which rule, which concurrency, which ceilings.

use super::{
    KUBEVIRT_PER_SOURCE, KUBEVIRT_PER_SOURCE_OPERATOR, KubevirtRamp, KubevirtStall,
    KubevirtTimeouts, Ladder, LastResort, Nova, Ovirt, PROXMOX_WORKERS, Product, Proxmox,
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

/// What an operator can set of products. The default is theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProductSettings {
    /// What happens when the product's patience ends.
    pub then: LastResort,
    /// Newer releases' defaults.
    pub newer: bool,
    /// oVirt's own migration policy.
    pub ovirt: OvirtPolicy,
    /// Proxmox VE: so many at once.
    pub workers: u32,
}

impl Default for ProductSettings {
    fn default() -> Self {
        ProductSettings {
            then: LastResort::Abort,
            newer: false,
            ovirt: OvirtPolicy::MinimalDowntime,
            workers: PROXMOX_WORKERS,
        }
    }
}

/// oVirt's migration policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OvirtPolicy {
    /// Minimal downtime.
    MinimalDowntime,
    /// Post-copy migration.
    PostCopy,
    /// Suspend workload if needed.
    Suspend,
    /// Very large VMs.
    VeryLarge,
}

impl OvirtPolicy {
    const ALL: [OvirtPolicy; 4] = [
        OvirtPolicy::MinimalDowntime,
        OvirtPolicy::PostCopy,
        OvirtPolicy::Suspend,
        OvirtPolicy::VeryLarge,
    ];
    /// As they are written, in their order.
    pub(crate) const NAMES: &'static [&'static str] =
        &["minimal-downtime", "post-copy", "suspend", "very-large"];

    /// The one of that place among the names.
    pub(crate) fn nth(place: u32) -> Self {
        let of = usize::try_from(place).ok().and_then(|place| Self::ALL.get(place));
        of.copied().unwrap_or(OvirtPolicy::MinimalDowntime)
    }

    fn rule(self, may_split: bool) -> Ovirt {
        match self {
            OvirtPolicy::PostCopy if may_split => Ovirt::post_copy(),
            OvirtPolicy::MinimalDowntime | OvirtPolicy::PostCopy => Ovirt::minimal_downtime(),
            OvirtPolicy::Suspend => Ovirt::suspend(),
            OvirtPolicy::VeryLarge => Ovirt::very_large(),
        }
    }
}

impl Habit {
    /// Its concurrency and ceilings.
    #[must_use]
    pub fn product(self, settings: &ProductSettings) -> Product {
        match self {
            Habit::Nova => Product::Nova,
            Habit::Kubevirt | Habit::KubevirtStall | Habit::KubevirtRamp => {
                let per_source =
                    if settings.newer { KUBEVIRT_PER_SOURCE_OPERATOR } else { KUBEVIRT_PER_SOURCE };
                Product::Kubevirt { per_source }
            }
            Habit::Ovirt => {
                let max_migrations = settings.ovirt.rule(true).max_migrations;
                Product::Ovirt { max_migrations, qos: None }
            }
            Habit::Proxmox => Product::Proxmox { workers: settings.workers },
            Habit::Vsphere => Product::Vsphere,
        }
    }

    /// Whether it lets QEMU hold the vCPUs back (auto-converge).
    #[must_use]
    pub const fn throttles(self) -> bool {
        matches!(self, Habit::Ovirt | Habit::Proxmox | Habit::Vsphere)
    }

    /// What it does while a VM of that memory moves, whose memory `may_split`. `None`: nothing.
    #[must_use]
    pub fn ladder(
        self,
        memory: Bytes,
        settings: &ProductSettings,
        may_split: bool,
    ) -> Option<Ladder> {
        // Products that are told to finish pause a VM that forbids post-copy.
        let then = match settings.then {
            LastResort::PostCopy if !may_split => LastResort::ForceStop,
            then => then,
        };
        let timeouts = || {
            let timeouts = KubevirtTimeouts::new(memory, then);
            if settings.newer { timeouts.newer() } else { timeouts }
        };
        Some(match self {
            Habit::Nova => Ladder::Nova(Nova::new(memory, then)),
            Habit::Kubevirt => Ladder::KubevirtLike(timeouts()),
            Habit::KubevirtStall => {
                let completion_per_gib_s = timeouts().completion_per_gib_s;
                let rule = KubevirtStall::new(memory, then);
                Ladder::KubevirtStall(KubevirtStall { completion_per_gib_s, ..rule })
            }
            Habit::KubevirtRamp => Ladder::KubevirtRamp(KubevirtRamp::new(RAMP_MAX_MS, timeouts())),
            Habit::Ovirt => Ladder::Ovirt(settings.ovirt.rule(may_split)),
            Habit::Proxmox => Ladder::Proxmox(Proxmox::default()),
            Habit::Vsphere => return None,
        })
    }
}
