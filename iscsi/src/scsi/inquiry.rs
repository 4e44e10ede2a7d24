//! Standard INQUIRY data (SPC-4 6.6.2).

#[cfg(test)]
mod tests;

use alloc::vec;
use alloc::vec::Vec;

/// T10 vendor identification, eight characters.
pub(crate) const VENDOR: &[u8; 8] = b"HOLDFAST";

/// Product identification, sixteen characters.
pub(crate) const PRODUCT: &[u8; 16] = b"Holdfast volume ";

/// SAM-5, SPC-4, SBC-3 and iSCSI, each without a version claimed (SPC-4 table 142).
const VERSIONS: [u16; 4] = [0x00A0, 0x0460, 0x04C0, 0x0960];

/// PERIPHERAL QUALIFIER 011b and device type 1Fh: no unit can be at this LUN.
const NO_UNIT: u8 = 0x7F;

/// Data of the unit.
pub(crate) fn standard() -> Vec<u8> {
    let mut data = vec![0; 96];
    // A disk, connected, not removable.
    data[0] = 0x00;
    // SPC-4.
    data[2] = 0x06;
    // HISUP, response data format 2. NORMACA is zero.
    data[3] = 0x12;
    data[4] = 91;
    // TPGS 01b: REPORT TARGET PORT GROUPS tells, nothing sets (SPC-4 table 140).
    data[5] = 0x10;
    // CMDQUE.
    data[7] = 0x02;
    data[8..16].copy_from_slice(VENDOR);
    data[16..32].copy_from_slice(PRODUCT);
    data[32..36].copy_from_slice(&revision());
    for (at, version) in (58..).step_by(2).zip(VERSIONS) {
        data[at..at + 2].copy_from_slice(&version.to_be_bytes());
    }
    data
}

/// Data for a LUN where no unit is (SPC-4 6.6.1).
pub(crate) fn no_unit() -> Vec<u8> {
    let mut data = standard();
    data[0] = NO_UNIT;
    data
}

/// Major and minor version of this software, padded with spaces.
fn revision() -> [u8; 4] {
    let version = concat!(
        env!("CARGO_PKG_VERSION_MAJOR"),
        ".",
        env!("CARGO_PKG_VERSION_MINOR")
    );
    let mut revision = [b' '; 4];
    for (to, from) in revision.iter_mut().zip(version.bytes()) {
        *to = from;
    }
    revision
}
