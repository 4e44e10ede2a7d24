//! The 4 KiB page: one header for every kind, sealed by a CRC32C that the parent page repeats.
//!
//! A page says what it is (magic, version, kind, level), where it belongs (store, own slot, first index)
//! and when it was written (frame). The parent holds its slot and CRC, so a lost, stale or misdirected
//! page write is seen, not only a flipped bit. All numbers are little endian.
//!
//! Header, 96 bytes: magic 0..4, version 4..6, kind 6, level 7, CRC 8..12 (over the page without these
//! four bytes), slot 12..16, store id 16..32, first index 32..40, frame 40..48, zeros 48..96.

use crate::checksum::{crc32c, crc32c_append};
use crate::id::StoreId;
use crate::limits::BLOCK_BYTES;
use crate::lsn::FrameSeq;

/// Bytes of a page.
pub const PAGE_BYTES: usize = BLOCK_BYTES;

/// Bytes of a page's header.
pub(super) const HEADER_BYTES: usize = 96;

/// Bytes of a page behind its header that a body may use.
pub(super) const BODY_BYTES: usize = 4000;

const MAGIC: [u8; 4] = *b"HFMP";
const VERSION: u16 = 1;

/// Index of a page in the metadata area of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSlot(pub u32);

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageKind {
    /// Entries of 50 neighbouring chunks of a volume.
    Leaf,
    /// References to map pages one level below.
    Interior,
    /// Reference counts of 1000 neighbouring physical chunks.
    Counts,
    /// References to pages of the reference tree one level below.
    CountsInterior,
    /// 31 volumes.
    Volumes,
    /// References to pages of the volume table one level below.
    VolumesInterior,
    /// A piece of a volume's attributes.
    Attributes,
}

/// A parent's knowledge of a page: its slot and its CRC. The default refers to nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRef {
    /// Slot plus one, so that zeros mean none.
    slot: u32,
    crc: u32,
}

/// Where the persisted map begins; kept in the superblock. The default is the empty map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Roots of the copies of the volume table.
    pub volumes: [PageRef; 2],
    /// Root of the reference tree.
    pub counts: PageRef,
}

/// Identity of a page, from its header or from the parent that refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageId {
    /// What it holds.
    pub kind: PageKind,
    /// 0 for pages that refer to no other of their tree.
    pub level: u8,
    /// Index of the first thing it covers: chunk of a volume, physical chunk, place in the table, piece.
    pub first: u64,
    /// Where it is.
    pub slot: PageSlot,
}

/// Why a page was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Not [`PAGE_BYTES`] long: the device did not give it.
    #[error("cannot be read")]
    Unreadable,
    /// Something else is there, or nothing.
    #[error("is no map page")]
    Magic,
    /// Written by another version.
    #[error("has version {0}, this program knows {VERSION}")]
    Version(u16),
    /// The page contradicts its own CRC.
    #[error("is damaged (checksum)")]
    Checksum,
    /// Valid, but not the version of it that the parent refers to.
    #[error("is valid but stale: its parent refers to another version")]
    Stale,
    /// Valid, but of another store.
    #[error("belongs to store {0}")]
    OtherStore(StoreId),
    /// Valid, but meant for another place.
    #[error("is another page: {0:?}")]
    OtherPage(PageId),
    /// Valid by its CRC, but no body that this program writes.
    #[error("has an impossible body")]
    Body,
}

impl PageKind {
    fn code(self) -> u8 {
        match self {
            PageKind::Leaf => 1,
            PageKind::Interior => 2,
            PageKind::Counts => 3,
            PageKind::CountsInterior => 4,
            PageKind::Volumes => 5,
            PageKind::VolumesInterior => 6,
            PageKind::Attributes => 7,
        }
    }

    fn from_code(code: u8) -> Option<PageKind> {
        Some(match code {
            1 => PageKind::Leaf,
            2 => PageKind::Interior,
            3 => PageKind::Counts,
            4 => PageKind::CountsInterior,
            5 => PageKind::Volumes,
            6 => PageKind::VolumesInterior,
            7 => PageKind::Attributes,
            _ => return None,
        })
    }
}

impl PageRef {
    /// Bytes of a reference on disk.
    pub(super) const BYTES: usize = 8;

    /// Stands for a page that was lost and has no slot any more.
    pub(super) const LOST: PageRef = PageRef {
        slot: 0,
        crc: u32::MAX,
    };

    pub(super) fn to(slot: PageSlot, crc: u32) -> PageRef {
        let slot = slot.0.checked_add(1).expect("slot counts are below 2^32");
        PageRef { slot, crc }
    }

    /// The slot, if it refers to a page.
    pub fn slot(self) -> Option<PageSlot> {
        self.slot.checked_sub(1).map(PageSlot)
    }

    /// The CRC the page has.
    pub fn crc(self) -> u32 {
        self.crc
    }

    pub(super) fn encode(self, bytes: &mut [u8]) {
        bytes[0..4].copy_from_slice(&self.slot.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.crc.to_le_bytes());
    }

    pub(super) fn decode(bytes: &[u8]) -> PageRef {
        PageRef {
            slot: u32::from_le_bytes(bytes[0..4].try_into().expect("4 bytes")),
            crc: u32::from_le_bytes(bytes[4..8].try_into().expect("4 bytes")),
        }
    }
}

impl Roots {
    /// Bytes of the roots in the superblock.
    pub const BYTES: usize = 3 * PageRef::BYTES;

    /// The bytes for the superblock.
    pub fn encode(&self) -> [u8; Roots::BYTES] {
        let mut bytes = [0; Roots::BYTES];
        let references = [self.volumes[0], self.volumes[1], self.counts];
        for (reference, to) in references
            .iter()
            .zip(bytes.chunks_exact_mut(PageRef::BYTES))
        {
            reference.encode(to);
        }
        bytes
    }

    /// Reads what [`Roots::encode`] wrote. Any bytes are some roots; the superblock's CRC guards them.
    pub fn decode(bytes: &[u8; Roots::BYTES]) -> Roots {
        let reference = |at: usize| PageRef::decode(&bytes[at * PageRef::BYTES..]);
        Roots {
            volumes: [reference(0), reference(1)],
            counts: reference(2),
        }
    }
}

/// Writes the header of the page in `bytes`, whose body is complete, and returns the page's CRC.
pub(super) fn seal(bytes: &mut [u8], store: StoreId, id: PageId, frame: FrameSeq) -> u32 {
    assert!(bytes.len() == PAGE_BYTES);
    bytes[0..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes[6] = id.kind.code();
    bytes[7] = id.level;
    bytes[12..16].copy_from_slice(&id.slot.0.to_le_bytes());
    bytes[16..32].copy_from_slice(&store.0);
    bytes[32..40].copy_from_slice(&id.first.to_le_bytes());
    bytes[40..48].copy_from_slice(&frame.0.to_le_bytes());
    bytes[48..HEADER_BYTES].fill(0);
    let crc = crc_of(bytes);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// The body of the page in `bytes`, if it is the page `id` of `store` with the CRC its parent names.
pub(super) fn open(bytes: &[u8], store: StoreId, id: PageId, crc: u32) -> Result<&[u8], PageError> {
    let (found, _) = identify(bytes, store)?;
    if found != id {
        return Err(PageError::OtherPage(found));
    }
    if crc_of(bytes) != crc {
        return Err(PageError::Stale);
    }
    Ok(&bytes[HEADER_BYTES..])
}

/// Who the page in `bytes` says it is and when it was written, if it is intact and of `store`.
pub fn identify(bytes: &[u8], store: StoreId) -> Result<(PageId, FrameSeq), PageError> {
    if bytes.len() != PAGE_BYTES {
        return Err(PageError::Unreadable);
    }
    if bytes[0..4] != MAGIC {
        return Err(PageError::Magic);
    }
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let wide = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    if crc_of(bytes) != number(8) {
        return Err(PageError::Checksum);
    }
    let version = u16::from_le_bytes([bytes[4], bytes[5]]);
    if version != VERSION {
        return Err(PageError::Version(version));
    }
    let owner = StoreId(bytes[16..32].try_into().expect("16 bytes"));
    if owner != store {
        return Err(PageError::OtherStore(owner));
    }
    let kind = PageKind::from_code(bytes[6]).ok_or(PageError::Body)?;
    if bytes[48..HEADER_BYTES].iter().any(|byte| *byte != 0) {
        return Err(PageError::Body);
    }
    let id = PageId {
        kind,
        level: bytes[7],
        first: wide(32),
        slot: PageSlot(number(12)),
    };
    Ok((id, FrameSeq(wide(40))))
}

fn crc_of(bytes: &[u8]) -> u32 {
    crc32c_append(crc32c(&bytes[..8]), &bytes[12..])
}

const _: () = assert!(HEADER_BYTES + BODY_BYTES == PAGE_BYTES);
