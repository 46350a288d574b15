//! The wire of a port, one direction of it: a rate, a queue and how flows share it, as `tc` commands. Pure.
//!
//! Each machine's port is a chain of two virtual cables in the switch's namespace, patched together by redirection, so
//! that both directions are shaped outside the machine and its own port keeps its root qdisc free:
//!
//! ```text
//!  machine          |  switch
//!             nic --|-- a3 ==> x3 [shape] -- p3 -- br0      machine sends
//!             nic --|-- [shape] a3 <== x3 -- p3 -- br0      machine receives
//! ```
//!
//! `fair` shares per flow, as `fq_codel` does on most hosts, but is made of HTB classes, since a minimal kernel has no
//! `fq_codel`: a classic BPF program hashes each TCP or UDP flow to one of [`FLOW_CLASSES`].

use droveway_fleet::{
    Bandwidth,
    scenario::{Discipline, Link},
};
use std::{fmt::Write, time::Duration};

/// Among how many classes flows are hashed. With four flows two share one in 5 of 100 cases; a power of two.
pub(crate) const FLOW_CLASSES: u32 = 1 << FLOW_CLASS_BITS;
const FLOW_CLASS_BITS: u32 = 7;

/// Minor number of the class for what is not TCP or UDP over IPv4 (ARP, RARP, ICMP); for `fifo`, for all.
const OTHER_CLASS: u32 = 0xf;
/// Minor number of the first class of flows; the others follow.
const FIRST_FLOW_CLASS: u32 = 0x10;

/// A full Ethernet frame as the kernel counts it, and as it takes the wire: with preamble (8), checksum (4), gap (12).
const FRAME_COUNTED: u64 = 1514;
const FRAME_ON_WIRE: u64 = FRAME_COUNTED + 24;

/// The largest packet with segmentation offload: 64 KiB and, as HTB counts them, the headers of its segments.
const SUPER_PACKET_LEN_MAX: u64 = 69_000;

/// What may pass at once after a pause: HTB waits by timer, and on a busy machine the timer is late. Less loses rate there
/// (measured on two saturated CPUs at 200 Mbit/s, both directions: 1 ms of it 155, 2 ms 165, 4 ms 177 Mbit/s each).
const BURST: Duration = Duration::from_micros(2_500);

/// The rate of frames as the kernel counts them that fills a wire of this rate.
pub(crate) fn counted_rate(wire: Bandwidth) -> Bandwidth {
    let bits =
        u128::from(wire.bits_per_second()) * u128::from(FRAME_COUNTED) / u128::from(FRAME_ON_WIRE);
    Bandwidth::from_bits_per_second(u64::try_from(bits).unwrap_or(u64::MAX))
}

/// The commands that shape what `device` sends.
pub(crate) fn shape(device: &str, link: &Link) -> String {
    let rate = counted_rate(link.rate).bits_per_second();
    let packet = if link.offloads_on() { SUPER_PACKET_LEN_MAX } else { FRAME_COUNTED };
    // A class's turn must be worth its largest packet: with less, HTB shares by packets and not by bytes.
    let quantum = packet;
    let burst = (link.rate * BURST).get().max(2 * packet);
    // A queue shorter than a packet would never pass one.
    let limit = link.queue_bytes().get().max(2 * packet);
    let (classes, own_rate): (Vec<u32>, u64) = match link.discipline {
        Discipline::Fifo => (vec![OTHER_CLASS], rate),
        Discipline::Fair => {
            let flows = FIRST_FLOW_CLASS..FIRST_FLOW_CLASS + FLOW_CLASSES;
            let classes: Vec<u32> = std::iter::once(OTHER_CLASS).chain(flows).collect();
            (classes, rate / u64::from(FLOW_CLASSES + 1))
        }
    };
    // A class within its own rate sends without asking its parent: its own burst is one packet, so that many classes that
    // wake at once do not exceed the wire.
    let own_burst = if classes.len() == 1 { burst } else { packet };
    let mut commands = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(commands, "{text}");
    };
    line(format_args!("qdisc add dev {device} root handle 1: htb default {OTHER_CLASS:x}"));
    line(format_args!(
        "class add dev {device} parent 1: classid 1:1 htb rate {rate}bit ceil {rate}bit \
         burst {burst} cburst {burst} quantum {quantum}"
    ));
    for class in classes {
        line(format_args!(
            "class add dev {device} parent 1:1 classid 1:{class:x} htb rate {own_rate}bit \
             ceil {rate}bit burst {own_burst} cburst {burst} quantum {quantum}"
        ));
        line(format_args!(
            "qdisc add dev {device} parent 1:{class:x} handle {class:x}: bfifo limit {limit}"
        ));
    }
    if link.discipline == Discipline::Fair {
        line(format_args!(
            "filter add dev {device} parent 1: protocol all prio 1 bpf bytecode \"{}\"",
            flow_hash()
        ));
    }
    commands
}

/// The commands that give `device`, which [`shape`] has shaped, another rate. What waits in its queues stays there.
pub(crate) fn reshape(device: &str, link: &Link) -> String {
    let class =
        |line: &str| line.strip_prefix("class add ").map(|rest| format!("class change {rest}\n"));
    shape(device, link).lines().filter_map(class).collect()
}

/// The commands that patch two cables' ends together: what arrives at one leaves by the other.
pub(crate) fn patch(one: &str, other: &str) -> String {
    [(one, other), (other, one)]
        .map(|(from, to)| {
            format!(
                "qdisc add dev {from} ingress\nfilter add dev {from} parent ffff: protocol all \
                 prio 1 u32 match u32 0 0 action mirred egress redirect dev {to}\n"
            )
        })
        .concat()
}

/// The classic BPF program, as `tc` takes it, that gives each TCP or UDP flow over IPv4 its class and all else none.
///
/// Ports are added, not mixed, before the multiplication by the golden ratio: a client's connections to one server have
/// ports in sequence, and multiples of the golden ratio spread over the circle without colliding (Knuth 6.4).
fn flow_hash() -> String {
    // Operations of linux/filter.h: load from the packet (40 half word, 48 byte, 32 word; 72 half word at X; 177 header
    // length to X), 2 store, 97 load X from store, 7 A to X, 12 A + X, 172 A ^ X, 36 A * k, 4 A + k, 116 A >> k,
    // 21 equal?, 69 any bit?, 6 return k, 22 return A. Jumps: by how many to skip if true, if false.
    let hash: &[(u16, u32)] = &[
        (32, 26), // source address
        (36, 0x85eb_ca6b),
        (7, 0),
        (32, 30), // target address
        (36, 0xc2b2_ae35),
        (172, 0),
        (2, 0),
        (177, 14), // the IP header's length
        (72, 16),  // target port
        (36, 7),
        (2, 1),
        (72, 14), // source port
        (97, 0),
        (12, 0),
        (97, 1),
        (12, 0),
        (36, 0x9e37_79b1),
        (116, 32 - FLOW_CLASS_BITS),
        (4, (1 << 16) | FIRST_FLOW_CLASS),
        (22, 0),
    ];
    // Each jump that leaves goes to the last operation.
    let tests = [
        (40, 12, Jump::None),
        (21, 0x0800, Jump::LeaveUnless), // IPv4
        (48, 23, Jump::None),
        (21, 6, Jump::SkipOneIf),    // TCP
        (21, 17, Jump::LeaveUnless), // UDP
        (40, 20, Jump::None),
        (69, 0x3fff, Jump::LeaveIf), // a fragment: only the first has ports
    ];
    let length = tests.len() + hash.len() + 1;
    let mut program = format!("{length}");
    for (index, (code, operand, jump)) in tests.into_iter().enumerate() {
        let leave = length - 1 - index - 1;
        let (yes, no) = match jump {
            Jump::None => (0, 0),
            Jump::SkipOneIf => (1, 0),
            Jump::LeaveIf => (leave, 0),
            Jump::LeaveUnless => (0, leave),
        };
        let _ = write!(program, ",{code} {yes} {no} {operand}");
    }
    for (code, operand) in hash {
        let _ = write!(program, ",{code} 0 0 {operand}");
    }
    program + ",6 0 0 0"
}

enum Jump {
    None,
    SkipOneIf,
    LeaveIf,
    LeaveUnless,
}

#[cfg(test)]
mod tests;
