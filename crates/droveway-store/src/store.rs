//! The file: opening, writing, reading, pruning. All SQL is here and in [`crate::schema`].

use crate::{
    error::StoreError,
    schema::{self, APPLICATION_ID, SCHEMA_VERSION},
};
use droveway_drive::{
    MigrationSample, Side,
    journal::{Ended, Entry, RunHeader, RunState, Stamped},
};
use droveway_fleet::{Timestamp, VmId};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Transaction, params};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Runs that are kept: some months of an operator who drains a host each day.
pub const RUNS_MAX: usize = 200;
/// What the runs may take together: the whole file is checked in a tenth of a second.
pub const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Samples of a run: five a second of eight VMs for two minutes, about 2 MiB. The latest stay.
pub const SAMPLES_MAX: usize = 5_000;
/// Old samples are looked for after so many new ones: deleting each one by itself would double the writing.
const SAMPLES_BETWEEN: usize = 250;
/// A reader holds the file for milliseconds.
const BUSY_TIME: Duration = Duration::from_secs(2);
/// What is left of the write-ahead log after a checkpoint.
const LOG_BYTES: u64 = 4 * 1024 * 1024;

/// A journal, open.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    samples_until_prune: usize,
}

/// A run in the journal, for a list.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSummary {
    /// What was known when it began.
    pub header: RunHeader,
    /// How it ended; `None`: it runs, or its controller was killed.
    pub ended: Option<Ended>,
}

/// A run with everything that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalledRun {
    /// What was known when it began.
    pub header: RunHeader,
    /// What happened, in order.
    pub entries: Vec<Stamped>,
}

impl JournalledRun {
    /// The state that it is in.
    #[must_use]
    pub fn state(&self) -> RunState {
        RunState::replayed(self.header.clone(), &self.entries)
    }
}

/// A sample as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct KeptSample {
    side: Side,
    sample: MigrationSample,
}

impl Store {
    /// Opens a journal for writing; makes it if there is none, and brings one of an earlier release up to date.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is changed then.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|error| of_io(path, &error))?;
        }
        let mut store = Store::connect(path)?;
        let checked: String = store
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(|error| store.failed(&error))?;
        if checked != "ok" {
            return Err(StoreError::Corrupt { path: path.to_owned(), what: checked });
        }
        store.prune().map_err(|error| store.failed(&error))?;
        Ok(store)
    }

    /// Opens a journal for reading, if there is one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open_existing(path: &Path) -> Result<Option<Self>, StoreError> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(of_io(path, &error)),
            Ok(_) => Store::connect(path).map(Some),
        }
    }

    fn connect(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path).map_err(|error| of_sql(path, &error))?;
        let mut store =
            Store { connection, path: path.to_owned(), samples_until_prune: SAMPLES_BETWEEN };
        let (id, found) = store.configure().map_err(|error| store.failed_to_open(&error))?;
        let foreign = || StoreError::Foreign { path: path.to_owned() };
        match (id, found) {
            (0, 0) => {
                if store.has_tables().map_err(|error| store.failed(&error))? {
                    return Err(foreign());
                }
            }
            (APPLICATION_ID, version) if version > SCHEMA_VERSION => {
                return Err(StoreError::Newer {
                    path: path.to_owned(),
                    found: version,
                    known: SCHEMA_VERSION,
                });
            }
            (APPLICATION_ID, _) => {}
            _ => return Err(foreign()),
        }
        if found < SCHEMA_VERSION {
            store.upgrade(found).map_err(|error| store.failed(&error))?;
        }
        Ok(store)
    }

    fn configure(&self) -> rusqlite::Result<(i32, u32)> {
        let it = &self.connection;
        it.busy_timeout(BUSY_TIME)?;
        let identity = schema::identity(it)?;
        // Only before the first table: what pruned runs took goes back to the disk.
        it.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        // The answer is a row, which an update would take for a mistake.
        let _: String = it.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
        it.pragma_update(None, "synchronous", "NORMAL")?;
        it.pragma_update(None, "foreign_keys", true)?;
        let _: i64 =
            it.query_row(&format!("PRAGMA journal_size_limit={LOG_BYTES}"), [], |row| row.get(0))?;
        Ok(identity)
    }

    fn has_tables(&self) -> rusqlite::Result<bool> {
        let count: i64 =
            self.connection
                .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok(count > 0)
    }

    fn upgrade(&mut self, found: u32) -> rusqlite::Result<()> {
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        // Somebody else may have been quicker.
        let (_, now) = schema::identity(&transaction)?;
        if now < SCHEMA_VERSION {
            schema::migrate(&transaction, found.max(now))?;
        }
        transaction.commit()
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a run down; returns what names it in [`Self::append`].
    ///
    /// # Errors
    /// [`StoreError`], [`StoreError::Known`] for a name that is in use.
    pub fn begin(&mut self, header: &RunHeader) -> Result<RunKey, StoreError> {
        let text = self.json(header)?;
        self.connection
            .execute("INSERT INTO runs (id, header) VALUES (?1, ?2)", params![header.id, text])
            .map_err(|error| match error.sqlite_error_code() {
                Some(ErrorCode::ConstraintViolation) => {
                    StoreError::Known { path: self.path.clone(), run: header.id.clone() }
                }
                _ => self.failed(&error),
            })?;
        Ok(RunKey { run: self.connection.last_insert_rowid(), next: 1 })
    }

    /// Goes on with a run whose controller was killed.
    ///
    /// # Errors
    /// [`StoreError`]; `None` if there is no such run.
    pub fn resume(&mut self, id: &str) -> Result<Option<RunKey>, StoreError> {
        let read = || {
            let run: Option<i64> = self
                .connection
                .query_row("SELECT run FROM runs WHERE id = ?1", [id], |row| row.get(0))
                .optional()?;
            let Some(run) = run else { return Ok(None) };
            let last: i64 = self.connection.query_row(
                "SELECT max(coalesce((SELECT max(seq) FROM entries WHERE run = ?1), 0),
                            coalesce((SELECT max(seq) FROM samples WHERE run = ?1), 0))",
                [run],
                |row| row.get(0),
            )?;
            Ok(Some(RunKey { run, next: last + 1 }))
        };
        read().map_err(|error| self.failed(&error))
    }

    /// Writes entries down, all or none.
    ///
    /// # Errors
    /// [`StoreError`]; none of them was written then.
    pub fn append(&mut self, key: &mut RunKey, entries: &[Stamped]) -> Result<(), StoreError> {
        let mut next = key.next;
        let mut samples = 0;
        let rows: Vec<Row> =
            entries.iter().map(|entry| self.row(entry)).collect::<Result<_, _>>()?;
        let mut write = || {
            let transaction = self.connection.transaction()?;
            for row in &rows {
                row.insert(&transaction, key.run, next)?;
                next += 1;
                samples += usize::from(matches!(row, Row::Sample { .. }));
            }
            if self.samples_until_prune <= samples {
                thin_out(&transaction, key.run)?;
            }
            transaction.commit()
        };
        let written = write();
        written.map_err(|error| self.failed(&error))?;
        key.next = next;
        self.samples_until_prune = match self.samples_until_prune.checked_sub(samples) {
            Some(left) if left > 0 => left,
            _ => SAMPLES_BETWEEN,
        };
        Ok(())
    }

    fn row(&self, stamped: &Stamped) -> Result<Row, StoreError> {
        // The present is some centuries from where this ends.
        let at = i64::try_from(stamped.at.nanos()).unwrap_or(i64::MAX);
        Ok(match &stamped.entry {
            Entry::Sample { vm, side, sample } => Row::Sample {
                at,
                vm: vm.to_string(),
                source: *side == Side::Source,
                body: self.json(&KeptSample { side: *side, sample: (**sample).clone() })?,
            },
            entry => Row::Entry {
                at,
                kind: entry.kind(),
                vm: entry.vm().map(ToString::to_string),
                body: self.json(entry)?,
                ended: match entry {
                    Entry::Ended { end } => Some(self.json(end)?),
                    _ => None,
                },
            },
        })
    }

    /// The runs, the latest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn runs(&self, most: usize) -> Result<Vec<RunSummary>, StoreError> {
        let read = || {
            let mut statement = self
                .connection
                .prepare("SELECT header, ended FROM runs ORDER BY run DESC LIMIT ?1")?;
            let rows = statement.query_map([i64::try_from(most).unwrap_or(i64::MAX)], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows = read().map_err(|error| self.failed(&error))?;
        let parsed = |(header, ended): (String, Option<String>)| {
            Ok(RunSummary {
                header: self.parsed(&header, "a run's header")?,
                ended: ended.map(|text| self.parsed(&text, "a run's end")).transpose()?,
            })
        };
        rows.into_iter().map(parsed).collect()
    }

    /// A run with everything that happened, if it is there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn run(&self, id: &str) -> Result<Option<JournalledRun>, StoreError> {
        let read = || {
            let found: Option<(i64, String)> = self
                .connection
                .query_row("SELECT run, header FROM runs WHERE id = ?1", [id], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?;
            let Some((run, header)) = found else { return Ok(None) };
            let mut statement = self.connection.prepare(
                "SELECT seq, at, NULL, body FROM entries WHERE run = ?1
                 UNION ALL SELECT seq, at, vm, body FROM samples WHERE run = ?1 ORDER BY seq",
            )?;
            let rows = statement.query_map([run], |row| {
                Ok(ReadRow {
                    seq: row.get(0)?,
                    at: row.get(1)?,
                    vm: row.get(2)?,
                    body: row.get(3)?,
                })
            })?;
            Ok(Some((header, rows.collect::<rusqlite::Result<Vec<_>>>()?)))
        };
        let Some((header, rows)) = read().map_err(|error| self.failed(&error))? else {
            return Ok(None);
        };
        let header = self.parsed(&header, "a run's header")?;
        let entries = rows.into_iter().map(|row| self.entry(row)).collect::<Result<_, _>>()?;
        Ok(Some(JournalledRun { header, entries }))
    }

    /// The latest run, if its controller never wrote its end.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn unfinished(&self) -> Result<Option<JournalledRun>, StoreError> {
        match self.runs(1)?.pop() {
            Some(last) if last.ended.is_none() => self.run(&last.header.id),
            _ => Ok(None),
        }
    }

    fn entry(&self, row: ReadRow) -> Result<Stamped, StoreError> {
        let what = format!("entry {}", row.seq);
        let entry = match row.vm {
            None => self.parsed(&row.body, &what)?,
            Some(name) => {
                let KeptSample { side, sample } = self.parsed(&row.body, &what)?;
                let vm: VmId = name.parse().map_err(|error| StoreError::Corrupt {
                    path: self.path.clone(),
                    what: format!("{what}: {error}"),
                })?;
                Entry::Sample { vm, side, sample: Box::new(sample) }
            }
        };
        Ok(Stamped { at: Timestamp::from_nanos(row.at.unsigned_abs()), entry })
    }

    /// Drops the oldest runs beyond [`RUNS_MAX`] and [`BYTES_MAX`]; never the latest.
    fn prune(&mut self) -> rusqlite::Result<()> {
        let keep = i64::try_from(RUNS_MAX).unwrap_or(i64::MAX);
        self.connection.execute(
            "DELETE FROM runs WHERE run NOT IN (SELECT run FROM runs ORDER BY run DESC LIMIT ?1)",
            [keep],
        )?;
        for _ in 0..RUNS_MAX {
            if self.bytes()? <= BYTES_MAX {
                break;
            }
            let gone = self.connection.execute(
                "DELETE FROM runs WHERE run = (SELECT min(run) FROM runs)
                 AND run < (SELECT max(run) FROM runs)",
                [],
            )?;
            if gone == 0 {
                break;
            }
        }
        self.connection.execute_batch("PRAGMA incremental_vacuum")
    }

    /// What is in use of the file.
    fn bytes(&self) -> rusqlite::Result<u64> {
        let read =
            |name: &str| self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let pages = read("page_count")? - read("freelist_count")?;
        Ok((pages * read("page_size")?).unsigned_abs())
    }

    /// Lets the file grow to so many bytes only: for tests of a full disk.
    #[cfg(test)]
    pub(crate) fn limit(&self, bytes: u64) {
        let size: i64 =
            self.connection.pragma_query_value(None, "page_size", |r| r.get(0)).unwrap();
        let pages = bytes / size.unsigned_abs();
        let _: i64 = self
            .connection
            .query_row(&format!("PRAGMA max_page_count={pages}"), [], |row| row.get(0))
            .unwrap();
    }

    fn json<T: Serialize>(&self, value: &T) -> Result<String, StoreError> {
        serde_json::to_string(value).map_err(|error| StoreError::Io {
            path: self.path.clone(),
            what: format!("writing an entry: {error}"),
        })
    }

    fn parsed<T: for<'a> Deserialize<'a>>(&self, text: &str, what: &str) -> Result<T, StoreError> {
        serde_json::from_str(text).map_err(|error| StoreError::Corrupt {
            path: self.path.clone(),
            what: format!("{what}: {error}"),
        })
    }

    fn failed(&self, error: &rusqlite::Error) -> StoreError {
        of_sql(&self.path, error)
    }

    /// A file that is no database at all is somebody else's.
    fn failed_to_open(&self, error: &rusqlite::Error) -> StoreError {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => StoreError::Foreign { path: self.path.clone() },
            _ => self.failed(error),
        }
    }
}

/// Names a run that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunKey {
    run: i64,
    next: i64,
}

#[derive(Debug)]
enum Row {
    Entry { at: i64, kind: &'static str, vm: Option<String>, body: String, ended: Option<String> },
    Sample { at: i64, vm: String, source: bool, body: String },
}

impl Row {
    fn insert(&self, into: &Transaction<'_>, run: i64, seq: i64) -> rusqlite::Result<()> {
        match self {
            Row::Entry { at, kind, vm, body, ended } => {
                into.prepare_cached(
                    "INSERT INTO entries (run, seq, at, kind, vm, body) VALUES (?1,?2,?3,?4,?5,?6)",
                )?
                .execute(params![run, seq, at, kind, vm, body])?;
                if let Some(ended) = ended {
                    into.execute("UPDATE runs SET ended = ?2 WHERE run = ?1", params![run, ended])?;
                }
            }
            Row::Sample { at, vm, source, body } => {
                into.prepare_cached(
                    "INSERT INTO samples (run, seq, at, vm, source, body) VALUES (?1,?2,?3,?4,?5,?6)",
                )?
                .execute(params![run, seq, at, vm, source, body])?;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct ReadRow {
    seq: i64,
    at: i64,
    vm: Option<String>,
    body: String,
}

/// The last sample of each side of each VM stays, whatever its age: a replay ends where the run did.
fn thin_out(transaction: &Transaction<'_>, run: i64) -> rusqlite::Result<usize> {
    transaction.execute(
        "DELETE FROM samples WHERE run = ?1
         AND seq <= (SELECT seq FROM samples WHERE run = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)
         AND seq NOT IN (SELECT max(seq) FROM samples WHERE run = ?1 GROUP BY vm, source)",
        params![run, i64::try_from(SAMPLES_MAX).unwrap_or(i64::MAX)],
    )
}

fn of_io(path: &Path, error: &io::Error) -> StoreError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::PermissionDenied => StoreError::Denied { path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path },
        _ => StoreError::Io { path, what: error.to_string() },
    }
}

fn of_sql(path: &Path, error: &rusqlite::Error) -> StoreError {
    let (path, what) = (path.to_owned(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { path, what }
        }
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => StoreError::Denied { path },
        Some(ErrorCode::CannotOpen) => match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                StoreError::Denied { path }
            }
            _ => StoreError::Io { path, what },
        },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { path },
        _ => StoreError::Io { path, what },
    }
}
