//! CRC32C (Castagnoli), the one checksum of disks, frames and iSCSI digests.

use crate::limits::BLOCK_BYTES;
use alloc::vec::Vec;

/// CRC32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// CRC32C of `bytes` appended to what `crc` already covers.
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    ::crc32c::crc32c_append(crc, bytes)
}

/// One CRC32C per 4 KiB block. `bytes` is a whole number of blocks.
pub fn block_checksums(bytes: &[u8]) -> Vec<u32> {
    assert!(bytes.len().is_multiple_of(BLOCK_BYTES));
    bytes.chunks_exact(BLOCK_BYTES).map(crc32c).collect()
}
