//! Deadlines and urgency: the rate that a deadline needs, whether a gang's deadlines can be met at all, the pace that keeps
//! one, and the ladder of what to do when one is at risk.

use crate::gangs::earliest_deadline_first;
use crate::technique::{PreCopyInput, StopRule, pre_copy};
use droveway_fleet::{DirtyCurve, Urgency};
use serde::{Deserialize, Serialize};

/// The largest share of a port that a reservation takes (attributed to `SOLive`; nothing takes more than the highest, so
/// that hosts can still be reached).
#[must_use]
pub const fn share_max(urgency: Urgency) -> f64 {
    match urgency {
        Urgency::Low => 0.55,
        Urgency::Medium => 0.75,
        Urgency::High | Urgency::Critical => 0.95,
    }
}

/// The share of a port that is reserved for a move, and whether it is enough.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reservation {
    /// Of the port's capacity.
    pub share: f64,
    /// False: the deadline needs more than the urgency may take.
    pub enough: bool,
}

/// The smallest reservation that gives the rate that a deadline needs; the urgency is its upper bound.
#[must_use]
pub fn reservation(needed_rate: f64, capacity: f64, urgency: Urgency) -> Reservation {
    let share_max = share_max(urgency);
    // Also false for no capacity at all, or no number.
    let enough = needed_rate <= share_max * capacity;
    let share = if enough && capacity > 0.0 { needed_rate.max(0.0) / capacity } else { share_max };
    Reservation { share, enough }
}

/// The rates that a deadline needs, by technique; infinite where no rate would do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequiredRates {
    /// Pre-copy, down to the last byte, if dirtying never slackens: `D + V/d`. See [`pre_copy_rate`] for one that knows the
    /// curve.
    pub pre_copy: f64,
    /// Hybrid: the least with `V/R + u(V/R)/R <= d`.
    pub hybrid: f64,
    /// Post-copy: `V/d`.
    pub post_copy: f64,
}

/// Halvings of a range of rates: to the last digit.
const BISECTIONS: u32 = 60;

/// The rates that a VM needs to be moved in `time` seconds, fixed times already taken off. Infinite for no time.
#[must_use]
pub fn required_rates(send_bytes: f64, curve: &DirtyCurve, time: f64) -> RequiredRates {
    if time <= 0.0 {
        let never = f64::INFINITY;
        return RequiredRates { pre_copy: never, hybrid: never, post_copy: never };
    }
    let post_copy = send_bytes / time;
    // A curve that bends dirties no more than at first, so at this rate all passes of a pre-copy fit.
    let pre_copy = curve.initial_rate() + post_copy;
    let hybrid = least_rate(post_copy, pre_copy, |rate| {
        let first = send_bytes / rate;
        first + curve.unique_bytes(first) / rate <= time
    });
    RequiredRates { pre_copy, hybrid, post_copy }
}

/// Passes that a rate is tried with; what needs more needs a higher rate.
const PASSES_TRIED: u32 = 1_000;

/// The least rate at which a pre-copy ends within `time` seconds, fixed times already taken off, when `downtime_limit`
/// seconds of it may be downtime: dirtying that slackens needs less than `D + V/d`, which is the upper bound. Infinite for
/// no time.
#[must_use]
pub fn pre_copy_rate(send_bytes: f64, curve: &DirtyCurve, time: f64, downtime_limit: f64) -> f64 {
    let bounds = required_rates(send_bytes, curve, time);
    if bounds.pre_copy.is_infinite() {
        return bounds.pre_copy;
    }
    let mut input = PreCopyInput {
        send_bytes,
        zero_bytes: 0.0,
        rate: 0.0,
        switchover_rate: 0.0,
        downtime_limit,
        state_bytes: 0.0,
        setup: 0.0,
        switch_time: 0.0,
        resume_time: 0.0,
        zero_scan: 0.0,
        curve: curve.clone(),
        max_passes: PASSES_TRIED,
        rule: StopRule::PassBoundary,
        throttle: None,
    };
    least_rate(bounds.post_copy, bounds.pre_copy, |rate| {
        (input.rate, input.switchover_rate) = (rate, rate);
        let course = pre_copy(&input);
        course.converged && course.duration <= time
    })
}

/// The least rate that fits, from one that is too low and one that should do; infinite if none is found.
fn least_rate(mut low: f64, mut high: f64, mut fits: impl FnMut(f64) -> bool) -> f64 {
    // A curve that jumps at zero knows no first rate.
    let mut doublings = 0;
    while !fits(high) {
        if doublings == BISECTIONS || !high.is_finite() {
            return f64::INFINITY;
        }
        (low, high) = (high, high * 2.0);
        doublings += 1;
    }
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if fits(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// A rate from a time on, until the next one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateStep {
    /// From when on.
    pub from: f64,
    /// The rate.
    pub rate: f64,
}

/// Bytes to be moved by a deadline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// What the chosen technique is forecast to send.
    pub bytes: f64,
    /// By when.
    pub deadline: f64,
}

/// When a VM of a gang would be done, and how long before its deadline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slack {
    /// Which one, as given.
    pub index: usize,
    /// When it is done, served by earliest deadline; infinite: never.
    pub finish: f64,
    /// How long before its deadline; below zero: it is missed.
    pub slack: f64,
}

/// Whether deadlines can be met at a rate that changes by steps (ascending times, none before the first), served by
/// earliest deadline. They can if and only if no slack is below zero: for one channel, earliest deadline first misses none
/// that another order would meet.
#[must_use]
pub fn feasibility(work: &[Work], rate: &[RateStep]) -> Vec<Slack> {
    let deadlines: Vec<f64> = work.iter().map(|work| work.deadline).collect();
    let mut bytes = 0.0;
    earliest_deadline_first(&deadlines)
        .into_iter()
        .map(|index| {
            bytes += work[index].bytes;
            let finish = time_of(bytes, rate);
            Slack { index, finish, slack: work[index].deadline - finish }
        })
        .collect()
}

/// When so many bytes have been moved.
fn time_of(bytes: f64, rate: &[RateStep]) -> f64 {
    let mut left = bytes;
    for (number, step) in rate.iter().enumerate() {
        let until = rate.get(number + 1).map_or(f64::INFINITY, |next| next.from);
        let step_rate = step.rate.max(0.0);
        if left <= 0.0 {
            return step.from;
        }
        if step_rate > 0.0 && left <= step_rate * (until - step.from) {
            return step.from + left / step_rate;
        }
        if step_rate > 0.0 {
            left -= step_rate * (until - step.from);
        }
    }
    f64::INFINITY
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

/// Whether a stream's cap should become `rate`.
#[must_use]
pub fn cap_should_change(cap: f64, rate: f64) -> bool {
    (rate - cap).abs() > PACE_TOLERANCE * cap
}

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

/// The ladder: one rung a pass boundary, up while the deadline is at risk, down when it has long not been.
///
/// What is taken stays taken until it is stepped back from, so that rungs that were passed over on the way up are passed
/// over on the way down too: coming down never does anything new.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ladder {
    taken: Vec<Rung>,
    calm_boundaries: u32,
}

/// A step back needs this share of the time that is left as laxity, so often in a row.
const CALM_SHARE: f64 = 0.1;
const CALM_BOUNDARIES: u32 = 2;

/// What changes at a boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LadderMove {
    /// Nothing.
    Stay,
    /// This is to be done.
    Up(Rung),
    /// This is to be undone.
    Down(Rung),
}

impl Ladder {
    /// Everything that is done at present, in order.
    #[must_use]
    pub fn taken(&self) -> &[Rung] {
        &self.taken
    }

    /// Where it stands.
    #[must_use]
    pub fn rung(&self) -> Rung {
        self.taken.last().copied().unwrap_or(Rung::Calm)
    }

    /// Takes the laxity (time left less what is forecast to be needed) at a pass boundary. Rungs of which `allowed` says no
    /// are passed over, but never [`Rung::Infeasible`]. A switch to post-copy is not undone; rungs below it are.
    pub fn observe(
        &mut self,
        laxity: f64,
        time_left: f64,
        allowed: impl Fn(Rung) -> bool,
    ) -> LadderMove {
        if laxity < 0.0 {
            self.calm_boundaries = 0;
            let now = self.rung();
            let above = |rung: &Rung| *rung > now && (allowed(*rung) || *rung == Rung::Infeasible);
            let Some(next) = Rung::ALL.into_iter().find(above) else { return LadderMove::Stay };
            self.taken.push(next);
            return LadderMove::Up(next);
        }
        if laxity <= CALM_SHARE * time_left {
            self.calm_boundaries = 0;
            return LadderMove::Stay;
        }
        self.calm_boundaries += 1;
        if self.calm_boundaries < CALM_BOUNDARIES {
            return LadderMove::Stay;
        }
        self.calm_boundaries = 0;
        let Some(last) = self.taken.iter().rposition(|rung| *rung != Rung::PostCopy) else {
            return LadderMove::Stay;
        };
        LadderMove::Down(self.taken.remove(last))
    }
}

/// Low urgency: the rate that takes nothing from applications, if the VM can be moved at it; `None`: wait for a quieter
/// time. `headroom` is a share of the capacity.
#[must_use]
pub fn gentle_rate(
    capacity: f64,
    applications: f64,
    dirty_rate: f64,
    headroom: f64,
) -> Option<f64> {
    let rate = capacity - applications - headroom * capacity;
    (rate > dirty_rate && rate > 0.0).then_some(rate)
}

/// Whether a plan is worth running instead of the best plain one: only if it gains more than the model's error. Else the
/// plain one runs, so that cleverness never makes things worse.
#[must_use]
pub fn gains_enough(best_plain_cost: f64, cost: f64, error: f64) -> bool {
    best_plain_cost - cost > error.max(0.0)
}

/// What a plan costs, part by part; the weights are configuration.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
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
    /// VM-seconds in which VMs that are useful only together are on two hosts.
    pub split_seconds: f64,
    /// Deadlines missed: each once, and up to once more by how late it is.
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
            + self.split_seconds * weights.split_seconds
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
        for (time, pre, hybrid, post, digit) in
            [(60.0, 88.27, 84.44, 68.27, 0.01), (40.0, 122.4, 119.5, 102.4, 0.1)]
        {
            let got = required_rates(4096.0, &curve, time);
            golden(got.pre_copy, pre, digit);
            golden(got.hybrid, hybrid, digit);
            golden(got.post_copy, post, digit);
            let (v, d) = (4096.0, 20.0);
            let closed = (v + f64::sqrt(v * v + 4.0 * d * time * v)) / (2.0 * time);
            assert!((got.hybrid / closed - 1.0).abs() < 1e-9);
            // Nothing is left to the downtime, so the curve's shape is all there is.
            assert!((pre_copy_rate(4096.0, &curve, time, 1e-9) / pre - 1.0).abs() < 0.001);
        }
        assert!(required_rates(4096.0, &curve, 30.0).post_copy > 112.0);
        assert!(required_rates(4096.0, &curve, 0.0).post_copy.is_infinite());
        assert!(pre_copy_rate(4096.0, &curve, 0.0, 0.3).is_infinite());
    }

    /// A hot working set that would need 168 if it went on dirtying new memory as it begins to.
    #[test]
    fn dirtying_that_slackens_needs_less() {
        let curve =
            DirtyCurve::Saturating { dirty_bytes_per_second: 100.0, working_set_bytes: 20.0 };
        let rate = pre_copy_rate(4096.0, &curve, 60.0, 0.3);
        assert!((4096.0 / 60.0..70.0).contains(&rate), "{rate}");
    }

    /// Hot bytes that are dirty again at once have to fit the downtime.
    #[test]
    fn a_curve_that_jumps_has_a_rate_too() {
        let curve = DirtyCurve::HotCold {
            hot_bytes: 60.0,
            hot_seconds: 0.0,
            cold_bytes_per_second: 0.0,
            memory_bytes: 4096.0,
        };
        golden(pre_copy_rate(4096.0, &curve, 1000.0, 0.3), 200.0, 0.1);
        golden(required_rates(4096.0, &curve, 60.0).hybrid, 4156.0 / 60.0, 0.01);
        assert!(pre_copy_rate(4096.0, &curve, 60.0, 0.0).is_infinite());
    }

    #[test]
    fn a_reservation_is_no_larger_than_needed() {
        for (needed, share) in [(88.27, 0.788), (84.44, 0.754), (68.27, 0.610)] {
            let got = reservation(needed, 112.0, Urgency::High);
            assert!(got.enough);
            golden(got.share, share, 0.001);
        }
        let medium = reservation(88.27, 112.0, Urgency::Medium);
        assert_eq!(medium, Reservation { share: 0.75, enough: false });
        assert!(!reservation(f64::INFINITY, 112.0, Urgency::High).enough);
        assert!(!reservation(1.0, 0.0, Urgency::High).enough);
        // In 40 s only post-copy fits, in 30 s nothing does.
        let curve = DirtyCurve::Uniform { dirty_bytes_per_second: 20.0, memory_bytes: 4096.0 };
        let fits = |time| {
            let rates = required_rates(4096.0, &curve, time);
            [rates.pre_copy, rates.hybrid, rates.post_copy]
                .map(|rate| reservation(rate, 112.0, Urgency::High).enough)
        };
        assert_eq!(fits(60.0), [true; 3]);
        assert_eq!(fits(40.0), [false, false, true]);
        assert_eq!(fits(30.0), [false; 3]);
        let low = reservation(100.0, 112.0, Urgency::Low);
        assert_eq!(low, Reservation { share: 0.55, enough: false });
    }

    #[test]
    fn earliest_deadlines_come_first() {
        let work = [(4000.0, 60.0), (2000.0, 30.0), (3000.0, 100.0)]
            .map(|(bytes, deadline)| Work { bytes, deadline });
        let ends = |rate: &[RateStep]| {
            let slacks = feasibility(&work, rate);
            slacks.iter().map(|slack| (slack.index, slack.finish, slack.slack)).collect::<Vec<_>>()
        };
        let step = |from, rate| RateStep { from, rate };
        assert_eq!(ends(&[step(0.0, 100.0)]), [(1, 20.0, 10.0), (0, 60.0, 0.0), (2, 90.0, 10.0)]);
        // The port is taken for ten seconds, and a fifth of it for good.
        let busy = [step(0.0, 100.0), step(10.0, 0.0), step(20.0, 80.0)];
        assert_eq!(ends(&busy), [(1, 32.5, -2.5), (0, 82.5, -22.5), (2, 120.0, -20.0)]);
        let ended = [step(0.0, 100.0), step(30.0, 0.0)];
        assert_eq!(ends(&ended)[0], (1, 20.0, 10.0));
        assert!(ends(&ended)[1].1.is_infinite());
        assert!(ends(&[])[0].1.is_infinite());
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
        assert_eq!(pace.rate(1.0, 0.0, 0.0), Paced { rate: 106.4, at_risk: true });
        assert!(cap_should_change(63.0, 66.2) && cap_should_change(63.0, 59.8));
        assert!(!cap_should_change(63.0, 66.1) && !cap_should_change(63.0, 59.9));
    }

    /// Played every second at the pace that is asked for, a stream ends when it should.
    #[test]
    fn a_pace_without_headroom_ends_at_its_deadline() {
        let pace = Pace { headroom: 0.0, rate_min: 5.0, rate_max: 106.4 };
        let (mut left, mut now) = (3000.0, 0.0);
        while left > 1e-6 && now < 100.0 {
            let rate = pace.rate(left, 10.0, 60.0 - now).rate;
            if now < 59.0 {
                golden(rate, 60.0, 0.1);
            }
            left += 10.0 - rate;
            now += 1.0;
        }
        golden(now, 60.0, 0.1);
    }

    #[test]
    fn the_ladder_climbs_a_rung_at_a_time_and_comes_down_slowly() {
        let mut ladder = Ladder::default();
        let no_postcopy = |rung| rung != Rung::PostCopy;
        let up: Vec<_> = (0..6).map(|_| ladder.observe(-1.0, 60.0, no_postcopy)).collect();
        let expected = [
            LadderMove::Up(Rung::FullRate),
            LadderMove::Up(Rung::OthersPause),
            LadderMove::Up(Rung::Throttle),
            LadderMove::Up(Rung::LongerDowntime),
            LadderMove::Up(Rung::Infeasible),
            LadderMove::Stay,
        ];
        assert_eq!(up, expected);
        // Within a tenth of the time that is left nothing moves, and it takes two boundaries beyond.
        assert!((0..9).all(|_| ladder.observe(6.0, 60.0, no_postcopy) == LadderMove::Stay));
        let down: Vec<_> = (0..12).map(|_| ladder.observe(10.0, 60.0, |_| true)).collect();
        // Post-copy is allowed by now, but coming down does nothing new.
        let expected = [
            Rung::Infeasible,
            Rung::LongerDowntime,
            Rung::Throttle,
            Rung::OthersPause,
            Rung::FullRate,
        ]
        .map(|rung| [LadderMove::Stay, LadderMove::Down(rung)]);
        assert_eq!(down[..10], expected.concat());
        assert_eq!(down[10..], [LadderMove::Stay; 2]);
        assert_eq!(ladder.rung(), Rung::Calm);
    }

    #[test]
    fn a_switch_to_postcopy_is_not_taken_back() {
        let mut ladder = Ladder::default();
        let only = |rung| matches!(rung, Rung::FullRate | Rung::PostCopy);
        assert_eq!(ladder.observe(-1.0, 60.0, only), LadderMove::Up(Rung::FullRate));
        assert_eq!(ladder.observe(-1.0, 60.0, only), LadderMove::Up(Rung::PostCopy));
        assert_eq!(ladder.observe(30.0, 60.0, only), LadderMove::Stay);
        // Calm that does not last does not count.
        assert_eq!(ladder.observe(1.0, 60.0, only), LadderMove::Stay);
        assert_eq!(ladder.observe(30.0, 60.0, only), LadderMove::Stay);
        assert_eq!(ladder.observe(30.0, 60.0, only), LadderMove::Down(Rung::FullRate));
        assert!((0..9).all(|_| ladder.observe(30.0, 60.0, only) == LadderMove::Stay));
        assert_eq!(ladder.taken(), [Rung::PostCopy]);
        assert_eq!(ladder.observe(-1.0, 60.0, |_| false), LadderMove::Up(Rung::Infeasible));
    }

    #[test]
    fn low_urgency_takes_what_is_left() {
        assert_eq!(gentle_rate(100.0, 50.0, 20.0, 0.05), Some(45.0));
        assert_eq!(gentle_rate(100.0, 80.0, 20.0, 0.05), None);
        assert!(gains_enough(100.0, 80.0, 10.0));
        assert!(!gains_enough(100.0, 95.0, 10.0) && !gains_enough(100.0, 120.0, 10.0));
    }

    #[test]
    fn an_objective_is_the_sum_of_its_weighted_parts() {
        let parts = Objective {
            total_seconds: 60.0,
            outage_seconds: 2.0,
            lost_bytes: 1e9,
            exposure_seconds: 5.0,
            split_seconds: 3.0,
            missed: 1.0,
        };
        let weights = Objective {
            total_seconds: 1.0,
            outage_seconds: 10.0,
            lost_bytes: 1e-8,
            exposure_seconds: 2.0,
            split_seconds: 4.0,
            missed: 100.0,
        };
        golden(parts.weighted(&weights), 60.0 + 20.0 + 10.0 + 10.0 + 12.0 + 100.0, 0.1);
    }

    proptest! {
        #[test]
        fn a_hybrid_needs_a_rate_between_the_others(
            send in 1.0..1e6_f64, dirty in 0.0..1e4_f64, time in 0.1..1e4_f64,
        ) {
            let curve = DirtyCurve::Uniform { dirty_bytes_per_second: dirty, memory_bytes: send };
            let got = required_rates(send, &curve, time);
            prop_assert!(got.hybrid >= got.post_copy * (1.0 - 1e-9));
            prop_assert!(got.hybrid <= got.pre_copy * (1.0 + 1e-9));
            prop_assert!(got.hybrid <= 2.0 * got.post_copy * (1.0 + 1e-6));
            let first = send / got.hybrid;
            prop_assert!(first + curve.unique_bytes(first) / got.hybrid <= time * (1.0 + 1e-6));
        }

        #[test]
        fn a_curve_never_needs_more_than_its_first_rate_forever(
            send in 1.0..1e6_f64, ratio in 0.0..50.0_f64, part in 0.01..1.0_f64, time in 0.1..1e4_f64,
            limit in 0.001..1.0_f64,
        ) {
            let curve = DirtyCurve::Saturating {
                dirty_bytes_per_second: ratio * send / time,
                working_set_bytes: part * send,
            };
            let rates = required_rates(send, &curve, time);
            let rate = pre_copy_rate(send, &curve, time, limit);
            prop_assert!(rate >= rates.post_copy * (1.0 - 1e-9));
            prop_assert!(rate <= rates.pre_copy * (1.0 + 1e-9));
        }

        #[test]
        fn a_pace_stays_within_its_bounds(
            remaining in 0.0..1e12_f64, dirty in 0.0..1e10_f64, left in -10.0..1e4_f64,
        ) {
            let pace = Pace { headroom: 0.05, rate_min: 5.0, rate_max: 1e9 };
            let got = pace.rate(remaining, dirty, left);
            prop_assert!((pace.rate_min..=pace.rate_max).contains(&got.rate));
            prop_assert!(left > 0.0 || got.at_risk);
        }
    }
}
