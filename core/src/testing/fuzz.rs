//! Fuzz bodies: plain functions over bytes that a disk may hold, each with its oracle, and the seeded loop that
//! drives them in tests. The bodies also seal what they are given, so that decoders meet nonsense behind right
//! checksums.

use super::disk::{Image, Write};
use crate::block::StoreOffset;
use crate::checksum::{crc32c, crc32c_append};
use crate::id::StoreId;
use crate::limits::BLOCK_BYTES;
use crate::store::inspect::{Depth, Inspection, Report, Step};
use crate::store::recovery::ReadRequest;
use crate::store::superblock::{self, Superblock};
use crate::wal::frame::{self, FrameBuilder, RecordBody, RecordRef};
use alloc::vec::Vec;

/// Where a frame header keeps its checksum.
const FRAME_CRC_AT: usize = 64;

/// The seeds of one run: `HOLDFAST_FUZZ_ROUNDS` and `HOLDFAST_FUZZ_SEED`, or a fixed small number of them.
/// Prints each seed whose round panics, for it is the last one printed.
#[derive(Debug)]
pub struct Seeds {
    next: u64,
    left: u64,
}

impl Seeds {
    /// As many rounds as the environment says, else `rounds`.
    pub fn from_environment(rounds: u64) -> Seeds {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let seeds = Seeds {
            next: number("HOLDFAST_FUZZ_SEED").unwrap_or(1),
            left: number("HOLDFAST_FUZZ_ROUNDS").unwrap_or(rounds),
        };
        std::eprintln!("seed {}, {} rounds", seeds.next, seeds.left);
        seeds
    }
}

impl Iterator for Seeds {
    type Item = (Round, fastrand::Rng);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let seed = self.next;
        self.next = seed.wrapping_add(1);
        Some((Round(seed), fastrand::Rng::with_seed(seed)))
    }
}

/// One round; dropped in a panic it says its seed.
#[derive(Debug)]
pub struct Round(u64);

impl Drop for Round {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::eprintln!("seed {}", self.0);
        }
    }
}

/// Changes a few places of `bytes`: bits, bytes, extreme numbers, pieces copied from elsewhere.
pub fn mutate(bytes: &mut [u8], random: &mut fastrand::Rng) {
    for _ in 0..random.u32(1..6) {
        let at = random.usize(..bytes.len());
        let width = (1 << random.u32(..4)).min(bytes.len() - at);
        match random.u8(..5) {
            0 => bytes[at] ^= 1 << random.u32(..8),
            1 => bytes[at] = random.u8(..),
            2 => bytes[at..at + width].fill(0xff),
            3 => bytes[at..at + width].fill(0),
            _ => {
                let from = random.usize(..=bytes.len() - width);
                bytes.copy_within(from..from + width, at);
            }
        }
    }
}

/// Any block in the place of a superblock, as it is and sealed.
pub fn superblock(bytes: &[u8]) {
    let mut block = bytes.to_vec();
    block.resize(BLOCK_BYTES, 0);
    for copy in 0..2 {
        check_superblock(&block, copy);
        let mut sealed = block.clone();
        sealed[..8].copy_from_slice(&superblock::MAGIC);
        seal_superblock(&mut sealed);
        check_superblock(&sealed, copy);
    }
}

fn check_superblock(block: &[u8], copy: u32) {
    if let Ok(decoded) = Superblock::decode(block, copy) {
        let again = decoded.encode(copy);
        assert_eq!(Superblock::decode(&again, copy), Ok(decoded));
        assert_eq!(again[..76], block[..76]);
        assert_eq!(again[80..96], block[80..96]); // Between and behind them is padding.
        let _ = decoded.layout.validate(1 << 40);
    }
}

fn seal_superblock(block: &mut [u8]) {
    let crc = crc32c(&block[..BLOCK_BYTES - 4]);
    block[BLOCK_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
}

/// Any bytes in the place of a log frame, as they are and sealed.
pub fn log_frame(bytes: &[u8], store: StoreId) {
    check_frame(bytes, store);
    let mut sealed = bytes.to_vec();
    if seal_frame(&mut sealed) {
        check_frame(&sealed, store);
    }
}

/// Makes the header's checksum right. False if it has no length that could be one.
fn seal_frame(bytes: &mut [u8]) -> bool {
    let Some(length) = bytes.get(12..16) else {
        return false;
    };
    let length = u32::from_le_bytes(length.try_into().expect("4 bytes")) as usize;
    let Some(header) = bytes.get_mut(..length.max(BLOCK_BYTES)) else {
        return false;
    };
    header[FRAME_CRC_AT..FRAME_CRC_AT + 4].fill(0);
    let crc = crc32c_append(0, header);
    header[FRAME_CRC_AT..FRAME_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    true
}

fn check_frame(bytes: &[u8], store: StoreId) {
    let Some(decoded) = frame::decode(bytes, store) else {
        return;
    };
    assert!(decoded.bytes() <= bytes.len() as u64);
    let _ = frame::first_bad_payload(&decoded, bytes);
    let mut builder = FrameBuilder::default();
    for record in &decoded.records {
        let reference = reference(&record.body);
        if builder.bytes_with(&record.head, &reference).is_none() {
            return; // No frame that we would write.
        }
        builder.push(record.head, &reference);
    }
    let (mut again, _) = builder.finish(decoded.head);
    again.resize(bytes.len().max(again.len()), 0);
    let second = frame::decode(&again, store).expect("what was encoded decodes");
    assert_eq!(second.head, decoded.head);
    assert_eq!(second.records, decoded.records);
    assert_eq!(second.payload_blocks, decoded.payload_blocks);
}

fn reference(body: &RecordBody) -> RecordRef<'_> {
    match body {
        RecordBody::Write { first, checksums } => RecordRef::Write {
            first: *first,
            checksums,
        },
        RecordBody::Map {
            chunk,
            physical,
            checksums,
        } => RecordRef::Map {
            chunk: *chunk,
            physical: *physical,
            checksums,
        },
        RecordBody::Unmap(range) => RecordRef::Unmap(*range),
        RecordBody::Create {
            size_blocks,
            sharing,
        } => RecordRef::Create {
            size_blocks: *size_blocks,
            sharing: *sharing,
        },
        RecordBody::Resize { size_blocks } => RecordRef::Resize {
            size_blocks: *size_blocks,
        },
        RecordBody::SetEpoch(sharing) => RecordRef::SetEpoch(*sharing),
        RecordBody::Remove => RecordRef::Remove,
        RecordBody::Attributes(bytes) => RecordRef::Attributes(bytes),
        RecordBody::Promise => RecordRef::Promise,
        RecordBody::Adopt(adoption) => RecordRef::Adopt(adoption),
        RecordBody::EndResync => RecordRef::EndResync,
        RecordBody::Commit => RecordRef::Commit,
    }
}

/// Replaces the block at `offset` by `block`, and makes it right by itself if it begins as a superblock or frame.
pub fn plant(image: &mut Image, offset: StoreOffset, mut block: Vec<u8>) {
    if block[..8] == superblock::MAGIC {
        seal_superblock(&mut block);
    } else {
        seal_frame(&mut block);
    }
    image.apply(&Write::of_bytes(offset, &block));
}

/// Any image of a store is inspected to its end: at most as many reads as its size allows.
pub fn store(image: &Image) -> Report {
    let mut inspection = Inspection::new(image.bytes(), Depth::Data);
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    for _ in 0..100_000 {
        let slices: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
        match inspection.step(&slices) {
            Step::Read(reads) => {
                let read = |read: &ReadRequest| image.read(read.offset, read.bytes);
                buffers = reads.iter().map(read).collect();
            }
            Step::Done(report) => return *report,
        }
    }
    panic!("the inspection does not end");
}

#[cfg(test)]
mod tests;
