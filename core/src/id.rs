//! Identities: opaque 128-bit values, written as UUID text (RFC 9562 §4).

use alloc::string::String;
use core::fmt;
use core::str::FromStr;

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_uuid(text).map($name)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;
            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                bytes.try_into().map($name).map_err(|_| IdError)
            }
        }
    };
}

identity!(
    /// A volume, for ever: never reused, not even after its deletion.
    VolumeId
);
identity!(
    /// One incarnation of a store. Formatting again makes another one.
    StoreId
);
identity!(
    /// A node of the cluster.
    NodeId
);
identity!(
    /// The cluster.
    ClusterId
);

/// The text or bytes are no 128-bit identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an identity: expected 32 hexadecimal digits, as 8-4-4-4-12 or without hyphens, or 16 bytes"
)]
pub struct IdError;

fn write_uuid(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

fn parse_uuid(text: &str) -> Result<[u8; 16], IdError> {
    let digits: String = match text.len() {
        32 => text.into(),
        36 if [8, 13, 18, 23]
            .iter()
            .all(|&at| text.as_bytes()[at] == b'-') =>
        {
            text.chars().filter(|c| *c != '-').collect()
        }
        _ => return Err(IdError),
    };
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(IdError);
    }
    let mut bytes = [0; 16];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).map_err(|_| IdError)?;
    }
    Ok(bytes)
}
