//! The file's shape, and how an older one becomes the present one.

use rusqlite::{Connection, Transaction};

/// Marks our files ("DRVW"): a file of somebody else's is left alone.
pub(crate) const APPLICATION_ID: i32 = 0x4452_5657;

/// What has to be done to come from each version to the next. Never changed once released: a new version is a new line.
const MIGRATIONS: [&str; 2] = [
    // 1: runs and what happened in them. Samples are apart, as only they are thinned out.
    "CREATE TABLE runs (
         run INTEGER PRIMARY KEY AUTOINCREMENT,
         id TEXT NOT NULL UNIQUE,
         header TEXT NOT NULL,
         ended TEXT
     ) STRICT;
     CREATE TABLE entries (
         run INTEGER NOT NULL REFERENCES runs(run) ON DELETE CASCADE,
         seq INTEGER NOT NULL,
         at INTEGER NOT NULL,
         kind TEXT NOT NULL,
         vm TEXT,
         body TEXT NOT NULL,
         PRIMARY KEY (run, seq)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE samples (
         run INTEGER NOT NULL REFERENCES runs(run) ON DELETE CASCADE,
         seq INTEGER NOT NULL,
         at INTEGER NOT NULL,
         vm TEXT NOT NULL,
         source INTEGER NOT NULL,
         body TEXT NOT NULL,
         PRIMARY KEY (run, seq)
     ) STRICT, WITHOUT ROWID;",
    // 2: plans and decisions of long runs are found without reading the whole run.
    "CREATE INDEX entries_by_kind ON entries (run, kind, seq);",
];

/// The version that this release writes.
#[expect(clippy::cast_possible_truncation, reason = "a handful of migrations")]
pub const SCHEMA_VERSION: u32 = MIGRATIONS.len() as u32;

/// Brings the file from `found` to the present version.
pub(crate) fn migrate(transaction: &Transaction<'_>, found: u32) -> rusqlite::Result<()> {
    for step in MIGRATIONS.iter().skip(found as usize) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)
}

/// Makes a file of an older version: for tests.
#[cfg(test)]
pub(crate) fn make_old(connection: &Connection, version: u32) -> rusqlite::Result<()> {
    for step in MIGRATIONS.iter().take(version as usize) {
        connection.execute_batch(step)?;
    }
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.pragma_update(None, "user_version", version)
}

/// Who made the file, and its version.
pub(crate) fn identity(connection: &Connection) -> rusqlite::Result<(i32, u32)> {
    let id = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok((id, version))
}
