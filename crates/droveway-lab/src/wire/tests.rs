use super::*;
use droveway_fleet::{Bytes, scenario::Offloads};
use std::collections::BTreeSet;

fn link(discipline: Discipline, offloads: Offloads) -> Link {
    Link { rate: "1Gbit/s".parse().unwrap(), queue: None, discipline, offloads }
}

/// Runs the program as the kernel would.
fn classify(packet: &[u8]) -> u32 {
    let program = flow_hash();
    let (length, program) = program.split_once(',').unwrap();
    let operations: Vec<[u32; 4]> = program
        .split(',')
        .map(|text| {
            let fields: Vec<u32> = text.split(' ').map(|field| field.parse().unwrap()).collect();
            fields.try_into().unwrap()
        })
        .collect();
    assert_eq!(length.parse::<usize>().unwrap(), operations.len());
    let byte = |at: u32| u32::from(packet[at as usize]);
    let half = |at: u32| byte(at) << 8 | byte(at + 1);
    let (mut a, mut x, mut store, mut at) = (0u32, 0u32, [0u32; 16], 0);
    loop {
        let [code, yes, no, k] = operations[at];
        at += 1;
        let jump = |condition: bool| if condition { yes as usize } else { no as usize };
        match code {
            40 => a = half(k),
            48 => a = byte(k),
            32 => a = half(k) << 16 | half(k + 2),
            72 => a = half(x + k),
            177 => x = 4 * (byte(k) & 0xf),
            2 => store[k as usize] = a,
            97 => x = store[k as usize],
            7 => x = a,
            12 => a = a.wrapping_add(x),
            172 => a ^= x,
            36 => a = a.wrapping_mul(k),
            4 => a = a.wrapping_add(k),
            116 => a >>= k,
            21 => at += jump(a == k),
            69 => at += jump(a & k != 0),
            6 => return k,
            22 => return a,
            other => panic!("unknown operation {other}"),
        }
    }
}

fn packet(protocol: u8, options: usize, source: u16, target: u16) -> Vec<u8> {
    let mut packet = vec![0; 14];
    packet[12..].copy_from_slice(&[0x08, 0x00]);
    let words = u8::try_from(5 + options).unwrap();
    packet.extend([0x40 | words, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend([10, 77, 0, 1, 10, 77, 0, 2]);
    packet.extend(std::iter::repeat_n(0, options * 4));
    packet.extend(source.to_be_bytes());
    packet.extend(target.to_be_bytes());
    packet
}

#[test]
fn flows_have_classes_and_the_rest_has_none() {
    let first = (1 << 16) | FIRST_FLOW_CLASS;
    let classes = first..first + FLOW_CLASSES;
    assert!(classes.contains(&classify(&packet(6, 0, 40_000, 5201))));
    assert!(classes.contains(&classify(&packet(17, 0, 40_000, 5201))));
    assert_eq!(classify(&packet(1, 0, 0, 0)), 0);
    let mut arp = packet(6, 0, 1, 1);
    arp[13] = 0x06;
    assert_eq!(classify(&arp), 0);
    let mut fragment = packet(17, 0, 1, 1);
    fragment[20] = 0x20;
    assert_eq!(classify(&fragment), 0);
}

#[test]
fn ports_are_found_behind_ip_options() {
    assert_eq!(classify(&packet(6, 3, 40_000, 5201)), classify(&packet(6, 0, 40_000, 5201)));
}

#[test]
fn neighbouring_flows_do_not_collide() {
    for step in [1, 2] {
        for first in [32_768u16, 40_001, 51_234] {
            let to_one_server = (0..32).map(|n| classify(&packet(6, 0, first + n * step, 5201)));
            assert_eq!(to_one_server.collect::<BTreeSet<_>>().len(), 32, "from {first} by {step}");
            let to_many = (0..16).map(|n| classify(&packet(6, 0, first + n * step, 5201 + n)));
            assert!(to_many.collect::<BTreeSet<_>>().len() >= 14, "from {first} by {step}");
        }
    }
}

#[test]
fn a_gigabit_wire_carries_what_one_does() {
    let counted = counted_rate("1Gbit/s".parse().unwrap()).bits_per_second();
    assert_eq!(counted, 984_395_318);
    // 1448 bytes of payload in 1514 of a frame.
    assert_eq!(counted * 1448 / 1514 / 1_000_000, 941);
}

#[test]
fn fair_has_a_class_for_each_flow_and_fifo_one() {
    let fair = shape("a0", &link(Discipline::Fair, Offloads::On));
    assert_eq!(fair.lines().filter(|l| l.starts_with("class")).count(), 130);
    assert_eq!(fair.lines().filter(|l| l.starts_with("qdisc")).count(), 130);
    assert!(fair.contains("bfifo limit 393250"), "{fair}");
    assert!(fair.contains("classid 1:8f htb"));
    let fifo = shape("a0", &link(Discipline::Fifo, Offloads::Off));
    assert_eq!(fifo.lines().count(), 4);
    assert!(fifo.contains("quantum 1514"), "{fifo}");
}

#[test]
fn a_short_queue_still_holds_a_packet() {
    let mut link = link(Discipline::Fifo, Offloads::On);
    link.queue = Some(Bytes::new(1000));
    assert!(shape("a0", &link).contains("bfifo limit 138000"));
}
