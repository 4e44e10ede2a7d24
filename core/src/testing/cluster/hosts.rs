//! Hosts: commands under way, each tried at one node after the other until one says that it is done.
//!
//! A command is never under way twice at the same process: a host aborts before it repeats.

use super::node::{VOLUME, Wait, content, value_in};
use super::{Happening, Input, Micros, Operation, SECOND, What, World};
use crate::block::{Block, BlockRange};
use crate::checksum::crc32c;
use crate::engine::{Event, Serve};
use crate::limits::CHUNK_BLOCKS;
use crate::store;
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

/// A host waits so long before it tries another path.
const TIMEOUT: Micros = 3 * SECOND;

/// A volume server lets a command wait so long until it may serve.
const SERVE_WAIT_MAX: Micros = 2 * SECOND;

/// A command of a host, from its first try to its end.
pub(super) struct Open {
    pub(super) operation: Operation,
    pub(super) began: Micros,
    /// Processes that have it, and since when.
    tried: Vec<(usize, u32, Micros)>,
    /// Counts the tries.
    attempt: u32,
}

/// How a try at a node ended.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Done,
    Blocks(Vec<u64>),
    Refused,
}

impl Open {
    /// When the try at this process began.
    fn tried_at(&self, node: usize, incarnation: u32) -> Option<Micros> {
        let mut tried = self.tried.iter();
        let its = tried.find(|(at, count, _)| (*at, *count) == (node, incarnation));
        its.map(|(.., began)| *began)
    }
}

impl World {
    /// A host thinks of something to do.
    pub(super) fn on_host(&mut self) {
        if self.hosts_stopped {
            return;
        }
        self.values += 1;
        let id = self.values;
        let range = self.some_range();
        let what = match self.rng.u8(..100) {
            0..55 => What::Write,
            55..90 => What::Read,
            _ => What::Unmap,
        };
        let operation = Operation { id, what, range };
        let open = Open {
            operation,
            began: self.now,
            tried: Vec::new(),
            attempt: 0,
        };
        self.open.insert(id, open);
        self.attempt(id);
    }

    fn some_range(&mut self) -> BlockRange {
        let blocks = self.plan.blocks;
        let chunk = CHUNK_BLOCKS as u64;
        let (first, count) = match self.rng.u8(..10) {
            0 => (0, chunk.min(blocks)),
            1 => {
                let first = self.rng.u64(..blocks / chunk) * chunk;
                (first, chunk * self.rng.u64(1..3))
            }
            2 => (self.rng.u64(..blocks), self.rng.u64(1..40)),
            3..6 => (self.rng.u64(..4), 1),
            _ => (self.rng.u64(..blocks), self.rng.u64(1..8)),
        };
        let count = count.min(blocks - first);
        BlockRange {
            first: Block(first),
            count: u32::try_from(count).expect("small"),
        }
    }

    /// Tries a command at the node that the hosts believe in.
    pub(super) fn attempt(&mut self, id: u64) {
        // Some hosts believe in another node than most.
        let astray = self.rng.u8(..8) == 0;
        let node = if astray {
            self.rng.usize(..self.nodes.len())
        } else {
            self.path
        };
        let incarnation = self.nodes[node].incarnation;
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        open.attempt += 1;
        let attempt = open.attempt;
        let again = open.tried_at(node, incarnation).is_some();
        self.at(self.now + TIMEOUT, Happening::HostTimeout(id, attempt));
        if again {
            return; // It is there already.
        }
        let runs = self.nodes[node].process.is_some();
        if !runs {
            self.reply(id, node, incarnation, Reply::Refused);
            return;
        }
        let now = self.now;
        open_of(self, id).tried.push((node, incarnation, now));
        let operation = open_of(self, id).operation.clone();
        if operation.what != What::Read {
            // Each try may do it once: a host that repeats a command does not know of the first.
            let value = if operation.what == What::Write { id } else { 0 };
            for block in operation.range.first.0..operation.range.end().0 {
                self.histories.begin(block, value, id, self.now);
            }
        }
        let at = self.now + self.rng.u64(20..300);
        let input = Box::new(Input::Host(operation));
        self.at(at, Happening::Input(node, incarnation, input));
    }

    /// A node's answer is on its way.
    pub(super) fn reply(&mut self, id: u64, node: usize, incarnation: u32, reply: Reply) {
        let at = self.now + self.rng.u64(20..300);
        self.at(at, Happening::Reply(id, node, incarnation, reply));
    }

    /// A host learns how a try ended.
    pub(super) fn on_reply(&mut self, id: u64, node: usize, incarnation: u32, reply: Reply) {
        let now = self.now;
        let oldest = self.open.values().map(|open| open.began).min();
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        let (operation, began) = (open.operation.clone(), open.began);
        let range = operation.range;
        match reply {
            Reply::Refused => {
                open.tried
                    .retain(|(at, count, _)| (*at, *count) != (node, incarnation));
                if self.path == node {
                    self.path = self.rng.usize(..self.nodes.len());
                }
                let at = now + self.rng.u64(2_000..60_000);
                self.at(at, Happening::HostRetry(id));
                return;
            }
            Reply::Done => {
                let tried = open.tried_at(node, incarnation).unwrap_or(began);
                for block in range.first.0..range.end().0 {
                    let oldest = oldest.unwrap_or(now);
                    self.histories.end(block, (id, tried), now, oldest);
                }
            }
            Reply::Blocks(values) => {
                for (block, value) in (range.first.0..).zip(values) {
                    let read = self.histories.read(block, value, began, now);
                    if let Err(wrong) = read {
                        panic!("I1/I2: operation {id} at node {node}: {wrong}");
                    }
                }
            }
        }
        self.open.remove(&id);
        self.finished += 1;
        self.coverage.done(operation.what.work(), began, now);
        let at = now + self.rng.u64(..self.plan.think);
        self.at(at, Happening::Host);
    }

    /// A host waited long.
    pub(super) fn on_host_timeout(&mut self, id: u64, attempt: u32) {
        if self
            .open
            .get(&id)
            .is_some_and(|open| open.attempt == attempt)
        {
            self.path = self.rng.usize(..self.nodes.len());
            self.attempt(id);
        }
    }

    /// A command is at a process.
    pub(super) fn on_command(&mut self, node: usize, operation: Operation) {
        let incarnation = self.nodes[node].incarnation;
        let clock = self.nodes[node].clock(self.now);
        let process = self.nodes[node].process.as_mut().expect("it runs");
        let serve = process.engine.may_serve(VOLUME, clock);
        let here = process.engine.store().volume(VOLUME).is_some();
        if matches!(serve, Serve::No(_)) || !here {
            self.reply(operation.id, node, incarnation, Reply::Refused);
            return;
        }
        if operation.what == What::Read {
            let reign = process.reign;
            self.read_soon(node, operation, reign);
        } else if process.lock_change(&operation) {
            self.start_change(node, &operation);
        } else {
            process.waiting.insert(operation.id, operation);
        }
    }

    /// A change has its lock.
    pub(super) fn start_change(&mut self, node: usize, operation: &Operation) {
        let process = self.nodes[node].process.as_mut().expect("it runs");
        let tag = process.tag(Wait::Host {
            operation: operation.id,
        });
        let (volume, range) = (VOLUME, operation.range);
        let event = if operation.what == What::Write {
            let blocks = range.first.0..range.end().0;
            let blocks: Vec<_> = blocks.map(|block| content(block, operation.id)).collect();
            let checksums = blocks.iter().map(|block| crc32c(block.as_slice()));
            let checksums = checksums.collect();
            let payload = process.hold(blocks);
            store::Event::Write {
                tag,
                volume,
                range,
                checksums,
                payload,
            }
        } else {
            store::Event::Unmap { tag, volume, range }
        };
        self.step_engine(node, [Event::Store(event)]);
    }

    /// The gate is looked at, then the data is fetched, then the gate again.
    fn read_soon(&mut self, node: usize, operation: Operation, reign: u64) {
        let incarnation = self.nodes[node].incarnation;
        let waits = Read {
            operation,
            reign,
            since: self.now,
            values: None,
        };
        self.give(node, incarnation, Input::Read(Box::new(waits)));
    }

    /// A read goes on.
    pub(super) fn on_read(&mut self, node: usize, mut read: Read) {
        let (now, incarnation) = (self.now, self.nodes[node].incarnation);
        let clock = self.nodes[node].clock(now);
        let process = self.nodes[node].process.as_mut().expect("it runs");
        let id = read.operation.id;
        let serve = process.engine.may_serve(VOLUME, clock);
        let patient = now < read.since + SERVE_WAIT_MAX;
        let same = process.reign == read.reign;
        match (serve, read.values.take()) {
            (Serve::Yes, Some(values)) if same => {
                self.observe_served(node);
                self.reply(id, node, incarnation, Reply::Blocks(values));
            }
            (Serve::Yes, None) if same => {
                let range = read.operation.range;
                let Some(blocks) = process.read(range) else {
                    self.reply(id, node, incarnation, Reply::Refused);
                    return;
                };
                let blocks = (range.first.0..).zip(&blocks);
                let values = blocks.map(|(block, bytes)| value_in(block, bytes.as_ref()));
                read.values = Some(values.collect());
                let at = now + self.rng.u64(50..3000);
                self.at(
                    at,
                    Happening::Input(node, incarnation, Box::new(Input::Read(Box::new(read)))),
                );
            }
            (Serve::Wait, values) if same && patient => {
                read.values = values;
                let at = now + 10_000;
                self.at(
                    at,
                    Happening::Input(node, incarnation, Box::new(Input::Read(Box::new(read)))),
                );
            }
            _ => self.reply(id, node, incarnation, Reply::Refused),
        }
    }

    /// What the hosts still wait for; for messages.
    pub(super) fn waiting_hosts(&self) -> alloc::string::String {
        let open = self.open.values().map(|open| {
            let Operation { id, what, range } = &open.operation;
            format!(
                "{id}: {what:?} {}+{} since {}",
                range.first.0, range.count, open.began
            )
        });
        open.collect::<Vec<_>>().join("; ")
    }
}

/// A read at a process.
#[derive(Clone, Debug)]
pub(super) struct Read {
    operation: Operation,
    /// The role's count when it began.
    reign: u64,
    since: Micros,
    values: Option<Vec<u64>>,
}

fn open_of(world: &mut World, id: u64) -> &mut Open {
    world.open.get_mut(&id).expect("it is open")
}
