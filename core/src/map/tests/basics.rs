//! Single behaviours of the map and of its parts.

use super::super::free_set::FreeSet;
use super::super::volumes::Reaped;
use super::super::{MapError, NoSpace, attribute_pages, page_slots_min};
use super::{Disk, checkpoint, entry, geometry, load, put_fresh, record};
use crate::block::{ChunkIndex, PhysicalChunk};
use crate::limits::{ATTRIBUTES_BYTES_MAX, VOLUMES_PER_STORE_MAX};
use crate::lsn::{Epoch, FrameSeq, Lsn};
use crate::map::Map;
use crate::map::VolumeRecord;
use crate::map::entry::Entry;
use std::vec;
use std::vec::Vec;

#[test]
fn empty_map_needs_no_page() {
    let geometry = geometry(100, 256);
    let map = load(geometry, &Disk::default());
    assert!(!map.is_dirty());
    assert_eq!(map.volumes().count(), 0);
    assert_eq!(map.usage().chunks_free, 100);
    assert_eq!(map.usage().pages_used, 0);
}

#[test]
fn what_was_put_is_there_after_checkpoint_and_load() {
    let geometry = geometry(1000, 512);
    let (mut map, mut disk) = (Map::new(geometry), Disk::default());
    let volume = map.create_volume(record(1)).unwrap();
    let indexes = [
        0,
        1,
        49,
        50,
        24_999,
        25_000,
        12_499_999,
        12_500_000,
        (1 << 30) - 1,
    ];
    for index in indexes {
        put_fresh(&mut map, volume, index, FrameSeq(1));
        assert_eq!(map.check(), []);
    }
    let after = VolumeRecord {
        epoch: Epoch(3),
        lsn: Lsn(9),
        ..record(1)
    };
    map.set_volume(volume, after);
    map.set_attributes(volume, &[5; 4001]);
    checkpoint(&mut map, &mut disk, FrameSeq(1));
    assert!(!map.is_dirty());
    let loaded = load(geometry, &disk);
    assert_eq!(loaded.find(record(1).id), Some(volume));
    assert_eq!(loaded.volume(volume).lsn, Lsn(9));
    assert_eq!(loaded.attributes(volume), Some(&[5; 4001][..]));
    assert_eq!(loaded.used_chunks(volume), indexes.len() as u64);
    for index in indexes {
        let index = ChunkIndex(index);
        assert_eq!(loaded.get(volume, index), map.get(volume, index));
        assert!(loaded.is_exclusive(volume, index));
    }
    assert_eq!(loaded.usage(), map.usage());
}

#[test]
fn clone_costs_the_same_however_large_the_volume_is() {
    let mut costs = Vec::new();
    for chunks in [1, 100, 20_000] {
        let mut map = Map::new(geometry(30_000, 8192));
        let volume = map.create_volume(record(1)).unwrap();
        for index in 0..chunks {
            put_fresh(&mut map, volume, index, FrameSeq(1));
        }
        let before = map.nodes.touched.get();
        let clone = map.clone_volume(volume, record(2)).unwrap();
        costs.push(map.nodes.touched.get() - before);
        assert!(!map.is_exclusive(volume, ChunkIndex(0)));
        assert!(!map.is_exclusive(clone, ChunkIndex(0)));
        assert_eq!(map.used_chunks(clone), chunks);
        assert_eq!(map.check(), []);
    }
    assert_eq!(costs, [1, 1, 1]);
}

#[test]
fn write_after_a_clone_copies_one_path_and_keeps_the_other_volume() {
    let geometry = geometry(30_000, 8192);
    let (mut map, mut disk) = (Map::new(geometry), Disk::default());
    let volume = map.create_volume(record(1)).unwrap();
    for index in 0..26_000 {
        put_fresh(&mut map, volume, index, FrameSeq(1));
    }
    checkpoint(&mut map, &mut disk, FrameSeq(1));
    let clone = map.clone_volume(volume, record(2)).unwrap();
    let old = *map.get(volume, ChunkIndex(7));
    let pages = map.usage().pages_live;
    let chunk = put_fresh(&mut map, clone, 7, FrameSeq(2));
    // 26,000 chunks take a root, two interior nodes and 520 leaves: one of each level is copied.
    assert_eq!(map.usage().pages_live, pages + 3);
    assert_eq!(map.get(clone, ChunkIndex(7)).chunk(), Some(chunk));
    assert_eq!(*map.get(volume, ChunkIndex(7)), old);
    assert!(map.is_exclusive(clone, ChunkIndex(7)));
    assert!(map.is_exclusive(volume, ChunkIndex(7)));
    assert!(!map.is_exclusive(volume, ChunkIndex(8)));
    assert_eq!(map.usage().chunks_shared, 49);
    assert_eq!(map.check(), []);
    // Three map pages, the counts of 50 chunks and of the new one, both volume tables.
    let written = checkpoint(&mut map, &mut disk, FrameSeq(2));
    assert_eq!(written, 3 + 3 + 4);
    load(geometry, &disk);
}

#[test]
fn removed_volume_is_reaped_in_bounded_steps_across_a_restart() {
    let geometry = geometry(30_000, 8192);
    let (mut map, mut disk) = (Map::new(geometry), Disk::default());
    let volume = map.create_volume(record(1)).unwrap();
    for index in 0..26_000 {
        put_fresh(&mut map, volume, index, FrameSeq(1));
    }
    map.set_attributes(volume, b"reserved");
    checkpoint(&mut map, &mut disk, FrameSeq(1));
    map.remove_volume(volume);
    assert_eq!(map.find(record(1).id), None);
    assert_eq!(map.reap(FrameSeq(2), 100), Reaped::More);
    assert_eq!(map.check(), []);
    checkpoint(&mut map, &mut disk, FrameSeq(2));
    let mut map = load(geometry, &disk);
    assert_eq!(map.doomed(), 1);
    assert!(map.usage().chunks_free > 0);
    let mut steps = 0;
    while map.reap(FrameSeq(3), 100) == Reaped::More {
        assert_eq!(map.check(), []);
        steps += 1;
    }
    assert!((3..8).contains(&steps), "{steps}");
    assert_eq!(map.doomed(), 0);
    assert_eq!(map.usage().chunks_used, 0);
    assert!(map.usage().chunks_free < 30_000); // The durable checkpoint still names the rest.
    checkpoint(&mut map, &mut disk, FrameSeq(3));
    assert_eq!(map.usage().chunks_free, 30_000);
    assert_eq!(map.usage().pages_used, 0);
    assert_eq!(load(geometry, &disk).usage(), map.usage());
}

#[test]
fn freed_chunk_is_not_given_out_before_its_checkpoint_is_durable() {
    let (mut map, mut disk) = (Map::new(geometry(1, 256)), Disk::default());
    let volume = map.create_volume(record(1)).unwrap();
    let chunk = put_fresh(&mut map, volume, 3, FrameSeq(1));
    checkpoint(&mut map, &mut disk, FrameSeq(1));
    let gone = Entry::without_chunk(0, Lsn(2), [0; crate::limits::CHUNK_BLOCKS]);
    map.put(volume, ChunkIndex(3), gone, FrameSeq(2));
    assert_eq!(map.usage().chunks_pending, 1);
    assert_eq!(map.reserve_chunk(), Err(NoSpace { pending: true }));
    map.begin_encode(FrameSeq(2));
    while !map.encode_some(1).is_empty() {}
    assert_eq!(map.reserve_chunk(), Err(NoSpace { pending: true }));
    map.checkpoint_durable(FrameSeq(2));
    map.reserve_chunk().unwrap();
    assert_eq!(map.reserve_chunk(), Err(NoSpace { pending: false }));
    assert_eq!(map.allocate_chunk(), chunk);
    map.release_chunk(chunk, FrameSeq(4));
    checkpoint(&mut map, &mut disk, FrameSeq(3));
    assert_eq!(map.usage().chunks_free, 0); // Tagged with a later frame.
    checkpoint(&mut map, &mut disk, FrameSeq(4));
    assert_eq!(map.usage().chunks_free, 1);
    assert_eq!(map.check(), []);
}

#[test]
fn claimed_chunk_is_held_and_cannot_be_claimed_again() {
    let mut map = Map::new(geometry(3, 256));
    map.claim_chunk(PhysicalChunk(1)).unwrap();
    assert!(map.claim_chunk(PhysicalChunk(1)).is_err());
    assert!(map.claim_chunk(PhysicalChunk(3)).is_err());
    assert_eq!(map.usage().chunks_held, 1);
    let volume = map.create_volume(record(1)).unwrap();
    let value = entry(PhysicalChunk(1), 5);
    map.put(volume, ChunkIndex(0), value, FrameSeq(1));
    assert_eq!(map.usage().chunks_held, 0);
    assert_eq!(map.check(), []);
}

#[test]
fn provisioning_skips_what_is_empty() {
    let mut map = Map::new(geometry(100, 512));
    let volume = map.create_volume(record(1)).unwrap();
    let end = ChunkIndex(1 << 30);
    let at = |index| Some(ChunkIndex(index));
    assert_eq!(map.next_mapped(volume, ChunkIndex(0), end), None);
    assert_eq!(map.next_unmapped(volume, ChunkIndex(5), end), at(5));
    assert_eq!(map.next_unmapped(volume, end, end), None);
    for index in [0, 1, 2, 50, 1 << 29] {
        put_fresh(&mut map, volume, index, FrameSeq(1));
    }
    map.nodes.touched.set(0);
    assert_eq!(map.next_mapped(volume, ChunkIndex(0), end), at(0));
    assert_eq!(map.next_unmapped(volume, ChunkIndex(0), end), at(3));
    assert_eq!(map.next_mapped(volume, ChunkIndex(3), end), at(50));
    assert_eq!(map.next_unmapped(volume, ChunkIndex(50), end), at(51));
    assert_eq!(map.next_mapped(volume, ChunkIndex(51), end), at(1 << 29));
    assert_eq!(
        map.next_mapped(volume, ChunkIndex(51), ChunkIndex(1 << 29)),
        None
    );
    assert_eq!(
        map.next_mapped(volume, ChunkIndex((1 << 29) + 1), end),
        None
    );
    assert!(map.nodes.touched.get() < 100);
}

#[test]
fn volume_table_is_bounded_and_ids_are_unique() {
    let geometry = geometry(100, 512);
    let (mut map, mut disk) = (Map::new(geometry), Disk::default());
    let mut volume = record(0);
    for number in 0..VOLUMES_PER_STORE_MAX as u64 {
        volume.id.0[..8].copy_from_slice(&number.to_le_bytes());
        map.create_volume(volume).unwrap();
    }
    assert_eq!(map.create_volume(volume), Err(MapError::VolumeExists));
    volume.id.0 = [0xff; 16];
    assert_eq!(map.create_volume(volume), Err(MapError::TableFull));
    assert_eq!(map.table_free(), 0);
    checkpoint(&mut map, &mut disk, FrameSeq(1));
    assert_eq!(
        load(geometry, &disk).volumes().count(),
        VOLUMES_PER_STORE_MAX
    );
}

#[test]
fn attributes_are_replaced_and_their_pages_counted() {
    let geometry = geometry(100, 512);
    let (mut map, mut disk) = (Map::new(geometry), Disk::default());
    let volume = map.create_volume(record(1)).unwrap();
    let empty = map.usage().pages_live;
    for (frame, length) in (1..).zip([0, 1, 4000, 4001, ATTRIBUTES_BYTES_MAX, 17]) {
        let bytes = vec![0xa5; length];
        map.set_attributes(volume, &bytes);
        checkpoint(&mut map, &mut disk, FrameSeq(frame));
        assert_eq!(map.usage().pages_live, empty + attribute_pages(length));
        assert_eq!(load(geometry, &disk).attributes(volume), Some(&bytes[..]));
        assert_eq!(map.check(), []);
    }
}

#[test]
fn reserved_paths_count_each_node_once_and_are_given_back() {
    let mut map = Map::new(geometry(10_000, page_slots_min(10_000)));
    let id = record(1).id;
    let room = map.usage().pages_limit - map.usage().pages_live;
    assert_eq!(room, 32);
    for index in 0..50 {
        map.reserve_path(id, ChunkIndex(index)).unwrap();
    }
    assert_eq!(map.usage().pages_reserved, 6); // Four levels, and two for a low root.
    map.reserve_path(id, ChunkIndex(50)).unwrap();
    assert_eq!(map.usage().pages_reserved, 7);
    let mut far = 1 << 29;
    while map.reserve_path(id, ChunkIndex(far)).is_ok() {
        far += 50;
    }
    assert_eq!(map.usage().pages_reserved, room);
    assert!(map.reserve_path(id, ChunkIndex(51)).is_ok()); // Its leaf is reserved already.
    assert_eq!(map.reserve_pages(1), Err(NoSpace { pending: true }));
    map.unreserve_path(id, ChunkIndex(51));
    map.unreserve_path(id, ChunkIndex(50));
    assert_eq!(map.reserve_pages(1), Ok(()));
    map.unreserve_pages(1);
    for index in 0..50 {
        map.unreserve_path(id, ChunkIndex(index));
    }
    while far > 1 << 29 {
        far -= 50;
        map.unreserve_path(id, ChunkIndex(far));
    }
    assert_eq!(map.usage().pages_reserved, 0);
}

#[test]
fn free_set_agrees_with_a_plain_list() {
    let mut random = fastrand::Rng::with_seed(1);
    for total in [0u32, 1, 63, 64, 65, 4095, 4096, 4097, 300_000] {
        let mut set = FreeSet::all_free(total);
        let mut taken = vec![false; total as usize];
        for _ in 0..20_000.min(total * 3) {
            if random.u8(..) < 170 {
                match set.take_next() {
                    Some(place) => {
                        assert!(!taken[place as usize]);
                        taken[place as usize] = true;
                    }
                    None => assert!(taken.iter().all(|taken| *taken)),
                }
            } else {
                let place = random.u32(..total);
                if taken[place as usize] {
                    set.give(place);
                    taken[place as usize] = false;
                }
            }
        }
        let free = taken.iter().filter(|taken| !**taken).count();
        assert_eq!(set.free() as usize, free);
        while set.take_next().is_some() {}
        assert_eq!(set.free(), 0);
    }
}
