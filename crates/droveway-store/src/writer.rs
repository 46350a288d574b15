//! Writing without being in the way: a thread that writes, and a run that waits for it no longer than [`PATIENCE`].

use crate::{
    error::StoreError,
    store::{RunKey, Store},
};
use droveway_drive::journal::{Entry, RunHeader, Stamped};
use droveway_fleet::Timestamp;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long a run waits until an intent is on file: a write takes a tenth of a millisecond, a checkpoint some ten. A disk that
/// needs longer is stuck, and VMs must not stand still for it.
pub const PATIENCE: Duration = Duration::from_millis(250);
/// Batches on their way to the thread: more means that the disk is stuck, and the run keeps them itself.
pub const QUEUE_MAX: usize = 256;
/// Entries that are kept in memory while they cannot be written: some ten minutes of a large gang, some ten MiB.
pub const BACKLOG_MAX: usize = 20_000;
/// Between two tries of a disk that was full.
pub const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How long the end of a run waits for the last entries.
const FAREWELL: Duration = Duration::from_secs(2);

/// How the journal is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the last try to write failed; `None`: it did not.
    pub failing: Option<String>,
    /// Entries that wait in memory.
    pub waiting: usize,
    /// Entries that were dropped because too many waited.
    pub dropped: u64,
}

impl Health {
    /// In words; `None` if all is well.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let why = self.failing.as_ref()?;
        let dropped = match self.dropped {
            0 => String::new(),
            dropped => format!(", {dropped} were dropped"),
        };
        Some(format!(
            "the journal is not written: {why} ({} entries wait in memory{dropped})",
            self.waiting
        ))
    }
}

enum Job {
    Write { entries: Vec<Stamped>, done: Option<SyncSender<()>> },
    End,
}

/// Writes one run's entries.
#[derive(Debug)]
pub struct Writer {
    jobs: SyncSender<Job>,
    health: Arc<Mutex<Health>>,
    /// What the thread could not take, because it is stuck.
    held: VecDeque<Stamped>,
    dropped: u64,
    /// The thread did not answer in time; nobody waits for it until it does.
    pending: Option<Receiver<()>>,
    finished: Option<Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Begins a new run.
    ///
    /// # Errors
    /// [`StoreError`]: nothing was begun.
    pub fn begin(mut store: Store, header: &RunHeader) -> Result<Self, StoreError> {
        let key = store.begin(header)?;
        Ok(Writer::start(store, key))
    }

    /// Goes on with a run whose controller was killed; `None` if the journal has no such run.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn resume(mut store: Store, id: &str) -> Result<Option<Self>, StoreError> {
        Ok(store.resume(id)?.map(|key| Writer::start(store, key)))
    }

    fn start(store: Store, key: RunKey) -> Self {
        let (jobs, inbox) = mpsc::sync_channel(QUEUE_MAX);
        let (end, finished) = mpsc::sync_channel(1);
        let health = Arc::new(Mutex::new(Health::default()));
        let mut scribe = Scribe {
            store,
            key,
            backlog: VecDeque::new(),
            dropped: 0,
            undeclared: 0,
            failed_at: None,
            health: Arc::clone(&health),
        };
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(move || {
            scribe.work(&inbox);
            let _ = end.send(());
        });
        Writer {
            jobs,
            health,
            held: VecDeque::new(),
            dropped: 0,
            pending: None,
            finished: Some(finished),
            thread: thread.ok(),
        }
    }

    /// Hands entries over; they are written soon.
    pub fn note(&mut self, entries: Vec<Stamped>) {
        self.hand_over(entries, None);
    }

    /// Hands entries over and waits until they are on file, but no longer than [`PATIENCE`], and not at all while the disk
    /// does not answer. Returns whether they are.
    pub fn commit(&mut self, entries: Vec<Stamped>) -> bool {
        if let Some(pending) = &self.pending {
            match pending.try_recv() {
                Err(mpsc::TryRecvError::Empty) => {
                    self.hand_over(entries, None);
                    return false;
                }
                Ok(()) | Err(mpsc::TryRecvError::Disconnected) => self.pending = None,
            }
        }
        let (done, answer) = mpsc::sync_channel(1);
        if !self.hand_over(entries, Some(done)) {
            return false;
        }
        match answer.recv_timeout(PATIENCE) {
            Ok(()) => self.health().failing.is_none(),
            Err(RecvTimeoutError::Timeout) => {
                self.pending = Some(answer);
                false
            }
            Err(RecvTimeoutError::Disconnected) => false,
        }
    }

    /// How the journal is.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if self.pending.is_some() && health.failing.is_none() {
            health.failing = Some("the disk does not answer".to_owned());
        }
        health.waiting += self.held.len();
        health.dropped += self.dropped;
        health
    }

    fn hand_over(&mut self, entries: Vec<Stamped>, done: Option<SyncSender<()>>) -> bool {
        self.held.extend(entries);
        let entries: Vec<Stamped> = self.held.drain(..).collect();
        match self.jobs.try_send(Job::Write { entries, done }) {
            Ok(()) => true,
            Err(
                TrySendError::Full(Job::Write { entries, .. })
                | TrySendError::Disconnected(Job::Write { entries, .. }),
            ) => {
                self.held = entries.into();
                self.dropped += shorten(&mut self.held);
                false
            }
            Err(_) => false,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let entries: Vec<Stamped> = self.held.drain(..).collect();
        let _ = self.jobs.try_send(Job::Write { entries, done: None });
        let _ = self.jobs.try_send(Job::End);
        let Some(finished) = self.finished.take() else { return };
        // A thread that hangs in the disk is left to the process's end.
        if finished.recv_timeout(FAREWELL).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct Scribe {
    store: Store,
    key: RunKey,
    backlog: VecDeque<Stamped>,
    dropped: u64,
    /// Of those dropped, what the journal does not say yet.
    undeclared: u64,
    failed_at: Option<Instant>,
    health: Arc<Mutex<Health>>,
}

impl Scribe {
    fn work(&mut self, inbox: &Receiver<Job>) {
        loop {
            let job = if self.failed_at.is_some() {
                inbox.recv_timeout(RETRY_EVERY)
            } else {
                inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match job {
                Ok(Job::Write { entries, done }) => {
                    self.backlog.extend(entries);
                    self.try_write();
                    if let Some(done) = done {
                        let _ = done.send(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.try_write(),
                Ok(Job::End) | Err(RecvTimeoutError::Disconnected) => {
                    self.failed_at = None;
                    self.try_write();
                    return;
                }
            }
        }
    }

    fn try_write(&mut self) {
        let dropped = shorten(&mut self.backlog);
        self.dropped += dropped;
        self.undeclared += dropped;
        let waits = self.failed_at.is_some_and(|at| at.elapsed() < RETRY_EVERY);
        if !self.backlog.is_empty() && !waits {
            if self.undeclared > 0 {
                let at = self.backlog.front().map_or(Timestamp::ZERO, |first| first.at);
                let entry = Entry::Missing { entries: self.undeclared };
                self.backlog.push_front(Stamped { at, entry });
                self.undeclared = 0;
            }
            match self.store.append(&mut self.key, self.backlog.make_contiguous()) {
                Ok(()) => {
                    self.backlog.clear();
                    self.failed_at = None;
                    self.tell(None);
                }
                Err(error) => {
                    self.failed_at = Some(Instant::now());
                    self.tell(Some(error.to_string()));
                }
            }
        } else {
            let failing =
                self.health.lock().unwrap_or_else(PoisonError::into_inner).failing.clone();
            self.tell(failing);
        }
    }

    fn tell(&self, failing: Option<String>) {
        let health = Health { failing, waiting: self.backlog.len(), dropped: self.dropped };
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }
}

/// Drops what is beyond [`BACKLOG_MAX`], the oldest samples first: of all entries they matter least. Returns how many.
fn shorten(backlog: &mut VecDeque<Stamped>) -> u64 {
    let mut excess = backlog.len().saturating_sub(BACKLOG_MAX);
    if excess == 0 {
        return 0;
    }
    let dropped = excess as u64;
    backlog.retain(|stamped| {
        let goes = excess > 0 && matches!(stamped.entry, Entry::Sample { .. });
        excess -= usize::from(goes);
        !goes
    });
    backlog.drain(..excess);
    dropped
}
