//! What an operator asks for.

use crate::{
    ids::{HostId, VmId},
    units::{RateLimit, TimeSpan},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

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

/// One request to move VMs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    }
}
