//! `dynamic-hybrid` (Altahat 2020): pre-copy as long as its passes shrink, then post-copy of what is left.

use super::Subject;
use crate::policy::HYBRID_RULE;

/// What the paper does not publish; ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// A pass that leaves at least this share of what it sent has stalled. Not published; ours.
    pub stalled_ratio: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters { stalled_ratio: HYBRID_RULE.stalled_ratio }
    }
}

/// What a pass came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pass {
    /// What it sent, bytes.
    pub sent: f64,
    /// What was dirtied meanwhile and is left, bytes.
    pub left: f64,
    /// Whether a further pass would miss the deadline.
    pub deadline_at_risk: bool,
}

/// What happens after a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// What is left fits the downtime: stop the VM and send it.
    Complete,
    /// Switch to post-copy.
    Switch,
    /// Another pass.
    Pass,
}

/// What to do after a pass; `threshold` is what the downtime can send, bytes.
#[must_use]
pub fn after_pass(pass: Pass, threshold: f64, parameters: &Parameters) -> Next {
    if pass.left <= threshold {
        Next::Complete
    } else if pass.deadline_at_risk || pass.left >= parameters.stalled_ratio * pass.sent {
        Next::Switch
    } else {
        Next::Pass
    }
}

/// A move at one rate, down to its last pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Course {
    /// Passes while the VM ran at the source.
    pub passes: u32,
    /// When the last of them ended, seconds from the start.
    pub seconds: f64,
    /// What was left then, bytes.
    pub left: f64,
    /// [`Next::Complete`] or [`Next::Switch`].
    pub end: Next,
}

/// Passes at most. What does not stall halves with each, so any memory is through long before.
const PASSES_MAX: u32 = 1_000;

/// Plays the rule at one rate. With a `deadline` (seconds from the start), a pass is not risked after which post-copy of the
/// rest would come too late; the paper has no rule for that, this is ours.
#[must_use]
pub fn course(
    subject: &Subject,
    rate: f64,
    threshold: f64,
    deadline: Option<f64>,
    parameters: &Parameters,
) -> Course {
    let mut course =
        Course { passes: 0, seconds: 0.0, left: subject.send_bytes, end: Next::Switch };
    if rate <= 0.0 {
        return course;
    }
    while course.passes < PASSES_MAX {
        let sent = course.left;
        course.passes += 1;
        course.seconds += sent / rate;
        course.left = subject.curve.unique_bytes(sent / rate);
        let after_another = subject.curve.unique_bytes(course.left / rate);
        let end_of_that = course.seconds + (course.left + after_another) / rate;
        let deadline_at_risk = deadline.is_some_and(|deadline| end_of_that > deadline);
        match after_pass(Pass { sent, left: course.left, deadline_at_risk }, threshold, parameters)
        {
            Next::Pass => {}
            end => return Course { end, ..course },
        }
    }
    course
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, subject};
    use super::*;
    use droveway_fleet::DirtyCurve;

    fn play(subject: &Subject, deadline: Option<f64>) -> Course {
        course(subject, 112.0, 33.6, deadline, &Parameters::default())
    }

    #[test]
    fn a_stalled_pass_is_the_last() {
        let curve =
            DirtyCurve::Saturating { dirty_bytes_per_second: 150.0, working_set_bytes: 60.0 };
        let busy = Subject { curve, ..subject(2048.0, 0.0, 0.0, 0.0) };
        let got = play(&busy, None);
        assert_eq!((got.passes, got.end), (2, Next::Switch));
        golden(got.seconds, 18.82, 0.01);
        golden(got.left, 44.28, 0.01);

        let got = play(&subject(2048.0, 80.0, 0.0, 0.0), None);
        assert_eq!((got.passes, got.end), (1, Next::Switch));
        golden(got.left, 1462.9, 0.1);
    }

    #[test]
    fn passes_that_shrink_complete() {
        let got = play(&subject(2048.0, 20.0, 0.0, 0.0), None);
        assert_eq!((got.passes, got.end), (3, Next::Complete));
        let idle = play(&subject(2048.0, 0.0, 0.0, 0.0), None);
        assert_eq!((idle.passes, idle.end), (1, Next::Complete));
        let empty = play(&subject(0.0, 0.0, 0.0, 0.0), None);
        assert_eq!((empty.passes, empty.end), (1, Next::Complete));
    }

    #[test]
    fn a_deadline_at_risk_switches() {
        let vm = subject(2048.0, 20.0, 0.0, 0.0);
        for (deadline, passes, end) in [
            // All three passes and the blackout end at 22.24 s,
            (22.3, 3, Next::Complete),
            // two and post-copy at 22.13 s,
            (22.2, 2, Next::Switch),
            // one and post-copy at 21.55 s.
            (22.0, 1, Next::Switch),
            (1.0, 1, Next::Switch),
        ] {
            let got = play(&vm, Some(deadline));
            assert_eq!((got.passes, got.end), (passes, end), "{deadline}");
        }
    }

    #[test]
    fn what_never_ends_is_cut_off() {
        let vm = subject(2048.0, 112.0, 0.0, 0.0);
        let patient = Parameters { stalled_ratio: 2.0 };
        assert_eq!(course(&vm, 112.0, 33.6, None, &patient).end, Next::Switch);
        let starved = course(&vm, 0.0, 33.6, None, &Parameters::default());
        assert_eq!((starved.passes, starved.end), (0, Next::Switch));
    }
}
