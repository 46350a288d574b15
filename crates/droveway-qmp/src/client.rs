//! [`Client`]: a handle to one monitor, and the rules of a call.
//!
//! A call waits for a place in its lane (in band or out of band), is sent with an id, and waits for the reply with that
//! id, all within one time-out. When it gives up, or its future is dropped, the command stays registered: its reply is
//! recognised and dropped when it comes, and only then is its place free again.

mod commands;
mod connect;
mod connection;
mod migration;
mod sampling;
mod subscription;

pub use subscription::Subscription;

use crate::{Closed, Denial, Greeting, QemuVersion, QmpAddress, QmpError, Schema, bounds};
use bytes::Bytes as Line;
use connection::{Outcome, Shared};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::{fmt, future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::{OnceCell, mpsc, watch},
    time::{Instant, timeout_at},
};

/// Where QEMU runs a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// One after the other, in the main loop.
    InBand,
    /// At once, in the monitor's thread.
    OutOfBand,
}

/// A connection to one monitor. Cheap to clone; commands from all clones share the connection and may be in flight
/// together. Dropping the last clone closes it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    timeout: Duration,
}

struct Inner {
    address: QmpAddress,
    greeting: Greeting,
    out_of_band: bool,
    shared: Arc<Shared>,
    outbox: mpsc::Sender<Line>,
    closed: watch::Receiver<Option<Closed>>,
    schema: OnceCell<Arc<Schema>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("address", &self.inner.address)
            .field("version", &self.inner.greeting.version)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// The same connection, with another time-out for the commands of this handle.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client { inner: Arc::clone(&self.inner), timeout }
    }

    /// The monitor's address.
    #[must_use]
    pub fn address(&self) -> &QmpAddress {
        &self.inner.address
    }

    /// What the monitor said first.
    #[must_use]
    pub fn greeting(&self) -> &Greeting {
        &self.inner.greeting
    }

    /// QEMU's version, for reports: ask [`Client::probe`] what it can do.
    #[must_use]
    pub fn version(&self) -> &QemuVersion {
        &self.inner.greeting.version
    }

    /// True if out-of-band execution was negotiated.
    #[must_use]
    pub fn has_out_of_band(&self) -> bool {
        self.inner.out_of_band
    }

    /// Replies that came after their caller had given up, so far.
    #[must_use]
    pub fn late_replies(&self) -> u64 {
        self.inner.shared.late_replies()
    }

    /// Receives every notice from now on. After the end of the connection, a subscription that ends at once.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.inner.shared.subscribe()
    }

    /// Resolves when the connection has ended, with the reason.
    pub fn closed(&self) -> impl Future<Output = Closed> + Send + 'static {
        let mut closed = self.inner.closed.clone();
        async move {
            match closed.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone().unwrap_or(Closed::ByUs),
                Err(_) => Closed::ByUs,
            }
        }
    }

    /// What this QEMU knows, by `query-qmp-schema`; asked once per connection.
    pub async fn probe(&self) -> Result<Arc<Schema>, QmpError> {
        const COMMAND: &str = "query-qmp-schema";
        let schema = self.inner.schema.get_or_try_init(|| async {
            let value: Value = self.execute(COMMAND, ()).await?;
            Schema::read(&value).map(Arc::new).map_err(|error| self.malformed(COMMAND, error))
        });
        Ok(Arc::clone(schema.await?))
    }

    /// Runs any command in band. `()` stands for "no arguments", as argument and as result.
    pub async fn execute<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: impl Serialize,
    ) -> Result<T, QmpError> {
        let arguments = serde_json::to_value(arguments);
        self.typed(Lane::InBand, command, arguments).await
    }

    /// Runs any command out of band; QEMU refuses those that don't allow it ([`Schema::allows_oob`]).
    pub async fn execute_oob<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: impl Serialize,
    ) -> Result<T, QmpError> {
        let arguments = serde_json::to_value(arguments);
        self.typed(Lane::OutOfBand, command, arguments).await
    }

    async fn typed<T: DeserializeOwned>(
        &self,
        lane: Lane,
        command: &str,
        arguments: Result<Value, serde_json::Error>,
    ) -> Result<T, QmpError> {
        let arguments = arguments.map_err(|error| self.malformed(command, error))?;
        let mut value = self.call(lane, command, arguments).await?;
        // QEMU says `{}` for "nothing", which serde's unit type doesn't accept.
        if value.as_object().is_some_and(Map::is_empty) && size_of::<T>() == 0 {
            value = Value::Null;
        }
        T::deserialize(value).map_err(|error| self.malformed(command, error))
    }

    pub(crate) async fn call(
        &self,
        lane: Lane,
        command: &str,
        arguments: Value,
    ) -> Result<Value, QmpError> {
        let inner = &*self.inner;
        if lane == Lane::OutOfBand && !inner.out_of_band {
            return Err(self.denied(command, Denial::OutOfBandUnavailable));
        }
        let Some(_seat) = inner.shared.seat() else {
            let denial = Denial::TooManyCallers { waiting: bounds::CALLERS_MAX };
            return Err(self.denied(command, denial));
        };
        let deadline = Instant::now() + self.timeout;
        let place = match timeout_at(deadline, inner.shared.place(lane)).await {
            Ok(Some(place)) => place,
            Ok(None) => return Err(self.disconnected(command, self.closed().await)),
            Err(_) => return Err(self.busy(command, lane)),
        };
        let Some((id, reply)) = inner.shared.register(command, place) else {
            return Err(self.disconnected(command, self.closed().await));
        };
        let line = match encode(lane, command, arguments, id) {
            Ok(line) => line,
            Err(denial) => {
                inner.shared.forget(id);
                return Err(self.denied(command, denial));
            }
        };
        // The outbox has room for every place, so it is never full: an error means that the connection ended.
        if inner.outbox.try_send(line).is_err() {
            return Err(self.disconnected(command, self.closed().await));
        }
        match timeout_at(deadline, reply).await {
            Ok(Ok(Outcome::Value(value))) => Ok(value),
            Ok(Ok(Outcome::Refused(body))) => Err(QmpError::Command {
                command: command.to_owned(),
                address: inner.address.clone(),
                class: body.class,
                description: body.description,
            }),
            Ok(Err(_)) => Err(self.disconnected(command, self.closed().await)),
            Err(_) => Err(QmpError::Timeout {
                command: command.to_owned(),
                address: inner.address.clone(),
                after: self.timeout,
            }),
        }
    }

    pub(crate) fn denied(&self, command: &str, denial: Denial) -> QmpError {
        let (command, address) = (command.to_owned(), self.inner.address.clone());
        QmpError::Denied { command, address, denial }
    }

    pub(crate) fn malformed(
        &self,
        command: &str,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> QmpError {
        let (command, address) = (command.to_owned(), self.inner.address.clone());
        QmpError::Malformed { command, address, source: Arc::new(error) }
    }

    fn disconnected(&self, command: &str, reason: Closed) -> QmpError {
        match reason {
            Closed::TooLong { bound } => {
                let (command, address) = (command.to_owned(), self.inner.address.clone());
                QmpError::TooLong { command, address, bound }
            }
            source => {
                let (command, address) = (command.to_owned(), self.inner.address.clone());
                QmpError::Disconnected { command, address, source }
            }
        }
    }

    fn busy(&self, command: &str, lane: Lane) -> QmpError {
        let (command, address) = (command.to_owned(), self.inner.address.clone());
        let in_flight = self.inner.shared.in_flight(lane);
        QmpError::Busy { command, address, in_flight, after: self.timeout }
    }
}

fn encode(lane: Lane, command: &str, arguments: Value, id: u64) -> Result<Line, Denial> {
    let key = match lane {
        Lane::InBand => "execute",
        Lane::OutOfBand => "exec-oob",
    };
    let mut message = Map::new();
    message.insert(key.to_owned(), Value::from(command));
    if !arguments.is_null() {
        message.insert("arguments".to_owned(), arguments);
    }
    message.insert("id".to_owned(), Value::from(id));
    let mut line = Value::Object(message).to_string();
    if line.len() > bounds::LINE_BYTES_MAX {
        let (bytes, bound) = (line.len(), bounds::LINE_BYTES_MAX);
        return Err(Denial::CommandTooLong { bytes, bound });
    }
    line.push('\n');
    Ok(Line::from(line))
}
