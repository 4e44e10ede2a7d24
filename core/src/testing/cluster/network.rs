//! Streams between stores: ordered, late, cut, clogged, broken.
//!
//! A cut does not lose what is under way on a stream: it arrives when the cut ends, or the stream ends.

use super::node::node_of;
use super::{Happening, Input, MASTERS, Micros, SECOND, World};
use crate::checksum::crc32c;
use crate::engine::{Event, Opened, PayloadRef, StreamId};
use crate::id::StoreId;
use crate::peer::{Body, Message};
use crate::testing::disk::BlockBytes;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;

/// Messages under way in one direction at most; one more ends the stream.
const QUEUE_MAX: usize = 4096;

/// How long a stream stands still before it ends.
const STALL_MAX: Micros = 4 * SECOND;

/// All that is between nodes.
#[derive(Default)]
pub(super) struct Network {
    /// Cut directions.
    pub(super) cut: BTreeSet<(usize, usize)>,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    next: u64,
}

/// A stream.
pub(super) struct Stream {
    /// The side that opened it, and the other.
    pub(super) ends: [End; 2],
    /// From `ends[0]` to `ends[1]`, and back.
    queues: [VecDeque<Parcel>; 2],
    last: [Micros; 2],
    stalled: Option<Micros>,
}

/// One side of a stream.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub(super) node: usize,
    pub(super) incarnation: u32,
    pub(super) store: StoreId,
    up: bool,
}

struct Parcel {
    message: Message,
    payload: Payload,
}

enum Payload {
    None,
    Blocks(Vec<Rc<BlockBytes>>),
    Stored(crate::block::StoreOffset),
}

impl Network {
    /// Whether nothing comes from one to the other.
    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&(from, to))
    }
}

impl World {
    /// A node tries to open a stream that it wants.
    pub(super) fn on_connect(&mut self, from: usize, incarnation: u32, to: StoreId) {
        let Some(process) = self.process(from, incarnation) else {
            return;
        };
        if !process.wanted.contains(&to) {
            return;
        }
        let open = self.network.streams.values();
        let mut open = open.filter(|s| s.ends[0].node == from && s.ends[1].store == to);
        if open.next().is_some() {
            return;
        }
        let at = node_of(to);
        let there = &self.nodes[at];
        let heard = !self.network.is_cut(from, at) && !self.network.is_cut(at, from);
        let stands = there.paused_until > self.now || self.nodes[from].paused_until > self.now;
        if there.store != to || there.process.is_none() || !heard || stands {
            let again = self.now + self.rng.u64(50_000..400_000);
            self.at(again, Happening::Connect(from, incarnation, to));
            return;
        }
        self.network.next += 1;
        let id = StreamId(self.network.next);
        let older: Vec<StreamId> = self.between(self.nodes[from].store, to);
        for older in older {
            self.break_stream(older);
        }
        let end = |node: usize, world: &World| End {
            node,
            incarnation: world.nodes[node].incarnation,
            store: world.nodes[node].store,
            up: false,
        };
        let ends = [end(from, self), end(at, self)];
        let stream = Stream {
            ends,
            queues: [VecDeque::new(), VecDeque::new()],
            last: [0, 0],
            stalled: None,
        };
        self.say(|| alloc::format!("stream {} opens: {from} -> {at}", id.0));
        self.network.streams.insert(id, stream);
        let delay = self.delay(from, at);
        let there = self.now + delay;
        let here = there + self.delay(at, from);
        self.at(there, Happening::Up(id, 1));
        self.at(here, Happening::Up(id, 0));
    }

    fn between(&self, opener: StoreId, other: StoreId) -> Vec<StreamId> {
        let streams = self.network.streams.iter();
        let same = streams.filter(|(_, s)| s.ends[0].store == opener && s.ends[1].store == other);
        same.map(|(id, _)| *id).collect()
    }

    /// A stream is ready on one side.
    pub(super) fn on_up(&mut self, id: StreamId, side: usize) {
        let Some(stream) = self.network.streams.get_mut(&id) else {
            return;
        };
        stream.ends[side].up = true;
        let (end, other) = (stream.ends[side], stream.ends[1 - side]);
        let opened = if side == 0 {
            Opened::Here
        } else {
            Opened::There
        };
        let event = Event::StreamUp {
            stream: id,
            store: other.store,
            opened,
        };
        self.give(end.node, end.incarnation, Input::Engine(event));
    }

    /// A stream ends on both sides; each learns of it in its time.
    pub(super) fn break_stream(&mut self, id: StreamId) {
        let Some(stream) = self.network.streams.remove(&id) else {
            return;
        };
        self.say(|| alloc::format!("stream {} ends", id.0));
        for (side, end) in stream.ends.into_iter().enumerate() {
            if end.up {
                let at = self.now + self.rng.u64(1..2000);
                self.at(at, Happening::Down(id, end.node, end.incarnation));
            }
            if side == 0 {
                let at = self.now + self.rng.u64(2000..200_000);
                let to = stream.ends[1].store;
                self.at(at, Happening::Connect(end.node, end.incarnation, to));
            }
        }
    }

    /// All streams of a process end with it.
    pub(super) fn break_streams_of(&mut self, node: usize) {
        let streams = self.network.streams.iter();
        let its = streams.filter(|(_, s)| s.ends.iter().any(|end| end.node == node));
        for id in its.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.break_stream(id);
        }
    }

    /// The engine of a node sends.
    pub(super) fn send(
        &mut self,
        node: usize,
        id: StreamId,
        message: Message,
        payload: Option<PayloadRef>,
    ) {
        let incarnation = self.nodes[node].incarnation;
        let Some(stream) = self.network.streams.get(&id) else {
            return;
        };
        let sends = |end: &End| end.node == node && end.incarnation == incarnation;
        let Some(side) = stream.ends.iter().position(sends) else {
            return;
        };
        if stream.queues[side].len() >= QUEUE_MAX {
            self.break_stream(id);
            return;
        }
        let process = self.nodes[node].process.as_ref().expect("it sends");
        let payload = match payload {
            None => Payload::None,
            Some(PayloadRef::Slice(slice)) => Payload::Blocks(process.held(slice).to_vec()),
            Some(PayloadRef::Stored(from)) => Payload::Stored(from),
        };
        self.observe_record(node, &message);
        let other = self.network.streams[&id].ends[1 - side].node;
        let delay = self.delay(node, other);
        let stream = self.network.streams.get_mut(&id).expect("it is there");
        stream.queues[side].push_back(Parcel { message, payload });
        let at = (self.now + delay).max(stream.last[side]);
        stream.last[side] = at;
        self.at(at, Happening::Deliver(id, side));
    }

    /// The next message of a stream arrives, unless the way is cut.
    pub(super) fn on_deliver(&mut self, id: StreamId, side: usize) {
        let now = self.now;
        let Some(stream) = self.network.streams.get_mut(&id) else {
            return;
        };
        let (from, to) = (stream.ends[side], stream.ends[1 - side]);
        if self.network.cut.contains(&(from.node, to.node)) {
            let since = *stream.stalled.get_or_insert(now);
            if now > since + STALL_MAX {
                self.break_stream(id);
            } else {
                let later = stream.last[side].max(now + 50_000);
                self.at(later, Happening::Deliver(id, side));
            }
            return;
        }
        stream.stalled = None;
        let Some(Parcel { message, payload }) = stream.queues[side].pop_front() else {
            return;
        };
        let sums = message.payload_checksums();
        let blocks = match payload {
            Payload::None => Vec::new(),
            Payload::Blocks(blocks) => blocks,
            Payload::Stored(place) => {
                let process = self.process(from.node, from.incarnation);
                let Some(blocks) = process.and_then(|process| process.stored(place, sums)) else {
                    self.say(|| alloc::format!("stream {}: a stored record moved", id.0));
                    self.break_stream(id);
                    return;
                };
                blocks
            }
        };
        let right = blocks
            .iter()
            .zip(sums)
            .all(|(b, sum)| crc32c(b.as_slice()) == *sum);
        assert!(right, "payload and checksums differ: {message:?}");
        assert_eq!(blocks.len(), sums.len(), "{message:?}");
        let input = Input::Peer(id, message, blocks);
        self.give(to.node, to.incarnation, input);
    }

    /// How long a message takes.
    pub(super) fn delay(&mut self, from: usize, to: usize) -> Micros {
        let clogged = [from, to]
            .iter()
            .any(|end| *end != MASTERS && self.nodes[*end].clogged_until > self.now);
        if clogged {
            return self.rng.u64(1_000..900_000);
        }
        let max = self.plan.delay;
        self.rng.u64(20..20 + max)
    }
}

/// Short words for a message, for people.
pub(super) fn words(message: &Message) -> alloc::string::String {
    match message {
        Message::Volume { epoch, body, .. } => match body {
            Body::Record {
                lsn,
                epoch: own,
                committed,
                body,
            } => alloc::format!(
                "{epoch}: record {} of {own}, committed {}, {:?}",
                lsn.0,
                committed.0,
                body.range()
            ),
            Body::Fill { body, cursor } => {
                alloc::format!("{epoch}: fill {:?}, cursor {}", body.range(), cursor.0)
            }
            other => alloc::format!("{epoch}: {other:?}"),
        },
        other => alloc::format!("{other:?}"),
    }
}
