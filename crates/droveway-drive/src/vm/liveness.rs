//! Whether the path of a post-copy is dead, found out by ourselves: TCP says so after some 15 minutes, and until then the guest
//! waits for its pages.
//!
//! Three witnesses are heard, each as far as it is there:
//!
//! | witness | says |
//! | --- | --- |
//! | the kernels | what the connections delivered, what is under way unacknowledged, what was sent again |
//! | a heartbeat | a datagram from host to host five times a second, and its answer |
//! | QEMU | how many bytes it has written; that runs ahead by what the send buffer holds |
//!
//! | verdict | needs |
//! | --- | --- |
//! | a cut path, soon | nothing delivered for [`SILENT`] while something is under way, sent again in vain, heartbeats unanswered |
//! | a cut path, with one witness less | the same for [`SILENT_ALONE`]: sent again in vain, or heartbeats unanswered |
//! | a cut path that was one before anybody looked | nothing delivered for [`STALL`] while something is under way, no heartbeat answered: it is sent again too rarely by then |
//! | a cut path under a stream that sends nothing | heartbeats, which were answered before, unanswered for [`IDLE`] |
//! | a dead connection over a living path | nothing delivered for [`STALL`] though it was sent again, and heartbeats are answered |
//! | no news at all | no kernel to ask, QEMU has written nothing for [`STALL`], no heartbeat is answered |
//!
//! A stream that is held back has nothing under way between two segments, and a frozen QEMU's kernel still acknowledges: neither
//! is a dead path. A controller that slept has seen nothing: time counts only if it was looked at.

use droveway_fleet::{Bytes, Timestamp};
use std::time::Duration;

/// What the kernels at both ends say of the connections of one migration. Counts are of whole connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionSample {
    /// Bytes that the source's and the target's ends know to have been delivered, in either direction.
    pub delivered: u64,
    /// Segments sent again.
    pub sent_again: u64,
    /// Segments that were sent and are not acknowledged yet. What waits unsent in a buffer is not among them.
    pub under_way: u64,
}

/// A heartbeat between the hosts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// One was sent.
    Sent,
    /// One was answered.
    Answered,
}

/// TCP sends again after 0.2, 0.6 and 1.4 s: by then two were in vain. A full queue holds a segment for 0.3 s at most (measured).
pub(super) const SILENT: Duration = Duration::from_millis(1_500);
/// The fourth one goes out after 3.0 s: enough without a heartbeat, or without the kernels' counts.
pub(super) const SILENT_ALONE: Duration = Duration::from_secs(4);
/// Heartbeats alone: some lost ones prove nothing, and a stream that sends nothing loses nothing by waiting.
pub(super) const IDLE: Duration = Duration::from_secs(5);
/// With only QEMU's word, or against the heartbeat's; or where nothing but silence is known: nobody acknowledges, and the next time
/// that it is sent again may be two minutes away.
pub(super) const STALL: Duration = Duration::from_secs(10);
/// A look at the kernels older than this is no witness of now: five looks are missing.
const FRESH: Duration = Duration::from_secs(1);
/// So many looks in a row have to agree: what happened while nobody looked is not known.
const LOOKS_LEAST: u32 = 5;
/// Segments sent again in vain: one may be a lost acknowledgement.
const AGAIN_LEAST: u64 = 2;
/// Heartbeats in a row without an answer: on a path that loses half of all datagrams that happens now and then, but there
/// something is delivered meanwhile.
const BEATS_LEAST: u32 = 4;
/// The same where nothing else is known.
const BEATS_ALONE: u32 = 15;

#[derive(Debug, Clone, Copy)]
struct Kernel {
    at: Timestamp,
    sample: ConnectionSample,
    delivered_at: Timestamp,
    /// What had been sent again by then.
    sent_again: u64,
    /// Since when something has been under way.
    under_way_since: Option<Timestamp>,
    /// Looks since then.
    looks: u32,
}

/// What the witnesses of one post-copy have said since it began, or went on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Liveness {
    written: Option<(Bytes, Timestamp)>,
    /// Looks at QEMU since it wrote something.
    looks: u32,
    kernel: Option<Kernel>,
    /// The last answer to a heartbeat.
    answered: Option<Timestamp>,
    /// Heartbeats since then.
    unanswered: u32,
}

impl Liveness {
    /// Post-copy begins, or goes on over another connection: what was said of the one before counts no more, but whether
    /// heartbeats are answered between these hosts at all is known.
    pub(super) fn begin(&mut self, now: Timestamp) {
        *self = Liveness { answered: self.answered.map(|_| now), ..Liveness::default() };
    }

    /// QEMU's count.
    pub(super) fn note_written(&mut self, now: Timestamp, bytes: Bytes) {
        if self.written.is_none_or(|(before, _)| bytes > before) {
            (self.written, self.looks) = (Some((bytes, now)), 0);
        } else {
            self.looks = self.looks.saturating_add(1);
        }
    }

    /// The kernels' counts.
    pub(super) fn note_connection(&mut self, now: Timestamp, sample: ConnectionSample) {
        let kernel = match self.kernel {
            Some(before) if sample.delivered == before.sample.delivered => {
                let since = before.under_way_since.filter(|_| sample.under_way > 0);
                Kernel {
                    at: now,
                    sample,
                    under_way_since: since.or((sample.under_way > 0).then_some(now)),
                    looks: before.looks.saturating_add(1),
                    ..before
                }
            }
            // More was delivered, or it is another connection, whose counts begin anew.
            _ => Kernel {
                at: now,
                sample,
                delivered_at: now,
                sent_again: sample.sent_again,
                under_way_since: (sample.under_way > 0).then_some(now),
                looks: 0,
            },
        };
        self.kernel = Some(kernel);
    }

    /// A heartbeat.
    pub(super) fn note_beat(&mut self, now: Timestamp, beat: Beat) {
        match beat {
            Beat::Sent => self.unanswered = self.unanswered.saturating_add(1),
            Beat::Answered => (self.answered, self.unanswered) = (Some(now), 0),
        }
    }

    /// Whether heartbeats are answered between these hosts, as far as is known; a firewall may hold them back.
    pub(super) const fn has_heartbeat(&self) -> bool {
        self.answered.is_some()
    }

    /// Whether one was answered since.
    pub(super) fn was_answered_since(&self, since: Timestamp) -> bool {
        self.answered.is_some_and(|at| at > since)
    }

    /// Gives up on heartbeats until one is answered: post-copy went on although they were not.
    pub(super) fn forget_heartbeat(&mut self) {
        (self.answered, self.unanswered) = (None, 0);
    }

    /// For how long heartbeats have not been answered, if they were before and enough are missing.
    fn unanswered_for(&self, now: Timestamp, least: u32) -> Option<Duration> {
        let at = self.answered.filter(|_| self.unanswered >= least)?;
        Some(now.since(at))
    }

    /// Why the path counts as dead, in words; `None`: it does not.
    pub(super) fn verdict(&self, now: Timestamp) -> Option<String> {
        let unanswered = self.unanswered_for(now, BEATS_LEAST);
        let answers = self.has_heartbeat() && unanswered.is_none();
        let beats = || match unanswered {
            Some(time) => {
                format!("{} heartbeats unanswered for {:.1} s", self.unanswered, time.as_secs_f64())
            }
            None if answers => "heartbeats are answered".to_owned(),
            None => "no heartbeat between these hosts".to_owned(),
        };
        let Some(kernel) = self.kernel.filter(|kernel| now.since(kernel.at) <= FRESH) else {
            let (_, written_at) = self.written?;
            let stalled = now.since(written_at);
            let counts = stalled >= STALL && self.looks >= LOOKS_LEAST && !answers;
            return counts.then(|| {
                format!("QEMU has sent nothing for {:.1} s; {}", stalled.as_secs_f64(), beats())
            });
        };
        let again = kernel.sample.sent_again.saturating_sub(kernel.sent_again);
        let Some(since) = kernel.under_way_since else {
            let counts = self
                .unanswered_for(now, BEATS_ALONE)
                .filter(|time| *time >= IDLE && now.since(kernel.delivered_at) >= IDLE);
            return counts.map(|_| format!("{}, and nothing was delivered meanwhile", beats()));
        };
        let silent = now.since(since.max(kernel.delivered_at));
        let in_vain = again >= AGAIN_LEAST;
        let counts = if answers {
            silent >= STALL && again > AGAIN_LEAST
        } else {
            let silenced = unanswered.is_some();
            silent >= SILENT && in_vain && silenced
                || silent >= SILENT_ALONE && (in_vain || silenced)
                || silent >= STALL
        };
        (counts && kernel.looks >= LOOKS_LEAST).then(|| {
            format!(
                "nothing was delivered for {:.1} s while {} segments were under way, {again} times sent again; {}",
                silent.as_secs_f64(),
                kernel.sample.under_way,
                beats()
            )
        })
    }
}

#[cfg(test)]
mod tests;
