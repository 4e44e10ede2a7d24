//! What each 4 KiB block of a volume may hold, judged by what was sent and what was acknowledged.
//!
//! Every sector written says volume, LBA, version and seed under a CRC, so that what is read back
//! tells what happened to it. A block has a set of *candidates*: complete 4 KiB images. Sending a
//! write adds its image; its acknowledgement removes every image that was acknowledged before it
//! was sent. A crash adds nothing. A read must equal exactly one candidate, which then becomes the
//! only one: what was read once may not go away (I1, I2, I12).
//!
//! Writes that cover part of a block must not overlap other commands in flight; whole-block writes
//! may overlap each other. The workload keeps to that.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;

use crate::initiator::scsi::{SECTOR_BYTES, Sectors};

/// Sectors of one block.
pub(crate) const BLOCK_SECTORS: u64 = 8;
/// Bytes of one block.
pub(crate) const BLOCK_BYTES: usize = 4096;
const MAGIC: u64 = 0x4b45_4c50_4b45_4c50;
const SAME: u64 = 1 << 63;
/// What a WRITE SAME sector says instead of an LBA.
const ANY_LBA: u64 = u64::MAX;

/// What one sector was given: zeros, or the content of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Content(u64);

impl Content {
    /// Never written, or unmapped.
    pub(crate) const ZEROS: Self = Self(0);

    /// Each sector its own content.
    pub(crate) fn written(version: u64) -> Self {
        assert!(version != 0 && version & SAME == 0);
        Self(version)
    }

    /// The same content in every sector.
    pub(crate) fn same(version: u64) -> Self {
        Self(Self::written(version).0 | SAME)
    }

    /// The version that it was given.
    pub(crate) fn version(self) -> u64 {
        self.0 & !SAME
    }

    fn lba(self, lba: u64) -> u64 {
        if self.0 & SAME == 0 { lba } else { ANY_LBA }
    }
}

/// Whose sectors these are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) volume: u64,
    pub(crate) seed: u64,
}

impl Identity {
    /// Writes the 512 bytes of a sector.
    pub(crate) fn fill(self, content: Content, lba: u64, out: &mut [u8]) {
        assert_eq!(out.len(), SECTOR_BYTES);
        if content == Content::ZEROS {
            out.fill(0);
            return;
        }
        let lba = content.lba(lba);
        let mut state = self.seed ^ content.0.rotate_left(17) ^ lba.rotate_left(41) ^ self.volume;
        let head = [MAGIC, self.volume, lba, content.0, self.seed];
        for (index, word) in out.chunks_exact_mut(8).enumerate() {
            let value = head.get(index).copied().unwrap_or_else(|| {
                state = state
                    .wrapping_mul(0x5851_f42d_4c95_7f2d)
                    .wrapping_add(0x1405_7b7e_f767_814f);
                state ^ (state >> 29)
            });
            word.copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..SECTOR_BYTES - 4]);
        out[SECTOR_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    }

    /// The bytes of a run of sectors of one content.
    pub(crate) fn bytes(self, content: Content, sectors: Sectors) -> Vec<u8> {
        let mut bytes = vec![0; sectors.byte_count()];
        for (lba, sector) in (sectors.first..).zip(bytes.chunks_exact_mut(SECTOR_BYTES)) {
            self.fill(content, lba, sector);
        }
        bytes
    }
}

type Image = [Content; 8];

#[derive(Clone, Debug)]
struct Candidate {
    image: Image,
    write: u64,
    /// When the write was acknowledged; `None` while it was only sent.
    acknowledged: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    sectors: Sectors,
    at: u64,
}

/// A block that holds what it may not hold.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) block: u64,
    pub(crate) kind: Kind,
    detail: String,
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Older than what was acknowledged or read: a lost write or a stale read.
    Lost,
    /// Sectors that are each possible, but not together.
    Mixed,
    /// Another volume's, another place's or another run's data.
    Foreign,
    /// A content of ours that was not a candidate and is not older: it came back, or came early.
    Impossible,
    /// Bytes nobody wrote.
    Garbage,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}: {:?}: {}", self.block, self.kind, self.detail)
    }
}

/// The candidates of every block of one volume.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    identity: Identity,
    blocks: Vec<Vec<Candidate>>,
    sent: HashMap<u64, Sent>,
    clock: u64,
}

impl Oracle {
    /// A volume of this many blocks, all zeros.
    pub(crate) fn new(identity: Identity, block_count: usize) -> Self {
        let zeros = Candidate {
            image: [Content::ZEROS; 8],
            write: 0,
            acknowledged: Some(0),
        };
        Self {
            identity,
            blocks: vec![vec![zeros]; block_count],
            sent: HashMap::new(),
            clock: 0,
        }
    }

    /// Blocks of the volume.
    pub(crate) fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// A write of this content is about to be sent; `write` is unique and not 0.
    pub(crate) fn sent(&mut self, write: u64, sectors: Sectors, content: Content) {
        assert!(write != 0);
        self.clock += 1;
        self.sent.insert(
            write,
            Sent {
                sectors,
                at: self.clock,
            },
        );
        for block in blocks_of(sectors) {
            let mask = mask_of(block, sectors);
            let candidates = &mut self.blocks[index(block)];
            let mut images: Vec<Image> = Vec::new();
            for candidate in candidates.iter() {
                let mut image = candidate.image;
                for (position, sector) in image.iter_mut().enumerate() {
                    if mask & (1 << position) != 0 {
                        *sector = content;
                    }
                }
                if !images.contains(&image) {
                    images.push(image);
                }
            }
            candidates.extend(images.into_iter().map(|image| Candidate {
                image,
                write,
                acknowledged: None,
            }));
        }
    }

    /// The write was answered with GOOD.
    pub(crate) fn acknowledged(&mut self, write: u64) {
        self.clock += 1;
        let sent = self
            .sent
            .remove(&write)
            .expect("acknowledged once, after it was sent");
        for block in blocks_of(sent.sectors) {
            let candidates = &mut self.blocks[index(block)];
            candidates.retain(|candidate| {
                candidate.write == write || candidate.acknowledged.is_none_or(|at| at > sent.at)
            });
            for candidate in candidates
                .iter_mut()
                .filter(|candidate| candidate.write == write)
            {
                candidate.acknowledged = Some(self.clock);
            }
        }
    }

    /// Judges blocks that were read while no write to them was in flight.
    pub(crate) fn read(&mut self, first: u64, data: &[u8]) -> Result<(), Violation> {
        assert_eq!(data.len() % BLOCK_BYTES, 0);
        let mut expected = [0; BLOCK_BYTES];
        for (block, found) in (first..).zip(data.chunks_exact(BLOCK_BYTES)) {
            let identity = self.identity;
            let candidates = &mut self.blocks[index(block)];
            let matching = candidates.iter().position(|candidate| {
                fill_block(identity, &candidate.image, block, &mut expected);
                expected == found
            });
            let Some(matching) = matching else {
                return Err(self.violation(block, found));
            };
            let mut candidate = candidates.swap_remove(matching);
            candidate.write = 0;
            candidate.acknowledged = Some(self.clock);
            candidates.clear();
            candidates.push(candidate);
        }
        Ok(())
    }

    /// The server is gone: what was sent and not answered will never be answered.
    pub(crate) fn crashed(&mut self) {
        self.sent.clear();
    }

    fn violation(&self, block: u64, found: &[u8]) -> Violation {
        let candidates = &self.blocks[index(block)];
        let sectors: Vec<Found> = (block * BLOCK_SECTORS..)
            .zip(found.chunks_exact(SECTOR_BYTES))
            .map(|(lba, sector)| self.recognise(lba, sector))
            .collect();
        let possible = |position: usize, content: Content| {
            candidates
                .iter()
                .any(|candidate| candidate.image[position] == content)
        };
        let oldest = |position: usize| {
            candidates
                .iter()
                .map(|candidate| candidate.image[position].version())
                .min()
        };
        let each = || sectors.iter().enumerate();
        let ours = |test: &dyn Fn(usize, Content) -> bool| {
            each().any(|(position, found)| match found {
                Found::Ours(content) => test(position, *content),
                Found::Foreign | Found::Garbage => false,
            })
        };
        let kind = if sectors.contains(&Found::Garbage) {
            Kind::Garbage
        } else if sectors.contains(&Found::Foreign) {
            Kind::Foreign
        } else if !ours(&|position, content| !possible(position, content)) {
            Kind::Mixed
        } else if ours(&|position, content| {
            !possible(position, content) && Some(content.version()) < oldest(position)
        }) {
            Kind::Lost
        } else {
            Kind::Impossible
        };
        let allowed: Vec<&Image> = candidates
            .iter()
            .map(|candidate| &candidate.image)
            .collect();
        Violation {
            block,
            kind,
            detail: format!("found {sectors:?}, allowed {allowed:?}"),
        }
    }

    fn recognise(&self, lba: u64, sector: &[u8]) -> Found {
        if sector.iter().all(|byte| *byte == 0) {
            return Found::Ours(Content::ZEROS);
        }
        let Some(stamp) = Stamp::of(sector) else {
            return Found::Garbage;
        };
        let content = stamp.content;
        let identity = (stamp.volume, stamp.lba, stamp.seed);
        if identity == (self.identity.volume, content.lba(lba), self.identity.seed) {
            Found::Ours(content)
        } else {
            Found::Foreign
        }
    }
}

/// What an intact sector says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) volume: u64,
    pub(crate) lba: u64,
    pub(crate) seed: u64,
    pub(crate) content: Content,
}

impl Stamp {
    /// `None` when nobody wrote it like this.
    pub(crate) fn of(sector: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&sector[at * 8..at * 8 + 8]);
            u64::from_le_bytes(bytes)
        };
        if word(0) != MAGIC {
            return None;
        }
        let crc = crc32c::crc32c(&sector[..SECTOR_BYTES - 4]);
        if crc.to_le_bytes() != sector[SECTOR_BYTES - 4..SECTOR_BYTES] {
            return None;
        }
        Some(Self {
            volume: word(1),
            lba: word(2),
            seed: word(4),
            content: Content(word(3)),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Ours(Content),
    Foreign,
    Garbage,
}

/// The blocks a run of sectors touches.
pub(crate) fn blocks_of(sectors: Sectors) -> std::ops::Range<u64> {
    let end = sectors.first + u64::from(sectors.count);
    sectors.first / BLOCK_SECTORS..end.div_ceil(BLOCK_SECTORS)
}

/// Which sectors of a block are in the run.
fn mask_of(block: u64, sectors: Sectors) -> u8 {
    let end = sectors.first + u64::from(sectors.count);
    (0..BLOCK_SECTORS)
        .filter(|position| {
            let lba = block * BLOCK_SECTORS + position;
            sectors.first <= lba && lba < end
        })
        .fold(0, |mask, position| mask | (1 << position))
}

fn fill_block(identity: Identity, image: &Image, block: u64, out: &mut [u8; BLOCK_BYTES]) {
    let lbas = block * BLOCK_SECTORS..;
    for ((content, lba), sector) in image
        .iter()
        .zip(lbas)
        .zip(out.chunks_exact_mut(SECTOR_BYTES))
    {
        identity.fill(*content, lba, sector);
    }
}

fn index(block: u64) -> usize {
    usize::try_from(block).expect("a test volume is small")
}
