//! The bytes of a message: a fixed head, a body, and perhaps a payload of whole blocks behind it.
//!
//! The receiver reads [`HEAD_BYTES`], learns from [`Head::decode`] how long the body and the payload
//! are, reads the body, decodes with [`Head::message`], and only then reads the payload, into aligned
//! memory. Hot path: a record of one block costs one append to the output buffer.
//!
//! Invariants: lengths are within [`PEER_BODY_BYTES_MAX`] and [`PEER_PAYLOAD_BYTES_MAX`] before anything
//! is allocated; the payload is as long as the body's checksums say; head and body are covered by one
//! CRC32C; what decodes encodes to the same bytes. All numbers are little-endian.
//!
//! Head: magic 4, kind 1, zero 3, body length 4, payload length 4, volume 16, epoch 8, first number
//! 8, second number 8, CRC32C 4, zero 4. The numbers are `lsn` and `committed` of a record, the
//! sequence of a heartbeat, the commit point, and so on; what is left goes into the body.

mod body;

use super::Message;
use crate::checksum::{crc32c, crc32c_append};
use crate::id::VolumeId;
use crate::limits::{BLOCK_BYTES, PEER_BODY_BYTES_MAX, PEER_PAYLOAD_BYTES_MAX};
use crate::lsn::Epoch;
use alloc::vec::Vec;

/// Bytes of the head.
pub const HEAD_BYTES: usize = 64;

const MAGIC: [u8; 4] = *b"HFP1";
const CRC_AT: usize = 56;

/// The peer broke the protocol: the stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No head begins here.
    #[error("not the head of a peer message")]
    NoHead,
    /// A length over its limit, or a payload that is no whole number of blocks.
    #[error("a length out of bounds in the head of a peer message")]
    TooLong,
    /// Head or body are damaged.
    #[error("wrong checksum of a peer message")]
    Checksum,
    /// A kind, field or length that does not exist.
    #[error("a peer message that cannot be decoded")]
    Malformed,
}

/// A decoded head; believed only together with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    bytes: [u8; HEAD_BYTES],
    /// Bytes of body that follow.
    pub body_bytes: usize,
    /// Bytes of payload that follow the body.
    pub payload_bytes: usize,
}

/// What a head says besides lengths.
struct Fields {
    kind: u8,
    volume: VolumeId,
    epoch: Epoch,
    first: u64,
    second: u64,
}

impl Head {
    /// Finds out how long a message is.
    pub fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Head, WireError> {
        if bytes[..4] != MAGIC || bytes[5..8] != [0; 3] || bytes[60..] != [0; 4] {
            return Err(WireError::NoHead);
        }
        let body_bytes = length_at(bytes, 8);
        let payload_bytes = length_at(bytes, 12);
        if body_bytes > PEER_BODY_BYTES_MAX
            || payload_bytes > PEER_PAYLOAD_BYTES_MAX
            || !payload_bytes.is_multiple_of(BLOCK_BYTES)
        {
            return Err(WireError::TooLong);
        }
        Ok(Head {
            bytes: *bytes,
            body_bytes,
            payload_bytes,
        })
    }

    /// The message; `body` is the [`Self::body_bytes`] that followed.
    pub fn message(&self, body: &[u8]) -> Result<Message, WireError> {
        assert_eq!(body.len(), self.body_bytes);
        if checksum(&self.bytes, body) != u32::from_le_bytes(field(&self.bytes, CRC_AT)) {
            return Err(WireError::Checksum);
        }
        let fields = Fields {
            kind: self.bytes[4],
            volume: VolumeId(field(&self.bytes, 16)),
            epoch: Epoch(u64::from_le_bytes(field(&self.bytes, 32))),
            first: u64::from_le_bytes(field(&self.bytes, 40)),
            second: u64::from_le_bytes(field(&self.bytes, 48)),
        };
        let message = body::decode(&fields, body).ok_or(WireError::Malformed)?;
        if message.payload_checksums().len() * BLOCK_BYTES != self.payload_bytes {
            return Err(WireError::Malformed);
        }
        Ok(message)
    }
}

/// Appends head and body of `message` to `out`. Gives the bytes of payload that have to follow.
pub fn encode(message: &Message, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    let payload_bytes = message.payload_checksums().len() * BLOCK_BYTES;
    assert!(payload_bytes <= PEER_PAYLOAD_BYTES_MAX);
    out.resize(start + HEAD_BYTES, 0);
    let fields = body::encode(message, out);
    let (head, body) = out[start..].split_at_mut(HEAD_BYTES);
    assert!(body.len() <= PEER_BODY_BYTES_MAX);
    let mut put = |at: usize, field: &[u8]| head[at..at + field.len()].copy_from_slice(field);
    put(0, &MAGIC);
    put(4, &[fields.kind]);
    put(8, &narrow(body.len()).to_le_bytes());
    put(12, &narrow(payload_bytes).to_le_bytes());
    put(16, &fields.volume.0);
    put(32, &fields.epoch.0.to_le_bytes());
    put(40, &fields.first.to_le_bytes());
    put(48, &fields.second.to_le_bytes());
    let crc = checksum(head, body);
    head[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    payload_bytes
}

/// Index of the first block of `payload` whose checksum is not the message's. `payload` is as long as
/// the head said.
pub fn first_bad_block(message: &Message, payload: &[u8]) -> Option<usize> {
    let checksums = message.payload_checksums();
    assert_eq!(payload.len(), checksums.len() * BLOCK_BYTES);
    payload
        .chunks_exact(BLOCK_BYTES)
        .zip(checksums)
        .position(|(block, checksum)| crc32c(block) != *checksum)
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    crc32c_append(crc32c(&head[..CRC_AT]), body)
}

fn length_at(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u32::from_le_bytes(field(bytes, at))).unwrap_or(usize::MAX)
}

fn narrow(length: usize) -> u32 {
    u32::try_from(length).expect("bounded by PEER_BODY_BYTES_MAX and PEER_PAYLOAD_BYTES_MAX")
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("as many as asked for")
}

#[cfg(test)]
mod tests;
