//! Key=value text (RFC 7143 §6.1): bounded decoding, bounded encoding, binary and numeric values.

pub mod key;

use crate::limits::{BINARY_BYTES_MAX, BINARY_CHARS_MAX, KEY_NAME_CHARS_MAX, KEYS_MAX};
use crate::limits::{VALUE_BYTES_MAX, WRITER_BYTES_MAX};
use alloc::string::String;
use alloc::vec::Vec;

/// Why text is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not `key=value` and a NUL.
    #[error("text is not key=value")]
    Malformed,
    /// A key name of no or more than 63 characters, or of characters that names do not have.
    #[error("a key name is too long or has forbidden characters")]
    KeyName,
    /// A value that is too long or not UTF-8.
    #[error("a value is too long or not UTF-8")]
    Value,
    /// Too many keys.
    #[error("too many keys")]
    Count,
    /// The same key twice.
    #[error("a key was sent twice")]
    Repeated,
    /// The reply does not fit.
    #[error("the reply has no room")]
    NoRoom,
}

/// One key with its value, as received.
pub type Pair<'a> = (&'a str, &'a str);

/// Takes text apart. At most `KEYS_MAX` pairs; names and values are within their bounds.
pub fn decode(text: &[u8]) -> Result<Vec<Pair<'_>>, TextError> {
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    for item in text.split(|&byte| byte == 0) {
        // The last pair ends with NUL too; hosts also pad with NULs.
        if item.is_empty() {
            continue;
        }
        let equals = item.iter().position(|&byte| byte == b'=');
        let (name, value) = item.split_at(equals.ok_or(TextError::Malformed)?);
        let (name, value) = (check_name(name)?, &value[1..]);
        let bytes_max = if key::is_binary(name) {
            BINARY_CHARS_MAX
        } else if key::is_list(name) {
            key::LIST_BYTES_MAX
        } else {
            VALUE_BYTES_MAX
        };
        if value.len() > bytes_max {
            return Err(TextError::Value);
        }
        let value = core::str::from_utf8(value).map_err(|_| TextError::Value)?;
        if pairs.len() == KEYS_MAX {
            return Err(TextError::Count);
        }
        //= RFC 7143 §6.3
        //# Neither the initiator nor the target should attempt to declare or negotiate a parameter more than once during login.
        if pairs.iter().any(|(other, _)| *other == name) {
            return Err(TextError::Repeated);
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

fn check_name(name: &[u8]) -> Result<&str, TextError> {
    //= RFC 7143 §6.1
    //# A key-name is a string of one or more characters that consist of letters, digits, dot, minus, plus, commercial at, or underscore, at most 63.
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b".-+@_#".contains(byte);
    if name.is_empty() || name.len() > KEY_NAME_CHARS_MAX || !name.iter().all(legal) {
        return Err(TextError::KeyName);
    }
    core::str::from_utf8(name).map_err(|_| TextError::KeyName)
}

/// A reply under construction. It never grows beyond its bound; one that would is refused whole.
#[derive(Clone, Debug)]
pub struct Writer {
    text: Vec<u8>,
    bytes_max: usize,
    overflow: bool,
}

impl Writer {
    /// An empty reply of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        assert!(bytes_max <= WRITER_BYTES_MAX);
        Writer {
            text: Vec::new(),
            bytes_max,
            overflow: false,
        }
    }

    /// Adds a pair.
    pub fn put(&mut self, name: &str, value: &str) {
        let bytes = name.len() + 1 + value.len() + 1;
        if self.overflow || bytes > self.bytes_max - self.text.len() {
            self.overflow = true;
            return;
        }
        self.text.extend_from_slice(name.as_bytes());
        self.text.push(b'=');
        self.text.extend_from_slice(value.as_bytes());
        self.text.push(0);
    }

    /// The text, unless it did not fit.
    pub fn finish(self) -> Result<Vec<u8>, TextError> {
        if self.overflow {
            return Err(TextError::NoRoom);
        }
        Ok(self.text)
    }
}

/// A decimal or hexadecimal number (RFC 7143 §6.1, numerical-value).
pub fn number(value: &str) -> Option<u32> {
    let (digits, radix) = match value.strip_prefix("0x").or(value.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (value, 10),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

/// Bytes of a binary value: `0x` and hexadecimal digits, or `0b` and base64.
pub fn binary(value: &str) -> Option<Vec<u8>> {
    if value.len() > BINARY_CHARS_MAX {
        return None;
    }
    let (prefix, digits) = value.split_at_checked(2)?;
    let bytes = match prefix {
        "0x" | "0X" => hexadecimal(digits.as_bytes())?,
        "0b" | "0B" => base64(digits.as_bytes())?,
        _ => return None,
    };
    (!bytes.is_empty() && bytes.len() <= BINARY_BYTES_MAX).then_some(bytes)
}

/// `0x` and two digits for each byte.
pub fn to_hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 0xF)]));
    }
    text
}

fn hexadecimal(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        let value = char::from(byte).to_digit(16)?;
        u8::try_from(value).ok()
    };
    let (odd, pairs) = digits.split_at(digits.len() % 2);
    let mut bytes = Vec::with_capacity(digits.len() / 2 + 1);
    if let [first] = odd {
        bytes.push(digit(*first)?);
    }
    for pair in pairs.chunks_exact(2) {
        bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    Some(bytes)
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    if padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for &byte in &text[..text.len() - padding] {
        bits = bits << 6 | u32::from(base64_digit(byte)?);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xFF) as u8);
            bits &= (1 << held) - 1;
        }
    }
    // Bits that belong to no byte must be zero, else two texts would mean the same bytes.
    (bits == 0).then_some(bytes)
}

fn base64_digit(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
