//! Writing: whole blocks go to the store as they are; anything less is made whole first.

use super::read::differ_at;
use super::{Fault, Volume, covering, is_whole, pieces};
use crate::disk::Disk;
use crate::runtime::buffer::Buffer;
use crate::runtime::task::yield_if_needed;
use crate::store::payload::Payload;
use holdfast_core::block::{Block, BlockRange};
use holdfast_core::limits::BLOCK_BYTES;
use holdfast_iscsi::request::ByteRange;
use std::rc::Rc;

impl<D: Disk> Volume<D> {
    /// Stores the task buffer at a range. Hot path when the range is whole blocks.
    pub(super) async fn write(&self, range: ByteRange, task: Rc<Buffer>) -> Result<(), Fault> {
        let blocks = covering(range);
        if is_whole(range) {
            let _held = self.locks.replace(blocks).await?;
            let bytes = blocks.count as usize * BLOCK_BYTES;
            let payload = Payload::new(task, 0, bytes);
            let written = self.store.write(self.reference(), blocks, payload);
            return Ok(written.receive().await?);
        }
        let _held = self.locks.exclusive(blocks).await?;
        let source = |skip: usize, target: &mut [u8]| {
            target.copy_from_slice(&task[skip..skip + target.len()]);
        };
        self.change(range, source).await
    }

    /// Stores one logical block all over a range.
    pub(super) async fn write_same(&self, range: ByteRange, pattern: &[u8]) -> Result<(), Fault> {
        if pattern.iter().all(|&byte| byte == 0) {
            return self.zero(range).await;
        }
        let _held = self.locks.exclusive(covering(range)).await?;
        let source = |skip: usize, target: &mut [u8]| {
            for (index, byte) in target.iter_mut().enumerate() {
                *byte = pattern[(skip + index) % pattern.len()];
            }
        };
        self.change(range, source).await
    }

    /// Makes a range read as zeros; the space of its whole blocks is returned.
    pub(super) async fn zero(&self, range: ByteRange) -> Result<(), Fault> {
        if range.bytes == 0 {
            return Ok(());
        }
        let block = BLOCK_BYTES as u64;
        let end = range.offset + range.bytes;
        let whole_start = range.offset.next_multiple_of(block);
        let whole_end = end / block * block;
        if is_whole(range) {
            let _held = self.locks.replace(covering(range)).await?;
            return self.unmap(whole_start, whole_end).await;
        }
        let _held = self.locks.exclusive(covering(range)).await?;
        let zeros = |_: usize, target: &mut [u8]| target.fill(0);
        if whole_start >= whole_end {
            return self.change(range, zeros).await;
        }
        for (offset, edge_end) in [(range.offset, whole_start), (whole_end, end)] {
            if offset < edge_end {
                let bytes = edge_end - offset;
                self.change(ByteRange { offset, bytes }, zeros).await?;
            }
        }
        self.unmap(whole_start, whole_end).await
    }

    async fn unmap(&self, start: u64, end: u64) -> Result<(), Fault> {
        let blocks = covering(ByteRange {
            offset: start,
            bytes: end - start,
        });
        let unmapped = self.store.unmap(self.reference(), blocks);
        Ok(unmapped.receive().await?)
    }

    /// When the range equals the first half of the task buffer, stores the second half.
    pub(super) async fn compare_and_write(
        &self,
        range: ByteRange,
        task: &Rc<Buffer>,
    ) -> Result<(), Fault> {
        let half = usize::try_from(range.bytes).expect("one transfer");
        assert!(task.len() >= 2 * half);
        let _held = self.locks.exclusive(covering(range)).await?;
        differ_at(&self.read(range).await?, &task[..half], 0)?;
        let source = |skip: usize, target: &mut [u8]| {
            target.copy_from_slice(&task[half + skip..half + skip + target.len()]);
        };
        self.change(range, source).await
    }

    /// Stores the bitwise OR of a range and the task buffer.
    pub(super) async fn or_write(&self, range: ByteRange, task: &Rc<Buffer>) -> Result<(), Fault> {
        let _held = self.locks.exclusive(covering(range)).await?;
        let stored = self.read(range).await?;
        let mut merged = vec![0; stored.len()];
        stored.copy_to(&mut merged);
        for (byte, given) in merged.iter_mut().zip(task.iter()) {
            *byte |= given;
        }
        let source = |skip: usize, target: &mut [u8]| {
            target.copy_from_slice(&merged[skip..skip + target.len()]);
        };
        self.change(range, source).await
    }

    /// Replaces the bytes of a range by what `source(skip, target)` gives. The caller holds the
    /// covering blocks exclusively.
    async fn change(
        &self,
        range: ByteRange,
        source: impl Fn(usize, &mut [u8]),
    ) -> Result<(), Fault> {
        let reign = self.gate.slot();
        for piece in pieces(range) {
            let blocks = covering(piece);
            let total = blocks.count as usize * BLOCK_BYTES;
            let mut buffer = Buffer::zeroed(total);
            let start = usize::try_from(piece.offset % BLOCK_BYTES as u64).expect("below a block");
            let bytes = usize::try_from(piece.bytes).expect("one piece");
            if start > 0 {
                self.read_block(blocks.first, &mut buffer.bytes_mut()[..BLOCK_BYTES])
                    .await?;
            }
            let last = total - BLOCK_BYTES;
            if start + bytes < total && (last > 0 || start == 0) {
                let block = blocks.first.plus(u64::from(blocks.count) - 1);
                self.read_block(block, &mut buffer.bytes_mut()[last..])
                    .await?;
            }
            let skip = usize::try_from(piece.offset - range.offset).expect("one command");
            source(skip, &mut buffer.bytes_mut()[start..start + bytes]);
            // What was read in another reign is not the ground for a write in this one.
            if self.gate.slot() != reign {
                return Err(Fault::NotServed);
            }
            let payload = Payload::new(Rc::new(buffer), 0, total);
            let written = self.store.write(self.reference(), blocks, payload);
            written.receive().await?;
            yield_if_needed().await;
        }
        Ok(())
    }

    async fn read_block(&self, block: Block, target: &mut [u8]) -> Result<(), Fault> {
        let range = ByteRange {
            offset: block.0 * BLOCK_BYTES as u64,
            bytes: BLOCK_BYTES as u64,
        };
        debug_assert_eq!(
            covering(range),
            BlockRange {
                first: block,
                count: 1
            }
        );
        self.read(range).await?.copy_to(target);
        Ok(())
    }
}
