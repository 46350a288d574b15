use super::*;
use proptest::prelude::*;

#[track_caller]
fn check(parameters: &MigrationParameters, expected: Result<&str, &str>) {
    match (WireParameters::try_from(parameters), expected) {
        (Ok(wire), Ok(text)) => assert_eq!(serde_json::to_string(&wire).unwrap(), text),
        (Err(denial), Err(part)) => {
            assert!(denial.to_string().contains(part), "'{denial}' lacks '{part}'");
        }
        (got, expected) => panic!("{parameters:?}: got {got:?}, expected {expected:?}"),
    }
}

fn max_bandwidth(limit: RateLimit) -> MigrationParameters {
    MigrationParameters { max_bandwidth: Some(limit), ..Default::default() }
}

#[test]
fn zero_comes_only_from_unlimited() {
    check(&MigrationParameters::default(), Ok("{}"));
    check(&max_bandwidth(RateLimit::Unlimited), Ok(r#"{"max-bandwidth":0}"#));
    check(&max_bandwidth("8Mbit/s".parse().unwrap()), Ok(r#"{"max-bandwidth":1000000}"#));
    for bits in [0, 1, 7] {
        let rate = Bandwidth::from_bits_per_second(bits);
        check(&max_bandwidth(RateLimit::At(rate)), Err("max-bandwidth below 1 byte/s"));
        let parameters = MigrationParameters {
            avail_switchover_bandwidth: Some(SwitchoverBandwidth::Assumed(rate)),
            ..Default::default()
        };
        check(&parameters, Err("avail-switchover-bandwidth below 1 byte/s"));
    }
}

#[test]
fn a_recorded_reply_is_read() {
    let text = r#"{"cpu-throttle-tailslow": false, "xbzrle-cache-size": 67108864, "cpu-throttle-initial": 20,
        "announce-max": 550, "avail-switchover-bandwidth": 0, "zero-page-detection": "multifd", "downtime-limit": 300,
        "announce-rounds": 5, "max-cpu-throttle": 99, "max-postcopy-bandwidth": 0, "max-bandwidth": 134217728}"#;
    let read: MigrationParameters = serde_json::from_str::<WireParameters>(text).unwrap().into();
    assert_eq!(read.max_bandwidth.map(|limit| limit.to_string()).as_deref(), Some("128MiB/s"));
    assert_eq!(read.max_postcopy_bandwidth, Some(RateLimit::Unlimited));
    assert_eq!(read.avail_switchover_bandwidth, Some(SwitchoverBandwidth::Measured));
    assert_eq!(read.downtime_limit, Some(Duration::from_millis(300)));
    assert_eq!(read.multifd_channels, None);
}

proptest! {
    #[test]
    fn what_is_set_reads_back(bytes in 1..u64::MAX / 8, millis in 0_u64..2_000_000) {
        let rate = Bandwidth::from_bytes_per_second(bytes);
        let parameters = MigrationParameters {
            max_bandwidth: Some(RateLimit::At(rate)),
            max_postcopy_bandwidth: Some(RateLimit::Unlimited),
            avail_switchover_bandwidth: Some(SwitchoverBandwidth::Assumed(rate)),
            downtime_limit: Some(Duration::from_millis(millis)),
            ..Default::default()
        };
        let wire = WireParameters::try_from(&parameters).unwrap();
        let text = serde_json::to_string(&wire).unwrap();
        let read: MigrationParameters = serde_json::from_str::<WireParameters>(&text).unwrap().into();
        prop_assert_eq!(read, parameters);
    }
}
