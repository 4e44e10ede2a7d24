//! Reading: from the cache, or from where the store says, checked block by block. Hot path.
//!
//! A block whose checksum does not match is looked up again, because a flush or a write may have
//! moved it while it was being read; when the same place is bad twice, another copy of the volume is
//! asked ([`super::heal`]), and without one it is a medium error. Nothing is ever given to a host that
//! did not pass its checksum.

use super::cache::{Mark, VolumeSlot};
use super::range_lock::Held;
use super::rope::{Rope, Source};
use super::{Fault, Volume, covering, pieces};
use crate::disk::Disk;
use crate::limits::{CACHED_BYTES_MAX, IO_BYTES_MAX, LOOKUPS_MAX, PIECE_BYTES};
use crate::runtime::buffer::{Buffer, ReadBytes};
use crate::runtime::local::Bell;
use crate::runtime::task::yield_if_needed;
use holdfast_core::block::{Block, BlockRange, StoreOffset};
use holdfast_core::checksum::crc32c;
use holdfast_core::limits::BLOCK_BYTES;
use holdfast_core::store::{Location, Lookup};
use holdfast_iscsi::request::ByteRange;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use tracing::warn;

/// A block whose checksum did not match, or that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(super) block: Block,
    /// `Bad` when it was found before, and is not stored any more.
    pub(super) location: Location,
    pub(super) checksum: u32,
}

/// One disk read of a command.
#[derive(Clone, Copy, Debug)]
struct Part {
    place: StoreOffset,
    bytes: usize,
}

impl<D: Disk> Volume<D> {
    /// All of a range from the cache, or nothing.
    pub(super) fn cached(&self, range: ByteRange) -> Option<Rope> {
        let blocks = covering(range);
        if blocks.count as usize * BLOCK_BYTES > CACHED_BYTES_MAX {
            return None;
        }
        let cache = self.store.cache().borrow();
        let mut rope = Rope::default();
        for block in blocks.first.0..blocks.end().0 {
            let cached = cache.get(self.gate.slot(), Block(block))?;
            rope.push(Source::Cached(cached), 0, BLOCK_BYTES);
        }
        drop(cache);
        Some(trim(rope, range))
    }

    /// The bytes of a range.
    pub(super) async fn read(&self, range: ByteRange) -> Result<Rope, Fault> {
        if let Some(rope) = self.cached(range) {
            return Ok(rope);
        }
        let rope = self.read_stored(covering(range)).await?;
        Ok(trim(rope, range))
    }

    /// The bytes of whole blocks, from the disk, or from another copy where that is damaged.
    pub(super) async fn read_stored(&self, range: BlockRange) -> Result<Rope, Fault> {
        match self.read_own(range).await? {
            Ok(rope) => Ok(rope),
            // Boxed: it happens hardly ever, and would make every read's future larger.
            Err(bad) => Box::pin(self.read_damaged(range, bad)).await,
        }
    }

    /// The bytes of whole blocks from the disk, or the first that is bad there.
    pub(super) async fn read_own(&self, range: BlockRange) -> Result<Result<Rope, Bad>, Fault> {
        let mut before = None;
        for _ in 0..LOOKUPS_MAX {
            let slot = self.gate.slot();
            let mark = self.store.cache().borrow().mark();
            let lookup = self.store.lookup(self.id, range)?;
            let result = self.read_extents(range, &lookup, (slot, mark)).await;
            self.store.done_with(lookup);
            match result? {
                Ok(rope) => return Ok(Ok(rope)),
                Err(bad) if before == Some(bad) => return Ok(Err(bad)),
                Err(bad) => before = Some(bad),
            }
        }
        before.map_or(Err(Fault::Busy), |bad| Ok(Err(bad)))
    }

    /// The committed blocks of a range for a peer, `None` when all are zeros, and the range: no write
    /// to it is under way, and none begins before it is given back.
    pub(crate) async fn read_for_peer(
        &self,
        range: BlockRange,
    ) -> Result<(Held, Option<Rope>), Fault> {
        let held = self.locks.exclusive(range).await?;
        let rope = self.read_stored(range).await?;
        Ok((held, (!rope.is_zero()).then_some(rope)))
    }

    async fn read_extents(
        &self,
        range: BlockRange,
        lookup: &Lookup,
        (slot, mark): (VolumeSlot, Mark),
    ) -> Result<Result<Rope, Bad>, Fault> {
        let parts = match parts_of(range, lookup) {
            Ok(parts) => parts,
            Err(bad) => return Ok(Err(bad)),
        };
        let mut read = self.read_parts(&parts).await.into_iter();
        let mut rope = Rope::default();
        let mut at = 0;
        for extent in &lookup.extents {
            let blocks = extent.blocks as usize;
            if extent.location == Location::Zero {
                rope.push(Source::Zero, 0, blocks * BLOCK_BYTES);
                at += blocks;
                continue;
            }
            let end = at + blocks;
            while at < end {
                let (part, result) = read.next().expect("a part was read for each stored extent");
                let count = part.bytes / BLOCK_BYTES;
                let checksums = &lookup.checksums[at..at + count];
                let first = range.first.plus(at as u64);
                match check(first, part, result, checksums) {
                    Ok(bytes) => {
                        let mut cache = self.store.cache().borrow_mut();
                        cache.fill(mark, slot, first, &bytes);
                        rope.push(Source::Read(bytes), 0, part.bytes);
                    }
                    Err(bad) => return Ok(Err(bad)),
                }
                at += count;
            }
        }
        Ok(Ok(rope))
    }

    /// Reads all parts, side by side when there are several.
    async fn read_parts(&self, parts: &[Part]) -> Vec<(Part, io::Result<ReadBytes>)> {
        let disk = self.store.disk();
        if let [only] = parts {
            return vec![(*only, disk.read(only.place, only.bytes).await)];
        }
        let results: Rc<RefCell<Vec<Option<io::Result<ReadBytes>>>>> =
            Rc::new(RefCell::new(parts.iter().map(|_| None).collect()));
        let left = Rc::new(Cell::new(parts.len()));
        let done = Rc::new(Bell::default());
        for (index, part) in parts.iter().copied().enumerate() {
            let (disk, results) = (Rc::clone(disk), Rc::clone(&results));
            let (left, done) = (Rc::clone(&left), Rc::clone(&done));
            self.store.reads().run(async move {
                let result = disk.read(part.place, part.bytes).await;
                results.borrow_mut()[index] = Some(result);
                left.set(left.get() - 1);
                if left.get() == 0 {
                    done.ring();
                }
            });
        }
        while left.get() > 0 {
            done.rung().await;
        }
        let results = results.take();
        let results = results
            .into_iter()
            .map(|r| r.expect("every read stored its result"));
        parts.iter().copied().zip(results).collect()
    }

    /// Reads a range from the disk and checks it.
    pub(super) async fn verify(&self, range: ByteRange) -> Result<(), Fault> {
        for piece in pieces(range) {
            self.read_stored(covering(piece)).await?;
            yield_if_needed().await;
        }
        Ok(())
    }

    /// Brings the beginning of a range into the cache.
    pub(super) async fn prefetch(&self, range: ByteRange) -> Result<(), Fault> {
        let end = range.offset + range.bytes.min(PIECE_BYTES as u64);
        let mut at = range.offset;
        while at < end {
            let bytes = (end - at).min(CACHED_BYTES_MAX as u64 - BLOCK_BYTES as u64);
            // A hint: whatever goes wrong is told to the command that reads.
            if self.read(ByteRange { offset: at, bytes }).await.is_err() {
                return Ok(());
            }
            at += bytes;
        }
        Ok(())
    }

    /// Compares a range with the task buffer.
    pub(super) async fn compare(&self, range: ByteRange, task: &Buffer) -> Result<(), Fault> {
        for piece in pieces(range) {
            let skip = piece.offset - range.offset;
            let wanted = slice_of(task, skip, piece.bytes);
            differ_at(&self.read(piece).await?, wanted, skip)?;
            yield_if_needed().await;
        }
        Ok(())
    }

    /// Compares what is on the disk, not in the cache, with the task buffer.
    pub(super) async fn compare_stored(
        &self,
        range: ByteRange,
        task: &Buffer,
    ) -> Result<(), Fault> {
        for piece in pieces(range) {
            let rope = trim(self.read_stored(covering(piece)).await?, piece);
            let skip = piece.offset - range.offset;
            differ_at(&rope, slice_of(task, skip, piece.bytes), skip)?;
            yield_if_needed().await;
        }
        Ok(())
    }

    /// Compares every logical block of a range with the one in the task buffer.
    pub(super) async fn compare_same(&self, range: ByteRange, pattern: &[u8]) -> Result<(), Fault> {
        for piece in pieces(range) {
            let rope = self.read(piece).await?;
            let mut bytes = vec![0; rope.len()];
            rope.copy_to(&mut bytes);
            let skip = piece.offset - range.offset;
            for (index, block) in bytes.chunks_exact(pattern.len()).enumerate() {
                if let Some(at) = first_difference(block, pattern) {
                    return Err(Fault::Miscompare(
                        skip + (index * pattern.len() + at) as u64,
                    ));
                }
            }
            yield_if_needed().await;
        }
        Ok(())
    }
}

/// The disk reads that a lookup asks for.
fn parts_of(range: BlockRange, lookup: &Lookup) -> Result<Vec<Part>, Bad> {
    let mut parts = Vec::with_capacity(lookup.extents.len());
    let mut at = 0;
    for extent in &lookup.extents {
        let total = extent.blocks as usize * BLOCK_BYTES;
        match extent.location {
            Location::Zero => {}
            Location::Bad => {
                return Err(Bad {
                    block: range.first.plus(at as u64),
                    location: Location::Bad,
                    checksum: lookup.checksums[at],
                });
            }
            Location::Stored(place) => {
                parts.extend((0..total).step_by(IO_BYTES_MAX).map(|start| Part {
                    place: place.plus(start as u64),
                    bytes: (total - start).min(IO_BYTES_MAX),
                }));
            }
        }
        at += extent.blocks as usize;
    }
    Ok(parts)
}

/// Cuts a rope over the covering blocks down to the bytes asked for.
fn trim(rope: Rope, range: ByteRange) -> Rope {
    let bytes = usize::try_from(range.bytes).expect("one transfer");
    if rope.len() == bytes {
        return rope;
    }
    let skip = usize::try_from(range.offset % BLOCK_BYTES as u64).expect("below a block");
    rope.sub(skip, bytes)
}

fn check(
    first: Block,
    part: Part,
    result: io::Result<ReadBytes>,
    checksums: &[u32],
) -> Result<ReadBytes, Bad> {
    let bad = |index: usize| Bad {
        block: first.plus(index as u64),
        location: Location::Stored(part.place.plus((index * BLOCK_BYTES) as u64)),
        checksum: checksums[index],
    };
    let bytes = result.map_err(|error| {
        warn!(
            "reading {} bytes at {} failed: {error}",
            part.bytes, part.place
        );
        bad(0)
    })?;
    let mut blocks = bytes.chunks_exact(BLOCK_BYTES).zip(checksums);
    match blocks.position(|(block, checksum)| crc32c(block) != *checksum) {
        Some(index) => Err(bad(index)),
        None => Ok(bytes),
    }
}

fn slice_of(task: &[u8], skip: u64, bytes: u64) -> &[u8] {
    let start = usize::try_from(skip).expect("inside one transfer");
    &task[start..start + usize::try_from(bytes).expect("one transfer")]
}

/// Where a rope first differs from `wanted`, as a fault at `base` bytes into the range.
pub(super) fn differ_at(rope: &Rope, wanted: &[u8], base: u64) -> Result<(), Fault> {
    let mut at = 0;
    let mut difference = None;
    rope.for_each_slice(|slice| {
        if difference.is_none() {
            difference = first_difference(slice, &wanted[at..at + slice.len()]).map(|d| at + d);
        }
        at += slice.len();
    });
    difference.map_or(Ok(()), |at| Err(Fault::Miscompare(base + at as u64)))
}

fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    if left == right {
        return None;
    }
    left.iter().zip(right).position(|(l, r)| l != r)
}
