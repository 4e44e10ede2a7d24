//! Blocks that are damaged on one copy, from another: what a primary asks for, what a secondary gives.
//!
//! The primary knows the checksum of every block that it has, so an answer is right when its bytes have
//! that checksum, however far the other copy is. A secondary gives what is committed there and matches
//! its own checksums. One copy after the other is asked, each once, those of the in-sync set first.
//!
//! Not here: reading, and writing what was healed back (the driver does both).
//!
//! Invariants: a request ends once, at the latest after [`HEAL_WAIT_MAX`] for each copy; nothing ends
//! well whose checksum is not the one asked for (I8). Bounded: [`HEALS_MAX`] on either side.

use super::follower::{Follower, State};
use super::following::Following;
use super::leading::Leading;
use super::{Action, ReplicaId, Scope};
use crate::block::{Block, BlockRange};
use crate::engine::{FillId, HealId, NotHealed, PayloadRef, StreamId, Verified};
use crate::limits::{HEAL_WAIT_MAX, HEALS_MAX};
use crate::peer::{Body, Found};
use crate::store::{PayloadId, PayloadSlice};
use alloc::vec::Vec;
use core::time::Duration;

/// What a primary asks other copies for.
#[derive(Debug, Default)]
pub struct Healing {
    requests: Vec<Request>,
    /// Names questions to peers; what answers an older question answers nothing.
    questions: u64,
}

#[derive(Debug)]
struct Request {
    heal: HealId,
    block: Block,
    checksum: u32,
    tried: Vec<ReplicaId>,
    asked: Option<Asked>,
}

/// A question under way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    id: u64,
    stream: StreamId,
    until: Duration,
}

/// What a copy said, as [`Body::Blocks`].
#[derive(Debug)]
pub struct Reply<'a> {
    /// To which question.
    pub id: u64,
    /// About which blocks.
    pub range: BlockRange,
    /// What it has of them.
    pub found: &'a Found,
    /// Their bytes; they have the checksums that `found` says.
    pub payload: Option<PayloadId>,
}

/// What a secondary reads for its primary.
#[derive(Debug, Default)]
pub struct Lending {
    reads: Vec<Lent>,
}

#[derive(Clone, Copy, Debug)]
struct Lent {
    read: FillId,
    stream: StreamId,
    id: u64,
    range: BlockRange,
}

impl Healing {
    /// A block is damaged here.
    pub fn on_heal(
        &mut self,
        heal: HealId,
        block: Block,
        checksum: u32,
        leading: &Leading,
        scope: &mut Scope<'_>,
    ) {
        if self.requests.len() >= HEALS_MAX {
            let result = Err(NotHealed::Busy);
            scope.push(Action::Healed { heal, result });
            return;
        }
        self.requests.push(Request {
            heal,
            block,
            checksum,
            tried: Vec::new(),
            asked: None,
        });
        self.review(leading, scope);
    }

    /// A copy answered. It was checked that it speaks of this reign.
    pub fn on_reply(
        &mut self,
        stream: StreamId,
        reply: &Reply<'_>,
        leading: &Leading,
        scope: &mut Scope<'_>,
    ) {
        let answers = |request: &Request| {
            request.range() == reply.range
                && request
                    .asked
                    .is_some_and(|asked| asked.id == reply.id && asked.stream == stream)
        };
        let Some(at) = self.requests.iter().position(answers) else {
            return;
        };
        match (reply.found, reply.payload) {
            (Found::Data(checksums), Some(payload))
                if *checksums == [self.requests[at].checksum] =>
            {
                let heal = self.requests.swap_remove(at).heal;
                let result = Ok(payload);
                scope.push(Action::Healed { heal, result });
            }
            _ => {
                self.requests[at].asked = None;
                self.review(leading, scope);
            }
        }
    }

    /// Time passed, or copies came or went: who does not answer is given up, the next one is asked.
    pub fn review(&mut self, leading: &Leading, scope: &mut Scope<'_>) {
        let mut at = 0;
        while let Some(request) = self.requests.get_mut(at) {
            if request.waits(leading, scope.now) {
                at += 1;
            } else if let Some((replica, stream)) = request.next_copy(leading) {
                self.questions += 1;
                let id = self.questions;
                request.tried.push(replica);
                request.asked = Some(Asked {
                    id,
                    stream,
                    until: scope.now + HEAL_WAIT_MAX,
                });
                // What is committed takes effect there before it is read.
                let up_to = scope.copy.info().committed;
                scope.send(stream, leading.epoch(), Body::Commit { up_to });
                let range = request.range();
                scope.send(stream, leading.epoch(), Body::ReadBlocks { id, range });
                at += 1;
            } else {
                let heal = self.requests.swap_remove(at).heal;
                let result = Err(NotHealed::NoCopy);
                scope.push(Action::Healed { heal, result });
            }
        }
    }

    /// The reign is over.
    pub fn end(&mut self, scope: &mut Scope<'_>) {
        for request in self.requests.drain(..) {
            scope.push(Action::Healed {
                heal: request.heal,
                result: Err(NotHealed::NoCopy),
            });
        }
    }
}

impl Request {
    fn range(&self) -> BlockRange {
        BlockRange {
            first: self.block,
            count: 1,
        }
    }

    /// Whether an answer may still come.
    fn waits(&self, leading: &Leading, now: Duration) -> bool {
        self.asked.is_some_and(|asked| {
            let mut followers = leading.followers().iter();
            let there = |f: &Follower| f.stream == Some(asked.stream) && follows(f);
            now < asked.until && followers.any(there)
        })
    }

    /// Who was not asked yet.
    fn next_copy(&self, leading: &Leading) -> Option<(ReplicaId, StreamId)> {
        let set = leading.membership().set();
        let followers = leading.followers().iter();
        let left = followers.filter(|f| follows(f) && !self.tried.contains(&f.member.replica));
        let first = left.min_by_key(|f| !set.contains(&f.member.replica))?;
        Some((first.member.replica, first.stream?))
    }
}

fn follows(follower: &Follower) -> bool {
    follower.state == State::Following && follower.stream.is_some()
}

impl Lending {
    /// The primary of the reign asks for blocks.
    pub fn on_ask(
        &mut self,
        stream: StreamId,
        id: u64,
        range: BlockRange,
        following: &Following,
        scope: &mut Scope<'_>,
    ) {
        if following.stream() != Some(stream) {
            return;
        }
        if self.reads.len() >= HEALS_MAX {
            let found = Found::Nothing;
            scope.send(stream, following.epoch(), Body::Blocks { id, range, found });
            return;
        }
        *scope.next_fill += 1;
        let read = FillId(*scope.next_fill);
        self.reads.push(Lent {
            read,
            stream,
            id,
            range,
        });
        scope.push(Action::ReadBlocks { read, range });
    }

    /// A read ended, of this copy or another.
    pub fn on_read(
        &mut self,
        read: FillId,
        found: Option<&Verified>,
        following: &Following,
        scope: &mut Scope<'_>,
    ) {
        let Some(at) = self.reads.iter().position(|lent| lent.read == read) else {
            return;
        };
        let lent = self.reads.swap_remove(at);
        if following.stream() != Some(lent.stream) {
            return;
        }
        let payload = found.map(|found| {
            assert_eq!(found.checksums.len(), lent.range.count as usize); // One for each block.
            PayloadRef::Slice(PayloadSlice {
                payload: found.payload,
                first_block: 0,
                blocks: lent.range.count,
            })
        });
        let found = found.map_or(Found::Nothing, |found| Found::Data(found.checksums.clone()));
        scope.push(Action::Send {
            stream: lent.stream,
            epoch: following.epoch(),
            body: Body::Blocks {
                id: lent.id,
                range: lent.range,
                found,
            },
            payload,
        });
    }
}
