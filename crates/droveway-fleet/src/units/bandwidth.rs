use super::{
    Bytes, TimeSpan,
    text::{self, Unit, UnitError, text_quantity},
};
use std::{fmt, ops, str::FromStr, time::Duration};

/// A rate of data, in bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bandwidth(u64);

const UNITS: &[Unit] = &[
    ("Tbit/s", 1_000_000_000_000),
    ("Gbit/s", 1_000_000_000),
    ("Mbit/s", 1_000_000),
    ("kbit/s", 1_000),
    ("GiB/s", 8 << 30),
    ("MiB/s", 8 << 20),
    ("KiB/s", 8 << 10),
    ("GB/s", 8_000_000_000),
    ("MB/s", 8_000_000),
    ("kB/s", 8_000),
    ("B/s", 8),
    ("bit/s", 1),
];

const SI: &[Unit] = &[
    ("Tbit/s", 1_000_000_000_000),
    ("Gbit/s", 1_000_000_000),
    ("Mbit/s", 1_000_000),
    ("kbit/s", 1_000),
    ("bit/s", 1),
];

impl Bandwidth {
    /// No data moves.
    pub const ZERO: Bandwidth = Bandwidth(0);

    /// So many bits per second.
    #[must_use]
    pub const fn from_bits_per_second(bits: u64) -> Self {
        Bandwidth(bits)
    }

    /// So many bytes per second; saturates.
    #[must_use]
    pub const fn from_bytes_per_second(bytes: u64) -> Self {
        Bandwidth(bytes.saturating_mul(8))
    }

    /// The mean rate of `bytes` over `time`; zero when no time passed.
    #[must_use]
    pub fn of(bytes: Bytes, time: Duration) -> Self {
        if time.is_zero() {
            return Bandwidth::ZERO;
        }
        let bits = u128::from(bytes.get()) * 8 * 1_000_000_000 / time.as_nanos();
        Bandwidth(u64::try_from(bits).unwrap_or(u64::MAX))
    }

    /// Bits per second.
    #[must_use]
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }

    /// Bytes per second, rounded down.
    #[must_use]
    pub const fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }

    /// True for a rate of nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The equal share of one of `n` streams.
    #[must_use]
    pub const fn divided(self, n: u32) -> Self {
        Bandwidth(self.0 / (if n == 0 { 1 } else { n as u64 }))
    }

    /// So many times this rate, rounded; saturates, and nothing is below zero.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float saturates where it becomes an integer; rates are far below 2^53"
    )]
    pub fn scaled(self, factor: f64) -> Self {
        Bandwidth((self.0 as f64 * factor).round() as u64)
    }

    /// What TCP can carry over an Ethernet port of this rate: 1448 bytes of payload in each full frame of 1538 bytes with
    /// its preamble, checksum and gap (MTU 1500, timestamps on). 941.5 Mbit/s at 1 Gbit/s, as iperf3 measures.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "smaller than what fitted")]
    pub const fn tcp_payload(self) -> Self {
        Bandwidth((self.0 as u128 * 1448 / 1538) as u64)
    }

    /// Rounded for people.
    #[must_use]
    pub fn human(self) -> String {
        text::human(self.0, SI)
    }
}

impl ops::Add for Bandwidth {
    type Output = Bandwidth;
    /// Saturates.
    fn add(self, other: Bandwidth) -> Bandwidth {
        Bandwidth(self.0.saturating_add(other.0))
    }
}

impl ops::Sub for Bandwidth {
    type Output = Bandwidth;
    /// Zero at the least.
    fn sub(self, other: Bandwidth) -> Bandwidth {
        Bandwidth(self.0.saturating_sub(other.0))
    }
}

impl ops::Div<Bandwidth> for Bytes {
    type Output = Duration;
    /// The time that the bytes take at that rate; `Duration::MAX` at a rate of zero.
    fn div(self, rate: Bandwidth) -> Duration {
        if rate.is_zero() {
            return Duration::MAX;
        }
        let nanos = u128::from(self.get()) * 8 * 1_000_000_000 / u128::from(rate.0);
        u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
    }
}

#[expect(clippy::suspicious_arithmetic_impl, reason = "bits to bytes, nanoseconds to seconds")]
impl ops::Mul<Duration> for Bandwidth {
    type Output = Bytes;
    /// The bytes that move in that time; saturates.
    fn mul(self, time: Duration) -> Bytes {
        let bytes = u128::from(self.0).saturating_mul(time.as_nanos()) / 8_000_000_000;
        Bytes::new(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&text::print(self.0, UNITS))
    }
}

impl FromStr for Bandwidth {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        text::parse(text, UNITS, "a rate", "600Mbit/s").map(Bandwidth)
    }
}

text_quantity!(
    Bandwidth,
    "a rate with its unit, like 600Mbit/s or 30MiB/s",
    r"^\d+(\.\d+)?\s*([TGMk]?bit/s|[GMK]iB/s|[GMk]?B/s)$",
    ["1Gbit/s", "30MiB/s"]
);

/// A ceiling on a rate, or none. `0` is never "unlimited": the word is spelt out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RateLimit {
    /// As fast as the network gives.
    #[default]
    Unlimited,
    /// At most so much.
    At(Bandwidth),
}

impl RateLimit {
    /// The ceiling, if there is one.
    #[must_use]
    pub const fn bandwidth(self) -> Option<Bandwidth> {
        match self {
            RateLimit::Unlimited => None,
            RateLimit::At(rate) => Some(rate),
        }
    }

    /// The lower of both ceilings.
    #[must_use]
    pub fn at_most(self, other: RateLimit) -> RateLimit {
        match (self.bandwidth(), other.bandwidth()) {
            (Some(one), Some(two)) => RateLimit::At(one.min(two)),
            (Some(rate), None) | (None, Some(rate)) => RateLimit::At(rate),
            (None, None) => RateLimit::Unlimited,
        }
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RateLimit::Unlimited => f.pad("unlimited"),
            RateLimit::At(rate) => rate.fmt(f),
        }
    }
}

impl FromStr for RateLimit {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text.trim() == "unlimited" {
            return Ok(RateLimit::Unlimited);
        }
        let out_of_range = |reason| UnitError::OutOfRange { text: text.to_owned(), reason };
        if text.trim().chars().all(|c| c == '0' || c == '.') {
            return Err(out_of_range("0 is not a limit; write 'unlimited' for no limit"));
        }
        match text.parse::<Bandwidth>()? {
            Bandwidth(0) => Err(out_of_range("0 is not a limit; write 'unlimited' for no limit")),
            rate => Ok(RateLimit::At(rate)),
        }
    }
}

text_quantity!(
    RateLimit,
    "a rate with its unit, like 600Mbit/s, or the word unlimited",
    r"^(unlimited|\d+(\.\d+)?\s*([TGMk]?bit/s|[GMK]iB/s|[GMk]?B/s))$",
    ["unlimited", "300Mbit/s"]
);

/// Requests per second, written `2000/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestRate(u32);

impl RequestRate {
    /// So many requests per second.
    #[must_use]
    pub const fn per_second(requests: u32) -> Self {
        RequestRate(requests)
    }

    /// Requests per second.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The time between two requests.
    #[must_use]
    pub fn period(self) -> TimeSpan {
        TimeSpan::from(Duration::from_secs(1) / self.0.max(1))
    }
}

impl fmt::Display for RequestRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/s", self.0))
    }
}

impl FromStr for RequestRate {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let value = text::parse(text, &[("/s", 1)], "a request rate", "2000/s")?;
        match u32::try_from(value) {
            Ok(0) | Err(_) => Err(UnitError::OutOfRange {
                text: text.to_owned(),
                reason: "a request rate is between 1/s and 4294967295/s",
            }),
            Ok(rate) => Ok(RequestRate(rate)),
        }
    }
}

text_quantity!(RequestRate, "requests per second, like 2000/s", r"^\d+/s$", ["2000/s"]);
