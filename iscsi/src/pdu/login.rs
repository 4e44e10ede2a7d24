//! Login Request and Login Response (RFC 7143 §11.12, §11.13).

use crate::framing::HEADER_BYTES;
use crate::pdu::{self, CONTINUE, FINAL, Header, Numbers, opcode};

/// Stages (RFC 7143 §11.12.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Authentication.
    Security = 0,
    /// Parameters.
    Operational = 1,
    /// Login has ended.
    FullFeature = 3,
}

impl Stage {
    fn from_bits(bits: u8) -> Option<Self> {
        match bits & 3 {
            0 => Some(Stage::Security),
            1 => Some(Stage::Operational),
            3 => Some(Stage::FullFeature),
            _ => None,
        }
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginRequest {
    /// T bit: ready for `next_stage`.
    pub transit: bool,
    /// C bit: the text goes on in the next request.
    pub text_continues: bool,
    /// CSG; `None` for the reserved value.
    pub current_stage: Option<Stage>,
    /// NSG; `None` for the reserved value. Means nothing without T.
    pub next_stage: Option<Stage>,
    /// Highest version that the host speaks.
    pub version_max: u8,
    /// Lowest.
    pub version_min: u8,
    /// Initiator part of the session id.
    pub isid: [u8; 6],
    /// 0 for a new session.
    pub tsih: u16,
    /// Initiator task tag, the same in the whole login.
    pub initiator_task_tag: u32,
    /// Connection id.
    pub cid: u16,
    /// CmdSN of the first command after login.
    pub cmd_sn: u32,
    /// ExpStatSN.
    pub exp_stat_sn: u32,
}

impl LoginRequest {
    /// From a header.
    pub fn decode(header: &Header) -> Self {
        let mut isid = [0; 6];
        isid.copy_from_slice(&header[8..14]);
        LoginRequest {
            transit: header[1] & FINAL != 0,
            text_continues: header[1] & CONTINUE != 0,
            current_stage: Stage::from_bits(header[1] >> 2),
            next_stage: Stage::from_bits(header[1]),
            version_max: header[2],
            version_min: header[3],
            isid,
            tsih: pdu::u16_at(header, 14),
            initiator_task_tag: pdu::u32_at(header, 16),
            cid: pdu::u16_at(header, 20),
            cmd_sn: pdu::u32_at(header, 24),
            exp_stat_sn: pdu::u32_at(header, 28),
        }
    }

    /// To a header. Stages that are `None` become the reserved value.
    pub fn encode(&self) -> Header {
        let mut header = pdu::request(opcode::LOGIN_REQUEST, true, self.cmd_sn, self.exp_stat_sn);
        let bits = |stage: Option<Stage>| stage.map_or(2, |stage| stage as u8);
        header[1] = bits(self.current_stage) << 2;
        if self.transit {
            header[1] |= FINAL | bits(self.next_stage);
        }
        if self.text_continues {
            header[1] |= CONTINUE;
        }
        header[2] = self.version_max;
        header[3] = self.version_min;
        header[8..14].copy_from_slice(&self.isid);
        pdu::put_u16(&mut header, 14, self.tsih);
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        pdu::put_u16(&mut header, 20, self.cid);
        header
    }
}

/// Status class and detail (RFC 7143 §11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum LoginStatus {
    /// Goes on, or done.
    Success = 0x0000,
    /// The target is at the address that goes with it.
    MovedTemporarily = 0x0101,
    /// The host broke a rule of login.
    InitiatorError = 0x0200,
    /// Wrong or missing proof.
    AuthenticationFailure = 0x0201,
    /// Not on the list.
    Forbidden = 0x0202,
    /// No such target.
    NotFound = 0x0203,
    /// Not our version.
    UnsupportedVersion = 0x0205,
    /// Another connection of a session, or too many sessions.
    TooManyConnections = 0x0206,
    /// A key that must be there is not.
    MissingParameter = 0x0207,
    /// Neither Discovery nor Normal.
    SessionTypeNotSupported = 0x0209,
    /// A TSIH that is not ours.
    SessionDoesNotExist = 0x020A,
    /// Not a Login Request.
    InvalidDuringLogin = 0x020B,
    /// The target is known and not served at this moment.
    ServiceUnavailable = 0x0301,
    /// A bound was reached.
    OutOfResources = 0x0302,
}

/// A response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginResponse {
    /// T bit.
    pub transit: bool,
    /// C bit.
    pub text_continues: bool,
    /// CSG.
    pub current_stage: Stage,
    /// NSG, with T.
    pub next_stage: Stage,
    /// Initiator part of the session id.
    pub isid: [u8; 6],
    /// Our part; 0 until the last response.
    pub tsih: u16,
    /// Of the request.
    pub initiator_task_tag: u32,
    /// Sequence numbers.
    pub numbers: Numbers,
    /// Status class and detail as one number.
    pub status: u16,
}

impl LoginResponse {
    /// To a header.
    pub fn encode(&self) -> Header {
        let mut header = [0; HEADER_BYTES];
        header[0] = opcode::LOGIN_RESPONSE;
        header[1] = (self.current_stage as u8) << 2;
        if self.transit {
            header[1] |= FINAL | self.next_stage as u8;
        }
        if self.text_continues {
            header[1] |= CONTINUE;
        }
        header[8..14].copy_from_slice(&self.isid);
        pdu::put_u16(&mut header, 14, self.tsih);
        pdu::put_u32(&mut header, 16, self.initiator_task_tag);
        self.numbers.put(&mut header);
        pdu::put_u16(&mut header, 36, self.status);
        header
    }

    /// From a header; `None` when a stage is reserved.
    pub fn decode(header: &Header) -> Option<Self> {
        let mut isid = [0; 6];
        isid.copy_from_slice(&header[8..14]);
        Some(LoginResponse {
            transit: header[1] & FINAL != 0,
            text_continues: header[1] & CONTINUE != 0,
            current_stage: Stage::from_bits(header[1] >> 2)?,
            next_stage: Stage::from_bits(header[1])?,
            isid,
            tsih: pdu::u16_at(header, 14),
            initiator_task_tag: pdu::u32_at(header, 16),
            numbers: Numbers::decode(header),
            status: pdu::u16_at(header, 36),
        })
    }
}
