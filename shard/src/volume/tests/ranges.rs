//! How ranges are cut.
use super::super::{covering, pieces};
use crate::limits::PIECE_BYTES;
use holdfast_core::block::{Block, BlockRange};
use holdfast_iscsi::request::ByteRange;

#[test]
fn pieces_cover_the_range_and_begin_at_whole_blocks() {
    for (offset, bytes) in [
        (0, 1),
        (512, 512),
        (4095, 2),
        (512, 5 << 20),
        (0, 1 << 20),
        (4096, (1 << 20) + 1),
    ] {
        let range = ByteRange { offset, bytes };
        let mut at = offset;
        for (index, piece) in pieces(range).enumerate() {
            assert_eq!(piece.offset, at);
            assert!(index == 0 || piece.offset.is_multiple_of(4096));
            assert!(covering(piece).count as usize * 4096 <= PIECE_BYTES);
            at += piece.bytes;
        }
        assert_eq!(at, offset + bytes);
    }
}

#[test]
fn covering_counts_every_touched_block() {
    for (offset, bytes, first, count) in [
        (0, 4096, 0, 1),
        (1, 4096, 0, 2),
        (4095, 1, 0, 1),
        (8192, 8193, 2, 3),
    ] {
        let expected = BlockRange {
            first: Block(first),
            count,
        };
        assert_eq!(covering(ByteRange { offset, bytes }), expected);
    }
}
