//! Full feature phase of one session with its one connection (RFC 7143 §4.2, ErrorRecoveryLevel 0).
//!
//! Requests come in `begin` (headers: decides where data goes) and `finish` (data is there: acts).
//! Numbered requests are taken in CmdSN order; SCSI commands then run concurrently. Statuses leave in
//! the order of their StatSN, because effects are carried out in order. Hot path: `command`, `data_out`, `respond`.

mod command;
mod data_out;
mod exchange;
mod manage;
mod respond;
mod task;
mod window;

use crate::connection::Arrival;
use crate::effect::{CloseReason, Effect, Outgoing, Segment, SendData, TaskTag};
use crate::framing::{self, Digests, HEADER_BYTES};
use crate::limits::{
    DATA_OUT_TIME_MAX, DISCOVERY_TIME_MAX, KEEPALIVE_AFTER, KEEPALIVE_TIME_MAX, LOGOUT_TIME_MAX,
    PARKED_REQUESTS_MAX, PING_BYTES_MAX, RECEIVE_SEGMENT_BYTES_MAX, SESSION_BUFFER_BYTES_MAX,
};
use crate::login::negotiation::Parameters;
use crate::pdu::async_message::{AsyncMessage, EVENT_LOGOUT_REQUEST};
use crate::pdu::logout::{LogoutRequest, LogoutResponse, Response as LogoutAnswer};
use crate::pdu::nop::{NopIn, NopOut};
use crate::pdu::reject::{Reason, Reject};
use crate::pdu::{self, Header, Numbers, RESERVED_TAG, opcode};
use crate::target::{Admitted, Target};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use command::Incoming;
use core::net::SocketAddr;
use core::time::Duration;
use data_out::DataPiece;
use exchange::Exchange;
use manage::{Running, Sweep};
use task::Tasks;
use window::{Place, Window};

/// What the session goes on with from login.
#[derive(Debug)]
pub(crate) struct Start {
    /// `None` for discovery.
    pub(crate) admitted: Option<Admitted>,
    pub(crate) initiator: String,
    pub(crate) local_address: SocketAddr,
    pub(crate) cid: u16,
    pub(crate) cmd_sn: u32,
    pub(crate) stat_sn: u32,
    pub(crate) parameters: Parameters,
}

/// What `finish` does with the PDU whose headers came.
#[derive(Debug)]
enum Current {
    Nothing,
    /// Any request but SCSI Command and Data-Out.
    Request(Header),
    Command(Incoming),
    Data(DataPiece),
    /// Refused for this reason.
    Refused(Header, Reason),
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Session {
    admitted: Option<Admitted>,
    initiator: String,
    local_address: SocketAddr,
    cid: u16,
    parameters: Parameters,
    window: Window,
    stat_sn: u32,
    tasks: Tasks,
    arrivals: u64,
    /// Ordered tasks that live; the hot path is zero.
    ordered: usize,
    buffer_bytes: usize,
    buffer_room: usize,
    /// Requests that came before an earlier one, by CmdSN; none has data.
    parked: BTreeMap<u32, Header>,
    parked_since: Duration,
    current: Current,
    functions: Vec<Running>,
    sweeps: Vec<Sweep>,
    exchange: Option<Exchange>,
    heard: Duration,
    ping_sent: Option<Duration>,
    ping_tag: u32,
    /// A logout that waits for tasks to be over.
    logout: Option<u32>,
    logout_wanted: Option<Duration>,
    closing: bool,
    disconnected: bool,
}

impl Session {
    pub(crate) fn new(start: Start, now: Duration) -> Self {
        Session {
            admitted: start.admitted,
            initiator: start.initiator,
            local_address: start.local_address,
            cid: start.cid,
            parameters: start.parameters,
            window: Window::new(start.cmd_sn),
            stat_sn: start.stat_sn,
            tasks: Tasks::default(),
            arrivals: 0,
            ordered: 0,
            buffer_bytes: 0,
            buffer_room: SESSION_BUFFER_BYTES_MAX,
            parked: BTreeMap::new(),
            parked_since: now,
            current: Current::Nothing,
            functions: Vec::new(),
            sweeps: Vec::new(),
            exchange: None,
            heard: now,
            ping_sent: None,
            ping_tag: 0,
            logout: None,
            logout_wanted: None,
            closing: false,
            disconnected: false,
        }
    }

    pub(crate) fn digests(&self) -> Digests {
        self.parameters.digests
    }

    pub(crate) fn set_buffer_room(&mut self, bytes: usize) {
        self.buffer_room = bytes.min(SESSION_BUFFER_BYTES_MAX);
    }

    /// Headers of a PDU, without digest.
    pub(crate) fn begin(
        &mut self,
        target: Option<&mut Target>,
        now: Duration,
        headers: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Segment {
        let header: &Header = headers
            .first_chunk::<HEADER_BYTES>()
            .expect("the driver gives whole headers");
        self.heard = now;
        self.ping_sent = None;
        self.current = Current::Nothing;
        let bytes = framing::data_bytes(header);
        if bytes > RECEIVE_SEGMENT_BYTES_MAX {
            self.close(
                CloseReason::Protocol("data segment longer than declared"),
                effects,
            );
        }
        if self.closing {
            return Segment::None;
        }
        match (pdu::opcode_of(header), target) {
            (opcode::SCSI_COMMAND, Some(target)) => {
                self.begin_command(target, now, header, effects)
            }
            (opcode::DATA_OUT, Some(target)) => self.begin_data(target, header),
            (
                opcode::NOP_OUT
                | opcode::TEXT_REQUEST
                | opcode::LOGOUT_REQUEST
                | opcode::TASK_MANAGEMENT_REQUEST,
                _,
            ) => self.begin_request(now, header, effects),
            (opcode::SNACK_REQUEST, Some(_)) => self.refuse(header, Reason::Snack),
            (opcode::LOGIN_REQUEST, _) => self.refuse(header, Reason::ProtocolError),
            _ => self.refuse(header, Reason::CommandNotSupported),
        }
    }

    /// The data segment of the PDU is where `begin` said.
    pub(crate) fn finish(
        &mut self,
        mut target: Option<&mut Target>,
        now: Duration,
        inline: &[u8],
        arrival: Arrival,
        effects: &mut Vec<Effect>,
    ) {
        if self.closing {
            return;
        }
        match (
            core::mem::replace(&mut self.current, Current::Nothing),
            target.as_deref_mut(),
        ) {
            (Current::Command(incoming), Some(target)) => {
                self.finish_command(target, now, incoming, (inline, arrival), effects);
            }
            (Current::Data(piece), Some(target)) => {
                self.finish_data(target, now, piece, (inline, arrival), effects);
            }
            (Current::Request(header), _) if arrival == Arrival::DigestError => {
                //= RFC 7143 §7.8
                //# A target that receives a PDU with a payload digest error MUST answer with a Reject with reason Data-Digest-Error and discard it.
                self.send_reject(&header, Reason::DataDigestError, effects);
                self.close(CloseReason::Protocol("data digest error"), effects);
            }
            (Current::Request(header), target) => {
                self.act(target, &header, inline, effects);
            }
            (Current::Refused(header, reason), _) => self.send_reject(&header, reason, effects),
            _ => {}
        }
        self.deliver_parked(target, now, effects);
    }

    pub(crate) fn tick(
        &mut self,
        target: Option<&mut Target>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        if self.closing {
            return;
        }
        let silent = now.saturating_sub(self.heard);
        let late = if self.logout_wanted.is_some_and(|deadline| now >= deadline) {
            Some(CloseReason::Shutdown)
        } else if target.is_none() && silent > DISCOVERY_TIME_MAX {
            Some(CloseReason::Timeout("discovery session"))
        } else if self.tasks.iter().any(|task| task.is_late(now)) {
            Some(CloseReason::Timeout("data of a write"))
        } else if !self.parked.is_empty() && now > self.parked_since + DATA_OUT_TIME_MAX {
            Some(CloseReason::Timeout("a missing CmdSN"))
        } else if self
            .ping_sent
            .is_some_and(|sent| now > sent + KEEPALIVE_TIME_MAX)
        {
            Some(CloseReason::Timeout("answer to NOP-In"))
        } else {
            None
        };
        match late {
            Some(reason) => self.close(reason, effects),
            None if target.is_some() && self.ping_sent.is_none() && silent >= KEEPALIVE_AFTER => {
                self.ping(now, effects);
            }
            None => {}
        }
    }

    pub(crate) fn shutdown(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.closing || self.logout_wanted.is_some() {
            return;
        }
        if self.admitted.is_none() {
            self.close(CloseReason::Shutdown, effects);
            return;
        }
        self.logout_wanted = Some(now + LOGOUT_TIME_MAX);
        let seconds = u16::try_from(LOGOUT_TIME_MAX.as_secs()).expect("a few seconds");
        let header = AsyncMessage {
            event: EVENT_LOGOUT_REQUEST,
            //= RFC 7143 §11.9.1
            //# Parameter3 indicates the amount of time the initiator has to send the Logout request.
            parameters: [0, 0, seconds],
            numbers: self.take_status_numbers(),
        }
        .encode();
        self.send(header, SendData::None, effects);
    }

    pub(crate) fn closed(&mut self, target: Option<&mut Target>, effects: &mut Vec<Effect>) {
        self.closing = true;
        self.disconnected = true;
        self.parked.clear();
        let (Some(target), Some(admitted)) = (target, self.admitted) else {
            return;
        };
        self.abort_all(target, effects);
        target.disconnected(admitted.key);
        self.leave_if_over(target, effects);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.disconnected && self.tasks.live() == 0
    }

    fn leave_if_over(&mut self, target: &mut Target, effects: &mut Vec<Effect>) {
        if self.is_over()
            && let Some(admitted) = self.admitted.take()
        {
            target.remove(admitted.key, effects);
        }
    }

    fn begin_request(
        &mut self,
        now: Duration,
        header: &Header,
        effects: &mut Vec<Effect>,
    ) -> Segment {
        let bytes = framing::data_bytes(header);
        if pdu::is_immediate(header) {
            self.current = Current::Request(*header);
            return inline(bytes);
        }
        // A NOP-Out that only answers us must be immediate; it has no number of its own.
        match self.window.place(pdu::cmd_sn(header)) {
            Place::Next => {
                self.window.advance();
                self.current = Current::Request(*header);
                inline(bytes)
            }
            Place::Early => self.park(now, header, effects),
            Place::Ignored => discard(bytes),
        }
    }

    /// Keeps a request that came before an earlier one.
    ///
    /// One TCP connection does not reorder, so only a confused host gets here; a request with data is
    /// not worth a buffer then.
    fn park(&mut self, now: Duration, header: &Header, effects: &mut Vec<Effect>) -> Segment {
        if framing::data_bytes(header) > 0 || self.parked.len() == PARKED_REQUESTS_MAX {
            self.close(CloseReason::Protocol("CmdSN out of order"), effects);
            return Segment::None;
        }
        if self.parked.is_empty() {
            self.parked_since = now;
        }
        self.parked.entry(pdu::cmd_sn(header)).or_insert(*header);
        Segment::None
    }

    fn deliver_parked(
        &mut self,
        mut target: Option<&mut Target>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        while !self.closing
            && let Some(header) = self.parked.remove(&self.window.expected())
        {
            let mut target = target.as_deref_mut();
            let is_command = pdu::opcode_of(&header) == opcode::SCSI_COMMAND;
            if let (true, Some(target)) = (is_command, target.as_deref_mut()) {
                self.begin_command(target, now, &header, effects);
                if let Current::Command(incoming) =
                    core::mem::replace(&mut self.current, Current::Nothing)
                {
                    self.finish_command(target, now, incoming, (&[], Arrival::Intact), effects);
                }
            } else {
                self.window.advance();
                self.act(target, &header, &[], effects);
            }
        }
    }

    fn act(
        &mut self,
        target: Option<&mut Target>,
        header: &Header,
        inline: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        match (pdu::opcode_of(header), target) {
            (opcode::NOP_OUT, _) => self.on_nop_out(NopOut::decode(header), inline, effects),
            (opcode::TEXT_REQUEST, target) => {
                self.on_text(target.as_deref(), header, inline, effects);
            }
            (opcode::LOGOUT_REQUEST, target) => {
                self.on_logout(target, LogoutRequest::decode(header), effects);
            }
            (opcode::TASK_MANAGEMENT_REQUEST, Some(target)) => {
                self.on_task_management(target, header, effects);
            }
            _ => self.send_reject(header, Reason::CommandNotSupported, effects),
        }
    }

    fn on_nop_out(&mut self, nop: NopOut, data: &[u8], effects: &mut Vec<Effect>) {
        //= RFC 7143 §11.18
        //# Upon receipt of a NOP-Out with the Initiator Task Tag set to the reserved value, the target MUST NOT respond.
        if nop.initiator_task_tag == RESERVED_TAG {
            return;
        }
        let room = usize::try_from(self.parameters.send_segment_bytes).unwrap_or(usize::MAX);
        let echo = &data[..data.len().min(room).min(PING_BYTES_MAX)];
        let header = NopIn {
            lun: nop.lun,
            initiator_task_tag: nop.initiator_task_tag,
            target_transfer_tag: RESERVED_TAG,
            numbers: self.take_status_numbers(),
        }
        .encode();
        let data = if echo.is_empty() {
            SendData::None
        } else {
            SendData::Bytes(echo.into())
        };
        self.send(header, data, effects);
    }

    fn ping(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.ping_sent = Some(now);
        self.ping_tag = self.ping_tag.wrapping_add(1) & 0x7FFF_FFFF;
        let header = NopIn {
            lun: [0; 8],
            initiator_task_tag: RESERVED_TAG,
            target_transfer_tag: self.ping_tag,
            //= RFC 7143 §11.19.2
            //# When the Initiator Task Tag is reserved, StatSN is the next one and is not advanced.
            numbers: self.numbers(),
        }
        .encode();
        self.send(header, SendData::None, effects);
    }

    fn on_logout(
        &mut self,
        target: Option<&mut Target>,
        request: LogoutRequest,
        effects: &mut Vec<Effect>,
    ) {
        let refusal = match request.reason {
            0 => None,
            1 | 2 if request.cid != self.cid => Some(LogoutAnswer::CidNotFound),
            1 => None,
            //= RFC 7143 §11.15.1
            //# 2 - Connection recovery is not supported (ErrorRecoveryLevel below 2).
            2 => Some(LogoutAnswer::RecoveryNotSupported),
            _ => Some(LogoutAnswer::CleanupFailed),
        };
        if let Some(answer) = refusal {
            self.send_logout_response(request.initiator_task_tag, answer, effects);
            return;
        }
        if let Some(target) = target {
            self.abort_all(target, effects);
        }
        self.logout = Some(request.initiator_task_tag);
        self.log_out_if_quiet(effects);
    }

    /// Answers a logout when no task is left.
    fn log_out_if_quiet(&mut self, effects: &mut Vec<Effect>) {
        if self.tasks.live() > 0 || self.closing {
            return;
        }
        if let Some(tag) = self.logout.take() {
            self.send_logout_response(tag, LogoutAnswer::Closed, effects);
            self.close(CloseReason::Logout, effects);
        }
    }

    fn send_logout_response(
        &mut self,
        initiator_task_tag: u32,
        answer: LogoutAnswer,
        effects: &mut Vec<Effect>,
    ) {
        let header = LogoutResponse {
            response: answer as u8,
            initiator_task_tag,
            numbers: self.take_status_numbers(),
        }
        .encode();
        self.send(header, SendData::None, effects);
    }

    /// Refuses a PDU when its data segment has been thrown away.
    fn refuse(&mut self, header: &Header, reason: Reason) -> Segment {
        self.current = Current::Refused(*header, reason);
        discard(framing::data_bytes(header))
    }

    fn send_reject(&mut self, refused: &Header, reason: Reason, effects: &mut Vec<Effect>) {
        let header = Reject {
            reason: reason as u8,
            numbers: self.take_status_numbers(),
        }
        .encode();
        //= RFC 7143 §11.17.4
        //# The data segment contains the header of the rejected PDU.
        self.send(header, SendData::Bytes(refused.to_vec()), effects);
    }

    fn close(&mut self, reason: CloseReason, effects: &mut Vec<Effect>) {
        if !self.closing {
            self.closing = true;
            effects.push(Effect::Close { reason });
        }
    }

    fn numbers(&self) -> Numbers {
        Numbers {
            stat_sn: self.stat_sn,
            exp_cmd_sn: self.window.expected(),
            max_cmd_sn: self.window.last(),
        }
    }

    /// Numbers of a PDU that uses up a StatSN.
    fn take_status_numbers(&mut self) -> Numbers {
        let numbers = self.numbers();
        self.stat_sn = self.stat_sn.wrapping_add(1);
        numbers
    }

    fn send(&self, mut header: Header, data: SendData, effects: &mut Vec<Effect>) {
        if self.disconnected {
            return;
        }
        let bytes = match &data {
            SendData::None => 0,
            SendData::Bytes(bytes) => bytes.len(),
            SendData::Task { bytes, .. } => *bytes,
        };
        pdu::put_data_bytes(&mut header, bytes);
        effects.push(Effect::Send(Outgoing {
            header,
            data,
            digests: self.parameters.digests,
        }));
    }
}

fn inline(bytes: usize) -> Segment {
    if bytes == 0 {
        Segment::None
    } else {
        Segment::Inline { bytes }
    }
}

fn discard(bytes: usize) -> Segment {
    if bytes == 0 {
        Segment::None
    } else {
        Segment::Discard { bytes }
    }
}

/// Bytes of the task buffer as an index.
fn index(bytes: u32) -> usize {
    usize::try_from(bytes).expect("32 bits fit")
}

fn task_segment(task: TaskTag, at: u32, need: u32, bytes: usize) -> Segment {
    let kept = index(need.saturating_sub(at)).min(bytes);
    if kept == 0 {
        return discard(bytes);
    }
    Segment::Task {
        task,
        offset: index(at),
        bytes: kept,
        excess: bytes - kept,
    }
}

#[cfg(test)]
mod tests;
