use super::text::{self, Unit, UnitError, text_quantity};
use std::{fmt, ops, str::FromStr};

/// An amount of data or memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(u64);

const UNITS: &[Unit] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

const IEC: &[Unit] =
    &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Bytes {
    /// Nothing.
    pub const ZERO: Bytes = Bytes(0);

    /// So many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Bytes(bytes)
    }

    /// So many times 2^20 bytes.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Bytes(mib << 20)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes, for estimators.
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53 bytes, 8 PiB")]
    #[must_use]
    pub const fn as_f64(self) -> f64 {
        self.0 as f64
    }

    /// What an estimator says: none if that is below zero or no number.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, and a fraction of a byte is none"
    )]
    #[must_use]
    pub const fn from_f64(bytes: f64) -> Bytes {
        Bytes(bytes as u64)
    }

    /// `self - other`, or zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_sub(other.0))
    }

    /// Rounded for people, in powers of 1024.
    #[must_use]
    pub fn human(self) -> String {
        text::human(self.0, IEC)
    }
}

impl ops::Add for Bytes {
    type Output = Bytes;
    /// Saturates: a sum of measured amounts must not panic.
    fn add(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_add(other.0))
    }
}

impl ops::AddAssign for Bytes {
    fn add_assign(&mut self, other: Bytes) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(iter: I) -> Bytes {
        iter.fold(Bytes::ZERO, |a, b| a + b)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&text::print(self.0, UNITS))
    }
}

impl FromStr for Bytes {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        text::parse(text, UNITS, "an amount of data", "512MiB").map(Bytes)
    }
}

text_quantity!(
    Bytes,
    "an amount of data with its unit, like 512MiB or 100MB",
    r"^\d+(\.\d+)?\s*(TiB|GiB|MiB|KiB|TB|GB|MB|kB|B)$",
    ["512MiB", "100MB"]
);
