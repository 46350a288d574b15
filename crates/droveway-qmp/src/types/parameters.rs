//! Migration parameters. QEMU takes 0 (and -1) for "no limit" without a word; here no limit is only ever
//! [`RateLimit::Unlimited`], and a rate that would round to 0 is denied.

use super::wire::{Count, to_millis};
use crate::Denial;
use droveway_fleet::{Bandwidth, Bytes, RateLimit};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What QEMU assumes to get at switchover, when it decides whether the rest fits the downtime limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SwitchoverBandwidth {
    /// What it measured itself: under a cap, the cap, although switchover ignores the cap.
    Measured,
    /// So much.
    Assumed(Bandwidth),
}

/// Parameters to set, or as they are: in a request `None` leaves one as it is, in a reply this QEMU doesn't have it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MigrationParameters {
    /// Cap on pre-copy; QEMU starts with 128 MiB/s.
    pub max_bandwidth: Option<RateLimit>,
    /// Cap on post-copy's background stream; pages asked for come on top.
    pub max_postcopy_bandwidth: Option<RateLimit>,
    /// What to assume at switchover.
    pub avail_switchover_bandwidth: Option<SwitchoverBandwidth>,
    /// Downtime to aim at, in whole milliseconds (rounded down, but not to nothing), at most 2000 s.
    pub downtime_limit: Option<Duration>,
    /// Auto-converge: first throttle, percent.
    pub cpu_throttle_initial: Option<u8>,
    /// Auto-converge: step, percent.
    pub cpu_throttle_increment: Option<u8>,
    /// Auto-converge: most, percent.
    pub max_cpu_throttle: Option<u8>,
    /// Auto-converge: throttle when so many percent of the bytes sent in a period were dirtied in it.
    pub throttle_trigger_threshold: Option<u8>,
    /// Auto-converge: smaller steps near the end.
    pub cpu_throttle_tailslow: Option<bool>,
    /// Announcements of the guest's address after switchover: first pause.
    pub announce_initial: Option<Duration>,
    /// Longest pause between announcements.
    pub announce_max: Option<Duration>,
    /// Number of announcements.
    pub announce_rounds: Option<u64>,
    /// Growth of the pause.
    pub announce_step: Option<Duration>,
    /// Extra channels, 1 to 255.
    pub multifd_channels: Option<u8>,
    /// Memory for the capability `xbzrle`.
    pub xbzrle_cache_size: Option<Bytes>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct WireParameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bandwidth: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_postcopy_bandwidth: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avail_switchover_bandwidth: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    downtime_limit: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_throttle_initial: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_throttle_increment: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_cpu_throttle: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    throttle_trigger_threshold: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_throttle_tailslow: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    announce_initial: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    announce_max: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    announce_rounds: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    announce_step: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    multifd_channels: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xbzrle_cache_size: Option<Count>,
}

fn rate(parameter: &'static str, rate: Bandwidth) -> Result<Count, Denial> {
    match rate.bytes_per_second() {
        0 => Err(Denial::RateRoundsToUnlimited { parameter }),
        bytes => Ok(Count(bytes)),
    }
}

fn limit(parameter: &'static str, limit: Option<RateLimit>) -> Result<Option<Count>, Denial> {
    limit
        .map(|limit| match limit {
            RateLimit::Unlimited => Ok(Count(0)),
            RateLimit::At(bandwidth) => rate(parameter, bandwidth),
        })
        .transpose()
}

fn read_limit(wire: Count) -> RateLimit {
    match wire {
        Count(0) => RateLimit::Unlimited,
        rate => RateLimit::At(rate.bytes_per_second()),
    }
}

impl TryFrom<&MigrationParameters> for WireParameters {
    type Error = Denial;

    fn try_from(parameters: &MigrationParameters) -> Result<Self, Denial> {
        let millis = |time: Option<Duration>| time.map(|time| Count(to_millis(time)));
        let switchover = parameters.avail_switchover_bandwidth.map(|bandwidth| match bandwidth {
            SwitchoverBandwidth::Measured => Ok(Count(0)),
            SwitchoverBandwidth::Assumed(bandwidth) => {
                rate("avail-switchover-bandwidth", bandwidth)
            }
        });
        Ok(WireParameters {
            max_bandwidth: limit("max-bandwidth", parameters.max_bandwidth)?,
            max_postcopy_bandwidth: limit(
                "max-postcopy-bandwidth",
                parameters.max_postcopy_bandwidth,
            )?,
            avail_switchover_bandwidth: switchover.transpose()?,
            downtime_limit: millis(parameters.downtime_limit),
            cpu_throttle_initial: parameters.cpu_throttle_initial,
            cpu_throttle_increment: parameters.cpu_throttle_increment,
            max_cpu_throttle: parameters.max_cpu_throttle,
            throttle_trigger_threshold: parameters.throttle_trigger_threshold,
            cpu_throttle_tailslow: parameters.cpu_throttle_tailslow,
            announce_initial: millis(parameters.announce_initial),
            announce_max: millis(parameters.announce_max),
            announce_rounds: parameters.announce_rounds.map(Count),
            announce_step: millis(parameters.announce_step),
            multifd_channels: parameters.multifd_channels,
            xbzrle_cache_size: parameters.xbzrle_cache_size.map(|size| Count(size.get())),
        })
    }
}

impl From<WireParameters> for MigrationParameters {
    fn from(wire: WireParameters) -> Self {
        MigrationParameters {
            max_bandwidth: wire.max_bandwidth.map(read_limit),
            max_postcopy_bandwidth: wire.max_postcopy_bandwidth.map(read_limit),
            avail_switchover_bandwidth: wire.avail_switchover_bandwidth.map(|rate| match rate {
                Count(0) => SwitchoverBandwidth::Measured,
                rate => SwitchoverBandwidth::Assumed(rate.bytes_per_second()),
            }),
            downtime_limit: wire.downtime_limit.map(Count::millis),
            cpu_throttle_initial: wire.cpu_throttle_initial,
            cpu_throttle_increment: wire.cpu_throttle_increment,
            max_cpu_throttle: wire.max_cpu_throttle,
            throttle_trigger_threshold: wire.throttle_trigger_threshold,
            cpu_throttle_tailslow: wire.cpu_throttle_tailslow,
            announce_initial: wire.announce_initial.map(Count::millis),
            announce_max: wire.announce_max.map(Count::millis),
            announce_rounds: wire.announce_rounds.map(|count| count.0),
            announce_step: wire.announce_step.map(Count::millis),
            multifd_channels: wire.multifd_channels,
            xbzrle_cache_size: wire.xbzrle_cache_size.map(Count::bytes),
        }
    }
}

#[cfg(test)]
mod tests;
