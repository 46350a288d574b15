//! Results as tidy tables: one row a run, a VM, an application, in CSV (RFC 4180); columns are the fields of the rows, so
//! that a reader of the code finds what a column means. Runs that do not count are rows too, with the reason.

use crate::{
    compare::Bench,
    result::{Attempt, CellResult},
};
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeSet, fmt::Write as _};

/// `runs.csv`.
#[must_use]
pub fn runs(bench: &Bench) -> String {
    table(bench, |attempt| attempt.run.iter().map(fields).collect())
}

/// `vms.csv`.
#[must_use]
pub fn vms(bench: &Bench) -> String {
    table(bench, |attempt| attempt.vms.iter().map(fields).collect())
}

/// `applications.csv`.
#[must_use]
pub fn applications(bench: &Bench) -> String {
    table(bench, |attempt| attempt.applications.iter().map(fields).collect())
}

type Fields = Vec<(String, Value)>;

fn fields(row: &impl Serialize) -> Fields {
    // A row is a struct of plain fields.
    match serde_json::to_value(row) {
        Ok(Value::Object(fields)) => fields.into_iter().collect(),
        _ => Vec::new(),
    }
}

/// Every attempt's rows, behind what tells them apart.
fn table(bench: &Bench, rows: impl Fn(&Attempt) -> Vec<Fields>) -> String {
    let labels: BTreeSet<&String> = bench
        .resolved
        .suite
        .spec
        .scenarios
        .iter()
        .flat_map(|scenario| scenario.labels.keys())
        .collect();
    let mut text = String::new();
    for result in &bench.results {
        for (index, attempt) in result.attempts.iter().enumerate() {
            let key = key(bench, result, index, attempt, &labels);
            for row in rows(attempt) {
                let all = || key.iter().chain(&row);
                if text.is_empty() {
                    line(&mut text, all().map(|(name, _)| name.clone()));
                }
                line(&mut text, all().map(|(_, value)| plain(value)));
            }
        }
    }
    text
}

fn key(
    bench: &Bench,
    result: &CellResult,
    index: usize,
    attempt: &Attempt,
    labels: &BTreeSet<&String>,
) -> Fields {
    let cell = &result.cell;
    let policy = bench.resolved.policy(cell);
    let text = |text: &str| Value::String(text.to_owned());
    let mut key = vec![
        ("suite".to_owned(), text(bench.resolved.suite.metadata.name.as_str())),
        ("scenario".to_owned(), text(&cell.scenario)),
    ];
    for label in labels {
        let value = bench.resolved.label(&cell.scenario, label).unwrap_or_default();
        key.push((format!("label.{label}"), text(value)));
    }
    let urgency = bench.resolved.intent(cell).map(|intent| intent.urgency.name());
    key.extend([
        ("policy".to_owned(), text(&cell.policy)),
        ("policyText".to_owned(), text(policy.map_or("", |policy| &policy.policy))),
        ("intent".to_owned(), text(&cell.intent)),
        ("urgency".to_owned(), text(urgency.unwrap_or_default())),
        ("repeat".to_owned(), Value::from(cell.repeat)),
        ("place".to_owned(), Value::from(result.place)),
        ("attempt".to_owned(), Value::from(index + 1)),
        ("valid".to_owned(), Value::from(attempt.invalid.is_empty())),
        ("invalid".to_owned(), text(&attempt.invalid.join("; "))),
        ("exitCode".to_owned(), Value::from(attempt.exit_code)),
    ]);
    key
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn line(text: &mut String, fields: impl Iterator<Item = String>) {
    let mut first = true;
    for field in fields {
        let comma = if first { "" } else { "," };
        first = false;
        // Writing to a string cannot fail.
        let _ = if field.contains([',', '"', '\n', '\r']) {
            write!(text, "{comma}\"{}\"", field.replace('"', "\"\""))
        } else {
            write!(text, "{comma}{field}")
        };
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::bench;

    #[test]
    fn every_attempt_is_a_row_and_every_row_has_all_columns() {
        let mut bench = bench(|_, _| (5.0, 0));
        bench.results[0].attempts[0]
            .invalid
            .push("the CPUs were 99 % busy, \"they say\"".to_owned());
        let again = bench.results[1].attempts[0].clone();
        bench.results[0].attempts.push(again);
        for table in [runs(&bench), vms(&bench), applications(&bench)] {
            let mut lines = table.lines();
            let header = lines.next().unwrap();
            let columns = header.split(',').count();
            assert!(
                header.starts_with("suite,scenario,label.end,label.traffic,policy,"),
                "{header}"
            );
            let rows: Vec<&str> = lines.collect();
            assert_eq!(rows.len(), bench.results.len() + 1);
            // The row with a comma in quotes aside.
            let plain = rows.iter().filter(|row| !row.contains('"'));
            assert!(plain.clone().all(|row| row.split(',').count() == columns), "{table}");
            assert_eq!(plain.count(), rows.len() - 1);
            assert!(table.contains("\"the CPUs were 99 % busy, \"\"they say\"\"\""), "{table}");
        }
    }
}
