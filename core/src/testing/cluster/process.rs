//! A volume server's life: start, inputs, the engine's effects, disk operations, its end.

use super::hosts::Reply;
use super::locks::Owner;
use super::masters::{self, ToMaster};
use super::network::words;
use super::node::{FILL_READ_MAX, Process, Running, VOLUME, Wait, node_of, value_in};
use super::{Happening, Input, Micros, SECOND, TICK, World};
use crate::block::BlockRange;
use crate::cluster::election::Position;
use crate::cluster::message::{FenceAnswer, FenceResult};
use crate::cluster::set::VolumeSet;
use crate::engine::machine::Engine;
use crate::engine::{self, Assignment, Effect, FillId, Member, Role};
use crate::id::StoreId;
use crate::limits::BLOCK_BYTES;
use crate::lsn::Epoch;
use crate::store::append::Sharing;
use crate::store::{self, CopyFailure, IoFailure, RequestError};
use crate::testing::disk::{BlockBytes, Disk, Torn};
use crate::testing::driver::recover;
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;

/// A report is sent again after this.
const REPORT: Micros = SECOND;

impl World {
    /// A node's process starts.
    pub(super) fn on_start(&mut self, at: usize) {
        let clock = self.nodes[at].clock(self.now);
        let Some(image) = self.nodes[at].image.take() else {
            return; // It runs.
        };
        let node = &mut self.nodes[at];
        node.agent_down = false;
        node.incarnation += 1;
        node.inbox.clear();
        node.paused_until = 0;
        let incarnation = node.incarnation;
        let recovered = recover(&image, self.plan.config);
        let (store, findings) = recovered.expect("I10: a store opens after any crash");
        let leaks = findings.iter().any(|finding| finding.contains("leak"));
        assert!(!leaks, "I10: {findings:?}");
        assert_eq!(store.check_map(), [], "I10");
        let mut engine = Engine::new(clock, store);
        if let Some(defect) = self.defect {
            engine.plant(defect);
        }
        let disk = Disk::new(image, self.plan.config.write_through);
        self.nodes[at].process = Some(Process::new(engine, disk));
        self.say(|| format!("node {at} starts, incarnation {incarnation}"));
        self.note(1, at as u64, u64::from(incarnation));
        self.at(self.now + SECOND, Happening::Unfill(at));
        self.at(self.now + TICK, Happening::Tick(at, incarnation));
        self.give(at, incarnation, Input::Tick);
    }

    /// A node's process ends. `power`: with it goes what was not synced.
    pub(super) fn stop(&mut self, at: usize, power: bool) {
        let Some(process) = self.nodes[at].process.take() else {
            return;
        };
        let torn = match self.rng.u8(..6) {
            0 => Torn::Sectors,
            1 => Torn::Blocks,
            2 => Torn::Garbage,
            _ => Torn::Whole,
        };
        let pending = process.disk.pending();
        let some = self.rng.u8(..3);
        let kept: Vec<bool> = (0..pending)
            .map(|_| match some {
                0 => false,
                1 => true,
                _ => self.rng.bool(),
            })
            .collect();
        let image = if power {
            process.disk.crash(|at| kept[at], torn, &mut self.rng)
        } else {
            process.disk.current().clone()
        };
        self.say(|| format!("node {at} stops, power loss: {power}"));
        self.note(2, at as u64, u64::from(power));
        self.nodes[at].image = Some(image);
        self.nodes[at].agent_down = power;
        self.nodes[at].inbox.clear();
        self.seen.forget(at);
        self.break_streams_of(at);
        let tried = self.open.keys().copied().collect::<Vec<_>>();
        let incarnation = self.nodes[at].incarnation;
        for id in tried {
            self.reply(id, at, incarnation, Reply::Refused);
        }
    }

    /// Something for a process; it waits while that stands still.
    pub(super) fn give(&mut self, at: usize, incarnation: u32, input: Input) {
        if self.process(at, incarnation).is_none() {
            return;
        }
        let node = &mut self.nodes[at];
        if node.paused_until > self.now || !node.inbox.is_empty() {
            let tick = matches!(input, Input::Tick);
            if !tick || node.inbox.is_empty() {
                node.inbox.push_back(input);
            }
            return;
        }
        self.handle(at, input);
    }

    /// A process goes on where it stood still.
    pub(super) fn on_resume(&mut self, at: usize) {
        if self.nodes[at].paused_until > self.now {
            return;
        }
        self.say(|| format!("node {at} goes on"));
        while let Some(input) = self.nodes[at].inbox.pop_front() {
            self.handle(at, input);
        }
    }

    fn handle(&mut self, at: usize, input: Input) {
        let incarnation = self.nodes[at].incarnation;
        match input {
            Input::Engine(event) => self.step_engine(at, [event]),
            Input::Tick => {
                self.step_engine(at, [engine::Event::Store(store::Event::Tick)]);
                self.report(at);
            }
            Input::Peer(stream, message, blocks) => self.on_peer(at, stream, message, blocks),
            Input::Assign(store, set) => self.on_assign(at, store, *set),
            Input::Fence(store, epoch) => self.on_fence(at, store, epoch),
            Input::Answer {
                to,
                accepted,
                epoch,
                set_version,
                in_sync,
            } => {
                if to == self.nodes[at].store {
                    let event = engine::Event::ProposalAnswered {
                        volume: VOLUME,
                        accepted,
                        epoch,
                        set_version,
                        in_sync,
                    };
                    self.step_engine(at, [event]);
                }
            }
            Input::Host(operation) => self.on_command(at, operation),
            Input::Read(read) => self.on_read(at, *read),
            Input::FillRead(id, range) => self.on_fill_read(at, incarnation, id, range),
        }
    }

    fn on_peer(
        &mut self,
        at: usize,
        stream: engine::StreamId,
        message: crate::peer::Message,
        blocks: Vec<Rc<BlockBytes>>,
    ) {
        self.say(|| format!("node {at} <- stream {}: {}", stream.0, words(&message)));
        self.note(3, at as u64, stream.0);
        let process = self.nodes[at].process.as_mut().expect("it runs");
        let payload = (!blocks.is_empty()).then(|| process.hold(blocks));
        let event = engine::Event::Peer {
            stream,
            message,
            payload,
        };
        self.step_engine(at, [event]);
    }

    /// The engine decides, and its effects begin.
    pub(super) fn step_engine(
        &mut self,
        at: usize,
        events: impl IntoIterator<Item = engine::Event>,
    ) {
        let clock = self.nodes[at].clock(self.now);
        let Some(process) = &mut self.nodes[at].process else {
            return;
        };
        let mut effects = Vec::new();
        process.engine.step_all(clock, events, &mut effects);
        for effect in effects {
            self.perform(at, effect);
        }
        self.observe(at);
    }

    fn perform(&mut self, at: usize, effect: Effect) {
        let incarnation = self.nodes[at].incarnation;
        let process = self.nodes[at].process.as_mut().expect("it runs");
        match effect {
            Effect::Store(effect) => self.perform_store(at, effect),
            Effect::Send {
                stream,
                message,
                payload,
            } => self.send(at, stream, message, payload),
            Effect::OpenStream { to, .. } => {
                process.wanted.insert(to);
                self.at(self.now + 1, Happening::Connect(at, incarnation, to));
            }
            Effect::CloseStream { to } => {
                process.wanted.remove(&to);
                let own = self.nodes[at].store;
                let streams = self.network.streams.iter();
                let its = streams.filter(|(_, s)| s.ends[0].store == own && s.ends[1].store == to);
                for id in its.map(|(id, _)| *id).collect::<Vec<_>>() {
                    self.break_stream(id);
                }
            }
            Effect::ReadFill { id, range, .. } => {
                if process.lock_fill(id, range) {
                    self.read_fill(at, id, range);
                }
            }
            Effect::ReadBlocks { .. } | Effect::Healed { .. } => {
                unreachable!("no block is damaged here")
            }
            Effect::Propose {
                epoch,
                set_version,
                in_sync,
                reason,
                ..
            } => {
                self.say(|| format!("node {at} proposes {in_sync:?}: {reason}"));
                let from = self.nodes[at].store;
                let proposal = ToMaster::Proposal {
                    from,
                    epoch,
                    set_version,
                    in_sync,
                };
                self.tell_master(at, proposal);
            }
            Effect::Fenced { tag, answer } => {
                let wait = process.tags.remove(&tag);
                let Some(Wait::Fenced(store)) = wait else {
                    panic!("a fence was answered twice");
                };
                self.answer_fence(at, store, answer);
            }
            Effect::RoleChanged { role, .. } => {
                process.role = role;
                process.reign += 1;
                self.say(|| format!("node {at} is {role:?}"));
                self.note(4, at as u64, process_role(role));
            }
        }
    }

    fn answer_fence(&mut self, at: usize, store: StoreId, answer: engine::Fenced) {
        self.say(|| format!("node {at} answers a fence: {answer:?}"));
        let result = if answer.ok {
            FenceResult::Obeyed {
                position: Position {
                    last_epoch: answer.last_epoch,
                    last: answer.last,
                },
                resyncing: answer.resyncing,
                lease_left: answer.lease_left,
            }
        } else if answer.epoch == Epoch(0) {
            FenceResult::Unable
        } else {
            FenceResult::Promised
        };
        let answer = FenceAnswer {
            store,
            promised: answer.epoch,
            result,
        };
        self.tell_master(at, ToMaster::Fenced(answer));
    }

    fn perform_store(&mut self, at: usize, effect: store::Effect) {
        let process = self.nodes[at].process.as_mut().expect("it runs");
        let number = match effect {
            store::Effect::Write {
                io,
                offset,
                data,
                durable,
            } => process.begin_write(io, offset, data, durable),
            store::Effect::Copy { io, sources, to } => process.begin_copy(io, &sources, to),
            store::Effect::Sync { io } => process.begin_sync(io),
            store::Effect::Complete { tag, result } => {
                let wait = process.tags.remove(&tag).expect("I8: a request ends once");
                self.on_complete(at, wait, result);
                return;
            }
            store::Effect::Release { payload } => {
                let released = process.payloads.remove(&payload);
                assert!(released.is_some(), "a payload is released once");
                return;
            }
            store::Effect::Lost { block, .. } => panic!("I1: node {at} lost {block}"),
            store::Effect::Failed { reason } => panic!("node {at} failed: {reason}"),
            store::Effect::Appended { .. } | store::Effect::Durable { .. } => {
                panic!("the engine keeps these")
            }
        };
        let slow = self.nodes[at].slow_until > self.now;
        let takes = if slow {
            self.rng.u64(1_000..700_000)
        } else {
            self.rng.u64(20..600)
        };
        let incarnation = self.nodes[at].incarnation;
        self.at(self.now + takes, Happening::Disk(at, incarnation, number));
    }

    /// A disk operation ends; the process learns of it when it runs.
    pub(super) fn on_disk(&mut self, at: usize, incarnation: u32, number: u64) {
        if self.process(at, incarnation).is_none() {
            return;
        }
        let process = self.nodes[at].process.as_mut().expect("it runs");
        let running = process.running.remove(&number).expect("it runs");
        let event = match running {
            Running::Write(io, id) => {
                process.disk.complete(id);
                let result: Result<(), IoFailure> = Ok(());
                store::Event::WriteDone { io, result }
            }
            Running::Copy(io, id) => {
                process.disk.complete(id);
                store::Event::CopyDone { io, result: Ok(()) }
            }
            Running::BadSource(io, index) => {
                let result = Err(CopyFailure::Source(index));
                store::Event::CopyDone { io, result }
            }
            Running::Sync(io, covered) => {
                process.disk.sync(&covered);
                store::Event::SyncDone { io, result: Ok(()) }
            }
        };
        self.note(5, at as u64, number);
        self.give(at, incarnation, Input::Engine(engine::Event::Store(event)));
    }

    fn on_complete(&mut self, at: usize, wait: Wait, result: Result<(), RequestError>) {
        let incarnation = self.nodes[at].incarnation;
        match wait {
            Wait::Host { operation } => {
                self.note(6, operation, u64::from(result.is_ok()));
                let reply = if result.is_ok() {
                    self.observe_served(at);
                    Reply::Done
                } else {
                    Reply::Refused
                };
                self.say(|| format!("node {at}: operation {operation} ends: {result:?}"));
                self.reply(operation, at, incarnation, reply);
                self.unlock(at, Owner::Change(operation));
            }
            Wait::Created => {
                assert!(result.is_ok(), "a copy is created: {result:?}");
                let process = self.nodes[at].process.as_mut().expect("it runs");
                if let Some(set) = process.creating.take() {
                    self.assign_engine(at, &set);
                }
            }
            Wait::Assigned => self.say(|| format!("node {at}: assignment ends: {result:?}")),
            Wait::FillerCreated => self.fill_disk(at),
            Wait::Filler => {}
            Wait::Fenced(_) => panic!("a fence ends as Fenced"),
        }
    }

    fn unlock(&mut self, at: usize, owner: Owner) {
        let process = self.nodes[at].process.as_mut().expect("it runs");
        for granted in process.locks.release(owner) {
            match granted {
                Owner::Change(id) => {
                    let process = self.nodes[at].process.as_mut().expect("it runs");
                    let operation = process.waiting.remove(&id).expect("it waits");
                    self.start_change(at, &operation);
                }
                Owner::Fill(id) => {
                    let process = self.nodes[at].process.as_ref().expect("it runs");
                    let range = process.locks.range_of(Owner::Fill(id));
                    self.read_fill(at, id, range);
                }
            }
        }
    }

    fn read_fill(&mut self, at: usize, id: FillId, range: BlockRange) {
        let incarnation = self.nodes[at].incarnation;
        let slow = self.nodes[at].slow_until > self.now;
        let most = FILL_READ_MAX * if slow { 200 } else { 1 };
        let when = self.now + self.rng.u64(50..most);
        let input = Box::new(Input::FillRead(id, range));
        self.at(when, Happening::Input(at, incarnation, input));
    }

    fn on_fill_read(&mut self, at: usize, _incarnation: u32, id: FillId, range: BlockRange) {
        let process = self.nodes[at].process.as_mut().expect("it runs");
        let result = match process.read(range) {
            None => Err(RequestError::NotFound),
            Some(blocks) => {
                let zeros = blocks.iter().all(Option::is_none);
                let places = range.first.0..;
                let whole = places.zip(blocks).map(|(block, bytes)| {
                    let _ = value_in(block, bytes.as_ref());
                    bytes.unwrap_or_else(|| Rc::new([0; BLOCK_BYTES]))
                });
                let whole: Vec<_> = whole.collect();
                Ok((!zeros).then(|| process.hold(whole)))
            }
        };
        self.note(7, at as u64, id.0);
        self.step_engine(at, [engine::Event::FillRead { id, result }]);
        self.unlock(at, Owner::Fill(id));
    }

    fn on_assign(&mut self, at: usize, store: StoreId, set: VolumeSet) {
        let node = &mut self.nodes[at];
        let process = node.process.as_mut().expect("it runs");
        let created = set.replica(store).is_some_and(|replica| replica.created);
        if node.store != store {
            self.tell_master(at, ToMaster::Missing(store));
            return;
        }
        if process.engine.store().volume(VOLUME).is_some() {
            self.assign_engine(at, &set);
            return;
        }
        if created || process.creating.is_some() {
            return; // It is lost, which reports say, or on its way.
        }
        process.creating = Some(set);
        let tag = process.tag(Wait::Created);
        let event = store::Event::CreateVolume {
            tag,
            id: VOLUME,
            size_blocks: self.plan.blocks,
            epoch: Epoch(0),
            sharing: Sharing::Shared,
        };
        self.step_engine(at, [engine::Event::Store(event)]);
    }

    fn assign_engine(&mut self, at: usize, set: &VolumeSet) {
        let own = self.nodes[at].store;
        let process = self.nodes[at].process.as_mut().expect("it runs");
        let tag = process.tag(Wait::Assigned);
        process.told = process.told.max((set.epoch.0, set.set_version));
        let member = |replica: &crate::cluster::set::Replica| Member {
            replica: replica.store,
            node: replica.node,
            address: node_of(replica.store).to_string(),
            in_sync: replica.in_sync,
        };
        let role = if set.primary == own {
            Role::Primary
        } else {
            Role::Secondary
        };
        let assignment = Assignment {
            volume: VOLUME,
            epoch: set.epoch,
            set_version: set.set_version,
            role,
            members: set.members().map(member).collect(),
            durability: set.durability,
        };
        self.say(|| format!("node {at} is assigned {}", masters::words(set)));
        self.step_engine(at, [engine::Event::Assign { tag, assignment }]);
        self.report(at);
    }

    fn on_fence(&mut self, at: usize, store: StoreId, epoch: Epoch) {
        if self.nodes[at].store != store {
            return;
        }
        let process = self.nodes[at].process.as_mut().expect("it runs");
        let tag = process.tag(Wait::Fenced(store));
        let volume = VOLUME;
        self.step_engine(at, [engine::Event::Fence { tag, volume, epoch }]);
        self.report(at);
    }

    /// Tells the masters about the copy, when it is news or time.
    pub(super) fn report(&mut self, at: usize) {
        let now = self.now;
        let Some(message) = self.nodes[at].report(now) else {
            return;
        };
        let process = self.nodes[at].process.as_mut().expect("it runs");
        if let ToMaster::Report(report, _) = &message {
            let news = process.reported.as_ref().is_none_or(|(last, when)| {
                let same = core::mem::discriminant(&last.state)
                    == core::mem::discriminant(&report.state)
                    && last.epoch == report.epoch
                    && last.promised == report.promised;
                !same || now >= when + REPORT
            });
            if !news {
                return;
            }
            process.reported = Some((report.clone(), now));
        } else if now < process.missing_said + REPORT {
            return;
        } else {
            process.missing_said = now;
        }
        self.tell_master(at, message);
    }
}

fn process_role(role: Role) -> u64 {
    match role {
        Role::Alone => 0,
        Role::Primary => 1,
        Role::Secondary => 2,
        Role::Fenced => 3,
    }
}
