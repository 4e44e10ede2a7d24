//! READ CAPACITY and GET LBA STATUS: how large the disk is and what of it is allocated.

#[cfg(test)]
mod tests;

use crate::request::ProvisionedRun;
use crate::scsi::geometry::Geometry;
use crate::scsi::limits::PROVISIONING_DESCRIPTORS_MAX;
use alloc::vec;
use alloc::vec::Vec;

/// SBC-3 5.15.2.
pub(crate) fn read_capacity10(geometry: &Geometry) -> Vec<u8> {
    let last = geometry.blocks() - 1;
    // SBC-3 5.15.2: all ones sends the host to READ CAPACITY(16).
    let last = u32::try_from(last).unwrap_or(u32::MAX);
    let mut data = last.to_be_bytes().to_vec();
    data.extend(geometry.block().bytes().to_be_bytes());
    data
}

/// SBC-3 5.16.2: no protection, LBPME and LBPRZ, lowest aligned address zero.
pub(crate) fn read_capacity16(geometry: &Geometry) -> Vec<u8> {
    const LBPME_AND_LBPRZ: u8 = 0xC0;
    let mut data = vec![0; 32];
    data[..8].copy_from_slice(&(geometry.blocks() - 1).to_be_bytes());
    data[8..12].copy_from_slice(&geometry.block().bytes().to_be_bytes());
    data[13] = geometry.block().physical_exponent();
    data[14] = LBPME_AND_LBPRZ;
    data
}

/// Descriptors that fit the answer to GET LBA STATUS; at least one is looked up.
pub(crate) fn descriptors_max(allocation: usize) -> usize {
    let room = allocation.saturating_sub(8) / 16;
    room.clamp(1, PROVISIONING_DESCRIPTORS_MAX)
}

/// SBC-3 5.6.2. `offset` is where the first run begins.
pub(crate) fn lba_status(offset: u64, runs: &[ProvisionedRun], geometry: &Geometry) -> Vec<u8> {
    const MAPPED: u8 = 0;
    const DEALLOCATED: u8 = 1;
    let mut data = vec![0; 8];
    let mut lba = geometry.lba_of(offset);
    for run in runs.iter().take(PROVISIONING_DESCRIPTORS_MAX) {
        // A run that is longer than its field is told in part: hosts ask again behind it.
        let wanted = geometry.blocks_in(run.bytes);
        let blocks = u32::try_from(wanted).unwrap_or(u32::MAX);
        if blocks == 0 {
            continue;
        }
        let status = if run.mapped { MAPPED } else { DEALLOCATED };
        data.extend(lba.to_be_bytes());
        data.extend(blocks.to_be_bytes());
        data.extend([status, 0, 0, 0]);
        if u64::from(blocks) < wanted {
            break;
        }
        lba += u64::from(blocks);
    }
    let bytes = u32::try_from(data.len() - 4).expect("bounded by PROVISIONING_DESCRIPTORS_MAX");
    data[..4].copy_from_slice(&bytes.to_be_bytes());
    data
}
