//! Versioned documents: `apiVersion`, `kind`, `metadata`, `spec`, in YAML (of which JSON is a part).
//!
//! Unknown fields are refused with the field's path, the line and the nearest known name: a misspelt limit that is
//! silently ignored is worse than an error. This module knows nothing of files; the caller names the text's origin.

use crate::ids::{DocumentName, nearest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

/// The version of every document of this release.
pub const API_VERSION: &str = "droveway/v1";

/// What the `spec` of a kind of document holds.
pub trait Spec: Serialize + DeserializeOwned + JsonSchema {
    /// The document's `kind`.
    const KIND: &'static str;

    /// What is wrong with a spec whose fields are all well-formed: dangling names, duplicates, contradictions.
    fn problems(&self) -> Vec<Problem>;
}

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field's path, like `spec.vms[0].host`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    /// A problem at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Problem { path: path.into(), message: message.into() }
    }
}

/// A document with its envelope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document<S> {
    /// Always `droveway/v1`.
    pub api_version: String,
    /// What the document is.
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// Its content.
    pub spec: S,
}

/// What every document says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The document's name.
    pub name: DocumentName,
}

impl<S: Spec> Document<S> {
    /// A document of this release.
    pub fn new(name: DocumentName, spec: S) -> Self {
        Document {
            api_version: API_VERSION.to_owned(),
            kind: S::KIND.to_owned(),
            metadata: Metadata { name },
            spec,
        }
    }

    /// The document as YAML.
    ///
    /// # Errors
    /// When a value cannot be written as YAML, which no document of ours should hold.
    pub fn to_yaml(&self) -> Result<String, String> {
        serde_saphyr::to_string(self).map_err(|error| error.to_string())
    }
}

/// Why a text is not the document that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DocumentError {
    /// The text is not YAML, or a field is unknown, missing or malformed.
    #[error("{origin}: {place}{message}")]
    Syntax {
        /// The text's origin, usually a file name.
        origin: String,
        /// Path and line of the field, ending in `: `, or empty.
        place: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// Another kind of document.
    #[error("{origin}: kind: this is a {found}, expected a {expected}")]
    Kind {
        /// The text's origin.
        origin: String,
        /// The kind that it says.
        found: String,
        /// The kind that was asked for.
        expected: &'static str,
    },
    /// A version that this release does not read.
    #[error("{origin}: apiVersion: '{found}' is not supported, write '{API_VERSION}'")]
    Version {
        /// The text's origin.
        origin: String,
        /// The version that it says.
        found: String,
    },
    /// Every field is well-formed, but they do not fit together.
    #[error("{origin}: {}", listed(.problems))]
    Invalid {
        /// The text's origin.
        origin: String,
        /// All that is wrong.
        problems: Vec<Problem>,
    },
}

fn listed(problems: &[Problem]) -> String {
    let lines: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.path, p.message)).collect();
    lines.join("\n  ")
}

/// What a document says it is. Whatever else stands beside these two is not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// The version.
    pub api_version: Option<String>,
    /// The kind.
    pub kind: Option<String>,
}

impl Envelope {
    /// Refuses another version and another kind. What is missing is left to the fields of the document itself.
    ///
    /// # Errors
    /// [`DocumentError::Version`], [`DocumentError::Kind`].
    pub fn expect(self, kind: &'static str, origin: &str) -> Result<(), DocumentError> {
        if let Some(found) = self.api_version.filter(|found| found != API_VERSION) {
            return Err(DocumentError::Version { origin: origin.to_owned(), found });
        }
        if let Some(found) = self.kind.filter(|found| found != kind) {
            return Err(DocumentError::Kind { origin: origin.to_owned(), found, expected: kind });
        }
        Ok(())
    }
}

/// Reads a document and checks it.
///
/// # Errors
/// [`DocumentError`], whose text names origin, field and remedy.
pub fn parse<S: Spec>(text: &str, origin: &str) -> Result<Document<S>, DocumentError> {
    // Only the envelope: the wrong kind should be said before the wrong field.
    if let Ok(envelope) = serde_saphyr::from_str::<Envelope>(text) {
        envelope.expect(S::KIND, origin)?;
    }
    let document: Document<S> = value(text, origin)?;
    let problems = document.spec.problems();
    if problems.is_empty() {
        Ok(document)
    } else {
        Err(DocumentError::Invalid { origin: origin.to_owned(), problems })
    }
}

/// Reads any value from YAML or JSON. Its envelope, if it has one, is not looked at.
///
/// # Errors
/// [`DocumentError::Syntax`], with the field's path and line.
pub fn value<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T, DocumentError> {
    let mut path = String::new();
    serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            path = error.path().to_string();
            error.into_inner()
        })
    })
    .map_err(|error| syntax_error(origin, &path, &error))
}

fn syntax_error(origin: &str, path: &str, error: &serde_saphyr::Error) -> DocumentError {
    let error = error.without_snippet();
    let unknown = |what: &str, found: &str, known: &[&'static str]| {
        let meant = nearest(found, known.iter().copied())
            .map_or_else(String::new, |name| format!(", did you mean '{name}'?"));
        format!("unknown {what} '{found}'{meant} (known: {})", known.join(", "))
    };
    let message = match error {
        serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
            unknown("field", field, expected)
        }
        serde_saphyr::Error::SerdeUnknownVariant { variant, expected, .. } => {
            unknown("value", variant, expected)
        }
        serde_saphyr::Error::SerdeMissingField { field, .. } => {
            format!("the field '{field}' is missing")
        }
        other => {
            // The location is said once, in front.
            let text = other.to_string();
            text.split(" at line ").next().unwrap_or(&text).to_owned()
        }
    };
    let line = error.location().filter(|l| l.line() > 0).map(|l| format!("line {}", l.line()));
    let place = match (path, line) {
        ("" | ".", None) => String::new(),
        ("" | ".", Some(line)) => format!("{line}: "),
        (path, None) => format!("{path}: "),
        (path, Some(line)) => format!("{path} ({line}): "),
    };
    DocumentError::Syntax { origin: origin.to_owned(), place, message }
}
