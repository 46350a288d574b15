//! Post-copy and hybrid: the VM runs at the target before its memory is there.

use super::RATE_MIN;
use droveway_fleet::DirtyCurve;

/// A post-copy of one VM at one rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PostCopyInput {
    /// What must be sent (`V`).
    pub send_bytes: f64,
    /// Pages of zeroes beside it.
    pub zero_bytes: f64,
    /// The rate (`R`).
    pub rate: f64,
    /// The rate while the VM is stopped.
    pub switchover_rate: f64,
    /// CPU and device state.
    pub state_bytes: f64,
    /// Start until the stop.
    pub setup: f64,
    /// Fixed part of the downtime.
    pub switch_time: f64,
    /// Resume and announcement.
    pub resume_time: f64,
    /// Looking at a byte of zeroes.
    pub zero_scan: f64,
}

/// How a post-copy goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PostCopyCourse {
    /// Start to end.
    pub duration: f64,
    /// No vCPU runs.
    pub downtime: f64,
    /// Sent.
    pub bytes: f64,
    /// The memory is split between two hosts.
    pub exposure: f64,
}

/// Post-copy: every byte once.
#[must_use]
pub fn post_copy(input: &PostCopyInput) -> PostCopyCourse {
    let transfer = input.send_bytes / input.rate.max(RATE_MIN) + input.zero_scan * input.zero_bytes;
    let downtime = input.state_bytes / input.switchover_rate.max(RATE_MIN) + input.switch_time;
    PostCopyCourse {
        duration: input.setup + transfer + downtime + input.resume_time,
        downtime,
        bytes: input.send_bytes + input.state_bytes,
        exposure: transfer,
    }
}

/// A hybrid of one VM at one rate.
#[derive(Debug, Clone, PartialEq)]
pub struct HybridInput {
    /// What its post-copy part is like; `send_bytes` is what the first pass sends.
    pub postcopy: PostCopyInput,
    /// The dirty curve.
    pub curve: DirtyCurve,
    /// Pre-copy passes before the switch.
    pub passes: u32,
}

/// How a hybrid goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HybridCourse {
    /// Start to end.
    pub duration: f64,
    /// No vCPU runs.
    pub downtime: f64,
    /// Sent.
    pub bytes: f64,
    /// The memory is split between two hosts.
    pub exposure: f64,
}

/// A switch at once, without any pass, if a first pass would leave this share of what it sends: nearly all of it twice.
/// Our choice, as the next one.
const SWITCH_AT_ONCE_RATIO: f64 = 0.8;
/// A pass that leaves this share of what the one before left has stalled (after Altahat 2020; the share is our choice).
const STALLED_RATIO: f64 = 0.5;

/// After how many passes a VM that may be post-copied should switch; `None`: passes alone come under the threshold first.
#[must_use]
pub fn passes_before_switch(
    curve: &DirtyCurve,
    send_bytes: f64,
    rate: f64,
    threshold: f64,
) -> Option<u32> {
    let rate = rate.max(RATE_MIN);
    let mut left = curve.unique_bytes(send_bytes / rate);
    if left > SWITCH_AT_ONCE_RATIO * send_bytes {
        return Some(0);
    }
    let mut before = send_bytes;
    // What does not stall halves with each pass.
    for passes in 1..=HYBRID_PASSES_MAX {
        if left <= threshold {
            return None;
        }
        if left >= STALLED_RATIO * before {
            return Some(passes);
        }
        before = left;
        left = curve.unique_bytes(left / rate);
    }
    None
}

/// Passes before a switch, at most: further ones only burn time and bytes.
const HYBRID_PASSES_MAX: u32 = 1_000;

/// Hybrid: some passes, then post-copy of what is dirty.
#[must_use]
pub fn hybrid(input: &HybridInput) -> HybridCourse {
    let base = &input.postcopy;
    let rate = base.rate.max(RATE_MIN);
    let mut left = base.send_bytes;
    let (mut live, mut sent) = (0.0, 0.0);
    for pass in 0..input.passes.min(HYBRID_PASSES_MAX) {
        let scan = if pass == 0 { base.zero_scan * base.zero_bytes } else { 0.0 };
        let time = left / rate + scan;
        live += time;
        sent += left;
        left = input.curve.unique_bytes(time);
    }
    let rest = post_copy(&PostCopyInput { send_bytes: left, zero_bytes: 0.0, ..*base });
    HybridCourse {
        duration: live + rest.duration,
        downtime: rest.downtime,
        bytes: sent + rest.bytes,
        exposure: rest.exposure,
    }
}

/// How long a guest that has just switched is silent: until it has `pages` that it needs before it answers anybody, one
/// after the other, each missing with probability `missing` at first.
///
/// After `t` of `transfer` seconds the background stream has brought the share `t / transfer`, so a page is missing with
/// `missing (1 - t / transfer)` and costs `fault` seconds then: `dx/dt = 1 / (fault missing (1 - t / transfer))`, whose
/// solution is `t = transfer (1 - exp(-pages missing fault / transfer))`. Never longer than the transfer.
#[must_use]
pub fn outage_after_switch(transfer: f64, pages: f64, fault: f64, missing: f64) -> f64 {
    if transfer <= 0.0 {
        return 0.0;
    }
    let work = (pages * fault * missing.clamp(0.0, 1.0)).max(0.0);
    -transfer * (-work / transfer).exp_m1()
}

/// What of its CPU time a guest waits for pages from now until the last one has arrived, `rest` seconds, if it touches
/// `touched` pages a second that it has not touched before, each missing with probability `missing` now and with none in the
/// end, at `fault` seconds each.
///
/// A guest that waits touches nothing meanwhile, so it runs at `1 / (1 + k (1 - t / rest))` of its speed with `k = touched fault
/// missing`; the integral of what it lacks is `rest (1 - ln(1 + k) / k)`. [`brownout`] integrates the same for a curve whose
/// slope changes.
#[must_use]
pub fn waiting(rest: f64, touched: f64, fault: f64, missing: f64) -> f64 {
    let k = (touched * fault * missing.clamp(0.0, 1.0)).max(0.0);
    // Below, the difference is all rounding: k / 2 of the time.
    let lacks = if k < 1e-6 { 0.5 * k } else { 1.0 - k.ln_1p() / k };
    rest.max(0.0) * lacks
}

/// What a guest touches after it has switched.
#[derive(Debug, Clone, PartialEq)]
pub struct Touch {
    /// Unique bytes read or written, by guest time.
    pub curve: DirtyCurve,
    /// Virtual CPUs.
    pub vcpus: f64,
    /// Bytes of a page.
    pub page_bytes: f64,
    /// What a missing page costs.
    pub fault: f64,
}

/// What a post-copied guest loses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Brownout {
    /// vCPU time that it did not have.
    pub lost_seconds: f64,
    /// How long memory was split.
    pub transfer: f64,
    /// Pages that it had to wait for.
    pub faults: f64,
}

/// Steps of an integration, at most: two minutes at a millisecond each.
const STEPS_MAX: u32 = 120_000;

/// Integrates a guest's progress `g` while its memory arrives: it runs at `1 / (1 + a'(g) (1 - p) fault / (page vcpus))` of
/// its speed, where `p` is the share that the background stream has brought. Steps of about `step` seconds.
#[must_use]
pub fn brownout(send_bytes: f64, rate: f64, touch: &Touch, step: f64) -> Brownout {
    let transfer = send_bytes / rate.max(RATE_MIN);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded by STEPS_MAX and not negative"
    )]
    let steps = (transfer / step.max(1e-6)).ceil().clamp(1.0, f64::from(STEPS_MAX)) as u32;
    let width = transfer / f64::from(steps);
    let page_bytes = touch.page_bytes.max(f64::MIN_POSITIVE);
    let page_time = (page_bytes * touch.vcpus).max(f64::MIN_POSITIVE);
    let (mut guest, mut lost, mut faults) = (0.0, 0.0, 0.0);
    for number in 0..steps {
        let arrived = f64::from(number) / f64::from(steps);
        // The slope over what a full speed step would touch.
        let slope = (touch.curve.unique_bytes(guest + width) - touch.curve.unique_bytes(guest))
            / width.max(f64::MIN_POSITIVE);
        let missing = slope * (1.0 - arrived);
        let speed = 1.0 / (1.0 + missing * touch.fault / page_time);
        guest += speed * width;
        lost += (1.0 - speed) * width;
        faults += missing * speed / page_bytes * width;
    }
    Brownout { lost_seconds: lost, transfer, faults }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn input() -> PostCopyInput {
        PostCopyInput {
            send_bytes: 2048.0,
            zero_bytes: 0.0,
            rate: 112.0,
            switchover_rate: 112.0,
            state_bytes: 0.0,
            setup: 0.0,
            switch_time: 0.0,
            resume_time: 0.0,
            zero_scan: 0.0,
        }
    }

    #[track_caller]
    fn golden(got: f64, printed: f64, digit: f64) {
        let tolerance = (0.001 * printed.abs()).max(digit / 2.0);
        assert!((got - printed).abs() <= tolerance, "{got}, not {printed}");
    }

    /// Against the integration, for a guest that touches as much all the time.
    #[test]
    fn waiting_is_the_integral() {
        for (rest, touched, fault, missing) in
            [(18.29, 51_200.0, 0.000_5, 1.0), (5.0, 3_000.0, 0.004, 0.6), (2.0, 10.0, 0.001, 1.0)]
        {
            let (page_bytes, steps) = (4096.0, 20_000);
            let k: f64 = touched * fault * missing;
            let width = rest / f64::from(steps);
            let sum: f64 = (0..steps)
                .map(|step| {
                    let left = 1.0 - (f64::from(step) + 0.5) / f64::from(steps);
                    (1.0 - 1.0 / (1.0 + k * left)) * width
                })
                .sum();
            golden(waiting(rest, touched, fault, missing), sum, 0.000_1);
            let curve = DirtyCurve::Uniform {
                dirty_bytes_per_second: touched * page_bytes,
                memory_bytes: f64::INFINITY,
            };
            let touch = Touch { curve, vcpus: 1.0, page_bytes, fault };
            let integrated = brownout(rest * 100e6, 100e6, &touch, 0.001).lost_seconds;
            if missing >= 1.0 {
                golden(waiting(rest, touched, fault, missing), integrated, 0.005 * rest);
            }
        }
        assert!(waiting(-1.0, 10.0, 0.1, 1.0).abs() < 1e-12);
        assert!(waiting(10.0, 0.0, 0.1, 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_table_of_techniques() {
        let post = post_copy(&input());
        golden(post.duration, 18.29, 0.01);
        golden(post.exposure, 18.29, 0.01);
        golden(post.bytes, 2048.0, 1.0);
        for (dirty, time, bytes, exposure) in
            [(5.0, 19.10, 2139.0, 0.82), (20.0, 21.55, 2414.0, 3.27), (80.0, 31.35, 3511.0, 13.06)]
        {
            let curve = DirtyCurve::Uniform { dirty_bytes_per_second: dirty, memory_bytes: 2048.0 };
            let course = hybrid(&HybridInput { postcopy: input(), curve, passes: 1 });
            golden(course.duration, time, 0.01);
            golden(course.bytes, bytes, 1.0);
            golden(course.exposure, exposure, 0.01);
        }
        let curve = DirtyCurve::Bounded { dirty_bytes_per_second: 150.0, working_set_bytes: 60.0 };
        let bounded = hybrid(&HybridInput { postcopy: input(), curve, passes: 1 });
        golden(bounded.duration, 18.82, 0.01);
        golden(bounded.exposure, 0.54, 0.01);
    }

    #[test]
    fn a_guest_that_waits_for_pages_loses_time() {
        for (fault, lost) in [(0.0005, 7.14), (0.0128, 17.72)] {
            let touch = Touch {
                curve: DirtyCurve::Bounded {
                    dirty_bytes_per_second: 200.0,
                    working_set_bytes: 300.0,
                },
                vcpus: 4.0,
                page_bytes: 4.0 / 1024.0,
                fault,
            };
            let got = brownout(2048.0, 112.0, &touch, 0.001);
            assert!((got.lost_seconds - lost).abs() <= 0.01 * lost, "{got:?}");
            golden(got.transfer, 18.29, 0.01);
            if fault < 0.001 {
                assert!((got.faults - 57_088.0).abs() <= 570.0, "{got:?}");
            }
        }
    }

    #[test]
    fn a_hybrid_switches_when_passes_stall() {
        let saturating =
            DirtyCurve::Saturating { dirty_bytes_per_second: 150.0, working_set_bytes: 60.0 };
        let uniform =
            |rate| DirtyCurve::Uniform { dirty_bytes_per_second: rate, memory_bytes: 2048.0 };
        for (curve, passes) in [
            (saturating.clone(), Some(2)),
            (uniform(20.0), None),
            (uniform(80.0), Some(1)),
            (uniform(100.0), Some(0)),
            (DirtyCurve::idle(), None),
        ] {
            assert_eq!(passes_before_switch(&curve, 2048.0, 112.0, 33.6), passes, "{curve:?}");
        }
        let course = hybrid(&HybridInput { postcopy: input(), curve: saturating, passes: 2 });
        golden(course.exposure, 44.28 / 112.0, 0.001);
        golden(course.duration - course.exposure, 18.82, 0.01);
    }

    /// Measured: clients heard nothing for 0.8 s at 1 Gbit/s, and for 3.6 to 4.6 s at 200 Mbit/s, while the background
    /// stream was not held back.
    #[test]
    fn the_silence_after_a_switch_is_what_was_measured() {
        let slow = outage_after_switch(4.9, 800.0, 0.0095, 1.0);
        assert!((3.6..4.6).contains(&slow), "{slow}");
        let fast = outage_after_switch(0.96, 800.0, 0.0022, 1.0);
        assert!((0.7..0.9).contains(&fast), "{fast}");
        let cured = outage_after_switch(4.9, 800.0, 0.0003, 1.0);
        assert!((0.2..0.35).contains(&cured), "{cured}");
    }

    proptest! {
        #[test]
        fn silence_grows_with_pages_and_faults_and_ends_with_the_transfer(
            transfer in 0.0..1e4_f64, pages in 0.0..1e6_f64, fault in 0.0..1.0_f64,
            missing in 0.0..1.0_f64, more in 1.0..5.0_f64,
        ) {
            let silence = outage_after_switch(transfer, pages, fault, missing);
            prop_assert!(silence >= 0.0 && silence <= transfer);
            for longer in [
                outage_after_switch(transfer, pages * more, fault, missing),
                outage_after_switch(transfer, pages, fault * more, missing),
                outage_after_switch(transfer, pages, fault, (missing * more).min(1.0)),
                outage_after_switch(transfer * more, pages, fault, missing),
            ] {
                prop_assert!(longer >= silence - 1e-9);
            }
        }

        #[test]
        fn brownouts_are_bounded(
            send in 0.0..1e6_f64, rate in 0.0..1e3_f64, touched in 0.0..1e6_f64, size in 0.0..1e6_f64,
            vcpus in 0.0..8.0_f64, page_bytes in 0.0..1.0_f64, fault in 0.0..1.0_f64,
        ) {
            let curve = DirtyCurve::Bounded { dirty_bytes_per_second: touched, working_set_bytes: size };
            let got = brownout(send, rate, &Touch { curve, vcpus, page_bytes, fault }, 0.1);
            prop_assert!(got.transfer.is_finite() && got.faults.is_finite());
            prop_assert!((0.0..=got.transfer * (1.0 + 1e-9)).contains(&got.lost_seconds), "{got:?}");
        }

        #[test]
        fn finite_in_finite_out(
            send in 0.0..1e12_f64, zero_bytes in 0.0..1e12_f64, rate in 0.0..1e3_f64,
            switchover_rate in 0.0..1e3_f64, state_bytes in 0.0..1e8_f64, dirty in 0.0..1e10_f64,
            passes in 0..50_u32,
        ) {
            let postcopy = PostCopyInput {
                send_bytes: send, zero_bytes, rate, switchover_rate, state_bytes, zero_scan: 1e-10, ..input()
            };
            let post = post_copy(&postcopy);
            let curve = DirtyCurve::Saturating { dirty_bytes_per_second: dirty, working_set_bytes: send };
            let hybrid = hybrid(&HybridInput { postcopy, curve, passes });
            for (duration, downtime, bytes, exposure) in [
                (post.duration, post.downtime, post.bytes, post.exposure),
                (hybrid.duration, hybrid.downtime, hybrid.bytes, hybrid.exposure),
            ] {
                prop_assert!([duration, downtime, bytes, exposure].iter().all(|x| x.is_finite()));
                prop_assert!(bytes >= (send + state_bytes) * (1.0 - 1e-9));
                prop_assert!(downtime >= state_bytes / switchover_rate.max(RATE_MIN) * (1.0 - 1e-9));
                prop_assert!(duration >= downtime && exposure <= duration);
            }
        }

        #[test]
        fn a_hybrid_is_never_more_exposed_than_a_post_copy(
            send in 1.0..1e6_f64, rate in 1.0..1e5_f64, dirty in 0.0..1e5_f64, passes in 1..4_u32,
        ) {
            let postcopy = PostCopyInput { send_bytes: send, rate, ..input() };
            let curve = DirtyCurve::Uniform { dirty_bytes_per_second: dirty, memory_bytes: send };
            let course = hybrid(&HybridInput { postcopy, curve, passes });
            let post = post_copy(&postcopy);
            prop_assert!(course.exposure <= post.exposure * (1.0 + 1e-9));
            prop_assert!(course.bytes >= post.bytes * (1.0 - 1e-9));
        }
    }
}
