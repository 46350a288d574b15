//! JSON Schema of the documents that people write, and of those that programs read.

use crate::{
    document::Document,
    fleet::FleetSpec,
    runs::{ListedRun, ReportDocument},
    scenario::ScenarioSpec,
    status::Status,
};

/// The kinds that have a schema, with its file name in `schemas/`.
pub const KINDS: [(&str, &str); 5] = [
    ("Scenario", "scenario.schema.json"),
    ("Fleet", "fleet.schema.json"),
    ("Status", "status.schema.json"),
    ("Runs", "runs.schema.json"),
    ("Report", "report.schema.json"),
];

/// The schema of a kind (in any case), or `None` if there is no such kind.
#[must_use]
pub fn of(kind: &str) -> Option<String> {
    let schema = match kind.to_ascii_lowercase().as_str() {
        "scenario" => schemars::schema_for!(Document<ScenarioSpec>),
        "fleet" => schemars::schema_for!(Document<FleetSpec>),
        "status" => schemars::schema_for!(Status),
        "runs" => schemars::schema_for!(Vec<ListedRun>),
        "report" => schemars::schema_for!(ReportDocument),
        _ => return None,
    };
    serde_json::to_string_pretty(&schema).ok().map(|text| text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE_SCHEMAS=1 cargo test -p droveway-fleet` writes them anew.
    #[test]
    fn committed_schemas_are_current() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas");
        for (kind, file) in KINDS {
            let current = of(kind).unwrap();
            let path = folder.join(file);
            if std::env::var_os("UPDATE_SCHEMAS").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &current).unwrap();
            }
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(committed == current, "{file} is stale: run with UPDATE_SCHEMAS=1");
        }
        assert!(of("Nonsense").is_none());
    }
}
