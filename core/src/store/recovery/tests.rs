//! Damage to every kind of structure: never a wrong byte, a reason where nothing good is left (I8).

use super::*;
use crate::block::{Block, BlockRange};
use crate::id::{StoreId, VolumeId};
use crate::limits::BLOCK_BYTES;
use crate::lsn::Epoch;
use crate::map::page::{PageKind, identify};
use crate::store::{Event, Location, Lookup, Tag};
use crate::testing::disk::Image;
use crate::testing::driver::{BlockRead, Driver, formatted, recover};
use alloc::rc::Rc;

const VOLUME: VolumeId = VolumeId([7; 16]);

fn driver() -> Driver {
    let layout = Layout {
        segment_bytes: 256 << 10,
        segments: 4,
        page_slots: 256,
        chunks: 64,
    };
    let image = formatted(StoreId([1; 16]), layout);
    let mut driver = Driver::open(image, Config::default(), 1).unwrap();
    driver.event(Event::CreateVolume {
        tag: Tag(1),
        id: VOLUME,
        size_blocks: 4096,
        epoch: Epoch(1),
        sharing: crate::store::append::Sharing::Alone,
    });
    driver.settle();
    driver
}

fn write(driver: &mut Driver, first: u64, count: u32, value: u8) {
    let block = Rc::new([value; BLOCK_BYTES]);
    let blocks = vec![block; count as usize];
    driver.write(Tag(2), VOLUME, range(first, count), blocks);
    driver.settle();
}

fn checkpoint(driver: &mut Driver) {
    driver.event(Event::Checkpoint { tag: Tag(3) });
    driver.settle();
    assert!(driver.store.is_clean());
}

fn range(first: u64, count: u32) -> BlockRange {
    let first = Block(first);
    BlockRange { first, count }
}

fn place(driver: &Driver, block: u64) -> StoreOffset {
    let mut lookup = Lookup::default();
    let found = driver.store.lookup(VOLUME, range(block, 1), &mut lookup);
    assert_eq!(found, Ok(()));
    match lookup.extents[0].location {
        Location::Stored(offset) => offset,
        other => panic!("block {block} is {other:?}"),
    }
}

fn reopen(image: &Image) -> Result<Driver, OpenError> {
    let mut driver = Driver::open(image.clone(), Config::default(), 2)?;
    driver.settle();
    Ok(driver)
}

fn read(driver: &Driver, block: u64) -> Option<u8> {
    match &driver.read(VOLUME, range(block, 1)).unwrap()[0] {
        BlockRead::Zero => Some(0),
        BlockRead::Data(block) => Some(block[0]),
        BlockRead::Bad => None,
    }
}

fn flipped(driver: &Driver, offset: StoreOffset, bit: usize) -> Image {
    let mut image = driver.disk.current().clone();
    image.flip(offset, bit);
    image
}

#[test]
fn damaged_log_in_front_of_later_frames_is_refused_and_says_where() {
    let mut driver = driver();
    (0..5).for_each(|at| write(&mut driver, at, 1, 1));
    for block in 0..4 {
        for back in [0, 1] {
            let offset = StoreOffset(place(&driver, block).0 - back * BLOCK_BYTES as u64);
            let error = reopen(&flipped(&driver, offset, 555)).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, OpenError::Log(_)));
            assert!(text.contains(&format!("frame {}", block + 3)), "{text}");
        }
    }
}

#[test]
fn damaged_last_frame_is_cut() {
    let mut driver = driver();
    (0..5).for_each(|at| write(&mut driver, at, 1, 1));
    let image = flipped(&driver, place(&driver, 4), 555);
    let driver = reopen(&image).unwrap();
    assert_eq!(read(&driver, 3), Some(1));
    assert_eq!(read(&driver, 4), Some(0));
}

#[test]
fn damaged_chunk_data_is_a_medium_error_and_nothing_else() {
    let mut driver = driver();
    write(&mut driver, 0, 40, 1);
    checkpoint(&mut driver);
    for bit in [0, 77, BLOCK_BYTES * 8 - 1] {
        let driver = reopen(&flipped(&driver, place(&driver, 21), bit)).unwrap();
        assert_eq!(read(&driver, 20), Some(1));
        assert_eq!(read(&driver, 21), None);
        assert_eq!(read(&driver, 22), Some(1));
    }
}

#[test]
fn damaged_map_page_costs_what_it_describes() {
    let mut driver = driver();
    write(&mut driver, 0, 4, 1);
    checkpoint(&mut driver);
    let layout = *driver.store.layout();
    for slot in 0..layout.page_slots {
        let offset = layout.page(slot);
        if driver.disk.current().block(offset).is_none() {
            continue;
        }
        let image = flipped(&driver, offset, 8 * 200 + 3);
        match recover(&image, Config::default()) {
            Err(error) => panic!("page slot {slot}: {error}"),
            Ok((_, findings)) => {
                let damaged = reopen(&image).unwrap();
                let value = read(&damaged, 2);
                assert!(value.is_none() || value == Some(1));
                assert!(value.is_some() || !findings.is_empty());
            }
        }
    }
}

#[test]
fn one_copy_of_the_volume_table_is_enough_and_the_other_is_mended() {
    let mut driver = driver();
    write(&mut driver, 0, 4, 1);
    checkpoint(&mut driver);
    for kind in [PageKind::Volumes, PageKind::VolumesInterior] {
        let places = pages(&driver, kind);
        assert_eq!(places.len(), 2);
        let apart = places[1].0 - places[0].0;
        assert!(apart >= 64 * BLOCK_BYTES as u64, "one bad place holds both");
        for place in &places {
            let image = flipped(&driver, *place, 8 * 200 + 3);
            let (_, findings) = recover(&image, Config::default()).unwrap();
            assert_eq!(findings.len(), 1);
            let mut damaged = reopen(&image).unwrap();
            assert_eq!(read(&damaged, 2), Some(1));
            checkpoint(&mut damaged);
            let (_, findings) = recover(damaged.disk.current(), Config::default()).unwrap();
            assert_eq!(findings, [""; 0]);
        }
        let mut image = flipped(&driver, places[0], 8 * 200 + 3);
        image.flip(places[1], 8 * 200 + 3);
        let error = reopen(&image).unwrap_err();
        assert!(matches!(error, OpenError::Map(_)), "{error}");
    }
}

fn attributes(driver: &mut Driver, bytes: &[u8]) {
    driver.event(Event::SetAttributes {
        tag: Tag(4),
        volume: VOLUME,
        bytes: bytes.to_vec(),
    });
    driver.settle();
}

/// Places of the map pages of `kind` that the last checkpoint refers to or an older one left.
fn pages(driver: &Driver, kind: PageKind) -> Vec<StoreOffset> {
    let layout = *driver.store.layout();
    let image = driver.disk.current();
    (0..layout.page_slots)
        .map(|slot| layout.page(slot))
        .filter(|at| {
            let page = identify(&image.read(*at, BLOCK_BYTES), driver.store.id());
            page.is_ok_and(|(id, _)| id.kind == kind)
        })
        .collect()
}

/// Cost of its loss: a host writes past a reservation that another one holds.
#[test]
fn volume_with_damaged_attributes_says_so_and_keeps_them_damaged() {
    let mut driver = driver();
    write(&mut driver, 0, 4, 1);
    attributes(&mut driver, b"reserved");
    checkpoint(&mut driver);
    let places = pages(&driver, PageKind::Attributes);
    assert_eq!(places.len(), 1);
    let mut damaged = reopen(&flipped(&driver, places[0], 8 * 100)).unwrap();
    assert!(damaged.store.volume(VOLUME).unwrap().attributes_lost);
    assert_eq!(damaged.store.attributes(VOLUME), None);
    assert_eq!(read(&damaged, 3), Some(1));
    // A checkpoint of other things does not make the loss look like an empty blob.
    write(&mut damaged, 8, 4, 2);
    checkpoint(&mut damaged);
    let mut again = reopen(damaged.disk.current()).unwrap();
    assert!(again.store.volume(VOLUME).unwrap().attributes_lost);
    attributes(&mut again, b"anew");
    assert!(!again.store.volume(VOLUME).unwrap().attributes_lost);
    checkpoint(&mut again);
    let mended = reopen(again.disk.current()).unwrap();
    assert_eq!(mended.store.attributes(VOLUME), Some(&b"anew"[..]));
}

#[test]
fn attributes_in_the_log_replace_a_damaged_page() {
    let mut driver = driver();
    attributes(&mut driver, b"reserved");
    checkpoint(&mut driver);
    attributes(&mut driver, b"newer");
    let places = pages(&driver, PageKind::Attributes);
    let damaged = reopen(&flipped(&driver, places[0], 8 * 100)).unwrap();
    assert_eq!(damaged.store.attributes(VOLUME), Some(&b"newer"[..]));
}

#[test]
fn volume_with_damaged_attributes_can_be_removed() {
    let mut driver = driver();
    attributes(&mut driver, b"reserved");
    checkpoint(&mut driver);
    let places = pages(&driver, PageKind::Attributes);
    let mut damaged = reopen(&flipped(&driver, places[0], 8 * 100)).unwrap();
    let (tag, id) = (Tag(5), VOLUME);
    damaged.event(Event::RemoveVolume { tag, id });
    damaged.settle();
    checkpoint(&mut damaged);
    let (store, findings) = recover(damaged.disk.current(), Config::default()).unwrap();
    assert_eq!(store.volumes().count(), 0);
    assert_eq!(findings, [""; 0]);
}

#[test]
fn one_damaged_superblock_serves_and_is_mended() {
    let mut driver = driver();
    write(&mut driver, 0, 4, 1);
    checkpoint(&mut driver);
    write(&mut driver, 4, 4, 2);
    for copy in [0, 1] {
        let image = flipped(&driver, SUPERBLOCKS[copy], 1234);
        let (_, findings) = recover(&image, Config::default()).unwrap();
        assert_eq!(findings.len(), 1);
        let mended = reopen(&image).unwrap();
        assert_eq!((read(&mended, 3), read(&mended, 7)), (Some(1), Some(2)));
        let (_, findings) = recover(mended.disk.current(), Config::default()).unwrap();
        assert_eq!(findings, [""; 0]);
    }
}

#[test]
fn two_damaged_superblocks_are_refused() {
    let driver = driver();
    let mut image = flipped(&driver, SUPERBLOCKS[0], 1234);
    image.flip(SUPERBLOCKS[1], 4321);
    let error = reopen(&image).unwrap_err();
    assert!(matches!(error, OpenError::Superblocks(_)), "{error}");
}

#[test]
fn what_is_no_store_is_refused() {
    let image = Image::zeros(16 << 20);
    assert_eq!(reopen(&image).unwrap_err(), OpenError::NotFormatted);
    let image = Image::zeros(4096);
    assert_eq!(reopen(&image).unwrap_err(), OpenError::NotFormatted);
    let driver = driver();
    let mut recovery = Recovery::new(Config::default(), driver.disk.current().bytes() - 4096);
    let superblocks = SUPERBLOCKS.map(|at| driver.disk.current().read(at, BLOCK_BYTES));
    assert!(matches!(recovery.step(&[]), Next::Read(_)));
    let next = recovery.step(&[&superblocks[0], &superblocks[1]]);
    assert!(matches!(next, Next::Refused(OpenError::Truncated { .. })));
}

#[test]
fn unreadable_log_is_refused() {
    let driver = driver();
    let image = driver.disk.current();
    let mut recovery = Recovery::new(Config::default(), image.bytes());
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    loop {
        let slices: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
        match recovery.step(&slices) {
            Next::Read(reads) if reads[0].bytes > BLOCK_BYTES => {
                buffers = reads.iter().map(|_| Vec::new()).collect();
            }
            Next::Read(reads) => {
                buffers = reads
                    .iter()
                    .map(|r| image.read(r.offset, r.bytes))
                    .collect();
            }
            Next::Refused(error) => {
                assert!(matches!(error, OpenError::Log(_)));
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Goal: after any single flipped bit, the store is refused or every block reads right, old or bad.
#[test]
fn any_flipped_bit_gives_no_wrong_byte() {
    let mut driver = driver();
    write(&mut driver, 0, 40, 1);
    checkpoint(&mut driver);
    write(&mut driver, 8, 3, 2);
    write(&mut driver, 64, 16, 3);
    let mut rng = fastrand::Rng::with_seed(5);
    let blocks = driver.disk.current().bytes() / BLOCK_BYTES as u64;
    let used: Vec<StoreOffset> = (0..blocks)
        .map(|at| StoreOffset(at * BLOCK_BYTES as u64))
        .filter(|at| driver.disk.current().block(*at).is_some())
        .collect();
    for offset in used {
        let image = flipped(&driver, offset, rng.usize(..BLOCK_BYTES * 8));
        let Ok(damaged) = reopen(&image) else {
            continue;
        };
        for block in 0..90 {
            let right = read(&driver, block);
            let old = match block {
                8..11 => Some(1),
                64..80 => Some(0),
                _ => right,
            };
            let value = read(&damaged, block);
            assert!(
                value.is_none() || value == right || value == old,
                "{offset}"
            );
        }
    }
}

/// A checkpoint may end between a volume's growth and its removal; what lies behind is replayed against
/// the size that the checkpoint kept.
#[test]
fn volume_that_grew_and_left_is_replayed_from_every_checkpoint() {
    let config = Config {
        round_bytes_max: 2 * BLOCK_BYTES as u64,
        ..Config::default()
    };
    let image = {
        let mut driver = driver();
        checkpoint(&mut driver);
        driver.disk.current().clone()
    };
    let mut driver = Driver::open(image, config, 1).unwrap();
    driver.settle();
    let (tag, id) = (Tag(4), VOLUME);
    let size_blocks = 8192;
    driver.event(Event::ResizeVolume {
        tag,
        id,
        size_blocks,
    });
    driver.settle();
    write(&mut driver, 5000, 4, 1);
    driver.event(Event::RemoveVolume { tag, id });
    driver.settle();
    driver.event(Event::Checkpoint { tag });
    while driver.end_one() {
        let opened = recover(driver.disk.current(), config);
        assert!(opened.is_ok(), "{:?}", opened.err());
    }
}
