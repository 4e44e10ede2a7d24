//! The nodes of all volumes' trees in one arena, shared between trees and counted by their parents.
//!
//! A node covers a fixed range of chunks: a leaf 50, an interior node 500 times as many as its children.
//! A node with one parent is changed in place; one with several is copied first. Invariant: all parents of
//! a dirty node are dirty, because the way down to a change makes every node on it exclusive and dirty.

use super::body::{CHILDREN, LEAF_ENTRIES};
use super::entry::Entry;
use super::page::{PageRef, PageSlot};
use crate::limits::{CHUNK_BYTES, VOLUME_BYTES_MAX};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// Level of the root of the largest volume's tree at most. Leaves are level 0.
pub(super) const LEVEL_MAX: u8 = 3;

/// Chunks below a node, by its level.
const COVER: [u64; LEVEL_MAX as usize + 1] = {
    let mut cover = [LEAF_ENTRIES as u64; LEVEL_MAX as usize + 1];
    let mut level = 1;
    while level < cover.len() {
        cover[level] = cover[level - 1] * CHILDREN as u64;
        level += 1;
    }
    cover
};

/// A node's place in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(NonZeroU32);

/// What a node holds.
#[derive(Debug)]
pub(super) enum Body {
    Leaf(Box<[Entry; LEAF_ENTRIES]>),
    Interior(Box<[Option<NodeId>; CHILDREN]>),
    /// Its page was damaged: all chunks below read as lost.
    Lost,
}

/// A node of the trees.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) body: Body,
    /// Chunk of the volume where it begins.
    pub(super) first: u64,
    /// Chunks stored below it, those below lost nodes not counted.
    pub(super) mapped: u64,
    /// Parents: nodes and volumes. 0 only while its place is vacant.
    pub(super) parents: u32,
    /// Children, or entries that are not empty.
    pub(super) live: u32,
    /// The page that holds it as it is; none while it is dirty.
    pub(super) page: PageRef,
    pub(super) level: u8,
    pub(super) dirty: bool,
}

/// The arena.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
    vacant: Vec<NodeId>,
    /// Nodes that became dirty; some may be vacant or listed twice.
    dirty: Vec<NodeId>,
    /// Nodes that have a page or will get one: all but lost ones without a slot.
    pages: u32,
    /// Slots of pages that no node is in any more.
    retired: Vec<PageSlot>,
    /// Nodes looked at or changed, so that tests can bound the cost of an operation.
    #[cfg(test)]
    pub(super) touched: core::cell::Cell<u64>,
}

/// Chunks below a node of `level`.
pub(super) fn cover(level: u8) -> u64 {
    COVER[usize::from(level)]
}

/// Which child of a node of `level` (above 0) chunk `index` is below.
pub(super) fn child_index(level: u8, index: u64) -> usize {
    let child = index / cover(level - 1) % CHILDREN as u64;
    usize::try_from(child).expect("below CHILDREN")
}

/// Which entry of its leaf chunk `index` is.
pub(super) fn entry_index(index: u64) -> usize {
    usize::try_from(index % LEAF_ENTRIES as u64).expect("below LEAF_ENTRIES")
}

impl NodeId {
    fn from_index(index: usize) -> NodeId {
        let number = u32::try_from(index + 1).expect("pages are numbered with u32");
        NodeId(NonZeroU32::new(number).expect("one more than an index"))
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl Body {
    /// A body without anything in it.
    pub(super) fn empty(level: u8) -> Body {
        if level == 0 {
            Body::Leaf(Box::new([Entry::EMPTY; LEAF_ENTRIES]))
        } else {
            Body::Interior(Box::new([None; CHILDREN]))
        }
    }
}

impl Nodes {
    pub(super) fn at(&self, id: NodeId) -> &Node {
        self.touch();
        let node = &self.nodes[id.index()];
        debug_assert!(node.parents > 0);
        node
    }

    pub(super) fn at_mut(&mut self, id: NodeId) -> &mut Node {
        self.touch();
        let node = &mut self.nodes[id.index()];
        debug_assert!(node.parents > 0);
        node
    }

    /// The children of an interior node.
    pub(super) fn children_mut(&mut self, id: NodeId) -> &mut [Option<NodeId>; CHILDREN] {
        match &mut self.at_mut(id).body {
            Body::Interior(children) => children,
            Body::Leaf(_) | Body::Lost => unreachable!("only interior nodes are descended through"),
        }
    }

    pub(super) fn pages(&self) -> u32 {
        self.pages
    }

    /// All nodes that are in use.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| node.parents > 0)
            .map(|(index, node)| (NodeId::from_index(index), node))
    }

    /// A dirty node with one parent, empty.
    pub(super) fn create(&mut self, level: u8, first: u64) -> NodeId {
        let id = self.insert(Node {
            body: Body::empty(level),
            first,
            mapped: 0,
            parents: 1,
            live: 0,
            page: PageRef::default(),
            level,
            dirty: true,
        });
        self.dirty.push(id);
        id
    }

    /// A lost node without a page and with one parent.
    pub(super) fn create_lost(&mut self, level: u8, first: u64) -> NodeId {
        self.insert(Node {
            body: Body::Lost,
            first,
            mapped: 0,
            parents: 1,
            live: 0,
            page: PageRef::default(),
            level,
            dirty: false,
        })
    }

    /// Loading: a lost node without a page is the one of `page`, whose content comes later.
    pub(super) fn set_page(&mut self, id: NodeId, page: PageRef) {
        let node = self.at_mut(id);
        assert!(matches!(node.body, Body::Lost));
        assert!(node.page == PageRef::default());
        node.page = page;
        self.pages += 1;
    }

    /// A dirty copy of `id` with one parent; `id` has one less. The counts of what is below are the caller's.
    pub(super) fn copy(&mut self, id: NodeId) -> NodeId {
        let node = self.at_mut(id);
        assert!(node.parents > 1); // A node with one parent is changed in place.
        node.parents -= 1;
        let body = match &node.body {
            Body::Leaf(entries) => Body::Leaf(entries.clone()),
            Body::Interior(children) => Body::Interior(children.clone()),
            Body::Lost => Body::Lost,
        };
        let copy = Node {
            body,
            first: node.first,
            mapped: node.mapped,
            parents: 1,
            live: node.live,
            page: PageRef::default(),
            level: node.level,
            dirty: false,
        };
        self.insert(copy)
    }

    /// Marks an exclusive node dirty: its page is stale.
    pub(super) fn dirty(&mut self, id: NodeId) {
        let node = self.at_mut(id);
        assert!(node.parents == 1);
        if node.dirty {
            return;
        }
        node.dirty = true;
        let old = core::mem::take(&mut node.page);
        self.retired.extend(old.slot());
        self.dirty.push(id);
    }

    /// Gives a lost node without a slot a body, so that it needs a page from now on.
    pub(super) fn materialise(&mut self, id: NodeId, body: Body, live: u32) {
        let node = self.at_mut(id);
        assert!(matches!(node.body, Body::Lost));
        let had_page = node.page.slot().is_some();
        node.body = body;
        node.live = live;
        self.pages += u32::from(!had_page);
    }

    /// Drops a node that lost its last parent. What is below it is the caller's.
    pub(super) fn remove(&mut self, id: NodeId) -> Body {
        let node = self.at_mut(id);
        assert!(node.parents == 1);
        let is_page = !matches!(node.body, Body::Lost) || node.page.slot().is_some();
        node.parents = 0;
        node.dirty = false;
        let old = core::mem::take(&mut node.page);
        let body = core::mem::replace(&mut node.body, Body::Lost);
        self.retired.extend(old.slot());
        self.pages -= u32::from(is_page);
        self.vacant.push(id);
        body
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.retired.is_empty()
    }

    /// Nodes to write, children before parents.
    pub(super) fn take_dirty(&mut self) -> Vec<NodeId> {
        let mut ids = core::mem::take(&mut self.dirty);
        ids.retain(|id| self.nodes[id.index()].dirty);
        ids.sort_unstable_by_key(|id| {
            let node = &self.nodes[id.index()];
            (node.level, node.first, *id)
        });
        ids.dedup();
        ids
    }

    /// Slots whose pages no node is in since the last call.
    pub(super) fn take_retired(&mut self) -> Vec<PageSlot> {
        core::mem::take(&mut self.retired)
    }

    /// Slots that the next [`Nodes::take_retired`] gives.
    pub(super) fn retired(&self) -> &[PageSlot] {
        &self.retired
    }

    fn insert(&mut self, node: Node) -> NodeId {
        self.touch();
        let is_page = !matches!(node.body, Body::Lost) || node.page.slot().is_some();
        self.pages += u32::from(is_page);
        if let Some(id) = self.vacant.pop() {
            self.nodes[id.index()] = node;
            return id;
        }
        self.nodes.push(node);
        NodeId::from_index(self.nodes.len() - 1)
    }

    #[cfg(test)]
    fn touch(&self) {
        self.touched.set(self.touched.get() + 1);
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "counts in tests")]
    fn touch(&self) {}
}

const _: () = assert!(cover_const(LEVEL_MAX) >= VOLUME_BYTES_MAX / CHUNK_BYTES as u64);
const _: () = assert!(cover_const(LEVEL_MAX - 1) < VOLUME_BYTES_MAX / CHUNK_BYTES as u64);

const fn cover_const(level: u8) -> u64 {
    COVER[level as usize]
}
