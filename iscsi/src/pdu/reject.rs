//! Reject (RFC 7143 §11.17); its data segment is the header of what was refused.

use crate::framing::HEADER_BYTES;
use crate::pdu::{self, FINAL, Header, Numbers, opcode};

/// Why (RFC 7143 §11.17.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The data segment is not what was sent.
    DataDigestError = 0x02,
    /// Nothing is sent again at ErrorRecoveryLevel 0.
    Snack = 0x03,
    /// Not allowed here.
    ProtocolError = 0x04,
    /// No such request.
    CommandNotSupported = 0x05,
    /// Too many immediate commands.
    TooManyImmediate = 0x06,
    /// The tag is in use.
    TaskInProgress = 0x07,
    /// A field has a value that it must not have.
    InvalidField = 0x09,
    /// No memory for what a negotiation or command needs.
    LongOperation = 0x0A,
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Why, a code of [`Reason`].
    pub reason: u8,
    /// Sequence numbers.
    pub numbers: Numbers,
}

impl Reject {
    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = [0; HEADER_BYTES];
        header[0] = opcode::REJECT;
        header[1] = FINAL;
        header[2] = self.reason;
        pdu::put_u32(&mut header, 16, pdu::RESERVED_TAG);
        self.numbers.put(&mut header);
        header
    }

    /// From a header.
    pub fn decode(header: &Header) -> Self {
        Reject {
            reason: header[2],
            numbers: Numbers::decode(header),
        }
    }
}
