//! Numbers as QEMU writes them, and their units.

use droveway_fleet::{Bandwidth, Bytes, Ratio};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, time::Duration};

/// A count that QEMU's schema calls `int`: signed there, never meant to be negative. A negative one becomes 0, because one
/// odd counter must not cost the whole reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Count(pub(super) u64);

impl Count {
    pub(super) fn bytes(self) -> Bytes {
        Bytes::new(self.0)
    }

    pub(super) fn millis(self) -> Duration {
        Duration::from_millis(self.0)
    }

    pub(super) fn bytes_per_second(self) -> Bandwidth {
        Bandwidth::from_bytes_per_second(self.0)
    }

    pub(super) fn mib_per_second(self) -> Bandwidth {
        Bandwidth::from_bytes_per_second(self.0.saturating_mul(1 << 20))
    }

    /// So many pages of that size.
    pub(super) fn pages(self, page: Count) -> Count {
        Count(self.0.saturating_mul(page.0))
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Count;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }
            fn visit_u64<E>(self, value: u64) -> Result<Count, E> {
                Ok(Count(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Count, E> {
                Ok(Count(u64::try_from(value).unwrap_or(0)))
            }
        }
        deserializer.deserialize_u64(Visitor)
    }
}

/// Mbit/s, a fraction; not a number or negative counts as nothing.
pub(super) fn mbit_per_second(mbps: f64) -> Bandwidth {
    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates, and NaN becomes 0")]
    #[expect(clippy::cast_sign_loss, reason = "negative becomes 0")]
    Bandwidth::from_bits_per_second((mbps * 1e6).round() as u64)
}

/// Percent; above 100 is no share.
pub(super) fn percent(percent: Count) -> Option<Ratio> {
    let percent = u8::try_from(percent.0).ok()?;
    Ratio::new(f64::from(percent) / 100.0)
}

/// Whole milliseconds, rounded down, but never from something to nothing.
pub(super) fn to_millis(time: Duration) -> u64 {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 && !time.is_zero() { 1 } else { millis }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_qemu_end_here() {
        let count = |text: &str| serde_json::from_str::<Count>(text).unwrap();
        assert_eq!(count("18446744073709551615").0, u64::MAX);
        assert_eq!(count("-1").0, 0);
        assert!(serde_json::from_str::<Count>("1.5").is_err());
        assert_eq!(count("2").mib_per_second().to_string(), "2MiB/s");
        assert_eq!(count("3").pages(Count(4096)).bytes(), Bytes::new(12288));
        assert_eq!(mbit_per_second(73.5).bits_per_second(), 73_500_000);
        assert_eq!(mbit_per_second(-1.0), Bandwidth::ZERO);
        assert_eq!(mbit_per_second(f64::NAN), Bandwidth::ZERO);
        assert_eq!(to_millis(Duration::from_micros(1)), 1);
        assert_eq!(to_millis(Duration::from_micros(1999)), 1);
        assert_eq!(to_millis(Duration::ZERO), 0);
    }
}
