//! A subscriber's end of the notices.

use crate::{EventRecord, Notice};
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};

/// Notices of one connection, in order. Bounded: one that falls behind loses the oldest and is told how many.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<Notice>,
}

impl Subscription {
    pub(super) fn new(receiver: broadcast::Receiver<Notice>) -> Self {
        Subscription { receiver }
    }

    /// The next notice; `None` once the connection has ended and everything before was received. Safe to cancel.
    pub async fn recv(&mut self) -> Option<Notice> {
        match self.receiver.recv().await {
            Ok(notice) => Some(notice),
            Err(RecvError::Lagged(lost)) => Some(Notice::Lagged(lost)),
            Err(RecvError::Closed) => None,
        }
    }

    /// The next notice if one is there already.
    pub fn try_recv(&mut self) -> Option<Notice> {
        match self.receiver.try_recv() {
            Ok(notice) => Some(notice),
            Err(TryRecvError::Lagged(lost)) => Some(Notice::Lagged(lost)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }

    /// The next event, for those to whom a lost one doesn't matter; `None` at the end.
    pub async fn next_event(&mut self) -> Option<EventRecord> {
        loop {
            match self.recv().await? {
                Notice::Event(record) => return Some(record),
                Notice::Lagged(_) | Notice::Malformed { .. } => {}
            }
        }
    }
}
