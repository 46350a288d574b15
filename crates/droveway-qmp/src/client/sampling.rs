//! Typed commands: the dirty rate of a guest that isn't migrating.

use super::Client;
use crate::{Denial, DirtyRate, DirtySampling, QmpError, types::WireDirtyRate};
use serde_json::json;
use std::time::Duration;

/// QEMU's own bounds on a window.
const WINDOW_MIN: Duration = Duration::from_millis(50);
const WINDOW_MAX: Duration = Duration::from_secs(60);

impl Client {
    /// `calc-dirty-rate`: starts a measurement, which takes its window and a few milliseconds. Not during a migration.
    pub async fn start_dirty_sampling(&self, sampling: DirtySampling) -> Result<(), QmpError> {
        const COMMAND: &str = "calc-dirty-rate";
        if !(WINDOW_MIN..=WINDOW_MAX).contains(&sampling.window) {
            let (parameter, range) = ("calc-time", "50 ms to 60 s");
            return Err(self.denied(COMMAND, Denial::OutOfRange { parameter, range }));
        }
        let arguments = json!({
            "calc-time": u64::try_from(sampling.window.as_millis()).unwrap_or(u64::MAX),
            "calc-time-unit": "millisecond",
            "mode": "page-sampling",
            "sample-pages": sampling.pages_per_gib,
        });
        self.execute(COMMAND, arguments).await
    }

    /// `query-dirty-rate`: the latest measurement.
    pub async fn dirty_rate(&self) -> Result<DirtyRate, QmpError> {
        let arguments = json!({"calc-time-unit": "millisecond"});
        let reply: WireDirtyRate = self.execute("query-dirty-rate", arguments).await?;
        Ok(reply.into())
    }
}
