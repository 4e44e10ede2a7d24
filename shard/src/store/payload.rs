//! Payloads that the machine knows by number: whole blocks, held until the machine releases them.

use crate::net::budget::Share;
use crate::peer::inbox::Arrived;
use crate::runtime::buffer::Buffer;
use crate::volume::rope::{Piece, Rope, Source};
use holdfast_core::limits::BLOCK_BYTES;
use holdfast_core::store::PayloadSlice;
use std::rc::Rc;

/// Data in a task buffer: whole blocks, at most a transfer.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    pub(super) buffer: Rc<Buffer>,
    start: usize,
    bytes: usize,
}

/// What the machine may refer to.
pub(super) enum Held {
    /// From a host, to be stored and perhaps sent.
    Host(Payload),
    /// From a peer, to be stored; its memory comes from a budget.
    Peer { payload: Payload, _share: Share },
    /// Read to be sent, never stored from here.
    Fill(Rope),
}

impl Payload {
    /// The first `bytes` bytes from `start` on; whole blocks.
    pub(crate) fn new(buffer: Rc<Buffer>, start: usize, bytes: usize) -> Self {
        assert!(start + bytes <= buffer.len());
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES));
        Payload {
            buffer,
            start,
            bytes,
        }
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.bytes]
    }

    /// The bytes, to be given to a host from where they are.
    pub(crate) fn rope(&self) -> Rope {
        let mut rope = Rope::default();
        let source = Source::Task(Rc::clone(&self.buffer));
        rope.push(source, self.start, self.bytes);
        rope
    }

    /// The bytes of a slice of it.
    pub(super) fn cut(&self, slice: PayloadSlice) -> &[u8] {
        let start = slice.first_block as usize * BLOCK_BYTES;
        &self.bytes()[start..start + slice.blocks as usize * BLOCK_BYTES]
    }
}

impl Held {
    /// What came from a peer.
    pub(super) fn arrived(arrived: Arrived) -> Self {
        let bytes = arrived.buffer.len();
        Held::Peer {
            payload: Payload::new(Rc::new(arrived.buffer), 0, bytes),
            _share: arrived.share,
        }
    }

    /// To be written to the disk.
    pub(super) fn stored(&self) -> &Payload {
        match self {
            Held::Host(payload) | Held::Peer { payload, .. } => payload,
            Held::Fill(_) => unreachable!("what is read for a peer is only sent"),
        }
    }

    /// Calls `take` with the pieces of a slice, to be sent from where they are.
    pub(super) fn pieces(&self, slice: PayloadSlice, mut take: impl FnMut(Piece)) {
        let start = slice.first_block as usize * BLOCK_BYTES;
        let bytes = slice.blocks as usize * BLOCK_BYTES;
        match self {
            Held::Host(payload) | Held::Peer { payload, .. } => {
                assert!(start + bytes <= payload.bytes);
                let source = Source::Task(Rc::clone(&payload.buffer));
                take(Piece::new(source, payload.start + start, bytes));
            }
            Held::Fill(rope) => rope.slice(start, bytes, take),
        }
    }
}
