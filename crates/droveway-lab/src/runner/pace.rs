//! When to stop, how long to wait before the next try, and whom not to wait for.

use super::event;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Tells a job to end. Jobs look at it at least once per sample interval.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The first wait: long enough for a server to notice that its last client left.
const FIRST: Duration = Duration::from_millis(200);

/// The longest wait. It lengthens the outage that the application shows, so it stays near TCP's own first retry (1 s).
const LONGEST: Duration = Duration::from_secs(2);

/// Waits that double from try to try.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) const fn new() -> Self {
        Backoff(FIRST)
    }

    /// How long to wait now; the next wait is longer.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(LONGEST);
        wait
    }

    /// It worked: the next wait is short again.
    pub(crate) fn reset(&mut self) {
        self.0 = FIRST;
    }
}

/// The lowest real-time priority: before every ordinary thread, behind all else.
const PRIORITY: libc::sched_param = libc::sched_param { sched_priority: 1 };

/// Lets this thread run as soon as it wakes. Clients stand for machines of their own; here they share CPUs with emulated
/// guests that never sleep, and a wait for a CPU would be read as latency or silence (one run each, three busy loops on two
/// CPUs: a memcached's p99 was 9.7 ms with its client at normal priority, 3.3 ms so). Only for threads that do little.
pub(crate) fn go_first() {
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameters are a constant that outlives the call; on Linux, "pid" 0 is the calling thread alone.
    if unsafe { libc::sched_setscheduler(0, policy, &PRIORITY) } != 0 {
        event(&format!("without real-time priority: {}", io::Error::last_os_error()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_anew() {
        let mut backoff = Backoff::new();
        let waits: Vec<u128> = (0..6).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 2000, 2000]);
        backoff.reset();
        assert_eq!(backoff.next(), FIRST);
    }
}
