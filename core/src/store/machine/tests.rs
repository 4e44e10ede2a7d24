//! The machine with its simulated disk: requests from begin to end.

use super::*;
use crate::checksum::crc32c;
use crate::limits::BLOCK_BYTES;
use crate::store::append::Sharing;
use crate::testing::disk::{BlockBytes, Image};
use crate::testing::driver::{BlockRead, Driver, formatted};
use alloc::rc::Rc;
use std::vec;

const VOLUME: VolumeId = VolumeId([7; 16]);

fn small_layout() -> Layout {
    Layout {
        segment_bytes: 256 << 10,
        segments: 4,
        page_slots: 256,
        chunks: 64,
    }
}

fn driver() -> Driver {
    let image = formatted(StoreId([1; 16]), small_layout());
    let mut driver = Driver::open(image, Config::default(), 1).unwrap();
    let event = Event::CreateVolume {
        tag: Tag(1),
        id: VOLUME,
        size_blocks: 4096,
        epoch: Epoch(1),
        sharing: Sharing::Alone,
    };
    assert_eq!(run(&mut driver, event), Ok(()));
    driver
}

fn run(driver: &mut Driver, event: Event) -> Result<(), RequestError> {
    driver.event(event);
    finish(driver)
}

fn finish(driver: &mut Driver) -> Result<(), RequestError> {
    driver.settle();
    let ends = core::mem::take(&mut driver.completed);
    assert_eq!(ends.len(), 1);
    driver.store.check_deep();
    ends[0].1
}

fn block(value: u8) -> Rc<BlockBytes> {
    Rc::new([value; BLOCK_BYTES])
}

fn range(first: u64, count: u32) -> BlockRange {
    let first = Block(first);
    BlockRange { first, count }
}

fn write(driver: &mut Driver, first: u64, count: u32, value: u8) -> Result<(), RequestError> {
    let blocks = vec![block(value); count as usize];
    driver.write(Tag(2), VOLUME, range(first, count), blocks);
    finish(driver)
}

fn read(driver: &Driver, first: u64) -> u8 {
    match &driver.read(VOLUME, range(first, 1)).unwrap()[0] {
        BlockRead::Zero => 0,
        BlockRead::Data(block) => block[0],
        BlockRead::Bad => panic!("bad block"),
    }
}

fn reopen(driver: Driver) -> Driver {
    let image: Image = driver.disk.current().clone();
    let mut driver = Driver::open(image, Config::default(), 2).unwrap();
    driver.settle();
    driver
}

fn checkpoint(driver: &mut Driver) {
    assert_eq!(run(driver, Event::Checkpoint { tag: Tag(3) }), Ok(()));
    assert!(driver.store.is_clean());
}

#[test]
fn blocks_come_back_from_log_and_from_chunks() {
    let mut driver = driver();
    write(&mut driver, 5, 1, 1).unwrap();
    write(&mut driver, 30, 40, 2).unwrap(); // One whole chunk and two parts.
    for flushed in [false, true] {
        if flushed {
            checkpoint(&mut driver);
            assert_eq!(driver.store.usage().log_bytes_used, 0);
        }
        assert_eq!(read(&driver, 4), 0);
        assert_eq!(read(&driver, 5), 1);
        assert!((30..70).all(|at| read(&driver, at) == 2));
        driver = reopen(driver);
    }
    assert_eq!(driver.store.usage().chunks_free, 64 - 5);
}

#[test]
fn unmapped_space_is_returned() {
    let mut driver = driver();
    write(&mut driver, 0, 64, 3).unwrap();
    checkpoint(&mut driver);
    let before = driver.store.usage().chunks_free;
    let event = Event::Unmap {
        tag: Tag(4),
        volume: VOLUME,
        range: range(8, 40),
    };
    run(&mut driver, event).unwrap();
    let values: Vec<u8> = [7, 8, 47, 48].map(|at| read(&driver, at)).to_vec();
    assert_eq!(values, [3, 0, 0, 3]);
    let runs = driver.store.provisioning(VOLUME, range(0, 100), 9).unwrap();
    let runs: Vec<(u64, bool)> = runs.iter().map(|run| (run.blocks, run.mapped)).collect();
    assert_eq!(runs, [(8, true), (40, false), (16, true), (36, false)]);
    checkpoint(&mut driver);
    assert_eq!(driver.store.usage().chunks_free, before + 2);
    let driver = reopen(driver);
    assert_eq!(read(&driver, 7), 3);
    assert_eq!(read(&driver, 8), 0);
}

#[test]
fn removed_volume_gives_everything_back() {
    let mut driver = driver();
    write(&mut driver, 0, 64, 3).unwrap();
    checkpoint(&mut driver);
    write(&mut driver, 100, 20, 4).unwrap();
    let id = VOLUME;
    run(&mut driver, Event::RemoveVolume { tag: Tag(5), id }).unwrap();
    assert_eq!(
        driver.read(VOLUME, range(0, 1)),
        Err(RequestError::NotFound)
    );
    checkpoint(&mut driver);
    checkpoint(&mut driver);
    assert_eq!(driver.store.usage().chunks_free, 64);
    assert_eq!(reopen(driver).store.volumes().count(), 0);
}

#[test]
fn full_store_says_so_and_unmap_mends_it() {
    let mut driver = driver();
    for chunk in 0..64 {
        write(&mut driver, chunk * 16, 16, 1).unwrap();
    }
    assert_eq!(write(&mut driver, 2000, 1, 1), Err(RequestError::NoSpace));
    assert_eq!(write(&mut driver, 2000, 16, 1), Err(RequestError::NoSpace));
    write(&mut driver, 5, 1, 9).unwrap(); // In place.
    let event = Event::Unmap {
        tag: Tag(4),
        volume: VOLUME,
        range: range(16, 16),
    };
    run(&mut driver, event).unwrap();
    write(&mut driver, 2000, 1, 8).unwrap(); // Waits for the checkpoint.
    assert_eq!(read(&driver, 2000), 8);
    assert_eq!(read(&driver, 5), 9);
}

#[test]
fn log_smaller_than_the_work_makes_writes_wait_not_fail() {
    let mut driver = driver();
    for round in 1..=40 {
        for at in 0..20 {
            let blocks = vec![block(round); 15];
            driver.write(Tag(at), VOLUME, range(at * 16, 15), blocks);
        }
        driver.settle();
        let ends = core::mem::take(&mut driver.completed);
        assert_eq!(ends.len(), 20);
        assert!(ends.iter().all(|(_, result)| result.is_ok()));
    }
    assert_eq!(driver.payloads(), 0);
    assert!((0..20).all(|at| read(&driver, at * 16) == 40));
}

#[test]
fn attributes_size_and_epoch_survive() {
    let mut driver = driver();
    let (tag, volume, id) = (Tag(6), VOLUME, VOLUME);
    let bytes = vec![5; 9000];
    run(&mut driver, Event::SetAttributes { tag, volume, bytes }).unwrap();
    let size_blocks = 8192;
    let resize = Event::ResizeVolume {
        tag,
        id,
        size_blocks,
    };
    run(&mut driver, resize).unwrap();
    let epoch = Epoch(4);
    run(
        &mut driver,
        Event::BeginEpoch {
            tag,
            volume: id,
            epoch,
            sharing: Sharing::Alone,
        },
    )
    .unwrap();
    let epoch = Epoch(3);
    let stale = Event::BeginEpoch {
        tag,
        volume: id,
        epoch,
        sharing: Sharing::Alone,
    };
    assert_eq!(run(&mut driver, stale), Err(RequestError::StaleEpoch));
    for flushed in [false, true] {
        if flushed {
            checkpoint(&mut driver);
        }
        driver = reopen(driver);
        assert_eq!(driver.store.attributes(VOLUME), Some(&[5; 9000][..]));
        let info = driver.store.volume(VOLUME).unwrap();
        assert_eq!((info.size_blocks, info.epoch), (8192, Epoch(4)));
    }
}

#[test]
fn failed_write_or_sync_is_the_end_of_the_store() {
    for sync in [false, true] {
        let mut driver = driver();
        if sync {
            driver.faults.sync_after = Some(0);
        } else {
            driver.faults.write_after = Some(0);
        }
        assert_eq!(write(&mut driver, 0, 1, 1), Err(RequestError::StoreFailed));
        assert!(driver.failed.is_some());
        assert_eq!(driver.payloads(), 0);
        assert_eq!(write(&mut driver, 0, 1, 1), Err(RequestError::StoreFailed));
        let result = driver.read(VOLUME, range(0, 1));
        assert_eq!(result, Err(RequestError::StoreFailed));
        assert_eq!(driver.payloads(), 0);
    }
}

#[test]
fn requests_out_of_bounds_are_refused() {
    let mut driver = driver();
    assert_eq!(
        write(&mut driver, 4095, 2, 1),
        Err(RequestError::OutOfRange)
    );
    assert_eq!(
        write(&mut driver, u64::MAX, 1, 1),
        Err(RequestError::OutOfRange)
    );
    let unmap = |volume, first, count| Event::Unmap {
        tag: Tag(1),
        volume,
        range: range(first, count),
    };
    assert_eq!(
        run(&mut driver, unmap(VOLUME, 0, 0)),
        Err(RequestError::OutOfRange)
    );
    let other = VolumeId([9; 16]);
    assert_eq!(
        run(&mut driver, unmap(other, 0, 1)),
        Err(RequestError::NotFound)
    );
    let create = Event::CreateVolume {
        tag: Tag(1),
        id: VOLUME,
        size_blocks: 16,
        epoch: Epoch(1),
        sharing: Sharing::Alone,
    };
    assert_eq!(run(&mut driver, create), Err(RequestError::Exists));
}

#[test]
fn damaged_log_block_is_lost_when_it_is_moved_and_nothing_else() {
    let mut driver = driver();
    write(&mut driver, 3, 3, 6).unwrap();
    let mut lookup = Lookup::default();
    driver
        .store
        .lookup(VOLUME, range(4, 1), &mut lookup)
        .unwrap();
    let crate::store::Location::Stored(at) = lookup.extents[0].location else {
        panic!("it is in the log");
    };
    driver.disk.current_mut().flip(at, 77);
    checkpoint(&mut driver);
    assert_eq!(driver.lost, [(VOLUME, 4)]);
    for _ in 0..2 {
        assert_eq!(driver.read(VOLUME, range(4, 1)).unwrap(), [BlockRead::Bad]);
        assert_eq!((read(&driver, 3), read(&driver, 5)), (6, 6));
        // What it should be stays known, so that another copy's block can be told from a wrong one.
        driver
            .store
            .lookup(VOLUME, range(4, 1), &mut lookup)
            .unwrap();
        assert_eq!(lookup.extents[0].location, crate::store::Location::Bad);
        assert_eq!(lookup.checksums, [crc32c(block(6).as_slice())]);
        driver = reopen(driver);
    }
    write(&mut driver, 4, 1, 7).unwrap();
    checkpoint(&mut driver);
    assert_eq!(read(&driver, 4), 7);
    assert_eq!(crc32c(block(7).as_slice()), crc32c(&[7; BLOCK_BYTES]));
}

/// Cost of the bug: a volume shrank to the smaller of two sizes that were acknowledged in one frame,
/// and blocks written behind it were out of reach until the next start.
#[test]
fn smaller_of_two_sizes_in_one_frame_does_not_shrink_the_volume() {
    let mut driver = driver();
    let events = [(2, 8192), (3, 6000)].map(|(tag, size_blocks)| Event::ResizeVolume {
        tag: Tag(tag),
        id: VOLUME,
        size_blocks,
    });
    // Both wait for the frame of the first write, and share the next.
    driver.write(Tag(1), VOLUME, range(0, 1), vec![block(1)]);
    events.into_iter().for_each(|event| driver.event(event));
    driver.settle();
    assert!(driver.completed.iter().all(|(_, result)| result.is_ok()));
    assert_eq!(driver.store.volume(VOLUME).unwrap().size_blocks, 8192);
}

/// Cost of the bug: on a full disk an adoption waited behind a write that waited for a checkpoint, which
/// waited for pending records that only the adoption ends. The copy never came back.
#[test]
fn adoption_waits_for_no_space() {
    let mut driver = driver();
    let volume = VolumeId([8; 16]);
    let (tag, epoch, sharing) = (Tag(1), Epoch(1), Sharing::Shared);
    let create = Event::CreateVolume {
        tag,
        id: volume,
        size_blocks: 64,
        epoch: Epoch(0),
        sharing,
    };
    run(&mut driver, create).unwrap();
    let begin = Event::BeginEpoch {
        tag,
        volume,
        epoch,
        sharing,
    };
    run(&mut driver, begin).unwrap();
    driver.write(Tag(10), volume, range(0, 1), vec![block(1)]);
    driver.settle();
    for chunk in 0..63 {
        write(&mut driver, chunk * 16, 16, 1).unwrap();
    }
    driver.write(Tag(11), VOLUME, range(2000, 1), vec![block(1)]);
    driver.settle();
    assert_eq!(
        driver.completed,
        [],
        "one waits for its commit, one for space"
    );
    driver.event(Event::Adopt {
        tag: Tag(12),
        volume,
        epoch: Epoch(2),
        keep: Lsn(0),
        cut: Lsn(0),
        reigns: Vec::new(),
        resync: None,
    });
    driver.settle();
    let mut ends = core::mem::take(&mut driver.completed);
    ends.sort_by_key(|(tag, _)| *tag);
    let expected = [
        (Tag(10), Err(RequestError::StaleEpoch)),
        (Tag(11), Ok(())), // It has the place of the record that was dropped.
        (Tag(12), Ok(())),
    ];
    assert_eq!(ends, expected);
    driver.store.check_deep();
}

#[test]
fn copies_grow_with_the_use_of_the_log() {
    let config = Config::default();
    for (percent, copies) in [(0, 2), (25, 2), (55, 17), (85, 32), (100, 32)] {
        let found = crate::store::checkpoint::copies_at(percent, &config);
        assert_eq!(found, copies, "{percent} % of the log used");
    }
    let one = Config {
        copies_in_flight_max: 1,
        ..config
    };
    assert_eq!(crate::store::checkpoint::copies_at(85, &one), 1);
}

/// The flush of a frame waits for whatever else the device does, so few copies are under way while the log has room.
#[test]
fn a_round_begins_with_few_copies() {
    let mut driver = driver();
    let config = Config::default();
    let mut most = 0;
    for chunk in 0..60 {
        driver.write(Tag(chunk), VOLUME, range(chunk * 16, 1), vec![block(1)]);
        while driver.completed.is_empty() {
            let usage = driver.store.usage();
            let percent = usage.log_bytes_used * 100 / usage.log_bytes;
            let allowed = crate::store::checkpoint::copies_at(percent, &config);
            assert!(
                driver.copies() <= allowed,
                "{} at {percent} %",
                driver.copies()
            );
            most = most.max(driver.copies());
            assert!(driver.end_one());
        }
        driver.completed.clear();
    }
    assert!(most > 0, "no round was seen");
}
