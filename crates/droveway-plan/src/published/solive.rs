//! `solive` (Fernando 2020): classes by what each VM strains most. VMs with much traffic leave first, which frees the link
//! for those that dirty much. The classes are ours; the paper's rules are known from its abstract only.

use super::{Ports, Subject, ascending};
use droveway_fleet::Urgency;
use droveway_model::urgency::share_max;

/// What the paper does not publish; ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// A VM that strains everything by less is idle. Not published; ours.
    pub idle_below: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters { idle_below: 0.05 }
    }
}

/// What a VM strains most, in the order in which the classes move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The network: the most sending first.
    Network,
    /// The CPU: the smallest first.
    Cpu,
    /// Nothing: the smallest first.
    Idle,
    /// The memory: the least dirtying first.
    Memory,
}

/// What is reserved for migration on the source's TX and the target's RX, bytes per second.
#[must_use]
pub fn reserved(ports: Ports, urgency: Urgency) -> f64 {
    share_max(urgency) * ports.capacity
}

/// The class of a VM. Equally strained: the network, then the memory, then the CPU.
#[must_use]
pub fn class(subject: &Subject, ports: Ports, urgency: Urgency, parameters: &Parameters) -> Class {
    let network = share(subject.tx + subject.rx, ports.capacity);
    let memory = share(subject.curve.initial_rate(), reserved(ports, urgency));
    let cpu = subject.cpu_ratio;
    if network.max(memory).max(cpu) < parameters.idle_below {
        Class::Idle
    } else if network >= memory.max(cpu) {
        Class::Network
    } else if memory >= cpu {
        Class::Memory
    } else {
        Class::Cpu
    }
}

/// The serial order.
#[must_use]
pub fn order(
    subjects: &[Subject],
    ports: Ports,
    urgency: Urgency,
    parameters: &Parameters,
) -> Vec<usize> {
    let classes: Vec<Class> =
        subjects.iter().map(|subject| class(subject, ports, urgency, parameters)).collect();
    let mut order = ascending(subjects, |vm| match classes[vm] {
        Class::Network => -subjects[vm].tx,
        Class::Cpu | Class::Idle => subjects[vm].send_bytes,
        Class::Memory => subjects[vm].curve.initial_rate(),
    });
    // Stable: within a class the order stays.
    order.sort_by_key(|vm| classes[*vm]);
    order
}

/// A part of a whole; any part of nothing strains it.
fn share(part: f64, whole: f64) -> f64 {
    if part > 0.0 { part / whole.max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, ports, subject};
    use super::*;

    fn vm(tx: f64, rx: f64, dirty: f64, cpu_ratio: f64) -> Subject {
        Subject { cpu_ratio, ..subject(2048.0, dirty, tx, rx) }
    }

    fn classify(gang: &[Subject], capacity: f64) -> Vec<Class> {
        let parameters = Parameters::default();
        gang.iter().map(|vm| class(vm, ports(capacity), Urgency::High, &parameters)).collect()
    }

    fn order_of(gang: &[Subject]) -> Vec<usize> {
        order(gang, ports(112.0), Urgency::High, &Parameters::default())
    }

    #[test]
    fn traffic_leaves_first_and_dirtying_last() {
        let gang = [
            vm(40.0, 5.0, 3.0, 0.2),
            vm(2.0, 1.0, 60.0, 0.5),
            vm(0.0, 0.0, 1.0, 0.9),
            vm(0.0, 0.0, 1.0, 0.02),
        ];
        let expected = [Class::Network, Class::Memory, Class::Cpu, Class::Idle];
        assert_eq!(classify(&gang, 112.0), expected);
        assert_eq!(order_of(&gang), [0, 2, 3, 1]);
        golden(reserved(ports(112.0), Urgency::High), 106.4, 0.1);
    }

    #[test]
    fn each_class_has_its_order() {
        assert_eq!(order_of(&[vm(20.0, 9.0, 0.0, 0.0), vm(30.0, 0.0, 0.0, 0.0)]), [1, 0]);
        assert_eq!(order_of(&[vm(0.0, 0.0, 50.0, 0.0), vm(0.0, 0.0, 40.0, 0.0)]), [1, 0]);
        let sized = |send_bytes, cpu_ratio| Subject { send_bytes, ..vm(0.0, 0.0, 0.0, cpu_ratio) };
        assert_eq!(order_of(&[sized(9.0, 0.5), sized(8.0, 0.9)]), [1, 0]);
        assert_eq!(order_of(&[sized(9.0, 0.0), sized(8.0, 0.0)]), [1, 0]);
        assert!(order_of(&[]).is_empty());
    }

    #[test]
    fn equal_strain_is_the_network_s() {
        assert_eq!(classify(&[vm(56.0, 0.0, 0.0, 0.5)], 112.0), [Class::Network]);
        let half = 0.5 * reserved(ports(112.0), Urgency::High);
        assert_eq!(classify(&[vm(0.0, 0.0, half, 0.5)], 112.0), [Class::Memory]);
        // Without a network any traffic strains it, and none does not.
        let pair = [vm(1.0, 0.0, 0.0, 0.5), vm(0.0, 0.0, 0.0, 0.5)];
        assert_eq!(classify(&pair, 0.0), [Class::Network, Class::Cpu]);
    }
}
