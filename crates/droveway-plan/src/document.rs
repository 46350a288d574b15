//! Plans as documents: read from YAML or JSON, alone or as the `plan` of what `droveway plan -o json` prints.
//!
//! What is refused here is wrong in any world: what a file says of a world that has moved on is the matter of
//! [`check_at`](crate::check::check_at).

use crate::{
    check::contradictions,
    plan::{KIND, Plan},
};
use droveway_fleet::document::{self, DocumentError, Envelope, Problem};
use serde::Deserialize;

/// What is printed around a plan; the rest of it is talk.
#[derive(Debug, Deserialize)]
struct Shown {
    plan: Plan,
}

/// Enough to tell a plan from what is printed around one.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    api_version: Option<String>,
    kind: Option<String>,
    plan: Option<Envelope>,
}

/// Reads a plan. `origin` says where the text is from, usually a file's name.
///
/// # Errors
/// [`DocumentError`], whose text names origin, field and remedy: another kind or version of document, an unknown, missing
/// or malformed field, and fields that contradict each other.
pub fn read(text: &str, origin: &str) -> Result<Plan, DocumentError> {
    let outline = document::value::<Outline>(text, origin).ok();
    let inside = outline.as_ref().is_some_and(|outline| outline.plan.is_some());
    if let Some(Outline { api_version, kind, plan }) = outline {
        plan.unwrap_or(Envelope { api_version, kind }).expect(KIND, origin)?;
    }
    let (plan, prefix) = if inside {
        (document::value::<Shown>(text, origin)?.plan, "plan.")
    } else {
        (document::value::<Plan>(text, origin)?, "")
    };
    let problem = |violation: &crate::Violation| {
        let path = format!("{prefix}{}", violation.field(&plan));
        let remedy = violation.remedy().map_or_else(String::new, |remedy| format!("; {remedy}"));
        Problem::new(path, format!("{violation}{remedy}"))
    };
    let problems: Vec<Problem> = contradictions(&plan).iter().map(problem).collect();
    if problems.is_empty() {
        Ok(plan)
    } else {
        Err(DocumentError::Invalid { origin: origin.to_owned(), problems })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{facts, sound};
    use droveway_fleet::{Bandwidth, TimeSpan, Urgency};
    use serde_json::{Value, json};

    fn full() -> Plan {
        let mut plan = sound(&facts(2));
        plan.parent = Some("before".to_owned());
        plan.generation = 3;
        plan.snapshot_taken_at = Some("2026-01-01T00:00:00Z".to_owned());
        plan.snapshot_max_age = Some(TimeSpan::from_secs(90));
        plan.urgency = Urgency::Low;
        plan.deadline = Some(TimeSpan::from_secs(60));
        plan.max_downtime = Some(TimeSpan::from_millis(200));
        plan.max_exposed = Some(1);
        plan.paused = vec![plan.moves[1].vm.clone()];
        plan.reservations = vec![crate::Reservation {
            port: plan.source.clone(),
            direction: crate::Direction::Tx,
            rate: "600Mbit/s".parse::<Bandwidth>().unwrap(),
        }];
        plan.moves[1].start = crate::StartRule::AfterEnd(plan.moves[0].vm.clone());
        plan
    }

    #[test]
    fn what_is_written_reads_back() {
        for plan in [full(), sound(&facts(3))] {
            let json = serde_json::to_string(&plan).unwrap();
            assert_eq!(read(&json, "test"), Ok(plan.clone()), "{json}");
            let yaml = serde_saphyr::to_string(&plan).unwrap();
            assert_eq!(read(&yaml, "test"), Ok(plan.clone()), "{yaml}");
            let shown = json!({ "forecast": { "any": [1] }, "plan": &plan, "reasoning": null });
            assert_eq!(read(&shown.to_string(), "test"), Ok(plan.clone()));
            let yaml = serde_saphyr::to_string(&shown).unwrap();
            assert_eq!(read(&yaml, "test"), Ok(plan), "{yaml}");
        }
    }

    #[test]
    fn times_and_rates_are_readable() {
        let yaml = serde_saphyr::to_string(&full()).unwrap();
        for line in
            ["kind: Plan", "urgency: low", "downtimeLimit: 300ms", "rate: 75MB/s", "deadline: 1m"]
        {
            assert!(yaml.contains(line), "no '{line}' in:\n{yaml}");
        }
        // What has a default may be left out.
        let mut value = serde_json::to_value(sound(&facts(1))).unwrap();
        value.as_object_mut().unwrap().remove("generation");
        value.as_object_mut().unwrap().remove("urgency");
        value["moves"][0].as_object_mut().unwrap().remove("start");
        assert_eq!(read(&value.to_string(), "test"), Ok(sound(&facts(1))));
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Value), expected: &[&str]) {
        let mut value = serde_json::to_value(full()).unwrap();
        change(&mut value);
        let inside = json!({ "plan": &value });
        for (text, prefix) in [(value.to_string(), ""), (inside.to_string(), "plan.")] {
            let error = read(&text, "plan.json").expect_err("refused").to_string();
            assert!(error.starts_with("plan.json: "), "{error}");
            for part in expected {
                let part = part.replace("<>", prefix);
                assert!(error.contains(&part), "'{error}' lacks '{part}'");
            }
        }
    }

    #[test]
    fn anything_else_is_refused_with_its_place() {
        refused(|v| v["kind"] = "Fleet".into(), &["expected a Plan"]);
        refused(|v| v["apiVersion"] = "droveway/v2".into(), &["'droveway/v2' is not supported"]);
        refused(|v| v["maxExpose"] = 1.into(), &["did you mean 'maxExposed'?"]);
        refused(|v| v["moves"][0]["maxPass"] = 1.into(), &["did you mean 'maxPasses'?"]);
        let bare = |v: &mut Value| v["moves"][0]["downtimeLimit"] = 300.into();
        refused(bare, &["moves[0].downtimeLimit", "write it like 300ms"]);
        refused(|v| v["concurrency"] = 0.into(), &["<>concurrency: ", "at least 1"]);
        refused(|v| v["target"] = "alpha".into(), &["<>target: source and target are the same"]);
        let twice = |v: &mut Value| v["moves"][1]["vm"] = "vm0".into();
        refused(twice, &["<>moves[1].vm: ", "twice"]);
        refused(|v| v["moves"][1]["maxPasses"] = 0.into(), &["<>moves[1].maxPasses: "]);
        let error = read("moves: [", "x.yaml").expect_err("refused").to_string();
        assert!(error.starts_with("x.yaml: "), "{error}");
        let fleet = "apiVersion: droveway/v1\nkind: Fleet\nmetadata: { name: x }\nspec: {}\n";
        assert!(read(fleet, "x").unwrap_err().to_string().contains("this is a Fleet"));
    }
}
