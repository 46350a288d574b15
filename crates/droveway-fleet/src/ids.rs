//! Typed names. A name is lower-case letters, digits, `-` and `.`, starts and ends with a letter or digit, and has at most
//! [`NAME_LEN_MAX`] characters: it must survive in file names, namespaces and host names.

use std::{borrow::Borrow, fmt, str::FromStr};
use thiserror::Error;

/// The longest name: one label of a host name (RFC 1123).
pub const NAME_LEN_MAX: usize = 63;

/// A name that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "'{0}' is not a name: use 1 to 63 lower-case letters, digits, '-' and '.', starting and ending with a letter or digit"
)]
pub struct NameError(pub String);

fn checked(text: &str) -> Result<String, NameError> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inner =
        text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.');
    if inner && edge(text.chars().next()) && edge(text.chars().last()) && text.len() <= NAME_LEN_MAX
    {
        Ok(text.to_owned())
    } else {
        Err(NameError(text.to_owned()))
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                checked(text).map($type)
            }
        }
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "description": $what,
                    "pattern": "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$",
                    "maxLength": NAME_LEN_MAX,
                })
            }
        }
    };
}

name!(
    /// The name of a VM, unique in its fleet.
    VmId,
    "the name of a VM"
);
name!(
    /// The name of a host, unique in its fleet.
    HostId,
    "the name of a host"
);
name!(
    /// The name of anything that traffic can start or end at: a VM, a host or a client.
    EndpointId,
    "the name of a VM, a host or a client"
);
name!(
    /// The name of a document: a scenario, a fleet, a lab.
    DocumentName,
    "the name of this document"
);

impl From<&VmId> for EndpointId {
    fn from(id: &VmId) -> Self {
        EndpointId(id.0.clone())
    }
}

impl From<&HostId> for EndpointId {
    fn from(id: &HostId) -> Self {
        EndpointId(id.0.clone())
    }
}

/// The name among `known` that `wrong` most likely meant: within a third of its length in edits.
#[must_use]
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance <= wrong.len().max(name.len()).div_ceil(3))
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "web-1", "db.prod", "0"] {
            assert_eq!(good.parse::<VmId>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "Web", "a b", "a/b", "..", &"a".repeat(64)] {
            assert!(bad.parse::<VmId>().is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn a_typing_error_finds_its_name() {
        assert_eq!(nearest("memroy", ["memory", "vcpus"]), Some("memory"));
        assert_eq!(nearest("alpah", ["alpha", "beta"]), Some("alpha"));
        assert_eq!(nearest("colour", ["memory", "vcpus"]), None);
    }
}
