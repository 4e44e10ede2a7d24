//! Goal: the offline check names every damage, and a store that opens nevertheless never reads wrong data,
//! never gives out a chunk that is in use, and heals where the host overwrites.
//!
//! Method: one labelled row per damage, planted in the pages of one checkpoint. Rows that a broken disk can
//! cause change bytes only; rows that a broken program could cause also seal the page and its parents again.

use super::super::body::CHILDREN;
use super::super::page::{
    HEADER_BYTES, PAGE_BYTES, PageError, PageId, PageKind, PageRef, identify, seal,
};
use super::{Disk, checkpoint, geometry, load, put_fresh, record, run_loader};
use crate::block::{ChunkIndex, PhysicalChunk};
use crate::checksum::{crc32c, crc32c_append};
use crate::id::StoreId;
use crate::lsn::{FrameSeq, Lsn};
use crate::map::check::Finding;
use crate::map::entry::Entry;
use crate::map::page::Roots;
use crate::map::{Geometry, Map};
use std::collections::BTreeSet;
use std::string::String;
use std::vec::Vec;
use std::{format, println};

/// A map with every kind of page: three volumes, one of them a changed clone, attributes, two pages of counts.
pub(super) struct Sample {
    pub(super) geometry: Geometry,
    map: Map,
    pub(super) disk: Disk,
}

/// What a row does to the disk.
type Plant = fn(&mut Sample);

/// Does the text of a finding belong to the row?
type Expect = fn(&Finding) -> bool;

enum Fate {
    /// Opens; what is read is right or lost.
    Serves,
    /// Opens; the page was valid, so what it says is believed as far as it is possible.
    Believes,
    Refuses,
}

pub(super) fn sample() -> Sample {
    let geometry = geometry(1500, 2048);
    let (mut map, mut disk) = (Map::new(geometry), Disk::default());
    let first = map.create_volume(record(1)).unwrap();
    for index in (0..300).chain(25_000..25_010) {
        put_fresh(&mut map, first, index, FrameSeq(1));
    }
    let clone = map.clone_volume(first, record(2)).unwrap();
    put_fresh(&mut map, clone, 60, FrameSeq(1));
    let third = map.create_volume(record(3)).unwrap();
    for index in 0..800 {
        put_fresh(&mut map, third, index, FrameSeq(1));
    }
    map.set_attributes(third, &[9; 5000]);
    for number in 4..40 {
        map.create_volume(record(number)).unwrap();
    }
    checkpoint(&mut map, &mut disk, FrameSeq(1));
    Sample {
        geometry,
        map,
        disk,
    }
}

impl Sample {
    fn pages(&self) -> Vec<PageId> {
        let intact = |page: &Vec<u8>| identify(page, self.geometry.store).ok();
        let pages = self.disk.pages.values().filter_map(intact);
        pages.map(|(id, _)| id).collect()
    }

    /// The root of the third volume, or the last page of a kind: a leaf that two volumes share.
    fn slot(&self, kind: PageKind) -> u32 {
        if kind == PageKind::Interior {
            let third = self.map.find(record(3).id).unwrap();
            let root = self.map.at(third).root.unwrap();
            return self.map.nodes.at(root).page.slot().unwrap().0;
        }
        let pages = self.pages();
        let page = pages.iter().rev().find(|page| page.kind == kind);
        page.expect("every kind is there").slot.0
    }

    fn page(&mut self, kind: PageKind) -> &mut Vec<u8> {
        let slot = self.slot(kind);
        self.disk.pages.get_mut(&slot).unwrap()
    }

    fn forge_kind(&mut self, kind: PageKind, change: fn(&mut [u8])) {
        let slot = self.slot(kind);
        if kind != PageKind::Volumes {
            return forge(&mut self.disk, slot, &change);
        }
        let pages = self.pages();
        let first = pages.iter().find(|page| page.slot.0 == slot).unwrap().first;
        for page in pages {
            if page.kind == kind && page.first == first {
                forge(&mut self.disk, page.slot.0, &change);
            }
        }
    }
}

/// Changes the body of a page and everything above it, so that all checksums are right.
pub(super) fn forge(disk: &mut Disk, slot: u32, change: &dyn Fn(&mut [u8])) {
    let store = super::geometry(0, 0).store;
    let page = disk.pages.get_mut(&slot).unwrap();
    let (id, frame) = identify(page, store).unwrap();
    let old = reference(slot, page);
    change(&mut page[HEADER_BYTES..]);
    seal(page, store, id, frame);
    let new = reference(slot, page);
    if old == new {
        return;
    }
    let mut roots = disk.roots.encode();
    if replace(&mut roots, &old, &new) {
        disk.roots = Roots::decode(&roots);
    }
    let refers = |(_, page): &(&u32, &Vec<u8>)| find(&page[HEADER_BYTES..], &old).is_some();
    let parents = disk.pages.iter().filter(refers);
    let parents: Vec<u32> = parents.map(|(slot, _)| *slot).collect();
    for parent in parents {
        forge(disk, parent, &|body| assert!(replace(body, &old, &new)));
    }
}

fn reference(slot: u32, page: &[u8]) -> [u8; PageRef::BYTES] {
    let mut bytes = [0; PageRef::BYTES];
    bytes[..4].copy_from_slice(&(slot + 1).to_le_bytes());
    bytes[4..].copy_from_slice(&page[8..12]);
    bytes
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) -> bool {
    let mut any = false;
    while let Some(at) = find(bytes, old) {
        bytes[at..at + new.len()].copy_from_slice(new);
        any = true;
    }
    any
}

/// Seals a page whose header was changed on purpose.
fn seal_again(page: &mut [u8]) {
    let crc = crc32c_append(crc32c(&page[..8]), &page[12..]);
    page[8..12].copy_from_slice(&crc.to_le_bytes());
}

fn flip(sample: &mut Sample, kind: PageKind) {
    sample.page(kind)[PAGE_BYTES - 100] ^= 4;
}

fn flip_all(sample: &mut Sample, kind: PageKind) {
    for id in sample.pages() {
        if id.kind == kind {
            sample.disk.pages.get_mut(&id.slot.0).unwrap()[PAGE_BYTES - 100] ^= 4;
        }
    }
}

fn is_page(finding: &Finding, kind: PageKind, error: &PageError) -> bool {
    matches!(finding, Finding::Page { id, error: found } if id.kind == kind && found == error)
}

const ROWS: &[(&str, Plant, Expect, Fate)] = &[
    (
        "flip in a leaf",
        |s| flip(s, PageKind::Leaf),
        |f| is_page(f, PageKind::Leaf, &PageError::Checksum),
        Fate::Serves,
    ),
    (
        "flip in an interior page",
        |s| flip(s, PageKind::Interior),
        |f| is_page(f, PageKind::Interior, &PageError::Checksum),
        Fate::Serves,
    ),
    (
        "flip in an interior page: its chunks are listed as lost",
        |s| flip(s, PageKind::Interior),
        |f| matches!(f, Finding::ChunksLost { volume, .. } if *volume == record(3).id),
        Fate::Serves,
    ),
    (
        "flip in a page of counts",
        |s| flip(s, PageKind::Counts),
        |f| is_page(f, PageKind::Counts, &PageError::Checksum),
        Fate::Serves,
    ),
    (
        "flip in the root of the counts",
        |s| flip(s, PageKind::CountsInterior),
        |f| is_page(f, PageKind::CountsInterior, &PageError::Checksum),
        Fate::Serves,
    ),
    (
        "flips in the root of the counts and in a leaf",
        |s| {
            flip(s, PageKind::CountsInterior);
            flip(s, PageKind::Leaf);
        },
        |f| is_page(f, PageKind::Leaf, &PageError::Checksum),
        Fate::Serves,
    ),
    (
        "flip in the attributes",
        |s| flip(s, PageKind::Attributes),
        |f| matches!(f, Finding::AttributesLost(id) if *id == record(3).id),
        Fate::Serves,
    ),
    (
        "flip in one copy of the volume table",
        |s| flip(s, PageKind::Volumes),
        |f| is_page(f, PageKind::Volumes, &PageError::Checksum),
        Fate::Serves,
    ),
    (
        "flip in the root of one copy of the volume table",
        |s| flip(s, PageKind::VolumesInterior),
        |f| is_page(f, PageKind::VolumesInterior, &PageError::Checksum),
        Fate::Serves,
    ),
    (
        "flip in both copies of the volume table",
        |s| flip_all(s, PageKind::Volumes),
        |f| is_page(f, PageKind::Volumes, &PageError::Checksum),
        Fate::Refuses,
    ),
    (
        "flip in the roots of both copies of the volume table",
        |s| flip_all(s, PageKind::VolumesInterior),
        |f| is_page(f, PageKind::VolumesInterior, &PageError::Checksum),
        Fate::Refuses,
    ),
    (
        "copies of the volume table that say different things",
        |s| {
            let slot = s.slot(PageKind::Volumes);
            forge(&mut s.disk, slot, &|body| body[32] ^= 1);
        },
        |f| matches!(f, Finding::TableDiffers(2)),
        Fate::Refuses,
    ),
    (
        "flip in a header",
        |s| s.page(PageKind::Leaf)[60] ^= 1,
        |f| is_page(f, PageKind::Leaf, &PageError::Checksum),
        Fate::Serves,
    ),
    (
        "flip in a stored checksum",
        |s| s.page(PageKind::Leaf)[9] ^= 1,
        |f| is_page(f, PageKind::Leaf, &PageError::Checksum),
        Fate::Serves,
    ),
    (
        "unreadable leaf",
        |s| s.page(PageKind::Leaf).clear(),
        |f| is_page(f, PageKind::Leaf, &PageError::Unreadable),
        Fate::Serves,
    ),
    (
        "leaf never written",
        |s| s.page(PageKind::Leaf).fill(0),
        |f| is_page(f, PageKind::Leaf, &PageError::Magic),
        Fate::Serves,
    ),
    (
        "leaf of another version",
        |s| {
            let page = s.page(PageKind::Leaf);
            page[4] = 2;
            seal_again(page);
        },
        |f| is_page(f, PageKind::Leaf, &PageError::Version(2)),
        Fate::Serves,
    ),
    (
        "stale leaf: an older one is still in the slot",
        |s| {
            let page = s.page(PageKind::Leaf);
            page[HEADER_BYTES + 8] ^= 1;
            seal_again(page);
        },
        |f| is_page(f, PageKind::Leaf, &PageError::Stale),
        Fate::Serves,
    ),
    (
        "leaf of another store",
        |s| {
            let page = s.page(PageKind::Leaf);
            page[16] ^= 1;
            seal_again(page);
        },
        |f| {
            let mut other = StoreId([7; 16]);
            other.0[0] ^= 1;
            is_page(f, PageKind::Leaf, &PageError::OtherStore(other))
        },
        Fate::Serves,
    ),
    (
        "misdirected write: another page is in the slot",
        |s| *s.page(PageKind::Leaf) = s.page(PageKind::Counts).clone(),
        |f| {
            matches!(
                f,
                Finding::Page {
                    error: PageError::OtherPage(_),
                    ..
                }
            )
        },
        Fate::Serves,
    ),
    (
        "impossible entry",
        |s| s.forge_kind(PageKind::Leaf, |body| body[4..6].fill(0)),
        |f| is_page(f, PageKind::Leaf, &PageError::Body),
        Fate::Serves,
    ),
    (
        "empty leaf",
        |s| s.forge_kind(PageKind::Leaf, |body| body.fill(0)),
        |f| is_page(f, PageKind::Leaf, &PageError::Body),
        Fate::Serves,
    ),
    (
        "chunk out of range",
        |s| s.forge_kind(PageKind::Leaf, |body| body[2] = 0xff),
        |f| matches!(f, Finding::ChunkOutOfRange { .. }),
        Fate::Believes,
    ),
    (
        "leaked chunk",
        |s| s.forge_kind(PageKind::Counts, |body| body[4 * 499] = 1),
        |f| {
            let chunk = PhysicalChunk(1499);
            *f == Finding::ChunkLeaked { chunk, counted: 1 }
        },
        Fate::Serves,
    ),
    (
        "count too high",
        |s| s.forge_kind(PageKind::Counts, |body| body[0] += 1),
        |f| {
            matches!(
                f,
                Finding::CountWrong {
                    counted: 2,
                    found: 1,
                    ..
                }
            )
        },
        Fate::Serves,
    ),
    (
        "count too low",
        |s| s.forge_kind(PageKind::Counts, |body| body[0] = 0),
        |f| {
            matches!(
                f,
                Finding::CountWrong {
                    counted: 0,
                    found: 1,
                    ..
                }
            )
        },
        Fate::Serves,
    ),
    (
        "chunk referenced twice, counted once",
        |s| s.forge_kind(PageKind::Leaf, |body| body.copy_within(0..4, 80)),
        |f| {
            matches!(
                f,
                Finding::CountWrong {
                    counted: 1,
                    found: 2,
                    ..
                }
            )
        },
        Fate::Believes,
    ),
    (
        "slot out of range",
        |s| s.forge_kind(PageKind::Interior, |body| body[3] = 0x7f),
        |f| matches!(f, Finding::SlotOutOfRange(_)),
        Fate::Serves,
    ),
    (
        "slot referenced twice, by two places of one page",
        |s| s.forge_kind(PageKind::Interior, |body| body.copy_within(0..8, 8)),
        |f| matches!(f, Finding::SlotTwice(_)),
        Fate::Serves,
    ),
    (
        "impossible reference",
        |s| s.forge_kind(PageKind::Interior, |body| body[8 * (CHILDREN - 1) + 4] = 1),
        |f| is_page(f, PageKind::Interior, &PageError::Body),
        Fate::Serves,
    ),
    (
        "count that cannot be reached",
        |s| s.forge_kind(PageKind::Counts, |body| body[3] = 0xff),
        |f| is_page(f, PageKind::Counts, &PageError::Body),
        Fate::Serves,
    ),
    (
        "counts behind the last chunk",
        |s| s.forge_kind(PageKind::Counts, |body| body[4 * 500] = 1),
        |f| is_page(f, PageKind::Counts, &PageError::Body),
        Fate::Serves,
    ),
    (
        "volume twice",
        |s| s.forge_kind(PageKind::Volumes, |body| body.copy_within(0..16, 240)),
        |f| matches!(f, Finding::VolumeTwice(_)),
        Fate::Refuses,
    ),
    (
        "impossible volume",
        |s| s.forge_kind(PageKind::Volumes, |body| body[49] = 4),
        |f| is_page(f, PageKind::Volumes, &PageError::Body),
        Fate::Refuses,
    ),
    (
        "chunks behind the end of their volume",
        |s| {
            for page in s.pages() {
                if page.kind == PageKind::Volumes && page.first == 0 {
                    forge(&mut s.disk, page.slot.0, &|body| {
                        body[16..24].copy_from_slice(&160u64.to_le_bytes())
                    });
                }
            }
        },
        |f| {
            matches!(
                f,
                Finding::BehindEnd {
                    index: ChunkIndex(10),
                    ..
                }
            )
        },
        Fate::Serves,
    ),
];

/// What is read must be what was written, or lost.
fn reads_right_or_lost(label: &str, sample: &Sample, loaded: &Map) {
    for (slot, record) in sample.map.volumes() {
        let found = loaded.find(record.id).unwrap();
        for index in (0..1000).chain(24_990..25_060).map(ChunkIndex) {
            let (read, written) = (loaded.get(found, index), sample.map.get(slot, index));
            assert!(
                read == written || *read == Entry::LOST,
                "{label}: {index:?}"
            );
        }
        let attributes = loaded.attributes(found);
        assert!(attributes.is_none() || attributes == sample.map.attributes(slot));
    }
}

/// No chunk that was in use is given out, though some pages cannot be read.
fn gives_out_only_free_chunks(label: &str, sample: &Sample, loaded: &mut Map) {
    let mut used = BTreeSet::new();
    for (slot, _) in sample.map.volumes() {
        for index in (0..1000).chain(25_000..25_010).map(ChunkIndex) {
            used.extend(sample.map.get(slot, index).chunk());
        }
    }
    while loaded.reserve_chunk().is_ok() {
        let chunk = loaded.allocate_chunk();
        assert!(!used.contains(&chunk), "{label}: {chunk:?}");
        loaded.release_chunk_now(chunk);
        loaded.claim_chunk(chunk).unwrap(); // Held until the end of the row.
    }
}

/// The host overwrites what is lost: after the next checkpoint at most chunks leak, after another start not even those.
fn heals(label: &str, sample: &Sample, mut loaded: Map) {
    let mut disk = sample.disk.clone();
    let records: Vec<_> = loaded
        .volumes()
        .map(|(slot, record)| (slot, record.id))
        .collect();
    for (slot, id) in records {
        loaded.set_attributes(slot, b"set again");
        let mut at = ChunkIndex(0);
        while let Some(index) = loaded.next_mapped(slot, at, ChunkIndex(30_000)) {
            if *loaded.get(slot, index) == Entry::LOST {
                assert!(loaded.needs_space(id, index));
                let zeros = Entry::without_chunk(0, Lsn(1000), [0; crate::limits::CHUNK_BLOCKS]);
                loaded.put(slot, index, zeros, FrameSeq(2));
            }
            at = ChunkIndex(index.0 + 1);
        }
    }
    assert!(loaded.check().iter().all(is_leak), "{label}");
    checkpoint(&mut loaded, &mut disk, FrameSeq(2));
    let (loaded, findings) = run_loader(sample.geometry, &disk);
    assert!(findings.iter().all(is_leak), "{label}: {findings:?}");
    let mut loaded = loaded.unwrap();
    checkpoint(&mut loaded, &mut disk, FrameSeq(3));
    let (loaded, findings) = run_loader(sample.geometry, &disk);
    let sound = |f: &Finding| matches!(f, Finding::BehindEnd { .. });
    assert!(findings.iter().all(sound), "{label}: {findings:?}");
    assert_eq!(loaded.unwrap().check(), []);
}

/// What remains when a lost page was overwritten, until the next start.
fn is_leak(finding: &Finding) -> bool {
    match finding {
        Finding::ChunkLeaked { .. } | Finding::BehindEnd { .. } => true,
        Finding::CountWrong { counted, found, .. } => counted > found,
        _ => false,
    }
}

#[test]
fn every_planted_damage_is_found_and_contained() {
    for (label, plant, expect, fate) in ROWS {
        let mut sample = sample();
        load(sample.geometry, &sample.disk); // The sample is sound.
        plant(&mut sample);
        let (loaded, findings) = run_loader(sample.geometry, &sample.disk);
        let texts: Vec<String> = findings
            .iter()
            .map(|finding| format!("{finding}"))
            .collect();
        println!("{label}: {}", texts.join("; "));
        assert!(findings.iter().any(expect), "{label}");
        assert_eq!(loaded.is_none(), matches!(fate, Fate::Refuses), "{label}");
        let Some(mut loaded) = loaded else { continue };
        assert_eq!(loaded.check(), [], "{label}");
        if matches!(fate, Fate::Serves) {
            reads_right_or_lost(label, &sample, &loaded);
            gives_out_only_free_chunks(label, &sample, &mut loaded);
            let (loaded, _) = run_loader(sample.geometry, &sample.disk);
            heals(label, &sample, *loaded.unwrap());
        }
    }
}

#[test]
fn damage_of_one_volume_leaves_the_others_whole() {
    let mut sample = sample();
    flip(&mut sample, PageKind::Interior);
    let (loaded, _) = run_loader(sample.geometry, &sample.disk);
    let loaded = loaded.unwrap();
    for number in [1, 2] {
        let slot = loaded.find(record(number).id).unwrap();
        for index in (0..1000).map(ChunkIndex) {
            assert_eq!(loaded.get(slot, index), sample.map.get(slot, index));
        }
    }
    let third = loaded.find(record(3).id).unwrap();
    assert_eq!(*loaded.get(third, ChunkIndex(5)), Entry::LOST);
}
