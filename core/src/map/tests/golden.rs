//! Golden bytes of each page kind: a change of the format is seen here, and bumps the version.

use super::super::page::{PageKind, identify};
use super::{Disk, checkpoint, geometry, record};
use crate::block::{Block, ChunkIndex, PhysicalChunk};
use crate::lsn::{Epoch, FrameSeq, Lsn};
use crate::map::entry::Entry;
use crate::map::{CopyRecord, Map, VolumeRecord};
use crate::replication::Reign;
use crate::store::append::{Resync, Sharing};
use std::fmt::Write as _;
use std::string::String;

/// A volume with two chunks in two leaves, a removed volume, attributes; more than 1000 chunks.
fn sample() -> Disk {
    let (mut map, mut disk) = (Map::new(geometry(1500, 512)), Disk::default());
    let volume = map.create_volume(record(0x11)).unwrap();
    let doomed = map.create_volume(record(0x22)).unwrap();
    let reign = |epoch, start| Reign {
        epoch: Epoch(epoch),
        start: Lsn(start),
    };
    let none = Reign::default();
    let after = VolumeRecord {
        size_blocks: 0x1_2345_6789,
        epoch: Epoch(5),
        lsn: Lsn(77),
        copy: CopyRecord {
            sharing: Sharing::Shared,
            promised: Epoch(6),
            appended: Lsn(78),
            resync: Some(Resync {
                base: Lsn(0x44),
                cursor: Block(0x55),
            }),
            reigns: [reign(2, 1), reign(5, 0x33), none, none, none],
        },
        ..record(0x11)
    };
    map.set_volume(volume, after);
    map.set_attributes(volume, b"attributes of a volume");
    map.remove_volume(doomed);
    for (index, chunk) in [(3, 0x102), (60, 0x4ff)] {
        map.claim_chunk(PhysicalChunk(chunk)).unwrap();
        let mut checksums = core::array::from_fn(|i| 0xc0de_0000 + u32::try_from(i).unwrap());
        checksums[8] = 0; // Nobody knows what was lost there.
        let entry = Entry::stored(PhysicalChunk(chunk), 0x8003, 0x0100, Lsn(index), checksums);
        map.put(volume, ChunkIndex(index), entry, FrameSeq(0x0102_0304));
    }
    checkpoint(&mut map, &mut disk, FrameSeq(0x0102_0304));
    disk
}

/// The rows of 16 bytes that are not zero, as `offset: bytes`.
fn dump(page: &[u8]) -> String {
    let mut text = String::new();
    for (row, bytes) in page.chunks_exact(16).enumerate() {
        if bytes.iter().any(|byte| *byte != 0) {
            write!(text, "{:03x}:", row * 16).unwrap();
            for group in bytes.chunks_exact(4) {
                text.push(' ');
                for byte in group {
                    write!(text, "{byte:02x}").unwrap();
                }
            }
            text.push('\n');
        }
    }
    text
}

fn check(kind: PageKind, expected: &str) {
    let disk = sample();
    let store = geometry(1500, 512).store;
    let page = disk
        .pages
        .values()
        .find(|page| identify(page, store).unwrap().0.kind == kind);
    let found = dump(page.unwrap());
    let expected: String = expected.lines().skip(1).fold(String::new(), |text, line| {
        text + line.trim_start() + if line.trim().is_empty() { "" } else { "\n" }
    });
    assert_eq!(found, expected, "\n{kind:?}\n{found}");
}

#[test]
fn leaf() {
    check(
        PageKind::Leaf,
        "
        000: 48464d50 01000100 f8338ce1 00000000
        010: 07070707 07070707 07070707 07070707
        020: 00000000 00000000 04030201 00000000
        150: 03010000 03800001 03000000 00000000
        160: 0000dec0 0100dec0 00000000 00000000
        190: 00000000 00000000 00000000 0f00dec0
        ",
    );
}

#[test]
fn interior() {
    check(
        PageKind::Interior,
        "
        000: 48464d50 01000201 d344b855 02000000
        010: 07070707 07070707 07070707 07070707
        020: 00000000 00000000 04030201 00000000
        060: 01000000 f8338ce1 02000000 48b89a10
        ",
    );
}

#[test]
fn counts() {
    check(
        PageKind::Counts,
        "
        000: 48464d50 01000300 8dbb5c31 04000000
        010: 07070707 07070707 07070707 07070707
        020: 00000000 00000000 04030201 00000000
        460: 00000000 00000000 01000000 00000000
        ",
    );
}

#[test]
fn counts_interior() {
    check(
        PageKind::CountsInterior,
        "
        000: 48464d50 01000401 6e571e77 06000000
        010: 07070707 07070707 07070707 07070707
        020: 00000000 00000000 04030201 00000000
        060: 05000000 8dbb5c31 06000000 2374679c
        ",
    );
}

#[test]
fn volumes() {
    check(
        PageKind::Volumes,
        "
        000: 48464d50 01000500 cb06ba19 07000000
        010: 07070707 07070707 07070707 07070707
        020: 00000000 00000000 04030201 00000000
        060: 11111111 11111111 11111111 11111111
        070: 89674523 01000000 05000000 00000000
        080: 4d000000 00000000 03000000 d344b855
        090: 0d010000 16000000 04000000 6c0a47fd
        0e0: 06000000 00000000 4e000000 00000000
        0f0: 44000000 00000000 55000000 00000000
        100: 02000000 00000000 01000000 00000000
        110: 05000000 00000000 33000000 00000000
        150: 22222222 22222222 22222222 22222222
        160: 00000000 04000000 01000000 00000000
        180: 03000000 00000000 00000000 00000000
        ",
    );
}

#[test]
fn volumes_interior() {
    check(
        PageKind::VolumesInterior,
        "
        000: 48464d50 01000601 f38819af 08000000
        010: 07070707 07070707 07070707 07070707
        020: 00000000 00000000 04030201 00000000
        060: 08000000 cb06ba19 00000000 00000000
        ",
    );
}

#[test]
fn attributes() {
    check(
        PageKind::Attributes,
        "
        000: 48464d50 01000700 6c0a47fd 03000000
        010: 07070707 07070707 07070707 07070707
        020: 00000000 00000000 04030201 00000000
        060: 61747472 69627574 6573206f 66206120
        070: 766f6c75 6d650000 00000000 00000000
        ",
    );
}

#[test]
fn roots() {
    let bytes = sample().roots.encode();
    let rows = bytes
        .chunks(8)
        .map(|row| u64::from_be_bytes(row.try_into().unwrap()));
    let expected = [
        0x0900_0000_f388_19af,
        0x0b01_0000_311a_697a,
        0x0700_0000_6e57_1e77,
    ];
    assert_eq!(rows.collect::<std::vec::Vec<u64>>(), expected);
}
