//! The end of the log: walks, skips, laps, torn tails and damage.

use super::*;
use crate::block::Block;
use crate::checksum::crc32c;
use crate::id::VolumeId;
use crate::lsn::{Epoch, Lsn};
use crate::wal::frame::{self, FrameBuilder, FrameHead, RecordHead, RecordRef};
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
    /// As formatting leaves it.
    fn formatted(segments: u32) -> Log {
        let start = crate::block::StoreOffset(0);
        let mut log = Log {
            bytes: vec![0; (SEGMENT * segments) as usize],
            ring: Ring::new(start, SEGMENT, segments, Position(0)),
            end: LogPoint::default(),
        };
        for at in (0..log.bytes.len()).step_by(SEGMENT as usize) {
            let blank = frame::blank(STORE, Position(at as u64));
            log.bytes[at..at + blank.len()].copy_from_slice(&blank);
        }
        log
    }

    /// Zeros: nothing tells the scanner to stop early.
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
            fill: None,
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
        let segments = u32::try_from(self.bytes.len()).unwrap() / SEGMENT;
        let mut scanner = Scanner::new(STORE, SEGMENT, segments, from);
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

#[test]
fn scan_of_a_formatted_log_stops_behind_its_end() {
    let mut log = Log::formatted(40);
    for _ in 0..600 {
        let mut scanner = Scanner::new(STORE, SEGMENT, 40, log.end);
        let mut passed = 0;
        while let Some(index) = scanner.next_segments().next() {
            let at = usize::try_from(index).unwrap() * SEGMENT as usize;
            scanner.segment(&log.bytes[at..at + SEGMENT as usize], &mut Vec::new());
            passed += 1;
        }
        assert_eq!(scanner.finish(), Ok(log.end));
        assert!(passed <= 3, "{passed} segments read at {:?}", log.end);
        log.append(10);
        log.ring.release(log.end.position);
    }
}

/// Goal: stopping early takes no damage for the end. Method: laps of frames; then one frame that is not
/// the last is flipped, never written, or all from it to the last one is zeros or garbage.
#[test]
fn stopping_early_misses_no_later_frame() {
    for seed in 0..400 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut log = Log::formatted(rng.u32(3..9));
        for _ in 0..rng.usize(..120) {
            log.append(rng.usize(1..12));
            log.ring.release(log.end.position);
        }
        let (checkpoint, old) = (log.end, log.bytes.clone());
        let mut places = Vec::new();
        while places.len() < 2 || rng.u8(..12) != 0 {
            places.push(log.append(rng.usize(1..12)));
            if log.ring.used_with(64 << 10) > log.ring.bytes() {
                break;
            }
        }
        assert_eq!(log.scan(checkpoint).0, Ok(log.end), "seed {seed}");
        let victim = rng.usize(..places.len() - 1);
        let (at, last) = (places[victim], places[places.len() - 1]);
        let bytes = (1 + frame::decode(&log.bytes[at..], STORE)
            .unwrap()
            .payload_blocks)
            * BLOCK_BYTES;
        let gap = if last > at {
            at..last
        } else {
            at..log.bytes.len()
        };
        match rng.u8(..5) {
            0 => log.bytes[at + rng.usize(..68)] ^= 1,
            1 => log.bytes[at + BLOCK_BYTES] ^= 1,
            2 => log.bytes[at..at + bytes].copy_from_slice(&old[at..at + bytes]),
            3 => log.bytes[gap].fill(0),
            _ => log.bytes[gap].fill(0xa5),
        }
        let missing = log.scan(checkpoint).0.map_err(|damage| damage.missing.0);
        let expected = checkpoint.seq.0 + victim as u64 + 1;
        assert_eq!(missing, Err(expected), "seed {seed}");
    }
}
