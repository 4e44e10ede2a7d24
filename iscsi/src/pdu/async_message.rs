//! Asynchronous Message (RFC 7143 §11.9).

use crate::framing::HEADER_BYTES;
use crate::pdu::{self, FINAL, Header, Numbers, opcode};

/// The target asks the host to log out within `Parameter3` seconds.
pub const EVENT_LOGOUT_REQUEST: u8 = 1;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncMessage {
    /// What happens.
    pub event: u8,
    /// Meaning depends on the event.
    pub parameters: [u16; 3],
    /// Sequence numbers.
    pub numbers: Numbers,
}

impl AsyncMessage {
    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = [0; HEADER_BYTES];
        header[0] = opcode::ASYNC_MESSAGE;
        header[1] = FINAL;
        pdu::put_u32(&mut header, 16, pdu::RESERVED_TAG);
        self.numbers.put(&mut header);
        header[36] = self.event;
        for (index, &parameter) in self.parameters.iter().enumerate() {
            pdu::put_u16(&mut header, 38 + 2 * index, parameter);
        }
        header
    }

    /// From a header.
    pub fn decode(header: &Header) -> Self {
        AsyncMessage {
            event: header[36],
            parameters: [38, 40, 42].map(|at| pdu::u16_at(header, at)),
            numbers: Numbers::decode(header),
        }
    }
}
