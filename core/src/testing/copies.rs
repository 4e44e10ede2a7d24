//! Copies of one shared volume on several stores, with a coordinator that makes no mistakes: crashes, cuts,
//! commits and resyncs in any order, against the list of what was committed.
//!
//! Goal: I1, I4, I5, I7, I8, I10, I12 of the store's part in replication. Method: every copy must at any time
//! show exactly the records up to its own commit point, whose bytes are known; a recovered copy must have
//! what it said was durable. Every member of the in-sync set has to have a record before it is committed.

mod copy;
mod records;

use self::copy::Copy;
use self::records::{changes, common, epoch_at, fills, range, value_of};
use super::disk::{BlockBytes, Torn};
use super::driver::{Driver, Record};
use super::workload::{attributes, content};
use crate::block::Block;
use crate::id::VolumeId;
use crate::limits::CHUNK_BLOCKS;
use crate::lsn::{Epoch, Lsn};
use crate::store::append::{AppendBody, Resync, Sharing};
use crate::store::{ChangeKind, Event, RequestError, Tag, VolumeInfo};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::time::Duration;
use fastrand::Rng;

const VOLUME: VolumeId = VolumeId([0x77; 16]);

/// Blocks of the volume at first: 12 chunks.
const VOLUME_BLOCKS: u64 = 12 * CHUNK_BLOCKS as u64;

/// Things that happen in one run.
const STEPS: usize = 1500;

/// Where the model keeps the attributes.
const ATTRIBUTES: u64 = u64::MAX - 1;

/// Runs the seed to its end. Gives the number of crashes that were recovered from.
pub fn run(seed: u64) -> u64 {
    let mut group = Group::new(seed);
    for _ in 0..STEPS {
        group.step();
    }
    group.settle();
    group.crashes
}

/// What goes from the primary to one copy, in order.
#[derive(Clone, Debug)]
enum Message {
    Record(Record),
    Fill(AppendBody, Vec<Rc<BlockBytes>>, Block),
    EndResync,
    Commit(Lsn),
}

/// A request of the host that is under way.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// The copy that has it.
    at: usize,
    first: u64,
    count: u64,
    value: u64,
}

struct Group {
    copies: Vec<Copy>,
    primary: usize,
    epoch: Epoch,
    /// Every record that ever began, by LSN and epoch.
    records: BTreeMap<(Lsn, Epoch), Record>,
    /// Committed: the epoch of each LSN from 1 on.
    committed: Vec<Epoch>,
    open: BTreeMap<Tag, Open>,
    next: u64,
    depth: usize,
    crashes: u64,
    rng: Rng,
}

impl Group {
    fn new(seed: u64) -> Group {
        let mut rng = Rng::with_seed(seed);
        let count = if rng.bool() { 2 } else { 3 };
        let copies = (0..count).map(|at| Copy::new(at, &mut rng)).collect();
        let mut group = Group {
            copies,
            primary: 0,
            epoch: Epoch(1),
            records: BTreeMap::new(),
            committed: Vec::new(),
            open: BTreeMap::new(),
            next: 1,
            depth: rng.usize(1..10),
            crashes: 0,
            rng,
        };
        while !group.begin_reign() {
            group.epoch.0 += 1;
        }
        group
    }

    fn tag(&mut self) -> Tag {
        self.next += 1;
        Tag(self.next)
    }

    fn step(&mut self) {
        let at = self.rng.usize(..self.copies.len());
        match self.rng.u32(..1000) {
            0..250 => self.request(),
            250..600 => {
                self.copies[at].driver.end_one();
            }
            600..800 => self.deliver(at),
            800..880 => self.fill(at),
            880..940 => self.connect(at),
            940..965 => {
                let passed = Duration::from_millis(self.rng.u64(..1500));
                self.copies[at].driver.tick(passed);
            }
            965..975 => {
                let tag = Tag(0);
                self.copies[at].driver.event(Event::Checkpoint { tag });
            }
            975..985 => self.crash(at),
            985..990 => self.fail_over(),
            990..995 if at != self.primary => self.copies[at].leave(),
            995..997 => self.check(at),
            _ => {}
        }
        self.observe();
    }

    /// Takes what the copies said: records to ship, durability, ends of requests; commits.
    fn observe(&mut self) {
        let primary = self.primary;
        let appended = core::mem::take(&mut self.copies[primary].driver.appended);
        for record in appended {
            self.remember(record.clone());
            for copy in self.copies.iter_mut().filter(|copy| copy.connected) {
                copy.queue.push_back(Message::Record(record.clone()));
            }
        }
        for at in 0..self.copies.len() {
            let copy = &mut self.copies[at];
            if at != primary {
                assert!(copy.driver.appended.is_empty(), "only one copy leads");
            }
            for (_, lsn) in core::mem::take(&mut copy.driver.durable) {
                if copy.connected || at == primary {
                    copy.durable = lsn;
                }
            }
            for (tag, result) in core::mem::take(&mut copy.driver.completed) {
                self.end(at, tag, result);
            }
        }
        self.commit();
    }

    fn remember(&mut self, record: Record) {
        let key = (record.lsn, record.epoch);
        if let Some(before) = self.records.insert(key, record.clone()) {
            assert_eq!(before, record, "one number, two records");
        }
    }

    fn end(&mut self, at: usize, tag: Tag, result: Result<(), RequestError>) {
        if tag == Tag(0) {
            return;
        }
        if let Some(open) = self.open.remove(&tag) {
            match result {
                Ok(()) => assert!(self.is_committed(&open), "acknowledged and not committed"),
                Err(RequestError::NoSpace | RequestError::StaleEpoch) => {}
                Err(error) => panic!("a request of the host ended with {error}"),
            }
            return;
        }
        let copy = &mut self.copies[at];
        match result {
            Ok(()) if copy.filled == Some(tag) => {
                copy.filled = None;
                copy.fill = None;
                let info = copy.driver.store.volume(VOLUME).expect("it exists");
                copy.whole_from = info.appended;
            }
            Ok(()) | Err(RequestError::StaleEpoch) => {}
            Err(RequestError::NoSpace) if copy.connected => copy.leave(),
            Err(RequestError::NoSpace) => {}
            Err(RequestError::OutOfRange) => assert!(!copy.connected, "a record did not fit"),
            Err(error) => panic!("a record of the primary ended with {error}"),
        }
    }

    /// Whether all blocks of a write are in what was committed.
    fn is_committed(&self, open: &Open) -> bool {
        if open.value == 0 {
            return true; // Unmaps do not say whose they are.
        }
        let mut found = 0;
        for (lsn, epoch) in (1..).zip(&self.committed) {
            let record = &self.records[&(Lsn(lsn), *epoch)];
            found += changes(record)
                .into_iter()
                .filter(|(_, value)| *value == open.value)
                .count() as u64;
        }
        found == open.count
    }

    /// What all members of the in-sync set have is committed.
    fn commit(&mut self) {
        let members = self.copies.iter().filter(|copy| copy.in_sync);
        let durable = members.map(|copy| copy.durable).min();
        let durable = durable.expect("the primary is in sync");
        let primary = &self.copies[self.primary];
        let Some(info) = primary.driver.store.volume(VOLUME) else {
            return;
        };
        if durable.0 <= self.committed.len() as u64 {
            return;
        }
        let reigns = primary.driver.store.reigns(VOLUME);
        for lsn in self.committed.len() as u64 + 1..=durable.0 {
            let epoch = epoch_at(reigns, Lsn(lsn));
            assert!(self.records.contains_key(&(Lsn(lsn), epoch)));
            self.committed.push(epoch);
        }
        assert!(durable <= info.durable);
        self.tell_commit(durable);
    }

    fn tell_commit(&mut self, up_to: Lsn) {
        let volume = VOLUME;
        for at in 0..self.copies.len() {
            if at == self.primary {
                let event = Event::Commit { volume, up_to };
                self.copies[at].driver.event(event);
            } else if self.copies[at].connected {
                self.copies[at].queue.push_back(Message::Commit(up_to));
            }
        }
    }

    fn request(&mut self) {
        if self.busy(|_| true) >= self.depth {
            return;
        }
        let tag = self.tag();
        let (value, volume) = (tag.0, VOLUME);
        let size = self.size();
        let chunk = CHUNK_BLOCKS as u64;
        let (first, count) = if self.rng.u8(..3) == 0 {
            let count = self.rng.u64(1..=3);
            (self.rng.u64(..=size / chunk - count) * chunk, count * chunk)
        } else {
            (self.rng.u64(..size - 20), self.rng.u64(1..=20))
        };
        let range = range(first, count);
        let mut open = Open {
            at: self.primary,
            first,
            count,
            value,
        };
        let driver = &mut self.copies[self.primary].driver;
        match self.rng.u8(..20) {
            0..3 => {
                open.value = 0;
                driver.event(Event::Unmap { tag, volume, range });
            }
            3 => {
                (open.first, open.count) = (ATTRIBUTES, 1);
                let bytes = attributes(value);
                driver.event(Event::SetAttributes { tag, volume, bytes });
            }
            4 if size < 2 * VOLUME_BLOCKS => {
                (open.first, open.value) = (ATTRIBUTES - 1, 0);
                let (id, size_blocks) = (VOLUME, size + 5);
                driver.event(Event::ResizeVolume {
                    tag,
                    id,
                    size_blocks,
                });
            }
            _ => {
                let blocks = (first..first + count).map(|at| content(VOLUME, at, value));
                driver.write(tag, VOLUME, range, blocks.collect());
            }
        }
        self.open.insert(tag, open);
    }

    fn size(&self) -> u64 {
        let info = self.copies[self.primary].driver.store.volume(VOLUME);
        info.expect("it exists").size_blocks
    }

    /// One message of the primary reaches a copy.
    fn deliver(&mut self, at: usize) {
        let tag = self.tag();
        let (reign, volume) = (self.epoch, VOLUME);
        let copy = &mut self.copies[at];
        let Some(message) = copy.queue.pop_front() else {
            return;
        };
        assert!(copy.connected);
        match message {
            Message::Record(record) => {
                let payload = Some(record.blocks).filter(|blocks| !blocks.is_empty());
                let payload = payload.map(|blocks| copy.driver.hold(blocks));
                copy.driver.event(Event::Append {
                    tag,
                    volume,
                    reign,
                    epoch: record.epoch,
                    lsn: record.lsn,
                    body: record.body,
                    payload,
                });
            }
            Message::Fill(body, blocks, cursor) => {
                let payload = Some(blocks).filter(|blocks| !blocks.is_empty());
                let payload = payload.map(|blocks| copy.driver.hold(blocks));
                copy.driver.event(Event::Fill {
                    tag,
                    volume,
                    reign,
                    body,
                    payload,
                    cursor,
                });
            }
            Message::EndResync => {
                copy.filled = Some(tag);
                copy.driver.event(Event::EndResync { tag, volume, reign });
            }
            Message::Commit(up_to) => copy.driver.event(Event::Commit { volume, up_to }),
        }
    }

    /// A copy that does not follow adopts the present reign; one that has everything joins the set.
    fn connect(&mut self, at: usize) {
        if at == self.primary {
            return;
        }
        self.observe();
        let committed = Lsn(self.committed.len() as u64);
        let copy = &mut self.copies[at];
        if copy.connected {
            let whole = copy.fill.is_none() && copy.durable >= committed;
            copy.in_sync |= whole;
            return;
        }
        let primary = &self.copies[self.primary].driver.store;
        let (info, reigns) = (self.info(self.primary), primary.reigns(VOLUME).to_vec());
        let own = self.info(at);
        let history = self.copies[at].driver.store.reigns(VOLUME);
        let keep = common(
            (&reigns, info.appended),
            (history, own.appended, own.committed),
        );
        let lacks = keep < info.committed || own.resync.is_some();
        let base = own
            .resync
            .map_or(keep, |resync: Resync| resync.base.min(keep));
        let cut = keep.max(info.committed);
        if lacks && info.committed < own.committed {
            return; // The primary first has to learn its commit point.
        }
        let tag = self.tag();
        let cursor = Block(0);
        let event = Event::Adopt {
            tag,
            volume: VOLUME,
            epoch: self.epoch,
            keep,
            cut,
            reigns: reigns
                .into_iter()
                .filter(|reign| reign.start <= cut)
                .collect(),
            resync: lacks.then_some(Resync { base, cursor }),
        };
        let again = self.copies[self.primary].driver.pending(VOLUME, cut);
        again.iter().for_each(|record| self.verify_record(record));
        let copy = &mut self.copies[at];
        copy.queue = again.into_iter().map(Message::Record).collect();
        copy.fill = lacks.then_some((base, Block(0)));
        if lacks {
            // Live records may lie behind the end that the copy knows.
            let size_blocks = info.size_blocks;
            let resize = AppendBody::Resize { size_blocks };
            copy.queue
                .push_front(Message::Fill(resize, Vec::new(), cursor));
        }
        copy.durable = copy.durable.min(keep);
        copy.driver.event(event);
        if let Some(result) = self.wait(at, tag) {
            assert_eq!(result, Ok(()));
            let copy = &mut self.copies[at];
            copy.connected = true;
            copy.broken_off &= !lacks;
            copy.durable = cut;
            copy.promised = self.epoch;
            copy.driver.durable.clear();
            copy.queue.push_back(Message::Commit(info.committed));
        }
    }

    /// Lets operations of one copy end until this request does. None: it crashed before.
    fn wait(&mut self, at: usize, tag: Tag) -> Option<Result<(), RequestError>> {
        loop {
            if let Some(result) = self.take_end(at, tag) {
                return Some(result);
            }
            if self.rng.u8(..60) == 0 {
                self.crash(at);
                return None;
            }
            self.progress(at);
        }
    }

    /// The next piece of a resync joins the stream, when nothing is under way in it.
    fn fill(&mut self, at: usize) {
        let copy = &self.copies[at];
        let Some((base, from)) = copy.fill.filter(|_| copy.connected) else {
            return;
        };
        let info = self.info(self.primary);
        let reigns = self.copies[self.primary].driver.store.reigns(VOLUME);
        let begun = reigns
            .last()
            .is_some_and(|last| last.start <= info.committed);
        if !begun || copy.filled.is_some() || copy.queue.len() > 20 {
            return;
        }
        let end = Block(info.size_blocks);
        if from >= end {
            self.end_fill(at, info);
            return;
        }
        let driver = &self.copies[self.primary].driver;
        let changes = driver.store.changed(VOLUME, from, base, 1);
        let change = changes.expect("it exists")[0];
        assert_eq!(change.first, from);
        let limit = match change.kind {
            ChangeKind::Data => from.chunk().range().end().0 - from.0,
            ChangeKind::Zero => 70,
            ChangeKind::Same => u64::MAX,
        };
        let count = change.blocks.min(limit);
        let end = from.0.saturating_add(count);
        let touches = |open: &Open| open.first < end && from.0 < open.first + open.count;
        if self.busy(touches) > 0 {
            return;
        }
        let cursor = from.plus(count);
        if change.kind != ChangeKind::Same {
            let read = driver.read(VOLUME, range(from.0, count)).expect("inside");
            self.copies[at].queue.extend(fills(from, &read, cursor));
        }
        self.copies[at].fill = Some((base, cursor));
    }

    fn end_fill(&mut self, at: usize, info: VolumeInfo) {
        if self.busy(|open| open.first >= ATTRIBUTES - 1) > 0 {
            return;
        }
        let driver = &self.copies[self.primary].driver;
        let bytes = driver.store.attributes(VOLUME).expect("it exists").to_vec();
        let (size_blocks, cursor) = (info.size_blocks, Block(info.size_blocks));
        let queue = &mut self.copies[at].queue;
        let resize = AppendBody::Resize { size_blocks };
        queue.push_back(Message::Fill(resize, Vec::new(), cursor));
        let blob = AppendBody::Attributes(bytes);
        queue.push_back(Message::Fill(blob, Vec::new(), cursor));
        queue.push_back(Message::EndResync);
        self.copies[at].filled = Some(Tag(u64::MAX)); // Until it is delivered.
    }

    /// The copy stops, its disk keeps any part of what was not synced, and it comes back, fenced.
    fn crash(&mut self, at: usize) {
        self.observe();
        self.restart(at);
        if at == self.primary {
            self.fail_over();
        }
    }

    fn restart(&mut self, at: usize) {
        self.crashes += 1;
        let begun = core::mem::take(&mut self.copies[at].driver.appended);
        begun.into_iter().for_each(|record| self.remember(record));
        let torn = match self.rng.u8(..6) {
            0 => Torn::Sectors,
            1 => Torn::Blocks,
            2 => Torn::Garbage,
            _ => Torn::Whole,
        };
        let shown = self.info(at).committed;
        let copy = &mut self.copies[at];
        copy.in_effect = copy.in_effect.max(shown);
        let disk = &copy.driver.disk;
        let keep: Vec<bool> = (0..disk.pending()).map(|_| self.rng.bool()).collect();
        let image = disk.crash(|write| keep[write], torn, &mut self.rng);
        let seed = self.rng.u64(..);
        copy.driver = Driver::open(image, copy.config, seed).expect("a crash is recovered from");
        copy.connected = false;
        copy.queue.clear();
        let info = copy.driver.store.volume(VOLUME).expect("it exists");
        copy.break_off();
        assert!(info.durable >= copy.durable || info.resync.is_some());
        assert!(info.promised >= copy.promised);
        self.open.retain(|_, open| open.at != at);
        self.check(at);
    }

    /// Requests of the host at the present primary for which `counts` holds.
    fn busy(&self, counts: impl Fn(&Open) -> bool) -> usize {
        let present = self.open.values().filter(|open| open.at == self.primary);
        present.filter(|open| counts(open)).count()
    }

    fn info(&self, at: usize) -> VolumeInfo {
        let info = self.copies[at].driver.store.volume(VOLUME);
        info.expect("it exists")
    }

    /// A record that a copy holds is the one that began with its number.
    fn verify_record(&self, record: &Record) {
        let known = self.records.get(&(record.lsn, record.epoch));
        assert_eq!(known, Some(record), "one number, two records");
    }

    /// What is committed up to `lsn`, by place, and the size.
    fn model(&self, lsn: Lsn) -> (BTreeMap<u64, u64>, u64) {
        self.model_between(Lsn(0), lsn)
    }

    /// As `model`, of the records behind `after` alone.
    fn model_between(&self, after: Lsn, lsn: Lsn) -> (BTreeMap<u64, u64>, u64) {
        let (mut places, mut size) = (BTreeMap::new(), VOLUME_BLOCKS);
        let records = (1..=lsn.0).zip(&self.committed);
        for (at, epoch) in records.filter(|(at, _)| *at > after.0) {
            let record = &self.records[&(Lsn(at), *epoch)];
            if let AppendBody::Resize { size_blocks } = record.body {
                size = size_blocks;
            }
            places.extend(changes(record));
        }
        (places, size)
    }

    /// A copy shows exactly what is committed up to its own commit point.
    fn check(&mut self, at: usize) {
        let info = self.info(at);
        let copy = &mut self.copies[at];
        if info.resync.is_none() && core::mem::take(&mut copy.broken_off) {
            copy.whole_from = info.appended;
        }
        let copy = &self.copies[at];
        assert!(info.committed.0 <= self.committed.len() as u64);
        assert_eq!(copy.driver.store.check_map(), []);
        copy.driver.store.check_deep();
        assert_eq!(copy.driver.failed, None);
        assert_eq!(copy.driver.lost, []);
        if info.resync.is_some() || copy.fill.is_some() || info.committed < copy.whole_from {
            return;
        }
        let (model, _) = self.model(info.committed);
        let (later, _) = self.model_between(info.committed, copy.in_effect);
        let shown = copy.driver.read(VOLUME, range(0, info.size_blocks));
        for (place, read) in (0..).zip(shown.expect("it exists")) {
            let expected = model.get(&place).copied().unwrap_or(0);
            let value = value_of(place, &read);
            if later.contains_key(&place) {
                continue;
            }
            assert_eq!(value, expected, "copy {at}, block {place}, {info:?}");
        }
        for record in copy.driver.pending(VOLUME, Lsn(0)) {
            self.verify_record(&record);
        }
    }

    /// Everything that is under way ends; then all copies that follow are the same.
    fn settle(&mut self) {
        for turn in 0..3000 {
            for at in 0..self.copies.len() {
                self.connect(at);
                self.fill(at);
                for _ in 0..8 {
                    self.deliver(at);
                    self.copies[at].driver.end_one();
                }
                if turn % 16 == 0 {
                    self.copies[at].driver.tick(Duration::from_secs(2));
                }
                self.observe();
            }
        }
        assert_eq!(self.busy(|_| true), 0, "a request was forgotten");
        let end = Lsn(self.committed.len() as u64);
        let (model, size) = self.model(end);
        for at in 0..self.copies.len() {
            let info = self.info(at);
            if !self.copies[at].in_sync {
                continue; // It has no space.
            }
            assert_eq!((info.committed, info.appended), (end, end));
            assert_eq!(info.size_blocks, size);
            self.check(at);
            let driver = &mut self.copies[at].driver;
            let bytes = driver.store.attributes(VOLUME).expect("it exists");
            let value = bytes.first_chunk().map_or(0, |v| u64::from_le_bytes(*v));
            assert_eq!(value, model.get(&ATTRIBUTES).copied().unwrap_or(0));
            assert_eq!(driver.payloads(), 0);
            for _ in 0..3 {
                driver.event(Event::Checkpoint { tag: Tag(0) });
                driver.settle();
            }
            assert!(driver.store.is_clean());
            let (usage, info) = (driver.store.usage(), self.info(at));
            assert_eq!(
                usage.chunks_free + info.chunks,
                usage.chunks,
                "chunks leaked"
            );
        }
    }

    /// Another reign begins, led by the member of the in-sync set with the longest log.
    fn fail_over(&mut self) {
        loop {
            self.epoch.0 += 1;
            if self.begin_reign() {
                return;
            }
        }
    }

    fn begin_reign(&mut self) -> bool {
        let (epoch, volume) = (self.epoch, VOLUME);
        let committed = Lsn(self.committed.len() as u64);
        for copy in &mut self.copies {
            copy.connected = false;
            copy.queue.clear();
            copy.durable = if copy.in_sync { committed } else { Lsn(0) };
            copy.break_off();
        }
        let members = (0..self.copies.len()).filter(|at| self.copies[*at].in_sync);
        let members: Vec<usize> = members.collect();
        for at in members.iter().copied() {
            let tag = self.tag();
            let event = Event::Promise { tag, volume, epoch };
            self.copies[at].driver.event(event);
            let crashes = self.crashes;
            if self.wait_fenced(at, tag) != Some(Ok(())) {
                assert!(self.crashes > crashes);
                return false;
            }
            self.copies[at].promised = epoch;
        }
        let log = |at: usize| {
            let info = self.info(at);
            assert_eq!(info.resync, None);
            (info.last_epoch, info.durable)
        };
        let best = members.into_iter().max_by_key(|at| log(*at));
        let best = best.expect("the set is never empty");
        self.primary = best;
        let driver = &mut self.copies[best].driver;
        driver.appended.clear();
        for record in driver.pending(VOLUME, Lsn(0)) {
            self.verify_record(&record);
        }
        let tag = self.tag();
        let sharing = Sharing::Shared;
        self.copies[best].driver.event(Event::BeginEpoch {
            tag,
            volume,
            epoch,
            sharing,
        });
        if self.wait_fenced(best, tag) != Some(Ok(())) {
            return false;
        }
        let appended = core::mem::take(&mut self.copies[best].driver.appended);
        appended
            .into_iter()
            .for_each(|record| self.remember(record));
        let copy = &mut self.copies[best];
        copy.driver.durable.clear();
        let info = copy.driver.store.volume(VOLUME).expect("it exists");
        copy.durable = info.durable;
        let up_to = Lsn(self.committed.len() as u64);
        assert!(
            self.copies[best].durable >= up_to,
            "a committed record is lost"
        );
        self.tell_commit(up_to);
        true
    }

    /// As `wait`, of a copy that may crash without starting another failover.
    fn wait_fenced(&mut self, at: usize, tag: Tag) -> Option<Result<(), RequestError>> {
        loop {
            if let Some(result) = self.take_end(at, tag) {
                return Some(result);
            }
            if self.rng.u8(..100) == 0 {
                self.restart(at);
                return None;
            }
            self.progress(at);
        }
    }

    fn take_end(&mut self, at: usize, tag: Tag) -> Option<Result<(), RequestError>> {
        let mut found = None;
        for (other, result) in core::mem::take(&mut self.copies[at].driver.completed) {
            if other == tag {
                found = Some(result);
            } else {
                self.end(at, other, result);
            }
        }
        found
    }

    fn progress(&mut self, at: usize) {
        if !self.copies[at].driver.end_one() {
            self.copies[at].driver.tick(Duration::from_secs(2));
        }
    }
}
