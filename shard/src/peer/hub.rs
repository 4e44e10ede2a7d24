//! What all peer streams of a shard share: who we are, the bounds, and which streams are half open.

use crate::limits::{PEER_ARRIVED_BYTES_MAX, PEER_HALF_OPEN_MAX, PEER_STREAMS_MAX};
use crate::net::budget::Budget;
use crate::runtime::local::{Gate, Pass};
use crate::runtime::slots::Slots;
use crate::runtime::socket::Ender;
use crate::runtime::task::now;
use holdfast_core::engine::StreamId;
use holdfast_core::id::{ClusterId, NodeId};
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// A reader and a writer of each stream, dialers that wait, and greetings.
const TASKS_MAX: usize = 3 * PEER_STREAMS_MAX + PEER_HALF_OPEN_MAX;

/// Who this process is in its cluster; the agent tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// This node.
    pub(crate) node: NodeId,
}

/// The shared state.
pub(crate) struct Hub {
    identity: Cell<Option<Identity>>,
    /// The address that streams are opened from.
    pub(super) from: Option<IpAddr>,
    /// Memory of payloads that arrived.
    pub(super) arrived: Budget,
    /// Bytes that may wait on one stream.
    pub(super) queued_max: usize,
    /// Runs streams.
    pub(super) tasks: Slots,
    streams: Rc<Gate>,
    numbers_used: Cell<u64>,
    /// Connections that have to get somewhere by a moment.
    deadlines: RefCell<Vec<(Duration, Weak<Ender>)>>,
}

impl Hub {
    /// No streams yet. `queued_max` bounds the bytes that wait on one stream; streams are opened from
    /// the address `from`, if it is known.
    pub(crate) fn new(from: Option<IpAddr>, queued_max: usize) -> Rc<Self> {
        Rc::new(Hub {
            identity: Cell::new(None),
            from,
            arrived: Budget::new(PEER_ARRIVED_BYTES_MAX),
            queued_max,
            tasks: Slots::new(TASKS_MAX),
            streams: Rc::default(),
            numbers_used: Cell::new(0),
            deadlines: RefCell::default(),
        })
    }

    /// Who we are, once it is known.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.identity.get()
    }

    /// Learns who we are.
    pub(crate) fn set_identity(&self, identity: Identity) {
        self.identity.set(Some(identity));
    }

    /// A number for a stream.
    pub(super) fn next_id(&self) -> StreamId {
        self.numbers_used.set(self.numbers_used.get() + 1);
        StreamId(self.numbers_used.get())
    }

    /// Counts one more stream, unless there are too many.
    pub(super) fn enter(&self) -> Option<Pass> {
        (self.streams.count() < PEER_STREAMS_MAX).then(|| self.streams.enter())
    }

    /// Ends a connection in `time`, unless [`Self::no_deadline`] is called before.
    pub(super) fn end_after(&self, time: Duration, ender: &Rc<Ender>) {
        self.deadlines
            .borrow_mut()
            .push((now() + time, Rc::downgrade(ender)));
    }

    /// Takes a deadline back: the connection got there.
    pub(super) fn no_deadline(&self, ender: &Rc<Ender>) {
        let other = |entry: &Weak<Ender>| entry.as_ptr() != Rc::as_ptr(ender);
        self.deadlines
            .borrow_mut()
            .retain(|(_, entry)| other(entry));
    }

    /// Leaves no memory for payloads until the share is dropped.
    #[cfg(test)]
    pub(crate) fn hold_arrived_memory(&self) -> crate::net::budget::Share {
        self.arrived.take(1 << 40)
    }

    /// Time passed: ends what is late.
    pub(crate) fn tick(&self) {
        let now = now();
        self.deadlines.borrow_mut().retain(|(at, ender)| {
            let late = *at <= now;
            if late && let Some(ender) = ender.upgrade() {
                ender.end();
            }
            !late
        });
    }
}
