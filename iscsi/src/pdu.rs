//! Layouts of PDUs (RFC 7143 §11): one file per pair of request and response, both directions.
//!
//! Only the basic header segment; the data segment travels beside it. DataSegmentLength is set by
//! whoever sends. Additional header segments carry nothing that this target uses.

pub mod async_message;
pub mod data;
pub mod login;
pub mod logout;
pub mod nop;
pub mod reject;
pub mod scsi;
pub mod task_management;
pub mod text;

use crate::framing::HEADER_BYTES;

/// A basic header segment.
pub type Header = [u8; HEADER_BYTES];

/// The tag that names nothing (RFC 7143 §11.2.1.8, §11.7.4).
pub const RESERVED_TAG: u32 = 0xFFFF_FFFF;

/// Opcodes (RFC 7143 §11.2.1.2).
#[allow(missing_docs)] // The names are the standard's.
pub mod opcode {
    pub const NOP_OUT: u8 = 0x00;
    pub const SCSI_COMMAND: u8 = 0x01;
    pub const TASK_MANAGEMENT_REQUEST: u8 = 0x02;
    pub const LOGIN_REQUEST: u8 = 0x03;
    pub const TEXT_REQUEST: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT_REQUEST: u8 = 0x06;
    pub const SNACK_REQUEST: u8 = 0x10;
    pub const NOP_IN: u8 = 0x20;
    pub const SCSI_RESPONSE: u8 = 0x21;
    pub const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub const LOGIN_RESPONSE: u8 = 0x23;
    pub const TEXT_RESPONSE: u8 = 0x24;
    pub const DATA_IN: u8 = 0x25;
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    pub const R2T: u8 = 0x31;
    pub const ASYNC_MESSAGE: u8 = 0x32;
    pub const REJECT: u8 = 0x3F;
}

/// The F, T or A bit: the highest bit of the second byte.
pub(crate) const FINAL: u8 = 0x80;
/// The C bit of text PDUs.
pub(crate) const CONTINUE: u8 = 0x40;
/// The I bit.
pub(crate) const IMMEDIATE: u8 = 0x40;

/// Sequence numbers that go with every PDU from the target (RFC 7143 §11.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Of this status, or the next one.
    pub stat_sn: u32,
    /// Next command expected.
    pub exp_cmd_sn: u32,
    /// Last command admitted.
    pub max_cmd_sn: u32,
}

impl Numbers {
    pub(crate) fn put(self, header: &mut Header) {
        put_u32(header, 24, self.stat_sn);
        put_u32(header, 28, self.exp_cmd_sn);
        put_u32(header, 32, self.max_cmd_sn);
    }

    /// Reads them from a PDU of the target.
    pub fn decode(header: &Header) -> Self {
        Numbers {
            stat_sn: u32_at(header, 24),
            exp_cmd_sn: u32_at(header, 28),
            max_cmd_sn: u32_at(header, 32),
        }
    }
}

/// Opcode of a PDU.
pub fn opcode_of(header: &Header) -> u8 {
    header[0] & 0x3F
}

/// Whether the I bit is set: the request does not use up a CmdSN.
pub fn is_immediate(header: &Header) -> bool {
    header[0] & IMMEDIATE != 0
}

/// Initiator task tag of a PDU.
pub fn initiator_task_tag(header: &Header) -> u32 {
    u32_at(header, 16)
}

/// CmdSN of a request that has one.
pub fn cmd_sn(header: &Header) -> u32 {
    u32_at(header, 24)
}

/// Writes DataSegmentLength. Lengths above 24 bits are a bug of ours.
pub fn put_data_bytes(header: &mut Header, bytes: usize) {
    let length = u32::try_from(bytes).expect("segments are bounded by limits");
    let [top, high, middle, low] = length.to_be_bytes();
    assert!(top == 0);
    header[5..8].copy_from_slice(&[high, middle, low]);
}

pub(crate) fn u16_at(header: &Header, at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

pub(crate) fn u32_at(header: &Header, at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

pub(crate) fn lun_at(header: &Header) -> [u8; 8] {
    let mut lun = [0; 8];
    lun.copy_from_slice(&header[8..16]);
    lun
}

pub(crate) fn put_u16(header: &mut Header, at: usize, value: u16) {
    header[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(crate) fn put_u32(header: &mut Header, at: usize, value: u32) {
    header[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// A request's header with what all requests have.
pub(crate) fn request(opcode: u8, immediate: bool, cmd_sn: u32, exp_stat_sn: u32) -> Header {
    let mut header = [0; HEADER_BYTES];
    header[0] = opcode | if immediate { IMMEDIATE } else { 0 };
    header[1] = FINAL;
    put_u32(&mut header, 24, cmd_sn);
    put_u32(&mut header, 28, exp_stat_sn);
    header
}
