//! The path between the hosts while VMs move, and what it costs a guest that waits for its pages.

use std::time::Duration;

/// What is worse about a path than when the run began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Degraded {
    /// A round trip lasts so much longer.
    pub round_trip: Duration,
    /// Such a share of segments is sent again.
    pub sent_again: f64,
}

/// A segment that is lost at the end of what is sent, as the answer to a page request is, is sent again after this at the
/// earliest (Linux, `TCP_RTO_MIN`).
const SENT_AGAIN_AFTER: Duration = Duration::from_millis(200);

impl Degraded {
    /// What each page that a guest waits for takes longer, seconds: the round trip, and the chance that it is lost.
    #[must_use]
    pub fn fault_seconds(&self) -> f64 {
        let lost = self.sent_again.clamp(0.0, 1.0) * SENT_AGAIN_AFTER.as_secs_f64();
        self.round_trip.as_secs_f64() + lost
    }
}

impl std::fmt::Display for Degraded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let milliseconds = self.round_trip.as_secs_f64() * 1e3;
        let percent = self.sent_again * 100.0;
        write!(f, "round trips {milliseconds:.0} ms longer, {percent:.1} % of segments sent again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_waits_for_its_round_trip_and_for_what_is_lost() {
        let path = Degraded { round_trip: Duration::from_millis(40), sent_again: 0.05 };
        assert!((path.fault_seconds() - 0.05).abs() < 1e-9, "{}", path.fault_seconds());
        assert_eq!(path.to_string(), "round trips 40 ms longer, 5.0 % of segments sent again");
    }
}
