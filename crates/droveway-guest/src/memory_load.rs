//! The memory-writing load: dirties pages of a fixed region at a given rate.
//!
//! The rate counts pages *written*: a page that is written twice counts twice, so the number of distinct
//! dirty pages grows as `W * (1 - exp(-r t / W))` for uniform writes. Content is pseudo-random and so
//! neither compressible nor ever zero, and each write changes it, because hypervisors may find dirty pages
//! by content. Picking and pacing are pure and know no clock.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};

use crate::boot;
use crate::config::{Hot, Load};

/// The page size of the guest, and the unit of every write.
pub(crate) const PAGE_BYTES: u64 = 4096;

const PAGE: usize = 4096;

/// Bytes that one write changes: a cache line, so that the load costs the CPU little beside the dirtying.
const CHANGED: usize = 64;

/// Time between bursts: short against a migration's passes, long against the cost of waking up under
/// emulation (2 ms cost 10 % of a CPU).
const TICK: Duration = Duration::from_millis(5);

/// Most backlog that is caught up. A guest that was paused for a second must not write a second's worth
/// at once: an application that was paused does not either.
const BACKLOG_MAX: Duration = Duration::from_millis(100);

const NS_PER_S: u128 = 1_000_000_000;

/// Bytes written so far, counted in whole pages; the first filling is not counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct LoadCounter(Arc<AtomicU64>);

impl LoadCounter {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Fills the working set and then writes it for ever in a thread of its own.
pub(crate) fn start(load: Load, name: &str, counter: LoadCounter) -> Result<(), String> {
    let available = boot::memory_bytes("MemAvailable")?;
    if load.working_set_bytes > available {
        return Err(format!(
            "memory load: a working set of {} bytes does not fit into {available} available bytes",
            load.working_set_bytes
        ));
    }
    let page_count = usize::try_from(load.working_set_bytes / PAGE_BYTES)
        .map_err(|_| "memory load: the working set exceeds the address space".to_owned())?;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed(name));
    let region = map_region(page_count * PAGE)?;
    random.fill_bytes(region);

    let picker = PagePicker::new(page_count, load.hot);
    let pacer = Pacer::new(load.write_rate_bytes_per_s);
    std::thread::Builder::new()
        .name("memory-load".to_owned())
        .spawn(move || write_for_ever(region, picker, pacer, random, &counter))
        .map_err(|error| format!("cannot start the memory load: {error}"))?;
    Ok(())
}

/// A private anonymous mapping that lives as long as the guest.
fn map_region(bytes: usize) -> Result<&'static mut [u8], String> {
    let length = NonZeroUsize::new(bytes).ok_or("memory load: the working set is empty")?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing.
    let start = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }
        .map_err(|error| format!("memory load: cannot map {bytes} bytes: {error}"))?;
    // SAFETY: the mapping has `bytes` readable, writable, zeroed bytes, is never unmapped, and this is the
    // only reference to it.
    Ok(unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>().as_ptr(), bytes) })
}

fn write_for_ever(
    region: &mut [u8],
    picker: PagePicker,
    mut pacer: Pacer,
    mut random: Xoshiro256PlusPlus,
    counter: &LoadCounter,
) {
    let mut last = Instant::now();
    loop {
        std::thread::sleep(TICK);
        let now = Instant::now();
        let due_pages = pacer.due_pages(now - last);
        last = now;
        for _ in 0..due_pages {
            let page = picker.pick(&mut random);
            change(&mut region[page * PAGE..][..PAGE], &mut random);
            counter.add(PAGE_BYTES);
        }
    }
}

/// Overwrites one cache line of the page, somewhere. The rest keeps its random content, so the page is
/// never zero.
fn change(page: &mut [u8], random: &mut impl Rng) {
    let line = random.random_range(0..PAGE / CHANGED);
    random.fill_bytes(&mut page[line * CHANGED..][..CHANGED]);
}

/// FNV-1a: the same name gives the same sequence of pages and bytes in every run and on every machine.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Chooses the page of each write.
#[derive(Debug, Clone, Copy)]
struct PagePicker {
    page_count: usize,
    /// Pages of the hot part, which lies at the start, and the probability that a write goes there.
    hot: Option<(usize, f64)>,
}

impl PagePicker {
    fn new(page_count: usize, hot: Option<Hot>) -> Self {
        Self { page_count, hot: hot.map(|hot| (hot_pages(page_count, hot.share), hot.weight)) }
    }

    /// A page of the hot part with its probability, else one of the others; so the weight is exactly the
    /// share of the writes that go to the hot part, unless every page is hot.
    fn pick(self, random: &mut impl Rng) -> usize {
        match self.hot {
            Some((hot_count, weight)) if random.random_bool(weight) => {
                random.random_range(0..hot_count)
            }
            Some((hot_count, _)) if hot_count < self.page_count => {
                random.random_range(hot_count..self.page_count)
            }
            _ => random.random_range(0..self.page_count),
        }
    }
}

/// At least one page: a hot part of nothing could not take its share of the writes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share in 0..=1 of a page count, which is far below 2^52"
)]
fn hot_pages(page_count: usize, share: f64) -> usize {
    ((page_count as f64 * share).round() as usize).clamp(1, page_count)
}

/// Turns elapsed time into pages to write, without drift: what is not written is kept, up to the limit.
#[derive(Debug)]
struct Pacer {
    rate_bytes_per_s: u128,
    /// Written in byte-nanoseconds per second (bytes times 10^9), so that nothing is rounded away.
    credit: u128,
    credit_max: u128,
}

impl Pacer {
    fn new(rate_bytes_per_s: u64) -> Self {
        let rate_bytes_per_s = u128::from(rate_bytes_per_s);
        // A slow load must be able to save up for one page.
        let one_page = u128::from(PAGE_BYTES) * NS_PER_S;
        let credit_max = (rate_bytes_per_s * BACKLOG_MAX.as_nanos()).max(one_page);
        Self { rate_bytes_per_s, credit: 0, credit_max }
    }

    fn due_pages(&mut self, elapsed: Duration) -> u64 {
        let page = u128::from(PAGE_BYTES) * NS_PER_S;
        let earned = self.rate_bytes_per_s.saturating_mul(elapsed.as_nanos());
        self.credit = self.credit.saturating_add(earned).min(self.credit_max);
        let pages = self.credit / page;
        self.credit -= pages * page;
        u64::try_from(pages).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[track_caller]
    fn check_pace(rate_bytes_per_s: u64, tick: Duration, ticks: u64, expected_pages: u64) {
        let mut pacer = Pacer::new(rate_bytes_per_s);
        let pages: u64 = (0..ticks).map(|_| pacer.due_pages(tick)).sum();
        assert_eq!(pages, expected_pages, "{rate_bytes_per_s} B/s, {ticks} x {tick:?}");
    }

    #[test]
    fn the_rate_is_met_without_drift() {
        check_pace(30 * MIB, TICK, 200, 7680);
        check_pace(30 * MIB, Duration::from_micros(5_137), 200_000, 30 * 256 * 10274 / 10);
        check_pace(4096, TICK, 2000, 10);
        check_pace(100, TICK, 60 * 200, 1);
        check_pace(0, TICK, 1000, 0);
    }

    #[test]
    fn a_pause_is_not_caught_up_beyond_the_limit() {
        check_pace(40 * MIB, Duration::from_secs(10), 1, 1024);
        check_pace(u64::MAX, Duration::from_secs(u64::MAX), 1, u64::MAX / 10 / PAGE_BYTES);
    }

    #[track_caller]
    fn check_hot_part(share: f64, weight: f64, expected: std::ops::RangeInclusive<usize>) {
        let picker = PagePicker::new(1000, Some(Hot { share, weight }));
        let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
        let hot_count = hot_pages(1000, share);
        let picks: Vec<usize> = (0..10_000).map(|_| picker.pick(&mut random)).collect();
        assert!(picks.iter().all(|page| *page < 1000));
        let hot = picks.iter().filter(|page| **page < hot_count).count();
        assert!(expected.contains(&hot), "share {share}, weight {weight}: {hot} of 10000 hot");
    }

    #[test]
    fn the_hot_part_gets_its_share_of_the_writes() {
        check_hot_part(0.1, 0.9, 8850..=9150);
        check_hot_part(0.1, 0.0, 0..=0);
        check_hot_part(0.1, 1.0, 10_000..=10_000);
        check_hot_part(1.0, 0.5, 10_000..=10_000);
        check_hot_part(0.0, 1.0, 10_000..=10_000);
    }

    #[test]
    fn uniform_writes_reach_every_page() {
        let picker = PagePicker::new(64, None);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let seen: std::collections::BTreeSet<usize> =
            (0..2000).map(|_| picker.pick(&mut random)).collect();
        assert_eq!(seen.len(), 64);
    }

    #[test]
    fn a_write_changes_one_line_of_the_page() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        let mut page = vec![0; PAGE];
        random.fill_bytes(&mut page);
        let before = page.clone();
        change(&mut page, &mut random);
        let changed: Vec<usize> = (0..PAGE / CHANGED)
            .filter(|i| page[i * CHANGED..][..CHANGED] != before[i * CHANGED..][..CHANGED])
            .collect();
        assert_eq!(changed.len(), 1);
    }

    #[test]
    fn a_name_fixes_the_sequence() {
        assert_eq!(seed("web-1"), seed("web-1"));
        assert_ne!(seed("web-1"), seed("web-2"));
        assert_eq!(seed(""), 0xcbf2_9ce4_8422_2325);
    }
}
