//! Seeded work on a store, and what an observer of it knows.

use super::disk::{BlockBytes, Image};
use super::driver::{BlockRead, Driver, formatted};
use super::oracle::Oracle;
use crate::block::{Block, BlockRange};
use crate::id::{StoreId, VolumeId};
use crate::limits::{BLOCK_BYTES, CHUNK_BLOCKS};
use crate::lsn::Epoch;
use crate::store::append::Sharing;
use crate::store::layout::Layout;
use crate::store::{Config, Event, RequestError, Tag};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use fastrand::Rng;

/// Blocks of a volume at most: 24 chunks. It begins with some of them and grows.
const VOLUME_BLOCKS: u64 = 24 * CHUNK_BLOCKS as u64;

/// Where the oracle keeps a volume's attributes.
const ATTRIBUTES: u64 = u64::MAX;

/// Blocks of a volume at least; not a whole number of chunks.
const VOLUME_BLOCKS_MIN: u64 = 90;

/// Volumes at the same time.
const VOLUMES_MAX: usize = 3;

/// A store under work.
#[derive(Debug)]
pub struct World {
    /// The store and its disk.
    pub driver: Driver,
    /// What an observer knows.
    pub known: Knowledge,
    rng: Rng,
    depth: usize,
    /// Of 1000 requests, those that change a volume itself: size, epoch, attributes, existence.
    changes: u32,
}

/// What an observer of all requests knows of a store.
#[derive(Clone, Debug)]
pub struct Knowledge {
    volumes: Vec<Model>,
    requests: BTreeMap<Tag, Request>,
    checkpoints: Vec<Tag>,
    next: u64,
}

#[derive(Clone, Debug)]
struct Model {
    id: VolumeId,
    life: Life,
    oracle: Oracle,
    size_blocks: Rising,
    epoch: Rising,
}

/// A number that requests only raise: what was acknowledged, and what is under way above it.
#[derive(Clone, Debug, Default)]
struct Rising {
    acknowledged: u64,
    asked: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Creating,
    Present,
    Removing,
    Gone,
}

#[derive(Clone, Debug)]
struct Request {
    volume: usize,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Create,
    Remove,
    Set { first: u64, count: u64, value: u64 },
    Resize(u64),
    Epoch(u64),
}

/// How a seed shapes its store: tight or roomy, small or large log, with or without direct writes.
pub fn shape(rng: &mut Rng) -> (Layout, Config) {
    let layout = Layout {
        segment_bytes: 128 << 10,
        segments: rng.u32(2..6),
        page_slots: 256,
        chunks: if rng.bool() { 96 } else { rng.u32(20..60) },
    };
    let config = Config {
        write_through: rng.u8(..4) == 0,
        direct_chunks_min: if rng.u8(..4) == 0 { 1000 } else { 1 },
        copies_in_flight_max: rng.usize(1..8),
        round_bytes_max: if rng.bool() { 1 << 30 } else { 96 << 10 },
        ..Config::default()
    };
    (layout, config)
}

impl World {
    /// An empty store.
    pub fn fresh(layout: Layout, config: Config, rng: &mut Rng) -> World {
        let image = formatted(StoreId([0x5a; 16]), layout);
        let known = Knowledge {
            volumes: Vec::new(),
            requests: BTreeMap::new(),
            checkpoints: Vec::new(),
            next: 1,
        };
        World::open(image, config, known, rng.fork())
    }

    /// Recovers `image`, which a store of which `known` is known left behind.
    pub fn open(image: Image, config: Config, known: Knowledge, mut rng: Rng) -> World {
        let driver = Driver::open(image, config, rng.u64(..)).expect("a crash is recovered from");
        let depth = rng.usize(1..12);
        World {
            driver,
            known,
            changes: if rng.u8(..3) == 0 { 500 } else { 60 },
            rng,
            depth,
        }
    }

    /// Checks everything that can be read against what is known, which then is what was read.
    pub fn verify(&mut self) {
        self.known.requests.clear();
        self.known.checkpoints.clear();
        let mut present = 0;
        for model in &mut self.known.volumes {
            let exists = self.driver.store.volume(model.id).is_some();
            match model.life {
                Life::Present => assert!(exists, "volume {} was acknowledged", model.id),
                Life::Gone => assert!(!exists, "volume {} was removed", model.id),
                Life::Creating | Life::Removing => {}
            }
            model.life = if exists { Life::Present } else { Life::Gone };
            if exists {
                present += 1;
                verify_volume(&self.driver, model);
            }
        }
        assert_eq!(self.driver.store.volumes().count(), present);
        self.check();
        self.known
            .volumes
            .retain(|model| model.life == Life::Present);
    }

    /// Runs on a disk that fails soon, until the store has said so and ended every request.
    pub fn fail(&mut self) {
        let after = Some(self.rng.u32(..30));
        if self.rng.bool() && !self.driver.disk.is_write_through() {
            self.driver.faults.sync_after = after;
        } else {
            self.driver.faults.write_after = after;
        }
        for _ in 0..10_000 {
            self.step();
            if self.driver.failed.is_some() {
                self.finish();
                return;
            }
        }
        panic!("the failed disk was not noticed");
    }

    /// When nothing is under way and all is flushed, exactly the chunks with content are in use
    /// and nothing is reserved.
    pub fn check_space(&mut self) {
        // One round each for what is in the log, for removed volumes, and for what they give back.
        for _ in 0..3 {
            let tag = self.known.tag();
            self.driver.tick(Duration::from_secs(2));
            self.driver.event(Event::Checkpoint { tag });
            self.driver.settle();
            self.driver.completed.clear();
        }
        let usage = self.driver.store.usage();
        let mut used = 0;
        for info in self.driver.store.volumes() {
            let whole = range(0, info.size_blocks);
            let runs = self
                .driver
                .store
                .provisioning(info.id, whole, usize::MAX - 1);
            let (mut at, mut last) = (0, None);
            for run in runs.expect("it exists") {
                let chunks = at / CHUNK_BLOCKS as u64..=(at + run.blocks - 1) / CHUNK_BLOCKS as u64;
                at += run.blocks;
                if run.mapped {
                    used +=
                        chunks.clone().count() as u64 - u64::from(last == Some(*chunks.start()));
                    last = Some(*chunks.end());
                }
            }
        }
        assert_eq!(usage.chunks_pending, 0);
        assert_eq!(self.driver.store.reserved(), (0, 0), "reservations leaked");
        assert_eq!(usage.chunks_free + used, usage.chunks, "chunks leaked");
    }

    /// I10, and the machine's own promises.
    pub fn check(&self) {
        assert_eq!(self.driver.store.check_map(), []);
        self.driver.store.check_deep();
        assert_eq!(self.driver.lost, []);
        assert_eq!(self.driver.failed, None);
    }

    /// One thing happens: a request comes, an operation ends, or time passes.
    pub fn step(&mut self) {
        let open = self.known.requests.len();
        if self.driver.running() > 0 && (open >= self.depth || self.rng.u8(..10) < 6) {
            self.driver.end_one();
        } else if open < self.depth && self.rng.u8(..40) != 0 {
            self.request();
        } else {
            let passed = self.rng.u64(..1500);
            self.driver.tick(Duration::from_millis(passed));
        }
        self.take_ends();
    }

    /// Lets everything that was asked for end, and checks that it did.
    pub fn finish(&mut self) {
        self.driver.settle();
        self.take_ends();
        assert!(self.known.requests.is_empty(), "a request was forgotten");
        assert_eq!(self.driver.payloads(), 0);
    }

    fn take_ends(&mut self) {
        for (tag, result) in core::mem::take(&mut self.driver.completed) {
            self.known.end(tag, result);
        }
    }

    fn request(&mut self) {
        let present: Vec<usize> = (0..self.known.volumes.len())
            .filter(|at| self.known.volumes[*at].life == Life::Present)
            .collect();
        let creating = self.known.volumes.len() < VOLUMES_MAX && self.rng.u8(..20) == 0;
        if present.is_empty() || creating {
            if self
                .known
                .volumes
                .iter()
                .all(|model| model.life == Life::Present)
            {
                self.create();
            }
            return;
        }
        let volume = present[self.rng.usize(..present.len())];
        if self.rng.u32(..1000) < self.changes {
            return self.change(volume);
        }
        match self.rng.u32(..1000) {
            0..580 => self.write_some(volume),
            580..840 => self.write_chunks(volume),
            840..975 => self.unmap(volume),
            _ => {
                let tag = self.known.tag();
                self.known.checkpoints.push(tag);
                self.driver.event(Event::Checkpoint { tag });
            }
        }
    }

    /// Some of these come in pairs, so that they share a frame and one may overtake the other.
    fn change(&mut self, volume: usize) {
        match self.rng.u32(..100) {
            0..35 => self.set_attributes(volume),
            35..60 => self.resize(volume),
            60..80 => self.set_epoch(volume),
            80..88 => {
                self.resize(volume);
                let size = self.known.volumes[volume].size_blocks.highest();
                let first = self.rng.u64(..size);
                self.write(volume, first, (size - first).min(20));
            }
            88..94 => {
                self.set_attributes(volume);
                self.remove(volume);
            }
            _ => self.remove(volume),
        }
    }

    fn create(&mut self) {
        let tag = self.known.tag();
        let mut id = VolumeId([0; 16]);
        id.0[..8].copy_from_slice(&self.rng.u64(..).to_le_bytes());
        id.0[8..].copy_from_slice(&tag.0.to_le_bytes());
        let size_blocks = self.rng.u64(VOLUME_BLOCKS_MIN..=VOLUME_BLOCKS);
        self.known.volumes.push(Model {
            id,
            life: Life::Creating,
            oracle: Oracle::default(),
            size_blocks: Rising::at(size_blocks),
            epoch: Rising::at(1),
        });
        let volume = self.known.volumes.len() - 1;
        self.known.begin(tag, volume, What::Create);
        self.driver.event(Event::CreateVolume {
            tag,
            id,
            size_blocks,
            epoch: Epoch(1),
            sharing: Sharing::Alone,
        });
    }

    fn remove(&mut self, volume: usize) {
        let tag = self.known.tag();
        let id = self.known.volumes[volume].id;
        self.known.volumes[volume].life = Life::Removing;
        self.known.begin(tag, volume, What::Remove);
        self.driver.event(Event::RemoveVolume { tag, id });
    }

    fn write_some(&mut self, volume: usize) {
        // Half of the writes meet in four chunks.
        let size = self.known.volumes[volume].size_blocks.acknowledged;
        let area = if self.rng.bool() { 64 } else { size };
        let first = self.rng.u64(..area - 20);
        let count = self.rng.u64(1..=20);
        self.write(volume, first, count);
    }

    fn write_chunks(&mut self, volume: usize) {
        let chunk = CHUNK_BLOCKS as u64;
        let count = self.rng.u64(1..=4);
        let size = self.known.volumes[volume].size_blocks.acknowledged;
        let first = self.rng.u64(..=size / chunk - count);
        self.write(volume, first * chunk, count * chunk);
    }

    fn write(&mut self, volume: usize, first: u64, count: u64) {
        let tag = self.known.tag();
        let value = tag.0;
        let id = self.known.volumes[volume].id;
        let blocks = (first..first + count)
            .map(|at| content(id, at, value))
            .collect();
        self.known.begin(
            tag,
            volume,
            What::Set {
                first,
                count,
                value,
            },
        );
        self.driver.write(tag, id, range(first, count), blocks);
    }

    fn unmap(&mut self, volume: usize) {
        let tag = self.known.tag();
        let size = self.known.volumes[volume].size_blocks.acknowledged;
        let first = self.rng.u64(..size);
        let count = self.rng.u64(1..=(size - first).min(120));
        let id = self.known.volumes[volume].id;
        let value = 0;
        self.known.begin(
            tag,
            volume,
            What::Set {
                first,
                count,
                value,
            },
        );
        self.driver.event(Event::Unmap {
            tag,
            volume: id,
            range: range(first, count),
        });
    }

    /// Mostly grows; sometimes asks for what has to be refused.
    fn resize(&mut self, volume: usize) {
        let tag = self.known.tag();
        let model = &mut self.known.volumes[volume];
        let from = if self.rng.u8(..8) == 0 {
            1
        } else {
            model.size_blocks.acknowledged
        };
        let size_blocks = self.rng.u64(from..=VOLUME_BLOCKS);
        let id = model.id;
        model.size_blocks.asked.push(size_blocks);
        self.known.begin(tag, volume, What::Resize(size_blocks));
        self.driver.event(Event::ResizeVolume {
            tag,
            id,
            size_blocks,
        });
    }

    fn set_epoch(&mut self, volume: usize) {
        let tag = self.known.tag();
        let model = &mut self.known.volumes[volume];
        let epoch = model.epoch.acknowledged + self.rng.u64(..4);
        let epoch = epoch
            .saturating_sub(u64::from(self.rng.u8(..6) == 0))
            .max(1);
        let id = model.id;
        model.epoch.asked.push(epoch);
        self.known.begin(tag, volume, What::Epoch(epoch));
        self.driver.event(Event::BeginEpoch {
            tag,
            volume: id,
            epoch: Epoch(epoch),
            sharing: Sharing::Alone,
        });
    }

    fn set_attributes(&mut self, volume: usize) {
        let tag = self.known.tag();
        let id = self.known.volumes[volume].id;
        let (first, count, value) = (ATTRIBUTES, 1, tag.0);
        self.known.begin(
            tag,
            volume,
            What::Set {
                first,
                count,
                value,
            },
        );
        self.driver.event(Event::SetAttributes {
            tag,
            volume: id,
            bytes: attributes(value),
        });
    }
}

impl Knowledge {
    fn tag(&mut self) -> Tag {
        self.next += 1;
        Tag(self.next)
    }

    fn begin(&mut self, tag: Tag, volume: usize, what: What) {
        if let What::Set {
            first,
            count,
            value,
        } = what
        {
            let oracle = &mut self.volumes[volume].oracle;
            places(first, count).for_each(|place| oracle.begin(place, value));
        }
        self.requests.insert(tag, Request { volume, what });
    }

    fn end(&mut self, tag: Tag, result: Result<(), RequestError>) {
        if self.checkpoints.contains(&tag) {
            assert!(matches!(result, Ok(()) | Err(RequestError::StoreFailed)));
            return;
        }
        let request = self.requests.remove(&tag).expect("completed once");
        if result == Err(RequestError::StoreFailed) {
            return; // It may have happened or not, as at a crash.
        }
        let model = &mut self.volumes[request.volume];
        match (request.what, result) {
            (What::Create, Ok(())) => model.life = Life::Present,
            (What::Remove, Ok(())) => model.life = Life::Gone,
            (
                What::Set {
                    first,
                    count,
                    value,
                },
                Ok(()),
            ) => places(first, count).for_each(|place| model.oracle.end(place, value)),
            (
                What::Set {
                    first,
                    count,
                    value,
                },
                Err(RequestError::NoSpace),
            ) => places(first, count).for_each(|place| model.oracle.refuse(place, value)),
            (What::Resize(size), Ok(())) => model.size_blocks.end(size),
            (What::Resize(size), Err(RequestError::OutOfRange)) => model.size_blocks.refuse(size),
            (What::Epoch(epoch), Ok(())) => model.epoch.end(epoch),
            (What::Epoch(epoch), Err(RequestError::StaleEpoch)) => model.epoch.refuse(epoch),
            (
                What::Set {
                    first,
                    count,
                    value,
                },
                Err(RequestError::OutOfRange),
            ) => {
                assert!(first + count > model.size_blocks.acknowledged, "inside");
                places(first, count).for_each(|place| model.oracle.refuse(place, value));
            }
            (What::Set { .. } | What::Resize(_) | What::Epoch(_), Err(RequestError::NotFound)) => {
                assert!(matches!(model.life, Life::Removing | Life::Gone));
            }
            (what, result) => panic!("{what:?} ended with {result:?}"),
        }
        let idle = self.requests.is_empty();
        if idle {
            self.volumes.retain(|model| model.life != Life::Gone);
        }
    }
}

impl Rising {
    fn at(number: u64) -> Rising {
        let asked = Vec::new();
        Rising {
            acknowledged: number,
            asked,
        }
    }

    /// The highest it may be.
    fn highest(&self) -> u64 {
        self.asked.iter().copied().fold(self.acknowledged, u64::max)
    }

    fn end(&mut self, number: u64) {
        self.take(number);
        self.acknowledged = self.acknowledged.max(number);
    }

    /// Refused: something above it was in force, or on its way.
    fn refuse(&mut self, number: u64) {
        assert!(self.highest() > number, "{number} was in order");
        self.take(number);
    }

    fn take(&mut self, number: u64) {
        let at = self.asked.iter().position(|asked| *asked == number);
        self.asked.remove(at.expect("it was asked for"));
    }

    /// After a crash it is `number`, and what was under way is over.
    fn settle(&mut self, number: u64) {
        let raised = self.asked.contains(&number) && number > self.acknowledged;
        let allowed = number == self.acknowledged || raised;
        assert!(allowed, "{number} instead of {self:?}");
        *self = Rising::at(number);
    }
}

fn verify_volume(driver: &Driver, model: &mut Model) {
    let id = model.id;
    let info = driver.store.volume(id).expect("it exists");
    model.size_blocks.settle(info.size_blocks);
    model.epoch.settle(info.epoch.0);
    let whole = range(0, info.size_blocks);
    let blocks = driver.read(id, whole).expect("it exists");
    // What was acknowledged behind the end would be lost.
    for place in info.size_blocks..VOLUME_BLOCKS {
        assert!(model.oracle.allows(place, 0), "block {place} is cut off");
        model.oracle.settle(place, 0);
    }
    for (place, read) in (0..).zip(blocks) {
        let value = match &read {
            BlockRead::Zero => 0,
            BlockRead::Data(block) => {
                let value = u64::from_le_bytes(block[..8].try_into().expect("8 bytes"));
                assert_eq!(block, &content(id, place, value), "a mix at block {place}");
                value
            }
            BlockRead::Bad => panic!("block {place} of {id} is damaged"),
        };
        let allowed = model.oracle.allows(place, value);
        assert!(
            allowed,
            "block {place} of {id} has value {value}, not one of {:?}",
            model.oracle.allowed(place)
        );
        model.oracle.settle(place, value);
    }
    let bytes = driver.store.attributes(id).expect("it exists");
    let value = bytes
        .first_chunk()
        .map_or(0, |value| u64::from_le_bytes(*value));
    assert!(value == 0 || bytes == attributes(value));
    assert!(model.oracle.allows(ATTRIBUTES, value), "attributes");
    model.oracle.settle(ATTRIBUTES, value);
}

fn places(first: u64, count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |at| first + at)
}

fn range(first: u64, count: u64) -> BlockRange {
    BlockRange {
        first: Block(first),
        count: u32::try_from(count).expect("small"),
    }
}

/// A block that says what, where and whose it is, all over.
pub(super) fn content(id: VolumeId, place: u64, value: u64) -> Rc<BlockBytes> {
    let mut pattern = [0; 32];
    pattern[..8].copy_from_slice(&value.to_le_bytes());
    pattern[8..16].copy_from_slice(&place.to_le_bytes());
    pattern[16..].copy_from_slice(&id.0);
    let mut block = [0; BLOCK_BYTES];
    for part in block.chunks_exact_mut(32) {
        part.copy_from_slice(&pattern);
    }
    Rc::new(block)
}

pub(super) fn attributes(value: u64) -> Vec<u8> {
    // Up to three pages, now and then as many as there can be.
    let long = if value.is_multiple_of(16) {
        32_000
    } else {
        9_000
    };
    let mut bytes = vec![7; 8 + usize::try_from(value * 997 % long).expect("small")];
    bytes[..8].copy_from_slice(&value.to_le_bytes());
    bytes
}
