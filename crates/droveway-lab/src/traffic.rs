//! Placeholder until the traffic engineer's file replaces it: no traffic.

use crate::address::Addresses;
use droveway_fleet::{
    VmId,
    fleet::{Application, OutageProbe},
    scenario::ScenarioSpec,
};
use std::{collections::BTreeMap, path::Path};

#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct TrafficPlan {
    pub vm_iperf_ports: BTreeMap<VmId, Vec<u16>>,
    pub servers: Vec<Server>,
    pub jobs: Vec<Job>,
}

#[derive(Debug)]
#[allow(missing_docs)]
pub struct Server {
    pub machine: String,
    pub argv: Vec<String>,
}

#[derive(Debug)]
#[allow(missing_docs)]
pub enum Machine {
    Switch,
    Named(String),
}

#[derive(Debug)]
#[allow(missing_docs)]
pub struct Job {
    pub name: String,
    pub machine: Machine,
    pub spec: serde_json::Value,
    pub application: Option<Application>,
    pub probe: Option<OutageProbe>,
}

#[allow(missing_docs)]
pub fn plan(_: &ScenarioSpec, _: &Addresses, _: &Path) -> TrafficPlan {
    TrafficPlan::default()
}
