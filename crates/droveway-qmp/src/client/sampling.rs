//! Typed commands: the dirty rate of a guest that isn't migrating.

use super::Client;
use crate::{
    Denial, DirtyRate, DirtyRateMode, DirtyRateStatus, DirtySampling, QmpError,
    types::WireDirtyRate,
};
use droveway_fleet::Bandwidth;
use serde_json::json;
use std::time::Duration;

/// QEMU's own bounds on a window.
const WINDOW_MIN: Duration = Duration::from_millis(50);
const WINDOW_MAX: Duration = Duration::from_secs(60);

/// A way of measuring is tried for so long: a running guest writes a page or two in it.
const TRIAL_WINDOW: Duration = Duration::from_millis(100);
/// QEMU answers some milliseconds after a window; a trial that has not ended after two seconds more has failed.
const TRIAL_PAUSE: Duration = Duration::from_millis(5);
const TRIAL_LOOKS: u32 = 400;

impl Client {
    /// `calc-dirty-rate`: starts a measurement, which takes its window and a few milliseconds. Not during a migration.
    pub async fn start_dirty_sampling(&self, sampling: &DirtySampling) -> Result<(), QmpError> {
        const COMMAND: &str = "calc-dirty-rate";
        if !(WINDOW_MIN..=WINDOW_MAX).contains(&sampling.window) {
            let (parameter, range) = ("calc-time", "50 ms to 60 s");
            return Err(self.denied(COMMAND, Denial::OutOfRange { parameter, range }));
        }
        let mut arguments = json!({
            "calc-time": u64::try_from(sampling.window.as_millis()).unwrap_or(u64::MAX),
            "calc-time-unit": "millisecond",
            "mode": sampling.mode.as_str(),
        });
        // QEMU refuses it in the other modes.
        if sampling.mode == DirtyRateMode::PageSampling {
            arguments["sample-pages"] = json!(sampling.pages_per_gib);
        }
        self.execute(COMMAND, arguments).await
    }

    /// How this QEMU's guest is measured best. What the accelerator itself counts misses no write, so under KVM its dirty ring
    /// is tried, then its dirty bitmap: QEMU refuses the one that it was not started with. One is believed only if it saw
    /// something, since where they do not work they count nothing. Otherwise, and under emulation without trying (the bitmap
    /// measures 0 there), pages are sampled.
    pub async fn dirty_mode(&self, kvm: bool) -> Result<DirtyRateMode, QmpError> {
        let tried = if kvm {
            [DirtyRateMode::DirtyRing, DirtyRateMode::DirtyBitmap].as_slice()
        } else {
            &[]
        };
        for mode in tried {
            match self.tried(mode).await {
                Ok(Some(rate)) if !rate.is_zero() => return Ok(mode.clone()),
                Ok(_) => break,
                Err(QmpError::Command { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(DirtyRateMode::PageSampling)
    }

    /// What a short measurement in `mode` says; `None` if it does not end.
    async fn tried(&self, mode: &DirtyRateMode) -> Result<Option<Bandwidth>, QmpError> {
        let sampling = DirtySampling { mode: mode.clone(), ..DirtySampling::precise(TRIAL_WINDOW) };
        self.start_dirty_sampling(&sampling).await?;
        tokio::time::sleep(TRIAL_WINDOW).await;
        for _ in 0..TRIAL_LOOKS {
            let answer = self.dirty_rate().await?;
            if answer.status == DirtyRateStatus::Measured {
                return Ok(answer.rate);
            }
            tokio::time::sleep(TRIAL_PAUSE).await;
        }
        Ok(None)
    }

    /// `query-dirty-rate`: the latest measurement.
    pub async fn dirty_rate(&self) -> Result<DirtyRate, QmpError> {
        let arguments = json!({"calc-time-unit": "millisecond"});
        let reply: WireDirtyRate = self.execute("query-dirty-rate", arguments).await?;
        Ok(reply.into())
    }
}
