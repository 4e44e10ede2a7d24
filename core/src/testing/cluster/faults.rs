//! Disasters, and what people do about them.

use super::node::{FILLER, VOLUME, Wait, content, node_of, store_of};
use super::plan::Fault;
use super::{Happening, Input, MASTERS, Micros, SECOND, World};
use crate::block::ChunkIndex;
use crate::checksum::crc32c;
use crate::cluster::message::Request;
use crate::cluster::set::{Replica, VolumeSet};
use crate::engine;
use crate::limits::CHUNK_BLOCKS;
use crate::lsn::Epoch;
use crate::store::Event;
use crate::store::append::Sharing;
use crate::testing::driver::formatted;
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

/// Of clocks, in parts per thousand of true time: the margin of the leases allows for them.
pub(super) const RATES: core::ops::RangeInclusive<u64> = 960..=1040;

/// After this everybody has noticed that a node is down, and what was under way has ended.
const NOTICED: Micros = 5 * SECOND;

impl World {
    /// Something bad happens.
    pub(super) fn on_fault(&mut self) {
        if self.is_calm() || self.plan.faults.is_empty() {
            return;
        }
        let next = self.now + self.rng.u64(20_000..=self.plan.gap);
        self.at(next, Happening::Fault);
        let fault = self.plan.faults[self.rng.usize(..self.plan.faults.len())];
        let node = self.victim();
        let other = self.rng.usize(..self.nodes.len());
        self.faults += 1;
        self.say(|| format!("FAULT {fault:?}, node {node}"));
        self.note(8, node as u64, other as u64);
        match fault {
            Fault::Kill | Fault::PowerLoss => self.crash(node, fault),
            Fault::PowerLossOfAll => (0..self.nodes.len()).for_each(|node| self.crash(node, fault)),
            Fault::Pause => {
                let until = self.now + self.rng.u64(50_000..6 * SECOND);
                self.nodes[node].paused_until = until;
                self.strikes(fault, until);
                self.at(until, Happening::Resume(node));
            }
            Fault::Cut | Fault::Isolate | Fault::CutFromMasters => self.cut_off(fault, node, other),
            Fault::Usurp => self.usurp(),
            Fault::Drift => {
                let rate = self.rng.u64(RATES);
                let now = self.now;
                self.nodes[node].drift(now, rate);
                self.strikes(fault, Micros::MAX);
            }
            Fault::StaleAssignment => self.assign_stale(node),
            Fault::Break => {
                let streams: Vec<_> = self.network.streams.keys().copied().collect();
                if !streams.is_empty() {
                    let at = self.rng.usize(..streams.len());
                    self.break_stream(streams[at]);
                    self.strikes(fault, self.now);
                }
            }
            Fault::Clog => {
                let until = self.now + self.rng.u64(..6 * SECOND);
                self.nodes[node].clogged_until = until;
                self.strikes(fault, until);
            }
            Fault::SlowDisk => {
                let until = self.now + self.rng.u64(..8 * SECOND);
                self.nodes[node].slow_until = until;
                self.strikes(fault, until);
            }
            Fault::MasterRestart => {
                self.masters.leader = None;
                self.masters.leadership += 1;
                let at = self.now + self.rng.u64(..5 * SECOND);
                self.at(at, Happening::Lead);
                self.strikes(fault, at);
            }
            Fault::Move => {
                let to = self.nodes[node].store;
                self.request(Request::Move { to });
                self.move_since.get_or_insert(self.now);
            }
            Fault::Heal => {
                self.network.cut.clear();
                self.coverage.end(self.now, Fault::is_cut);
            }
            Fault::FullDisk => self.take_space(node),
            Fault::Replace => self.replace(node),
        }
    }

    fn cut_off(&mut self, fault: Fault, node: usize, other: usize) {
        match fault {
            Fault::Cut if node != other => {
                let ways = self.rng.u8(1..=3);
                self.cut_ways(fault, node, other, ways);
            }
            Fault::Isolate => {
                let ways = self.rng.u8(1..=3);
                for other in (0..self.nodes.len()).filter(|other| *other != node) {
                    self.cut_ways(fault, node, other, ways);
                }
                if self.rng.bool() {
                    self.cut_ways(fault, node, MASTERS, ways);
                }
            }
            Fault::CutFromMasters => {
                let ways = self.rng.u8(1..=3);
                self.cut_ways(fault, node, MASTERS, ways);
            }
            _ => {}
        }
    }

    /// The primary may know nothing of its end: what it was granted before has to run out first.
    fn usurp(&mut self) {
        let old = node_of(self.masters.registry.primary);
        let until = self.now + self.rng.u64(3 * SECOND..9 * SECOND);
        self.strikes(Fault::Usurp, until);
        if self.rng.bool() {
            self.nodes[old].clogged_until = self.now + 2 * SECOND;
        }
        self.cut_until(old, MASTERS, until);
        if self.rng.bool() {
            let others: Vec<_> = (0..self.nodes.len()).filter(|node| *node != old).collect();
            let to = self.nodes[others[self.rng.usize(..others.len())]].store;
            self.request(Request::Move { to });
            self.move_since.get_or_insert(self.now);
        }
        if self.rng.u8(..4) > 0 {
            let at = self.now + self.rng.u64(1..SECOND);
            self.at(at, Happening::Lonely(old, until));
        }
    }

    /// No other node is heard by this one, nor hears it.
    pub(super) fn on_lonely(&mut self, node: usize, until: Micros) {
        if self.is_calm() {
            return;
        }
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.cut_until(node, other, until);
        }
    }

    fn cut_until(&mut self, node: usize, other: usize, until: Micros) {
        self.network.cut.extend([(node, other), (other, node)]);
        self.at(until, Happening::Heal(node, other));
    }

    /// A message of the masters that was long on its way.
    fn assign_stale(&mut self, node: usize) {
        let store = self.nodes[node].store;
        let sets = self.masters.past.iter();
        let created = |set: &&VolumeSet| set.replica(store).is_some_and(|replica| replica.created);
        let sets: Vec<_> = sets.filter(created).cloned().collect();
        if !sets.is_empty() {
            let set = sets[self.rng.usize(..sets.len())].clone();
            self.tell_node(node, Input::Assign(store, Box::new(set)));
            self.strikes(Fault::StaleAssignment, self.now);
        }
    }

    /// Most often the primary: there it hurts.
    fn victim(&mut self) -> usize {
        if self.rng.bool() {
            node_of(self.masters.registry.primary)
        } else {
            self.rng.usize(..self.nodes.len())
        }
    }

    fn strikes(&mut self, fault: Fault, until: Micros) {
        self.coverage.strikes(fault, self.now, until);
    }

    fn crash(&mut self, node: usize, fault: Fault) {
        if self.nodes[node].process.is_some() {
            self.stop(node, fault != Fault::Kill);
            let at = self.now + self.rng.u64(20_000..6 * SECOND);
            self.strikes(fault, at);
            self.at(at, Happening::Start(node));
        }
    }

    fn cut_ways(&mut self, fault: Fault, node: usize, other: usize, ways: u8) {
        if ways & 1 != 0 {
            self.network.cut.insert((node, other));
        }
        if ways & 2 != 0 {
            self.network.cut.insert((other, node));
        }
        // Short cuts are as interesting as long ones; some last until all are healed.
        if self.rng.u8(..4) != 0 {
            let until = self.now + self.rng.u64(100_000..7 * SECOND);
            self.at(until, Happening::Heal(node, other));
            self.strikes(fault, until);
        } else {
            self.strikes(fault, Micros::MAX);
        }
    }

    /// The faults are over: everything works from here on.
    pub(super) fn on_calm(&mut self) {
        self.say(|| "CALM".into());
        self.calm_since = Some(self.now);
        self.coverage.end(self.now, |_| true);
        self.network.cut.clear();
        for node in 0..self.nodes.len() {
            let here = &mut self.nodes[node];
            here.slow_until = 0;
            here.clogged_until = 0;
            here.paused_until = here.paused_until.min(self.now);
            self.at(self.now + 1, Happening::Start(node));
            self.at(self.now + 2, Happening::Resume(node));
            self.at(self.now + 2 * SECOND, Happening::Unfill(node));
        }
        if self.masters.leader.is_none() {
            self.at(self.now + SECOND, Happening::Lead);
        }
    }

    /// A person looks after what the masters cannot do alone: copies on stores that are lost.
    pub(super) fn on_operator(&mut self) {
        self.at(self.now + SECOND, Happening::Operator);
        let set = self.masters.registry.clone();
        let is_there = |store| self.nodes.iter().any(|node| node.store == store);
        let lost = set.replicas.iter().find(|replica| !is_there(replica.store));
        if let Some(replica) = lost.copied() {
            self.request(Request::RemoveReplica(replica.store));
            return;
        }
        if set.replicas.len() < self.plan.copies {
            let free = |node: &&super::Node| set.replicas.iter().all(|r| r.node != node.id);
            let free: Vec<_> = self.nodes.iter().filter(free).collect();
            let node = free[self.rng.usize(..free.len())];
            let replica = Replica {
                store: node.store,
                node: node.id,
                in_sync: false,
                created: false,
                discard: false,
            };
            self.request(Request::AddReplica(replica));
        }
    }

    /// A node goes down; its disk is looked at when everybody has noticed.
    fn replace(&mut self, at: usize) {
        if self.nodes[at].process.is_some() {
            self.stop(at, true);
            self.at(self.now + NOTICED, Happening::Replace(at));
            self.strikes(Fault::Replace, self.now + NOTICED);
        }
    }

    /// A store is lost, unless with it something would be that was acknowledged.
    pub(super) fn on_replace(&mut self, at: usize) {
        let set = &self.masters.registry;
        let own = self.nodes[at].store;
        // A member of the in-sync set that resyncs is no help in an election.
        let is_whole = |node: &super::Node| {
            let process = node.process.as_ref();
            let info = process.and_then(|process| process.engine.store().volume(VOLUME));
            info.is_some_and(|info| info.resync.is_none())
        };
        let others = set.in_sync().filter(|replica| {
            let mut nodes = self.nodes.iter();
            let node = nodes.find(|node| node.store == replica.store);
            replica.store != own && node.is_some_and(is_whole)
        });
        let enough = others.count() >= set.answers_needed();
        let has_copy = set.replica(own).is_some();
        let down = self.nodes[at].image.is_some();
        if down && has_copy && enough && own.0[1] < u8::MAX {
            let node = u8::try_from(at).expect("few nodes");
            let store = store_of(node, own.0[1] + 1);
            self.say(|| format!("node {at} has another disk"));
            self.nodes[at].store = store;
            self.nodes[at].image = Some(formatted(store, self.plan.layout));
        }
        self.at(self.now + 1, Happening::Start(at));
    }

    /// Another volume takes all space of a store for a while.
    fn take_space(&mut self, at: usize) {
        let size_blocks = u64::from(self.plan.layout.chunks) * CHUNK_BLOCKS as u64;
        let Some(process) = &mut self.nodes[at].process else {
            return;
        };
        if process.engine.store().volume(FILLER).is_some() {
            return;
        }
        let tag = process.tag(Wait::FillerCreated);
        let event = Event::CreateVolume {
            tag,
            id: FILLER,
            size_blocks,
            epoch: Epoch(1),
            sharing: Sharing::Alone,
        };
        self.step_engine(at, [engine::Event::Store(event)]);
        let until = self.now + self.rng.u64(SECOND..8 * SECOND);
        self.at(until, Happening::Unfill(at));
        self.strikes(Fault::FullDisk, until);
    }

    /// The volume is there: it is written as far as there is space.
    pub(super) fn fill_disk(&mut self, at: usize) {
        for chunk in 0..self.plan.layout.chunks {
            let Some(process) = &mut self.nodes[at].process else {
                return;
            };
            let range = ChunkIndex(u64::from(chunk)).range();
            let block = content(u64::from(chunk), 1);
            let blocks = alloc::vec![block; CHUNK_BLOCKS];
            let checksums = alloc::vec![crc32c(blocks[0].as_slice()); CHUNK_BLOCKS];
            let payload = process.hold(blocks);
            let event = Event::Write {
                tag: process.tag(Wait::Filler),
                volume: FILLER,
                range,
                checksums,
                payload,
            };
            self.step_engine(at, [engine::Event::Store(event)]);
        }
    }

    /// The space comes back.
    pub(super) fn on_unfill(&mut self, at: usize) {
        let Some(process) = &mut self.nodes[at].process else {
            return;
        };
        if process.engine.store().volume(FILLER).is_some() {
            let tag = process.tag(Wait::Filler);
            let event = Event::RemoveVolume { tag, id: FILLER };
            self.step_engine(at, [engine::Event::Store(event)]);
            self.at(self.now + SECOND, Happening::Unfill(at));
        }
    }
}
