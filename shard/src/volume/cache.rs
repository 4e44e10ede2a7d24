//! The read cache of a shard: whole blocks of committed data, bounded in bytes, scan-resistant.
//!
//! Hot path. A block is in the cache only with its newest committed bytes. Writers put or drop blocks
//! in the very step in which their write becomes visible ([`Cache::publish`], [`Cache::forget`]);
//! a reader that went to the disk may insert only what no commit overtook ([`Cache::mark`],
//! [`Cache::fill`]): otherwise a late reader would bring back old data (I2).

use super::rope::CachedBlock;
use crate::limits::{CACHED_BYTES_MAX, COMMITS_REMEMBERED};
use holdfast_core::block::{Block, BlockRange};
use holdfast_core::limits::BLOCK_BYTES;
use quick_cache::Weighter;
use quick_cache::unsync;
use std::collections::VecDeque;
use std::rc::Rc;

/// Memory that one cached block costs: its bytes and the book-keeping.
const BLOCK_COST: u64 = BLOCK_BYTES as u64 + 128;

/// Index of a volume in its shard; not reused while the shard lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VolumeSlot(pub(crate) u32);

/// A moment in the order of commits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(u64);

#[derive(Clone, Debug)]
struct Cost;

impl Weighter<(VolumeSlot, u64), CachedBlock> for Cost {
    fn weight(&self, _: &(VolumeSlot, u64), _: &CachedBlock) -> u64 {
        BLOCK_COST
    }
}

/// The cache.
pub(crate) struct Cache {
    blocks: unsync::Cache<(VolumeSlot, u64), CachedBlock, Cost>,
    /// Ranges that changed lately, oldest first.
    commits: VecDeque<(VolumeSlot, BlockRange)>,
    /// How many ranges have changed in all.
    commit_count: u64,
    slots_used: u32,
}

impl Cache {
    /// A cache of at most `bytes_max` bytes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        let blocks_max = usize::try_from(bytes_max / BLOCK_COST).unwrap_or(usize::MAX);
        Cache {
            blocks: unsync::Cache::with_weighter(blocks_max, bytes_max, Cost),
            commits: VecDeque::with_capacity(COMMITS_REMEMBERED),
            commit_count: 0,
            slots_used: 0,
        }
    }

    /// A name for a volume, or for one reign of it. Never given again.
    pub(crate) fn fresh_slot(&mut self) -> VolumeSlot {
        self.slots_used += 1;
        VolumeSlot(self.slots_used)
    }

    /// A cached block.
    pub(crate) fn get(&self, volume: VolumeSlot, block: Block) -> Option<CachedBlock> {
        self.blocks.get(&(volume, block.0)).map(Rc::clone)
    }

    /// The data of `range` changed to `data` in this moment.
    pub(crate) fn publish(&mut self, volume: VolumeSlot, range: BlockRange, data: &[u8]) {
        self.remember(volume, range);
        if data.len() > CACHED_BYTES_MAX {
            self.drop_blocks(volume, range);
            return;
        }
        self.insert(volume, range.first, data);
    }

    /// The data of `range` changed in this moment, to something not worth keeping.
    pub(crate) fn forget(&mut self, volume: VolumeSlot, range: BlockRange) {
        self.remember(volume, range);
        self.drop_blocks(volume, range);
    }

    /// The present moment, to be taken before a lookup.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.commit_count)
    }

    /// Inserts what was read from the disk after a lookup at `mark`, unless it changed since.
    pub(crate) fn fill(&mut self, mark: Mark, volume: VolumeSlot, first: Block, data: &[u8]) {
        if data.len() > CACHED_BYTES_MAX {
            return;
        }
        let missed = self.commit_count - mark.0;
        let Some(recent) = usize::try_from(missed)
            .ok()
            .filter(|&missed| missed <= self.commits.len())
        else {
            return;
        };
        let end = first.plus((data.len() / BLOCK_BYTES) as u64);
        let overtaken = self
            .commits
            .iter()
            .rev()
            .take(recent)
            .any(|(other, range)| *other == volume && range.first < end && first < range.end());
        if !overtaken {
            self.insert(volume, first, data);
        }
    }

    fn insert(&mut self, volume: VolumeSlot, first: Block, data: &[u8]) {
        // The copy: 4 KiB, about 0.15 µs, so that no large buffer is pinned by one of its blocks.
        for (block, bytes) in (first.0..).zip(data.as_chunks::<BLOCK_BYTES>().0) {
            self.blocks.insert((volume, block), Rc::new(*bytes));
        }
    }

    fn remember(&mut self, volume: VolumeSlot, range: BlockRange) {
        if self.commits.len() == COMMITS_REMEMBERED {
            self.commits.pop_front();
        }
        self.commits.push_back((volume, range));
        self.commit_count += 1;
    }

    fn drop_blocks(&mut self, volume: VolumeSlot, range: BlockRange) {
        // A whole-volume unmap is cheaper by looking at what is cached than at every block number.
        if range.count as usize > self.blocks.len() {
            let (first, end) = (range.first.0, range.end().0);
            self.blocks
                .retain(|&(other, block), _| other != volume || block < first || block >= end);
            return;
        }
        for block in range.first.0..range.end().0 {
            self.blocks.remove(&(volume, block));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cache, VolumeSlot};
    use holdfast_core::block::{Block, BlockRange};

    const VOLUME: VolumeSlot = VolumeSlot(1);

    fn range(first: u64, count: u32) -> BlockRange {
        BlockRange {
            first: Block(first),
            count,
        }
    }

    #[test]
    fn a_reader_overtaken_by_a_commit_does_not_fill() {
        let mut cache = Cache::new(1 << 20);
        let mark = cache.mark();
        cache.forget(VOLUME, range(10, 2));
        cache.fill(mark, VOLUME, Block(11), &[1; 4096]);
        assert!(cache.get(VOLUME, Block(11)).is_none());
        cache.fill(mark, VOLUME, Block(12), &[1; 4096]);
        assert_eq!(cache.get(VOLUME, Block(12)).expect("filled")[0], 1);
        cache.fill(mark, VolumeSlot(2), Block(11), &[2; 4096]);
        assert_eq!(cache.get(VolumeSlot(2), Block(11)).expect("filled")[0], 2);
    }

    #[test]
    fn a_reader_older_than_the_memory_of_commits_does_not_fill() {
        let mut cache = Cache::new(1 << 20);
        let mark = cache.mark();
        for block in 0..=super::COMMITS_REMEMBERED as u64 {
            cache.forget(VOLUME, range(1000 + block, 1));
        }
        cache.fill(mark, VOLUME, Block(0), &[1; 4096]);
        assert!(cache.get(VOLUME, Block(0)).is_none());
    }

    #[test]
    fn publish_replaces_and_forget_drops() {
        let mut cache = Cache::new(1 << 20);
        cache.publish(VOLUME, range(0, 2), &[3; 8192]);
        cache.publish(VOLUME, range(1, 1), &[4; 4096]);
        assert_eq!(cache.get(VOLUME, Block(0)).expect("cached")[9], 3);
        assert_eq!(cache.get(VOLUME, Block(1)).expect("cached")[9], 4);
        cache.forget(VOLUME, range(0, u32::MAX));
        assert!(cache.get(VOLUME, Block(0)).is_none());
        assert!(cache.get(VOLUME, Block(1)).is_none());
    }

    #[test]
    fn the_cache_stays_within_its_bytes() {
        let mut cache = Cache::new(1 << 20);
        for block in 0..10_000 {
            cache.publish(VOLUME, range(block, 1), &[5; 4096]);
        }
        assert!(cache.blocks.weight() <= 1 << 20);
        assert!(cache.blocks.len() > 100);
    }
}
