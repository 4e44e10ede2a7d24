//! Sizes as people write them: `1GiB`, `512MiB`, `4KiB`, `65536`. Only binary units, so a size is never ambiguous.

#[cfg(test)]
mod tests;

/// One mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// One gibibyte.
pub(crate) const GIB: u64 = 1 << 30;

const UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Reads a size; the error is a sentence for the person who typed it.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = if unit.is_empty() {
        Some(1)
    } else {
        UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, factor)| *factor)
    };
    let wrong = || format!("'{text}' is not a size; write it like 512MiB, 1GiB or 2TiB");
    let value: u64 = number.parse().map_err(|_| wrong())?;
    let bytes = value
        .checked_mul(factor.ok_or_else(wrong)?)
        .ok_or_else(wrong)?;
    if bytes == 0 {
        return Err(format!("'{text}' is zero bytes; a size is at least 1"));
    }
    Ok(bytes)
}

/// Writes a size exactly, with the largest unit that divides it.
pub(crate) fn exact(bytes: u64) -> String {
    UNITS
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .map_or_else(
            || format!("{bytes}B"),
            |(name, factor)| format!("{}{name}", bytes / factor),
        )
}
