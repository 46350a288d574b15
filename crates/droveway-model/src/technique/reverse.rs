//! The way back: acknowledgements, and the page requests of a guest that waits for its memory.
//!
//! The bytes are few; the delay is not. Where applications fill the direction in which they go, each of them stands in that
//! direction's queue, and a missing page costs that on top of everything else.

/// Acknowledgements per byte of payload: at most 90 bytes on the wire for two segments of 1448 bytes; less where the card
/// merges what it receives.
pub const ACKNOWLEDGEMENT_RATIO: f64 = 90.0 / (2.0 * 1448.0);

/// A page request on the wire: QEMU's message of at most 24 bytes with the headers of a frame of its own.
pub const REQUEST_BYTES: f64 = 100.0;

/// Below this load of the way back nothing stands in its queue, above it the queue is full (our choice).
pub const BUSY_RATIO: f64 = 0.9;

/// A full Ethernet frame with preamble, checksum and gap.
const FRAME_BYTES: f64 = 1538.0;

/// The queue before one direction of a port.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReverseQueue {
    /// Full frames that it holds.
    pub frames: f64,
    /// Seconds that an active queue management lets packets wait; `None`: it only drops what does not fit.
    pub target: Option<f64>,
}

impl ReverseQueue {
    /// What Linux gives an interface without a discipline of its own.
    pub const FIFO: ReverseQueue = ReverseQueue { frames: 1_000.0, target: None };
    /// CoDel's default.
    pub const CODEL: ReverseQueue = ReverseQueue { frames: 10_240.0, target: Some(0.005) };

    /// How long the last of a full queue waits, at so many bytes on the wire per second.
    #[must_use]
    pub fn depth_seconds(self, wire_rate: f64) -> f64 {
        let full = self.frames.max(0.0) * FRAME_BYTES / wire_rate.max(super::RATE_MIN);
        self.target.map_or(full, |target| full.min(target.max(0.0)))
    }

    /// How long what goes back waits when applications take the share `load` of that direction.
    #[must_use]
    pub fn delay_seconds(self, load: f64, wire_rate: f64) -> f64 {
        if load < BUSY_RATIO { 0.0 } else { self.depth_seconds(wire_rate) }
    }
}

/// What a missing page costs (`t_f`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultService {
    /// The round trip of an idle path, with both programs' work.
    pub round_trip: f64,
    /// Bytes of a page.
    pub page_bytes: f64,
    /// What the page travels at, bytes per second.
    pub rate: f64,
    /// The wait behind the background stream, seconds: none where requested pages go first or the stream is held back.
    pub behind_stream: f64,
    /// The wait of the request on its way back, seconds ([`ReverseQueue::delay_seconds`]).
    pub on_the_way_back: f64,
}

impl FaultService {
    /// Seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        let travel = self.page_bytes / self.rate.max(super::RATE_MIN);
        self.round_trip + travel + self.behind_stream + self.on_the_way_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes on the wire per second.
    const GIGABIT: f64 = 1e9 / 8.0;

    #[track_caller]
    fn near(got: f64, printed: f64, digit: f64) {
        assert!(
            (got - printed).abs() <= (0.001 * printed).max(digit / 2.0),
            "{got}, not {printed}"
        );
    }

    #[test]
    fn a_thousand_frames_hold_twelve_milliseconds_and_aqm_five() {
        near(ReverseQueue::FIFO.depth_seconds(GIGABIT), 0.0123, 0.0001);
        near(ReverseQueue::CODEL.depth_seconds(GIGABIT), 0.005, 0.0001);
        // A queue that drains sooner than the target is not held up to it.
        near(
            ReverseQueue { target: Some(0.005), ..ReverseQueue::FIFO }
                .depth_seconds(10.0 * GIGABIT),
            0.00123,
            0.00001,
        );
    }

    #[test]
    fn below_nine_tenths_of_load_nothing_waits() {
        for queue in [ReverseQueue::FIFO, ReverseQueue::CODEL] {
            for load in [0.0, 0.5, 0.89] {
                near(queue.delay_seconds(load, GIGABIT), 0.0, 0.0);
            }
            for load in [0.9, 1.0] {
                near(queue.delay_seconds(load, GIGABIT), queue.depth_seconds(GIGABIT), 0.0);
            }
        }
    }

    /// An idle path's fault takes half a millisecond; behind a full FIFO it takes the 12.8 ms with which a guest loses nearly
    /// all of its time (see the brownout's goldens).
    #[test]
    fn a_full_queue_on_the_way_back_is_most_of_a_fault() {
        let fault = |load| {
            FaultService {
                round_trip: 0.000_465,
                page_bytes: 4096.0,
                rate: 117.7e6,
                behind_stream: 0.0,
                on_the_way_back: ReverseQueue::FIFO.delay_seconds(load, GIGABIT),
            }
            .seconds()
        };
        near(fault(0.5), 0.0005, 0.000_01);
        near(fault(1.0), 0.0128, 0.0001);
    }

    #[test]
    fn acknowledgements_are_three_percent() {
        near(ACKNOWLEDGEMENT_RATIO, 0.031, 0.001);
        near(112.0 * ACKNOWLEDGEMENT_RATIO, 3.5, 0.1);
        near(crate::fluid::Constants::PRIOR.acknowledgement_ratio, ACKNOWLEDGEMENT_RATIO, 0.001);
    }
}
