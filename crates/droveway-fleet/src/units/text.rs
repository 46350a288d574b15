//! Splitting and printing of `<decimal><unit>`, exact in integers: a value never passes through a float.

use thiserror::Error;

/// Why a quantity could not be read. The text names the value and the remedy; the document parser adds file and field.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnitError {
    /// No digits at the start, or more than one decimal point.
    #[error("'{text}' is not {what}: write it like {example}")]
    NotANumber {
        /// What was written.
        text: String,
        /// The kind of quantity expected, with its article.
        what: &'static str,
        /// A correct spelling.
        example: &'static str,
    },
    /// A bare number.
    #[error("'{text}' has no unit: write it like {example}")]
    NoUnit {
        /// What was written.
        text: String,
        /// A correct spelling.
        example: &'static str,
    },
    /// A unit that this quantity does not have.
    #[error("'{text}' has the unknown unit '{unit}': use one of {known}")]
    UnknownUnit {
        /// What was written.
        text: String,
        /// The unit in it.
        unit: String,
        /// The units that would do.
        known: String,
    },
    /// More than fits, or a fraction finer than the smallest unit.
    #[error("'{text}' is out of range: {reason}")]
    OutOfRange {
        /// What was written.
        text: String,
        /// Which end it fell off.
        reason: &'static str,
    },
}

/// A unit's spelling and its size in the quantity's smallest unit.
pub(super) type Unit = (&'static str, u128);

/// Reads `<decimal><unit>` into a whole number of smallest units.
pub(super) fn parse(
    text: &str,
    units: &[Unit],
    what: &'static str,
    example: &'static str,
) -> Result<u64, UnitError> {
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let unit = unit.trim();
    let not_a_number = || UnitError::NotANumber { text: text.to_owned(), what, example };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
        return Err(not_a_number());
    }
    if unit.is_empty() {
        return Err(UnitError::NoUnit { text: text.to_owned(), example });
    }
    let size =
        units.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size).ok_or_else(|| {
            UnitError::UnknownUnit {
                text: text.to_owned(),
                unit: unit.to_owned(),
                known: units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
            }
        })?;
    let too_large =
        || UnitError::OutOfRange { text: text.to_owned(), reason: "the value is too large" };
    // What 64 bits hold has 20 digits at most.
    if whole.len() + fraction.len() > 20 {
        return Err(too_large());
    }
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| not_a_number())?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| too_large())?);
    let scaled = digits.checked_mul(size).ok_or_else(too_large)?;
    if !scaled.is_multiple_of(scale) {
        return Err(UnitError::OutOfRange {
            text: text.to_owned(),
            reason: "the fraction is finer than the smallest unit",
        });
    }
    u64::try_from(scaled / scale).map_err(|_| too_large())
}

/// The shortest exact spelling; on a tie the unit that comes first in `units`.
pub(super) fn print(value: u64, units: &[Unit]) -> String {
    units
        .iter()
        .filter(|(_, size)| *size <= u128::from(value).max(1) && u128::from(value) % size == 0)
        .map(|(name, size)| format!("{}{name}", u128::from(value) / size))
        .min_by_key(String::len)
        .unwrap_or_else(|| format!("{value}{}", units.last().map_or("", |(name, _)| name)))
}

/// Three significant digits in the largest unit that keeps the number at 1 or above.
pub(super) fn human(value: u64, units: &[Unit]) -> String {
    let (name, size) = units
        .iter()
        .filter(|(_, size)| *size <= u128::from(value))
        .max_by_key(|(_, size)| *size)
        .copied()
        .unwrap_or(("", 1));
    #[expect(clippy::cast_precision_loss, reason = "rounded for people")]
    let scaled = value as f64 / size as f64;
    let digits = if scaled >= 100.0 || size == 1 {
        0
    } else if scaled >= 10.0 {
        1
    } else {
        2
    };
    let name = if name.is_empty() { units.last().map_or("", |(name, _)| name) } else { name };
    format!("{scaled:.digits$} {name}")
}

/// Serde and JSON Schema for a newtype that is written as text.
macro_rules! text_quantity {
    ($type:ident, $expecting:literal, $pattern:literal, $examples:expr) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$type, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$type, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<$type, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "description": $expecting,
                    "pattern": $pattern,
                    "examples": $examples,
                })
            }
        }
    };
}
pub(super) use text_quantity;
