//! Deadlines and urgency: the rate that a deadline needs, whether a gang's deadlines can be met at all, the pace that keeps
//! one, and the ladder of what to do when one is at risk.

use droveway_fleet::DirtyCurve;
use serde::{Deserialize, Serialize};

/// The rates that a deadline needs, by technique; `None`: no rate would do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequiredRates {
    /// Pre-copy: `D + V/d`.
    pub pre_copy: f64,
    /// Hybrid: the least with `V/R + u(V/R)/R <= d`.
    pub hybrid: f64,
    /// Post-copy: `V/d`.
    pub post_copy: f64,
}

/// Bisections of a rate: to a part in a billion of any rate there is.
const BISECTIONS: u32 = 100;

/// The rates that a VM needs to be moved in `time` seconds, fixed times already taken off. Infinite for no time.
#[must_use]
pub fn required_rates(send_bytes: f64, curve: &DirtyCurve, time: f64) -> RequiredRates {
    if time <= 0.0 {
        let never = f64::INFINITY;
        return RequiredRates { pre_copy: never, hybrid: never, post_copy: never };
    }
    let post_copy = send_bytes / time;
    let fits = |rate: f64| {
        let first = send_bytes / rate;
        first + curve.unique_bytes(first) / rate <= time
    };
    let (mut low, mut high) = (post_copy, post_copy.max(f64::MIN_POSITIVE));
    // What is dirtied is never more than the memory, so twice the rate is more than enough; the bound is for curves that
    // know no memory.
    for _ in 0..BISECTIONS {
        if fits(high) {
            break;
        }
        high *= 2.0;
    }
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if fits(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    RequiredRates { pre_copy: curve.initial_rate() + post_copy, hybrid: high, post_copy }
}

/// When a VM of a gang would be done, and how long before its deadline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slack {
    /// Which one, as given.
    pub index: usize,
    /// When it is done, served by earliest deadline.
    pub finish: f64,
    /// How long before its deadline; below zero: it is missed.
    pub slack: f64,
}

/// Whether deadlines can be met at a rate: those of `(bytes, deadline)`, served by earliest deadline. They can if and only
/// if no slack is below zero (for one channel, earliest deadline first misses none that any order would meet).
#[must_use]
pub fn feasibility(work: &[(f64, f64)], rate: f64) -> Vec<Slack> {
    let mut order: Vec<usize> = (0..work.len()).collect();
    order.sort_by(|a, b| work[*a].1.total_cmp(&work[*b].1));
    let mut now = 0.0;
    order
        .into_iter()
        .map(|index| {
            let (bytes, deadline) = work[index];
            now += bytes / rate.max(f64::MIN_POSITIVE);
            Slack { index, finish: now, slack: deadline - now }
        })
        .collect()
}

/// How a stream is paced towards a deadline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Headroom over what is needed.
    pub headroom: f64,
    /// Never slower.
    pub rate_min: f64,
    /// Never faster: the class's maximum.
    pub rate_max: f64,
}

/// A pace, and whether it is enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paced {
    /// The rate.
    pub rate: f64,
    /// True if the deadline needs more than the maximum.
    pub at_risk: bool,
}

/// A cap is changed only if it moves by more than this share: every change costs the stream a tenth of a second.
pub const PACE_TOLERANCE: f64 = 0.05;

impl Pace {
    /// The rate for what remains. `remaining` is to be taken at pass boundaries: between them it is a saw-tooth.
    #[must_use]
    pub fn rate(&self, remaining: f64, dirty_rate: f64, time_left: f64) -> Paced {
        if time_left <= 0.0 {
            return Paced { rate: self.rate_max, at_risk: true };
        }
        let needed = (remaining + dirty_rate * time_left) / time_left * (1.0 + self.headroom);
        Paced {
            rate: needed.clamp(self.rate_min, self.rate_max.max(self.rate_min)),
            at_risk: needed > self.rate_max,
        }
    }
}

/// What is done for a deadline at risk, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// Nothing is needed.
    Calm,
    /// The stream gets all that its class may have.
    FullRate,
    /// Streams of lower urgency pause.
    OthersPause,
    /// The VM switches to post-copy, where allowed.
    PostCopy,
    /// The guest is throttled.
    Throttle,
    /// The downtime may be as long as the VM bears.
    LongerDowntime,
    /// It cannot be met: the operator is told.
    Infeasible,
}

impl Rung {
    const ALL: [Rung; 7] = [
        Rung::Calm,
        Rung::FullRate,
        Rung::OthersPause,
        Rung::PostCopy,
        Rung::Throttle,
        Rung::LongerDowntime,
        Rung::Infeasible,
    ];
}

/// The ladder: one rung a pass boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ladder {
    /// Where it stands.
    pub rung: Rung,
    calm_boundaries: u32,
}

/// A step back needs this share of the deadline as slack, so often in a row.
const CALM_SHARE: f64 = 0.1;
const CALM_BOUNDARIES: u32 = 2;

impl Default for Ladder {
    fn default() -> Self {
        Ladder { rung: Rung::Calm, calm_boundaries: 0 }
    }
}

impl Ladder {
    /// Takes the laxity (deadline less forecast) at a pass boundary; rungs of which `allowed` says no are passed over.
    pub fn observe(&mut self, laxity: f64, deadline: f64, allowed: impl Fn(Rung) -> bool) -> Rung {
        if laxity < 0.0 {
            self.calm_boundaries = 0;
            let next = Rung::ALL.into_iter().find(|rung| *rung > self.rung && allowed(*rung));
            self.rung = next.unwrap_or(Rung::Infeasible);
        } else if laxity > CALM_SHARE * deadline {
            self.calm_boundaries += 1;
            // A switch to post-copy is not taken back.
            if self.calm_boundaries >= CALM_BOUNDARIES && self.rung != Rung::PostCopy {
                self.calm_boundaries = 0;
                let lower =
                    Rung::ALL.into_iter().rev().find(|rung| *rung < self.rung && allowed(*rung));
                self.rung = lower.unwrap_or(Rung::Calm);
            }
        } else {
            self.calm_boundaries = 0;
        }
        self.rung
    }
}

/// Low urgency: the rate that takes nothing from applications, if the VM can be moved at it; `None`: wait for a quieter
/// time. `headroom` is a share of the capacity.
#[must_use]
pub fn gentle_rate(capacity: f64, applications: f64, dirty_rate: f64, headroom: f64) -> Option<f64> {
    let rate = capacity - applications - headroom * capacity;
    (rate > dirty_rate && rate > 0.0).then_some(rate)
}

/// What a plan costs, part by part; the weights are configuration.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Objective {
    /// First start to last end.
    pub total_seconds: f64,
    /// Silences, each weighted by its VM's priority.
    pub outage_seconds: f64,
    /// Bytes that applications do not get.
    pub lost_bytes: f64,
    /// VM-seconds with memory split between two hosts.
    pub exposure_seconds: f64,
    /// Deadlines missed.
    pub missed: f64,
}

impl Objective {
    /// The weighted sum, weights in the same order.
    #[must_use]
    pub fn weighted(&self, weights: &Objective) -> f64 {
        self.total_seconds * weights.total_seconds
            + self.outage_seconds * weights.outage_seconds
            + self.lost_bytes * weights.lost_bytes
            + self.exposure_seconds * weights.exposure_seconds
            + self.missed * weights.missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn golden(got: f64, printed: f64, digit: f64) {
        let tolerance = (0.001 * printed.abs()).max(digit / 2.0);
        assert!((got - printed).abs() <= tolerance, "{got}, not {printed}");
    }

    #[test]
    fn deadlines_need_rates() {
        let curve = DirtyCurve::Uniform { dirty_bytes_per_second: 20.0, memory_bytes: 4096.0 };
        for (time, pre, hybrid, post) in
            [(60.0, 88.27, 84.44, 68.27), (40.0, 122.4, 119.5, 102.4)]
        {
            let got = required_rates(4096.0, &curve, time);
            golden(got.pre_copy, pre, 0.01);
            golden(got.hybrid, hybrid, 0.1);
            golden(got.post_copy, post, 0.01);
        }
        assert!(required_rates(4096.0, &curve, 30.0).post_copy > 112.0);
        assert!(required_rates(4096.0, &curve, 0.0).post_copy.is_infinite());
    }

    #[test]
    fn earliest_deadlines_come_first() {
        let work = [(4000.0, 60.0), (2000.0, 30.0), (3000.0, 100.0)];
        let got = feasibility(&work, 100.0);
        let finishes: Vec<_> = got.iter().map(|slack| (slack.index, slack.finish, slack.slack)).collect();
        assert_eq!(finishes, [(1, 20.0, 10.0), (0, 60.0, 0.0), (2, 90.0, 10.0)]);
    }

    #[test]
    fn a_pace_keeps_a_deadline() {
        let pace = Pace { headroom: 0.05, rate_min: 5.0, rate_max: 106.4 };
        let calm = pace.rate(3000.0, 10.0, 60.0);
        golden(calm.rate, 63.0, 0.1);
        golden(pace.rate(500.0, 10.0, 60.0).rate, 19.25, 0.01);
        let late = pace.rate(3000.0, 10.0, 10.0);
        golden(late.rate, 106.4, 0.1);
        assert!(late.at_risk && !calm.at_risk);
    }

    #[test]
    fn the_ladder_climbs_a_rung_at_a_time_and_comes_down_slowly() {
        let mut ladder = Ladder::default();
        let no_postcopy = |rung| rung != Rung::PostCopy;
        let up: Vec<_> = (0..6).map(|_| ladder.observe(-1.0, 60.0, no_postcopy)).collect();
        let expected = [
            Rung::FullRate,
            Rung::OthersPause,
            Rung::Throttle,
            Rung::LongerDowntime,
            Rung::Infeasible,
            Rung::Infeasible,
        ];
        assert_eq!(up, expected);
        assert_eq!(ladder.observe(10.0, 60.0, no_postcopy), Rung::Infeasible);
        assert_eq!(ladder.observe(10.0, 60.0, no_postcopy), Rung::LongerDowntime);
        // Within a tenth of the deadline nothing moves.
        assert!((0..9).all(|_| ladder.observe(3.0, 60.0, no_postcopy) == Rung::LongerDowntime));
        let mut split = Ladder { rung: Rung::PostCopy, ..Ladder::default() };
        assert!((0..9).all(|_| split.observe(50.0, 60.0, |_| true) == Rung::PostCopy));
    }

    #[test]
    fn low_urgency_takes_what_is_left() {
        assert_eq!(gentle_rate(100.0, 50.0, 20.0, 0.05), Some(45.0));
        assert_eq!(gentle_rate(100.0, 80.0, 20.0, 0.05), None);
    }

    proptest! {
        #[test]
        fn a_hybrid_needs_a_rate_between_the_others_where_dirtying_is_bounded(
            send in 1.0..1e6_f64, dirty in 0.0..1e4_f64, time in 0.1..1e4_f64,
        ) {
            let curve = DirtyCurve::Uniform { dirty_bytes_per_second: dirty, memory_bytes: send };
            let got = required_rates(send, &curve, time);
            prop_assert!(got.hybrid >= got.post_copy * (1.0 - 1e-9));
            prop_assert!(got.hybrid <= 2.0 * got.post_copy * (1.0 + 1e-6));
            let first = send / got.hybrid;
            prop_assert!(first + curve.unique_bytes(first) / got.hybrid <= time * (1.0 + 1e-6));
        }
    }
}
