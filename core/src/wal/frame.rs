//! Bytes of a log frame. Little-endian.
//!
//! ```text
//! header   0 magic "HFFRAME1"   8 version u32       12 header bytes u32   16 store id [16]
//!         32 frame number u64  40 position u64      48 chain u32 (header CRC of the frame before)
//!         52 record count u32  56 record bytes u32  60 payload blocks u32
//!         64 CRC32C of the header with this field zero               68 zero .. 80 records, zero padding
//! record   0 kind u8 (+ 128: resync data)   1 volume [16]  17 epoch u64  25 LSN u64  33 (resync cursor u64,) body
//! body     Write: first block u64, count u16, count x CRC32C (its payload follows in the frame)
//!          Map: chunk index u64, physical chunk u32, 16 x CRC32C      Unmap: first block u64, count u32
//!          Create: size in blocks u64, sharing u8    Resize: size in blocks u64    SetEpoch: sharing u8
//!          Attributes: length u32, bytes    Remove, Promise, EndResync, Commit: nothing
//!          Adopt: keep LSN u64, resync u8, its base u64, its cursor u64, count u8, count x (epoch u64, start LSN u64)
//! ```
//! Of Promise, Adopt, EndResync, Commit and resync data the LSN is no record's own: the last one before it, for
//! Adopt the position from there on, for Commit the last committed one.
//!
//! The position names lap and offset in one number, so a frame of an earlier lap, of another place or
//! of another store is never taken for one of this lap. The chain binds a frame to the one before it.

use super::ring::Position;
use crate::block::{Block, BlockRange, ChunkIndex, PhysicalChunk};
use crate::checksum::{crc32c, crc32c_append};
use crate::id::{StoreId, VolumeId};
use crate::limits::{
    ATTRIBUTES_BYTES_MAX, BLOCK_BYTES, CHUNK_BLOCKS, FRAME_HEADER_BYTES_MAX,
    FRAME_PAYLOAD_BYTES_MAX, FRAME_RECORDS_MAX,
};
use crate::lsn::{Epoch, FrameSeq, Lsn};
use crate::replication::Reign;
use crate::store::append::{Resync, Sharing};
use alloc::vec;
use alloc::vec::Vec;

const MAGIC: [u8; 8] = *b"HFFRAME1";
const VERSION: u32 = 2;
const HEAD_BYTES: usize = 80;
const CRC_AT: usize = 64;
const RECORD_HEAD_BYTES: usize = 33;
const CURSOR_BYTES: usize = 8;
/// Set in the kind of a record that is resync data.
const FILL: u8 = 0x80;

/// Reigns in one Adopt record at most.
pub const ADOPTED_REIGNS_MAX: usize = 64;

const _: () = assert!(
    HEAD_BYTES + FRAME_RECORDS_MAX * (RECORD_HEAD_BYTES + CURSOR_BYTES + 12 + 4 * CHUNK_BLOCKS)
        <= FRAME_HEADER_BYTES_MAX
);
const _: () = assert!(
    HEAD_BYTES + RECORD_HEAD_BYTES + CURSOR_BYTES + 4 + ATTRIBUTES_BYTES_MAX + BLOCK_BYTES
        <= FRAME_HEADER_BYTES_MAX
);

/// What identifies a frame besides its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// The store it belongs to.
    pub store: StoreId,
    /// Its number.
    pub seq: FrameSeq,
    /// Where it is, lap included.
    pub position: Position,
    /// Chain value of the frame before it.
    pub previous: u32,
}

/// One decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Identity.
    pub head: FrameHead,
    /// Chain value for the frame that follows.
    pub chain: u32,
    /// Bytes of the header, whole blocks.
    pub header_bytes: usize,
    /// Blocks of payload behind the header.
    pub payload_blocks: usize,
    /// The records in log order.
    pub records: Vec<Record>,
}

impl Frame {
    /// Bytes of the whole frame.
    pub fn bytes(&self) -> u64 {
        (self.header_bytes + self.payload_blocks * BLOCK_BYTES) as u64
    }
}

/// Who a record belongs to and its place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// The volume.
    pub volume: VolumeId,
    /// The reign it was written in (the one that begins, for `SetEpoch` and `Create`).
    pub epoch: Epoch,
    /// Its number in the volume, or its place between them.
    pub lsn: Lsn,
    /// Resync data: everything below this block has been filled.
    pub fill: Option<Block>,
}

/// How a copy comes to follow a reign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// Records above it that are not committed are dropped.
    pub keep: Lsn,
    /// The copy lacks changes from here on.
    pub resync: Option<Resync>,
    /// The primary's reigns up to the position that is adopted, ascending.
    pub reigns: Vec<Reign>,
}

impl Adoption {
    /// Whether a copy that has `committed` and `appended` can adopt the position `cut` so.
    pub fn fits(&self, committed: Lsn, appended: Lsn, cut: Lsn) -> bool {
        let rising =
            |pair: &[Reign]| pair[0].epoch < pair[1].epoch && pair[0].start < pair[1].start;
        let jumps = self.keep < cut;
        let last = self.reigns.last();
        (committed..=appended).contains(&self.keep)
            && self.keep <= cut
            && (!jumps || self.resync.is_some())
            && self.resync.is_none_or(|resync| resync.base <= cut)
            && self.reigns.len() <= ADOPTED_REIGNS_MAX
            && self.reigns.windows(2).all(rising)
            && last.is_none_or(|reign| reign.start <= cut)
    }
}

/// One decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose and when.
    pub head: RecordHead,
    /// What.
    pub body: RecordBody,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordBody {
    /// Blocks whose payload is in the frame; one checksum each.
    Write {
        /// First block.
        first: Block,
        /// CRC32C of each.
        checksums: Vec<u32>,
    },
    /// A whole chunk, already written to a fresh physical chunk.
    Map {
        /// Which chunk of the volume.
        chunk: ChunkIndex,
        /// Where its data is.
        physical: PhysicalChunk,
        /// CRC32C of each of its blocks.
        checksums: [u32; CHUNK_BLOCKS],
    },
    /// These blocks are zeros.
    Unmap(BlockRange),
    /// The volume begins to exist.
    Create {
        /// Its size in blocks.
        size_blocks: u64,
        /// Whether it has other copies.
        sharing: Sharing,
    },
    /// The volume has another size.
    Resize {
        /// Its size in blocks.
        size_blocks: u64,
    },
    /// A reign begins; the record's epoch is the new one. Says who decides what is committed.
    SetEpoch(Sharing),
    /// The volume ceases to exist.
    Remove,
    /// Its attributes blob.
    Attributes(Vec<u8>),
    /// No epoch below the record's is obeyed.
    Promise,
    /// The copy follows the record's epoch from the record's position on.
    Adopt(Adoption),
    /// The copy lacks nothing any more.
    EndResync,
    /// Records up to this LSN are known to be committed.
    Commit,
}

/// A record to be encoded; borrows, so that the hot path copies nothing.
#[derive(Clone, Copy, Debug)]
pub enum RecordRef<'a> {
    /// As [`RecordBody::Write`].
    Write {
        /// First block.
        first: Block,
        /// CRC32C of each.
        checksums: &'a [u32],
    },
    /// As [`RecordBody::Map`].
    Map {
        /// Which chunk of the volume.
        chunk: ChunkIndex,
        /// Where its data is.
        physical: PhysicalChunk,
        /// CRC32C of each of its blocks.
        checksums: &'a [u32; CHUNK_BLOCKS],
    },
    /// As [`RecordBody::Unmap`].
    Unmap(BlockRange),
    /// As [`RecordBody::Create`].
    Create {
        /// Its size in blocks.
        size_blocks: u64,
        /// Whether it has other copies.
        sharing: Sharing,
    },
    /// As [`RecordBody::Resize`].
    Resize {
        /// Its size in blocks.
        size_blocks: u64,
    },
    /// As [`RecordBody::SetEpoch`].
    SetEpoch(Sharing),
    /// As [`RecordBody::Remove`].
    Remove,
    /// As [`RecordBody::Attributes`].
    Attributes(&'a [u8]),
    /// As [`RecordBody::Promise`].
    Promise,
    /// As [`RecordBody::Adopt`].
    Adopt(&'a Adoption),
    /// As [`RecordBody::EndResync`].
    EndResync,
    /// As [`RecordBody::Commit`].
    Commit,
}

impl RecordRef<'_> {
    /// Bytes of the record in a header.
    pub fn header_bytes(&self) -> usize {
        RECORD_HEAD_BYTES
            + match self {
                RecordRef::Write { checksums, .. } => 10 + 4 * checksums.len(),
                RecordRef::Map { .. } => 12 + 4 * CHUNK_BLOCKS,
                RecordRef::Unmap(_) => 12,
                RecordRef::Create { .. } => 9,
                RecordRef::Resize { .. } => 8,
                RecordRef::SetEpoch(_) => 1,
                RecordRef::Attributes(bytes) => 4 + bytes.len(),
                RecordRef::Adopt(adoption) => 26 + 16 * adoption.reigns.len(),
                RecordRef::Remove
                | RecordRef::Promise
                | RecordRef::EndResync
                | RecordRef::Commit => 0,
            }
    }

    /// Blocks of payload that follow in the frame.
    pub fn payload_blocks(&self) -> usize {
        match self {
            RecordRef::Write { checksums, .. } => checksums.len(),
            _ => 0,
        }
    }

    fn kind(&self) -> u8 {
        match self {
            RecordRef::Write { .. } => 1,
            RecordRef::Map { .. } => 2,
            RecordRef::Unmap(_) => 3,
            RecordRef::Create { .. } => 4,
            RecordRef::Resize { .. } => 5,
            RecordRef::SetEpoch(_) => 6,
            RecordRef::Remove => 7,
            RecordRef::Attributes(_) => 8,
            RecordRef::Promise => 9,
            RecordRef::Adopt(_) => 10,
            RecordRef::EndResync => 11,
            RecordRef::Commit => 12,
        }
    }
}

/// Collects the records of one frame. Hot path: one allocation per frame.
#[derive(Debug)]
pub struct FrameBuilder {
    header: Vec<u8>,
    records: u32,
    payload_blocks: usize,
}

impl Default for FrameBuilder {
    fn default() -> Self {
        let mut header = Vec::with_capacity(BLOCK_BYTES);
        header.resize(HEAD_BYTES, 0);
        FrameBuilder {
            header,
            records: 0,
            payload_blocks: 0,
        }
    }
}

impl FrameBuilder {
    /// Bytes of the frame if `record` joined it, or `None` when a limit forbids that.
    pub fn bytes_with(&self, head: &RecordHead, record: &RecordRef<'_>) -> Option<u64> {
        let cursor = if head.fill.is_some() { CURSOR_BYTES } else { 0 };
        let header = self.header.len() + record.header_bytes() + cursor;
        let header = header.next_multiple_of(BLOCK_BYTES);
        let payload = (self.payload_blocks + record.payload_blocks()) * BLOCK_BYTES;
        let fits = header <= FRAME_HEADER_BYTES_MAX
            && payload <= FRAME_PAYLOAD_BYTES_MAX
            && (self.records as usize) < FRAME_RECORDS_MAX;
        fits.then_some((header + payload) as u64)
    }

    /// Adds a record; [`Self::bytes_with`] allowed it.
    pub fn push(&mut self, head: RecordHead, record: &RecordRef<'_>) {
        let bytes = &mut self.header;
        bytes.push(record.kind() | if head.fill.is_some() { FILL } else { 0 });
        bytes.extend_from_slice(&head.volume.0);
        bytes.extend_from_slice(&head.epoch.0.to_le_bytes());
        bytes.extend_from_slice(&head.lsn.0.to_le_bytes());
        if let Some(cursor) = head.fill {
            bytes.extend_from_slice(&cursor.0.to_le_bytes());
        }
        match *record {
            RecordRef::Write { first, checksums } => {
                let count = u16::try_from(checksums.len()).expect("a frame has fewer blocks");
                bytes.extend_from_slice(&first.0.to_le_bytes());
                bytes.extend_from_slice(&count.to_le_bytes());
                extend_checksums(bytes, checksums);
            }
            RecordRef::Map {
                chunk,
                physical,
                checksums,
            } => {
                bytes.extend_from_slice(&chunk.0.to_le_bytes());
                bytes.extend_from_slice(&physical.0.to_le_bytes());
                extend_checksums(bytes, checksums);
            }
            RecordRef::Unmap(range) => {
                bytes.extend_from_slice(&range.first.0.to_le_bytes());
                bytes.extend_from_slice(&range.count.to_le_bytes());
            }
            RecordRef::Create {
                size_blocks,
                sharing,
            } => {
                bytes.extend_from_slice(&size_blocks.to_le_bytes());
                bytes.push(sharing_code(sharing));
            }
            RecordRef::Resize { size_blocks } => {
                bytes.extend_from_slice(&size_blocks.to_le_bytes());
            }
            RecordRef::SetEpoch(sharing) => bytes.push(sharing_code(sharing)),
            RecordRef::Adopt(adoption) => extend_adoption(bytes, adoption),
            RecordRef::Remove | RecordRef::Promise | RecordRef::EndResync | RecordRef::Commit => {}
            RecordRef::Attributes(blob) => {
                let length = u32::try_from(blob.len()).expect("bounded by ATTRIBUTES_BYTES_MAX");
                bytes.extend_from_slice(&length.to_le_bytes());
                bytes.extend_from_slice(blob);
            }
        }
        self.records += 1;
        self.payload_blocks += record.payload_blocks();
    }

    /// Bytes of the whole frame as it is.
    pub fn bytes(&self) -> u64 {
        let header = self.header.len().next_multiple_of(BLOCK_BYTES);
        (header + self.payload_blocks * BLOCK_BYTES) as u64
    }

    /// The header blocks, and the chain value for the next frame.
    pub fn finish(self, head: FrameHead) -> (Vec<u8>, u32) {
        let mut header = self.header;
        let record_bytes = header.len() - HEAD_BYTES;
        header.resize(header.len().next_multiple_of(BLOCK_BYTES), 0);
        let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(16, &head.store.0);
        put(32, &head.seq.0.to_le_bytes());
        put(40, &head.position.0.to_le_bytes());
        put(48, &head.previous.to_le_bytes());
        put(52, &self.records.to_le_bytes());
        put(56, &narrow(record_bytes).to_le_bytes());
        put(60, &narrow(self.payload_blocks).to_le_bytes());
        let header_bytes = narrow(header.len());
        header[12..16].copy_from_slice(&header_bytes.to_le_bytes());
        let crc = header_checksum(&header);
        header[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        (header, crc)
    }
}

/// The frame that formatting puts at the start of a segment: older than any other, with nothing in it.
pub fn blank(store: StoreId, position: Position) -> Vec<u8> {
    let (header, _) = FrameBuilder::default().finish(FrameHead {
        store,
        seq: FrameSeq(0),
        position,
        previous: 0,
    });
    header
}

/// Decodes the frame that begins at the start of `bytes`: header and records, not the payload.
/// `None`: no valid header of this store begins here.
pub fn decode(bytes: &[u8], store: StoreId) -> Option<Frame> {
    if bytes.len() < BLOCK_BYTES || bytes[..8] != MAGIC || bytes[16..32] != store.0 {
        return None;
    }
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let header_bytes = u32_at(12) as usize;
    let (record_bytes, payload_blocks) = (u32_at(56) as usize, u32_at(60) as usize);
    let sound = u32_at(8) == VERSION
        && header_bytes.is_multiple_of(BLOCK_BYTES)
        && (BLOCK_BYTES..=FRAME_HEADER_BYTES_MAX).contains(&header_bytes)
        && record_bytes <= header_bytes - HEAD_BYTES
        && payload_blocks <= FRAME_PAYLOAD_BYTES_MAX / BLOCK_BYTES
        && bytes.len() >= header_bytes + payload_blocks * BLOCK_BYTES;
    if !sound || header_checksum(&bytes[..header_bytes]) != u32_at(CRC_AT) {
        return None;
    }
    let records = decode_records(
        &bytes[HEAD_BYTES..HEAD_BYTES + record_bytes],
        u32_at(52) as usize,
        payload_blocks,
    )?;
    Some(Frame {
        head: FrameHead {
            store,
            seq: FrameSeq(u64_at(32)),
            position: Position(u64_at(40)),
            previous: u32_at(48),
        },
        chain: u32_at(CRC_AT),
        header_bytes,
        payload_blocks,
        records,
    })
}

/// The first payload block (index in the frame's payload) whose checksum is wrong. `bytes` begins
/// with the frame.
pub fn first_bad_payload(frame: &Frame, bytes: &[u8]) -> Option<usize> {
    let end = frame.header_bytes + frame.payload_blocks * BLOCK_BYTES;
    let payload = &bytes[frame.header_bytes..end];
    let checksums = frame.records.iter().flat_map(|record| match &record.body {
        RecordBody::Write { checksums, .. } => checksums.as_slice(),
        _ => &[],
    });
    payload
        .chunks_exact(BLOCK_BYTES)
        .zip(checksums)
        .position(|(block, checksum)| crc32c(block) != *checksum)
}

fn header_checksum(header: &[u8]) -> u32 {
    let crc = crc32c_append(crc32c(&header[..CRC_AT]), &[0; 4]);
    crc32c_append(crc, &header[CRC_AT + 4..])
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("frame fields are bounded by FRAME_BYTES_MAX")
}

fn extend_checksums(bytes: &mut Vec<u8>, checksums: &[u32]) {
    for checksum in checksums {
        bytes.extend_from_slice(&checksum.to_le_bytes());
    }
}

fn sharing_code(sharing: Sharing) -> u8 {
    match sharing {
        Sharing::Alone => 0,
        Sharing::Shared => 1,
    }
}

fn extend_adoption(bytes: &mut Vec<u8>, adoption: &Adoption) {
    let count = u8::try_from(adoption.reigns.len()).expect("at most ADOPTED_REIGNS_MAX");
    let resync = adoption.resync.unwrap_or_default();
    bytes.extend_from_slice(&adoption.keep.0.to_le_bytes());
    bytes.push(u8::from(adoption.resync.is_some()));
    bytes.extend_from_slice(&resync.base.0.to_le_bytes());
    bytes.extend_from_slice(&resync.cursor.0.to_le_bytes());
    bytes.push(count);
    for reign in &adoption.reigns {
        bytes.extend_from_slice(&reign.epoch.0.to_le_bytes());
        bytes.extend_from_slice(&reign.start.0.to_le_bytes());
    }
}

fn decode_records(mut bytes: &[u8], count: usize, payload_blocks: usize) -> Option<Vec<Record>> {
    if count > FRAME_RECORDS_MAX {
        return None;
    }
    let mut records = Vec::with_capacity(count);
    let mut blocks = 0;
    for _ in 0..count {
        let record = decode_record(&mut bytes)?;
        if let RecordBody::Write { checksums, .. } = &record.body {
            blocks += checksums.len();
        }
        records.push(record);
    }
    (bytes.is_empty() && blocks == payload_blocks).then_some(records)
}

fn decode_record(bytes: &mut &[u8]) -> Option<Record> {
    let [kind] = take::<1>(bytes)?;
    let mut head = RecordHead {
        volume: VolumeId(take(bytes)?),
        epoch: Epoch(take_u64(bytes)?),
        lsn: Lsn(take_u64(bytes)?),
        fill: None,
    };
    if kind & FILL != 0 {
        head.fill = Some(Block(take_u64(bytes)?));
    }
    let body = decode_body(kind & !FILL, bytes)?;
    let may_fill = matches!(
        body,
        RecordBody::Write { .. }
            | RecordBody::Map { .. }
            | RecordBody::Unmap(_)
            | RecordBody::Resize { .. }
            | RecordBody::Attributes(_)
    );
    (may_fill || head.fill.is_none()).then_some(Record { head, body })
}

fn decode_body(kind: u8, bytes: &mut &[u8]) -> Option<RecordBody> {
    Some(match kind {
        1 => {
            let first = Block(take_u64(bytes)?);
            let count = u16::from_le_bytes(take(bytes)?) as usize;
            let mut checksums = vec![0; count];
            take_checksums(bytes, &mut checksums)?;
            RecordBody::Write { first, checksums }
        }
        2 => {
            let chunk = ChunkIndex(take_u64(bytes)?);
            let physical = PhysicalChunk(take_u32(bytes)?);
            let mut checksums = [0; CHUNK_BLOCKS];
            take_checksums(bytes, &mut checksums)?;
            RecordBody::Map {
                chunk,
                physical,
                checksums,
            }
        }
        3 => RecordBody::Unmap(BlockRange {
            first: Block(take_u64(bytes)?),
            count: take_u32(bytes)?,
        }),
        4 => RecordBody::Create {
            size_blocks: take_u64(bytes)?,
            sharing: take_sharing(bytes)?,
        },
        5 => RecordBody::Resize {
            size_blocks: take_u64(bytes)?,
        },
        6 => RecordBody::SetEpoch(take_sharing(bytes)?),
        7 => RecordBody::Remove,
        8 => {
            let length = take_u32(bytes)? as usize;
            let (blob, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            RecordBody::Attributes(blob.to_vec())
        }
        9 => RecordBody::Promise,
        10 => RecordBody::Adopt(take_adoption(bytes)?),
        11 => RecordBody::EndResync,
        12 => RecordBody::Commit,
        _ => return None,
    })
}

fn take_sharing(bytes: &mut &[u8]) -> Option<Sharing> {
    match take(bytes)? {
        [0] => Some(Sharing::Alone),
        [1] => Some(Sharing::Shared),
        _ => None,
    }
}

fn take_adoption(bytes: &mut &[u8]) -> Option<Adoption> {
    let keep = Lsn(take_u64(bytes)?);
    let [resyncs] = take(bytes)?;
    let resync = Resync {
        base: Lsn(take_u64(bytes)?),
        cursor: Block(take_u64(bytes)?),
    };
    let [count] = take(bytes)?;
    let mut reigns = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        reigns.push(Reign {
            epoch: Epoch(take_u64(bytes)?),
            start: Lsn(take_u64(bytes)?),
        });
    }
    let sound = match resyncs {
        0 => resync == Resync::default(),
        code => code == 1,
    };
    let sound = sound && reigns.len() <= ADOPTED_REIGNS_MAX;
    sound.then_some(Adoption {
        keep,
        resync: (resyncs == 1).then_some(resync),
        reigns,
    })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (field, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*field)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes).map(u32::from_le_bytes)
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes).map(u64::from_le_bytes)
}

fn take_checksums(bytes: &mut &[u8], checksums: &mut [u32]) -> Option<()> {
    for checksum in checksums {
        *checksum = take_u32(bytes)?;
    }
    Some(())
}

#[cfg(test)]
mod tests;
