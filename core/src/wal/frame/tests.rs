//! The bytes of a frame, what is refused, and any bytes at all.

use super::*;
use alloc::string::String;
use alloc::vec;
use core::fmt::Write as _;
use std::env;
use std::println;

const STORE: StoreId = StoreId([0xa1; 16]);

/// CRC32C of the whole golden header block.
const GOLDEN: u32 = 382_186_808;

fn head() -> FrameHead {
    FrameHead {
        store: STORE,
        seq: FrameSeq(7),
        position: Position(0x12000),
        previous: 0xdead_beef,
    }
}

fn record_head(lsn: u64) -> RecordHead {
    RecordHead {
        volume: VolumeId([0xb2; 16]),
        epoch: Epoch(3),
        lsn: Lsn(lsn),
        fill: None,
    }
}

fn all_kinds() -> Vec<RecordBody> {
    vec![
        RecordBody::Write {
            first: Block(9),
            checksums: vec![crc32c(&[1; BLOCK_BYTES]), crc32c(&[2; BLOCK_BYTES])],
        },
        RecordBody::Map {
            chunk: ChunkIndex(4),
            physical: PhysicalChunk(77),
            checksums: [5; CHUNK_BLOCKS],
        },
        RecordBody::Unmap(BlockRange {
            first: Block(100),
            count: 50,
        }),
        RecordBody::Create {
            size_blocks: 4096,
            sharing: Sharing::Shared,
        },
        RecordBody::Resize { size_blocks: 8192 },
        RecordBody::SetEpoch(Sharing::Shared),
        RecordBody::Attributes(vec![1, 2, 3]),
        RecordBody::Remove,
        RecordBody::Promise,
        RecordBody::Adopt(Adoption {
            keep: Lsn(5),
            resync: Some(Resync {
                base: Lsn(4),
                cursor: Block(64),
            }),
            reigns: vec![Reign {
                epoch: Epoch(2),
                start: Lsn(3),
            }],
        }),
        RecordBody::EndResync,
        RecordBody::Commit,
    ]
}

fn borrow(body: &RecordBody) -> RecordRef<'_> {
    match body {
        RecordBody::Write { first, checksums } => RecordRef::Write {
            first: *first,
            checksums,
        },
        RecordBody::Map {
            chunk,
            physical,
            checksums,
        } => RecordRef::Map {
            chunk: *chunk,
            physical: *physical,
            checksums,
        },
        RecordBody::Unmap(range) => RecordRef::Unmap(*range),
        RecordBody::Create {
            size_blocks,
            sharing,
        } => RecordRef::Create {
            size_blocks: *size_blocks,
            sharing: *sharing,
        },
        RecordBody::Resize { size_blocks } => RecordRef::Resize {
            size_blocks: *size_blocks,
        },
        RecordBody::SetEpoch(sharing) => RecordRef::SetEpoch(*sharing),
        RecordBody::Remove => RecordRef::Remove,
        RecordBody::Attributes(bytes) => RecordRef::Attributes(bytes),
        RecordBody::Promise => RecordRef::Promise,
        RecordBody::Adopt(adoption) => RecordRef::Adopt(adoption),
        RecordBody::EndResync => RecordRef::EndResync,
        RecordBody::Commit => RecordRef::Commit,
    }
}

fn build(bodies: &[RecordBody]) -> Vec<u8> {
    let mut builder = FrameBuilder::default();
    for (lsn, body) in (1..).zip(bodies) {
        let mut head = record_head(lsn);
        head.fill = matches!(body, RecordBody::Unmap(_)).then_some(Block(0x77));
        assert!(builder.bytes_with(&head, &borrow(body)).is_some());
        builder.push(head, &borrow(body));
    }
    let bytes = builder.bytes();
    let (mut frame, _) = builder.finish(head());
    frame.extend_from_slice(&[1; BLOCK_BYTES]);
    frame.extend_from_slice(&[2; BLOCK_BYTES]);
    assert_eq!(frame.len() as u64, bytes);
    frame
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string grows");
        text
    })
}

#[test]
fn bytes_on_the_disk_do_not_change() {
    let frame = build(&all_kinds());
    let golden = concat!(
        "48464652414d4531",
        "02000000",
        "00100000",
        "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1",
        "0700000000000000",
        "0020010000000000",
        "efbeadde",
        "0c000000",
        "41020000",
        "02000000",
    );
    assert_eq!(hex(&frame[..64]), golden);
    let record = concat!(
        "01",
        "b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2",
        "0300000000000000",
        "0100000000000000",
        "0900000000000000",
        "0200",
    );
    assert_eq!(hex(&frame[80..80 + 43]), record);
    assert_eq!(crc32c(&frame[..BLOCK_BYTES]), GOLDEN);
}

#[test]
fn every_kind_of_record_comes_back() {
    let bytes = build(&all_kinds());
    let frame = decode(&bytes, STORE).unwrap();
    assert_eq!(frame.head, head());
    assert_eq!((frame.header_bytes, frame.payload_blocks), (BLOCK_BYTES, 2));
    assert_eq!(frame.bytes(), bytes.len() as u64);
    let bodies: Vec<_> = frame
        .records
        .iter()
        .map(|record| record.body.clone())
        .collect();
    assert_eq!(bodies, all_kinds());
    let lsns = frame.records.iter().map(|record| record.head.lsn.0);
    assert!(lsns.eq(1..=12));
    let cursors = frame.records.iter().map(|record| record.head.fill);
    assert_eq!(cursors.flatten().count(), 1);
    assert_eq!(first_bad_payload(&frame, &bytes), None);
}

#[test]
fn any_flipped_bit_is_noticed() {
    let bytes = build(&all_kinds());
    for bit in 0..bytes.len() * 8 {
        if bit > 8 * 600 && bit % 61 != 0 {
            continue; // All of the records, a sample of the rest.
        }
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let found = decode(&damaged, STORE);
        let noticed = found.is_none_or(|frame| first_bad_payload(&frame, &damaged).is_some());
        assert!(noticed, "bit {bit}");
    }
}

#[test]
fn another_store_and_a_cut_frame_are_refused() {
    let bytes = build(&all_kinds());
    assert!(decode(&bytes, StoreId([0xa2; 16])).is_none());
    assert!(decode(&bytes[..bytes.len() - BLOCK_BYTES], STORE).is_none());
    assert!(decode(&[], STORE).is_none());
}

#[test]
fn limits_of_a_frame_are_kept() {
    let mut builder = FrameBuilder::default();
    let checksums = [0; CHUNK_BLOCKS];
    let record = RecordRef::Write {
        first: Block(0),
        checksums: &checksums,
    };
    let mut count = 0;
    while builder.bytes_with(&record_head(1), &record).is_some() {
        builder.push(record_head(1), &record);
        count += 1;
    }
    assert_eq!(count * CHUNK_BLOCKS * BLOCK_BYTES, FRAME_PAYLOAD_BYTES_MAX);
    let mut builder = FrameBuilder::default();
    for _ in 0..FRAME_RECORDS_MAX {
        assert!(
            builder
                .bytes_with(&record_head(1), &RecordRef::Remove)
                .is_some()
        );
        builder.push(record_head(1), &RecordRef::Remove);
    }
    assert!(
        builder
            .bytes_with(&record_head(1), &RecordRef::Remove)
            .is_none()
    );
    let blob = vec![0; ATTRIBUTES_BYTES_MAX];
    let record = RecordRef::Attributes(&blob);
    assert!(
        FrameBuilder::default()
            .bytes_with(&record_head(1), &record)
            .is_some()
    );
}

/// Goal: no bytes make the decoder panic, and none but a frame's decode. Method: frames with random
/// damage and a checksum that is right again.
#[test]
fn fuzz_frame_decoder() {
    let number = |name| env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("HOLDFAST_FUZZ_SEED").unwrap_or(1);
    let rounds = number("HOLDFAST_FUZZ_ROUNDS").unwrap_or(20_000);
    println!("seed {seed}: {rounds} frames");
    let mut rng = fastrand::Rng::with_seed(seed);
    let valid = build(&all_kinds());
    for _ in 0..rounds {
        let mut bytes = valid.clone();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(8..520);
            bytes[at] = if rng.bool() { rng.u8(..) } else { 0xff };
        }
        bytes[16..32].copy_from_slice(&STORE.0);
        let length = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        if (BLOCK_BYTES..=bytes.len()).contains(&length) {
            let crc = header_checksum(&bytes[..length]);
            bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        }
        if let Some(frame) = decode(&bytes, STORE) {
            assert!(frame.bytes() <= bytes.len() as u64);
            first_bad_payload(&frame, &bytes);
        }
    }
}
