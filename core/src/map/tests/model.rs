//! Goal: whatever sequence of changes, clones, removals, checkpoints and crashes, the map is what a plain
//! ordered map per volume says, its counts are exact (I10), and it never runs out in the middle of a change.
//!
//! Method: seeded random actions against the oracle. Space is so small that reservations fail often. A crash
//! writes any subset of a checkpoint's pages over the disk and loads from the roots of the last durable one.

use super::super::volumes::Reaped;
use super::super::{MapError, VolumeSlot, page_slots_min};
use super::{Disk, checkpoint, entry, geometry, load, record, write_pages};
use crate::block::{ChunkIndex, PhysicalChunk};
use crate::lsn::{FrameSeq, Lsn};
use crate::map::entry::Entry;
use crate::map::{Geometry, Map};
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

const END: u64 = 1 << 30;

/// What the volumes should hold.
#[derive(Clone, Default)]
struct Oracle {
    volumes: BTreeMap<u8, OracleVolume>,
}

#[derive(Clone, Default)]
struct OracleVolume {
    entries: BTreeMap<u64, Entry>,
    attributes: Vec<u8>,
}

#[derive(Default, Debug)]
struct Seen {
    puts: u32,
    unmaps: u32,
    clones: u32,
    removals: u32,
    checkpoints: u32,
    crashes: u32,
    no_chunk: u32,
    no_page: u32,
}

struct Run {
    random: fastrand::Rng,
    geometry: Geometry,
    map: Map,
    disk: Disk,
    oracle: Oracle,
    durable: Oracle,
    /// The frame whose state the base is being brought to.
    frame: FrameSeq,
    next_volume: u8,
    seen: Seen,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut random = fastrand::Rng::with_seed(seed);
        let chunks = random.u32(20..300);
        let geometry = geometry(chunks, page_slots_min(chunks) + random.u32(..200));
        Run {
            random,
            geometry,
            map: Map::new(geometry),
            disk: Disk::default(),
            oracle: Oracle::default(),
            durable: Oracle::default(),
            frame: FrameSeq(1),
            next_volume: 0,
            seen: Seen::default(),
        }
    }

    fn act(&mut self) {
        match self.random.u32(..1000) {
            0..20 => self.create(),
            20..40 => self.clone_one(),
            40..50 => self.remove(),
            50..60 => self.attributes(),
            60..90 => {
                let nodes = self.random.usize(..20);
                self.map.reap(self.frame, nodes);
            }
            90..120 => self.checkpoint(),
            120..130 => self.crash(),
            130..350 => self.unmap(),
            _ => self.put(),
        }
    }

    fn any_volume(&mut self) -> Option<(u8, VolumeSlot)> {
        let names: Vec<u8> = self.oracle.volumes.keys().copied().collect();
        let name = *self.random.choice(&names)?;
        Some((name, self.map.find(record(name).id).expect("it exists")))
    }

    /// Mostly close together, sometimes where a tree has to grow.
    fn any_index(&mut self) -> u64 {
        match self.random.u32(..20) {
            0 => self.random.u64(..END),
            1 => 25_000 + self.random.u64(..60),
            2 => 12_500_000 - self.random.u64(1..60),
            _ => self.random.u64(..400),
        }
    }

    fn create(&mut self) {
        if self.next_volume < u8::MAX && self.oracle.volumes.len() < 6 {
            self.next_volume += 1;
            self.map.create_volume(record(self.next_volume)).unwrap();
            let volume = OracleVolume::default();
            self.oracle.volumes.insert(self.next_volume, volume);
        }
    }

    fn clone_one(&mut self) {
        if self.next_volume == u8::MAX || self.oracle.volumes.len() >= 6 {
            return;
        }
        let Some((name, slot)) = self.any_volume() else {
            return;
        };
        let made = self.map.clone_volume(slot, record(self.next_volume + 1));
        match made {
            Ok(_) => {
                self.next_volume += 1;
                self.seen.clones += 1;
                let entries = self.oracle.volumes[&name].entries.clone();
                let attributes = Vec::new();
                let volume = OracleVolume {
                    entries,
                    attributes,
                };
                self.oracle.volumes.insert(self.next_volume, volume);
            }
            Err(MapError::NoSpace(_)) => self.seen.no_page += 1,
            Err(error) => panic!("{error}"),
        }
    }

    fn remove(&mut self) {
        if let Some((name, slot)) = self.any_volume() {
            self.map.remove_volume(slot);
            self.oracle.volumes.remove(&name);
            self.seen.removals += 1;
        }
    }

    fn attributes(&mut self) {
        let Some((name, slot)) = self.any_volume() else {
            return;
        };
        let length = self.random.usize(..9000);
        let pages = super::super::attribute_pages(length);
        if self.map.reserve_pages(pages).is_err() {
            self.seen.no_page += 1;
            return;
        }
        let bytes: Vec<u8> = core::iter::repeat_with(|| self.random.u8(..))
            .take(length)
            .collect();
        self.map.set_attributes(slot, &bytes);
        self.map.unreserve_pages(pages);
        self.oracle.volumes.get_mut(&name).unwrap().attributes = bytes;
    }

    fn put(&mut self) {
        let Some((name, slot)) = self.any_volume() else {
            return;
        };
        let index = ChunkIndex(self.any_index());
        let id = record(name).id;
        let seed = self.random.u64(1..);
        let in_place = !self.map.needs_space(id, index) && self.random.bool();
        let old = *self.map.get(slot, index);
        let value = if in_place {
            entry(old.chunk().expect("exclusive"), seed)
        } else {
            if self.map.reserve_chunk().is_err() {
                self.seen.no_chunk += 1;
                return;
            }
            if self.map.reserve_path(id, index).is_err() {
                self.seen.no_page += 1;
                self.map.unreserve_chunk();
                return;
            }
            entry(self.map.allocate_chunk(), seed)
        };
        self.map.put(slot, index, value, self.frame);
        if !in_place {
            self.map.unreserve_path(id, index);
        }
        let volume = self.oracle.volumes.get_mut(&name).unwrap();
        volume.entries.insert(index.0, value);
        self.seen.puts += 1;
    }

    fn unmap(&mut self) {
        let Some((name, slot)) = self.any_volume() else {
            return;
        };
        let index = ChunkIndex(self.any_index());
        let id = record(name).id;
        let needs_space = self.map.needs_space(id, index);
        if needs_space && self.map.reserve_path(id, index).is_err() {
            self.seen.no_page += 1;
            return;
        }
        let bad = if self.random.u8(..) < 20 && needs_space {
            5
        } else {
            0
        };
        let value = Entry::without_chunk(bad, Lsn(9), [7; crate::limits::CHUNK_BLOCKS]);
        self.map.put(slot, index, value, self.frame);
        if needs_space {
            self.map.unreserve_path(id, index);
        }
        let entries = &mut self.oracle.volumes.get_mut(&name).unwrap().entries;
        if bad == 0 {
            entries.remove(&index.0);
        } else {
            entries.insert(index.0, value);
        }
        self.seen.unmaps += 1;
    }

    fn checkpoint(&mut self) {
        checkpoint(&mut self.map, &mut self.disk, self.frame);
        self.durable = self.oracle.clone();
        self.frame = self.frame.next();
        self.seen.checkpoints += 1;
        let loaded = load(self.geometry, &self.disk);
        assert_eq!(loaded.usage(), self.map.usage());
        self.map = loaded;
    }

    /// Power goes while the pages of a checkpoint are written, or after that.
    fn crash(&mut self) {
        let mut written = Disk::default();
        let pages_max = self.random.usize(1..20);
        write_pages(&mut self.map, &mut written, self.frame, pages_max);
        for (slot, page) in written.pages {
            match self.random.u8(..4) {
                0 => {}
                1 => {
                    let old = self.disk.pages.entry(slot).or_default();
                    old.resize(page.len(), 0);
                    let torn = 512 * self.random.usize(1..8);
                    old[..torn].copy_from_slice(&page[..torn]);
                }
                _ => {
                    self.disk.pages.insert(slot, page);
                }
            }
        }
        self.map = load(self.geometry, &self.disk);
        self.oracle = self.durable.clone();
        self.next_volume = self.next_volume.max(1);
        self.seen.crashes += 1;
        self.compare();
    }

    fn compare(&mut self) {
        assert_eq!(self.map.check(), []);
        let mut users: BTreeMap<PhysicalChunk, u32> = BTreeMap::new();
        for volume in self.oracle.volumes.values() {
            for chunk in volume.entries.values().filter_map(Entry::chunk) {
                *users.entry(chunk).or_default() += 1;
            }
        }
        let names: BTreeSet<_> = self.oracle.volumes.keys().map(|n| record(*n).id).collect();
        assert!(self.map.volumes().map(|(_, record)| record.id).eq(names));
        for (name, volume) in &self.oracle.volumes {
            let slot = self.map.find(record(*name).id).unwrap();
            assert_eq!(self.map.attributes(slot), Some(&volume.attributes[..]));
            let stored = volume.entries.values().filter_map(Entry::chunk).count();
            assert_eq!(self.map.used_chunks(slot), stored as u64);
            for (index, value) in &volume.entries {
                let index = ChunkIndex(*index);
                assert_eq!(self.map.get(slot, index), value);
                let alone = value.chunk().is_some_and(|chunk| users[&chunk] == 1);
                if self.map.doomed() == 0 {
                    assert_eq!(self.map.is_exclusive(slot, index), alone);
                } else {
                    assert!(alone || !self.map.is_exclusive(slot, index));
                }
            }
            compare_runs(&self.map, slot, &volume.entries);
        }
        let usage = self.map.usage();
        assert!(usage.pages_live <= usage.pages_limit);
        if self.map.doomed() == 0 {
            assert_eq!(usage.chunks_used as usize, users.len());
        }
    }

    /// Everything removed, nothing is left.
    fn finish(&mut self) {
        self.compare();
        while !self.oracle.volumes.is_empty() {
            self.remove();
        }
        while self.map.reap(self.frame, 50) == Reaped::More {}
        self.checkpoint();
        let usage = self.map.usage();
        assert_eq!(usage.chunks_free, usage.chunks_total);
        assert_eq!(usage.pages_used, 0);
    }
}

/// Runs of mapped and unmapped chunks, walked from end to end.
fn compare_runs(map: &Map, slot: VolumeSlot, entries: &BTreeMap<u64, Entry>) {
    let mut mapped = Vec::new();
    let mut at = ChunkIndex(0);
    while let Some(first) = map.next_mapped(slot, at, ChunkIndex(END)) {
        let behind = map.next_unmapped(slot, first, ChunkIndex(END));
        at = behind.unwrap_or(ChunkIndex(END));
        mapped.extend(first.0..at.0);
    }
    assert!(mapped.iter().eq(entries.keys()));
}

#[test]
fn map_agrees_with_plain_ordered_maps() {
    let mut total = Seen::default();
    for seed in 0..60 {
        let mut run = Run::new(seed);
        for step in 0..1500 {
            run.act();
            if step % 50 == 0 {
                run.compare();
            }
        }
        run.finish();
        let seen = run.seen;
        total.puts += seen.puts;
        total.unmaps += seen.unmaps;
        total.clones += seen.clones;
        total.removals += seen.removals;
        total.checkpoints += seen.checkpoints;
        total.crashes += seen.crashes;
        total.no_chunk += seen.no_chunk;
        total.no_page += seen.no_page;
    }
    std::println!("{total:?}");
    // Every kind of action happened often enough to mean something.
    let Seen {
        puts,
        unmaps,
        clones,
        removals,
        checkpoints,
        crashes,
        no_chunk,
        no_page,
    } = total;
    for count in [
        puts,
        unmaps,
        clones,
        removals,
        checkpoints,
        crashes,
        no_chunk,
        no_page,
    ] {
        assert!(count > 100);
    }
}
