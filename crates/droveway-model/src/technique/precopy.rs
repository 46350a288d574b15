//! Pre-copy: passes until what is left fits the downtime.

use super::RATE_MIN;
use droveway_fleet::DirtyCurve;

/// A pre-copy of one VM at one rate.
#[derive(Debug, Clone, PartialEq)]
pub struct PreCopyInput {
    /// What the first pass sends (`V`).
    pub send_bytes: f64,
    /// Pages of zeroes beside it, which are only looked at (`V_ram - V`).
    pub zero_bytes: f64,
    /// The rate (`R`).
    pub rate: f64,
    /// The rate while the VM is stopped (`R_sw`): caps do not bind there.
    pub switchover_rate: f64,
    /// The downtime aimed at (`L`); the threshold is `rate x limit`.
    pub downtime_limit: f64,
    /// CPU and device state (`s`).
    pub state_bytes: f64,
    /// Start until the first byte (`T_set`).
    pub setup: f64,
    /// Fixed part of the downtime (`T_sw`).
    pub switch_time: f64,
    /// Resume and announcement (`T_res`).
    pub resume_time: f64,
    /// Looking at a byte of zeroes (`z`).
    pub zero_scan: f64,
    /// The dirty curve (`u`).
    pub curve: DirtyCurve,
    /// Passes at most.
    pub max_passes: u32,
    /// When a pass ends.
    pub rule: StopRule,
    /// QEMU's throttle, if it may act.
    pub throttle: Option<AutoConverge>,
}

/// When a pass ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StopRule {
    /// At its last byte: what the literature's formulas assume.
    PassBoundary,
    /// As soon as, looking once a slice, what is left fits the downtime: what QEMU does.
    QemuSlices {
        /// Seconds between two looks.
        slice: f64,
    },
}

/// QEMU's `auto-converge`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AutoConverge {
    /// The first throttle.
    pub initial: f64,
    /// What each further one adds.
    pub increment: f64,
    /// The most.
    pub max: f64,
    /// A period in which more than this share of what was sent is dirtied is a bad one; the second in all throttles.
    pub trigger: f64,
    /// The shortest period.
    pub period: f64,
}

impl Default for AutoConverge {
    /// QEMU's defaults: 20 %, then 10 % more, at most 99 %.
    fn default() -> Self {
        AutoConverge { initial: 0.2, increment: 0.1, max: 0.99, trigger: 0.5, period: 1.0 }
    }
}

/// How a pre-copy goes.
#[derive(Debug, Clone, PartialEq)]
pub struct PreCopyCourse {
    /// What each pass begins with, the final one (while stopped) last.
    pub passes: Vec<f64>,
    /// Passes while the VM ran (`n`).
    pub live_passes: u32,
    /// Whether what was left came to fit the downtime. If not, the rest below is what stopping by force would take.
    pub converged: bool,
    /// Start to end.
    pub duration: f64,
    /// The part in which the VM ran.
    pub live: f64,
    /// No vCPU runs.
    pub downtime: f64,
    /// Sent.
    pub bytes: f64,
    /// The throttle at the end.
    pub throttle: f64,
}

/// Slices that are played at most: an hour's worth, when nothing converges.
const SLICES_MAX: u32 = 100_000;

/// Plays a pre-copy.
#[must_use]
pub fn pre_copy(input: &PreCopyInput) -> PreCopyCourse {
    match input.rule {
        StopRule::PassBoundary => by_passes(input),
        StopRule::QemuSlices { slice } => by_slices(input, slice),
    }
}

fn by_passes(input: &PreCopyInput) -> PreCopyCourse {
    let rate = input.rate.max(RATE_MIN);
    let threshold = rate * input.downtime_limit;
    let mut throttle = Throttle::default();
    let mut passes = vec![input.send_bytes];
    let mut live = input.setup;
    let mut sent = 0.0;
    let mut left = input.send_bytes;
    let mut converged = false;
    let mut live_passes = 0;
    while live_passes < input.max_passes {
        let scan = if live_passes == 0 { input.zero_scan * input.zero_bytes } else { 0.0 };
        let time = left / rate + scan;
        live += time;
        sent += left;
        live_passes += 1;
        let dirtied = input.curve.unique_bytes(time * (1.0 - throttle.share));
        throttle.judge(input.throttle, dirtied, left, time);
        left = dirtied;
        passes.push(left);
        if left <= threshold {
            converged = true;
            break;
        }
    }
    end(input, passes, live_passes, converged, live, sent, left, throttle.share)
}

fn by_slices(input: &PreCopyInput, slice: f64) -> PreCopyCourse {
    let rate = input.rate.max(RATE_MIN);
    let threshold = rate * input.downtime_limit;
    let mut throttle = Throttle::default();
    let mut passes = vec![input.send_bytes];
    let mut live = input.setup + input.zero_scan * input.zero_bytes;
    let mut pending = input.send_bytes;
    let mut since_sync = live - input.setup;
    let (mut sent, mut sent_at_sync) = (0.0, 0.0);
    let mut live_passes = 0;
    let mut converged = false;
    let mut slices = 0;
    while live_passes < input.max_passes && slices < SLICES_MAX {
        if pending >= threshold {
            let part = (rate * slice).min(pending).max(f64::MIN_POSITIVE);
            pending -= part;
            sent += part;
            live += part / rate;
            since_sync += part / rate;
            slices += 1;
            continue;
        }
        let dirtied = input.curve.unique_bytes(since_sync * (1.0 - throttle.share));
        throttle.judge(input.throttle, dirtied, sent - sent_at_sync, since_sync);
        pending += dirtied;
        passes.push(pending);
        live_passes += 1;
        since_sync = 0.0;
        sent_at_sync = sent;
        if pending < threshold {
            converged = true;
            break;
        }
    }
    end(input, passes, live_passes, converged, live, sent, pending, throttle.share)
}

#[expect(clippy::too_many_arguments, reason = "the state of a loop, at its end")]
fn end(
    input: &PreCopyInput,
    passes: Vec<f64>,
    live_passes: u32,
    converged: bool,
    live: f64,
    sent: f64,
    left: f64,
    throttle: f64,
) -> PreCopyCourse {
    let rate = input.switchover_rate.max(RATE_MIN);
    let downtime = (left + input.state_bytes) / rate + input.switch_time;
    PreCopyCourse {
        passes,
        live_passes,
        converged,
        duration: live + downtime + input.resume_time,
        live,
        downtime,
        bytes: sent + left + input.state_bytes,
        throttle,
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Throttle {
    share: f64,
    bad: u32,
    /// What a period that was too short to judge has gathered.
    time: f64,
    dirtied: f64,
    sent: f64,
}

impl Throttle {
    fn judge(&mut self, rule: Option<AutoConverge>, dirtied: f64, sent: f64, time: f64) {
        let Some(rule) = rule else { return };
        self.time += time;
        self.dirtied += dirtied;
        self.sent += sent;
        if self.time < rule.period {
            return;
        }
        if self.dirtied > rule.trigger * self.sent {
            self.bad += 1;
            if self.bad >= 2 {
                self.bad = 0;
                let more = if self.share > 0.0 { rule.increment } else { rule.initial };
                self.share = (self.share + more).min(rule.max);
            }
        }
        (self.time, self.dirtied, self.sent) = (0.0, 0.0, 0.0);
    }
}

/// Iterations towards the standstill: each is a pass, and passes that shrink at all shrink geometrically.
const STANDSTILL_ITERATIONS: u32 = 10_000;

/// What the passes of an endless pre-copy come to (`v* = u(v*/R)`, from `V`): it ends by itself if and only if that fits
/// the downtime.
#[must_use]
pub fn standstill(curve: &DirtyCurve, send_bytes: f64, rate: f64) -> f64 {
    let rate = rate.max(RATE_MIN);
    let mut left = send_bytes;
    for _ in 0..STANDSTILL_ITERATIONS {
        let next = curve.unique_bytes(left / rate).min(send_bytes);
        let done = (left - next).abs() <= 1e-9 * send_bytes;
        left = next;
        if done {
            break;
        }
    }
    left
}

/// Stop-and-copy: duration and downtime, which differ by set-up and resume only.
#[must_use]
pub fn stop_and_copy(input: &PreCopyInput) -> PreCopyCourse {
    let rate = input.switchover_rate.max(RATE_MIN);
    let bytes = input.send_bytes + input.state_bytes;
    let downtime = bytes / rate + input.zero_scan * input.zero_bytes + input.switch_time;
    PreCopyCourse {
        passes: vec![input.send_bytes],
        live_passes: 0,
        converged: true,
        duration: input.setup + downtime + input.resume_time,
        live: input.setup,
        downtime,
        bytes,
        throttle: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use droveway_fleet::curve::PageClass;
    use proptest::prelude::*;

    pub(super) fn input(curve: DirtyCurve) -> PreCopyInput {
        PreCopyInput {
            send_bytes: 2048.0,
            zero_bytes: 0.0,
            rate: 112.0,
            switchover_rate: 112.0,
            downtime_limit: 0.3,
            state_bytes: 0.0,
            setup: 0.0,
            switch_time: 0.0,
            resume_time: 0.0,
            zero_scan: 0.0,
            curve,
            max_passes: 100,
            rule: StopRule::PassBoundary,
            throttle: None,
        }
    }

    fn uniform(rate: f64) -> DirtyCurve {
        DirtyCurve::Uniform { dirty_bytes_per_second: rate, memory_bytes: 2048.0 }
    }

    /// The larger of 0.1 % and half a unit of the last printed digit.
    #[track_caller]
    fn golden(got: f64, printed: f64, digit: f64) {
        let tolerance = (0.001 * printed.abs()).max(digit / 2.0);
        assert!((got - printed).abs() <= tolerance, "{got}, not {printed}");
    }

    #[track_caller]
    fn check(input: &PreCopyInput, first: &[f64], passes: u32, [time, downtime, bytes]: [f64; 3]) {
        let course = pre_copy(input);
        for (got, printed) in course.passes.iter().zip(first) {
            golden(*got, *printed, 0.1);
        }
        assert!(course.converged);
        assert_eq!(course.live_passes, passes);
        golden(course.duration, time, 0.001);
        golden(course.downtime, downtime, 0.001);
        golden(course.bytes, bytes, 0.1);
    }

    #[test]
    fn p1_p2_uniform() {
        check(&input(uniform(5.0)), &[2048.0], 2, [19.14, 0.036, 2144.0]);
        check(&input(uniform(20.0)), &[2048.0, 365.71, 65.31, 11.66], 3, [22.238, 0.104, 2490.7]);
        check(&input(uniform(80.0)), &[2048.0, 1462.9, 1044.9], 13, [63.424, 0.230, 7103.5]);
    }

    #[test]
    fn p3_p4_bounded() {
        let bounded = |working_set_bytes| {
            input(DirtyCurve::Bounded { dirty_bytes_per_second: 150.0, working_set_bytes })
        };
        check(&bounded(30.0), &[2048.0, 30.0], 1, [18.554, 0.268, 2078.0]);
        let never = pre_copy(&bounded(60.0));
        assert!(!never.converged);
        golden(never.downtime, 0.536, 0.001);
        golden(standstill(&bounded(60.0).curve, 2048.0, 112.0), 60.0, 0.1);
    }

    #[test]
    fn p5_saturating() {
        let saturating = |working_set_bytes| DirtyCurve::Saturating {
            dirty_bytes_per_second: 150.0,
            working_set_bytes,
        };
        let passes = [2048.0, 60.0, 44.28, 37.67, 34.12, 31.98];
        check(&input(saturating(60.0)), &passes, 5, [20.143, 0.286, 2256.0]);
        golden(standstill(&saturating(60.0), 2048.0, 112.0), 27.59, 0.01);
        golden(standstill(&saturating(300.0), 2048.0, 112.0), 137.9, 0.1);
        assert!((standstill(&uniform(20.0), 2048.0, 112.0)).abs() < 1e-3);
    }

    #[test]
    fn p6_hot_cold_p7_classes() {
        let hot_cold = DirtyCurve::HotCold {
            hot_bytes: 40.0,
            hot_seconds: 2.0,
            cold_bytes_per_second: 2.0,
            memory_bytes: 2048.0,
        };
        check(&input(hot_cold), &[2048.0, 72.57, 12.96], 2, [19.049, 0.116, 2133.5]);
        let classes = [(10.0, 1.0), (100.0, 0.05), (1938.0, 0.0005)]
            .map(|(bytes, writes_per_second)| PageClass { bytes, writes_per_second });
        let classes = DirtyCurve::Classes { classes: classes.to_vec() };
        check(&input(classes), &[2048.0, 87.56, 10.02], 2, [19.157, 0.089, 2145.6]);
    }

    #[test]
    fn p8_zero_pages() {
        let zeroes =
            PreCopyInput { zero_bytes: 6144.0, zero_scan: 0.4 / 1024.0, ..input(uniform(20.0)) };
        check(&zeroes, &[2048.0, 413.7, 73.9, 13.2], 3, [25.157, 0.118, 2548.8]);
    }

    #[test]
    fn qemu_ends_passes_early_and_stops_near_its_limit() {
        for (rate, syncs, time, pending, downtime) in [
            (5.0, 3, 19.127, 31.37, 0.280),
            (20.0, 4, 22.197, 33.02, 0.295),
            (40.0, 7, 28.290, 31.14, 0.278),
            (80.0, 20, 63.271, 32.64, 0.291),
        ] {
            let rule = StopRule::QemuSlices { slice: 0.047 };
            let course = pre_copy(&PreCopyInput { rule, ..input(uniform(rate)) });
            assert_eq!(course.live_passes, syncs, "{rate}");
            golden(course.duration, time, 0.001);
            golden(course.passes.last().copied().unwrap(), pending, 0.01);
            golden(course.downtime, downtime, 0.001);
        }
    }

    #[test]
    fn throttling_converges() {
        for (rate, passes, live, share) in [(90.0, 9, 62.65, 0.4), (120.0, 12, 125.08, 0.6)] {
            let throttle = Some(AutoConverge::default());
            // The published arithmetic lets a pass dirty more than the memory has.
            let endless = f64::INFINITY;
            let curve = DirtyCurve::Uniform { dirty_bytes_per_second: rate, memory_bytes: endless };
            let course = pre_copy(&PreCopyInput { throttle, ..input(curve) });
            assert_eq!(course.live_passes, passes);
            golden(course.live, live, 0.01);
            golden(course.throttle, share, 0.01);
        }
        let without = pre_copy(&input(uniform(90.0)));
        assert_eq!(without.live_passes, 19);
        golden(without.duration, 91.92, 0.01);
    }

    #[test]
    fn a_stopped_vm_is_down_for_its_bytes() {
        let course = stop_and_copy(&PreCopyInput { switch_time: 0.05, ..input(uniform(20.0)) });
        golden(course.downtime, 2048.0 / 112.0 + 0.05, 0.001);
        golden(course.bytes, 2048.0, 0.1);
    }

    fn curves() -> impl Strategy<Value = DirtyCurve> {
        let (rate, size) = (0.0..1e10_f64, 0.0..1e12_f64);
        prop_oneof![
            (rate.clone(), size.clone()).prop_map(|(d, memory_bytes)| DirtyCurve::Uniform {
                dirty_bytes_per_second: d,
                memory_bytes
            }),
            (rate.clone(), size.clone()).prop_map(|(d, working_set_bytes)| {
                DirtyCurve::Saturating { dirty_bytes_per_second: d, working_set_bytes }
            }),
            (size.clone(), 0.0..10.0_f64, rate).prop_map(|(hot_bytes, hot_seconds, cold)| {
                DirtyCurve::HotCold {
                    hot_bytes,
                    hot_seconds,
                    cold_bytes_per_second: cold,
                    memory_bytes: hot_bytes * 2.0,
                }
            }),
            prop::collection::vec((size, 0.0..100.0_f64), 0..4).prop_map(|classes| {
                let class = |(bytes, writes_per_second)| PageClass { bytes, writes_per_second };
                DirtyCurve::Classes { classes: classes.into_iter().map(class).collect() }
            }),
        ]
    }

    /// Rates down to none at all.
    fn rates() -> impl Strategy<Value = f64> {
        prop_oneof![Just(0.0), 1e-9..1e3_f64, 1e3..1e10_f64]
    }

    proptest! {
        #[test]
        fn finite_in_finite_out(
            curve in curves(), send in 0.0..1e12_f64, zero_bytes in 0.0..1e12_f64, rate in rates(),
            switchover_rate in rates(), downtime_limit in 0.0..10.0_f64, state in 0.0..1e8_f64,
            slice in prop_oneof![Just(None), (0.0..1.0_f64).prop_map(Some)], throttled in any::<bool>(),
            max_passes in 0..50_u32,
        ) {
            let given = PreCopyInput {
                send_bytes: send,
                zero_bytes,
                zero_scan: 1e-10,
                rate,
                switchover_rate,
                downtime_limit,
                state_bytes: state,
                max_passes,
                rule: slice.map_or(StopRule::PassBoundary, |slice| StopRule::QemuSlices { slice }),
                throttle: throttled.then(AutoConverge::default),
                ..input(curve.clone())
            };
            for course in [pre_copy(&given), stop_and_copy(&given)] {
                let all = [course.duration, course.live, course.downtime, course.bytes, course.throttle];
                prop_assert!(all.iter().chain(&course.passes).all(|x| x.is_finite() && *x >= 0.0), "{course:?}");
                prop_assert!(course.bytes >= (send + state) * (1.0 - 1e-9));
                let least = state / switchover_rate.max(RATE_MIN);
                prop_assert!(course.downtime >= least * (1.0 - 1e-9));
                prop_assert!(course.duration >= course.downtime);
                prop_assert!(course.live_passes <= max_passes);
            }
            let still = standstill(&curve, send, rate);
            prop_assert!((0.0..=send).contains(&still));
        }

        #[test]
        fn more_rate_takes_less_and_more_memory_or_dirtying_more(
            send in 10.0..1e5_f64, rate in 10.0..1000.0_f64, dirty in 0.0..0.9_f64, more in 1.0..2.0_f64,
        ) {
            let play = |send_bytes: f64, rate: f64, dirty: f64| {
                let curve = DirtyCurve::Uniform { dirty_bytes_per_second: dirty, memory_bytes: send_bytes };
                pre_copy(&PreCopyInput { send_bytes, rate, switchover_rate: rate, ..input(curve) })
            };
            let base = play(send, rate, dirty * rate);
            let enough = 1.0 + 1e-9;
            prop_assert!(play(send, rate * more, dirty * rate).duration <= base.duration * enough);
            for larger in [play(send * more, rate, dirty * rate), play(send, rate, dirty * rate * more)] {
                prop_assert!(larger.duration >= base.duration / enough);
                prop_assert!(larger.bytes >= base.bytes / enough);
            }
        }
    }
}
