//! Which of a fixed number of places are free. Finds the next one after the last in constant time.
//!
//! A bitmap with two summaries above it (64 and 4096 places per bit), so that a nearly full store does
//! not scan: 2^24 chunks need at most three words and a sweep of 4096 bits. Hot path: no allocation.

use alloc::vec;
use alloc::vec::Vec;

/// A set of free places `0..total`.
#[derive(Clone, Debug)]
pub(super) struct FreeSet {
    /// Bit set: free. Level 0 has a bit per place, level n+1 a bit per word of level n that is not 0.
    levels: [Vec<u64>; 3],
    total: u32,
    free: u32,
    /// Where the next search begins, so that places are handed out in ascending order.
    cursor: u32,
}

impl FreeSet {
    /// All of `total` places are free.
    pub(super) fn all_free(total: u32) -> FreeSet {
        let mut levels = [const { Vec::new() }; 3];
        let mut bits = total as usize;
        for level in &mut levels {
            let words = bits.div_ceil(64);
            *level = vec![u64::MAX; words];
            if !bits.is_multiple_of(64) {
                level[words - 1] = (1 << (bits % 64)) - 1;
            }
            bits = words;
        }
        FreeSet {
            levels,
            total,
            free: total,
            cursor: 0,
        }
    }

    pub(super) fn total(&self) -> u32 {
        self.total
    }

    pub(super) fn free(&self) -> u32 {
        self.free
    }

    pub(super) fn is_free(&self, place: u32) -> bool {
        assert!(place < self.total);
        self.levels[0][place as usize / 64] & (1 << (place % 64)) != 0
    }

    /// Takes the next free place, `None` when there is none.
    pub(super) fn take_next(&mut self) -> Option<u32> {
        let place = self.next_from(self.cursor).or_else(|| self.next_from(0))?;
        self.take(place);
        self.cursor = place + 1;
        Some(place)
    }

    /// Takes a free place half the set away from where [`FreeSet::take_next`] is, `None` when there is none.
    pub(super) fn take_apart(&mut self) -> Option<u32> {
        let half = self.total / 2;
        let from = if self.cursor < half {
            self.cursor + half
        } else {
            self.cursor - half
        };
        let place = self.next_from(from).or_else(|| self.next_from(0))?;
        self.take(place);
        Some(place)
    }

    /// Takes `place`, which is free.
    pub(super) fn take(&mut self, place: u32) {
        assert!(self.is_free(place));
        let mut bit = place as usize;
        for level in &mut self.levels {
            level[bit / 64] &= !(1 << (bit % 64));
            if level[bit / 64] != 0 {
                break;
            }
            bit /= 64;
        }
        self.free -= 1;
    }

    /// Gives `place` back, which is taken.
    pub(super) fn give(&mut self, place: u32) {
        assert!(!self.is_free(place));
        let mut bit = place as usize;
        for level in &mut self.levels {
            level[bit / 64] |= 1 << (bit % 64);
            bit /= 64;
        }
        self.free += 1;
    }

    /// The first free place at or behind `from`.
    fn next_from(&self, from: u32) -> Option<u32> {
        let mut bit = from as usize;
        for (height, level) in self.levels.iter().enumerate() {
            let top = height == self.levels.len() - 1;
            let last = if top {
                level.len()
            } else {
                (bit / 64 + 1).min(level.len())
            };
            if let Some(found) = first_set(level, bit, last) {
                return Some(self.descend(height, found));
            }
            bit = bit / 64 + 1;
        }
        None
    }

    /// The first free place below bit `bit` of level `height`.
    fn descend(&self, height: usize, mut bit: usize) -> u32 {
        for level in self.levels[..height].iter().rev() {
            let word = level[bit];
            assert!(word != 0); // The summary says so.
            bit = bit * 64 + word.trailing_zeros() as usize;
        }
        u32::try_from(bit).expect("places are numbered with u32")
    }
}

/// First set bit at or behind `bit` in the words before `last`.
fn first_set(words: &[u64], bit: usize, last: usize) -> Option<usize> {
    let mut at = bit / 64;
    let mut mask = u64::MAX << (bit % 64);
    while at < last {
        let word = words[at] & mask;
        if word != 0 {
            return Some(at * 64 + word.trailing_zeros() as usize);
        }
        mask = u64::MAX;
        at += 1;
    }
    None
}
