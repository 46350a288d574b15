use super::*;
use crate::{
    check::tests::{facts, sound},
    document::read,
    habits::{Ladder, LastResort, Nova, Ovirt},
};
use droveway_fleet::{Bandwidth, Bytes, RateLimit, TimeSpan};
use serde_json::{Value, json};

/// `UPDATE_SCHEMAS=1 cargo test -p droveway-plan` writes it anew.
#[test]
fn the_committed_schema_is_current() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas");
    for (kind, file) in KINDS {
        let current = of(kind).unwrap();
        let path = folder.join(file);
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(&path, &current).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == current, "{file} is stale: run with UPDATE_SCHEMAS=1");
    }
    assert_eq!(of("plan"), of("Plan"));
    assert!(of("Fleet").is_none());
}

/// Whether `value` is as `schema` says: types, fields, what is required, what is left over, choices. Texts' patterns are the
/// units' own matter. A keyword that is not known here is an error, so that nothing is passed over.
fn check(value: &Value, schema: &Value, root: &Value) -> Result<(), String> {
    let rules = match schema {
        Value::Bool(true) => return Ok(()),
        Value::Object(rules) => rules,
        other => return Err(format!("no schema: {other}")),
    };
    let all = |list: &Value| -> Vec<Result<(), String>> {
        list.as_array().into_iter().flatten().map(|of| check(value, of, root)).collect()
    };
    let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    for (rule, argument) in rules {
        match rule.as_str() {
            "$ref" => {
                let path = argument.as_str().and_then(|path| path.strip_prefix('#')).unwrap();
                let target = root.pointer(path).ok_or_else(|| format!("no {path}"))?;
                check(value, target, root)?;
            }
            "type" => {
                let names: Vec<&str> = match argument {
                    Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
                    name => name.as_str().into_iter().collect(),
                };
                let is = |name: &&str| match *name {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "number" => value.is_number(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "null" => value.is_null(),
                    _ => false,
                };
                if !names.iter().any(is) {
                    return Err(format!("{value} is no {names:?}"));
                }
            }
            "const" if value != argument => return Err(format!("{value} is not {argument}")),
            "enum" if !argument.as_array().unwrap().contains(value) => {
                return Err(format!("{value} is none of {argument}"));
            }
            "minimum" if value.as_f64() < argument.as_f64() => {
                return Err(format!("{value} is below {argument}"));
            }
            "maximum" if value.as_f64() > argument.as_f64() => {
                return Err(format!("{value} is above {argument}"));
            }
            "minItems" if value.as_array().map(Vec::len) < argument.as_u64().map(count) => {
                return Err(format!("{value} is shorter than {argument}"));
            }
            "maxItems" if value.as_array().map(Vec::len) > argument.as_u64().map(count) => {
                return Err(format!("{value} is longer than {argument}"));
            }
            "minLength" if value.as_str().map(str::len) < argument.as_u64().map(count) => {
                return Err(format!("{value} is shorter than {argument}"));
            }
            "maxLength" if value.as_str().map(str::len) > argument.as_u64().map(count) => {
                return Err(format!("{value} is longer than {argument}"));
            }
            "prefixItems" => {
                let places = argument.as_array().unwrap();
                for (item, of) in value.as_array().into_iter().flatten().zip(places) {
                    check(item, of, root)?;
                }
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    check(item, argument, root)?;
                }
            }
            "properties" => {
                for (name, of) in argument.as_object().unwrap() {
                    if let Some(field) = value.get(name) {
                        check(field, of, root).map_err(|why| format!("{name}: {why}"))?;
                    }
                }
            }
            "required" => {
                for name in argument.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    if value.is_object() && value.get(name).is_none() {
                        return Err(format!("{name} is missing"));
                    }
                }
            }
            "additionalProperties" if argument == &Value::Bool(false) => {
                let known = rules.get("properties").and_then(Value::as_object);
                let known = |name: &String| known.is_some_and(|known| known.contains_key(name));
                if let Some(name) = value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(name, _)| name)
                    .find(|name| !known(name))
                {
                    return Err(format!("{name} is unknown"));
                }
            }
            "oneOf" => {
                let fit = all(argument).into_iter().filter(Result::is_ok).count();
                if fit != 1 {
                    return Err(format!("{value} fits {fit} of the choices"));
                }
            }
            "anyOf" if !all(argument).iter().any(Result::is_ok) => {
                return Err(format!("{value} fits none of the choices"));
            }
            "allOf" => all(argument).into_iter().collect::<Result<(), _>>()?,
            "const" | "enum" | "minimum" | "maximum" | "anyOf" | "minItems" | "maxItems"
            | "minLength" | "maxLength" | "pattern" | "examples" | "description" | "title"
            | "default" | "format" | "$schema" | "$defs" => {}
            other => return Err(format!("the rule {other} is not known here")),
        }
    }
    Ok(())
}

fn root() -> Value {
    serde_json::from_str(&of("plan").unwrap()).unwrap()
}

fn full() -> Plan {
    let mut plan = sound(&facts(3));
    plan.parent = Some("before".to_owned());
    plan.snapshot_taken_at = Some("2026-01-01T00:00:00Z".to_owned());
    plan.snapshot_max_age = Some(TimeSpan::from_secs(90));
    plan.deadline = Some(TimeSpan::from_secs(60));
    plan.max_downtime = Some(TimeSpan::from_millis(200));
    plan.max_exposed = Some(1);
    plan.start_after = Some(TimeSpan::from_secs(1));
    plan.tuning = true;
    plan.paused = vec![plan.moves[1].vm.clone()];
    let rate = "600Mbit/s".parse::<Bandwidth>().unwrap();
    plan.turns = Some(crate::Turns { fast: rate, slow: rate });
    let direction = crate::Direction::Rx;
    plan.reservations = vec![crate::Reservation { port: plan.source.clone(), direction, rate }];
    plan.moves[0].ladder = Some(Ladder::Nova(Nova::new(Bytes::from_mib(512), LastResort::Abort)));
    plan.moves[1].start = crate::StartRule::AfterEnd(plan.moves[0].vm.clone());
    plan.moves[1].bandwidth = RateLimit::At(rate);
    plan.moves[1].ladder = Some(Ladder::Fixed);
    plan.moves[2].fallback = crate::Fallback::Abort;
    plan.moves[2].ladder = Some(Ladder::Ovirt(Ovirt::minimal_downtime()));
    plan
}

#[test]
fn plans_that_are_written_are_as_the_schema_says() {
    let root = root();
    for plan in [full(), sound(&facts(2))] {
        let value = serde_json::to_value(&plan).unwrap();
        assert_eq!(check(&value, &root, &root), Ok(()));
        // And what the schema lets out may be left out.
        let required = root["required"].as_array().unwrap();
        let mut least = value.clone();
        least.as_object_mut().unwrap().retain(|name, _| required.contains(&json!(name)));
        assert_eq!(check(&least, &root, &root), Ok(()));
        assert!(read(&least.to_string(), "least").is_ok(), "{least}");
    }
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Value), why: &str) {
    let root = root();
    let mut value = serde_json::to_value(full()).unwrap();
    change(&mut value);
    let said = check(&value, &root, &root).expect_err("refused");
    assert!(said.contains(why), "{said}");
    assert!(read(&value.to_string(), "test").is_err(), "the schema refuses what is read: {value}");
}

#[test]
fn what_the_schema_refuses_is_not_read_either() {
    refused(|v| v["maxExpose"] = 1.into(), "maxExpose is unknown");
    refused(|v| v["moves"][0]["maxPass"] = 1.into(), "maxPass is unknown");
    refused(|v| v["moves"][0]["downtimeLimit"] = 300.into(), "downtimeLimit: ");
    refused(|v| v["moves"][0]["technique"] = "fast".into(), "technique: ");
    refused(|v| v["moves"][1]["start"] = json!({ "after": "vm0" }), "start: ");
    refused(|v| v["moves"][0]["ladder"] = json!({ "rule": "none" }), "ladder: ");
    refused(|v| v["concurrency"] = (-1).into(), "concurrency: ");
    refused(|v| v["reservations"][0]["direction"] = "both".into(), "direction: ");
    refused(|v| drop(v.as_object_mut().unwrap().remove("moves")), "moves is missing");
}
