//! The end of the log: walks, skips, laps, torn tails and damage.

use super::*;
use crate::block::Block;
use crate::checksum::crc32c;
use crate::id::VolumeId;
use crate::lsn::{Epoch, Lsn};
use crate::wal::frame::{FrameBuilder, FrameHead, RecordHead, RecordRef};
use crate::wal::ring::Ring;
use alloc::vec;

const STORE: StoreId = StoreId([3; 16]);
const SEGMENT: u32 = 128 << 10;
const SEGMENTS: u32 = 3;

/// A log area in memory and its writer.
struct Log {
    bytes: Vec<u8>,
    ring: Ring,
    end: LogPoint,
}

impl Log {
    fn new() -> Log {
        let start = crate::block::StoreOffset(0);
        Log {
            bytes: vec![0; (SEGMENT * SEGMENTS) as usize],
            ring: Ring::new(start, SEGMENT, SEGMENTS, Position(0)),
            end: LogPoint::default(),
        }
    }

    /// Appends a frame with `blocks` of payload; gives where it is.
    fn append(&mut self, blocks: usize) -> usize {
        let payload = vec![self.end.seq.0.to_le_bytes()[0]; blocks * BLOCK_BYTES];
        let checksums: Vec<u32> = payload.chunks(BLOCK_BYTES).map(crc32c).collect();
        let mut builder = FrameBuilder::default();
        let head = RecordHead {
            volume: VolumeId([1; 16]),
            epoch: Epoch(1),
            lsn: Lsn(1),
        };
        let record = RecordRef::Write {
            first: Block(0),
            checksums: &checksums,
        };
        builder.push(head, &record);
        let bytes = builder.bytes();
        let position = self.ring.place(bytes);
        let (mut frame, chain) = builder.finish(FrameHead {
            store: STORE,
            seq: self.end.seq.next(),
            position,
            previous: self.end.chain,
        });
        frame.extend_from_slice(&payload);
        let at = usize::try_from(self.ring.offset(position).0).unwrap();
        self.bytes[at..at + frame.len()].copy_from_slice(&frame);
        self.ring.advance(position, bytes);
        self.end = LogPoint {
            seq: self.end.seq.next(),
            position: self.ring.head(),
            chain,
        };
        at
    }

    fn scan(&self, from: LogPoint) -> (Result<LogPoint, Damage>, Vec<u64>) {
        let mut scanner = Scanner::new(STORE, SEGMENT, SEGMENTS, from);
        let mut frames = Vec::new();
        while let Some(index) = scanner.next_segments().next() {
            let at = usize::try_from(index).unwrap() * SEGMENT as usize;
            scanner.segment(&self.bytes[at..at + SEGMENT as usize], &mut frames);
        }
        let seqs = frames.iter().map(|frame| frame.head.seq.0).collect();
        (scanner.finish(), seqs)
    }
}

#[test]
fn empty_log_ends_where_it_begins() {
    let log = Log::new();
    assert_eq!(log.scan(log.end), (Ok(LogPoint::default()), vec![]));
}

#[test]
fn frames_are_found_over_segments_and_laps() {
    let mut log = Log::new();
    let mut checkpoint = log.end;
    for count in 1..200u64 {
        log.append(usize::try_from(count * 7 % 13).unwrap() + 1);
        let (end, seqs) = log.scan(checkpoint);
        assert_eq!(end, Ok(log.end));
        assert!(seqs.into_iter().eq(checkpoint.seq.0 + 1..=log.end.seq.0));
        if log.ring.used() > 250 << 10 {
            checkpoint = log.end;
            log.ring.release(log.end.position);
        }
    }
    assert!(log.end.position.0 > 10 * u64::from(SEGMENT * SEGMENTS));
}

#[test]
fn torn_tail_is_cut_wherever_it_is_torn() {
    let mut log = Log::new();
    log.append(3);
    let end = log.end;
    let at = log.append(4);
    for block in 0..5 {
        let mut torn = log.bytes.clone();
        torn[at + block * BLOCK_BYTES..][..512].fill(0xee);
        core::mem::swap(&mut log.bytes, &mut torn);
        assert_eq!(log.scan(LogPoint::default()), (Ok(end), vec![1]));
        log.bytes = torn;
    }
}

#[test]
fn damage_in_front_of_a_later_frame_is_no_tail() {
    for victim in 0..4 {
        let mut log = Log::new();
        let places: Vec<usize> = (0..5).map(|_| log.append(8)).collect();
        for block in [0, 1, 8] {
            let byte = places[victim] + block * BLOCK_BYTES + 100;
            log.bytes[byte] ^= 4;
            let (end, seqs) = log.scan(LogPoint::default());
            let damage = end.unwrap_err();
            assert_eq!(damage.missing.0, victim as u64 + 1);
            assert_eq!(damage.later.0, 5);
            assert_eq!(seqs.len(), victim);
            log.bytes[byte] ^= 4;
        }
    }
}

#[test]
fn frames_of_an_earlier_lap_are_no_later_ones() {
    let mut log = Log::new();
    for _ in 0..11 {
        log.append(10);
        log.ring.release(log.end.position);
    }
    let checkpoint = log.end;
    assert_eq!(log.scan(checkpoint), (Ok(checkpoint), vec![]));
}
