//! JSON Schema of plans: what `droveway plan -o json` prints as `plan`, and what `--plan` takes.

use crate::plan::{KIND, Plan};

/// The kind, with its file name in `schemas/`.
pub const KINDS: [(&str, &str); 1] = [(KIND, "plan.schema.json")];

/// The schema of a kind (in any case), or `None` if it is none of [`KINDS`].
#[must_use]
pub fn of(kind: &str) -> Option<String> {
    if !kind.eq_ignore_ascii_case(KIND) {
        return None;
    }
    let schema = schemars::schema_for!(Plan);
    serde_json::to_string_pretty(&schema).ok().map(|text| text + "\n")
}

#[cfg(test)]
mod tests;
