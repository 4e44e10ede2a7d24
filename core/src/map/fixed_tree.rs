//! Shape of a persisted array: pages of equal room under interior pages, none for parts that are all zero.
//!
//! The reference tree and the volume table are such arrays. This holds only the references and what is
//! dirty; the values live with their owner. The height follows from the length and never changes.

use super::body::CHILDREN;
use super::page::PageRef;
use alloc::vec;
use alloc::vec::Vec;

/// A page of the array: level and index in the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) level: u8,
    pub(super) index: u32,
}

/// References to the pages of a persisted array.
#[derive(Clone, Debug)]
pub(super) struct FixedTree {
    /// `levels[0]` refers to the leaf pages, the last one has the root.
    levels: Vec<Vec<PageRef>>,
    /// Per leaf page: it is in `dirty`.
    marked: Vec<bool>,
    dirty: Vec<u32>,
}

impl FixedTree {
    /// An array of `leaves` pages (at least one), all zero.
    pub(super) fn of_leaves(leaves: u32) -> FixedTree {
        assert!(leaves > 0);
        let mut levels = Vec::new();
        let mut pages = leaves as usize;
        levels.push(vec![PageRef::default(); pages]);
        while pages > 1 {
            pages = pages.div_ceil(CHILDREN);
            levels.push(vec![PageRef::default(); pages]);
        }
        FixedTree {
            levels,
            marked: vec![false; leaves as usize],
            dirty: Vec::new(),
        }
    }

    /// Pages when no part is zero.
    pub(super) fn pages_max(&self) -> u32 {
        let pages: usize = self.levels.iter().map(Vec::len).sum();
        u32::try_from(pages).expect("a tree has fewer pages than the array has places")
    }

    /// Leaf pages.
    pub(super) fn leaves(&self) -> usize {
        self.levels[0].len()
    }

    pub(super) fn root_place(&self) -> Place {
        let level = u8::try_from(self.levels.len() - 1).expect("a tree of u32 places is low");
        Place { level, index: 0 }
    }

    pub(super) fn root(&self) -> PageRef {
        self.reference(self.root_place())
    }

    pub(super) fn reference(&self, place: Place) -> PageRef {
        self.levels[usize::from(place.level)][place.index as usize]
    }

    pub(super) fn set_reference(&mut self, place: Place, reference: PageRef) {
        self.levels[usize::from(place.level)][place.index as usize] = reference;
    }

    /// References that the interior page at `place` holds.
    pub(super) fn children(&self, place: Place) -> &[PageRef] {
        let below = &self.levels[usize::from(place.level) - 1];
        let first = place.index as usize * CHILDREN;
        &below[first..below.len().min(first + CHILDREN)]
    }

    /// Place of child `index` of the interior page at `place`.
    pub(super) fn child_place(place: Place, index: usize) -> Place {
        let index = place.index as usize * CHILDREN + index;
        Place {
            level: place.level - 1,
            index: u32::try_from(index).expect("children exist"),
        }
    }

    /// All references to pages.
    pub(super) fn references(&self) -> impl Iterator<Item = PageRef> + '_ {
        self.levels.iter().flatten().copied()
    }

    /// The values of leaf page `leaf` changed.
    pub(super) fn mark(&mut self, leaf: u32) {
        let marked = &mut self.marked[leaf as usize];
        if !*marked {
            *marked = true;
            self.dirty.push(leaf);
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Pages to write, children before parents; nothing is dirty afterwards.
    pub(super) fn take_dirty(&mut self) -> Vec<Place> {
        let mut indexes = core::mem::take(&mut self.dirty);
        indexes.sort_unstable();
        for leaf in &indexes {
            self.marked[*leaf as usize] = false;
        }
        let mut places = Vec::with_capacity(indexes.len() + self.levels.len());
        for level in 0..=self.root_place().level {
            places.extend(indexes.iter().map(|&index| Place { level, index }));
            for index in &mut indexes {
                *index /= u32::try_from(CHILDREN).expect("a small constant");
            }
            indexes.dedup();
        }
        places
    }
}
