//! The machine: run state, accelerator, size, disks, and what can be yanked.

use crate::open_enum::open_enum;
use droveway_fleet::Bytes;
use serde::{Deserialize, Serialize};

open_enum! {
    /// What the vCPUs do.
    RunState {
        Debug = "debug",
        InMigrate = "inmigrate",
        InternalError = "internal-error",
        IoError = "io-error",
        Paused = "paused",
        PostMigrate = "postmigrate",
        Prelaunch = "prelaunch",
        FinishMigrate = "finish-migrate",
        RestoreVm = "restore-vm",
        Running = "running",
        SaveVm = "save-vm",
        Shutdown = "shutdown",
        Suspended = "suspended",
        Watchdog = "watchdog",
        GuestPanicked = "guest-panicked",
        Colo = "colo",
    }
}

/// The reply to `query-status`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// The state.
    #[serde(rename = "status")]
    pub state: RunState,
    /// True if vCPUs run.
    pub running: bool,
}

/// The reply to `query-kvm`. That it is enabled doesn't prove that an ordinary guest runs well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Accelerator {
    /// This guest runs on KVM.
    #[serde(rename = "enabled")]
    pub kvm_enabled: bool,
    /// This QEMU was built with KVM.
    #[serde(rename = "present")]
    pub kvm_present: bool,
}

/// The shape of a machine, from four queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineFacts {
    /// Versioned machine type, such as `pc-q35-10.0`.
    pub machine_type: String,
    /// The guest's name, if it was given one.
    pub name: Option<String>,
    /// Memory at start plus what was plugged in since.
    pub memory: Bytes,
    /// Number of vCPUs.
    pub vcpus: usize,
    /// KVM or not.
    pub accelerator: Accelerator,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct WireMemory {
    base_memory: u64,
    #[serde(default)]
    plugged_memory: u64,
}

impl WireMemory {
    pub(crate) fn total(&self) -> Bytes {
        Bytes::new(self.base_memory) + Bytes::new(self.plugged_memory)
    }
}

/// A disk as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// Back-end name, often empty for `-blockdev`.
    pub device: String,
    /// Path of the device that uses it.
    pub qdev: Option<String>,
    /// What is in it.
    pub inserted: Option<BlockMedium>,
}

/// What is in a drive.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockMedium {
    /// File name, or a JSON description of the chain.
    pub file: String,
    /// Node name.
    pub node_name: Option<String>,
    /// Format driver.
    pub drv: String,
    /// True if it can't be written.
    #[serde(rename = "ro")]
    pub read_only: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct WireBlockDevice {
    device: String,
    qdev: Option<String>,
    inserted: Option<BlockMedium>,
}

impl From<WireBlockDevice> for BlockDevice {
    fn from(wire: WireBlockDevice) -> Self {
        let WireBlockDevice { device, qdev, inserted } = wire;
        BlockDevice { device, qdev, inserted }
    }
}

/// A connection of QEMU's that can be cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum YankInstance {
    /// The migration stream.
    Migration,
    /// A network block node.
    BlockNode(String),
    /// A character device.
    Chardev(String),
    /// Another kind.
    Unknown(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct WireYank {
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

impl From<WireYank> for YankInstance {
    fn from(wire: WireYank) -> Self {
        match (wire.kind.as_str(), wire.node_name, wire.id) {
            ("migration", _, _) => YankInstance::Migration,
            ("block-node", Some(node), _) => YankInstance::BlockNode(node),
            ("chardev", _, Some(id)) => YankInstance::Chardev(id),
            _ => YankInstance::Unknown(wire.kind),
        }
    }
}

impl From<&YankInstance> for WireYank {
    fn from(instance: &YankInstance) -> Self {
        let wire = |kind: &str, node_name, id| WireYank { kind: kind.to_owned(), node_name, id };
        match instance {
            YankInstance::Migration => wire("migration", None, None),
            YankInstance::BlockNode(node) => wire("block-node", Some(node.clone()), None),
            YankInstance::Chardev(id) => wire("chardev", None, Some(id.clone())),
            YankInstance::Unknown(kind) => wire(kind, None, None),
        }
    }
}
