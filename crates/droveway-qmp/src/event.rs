//! What a monitor says unasked: [`Event`], with both clocks in an [`EventRecord`], delivered as a [`Notice`].

use crate::{MigrationStatus, open_enum::open_enum};
use serde_json::Value;
use std::time::{Duration, Instant};

open_enum! {
    /// Why a guest was shut down or reset.
    ShutdownCause {
        None = "none",
        HostError = "host-error",
        HostQmpQuit = "host-qmp-quit",
        HostQmpSystemReset = "host-qmp-system-reset",
        HostSignal = "host-signal",
        HostUi = "host-ui",
        GuestShutdown = "guest-shutdown",
        GuestReset = "guest-reset",
        GuestPanic = "guest-panic",
        SubsystemReset = "subsystem-reset",
        SnapshotLoad = "snapshot-load",
    }
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `STOP`: vCPUs stand still.
    Stop,
    /// `RESUME`: vCPUs run.
    Resume,
    /// `SHUTDOWN`: the guest went down, or is about to.
    Shutdown {
        /// True if the guest asked for it.
        guest: bool,
        /// Why.
        reason: ShutdownCause,
    },
    /// `RESET`.
    Reset {
        /// True if the guest asked for it.
        guest: bool,
        /// Why.
        reason: ShutdownCause,
    },
    /// `POWERDOWN`: the guest was asked to power down.
    Powerdown,
    /// `MIGRATION`; needs the capability `events`.
    Migration {
        /// The new status.
        status: MigrationStatus,
    },
    /// `MIGRATION_PASS`: a pass over memory starts; needs the capability `events`.
    MigrationPass {
        /// Its number, from 1.
        pass: u64,
    },
    /// `UNPLUG_PRIMARY`: a failover primary is being unplugged before a migration.
    UnplugPrimary {
        /// The device.
        device: String,
    },
    /// Anything else, or a known event with unfamiliar members.
    Unknown {
        /// QEMU's name.
        name: String,
        /// The members as JSON text; empty if there are none.
        data: String,
    },
}

impl Event {
    pub(crate) fn read(name: &str, data: &Value) -> Event {
        Event::known(name, data).unwrap_or_else(|| Event::Unknown {
            name: name.to_owned(),
            data: if data.is_null() { String::new() } else { data.to_string() },
        })
    }

    fn known(name: &str, data: &Value) -> Option<Event> {
        let text = |member: &str| data.get(member).and_then(Value::as_str);
        let cause = || text("reason").map_or(ShutdownCause::None, ShutdownCause::from);
        let guest = || data.get("guest").and_then(Value::as_bool);
        Some(match name {
            "STOP" => Event::Stop,
            "RESUME" => Event::Resume,
            "SHUTDOWN" => Event::Shutdown { guest: guest()?, reason: cause() },
            "RESET" => Event::Reset { guest: guest()?, reason: cause() },
            "POWERDOWN" => Event::Powerdown,
            "MIGRATION" => Event::Migration { status: MigrationStatus::from(text("status")?) },
            "MIGRATION_PASS" => Event::MigrationPass { pass: data.get("pass")?.as_u64()? },
            "UNPLUG_PRIMARY" => Event::UnplugPrimary { device: text("device-id")?.to_owned() },
            _ => return None,
        })
    }
}

/// An event with both its clocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// What happened.
    pub event: Event,
    /// QEMU's wall clock since 1970, on *its* host: don't subtract it from another host's.
    pub time: Option<Duration>,
    /// When we read it, on our clock.
    pub received: Instant,
}

/// What a subscriber receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An event.
    Event(EventRecord),
    /// The subscriber was too slow and lost so many notices.
    Lagged(u64),
    /// The peer sent a line that is no message, or said that it could not read ours; the connection goes on.
    Malformed {
        /// What is wrong with it.
        reason: String,
        /// The start of it.
        excerpt: String,
        /// When we read it.
        received: Instant,
    },
}

impl Notice {
    /// The event, if it is one.
    #[must_use]
    pub fn event(&self) -> Option<&Event> {
        match self {
            Notice::Event(record) => Some(&record.event),
            Notice::Lagged(_) | Notice::Malformed { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(name: &str, data: &Value, expected: &Event) {
        assert_eq!(&Event::read(name, data), expected);
    }

    #[test]
    fn events_are_read_and_the_unknown_is_carried() {
        let unknown =
            |name: &str, data: &str| Event::Unknown { name: name.into(), data: data.into() };
        check("STOP", &Value::Null, &Event::Stop);
        check("MIGRATION_PASS", &json!({"pass": 3}), &Event::MigrationPass { pass: 3 });
        let status = MigrationStatus::PostcopyPaused;
        check("MIGRATION", &json!({"status": "postcopy-paused"}), &Event::Migration { status });
        let status = MigrationStatus::Unknown("postcopy-quantum".into());
        check("MIGRATION", &json!({"status": "postcopy-quantum"}), &Event::Migration { status });
        let reason = ShutdownCause::HostQmpQuit;
        let data = json!({"guest": false, "reason": "host-qmp-quit"});
        check("SHUTDOWN", &data, &Event::Shutdown { guest: false, reason });
        check("SHUTDOWN", &json!({"guest": 1}), &unknown("SHUTDOWN", r#"{"guest":1}"#));
        check("MIGRATION", &Value::Null, &unknown("MIGRATION", ""));
        check("X", &json!([1]), &unknown("X", "[1]"));
    }
}
