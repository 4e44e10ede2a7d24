//! Lookup and change of single entries; runs of mapped and unmapped chunks.

use super::entry::Entry;
use super::nodes::{Body, LEVEL_MAX, NodeId, child_index, cover, entry_index};
use super::{Map, VolumeSlot};
use crate::block::ChunkIndex;
use crate::lsn::FrameSeq;

/// Nodes from the root to a leaf.
struct Path {
    ids: [Option<NodeId>; LEVEL_MAX as usize + 1],
}

impl Map {
    /// What the base has at `index` of `volume`; [`Entry::EMPTY`] where there is nothing. Hot path.
    pub fn get(&self, volume: VolumeSlot, index: ChunkIndex) -> &Entry {
        let Some(root) = self.at(volume).root else {
            return &Entry::EMPTY;
        };
        let mut node = self.nodes.at(root);
        if index.0 >= cover(node.level) {
            return &Entry::EMPTY;
        }
        loop {
            match &node.body {
                Body::Leaf(entries) => return &entries[entry_index(index.0)],
                Body::Interior(children) => match children[child_index(node.level, index.0)] {
                    Some(child) => node = self.nodes.at(child),
                    None => return &Entry::EMPTY,
                },
                Body::Lost => return &Entry::LOST,
            }
        }
    }

    /// True if `index` of `volume` has a chunk that no other entry of any volume reaches, so that committed
    /// blocks may be written to it in place. Hot path.
    pub fn is_exclusive(&self, volume: VolumeSlot, index: ChunkIndex) -> bool {
        let Some(root) = self.at(volume).root else {
            return false;
        };
        let mut node = self.nodes.at(root);
        if index.0 >= cover(node.level) {
            return false;
        }
        while node.parents == 1 {
            match &node.body {
                Body::Leaf(entries) => {
                    let chunk = entries[entry_index(index.0)].chunk();
                    return chunk.is_some_and(|chunk| self.chunks.count(chunk) == 1);
                }
                Body::Interior(children) => match children[child_index(node.level, index.0)] {
                    Some(child) => node = self.nodes.at(child),
                    None => return false,
                },
                Body::Lost => return false,
            }
        }
        false
    }

    /// Sets `index` of `volume` to `entry`, whose chunk is the one already there, or a held one.
    ///
    /// Nodes shared with other volumes are copied first. A chunk that no entry reaches any more becomes
    /// pending, tagged `frame`: the first frame whose checkpoint covers this change. Making an empty entry
    /// empty changes nothing, not its LSN either. Needs at most the pages of [`Map::reserve_path`].
    pub fn put(&mut self, volume: VolumeSlot, index: ChunkIndex, entry: Entry, frame: FrameSeq) {
        self.assert_changeable();
        self.assert_frame(frame);
        let old = *self.get(volume, index);
        if old == entry || (old.is_empty() && entry.is_empty()) {
            return;
        }
        self.grow(volume, index);
        let path = self.own_path(volume, index);
        if old.chunk() != entry.chunk() {
            if let Some(chunk) = entry.chunk() {
                self.chunks.increment(chunk);
            }
            if let Some(chunk) = old.chunk() {
                self.chunks.decrement(chunk, frame);
            }
        }
        let leaf = self.nodes.at_mut(path.leaf());
        let Body::Leaf(entries) = &mut leaf.body else {
            unreachable!("a path ends in a leaf");
        };
        entries[entry_index(index.0)] = entry;
        leaf.live = leaf.live + u32::from(!entry.is_empty()) - u32::from(!old.is_empty());
        for id in path.up_from_leaf() {
            let node = self.nodes.at_mut(id);
            let stored = u64::from(entry.chunk().is_some());
            node.mapped = node.mapped + stored - u64::from(old.chunk().is_some());
        }
        if self.nodes.at(path.leaf()).live == 0 {
            self.prune(volume, index, &path);
        }
    }

    /// The first chunk at or behind `from` and before `end` that has a chunk or a bad block.
    pub fn next_mapped(
        &self,
        volume: VolumeSlot,
        from: ChunkIndex,
        end: ChunkIndex,
    ) -> Option<ChunkIndex> {
        let root = self.at(volume).root?;
        self.seek_mapped(root, from.0, end.0).map(ChunkIndex)
    }

    /// The first chunk at or behind `from` and before `end` that reads as zeros altogether.
    pub fn next_unmapped(
        &self,
        volume: VolumeSlot,
        from: ChunkIndex,
        end: ChunkIndex,
    ) -> Option<ChunkIndex> {
        if from >= end {
            return None;
        }
        let Some(root) = self.at(volume).root else {
            return Some(from);
        };
        let covered = cover(self.nodes.at(root).level);
        self.seek_unmapped(root, from.0, end.0)
            .or_else(|| (covered < end.0).then(|| covered.max(from.0)))
            .map(ChunkIndex)
    }

    fn seek_mapped(&self, id: NodeId, from: u64, end: u64) -> Option<u64> {
        let node = self.nodes.at(id);
        let from = from.max(node.first);
        let end = end.min(node.first + cover(node.level));
        if from >= end {
            return None;
        }
        match &node.body {
            Body::Leaf(entries) => (from..end).find(|at| !entries[entry_index(*at)].is_empty()),
            Body::Interior(children) => (child_index(node.level, from)
                ..=child_index(node.level, end - 1))
                .filter_map(|at| children[at])
                .find_map(|child| self.seek_mapped(child, from, end)),
            Body::Lost => Some(from),
        }
    }

    fn seek_unmapped(&self, id: NodeId, from: u64, end: u64) -> Option<u64> {
        let node = self.nodes.at(id);
        let from = from.max(node.first);
        let end = end.min(node.first + cover(node.level));
        if from >= end {
            return None;
        }
        match &node.body {
            Body::Leaf(entries) => (from..end).find(|at| entries[entry_index(*at)].is_empty()),
            Body::Interior(children) => {
                let step = cover(node.level - 1);
                (child_index(node.level, from)..=child_index(node.level, end - 1)).find_map(|at| {
                    match children[at] {
                        Some(child) => self.seek_unmapped(child, from, end),
                        None => Some(from.max(node.first + at as u64 * step)),
                    }
                })
            }
            Body::Lost => None,
        }
    }

    /// Makes the tree of `volume` high enough for `index`; an empty one no higher than that.
    fn grow(&mut self, volume: VolumeSlot, index: ChunkIndex) {
        assert!(index.0 < cover(LEVEL_MAX));
        let mut root = match self.at(volume).root {
            Some(root) => root,
            None => {
                let mut level = 0;
                while cover(level) <= index.0 {
                    level += 1;
                }
                self.nodes.create(level, 0)
            }
        };
        while cover(self.nodes.at(root).level) <= index.0 {
            let below = self.nodes.at(root);
            let (level, mapped) = (below.level, below.mapped);
            let above = self.nodes.create(level + 1, 0);
            self.nodes.children_mut(above)[0] = Some(root);
            let node = self.nodes.at_mut(above);
            node.live = 1;
            node.mapped = mapped;
            root = above;
        }
        self.at_mut(volume).root = Some(root);
    }

    /// Makes every node on the way to `index` exclusive and dirty; creates the missing ones.
    fn own_path(&mut self, volume: VolumeSlot, index: ChunkIndex) -> Path {
        let mut path = Path {
            ids: [None; LEVEL_MAX as usize + 1],
        };
        let root = self.at(volume).root.expect("the tree was grown");
        let mut id = self.own(root);
        self.at_mut(volume).root = Some(id);
        loop {
            let level = self.nodes.at(id).level;
            path.ids[usize::from(level)] = Some(id);
            if level == 0 {
                return path;
            }
            let at = child_index(level, index.0);
            let child = match self.nodes.children_mut(id)[at] {
                Some(child) => self.own(child),
                None => {
                    self.nodes.at_mut(id).live += 1;
                    let below = cover(level - 1);
                    self.nodes.create(level - 1, index.0 / below * below)
                }
            };
            self.nodes.children_mut(id)[at] = Some(child);
            id = child;
        }
    }

    /// The node itself if it has one parent, else a copy that has; dirty, and with a body.
    fn own(&mut self, id: NodeId) -> NodeId {
        let id = if self.nodes.at(id).parents == 1 {
            id
        } else {
            let copy = self.nodes.copy(id);
            self.count_below(copy);
            copy
        };
        if matches!(self.nodes.at(id).body, Body::Lost) {
            self.materialise(id);
        }
        self.nodes.dirty(id);
        id
    }

    /// One more parent for everything directly below a copied node.
    fn count_below(&mut self, id: NodeId) {
        let children = match &self.nodes.at(id).body {
            Body::Leaf(entries) => {
                for chunk in entries.iter().filter_map(Entry::chunk) {
                    self.chunks.increment(chunk);
                }
                return;
            }
            Body::Interior(children) => children.clone(),
            Body::Lost => return,
        };
        for child in children.iter().flatten() {
            self.nodes.at_mut(*child).parents += 1;
        }
    }

    /// Splits a lost node into lost entries or lost children, so that a part of it can be overwritten.
    fn materialise(&mut self, id: NodeId) {
        let node = self.nodes.at(id);
        let (level, first) = (node.level, node.first);
        let mut body = Body::empty(level);
        let live = match &mut body {
            Body::Leaf(entries) => {
                entries.fill(Entry::LOST);
                entries.len()
            }
            Body::Interior(children) => {
                let step = cover(level - 1);
                for (at, child) in (0u64..).zip(children.iter_mut()) {
                    *child = Some(self.nodes.create_lost(level - 1, first + at * step));
                }
                children.len()
            }
            Body::Lost => unreachable!("an empty body is not lost"),
        };
        let live = u32::try_from(live).expect("a small constant");
        self.nodes.materialise(id, body, live);
    }

    /// Drops the leaf of `path`, which is empty, and every node that thereby becomes empty; lowers the root.
    fn prune(&mut self, volume: VolumeSlot, index: ChunkIndex, path: &Path) {
        for id in path.up_from_leaf() {
            if self.nodes.at(id).live > 0 {
                break;
            }
            let level = self.nodes.at(id).level;
            self.nodes.remove(id);
            match path.ids.get(usize::from(level) + 1).copied().flatten() {
                Some(parent) => {
                    self.nodes.children_mut(parent)[child_index(level + 1, index.0)] = None;
                    self.nodes.at_mut(parent).live -= 1;
                }
                None => self.at_mut(volume).root = None,
            }
        }
        self.lower(volume);
    }

    /// Drops roots that have only their first child.
    fn lower(&mut self, volume: VolumeSlot) {
        while let Some(root) = self.at(volume).root {
            let node = self.nodes.at(root);
            let Body::Interior(children) = &node.body else {
                return;
            };
            let Some(child) = children[0] else {
                return;
            };
            if node.live > 1 {
                return;
            }
            self.nodes.remove(root); // The child's parent is now the volume.
            self.at_mut(volume).root = Some(child);
        }
    }
}

impl Path {
    fn leaf(&self) -> NodeId {
        self.ids[0].expect("a path has a leaf")
    }

    fn up_from_leaf(&self) -> impl Iterator<Item = NodeId> {
        self.ids.into_iter().flatten()
    }
}
