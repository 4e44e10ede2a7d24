//! Where the log ends: walks the frames behind the checkpoint and looks for later ones beyond the end.
//!
//! The caller reads the segments in ring order from the checkpoint's on, and that one a second time (its
//! front part may belong to the newest lap). The scanner follows the chain of frames; where it breaks,
//! the log ends. A valid frame with a higher number anywhere beyond says that the break is damage to
//! durable data: [`Damage`], never a cut.
//!
//! It stops early at the first segment behind the one with the break that begins with a valid frame not
//! newer than the last one of the chain. The log enters a segment only by overwriting its start, and each
//! frame is durable before the next is written: had any frame beyond the break been written there or
//! further on, that old start would be gone. Formatting gives every segment such a start
//! ([`frame::blank`]). Anything else there (zeros, damage, a newer frame) proves nothing, and the walk
//! goes on. So the cost is that of the live log, not of the ring.

use super::frame::{self, Frame};
use super::ring::Position;
use crate::id::StoreId;
use crate::limits::BLOCK_BYTES;
use crate::lsn::FrameSeq;
use alloc::vec::Vec;

/// Where a walk begins or ended: the last good frame and what follows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPoint {
    /// Number of the last frame in front of this point.
    pub seq: FrameSeq,
    /// Where the next frame goes.
    pub position: Position,
    /// Chain value of the last frame.
    pub chain: u32,
}

/// Durable frames are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{missing} is damaged at log position {position:#x}, but {later} behind it is valid",
    position = position.0
)]
pub struct Damage {
    /// The frame that is damaged.
    pub missing: FrameSeq,
    /// Where it should be.
    pub position: Position,
    /// The highest frame found beyond.
    pub later: FrameSeq,
}

/// The walk.
#[derive(Debug)]
pub struct Scanner {
    store: StoreId,
    segment_bytes: u64,
    segments: u64,
    begin: LogPoint,
    end: LogPoint,
    passed: u64,
    skipped_from: Option<Position>,
    ended: bool,
    later: FrameSeq,
}

impl Scanner {
    /// Begins behind a checkpoint.
    pub fn new(store: StoreId, segment_bytes: u32, segments: u32, checkpoint: LogPoint) -> Self {
        Scanner {
            store,
            segment_bytes: u64::from(segment_bytes),
            segments: u64::from(segments),
            begin: checkpoint,
            end: checkpoint,
            passed: 0,
            skipped_from: None,
            ended: false,
            later: FrameSeq(0),
        }
    }

    /// Indexes of the segments that [`Self::segment`] takes next, in order.
    pub fn next_segments(&self) -> impl Iterator<Item = u64> + use<> {
        let first = self.begin.position.0 / self.segment_bytes;
        let segments = self.segments;
        (self.passed..=segments).map(move |passed| (first + passed) % segments)
    }

    /// Takes the bytes of that segment and appends the valid frames in it.
    pub fn segment(&mut self, bytes: &[u8], frames: &mut Vec<Frame>) {
        assert_eq!(bytes.len() as u64, self.segment_bytes);
        let start = (self.begin.position.0 / self.segment_bytes + self.passed) * self.segment_bytes;
        let limit = self.begin.position.0 + self.segments * self.segment_bytes;
        if self.ended && self.is_unreached(bytes, start) {
            self.passed = self.segments + 1;
            return;
        }
        let mut at = 0;
        // Blocks in front of the checkpoint belong to the last visit.
        if self.passed == 0 {
            at = offset(self.begin.position.0 - start);
        }
        while at < bytes.len() && start + (at as u64) < limit {
            let here = Position(start + at as u64);
            match frame::decode(&bytes[at..], self.store) {
                Some(found) if self.follows(&found, here) => {
                    if frame::first_bad_payload(&found, &bytes[at..]).is_none() {
                        at += offset(found.bytes());
                        self.accept(found, frames);
                        continue;
                    }
                    // A torn tail: the next frame overwrites its header.
                    self.ended = true;
                    self.skipped_from = None;
                }
                Some(found) if self.belongs(&found, here) => {
                    self.later = self.later.max(found.head.seq);
                }
                _ => {}
            }
            self.leave(here, start);
            at += BLOCK_BYTES;
        }
        self.passed += 1;
    }

    /// The end of the log, once [`Self::next_segments`] wants none.
    pub fn finish(self) -> Result<LogPoint, Damage> {
        assert!(self.next_segments().next().is_none());
        let end = LogPoint {
            position: self.skipped_from.unwrap_or(self.end.position),
            ..self.end
        };
        if self.later > end.seq.next() {
            return Err(Damage {
                missing: end.seq.next(),
                position: end.position,
                later: self.later,
            });
        }
        Ok(end)
    }

    /// Whether `found` is the frame that is expected at `here`.
    fn follows(&self, found: &Frame, here: Position) -> bool {
        !self.ended
            && here == self.end.position
            && found.head.position == here
            && found.head.seq == self.end.seq.next()
            && found.head.previous == self.end.chain
    }

    /// Whether `found` was written here, in whatever lap: not a copy of a frame inside host data.
    fn belongs(&self, found: &Frame, here: Position) -> bool {
        let ring = self.segments * self.segment_bytes;
        found.head.position.0 % ring == here.0 % ring
    }

    /// Whether the segment at `start` begins with a frame that the log, had it come here behind the break,
    /// would have overwritten.
    fn is_unreached(&self, bytes: &[u8], start: u64) -> bool {
        frame::decode(bytes, self.store).is_some_and(|found| {
            found.head.seq <= self.end.seq && self.belongs(&found, Position(start))
        })
    }

    fn accept(&mut self, found: Frame, frames: &mut Vec<Frame>) {
        self.end = LogPoint {
            seq: found.head.seq,
            position: Position(found.head.position.0 + found.bytes()),
            chain: found.chain,
        };
        self.skipped_from = None;
        frames.push(found);
    }

    /// The expected frame is not at `here`: it may be at the start of the next segment, when it did
    /// not fit into this one.
    fn leave(&mut self, here: Position, segment_start: u64) {
        if self.ended || here != self.end.position {
            return;
        }
        if self.skipped_from.is_some() || here.0 == segment_start {
            self.ended = true;
            return;
        }
        self.skipped_from = Some(here);
        self.end.position = Position(segment_start + self.segment_bytes);
    }
}

fn offset(bytes: u64) -> usize {
    usize::try_from(bytes).expect("an offset in a segment")
}

#[cfg(test)]
mod tests;
