//! Sizes as people write them: `1GiB`, `1G` (both 2^30), `1GB` (10^9), `4096`.

use std::fmt;
use std::str::FromStr;

/// Bytes, read and written with a unit. The unit that divides exactly is shown, so nothing is
/// rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No digits, a sign, a fraction, or an unknown unit.
    #[error(
        "'{0}' is not a size: write a whole number and a unit, like 512MiB, 10GiB, 10G (= 10GiB) \
         or 10GB (= 10000000000)"
    )]
    Malformed(String),
    /// Over 2^64.
    #[error("'{0}' is too large")]
    TooLarge(String),
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Units, largest first; those that are shown come before their synonyms.
const UNITS: [(&str, u64); 17] = [
    ("TiB", TIB),
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", KIB),
    ("T", TIB),
    ("G", GIB),
    ("M", MIB),
    ("K", KIB),
    ("k", KIB),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
    ("bytes", 1),
    ("", 1),
];

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let shown = || {
            text.chars()
                .take(40)
                .flat_map(char::escape_debug)
                .collect::<String>()
        };
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, unit) = text.split_at(end);
        let factor = UNITS.iter().find(|(name, _)| *name == unit.trim());
        let (Some((_, factor)), false) = (factor, digits.is_empty()) else {
            return Err(SizeError::Malformed(shown()));
        };
        digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(*factor))
            .map(Size)
            .ok_or_else(|| SizeError::TooLarge(shown()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS[..4]
            .iter()
            .find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        match exact {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Size {
    /// The size with at most one decimal, for tables of measured values.
    pub fn rounded(self) -> String {
        for (unit, factor) in &UNITS[..4] {
            if self.0 >= *factor {
                let tenths = u128::from(self.0) * 10 / u128::from(*factor);
                return if tenths.is_multiple_of(10) {
                    format!("{}{unit}", tenths / 10)
                } else {
                    format!("{}.{}{unit}", tenths / 10, tenths % 10)
                };
            }
        }
        format!("{}B", self.0)
    }
}

#[cfg(test)]
mod tests;
