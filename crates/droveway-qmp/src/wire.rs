//! Messages as they stand on the wire: greeting, reply, error, event.

use crate::ErrorClass;
use serde::Deserialize;
use serde_json::Value;
use std::{fmt, time::Duration};

/// QEMU's version: for reports. Ask the [`Schema`](crate::Schema) what it can do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct QemuVersion {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
    /// Micro.
    pub micro: u32,
    /// The distribution's package, often empty.
    pub package: String,
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)?;
        if self.package.is_empty() { Ok(()) } else { write!(f, " ({})", self.package.trim()) }
    }
}

/// What a monitor says first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Greeting {
    /// QEMU's version.
    pub version: QemuVersion,
    /// Protocol capabilities on offer, such as `oob`.
    pub capabilities: Vec<String>,
}

impl Greeting {
    /// True if out-of-band execution is on offer.
    #[must_use]
    pub fn offers_oob(&self) -> bool {
        self.capabilities.iter().any(|name| name == "oob")
    }
}

/// QEMU's refusal of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorBody {
    /// The class.
    pub class: ErrorClass,
    /// The words.
    pub description: String,
}

/// One well-formed message from a monitor.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// The first message.
    Greeting(Greeting),
    /// Reply to the command with that id. Without an id, QEMU could not read what we sent.
    Reply {
        /// The command's id.
        id: Option<u64>,
        /// Its value or refusal.
        result: Result<Value, ErrorBody>,
    },
    /// An event.
    Event {
        /// QEMU's name.
        name: String,
        /// QEMU's clock since 1970; `None` if it could not read it.
        time: Option<Duration>,
        /// The members, or null.
        data: Value,
    },
}

#[derive(Deserialize)]
struct WireVersion {
    qemu: WireTriple,
    #[serde(default)]
    package: String,
}

#[derive(Deserialize)]
struct WireTriple {
    major: u32,
    minor: u32,
    micro: u32,
}

/// Reads the form shared by the greeting and `query-version`.
pub(crate) fn version(value: &Value) -> Result<QemuVersion, serde_json::Error> {
    let wire = WireVersion::deserialize(value)?;
    let WireTriple { major, minor, micro } = wire.qemu;
    Ok(QemuVersion { major, minor, micro, package: wire.package })
}

impl Incoming {
    /// Reads one line. The error says what is wrong with it.
    pub(crate) fn read(line: &[u8]) -> Result<Incoming, String> {
        let value: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let Value::Object(mut members) = value else { return Err("not an object".to_owned()) };
        if let Some(greeting) = members.get("QMP") {
            return read_greeting(greeting).map(Incoming::Greeting);
        }
        if let Some(name) = members.get("event") {
            let name = name.as_str().ok_or("event name is not a string")?.to_owned();
            let time = members.get("timestamp").and_then(read_time);
            let data = members.remove("data").unwrap_or(Value::Null);
            return Ok(Incoming::Event { name, time, data });
        }
        let id = match members.get("id") {
            None => None,
            Some(id) => Some(id.as_u64().ok_or("reply with an id that isn't ours")?),
        };
        if let Some(value) = members.remove("return") {
            return Ok(Incoming::Reply { id, result: Ok(value) });
        }
        let error = members.get("error").ok_or("neither greeting, event, return nor error")?;
        let text = |name| error.get(name).and_then(Value::as_str).unwrap_or_default();
        let (class, description) = (ErrorClass::from(text("class")), text("desc").to_owned());
        Ok(Incoming::Reply { id, result: Err(ErrorBody { class, description }) })
    }
}

fn read_greeting(value: &Value) -> Result<Greeting, String> {
    // A greeting without a version is still a greeting: the version serves reports only.
    let version = value.get("version").and_then(|v| version(v).ok()).unwrap_or_default();
    let capabilities = value.get("capabilities").and_then(Value::as_array);
    let capabilities = capabilities.ok_or("greeting without capabilities")?;
    let capabilities = capabilities.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    Ok(Greeting { version, capabilities })
}

fn read_time(value: &Value) -> Option<Duration> {
    // QEMU says -1 when it could not read its clock.
    let seconds = value.get("seconds")?.as_u64()?;
    let micros = value.get("microseconds")?.as_u64()?;
    Some(Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros)))
}
