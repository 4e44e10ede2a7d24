//! Loading the persisted map, level by level, in batches; at the same time the offline check of I10.
//!
//! Pull machine: it asks for pages, the caller reads them, merges neighbours, and gives them back. Nothing is
//! written. A damaged page costs what it describes and no more: chunks below a map page read as lost; counts
//! are recomputed from the map if that is whole and are kept high otherwise, so that no chunk that an unread
//! page may name is ever given out. The volume table is there twice, and what one copy lacks is written again
//! by the next checkpoint; only where both are damaged it is refused.

use super::body::{self, ATTRIBUTE_PAGES_MAX, CHILDREN, COUNTS, TABLE_ENTRIES, TableEntry};
use super::check::{Finding, Findings};
use super::encode::{attribute_first, place_first};
use super::entry::Entry;
use super::fixed_tree::{FixedTree, Place};
use super::nodes::{Body, LEVEL_MAX, NodeId, cover};
use super::page::{BODY_BYTES, PageError, PageId, PageKind, PageRef, PageSlot, Roots, open};
use super::{Geometry, Map, TABLE_COPIES, Volume, VolumeSlot};
use crate::block::{ChunkIndex, PhysicalChunk};
use crate::checksum::crc32c;
use crate::limits::{CHUNK_BLOCKS, MAP_LOAD_PAGES_MAX};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;

/// The loading machine.
#[derive(Debug)]
pub struct Loader {
    map: Map,
    queue: VecDeque<Wanted>,
    /// What the last [`Step::Read`] asked for, in its order.
    asked: Vec<Wanted>,
    /// Nodes whose page was asked for, to meet shared ones again.
    by_slot: BTreeMap<PageSlot, NodeId>,
    /// Leaves that name each chunk.
    found: Vec<u32>,
    /// Counts of the reference tree; `None` where its page is damaged.
    counted: Vec<Option<u32>>,
    findings: Findings,
    /// What became of each leaf page of the copies of the volume table.
    table: Vec<[TableLeaf; TABLE_COPIES]>,
    refused: bool,
}

/// What the loader wants next.
#[derive(Debug)]
pub enum Step {
    /// Read these pages, at most [`MAP_LOAD_PAGES_MAX`], in ascending order, and pass them in that order.
    Read(Vec<PageSlot>),
    /// The map, with whatever is wrong with it. No findings: I10 holds.
    Done(Box<Map>, Vec<Finding>),
    /// Both copies of the volume table are damaged, so nobody knows which volumes there are.
    Refused(Vec<Finding>),
}

/// A page that is referred to.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    id: PageId,
    crc: u32,
    target: Target,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Node(NodeId),
    Attributes(VolumeSlot, usize),
    Counts(Place),
    /// A page of one copy of the volume table.
    Table(usize, Place),
}

/// A leaf page of one copy of the volume table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TableLeaf {
    /// There is none.
    Empty,
    /// It was read; its body has this CRC.
    Read(u32),
    /// It or a page above it is damaged.
    Lost,
}

impl Loader {
    /// Loads what `roots` refer to in a store of this geometry.
    pub fn new(geometry: Geometry, roots: Roots) -> Loader {
        let chunks = geometry.chunk_count as usize;
        let mut loader = Loader {
            map: Map::new(geometry),
            queue: VecDeque::new(),
            asked: Vec::new(),
            by_slot: BTreeMap::new(),
            found: vec![0; chunks],
            counted: vec![Some(0); chunks],
            findings: Findings::default(),
            table: Vec::new(),
            refused: false,
        };
        let leaves = loader.map.table[0].leaves();
        loader.table = vec![[TableLeaf::Empty; TABLE_COPIES]; leaves];
        for (copy, root) in roots.volumes.into_iter().enumerate() {
            let place = loader.map.table[copy].root_place();
            loader.want_fixed(root, Target::Table(copy, place));
        }
        let counts = loader.map.chunks.tree.root_place();
        loader.want_fixed(roots.counts, Target::Counts(counts));
        loader
    }

    /// Takes the pages asked for, one slice each in the same order, and says what is next.
    ///
    /// The first call passes none. An empty slice stands for a page that could not be read.
    pub fn step(&mut self, pages: &[&[u8]]) -> Step {
        assert!(pages.len() == self.asked.len());
        for (wanted, bytes) in core::mem::take(&mut self.asked).into_iter().zip(pages) {
            self.on_page(wanted, bytes);
        }
        if self.queue.is_empty() {
            return self.finish();
        }
        let count = self.queue.len().min(MAP_LOAD_PAGES_MAX);
        self.asked = self.queue.drain(..count).collect();
        self.asked.sort_unstable_by_key(|wanted| wanted.id.slot);
        Step::Read(self.asked.iter().map(|wanted| wanted.id.slot).collect())
    }

    fn on_page(&mut self, wanted: Wanted, bytes: &[u8]) {
        let store = self.map.geometry.store;
        let result =
            open(bytes, store, wanted.id, wanted.crc).and_then(|body| match wanted.target {
                Target::Node(id) if wanted.id.level == 0 => self.on_leaf(id, body),
                Target::Node(id) => self.on_interior(id, body),
                Target::Attributes(slot, piece) => self.on_attributes(slot, piece, body),
                Target::Counts(place) if place.level == 0 => self.on_counts(place, body),
                Target::Table(copy, place) if place.level == 0 => self.on_table(copy, place, body),
                Target::Counts(_) | Target::Table(..) => self.on_children(wanted.target, body),
            });
        if let Err(error) = result {
            let id = wanted.id;
            self.findings.push(Finding::Page { id, error });
            self.on_lost(wanted.target);
        }
    }

    /// What a page describes cannot be known. (A lost node is one already.)
    fn on_lost(&mut self, target: Target) {
        match target {
            Target::Node(_) => {}
            Target::Attributes(slot, _) => {
                let volume = self.volume_mut(slot);
                let first = volume.attributes.take().is_some();
                let id = volume.record.id;
                if first {
                    self.findings.push(Finding::AttributesLost(id));
                }
            }
            Target::Counts(place) => self.lose_counts(place),
            Target::Table(copy, place) => {
                let range = places_below(place, 1, self.table.len());
                for leaf in &mut self.table[range] {
                    leaf[copy] = TableLeaf::Lost;
                }
            }
        }
    }

    fn on_leaf(&mut self, id: NodeId, page: &[u8]) -> Result<(), PageError> {
        let mut entries = body::decode_leaf(page)?;
        let live = entries.iter().filter(|entry| !entry.is_empty()).count();
        if live == 0 {
            return Err(PageError::Body);
        }
        let first = self.map.nodes.at(id).first;
        for (index, entry) in (first..).map(ChunkIndex).zip(entries.iter_mut()) {
            let Some(chunk) = entry.chunk() else { continue };
            match self.found.get_mut(chunk.0 as usize) {
                Some(found) => *found += 1,
                None => {
                    let finding = Finding::ChunkOutOfRange { index, chunk };
                    self.findings.push(finding);
                    *entry = Entry::without_chunk(
                        entry.bad() | entry.present(),
                        entry.lsn(),
                        *entry.checksums(),
                    );
                }
            }
        }
        self.set_body(id, Body::Leaf(entries), live);
        Ok(())
    }

    fn on_interior(&mut self, id: NodeId, page: &[u8]) -> Result<(), PageError> {
        let references = body::decode_children(page)?;
        let node = self.map.nodes.at(id);
        let (level, first) = (node.level - 1, node.first);
        let mut children = Box::new([None; CHILDREN]);
        for (at, (child, reference)) in (0u64..).zip(children.iter_mut().zip(references.iter())) {
            *child = self.link(*reference, level, first + at * cover(level));
        }
        let live = children.iter().flatten().count();
        if live == 0 {
            return Err(PageError::Body);
        }
        self.set_body(id, Body::Interior(children), live);
        Ok(())
    }

    fn on_attributes(
        &mut self,
        slot: VolumeSlot,
        piece: usize,
        page: &[u8],
    ) -> Result<(), PageError> {
        let volume = self.volume_mut(slot);
        let begin = piece * BODY_BYTES;
        let end = volume.attribute_bytes.min(begin + BODY_BYTES);
        let bytes = body::decode_attributes(page, end - begin)?;
        if let Some(attributes) = &mut volume.attributes {
            attributes[begin..end].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn on_counts(&mut self, place: Place, page: &[u8]) -> Result<(), PageError> {
        let range = counts_range(place, self.counted.len());
        let mut counts = vec![0; range.len()];
        body::decode_counts(page, &mut counts)?;
        // A chunk is named once by a leaf, and a leaf is a page.
        if counts.iter().any(|count| *count > self.map.slots.total()) {
            return Err(PageError::Body);
        }
        for (counted, count) in self.counted[range].iter_mut().zip(counts) {
            *counted = Some(count);
        }
        Ok(())
    }

    fn on_table(&mut self, copy: usize, place: Place, page: &[u8]) -> Result<(), PageError> {
        let first = place.index as usize * TABLE_ENTRIES;
        let entries = body::decode_table(page)?;
        let room = self.map.volumes.len().saturating_sub(first);
        if entries.iter().skip(room).any(Option::is_some) {
            return Err(PageError::Body);
        }
        let leaf = &mut self.table[place.index as usize];
        let known = leaf.iter().any(|leaf| matches!(leaf, TableLeaf::Read(_)));
        leaf[copy] = TableLeaf::Read(crc32c(page));
        if known {
            return Ok(()); // The other copy has said it.
        }
        for (at, entry) in entries.into_iter().enumerate() {
            let Some(entry) = entry else { continue };
            let slot = u16::try_from(first + at).expect("VOLUMES_PER_STORE_MAX fits");
            self.on_volume(VolumeSlot(slot), &entry);
        }
        Ok(())
    }

    fn on_volume(&mut self, slot: VolumeSlot, entry: &TableEntry) {
        let id = entry.record.id;
        if entry.doomed {
            self.map.doomed += 1;
        } else if self.map.by_id.insert(id, slot).is_some() {
            self.findings.push(Finding::VolumeTwice(id));
            self.refused = true;
        }
        let root = self.link(entry.root, entry.root_level, 0);
        let attribute_bytes = entry.attribute_bytes as usize;
        self.map.volumes[usize::from(slot.0)] = Some(Volume {
            record: entry.record,
            doomed: entry.doomed,
            root,
            attributes: Some(vec![0; attribute_bytes]),
            attribute_bytes,
            attribute_pages: [PageRef::default(); ATTRIBUTE_PAGES_MAX],
            attributes_dirty: false,
        });
        let pages = attribute_bytes.div_ceil(BODY_BYTES);
        self.map.attribute_pages += super::attribute_pages(attribute_bytes);
        for (piece, reference) in entry.attribute_pages[..pages].iter().enumerate() {
            let target = Target::Attributes(slot, piece);
            let first = attribute_first(slot, piece as u64);
            if self.want(*reference, PageKind::Attributes, 0, first, target) {
                self.volume_mut(slot).attribute_pages[piece] = *reference;
            } else {
                self.on_lost(target);
            }
        }
    }

    /// The references of an interior page of a fixed tree.
    fn on_children(&mut self, target: Target, page: &[u8]) -> Result<(), PageError> {
        let references = body::decode_children(page)?;
        let (tree, place) = self.tree_of(target);
        let children = tree.children(place).len();
        let behind = &references[children..];
        if behind.iter().any(|child| *child != PageRef::default())
            || references.contains(&PageRef::LOST)
        {
            return Err(PageError::Body);
        }
        for (at, reference) in references[..children].iter().enumerate() {
            let child = FixedTree::child_place(place, at);
            let target = match target {
                Target::Table(copy, _) => Target::Table(copy, child),
                _ => Target::Counts(child),
            };
            self.want_fixed(*reference, target);
        }
        Ok(())
    }

    /// The node that `reference` means: a known one, or one whose page is asked for, or a lost one.
    fn link(&mut self, reference: PageRef, level: u8, first: u64) -> Option<NodeId> {
        if reference == PageRef::default() {
            return None;
        }
        let known = reference.slot().and_then(|slot| self.by_slot.get(&slot));
        if let Some(id) = known.copied() {
            let node = self.map.nodes.at_mut(id);
            if node.level == level && node.first == first && node.page == reference {
                node.parents += 1; // A shared node.
                return Some(id);
            }
        }
        let id = self.map.nodes.create_lost(level, first);
        let kind = if level == 0 {
            PageKind::Leaf
        } else {
            PageKind::Interior
        };
        if self.want(reference, kind, level, first, Target::Node(id)) {
            self.map.nodes.set_page(id, reference);
            self.by_slot.extend(reference.slot().map(|slot| (slot, id)));
        }
        Some(id)
    }

    fn want_fixed(&mut self, reference: PageRef, target: Target) {
        if reference == PageRef::default() {
            return;
        }
        let (_, place) = self.tree_of(target);
        let kind = match target {
            Target::Counts(_) if place.level == 0 => PageKind::Counts,
            Target::Counts(_) => PageKind::CountsInterior,
            _ if place.level == 0 => PageKind::Volumes,
            _ => PageKind::VolumesInterior,
        };
        let first = place_first(kind, place);
        if self.want(reference, kind, place.level, first, target) {
            self.tree_of(target).0.set_reference(place, reference);
        } else {
            self.on_lost(target);
        }
    }

    /// Asks for a page. False if its slot is impossible.
    fn want(
        &mut self,
        reference: PageRef,
        kind: PageKind,
        level: u8,
        first: u64,
        target: Target,
    ) -> bool {
        let Some(slot) = reference.slot() else {
            return false; // Known to be lost.
        };
        let id = PageId {
            kind,
            level,
            first,
            slot,
        };
        if slot.0 >= self.map.slots.total() {
            self.findings.push(Finding::SlotOutOfRange(id));
            return false;
        }
        if !self.map.slots.claim(slot) {
            self.findings.push(Finding::SlotTwice(id));
            return false;
        }
        let crc = reference.crc();
        self.queue.push_back(Wanted { id, crc, target });
        true
    }

    fn lose_counts(&mut self, place: Place) {
        let range = counts_range(place, self.counted.len());
        self.counted[range].fill(None);
    }

    fn set_body(&mut self, id: NodeId, body: Body, live: usize) {
        let node = self.map.nodes.at_mut(id);
        node.body = body;
        node.live = u32::try_from(live).expect("children are few");
    }

    fn volume_mut(&mut self, slot: VolumeSlot) -> &mut Volume {
        self.map.volumes[usize::from(slot.0)]
            .as_mut()
            .expect("pages of a volume are asked for after it was found")
    }

    fn tree_of(&mut self, target: Target) -> (&mut FixedTree, Place) {
        match target {
            Target::Counts(place) => (&mut self.map.chunks.tree, place),
            Target::Table(copy, place) => (&mut self.map.table[copy], place),
            Target::Node(_) | Target::Attributes(..) => {
                unreachable!("not a page of a fixed tree")
            }
        }
    }

    /// Both copies of the volume table must say the same; what one of them lacks is to be written again.
    fn settle_table(&mut self) {
        for (index, leaf) in (0..).zip(core::mem::take(&mut self.table)) {
            match leaf {
                [TableLeaf::Lost, TableLeaf::Lost] => self.refused = true,
                [TableLeaf::Lost, _] => self.map.table[0].mark(index),
                [_, TableLeaf::Lost] => self.map.table[1].mark(index),
                [first, second] if first != second => {
                    self.findings.push(Finding::TableDiffers(index));
                    self.refused = true;
                }
                _ => {}
            }
        }
    }

    fn finish(&mut self) -> Step {
        self.settle_table();
        let empty = Map::new(self.map.geometry);
        let mut map = core::mem::replace(&mut self.map, empty);
        let mut findings = core::mem::take(&mut self.findings);
        map.count_mapped();
        let lost = map.report_lost(&mut findings) || self.refused;
        let found = core::mem::take(&mut self.found);
        let counted = core::mem::take(&mut self.counted);
        map.settle_counts(&found, &counted, lost, &mut findings);
        if !lost {
            map.report_behind_end(&mut findings);
        }
        let findings = findings.into_list();
        if self.refused {
            return Step::Refused(findings);
        }
        Step::Done(Box::new(map), findings)
    }
}

impl Map {
    /// Sums up the chunks below each node, from the leaves to the roots.
    fn count_mapped(&mut self) {
        let mut by_level: [Vec<NodeId>; LEVEL_MAX as usize + 1] = [const { Vec::new() }; 4];
        for (id, node) in self.nodes.iter() {
            by_level[usize::from(node.level)].push(id);
        }
        for id in by_level.into_iter().flatten() {
            let mapped = match &self.nodes.at(id).body {
                Body::Leaf(entries) => entries.iter().filter_map(Entry::chunk).count() as u64,
                Body::Interior(children) => children
                    .iter()
                    .flatten()
                    .map(|child| self.nodes.at(*child).mapped)
                    .sum(),
                Body::Lost => 0,
            };
            self.nodes.at_mut(id).mapped = mapped;
        }
    }

    /// True if a page of the map is lost; says which chunks of which volumes that costs.
    fn report_lost(&self, findings: &mut Findings) -> bool {
        let lost = self
            .nodes
            .iter()
            .any(|(_, node)| matches!(node.body, Body::Lost));
        if lost {
            for (slot, record) in self.volumes() {
                for (first, end) in self.lost_ranges(slot) {
                    findings.push(Finding::ChunksLost {
                        volume: record.id,
                        first,
                        end,
                    });
                }
            }
        }
        lost
    }

    /// Compares what was found with what was counted, and settles on what is safe.
    fn settle_counts(
        &mut self,
        found: &[u32],
        counted: &[Option<u32>],
        lost: bool,
        findings: &mut Findings,
    ) {
        let mut unreached = 0;
        for (chunk, (found, counted)) in (0u32..)
            .map(PhysicalChunk)
            .zip(found.iter().copied().zip(counted.iter().copied()))
        {
            // Where the whole map is known, it is the truth. Otherwise a page that cannot be read may name
            // whatever is counted, or, without its count, any chunk.
            let count = if lost {
                counted.unwrap_or(1).max(found)
            } else {
                found
            };
            self.chunks.load_count(chunk, count);
            if counted != Some(count) {
                self.chunks.tree.mark(super::chunks::leaf_of(chunk));
            }
            match counted {
                None => {}
                Some(counted) if counted == found => {}
                Some(counted) if lost && counted > found => unreached += 1,
                Some(counted) if found == 0 => {
                    findings.push(Finding::ChunkLeaked { chunk, counted });
                }
                Some(counted) => findings.push(Finding::CountWrong {
                    chunk,
                    counted,
                    found,
                }),
            }
        }
        if unreached > 0 {
            findings.push(Finding::ChunksUnreached(unreached));
        }
    }

    fn report_behind_end(&self, findings: &mut Findings) {
        for (slot, record) in self.volumes() {
            let end = ChunkIndex(record.size_blocks.div_ceil(CHUNK_BLOCKS as u64));
            let last = ChunkIndex(cover(LEVEL_MAX));
            if let Some(index) = self.next_mapped(slot, end, last) {
                let volume = record.id;
                findings.push(Finding::BehindEnd { volume, index });
            }
        }
    }
}

/// Physical chunks whose counts are at or below the page at `place` of the reference tree.
fn counts_range(place: Place, chunks: usize) -> core::ops::Range<usize> {
    places_below(place, COUNTS, chunks)
}

/// Of `total` things, `per_leaf` in a leaf page, those at or below the page at `place` of a fixed tree.
fn places_below(place: Place, per_leaf: usize, total: usize) -> core::ops::Range<usize> {
    let cover = (0..place.level).fold(per_leaf, |cover, _| cover * CHILDREN);
    let first = place.index as usize * cover;
    first.min(total)..total.min(first + cover)
}
