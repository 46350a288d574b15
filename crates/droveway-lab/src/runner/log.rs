//! Logs of samples: one JSON value a line, one write per line, bounded in size.

use super::event;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A log that grows past this is put aside as `.1`, in place of the one before. At 3 kB/s (a memcached client's, the
/// largest) it holds six hours, far more than a run; together with `.1` it bounds what a forgotten lab fills of `/run`.
const LOG_BYTES_MAX: u64 = 64 << 20;

/// A log that is written.
#[derive(Debug)]
pub(crate) struct SampleLog {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    failing: bool,
}

impl SampleLog {
    /// Opens a log, to go on after its last whole line.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::bounded(path, LOG_BYTES_MAX)
    }

    fn bounded(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64)?;
        let path = path.to_owned();
        Ok(SampleLog { path, file, bytes: whole as u64, bytes_max, failing: false })
    }

    /// Writes one line. A full disk costs samples, not the application: it is told once, and again when it is over.
    pub(crate) fn write<T: Serialize>(&mut self, sample: &T) {
        let result = self.try_write(sample);
        let failing = result.is_err();
        if let Err(error) = result {
            // A part of a line must not stand before the next one.
            let _ = self.file.set_len(self.bytes);
            if !self.failing {
                event(&format!("could not write {}: {error}", self.path.display()));
            }
        } else if self.failing {
            event(&format!("{} can be written again", self.path.display()));
        }
        self.failing = failing;
    }

    fn try_write<T: Serialize>(&mut self, sample: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(sample)?;
        line.push(b'\n');
        let length = line.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.bytes_max {
            fs::rename(&self.path, aside(&self.path))?;
            self.file = OpenOptions::new().append(true).create_new(true).open(&self.path)?;
            self.bytes = 0;
        }
        self.file.write_all(&line)?;
        self.bytes += length;
        Ok(())
    }
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Every sample of a log, oldest first, with those that were put aside. The log may be in the middle of being written: a
/// torn last line is left out.
///
/// # Errors
/// When the log cannot be read, or a line other than the last is no such sample.
pub fn read_log<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    // The current one is opened first: if it is put aside between the two calls, both are the same file.
    let current = File::open(path)?;
    let older = match File::open(aside(path)) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let mut samples = Vec::new();
    if let Some(older) = older.filter(|older| !is_same(older, &current)) {
        parse(older, &aside(path), &mut samples)?;
    }
    parse(current, path, &mut samples)?;
    Ok(samples)
}

fn is_same(one: &File, other: &File) -> bool {
    let identity = |file: &File| file.metadata().map(|m| (m.dev(), m.ino())).ok();
    identity(one) == identity(other)
}

fn parse<T: DeserializeOwned>(mut file: File, path: &Path, samples: &mut Vec<T>) -> io::Result<()> {
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    let whole = content.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    for (index, line) in content[..whole].split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let sample = serde_json::from_slice(line).map_err(|error| {
            let what = format!("{}, line {}: {error}", path.display(), index + 1);
            io::Error::new(ErrorKind::InvalidData, what)
        })?;
        samples.push(sample);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_last_line_is_left_out_and_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        fs::write(&path, "1\n2\n3").unwrap();
        assert_eq!(read_log::<u32>(&path).unwrap(), [1, 2]);
        SampleLog::open(&path).unwrap().write(&4);
        assert_eq!(read_log::<u32>(&path).unwrap(), [1, 2, 4]);
        fs::write(&path, "7").unwrap();
        assert!(read_log::<u32>(&path).unwrap().is_empty());
        fs::write(&path, "1\nx\n2\n").unwrap();
        let error = read_log::<u32>(&path).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(read_log::<u32>(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_long_log_keeps_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let mut log = SampleLog::bounded(&path, 10).unwrap();
        for number in 100..108 {
            log.write(&number);
        }
        // Two lines of four bytes fit into ten: the last four numbers are kept.
        assert_eq!(read_log::<u32>(&path).unwrap(), [104, 105, 106, 107]);
        assert_eq!(fs::read_to_string(aside(&path)).unwrap(), "104\n105\n");
    }
}
