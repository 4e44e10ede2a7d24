//! The seeded loops of the fuzz bodies.

use super::{Seeds, log_frame, mutate, plant, store, superblock};
use crate::block::{Block, BlockRange, StoreOffset};
use crate::id::{StoreId, VolumeId};
use crate::limits::BLOCK_BYTES;
use crate::lsn::Epoch;
use crate::store::append::Sharing;
use crate::store::layout::{Layout, SUPERBLOCKS};
use crate::store::{Config, Event, Tag};
use crate::testing::disk::Image;
use crate::testing::driver::{Driver, formatted};
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

const STORE: StoreId = StoreId([1; 16]);
const VOLUME: VolumeId = VolumeId([3; 16]);

fn layout() -> Layout {
    Layout::with_log(12 << 20, 256 << 10, 8).unwrap()
}

/// A store with every kind of record in its log, some of them behind a checkpoint.
fn sample() -> Image {
    let image = formatted(STORE, layout());
    let mut driver = Driver::open(image, Config::default(), 1).unwrap();
    driver.settle();
    for turn in 0..2 {
        let tag = Tag(turn);
        let id = VolumeId([3 + u8::try_from(turn).unwrap(); 16]);
        let (size_blocks, epoch) = (1000, Epoch(1));
        driver.event(Event::CreateVolume {
            tag,
            id,
            size_blocks,
            epoch,
            sharing: Sharing::Alone,
        });
        driver.settle();
        for (first, count) in [(0, 3), (32, 32), (70, 1), (2, 2)] {
            let blocks = (0..count).map(|_| Rc::new([7; BLOCK_BYTES])).collect();
            let first = Block(first);
            driver.write(tag, VOLUME, BlockRange { first, count }, blocks);
            driver.settle();
        }
        driver.event(Event::Unmap {
            tag,
            volume: VOLUME,
            range: BlockRange {
                first: Block(33),
                count: 20,
            },
        });
        driver.event(Event::SetAttributes {
            tag,
            volume: VOLUME,
            bytes: vec![9; 5000],
        });
        driver.settle();
        let size_blocks = 2000 + turn;
        driver.event(Event::ResizeVolume {
            tag,
            id,
            size_blocks,
        });
        let epoch = Epoch(2 + turn);
        driver.event(Event::BeginEpoch {
            tag,
            volume: id,
            epoch,
            sharing: Sharing::Alone,
        });
        driver.settle();
        if turn == 0 {
            driver.event(Event::Checkpoint { tag });
            driver.settle();
        }
    }
    assert!(driver.completed.iter().all(|(_, result)| result.is_ok()));
    driver.disk.current().clone()
}

/// Offsets of superblocks and of log blocks that begin a frame.
fn heads(image: &Image) -> Vec<StoreOffset> {
    let blocks = layout().log_bytes() / BLOCK_BYTES as u64;
    let log = (0..blocks).map(|block| layout().log_start().plus(block * BLOCK_BYTES as u64));
    let begins = |at: &StoreOffset| image.block(*at).is_some_and(|block| block[..4] == *b"HFFR");
    SUPERBLOCKS.into_iter().chain(log.filter(begins)).collect()
}

#[test]
fn any_superblock_decodes_to_itself_or_not_at_all() {
    let image = sample();
    for (_, mut random) in Seeds::from_environment(20_000) {
        let mut block = image.read(SUPERBLOCKS[0], BLOCK_BYTES);
        superblock(&block);
        mutate(&mut block[..100], &mut random);
        superblock(&block);
    }
}

#[test]
fn any_log_frame_decodes_to_itself_or_not_at_all() {
    let image = sample();
    let heads = heads(&image).split_off(2);
    assert!(heads.len() > 10);
    let end = layout().pages_start().0;
    for (_, mut random) in Seeds::from_environment(5_000) {
        let at = *random.choice(&heads).unwrap();
        let length = usize::try_from(end - at.0).unwrap().min(64 << 10);
        let mut bytes = image.read(at, length);
        log_frame(&bytes, STORE);
        mutate(&mut bytes[..400], &mut random);
        log_frame(&bytes, STORE);
        bytes.truncate(random.usize(..length));
        log_frame(&bytes, STORE);
    }
}

#[test]
fn any_store_with_forged_superblocks_and_frames_is_inspected_to_its_end() {
    let sound = sample();
    assert!(store(&sound).is_sound());
    let heads = heads(&sound);
    let (mut opened, mut refused) = (0u32, 0u32);
    for (_, mut random) in Seeds::from_environment(150) {
        let mut image = sound.clone();
        for _ in 0..random.u32(1..4) {
            let at = *random.choice(&heads).unwrap();
            let mut block = image.read(at, BLOCK_BYTES);
            mutate(&mut block[8..300], &mut random);
            plant(&mut image, at, block);
        }
        let report = store(&image);
        opened += u32::from(report.inside.is_some());
        refused += u32::from(report.refused.is_some());
        assert!(report.inside.is_some() != report.refused.is_some());
    }
    std::println!("{opened} opened, {refused} refused");
}
