//! Typed quantities: [`Bytes`], [`Bandwidth`], [`Timestamp`], [`TimeSpan`], [`Ratio`], [`RequestRate`].
//!
//! People write a unit in the value (`512MiB`, `1Gbit/s`, `300ms`); a bare number is refused, because tools disagree on
//! what it means (virsh means MiB/s, QMP bytes/s, oVirt Mbit/s). Printing picks the shortest spelling that is *exact*, so
//! parsing what was printed gives the same value; [`Bytes::human`] and [`Bandwidth::human`] round for people instead.
//! Only operators that mean something exist: `Bytes / Bandwidth` is a time, `Bandwidth * time` is bytes.

mod bandwidth;
mod bytes;
mod ratio;
mod text;
mod time;

pub use bandwidth::{Bandwidth, RateLimit, RequestRate};
pub use bytes::Bytes;
pub use ratio::Ratio;
pub use text::UnitError;
pub use time::{TimeSpan, Timestamp};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{fmt::Display, str::FromStr, time::Duration};

    #[track_caller]
    fn check<T: FromStr<Err = UnitError> + Display>(text: &str, printed: Result<&str, &str>) {
        match (text.parse::<T>(), printed) {
            (Ok(value), Ok(printed)) => assert_eq!(value.to_string(), printed),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "'{error}' lacks '{part}'");
            }
            (Ok(value), Err(part)) => {
                panic!("'{text}' became {value}, expected an error with '{part}'")
            }
            (Err(error), Ok(_)) => panic!("'{text}': {error}"),
        }
    }

    #[test]
    fn bytes_are_read_and_printed() {
        for (text, printed) in [
            ("512MiB", Ok("512MiB")),
            ("512 MiB", Ok("512MiB")),
            ("0.5GiB", Ok("512MiB")),
            ("100MB", Ok("100MB")),
            ("1536KiB", Ok("1536KiB")),
            ("1.5MiB", Ok("1536KiB")),
            ("0B", Ok("0B")),
            ("1001B", Ok("1001B")),
            ("512", Err("no unit: write it like 512MiB")),
            ("512mib", Err("unknown unit 'mib'")),
            ("MiB", Err("not an amount of data")),
            ("-1MiB", Err("not an amount of data")),
            ("1.MiB", Err("not an amount of data")),
            ("1.2.3MiB", Err("not an amount of data")),
            ("0.3B", Err("finer than the smallest unit")),
            ("99999999TiB", Err("too large")),
        ] {
            check::<Bytes>(text, printed);
        }
    }

    /// 1448 of 1538 bytes of each frame; iperf3 measures 940 Mbit/s.
    #[test]
    fn a_gigabit_carries_941_megabits_of_tcp() {
        let payload = Bandwidth::from_bits_per_second(1_000_000_000).tcp_payload();
        let megabits = payload.bits_per_second() as f64 / 1e6;
        assert!((megabits - 941.5).abs() <= 0.05, "{megabits}");
        let bytes = payload.bytes_per_second() as f64;
        assert!((bytes - 117.7e6).abs() <= 0.05e6, "{bytes}");
    }

    #[test]
    fn rates_are_read_and_printed() {
        for (text, printed) in [
            ("1Gbit/s", Ok("1Gbit/s")),
            ("1000Mbit/s", Ok("1Gbit/s")),
            ("30MiB/s", Ok("30MiB/s")),
            ("125MB/s", Ok("1Gbit/s")),
            ("600", Err("no unit: write it like 600Mbit/s")),
            ("600Mbps", Err("unknown unit 'Mbps'")),
        ] {
            check::<Bandwidth>(text, printed);
        }
        for (text, printed) in [
            ("unlimited", Ok("unlimited")),
            ("300Mbit/s", Ok("300Mbit/s")),
            ("0", Err("write 'unlimited' for no limit")),
            ("0Mbit/s", Err("write 'unlimited' for no limit")),
        ] {
            check::<RateLimit>(text, printed);
        }
        check::<RequestRate>("2000/s", Ok("2000/s"));
        check::<RequestRate>("0/s", Err("between 1/s"));
        check::<RequestRate>("2000", Err("no unit"));
    }

    #[test]
    fn times_and_shares_are_read_and_printed() {
        check::<TimeSpan>("300ms", Ok("300ms"));
        check::<TimeSpan>("90s", Ok("90s"));
        check::<TimeSpan>("120s", Ok("2m"));
        check::<TimeSpan>("0s", Ok("0s"));
        check::<TimeSpan>("300", Err("no unit"));
        check::<Ratio>("0.9", Ok("0.9"));
        check::<Ratio>("90%", Ok("0.9"));
        check::<Ratio>("1.1", Err("between 0 and 1"));
        check::<Ratio>("NaN", Err("between 0 and 1"));
    }

    #[test]
    fn data_over_a_rate_is_a_time() {
        let rate: Bandwidth = "1Gbit/s".parse().unwrap();
        assert_eq!(Bytes::new(125_000_000) / rate, Duration::from_secs(1));
        assert_eq!(rate * Duration::from_secs(1), Bytes::new(125_000_000));
        assert_eq!(Bytes::new(1) / Bandwidth::ZERO, Duration::MAX);
        assert_eq!(Bandwidth::of(Bytes::new(125_000_000), Duration::from_secs(1)), rate);
        assert_eq!(Bandwidth::of(Bytes::new(1), Duration::ZERO), Bandwidth::ZERO);
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(value in any::<u64>(), shift in 0_u32..64) {
            let value = value >> shift;
            // 18 digits are the documented limit of the reader.
            prop_assume!(value < 1_000_000_000_000_000_000);
            let bytes = Bytes::new(value);
            prop_assert_eq!(bytes.to_string().parse::<Bytes>().unwrap(), bytes);
            let rate = Bandwidth::from_bits_per_second(value);
            prop_assert_eq!(rate.to_string().parse::<Bandwidth>().unwrap(), rate);
            let span = TimeSpan::from(Duration::from_nanos(value));
            prop_assert_eq!(span.to_string().parse::<TimeSpan>().unwrap(), span);
        }

        #[test]
        fn reading_never_panics(text in "\\PC{0,24}") {
            let _ = (text.parse::<Bytes>(), text.parse::<Bandwidth>(), text.parse::<TimeSpan>());
            let _ = (text.parse::<Ratio>(), text.parse::<RateLimit>(), text.parse::<RequestRate>());
        }
    }
}
