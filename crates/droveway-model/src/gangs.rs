//! Gangs in closed form: serial, parallel and mixed moves of equal VMs, rounds, orders, and which VMs to post-copy.
//!
//! The published formulas, as yardsticks of the fluid model and for the policies that use them. Bytes, seconds, bytes per
//! second; nothing loops without a bound.

use droveway_fleet::DirtyCurve;
use std::{cmp::Ordering, collections::VecDeque};

/// Rates below this count as this, so that a starved stream ends some day.
const RATE_MIN: f64 = 1e-3;

/// Equal VMs over one channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Equal {
    /// How many (`M`).
    pub vms: u32,
    /// What each sends at first (`V`).
    pub send_bytes: f64,
    /// What each dirties per second (`D`).
    pub dirty_rate: f64,
    /// The channel (`R`).
    pub rate: f64,
    /// What may be left at a stop (`V_th`).
    pub threshold: f64,
    /// Passes at most.
    pub max_passes: u32,
    /// Resume of a VM.
    pub resume_time: f64,
    /// Share of its memory that a post-copied VM needs before it counts as back.
    pub back_share: f64,
}

/// What moving a gang takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GangTime {
    /// First start to last end.
    pub total: f64,
    /// From the first member's stop until all run at the target.
    pub service_downtime: f64,
}

impl Equal {
    /// Passes until what is left is under the threshold, at a ratio of dirtying to rate.
    fn passes(&self, ratio: f64) -> f64 {
        let most = f64::from(self.max_passes);
        if self.send_bytes <= self.threshold {
            0.0
        } else if ratio >= 1.0 {
            most
        } else if ratio <= 0.0 {
            1.0
        } else {
            ((self.threshold / self.send_bytes).ln() / ratio.ln()).ceil().clamp(0.0, most)
        }
    }

    /// The time of a first pass of `first` seconds and its successors, the last while stopped.
    fn series(first: f64, ratio: f64, passes: f64) -> f64 {
        if (ratio - 1.0).abs() < 1e-9 {
            first * (passes + 1.0)
        } else {
            first * (1.0 - ratio.powf(passes + 1.0)) / (1.0 - ratio)
        }
    }

    fn together(&self, vms: f64) -> (f64, f64) {
        let rate = self.rate.max(RATE_MIN);
        let ratio = vms * self.dirty_rate / rate;
        let first = vms * self.send_bytes / rate;
        let passes = self.passes(ratio);
        (Equal::series(first, ratio, passes), first * ratio.powf(passes))
    }

    /// One after the other (Callegati and Cerroni).
    #[must_use]
    pub fn serial(&self) -> GangTime {
        let (one, stop) = self.together(1.0);
        let vms = f64::from(self.vms);
        GangTime { total: vms * one, service_downtime: stop + (vms - 1.0) * one + self.resume_time }
    }

    /// All at once (Callegati and Cerroni); without meaning where they dirty more than the channel takes.
    #[must_use]
    pub fn parallel(&self) -> GangTime {
        self.mixed(self.vms)
    }

    /// The first `m` by pre-copy at once, the others by post-copy, one after the other (Sun; `m = 1` is "improved serial").
    #[must_use]
    pub fn mixed(&self, m: u32) -> GangTime {
        let m = m.clamp(1, self.vms.max(1));
        let (time, stop) = self.together(f64::from(m));
        let rest =
            f64::from(self.vms - m) * self.back_share * self.send_bytes / self.rate.max(RATE_MIN);
        GangTime { total: time + rest, service_downtime: stop + rest + self.resume_time }
    }

    /// Total time in groups of `size`, one group after the other, with `fixed` seconds for each before its transfer; down to
    /// the last byte, without a threshold. Size 1 is serial, all at once parallel. `None` where a group dirties more than
    /// the channel takes.
    #[must_use]
    pub fn in_groups(&self, size: u32, fixed: f64) -> Option<f64> {
        let size = size.clamp(1, self.vms.max(1));
        let (full, rest) = (self.vms / size, self.vms % size);
        let group = |vms: u32| match vms {
            0 => Some(0.0),
            _ => Some(fixed + self.last_byte_after(vms)?),
        };
        let total = group(rest)?;
        if full == 0 { Some(total) } else { Some(total + f64::from(full) * group(size)?) }
    }

    /// Serial, each VM's fixed `fixed` seconds during the transfer of the one before: as [`Equal::in_groups`].
    #[must_use]
    pub fn pipelined(&self, fixed: f64) -> Option<f64> {
        if self.vms == 0 {
            return Some(0.0);
        }
        let one = self.last_byte_after(1)?;
        // A set-up that is longer than a transfer is waited for.
        Some(fixed + one + f64::from(self.vms - 1) * one.max(fixed))
    }

    fn last_byte_after(&self, vms: u32) -> Option<f64> {
        let vms = f64::from(vms);
        let net = self.rate - vms * self.dirty_rate;
        (net > 0.0).then(|| vms * self.send_bytes / net)
    }
}

/// The order in which serial moves that take `times` end soonest on average, each end weighted: ascending time over weight
/// (Smith; with equal weights shortest first). Ties: as given.
#[must_use]
pub fn shortest_first(times: &[f64], weights: &[f64]) -> Vec<usize> {
    ascending(times.iter().zip(weights).map(|(time, weight)| time / weight.max(f64::MIN_POSITIVE)))
}

/// The order in which serial moves are latest by the least: ascending deadline (Jackson). Ties: as given.
#[must_use]
pub fn earliest_deadline_first(deadlines: &[f64]) -> Vec<usize> {
    ascending(deadlines.iter().copied())
}

fn ascending(keys: impl Iterator<Item = f64>) -> Vec<usize> {
    let keys: Vec<f64> = keys.collect();
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by(|a, b| keys[*a].total_cmp(&keys[*b]));
    order
}

/// When each of `times`, in this order, ends; by index, not by order. What is not in `order` does not run and ends at 0.
#[must_use]
pub fn completions(times: &[f64], order: &[usize]) -> Vec<f64> {
    let mut ends = vec![0.0; times.len()];
    let mut now = 0.0;
    for vm in order {
        now += times[*vm];
        ends[*vm] = now;
    }
    ends
}

/// Rounds: one channel at full rate goes round the VMs, one pass each, until what is pending in all of them is small.
/// Returns total time and the gang's downtime.
#[must_use]
pub fn round_robin(
    send_bytes: &[f64],
    curves: &[DirtyCurve],
    rate: f64,
    threshold: f64,
    max_rounds: u32,
) -> GangTime {
    let rate = rate.max(RATE_MIN);
    let mut now = 0.0;
    let mut left: f64 = send_bytes.iter().sum();
    // When each VM's last pass began.
    let mut began: Vec<Option<f64>> = vec![None; send_bytes.len()];
    for _ in 0..max_rounds {
        for ((send, curve), began) in send_bytes.iter().zip(curves).zip(&mut began) {
            let sends = pending(*send, curve, *began, now);
            *began = Some(now);
            now += sends / rate;
        }
        let all = send_bytes.iter().zip(curves).zip(&began);
        left = all.map(|((send, curve), began)| pending(*send, curve, *began, now)).sum();
        if left <= threshold {
            break;
        }
    }
    let downtime = left / rate;
    GangTime { total: now + downtime, service_downtime: downtime }
}

/// What a VM's next pass sends: everything at first, then what was dirtied since its last one began.
fn pending(send_bytes: f64, curve: &DirtyCurve, began: Option<f64>, now: f64) -> f64 {
    began.map_or(send_bytes, |at| curve.unique_bytes(now - at).min(send_bytes))
}

/// A VM with traffic, for the choice of techniques.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loaded {
    /// What it sends at first.
    pub send_bytes: f64,
    /// What it dirties per second.
    pub dirty_rate: f64,
    /// What it sends to others.
    pub tx: f64,
    /// What it receives.
    pub rx: f64,
    /// Whether it may be post-copied.
    pub allow_postcopy: bool,
}

/// Residents' traffic on the two directions that migration uses.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Residents {
    /// Sent by who stays at the source.
    pub source_tx: f64,
    /// Received by who is at the target.
    pub target_rx: f64,
}

/// Traffic between two VMs of the gang; costs nothing while both are on one host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peers {
    /// Who sends, by index.
    pub from: usize,
    /// Who receives, by index.
    pub to: usize,
    /// How much.
    pub rate: f64,
}

/// What the reference engine plays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reference<'a> {
    /// The gang.
    pub vms: &'a [Loaded],
    /// Traffic among it, beside [`Loaded::tx`] and [`Loaded::rx`].
    pub peers: &'a [Peers],
    /// What source TX and target RX can take.
    pub capacity: f64,
    /// Who does not move.
    pub residents: Residents,
}

impl Reference<'_> {
    /// The reference engine for direction (G1): all start at once, or one after the other in `order`; inelastic traffic
    /// first, the rest shared equally; no thresholds, no switchover time. `postcopy[i]` says that VM `i` runs at the target
    /// from its start. Returns when each VM ends; one that is not in `order` stays and ends at 0.
    ///
    /// # Panics
    /// If `postcopy` is shorter than the gang, or `order` or a peer names a VM that is not in it.
    #[must_use]
    pub fn ends(&self, postcopy: &[bool], order: Option<&[usize]>) -> Vec<f64> {
        let mut at_target = vec![false; self.vms.len()];
        let mut left: Vec<f64> = self.vms.iter().map(|vm| vm.send_bytes).collect();
        let mut ends = vec![0.0; self.vms.len()];
        let mut waiting: VecDeque<usize> = order.into_iter().flatten().copied().collect();
        let mut active: Vec<usize> = match order {
            None => (0..self.vms.len()).collect(),
            Some(_) => waiting.pop_front().into_iter().collect(),
        };
        for vm in &active {
            at_target[*vm] = postcopy[*vm];
        }
        let mut now = 0.0;
        // Each turn ends a VM.
        while !active.is_empty() {
            #[expect(clippy::cast_precision_loss, reason = "some VMs")]
            let share = self.available(&at_target) / active.len() as f64;
            let net = |vm: usize| {
                let dirtied = if postcopy[vm] { 0.0 } else { self.vms[vm].dirty_rate };
                (share - dirtied).max(RATE_MIN)
            };
            let step = active.iter().map(|vm| left[*vm] / net(*vm)).fold(f64::INFINITY, f64::min);
            now += step;
            for vm in &active {
                left[*vm] -= net(*vm) * step;
            }
            active.retain(|vm| {
                let done = left[*vm] <= 1e-9 * self.vms[*vm].send_bytes.max(RATE_MIN);
                if done {
                    at_target[*vm] = true;
                    ends[*vm] = now;
                }
                !done
            });
            if active.is_empty()
                && let Some(next) = waiting.pop_front()
            {
                at_target[next] = postcopy[next];
                active.push(next);
            }
        }
        ends
    }

    /// The total time: the last of [`Reference::ends`].
    #[must_use]
    pub fn total(&self, postcopy: &[bool], order: Option<&[usize]>) -> f64 {
        self.ends(postcopy, order).into_iter().fold(0.0, f64::max)
    }

    /// What inelastic traffic leaves to migration, given who runs where. Replies of split pairs go the other way.
    fn available(&self, at_target: &[bool]) -> f64 {
        let load = |there: bool, of: fn(&Loaded) -> f64| -> f64 {
            self.vms
                .iter()
                .zip(at_target)
                .filter(|(_, at)| **at == there)
                .map(|(vm, _)| of(vm))
                .sum()
        };
        let forward = |pair: &&Peers| !at_target[pair.from] && at_target[pair.to];
        let split: f64 = self.peers.iter().filter(forward).map(|pair| pair.rate).sum();
        let tx = self.residents.source_tx + load(false, |vm| vm.tx) + split;
        let rx = self.residents.target_rx + load(true, |vm| vm.rx) + split;
        (self.capacity - tx.max(rx)).max(RATE_MIN)
    }
}

/// The per-VM rule (Deshpande and Keahey): post-copy whoever sends more than it receives.
#[must_use]
pub fn greedy(vms: &[Loaded]) -> Vec<bool> {
    vms.iter().map(|vm| vm.allow_postcopy && vm.tx > vm.rx).collect()
}

/// Gangs up to this size are split by trying everything.
pub const SPLIT_EXACT_MAX: usize = 16;
/// Beyond, loads are counted in so many steps of what the gang sends: at 1 Gbit/s finer than traffic is known.
const SPLIT_STEPS: usize = 512;
/// Splits that are worth a play of each: the load is a stand-in for the total time.
pub const SPLITS_KEPT: usize = 8;

/// Which VMs to post-copy, and what the more loaded of source TX and target RX has to take then.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// By VM, true for those that run at the target from their start.
    pub postcopy: Vec<bool>,
    /// The larger load.
    pub load: f64,
}

/// The split with the least load ([`joint_splits`]).
#[must_use]
pub fn joint_split(vms: &[Loaded], residents: Residents) -> Split {
    let all_stay = || {
        let postcopy = vec![false; vms.len()];
        Split { load: larger_load(vms, residents, &postcopy), postcopy }
    };
    joint_splits(vms, residents).into_iter().next().unwrap_or_else(all_stay)
}

/// The [`SPLITS_KEPT`] splits with the least load, the least first; ties: fewer post-copied VMs, then those that come
/// later. Exact for up to [`SPLIT_EXACT_MAX`] VMs.
#[must_use]
pub fn joint_splits(vms: &[Loaded], residents: Residents) -> Vec<Split> {
    let mut splits = if vms.len() <= SPLIT_EXACT_MAX {
        every_split(vms, residents)
    } else {
        splits_by_steps(vms, residents)
    };
    splits.truncate(SPLITS_KEPT);
    splits
}

/// Sorts by load, then by number, then with "stays" first. Loads are compared in single precision: traffic is not known any
/// better, and sums that differ by their rounding are ties.
fn best_first(a: &Split, b: &Split) -> Ordering {
    #[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
    let load = |split: &Split| split.load as f32;
    let count = |split: &Split| split.postcopy.iter().filter(|post| **post).count();
    load(a)
        .total_cmp(&load(b))
        .then_with(|| count(a).cmp(&count(b)))
        .then_with(|| a.postcopy.cmp(&b.postcopy))
}

fn larger_load(vms: &[Loaded], residents: Residents, postcopy: &[bool]) -> f64 {
    let (mut tx, mut rx) = (residents.source_tx, residents.target_rx);
    for (vm, post) in vms.iter().zip(postcopy) {
        if *post {
            rx += vm.rx;
        } else {
            tx += vm.tx;
        }
    }
    tx.max(rx)
}

fn every_split(vms: &[Loaded], residents: Residents) -> Vec<Split> {
    let mut best: Vec<Split> = Vec::new();
    for mask in 0..1_u32 << vms.len() {
        let postcopy: Vec<bool> = (0..vms.len()).map(|vm| mask >> vm & 1 == 1).collect();
        if vms.iter().zip(&postcopy).any(|(vm, post)| *post && !vm.allow_postcopy) {
            continue;
        }
        let split = Split { load: larger_load(vms, residents, &postcopy), postcopy };
        let place = best.partition_point(|other| best_first(other, &split).is_lt());
        if place < SPLITS_KEPT {
            best.truncate(SPLITS_KEPT - 1);
            best.insert(place, split);
        }
    }
    best
}

/// Dynamic programme over what stays at the source, counted in steps: for each, the least that is received at the target.
fn splits_by_steps(vms: &[Loaded], residents: Residents) -> Vec<Split> {
    let total: f64 = vms.iter().map(|vm| vm.tx).sum();
    #[expect(clippy::cast_precision_loss, reason = "a few hundred steps")]
    let width = (total / SPLIT_STEPS as f64).max(f64::MIN_POSITIVE);
    // Rounding adds half a step a VM at most.
    let mut table: Vec<Option<(f64, Vec<bool>)>> = vec![None; SPLIT_STEPS + vms.len() + 1];
    table[0] = Some((0.0, Vec::new()));
    for vm in vms {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of the steps"
        )]
        let steps = (vm.tx / width).round() as usize;
        let mut next: Vec<Option<(f64, Vec<bool>)>> = vec![None; table.len()];
        for (at, entry) in table.iter().enumerate() {
            let Some((received, choice)) = entry else { continue };
            let mut offer = |at: usize, received: f64, post: bool| {
                let Some(place) = next.get_mut(at) else { return };
                if place.as_ref().is_none_or(|(other, _)| received < *other) {
                    let mut choice = choice.clone();
                    choice.push(post);
                    *place = Some((received, choice));
                }
            };
            offer(at + steps, *received, false);
            if vm.allow_postcopy {
                offer(at, received + vm.rx, true);
            }
        }
        table = next;
    }
    let mut splits: Vec<Split> = table
        .into_iter()
        .flatten()
        .map(|(_, postcopy)| Split { load: larger_load(vms, residents, &postcopy), postcopy })
        .collect();
    splits.sort_by(best_first);
    splits
}

/// A lower bound of [`joint_split`]'s load: VMs in order of how much sending a unit of receiving saves, the last of them in
/// part (linear relaxation).
#[must_use]
pub fn split_bound(vms: &[Loaded], residents: Residents) -> f64 {
    let mut free: Vec<&Loaded> = vms.iter().filter(|vm| vm.allow_postcopy).collect();
    free.sort_by(|a, b| (b.tx * a.rx).total_cmp(&(a.tx * b.rx)));
    let mut tx = residents.source_tx + vms.iter().map(|vm| vm.tx).sum::<f64>();
    let mut rx = residents.target_rx;
    for vm in free {
        if tx <= rx {
            break;
        }
        // Move it in part, up to where both are equal.
        let part = ((tx - rx) / (vm.tx + vm.rx).max(f64::MIN_POSITIVE)).min(1.0);
        tx -= part * vm.tx;
        rx += part * vm.rx;
    }
    tx.max(rx)
}

#[cfg(test)]
mod tests;
