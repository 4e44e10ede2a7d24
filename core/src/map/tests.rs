//! Tests of the chunk map: what they share, and one file per question.

mod basics;
mod damage;
mod fuzz;
mod golden;
mod model;
mod scale;

use super::check::Finding;
use super::entry::Entry;
use super::load::{Loader, Step};
use super::page::{PAGE_BYTES, Roots};
use super::{CopyRecord, Geometry, Map, VolumeRecord, VolumeSlot};
use crate::block::{ChunkIndex, PhysicalChunk};
use crate::id::{StoreId, VolumeId};
use crate::lsn::{Epoch, FrameSeq, Lsn};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec::Vec;

/// The metadata area of a store and the roots in its superblock.
#[derive(Clone, Default)]
struct Disk {
    pages: BTreeMap<u32, Vec<u8>>,
    roots: Roots,
}

fn geometry(chunk_count: u32, page_slot_count: u32) -> Geometry {
    Geometry {
        store: StoreId([7; 16]),
        chunk_count,
        page_slot_count,
    }
}

fn record(number: u8) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId([number; 16]),
        size_blocks: 1 << 34,
        epoch: Epoch(1),
        lsn: Lsn(0),
        copy: CopyRecord::default(),
    }
}

/// An entry that is recognised again: everything follows from `seed`.
fn entry(chunk: PhysicalChunk, seed: u64) -> Entry {
    let mut random = fastrand::Rng::with_seed(seed);
    let present = random.u16(1..);
    let bad = random.u16(..) & !present;
    let checksums = core::array::from_fn(|_| random.u32(..));
    Entry::stored(chunk, present, bad, Lsn(seed), checksums)
}

/// Puts a freshly allocated chunk.
fn put_fresh(map: &mut Map, volume: VolumeSlot, index: u64, frame: FrameSeq) -> PhysicalChunk {
    map.reserve_chunk().unwrap();
    let chunk = map.allocate_chunk();
    let value = entry(chunk, index + 1);
    map.put(volume, ChunkIndex(index), value, frame);
    chunk
}

/// Writes pages `pages_max` at a time, without making the roots durable.
fn write_pages(map: &mut Map, disk: &mut Disk, frame: FrameSeq, pages_max: usize) -> usize {
    map.begin_encode(frame);
    let mut written = 0;
    loop {
        let runs = map.encode_some(pages_max);
        if runs.is_empty() {
            return written;
        }
        for run in runs {
            for (slot, page) in (run.first.0..).zip(run.bytes.chunks_exact(PAGE_BYTES)) {
                disk.pages.insert(slot, page.to_vec());
                written += 1;
            }
        }
    }
}

/// A whole checkpoint. Returns the pages written.
fn checkpoint(map: &mut Map, disk: &mut Disk, frame: FrameSeq) -> usize {
    let written = write_pages(map, disk, frame, 256);
    disk.roots = map.roots();
    map.checkpoint_durable(frame);
    written
}

fn run_loader(geometry: Geometry, disk: &Disk) -> (Option<Box<Map>>, Vec<Finding>) {
    let mut loader = Loader::new(geometry, disk.roots);
    let mut pages: Vec<Vec<u8>> = Vec::new();
    loop {
        let slices: Vec<&[u8]> = pages.iter().map(Vec::as_slice).collect();
        match loader.step(&slices) {
            Step::Read(slots) => {
                assert!(slots.is_sorted());
                pages = slots
                    .iter()
                    .map(|slot| disk.pages.get(&slot.0).cloned().unwrap_or_default())
                    .collect();
            }
            Step::Done(map, findings) => return (Some(map), findings),
            Step::Refused(findings) => return (None, findings),
        }
    }
}

/// Loads an intact map: I10 holds and the map is consistent.
fn load(geometry: Geometry, disk: &Disk) -> Map {
    let (map, findings) = run_loader(geometry, disk);
    assert_eq!(findings, []);
    let map = *map.unwrap();
    assert_eq!(map.check(), []);
    map
}
