//! The bytes of each kind of message, what is refused, and any bytes at all.

use super::*;
use crate::block::{Block, BlockRange, ChunkIndex};
use crate::id::{ClusterId, NodeId, StoreId};
use crate::limits::{ATTRIBUTES_BYTES_MAX, CHUNK_BLOCKS, PEER_REIGNS_MAX};
use crate::lsn::Lsn;
use crate::peer::{Adopt, Attached, Body, DetachReason, Found, Hello, Refusal};
use crate::replication::Reign;
use crate::store::append::{AppendBody, Resync, Sharing};
use crate::testing::fuzz::{Seeds, mutate};
use alloc::vec;

/// CRC32C of all golden messages, one behind the other.
const GOLDEN: u32 = 1_658_242_762;

fn about(body: Body) -> Message {
    Message::Volume {
        volume: VolumeId([0xb2; 16]),
        epoch: Epoch(3),
        body,
    }
}

fn record(body: AppendBody) -> Message {
    about(Body::Record {
        lsn: Lsn(77),
        epoch: Epoch(2),
        committed: Lsn(70),
        body,
    })
}

fn range(first: u64, count: u32) -> BlockRange {
    BlockRange {
        first: Block(first),
        count,
    }
}

fn reigns() -> Vec<Reign> {
    vec![
        Reign {
            epoch: Epoch(1),
            start: Lsn(1),
        },
        Reign {
            epoch: Epoch(3),
            start: Lsn(40),
        },
    ]
}

fn appends() -> Vec<AppendBody> {
    vec![
        AppendBody::Write {
            range: range(17, 2),
            checksums: vec![crc32c(&[1; BLOCK_BYTES]), crc32c(&[2; BLOCK_BYTES])],
        },
        AppendBody::Chunk {
            chunk: ChunkIndex(9),
            checksums: [5; CHUNK_BLOCKS],
        },
        AppendBody::Unmap(range(5, 100_000)),
        AppendBody::Attributes(vec![7; ATTRIBUTES_BYTES_MAX]),
        AppendBody::Attributes(vec![]),
        AppendBody::Resize { size_blocks: 8192 },
    ]
}

/// One of each kind and shape.
fn all() -> Vec<Message> {
    let hello = Hello {
        version_min: 1,
        version_max: 2,
        cluster: ClusterId([1; 16]),
        from_node: NodeId([2; 16]),
        from_store: StoreId([3; 16]),
        to_store: StoreId([4; 16]),
    };
    let attached = Attached {
        last: Lsn(90),
        committed: Lsn(80),
        resync: None,
        size_blocks: 4096,
        reigns: reigns(),
    };
    let resync = Some(Resync {
        base: Lsn(10),
        cursor: Block(64),
    });
    let mut all = vec![
        Message::Hello(hello),
        Message::Welcome {
            version: 1,
            store: StoreId([4; 16]),
        },
        Message::Refused(Refusal::Store),
        Message::Heartbeat { seq: 5 },
        Message::HeartbeatAck { seq: 5 },
        about(Body::Attach),
        about(Body::Attached(attached.clone())),
        about(Body::Attached(Attached {
            resync,
            reigns: vec![],
            ..attached
        })),
        about(Body::Adopt(Adopt {
            keep: Lsn(80),
            cut: Lsn(90),
            resync_base: Some(Lsn(10)),
            reigns: reigns(),
        })),
        about(Body::Adopt(Adopt {
            keep: Lsn(90),
            cut: Lsn(90),
            resync_base: None,
            reigns: reigns(),
        })),
        about(Body::Adopted { durable: Lsn(90) }),
        about(Body::Commit { up_to: Lsn(88) }),
        about(Body::Ack { durable: Lsn(89) }),
        about(Body::Filled {
            cursor: Block(96),
            count: 6,
        }),
        about(Body::EndResync),
        about(Body::Resynced),
        about(Body::Detach(DetachReason::OutOfOrder)),
        about(Body::ReadBlocks {
            id: 1,
            range: range(3, 16),
        }),
        about(Body::Blocks {
            id: 1,
            range: range(3, 2),
            found: Found::Data(vec![1, 2]),
        }),
        about(Body::Blocks {
            id: 1,
            range: range(3, 2),
            found: Found::Nothing,
        }),
        record(AppendBody::SetEpoch {
            sharing: Sharing::Shared,
        }),
    ];
    all.extend(appends().into_iter().map(record));
    all.extend(appends().into_iter().map(|body| {
        let cursor = Block(32);
        about(Body::Fill { body, cursor })
    }));
    all
}

fn decode(bytes: &[u8]) -> Result<(Message, usize), WireError> {
    let (head, rest) = bytes.split_first_chunk().ok_or(WireError::NoHead)?;
    let head = Head::decode(head)?;
    let body = rest.get(..head.body_bytes).ok_or(WireError::TooLong)?;
    Ok((head.message(body)?, head.payload_bytes))
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes);
    bytes
}

/// Makes the lengths and the checksum of what may be a head right.
fn seal(bytes: &mut [u8]) {
    if bytes.len() < HEAD_BYTES {
        return;
    }
    let (head, body) = bytes.split_at_mut(HEAD_BYTES);
    head[..4].copy_from_slice(&MAGIC);
    head[5..8].fill(0);
    head[60..].fill(0);
    let length = narrow(body.len());
    head[8..12].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(head, body);
    head[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    for message in all() {
        let mut bytes = vec![0xee; 3];
        let payload = encode(&message, &mut bytes);
        let (decoded, payload_bytes) = decode(&bytes[3..]).expect("it was encoded here");
        assert_eq!(decoded, message);
        assert_eq!(payload_bytes, payload);
    }
}

#[test]
fn bytes_are_those_of_version_one() {
    let bytes: Vec<u8> = all().iter().flat_map(encoded).collect();
    assert_eq!(crc32c(&bytes), GOLDEN);
    let first = encoded(&Message::Heartbeat { seq: 5 });
    assert_eq!(&first[..16], b"HFP1\x04\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(&first[40..48], 5u64.to_le_bytes());
}

#[test]
fn payload_is_checked_block_by_block() {
    let message = record(appends().remove(0));
    let mut payload = vec![1; BLOCK_BYTES];
    payload.resize(2 * BLOCK_BYTES, 2);
    assert_eq!(first_bad_block(&message, &payload), None);
    payload[BLOCK_BYTES + 17] ^= 1;
    assert_eq!(first_bad_block(&message, &payload), Some(1));
}

#[test]
fn damage_is_refused() {
    let good = encoded(&record(appends().remove(0)));
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        assert!(decode(&bytes).is_err(), "byte {at}");
    }
}

/// Rows: what is wrong, a change of a good message (sealed again), what is answered.
#[test]
fn impossible_messages_are_refused() {
    type Change = fn(&mut Vec<u8>);
    let write = || encoded(&record(appends().remove(0)));
    let rows: [(&str, Vec<u8>, Change, WireError); 9] = [
        ("unknown kind", write(), |b| b[4] = 99, WireError::Malformed),
        (
            "kind of another body",
            write(),
            |b| b[4] = 15,
            WireError::Malformed,
        ),
        (
            "body one byte longer",
            write(),
            |b| b.push(0),
            WireError::Malformed,
        ),
        (
            "body one byte shorter",
            write(),
            |b| b.truncate(b.len() - 1),
            WireError::Malformed,
        ),
        (
            "payload of another length",
            write(),
            |b| b[13] = 0x10,
            WireError::Malformed,
        ),
        (
            "payload of no whole blocks",
            write(),
            |b| b[12] = 1,
            WireError::TooLong,
        ),
        (
            "payload over the limit",
            write(),
            |b| b[14] = 2,
            WireError::TooLong,
        ),
        (
            "write across chunks",
            write(),
            |b| b[HEAD_BYTES + 9] = 15,
            WireError::Malformed,
        ),
        (
            "write of no blocks",
            write(),
            |b| b[HEAD_BYTES + 17] = 0,
            WireError::Malformed,
        ),
    ];
    for (name, mut bytes, change, error) in rows {
        change(&mut bytes);
        seal(&mut bytes);
        assert_eq!(decode(&bytes), Err(error), "{name}");
    }
}

#[test]
fn body_and_history_over_their_limits_are_refused() {
    let mut long = vec![0; HEAD_BYTES + PEER_BODY_BYTES_MAX + 1];
    seal(&mut long);
    assert_eq!(decode(&long), Err(WireError::TooLong));

    let many: Vec<Reign> = (1..=PEER_REIGNS_MAX as u64)
        .map(|number| Reign {
            epoch: Epoch(number),
            start: Lsn(number),
        })
        .collect();
    let adopt = about(Body::Adopt(Adopt {
        keep: Lsn(1),
        cut: Lsn(1),
        resync_base: None,
        reigns: many,
    }));
    let mut bytes = encoded(&adopt);
    assert!(decode(&bytes).is_ok());
    bytes.extend_from_slice(&100u64.to_le_bytes());
    bytes.extend_from_slice(&100u64.to_le_bytes());
    seal(&mut bytes);
    assert_eq!(decode(&bytes), Err(WireError::Malformed));
}

/// Goal: no bytes panic or allocate beyond the limits, and what decodes encodes to the same bytes.
/// Method: damaged messages, sealed again half of the time.
#[test]
fn fuzz_any_bytes_decode_to_the_same_bytes_or_not_at_all() {
    let samples: Vec<Vec<u8>> = all().iter().map(encoded).collect();
    for (_round, mut rng) in Seeds::from_environment(2_000) {
        let mut bytes = samples[rng.usize(..samples.len())].clone();
        mutate(&mut bytes, &mut rng);
        if rng.bool() {
            seal(&mut bytes);
        }
        let Ok((message, payload_bytes)) = decode(&bytes) else {
            continue;
        };
        let mut again = Vec::new();
        assert_eq!(encode(&message, &mut again), payload_bytes);
        assert_eq!(again, bytes[..again.len()]);
    }
}
