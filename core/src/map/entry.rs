//! What the chunk map says about one 64 KiB chunk of a volume: where it is, which blocks it holds, their checksums.

use crate::block::PhysicalChunk;
use crate::limits::CHUNK_BLOCKS;
use crate::lsn::Lsn;

/// Bytes of an entry on disk.
pub(super) const ENTRY_BYTES: usize = 16 + 4 * CHUNK_BLOCKS;

/// One chunk of a volume.
///
/// Each of its blocks is *present* (in the chunk, with a checksum), *bad* (known to be lost: a read needs
/// another copy until the block is overwritten or unmapped) or neither (reads as zeros).
/// Invariants: no block is both; there is a chunk exactly when a block is present; the checksum of a
/// bad block is what it should be, 0 when nobody knows; that of a block which is neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Physical chunk plus one, so that zeros mean none.
    chunk: u32,
    present: u16,
    bad: u16,
    lsn: Lsn,
    checksums: [u32; CHUNK_BLOCKS],
}

/// The bytes are no entry that [`Entry::encode`] could have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryError;

impl Entry {
    /// Nothing stored: reads as zeros.
    pub const EMPTY: Entry = Entry {
        chunk: 0,
        present: 0,
        bad: 0,
        lsn: Lsn(0),
        checksums: [0; CHUNK_BLOCKS],
    };

    /// The map page that described this chunk is damaged: every block is lost.
    pub(super) const LOST: Entry = Entry {
        bad: u16::MAX,
        ..Entry::EMPTY
    };

    /// A chunk with at least one `present` block. Checksums of zeros are ignored.
    pub fn stored(
        chunk: PhysicalChunk,
        present: u16,
        bad: u16,
        lsn: Lsn,
        checksums: [u32; CHUNK_BLOCKS],
    ) -> Entry {
        assert!(present != 0); // A chunk without a present block is given back instead.
        assert!(present & bad == 0);
        let chunk = chunk.0.checked_add(1).expect("chunk counts are below 2^32");
        Entry {
            chunk,
            present,
            bad,
            lsn,
            checksums: masked(present | bad, checksums),
        }
    }

    /// No block is present; `bad` ones are lost, the others read as zeros.
    pub fn without_chunk(bad: u16, lsn: Lsn, checksums: [u32; CHUNK_BLOCKS]) -> Entry {
        Entry {
            bad,
            lsn,
            checksums: masked(bad, checksums),
            ..Entry::EMPTY
        }
    }

    /// Where the present blocks are.
    pub fn chunk(&self) -> Option<PhysicalChunk> {
        self.chunk.checked_sub(1).map(PhysicalChunk)
    }

    /// Bit i: block i is in the chunk.
    pub fn present(&self) -> u16 {
        self.present
    }

    /// Bit i: block i is lost.
    pub fn bad(&self) -> u16 {
        self.bad
    }

    /// LSN of the last change; 0 if never changed.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// CRC32C of block `index`, 0 if it reads as zeros or nobody knows.
    pub fn checksum(&self, index: usize) -> u32 {
        self.checksums[index]
    }

    /// CRC32C of each block, as [`Entry::checksum`].
    pub fn checksums(&self) -> &[u32; CHUNK_BLOCKS] {
        &self.checksums
    }

    /// True when every block reads as zeros. The LSN may still say when that became so.
    pub fn is_empty(&self) -> bool {
        self.chunk == 0 && self.bad == 0
    }

    /// Writes the entry to [`ENTRY_BYTES`] of `bytes`.
    pub(super) fn encode(&self, bytes: &mut [u8]) {
        bytes[0..4].copy_from_slice(&self.chunk.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.present.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.bad.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.lsn.0.to_le_bytes());
        for (checksum, to) in self.checksums.iter().zip(bytes[16..].chunks_exact_mut(4)) {
            to.copy_from_slice(&checksum.to_le_bytes());
        }
    }

    /// Reads what [`Entry::encode`] wrote.
    pub(super) fn decode(bytes: &[u8]) -> Result<Entry, EntryError> {
        let (head, tail) = bytes.split_at(16);
        let mut checksums = [0; CHUNK_BLOCKS];
        for (checksum, from) in checksums.iter_mut().zip(tail.chunks_exact(4)) {
            *checksum = u32::from_le_bytes(from.try_into().expect("chunks of 4"));
        }
        let entry = Entry {
            chunk: u32::from_le_bytes(head[0..4].try_into().expect("4 bytes")),
            present: u16::from_le_bytes(head[4..6].try_into().expect("2 bytes")),
            bad: u16::from_le_bytes(head[6..8].try_into().expect("2 bytes")),
            lsn: Lsn(u64::from_le_bytes(head[8..16].try_into().expect("8 bytes"))),
            checksums,
        };
        let zeros_have_none = masked(entry.present | entry.bad, checksums) == checksums;
        let valid = (entry.chunk != 0) == (entry.present != 0)
            && entry.present & entry.bad == 0
            && zeros_have_none;
        if valid { Ok(entry) } else { Err(EntryError) }
    }
}

/// Only the checksums of these blocks.
fn masked(blocks: u16, mut checksums: [u32; CHUNK_BLOCKS]) -> [u32; CHUNK_BLOCKS] {
    for (i, checksum) in checksums.iter_mut().enumerate() {
        if blocks & (1 << i) == 0 {
            *checksum = 0;
        }
    }
    checksums
}

const _: () = assert!(ENTRY_BYTES == 80);
const _: () = assert!(CHUNK_BLOCKS == 16); // The masks are u16.
