//! What the fluid model answers.

use super::problem::Gang;

/// How a gang fares.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Course {
    /// One entry a move.
    pub moves: Vec<MoveCourse>,
    /// One entry a flow.
    pub flows: Vec<FlowCourse>,
    /// First start to last end, seconds.
    pub total_seconds: f64,
    /// Bytes that the moves sent.
    pub sent_bytes: f64,
    /// Bytes that applications did not get.
    pub lost_bytes: f64,
    /// True if every move ended at its target.
    pub completed: bool,
}

/// How a move ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MoveEnd {
    /// It runs at the target.
    Completed,
    /// It did not converge and stays at the source.
    StaysAtSource,
    /// It had not ended when the play did.
    #[default]
    Unfinished,
}

/// How one move fares. Seconds and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MoveCourse {
    /// How it ended.
    pub end: MoveEnd,
    /// When it started.
    pub start_seconds: f64,
    /// When it ended.
    pub end_seconds: f64,
    /// No vCPU runs.
    pub downtime_seconds: f64,
    /// The longest silence that a client sees.
    pub outage_seconds: f64,
    /// CPU time that the guest waits for its pages after a switch to post-copy, silent or not: what QEMU counts as
    /// `postcopy-blocktime`.
    pub blocked_seconds: f64,
    /// What of that comes after the outage: it answers, but is slow. How long its memory is split says little about it: over tuned
    /// sockets guests that wrote nothing waited for 0.0 to 0.4 s more in 9 to 57 s, writers for 1 to 4 s in 10 s (measured).
    pub brownout_seconds: f64,
    /// Sent.
    pub bytes: f64,
    /// Passes while it ran at the source.
    pub passes: u32,
    /// Its memory is split between two hosts.
    pub exposure_seconds: f64,
    /// True if pre-copy ended by itself.
    pub converged: bool,
    /// True if the fallback was taken.
    pub fell_back: bool,
    /// The share of the guest's CPU time that throttling took in the end.
    pub throttle: f64,
}

impl MoveCourse {
    /// Start to end.
    #[must_use]
    pub fn duration_seconds(&self) -> f64 {
        self.end_seconds - self.start_seconds
    }
}

/// How one flow fares.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FlowCourse {
    /// What it gets without any move, bytes per second.
    pub baseline: f64,
    /// What it carried while moves ran.
    pub carried_bytes: f64,
    /// What it did not carry against the baseline.
    pub lost_bytes: f64,
    /// The largest shortfall, bytes per second.
    pub worst_loss: f64,
}

impl Course {
    pub(super) fn new(gang: &Gang) -> Self {
        Course {
            moves: vec![MoveCourse::default(); gang.moves.len()],
            flows: vec![FlowCourse::default(); gang.flows.len()],
            ..Course::default()
        }
    }

    pub(super) fn finish(&mut self) {
        let start = self.moves.iter().map(|m| m.start_seconds).fold(f64::INFINITY, f64::min);
        let end = self.moves.iter().map(|m| m.end_seconds).fold(0.0, f64::max);
        self.total_seconds = if self.moves.is_empty() { 0.0 } else { (end - start).max(0.0) };
        self.sent_bytes = self.moves.iter().map(|m| m.bytes).sum();
        self.lost_bytes = self.flows.iter().map(|f| f.lost_bytes).sum();
        self.completed = self.moves.iter().all(|m| m.end == MoveEnd::Completed);
    }
}
