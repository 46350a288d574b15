//! `calc-dirty-rate`: how fast a running guest changes its memory.
//!
//! Page sampling hashes pages and counts those that changed, so pages rewritten with equal bytes don't count. Dirty ring and
//! dirty bitmap count every page that the accelerator saw written; QEMU refuses the ring unless it was started with one, and
//! the bitmap if it was. QEMU gives whole MiB/s, rounded down: over a window `t` the error of the amount is up to `t` x
//! 1 MiB/s. Not during a migration.

use super::wire::Count;
use crate::open_enum::open_enum;
use droveway_fleet::Bandwidth;
use serde::Deserialize;
use std::time::Duration;

open_enum! {
    /// How far a measurement is.
    DirtyRateStatus {
        Unstarted = "unstarted",
        Measuring = "measuring",
        Measured = "measured",
    }
}

open_enum! {
    /// How it measures. `dirty-bitmap` measures 0 under TCG.
    DirtyRateMode {
        PageSampling = "page-sampling",
        DirtyRing = "dirty-ring",
        DirtyBitmap = "dirty-bitmap",
    }
}

/// A measurement to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtySampling {
    /// How.
    pub mode: DirtyRateMode,
    /// How long it watches: 50 ms to 60 s, in whole milliseconds.
    pub window: Duration,
    /// Of page sampling: pages per GiB, 128 to 16384; QEMU's default of 512 errs by up to half.
    pub pages_per_gib: u32,
}

impl DirtySampling {
    /// Page sampling with the best precision QEMU has.
    #[must_use]
    pub const fn precise(window: Duration) -> Self {
        DirtySampling { mode: DirtyRateMode::PageSampling, window, pages_per_gib: 16_384 }
    }
}

/// The latest measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyRate {
    /// How far it is.
    pub status: DirtyRateStatus,
    /// How it was measured.
    pub mode: DirtyRateMode,
    /// The rate, in whole MiB/s rounded down; `None` until measured.
    pub rate: Option<Bandwidth>,
    /// How long it really watched, once measured: some milliseconds more than was asked for.
    pub window: Duration,
    /// Pages per GiB; says something of page sampling only.
    pub pages_per_gib: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct WireDirtyRate {
    dirty_rate: Option<Count>,
    status: DirtyRateStatus,
    calc_time: Count,
    #[serde(default)]
    calc_time_unit: String,
    #[serde(default)]
    sample_pages: Count,
    mode: DirtyRateMode,
}

impl From<WireDirtyRate> for DirtyRate {
    fn from(wire: WireDirtyRate) -> Self {
        let measured = wire.status == DirtyRateStatus::Measured;
        DirtyRate {
            // QEMU < 9 reports a -1 while measuring.
            rate: wire.dirty_rate.filter(|_| measured).map(Count::mib_per_second),
            status: wire.status,
            mode: wire.mode,
            window: match wire.calc_time_unit.as_str() {
                "millisecond" => wire.calc_time.millis(),
                _ => Duration::from_secs(wire.calc_time.0),
            },
            pages_per_gib: wire.sample_pages.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_reply_is_read() {
        let text = r#"{"status": "measured", "sample-pages": 512, "dirty-rate": 3, "mode": "page-sampling",
            "calc-time-unit": "millisecond", "start-time": 1795395154, "calc-time": 200}"#;
        let rate: DirtyRate = serde_json::from_str::<WireDirtyRate>(text).unwrap().into();
        assert_eq!(rate.rate.map(|rate| rate.to_string()).as_deref(), Some("3MiB/s"));
        assert_eq!(rate.window, Duration::from_millis(200));
    }
}
