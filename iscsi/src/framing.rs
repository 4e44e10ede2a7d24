//! How PDUs lie in the byte stream: lengths, padding and digests. Hot path.

use holdfast_core::checksum::{crc32c, crc32c_append};

/// Bytes of a basic header segment.
pub const HEADER_BYTES: usize = 48;

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 4;

/// Bytes of additional header segments that one PDU can have.
pub const ADDITIONAL_HEADER_BYTES_MAX: usize = 255 * 4;

/// Bytes of everything before the data segment at most: size a receive buffer by it.
pub const HEADERS_BYTES_MAX: usize = HEADER_BYTES + ADDITIONAL_HEADER_BYTES_MAX + DIGEST_BYTES;

/// Which digests (CRC32C) a PDU carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// After the headers.
    pub header: bool,
    /// After the padded data segment, when there is one.
    pub data: bool,
}

impl Digests {
    /// Bytes from the start of the PDU to its data segment, digest included.
    pub fn headers_bytes(self, basic_header: &[u8; HEADER_BYTES]) -> usize {
        let digest = if self.header { DIGEST_BYTES } else { 0 };
        HEADER_BYTES + usize::from(basic_header[4]) * 4 + digest
    }

    /// Bytes that follow a data segment of this length: padding and digest.
    pub fn trailer_bytes(self, data_bytes: usize) -> usize {
        let digest = if self.data && data_bytes > 0 {
            DIGEST_BYTES
        } else {
            0
        };
        padding_bytes(data_bytes) + digest
    }
}

/// DataSegmentLength of a basic header segment.
pub fn data_bytes(basic_header: &[u8; HEADER_BYTES]) -> usize {
    let [high, middle, low] = [basic_header[5], basic_header[6], basic_header[7]].map(usize::from);
    high << 16 | middle << 8 | low
}

/// Zero bytes that follow a data segment of this length (RFC 7143 §11.7.5).
pub fn padding_bytes(data_bytes: usize) -> usize {
    data_bytes.wrapping_neg() & 3
}

/// A digest as it is sent: CRC32C with its least significant byte first (RFC 7143 §13.1).
pub fn digest(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    crc32c(bytes).to_le_bytes()
}

/// The digest of a data segment that lies in pieces; `update` each piece, then `finish`.
#[derive(Clone, Copy, Debug, Default)]
pub struct DataDigest {
    crc: u32,
    data_bytes: usize,
}

impl DataDigest {
    /// The next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.crc = crc32c_append(self.crc, bytes);
        self.data_bytes += bytes.len();
    }

    /// Adds the padding, as zeros, and gives the digest as it is sent.
    pub fn finish(self) -> [u8; DIGEST_BYTES] {
        let padding = &[0; 3][..padding_bytes(self.data_bytes)];
        crc32c_append(self.crc, padding).to_le_bytes()
    }

    /// Compares with received padding and digest: `trailer` is what follows the data segment.
    pub fn matches(self, trailer: &[u8]) -> bool {
        let Some((padding, received)) = trailer.split_at_checked(padding_bytes(self.data_bytes))
        else {
            return false;
        };
        crc32c_append(self.crc, padding).to_le_bytes() == received
    }
}

/// Whether headers that end with their digest are intact.
pub fn header_digest_matches(headers: &[u8]) -> bool {
    headers
        .split_last_chunk::<DIGEST_BYTES>()
        .is_some_and(|(covered, received)| digest(covered) == *received)
}
