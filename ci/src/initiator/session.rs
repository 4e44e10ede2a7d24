//! A full-feature session: many commands outstanding, data both ways, NOP, text, task management.
//!
//! The caller submits commands and asks for completions; every completion comes once. A session
//! that failed stays failed. Data-In lands in one buffer per command.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::Error;
use super::login::{self, Agreed, Keys, Options};
use super::pdu::{Pdu, RESERVED_TAG, opcode};
use super::scsi::{Command, STATUS_GOOD, Sense, Transfer};
use super::wire::Wire;

/// Names a command of one session until it completes.
pub(crate) type Tag = u32;

/// How a command ended.
#[derive(Clone, Debug)]
pub(crate) struct Completion {
    pub(crate) tag: Tag,
    pub(crate) status: u8,
    pub(crate) sense: Option<Sense>,
    /// What came in, cut to what the target sent.
    pub(crate) data: Vec<u8>,
}

impl Completion {
    /// `Ok` when the status is GOOD, else what the target said.
    pub(crate) fn good(self) -> Result<Vec<u8>, String> {
        match (self.status, self.sense) {
            (STATUS_GOOD, _) => Ok(self.data),
            (status, None) => Err(format!("status {status:#04x}")),
            (status, Some(sense)) => Err(format!("status {status:#04x}, sense {sense}")),
        }
    }
}

/// Task management functions, RFC 7143 section 11.5.1.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TaskManagement {
    AbortTask(Tag),
    LunReset,
}

#[derive(Debug)]
struct Outstanding {
    transfer: Transfer,
    data_in: Vec<u8>,
    received: usize,
    command_sn: u32,
}

/// A logged-in session.
#[derive(Debug)]
pub(crate) struct Session {
    wire: Wire,
    agreed: Agreed,
    timeout: Duration,
    lun: u8,
    next_tag: Tag,
    command_sn: u32,
    command_sn_max: u32,
    status_sn_next: u32,
    outstanding: HashMap<Tag, Outstanding>,
    completed: VecDeque<Completion>,
    /// Answers to NOP-Out, text, task management and logout, by task tag.
    answers: HashMap<Tag, Pdu>,
    /// Asynchronous events seen, oldest first.
    pub(crate) async_events: Vec<u8>,
}

impl Session {
    /// Connects and logs in.
    pub(crate) fn login(options: &Options) -> Result<Self, Error> {
        let mut wire = Wire::connect(options.portal, options.timeout)?;
        let agreed = login::login(&mut wire, options)?;
        Ok(Self {
            wire,
            timeout: options.timeout,
            lun: options.lun,
            next_tag: 0x100,
            command_sn: agreed.command_sn,
            command_sn_max: agreed.command_sn_max,
            status_sn_next: agreed.status_sn.wrapping_add(1),
            agreed,
            outstanding: HashMap::new(),
            completed: VecDeque::new(),
            answers: HashMap::new(),
            async_events: Vec::new(),
        })
    }

    /// The connection below, for lanes that break the rules on purpose.
    pub(crate) fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Numbers a hostile lane needs to sound like this session: next CmdSN, last MaxCmdSN, ExpStatSN.
    pub(crate) fn numbers(&self) -> (u32, u32, u32) {
        (self.command_sn, self.command_sn_max, self.status_sn_next)
    }

    /// Bounds each wait for room to send from now on.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Commands that did not complete yet.
    pub(crate) fn outstanding_count(&self) -> usize {
        self.outstanding.len()
    }

    /// Sends a command; waits only while the target's command window is closed.
    pub(crate) fn submit(&mut self, command: Command) -> Result<Tag, Error> {
        let started = Instant::now();
        while self.command_sn_max.wrapping_sub(self.command_sn) > i32::MAX.cast_unsigned() {
            if started.elapsed() > self.timeout {
                return Err(Error::TimedOut("waiting for the command window"));
            }
            self.pump(Duration::from_millis(100))?;
        }
        let tag = self.take_tag();
        let mut pdu = self.command_pdu(&command, tag);
        let unsolicited = self.attach_data(&mut pdu, &command.transfer);
        let command_sn = self.command_sn;
        self.command_sn = self.command_sn.wrapping_add(1);
        let data_in = match &command.transfer {
            Transfer::In(bytes) => vec![0; *bytes],
            Transfer::None | Transfer::Out(_) => Vec::new(),
        };
        let from = pdu.data.len();
        let task = Outstanding {
            transfer: command.transfer,
            data_in,
            received: 0,
            command_sn,
        };
        self.outstanding.insert(tag, task);
        self.wire.send(&pdu, self.timeout)?;
        if unsolicited > from {
            self.send_data(tag, RESERVED_TAG, from, unsolicited)?;
        }
        Ok(tag)
    }

    /// The next completion, or `None` when there is none within `timeout`.
    pub(crate) fn complete(&mut self, timeout: Duration) -> Result<Option<Completion>, Error> {
        let started = Instant::now();
        loop {
            if let Some(completion) = self.completed.pop_front() {
                return Ok(Some(completion));
            }
            let left = timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            self.pump(left)?;
        }
    }

    /// One command alone, to its end. Only for sessions with nothing else outstanding.
    pub(crate) fn execute(&mut self, command: Command) -> Result<Completion, Error> {
        assert!(
            self.outstanding.is_empty(),
            "execute is for an idle session"
        );
        let tag = self.submit(command)?;
        let completion = self.complete(self.timeout)?;
        let completion = completion.ok_or(Error::TimedOut("waiting for a command to end"))?;
        assert_eq!(completion.tag, tag);
        Ok(completion)
    }

    /// NOP-Out with these ping data; the echo.
    pub(crate) fn ping(&mut self, data: &[u8]) -> Result<Vec<u8>, Error> {
        let tag = self.take_tag();
        let mut pdu = self.request(opcode::NOP_OUT, 0x80, tag);
        pdu.set_immediate();
        pdu.put_u32(20, RESERVED_TAG);
        pdu.data = data.to_vec();
        self.wire.send(&pdu, self.timeout)?;
        Ok(self.answer(tag)?.data)
    }

    /// A text request of one PDU; the answer's keys.
    pub(crate) fn text(&mut self, text: &str) -> Result<Keys, Error> {
        let tag = self.take_tag();
        let mut pdu = self.request(opcode::TEXT, 0x80, tag);
        pdu.set_immediate();
        pdu.put_u32(20, RESERVED_TAG);
        pdu.data = text.as_bytes().to_vec();
        self.wire.send(&pdu, self.timeout)?;
        Ok(login::parse_keys(&self.answer(tag)?.data))
    }

    /// A task management function; the response code.
    pub(crate) fn manage(&mut self, function: TaskManagement) -> Result<u8, Error> {
        let tag = self.take_tag();
        let code = match function {
            TaskManagement::AbortTask(_) => 1,
            TaskManagement::LunReset => 5,
        };
        let mut pdu = self.request(opcode::TASK_MANAGEMENT, 0x80 | code, tag);
        pdu.set_immediate();
        pdu.put_u32(20, RESERVED_TAG);
        if let TaskManagement::AbortTask(aborted) = function {
            let task = self.outstanding.get(&aborted);
            let command_sn = task.map_or(self.command_sn.wrapping_sub(1), |task| task.command_sn);
            pdu.put_u32(20, aborted);
            pdu.put_u32(32, command_sn);
        }
        self.wire.send(&pdu, self.timeout)?;
        let response = self.answer(tag)?.header[2];
        if response == 0 {
            match function {
                TaskManagement::AbortTask(aborted) => drop(self.outstanding.remove(&aborted)),
                TaskManagement::LunReset => self.outstanding.clear(),
            }
        }
        Ok(response)
    }

    /// Closes the session in order.
    pub(crate) fn logout(mut self) -> Result<(), Error> {
        let tag = self.take_tag();
        let mut pdu = self.request(opcode::LOGOUT, 0x80, tag);
        pdu.set_immediate();
        self.wire.send(&pdu, self.timeout)?;
        match self.answer(tag)?.header[2] {
            0 => Ok(()),
            code => Err(Error::Protocol(format!("logout answered with {code}"))),
        }
    }

    /// A PDU of this session with its numbers filled in.
    pub(crate) fn request(&self, opcode: u8, flags: u8, tag: Tag) -> Pdu {
        let mut pdu = Pdu::new(opcode);
        pdu.header[1] = flags;
        if matches!(opcode, opcode::SCSI_COMMAND | opcode::TASK_MANAGEMENT) {
            pdu.header[9] = self.lun;
        }
        pdu.put_u32(16, tag);
        pdu.put_u32(24, self.command_sn);
        pdu.put_u32(28, self.status_sn_next);
        pdu
    }

    /// A tag that is not in use.
    pub(crate) fn take_tag(&mut self) -> Tag {
        let tag = self.next_tag;
        self.next_tag = if tag >= 0x7fff_ffff { 0x100 } else { tag + 1 };
        tag
    }

    fn command_pdu(&self, command: &Command, tag: Tag) -> Pdu {
        let (flags, bytes) = match &command.transfer {
            Transfer::None => (0x80, 0),
            Transfer::In(bytes) => (0x80 | 0x40, *bytes),
            Transfer::Out(data) => (0x80 | 0x20, data.len()),
        };
        // Attribute SIMPLE.
        let mut pdu = self.request(opcode::SCSI_COMMAND, flags | 1, tag);
        pdu.put_u32(
            20,
            u32::try_from(bytes).expect("a command moves less than 4 GiB"),
        );
        pdu.header[32..48].copy_from_slice(&command.cdb);
        pdu
    }

    /// Puts immediate data into the command; returns where unsolicited data ends.
    fn attach_data(&self, pdu: &mut Pdu, transfer: &Transfer) -> usize {
        let Transfer::Out(data) = transfer else {
            return 0;
        };
        let first_burst = data.len().min(self.agreed.first_burst);
        let immediate = match self.agreed.immediate_data {
            true => first_burst.min(self.agreed.send_segment_max),
            false => 0,
        };
        pdu.data = data[..immediate].to_vec();
        let unsolicited = if self.agreed.initial_r2t {
            immediate
        } else {
            first_burst
        };
        if unsolicited > immediate {
            pdu.header[1] &= !0x80;
        }
        unsolicited
    }

    /// Sends a sequence of Data-Out for `start..end` of the command's data.
    fn send_data(
        &mut self,
        tag: Tag,
        transfer_tag: u32,
        start: usize,
        end: usize,
    ) -> Result<(), Error> {
        let mut offset = start;
        let mut data_sn = 0u32;
        while offset < end {
            let Some(task) = self.outstanding.get(&tag) else {
                return Ok(());
            };
            let Transfer::Out(data) = &task.transfer else {
                return Err(Error::Protocol(
                    "R2T for a command that writes nothing".into(),
                ));
            };
            let stop = end.min(offset + self.agreed.send_segment_max);
            if stop > data.len() {
                return Err(Error::Protocol(format!(
                    "R2T up to byte {end} of {}",
                    data.len()
                )));
            }
            let mut pdu = Pdu::new(opcode::DATA_OUT);
            pdu.header[9] = self.lun;
            pdu.header[1] = if stop == end { 0x80 } else { 0 };
            pdu.put_u32(16, tag);
            pdu.put_u32(20, transfer_tag);
            pdu.put_u32(28, self.status_sn_next);
            pdu.put_u32(36, data_sn);
            pdu.put_u32(40, u32::try_from(offset).expect("checked by command_pdu"));
            pdu.data = data[offset..stop].to_vec();
            self.wire.send(&pdu, self.timeout)?;
            data_sn += 1;
            offset = stop;
        }
        Ok(())
    }

    fn answer(&mut self, tag: Tag) -> Result<Pdu, Error> {
        let started = Instant::now();
        loop {
            if let Some(answer) = self.answers.remove(&tag) {
                return Ok(answer);
            }
            let left = self.timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(Error::TimedOut("waiting for an answer"));
            }
            self.pump(left)?;
        }
    }

    /// Takes in one PDU, if one comes within `timeout`.
    fn pump(&mut self, timeout: Duration) -> Result<(), Error> {
        let Some(pdu) = self.wire.receive(timeout)? else {
            return Ok(());
        };
        match pdu.opcode() {
            opcode::SCSI_RESPONSE => self.on_response(&pdu),
            opcode::DATA_IN => self.on_data_in(&pdu),
            opcode::R2T => self.on_r2t(&pdu),
            opcode::NOP_IN => self.on_nop_in(pdu),
            opcode::ASYNC_MESSAGE => {
                self.note_status(&pdu);
                self.async_events.push(pdu.header[36]);
                Ok(())
            }
            opcode::REJECT => Err(Error::Rejected {
                reason: pdu.header[2],
            }),
            opcode::TEXT_RESPONSE | opcode::TASK_MANAGEMENT_RESPONSE | opcode::LOGOUT_RESPONSE => {
                self.note_status(&pdu);
                self.answers.insert(pdu.task_tag(), pdu);
                Ok(())
            }
            other => Err(Error::Protocol(format!("unexpected opcode {other:#04x}"))),
        }
    }

    fn on_response(&mut self, pdu: &Pdu) -> Result<(), Error> {
        self.note_status(pdu);
        let tag = pdu.task_tag();
        let Some(task) = self.outstanding.remove(&tag) else {
            return Err(Error::Protocol(format!(
                "a response to {tag:#x}, which is not open"
            )));
        };
        if pdu.header[2] != 0 {
            return Err(Error::Protocol(format!(
                "iSCSI response code {:#04x}",
                pdu.header[2]
            )));
        }
        let sense = pdu.data.get(2..).and_then(Sense::parse);
        self.finish(tag, task, pdu.header[3], sense);
        Ok(())
    }

    fn on_data_in(&mut self, pdu: &Pdu) -> Result<(), Error> {
        let tag = pdu.task_tag();
        let offset = usize::try_from(pdu.u32_at(40)).expect("32 bits fit");
        let Some(task) = self.outstanding.get_mut(&tag) else {
            return Err(Error::Protocol(format!(
                "data for {tag:#x}, which is not open"
            )));
        };
        let end = offset + pdu.data.len();
        // DataPDUInOrder=Yes: anything but the next byte is a lost or repeated segment.
        if offset != task.received || end > task.data_in.len() {
            return Err(Error::Protocol(format!(
                "data-in at {offset}..{end} out of order"
            )));
        }
        task.data_in[offset..end].copy_from_slice(&pdu.data);
        task.received = end;
        if pdu.header[1] & 0x01 != 0 {
            self.note_status(pdu);
            let task = self.outstanding.remove(&tag).expect("found above");
            self.finish(tag, task, pdu.header[3], None);
        } else {
            self.note_window(pdu);
        }
        Ok(())
    }

    fn finish(&mut self, tag: Tag, task: Outstanding, status: u8, sense: Option<Sense>) {
        let mut data = task.data_in;
        data.truncate(task.received);
        self.completed.push_back(Completion {
            tag,
            status,
            sense,
            data,
        });
    }

    fn on_r2t(&mut self, pdu: &Pdu) -> Result<(), Error> {
        self.note_window(pdu);
        let start = usize::try_from(pdu.u32_at(40)).expect("32 bits fit");
        let bytes = usize::try_from(pdu.u32_at(44)).expect("32 bits fit");
        if bytes == 0 || bytes > self.agreed.max_burst {
            return Err(Error::Protocol(format!("R2T for {bytes} bytes")));
        }
        self.send_data(pdu.task_tag(), pdu.u32_at(20), start, start + bytes)
    }

    fn on_nop_in(&mut self, pdu: Pdu) -> Result<(), Error> {
        let tag = pdu.task_tag();
        if tag != RESERVED_TAG {
            self.note_status(&pdu);
            self.answers.insert(tag, pdu);
            return Ok(());
        }
        self.note_window(&pdu);
        let transfer_tag = pdu.u32_at(20);
        if transfer_tag == RESERVED_TAG {
            return Ok(());
        }
        let mut pong = self.request(opcode::NOP_OUT, 0x80, RESERVED_TAG);
        pong.set_immediate();
        pong.put_u32(20, transfer_tag);
        pong.data = pdu.data;
        self.wire.send(&pong, self.timeout)
    }

    fn note_status(&mut self, pdu: &Pdu) {
        self.status_sn_next = pdu.u32_at(24).wrapping_add(1);
        self.note_window(pdu);
    }

    fn note_window(&mut self, pdu: &Pdu) {
        let max = pdu.u32_at(32);
        if max.wrapping_sub(self.command_sn_max) <= i32::MAX.cast_unsigned() {
            self.command_sn_max = max;
        }
    }
}
