//! Vital product data: who the unit is and what it can do (SPC-4 7.8, SBC-3 6.6).

#[cfg(test)]
mod tests;

use crate::scsi::geometry::Geometry;
use crate::scsi::inquiry::VENDOR;
use crate::scsi::limits::{
    COMPARE_AND_WRITE_BYTES_MAX, UNMAP_BYTES_MAX, UNMAP_DESCRIPTORS_MAX, UNMAP_GRANULARITY_BYTES,
    WRITE_SAME_BYTES_MAX,
};
use crate::scsi::nexus::TargetPort;
use crate::scsi::sense::Sense;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use holdfast_core::id::VolumeId;
use holdfast_core::limits::{BLOCK_BYTES, TRANSFER_BYTES_MAX};

/// Pages there are, ascending.
const PAGES: [u8; 7] = [0x00, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2];

/// The page with this code, whole.
pub(crate) fn page(
    code: u8,
    volume: VolumeId,
    target_name: &str,
    port: TargetPort,
    geometry: &Geometry,
) -> Result<Vec<u8>, Sense> {
    let body = match code {
        0x00 => PAGES.to_vec(),
        0x80 => serial_number(volume).into_bytes(),
        0x83 => device_identification(volume, target_name, port),
        0x86 => extended_inquiry(),
        0xB0 => block_limits(geometry),
        0xB1 => block_device_characteristics(),
        0xB2 => logical_block_provisioning(),
        _ => return Err(Sense::cdb_byte(2)),
    };
    let bytes = u16::try_from(body.len()).expect("the largest page has a few names");
    let [high, low] = bytes.to_be_bytes();
    let mut page = vec![0x00, code, high, low];
    page.extend(body);
    Ok(page)
}

/// 32 hexadecimal digits: the volume's identity.
fn serial_number(volume: VolumeId) -> String {
    volume.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A locally assigned NAA identifier (SPC-4 7.8.6.6.4): 60 bits of the volume's identity.
///
/// We own no IEEE company identifier, so NAA 6 is not ours to give. The last eight bytes of a
/// random UUID (RFC 9562 §5.4) are random but for two bits, which the NAA field covers.
fn naa(volume: VolumeId) -> [u8; 8] {
    let mut naa = [0; 8];
    naa.copy_from_slice(&volume.0[8..]);
    naa[0] = 0x30 | (naa[0] & 0x0F);
    naa
}

/// What an identifier identifies (SPC-4 table 604).
#[derive(Clone, Copy)]
#[repr(u8)]
enum Association {
    Unit = 0x00,
    Port = 0x10,
    Device = 0x20,
}

#[derive(Clone, Copy)]
#[repr(u8)]
enum CodeSet {
    Binary = 1,
    Ascii = 2,
    Utf8 = 3,
}

fn designator(set: CodeSet, association: Association, kind: u8, value: &[u8]) -> Vec<u8> {
    // PIV and the protocol go with ports and devices: iSCSI is 5h.
    let (protocol, piv) = match association {
        Association::Unit => (0x00, 0x00),
        Association::Port | Association::Device => (0x50, 0x80),
    };
    let bytes = u8::try_from(value.len()).expect("an iSCSI name has 223 bytes at most");
    let mut data = vec![
        protocol | set as u8,
        piv | association as u8 | kind,
        0,
        bytes,
    ];
    data.extend(value);
    data
}

/// A SCSI name string is terminated and padded to four bytes (SPC-4 7.8.6.11).
fn name_string(name: &str) -> Vec<u8> {
    let mut value = name.as_bytes().to_vec();
    value.resize((name.len() + 1).next_multiple_of(4), 0);
    value
}

/// SPC-4 7.8.6. The same on every path, except for the designators of the port.
fn device_identification(volume: VolumeId, target_name: &str, port: TargetPort) -> Vec<u8> {
    let naa = naa(volume);
    let naa_name: String = naa.iter().map(|byte| format!("{byte:02X}")).collect();
    let mut vendor = VENDOR.to_vec();
    vendor.extend(serial_number(volume).bytes());
    let mut uuid = vec![0x10, 0];
    uuid.extend(volume.0);
    let port_name = format!("{target_name},t,0x{:04x}", port.0);
    let [high, low] = port.0.to_be_bytes();
    let port = [0, 0, high, low];
    [
        designator(CodeSet::Binary, Association::Unit, 0x3, &naa),
        designator(CodeSet::Ascii, Association::Unit, 0x1, &vendor),
        designator(
            CodeSet::Utf8,
            Association::Unit,
            0x8,
            &name_string(&format!("naa.{naa_name}")),
        ),
        designator(CodeSet::Binary, Association::Unit, 0xA, &uuid),
        designator(CodeSet::Binary, Association::Port, 0x4, &port),
        designator(CodeSet::Binary, Association::Port, 0x5, &port),
        designator(
            CodeSet::Utf8,
            Association::Port,
            0x8,
            &name_string(&port_name),
        ),
        designator(
            CodeSet::Utf8,
            Association::Device,
            0x8,
            &name_string(target_name),
        ),
    ]
    .concat()
}

/// SPC-4 7.8.7: SIMPSUP, and that is all we claim.
fn extended_inquiry() -> Vec<u8> {
    let mut body = vec![0; 60];
    body[1] = 0x01;
    body
}

/// SBC-3 6.6.3. Zero means "not reported" in the fields that are left out.
fn block_limits(geometry: &Geometry) -> Vec<u8> {
    let blocks = |bytes: u64| {
        u32::try_from(geometry.blocks_in(bytes)).expect("limits are below 2^32 blocks")
    };
    let mut body = vec![0; 60];
    // WSNZ: zero blocks in WRITE SAME are refused.
    body[0] = 0x01;
    // COMPARE AND WRITE has one byte for its length.
    let compare = geometry.blocks_in(COMPARE_AND_WRITE_BYTES_MAX).min(255);
    body[1] = u8::try_from(compare).expect("at most 255");
    let physical = u16::try_from(blocks(BLOCK_BYTES as u64)).expect("at most 8 blocks");
    body[2..4].copy_from_slice(&physical.to_be_bytes());
    body[4..8].copy_from_slice(&blocks(TRANSFER_BYTES_MAX as u64).to_be_bytes());
    body[16..20].copy_from_slice(&blocks(UNMAP_BYTES_MAX).to_be_bytes());
    let descriptors = u32::try_from(UNMAP_DESCRIPTORS_MAX).expect("fits 32 bits");
    body[20..24].copy_from_slice(&descriptors.to_be_bytes());
    body[24..28].copy_from_slice(&blocks(UNMAP_GRANULARITY_BYTES).to_be_bytes());
    // UGAVALID, alignment zero.
    body[28] = 0x80;
    let write_same = geometry.blocks_in(WRITE_SAME_BYTES_MAX);
    body[32..40].copy_from_slice(&write_same.to_be_bytes());
    body
}

/// SBC-3 6.6.2.
fn block_device_characteristics() -> Vec<u8> {
    let mut body = vec![0; 60];
    // MEDIUM ROTATION RATE 0001h: sorting by LBA is no help, the volume is scattered over stores.
    body[1] = 0x01;
    body
}

/// SBC-3 6.6.4: LBPU, LBPWS, LBPWS10, LBPRZ; thin provisioned, no threshold, no anchors.
fn logical_block_provisioning() -> Vec<u8> {
    vec![0, 0xE4, 0x02, 0]
}
