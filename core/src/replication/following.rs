//! The secondary: follows the primary of the reign that it was assigned to, on one stream.
//!
//! Invariants: it attaches to the assigned reign only, and never below its promise; it acknowledges what
//! is *reported* durable; records are taken in LSN order or not at all. What it granted on a stream holds
//! until the time that the stream's last answer says, also after it stopped following.
//! Hot path: [`Following::on_message`], [`Following::on_durable`].

use super::defect::Defect;
use super::{Action, Scope};
use crate::block::Block;
use crate::engine::StreamId;
use crate::lsn::{Epoch, Lsn};
use crate::peer::{Adopt, Attached, Body, DetachReason};
use crate::store::append::Resync;
use crate::store::{PayloadId, RequestError};
use core::time::Duration;

/// A secondary.
#[derive(Debug)]
pub struct Following {
    epoch: Epoch,
    stream: Option<StreamId>,
    state: State,
    /// Names the adoption; answers to operations of an older one are not believed.
    operation: u16,
    /// The next record.
    next: Lsn,
    /// What the primary told to be committed.
    committed: Lsn,
    /// What of that the own copy was told, and could take.
    told: Lsn,
    filled: u64,
    cursor: Block,
    heard: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No primary.
    Away,
    /// It told what it has.
    Attached,
    /// The adoption is not durable yet.
    Adopting,
    /// Follows.
    Following,
}

/// What a step was about, when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// [`Action::Adopt`].
    Adopt,
    /// [`Action::Append`].
    Append,
    /// [`Action::Fill`].
    Fill,
    /// [`Action::EndResync`].
    EndResync,
}

impl Following {
    /// Assigned to a reign; waits for its primary. `operation` is above all that are under way.
    pub fn new(epoch: Epoch, operation: u16, heard: Option<Duration>) -> Self {
        Following {
            epoch,
            stream: None,
            state: State::Away,
            operation,
            next: Lsn(0),
            committed: Lsn(0),
            told: Lsn(0),
            filled: 0,
            cursor: Block(0),
            heard,
        }
    }

    /// The reign.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Names the adoption.
    pub fn operation(&self) -> u16 {
        self.operation
    }

    /// The stream on which it grants leases.
    pub fn stream(&self) -> Option<StreamId> {
        self.stream
    }

    /// When it heard its primary last, as far as it follows it.
    pub fn heard(&self, scope_heard: impl Fn(StreamId) -> Option<Duration>) -> Option<Duration> {
        self.stream.and_then(scope_heard).or(self.heard)
    }

    /// The stream is gone.
    pub fn on_stream_down(&mut self, stream: StreamId, heard: Duration) {
        if self.stream == Some(stream) {
            self.heard = Some(heard);
            self.leave();
        }
    }

    /// Follows no one any more, and says so before it answers another heartbeat.
    pub fn stop(&mut self, epoch: Epoch, reason: DetachReason, scope: &mut Scope<'_>) {
        if let Some(stream) = self.stream {
            self.heard = scope.streams.get(stream).map(|stream| stream.heard);
            scope.send(stream, epoch, Body::Detach(reason));
        }
        self.leave();
    }

    /// The primary of this reign said something. Gives the payload back when it is not used.
    pub fn on_message(
        &mut self,
        stream: StreamId,
        body: Body,
        payload: Option<PayloadId>,
        scope: &mut Scope<'_>,
    ) -> Option<PayloadId> {
        if body == Body::Attach {
            self.on_attach(stream, scope);
            return payload;
        }
        if self.stream != Some(stream) {
            return payload;
        }
        let fed = matches!(self.state, State::Adopting | State::Following);
        match body {
            Body::Adopt(adopt) => self.on_adopt(adopt, scope),
            Body::Record {
                lsn,
                epoch,
                committed,
                body,
            } if fed => {
                if lsn != self.next {
                    self.stop(self.epoch, DetachReason::OutOfOrder, scope);
                    return payload;
                }
                self.next = lsn.next();
                self.committed = self.committed.max(committed);
                scope.push(Action::Append {
                    reign: self.epoch,
                    epoch,
                    lsn,
                    body,
                    payload,
                    operation: self.operation,
                });
                self.commit(scope);
                if scope.planted(Defect::AckBeforeDurable) {
                    scope.send(stream, self.epoch, Body::Ack { durable: lsn });
                }
                return None;
            }
            Body::Commit { up_to } if fed => {
                self.committed = self.committed.max(up_to);
                self.commit(scope);
            }
            Body::Fill { body, cursor } if fed => {
                self.cursor = cursor;
                scope.push(Action::Fill {
                    reign: self.epoch,
                    body,
                    payload,
                    cursor,
                    operation: self.operation,
                });
                return None;
            }
            Body::EndResync if fed => scope.push(Action::EndResync {
                reign: self.epoch,
                operation: self.operation,
            }),
            Body::Detach(_) => {
                self.heard = scope.streams.get(stream).map(|stream| stream.heard);
                self.leave();
            }
            _ => {}
        }
        payload
    }

    /// Something that the own copy was asked for ended.
    pub fn on_done(
        &mut self,
        done: Done,
        operation: u16,
        result: Result<(), RequestError>,
        scope: &mut Scope<'_>,
    ) {
        let Some(stream) = self.stream.filter(|_| operation == self.operation) else {
            return;
        };
        if let Err(error) = result {
            self.stop(self.epoch, reason_of(error), scope);
            return;
        }
        match done {
            Done::Adopt if self.state == State::Adopting => {
                self.state = State::Following;
                let durable = scope.copy.info().durable;
                scope.send(stream, self.epoch, Body::Adopted { durable });
                self.commit(scope);
            }
            Done::Adopt | Done::Append => {}
            Done::Fill => {
                self.filled += 1;
                let (cursor, count) = (self.cursor, self.filled);
                scope.send(stream, self.epoch, Body::Filled { cursor, count });
            }
            Done::EndResync => scope.send(stream, self.epoch, Body::Resynced),
        }
    }

    /// More is durable here.
    pub fn on_durable(&mut self, lsn: Lsn, scope: &mut Scope<'_>) {
        if let Some(stream) = self.stream
            && self.state == State::Following
        {
            scope.send(stream, self.epoch, Body::Ack { durable: lsn });
        }
        self.commit(scope);
    }

    fn on_attach(&mut self, stream: StreamId, scope: &mut Scope<'_>) {
        if self.stream.is_some_and(|present| present != stream) {
            self.stop(self.epoch, DetachReason::OutOfOrder, scope);
        }
        self.leave();
        let info = scope.copy.info();
        let reigns = scope.copy.reigns();
        let oldest = reigns.len().saturating_sub(crate::limits::PEER_REIGNS_MAX);
        let attached = Attached {
            // What is not durable yet becomes so before an adoption does.
            last: info.appended,
            committed: info.committed,
            resync: info.resync,
            size_blocks: info.size_blocks,
            reigns: reigns[oldest..].to_vec(),
        };
        self.stream = Some(stream);
        self.state = State::Attached;
        scope.send(stream, self.epoch, Body::Attached(attached));
    }

    fn on_adopt(&mut self, mut adopt: Adopt, scope: &mut Scope<'_>) {
        let info = scope.copy.info();
        if adopt.keep > adopt.cut || (adopt.keep < adopt.cut && adopt.resync_base.is_none()) {
            self.stop(self.epoch, DetachReason::OutOfOrder, scope);
            return;
        }
        if scope.planted(Defect::KeepDivergedTail) && adopt.keep == adopt.cut {
            (adopt.keep, adopt.cut) = (info.appended, info.appended);
        }
        let resync = adopt.resync_base.map(|base| {
            // After a jump everything is looked through again; without one, what was filled stays so.
            let present = info.resync.filter(|_| adopt.keep == adopt.cut);
            let cursor = present.map_or(Block(0), |resync| resync.cursor);
            Resync { base, cursor }
        });
        self.state = State::Adopting;
        self.operation = self.operation.wrapping_add(1);
        self.next = adopt.cut.next();
        self.filled = 0;
        self.told = Lsn(0);
        scope.push(Action::Adopt {
            epoch: self.epoch,
            adopt,
            resync,
            operation: self.operation,
        });
    }

    /// Tells the own copy what is committed, as far as it has that durable.
    fn commit(&mut self, scope: &mut Scope<'_>) {
        let up_to = self.committed.min(scope.copy.info().durable);
        if self.state == State::Following && up_to > self.told {
            self.told = up_to;
            scope.push(Action::Commit { up_to });
        }
    }

    fn leave(&mut self) {
        self.stream = None;
        self.state = State::Away;
    }
}

fn reason_of(error: RequestError) -> DetachReason {
    match error {
        RequestError::StaleEpoch => DetachReason::StaleEpoch,
        RequestError::NotFound | RequestError::NotShared => DetachReason::NotFound,
        RequestError::StoreFailed => DetachReason::StoreFailed,
        RequestError::NoSpace | RequestError::Busy | RequestError::TooManyVolumes => {
            DetachReason::Busy
        }
        RequestError::OutOfRange | RequestError::Exists => DetachReason::OutOfOrder,
    }
}
