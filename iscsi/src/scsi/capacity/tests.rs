//! Golden bytes of capacity and provisioning.

use super::{descriptors_max, lba_status, read_capacity10, read_capacity16};
use crate::request::ProvisionedRun;
use crate::scsi::geometry::{Geometry, LogicalBlock};

#[test]
fn capacity_is_the_last_block() {
    let small = Geometry::new(1 << 30, LogicalBlock::Bytes512);
    assert_eq!(read_capacity10(&small), [0, 0x1F, 0xFF, 0xFF, 0, 0, 2, 0]);
    let large = read_capacity16(&small);
    assert_eq!(large.len(), 32);
    assert_eq!(
        large[..16],
        [0, 0, 0, 0, 0, 0x1F, 0xFF, 0xFF, 0, 0, 2, 0, 0, 3, 0xC0, 0]
    );
    let huge = Geometry::new(4 << 40, LogicalBlock::Bytes512);
    assert_eq!(read_capacity10(&huge)[..4], [0xFF; 4]);
    let native = Geometry::new(1 << 30, LogicalBlock::Bytes4096);
    assert_eq!(read_capacity16(&native)[8..14], [0, 0, 0x10, 0, 0, 0]);
}

#[test]
fn runs_become_descriptors() {
    let geometry = Geometry::new(1 << 30, LogicalBlock::Bytes512);
    let runs = [
        ProvisionedRun {
            bytes: 65536,
            mapped: true,
        },
        ProvisionedRun {
            bytes: 512,
            mapped: false,
        },
    ];
    let data = lba_status(1024, &runs, &geometry);
    assert_eq!(data.len(), 40);
    assert_eq!(data[..8], [0, 0, 0, 36, 0, 0, 0, 0]);
    assert_eq!(
        data[8..24],
        [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 128, 0, 0, 0, 0]
    );
    assert_eq!(
        data[24..40],
        [0, 0, 0, 0, 0, 0, 0, 130, 0, 0, 0, 1, 1, 0, 0, 0]
    );
}

#[test]
fn a_run_longer_than_its_field_is_told_in_part() {
    let geometry = Geometry::new(4 << 40, LogicalBlock::Bytes512);
    let run = ProvisionedRun {
        bytes: 4 << 40,
        mapped: false,
    };
    let data = lba_status(0, &[run, run], &geometry);
    assert_eq!(data.len(), 24);
    assert_eq!(data[16..20], [0xFF; 4]);
}

#[test]
fn descriptors_follow_the_allocation_length() {
    let rows = [(0, 1), (8, 1), (24, 1), (39, 1), (40, 2), (usize::MAX, 256)];
    for (allocation, descriptors) in rows {
        assert_eq!(descriptors_max(allocation), descriptors);
    }
}
