//! oVirt: a schedule of actions by passes. It looks every ten seconds and takes at most one action each time.

use super::{Pace, Sample, Step, millis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// oVirt's host agent looks every ten seconds.
pub(super) const POLL_SECONDS: f64 = 10.0;

/// oVirt: VMs that move at once under most policies.
const MAX_MIGRATIONS: u32 = 2;

/// oVirt: VMs that move at once under the policies for large VMs and for suspension, and with parallel connections.
const MAX_MIGRATIONS_ALONE: u32 = 1;

/// oVirt: the downtime limit at the start, in milliseconds.
const INITIAL_MS: u32 = 100;

/// oVirt: the downtime limit at the start for very large VMs, in milliseconds.
const INITIAL_VERY_LARGE_MS: u32 = 300;

/// oVirt: the last downtime limit before an abort, in milliseconds; it suspends the guest for as long.
const SUSPEND_MS: u32 = 5000;

/// oVirt: a pass number that every number of passes exceeds.
const AT_ONCE: i32 = -1;

/// An action of oVirt's schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OvirtAction {
    /// Set the downtime limit, in milliseconds.
    DowntimeLimitMs(u32),
    /// Switch to post-copy.
    PostCopy,
    /// Give up. After a switch to post-copy it is there for the case that the switch failed, which is the driver's to find.
    Abort,
}

/// oVirt's rule: a migration policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ovirt {
    /// VMs that move at once.
    pub max_migrations: u32,
    /// The downtime limit at the start, in milliseconds.
    pub initial_ms: u32,
    /// The actions in their order, each due when the passes since the start exceed its number. oVirt calls the number
    /// "stalling", but counts every pass.
    pub steps: Vec<(i32, OvirtAction)>,
}

impl Ovirt {
    /// oVirt's policy "Minimal downtime".
    #[must_use]
    pub fn minimal_downtime() -> Self {
        Self::climbing(&[(1, 150), (2, 200), (3, 300), (4, 400), (6, 500)]).then(OvirtAction::Abort)
    }

    /// oVirt's policy "Suspend workload if needed".
    #[must_use]
    pub fn suspend() -> Self {
        let climb = Self::climbing(&[(1, 150), (2, 200), (3, 300), (4, 400), (6, 500)])
            .then(OvirtAction::DowntimeLimitMs(SUSPEND_MS))
            .then(OvirtAction::Abort);
        Ovirt { max_migrations: MAX_MIGRATIONS_ALONE, ..climb }
    }

    /// oVirt's policy "Post-copy migration".
    #[must_use]
    pub fn post_copy() -> Self {
        Self::climbing(&[(1, 150), (2, 200)]).then(OvirtAction::PostCopy).then(OvirtAction::Abort)
    }

    /// oVirt's policy "Very large VMs".
    #[must_use]
    pub fn very_large() -> Self {
        let climb = Self::climbing(&[(1, 400), (2, 500), (3, 700), (4, 1000), (6, 1500)])
            .then(OvirtAction::DowntimeLimitMs(SUSPEND_MS))
            .then(OvirtAction::Abort);
        Ovirt { max_migrations: MAX_MIGRATIONS_ALONE, initial_ms: INITIAL_VERY_LARGE_MS, ..climb }
    }

    /// The policy with parallel connections (multifd): oVirt then moves one VM at a time and leaves out post-copy.
    #[must_use]
    pub fn with_parallel_connections(mut self) -> Self {
        self.max_migrations = MAX_MIGRATIONS_ALONE;
        self.steps.retain(|(_, action)| *action != OvirtAction::PostCopy);
        self
    }

    /// Limits in milliseconds, by passes.
    fn climbing(limits: &[(i32, u32)]) -> Self {
        let set = |&(passes, ms)| (passes, OvirtAction::DowntimeLimitMs(ms));
        Ovirt {
            max_migrations: MAX_MIGRATIONS,
            initial_ms: INITIAL_MS,
            steps: limits.iter().map(set).collect(),
        }
    }

    /// Whether it may switch to post-copy.
    pub(super) fn switches(&self) -> bool {
        self.steps.iter().any(|(_, action)| *action == OvirtAction::PostCopy)
    }

    fn then(mut self, action: OvirtAction) -> Self {
        self.steps.push((AT_ONCE, action));
        self
    }
}

/// What oVirt's rule remembers.
#[derive(Debug, Clone, Default)]
pub(super) struct OvirtState {
    pace: Pace,
    /// The counters of passes at the first poll and at the latest that saw it grow. The first is not always 1: libvirt goes
    /// on counting after an attempt that was cancelled.
    passes: Option<(u32, u32)>,
    /// The action that is next.
    next: usize,
}

impl OvirtState {
    pub(super) fn observe(&mut self, rule: &Ovirt, sample: &Sample) -> Option<Step> {
        if !self.pace.is_poll(POLL_SECONDS, sample.elapsed_seconds) {
            return None;
        }
        let passes = self.new_passes(sample.passes)?;
        let (limit, action) = *rule.steps.get(self.next)?;
        if i64::from(limit) >= i64::from(passes) {
            return None;
        }
        self.next += 1;
        Some(match action {
            OvirtAction::DowntimeLimitMs(ms) => Step::DowntimeLimit(millis(ms)),
            OvirtAction::PostCopy => Step::PostCopy,
            OvirtAction::Abort => Step::Abort,
        })
    }

    /// Passes since the start, if there are more than at the last poll.
    fn new_passes(&mut self, counter: u32) -> Option<u32> {
        let (first, latest) = self.passes.get_or_insert((counter, counter));
        if counter <= *latest {
            return None;
        }
        *latest = counter;
        Some(counter - *first)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Ladder,
            testing::{limit, poll, steps},
        },
        *,
    };

    /// Polls at 10, 20, .. seconds that find these counters.
    fn run(rule: Ovirt, counters: &[u32]) -> Vec<(f64, Step)> {
        let samples = counters.iter().zip(1u32..).map(|(&passes, poll_number)| Sample {
            passes,
            ..poll(f64::from(poll_number) * POLL_SECONDS)
        });
        steps(&Ladder::Ovirt(rule), samples)
    }

    const COUNTERS: [u32; 9] = [1, 1, 2, 3, 6, 10, 15, 21, 28];

    #[test]
    fn minimal_downtime_by_polls() {
        let expected = [
            (40.0, limit(150)),
            (50.0, limit(200)),
            (60.0, limit(300)),
            (70.0, limit(400)),
            (80.0, limit(500)),
            (90.0, Step::Abort),
        ];
        assert_eq!(run(Ovirt::minimal_downtime(), &COUNTERS), expected);
    }

    #[test]
    fn post_copy_by_polls() {
        let expected = [(40.0, limit(150)), (50.0, limit(200)), (60.0, Step::PostCopy)];
        assert_eq!(run(Ovirt::post_copy(), &COUNTERS), expected);
    }

    #[test]
    fn suspension_comes_before_the_abort() {
        let counters = [1, 10, 20, 30, 40, 50, 60, 70, 80];
        let last_two = |rule| {
            let taken = run(rule, &counters);
            taken[taken.len() - 2..].to_vec()
        };
        let expected = [(70.0, limit(5000)), (80.0, Step::Abort)];
        assert_eq!(last_two(Ovirt::suspend()), expected);
        assert_eq!(last_two(Ovirt::very_large()), expected);
        assert_eq!(run(Ovirt::very_large(), &counters)[4], (60.0, limit(1500)));
    }

    #[test]
    fn without_new_passes_nothing_happens() {
        assert_eq!(run(Ovirt::minimal_downtime(), &[1; 100]), []);
        // Not even with plenty of passes before, and not when the counter falls.
        let expected = [(20.0, limit(150))];
        assert_eq!(run(Ovirt::minimal_downtime(), &[1, 20, 20, 20, 5, 5]), expected);
    }

    #[test]
    fn passes_before_the_first_poll_do_not_count() {
        let expected = [(40.0, limit(150))];
        assert_eq!(run(Ovirt::minimal_downtime(), &[41, 41, 42, 43]), expected);
    }

    #[test]
    fn samples_between_polls_do_not_count() {
        let samples = (0..30u32).map(|second| Sample {
            passes: second,
            at_pass_boundary: true,
            ..poll(f64::from(second) + 0.5)
        });
        // Polls are found at 0.5, 8.5, 16.5 and 24.5 s.
        let expected = [(8.5, limit(150)), (16.5, limit(200)), (24.5, limit(300))];
        assert_eq!(steps(&Ladder::Ovirt(Ovirt::minimal_downtime()), samples), expected);
    }

    #[test]
    fn parallel_connections_exclude_post_copy() {
        let rule = Ovirt::post_copy().with_parallel_connections();
        assert_eq!(rule.max_migrations, 1);
        let expected = [(40.0, limit(150)), (50.0, limit(200)), (60.0, Step::Abort)];
        assert_eq!(run(rule, &COUNTERS), expected);
    }

    #[test]
    fn an_empty_schedule_is_harmless() {
        let rule = Ovirt { steps: Vec::new(), ..Ovirt::minimal_downtime() };
        assert_eq!(run(rule, &COUNTERS), []);
    }

    #[test]
    fn large_vms_move_alone() {
        let concurrency =
            [Ovirt::minimal_downtime(), Ovirt::post_copy(), Ovirt::suspend(), Ovirt::very_large()]
                .map(|rule| rule.max_migrations);
        assert_eq!(concurrency, [2, 2, 1, 1]);
    }
}
