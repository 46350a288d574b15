//! The one task that owns the socket, and what it shares with the handles: commands in flight, and subscribers.

use super::{Lane, Subscription};
use crate::{
    Closed, ErrorBody, Event, EventRecord, Frame, FrameDecoder, FrameError, Incoming, Notice,
    bounds,
};
use bytes::Bytes as Line;
use futures::StreamExt;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, broadcast, mpsc, oneshot, watch},
};
use tokio_util::codec::FramedRead;

/// What QEMU made of a command.
#[derive(Debug)]
pub(super) enum Outcome {
    Value(Value),
    Refused(ErrorBody),
}

#[derive(Debug)]
struct InFlight {
    command: String,
    reply: oneshot::Sender<Outcome>,
    /// Freed with the entry, that is when QEMU has answered, whether or not somebody still waits.
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct State {
    next_id: u64,
    in_flight: HashMap<u64, InFlight>,
    /// `None` once the connection has ended.
    notices: Option<broadcast::Sender<Notice>>,
}

/// State of one connection, shared by its task and its handles.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    callers: Semaphore,
    in_band: Arc<Semaphore>,
    out_of_band: Arc<Semaphore>,
    late_replies: AtomicU64,
}

impl Shared {
    pub(super) fn new() -> Self {
        let notices = broadcast::channel(bounds::EVENT_BUFFER).0;
        Shared {
            state: Mutex::new(State {
                next_id: 1,
                in_flight: HashMap::new(),
                notices: Some(notices),
            }),
            callers: Semaphore::new(bounds::CALLERS_MAX),
            in_band: Arc::new(Semaphore::new(bounds::IN_BAND_MAX)),
            out_of_band: Arc::new(Semaphore::new(bounds::OUT_OF_BAND_MAX)),
            late_replies: AtomicU64::new(0),
        }
    }

    /// The lock is never held across a panic of ours or an await, so poison carries no news.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lane(&self, lane: Lane) -> &Arc<Semaphore> {
        match lane {
            Lane::InBand => &self.in_band,
            Lane::OutOfBand => &self.out_of_band,
        }
    }

    pub(super) fn late_replies(&self) -> u64 {
        self.late_replies.load(Ordering::Relaxed)
    }

    pub(super) fn in_flight(&self, lane: Lane) -> usize {
        let places = match lane {
            Lane::InBand => bounds::IN_BAND_MAX,
            Lane::OutOfBand => bounds::OUT_OF_BAND_MAX,
        };
        places.saturating_sub(self.lane(lane).available_permits())
    }

    pub(super) fn subscribe(&self) -> Subscription {
        let receiver = match &self.state().notices {
            Some(notices) => notices.subscribe(),
            None => broadcast::channel(1).1,
        };
        Subscription::new(receiver)
    }

    /// A seat among the callers, if there is one.
    pub(super) fn seat(&self) -> Option<SemaphorePermit<'_>> {
        self.callers.try_acquire().ok()
    }

    /// A place in flight; `None` once the connection has ended.
    pub(super) async fn place(&self, lane: Lane) -> Option<OwnedSemaphorePermit> {
        Arc::clone(self.lane(lane)).acquire_owned().await.ok()
    }

    /// An id for a command about to be sent; `None` once the connection has ended.
    pub(super) fn register(
        &self,
        command: &str,
        place: OwnedSemaphorePermit,
    ) -> Option<(u64, oneshot::Receiver<Outcome>)> {
        let (reply, receiver) = oneshot::channel();
        let mut state = self.state();
        state.notices.as_ref()?;
        let id = state.next_id;
        state.next_id += 1;
        let entry = InFlight { command: command.to_owned(), reply, _place: place };
        state.in_flight.insert(id, entry);
        Some((id, receiver))
    }

    /// Takes back a registration that was never sent.
    pub(super) fn forget(&self, id: u64) {
        self.state().in_flight.remove(&id);
    }

    fn notify(&self, notice: Notice) {
        if let Some(notices) = &self.state().notices {
            // An error means that nobody listens, which is allowed.
            let _ = notices.send(notice);
        }
    }

    fn handle_message(&self, message: Incoming, received: Instant) {
        match message {
            Incoming::Event { name, time, data } => {
                tracing::trace!(event = name, "event");
                let event = Event::read(&name, &data);
                self.notify(Notice::Event(EventRecord { event, time, received }));
            }
            Incoming::Reply { id: Some(id), result } => self.handle_reply(id, result, received),
            Incoming::Reply { id: None, result } => {
                let excerpt = match result {
                    Ok(value) => {
                        value.to_string().chars().take(bounds::EXCERPT_BYTES_MAX).collect()
                    }
                    Err(body) => body.description,
                };
                self.handle_malformed("reply without an id".to_owned(), excerpt, received);
            }
            Incoming::Greeting(_) => {
                let excerpt = String::new();
                self.handle_malformed("a second greeting".to_owned(), excerpt, received);
            }
        }
    }

    fn handle_reply(&self, id: u64, result: Result<Value, ErrorBody>, received: Instant) {
        let entry = self.state().in_flight.remove(&id);
        let Some(InFlight { command, reply, .. }) = entry else {
            let reason = format!("reply to command {id}, which is not in flight");
            return self.handle_malformed(reason, String::new(), received);
        };
        let outcome = result.map_or_else(Outcome::Refused, Outcome::Value);
        if reply.send(outcome).is_ok() {
            tracing::trace!(command, id, "reply");
        } else {
            self.late_replies.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(command, id, "late reply dropped");
        }
    }

    fn handle_malformed(&self, reason: String, excerpt: String, received: Instant) {
        tracing::debug!(reason, excerpt, "malformed message skipped");
        self.notify(Notice::Malformed { reason, excerpt, received });
    }
}

/// Ends the connection for everybody, also if the task is cancelled or panics.
struct Teardown {
    shared: Arc<Shared>,
    closed: watch::Sender<Option<Closed>>,
    reason: Option<Closed>,
}

impl Drop for Teardown {
    fn drop(&mut self) {
        let reason = self.reason.take().unwrap_or(Closed::ByUs);
        tracing::debug!(%reason, "connection closed");
        self.closed.send_replace(Some(reason));
        self.shared.in_band.close();
        self.shared.out_of_band.close();
        let (in_flight, notices) = {
            let mut state = self.shared.state();
            (std::mem::take(&mut state.in_flight), state.notices.take())
        };
        // Dropping them wakes their callers and ends the subscriptions.
        drop((in_flight, notices));
    }
}

/// Runs the connection until it ends.
pub(super) async fn run<R, W>(
    mut reader: FramedRead<R, FrameDecoder>,
    writer: W,
    outbox: mpsc::Receiver<Line>,
    shared: Arc<Shared>,
    closed: watch::Sender<Option<Closed>>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut teardown = Teardown { shared: Arc::clone(&shared), closed, reason: None };
    let reason = {
        let read = read_all(&mut reader, &shared);
        tokio::pin!(read);
        tokio::select! {
            reason = &mut read => reason,
            reason = write_all(writer, outbox) => match reason {
                // QEMU may have answered before it hung up (`quit`): those replies are still to be read.
                Closed::Io(_) => tokio::time::timeout(bounds::DRAIN_AFTER_WRITE_ERROR, read)
                    .await
                    .unwrap_or(reason),
                reason => reason,
            },
        }
    };
    teardown.reason = Some(reason);
}

async fn read_all<R: AsyncRead + Unpin>(
    reader: &mut FramedRead<R, FrameDecoder>,
    shared: &Shared,
) -> Closed {
    let mut malformed_in_a_row = 0;
    while let Some(frame) = reader.next().await {
        let received = Instant::now();
        match frame {
            Ok(Frame::Message(message)) => {
                malformed_in_a_row = 0;
                shared.handle_message(message, received);
            }
            Ok(Frame::Malformed { reason, excerpt }) => {
                malformed_in_a_row += 1;
                if malformed_in_a_row >= bounds::MALFORMED_IN_A_ROW_MAX {
                    return Closed::Gibberish { lines: malformed_in_a_row, excerpt };
                }
                shared.handle_malformed(reason, excerpt, received);
            }
            Err(error) => return closed_by(error),
        }
    }
    Closed::ByPeer
}

pub(super) fn closed_by(error: FrameError) -> Closed {
    match error {
        FrameError::Io(error) => Closed::Io(Arc::new(error)),
        FrameError::TooLong { bound } => Closed::TooLong { bound },
    }
}

async fn write_all<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut outbox: mpsc::Receiver<Line>,
) -> Closed {
    while let Some(line) = outbox.recv().await {
        if let Err(error) = writer.write_all(&line).await {
            return Closed::Io(Arc::new(error));
        }
    }
    Closed::ByUs
}
