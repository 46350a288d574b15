//! What a QEMU is set to for migrations: read before a run changes it, and put back where a VM stays.

use droveway_drive::{Settings, SwitchoverRate};
use droveway_qmp::{Capability, Client, MigrationParameters, QmpError, SwitchoverBandwidth};

/// The capabilities that a run sets; all of them in every run.
pub(super) const CAPABILITIES: [Capability; 6] = [
    Capability::Events,
    Capability::ReturnPath,
    Capability::PostcopyRam,
    Capability::PostcopyPreempt,
    Capability::PostcopyBlocktime,
    Capability::AutoConverge,
];

/// What a QEMU is set to, of all that a run changes.
pub(crate) async fn read(client: &Client) -> Result<Settings, QmpError> {
    let parameters = client.parameters().await?;
    let there = client.capabilities().await?.0;
    let ours = there.into_iter().filter(|(capability, _)| CAPABILITIES.contains(capability));
    Ok(Settings {
        bandwidth: parameters.max_bandwidth,
        postcopy_bandwidth: parameters.max_postcopy_bandwidth,
        switchover_bandwidth: parameters.avail_switchover_bandwidth.map(|rate| match rate {
            SwitchoverBandwidth::Measured => SwitchoverRate::Measured,
            SwitchoverBandwidth::Assumed(rate) => SwitchoverRate::Assumed(rate),
        }),
        downtime: parameters.downtime_limit,
        capabilities: ours.map(|(capability, on)| (capability.to_string(), on)).collect(),
    })
}

/// Sets a QEMU to that.
pub(crate) async fn put_back(client: &Client, before: &Settings) -> Result<(), QmpError> {
    let on = |capability: &Capability| before.capabilities.get(capability.as_str()).copied();
    let wanted: Vec<(Capability, bool)> =
        CAPABILITIES.into_iter().filter_map(|it| Some((it.clone(), on(&it)?))).collect();
    client.set_parameters(&parameters(before)).await?;
    // Last: what is switched off may be what the events of the attempt came by.
    client.set_capabilities(&wanted).await
}

fn parameters(before: &Settings) -> MigrationParameters {
    MigrationParameters {
        max_bandwidth: before.bandwidth,
        max_postcopy_bandwidth: before.postcopy_bandwidth,
        avail_switchover_bandwidth: before.switchover_bandwidth.map(|rate| match rate {
            SwitchoverRate::Measured => SwitchoverBandwidth::Measured,
            SwitchoverRate::Assumed(rate) => SwitchoverBandwidth::Assumed(rate),
        }),
        downtime_limit: before.downtime,
        ..MigrationParameters::default()
    }
}
