//! Migration capabilities: what both sides agree to before a migration.

use crate::open_enum::open_enum;
use std::collections::BTreeMap;

open_enum! {
    /// A capability. All are off at QEMU's start, `events` included; which exist says [`Schema`](crate::Schema).
    Capability {
        Xbzrle = "xbzrle",
        RdmaPinAll = "rdma-pin-all",
        AutoConverge = "auto-converge",
        ZeroBlocks = "zero-blocks",
        Events = "events",
        PostcopyRam = "postcopy-ram",
        Colo = "x-colo",
        ReleaseRam = "release-ram",
        ReturnPath = "return-path",
        PauseBeforeSwitchover = "pause-before-switchover",
        Multifd = "multifd",
        DirtyBitmaps = "dirty-bitmaps",
        PostcopyBlocktime = "postcopy-blocktime",
        LateBlockActivate = "late-block-activate",
        IgnoreShared = "x-ignore-shared",
        ValidateUuid = "validate-uuid",
        BackgroundSnapshot = "background-snapshot",
        ZeroCopySend = "zero-copy-send",
        PostcopyPreempt = "postcopy-preempt",
        SwitchoverAck = "switchover-ack",
        DirtyLimit = "dirty-limit",
        MappedRam = "mapped-ram",
    }
}

/// Which capabilities are on, as far as this QEMU knows them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities(pub BTreeMap<Capability, bool>);

impl Capabilities {
    /// True if it exists and is on.
    #[must_use]
    pub fn is_on(&self, capability: &Capability) -> bool {
        self.0.get(capability).copied().unwrap_or(false)
    }

    /// True if this QEMU knows it.
    #[must_use]
    pub fn exists(&self, capability: &Capability) -> bool {
        self.0.contains_key(capability)
    }

    /// Those that are on, in order.
    pub fn on(&self) -> impl Iterator<Item = &Capability> {
        self.0.iter().filter(|(_, on)| **on).map(|(capability, _)| capability)
    }
}
