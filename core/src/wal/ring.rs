//! Positions in the log and the room between head and tail.

use crate::block::StoreOffset;
use crate::limits::BLOCK_BYTES;

/// Bytes of log passed since the store was formatted: names lap and offset in one. Always a multiple
/// of [`BLOCK_BYTES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub u64);

/// The log area: where the next frame goes and what is not yet released.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    start: StoreOffset,
    bytes: u64,
    segment_bytes: u64,
    head: Position,
    tail: Position,
}

impl Ring {
    /// A log area of `segments` segments from `start`, empty at `position`.
    pub fn new(start: StoreOffset, segment_bytes: u32, segments: u32, position: Position) -> Self {
        assert!((segment_bytes as usize).is_multiple_of(BLOCK_BYTES));
        Ring {
            start,
            bytes: u64::from(segment_bytes) * u64::from(segments),
            segment_bytes: u64::from(segment_bytes),
            head: position,
            tail: position,
        }
    }

    /// Bytes of the area.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of a segment.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Where a position is on the disk.
    pub fn offset(&self, position: Position) -> StoreOffset {
        self.start.plus(position.0 % self.bytes)
    }

    /// Behind the last frame.
    pub fn head(&self) -> Position {
        self.head
    }

    /// The first frame that is still needed.
    pub fn tail(&self) -> Position {
        self.tail
    }

    /// Bytes between tail and head.
    pub fn used(&self) -> u64 {
        self.head.0 - self.tail.0
    }

    /// Bytes left in the segment of the head; a whole segment at its start.
    pub fn segment_room(&self) -> u64 {
        self.segment_bytes - self.head.0 % self.segment_bytes
    }

    /// Where a frame of `bytes` goes: at the head, or at the start of the next segment.
    pub fn place(&self, bytes: u64) -> Position {
        assert!(bytes <= self.segment_bytes);
        if bytes <= self.segment_room() {
            self.head
        } else {
            Position(self.head.0 + self.segment_room())
        }
    }

    /// Bytes in use once a frame of `bytes` was placed.
    pub fn used_with(&self, bytes: u64) -> u64 {
        self.place(bytes).0 + bytes - self.tail.0
    }

    /// Takes the place of a frame. Never overwrites what is not released.
    pub fn advance(&mut self, position: Position, bytes: u64) {
        assert!(position >= self.head);
        self.head = Position(position.0 + bytes);
        assert!(self.used() <= self.bytes);
    }

    /// Frees everything in front of `tail`.
    pub fn release(&mut self, tail: Position) {
        assert!(tail >= self.tail);
        assert!(tail <= self.head);
        self.tail = tail;
    }
}
