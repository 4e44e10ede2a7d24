//! The chunk map, or *base*: which chunk holds what of each volume, exactly as of one checkpoint.
//!
//! Per volume a radix tree of 4 KiB pages: leaves of 50 entries of 80 B, interior nodes of 500 children, at
//! most four levels. All of it is in memory (about 1.3 GiB per TiB written), so a lookup is two to four array
//! accesses and never waits for a disk; what changed is persisted by each checkpoint to fresh page slots,
//! children before parents. Trees share nodes copy-on-write, so a snapshot or clone is one more parent of a
//! root. The volume table, without which no tree is found, is kept twice: two trees of pages with a root each.
//! The map knows page slots and chunks; where they lie in the store is the layout's business.
//!
//! It does no I/O, holds nothing of what was logged after the checkpoint (the overlay does), and does not
//! decide when to flush. Invariants: I10; a page or chunk that the last durable checkpoint reaches is not
//! given out before a later one is durable; the pages of a checkpoint fit in half of the slots, so that its
//! shadow always fits in the other half and a flush cannot run out.

mod body;
pub mod check;
mod chunks;
pub mod encode;
pub mod entry;
mod fixed_tree;
mod free_set;
pub mod load;
mod nodes;
pub mod page;
mod slots;
pub mod space;
mod tree;
pub mod volumes;

#[cfg(test)]
mod tests;

use self::body::{ATTRIBUTE_PAGES_MAX, TABLE_ENTRIES};
use self::chunks::Chunks;
use self::encode::Encoding;
use self::fixed_tree::FixedTree;
use self::nodes::{NodeId, Nodes};
use self::page::{BODY_BYTES, PageRef};
use self::slots::Slots;
use self::space::Paths;
use crate::block::PhysicalChunk;
use crate::id::{StoreId, VolumeId};
use crate::limits::VOLUMES_PER_STORE_MAX;
use crate::lsn::{Epoch, FrameSeq, Lsn};
use crate::replication::Reign;
use crate::store::append::{Resync, Sharing};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// What of a store the map uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Every page carries it.
    pub store: StoreId,
    /// Chunks of the chunk area.
    pub chunk_count: u32,
    /// Page slots of the metadata area, at least [`page_slots_min`].
    pub page_slot_count: u32,
}

/// A volume's place in the volume table; the handle of all calls about its content. Stable while the volume exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeSlot(u16);

/// What the map knows of a volume beside its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeRecord {
    /// Its identity.
    pub id: VolumeId,
    /// Size in blocks.
    pub size_blocks: u64,
    /// Epoch as of the checkpoint.
    pub epoch: Epoch,
    /// LSN of the last change as of the checkpoint.
    pub lsn: Lsn,
    /// Its place among the copies of the volume.
    pub copy: CopyRecord,
}

/// What a checkpoint keeps of one copy's place among those of its volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyRecord {
    /// Whether there may be other copies.
    pub sharing: Sharing,
    /// No lower epoch is obeyed.
    pub promised: Epoch,
    /// Where its log ends as of the checkpoint.
    pub appended: Lsn,
    /// It lacks changes.
    pub resync: Option<Resync>,
    /// The last reigns, ascending; behind them unused places, all zero.
    pub reigns: [Reign; REIGNS_KEPT],
}

/// Reigns that a checkpoint keeps of each volume.
pub const REIGNS_KEPT: usize = 5;

/// The chunk map of one store.
#[derive(Debug)]
pub struct Map {
    geometry: Geometry,
    nodes: Nodes,
    chunks: Chunks,
    slots: Slots,
    /// By place in the volume table.
    volumes: Vec<Option<Volume>>,
    /// Volumes that are not doomed.
    by_id: BTreeMap<VolumeId, VolumeSlot>,
    doomed: usize,
    /// The volume table, twice: either copy is enough to load it.
    table: [FixedTree; TABLE_COPIES],
    /// Pages of all attributes.
    attribute_pages: u32,
    paths: Paths,
    /// Pages reserved for attributes.
    pages_reserved: u32,
    encoding: Option<Encoding>,
}

#[derive(Debug)]
struct Volume {
    record: VolumeRecord,
    /// Removed; its tree is being given back.
    doomed: bool,
    root: Option<NodeId>,
    /// None: a page of them was damaged.
    attributes: Option<Vec<u8>>,
    /// Their length, also of lost ones.
    attribute_bytes: usize,
    attribute_pages: [PageRef; ATTRIBUTE_PAGES_MAX],
    attributes_dirty: bool,
}

/// No chunk or no page slot is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no space left in the store (a checkpoint may give some back: {pending})")]
pub struct NoSpace {
    /// A flush round and its checkpoint may give some back.
    pub pending: bool,
}

/// A log record names a chunk that the map does not have or that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("physical chunk {} is not free", .0.0)]
pub struct ChunkNotFree(pub PhysicalChunk);

/// A volume was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The volume table is full; removed volumes count until they are reaped.
    #[error("the store has its {VOLUMES_PER_STORE_MAX} volumes already")]
    TableFull,
    /// There is one with this id.
    #[error("the volume exists already")]
    VolumeExists,
    /// The clone might need more map pages than there are.
    #[error(transparent)]
    NoSpace(NoSpace),
}

/// Page slots that a store of `chunk_count` chunks needs to be of any use.
pub fn page_slots_min(chunk_count: u32) -> u32 {
    let fixed = chunks::empty_tree(chunk_count).pages_max() + table_pages_max(&volume_table());
    2 * (fixed + MAP_PAGES_MIN)
}

/// Pages that attributes of `length` bytes take, for [`Map::reserve_pages`].
pub fn attribute_pages(length: usize) -> u32 {
    u32::try_from(length.div_ceil(BODY_BYTES)).expect("bounded by ATTRIBUTES_BYTES_MAX")
}

/// Map pages that fit at least.
const MAP_PAGES_MIN: u32 = 32;

/// Copies of the volume table.
const TABLE_COPIES: usize = 2;

fn volume_table() -> [FixedTree; TABLE_COPIES] {
    let pages = VOLUMES_PER_STORE_MAX.div_ceil(TABLE_ENTRIES);
    let leaves = u32::try_from(pages).expect("a small constant");
    core::array::from_fn(|_| FixedTree::of_leaves(leaves))
}

fn table_pages_max(table: &[FixedTree; TABLE_COPIES]) -> u32 {
    table.iter().map(FixedTree::pages_max).sum()
}

impl Map {
    /// The map of a store that was just formatted. Its roots are the default ones: nothing needs to be written.
    pub fn new(geometry: Geometry) -> Map {
        let mut volumes = Vec::new();
        volumes.resize_with(VOLUMES_PER_STORE_MAX, || None);
        let map = Map {
            geometry,
            nodes: Nodes::default(),
            chunks: Chunks::new(geometry.chunk_count),
            slots: Slots::new(geometry.page_slot_count),
            volumes,
            by_id: BTreeMap::new(),
            doomed: 0,
            table: volume_table(),
            attribute_pages: 0,
            paths: Paths::default(),
            pages_reserved: 0,
            encoding: None,
        };
        assert!(map.pages_fixed() + MAP_PAGES_MIN <= map.pages_limit());
        map
    }

    /// What it was made for.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The volume at `slot`, doomed or not.
    fn at(&self, slot: VolumeSlot) -> &Volume {
        self.volumes[usize::from(slot.0)]
            .as_ref()
            .expect("a volume slot is used only while its volume exists")
    }

    /// The volume at `slot`, to change it: its page of the volume table becomes dirty.
    fn at_mut(&mut self, slot: VolumeSlot) -> &mut Volume {
        self.mark_table(slot);
        self.volumes[usize::from(slot.0)]
            .as_mut()
            .expect("a volume slot is used only while its volume exists")
    }

    /// The entry of `slot` in the volume table changed.
    fn mark_table(&mut self, slot: VolumeSlot) {
        for copy in &mut self.table {
            copy.mark(table_leaf(slot));
        }
    }

    /// Every change to the base passes here.
    fn assert_changeable(&self) {
        if let Some(encoding) = &self.encoding {
            assert!(encoding.is_complete()); // The base is frozen while it is encoded.
        }
    }

    /// Whatever makes chunks pending passes here.
    fn assert_frame(&self, frame: FrameSeq) {
        if let Some(encoding) = &self.encoding {
            assert!(frame > encoding.frame()); // It would be freed before it is durable.
        }
    }
}

/// Page of the volume table that has the place `slot`.
fn table_leaf(slot: VolumeSlot) -> u32 {
    u32::from(slot.0) / u32::try_from(TABLE_ENTRIES).expect("a small constant")
}
