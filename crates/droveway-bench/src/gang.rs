//! Gangs of many VMs alike, made up from a few numbers: for questions of scale, where nobody writes a thousand VMs.

use droveway_fleet::{
    Bandwidth, Bytes, RateLimit, Ratio,
    document::Problem,
    scenario::{
        Link, MemoryLoad, Probe, ScenarioClient, ScenarioHost, ScenarioSpec, ScenarioVm, Traffic,
        TrafficKind,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// VMs alike, of which some send, some receive and some write memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GangOfMany {
    /// Every machine's port.
    pub link: Link,
    /// How many VMs.
    pub vms: u32,
    /// The memory of each.
    pub memory: Bytes,
    /// Those that send to the client; spread evenly among all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sending: Option<Talking>,
    /// Those that receive from the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiving: Option<Talking>,
    /// Those that write memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writing: Option<Writing>,
}

/// A share of the VMs with a rate of traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Talking {
    /// The share of the VMs.
    pub share: Ratio,
    /// The rate of each.
    pub rate: RateLimit,
}

/// A share of the VMs that write memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Writing {
    /// The share of the VMs.
    pub share: Ratio,
    /// The memory that each writes to.
    pub working_set: Bytes,
    /// Pages dirtied per second, as bytes.
    pub write_rate: Bandwidth,
}

/// The most VMs that are planned in reasonable time.
pub const VMS_MAX: u32 = 1_000;

impl GangOfMany {
    pub(crate) fn check(&self, path: &str, problems: &mut Vec<Problem>) {
        if self.vms == 0 || self.vms > VMS_MAX {
            let text = format!("write a number from 1 to {VMS_MAX}");
            problems.push(Problem::new(format!("{path}.vms"), text));
        }
    }

    /// The scenario. Those that do something are spread: senders from the first VM on, receivers from the second, writers from
    /// the third, and round again.
    pub(crate) fn scenario(&self) -> Result<ScenarioSpec, String> {
        let said = |error: droveway_fleet::ids::NameError| error.to_string();
        let mut spec = ScenarioSpec {
            changes: Vec::new(),
            link: self.link.clone(),
            hosts: vec![
                ScenarioHost { name: "alpha".parse().map_err(said)? },
                ScenarioHost { name: "beta".parse().map_err(said)? },
            ],
            clients: vec![ScenarioClient { name: "client".parse().map_err(said)? }],
            vms: Vec::new(),
            traffic: Vec::new(),
            probe: Probe::default(),
        };
        for index in 0..self.vms {
            let name = format!("vm-{:04}", index + 1);
            let from = |first: u32| (index + self.vms - first % self.vms) % self.vms;
            let writes = self.writing.as_ref().filter(|it| is_one(it.share, from(2)));
            spec.vms.push(ScenarioVm {
                name: name.parse().map_err(said)?,
                host: "alpha".parse().map_err(said)?,
                memory: self.memory,
                vcpus: 1,
                group: None,
                allow_postcopy: true,
                deadline: None,
                max_downtime: None,
                memory_load: writes.map(|it| MemoryLoad {
                    working_set: it.working_set,
                    write_rate: it.write_rate,
                    hot_share: None,
                    hot_weight: None,
                }),
                services: Vec::new(),
                compute_share: None,
            });
            let ends = [("client", name.as_str()), (name.as_str(), "client")];
            let kinds = [
                (self.sending.as_ref().filter(|it| is_one(it.share, index)), ends[1], "out"),
                (self.receiving.as_ref().filter(|it| is_one(it.share, from(1))), ends[0], "in"),
            ];
            for (talks, (from, to), direction) in kinds {
                let Some(talks) = talks else { continue };
                spec.traffic.push(Traffic {
                    name: format!("{direction}-{:04}", index + 1).parse().map_err(said)?,
                    from: from.parse().map_err(said)?,
                    to: to.parse().map_err(said)?,
                    kind: TrafficKind::Tcp,
                    rate: Some(talks.rate),
                    flows: 1,
                    requests: None,
                });
            }
        }
        Ok(spec)
    }
}

/// Whether the VM at this place is one of the share, if they are spread evenly and the first is one.
fn is_one(share: Ratio, index: u32) -> bool {
    let upto = |count: u32| (f64::from(count) * share.get()).ceil();
    upto(index + 1) > upto(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_spread_and_met() {
        for (share, count) in [(0.0, 0), (0.25, 25), (0.5, 50), (0.3, 30), (1.0, 100)] {
            let share = Ratio::new(share).unwrap();
            let ones: Vec<u32> = (0..100).filter(|index| is_one(share, *index)).collect();
            assert_eq!(ones.len(), count, "{share:?}");
            assert!(count == 0 || ones[0] == 0);
            let widest = ones.windows(2).map(|two| two[1] - two[0]).max().unwrap_or(0);
            assert!(count == 0 || f64::from(widest) <= (1.0 / share.get()).ceil(), "{ones:?}");
        }
    }
}
