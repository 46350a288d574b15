use super::*;

#[test]
fn options_read_back_from_hexadecimal() {
    let qdisc =
        Qdisc { kind: "pfifo".into(), handle: 7, parent: tc::ROOT, options: vec![0, 255, 16] };
    let saved = saved(&qdisc);
    assert_eq!(saved.options, "00ff10");
    assert_eq!(from_hexadecimal(&saved.options), qdisc.options);
    assert_eq!(from_hexadecimal("00zz"), [0]);
}

#[test]
fn applications_share_by_flow_where_the_kernel_can_and_nothing_waits_long() {
    for class in [OTHERS, floor_class(0), floor_class(70_000)] {
        assert_eq!(leaf(class), (Some("fq_codel"), APPLICATION_QUEUE), "{class:x}");
    }
    for class in [URGENT, STREAM] {
        assert_eq!(leaf(class), (None, STREAM_QUEUE), "{class:x}");
    }
}

#[test]
fn a_card_is_known_by_its_place_in_the_ethernet_header() {
    let mac = [1, 2, 3, 4, 5, 6];
    // Destination and source, from 14 bytes before the next header on; the first two bytes looked at are before the frame.
    let frame = [[0, 0], [1, 2], [3, 4], [5, 6], [0; 2], [0; 2], [0; 2], [8, 0]].concat();
    let there = |frame: &[u8], key: &Key| {
        let at = usize::try_from(16 + key.offset).unwrap();
        let word = u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        word & key.mask == key.value & key.mask
    };
    assert!(card(mac, Way::Rx).iter().all(|key| there(&frame, key)));
    assert!(!card(mac, Way::Tx).iter().all(|key| there(&frame, key)));
    let frame = [[9, 9], [0; 2], [0; 2], [0; 2], [1, 2], [3, 4], [5, 6], [8, 0]].concat();
    assert!(card(mac, Way::Tx).iter().all(|key| there(&frame, key)));
    assert!(!card(mac, Way::Rx).iter().all(|key| there(&frame, key)));
}

#[test]
fn a_short_packet_is_known_by_the_length_in_its_header() {
    let [(ipv4, of_ipv4), (ipv6, of_ipv6)] = answers();
    assert_eq!((ipv4, ipv6), (tc::IPV4, tc::IPV6));
    let picked = |key: &Key, header: &[u8]| {
        let at = usize::try_from(key.offset).unwrap();
        u32::from_be_bytes(header[at..at + 4].try_into().unwrap()) & key.mask == key.value
    };
    for (len, short) in
        [(0_u16, true), (52, true), (127, true), (128, false), (1500, false), (65_535, false)]
    {
        let [high, low] = len.to_be_bytes();
        assert_eq!(picked(&of_ipv4, &[0x45, 0xff, high, low]), short, "{len}");
        assert_eq!(picked(&of_ipv6, &[0x60, 0, 0, 0, high, low, 17, 64]), short, "{len}");
    }
}

/// A shaper that touches nothing.
fn shaper(rate: &str) -> Shaper {
    Shaper::look(&Netns::own(), "lo", rate.parse().unwrap(), [10, 0, 0, 2].into()).unwrap()
}

fn mbit(rate: u64) -> Bandwidth {
    Bandwidth::from_bits_per_second(rate * 1_000_000)
}

proptest::proptest! {
    #[test]
    fn classes_never_promise_more_than_there_is(
        migration in 0_u64..2000,
        ceiling in 0_u64..2000,
        floors in proptest::collection::vec(0_u64..600, 0..6),
        yields: bool,
    ) {
        let shaper = shaper("1Gbit/s");
        let floors = floors.iter().map(|rate| Floor { mac: [2; 6], rate: mbit(*rate) }).collect();
        let promise = Promise { migration: mbit(migration), ceiling: mbit(ceiling), yields, floors };
        let classes = shaper.classes(&promise);
        let bits = |class: u32| {
            let htb = classes.iter().find(|one| one.0 == class).unwrap().2;
            assert!(htb.rate <= htb.ceiling, "{class:x}: {htb:?}");
            htb.rate.bits_per_second()
        };
        let children = |parent: u32| -> u64 {
            let of = classes.iter().filter(|one| one.1 == parent);
            of.map(|one| bits(one.0)).sum()
        };
        // Rounding to whole bits, one for each class.
        proptest::prop_assert!(children(ALL) <= bits(ALL) + 10);
        proptest::prop_assert!(children(MIGRATION) <= bits(MIGRATION) + 10);
        proptest::prop_assert!(children(APPLICATIONS) <= bits(APPLICATIONS) + 10);
        if (10..900).contains(&migration) {
            let wanted = f64::from(u32::try_from(migration).unwrap()) * 1e6 * 1514.0 / 1538.0;
            #[expect(clippy::cast_precision_loss, reason = "rates")]
            let got = bits(MIGRATION) as f64;
            proptest::prop_assert!((got / wanted - 1.0).abs() < 1e-6);
        }
    }
}

#[test]
fn a_promise_of_everything_leaves_applications_a_little() {
    let all = Promise { migration: mbit(5000), ceiling: mbit(5000), yields: false, floors: vec![] };
    let shaper = shaper("1Gbit/s");
    let classes = shaper.classes(&all);
    let of = |class: u32| classes.iter().find(|one| one.0 == class).unwrap().2;
    assert!(of(APPLICATIONS).rate.bits_per_second() > 1_000_000);
    assert_eq!(of(MIGRATION).ceiling, shaper.root);
    assert!(of(URGENT).priority < of(OTHERS).priority);
    assert_eq!(of(STREAM).priority, of(OTHERS).priority);
    let low = shaper.classes(&Promise { yields: true, ..all });
    let stream = low.iter().find(|one| one.0 == STREAM).unwrap().2;
    assert!(stream.priority > of(OTHERS).priority);
}
