//! Data for a host, in pieces that stay where they are: disk buffers, cached blocks, zeros.
//!
//! Hot path. A read of any length is answered without copying a byte in user space.

use crate::runtime::buffer::{Buffer, ReadBytes};
use holdfast_core::limits::BLOCK_BYTES;
use std::rc::Rc;

/// One cached block.
pub(crate) type CachedBlock = Rc<[u8; BLOCK_BYTES]>;

static ZEROS: [u8; 16 * BLOCK_BYTES] = [0; 16 * BLOCK_BYTES];

/// Where a piece's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// In a buffer that a read filled.
    Read(ReadBytes),
    /// In a task buffer that a host or a peer filled.
    Task(Rc<Buffer>),
    /// In the read cache.
    Cached(CachedBlock),
    /// Nowhere: they are zero.
    Zero,
}

/// A run of bytes of one source.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    source: Source,
    start: usize,
    bytes: usize,
}

/// Pieces in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rope {
    pieces: Vec<Piece>,
    bytes: usize,
}

impl Piece {
    /// A run of `bytes` bytes from `start` on.
    pub(crate) fn new(source: Source, start: usize, bytes: usize) -> Self {
        Piece {
            source,
            start,
            bytes,
        }
    }

    /// The bytes from `skip` on, as far as they lie together; empty at the end.
    pub(crate) fn bytes_from(&self, skip: usize) -> &[u8] {
        let wanted = self.start + skip..self.start + self.bytes;
        match &self.source {
            Source::Read(bytes) => &bytes[wanted],
            Source::Task(buffer) => &buffer[wanted],
            Source::Cached(block) => &block[wanted],
            Source::Zero => &ZEROS[..(self.bytes - skip).min(ZEROS.len())],
        }
    }

    /// Its length.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }
}

impl Rope {
    /// Adds a piece at the end.
    pub(crate) fn push(&mut self, source: Source, start: usize, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.pieces.push(Piece::new(source, start, bytes));
        self.bytes += bytes;
    }

    /// Adds another rope at the end.
    pub(crate) fn append(&mut self, other: Rope) {
        self.bytes += other.bytes;
        self.pieces.extend(other.pieces);
    }

    /// Whether nothing of it is stored: it is zeros.
    pub(crate) fn is_zero(&self) -> bool {
        let mut pieces = self.pieces.iter();
        pieces.all(|piece| matches!(piece.source, Source::Zero))
    }

    /// What it is made of.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Calls `take` with the pieces that make up `bytes` bytes from `offset` on.
    pub(crate) fn slice(&self, offset: usize, bytes: usize, mut take: impl FnMut(Piece)) {
        assert!(offset + bytes <= self.bytes);
        let (mut skip, mut left) = (offset, bytes);
        for piece in &self.pieces {
            if left == 0 {
                return;
            }
            if skip >= piece.bytes {
                skip -= piece.bytes;
                continue;
            }
            let length = (piece.bytes - skip).min(left);
            take(Piece {
                source: piece.source.clone(),
                start: piece.start + skip,
                bytes: length,
            });
            left -= length;
            skip = 0;
        }
    }

    /// The rope of `bytes` bytes from `offset` on.
    pub(crate) fn sub(&self, offset: usize, bytes: usize) -> Rope {
        let mut rope = Rope::default();
        self.slice(offset, bytes, |piece| {
            rope.bytes += piece.bytes;
            rope.pieces.push(piece);
        });
        rope
    }

    /// Copies everything into `target`, which is as long as the rope. For compares and
    /// read-modify-write, which need it in one place.
    pub(crate) fn copy_to(&self, target: &mut [u8]) {
        assert!(target.len() == self.bytes);
        let mut at = 0;
        self.for_each_slice(|slice| {
            target[at..at + slice.len()].copy_from_slice(slice);
            at += slice.len();
        });
    }

    /// Calls `see` with every run of bytes, in order.
    pub(crate) fn for_each_slice(&self, mut see: impl FnMut(&[u8])) {
        for piece in &self.pieces {
            let mut done = 0;
            while done < piece.bytes {
                let slice = piece.bytes_from(done);
                done += slice.len();
                see(slice);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Rope, Source};
    use crate::runtime::buffer::ReadBytes;
    use std::rc::Rc;

    #[test]
    fn a_slice_of_a_rope_is_the_slice_of_its_bytes() {
        let data: Rc<[u8]> = (0..=255).collect();
        let mut rope = Rope::default();
        rope.push(Source::Read(ReadBytes::Memory(Rc::clone(&data))), 10, 90);
        rope.push(Source::Zero, 0, 100_000);
        rope.push(Source::Cached(Rc::new([7; 4096])), 4000, 96);
        let mut whole = vec![0; rope.len()];
        rope.copy_to(&mut whole);
        for (offset, bytes) in [
            (0, 90),
            (5, 100),
            (80, 100_000),
            (90, 1),
            (0, 100_186),
            (100_185, 1),
        ] {
            let sub = rope.sub(offset, bytes);
            let mut copy = vec![1; sub.len()];
            sub.copy_to(&mut copy);
            assert!(copy == whole[offset..offset + bytes]);
        }
    }
}
