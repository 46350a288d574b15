//! One case of the matrix: which fault meets which technique, at which instant, and how hard. Drawn from the seed and the case's
//! own name, so that each can be repeated alone.

use crate::lab::Chance;
use clap::ValueEnum;

/// The VMs of the scenario.
pub(super) const VMS: [&str; 2] = ["cache", "busy"];
/// Its hosts.
pub(super) const HOSTS: [&str; 2] = ["alpha", "beta"];
/// Its stream.
pub(super) const STREAM: &str = "feed";
/// Its ports' rate, Mbit/s.
pub(super) const PORT_MBIT: f64 = 400.0;

/// Faults that last are short, as most are ..
const SHORT: (f64, f64) = (0.3, 4.0);
/// .. or, at one instant of five, longer than every limit of the drivers that they can run into.
const LONG: f64 = 12.0;
const LONG_EVERY: u64 = 5;
/// Every other instant of techniques that split memory lies in that time, which may be a twentieth of the run: so long after it was
/// seen to begin, at most.
const SPLIT_EVERY: u32 = 2;
const SPLIT_AFTER_MAX: f64 = 0.3;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Fault {
    /// A host's port carries nothing for a while
    LinkDown,
    /// A host's port becomes slower for the rest of the run
    Rate,
    /// Packets of a host are lost for a while
    Loss,
    /// The QEMU of a VM dies at the source
    KillSource,
    /// The QEMU of a VM dies at the target
    KillTarget,
    /// A QEMU stands still for a while
    Freeze,
    /// A QEMU's monitor reads nothing for a while
    StallMonitor,
    /// The controller is killed, and another one takes over
    KillController,
    /// The disk with the controller's journal is full from then on
    DiskFull,
    /// The controller's wall clock is set
    ClockStep,
    /// A VM begins to write to its memory at the port's rate
    Writes,
    /// The stream flows the other way
    Reverse,
}

impl Fault {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned())
    }

    /// A controller that has one has to bring every VM to the target, with the exit code 0.
    pub(super) const fn is_harmless(self) -> bool {
        matches!(self, Fault::ClockStep | Fault::Reverse)
    }

    /// Whether it takes a part of a VM's state with it.
    pub(super) const fn kills_a_qemu(self) -> bool {
        matches!(self, Fault::KillSource | Fault::KillTarget)
    }

    /// Whether one of a pair of QEMUs is hit.
    pub(super) const fn hits_a_qemu(self) -> bool {
        self.kills_a_qemu() || matches!(self, Fault::Freeze | Fault::StallMonitor)
    }

    /// Whether it stays when the run is over, whatever is done.
    pub(super) const fn spoils_the_lab(self) -> bool {
        matches!(self, Fault::Writes)
    }
}

/// How VMs move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Technique {
    PreCopy,
    PostCopy,
    Hybrid,
    StopAndCopy,
}

impl Technique {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned())
    }

    /// The policy that uses it, both VMs at once where there is one.
    pub(super) const fn policy(self) -> &'static str {
        match self {
            Technique::PreCopy => "pre-copy-parallel",
            Technique::PostCopy => "post-copy-parallel",
            Technique::Hybrid => "hybrid-parallel",
            Technique::StopAndCopy => "stop-and-copy",
        }
    }
}

/// A QEMU of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Target,
}

impl Side {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Target => "target",
        }
    }
}

/// One trial of the matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Case {
    pub(super) fault: Fault,
    pub(super) technique: Technique,
    /// Which instant of this fault and technique, from 1.
    pub(super) number: u32,
    /// When: the share of an undisturbed run's time. Each instant lies in a part of its own, so that all parts are met.
    pub(super) share: f64,
    /// Whose QEMU, if one of a pair is hit; its VM is the one of these that moves at that instant.
    pub(super) vm: usize,
    /// Which of the two; also whose port.
    pub(super) side: Side,
    /// How long it lasts, if it does.
    pub(super) seconds: f64,
    /// How hard, in 0 to 1.
    pub(super) force: f64,
    /// So many seconds after a VM's memory was split, instead of at the share.
    pub(super) split_after: Option<f64>,
}

impl Case {
    pub(super) fn draw(
        seed: u64,
        fault: Fault,
        technique: Technique,
        number: u32,
        of: u32,
    ) -> Self {
        let group = hash(&format!("{} {}", fault.name(), technique.name()));
        let mut chance = Chance::new(seed ^ group ^ hash(&number.to_string()));
        let share = (f64::from(number - 1) + chance.unit()) / f64::from(of.max(number));
        let side = match (fault, chance.unit() < 0.5) {
            (Fault::KillSource, _) => Side::Source,
            (Fault::KillTarget, _) => Side::Target,
            (_, true) => Side::Source,
            (_, false) => Side::Target,
        };
        let vm = usize::from(chance.unit() < 0.5);
        let short = SHORT.0 + (SHORT.1 - SHORT.0) * chance.unit();
        // Another one for each technique and fault.
        let is_long =
            (u64::from(number) + seed % LONG_EVERY + group % LONG_EVERY).is_multiple_of(LONG_EVERY);
        let lasts_long = matches!(fault, Fault::LinkDown | Fault::Freeze | Fault::StallMonitor);
        let seconds = if is_long && lasts_long { LONG } else { short };
        let force = chance.unit();
        let splits = matches!(technique, Technique::PostCopy | Technique::Hybrid);
        let split_after =
            (splits && number.is_multiple_of(SPLIT_EVERY)).then(|| SPLIT_AFTER_MAX * chance.unit());
        Case { fault, technique, number, share, vm, side, seconds, force, split_after }
    }

    /// Its name in files.
    pub(super) fn name(&self) -> String {
        format!("{}-{}-{}", self.fault.name(), self.technique.name(), self.number)
    }

    /// The rate that the port gets, Mbit/s.
    pub(super) fn rate_mbit(&self) -> f64 {
        PORT_MBIT * (0.3 + 0.4 * self.force)
    }

    /// How many packets are lost, percent.
    pub(super) fn loss_percent(&self) -> f64 {
        1.0 + 9.0 * self.force
    }

    /// By how much the wall clock is set, seconds: an hour to three days, either way.
    pub(super) fn step_seconds(&self) -> f64 {
        let most = 3.0 * 86_400.0;
        let by = 3_600.0 + (most - 3_600.0) * self.force;
        if self.side == Side::Source { by } else { -by }
    }
}

/// FNV-1a: neighbours have nothing in common.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(seed: u64) -> Vec<Case> {
        let mut cases = Vec::new();
        for fault in Fault::value_variants() {
            for technique in Technique::value_variants() {
                cases.extend((1..=5).map(|number| Case::draw(seed, *fault, *technique, number, 5)));
            }
        }
        cases
    }

    #[test]
    fn cases_are_those_of_the_seed_and_meet_every_part_of_a_run() {
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        for case in all(7) {
            let part = f64::from(case.number - 1) / 5.0;
            assert!((part..part + 0.2).contains(&case.share), "{case:?}");
            assert!((0.3..=LONG).contains(&case.seconds), "{case:?}");
            assert!((120.0..=280.0).contains(&case.rate_mbit()), "{case:?}");
            assert!((1.0..=10.0).contains(&case.loss_percent()), "{case:?}");
            assert!((3_600.0..=260_000.0).contains(&case.step_seconds().abs()), "{case:?}");
            let splits = matches!(case.technique, Technique::PostCopy | Technique::Hybrid);
            assert_eq!(case.split_after.is_some(), splits && case.number % 2 == 0, "{case:?}");
        }
    }

    #[test]
    fn long_ones_are_among_five_and_sides_are_those_of_the_fault() {
        for technique in Technique::value_variants() {
            let of = |fault| (1..=5).map(move |n| Case::draw(3, fault, *technique, n, 5));
            let long = of(Fault::LinkDown).filter(|case| case.seconds > SHORT.1).count();
            assert_eq!(long, 1, "{technique:?}");
            assert!(of(Fault::KillTarget).all(|case| case.side == Side::Target));
            assert!(of(Fault::KillSource).all(|case| case.side == Side::Source));
        }
        let freezes = all(3).into_iter().filter(|case| case.fault == Fault::Freeze);
        let at_source = freezes.filter(|case| case.side == Side::Source).count();
        assert!((3..=17).contains(&at_source), "{at_source} of 20 at the source");
    }
}
