//! Names of volumes and the iSCSI names made from them.

use holdfast_core::limits::VOLUME_NAME_CHARS_MAX;
use std::fmt;
use std::str::FromStr;

/// Everything before the volume's name in its target name (RFC 7143 §4.2.7.2).
const IQN_PREFIX: &str = "iqn.2026-11.io.holdfast:";

/// A volume's name: `[a-z0-9][a-z0-9.-]{0,62}`, so it fits an iSCSI name as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeName(String);

/// Why a text is no volume name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' cannot name a volume: use 1 to 63 lower-case letters, digits, '.' and '-', beginning \
     with a letter or digit"
)]
pub struct NameError(String);

impl VolumeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The target name under which the volume is LUN 0.
    pub fn iqn(&self) -> String {
        format!("{IQN_PREFIX}{}", self.0)
    }
}

impl FromStr for VolumeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let bytes = text.as_bytes();
        let fits = (1..=VOLUME_NAME_CHARS_MAX).contains(&bytes.len());
        let begins = bytes.first().is_some_and(|&c| plain(c));
        if fits && begins && bytes.iter().all(|&c| plain(c) || c == b'.' || c == b'-') {
            Ok(VolumeName(text.to_owned()))
        } else {
            let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
            Err(NameError(shown))
        }
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
