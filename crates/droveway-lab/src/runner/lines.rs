//! Lines from a pipe or a connection, with a bound on every wait.

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use std::{
    io::{self, Read},
    os::fd::AsFd,
    time::{Duration, Instant},
};

/// The longest line that is kept together; what writes to us has lines of some hundred bytes.
const LINE_BYTES_MAX: usize = 4096;

/// What a wait for a line came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Line(String),
    Nothing,
    End,
}

/// A source of lines.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    source: R,
    pending: Vec<u8>,
}

impl<R: Read + AsFd> Lines<R> {
    pub(crate) const fn new(source: R) -> Self {
        Lines { source, pending: Vec::new() }
    }

    /// The next line without its end, waited for at most so long.
    pub(crate) fn next(&mut self, patience: Duration) -> io::Result<Heard> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Heard::Line(line));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut polled = [PollFd::new(self.source.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, wait) {
                Ok(0) if left < Duration::from_millis(1) => return Ok(Heard::Nothing),
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            let mut chunk = [0; LINE_BYTES_MAX];
            match self.source.read(&mut chunk) {
                Ok(0) => return Ok(Heard::End),
                Ok(length) => self.pending.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take_line(&mut self) -> Option<String> {
        let end = self.pending.iter().position(|byte| *byte == b'\n');
        let (length, used) = match end {
            Some(end) => (end, end + 1),
            None if self.pending.len() >= LINE_BYTES_MAX => (LINE_BYTES_MAX, LINE_BYTES_MAX),
            None => return None,
        };
        let line = String::from_utf8_lossy(&self.pending[..length]).trim_end().to_owned();
        self.pending.drain(..used);
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_come_whole_however_they_are_written() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut lines = Lines::new(reader);
        let soon = Duration::from_millis(10);
        writer.write_all(b"one\ntwo\r\nthr").unwrap();
        assert_eq!(lines.next(soon).unwrap(), Heard::Line("one".to_owned()));
        assert_eq!(lines.next(soon).unwrap(), Heard::Line("two".to_owned()));
        assert_eq!(lines.next(soon).unwrap(), Heard::Nothing);
        writer.write_all(b"ee\n").unwrap();
        drop(writer);
        assert_eq!(lines.next(soon).unwrap(), Heard::Line("three".to_owned()));
        assert_eq!(lines.next(soon).unwrap(), Heard::End);
    }
}
