//! SCSI commands: from the header to the unit, to the driver and back. Hot path.
//!
//! A 4 KiB write costs one `StartTask`, `Execute`, `Send` and `EndTask`, a read the same without the
//! first; neither allocates here.

use crate::connection::Arrival;
use crate::effect::{Effect, Segment, TaskTag};
use crate::framing;
use crate::limits::{DATA_OUT_TIME_MAX, IMMEDIATE_COMMANDS_MAX};
use crate::pdu::reject::Reason;
use crate::pdu::scsi::{Attribute, ScsiCommand};
use crate::pdu::{Header, RESERVED_TAG};
use crate::request::BlockResponse;
use crate::scsi::nexus::Lun;
use crate::scsi::reply::{Dispatch, Reply, Status, Transfer};
use crate::scsi::sense::{AdditionalSense, Sense, SenseKey};
use crate::scsi::unit::Started;
use crate::session::task::{Inbound, State, Task};
use crate::session::window::Place;
use crate::session::{Current, Session, discard, index, inline, task_segment};
use crate::target::{Notice, Target};
use alloc::vec::Vec;
use core::time::Duration;

/// A command whose data segment is on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming {
    task: TaskTag,
    immediate_bytes: u32,
    is_final: bool,
}

/// What the unit made of a command before any data came.
struct Plan {
    started: Option<(crate::scsi::cdb::Command, Transfer)>,
    /// What the CDB asks for; residuals count against it.
    original: Transfer,
    verdict: Option<Reply>,
}

impl Session {
    pub(super) fn begin_command(
        &mut self,
        target: &mut Target,
        now: Duration,
        header: &Header,
        effects: &mut Vec<Effect>,
    ) -> Segment {
        let command = ScsiCommand::decode(header);
        let bytes = framing::data_bytes(header);
        if !command.immediate {
            match self.window.place(command.cmd_sn) {
                Place::Next => {}
                Place::Early => return self.park(now, header, effects),
                Place::Ignored => return discard(bytes),
            }
            self.window.advance();
        }
        if command.initiator_task_tag == RESERVED_TAG {
            return self.refuse(header, Reason::InvalidField);
        }
        //= RFC 7143 §11.17.1
        //# 0x07 Task in progress: the Initiator Task Tag is in use.
        if self.tasks.find(command.initiator_task_tag).is_some() {
            return self.refuse(header, Reason::TaskInProgress);
        }
        if command.immediate && self.immediate_live() >= IMMEDIATE_COMMANDS_MAX {
            return self.refuse(header, Reason::TooManyImmediate);
        }
        let plan = self.plan(target, &command, bytes);
        let tag = self.open_task(&command, plan, now, effects);
        let immediate_bytes = u32::try_from(bytes).expect("segments have 24 bits");
        self.current = Current::Command(Incoming {
            task: tag,
            immediate_bytes,
            is_final: command.is_final,
        });
        self.place(tag, 0, bytes)
    }

    pub(super) fn finish_command(
        &mut self,
        target: &mut Target,
        now: Duration,
        incoming: Incoming,
        (data, arrival): (&[u8], Arrival),
        effects: &mut Vec<Effect>,
    ) {
        let initial_r2t = self.parameters.initial_r2t;
        // An abort may have come between the two halves only from another session.
        let Some(task) = self.tasks.get_mut(incoming.task) else {
            return;
        };
        task.take_parameters(data);
        task.inbound.received = incoming.immediate_bytes;
        task.inbound.unsolicited = !incoming.is_final && task.write;
        if task.inbound.unsolicited && initial_r2t && task.verdict.is_none() {
            task.verdict = Some(unexpected_data(target));
        }
        if arrival == Arrival::DigestError {
            task.verdict = Some(target.unit.refuse(&crc_error()));
        }
        self.advance(target, now, incoming.task, effects);
    }

    /// Goes on with a task after data came: answers, asks for more, or runs it.
    pub(super) fn advance(
        &mut self,
        target: &mut Target,
        now: Duration,
        tag: TaskTag,
        effects: &mut Vec<Effect>,
    ) {
        let task = self.tasks.at(tag);
        task.deadline = now + DATA_OUT_TIME_MAX;
        if task.inbound.unsolicited {
            return;
        }
        if task.verdict.is_some() {
            //= RFC 7143 §11.4.2
            //# The target waits with the response until it has received all data that it asked for.
            if !task.inbound.is_open()
                && let Some(reply) = task.verdict.take()
            {
                self.respond(target, tag, reply, effects);
            }
        } else if task.inbound.received < task.inbound.need {
            self.ask(tag, effects);
        } else if !task.inbound.is_open() {
            task.state = State::Queued;
            self.run_if_its_turn(target, tag, effects);
        }
    }

    /// The driver's answer.
    pub(crate) fn completed(
        &mut self,
        target: &mut Target,
        tag: TaskTag,
        response: BlockResponse,
        effects: &mut Vec<Effect>,
    ) {
        let Some(admitted) = self.admitted else {
            return;
        };
        let task = self.tasks.at(tag);
        assert!(task.state == State::Executing);
        let command = task.command.as_ref().expect("it was executed");
        // An aborted command's answer matters to the unit, which may have to save reservations.
        let reply = target.unit.finish(admitted.nexus, command, response);
        if task.aborted {
            self.end(target, tag, effects);
            self.swept(target, tag, effects);
            self.log_out_if_quiet(effects);
            self.leave_if_over(target, effects);
        } else {
            self.respond(target, tag, reply, effects);
        }
    }

    /// Runs what waited for the task that has just ended.
    pub(super) fn run_queued(&mut self, target: &mut Target, effects: &mut Vec<Effect>) {
        let mut queued: Vec<(u64, TaskTag)> = self
            .tasks
            .iter()
            .filter(|task| task.state == State::Queued && !task.aborted)
            .map(|task| (task.arrival, task.tag))
            .collect();
        queued.sort_unstable_by_key(|&(arrival, _)| arrival);
        for (_, tag) in queued {
            if self
                .tasks
                .get(tag)
                .is_some_and(|task| task.state == State::Queued)
            {
                self.run_if_its_turn(target, tag, effects);
            }
        }
    }

    fn run_if_its_turn(&mut self, target: &mut Target, tag: TaskTag, effects: &mut Vec<Effect>) {
        if self.ordered > 0 && self.must_wait(tag) {
            return;
        }
        let nexus = self.admitted.expect("a normal session").nexus;
        let task = self.tasks.at(tag);
        task.state = State::Executing;
        let command = task.command.as_ref().expect("the unit accepted it");
        let executed = target.unit.execute(nexus, command, &task.parameters);
        for nexus in executed.aborted {
            target.post_to_nexus(nexus, Notice::Abort(None), effects);
        }
        match executed.dispatch {
            Dispatch::Complete(reply) => self.respond(target, tag, reply, effects),
            Dispatch::Block(request) => {
                self.tasks.at(tag).with_driver = true;
                effects.push(Effect::Execute { task: tag, request });
            }
        }
    }

    /// SAM-5 8.6: ordered tasks wait for all older ones, simple ones for older ordered ones.
    fn must_wait(&self, tag: TaskTag) -> bool {
        let Some(task) = self.tasks.get(tag) else {
            return false;
        };
        let older = |other: &&Task| other.arrival < task.arrival;
        match task.attribute {
            Attribute::HeadOfQueue => false,
            Attribute::Ordered => self.tasks.iter().any(|other| older(&other)),
            Attribute::Simple => self
                .tasks
                .iter()
                .any(|other| older(&other) && other.attribute == Attribute::Ordered),
        }
    }

    fn plan(&mut self, target: &mut Target, command: &ScsiCommand, bytes: usize) -> Plan {
        let nexus = self.admitted.expect("a normal session").nexus;
        let mut plan = match target.unit.start(nexus, Lun(command.lun), &command.cdb) {
            Started::Complete(reply) => Plan {
                started: None,
                original: Transfer::None,
                verdict: Some(reply),
            },
            Started::Accepted(accepted) => {
                let original = accepted.transfer;
                let offered = if command.write {
                    command.expected_bytes
                } else {
                    0
                };
                match target.unit.announced(accepted, offered) {
                    Ok(accepted) => Plan {
                        started: Some((accepted.command, accepted.transfer)),
                        original,
                        verdict: None,
                    },
                    Err(sense) => Plan {
                        started: None,
                        original,
                        verdict: Some(target.unit.refuse(&sense)),
                    },
                }
            }
        };
        if let Some(reply) = self.objection(target, command, bytes, &plan) {
            plan.verdict = Some(reply);
        }
        plan
    }

    /// What the protocol has against a command that the unit accepts.
    fn objection(
        &self,
        target: &Target,
        command: &ScsiCommand,
        bytes: usize,
        plan: &Plan,
    ) -> Option<Reply> {
        plan.started.as_ref()?;
        if command.read && command.write {
            // No command of the unit moves data both ways.
            let sense = Sense::illegal(AdditionalSense::INVALID_FIELD_IN_INFORMATION_UNIT);
            return Some(target.unit.refuse(&sense));
        }
        let unsolicited = self.unsolicited_bytes_max(command.expected_bytes);
        //= RFC 7143 §13.11
        //# Immediate data is allowed only when ImmediateData=Yes was negotiated, and at most FirstBurstLength of it.
        let legal = command.write && self.parameters.immediate_data && bytes <= index(unsolicited);
        if bytes > 0 && !legal {
            return Some(unexpected_data(target));
        }
        let buffer = plan.buffer_bytes();
        if buffer > 0 && self.buffer_bytes + buffer > self.buffer_room && self.buffer_bytes > 0 {
            return Some(Reply::status(Status::TaskSetFull));
        }
        None
    }

    pub(super) fn unsolicited_bytes_max(&self, expected_bytes: u32) -> u32 {
        self.parameters.first_burst_bytes.min(expected_bytes)
    }

    fn open_task(
        &mut self,
        command: &ScsiCommand,
        plan: Plan,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> TaskTag {
        let tag = self
            .tasks
            .reserve()
            .expect("window and immediate bound are its size");
        if !command.immediate {
            self.window.open();
        }
        if command.attribute == Attribute::Ordered {
            self.ordered += 1;
        }
        self.arrivals += 1;
        let buffer_bytes = if plan.verdict.is_none() {
            plan.buffer_bytes()
        } else {
            0
        };
        if buffer_bytes > 0 {
            self.buffer_bytes += buffer_bytes;
            effects.push(Effect::StartTask {
                task: tag,
                buffer_bytes,
            });
        }
        let need = plan.need();
        self.tasks.insert(Task {
            tag,
            initiator_task_tag: command.initiator_task_tag,
            lun: command.lun,
            attribute: command.attribute,
            numbered: !command.immediate,
            arrival: self.arrivals,
            state: State::Collecting,
            command: plan.started.map(|(command, _)| command),
            transfer: plan.original,
            read: command.read,
            write: command.write,
            expected_bytes: command.expected_bytes,
            inbound: Inbound {
                need,
                ..Inbound::default()
            },
            parameters: Vec::new(),
            verdict: plan.verdict,
            aborted: false,
            buffer_bytes,
            with_driver: buffer_bytes > 0,
            deadline: now + DATA_OUT_TIME_MAX,
        });
        tag
    }

    /// Where data of a task goes that begins at byte `at` of the command's data.
    pub(super) fn place(&mut self, tag: TaskTag, at: u32, bytes: usize) -> Segment {
        let task = self.tasks.at(tag);
        if task.verdict.is_some() {
            return discard(bytes);
        }
        if task.buffer_bytes > 0 {
            return task_segment(tag, at, task.inbound.need, bytes);
        }
        if task.inbound.need > 0 {
            return inline(bytes);
        }
        discard(bytes)
    }

    fn immediate_live(&self) -> usize {
        self.tasks.iter().filter(|task| !task.numbered).count()
    }
}

impl Plan {
    /// Bytes that the host sends and the command takes.
    fn need(&self) -> u32 {
        match self.started {
            Some((
                _,
                Transfer::PayloadFromHost { bytes } | Transfer::ParametersFromHost { bytes },
            )) if self.verdict.is_none() => bytes,
            _ => 0,
        }
    }

    fn buffer_bytes(&self) -> usize {
        match self.started {
            Some((_, Transfer::PayloadFromHost { bytes })) => index(bytes),
            _ => 0,
        }
    }
}

impl Task {
    /// Keeps as much of a parameter list as the command takes.
    pub(super) fn take_parameters(&mut self, data: &[u8]) {
        if self.verdict.is_none() && self.buffer_bytes == 0 {
            let room = index(self.inbound.need).saturating_sub(self.parameters.len());
            self.parameters
                .extend_from_slice(&data[..data.len().min(room)]);
        }
    }

    /// Whether its data from the host is overdue.
    pub(super) fn is_late(&self, now: Duration) -> bool {
        self.state == State::Collecting && now > self.deadline
    }
}

/// RFC 7143 §11.4.7.2: unexpected unsolicited data.
pub(super) fn unexpected_data(target: &Target) -> Reply {
    target.unit.refuse(&Sense::new(
        SenseKey::AbortedCommand,
        AdditionalSense::UNEXPECTED_UNSOLICITED_DATA,
    ))
}

/// RFC 7143 §11.4.7.2: incorrect amount of data.
pub(super) fn wrong_amount(target: &Target) -> Reply {
    target.unit.refuse(&Sense::new(
        SenseKey::AbortedCommand,
        AdditionalSense::NOT_ENOUGH_UNSOLICITED_DATA,
    ))
}

/// RFC 7143 §11.4.7.2: protocol service CRC error.
pub(super) fn crc_error() -> Sense {
    Sense::new(
        SenseKey::AbortedCommand,
        AdditionalSense::PROTOCOL_SERVICE_CRC_ERROR,
    )
}
