//! CHAP as an initiator: answers the target's challenge and, when mutual, checks the target's.
//! Source: RFC 1994, RFC 7143 section 12.1.3.

use md5::Md5;
use sha2::{Digest, Sha256};

/// Names and secrets of one login.
#[derive(Clone, Debug)]
pub(crate) struct Chap {
    pub(crate) user: String,
    pub(crate) secret: String,
    /// Name and secret the target must prove.
    pub(crate) mutual: Option<(String, String)>,
}

/// The digest of identifier, secret and challenge; `None` for an algorithm we never offered.
pub(crate) fn digest(
    algorithm: &str,
    identifier: u8,
    secret: &str,
    challenge: &[u8],
) -> Option<Vec<u8>> {
    match algorithm {
        "5" => Some(hash::<Md5>(identifier, secret, challenge)),
        "7" => Some(hash::<Sha256>(identifier, secret, challenge)),
        _ => None,
    }
}

fn hash<D: Digest>(identifier: u8, secret: &str, challenge: &[u8]) -> Vec<u8> {
    let mut hasher = D::new();
    hasher.update([identifier]);
    hasher.update(secret.as_bytes());
    hasher.update(challenge);
    hasher.finalize().to_vec()
}

/// `0x..` text of bytes.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::from("0x");
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

/// Bytes of `0x..` text; an odd number of digits has a leading zero.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))?;
    let padded = if digits.len() % 2 == 0 {
        digits.into()
    } else {
        format!("0{digits}")
    };
    let nibbles: Option<Vec<u32>> = padded.chars().map(|digit| digit.to_digit(16)).collect();
    nibbles?
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok())
        .collect()
}
