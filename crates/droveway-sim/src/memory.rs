//! A guest's memory: classes of pages that are written equally often, what of them is still to be sent, and what has been
//! dirtied since it was last looked.
//!
//! Pages are not kept one by one; per class, how many are pending and how many are dirty are enough, since which ones they
//! are is chance. A page that is dirtied while it is pending is sent once.

use crate::Physics;
use droveway_fleet::{DirtyCurve, curve::PageClass, scenario::ScenarioVm};
use droveway_model::{fit::truth, world::stream_bytes};

/// A guest's memory while it migrates.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    classes: Vec<Class>,
    /// Pages of zeroes: looked at, not sent.
    pub zero_bytes: f64,
    /// What the stream spends on headers.
    header_bytes: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Class {
    pages: PageClass,
    pending: f64,
}

impl Memory {
    /// The memory of a scenario's VM: an idle guest, and the load that it was given.
    #[must_use]
    pub fn of(vm: &ScenarioVm, physics: &Physics) -> Self {
        let still =
            PageClass { bytes: physics.guest_bytes - physics.idle_bytes, writes_per_second: 0.0 };
        let idle = PageClass { bytes: physics.idle_bytes, writes_per_second: physics.idle_writes };
        let mut pages = vec![still, idle];
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
        }
        let used: f64 = pages.iter().map(|class| class.bytes).sum();
        let zero_bytes = (vm.memory.as_f64() - used).max(0.0);
        // What the stream spends on pages of zeroes is sent once, like a class that nobody writes to.
        let header_bytes = stream_bytes(used, zero_bytes) - used;
        pages.push(PageClass { bytes: header_bytes, writes_per_second: 0.0 });
        let classes =
            pages.into_iter().map(|pages| Class { pages, pending: pages.bytes }).collect();
        Memory { classes, zero_bytes, header_bytes }
    }

    /// What is to be sent.
    #[must_use]
    pub fn pending(&self) -> f64 {
        self.classes.iter().map(|class| class.pending).sum()
    }

    /// Everything, each page once, as the stream carries it.
    #[must_use]
    pub fn content(&self) -> f64 {
        self.classes.iter().map(|class| class.pages.bytes).sum()
    }

    /// The guest's pages that are not zeroes.
    #[must_use]
    pub fn guest_bytes(&self) -> f64 {
        self.content() - self.header_bytes
    }

    /// How it is dirtied.
    #[must_use]
    pub fn curve(&self) -> DirtyCurve {
        let written = self.classes.iter().map(|class| class.pages);
        DirtyCurve::Classes { classes: written.filter(|c| c.writes_per_second > 0.0).collect() }
    }

    /// Sends so much of what is pending, a little of every class.
    pub fn send(&mut self, bytes: f64) {
        let pending = self.pending();
        if pending <= 0.0 {
            return;
        }
        let share = (1.0 - bytes / pending).clamp(0.0, 1.0);
        for class in &mut self.classes {
            class.pending *= share;
        }
    }

    /// Takes over what was dirtied in `seconds`, of which chance makes `chance` times as many. Returns how much is pending
    /// that was not before.
    pub fn sync(&mut self, seconds: f64, chance: f64) -> f64 {
        let before = self.pending();
        for class in &mut self.classes {
            let share = -(-class.pages.writes_per_second * seconds * chance).exp_m1();
            // Of the pages that were dirtied, those that are pending already are not pending twice.
            class.pending += (class.pages.bytes - class.pending) * share.clamp(0.0, 1.0);
        }
        self.pending() - before
    }

    /// From now on the guest also writes to so much of its memory, at that rate.
    pub fn write_more(&mut self, working_set: f64, rate: f64) {
        // It lies on what was not written to, as far as there is that; what of it is to be sent stays so.
        let Some(still) = self.classes.first_mut() else { return };
        let bytes = working_set.min(still.pages.bytes);
        let share = if still.pages.bytes > 0.0 { bytes / still.pages.bytes } else { 0.0 };
        let pending = still.pending * share;
        still.pages.bytes -= bytes;
        still.pending -= pending;
        let writes_per_second = if bytes > 0.0 { rate / bytes } else { 0.0 };
        self.classes.push(Class { pages: PageClass { bytes, writes_per_second }, pending });
    }

    /// Everything is to be sent, again.
    pub fn restart(&mut self) {
        for class in &mut self.classes {
            class.pending = class.pages.bytes;
        }
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
        assert!((dirtied - expected).abs() < 0.1, "{dirtied}, not {expected}");
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
        assert!((1.0e6..1.3e6).contains(&headers), "{headers}: 9 bytes a zero page, 8 a full one");
    }
}
