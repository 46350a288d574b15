//! How much memory a VM dirties within windows of several lengths, asked of its QEMU.
//!
//! QEMU hashes a random sample of pages at both ends of a window and reports the share that changed, scaled to the guest's
//! memory, as whole MiB/s rounded *down*. What that says is a range: at least `rate x window`, and less than one MiB/s
//! more. A sampled page stands for a known amount of memory, so the range can only hold whole multiples of it; in short
//! windows that leaves one or two values. Over long windows the range is wide (10 MiB over 10 s), so windows of one kind
//! differ a little from each other: where a slow guest's rate falls from one whole number to the next says more than the
//! same number read twice.
//!
//! Hashing asks nothing of the accelerator; it misses pages rewritten with equal bytes, and memory blocks below 128 MiB. Under
//! KVM the accelerator counts pages itself where that proves to work ([`droveway_qmp::Client::dirty_mode`]); under emulation
//! the mode `dirty-bitmap` answers 0, and `dirty-ring` is refused.
//!
//! The monitor is held for the question and for the answer, never for the window between: a run that begins meanwhile finds
//! it free.

use super::phases::Timed;
use crate::qemu::{self, Probed};
use droveway_fleet::Instance;
use droveway_host::features::monotonic_now;
use droveway_qmp::{DirtyRateMode, DirtyRateStatus, DirtySampling, MigrationStatus, RunState};
use std::time::Duration;
use tokio::sync::Semaphore;

/// QEMU's bounds on the pages that it samples of each GiB.
const PAGES_PER_GIB: std::ops::RangeInclusive<u64> = 128..=16_384;
/// The most pages of one VM that are hashed, twice each window: 128 MiB, some 80 ms of one CPU (19 ms for 8192 pages
/// were measured, in four series of 60 windows).
const PAGES_MAX: u64 = 32_768;

/// Pages of 4 KiB in a GiB: what counts each of them samples none.
const EVERY_PAGE: f64 = 262_144.0;

/// QEMU hashes for some milliseconds after the window; one that has not ended after this is stuck.
const ANSWER_TRIES: u32 = 400;
const ANSWER_PAUSE: Duration = Duration::from_millis(5);

/// Windows in which many samples are cheap, and fill the CPU: one VM of a host at a time.
const SHORT: [f64; 2] = [0.1, 0.3];
/// Windows that tell how large the working set is. Log-spaced: four of them pin two classes of pages down.
const LONG: [f64; 4] = [1.0, 3.0, 6.0, 10.0];
/// The share of the time for short windows (they converge sooner).
const SHORT_RATIO: f64 = 0.22;
/// The longest window as a share of the time for long ones: it must leave room for some of a second.
const LONGEST_RATIO: f64 = 0.75;
/// Windows of one kind differ by so much at most from their mean, so that QEMU's rounding differs.
const SPREAD: f64 = 0.2;
/// More readings than this make nothing more precise within a minute.
const SHORT_ROUNDS_MAX: usize = 8;

/// What one window said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reading {
    /// The window, as QEMU took it.
    pub(super) seconds: f64,
    /// Unique bytes dirtied in it, at least.
    pub(super) lower_bytes: f64,
    /// ... and at most.
    pub(super) upper_bytes: f64,
    /// The memory that one sampled page stands for.
    pub(super) sample_bytes: f64,
}

impl Reading {
    /// What a rate in whole MiB/s, rounded down, means.
    fn of(rate_mib: f64, seconds: f64, pages_per_gib: f64) -> Self {
        const MIB: f64 = 1_048_576.0;
        let sample_bytes = 1024.0 * MIB / pages_per_gib;
        // An exact multiple must not become the next one by rounding.
        let samples = |mib: f64| (mib * seconds * MIB / sample_bytes - 1e-9).ceil();
        let lower_bytes = samples(rate_mib).max(0.0) * sample_bytes;
        let upper_bytes = (samples(rate_mib + 1.0) - 1.0) * sample_bytes;
        Reading { seconds, lower_bytes, upper_bytes: upper_bytes.max(lower_bytes), sample_bytes }
    }

    /// The middle of the range.
    pub(super) fn middle_bytes(&self) -> f64 {
        f64::midpoint(self.lower_bytes, self.upper_bytes)
    }
}

/// The windows to watch.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Windows {
    short: Vec<f64>,
    long: Vec<f64>,
}

impl Windows {
    /// Windows of at most `seconds` together, for each of the `vms` of one host that are sampled together: their short
    /// windows take turns, their long ones overlap.
    pub(super) fn within(seconds: f64, vms: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a host's VMs are few")]
        let for_short = (seconds * SHORT_RATIO).min(seconds / vms.max(1) as f64);
        let mut windows = Windows::default();
        // Two of the shortest to one of the next: about the same time for each.
        let round = 2.0 * SHORT[0] + SHORT[1];
        let mut spent = 0.0;
        let mut rounds = 0;
        while rounds < SHORT_ROUNDS_MAX && spent + round <= for_short {
            windows.short.extend([SHORT[0], SHORT[0], SHORT[1]]);
            spent += round;
            rounds += 1;
        }
        if windows.short.is_empty() {
            windows.short.push(SHORT[0]);
            spent += SHORT[0];
        }
        let mut left = seconds - spent;
        let longest = LONG[3].min(left * LONGEST_RATIO);
        if longest > SHORT[1] {
            windows.long.push(longest);
            left -= longest;
        }
        // Then every length in turn, the short ones first: the two ends of the curve alone do not tell its form.
        let mut kinds = LONG.iter().filter(|kind| **kind <= longest).cycle();
        let mut misfits = 0;
        while misfits < LONG.len() {
            let Some(kind) = kinds.next() else { break };
            if *kind > left {
                misfits += 1;
                continue;
            }
            windows.long.push(*kind);
            left -= kind;
            misfits = 0;
        }
        for list in [&mut windows.short, &mut windows.long] {
            spread(list);
        }
        windows
    }
}

/// Makes equal windows differ, without changing their sum.
fn spread(windows: &mut [f64]) {
    let kinds: Vec<f64> = windows.to_vec();
    for (index, window) in windows.iter_mut().enumerate() {
        let same = |other: &&f64| (**other - kinds[index]).abs() < f64::EPSILON;
        let before = kinds[..index].iter().filter(same).count();
        let all = kinds.iter().filter(same).count();
        #[expect(clippy::cast_precision_loss, reason = "some dozens")]
        let place = (before as f64 + 0.5) / all as f64;
        *window *= 1.0 - SPREAD + 2.0 * SPREAD * place;
    }
}

/// Whose memory is watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) instance: &'a Instance,
    /// It runs on KVM.
    pub(super) kvm: bool,
    pub(super) memory_bytes: u64,
}

/// What was found out, and why it is less than was asked for.
#[derive(Debug, Default)]
pub(super) struct Sampled {
    pub(super) readings: Vec<Timed>,
    pub(super) method: String,
    pub(super) remark: Option<String>,
}

/// Watches one VM through all windows. `turn` is one VM's right to sample in short windows on its host; `stop` is asked
/// before each window.
pub(super) async fn sample(
    subject: Subject<'_>,
    windows: Windows,
    turn: &Semaphore,
    stop: impl Fn() -> Option<String>,
) -> Sampled {
    let mode = match best_mode(subject).await {
        Ok(mode) => mode,
        Err(reason) => return Sampled { remark: Some(reason), ..Sampled::default() },
    };
    let mut sampled = Sampled { method: mode.to_string(), ..Sampled::default() };
    let Windows { mut short, mut long } = windows;
    // Lists are taken from their ends: the longest windows first, so that they overlap with others' turns.
    long.reverse();
    loop {
        let (window, permit) = match (turn.try_acquire(), short.last(), long.last()) {
            (Ok(permit), Some(_), _) => (short.pop(), Some(permit)),
            (_, _, Some(_)) => (long.pop(), None),
            (Err(_), Some(_), None) => match turn.acquire().await {
                Ok(permit) => (short.pop(), Some(permit)),
                // Nobody closes the semaphore.
                Err(_) => break,
            },
            (_, None, None) => break,
        };
        let Some(window) = window else { break };
        if let Some(reason) = stop() {
            sampled.remark = Some(reason);
            break;
        }
        match watch(subject, &mode, window).await {
            Ok(timed) => sampled.readings.push(timed),
            Err(reason) => {
                sampled.remark = Some(reason);
                break;
            }
        }
        drop(permit);
    }
    sampled
}

/// How this VM is measured best. Trying it under KVM holds the monitor for a tenth of a second.
async fn best_mode(subject: Subject<'_>) -> Result<DirtyRateMode, String> {
    if !subject.kvm {
        return Ok(DirtyRateMode::PageSampling);
    }
    let client = ready(subject.instance).await?;
    client.dirty_mode(true).await.map_err(|error| error.to_string())
}

/// Its monitor, if it may be measured now.
async fn ready(instance: &Instance) -> Result<droveway_qmp::Client, String> {
    let client = monitor(instance).await?;
    let migration = client.migration().await.map_err(|error| error.to_string())?;
    if !is_idle(&migration.status) {
        return Err(format!("it migrates (status '{}')", migration.status));
    }
    let state = client.status().await.map_err(|error| error.to_string())?.state;
    if state != RunState::Running {
        return Err(format!("it does not run (state '{state}')"));
    }
    Ok(client)
}

/// Watches one window.
async fn watch(subject: Subject<'_>, mode: &DirtyRateMode, window: f64) -> Result<Timed, String> {
    let sampling = DirtySampling {
        mode: mode.clone(),
        window: Duration::from_secs_f64(window),
        pages_per_gib: pages_per_gib(subject.memory_bytes),
    };
    {
        let client = ready(subject.instance).await?;
        let started = client.start_dirty_sampling(&sampling).await;
        started.map_err(|error| format!("its QEMU does not measure: {error}"))?;
    }
    let began = monotonic_now();
    tokio::time::sleep(sampling.window).await;
    let client = monitor(subject.instance).await?;
    for _ in 0..ANSWER_TRIES {
        let answer = client.dirty_rate().await.map_err(|error| error.to_string())?;
        if answer.status == DirtyRateStatus::Measured {
            let rate = answer.rate.ok_or("its QEMU measured no rate")?;
            #[expect(clippy::cast_precision_loss, reason = "MiB/s and pages, far below 2^53")]
            let (mib, pages) =
                ((rate.bytes_per_second() >> 20) as f64, answer.pages_per_gib as f64);
            let pages = if answer.mode == DirtyRateMode::PageSampling { pages } else { EVERY_PAGE };
            if pages < 1.0 || answer.mode != *mode {
                return Err(format!("its QEMU measures by {}, not by {mode}", answer.mode));
            }
            let reading = Reading::of(mib, answer.window.as_secs_f64(), pages);
            return Ok(Timed { began, reading });
        }
        tokio::time::sleep(ANSWER_PAUSE).await;
    }
    Err("its QEMU's measurement does not end".to_owned())
}

async fn monitor(instance: &Instance) -> Result<droveway_qmp::Client, String> {
    match qemu::probe(instance).await {
        Probed::There(qemu) => Ok(qemu.client),
        Probed::Silent => Err("its monitor is in use by another program".to_owned()),
        Probed::Absent => Err("its QEMU is gone".to_owned()),
    }
}

/// No migration is under way.
pub(super) fn is_idle(status: &MigrationStatus) -> bool {
    matches!(
        status,
        MigrationStatus::Idle
            | MigrationStatus::Completed
            | MigrationStatus::Failed
            | MigrationStatus::Cancelled
    )
}

/// As many as QEMU allows, unless the memory is so large that hashing would take longer than the shortest window.
fn pages_per_gib(memory_bytes: u64) -> u32 {
    let gib = (memory_bytes >> 30).max(1);
    let pages = (PAGES_MAX / gib).clamp(*PAGES_PER_GIB.start(), *PAGES_PER_GIB.end());
    u32::try_from(pages).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1_048_576.0;

    fn sum(windows: &Windows) -> f64 {
        windows.short.iter().chain(&windows.long).sum()
    }

    #[track_caller]
    fn check_reading(rate: f64, seconds: f64, lower_mib: f64, upper_mib: f64) {
        let reading = Reading::of(rate, seconds, 16_384.0);
        let got = (reading.lower_bytes / MIB, reading.upper_bytes / MIB);
        assert!(
            (got.0 - lower_mib).abs() < 1e-9 && (got.1 - upper_mib).abs() < 1e-9,
            "{rate} MiB/s over {seconds} s: {got:?}"
        );
    }

    #[test]
    fn a_rate_rounded_down_is_a_range_of_whole_samples() {
        // A sample stands for 1/16 MiB.
        check_reading(0.0, 0.1, 0.0, 0.0625);
        check_reading(6.0, 0.1, 0.625, 0.6875);
        check_reading(3.0, 3.0, 9.0, 11.9375);
        check_reading(0.0, 0.05, 0.0, 0.0);
    }

    #[track_caller]
    fn check_windows(seconds: f64, vms: usize, longest: f64) {
        let windows = Windows::within(seconds, vms);
        assert!(sum(&windows) <= seconds + 1e-9, "{seconds} s: {windows:?}");
        let found = windows.long.iter().fold(0.0, |max, window| f64::max(max, *window));
        assert!((found - longest).abs() < 0.01, "{seconds} s: {windows:?}");
        // The monitor's bounds.
        let all = windows.short.iter().chain(&windows.long);
        assert!(all.clone().all(|window| (0.05..=60.0).contains(window)), "{windows:?}");
        assert!(all.count() > 0);
    }

    #[test]
    fn windows_fill_the_time_and_no_more() {
        check_windows(1.0, 1, 0.675);
        check_windows(10.0, 1, 6.0);
        check_windows(20.0, 1, 10.0);
        check_windows(30.0, 1, 10.0);
        check_windows(60.0, 1, 11.33);
        check_windows(10.0, 8, 6.75);
        let windows = Windows::within(60.0, 1);
        let of =
            |kind: f64| windows.long.iter().filter(|w| (**w / kind - 1.0).abs() < 0.21).count();
        assert!(of(10.0) >= 2 && of(3.0) >= 2 && of(1.0) >= 1, "{windows:?}");
        assert!(sum(&windows) > 50.0, "{windows:?}");
    }

    #[test]
    fn equal_windows_are_spread_around_their_mean() {
        let mut windows = [1.0, 3.0, 1.0];
        spread(&mut windows);
        assert!((windows[0] - 0.9).abs() < 1e-9 && (windows[2] - 1.1).abs() < 1e-9, "{windows:?}");
        assert!((windows[1] - 3.0).abs() < 1e-9);
    }

    #[test]
    fn large_memories_are_sampled_more_thinly() {
        assert_eq!(pages_per_gib(256 << 20), 16_384);
        assert_eq!(pages_per_gib(64 << 30), 512);
        assert_eq!(pages_per_gib(1 << 50), 128);
    }
}
