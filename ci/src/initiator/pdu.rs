//! One iSCSI PDU: 48 header bytes, additional header segments, data; encoded and decoded with or
//! without CRC32C digests.
//!
//! It does not know what the fields of an opcode mean; `session` and `login` do.

use super::Error;

/// Bytes of a basic header segment.
pub(crate) const HEADER_BYTES: usize = 48;
/// The tag that means "none".
pub(crate) const RESERVED_TAG: u32 = 0xffff_ffff;
/// More than any target may send when we declare less: guards the decoder's buffer.
const DATA_BYTES_MAX: usize = 4 << 20;

/// RFC 7143 section 11.2.1.2.
pub(crate) mod opcode {
    pub(crate) const NOP_OUT: u8 = 0x00;
    pub(crate) const SCSI_COMMAND: u8 = 0x01;
    pub(crate) const TASK_MANAGEMENT: u8 = 0x02;
    pub(crate) const LOGIN: u8 = 0x03;
    pub(crate) const TEXT: u8 = 0x04;
    pub(crate) const DATA_OUT: u8 = 0x05;
    pub(crate) const LOGOUT: u8 = 0x06;
    pub(crate) const NOP_IN: u8 = 0x20;
    pub(crate) const SCSI_RESPONSE: u8 = 0x21;
    pub(crate) const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub(crate) const LOGIN_RESPONSE: u8 = 0x23;
    pub(crate) const TEXT_RESPONSE: u8 = 0x24;
    pub(crate) const DATA_IN: u8 = 0x25;
    pub(crate) const LOGOUT_RESPONSE: u8 = 0x26;
    pub(crate) const R2T: u8 = 0x31;
    pub(crate) const ASYNC_MESSAGE: u8 = 0x32;
    pub(crate) const REJECT: u8 = 0x3f;
}

/// Which digests are in force on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digests {
    pub(crate) header: bool,
    pub(crate) data: bool,
}

/// One PDU. Lengths in the header are set by [`Pdu::encode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pdu {
    pub(crate) header: [u8; HEADER_BYTES],
    /// Additional header segments, padded to four bytes by whoever fills it.
    pub(crate) additional: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

impl Pdu {
    /// An empty PDU of this opcode.
    pub(crate) fn new(opcode: u8) -> Self {
        let mut header = [0; HEADER_BYTES];
        header[0] = opcode;
        Self {
            header,
            additional: Vec::new(),
            data: Vec::new(),
        }
    }

    /// The opcode without the immediate bit.
    pub(crate) fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }

    /// Marks the PDU for immediate delivery.
    pub(crate) fn set_immediate(&mut self) {
        self.header[0] |= 0x40;
    }

    /// Initiator task tag.
    pub(crate) fn task_tag(&self) -> u32 {
        self.u32_at(16)
    }

    /// A big-endian field.
    pub(crate) fn u32_at(&self, at: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.header[at..at + 4]);
        u32::from_be_bytes(bytes)
    }

    /// Sets a big-endian field.
    pub(crate) fn put_u32(&mut self, at: usize, value: u32) {
        self.header[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// The bytes on the wire, padded, with digests.
    pub(crate) fn encode(&self, digests: Digests) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.data.len() + 16);
        let words = u8::try_from(self.additional.len() / 4).expect("callers keep it below 1 KiB");
        let length = u32::try_from(self.data.len()).expect("callers keep it below 16 MiB");
        bytes.extend_from_slice(&self.header);
        bytes[4] = words;
        bytes[5..8].copy_from_slice(&length.to_be_bytes()[1..]);
        bytes.extend_from_slice(&self.additional);
        if digests.header {
            let digest = crc32c::crc32c(&bytes);
            bytes.extend_from_slice(&digest.to_le_bytes());
        }
        if !self.data.is_empty() {
            let start = bytes.len();
            bytes.extend_from_slice(&self.data);
            bytes.resize(start + self.data.len().next_multiple_of(4), 0);
            if digests.data {
                let digest = crc32c::crc32c(&bytes[start..]);
                bytes.extend_from_slice(&digest.to_le_bytes());
            }
        }
        bytes
    }

    /// Takes one PDU from the front: the PDU and its bytes on the wire, or `None` while incomplete.
    pub(crate) fn decode(bytes: &[u8], digests: Digests) -> Result<Option<(Self, usize)>, Error> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let additional_bytes = usize::from(header[4]) * 4;
        let data_bytes =
            usize::from(header[5]) << 16 | usize::from(header[6]) << 8 | usize::from(header[7]);
        if data_bytes > DATA_BYTES_MAX {
            return Err(Error::Protocol(format!(
                "a data segment of {data_bytes} bytes"
            )));
        }
        let header_end = HEADER_BYTES + additional_bytes;
        let data_start = header_end + if digests.header { 4 } else { 0 };
        let padded_end = data_start + data_bytes.next_multiple_of(4);
        let end = padded_end + if digests.data && data_bytes > 0 { 4 } else { 0 };
        if bytes.len() < end {
            return Ok(None);
        }
        if digests.header {
            check_digest(
                &bytes[..header_end],
                &bytes[header_end..data_start],
                "header",
            )?;
        }
        if digests.data && data_bytes > 0 {
            check_digest(
                &bytes[data_start..padded_end],
                &bytes[padded_end..end],
                "data",
            )?;
        }
        let pdu = Self {
            header: *header,
            additional: bytes[HEADER_BYTES..header_end].to_vec(),
            data: bytes[data_start..data_start + data_bytes].to_vec(),
        };
        Ok(Some((pdu, end)))
    }
}

fn check_digest(covered: &[u8], digest: &[u8], what: &str) -> Result<(), Error> {
    if crc32c::crc32c(covered).to_le_bytes() == digest {
        Ok(())
    } else {
        Err(Error::Protocol(format!(
            "wrong {what} digest from the target"
        )))
    }
}
