//! The schema probe, against a part of what QEMU 10.0.2 (Debian) replied to `query-qmp-schema`.

use droveway_qmp::{Capability, MigrationStatus, Schema};

fn schema() -> Schema {
    Schema::from_json(include_str!("fixtures/schema-10.0.2.json")).expect("the fixture is a schema")
}

#[test]
fn commands_arguments_and_events_are_found() {
    let schema = schema();
    for (found, expected) in [
        (schema.has_command("migrate-recover"), true),
        (schema.has_command("migrate-teleport"), false),
        // A type or an event of that name is not a command.
        (schema.has_command("MIGRATION"), false),
        (schema.has_event("MIGRATION_PASS"), true),
        (schema.has_event("migrate"), false),
        (schema.allows_oob("yank"), true),
        (schema.allows_oob("query-status"), false),
        (schema.has_argument("migrate", "resume"), true),
        (schema.has_argument("migrate", "blk"), false),
        (schema.has_argument("calc-dirty-rate", "calc-time-unit"), true),
        (schema.has_argument("migrate-set-parameters", "avail-switchover-bandwidth"), true),
        (schema.has_reply_member("query-migrate", &["ram", "precopy-bytes"]), true),
        (schema.has_reply_member("query-migrate", &["ram", "nothing"]), false),
    ] {
        assert_eq!(found, expected);
    }
    assert_eq!(
        schema.argument_values("calc-dirty-rate", &["calc-time-unit"]),
        ["second", "millisecond"]
    );
    assert!(schema.argument_values("migrate", &["uri"]).is_empty());
}

#[test]
fn every_capability_and_status_of_10_0_has_a_name_here() {
    let schema = schema();
    let unknown = |c: &Capability| matches!(c, Capability::Unknown(_));
    assert!(!schema.capabilities().iter().any(unknown), "{:?}", schema.capabilities());
    assert_eq!(schema.capabilities().len(), 22);
    let statuses = schema.migration_statuses();
    assert!(!statuses.iter().any(|status| matches!(status, MigrationStatus::Unknown(_))));
    assert!(statuses.contains(&MigrationStatus::PostcopyRecoverSetup));
    assert!(!statuses.contains(&MigrationStatus::PostcopyDevice), "newer than 10.0");
}

#[test]
fn broken_schemas_are_errors_or_empty_never_endless() {
    assert!(Schema::from_json("{").is_err());
    assert!(Schema::from_json(r#"[{"name": 1}]"#).is_err());
    let circular = r#"[{"name": "[a]", "meta-type": "array", "element-type": "[a]"},
        {"name": "x", "meta-type": "command", "arg-type": "[a]", "ret-type": "missing"}]"#;
    let schema = Schema::from_json(circular).unwrap();
    assert!(!schema.has_argument("x", "y"));
    assert!(!schema.has_reply_member("x", &["y"]));
}
