//! The nouns of Droveway, as plain data: units, ids, hosts, ports, VMs, traffic; the scenario that the lab and the
//! simulator build, the fleet that commands work on, what an operator asked for, and what a run reports.
//!
//! Everything here is a value. Nothing reads a clock, a file or a socket: [`document::parse`] takes text, and whoever
//! calls it says where the text came from.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod curve;
pub mod document;
pub mod fleet;
pub mod ids;
pub mod intent;
pub mod log;
pub mod report;
pub mod runs;
pub mod scenario;
pub mod schema;
pub mod snapshot;
pub mod status;
pub mod units;

pub use curve::DirtyCurve;
pub use document::{Document, DocumentError};
pub use fleet::{Fleet, FleetVm, Host, Instance, Port};
pub use ids::{EndpointId, HostId, VmId};
pub use intent::{AllowPostcopy, Intent, Reserve, Technique, Urgency};
pub use report::RunReport;
pub use scenario::Scenario;
pub use snapshot::Snapshot;
pub use units::{Bandwidth, Bytes, RateLimit, Ratio, RequestRate, TimeSpan, Timestamp};
