//! Kinds and bodies of messages.

use super::Fields;
use crate::block::{Block, BlockRange, ChunkIndex};
use crate::id::{ClusterId, NodeId, StoreId, VolumeId};
use crate::limits::{ATTRIBUTES_BYTES_MAX, CHUNK_BLOCKS, PEER_REIGNS_MAX};
use crate::lsn::{Epoch, Lsn};
use crate::peer::{Adopt, Attached, Body, DetachReason, Found, Hello, Message, Refusal};
use crate::replication::Reign;
use crate::store::append::{AppendBody, Resync, Sharing};
use alloc::vec::Vec;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSED: u8 = 3;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ACK: u8 = 5;
const ATTACH: u8 = 10;
const ATTACHED: u8 = 11;
const ADOPT: u8 = 12;
const ADOPTED: u8 = 13;
const RECORD: u8 = 14;
const COMMIT: u8 = 15;
const ACK: u8 = 16;
const FILL: u8 = 17;
const FILLED: u8 = 18;
const END_RESYNC: u8 = 19;
const RESYNCED: u8 = 20;
const DETACH: u8 = 21;
const READ_BLOCKS: u8 = 22;
const BLOCKS: u8 = 23;

const REFUSALS: [(u8, Refusal); 5] = [
    (1, Refusal::Version),
    (2, Refusal::Cluster),
    (3, Refusal::Store),
    (4, Refusal::StoreFailed),
    (5, Refusal::Busy),
];

const REASONS: [(u8, DetachReason); 9] = [
    (1, DetachReason::StaleEpoch),
    (2, DetachReason::NotAssigned),
    (3, DetachReason::NotFound),
    (4, DetachReason::StoreFailed),
    (5, DetachReason::OutOfOrder),
    (6, DetachReason::Diverged),
    (7, DetachReason::Fenced),
    (8, DetachReason::NotMember),
    (9, DetachReason::Busy),
];

/// Appends the body, gives what belongs into the head.
pub(super) fn encode(message: &Message, out: &mut Vec<u8>) -> Fields {
    let mut fields = Fields {
        kind: 0,
        volume: VolumeId([0; 16]),
        epoch: Epoch(0),
        first: 0,
        second: 0,
    };
    match message {
        Message::Hello(hello) => {
            fields.kind = HELLO;
            out.extend_from_slice(&hello.version_min.to_le_bytes());
            out.extend_from_slice(&hello.version_max.to_le_bytes());
            out.extend_from_slice(&hello.cluster.0);
            out.extend_from_slice(&hello.from_node.0);
            out.extend_from_slice(&hello.from_store.0);
            out.extend_from_slice(&hello.to_store.0);
        }
        Message::Welcome { version, store } => {
            fields.kind = WELCOME;
            out.extend_from_slice(&version.to_le_bytes());
            out.extend_from_slice(&store.0);
        }
        Message::Refused(refusal) => {
            fields.kind = REFUSED;
            out.push(code_of(&REFUSALS, *refusal));
        }
        Message::Heartbeat { seq } => (fields.kind, fields.first) = (HEARTBEAT, *seq),
        Message::HeartbeatAck { seq } => (fields.kind, fields.first) = (HEARTBEAT_ACK, *seq),
        Message::Volume {
            volume,
            epoch,
            body,
        } => {
            (fields.volume, fields.epoch) = (*volume, *epoch);
            encode_body(body, &mut fields, out);
        }
    }
    fields
}

fn encode_body(body: &Body, fields: &mut Fields, out: &mut Vec<u8>) {
    let Fields {
        kind,
        first,
        second,
        ..
    } = fields;
    match body {
        Body::Attach => *kind = ATTACH,
        Body::Attached(attached) => {
            (*kind, *first, *second) = (ATTACHED, attached.last.0, attached.committed.0);
            put_u64(out, attached.size_blocks);
            let resync = attached.resync;
            out.push(u8::from(resync.is_some()));
            if let Some(resync) = resync {
                put_u64(out, resync.base.0);
                put_u64(out, resync.cursor.0);
            }
            put_reigns(out, &attached.reigns);
        }
        Body::Adopt(adopt) => {
            (*kind, *first, *second) = (ADOPT, adopt.keep.0, adopt.cut.0);
            out.push(u8::from(adopt.resync_base.is_some()));
            if let Some(base) = adopt.resync_base {
                put_u64(out, base.0);
            }
            put_reigns(out, &adopt.reigns);
        }
        Body::Adopted { durable } => (*kind, *first) = (ADOPTED, durable.0),
        Body::Record {
            lsn,
            epoch,
            committed,
            body,
        } => {
            (*kind, *first, *second) = (RECORD, lsn.0, committed.0);
            put_u64(out, epoch.0);
            put_append(out, body);
        }
        Body::Commit { up_to } => (*kind, *first) = (COMMIT, up_to.0),
        Body::Ack { durable } => (*kind, *first) = (ACK, durable.0),
        Body::Fill { body, cursor } => {
            (*kind, *first) = (FILL, cursor.0);
            put_append(out, body);
        }
        Body::Filled { cursor, count } => (*kind, *first, *second) = (FILLED, cursor.0, *count),
        Body::EndResync => *kind = END_RESYNC,
        Body::Resynced => *kind = RESYNCED,
        Body::Detach(reason) => {
            *kind = DETACH;
            out.push(code_of(&REASONS, *reason));
        }
        Body::ReadBlocks { id, range } => {
            (*kind, *first, *second) = (READ_BLOCKS, *id, range.first.0);
            out.extend_from_slice(&range.count.to_le_bytes());
        }
        Body::Blocks { id, range, found } => {
            (*kind, *first, *second) = (BLOCKS, *id, range.first.0);
            out.extend_from_slice(&range.count.to_le_bytes());
            match found {
                Found::Nothing => out.push(0),
                Found::Data(checksums) => {
                    assert_eq!(checksums.len(), range.count as usize);
                    out.push(1);
                    put_checksums(out, checksums);
                }
            }
        }
    }
}

fn put_append(out: &mut Vec<u8>, body: &AppendBody) {
    match body {
        AppendBody::Write { range, checksums } => {
            assert_eq!(checksums.len(), range.count as usize);
            out.push(1);
            put_range(out, *range);
            put_checksums(out, checksums);
        }
        AppendBody::Chunk { chunk, checksums } => {
            out.push(2);
            put_u64(out, chunk.0);
            put_checksums(out, checksums);
        }
        AppendBody::Unmap(range) => {
            out.push(3);
            put_range(out, *range);
        }
        AppendBody::Attributes(bytes) => {
            out.push(4);
            out.extend_from_slice(bytes);
        }
        AppendBody::Resize { size_blocks } => {
            out.push(5);
            put_u64(out, *size_blocks);
        }
        AppendBody::SetEpoch { sharing } => {
            out.push(6);
            out.push(u8::from(*sharing == Sharing::Shared));
        }
    }
}

fn put_reigns(out: &mut Vec<u8>, reigns: &[Reign]) {
    assert!(reigns.len() <= PEER_REIGNS_MAX);
    for reign in reigns {
        put_u64(out, reign.epoch.0);
        put_u64(out, reign.start.0);
    }
}

fn put_range(out: &mut Vec<u8>, range: BlockRange) {
    put_u64(out, range.first.0);
    out.extend_from_slice(&range.count.to_le_bytes());
}

fn put_checksums(out: &mut Vec<u8>, checksums: &[u32]) {
    for checksum in checksums {
        out.extend_from_slice(&checksum.to_le_bytes());
    }
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn code_of<T: Copy + PartialEq>(table: &[(u8, T)], value: T) -> u8 {
    let row = table.iter().find(|(_, other)| *other == value);
    row.expect("the table has every value").0
}

fn value_of<T: Copy>(table: &[(u8, T)], code: u8) -> Option<T> {
    table
        .iter()
        .find(|(other, _)| *other == code)
        .map(|(_, value)| *value)
}

/// The message, or `None` when anything in it does not exist, or is left over.
pub(super) fn decode(fields: &Fields, mut bytes: &[u8]) -> Option<Message> {
    let bytes = &mut bytes;
    let message = if fields.kind < ATTACH {
        (fields.volume == VolumeId([0; 16]) && fields.epoch == Epoch(0)).then_some(())?;
        decode_plain(fields, bytes)?
    } else {
        Message::Volume {
            volume: fields.volume,
            epoch: fields.epoch,
            body: decode_body(fields, bytes)?,
        }
    };
    bytes.is_empty().then_some(message)
}

fn decode_plain(fields: &Fields, bytes: &mut &[u8]) -> Option<Message> {
    unused(fields.second)?;
    let seq = fields.first;
    if !matches!(fields.kind, HEARTBEAT | HEARTBEAT_ACK) {
        unused(seq)?;
    }
    Some(match fields.kind {
        HELLO => Message::Hello(Hello {
            version_min: u16::from_le_bytes(take(bytes)?),
            version_max: u16::from_le_bytes(take(bytes)?),
            cluster: ClusterId(take(bytes)?),
            from_node: NodeId(take(bytes)?),
            from_store: StoreId(take(bytes)?),
            to_store: StoreId(take(bytes)?),
        }),
        WELCOME => Message::Welcome {
            version: u16::from_le_bytes(take(bytes)?),
            store: StoreId(take(bytes)?),
        },
        REFUSED => Message::Refused(value_of(&REFUSALS, take_u8(bytes)?)?),
        HEARTBEAT => Message::Heartbeat { seq },
        HEARTBEAT_ACK => Message::HeartbeatAck { seq },
        _ => return None,
    })
}

fn decode_body(fields: &Fields, bytes: &mut &[u8]) -> Option<Body> {
    let (first, second) = (fields.first, fields.second);
    match fields.kind {
        ATTACHED | ADOPT | RECORD | FILLED | READ_BLOCKS | BLOCKS => {}
        ADOPTED | COMMIT | ACK | FILL => unused(second)?,
        _ => {
            unused(first)?;
            unused(second)?;
        }
    }
    Some(match fields.kind {
        ATTACH => Body::Attach,
        ATTACHED => Body::Attached(take_attached(first, second, bytes)?),
        ADOPT => Body::Adopt(take_adopt(first, second, bytes)?),
        ADOPTED => Body::Adopted {
            durable: Lsn(first),
        },
        RECORD => Body::Record {
            lsn: Lsn(first),
            committed: Lsn(second),
            epoch: Epoch(take_u64(bytes)?),
            body: take_append(bytes)?,
        },
        COMMIT => Body::Commit { up_to: Lsn(first) },
        ACK => Body::Ack {
            durable: Lsn(first),
        },
        FILL => match take_append(bytes)? {
            AppendBody::SetEpoch { .. } => return None,
            body => Body::Fill {
                body,
                cursor: Block(first),
            },
        },
        FILLED => Body::Filled {
            cursor: Block(first),
            count: second,
        },
        END_RESYNC => Body::EndResync,
        RESYNCED => Body::Resynced,
        DETACH => Body::Detach(value_of(&REASONS, take_u8(bytes)?)?),
        READ_BLOCKS => Body::ReadBlocks {
            id: first,
            range: take_run(Block(second), bytes)?,
        },
        BLOCKS => {
            let range = take_run(Block(second), bytes)?;
            let found = match take_flag(bytes)? {
                false => Found::Nothing,
                true => Found::Data(take_checksums(bytes, range.count)?),
            };
            Body::Blocks {
                id: first,
                range,
                found,
            }
        }
        _ => return None,
    })
}

fn take_attached(last: u64, committed: u64, bytes: &mut &[u8]) -> Option<Attached> {
    Some(Attached {
        last: Lsn(last),
        committed: Lsn(committed),
        size_blocks: take_u64(bytes)?,
        resync: match take_flag(bytes)? {
            false => None,
            true => Some(Resync {
                base: Lsn(take_u64(bytes)?),
                cursor: Block(take_u64(bytes)?),
            }),
        },
        reigns: take_reigns(bytes)?,
    })
}

fn take_adopt(keep: u64, cut: u64, bytes: &mut &[u8]) -> Option<Adopt> {
    Some(Adopt {
        keep: Lsn(keep),
        cut: Lsn(cut),
        resync_base: match take_flag(bytes)? {
            false => None,
            true => Some(Lsn(take_u64(bytes)?)),
        },
        reigns: take_reigns(bytes)?,
    })
}

fn take_append(bytes: &mut &[u8]) -> Option<AppendBody> {
    Some(match take_u8(bytes)? {
        1 => {
            let first = Block(take_u64(bytes)?);
            let range = take_run(first, bytes)?;
            // A record never crosses a chunk; the last block is within bounds because of take_run.
            let last = Block(range.end().0 - 1);
            (first.chunk() == last.chunk()).then_some(())?;
            AppendBody::Write {
                range,
                checksums: take_checksums(bytes, range.count)?,
            }
        }
        2 => {
            let chunk = ChunkIndex(take_u64(bytes)?);
            (chunk.0 < u64::MAX / CHUNK_BLOCKS as u64).then_some(())?;
            let mut checksums = [0; CHUNK_BLOCKS];
            for checksum in &mut checksums {
                *checksum = u32::from_le_bytes(take(bytes)?);
            }
            AppendBody::Chunk { chunk, checksums }
        }
        3 => {
            let range = BlockRange {
                first: Block(take_u64(bytes)?),
                count: u32::from_le_bytes(take(bytes)?),
            };
            sound(range)?;
            AppendBody::Unmap(range)
        }
        4 => {
            (bytes.len() <= ATTRIBUTES_BYTES_MAX).then_some(())?;
            AppendBody::Attributes(core::mem::take(bytes).to_vec())
        }
        5 => AppendBody::Resize {
            size_blocks: take_u64(bytes)?,
        },
        6 => AppendBody::SetEpoch {
            sharing: match take_flag(bytes)? {
                false => Sharing::Alone,
                true => Sharing::Shared,
            },
        },
        _ => return None,
    })
}

/// Ascending, and nothing behind them.
fn take_reigns(bytes: &mut &[u8]) -> Option<Vec<Reign>> {
    (bytes.len() <= PEER_REIGNS_MAX * 16).then_some(())?;
    let mut reigns: Vec<Reign> = Vec::with_capacity(bytes.len() / 16);
    while !bytes.is_empty() {
        let reign = Reign {
            epoch: Epoch(take_u64(bytes)?),
            start: Lsn(take_u64(bytes)?),
        };
        let ascends = reigns
            .last()
            .is_none_or(|last| last.epoch < reign.epoch && last.start < reign.start);
        ascends.then_some(())?;
        reigns.push(reign);
    }
    Some(reigns)
}

/// A run of at most a chunk's length.
fn take_run(first: Block, bytes: &mut &[u8]) -> Option<BlockRange> {
    let count = u32::from_le_bytes(take(bytes)?);
    let range = BlockRange { first, count };
    sound(range)?;
    (count as usize <= CHUNK_BLOCKS).then_some(range)
}

fn sound(range: BlockRange) -> Option<()> {
    let end = range.first.0.checked_add(u64::from(range.count));
    (range.count > 0 && end.is_some()).then_some(())
}

fn take_checksums(bytes: &mut &[u8], count: u32) -> Option<Vec<u32>> {
    let count = count as usize;
    let (field, rest) = bytes.split_at_checked(4 * count)?;
    *bytes = rest;
    let checksum = |four: &[u8]| u32::from_le_bytes(four.try_into().expect("four bytes"));
    Some(field.chunks_exact(4).map(checksum).collect())
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (field, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*field)
}

fn take_u8(bytes: &mut &[u8]) -> Option<u8> {
    take::<1>(bytes).map(|[byte]| byte)
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(u64::from_le_bytes)
}

fn take_flag(bytes: &mut &[u8]) -> Option<bool> {
    match take_u8(bytes)? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// A number that this kind does not have.
fn unused(number: u64) -> Option<()> {
    (number == 0).then_some(())
}
