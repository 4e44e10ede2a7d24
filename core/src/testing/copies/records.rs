//! Records and histories as the model of the copies reads them.

use super::{ATTRIBUTES, Message, VOLUME};
use crate::block::{Block, BlockRange};
use crate::limits::CHUNK_BLOCKS;
use crate::lsn::{Epoch, Lsn};
use crate::replication::Reign;
use crate::store::append::AppendBody;
use crate::testing::disk::BlockBytes;
use crate::testing::driver::{BlockRead, Record, checksums};
use crate::testing::workload::content;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

/// The greatest LSN up to which two logs are the same; what one of them knows to be committed if their
/// histories do not tell.
pub(super) fn common(one: (&[Reign], Lsn), other: (&[Reign], Lsn, Lsn)) -> Lsn {
    let (reigns, last, committed) = other;
    let mut lsn = one.1.min(last);
    while lsn > committed {
        let epoch = epoch_at(reigns, lsn);
        if epoch > Epoch(0) && epoch == epoch_at(one.0, lsn) {
            return lsn;
        }
        lsn.0 -= 1;
    }
    committed
}

pub(super) fn epoch_at(reigns: &[Reign], lsn: Lsn) -> Epoch {
    let reign = reigns.iter().rfind(|reign| reign.start <= lsn);
    reign.map_or(Epoch(0), |reign| reign.epoch)
}

/// The places that a record changes, and their values.
pub(super) fn changes(record: &Record) -> Vec<(u64, u64)> {
    match &record.body {
        AppendBody::Write { .. } | AppendBody::Chunk { .. } => {
            let first = record.body.range().expect("it has one").first.0;
            let blocks = (first..).zip(&record.blocks);
            let change = |(at, block): (u64, &Rc<BlockBytes>)| {
                (at, value_of(at, &BlockRead::Data(block.clone())))
            };
            blocks.map(change).collect()
        }
        AppendBody::Unmap(range) => (range.first.0..range.end().0).map(|at| (at, 0)).collect(),
        AppendBody::Attributes(bytes) => {
            let value = bytes.first_chunk().map_or(0, |v| u64::from_le_bytes(*v));
            vec![(ATTRIBUTES, value)]
        }
        AppendBody::Resize { .. } | AppendBody::SetEpoch { .. } => Vec::new(),
    }
}

pub(super) fn value_of(place: u64, read: &BlockRead) -> u64 {
    match read {
        BlockRead::Zero => 0,
        BlockRead::Bad => panic!("block {place} is damaged"),
        BlockRead::Data(block) => {
            let value = u64::from_le_bytes(block[..8].try_into().expect("8 bytes"));
            assert_eq!(
                block,
                &content(VOLUME, place, value),
                "a mix at block {place}"
            );
            value
        }
    }
}

/// What was read, as resync data.
pub(super) fn fills(from: Block, read: &[BlockRead], cursor: Block) -> Vec<Message> {
    let data = |read: &BlockRead| match read {
        BlockRead::Data(block) => block.clone(),
        other => panic!("{other:?} is sent as data"),
    };
    let mut at = from;
    let mut messages = Vec::new();
    for run in read.chunk_by(|a, b| (*a == BlockRead::Zero) == (*b == BlockRead::Zero)) {
        let range = range(at.0, run.len() as u64);
        at = range.end();
        if run[0] == BlockRead::Zero {
            messages.push(Message::Fill(AppendBody::Unmap(range), Vec::new(), cursor));
            continue;
        }
        let blocks: Vec<Rc<BlockBytes>> = run.iter().map(data).collect();
        let checksums = checksums(&blocks);
        let body = match <[u32; CHUNK_BLOCKS]>::try_from(checksums.as_slice()) {
            Ok(checksums) => AppendBody::Chunk {
                chunk: range.first.chunk(),
                checksums,
            },
            Err(_) => AppendBody::Write { range, checksums },
        };
        messages.push(Message::Fill(body, blocks, cursor));
    }
    messages
}

pub(super) fn range(first: u64, count: u64) -> BlockRange {
    BlockRange {
        first: Block(first),
        count: u32::try_from(count).expect("small"),
    }
}
