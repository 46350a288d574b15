//! Between two runs of one laboratory: its hosts' wires are opened while VMs move back, which nobody measures, and shaped
//! again as they were.
//!
//! Building a lab anew takes some ten seconds a gang; at the rate of a slow wire moving back takes as long as what is
//! measured. Clients keep their wires: applications never get more than they had.

use crate::{
    LabInfo,
    error::{LabError, file},
    layout::Layout,
    network,
    tool::TC,
    wire,
};
use droveway_fleet::{document, scenario::ScenarioSpec};
use droveway_host::Netns;
use std::fs;

/// Takes rate, queue and discipline off the wires of the lab's hosts.
///
/// # Errors
/// [`LabError`]; then some wires may be open and others not, and the lab is to be removed.
pub fn open_wires(lab: &LabInfo) -> Result<(), LabError> {
    change(lab, |devices, _| {
        devices.map(|device| format!("qdisc del dev {device} root\n")).collect()
    })
}

/// Shapes the wires of the lab's hosts again, as building did.
///
/// # Errors
/// As for [`open_wires`]; also where they are shaped already.
pub fn shape_wires(lab: &LabInfo) -> Result<(), LabError> {
    change(lab, |devices, spec| devices.map(|device| wire::shape(&device, &spec.link)).collect())
}

fn change(
    lab: &LabInfo,
    commands: impl FnOnce(&mut dyn Iterator<Item = String>, &ScenarioSpec) -> String,
) -> Result<(), LabError> {
    let root = lab.dir.parent().unwrap_or(&lab.dir);
    let layout = Layout::new(root, &lab.name);
    let path = layout.scenario();
    let text = fs::read_to_string(&path).map_err(file("read", &path))?;
    let scenario = document::parse::<ScenarioSpec>(&text, &path.display().to_string());
    let scenario = scenario.map_err(|error| LabError::Document {
        action: "read",
        path: path.clone(),
        said: error.to_string(),
    })?;
    let hosts = scenario.spec.hosts.len();
    let mut devices = (0..hosts).flat_map(network::wire_ends);
    let commands = commands(&mut devices, &scenario.spec);
    let switch = Netns::named(&layout.switch_netns())?;
    TC.batch(&layout, &switch, &commands)
}
