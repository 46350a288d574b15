//! What a first pass over a guest's memory will send, from outside: how much of it QEMU holds, how much of that is zeroes,
//! and how well the rest would compress.
//!
//! The guest's RAM is the mapping of the QEMU process that has its size (a guest whose RAM is in several, one a NUMA node, is
//! not found). `/proc/PID/pagemap` says which pages exist; pages that do not exist, and would read as zeroes, are never
//! touched, so looking makes nothing resident. Of those that exist a random sample is read. RAM that another process filled
//! through a shared file exists here only as far as QEMU has touched it, too.

use flate2::{Compression, write::DeflateEncoder};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
};

const PAGE_LEN: usize = 4096;
const PAGE: u64 = PAGE_LEN as u64;
/// Pages that guests' RAM is made of, small and huge.
const PAGE_SIZES: [u64; 3] = [PAGE, 2 << 20, 1 << 30];

/// `/proc/PID/pagemap`: bits of one entry.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// Entries read at once.
const ENTRIES: usize = 64 << 10;

/// Pages that are compressed to estimate what compression would save: a few milliseconds.
const COMPRESSED_PAGES_MAX: u64 = 256;

/// How far from the end of its RAM a guest's content is looked at: twice as far each time.
const TAIL_FIRST: u64 = 4 << 20;
const TAIL_LAST: u64 = 512 << 20;
/// Pages looked at between two such distances: a share there is known to one in sixteen.
const TAIL_PAGES: u64 = 64;

/// A guest's memory, seen from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct GuestMemory {
    /// What exists of it: in memory or swapped out.
    pub resident_bytes: u64,
    /// Share of that which is all zeroes.
    pub zero_ratio: f64,
    /// Standard error of that share.
    pub zero_ratio_error: f64,
    /// What deflate at its fastest makes of a byte that is not in a page of zeroes; `None` if there is none.
    pub compressed_ratio: Option<f64>,
    /// How much of the last so many bytes of RAM is not zero: (bytes of RAM, bytes of content), from the shortest on. QEMU
    /// sends RAM in order and stops the guest when the rest of it, zeroes included, fits the downtime: what that rest
    /// really weighs is how long the guest stands still.
    pub tail: Vec<(u64, u64)>,
}

/// Looks at the memory of the guest whose QEMU is `pid` and that has `memory_bytes`, at `pages` pages chosen by `seed`.
///
/// # Errors
/// The process is gone or may not be read, or no mapping has the guest's size.
pub fn measure(pid: u32, memory_bytes: u64, pages: u32, seed: u64) -> io::Result<GuestMemory> {
    let start = mapping(&fs::read_to_string(format!("/proc/{pid}/maps"))?, memory_bytes)
        .ok_or_else(|| {
            let text = format!("process {pid} has no mapping of {memory_bytes} bytes");
            io::Error::new(io::ErrorKind::NotFound, text)
        })?;
    let (present, swapped) = existing(pid, start, memory_bytes)?;
    let resident_bytes = (present.count + swapped) * PAGE;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut random = seed;
    let (mut looked, mut zero) = (0_u32, 0_u32);
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    let mut compressed_pages = 0_u64;
    let mut content = [0; PAGE_LEN];
    let sampled = u64::from(pages).min(present.count);
    // One page of each of as many equal parts: spread evenly, at random within its part.
    let bound = |number: u64| mul_div(number, present.count, sampled);
    let chosen = (0..sampled).map(|number| {
        let (from, to) = (bound(number), bound(number + 1));
        from + next_random(&mut random) % (to - from).max(1)
    });
    let compress_every = (sampled / COMPRESSED_PAGES_MAX).max(1);
    for (number, page) in (0..).zip(present.of_ranks(chosen)) {
        // A page that went meanwhile is none.
        if memory.read_exact_at(&mut content, start + page * PAGE).is_err() {
            continue;
        }
        looked += 1;
        if content.iter().all(|byte| *byte == 0) {
            zero += 1;
        } else if compressed_pages < COMPRESSED_PAGES_MAX && number % compress_every == 0 {
            encoder.write_all(&content)?;
            compressed_pages += 1;
        }
    }
    let tail = tail(&present, &memory, start, memory_bytes, &mut random);
    let squeezed = encoder.finish()?.len();
    // Pages that are swapped out are not read; the kernel does not swap what is zero and clean.
    #[expect(clippy::cast_precision_loss, reason = "page numbers, far below 2^53")]
    let in_memory = present.count as f64 / (present.count + swapped).max(1) as f64;
    let share = f64::from(zero) / f64::from(looked.max(1));
    #[expect(clippy::cast_precision_loss, reason = "some hundred pages")]
    let compressed_ratio =
        (compressed_pages > 0).then(|| squeezed as f64 / (compressed_pages * PAGE) as f64);
    Ok(GuestMemory {
        resident_bytes,
        zero_ratio: share * in_memory,
        zero_ratio_error: (share * (1.0 - share) / f64::from(looked.max(1))).sqrt() * in_memory,
        compressed_ratio,
        tail,
    })
}

/// The content towards the end of RAM, each doubling of the distance from a sample of its own.
fn tail(
    present: &Present,
    memory: &File,
    start: u64,
    memory_bytes: u64,
    random: &mut u64,
) -> Vec<(u64, u64)> {
    let pages = memory_bytes / PAGE;
    let mut content = [0; PAGE_LEN];
    let mut points = Vec::new();
    let (mut distance, mut filled, mut beyond) = (TAIL_FIRST, 0, pages);
    while distance <= TAIL_LAST.min(memory_bytes) {
        let from = pages - distance / PAGE;
        let here: Vec<u64> = (from..beyond).filter(|page| present.has(*page)).collect();
        let count = here.len() as u64;
        let sampled = count.min(TAIL_PAGES);
        let mut full = 0;
        for number in 0..sampled {
            let (low, high) =
                (mul_div(number, count, sampled), mul_div(number + 1, count, sampled));
            let rank = low + next_random(random) % (high - low).max(1);
            let page = usize::try_from(rank).ok().and_then(|rank| here.get(rank));
            let read = page.map(|page| memory.read_exact_at(&mut content, start + page * PAGE));
            full +=
                u64::from(matches!(read, Some(Ok(()))) && content.iter().any(|byte| *byte != 0));
        }
        filled += mul_div(full, count * PAGE, sampled.max(1));
        points.push((distance, filled));
        (distance, beyond) = (distance * 2, from);
    }
    points
}

/// `a * b / c` without overflow; `c` is not 0, and `a` at most `c`.
fn mul_div(a: u64, b: u64, c: u64) -> u64 {
    u64::try_from(u128::from(a) * u128::from(b) / u128::from(c)).unwrap_or(u64::MAX)
}

/// Where the mapping of that size begins. QEMU's RAM is private anonymous memory, a memfd or a file, of exactly its size or
/// filled up to whole pages of the kind it uses; a near miss is something else, like the 1 GiB of translated code.
fn mapping(maps: &str, size: u64) -> Option<u64> {
    let sizes = PAGE_SIZES.map(|page| size.next_multiple_of(page));
    let one = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        // Readable and writable; what is executable too is code.
        let fits = rest.starts_with("rw-") && sizes.contains(&to.checked_sub(from)?);
        fits.then_some((to - from, from))
    };
    maps.lines().filter_map(one).min().map(|(_, from)| from)
}

/// Which pages are in memory: one bit each, so that a guest of 1 TiB takes 32 MiB.
#[derive(Debug, Default)]
struct Present {
    words: Vec<u64>,
    count: u64,
}

impl Present {
    /// Pages come in order.
    fn add(&mut self, page: u64) {
        let word = usize::try_from(page / 64).unwrap_or(usize::MAX);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (page % 64);
        self.count += 1;
    }

    fn has(&self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok().and_then(|word| self.words.get(word));
        word.is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// The pages that have these ranks among those that are in memory; the ranks come in order.
    fn of_ranks(&self, ranks: impl Iterator<Item = u64>) -> impl Iterator<Item = u64> {
        let mut words = (0_u64..).zip(&self.words).peekable();
        let mut before = 0;
        ranks.map_while(move |rank| {
            loop {
                let (number, word) = words.peek()?;
                let here = u64::from(word.count_ones());
                if rank < before + here {
                    // Without the lowest bits that are set, as many as come before.
                    let left = (before..rank).fold(**word, |left, _| left & (left - 1));
                    return Some(number * 64 + u64::from(left.trailing_zeros()));
                }
                before += here;
                words.next();
            }
        })
    }
}

/// The pages that are in memory, and how many are swapped out.
fn existing(pid: u32, start: u64, size: u64) -> io::Result<(Present, u64)> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let count = size.div_ceil(PAGE);
    let (mut present, mut swapped) = (Present::default(), 0);
    let mut buffer = vec![0; ENTRIES * 8];
    let mut first = 0;
    while first < count {
        let entries = usize::try_from(count - first).unwrap_or(usize::MAX).min(ENTRIES);
        let chunk = &mut buffer[..entries * 8];
        pagemap.read_exact_at(chunk, (start / PAGE + first) * 8)?;
        for (page, entry) in (first..).zip(chunk.chunks_exact(8)) {
            let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
            if entry & PRESENT != 0 {
                present.add(page);
            } else if entry & SWAPPED != 0 {
                swapped += 1;
            }
        }
        first += entries as u64;
    }
    Ok((present, swapped))
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough to choose pages by.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
    use std::num::NonZeroUsize;

    /// 64 MiB of which a quarter is never touched, a quarter zeroes that were written, and half is not zero.
    #[test]
    fn what_exists_and_what_is_zero_is_told_apart_without_touching_the_rest() {
        const SIZE: usize = (64 << 20) + (12 << 12);
        let size = NonZeroUsize::new(SIZE).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // Inaccessible neighbours keep the kernel from joining the mapping with others.
        let guarded = NonZeroUsize::new(SIZE + 2 * 4096).unwrap();
        // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing.
        let outer =
            unsafe { mmap_anonymous(None, guarded, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) };
        let inner = NonZeroUsize::new(outer.unwrap().as_ptr() as usize + 4096);
        // SAFETY: replaces a part of the mapping above, which nobody uses.
        let region = unsafe {
            mmap_anonymous(inner, size, protection, MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED)
        }
        .unwrap();
        // SAFETY: huge pages would make neighbours of touched pages exist.
        unsafe {
            nix::sys::mman::madvise(region, SIZE, nix::sys::mman::MmapAdvise::MADV_NOHUGEPAGE)
        }
        .unwrap();
        // SAFETY: the mapping has `SIZE` readable, writable bytes and this is the only reference to it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(region.cast::<u8>().as_ptr(), SIZE) };
        let mut random = 7;
        for (number, page) in bytes.chunks_mut(4096).enumerate() {
            match number % 4 {
                0 => {}
                1 => page.fill(0),
                _ => page
                    .iter_mut()
                    .for_each(|byte| *byte = next_random(&mut random).to_ne_bytes()[0]),
            }
        }
        let looked = |seed| measure(std::process::id(), SIZE as u64, 4096, seed).unwrap();
        let first = looked(1);
        let expected = (SIZE as u64 / 4096) / 4 * 3 * 4096;
        assert_eq!(first.resident_bytes, expected);
        let error = (first.zero_ratio - 1.0 / 3.0).abs();
        assert!(error < 5.0 * first.zero_ratio_error + 1e-9, "{first:?}");
        assert!(first.compressed_ratio.unwrap() > 0.95, "random bytes do not compress: {first:?}");
        let distances: Vec<u64> = first.tail.iter().map(|(distance, _)| distance >> 20).collect();
        assert_eq!(distances, [4, 8, 16, 32, 64]);
        for (distance, content) in &first.tail {
            let share = *content * 100 / distance;
            assert!((30..=70).contains(&share), "half of it everywhere: {:?}", first.tail);
        }
        assert_eq!(looked(2).resident_bytes, expected, "looking made nothing resident");
        assert_eq!(looked(1), first, "a seed chooses the same pages");
    }

    #[test]
    fn a_mapping_is_found_by_its_size() {
        let maps = "5000-7000 rw-p 0 00:00 0\n10000-30000 r--p 0 00:00 0\n30000-50000 rwxp 0 00:00 0\n\
                    60000-81000 rw-p 0 00:00 0\n90000-b0000 rw-s 0 00:01 9 /memfd:pc.ram (deleted)\n\
                    200000-600000 rw-p 0 00:00 0\n";
        assert_eq!(mapping(maps, 0x20000), Some(0x90000));
        assert_eq!(mapping(maps, 0x1fff0), Some(0x90000), "filled up to whole pages");
        assert_eq!(mapping(maps, 0x200_001), Some(0x20_0000), "filled up to whole huge pages");
        assert_eq!(mapping(maps, 0x1f000), None, "a near miss");
        assert_eq!(mapping(maps, 0x700_000), None);
    }

    #[test]
    fn pages_are_found_by_their_rank() {
        let pages = [0, 3, 63, 64, 200, 1000];
        let mut present = Present::default();
        pages.iter().for_each(|page| present.add(*page));
        assert_eq!(present.count, 6);
        assert_eq!(present.of_ranks(0..6).collect::<Vec<_>>(), pages);
        assert_eq!(present.of_ranks([1, 1, 4].into_iter()).collect::<Vec<_>>(), [3, 3, 200]);
        assert_eq!(present.of_ranks(6..9).count(), 0);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(measure(u32::MAX, 1 << 20, 16, 1).is_err());
    }
}
