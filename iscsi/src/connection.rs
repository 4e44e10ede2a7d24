//! One TCP connection: login, then discovery or full feature phase. Plain data; the driver may move
//! it between shards when login has named the target.
//!
//! A session has one connection (MaxConnections = 1): several portals with multipath in the host
//! give the same throughput, survive the loss of a node, and need no allegiance or task reassignment.
//! ErrorRecoveryLevel is 0: whatever breaks the order of PDUs ends the connection.
//!
//! The driver reads 48 bytes, then up to [`Connection::headers_bytes`], calls `begin`, puts the data
//! segment where `begin` says, calls `finish`, and carries the effects of both out in order. After
//! [`Effect::Close`] it reads nothing more. Time is the driver's, since any fixed moment.

use crate::access::Access;
use crate::effect::{CloseReason, Effect, PeerId, Segment, TaskTag};
use crate::framing::{Digests, HEADER_BYTES};
use crate::request::BlockResponse;
use crate::target::{Announcement, Target};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

/// Where a connection came in.
#[derive(Clone, Debug)]
pub struct Portal {
    /// Our end of the connection.
    pub local_address: SocketAddr,
    /// Who may ask for the list of targets.
    pub discovery: Access,
}

/// What the driver knows of the target that a login names.
#[derive(Debug)]
pub enum Binding<'a> {
    /// It is served here.
    Served(&'a mut Target),
    /// There is no such target.
    Unknown,
    /// It exists and is not served at this moment.
    Unavailable,
}

/// How a data segment arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Its digest is right, or there is none.
    Intact,
    /// Its digest is wrong.
    DigestError,
}

/// Random bytes that one connection needs: its only CHAP challenge.
pub const RANDOM_BYTES: usize = 32;

/// The protocol machine of one connection.
#[derive(Debug)]
pub struct Connection {
    portal: Portal,
    peer: PeerId,
    digests: Digests,
}

impl Connection {
    /// A connection that was just accepted. `random` comes from the operating system's generator.
    pub fn new(portal: Portal, peer: PeerId, random: [u8; RANDOM_BYTES], now: Duration) -> Self {
        let _ = (random, now);
        Connection {
            portal,
            peer,
            digests: Digests::default(),
        }
    }

    /// Digests of what is received next; fixed between `begin` and the next basic header segment.
    pub fn digests(&self) -> Digests {
        self.digests
    }

    /// Bytes from the start of a PDU to its data segment, given its first 48 bytes.
    pub fn headers_bytes(&self, basic_header: &[u8; HEADER_BYTES]) -> usize {
        self.digests.headers_bytes(basic_header)
    }

    /// Takes the headers of a PDU: exactly `headers_bytes`, digest included; it is checked here.
    pub fn begin(
        &mut self,
        target: Option<&mut Target>,
        now: Duration,
        headers: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Segment {
        let _ = (target, now, headers, &self.portal, self.peer);
        effects.push(Effect::Close {
            reason: CloseReason::Shutdown,
        });
        Segment::None
    }

    /// Ends a PDU: its data segment is where `begin` said. `inline` is empty unless it said so.
    pub fn finish(
        &mut self,
        target: Option<&mut Target>,
        now: Duration,
        inline: &[u8],
        arrival: Arrival,
        effects: &mut Vec<Effect>,
    ) {
        let _ = (target, now, inline, arrival, effects);
    }

    /// Answer to [`Effect::Bind`]. From now on the target goes with every call.
    pub fn bound(&mut self, binding: Binding<'_>, now: Duration, effects: &mut Vec<Effect>) {
        let _ = (binding, now, effects);
    }

    /// Answer to [`Effect::ListTargets`].
    pub fn listed(&mut self, targets: &[Announcement], now: Duration, effects: &mut Vec<Effect>) {
        let _ = (targets, now, effects);
    }

    /// Answer to [`Effect::Execute`], also after `closed`.
    pub fn completed(
        &mut self,
        target: &mut Target,
        now: Duration,
        task: TaskTag,
        response: BlockResponse,
        effects: &mut Vec<Effect>,
    ) {
        let _ = (target, now, task, response, effects);
    }

    /// Answer to [`Effect::Wake`]: acts on what other sessions of the target posted.
    pub fn attend(&mut self, target: &mut Target, now: Duration, effects: &mut Vec<Effect>) {
        let _ = (target, now, effects);
    }

    /// Time passes; called at least once a second.
    pub fn tick(&mut self, target: Option<&mut Target>, now: Duration, effects: &mut Vec<Effect>) {
        let _ = (target, now, effects);
    }

    /// Asks the host to log out; the connection closes when it did, or after a bounded time.
    pub fn shutdown(
        &mut self,
        target: Option<&mut Target>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let _ = (target, now);
        effects.push(Effect::Close {
            reason: CloseReason::Shutdown,
        });
    }

    /// The socket is gone: the session ends, its tasks are aborted.
    pub fn closed(
        &mut self,
        target: Option<&mut Target>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let _ = (target, now, effects);
    }

    /// After `closed`: no task is with the driver any more, the machine may be dropped.
    pub fn is_over(&self) -> bool {
        true
    }
}
