//! Every bound of this crate, each with its reason.

use std::time::Duration;

/// Longest line accepted or sent, in bytes. The longest honest line, the reply to `query-qmp-schema`, has 236 kB on
/// QEMU 10.0; 16 MiB leaves room for growth and still keeps a mad peer from eating the memory.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// Bytes of a malformed line that are kept for the log.
pub const EXCERPT_BYTES_MAX: usize = 120;

/// Commands in flight in band. QEMU queues 8 requests per monitor and stops *reading* when the queue is full, which
/// would also hold up an out-of-band command; one fewer keeps that lane open. An abandoned command (timed out, dropped)
/// counts until its reply comes, because it still sits in QEMU's queue.
pub const IN_BAND_MAX: usize = 7;

/// Commands in flight out of band. QEMU runs them one by one; a driver needs two at a time (pause and yank).
pub const OUT_OF_BAND_MAX: usize = 4;

/// Callers that may wait for a place in flight. A driver has one or two; more means a loop that doesn't look at replies.
pub const CALLERS_MAX: usize = 64;

/// Notices a subscriber may be behind before it loses the oldest. A migration emits about ten events plus one per pass;
/// 1024 covers seconds of stalled subscriber even with `BALLOON_CHANGE` or `RTC_CHANGE` storms.
pub const EVENT_BUFFER: usize = 1024;

/// Malformed lines in a row after which the peer is taken for something that doesn't speak QMP.
pub const MALFORMED_IN_A_ROW_MAX: u32 = 16;

/// Connection attempts before giving up, whatever the deadline: at [`CONNECT_PAUSE_MAX`] each, about 100 s.
pub const CONNECT_ATTEMPTS_MAX: u32 = 500;

/// First pause between two connection attempts: QEMU makes its socket some 10 ms after it starts.
pub const CONNECT_PAUSE_MIN: Duration = Duration::from_millis(5);

/// Longest pause between two connection attempts: short beside any deadline a person gives.
pub const CONNECT_PAUSE_MAX: Duration = Duration::from_millis(200);

/// Longest wait for one connection attempt: a TCP handshake into a black hole would take minutes.
pub const CONNECT_ATTEMPT_MAX: Duration = Duration::from_secs(5);

/// Default wait for a reply. QEMU answers in milliseconds; switchover and device load hold its main loop for a second or
/// two. [`Client::with_timeout`](crate::Client::with_timeout) changes it.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long replies that had already arrived are still read after writing failed: they are in our own socket buffer.
pub const DRAIN_AFTER_WRITE_ERROR: Duration = Duration::from_millis(500);
