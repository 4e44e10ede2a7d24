//! What is wrong with a map (I10): findings of the loader over persisted pages, and the self-check of a map in memory.
//!
//! The self-check recomputes everything that is kept twice; it costs as much as the map is large and is for
//! tests and debug builds. The offline check of a store is [`super::load::Loader`] run to its end.

use super::entry::Entry;
use super::fixed_tree::FixedTree;
use super::nodes::{Body, Node, NodeId, cover};
use super::page::BODY_BYTES;
use super::page::{PageError, PageId, PageRef, PageSlot};
use super::{Map, VolumeSlot};
use crate::block::{ChunkIndex, PhysicalChunk};
use crate::id::VolumeId;
use crate::limits::CHECK_FINDINGS_MAX;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A page that is referred to is not there.
    #[error("page slot {}: {:?} page, level {}, first index {}: {error}", .id.slot.0, .id.kind, .id.level, .id.first)]
    Page {
        /// The page its parent refers to.
        id: PageId,
        /// What is wrong with what is there.
        error: PageError,
    },
    /// A page refers to a slot that the store does not have.
    #[error("page slot {} is out of range: referred to as {:?} page, level {}, first index {}", .0.slot.0, .0.kind, .0.level, .0.first)]
    SlotOutOfRange(PageId),
    /// A slot is referred to as two different pages.
    #[error("page slot {} is referred to twice, also as {:?} page, level {}, first index {}", .0.slot.0, .0.kind, .0.level, .0.first)]
    SlotTwice(PageId),
    /// An entry names a chunk that the store does not have.
    #[error("chunk index {}: physical chunk {} is out of range", .index.0, .chunk.0)]
    ChunkOutOfRange {
        /// Chunk of a volume.
        index: ChunkIndex,
        /// What its entry names.
        chunk: PhysicalChunk,
    },
    /// A chunk is allocated and reached by nothing.
    #[error("physical chunk {} leaks: counted {counted} times, referenced by nothing", .chunk.0)]
    ChunkLeaked {
        /// The chunk.
        chunk: PhysicalChunk,
        /// Its count in the reference tree.
        counted: u32,
    },
    /// A chunk is referenced more or less often than counted.
    #[error("physical chunk {} is counted {counted} times and referenced {found} times", .chunk.0)]
    CountWrong {
        /// The chunk.
        chunk: PhysicalChunk,
        /// Its count in the reference tree.
        counted: u32,
        /// Leaves that name it.
        found: u32,
    },
    /// Chunks that only a damaged map page may name. They stay allocated.
    #[error(
        "{0} chunks are referenced less often than counted: by pages that are damaged, or not at all"
    )]
    ChunksUnreached(u64),
    /// Chunks of a volume that nobody knows the place of any more.
    #[error("volume {volume}: chunks {} to {} are lost, their map page is damaged", .first.0, .end.0 - 1)]
    ChunksLost {
        /// The volume.
        volume: VolumeId,
        /// First of them.
        first: ChunkIndex,
        /// Behind the last.
        end: ChunkIndex,
    },
    /// A volume's attributes cannot be read.
    #[error("volume {0}: its attributes are lost")]
    AttributesLost(VolumeId),
    /// An id is in the volume table twice.
    #[error("volume {0} is in the volume table twice")]
    VolumeTwice(VolumeId),
    /// The copies of the volume table are whole and say different things.
    #[error("the two copies of page {0} of the volume table differ")]
    TableDiffers(u32),
    /// A volume has chunks behind its end.
    #[error("volume {volume}: chunk {} is behind its end", .index.0)]
    BehindEnd {
        /// The volume.
        volume: VolumeId,
        /// The first such chunk.
        index: ChunkIndex,
    },
    /// The map in memory contradicts itself.
    #[error("the map in memory is inconsistent: {0}")]
    Inconsistent(String),
    /// There were more findings.
    #[error("{0} more findings are not listed")]
    More(u64),
}

/// A bounded list of findings.
#[derive(Debug, Default)]
pub(super) struct Findings {
    listed: Vec<Finding>,
    more: u64,
}

impl Findings {
    pub(super) fn push(&mut self, finding: Finding) {
        if self.listed.len() < CHECK_FINDINGS_MAX {
            self.listed.push(finding);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn into_list(mut self) -> Vec<Finding> {
        if self.more > 0 {
            self.listed.push(Finding::More(self.more));
        }
        self.listed
    }

    fn inconsistent(&mut self, what: String) {
        self.push(Finding::Inconsistent(what));
    }

    fn expect<T: PartialEq + core::fmt::Debug>(&mut self, what: &str, kept: T, counted: T) {
        if kept != counted {
            self.inconsistent(format!("{what}: kept {kept:?}, counted {counted:?}"));
        }
    }
}

impl Map {
    /// Recomputes what the map keeps twice. Empty: it is consistent.
    pub fn check(&self) -> Vec<Finding> {
        let mut findings = Findings::default();
        self.check_nodes(&mut findings);
        self.check_chunks(&mut findings);
        self.check_slots(&mut findings);
        findings.into_list()
    }

    /// Ranges of chunks of a volume that read as lost because a page is damaged.
    pub(super) fn lost_ranges(&self, slot: VolumeSlot) -> Vec<(ChunkIndex, ChunkIndex)> {
        let mut ranges = Vec::new();
        let mut stack: Vec<NodeId> = self.at(slot).root.into_iter().collect();
        while let Some(id) = stack.pop() {
            let node = self.nodes.at(id);
            match &node.body {
                Body::Leaf(_) => {}
                Body::Interior(children) => stack.extend(children.iter().rev().flatten()),
                Body::Lost => {
                    let end = ChunkIndex(node.first + cover(node.level));
                    ranges.push((ChunkIndex(node.first), end));
                }
            }
        }
        ranges
    }

    fn check_nodes(&self, findings: &mut Findings) {
        let mut parents: BTreeMap<NodeId, u32> = BTreeMap::new();
        for slot in self.all_slots() {
            if let Some(root) = self.at(slot).root {
                *parents.entry(root).or_insert(0) += 1;
                findings.expect("first of a root", self.nodes.at(root).first, 0);
            }
        }
        let mut pages = 0;
        for (id, node) in self.nodes.iter() {
            let is_page = !matches!(node.body, Body::Lost) || node.page.slot().is_some();
            pages += u32::from(is_page);
            if let Body::Interior(children) = &node.body {
                let step = cover(node.level - 1);
                for (at, child) in (0u64..).zip(children.iter()) {
                    let Some(child) = *child else { continue };
                    *parents.entry(child).or_insert(0) += 1;
                    let below = self.nodes.at(child);
                    findings.expect("level of a child", below.level + 1, node.level);
                    findings.expect("first of a child", below.first, node.first + at * step);
                    if below.dirty && !node.dirty {
                        findings.inconsistent(format!("{id:?} is clean above a dirty child"));
                    }
                }
            }
            self.check_node(id, node, findings);
        }
        for (id, node) in self.nodes.iter() {
            let counted = parents.get(&id).copied().unwrap_or(0);
            findings.expect("parents of a node", node.parents, counted);
        }
        findings.expect("pages of nodes", self.nodes.pages(), pages);
    }

    fn check_node(&self, id: NodeId, node: &Node, findings: &mut Findings) {
        let (live, mapped) = match &node.body {
            Body::Leaf(entries) => (
                entries.iter().filter(|entry| !entry.is_empty()).count(),
                entries.iter().filter_map(Entry::chunk).count() as u64,
            ),
            Body::Interior(children) => (
                children.iter().flatten().count(),
                children
                    .iter()
                    .flatten()
                    .map(|child| self.nodes.at(*child).mapped)
                    .sum(),
            ),
            Body::Lost => (0, 0),
        };
        findings.expect("live of a node", node.live as usize, live);
        findings.expect("mapped of a node", node.mapped, mapped);
        let lost = matches!(node.body, Body::Lost);
        if live == 0 && !lost {
            findings.inconsistent(format!("{id:?} is empty"));
        }
        if node.dirty && node.page != PageRef::default() {
            findings.inconsistent(format!("{id:?} is dirty and has a page"));
        }
        if !node.dirty && !lost && node.page.slot().is_none() {
            findings.inconsistent(format!("{id:?} is clean and has no page"));
        }
    }

    fn check_chunks(&self, findings: &mut Findings) {
        let mut found = vec![0u32; self.geometry.chunk_count as usize];
        let mut lost = false;
        for (_, node) in self.nodes.iter() {
            lost |= matches!(node.body, Body::Lost);
            if let Body::Leaf(entries) = &node.body {
                for entry in entries.iter() {
                    lost |= *entry == Entry::LOST;
                    if let Some(chunk) = entry.chunk() {
                        found[chunk.0 as usize] += 1;
                    }
                }
            }
        }
        let pending: BTreeSet<PhysicalChunk> = self.chunks.pending_chunks().collect();
        let (mut held, mut counted, mut shared) = (0, 0, 0);
        for (chunk, found) in (0u32..).map(PhysicalChunk).zip(found) {
            let count = self.chunks.count(chunk);
            let leaked_with_page = lost && found < count;
            if count != found && !leaked_with_page {
                findings.push(Finding::CountWrong {
                    chunk,
                    counted: count,
                    found,
                });
            }
            let free = self.chunks.is_free(chunk);
            if free && (count > 0 || pending.contains(&chunk)) {
                findings.inconsistent(format!("{chunk:?} is free and in use"));
            }
            if count > 0 && pending.contains(&chunk) {
                findings.inconsistent(format!("{chunk:?} is pending and counted"));
            }
            held += u32::from(!free && count == 0 && !pending.contains(&chunk));
            counted += u32::from(count > 0);
            shared += u32::from(count > 1);
        }
        findings.expect(
            "pending chunks",
            self.chunks.pending() as usize,
            pending.len(),
        );
        findings.expect("held chunks", self.chunks.held(), held);
        findings.expect("counted chunks", self.chunks.counted(), counted);
        findings.expect("shared chunks", self.chunks.shared(), shared);
        if self.chunks.reserved() > self.chunks.free() {
            findings.inconsistent(format!("{} chunks are reserved", self.chunks.reserved()));
        }
    }

    fn check_slots(&self, findings: &mut Findings) {
        let mut slots: Vec<PageSlot> = Vec::new();
        slots.extend(self.nodes.iter().filter_map(|(_, node)| node.page.slot()));
        slots.extend(self.nodes.retired());
        slots.extend(self.slots.stale());
        slots.extend(self.chunks.tree.references().filter_map(PageRef::slot));
        let tables = self.table.iter().flat_map(FixedTree::references);
        slots.extend(tables.filter_map(PageRef::slot));
        let mut attribute_pages = 0;
        for slot in self.all_slots() {
            let volume = self.at(slot);
            slots.extend(volume.attribute_pages.iter().filter_map(|page| page.slot()));
            attribute_pages += super::attribute_pages(volume.attribute_bytes);
            debug_assert!(volume.attribute_bytes <= volume.attribute_pages.len() * BODY_BYTES);
        }
        findings.expect("attribute pages", self.attribute_pages, attribute_pages);
        let used: BTreeSet<PageSlot> = slots.iter().copied().collect();
        findings.expect("slots in use once", slots.len(), used.len());
        findings.expect("slots in use", self.slots.used() as usize, used.len());
        for slot in used {
            if self.slots.is_free(slot) {
                findings.inconsistent(format!("{slot:?} is free and in use"));
            }
        }
        if self.pages_live() > self.pages_limit() {
            findings.inconsistent(format!("{} pages are live", self.pages_live()));
        }
    }
}
