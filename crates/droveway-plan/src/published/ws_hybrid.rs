//! `ws-hybrid` (Sahni and Varma 2012): post-copy whose blackout also sends the working set, so that the guest faults on the
//! rest only. QEMU cannot ship pages in that blackout; live, a switch right after a pass comes closest.

use droveway_fleet::DirtyCurve;
use droveway_model::technique::{PostCopyCourse, PostCopyInput, post_copy};

/// What the paper does not publish; ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// What was touched in so many seconds is the working set. Not published; ours.
    pub window: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters { window: 1.0 }
    }
}

/// The working set, bytes, as far as a dirty curve shows it: pages that are only read are missing.
#[must_use]
pub fn working_set(curve: &DirtyCurve, parameters: &Parameters) -> f64 {
    curve.unique_bytes(parameters.window)
}

/// What sending the working set adds to the blackout, seconds, at the rate of the blackout.
#[must_use]
pub fn added_blackout(working_set: f64, switchover_rate: f64) -> f64 {
    if working_set > 0.0 { working_set / switchover_rate.max(0.0) } else { 0.0 }
}

/// A post-copy of `input` that sends so much working set in its blackout: `downtime = (s + W_b) / R_sw + T_sw`.
#[must_use]
pub fn course(input: &PostCopyInput, working_set: f64) -> PostCopyCourse {
    let working_set = working_set.clamp(0.0, input.send_bytes.max(0.0));
    post_copy(&PostCopyInput {
        send_bytes: input.send_bytes - working_set,
        state_bytes: input.state_bytes + working_set,
        ..*input
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, uniform};
    use super::*;

    fn input() -> PostCopyInput {
        PostCopyInput {
            send_bytes: 2048.0,
            zero_bytes: 0.0,
            rate: 112.0,
            switchover_rate: 112.0,
            state_bytes: 3.0,
            setup: 0.0,
            switch_time: 0.1,
            resume_time: 0.0,
            zero_scan: 0.0,
        }
    }

    #[test]
    fn the_working_set_lengthens_the_blackout() {
        golden(added_blackout(50.0, 112.0), 0.446, 0.001);
        let (plain, with) = (post_copy(&input()), course(&input(), 50.0));
        golden(with.downtime - plain.downtime, 0.446, 0.001);
        golden(with.downtime, 53.0 / 112.0 + 0.1, 0.001);
        // The same bytes in the same time, less of them exposed.
        golden(with.bytes, plain.bytes, 0.1);
        golden(with.duration, plain.duration, 0.001);
        golden(plain.exposure - with.exposure, 0.446, 0.001);
    }

    #[test]
    fn nothing_touched_is_plain_post_copy() {
        assert_eq!(course(&input(), 0.0), post_copy(&input()));
        golden(added_blackout(0.0, 0.0), 0.0, 1e-9);
        // All of it at most.
        golden(course(&input(), 1e9).exposure, 0.0, 1e-9);
        assert!((working_set(&uniform(2048.0, 20.0), &Parameters::default()) - 20.0).abs() < 1e-9);
    }
}
