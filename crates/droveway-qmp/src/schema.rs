//! What this QEMU can do, read from `query-qmp-schema` instead of guessed from a version.
//!
//! QEMU masks the names of types in its schema, so types are reached by the way to them: "the values of `status` in
//! the event `MIGRATION`", not "the values of `MigrationStatus`".

use crate::{Capability, MigrationStatus};
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;

/// A reply to `query-qmp-schema` that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the schema")]
pub struct SchemaError(#[from] serde_json::Error);

/// The schema of one QEMU.
#[derive(Debug, Clone)]
pub struct Schema {
    entities: HashMap<String, Entity>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entity {
    name: String,
    meta_type: String,
    #[serde(default)]
    arg_type: String,
    #[serde(default)]
    ret_type: String,
    #[serde(default)]
    element_type: String,
    #[serde(default)]
    allow_oob: bool,
    #[serde(default)]
    members: Vec<Member>,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Member {
    /// Enum members and object members have a name; alternates' don't.
    #[serde(default)]
    name: String,
    #[serde(default, rename = "type")]
    kind: String,
}

impl Schema {
    pub(crate) fn read(value: &Value) -> Result<Schema, SchemaError> {
        let entities = Vec::<Entity>::deserialize(value)?;
        Ok(Schema { entities: entities.into_iter().map(|e| (e.name.clone(), e)).collect() })
    }

    /// Reads the `return` of `query-qmp-schema` from JSON text, as recorded in a fixture.
    pub fn from_json(text: &str) -> Result<Schema, SchemaError> {
        Schema::read(&serde_json::from_str(text)?)
    }

    fn named(&self, name: &str, meta_type: &str) -> Option<&Entity> {
        self.entities.get(name).filter(|entity| entity.meta_type == meta_type)
    }

    /// Follows member names from a type, through arrays.
    fn reach(&self, from: &str, path: &[&str]) -> Option<&Entity> {
        let mut entity = self.through_arrays(from)?;
        for name in path {
            let member = entity.members.iter().find(|member| member.name == *name)?;
            entity = self.through_arrays(&member.kind)?;
        }
        Some(entity)
    }

    fn through_arrays(&self, name: &str) -> Option<&Entity> {
        let mut entity = self.entities.get(name)?;
        // Two levels are one more than QEMU has; a bound, because a broken schema could be circular.
        for _ in 0..2 {
            if entity.meta_type != "array" {
                break;
            }
            entity = self.entities.get(&entity.element_type)?;
        }
        Some(entity)
    }

    fn enum_values(entity: Option<&Entity>) -> Vec<&str> {
        let Some(entity) = entity else { return Vec::new() };
        // `values` is deprecated in favour of `members`, which QEMU has had since 6.2.
        if entity.meta_type != "enum" {
            Vec::new()
        } else if entity.members.is_empty() {
            entity.values.iter().map(String::as_str).collect()
        } else {
            entity.members.iter().map(|member| member.name.as_str()).collect()
        }
    }

    /// True if there is such a command.
    #[must_use]
    pub fn has_command(&self, command: &str) -> bool {
        self.named(command, "command").is_some()
    }

    /// True if the command may run out of band.
    #[must_use]
    pub fn allows_oob(&self, command: &str) -> bool {
        self.named(command, "command").is_some_and(|entity| entity.allow_oob)
    }

    /// True if there is such an event.
    #[must_use]
    pub fn has_event(&self, event: &str) -> bool {
        self.named(event, "event").is_some()
    }

    /// True if the command takes that argument.
    #[must_use]
    pub fn has_argument(&self, command: &str, argument: &str) -> bool {
        let Some(command) = self.named(command, "command") else { return false };
        self.reach(&command.arg_type, &[argument]).is_some()
    }

    /// True if the command's reply can have a member at that path.
    #[must_use]
    pub fn has_reply_member(&self, command: &str, path: &[&str]) -> bool {
        let Some(command) = self.named(command, "command") else { return false };
        self.reach(&command.ret_type, path).is_some()
    }

    /// The words a command's argument can be; empty if there is no such argument, or it is not an enum.
    #[must_use]
    pub fn argument_values(&self, command: &str, path: &[&str]) -> Vec<&str> {
        let command = self.named(command, "command");
        Schema::enum_values(command.and_then(|command| self.reach(&command.arg_type, path)))
    }

    /// The words an event's member can be.
    #[must_use]
    pub fn event_values(&self, event: &str, path: &[&str]) -> Vec<&str> {
        let event = self.named(event, "event");
        Schema::enum_values(event.and_then(|event| self.reach(&event.arg_type, path)))
    }

    /// The values of `MigrationCapability`.
    #[must_use]
    pub fn capabilities(&self) -> Vec<Capability> {
        let values =
            self.argument_values("migrate-set-capabilities", &["capabilities", "capability"]);
        values.into_iter().map(Capability::from).collect()
    }

    /// True if this QEMU knows the capability.
    #[must_use]
    pub fn has_capability(&self, capability: &Capability) -> bool {
        self.capabilities().contains(capability)
    }

    /// The values of `MigrationStatus`.
    #[must_use]
    pub fn migration_statuses(&self) -> Vec<MigrationStatus> {
        let values = self.event_values("MIGRATION", &["status"]);
        values.into_iter().map(MigrationStatus::from).collect()
    }
}
