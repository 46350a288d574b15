//! The scenario of unit tests: two hosts, a client and some VMs.

use droveway_fleet::{Scenario, document};

/// A scenario with these VMs, each a YAML mapping.
pub(crate) fn scenario(vms: &str) -> Scenario {
    let text = format!(
        "apiVersion: droveway/v1\nkind: Scenario\nmetadata: {{ name: demo }}\nspec:\n  \
         link: {{ rate: 1Gbit/s }}\n  hosts: [ {{ name: alpha }}, {{ name: beta }} ]\n  \
         clients: [ {{ name: client }} ]\n  vms: [ {vms} ]\n"
    );
    document::parse(&text, "test").expect("a good scenario")
}
