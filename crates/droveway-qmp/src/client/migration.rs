//! Typed commands: migration.

use super::Client;
use crate::{
    Capabilities, Capability, Denial, MigrationInfo, MigrationParameters, MigrationStatus,
    MigrationUri, QmpError,
    types::{WireMigrationInfo, WireParameters},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// QEMU's own bound on `downtime-limit`.
const DOWNTIME_LIMIT_MAX: Duration = Duration::from_secs(2000);

impl Client {
    /// `query-migrate`.
    pub async fn migration(&self) -> Result<MigrationInfo, QmpError> {
        let info: WireMigrationInfo = self.execute("query-migrate", ()).await?;
        Ok(info.into())
    }

    /// `migrate`: starts sending. The reply only says that it started.
    pub async fn migrate(&self, to: &MigrationUri) -> Result<(), QmpError> {
        self.execute("migrate", json!({"uri": to.to_string()})).await
    }

    /// `migrate` with `resume`: goes on after post-copy was paused, to where the target now waits.
    pub async fn migrate_resume(&self, to: &MigrationUri) -> Result<(), QmpError> {
        self.execute("migrate", json!({"uri": to.to_string(), "resume": true})).await
    }

    /// `migrate-incoming`: waits for a migration; QEMU must have been started with `-incoming defer`.
    pub async fn migrate_incoming(&self, at: &MigrationUri) -> Result<(), QmpError> {
        self.execute("migrate-incoming", json!({"uri": at.to_string()})).await
    }

    /// `migrate-start-postcopy`: stops the source and runs the target. From here on only both together are the guest.
    /// On QEMU 10.0 a break before the target's `RESUME` ends the target and loses the guest, although both sides have
    /// reported `postcopy-active` by then.
    pub async fn migrate_start_postcopy(&self) -> Result<(), QmpError> {
        self.execute("migrate-start-postcopy", ()).await
    }

    /// `migrate_cancel`. QEMU replies before it is cancelled, and refuses during post-copy.
    pub async fn migrate_cancel(&self) -> Result<(), QmpError> {
        self.execute("migrate_cancel", ()).await
    }

    /// `migrate-continue`: leaves that status, which must be the current one.
    pub async fn migrate_continue(&self, from: &MigrationStatus) -> Result<(), QmpError> {
        self.execute("migrate-continue", json!({"state": from})).await
    }

    /// `migrate-pause`, out of band: breaks off post-copy on this side, so that it can be recovered. Not before the target's
    /// `RESUME`: see [`Client::migrate_start_postcopy`].
    pub async fn migrate_pause(&self) -> Result<(), QmpError> {
        self.execute_oob("migrate-pause", ()).await
    }

    /// `migrate-recover`, out of band: a paused target waits for its source, at a new address.
    pub async fn migrate_recover(&self, at: &MigrationUri) -> Result<(), QmpError> {
        self.execute_oob("migrate-recover", json!({"uri": at.to_string()})).await
    }

    /// `query-migrate-capabilities`.
    pub async fn capabilities(&self) -> Result<Capabilities, QmpError> {
        #[derive(Deserialize)]
        struct Entry {
            capability: Capability,
            state: bool,
        }
        let entries: Vec<Entry> = self.execute("query-migrate-capabilities", ()).await?;
        Ok(Capabilities(entries.into_iter().map(|e| (e.capability, e.state)).collect()))
    }

    /// `migrate-set-capabilities`: all or none of them; others stay as they are.
    pub async fn set_capabilities(&self, wanted: &[(Capability, bool)]) -> Result<(), QmpError> {
        let entry = |(name, on): &(Capability, bool)| json!({"capability": name, "state": on});
        let entries: Vec<Value> = wanted.iter().map(entry).collect();
        self.execute("migrate-set-capabilities", json!({"capabilities": entries})).await
    }

    /// `query-migrate-parameters`.
    pub async fn parameters(&self) -> Result<MigrationParameters, QmpError> {
        let wire: WireParameters = self.execute("query-migrate-parameters", ()).await?;
        Ok(wire.into())
    }

    /// `migrate-set-parameters`, also during a migration; `None` leaves one as it is.
    pub async fn set_parameters(&self, wanted: &MigrationParameters) -> Result<(), QmpError> {
        const COMMAND: &str = "migrate-set-parameters";
        if wanted.downtime_limit.is_some_and(|limit| limit > DOWNTIME_LIMIT_MAX) {
            let (parameter, range) = ("downtime-limit", "at most 2000 s");
            return Err(self.denied(COMMAND, Denial::OutOfRange { parameter, range }));
        }
        let wire =
            WireParameters::try_from(wanted).map_err(|denial| self.denied(COMMAND, denial))?;
        self.execute(COMMAND, wire).await
    }
}
