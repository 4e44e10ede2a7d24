//! Goal: the report says what is in a store, and each damage that a person can meet appears in it.

use super::{Depth, Inspection, Report, Step};
use crate::block::{Block, BlockRange, PhysicalChunk, StoreOffset};
use crate::id::{StoreId, VolumeId};
use crate::limits::{BLOCK_BYTES, CHUNK_BLOCKS};
use crate::lsn::Epoch;
use crate::store::layout::{Layout, SUPERBLOCKS};
use crate::store::{Config, Event, Tag};
use crate::testing::disk::Image;
use crate::testing::driver::{Driver, formatted};
use std::rc::Rc;
use std::string::String;
use std::vec::Vec;

const VOLUME: VolumeId = VolumeId([3; 16]);
const WHOLE_CHUNK: u32 = 16;

fn layout() -> Layout {
    Layout::with_log(24 << 20, 1 << 20, 8).unwrap()
}

fn inspect(image: &Image, depth: Depth) -> Report {
    let mut inspection = Inspection::new(image.bytes(), depth);
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    loop {
        let slices: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
        match inspection.step(&slices) {
            Step::Read(reads) => {
                let read = |read: &super::ReadRequest| image.read(read.offset, read.bytes);
                buffers = reads.iter().map(read).collect();
            }
            Step::Done(report) => return *report,
        }
    }
}

/// A store with a volume of 1000 blocks: 40 chunks in the map, 5 blocks in the log behind the checkpoint.
fn sample() -> Image {
    let image = formatted(StoreId([1; 16]), layout());
    let mut driver = Driver::open(image, Config::default(), 1).unwrap();
    driver.settle();
    driver.event(Event::CreateVolume {
        tag: Tag(1),
        id: VOLUME,
        size_blocks: 1000,
        epoch: Epoch(1),
        sharing: crate::store::append::Sharing::Alone,
    });
    driver.settle();
    for chunk in 0..40 {
        write(&mut driver, chunk * CHUNK_BLOCKS as u64, WHOLE_CHUNK);
    }
    driver.event(Event::Checkpoint { tag: Tag(2) });
    driver.settle();
    write(&mut driver, 990, 5);
    assert!(driver.completed.iter().all(|(_, result)| result.is_ok()));
    driver.disk.current().clone()
}

fn write(driver: &mut Driver, first: u64, count: u32) {
    let first = Block(first);
    let block = |at: u32| Rc::new([u8::try_from(at).unwrap() + 1; BLOCK_BYTES]);
    let blocks = (0..count).map(block).collect();
    driver.write(Tag(9), VOLUME, BlockRange { first, count }, blocks);
    driver.settle();
}

#[test]
fn report_says_what_is_in_the_store() {
    let report = inspect(&sample(), Depth::Data);
    assert!(report.is_sound(), "{:?}", report.findings);
    assert_eq!(report.copies.len(), 2);
    assert_eq!(report.blocks_verified, 40 * CHUNK_BLOCKS as u64 + 5);
    let inside = report.inside.unwrap();
    assert_eq!(inside.id, StoreId([1; 16]));
    assert_eq!(inside.layout, layout());
    assert_eq!(inside.usage.chunks_used, 40);
    assert_eq!(inside.usage.chunks_shared, 0);
    assert!(!inside.clean);
    assert!(inside.log_frames >= 1);
    assert!(inside.log_bytes_used >= 6 * BLOCK_BYTES as u64);
    assert_eq!(inside.volumes.len(), 1);
    assert_eq!(inside.volumes[0].size_blocks, 1000);
    assert_eq!(inside.volumes[0].chunks, 40);
}

#[test]
fn empty_store_is_sound_and_empty() {
    let report = inspect(&formatted(StoreId([1; 16]), layout()), Depth::Data);
    assert!(report.is_sound());
    let inside = report.inside.unwrap();
    assert_eq!(inside.usage.chunks_free, layout().chunks);
    assert_eq!(inside.volumes, []);
    assert!(inside.clean);
}

/// Label, where a bit flips, how deep to look, what a finding says. The store still opens.
type Row = (
    &'static str,
    fn(&Layout) -> StoreOffset,
    Depth,
    &'static str,
);

const ROWS: &[Row] = &[
    (
        "first superblock copy",
        |_| SUPERBLOCKS[0],
        Depth::Structure,
        "superblock copy 0",
    ),
    (
        "second superblock copy",
        |_| SUPERBLOCKS[1],
        Depth::Structure,
        "superblock copy 1",
    ),
    (
        "data of a chunk",
        |layout| layout.chunk(PhysicalChunk(7)),
        Depth::Data,
        "is damaged (checksum)",
    ),
];

#[test]
fn each_flipped_bit_is_reported() {
    for (label, place, depth, expected) in ROWS {
        let mut image = sample();
        image.flip(place(&layout()), 4000);
        let report = inspect(&image, *depth);
        assert!(!report.is_sound(), "{label}");
        assert!(mentions(&report, expected), "{label}: {report:?}");
        assert!(report.inside.is_some(), "{label}");
    }
}

#[test]
fn every_page_of_the_map_is_looked_at() {
    let image = sample();
    let layout = layout();
    let mut pages = 0;
    for slot in 0..layout.page_slots {
        let mut image = image.clone();
        if image.block(layout.page(slot)).is_none() {
            continue;
        }
        image.flip(layout.page(slot), 9999);
        let report = inspect(&image, Depth::Data);
        // Pages of older checkpoints may be damaged without harm.
        pages += u32::from(!report.is_sound());
    }
    assert!(pages >= 4, "{pages}"); // A leaf, counts, the volume table and its root.
}

#[test]
fn damage_in_the_log_refuses_and_still_reports_the_map() {
    let image = formatted(StoreId([1; 16]), layout());
    let mut driver = Driver::open(image, Config::default(), 1).unwrap();
    driver.settle();
    driver.event(Event::CreateVolume {
        tag: Tag(1),
        id: VOLUME,
        size_blocks: 1000,
        epoch: Epoch(1),
        sharing: crate::store::append::Sharing::Alone,
    });
    driver.settle();
    for _ in 0..3 {
        write(&mut driver, 3, 2);
    }
    let mut image = driver.disk.current().clone();
    let log = layout().log_start();
    let used = (0..64).map(|block| log.plus(block * BLOCK_BYTES as u64));
    let first = used.into_iter().find(|at| image.block(*at).is_some());
    image.flip(first.unwrap(), 800);
    let report = inspect(&image, Depth::Data);
    assert!(report.inside.is_none());
    assert!(report.refused.unwrap().contains("log"));
    assert_eq!(report.findings.len(), 0);
}

#[test]
fn what_is_no_store_is_refused() {
    for bytes in [0, BLOCK_BYTES as u64, 64 << 20] {
        let report = inspect(&Image::zeros(bytes), Depth::Data);
        assert!(report.inside.is_none());
        assert!(report.refused.unwrap().contains("not a Holdfast store"));
    }
}

fn mentions(report: &Report, expected: &str) -> bool {
    let texts: Vec<&String> = report.findings.iter().chain(&report.refused).collect();
    texts.iter().any(|text| text.contains(expected))
}
