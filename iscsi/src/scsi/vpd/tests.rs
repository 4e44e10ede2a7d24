//! Golden bytes of the VPD pages.

use super::{PAGES, page};
use crate::scsi::geometry::{Geometry, LogicalBlock};
use crate::scsi::nexus::TARGET_PORT;
use crate::scsi::sense::Sense;
use holdfast_core::id::VolumeId;
use std::vec::Vec;

const VOLUME: VolumeId = VolumeId([
    0x0F, 0x1E, 0x2D, 0x3C, 0x4B, 0x5A, 0x49, 0x78, 0x97, 0xA6, 0xB5, 0xC4, 0xD3, 0xE2, 0xF1, 0x00,
]);
const TARGET: &str = "iqn.2026-11.io.holdfast:demo";

fn read(code: u8, block: LogicalBlock) -> Vec<u8> {
    page(
        code,
        VOLUME,
        TARGET,
        TARGET_PORT,
        &Geometry::new(1 << 30, block),
    )
    .expect("the page exists")
}

#[test]
fn the_list_is_complete_and_ascending() {
    assert_eq!(
        read(0x00, LogicalBlock::Bytes512),
        [0, 0, 0, 7, 0x00, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2]
    );
    let geometry = Geometry::new(1 << 30, LogicalBlock::Bytes512);
    for code in 0..=0xFF {
        let found = page(code, VOLUME, TARGET, TARGET_PORT, &geometry);
        if PAGES.contains(&code) {
            let data = found.expect("listed");
            assert_eq!(data[..2], [0, code]);
            let length = usize::from(u16::from_be_bytes([data[2], data[3]]));
            assert_eq!(length, data.len() - 4);
        } else {
            assert_eq!(found, Err(Sense::cdb_byte(2)));
        }
    }
}

#[test]
fn the_serial_number_is_the_volume() {
    let data = read(0x80, LogicalBlock::Bytes512);
    assert_eq!(&data[4..], b"0f1e2d3c4b5a497897a6b5c4d3e2f100");
}

#[test]
fn designators_name_unit_port_and_device() {
    let data = read(0x83, LogicalBlock::Bytes512);
    let mut rest = &data[4..];
    let mut found = Vec::new();
    while let [set, kind, _, bytes, ..] = *rest {
        let (value, tail) = rest[4..].split_at(usize::from(bytes));
        found.push((set, kind, value));
        rest = tail;
    }
    let naa: &[u8] = &[0x37, 0xA6, 0xB5, 0xC4, 0xD3, 0xE2, 0xF1, 0x00];
    assert_eq!(found[0], (0x01, 0x03, naa));
    let vendor: &[u8] = b"HOLDFAST0f1e2d3c4b5a497897a6b5c4d3e2f100";
    assert_eq!(found[1], (0x02, 0x01, vendor));
    let name: &[u8] = b"naa.37A6B5C4D3E2F100\0\0\0\0";
    assert_eq!(found[2], (0x03, 0x08, name));
    assert_eq!(found[3].2[..3], [0x10, 0x00, 0x0F]);
    let port: &[u8] = &[0, 0, 0, 1];
    assert_eq!(found[4], (0x51, 0x94, port));
    assert_eq!(found[5], (0x51, 0x95, port));
    let port_name: &[u8] = b"iqn.2026-11.io.holdfast:demo,t,0x0001\0\0\0";
    assert_eq!(found[6], (0x53, 0x98, port_name));
    let device: &[u8] = b"iqn.2026-11.io.holdfast:demo\0\0\0\0";
    assert_eq!(found[7], (0x53, 0xA8, device));
    assert_eq!(found.len(), 8);
}

#[test]
fn block_limits_count_in_logical_blocks() {
    for (block, compare, exponent_blocks, scale) in [
        (LogicalBlock::Bytes512, 128, 8, 8_u32),
        (LogicalBlock::Bytes4096, 16, 1, 1),
    ] {
        let data = read(0xB0, block);
        let u32_at =
            |at: usize| u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
        assert_eq!(data.len(), 64);
        assert_eq!(data[4..8], [1, compare, 0, exponent_blocks]);
        assert_eq!(u32_at(8), 1024 * scale); // 4 MiB
        assert_eq!(u32_at(20), 131_072 * scale); // 512 MiB
        assert_eq!(u32_at(24), 256);
        assert_eq!(u32_at(28), 16 * scale); // 64 KiB
        assert_eq!(u32_at(32), 0x8000_0000);
        assert_eq!((u32_at(36), u32_at(40)), (0, 4096 * scale)); // 16 MiB
    }
}

#[test]
fn provisioning_is_thin_and_reads_zeros() {
    assert_eq!(
        read(0xB2, LogicalBlock::Bytes512),
        [0, 0xB2, 0, 4, 0, 0xE4, 2, 0]
    );
}
