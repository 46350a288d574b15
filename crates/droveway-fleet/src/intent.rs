//! What an operator asks for.

use crate::{
    ids::{HostId, VmId},
    units::{Bandwidth, RateLimit, Ratio, TimeSpan, UnitError},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

/// How one VM's memory moves.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Technique {
    /// Memory is copied in passes while the VM runs at the source; a short pause for the rest.
    PreCopy,
    /// The VM runs at the target at once; memory follows, and pages that it touches are fetched first.
    PostCopy,
    /// Pre-copy passes, then post-copy for what is still dirty.
    Hybrid,
    /// The VM pauses while all of its memory is copied.
    StopAndCopy,
}

impl Technique {
    /// All of them.
    pub const ALL: [Technique; 4] =
        [Technique::PreCopy, Technique::PostCopy, Technique::Hybrid, Technique::StopAndCopy];

    /// The name as written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Technique::PreCopy => "pre-copy",
            Technique::PostCopy => "post-copy",
            Technique::Hybrid => "hybrid",
            Technique::StopAndCopy => "stop-and-copy",
        }
    }

    /// True if the technique splits a VM's memory between two hosts for a while.
    #[must_use]
    pub const fn exposes(self) -> bool {
        matches!(self, Technique::PostCopy | Technique::Hybrid)
    }
}

impl fmt::Display for Technique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Technique {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Technique::ALL.into_iter().find(|t| t.name() == text).ok_or_else(|| {
            let names = Technique::ALL.map(Technique::name).join(", ");
            format!("unknown technique '{text}': use one of {names}")
        })
    }
}

/// Whether post-copy may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AllowPostcopy {
    /// Not even when pre-copy cannot end.
    Never,
    /// Where the policy chose it, and when pre-copy does not converge.
    #[default]
    Fallback,
}

/// How much a move matters beside the applications' traffic.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Urgency {
    /// Applications first: the move takes what they leave.
    Low,
    /// A balance.
    #[default]
    Medium,
    /// Time, but applications are not forgotten.
    High,
    /// Time alone.
    Critical,
}

impl Urgency {
    /// All of them, the least urgent first.
    pub const ALL: [Urgency; 4] = [Urgency::Low, Urgency::Medium, Urgency::High, Urgency::Critical];

    /// The name as written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Urgency::Low => "low",
            Urgency::Medium => "medium",
            Urgency::High => "high",
            Urgency::Critical => "critical",
        }
    }
}

impl fmt::Display for Urgency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Urgency {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Urgency::ALL.into_iter().find(|urgency| urgency.name() == text).ok_or_else(|| {
            let names = Urgency::ALL.map(Urgency::name).join(", ");
            format!("unknown urgency '{text}': use one of {names}")
        })
    }
}

/// How much of both ports is held for the moves.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Reserve {
    /// What the policy finds best.
    #[default]
    Auto,
    /// Nothing: the moves compete with the applications.
    Off,
    /// A share of the ports.
    Share(Ratio),
    /// A rate.
    Rate(Bandwidth),
}

impl Reserve {
    /// The rate that is held of a port of that rate; `None` where nobody named one.
    #[must_use]
    pub fn of(self, port: Bandwidth) -> Option<Bandwidth> {
        match self {
            Reserve::Auto | Reserve::Off => None,
            Reserve::Share(share) => Some(port.scaled(share.get())),
            Reserve::Rate(rate) => Some(rate.min(port)),
        }
    }
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reserve::Auto => f.pad("auto"),
            Reserve::Off => f.pad("off"),
            Reserve::Share(share) => write!(f, "{}%", share.get() * 100.0),
            Reserve::Rate(rate) => rate.fmt(f),
        }
    }
}

impl FromStr for Reserve {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        match text {
            "auto" => Ok(Reserve::Auto),
            "off" => Ok(Reserve::Off),
            share if share.ends_with('%') || share.parse::<f64>().is_ok_and(|it| it <= 1.0) => {
                let share: Ratio = share.parse()?;
                if share == Ratio::ZERO {
                    return Err(UnitError::OutOfRange {
                        text: text.to_owned(),
                        reason: "write 'off' to hold nothing",
                    });
                }
                Ok(Reserve::Share(share))
            }
            rate => {
                let rate: Bandwidth = rate.parse()?;
                if rate == Bandwidth::ZERO {
                    return Err(UnitError::OutOfRange {
                        text: text.to_owned(),
                        reason: "write 'off' to hold nothing",
                    });
                }
                Ok(Reserve::Rate(rate))
            }
        }
    }
}

impl Serialize for Reserve {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Reserve {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Reserve".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "`auto`, `off`, a share of the ports, or a rate",
            "examples": ["auto", "off", "60%", "600Mbit/s"],
        })
    }
}

impl<'de> Deserialize<'de> for Reserve {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One request to move VMs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// `drain` or `migrate`.
    pub verb: String,
    /// The host to leave.
    pub source: HostId,
    /// The host to go to.
    pub target: HostId,
    /// The VMs to move, in the order given.
    pub vms: Vec<VmId>,
    /// The policy by name.
    pub policy: String,
    /// Technique by VM, over the policy's choice.
    pub techniques: BTreeMap<VmId, Technique>,
    /// At most so many at once, over the policy's choice.
    pub max_parallel: Option<u32>,
    /// The longest downtime that is asked for.
    pub max_downtime: TimeSpan,
    /// The ceiling of each VM's stream.
    pub bandwidth: RateLimit,
    /// Whether post-copy may be used.
    pub allow_postcopy: AllowPostcopy,
    /// Pre-copy passes before a VM counts as not converging.
    pub max_passes: u32,
    /// How urgent it is.
    #[serde(default)]
    pub urgency: Urgency,
    /// When the last VM has to have arrived, from the start of the run.
    #[serde(default)]
    pub deadline: Option<TimeSpan>,
    /// At most so many VMs have their memory split between two hosts at once.
    #[serde(default)]
    pub max_exposed: Option<u32>,
    /// The share of its measured traffic that every application keeps.
    #[serde(default)]
    pub floor: Option<Ratio>,
    /// How much of both ports is held for the moves.
    #[serde(default)]
    pub reserve: Reserve,
    /// The ports can be made to keep what is promised: their queueing disciplines may be changed.
    #[serde(default)]
    pub shaping: bool,
    /// The migrations' sockets can be tuned from outside, and may be.
    #[serde(default)]
    pub tuning: bool,
}

/// Pre-copy passes before a VM counts as not converging. Idle and moderately busy guests need 2 to 8 (measured); each
/// further pass of a guest that dirties as fast as the stream sends buys nothing.
pub const MAX_PASSES_DEFAULT: u32 = 20;

/// The downtime aimed at unless asked otherwise: QEMU's own default, which operators know.
pub const DOWNTIME_DEFAULT: Duration = Duration::from_millis(300);

impl Intent {
    /// To drain `source` of `vms` by `policy`, with nothing else asked for.
    #[must_use]
    pub fn drain(source: HostId, target: HostId, vms: Vec<VmId>, policy: &str) -> Self {
        Intent {
            verb: "drain".to_owned(),
            source,
            target,
            vms,
            policy: policy.to_owned(),
            techniques: BTreeMap::new(),
            max_parallel: None,
            max_downtime: TimeSpan::from(DOWNTIME_DEFAULT),
            bandwidth: RateLimit::Unlimited,
            allow_postcopy: AllowPostcopy::Fallback,
            max_passes: MAX_PASSES_DEFAULT,
            urgency: Urgency::default(),
            deadline: None,
            max_exposed: None,
            floor: None,
            reserve: Reserve::Auto,
            shaping: false,
            tuning: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn technique_names_read_back() {
        for technique in Technique::ALL {
            assert_eq!(technique.name().parse(), Ok(technique));
        }
        assert!("precopy".parse::<Technique>().unwrap_err().contains("pre-copy"));
        for urgency in Urgency::ALL {
            assert_eq!(urgency.name().parse(), Ok(urgency));
        }
        assert!("hihg".parse::<Urgency>().unwrap_err().contains("critical"));
    }

    #[test]
    fn what_is_held_is_read_and_printed() {
        let port: Bandwidth = "1Gbit/s".parse().unwrap();
        for (text, printed, held) in [
            ("auto", "auto", None),
            ("off", "off", None),
            ("60%", "60%", Some("600Mbit/s")),
            ("0.25", "25%", Some("250Mbit/s")),
            ("300Mbit/s", "300Mbit/s", Some("300Mbit/s")),
            ("3Gbit/s", "3Gbit/s", Some("1Gbit/s")),
        ] {
            let reserve: Reserve = text.parse().unwrap();
            assert_eq!(reserve.to_string(), printed);
            assert_eq!(reserve.to_string().parse(), Ok(reserve));
            assert_eq!(reserve.of(port), held.map(|rate| rate.parse().unwrap()));
        }
        for text in ["0", "0%", "0Mbit/s"] {
            let error = text.parse::<Reserve>().unwrap_err();
            assert!(error.to_string().contains("'off'"), "{error}");
        }
        for text in ["", "110%", "-1", "much", "600"] {
            assert!(text.parse::<Reserve>().is_err(), "{text}");
        }
    }
}
