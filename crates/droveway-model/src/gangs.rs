//! Gangs in closed form: serial, parallel and mixed moves of equal VMs, rounds, and which VMs to post-copy.
//!
//! The published formulas, as yardsticks of the fluid model and for the policies that use them. Bytes, seconds, bytes per
//! second; nothing loops without a bound.

use droveway_fleet::DirtyCurve;

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
        if ratio >= 1.0 {
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
        let ratio = vms * self.dirty_rate / self.rate;
        let first = vms * self.send_bytes / self.rate;
        let passes = self.passes(ratio);
        (Equal::series(first, ratio, passes), first * ratio.powf(passes))
    }

    /// One after the other (Callegati and Cerroni).
    #[must_use]
    pub fn serial(&self) -> GangTime {
        let (one, stop) = self.together(1.0);
        let vms = f64::from(self.vms);
        GangTime {
            total: vms * one,
            service_downtime: stop + (vms - 1.0) * one + self.resume_time,
        }
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
        let rest = f64::from(self.vms - m) * self.back_share * self.send_bytes / self.rate;
        GangTime { total: time + rest, service_downtime: stop + rest + self.resume_time }
    }
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
    let rate = rate.max(f64::MIN_POSITIVE);
    let mut now = 0.0;
    let mut began: Vec<Option<f64>> = vec![None; send_bytes.len()];
    let pending = |vm: usize, began: Option<f64>, now: f64| match began {
        None => send_bytes[vm],
        Some(at) => curves[vm].unique_bytes(now - at).min(send_bytes[vm]),
    };
    for _ in 0..max_rounds {
        for vm in 0..send_bytes.len() {
            let sends = pending(vm, began[vm], now);
            began[vm] = Some(now);
            now += sends / rate;
        }
        let left: f64 = (0..send_bytes.len()).map(|vm| pending(vm, began[vm], now)).sum();
        if left <= threshold {
            break;
        }
    }
    let left: f64 = (0..send_bytes.len()).map(|vm| pending(vm, began[vm], now)).sum();
    let downtime = left / rate;
    GangTime { total: now + downtime, service_downtime: downtime }
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

/// Least rate of a stream, so that a starved one ends some day.
const RATE_MIN: f64 = 1e-3;

/// The reference engine for direction (G1): all start at once, or one after the other in `order`; inelastic traffic first,
/// the rest shared equally; no thresholds, no switchover time. `postcopy[i]` says that VM `i` runs at the target from its
/// start. Returns the total time.
#[must_use]
pub fn reference(
    vms: &[Loaded],
    postcopy: &[bool],
    capacity: f64,
    residents: Residents,
    order: Option<&[usize]>,
) -> f64 {
    let mut at_target = vec![false; vms.len()];
    let mut left: Vec<f64> = vms.iter().map(|vm| vm.send_bytes).collect();
    let mut waiting: std::collections::VecDeque<usize> = order.into_iter().flatten().copied().collect();
    let mut active: Vec<usize> = match order {
        None => (0..vms.len()).collect(),
        Some(_) => waiting.pop_front().into_iter().collect(),
    };
    for vm in &active {
        at_target[*vm] = postcopy[*vm];
    }
    let mut now = 0.0;
    // Each round ends a VM.
    while !active.is_empty() {
        let load = |at: bool, of: fn(&Loaded) -> f64| -> f64 {
            vms.iter().zip(&at_target).filter(|(_, there)| **there == at).map(|(vm, _)| of(vm)).sum()
        };
        let tx = capacity - residents.source_tx - load(false, |vm| vm.tx);
        let rx = capacity - residents.target_rx - load(true, |vm| vm.rx);
        #[expect(clippy::cast_precision_loss, reason = "some VMs")]
        let share = tx.min(rx).max(RATE_MIN) / active.len() as f64;
        let net = |vm: usize| {
            if postcopy[vm] { share } else { (share - vms[vm].dirty_rate).max(RATE_MIN) }
        };
        let step = active.iter().map(|vm| left[*vm] / net(*vm)).fold(f64::INFINITY, f64::min);
        now += step;
        for vm in &active {
            left[*vm] -= net(*vm) * step;
        }
        active.retain(|vm| {
            let done = left[*vm] <= 1e-9 * vms[*vm].send_bytes.max(1.0);
            if done {
                at_target[*vm] = true;
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
    now
}

/// The per-VM rule (Deshpande and Keahey): post-copy whoever sends more than it receives.
#[must_use]
pub fn greedy(vms: &[Loaded]) -> Vec<bool> {
    vms.iter().map(|vm| vm.allow_postcopy && vm.tx > vm.rx).collect()
}

/// Gangs up to this size are split by trying everything.
pub const SPLIT_EXACT_MAX: usize = 16;
/// Beyond, loads are counted in so many steps of the capacity.
const SPLIT_STEPS: usize = 512;

/// Which VMs to post-copy so that the more loaded of source TX and target RX is least loaded; ties: fewer post-copied VMs,
/// then those that come later. Returns the choice and its larger load.
#[must_use]
pub fn joint_split(vms: &[Loaded], residents: Residents) -> (Vec<bool>, f64) {
    if vms.len() <= SPLIT_EXACT_MAX { split_exactly(vms, residents) } else { split_by_steps(vms, residents) }
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

fn split_exactly(vms: &[Loaded], residents: Residents) -> (Vec<bool>, f64) {
    let choice = |mask: u32| -> Vec<bool> {
        // The first VM is the highest bit, so that masks ascend with "pre" first.
        (0..vms.len()).map(|vm| mask >> (vms.len() - 1 - vm) & 1 == 1).collect()
    };
    let mut best: Option<(f64, u32, u32)> = None;
    for mask in 0..1_u32 << vms.len() {
        let postcopy = choice(mask);
        if vms.iter().zip(&postcopy).any(|(vm, post)| *post && !vm.allow_postcopy) {
            continue;
        }
        let found = (larger_load(vms, residents, &postcopy), mask.count_ones(), mask);
        let better = best.is_none_or(|best| {
            found.0 < best.0 - 1e-9 || (found.0 < best.0 + 1e-9 && (found.1, found.2) < (best.1, best.2))
        });
        if better {
            best = Some(found);
        }
    }
    let (load, _, mask) = best.unwrap_or((larger_load(vms, residents, &vec![false; vms.len()]), 0, 0));
    (choice(mask), load)
}

/// Dynamic programme over what stays at the source, counted in steps: for each, the least that is received at the target.
fn split_by_steps(vms: &[Loaded], residents: Residents) -> (Vec<bool>, f64) {
    let total: f64 = vms.iter().map(|vm| vm.tx).sum();
    #[expect(clippy::cast_precision_loss, reason = "a few hundred steps")]
    let width = (total / SPLIT_STEPS as f64).max(f64::MIN_POSITIVE);
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
    let scored = table.into_iter().flatten().map(|(_, choice)| {
        let load = larger_load(vms, residents, &choice);
        (load, choice)
    });
    let best = scored.min_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or_else(
        || {
            let none = vec![false; vms.len()];
            let load = larger_load(vms, residents, &none);
            (none, load)
        },
        |(load, choice)| (choice, load),
    )
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
