//! Persisting: the dirty pages of a checkpoint, children before parents, each to a fresh slot.

use super::body::{self, TableEntry};
use super::chunks;
use super::fixed_tree::{FixedTree, Place};
use super::nodes::{Body, NodeId, Nodes};
use super::page::{
    BODY_BYTES, HEADER_BYTES, PAGE_BYTES, PageId, PageKind, PageRef, PageSlot, Roots, seal,
};
use super::slots::Slots;
use super::{Map, Volume, VolumeSlot};
use crate::id::StoreId;
use crate::limits::MAP_RUN_BYTES_MAX;
use crate::lsn::FrameSeq;
use alloc::vec::Vec;

/// Pages for neighbouring slots, to be written at the place of the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// Where the first page goes.
    pub first: PageSlot,
    /// Whole pages, at most [`MAP_RUN_BYTES_MAX`] bytes.
    pub bytes: Vec<u8>,
}

/// A checkpoint on its way.
#[derive(Debug)]
pub(super) struct Encoding {
    frame: FrameSeq,
    jobs: Vec<Job>,
    done: usize,
}

/// A page to write.
#[derive(Clone, Copy, Debug)]
enum Job {
    Node(NodeId),
    Attributes(VolumeSlot),
    Counts(Place),
    /// A page of one copy of the volume table.
    Table(usize, Place),
}

/// Takes slots and collects pages into runs.
struct Writer<'a> {
    slots: &'a mut Slots,
    store: StoreId,
    frame: FrameSeq,
    runs: Vec<PageRun>,
    pages: usize,
    /// The pages are second copies of others.
    spread: bool,
}

impl Encoding {
    pub(super) fn frame(&self) -> FrameSeq {
        self.frame
    }

    pub(super) fn is_complete(&self) -> bool {
        self.done == self.jobs.len()
    }
}

impl Map {
    /// True if a checkpoint would write a page.
    pub fn is_dirty(&self) -> bool {
        self.nodes.is_dirty()
            || self.table.iter().any(FixedTree::is_dirty)
            || self.chunks.tree.is_dirty()
    }

    /// Begins a checkpoint of the base as it is, which is the state as of `frame`.
    ///
    /// One at a time. The base is frozen until [`Map::encode_some`] is through, then changes to it belong to
    /// later frames.
    pub fn begin_encode(&mut self, frame: FrameSeq) {
        assert!(self.encoding.is_none());
        let mut jobs = Vec::new();
        for slot in self.nodes.take_retired() {
            self.slots.retire(slot);
        }
        self.slots.begin_checkpoint();
        jobs.extend(self.nodes.take_dirty().into_iter().map(Job::Node));
        jobs.extend(
            self.all_slots()
                .filter(|slot| self.at(*slot).attributes_dirty)
                .map(Job::Attributes),
        );
        jobs.extend(self.chunks.tree.take_dirty().into_iter().map(Job::Counts));
        for (copy, table) in self.table.iter_mut().enumerate() {
            let places = table.take_dirty();
            jobs.extend(places.into_iter().map(|place| Job::Table(copy, place)));
        }
        self.encoding = Some(Encoding {
            frame,
            jobs,
            done: 0,
        });
    }

    /// Encodes about `pages_max` more pages of the checkpoint. Empty: all are encoded.
    ///
    /// The runs go to slots that no durable checkpoint reaches, so they may be written at once and in any order.
    pub fn encode_some(&mut self, pages_max: usize) -> Vec<PageRun> {
        let mut encoding = self.encoding.take().expect("a checkpoint was begun");
        let mut writer = Writer {
            slots: &mut self.slots,
            store: self.geometry.store,
            frame: encoding.frame,
            runs: Vec::new(),
            pages: 0,
            spread: false,
        };
        while writer.pages < pages_max.max(1) {
            let Some(job) = encoding.jobs.get(encoding.done) else {
                break;
            };
            encoding.done += 1;
            match *job {
                Job::Node(id) => writer.node(&mut self.nodes, id),
                Job::Attributes(slot) => {
                    let volume = self.volumes[usize::from(slot.0)].as_mut();
                    writer.attributes(volume.expect("the base is frozen"), slot);
                }
                Job::Counts(place) => writer.counts(&mut self.chunks, place),
                Job::Table(copy, place) => {
                    writer.spread = copy > 0;
                    writer.table(&mut self.table[copy], &self.volumes, &self.nodes, place);
                }
            }
        }
        let runs = writer.runs;
        self.encoding = Some(encoding);
        runs
    }

    /// Where the encoded checkpoint begins, for the superblock. Not while encoding.
    pub fn roots(&self) -> Roots {
        self.assert_changeable();
        Roots {
            volumes: core::array::from_fn(|copy| self.table[copy].root()),
            counts: self.chunks.tree.root(),
        }
    }

    /// The superblock with the roots of the checkpoint of `frame` is durable in both copies: what it does not
    /// reach is free, page slots as well as chunks that became pending up to `frame`.
    pub fn checkpoint_durable(&mut self, frame: FrameSeq) {
        let encoding = self.encoding.take().expect("a checkpoint was begun");
        assert!(encoding.is_complete());
        assert!(encoding.frame == frame);
        self.slots.checkpoint_durable();
        self.chunks.checkpoint_durable(frame);
    }
}

impl Writer<'_> {
    fn node(&mut self, nodes: &mut Nodes, id: NodeId) {
        let node = nodes.at(id);
        assert!(node.dirty);
        let (level, first) = (node.level, node.first);
        let page = match &node.body {
            Body::Leaf(entries) => self.page(PageKind::Leaf, level, first, |to| {
                body::encode_leaf(entries, to);
            }),
            Body::Interior(children) => {
                let references = children
                    .iter()
                    .map(|child| child.map_or(PageRef::default(), |child| page_of(nodes, child)));
                self.page(PageKind::Interior, level, first, |to| {
                    body::encode_children(references, to);
                })
            }
            Body::Lost => unreachable!("a lost node is not changed"),
        };
        let node = nodes.at_mut(id);
        node.page = page;
        node.dirty = false;
    }

    fn attributes(&mut self, volume: &mut Volume, slot: VolumeSlot) {
        let attributes = volume.attributes.as_deref().unwrap_or_default();
        let pieces = attributes.chunks(BODY_BYTES);
        for ((piece, bytes), page) in (0u64..).zip(pieces).zip(&mut volume.attribute_pages) {
            let first = attribute_first(slot, piece);
            *page = self.page(PageKind::Attributes, 0, first, |to| {
                to[..bytes.len()].copy_from_slice(bytes);
            });
        }
        volume.attributes_dirty = false;
    }

    fn counts(&mut self, chunks: &mut chunks::Chunks, place: Place) {
        let old = chunks.tree.reference(place);
        let page = if place.level > 0 {
            self.children(PageKind::CountsInterior, &chunks.tree, place)
        } else {
            let counts = chunks.counts_of(place.index);
            if counts.iter().all(|count| *count == 0) {
                PageRef::default()
            } else {
                let first = place_first(PageKind::Counts, place);
                self.page(PageKind::Counts, 0, first, |to| {
                    body::encode_counts(counts, to);
                })
            }
        };
        self.replace(&mut chunks.tree, place, old, page);
    }

    fn table(
        &mut self,
        table: &mut FixedTree,
        volumes: &[Option<Volume>],
        nodes: &Nodes,
        place: Place,
    ) {
        let old = table.reference(place);
        let page = if place.level > 0 {
            self.children(PageKind::VolumesInterior, table, place)
        } else {
            let first = place_first(PageKind::Volumes, place);
            let begin = usize::try_from(first).expect("an index of the table");
            let end = volumes.len().min(begin + body::TABLE_ENTRIES);
            let entries: Vec<Option<TableEntry>> = volumes[begin..end]
                .iter()
                .map(|volume| volume.as_ref().map(|volume| table_entry(volume, nodes)))
                .collect();
            if entries.iter().all(Option::is_none) {
                PageRef::default()
            } else {
                self.page(PageKind::Volumes, 0, first, |to| {
                    body::encode_table(entries.iter().map(Option::as_ref), to);
                })
            }
        };
        self.replace(table, place, old, page);
    }

    fn children(&mut self, kind: PageKind, tree: &FixedTree, place: Place) -> PageRef {
        let children = tree.children(place);
        if children.iter().all(|child| *child == PageRef::default()) {
            return PageRef::default();
        }
        self.page(kind, place.level, place_first(kind, place), |to| {
            body::encode_children(children.iter().copied(), to);
        })
    }

    fn replace(&mut self, tree: &mut FixedTree, place: Place, old: PageRef, page: PageRef) {
        if let Some(slot) = old.slot() {
            self.slots.retire_in_checkpoint(slot);
        }
        tree.set_reference(place, page);
    }

    /// Adds one page at a fresh slot.
    fn page(
        &mut self,
        kind: PageKind,
        level: u8,
        first: u64,
        fill: impl FnOnce(&mut [u8]),
    ) -> PageRef {
        let slot = if self.spread {
            self.slots.allocate_apart()
        } else {
            self.slots.allocate()
        };
        let fits = self.runs.last().is_some_and(|run| {
            let pages = run.bytes.len() / PAGE_BYTES;
            run.bytes.len() < MAP_RUN_BYTES_MAX && run.first.0 as usize + pages == slot.0 as usize
        });
        if !fits {
            self.runs.push(PageRun {
                first: slot,
                bytes: Vec::new(),
            });
        }
        let run = self.runs.last_mut().expect("one was pushed");
        let begin = run.bytes.len();
        run.bytes.resize(begin + PAGE_BYTES, 0);
        let bytes = &mut run.bytes[begin..];
        fill(&mut bytes[HEADER_BYTES..]);
        let id = PageId {
            kind,
            level,
            first,
            slot,
        };
        let crc = seal(bytes, self.store, id, self.frame);
        self.pages += 1;
        PageRef::to(slot, crc)
    }
}

/// First index that the page at `place` of a reference tree or volume table covers.
pub(super) fn place_first(kind: PageKind, place: Place) -> u64 {
    let leaf = match kind {
        PageKind::Counts | PageKind::CountsInterior => body::COUNTS,
        PageKind::Volumes | PageKind::VolumesInterior => body::TABLE_ENTRIES,
        PageKind::Leaf | PageKind::Interior | PageKind::Attributes => {
            unreachable!("not a page of a fixed tree")
        }
    };
    let cover = (0..place.level).fold(leaf as u64, |cover, _| cover * body::CHILDREN as u64);
    u64::from(place.index) * cover
}

/// First index of piece `piece` of the attributes of the volume at `slot`.
pub(super) fn attribute_first(slot: VolumeSlot, piece: u64) -> u64 {
    u64::from(slot.0) * body::ATTRIBUTE_PAGES_MAX as u64 + piece
}

/// The reference to a node's page.
fn page_of(nodes: &Nodes, id: NodeId) -> PageRef {
    let node = nodes.at(id);
    assert!(!node.dirty); // Children are written before their parents.
    if node.page.slot().is_none() {
        assert!(matches!(node.body, Body::Lost));
        return PageRef::LOST;
    }
    node.page
}

fn table_entry(volume: &Volume, nodes: &Nodes) -> TableEntry {
    TableEntry {
        record: volume.record,
        doomed: volume.doomed,
        root: volume
            .root
            .map_or(PageRef::default(), |root| page_of(nodes, root)),
        root_level: volume.root.map_or(0, |root| nodes.at(root).level),
        attribute_bytes: u32::try_from(volume.attribute_bytes)
            .expect("bounded by ATTRIBUTES_BYTES_MAX"),
        attribute_pages: volume.attribute_pages,
    }
}
