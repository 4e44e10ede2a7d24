//! Bodies of the page kinds: plain values to and from bytes, with nothing believed that could not have been written.
//!
//! A body that is shorter than its room is followed by zeros, and decoding insists on them, so that a page
//! has exactly one encoding.

use super::entry::{ENTRY_BYTES, Entry};
use super::page::{BODY_BYTES, PageError, PageRef};
use super::{CopyRecord, REIGNS_KEPT, VolumeRecord};
use crate::block::Block;
use crate::id::VolumeId;
use crate::limits::{ATTRIBUTES_BYTES_MAX, BLOCK_BYTES, VOLUME_BYTES_MAX};
use crate::lsn::{Epoch, Lsn};
use crate::replication::Reign;
use crate::store::append::{Resync, Sharing};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Entries of a leaf.
pub(super) const LEAF_ENTRIES: usize = BODY_BYTES / ENTRY_BYTES;

/// References of an interior page of any tree.
pub(super) const CHILDREN: usize = BODY_BYTES / PageRef::BYTES;

/// Counts of a page of the reference tree.
pub(super) const COUNTS: usize = BODY_BYTES / 4;

/// Bytes of a volume in the volume table.
const TABLE_ENTRY_BYTES: usize = 240;

/// Volumes of a page of the volume table.
pub(super) const TABLE_ENTRIES: usize = BODY_BYTES / TABLE_ENTRY_BYTES;

/// Pages of the largest attributes.
pub(super) const ATTRIBUTE_PAGES_MAX: usize = ATTRIBUTES_BYTES_MAX.div_ceil(BODY_BYTES);

const IN_USE: u8 = 1;
const DOOMED: u8 = 2;
const SHARED: u8 = 4;
const RESYNC: u8 = 8;

/// Where the place among the copies begins in an entry of the volume table.
const COPY_AT: usize = 56 + ATTRIBUTE_PAGES_MAX * PageRef::BYTES;

/// One volume as the volume table keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableEntry {
    pub(super) record: VolumeRecord,
    /// Removed; its tree is being given back.
    pub(super) doomed: bool,
    pub(super) root: PageRef,
    /// Level of the root page, 0 if there is none.
    pub(super) root_level: u8,
    pub(super) attribute_bytes: u32,
    pub(super) attribute_pages: [PageRef; ATTRIBUTE_PAGES_MAX],
}

pub(super) fn encode_leaf(entries: &[Entry; LEAF_ENTRIES], body: &mut [u8]) {
    for (entry, to) in entries.iter().zip(body.chunks_exact_mut(ENTRY_BYTES)) {
        entry.encode(to);
    }
}

pub(super) fn decode_leaf(body: &[u8]) -> Result<Box<[Entry; LEAF_ENTRIES]>, PageError> {
    let mut entries = Box::new([Entry::EMPTY; LEAF_ENTRIES]);
    for (entry, from) in entries.iter_mut().zip(body.chunks_exact(ENTRY_BYTES)) {
        *entry = Entry::decode(from).map_err(|_| PageError::Body)?;
    }
    Ok(entries)
}

pub(super) fn encode_children(children: impl Iterator<Item = PageRef>, body: &mut [u8]) {
    for (child, to) in children.zip(body.chunks_exact_mut(PageRef::BYTES)) {
        child.encode(to);
    }
}

/// The references of an interior page; lost ones only where the tree knows them.
pub(super) fn decode_children(body: &[u8]) -> Result<Box<[PageRef; CHILDREN]>, PageError> {
    let mut children = Box::new([PageRef::default(); CHILDREN]);
    for (child, from) in children.iter_mut().zip(body.chunks_exact(PageRef::BYTES)) {
        let reference = PageRef::decode(from);
        let known = reference.slot().is_some()
            || reference == PageRef::default()
            || reference == PageRef::LOST;
        if !known {
            return Err(PageError::Body);
        }
        *child = reference;
    }
    Ok(children)
}

/// Writes at most [`COUNTS`] counts.
pub(super) fn encode_counts(counts: &[u32], body: &mut [u8]) {
    for (count, to) in counts.iter().zip(body.chunks_exact_mut(4)) {
        to.copy_from_slice(&count.to_le_bytes());
    }
}

/// Reads the counts of `counts.len()` chunks.
pub(super) fn decode_counts(body: &[u8], counts: &mut [u32]) -> Result<(), PageError> {
    let (used, tail) = body.split_at(4 * counts.len());
    if tail.iter().any(|byte| *byte != 0) {
        return Err(PageError::Body);
    }
    for (count, from) in counts.iter_mut().zip(used.chunks_exact(4)) {
        *count = u32::from_le_bytes(from.try_into().expect("chunks of 4"));
    }
    Ok(())
}

/// Writes at most [`TABLE_ENTRIES`] places of the volume table.
pub(super) fn encode_table<'a>(
    entries: impl Iterator<Item = Option<&'a TableEntry>>,
    body: &mut [u8],
) {
    for (entry, to) in entries.zip(body.chunks_exact_mut(TABLE_ENTRY_BYTES)) {
        if let Some(entry) = entry {
            entry.encode(to);
        }
    }
}

/// Reads [`TABLE_ENTRIES`] places of the volume table.
pub(super) fn decode_table(body: &[u8]) -> Result<Vec<Option<TableEntry>>, PageError> {
    let (used, tail) = body.split_at(TABLE_ENTRIES * TABLE_ENTRY_BYTES);
    if tail.iter().any(|byte| *byte != 0) {
        return Err(PageError::Body);
    }
    used.chunks_exact(TABLE_ENTRY_BYTES)
        .map(TableEntry::decode)
        .collect()
}

/// Reads the `length` bytes of attributes in one page.
pub(super) fn decode_attributes(body: &[u8], length: usize) -> Result<&[u8], PageError> {
    let (used, tail) = body.split_at(length);
    if tail.iter().any(|byte| *byte != 0) {
        return Err(PageError::Body);
    }
    Ok(used)
}

impl TableEntry {
    fn encode(&self, bytes: &mut [u8]) {
        bytes[0..16].copy_from_slice(&self.record.id.0);
        bytes[16..24].copy_from_slice(&self.record.size_blocks.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.record.epoch.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.record.lsn.0.to_le_bytes());
        self.root.encode(&mut bytes[40..48]);
        bytes[48] = IN_USE | if self.doomed { DOOMED } else { 0 } | copy_flags(&self.record.copy);
        bytes[49] = self.root_level;
        bytes[52..56].copy_from_slice(&self.attribute_bytes.to_le_bytes());
        let (pages, copy) = bytes[56..].split_at_mut(COPY_AT - 56);
        encode_children(self.attribute_pages.iter().copied(), pages);
        encode_copy(&self.record.copy, copy);
    }

    fn decode(bytes: &[u8]) -> Result<Option<TableEntry>, PageError> {
        let wide = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let flags = bytes[48];
        if flags & IN_USE == 0 {
            let zero = bytes.iter().all(|byte| *byte == 0);
            return if zero { Ok(None) } else { Err(PageError::Body) };
        }
        let mut attribute_pages = [PageRef::default(); ATTRIBUTE_PAGES_MAX];
        for (page, from) in attribute_pages
            .iter_mut()
            .zip(bytes[56..COPY_AT].chunks_exact(PageRef::BYTES))
        {
            *page = PageRef::decode(from);
        }
        let entry = TableEntry {
            record: VolumeRecord {
                id: VolumeId(bytes[0..16].try_into().expect("16 bytes")),
                size_blocks: wide(16),
                epoch: Epoch(wide(24)),
                lsn: Lsn(wide(32)),
                copy: decode_copy(flags, &bytes[COPY_AT..]).ok_or(PageError::Body)?,
            },
            doomed: flags & DOOMED != 0,
            root: PageRef::decode(&bytes[40..48]),
            root_level: bytes[49],
            attribute_bytes: u32::from_le_bytes(bytes[52..56].try_into().expect("4 bytes")),
            attribute_pages,
        };
        if flags & !(IN_USE | DOOMED | SHARED | RESYNC) != 0
            || bytes[50..52] != [0, 0]
            || !entry.is_possible()
        {
            return Err(PageError::Body);
        }
        Ok(Some(entry))
    }

    fn is_possible(&self) -> bool {
        let length = self.attribute_bytes as usize;
        let pages = length.div_ceil(BODY_BYTES);
        length <= ATTRIBUTES_BYTES_MAX
            && self.record.size_blocks <= VOLUME_BYTES_MAX / BLOCK_BYTES as u64
            && self.root_level <= super::nodes::LEVEL_MAX
            && (self.root != PageRef::default() || self.root_level == 0)
            && self
                .attribute_pages
                .iter()
                .enumerate()
                .all(|(i, page)| i < pages || *page == PageRef::default())
    }
}

fn copy_flags(copy: &CopyRecord) -> u8 {
    let shared = if copy.sharing == Sharing::Shared {
        SHARED
    } else {
        0
    };
    shared | if copy.resync.is_some() { RESYNC } else { 0 }
}

fn encode_copy(copy: &CopyRecord, bytes: &mut [u8]) {
    let resync = copy.resync.unwrap_or_default();
    let mut words = [0; COPY_WORDS];
    words[..4].copy_from_slice(&[
        copy.promised.0,
        copy.appended.0,
        resync.base.0,
        resync.cursor.0,
    ]);
    for (reign, to) in copy.reigns.iter().zip(words[4..].chunks_exact_mut(2)) {
        to.copy_from_slice(&[reign.epoch.0, reign.start.0]);
    }
    for (word, to) in words.iter().zip(bytes.chunks_exact_mut(8)) {
        to.copy_from_slice(&word.to_le_bytes());
    }
}

/// `None`: not what [`encode_copy`] writes.
fn decode_copy(flags: u8, bytes: &[u8]) -> Option<CopyRecord> {
    let mut words = [0; COPY_WORDS];
    for (word, from) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(from.try_into().expect("chunks of 8"));
    }
    let resync = Resync {
        base: Lsn(words[2]),
        cursor: Block(words[3]),
    };
    let mut reigns = [Reign::default(); REIGNS_KEPT];
    for (reign, from) in reigns.iter_mut().zip(words[4..].chunks_exact(2)) {
        *reign = Reign {
            epoch: Epoch(from[0]),
            start: Lsn(from[1]),
        };
    }
    let used = reigns.iter().take_while(|reign| reign.epoch.0 > 0).count();
    let rising = |pair: &[Reign]| pair[0].epoch < pair[1].epoch && pair[0].start < pair[1].start;
    let possible = reigns[..used].windows(2).all(rising)
        && reigns[used..]
            .iter()
            .all(|reign| *reign == Reign::default())
        && (flags & RESYNC != 0 || resync == Resync::default());
    possible.then_some(CopyRecord {
        sharing: if flags & SHARED == 0 {
            Sharing::Alone
        } else {
            Sharing::Shared
        },
        promised: Epoch(words[0]),
        appended: Lsn(words[1]),
        resync: (flags & RESYNC != 0).then_some(resync),
        reigns,
    })
}

/// Words of the place among the copies.
const COPY_WORDS: usize = 4 + 2 * REIGNS_KEPT;

const _: () = assert!(LEAF_ENTRIES == 50);
const _: () = assert!(CHILDREN == 500);
const _: () = assert!(COUNTS == 1000);
const _: () = assert!(TABLE_ENTRIES == 16);
const _: () = assert!(COPY_AT + 8 * COPY_WORDS == TABLE_ENTRY_BYTES);
