//! What a first pass over a guest's memory will send, from outside: how much of it QEMU holds, how much of that is zeroes,
//! and how well the rest would compress.
//!
//! The guest's RAM is the mapping of the QEMU process that has its size. `/proc/PID/pagemap` says which pages exist; pages
//! that do not exist, and would read as zeroes, are never touched, so looking makes nothing resident. Of those that exist
//! a random sample is read.

use flate2::{Compression, write::DeflateEncoder};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
};

const PAGE: u64 = 4096;

/// `/proc/PID/pagemap`: bits of one entry.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// Entries read at once.
const ENTRIES: usize = 64 << 10;

/// Pages that are compressed to estimate what compression would save: a few milliseconds.
const COMPRESSED_PAGES_MAX: usize = 256;

/// A guest's memory, seen from outside.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GuestMemory {
    /// What exists of it: in memory or swapped out.
    pub resident_bytes: u64,
    /// Share of that which is all zeroes.
    pub zero_ratio: f64,
    /// Standard error of that share.
    pub zero_ratio_error: f64,
    /// What deflate at its fastest makes of a byte that is not in a page of zeroes; `None` if there is none.
    pub compressed_ratio: Option<f64>,
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
    let resident_bytes = (present.len() as u64 + swapped) * PAGE;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut random = seed;
    let (mut looked, mut zero) = (0_u32, 0_u32);
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    let mut compressed_pages = 0;
    let mut content = [0; PAGE as usize];
    let sampled = (pages as usize).min(present.len());
    for number in 0..sampled {
        // One page of each of as many equal parts: spread evenly, at random within its part.
        let (from, to) = (number * present.len() / sampled, (number + 1) * present.len() / sampled);
        let part = (to - from).max(1) as u64;
        let offset = usize::try_from(next_random(&mut random) % part).unwrap_or(0);
        let Some(page) = present.get(from + offset) else { continue };
        // A page that went meanwhile is none.
        if memory.read_exact_at(&mut content, start + u64::from(*page) * PAGE).is_err() {
            continue;
        }
        looked += 1;
        if content.iter().all(|byte| *byte == 0) {
            zero += 1;
        } else if compressed_pages < COMPRESSED_PAGES_MAX
            && number % (sampled / COMPRESSED_PAGES_MAX).max(1) == 0
        {
            encoder.write_all(&content)?;
            compressed_pages += 1;
        }
    }
    let squeezed = encoder.finish()?.len();
    // Pages that are swapped out are not read; the kernel does not swap what is zero and clean.
    #[expect(clippy::cast_precision_loss, reason = "page numbers, far below 2^53")]
    let in_memory = present.len() as f64 / (present.len() as f64 + swapped as f64).max(1.0);
    let share = f64::from(zero) / f64::from(looked.max(1));
    #[expect(clippy::cast_precision_loss, reason = "some hundred pages")]
    let compressed_ratio = (compressed_pages > 0)
        .then(|| squeezed as f64 / (compressed_pages * PAGE as usize) as f64);
    Ok(GuestMemory {
        resident_bytes,
        zero_ratio: share * in_memory,
        zero_ratio_error: (share * (1.0 - share) / f64::from(looked.max(1))).sqrt() * in_memory,
        compressed_ratio,
    })
}

/// Where the mapping of that size begins. QEMU's RAM is private anonymous memory, a memfd or a file; a mapping may be
/// longer than asked for by its alignment, so the one nearest in size is taken.
fn mapping(maps: &str, size: u64) -> Option<u64> {
    let one = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        (rest.starts_with("rw") && to - from >= size).then_some((to - from, from))
    };
    maps.lines().filter_map(one).min().map(|(_, from)| from)
}

/// The pages that are in memory, by number, and how many are swapped out.
fn existing(pid: u32, start: u64, size: u64) -> io::Result<(Vec<u32>, u64)> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let count = size / PAGE;
    let (mut present, mut swapped) = (Vec::new(), 0);
    let mut buffer = vec![0; ENTRIES * 8];
    let mut first = 0;
    while first < count {
        let entries = usize::try_from(count - first).unwrap_or(usize::MAX).min(ENTRIES);
        let chunk = &mut buffer[..entries * 8];
        pagemap.read_exact_at(chunk, (start / PAGE + first) * 8)?;
        for (offset, entry) in chunk.chunks_exact(8).enumerate() {
            let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
            if entry & PRESENT != 0 {
                // 2^32 pages are 16 TiB, more than any guest.
                present.extend(u32::try_from(first + offset as u64));
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
        unsafe { nix::sys::mman::madvise(region, SIZE, nix::sys::mman::MmapAdvise::MADV_NOHUGEPAGE) }
            .unwrap();
        // SAFETY: the mapping has `SIZE` readable, writable bytes and this is the only reference to it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(region.cast::<u8>().as_ptr(), SIZE) };
        let mut random = 7;
        for (number, page) in bytes.chunks_mut(4096).enumerate() {
            match number % 4 {
                0 => {}
                1 => page.fill(0),
                _ => page.iter_mut().for_each(|byte| *byte = next_random(&mut random) as u8),
            }
        }
        let looked = |seed| measure(std::process::id(), SIZE as u64, 4096, seed).unwrap();
        let first = looked(1);
        let expected = (SIZE as u64 / 4096) / 4 * 3 * 4096;
        assert_eq!(first.resident_bytes, expected);
        let error = (first.zero_ratio - 1.0 / 3.0).abs();
        assert!(error < 5.0 * first.zero_ratio_error + 1e-9, "{first:?}");
        assert!(first.compressed_ratio.unwrap() > 0.95, "random bytes do not compress: {first:?}");
        assert_eq!(looked(2).resident_bytes, expected, "looking made nothing resident");
        assert_eq!(looked(1), first, "a seed chooses the same pages");
    }

    #[test]
    fn a_mapping_is_found_by_its_size() {
        let maps = "5000-7000 rw-p 0 00:00 0\n10000-30000 r--p 0 00:00 0\n40000-61000 rw-p 0 00:00 0\n\
                    70000-90000 rw-s 0 00:01 9 /memfd:pc.ram (deleted)\n";
        assert_eq!(mapping(maps, 0x20000), Some(0x70000));
        assert_eq!(mapping(maps, 0x20001), Some(0x40000));
        assert_eq!(mapping(maps, 0x40000), None);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(measure(u32::MAX, 1 << 20, 16, 1).is_err());
    }
}
