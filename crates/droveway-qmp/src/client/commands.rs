//! Typed commands: the machine as a whole, and cutting its connections.

use super::{Client, Lane};
use crate::{
    Accelerator, BlockDevice, MachineFacts, QemuVersion, QmpError, Status, YankInstance,
    types::{WireBlockDevice, WireMemory, WireYank},
    wire,
};
use droveway_fleet::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

impl Client {
    /// `query-status`.
    pub async fn status(&self) -> Result<Status, QmpError> {
        self.execute("query-status", ()).await
    }

    /// `stop`: vCPUs stand still.
    pub async fn stop(&self) -> Result<(), QmpError> {
        self.execute("stop", ()).await
    }

    /// `cont`: vCPUs run. Never call it on a source whose target may run: that is the driver's decision.
    pub async fn cont(&self) -> Result<(), QmpError> {
        self.execute("cont", ()).await
    }

    /// `quit`: QEMU ends. A connection that ends before the reply counts as success.
    pub async fn quit(&self) -> Result<(), QmpError> {
        match self.execute("quit", ()).await {
            Err(QmpError::Disconnected { .. }) => Ok(()),
            reply => reply,
        }
    }

    /// `query-name`: the guest's name, if it was given one.
    pub async fn name(&self) -> Result<Option<String>, QmpError> {
        #[derive(Deserialize)]
        struct Reply {
            name: Option<String>,
        }
        Ok(self.execute::<Reply>("query-name", ()).await?.name)
    }

    /// `query-version`: the same as in the greeting.
    pub async fn query_version(&self) -> Result<QemuVersion, QmpError> {
        const COMMAND: &str = "query-version";
        let reply: Value = self.execute(COMMAND, ()).await?;
        wire::version(&reply).map_err(|error| self.malformed(COMMAND, error))
    }

    /// `query-kvm`.
    pub async fn accelerator(&self) -> Result<Accelerator, QmpError> {
        self.execute("query-kvm", ()).await
    }

    /// `query-memory-size-summary`: the guest's memory.
    pub async fn memory_size(&self) -> Result<Bytes, QmpError> {
        let memory: WireMemory = self.execute("query-memory-size-summary", ()).await?;
        Ok(memory.total())
    }

    /// `query-cpus-fast`: the number of vCPUs.
    pub async fn vcpu_count(&self) -> Result<usize, QmpError> {
        let vcpus: Vec<Value> = self.execute("query-cpus-fast", ()).await?;
        Ok(vcpus.len())
    }

    /// The versioned machine type, such as `pc-q35-10.0`, from the object tree.
    pub async fn machine_type(&self) -> Result<String, QmpError> {
        let arguments = json!({"path": "/machine", "property": "type"});
        let mut class: String = self.execute("qom-get", arguments).await?;
        if let Some(name) = class.strip_suffix("-machine") {
            class.truncate(name.len());
        }
        Ok(class)
    }

    /// The shape of the machine, from five queries in flight together.
    pub async fn machine_facts(&self) -> Result<MachineFacts, QmpError> {
        let (machine_type, name, memory, vcpus, accelerator) = tokio::try_join!(
            self.machine_type(),
            self.name(),
            self.memory_size(),
            self.vcpu_count(),
            self.accelerator()
        )?;
        Ok(MachineFacts { machine_type, name, memory, vcpus, accelerator })
    }

    /// `query-block`.
    pub async fn block_devices(&self) -> Result<Vec<BlockDevice>, QmpError> {
        let devices: Vec<WireBlockDevice> = self.execute("query-block", ()).await?;
        Ok(devices.into_iter().map(BlockDevice::from).collect())
    }

    /// `balloon`: asks the guest to shrink or grow to that size.
    pub async fn balloon(&self, size: Bytes) -> Result<(), QmpError> {
        self.execute("balloon", json!({"value": size.get()})).await
    }

    /// `query-balloon`: the guest's size now; class `DeviceNotActive` if it has no balloon.
    pub async fn balloon_size(&self) -> Result<Bytes, QmpError> {
        #[derive(Deserialize)]
        struct Reply {
            actual: u64,
        }
        Ok(Bytes::new(self.execute::<Reply>("query-balloon", ()).await?.actual))
    }

    /// `query-yank`: which connections can be cut; out of band where there is such a lane, because that is when it counts.
    pub async fn yank_instances(&self) -> Result<Vec<YankInstance>, QmpError> {
        let lane = if self.has_out_of_band() { Lane::OutOfBand } else { Lane::InBand };
        let instances: Vec<WireYank> = self.typed(lane, "query-yank", Ok(Value::Null)).await?;
        Ok(instances.into_iter().map(YankInstance::from).collect())
    }

    /// `yank`, out of band: cuts connections that hang. Class `DeviceNotFound` if one is not there.
    pub async fn yank(&self, instances: &[YankInstance]) -> Result<(), QmpError> {
        let instances: Vec<WireYank> = instances.iter().map(WireYank::from).collect();
        self.execute_oob("yank", json!({"instances": instances})).await
    }
}
