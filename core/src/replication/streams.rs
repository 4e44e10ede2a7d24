//! The streams between this store and others: signs of life, and the leases that come with them.
//!
//! The holder of a lease counts from the moment it *sent* the heartbeat, the granter from the moment it
//! answered, plus [`LEASE_MARGIN`]. A grant covers the volumes that are attached on the stream when it is
//! sent; order on the stream says which.

use super::defect::{Defect, Planted};
use crate::engine::{Opened, StreamId};
use crate::id::StoreId;
use crate::limits::{HEARTBEATS_UNANSWERED_MAX, LEASE, LEASE_MARGIN};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

/// All streams that are up.
#[derive(Debug, Default)]
pub struct Streams {
    streams: BTreeMap<StreamId, Stream>,
    /// Those opened here, by the store at the other end.
    to: BTreeMap<StoreId, StreamId>,
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    /// The store at the other end.
    pub store: StoreId,
    /// By whom.
    pub opened: Opened,
    /// When anything came last.
    pub heard: Duration,
    /// How long a lease granted on it may be held.
    pub granted_until: Duration,
    next_seq: u64,
    unanswered: VecDeque<(u64, Duration)>,
    /// The last answer: its number, and when its heartbeat was sent.
    granted: Option<(u64, Duration)>,
}

impl Streams {
    /// A stream is ready.
    pub fn up(&mut self, now: Duration, id: StreamId, store: StoreId, opened: Opened) {
        if opened == Opened::Here {
            self.to.insert(store, id);
        }
        self.streams.insert(
            id,
            Stream {
                store,
                opened,
                heard: now,
                granted_until: Duration::ZERO,
                next_seq: 1,
                unanswered: VecDeque::new(),
                granted: None,
            },
        );
    }

    /// A stream ended.
    pub fn down(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        if self.to.get(&stream.store) == Some(&id) {
            self.to.remove(&stream.store);
        }
        Some(stream)
    }

    /// One that is up.
    pub fn get(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(&id)
    }

    /// The one opened here to a store.
    pub fn to(&self, store: StoreId) -> Option<StreamId> {
        self.to.get(&store).copied()
    }

    /// All those opened here.
    pub fn ours(&self) -> Vec<StreamId> {
        self.to.values().copied().collect()
    }

    /// Something came.
    pub fn hear(&mut self, now: Duration, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.heard = now;
        }
    }

    /// This process did not run: silence until now says nothing about others.
    pub fn forgive(&mut self, now: Duration) {
        for stream in self.streams.values_mut() {
            stream.heard = now;
        }
    }

    /// A heartbeat is sent: its number.
    pub fn heartbeat(&mut self, now: Duration, id: StreamId) -> Option<u64> {
        let stream = self.streams.get_mut(&id)?;
        let seq = stream.next_seq;
        stream.next_seq += 1;
        if stream.unanswered.len() >= HEARTBEATS_UNANSWERED_MAX {
            stream.unanswered.pop_front();
        }
        stream.unanswered.push_back((seq, now));
        Some(seq)
    }

    /// A heartbeat is answered here: what is attached on the stream is granted.
    pub fn grant(&mut self, now: Duration, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.granted_until = now + LEASE + LEASE_MARGIN;
        }
    }

    /// A heartbeat was answered. One that was not sent on this stream grants nothing.
    pub fn on_grant(&mut self, id: StreamId, seq: u64, now: Duration, defect: Planted) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        while let Some((sent, at)) = stream.unanswered.pop_front_if(|(sent, _)| *sent <= seq) {
            if sent == seq {
                let late = defect.is(Defect::LeaseFromArrival);
                stream.granted = Some((seq, if late { now } else { at }));
            }
        }
    }

    /// Number of the last answer on a stream; 0 before the first.
    pub fn granted_seq(&self, id: StreamId) -> u64 {
        self.get(id)
            .and_then(|stream| stream.granted)
            .map_or(0, |(seq, _)| seq)
    }

    /// Until when the lease holds that answers behind number `after` granted.
    pub fn lease_until(&self, id: StreamId, after: u64) -> Option<Duration> {
        let (seq, sent) = self.get(id)?.granted?;
        (seq > after).then_some(sent + LEASE)
    }
}

#[cfg(test)]
mod tests;
