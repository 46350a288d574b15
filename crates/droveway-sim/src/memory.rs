//! A guest's memory, page by page: which pages are still to be sent, and which are dirtied again.
//!
//! Pages of one class are written equally often, each by chance of its own, so what a pass leaves scatters as on a real guest.
//! They lie in the order in which QEMU sweeps over them, classes mixed as a guest's memory is, with pages of zeroes between;
//! towards the end of RAM a guest that has just booted has content, and before that a hole of zeroes, which QEMU counts as
//! left to send though it costs no time ([`Memory::tail`]). A page that is dirtied while it is pending is sent once.

use crate::{Physics, chance::Chance};
use droveway_fleet::{DirtyCurve, curve::PageClass, scenario::ScenarioVm};
use droveway_model::{fit::truth, fluid::Tail, world::stream_bytes};

const PAGE_BYTES: f64 = 4_096.0;
/// Pages of a word.
const WORD: usize = 64;
/// Words that a memory is kept in at most: 4 GiB of content page by page. In a larger one neighbours are written alike, two,
/// four, .. to a bit: what scatters then scatters more.
const WORDS_MAX: f64 = 16_384.0;

/// A guest's memory while it migrates.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    classes: Vec<PageClass>,
    /// In the order of RAM.
    words: Vec<Word>,
    /// What a bit stands for.
    bit_bytes: f64,
    /// Bits that are pending.
    pending: u64,
    /// Where the sweep is: the word, and how much of its next bit is gone already.
    at: usize,
    begun: f64,
    chance: Chance,
    /// Pages of zeroes: looked at, not sent.
    pub zero_bytes: f64,
    /// What the stream spends on headers.
    header_bytes: f64,
    tail: Tail,
}

/// Neighbouring pages of one class.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Word {
    class: usize,
    /// The bits that stand for something.
    all: u64,
    pending: u64,
}

impl Memory {
    /// The memory of a scenario's VM: an idle guest, and the load that it was given.
    #[must_use]
    pub fn of(vm: &ScenarioVm, physics: &Physics) -> Self {
        let still =
            PageClass { bytes: physics.guest_bytes - physics.idle_bytes, writes_per_second: 0.0 };
        let idle = PageClass { bytes: physics.idle_bytes, writes_per_second: physics.idle_writes };
        let mut pages = vec![still, idle];
        let mut loaded = 0.0;
        if let Some(load) = &vm.memory_load {
            let hot = load.hot_share.zip(load.hot_weight).map(|(s, w)| (s.get(), w.get()));
            let rate = Physics::bytes(load.write_rate.bytes_per_second());
            let working_set = load.working_set.as_f64();
            if let DirtyCurve::Classes { classes } = truth(working_set, rate, hot) {
                pages.extend(classes);
            }
            // Some of it lies where the guest's start had left something: that was to be sent anyway.
            let again = working_set * (physics.reused_bytes / vm.memory.as_f64()).min(1.0);
            pages[0].bytes = (pages[0].bytes - again).max(0.0);
            loaded = working_set - again;
        }
        let used: f64 = pages.iter().map(|class| class.bytes).sum();
        let zero_bytes = (vm.memory.as_f64() - used).max(0.0);
        // What the stream spends on pages of zeroes is sent once, like a class that nobody writes to.
        let header_bytes = stream_bytes(used, zero_bytes) - used;
        pages.push(PageClass { bytes: header_bytes, writes_per_second: 0.0 });
        // A load takes the hole first: it is free memory.
        let hole = (physics.hole_bytes - loaded).clamp(0.0, zero_bytes);
        let full = physics.tail_bytes.min(used);
        let tail = Tail::of(&[(full, full), (full + hole, full)], used, vm.memory.as_f64());
        let mut memory = Memory::laid_out(pages);
        (memory.zero_bytes, memory.header_bytes, memory.tail) = (zero_bytes, header_bytes, tail);
        memory
    }

    /// These classes in words, mixed, everything pending.
    fn laid_out(classes: Vec<PageClass>) -> Self {
        let bytes: f64 = classes.iter().map(|class| class.bytes.max(0.0)).sum();
        let mut bit_bytes = PAGE_BYTES;
        while bytes / bit_bytes > WORDS_MAX * 64.0 {
            bit_bytes *= 2.0;
        }
        let mut words = Vec::new();
        for (class, pages) in classes.iter().enumerate() {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "not negative, and bounded by WORDS_MAX"
            )]
            let mut bits = (pages.bytes.max(0.0) / bit_bytes).round() as usize;
            while bits > 0 {
                let here = bits.min(WORD);
                let all = u64::MAX >> (WORD - here);
                words.push(Word { class, all, pending: 0 });
                bits -= here;
            }
        }
        // Fisher and Yates; always the same, as a guest that boots always does the same.
        let mut chance = Chance::new(0);
        for last in (1..words.len()).rev() {
            words.swap(last, chance.below(last + 1));
        }
        let mut memory = Memory {
            classes,
            words,
            bit_bytes,
            pending: 0,
            at: 0,
            begun: 0.0,
            chance,
            zero_bytes: 0.0,
            header_bytes: 0.0,
            tail: Tail::default(),
        };
        memory.restart();
        memory
    }

    /// The same memory, whose pages are written by another chance.
    #[must_use]
    pub fn seeded(mut self, seed: u64) -> Self {
        self.chance = Chance::new(seed);
        self
    }

    /// What is to be sent.
    #[must_use]
    pub fn pending(&self) -> f64 {
        Physics::bytes(self.pending) * self.bit_bytes - self.begun
    }

    /// Everything, each page once, as the stream carries it.
    #[must_use]
    pub fn content(&self) -> f64 {
        let bits: u64 = self.words.iter().map(|word| u64::from(word.all.count_ones())).sum();
        Physics::bytes(bits) * self.bit_bytes
    }

    /// The guest's pages that are not zeroes.
    #[must_use]
    pub fn guest_bytes(&self) -> f64 {
        self.content() - self.header_bytes
    }

    /// How full the end of RAM is.
    #[must_use]
    pub const fn tail(&self) -> &Tail {
        &self.tail
    }

    /// How it is dirtied.
    #[must_use]
    pub fn curve(&self) -> DirtyCurve {
        let written = self.classes.iter().copied();
        DirtyCurve::Classes { classes: written.filter(|c| c.writes_per_second > 0.0).collect() }
    }

    /// Sends so much of what is pending, from where the sweep is.
    pub fn send(&mut self, bytes: f64) {
        let mut owed = self.begun + bytes.max(0.0);
        while self.pending > 0 && owed >= self.bit_bytes {
            let word = &mut self.words[self.at];
            while word.pending != 0 && owed >= self.bit_bytes {
                // The lowest one.
                word.pending &= word.pending - 1;
                self.pending -= 1;
                owed -= self.bit_bytes;
            }
            if word.pending == 0 {
                self.at = (self.at + 1) % self.words.len();
            }
        }
        self.begun = if self.pending > 0 { owed } else { 0.0 };
    }

    /// Takes over what was dirtied in `seconds`, of which chance makes `chance` times as many. Returns how much is pending
    /// that was not before.
    pub fn sync(&mut self, seconds: f64, chance: f64) -> f64 {
        let before = self.pending;
        let shares: Vec<f64> = self
            .classes
            .iter()
            .map(|class| -(-class.writes_per_second * seconds * chance).exp_m1())
            .collect();
        for word in &mut self.words {
            let share = shares[word.class];
            if share > 0.0 {
                // Of the pages that were dirtied, those that are pending already are not pending twice.
                let dirtied = self.chance.bits(share) & word.all & !word.pending;
                word.pending |= dirtied;
                self.pending += u64::from(dirtied.count_ones());
            }
        }
        Physics::bytes(self.pending - before) * self.bit_bytes
    }

    /// From now on the guest also writes to so much of its memory, at that rate.
    pub fn write_more(&mut self, working_set: f64, rate: f64) {
        // It lies on what was not written to, as far as there is that; what of it is to be sent stays so.
        let class = self.classes.len();
        let mut bytes = 0.0;
        for word in self.words.iter_mut().filter(|word| word.class == 0) {
            if bytes >= working_set {
                break;
            }
            word.class = class;
            bytes += f64::from(word.all.count_ones()) * self.bit_bytes;
        }
        if let Some(still) = self.classes.first_mut() {
            still.bytes = (still.bytes - bytes).max(0.0);
        }
        let writes_per_second = if bytes > 0.0 { rate / bytes } else { 0.0 };
        self.classes.push(PageClass { bytes, writes_per_second });
    }

    /// Everything is to be sent, again.
    pub fn restart(&mut self) {
        for word in &mut self.words {
            word.pending = word.all;
        }
        self.pending = self.words.iter().map(|word| u64::from(word.all.count_ones())).sum();
        (self.at, self.begun) = (0, 0.0);
    }
}

impl Physics {
    #[expect(clippy::cast_precision_loss, reason = "rates and sizes far below 2^53")]
    pub(crate) fn bytes(value: u64) -> f64 {
        value as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use droveway_fleet::{Scenario, document};

    fn memory(load: &str) -> Memory {
        let text = format!(
            "apiVersion: droveway/v1\nkind: Scenario\nmetadata: {{ name: m }}\nspec:\n  link: {{ rate: 1Gbit/s }}\n  \
             hosts: [ {{ name: alpha }}, {{ name: beta }} ]\n  \
             vms: [ {{ name: one, host: alpha, memory: 512MiB{load} }} ]\n"
        );
        let scenario: Scenario = document::parse(&text, "test").unwrap();
        Memory::of(&scenario.spec.vms[0], &Physics::default())
    }

    /// Rounding to pages, of each class.
    const ROUNDING: f64 = 8.0 * PAGE_BYTES;

    #[test]
    fn what_is_dirtied_follows_the_curve_and_is_never_sent_twice() {
        let load = ", memoryLoad: { workingSet: 100MiB, writeRate: 30MiB/s }";
        let mut memory = memory(load);
        let content = memory.content();
        assert!((memory.pending() - content).abs() < 1.0);
        assert!(memory.sync(10.0, 1.0).abs() < 1.0, "all of it is pending already");
        memory.send(content);
        assert!(memory.pending() < 1.0);
        let dirtied = memory.sync(2.0, 1.0) / 1_048_576.0;
        let expected =
            100.0 * (1.0 - (-0.6_f64).exp()) + 1.5e6 / 1_048_576.0 * (1.0 - (-2.0_f64).exp());
        assert!((dirtied - expected).abs() < 1.5, "{dirtied}, not {expected}");
    }

    /// Each page by a chance of its own: mean and variance of a binomial distribution.
    #[test]
    fn pages_are_dirtied_one_by_one() {
        let class = PageClass { bytes: 1_000.0 * PAGE_BYTES, writes_per_second: 0.3 };
        let idle = Memory::laid_out(vec![class]);
        let counts: Vec<f64> = (0..2_000)
            .map(|seed| {
                let mut memory = idle.clone().seeded(seed);
                memory.send(memory.content());
                memory.sync(1.0, 1.0) / PAGE_BYTES
            })
            .collect();
        let share = 1.0 - (-0.3_f64).exp();
        let mean = counts.iter().sum::<f64>() / 2_000.0;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 2_000.0;
        assert!((mean - 1_000.0 * share).abs() < 1.5, "{mean}");
        assert!((variance / (1_000.0 * share * (1.0 - share)) - 1.0).abs() < 0.15, "{variance}");
    }

    #[test]
    fn a_sweep_takes_pages_in_their_order_and_begun_ones_stay_begun() {
        let class = PageClass { bytes: 130.0 * PAGE_BYTES, writes_per_second: 0.0 };
        let mut memory = Memory::laid_out(vec![class]);
        let mut left = memory.pending();
        for part in [0.4, 0.4, 0.4, 70.0, 57.9, 0.5] {
            memory.send(part * PAGE_BYTES);
            left -= part * PAGE_BYTES;
            assert!((memory.pending() - left).abs() < 1e-6, "{part}: {}", memory.pending());
        }
        memory.send(PAGE_BYTES);
        assert!(memory.pending().abs() < 1e-9 && memory.pending == 0);
        memory.restart();
        assert!((memory.pending() - 130.0 * PAGE_BYTES).abs() < 1e-9);
    }

    #[test]
    fn a_large_memory_is_kept_in_as_many_words_as_a_small_one() {
        let class = |gib: f64| PageClass { bytes: gib * 1_073_741_824.0, writes_per_second: 0.0 };
        let large = Memory::laid_out(vec![class(300.0)]);
        assert!(large.words.len() <= 16_384 && large.bit_bytes > PAGE_BYTES);
        assert!((large.content() - class(300.0).bytes).abs() < large.bit_bytes);
        let small = Memory::laid_out(vec![class(3.9)]);
        assert!((small.bit_bytes - PAGE_BYTES).abs() < 1e-9);
    }

    /// Of the last 35 MB of an idle guest 19 are content, measured; a load fills the hole.
    #[test]
    fn the_end_of_ram_is_as_full_as_measured() {
        let idle = memory("");
        assert!((14e6..22e6).contains(&idle.tail().content(35e6)), "{:?}", idle.tail());
        assert!((idle.tail().content(14e6) - 14e6).abs() < 1.0);
        let loaded = memory(", memoryLoad: { workingSet: 100MiB, writeRate: 30MiB/s }");
        assert!(loaded.tail().content(35e6) > idle.tail().content(35e6));
    }

    #[test]
    fn a_load_lies_partly_where_the_start_left_something() {
        // Measured: 512 MiB with 80 MiB sent 180.6 MB; the share is measured within a fifth.
        let content = memory(", memoryLoad: { workingSet: 80MiB, writeRate: 15MiB/s }").content();
        assert!((175e6..186e6).contains(&content), "{content}");
    }

    #[test]
    fn an_idle_guest_sends_little_of_its_memory() {
        let memory = memory("");
        assert!((memory.zero_bytes + 116e6 - 536_870_912.0).abs() < 1.0);
        let headers = memory.content() - 116e6;
        let rounded = memory.guest_bytes() - 116e6;
        assert!(rounded.abs() < ROUNDING, "{rounded}");
        assert!((1.0e6..1.3e6).contains(&headers), "{headers}: 9 bytes a zero page, 8 a full one");
    }
}
