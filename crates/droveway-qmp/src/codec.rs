//! Newline-delimited JSON, as QMP speaks it: [`FrameDecoder`] turns arbitrary chunks into [`Frame`]s.
//!
//! A line that isn't a QMP message becomes [`Frame::Malformed`] and decoding goes on at the next newline, because QMP
//! puts one message on one line. A line longer than the bound ends decoding with [`FrameError::TooLong`]: the reply it
//! may have been is lost, and an owner who knows that the connection is gone is better off than one who waits.
//! Empty lines and a `\r` before the newline are ignored.
//!
//! Fuzzing, from the repository's root: `RUSTC_BOOTSTRAP=1 cargo fuzz run frame_decoder -- -max_total_time=60`.

use crate::{Incoming, bounds};
use bytes::{Buf, BytesMut};
use std::io;
use tokio_util::codec::Decoder;

/// One line from a monitor.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// A message.
    Message(Incoming),
    /// A line that is no message.
    Malformed {
        /// What is wrong with it.
        reason: String,
        /// The start of it, with unprintable characters replaced.
        excerpt: String,
    },
}

/// Why decoding ended.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Reading failed.
    #[error("cannot read from the monitor")]
    Io(#[from] io::Error),
    /// A line without end.
    #[error("line longer than {bound} bytes")]
    TooLong {
        /// The bound.
        bound: usize,
    },
}

/// Decodes lines of at most [`bounds::LINE_BYTES_MAX`] bytes.
#[derive(Debug, Clone)]
pub struct FrameDecoder {
    bound: usize,
    /// Bytes at the start of the buffer known to hold no newline: long lines must not be searched again per chunk.
    searched: usize,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        FrameDecoder::with_bound(bounds::LINE_BYTES_MAX)
    }
}

impl FrameDecoder {
    /// A decoder with a bound of its own, for tests.
    #[must_use]
    pub fn with_bound(bound: usize) -> Self {
        FrameDecoder { bound, searched: 0 }
    }
}

impl Decoder for FrameDecoder {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            let searched = self.searched.min(buffer.len());
            let Some(at) = buffer[searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = buffer.len();
                return if buffer.len() > self.bound {
                    Err(FrameError::TooLong { bound: self.bound })
                } else {
                    Ok(None)
                };
            };
            self.searched = 0;
            let length = searched + at;
            if length > self.bound {
                return Err(FrameError::TooLong { bound: self.bound });
            }
            let line = buffer.split_to(length);
            buffer.advance(1);
            if let Some(frame) = read_line(&line) {
                return Ok(Some(frame));
            }
        }
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some(frame) = self.decode(buffer)? {
            return Ok(Some(frame));
        }
        // QMP ends every message with a newline, so a rest without one was cut off.
        self.searched = 0;
        let rest = buffer.split();
        let blank = rest.iter().all(u8::is_ascii_whitespace);
        Ok((!blank).then(|| Frame::Malformed {
            reason: "cut off by the end of the stream".to_owned(),
            excerpt: excerpt(&rest),
        }))
    }
}

fn read_line(line: &[u8]) -> Option<Frame> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return None;
    }
    Some(match Incoming::read(line) {
        Ok(message) => Frame::Message(message),
        Err(reason) => Frame::Malformed { reason, excerpt: excerpt(line) },
    })
}

fn excerpt(line: &[u8]) -> String {
    let start = &line[..line.len().min(bounds::EXCERPT_BYTES_MAX)];
    let printable = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    String::from_utf8_lossy(start).chars().map(printable).collect()
}

#[cfg(test)]
mod tests;
